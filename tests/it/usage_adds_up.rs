//! The bill is a fold: whoever counts the events again comes to the same numbers.

use std::collections::BTreeMap;

use serde_json::json;

use crate::harness::Installation;

#[tokio::test]
async fn usage_equals_a_recount_of_the_events() {
    let installation = Installation::new();
    let server = installation.start();
    let keys = server.keys.clone().unwrap();
    let root = server.client(&keys.root);
    assert_eq!(root.post("/mailboxes", json!({"email": "second@postlog.test"})).await.0, 201);
    for n in 0..20 {
        let to = if n % 3 == 0 { "second@postlog.test" } else { "agent@postlog.test" };
        server.mail("ann@example.com", to, &format!("mail {n}"), &"x".repeat(n * 50)).await;
    }
    let (mut counted, mut bytes) = (BTreeMap::<String, i64>::new(), 0);
    let mut path = "/events?limit=7&event_types=message.received".to_owned();
    loop {
        let (status, page) = root.get(&path).await;
        assert_eq!(status, 200, "{page}");
        for event in page["data"].as_array().unwrap() {
            *counted.entry(event["mailbox_id"].as_str().unwrap().to_owned()).or_default() += 1;
            bytes += event["data"]["size_bytes"].as_i64().unwrap();
        }
        match page["pagination"]["next_cursor"].as_str() {
            Some(cursor) if page["pagination"]["has_more"] == true => {
                path = format!("/events?limit=7&event_types=message.received&cursor={cursor}");
            }
            _ => break,
        }
    }
    assert_eq!(counted.values().sum::<i64>(), 20);
    let (_, usage) = root.get("/billing/usage").await;
    let rows = usage["data"]["usage"].as_array().unwrap();
    let mut billed = BTreeMap::<String, i64>::new();
    for row in rows.iter().filter(|r| r["meter"] == "inbound_messages") {
        *billed.entry(row["mailbox_id"].as_str().unwrap().to_owned()).or_default() += row["units"].as_i64().unwrap();
    }
    assert_eq!(billed, counted);
    let stored: i64 = rows.iter().filter(|r| r["meter"] == "stored_bytes").map(|r| r["units"].as_i64().unwrap()).sum();
    assert_eq!(stored, bytes);
}
