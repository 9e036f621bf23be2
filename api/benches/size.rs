//! What a team's size does to its readers: lists and resumed streams with 10,000, 100,000 and 1,000,000 events in the log.
//!
//! `cargo bench -p api --bench size [-- <events> …]`. On SQLite, through the whole router, one request after the other
//! while nothing else happens. Prints median and 99th of a hundred in milliseconds.
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a benchmark may fail loudly and prints its results")]

#[path = "../../projections/benches/rebuild/history.rs"]
mod history;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use api::auth::secret::{Pepper, mint};
use api::stream::{self, Streams};
use axum::Router;
use axum::body::Body;
use axum::extract::ConnectInfo;
use axum::http::Request;
use domain::Actor;
use domain::api_key::{CreateMailboxKey, Kind};
use domain::id::EventId;
use domain::permission::Permissions;
use eventlog::{Allot, Failpoints, Submission};
use http_body_util::BodyExt as _;
use projections::{Runner, Views};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

/// How often each is asked for.
const ASKED: usize = 300;
/// How many events a resumed stream has missed.
const MISSED: u64 = 2_000;

#[tokio::main]
async fn main() {
    let mut sizes: Vec<usize> = std::env::args().skip(1).filter_map(|a| a.parse().ok()).collect();
    if sizes.is_empty() {
        sizes = vec![10_000, 100_000, 1_000_000];
    }
    let directory = tempfile::tempdir().unwrap();
    let allot = Allot::system();
    let log = history::open(directory.path(), &allot, Failpoints::default()).await;
    let views = Views::open_sqlite(&directory.path().join("views.db")).await.unwrap();
    let (stop, mut tasks) = (CancellationToken::new(), JoinSet::new());
    tasks.spawn({
        let (runner, stop) = (Runner::new(log.clone(), views.clone()), stop.clone());
        async move { runner.run(stop).await.unwrap() }
    });
    let pepper = Pepper::new([9; 32]);
    let history = history::begin(&log, &allot).await;
    let key = mint(&allot, &pepper, Kind::Mailbox);
    let command = CreateMailboxKey {
        minted: key.minted.clone(),
        mailbox: history.mailboxes[0].clone(),
        name: "bench".into(),
        permissions: Permissions::parse(["mailbox.read"]).unwrap(),
    };
    let submission = Submission::new(history.team.clone(), allot.now(), Actor::Operator, "bench", command);
    log.transact(submission).await.unwrap();
    let rate_limits = api::RateLimits { mailbox_requests: u32::MAX, ..api::RateLimits::default() };
    let config = api::Config { rate_limits, ..api::Config::default() };
    let streams = Streams::new(log.clone(), allot.clone(), stream::Config::default());
    let app = api::App::new(log.clone(), views.clone(), allot, pepper, config).with_streams(streams);
    let reader = Reader { router: api::router(app), key: key.secret.expose_str().to_owned() };
    println!("{:<36} {:>9} {:>18}", "ms: median, 99th of a hundred", "events", "");
    for size in sizes {
        let have = log.head(&history.team).await.unwrap().position;
        history.grow(size.saturating_sub(usize::try_from(have).unwrap())).await;
        let head = log.head(&history.team).await.unwrap();
        assert!(views.wait_for(&history.team, head.position, Duration::from_secs(600)).await);
        let far = reader.cursor_after("/api/v1/mailbox/messages?limit=50", 4).await;
        for (what, path) in [
            ("messages, first page of 50", "/api/v1/mailbox/messages?limit=50".to_owned()),
            ("messages, a later page", format!("/api/v1/mailbox/messages?limit=50&cursor={far}")),
            ("threads, first page of 50", "/api/v1/mailbox/threads?limit=50".to_owned()),
            ("folders", "/api/v1/mailbox/folders".to_owned()),
        ] {
            report(what, head.position, &reader, async |reader: &Reader| drop(reader.get(&path).await)).await;
        }
        let missed = EventId::new(&history.team, head.epoch, head.position - MISSED);
        report("stream, resumed 2,000 events back", head.position, &reader, async |reader: &Reader| {
            reader.resume(&missed).await;
        })
        .await;
    }
    stop.cancel();
    tasks.join_all().await;
    // The log closes once nobody can write to it any more.
    drop((reader, history));
    log.close().await;
}

struct Reader {
    router: Router,
    key: String,
}

impl Reader {
    fn request(&self, path: &str) -> axum::http::request::Builder {
        let peer = ConnectInfo(SocketAddr::from(([127, 0, 0, 1], 9)));
        Request::get(path).header("Authorization", format!("Bearer {}", self.key)).extension(peer)
    }

    async fn get(&self, path: &str) -> serde_json::Value {
        let answer = self.router.clone().oneshot(self.request(path).body(Body::empty()).unwrap()).await.unwrap();
        let status = answer.status();
        let body = answer.into_body().collect().await.unwrap().to_bytes();
        assert!(status.is_success(), "{}", String::from_utf8_lossy(&body));
        serde_json::from_slice(&body).unwrap()
    }

    /// Turns pages; returns the cursor that leads on.
    async fn cursor_after(&self, path: &str, pages: usize) -> String {
        let mut cursor = String::new();
        for _ in 0..pages {
            let page = self.get(&format!("{path}{}{cursor}", if cursor.is_empty() { "" } else { "&cursor=" })).await;
            cursor = page
                .pointer("/pagination/next_cursor")
                .and_then(|c| c.as_str())
                .unwrap_or_else(|| panic!("{page}"))
                .to_owned();
        }
        cursor
    }

    /// Resumes the stream behind an event and reads until the first of them has come.
    async fn resume(&self, behind: &EventId) {
        let request = self.request("/api/v1/mailbox/events").header("Last-Event-ID", behind.to_string());
        let answer = self.router.clone().oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
        assert!(answer.status().is_success());
        let mut body = answer.into_body();
        let mut seen = vec![];
        while !seen.windows(4).any(|w| w == b"\nid:") {
            let frame = body.frame().await.unwrap().unwrap();
            seen.extend_from_slice(frame.data_ref().map_or(&[], |data| data));
        }
    }
}

async fn report(what: &str, events: u64, reader: &Reader, ask: impl AsyncFn(&Reader)) {
    let mut taken = vec![];
    for _ in 0..ASKED {
        let begun = Instant::now();
        ask(reader).await;
        taken.push(begun.elapsed().as_secs_f64() * 1_000.0);
    }
    taken.sort_by(f64::total_cmp);
    println!("{what:<36} {events:>9} {:>8.2} {:>8.2}", taken[ASKED / 2], taken[ASKED * 99 / 100]);
}
