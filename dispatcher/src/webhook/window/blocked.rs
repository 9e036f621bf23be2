//! A blocked lane in memory.

use std::collections::VecDeque;

use domain::id::Position;

use super::row::{Phase, Row};

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Blocked {
    pub(super) row: Row,
    /// The next events of the lane, without holes, as far as they are known.
    pub(super) queue: VecDeque<Position>,
    /// Whether there may be events between the queue's end and the window's that are only in the log.
    pub(super) more: bool,
    pub(super) in_flight: bool,
    /// Under which time the lane stands in [`Window::due`].
    pub(super) planned_at: Option<i64>,
}

impl Blocked {
    pub(super) fn new(row: Row, queue: VecDeque<Position>, more: bool) -> Self {
        Self { row, queue, more, in_flight: false, planned_at: None }
    }

    /// Returns the last position that is known: scanning goes on behind it.
    pub(super) fn known_to(&self) -> Position {
        self.queue.back().copied().unwrap_or(self.row.position)
    }

    pub(super) fn is_starving(&self) -> bool {
        self.row.phase == Phase::Behind && self.queue.is_empty() && self.more && !self.in_flight
    }

    pub(super) fn due_at(&self) -> Option<i64> {
        match self.row.phase {
            _ if self.in_flight => None,
            Phase::Behind => (!self.queue.is_empty()).then_some(i64::MIN),
            Phase::Retrying | Phase::Poisoned => self.row.next_due_at,
            Phase::Exhausted | Phase::Gone => None,
        }
    }
}
