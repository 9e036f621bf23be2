//! The default backend: SQLite files in one data directory, nothing to install.
//!
//! One connection writes, a few read. Every append is one text of several statements, one per table, each fed by
//! one JSON parameter: with this driver the round trip is the unit of cost, not the row. Commits flush
//! (`synchronous=FULL`); the write-ahead log is copied back by a task of its own, off the commit path.

use std::path::{Path, PathBuf};
use std::time::Duration;

use async_trait::async_trait;
use domain::StreamId;
use domain::id::{BlobId, Position, SecretId, TeamId};
use serde_json::json;
use sqlx::migrate::Migrator;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteRow, SqliteSynchronous};
use sqlx::{ConnectOptions, Connection, Row, SqliteConnection, SqlitePool};
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::backend::{
    AnswerKey, AnswerRow, AppendError, Backend, Batch, BlobRow, Head, SnapshotRow, StoreError, StreamHistory,
};
use crate::directory::{DirectoryEntry, DirectoryKey};
use crate::record::{StoredPersonal, StoredRecord};

static MIGRATIONS: Migrator = sqlx::migrate!("migrations/sqlite");

/// Connections that read at the same time.
const READERS: u32 = 4;
/// How often the write-ahead log is copied back into the database.
const CHECKPOINT_EVERY: Duration = Duration::from_millis(500);

const APPEND: &str = "
BEGIN IMMEDIATE;
INSERT INTO events (team_id, position, epoch, stream, stream_version, name, version, facts, personal_digest,
                    actor, causation, correlation, at, hash)
SELECT value->>0, value->>1, value->>2, value->>3, value->>4, value->>5, value->>6, value->>7, unhex(value->>8),
       value->>9, value->>10, value->>11, value->>12, unhex(value->>13)
FROM json_each($1);
INSERT INTO personal (team_id, position, salt, json)
SELECT value->>0, value->>1, unhex(value->>2), value->>3 FROM json_each($2);
INSERT INTO heads (team_id, epoch, position, hash, moved_at)
SELECT value->>0, value->>1, value->>2, unhex(value->>3), value->>4 FROM json_each($3) WHERE true
ON CONFLICT (team_id) DO UPDATE
SET epoch = excluded.epoch, position = excluded.position, hash = excluded.hash, moved_at = excluded.moved_at;
";

const APPEND_EXTRAS: &str = "
INSERT INTO event_links (team_id, stream, position)
SELECT value->>0, value->>1, value->>2 FROM json_each($1);
DELETE FROM directory WHERE (team_id, target_id) IN (SELECT value->>0, value->>1 FROM json_each($2));
INSERT INTO directory (entry, team_id, target_id, target)
SELECT value->>0, value->>1, value->>2, value->>3 FROM json_each($3);
DELETE FROM answers
WHERE (team_id, scope, request_key) IN (SELECT value->>0, value->>1, value->>2 FROM json_each($4));
INSERT INTO answers (team_id, scope, request_key, fingerprint, status, sealed, created_at)
SELECT value->>0, value->>1, value->>2, unhex(value->>3), value->>4, unhex(value->>5), value->>6 FROM json_each($5);
INSERT INTO secrets (team_id, secret_id, sealed)
SELECT value->>0, value->>1, unhex(value->>2) FROM json_each($6);
INSERT INTO blobs (team_id, blob_id, size_bytes, bytes)
SELECT value->>0, value->>1, value->>2, unhex(value->>3) FROM json_each($7);
";

const READ: &str = "
SELECT e.team_id, e.position, e.epoch, e.stream, e.stream_version, e.name, e.version, e.facts, e.personal_digest,
       e.actor, e.causation, e.correlation, e.at, e.hash, p.salt, p.json
FROM events e LEFT JOIN personal p ON p.team_id = e.team_id AND p.position = e.position
WHERE e.team_id = $1 AND e.position > $2
ORDER BY e.position
LIMIT $3";

/// Wanted streams come as rows of (index, team, stream, position to read after).
const HISTORIES: &str = "
SELECT e.team_id, e.position, e.epoch, e.stream, e.stream_version, e.name, e.version, e.facts, e.personal_digest,
       e.actor, e.causation, e.correlation, e.at, e.hash, p.salt, p.json, w.value->>0
FROM json_each($1) w
JOIN events e ON e.team_id = w.value->>1 AND e.stream = w.value->>2 AND e.position > w.value->>3
LEFT JOIN personal p ON p.team_id = e.team_id AND p.position = e.position
UNION ALL
SELECT e.team_id, e.position, e.epoch, e.stream, e.stream_version, e.name, e.version, e.facts, e.personal_digest,
       e.actor, e.causation, e.correlation, e.at, e.hash, p.salt, p.json, w.value->>0
FROM json_each($1) w
JOIN event_links l ON l.team_id = w.value->>1 AND l.stream = w.value->>2 AND l.position > w.value->>3
JOIN events e ON e.team_id = l.team_id AND e.position = l.position
LEFT JOIN personal p ON p.team_id = e.team_id AND p.position = e.position
ORDER BY 17, 2";

/// See the module.
pub struct SqliteBackend {
    writer: Mutex<SqliteConnection>,
    readers: SqlitePool,
    epoch: u16,
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
        source: sqlx::migrate::MigrateError,
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
        let open = |source| OpenError::Open { path: path.to_owned(), source };
        let options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .foreign_keys(false)
            .busy_timeout(Duration::from_secs(5))
            .pragma("wal_autocheckpoint", "0")
            .disable_statement_logging();
        let mut writer = SqliteConnection::connect_with(&options).await.map_err(open)?;
        MIGRATIONS.run(&mut writer).await.map_err(|source| OpenError::Migrate { path: path.to_owned(), source })?;
        let epoch: i64 =
            sqlx::query_scalar("SELECT epoch FROM installation").fetch_one(&mut writer).await.map_err(open)?;
        let readers = SqlitePoolOptions::new()
            .max_connections(READERS)
            .connect_with(options.clone().read_only(true).create_if_missing(false))
            .await
            .map_err(open)?;
        let checkpointer = SqliteConnection::connect_with(&options).await.map_err(open)?;
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        tasks.spawn(checkpoint(checkpointer, stop.clone()));
        tasks.close();
        let epoch = u16::try_from(epoch)
            .map_err(|_| OpenError::Damaged { path: path.to_owned(), found: format!("epoch {epoch}") })?;
        Ok(Self { writer: Mutex::new(writer), readers, epoch, stop, tasks })
    }

    /// Begins a new epoch: after a restore from a backup, ids of events that were lost must not be taken for new ones.
    ///
    /// # Errors
    /// The database cannot be written.
    pub async fn begin_epoch(path: &Path) -> Result<u16, OpenError> {
        let open = |source| OpenError::Open { path: path.to_owned(), source };
        let options = SqliteConnectOptions::new().filename(path).synchronous(SqliteSynchronous::Full);
        let mut connection = SqliteConnection::connect_with(&options).await.map_err(open)?;
        let epoch: i64 = sqlx::query_scalar("UPDATE installation SET epoch = epoch + 1 RETURNING epoch")
            .fetch_one(&mut connection)
            .await
            .map_err(open)?;
        connection.close().await.map_err(open)?;
        u16::try_from(epoch).map_err(|_| OpenError::Damaged { path: path.to_owned(), found: format!("epoch {epoch}") })
    }

    /// Writes a consistent copy of the database to a new file while the log goes on.
    ///
    /// # Errors
    /// The copy cannot be written.
    pub async fn backup(&self, to: &Path) -> Result<(), StoreError> {
        let mut connection = self.readers.acquire().await.map_err(|e| unavailable(&e))?;
        sqlx::query("VACUUM INTO $1")
            .bind(to.to_string_lossy().into_owned())
            .execute(&mut *connection)
            .await
            .map_err(|e| unavailable(&e))?;
        Ok(())
    }
}

/// Copies the write-ahead log back now and then, so that no commit has to.
async fn checkpoint(mut connection: SqliteConnection, stop: CancellationToken) {
    loop {
        let stopping = tokio::select! {
            () = stop.cancelled() => true,
            () = tokio::time::sleep(CHECKPOINT_EVERY) => false,
        };
        // TRUNCATE at the end leaves one file; PASSIVE in between never waits for readers or the writer.
        let sql = if stopping { "PRAGMA wal_checkpoint(TRUNCATE)" } else { "PRAGMA wal_checkpoint(PASSIVE)" };
        if let Err(e) = sqlx::query(sql).execute(&mut connection).await {
            tracing::warn!(error = %e, "the log's write-ahead file could not be copied back; trying again");
        }
        if stopping {
            let _ = connection.close().await;
            return;
        }
    }
}

fn unavailable(error: &sqlx::Error) -> StoreError {
    match error {
        sqlx::Error::ColumnDecode { .. } | sqlx::Error::Decode(_) => StoreError::Corrupt(error.to_string()),
        // SQLITE_CORRUPT, SQLITE_NOTADB
        sqlx::Error::Database(e) if matches!(primary_code(e.as_ref()), Some(11 | 26)) => {
            StoreError::Corrupt(error.to_string())
        }
        _ => StoreError::Unavailable(error.to_string()),
    }
}

fn primary_code(error: &dyn sqlx::error::DatabaseError) -> Option<i32> {
    error.code()?.parse::<i32>().ok().map(|code| code & 0xff)
}

fn append_error(error: &sqlx::Error) -> AppendError {
    match error {
        sqlx::Error::Database(e) if e.is_unique_violation() => AppendError::Conflict,
        sqlx::Error::Database(e) => match primary_code(e.as_ref()) {
            Some(13) => AppendError::Full,
            // SQLITE_IOERR, SQLITE_CORRUPT: the page cache and the disk may differ.
            Some(10 | 11) => AppendError::Flush(error.to_string()),
            _ => AppendError::Unavailable(error.to_string()),
        },
        _ => AppendError::Unavailable(error.to_string()),
    }
}

fn signed(n: u64) -> i64 {
    i64::try_from(n).expect("positions and versions stay below 2^63")
}

fn unsigned(row: &SqliteRow, column: usize) -> Result<u64, sqlx::Error> {
    u64::try_from(row.try_get::<i64, _>(column)?).map_err(|e| decode(column, e))
}

fn decode(column: usize, source: impl std::error::Error + Send + Sync + 'static) -> sqlx::Error {
    sqlx::Error::ColumnDecode { index: column.to_string(), source: Box::new(source) }
}

fn bytes<const N: usize>(row: &SqliteRow, column: usize) -> Result<[u8; N], sqlx::Error> {
    let found: Vec<u8> = row.try_get(column)?;
    found.as_slice().try_into().map_err(|e: std::array::TryFromSliceError| decode(column, e))
}

fn parse<T: std::str::FromStr<Err: std::error::Error + Send + Sync + 'static>>(
    row: &SqliteRow,
    column: usize,
) -> Result<T, sqlx::Error> {
    row.try_get::<&str, _>(column)?.parse().map_err(|e| decode(column, e))
}

fn record(row: &SqliteRow) -> Result<StoredRecord, sqlx::Error> {
    let salt: Option<Vec<u8>> = row.try_get(14)?;
    let personal = match salt {
        Some(_) => Some(StoredPersonal { salt: bytes(row, 14)?, json: row.try_get(15)? }),
        None => None,
    };
    let digest: Option<Vec<u8>> = row.try_get(8)?;
    Ok(StoredRecord {
        team: parse(row, 0)?,
        position: unsigned(row, 1)?,
        epoch: u16::try_from(row.try_get::<i64, _>(2)?).map_err(|e| decode(2, e))?,
        stream: row.try_get(3)?,
        stream_version: unsigned(row, 4)?,
        name: row.try_get(5)?,
        version: row.try_get(6)?,
        facts: row.try_get(7)?,
        personal_digest: digest.map(|_| bytes(row, 8)).transpose()?,
        personal,
        actor: row.try_get(9)?,
        causation: row.try_get(10)?,
        correlation: row.try_get(11)?,
        at: row.try_get(12)?,
        hash: bytes(row, 13)?,
    })
}

/// A snapshot and the index of the stream it was asked for.
fn snapshot_row(row: &SqliteRow) -> Result<(usize, SnapshotRow), sqlx::Error> {
    let index = usize::try_from(row.try_get::<i64, _>(0)?).map_err(|e| decode(0, e))?;
    let snapshot = SnapshotRow {
        team: parse(row, 1)?,
        stream: row.try_get(2)?,
        shape: domain::entity::SNAPSHOT_VERSION,
        stream_version: unsigned(row, 3)?,
        position: unsigned(row, 4)?,
        state: row.try_get(5)?,
    };
    Ok((index, snapshot))
}

/// The first three parameters of an append: records, personal halves, heads.
fn core_rows(batch: &Batch) -> [String; 3] {
    let records: Vec<_> = batch
        .records
        .iter()
        .map(|r| {
            json!([
                r.team,
                r.position,
                r.epoch,
                r.stream,
                r.stream_version,
                r.name,
                r.version,
                r.facts,
                r.personal_digest.map(hex::encode),
                r.actor,
                r.causation,
                r.correlation,
                r.at,
                hex::encode(r.hash),
            ])
        })
        .collect();
    let personal: Vec<_> = batch
        .records
        .iter()
        .filter_map(|r| {
            let p = r.personal.as_ref()?;
            Some(json!([r.team, r.position, hex::encode(p.salt), p.json]))
        })
        .collect();
    let heads: Vec<_> =
        batch.heads.iter().map(|(team, h)| json!([team, h.epoch, h.position, hex::encode(h.hash), batch.at])).collect();
    [records, personal, heads].map(|rows| serde_json::Value::Array(rows).to_string())
}

/// The parameters of the rarer half of an append; `None` if a batch has none of it.
fn extra_rows(batch: &Batch) -> Option<[String; 7]> {
    let none = batch.links.is_empty()
        && batch.releases.is_empty()
        && batch.claims.is_empty()
        && batch.expired_answers.is_empty()
        && batch.answers.is_empty()
        && batch.secrets.is_empty()
        && batch.blobs.is_empty();
    if none {
        return None;
    }
    let links = batch.links.iter().map(|(t, s, p)| json!([t, s, p])).collect();
    let releases = batch.releases.iter().map(|(t, id)| json!([t, id])).collect();
    let claims = batch.claims.iter().map(|(key, entry)| {
        let target = serde_json::to_string(&entry.target).expect("a directory target is plain data");
        json!([key.to_text(), entry.team, entry.target.id(), target])
    });
    let expired = batch.expired_answers.iter().map(|k| json!([k.team, k.scope, k.key])).collect();
    let answers = batch.answers.iter().map(|a| {
        let (fingerprint, sealed) = (hex::encode(a.fingerprint), hex::encode(&a.sealed));
        json!([a.key.team, a.key.scope, a.key.key, fingerprint, a.status, sealed, a.created_at])
    });
    let secrets = batch.secrets.iter().map(|(t, s)| json!([t, s.id, hex::encode(&s.sealed)])).collect();
    let blobs = batch.blobs.iter().map(|(t, b)| json!([t, b.id, b.size_bytes, b.inline.as_ref().map(hex::encode)]));
    let rows: [Vec<serde_json::Value>; 7] =
        [links, releases, claims.collect(), expired, answers.collect(), secrets, blobs.collect()];
    Some(rows.map(|rows| serde_json::Value::Array(rows).to_string()))
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
        let head = |row: &SqliteRow| -> Result<_, sqlx::Error> {
            let epoch = u16::try_from(row.try_get::<i64, _>(1)?).map_err(|e| decode(1, e))?;
            Ok((parse(row, 0)?, Head { epoch, position: unsigned(row, 2)?, hash: bytes(row, 3)? }))
        };
        rows.iter().map(head).collect::<Result<_, _>>().map_err(|e| unavailable(&e))
    }

    async fn moved_since(&self, at: i64, limit: usize) -> Result<Vec<(TeamId, Position, i64)>, StoreError> {
        let rows = sqlx::query(
            "SELECT team_id, position, moved_at FROM heads WHERE moved_at >= $1 ORDER BY moved_at LIMIT $2",
        )
        .bind(at)
        .bind(i64::try_from(limit).unwrap_or(i64::MAX))
        .fetch_all(&self.readers)
        .await
        .map_err(|e| unavailable(&e))?;
        let moved =
            |row: &SqliteRow| -> Result<_, sqlx::Error> { Ok((parse(row, 0)?, unsigned(row, 1)?, row.try_get(2)?)) };
        rows.iter().map(moved).collect::<Result<_, _>>().map_err(|e| unavailable(&e))
    }

    async fn teams(&self, after: Option<&TeamId>, limit: usize) -> Result<Vec<TeamId>, StoreError> {
        let rows = sqlx::query("SELECT team_id FROM heads WHERE team_id > $1 ORDER BY team_id LIMIT $2")
            .bind(after.map_or("", TeamId::as_str))
            .bind(i64::try_from(limit).unwrap_or(i64::MAX))
            .fetch_all(&self.readers)
            .await
            .map_err(|e| unavailable(&e))?;
        rows.iter().map(|row| parse(row, 0)).collect::<Result<_, _>>().map_err(|e| unavailable(&e))
    }

    async fn read(&self, team: &TeamId, after: Position, limit: usize) -> Result<Vec<StoredRecord>, StoreError> {
        let rows = sqlx::query(READ)
            .bind(team.as_str())
            .bind(signed(after))
            .bind(i64::try_from(limit).unwrap_or(i64::MAX))
            .fetch_all(&self.readers)
            .await
            .map_err(|e| unavailable(&e))?;
        rows.iter().map(record).collect::<Result<_, _>>().map_err(|e| unavailable(&e))
    }

    async fn histories(&self, streams: &[(TeamId, StreamId)]) -> Result<Vec<StreamHistory>, StoreError> {
        let wanted: Vec<_> = streams.iter().enumerate().map(|(i, (t, s))| json!([i, t, s.to_string()])).collect();
        let wanted = serde_json::Value::Array(wanted).to_string();
        let mut transaction = self.readers.begin().await.map_err(|e| unavailable(&e))?;
        let snapshots = sqlx::query(
            "SELECT w.value->>0, s.team_id, s.stream, s.stream_version, s.position, s.state
             FROM json_each($1) w JOIN snapshots s ON s.team_id = w.value->>1 AND s.stream = w.value->>2
             WHERE s.shape = $2",
        )
        .bind(&wanted)
        .bind(domain::entity::SNAPSHOT_VERSION)
        .fetch_all(&mut *transaction)
        .await
        .map_err(|e| unavailable(&e))?;
        let mut histories = vec![StreamHistory::default(); streams.len()];
        for row in &snapshots {
            let (i, snapshot) = snapshot_row(row).map_err(|e| unavailable(&e))?;
            if let Some(history) = histories.get_mut(i) {
                history.snapshot = Some(snapshot);
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
        for row in &rows {
            let i = unsigned(row, 16).map_err(|e| unavailable(&e))?;
            if let Some(history) = usize::try_from(i).ok().and_then(|i| histories.get_mut(i)) {
                history.records.push(record(row).map_err(|e| unavailable(&e))?);
            }
        }
        Ok(histories)
    }

    async fn save_snapshots(&self, snapshots: &[SnapshotRow]) -> Result<(), StoreError> {
        let rows: Vec<_> = snapshots
            .iter()
            .map(|s| json!([s.team, s.stream, s.shape, s.stream_version, s.position, s.state]))
            .collect();
        sqlx::query(
            "INSERT INTO snapshots (team_id, stream, shape, stream_version, position, state)
             SELECT value->>0, value->>1, value->>2, value->>3, value->>4, value->>5 FROM json_each($1) WHERE true
             ON CONFLICT (team_id, stream) DO UPDATE
             SET shape = excluded.shape, stream_version = excluded.stream_version,
                 position = excluded.position, state = excluded.state",
        )
        .bind(serde_json::Value::Array(rows).to_string())
        .execute(&mut *self.writer.lock().await)
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
        let answer = |row: &SqliteRow| -> Result<_, sqlx::Error> {
            Ok(AnswerRow {
                key: AnswerKey { team: parse(row, 0)?, scope: row.try_get(1)?, key: row.try_get(2)? },
                fingerprint: bytes(row, 3)?,
                status: row.try_get(4)?,
                sealed: row.try_get(5)?,
                created_at: row.try_get(6)?,
            })
        };
        rows.iter().map(answer).collect::<Result<_, _>>().map_err(|e| unavailable(&e))
    }

    async fn drop_answers(&self, before: i64, limit: usize) -> Result<u64, StoreError> {
        let done = sqlx::query(
            "DELETE FROM answers WHERE rowid IN (SELECT rowid FROM answers WHERE created_at < $1 LIMIT $2)",
        )
        .bind(before)
        .bind(i64::try_from(limit).unwrap_or(i64::MAX))
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
        let entry = |row: &SqliteRow| -> Result<_, sqlx::Error> {
            let target = serde_json::from_str(row.try_get(2)?).map_err(|e| decode(2, e))?;
            let key = DirectoryKey::from_text(row.try_get(0)?).ok_or_else(|| decode(0, std::fmt::Error))?;
            Ok((key, DirectoryEntry { team: parse(row, 1)?, target }))
        };
        rows.iter().map(entry).collect::<Result<_, _>>().map_err(|e| unavailable(&e))
    }

    async fn append(&self, batch: &Batch) -> Result<(), AppendError> {
        let [records, personal, heads] = core_rows(batch);
        let extras = extra_rows(batch);
        let mut writer = self.writer.lock().await;
        let written = async {
            sqlx::query(APPEND).bind(records).bind(personal).bind(heads).execute(&mut *writer).await?;
            if let Some(rows) = extras {
                let query = rows.into_iter().fold(sqlx::query(APPEND_EXTRAS), |query, row| query.bind(row));
                query.execute(&mut *writer).await?;
            }
            sqlx::query("COMMIT").execute(&mut *writer).await
        }
        .await;
        if let Err(error) = written {
            // Some errors end the transaction by themselves; then there is nothing to roll back.
            let _ = sqlx::query("ROLLBACK").execute(&mut *writer).await;
            return Err(append_error(&error));
        }
        Ok(())
    }

    async fn blob(&self, team: &TeamId, id: &BlobId) -> Result<Option<BlobRow>, StoreError> {
        let row = sqlx::query("SELECT size_bytes, bytes FROM blobs WHERE team_id = $1 AND blob_id = $2")
            .bind(team.as_str())
            .bind(id.as_str())
            .fetch_optional(&self.readers)
            .await
            .map_err(|e| unavailable(&e))?;
        let blob = |row: SqliteRow| -> Result<_, sqlx::Error> {
            let inline: Option<Vec<u8>> = row.try_get(1)?;
            Ok(BlobRow { id: id.clone(), inline: inline.map(Into::into), size_bytes: row.try_get(0)? })
        };
        row.map(blob).transpose().map_err(|e| unavailable(&e))
    }

    async fn secret(&self, team: &TeamId, id: &SecretId) -> Result<Option<Vec<u8>>, StoreError> {
        sqlx::query_scalar("SELECT sealed FROM secrets WHERE team_id = $1 AND secret_id = $2")
            .bind(team.as_str())
            .bind(id.as_str())
            .fetch_optional(&self.readers)
            .await
            .map_err(|e| unavailable(&e))
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
        // Snapshots may repeat what was erased.
        sqlx::query("DELETE FROM snapshots WHERE team_id = $1")
            .bind(team.as_str())
            .execute(&mut *transaction)
            .await
            .map_err(|e| unavailable(&e))?;
        transaction.commit().await.map_err(|e| unavailable(&e))?;
        Ok(done.rows_affected())
    }

    async fn close(&self) {
        self.readers.close().await;
        self.stop.cancel();
        self.tasks.wait().await;
    }
}
