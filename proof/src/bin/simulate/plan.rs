//! What goes wrong and when, from the seed.

use std::time::Duration;

use crate::numbers::Numbers;

/// The nodes.
pub const NODES: [&str; 2] = ["node-a", "node-b"];
/// Every host a node speaks with.
const OTHERS: [&str; 6] = ["db", "receiver", "writer-0", "writer-1", "reader-mailbox", "reader-team"];
/// The latest time at which something goes wrong.
const QUIET_AT_MAX: u64 = 22_000;
/// The longest time a message takes when nothing is wrong, milliseconds.
pub const CALM_LATENCY: u64 = 20;
/// By then everything must have come to its end.
pub const END_AT: Duration = Duration::from_secs(90);

/// Something that happens to the hosts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// A node is gone, with all it had in memory.
    Crash(&'static str),
    /// It is started again.
    Start(&'static str),
    /// Nothing passes between two hosts; what is on its way is lost.
    Cut(&'static str, &'static str),
    /// The network between them is whole again.
    Mend(&'static str, &'static str),
    /// What is sent between two hosts is kept back.
    Hold(&'static str, &'static str),
    /// And arrives now.
    Release(&'static str, &'static str),
    /// The longest time a message takes, milliseconds.
    Latency(u64),
}

/// Returns from when on nothing goes wrong any more: sometimes early, so that there is much to do afterwards.
pub fn quiet_at(seed: u64) -> Duration {
    Numbers::new(seed, 3).millis(4_000, QUIET_AT_MAX)
}

/// Returns what happens, by time.
pub fn plan(seed: u64) -> Vec<(Duration, Action)> {
    let mut numbers = Numbers::new(seed, 2);
    let mut actions = vec![];
    for node in NODES {
        for _ in 0..numbers.below(3) {
            let at = numbers.millis(200, 18_000);
            // Some stay away for so long that another node takes over.
            let away = if numbers.once_in(3) { numbers.millis(8_000, 20_000) } else { numbers.millis(50, 4_000) };
            actions.push((at, Action::Crash(node)));
            actions.push((at + away, Action::Start(node)));
        }
    }
    for _ in 0..numbers.below(4) {
        let node = NODES[usize::from(numbers.once_in(2))];
        let other = OTHERS[usize::try_from(if numbers.once_in(2) { 0 } else { numbers.below(6) }).unwrap_or(0)];
        let at = numbers.millis(200, 18_000);
        let end = at + numbers.millis(50, 6_000);
        let (begin, finish) = if numbers.once_in(2) {
            (Action::Cut(node, other), Action::Mend(node, other))
        } else {
            (Action::Hold(node, other), Action::Release(node, other))
        };
        actions.push((at, begin));
        actions.push((end, finish));
    }
    for _ in 0..numbers.below(3) {
        let at = numbers.millis(0, 18_000);
        actions.push((at, Action::Latency(CALM_LATENCY + 1 + numbers.below(800))));
        actions.push((at + numbers.millis(100, 4_000), Action::Latency(CALM_LATENCY)));
    }
    // Whatever was begun ends with the quiet time, and nothing begins then.
    let quiet_at = quiet_at(seed);
    for (at, _) in &mut actions {
        *at = (*at).min(quiet_at);
    }
    actions.sort_by_key(|(at, _)| *at);
    actions
}

/// Returns by how much a node's clock is off, microseconds: up to a second.
pub fn off_by(seed: u64, node: usize) -> i64 {
    i64::try_from(Numbers::new(seed, 30 + node as u64).below(2_000_000)).unwrap_or(0) - 1_000_000
}

/// Returns when something was wrong, from and to: only then, and shortly after, may a delivery be repeated.
pub fn disturbances(seed: u64) -> Vec<(Duration, Duration)> {
    let actions = plan(seed);
    let ends = |begin: &Action, from: Duration| {
        let is_end = |action: &Action| match (begin, action) {
            (Action::Cut(a, b), Action::Mend(c, d)) | (Action::Hold(a, b), Action::Release(c, d)) => (a, b) == (c, d),
            (Action::Latency(_), Action::Latency(most)) => *most == CALM_LATENCY,
            _ => false,
        };
        actions.iter().find(|(at, action)| *at >= from && is_end(action)).map_or_else(|| quiet_at(seed), |(at, _)| *at)
    };
    let began = actions.iter().filter_map(|(at, action)| match action {
        Action::Crash(_) => Some((*at, *at)),
        Action::Cut(..) | Action::Hold(..) => Some((*at, ends(action, *at))),
        Action::Latency(most) if *most > CALM_LATENCY => Some((*at, ends(action, *at))),
        _ => None,
    });
    began.collect()
}
