//! The append: one statement that fills every table, in a transaction of its own.
//!
//! Its parts see one snapshot and run in no promised order, so each of them waits for the heads: who has the heads'
//! row locks is the only writer of those teams, and no two writers wait for each other. What frees a key that the
//! same batch takes again needs a statement before it.

use domain::id::TeamId;
use sqlx::PgConnection;

use crate::backend::{AppendError, Batch};
use crate::chain::GENESIS;
use crate::rows::signed;

macro_rules! sql {
    (append) => {
        "WITH moved AS (
    INSERT INTO log.heads AS heads (team_id, epoch, position, hash, moved_at)
    SELECT w.team_id, w.epoch, w.position, w.hash, $5
    FROM UNNEST($1::text[], $2::bigint[], $3::bigint[], $4::bytea[]) AS w(team_id, epoch, position, hash)
    ON CONFLICT (team_id) DO UPDATE
    SET epoch = excluded.epoch, position = excluded.position, hash = excluded.hash,
        moved_at = GREATEST(heads.moved_at, excluded.moved_at)
    WHERE heads.position < excluded.position
    RETURNING 1
), events AS (
    INSERT INTO log.events (team_id, position, epoch, stream, stream_version, name, version, facts, personal_digest,
                            actor, causation, correlation, at, hash)
    SELECT * FROM UNNEST($6::text[], $7::bigint[], $8::bigint[], $9::text[], $10::bigint[], $11::text[], $12::bigint[],
                         $13::text[], $14::bytea[], $15::text[], $16::text[], $17::text[], $18::bigint[], $19::bytea[])
    WHERE (SELECT COUNT(*) FROM moved) >= 0
), personal AS (
    INSERT INTO log.personal (team_id, position, salt, json)
    SELECT * FROM UNNEST($20::text[], $21::bigint[], $22::bytea[], $23::text[])
    WHERE (SELECT COUNT(*) FROM moved) >= 0
), answers AS (
    INSERT INTO log.answers (team_id, scope, request_key, fingerprint, status, sealed, created_at)
    SELECT * FROM UNNEST($24::text[], $25::text[], $26::text[], $27::bytea[], $28::bigint[], $29::bytea[], $30::bigint[])
    WHERE (SELECT COUNT(*) FROM moved) >= 0
)"
    };
    (others) => {
        ", links AS (
    INSERT INTO log.event_links (team_id, stream, position)
    SELECT * FROM UNNEST($31::text[], $32::text[], $33::bigint[])
    WHERE (SELECT COUNT(*) FROM moved) >= 0
), claims AS (
    INSERT INTO log.directory (entry, team_id, target_id, target)
    SELECT * FROM UNNEST($34::text[], $35::text[], $36::text[], $37::text[])
    WHERE (SELECT COUNT(*) FROM moved) >= 0
), secrets AS (
    INSERT INTO log.secrets (team_id, secret_id, sealed)
    SELECT * FROM UNNEST($38::text[], $39::text[], $40::bytea[])
    WHERE (SELECT COUNT(*) FROM moved) >= 0
), blobs AS (
    INSERT INTO log.blobs (team_id, blob_id, size_bytes, bytes)
    SELECT * FROM UNNEST($41::text[], $42::text[], $43::bigint[], $44::bytea[])
    WHERE (SELECT COUNT(*) FROM moved) >= 0
)"
    };
}

/// Fills the tables. The key (team_id, position) is what refuses a batch that was decided on an older head.
const APPEND: &str = concat!(sql!(append), " SELECT 1");
/// The same with what a batch rarely has.
const APPEND_ALL: &str = concat!(sql!(append), sql!(others), " SELECT 1");

/// Drops what the same batch may take again: expired answers, directory rows of closed and revoked things.
const FREE: &str = "
WITH expired AS (
    DELETE FROM log.answers a
    USING UNNEST($1::text[], $2::text[], $3::text[]) AS w(team_id, scope, request_key)
    WHERE a.team_id = w.team_id AND a.scope = w.scope AND a.request_key = w.request_key
)
DELETE FROM log.directory d
USING UNNEST($4::text[], $5::text[]) AS w(team_id, target_id)
WHERE d.team_id = w.team_id AND d.target_id = w.target_id";

/// Makes sure that there is a row to lock.
const BEGIN_HEADS: &str = "
INSERT INTO log.heads (team_id, epoch, position, hash, moved_at)
SELECT w.team_id, 1, 0, $2, 0 FROM UNNEST($1::text[]) AS w(team_id)
ON CONFLICT (team_id) DO NOTHING";

/// Locks heads in the order in which an append does. A node that stops while it holds them is cut off.
const LOCK_HEADS: &str = "
SELECT team_id, set_config('idle_in_transaction_session_timeout', '10s', true)
FROM log.heads WHERE team_id = ANY($1::text[]) ORDER BY team_id FOR UPDATE";

/// Why nothing is appended to a team whose head is frozen.
pub(super) const FROZEN: &str = "the team is being moved to another database; try again";

/// Returns whether a batch needs more than the one statement.
pub(super) fn frees(batch: &Batch) -> bool {
    !batch.expired_answers.is_empty() || !batch.releases.is_empty()
}

/// Takes the heads of teams (sorted) until the end of the transaction.
pub(super) async fn lock(connection: &mut PgConnection, teams: &[TeamId]) -> Result<(), sqlx::Error> {
    let teams: Vec<_> = teams.iter().map(TeamId::as_str).collect();
    let locked = sqlx::query(LOCK_HEADS).bind(&teams).execute(&mut *connection).await?;
    if locked.rows_affected() < teams.len() as u64 {
        sqlx::query(BEGIN_HEADS).bind(&teams).bind(&GENESIS[..]).execute(&mut *connection).await?;
        sqlx::query(LOCK_HEADS).bind(&teams).execute(&mut *connection).await?;
    }
    Ok(())
}

/// Drops what the batch frees.
pub(super) async fn free(connection: &mut PgConnection, batch: &Batch) -> Result<(), sqlx::Error> {
    let (expired, releases) = (&batch.expired_answers, &batch.releases);
    sqlx::query(FREE)
        .bind(column(expired, |key| key.team.as_str()))
        .bind(column(expired, |key| key.scope.as_str()))
        .bind(column(expired, |key| key.key.as_str()))
        .bind(column(releases, |(team, _)| team.as_str()))
        .bind(column(releases, |(_, id)| id.as_str()))
        .execute(connection)
        .await?;
    Ok(())
}

pub(super) fn column<'a, R, T>(rows: &'a [R], of: impl Fn(&'a R) -> T) -> Vec<T> {
    rows.iter().map(of).collect()
}

fn has_others(batch: &Batch) -> bool {
    !(batch.links.is_empty() && batch.claims.is_empty() && batch.secrets.is_empty() && batch.blobs.is_empty())
}

/// Fills the tables.
pub(super) async fn fill(connection: &mut PgConnection, batch: &Batch) -> Result<(), sqlx::Error> {
    let (heads, records, answers) = (&batch.heads, &batch.records, &batch.answers);
    let halves: Vec<_> = records.iter().filter_map(|r| Some((r, r.personal.as_ref()?))).collect();
    let others = has_others(batch);
    let query = sqlx::query(if others { APPEND_ALL } else { APPEND })
        .bind(column(heads, |(team, _)| team.as_str()))
        .bind(column(heads, |(_, head)| i64::from(head.epoch)))
        .bind(column(heads, |(_, head)| signed(head.position)))
        .bind(column(heads, |(_, head)| &head.hash[..]))
        .bind(batch.at)
        .bind(column(records, |r| r.team.as_str()))
        .bind(column(records, |r| signed(r.position)))
        .bind(column(records, |r| i64::from(r.epoch)))
        .bind(column(records, |r| r.stream.as_str()))
        .bind(column(records, |r| signed(r.stream_version)))
        .bind(column(records, |r| r.name.as_str()))
        .bind(column(records, |r| r.version))
        .bind(column(records, |r| r.facts.as_str()))
        .bind(column(records, |r| r.personal_digest.as_ref().map(|d| &d[..])))
        .bind(column(records, |r| r.actor.as_str()))
        .bind(column(records, |r| r.causation.as_deref()))
        .bind(column(records, |r| r.correlation.as_str()))
        .bind(column(records, |r| r.at))
        .bind(column(records, |r| &r.hash[..]))
        .bind(column(&halves, |(r, _)| r.team.as_str()))
        .bind(column(&halves, |(r, _)| signed(r.position)))
        .bind(column(&halves, |(_, half)| &half.salt[..]))
        .bind(column(&halves, |(_, half)| half.json.as_str()))
        .bind(column(answers, |a| a.key.team.as_str()))
        .bind(column(answers, |a| a.key.scope.as_str()))
        .bind(column(answers, |a| a.key.key.as_str()))
        .bind(column(answers, |a| &a.fingerprint[..]))
        .bind(column(answers, |a| a.status))
        .bind(column(answers, |a| a.sealed.as_slice()))
        .bind(column(answers, |a| a.created_at));
    if !others {
        query.execute(connection).await?;
        return Ok(());
    }
    let (links, secrets, blobs) = (&batch.links, &batch.secrets, &batch.blobs);
    let claims: Vec<_> = batch
        .claims
        .iter()
        .map(|(key, entry)| {
            let target = serde_json::to_string(&entry.target).expect("a directory target is plain data");
            (key.to_text(), entry, target)
        })
        .collect();
    query
        .bind(column(links, |(team, ..)| team.as_str()))
        .bind(column(links, |(_, stream, _)| stream.as_str()))
        .bind(column(links, |(.., position)| signed(*position)))
        .bind(column(&claims, |(key, ..)| key.as_str()))
        .bind(column(&claims, |(_, entry, _)| entry.team.as_str()))
        .bind(column(&claims, |(_, entry, _)| entry.target.id()))
        .bind(column(&claims, |(.., target)| target.as_str()))
        .bind(column(secrets, |(team, _)| team.as_str()))
        .bind(column(secrets, |(_, secret)| secret.id.as_str()))
        .bind(column(secrets, |(_, secret)| secret.sealed.as_slice()))
        .bind(column(blobs, |(team, _)| team.as_str()))
        .bind(column(blobs, |(_, blob)| blob.id.as_str()))
        .bind(column(blobs, |(_, blob)| blob.size_bytes))
        .bind(column(blobs, |(_, blob)| blob.inline.as_deref()))
        .execute(connection)
        .await?;
    Ok(())
}

pub(super) fn append_error(error: &sqlx::Error) -> AppendError {
    let sqlx::Error::Database(database) = error else {
        // A lost connection: nobody knows whether the commit was done.
        return AppendError::Unavailable(error.to_string());
    };
    let code = database.code().unwrap_or_default();
    match code.as_ref() {
        // unique_violation; serialization_failure, deadlock_detected: the other one goes first.
        "23505" | "40001" | "40P01" => AppendError::Conflict,
        // disk_full
        "53100" => AppendError::Full,
        // check_violation of the one constraint that says something about the team and nothing about the content.
        "23514" if database.constraint() == Some("heads_frozen") => AppendError::Refused(FROZEN.to_owned()),
        // Data exceptions and constraints: the content itself is the reason. 54000: it is too large.
        code if code.starts_with("22") || code.starts_with("23") || code.starts_with("54") => {
            AppendError::Refused(error.to_string())
        }
        _ => AppendError::Unavailable(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lost_connection_leaves_the_outcome_unknown() {
        let lost = sqlx::Error::Io(std::io::Error::from(std::io::ErrorKind::ConnectionReset));
        assert!(matches!(append_error(&lost), AppendError::Unavailable(_)));
        assert!(matches!(append_error(&sqlx::Error::PoolTimedOut), AppendError::Unavailable(_)));
    }
}
