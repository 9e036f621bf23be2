//! Which logs have moved since a reactor last looked: what is asked for, and what of the answer is news.
//!
//! Clocks of several nodes differ, and an append may become visible later than its time says: so a while before the
//! newest is asked for again, as long as something may still come in there. When nothing has moved for that long, nothing
//! is asked for twice.

use std::collections::HashMap;

use domain::id::{Position, TeamId};
use tokio::time::Instant;

/// How far before the newest known move is asked for again.
const OVERLAP_MICROS: i64 = 5_000_000;

/// What was seen of the logs' moves.
#[derive(Debug)]
pub(crate) struct Moves {
    /// Nothing before this is asked for any more.
    floor: i64,
    newest: i64,
    newest_since: Instant,
    /// What the last answer held.
    seen: HashMap<TeamId, Position>,
}

impl Moves {
    /// Returns what is known at a moment when nothing was asked for yet.
    pub(crate) fn new(now_micros: i64) -> Self {
        let floor = now_micros.saturating_sub(OVERLAP_MICROS);
        Self { floor, newest: floor, newest_since: Instant::now(), seen: HashMap::new() }
    }

    /// Returns since when moves are to be asked for.
    pub(crate) fn since(&self) -> i64 {
        let quiet = i64::try_from(self.newest_since.elapsed().as_micros()).unwrap_or(i64::MAX);
        let overlap = OVERLAP_MICROS.saturating_sub(quiet).max(0);
        self.floor.max(self.newest.saturating_sub(overlap))
    }

    /// Takes an answer, oldest first, and returns what of it was not seen before. `is_full`: there may be more.
    pub(crate) fn take(&mut self, moved: Vec<(TeamId, Position, i64)>, is_full: bool) -> Vec<(TeamId, Position)> {
        if let Some((_, _, last)) = moved.last() {
            if *last > self.newest {
                (self.newest, self.newest_since) = (*last, Instant::now());
            }
            if is_full {
                // A full page of one moment must not be read for ever.
                self.floor = (*last).max(self.floor.saturating_add(1));
            }
        }
        let is_news = |team: &TeamId, head: Position| self.seen.get(team).is_none_or(|seen| *seen < head);
        let news = moved.iter().filter(|(team, head, _)| is_news(team, *head));
        let news = news.map(|(team, head, _)| (team.clone(), *head)).collect();
        // What a later answer cannot hold again need not be remembered.
        self.seen = moved.into_iter().map(|(team, head, _)| (team, head)).collect();
        news
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const NOW: i64 = 1_000_000_000;

    fn team(n: u8) -> TeamId {
        TeamId::new(1, [n; 9])
    }

    #[test]
    fn what_comes_late_is_found_and_what_rests_is_not_asked_for_again() {
        let mut moves = Moves::new(NOW);
        assert_eq!(moves.since(), NOW - OVERLAP_MICROS);
        assert_eq!(moves.take(vec![(team(1), 3, NOW)], false), [(team(1), 3)]);
        let late = vec![(team(2), 1, NOW - 100), (team(1), 3, NOW)];
        assert!(moves.since() < NOW - 100);
        assert_eq!(moves.take(late, false), [(team(2), 1)]);
        moves.newest_since = Instant::now().checked_sub(Duration::from_secs(60)).unwrap();
        assert_eq!(moves.since(), NOW);
        assert!(moves.take(vec![(team(1), 3, NOW)], false).is_empty());
        assert_eq!(moves.take(vec![(team(1), 4, NOW)], false), [(team(1), 4)]);
    }

    #[test]
    fn pages_full_of_one_moment_come_to_an_end() {
        let mut moves = Moves::new(NOW);
        for n in 1..4 {
            let since = moves.since();
            moves.take(vec![(team(n), 1, NOW)], true);
            assert!(moves.since() > since);
        }
        assert!(moves.since() > NOW);
    }
}
