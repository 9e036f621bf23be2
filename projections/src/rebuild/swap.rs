//! Making the live rows of one team equal to a shadow's, in one transaction.

use domain::id::{Position, TeamId};
use eventlog::EventLog;
use sqlx::{AssertSqlSafe, Connection as _};

use super::READ_EVENTS;
use super::shadow::{Shadow, Shadows, attach, detach, simulated, spelled};
use crate::db::{Connection, Db, Tx};
use crate::views::lock_cursors;
use crate::{Error, Projection, Table, Views, exec, signed};

/// Swaps a team's rows for the shadows', which have folded everything up to a position.
pub(super) async fn swap(
    views: &Views,
    log: &EventLog,
    shadows: &Shadows,
    team: &TeamId,
    reached: Position,
) -> Result<(), Error> {
    match views.db() {
        Db::Sqlite { writer, .. } => {
            let mut connection = writer.acquire().await?;
            attach(Connection::Sqlite(&mut connection), shadows).await?;
            let swapped = async {
                let tx = Tx::Sqlite(connection.begin_with("BEGIN IMMEDIATE").await?);
                within(tx, views, log, shadows, team, reached).await
            }
            .await;
            if detach(Connection::Sqlite(&mut connection), shadows).await.is_err() {
                // A connection that still sees a shadow must not be used again.
                connection.close().await?;
            }
            swapped
        }
        Db::Postgres { .. } | Db::Held(_) => {
            within(views.db().begin().await?, views, log, shadows, team, reached).await
        }
    }
}

async fn within(
    mut tx: Tx<'_>,
    views: &Views,
    log: &EventLog,
    shadows: &Shadows,
    team: &TeamId,
    reached: Position,
) -> Result<(), Error> {
    let cursors = lock_cursors(&mut tx, team, views.projections()).await?;
    for shadow in &shadows.list {
        for projection in &shadow.projections {
            for table in projection.tables() {
                make_equal(&mut tx, views.db(), shadow, table, team).await?;
            }
            let live = cursors.get(projection.name()).copied().unwrap_or(0);
            catch_up(&mut tx, log, *projection, team, reached, live).await?;
            exec!(
                tx,
                "UPDATE cursors SET position = $1 WHERE team_id = $2 AND projection = $3",
                signed(reached.max(live)),
                team.as_str(),
                projection.name()
            )?;
            // What could not be folded before has been folded now.
            exec!(
                tx,
                "DELETE FROM parked WHERE team_id = $1 AND projection = $2 AND position < $3",
                team.as_str(),
                projection.name(),
                signed(reached.max(live))
            )?;
        }
    }
    tx.commit().await
}

/// Applies what was appended between the shadow's end and the live cursor.
async fn catch_up(
    tx: &mut Tx<'_>,
    log: &EventLog,
    projection: &dyn Projection,
    team: &TeamId,
    mut reached: Position,
    live: Position,
) -> Result<(), Error> {
    while reached < live {
        let limit = usize::try_from(live - reached).unwrap_or(READ_EVENTS).min(READ_EVENTS);
        let events = log.read(team, reached, limit).await?;
        let Some(last) = events.last().map(|record| record.position) else { break };
        projection.apply(tx, team, &events).await?;
        reached = last;
    }
    Ok(())
}

/// Drops the live rows that the shadow does not have just so, then copies those that are missing: none, if there are as
/// many as in the shadow.
async fn make_equal(tx: &mut Tx<'_>, live: &Db, shadow: &Shadow, table: &Table, team: &TeamId) -> Result<(), Error> {
    let (live, shadow) = spelled(live, shadow, table.name);
    let same = |columns: &[(&'static str, crate::table::Kind)], equal: &str| {
        columns.iter().map(|(name, _)| format!(" AND s.{name} {equal} t.{name}")).collect::<String>()
    };
    let key = same(table.key, "=");
    let drop = format!(
        "DELETE FROM {live} AS t WHERE t.team_id = $1 AND NOT EXISTS
         (SELECT 1 FROM {shadow} AS s WHERE s.team_id = t.team_id{key}{})",
        same(table.rest, "IS NOT DISTINCT FROM"),
    );
    let columns = table.column_list();
    let copy = format!(
        "INSERT INTO {live} (team_id, {columns})
         SELECT team_id, {columns} FROM {shadow} AS s
         WHERE s.team_id = $1
         AND (SELECT COUNT(*) FROM {live} WHERE team_id = $1) < (SELECT COUNT(*) FROM {shadow} WHERE team_id = $1)
         AND NOT EXISTS
         (SELECT 1 FROM {live} AS t WHERE t.team_id = s.team_id{key})"
    );
    for sql in [drop, copy] {
        // Not kept: on SQLite a kept statement would name a database that is detached again.
        match tx.connection() {
            Connection::Sqlite(c) => {
                sqlx::query(AssertSqlSafe(sql)).persistent(false).bind(team.as_str()).execute(&mut *c).await?;
            }
            Connection::Postgres(c, answering) => {
                let query = sqlx::query(AssertSqlSafe(sql)).persistent(false).bind(team.as_str());
                answering.guard(query.execute(&mut *c)).await?;
            }
            Connection::Held(_) => return Err(simulated()),
        }
    }
    Ok(())
}
