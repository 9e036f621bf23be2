//! A team's move from one cell to another.
//!
//! The log is copied while the team goes on, the copy is verified, then the head is frozen where it is (appends are refused
//! with "try again"), what came meanwhile is copied and verified too, and the team is said to live in the other cell.
//! Read models, leases and cursors lie at home and name positions, which stay what they are. What is left behind is
//! dropped when every node has heard of the move.
//!
//! Whatever it is cut off at, calling it again goes on from there: home notes that it has begun, copies are made by key,
//! and where the team lives changes in one transaction.

use std::collections::BTreeSet;
use std::time::Duration;

use domain::id::{Position, TeamId};
use futures_util::TryStreamExt as _;
use sqlx::PgPool;

use super::cells::CellsBackend;
use crate::backend::{Backend as _, Head, StoreError};
use crate::chain::{Broken, Verifier};
use crate::rows::signed;

/// How many rows travel at a time, and how many bytes of them.
const ROWS_MAX: usize = 500;
const BYTES_MAX: usize = 4 << 20;
/// How many bodies are compared by name at a time, and how many travel together.
const BODIES_MAX: i64 = 10_000;
const BODIES_TOGETHER: usize = 32;
/// How many records are verified at a time.
const PAGE: usize = 1_000;

/// Why a team could not be moved. Calling again goes on where it ended.
#[derive(Debug, thiserror::Error)]
pub enum MoveError {
    /// There is no cell of that name.
    #[error("there is no cell {0}")]
    UnknownCell(String),
    /// There is no such team.
    #[error("there is no such team")]
    UnknownTeam,
    /// A move to another cell has begun and not ended.
    #[error("the team is on its way to {0}: finish that move, or take it back")]
    OnItsWay(String),
    /// There is nothing to take back.
    #[error("the team is not on its way anywhere, or has arrived")]
    NotOnItsWay,
    /// The copy is not what was written.
    #[error("the copy is not what was written")]
    Broken(#[from] Broken),
    /// The copy is not whole.
    #[error("{table}: {source_rows} rows became {target_rows}")]
    NotWhole {
        /// The table.
        table: &'static str,
        /// How many rows there were.
        source_rows: i64,
        /// How many there are.
        target_rows: i64,
    },
    /// A cell does not answer.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A cell does not answer.
    #[error("a cell does not answer")]
    Database(#[from] sqlx::Error),
}

/// How far a move has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// The log up to a position is in the other cell, and verified there.
    Copied(Position),
    /// The team's head is frozen.
    Frozen(Position),
    /// The team lives in the other cell.
    Switched(Position),
    /// Nothing is left where it lived before.
    Dropped,
}

/// A table of a team's log: how its rows are read, written elsewhere, counted and dropped.
struct Table {
    name: &'static str,
    read: &'static str,
    write: &'static str,
    count: &'static str,
    drop: &'static str,
}

const EVENTS: Table = Table {
    name: "events",
    read: "SELECT to_jsonb(t)::text FROM log.events t WHERE t.team_id = $1 AND t.position > $2 ORDER BY t.position",
    write: "INSERT INTO log.events (team_id, position, epoch, stream, stream_version, name, version, facts, personal_digest,
                                    actor, causation, correlation, at, hash)
            SELECT team_id, position, epoch, stream, stream_version, name, version, facts, personal_digest,
                   actor, causation, correlation, at, hash
            FROM jsonb_populate_recordset(NULL::log.events, $1::jsonb) ON CONFLICT (team_id, position) DO NOTHING",
    count: "SELECT COUNT(*) FROM log.events WHERE team_id = $1",
    drop: "DELETE FROM log.events WHERE team_id = $1",
};
const PERSONAL: Table = Table {
    name: "personal",
    read: "SELECT to_jsonb(t)::text FROM log.personal t WHERE t.team_id = $1 AND t.position > $2 ORDER BY t.position",
    write: "INSERT INTO log.personal (team_id, position, salt, json)
            SELECT team_id, position, salt, json FROM jsonb_populate_recordset(NULL::log.personal, $1::jsonb)
            ON CONFLICT (team_id, position) DO NOTHING",
    count: "SELECT COUNT(*) FROM log.personal WHERE team_id = $1",
    drop: "DELETE FROM log.personal WHERE team_id = $1",
};
const LINKS: Table = Table {
    name: "event_links",
    read: "SELECT to_jsonb(t)::text FROM log.event_links t WHERE t.team_id = $1 AND t.position > $2",
    write: "INSERT INTO log.event_links (team_id, stream, position)
            SELECT team_id, stream, position FROM jsonb_populate_recordset(NULL::log.event_links, $1::jsonb)
            ON CONFLICT (team_id, stream, position) DO NOTHING",
    count: "SELECT COUNT(*) FROM log.event_links WHERE team_id = $1",
    drop: "DELETE FROM log.event_links WHERE team_id = $1",
};
const BLOBS: Table = Table {
    name: "blobs",
    read: "SELECT to_jsonb(t)::text FROM log.blobs t WHERE t.team_id = $1 AND $2::bigint >= 0",
    write: "INSERT INTO log.blobs (team_id, blob_id, size_bytes, bytes)
            SELECT team_id, blob_id, size_bytes, bytes FROM jsonb_populate_recordset(NULL::log.blobs, $1::jsonb)
            ON CONFLICT (team_id, blob_id) DO NOTHING",
    count: "SELECT COUNT(*) FROM log.blobs WHERE team_id = $1",
    drop: "DELETE FROM log.blobs WHERE team_id = $1",
};
const SECRETS: Table = Table {
    name: "secrets",
    read: "SELECT to_jsonb(t)::text FROM log.secrets t WHERE t.team_id = $1 AND $2::bigint >= 0",
    write: "INSERT INTO log.secrets (team_id, secret_id, sealed)
            SELECT team_id, secret_id, sealed FROM jsonb_populate_recordset(NULL::log.secrets, $1::jsonb)
            ON CONFLICT (team_id, secret_id) DO NOTHING",
    count: "SELECT COUNT(*) FROM log.secrets WHERE team_id = $1",
    drop: "DELETE FROM log.secrets WHERE team_id = $1",
};
const ANSWERS: Table = Table {
    name: "answers",
    read: "SELECT to_jsonb(t)::text FROM log.answers t WHERE t.team_id = $1 AND $2::bigint >= 0",
    write: "INSERT INTO log.answers (team_id, scope, request_key, fingerprint, status, sealed, created_at)
            SELECT team_id, scope, request_key, fingerprint, status, sealed, created_at
            FROM jsonb_populate_recordset(NULL::log.answers, $1::jsonb)
            ON CONFLICT (team_id, scope, request_key) DO NOTHING",
    count: "SELECT COUNT(*) FROM log.answers WHERE team_id = $1",
    drop: "DELETE FROM log.answers WHERE team_id = $1",
};
const DIRECTORY: Table = Table {
    name: "directory",
    read: "SELECT to_jsonb(t)::text FROM log.directory t WHERE t.team_id = $1 AND $2::bigint >= 0",
    write: "INSERT INTO log.directory (entry, team_id, target_id, target, taken_at)
            SELECT entry, team_id, target_id, target, taken_at FROM jsonb_populate_recordset(NULL::log.directory, $1::jsonb)
            ON CONFLICT (entry) DO NOTHING",
    count: "SELECT COUNT(*) FROM log.directory WHERE team_id = $1",
    drop: "DELETE FROM log.directory WHERE team_id = $1",
};
/// Copied while the team goes on. What is in them never changes; it may be erased. So it is with bodies.
const BY_POSITION: [&Table; 3] = [&EVENTS, &PERSONAL, &LINKS];
/// Copied while the team's head is frozen, anew each time.
const PASSING: [&Table; 2] = [&SECRETS, &ANSWERS];
const OTHERS: [&Table; 3] = [&BLOBS, &SECRETS, &ANSWERS];
const BODIES: &str = "SELECT blob_id FROM log.blobs WHERE team_id = $1 AND blob_id > $2 ORDER BY blob_id LIMIT $3";
const BODIES_THERE: &str = "SELECT blob_id FROM log.blobs WHERE team_id = $1 AND blob_id = ANY($2::text[])";
const SOME_BODIES: &str =
    "SELECT to_jsonb(t)::text FROM log.blobs t WHERE t.team_id = $1 AND t.blob_id = ANY($2::text[])";
const DROP_SNAPSHOTS: &str = "DELETE FROM log.snapshots WHERE team_id = $1";

/// The move at hand.
struct Route<'a> {
    cells: &'a CellsBackend,
    team: &'a TeamId,
    from: usize,
    to: usize,
}

impl CellsBackend {
    /// Returns in which cell a team lives, and the cell that it is on its way to.
    ///
    /// # Errors
    /// The home cell does not answer.
    pub async fn residence(&self, team: &TeamId) -> Result<(String, Option<String>), MoveError> {
        self.inner.refresh().await?;
        let places = self.inner.places(&BTreeSet::from([team.clone()])).await?;
        let place = places.get(team).copied().unwrap_or(0);
        let target = sqlx::query_scalar("SELECT target FROM log.moves WHERE team_id = $1")
            .bind(team.as_str())
            .fetch_optional(self.home_pool())
            .await?;
        Ok((self.inner.cells[place].name.clone(), target))
    }

    /// Moves a team to a cell, or goes on with a move to it that was cut off. `grace` is how long a node may take to hear of
    /// it. Returns where its log ended at the switch; `None` if it lives there already.
    ///
    /// # Errors
    /// See [`MoveError`].
    pub async fn relocate(
        &self,
        team: &TeamId,
        to: &str,
        now_micros: i64,
        grace: Duration,
        mut progress: impl FnMut(Step),
    ) -> Result<Option<Position>, MoveError> {
        let target = self.inner.cell(to).ok_or_else(|| MoveError::UnknownCell(to.to_owned()))?;
        let (lives_in, on_its_way) = self.residence(team).await?;
        match on_its_way {
            Some(elsewhere) if elsewhere != to => return Err(MoveError::OnItsWay(elsewhere)),
            None if lives_in == to => return Ok(None),
            _ => {}
        }
        let (route, is_new) = self.begin(team, &lives_in, target, now_micros).await?;
        if lives_in != to {
            if is_new {
                // What an earlier life of the team here has left.
                route.drop_copy(route.to).await?;
            }
            route.copy(now_micros, &mut progress).await?;
        }
        let head = route.head(route.to).await?;
        progress(Step::Switched(head.position));
        tokio::time::sleep(grace).await;
        route.retire().await?;
        progress(Step::Dropped);
        Ok(Some(head.position))
    }

    /// Takes back a move that has not switched: the team goes on where it lives.
    ///
    /// # Errors
    /// [`MoveError::NotOnItsWay`], or a cell does not answer.
    pub async fn stay(&self, team: &TeamId) -> Result<(), MoveError> {
        let (lives_in, on_its_way) = self.residence(team).await?;
        let target = on_its_way.filter(|target| *target != lives_in).ok_or(MoveError::NotOnItsWay)?;
        let from = self.inner.cell(&lives_in).ok_or(MoveError::UnknownCell(lives_in))?;
        let to = self.inner.cell(&target).ok_or(MoveError::UnknownCell(target))?;
        let route = Route { cells: self, team, from, to };
        route.thaw().await?;
        route.drop_copy(to).await?;
        route.end().await
    }

    fn home_pool(&self) -> &PgPool {
        &self.inner.home().pool
    }

    /// Notes that a move has begun. Returns whether it had not before.
    async fn begin<'a>(
        &'a self,
        team: &'a TeamId,
        lives_in: &str,
        to: usize,
        now_micros: i64,
    ) -> Result<(Route<'a>, bool), MoveError> {
        let begun = sqlx::query(
            "INSERT INTO log.moves (team_id, source, target, began_at) VALUES ($1, $2, $3, $4)
             ON CONFLICT (team_id) DO NOTHING",
        )
        .bind(team.as_str())
        .bind(lives_in)
        .bind(&self.inner.cells[to].name)
        .bind(now_micros)
        .execute(self.home_pool())
        .await?;
        let source: String = sqlx::query_scalar("SELECT source FROM log.moves WHERE team_id = $1")
            .bind(team.as_str())
            .fetch_one(self.home_pool())
            .await?;
        let from = self.inner.cell(&source).ok_or(MoveError::UnknownCell(source))?;
        Ok((Route { cells: self, team, from, to }, begun.rows_affected() > 0))
    }
}

impl Route<'_> {
    fn pool(&self, cell: usize) -> &PgPool {
        &self.cells.inner.cells[cell].store.pool
    }

    async fn head(&self, cell: usize) -> Result<Head, MoveError> {
        let heads = self.cells.inner.cells[cell].store.heads(std::slice::from_ref(self.team)).await?;
        let head = heads.into_iter().next().map(|(_, head)| head).filter(|head| head.position > 0);
        head.ok_or(MoveError::UnknownTeam)
    }

    async fn erasures(&self) -> Result<i64, MoveError> {
        let erasures = sqlx::query_scalar("SELECT erasures FROM log.heads WHERE team_id = $1");
        Ok(erasures.bind(self.team.as_str()).fetch_one(self.pool(self.from)).await?)
    }

    /// Copies everything, freezes the head, copies the rest and switches.
    async fn copy(&self, now_micros: i64, progress: &mut impl FnMut(Step)) -> Result<(), MoveError> {
        self.head(self.from).await?;
        let mut verifier = Verifier::new(self.team.clone());
        for table in BY_POSITION {
            self.rows(table, 0).await?;
        }
        self.bodies().await?;
        self.verify(&mut verifier).await?;
        progress(Step::Copied(verifier.verified().0));
        let head = self.freeze().await?;
        progress(Step::Frozen(head.position));
        let copied = self.finish(&head, verifier).await;
        if let Err(error) = copied {
            // A move that cannot be made must not keep the team from its work.
            self.thaw().await?;
            return Err(error);
        }
        self.switch(&head, now_micros).await
    }

    /// Copies what came since, under the frozen head, and compares.
    async fn finish(&self, head: &Head, mut verifier: Verifier) -> Result<(), MoveError> {
        let copied = verifier.verified().0;
        for table in BY_POSITION {
            self.rows(table, copied).await?;
        }
        self.bodies().await?;
        for table in [&PERSONAL, &BLOBS] {
            // All there is was copied, so more can only be what was erased meanwhile: then it is copied anew.
            let (there, here) = (self.count(table, self.from).await?, self.count(table, self.to).await?);
            if there != here {
                self.run(self.to, table.drop).await?;
                self.rows(table, 0).await?;
            }
        }
        for table in PASSING {
            self.run(self.to, table.drop).await?;
            self.rows(table, 0).await?;
        }
        self.run(self.to, DROP_SNAPSHOTS).await?;
        self.directory().await?;
        self.verify(&mut verifier).await?;
        verifier.end(head)?;
        for table in BY_POSITION.into_iter().chain(OTHERS).chain([&DIRECTORY]) {
            let (source_rows, target_rows) = (self.count(table, self.from).await?, self.count(table, self.to).await?);
            if source_rows != target_rows {
                return Err(MoveError::NotWhole { table: table.name, source_rows, target_rows });
            }
        }
        Ok(())
    }

    async fn count(&self, table: &Table, cell: usize) -> Result<i64, MoveError> {
        Ok(sqlx::query_scalar(table.count).bind(self.team.as_str()).fetch_one(self.pool(cell)).await?)
    }

    async fn run(&self, cell: usize, sql: &'static str) -> Result<u64, MoveError> {
        Ok(sqlx::query(sql).bind(self.team.as_str()).execute(self.pool(cell)).await?.rows_affected())
    }

    /// Copies the rows of a table behind a position, those that are not there yet.
    async fn rows(&self, table: &Table, after: Position) -> Result<(), MoveError> {
        let mut rows = sqlx::query_scalar::<_, String>(table.read)
            .bind(self.team.as_str())
            .bind(signed(after))
            .fetch(self.pool(self.from));
        let (mut json, mut count) = (String::from("["), 0);
        loop {
            let row = rows.try_next().await?;
            if let Some(row) = &row {
                json.push_str(if count == 0 { "" } else { "," });
                json.push_str(row);
                count += 1;
            }
            if count > 0 && (row.is_none() || count >= ROWS_MAX || json.len() >= BYTES_MAX) {
                json.push(']');
                let written = std::mem::replace(&mut json, String::from("["));
                sqlx::query(table.write).bind(written).execute(self.pool(self.to)).await?;
                count = 0;
            }
            if row.is_none() {
                return Ok(());
            }
        }
    }

    /// Copies the bodies that are not there yet: they are most of what there is, so only their names are compared.
    async fn bodies(&self) -> Result<(), MoveError> {
        let mut after = String::new();
        loop {
            let ids: Vec<String> = sqlx::query_scalar(BODIES)
                .bind(self.team.as_str())
                .bind(&after)
                .bind(BODIES_MAX)
                .fetch_all(self.pool(self.from))
                .await?;
            let Some(last) = ids.last() else { return Ok(()) };
            after.clone_from(last);
            let there: Vec<String> = sqlx::query_scalar(BODIES_THERE)
                .bind(self.team.as_str())
                .bind(&ids)
                .fetch_all(self.pool(self.to))
                .await?;
            let there: BTreeSet<String> = there.into_iter().collect();
            let missing: Vec<&str> = ids.iter().map(String::as_str).filter(|id| !there.contains(*id)).collect();
            for some in missing.chunks(BODIES_TOGETHER) {
                let rows: Vec<String> = sqlx::query_scalar(SOME_BODIES)
                    .bind(self.team.as_str())
                    .bind(some.to_vec())
                    .fetch_all(self.pool(self.from))
                    .await?;
                let json = format!("[{}]", rows.join(","));
                sqlx::query(BLOBS.write).bind(json).execute(self.pool(self.to)).await?;
            }
        }
    }

    /// Makes the directory of the other cell say of the team what that of its own does, in one step: at home somebody may
    /// be looking.
    async fn directory(&self) -> Result<(), MoveError> {
        let rows: Vec<String> = sqlx::query_scalar(DIRECTORY.read)
            .bind(self.team.as_str())
            .bind(0_i64)
            .fetch_all(self.pool(self.from))
            .await?;
        let mut target = self.pool(self.to).begin().await?;
        sqlx::query(DIRECTORY.drop).bind(self.team.as_str()).execute(&mut *target).await?;
        for rows in rows.chunks(ROWS_MAX) {
            let json = format!("[{}]", rows.join(","));
            sqlx::query(DIRECTORY.write).bind(json).execute(&mut *target).await?;
        }
        Ok(target.commit().await?)
    }

    /// Walks on over the copy.
    async fn verify(&self, verifier: &mut Verifier) -> Result<(), MoveError> {
        loop {
            let page = self.cells.inner.cells[self.to].store.read(self.team, verifier.verified().0, PAGE).await?;
            page.iter().try_for_each(|record| verifier.next(record))?;
            if page.len() < PAGE {
                return Ok(());
            }
        }
    }

    /// Keeps every node from appending, whatever it remembers of where the team lives.
    async fn freeze(&self) -> Result<Head, MoveError> {
        self.run(self.from, "UPDATE log.heads SET frozen_at = position WHERE team_id = $1 AND position > 0").await?;
        self.head(self.from).await
    }

    async fn thaw(&self) -> Result<(), MoveError> {
        self.run(self.from, "UPDATE log.heads SET frozen_at = NULL WHERE team_id = $1 AND position > 0").await?;
        Ok(())
    }

    /// Says that the team lives in the other cell.
    async fn switch(&self, head: &Head, now_micros: i64) -> Result<(), MoveError> {
        let erasures = self.erasures().await?;
        // Nobody looks for it there yet.
        sqlx::query(
            "INSERT INTO log.heads (team_id, epoch, position, hash, moved_at, erasures) VALUES ($1, $2, $3, $4, $5, $6)
             ON CONFLICT (team_id) DO UPDATE
             SET epoch = excluded.epoch, position = excluded.position, hash = excluded.hash,
                 moved_at = excluded.moved_at, erasures = excluded.erasures, frozen_at = NULL",
        )
        .bind(self.team.as_str())
        .bind(i64::from(head.epoch))
        .bind(signed(head.position))
        .bind(&head.hash[..])
        .bind(now_micros)
        .bind(erasures)
        .execute(self.pool(self.to))
        .await?;
        let mut home = self.cells.home_pool().begin().await?;
        if self.to == 0 {
            let leave = sqlx::query("DELETE FROM log.residences WHERE team_id = $1").bind(self.team.as_str());
            leave.execute(&mut *home).await?;
        } else {
            sqlx::query(
                "INSERT INTO log.residences (team_id, cell) VALUES ($1, $2)
                 ON CONFLICT (team_id) DO UPDATE SET cell = excluded.cell",
            )
            .bind(self.team.as_str())
            .bind(&self.cells.inner.cells[self.to].name)
            .execute(&mut *home)
            .await?;
        }
        sqlx::query("UPDATE log.installation SET moves = moves + 1").execute(&mut *home).await?;
        home.commit().await?;
        self.cells.inner.refresh().await?;
        Ok(())
    }

    /// Drops what is left where the team lived, but for a head that nothing can be appended to.
    async fn retire(&self) -> Result<(), MoveError> {
        self.run(self.from, "UPDATE log.heads SET position = 0, erasures = 0, frozen_at = 0 WHERE team_id = $1")
            .await?;
        self.drop_copy(self.from).await?;
        self.end().await
    }

    async fn drop_copy(&self, cell: usize) -> Result<(), MoveError> {
        for table in BY_POSITION.into_iter().chain(OTHERS) {
            self.run(cell, table.drop).await?;
        }
        self.run(cell, DROP_SNAPSHOTS).await?;
        if cell != 0 {
            self.run(cell, DIRECTORY.drop).await?;
        }
        Ok(())
    }

    async fn end(&self) -> Result<(), MoveError> {
        let end = sqlx::query("DELETE FROM log.moves WHERE team_id = $1").bind(self.team.as_str());
        end.execute(self.cells.home_pool()).await?;
        Ok(())
    }
}
