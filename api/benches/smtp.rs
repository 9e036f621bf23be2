//! How many mails a second are durable on SQLite, and how long a client waits for each.
//!
//! `cargo bench -p api --bench smtp -- [mails] [sessions] [octets]`. Each session hands over one mail after another,
//! pipelined: the envelope in one write, the content in the next. A latency is the time from the first octet of MAIL to
//! the last octet of the final 250. `POSTLOG_BENCH_DIR` chooses the disk. With `SMTP_SOURCE=/path/to/smtp-source` that
//! program sends a second round, and `POSTLOG_BENCH_IDLE=2000` measures sessions that do nothing. With
//! `POSTLOG_BENCH_PROJECT=1` the projections follow meanwhile.
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a benchmark talks to whoever runs it")]

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use api::receive::Receiver;
use api::smtp::{Config, Listener};
use domain::id::{DomainId, MailboxId, TeamId};
use domain::mailbox::{OpenMailbox, SendScope};
use domain::sending_domain::{AddVerifiedDomain, Mode};
use domain::team::{CreateTeam, Limits};
use domain::{Actor, Command};
use eventlog::sqlite::SqliteBackend;
use eventlog::{Allot, BlobStore, EventLog, MasterKey, Options, Submission};
use projections::{Runner, Views};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

const MAILBOXES: usize = 20;

async fn run<C: Command>(log: &EventLog, allot: &Allot, team: &TeamId, command: C) {
    let submission = Submission::new(team.clone(), allot.now(), Actor::Operator, "bench", command);
    log.transact(submission).await.map(|_| ()).unwrap();
}

/// One session: hands over mails until none is left; returns how long each took.
async fn session(door: SocketAddr, left: Arc<AtomicUsize>, octets: usize) -> Vec<Duration> {
    let mut stream = TcpStream::connect(door).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let mut input = vec![0; 4096];
    replies(&mut stream, &mut input, 1).await;
    stream.write_all(b"EHLO bench.test\r\n").await.unwrap();
    replies(&mut stream, &mut input, 1).await;
    let mut taken = vec![];
    while let Ok(n) = left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1)) {
        let begun = Instant::now();
        let envelope = format!("MAIL FROM:<a@sender.test>\r\nRCPT TO:<box{}@bench.test>\r\nDATA\r\n", n % MAILBOXES);
        stream.write_all(envelope.as_bytes()).await.unwrap();
        replies(&mut stream, &mut input, 3).await;
        stream.write_all(content(n, octets).as_bytes()).await.unwrap();
        replies(&mut stream, &mut input, 1).await;
        taken.push(begun.elapsed());
    }
    stream.write_all(b"QUIT\r\n").await.unwrap();
    taken
}

/// Opens sessions that do nothing, and tells what each costs, client side included.
async fn idle(door: SocketAddr, count: usize) {
    let before = resident_octets();
    let mut open = Vec::with_capacity(count);
    let mut input = vec![0; 4096];
    for _ in 0..count {
        let mut stream = TcpStream::connect(door).await.unwrap();
        replies(&mut stream, &mut input, 1).await;
        stream.write_all(b"EHLO bench.test\r\n").await.unwrap();
        replies(&mut stream, &mut input, 1).await;
        open.push(stream);
    }
    let octets = resident_octets().saturating_sub(before);
    println!("{} idle sessions: {} octets of resident memory each", open.len(), octets / count.max(1));
}

fn resident_octets() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = statm.split(' ').nth(1).and_then(|pages| pages.parse::<usize>().ok()).unwrap_or(0);
    pages * 4096
}

fn content(n: usize, octets: usize) -> String {
    let mut mail = format!(
        "From: Sender <a@sender.test>\r\nTo: box@bench.test\r\nSubject: mail number {n}\r\n\
         Date: Tue, 1 Sep 2026 10:00:00 +0000\r\nMessage-ID: <{n}.{}@sender.test>\r\n\
         MIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\n\r\n",
        std::process::id()
    );
    while mail.len() < octets {
        mail.push_str("The quick brown fox jumps over the lazy dog, again and again, until it is tired.\r\n");
    }
    mail.push_str(".\r\n");
    mail
}

/// Reads so many replies; each must be a good one.
async fn replies(stream: &mut TcpStream, input: &mut [u8], count: usize) {
    let (mut have, mut seen, mut line) = (0, 0, 0);
    loop {
        while let Some(end) = input[line..have].iter().position(|b| *b == b'\n') {
            assert!(matches!(input[line], b'2' | b'3'), "{}", String::from_utf8_lossy(&input[line..have]));
            seen += usize::from(input[line + 3] == b' ');
            line += end + 1;
        }
        if seen >= count {
            return;
        }
        have += stream.read(&mut input[have..]).await.unwrap();
    }
}

fn report(what: &str, mut taken: Vec<Duration>, elapsed: Duration) {
    taken.sort_unstable();
    let at = |percent: usize| taken[(taken.len() - 1) * percent / 100].as_secs_f64() * 1_000.0;
    let rate = taken.len() as f64 / elapsed.as_secs_f64();
    println!(
        "{what}: {} mails in {:.2} s = {rate:.0}/s durable; latency ms p50 {:.1} p90 {:.1} p99 {:.1} max {:.1}",
        taken.len(),
        elapsed.as_secs_f64(),
        at(50),
        at(90),
        at(99),
        at(100)
    );
}

#[tokio::main]
async fn main() {
    let numbers: Vec<usize> = std::env::args().skip(1).filter_map(|a| a.parse().ok()).collect();
    let [mails, sessions, octets] =
        [(0, 20_000), (1, 20), (2, 4_096)].map(|(at, or)| numbers.get(at).copied().unwrap_or(or));
    let directory = match std::env::var_os("POSTLOG_BENCH_DIR") {
        Some(path) => tempfile::tempdir_in(path).unwrap(),
        None => tempfile::tempdir().unwrap(),
    };
    let backend = Arc::new(SqliteBackend::open_reserving(&directory.path().join("log.db"), 64 << 20).await.unwrap());
    let allot = Allot::system();
    let blobs = BlobStore::local(&directory.path().join("blobs")).unwrap();
    let log = EventLog::open(backend, Options::new(MasterKey::new(&[7; 32]), blobs, allot.entropy())).await.unwrap();
    let team = TeamId::new(allot.now(), allot.random());
    run(&log, &allot, &team, CreateTeam { name: "bench".into(), limits: Limits::default() }).await;
    let domain = DomainId::new(allot.now(), allot.random());
    run(&log, &allot, &team, AddVerifiedDomain { domain, name: "bench.test".into(), mode: Mode::SendReceive }).await;
    for n in 0..MAILBOXES {
        let command = OpenMailbox {
            mailbox: MailboxId::new(allot.now(), allot.random()),
            email: format!("box{n}@bench.test").parse().unwrap(),
            display_name: None,
            quota_bytes: 1 << 40,
            send_scope: SendScope::All,
            credential: None,
        };
        run(&log, &allot, &team, command).await;
    }
    let mut config = Config { listen: vec!["127.0.0.1:0".parse().unwrap()], ..Config::default() };
    config.rates.mails_per_minute_per_mailbox = 0;
    config.rates.mails_per_minute_per_mailbox_and_peer = 0;
    config.limits.transactions_max = 1_000_000;
    config.limits.connections_per_peer_max = 10_000;
    let views = Views::open_sqlite(&directory.path().join("views.db")).await.unwrap();
    let receiver = Receiver::new(log.clone(), views.clone(), allot.clone(), config.receive_options(), None);
    let listener = Listener::bind(config, receiver, allot.clone(), None).await.unwrap();
    let door = listener.addresses()[0];
    let stop = CancellationToken::new();
    let mut serving = JoinSet::new();
    serving.spawn(listener.run(stop.clone()));
    let mut following = JoinSet::new();
    if std::env::var_os("POSTLOG_BENCH_PROJECT").is_some() {
        following.spawn(Runner::new(log.clone(), views.clone()).run(stop.clone()));
    }

    let processors = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
    println!("{processors} processors, {sessions} sessions, {octets} octets a mail");
    for (what, count) in [("warm-up", mails / 10), ("pipelined", mails)] {
        let left = Arc::new(AtomicUsize::new(count));
        let mut clients = JoinSet::new();
        let begun = Instant::now();
        for _ in 0..sessions {
            clients.spawn(session(door, Arc::clone(&left), octets));
        }
        let taken = clients.join_all().await.concat();
        report(what, taken, begun.elapsed());
    }
    if let Some(program) = std::env::var_os("SMTP_SOURCE") {
        let before = log.head(&team).await.unwrap().position;
        let begun = Instant::now();
        let status = tokio::process::Command::new(program)
            .args(["-s", &sessions.to_string(), "-m", &mails.to_string(), "-l", &octets.to_string()])
            .args(["-f", "a@sender.test", "-t", "box1@bench.test", "-d", &format!("inet:{door}")])
            .status()
            .await
            .unwrap();
        let (elapsed, stored) = (begun.elapsed().as_secs_f64(), log.head(&team).await.unwrap().position - before);
        println!("smtp-source ({status}): {stored} mails in {elapsed:.2} s = {:.0}/s durable", stored as f64 / elapsed);
    }
    if let Some(count) = std::env::var("POSTLOG_BENCH_IDLE").ok().and_then(|count| count.parse().ok()) {
        idle(door, count).await;
    }
    stop.cancel();
    serving.join_all().await;
    following.join_all().await;
    log.close().await;
}
