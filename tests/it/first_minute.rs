//! What a newcomer sees: keys once, a mail on the stream, at a webhook, in the usage, in the audit log; a chain that holds.

use hmac::{Hmac, KeyInit as _, Mac as _};
use serde_json::json;
use sha2::Sha256;

use crate::harness::{Installation, Keys};
use crate::stream_client::Stream;
use crate::webhook_sink::Sink;

#[tokio::test]
async fn one_mail_is_seen_everywhere() {
    walk(&Installation::new()).await;
}

/// Walks through the first minute on an empty installation and leaves three mails in its mailbox; returns its keys.
pub async fn walk(installation: &Installation) -> Keys {
    let server = installation.start();
    let keys = server.keys.clone().expect("the first start prints keys");
    let (root, mailbox) = (server.client(&keys.root), server.client(&keys.mailbox));

    let sink = Sink::start().await;
    let hook = json!({"url": sink.url, "event_types": ["message.received", "sendmux.test"]});
    let (status, created) = root.post("/webhooks", hook).await;
    assert_eq!(status, 201, "{created}");
    let secret = created["data"]["secret"].as_str().unwrap();
    assert!(secret.starts_with("whsec_"));

    let mut stream = Stream::open(&mailbox, "/mailbox/events", None).await;
    let answer = server.mail("ann@example.com", "agent@postlog.test", "Hello", "Hello, agent!").await;
    assert!(answer.starts_with("250 2."), "{answer}");
    let first = stream.next().await;
    assert_eq!(first.event_type, "message.received");
    assert_eq!(first.data["message"]["subject"], "Hello");
    assert_eq!(first.data["sender"], "ann@example.com");
    assert!(first.id.starts_with("evt_"));

    // Cut, miss two, resume.
    drop(stream);
    for n in 1..=2 {
        server.mail("ann@example.com", "agent@postlog.test", &format!("While away {n}"), "x").await;
    }
    let mut stream = Stream::open(&mailbox, "/mailbox/events", Some(&first.id)).await;
    for n in 1..=2 {
        assert_eq!(stream.next().await.data["message"]["subject"], format!("While away {n}"));
    }

    let delivered = sink.wait_for(3).await;
    let request = &delivered[0];
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).unwrap();
    mac.update(&request.body);
    let signature = format!("sha256={}", hex::encode(mac.finalize().into_bytes()));
    assert_eq!(request.headers["x-sendmux-signature"], signature.as_str());
    assert_eq!(request.json()["id"], first.id.as_str());
    assert_eq!(request.json()["data"].as_object().unwrap().len(), 15);

    let (status, usage) = root.get("/billing/usage").await;
    assert_eq!(status, 200, "{usage}");
    let total: i64 = usage["data"]["usage"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|row| row["meter"] == "inbound_messages")
        .map(|row| row["units"].as_i64().unwrap())
        .sum();
    assert_eq!(total, 3, "{usage}");

    let (_, audit) = root.get("/audit/events?limit=100").await;
    let names: Vec<_> = audit["data"].as_array().unwrap().iter().map(|e| e["type"].as_str().unwrap()).collect();
    assert!(names.contains(&"message.received") && names.contains(&"webhook.created"), "{names:?}");
    let (_, verified) = root.get("/audit/verify").await;
    assert_eq!(verified["data"]["ok"], true, "{verified}");

    assert!(installation.run(&["verify"]).contains("the chain holds"));
    assert!(server.terminate(), "the server stops by itself");

    let again = installation.start();
    assert!(again.keys.is_none(), "keys are shown once: {}", again.greeting);
    let (_, list) = again.client(&keys.mailbox).get("/mailbox/messages").await;
    assert_eq!(list["data"].as_array().unwrap().len(), 3);
    keys
}

#[tokio::test]
async fn the_commands_of_the_greeting_work_as_printed() {
    let installation = Installation::new();
    let server = installation.start();
    let commands: Vec<_> = server.greeting.lines().map(str::trim).filter(|l| l.contains("curl ")).collect();
    assert_eq!(commands.len(), 3, "{}", server.greeting);
    let shell = |command: &str| {
        let output = std::process::Command::new("sh").args(["-c", command]).output().unwrap();
        (output.status.success(), String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let seen = installation.data().join("seen");
    let watching = format!("exec timeout 60 {} > '{}'", commands[0], seen.display());
    let mut watcher = std::process::Command::new("sh").args(["-c", &watching]).spawn().unwrap();
    let wait_for = |words: &str| {
        let deadline = std::time::Instant::now() + crate::harness::PATIENCE;
        while !std::fs::read_to_string(&seen).unwrap_or_default().contains(words) {
            assert!(std::time::Instant::now() < deadline, "{words:?} never came on the stream");
            crate::harness::pause(std::time::Duration::from_millis(50));
        }
    };
    wait_for(": open");
    assert!(shell(commands[1]).0);
    wait_for("Hello, agent");
    wait_for("event: message.received");
    // Pasted again it is another mail, not the same one once more, which would be no event.
    std::fs::write(&seen, "").unwrap();
    assert!(shell(commands[1]).0);
    wait_for("event: message.received");
    let (ok, usage) = shell(commands[2]);
    assert!(ok && usage.contains("inbound_messages"), "{usage}");
    watcher.kill().unwrap();
    watcher.wait().unwrap();
}
