//! What operators wait for when a team has a million events, on SQLite: start, verify, rebuild, backup, restore.
//!
//! `cargo bench --bench million [-- <events>]`. Commands of the real program, from their start to their end.
#![expect(dead_code, reason = "stories use more of what is shared with them")]
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a benchmark may fail loudly and prints its results")]

#[path = "../tests/it/harness.rs"]
mod harness;
#[path = "../projections/benches/rebuild/history.rs"]
mod history;
#[path = "../tests/it/smtp_client.rs"]
mod smtp_client;

use std::time::{Duration, Instant};

use eventlog::{Allot, Failpoints};
use harness::{Installation, Server};

/// Runs something and prints how long it took.
fn timed<T>(what: &str, work: impl FnOnce() -> T) -> T {
    let began = Instant::now();
    let done = work();
    println!("{what:<48} {:>8.2} s", began.elapsed().as_secs_f64());
    done
}

#[tokio::main]
async fn main() {
    let events = std::env::args().skip(1).find_map(|a| a.parse().ok()).unwrap_or(1_000_000);
    let installation = Installation::new();
    installation.start().kill();
    let log = history::open(&installation.data(), &Allot::system(), Failpoints::default()).await;
    let history = history::begin(&log, &Allot::system()).await;
    history.grow(events).await;
    let appended = log.head(&history.team).await.unwrap().position;
    drop(history);
    log.close().await;
    let size = std::fs::metadata(installation.data().join("log.db")).unwrap().len();
    println!("{appended} events of one team, log of {} MiB", size >> 20);

    timed("rebuild of all read models", || installation.run(&["rebuild"]));
    let server = timed("start, until it serves", || installation.start());
    timed("verify, beside the server", || assert!(installation.run(&["verify"]).contains("the chain holds")));
    let elsewhere = tempfile::tempdir().unwrap();
    let copy = elsewhere.path().join("copy").to_str().unwrap().to_owned();
    timed("backup, beside the server", || installation.run(&["backup", "--out", &copy]));
    assert!(server.terminate());
    timed("start after it was stopped", || installation.start().kill());
    let server: Server = timed("start after it was killed", || installation.start());
    assert!(server.terminate());
    let restored = Installation::at(&elsewhere.path().join("restored")).with_patience(Duration::from_secs(1_800));
    timed("restore", || restored.run(&["restore", "--from", &copy]));
    for file in ["master.key", "pepper.key", "checkpoint.key"] {
        std::fs::copy(installation.data().join(file), restored.data().join(file)).unwrap();
    }
    std::fs::write(restored.data().join("welcome.shown"), "").unwrap();
    let server = timed("start of what was restored, read models made anew", || restored.start());
    timed("rebuild of all read models beside a server", || restored.run(&["rebuild"]));
    assert!(server.terminate());
}
