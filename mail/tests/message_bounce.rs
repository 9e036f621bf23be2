//! Bounces: a corpus of samples in the formats of real systems with the expected results beside them, tables of live
//! replies, and hostile input.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use mail::bounce::{
    Action, BounceType, Category, Incoming, Stage, Suppression, classify_failure, classify_reply, read,
};
use proptest::prelude::*;

fn corpus() -> (BTreeMap<String, Vec<u8>>, Vec<Vec<String>>) {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/bounces");
    let files = fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().path());
    let samples = files.filter(|path| path.extension().is_some_and(|extension| extension == "eml"));
    let samples =
        samples.map(|path| (path.file_stem().unwrap().to_string_lossy().into_owned(), fs::read(path).unwrap()));
    let expected = fs::read_to_string(directory.join("expected.txt")).unwrap();
    let rows = expected.lines().filter(|line| !line.starts_with('#'));
    let rows = rows.map(|line| line.split(" | ").map(str::to_owned).collect());
    (samples.collect(), rows.collect())
}

fn name<T: serde::Serialize>(value: T) -> String {
    serde_json::to_value(value).unwrap().as_str().unwrap().to_owned()
}

/// The rows that a sample gives, in the form of the table.
fn rows(sample: &str, raw: &[u8]) -> BTreeSet<Vec<String>> {
    let bounce = match read(raw) {
        Incoming::NotABounce(kind) => {
            return [vec![sample.to_owned(), "-".into(), "not".into(), name(kind), "-".into(), "-".into()]].into();
        }
        Incoming::Bounce(bounce) => bounce,
    };
    let rows = bounce.recipients.iter().map(|outcome| {
        let found = &outcome.classification;
        let kind = if outcome.action == Action::Failed { name(found.bounce_type) } else { name(outcome.action) };
        vec![
            sample.to_owned(),
            outcome.address.as_ref().map_or("-".to_owned(), ToString::to_string),
            kind,
            name(found.category),
            found.smtp_code.map_or("-".to_owned(), |code| code.to_string()),
            found.enhanced_code.clone().unwrap_or("-".to_owned()),
        ]
    });
    rows.collect()
}

#[test]
fn every_sample_is_read_as_expected() {
    let (samples, expected) = corpus();
    assert!(samples.len() >= 60, "{}", samples.len());
    let expected: BTreeSet<Vec<String>> = expected.into_iter().collect();
    let found: BTreeSet<Vec<String>> = samples.iter().flat_map(|(sample, raw)| rows(sample, raw)).collect();
    let wrong: Vec<String> = found.difference(&expected).map(|row| format!("found    {}", row.join(" | "))).collect();
    let missing: Vec<String> = expected.difference(&found).map(|row| format!("expected {}", row.join(" | "))).collect();
    let mut all = [wrong, missing].concat();
    all.sort_by_key(|line| line[9..].to_owned());
    assert!(all.is_empty(), "\n{}", all.join("\n"));
}

#[test]
fn line_ends_make_no_difference() {
    let (samples, _) = corpus();
    for (sample, raw) in samples {
        let crlf = String::from_utf8(raw.clone()).unwrap().replace('\n', "\r\n");
        assert_eq!(rows(&sample, crlf.as_bytes()), rows(&sample, &raw));
    }
}

#[test]
fn a_report_leads_back_to_the_mail() {
    let (samples, _) = corpus();
    for sample in
        ["postfix-user-unknown", "exim-user-unknown", "qmail-no-mailbox", "yahoo-sorry", "sendmail-before-dsn"]
    {
        let Incoming::Bounce(bounce) = read(&samples[sample]) else { panic!("{sample}") };
        let id = bounce.original.message_id.as_deref().unwrap_or_default();
        assert!(id.starts_with("order-") && id.ends_with("@sender.example"), "{sample}: {id}");
        assert_eq!(bounce.original.id_fields, [("X-Order-ID".to_owned(), "4711".to_owned())], "{sample}");
        assert!(bounce.original.return_paths.contains(&"b+x@bounce.sender.example".to_owned()), "{sample}");
        assert!(bounce.failed().count() == 1 && bounce.recipients[0].classification.diagnostic.len() > 10, "{sample}");
    }
}

#[test]
fn live_replies_are_read_by_the_same_rules() {
    use Category as C;
    use Stage as S;
    type Case = (S, u16, Option<&'static str>, &'static str, C, BounceType);
    let cases: &[Case] = &[
        (S::Rcpt, 550, Some("5.1.1"), "User unknown", C::UserUnknown, BounceType::Hard),
        (S::Rcpt, 550, None, "Requested action not taken: mailbox unavailable", C::UserUnknown, BounceType::Hard),
        (S::Rcpt, 550, None, "No", C::UserUnknown, BounceType::Hard),
        (S::Rcpt, 450, Some("4.1.1"), "User unknown", C::UserUnknown, BounceType::Soft),
        (
            S::Rcpt,
            550,
            Some("5.4.1"),
            "Recipient address rejected: Access denied. AS(201806281)",
            C::UserUnknown,
            BounceType::Hard,
        ),
        (S::Rcpt, 556, Some("5.1.10"), "Recipient domain does not accept mail", C::DomainUnknown, BounceType::Hard),
        (S::Rcpt, 452, Some("4.2.2"), "Mailbox full", C::MailboxFull, BounceType::Soft),
        (S::Rcpt, 552, Some("5.2.2"), "over quota", C::MailboxFull, BounceType::Soft),
        (S::Rcpt, 451, Some("4.7.1"), "Greylisting in action, please come back later", C::Greylisted, BounceType::Soft),
        (S::Rcpt, 451, None, "Please try again later", C::Greylisted, BounceType::Soft),
        (S::Rcpt, 452, Some("4.5.3"), "Too many recipients", C::RateLimited, BounceType::Soft),
        (S::Rcpt, 554, Some("5.7.1"), "Relay access denied", C::RelayDenied, BounceType::Soft),
        (
            S::Rcpt,
            550,
            Some("5.7.1"),
            "Service unavailable, client host blocked using bl.example",
            C::PolicyBlocked,
            BounceType::Soft,
        ),
        (S::Greeting, 554, None, "no SMTP service here", C::PolicyBlocked, BounceType::Soft),
        (S::Greeting, 421, Some("4.3.2"), "too many connections", C::RateLimited, BounceType::Soft),
        (S::Hello, 550, None, "go away", C::PolicyBlocked, BounceType::Soft),
        (S::Mail, 553, Some("5.1.8"), "Sender address rejected: Domain not found", C::SenderRejected, BounceType::Soft),
        (S::Mail, 552, Some("5.3.4"), "Message too big", C::MessageTooLarge, BounceType::Soft),
        (S::Data, 554, None, "Transaction failed", C::ContentRejected, BounceType::Soft),
        (S::Data, 550, Some("5.7.26"), "unauthenticated", C::AuthFailure, BounceType::Soft),
        (S::Data, 554, Some("5.4.6"), "too many hops", C::RoutingLoop, BounceType::Soft),
        (S::Data, 554, Some("5.6.0"), "Message contains a virus", C::ContentRejected, BounceType::Soft),
        (S::Rcpt, 501, Some("5.5.4"), "Syntax error in parameters", C::Protocol, BounceType::Soft),
        (S::Rcpt, 550, Some("5.3.5"), "Internal System Error", C::Undetermined, BounceType::Soft),
        (S::Rcpt, 599, None, "?", C::Undetermined, BounceType::Soft),
    ];
    for (stage, code, enhanced, text, category, kind) in cases {
        let found = classify_reply(*stage, *code, *enhanced, text);
        assert_eq!((found.category, found.bounce_type), (*category, *kind), "{code} {enhanced:?} {text}");
        assert_eq!(found.smtp_code, Some(*code));
    }
    assert_eq!(classify_failure("connection timed out").category, C::Network);
    assert_eq!(classify_failure("the domain does not exist (NXDOMAIN)").category, C::DomainUnknown);
    assert_eq!(classify_failure("something else").category, C::Network);
}

#[test]
fn replies_of_real_hosts_mean_what_the_table_says() {
    let mut wrong = Vec::new();
    for line in include_str!("data/replies.txt").lines().filter(|line| !line.starts_with('#')) {
        let (reply, expected) = line.rsplit_once(" | ").unwrap();
        let code = reply.get(..3).and_then(|code| code.parse().ok()).unwrap();
        let found = classify_reply(Stage::Rcpt, code, None, reply.get(4..).unwrap_or_default());
        let hard = if found.bounce_type == BounceType::Hard { " hard" } else { "" };
        let found = format!("{}{hard}", name(found.category));
        if found != expected {
            wrong.push(format!("{found} for {line}"));
        }
    }
    assert!(wrong.is_empty(), "{}\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn only_what_says_something_about_an_address_suppresses_it() {
    for category in Category::ALL {
        let at_once = category.suppression() == Suppression::AtOnce;
        assert_eq!(at_once, matches!(category, Category::UserUnknown | Category::DomainUnknown), "{category:?}");
    }
    for category in [Category::PolicyBlocked, Category::AuthFailure, Category::ContentRejected, Category::RelayDenied] {
        assert_eq!(category.suppression(), Suppression::Never);
    }
}

/// The promise for any bytes.
fn bounded(raw: &[u8]) -> Result<(), TestCaseError> {
    if let Incoming::Bounce(bounce) = read(raw) {
        prop_assert!((1..=1000).contains(&bounce.recipients.len()));
        for outcome in &bounce.recipients {
            let text = &outcome.classification.diagnostic;
            prop_assert!(text.chars().count() <= 1000 && !text.chars().any(char::is_control));
        }
    }
    Ok(())
}

#[test]
fn a_report_of_any_size_is_read_in_one_go() {
    let words = "user&unknown 550 mailbox full quota spf ".repeat(8);
    let blocks = |n: usize| {
        let block = |n: usize| {
            format!("Final-Recipient: rfc822; {n}@a.example\nAction: failed\nDiagnostic-Code: smtp; {words}\n\n")
        };
        (0..n).map(block).collect::<String>()
    };
    let said = (0..1100).map(|n| format!("<{n}@a.example>: {}\n\n", &words[..60])).collect::<String>();
    let part = |kind: &str, text: &str| format!("--b\nContent-Type: {kind}\n\n{text}\n");
    let unnamed = "Final-Recipient: x400; nobody\nAction: failed\n\n".repeat(1100);
    for status in [
        part("message/delivery-status", &blocks(600)).repeat(3),
        part("message/delivery-status", &unnamed),
        String::new(),
    ] {
        let raw = format!(
            "From: mailer-daemon@a.example\nSubject: undeliverable\nMIME-Version: 1.0\n\
             Content-Type: multipart/report; report-type=delivery-status; boundary=b\n\n{}{status}--b--\n",
            part("text/plain", &said)
        );
        let Incoming::Bounce(bounce) = read(raw.as_bytes()) else { panic!("a report") };
        assert!((900..=1000).contains(&bounce.recipients.len()), "{}", bounce.recipients.len());
    }
}

/// What messages are made of, in any order, and anything else.
fn piece() -> impl Strategy<Value = Vec<u8>> {
    const PIECES: [&str; 30] = [
        "From: MAILER-DAEMON@a.example\n",
        "To: bob@a.example\n",
        "Subject: failure notice\n",
        "MIME-Version: 1.0\n",
        "Content-Type: multipart/report; report-type=delivery-status; boundary=\"b\"\n",
        "Content-Type: multipart/mixed; boundary=b\n",
        "Content-Type: message/delivery-status\n",
        "Content-Type: message/disposition-notification\n",
        "Content-Type: message/rfc822\n",
        "Content-Type: text/html\n",
        "X-Failed-Recipients: bob@a.example, @, a@@b\n",
        "Reporting-MTA: dns; a.example\n",
        "Final-Recipient: rfc822; <bob@a.example>\n",
        "Original-Recipient: x400; /c=de/\n",
        "Action: failed\n",
        "Status: 5.1.1\n",
        "Disposition: automatic-action; deleted\n",
        "Diagnostic-Code: smtp; 550 5.1.1 user <bob@a.example> unknown\n",
        "\n",
        "\r\n\r\n",
        "--b\n",
        "--b--\n",
        "<bob@a.example>: mailbox full\n",
        "> \t--- Below this line is a copy of the message.\n",
        "rejected: quota ",
        " \u{e9}\u{3042}@a.example dda:SMTP=",
        "@",
        "://",
        "550-",
        "5.1.1 ",
    ];
    prop_oneof![
        9 => prop::sample::select(&PIECES[..]).prop_map(|piece| piece.as_bytes().to_vec()),
        1 => proptest::collection::vec(any::<u8>(), 0..40),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn a_mangled_sample_is_answered_somehow(
        sample in any::<prop::sample::Index>(),
        cuts in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..12),
        keep in any::<prop::sample::Index>(),
    ) {
        let (samples, _) = corpus();
        let mut raw = samples.values().nth(sample.index(samples.len())).unwrap().clone();
        for (at, byte) in cuts {
            let at = at.index(raw.len());
            raw[at] = byte;
        }
        raw.truncate(keep.index(raw.len()) + 1);
        bounded(&raw)?;
    }

    #[test]
    fn whatever_the_bytes_the_answer_is_bounded(pieces in proptest::collection::vec(piece(), 0..60)) {
        bounded(&pieces.concat())?;
    }

    #[test]
    fn any_reply_is_classified(code in 400_u16..600, text in ".{0,300}") {
        let found = classify_reply(Stage::Rcpt, code, None, &text);
        prop_assert!(code >= 500 || found.bounce_type != BounceType::Hard, "a temporary failure is never for good");
    }
}
