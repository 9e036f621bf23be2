//! Backups that are taken under load: each is a beginning of the log with everything that was acknowledged before it began.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use serde_json::json;
use sqlx::Connection as _;

use crate::harness::{Client, Installation, report};
use crate::manual::{Servers, block, commands};
use crate::stream_client::Stream;

/// How many backups are taken on SQLite; `POSTLOG_TEST_BACKUPS` sets another number. On PostgreSQL a fifth of them.
fn backups() -> usize {
    std::env::var("POSTLOG_TEST_BACKUPS").ok().and_then(|n| n.parse().ok()).unwrap_or(5)
}

/// Sends mails without a pause until it is told to stop; notes what was acknowledged.
struct Load {
    acknowledged: Arc<Mutex<Vec<String>>>,
    stop: Arc<AtomicBool>,
    work: tokio::task::JoinSet<()>,
}

impl Load {
    fn start(mailbox: &Client, smtp: &str) -> Self {
        let (acknowledged, stop) = (Arc::<Mutex<Vec<String>>>::default(), Arc::<AtomicBool>::default());
        let mut work = tokio::task::JoinSet::new();
        for worker in 0..3 {
            let (mailbox, acknowledged, stop) = (mailbox.clone(), Arc::clone(&acknowledged), Arc::clone(&stop));
            work.spawn(async move {
                for n in 0.. {
                    if stop.load(Ordering::SeqCst) {
                        return;
                    }
                    let mail = json!({
                        "from": {"email": "agent@postlog.test"}, "to": {"email": "delivered@simulator.postlog.test"},
                        "subject": format!("{worker}-{n}"), "text_body": "x".repeat(n % 3 * 40_000 + 1),
                    });
                    let (status, body) = mailbox.post("/emails/send", mail).await;
                    assert_eq!(status, 200, "{body}");
                    acknowledged.lock().unwrap().push(body["data"]["message_id"].as_str().unwrap().to_owned());
                }
            });
        }
        let (smtp, stopped) = (smtp.to_owned(), Arc::clone(&stop));
        work.spawn(async move {
            while !stopped.load(Ordering::SeqCst) {
                let sent = crate::smtp_client::send(&smtp, "ann@example.com", &["agent@postlog.test"], "x", "y").await;
                sent.expect("the mail is accepted");
            }
        });
        Self { acknowledged, stop, work }
    }

    fn so_far(&self) -> Vec<String> {
        self.acknowledged.lock().unwrap().clone()
    }

    /// Waits until that many more were acknowledged.
    async fn more(&self, count: usize) {
        let enough = self.so_far().len() + count;
        let mut pace = tokio::time::interval(std::time::Duration::from_millis(5));
        while self.so_far().len() < enough {
            pace.tick().await;
        }
    }

    async fn end(self) {
        self.stop.store(true, Ordering::SeqCst);
        self.work.join_all().await;
    }
}

/// A log by position: the hash of each event, and its stream.
type Hashes = BTreeMap<i64, (Vec<u8>, String)>;

/// Reads what an installation's store holds.
async fn hashes(installation: &Installation, team: &str) -> Hashes {
    let sqlite = installation.data().join("log.db");
    let rows: Vec<(i64, Vec<u8>, String)> = if sqlite.exists() {
        let options = sqlx::sqlite::SqliteConnectOptions::new().filename(sqlite);
        let mut log = sqlx::SqliteConnection::connect_with(&options).await.unwrap();
        let query = sqlx::query_as("SELECT position, hash, stream FROM events WHERE team_id = $1").bind(team);
        query.fetch_all(&mut log).await.unwrap()
    } else {
        let mut log = sqlx::PgConnection::connect(installation.database()).await.unwrap();
        let query = sqlx::query_as("SELECT position, hash, stream FROM log.events WHERE team_id = $1").bind(team);
        query.fetch_all(&mut log).await.unwrap()
    };
    rows.into_iter().map(|(position, hash, stream)| (position, (hash, stream))).collect()
}

/// Compares what was restored with the whole log and with what was acknowledged before the backup; returns how many events
/// it has.
fn compare(whole: &Hashes, restored: &Hashes, before: &[String]) -> usize {
    let positions: Vec<_> = restored.keys().copied().collect();
    assert_eq!(positions, (1..).take(restored.len()).collect::<Vec<_>>(), "without holes");
    for (position, event) in restored {
        assert_eq!(Some(event), whole.get(position), "it is the beginning of the log");
    }
    let streams: BTreeSet<&str> = restored.values().map(|(_, stream)| stream.as_str()).collect();
    for id in before {
        assert!(streams.contains(format!("outbound/{id}").as_str()), "{id} was acknowledged before the backup began");
    }
    restored.len()
}

fn give_keys(from: &Installation, to: &Installation) {
    std::fs::create_dir_all(to.data()).unwrap();
    for file in ["master.key", "pepper.key", "checkpoint.key", "welcome.shown"] {
        std::fs::copy(from.data().join(file), to.data().join(file)).unwrap();
    }
}

/// An id from beyond the restored log is answered explicitly; new events have ids of a new epoch.
async fn ahead_is_refused(restored: &Installation, mailbox: &Client, root: &Client, last: &str) {
    let server = restored.start();
    let (mailbox, root) = (server.client(mailbox.key()), server.client(root.key()));
    let mut stream = Stream::open(&mailbox, "/mailbox/events", Some(last)).await;
    assert_eq!(stream.next().await.event_type, "sync_required");
    let (status, body) = root.get(&format!("/events?after={last}")).await;
    assert!((400..500).contains(&status), "{status} {body}");
    server.mail("ann@example.com", "agent@postlog.test", "a new epoch", "x").await;
    let known = stream.next().await.id;
    assert!(known.as_str() > last, "{known} is of a later epoch than {last}");
    assert!(server.terminate());
    assert!(restored.run(&["verify"]).contains("the chain holds"));
}

async fn last_event(root: &Client) -> String {
    let mut after = String::new();
    loop {
        let (status, body) = root.get(&format!("/events?limit=500{after}")).await;
        assert_eq!(status, 200, "{body}");
        let Some(last) = body["data"].as_array().unwrap().last() else { return after.split_off("&after=".len()) };
        after = format!("&after={}", last["id"].as_str().unwrap());
    }
}

fn busy(installation: Installation) -> Installation {
    installation
        .with("HTTP__RATE_LIMITS__MAILBOX_REQUESTS", "1000000")
        .with("HTTP__RATE_LIMITS__INFRASTRUCTURE_REQUESTS", "1000000")
        .with("SMTP__RATES__MAILS_PER_MINUTE_PER_MAILBOX_AND_PEER", "0")
        .with("SMTP__RATES__MAILS_PER_MINUTE_PER_MAILBOX", "0")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_backup_under_load_is_a_beginning_of_the_log_with_all_that_was_acknowledged() {
    let installation = busy(Installation::new());
    let server = installation.start();
    let keys = server.keys.clone().unwrap();
    let (root, mailbox) = (server.client(&keys.root), server.client(&keys.mailbox));
    let team = root.get("/me").await.1["data"]["team"]["id"].as_str().unwrap().to_owned();
    let load = Load::start(&mailbox, &server.smtp);
    let mut taken: Vec<(PathBuf, Vec<String>)> = vec![];
    for n in 0..backups() {
        load.more(5 + n % 7).await;
        let (copy, before) = (installation.data().with_extension(format!("copy-{n}")), load.so_far());
        tokio::task::block_in_place(|| installation.run(&["backup", "--out", copy.to_str().unwrap()]));
        taken.push((copy, before));
    }
    load.more(5).await;
    let acknowledged = load.so_far().len();
    load.end().await;
    let last = last_event(&root).await;
    let whole = hashes(&installation, &team).await;
    assert!(server.terminate());
    let mut restored_events = 0;
    for (n, (copy, before)) in taken.iter().enumerate() {
        let restored = busy(Installation::new());
        give_keys(&installation, &restored);
        let said = restored.run(&["restore", "--from", copy.to_str().unwrap()]);
        assert!(said.contains("as epoch 2"), "{said}");
        assert!(restored.run(&["verify"]).contains("the chain holds"));
        let found = hashes(&restored, &team).await;
        restored_events += compare(&whole, &found, before);
        if n + 1 == taken.len() {
            ahead_is_refused(&restored, &mailbox, &root, &last).await;
        }
    }
    report(format_args!(
        "{} backups under load, of a log with {} events in the end, {acknowledged} mails acknowledged: all {restored_events} \
         restored events are those of the log, and none that was acknowledged before is missing",
        taken.len(),
        whole.len(),
    ));
}

/// The n-th backup of the manual, under a name of its own.
fn nth(block: &str, n: usize) -> String {
    assert!(block.contains("2026-11-21"), "{block}");
    block.replace("2026-11-21", &format!("number-{n}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_postgresql_backups_are_taken_and_restored_by_the_commands_of_the_manual() {
    const PART: &str = "### Backups on PostgreSQL";
    let servers = tokio::task::block_in_place(Servers::primary);
    let installation = busy(Installation::new()).with("DATABASE__URL", &servers.url_of(0));
    let server = installation.start();
    let keys = server.keys.clone().unwrap();
    let (root, mailbox) = (server.client(&keys.root), server.client(&keys.mailbox));
    let team = root.get("/me").await.1["data"]["team"]["id"].as_str().unwrap().to_owned();
    let load = Load::start(&mailbox, &server.smtp);
    let mut taken = vec![];
    for n in 0..backups().div_ceil(5) {
        // The whole server, and the database alone.
        for way in [0, 1] {
            load.more(5 + n % 7).await;
            taken.push((way, n, load.so_far()));
            tokio::task::block_in_place(|| servers.run(&nth(block(PART, way), n)));
        }
    }
    load.more(5).await;
    load.end().await;
    let last = last_event(&root).await;
    let whole = hashes(&installation, &team).await;
    assert!(server.terminate());
    let mut restored_events = 0;
    for (way, n, before) in &taken {
        tokio::task::block_in_place(|| servers.run(&nth(block(PART, way + 2), *n)));
        let restored = busy(Installation::new()).with("DATABASE__URL", &servers.url_of(2));
        give_keys(&installation, &restored);
        let restored = restored.with("BLOBS__LOCATION", installation.data().join("blobs").to_str().unwrap());
        let then = commands(block(PART, 4));
        let [begin, verify] = then.as_slice() else { panic!("two commands: {then:?}") };
        assert!(restored.run(begin).contains("epoch 2 begins"));
        assert!(restored.run(verify).contains("the chain holds"));
        restored_events += compare(&whole, &hashes(&restored, &team).await, before);
        if *n == 0 {
            ahead_is_refused(&restored, &mailbox, &root, &last).await;
        }
        tokio::task::block_in_place(|| servers.drop_restored());
    }
    report(format_args!(
        "{} backups of PostgreSQL under load, half of the server and half of the database: all {restored_events} restored \
         events are those of the log, and none that was acknowledged before is missing",
        taken.len(),
    ));
}
