//! Complaints that come in, notifications that go out.
#![expect(clippy::unwrap_used, reason = "tests")]

use mail::address::Address;
use mail::bounce::{Action, Category, Incoming, NotABounce, read};
use mail::compose::Stamp;
use mail::report::{Dsn, DsnRecipient, FeedbackType, compose_dsn, read_complaint};
use mail::smtp::OriginalRecipient;

fn feedback(fields: &str, returned: &str) -> Vec<u8> {
    format!(
        "From: <fbl@isp.example>\r\nTo: <b+x@bounce.sender.example>\r\nSubject: FW: Your order\r\nMIME-Version: 1.0\r\n\
         Content-Type: multipart/report; report-type=feedback-report; boundary=\"B\"\r\n\r\n\
         --B\r\nContent-Type: text/plain\r\n\r\nThis is an abuse report.\r\n\
         --B\r\nContent-Type: message/feedback-report\r\n\r\n{fields}\r\n{returned}--B--\r\n"
    )
    .into_bytes()
}

const RETURNED: &str = "--B\r\nContent-Type: message/rfc822\r\n\r\nFrom: <shop@sender.example>\r\nTo: <bob@isp.example>\r\n\
                        Message-ID: <order-1@sender.example>\r\nX-Order-ID: 7\r\nSubject: Your order\r\n\r\nHello\r\n";
const ABUSE: &str = "Feedback-Type: abuse\r\nUser-Agent: SomeGenerator/1.0\r\nVersion: 1\r\nOriginal-Mail-From: <b+x@bounce.sender.example>\r\n\
                     Original-Rcpt-To: <bob@isp.example>\r\nArrival-Date: Tue, 01 Jul 2025 10:52:37 +0000\r\nSource-IP: 192.0.2.1\r\nIncidents: 3\r\n";

#[test]
fn a_complaint_says_who_complained_of_what() {
    let raw = feedback(ABUSE, RETURNED);
    let complaint = read_complaint(&raw).unwrap();
    assert_eq!(complaint.feedback_type, FeedbackType::Abuse);
    assert_eq!(complaint.recipients, [Address::parse("bob@isp.example").unwrap()]);
    assert_eq!(complaint.mail_from.as_deref(), Some("b+x@bounce.sender.example"));
    assert_eq!((complaint.source_ip.as_deref(), complaint.incidents), (Some("192.0.2.1"), 3));
    assert_eq!(complaint.original.message_id.as_deref(), Some("order-1@sender.example"));
    assert_eq!(read(&raw), Incoming::NotABounce(NotABounce::Complaint));
}

#[test]
fn complaints_come_redacted_bare_and_in_old_forms() {
    let redacted = ABUSE.replace("bob@isp.example", "redacted@isp.example");
    let hidden = RETURNED.replace("To: <bob@isp.example>", "To: <redacted@isp.example>");
    let complaint = read_complaint(&feedback(&redacted, &hidden)).unwrap();
    assert!(complaint.recipients.is_empty());
    assert_eq!(complaint.original.id_fields, [("X-Order-ID".to_owned(), "7".to_owned())]);
    let headers_only = RETURNED.replace("message/rfc822", "text/rfc822-headers");
    assert!(read_complaint(&feedback(ABUSE, &headers_only)).unwrap().original.message_id.is_some());
    let without = read_complaint(&feedback(ABUSE, "")).unwrap();
    assert_eq!((without.recipients.len(), without.original.message_id), (1, None));
    let jmrp = "From: <staff@hotmail.example>\r\nSubject: complaint about message from 192.0.2.7\r\nMIME-Version: 1.0\r\n\
                Content-Type: multipart/mixed; boundary=B\r\n\r\n--B\r\nContent-Type: message/rfc822\r\n\r\n\
                X-HmXmrOriginalRecipient: bob@hotmail.example\r\nFrom: <shop@sender.example>\r\nMessage-ID: <order-2@sender.example>\r\n\r\nx\r\n--B--\r\n";
    let complaint = read_complaint(jmrp.as_bytes()).unwrap();
    assert_eq!(
        (complaint.recipients[0].as_str(), complaint.source_ip.as_deref()),
        ("bob@hotmail.example", Some("192.0.2.7"))
    );
    assert_eq!(complaint.original.message_id.as_deref(), Some("order-2@sender.example"));
    assert_eq!(read_complaint(b"From: bob@isp.example\r\nSubject: I complain\r\n\r\nabuse\r\n"), None);
}

#[test]
fn only_some_reports_suppress() {
    let kinds = [
        ("abuse", true),
        ("opt-out", true),
        ("fraud", true),
        ("not-spam", false),
        ("auth-failure", false),
        ("new", false),
    ];
    for (kind, suppresses) in kinds {
        let raw = feedback(&ABUSE.replace("Type: abuse", &format!("Type: {kind}")), RETURNED);
        assert_eq!(read_complaint(&raw).unwrap().feedback_type.suppresses(), suppresses, "{kind}");
    }
}

#[test]
fn our_notifications_are_read_back_by_our_own_reader() {
    let [from, to, bob, carol] =
        ["postmaster@mx.example.com", "ann@example.com", "bob@remote.example", "jürgen@remote.example"]
            .map(|address| Address::parse(address).unwrap());
    let original = OriginalRecipient { address_type: "rfc822".to_owned(), address: "robert@remote.example".to_owned() };
    let recipients = [
        DsnRecipient {
            address: &bob,
            original: Some(&original),
            action: Action::Failed,
            status: "5.1.1",
            diagnostic: Some("550 5.1.1 no such user\r\nFinal-Recipient: rfc822; eve@example.net"),
            remote_mta: Some("mx.remote.example"),
            retried_until_micros: None,
        },
        DsnRecipient {
            address: &carol,
            original: None,
            action: Action::Delayed,
            status: "4.4.1",
            diagnostic: Some("no address of the host accepts a connection"),
            remote_mta: None,
            retried_until_micros: Some(1_751_626_400_000_000),
        },
    ];
    let mail = "From: <ann@example.com>\r\nMessage-ID: <m1@example.com>\r\nSubject: ünï\r\n\r\nsecret body\r\n";
    let dsn = Dsn {
        reporting_mta: "mx.example.com",
        from: &from,
        to: &to,
        recipients: &recipients,
        envelope_id: Some("QQ1"),
        arrived_micros: 1_751_367_157_000_000,
        original: mail.as_bytes(),
        return_full: true,
        refers_to: Some("m1@example.com"),
    };
    let stamp = Stamp { message_id: "dsn_1@mx.example.com", at_micros: 1_751_367_200_000_000 };
    let raw = compose_dsn(&dsn, &stamp).unwrap();
    let text = String::from_utf8(raw.clone()).unwrap();
    assert!(
        text.is_ascii()
            && !text.replace("\r\n", "").contains(['\r', '\n'])
            && text.split("\r\n").all(|line| line.len() <= 998)
    );
    assert!(text.contains("Auto-Submitted: auto-replied\r\n") && !text.contains("secret body"), "8-bit: header alone");
    for line in [
        "In-Reply-To: <m1@example.com>\r\nReferences: <m1@example.com>\r\n",
        "Diagnostic-Code: smtp; 550 5.1.1 no such user",
        "Diagnostic-Code: x-postlog; no address of the host accepts a connection\r\n\
         Will-Retry-Until: Fri, 04 Jul 2025 10:53:20 +0000\r\n",
    ] {
        assert!(text.contains(line), "{line}\n{text}");
    }
    let Incoming::Bounce(bounce) = read(&raw) else { panic!("{text}") };
    assert_eq!(bounce.recipients.len(), 2, "a diagnostic adds no recipient: {text}");
    let failed: Vec<_> = bounce.failed().collect();
    assert_eq!((failed.len(), failed[0].address.as_ref()), (1, Some(&bob)));
    assert_eq!(failed[0].original_address.as_ref().map(Address::as_str), Some("robert@remote.example"));
    assert_eq!(failed[0].classification.category, Category::UserUnknown);
    assert_eq!(bounce.original.message_id.as_deref(), Some("m1@example.com"));
    assert_eq!(
        (bounce.original.envelope_id.as_deref(), bounce.reporting_mta.as_deref()),
        (Some("QQ1"), Some("mx.example.com"))
    );
    let plain = mail.replace("ünï", "uni");
    let full = compose_dsn(&Dsn { original: plain.as_bytes(), ..dsn }, &stamp).unwrap();
    assert!(String::from_utf8(full).unwrap().contains("secret body"));
    let late = Dsn { original: plain.as_bytes(), recipients: &recipients[1..], ..dsn };
    let late = String::from_utf8(compose_dsn(&late, &stamp).unwrap()).unwrap();
    assert!(
        !late.contains("secret body") && late.contains("Subject: Delayed"),
        "where nothing failed, the header alone"
    );
    let odd = Dsn { refers_to: Some("x> \r\nBcc: eve@example.net"), ..dsn };
    assert!(!String::from_utf8(compose_dsn(&odd, &stamp).unwrap()).unwrap().contains("Bcc:"));
    assert!(compose_dsn(&Dsn { recipients: &[], ..dsn }, &stamp).is_err());
    let bad = [DsnRecipient { status: "5.1.1\r\nX: y", ..recipients[0] }];
    assert!(compose_dsn(&Dsn { recipients: &bad, ..dsn }, &stamp).is_err());
    assert!(compose_dsn(&dsn, &Stamp { message_id: "x", ..stamp }).is_err());
}
