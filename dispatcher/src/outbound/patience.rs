//! Accounts that ask for patience: while they do, their mail waits with a reason instead of being refused one by one.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use domain::id::ProviderId;
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
        } else {
            Self::Answered
        }
    }
}

#[derive(Debug, Clone, Copy)]
struct Wait {
    until: i64,
    micros: i64,
}

/// Which accounts wait until when. Each node learns for itself.
#[derive(Debug, Default)]
pub(crate) struct Patience(Mutex<BTreeMap<ProviderId, Wait>>);

impl Patience {
    /// Returns until when an account is left alone, microseconds since the Unix epoch; `None` if it may be used.
    pub(crate) fn until(&self, account: &ProviderId, now: i64) -> Option<i64> {
        let waits = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        waits.get(account).map(|wait| wait.until).filter(|until| *until > now)
    }

    /// Notes what an account said. Several answers at once count as one.
    pub(crate) fn learn(&self, account: &ProviderId, mood: Mood, now: i64) {
        let mut waits = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match mood {
            Mood::Took => {
                waits.remove(account);
            }
            Mood::PushedBack => {
                if waits.len() >= ACCOUNTS_MAX && !waits.contains_key(account) {
                    waits.retain(|_, wait| wait.until > now);
                }
                let wait = waits.get(account).copied();
                if wait.is_none_or(|wait| wait.until <= now) {
                    let micros = wait.map_or(FIRST, |wait| (2 * wait.micros).min(LONGEST));
                    waits.insert(account.clone(), Wait { until: now + micros, micros });
                }
            }
            Mood::Answered => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_account_that_pushes_back_is_left_alone_longer_each_time_until_it_takes_a_mail() {
        let (patience, account, mut now) = (Patience::default(), ProviderId::new(1, [1; 9]), 1_000);
        assert_eq!(patience.until(&account, now), None);
        for seconds in [2, 4, 8, 16, 32, 64, 128, 256, 300, 300] {
            patience.learn(&account, Mood::PushedBack, now);
            patience.learn(&account, Mood::PushedBack, now + 1);
            assert_eq!(patience.until(&account, now), Some(now + seconds * SECOND), "once for several answers");
            now += seconds * SECOND;
            assert_eq!(patience.until(&account, now), None);
        }
        patience.learn(&account, Mood::Took, now);
        patience.learn(&account, Mood::PushedBack, now);
        assert_eq!(patience.until(&account, now), Some(now + 2 * SECOND));
    }
}
