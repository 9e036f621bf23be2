//! Files that are uploaded before the mail they go with: bookkeeping, one row per file from its announcement until it
//! expires.
//!
//! The rows are kept beside webhook attempts, in [`Work`]; the bytes in the object store, where no event names them.
//! Losing either changes nothing that the log says: a mail that was accepted has bytes of its own.

use domain::id::{BlobId, MailboxId, TeamId, UploadId};
use eventlog::EventLog;

use crate::db::{Cells, Select};
use crate::webhook_attempts::Work;
use crate::{Error, exec, rows};

/// The tables of uploads; every [`Work`] has them.
pub(crate) const TABLES: &str = include_str!("uploads.sql");

/// How many files are erased at once.
const ERASED_AT_ONCE: usize = 1_000;

/// A file that was announced or uploaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// The announcement.
    pub upload: UploadId,
    /// The name under which mails refer to the file, `att_…` or `blob_…`.
    pub file: String,
    /// The mailbox whose key announced it; `None` for keys of the whole team. Only such keys may use it.
    pub mailbox: Option<MailboxId>,
    /// Its name.
    pub filename: String,
    /// Its media type.
    pub content_type: String,
    /// How many bytes it has.
    pub size_bytes: u64,
    /// Lower-case hex of the SHA-256 that its bytes have or, before they came, must have.
    pub sha256: Option<String>,
    /// Where its bytes are; `None` before they came.
    pub blob: Option<BlobId>,
    /// Until when it can be used, microseconds since the Unix epoch.
    pub expires_at: i64,
}

/// How much a team may keep at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    /// Files.
    pub files_max: u64,
    /// Bytes of all files.
    pub bytes_max: u64,
}

fn signed(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

/// Adds a file, unless the team has no room for it; returns whether it was added.
///
/// Files of one team are added in turn: of those that come at the same moment, each sees the ones before it.
///
/// # Errors
/// The database does not answer.
pub async fn add(work: &Work, team: &TeamId, row: &Row, room: Room, now_micros: i64) -> Result<bool, Error> {
    let mut tx = work.begin().await?;
    // Whoever adds for this team next waits here until this is committed, and counts only then.
    exec!(
        tx,
        "INSERT INTO upload_turns (team_id, turns) VALUES ($1, 1)
         ON CONFLICT (team_id) DO UPDATE SET turns = upload_turns.turns + 1",
        team.as_str()
    )?;
    let added = exec!(
        tx,
        "INSERT INTO uploads (team_id, upload_id, file_id, mailbox_id, filename, content_type, size_bytes, sha256,
                              blob_id, expires_at)
         SELECT $1, $2, $3, $4, $5, $6, $7, $8, $9, $10
         WHERE (SELECT COUNT(*) FROM uploads WHERE team_id = $1 AND expires_at > $11) < $12
           AND (SELECT COALESCE(SUM(size_bytes), 0) FROM uploads WHERE team_id = $1 AND expires_at > $11) + $7 <= $13",
        team.as_str(),
        row.upload.as_str(),
        row.file.as_str(),
        row.mailbox.as_ref().map_or("", MailboxId::as_str),
        row.filename.as_str(),
        row.content_type.as_str(),
        signed(row.size_bytes),
        row.sha256.as_deref(),
        row.blob.as_ref().map(BlobId::as_str),
        row.expires_at,
        now_micros,
        signed(room.files_max),
        signed(room.bytes_max)
    )?;
    tx.commit().await?;
    Ok(added == 1)
}

/// Notes that the bytes of a file came. `false` if they had come before, or it expired.
///
/// # Errors
/// The database does not answer.
pub async fn complete(
    work: &Work,
    team: &TeamId,
    upload: &UploadId,
    (blob, sha256): (&BlobId, &str),
    expires_at: i64,
) -> Result<bool, Error> {
    let mut tx = work.begin().await?;
    let completed = exec!(
        tx,
        "UPDATE uploads SET blob_id = $1, sha256 = $2, expires_at = $3
         WHERE team_id = $4 AND upload_id = $5 AND blob_id IS NULL",
        blob.as_str(),
        sha256,
        expires_at,
        team.as_str(),
        upload.as_str()
    )?;
    tx.commit().await?;
    Ok(completed == 1)
}

/// Forgets a file.
///
/// # Errors
/// The database does not answer.
pub async fn remove(work: &Work, team: &TeamId, upload: &UploadId) -> Result<(), Error> {
    let mut tx = work.begin().await?;
    exec!(tx, "DELETE FROM uploads WHERE team_id = $1 AND upload_id = $2", team.as_str(), upload.as_str())?;
    tx.commit().await?;
    Ok(())
}

/// Drops the files that a mailbox's keys announced, or all of a team's.
///
/// # Errors
/// A database does not answer; what was not dropped then is dropped like what expires.
pub async fn erase(work: &Work, log: &EventLog, team: &TeamId, mailbox: Option<&MailboxId>) -> Result<(), Error> {
    let mut tx = work.begin().await?;
    exec!(
        tx,
        "UPDATE uploads SET expires_at = 0, filename = '' WHERE team_id = $1 AND ($2 = '' OR mailbox_id = $2)",
        team.as_str(),
        mailbox.map_or("", MailboxId::as_str)
    )?;
    tx.commit().await?;
    while drop_expired(work, log, 0, ERASED_AT_ONCE).await? == ERASED_AT_ONCE {}
    Ok(())
}

const SELECT: &str = "
SELECT upload_id, file_id, mailbox_id, filename, content_type, size_bytes, sha256, blob_id, expires_at
FROM uploads
WHERE team_id = ";

/// Returns an announced or uploaded file; `None` if there is none or it expired.
///
/// # Errors
/// The database does not answer.
pub async fn of_upload(work: &Work, team: &TeamId, upload: &UploadId, now_micros: i64) -> Result<Option<Row>, Error> {
    let mut select = Select::new(SELECT);
    select.text(team.as_str()).push(" AND upload_id = ").text(upload.as_str());
    select.push(" AND expires_at > ").int(now_micros);
    select.fetch(&mut work.read().await?).await?.first().map(row).transpose()
}

/// Returns an uploaded file by the name under which mails refer to it; `None` if there is none, its bytes have not come,
/// or it expired.
///
/// # Errors
/// The database does not answer.
pub async fn of_file(work: &Work, team: &TeamId, file: &str, now_micros: i64) -> Result<Option<Row>, Error> {
    let mut select = Select::new(SELECT);
    select.text(team.as_str()).push(" AND file_id = ").text(file.replace('\0', ""));
    select.push(" AND blob_id IS NOT NULL AND expires_at > ").int(now_micros);
    select.fetch(&mut work.read().await?).await?.first().map(row).transpose()
}

/// Drops expired files and their bytes, at most `limit`; returns how many.
///
/// # Errors
/// The database or the object store does not answer; what is left is dropped by asking again.
pub async fn drop_expired(work: &Work, log: &EventLog, now_micros: i64, limit: usize) -> Result<usize, Error> {
    let mut reader = work.read().await?;
    let found = rows!(
        reader,
        "SELECT team_id, upload_id, blob_id FROM uploads WHERE expires_at <= $1 ORDER BY expires_at LIMIT $2",
        now_micros,
        i64::try_from(limit).unwrap_or(i64::MAX)
    )?;
    drop(reader);
    for cells in &found {
        let team: TeamId = cells.parsed("team_id")?;
        // The row last: as long as it is there, asking again finds the bytes.
        if let Some(blob) = cells.parsed_opt::<BlobId>("blob_id")? {
            log.drop_loose(&team, &blob).await?;
        }
        remove(work, &team, &cells.parsed("upload_id")?).await?;
    }
    Ok(found.len())
}

fn row(cells: &Cells) -> Result<Row, Error> {
    let mailbox = cells.text("mailbox_id")?;
    Ok(Row {
        upload: cells.parsed("upload_id")?,
        file: cells.text("file_id")?,
        mailbox: if mailbox.is_empty() { None } else { Some(cells.parsed("mailbox_id")?) },
        filename: cells.text("filename")?,
        content_type: cells.text("content_type")?,
        size_bytes: cells.unsigned("size_bytes")?,
        sha256: cells.get("sha256")?,
        blob: cells.parsed_opt("blob_id")?,
        expires_at: cells.get("expires_at")?,
    })
}

#[cfg(test)]
mod tests;
