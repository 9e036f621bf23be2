//! What a window hands out and writes down: rows of blocked lanes, work, its end, snapshots.

use std::sync::Arc;

use domain::id::Position;

use super::Lane;

/// Why a lane is blocked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Phase {
    /// The event at its position failed and is attempted again when due.
    Retrying,
    /// The event at its position is settled; those after it, up to the cursor, are not.
    Behind,
    /// All attempts at the event failed; it waits until the webhook is enabled again.
    Exhausted,
    /// The endpoint answered `410 Gone` to the event; it waits until the webhook is enabled again.
    Gone,
    /// The event at its position cannot be processed; tried again when due, after some tries only on request.
    Poisoned,
}

impl Phase {
    /// Returns the stored word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Retrying => "retrying",
            Self::Behind => "behind",
            Self::Exhausted => "exhausted",
            Self::Gone => "gone",
            Self::Poisoned => "poisoned",
        }
    }

    /// Returns the phase of that stored word.
    pub fn parse(word: &str) -> Option<Self> {
        [Self::Retrying, Self::Behind, Self::Exhausted, Self::Gone, Self::Poisoned]
            .into_iter()
            .find(|phase| phase.as_str() == word)
    }
}

/// The durable row of a blocked lane.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Row {
    /// Where the lane stands.
    pub position: Position,
    /// Why it is blocked.
    pub phase: Phase,
    /// Attempts made at the event at `position`.
    pub attempts: u32,
    /// When the first of them was due, microseconds since the Unix epoch.
    pub first_due_at: i64,
    /// When the next is due; `None` means not before somebody asks for it.
    pub next_due_at: Option<i64>,
    /// How the last one failed.
    pub last_error: String,
}

/// How an attempt ended, as far as order and cursor are concerned.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Settlement {
    /// A 2xx, or not wanted any more: the event is settled.
    Delivered,
    /// It was not made at all: the webhook changed or the lease ran short.
    NotMade,
    /// It failed; the row says what is next.
    Blocked(Row),
}

/// What to attempt now.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Work<T> {
    /// The event.
    pub position: Position,
    /// Its lane.
    pub lane: Lane,
    /// Attempts made before.
    pub attempts: u32,
    /// When the first attempt was due; `None` if this is the first.
    pub first_due_at: Option<i64>,
    /// How often it could not even be processed.
    pub tries: u32,
    /// What was read from the log, if it is still in memory.
    pub item: Option<Arc<T>>,
}

/// What is written down of a window.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Snapshot {
    /// Everything up to here is settled or covered by a row.
    pub cursor: Position,
    /// Everything up to here is settled or covered by a row, except `pending`.
    pub horizon: Position,
    /// Events between cursor and horizon that are not settled.
    pub pending: Vec<Position>,
    /// Rows that changed since the last snapshot; `None` for those to drop.
    pub rows: Vec<(Lane, Option<Row>)>,
}
