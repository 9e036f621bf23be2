//! Read models are folds: computed anew, beside a running server, they answer the same.

use serde_json::json;

use crate::harness::Installation;

#[tokio::test]
async fn a_rebuild_beside_the_running_server_changes_no_answer() {
    let installation = Installation::new();
    let server = installation.start();
    let keys = server.keys.clone().unwrap();
    let (root, mailbox) = (server.client(&keys.root), server.client(&keys.mailbox));
    for n in 0..15 {
        server.mail("ann@example.com", "agent@postlog.test", &format!("mail {n}"), "x").await;
    }
    let (_, list) = mailbox.get("/mailbox/messages?limit=100").await;
    let id = list["data"][3]["id"].as_str().unwrap();
    let patch =
        mailbox.request(reqwest::Method::PATCH, &format!("/mailbox/messages/{id}")).json(&json!({"seen": true}));
    assert_eq!(crate::harness::answer(patch).await.0, 200);
    let paths = ["/mailbox/messages?limit=100", "/mailbox/threads", "/mailbox/folders"];
    let root_paths = ["/mailboxes", "/billing/usage", "/inboxes/logs", "/audit/events", "/keys"];
    let mut before = vec![];
    for path in paths {
        before.push(mailbox.get(path).await.1["data"].clone());
    }
    for path in root_paths {
        before.push(root.get(path).await.1["data"].clone());
    }
    let said = installation.run(&["rebuild"]);
    assert!(said.starts_with("rebuilt from"), "{said}");
    let mut after = vec![];
    for path in paths {
        after.push(mailbox.get(path).await.1["data"].clone());
    }
    for path in root_paths {
        after.push(root.get(path).await.1["data"].clone());
    }
    assert_eq!(before, after);
}
