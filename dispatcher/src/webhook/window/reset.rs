//! What somebody decides about a window from outside: leaving a backlog out, trying blocked lanes again.

use domain::id::Position;

use super::Window;
use super::blocked::Blocked;
use super::row::{Phase, Row};

impl<T> Window<T> {
    /// Leaves out every unsettled event up to a position. Nothing may be in flight.
    pub fn skip_to(&mut self, position: Position) {
        self.scan = None;
        let unread = position >= self.read_to;
        for (lane, mut blocked) in std::mem::take(&mut self.blocked) {
            self.dirty.insert(lane.clone());
            if unread {
                continue;
            }
            if blocked.row.position <= position {
                // Later events of the lane were read already: it is behind, and stands at the position.
                blocked.row = Row { position, phase: Phase::Behind, attempts: 0, next_due_at: None, ..blocked.row };
                blocked.queue.retain(|queued| *queued > position);
            }
            blocked.planned_at = None;
            self.blocked.insert(lane, blocked);
        }
        self.due.clear();
        self.entries = self.entries.split_off(&(position + 1));
        self.lanes.clear();
        self.ready.clear();
        for (position, entry) in &self.entries {
            let waiting = self.lanes.entry(entry.lane.clone()).or_default();
            if waiting.is_empty() {
                self.ready.insert(*position);
            }
            waiting.push_back(*position);
        }
        self.read_to = self.read_to.max(position);
        self.settled_to = self.settled_to.max(position);
        for lane in self.blocked.keys().cloned().collect::<Vec<_>>() {
            self.plan(&lane);
            self.unblock_if_level(&lane);
        }
    }

    /// Returns whether an unsettled event at or before a position is known, or may be in the log unread.
    pub fn has_before(&self, position: Position) -> bool {
        let blocked = |b: &Blocked| b.row.position < position || b.row.phase != Phase::Behind;
        self.cursor() < position || self.blocked.values().any(|b| b.row.position <= position && blocked(b))
    }

    /// Makes events that could not be processed due once more.
    pub fn retry_poisoned(&mut self, now: i64) {
        for (lane, blocked) in &mut self.blocked {
            if blocked.row.phase == Phase::Poisoned && blocked.row.next_due_at.is_none() {
                (blocked.row.attempts, blocked.row.next_due_at) = (0, Some(now));
                self.dirty.insert(lane.clone());
            }
        }
        for lane in self.dirty.clone() {
            self.plan(&lane);
        }
    }

    /// Makes every blocked lane due now, its attempts counted anew.
    pub fn revive(&mut self, now: i64) {
        for lane in self.blocked.keys().cloned().collect::<Vec<_>>() {
            if let Some(blocked) = self.blocked.get_mut(&lane)
                && blocked.row.phase != Phase::Behind
            {
                let phase = if blocked.row.phase == Phase::Poisoned { Phase::Poisoned } else { Phase::Retrying };
                blocked.row = Row {
                    phase,
                    attempts: 0,
                    first_due_at: now,
                    next_due_at: Some(now),
                    last_error: std::mem::take(&mut blocked.row.last_error),
                    position: blocked.row.position,
                };
                self.dirty.insert(lane.clone());
            }
            self.plan(&lane);
        }
    }
}
