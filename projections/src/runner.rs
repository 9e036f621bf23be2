//! The one task that keeps the views up with every team's log.
//!
//! It visits the teams that moved, one page of events per visit, so that teams take turns. All projections of a team
//! take the page, and their cursors move with the rows in one transaction. *That* a team moved it hears from wake-ups
//! and from a poll of the heads, which alone would do; *what* happened it reads from the log.

mod faults;
pub(crate) mod step;
mod teams;

use std::time::Duration;

use domain::id::{Position, TeamId};
use eventlog::EventLog;
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use crate::db::Tx;
use crate::views::{lock_cursors, move_cursors};
use crate::{Error, Projection, Views};
pub(crate) use faults::Faults;
use step::Step;
use teams::Teams;

/// How many events are applied in one transaction: the more, the fewer times each leaf of an index is written.
const PAGE_EVENTS: usize = 4_000;
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
    log: EventLog,
    views: Views,
    ready: watch::Sender<bool>,
    rest: Duration,
}

/// What a visit to a team came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Visit {
    /// There is more to read.
    More,
    /// Everything that could be applied is.
    Done,
}

impl Runner {
    /// Returns a runner that is not yet running.
    #[must_use]
    pub fn new(log: EventLog, views: Views) -> Self {
        Self { log, views, ready: watch::channel(false).0, rest: REST }
    }

    #[cfg(test)]
    pub(crate) fn resting(self, rest: Duration) -> Self {
        Self { rest, ..self }
    }

    /// Returns whether the views have caught up with where the logs ended when the runner started. Before that they may
    /// be empty, because a projection was new or had changed.
    #[must_use]
    pub fn ready(&self) -> watch::Receiver<bool> {
        self.ready.subscribe()
    }

    /// Follows all teams until it is told to stop; the page at hand is finished first.
    ///
    /// # Errors
    /// The views are not readable at all when it starts. Later failures are waited out.
    pub async fn run(self, stop: CancellationToken) -> Result<(), Error> {
        self.views.begin_epoch(self.log.epoch()).await?;
        let mut hints = self.log.wake().all();
        let mut teams = Teams::default();
        let mut faults = Faults::load(&self.views).await?;
        let mut poll = tokio::time::interval(POLL_EVERY);
        poll.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut back_off = BACK_OFF.0;
        let mut pause: Option<Instant> = None;
        // How many teams are left of those that had moved when the round began, and until when the next is put off.
        let mut round: usize = 0;
        let mut rest: Option<Instant> = None;
        let _running = self.views.running();
        loop {
            let work = pause.is_none() && rest.is_none() && teams.has_next();
            let resume = pause.or_else(|| faults.next_retry(|team| teams.is_queued(team)));
            tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(()),
                hint = hints.next() => match hint {
                    Some((team, head)) => teams.moved(team, head),
                    // Hints were missed: the poll finds whoever moved.
                    None => poll.reset_immediately(),
                },
                _ = poll.tick() => {
                    if let Err(error) = teams.poll(&self.log, &self.views).await {
                        tracing::warn!(%error, "the heads of the logs could not be read; trying again");
                    }
                    if let Err(error) = faults.look_again(&self.views).await {
                        tracing::warn!(%error, "the list of parked views could not be read; trying again");
                    }
                    self.report(&teams);
                }
                () = tokio::time::sleep_until(resume.unwrap_or_else(Instant::now)), if resume.is_some() => {
                    pause = None;
                    faults.due().into_iter().for_each(|team| teams.again(team));
                }
                () = self.views.wanted(), if rest.is_some() => rest = None,
                () = tokio::time::sleep_until(rest.unwrap_or_else(Instant::now)), if rest.is_some() => rest = None,
                () = std::future::ready(()), if work => {
                    if round == 0 {
                        round = teams.waiting();
                    }
                    let Some(team) = teams.next() else { continue };
                    round = round.saturating_sub(1);
                    match self.visit(&team, &mut faults).await {
                        Ok(Visit::More) => teams.again(team),
                        Ok(Visit::Done) => {
                            teams.done(&team);
                            if round == 0 {
                                rest = Some(Instant::now() + self.rest);
                            }
                        }
                        Err(Error::Superseded { projection }) => {
                            tracing::error!(follower.name = projection, "another build owns the views; standing by");
                            stop.cancelled().await;
                            return Ok(());
                        }
                        Err(error) => {
                            tracing::warn!(error = &error as &dyn std::error::Error, "the views cannot be written; trying again");
                            teams.again(team);
                            pause = Some(Instant::now() + back_off);
                            back_off = (back_off * 2).min(BACK_OFF.1);
                            continue;
                        }
                    }
                    back_off = BACK_OFF.0;
                    self.tell_if_ready(&teams);
                }
            }
        }
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

    /// Applies one page to all sound projections of a team, and a little to each that failed and is due again.
    pub(crate) async fn visit(&self, team: &TeamId, faults: &mut Faults) -> Result<Visit, Error> {
        let (sound, due) = faults.split(team, self.views.projections());
        let mut visit = Visit::Done;
        if !sound.is_empty() && self.page(team, &sound, PAGE_EVENTS, faults).await? == Visit::More {
            visit = Visit::More;
        }
        for projection in due {
            // One event at a time finds the one that cannot be folded, and takes those before it.
            if self.page(team, &[projection], 1, faults).await? == Visit::More {
                visit = Visit::More;
            }
        }
        let reached = match faults.has(team) {
            true => self.views.position(team).await?,
            false => return Ok(visit),
        };
        self.views.publish(team, reached);
        Ok(visit)
    }

    /// Applies at most `limit` events to those of the projections that are furthest behind.
    pub(crate) async fn page(
        &self,
        team: &TeamId,
        projections: &[&'static dyn Projection],
        limit: usize,
        faults: &mut Faults,
    ) -> Result<Visit, Error> {
        let mut tx = self.views.db().begin().await?;
        let cursors = lock_cursors(&mut tx, team, self.views.projections()).await?;
        let at = |p: &&'static dyn Projection| cursors.get(p.name()).copied().unwrap_or(0);
        let places = projections.iter().map(|projection| (*projection, at(projection)));
        let Some(step) = Step::next(places, limit) else { return Ok(Visit::Done) };
        let events = match self.log.read(team, step.from, step.limit).await.map_err(Error::from) {
            Ok(events) => events,
            Err(error) if error.is_unavailable() => return Err(error),
            Err(error) => {
                tx.rollback().await?;
                for projection in step.behind {
                    faults.failed(&self.views, team, projection, step.from, limit, &error).await?;
                }
                return Ok(Visit::More);
            }
        };
        let Some(last) = events.last().map(|record| record.position) else {
            tx.commit().await?;
            if !faults.has(team) {
                self.views.publish(team, step.from);
            }
            return Ok(Visit::Done);
        };
        if let Err((projection, error)) = apply_all(&mut tx, team, &step.behind, &events).await {
            drop(tx.rollback().await);
            if error.is_unavailable() {
                return Err(error);
            }
            faults.failed(&self.views, team, projection, step.from, events.len(), &error).await?;
            return Ok(Visit::More);
        }
        move_cursors(&mut tx, team, &step.behind, step.from, last).await?;
        let mended = faults.passed(&mut tx, team, &step.behind, last).await?;
        tx.commit().await?;
        faults.mend(team, &mended);
        if !faults.has(team) {
            self.views.publish(team, step.reached(last));
        }
        Ok(step.rest(events.len(), limit))
    }
}

async fn apply_all(
    tx: &mut Tx<'_>,
    team: &TeamId,
    projections: &[&'static dyn Projection],
    events: &[eventlog::Recorded],
) -> Result<(), (&'static dyn Projection, Error)> {
    for projection in projections {
        projection.apply(tx, team, events).await.map_err(|error| (*projection, error))?;
    }
    Ok(())
}

/// Returns a position as a position after it, for a page of so many events.
pub(crate) fn after_events(position: Position, events: usize) -> Position {
    position.saturating_add(u64::try_from(events).unwrap_or(u64::MAX))
}
