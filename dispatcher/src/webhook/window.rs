//! What of a webhook's events is settled, what is on its way, and what may be attempted next. Pure.
//!
//! Events of one mailbox form a *lane*: within it, nothing is attempted before everything earlier is settled. Lanes are
//! independent of each other. The window knows two kinds of unsettled events:
//! - **Entries**: read from the log behind the cursor and not yet attempted with a bad end. They cost memory only and
//!   their number is bounded.
//! - **Blocked lanes**: an attempt failed. One durable row per lane says where the lane stands; the events behind it
//!   are not stored anywhere but in the log. The cursor moves past all of them, so however long a mailbox is blocked,
//!   the others go on, and a dead endpoint's backlog costs one row per mailbox, whose number is bounded too: at the
//!   bound the whole webhook waits.
//!
//! When a blocked lane's head is settled, the lane is *behind*: its next events are found by reading the log once more
//! from where it stands (a short queue in memory saves that for the common case), until it has caught up with the
//! cursor; then the row goes and the lane is like any other.
//!
//! What is durable is a [`Snapshot`]: the cursor, the positions between cursor and horizon that are *not* settled, and
//! the rows. Restoring it at any moment forgets only what was settled after it was taken.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use blocked::Blocked;
use domain::id::{MailboxId, Position};
pub use row::{Phase, Row, Settlement, Snapshot, Work};
use scan::Scan;

mod blocked;
mod reset;
mod row;
mod scan;

/// Events of one mailbox; `None` for events that belong to none.
pub type Lane = Option<MailboxId>;

/// How large a window may become.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Bounds {
    /// Unsettled events in memory at which reading ahead pauses.
    pub events_max: usize,
    /// Blocked lanes at which reading ahead pauses.
    pub blocked_max: usize,
    /// Positions remembered per blocked lane.
    pub queue_max: usize,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Entry<T> {
    lane: Lane,
    item: Option<Arc<T>>,
}

/// See the module. It is a value: whoever looks for all that can happen may copy, compare and hash it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Window<T> {
    bounds: Bounds,
    read_to: Position,
    settled_to: Position,
    /// From the snapshot: events up to here that are not in `restored_pending` were settled before.
    restored_to: Position,
    restored_pending: BTreeSet<Position>,
    /// Up to here events may be covered by a restored row alone: no lane may lose its row before they have been read.
    covered_to: Position,
    entries: BTreeMap<Position, Entry<T>>,
    /// Entries of each lane, oldest first; the first may be in flight.
    lanes: BTreeMap<Lane, VecDeque<Position>>,
    ready: BTreeSet<Position>,
    in_flight: BTreeSet<Position>,
    blocked: BTreeMap<Lane, Blocked>,
    due: BTreeSet<(i64, Lane)>,
    dirty: BTreeSet<Lane>,
    scan: Option<Scan>,
    blocked_turn: bool,
}

impl<T> Window<T> {
    /// Returns a window as it was written down.
    pub fn restore(
        bounds: Bounds,
        cursor: Position,
        horizon: Position,
        pending: impl IntoIterator<Item = Position>,
        rows: impl IntoIterator<Item = (Lane, Row)>,
    ) -> Self {
        let mut window = Self {
            bounds,
            read_to: cursor,
            settled_to: cursor.max(horizon),
            restored_to: horizon,
            restored_pending: pending.into_iter().collect(),
            covered_to: horizon,
            entries: BTreeMap::new(),
            lanes: BTreeMap::new(),
            ready: BTreeSet::new(),
            in_flight: BTreeSet::new(),
            blocked: BTreeMap::new(),
            due: BTreeSet::new(),
            dirty: BTreeSet::new(),
            scan: None,
            blocked_turn: false,
        };
        for (lane, row) in rows {
            window.covered_to = window.covered_to.max(row.position);
            // What follows is only in the log, and how much of it is not known.
            window.blocked.insert(lane.clone(), Blocked::new(row, VecDeque::new(), true));
            window.plan(&lane);
        }
        window
    }

    /// Returns how far the log has been read.
    pub fn read_to(&self) -> Position {
        self.read_to
    }

    /// Returns where the cursor is: everything up to it is settled or covered by a row.
    pub fn cursor(&self) -> Position {
        self.entries.keys().next().map_or(self.read_to, |first| first - 1)
    }

    /// Returns how many attempts are on their way.
    pub fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    /// Returns how many lanes are blocked.
    pub fn blocked(&self) -> usize {
        self.blocked.len()
    }

    /// Returns how many events are in memory.
    pub fn waiting(&self) -> usize {
        self.entries.len()
    }

    /// Returns whether there is room to read ahead.
    pub fn has_room(&self) -> bool {
        let few_blocked = self.blocked.len() < self.bounds.blocked_max;
        self.entries.len() < self.bounds.events_max && (few_blocked || self.read_to < self.covered_to)
    }

    /// Returns the rows in a phase.
    pub fn rows_in(&self, phase: Phase) -> impl Iterator<Item = (&Lane, &Row)> {
        self.blocked.iter().filter(move |(_, b)| b.row.phase == phase).map(|(lane, b)| (lane, &b.row))
    }

    /// Takes in the next page of the log: the matching events, in order, and the last position that was read.
    pub fn read(&mut self, matching: impl IntoIterator<Item = (Position, Lane, Option<Arc<T>>)>, last: Position) {
        for (position, lane, item) in matching {
            if position > self.read_to {
                self.offer(position, lane, item);
            }
        }
        self.read_to = self.read_to.max(last);
    }

    fn offer(&mut self, position: Position, lane: Lane, item: Option<Arc<T>>) {
        if let Some(blocked) = self.blocked.get_mut(&lane) {
            if position > blocked.known_to() && !blocked.more {
                if blocked.queue.len() < self.bounds.queue_max {
                    blocked.queue.push_back(position);
                    self.plan(&lane);
                } else {
                    blocked.more = true;
                }
            }
            return;
        }
        if position <= self.restored_to && !self.restored_pending.contains(&position) {
            return;
        }
        let waiting = self.lanes.entry(lane.clone()).or_default();
        if waiting.is_empty() {
            self.ready.insert(position);
        }
        waiting.push_back(position);
        self.entries.insert(position, Entry { lane, item });
    }

    /// Returns the next thing to attempt now, which is then in flight until it is settled.
    pub fn start(&mut self, now: i64) -> Option<Work<T>> {
        self.blocked_turn = !self.blocked_turn;
        if self.blocked_turn {
            self.start_blocked(now).or_else(|| self.start_entry())
        } else {
            self.start_entry().or_else(|| self.start_blocked(now))
        }
    }

    /// Returns whether [`Window::start`] would return something.
    pub fn can_start(&self, now: i64) -> bool {
        !self.ready.is_empty() || self.due.first().is_some_and(|(at, _)| *at <= now)
    }

    /// Returns when the next retry is due.
    pub fn next_due_at(&self) -> Option<i64> {
        self.due.first().map(|(at, _)| *at)
    }

    fn start_entry(&mut self) -> Option<Work<T>> {
        let position = self.ready.pop_first()?;
        let entry = self.entries.get(&position)?;
        self.in_flight.insert(position);
        let (lane, item) = (entry.lane.clone(), entry.item.clone());
        Some(Work { position, lane, attempts: 0, first_due_at: None, tries: 0, item })
    }

    fn start_blocked(&mut self, now: i64) -> Option<Work<T>> {
        let (_, lane) = self.due.first().filter(|(at, _)| *at <= now)?.clone();
        let blocked = self.blocked.get_mut(&lane)?;
        blocked.in_flight = true;
        let row = &blocked.row;
        let (position, attempts, first_due_at, tries) = match row.phase {
            Phase::Behind => (*blocked.queue.front()?, 0, None, 0),
            // The tries of a poisoned event are not attempts: nothing was ever sent.
            Phase::Poisoned => (row.position, 0, None, row.attempts),
            Phase::Retrying | Phase::Exhausted | Phase::Gone => (row.position, row.attempts, Some(row.first_due_at), 0),
        };
        self.in_flight.insert(position);
        self.plan(&lane);
        Some(Work { position, lane, attempts, first_due_at, tries, item: None })
    }

    /// Takes in how an attempt ended.
    pub fn settle(&mut self, position: Position, lane: &Lane, settlement: Settlement) {
        self.in_flight.remove(&position);
        if self.entries.contains_key(&position) {
            self.settle_entry(position, lane, settlement);
        } else if self.blocked.contains_key(lane) {
            self.settle_blocked(position, lane, settlement);
        }
    }

    fn settle_entry(&mut self, position: Position, lane: &Lane, settlement: Settlement) {
        let row = match settlement {
            Settlement::NotMade => {
                self.ready.insert(position);
                return;
            }
            Settlement::Delivered => None,
            Settlement::Blocked(row) => Some(row),
        };
        self.entries.remove(&position);
        let waiting = self.lanes.get_mut(lane);
        let mut rest = waiting.map(std::mem::take).unwrap_or_default();
        rest.pop_front();
        let Some(row) = row else {
            self.settled_to = self.settled_to.max(position);
            match rest.front() {
                Some(next) => {
                    self.ready.insert(*next);
                    self.lanes.insert(lane.clone(), rest);
                }
                None => drop(self.lanes.remove(lane)),
            }
            return;
        };
        self.lanes.remove(lane);
        rest.iter().for_each(|behind| drop(self.entries.remove(behind)));
        let more = rest.len() > self.bounds.queue_max;
        rest.truncate(self.bounds.queue_max);
        self.blocked.insert(lane.clone(), Blocked::new(row, rest, more));
        self.dirty.insert(lane.clone());
        self.plan(lane);
    }

    fn settle_blocked(&mut self, position: Position, lane: &Lane, settlement: Settlement) {
        let Some(blocked) = self.blocked.get_mut(lane) else { return };
        let from_queue = blocked.queue.front() == Some(&position);
        if !blocked.in_flight || !(from_queue || blocked.row.position == position) {
            return;
        }
        blocked.in_flight = false;
        match settlement {
            Settlement::NotMade => {}
            Settlement::Delivered => {
                self.settled_to = self.settled_to.max(position);
                blocked.row.position = position;
                blocked.row.phase = Phase::Behind;
                blocked.row.attempts = 0;
                blocked.row.next_due_at = None;
                blocked.row.last_error.clear();
                self.dirty.insert(lane.clone());
            }
            Settlement::Blocked(row) => {
                blocked.row = row;
                self.dirty.insert(lane.clone());
            }
        }
        if from_queue && blocked.row.position == position {
            blocked.queue.pop_front();
        }
        self.plan(lane);
        self.unblock_if_level(lane);
    }

    /// Drops the row of a lane that has caught up with the window.
    fn unblock_if_level(&mut self, lane: &Lane) {
        let Some(blocked) = self.blocked.get_mut(lane) else { return };
        // A scan will look at it again.
        blocked.more |= self.read_to < self.covered_to;
        let settled = blocked.row.phase == Phase::Behind && !blocked.in_flight;
        if settled && blocked.queue.is_empty() && !blocked.more {
            self.settled_to = self.settled_to.max(blocked.row.position);
            self.blocked.remove(lane);
            self.dirty.insert(lane.clone());
        }
    }

    /// Puts a blocked lane where [`Window::start`] finds it, or takes it away from there.
    fn plan(&mut self, lane: &Lane) {
        let Some(blocked) = self.blocked.get_mut(lane) else { return };
        let due = blocked.due_at();
        let planned = std::mem::replace(&mut blocked.planned_at, due);
        if planned == blocked.planned_at {
            return;
        }
        if let Some(at) = planned {
            self.due.remove(&(at, lane.clone()));
        }
        if let Some(at) = blocked.planned_at {
            self.due.insert((at, lane.clone()));
        }
    }

    /// Returns what has to be written down, and regards it as written.
    pub fn snapshot(&mut self) -> Snapshot {
        let cursor = self.cursor();
        let rows = std::mem::take(&mut self.dirty)
            .into_iter()
            .map(|lane| {
                let row = self.blocked.get(&lane).map(|blocked| blocked.row.clone());
                (lane, row)
            })
            .collect();
        // What an earlier snapshot knew beyond what has been read since is still true.
        let unread = self.restored_pending.iter().filter(|position| **position > self.read_to);
        // Of what lies beyond both nothing is known; what was settled there is covered by its lane's row.
        let horizon = self.settled_to.min(self.read_to.max(self.restored_to)).max(cursor);
        let pending = self.entries.keys().take_while(|position| **position <= horizon);
        let pending = pending.chain(unread).copied().collect();
        Snapshot { cursor, horizon, pending, rows }
    }

    /// Takes back rows that could not be written.
    pub fn unwritten(&mut self, rows: impl IntoIterator<Item = Lane>) {
        self.dirty.extend(rows);
    }

    /// Returns whether rows changed since the last snapshot.
    pub fn has_unwritten_rows(&self) -> bool {
        !self.dirty.is_empty()
    }
}

#[cfg(test)]
mod tests;
