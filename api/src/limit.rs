//! Rate limits: so many requests per key and window, told in every answer.
//!
//! Counts are bookkeeping of one node and may be lost; they never reach the log.

use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, PoisonError};

use domain::api_key::Kind;
use domain::id::KeyId;
use lru::LruCache;

use crate::config::RateLimits;

/// How many keys are counted at once; a key that falls out starts a new window.
const KEYS_MAX: NonZeroUsize = NonZeroUsize::new(100_000).expect("not zero");

#[derive(Clone, Copy)]
struct Window {
    ends_at: i64,
    used: u32,
}

/// Where a key stands in its window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Allowance {
    /// Requests per window.
    pub limit: u32,
    /// Requests left in this one.
    pub remaining: u32,
    /// When the window ends, seconds since the Unix epoch.
    pub resets_at_seconds: i64,
    /// How long until then, seconds, at least 1.
    pub retry_after_seconds: u64,
    /// Whether this request still fitted.
    pub granted: bool,
}

/// Counts the requests of keys. Cheap to clone.
#[derive(Clone)]
pub struct Limiter {
    limits: RateLimits,
    windows: Arc<Mutex<LruCache<KeyId, Window>>>,
}

impl Limiter {
    /// Returns a limiter.
    #[must_use]
    pub fn new(limits: RateLimits) -> Self {
        Self { limits, windows: Arc::new(Mutex::new(LruCache::new(KEYS_MAX))) }
    }

    /// Counts a request of a key at a time (microseconds since the Unix epoch).
    #[must_use]
    pub fn take(&self, key: &KeyId, kind: Kind, now: i64) -> Allowance {
        let limit = match kind {
            Kind::Infrastructure => self.limits.infrastructure_requests,
            Kind::Sending | Kind::Mailbox => self.limits.mailbox_requests,
        };
        let length = i64::from(self.limits.window_seconds) * 1_000_000;
        let mut windows = self.windows.lock().unwrap_or_else(PoisonError::into_inner);
        let window = windows.get_or_insert_mut(key.clone(), || Window { ends_at: now + length, used: 0 });
        // A clock that was set back must not lock a key out for longer than one window.
        if now >= window.ends_at || window.ends_at - now > length {
            *window = Window { ends_at: now + length, used: 0 };
        }
        let granted = window.used < limit;
        window.used += u32::from(granted);
        let seconds_up = |micros: i64| (micros + 999_999) / 1_000_000;
        Allowance {
            limit,
            remaining: limit - window.used,
            resets_at_seconds: seconds_up(window.ends_at),
            retry_after_seconds: u64::try_from(seconds_up(window.ends_at - now)).unwrap_or(1).max(1),
            granted,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: i64 = 1_000_000;

    #[test]
    fn a_window_refuses_what_is_beyond_its_limit_and_ends() {
        let limiter = Limiter::new(RateLimits { infrastructure_requests: 2, ..RateLimits::default() });
        let (key, other) = (KeyId::new(1, [1; 9]), KeyId::new(1, [2; 9]));
        let take = |key: &KeyId, now| limiter.take(key, Kind::Infrastructure, now);
        let first = take(&key, 10 * SECOND);
        assert_eq!((first.granted, first.remaining, first.resets_at_seconds), (true, 1, 70));
        assert_eq!(take(&key, 11 * SECOND).remaining, 0);
        let refused = take(&key, 69 * SECOND + 1);
        assert_eq!((refused.granted, refused.remaining, refused.retry_after_seconds), (false, 0, 1));
        assert!(take(&other, 69 * SECOND).granted);
        assert!(take(&key, 70 * SECOND).granted);
    }

    #[test]
    fn kinds_have_limits_of_their_own() {
        let limiter = Limiter::new(RateLimits::default());
        let key = |n| KeyId::new(1, [n; 9]);
        assert_eq!(limiter.take(&key(1), Kind::Infrastructure, 0).limit, 600);
        assert_eq!(limiter.take(&key(2), Kind::Sending, 0).limit, 1_800);
        assert_eq!(limiter.take(&key(3), Kind::Mailbox, 0).limit, 1_800);
    }

    #[test]
    fn a_clock_set_back_locks_nobody_out() {
        let limiter = Limiter::new(RateLimits { mailbox_requests: 1, ..RateLimits::default() });
        let key = KeyId::new(1, [1; 9]);
        assert!(limiter.take(&key, Kind::Mailbox, 10_000 * SECOND).granted);
        assert!(limiter.take(&key, Kind::Mailbox, 1_000 * SECOND).granted);
    }
}
