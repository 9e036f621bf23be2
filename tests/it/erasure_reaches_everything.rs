//! Somebody asks to be forgotten: nothing that anyone can read says who it was, and the chain still holds.

use serde_json::{Value, json};

use crate::harness::Installation;

/// Asks a question whose answer must not contain the marker.
async fn silent(client: &crate::harness::Client, path: &str) -> Value {
    let (status, body) = client.get(path).await;
    assert_eq!(status, 200, "{path}: {body}");
    assert!(!body.to_string().to_lowercase().contains("zq-marker"), "{path}: {body}");
    body
}

#[tokio::test]
async fn an_erased_correspondent_is_gone_from_every_answer_and_from_the_disk() {
    let installation = Installation::new();
    let server = installation.start();
    let keys = server.keys.clone().unwrap();
    let (root, mailbox) = (server.client(&keys.root), server.client(&keys.mailbox));
    let large = format!("zq-marker says {}", "x".repeat(100_000));
    server.mail("zq-marker@example.com", "agent@postlog.test", "from zq-marker", "a word of zq-marker").await;
    server.mail("zq-marker@example.com", "agent@postlog.test", "large, from zq-marker", &large).await;
    server.mail("ann@example.com", "agent@postlog.test", "somebody else", "x").await;
    let list = mailbox.wait_for("/mailbox/messages", |b| b["data"].as_array().unwrap().len() == 3).await;
    assert!(list.to_string().contains("zq-marker"));
    let (_, me) = root.get("/me").await;
    let team = me["data"]["team"]["id"].as_str().unwrap();
    let erase = |more: &[&str]| {
        let arguments: Vec<&str> = ["erase", "--team", team].iter().chain(more).copied().collect();
        installation.run(&arguments)
    };
    // First it says what it would do.
    let said = erase(&["address", "ZQ-Marker@Example.com"]);
    assert!(said.contains("2 events and 2 mail bodies would be erased"), "{said}");
    assert_eq!(mailbox.get("/mailbox/messages?from=zq-marker").await.1["data"].as_array().unwrap().len(), 2);
    let said = erase(&["--yes", "address", "ZQ-Marker@Example.com"]);
    assert!(said.contains("erased: 2 events and 2 mail bodies"), "{said}");

    let list = silent(&mailbox, "/mailbox/messages").await;
    let rows = list["data"].as_array().unwrap();
    assert_eq!(rows.iter().filter(|row| row["subject"] == Value::Null).count(), 2);
    assert!(rows.iter().any(|row| row["subject"] == "somebody else"), "nobody else is touched");
    for row in rows {
        let id = row["id"].as_str().unwrap();
        for view in ["", "/body", "/content"] {
            silent(&mailbox, &format!("/mailbox/messages/{id}{view}")).await;
        }
    }
    silent(&mailbox, "/mailbox/threads").await;
    assert_eq!(silent(&mailbox, "/mailbox/messages?body=zq-marker").await["data"], json!([]));
    for path in ["/inboxes/logs", "/events?limit=500", "/billing/usage"] {
        silent(&root, path).await;
    }
    let audit = silent(&root, "/audit/events").await;
    assert!(audit.to_string().contains("team.personal_data_erased"), "who erased what is on record: {audit}");
    assert!(installation.run(&["verify"]).contains("the chain holds"));
    assert!(erase(&["--yes", "address", "zq-marker@example.com"]).contains("holds nothing of it"));
    assert!(server.terminate());
    let blobs = walk(&installation.data().join("blobs"));
    assert!(blobs.iter().all(|file| !contains_marker(file)), "large bodies are gone");
    assert!(!contains_marker(&installation.data().join("log.db")), "what was erased is overwritten");
}

#[tokio::test]
async fn a_mailbox_is_erased_once_it_is_closed_and_one_message_at_any_time() {
    let installation = Installation::new();
    let server = installation.start();
    let keys = server.keys.clone().unwrap();
    let (root, mailbox) = (server.client(&keys.root), server.client(&keys.mailbox));
    server.mail("ann@example.com", "agent@postlog.test", "zq-marker one", "x").await;
    server.mail("ann@example.com", "agent@postlog.test", "zq-marker two", "x").await;
    let list = mailbox.wait_for("/mailbox/messages", |b| b["data"].as_array().unwrap().len() == 2).await;
    let one = list["data"].as_array().unwrap().iter().find(|m| m["subject"] == "zq-marker one").unwrap();
    let (_, me) = root.get("/me").await;
    let team = me["data"]["team"]["id"].as_str().unwrap();
    let id = me["data"]["mailboxes"][0]["id"].as_str().map(str::to_owned);
    let id = match id {
        Some(id) => id,
        None => root.get("/mailboxes").await.1["data"][0]["id"].as_str().unwrap().to_owned(),
    };
    let said = installation.run(&["erase", "--team", team, "--yes", "message", one["id"].as_str().unwrap()]);
    assert!(said.contains("erased: 1 events and 1 mail bodies"), "{said}");
    let found = mailbox.get("/mailbox/messages?subject=zq-marker").await.1;
    assert_eq!(found["data"].as_array().unwrap().len(), 1, "{found}");
    let refused = |what: &[&str]| {
        let arguments: Vec<&str> = ["erase", "--team", team, "--yes"].iter().chain(what).copied().collect();
        let output = installation.command(&arguments).output().unwrap();
        assert!(!output.status.success());
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    assert!(refused(&["mailbox", &id]).contains("is open"));
    assert!(refused(&["address", "agent@postlog.test"]).contains("is an open mailbox"));
    assert!(refused(&["message", "nonsense"]).contains("not a message id"));
    let (status, _) = crate::harness::answer(root.request(reqwest::Method::DELETE, &format!("/mailboxes/{id}"))).await;
    assert_eq!(status, 200);
    installation.run(&["erase", "--team", team, "--yes", "mailbox", &id]);
    for path in ["/mailboxes?include_deleted=true", "/inboxes/logs", "/events?limit=500", "/audit/events"] {
        let body = silent(&root, path).await.to_string();
        assert!(!body.contains("agent@postlog.test"), "{path}: {body}");
    }
    assert!(installation.run(&["verify"]).contains("the chain holds"));
    assert!(installation.run(&["deliveries", "stuck"]).contains("nothing is stuck"));
}

fn walk(directory: &std::path::Path) -> Vec<std::path::PathBuf> {
    let mut files = vec![];
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() { files.extend(walk(&path)) } else { files.push(path) }
    }
    files
}

fn contains_marker(file: &std::path::Path) -> bool {
    let bytes = std::fs::read(file).unwrap();
    bytes.windows(9).any(|window| window.eq_ignore_ascii_case(b"zq-marker"))
}
