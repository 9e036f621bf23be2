//! When the next attempt is due. Pure: stored numbers in, a stored number out.
//!
//! A schedule is a list of slots, each so long after the moment the first attempt was due. Slots are absolute, not
//! waits after the last failure: however slow the attempts are and however often the process restarts, the list is
//! walked once, from the front to the end, and the number of attempts is always its length.

use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Longest list of attempts that makes sense to anybody.
const ATTEMPTS_MAX: usize = 32;
/// Latest last slot. What an attempt needs to be shown or repeated is kept for seven days.
const LAST_OFFSET_MAX: Duration = Duration::from_secs(7 * 24 * 3600);
const JITTER_PERCENT_MAX: u8 = 50;

/// A validated retry schedule.
///
/// Slots with their jitter never overlap: the earliest moment of each lies behind the latest moment of the one
/// before. The last slot is a limit, so that its jitter only ever makes it earlier.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Settings", into = "Settings")]
pub struct Schedule {
    offsets: Vec<Duration>,
    jitter_percent: u8,
    retry_after_max: Duration,
    overdue_gap: Duration,
}

/// A schedule as it is written in the configuration, not yet validated.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// When each attempt is due, in seconds after the first one was. As many attempts are made as there are entries.
    pub attempt_offsets_seconds: Vec<u64>,
    /// How far an attempt may be moved to either side, in percent of its offset.
    pub jitter_percent: u8,
    /// Longest wait that a receiver may ask for with `Retry-After`.
    pub retry_after_max_seconds: u64,
    /// Least pause between two attempts whose slots have both passed, for instance after our own outage.
    pub overdue_gap_seconds: u64,
}

impl Default for Settings {
    fn default() -> Self {
        const MINUTE: u64 = 60;
        const HOUR: u64 = 60 * MINUTE;
        Self {
            attempt_offsets_seconds: vec![0, 30, 2 * MINUTE, 10 * MINUTE, HOUR, 4 * HOUR, 12 * HOUR, 24 * HOUR],
            jitter_percent: 10,
            retry_after_max_seconds: HOUR,
            overdue_gap_seconds: 10,
        }
    }
}

/// Why [`Settings`] are no schedule. The message names the setting.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidSchedule {
    /// Without attempts nothing would ever be sent.
    #[error("attempt_offsets_seconds must have 1 to {ATTEMPTS_MAX} entries")]
    Attempts,
    /// An offset does not lie clearly behind the one before.
    #[error("attempt_offsets_seconds must grow by more than the jitter allows: entry {index} is too early")]
    NotGrowing {
        /// Index of the entry, from 0.
        index: usize,
    },
    /// The last offset lies beyond seven days.
    #[error("attempt_offsets_seconds must end within 7 days")]
    TooLong,
    /// Too much jitter.
    #[error("jitter_percent must be at most {JITTER_PERCENT_MAX}")]
    Jitter,
    /// Too long a wait at a receiver's wish.
    #[error("retry_after_max_seconds must be at most 7 days")]
    RetryAfter,
    /// Too long a pause between overdue attempts.
    #[error("overdue_gap_seconds must be at most 3600")]
    OverdueGap,
}

impl Default for Schedule {
    /// Eight attempts: at once and after 30 s, 2 min, 10 min, 1 h, 4 h, 12 h and 24 h, each ±10 %.
    fn default() -> Self {
        Self::try_from(Settings::default()).expect("the default settings are valid")
    }
}

impl TryFrom<Settings> for Schedule {
    type Error = InvalidSchedule;

    fn try_from(settings: Settings) -> Result<Self, InvalidSchedule> {
        let offsets: Vec<_> = settings.attempt_offsets_seconds.iter().copied().map(Duration::from_secs).collect();
        if offsets.is_empty() || offsets.len() > ATTEMPTS_MAX {
            return Err(InvalidSchedule::Attempts);
        }
        if settings.jitter_percent > JITTER_PERCENT_MAX {
            return Err(InvalidSchedule::Jitter);
        }
        if offsets.iter().any(|offset| *offset > LAST_OFFSET_MAX) {
            return Err(InvalidSchedule::TooLong);
        }
        if settings.retry_after_max_seconds > LAST_OFFSET_MAX.as_secs() {
            return Err(InvalidSchedule::RetryAfter);
        }
        if settings.overdue_gap_seconds > 3600 {
            return Err(InvalidSchedule::OverdueGap);
        }
        let schedule = Self {
            offsets,
            jitter_percent: settings.jitter_percent,
            retry_after_max: Duration::from_secs(settings.retry_after_max_seconds),
            overdue_gap: Duration::from_secs(settings.overdue_gap_seconds),
        };
        for index in 1..schedule.offsets.len() {
            if schedule.slot(index, -1.0) <= schedule.slot(index - 1, 1.0) {
                return Err(InvalidSchedule::NotGrowing { index });
            }
        }
        Ok(schedule)
    }
}

impl From<Schedule> for Settings {
    fn from(schedule: Schedule) -> Self {
        Self {
            attempt_offsets_seconds: schedule.offsets.iter().map(Duration::as_secs).collect(),
            jitter_percent: schedule.jitter_percent,
            retry_after_max_seconds: schedule.retry_after_max.as_secs(),
            overdue_gap_seconds: schedule.overdue_gap.as_secs(),
        }
    }
}

impl Schedule {
    /// Returns how many attempts are made in all.
    pub fn attempts_max(&self) -> u32 {
        u32::try_from(self.offsets.len()).expect("validated to be a short list")
    }

    /// Returns how long after the first due moment the last attempt is due at the latest.
    pub fn window(&self) -> Duration {
        self.offsets.last().copied().unwrap_or_default()
    }

    /// Returns when the next attempt is due, or `None` when all have been made. Times are microseconds since the
    /// epoch; a moment in the past means now.
    ///
    /// - `first_due_at_micros`: when the first attempt was due; the same for all attempts of one delivery.
    /// - `attempts_made`: attempts whose result is known; each of them counts, whatever the result.
    /// - `now_micros`: when the last attempt ended.
    /// - `jitter`: where in the jitter's range, from -1 (early) to 1 (late).
    /// - `retry_after`: what the receiver asked for in its last answer. It postpones the attempt up to the configured
    ///   maximum, but not into the following slot, and never brings it forward.
    ///
    /// If slots have passed meanwhile, their attempts are still made, one after the other with a pause between. As
    /// long as the window is open they stay within it.
    pub fn next_attempt(
        &self,
        first_due_at_micros: i64,
        attempts_made: u32,
        now_micros: i64,
        jitter: f64,
        retry_after: Option<Duration>,
    ) -> Option<i64> {
        let index = usize::try_from(attempts_made).ok().filter(|index| *index < self.offsets.len())?;
        let slot = first_due_at_micros.saturating_add(self.slot(index, jitter));
        if index == 0 {
            return Some(slot);
        }
        let window_end = first_due_at_micros.saturating_add(micros(self.window()));
        let asked = retry_after.map_or(slot, |wait| {
            let latest = match index + 1 {
                following if following < self.offsets.len() => {
                    first_due_at_micros.saturating_add(self.slot(following, -1.0))
                }
                _ => window_end,
            };
            now_micros.saturating_add(micros(wait.min(self.retry_after_max))).min(latest)
        });
        let rested = now_micros.saturating_add(micros(self.overdue_gap));
        let rested = if now_micros <= window_end { rested.min(window_end) } else { rested };
        Some(slot.max(asked).max(rested))
    }

    /// Returns the offset of one attempt in microseconds, moved by the jitter.
    fn slot(&self, index: usize, jitter: f64) -> i64 {
        let offset = micros(self.offsets[index]);
        let jitter = if jitter.is_nan() { 0.0 } else { jitter.clamp(-1.0, 1.0) };
        // An offset of at most seven days has 40 bits: exact in a float.
        let moved = offset as f64 * jitter * f64::from(self.jitter_percent) / 100.0;
        (offset + moved as i64).min(micros(self.window()))
    }
}

fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests;
