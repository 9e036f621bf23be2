//! The write-ahead file: room set aside for it, and its way back into the database off the commit path.

use std::fs::File;
use std::io::{ErrorKind, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use sqlx::{Connection, SqliteConnection};
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;

/// How often the write-ahead file is copied back into the database.
const EVERY: Duration = Duration::from_millis(500);
/// From this many pages (16 MiB) on the write-ahead file is made to start over.
const PAGES_MAX: i64 = 4_096;
/// What is left is little enough to make the writer wait when copying took no longer than this.
const SHORT: Duration = Duration::from_millis(10);
/// How often copying is repeated before the writer waits all the same.
const PASSES_MAX: usize = 5;

/// Makes the write-ahead file of a database as long as it will become, if there is none yet.
///
/// SQLite reads such a file as an empty one, because it does not begin with its header, and writes over it. Nothing but
/// an absent file is ever replaced: one that is there may be in use.
pub(super) fn reserve(database: &Path, bytes: u64) -> std::io::Result<()> {
    let beside = |suffix: &str| {
        let mut path = database.as_os_str().to_owned();
        path.push(suffix);
        std::path::PathBuf::from(path)
    };
    let (wal, fresh) = (beside("-wal"), beside("-wal-new"));
    if wal.exists() {
        return Ok(());
    }
    let written = (|| {
        let mut file = File::create(&fresh)?;
        // Zeros that are really written: blocks that were merely promised would be journalled when they are first used.
        let zeros = vec![0; 1024 * 1024];
        let mut left = bytes;
        while left > 0 {
            let now = usize::try_from(left).unwrap_or(usize::MAX).min(zeros.len());
            file.write_all(&zeros[..now])?;
            left -= now as u64;
        }
        file.sync_all()?;
        std::fs::hard_link(&fresh, &wal)
    })();
    std::fs::remove_file(&fresh)?;
    match written {
        Err(e) if e.kind() == ErrorKind::AlreadyExists => Ok(()),
        done => done,
    }
}

/// Runs a checkpoint; returns how many pages the write-ahead file has.
async fn copy_back(connection: &mut SqliteConnection, sql: &'static str) -> Result<i64, sqlx::Error> {
    let (_, pages, _): (i64, i64, i64) = sqlx::query_as(sql).fetch_one(connection).await?;
    Ok(pages)
}

/// Copies the write-ahead file back now and then, so that no commit has to.
pub(super) async fn run(
    mut connection: SqliteConnection,
    writer: Arc<Mutex<SqliteConnection>>,
    stop: CancellationToken,
) {
    loop {
        let stopping = tokio::select! {
            () = stop.cancelled() => true,
            () = tokio::time::sleep(EVERY) => false,
        };
        let done = if stopping {
            // One file is left.
            copy_back(&mut connection, "PRAGMA wal_checkpoint(TRUNCATE)").await.map(|_| ())
        } else {
            keep_short(&mut connection, &writer).await
        };
        if let Err(e) = done {
            tracing::warn!(error = %e, "the log's write-ahead file could not be copied back; trying again");
        }
        if stopping {
            let _ = connection.close().await;
            return;
        }
    }
}

/// Copies back without waiting for anyone; makes the file start over once it is long.
async fn keep_short(connection: &mut SqliteConnection, writer: &Mutex<SqliteConnection>) -> Result<(), sqlx::Error> {
    const PASSIVE: &str = "PRAGMA wal_checkpoint(PASSIVE)";
    for _ in 0..PASSES_MAX {
        let begun = Instant::now();
        if copy_back(connection, PASSIVE).await? <= PAGES_MAX {
            return Ok(());
        }
        if begun.elapsed() <= SHORT {
            break;
        }
    }
    // The file starts over only when all of it is copied back, which a busy writer never lets happen: the little that
    // came in meanwhile is copied while it waits.
    let _waiting = writer.lock().await;
    copy_back(connection, PASSIVE).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_write_ahead_file_that_is_there_is_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let (database, wal) = (directory.path().join("log.db"), directory.path().join("log.db-wal"));
        std::fs::write(&wal, b"somebody's").unwrap();
        reserve(&database, 1 << 20).unwrap();
        assert_eq!(std::fs::read(&wal).unwrap(), b"somebody's");
        std::fs::remove_file(&wal).unwrap();
        reserve(&database, (1 << 20) + 7).unwrap();
        assert_eq!(std::fs::metadata(&wal).unwrap().len(), (1 << 20) + 7);
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
    }
}
