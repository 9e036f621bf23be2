//! Readers that are cut again and again see every mail exactly once, in order, also across a restart of the server.

use crate::harness::Installation;
use crate::stream_client::Stream;

const MAILS: usize = 60;

#[tokio::test]
async fn a_reader_cut_after_every_few_events_misses_and_repeats_nothing() {
    let installation = Installation::new();
    let server = installation.start();
    let keys = server.keys.clone().unwrap();
    let mailbox = server.client(&keys.mailbox);
    let mut stream = Stream::open(&mailbox, "/mailbox/events", None).await;
    let smtp = server.smtp.clone();
    let writer = async {
        for n in 0..MAILS {
            let subject = format!("mail {n}");
            crate::smtp_client::send(&smtp, "ann@example.com", &["agent@postlog.test"], &subject, "x").await.unwrap();
        }
    };
    let reader = async {
        let mut subjects = vec![];
        let mut last;
        loop {
            let event = stream.next().await;
            subjects.push(event.data["message"]["subject"].as_str().unwrap().to_owned());
            last = event.id;
            if subjects.len() == MAILS {
                return subjects;
            }
            if subjects.len() % 3 == 0 {
                stream = Stream::open(&mailbox, "/mailbox/events", Some(&last)).await;
            }
        }
    };
    let ((), subjects) = tokio::join!(writer, reader);
    let expected: Vec<_> = (0..MAILS).map(|n| format!("mail {n}")).collect();
    assert_eq!(subjects, expected);
}

#[tokio::test]
async fn a_reader_resumes_on_the_server_that_was_killed_and_started_again() {
    let installation = Installation::new();
    let server = installation.start();
    let keys = server.keys.clone().unwrap();
    let mut stream = Stream::open(&server.client(&keys.mailbox), "/mailbox/events", None).await;
    server.mail("ann@example.com", "agent@postlog.test", "before", "x").await;
    let before = stream.next().await;
    server.mail("ann@example.com", "agent@postlog.test", "unseen", "x").await;
    server.kill();
    let server = installation.start();
    let mut stream = Stream::open(&server.client(&keys.mailbox), "/mailbox/events", Some(&before.id)).await;
    assert_eq!(stream.next().await.data["message"]["subject"], "unseen");
}

#[tokio::test]
async fn an_id_that_cannot_be_resumed_from_is_answered_with_sync_required() {
    let installation = Installation::new();
    let server = installation.start();
    let keys = server.keys.clone().unwrap();
    let mailbox = server.client(&keys.mailbox);
    let foreign = "evt_0123456789abcdefghjkmnpq";
    let mut stream = Stream::open(&mailbox, "/mailbox/events", Some(foreign)).await;
    let event = stream.next().await;
    assert_eq!(event.event_type, "sync_required");
    assert_eq!(event.data["event_type"], "sync_required");
    assert!(event.data["message"].is_null());
    server.mail("ann@example.com", "agent@postlog.test", "live", "x").await;
    assert_eq!(stream.next().await.data["message"]["subject"], "live");
}

#[tokio::test]
async fn the_team_stream_shows_every_published_type() {
    let installation = Installation::new();
    let server = installation.start();
    let keys = server.keys.clone().unwrap();
    let root = server.client(&keys.root);
    let mut stream = Stream::open(&root, "/events/stream", None).await;
    let body = serde_json::json!({"email": "second@postlog.test"});
    let (status, made) = root.post("/mailboxes", body).await;
    assert_eq!(status, 201, "{made}");
    assert_eq!(stream.next().await.event_type, "mailbox.opened");
    assert_eq!(stream.next().await.event_type, "api_key.created");
    server.mail("ann@example.com", "second@postlog.test", "Hello", "x").await;
    let event = stream.next().await;
    assert_eq!(
        (event.event_type.as_str(), event.data["data"]["subject"].as_str()),
        ("message.received", Some("Hello"))
    );
}
