//! A team's move from one cell to another.
//!
//! The log is copied while the team goes on, the copy is verified, then the head is frozen where it is (appends are refused
//! with "try again"), what came meanwhile is copied and verified too, and the team is said to live in the other cell.
//! Read models, leases and cursors lie at home and name positions, which stay what they are. What is left behind is
//! dropped when every node has heard of the move.
//!
//! A process claims the move by a row lock at home, which ends with its connection. Whatever it is cut off at, calling it
//! again goes on from there: home notes that it has begun, copies are made by key, and where the team lives changes in
//! the transaction that holds the lock.

mod tables;

use std::collections::BTreeSet;
use std::time::Duration;

use domain::id::{Position, TeamId};
use futures_util::TryStreamExt as _;
use sqlx::{PgPool, Postgres, Transaction};

use super::cells::CellsBackend;
use super::{Guarded as _, PostgresBackend};
use crate::backend::{Backend as _, Head, StoreError};
use crate::chain::{Broken, Verifier};
use crate::rows::signed;
use tables::{
    BLOBS, BODIES, BODIES_THERE, BY_POSITION, CHECKPOINTS, DIRECTORY, DROP_SNAPSHOTS, LAST_CHECKPOINT, OTHERS, PASSING,
    PERSONAL, SOME_BODIES, TILES, TILES_THERE, Table,
};

/// How many rows travel at a time, and how many bytes of them.
const ROWS_MAX: usize = 500;
const BYTES_MAX: usize = 4 << 20;
/// How many bodies are compared by name at a time, and how many travel together.
const BODIES_MAX: i64 = 10_000;
const BODIES_TOGETHER: usize = 32;
const TILES_TOGETHER: usize = 128;
/// How often is copied anew what passes by itself.
const PASSING_TRIES: u32 = 3;
/// How long a process that makes the same move is waited for, and what PostgreSQL says when it goes on.
const CLAIM_WITHIN: &str = "3s";
const LOCK_NOT_AVAILABLE: &str = "55P03";
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
    /// Another process makes the same move, or has just ended it.
    #[error("another process is moving the team")]
    Busy,
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

/// A move that nobody else makes meanwhile: it ends with the connection, so also with the process.
struct Claim {
    home: Transaction<'static, Postgres>,
    source: String,
    target: String,
}

/// The move at hand.
struct Route<'a> {
    cells: &'a CellsBackend,
    team: &'a TeamId,
    from: usize,
    to: usize,
    claim: Claim,
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
            .fetch_optional(&self.home().pool)
            .guarded(&self.home().answering)
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
        let to = self.inner.cell(to).ok_or_else(|| MoveError::UnknownCell(to.to_owned()))?;
        let to_name = self.inner.cells[to].name.as_str();
        let (lives_in, on_its_way) = self.residence(team).await?;
        let lives = self.numbered(&lives_in)?;
        if self.head(lives, team).await?.is_none() {
            return Err(MoveError::UnknownTeam);
        }
        match on_its_way {
            Some(elsewhere) if elsewhere != to_name => return Err(MoveError::OnItsWay(elsewhere)),
            None if lives_in == to_name => return Ok(None),
            _ => {}
        }
        self.note(team, &lives_in, to_name, now_micros).await?;
        let mut claim = self.claim(team).await?;
        if claim.target != to_name {
            return Err(MoveError::OnItsWay(claim.target));
        }
        let from = self.numbered(&claim.source)?;
        // Somebody else may have switched before it was claimed.
        let (lives_in, _) = self.residence(team).await?;
        let route = |claim| Route { cells: self, team, from, to, claim };
        if lives_in != to_name {
            route(claim).copy(now_micros, &mut progress).await?;
            claim = self.claim(team).await?;
        }
        let head = self.head(to, team).await?.ok_or(MoveError::UnknownTeam)?;
        progress(Step::Switched(head.position));
        tokio::time::sleep(grace).await;
        route(claim).retire().await?;
        progress(Step::Dropped);
        Ok(Some(head.position))
    }

    /// Takes back a move that has not switched: the team goes on where it lives.
    ///
    /// # Errors
    /// [`MoveError::NotOnItsWay`], or a cell does not answer.
    pub async fn stay(&self, team: &TeamId) -> Result<(), MoveError> {
        if self.residence(team).await?.1.is_none() {
            return Err(MoveError::NotOnItsWay);
        }
        let claim = self.claim(team).await?;
        let (lives_in, _) = self.residence(team).await?;
        if claim.target == lives_in {
            return Err(MoveError::NotOnItsWay);
        }
        let (from, to) = (self.numbered(&lives_in)?, self.numbered(&claim.target)?);
        let mut route = Route { cells: self, team, from, to, claim };
        route.thaw().await?;
        route.drop_copy(to).await?;
        route.end().await
    }

    fn home(&self) -> &PostgresBackend {
        self.inner.home()
    }

    fn numbered(&self, name: &str) -> Result<usize, MoveError> {
        self.inner.cell(name).ok_or_else(|| MoveError::UnknownCell(name.to_owned()))
    }

    /// Returns where a team's log ends in a cell, if it has one there.
    async fn head(&self, cell: usize, team: &TeamId) -> Result<Option<Head>, MoveError> {
        let heads = self.inner.cells[cell].store.heads(std::slice::from_ref(team)).await?;
        Ok(heads.into_iter().next().map(|(_, head)| head).filter(|head| head.position > 0))
    }

    /// Notes that a move has begun, unless it has.
    async fn note(&self, team: &TeamId, lives_in: &str, to: &str, now_micros: i64) -> Result<(), MoveError> {
        sqlx::query(
            "INSERT INTO log.moves (team_id, source, target, began_at) VALUES ($1, $2, $3, $4)
             ON CONFLICT (team_id) DO NOTHING",
        )
        .bind(team.as_str())
        .bind(lives_in)
        .bind(to)
        .bind(now_micros)
        .execute(&self.home().pool)
        .guarded(&self.home().answering)
        .await?;
        Ok(())
    }

    /// Keeps every other process off a move that has begun.
    async fn claim(&self, team: &TeamId) -> Result<Claim, MoveError> {
        let claim = async {
            let mut home = self.home().pool.begin().await?;
            // Copying takes its time. Who was killed a moment ago is waited for.
            sqlx::query(
                "SELECT set_config('idle_in_transaction_session_timeout', '0', true), set_config('lock_timeout', $1, true)",
            )
            .bind(CLAIM_WITHIN)
            .execute(&mut *home)
            .await?;
            let row: Option<(String, String)> =
                sqlx::query_as("SELECT source, target FROM log.moves WHERE team_id = $1 FOR UPDATE")
                    .bind(team.as_str())
                    .fetch_optional(&mut *home)
                    .await?;
            Ok(row.map(|(source, target)| Claim { home, source, target }))
        };
        match self.home().answering.guard(claim).await {
            Ok(claim) => claim.ok_or(MoveError::Busy),
            Err(sqlx::Error::Database(e)) if e.code().as_deref() == Some(LOCK_NOT_AVAILABLE) => Err(MoveError::Busy),
            Err(e) => Err(e.into()),
        }
    }
}

impl Route<'_> {
    fn store(&self, cell: usize) -> &PostgresBackend {
        &self.cells.inner.cells[cell].store
    }

    fn pool(&self, cell: usize) -> &PgPool {
        &self.store(cell).pool
    }

    /// Waits for what a cell is asked, as long as its server is there.
    async fn on<T>(&self, cell: usize, work: impl Future<Output = Result<T, sqlx::Error>>) -> Result<T, MoveError> {
        Ok(self.store(cell).answering.guard(work).await?)
    }

    async fn head(&self) -> Result<Head, MoveError> {
        self.cells.head(self.from, self.team).await?.ok_or(MoveError::UnknownTeam)
    }

    /// Makes sure that nobody else has taken the move over meanwhile.
    async fn is_ours(&mut self) -> Result<(), MoveError> {
        let asked = sqlx::query("SELECT 1").execute(&mut *self.claim.home);
        self.cells.home().answering.guard(asked).await?;
        Ok(())
    }

    async fn erasures(&self) -> Result<i64, MoveError> {
        let erasures = sqlx::query_scalar("SELECT erasures FROM log.heads WHERE team_id = $1");
        self.on(self.from, erasures.bind(self.team.as_str()).fetch_one(self.pool(self.from))).await
    }

    /// Copies everything, freezes the head, copies the rest and switches.
    async fn copy(mut self, now_micros: i64, progress: &mut impl FnMut(Step)) -> Result<(), MoveError> {
        let mut verifier = Verifier::new(self.team.clone());
        // Who was cut off may have left it frozen: it need not wait while all is looked through again.
        self.thaw().await?;
        for table in BY_POSITION.into_iter().chain([&CHECKPOINTS]) {
            self.rows(table, 0).await?;
        }
        self.bodies().await?;
        self.tiles().await?;
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
    async fn finish(&mut self, head: &Head, mut verifier: Verifier) -> Result<(), MoveError> {
        self.is_ours().await?;
        let copied = verifier.verified().0;
        for table in BY_POSITION {
            self.rows(table, copied).await?;
        }
        self.bodies().await?;
        let last = sqlx::query_scalar(LAST_CHECKPOINT).bind(self.team.as_str()).fetch_one(self.pool(self.to));
        let last: i64 = self.on(self.to, last).await?;
        self.rows(&CHECKPOINTS, u64::try_from(last).unwrap_or(0)).await?;
        for table in [&PERSONAL, &BLOBS, &CHECKPOINTS] {
            // All there is was copied, so more can only be what was erased meanwhile: then it is copied anew. Checkpoints
            // of two nodes may come in another order than their sizes'.
            if self.differs(table).await? {
                self.anew(table).await?;
            }
        }
        for table in PASSING {
            for _ in 0..PASSING_TRIES {
                self.anew(table).await?;
                // Some may expire meanwhile.
                if !self.differs(table).await? {
                    break;
                }
            }
        }
        self.tiles().await?;
        if self.tiles().await? > 0 {
            return Err(self.not_whole(&TILES).await?);
        }
        self.is_ours().await?;
        self.run(self.to, DROP_SNAPSHOTS).await?;
        self.directory().await?;
        self.verify(&mut verifier).await?;
        verifier.end(head)?;
        for table in BY_POSITION.into_iter().chain(OTHERS).chain([&DIRECTORY]) {
            if self.differs(table).await? {
                return Err(self.not_whole(table).await?);
            }
        }
        Ok(())
    }

    async fn anew(&mut self, table: &Table) -> Result<(), MoveError> {
        self.is_ours().await?;
        self.run(self.to, table.drop).await?;
        self.rows(table, 0).await
    }

    async fn differs(&self, table: &Table) -> Result<bool, MoveError> {
        Ok(self.count(table, self.from).await? != self.count(table, self.to).await?)
    }

    async fn not_whole(&self, table: &Table) -> Result<MoveError, MoveError> {
        let (source_rows, target_rows) = (self.count(table, self.from).await?, self.count(table, self.to).await?);
        Ok(MoveError::NotWhole { table: table.name, source_rows, target_rows })
    }

    async fn count(&self, table: &Table, cell: usize) -> Result<i64, MoveError> {
        self.on(cell, sqlx::query_scalar(table.count).bind(self.team.as_str()).fetch_one(self.pool(cell))).await
    }

    async fn run(&self, cell: usize, sql: &'static str) -> Result<u64, MoveError> {
        let done = self.on(cell, sqlx::query(sql).bind(self.team.as_str()).execute(self.pool(cell))).await?;
        Ok(done.rows_affected())
    }

    async fn write(&self, table: &Table, rows: String) -> Result<(), MoveError> {
        self.on(self.to, sqlx::query(table.write).bind(rows).execute(self.pool(self.to))).await?;
        Ok(())
    }

    /// Copies the rows of a table behind a position, those that are not there yet.
    async fn rows(&self, table: &Table, after: Position) -> Result<(), MoveError> {
        let mut rows = sqlx::query_scalar::<_, String>(table.read)
            .bind(self.team.as_str())
            .bind(signed(after))
            .fetch(self.pool(self.from));
        let (mut json, mut count) = (String::from("["), 0);
        loop {
            let row = self.on(self.from, rows.try_next()).await?;
            if let Some(row) = &row {
                json.push_str(if count == 0 { "" } else { "," });
                json.push_str(row);
                count += 1;
            }
            if count > 0 && (row.is_none() || count >= ROWS_MAX || json.len() >= BYTES_MAX) {
                json.push(']');
                let written = std::mem::replace(&mut json, String::from("["));
                self.write(table, written).await?;
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
                .guarded(&self.store(self.from).answering)
                .await?;
            let Some(last) = ids.last() else { return Ok(()) };
            after.clone_from(last);
            let there: Vec<String> = sqlx::query_scalar(BODIES_THERE)
                .bind(self.team.as_str())
                .bind(&ids)
                .fetch_all(self.pool(self.to))
                .guarded(&self.store(self.to).answering)
                .await?;
            let there: BTreeSet<String> = there.into_iter().collect();
            let missing: Vec<&str> = ids.iter().map(String::as_str).filter(|id| !there.contains(*id)).collect();
            for some in missing.chunks(BODIES_TOGETHER) {
                let rows: Vec<String> = sqlx::query_scalar(SOME_BODIES)
                    .bind(self.team.as_str())
                    .bind(some.to_vec())
                    .fetch_all(self.pool(self.from))
                    .guarded(&self.store(self.from).answering)
                    .await?;
                let json = format!("[{}]", rows.join(","));
                self.write(&BLOBS, json).await?;
            }
        }
    }

    /// Copies the tiles that are not the same there. Returns how many.
    async fn tiles(&self) -> Result<usize, MoveError> {
        type Tile = (i64, i64, String);
        let known = |cell: usize| sqlx::query_as(TILES_THERE).bind(self.team.as_str()).fetch_all(self.pool(cell));
        let here: Vec<Tile> = self.on(self.from, known(self.from)).await?;
        let there: Vec<Tile> = self.on(self.to, known(self.to)).await?;
        let there: BTreeSet<Tile> = there.into_iter().collect();
        let other: Vec<Tile> = here.into_iter().filter(|tile| !there.contains(tile)).collect();
        for some in other.chunks(TILES_TOGETHER) {
            let rows: Vec<String> = sqlx::query_scalar(TILES.read)
                .bind(self.team.as_str())
                .bind(some.iter().map(|(level, ..)| *level).collect::<Vec<_>>())
                .bind(some.iter().map(|(_, tile, _)| *tile).collect::<Vec<_>>())
                .fetch_all(self.pool(self.from))
                .guarded(&self.store(self.from).answering)
                .await?;
            self.write(&TILES, format!("[{}]", rows.join(","))).await?;
        }
        Ok(other.len())
    }

    /// Makes the directory of the other cell say of the team what that of its own does, in one step: at home somebody may
    /// be looking.
    async fn directory(&self) -> Result<(), MoveError> {
        let rows: Vec<String> = sqlx::query_scalar(DIRECTORY.read)
            .bind(self.team.as_str())
            .bind(0_i64)
            .fetch_all(self.pool(self.from))
            .guarded(&self.store(self.from).answering)
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
            let page = self.store(self.to).read(self.team, verifier.verified().0, PAGE).await?;
            page.iter().try_for_each(|record| verifier.next(record))?;
            if page.len() < PAGE {
                return Ok(());
            }
        }
    }

    /// Keeps every node from appending, whatever it remembers of where the team lives.
    async fn freeze(&mut self) -> Result<Head, MoveError> {
        self.is_ours().await?;
        self.run(self.from, "UPDATE log.heads SET frozen_at = position WHERE team_id = $1 AND position > 0").await?;
        self.head().await
    }

    async fn thaw(&mut self) -> Result<(), MoveError> {
        self.is_ours().await?;
        self.run(self.from, "UPDATE log.heads SET frozen_at = NULL WHERE team_id = $1 AND position > 0").await?;
        Ok(())
    }

    /// Says that the team lives in the other cell.
    async fn switch(self, head: &Head, now_micros: i64) -> Result<(), MoveError> {
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
        .guarded(&self.store(self.to).answering)
        .await?;
        // In the transaction that has claimed the move: who has lost it cannot switch.
        let Self { cells, team, to, mut claim, .. } = self;
        let home = async {
            let home = &mut *claim.home;
            if to == 0 {
                let leave = sqlx::query("DELETE FROM log.residences WHERE team_id = $1").bind(team.as_str());
                leave.execute(&mut *home).await?;
            } else {
                sqlx::query(
                    "INSERT INTO log.residences (team_id, cell) VALUES ($1, $2)
                     ON CONFLICT (team_id) DO UPDATE SET cell = excluded.cell",
                )
                .bind(team.as_str())
                .bind(&cells.inner.cells[to].name)
                .execute(&mut *home)
                .await?;
            }
            sqlx::query("UPDATE log.installation SET moves = moves + 1").execute(home).await?;
            claim.home.commit().await
        };
        cells.home().answering.guard(home).await?;
        cells.inner.refresh().await?;
        Ok(())
    }

    /// Drops what is left where the team lived, but for a head that nothing can be appended to.
    async fn retire(mut self) -> Result<(), MoveError> {
        self.is_ours().await?;
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

    async fn end(mut self) -> Result<(), MoveError> {
        let ended = async {
            let end = sqlx::query("DELETE FROM log.moves WHERE team_id = $1").bind(self.team.as_str());
            end.execute(&mut *self.claim.home).await?;
            self.claim.home.commit().await
        };
        Ok(self.cells.home().answering.guard(ended).await?)
    }
}
