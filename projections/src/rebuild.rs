//! Computing views anew, beside the copy that is read.
//!
//! The events of a team are folded into a shadow: a scratch SQLite file, or a scratch PostgreSQL schema. When it has
//! caught up, one transaction per team locks the cursors, makes the live rows equal to the shadow's, applies what was
//! appended meanwhile and commits. Readers see the old rows until then and the new ones after, a crash at any moment
//! leaves the old ones, and rows that come out as they were are not written at all. While others append, it makes way for
//! them ([`pace`]).

mod pace;
mod shadow;
mod swap;

use std::path::Path;
use std::sync::Arc;

use domain::id::{Position, TeamId};
use eventlog::{EventLog, Recorded};

use crate::db::{Db, Purpose};
use crate::views::note_version;
use crate::{Error, Projection, Views, exec, signed};
use pace::Pace;
use shadow::Shadows;

/// How many events are read at once.
const READ_EVENTS: usize = 4_000;
/// How many events are folded in one transaction of a shadow: it has no readers to wait for it, and what
/// an event makes of an earlier one of the same transaction is never written.
const FOLD_EVENTS: usize = 16_000;
/// The same while others append: they wait for the processor until it is done.
const FOLD_EVENTS_BUSY: usize = 1_000;
/// How many teams are asked for at once.
const TEAMS_MAX: usize = 1_000;
/// After how many events a shadow is emptied: the rows of teams that are done are only in the way.
const SHADOW_EVENTS_MAX: u64 = 1_000_000;

/// How far a rebuild or replay has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Progress {
    /// The team at hand.
    pub team: TeamId,
    /// How many events have been folded, over all teams.
    pub events: u64,
    /// How many there were when it began.
    pub total: u64,
}

/// Computes projections anew from the log, all or one of them, for all teams or one. Returns how many events were folded.
///
/// A [`Runner`](crate::Runner) may go on meanwhile, in this process or another. One rebuild runs at a time.
///
/// # Errors
/// [`Error::UnknownProjection`], [`Error::RebuildRunning`], an event cannot be folded, or a database does not answer. What
/// was not finished is as it was.
pub async fn rebuild(
    views: &Views,
    log: &EventLog,
    projection: Option<&str>,
    team: Option<&TeamId>,
    mut progress: impl FnMut(&Progress),
) -> Result<u64, Error> {
    let projections = chosen(views, projection)?;
    let teams = match team {
        Some(team) => vec![team.clone()],
        None => all_teams(log).await?,
    };
    let mut total = 0;
    for team in &teams {
        total += log.head(team).await?.position;
    }
    let mut guard = shadow::Guard::take(views).await?;
    let pace = Arc::new(Pace::begin(log).await);
    let mut shadows = Shadows::open(views, &projections).await?;
    let mut in_shadow = 0;
    let mut events = 0;
    for team in &teams {
        if in_shadow >= SHADOW_EVENTS_MAX {
            shadows.discard().await?;
            shadows = Shadows::open(views, &projections).await?;
            in_shadow = 0;
        }
        let reached = build(&shadows, log, &pace, team, Position::MAX, |reached| {
            progress(&Progress { team: team.clone(), events: events + reached, total: total.max(events + reached) });
        })
        .await?;
        guard.check()?;
        swap::swap(views, log, &shadows, team, reached).await?;
        events += reached;
        in_shadow += reached;
        if let Ok(position) = views.position(team).await {
            views.publish(team, position);
        }
    }
    shadows.discard().await?;
    guard.release().await;
    Ok(events)
}

/// Writes the views of a team as they were after the event at a position into a new SQLite file. Returns the number of
/// events folded, which is that position.
///
/// # Errors
/// The file exists, the log ends before the position, an event cannot be folded, or the log does not answer.
pub async fn replay(
    log: &EventLog,
    team: &TeamId,
    until: Position,
    out: &Path,
    mut progress: impl FnMut(&Progress),
) -> Result<u64, Error> {
    let head = log.head(team).await?.position;
    if until > head {
        return Err(Error::BeyondHead { wanted: until, head });
    }
    let file = |source| Error::File { path: out.to_owned(), source };
    // Created here, so that a file that is there already is never written into.
    std::fs::File::create_new(out).map_err(file)?;
    let db = Db::open_sqlite(out, Purpose::Scratch).await?;
    let shadows = Shadows::over(db.clone(), crate::ALL).await?;
    let pace = Arc::new(Pace::begin(log).await);
    let reached = build(&shadows, log, &pace, team, until, |events| {
        progress(&Progress { team: team.clone(), events, total: until });
    })
    .await?;
    let mut tx = db.begin().await?;
    for projection in crate::ALL {
        Db::script(&mut tx, shadow::indexes(projection.schema())).await?;
        note_version(&mut tx, *projection).await?;
        exec!(
            tx,
            "INSERT INTO cursors (team_id, projection, position) VALUES ($1, $2, $3)",
            team.as_str(),
            projection.name(),
            signed(reached)
        )?;
    }
    tx.commit().await?;
    db.close().await;
    Ok(reached)
}

fn chosen(views: &Views, projection: Option<&str>) -> Result<Vec<&'static dyn Projection>, Error> {
    let all = views.projections();
    let Some(name) = projection else { return Ok(all.to_vec()) };
    let found: Vec<_> = all.iter().copied().filter(|p| p.name() == name).collect();
    if found.is_empty() { Err(Error::UnknownProjection(name.to_owned())) } else { Ok(found) }
}

async fn all_teams(log: &EventLog) -> Result<Vec<TeamId>, Error> {
    let mut teams: Vec<TeamId> = vec![];
    loop {
        let page = log.teams(teams.last(), TEAMS_MAX).await?;
        let is_last = page.len() < TEAMS_MAX;
        teams.extend(page);
        if is_last {
            return Ok(teams);
        }
    }
}

/// Folds a team's events up to a position, or to the end of its log, into the shadows. Returns the last position.
async fn build(
    shadows: &Shadows,
    log: &EventLog,
    pace: &Arc<Pace>,
    team: &TeamId,
    until: Position,
    mut progress: impl FnMut(Position),
) -> Result<Position, Error> {
    let mut folding = shadows.folding(team, pace);
    let mut reached: Position = 0;
    let head = log.head(team).await?.position;
    loop {
        pace.hurry(reached >= head);
        let room = if pace.is_busy().await { FOLD_EVENTS_BUSY } else { FOLD_EVENTS };
        let mut events: Vec<Recorded> = Vec::with_capacity(room);
        while events.len() < room {
            let left = usize::try_from(until - reached).unwrap_or(READ_EVENTS);
            let page = log.read(team, reached, left.min(READ_EVENTS).min(room)).await?;
            let Some(last) = page.last() else { break };
            reached = last.position;
            events.extend(page);
        }
        let is_last = events.len() < room;
        if !events.is_empty() && !folding.send(Arc::new(events)).await {
            // Somebody stopped taking: the reason comes out below.
            break;
        }
        progress(reached);
        if is_last {
            break;
        }
    }
    folding.finish().await?;
    Ok(reached)
}
