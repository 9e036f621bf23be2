//! SQLite: `transact` beside a thread that writes the same rows with prepared statements, one commit for all that waits.

use std::sync::Arc;

use eventlog::sqlite::SqliteBackend;
use tokio::sync::{mpsc, oneshot};

use crate::bare::{self, FACTS_BYTES, Wish, bare_loop, checkpoint};
use crate::load::{ROUNDS, log, measure, median, team, transact};

async fn ours(producers: u64) -> f64 {
    let directory = tempfile::tempdir().unwrap();
    let backend = SqliteBackend::open_reserving(&directory.path().join("log.db"), 64 << 20).await.unwrap();
    let log = log(Arc::new(backend), 1).await;
    let writing = log.clone();
    let rate = measure(producers, move |producer, n| {
        let log = writing.clone();
        async move { transact(&log, &team(producer), n).await }
    })
    .await;
    log.close().await;
    rate
}

async fn bare(producers: u64) -> f64 {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("log.db");
    // The same tables and the same room for the write-ahead file: whoever opens the log makes them.
    eventlog::Backend::close(&SqliteBackend::open(&path).await.unwrap()).await;
    let path = bare::beside(&path);
    let (wishes, queue) = mpsc::channel::<Wish>(8_192);
    let (stop, stopped) = std::sync::mpsc::channel();
    let (for_loop, for_checkpoint) = (path.clone(), path.clone());
    let writer = std::thread::spawn(move || bare_loop(&for_loop, queue));
    let checkpointer = std::thread::spawn(move || checkpoint(&for_checkpoint, &stopped));
    let sender = wishes.clone();
    let rate = measure(producers, move |producer, n| {
        let wishes = sender.clone();
        async move {
            let (done, answered) = oneshot::channel();
            let team = team(producer).to_string();
            wishes.send(Wish { team, n, done }).await.map_err(|_| "the loop ended").unwrap();
            answered.await.unwrap();
        }
    })
    .await;
    drop(wishes);
    writer.join().unwrap();
    drop(stop);
    checkpointer.join().unwrap();
    rate
}

pub async fn compare() {
    println!("SQLite, {FACTS_BYTES} bytes of facts, idempotency on: events/s through transact, bare loop, ratio");
    for producers in [1, 16, 64, 256] {
        let (mut through, mut beside, mut ratios) = (vec![], vec![], vec![]);
        for _ in 0..ROUNDS {
            through.push(ours(producers).await);
            beside.push(bare(producers).await);
            ratios.push(through[through.len() - 1] / beside[beside.len() - 1]);
        }
        let (through, beside, ratio) = (median(through), median(beside), median(ratios));
        println!("{producers:>4} producers: {through:>8.0} {beside:>8.0} {ratio:>6.2}");
    }
}
