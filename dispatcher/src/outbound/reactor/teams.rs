//! Which teams this node works for: leases are taken when there is something to do, renewed at a third of their time, and
//! given back when there is nothing. Polling is the truth behind the hints.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use domain::id::{Position, TeamId};
use eventlog::LogError;
use tokio::time::Instant;

use super::{ACQUIRE_MAX, Context, Done, EXPIRE_EVERY, PAUSE, Reactor, Team};
use crate::outbound::queue::Leased;

/// Teams looked for per poll.
const POLL_ROWS: usize = 1_000;
/// Teams looked at at a time at start.
const WALK_TEAMS: usize = 1_000;

impl Reactor {
    /// Goes on with the walk over all teams: at start any of them may have grown unseen. A lease is wanted of those that
    /// have, and of those this node held when it ended.
    pub(super) fn walk(&mut self, after: Option<TeamId>) {
        let context = Arc::clone(&self.context);
        self.tasks.spawn(async move {
            match grown(&context, after.as_ref()).await {
                Ok((teams, next)) => Done::Walked { teams, next: next.map(Some) },
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
        let (context, since) = (Arc::clone(&self.context), self.moves.since());
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
                let full = moved.len() >= POLL_ROWS;
                for (team, head) in self.moves.take(moved, full) {
                    self.context.log.note_moved(&team, head);
                    self.moved(team, head);
                }
            }
            Err(error) => tracing::warn!(%error, "moved teams could not be looked for; trying again"),
        }
    }
}

/// Returns those of a page of teams whose logs go on behind what was planned, and where the next page begins.
async fn grown(context: &Context, after: Option<&TeamId>) -> Result<(Vec<TeamId>, Option<TeamId>), String> {
    let ids = context.log.teams(after, WALK_TEAMS).await.map_err(|e| e.to_string())?;
    let next = if ids.len() < WALK_TEAMS { None } else { ids.last().cloned() };
    let heads = context.log.heads_of(&ids).await.map_err(|e| e.to_string())?;
    let known = context.queue.standings(&ids).await.map_err(|e| e.to_string())?;
    let is_done = |team: &TeamId, head: Position| {
        known.get(team).is_some_and(|at| {
            at.owner != context.node && at.log_epoch == u64::from(context.log.epoch()) && at.cursor >= head
        })
    };
    let grown = heads.into_iter().filter(|(team, head)| !is_done(team, head.position));
    Ok((grown.map(|(team, _)| team).collect(), next))
}
