//! An endpoint that is down loses nothing: deliveries are tried again, and after it was given up, enabling it catches up.

use serde_json::json;

use crate::harness::{Client, Installation, answer};
use crate::webhook_sink::Sink;

async fn hook(root: &Client, sink: &Sink) -> String {
    let (status, made) = root.post("/webhooks", json!({"url": sink.url, "event_types": ["message.received"]})).await;
    assert_eq!(status, 201, "{made}");
    made["data"]["id"].as_str().unwrap().to_owned()
}

/// All attempts within a second.
fn impatient() -> Installation {
    Installation::new()
        .with("WEBHOOKS__SCHEDULE__ATTEMPT_OFFSETS_SECONDS", "[0, 1]")
        .with("WEBHOOKS__SCHEDULE__JITTER_PERCENT", "0")
}

#[tokio::test]
async fn events_while_failing_are_delivered_in_order_after_enabling() {
    let installation = impatient();
    let server = installation.start();
    let keys = server.keys.clone().unwrap();
    let root = server.client(&keys.root);
    let sink = Sink::start().await;
    sink.answer(503);
    let id = hook(&root, &sink).await;
    server.mail("ann@example.com", "agent@postlog.test", "one", "x").await;
    let path = format!("/webhooks/{id}");
    root.wait_for(&path, |body| body["data"]["failing"] == true).await;
    for subject in ["two", "three"] {
        server.mail("ann@example.com", "agent@postlog.test", subject, "x").await;
    }
    let attempts = sink.requests().len();
    assert_eq!(attempts, 2, "while failing nothing is attempted");
    sink.answer(200);
    let patch = |body: serde_json::Value| root.request(reqwest::Method::PATCH, &path).json(&body);
    assert_eq!(answer(patch(json!({"enabled": false}))).await.0, 200);
    let (status, enabled) = answer(patch(json!({"enabled": true}))).await;
    assert_eq!((status, &enabled["data"]["failing"]), (200, &json!(false)));
    let requests = sink.wait_for(attempts + 3).await;
    let sequences: Vec<_> = requests[attempts..].iter().map(|r| r.json()["sequence"].as_u64().unwrap()).collect();
    assert!(sequences.is_sorted(), "{sequences:?}");
    assert_eq!(requests[0].body, requests[1].body, "every attempt carries the same bytes");
    assert_eq!(requests[0].body, requests[2].body);
}

#[tokio::test]
async fn a_delivery_in_flight_when_the_server_is_killed_is_made_again() {
    let installation = Installation::new();
    let server = installation.start();
    let keys = server.keys.clone().unwrap();
    let root = server.client(&keys.root);
    let sink = Sink::start().await;
    sink.answer(500);
    hook(&root, &sink).await;
    server.mail("ann@example.com", "agent@postlog.test", "one", "x").await;
    sink.wait_for(1).await;
    server.kill();
    sink.answer(200);
    for subject in ["two", "three"] {
        // Mail is accepted only while a server runs.
        let server = installation.start();
        server.mail("ann@example.com", "agent@postlog.test", subject, "x").await;
        server.kill();
    }
    let _server = installation.start();
    // The first delivery waits for its next slot and holds the mailbox's order; the others come behind it.
    let requests = sink.wait_for(1).await;
    assert_eq!(requests[0].json()["type"], "message.received");
}

#[tokio::test]
async fn an_endpoint_that_is_gone_is_disabled() {
    let installation = impatient();
    let server = installation.start();
    let keys = server.keys.clone().unwrap();
    let root = server.client(&keys.root);
    let sink = Sink::start().await;
    sink.answer(410);
    let id = hook(&root, &sink).await;
    server.mail("ann@example.com", "agent@postlog.test", "one", "x").await;
    root.wait_for(&format!("/webhooks/{id}"), |body| body["data"]["enabled"] == false).await;
    assert_eq!(sink.requests().len(), 1);
}
