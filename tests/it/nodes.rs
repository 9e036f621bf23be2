//! Two equal nodes on one PostgreSQL database.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use serde_json::json;
use sqlx::{Connection as _, PgConnection};

use crate::harness::{Client, Installation, Keys, PATIENCE, Server, answer};
use crate::stream_client::Stream;
use crate::webhook_sink::Sink;

/// The shortest lease that the configuration takes.
const LEASE: Duration = Duration::from_secs(11);

/// An installation whose first node was started.
async fn first_node() -> (Installation, Server, Keys) {
    let installation = Installation::on_postgres()
        .await
        .with("WEBHOOKS__ATTEMPT_SECONDS", "1")
        .with("WEBHOOKS__LIMITS__ATTEMPT_SECONDS", "1")
        .with("WEBHOOKS__LIMITS__CONNECT_SECONDS", "1")
        .with("WEBHOOKS__LEASE_SECONDS", &LEASE.as_secs().to_string())
        .with("WEBHOOKS__IDLE_RELEASE_SECONDS", &LEASE.as_secs().to_string());
    let server = installation.start();
    let keys = server.keys.clone().unwrap();
    (installation, server, keys)
}

async fn mail(server: &Server, subject: &str) {
    server.mail("ann@example.com", "agent@postlog.test", subject, "x").await;
}

async fn hook(root: &Client, sink: &Sink) -> String {
    let (status, made) = root.post("/webhooks", json!({"url": sink.url, "event_types": ["message.received"]})).await;
    assert_eq!(status, 201, "{made}");
    made["data"]["id"].as_str().unwrap().to_owned()
}

/// Returns which node holds the only webhook.
async fn owner(installation: &Installation) -> String {
    let mut connection = PgConnection::connect(installation.database()).await.unwrap();
    let owner = sqlx::query_scalar("SELECT owner FROM work.webhook_cursors").fetch_one(&mut connection).await.unwrap();
    connection.close().await.unwrap();
    owner
}

fn name(node: &Installation) -> String {
    std::fs::read_to_string(node.data().join("node.name")).unwrap().trim().to_owned()
}

/// Waits until that many attempts are written down, and checks that each was made once.
async fn delivered_once(root: &Client, hook: &str, sink: &Sink, count: usize) {
    let path = format!("/webhooks/{hook}/deliveries?limit=100");
    let all = root.wait_for(&path, |body| body["data"].as_array().unwrap().len() >= count).await;
    assert!(all["data"].as_array().unwrap().iter().all(|row| row["result"] == "success"), "{all}");
    let requests = sink.requests();
    let events: BTreeSet<_> = requests.iter().map(|r| r.json()["id"].as_str().unwrap().to_owned()).collect();
    assert_eq!((requests.len(), events.len()), (count, count));
}

/// Two nodes, and a webhook that the first has delivered one mail to.
struct Two {
    installation: Installation,
    a: Server,
    keys: Keys,
    sink: Sink,
    hook: String,
    other: Installation,
    b: Server,
}

async fn two_nodes_with_a_webhook() -> Two {
    let (installation, a, keys) = first_node().await;
    let sink = Sink::start().await;
    let hook = hook(&a.client(&keys.root), &sink).await;
    mail(&a, "first").await;
    sink.wait_for(1).await;
    let other = installation.another_node();
    let b = other.start();
    Two { installation, a, keys, sink, hook, other, b }
}

#[tokio::test]
async fn a_mail_to_one_node_is_on_a_stream_of_the_other_which_resumes_on_the_first() {
    let (installation, a, keys) = first_node().await;
    let b = installation.another_node().start();
    let mut stream = Stream::open(&b.client(&keys.mailbox), "/mailbox/events", None).await;
    mail(&a, "one").await;
    let first = stream.next().await;
    assert_eq!(first.data["message"]["subject"], "one");
    drop(stream);
    mail(&b, "two").await;
    // Too large to be stored beside its event.
    a.mail("ann@example.com", "agent@postlog.test", "three", &"long line\r\n".repeat(10_000)).await;
    let mut stream = Stream::open(&a.client(&keys.mailbox), "/mailbox/events", Some(&first.id)).await;
    for subject in ["two", "three"] {
        assert_eq!(stream.next().await.data["message"]["subject"], subject);
    }
    let mailbox = b.client(&keys.mailbox);
    let list = mailbox.wait_for("/mailbox/messages", |body| body["data"].as_array().unwrap().len() == 3).await;
    let id = list["data"][0]["id"].as_str().unwrap();
    let (status, body) = mailbox.get(&format!("/mailbox/messages/{id}/body")).await;
    assert_eq!(status, 200, "{body}");
    assert!(body["data"]["body"]["text"].as_str().unwrap().len() > 65_536, "the other node reads the large body");
    // A key made at one node works at the other at once; revoked there, it is soon refused here.
    let (status, made) = a.client(&keys.root).post("/mailboxes", json!({"email": "second@postlog.test"})).await;
    assert_eq!(status, 201, "{made}");
    let text = |pointer: &str| made.pointer(pointer).and_then(|value| value.as_str()).unwrap().to_owned();
    let second = b.client(&text("/data/credential/secret"));
    assert_eq!(second.get("/mailbox/me").await.0, 200);
    let path = format!("/mailboxes/{}/keys/{}", text("/data/mailbox/id"), text("/data/credential/public_id"));
    let (status, revoked) = answer(b.client(&keys.root).request(reqwest::Method::DELETE, &path)).await;
    assert_eq!(status, 200, "{revoked}");
    let second = a.client(&text("/data/credential/secret"));
    let refused = async {
        let mut pace = tokio::time::interval(Duration::from_millis(50));
        while second.get("/mailbox/me").await.0 != 401 {
            pace.tick().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(5), refused).await.expect("a key revoked at the other node is refused");
}

#[tokio::test]
async fn a_webhook_is_delivered_once_while_both_run_and_taken_over_when_its_node_dies() {
    let Two { installation, a, keys, sink, hook, other, b } = two_nodes_with_a_webhook().await;
    for n in 0..20 {
        mail(if n % 2 == 0 { &a } else { &b }, &format!("mail {n}")).await;
    }
    sink.wait_for(21).await;
    delivered_once(&b.client(&keys.root), &hook, &sink, 21).await;
    assert_eq!(owner(&installation).await, name(&installation), "the first node has kept it");

    a.kill();
    let killed = Instant::now();
    mail(&b, "after the kill").await;
    sink.wait_for(22).await;
    let took = killed.elapsed();
    assert!(took < LEASE + Duration::from_secs(5), "the other node took over after {took:?}");
    assert_eq!(owner(&installation).await, name(&other));
    // The first comes back and takes part again; nothing is repeated.
    let a = installation.start();
    for n in 0..4 {
        mail(if n % 2 == 0 { &a } else { &b }, &format!("together {n}")).await;
    }
    sink.wait_for(26).await;
    delivered_once(&a.client(&keys.root), &hook, &sink, 26).await;
    assert!(installation.run(&["verify"]).contains("the chain holds"));
}

#[tokio::test]
async fn a_node_that_was_paused_for_longer_than_its_lease_repeats_nothing() {
    let Two { installation, a, keys, sink, hook, other, b } = two_nodes_with_a_webhook().await;
    delivered_once(&b.client(&keys.root), &hook, &sink, 1).await;
    a.signal("STOP");
    for n in 0..3 {
        mail(&b, &format!("while paused {n}")).await;
    }
    sink.wait_for(4).await;
    assert_eq!(owner(&installation).await, name(&other), "the lease has ended");
    a.signal("CONT");
    // What it believes to hold is not its own any more.
    for n in 0..6 {
        mail(if n % 2 == 0 { &a } else { &b }, &format!("afterwards {n}")).await;
    }
    sink.wait_for(10).await;
    delivered_once(&a.client(&keys.root), &hook, &sink, 10).await;
    let mut stream = tokio::time::timeout(PATIENCE, Stream::open(&a.client(&keys.mailbox), "/mailbox/events", None))
        .await
        .expect("the paused node answers again");
    mail(&b, "last").await;
    assert_eq!(stream.next().await.data["message"]["subject"], "last");
}
