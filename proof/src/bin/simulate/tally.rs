//! What clients have seen, for the judge.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use domain::id::Position;

use crate::receiver::Received;

/// What a reader of a stream has seen.
#[derive(Debug, Default)]
pub struct Seen {
    /// The positions of the events, in the order they came.
    pub positions: Vec<Position>,
    /// How often it connected.
    pub connections: u32,
    pub streams: Vec<Streamed>,
}

/// A connection on which a stream was open.
#[derive(Debug)]
pub struct Streamed {
    pub from: Duration,
    pub to: Duration,
    /// The last event it told of, or the one it was resumed after.
    pub last: Position,
}

#[derive(Debug, Default)]
pub struct Sheet {
    /// What was answered and when, by idempotency key.
    pub acknowledged: BTreeMap<String, (Position, Duration)>,
    /// How many appends are still to be acknowledged.
    pub writers_left: usize,
    pub readers: BTreeMap<String, Seen>,
    pub received: Received,
    /// What must never happen, as soon as it has.
    pub breaches: Vec<String>,
    /// How often requests went unanswered and were repeated.
    pub repetitions: u64,
}

/// See the module. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Tally {
    sheet: Arc<Mutex<Sheet>>,
}

impl Tally {
    /// Returns the sheet to read or write.
    pub fn sheet(&self) -> MutexGuard<'_, Sheet> {
        self.sheet.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
