//! Which teams are to be visited, in which order.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet, VecDeque};
use std::time::Duration;

use domain::id::{Position, TeamId};
use eventlog::EventLog;
use tokio::time::Instant;

use crate::{Error, Views, behind};

/// How many heads are asked for at once.
const HEADS_MAX: usize = 10_000;
/// How far before the newest known time heads are asked for again: clocks of several nodes differ.
const OVERLAP_MICROS: i64 = 10_000_000;
/// How many heads are compared with their cursors at a time.
const COMPARED_MAX: usize = 1_000;
/// How long whoever appended is left to keep up its own team's rows: nodes that all did it at once would wait for each
/// other, and all but one would find it done.
const OTHERS_FIRST: Duration = Duration::from_millis(100);
/// After how many polls some more of them are.
const WALK_EVERY: u32 = 10;

/// The teams whose logs have moved on.
#[derive(Debug, Default)]
pub(super) struct Teams {
    queue: VecDeque<TeamId>,
    /// Those in the queue, with the head that is known.
    queued: HashMap<TeamId, Position>,
    /// Those in the queue that somebody else may have seen to.
    doubtful: HashSet<TeamId>,
    /// Those that moved elsewhere, in the order of when they are looked at here.
    elsewhere: VecDeque<(Instant, TeamId)>,
    /// How far they moved.
    moved_elsewhere: HashMap<TeamId, Position>,
    /// Those that are being visited: nobody is visited twice at once.
    visiting: HashSet<TeamId>,
    /// Teams that were behind at the start and still are; `None` before that is known.
    starting: Option<HashSet<TeamId>>,
    /// Heads that were seen in the last polls and visited.
    visited: HashMap<TeamId, Position>,
    newest_micros: i64,
    /// Since when that is the newest.
    newest_since: Option<Instant>,
    polls: u32,
    /// How far the walk over all teams has come.
    walked: Option<TeamId>,
}

impl Teams {
    /// Notes that this process has moved a team, or that its rows are known to be behind.
    pub(super) fn moved(&mut self, team: TeamId, head: Position) {
        self.doubtful.remove(&team);
        self.queue(team, head);
    }

    fn queue(&mut self, team: TeamId, head: Position) {
        if let Some(known) = self.queued.get_mut(&team) {
            *known = head.max(*known);
            return;
        }
        self.queued.insert(team.clone(), head);
        self.queue.push_back(team);
    }

    /// Notes that a team was found to have moved, by whomever: whoever appended goes first.
    pub(super) fn found(&mut self, team: TeamId, head: Position) {
        if self.visited.get(&team).is_some_and(|seen| *seen >= head) {
            return;
        }
        if self.is_queued(&team) {
            return self.queue(team, head);
        }
        match self.moved_elsewhere.entry(team) {
            Entry::Occupied(mut known) => *known.get_mut() = head.max(*known.get()),
            Entry::Vacant(slot) => {
                self.elsewhere.push_back((Instant::now() + OTHERS_FIRST, slot.key().clone()));
                slot.insert(head);
            }
        }
    }

    /// Returns when the next team that moved elsewhere is to be looked at.
    pub(super) fn next_look(&self) -> Option<Instant> {
        self.elsewhere.front().map(|(due, _)| *due)
    }

    /// Puts those that moved elsewhere and are due into the queue.
    pub(super) fn look(&mut self) {
        let now = Instant::now();
        while let Some((_, team)) = self.elsewhere.pop_front_if(|(due, _)| *due <= now) {
            let Some(head) = self.moved_elsewhere.remove(&team) else { continue };
            if self.visited.get(&team).is_some_and(|seen| *seen >= head) {
                continue;
            }
            if !self.is_queued(&team) {
                self.doubtful.insert(team.clone());
            }
            self.queue(team, head);
        }
    }

    /// Puts a team at the end of the queue.
    pub(super) fn again(&mut self, team: TeamId) {
        let head = self.queued.get(&team).or_else(|| self.visited.get(&team)).copied().unwrap_or(0);
        self.moved(team, head);
    }

    pub(super) fn is_queued(&self, team: &TeamId) -> bool {
        self.queued.contains_key(team)
    }

    pub(super) fn has_next(&self) -> bool {
        self.queue.iter().any(|team| !self.visiting.contains(team))
    }

    /// Returns how many teams wait for a visit.
    pub(super) fn waiting(&self) -> usize {
        self.queue.len()
    }

    /// Returns whose turn it is, and notes that they are being visited; with where their log ends, if somebody else may
    /// have brought their rows there.
    pub(super) fn next(&mut self) -> Option<(TeamId, Option<Position>)> {
        let at = self.queue.iter().position(|team| !self.visiting.contains(team))?;
        let team = self.queue.remove(at)?;
        self.visiting.insert(team.clone());
        let head = self.queued.remove(&team);
        if let Some(head) = head {
            self.visited.insert(team.clone(), head);
        }
        let doubt = head.filter(|_| self.doubtful.remove(&team));
        Some((team, doubt))
    }

    /// Notes that a visit has ended.
    pub(super) fn left(&mut self, team: &TeamId) {
        self.visiting.remove(team);
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
        if self.starting.is_none() {
            return self.begin(log, views).await;
        }
        let heads = heads(log, self.since()).await?;
        // Whatever the next poll cannot see again need not be remembered.
        let recent: HashMap<TeamId, Position> = heads.iter().map(|(team, head, _)| (team.clone(), *head)).collect();
        self.visited.retain(|team, _| recent.contains_key(team));
        for (team, head, at) in heads {
            self.newest(at);
            self.found(team, head);
        }
        self.polls += 1;
        if self.polls >= WALK_EVERY {
            self.polls = 0;
            self.walk(log, views).await?;
        }
        Ok(())
    }

    /// Compares all heads with all cursors, page by page: who was behind at the start.
    async fn begin(&mut self, log: &EventLog, views: &Views) -> Result<(), Error> {
        // First, so that what moves meanwhile is seen by the next poll.
        let newest = log.last_moved().await?;
        let (mut starting, mut after) = (HashSet::new(), None);
        loop {
            let page = behind(views, log, after.as_ref(), COMPARED_MAX).await?;
            for (team, head) in page.teams {
                starting.insert(team.clone());
                self.moved(team, head);
            }
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        self.newest(newest);
        self.starting = Some(starting);
        Ok(())
    }

    /// Compares some heads with their cursors, whatever the clocks said, and goes on from there the next time: so that
    /// what a second costs does not grow with how many teams there are.
    async fn walk(&mut self, log: &EventLog, views: &Views) -> Result<(), Error> {
        let page = behind(views, log, self.walked.as_ref(), COMPARED_MAX).await?;
        for (team, head) in page.teams {
            self.found(team, head);
        }
        self.walked = page.next;
        Ok(())
    }

    fn newest(&mut self, at: i64) {
        if at > self.newest_micros || self.newest_since.is_none() {
            (self.newest_micros, self.newest_since) = (at.max(self.newest_micros), Some(Instant::now()));
        }
    }

    /// Returns since when heads are asked for. A while after the last one moved, clocks that are behind have come to
    /// where it was: then nothing is asked for again.
    fn since(&self) -> i64 {
        let quiet = self.newest_since.map_or(0, |at| i64::try_from(at.elapsed().as_micros()).unwrap_or(i64::MAX));
        self.newest_micros.saturating_sub(OVERLAP_MICROS.saturating_sub(quiet).max(0))
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
