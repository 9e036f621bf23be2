//! Projections that cannot go on for a team.
//!
//! A projection that fails is left behind while the others go on. It is tried again, event by event, so that it comes
//! as far as it can; at the event it cannot take it is tried five times and then parked: listed with its error,
//! counted in a gauge, tried again when the runner starts next. Nothing is ever skipped.

use std::collections::HashMap;
use std::time::Duration;

use domain::id::{Position, TeamId};
use tokio::time::Instant;

use super::after_events;
use crate::db::Tx;
use crate::{Error, Projection, Views, exec, signed};

/// How often an event is tried before its projection is parked.
const TRIES_MAX: u32 = 5;
/// How long to wait before the second try; doubles each time.
const RETRY_AFTER: Duration = Duration::from_millis(20);
/// How many characters of an error are kept.
const ERROR_CHARS_MAX: usize = 2_000;

#[derive(Debug)]
struct Fault {
    /// Where it failed first: up to here it goes one event at a time.
    until: Position,
    /// The event it cannot take is behind this position.
    position: Position,
    /// How often that one was tried.
    tries: u32,
    /// When it is tried again; `None` when it is parked.
    retry: Option<Instant>,
    /// Whether there is a row that lists it.
    is_listed: bool,
}

/// The projections of one team that cannot go on.
#[derive(Debug, Default)]
pub(crate) struct TeamFaults {
    projections: HashMap<&'static str, Fault>,
}

/// All projections that cannot go on, by team. Those of a team that is being visited are with the visit.
#[derive(Debug, Default)]
pub(super) struct Faults {
    teams: HashMap<TeamId, TeamFaults>,
}

impl Faults {
    /// Returns the projections that were parked, each with a new chance.
    pub(super) async fn load(views: &Views) -> Result<Self, Error> {
        let mut faults = Self::default();
        for parked in views.parked().await? {
            let Some(projection) = views.projections().iter().find(|p| p.name() == parked.projection) else { continue };
            let fault = Fault {
                until: after_events(parked.position, 1),
                position: parked.position,
                tries: 0,
                retry: Some(Instant::now()),
                is_listed: true,
            };
            faults.teams.entry(parked.team).or_default().projections.insert(projection.name(), fault);
        }
        faults.gauge();
        Ok(faults)
    }

    /// Takes out those of a team, for a visit.
    pub(super) fn take(&mut self, team: &TeamId) -> TeamFaults {
        self.teams.remove(team).unwrap_or_default()
    }

    /// Takes back those of a team after a visit that began with so many of them.
    pub(super) fn put_back(&mut self, team: &TeamId, faults: TeamFaults, had: usize) {
        let has = faults.projections.len();
        if has > 0 {
            self.teams.insert(team.clone(), faults);
        }
        if had + has > 0 {
            self.gauge();
        }
    }

    /// Returns when the next try is due, of teams that are not about to be visited anyway.
    pub(super) fn next_retry(&self, is_queued: impl Fn(&TeamId) -> bool) -> Option<Instant> {
        let waiting = self.teams.iter().filter(|(team, _)| !is_queued(team));
        waiting.flat_map(|(_, faults)| faults.projections.values()).filter_map(|fault| fault.retry).min()
    }

    /// Gives another chance to those that somebody took off the list: a rebuild, or an operator.
    pub(super) async fn look_again(&mut self, views: &Views) -> Result<(), Error> {
        let mut all = self.teams.values().flat_map(|faults| faults.projections.values());
        if all.all(|fault| fault.retry.is_some()) {
            return Ok(());
        }
        let listed = views.parked().await?;
        for (team, faults) in &mut self.teams {
            for (name, fault) in &mut faults.projections {
                let is_listed = listed.iter().any(|parked| parked.team == *team && parked.projection == *name);
                if fault.retry.is_none() && !is_listed {
                    (fault.retry, fault.tries, fault.is_listed) = (Some(Instant::now()), 0, false);
                }
            }
        }
        Ok(())
    }

    /// Returns the teams with a try that is due.
    pub(super) fn due(&mut self) -> Vec<TeamId> {
        let now = Instant::now();
        let due = |faults: &TeamFaults| faults.projections.values().any(|f| f.retry.is_some_and(|retry| retry <= now));
        self.teams.iter().filter(|(_, faults)| due(faults)).map(|(team, _)| team.clone()).collect()
    }

    fn gauge(&self) {
        let mut counts: HashMap<&'static str, u32> = HashMap::new();
        for (name, fault) in self.teams.values().flat_map(|faults| &faults.projections) {
            *counts.entry(name).or_default() += u32::from(fault.retry.is_none());
        }
        for projection in crate::ALL {
            let parked = counts.get(projection.name()).copied().unwrap_or(0);
            metrics::gauge!("follower_parked", "follower" => projection.name()).set(f64::from(parked));
        }
    }
}

impl TeamFaults {
    pub(crate) fn is_empty(&self) -> bool {
        self.projections.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.projections.len()
    }

    /// Returns the projections that are sound, and those that failed and may be tried now.
    pub(super) fn split(
        &self,
        projections: &[&'static dyn Projection],
    ) -> (Vec<&'static dyn Projection>, Vec<&'static dyn Projection>) {
        let now = Instant::now();
        let (faulty, sound): (Vec<_>, Vec<_>) =
            projections.iter().copied().partition(|p| self.projections.contains_key(p.name()));
        let is_due = |p: &&'static dyn Projection| {
            self.projections.get(p.name()).is_some_and(|fault| fault.retry.is_some_and(|retry| retry <= now))
        };
        (sound, faulty.into_iter().filter(is_due).collect())
    }

    /// Notes that a projection could not take a page of events behind a position.
    pub(super) async fn failed(
        &mut self,
        views: &Views,
        team: &TeamId,
        projection: &'static dyn Projection,
        position: Position,
        events: usize,
        error: &Error,
    ) -> Result<(), Error> {
        let name = projection.name();
        let fresh =
            || Fault { until: after_events(position, events), position, tries: 0, retry: None, is_listed: false };
        let fault = self.projections.entry(name).or_insert_with(fresh);
        if events > 1 {
            // Some event of many: which one, the next tries find out.
            fault.retry = Some(Instant::now());
            return Ok(());
        }
        if fault.position != position {
            (fault.position, fault.tries) = (position, 0);
        }
        fault.tries += 1;
        if fault.tries < TRIES_MAX {
            fault.retry = Some(Instant::now() + RETRY_AFTER * 2_u32.pow(fault.tries - 1));
            return Ok(());
        }
        fault.retry = None;
        fault.is_listed = true;
        let tries = fault.tries;
        let text = chain(error);
        tracing::error!(
            follower.name = name, team.id = %team, log.position = position + 1, error = text,
            "an event cannot be folded; this view stands still for this team",
        );
        let mut tx = views.db().begin().await?;
        exec!(
            tx,
            "INSERT INTO parked (team_id, projection, position, tries, error) VALUES ($1, $2, $3, $4, $5)
             ON CONFLICT (team_id, projection) DO UPDATE
             SET position = excluded.position, tries = excluded.tries, error = excluded.error",
            team.as_str(),
            name,
            signed(position),
            i64::from(tries),
            text.as_str()
        )?;
        tx.commit().await
    }

    /// Notes that projections took everything up to a position; returns which of them are sound again. Their rows in the
    /// list go with the transaction that proves it.
    pub(super) async fn passed(
        &self,
        tx: &mut Tx<'_>,
        team: &TeamId,
        projections: &[&'static dyn Projection],
        position: Position,
    ) -> Result<Vec<&'static str>, Error> {
        let mut mended = vec![];
        for projection in projections {
            let Some(fault) = self.projections.get(projection.name()) else { continue };
            if fault.is_listed {
                let (team, name) = (team.as_str(), projection.name());
                exec!(tx, "DELETE FROM parked WHERE team_id = $1 AND projection = $2", team, name)?;
            }
            if position >= fault.until {
                mended.push(projection.name());
            }
        }
        Ok(mended)
    }

    /// Forgets faults whose end is now lasting.
    pub(super) fn mend(&mut self, mended: &[&'static str]) {
        self.projections.retain(|name, _| !mended.contains(name));
    }
}

/// An error and its causes in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text.chars().filter(|c| *c != '\0').take(ERROR_CHARS_MAX).collect()
}
