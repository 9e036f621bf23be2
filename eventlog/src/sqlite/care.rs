//! What an operator does with the file: copies of it, a new epoch after a restore, a look for damage.

use std::path::Path;

use sqlx::sqlite::{SqliteConnectOptions, SqliteSynchronous};
use sqlx::{Connection, SqliteConnection};

use super::read::unavailable;
use super::{OpenError, SqliteBackend, readable};
use crate::backend::StoreError;

impl SqliteBackend {
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
        readable(path, epoch)
    }

    /// Has the engine look at every page and index of the file; returns what is wrong first, if anything is.
    ///
    /// # Errors
    /// The file cannot be read.
    pub async fn damage(&self) -> Result<Option<String>, StoreError> {
        let found: String = sqlx::query_scalar("PRAGMA integrity_check(1)")
            .fetch_one(&self.readers)
            .await
            .map_err(|e| unavailable(&e))?;
        Ok(Some(found).filter(|found| found != "ok"))
    }

    /// Copies the write-ahead file back and empties it, since it may still hold what was erased. Returns whether it is
    /// empty: somebody who reads for long can keep it from being so.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn empty_write_ahead(&self) -> Result<bool, StoreError> {
        let mut writer = self.writer.lock().await;
        let (busy, _, _): (i64, i64, i64) = sqlx::query_as("PRAGMA wal_checkpoint(TRUNCATE)")
            .fetch_one(&mut *writer)
            .await
            .map_err(|e| unavailable(&e))?;
        Ok(busy == 0)
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
