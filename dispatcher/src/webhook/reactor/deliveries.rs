//! Reading and attempting: what flows through the windows of the webhooks that this node works at.

use std::sync::Arc;
use std::time::Duration;

use domain::id::{Position, TeamId};
use eventlog::LogError;

use super::{Done, Reactor};
use crate::queue::Key;
use crate::webhook::attempt::{Attempted, Job, attempt};
use crate::webhook::item::{LogPage, read_page};
use crate::webhook::window::Settlement;

/// Pause after the log could not be read.
const UNREADABLE_PAUSE: Duration = Duration::from_millis(500);

impl Reactor {
    /// Starts whatever a webhook is ready for: reading, scanning, waiting for its turn or its alarm.
    pub(super) fn poke(&mut self, key: &Key) {
        if self.is_stopping {
            return;
        }
        self.read(key);
        self.scan(key);
        let now = self.context.allot.now();
        let in_flight_max = self.context.config.concurrency_per_webhook_max;
        let Some(active) = self.active.get_mut(key) else { return };
        if active.can_start(now, in_flight_max) {
            self.turns.enqueue(key);
        }
        let alarm = active.window.next_due_at().filter(|at| active.is_working() && *at > now);
        if alarm != active.alarm {
            if let Some(at) = std::mem::replace(&mut active.alarm, alarm) {
                self.alarms.remove(&(at, key.clone()));
            }
            if let Some(at) = alarm {
                self.alarms.insert((at, key.clone()));
            }
        }
        if active.has_ended() {
            self.mark_dirty(key);
        }
    }

    /// Wakes webhooks whose retries have become due.
    pub(super) fn ring_alarms(&mut self) {
        let now = self.context.allot.now();
        while let Some((_, key)) = self.alarms.first().filter(|(at, _)| *at <= now).cloned() {
            self.alarms.pop_first();
            if let Some(active) = self.active.get_mut(&key) {
                active.alarm = None;
            }
            self.poke(&key);
        }
    }

    /// Reads a webhook's next page; webhooks of a team that are at the same place share it.
    fn read(&mut self, key: &Key) {
        let head = self.teams.get(&key.team).map_or(0, |team| team.head);
        let Some(active) = self.active.get_mut(key).filter(|active| active.wants_page(head)) else { return };
        active.is_reading = true;
        let (team, after) = (key.team.clone(), active.window.read_to());
        let waiting = self.pages.entry((team.clone(), after)).or_default();
        waiting.push(key.clone());
        if waiting.len() > 1 {
            return;
        }
        let context = Arc::clone(&self.context);
        self.tasks.spawn(async move {
            let page = read_page(&context.log, &team, after, context.config.page_events).await;
            if page.is_err() {
                tokio::time::sleep(UNREADABLE_PAUSE).await;
            }
            Done::Page { team, after, page }
        });
    }

    pub(super) fn page_read(&mut self, team: TeamId, after: Position, page: Result<LogPage, LogError>) {
        let head = self.teams.get(&team).map_or(0, |team| team.head);
        let waiting = self.pages.remove(&(team, after)).unwrap_or_default();
        if let Err(error) = &page {
            metrics::counter!("webhook_read_failures_total").increment(1);
            tracing::warn!(%error, log.position = after, "the log could not be read for webhooks; trying again");
        }
        for key in waiting {
            let Some(active) = self.active.get_mut(&key) else { continue };
            active.is_reading = false;
            if let Ok(page) = &page {
                if page.last <= after {
                    active.dry_at = Some(head);
                } else if active.window.read_to() == after {
                    let subscription = &active.endpoint.subscription;
                    let wanted = page.items.iter().filter(|item| item.is_wanted(&key.webhook, subscription));
                    let wanted = wanted.map(|item| (item.position, item.lane(), Some(Arc::clone(item))));
                    active.window.read(wanted, page.last);
                    self.mark_moved(&key);
                }
            }
            self.poke(&key);
        }
    }

    /// Looks for the next events of mailboxes that are behind.
    fn scan(&mut self, key: &Key) {
        let Some(active) = self.active.get_mut(key).filter(|a| a.is_working() && !a.is_scanning) else { return };
        let after = active.window.scan_after();
        if active.window.has_unwritten_rows() {
            self.mark_dirty(key);
        }
        let (Some(after), Some(active)) = (after, self.active.get_mut(key)) else { return };
        active.is_scanning = true;
        let (context, key, lease_epoch) = (Arc::clone(&self.context), key.clone(), active.lease_epoch);
        self.tasks.spawn(async move {
            let page = read_page(&context.log, &key.team, after, context.config.page_events).await;
            if page.is_err() {
                tokio::time::sleep(UNREADABLE_PAUSE).await;
            }
            Done::Scan { key, lease_epoch, page }
        });
    }

    pub(super) fn scanned(&mut self, key: &Key, lease_epoch: i64, page: Result<LogPage, LogError>) {
        let Some(active) = self.active.get_mut(key).filter(|a| a.lease_epoch == lease_epoch) else { return };
        active.is_scanning = false;
        match page {
            Ok(page) => {
                let subscription = &active.endpoint.subscription;
                let wanted = page.items.iter().filter(|item| item.is_wanted(&key.webhook, subscription));
                active.window.scanned(wanted.map(|item| (item.position, item.lane())), page.last);
                if active.window.has_unwritten_rows() {
                    self.mark_dirty(key);
                }
            }
            Err(error) => {
                metrics::counter!("webhook_read_failures_total").increment(1);
                tracing::warn!(%error, "the log could not be read for a mailbox that is behind; trying again");
            }
        }
        self.poke(key);
    }

    /// Starts attempts, one webhook after the other, as long as there are places.
    pub(super) fn start_attempts(&mut self) {
        if self.is_stopping {
            return;
        }
        let now = self.context.allot.now();
        let in_flight_max = self.context.config.concurrency_per_webhook_max;
        while let Some(key) = self.turns.next() {
            let Some(active) = self.active.get_mut(&key) else { continue };
            let origin = active.endpoint.origin();
            if !active.can_start(now, in_flight_max) {
                self.turns.wake(&origin);
                continue;
            }
            if !self.turns.take(&key, &origin) {
                continue;
            }
            let Some(work) = active.window.start(now) else {
                self.turns.release(&key, &origin);
                continue;
            };
            let job = Job {
                key: key.clone(),
                lease_epoch: active.lease_epoch,
                lease_until: active.lease_until,
                endpoint: Arc::clone(&active.endpoint),
                work,
            };
            if active.can_start(now, in_flight_max) {
                self.turns.enqueue(&key);
            }
            let context = Arc::clone(&self.context);
            self.tasks.spawn(async move {
                let attempted = attempt(&context, &job).await;
                Done::Attempt(Box::new(job), attempted)
            });
        }
        metrics::gauge!("webhook_inflight").set(self.turns.in_flight() as f64);
    }

    pub(super) fn attempted(&mut self, job: Job, attempted: Attempted) {
        self.turns.release(&job.key, &job.endpoint.origin());
        let Job { key, lease_epoch, work, .. } = job;
        // Another lease has begun meanwhile: what this one did is not its result.
        let Some(active) = self.active.get_mut(&key).filter(|a| a.lease_epoch == lease_epoch) else { return };
        let settlement = match attempted {
            Attempted::Made(settlement, row) => {
                active.attempts.push(*row);
                settlement
            }
            Attempted::Settled(settlement) => settlement,
            Attempted::Changed => {
                active.window.settle(work.position, &work.lane, Settlement::NotMade);
                if !active.is_stale {
                    self.reload(&key);
                }
                return;
            }
            Attempted::LeaseShort => {
                active.window.settle(work.position, &work.lane, Settlement::NotMade);
                active.is_held = true;
                return;
            }
            Attempted::Unavailable(error) => {
                tracing::warn!(error, "a webhook attempt was put off, since the log cannot be read");
                active.window.settle(work.position, &work.lane, Settlement::NotMade);
                // The next renewal or write lifts it: by then something answers again.
                active.is_held = true;
                return;
            }
        };
        active.window.settle(work.position, &work.lane, settlement);
        active.skip_backlog();
        self.mark_settled(&key);
        self.poke(&key);
    }
}
