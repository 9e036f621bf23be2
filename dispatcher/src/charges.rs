//! Charges for received mail and for storage: by the UTC day, once that day is over.
//!
//! Outgoing mail is charged in the events of each mail. What is received costs nothing at its arrival, because mail must not be
//! refused for want of money; its day becomes one charge per meter, a fact of the log like any other. The units come from the
//! read model of usage, once it holds all that was appended so far.
//!
//! A day that was charged is closed. Charging it again appends nothing, whichever node tries, so that a crash in between
//! does no harm; days that were missed are made up for in order.

use std::collections::BTreeMap;
use std::time::Duration;

use domain::balance::{Balance, ChargeUsage};
use domain::billing::{Meter, PriceBook};
use domain::id::TeamId;
use domain::money::Nanos;
use domain::{Actor, StreamId, Versioned};
use eventlog::{Allot, EventLog, LogError, Outcome, Submission};
use projections::{Views, usage};
use tokio_util::sync::CancellationToken;

/// How many teams are listed at a time.
const TEAMS: usize = 500;
/// Longest wait for the read models of one team.
const CATCH_UP: Duration = Duration::from_secs(30);

/// What is charged by the day.
const METERS: [Meter; 2] = [Meter::InboundMessages, Meter::StoredBytes];

/// No charge was made.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The log does not answer.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The read models do not answer.
    #[error(transparent)]
    Views(#[from] projections::Error),
    /// The read models are behind.
    #[error("the read models of {0} are behind its log")]
    Behind(TeamId),
    /// The charge was refused.
    #[error("{0}: the charge was refused: {1}")]
    Refused(TeamId, String),
}

/// Charges teams. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Charger {
    log: EventLog,
    views: Views,
    allot: Allot,
    prices: PriceBook,
}

impl Charger {
    /// Returns what charges by a price book.
    #[must_use]
    pub fn new(log: EventLog, views: Views, allot: Allot, prices: PriceBook) -> Self {
        Self { log, views, allot, prices }
    }

    /// Charges every team for all days up to one (UTC, days since 1970-01-01) that were not charged yet. Ends early when told to
    /// stop, or as soon as `is_mine` says that another node does this work. A team that cannot be charged now does not
    /// keep others from it; returns whether all were.
    ///
    /// # Errors
    /// The teams cannot be listed.
    pub async fn charge_all(
        &self,
        until: i64,
        is_mine: impl Fn() -> bool,
        stop: &CancellationToken,
    ) -> Result<bool, LogError> {
        let (mut after, mut all) = (None, true);
        loop {
            let teams = self.log.teams(after.as_ref(), TEAMS).await?;
            for team in &teams {
                if stop.is_cancelled() || !is_mine() {
                    return Ok(false);
                }
                if let Err(error) = self.charge(team, until).await {
                    tracing::warn!(%error, "a team could not be charged for its days; trying again");
                    all = false;
                }
            }
            match teams.last() {
                Some(last) if teams.len() == TEAMS => after = Some(last.clone()),
                _ => return Ok(all),
            }
        }
    }

    /// Charges one team for all days up to one that were not charged yet; returns how many charges that made.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn charge(&self, team: &TeamId, until: i64) -> Result<u64, Error> {
        let head = self.log.head(team).await?.position;
        if !self.views.wait_for(team, head, CATCH_UP).await {
            return Err(Error::Behind(team.clone()));
        }
        let mut made = 0;
        let mut balance: Option<Versioned<Balance>> = None;
        for meter in METERS {
            let Some(first) = usage::first_day(&self.views, team, meter).await? else { continue };
            let known = match &mut balance {
                Some(known) => known,
                unknown => unknown.insert(self.log.state(team, &[StreamId::Balance]).await?),
            };
            let from = known.charged_until.get(&meter).map_or(first, |last| first.max(last + 1));
            for (day, units, amount) in self.days(team, meter, from, until).await? {
                let charge = ChargeUsage { meter, day, units, amount };
                let actor = Actor::System("billing");
                let submission = Submission::new(team.clone(), self.allot.now(), actor, "billing", charge);
                let done = self.log.transact(submission).await;
                let done = done.map_err(|error| Error::Refused(team.clone(), error.to_string()))?;
                if let Outcome::Done(appended) = done {
                    made += appended.records.len() as u64;
                }
            }
        }
        Ok(made)
    }

    /// Returns the days of a period that cost something, with their units and what they cost.
    async fn days(&self, team: &TeamId, meter: Meter, from: i64, until: i64) -> Result<Vec<(i64, i64, Nanos)>, Error> {
        if from > until {
            return Ok(vec![]);
        }
        let filter = usage::Filter { meter: Some(meter), ..usage::Filter::days(from, until) };
        let used: BTreeMap<i64, i64> = usage::totals(&self.views, team, &filter)
            .await?
            .into_iter()
            .map(|total| (total.day, total.units))
            .collect();
        let days: Vec<_> = match meter {
            Meter::StoredBytes => {
                let mut stored = usage::carried_into(&self.views, team, meter, from).await?;
                let end_of_day = |day: i64| {
                    stored = stored.saturating_add(used.get(&day).copied().unwrap_or(0));
                    (day, stored, self.prices.storage_of_day(day, stored))
                };
                (from..=until).map(end_of_day).collect()
            }
            _ => used.into_iter().map(|(day, n)| (day, n, self.prices.inbound_message_nanos.times(n))).collect(),
        };
        Ok(days.into_iter().filter(|(.., amount)| amount.0 > 0).collect())
    }
}
