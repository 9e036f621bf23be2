//! The one task that keeps the views up with every team's log.
//!
//! It visits the teams that moved, one page of events per visit, so that teams take turns. On PostgreSQL several teams are
//! visited side by side, each by a task of its own: a visit there is mostly waiting, for answers or for another node that has
//! the team. All projections of a team take the page, and their cursors move with the rows in one transaction. *That* a team
//! moved it hears from wake-ups and from a poll of the heads, which alone would do; *what* happened it reads from the log.
//! Where several nodes keep up the same rows, whoever appended goes first, and the others look whether it is done.

mod apply;
mod faults;
pub(crate) mod step;
mod teams;

use std::time::Duration;

use domain::id::{Position, TeamId};
use eventlog::{EventLog, Hint};
use tokio::sync::watch;
use tokio::task::{JoinError, JoinSet};
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use crate::db::Engine;
use crate::{Error, Views};
pub(crate) use apply::Applier;
pub use apply::Visit;
use faults::Faults;
pub(crate) use faults::TeamFaults;
use teams::Teams;

/// How many teams are visited at once where several may write. SQLite has one writer.
const VISITS_MAX: usize = 4;
/// How often the heads are asked for.
const POLL_EVERY: Duration = Duration::from_secs(1);
/// How long to rest once every team that had moved was visited: a page costs its statements, however few events it has,
/// so one that takes up what 20 ms brought costs a fraction of many that take up one append each. Somebody who waits
/// ends the rest, so that nobody waits longer for it.
const REST: Duration = Duration::from_millis(20);
/// How long to wait before trying again when a database does not answer; doubles up to the second.
const BACK_OFF: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(5));

/// Follows all teams. See the module.
#[derive(Debug)]
pub struct Runner {
    applier: Applier,
    ready: watch::Sender<bool>,
    rest: Duration,
}

/// A visit that has ended.
#[derive(Debug)]
struct Visited {
    team: TeamId,
    faults: TeamFaults,
    /// How many projections could not go on when it began.
    had_faults: usize,
    outcome: Result<Visit, Error>,
}

/// Where a running runner stands.
#[derive(Debug)]
struct Following {
    teams: Teams,
    faults: Faults,
    visits: JoinSet<Visited>,
    visits_max: usize,
    /// Until when nobody is visited, because a database did not answer.
    pause: Option<Instant>,
    back_off: Duration,
    /// How many teams are left of those that had moved when the round began.
    round: usize,
    /// Until when the next round is put off.
    rest: Option<Instant>,
}

impl Runner {
    /// Returns a runner that is not yet running.
    #[must_use]
    pub fn new(log: EventLog, views: Views) -> Self {
        Self { applier: Applier { log, views }, ready: watch::channel(false).0, rest: REST }
    }

    #[cfg(test)]
    pub(crate) fn resting(self, rest: Duration) -> Self {
        Self { rest, ..self }
    }

    /// Returns what applies single pages.
    #[cfg(test)]
    pub(crate) fn applier(&self) -> &Applier {
        &self.applier
    }

    /// Returns whether the views have caught up with where the logs ended when the runner started. Before that they may
    /// be empty, because a projection was new or had changed.
    #[must_use]
    pub fn ready(&self) -> watch::Receiver<bool> {
        self.ready.subscribe()
    }

    /// Follows all teams until it is told to stop; the pages at hand are finished first.
    ///
    /// # Errors
    /// The views are not readable at all when it starts. Later failures are waited out.
    pub async fn run(self, stop: CancellationToken) -> Result<(), Error> {
        let Applier { log, views } = self.applier.clone();
        views.begin_epoch(log.epoch()).await?;
        let mut hints = log.wake().all();
        let mut following = Following::new(Faults::load(&views).await?, views.db().engine());
        let mut poll = tokio::time::interval(POLL_EVERY);
        poll.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let _running = views.running();
        loop {
            let Following { pause, rest, .. } = following;
            let resume = pause.or_else(|| following.next_retry());
            let look = following.teams.next_look();
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                hint = hints.next() => match hint {
                    Some(Hint { team, head, is_own: true }) => following.teams.moved(team, head),
                    Some(Hint { team, head, is_own: false }) => following.teams.found(team, head),
                    // Hints were missed: the poll finds whoever moved.
                    None => poll.reset_immediately(),
                },
                _ = poll.tick() => {
                    following.look_around(&log, &views).await;
                    self.report(&following.teams);
                }
                () = tokio::time::sleep_until(resume.unwrap_or_else(Instant::now)), if resume.is_some() => {
                    following.resume();
                }
                () = tokio::time::sleep_until(look.unwrap_or_else(Instant::now)), if look.is_some() => following.teams.look(),
                Some(visited) = following.visits.join_next() => {
                    if let Err(Error::Superseded { projection }) = following.finished(visited, self.rest) {
                        tracing::error!(follower.name = projection, "another build owns the views; standing by");
                        stop.cancelled().await;
                        break;
                    }
                    self.tell_if_ready(&following.teams);
                }
                () = views.wanted(), if rest.is_some() => following.rest = None,
                () = tokio::time::sleep_until(rest.unwrap_or_else(Instant::now)), if rest.is_some() => following.rest = None,
                () = std::future::ready(()), if following.has_work() => following.visit_next(&self.applier),
            }
        }
        while following.visits.join_next().await.is_some() {}
        Ok(())
    }

    fn tell_if_ready(&self, teams: &Teams) {
        if teams.have_caught_up() {
            self.ready.send_if_modified(|ready| !std::mem::replace(ready, true));
        }
    }

    fn report(&self, teams: &Teams) {
        self.tell_if_ready(teams);
        #[expect(clippy::cast_precision_loss, reason = "a gauge of a backlog needs no 53 bits")]
        metrics::gauge!("follower_lag_events", "follower" => "projections").set(teams.lag_events() as f64);
    }
}

impl Following {
    fn new(faults: Faults, engine: Engine) -> Self {
        Self {
            teams: Teams::default(),
            faults,
            visits: JoinSet::new(),
            visits_max: engine.pick(1, VISITS_MAX),
            pause: None,
            back_off: BACK_OFF.0,
            round: 0,
            rest: None,
        }
    }

    /// Asks who moved, and whether somebody took a parked view off the list.
    async fn look_around(&mut self, log: &EventLog, views: &Views) {
        if let Err(error) = self.teams.poll(log, views).await {
            tracing::warn!(%error, "the heads of the logs could not be read; trying again");
        }
        if let Err(error) = self.faults.look_again(views).await {
            tracing::warn!(%error, "the list of parked views could not be read; trying again");
        }
    }

    fn next_retry(&self) -> Option<Instant> {
        self.faults.next_retry(|team| self.teams.is_queued(team))
    }

    fn resume(&mut self) {
        self.pause = None;
        self.faults.due().into_iter().for_each(|team| self.teams.again(team));
    }

    fn has_work(&self) -> bool {
        let may = self.pause.is_none() && self.rest.is_none() && self.visits.len() < self.visits_max;
        may && self.teams.has_next()
    }

    fn visit_next(&mut self, applier: &Applier) {
        if self.round == 0 {
            self.round = self.teams.waiting();
        }
        let Some((team, doubt)) = self.teams.next() else { return };
        self.round = self.round.saturating_sub(1);
        let mut faults = self.faults.take(&team);
        let (applier, had_faults) = (applier.clone(), faults.len());
        self.visits.spawn(async move {
            let outcome = applier.visit(&team, doubt, &mut faults).await;
            Visited { team, faults, had_faults, outcome }
        });
    }

    /// Takes up what a visit came to.
    ///
    /// # Errors
    /// The views belong to another build. What else goes wrong is waited out.
    fn finished(&mut self, visited: Result<Visited, JoinError>, rest: Duration) -> Result<(), Error> {
        let Visited { team, faults, had_faults, outcome } = match visited {
            Ok(visited) => visited,
            // Nobody aborts a visit.
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        };
        self.faults.put_back(&team, faults, had_faults);
        self.teams.left(&team);
        match outcome {
            Ok(Visit::More) => self.teams.again(team),
            Ok(Visit::Done) => {
                self.teams.done(&team);
                if self.round == 0 {
                    self.rest = Some(Instant::now() + rest);
                }
            }
            Err(error @ Error::Superseded { .. }) => return Err(error),
            Err(error) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "the views cannot be written; trying again");
                self.teams.again(team);
                if self.pause.is_none() {
                    self.pause = Some(Instant::now() + self.back_off);
                    self.back_off = (self.back_off * 2).min(BACK_OFF.1);
                }
                return Ok(());
            }
        }
        self.back_off = BACK_OFF.0;
        Ok(())
    }
}

/// Returns a position as a position after it, for a page of so many events.
pub(crate) fn after_events(position: Position, events: usize) -> Position {
    position.saturating_add(u64::try_from(events).unwrap_or(u64::MAX))
}
