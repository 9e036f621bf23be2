//! Stored rows as values, and the texts that read them.

use sqlx::sqlite::SqliteRow;

use crate::backend::StoreError;
use crate::rows::{is_undecodable, row_readers};

row_readers!(SqliteRow);

/// At most $3 records behind position $2, whatever their positions are.
pub(super) const READ: &str = "
SELECT e.team_id, e.position, e.epoch, e.stream, e.stream_version, e.name, e.version, e.facts, e.personal_digest,
       e.actor, e.causation, e.correlation, e.at, e.hash, p.salt, p.json
FROM events e LEFT JOIN personal p ON p.team_id = e.team_id AND p.position = e.position
WHERE e.team_id = $1 AND e.position > $2
ORDER BY e.position
LIMIT $3";

/// The records behind position $2 up to position $3: one text for every [`PARCEL_RECORDS`] of them, see
/// [`super::parcel`], and whether there are more behind it. A row is handed over from thread to thread, and each of its
/// columns copied, which costs more than reading it.
pub(super) const READ_PARCELS: &str = "
WITH RECURSIVE parcels(after) AS (
    SELECT $2
    UNION ALL
    SELECT after + 64 FROM parcels
    WHERE after + 64 < $3 AND EXISTS (SELECT 1 FROM events WHERE team_id = $1 AND position > after + 64)
)
SELECT (
    SELECT group_concat(concat(
        e.position, ',', e.epoch, ',', e.stream_version, ',', e.version, ',', e.at, ',',
        octet_length(e.stream), ',', octet_length(e.name), ',', octet_length(e.facts), ',',
        ifnull(2 * octet_length(e.personal_digest), '-'), ',', octet_length(e.actor), ',',
        ifnull(octet_length(e.causation), '-'), ',', octet_length(e.correlation), ',', 2 * octet_length(e.hash), ',',
        ifnull(2 * octet_length(p.salt), '-'), ',', ifnull(octet_length(p.json), '-'), ';',
        e.stream, e.name, e.facts, hex(e.personal_digest), e.actor, e.causation, e.correlation, hex(e.hash),
        hex(p.salt), p.json
    ), '')
    FROM events e LEFT JOIN personal p ON p.team_id = e.team_id AND p.position = e.position
    WHERE e.team_id = $1 AND e.position > after AND e.position <= min(after + 64, $3)
), EXISTS (SELECT 1 FROM events WHERE team_id = $1 AND position > min(after + 64, $3))
FROM parcels";

/// How many records a parcel has, unless the page or the log ends in it.
pub(super) const PARCEL_RECORDS: usize = 64;

/// Wanted streams come as rows of (index, team, stream, position to read after). The `+` keeps the planner from taking
/// the index of positions, by which each stream would be looked for in the whole log behind its snapshot.
pub(super) const HISTORIES: &str = "
SELECT e.team_id, e.position, e.epoch, e.stream, e.stream_version, e.name, e.version, e.facts, e.personal_digest,
       e.actor, e.causation, e.correlation, e.at, e.hash, p.salt, p.json, w.value->>0
FROM json_each($1) w
JOIN events e ON e.team_id = w.value->>1 AND e.stream = w.value->>2 AND +e.position > w.value->>3
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
        e if is_undecodable(e) => StoreError::Corrupt(error.to_string()),
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
