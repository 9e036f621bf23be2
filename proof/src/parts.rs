//! What is explored, how far, and what came of it.

use std::time::{Duration, Instant};

use stateright::{Checker, Expectation, Model};

use crate::model::properties::{ALL_DONE, EXHAUSTED, ONE_LATE, TAKEN_OVER};
use crate::model::{Bounds, Proof};

/// How far to go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// On every change.
    Change,
    /// When there is time: hours, and a machine with much memory.
    Large,
}

/// A part of the model, explored by itself: what does not meet in it cannot disturb each other.
#[derive(Debug, Clone)]
pub struct Part {
    /// What it is called.
    pub name: &'static str,
    /// How far it goes.
    pub bounds: Bounds,
    /// What must be possible within; everything else of its kind must not.
    pub reachable: Vec<&'static str>,
}

/// What exploring a part came to.
#[derive(Debug, Clone)]
pub struct Explored {
    /// The part.
    pub part: Part,
    /// How many distinct states there are.
    pub states: usize,
    /// How many steps the longest way to one of them has.
    pub depth: usize,
    /// How long it took.
    pub elapsed: Duration,
    /// Promises that do not hold, each with its counterexample; and what cannot be reached though it should.
    pub problems: Vec<String>,
}

impl std::fmt::Display for Explored {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { part, states, depth, elapsed, .. } = self;
        let (name, bounds, seconds) = (part.name, &part.bounds, elapsed.as_secs_f64());
        write!(f, "{name}: all of {states} distinct states, depth {depth}, {seconds:.1} s: {bounds}")
    }
}

impl Part {
    /// Looks at every state within the bounds.
    #[must_use]
    pub fn explore(self) -> Explored {
        let began = Instant::now();
        let checker = Proof::new(self.bounds.clone()).checker().threads(2).spawn_bfs().join();
        let mut problems = vec![];
        for property in checker.model().properties() {
            let found = checker.discovery(property.name);
            match (property.expectation, found) {
                (Expectation::Sometimes, found) => {
                    if found.is_some() != self.reachable.contains(&property.name) {
                        let how = if found.is_some() { "can" } else { "cannot" };
                        problems.push(format!("{how} be reached: {}", property.name));
                    }
                }
                (_, Some(path)) => problems.push(format!("broken: {}: {:#?}", property.name, path.into_actions())),
                (_, None) => {}
            }
        }
        let (states, depth) = (checker.unique_state_count(), checker.max_depth());
        Explored { part: self, states, depth, elapsed: began.elapsed(), problems }
    }
}

/// Returns all parts.
#[must_use]
pub fn all(level: Level) -> Vec<Part> {
    let large = level == Level::Large;
    let pick = |change, further| if large { further } else { change };
    let nothing = Bounds::nothing();
    let append = Bounds {
        clients: if large { vec![1, 2, 1] } else { vec![1, 2] },
        sendings: pick(3, 4),
        crashes: pick(2, 3),
        lost_answers: 2,
        ..nothing.clone()
    };
    let hook = Bounds { clients: vec![1, 1], webhook: true, crashes: 1, ..nothing.clone() };
    let retries = Bounds {
        nodes: 1,
        clients: if large { vec![1, 1, 2] } else { vec![1, 1] },
        leases: pick(2, 3),
        refusals: pick(1, 2),
        lost_replies: 1,
        ticks: pick(1, 2),
        ..hook.clone()
    };
    let takeover = Bounds { leases: pick(2, 3), refusals: pick(0, 1), ticks: pick(3, 6), ..hook.clone() };
    let pauses = Bounds { crashes: 0, leases: pick(2, 3), pauses: pick(1, 2), ticks: pick(3, 6), ..hook };
    let streams = Bounds {
        clients: if large { vec![1, 2, 1] } else { vec![1, 2] },
        crashes: pick(1, 2),
        readers: 1,
        drops: pick(1, 3),
        ..nothing.clone()
    };
    let projections = Bounds {
        clients: if large { vec![1, 2, 1] } else { vec![1, 2] },
        crashes: pick(2, 3),
        views: true,
        cuts: pick(1, 2),
        ..nothing.clone()
    };
    let whole = Bounds {
        nodes: pick(1, 2),
        sendings: 2,
        crashes: 1,
        lost_answers: 1,
        webhook: true,
        ticks: pick(0, 3),
        readers: 1,
        drops: 1,
        views: true,
        ..nothing
    };
    let part = |name, bounds, reachable: &[&'static str]| Part { name, bounds, reachable: reachable.to_vec() };
    vec![
        part("append", append, &[ALL_DONE]),
        part("retries", retries, &[ALL_DONE, EXHAUSTED, TAKEN_OVER]),
        part("takeover", takeover, &[ALL_DONE, TAKEN_OVER]),
        part("pauses", pauses, &[ALL_DONE, TAKEN_OVER, ONE_LATE]),
        part("streams", streams, &[ALL_DONE]),
        part("projections", projections, &[ALL_DONE]),
        part("whole", whole, &[ALL_DONE, TAKEN_OVER]),
    ]
}
