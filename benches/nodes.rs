//! Two nodes of the real program on one PostgreSQL server beside one node, under the same load from the same clients.
//!
//! `cargo bench --bench nodes`. Program, database and clients share the processors of one machine: what a second node can add
//! there is what one node leaves idle. One node and two nodes are measured in turns; the median of the rounds counts.
#![expect(dead_code, reason = "stories use more of what is shared with them")]
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a benchmark may fail loudly and prints its results")]

#[path = "../tests/it/harness.rs"]
mod harness;
#[path = "../api/benches/client/http.rs"]
mod http;
#[path = "../tests/it/smtp_client.rs"]
mod smtp_client;
#[path = "../tests/it/stream_client.rs"]
mod stream_client;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use axum::extract::State;
use harness::{Client, Installation, Server};
use serde_json::json;
use stream_client::Stream;
use tokio::sync::Notify;
use tokio::task::JoinSet;

const ROUNDS: usize = 3;
const TEAMS: usize = 16;
const CONNECTIONS: usize = 64;
const ROUND: Duration = Duration::from_secs(5);
const STREAMS_PER_TEAM: usize = 8;
const MAILS_PER_TEAM: usize = 100;

/// A team with a mailbox for each of its connections, and one that is read.
struct Tenant {
    root: String,
    mailboxes: Vec<String>,
    address: String,
    reader: String,
}

fn installation(installation: Installation) -> Installation {
    [
        ("HTTP__RATE_LIMITS__INFRASTRUCTURE_REQUESTS", "1000000000"),
        ("HTTP__RATE_LIMITS__MAILBOX_REQUESTS", "1000000000"),
        ("LIMITS__MAILBOXES", "100"),
        ("SMTP__RATES__MAILS_PER_MINUTE_PER_MAILBOX_AND_PEER", "0"),
        ("SMTP__RATES__MAILS_PER_MINUTE_PER_MAILBOX", "0"),
        ("WEBHOOKS__CONCURRENCY_PER_HOST_MAX", "256"),
        ("WEBHOOKS__CONCURRENCY_PER_HOST_AND_TEAM_MAX", "16"),
    ]
    .into_iter()
    .fold(installation, |installation, (key, value)| installation.with(key, value))
}

async fn tenant(installation: &Installation, server: &Server, n: usize) -> Tenant {
    let domain = format!("team{n}.test");
    let said = installation.run(&["teams", "create", "--name", &domain, "--domain", &domain]);
    let root = said.lines().find_map(|line| line.strip_prefix("key")?.split_whitespace().next()).unwrap().to_owned();
    let client = server.client(&root);
    let open = async |name: String| {
        let (status, made) = client.post("/mailboxes", json!({"email": format!("{name}@{domain}")})).await;
        assert_eq!(status, 201, "{made}");
        let text = |pointer: &str| made.pointer(pointer).and_then(|v| v.as_str()).unwrap().to_owned();
        (text("/data/mailbox/id"), text("/data/credential/secret"))
    };
    let mut mailboxes = vec![];
    // All connections may ask of the first team.
    for m in 0..if n == 0 { CONNECTIONS } else { CONNECTIONS / TEAMS } {
        mailboxes.push(open(format!("box{m}")).await.0);
    }
    let (_, reader) = open("read".to_owned()).await;
    Tenant { root, mailboxes, address: format!("read@{domain}"), reader }
}

fn address(server: &Server) -> std::net::SocketAddr {
    server.http.strip_prefix("http://").unwrap().parse().unwrap()
}

fn median(mut all: Vec<f64>) -> f64 {
    all.sort_by(f64::total_cmp);
    all[all.len() / 2]
}

/// Suspends and resumes mailboxes, of `teams` teams; returns answers a second, median and 99th of a hundred in milliseconds.
async fn requests(servers: &[&Server], tenants: &Arc<Vec<Tenant>>, teams: usize) -> [f64; 3] {
    static RUN: AtomicU64 = AtomicU64::new(0);
    let (run, tenants) = (RUN.fetch_add(1, Ordering::Relaxed), Arc::clone(tenants));
    let addresses: Vec<_> = servers.iter().map(|server| address(server)).collect();
    let requests = Arc::new(move |connection: usize, n: u64| {
        let tenant = &tenants[connection % teams];
        let mailbox = &tenant.mailboxes[connection / teams];
        let verb = if n.is_multiple_of(2) { "suspend" } else { "resume" };
        format!(
            "POST /api/v1/mailboxes/{mailbox}/{verb} HTTP/1.1\r\nHost: bench\r\nAuthorization: Bearer {}\r\n\
             Idempotency-Key: bench-{run}-{connection}-{n}\r\nContent-Length: 0\r\n\r\n",
            tenant.root
        )
    });
    let (rate, taken) = http::ask(&addresses, CONNECTIONS, ROUND, requests).await;
    [rate, taken[taken.len() / 2], taken[taken.len() * 99 / 100]]
}

/// Counts the requests of webhooks.
#[derive(Clone, Default)]
struct Sink {
    arrived: Arc<AtomicUsize>,
    moved: Arc<Notify>,
}

impl Sink {
    async fn start(&self) -> String {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        let receive = |State(sink): State<Sink>, _: axum::body::Bytes| async move {
            sink.arrived.fetch_add(1, Ordering::SeqCst);
            sink.moved.notify_waiters();
        };
        let router = axum::Router::new().route("/", axum::routing::post(receive)).with_state(self.clone());
        #[expect(clippy::disallowed_methods, reason = "ends with the bench")]
        tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        url
    }

    async fn wait_for(&self, count: usize) {
        loop {
            let moved = self.moved.notified();
            if self.arrived.load(Ordering::SeqCst) >= count {
                return;
            }
            moved.await;
        }
    }
}

async fn send(server: String, to: String, mails: usize) {
    static SENT: AtomicU64 = AtomicU64::new(0);
    let mut session = smtp_client::Session::open(&server).await.unwrap();
    for n in 0..mails {
        session.envelope("ann@example.com", &to).await.unwrap();
        session.command("DATA").await.unwrap();
        let id = format!("{}@example.com", SENT.fetch_add(1, Ordering::Relaxed));
        let head = format!("From: <ann@example.com>\r\nTo: <{to}>\r\nSubject: mail {n}\r\nMessage-ID: <{id}>\r\n\r\n");
        session.command(&format!("{head}{}\r\n.", "x".repeat(500))).await.unwrap();
    }
}

/// Lets mails arrive while streams and webhooks are open; returns mails accepted, events on streams and requests of webhooks
/// a second.
async fn deliveries(servers: &[&Server], tenants: &Arc<Vec<Tenant>>, sink: &Sink) -> [f64; 3] {
    let at = |n: usize| servers[n % servers.len()];
    let mut readers = JoinSet::new();
    for (n, tenant) in tenants.iter().enumerate() {
        for s in 0..STREAMS_PER_TEAM {
            let client: Client = at(n + s).client(&tenant.reader);
            let mut stream = Stream::open(&client, "/mailbox/events", None).await;
            readers.spawn(async move {
                for _ in 0..MAILS_PER_TEAM {
                    stream.next().await;
                }
            });
        }
    }
    let before = sink.arrived.load(Ordering::SeqCst);
    let began = Instant::now();
    let mut senders = JoinSet::new();
    for (n, tenant) in tenants.iter().enumerate() {
        senders.spawn(send(at(n).smtp.clone(), tenant.address.clone(), MAILS_PER_TEAM));
    }
    let mails = (TEAMS * MAILS_PER_TEAM) as f64;
    let accepted = async {
        senders.join_all().await;
        mails / began.elapsed().as_secs_f64()
    };
    let on_streams = async {
        readers.join_all().await;
        mails * STREAMS_PER_TEAM as f64 / began.elapsed().as_secs_f64()
    };
    let requested = async {
        sink.wait_for(before + TEAMS * MAILS_PER_TEAM).await;
        mails / began.elapsed().as_secs_f64()
    };
    let (a, b, c) = tokio::join!(accepted, on_streams, requested);
    [a, b, c]
}

#[tokio::main]
async fn main() {
    let first = installation(Installation::on_postgres().await);
    let a = first.start();
    let other = first.another_node();
    let (sink, mut tenants) = (Sink::default(), vec![]);
    let url = sink.start().await;
    for n in 0..TEAMS {
        let tenant = tenant(&first, &a, n).await;
        let hook = json!({"url": url, "event_types": ["message.received"]});
        assert_eq!(a.client(&tenant.root).post("/webhooks", hook).await.0, 201);
        tenants.push(tenant);
    }
    let tenants = Arc::new(tenants);
    let loads = [
        "requests, 64 connections, 16 teams: answers/s, p50, p99 ms",
        "requests, one team: answers/s, p50, p99 ms",
        "mails with 128 streams and 16 webhooks: accepted/s, on streams/s, webhook requests/s",
    ];
    let mut seen = vec![vec![vec![]; 2]; loads.len()];
    for _ in 0..ROUNDS {
        for nodes in [1, 2] {
            let b = (nodes == 2).then(|| other.start());
            let servers: Vec<&Server> = std::iter::once(&a).chain(&b).collect();
            for (load, seen) in seen.iter_mut().enumerate() {
                seen[nodes - 1].push(match load {
                    0 => requests(&servers, &tenants, TEAMS).await,
                    1 => requests(&servers, &tenants, 1).await,
                    _ => deliveries(&servers, &tenants, &sink).await,
                });
            }
            drop(servers);
            assert!(b.is_none_or(Server::terminate));
        }
    }
    for (load, seen) in loads.iter().zip(seen) {
        println!("{load}");
        let figures: Vec<[f64; 3]> =
            seen.iter().map(|rounds| [0, 1, 2].map(|n| median(rounds.iter().map(|r| r[n]).collect()))).collect();
        for (nodes, [x, y, z]) in figures.iter().enumerate() {
            println!("  {} node(s): {x:>8.1} {y:>8.1} {z:>8.1}", nodes + 1);
        }
        println!("  ratio of the first figure: {:.2}", figures[1][0] / figures[0][0]);
    }
}
