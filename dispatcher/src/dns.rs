//! The DNS records of sending domains, looked up again and again: what is found is recorded by a command.
//!
//! One task per node. Teams are leased, their domains looked up, and the team is due again later: soon while a new
//! domain waits for its records, otherwise every few hours. A look that gets no answer records nothing.

mod queue;

use std::sync::Arc;
use std::time::Duration;

use domain::Actor;
use domain::id::TeamId;
use domain::sending_domain::records::{Expected, Installation, expected, judge, questions};
use domain::sending_domain::{Found, RecordCheck, Rejected, Status};
use eventlog::{Allot, EventLog, Submission, TransactError};
use futures_util::future::BoxFuture;
use futures_util::{FutureExt as _, StreamExt as _, stream};
use mail::auth::{DnsError, RecordType, Resolver, published};
use projections::domains::{self, Row};
use projections::{Page, Views};
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

pub use queue::Queue;

/// Teams added or asked for with one statement.
const PAGE: usize = 500;
/// How many such pages of teams with domains a sweep walks over.
const SWEEP_PAGES: usize = 10;
/// Domains read at a time.
const DOMAINS_PAGE: usize = 100;
/// Domains of one team looked up at the same time.
const DOMAINS_TOGETHER: usize = 4;

/// How often domains are looked up: the configuration section `dns`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// How often each team's domains are looked up.
    pub interval_seconds: u32,
    /// How often while a new domain waits for its records.
    pub pending_interval_seconds: u32,
    /// For how long after it was added a domain counts as new.
    pub pending_seconds: u32,
    /// When a look is tried again that got no answer.
    pub retry_seconds: u32,
    /// How often due teams are looked for.
    pub poll_milliseconds: u64,
    /// How often teams that are new to the table are looked for.
    pub sweep_seconds: u32,
    /// Teams looked up at the same time.
    pub concurrency_max: usize,
    /// Longest time for the records of one domain.
    pub look_seconds: u32,
    /// How long a node keeps a team. More than all its domains can take.
    pub lease_seconds: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            interval_seconds: 6 * 3_600,
            pending_interval_seconds: 600,
            pending_seconds: 3 * 24 * 3_600,
            retry_seconds: 900,
            poll_milliseconds: 15_000,
            sweep_seconds: 300,
            concurrency_max: 8,
            look_seconds: 20,
            lease_seconds: 600,
        }
    }
}

impl Config {
    /// Returns everything that is wrong with the section, each naming its key.
    #[must_use]
    pub fn problems(&self) -> Vec<String> {
        let positive = [
            ("interval_seconds", self.interval_seconds > 0),
            ("pending_interval_seconds", self.pending_interval_seconds > 0),
            ("retry_seconds", self.retry_seconds > 0),
            ("poll_milliseconds", self.poll_milliseconds > 0),
            ("sweep_seconds", self.sweep_seconds > 0),
            ("concurrency_max", self.concurrency_max > 0),
            ("look_seconds", self.look_seconds > 0),
            ("lease_seconds", self.lease_seconds > self.look_seconds),
        ];
        positive.iter().filter(|(_, ok)| !ok).map(|(key, _)| format!("dns.{key} is too small")).collect()
    }
}

/// What a checker works with.
pub struct Parts {
    /// The truth.
    pub log: EventLog,
    /// Which domains there are.
    pub views: Views,
    /// Its own bookkeeping.
    pub queue: Queue,
    /// Asks the DNS.
    pub resolver: Arc<dyn Resolver>,
    /// Time and randomness.
    pub allot: Allot,
    /// What this installation is called in the DNS.
    pub installation: Installation,
    /// How often it looks.
    pub config: Config,
    /// Names who holds leases. It must differ between nodes that share a work database, and stay the same when a node is
    /// started again.
    pub node: String,
}

/// Looks up the records of sending domains. See the module.
pub struct Checker {
    parts: Arc<Parts>,
}

/// A team could not be worked for now.
#[derive(Debug, thiserror::Error)]
enum Unready {
    /// The views or the work database do not answer.
    #[error(transparent)]
    Views(#[from] projections::Error),
    /// The log does not take a command.
    #[error("{0}")]
    Log(String),
}

/// What a look at a team's domains found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Look {
    /// All were looked up.
    Done,
    /// All were looked up, and a new one still waits for its records.
    Waiting,
    /// Some got no answer.
    Unanswered,
}

impl Checker {
    /// Returns a checker.
    #[must_use]
    pub fn new(parts: Parts) -> Self {
        Self { parts: Arc::new(parts) }
    }

    /// Looks domains up until it is told to stop; what is under way then is dropped and made up for later.
    pub async fn run(self, stop: CancellationToken) {
        tokio::select! {
            () = stop.cancelled() => {}
            () = self.work() => {}
        }
        if let Err(error) = self.parts.queue.take_back(&self.parts.node).await {
            tracing::warn!(%error, "leases of domain checks could not be given back; they end by themselves");
        }
    }

    async fn work(&self) {
        let parts = &self.parts;
        if let Err(error) = parts.queue.take_back(&parts.node).await {
            tracing::warn!(%error, "leases of domain checks from before could not be taken back");
        }
        let (poll, sweep) = (
            Duration::from_millis(parts.config.poll_milliseconds),
            Duration::from_secs(parts.config.sweep_seconds.into()),
        );
        let (mut sweep_at, mut walked) = (Instant::now(), None);
        loop {
            if Instant::now() >= sweep_at {
                if let Err(error) = self.sweep(&mut walked).await {
                    tracing::warn!(%error, "teams could not be looked for; trying again");
                }
                sweep_at = Instant::now() + sweep;
            }
            let poll_at = Instant::now() + poll;
            match self.turn().await {
                // There may be more: no pause.
                Ok(teams) if teams == parts.config.concurrency_max => continue,
                Ok(_) => {}
                Err(error) => tracing::warn!(%error, "due domain checks could not be found; trying again"),
            }
            sleep_until(poll_at.min(sweep_at)).await;
        }
    }

    /// Adds teams that are new, and hastens those with a domain that waits. Who has a domain is walked over a part at a
    /// time, so that a sweep costs the same however many teams there are.
    async fn sweep(&self, walked: &mut Option<TeamId>) -> Result<(), Unready> {
        let Parts { views, queue, config, allot, .. } = &*self.parts;
        let now = allot.now();
        for _ in 0..SWEEP_PAGES {
            let teams = domains::teams_with(views, walked.as_ref(), PAGE).await?;
            queue.add(&teams, now).await?;
            *walked = if teams.len() < PAGE { None } else { teams.last().cloned() };
            if walked.is_none() {
                break;
            }
        }
        let soon = now.saturating_add(micros(config.pending_interval_seconds));
        let since = now.saturating_sub(micros(config.pending_seconds));
        let mut after = None;
        loop {
            let teams = domains::teams_waiting(views, since, after.as_ref(), PAGE).await?;
            queue.add(&teams, now).await?;
            queue.hasten(&teams, soon).await?;
            if teams.len() < PAGE {
                return Ok(());
            }
            after = teams.last().cloned();
        }
    }

    /// Works for the teams that are due, as many as may be at a time; returns how many there were.
    async fn turn(&self) -> Result<usize, Unready> {
        let Parts { queue, config, allot, node, .. } = &*self.parts;
        let now = allot.now();
        let until = now.saturating_add(micros(config.lease_seconds));
        let teams = queue.lease(node, now, until, config.concurrency_max).await?;
        let count = teams.len();
        futures_util::future::join_all(teams.iter().map(|team| self.visit(team, now).boxed())).await;
        Ok(count)
    }

    /// Looks up the domains of a team that was due at a moment.
    async fn visit(&self, team: &TeamId, now: i64) {
        let Parts { queue, config, node, .. } = &*self.parts;
        let look = self.look_at_team(team).await.unwrap_or_else(|error| {
            tracing::warn!(team.id = %team, %error, "a team's domains could not be looked up; trying again");
            Look::Unanswered
        });
        let seconds = match look {
            Look::Done => config.interval_seconds,
            Look::Waiting => config.pending_interval_seconds,
            Look::Unanswered => config.retry_seconds.min(config.interval_seconds),
        };
        if let Err(error) = queue.settle(team, node, now.saturating_add(micros(seconds))).await {
            tracing::warn!(team.id = %team, %error, "a domain check could not be settled; its lease ends by itself");
        }
    }

    async fn look_at_team(&self, team: &TeamId) -> Result<Look, Unready> {
        let mut worst = Look::Done;
        let mut cursor = None;
        loop {
            let page = Page { after: cursor.take(), limit: DOMAINS_PAGE };
            let paged = domains::list(&self.parts.views, team, &domains::Filter::default(), &page).await?;
            let mut looks: Vec<BoxFuture<'_, _>> = vec![];
            for row in &paged.rows {
                looks.push(self.look_at(team, row).boxed());
            }
            let looks: Vec<_> = stream::iter(looks).buffer_unordered(DOMAINS_TOGETHER).collect().await;
            for look in looks {
                worst = worst.max(look?);
            }
            match paged.next_cursor {
                Some(next) => cursor = Some(next),
                None => return Ok(worst),
            }
        }
    }

    async fn look_at(&self, team: &TeamId, row: &Row) -> Result<Look, Unready> {
        let Parts { log, resolver, allot, installation, config, .. } = &*self.parts;
        let Some(mode) = row.domain.mode else { return Ok(Look::Done) };
        let records = expected(team, &row.domain.name, mode, &row.domain.keys, installation);
        let patience = Duration::from_secs(config.look_seconds.into());
        let found = match timeout(patience, look_up(resolver.as_ref(), &records)).await {
            Ok(Ok(found)) => found,
            Ok(Err(_)) | Err(_) => {
                metrics::counter!("domain_checks_total", "outcome" => "unanswered").increment(1);
                return Ok(Look::Unanswered);
            }
        };
        let (checks, published) = judge(&records, &found, &row.domain.keys, &row.domain.name);
        let now = allot.now();
        let command = RecordCheck {
            domain: row.id.clone(),
            checks,
            found,
            published,
            checked_at: now,
            if_version: Some(row.version),
        };
        let submission = Submission::new(team.clone(), now, Actor::System("dns"), "dns", command);
        let status = match log.transact(submission).await {
            Ok(outcome) => outcome.done().map_or(row.domain.status, |appended| appended.state.status),
            // It was changed or given up meanwhile: what was looked up is not what is asked any more.
            Err(TransactError::Rejected(Rejected::VersionMismatch { .. })) => return Ok(Look::Waiting),
            Err(TransactError::Rejected(_)) => return Ok(Look::Done),
            Err(error) => return Err(Unready::Log(error.to_string())),
        };
        metrics::counter!("domain_checks_total", "outcome" => "answered").increment(1);
        let is_new = now.saturating_sub(row.created_at) < micros(config.pending_seconds);
        Ok(if status == Status::Pending && is_new { Look::Waiting } else { Look::Done })
    }
}

fn micros(seconds: u32) -> i64 {
    i64::from(seconds) * 1_000_000
}

/// Looks up everything that is expected.
async fn look_up(resolver: &dyn Resolver, expected: &[Expected]) -> Result<Vec<Found>, DnsError> {
    let looks = questions(expected).into_iter().map(|question| async move {
        let kind = if question.kind.is_exchanger() { RecordType::Mx } else { RecordType::Txt };
        let values = published(resolver, &question.name, kind).await?;
        Ok(Found { kind: question.kind, name: question.name, values })
    });
    futures_util::future::try_join_all(looks).await
}
