//! The primary is killed under load and its synchronous standby promoted: what was acknowledged is there, exactly once.
//! The servers are set up, promoted and brought back by the commands of `docs/operations.md`.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use sqlx::{Connection as _, PgConnection};
use tempfile::TempDir;

use crate::harness::{Client, Installation, Server, pause, report};

const OPERATIONS: &str = include_str!("../../docs/operations.md");
/// How long after a promotion the service may be away.
const BACK_WITHIN: Duration = Duration::from_secs(30);

/// How many times the primary is lost; `POSTLOG_TEST_FAILOVERS` sets another number.
fn failovers() -> usize {
    std::env::var("POSTLOG_TEST_FAILOVERS").ok().and_then(|n| n.parse().ok()).unwrap_or(3)
}

/// Returns the n-th block of commands behind a heading of the manual.
fn block(heading: &str, n: usize) -> &'static str {
    let (_, rest) = OPERATIONS.split_once(heading).expect("the manual has this part");
    let block = rest.split("```sh\n").nth(n + 1).expect("a block");
    block.split_once("```").expect("its end").0
}

/// Two servers of which one is the primary.
struct Pair {
    place: TempDir,
    user: Option<(u32, u32)>,
    ports: [u16; 2],
    primary: usize,
}

/// PostgreSQL refuses to run as root: returns whom to run it as instead.
fn unprivileged() -> Option<(u32, u32)> {
    use std::os::unix::fs::MetadataExt as _;
    if std::fs::metadata("/proc/self").expect("this process").uid() != 0 {
        return None;
    }
    let users = std::fs::read_to_string("/etc/passwd").expect("a list of users");
    let ids = |name: &str| {
        let fields: Vec<_> = users.lines().find(|line| line.split(':').next() == Some(name))?.split(':').collect();
        Some((fields.get(2)?.parse().ok()?, fields.get(3)?.parse().ok()?))
    };
    Some(ids("postgres").or_else(|| ids("nobody")).expect("a user `postgres` or `nobody`"))
}

/// Returns the path with the directory of PostgreSQL's programs in it.
fn path() -> String {
    let path = std::env::var("PATH").unwrap_or_default();
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let bins: Vec<_> = versions.map(|version| version.path().join("bin").display().to_string()).collect();
    [bins, vec![path]].concat().join(":")
}

fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address").port()
}

/// Turns commands of the manual around: what they do to server one is done to two, and the other way round.
fn turned(commands: &str) -> String {
    let swaps =
        [("pg/one", "pg/two"), ("5433", "5434"), ("application_name=one", "application_name=two"), ("'one'", "'two'")];
    let swap = |text: String, (a, b): &(&str, &str)| text.replace(a, "\u{0}").replace(b, a).replace('\u{0}', b);
    swaps.iter().fold(commands.to_owned(), swap)
}

impl Pair {
    fn start() -> Self {
        let place = TempDir::new().expect("a temporary directory");
        let user = unprivileged();
        if let Some((user, group)) = user {
            std::os::unix::fs::chown(place.path(), Some(user), Some(group)).expect("root gives its directory away");
        }
        let pair = Self { place, user, ports: [free_port(), free_port()], primary: 0 };
        pair.run(block("## Synchronous standby", 0));
        pair
    }

    fn directory(&self, server: usize) -> PathBuf {
        self.place.path().join(["one", "two"][server])
    }

    /// Fills in what differs here.
    fn filled(&self, commands: &str) -> String {
        commands
            .replace("/srv/pg", &self.place.path().display().to_string())
            .replace("5433", &self.ports[0].to_string())
            .replace("5434", &self.ports[1].to_string())
            // What a crash of this machine would do to files of a test is of no interest.
            .replace("initdb -D", "initdb --no-sync -D")
            .replace("pg_basebackup -D", "pg_basebackup --no-sync -D")
    }

    /// Runs commands of the manual, or others, as the owner of the servers.
    fn run(&self, commands: &str) {
        if let Err(said) = self.try_run(commands) {
            panic!("{commands}\nfailed: {said}");
        }
    }

    /// The same; returns what they said when they failed.
    fn try_run(&self, commands: &str) -> Result<(), String> {
        let log = tempfile::tempfile().expect("a temporary file");
        let mut command = Command::new("sh");
        command.args(["-ec", &self.filled(commands)]).env("PATH", path()).current_dir("/").stdin(Stdio::null());
        // The servers inherit what they are given: a pipe would be waited for until they end.
        command.stdout(log.try_clone().unwrap()).stderr(log.try_clone().unwrap());
        if let Some((user, group)) = self.user {
            command.uid(user).gid(group);
        }
        let status = command.status().expect("a shell");
        if status.success() {
            return Ok(());
        }
        use std::io::{Read as _, Seek as _};
        let (mut log, mut said) = (log, String::new());
        log.rewind().and_then(|()| log.read_to_string(&mut said)).expect("its words");
        Err(said)
    }

    /// Kills the primary as a power cut would.
    fn kill_primary(&self) {
        let pid = std::fs::read_to_string(self.directory(self.primary).join("postmaster.pid")).expect("it runs");
        let pid = pid.lines().next().expect("a process id").to_owned();
        assert!(Command::new("kill").args(["-KILL", &pid]).status().expect("kill runs").success());
        // What served connections ends with it.
        let deadline = Instant::now() + Duration::from_secs(10);
        while Path::new(&format!("/proc/{pid}")).exists() && Instant::now() < deadline {
            pause(Duration::from_millis(10));
        }
    }

    fn promote(&mut self) {
        let commands = block("## Synchronous standby", 2);
        let commands = if self.primary == 0 { commands.to_owned() } else { turned(commands) };
        // On a busy machine a standby was seen not to hear it for a minute: then it is told again, as an operator would.
        let mut said = String::new();
        for _ in 0..6 {
            match self.try_run(&format!("export PGCTLTIMEOUT=10\n{commands}")) {
                Err(words) if !words.contains("not in standby mode") => said = words,
                _ => {
                    self.primary = 1 - self.primary;
                    return;
                }
            }
        }
        panic!("{commands}\nfailed: {said}");
    }

    /// Brings the lost server back as a standby.
    fn rejoin(&self) {
        let commands = block("## Synchronous standby", 3);
        self.run(&if self.primary == 1 { commands.to_owned() } else { turned(commands) });
    }

    fn url(&self) -> String {
        let line = block("## Synchronous standby", 1).trim();
        self.filled(line.strip_prefix("export POSTLOG_DATABASE__URL=").expect("it sets the URL"))
    }

    /// Returns what the primary's connections wait for, and the end of its own log.
    async fn what_the_primary_does(&self) -> String {
        let connected = tokio::time::timeout(Duration::from_secs(10), self.connect(self.primary)).await;
        let mut said = match connected {
            Err(_) => "it takes no connection\n".to_owned(),
            Ok(mut connection) => {
                let activity = "SELECT pg_is_in_recovery()::text || ' ' || coalesce(string_agg(concat_ws(' ', pid,
                    backend_type, state, wait_event_type, wait_event, left(query, 60)), E'\\n'), '') FROM pg_stat_activity";
                let rows: Result<String, _> = sqlx::query_scalar(activity).fetch_one(&mut connection).await;
                format!("{rows:?}\n").replace("\\n", "\n")
            }
        };
        let log = std::fs::read_to_string(format!("{}.log", self.directory(self.primary).display()));
        let lines: Vec<_> = log.as_deref().unwrap_or_default().lines().rev().take(40).collect();
        lines.iter().rev().for_each(|line| said.extend([line, "\n"]));
        said
    }

    async fn connect(&self, server: usize) -> PgConnection {
        let url = format!("postgres://postlog@127.0.0.1:{}/postlog", self.ports[server]);
        PgConnection::connect(&url).await.expect("the server answers")
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        for server in 0..2 {
            let directory = self.directory(server);
            if let Ok(pid) = std::fs::read_to_string(directory.join("postmaster.pid")) {
                let pid = pid.lines().next().unwrap_or_default().to_owned();
                let _ = Command::new("kill").args(["-QUIT", &pid]).status();
            }
        }
    }
}

/// What clients know, and when they were last answered.
#[derive(Default)]
struct Ledger {
    /// Idempotency key to the answered id.
    sends: Mutex<BTreeMap<String, String>>,
    mails: AtomicU64,
    repeats: AtomicU64,
    /// When each node first answered since it was asked to note it.
    answered: Mutex<BTreeMap<usize, Instant>>,
    stop: AtomicBool,
}

async fn send(client: &Client, key: &str) -> Option<String> {
    let mail = json!({
        "from": {"email": "agent@postlog.test"}, "to": {"email": "delivered@simulator.postlog.test"},
        "subject": key, "text_body": "x",
    });
    let request = client.request(reqwest::Method::POST, "/emails/send").header("idempotency-key", key).json(&mail);
    let response = tokio::time::timeout(Duration::from_secs(20), request.send()).await.ok()?.ok()?;
    let status = response.status().as_u16();
    let body: Value = response.json().await.ok()?;
    match status {
        200 => Some(body["data"]["message_id"].as_str().unwrap().to_owned()),
        503 => None,
        _ => panic!("{status}: {body}"),
    }
}

/// Sends mails one after another, each until it is answered, at either node in turn.
async fn sender(worker: usize, clients: Vec<Client>, ledger: Arc<Ledger>) {
    let mut turn = worker;
    for n in 0.. {
        if ledger.stop.load(Ordering::SeqCst) {
            return;
        }
        let key = format!("{worker}-{n}");
        loop {
            turn += 1;
            let node = turn % clients.len();
            if let Some(id) = send(&clients[node], &key).await {
                ledger.answered.lock().unwrap().entry(node).or_insert_with(Instant::now);
                ledger.sends.lock().unwrap().insert(key, id);
                break;
            }
            ledger.repeats.fetch_add(1, Ordering::SeqCst);
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

/// Has mails received one after another, each until it is taken.
async fn receiver(smtp: Vec<String>, ledger: Arc<Ledger>) {
    for n in 0.. {
        if ledger.stop.load(Ordering::SeqCst) {
            return;
        }
        let content =
            format!("From: <ann@example.com>\r\nSubject: mail {n}\r\nMessage-ID: <{n}@example.com>\r\n\r\nx\r\n");
        for turn in n.. {
            let server = &smtp[turn % smtp.len()];
            let to = ["agent@postlog.test"];
            let sent = crate::smtp_client::send_raw(server, "ann@example.com", &to, &content);
            if let Ok(Ok(_)) = tokio::time::timeout(Duration::from_secs(20), sent).await {
                ledger.mails.fetch_add(1, Ordering::SeqCst);
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_acknowledged_event_is_lost_when_the_primary_dies_and_its_standby_takes_over() {
    let mut pair = tokio::task::block_in_place(Pair::start);
    let installation = Installation::new()
        .with("DATABASE__URL", &pair.url())
        .with("HTTP__RATE_LIMITS__MAILBOX_REQUESTS", "1000000")
        .with("SMTP__RATES__MAILS_PER_MINUTE_PER_MAILBOX_AND_PEER", "0")
        .with("SMTP__RATES__MAILS_PER_MINUTE_PER_MAILBOX", "0");
    let a = installation.start();
    let keys = a.keys.clone().unwrap();
    let other = installation.another_node();
    let b = other.start();
    let nodes = [a, b];
    let ledger = Arc::new(Ledger::default());
    let mut work = tokio::task::JoinSet::new();
    for worker in 0..3 {
        let clients = nodes.iter().map(|node| node.client(&keys.mailbox)).collect();
        work.spawn(sender(worker, clients, Arc::clone(&ledger)));
    }
    work.spawn(receiver(nodes.iter().map(|node| node.smtp.clone()).collect(), Arc::clone(&ledger)));
    let mut away = Duration::ZERO;
    let rounds = failovers();
    for round in 0..rounds {
        under_load(&ledger, 20 + round % 7).await;
        tokio::task::block_in_place(|| {
            pair.kill_primary();
            pair.promote();
        });
        away = away.max(back(&pair, &ledger, &nodes).await);
        if round == 0 {
            old_primary_is_left_alone(&pair, &ledger).await;
        }
        if round + 1 < rounds {
            tokio::task::block_in_place(|| pair.rejoin());
        }
    }
    ledger.stop.store(true, Ordering::SeqCst);
    work.join_all().await;
    let (sends, mails) = count(&pair, &ledger).await;
    assert!(installation.run(&["verify"]).contains("the chain holds"));
    report(format_args!(
        "{rounds} failovers: {sends} mails sent and {mails} received were acknowledged: lost 0, doubled 0; {} requests were \
         repeated; at most {} ms from a promotion until both nodes took writes",
        ledger.repeats.load(Ordering::SeqCst),
        away.as_millis(),
    ));
}

/// Waits until that many more mails were acknowledged.
async fn under_load(ledger: &Ledger, more: usize) {
    let enough = ledger.sends.lock().unwrap().len() + more;
    let deadline = Instant::now() + BACK_WITHIN;
    while ledger.sends.lock().unwrap().len() < enough {
        assert!(Instant::now() < deadline, "mails are acknowledged");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Waits until both nodes have answered again; returns how long that took.
async fn back(pair: &Pair, ledger: &Ledger, nodes: &[Server]) -> Duration {
    let promoted = Instant::now();
    ledger.answered.lock().unwrap().clear();
    while ledger.answered.lock().unwrap().len() < nodes.len() {
        if promoted.elapsed() >= BACK_WITHIN {
            let answered: Vec<_> = ledger.answered.lock().unwrap().keys().copied().collect();
            panic!(
                "the service is not back within {BACK_WITHIN:?} of the promotion; nodes that answered: {answered:?}\n{}",
                pair.what_the_primary_does().await
            );
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    promoted.elapsed()
}

/// The replaced primary comes back by mistake, still believing in itself: no node writes to it.
async fn old_primary_is_left_alone(pair: &Pair, ledger: &Ledger) {
    let old = 1 - pair.primary;
    let directory = pair.directory(old).display().to_string();
    tokio::task::block_in_place(|| pair.run(&format!("pg_ctl -D {directory} -l {directory}.log -w start")));
    let mut connection = pair.connect(old).await;
    let events = "SELECT COUNT(*) FROM log.events";
    let before: i64 = sqlx::query_scalar(events).fetch_one(&mut connection).await.unwrap();
    under_load(ledger, 20).await;
    let after: i64 = sqlx::query_scalar(events).fetch_one(&mut connection).await.unwrap();
    assert_eq!(before, after, "nothing is written to the replaced primary");
    connection.close().await.unwrap();
    tokio::task::block_in_place(|| pair.run(&format!("pg_ctl -D {directory} -m immediate -w stop")));
}

/// Compares the ledger with the log.
async fn count(pair: &Pair, ledger: &Ledger) -> (usize, u64) {
    let mut connection = pair.connect(pair.primary).await;
    let accepted: Vec<String> = sqlx::query_scalar("SELECT stream FROM log.events WHERE name = 'outbound.accepted'")
        .fetch_all(&mut connection)
        .await
        .unwrap();
    let accepted: Vec<&str> = accepted.iter().map(|stream| stream.rsplit('/').next().unwrap()).collect();
    let sends = ledger.sends.lock().unwrap().clone();
    let there: BTreeSet<&str> = accepted.iter().copied().collect();
    let known: BTreeSet<&str> = sends.values().map(String::as_str).collect();
    assert_eq!(there, known, "what was acknowledged is there, and nothing else");
    assert_eq!((accepted.len(), known.len()), (sends.len(), sends.len()), "each key has one effect");
    let received: i64 = sqlx::query_scalar("SELECT COUNT(*) FROM log.events WHERE name = 'message.received'")
        .fetch_one(&mut connection)
        .await
        .unwrap();
    let mails = ledger.mails.load(Ordering::SeqCst);
    assert_eq!(u64::try_from(received).unwrap(), mails);
    connection.close().await.unwrap();
    (sends.len(), mails)
}
