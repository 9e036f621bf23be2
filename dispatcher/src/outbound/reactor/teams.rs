//! Which teams this node works for: leases are taken when there is something to do, renewed at a third of their time, and
//! given back when there is nothing. Polling is the truth behind the hints.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use domain::id::{Position, TeamId};
use eventlog::LogError;
use tokio::time::Instant;

use super::{ACQUIRE_MAX, Done, EXPIRE_EVERY, OVERLAP_MICROS, PAUSE, Reactor, Team};
use crate::outbound::queue::Leased;

/// Teams looked for per poll.
const POLL_ROWS: usize = 1_000;
/// Teams listed at a time at start.
const WALK_TEAMS: usize = 100;

impl Reactor {
    /// Goes on with the walk over all teams: at start any of them may have grown unseen.
    pub(super) fn walk(&mut self, after: Option<TeamId>) {
        let context = Arc::clone(&self.context);
        self.tasks.spawn(async move {
            match context.log.teams(after.as_ref(), WALK_TEAMS).await {
                Ok(teams) => {
                    let next = teams.last().cloned().map(Some);
                    Done::Walked { teams, next }
                }
                Err(error) => {
                    tracing::warn!(%error, "teams could not be listed for outgoing mail; trying again");
                    tokio::time::sleep(Duration::from_secs(1)).await;
                    Done::Walked { teams: vec![], next: Some(after) }
                }
            }
        });
    }

    /// Hears that a team's log has grown; 0 if it is not known how far.
    pub(super) fn moved(&mut self, id: TeamId, head: Position) {
        match self.teams.get_mut(&id) {
            Some(team) => team.head = team.head.max(head),
            None => {
                let wanted = self.wanted.entry(id).or_default();
                *wanted = head.max(*wanted);
            }
        }
    }

    pub(super) fn keep_leases(&mut self) {
        let now = Instant::now();
        if now >= self.renew_at && !self.is_renewing {
            self.renew_at = now + self.context.config.lease() / 3;
            self.renew();
        }
        if !self.wanted.is_empty() && !self.is_acquiring && !self.is_stopping {
            self.acquire();
        }
    }

    fn acquire(&mut self) {
        self.is_acquiring = true;
        let teams: Vec<_> = self.wanted.keys().take(ACQUIRE_MAX).cloned().collect();
        let context = Arc::clone(&self.context);
        self.tasks.spawn(async move {
            let (now, end, epoch) = (context.allot.now(), context.lease_end(), context.log.epoch());
            let taken = context.queue.acquire(&teams, &context.node, epoch, now, end).await;
            if taken.is_err() {
                tokio::time::sleep(PAUSE).await;
            }
            Done::Acquired(teams, taken)
        });
    }

    pub(super) fn acquired(&mut self, asked: Vec<TeamId>, taken: Result<Vec<Leased>, projections::Error>) {
        self.is_acquiring = false;
        let taken = match taken {
            Ok(taken) => taken,
            Err(error) => {
                tracing::warn!(%error, "leases for outgoing mail could not be taken; trying again");
                return;
            }
        };
        for leased in taken {
            // The log may have grown further than anybody said.
            let head = self.wanted.remove(&leased.team).unwrap_or_default().max(leased.cursor + 1);
            if !self.teams.contains_key(&leased.team) {
                self.teams.insert(leased.team.clone(), Team::new(leased, head));
            }
        }
        // Others are held elsewhere; if their node dies, the poll finds them.
        for team in asked {
            self.wanted.remove(&team);
        }
    }

    fn renew(&mut self) {
        let idle_for = Duration::from_secs(self.context.config.idle_release_seconds);
        let soon = self.context.lease_end();
        let is_idle = |t: &Team| t.is_idle() && t.idle_since.elapsed() >= idle_for && t.next_due_at > soon;
        let (idle, held): (Vec<_>, Vec<_>) = self.teams.iter().partition(|(_, team)| is_idle(team));
        let ids = |list: Vec<(&TeamId, &Team)>| list.into_iter().map(|(id, _)| id.clone()).collect::<Vec<_>>();
        let (idle, held) = (ids(idle), ids(held));
        for id in &idle {
            self.teams.remove(id);
        }
        self.is_renewing = true;
        let context = Arc::clone(&self.context);
        self.tasks.spawn(async move {
            if !idle.is_empty() && context.queue.release(&idle, &context.node).await.is_err() {
                tracing::debug!("idle leases could not be given back; they run out");
            }
            let renewed = context.queue.renew(&held, &context.node, context.lease_end()).await;
            Done::Renewed(held, renewed)
        });
    }

    pub(super) fn renewed(&mut self, asked: Vec<TeamId>, held: Result<BTreeSet<TeamId>, projections::Error>) {
        self.is_renewing = false;
        match held {
            Ok(held) => {
                for id in asked.iter().filter(|id| !held.contains(*id)) {
                    // Another node goes on with it; what is on its way here is finished and recorded.
                    self.teams.remove(id);
                }
            }
            Err(error) => tracing::warn!(%error, "leases for outgoing mail could not be renewed; trying again"),
        }
    }

    pub(super) fn poll(&mut self) {
        let now = Instant::now();
        if now < self.poll_at || self.is_polling || self.is_stopping {
            return;
        }
        self.poll_at = now + Duration::from_millis(self.context.config.poll_milliseconds);
        self.is_polling = true;
        let (context, since) = (Arc::clone(&self.context), self.moved_since);
        self.tasks.spawn(async move {
            let due = context.queue.due_teams(&context.node, context.allot.now(), POLL_ROWS).await;
            let moved = context.log.moved_since(since, POLL_ROWS).await;
            Done::Polled { due, moved }
        });
        let expires = now >= self.expire_at;
        if expires {
            self.expire_at = now + EXPIRE_EVERY;
        }
        let context = Arc::clone(&self.context);
        self.tasks.spawn(async move {
            context.mailer.close_idle().await;
            if expires && let Err(error) = context.queue.drop_transcripts(context.allot.now()).await {
                tracing::warn!(%error, "old transcripts could not be dropped; trying again later");
            }
            Done::Idle
        });
    }

    pub(super) fn polled(
        &mut self,
        due: Result<Vec<TeamId>, projections::Error>,
        moved: Result<Vec<(TeamId, Position, i64)>, LogError>,
    ) {
        self.is_polling = false;
        match due {
            Ok(due) => due.into_iter().for_each(|team| self.moved(team, 0)),
            Err(error) => tracing::warn!(%error, "due outgoing mail could not be looked for; trying again"),
        }
        match moved {
            Ok(moved) => {
                // A full page of one moment must not be read for ever.
                let last = moved.last().map(|(_, _, at)| *at);
                let full = moved.len() >= POLL_ROWS;
                for (team, head, _) in moved {
                    self.context.log.note_moved(&team, head);
                    self.moved(team, head);
                }
                if let Some(last) = last {
                    let next = if full { last.max(self.moved_since + 1) } else { last.saturating_sub(OVERLAP_MICROS) };
                    self.moved_since = next.max(self.moved_since);
                }
            }
            Err(error) => tracing::warn!(%error, "moved teams could not be looked for; trying again"),
        }
    }
}
