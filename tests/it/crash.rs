//! `kill -9` at random moments under load: what was acknowledged is there exactly once, and the chain holds.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::{Client, Installation, PATIENCE, Server};
use crate::webhook_sink::Sink;

/// How many times the program is killed; `POSTLOG_TEST_KILLS` sets another number.
fn kills() -> u64 {
    std::env::var("POSTLOG_TEST_KILLS").ok().and_then(|n| n.parse().ok()).unwrap_or(100)
}

/// What clients know of their own requests.
#[derive(Default)]
struct Ledger {
    /// Mails: number to whether they were answered 250.
    mails: BTreeMap<u64, bool>,
    /// Test deliveries: idempotency key to the event id that was answered.
    tests: BTreeMap<String, Option<String>>,
}

async fn send(smtp: &str, n: u64) -> Result<String, String> {
    let content = format!(
        "From: <ann@example.com>\r\nTo: <agent@postlog.test>\r\nSubject: mail {n}\r\n\
         Date: Fri, 20 Nov 2026 12:00:00 +0000\r\nMessage-ID: <{n}@example.com>\r\n\r\n{}\r\n",
        // Every fourth mail is too large to be stored beside its event.
        if n.is_multiple_of(4) { "large body ".repeat(8_000) } else { "small".to_owned() }
    );
    crate::smtp_client::send_raw(smtp, "ann@example.com", &["agent@postlog.test"], &content).await
}

async fn test_webhook(root: &Client, hook: &str, key: &str) -> Option<String> {
    let request = root.request(reqwest::Method::POST, &format!("/webhooks/{hook}/test")).header("idempotency-key", key);
    let response = request.send().await.ok()?;
    let status = response.status().as_u16();
    let body: Value = response.json().await.ok()?;
    assert_eq!(status, 200, "{body}");
    Some(body["data"]["event_id"].as_str().unwrap().to_owned())
}

/// Sends mails and test requests until the server is gone.
async fn load(server: &Server, root: &Client, hook: &str, ledger: &mut Ledger) {
    let first = ledger.mails.keys().last().map_or(0, |n| n + 1);
    let again: Vec<u64> = ledger.mails.iter().filter(|(_, answered)| !**answered).map(|(n, _)| *n).collect();
    let mut mails = vec![];
    let mailing = async {
        for n in again.into_iter().chain(first..first + 500) {
            let answered = send(&server.smtp, n).await.is_ok();
            mails.push((n, answered));
            if !answered {
                return;
            }
        }
    };
    let open: Vec<String> = ledger.tests.iter().filter(|(_, id)| id.is_none()).map(|(key, _)| key.clone()).collect();
    let known = ledger.tests.len();
    let mut tests = vec![];
    let testing = async {
        for key in open.into_iter().chain((known..known + 500).map(|n| format!("test-{n}"))) {
            let answered = test_webhook(root, hook, &key).await;
            tests.push((key, answered.clone()));
            if answered.is_none() {
                return;
            }
        }
    };
    tokio::join!(mailing, testing);
    ledger.mails.extend(mails);
    for (key, answered) in tests {
        let before = ledger.tests.insert(key.clone(), answered.clone()).flatten();
        assert!(before.is_none() || before == answered, "{key} was answered differently");
    }
}

/// Returns numbers without a pattern, the same in every run (splitmix64).
fn scattered(n: u64) -> u64 {
    let mut z = (n + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Kills a process after a time.
fn kill_after(pid: u32, delay: Duration) -> std::thread::JoinHandle<()> {
    std::thread::spawn(move || {
        let (_keep, never) = std::sync::mpsc::sync_channel::<()>(0);
        let _ = never.recv_timeout(delay);
        let _ = std::process::Command::new("kill").args(["-KILL", &pid.to_string()]).status();
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_kills_lose_nothing_and_double_nothing() {
    survive(Installation::new(), kills()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kills_on_postgresql_lose_nothing_and_double_nothing() {
    survive(Installation::on_postgres().await, kills().div_ceil(5)).await;
}

async fn survive(installation: Installation, kills: u64) {
    let installation = installation
        .with("HTTP__RATE_LIMITS__INFRASTRUCTURE_REQUESTS", "1000000")
        .with("SMTP__RATES__MAILS_PER_MINUTE_PER_MAILBOX_AND_PEER", "0")
        .with("SMTP__RATES__MAILS_PER_MINUTE_PER_MAILBOX", "0");
    let sink = Sink::start().await;
    let server = installation.start();
    let keys = server.keys.clone().unwrap();
    let hook = json!({"url": sink.url, "event_types": ["sendmux.test", "message.received"]});
    let (status, made) = server.client(&keys.root).post("/webhooks", hook).await;
    assert_eq!(status, 201, "{made}");
    let hook = made["data"]["id"].as_str().unwrap().to_owned();
    drop(server);

    let mut ledger = Ledger::default();
    for kill in 0..kills {
        let server = installation.start();
        let killer = kill_after(server.pid(), Duration::from_millis(20 + scattered(kill) % 400));
        load(&server, &server.client(&keys.root), &hook, &mut ledger).await;
        killer.join().unwrap();
    }

    let server = installation.start();
    let root = server.client(&keys.root);
    // What was never answered is sent once more; then every mail and every test must be there exactly once.
    for (n, answered) in ledger.mails.iter_mut().filter(|(_, answered)| !**answered) {
        *answered = send(&server.smtp, *n).await.is_ok();
    }
    for (key, event) in ledger.tests.iter_mut().filter(|(_, event)| event.is_none()) {
        *event = test_webhook(&root, &hook, key).await;
    }
    assert!(ledger.mails.values().all(|answered| *answered) && ledger.tests.values().all(Option::is_some));
    let (mails, tests) = recount(&root).await;
    let expected: BTreeMap<String, u64> = ledger.mails.keys().map(|n| (format!("mail {n}"), 1)).collect();
    assert_eq!(mails, expected, "mails by subject");
    let answered: BTreeSet<String> = ledger.tests.values().flatten().cloned().collect();
    assert_eq!(tests, answered, "test events");
    assert!(installation.run(&["verify"]).contains("the chain holds"));
    delivered(&sink, mails.len() + tests.len()).await;
}

/// Counts mails by subject and collects test events, from the team's own event feed.
async fn recount(root: &Client) -> (BTreeMap<String, u64>, BTreeSet<String>) {
    let (mut mails, mut tests) = (BTreeMap::new(), BTreeSet::new());
    let mut path = "/events?limit=500".to_owned();
    loop {
        let (status, page) = root.get(&path).await;
        assert_eq!(status, 200, "{page}");
        for event in page["data"].as_array().unwrap() {
            match event["type"].as_str().unwrap() {
                "message.received" => {
                    *mails.entry(event["data"]["subject"].as_str().unwrap().to_owned()).or_default() += 1;
                }
                "sendmux.test" => assert!(tests.insert(event["id"].as_str().unwrap().to_owned())),
                _ => {}
            }
        }
        if page["pagination"]["has_more"] != true {
            return (mails, tests);
        }
        path = format!("/events?limit=500&cursor={}", page["pagination"]["next_cursor"].as_str().unwrap());
    }
}

/// Waits until every event was delivered at least once.
async fn delivered(sink: &Sink, events: usize) {
    let wait = async {
        let mut seen = 0;
        loop {
            let requests = sink.wait_for(seen + 1).await;
            seen = requests.len();
            let ids: BTreeSet<_> = requests.iter().map(|r| r.json()["id"].as_str().unwrap().to_owned()).collect();
            if ids.len() == events {
                return;
            }
        }
    };
    tokio::time::timeout(PATIENCE * 4, wait).await.expect("every event is delivered");
}
