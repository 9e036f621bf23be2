//! The threads of a mailbox.

use domain::id::{MailboxId, MessageId, Position, TeamId, ThreadId};
use domain::message::{Folder, Person};

use crate::db::{Cells, Select};
use crate::messages::{self, Changes, TombstoneKind};
use crate::{Error, Page, Paged, Views, folded};

const SELECT: &str = "
SELECT thread_id, mailbox_id, subject, messages, unread, with_attachments, folders, participants, last_message_id,
       last_received_at, created_position, changed_position
FROM threads
WHERE team_id = ";

/// A thread as it is listed.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// The thread.
    pub id: ThreadId,
    /// The mailbox it is in.
    pub mailbox: MailboxId,
    /// The subject of its first message.
    pub subject: Option<String>,
    /// How many messages it has.
    pub messages: u64,
    /// How many of them are unread.
    pub unread: u64,
    /// Whether one of them has an attachment.
    pub has_attachments: bool,
    /// The folders its messages are in, in the order in which folders are shown.
    pub folders: Vec<Folder>,
    /// Who wrote or was written to, in order of appearance; the first fifty.
    pub participants: Vec<Person>,
    /// Its latest message.
    pub last_message_id: MessageId,
    /// When that was accepted, microseconds since the Unix epoch.
    pub last_received_at: i64,
    /// Where in the log it began.
    pub created_position: Position,
    /// Where in the log it last changed: its state token.
    pub changed_position: Position,
    /// Its latest message, in full; `None` if that was destroyed while this row was being read.
    pub last_message: Option<messages::Row>,
}

/// Which threads are wanted; conditions that are not set do not count.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Filter {
    /// Each word is somewhere in one of its messages.
    pub q: Option<String>,
    /// Name or address of a participant contains this.
    pub participant: Option<String>,
    /// One of its messages is in this folder.
    pub folder: Option<Folder>,
    /// Its latest message was received at or after this time, microseconds since the Unix epoch.
    pub after: Option<i64>,
    /// Its latest message was received before this time.
    pub before: Option<i64>,
    /// With, or without attachments.
    pub has_attachment: Option<bool>,
    /// With, or without unread messages.
    pub is_unread: Option<bool>,
}

/// Returns the id under which a thread goes now: another one, if it was joined to an older thread.
///
/// # Errors
/// The database does not answer.
pub async fn resolve(views: &Views, team: &TeamId, mailbox: &MailboxId, thread: &ThreadId) -> Result<ThreadId, Error> {
    let mut select = Select::new("SELECT thread_id FROM thread_aliases WHERE team_id = ");
    select.text(team.as_str()).push(" AND mailbox_id = ").text(mailbox.as_str());
    select.push(" AND alias = ").text(thread.as_str());
    let found = select.fetch(&mut views.read().await?).await?;
    found.first().map_or_else(|| Ok(thread.clone()), |cells| cells.parsed("thread_id"))
}

/// Returns a thread of a mailbox.
///
/// # Errors
/// The database does not answer.
pub async fn get(views: &Views, team: &TeamId, mailbox: &MailboxId, thread: &ThreadId) -> Result<Option<Row>, Error> {
    let mut select = Select::new(SELECT);
    select.text(team.as_str()).push(" AND mailbox_id = ").text(mailbox.as_str());
    select.push(" AND thread_id = ").text(thread.as_str());
    let found = select.fetch(&mut views.read().await?).await?.first().map(row).transpose()?;
    let mut rows: Vec<Row> = found.into_iter().collect();
    add_last_messages(views, team, mailbox, &mut rows).await?;
    Ok(rows.pop())
}

/// Returns threads of a mailbox by their latest message; newest first unless `ascending`.
///
/// # Errors
/// [`Error::BadCursor`], or the database does not answer.
pub async fn list(
    views: &Views,
    team: &TeamId,
    mailbox: &MailboxId,
    filter: &Filter,
    ascending: bool,
    page: &Page,
) -> Result<Paged<Row>, Error> {
    let name = if ascending { "threads+latest" } else { "threads-latest" };
    let mut select = Select::new(SELECT);
    select.text(team.as_str()).push(" AND mailbox_id = ").text(mailbox.as_str());
    narrow(&mut select, filter);
    if let Some((at, id)) = page.key::<(i64, String)>(name)? {
        select.push(" AND (last_received_at, thread_id) ").push(if ascending { "> (" } else { "< (" });
        select.int(at).push(", ").text(id.replace('\0', "")).push(")");
    }
    select.push(if ascending {
        " ORDER BY last_received_at, thread_id LIMIT "
    } else {
        " ORDER BY last_received_at DESC, thread_id DESC LIMIT "
    });
    select.int(page.fetch());
    let rows = select.fetch(&mut views.read().await?).await?;
    let rows = rows.iter().map(row).collect::<Result<_, _>>()?;
    let mut paged = Paged::new(rows, page, name, |row: &Row| (row.last_received_at, row.id.to_string()))?;
    add_last_messages(views, team, mailbox, &mut paged.rows).await?;
    Ok(paged)
}

/// Returns which threads of a mailbox changed behind a position; see [`messages::changes`].
///
/// # Errors
/// The database does not answer.
pub async fn changes(
    views: &Views,
    team: &TeamId,
    mailbox: &MailboxId,
    since: Position,
    limit: usize,
) -> Result<Changes<ThreadId>, Error> {
    messages::changes_of(views, team, mailbox, TombstoneKind::Thread, since, limit).await
}

/// Returns the state token of a mailbox's threads: where they last changed.
///
/// # Errors
/// The database does not answer.
pub async fn state(views: &Views, team: &TeamId, mailbox: &MailboxId) -> Result<Position, Error> {
    messages::state_of(views, team, mailbox, TombstoneKind::Thread).await
}

fn narrow(select: &mut Select, filter: &Filter) {
    const SOME_MESSAGE: &str = " AND EXISTS (SELECT 1 FROM messages WHERE messages.team_id = threads.team_id
        AND messages.mailbox_id = threads.mailbox_id AND messages.thread_id = threads.thread_id";
    if let Some(q) = &filter.q {
        select.push(SOME_MESSAGE);
        messages::words(select, q);
        select.push(")");
    }
    if let Some(participant) = &filter.participant {
        let participant = folded(participant);
        select.push(SOME_MESSAGE).push(" AND (").contains("from_folded", &participant);
        select.push(" OR ").contains("to_folded", &participant);
        select.push(" OR ").contains("cc_folded", &participant).push("))");
    }
    if let Some(folder) = filter.folder {
        select.push(" AND ").contains("folders", &format!("\"{}\"", folder.as_str()));
    }
    if let Some(after) = filter.after {
        select.push(" AND last_received_at >= ").int(after);
    }
    if let Some(before) = filter.before {
        select.push(" AND last_received_at < ").int(before);
    }
    match filter.has_attachment {
        Some(true) => {
            select.push(" AND with_attachments > 0");
        }
        Some(false) => {
            select.push(" AND with_attachments = 0");
        }
        None => {}
    }
    match filter.is_unread {
        Some(true) => {
            select.push(" AND unread > 0");
        }
        Some(false) => {
            select.push(" AND unread = 0");
        }
        None => {}
    }
}

async fn add_last_messages(views: &Views, team: &TeamId, mailbox: &MailboxId, rows: &mut [Row]) -> Result<(), Error> {
    let ids: Vec<MessageId> = rows.iter().map(|row| row.last_message_id.clone()).collect();
    let mut last = messages::get_many(views, team, mailbox, &ids).await?.into_iter().peekable();
    for row in rows {
        row.last_message = last.next_if(|message| message.id == row.last_message_id);
    }
    Ok(())
}

fn row(cells: &Cells) -> Result<Row, Error> {
    let counts: std::collections::BTreeMap<Folder, u64> = cells.json("folders")?;
    Ok(Row {
        id: cells.parsed("thread_id")?,
        mailbox: cells.parsed("mailbox_id")?,
        subject: cells.get("subject")?,
        messages: cells.unsigned("messages")?,
        unread: cells.unsigned("unread")?,
        has_attachments: cells.unsigned("with_attachments")? > 0,
        folders: counts.into_keys().collect(),
        participants: cells.json("participants")?,
        last_message_id: cells.parsed("last_message_id")?,
        last_received_at: cells.get("last_received_at")?,
        created_position: cells.unsigned("created_position")?,
        changed_position: cells.unsigned("changed_position")?,
        last_message: None,
    })
}
