//! Accounts that ask for patience, or cannot be reached: meanwhile their mail waits with a reason, or takes another way,
//! instead of being tried one by one.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use domain::id::ProviderId;
use domain::outbound::PostponeReason;
use mail::bounce::{Category, Stage};
use mail::smtp::client::RecipientResult;

const SECOND: i64 = 1_000_000;
/// The first wait; doubled each time.
const FIRST: i64 = 2 * SECOND;
const LONGEST: i64 = 300 * SECOND;
/// Accounts remembered; with more, those that wait no longer are forgotten.
const ACCOUNTS_MAX: usize = 10_000;

/// What a submission says about how hard an account is tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mood {
    /// It took a mail.
    Took,
    /// It wants us to come later.
    PushedBack,
    /// It could not be reached, or did not speak.
    Unreachable,
    /// Nothing.
    Answered,
}

impl Mood {
    /// Reads it from what came of a submission. What is said of a recipient is not about the account.
    pub(crate) fn of(results: &[RecipientResult]) -> Self {
        let pushes = |result: &RecipientResult| match result {
            RecipientResult::Rejected { reply, .. } if matches!(reply.code, 421 | 454) => true,
            RecipientResult::Rejected { stage, reply } => {
                let limits = reply.classify(*stage).category == Category::RateLimited;
                *stage != Stage::Rcpt && !reply.is_permanent() && limits
            }
            RecipientResult::NotSent(failure) => failure.reply.as_ref().is_some_and(|r| r.code / 100 == 4),
            _ => false,
        };
        if results.iter().any(RecipientResult::is_accepted) {
            Self::Took
        } else if results.iter().any(pushes) {
            Self::PushedBack
        } else if results.iter().all(|r| matches!(r, RecipientResult::NotSent(f) if f.reply.is_none())) {
            Self::Unreachable
        } else {
            Self::Answered
        }
    }
}

/// Why an account is left alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Wait {
    /// Until when, microseconds since the Unix epoch.
    pub(crate) until: i64,
    pub(crate) reason: PostponeReason,
}

#[derive(Debug, Clone, Copy)]
struct Waits {
    wait: Wait,
    micros: i64,
}

/// Which accounts wait until when. Each node learns for itself.
#[derive(Debug, Default)]
pub(crate) struct Patience(Mutex<BTreeMap<ProviderId, Waits>>);

impl Patience {
    /// Returns why an account is left alone; `None` if it may be used.
    pub(crate) fn of(&self, account: &ProviderId, now: i64) -> Option<Wait> {
        let waits = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        waits.get(account).map(|known| known.wait).filter(|wait| wait.until > now)
    }

    /// Notes what an account said. Several answers at once count as one.
    pub(crate) fn learn(&self, account: &ProviderId, mood: Mood, now: i64) {
        let mut waits = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let reason = match mood {
            Mood::Took => {
                waits.remove(account);
                return;
            }
            Mood::Answered => return,
            Mood::PushedBack => PostponeReason::Throttled,
            Mood::Unreachable => PostponeReason::TransportParked,
        };
        if waits.len() >= ACCOUNTS_MAX && !waits.contains_key(account) {
            waits.retain(|_, known| known.wait.until > now);
        }
        let known = waits.get(account).copied();
        if known.is_none_or(|known| known.wait.until <= now) {
            let micros = known.map_or(FIRST, |known| (2 * known.micros).min(LONGEST));
            let wait = Wait { until: now + micros, reason };
            waits.insert(account.clone(), Waits { wait, micros });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_account_that_pushes_back_is_left_alone_longer_each_time_until_it_takes_a_mail() {
        let (patience, account, mut now) = (Patience::default(), ProviderId::new(1, [1; 9]), 1_000);
        assert_eq!(patience.of(&account, now), None);
        for seconds in [2, 4, 8, 16, 32, 64, 128, 256, 300, 300] {
            patience.learn(&account, Mood::PushedBack, now);
            patience.learn(&account, Mood::PushedBack, now + 1);
            assert_eq!(patience.of(&account, now).unwrap().until, now + seconds * SECOND, "once for several answers");
            now += seconds * SECOND;
            assert_eq!(patience.of(&account, now), None);
        }
        patience.learn(&account, Mood::Took, now);
        patience.learn(&account, Mood::PushedBack, now);
        let expected = Wait { until: now + 2 * SECOND, reason: PostponeReason::Throttled };
        assert_eq!(patience.of(&account, now), Some(expected));
    }
}
