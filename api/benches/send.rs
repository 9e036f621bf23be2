//! How many mails a second are taken over durably by the sending API: one by one, and in batches of a hundred.
//!
//! `cargo bench -p api --bench send [sqlite|postgres]`. Each client sends text and HTML to an address of its own count, with
//! idempotency keys; composition, routing, suppression list, money and events are those of the program. The projections
//! follow meanwhile, as they do in the program; acceptance does not wait for them. The bytes of what is sent are 1 to 2 KB.
//! The same without read models is shown beside it.
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a benchmark may fail loudly and prints its results")]

#[path = "client/http.rs"]
mod http;

use std::sync::Arc;
use std::time::Duration;

use api::auth::secret::{Pepper, mint};
use domain::api_key::{CreateTeamKey, Kind};
use domain::balance::ChangeCreditLimit;
use domain::id::{DomainId, ProviderId, TeamId};
use domain::money::Nanos;
use domain::permission::{Permissions, SENDING_PERMISSIONS};
use domain::provider::{CreateProvider, Identity, Quotas, Settings, Transport};
use domain::sending_domain::{AddVerifiedDomain, Mode};
use domain::team::{CreateTeam, Limits};
use domain::{Actor, Command};
use eventlog::postgres::PostgresBackend;
use eventlog::sqlite::SqliteBackend;
use eventlog::testing::Cluster;
use eventlog::{Allot, Backend, BlobStore, EventLog, MasterKey, Options, Submission};
use projections::{Runner, Views};
use serde_json::json;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

const ROUND: Duration = Duration::from_secs(4);
const ROUNDS: usize = 3;
const CLIENTS: usize = 64;
const BATCH_CLIENTS: usize = 8;
const BATCH: usize = 100;
const WRITE_AHEAD_BYTES: u64 = 64 << 20;

#[tokio::main]
async fn main() {
    let chosen: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with('-')).collect();
    println!("mails/s taken over durably; p50 and p99 of a request in ms; median of {ROUNDS} rounds of {ROUND:?}");
    for engine in ["sqlite", "postgres"] {
        if !chosen.is_empty() && !chosen.iter().any(|name| name == engine) {
            continue;
        }
        for (what, clients, mails) in [("one by one", CLIENTS, 1), ("in batches of 100", BATCH_CLIENTS, BATCH)] {
            for (how, with_views) in [("", true), (", without read models", false)] {
                let mut rounds = vec![];
                for _ in 0..ROUNDS {
                    let Measured { rate, took, events } = round(engine, clients, mails, with_views).await;
                    rounds.push((rate * mails as f64, took[took.len() / 2], took[took.len() * 99 / 100], events));
                }
                rounds.sort_by(|a, b| a.0.total_cmp(&b.0));
                let (rate, p50, p99, events) = rounds[ROUNDS / 2];
                println!(
                    "{engine}, {clients} clients, {what}{how}: {rate:.0} mails/s; {p50:.1} {p99:.1}; \
                     {events:.1} events a mail"
                );
            }
        }
    }
}

async fn run<C: Command>(log: &EventLog, allot: &Allot, team: &TeamId, command: C) {
    let submission = Submission::new(team.clone(), allot.now(), Actor::Operator, "bench", command);
    log.transact(submission).await.map(|_| ()).unwrap();
}

struct Measured {
    /// Requests a second.
    rate: f64,
    /// What each took, sorted, in milliseconds.
    took: Vec<f64>,
    /// How many events a mail became.
    events: f64,
}

async fn round(engine: &str, clients: usize, mails: usize, with_views: bool) -> Measured {
    let directory = tempfile::tempdir().unwrap();
    let (backend, views): (Arc<dyn Backend>, Views) = if engine == "sqlite" {
        let path = directory.path().join("log.db");
        let backend = SqliteBackend::open_reserving(&path, WRITE_AHEAD_BYTES).await.unwrap();
        (Arc::new(backend), Views::open_sqlite(&directory.path().join("views.db")).await.unwrap())
    } else {
        let cluster = Cluster::shared();
        let url = cluster.url(&cluster.create_database(None).await);
        let backend = PostgresBackend::open(&eventlog::postgres::Config::new(&url)).await.unwrap();
        (Arc::new(backend), Views::open_postgres(&url).await.unwrap())
    };
    let allot = Allot::system();
    let log = EventLog::open(backend, Options::new(MasterKey::new(&[7; 32]), BlobStore::memory(), allot.entropy()));
    let log = log.await.unwrap();
    let pepper = Pepper::new([9; 32]);
    let (team, secret) = prepare(&log, &allot, &pepper).await;
    let (stop, mut tasks) = (CancellationToken::new(), JoinSet::new());
    let before = log.head(&team).await.unwrap().position;
    if with_views {
        tasks.spawn({
            let (runner, stop) = (Runner::new(log.clone(), views.clone()), stop.clone());
            async move { runner.run(stop).await.unwrap() }
        });
        assert!(views.wait_for(&team, before, Duration::from_secs(30)).await);
    }
    let rate_limits = api::RateLimits { mailbox_requests: u32::MAX, ..api::RateLimits::default() };
    let config = api::Config { rate_limits, ..api::Config::default() };
    let app = api::App::new(log.clone(), views, allot, pepper, config);
    let requests = Arc::new(move |client: usize, n: u64| request(&secret, mails, client, n));
    let (rate, took) = http::measure(api::router(app), clients, ROUND, requests).await;
    stop.cancel();
    tasks.join_all().await;
    let events = (log.head(&team).await.unwrap().position - before) as f64 / (took.len() * mails) as f64;
    log.close().await;
    Measured { rate, took, events }
}

/// Makes a team with a domain, an account, money and a sending key; returns the key's secret, too.
async fn prepare(log: &EventLog, allot: &Allot, pepper: &Pepper) -> (TeamId, String) {
    let team = TeamId::new(allot.now(), allot.random());
    run(log, allot, &team, CreateTeam { name: "bench".into(), limits: Limits::default() }).await;
    let domain = DomainId::new(allot.now(), allot.random());
    run(log, allot, &team, AddVerifiedDomain { domain, name: "bench.test".into(), mode: Mode::SendOnly }).await;
    let credit_limit = Nanos(1_000_000 * Nanos::DOLLAR.0);
    run(log, allot, &team, ChangeCreditLimit { credit_limit }).await;
    let account = CreateProvider {
        provider: ProviderId::new(allot.now(), allot.random()),
        settings: Settings { transport: Transport::Sandbox, percentage: None, quotas: Quotas::default() },
        identity: Identity { name: "Sandbox".into(), ..Identity::default() },
        managed: false,
        secret: None,
    };
    run(log, allot, &team, account).await;
    let key = mint(allot, pepper, Kind::Sending);
    let permissions = Permissions::parse(SENDING_PERMISSIONS).unwrap();
    let create = CreateTeamKey { minted: key.minted.clone(), kind: Kind::Sending, name: "bench".into(), permissions };
    run(log, allot, &team, create).await;
    (team, key.secret.expose_str().to_owned())
}

fn request(secret: &str, mails: usize, client: usize, n: u64) -> String {
    let mail = |i: usize| {
        json!({
            "from": {"email": "ann@bench.test", "name": "Ann"},
            "to": {"email": format!("c{client}n{n}i{i}@example.net")},
            "subject": format!("Order {n} has left our house"),
            "text_body": "Dear customer, your order has left our house. ".repeat(8),
            "html_body": format!("<p>{}</p>", "Dear customer, your order has <b>left</b> our house. ".repeat(8)),
        })
    };
    let (path, body) = if mails == 1 {
        ("send", mail(0))
    } else {
        ("send/batch", json!({"messages": (0..mails).map(mail).collect::<Vec<_>>()}))
    };
    let body = body.to_string();
    format!(
        "POST /api/v1/emails/{path} HTTP/1.1\r\nHost: bench\r\nAuthorization: Bearer {secret}\r\n\
         Content-Type: application/json\r\nIdempotency-Key: bench-{client}-{n}\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}
