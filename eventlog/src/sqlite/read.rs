//! Stored rows as values, and the texts that read them.

use sqlx::Row;
use sqlx::sqlite::SqliteRow;

use crate::backend::{SnapshotRow, StoreError};
use crate::record::{StoredPersonal, StoredRecord};

pub(super) const READ: &str = "
SELECT e.team_id, e.position, e.epoch, e.stream, e.stream_version, e.name, e.version, e.facts, e.personal_digest,
       e.actor, e.causation, e.correlation, e.at, e.hash, p.salt, p.json
FROM events e LEFT JOIN personal p ON p.team_id = e.team_id AND p.position = e.position
WHERE e.team_id = $1 AND e.position > $2
ORDER BY e.position
LIMIT $3";

/// Wanted streams come as rows of (index, team, stream, position to read after).
pub(super) const HISTORIES: &str = "
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

pub(super) fn unavailable(error: &sqlx::Error) -> StoreError {
    match error {
        sqlx::Error::ColumnDecode { .. } | sqlx::Error::Decode(_) => StoreError::Corrupt(error.to_string()),
        // SQLITE_CORRUPT, SQLITE_NOTADB
        sqlx::Error::Database(e) if matches!(primary_code(e.as_ref()), Some(11 | 26)) => {
            StoreError::Corrupt(error.to_string())
        }
        _ => StoreError::Unavailable(error.to_string()),
    }
}

pub(super) fn primary_code(error: &dyn sqlx::error::DatabaseError) -> Option<i32> {
    error.code()?.parse::<i32>().ok().map(|code| code & 0xff)
}

pub(super) fn signed(n: u64) -> i64 {
    i64::try_from(n).expect("positions and versions stay below 2^63")
}

pub(super) fn unsigned(row: &SqliteRow, column: usize) -> Result<u64, sqlx::Error> {
    u64::try_from(row.try_get::<i64, _>(column)?).map_err(|e| decode(column, e))
}

pub(super) fn decode(column: usize, source: impl std::error::Error + Send + Sync + 'static) -> sqlx::Error {
    sqlx::Error::ColumnDecode { index: column.to_string(), source: Box::new(source) }
}

pub(super) fn bytes<const N: usize>(row: &SqliteRow, column: usize) -> Result<[u8; N], sqlx::Error> {
    let found: Vec<u8> = row.try_get(column)?;
    found.as_slice().try_into().map_err(|e: std::array::TryFromSliceError| decode(column, e))
}

pub(super) fn parse<T: std::str::FromStr<Err: std::error::Error + Send + Sync + 'static>>(
    row: &SqliteRow,
    column: usize,
) -> Result<T, sqlx::Error> {
    row.try_get::<&str, _>(column)?.parse().map_err(|e| decode(column, e))
}

pub(super) fn record(row: &SqliteRow) -> Result<StoredRecord, sqlx::Error> {
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

/// The index of a stream that was asked for, its team's erasures and its snapshot.
pub(super) fn snapshot_row(row: &SqliteRow) -> Result<(usize, i64, Option<SnapshotRow>), sqlx::Error> {
    let index = usize::try_from(row.try_get::<i64, _>(0)?).map_err(|e| decode(0, e))?;
    let erasures = row.try_get(2)?;
    let snapshot = match row.try_get::<Option<String>, _>(3)? {
        Some(stream) => Some(SnapshotRow {
            team: parse(row, 1)?,
            stream,
            shape: domain::entity::SNAPSHOT_VERSION,
            stream_version: unsigned(row, 4)?,
            position: unsigned(row, 5)?,
            state: row.try_get(6)?,
            erasures,
        }),
        None => None,
    };
    Ok((index, erasures, snapshot))
}
