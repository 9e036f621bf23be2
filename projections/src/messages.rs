//! The messages of each mailbox, with what follows from them: threads, folder counts and what changed since when.
//!
//! One projection keeps all these tables, because each event changes several of them together. Lists and counts of
//! threads are in [`crate::threads`], of folders in [`crate::folders`].

mod apply;
mod changes;
mod filter;
mod references;

use std::collections::BTreeSet;

use domain::id::{BlobId, MailboxId, MessageId, Position, TeamId, ThreadId};
use domain::message::{Authentication, Folder, Person};
use serde::{Deserialize, Serialize};

use crate::db::{Cells, Reader, Select};
use crate::{Error, Page, Paged, Views};

pub use apply::Messages;
pub use changes::{Changes, changes, state};
pub(crate) use changes::{Kind as TombstoneKind, changes_of, state_of};
pub(crate) use filter::words;
pub use filter::{Filter, Sort, SortBy};
pub use references::{SUBJECT_MICROS, thread_by_subject, thread_of_references};

/// The projection's name.
pub const NAME: &str = "messages";

/// The keyword of a message that was read.
pub const SEEN: &str = "$seen";

/// The most messages that are asked for by id at once.
const IDS_MAX: usize = 1_000;

const SELECT: &str = "
SELECT message_id, mailbox_id, thread_id, folder, keywords, is_unread, version, created_position, changed_position,
       received_at, sent_at, size_bytes, attachments, is_spam, blob_id, checks, correspondence, subject, preview,
       rfc5322_message_id, subject_folded, from_folded, to_folded
FROM messages
WHERE team_id = ";

/// A message as it is listed.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// The message.
    pub id: MessageId,
    /// The mailbox it is in.
    pub mailbox: MailboxId,
    /// The thread it belongs to.
    pub thread: ThreadId,
    /// The folder it is in.
    pub folder: Folder,
    /// Its keywords, lower case.
    pub keywords: BTreeSet<String>,
    /// Whether [`SEEN`] is not among them.
    pub is_unread: bool,
    /// Events in its stream: its `ETag`.
    pub version: u64,
    /// Where in the log it arrived.
    pub created_position: Position,
    /// Where in the log it last changed.
    pub changed_position: Position,
    /// When it was accepted, microseconds since the Unix epoch.
    pub received_at: i64,
    /// When its author says it was sent.
    pub sent_at: Option<i64>,
    /// How many bytes.
    pub size_bytes: i64,
    /// How many attachments.
    pub attachments: u32,
    /// Whether it was classified as spam.
    pub is_spam: bool,
    /// Where its bytes are.
    pub blob: BlobId,
    /// What was found out about it when it arrived.
    pub checks: Checks,
    /// Whom it is from and to; empty after erasure.
    pub correspondence: Correspondence,
    /// Header `Subject`, decoded.
    pub subject: Option<String>,
    /// The first visible words; `None` after erasure.
    pub preview: Option<String>,
    /// The Message-ID, without angle brackets; `None` after erasure.
    pub rfc5322_message_id: Option<String>,
    /// What the list is sorted by; part of its cursor.
    pub(crate) sort_texts: [String; 3],
}

/// What was found out about a message when it arrived.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checks {
    /// Lower-case hex of the SHA-256 of its bytes.
    pub sha256: String,
    /// The spam score in tenths of a point.
    pub spam_score: i64,
    /// The names of the rules that gave points.
    pub spam_rules: Vec<String>,
    /// Origin checks.
    pub authentication: Authentication,
    /// The version of the parser that made this view.
    pub parser_version: u32,
}

/// Whom a message is from and to.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Correspondence {
    /// Envelope sender; `None` for the null sender.
    pub mail_from: Option<String>,
    /// Envelope recipients of this copy.
    pub rcpt_to: Vec<String>,
    /// Header `From`.
    pub from: Option<Person>,
    /// Header `To`.
    pub to: Vec<Person>,
    /// Header `Cc`.
    pub cc: Vec<Person>,
    /// Message-IDs it refers to: `In-Reply-To` first, then `References` from last to first.
    pub references: Vec<String>,
    /// The domain that passed DMARC.
    pub verified_domain: Option<String>,
}

/// Returns a message of a mailbox.
///
/// # Errors
/// The database does not answer.
pub async fn get(views: &Views, team: &TeamId, mailbox: &MailboxId, message: &MessageId) -> Result<Option<Row>, Error> {
    let mut select = Select::new(SELECT);
    select.text(team.as_str()).push(" AND message_id = ").text(message.as_str());
    select.push(" AND mailbox_id = ").text(mailbox.as_str());
    select.fetch(&mut views.read().await?).await?.first().map(row).transpose()
}

/// Returns messages of a mailbox in the order asked, at most 1,000; those that are not there are left out.
///
/// # Errors
/// The database does not answer.
pub async fn get_many(
    views: &Views,
    team: &TeamId,
    mailbox: &MailboxId,
    messages: &[MessageId],
) -> Result<Vec<Row>, Error> {
    let messages = &messages[..messages.len().min(IDS_MAX)];
    if messages.is_empty() {
        return Ok(vec![]);
    }
    let mut reader = views.read().await?;
    let found = by_ids(&reader, team, mailbox, messages)?.fetch(&mut reader).await?;
    let mut found: std::collections::HashMap<MessageId, Row> =
        found.iter().map(|cells| row(cells).map(|row| (row.id.clone(), row))).collect::<Result<_, _>>()?;
    Ok(messages.iter().filter_map(|id| found.remove(id)).collect())
}

fn by_ids(reader: &Reader, team: &TeamId, mailbox: &MailboxId, messages: &[MessageId]) -> Result<Select, Error> {
    let mut select = Select::new(SELECT);
    // The `+` keeps SQLite's planner from going through the whole mailbox to find a few ids.
    select.text(team.as_str()).push(reader.pick(" AND +mailbox_id = ", " AND mailbox_id = ")).text(mailbox.as_str());
    select
        .push(" AND message_id IN (")
        .push(reader.pick("SELECT value FROM json_each(", "SELECT json_array_elements_text("));
    select.text(serde_json::to_string(messages)?).push(reader.pick("))", "::json))"));
    Ok(select)
}

/// Returns messages of a mailbox.
///
/// # Errors
/// [`Error::BadCursor`], or the database does not answer.
pub async fn list(
    views: &Views,
    team: &TeamId,
    mailbox: &MailboxId,
    filter: &Filter,
    sort: Sort,
    page: &Page,
) -> Result<Paged<Row>, Error> {
    let mut select = Select::new(SELECT);
    select.text(team.as_str()).push(" AND mailbox_id = ").text(mailbox.as_str());
    filter.narrow(&mut select);
    sort.behind(&mut select, page)?;
    sort.order(&mut select);
    select.push(" LIMIT ").int(page.fetch());
    let rows = select.fetch(&mut views.read().await?).await?;
    let rows = rows.iter().map(row).collect::<Result<_, _>>()?;
    Paged::new(rows, page, sort.list(), |row: &Row| sort.key(row))
}

/// Returns how many messages of a mailbox there are.
///
/// # Errors
/// The database does not answer.
pub async fn count(views: &Views, team: &TeamId, mailbox: &MailboxId, filter: &Filter) -> Result<u64, Error> {
    let mut select = Select::new("SELECT CAST(COUNT(*) AS BIGINT) AS total FROM messages WHERE team_id = ");
    select.text(team.as_str()).push(" AND mailbox_id = ").text(mailbox.as_str());
    filter.narrow(&mut select);
    let rows = select.fetch(&mut views.read().await?).await?;
    rows.first().map_or(Ok(0), |cells| cells.unsigned("total"))
}

/// Returns the ids of a thread's messages, oldest first, at most `limit`.
///
/// # Errors
/// The database does not answer.
pub async fn ids_of_thread(
    views: &Views,
    team: &TeamId,
    mailbox: &MailboxId,
    thread: &ThreadId,
    limit: usize,
) -> Result<Vec<MessageId>, Error> {
    let mut select = Select::new("SELECT message_id FROM messages WHERE team_id = ");
    select.text(team.as_str()).push(" AND mailbox_id = ").text(mailbox.as_str());
    select.push(" AND thread_id = ").text(thread.as_str());
    select.push(" ORDER BY received_at, message_id LIMIT ").int(i64::try_from(limit).unwrap_or(i64::MAX));
    select.fetch(&mut views.read().await?).await?.iter().map(|cells| cells.parsed("message_id")).collect()
}

pub(crate) fn row(cells: &Cells) -> Result<Row, Error> {
    Ok(Row {
        id: cells.parsed("message_id")?,
        mailbox: cells.parsed("mailbox_id")?,
        thread: cells.parsed("thread_id")?,
        folder: cells.named("folder")?,
        keywords: cells.json("keywords")?,
        is_unread: cells.get("is_unread")?,
        version: cells.unsigned("version")?,
        created_position: cells.unsigned("created_position")?,
        changed_position: cells.unsigned("changed_position")?,
        received_at: cells.get("received_at")?,
        sent_at: cells.get("sent_at")?,
        size_bytes: cells.get("size_bytes")?,
        attachments: u32::try_from(cells.unsigned("attachments")?).unwrap_or(u32::MAX),
        is_spam: cells.get("is_spam")?,
        blob: cells.parsed("blob_id")?,
        checks: cells.json("checks")?,
        correspondence: cells.json_opt("correspondence")?.unwrap_or_default(),
        subject: cells.get("subject")?,
        preview: cells.get("preview")?,
        rfc5322_message_id: cells.get("rfc5322_message_id")?,
        sort_texts: [cells.text("subject_folded")?, cells.text("from_folded")?, cells.text("to_folded")?],
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn messages_asked_for_by_id_are_sought_by_their_key_and_not_in_the_whole_mailbox() {
        let views = Views::memory().await.unwrap();
        let mut reader = views.read().await.unwrap();
        let (team, mailbox) = (TeamId::new(1, [1; 9]), MailboxId::new(1, [1; 9]));
        let select = by_ids(&reader, &team, &mailbox, &[MessageId::new(1, [1; 9])]).unwrap();
        let plan = select.plan(&mut reader).await.unwrap();
        assert!(plan.iter().any(|step| step.contains("(team_id=? AND message_id=?)")), "{plan:#?}");
    }
}
