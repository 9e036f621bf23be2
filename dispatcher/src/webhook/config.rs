//! The configuration section `webhooks`.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::window::Bounds;
use crate::egress::{Client, Limits, Policy, Resolve};
use crate::retry::{Schedule, Settings};

/// How much longer than an attempt a lease must be: room for the answer to be written down.
const LEASE_MARGIN: Duration = Duration::from_secs(5);
/// What an attempt may take beyond its deadline: the look at the webhook's state, and a slow wake-up.
const ATTEMPT_MARGIN: Duration = Duration::from_secs(5);

/// How webhooks are delivered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// When attempts are made.
    pub schedule: Settings,
    /// Longest attempt, from the look-up of the host to the end of the answer.
    pub attempt_seconds: u64,
    /// Attempts on their way at the same time, in all.
    pub concurrency_max: usize,
    /// Attempts on their way for one team.
    pub concurrency_per_team_max: usize,
    /// Attempts on their way to one host.
    pub concurrency_per_host_max: usize,
    /// How many of these one team may take, so that its dead endpoints leave room for others on the same host.
    pub concurrency_per_host_and_team_max: usize,
    /// Attempts on their way for one webhook.
    pub concurrency_per_webhook_max: usize,
    /// Unsettled events of one webhook in memory at which reading ahead pauses.
    pub window_events_max: usize,
    /// Mailboxes of one webhook that may be blocked by a failure; with more the webhook waits.
    pub blocked_mailboxes_max: usize,
    /// Events remembered behind each of these; more are found again in the log.
    pub queue_per_mailbox_max: usize,
    /// Events read at a time.
    pub page_events: usize,
    /// Time until results are written down, if nothing more is on its way or there are enough of them.
    pub flush_milliseconds: u64,
    /// Results that are enough for that.
    pub flush_attempts_min: usize,
    /// Longest time until results are written down however few they are.
    pub flush_busy_milliseconds: u64,
    /// Results after which it is written down at once.
    pub flush_attempts_max: usize,
    /// How often due work and moved teams are looked for; hints make it faster, never slower.
    pub poll_milliseconds: u64,
    /// How long a node keeps a webhook without renewing its lease. Renewed at a third.
    pub lease_seconds: u64,
    /// After how much idle time a lease is given back.
    pub idle_release_seconds: u64,
    /// Longest wait for attempts on their way when the program stops.
    pub drain_seconds: u64,
    /// How much of an answer's body is kept with the attempt.
    pub response_preview_bytes: usize,
    /// Which URLs may be called; the doors judge by the same policy.
    pub targets: Policy,
    /// Bounds on what one attempt may cost.
    pub limits: Limits,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            schedule: Settings::default(),
            attempt_seconds: 10,
            concurrency_max: 512,
            concurrency_per_team_max: 16,
            concurrency_per_host_max: 8,
            concurrency_per_host_and_team_max: 6,
            concurrency_per_webhook_max: 8,
            window_events_max: 512,
            blocked_mailboxes_max: 1_000,
            queue_per_mailbox_max: 64,
            page_events: 256,
            flush_milliseconds: 100,
            flush_attempts_min: 50,
            flush_busy_milliseconds: 1_000,
            flush_attempts_max: 500,
            poll_milliseconds: 1_000,
            lease_seconds: 60,
            idle_release_seconds: 30,
            drain_seconds: 12,
            response_preview_bytes: 1_024,
            targets: Policy::default(),
            limits: Limits::default(),
        }
    }
}

impl Config {
    /// Returns everything that is wrong with this section, each naming its key.
    #[must_use]
    pub fn problems(&self) -> Vec<String> {
        let rows: [(&str, u64, u64, u64); 20] = [
            ("attempt_seconds", self.attempt_seconds, 1, 120),
            ("concurrency_max", wide(self.concurrency_max), 1, 10_000),
            ("concurrency_per_team_max", wide(self.concurrency_per_team_max), 1, 1_000),
            ("concurrency_per_host_max", wide(self.concurrency_per_host_max), 1, 1_000),
            ("concurrency_per_host_and_team_max", wide(self.concurrency_per_host_and_team_max), 1, 1_000),
            ("concurrency_per_webhook_max", wide(self.concurrency_per_webhook_max), 1, 1_000),
            ("window_events_max", wide(self.window_events_max), 1, 10_000),
            ("blocked_mailboxes_max", wide(self.blocked_mailboxes_max), 1, 100_000),
            ("queue_per_mailbox_max", wide(self.queue_per_mailbox_max), 1, 10_000),
            ("page_events", wide(self.page_events), 1, 1_000),
            ("flush_milliseconds", self.flush_milliseconds, 1, 5_000),
            ("flush_attempts_min", wide(self.flush_attempts_min), 1, 10_000),
            ("flush_busy_milliseconds", self.flush_busy_milliseconds, self.flush_milliseconds, 10_000),
            ("flush_attempts_max", wide(self.flush_attempts_max), 1, 10_000),
            ("poll_milliseconds", self.poll_milliseconds, 10, 60_000),
            ("lease_seconds", self.lease_seconds, 1, 3_600),
            ("idle_release_seconds", self.idle_release_seconds, 1, 3_600),
            ("drain_seconds", self.drain_seconds, 0, 300),
            ("response_preview_bytes", wide(self.response_preview_bytes), 0, 65_536),
            ("limits.attempt_seconds", self.limits.attempt_seconds, self.attempt_seconds, 120),
        ];
        let out_of_range = rows.into_iter().filter(|(_, value, min, max)| !(min..=max).contains(&value));
        let mut problems: Vec<_> =
            out_of_range.map(|(key, _, min, max)| format!("webhooks.{key} must lie between {min} and {max}")).collect();
        if let Err(invalid) = Schedule::try_from(self.schedule.clone()) {
            problems.push(format!("webhooks.schedule: {invalid}"));
        }
        if let Err(invalid) = self.limits.validate() {
            problems.extend(invalid.iter().map(|limit| format!("webhooks.limits.{limit}")));
        }
        if self.lease() < self.attempt_reserve() + LEASE_MARGIN {
            problems.push(format!(
                "webhooks.lease_seconds must be at least {}: an attempt, and time to write down its result",
                (self.attempt_reserve() + LEASE_MARGIN).as_secs()
            ));
        }
        if self.idle_release_seconds > self.lease_seconds {
            problems.push("webhooks.idle_release_seconds must not be more than webhooks.lease_seconds".to_owned());
        }
        problems
    }

    /// Returns a client for attempts.
    ///
    /// # Errors
    /// What is wrong with `limits`.
    pub fn client(&self, resolve: std::sync::Arc<dyn Resolve>) -> Result<Client, Vec<crate::egress::InvalidLimit>> {
        Client::new(self.targets.clone(), self.limits.clone(), resolve)
    }

    pub(crate) fn lease(&self) -> Duration {
        Duration::from_secs(self.lease_seconds)
    }

    /// How long a lease must still last for an attempt to begin under it.
    pub(crate) fn attempt_reserve(&self) -> Duration {
        self.attempt_deadline() + ATTEMPT_MARGIN
    }

    pub(crate) fn attempt_deadline(&self) -> Duration {
        Duration::from_secs(self.attempt_seconds)
    }

    pub(crate) fn bounds(&self) -> Bounds {
        Bounds {
            events_max: self.window_events_max,
            blocked_max: self.blocked_mailboxes_max,
            queue_max: self.queue_per_mailbox_max,
        }
    }
}

fn wide(n: usize) -> u64 {
    u64::try_from(n).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_have_no_problems() {
        assert_eq!(Config::default().problems(), Vec::<String>::new());
    }

    #[test]
    fn all_problems_are_named_at_once() {
        let schedule = Settings { attempt_offsets_seconds: vec![], ..Settings::default() };
        let config = Config { schedule, lease_seconds: 12, page_events: 0, drain_seconds: 999, ..Config::default() };
        let problems = config.problems().join("\n");
        for key in ["schedule", "lease_seconds", "page_events", "drain_seconds", "idle_release_seconds"] {
            assert!(problems.contains(key), "{key} is missing in {problems}");
        }
    }
}
