//! A webhook that this node works at: its lease, its window, and what of it is not written down yet.

use std::sync::Arc;

use domain::id::Position;
use eventlog::{EventLog, LogError};
use projections::webhook_attempts::Row as AttemptRow;
use tokio::time::Instant;

use super::config::Config;
use super::endpoint::Endpoint;
use super::item::Item;
use super::window::{Phase, Window};
use crate::queue::{Hold, Key, Leased, Write};

/// Why this node stops working at a webhook, once nothing is on its way any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending {
    /// It is off: nothing is done until it is on again.
    Park,
    /// There is nothing to do.
    Idle,
    /// It is gone: nothing of it is kept.
    Drop,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Active {
    pub(crate) key: Key,
    pub(crate) lease_epoch: i64,
    /// Until when the lease surely lasts, by this machine's own monotonic clock.
    pub(crate) lease_until: Instant,
    pub(crate) endpoint: Arc<Endpoint>,
    pub(crate) window: Window<Item>,
    /// Attempts that are not written down yet.
    pub(crate) attempts: Vec<AttemptRow>,
    pub(crate) ending: Option<Ending>,
    /// Whether it was off since its blocked mailboxes were last made due.
    pub(crate) was_off: bool,
    /// Whether its endpoint is being loaded anew; nothing is started meanwhile.
    pub(crate) is_stale: bool,
    /// Whether the lease must be renewed before anything is started.
    pub(crate) is_held: bool,
    /// Whether the lease is being given back.
    pub(crate) is_releasing: bool,
    pub(crate) is_reading: bool,
    pub(crate) is_scanning: bool,
    /// The head at which reading found nothing: not read again before it moves or the next poll.
    pub(crate) dry_at: Option<Position>,
    /// When the reactor looks at it next, in stored time.
    pub(crate) alarm: Option<i64>,
    pub(crate) idle_since: Option<Instant>,
}

impl Active {
    /// Returns a webhook whose lease was just taken.
    pub(crate) fn new(leased: Leased, endpoint: Endpoint, lease_until: Instant, config: &Config, now: i64) -> Self {
        let Leased { key, epoch, cursor, horizon, pending, parked, rows, is_rebased, .. } = leased;
        let lanes: Vec<_> = rows.iter().filter(|_| is_rebased).map(|(lane, _)| lane.clone()).collect();
        let mut window = Window::restore(config.bounds(), cursor, horizon, pending, rows);
        window.unwritten(lanes);
        // What could not be processed before a restart may be processed by a newer build.
        window.retry_poisoned(now);
        Self {
            key,
            lease_epoch: epoch,
            lease_until,
            endpoint: Arc::new(endpoint),
            window,
            attempts: vec![],
            ending: None,
            was_off: parked,
            is_stale: false,
            is_held: false,
            is_releasing: false,
            is_reading: false,
            is_scanning: false,
            dry_at: None,
            alarm: None,
            idle_since: None,
        }
    }

    /// Draws the conclusions from the endpoint as it is now.
    pub(crate) fn follow_endpoint(&mut self, now: i64) {
        if !self.endpoint.is_on {
            self.was_off = true;
            self.ending = Some(Ending::Park);
            return;
        }
        self.ending = None;
        // Ends are rows only when the log knows of them, so a webhook that is on was switched on again since.
        let ended =
            [Phase::Exhausted, Phase::Gone].into_iter().any(|phase| self.window.rows_in(phase).next().is_some());
        if self.was_off || ended {
            self.window.revive(now);
            self.was_off = false;
        }
        self.skip_backlog();
    }

    /// Leaves out what the owner did not want delivered when the webhook was last switched on.
    pub(crate) fn skip_backlog(&mut self) {
        let Some(position) = self.endpoint.skipped_at else { return };
        if self.window.in_flight() == 0 && self.window.has_before(position) {
            self.window.skip_to(position);
        }
    }

    /// Returns whether a skip waits for attempts that are on their way.
    fn must_skip(&self) -> bool {
        self.endpoint.skipped_at.is_some_and(|position| self.window.has_before(position))
    }

    /// Returns whether anything may be read or started.
    pub(crate) fn is_working(&self) -> bool {
        self.ending.is_none() && self.endpoint.is_on && !self.is_stale && !self.is_releasing && !self.must_skip()
    }

    /// Returns whether an attempt could be started now.
    pub(crate) fn can_start(&self, now: i64, in_flight_max: usize) -> bool {
        self.is_working() && !self.is_held && self.window.in_flight() < in_flight_max && self.window.can_start(now)
    }

    /// Returns whether the log should be read on.
    pub(crate) fn wants_page(&self, head: Position) -> bool {
        self.is_working()
            && !self.is_reading
            && self.window.read_to() < head
            && self.dry_at != Some(head)
            && self.window.has_room()
    }

    /// Returns whether there is nothing to do before `soon`.
    pub(crate) fn is_idle(&self, head: Position, soon: i64) -> bool {
        self.window.in_flight() == 0
            && self.window.waiting() == 0
            && self.window.read_to() >= head
            && !self.is_reading
            && !self.is_scanning
            && self.window.rows_in(Phase::Behind).next().is_none()
            && self.window.next_due_at().is_none_or(|at| at > soon)
    }

    /// Returns whether the node can let go of it as soon as everything is written down.
    pub(crate) fn has_ended(&self) -> bool {
        self.ending.is_some() && self.window.in_flight() == 0 && !self.is_reading && !self.is_scanning
    }

    /// Returns what is to be written down now.
    pub(crate) fn write(&mut self, hold: Hold) -> Write {
        self.is_releasing = hold != Hold::Keep;
        Write {
            key: self.key.clone(),
            epoch: self.lease_epoch,
            snapshot: self.window.snapshot(),
            parked: self.was_off,
            hold,
            attempts: std::mem::take(&mut self.attempts),
        }
    }

    /// Takes back what could not be written.
    pub(crate) fn unwritten(&mut self, write: Write) {
        self.is_releasing = false;
        self.window.unwritten(write.snapshot.rows.into_iter().map(|(lane, _)| lane));
        let newer = std::mem::replace(&mut self.attempts, write.attempts);
        self.attempts.extend(newer);
    }
}

/// Translates positions of a log from before it was restored from a backup: what lies behind the restored part never
/// was, and what follows it is new.
///
/// # Errors
/// The log cannot be read.
pub(crate) async fn rebase(log: &EventLog, leased: &mut Leased) -> Result<(), LogError> {
    let epoch = log.epoch();
    if leased.log_epoch == epoch {
        return Ok(());
    }
    let head = log.head(&leased.key.team).await?.position;
    // Epochs grow along the log: the first record of the current one is found by halving.
    let (mut old, mut new) = (0, head + 1);
    while new - old > 1 {
        let middle = old + (new - old) / 2;
        let found = log.read_stored(&leased.key.team, middle - 1, 1).await?;
        if found.first().is_some_and(|record| record.epoch < epoch) { old = middle } else { new = middle }
    }
    tracing::warn!(
        team.id = %leased.key.team, webhook.id = %leased.key.webhook, from = leased.cursor, to = leased.cursor.min(old),
        "the log was restored from a backup; the webhook's cursor follows"
    );
    leased.cursor = leased.cursor.min(old);
    leased.horizon = leased.horizon.min(old);
    leased.pending.retain(|position| *position <= old);
    for (_, row) in &mut leased.rows {
        if row.position > old {
            // The event it was about never was; the lane stands at the end of what was restored.
            *row = super::window::Row { position: old, phase: Phase::Behind, attempts: 0, ..row.clone() };
        }
    }
    leased.is_rebased = true;
    Ok(())
}
