//! How hard a site is tried: the recipients' servers behind one set of mail exchangers, from one source address.
//!
//! Pure: what happened goes in, what may be done comes out. A site begins carefully, earns more connections by success,
//! loses half of them when it pushes back, and is left alone for a while when it cannot be reached.

use serde::{Deserialize, Serialize};

const SECOND: i64 = 1_000_000;
const MINUTE: i64 = 60 * SECOND;

/// How hard a site may be tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SitePolicy {
    /// Connections at once to begin with.
    pub connections_start: u32,
    /// Connections at once at most.
    pub connections_max: u32,
    /// After how many successes in a row one connection more is allowed.
    pub successes_per_step: u32,
    /// How many connections may be opened in a minute.
    pub connects_per_minute: u32,
    /// How many mails go through one connection.
    pub mails_per_connection: u32,
    /// How long one connection is used, seconds.
    pub reuse_seconds: u32,
    /// How long an idle connection is kept, seconds.
    pub idle_seconds: u32,
    /// After how many failures to connect in a row the site is left alone.
    pub failures_to_park: u32,
    /// For how long the first time, seconds; doubled each time.
    pub park_seconds: u32,
    /// For how long at most, seconds.
    pub park_seconds_max: u32,
}

impl Default for SitePolicy {
    fn default() -> Self {
        Self {
            connections_start: 2,
            connections_max: 10,
            successes_per_step: 5,
            connects_per_minute: 100,
            mails_per_connection: 100,
            reuse_seconds: 300,
            idle_seconds: 10,
            failures_to_park: 10,
            park_seconds: 300,
            park_seconds_max: 3_600,
        }
    }
}

/// What a site taught us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lesson {
    /// It took a mail.
    Took,
    /// It could not be reached.
    Unreachable,
    /// It pushed back: `421`, `4.7.x`, too many connections.
    PushedBack,
    /// It answered something that says nothing about how hard it is tried.
    Answered,
}

/// Why no connection may be opened now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// As many as may be are open.
    Busy,
    /// As many as may be were opened in this minute.
    TooFast {
        /// When there is room again, microseconds since the Unix epoch.
        until: i64,
    },
    /// The site is left alone.
    Parked {
        /// Until when, microseconds since the Unix epoch.
        until: i64,
    },
}

/// What is remembered of a site. Bookkeeping of whoever sends.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Site {
    limit: u32,
    open: u32,
    successes: u32,
    failures: u32,
    parked_until: i64,
    parks: u32,
    /// Whole connects times a minute: a bucket that fills with time.
    tokens: i64,
    filled_at: i64,
}

impl Site {
    /// Returns a site that nothing is known of.
    #[must_use]
    pub fn new(policy: &SitePolicy, now: i64) -> Self {
        Self {
            limit: policy.connections_start.clamp(1, policy.connections_max.max(1)),
            open: 0,
            successes: 0,
            failures: 0,
            parked_until: 0,
            parks: 0,
            tokens: i64::from(policy.connects_per_minute) * MINUTE,
            filled_at: now,
        }
    }

    /// Returns how many connections may be open at once.
    #[must_use]
    pub fn limit(&self) -> u32 {
        self.limit
    }

    /// Opens a connection, if one may be opened.
    ///
    /// # Errors
    /// Why not, and until when.
    pub fn open(&mut self, policy: &SitePolicy, now: i64) -> Result<(), Refusal> {
        if now < self.parked_until {
            return Err(Refusal::Parked { until: self.parked_until });
        }
        // After a park one connection finds out whether the site is back.
        let limit = if self.failures >= policy.failures_to_park { 1 } else { self.limit };
        if self.open >= limit {
            return Err(Refusal::Busy);
        }
        let rate = i64::from(policy.connects_per_minute.max(1));
        let elapsed = (now - self.filled_at).clamp(0, MINUTE);
        self.filled_at = now;
        self.tokens = self.tokens.saturating_add(elapsed * rate).min(rate * MINUTE);
        if self.tokens < MINUTE {
            let missing = MINUTE - self.tokens;
            return Err(Refusal::TooFast { until: now + (missing + rate - 1) / rate });
        }
        self.tokens -= MINUTE;
        self.open += 1;
        Ok(())
    }

    /// Gives back what [`Site::open`] took for a new connection: a kept one was used.
    pub fn reused(&mut self, policy: &SitePolicy) {
        let most = i64::from(policy.connects_per_minute.max(1)) * MINUTE;
        self.tokens = self.tokens.saturating_add(MINUTE).min(most);
    }

    /// Notes that a connection is closed.
    pub fn close(&mut self) {
        self.open = self.open.saturating_sub(1);
    }

    /// Notes what the site taught us.
    pub fn learn(&mut self, policy: &SitePolicy, lesson: Lesson, now: i64) {
        match lesson {
            Lesson::Took => {
                (self.failures, self.parks) = (0, 0);
                self.successes += 1;
                if self.successes >= policy.successes_per_step {
                    self.successes = 0;
                    self.limit = self.limit.saturating_add(1).min(policy.connections_max.max(1));
                }
            }
            Lesson::PushedBack => {
                (self.failures, self.successes) = (0, 0);
                self.limit = (self.limit / 2).max(1);
            }
            Lesson::Unreachable => {
                self.successes = 0;
                self.limit = (self.limit / 2).max(1);
                self.failures = self.failures.saturating_add(1);
                if self.failures >= policy.failures_to_park && now >= self.parked_until {
                    let seconds = u64::from(policy.park_seconds) << self.parks.min(20);
                    let seconds = seconds.min(u64::from(policy.park_seconds_max));
                    self.parked_until = now + i64::try_from(seconds).unwrap_or(0) * SECOND;
                    self.parks = self.parks.saturating_add(1);
                }
            }
            Lesson::Answered => self.failures = 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::NOW;
    use proptest::prelude::*;

    #[test]
    fn success_earns_connections_and_push_back_halves_them() {
        let policy = SitePolicy::default();
        let mut site = Site::new(&policy, NOW);
        assert_eq!(site.limit(), 2);
        (0..100).for_each(|_| site.learn(&policy, Lesson::Took, NOW));
        assert_eq!(site.limit(), 10);
        site.learn(&policy, Lesson::PushedBack, NOW);
        assert_eq!(site.limit(), 5);
        (0..9).for_each(|_| site.learn(&policy, Lesson::PushedBack, NOW));
        assert_eq!(site.limit(), 1);
    }

    #[test]
    fn mail_through_kept_connections_is_not_counted_as_connects() {
        let policy = SitePolicy { connects_per_minute: 3, ..SitePolicy::default() };
        let mut site = Site::new(&policy, NOW);
        for _ in 0..100 {
            site.open(&policy, NOW).unwrap();
            site.reused(&policy);
            site.close();
        }
        (0..3).for_each(|_| {
            site.open(&policy, NOW).unwrap();
            site.close();
        });
        assert!(matches!(site.open(&policy, NOW), Err(Refusal::TooFast { .. })));
    }

    #[test]
    fn an_unreachable_site_is_left_alone_twice_as_long_each_time() {
        let policy = SitePolicy::default();
        let (mut site, mut now) = (Site::new(&policy, NOW), NOW);
        (0..10).for_each(|_| site.learn(&policy, Lesson::Unreachable, now));
        for minutes in [5, 10, 20, 40, 60, 60] {
            assert_eq!(site.open(&policy, now), Err(Refusal::Parked { until: now + minutes * MINUTE }));
            now += minutes * MINUTE;
            site.open(&policy, now).unwrap();
            assert_eq!(site.open(&policy, now), Err(Refusal::Busy), "one connection finds out");
            site.close();
            site.learn(&policy, Lesson::Unreachable, now);
        }
        now += 60 * MINUTE;
        site.learn(&policy, Lesson::Took, now);
        site.open(&policy, now).unwrap();
    }

    proptest! {
        #[test]
        fn a_site_is_never_tried_harder_than_it_may_be(
            steps in prop::collection::vec((0u8..6, 0i64..2_000_000), 1..400), per_minute in 1u32..60,
        ) {
            let policy = SitePolicy { connects_per_minute: per_minute, ..SitePolicy::default() };
            let (mut site, mut now, mut opened) = (Site::new(&policy, NOW), NOW, vec![]);
            for (step, wait) in steps {
                now += wait;
                match step {
                    0 | 1 => match site.open(&policy, now) {
                        Ok(()) => opened.push(now),
                        Err(Refusal::TooFast { until } | Refusal::Parked { until }) => prop_assert!(until > now),
                        Err(Refusal::Busy) => {}
                    },
                    2 => site.close(),
                    3 => site.learn(&policy, Lesson::Took, now),
                    4 => site.learn(&policy, Lesson::Unreachable, now),
                    _ => site.learn(&policy, Lesson::PushedBack, now),
                }
                prop_assert!((1..=policy.connections_max).contains(&site.limit()));
                prop_assert!(site.open <= policy.connections_max);
            }
            // A bucket holds a minute's worth, and as much again flows in during any minute.
            for (i, first) in opened.iter().enumerate() {
                let within = opened[i..].iter().take_while(|at| **at - first < MINUTE).count();
                prop_assert!(within <= 2 * usize::try_from(per_minute).unwrap());
            }
        }
    }
}
