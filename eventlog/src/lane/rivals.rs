//! Teams that another node appends to as well: their batches wait for the head instead of colliding with it.
//!
//! To decide first and collide later is the faster way where one node serves a team, and the slowest where two do: each batch is
//! decided again and again until its turn comes. Who finds that somebody else has moved a head therefore takes the head before it
//! decides, for the batches that follow, and tries without when nobody else has come for a while.

use std::num::NonZeroUsize;

use domain::id::{Position, TeamId};
use lru::LruCache;

/// How many teams are remembered by each lane. One that is forgotten collides once more.
const TEAMS_MAX: NonZeroUsize = NonZeroUsize::new(1_024).unwrap();
/// For how many batches a team's head is taken first after somebody else was seen to move it.
const BATCHES: u32 = 16;

/// The teams with rivals that one lane knows of.
pub(super) struct Rivals {
    batches_left: LruCache<TeamId, u32>,
}

impl Rivals {
    pub(super) fn new() -> Self {
        Self { batches_left: LruCache::new(TEAMS_MAX) }
    }

    /// Returns whether another node was seen to append to a team lately.
    pub(super) fn has(&self, team: &TeamId) -> bool {
        self.batches_left.contains(team)
    }

    /// Notes for each team where this node's knowledge of it ended, and where it was found to end when a batch was decided.
    pub(super) fn note(&mut self, found: impl IntoIterator<Item = (TeamId, Position, Position)>) {
        for (team, known, found) in found {
            if found > known {
                self.batches_left.put(team, BATCHES);
            } else if let Some(left) = self.batches_left.peek_mut(&team) {
                *left -= 1;
                if *left == 0 {
                    self.batches_left.pop(&team);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_team_has_rivals_until_nobody_else_came_for_a_while() {
        let mut rivals = Rivals::new();
        let [team, other] = [1, 2].map(|n| TeamId::new(1, [n; 9]));
        rivals.note([(team.clone(), 7, 7), (other.clone(), 3, 5)]);
        assert!(!rivals.has(&team) && rivals.has(&other));
        for batch in 1..BATCHES {
            rivals.note([(other.clone(), 5, 5)]);
            assert!(rivals.has(&other), "batch {batch}");
        }
        rivals.note([(other.clone(), 5, 6)]);
        for _ in 0..BATCHES {
            assert!(rivals.has(&other));
            rivals.note([(other.clone(), 6, 6)]);
        }
        assert!(!rivals.has(&other));
    }
}
