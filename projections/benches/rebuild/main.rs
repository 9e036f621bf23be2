//! How fast views are computed: `cargo bench -p projections --bench rebuild [-- <events>]`.
//!
//! Writes a mixed history through the log on SQLite, then measures, on fresh views in a file: the runner catching up, and
//! a rebuild of all projections and of each one beside the live copy. Prints events per second.
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a bench prints and may fail loudly")]

mod history;

use std::time::Instant;

use domain::id::Position;
use eventlog::{Allot, EventLog, Failpoints};
use projections::{ALL, Runner, Views, rebuild};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

fn main() {
    let events = std::env::args().filter_map(|arg| arg.parse().ok()).next().unwrap_or(100_000);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(run(events));
}

async fn run(events: usize) {
    let directory = tempfile::tempdir().unwrap();
    let allot = Allot::system();
    let log = history::open(directory.path(), &allot, Failpoints::default()).await;
    let began = Instant::now();
    let history = history::begin(&log, &allot).await;
    history.grow(events).await;
    let team = history.team.clone();
    let head = log.head(&team).await.unwrap().position;
    println!("history of {head} events written in {:.1} s", began.elapsed().as_secs_f64());

    let began = Instant::now();
    let mut position: Position = 0;
    loop {
        let page = log.read(&team, position, 1_000).await.unwrap();
        let Some(last) = page.last() else { break };
        position = last.position;
    }
    report("reading and decoding alone (ceiling)", head, began);

    let views = Views::open_sqlite(&directory.path().join("views.db")).await.unwrap();
    let stop = CancellationToken::new();
    let began = Instant::now();
    let runner = Runner::new(log.clone(), views.clone());
    let mut ready = runner.ready();
    let mut running = JoinSet::new();
    running.spawn(runner.run(stop.clone()));
    ready.wait_for(|ready| *ready).await.unwrap();
    report("runner catching up, pages of 4,000", head, began);
    stop.cancel();
    running.join_next().await.unwrap().unwrap().unwrap();

    let began = Instant::now();
    rebuild(&views, &log, None, None, |_| {}).await.unwrap();
    report("rebuild of all projections, nothing differs", head, began);
    for projection in ALL {
        let began = Instant::now();
        rebuild(&views, &log, Some(projection.name()), None, |_| {}).await.unwrap();
        report(&format!("rebuild of {}", projection.name()), head, began);
    }
    let empty = Views::open_sqlite(&directory.path().join("empty.db")).await.unwrap();
    let began = Instant::now();
    rebuild(&empty, &log, None, None, |_| {}).await.unwrap();
    report("rebuild of all projections, everything differs", head, began);
    let began = Instant::now();
    projections::replay(&log, &team, head, &directory.path().join("replay.db"), |_| {}).await.unwrap();
    report("replay into a file", head, began);

    let alone = written(&log, &history, events / 4).await;
    let (done, mut rebuilding) = (CancellationToken::new(), JoinSet::new());
    rebuilding.spawn({
        let (views, log, done) = (views.clone(), log.clone(), done.clone());
        async move {
            while !done.is_cancelled() {
                rebuild(&views, &log, None, None, |_| {}).await.unwrap();
            }
        }
    });
    let meanwhile = written(&log, &history, events / 4).await;
    done.cancel();
    rebuilding.join_all().await;
    let kept = meanwhile / alone * 100.0;
    println!(
        "appends of {} writers: {alone:.0} events/s alone, {meanwhile:.0} while views are rebuilt: {kept:.0} %",
        history::PRODUCERS
    );
}

/// Returns how many events a second are written.
async fn written(log: &EventLog, history: &history::History, events: usize) -> f64 {
    let before = log.head(&history.team).await.unwrap().position;
    let began = Instant::now();
    history.grow(events).await;
    let seconds = began.elapsed().as_secs_f64();
    let count = log.head(&history.team).await.unwrap().position - before;
    #[expect(clippy::cast_precision_loss, reason = "a rate to be read by people")]
    let rate = count as f64 / seconds;
    rate
}

fn report(what: &str, events: u64, began: Instant) {
    let seconds = began.elapsed().as_secs_f64();
    #[expect(clippy::cast_precision_loss, reason = "a rate to be read by people")]
    let rate = events as f64 / seconds;
    println!("{what:<55} {rate:>10.0} events/s  {seconds:>6.2} s");
}
