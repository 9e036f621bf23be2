//! How many recipients an account may be given per second, minute, hour and day.
//!
//! A quota is a range. For each window a limit is drawn from it anew, always the same one for the same account and
//! window, so that every node and every restart agree without writing it down.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::id::ProviderId;

/// The least and the most of one window; equal for a fixed number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Range {
    /// At least so many, from 1.
    pub min: u32,
    /// At most so many.
    pub max: u32,
}

impl Range {
    /// Returns the range that holds just this number.
    #[must_use]
    pub fn exactly(n: u32) -> Self {
        Self { min: n, max: n }
    }

    /// Returns the limit of one window of an account.
    fn drawn(self, account: &ProviderId, window: Window, start: i64) -> u32 {
        let (low, high) = (self.min.min(self.max), self.max.max(self.min));
        let digest = Sha256::new()
            .chain_update(b"postlog/quota/1\0")
            .chain_update(account.as_str())
            .chain_update(window.micros().to_be_bytes())
            .chain_update(start.to_be_bytes())
            .finalize();
        let random = u64::from_be_bytes([
            digest[0], digest[1], digest[2], digest[3], digest[4], digest[5], digest[6], digest[7],
        ]);
        let span = u128::from(high - low) + 1;
        let offset = (u128::from(random) * span) >> 64;
        low + u32::try_from(offset).unwrap_or(0)
    }
}

/// The quotas of one account; `None` means without bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Quotas {
    /// Per second.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub per_second: Option<Range>,
    /// Per minute.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub per_minute: Option<Range>,
    /// Per hour.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub per_hour: Option<Range>,
    /// Per UTC day.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub per_day: Option<Range>,
}

/// A span of time that is counted by itself, aligned to the Unix epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Window {
    /// One second.
    Second,
    /// One minute.
    Minute,
    /// One hour.
    Hour,
    /// One UTC day.
    Day,
}

impl Window {
    const ALL: [Self; 4] = [Self::Second, Self::Minute, Self::Hour, Self::Day];

    fn micros(self) -> i64 {
        match self {
            Self::Second => 1_000_000,
            Self::Minute => 60_000_000,
            Self::Hour => 3_600_000_000,
            Self::Day => 86_400_000_000,
        }
    }

    /// Returns when the window around a moment began.
    fn start(self, at: i64) -> i64 {
        at - at.rem_euclid(self.micros())
    }
}

/// What one window of an account has seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
struct Count {
    start: i64,
    used: u32,
}

/// What an account was given in its current windows. Bookkeeping of whoever sends; bounded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Usage {
    counts: [Count; 4],
}

/// A window has no room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Full {
    /// The window that ends last of those without room.
    pub window: Window,
    /// When it ends, microseconds since the Unix epoch.
    pub until: i64,
}

impl Usage {
    /// Notes that recipients were given to the account.
    pub fn add(&mut self, now: i64, recipients: u32) {
        for (window, count) in Window::ALL.into_iter().zip(&mut self.counts) {
            let start = window.start(now);
            // A clock that was set back must not open a window again that was used up.
            if start > count.start {
                *count = Count { start, used: 0 };
            }
            count.used = count.used.saturating_add(recipients);
        }
    }

    /// Returns how many recipients the window around a moment has seen.
    #[must_use]
    pub fn used(&self, window: Window, now: i64) -> u32 {
        let counts = Window::ALL.into_iter().zip(&self.counts);
        let current = counts.filter(|(w, count)| *w == window && count.start >= window.start(now));
        current.map(|(_, count)| count.used).sum()
    }
}

impl Quotas {
    /// Checks whether a mail for so many recipients fits into every window now.
    ///
    /// A mail with more recipients than a window's whole limit fits when the window is empty: else it never would.
    ///
    /// # Errors
    /// Which window stands against it, and until when.
    pub fn room(&self, account: &ProviderId, usage: &Usage, now: i64, recipients: u32) -> Result<(), Full> {
        let ranges = [self.per_second, self.per_minute, self.per_hour, self.per_day];
        let full = Window::ALL.into_iter().zip(ranges).filter_map(|(window, range)| {
            let start = window.start(now);
            let limit = range?.drawn(account, window, start);
            let used = usage.used(window, now);
            let fits = used == 0 || used.saturating_add(recipients) <= limit;
            (!fits).then(|| Full { window, until: start + window.micros() })
        });
        full.max_by_key(|full| full.until).map_or(Ok(()), Err)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{NOW, provider_id};
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn no_window_ever_sees_more_than_its_quota(
            min in 1u32..20, more in 0u32..20, per_minute in 1u32..60,
            steps in prop::collection::vec((0i64..400_000, 1u32..4), 1..300),
        ) {
            let range = Range { min, max: min + more };
            let quotas = Quotas { per_second: Some(range), per_minute: Some(Range::exactly(per_minute)), ..Quotas::default() };
            let (account, mut usage, mut now) = (provider_id(1), Usage::default(), NOW);
            let (mut seconds, mut minutes) = (std::collections::BTreeMap::new(), std::collections::BTreeMap::new());
            for (wait, recipients) in steps {
                now += wait;
                match quotas.room(&account, &usage, now, recipients) {
                    Ok(()) => {
                        usage.add(now, recipients);
                        let second = seconds.entry(now / 1_000_000).or_insert((0u32, 0u32));
                        *second = (second.0 + recipients, second.1 + 1);
                        let minute = minutes.entry(now / 60_000_000).or_insert((0u32, 0u32));
                        *minute = (minute.0 + recipients, minute.1 + 1);
                    }
                    Err(full) => prop_assert!(full.until > now),
                }
            }
            // A single mail with more recipients than the whole limit is the one exception.
            prop_assert!(seconds.values().all(|(used, mails)| *used <= range.max || *mails == 1));
            prop_assert!(minutes.values().all(|(used, mails)| *used <= per_minute || *mails == 1));
        }

        #[test]
        fn a_drawn_limit_lies_in_its_range_and_stays_for_its_window(min in 1u32..1_000, more in 0u32..1_000, at in 0i64..i64::MAX / 4) {
            let range = Range { min, max: min + more };
            let start = Window::Hour.start(at);
            let drawn = range.drawn(&provider_id(1), Window::Hour, start);
            prop_assert!((range.min..=range.max).contains(&drawn));
            prop_assert_eq!(drawn, range.drawn(&provider_id(1), Window::Hour, start));
        }
    }

    #[test]
    fn a_range_is_drawn_anew_for_each_window() {
        let range = Range { min: 1, max: 1_000 };
        let drawn: std::collections::BTreeSet<_> =
            (0..50).map(|n| range.drawn(&provider_id(1), Window::Minute, n * 60_000_000)).collect();
        assert!(drawn.len() > 40);
    }

    #[test]
    fn the_longest_full_window_says_how_long_to_wait() {
        let quotas =
            Quotas { per_second: Some(Range::exactly(1)), per_day: Some(Range::exactly(1)), ..Quotas::default() };
        let mut usage = Usage::default();
        usage.add(NOW, 1);
        let full = quotas.room(&provider_id(1), &usage, NOW, 1).unwrap_err();
        assert_eq!(full.window, Window::Day);
    }
}
