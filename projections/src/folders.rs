//! The folders of a mailbox and how much is in them. Every mailbox has the same ones.

use domain::id::{MailboxId, Position, TeamId};
use domain::message::Folder;

use crate::db::{Cells, Select};
use crate::messages::Changes;
use crate::{Error, Views};

/// A folder as it is listed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// The folder.
    pub folder: Folder,
    /// How many messages are in it.
    pub messages: u64,
    /// How many of them are unread.
    pub unread: u64,
    /// Where in the log its mailbox was opened.
    pub created_position: Position,
    /// Where in the log its counts last changed.
    pub changed_position: Position,
}

/// Returns all folders of a mailbox, in the order in which they are shown; none if there never was such a mailbox.
///
/// # Errors
/// The database does not answer.
pub async fn list(views: &Views, team: &TeamId, mailbox: &MailboxId) -> Result<Vec<Row>, Error> {
    let mut select = Select::new(
        "SELECT folder, messages, unread, created_position, changed_position FROM folders WHERE team_id = ",
    );
    select.text(team.as_str()).push(" AND mailbox_id = ").text(mailbox.as_str());
    let rows = select.fetch(&mut views.read().await?).await?;
    let mut rows: Vec<Row> = rows.iter().map(row).collect::<Result<_, _>>()?;
    rows.sort_by_key(|row| row.folder);
    Ok(rows)
}

/// Returns one folder of a mailbox.
///
/// # Errors
/// The database does not answer.
pub async fn get(views: &Views, team: &TeamId, mailbox: &MailboxId, folder: Folder) -> Result<Option<Row>, Error> {
    Ok(list(views, team, mailbox).await?.into_iter().find(|row| row.folder == folder))
}

/// Returns which folders of a mailbox changed behind a position. Only counts ever change, and it is never too many.
///
/// # Errors
/// The database does not answer.
pub async fn changes(
    views: &Views,
    team: &TeamId,
    mailbox: &MailboxId,
    since: Position,
) -> Result<Changes<Folder>, Error> {
    let rows = list(views, team, mailbox).await?;
    let new_state = rows.iter().map(|row| row.changed_position).fold(since, Position::max);
    let (created, updated): (Vec<_>, Vec<_>) = rows
        .into_iter()
        .filter(|row| row.changed_position > since)
        .map(|row| (row.folder, row.created_position > since))
        .partition(|(_, is_new)| *is_new);
    let only_folders = |list: Vec<(Folder, bool)>| list.into_iter().map(|(folder, _)| folder).collect();
    Ok(Changes {
        created: only_folders(created),
        updated: only_folders(updated),
        destroyed: vec![],
        new_state,
        has_more: false,
    })
}

/// Returns the state token of a mailbox's folders: where their counts last changed.
///
/// # Errors
/// The database does not answer.
pub async fn state(views: &Views, team: &TeamId, mailbox: &MailboxId) -> Result<Position, Error> {
    Ok(list(views, team, mailbox).await?.iter().map(|row| row.changed_position).max().unwrap_or(0))
}

fn row(cells: &Cells) -> Result<Row, Error> {
    Ok(Row {
        folder: cells.named("folder")?,
        messages: cells.unsigned("messages")?,
        unread: cells.unsigned("unread")?,
        created_position: cells.unsigned("created_position")?,
        changed_position: cells.unsigned("changed_position")?,
    })
}
