//! Outgoing mail: each mail with where each of its recipients is.
//!
//! One projection keeps these tables and those behind [`crate::email_logs`] and [`crate::email_metrics`], because each
//! event changes all of them together.

mod apply;
mod event;
mod mail;

use std::collections::BTreeSet;

use domain::id::{
    BlobId, DomainId, EventId, GroupId, KeyId, MailboxId, MessageId, OutboundId, Position, TeamId, ThreadId,
};
use domain::id::{DeliveryLogId, ProviderId};
use domain::outbound::{Letter, Origin, To};
use domain::suppression::Purpose;
use serde::{Deserialize, Serialize};

use crate::db::{Cells, Select, corrupt};
use crate::messages::Changes;
use crate::{Error, Page, Paged, Views, signed};

pub use apply::OutboundMail;
pub use event::Said;
pub use mail::{LogStatus, Progress, RecipientProgress, UndoStatus};

/// The projection's name.
pub const NAME: &str = "outbound";

/// The most ids one filter may name.
const IDS_MAX: usize = 100;

pub(crate) const SELECT: &str = "
SELECT outbound_id, epoch, origin, mailbox_id, key_id, domain_id, facts, letter, copy_id, thread_id, accepted_at,
       created_position, changed_position, version, log_status, undo_status, provider_id, send_at, due_at, sent_at,
       progress
FROM outbound
WHERE team_id = ";

/// An outgoing mail as it is listed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// The mail; also the id of its submission.
    pub id: OutboundId,
    /// Its entry in the delivery log.
    pub log: DeliveryLogId,
    /// Through which door it came.
    pub origin: Origin,
    /// The mailbox that sends it, if any.
    pub mailbox: Option<MailboxId>,
    /// The key it was handed in with, if any.
    pub key: Option<KeyId>,
    /// The team's domain in `From`.
    pub domain: Option<DomainId>,
    /// What does not change.
    pub facts: Facts,
    /// Sender, recipients in their order, subject and labels; `None` after erasure.
    pub letter: Option<Letter>,
    /// Its copy in the mailbox.
    pub copy: Option<MessageId>,
    /// The thread of that copy.
    pub thread: Option<ThreadId>,
    /// When it was accepted, microseconds since the Unix epoch.
    pub accepted_at: i64,
    /// When it was or is to be sent first.
    pub send_at: i64,
    /// When its next recipient is due; `None` if nobody waits or it is paused.
    pub due_at: Option<i64>,
    /// When somebody first took it.
    pub sent_at: Option<i64>,
    /// What the delivery log says.
    pub log_status: LogStatus,
    /// Whether it can still be cancelled.
    pub undo_status: UndoStatus,
    /// The account it was last given to.
    pub provider: Option<ProviderId>,
    /// Where each recipient is.
    pub progress: Progress,
    /// Where in the log it was accepted.
    pub created_position: Position,
    /// Where in the log it last changed.
    pub changed_position: Position,
    /// Events in its stream: its `ETag`.
    pub version: u64,
}

impl Row {
    /// Returns the recipients' numbers and addresses with where each of them is; no address after erasure.
    pub fn recipients(&self) -> impl Iterator<Item = (&To, Option<&domain::message::Person>, &RecipientProgress)> {
        let people = self.letter.as_ref().map_or(&[][..], |letter| &letter.recipients);
        let people = people.iter().map(Some).chain(std::iter::repeat(None));
        self.facts.recipients.iter().zip(people).zip(&self.progress.recipients).map(|((to, who), at)| (to, who, at))
    }
}

/// What of an outgoing mail does not change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Facts {
    /// The recipients, as keyed digests; their place is their number.
    pub recipients: Vec<To>,
    /// The delivery groups it asked for.
    pub groups: Vec<GroupId>,
    /// Where its bytes are.
    pub blob: BlobId,
    /// How many bytes.
    pub size_bytes: i64,
    /// Lower-case hex of the SHA-256 of the bytes.
    pub sha256: String,
    /// What kind of mail it is.
    pub purpose: Purpose,
    /// What it is about, for unsubscriptions.
    pub topic: Option<String>,
    /// Whether it was to be sent later when it was accepted.
    pub scheduled: bool,
    /// How long it is tried after it is due, microseconds.
    pub lifetime_micros: i64,
}

/// Which mails are wanted; conditions that are not set do not count.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Filter {
    /// Only of this mailbox.
    pub mailbox: Option<MailboxId>,
    /// Only those whose copy is one of these, at most 100.
    pub copies: Vec<MessageId>,
    /// Only those of these threads, at most 100.
    pub threads: Vec<ThreadId>,
    /// Only of this state.
    pub undo_status: Option<UndoStatus>,
    /// Only those sent, or to be sent, at or after this time, microseconds since the Unix epoch.
    pub after: Option<i64>,
    /// Only those sent, or to be sent, before this time.
    pub before: Option<i64>,
}

/// What a list of mails is sorted by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SortBy {
    /// When they were or are to be sent first.
    #[default]
    SendAt,
    /// The id of their copy.
    Copy,
    /// The id of their thread.
    Thread,
}

/// How a list of mails is sorted; newest first unless `ascending`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Sort {
    /// What by.
    pub by: SortBy,
    /// Smallest first.
    pub ascending: bool,
}

/// Returns a mail.
///
/// # Errors
/// The database does not answer.
pub async fn get(views: &Views, team: &TeamId, outbound: &OutboundId) -> Result<Option<Row>, Error> {
    let mut select = Select::new(SELECT);
    select.text(team.as_str()).push(" AND outbound_id = ").text(outbound.as_str());
    select.fetch(&mut views.read().await?).await?.first().map(|cells| row(team, cells)).transpose()
}

/// Returns mails.
///
/// # Errors
/// [`Error::BadCursor`], or the database does not answer.
pub async fn list(views: &Views, team: &TeamId, filter: &Filter, sort: Sort, page: &Page) -> Result<Paged<Row>, Error> {
    let mut select = Select::new(SELECT);
    select.text(team.as_str());
    narrow(&mut select, filter);
    let (column, list) = match (sort.by, sort.ascending) {
        (SortBy::SendAt, false) => ("send_at", "outbound-send_at"),
        (SortBy::SendAt, true) => ("send_at", "outbound+send_at"),
        (SortBy::Copy, false) => ("COALESCE(copy_id, '')", "outbound-copy"),
        (SortBy::Copy, true) => ("COALESCE(copy_id, '')", "outbound+copy"),
        (SortBy::Thread, false) => ("COALESCE(thread_id, '')", "outbound-thread"),
        (SortBy::Thread, true) => ("COALESCE(thread_id, '')", "outbound+thread"),
    };
    if let Some((at, text, id)) = page.key::<(i64, String, String)>(list)? {
        select.push(" AND (").push(column).push(", outbound_id) ").push(if sort.ascending { "> (" } else { "< (" });
        match sort.by {
            SortBy::SendAt => select.int(at),
            SortBy::Copy | SortBy::Thread => select.text(text.replace('\0', "")),
        };
        select.push(", ").text(id.replace('\0', "")).push(")");
    }
    let direction = if sort.ascending { " ASC" } else { " DESC" };
    select.push(" ORDER BY ").push(column).push(direction).push(", outbound_id").push(direction);
    select.push(" LIMIT ").int(page.fetch());
    let rows = select.fetch(&mut views.read().await?).await?;
    let rows = rows.iter().map(|cells| row(team, cells)).collect::<Result<_, _>>()?;
    Paged::new(rows, page, list, |row: &Row| {
        let text = match sort.by {
            SortBy::SendAt => None,
            SortBy::Copy => row.copy.as_ref().map(ToString::to_string),
            SortBy::Thread => row.thread.as_ref().map(ToString::to_string),
        };
        (row.send_at, text.unwrap_or_default(), row.id.to_string())
    })
}

fn narrow(select: &mut Select, filter: &Filter) {
    if let Some(mailbox) = &filter.mailbox {
        select.push(" AND mailbox_id = ").text(mailbox.as_str());
    }
    let copies: Vec<_> = filter.copies.iter().map(MessageId::as_str).collect();
    one_of(select, " AND copy_id IN (", &copies);
    let threads: Vec<_> = filter.threads.iter().map(ThreadId::as_str).collect();
    one_of(select, " AND thread_id IN (", &threads);
    if let Some(undo_status) = filter.undo_status {
        select.push(" AND undo_status = ").text(undo_status.as_str());
    }
    if let Some(after) = filter.after {
        select.push(" AND send_at >= ").int(after);
    }
    if let Some(before) = filter.before {
        select.push(" AND send_at < ").int(before);
    }
}

fn one_of(select: &mut Select, begin: &'static str, ids: &[&str]) {
    for (i, id) in ids.iter().take(IDS_MAX).enumerate() {
        select.push(if i == 0 { begin } else { ", " }).text(*id);
    }
    if !ids.is_empty() {
        select.push(")");
    }
}

/// Returns which mails of a mailbox, or of a whole team, changed behind a position, oldest change first, at most `limit`
/// of them. None is ever destroyed.
///
/// # Errors
/// The database does not answer.
pub async fn changes(
    views: &Views,
    team: &TeamId,
    mailbox: Option<&MailboxId>,
    since: Position,
    limit: usize,
) -> Result<Changes<OutboundId>, Error> {
    let limit = limit.clamp(1, crate::page::ROWS_MAX);
    let fetch = i64::try_from(limit + 1).unwrap_or(i64::MAX);
    let mut reader = views.read().await?;
    // What is new comes at its beginning, even if it changed later: who stops in between has then heard of it.
    let mut found: Vec<(Position, bool, OutboundId)> = vec![];
    for is_new in [true, false] {
        let column = if is_new { "created_position" } else { "changed_position" };
        let mut select = Select::new("SELECT outbound_id, ");
        select.push(column).push(" AS position FROM outbound WHERE team_id = ").text(team.as_str());
        if let Some(mailbox) = mailbox {
            select.push(" AND mailbox_id = ").text(mailbox.as_str());
        }
        select.push(" AND ").push(column).push(" > ").int(signed(since));
        if !is_new {
            select.push(" AND created_position <= ").int(signed(since));
        }
        select.push(" ORDER BY ").push(column).push(" LIMIT ").int(fetch);
        for cells in select.fetch(&mut reader).await? {
            found.push((cells.unsigned("position")?, is_new, cells.parsed("outbound_id")?));
        }
    }
    drop(reader);
    found.sort();
    let has_more = found.len() > limit;
    found.truncate(limit);
    let new_state = match found.last() {
        Some((position, _, _)) if has_more => *position,
        Some(_) => state(views, team, mailbox).await?.max(since),
        None => since,
    };
    let (created, updated): (Vec<_>, Vec<_>) = found.into_iter().partition(|(_, is_new, _)| *is_new);
    let only_ids = |list: Vec<(Position, bool, OutboundId)>| list.into_iter().map(|(_, _, id)| id).collect();
    Ok(Changes { created: only_ids(created), updated: only_ids(updated), destroyed: vec![], new_state, has_more })
}

/// Returns the state token of a mailbox's or a whole team's outgoing mail: where it last changed.
///
/// # Errors
/// The database does not answer.
pub async fn state(views: &Views, team: &TeamId, mailbox: Option<&MailboxId>) -> Result<Position, Error> {
    let mut select =
        Select::new("SELECT COALESCE(MAX(changed_position), 0) AS position FROM outbound WHERE team_id = ");
    select.text(team.as_str());
    if let Some(mailbox) = mailbox {
        select.push(" AND mailbox_id = ").text(mailbox.as_str());
    }
    let rows = select.fetch(&mut views.read().await?).await?;
    rows.first().map_or(Ok(0), |cells| cells.unsigned("position"))
}

pub(crate) fn row(team: &TeamId, cells: &Cells) -> Result<Row, Error> {
    let created_position = cells.unsigned("created_position")?;
    let epoch = u16::try_from(cells.get::<i64>("epoch")?).map_err(|e| corrupt("epoch", e))?;
    Ok(Row {
        id: cells.parsed("outbound_id")?,
        log: DeliveryLogId::of_event(&EventId::new(team, epoch, created_position)),
        origin: cells.named("origin")?,
        mailbox: cells.parsed_opt("mailbox_id")?,
        key: cells.parsed_opt("key_id")?,
        domain: cells.parsed_opt("domain_id")?,
        facts: cells.json("facts")?,
        letter: cells.json_opt("letter")?,
        copy: cells.parsed_opt("copy_id")?,
        thread: cells.parsed_opt("thread_id")?,
        accepted_at: cells.get("accepted_at")?,
        send_at: cells.get("send_at")?,
        due_at: cells.get("due_at")?,
        sent_at: cells.get("sent_at")?,
        log_status: cells.named("log_status")?,
        undo_status: cells.named("undo_status")?,
        provider: cells.parsed_opt("provider_id")?,
        progress: cells.json("progress")?,
        created_position,
        changed_position: cells.unsigned("changed_position")?,
        version: cells.unsigned("version")?,
    })
}

/// The accounts that mails of a page were last given to, to ask for their names.
#[must_use]
pub fn providers_of(rows: &[Row]) -> BTreeSet<ProviderId> {
    rows.iter().filter_map(|row| row.provider.clone()).collect()
}
