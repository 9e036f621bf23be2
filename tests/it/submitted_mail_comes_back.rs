//! A mail program sends through the submission door with a mailbox key; what became of the mail is told, a late bounce
//! included, and the address is not written to again.

use std::io::Write as _;
use std::process::Stdio;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;

use crate::harness::{Installation, Server};
use crate::smtp_client::{self, Session};
use crate::stream_client::Stream;

/// Hands a mail in; the last answer, whatever it is.
async fn submit(server: &Server, key: &str, to: &[&str], subject: &str) -> Result<String, String> {
    let mut session = Session::open(&server.submission).await?;
    let credentials = BASE64_STANDARD.encode(format!("\0agent@postlog.test\0{key}"));
    session.command(&format!("AUTH PLAIN {credentials}")).await?;
    session.command("MAIL FROM:<agent@postlog.test>").await?;
    for to in to {
        session.command(&format!("RCPT TO:<{to}>")).await?;
    }
    session.command("DATA").await?;
    let content =
        format!("From: Agent <agent@postlog.test>\r\nTo: <{}>\r\nSubject: {subject}\r\n\r\nHello.\r\n", to[0]);
    session.write(&format!("{content}.\r\n")).await?;
    session.answer().await
}

fn report(id: &str, recipient: &str) -> String {
    format!(
        "From: MAILER-DAEMON@mx.example.net\r\nTo: agent@postlog.test\r\nSubject: Undelivered Mail\r\n\
         Message-ID: <report-1@mx.example.net>\r\nMIME-Version: 1.0\r\n\
         Content-Type: multipart/report; report-type=delivery-status; boundary=\"b\"\r\n\r\n--b\r\n\r\nSorry.\r\n--b\r\n\
         Content-Type: message/delivery-status\r\n\r\nReporting-MTA: dns; mx.example.net\r\n\r\n\
         Final-Recipient: rfc822; {recipient}\r\nAction: failed\r\nStatus: 5.1.1\r\n\
         Diagnostic-Code: smtp; 550 5.1.1 no such user\r\n--b\r\nContent-Type: text/rfc822-headers\r\n\r\n\
         From: agent@postlog.test\r\nX-Postlog-ID: {id}\r\nSubject: Hello\r\n--b--\r\n"
    )
}

#[tokio::test]
async fn a_submitted_mail_is_delivered_and_a_late_bounce_suppresses_its_address() {
    let installation = Installation::new();
    let server = installation.start();
    let keys = server.keys.clone().unwrap();
    let mut events = Stream::open(&server.client(&keys.root), "/events/stream", None).await;
    let wrong = submit(&server, &keys.root, &["x@example.net"], "Not for sending").await;
    assert!(wrong.as_ref().is_err_and(|answer| answer.starts_with("535 5.7.8")), "{wrong:?}");

    let far = "delivered@simulator.postlog.test";
    let answer = submit(&server, &keys.mailbox, &["agent@postlog.test", far], "Hello").await.unwrap();
    assert!(answer.starts_with("250 2.0.0 accepted as eml_"), "{answer}");
    let id = answer.split_whitespace().last().unwrap().to_owned();
    let (mut received, mut delivered) = (false, false);
    while !(received && delivered) {
        let event = events.next().await;
        received |= event.event_type == "message.received";
        let recipients = event.data.to_string();
        delivered |= event.event_type == "message.delivered" && recipients.contains(far);
    }

    // Days later, somewhere else.
    let report = report(&id, far);
    smtp_client::send_raw(&server.smtp, "", &["agent@postlog.test"], &report).await.unwrap();
    let bounced = loop {
        let event = events.next().await;
        if event.event_type == "message.bounced" {
            break event;
        }
    };
    assert!(bounced.data.to_string().contains(far) && bounced.data.to_string().contains("Permanent"), "{bounced:?}");
    let again = submit(&server, &keys.mailbox, &[far], "Again").await;
    assert!(again.as_ref().is_err_and(|answer| answer.starts_with("550 5.7.1")), "{again:?}");

    // What a report says can be asked without an installation, too.
    let mut command = installation.command(&["classify-bounce"]);
    let mut asked = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    asked.stdin.take().unwrap().write_all(report.as_bytes()).unwrap();
    let output = asked.wait_with_output().unwrap();
    assert!(output.status.success());
    let said: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(said["recipients"][0]["address"], far);
    assert_eq!(
        (&said["recipients"][0]["bounce_type"], &said["recipients"][0]["smtp_code"]),
        (&"hard".into(), &550.into())
    );
}
