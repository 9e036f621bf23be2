//! Attempts at webhook deliveries: bookkeeping, one row per HTTP request, kept for seven days.
//!
//! They are written by the dispatcher in batches, beside its cursors, in a database of their own ([`Work`]): losing
//! them changes nothing that the log says. A delivered payload is not stored: the event gives the same bytes again
//! ([`payload`]), unless what identifies a person was erased from it meanwhile.

use std::path::Path;

use domain::id::{AttemptId, EventId, TeamId, WebhookId};
use domain::published::{Envelope, WebhookBody, WebhookEventType, webhook_body};
use eventlog::EventLog;
use eventlog::postgres::Servers;
use serde_json::json;

use crate::db::{Cells, Db, Held, Purpose, Reader, Select, Tx};
use crate::{Error, Page, Paged, exec};

/// How long attempts and their payloads can be looked at, microseconds.
pub const RETENTION_MICROS: i64 = 7 * 24 * 3_600 * 1_000_000;

/// The PostgreSQL schema of work.
const SCHEMA: &str = "work";
/// The list's name in page cursors.
const LIST: &str = "webhook_attempts";

/// The database of the dispatcher's bookkeeping. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Work {
    db: Db,
}

impl Work {
    /// Opens or creates the SQLite file of work, with further tables (`CREATE … IF NOT EXISTS`).
    ///
    /// # Errors
    /// The file cannot be opened or written.
    pub async fn open_sqlite(path: &Path, tables: &[&str]) -> Result<Self, Error> {
        Self::over(Db::open_sqlite(path, Purpose::Work).await?, tables).await
    }

    /// Opens new work in memory, for tests and simulation.
    ///
    /// # Errors
    /// SQLite has no memory left.
    pub async fn memory(tables: &[&str]) -> Result<Self, Error> {
        Self::over(Db::open_memory().await?, tables).await
    }

    /// Opens or finds the work in the database of a simulation.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn simulated(held: Held, tables: &[&str]) -> Result<Self, Error> {
        Self::over(Db::Held(held), tables).await
    }

    /// Opens or creates the schema `work` of a PostgreSQL database.
    ///
    /// # Errors
    /// The database does not answer, or refuses to create tables.
    pub async fn open_postgres(url: &str, tables: &[&str]) -> Result<Self, Error> {
        Self::open_postgres_on(&url.parse()?, tables).await
    }

    /// The same with servers that somebody follows.
    ///
    /// # Errors
    /// See [`Work::open_postgres`].
    pub async fn open_postgres_on(servers: &Servers, tables: &[&str]) -> Result<Self, Error> {
        Self::over(Db::open_postgres(servers, SCHEMA).await?, tables).await
    }

    async fn over(db: Db, tables: &[&str]) -> Result<Self, Error> {
        let work = Self { db };
        // Two nodes that start at the same moment may create the same table; the second try finds it.
        if work.create(tables).await.is_err() {
            work.create(tables).await?;
        }
        Ok(work)
    }

    async fn create(&self, tables: &[&str]) -> Result<(), Error> {
        let mut tx = self.db.begin().await?;
        for tables in [include_str!("webhook_attempts.sql"), crate::uploads::TABLES].iter().chain(tables) {
            Db::create_missing(&mut tx, tables).await?;
        }
        tx.commit().await
    }

    /// Begins a transaction that may write.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn begin(&self) -> Result<Tx<'static>, Error> {
        self.db.begin().await
    }

    /// Returns a connection to read with.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn read(&self) -> Result<Reader, Error> {
        self.db.read().await
    }

    /// Leaves nothing in the files of what was deleted. See [`forget`].
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn scrub(&self) -> Result<(), Error> {
        self.db.scrub().await
    }

    /// Closes all connections.
    pub async fn close(&self) {
        self.db.close().await;
    }
}

/// Forgets what receivers said to deliveries of events whose personal half was erased: they may have repeated it.
///
/// # Errors
/// The database does not answer.
pub async fn forget(work: &Work, team: &TeamId, events: &[EventId]) -> Result<(), Error> {
    let mut tx = work.begin().await?;
    let sql = tx.pick(
        "UPDATE webhook_attempts SET response_body = NULL, error_message = NULL
         WHERE team_id = $1 AND event_id IN (SELECT value FROM json_each($2))",
        "UPDATE webhook_attempts SET response_body = NULL, error_message = NULL
         WHERE team_id = $1 AND event_id IN (SELECT json_array_elements_text($2::json))",
    );
    exec!(tx, sql, team.as_str(), json!(events).to_string())?;
    tx.commit().await
}

/// How an attempt ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AttemptResult {
    /// The endpoint answered 2xx.
    Success,
    /// It failed and another attempt is planned.
    Retrying,
    /// It failed and no other is planned, though not all have been made: the webhook was switched off meanwhile.
    Failed,
    /// It failed and was the last: all attempts have been made, or the endpoint said that it is gone.
    PermanentFailure,
}

impl AttemptResult {
    /// All results.
    pub const ALL: [Self; 4] = [Self::Success, Self::Retrying, Self::Failed, Self::PermanentFailure];

    /// Returns the published word.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Retrying => "retrying",
            Self::Failed => "failed",
            Self::PermanentFailure => "permanent_failure",
        }
    }

    /// Returns the result of that word.
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|result| result.as_str() == word)
    }
}

/// One attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// The attempt.
    pub id: AttemptId,
    /// The webhook.
    pub webhook: WebhookId,
    /// When it was made, microseconds since the Unix epoch.
    pub created_at: i64,
    /// The event.
    pub event: EventId,
    /// The event's published type.
    pub event_type: WebhookEventType,
    /// Its number, from 1.
    pub delivery_attempt: u32,
    /// After how many the webhook counts as failing.
    pub max_attempts: u32,
    /// How it ended.
    pub result: AttemptResult,
    /// The HTTP status; `None` if there was no answer.
    pub response_status: Option<u16>,
    /// From its start to the end of the answer, milliseconds.
    pub response_ms: u64,
    /// The beginning of the answer's body.
    pub response_body: Option<String>,
    /// Why there was no answer; safe to show.
    pub error_message: Option<String>,
    /// When the next attempt is due, while one is planned.
    pub next_retry_at: Option<i64>,
    /// Size of the request's body.
    pub payload_bytes: u64,
    /// Lower-case hex of the SHA-256 of the request's body.
    pub payload_sha256: String,
}

impl Row {
    /// Returns when the attempt and its payload can no more be looked at, microseconds since the Unix epoch.
    #[must_use]
    pub fn expires_at(&self) -> i64 {
        self.created_at.saturating_add(RETENTION_MICROS)
    }
}

/// Which attempts are listed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Filter {
    /// Only those at events of this type.
    pub event_type: Option<WebhookEventType>,
    /// Only those that ended like this.
    pub result: Option<AttemptResult>,
}

const INSERT_SQLITE: &str = "
INSERT INTO webhook_attempts (team_id, webhook_id, attempt_id, created_at, event_id, event_type, delivery_attempt,
                              max_attempts, result, response_status, response_ms, response_body, error_message,
                              next_retry_at, payload_bytes, payload_sha256)
SELECT value->>0, value->>1, value->>2, value->>3, value->>4, value->>5, value->>6, value->>7, value->>8, value->>9,
       value->>10, value->>11, value->>12, value->>13, value->>14, value->>15
FROM json_each($1) WHERE true
ON CONFLICT DO NOTHING";

const INSERT_POSTGRES: &str = "
INSERT INTO webhook_attempts (team_id, webhook_id, attempt_id, created_at, event_id, event_type, delivery_attempt,
                              max_attempts, result, response_status, response_ms, response_body, error_message,
                              next_retry_at, payload_bytes, payload_sha256)
SELECT value->>0, value->>1, value->>2, (value->>3)::bigint, value->>4, value->>5, (value->>6)::bigint,
       (value->>7)::bigint, value->>8, (value->>9)::bigint, (value->>10)::bigint, value->>11, value->>12,
       (value->>13)::bigint, (value->>14)::bigint, value->>15
FROM json_array_elements($1::json)
ON CONFLICT DO NOTHING";

/// Adds attempts of any teams, within the transaction that settles them.
///
/// # Errors
/// The database does not take them; the caller rolls back.
pub async fn insert(tx: &mut Tx<'_>, attempts: &[(TeamId, Row)]) -> Result<(), Error> {
    let rows: Vec<_> = attempts
        .iter()
        .map(|(team, row)| {
            json!([
                team,
                row.webhook,
                row.id,
                row.created_at,
                row.event,
                row.event_type,
                row.delivery_attempt,
                row.max_attempts,
                row.result.as_str(),
                row.response_status,
                row.response_ms,
                row.response_body,
                row.error_message,
                row.next_retry_at,
                row.payload_bytes,
                row.payload_sha256,
            ])
        })
        .collect();
    let sql = tx.pick(INSERT_SQLITE, INSERT_POSTGRES);
    exec!(tx, sql, serde_json::to_string(&rows)?)?;
    Ok(())
}

const SELECT: &str = "
SELECT webhook_id, attempt_id, created_at, event_id, event_type, delivery_attempt, max_attempts, result,
       response_status, response_ms, response_body, error_message, next_retry_at, payload_bytes, payload_sha256
FROM webhook_attempts
WHERE team_id = ";

/// Returns a webhook's attempts, newest first; expired ones are left out.
///
/// # Errors
/// [`Error::BadCursor`], or the database does not answer.
pub async fn list(
    work: &Work,
    team: &TeamId,
    webhook: &WebhookId,
    filter: &Filter,
    page: &Page,
    now_micros: i64,
) -> Result<Paged<Row>, Error> {
    let mut select = Select::new(SELECT);
    select.text(team.as_str()).push(" AND webhook_id = ").text(webhook.as_str());
    select.push(" AND created_at > ").int(now_micros.saturating_sub(RETENTION_MICROS));
    if let Some(event_type) = filter.event_type {
        select.push(" AND event_type = ").text(event_type.as_str());
    }
    if let Some(result) = filter.result {
        select.push(" AND result = ").text(result.as_str());
    }
    if let Some(before) = page.key::<AttemptId>(LIST)? {
        select.push(" AND attempt_id < ").text(before.as_str());
    }
    // Ids begin with their time.
    select.push(" ORDER BY attempt_id DESC LIMIT ").int(page.fetch());
    let rows = select.fetch(&mut work.read().await?).await?;
    let rows = rows.iter().map(row).collect::<Result<_, _>>()?;
    Paged::new(rows, page, LIST, |row: &Row| row.id.clone())
}

/// Returns one attempt; `None` if there is none or it has expired.
///
/// # Errors
/// The database does not answer.
pub async fn get(
    work: &Work,
    team: &TeamId,
    webhook: &WebhookId,
    attempt: &AttemptId,
    now_micros: i64,
) -> Result<Option<Row>, Error> {
    let mut select = Select::new(SELECT);
    select.text(team.as_str()).push(" AND webhook_id = ").text(webhook.as_str());
    select.push(" AND attempt_id = ").text(attempt.as_str());
    let found = select.fetch(&mut work.read().await?).await?.first().map(row).transpose()?;
    Ok(found.filter(|row| row.expires_at() > now_micros))
}

/// Returns the payload of an attempt, made from its event again; `None` if the event is not one of this log's.
///
/// # Errors
/// The log cannot be read.
pub async fn payload(log: &EventLog, team: &TeamId, attempt: &Row) -> Result<Option<WebhookBody>, Error> {
    if !attempt.event.is_of(team) || attempt.event.position == 0 {
        return Ok(None);
    }
    let found = log.read(team, attempt.event.position - 1, 1).await?;
    Ok(found
        .first()
        .filter(|record| record.id() == attempt.event)
        .and_then(|record| webhook_body(&record.event, Envelope { team, id: record.id(), at: record.at })))
}

/// Drops expired attempts, at most `limit`; returns how many.
///
/// # Errors
/// The database does not answer.
pub async fn drop_expired(work: &Work, now_micros: i64, limit: usize) -> Result<u64, Error> {
    let mut tx = work.begin().await?;
    let before = now_micros.saturating_sub(RETENTION_MICROS);
    let dropped = exec!(
        tx,
        "DELETE FROM webhook_attempts
         WHERE (team_id, webhook_id, attempt_id) IN (
             SELECT team_id, webhook_id, attempt_id FROM webhook_attempts
             WHERE created_at <= $1 ORDER BY created_at LIMIT $2)",
        before,
        i64::try_from(limit).unwrap_or(i64::MAX)
    )?;
    tx.commit().await?;
    Ok(dropped)
}

fn row(cells: &Cells) -> Result<Row, Error> {
    let status: Option<i64> = cells.get("response_status")?;
    let small = |column| cells.unsigned(column).map(|n| u32::try_from(n).unwrap_or(u32::MAX));
    let result = cells.text("result")?;
    Ok(Row {
        id: cells.parsed("attempt_id")?,
        webhook: cells.parsed("webhook_id")?,
        created_at: cells.get("created_at")?,
        event: cells.parsed("event_id")?,
        event_type: cells.named("event_type")?,
        delivery_attempt: small("delivery_attempt")?,
        max_attempts: small("max_attempts")?,
        result: AttemptResult::parse(&result)
            .ok_or_else(|| crate::db::corrupt("result", std::io::Error::other(format!("{result:?} is no result"))))?,
        response_status: status.and_then(|n| u16::try_from(n).ok()),
        response_ms: cells.unsigned("response_ms")?,
        response_body: cells.get("response_body")?,
        error_message: cells.get("error_message")?,
        next_retry_at: cells.get("next_retry_at")?,
        payload_bytes: cells.unsigned("payload_bytes")?,
        payload_sha256: cells.text("payload_sha256")?,
    })
}

#[cfg(test)]
mod tests;
