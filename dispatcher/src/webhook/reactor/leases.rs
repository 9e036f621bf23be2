//! Which webhooks this node works at: leases are taken when there is something to do, renewed at a third of their time,
//! and given back when there is nothing. Polling is the truth behind the hints.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use domain::id::{Position, TeamId};
use eventlog::LogError;
use tokio::time::Instant;

use super::{Done, HELD_ELSEWHERE, Reactor};
use crate::moves::Moves;
use crate::queue::{Key, Leased};
use crate::webhook::active::{Active, Ending, rebase};
use crate::webhook::config::Config;
use crate::webhook::endpoint::{self, Endpoint, Unready};

/// Webhooks whose leases are asked for with one statement.
const ACQUIRE_MAX: usize = 256;
/// Rows looked at per poll.
const POLL_ROWS: usize = 1_000;
/// How often expired attempts are dropped, and how many at most.
const EXPIRE_EVERY: Duration = Duration::from_secs(60);
const EXPIRE_MAX: usize = 20_000;

/// What came of asking for leases: for each webhook asked for, its row and its endpoint if they were had.
pub(super) struct Acquired {
    asked: Vec<Key>,
    at: Instant,
    leased: Vec<(Leased, Result<Option<Endpoint>, Unready>)>,
    failed: Option<String>,
}

/// What came of renewing leases.
pub(super) struct Renewed {
    keys: Vec<Key>,
    at: Instant,
    lost: Result<Vec<Key>, projections::Error>,
}

/// What a poll found.
pub(super) struct Polled {
    due: Result<Vec<Key>, projections::Error>,
    moved: Result<Vec<(TeamId, Position, i64)>, LogError>,
}

/// When leases and polls are due.
pub(super) struct State {
    wanted: BTreeMap<Key, Position>,
    /// Whose leases are being asked for.
    acquiring: BTreeSet<Key>,
    /// Webhooks that another node held when there was something to do, and when they are looked at again.
    again: BTreeSet<(Instant, Key)>,
    acquire_at: Option<Instant>,
    renew_every: Duration,
    renew_at: Instant,
    is_renewing: bool,
    poll_every: Duration,
    poll_at: Instant,
    is_polling: bool,
    moves: Moves,
    expire_at: Instant,
}

impl State {
    pub(super) fn new(config: &Config, now_micros: i64) -> Self {
        let now = Instant::now();
        Self {
            wanted: BTreeMap::new(),
            acquiring: BTreeSet::new(),
            again: BTreeSet::new(),
            acquire_at: None,
            renew_every: config.lease() / 3,
            renew_at: now + config.lease() / 3,
            is_renewing: false,
            poll_every: Duration::from_millis(config.poll_milliseconds),
            poll_at: now,
            is_polling: false,
            moves: Moves::new(now_micros),
            expire_at: now + EXPIRE_EVERY,
        }
    }

    /// Asks for a webhook's lease; a new webhook begins behind the position.
    pub(super) fn want(&mut self, key: Key, begin: Position) {
        // Asking twice would end the lease that the first answer brings.
        if !self.acquiring.contains(&key) {
            self.wanted.entry(key).or_insert(begin);
        }
    }

    /// Looks at a webhook again at a moment.
    pub(super) fn look_again(&mut self, key: Key, at: Instant) {
        self.again.insert((at, key));
    }

    pub(super) fn poll_now(&mut self) {
        self.poll_at = Instant::now();
    }

    pub(super) fn next_at(&self) -> Instant {
        let again = self.again.first().map_or(self.poll_at, |(at, _)| *at);
        self.poll_at.min(self.renew_at).min(again)
    }
}

impl Reactor {
    pub(super) fn keep_leases(&mut self) {
        let now = Instant::now();
        if now >= self.leases.renew_at && !self.leases.is_renewing {
            self.leases.renew_at = now + self.leases.renew_every;
            self.renew(now);
        }
        if now >= self.leases.poll_at {
            self.leases.poll_at = now + self.leases.poll_every;
            self.look_around(now);
            if !self.leases.is_polling {
                self.poll(now);
            }
        }
        while let Some((_, key)) = self.leases.again.first().filter(|(at, _)| *at <= now).cloned() {
            self.leases.again.pop_first();
            self.consider(&key);
        }
        let pause = self.leases.acquire_at.is_some_and(|at| at > now);
        if !self.leases.wanted.is_empty() && self.leases.acquiring.is_empty() && !pause && !self.is_stopping {
            self.acquire();
        }
    }

    fn acquire(&mut self) {
        let mut wanted = vec![];
        while let Some((key, begin)) = self.leases.wanted.pop_first() {
            if !self.active.contains_key(&key) {
                self.leases.acquiring.insert(key.clone());
                wanted.push((key, begin));
            }
            if wanted.len() == ACQUIRE_MAX {
                break;
            }
        }
        if wanted.is_empty() {
            return;
        }
        let context = Arc::clone(&self.context);
        self.tasks.spawn(async move {
            let at = Instant::now();
            let (now, end) = (context.allot.now(), context.lease_end());
            let taken = context.queue.acquire(&wanted, &context.node, context.log.epoch(), now, end).await;
            let asked = wanted.into_iter().map(|(key, _)| key).collect();
            let (mut leased, mut failed) = (vec![], None);
            match taken {
                Err(error) => failed = Some(error.to_string()),
                Ok(taken) => {
                    for mut of in taken {
                        let endpoint = match rebase(&context.log, &mut of).await {
                            Ok(()) => endpoint::load(&context, &of.key).await,
                            Err(error) => Err(error.into()),
                        };
                        leased.push((of, endpoint));
                    }
                }
            }
            Done::Acquired(Acquired { asked, at, leased, failed })
        });
    }

    pub(super) fn acquired(&mut self, acquired: Acquired) {
        let Acquired { asked, at, leased, failed } = acquired;
        self.leases.acquiring.clear();
        let failed_all = failed.is_some();
        if let Some(error) = failed {
            tracing::warn!(error, "webhook leases could not be taken; trying again");
            self.leases.acquire_at = Some(Instant::now() + Duration::from_secs(1));
        }
        let mut missing: BTreeSet<_> = asked.into_iter().collect();
        for (leased, endpoint) in leased {
            missing.remove(&leased.key);
            self.take_up(leased, endpoint, at);
        }
        for key in missing {
            let pause = if failed_all { Duration::from_secs(1) } else { HELD_ELSEWHERE };
            self.leave_alone(&key, pause);
        }
    }

    fn take_up(&mut self, leased: Leased, endpoint: Result<Option<Endpoint>, Unready>, at: Instant) {
        let key = leased.key.clone();
        if let Some(known) = self.known(&key) {
            known.elsewhere_until = None;
        }
        if self.active.contains_key(&key) || self.is_stopping {
            return;
        }
        let endpoint = match endpoint {
            Ok(Some(endpoint)) => endpoint,
            Ok(None) => return self.drop_webhooks(vec![(key, leased.epoch)]),
            Err(error) => {
                // The lease is this node's own, so that asking again is answered at once.
                tracing::debug!(webhook.id = %key.webhook, %error, "a webhook cannot be taken up yet");
                self.leases.acquire_at = Some(Instant::now() + Duration::from_millis(200));
                self.leases.want(key, leased.cursor);
                return;
            }
        };
        let (now, until) = (self.context.allot.now(), at + self.context.config.lease());
        let mut active = Active::new(leased, endpoint, until, &self.context.config, now);
        active.follow_endpoint(now);
        tracing::debug!(team.id = %key.team, webhook.id = %key.webhook, log.position = active.window.cursor(), "taken up");
        self.active.insert(key.clone(), active);
        if !self.teams.contains_key(&key.team) {
            self.moved(&key.team, 0);
        }
        self.mark_dirty(&key);
        self.poke(&key);
    }

    fn renew(&mut self, at: Instant) {
        let held: Vec<_> = self.active.values().map(|active| (active.key.clone(), active.lease_epoch)).collect();
        if held.is_empty() {
            return;
        }
        self.leases.is_renewing = true;
        let context = Arc::clone(&self.context);
        self.tasks.spawn(async move {
            let lost = context.queue.renew(&held, &context.node, context.lease_end()).await;
            Done::Renewed(Renewed { keys: held.into_iter().map(|(key, _)| key).collect(), at, lost })
        });
    }

    pub(super) fn renewed(&mut self, renewed: Renewed) {
        self.leases.is_renewing = false;
        let lost = match renewed.lost {
            Ok(lost) => lost,
            Err(error) => {
                tracing::warn!(%error, "webhook leases could not be renewed; trying again");
                self.leases.renew_at = Instant::now() + Duration::from_secs(1);
                return;
            }
        };
        for key in &lost {
            // A lease that was given back while it was being renewed is not lost.
            if self.active.get(key).is_some_and(|active| !active.is_releasing) {
                self.lose(key);
            }
        }
        for key in renewed.keys.iter().filter(|key| !lost.contains(key)) {
            self.prolong(key, renewed.at);
        }
    }

    /// Notes that a lease was prolonged by a statement that began at a moment.
    pub(super) fn prolong(&mut self, key: &Key, at: Instant) {
        let until = at + self.context.config.lease();
        let Some(active) = self.active.get_mut(key) else { return };
        active.lease_until = active.lease_until.max(until);
        if std::mem::take(&mut active.is_held) {
            self.poke(key);
        }
    }

    /// Another node has taken over: whatever was not written down is its business now.
    pub(super) fn lose(&mut self, key: &Key) {
        let Some(active) = self.active.remove(key) else { return };
        metrics::counter!("lease_lost_total").increment(1);
        tracing::warn!(team.id = %key.team, webhook.id = %key.webhook, "another node has taken over a webhook");
        self.let_go(&active);
        if let Some(known) = self.known(key) {
            known.left = None;
        }
        self.leave_alone(key, HELD_ELSEWHERE);
    }

    /// Leaves a webhook to the node that holds it, for a while.
    fn leave_alone(&mut self, key: &Key, pause: Duration) {
        let until = Instant::now() + pause;
        if let Some(known) = self.known(key) {
            known.elsewhere_until = Some(until);
            self.leases.look_again(key.clone(), until);
        }
    }

    /// Takes a webhook out of all lines.
    pub(super) fn let_go(&mut self, active: &Active) {
        self.turns.forget(&active.key, &active.endpoint.origin());
        if let Some(at) = active.alarm {
            self.alarms.remove(&(at, active.key.clone()));
        }
        self.clean(&active.key);
    }

    pub(super) fn known(&mut self, key: &Key) -> Option<&mut super::Known> {
        self.teams.get_mut(&key.team)?.webhooks.get_mut(&key.webhook)
    }

    pub(super) fn drop_webhooks(&mut self, gone: Vec<(Key, i64)>) {
        let context = Arc::clone(&self.context);
        self.tasks.spawn(async move { Done::Dropped(context.queue.drop_webhooks(&gone, &context.node).await) });
    }

    /// Loads a webhook's endpoint anew, if this node works at it.
    pub(super) fn reload(&mut self, key: &Key) {
        let Some(active) = self.active.get_mut(key) else { return };
        active.is_stale = true;
        let (context, key) = (Arc::clone(&self.context), key.clone());
        self.tasks.spawn(async move {
            let endpoint = endpoint::load(&context, &key).await;
            if endpoint.is_err() {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            Done::Endpoint(key, endpoint)
        });
    }

    pub(super) fn endpoint_loaded(&mut self, key: Key, endpoint: Result<Option<Endpoint>, Unready>) {
        let now = self.context.allot.now();
        let Some(active) = self.active.get_mut(&key) else { return };
        match endpoint {
            Ok(Some(endpoint)) => {
                let before = active.endpoint.origin();
                // Off and on again may both have happened since the last look; what failed meanwhile is due all the same.
                active.was_off |= endpoint.times_enabled > active.endpoint.times_enabled;
                active.endpoint = Arc::new(endpoint);
                active.is_stale = false;
                active.follow_endpoint(now);
                // It may have waited for a host that it does not call any more.
                self.turns.forget(&key, &before);
                self.mark_dirty(&key);
                self.poke(&key);
            }
            Ok(None) => {
                active.is_stale = false;
                active.ending = Some(Ending::Drop);
                self.mark_dirty(&key);
                self.poke(&key);
            }
            Err(error) => {
                tracing::debug!(webhook.id = %key.webhook, %error, "a webhook's endpoint cannot be loaded yet");
                self.reload(&key);
            }
        }
    }

    /// Once per poll: what was put off is tried again, and what has been idle is given back.
    fn look_around(&mut self, now: Instant) {
        let idle_max = Duration::from_secs(self.context.config.idle_release_seconds);
        let soon = i64::try_from(idle_max.as_micros()).unwrap_or(i64::MAX).saturating_add(self.context.allot.now());
        let mut pokes = vec![];
        let reserve = self.context.config.attempt_reserve();
        for (key, active) in &mut self.active {
            active.dry_at = None;
            active.is_held &= active.lease_until < now + reserve;
            let head = self.teams.get(&key.team).map_or(0, |team| team.head);
            if active.ending.is_none() && active.is_idle(head, soon) {
                let since = *active.idle_since.get_or_insert(now);
                if now.duration_since(since) >= idle_max {
                    active.ending = Some(Ending::Idle);
                }
            } else {
                active.idle_since = None;
            }
            pokes.push(key.clone());
        }
        for key in pokes {
            if self.active.get(&key).is_some_and(|active| active.ending.is_some()) {
                self.mark_dirty(&key);
            }
            self.poke(&key);
        }
        let oldest = self.alarms.first().map_or(0, |(at, _)| self.context.allot.now().saturating_sub(*at).max(0));
        metrics::gauge!("webhook_due_oldest_seconds").set(oldest as f64 / 1e6);
        metrics::gauge!("webhook_leases_held").set(self.active.len() as f64);
        metrics::gauge!("webhook_blocked_mailboxes")
            .set(self.active.values().map(|active| active.window.blocked()).sum::<usize>() as f64);
    }

    fn poll(&mut self, now: Instant) {
        self.leases.is_polling = true;
        let expire = now >= self.leases.expire_at;
        if expire {
            self.leases.expire_at = now + EXPIRE_EVERY;
        }
        let (context, since) = (Arc::clone(&self.context), self.leases.moves.since());
        self.tasks.spawn(async move {
            let now = context.allot.now();
            if expire && let Err(error) = context.queue.drop_expired(now, EXPIRE_MAX).await {
                tracing::warn!(%error, "expired webhook attempts could not be dropped; trying again");
            }
            let due = context.queue.due(now, POLL_ROWS).await;
            let moved = context.log.moved_since(since, POLL_ROWS).await;
            Done::Polled(Box::new(Polled { due, moved }))
        });
    }

    pub(super) fn polled(&mut self, polled: Polled) {
        self.leases.is_polling = false;
        match polled.due {
            Ok(due) => {
                for key in due.into_iter().filter(|key| !self.active.contains_key(key)).collect::<Vec<_>>() {
                    // The row is there, or was a moment ago: the position is of no use but to one that was just dropped.
                    self.leases.want(key, Position::MAX >> 1);
                }
            }
            Err(error) => tracing::warn!(%error, "due webhooks could not be looked for; trying again"),
        }
        match polled.moved {
            Ok(moved) => {
                let full = moved.len() >= POLL_ROWS;
                for (team, head) in self.leases.moves.take(moved, full) {
                    let known = self.teams.get(&team).map(|team| team.head);
                    if known.is_none_or(|known| known < head) {
                        self.moved(&team, head);
                    }
                }
                if full {
                    self.leases.poll_now();
                }
            }
            Err(error) => tracing::warn!(%error, "moved teams could not be looked for; trying again"),
        }
    }
}
