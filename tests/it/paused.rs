//! The program is stopped for longer than its timeouts and goes on: nothing is lost, nothing is done twice.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::json;

use crate::harness::Installation;
use crate::smtp_client::Session;
use crate::stream_client::Stream;
use crate::webhook_sink::Sink;

/// Longer than the lease and than an attempt may take.
const PAUSE: Duration = Duration::from_secs(13);

#[tokio::test]
async fn what_was_under_way_at_a_pause_goes_on_after_it() {
    let installation = Installation::new()
        .with("WEBHOOKS__ATTEMPT_SECONDS", "1")
        .with("WEBHOOKS__LIMITS__ATTEMPT_SECONDS", "1")
        .with("WEBHOOKS__LIMITS__CONNECT_SECONDS", "1")
        .with("WEBHOOKS__LEASE_SECONDS", "11")
        .with("WEBHOOKS__IDLE_RELEASE_SECONDS", "11");
    let server = installation.start();
    let keys = server.keys.clone().unwrap();
    let (root, mailbox) = (server.client(&keys.root), server.client(&keys.mailbox));
    let sink = Sink::start().await;
    let (status, hook) = root.post("/webhooks", json!({"url": sink.url, "event_types": ["message.received"]})).await;
    assert_eq!(status, 201, "{hook}");
    let mut stream = Stream::open(&mailbox, "/mailbox/events", None).await;
    server.mail("ann@example.com", "agent@postlog.test", "before", "x").await;
    sink.wait_for(1).await;

    // A mail in the middle of its content, a request that waits for its answer.
    let mut session = Session::open(&server.smtp).await.unwrap();
    session.envelope("ann@example.com", "agent@postlog.test").await.unwrap();
    session.command("DATA").await.unwrap();
    session.write("Subject: half\r\nMessage-ID: <half@example.com>\r\n\r\nfirst half\r\n").await.unwrap();
    server.signal("STOP");
    let waiting = root.post("/mailboxes", json!({"email": "paused@postlog.test"}));
    let pause = async {
        // Nothing can be seen of time that passes in a stopped process.
        tokio::time::sleep(PAUSE).await;
        server.signal("CONT");
    };
    let ((status, made), ()) = tokio::join!(waiting, pause);
    assert_eq!(status, 201, "{made}");
    session.write("second half\r\n.\r\n").await.unwrap();
    let answer = session.answer().await.unwrap();
    assert!(answer.starts_with("250"), "{answer}");
    server.mail("ann@example.com", "agent@postlog.test", "after", "x").await;

    for subject in ["before", "half", "after"] {
        assert_eq!(stream.next().await.data["message"]["subject"], subject);
    }
    sink.wait_for(3).await;
    let path = format!("/webhooks/{}/deliveries", hook["data"]["id"].as_str().unwrap());
    root.wait_for(&path, |body| body["data"].as_array().unwrap().len() == 3).await;
    let requests = sink.requests();
    let events: BTreeSet<_> = requests.iter().map(|r| r.json()["id"].as_str().unwrap().to_owned()).collect();
    assert_eq!((requests.len(), events.len()), (3, 3));
    assert!(installation.run(&["verify"]).contains("the chain holds"));
}
