//! What is erased from the log is erased from the views.
//!
//! An erasure takes personal halves away from events that were folded long ago, so no new event tells of it. The log
//! counts the erasures of each team; the views remember at which count a team's rows were made, and a team whose
//! numbers differ is computed anew beside the copy that is read, then swapped ([`crate::rebuild()`]).
//!
//! The number is read before the rebuild: an erasure in the middle of one makes the numbers differ again.

use std::collections::HashMap;
use std::time::Duration;

use domain::id::TeamId;
use eventlog::EventLog;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use crate::{Error, Views, exec, fetch_all, rebuild};

/// How often the log is asked for erasures.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How many teams are asked for at once.
const TEAMS_MAX: usize = 1_000;

/// Follows the erasures of all teams until it is told to stop, whenever it is this node's duty. A look that fails is tried
/// again.
pub async fn follow(views: Views, log: EventLog, is_duty: impl Fn() -> bool, stop: CancellationToken) {
    let mut look = tokio::time::interval(LOOK_EVERY);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // One page a look: a second costs the same, of however many teams something was ever erased.
    let mut after: Option<TeamId> = None;
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = look.tick() => {}
        }
        if !is_duty() {
            continue;
        }
        let looked = tokio::select! {
            // What a rebuild that is cut off here has left is dropped by the next one.
            () = stop.cancelled() => return,
            looked = look_at(&views, &log, after.as_ref()) => looked,
        };
        match looked {
            Ok((_, next)) => after = next,
            Err(Error::RebuildRunning) => {}
            Err(error) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "erased data is still in views; trying again");
            }
        }
    }
}

/// Computes the views anew of every team of which something was erased since they were made. Returns how many teams
/// those were.
///
/// # Errors
/// [`Error::RebuildRunning`], or a database does not answer. What was not finished is noticed again.
pub async fn catch_up(views: &Views, log: &EventLog) -> Result<u64, Error> {
    let mut after: Option<TeamId> = None;
    let mut teams = 0;
    loop {
        let (done, next) = look_at(views, log, after.as_ref()).await?;
        teams += done;
        after = next;
        if after.is_none() {
            return Ok(teams);
        }
    }
}

/// Looks at a page of teams, after a given one. Returns how many were computed anew, and where the next page begins.
async fn look_at(views: &Views, log: &EventLog, after: Option<&TeamId>) -> Result<(u64, Option<TeamId>), Error> {
    let page = log.erasures(after, TEAMS_MAX).await?;
    let Some((last, _)) = page.last() else { return Ok((0, None)) };
    let seen = seen(views, after, last).await?;
    let next = (page.len() >= TEAMS_MAX).then(|| last.clone());
    let mut teams = 0;
    for (team, erasures) in page {
        if seen.get(team.as_str()) == Some(&erasures) {
            continue;
        }
        log.note_erased(&team);
        rebuild(views, log, None, Some(&team), |_| {}).await?;
        note(views, &team, erasures).await?;
        tracing::info!(team.id = %team, "what was erased from the log is gone from the views");
        teams += 1;
    }
    Ok((teams, next))
}

/// Returns at which counts the rows were made of the teams behind one and up to another. Who is looked at every second
/// is every team something was ever erased of, so a page of them is one question.
async fn seen(views: &Views, after: Option<&TeamId>, last: &TeamId) -> Result<HashMap<String, i64>, Error> {
    let mut reader = views.read().await?;
    let rows = fetch_all!(
        reader,
        (String, i64),
        "SELECT team_id, seen FROM erasures WHERE team_id > $1 AND team_id <= $2",
        after.map_or("", TeamId::as_str),
        last.as_str()
    )?;
    Ok(rows.into_iter().collect())
}

async fn note(views: &Views, team: &TeamId, erasures: i64) -> Result<(), Error> {
    let mut tx = views.db().begin().await?;
    exec!(
        tx,
        "INSERT INTO erasures (team_id, seen) VALUES ($1, $2)
         ON CONFLICT (team_id) DO UPDATE SET seen = excluded.seen",
        team.as_str(),
        erasures
    )?;
    tx.commit().await
}
