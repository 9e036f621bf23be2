//! What one of two nodes does for both, and what becomes of it when that node dies, stops, or loses its database.
#![expect(clippy::print_stderr, reason = "stories tell how long a takeover took")]

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use serde_json::json;
use sqlx::{Connection as _, PgConnection};

use crate::harness::{Client, Installation, Keys, PATIENCE, Server};
use crate::proxy::Proxy;
use crate::stream_client::Stream;
use crate::webhook_sink::Sink;

/// The lease of duties and of outgoing mail in these stories.
const LEASE: Duration = Duration::from_secs(3);
/// The shortest lease of a webhook that the configuration takes.
const WEBHOOK_LEASE: Duration = Duration::from_secs(11);
/// After what time a node that stops in the middle of a transaction loses its row locks.
const HOLD: Duration = Duration::from_secs(10);
/// What a loaded machine may add to that.
const MARGIN: Duration = Duration::from_secs(8);

fn with_short_leases(installation: Installation) -> Installation {
    let seconds = LEASE.as_secs().to_string();
    installation
        .with("SERVER__DUTY_LEASE_SECONDS", &seconds)
        .with("CHECKPOINTS__LEASE_SECONDS", &seconds)
        .with("OUTBOUND__LEASE_SECONDS", &seconds)
        .with("WEBHOOKS__ATTEMPT_SECONDS", "1")
        .with("WEBHOOKS__LIMITS__ATTEMPT_SECONDS", "1")
        .with("WEBHOOKS__LIMITS__CONNECT_SECONDS", "1")
        .with("WEBHOOKS__LEASE_SECONDS", &WEBHOOK_LEASE.as_secs().to_string())
        .with("WEBHOOKS__IDLE_RELEASE_SECONDS", &WEBHOOK_LEASE.as_secs().to_string())
}

fn name(node: &Installation) -> String {
    std::fs::read_to_string(node.data().join("node.name")).unwrap().trim().to_owned()
}

async fn ask<T>(installation: &Installation, sql: &'static str) -> Vec<T>
where
    T: for<'r> sqlx::FromRow<'r, sqlx::postgres::PgRow> + Send + Unpin,
{
    let mut connection = PgConnection::connect(installation.database()).await.unwrap();
    let rows = sqlx::query_as(sql).fetch_all(&mut connection).await.unwrap();
    connection.close().await.unwrap();
    rows
}

/// Waits until every duty is of one node, and returns how long that took and the epoch of the leases.
async fn duties_of(installation: &Installation, node: &str) -> (Duration, i64) {
    let began = Instant::now();
    let mut pace = tokio::time::interval(Duration::from_millis(100));
    loop {
        pace.tick().await;
        let duties: Vec<(String, String, i64)> =
            ask(installation, "SELECT name, owner, epoch FROM work.duties ORDER BY name").await;
        let epochs: BTreeSet<_> =
            duties.iter().filter(|(_, owner, _)| owner == node).map(|(.., epoch)| *epoch).collect();
        let all = duties.len() == 4 && duties.iter().all(|(_, owner, _)| owner == node);
        if let (true, Some(epoch)) = (all, epochs.last()) {
            return (began.elapsed(), *epoch);
        }
        assert!(began.elapsed() < PATIENCE, "{node} never had all of {duties:?}");
    }
}

#[tokio::test]
async fn periodic_work_is_one_nodes_and_moves_when_that_node_dies_or_stops() {
    let installation = with_short_leases(Installation::on_postgres().await);
    let a = installation.start();
    let other = installation.another_node();
    let first = name(&installation);
    assert_eq!(duties_of(&installation, &first).await.1, 1);
    let b = other.start();
    let second = name(&other);
    // Longer than a lease, so that the other has asked for it.
    tokio::time::sleep(LEASE + Duration::from_secs(1)).await;
    assert_eq!(duties_of(&installation, &first).await.1, 1, "who has it keeps it");
    a.kill();
    let (took, epoch) = duties_of(&installation, &second).await;
    assert!(took < LEASE + MARGIN && epoch == 2, "{took:?}, epoch {epoch}");
    eprintln!("periodic work (a lease of {LEASE:?}): the other node had all of it {took:.1?} after a kill");
    let a = installation.start();
    b.signal("STOP");
    let (took, epoch) = duties_of(&installation, &first).await;
    assert!(took < LEASE + HOLD + MARGIN && epoch == 3, "{took:?}, epoch {epoch}");
    eprintln!("periodic work: {took:.1?} after a stop in the middle of anything");
    b.signal("CONT");
    tokio::time::sleep(LEASE + Duration::from_secs(1)).await;
    assert_eq!(duties_of(&installation, &first).await.1, 3, "who slept does not take it back");
    assert!(a.terminate());
    let (took, epoch) = duties_of(&installation, &second).await;
    assert!(took < LEASE + MARGIN && epoch == 4, "a node that is stopped gives it back: {took:?}, epoch {epoch}");
    eprintln!("periodic work: {took:.1?} after an orderly end");
    assert!(b.terminate());
}

async fn send(client: &Client, subject: &str) {
    let mail = json!({
        "from": {"email": "agent@postlog.test"}, "to": {"email": "agent@postlog.test"},
        "subject": subject, "text_body": "x",
    });
    let (status, sent) = client.post("/emails/send", mail).await;
    assert_eq!(status, 200, "{sent}");
}

/// Waits until that many mails have arrived, each after one attempt; returns how long that took.
async fn arrived(installation: &Installation, mails: i64, within: Duration) -> Duration {
    let began = Instant::now();
    let mut pace = tokio::time::interval(Duration::from_millis(100));
    loop {
        pace.tick().await;
        let counted: Vec<(i64, i64)> = ask(
            installation,
            "SELECT COUNT(*) FILTER (WHERE name = 'message.received'),
                    COUNT(*) FILTER (WHERE name = 'outbound.attempt_started')
             FROM log.events",
        )
        .await;
        let (received, attempts) = counted[0];
        assert!(received <= mails && attempts <= mails, "{received} mails arrived in {attempts} attempts of {mails}");
        if received == mails {
            assert_eq!(attempts, mails);
            return began.elapsed();
        }
        assert!(began.elapsed() < within, "{received} of {mails} mails arrived within {within:?}");
    }
}

async fn owner_of_outgoing(installation: &Installation) -> String {
    let owners: Vec<(String,)> = ask(installation, "SELECT owner FROM work.outbound_teams").await;
    assert_eq!(owners.len(), 1);
    owners[0].0.clone()
}

#[tokio::test]
async fn outgoing_mail_moves_to_the_other_node_and_none_is_sent_twice() {
    let installation = with_short_leases(Installation::on_postgres().await);
    let a = installation.start();
    let keys = a.keys.clone().unwrap();
    let other = installation.another_node();
    let b = other.start();
    let (at_a, at_b) = (a.client(&keys.mailbox), b.client(&keys.mailbox));
    for n in 0..6 {
        send(if n % 2 == 0 { &at_a } else { &at_b }, &format!("both {n}")).await;
    }
    arrived(&installation, 6, PATIENCE).await;
    let owner = owner_of_outgoing(&installation).await;
    let (owner, asleep, awake, at) = if owner == name(&installation) {
        (&a, &installation, &other, &at_b)
    } else {
        (&b, &other, &installation, &at_a)
    };
    owner.signal("STOP");
    for n in 0..3 {
        send(at, &format!("asleep {n}")).await;
    }
    let took = arrived(&installation, 9, LEASE + HOLD + MARGIN).await;
    eprintln!("outgoing mail (a lease of {LEASE:?}): on its way by the other node {took:.1?} after a stop");
    assert_eq!(owner_of_outgoing(&installation).await, name(awake), "not {}", name(asleep));
    owner.signal("CONT");
    for n in 0..6 {
        send(if n % 2 == 0 { &at_a } else { &at_b }, &format!("awake {n}")).await;
    }
    arrived(&installation, 15, PATIENCE).await;
    // And when the one that has it now dies.
    let last = owner_of_outgoing(&installation).await;
    let (dies, left) = if last == name(&installation) { (a, &at_b) } else { (b, &at_a) };
    dies.kill();
    send(left, "alone").await;
    let took = arrived(&installation, 16, LEASE + MARGIN).await;
    eprintln!("outgoing mail: {took:.1?} after a kill");
    assert!(installation.run(&["verify"]).contains("the chain holds"));
}

/// Two nodes of which the first reaches the database through a proxy.
struct Proxied {
    proxy: Proxy,
    installation: Installation,
    a: Server,
    keys: Keys,
    other: Installation,
    b: Server,
}

async fn first_behind_a_proxy() -> Proxied {
    let direct = with_short_leases(Installation::on_postgres().await);
    let proxy = Proxy::start(direct.socket()).await;
    let url = proxy.url(direct.database().rsplit('/').next().unwrap());
    let database = direct.database().to_owned();
    let installation = direct.with("DATABASE__URL", &url);
    let a = installation.start();
    let keys = a.keys.clone().unwrap();
    let other = installation.another_node().with("DATABASE__URL", &database);
    let b = other.start();
    Proxied { proxy, installation, a, keys, other, b }
}

async fn mail(server: &Server, subject: &str) {
    server.mail("ann@example.com", "agent@postlog.test", subject, "x").await;
}

// The proxy goes on while this thread waits for a program to start.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_loses_its_database_is_followed_and_repeats_nothing_when_it_has_it_back() {
    let Proxied { proxy, installation, a, keys, other, b } = first_behind_a_proxy().await;
    let sink = Sink::start().await;
    let hook = json!({"url": sink.url, "event_types": ["message.received"]});
    let (status, made) = a.client(&keys.root).post("/webhooks", hook).await;
    assert_eq!(status, 201, "{made}");
    mail(&a, "first").await;
    sink.wait_for(1).await;
    let path = format!("/webhooks/{}/deliveries?limit=100", made["data"]["id"].as_str().unwrap());
    let written = |count: usize| move |body: &serde_json::Value| body["data"].as_array().unwrap().len() >= count;
    b.client(&keys.root).wait_for(&path, written(1)).await;
    let owners: Vec<(String,)> = ask(&other, "SELECT owner FROM work.webhook_cursors").await;
    let (first, second) = (name(&installation), name(&other));
    assert!(owners[0].0 == first || owners[0].0 == second);

    proxy.fall_silent();
    let silent = Instant::now();
    let to = ["agent@postlog.test"];
    let unanswered = crate::smtp_client::send(&a.smtp, "ann@example.com", &to, "to the node without a database", "x");
    let elsewhere = async {
        for n in 0..3 {
            mail(&b, &format!("elsewhere {n}")).await;
        }
        sink.wait_for(4).await;
        let took = silent.elapsed();
        assert!(took < WEBHOOK_LEASE + HOLD + MARGIN, "the other node took over after {took:?}");
        eprintln!(
            "webhooks (a lease of {WEBHOOK_LEASE:?}): delivered by the other node {took:.1?} after a network cut"
        );
        duties_of(&other, &second).await
    };
    let (answer, (_, epoch)) = tokio::join!(unanswered, elsewhere);
    assert!(answer.is_err_and(|said| said.contains("451")), "what cannot be stored is not taken");
    assert_eq!(epoch, 2);

    proxy.speak();
    let began = Instant::now();
    let mut pace = tokio::time::interval(Duration::from_millis(200));
    while crate::smtp_client::send(&a.smtp, "ann@example.com", &to, "back", "x").await.is_err() {
        assert!(began.elapsed() < PATIENCE, "the node never came back");
        pace.tick().await;
    }
    for n in 0..4 {
        mail(if n % 2 == 0 { &a } else { &b }, &format!("together {n}")).await;
    }
    // What was sent to the node without a database may be there or not.
    let received: Vec<(i64,)> = ask(&other, "SELECT COUNT(*) FROM log.events WHERE name = 'message.received'").await;
    let received = usize::try_from(received[0].0).unwrap();
    assert!((9..=10).contains(&received), "{received}");
    sink.wait_for(received).await;
    b.client(&keys.root).wait_for(&path, written(received)).await;
    assert_eq!(sink.requests().len(), received, "nothing was delivered twice");
    assert_eq!(duties_of(&other, &second).await.1, 2, "who was away does not take its duties back");
    assert!(other.run(&["verify"]).contains("the chain holds"));
}

// The proxy goes on while this thread waits for a program to start.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn views_are_kept_up_by_the_other_node_when_one_falls_silent_in_the_middle_of_a_page() {
    let Proxied { proxy, a, keys, other, b, installation: _kept } = first_behind_a_proxy().await;
    // The list of projections whose cursors move is sent right before a page is committed.
    proxy.fall_silent_at("\"audit\"");
    let to = ["agent@postlog.test"];
    let deadline = Instant::now() + PATIENCE;
    let mut sent = 0;
    while !proxy.is_silent() {
        // Who appended folds it first; once it is silent it answers nobody.
        let subject = format!("mail {sent}");
        let send = crate::smtp_client::send(&a.smtp, "ann@example.com", &to, &subject, "x");
        let _ = tokio::time::timeout(Duration::from_secs(1), send).await;
        sent += 1;
        assert!(Instant::now() < deadline, "the first node never folded a page");
    }
    let silent = Instant::now();
    mail(&b, "behind the page").await;
    let list = b.client(&keys.mailbox);
    list.wait_for("/mailbox/messages?limit=1", |body| body["data"][0]["subject"] == "behind the page").await;
    let took = silent.elapsed();
    assert!(took < HOLD + MARGIN, "the other node went on after {took:?}");
    proxy.speak();
    drop(a);
    assert!(other.run(&["verify"]).contains("the chain holds"));
}

#[tokio::test]
async fn a_stream_hears_of_the_other_nodes_appends_by_notification_alone() {
    let installation = Installation::on_postgres()
        .await
        .with("DATABASE__NOTIFY", "true")
        .with("SERVER__POLL_IDLE_MILLISECONDS", "60000")
        .with("SERVER__POLL_BUSY_MILLISECONDS", "60000")
        // Reactors have polls of their own.
        .with("SERVER__ROLES", "[\"http\", \"smtp\"]");
    let a = installation.start();
    let keys = a.keys.clone().unwrap();
    let b = installation.another_node().start();
    let mut stream = Stream::open(&b.client(&keys.mailbox), "/mailbox/events", None).await;
    for n in 0..5 {
        mail(&a, &format!("mail {n}")).await;
        let began = Instant::now();
        assert_eq!(stream.next().await.data["message"]["subject"], format!("mail {n}"));
        assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    }
}
