//! Counters of outgoing mail per hour of acceptance, account and sender's domain. A mail is counted in the hour in which
//! it was accepted, under the account it was last given to and with the status it has now.
//!
//! Their table is kept by [`crate::outbound`], with the mails they count.

use std::collections::BTreeMap;

use domain::id::{DomainId, ProviderId, TeamId};

use crate::db::{Cells, Select};
use crate::{Error, Views};

/// An hour, microseconds.
pub const HOUR_MICROS: i64 = 60 * 60 * 1_000_000;

/// How many mails and recipients there are of each outcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Mails.
    pub total: i64,
    /// Mails on their way.
    pub pending: i64,
    /// Mails that somebody took.
    pub sent: i64,
    /// Mails that came back, or of which nobody knows.
    pub failed: i64,
    /// Mails that were not taken, or not sent at all.
    pub rejected: i64,
    /// Recipients.
    pub recipients: i64,
    /// Recipients for whom somebody took the mail, whatever came after.
    pub taken: i64,
    /// Recipients whose server has the mail.
    pub delivered: i64,
    /// Recipients for whom it bounced for good.
    pub hard_bounces: i64,
    /// Recipients for whom it bounced otherwise.
    pub soft_bounces: i64,
    /// Recipients who complained.
    pub complaints: i64,
    /// Recipients who opened it, programs left out.
    pub opens: i64,
    /// Recipients who want no more of its kind.
    pub unsubscribes: i64,
}

impl Counts {
    /// Adds other counts, a number of times.
    pub(crate) fn add(&mut self, other: &Self, times: i64) {
        for (mine, its) in self.each_mut().into_iter().zip(other.each()) {
            *mine = mine.saturating_add(its.saturating_mul(times));
        }
    }

    /// Returns all counts in the order of the table's columns.
    pub(crate) fn each(&self) -> [i64; 13] {
        [
            self.total,
            self.pending,
            self.sent,
            self.failed,
            self.rejected,
            self.recipients,
            self.taken,
            self.delivered,
            self.hard_bounces,
            self.soft_bounces,
            self.complaints,
            self.opens,
            self.unsubscribes,
        ]
    }

    fn each_mut(&mut self) -> [&mut i64; 13] {
        [
            &mut self.total,
            &mut self.pending,
            &mut self.sent,
            &mut self.failed,
            &mut self.rejected,
            &mut self.recipients,
            &mut self.taken,
            &mut self.delivered,
            &mut self.hard_bounces,
            &mut self.soft_bounces,
            &mut self.complaints,
            &mut self.opens,
            &mut self.unsubscribes,
        ]
    }

    pub(crate) fn read(cells: &Cells) -> Result<Self, Error> {
        Ok(Self {
            total: cells.get("total")?,
            pending: cells.get("pending")?,
            sent: cells.get("sent")?,
            failed: cells.get("failed")?,
            rejected: cells.get("rejected")?,
            recipients: cells.get("recipients")?,
            taken: cells.get("taken")?,
            delivered: cells.get("delivered")?,
            hard_bounces: cells.get("hard_bounces")?,
            soft_bounces: cells.get("soft_bounces")?,
            complaints: cells.get("complaints")?,
            opens: cells.get("opens")?,
            unsubscribes: cells.get("unsubscribes")?,
        })
    }
}

/// Which mail is counted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filter {
    /// First hour, hours since the Unix epoch.
    pub from_hour: i64,
    /// Last hour, inclusive.
    pub to_hour: i64,
    /// Only what was last given to this account.
    pub provider: Option<ProviderId>,
    /// Only from this domain of the team.
    pub domain: Option<DomainId>,
}

impl Filter {
    /// Returns a filter for everything between two hours since the Unix epoch, both inclusive.
    #[must_use]
    pub fn hours(from_hour: i64, to_hour: i64) -> Self {
        Self { from_hour, to_hour, provider: None, domain: None }
    }
}

/// How long each step of a series is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Granularity {
    /// An hour.
    Hourly,
    /// A UTC day.
    Daily,
}

/// Returns the hour of a time in microseconds since the Unix epoch, as hours since then.
#[must_use]
pub fn hour_of(at_micros: i64) -> i64 {
    at_micros.div_euclid(HOUR_MICROS)
}

const SUMS: &str = "
       CAST(COALESCE(SUM(total), 0) AS BIGINT) AS total, CAST(COALESCE(SUM(pending), 0) AS BIGINT) AS pending,
       CAST(COALESCE(SUM(sent), 0) AS BIGINT) AS sent, CAST(COALESCE(SUM(failed), 0) AS BIGINT) AS failed,
       CAST(COALESCE(SUM(rejected), 0) AS BIGINT) AS rejected,
       CAST(COALESCE(SUM(recipients), 0) AS BIGINT) AS recipients,
       CAST(COALESCE(SUM(taken), 0) AS BIGINT) AS taken, CAST(COALESCE(SUM(delivered), 0) AS BIGINT) AS delivered,
       CAST(COALESCE(SUM(hard_bounces), 0) AS BIGINT) AS hard_bounces,
       CAST(COALESCE(SUM(soft_bounces), 0) AS BIGINT) AS soft_bounces,
       CAST(COALESCE(SUM(complaints), 0) AS BIGINT) AS complaints, CAST(COALESCE(SUM(opens), 0) AS BIGINT) AS opens,
       CAST(COALESCE(SUM(unsubscribes), 0) AS BIGINT) AS unsubscribes
FROM email_metrics
WHERE team_id = ";

/// Returns the sums over all hours.
///
/// # Errors
/// The database does not answer.
pub async fn sums(views: &Views, team: &TeamId, filter: &Filter) -> Result<Counts, Error> {
    let mut select = Select::new("SELECT ");
    select.push(SUMS).text(team.as_str());
    narrow(&mut select, filter);
    let rows = select.fetch(&mut views.read().await?).await?;
    rows.first().map_or_else(|| Ok(Counts::default()), Counts::read)
}

/// Returns sums per step, oldest first, by when the step begins in hours since the Unix epoch. Steps without mail are left
/// out.
///
/// # Errors
/// The database does not answer.
pub async fn series(
    views: &Views,
    team: &TeamId,
    filter: &Filter,
    granularity: Granularity,
) -> Result<BTreeMap<i64, Counts>, Error> {
    let mut select = Select::new("SELECT ");
    select.push(match granularity {
        Granularity::Hourly => "hour AS step,",
        Granularity::Daily => "hour - hour % 24 AS step,",
    });
    select.push(SUMS).text(team.as_str());
    narrow(&mut select, filter);
    select.push(" GROUP BY step");
    let rows = select.fetch(&mut views.read().await?).await?;
    rows.iter().map(|cells| Ok((cells.get("step")?, Counts::read(cells)?))).collect()
}

/// Returns sums per account; mail that was given to none yet is left out.
///
/// # Errors
/// The database does not answer.
pub async fn by_provider(views: &Views, team: &TeamId, filter: &Filter) -> Result<BTreeMap<ProviderId, Counts>, Error> {
    let mut select = Select::new("SELECT provider_id,");
    select.push(SUMS).text(team.as_str());
    narrow(&mut select, filter);
    select.push(" AND provider_id <> '' GROUP BY provider_id");
    let rows = select.fetch(&mut views.read().await?).await?;
    rows.iter().map(|cells| Ok((cells.parsed("provider_id")?, Counts::read(cells)?))).collect()
}

/// Returns sums per domain of the team; mail from other domains is left out.
///
/// # Errors
/// The database does not answer.
pub async fn by_domain(views: &Views, team: &TeamId, filter: &Filter) -> Result<BTreeMap<DomainId, Counts>, Error> {
    let mut select = Select::new("SELECT domain_id,");
    select.push(SUMS).text(team.as_str());
    narrow(&mut select, filter);
    select.push(" AND domain_id <> '' GROUP BY domain_id");
    let rows = select.fetch(&mut views.read().await?).await?;
    rows.iter().map(|cells| Ok((cells.parsed("domain_id")?, Counts::read(cells)?))).collect()
}

fn narrow(select: &mut Select, filter: &Filter) {
    select.push(" AND hour >= ").int(filter.from_hour).push(" AND hour <= ").int(filter.to_hour);
    if let Some(provider) = &filter.provider {
        select.push(" AND provider_id = ").text(provider.as_str());
    }
    if let Some(domain) = &filter.domain {
        select.push(" AND domain_id = ").text(domain.as_str());
    }
}
