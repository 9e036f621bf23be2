//! Mails per second to Postfix's `smtp-sink`, the ceiling of a bare loop beside it; what long queues cost.
//!
//! `cargo bench -p dispatcher --bench outbound [-- submission|signing|fairness|restart|memory [mails]]`
#![expect(clippy::disallowed_methods, reason = "servers end with the runtime of the benchmark")]
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a measurement prints, and may fail loudly")]

#[path = "../tests/outbound/gate.rs"]
#[expect(dead_code, reason = "the stories use the rest")]
mod gate;
#[path = "../tests/support/reactor.rs"]
mod reactor;
#[path = "../tests/outbound/store_sqlite.rs"]
mod store;
#[path = "../tests/outbound/world.rs"]
#[expect(dead_code, reason = "the stories use the rest")]
mod world;

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use dispatcher::outbound::Queue;
use dispatcher::smtp::{Mailer, Peer, Protection};
use domain::id::{OutboundId, ProviderId, TeamId};
use domain::outbound::Status;
use domain::provider::{CreateProvider, Identity, Quotas, Security, Settings, Transport};
use futures_util::future::join_all;
use mail::address::{Address, ReversePath};
use mail::auth::{DkimKey, DkimSigner, Zone, sign_dkim};
use mail::smtp::client::Mail;
use projections::webhook_attempts::Work;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};

use world::World;

/// Octets of a mail.
const OCTETS: usize = 4_096;
const CONNECTIONS: usize = 10;

/// Takes mail and forgets it: Postfix's own, or a loop of ours where that is not installed.
struct Sink {
    port: u16,
    name: &'static str,
    process: Option<Child>,
}

impl Drop for Sink {
    fn drop(&mut self) {
        if let Some(process) = &mut self.process {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

impl Sink {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let program = ["/usr/sbin/smtp-sink", "/usr/libexec/postfix/smtp-sink"];
        let program = program.into_iter().find(|p| Path::new(p).exists());
        // Root has to name somebody else to run as, and nobody else may.
        for user in [&["-u", "nobody"][..], &[]] {
            let Some(program) = program else { break };
            let mut command = Command::new(program);
            command.args(user).arg(format!("127.0.0.1:{}", port + 1)).arg("1000");
            let mut process = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
            while process.try_wait().unwrap().is_none() {
                if TcpStream::connect(("127.0.0.1", port + 1)).await.is_ok() {
                    return Self { port: port + 1, name: "smtp-sink", process: Some(process) };
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
        tokio::spawn(take_all(listener));
        Self { port, name: "a sink of our own", process: None }
    }
}

async fn take_all(listener: TcpListener) {
    while let Ok((stream, _)) = listener.accept().await {
        tokio::spawn(async move {
            let (read, mut write) = stream.into_split();
            let (mut lines, mut content) = (BufReader::new(read).lines(), false);
            let _ = write.write_all(b"220 sink\r\n").await;
            while let Ok(Some(line)) = lines.next_line().await {
                let reply = match line.split(' ').next().unwrap() {
                    "." => "250 ok\r\n",
                    _ if content => continue,
                    "EHLO" => "250-sink\r\n250-8BITMIME\r\n250 PIPELINING\r\n",
                    "DATA" => "354 go on\r\n",
                    _ => "250 ok\r\n",
                };
                content = reply.starts_with("354");
                if write.write_all(reply.as_bytes()).await.is_err() {
                    return;
                }
            }
        });
    }
}

fn body() -> String {
    "0123456789012345678901234567890123456789012345678901234567890123456789\r\n".repeat(OCTETS / 72)
}

/// A client that knows nothing but the happy path: four writes and four reads a mail.
async fn bare(port: u16, mails: usize) -> f64 {
    let started = Instant::now();
    let loops = (0..CONNECTIONS).map(|_| {
        tokio::spawn(async move {
            let stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
            stream.set_nodelay(true).unwrap();
            let (read, mut write) = stream.into_split();
            let mut lines = BufReader::new(read).lines();
            let content = format!("Subject: x\r\n\r\n{}.\r\n", body());
            lines.next_line().await.unwrap();
            write.write_all(b"EHLO bench\r\n").await.unwrap();
            while lines.next_line().await.unwrap().unwrap().as_bytes()[3] == b'-' {}
            for _ in 0..mails / CONNECTIONS {
                let group = b"MAIL FROM:<ann@example.org>\r\nRCPT TO:<bob@example.net>\r\nDATA\r\n";
                write.write_all(group).await.unwrap();
                for _ in 0..3 {
                    lines.next_line().await.unwrap();
                }
                write.write_all(content.as_bytes()).await.unwrap();
                assert!(lines.next_line().await.unwrap().unwrap().starts_with("250"));
            }
        })
    });
    join_all(loops).await.into_iter().for_each(|done| done.unwrap());
    mails as f64 / started.elapsed().as_secs_f64()
}

/// Our client without log and queue.
async fn mailer(port: u16, mails: usize) -> f64 {
    let config = dispatcher::outbound::Config { dangerous_allow_loopback: true, ..Default::default() };
    let mailer: Mailer = config.mailer(Arc::new(Zone::new()));
    let started = Instant::now();
    let content: Arc<[u8]> = format!("Subject: x\r\n\r\n{}", body()).into_bytes().into();
    let loops = (0..CONNECTIONS).map(|_| {
        let (mailer, content) = (mailer.clone(), Arc::clone(&content));
        tokio::spawn(async move {
            let (key, host) = ("sink".to_owned(), "127.0.0.1".to_owned());
            let peer = Peer { key, host, port, protection: Protection::None, login: None };
            let from = ReversePath::parse("<ann@example.org>").unwrap();
            let to = vec![Address::parse("bob@example.net").unwrap()];
            for _ in 0..mails / CONNECTIONS {
                let mail = Mail::new(from.clone(), to.clone(), Arc::clone(&content));
                let submitted = mailer.submit(&peer, mail).await.unwrap();
                assert!(submitted.recipients[0].is_accepted());
            }
        })
    });
    join_all(loops).await.into_iter().for_each(|done| done.unwrap());
    mails as f64 / started.elapsed().as_secs_f64()
}

/// A world on files, as in production.
async fn world() -> (World, TempDir) {
    let directory = tempfile::tempdir().unwrap();
    let world = world_in(directory.path()).await;
    world.create_team(&world.team).await;
    (world, directory)
}

async fn world_in(directory: &Path) -> World {
    let log = directory.join("log.db");
    let backend = eventlog::sqlite::SqliteBackend::open_reserving(&log, 64 << 20).await.unwrap();
    let work = Work::open_sqlite(&directory.join("work.db"), &[Queue::TABLES]).await.unwrap();
    let mut world = World::open(Arc::new(backend), work).await;
    (world.config.drain_seconds, world.body) = (1, body());
    world
}

/// Creates an account whose server takes mail from anybody.
async fn account_without_login(world: &World, team: &TeamId, port: u16) {
    let transport = Transport::CustomSmtp { host: "127.0.0.1".into(), port, security: Security::None };
    let settings = Settings { transport, percentage: None, quotas: Quotas::default() };
    let (identity, provider) =
        (Identity { name: "a".into(), ..Identity::default() }, ProviderId::new(world.now(), [7; 9]));
    world.tell(team, CreateProvider { provider, settings, identity, managed: false, secret: None }).await;
}

async fn fill(world: &World, team: &TeamId, mails: usize) -> f64 {
    let started = Instant::now();
    for chunk in (0..mails).collect::<Vec<_>>().chunks(256) {
        join_all(chunk.iter().map(|_| world.accept_of(team, &["bob@example.net"], None))).await;
    }
    mails as f64 / started.elapsed().as_secs_f64()
}

async fn until_empty(world: &World, team: &TeamId, mails: usize) {
    // Rows appear as the log is read: nothing waits when all were there and are gone.
    let mut seen = 0;
    loop {
        let waiting = world.queue.waiting(team).await.unwrap();
        seen = seen.max(waiting);
        if waiting == 0 && (seen > 0 || mails == 0) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn submission(mails: usize) {
    let sink = Sink::start().await;
    println!("{} on loopback, {CONNECTIONS} connections, {OCTETS} octets a mail", sink.name);
    println!("  bare loop:                {:>7.0} mails/s", bare(sink.port, mails).await);
    println!("  our client:               {:>7.0} mails/s", mailer(sink.port, mails).await);
    let (world, _directory) = world().await;
    account_without_login(&world, &world.team, sink.port).await;
    let accepted = fill(&world, &world.team, mails).await;
    println!("  accepted into the log:    {accepted:>7.0} mails/s");
    let started = Instant::now();
    let running = world.start();
    until_empty(&world, &world.team, mails).await;
    let rate = mails as f64 / started.elapsed().as_secs_f64();
    println!("  log, queue and client:    {rate:>7.0} mails/s, from the start to the last settled");
    running.stop().await;
    println!("  bare loop again:          {:>7.0} mails/s", bare(sink.port, mails).await);
}

async fn until_sent(world: &World, team: &TeamId, mail: &OutboundId) {
    while world.state_of(team, mail).await.recipients[0].status != Status::Sent {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// How long another team waits beside a team with a long queue to a host that takes no connections, or never answers.
async fn fairness(mails: usize) {
    let hanging = TcpListener::bind("127.0.0.1:0").await.unwrap();
    for (what, port) in [("refuses", 1), ("never answers", hanging.local_addr().unwrap().port())] {
        let sink = Sink::start().await;
        let (world, _directory) = world().await;
        world.account(port).await;
        fill(&world, &world.team, mails).await;
        let team = TeamId::new(world.now(), [9; 9]);
        world.create_team(&team).await;
        account_without_login(&world, &team, sink.port).await;
        let running = world.start();
        for second in 0..3 {
            let started = Instant::now();
            let mail = world.accept_of(&team, &["bob@example.net"], None).await;
            until_sent(&world, &team, &mail).await;
            let elapsed = started.elapsed().as_secs_f64() * 1_000.0;
            println!("{mails} mails to a host that {what}; another team's mail, {second} s later: {elapsed:.0} ms");
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        running.crash().await;
    }
}

/// How long after a start the first mail of a long queue leaves.
async fn restart(mails: usize) {
    let hanging = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (world, _directory) = world().await;
    world.account(hanging.local_addr().unwrap().port()).await;
    fill(&world, &world.team, mails).await;
    let started = Instant::now();
    let running = world.start();
    while (world.queue.waiting(&world.team).await.unwrap() as usize) < mails {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    println!("{mails} queued: planned anew from the log in {:.2} s", started.elapsed().as_secs_f64());
    running.crash().await;
    // Those of the first start are not counted.
    while tokio::time::timeout(Duration::from_millis(100), hanging.accept()).await.is_ok() {}
    let started = Instant::now();
    let running = world.start();
    hanging.accept().await.unwrap();
    println!("{mails} queued: first connection {:.2} s after a start", started.elapsed().as_secs_f64());
    running.crash().await;
}

/// What the process holds, MiB.
fn resident() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap_or_default();
    line.split_whitespace().nth(1).and_then(|kib| kib.parse::<f64>().ok()).unwrap_or_default() / 1_024.0
}

/// What a program holds that finds a long queue that does not move: a process of its own, so that what filling it left behind is
/// not counted.
async fn memory(mails: usize) {
    let hanging = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (world, directory) = world().await;
    world.account(hanging.local_addr().unwrap().port()).await;
    fill(&world, &world.team, mails).await;
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.arg("held").arg(mails.to_string()).arg(directory.path()).arg(world.team.as_str());
    assert!(tokio::task::spawn_blocking(move || command.status()).await.unwrap().unwrap().success());
}

/// The other process: it plans the queue from the log and tries its mails, as after the loss of the queue.
async fn held(mails: usize, directory: &Path, team: &TeamId) {
    let world = world_in(directory).await;
    let before = resident();
    let running = world.start();
    while (world.queue.waiting(team).await.unwrap() as usize) < mails {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
    println!("{mails} queued: {before:.1} MiB before the start, {:.1} MiB after it", resident());
    running.crash().await;
}

/// What a signature costs, by key and with both, as mail of a domain of ours is signed.
fn signing(mails: usize) {
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    // Which key it is does not matter for what a signature costs.
    let rsa = DkimKey::generate_rsa(2_048, |octets: &mut [u8]| {
        for octet in octets {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            *octet = state.to_be_bytes()[0];
        }
    })
    .unwrap();
    let ed25519 = DkimKey::generate_ed25519([42; 32]).unwrap();
    let signer = |selector: &str, key: DkimKey| DkimSigner::new("example.org", selector, key).unwrap();
    let (rsa, ed25519) = (signer("rsa", rsa), signer("ed", ed25519));
    let head = "From: Ann <ann@example.org>\r\nTo: bob@example.net\r\nSubject: Hello\r\nMessage-ID: <m1@example.org>\r\n\
                Date: Sat, 21 Nov 2026 10:00:00 +0000\r\nMIME-Version: 1.0\r\nContent-Type: text/plain\r\n\r\n";
    let mail = format!("{head}{}", body());
    let (mail, octets) = (mail.as_bytes(), mail.len());
    for (name, signers) in [("RSA-2048", vec![&rsa]), ("Ed25519", vec![&ed25519]), ("both", vec![&rsa, &ed25519])] {
        let begun = Instant::now();
        for n in 0..mails {
            let at = 1_795_000_000 + i64::try_from(n).unwrap();
            std::hint::black_box(sign_dkim(std::hint::black_box(mail), &signers, at).unwrap());
        }
        let each = begun.elapsed() / u32::try_from(mails).unwrap();
        println!("signing {octets} octets, {name}: {each:?} a mail on one core");
    }
}

fn main() {
    let mut arguments = std::env::args().skip(1).filter(|arg| !arg.starts_with("--"));
    let (what, mails) = (arguments.next(), arguments.next().and_then(|n| n.parse().ok()));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        match what.as_deref() {
            Some("submission") => submission(mails.unwrap_or(20_000)).await,
            Some("signing") => signing(mails.unwrap_or(2_000)),
            Some("fairness") => fairness(mails.unwrap_or(100_000)).await,
            Some("restart") => restart(mails.unwrap_or(100_000)).await,
            Some("memory") => memory(mails.unwrap_or(1_000_000)).await,
            Some("held") => {
                let (directory, team) = (arguments.next().unwrap(), arguments.next().unwrap());
                held(mails.unwrap(), Path::new(&directory), &team.parse().unwrap()).await;
            }
            _ => {
                submission(20_000).await;
                signing(2_000);
                fairness(10_000).await;
                restart(10_000).await;
                memory(1_000).await;
                memory(20_000).await;
            }
        }
    });
}
