//! `kill -9` at each step of an SMTP transaction: a mail without its 250 may be missing, and sent again it is there once.

use std::time::Duration;

use crate::harness::{Client, Installation};
use crate::smtp_client::Session;

/// How far the transaction came when the program was killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Greeted,
    Sender,
    Recipient,
    Data,
    Content,
    /// The final dot was written; the program was killed so many microseconds later, whatever it had answered.
    Dot(u64),
    Answered,
}

const STEPS: [Step; 12] = [
    Step::Greeted,
    Step::Sender,
    Step::Recipient,
    Step::Data,
    Step::Content,
    Step::Dot(0),
    Step::Dot(300),
    Step::Dot(1_000),
    Step::Dot(2_000),
    Step::Dot(4_000),
    Step::Dot(8_000),
    Step::Answered,
];

fn content(n: usize) -> String {
    // The larger ones are stored apart from their events.
    let body = "a line of the body\r\n".repeat(if n.is_multiple_of(2) { 10 } else { 5_000 });
    format!("From: <ann@example.com>\r\nSubject: mail {n}\r\nMessage-ID: <{n}@example.com>\r\n\r\n{body}")
}

/// Speaks up to a step; returns whether the mail was acknowledged.
async fn speak(session: &mut Session, step: Step, n: usize) -> Result<bool, String> {
    for (at, line) in [
        (Step::Greeted, None),
        (Step::Sender, Some("MAIL FROM:<ann@example.com>")),
        (Step::Recipient, Some("RCPT TO:<agent@postlog.test>")),
        (Step::Data, Some("DATA")),
    ] {
        match line {
            None => session.command("EHLO client.example.com").await?,
            Some(line) => session.command(line).await?,
        };
        if at == step {
            return Ok(false);
        }
    }
    session.write(&content(n)).await?;
    if step == Step::Content {
        return Ok(false);
    }
    session.write(".\r\n").await?;
    if let Step::Dot(micros) = step {
        let patience = Duration::from_micros(micros);
        return Ok(tokio::time::timeout(patience, session.answer()).await.is_ok_and(|answer| answer.is_ok()));
    }
    session.answer().await.map(|_| true)
}

async fn count(mailbox: &Client, n: usize) -> usize {
    let (status, list) = mailbox.get("/mailbox/messages?limit=100").await;
    assert_eq!(status, 200, "{list}");
    let subject = format!("mail {n}");
    list["data"].as_array().unwrap().iter().filter(|m| m["subject"] == subject.as_str()).count()
}

async fn story(installation: Installation) {
    let mut server = installation.start();
    let keys = server.keys.clone().unwrap();
    for (n, step) in STEPS.into_iter().enumerate() {
        let mut session = Session::connect(&server.smtp).await.unwrap();
        let acknowledged = speak(&mut session, step, n).await.unwrap_or(false);
        server.kill();
        server = installation.start();
        let mailbox = server.client(&keys.mailbox);
        let there = count(&mailbox, n).await;
        match step {
            _ if acknowledged => assert_eq!(there, 1, "{step:?}: acknowledged"),
            Step::Dot(_) => assert!(there <= 1, "{step:?}"),
            _ => assert_eq!(there, 0, "{step:?}: never complete"),
        }
        if !acknowledged {
            let sent = content(n);
            let to = ["agent@postlog.test"];
            crate::smtp_client::send_raw(&server.smtp, "ann@example.com", &to, &sent).await.unwrap();
        }
    }
    let mailbox = server.client(&keys.mailbox);
    mailbox.wait_for("/mailbox/messages?limit=100", |b| b["data"].as_array().unwrap().len() >= STEPS.len()).await;
    for (n, step) in STEPS.into_iter().enumerate() {
        assert_eq!(count(&mailbox, n).await, 1, "{step:?}");
    }
    assert!(installation.run(&["verify"]).contains("the chain holds"));
}

#[tokio::test]
async fn a_mail_cut_by_a_kill_at_any_step_is_there_once_after_it_was_sent_again() {
    story(Installation::new()).await;
}

#[tokio::test]
async fn a_mail_cut_by_a_kill_at_any_step_is_there_once_on_postgresql_too() {
    story(Installation::on_postgres().await).await;
}
