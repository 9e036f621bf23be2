//! `kill -9` at random moments under load: what was acknowledged is there exactly once, and the chain holds.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::harness::{Client, Installation, Keys, PATIENCE, Server, pause, report};
use crate::stream_client::Stream;
use crate::webhook_sink::Sink;

/// How many times the program is killed, on both stores together; `POSTLOG_TEST_KILLS` sets another number.
fn kills() -> u64 {
    std::env::var("POSTLOG_TEST_KILLS").ok().and_then(|n| n.parse().ok()).unwrap_or(100)
}

/// How many of them on PostgreSQL, where each start takes longer.
fn kills_on_postgres() -> u64 {
    kills().div_ceil(5)
}

/// What clients know of their own requests.
#[derive(Default)]
struct Ledger {
    /// Mails: number to whether they were answered 250.
    mails: BTreeMap<u64, bool>,
    /// Test deliveries: idempotency key to the event id that was answered.
    tests: BTreeMap<String, Option<String>>,
    /// Mails that are sent: idempotency key to the id that was answered.
    sends: BTreeMap<String, Option<String>>,
    /// How often a client heard what it wanted to hear.
    answers: Arc<AtomicU64>,
    /// What a stream has told of received mails, over all its connections: event id and subject.
    streamed: Vec<(String, String)>,
}

impl Ledger {
    /// Returns keys to go on with: those without an answer, then new ones.
    fn keys<'a>(of: &'a BTreeMap<String, Option<String>>, kind: &'a str) -> Vec<String> {
        let open = of.iter().filter(|(_, id)| id.is_none()).map(|(key, _)| key.clone());
        open.chain((of.len()..of.len() + 500).map(|n| format!("{kind}-{n}"))).collect()
    }

    /// Notes answers; one that was given before must be the same.
    fn note(of: &mut BTreeMap<String, Option<String>>, answers: Vec<(String, Option<String>)>) {
        for (key, answered) in answers {
            let before = of.insert(key.clone(), answered.clone()).flatten();
            assert!(before.is_none() || before == answered, "{key} was answered differently");
        }
    }
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

async fn send_by_http(mailbox: &Client, key: &str) -> Option<String> {
    let mail = json!({
        "from": {"email": "agent@postlog.test"}, "to": {"email": "delivered@simulator.postlog.test"},
        "subject": key, "text_body": "x",
    });
    let request = mailbox.request(reqwest::Method::POST, "/emails/send").header("idempotency-key", key).json(&mail);
    let response = request.send().await.ok()?;
    let status = response.status().as_u16();
    let body: Value = response.json().await.ok()?;
    assert_eq!(status, 200, "{body}");
    Some(body["data"]["message_id"].as_str().unwrap().to_owned())
}

/// Reads a stream on from where it was cut, until it is cut again.
async fn follow(mailbox: &Client, after: Option<&str>) -> Vec<(String, String)> {
    let mut seen = vec![];
    let Some(mut stream) = Stream::try_open(mailbox, "/mailbox/events", after).await else { return seen };
    while let Some(event) = stream.next_within(PATIENCE).await {
        if event.event_type == "message.received" {
            seen.push((event.id, event.data["message"]["subject"].as_str().unwrap().to_owned()));
        }
    }
    seen
}

/// Receives, sends, tests and streams until the server is gone.
async fn load(server: &Server, keys: &Keys, hook: &str, ledger: &mut Ledger) {
    let (root, mailbox) = (server.client(&keys.root), server.client(&keys.mailbox));
    let first = ledger.mails.keys().last().map_or(0, |n| n + 1);
    let again: Vec<u64> = ledger.mails.iter().filter(|(_, answered)| !**answered).map(|(n, _)| *n).collect();
    let (mut mails, mut tests, mut sends) = (vec![], vec![], vec![]);
    let answers = Arc::clone(&ledger.answers);
    let heard = |answered: bool| {
        answers.fetch_add(u64::from(answered), Ordering::SeqCst);
    };
    let mailing = async {
        for n in again.into_iter().chain(first..first + 500) {
            let answered = send(&server.smtp, n).await.is_ok();
            heard(answered);
            mails.push((n, answered));
            if !answered {
                return;
            }
        }
    };
    let testing = async {
        for key in Ledger::keys(&ledger.tests, "test") {
            let answered = test_webhook(&root, hook, &key).await;
            heard(answered.is_some());
            tests.push((key, answered.clone()));
            if answered.is_none() {
                return;
            }
        }
    };
    let sending = async {
        for key in Ledger::keys(&ledger.sends, "send") {
            let answered = send_by_http(&mailbox, &key).await;
            heard(answered.is_some());
            sends.push((key, answered.clone()));
            if answered.is_none() {
                return;
            }
        }
    };
    let after = ledger.streamed.last().map(|(id, _)| id.as_str());
    let ((), (), (), streamed) = tokio::join!(mailing, testing, sending, follow(&mailbox, after));
    ledger.mails.extend(mails);
    Ledger::note(&mut ledger.tests, tests);
    Ledger::note(&mut ledger.sends, sends);
    ledger.streamed.extend(streamed);
}

/// Returns numbers without a pattern, the same in every run (splitmix64).
fn scattered(n: u64) -> u64 {
    let mut z = n.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Kills a process some time after so many answers were given, whatever the pace of the machine.
fn kill_after(pid: u32, answers: Arc<AtomicU64>, after: u64, delay: Duration) -> std::thread::JoinHandle<()> {
    std::thread::spawn(move || {
        let patience = Instant::now() + PATIENCE;
        while answers.load(Ordering::SeqCst) < after && Instant::now() < patience {
            pause(Duration::from_millis(1));
        }
        pause(delay);
        let _ = std::process::Command::new("kill").args(["-KILL", &pid.to_string()]).status();
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_kills_lose_nothing_and_double_nothing() {
    survive("SQLite", Installation::new(), kills() - kills_on_postgres()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kills_on_postgresql_lose_nothing_and_double_nothing() {
    survive("PostgreSQL", Installation::on_postgres().await, kills_on_postgres()).await;
}

async fn survive(store: &str, installation: Installation, kills: u64) {
    let installation = installation
        .with("HTTP__RATE_LIMITS__INFRASTRUCTURE_REQUESTS", "1000000")
        .with("HTTP__RATE_LIMITS__MAILBOX_REQUESTS", "1000000")
        .with("SMTP__RATES__MAILS_PER_MINUTE_PER_MAILBOX_AND_PEER", "0")
        .with("SMTP__RATES__MAILS_PER_MINUTE_PER_MAILBOX", "0");
    let sink = Sink::start().await;
    let server = installation.start();
    let keys = server.keys.clone().unwrap();
    let hook = json!({"url": sink.url, "event_types": ["sendmux.test", "message.received"]});
    let (status, made) = server.client(&keys.root).post("/webhooks", hook).await;
    assert_eq!(status, 201, "{made}");
    let hook = made["data"]["id"].as_str().unwrap().to_owned();
    // The stream begins with the first mail; from there on it is only ever resumed.
    let mut ledger = Ledger::default();
    let mut stream = Stream::open(&server.client(&keys.mailbox), "/mailbox/events", None).await;
    ledger.mails.insert(0, send(&server.smtp, 0).await.is_ok());
    let event = stream.next().await;
    ledger.streamed.push((event.id, event.data["message"]["subject"].as_str().unwrap().to_owned()));
    drop((stream, server));

    for kill in 0..kills {
        let server = installation.start();
        let after = ledger.answers.load(Ordering::SeqCst) + scattered(kill) % 24;
        let delay = Duration::from_micros(scattered(kill + 1_000_000) % 30_000);
        let killer = kill_after(server.pid(), Arc::clone(&ledger.answers), after, delay);
        load(&server, &keys, &hook, &mut ledger).await;
        killer.join().unwrap();
    }
    let server = installation.start();
    finish(&server, &keys, &hook, &mut ledger).await;
    let counted = recount(&server.client(&keys.root)).await;
    check(&server, &keys, &mut ledger, &counted).await;
    assert!(installation.run(&["verify"]).contains("the chain holds"));
    let requests = delivered(&sink, counted.mails.len() + counted.tests.len()).await;
    let attempts_max = ledger.sends.len() + usize::try_from(kills).unwrap();
    assert!(counted.attempts <= attempts_max, "{} attempts for {} mails", counted.attempts, ledger.sends.len());
    report(format_args!(
        "{store}: {kills} kills; {} mails received, {} sent, {} test events, {} events on a stream: lost 0, doubled 0; \
         {} attempts at mails, {requests} webhook requests for {} events",
        counted.mails.len(),
        ledger.sends.len(),
        counted.tests.len(),
        ledger.streamed.len(),
        counted.attempts,
        counted.mails.len() + counted.tests.len(),
    ));
}

/// Does once more what was never answered.
async fn finish(server: &Server, keys: &Keys, hook: &str, ledger: &mut Ledger) {
    let (root, mailbox) = (server.client(&keys.root), server.client(&keys.mailbox));
    for (n, answered) in ledger.mails.iter_mut().filter(|(_, answered)| !**answered) {
        *answered = send(&server.smtp, *n).await.is_ok();
    }
    for (key, event) in ledger.tests.iter_mut().filter(|(_, event)| event.is_none()) {
        *event = test_webhook(&root, hook, key).await;
    }
    for (key, id) in ledger.sends.iter_mut().filter(|(_, id)| id.is_none()) {
        *id = send_by_http(&mailbox, key).await;
    }
    assert!(ledger.mails.values().all(|answered| *answered), "every mail is taken");
    assert!(ledger.tests.values().chain(ledger.sends.values()).all(Option::is_some), "every request is answered");
}

/// Compares what clients know with what the log says.
async fn check(server: &Server, keys: &Keys, ledger: &mut Ledger, counted: &Counted) {
    let expected: BTreeMap<String, u64> = ledger.mails.keys().map(|n| (format!("mail {n}"), 1)).collect();
    assert_eq!(counted.mails, expected, "mails by subject");
    let answered: BTreeSet<String> = ledger.tests.values().flatten().cloned().collect();
    assert_eq!(counted.tests, answered, "test events");
    let ids: BTreeSet<&String> = ledger.sends.values().flatten().collect();
    assert_eq!((ids.len(), counted.queued), (ledger.sends.len(), ledger.sends.len()), "mails that were sent");
    // The stream goes on from where it was cut last, until it has told of every mail.
    let mailbox = server.client(&keys.mailbox);
    let after = ledger.streamed.last().map(|(id, _)| id.clone());
    let mut stream = Stream::open(&mailbox, "/mailbox/events", after.as_deref()).await;
    while ledger.streamed.len() < expected.len() {
        let event = stream.next().await;
        if event.event_type == "message.received" {
            ledger.streamed.push((event.id, event.data["message"]["subject"].as_str().unwrap().to_owned()));
        }
    }
    assert!(ledger.streamed.is_sorted_by(|(a, _), (b, _)| a < b), "ids on the stream grow");
    let told: BTreeSet<&String> = ledger.streamed.iter().map(|(_, subject)| subject).collect();
    assert!(told.len() == ledger.streamed.len() && expected.keys().eq(told), "the stream tells of each mail once");
}

/// What the team's own event feed holds.
#[derive(Default)]
struct Counted {
    /// Received mails by subject.
    mails: BTreeMap<String, u64>,
    tests: BTreeSet<String>,
    /// Mails that were accepted to be sent, and attempts at them.
    queued: usize,
    attempts: usize,
}

async fn recount(root: &Client) -> Counted {
    let mut counted = Counted::default();
    let mut path = "/events?limit=500".to_owned();
    loop {
        let (status, page) = root.get(&path).await;
        assert_eq!(status, 200, "{page}");
        for event in page["data"].as_array().unwrap() {
            match event["type"].as_str().unwrap() {
                "message.received" => {
                    *counted.mails.entry(event["data"]["subject"].as_str().unwrap().to_owned()).or_default() += 1;
                }
                "sendmux.test" => assert!(counted.tests.insert(event["id"].as_str().unwrap().to_owned())),
                "message.queued" => counted.queued += 1,
                "message.attempt_started" => counted.attempts += 1,
                _ => {}
            }
        }
        if page["pagination"]["has_more"] != true {
            return counted;
        }
        path = format!("/events?limit=500&cursor={}", page["pagination"]["next_cursor"].as_str().unwrap());
    }
}

/// Waits until every event was delivered at least once; returns in how many requests.
async fn delivered(sink: &Sink, events: usize) -> usize {
    let wait = async {
        let mut seen = 0;
        loop {
            let requests = sink.wait_for(seen + 1).await;
            seen = requests.len();
            let ids: BTreeSet<_> = requests.iter().map(|r| r.json()["id"].as_str().unwrap().to_owned()).collect();
            if ids.len() == events {
                return seen;
            }
        }
    };
    tokio::time::timeout(PATIENCE * 4, wait).await.expect("every event is delivered")
}
