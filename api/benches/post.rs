//! How many requests a second are answered after their durable append on SQLite, beside the barest axum handler that
//! inserts one event by group commit.
//!
//! `cargo bench -p api --bench post`. Each connection suspends and resumes a mailbox of its own, with idempotency keys:
//! the whole way of a request, from the key it shows to its answer kept for repetitions. The projections follow
//! meanwhile, as they do in the program; the handler does not wait for them, but in the last two lines it does, as it
//! does by default in the program. Both are measured in turns with the same clients in the same process; the median of
//! the rounds counts.
#![expect(clippy::disallowed_methods, reason = "two signals to stop need no bound")]
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a benchmark may fail loudly and prints its results")]

#[path = "../../eventlog/benches/append/bare.rs"]
mod bare;
#[path = "client/http.rs"]
mod http;

use std::sync::Arc;
use std::time::Duration;

use api::auth::secret::{Pepper, mint};
use axum::Router;
use axum::extract::State;
use axum::routing::post;
use domain::api_key::{CreateTeamKey, Kind};
use domain::id::{DomainId, MailboxId, TeamId};
use domain::mailbox::{OpenMailbox, SendScope};
use domain::permission::Permissions;
use domain::sending_domain::{AddVerifiedDomain, Mode};
use domain::team::{CreateTeam, Limits};
use domain::{Actor, Command};
use eventlog::sqlite::SqliteBackend;
use eventlog::{Allot, BlobStore, EventLog, MasterKey, Options, Submission};
use projections::{Runner, Views};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

const ROUND: Duration = Duration::from_secs(2);
const ROUNDS: usize = 3;
const WRITE_AHEAD_BYTES: u64 = 64 << 20;

#[tokio::main]
async fn main() {
    println!("requests/s answered after their append, bare handler, ratio; p50 and p99 of ours in ms");
    for (connections, waiting) in [(64, false), (256, false), (64, true), (256, true)] {
        let (mut all_ours, mut all_bare, mut ratios, mut times) = (vec![], vec![], vec![], (0.0, 0.0));
        for _ in 0..ROUNDS {
            let (ours, took) = ours(connections, waiting).await;
            let (bare, _) = bare_handler(connections).await;
            all_ours.push(ours);
            all_bare.push(bare);
            ratios.push(ours / bare);
            times = (took[took.len() / 2], took[took.len() * 99 / 100]);
        }
        let [ours, bare, ratio] = [all_ours, all_bare, ratios].map(median);
        let waited = if waiting { ", read models waited for" } else { "" };
        println!(
            "{connections:>4} connections: {ours:>8.0} {bare:>8.0} {ratio:>6.2}; {:.1} {:.1}{waited}",
            times.0, times.1
        );
    }
}

fn median(mut all: Vec<f64>) -> f64 {
    all.sort_by(f64::total_cmp);
    all[all.len() / 2]
}

async fn run<C: Command>(log: &EventLog, allot: &Allot, team: &TeamId, command: C) {
    let submission = Submission::new(team.clone(), allot.now(), Actor::Operator, "bench", command);
    log.transact(submission).await.map(|_| ()).unwrap();
}

async fn ours(connections: usize, waiting: bool) -> (f64, Vec<f64>) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("log.db");
    let backend = Arc::new(SqliteBackend::open_reserving(&path, WRITE_AHEAD_BYTES).await.unwrap());
    let allot = Allot::system();
    let options = Options::new(MasterKey::new(&[7; 32]), BlobStore::memory(), allot.entropy());
    let log = EventLog::open(backend, options).await.unwrap();
    let (team, pepper) = (TeamId::new(allot.now(), allot.random()), Pepper::new([9; 32]));
    let limits = Limits { mailboxes: u32::MAX, ..Limits::default() };
    run(&log, &allot, &team, CreateTeam { name: "bench".into(), limits }).await;
    let domain = DomainId::new(allot.now(), allot.random());
    run(&log, &allot, &team, AddVerifiedDomain { domain, name: "bench.test".into(), mode: Mode::SendReceive }).await;
    let key = mint(&allot, &pepper, Kind::Infrastructure);
    let permissions = Permissions::parse(["mailbox.admin.manage"]).unwrap();
    let create =
        CreateTeamKey { minted: key.minted.clone(), kind: Kind::Infrastructure, name: "bench".into(), permissions };
    run(&log, &allot, &team, create).await;
    let mut mailboxes = vec![];
    for n in 0..connections {
        let mailbox = MailboxId::new(allot.now(), allot.random());
        let command = OpenMailbox {
            mailbox: mailbox.clone(),
            email: format!("box{n}@bench.test").parse().unwrap(),
            display_name: None,
            quota_bytes: 1 << 30,
            send_scope: SendScope::All,
            credential: None,
        };
        run(&log, &allot, &team, command).await;
        mailboxes.push(mailbox);
    }
    let views = Views::open_sqlite(&directory.path().join("views.db")).await.unwrap();
    let (stop, mut tasks) = (CancellationToken::new(), JoinSet::new());
    tasks.spawn({
        let (runner, stop) = (Runner::new(log.clone(), views.clone()), stop.clone());
        async move { runner.run(stop).await.unwrap() }
    });
    let head = log.head(&team).await.unwrap();
    assert!(views.wait_for(&team, head.position, Duration::from_secs(30)).await);
    let rate_limits = api::RateLimits { infrastructure_requests: u32::MAX, ..api::RateLimits::default() };
    let mut config = api::Config { rate_limits, ..api::Config::default() };
    if !waiting {
        config.read_your_writes_milliseconds_max = 0;
    }
    let app = api::App::new(log.clone(), views, allot, pepper, config);
    let secret = key.secret.expose_str().to_owned();
    let requests = Arc::new(move |connection: usize, n: u64| {
        let (mailbox, verb) = (&mailboxes[connection], if n.is_multiple_of(2) { "suspend" } else { "resume" });
        format!(
            "POST /api/v1/mailboxes/{mailbox}/{verb} HTTP/1.1\r\nHost: bench\r\nAuthorization: Bearer {secret}\r\n\
             Idempotency-Key: bench-{connection}-{n}\r\nContent-Length: 0\r\n\r\n"
        )
    });
    let measured = http::measure(api::router(app), connections, ROUND, requests).await;
    stop.cancel();
    tasks.join_all().await;
    log.close().await;
    measured
}

async fn bare_handler(connections: usize) -> (f64, Vec<f64>) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("log.db");
    eventlog::Backend::close(&SqliteBackend::open(&path).await.unwrap()).await;
    let path = bare::beside(&path);
    let (wishes, queue) = mpsc::channel::<bare::Wish>(8_192);
    let (stop, stopped) = std::sync::mpsc::channel();
    let (for_loop, for_checkpoint) = (path.clone(), path);
    let writer = std::thread::spawn(move || bare::bare_loop(&for_loop, queue));
    let checkpointer = std::thread::spawn(move || bare::checkpoint(&for_checkpoint, &stopped));
    let router = Router::new().route("/events/{team}/{n}", post(insert)).with_state(wishes);
    let requests = Arc::new(|connection: usize, n: u64| {
        let n = n * 1_000 + connection as u64;
        format!("POST /events/team_{connection:024}/{n} HTTP/1.1\r\nHost: bench\r\nContent-Length: 0\r\n\r\n")
    });
    let measured = http::measure(router, connections, ROUND, requests).await;
    writer.join().unwrap();
    drop(stop);
    checkpointer.join().unwrap();
    measured
}

async fn insert(
    State(wishes): State<mpsc::Sender<bare::Wish>>,
    axum::extract::Path((team, n)): axum::extract::Path<(String, u64)>,
) -> axum::Json<serde_json::Value> {
    let (done, answered) = oneshot::channel();
    let wish = bare::Wish { team, n, done };
    wishes.send(wish).await.map_err(|_| "the loop ended").unwrap();
    answered.await.unwrap();
    axum::Json(serde_json::json!({ "data": { "n": n } }))
}
