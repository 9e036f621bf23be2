//! The master key is changed while nodes serve; what was sealed before still signs, and the old key opens nothing.

use hmac::{Hmac, KeyInit as _, Mac as _};
use serde_json::json;
use sha2::Sha256;

use crate::harness::{Installation, Server};
use crate::manual::{block, commands};
use crate::webhook_sink::{Request, Sink};

/// Tells whether a delivery was signed with a secret.
fn is_signed(request: &Request, secret: &str) -> bool {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).unwrap();
    mac.update(&request.body);
    let expected = format!("sha256={}", hex::encode(mac.finalize().into_bytes()));
    request.headers["x-sendmux-signature"] == expected.as_str()
}

fn list(files: &[&std::path::Path]) -> String {
    json!(files).to_string()
}

async fn deliver(server: &Server, sink: &Sink, secret: &str) {
    let count = sink.requests().len();
    server.mail("ann@example.com", "agent@postlog.test", &format!("mail {count}"), "x").await;
    let requests = sink.wait_for(count + 1).await;
    assert!(is_signed(&requests[count], secret), "{:?}", requests[count].headers);
}

#[tokio::test]
async fn the_master_key_is_changed_node_by_node() {
    let installation = Installation::on_postgres().await;
    let server = installation.start();
    let keys = server.keys.clone().unwrap();
    let root = server.client(&keys.root);
    let sink = Sink::start().await;
    let (status, made) = root.post("/webhooks", json!({"url": sink.url, "event_types": ["message.received"]})).await;
    assert_eq!(status, 201, "{made}");
    let secret = made["data"]["secret"].as_str().unwrap().to_owned();
    deliver(&server, &sink, &secret).await;

    let old = installation.data().join("master.key");
    let new = installation.data().join("new.key");
    const PART: &str = "## Changing the master key";
    assert_eq!(commands(block(PART, 0)), [["master-key", "new", "/etc/postlog/2026.key"]]);
    installation.run(&["master-key", "new", new.to_str().unwrap()]);
    let again = installation.command(&["master-key", "new", new.to_str().unwrap()]).output().unwrap();
    assert!(!again.status.success(), "a key is never overwritten");
    // One node reads both and seals with the old key, one is a step ahead.
    let behind = installation.another_node().with("SECRETS__PREVIOUS_MASTER_KEY_FILES", &list(&[&new]));
    let ahead = installation
        .another_node()
        .with("SECRETS__MASTER_KEY_FILE", new.to_str().unwrap())
        .with("SECRETS__PREVIOUS_MASTER_KEY_FILES", &list(&[&old]));
    let (behind, running) = (behind.start(), ahead.start());
    assert!(server.terminate());
    deliver(&running, &sink, &secret).await;
    // What the node that is ahead seals, the other can use.
    let other = Sink::start().await;
    let hook = json!({"url": other.url, "event_types": ["message.received"]});
    let (status, made) = running.client(&keys.root).post("/webhooks", hook).await;
    assert_eq!(status, 201, "{made}");
    let fresh = made["data"]["secret"].as_str().unwrap().to_owned();
    assert!(running.terminate());
    deliver(&behind, &other, &fresh).await;

    let reseal = commands(block(PART, 1));
    let said = ahead.run(&reseal[0]);
    assert!(said.contains("1 secrets were sealed anew; the current key opens all"), "{said}");
    assert!(ahead.run(&["master-key", "reseal"]).contains("0 secrets"));
    assert!(behind.terminate());
    let alone = installation.another_node().with("SECRETS__MASTER_KEY_FILE", new.to_str().unwrap());
    let server = alone.start();
    deliver(&server, &sink, &secret).await;
    assert!(server.terminate());
    // Whoever has the old key only, would open nothing any more.
    let stale = installation.command(&["master-key", "reseal"]).output().unwrap();
    assert!(!stale.status.success());
    let said = String::from_utf8(stale.stderr).unwrap();
    assert!(said.contains("does not hold the master key"), "{said}");
}
