//! A foreign id takes as long as one that nobody has: Welch's t-test over pairs asked in turns.

use std::time::{Duration, Instant};

use crate::harness::World;
use crate::walks::{Operation, Things, call, operations, unknown};

/// Above this the two are told apart: one chance in a hundred thousand where they do not differ.
const TOLD_APART: f64 = 4.5;

/// Returns how many pairs are asked per operation: `POSTLOG_TEST_TIMED_PAIRS`, or 300.
fn pairs() -> usize {
    std::env::var("POSTLOG_TEST_TIMED_PAIRS").ok().and_then(|text| text.parse().ok()).unwrap_or(300)
}

/// Returns t of two samples without their slowest tenth, which tells of the machine.
fn t(samples: &[Vec<Duration>; 2]) -> f64 {
    let mut all: Vec<_> = samples.iter().flatten().copied().collect();
    all.sort_unstable();
    let slowest = all[all.len() * 9 / 10];
    let moments = |times: &Vec<Duration>| {
        let kept: Vec<_> = times.iter().filter(|time| **time < slowest).map(Duration::as_secs_f64).collect();
        let count = f64::from(u32::try_from(kept.len()).unwrap());
        let mean = kept.iter().sum::<f64>() / count;
        let variance = kept.iter().map(|time| (time - mean).powi(2)).sum::<f64>() / (count - 1.0);
        (mean, variance / count)
    };
    let ((a, a_error), (b, b_error)) = (moments(&samples[0]), moments(&samples[1]));
    (a - b) / (a_error + b_error).sqrt()
}

async fn compare(world: &World, operation: &Operation, paths: [&str; 2], key: &str) -> f64 {
    let mut samples = [vec![], vec![]];
    for turn in 0..pairs() * 2 {
        // First one, then the other goes first: ABBA.
        let which = (turn + turn / 2) % 2;
        let began = Instant::now();
        call(world, operation, paths[which], Some(key)).await;
        samples[which].push(began.elapsed());
    }
    t(&samples)
}

#[tokio::test]
async fn a_foreign_id_takes_as_long_as_one_that_nobody_has() {
    let limits =
        api::RateLimits { infrastructure_requests: u32::MAX, mailbox_requests: u32::MAX, ..Default::default() };
    let world = World::with(api::Config { rate_limits: limits, ..api::Config::default() }).await;
    let (ours, theirs) = (Things::new(&world, "a.test").await, Things::new(&world, "b.test").await);
    let (operations, mut compared, mut untold) = (operations(), 0, vec![]);
    for operation in operations.iter().filter(|o| o.method == axum::http::Method::GET) {
        let key = match operation.path.as_str() {
            "/mailboxes/{public_id}" | "/webhooks/{public_id}" | "/emails/logs/{public_id}" => &ours.team.root,
            "/mailbox/messages/{message_id}" => &ours.mailbox.key,
            _ => continue,
        };
        let (own, foreign) = (ours.fill(operation), theirs.fill(operation));
        let nobodys = unknown(&own);
        // The measure must be able to say no: a thing that is there takes longer than one that is not. A machine that is
        // busy with something else hides that, and can fool the other comparison once, not three times.
        let own = until(async || compare(&world, operation, [&own, &nobodys], key).await, |t| t > TOLD_APART).await;
        if own.is_err() {
            untold.push((&operation.path, own));
            continue;
        }
        let alike = async || compare(&world, operation, [&foreign, &nobodys], key).await;
        let alike = until(alike, |t| t <= TOLD_APART).await;
        assert!(alike.is_ok(), "{}: foreign and unknown ids are told apart: t = {alike:?}", operation.path);
        compared += 1;
    }
    assert!(compared > 0, "nothing could be told on this machine: {untold:?}");
}

/// Measures until it comes out as wished, at most three times; returns what was seen.
async fn until(measure: impl AsyncFn() -> f64, wished: impl Fn(f64) -> bool) -> Result<f64, Vec<f64>> {
    let mut seen = vec![];
    while seen.len() < 3 {
        let t = measure().await;
        if wished(t.abs()) {
            return Ok(t);
        }
        seen.push(t);
    }
    Err(seen)
}
