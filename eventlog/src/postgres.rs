//! The scale-out backend: PostgreSQL, for any number of equal nodes.
//!
//! A batch is one statement in a transaction of its own. Nothing but keys and row locks keeps writers apart: no
//! sequence, no advisory lock (but around migrations) and no LISTEN/NOTIFY, so that the tables can be spread by team.
//! All of it lies in the schema `log`.

mod cells;
mod error;
mod moving;
mod notify;
mod read;
mod relocate;
mod servers;
#[cfg(test)]
mod tests;
mod tree;
mod write;

use std::time::Duration;

use async_trait::async_trait;
use domain::StreamId;
use domain::id::{BlobId, Position, SecretId, TeamId};
use sqlx::migrate::{MigrateError, Migrator};
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{PgPool, Postgres, Transaction};

use crate::backend::{
    AnswerKey, AnswerRow, AppendError, Backend, Batch, BlobRow, Head, Hold, SecretRow, SnapshotRow, StoreError,
    StreamHistory,
};
use crate::directory::{DirectoryEntry, DirectoryKey};
use crate::record::StoredRecord;
use crate::rows::{all, limited, signed};
use crate::tree::Trees;

pub use cells::{CellConfig, CellsBackend, HOME};
pub use error::OpenError;
pub use notify::notify;
pub use relocate::{MoveError, Step};
pub use servers::{Answering, Servers};

use moving::changed;
use read::{HISTORIES, READ, SNAPSHOTS, unavailable};
use write::append_error;

/// A connection that rested longer than this is tried before it is used: the server may have been restarted.
const TRUSTED_IDLE: Duration = Duration::from_secs(1);

/// How the server is reached.
#[derive(Clone)]
pub struct Config {
    /// `postgres://user:password@host:port/database`; several hosts are separated by commas, see [`Servers`].
    pub url: String,
    /// The most connections of this node; more than the log has lanes, since a lane may hold one and read by another.
    pub connections_max: u32,
    /// How long a connection is waited for, milliseconds.
    pub connect_timeout_milliseconds: u64,
    /// Opens a server whose settings can lose what was acknowledged.
    pub dangerous_unsafe_postgres: bool,
}

impl Config {
    /// Returns the configuration of a server with default sizes.
    #[must_use]
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            connections_max: 16,
            connect_timeout_milliseconds: 5_000,
            dangerous_unsafe_postgres: false,
        }
    }
}

impl std::fmt::Debug for Config {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The URL holds a password.
        f.debug_struct("Config").field("connections_max", &self.connections_max).finish_non_exhaustive()
    }
}

/// See the module.
pub struct PostgresBackend {
    pool: PgPool,
    answering: Answering,
    epoch: u16,
}

impl PostgresBackend {
    /// Connects, refuses a server that can lose acknowledged events, and brings the tables up to date.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub async fn open(config: &Config) -> Result<Self, OpenError> {
        Self::open_on(&config.url.parse().map_err(OpenError::Connect)?, config).await
    }

    /// The same with servers that somebody follows, see [`Servers::follow`]; the URL of the configuration is not looked at.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub async fn open_on(servers: &Servers, config: &Config) -> Result<Self, OpenError> {
        let options = PgPoolOptions::new()
            .max_connections(config.connections_max.max(2))
            .acquire_timeout(Duration::from_millis(config.connect_timeout_milliseconds));
        let pool = servers.pool(options, TRUSTED_IDLE, session).await.map_err(OpenError::Connect)?;
        let problems = problems(&settings(&pool).await.map_err(OpenError::Connect)?);
        if !problems.is_empty() {
            if !config.dangerous_unsafe_postgres {
                pool.close().await;
                return Err(OpenError::Unsafe(problems));
            }
            tracing::warn!(?problems, "the PostgreSQL server can lose acknowledged events, and that was allowed");
        }
        migrate(&pool).await?;
        let epoch: i64 = sqlx::query_scalar("SELECT epoch FROM log.installation")
            .fetch_one(&pool)
            .await
            .map_err(OpenError::Connect)?;
        let epoch = u16::try_from(epoch).map_err(|_| OpenError::Damaged(format!("epoch {epoch}")))?;
        Ok(Self { pool, answering: servers.answering(), epoch })
    }

    /// Begins a new epoch: after a restore from a backup, ids of events that were lost must not be taken for new ones.
    ///
    /// # Errors
    /// The database cannot be written.
    pub async fn begin_epoch(config: &Config) -> Result<u16, OpenError> {
        let backend = Self::open(config).await?;
        let epoch: i64 = sqlx::query_scalar("UPDATE log.installation SET epoch = epoch + 1 RETURNING epoch")
            .fetch_one(&backend.pool)
            .await
            .map_err(OpenError::Connect)?;
        backend.close().await;
        u16::try_from(epoch).map_err(|_| OpenError::Damaged(format!("epoch {epoch}")))
    }
}

/// Adds what every session is told: a node that stops in the middle of a transaction does not keep its locks for ever.
fn session(options: PgConnectOptions) -> PgConnectOptions {
    options.options([("idle_in_transaction_session_timeout", "10s")])
}

async fn migrate(pool: &PgPool) -> Result<(), OpenError> {
    let mut migrations: Migrator = sqlx::migrate!("migrations/postgres");
    migrations.create_schema("log");
    migrations.dangerous_set_table_name("log.migrations");
    let mut connection = pool.acquire().await.map_err(OpenError::Connect)?;
    let known = migrations.iter().map(|migration| migration.version).max().unwrap_or(0);
    migrations.run_direct(None, &mut *connection, false).await.map_err(|error| match error {
        MigrateError::VersionMissing(found) => OpenError::Newer { found, known },
        error => OpenError::Migrate(error),
    })
}

/// Names and values of the settings that decide what survives.
async fn settings(pool: &PgPool) -> Result<Vec<(String, String)>, sqlx::Error> {
    sqlx::query_as(
        "SELECT name, setting FROM pg_settings
         WHERE name IN ('fsync', 'full_page_writes', 'synchronous_commit', 'server_encoding')",
    )
    .fetch_all(pool)
    .await
}

/// Returns what is wrong with a server's settings.
fn problems(settings: &[(String, String)]) -> Vec<String> {
    let wanted = [
        ("fsync", "on", "a crash of the machine can destroy the database"),
        ("full_page_writes", "on", "a crash of the machine can tear pages"),
        ("server_encoding", "UTF8", "other texts come back changed"),
    ];
    let mut problems: Vec<_> = wanted
        .iter()
        .filter(|(name, value, _)| settings.iter().any(|(n, v)| n == name && v != value))
        .map(|(name, value, why)| format!("{name} must be {value}: {why}"))
        .collect();
    if settings.iter().any(|(name, value)| name == "synchronous_commit" && value == "off") {
        problems.push("synchronous_commit must not be off: a crash loses the last commits".to_owned());
    }
    problems
}

/// What is asked of the server ends when the server is given up.
trait Guarded<T>: Future<Output = Result<T, sqlx::Error>> + Sized {
    async fn guarded(self, answering: &Answering) -> Result<T, sqlx::Error> {
        answering.guard(self).await
    }
}

impl<T, F: Future<Output = Result<T, sqlx::Error>>> Guarded<T> for F {}

/// Row locks on some heads.
struct Held {
    transaction: Transaction<'static, Postgres>,
    answering: Answering,
}

impl Held {
    async fn write(mut self: Box<Self>, batch: &Batch) -> Result<(), sqlx::Error> {
        if write::frees(batch) {
            write::free(&mut self.transaction, batch).await?;
        }
        write::fill(&mut self.transaction, batch).await?;
        self.transaction.commit().await
    }
}

#[async_trait]
impl Hold for Held {
    async fn append(self: Box<Self>, batch: &Batch) -> Result<(), AppendError> {
        let answering = self.answering.clone();
        answering.guard(self.write(batch)).await.map_err(|e| append_error(&e))
    }
}

impl PostgresBackend {
    async fn lock(&self, teams: &[TeamId]) -> Result<Box<Held>, sqlx::Error> {
        let mut transaction = self.pool.begin().await?;
        write::lock(&mut transaction, teams).await?;
        Ok(Box::new(Held { transaction, answering: self.answering.clone() }))
    }

    async fn write(&self, batch: &Batch) -> Result<(), sqlx::Error> {
        if write::frees(batch) {
            let teams: Vec<_> = batch.heads.iter().map(|(team, _)| team.clone()).collect();
            return self.lock(&teams).await?.write(batch).await;
        }
        write::fill(&mut *self.pool.acquire().await?, batch).await
    }
}

#[async_trait]
impl Backend for PostgresBackend {
    async fn epoch(&self) -> Result<u16, StoreError> {
        Ok(self.epoch)
    }

    async fn heads(&self, teams: &[TeamId]) -> Result<Vec<(TeamId, Head)>, StoreError> {
        let teams: Vec<_> = teams.iter().map(TeamId::as_str).collect();
        let rows = sqlx::query("SELECT team_id, epoch, position, hash FROM log.heads WHERE team_id = ANY($1::text[])")
            .bind(teams)
            .fetch_all(&self.pool)
            .guarded(&self.answering)
            .await
            .map_err(|e| unavailable(&e))?;
        all(&rows, read::head)
    }

    async fn moved_since(&self, at: i64, limit: usize) -> Result<Vec<(TeamId, Position, i64)>, StoreError> {
        let rows = sqlx::query(
            "SELECT team_id, position, moved_at FROM log.heads WHERE moved_at >= $1 AND position > 0 ORDER BY moved_at LIMIT $2",
        )
        .bind(at)
        .bind(limited(limit))
        .fetch_all(&self.pool)
        .guarded(&self.answering)
        .await
        .map_err(|e| unavailable(&e))?;
        all(&rows, read::moved)
    }

    async fn last_moved(&self) -> Result<i64, StoreError> {
        sqlx::query_scalar("SELECT COALESCE(MAX(moved_at), 0) FROM log.heads")
            .fetch_one(&self.pool)
            .guarded(&self.answering)
            .await
            .map_err(|e| unavailable(&e))
    }

    async fn teams(&self, after: Option<&TeamId>, limit: usize) -> Result<Vec<TeamId>, StoreError> {
        let rows =
            sqlx::query("SELECT team_id FROM log.heads WHERE team_id > $1 AND position > 0 ORDER BY team_id LIMIT $2")
                .bind(after.map_or("", TeamId::as_str))
                .bind(limited(limit))
                .fetch_all(&self.pool)
                .guarded(&self.answering)
                .await
                .map_err(|e| unavailable(&e))?;
        all(&rows, read::team)
    }

    async fn read(&self, team: &TeamId, after: Position, limit: usize) -> Result<Vec<StoredRecord>, StoreError> {
        let rows = sqlx::query(READ)
            .bind(team.as_str())
            .bind(signed(after))
            .bind(limited(limit))
            .fetch_all(&self.pool)
            .guarded(&self.answering)
            .await
            .map_err(|e| unavailable(&e))?;
        all(&rows, read::record)
    }

    async fn histories(&self, streams: &[(TeamId, StreamId)]) -> Result<Vec<StreamHistory>, StoreError> {
        let indexes: Vec<i64> = (0i64..).take(streams.len()).collect();
        let teams: Vec<_> = streams.iter().map(|(team, _)| team.as_str()).collect();
        let names: Vec<_> = streams.iter().map(|(_, stream)| stream.to_string()).collect();
        let rows = sqlx::query(SNAPSHOTS)
            .bind(&indexes)
            .bind(&teams)
            .bind(&names)
            .bind(domain::entity::SNAPSHOT_VERSION)
            .fetch_all(&self.pool)
            .guarded(&self.answering)
            .await
            .map_err(|e| unavailable(&e))?;
        let mut histories = vec![StreamHistory::default(); streams.len()];
        for (i, erasures, snapshot) in all(&rows, read::snapshot)? {
            if let Some(history) = histories.get_mut(i) {
                (history.erasures, history.snapshot) = (erasures, snapshot);
            }
        }
        // What is appended between the two statements makes the fold newer, never torn.
        let after: Vec<_> = histories.iter().map(|h| h.snapshot.as_ref().map_or(0, |s| signed(s.position))).collect();
        let rows = sqlx::query(HISTORIES)
            .bind(&indexes)
            .bind(&teams)
            .bind(&names)
            .bind(after)
            .fetch_all(&self.pool)
            .guarded(&self.answering)
            .await
            .map_err(|e| unavailable(&e))?;
        for (i, record) in all(&rows, |row| Ok((read::index(row, 16)?, read::record(row)?)))? {
            if let Some(history) = histories.get_mut(i) {
                history.records.push(record);
            }
        }
        Ok(histories)
    }

    async fn save_snapshots(&self, snapshots: &[SnapshotRow]) -> Result<(), StoreError> {
        // Whoever holds a team may be the one who wants its snapshot kept, and it may be lost.
        sqlx::query(
            "WITH current AS (
                 SELECT team_id, erasures FROM log.heads WHERE team_id = ANY($1::text[]) AND frozen_at IS NULL
                 FOR SHARE SKIP LOCKED
             )
             INSERT INTO log.snapshots AS kept (team_id, stream, shape, stream_version, position, state)
             SELECT w.team_id, w.stream, w.shape, w.stream_version, w.position, w.state
             FROM UNNEST($1::text[], $2::text[], $3::bigint[], $4::bigint[], $5::bigint[], $6::text[], $7::bigint[])
                  AS w(team_id, stream, shape, stream_version, position, state, erasures)
             JOIN current c ON c.team_id = w.team_id AND c.erasures = w.erasures
             ON CONFLICT (team_id, stream) DO UPDATE
             SET shape = excluded.shape, stream_version = excluded.stream_version,
                 position = excluded.position, state = excluded.state
             WHERE kept.shape <> excluded.shape OR kept.position < excluded.position",
        )
        .bind(snapshots.iter().map(|s| s.team.as_str()).collect::<Vec<_>>())
        .bind(snapshots.iter().map(|s| s.stream.as_str()).collect::<Vec<_>>())
        .bind(snapshots.iter().map(|s| s.shape).collect::<Vec<_>>())
        .bind(snapshots.iter().map(|s| signed(s.stream_version)).collect::<Vec<_>>())
        .bind(snapshots.iter().map(|s| signed(s.position)).collect::<Vec<_>>())
        .bind(snapshots.iter().map(|s| s.state.as_str()).collect::<Vec<_>>())
        .bind(snapshots.iter().map(|s| s.erasures).collect::<Vec<_>>())
        .execute(&self.pool)
        .guarded(&self.answering)
        .await
        .map_err(|e| unavailable(&e))?;
        Ok(())
    }

    async fn answers(&self, keys: &[AnswerKey]) -> Result<Vec<AnswerRow>, StoreError> {
        let rows = sqlx::query(
            // `LIMIT 1` keeps the planner from joining with all the answers there are.
            "SELECT a.team_id, a.scope, a.request_key, a.fingerprint, a.status, a.sealed, a.created_at
             FROM (SELECT DISTINCT * FROM UNNEST($1::text[], $2::text[], $3::text[])) AS w(team_id, scope, request_key)
             JOIN LATERAL (
                 SELECT * FROM log.answers k
                 WHERE k.team_id = w.team_id AND k.scope = w.scope AND k.request_key = w.request_key LIMIT 1
             ) a ON true",
        )
        .bind(keys.iter().map(|k| k.team.as_str()).collect::<Vec<_>>())
        .bind(keys.iter().map(|k| k.scope.as_str()).collect::<Vec<_>>())
        .bind(keys.iter().map(|k| k.key.as_str()).collect::<Vec<_>>())
        .fetch_all(&self.pool)
        .guarded(&self.answering)
        .await
        .map_err(|e| unavailable(&e))?;
        all(&rows, read::answer)
    }

    async fn drop_answers(&self, before: i64, limit: usize) -> Result<u64, StoreError> {
        let done = sqlx::query(
            "DELETE FROM log.answers WHERE (team_id, scope, request_key) IN (
                 SELECT team_id, scope, request_key FROM log.answers WHERE created_at < $1
                 ORDER BY created_at LIMIT $2 FOR UPDATE SKIP LOCKED
             )",
        )
        .bind(before)
        .bind(limited(limit))
        .execute(&self.pool)
        .guarded(&self.answering)
        .await
        .map_err(|e| unavailable(&e))?;
        Ok(done.rows_affected())
    }

    async fn directory(&self, keys: &[DirectoryKey]) -> Result<Vec<(DirectoryKey, DirectoryEntry)>, StoreError> {
        let wanted: Vec<_> = keys.iter().map(DirectoryKey::to_text).collect();
        let rows = sqlx::query("SELECT entry, team_id, target FROM log.directory WHERE entry = ANY($1::text[])")
            .bind(wanted)
            .fetch_all(&self.pool)
            .guarded(&self.answering)
            .await
            .map_err(|e| unavailable(&e))?;
        all(&rows, read::entry)
    }

    async fn append(&self, batch: &Batch) -> Result<(), AppendError> {
        self.answering.guard(self.write(batch)).await.map_err(|e| append_error(&e))
    }

    async fn hold(&self, teams: &[TeamId]) -> Result<Box<dyn Hold>, StoreError> {
        Ok(self.answering.guard(self.lock(teams)).await.map_err(|e| unavailable(&e))?)
    }

    async fn blob(&self, team: &TeamId, id: &BlobId) -> Result<Option<BlobRow>, StoreError> {
        let row = sqlx::query("SELECT size_bytes, bytes FROM log.blobs WHERE team_id = $1 AND blob_id = $2")
            .bind(team.as_str())
            .bind(id.as_str())
            .fetch_optional(&self.pool)
            .guarded(&self.answering)
            .await
            .map_err(|e| unavailable(&e))?;
        row.map(|row| read::blob(id, &row)).transpose().map_err(|e| unavailable(&e))
    }

    async fn secret(&self, team: &TeamId, id: &SecretId) -> Result<Option<Vec<u8>>, StoreError> {
        sqlx::query_scalar("SELECT sealed FROM log.secrets WHERE team_id = $1 AND secret_id = $2")
            .bind(team.as_str())
            .bind(id.as_str())
            .fetch_optional(&self.pool)
            .guarded(&self.answering)
            .await
            .map_err(|e| unavailable(&e))
    }

    async fn secrets(
        &self,
        team: &TeamId,
        after: Option<&SecretId>,
        limit: usize,
    ) -> Result<Vec<SecretRow>, StoreError> {
        let rows = sqlx::query(
            "SELECT secret_id, sealed FROM log.secrets WHERE team_id = $1 AND secret_id > $2
             ORDER BY secret_id LIMIT $3",
        )
        .bind(team.as_str())
        .bind(after.map_or("", SecretId::as_str))
        .bind(i64::try_from(limit).unwrap_or(i64::MAX))
        .fetch_all(&self.pool)
        .guarded(&self.answering)
        .await
        .map_err(|e| unavailable(&e))?;
        all(&rows, read::secret)
    }

    async fn replace_secret(&self, team: &TeamId, read: &SecretRow, sealed: &[u8]) -> Result<bool, StoreError> {
        let put = self.answering.guard(self.put_secret(team, read, sealed)).await;
        Ok(changed(put)? > 0)
    }

    async fn erase_personal(&self, team: &TeamId, positions: &[Position]) -> Result<u64, StoreError> {
        changed(self.answering.guard(self.drop_personal(team, positions)).await)
    }

    async fn erasures(&self, after: Option<&TeamId>, limit: usize) -> Result<Vec<(TeamId, i64)>, StoreError> {
        let rows = sqlx::query(
            "SELECT team_id, erasures FROM log.heads WHERE erasures > 0 AND team_id > $1 ORDER BY team_id LIMIT $2",
        )
        .bind(after.map_or("", TeamId::as_str))
        .bind(limited(limit))
        .fetch_all(&self.pool)
        .guarded(&self.answering)
        .await
        .map_err(|e| unavailable(&e))?;
        all(&rows, read::erasures)
    }

    async fn erase_blobs(&self, team: &TeamId, ids: &[BlobId]) -> Result<u64, StoreError> {
        changed(self.answering.guard(self.drop_blobs(team, ids)).await)
    }

    async fn keep_first(&self, name: &str, value: &str) -> Result<String, StoreError> {
        loop {
            let kept = sqlx::query_scalar("SELECT value FROM log.installation_values WHERE name = $1")
                .bind(name)
                .fetch_optional(&self.pool)
                .guarded(&self.answering)
                .await
                .map_err(|e| unavailable(&e))?;
            if let Some(kept) = kept {
                return Ok(kept);
            }
            sqlx::query(
                "INSERT INTO log.installation_values (name, value) VALUES ($1, $2) ON CONFLICT (name) DO NOTHING",
            )
            .bind(name)
            .bind(value)
            .execute(&self.pool)
            .guarded(&self.answering)
            .await
            .map_err(|e| unavailable(&e))?;
        }
    }

    async fn keep(&self, name: &str, value: &str) -> Result<(), StoreError> {
        let sql = "INSERT INTO log.installation_values (name, value) VALUES ($1, $2) ON CONFLICT (name) DO UPDATE SET value = excluded.value";
        sqlx::query(sql)
            .bind(name)
            .bind(value)
            .execute(&self.pool)
            .guarded(&self.answering)
            .await
            .map(|_| ())
            .map_err(|e| unavailable(&e))
    }

    fn trees(&self) -> &dyn Trees {
        self
    }

    async fn inline_blobs(
        &self,
        team: &TeamId,
        after: Option<&BlobId>,
        before: &BlobId,
        limit: usize,
    ) -> Result<Vec<BlobId>, StoreError> {
        let rows = sqlx::query(
            "SELECT blob_id FROM log.blobs
             WHERE team_id = $1 AND blob_id > $2 AND blob_id < $3 AND bytes IS NOT NULL
             ORDER BY blob_id LIMIT $4",
        )
        .bind(team.as_str())
        .bind(after.map_or("", BlobId::as_str))
        .bind(before.as_str())
        .bind(i64::try_from(limit).unwrap_or(i64::MAX))
        .fetch_all(&self.pool)
        .guarded(&self.answering)
        .await
        .map_err(|e| unavailable(&e))?;
        all(&rows, read::blob_id)
    }

    async fn drop_inline(&self, team: &TeamId, id: &BlobId) -> Result<bool, StoreError> {
        sqlx::query("UPDATE log.blobs SET bytes = NULL WHERE team_id = $1 AND blob_id = $2 AND bytes IS NOT NULL")
            .bind(team.as_str())
            .bind(id.as_str())
            .execute(&self.pool)
            .guarded(&self.answering)
            .await
            .map(|done| done.rows_affected() > 0)
            .map_err(|e| unavailable(&e))
    }

    async fn close(&self) {
        self.pool.close().await;
    }
}
