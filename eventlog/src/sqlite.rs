//! The default backend: SQLite files in one data directory, nothing to install.
//!
//! One connection writes, a few read. Commits flush (`synchronous=FULL`); the write-ahead log is copied back by a task
//! of its own, off the commit path.

mod care;
mod checkpoint;
mod parcel;
mod read;
mod tree;
mod write;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use domain::StreamId;
use domain::id::{BlobId, Position, SecretId, TeamId};
use futures_util::TryStreamExt as _;
use serde_json::json;
use sqlx::migrate::{MigrateError, Migrator};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{ConnectOptions, Connection, SqliteConnection, SqlitePool};
use tokio::sync::{Mutex, OwnedMutexGuard};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::backend::{
    AnswerKey, AnswerRow, AppendError, Backend, Batch, BlobRow, Head, Hold, SecretRow, SnapshotRow, StoreError,
    StreamHistory,
};
use crate::directory::{DirectoryEntry, DirectoryKey};
use crate::failpoint::Failpoints;
use crate::record::StoredRecord;
use crate::rows::{all, limited, signed};
use crate::tree::Trees;

use read::{HISTORIES, PARCEL_RECORDS, READ, READ_PARCELS, unavailable};

static MIGRATIONS: Migrator = sqlx::migrate!("migrations/sqlite");

/// Connections that read at the same time.
const READERS: u32 = 4;
/// See the module.
pub struct SqliteBackend {
    writer: Arc<Mutex<SqliteConnection>>,
    readers: SqlitePool,
    epoch: u16,
    failpoints: Failpoints,
    stop: CancellationToken,
    tasks: TaskTracker,
}

/// The store could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// A file could not be opened or created, or is not a database.
    #[error("cannot open {path}: {source}")]
    Open {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: sqlx::Error,
    },
    /// The tables could not be brought up to date.
    #[error("cannot migrate {path}: {source}")]
    Migrate {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: MigrateError,
    },
    /// A newer program has changed the tables.
    #[error(
        "{path} was written by a newer postlog: its tables are of version {found}, this program knows {known}; start the \
         newer program"
    )]
    Newer {
        /// Which file.
        path: PathBuf,
        /// The version of its tables.
        found: i64,
        /// The newest version that this program knows.
        known: i64,
    },
    /// The database is damaged.
    #[error("{path} is damaged: {found}")]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// What the check found.
        found: String,
    },
}

impl SqliteBackend {
    /// Opens or creates the log database at a path and starts copying its write-ahead log back in the background.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub async fn open(path: &Path) -> Result<Self, OpenError> {
        Self::open_reserving(path, 0).await
    }

    /// The same, with room for the write-ahead file set aside in bytes: a flush that need not make a file longer does not
    /// wait for the file system's own journal, nor for what other programs have written.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub async fn open_reserving(path: &Path, write_ahead_bytes: u64) -> Result<Self, OpenError> {
        let open = |source| OpenError::Open { path: path.to_owned(), source };
        let options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .foreign_keys(false)
            .busy_timeout(Duration::from_secs(5))
            .pragma("wal_autocheckpoint", "0")
            // What is deleted is overwritten with zeros: an erasure, a released address, a secret that was sealed anew.
            .pragma("secure_delete", "ON")
            .disable_statement_logging();
        let epoch = migrate(path, &options).await?;
        if write_ahead_bytes > 0
            && let Err(e) = checkpoint::reserve(path, write_ahead_bytes)
        {
            // Only speed depends on it.
            tracing::warn!(error = %e, "no room could be set aside for the write-ahead file");
        }
        let writer = SqliteConnection::connect_with(&options).await.map_err(open)?;
        let readers = SqlitePoolOptions::new()
            .max_connections(READERS)
            // There is no server that could have gone away.
            .test_before_acquire(false)
            .connect_with(options.clone().read_only(true).create_if_missing(false))
            .await
            .map_err(open)?;
        let checkpointer = SqliteConnection::connect_with(&options).await.map_err(open)?;
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        let writer = Arc::new(Mutex::new(writer));
        tasks.spawn(checkpoint::run(checkpointer, Arc::clone(&writer), stop.clone()));
        tasks.close();
        Ok(Self { writer, readers, epoch, failpoints: Failpoints::default(), stop, tasks })
    }

    /// Lets a test make an append fail.
    #[must_use]
    pub fn with_failpoints(mut self, failpoints: Failpoints) -> Self {
        self.failpoints = failpoints;
        self
    }

    /// Returns records one by one, as they are found.
    async fn read_rows(&self, team: &TeamId, after: Position, limit: usize) -> Result<Vec<StoredRecord>, StoreError> {
        let rows = sqlx::query(READ)
            .bind(team.as_str())
            .bind(signed(after))
            .bind(limited(limit))
            .fetch_all(&self.readers)
            .await
            .map_err(|e| unavailable(&e))?;
        all(&rows, read::record)
    }
}

/// Brings the tables up to date; returns the epoch. The connection is closed again: the last one that is copies the
/// write-ahead file back and removes it.
async fn migrate(path: &Path, options: &SqliteConnectOptions) -> Result<u16, OpenError> {
    let open = |source| OpenError::Open { path: path.to_owned(), source };
    let mut connection = SqliteConnection::connect_with(options).await.map_err(open)?;
    // `run` would make this future one that cannot be spawned.
    MIGRATIONS.run_direct(None, &mut connection, false).await.map_err(|source| match source {
        MigrateError::VersionMissing(found) => {
            let known = MIGRATIONS.iter().map(|migration| migration.version).max().unwrap_or(0);
            OpenError::Newer { path: path.to_owned(), found, known }
        }
        source => OpenError::Migrate { path: path.to_owned(), source },
    })?;
    let epoch: i64 =
        sqlx::query_scalar("SELECT epoch FROM installation").fetch_one(&mut connection).await.map_err(open)?;
    connection.close().await.map_err(open)?;
    readable(path, epoch)
}

/// Returns a stored epoch, which was never beyond 16 bits.
fn readable(path: &Path, epoch: i64) -> Result<u16, OpenError> {
    u16::try_from(epoch).map_err(|_| OpenError::Damaged { path: path.to_owned(), found: format!("epoch {epoch}") })
}

/// The only writer's connection, kept from everyone else.
struct Held {
    writer: OwnedMutexGuard<SqliteConnection>,
    failpoints: Failpoints,
}

#[async_trait]
impl Hold for Held {
    async fn append(mut self: Box<Self>, batch: &Batch) -> Result<(), AppendError> {
        write::append(&mut self.writer, batch, &self.failpoints).await
    }
}

#[async_trait]
impl Backend for SqliteBackend {
    async fn epoch(&self) -> Result<u16, StoreError> {
        Ok(self.epoch)
    }

    async fn heads(&self, teams: &[TeamId]) -> Result<Vec<(TeamId, Head)>, StoreError> {
        let rows = sqlx::query(
            "SELECT team_id, epoch, position, hash FROM heads WHERE team_id IN (SELECT value FROM json_each($1))",
        )
        .bind(json!(teams).to_string())
        .fetch_all(&self.readers)
        .await
        .map_err(|e| unavailable(&e))?;
        all(&rows, read::head)
    }

    async fn moved_since(&self, at: i64, limit: usize) -> Result<Vec<(TeamId, Position, i64)>, StoreError> {
        let rows = sqlx::query(
            "SELECT team_id, position, moved_at FROM heads WHERE moved_at >= $1 ORDER BY moved_at LIMIT $2",
        )
        .bind(at)
        .bind(limited(limit))
        .fetch_all(&self.readers)
        .await
        .map_err(|e| unavailable(&e))?;
        all(&rows, read::moved)
    }

    async fn last_moved(&self) -> Result<i64, StoreError> {
        sqlx::query_scalar("SELECT COALESCE(MAX(moved_at), 0) FROM heads")
            .fetch_one(&self.readers)
            .await
            .map_err(|e| unavailable(&e))
    }

    async fn teams(&self, after: Option<&TeamId>, limit: usize) -> Result<Vec<TeamId>, StoreError> {
        let rows = sqlx::query("SELECT team_id FROM heads WHERE team_id > $1 ORDER BY team_id LIMIT $2")
            .bind(after.map_or("", TeamId::as_str))
            .bind(limited(limit))
            .fetch_all(&self.readers)
            .await
            .map_err(|e| unavailable(&e))?;
        all(&rows, read::team)
    }

    async fn read(&self, team: &TeamId, after: Position, limit: usize) -> Result<Vec<StoredRecord>, StoreError> {
        let until = signed(after).saturating_add(limited(limit));
        let mut parcels = sqlx::query_as::<_, (Option<String>, bool)>(READ_PARCELS)
            .bind(team.as_str())
            .bind(signed(after))
            .bind(until)
            .fetch(&self.readers);
        let mut records = vec![];
        while let Some((parcel, has_more)) = parcels.try_next().await.map_err(|e| unavailable(&e))? {
            let full = limit.min(records.len().saturating_add(PARCEL_RECORDS));
            parcel::unpack(team, parcel.as_deref().unwrap_or_default(), &mut records)?;
            if has_more && records.len() < full {
                // A hole: whoever reads must see what is behind it.
                drop(parcels);
                return self.read_rows(team, after, limit).await;
            }
        }
        Ok(records)
    }

    async fn histories(&self, streams: &[(TeamId, StreamId)]) -> Result<Vec<StreamHistory>, StoreError> {
        let wanted: Vec<_> = streams.iter().enumerate().map(|(i, (t, s))| json!([i, t, s.to_string()])).collect();
        let wanted = serde_json::Value::Array(wanted).to_string();
        let mut transaction = self.readers.begin().await.map_err(|e| unavailable(&e))?;
        let snapshots = sqlx::query(
            "SELECT w.value->>0, h.team_id, h.erasures, s.stream, s.stream_version, s.position, s.state
             FROM json_each($1) w
             JOIN heads h ON h.team_id = w.value->>1
             LEFT JOIN snapshots s ON s.team_id = h.team_id AND s.stream = w.value->>2 AND s.shape = $2",
        )
        .bind(&wanted)
        .bind(domain::entity::SNAPSHOT_VERSION)
        .fetch_all(&mut *transaction)
        .await
        .map_err(|e| unavailable(&e))?;
        let mut histories = vec![StreamHistory::default(); streams.len()];
        for (i, erasures, snapshot) in all(&snapshots, read::snapshot)? {
            if let Some(history) = histories.get_mut(i) {
                (history.erasures, history.snapshot) = (erasures, snapshot);
            }
        }
        let wanted: Vec<_> = streams
            .iter()
            .zip(&histories)
            .enumerate()
            .map(|(i, ((t, s), h))| json!([i, t, s.to_string(), h.snapshot.as_ref().map_or(0, |s| s.position)]))
            .collect();
        let rows = sqlx::query(HISTORIES)
            .bind(serde_json::Value::Array(wanted).to_string())
            .fetch_all(&mut *transaction)
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
        // Whoever holds the writer may be the one who wants this snapshot kept, and it may be lost.
        let Ok(mut writer) = self.writer.try_lock() else { return Ok(()) };
        let rows: Vec<_> = snapshots
            .iter()
            .map(|s| json!([s.team, s.stream, s.shape, s.stream_version, s.position, s.state, s.erasures]))
            .collect();
        sqlx::query(
            "INSERT INTO snapshots (team_id, stream, shape, stream_version, position, state)
             SELECT value->>0, value->>1, value->>2, value->>3, value->>4, value->>5 FROM json_each($1)
             WHERE (SELECT erasures FROM heads WHERE team_id = value->>0) = value->>6
             ON CONFLICT (team_id, stream) DO UPDATE
             SET shape = excluded.shape, stream_version = excluded.stream_version,
                 position = excluded.position, state = excluded.state
             WHERE snapshots.shape <> excluded.shape OR snapshots.position < excluded.position",
        )
        .bind(serde_json::Value::Array(rows).to_string())
        .execute(&mut *writer)
        .await
        .map_err(|e| unavailable(&e))?;
        Ok(())
    }

    async fn answers(&self, keys: &[AnswerKey]) -> Result<Vec<AnswerRow>, StoreError> {
        let wanted: Vec<_> = keys.iter().map(|k| json!([k.team, k.scope, k.key])).collect();
        let rows = sqlx::query(
            "SELECT team_id, scope, request_key, fingerprint, status, sealed, created_at FROM answers
             WHERE (team_id, scope, request_key) IN (SELECT value->>0, value->>1, value->>2 FROM json_each($1))",
        )
        .bind(serde_json::Value::Array(wanted).to_string())
        .fetch_all(&self.readers)
        .await
        .map_err(|e| unavailable(&e))?;
        all(&rows, read::answer)
    }

    async fn drop_answers(&self, before: i64, limit: usize) -> Result<u64, StoreError> {
        let done = sqlx::query(
            "DELETE FROM answers WHERE rowid IN (SELECT rowid FROM answers WHERE created_at < $1 LIMIT $2)",
        )
        .bind(before)
        .bind(limited(limit))
        .execute(&mut *self.writer.lock().await)
        .await
        .map_err(|e| unavailable(&e))?;
        Ok(done.rows_affected())
    }

    async fn directory(&self, keys: &[DirectoryKey]) -> Result<Vec<(DirectoryKey, DirectoryEntry)>, StoreError> {
        let wanted: Vec<_> = keys.iter().map(DirectoryKey::to_text).collect();
        let rows = sqlx::query(
            "SELECT entry, team_id, target FROM directory WHERE entry IN (SELECT value FROM json_each($1))",
        )
        .bind(json!(wanted).to_string())
        .fetch_all(&self.readers)
        .await
        .map_err(|e| unavailable(&e))?;
        all(&rows, read::entry)
    }

    async fn append(&self, batch: &Batch) -> Result<(), AppendError> {
        let mut writer = self.writer.lock().await;
        write::append(&mut writer, batch, &self.failpoints).await
    }

    async fn hold(&self, _: &[TeamId]) -> Result<Box<dyn Hold>, StoreError> {
        let writer = Arc::clone(&self.writer).lock_owned().await;
        Ok(Box::new(Held { writer, failpoints: self.failpoints.clone() }))
    }

    async fn blob(&self, team: &TeamId, id: &BlobId) -> Result<Option<BlobRow>, StoreError> {
        let row = sqlx::query("SELECT size_bytes, bytes FROM blobs WHERE team_id = $1 AND blob_id = $2")
            .bind(team.as_str())
            .bind(id.as_str())
            .fetch_optional(&self.readers)
            .await
            .map_err(|e| unavailable(&e))?;
        row.map(|row| read::blob(id, &row)).transpose().map_err(|e| unavailable(&e))
    }

    async fn secret(&self, team: &TeamId, id: &SecretId) -> Result<Option<Vec<u8>>, StoreError> {
        sqlx::query_scalar("SELECT sealed FROM secrets WHERE team_id = $1 AND secret_id = $2")
            .bind(team.as_str())
            .bind(id.as_str())
            .fetch_optional(&self.readers)
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
            "SELECT secret_id, sealed FROM secrets WHERE team_id = $1 AND secret_id > $2 ORDER BY secret_id LIMIT $3",
        )
        .bind(team.as_str())
        .bind(after.map_or("", SecretId::as_str))
        .bind(i64::try_from(limit).unwrap_or(i64::MAX))
        .fetch_all(&self.readers)
        .await
        .map_err(|e| unavailable(&e))?;
        all(&rows, read::secret)
    }

    async fn replace_secret(&self, team: &TeamId, read: &SecretRow, sealed: &[u8]) -> Result<bool, StoreError> {
        let mut writer = self.writer.lock().await;
        let done = sqlx::query("UPDATE secrets SET sealed = $4 WHERE team_id = $1 AND secret_id = $2 AND sealed = $3")
            .bind(team.as_str())
            .bind(read.id.as_str())
            .bind(read.sealed.as_slice())
            .bind(sealed)
            .execute(&mut *writer)
            .await
            .map_err(|e| unavailable(&e))?;
        Ok(done.rows_affected() > 0)
    }

    async fn erase_personal(&self, team: &TeamId, positions: &[Position]) -> Result<u64, StoreError> {
        let mut writer = self.writer.lock().await;
        let mut transaction = writer.begin_with("BEGIN IMMEDIATE").await.map_err(|e| unavailable(&e))?;
        let done =
            sqlx::query("DELETE FROM personal WHERE team_id = $1 AND position IN (SELECT value FROM json_each($2))")
                .bind(team.as_str())
                .bind(json!(positions).to_string())
                .execute(&mut *transaction)
                .await
                .map_err(|e| unavailable(&e))?;
        // Snapshots may repeat what was erased, and so may those that are being made.
        for sql in
            ["DELETE FROM snapshots WHERE team_id = $1", "UPDATE heads SET erasures = erasures + 1 WHERE team_id = $1"]
        {
            sqlx::query(sql).bind(team.as_str()).execute(&mut *transaction).await.map_err(|e| unavailable(&e))?;
        }
        transaction.commit().await.map_err(|e| unavailable(&e))?;
        Ok(done.rows_affected())
    }

    async fn erasures(&self, after: Option<&TeamId>, limit: usize) -> Result<Vec<(TeamId, i64)>, StoreError> {
        let rows = sqlx::query(
            "SELECT team_id, erasures FROM heads WHERE erasures > 0 AND team_id > $1 ORDER BY team_id LIMIT $2",
        )
        .bind(after.map_or("", TeamId::as_str))
        .bind(limited(limit))
        .fetch_all(&self.readers)
        .await
        .map_err(|e| unavailable(&e))?;
        all(&rows, read::erasures)
    }

    async fn erase_blobs(&self, team: &TeamId, ids: &[BlobId]) -> Result<u64, StoreError> {
        let mut writer = self.writer.lock().await;
        let done = sqlx::query("DELETE FROM blobs WHERE team_id = $1 AND blob_id IN (SELECT value FROM json_each($2))")
            .bind(team.as_str())
            .bind(json!(ids).to_string())
            .execute(&mut *writer)
            .await
            .map_err(|e| unavailable(&e))?;
        Ok(done.rows_affected())
    }

    async fn keep_first(&self, name: &str, value: &str) -> Result<String, StoreError> {
        let mut writer = self.writer.lock().await;
        loop {
            let kept = sqlx::query_scalar("SELECT value FROM installation_values WHERE name = $1")
                .bind(name)
                .fetch_optional(&mut *writer)
                .await
                .map_err(|e| unavailable(&e))?;
            if let Some(kept) = kept {
                return Ok(kept);
            }
            sqlx::query("INSERT INTO installation_values (name, value) VALUES ($1, $2) ON CONFLICT (name) DO NOTHING")
                .bind(name)
                .bind(value)
                .execute(&mut *writer)
                .await
                .map_err(|e| unavailable(&e))?;
        }
    }

    async fn keep(&self, name: &str, value: &str) -> Result<(), StoreError> {
        let sql = "INSERT INTO installation_values (name, value) VALUES ($1, $2) ON CONFLICT (name) DO UPDATE SET value = excluded.value";
        sqlx::query(sql)
            .bind(name)
            .bind(value)
            .execute(&mut *self.writer.lock().await)
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
            "SELECT blob_id FROM blobs
             WHERE team_id = $1 AND blob_id > $2 AND blob_id < $3 AND bytes IS NOT NULL
             ORDER BY blob_id LIMIT $4",
        )
        .bind(team.as_str())
        .bind(after.map_or("", BlobId::as_str))
        .bind(before.as_str())
        .bind(i64::try_from(limit).unwrap_or(i64::MAX))
        .fetch_all(&self.readers)
        .await
        .map_err(|e| unavailable(&e))?;
        all(&rows, read::blob_id)
    }

    async fn drop_inline(&self, team: &TeamId, id: &BlobId) -> Result<bool, StoreError> {
        let mut writer = self.writer.lock().await;
        sqlx::query("UPDATE blobs SET bytes = NULL WHERE team_id = $1 AND blob_id = $2 AND bytes IS NOT NULL")
            .bind(team.as_str())
            .bind(id.as_str())
            .execute(&mut *writer)
            .await
            .map(|done| done.rows_affected() > 0)
            .map_err(|e| unavailable(&e))
    }

    async fn close(&self) {
        self.readers.close().await;
        // Whoever died in the middle of a transaction must not keep the write-ahead file from being copied back.
        let _ = sqlx::query("ROLLBACK").execute(&mut *self.writer.lock().await).await;
        self.stop.cancel();
        self.tasks.wait().await;
    }
}
