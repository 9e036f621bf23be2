//! What an attempt may do and what follows from its end. Pure: times and answers in, rows out.

use std::time::Duration;

use domain::id::Position;

use super::window::{Phase, Row};
use crate::retry::Schedule;

/// What an endpoint answers when it is gone for good (RFC 9110 15.5.11).
const GONE: u16 = 410;
/// Pause before something is tried again that our own log or store refused, microseconds.
const OWN_FAULT_PAUSE_MICROS: i64 = 5_000_000;

/// Returns whether a lease that surely lasts for so long, by this machine's own monotonic clock, covers an attempt that
/// needs `reserve` at most.
#[must_use]
pub fn lease_covers(left: Duration, reserve: Duration) -> bool {
    left >= reserve
}

/// Returns whether the last attempt was made before, and only the log could not be told.
#[must_use]
pub fn is_over(schedule: &Schedule, attempts_made: u32) -> bool {
    attempts_made >= schedule.attempts_max()
}

/// What came back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reply {
    /// The HTTP status; `None` if there was no answer.
    pub status: Option<u16>,
    /// How long the receiver asks us to wait.
    pub retry_after: Option<Duration>,
}

/// What it means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The event is settled.
    Delivered,
    /// The endpoint is gone for good: the log is told, and the webhook goes off.
    Gone,
    /// It is attempted again at this time, microseconds since the Unix epoch.
    Retry(i64),
    /// That was the last attempt: the log is told, and the webhook counts as failing.
    Exhausted,
}

/// Decides what an answer means. Redirects are failures; `410` is the end.
///
/// `number` counts this attempt too; `first_due_at` and `now` are microseconds since the Unix epoch; for `jitter` see
/// [`Schedule::next_attempt`].
#[must_use]
pub fn verdict(schedule: &Schedule, reply: Reply, first_due_at: i64, number: u32, now: i64, jitter: f64) -> Verdict {
    match reply.status {
        Some(200..=299) => return Verdict::Delivered,
        Some(GONE) => return Verdict::Gone,
        _ => {}
    }
    match schedule.next_attempt(first_due_at, number, now, jitter, reply.retry_after) {
        Some(at) => Verdict::Retry(at),
        None => Verdict::Exhausted,
    }
}

/// Returns the row of a mailbox whose head is attempted again.
#[must_use]
pub fn retrying(position: Position, attempts: u32, first_due_at: i64, next_due_at: i64, last_error: String) -> Row {
    Row { position, phase: Phase::Retrying, attempts, first_due_at, next_due_at: Some(next_due_at), last_error }
}

/// Returns the row of a mailbox whose head is at its end. Only when the log was told may the row say so: a row that is
/// exhausted while the webhook is on means that it was switched on again since.
#[must_use]
pub fn ended(position: Position, phase: Phase, attempts: u32, last_error: String, told: bool, now: i64) -> Row {
    let (phase, next_due_at) = if told { (phase, None) } else { (Phase::Retrying, Some(now + OWN_FAULT_PAUSE_MICROS)) };
    Row { position, phase, attempts, first_due_at: now, next_due_at, last_error }
}
