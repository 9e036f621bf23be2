//! When an outgoing mail is tried again. Pure: stored numbers in, a moment out.

use serde::{Deserialize, Serialize};

const SECOND: i64 = 1_000_000;
const MINUTE: i64 = 60 * SECOND;
const HOUR: i64 = 60 * MINUTE;

/// How mail is tried again after it was refused for now (RFC 5321 §4.5.4.1).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RetryPolicy {
    /// Waits before the second, third … attempt, seconds; the last is repeated.
    pub wait_seconds: Vec<u32>,
    /// How far a wait may be moved to either side, percent.
    pub jitter_percent: u8,
    /// How long a mail is tried, seconds.
    pub give_up_seconds: u32,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            wait_seconds: vec![60, 300, 900, 1_800, 3_600, 7_200, 14_400],
            jitter_percent: 10,
            give_up_seconds: 72 * 3_600,
        }
    }
}

/// Why settings are no retry policy. The message names the setting.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidPolicy {
    /// Without a wait, or with one of no time at all, a refused mail would be tried without pause.
    #[error("wait_seconds must have 1 to 32 entries of at least 1 second, none shorter than the one before")]
    Waits,
    /// Too much jitter.
    #[error("jitter_percent must be at most 50")]
    Jitter,
    /// Too short or too long a life.
    #[error("give_up_seconds must be 5 minutes to 5 days")]
    GiveUp,
}

impl RetryPolicy {
    /// Checks the settings.
    ///
    /// # Errors
    /// The first setting that makes no sense.
    pub fn check(&self) -> Result<(), InvalidPolicy> {
        let grows = self.wait_seconds.is_sorted() && self.wait_seconds.first().is_some_and(|w| *w >= 1);
        if !grows || self.wait_seconds.len() > 32 {
            return Err(InvalidPolicy::Waits);
        }
        if self.jitter_percent > 50 {
            return Err(InvalidPolicy::Jitter);
        }
        if !(300..=5 * 86_400).contains(&self.give_up_seconds) {
            return Err(InvalidPolicy::GiveUp);
        }
        Ok(())
    }

    /// Returns how long a mail is tried after it is due, microseconds.
    #[must_use]
    pub fn lifetime_micros(&self) -> i64 {
        i64::from(self.give_up_seconds) * SECOND
    }

    /// Returns when a recipient is due again, microseconds since the Unix epoch; `None` to give up.
    ///
    /// - `deferrals`: how often it was deferred before this time.
    /// - `now`: when the attempt ended.
    /// - `expires_at`: until when the mail is tried. A wait that would end later ends there, for one last attempt.
    /// - `seed`: what decides the jitter.
    /// - `asked`: how long the server asked us to wait, microseconds; postpones, never brings forward, an hour at most.
    #[must_use]
    pub fn next(&self, deferrals: u32, now: i64, expires_at: i64, seed: u64, asked: Option<i64>) -> Option<i64> {
        if now >= expires_at {
            return None;
        }
        let index = usize::try_from(deferrals).unwrap_or(usize::MAX).min(self.wait_seconds.len().saturating_sub(1));
        let wait = i64::from(self.wait_seconds.get(index).copied().unwrap_or(60)) * SECOND;
        let reach = wait / 100 * i64::from(self.jitter_percent);
        let spread = u64::try_from(2 * reach + 1).unwrap_or(1);
        let moved = i64::try_from((u128::from(crate::routing::mixed(seed)) * u128::from(spread)) >> 64).unwrap_or(0);
        let wait = (wait - reach + moved).max(asked.unwrap_or(0).clamp(0, HOUR));
        Some(now.saturating_add(wait).min(expires_at))
    }
}

/// Returns whether outsiders are told, with this deferral, that a mail is late: first when the first deferral is five
/// minutes old, then at most every four hours. Times in microseconds since the Unix epoch.
#[must_use]
pub fn announces_delay(first_deferred_at: Option<i64>, last_announced_at: Option<i64>, now: i64) -> bool {
    match (first_deferred_at, last_announced_at) {
        (None, _) => false,
        (Some(first), None) => now - first >= 5 * MINUTE,
        (Some(_), Some(last)) => now - last >= 4 * HOUR,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::NOW;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn waits_grow_within_their_jitter_and_end_with_the_mail(seeds in prop::collection::vec(any::<u64>(), 60)) {
            let policy = RetryPolicy::default();
            let expires_at = NOW + policy.lifetime_micros();
            let (mut now, mut waits) = (NOW, vec![]);
            for (deferrals, seed) in (0u32..).zip(seeds) {
                let Some(next) = policy.next(deferrals, now, expires_at, seed, None) else { break };
                prop_assert!(next > now && next <= expires_at);
                prop_assert_eq!(Some(next), policy.next(deferrals, now, expires_at, seed, None));
                waits.push((next - now, next == expires_at));
                now = next;
            }
            prop_assert_eq!(now, expires_at, "the last attempt is made when the mail expires");
            for ((wait, last), expected) in waits.iter().zip([1, 5, 15, 30, 60, 120, 240, 240, 240]) {
                let expected = expected * MINUTE;
                prop_assert!(*last || (expected * 9 / 10..=expected * 11 / 10).contains(wait), "{wait} for {expected}");
            }
            prop_assert!((20..40).contains(&waits.len()), "{} attempts", waits.len());
        }

        #[test]
        fn a_wish_of_the_server_only_postpones(asked in 0i64..10 * HOUR, seed in any::<u64>()) {
            let policy = RetryPolicy::default();
            let far = NOW + policy.lifetime_micros();
            let (plain, polite) = (policy.next(0, NOW, far, seed, None), policy.next(0, NOW, far, seed, Some(asked)));
            prop_assert!(polite >= plain && polite <= plain.max(Some(NOW + HOUR)));
        }
    }

    #[test]
    fn a_delay_is_told_after_five_minutes_and_then_every_four_hours() {
        assert!(!announces_delay(None, None, NOW));
        assert!(!announces_delay(Some(NOW), None, NOW + 4 * MINUTE));
        assert!(announces_delay(Some(NOW), None, NOW + 5 * MINUTE));
        assert!(!announces_delay(Some(NOW), Some(NOW + 5 * MINUTE), NOW + 2 * HOUR));
        assert!(announces_delay(Some(NOW), Some(NOW), NOW + 4 * HOUR));
    }

    #[test]
    fn a_policy_without_pauses_is_refused() {
        let policy = |wait_seconds| RetryPolicy { wait_seconds, ..RetryPolicy::default() };
        assert_eq!(RetryPolicy::default().check(), Ok(()));
        assert_eq!(policy(vec![]).check(), Err(InvalidPolicy::Waits));
        assert_eq!(policy(vec![0]).check(), Err(InvalidPolicy::Waits));
        assert_eq!(policy(vec![5, 4]).check(), Err(InvalidPolicy::Waits));
        assert_eq!(RetryPolicy { give_up_seconds: 10, ..policy(vec![5]) }.check(), Err(InvalidPolicy::GiveUp));
    }
}
