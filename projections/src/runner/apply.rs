//! One visit to a team: a page of its log into its views.

use domain::id::{Position, TeamId};
use eventlog::EventLog;

use super::faults::TeamFaults;
use super::step::Step;
use crate::db::Tx;
use crate::views::{lock_cursors, move_cursors};
use crate::{Error, Projection, Views};

/// How many events are applied in one transaction: the more, the fewer times each leaf of an index is written.
const PAGE_EVENTS: usize = 4_000;

/// What a visit to a team came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Visit {
    /// There is more to read.
    More,
    /// Everything that could be applied is.
    Done,
}

/// Applies pages of a team's log to its views. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Applier {
    pub(super) log: EventLog,
    pub(super) views: Views,
}

impl Applier {
    /// Applies one page to all sound projections of a team, and a little to each that failed and is due again. Where its log
    /// ends is given if somebody else may have brought the rows there, which a look without a lock tells.
    pub(crate) async fn visit(
        &self,
        team: &TeamId,
        doubt: Option<Position>,
        faults: &mut TeamFaults,
    ) -> Result<Visit, Error> {
        if let Some(head) = doubt.filter(|_| faults.is_empty()) {
            let at = self.views.position(team).await?;
            self.views.publish(team, at);
            if at >= head {
                return Ok(Visit::Done);
            }
        }
        let (sound, due) = faults.split(self.views.projections());
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
        if !faults.is_empty() {
            self.views.publish(team, self.views.position(team).await?);
        }
        Ok(visit)
    }

    /// Applies at most `limit` events to those of the projections that are furthest behind.
    pub(crate) async fn page(
        &self,
        team: &TeamId,
        projections: &[&'static dyn Projection],
        limit: usize,
        faults: &mut TeamFaults,
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
            if faults.is_empty() {
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
        faults.mend(&mended);
        if faults.is_empty() {
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
