//! What the chain, the personal half and the Merkle tree cost an append: a mixed history written with each of them left out.
//!
//! The variants are measured in turns; the median of the rounds counts. The tree grows beside the appends, as the program
//! lets it: a checkpoint at every 1,000 events, looked for once a second.

use std::time::{Duration, Instant};

use eventlog::checkpoint::SigningKey;
use eventlog::{Allot, EventLog, Failpoints, LeftOut, Signer};
use tokio_util::sync::CancellationToken;

use crate::history;
use crate::load::median;

const EVENTS: usize = 30_000;
const ROUNDS: usize = 5;
const LOOK: Duration = Duration::from_secs(1);

struct Variant {
    name: &'static str,
    left_out: LeftOut,
    grows: bool,
}

const WHOLE: LeftOut = LeftOut { chain: false, personal_half: false };

const VARIANTS: [Variant; 5] = [
    Variant { name: "whole", left_out: WHOLE, grows: true },
    Variant {
        name: "without the chain (nor the tree over it)",
        left_out: LeftOut { chain: true, ..WHOLE },
        grows: false,
    },
    Variant { name: "without personal halves", left_out: LeftOut { personal_half: true, ..WHOLE }, grows: true },
    Variant { name: "without the tree", left_out: WHOLE, grows: false },
    Variant { name: "without all three", left_out: LeftOut { chain: true, personal_half: true }, grows: false },
];

/// Signs what was appended, as the keeper of checkpoints does, until it is told to stop.
async fn grow(log: EventLog, team: domain::id::TeamId, stop: CancellationToken) -> u64 {
    let signer = Signer { key: SigningKey::unnamed(&[7; 32]), retired: vec![], every_events: 1_000, posts: false };
    let (mut looks, mut size) = (tokio::time::interval(LOOK), 0);
    loop {
        tokio::select! {
            () = stop.cancelled() => return size,
            _ = looks.tick() => while let Some(growth) = log.sign_growth(&team, &signer, 1, false).await.unwrap() {
                size = growth.checkpoints.last().map_or(size, |row| row.size);
                log.keep_growth(&[growth]).await.unwrap();
            },
        }
    }
}

async fn rate(variant: &Variant) -> f64 {
    let directory = tempfile::tempdir().unwrap();
    let allot = Allot::system();
    let log = history::open(directory.path(), &allot, Failpoints::leaving_out(variant.left_out)).await;
    let history = history::begin(&log, &allot).await;
    let (stop, mut tasks) = (CancellationToken::new(), tokio::task::JoinSet::new());
    if variant.grows {
        tasks.spawn(grow(log.clone(), history.team.clone(), stop.clone()));
    }
    let before = log.head(&history.team).await.unwrap().position;
    let began = Instant::now();
    history.grow(EVENTS).await;
    let took = began.elapsed().as_secs_f64();
    let appended = log.head(&history.team).await.unwrap().position - before;
    stop.cancel();
    for signed in tasks.join_all().await {
        assert!(signed > 0, "the tree did not grow");
    }
    drop(history);
    log.close().await;
    appended as f64 / took
}

pub async fn compare() {
    println!(
        "SQLite, mixed history of {EVENTS} events, {} producers: events/s, cost of what is left out",
        history::PRODUCERS
    );
    let mut rates = vec![vec![]; VARIANTS.len()];
    for _ in 0..ROUNDS {
        for (variant, rates) in VARIANTS.iter().zip(&mut rates) {
            rates.push(rate(variant).await);
        }
    }
    let whole = median(rates[0].clone());
    for (variant, rates) in VARIANTS.iter().zip(rates) {
        let rate = median(rates);
        println!("{:<42} {rate:>8.0} {:>5.1} %", variant.name, 100.0 * (1.0 - whole / rate));
    }
}
