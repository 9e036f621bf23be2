//! Which teams' rows are not as new as their logs: a walk over all teams in pages, for whoever may have missed something.

use std::collections::HashMap;

use domain::id::{Position, TeamId};
use eventlog::EventLog;

use crate::{Error, Views, fetch_all};

/// A page of the walk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Behind {
    /// Teams with a projection that has not reached the end of their log, and where that is.
    pub teams: Vec<(TeamId, Position)>,
    /// Behind which team the next page begins; `None` at the end.
    pub next: Option<TeamId>,
}

/// Looks at the next `limit` teams in the order of their ids, after a given one.
///
/// # Errors
/// A database does not answer.
pub async fn behind(views: &Views, log: &EventLog, after: Option<&TeamId>, limit: usize) -> Result<Behind, Error> {
    let ids = log.teams(after, limit).await?;
    let Some(last) = ids.last() else { return Ok(Behind { teams: vec![], next: None }) };
    let heads = log.heads_of(&ids).await?;
    let mut reader = views.read().await?;
    let cursors = fetch_all!(
        reader,
        (String, i64, i64),
        "SELECT team_id, MIN(position), CAST(COUNT(*) AS BIGINT) FROM cursors WHERE team_id > $1 AND team_id <= $2
         GROUP BY team_id",
        after.map_or("", TeamId::as_str),
        last.as_str()
    )?;
    let cursors: HashMap<String, (i64, i64)> = cursors.into_iter().map(|(team, at, n)| (team, (at, n))).collect();
    let projections = i64::try_from(views.projections().len()).unwrap_or(i64::MAX);
    let reached =
        |team: &TeamId| cursors.get(team.as_str()).filter(|(_, n)| *n >= projections).map_or(0, |(at, _)| *at);
    let is_behind = |team: &TeamId, head: Position| u64::try_from(reached(team)).unwrap_or(0) < head;
    let teams = heads.into_iter().filter(|(team, head)| is_behind(team, head.position));
    let teams = teams.map(|(team, head)| (team, head.position)).collect();
    Ok(Behind { teams, next: (ids.len() >= limit).then(|| last.clone()) })
}
