//! Writing down: results of many webhooks in one transaction, after a short time or many results.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::{Done, Reactor};
use crate::queue::{Hold, Key, Write};
use crate::webhook::active::Ending;

/// How long a cursor that moved over events nobody wanted may stay unwritten: they are only read again.
const MOVED_WITHIN: Duration = Duration::from_secs(5);
/// Pause after the database did not answer.
const FAILED_PAUSE: Duration = Duration::from_secs(1);

/// What is not written down yet.
#[derive(Default)]
pub(super) struct State {
    dirty: BTreeSet<Key>,
    results: usize,
    /// When what waits should be written.
    due_at: Option<Instant>,
    /// When the oldest of what waits must be written, however little it is.
    must_at: Option<Instant>,
    is_writing: bool,
    paused_until: Option<Instant>,
}

impl State {
    pub(super) fn is_writing(&self) -> bool {
        self.is_writing
    }

    /// Returns when the next write is due: the sooner time if it has not passed in vain.
    pub(super) fn due_at(&self) -> Option<Instant> {
        if self.is_writing {
            return None;
        }
        let at = self.due_at.filter(|at| *at > Instant::now()).or(self.must_at)?;
        Some(self.paused_until.map_or(at, |until| until.max(at)))
    }

    fn add(&mut self, key: &Key, within: Duration, at_most: Duration) {
        self.dirty.insert(key.clone());
        let now = Instant::now();
        let earlier = |known: Option<Instant>, new: Instant| Some(known.map_or(new, |known| known.min(new)));
        self.due_at = earlier(self.due_at, now + within);
        self.must_at = earlier(self.must_at, now + at_most);
    }
}

impl Reactor {
    /// Notes that something of a webhook is to be written soon.
    pub(super) fn mark_dirty(&mut self, key: &Key) {
        let config = &self.context.config;
        let at_most = Duration::from_millis(config.flush_busy_milliseconds);
        self.writes.add(key, Duration::from_millis(config.flush_milliseconds), at_most);
    }

    /// Notes that an attempt was settled.
    pub(super) fn mark_settled(&mut self, key: &Key) {
        self.mark_dirty(key);
        self.writes.results += 1;
    }

    /// Notes that a cursor may have moved over events that were not wanted.
    pub(super) fn mark_moved(&mut self, key: &Key) {
        self.writes.add(key, MOVED_WITHIN, MOVED_WITHIN);
    }

    /// Forgets that something of a webhook is to be written.
    pub(super) fn clean(&mut self, key: &Key) {
        self.writes.dirty.remove(key);
    }

    pub(super) fn write_if_due(&mut self) {
        let now = Instant::now();
        let many = self.writes.results >= self.context.config.flush_attempts_max;
        let paused = self.writes.paused_until.is_some_and(|until| until > now);
        let enough = self.turns.in_flight() == 0 || self.writes.results >= self.context.config.flush_attempts_min;
        let passed = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        let due = passed(self.writes.must_at) || (enough && passed(self.writes.due_at));
        if self.writes.is_writing || paused || !(many || due) {
            return;
        }
        let keys = std::mem::take(&mut self.writes.dirty);
        (self.writes.results, self.writes.due_at, self.writes.must_at) = (0, None, None);
        let mut writes = vec![];
        let mut gone = vec![];
        for key in keys {
            let Some(active) = self.active.get_mut(&key) else { continue };
            let ended = active.has_ended();
            match active.ending.filter(|_| ended) {
                Some(Ending::Drop) => {
                    gone.push((key.clone(), active.lease_epoch));
                    if let Some(active) = self.active.remove(&key) {
                        self.let_go(&active);
                    }
                }
                Some(Ending::Park | Ending::Idle) => writes.push(active.write(Hold::Release)),
                None => writes.push(active.write(Hold::Keep)),
            }
        }
        if !gone.is_empty() {
            self.drop_webhooks(gone);
        }
        if writes.is_empty() {
            return;
        }
        self.writes.is_writing = true;
        let context = Arc::clone(&self.context);
        self.tasks.spawn(async move {
            let at = Instant::now();
            let result = context.queue.write(&writes, &context.node, context.log.epoch(), context.lease_end()).await;
            Done::Written { writes, at, result }
        });
    }

    pub(super) fn written(&mut self, writes: Vec<Write>, at: Instant, result: Result<Vec<Key>, projections::Error>) {
        self.writes.is_writing = false;
        let lost = match result {
            Ok(lost) => lost,
            Err(error) => {
                tracing::warn!(%error, "results of webhook attempts could not be written; trying again");
                self.writes.paused_until = Some(Instant::now() + FAILED_PAUSE);
                for write in writes {
                    let key = write.key.clone();
                    if let Some(active) = self.active.get_mut(&key).filter(|a| a.lease_epoch == write.epoch) {
                        active.unwritten(write);
                        self.mark_dirty(&key);
                    }
                }
                return;
            }
        };
        self.writes.paused_until = None;
        for key in &lost {
            self.lose(key);
        }
        for write in writes.iter().filter(|write| !lost.contains(&write.key)) {
            match write.hold {
                Hold::Keep => self.prolong(&write.key, at),
                Hold::Release | Hold::HandOver => self.released(write),
            }
        }
    }

    /// A lease was given back. What has happened since the write began is found when the webhook is taken up again.
    fn released(&mut self, write: &Write) {
        let Some(active) = self.active.get(&write.key).filter(|a| a.lease_epoch == write.epoch) else { return };
        debug_assert_eq!(active.window.in_flight(), 0, "nothing is started once a webhook has ended");
        if let Some(active) = self.active.remove(&write.key) {
            self.let_go(&active);
        }
        if let Some(known) = self.known(&write.key) {
            known.left = Some((write.snapshot.cursor, write.parked));
        }
        self.consider(&write.key);
    }

    /// Writes down everything at the end and gives all leases back.
    pub(super) async fn write_last(&mut self) -> Result<(), projections::Error> {
        let mut writes = vec![];
        for (key, active) in &mut self.active {
            let head = self.teams.get(&key.team).map_or(0, |team| team.head);
            let idle = active.was_off || active.is_idle(head, i64::MIN);
            writes.push(active.write(if idle { Hold::Release } else { Hold::HandOver }));
        }
        if writes.is_empty() {
            return Ok(());
        }
        let context = &self.context;
        context.queue.write(&writes, &context.node, context.log.epoch(), context.lease_end()).await.map(|_| ())
    }
}
