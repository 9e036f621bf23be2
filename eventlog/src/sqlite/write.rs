//! The append: one text of all its statements, `BEGIN` and `COMMIT` included, because with this driver the round trip
//! is the unit of cost.
//!
//! Each table is fed by one JSON parameter. Whatever is binary or long lies in one parameter of bytes beside them, and
//! the rows say where: escaping the facts inside JSON would cost more than all the rest.

use sqlx::SqliteConnection;

use super::read::primary_code;
use crate::backend::{AppendError, Batch};
use crate::failpoint::{Failpoints, Point};
use crate::rows::signed;

macro_rules! sql {
    (begin) => {
        "BEGIN IMMEDIATE;\n"
    };
    (events) => {
        "INSERT INTO events (team_id, position, epoch, stream, stream_version, name, version, facts, personal_digest,
                             actor, causation, correlation, at, hash)
         SELECT value->>0, value->>1, value->>2, value->>3, value->>4, value->>5, value->>6,
                CAST(substr($1, value->>7, value->>8) AS TEXT), substr($1, value->>9, 32),
                value->>10, value->>11, value->>12, value->>13, substr($1, value->>14, 32)
         FROM json_each($2);\n"
    };
    (personal) => {
        "INSERT INTO personal (team_id, position, salt, json)
         SELECT value->>0, value->>1, substr($1, value->>2, 16), CAST(substr($1, value->>3, value->>4) AS TEXT)
         FROM json_each($3);\n"
    };
    (heads) => {
        "INSERT INTO heads (team_id, epoch, position, hash, moved_at)
         SELECT value->>0, value->>1, value->>2, substr($1, value->>3, 32), value->>4 FROM json_each($4) WHERE true
         ON CONFLICT (team_id) DO UPDATE
         SET epoch = excluded.epoch, position = excluded.position, hash = excluded.hash,
             moved_at = max(heads.moved_at, excluded.moved_at);\n"
    };
    (expired) => {
        "DELETE FROM answers
         WHERE (team_id, scope, request_key) IN (SELECT value->>0, value->>1, value->>2 FROM json_each($5));\n"
    };
    (answers) => {
        "INSERT INTO answers (team_id, scope, request_key, fingerprint, status, sealed, created_at)
         SELECT value->>0, value->>1, value->>2, substr($1, value->>3, 32), value->>4,
                substr($1, value->>5, value->>6), value->>7
         FROM json_each($6);\n"
    };
    (links) => {
        "INSERT INTO event_links (team_id, stream, position)
         SELECT value->>0, value->>1, value->>2 FROM json_each($7);\n"
    };
    (releases) => {
        "DELETE FROM directory WHERE (team_id, target_id) IN (SELECT value->>0, value->>1 FROM json_each($8));\n"
    };
    (claims) => {
        "INSERT INTO directory (entry, team_id, target_id, target)
         SELECT value->>0, value->>1, value->>2, value->>3 FROM json_each($9);\n"
    };
    (secrets) => {
        "INSERT INTO secrets (team_id, secret_id, sealed)
         SELECT value->>0, value->>1, substr($1, value->>2, value->>3) FROM json_each($10);\n"
    };
    (blobs) => {
        "INSERT INTO blobs (team_id, blob_id, size_bytes, bytes)
         SELECT value->>0, value->>1, value->>2, substr($1, value->>3, value->>4) FROM json_each($11);\n"
    };
    (commit) => {
        "COMMIT;\n"
    };
}

/// Events alone.
const APPEND: &str = concat!(sql!(begin), sql!(events), sql!(personal), sql!(heads), sql!(commit));
/// Events and answers: requests with idempotency keys.
const APPEND_ANSWERED: &str =
    concat!(sql!(begin), sql!(events), sql!(personal), sql!(heads), sql!(expired), sql!(answers), sql!(commit));
/// Everything a batch can hold.
const STATEMENTS: [&str; 12] = [
    sql!(begin),
    sql!(events),
    sql!(personal),
    sql!(heads),
    sql!(expired),
    sql!(answers),
    sql!(links),
    sql!(releases),
    sql!(claims),
    sql!(secrets),
    sql!(blobs),
    sql!(commit),
];
const APPEND_ALL: &str = concat!(
    sql!(begin),
    sql!(events),
    sql!(personal),
    sql!(heads),
    sql!(expired),
    sql!(answers),
    sql!(links),
    sql!(releases),
    sql!(claims),
    sql!(secrets),
    sql!(blobs),
    sql!(commit)
);

/// Rows as one JSON array of arrays, written by hand: this is the hottest loop of an append.
pub(super) struct Rows(String);

impl Rows {
    pub(super) fn new(rows: usize, row_bytes: usize) -> Self {
        let mut json = String::with_capacity(2 + rows * row_bytes);
        json.push('[');
        Self(json)
    }

    pub(super) fn row(&mut self) -> &mut Self {
        self.0.push_str(if self.0.len() > 1 { ",[" } else { "[" });
        self
    }

    pub(super) fn end(&mut self) {
        // Every value leaves a comma behind it.
        self.0.pop();
        self.0.push(']');
    }

    pub(super) fn text(&mut self, text: &str) -> &mut Self {
        self.0.push('"');
        if text.bytes().any(|b| b < 0x20 || b == b'"' || b == b'\\') {
            for c in text.chars() {
                match c {
                    '"' => self.0.push_str("\\\""),
                    '\\' => self.0.push_str("\\\\"),
                    c if u32::from(c) < 0x20 => self.0.push_str(&format!("\\u{:04x}", u32::from(c))),
                    c => self.0.push(c),
                }
            }
        } else {
            self.0.push_str(text);
        }
        self.0.push_str("\",");
        self
    }

    pub(super) fn int(&mut self, n: i64) -> &mut Self {
        use std::fmt::Write;
        write!(self.0, "{n},").expect("a String takes any text");
        self
    }

    fn null(&mut self) -> &mut Self {
        self.0.push_str("null,");
        self
    }

    pub(super) fn finish(mut self) -> String {
        self.0.push(']');
        self.0
    }
}

/// The parameter of bytes; places in it count from 1.
#[derive(Default)]
pub(super) struct Bytes(pub(super) Vec<u8>);

impl Bytes {
    pub(super) fn put(&mut self, bytes: &[u8]) -> i64 {
        let place = len(&self.0) + 1;
        self.0.extend_from_slice(bytes);
        place
    }
}

fn len(bytes: &[u8]) -> i64 {
    i64::try_from(bytes.len()).expect("a length in memory is below 2^63")
}

/// The parameters, in the order of their numbers.
struct Parameters {
    bytes: Vec<u8>,
    rows: Vec<String>,
}

fn core_rows(batch: &Batch, bytes: &mut Bytes) -> [Rows; 3] {
    let records = &batch.records;
    let mut events = Rows::new(records.len(), 320);
    let mut personal = Rows::new(records.len(), 64);
    let mut heads = Rows::new(batch.heads.len(), 96);
    for r in records {
        let row = events.row();
        row.text(r.team.as_str()).int(signed(r.position)).int(i64::from(r.epoch)).text(&r.stream);
        row.int(signed(r.stream_version)).text(&r.name).int(r.version);
        row.int(bytes.put(r.facts.as_bytes())).int(len(r.facts.as_bytes()));
        match &r.personal_digest {
            Some(digest) => row.int(bytes.put(digest)),
            None => row.null(),
        };
        row.text(&r.actor);
        match &r.causation {
            Some(causation) => row.text(causation),
            None => row.null(),
        };
        row.text(&r.correlation).int(r.at).int(bytes.put(&r.hash)).end();
        if let Some(half) = &r.personal {
            let row = personal.row().text(r.team.as_str()).int(signed(r.position)).int(bytes.put(&half.salt));
            row.int(bytes.put(half.json.as_bytes())).int(len(half.json.as_bytes())).end();
        }
    }
    for (team, h) in &batch.heads {
        let row = heads.row().text(team.as_str()).int(i64::from(h.epoch)).int(signed(h.position));
        row.int(bytes.put(&h.hash)).int(batch.at).end();
    }
    [events, personal, heads]
}

fn answer_rows(batch: &Batch, bytes: &mut Bytes) -> [Rows; 2] {
    let mut expired = Rows::new(batch.expired_answers.len(), 96);
    let mut answers = Rows::new(batch.answers.len(), 160);
    for key in &batch.expired_answers {
        expired.row().text(key.team.as_str()).text(&key.scope).text(&key.key).end();
    }
    for a in &batch.answers {
        let row = answers.row().text(a.key.team.as_str()).text(&a.key.scope).text(&a.key.key);
        row.int(bytes.put(&a.fingerprint)).int(a.status).int(bytes.put(&a.sealed)).int(len(&a.sealed));
        row.int(a.created_at).end();
    }
    [expired, answers]
}

fn other_rows(batch: &Batch, bytes: &mut Bytes) -> [Rows; 5] {
    let mut links = Rows::new(batch.links.len(), 96);
    let mut releases = Rows::new(batch.releases.len(), 96);
    let mut claims = Rows::new(batch.claims.len(), 256);
    let mut secrets = Rows::new(batch.secrets.len(), 96);
    let mut blobs = Rows::new(batch.blobs.len(), 96);
    for (team, stream, position) in &batch.links {
        links.row().text(team.as_str()).text(stream).int(signed(*position)).end();
    }
    for (team, id) in &batch.releases {
        releases.row().text(team.as_str()).text(id).end();
    }
    for (key, entry) in &batch.claims {
        let target = serde_json::to_string(&entry.target).expect("a directory target is plain data");
        let row = claims.row().text(&key.to_text()).text(entry.team.as_str());
        row.text(entry.target.id()).text(&target).end();
    }
    for (team, secret) in &batch.secrets {
        let row = secrets.row().text(team.as_str()).text(secret.id.as_str());
        row.int(bytes.put(&secret.sealed)).int(len(&secret.sealed)).end();
    }
    for (team, blob) in &batch.blobs {
        let row = blobs.row().text(team.as_str()).text(blob.id.as_str()).int(blob.size_bytes);
        match &blob.inline {
            Some(inline) => row.int(bytes.put(inline)).int(len(inline)).end(),
            None => row.null().null().end(),
        }
    }
    [links, releases, claims, secrets, blobs]
}

fn has_others(batch: &Batch) -> bool {
    !(batch.links.is_empty()
        && batch.releases.is_empty()
        && batch.claims.is_empty()
        && batch.secrets.is_empty()
        && batch.blobs.is_empty())
}

/// Writes a batch in one transaction.
pub(super) async fn append(
    connection: &mut SqliteConnection,
    batch: &Batch,
    failpoints: &Failpoints,
) -> Result<(), AppendError> {
    let mut bytes = Bytes::default();
    let mut rows = Vec::from(core_rows(batch, &mut bytes));
    let step_by_step = failpoints.goes_step_by_step();
    let others = step_by_step || has_others(batch);
    let answered = others || !batch.answers.is_empty() || !batch.expired_answers.is_empty();
    if answered {
        rows.extend(answer_rows(batch, &mut bytes));
    }
    if others {
        rows.extend(other_rows(batch, &mut bytes));
    }
    let parameters = Parameters { bytes: bytes.0, rows: rows.into_iter().map(Rows::finish).collect() };
    let written = if step_by_step {
        write_step_by_step(connection, &parameters, failpoints).await
    } else {
        let text = match (others, answered) {
            (true, _) => APPEND_ALL,
            (false, true) => APPEND_ANSWERED,
            (false, false) => APPEND,
        };
        let query = sqlx::query(text).bind(parameters.bytes);
        let query = parameters.rows.into_iter().fold(query, |query, rows| query.bind(rows));
        query.execute(&mut *connection).await.map(|_| ()).map_err(|e| append_error(&e))
    };
    if written.is_err() {
        // Some errors end the transaction by themselves; then there is nothing to roll back.
        let _ = sqlx::query("ROLLBACK").execute(&mut *connection).await;
    }
    written?;
    failpoints.hit(Point::AfterCommit)
}

/// The same with a failpoint before each statement.
async fn write_step_by_step(
    connection: &mut SqliteConnection,
    parameters: &Parameters,
    failpoints: &Failpoints,
) -> Result<(), AppendError> {
    for (i, statement) in STATEMENTS.iter().enumerate() {
        failpoints.hit(Point::Statement(i))?;
        let query = sqlx::query(*statement).bind(&parameters.bytes);
        let query = parameters.rows.iter().fold(query, |query, rows| query.bind(rows));
        query.execute(&mut *connection).await.map_err(|e| append_error(&e))?;
    }
    Ok(())
}

fn append_error(error: &sqlx::Error) -> AppendError {
    match error {
        sqlx::Error::Database(e) if e.is_unique_violation() => AppendError::Conflict,
        sqlx::Error::Database(e) => match primary_code(e.as_ref()) {
            Some(13) => AppendError::Full,
            // SQLITE_IOERR, SQLITE_CORRUPT: the page cache and the disk may differ.
            Some(10 | 11) => AppendError::Flush(error.to_string()),
            // SQLITE_TOOBIG, SQLITE_CONSTRAINT, SQLITE_MISMATCH: the content itself is the reason.
            Some(18..=20) => AppendError::Refused(error.to_string()),
            _ => AppendError::Unavailable(error.to_string()),
        },
        _ => AppendError::Unavailable(error.to_string()),
    }
}
