//! Making way for those who append.
//!
//! A rebuild has the night, a writer has somebody waiting. So the folding rests in proportion to its work and to how many
//! events are appended meanwhile, in whatever process: on an idle log not at all, on a busy one most of the time.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use domain::id::{Position, TeamId};
use eventlog::EventLog;
use tokio::time::Instant;

/// How often the log is asked how far it has come.
const ASK_EVERY: Duration = Duration::from_millis(250);
/// How soon it is asked for the second time, before any work is done.
const ASK_AGAIN: Duration = Duration::from_millis(20);
/// From how many appended events a second on somebody is kept waiting.
const BUSY_AT: f64 = 50.0;
/// At how many appended events a second a rest is as long as the work before it.
const EVEN_AT: f64 = 500.0;
/// How many teams that moved are counted at a time: where more did, it is busy anyway.
const TEAMS_MAX: usize = 1_000;
/// The longest rest, in lengths of the work before it: with three shadows on two cores a busy log keeps most of them.
const REST_MAX: f64 = 9.0;

/// How busy the writers are. See the module.
pub(super) struct Pace {
    log: EventLog,
    load: Mutex<Load>,
    hurries: AtomicBool,
}

#[derive(Default)]
struct Load {
    /// When the log was asked last.
    asked: Option<Instant>,
    /// When a log moved last, as far as was seen then, and where those logs ended that moved at about that time.
    newest: Option<i64>,
    heads: HashMap<TeamId, Position>,
    events_per_second: f64,
}

impl Load {
    /// Counts the events of logs that moved; of a log that was not seen before, one.
    fn count(&mut self, moved: &[(TeamId, Position, i64)]) -> u64 {
        let newest = self.newest.unwrap_or(i64::MAX);
        let grown = moved.iter().map(|(team, head, at)| match self.heads.get(team) {
            Some(before) => head.saturating_sub(*before),
            None => u64::from(*at > newest),
        });
        let grown = grown.sum();
        if self.heads.len() > 10 * TEAMS_MAX {
            self.heads.clear();
        }
        self.heads.extend(moved.iter().map(|(team, head, _)| (team.clone(), *head)));
        self.newest = self.newest.max(moved.iter().map(|(_, _, at)| *at).max());
        grown
    }
}

impl Pace {
    /// Returns the pace of work that is about to begin.
    pub(super) async fn begin(log: &EventLog) -> Self {
        let pace = Self { log: log.clone(), load: Mutex::default(), hurries: AtomicBool::new(false) };
        pace.ask().await;
        tokio::time::sleep(ASK_AGAIN).await;
        pace.ask().await;
        pace
    }

    /// Says whether to go on without rests. What was appended during the work is caught up with in a hurry: at the pace of
    /// the rest, a busy log might never be.
    pub(super) fn hurry(&self, yes: bool) {
        self.hurries.store(yes, Ordering::Relaxed);
    }

    /// Returns whether somebody appends, who should not wait for a long piece of work.
    pub(super) async fn is_busy(&self) -> bool {
        !self.hurries.load(Ordering::Relaxed) && self.load().await >= BUSY_AT
    }

    /// Rests after work of a given length.
    pub(super) async fn rest(&self, worked: Duration) {
        let mut rested = Duration::ZERO;
        loop {
            let rest = worked.mul_f64((self.load().await / EVEN_AT).min(REST_MAX));
            if rest <= rested || self.hurries.load(Ordering::Relaxed) {
                return;
            }
            let next = (rest - rested).min(ASK_EVERY);
            tokio::time::sleep(next).await;
            rested += next;
        }
    }

    /// Returns how many events are appended a second.
    async fn load(&self) -> f64 {
        {
            let load = self.lock();
            if load.asked.is_some_and(|at| Instant::now() < at + ASK_EVERY) {
                return load.events_per_second;
            }
        }
        self.ask().await
    }

    /// Asks for the logs that moved since the last time: what that costs does not grow with how many teams there are.
    async fn ask(&self) -> f64 {
        let (asked, newest, known) = {
            let load = self.lock();
            (load.asked, load.newest, load.events_per_second)
        };
        // If it does not answer, whoever reads it next says so.
        let moved = match newest {
            Some(newest) => self.log.moved_since(newest, TEAMS_MAX).await,
            None => match self.log.last_moved().await {
                Ok(newest) => self.log.moved_since(newest, TEAMS_MAX).await,
                Err(error) => Err(error),
            },
        };
        let Ok(moved) = moved else { return known };
        let now = Instant::now();
        let mut load = self.lock();
        let grown = load.count(&moved);
        if let (Some(at), Some(_)) = (asked, newest) {
            #[expect(clippy::cast_precision_loss, reason = "a rate needs no 53 bits")]
            let grown = grown as f64;
            load.events_per_second = grown / (now - at).as_secs_f64().max(0.001);
        }
        load.asked = Some(now);
        load.events_per_second
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Load> {
        self.load.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_appended_is_counted_by_the_logs_that_moved() {
        let team = |n: u8| TeamId::new(1, [n; 9]);
        let mut load = Load::default();
        assert_eq!(load.count(&[(team(1), 7, 100)]), 0, "what was there before");
        assert_eq!(load.count(&[(team(1), 7, 100)]), 0);
        assert_eq!(load.count(&[(team(1), 9, 150), (team(2), 40, 160)]), 3, "of a log that was not seen, one at least");
        assert_eq!(load.count(&[(team(2), 45, 170)]), 5);
    }
}
