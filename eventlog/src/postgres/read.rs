//! Stored rows as values, and the texts that read them.

use sqlx::postgres::PgRow;

use crate::backend::StoreError;
use crate::rows::{is_undecodable, row_readers};

row_readers!(PgRow);

pub(super) const READ: &str = "
SELECT e.team_id, e.position, e.epoch, e.stream, e.stream_version, e.name, e.version, e.facts, e.personal_digest,
       e.actor, e.causation, e.correlation, e.at, e.hash, p.salt, p.json
FROM log.events e LEFT JOIN log.personal p ON p.team_id = e.team_id AND p.position = e.position
WHERE e.team_id = $1 AND e.position > $2
ORDER BY e.position
LIMIT $3";

pub(super) const SNAPSHOTS: &str = "
SELECT w.i, h.team_id, h.erasures, s.stream, s.stream_version, s.position, s.state
FROM UNNEST($1::bigint[], $2::text[], $3::text[]) AS w(i, team_id, stream)
JOIN log.heads h ON h.team_id = w.team_id
LEFT JOIN log.snapshots s ON s.team_id = h.team_id AND s.stream = w.stream AND s.shape = $4";

/// Wanted streams come as (index, team, stream, position to read after).
pub(super) const HISTORIES: &str = "
SELECT e.team_id, e.position, e.epoch, e.stream, e.stream_version, e.name, e.version, e.facts, e.personal_digest,
       e.actor, e.causation, e.correlation, e.at, e.hash, p.salt, p.json, w.i
FROM UNNEST($1::bigint[], $2::text[], $3::text[], $4::bigint[]) AS w(i, team_id, stream, after)
JOIN log.events e ON e.team_id = w.team_id AND e.stream = w.stream AND e.position > w.after
LEFT JOIN log.personal p ON p.team_id = e.team_id AND p.position = e.position
UNION ALL
SELECT e.team_id, e.position, e.epoch, e.stream, e.stream_version, e.name, e.version, e.facts, e.personal_digest,
       e.actor, e.causation, e.correlation, e.at, e.hash, p.salt, p.json, w.i
FROM UNNEST($1::bigint[], $2::text[], $3::text[], $4::bigint[]) AS w(i, team_id, stream, after)
JOIN log.event_links l ON l.team_id = w.team_id AND l.stream = w.stream AND l.position > w.after
JOIN log.events e ON e.team_id = l.team_id AND e.position = l.position
LEFT JOIN log.personal p ON p.team_id = e.team_id AND p.position = e.position
ORDER BY 17, 2";

pub(super) fn unavailable(error: &sqlx::Error) -> StoreError {
    match error {
        e if is_undecodable(e) => StoreError::Corrupt(error.to_string()),
        // Class XX: data_corrupted, index_corrupted, internal_error.
        sqlx::Error::Database(e) if e.code().is_some_and(|code| code.starts_with("XX")) => {
            StoreError::Corrupt(error.to_string())
        }
        _ => StoreError::Unavailable(error.to_string()),
    }
}
