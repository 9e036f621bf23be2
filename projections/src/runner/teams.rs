//! Which teams are to be visited, in which order.

use std::collections::{HashMap, HashSet, VecDeque};

use domain::id::{Position, TeamId};
use eventlog::EventLog;

use crate::{Error, Views, fetch_all};

/// How many heads are asked for at once.
const HEADS_MAX: usize = 10_000;
/// How far before the newest known time heads are asked for again: clocks of several nodes differ.
const OVERLAP_MICROS: i64 = 10_000_000;
/// After how many polls all heads are compared with all cursors, whatever the clocks said.
const LOOK_AT_ALL_EVERY: u32 = 300;

/// The teams whose logs have moved on.
#[derive(Debug, Default)]
pub(super) struct Teams {
    queue: VecDeque<TeamId>,
    /// Those in the queue, with the head that is known.
    queued: HashMap<TeamId, Position>,
    /// Teams that were behind at the start and still are; `None` before that is known.
    starting: Option<HashSet<TeamId>>,
    /// Heads that were seen in the last polls and visited.
    visited: HashMap<TeamId, Position>,
    newest_micros: i64,
    polls: u32,
    all: bool,
}

impl Teams {
    pub(super) fn moved(&mut self, team: TeamId, head: Position) {
        if let Some(known) = self.queued.get_mut(&team) {
            *known = head.max(*known);
            return;
        }
        self.queued.insert(team.clone(), head);
        self.queue.push_back(team);
    }

    /// Puts a team at the end of the queue.
    pub(super) fn again(&mut self, team: TeamId) {
        let head = self.queued.get(&team).or_else(|| self.visited.get(&team)).copied().unwrap_or(0);
        self.moved(team, head);
    }

    pub(super) fn look_at_all(&mut self) {
        self.all = true;
    }

    pub(super) fn is_queued(&self, team: &TeamId) -> bool {
        self.queued.contains_key(team)
    }

    pub(super) fn has_next(&self) -> bool {
        !self.queue.is_empty()
    }

    /// Returns how many teams wait for a visit.
    pub(super) fn waiting(&self) -> usize {
        self.queue.len()
    }

    pub(super) fn next(&mut self) -> Option<TeamId> {
        let team = self.queue.pop_front()?;
        if let Some(head) = self.queued.remove(&team) {
            self.visited.insert(team.clone(), head);
        }
        Some(team)
    }

    /// Notes that a team has been read to its end.
    pub(super) fn done(&mut self, team: &TeamId) {
        if let Some(starting) = &mut self.starting {
            starting.remove(team);
        }
    }

    pub(super) fn have_caught_up(&self) -> bool {
        self.starting.as_ref().is_some_and(HashSet::is_empty)
    }

    /// Returns how many events are known to wait, at most: a team in the queue may have been read in part.
    pub(super) fn lag_events(&self) -> u64 {
        let seen = |(team, head): (&TeamId, &Position)| {
            head.saturating_sub(self.visited.get(team).copied().unwrap_or(0).min(*head))
        };
        self.queued.iter().map(seen).sum()
    }

    /// Asks for the heads that moved since the last time, the first time for all of them.
    pub(super) async fn poll(&mut self, log: &EventLog, views: &Views) -> Result<(), Error> {
        let all = std::mem::take(&mut self.all) || self.starting.is_none() || self.polls >= LOOK_AT_ALL_EVERY;
        if all {
            self.polls = 0;
            if let Err(error) = self.compare_all(log, views).await {
                self.all = true;
                return Err(error);
            }
            return Ok(());
        }
        self.polls += 1;
        let heads = heads(log, self.newest_micros.saturating_sub(OVERLAP_MICROS)).await?;
        // Whatever the next poll cannot see again need not be remembered.
        let recent: HashMap<TeamId, Position> = heads.iter().map(|(team, head, _)| (team.clone(), *head)).collect();
        self.visited.retain(|team, _| recent.contains_key(team));
        for (team, head, at) in heads {
            self.newest_micros = self.newest_micros.max(at);
            if self.visited.get(&team).is_none_or(|seen| *seen < head) {
                self.moved(team, head);
            }
        }
        Ok(())
    }

    async fn compare_all(&mut self, log: &EventLog, views: &Views) -> Result<(), Error> {
        let heads = heads(log, i64::MIN).await?;
        let mut reader = views.read().await?;
        let cursors = fetch_all!(
            reader,
            (String, i64, i64),
            "SELECT team_id, MIN(position), CAST(COUNT(*) AS BIGINT) FROM cursors GROUP BY team_id"
        )?;
        let cursors: HashMap<String, (i64, i64)> = cursors.into_iter().map(|(team, at, n)| (team, (at, n))).collect();
        let projections = i64::try_from(views.projections().len()).unwrap_or(i64::MAX);
        let mut behind = HashSet::new();
        for (team, head, at) in heads {
            self.newest_micros = self.newest_micros.max(at);
            let reached = cursors.get(team.as_str()).filter(|(_, n)| *n >= projections).map_or(0, |(at, _)| *at);
            if u64::try_from(reached).unwrap_or(0) < head {
                behind.insert(team.clone());
                self.moved(team, head);
            }
        }
        self.starting.get_or_insert(behind);
        Ok(())
    }
}

/// Returns all heads that moved at or after a time.
async fn heads(log: &EventLog, since_micros: i64) -> Result<Vec<(TeamId, Position, i64)>, Error> {
    let (mut since, mut limit) = (since_micros, HEADS_MAX);
    let mut found: HashMap<TeamId, (Position, i64)> = HashMap::new();
    loop {
        let page = log.moved_since(since, limit).await?;
        let is_last = page.len() < limit;
        let newest = page.last().map_or(since, |(_, _, at)| *at);
        found.extend(page.into_iter().map(|(team, head, at)| (team, (head, at))));
        if is_last {
            return Ok(found.into_iter().map(|(team, (head, at))| (team, head, at)).collect());
        }
        // A page full of one time says nothing about the rest of it.
        if newest == since {
            limit *= 2;
        }
        since = newest;
    }
}
