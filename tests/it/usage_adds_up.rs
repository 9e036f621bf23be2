//! The bill is a fold: whoever counts the events again comes to the same numbers.

use std::collections::BTreeMap;

use std::process::Command;

use serde_json::{Value, json};

use crate::harness::{Client, Installation, answer, judges_python};

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

/// Sends a mail to what the sandbox plays, and waits for its last outcome.
async fn send(mailbox: &Client, recipients: &[&str]) {
    let to: Vec<_> = recipients.iter().map(|name| json!({"email": format!("{name}@simulator.postlog.test")})).collect();
    let mail = json!({"from": {"email": "agent@postlog.test"}, "to": to, "subject": "counted", "text_body": "x"});
    let (status, sent) = mailbox.post("/emails/send", mail).await;
    assert_eq!(status, 200, "{sent}");
    let path = format!("/emails/{}", sent["data"]["message_id"].as_str().unwrap());
    mailbox.wait_for(&path, |body| body["data"]["undo_status"] == "final").await;
}

/// Returns an amount of the API, US dollars, in nano-dollars.
fn nanos(amount: &Value) -> i64 {
    let (dollars, fraction) = amount.as_str().unwrap().split_once('.').unwrap();
    format!("{dollars}{fraction:0<9}").parse().unwrap()
}

#[tokio::test]
async fn a_recount_in_another_language_comes_to_the_same_bill() {
    let installation = Installation::new();
    let server = installation.start();
    let keys = server.keys.clone().unwrap();
    let (root, mailbox) = (server.client(&keys.root), server.client(&keys.mailbox));
    let teams = installation.run(&["teams", "list"]);
    let team = teams.split_whitespace().next().expect("the sandbox's team").to_owned();
    installation.run(&["billing", "top-up", "--team", &team, "--amount", "25.5"]);
    installation.run(&["billing", "adjust", "--team", &team, "--amount", "-0.000000001"]);
    for n in 0..12 {
        server.mail("ann@example.com", "agent@postlog.test", &format!("mail {n}"), &"x".repeat(n * 50)).await;
    }
    let list = mailbox.wait_for("/mailbox/messages", |body| body["data"].as_array().unwrap().len() == 12).await;
    for message in &list["data"].as_array().unwrap()[..4] {
        let path = format!("/mailbox/messages/{}?permanent=true", message["id"].as_str().unwrap());
        let (status, gone) = answer(mailbox.request(reqwest::Method::DELETE, &path)).await;
        assert!(status < 300, "{status} {gone}");
    }
    send(&mailbox, &["delivered"]).await;
    send(&mailbox, &["delivered", "bounce.hard"]).await;
    send(&mailbox, &["bounce.hard"]).await;
    let (_, balance) = root.get("/billing/balance").await;
    let (_, usage) = root.get("/billing/usage").await;

    let export = installation.data().join("export");
    installation.run(&["export", &team, export.to_str().unwrap(), "--without-personal"]);
    let output = Command::new(judges_python())
        .arg(format!("{}/tests/judges/recount.py", env!("CARGO_MANIFEST_DIR")))
        .args([export.to_str().unwrap(), installation.run(&["checkpoint", "key"]).trim()])
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let recount: Value = serde_json::from_slice(&output.stdout).unwrap();

    let mut rows: Vec<Vec<String>> = vec![];
    for row in usage["data"]["usage"].as_array().unwrap() {
        let text = |name: &str| row[name].as_str().unwrap_or("None").to_owned();
        rows.push(vec![text("meter"), text("day"), text("mailbox_id"), text("actor"), row["units"].to_string()]);
    }
    rows.sort();
    let cell = |cell: &Value| match cell {
        Value::String(text) => text.clone(),
        Value::Null => "None".to_owned(),
        number => number.to_string(),
    };
    let mut recounted: Vec<Vec<String>> =
        recount["rows"].as_array().unwrap().iter().map(|r| r.as_array().unwrap().iter().map(cell).collect()).collect();
    recounted.sort();
    assert_eq!(recounted, rows);
    let meters: Vec<_> = rows.iter().map(|row| row[0].as_str()).collect();
    assert!(meters.contains(&"managed_recipients") || meters.contains(&"outgoing_recipients"), "{meters:?}");
    let money = |name: &str| recount["nanos"][name].as_i64().unwrap();
    // The API rounds to six decimals.
    for (name, shown) in
        [("purchased", "balance_purchased"), ("consumed", "balance_consumed"), ("held", "balance_held")]
    {
        assert!((money(name) - nanos(&balance["data"][shown])).abs() <= 500, "{name}: {recount} {balance}");
    }
    assert_eq!(money("purchased"), 25_500_000_000 - 1);
    assert!(money("consumed") > 0);
}
