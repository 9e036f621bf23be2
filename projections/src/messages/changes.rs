//! What changed since when. State tokens are positions in the team's log.

use std::str::FromStr;

use domain::id::{MailboxId, MessageId, Position, TeamId};

use crate::db::Select;
use crate::{Error, Views, signed};

/// What happened to the things of a mailbox behind a position.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Changes<Id> {
    /// Not there before.
    pub created: Vec<Id>,
    /// There before, and different.
    pub updated: Vec<Id>,
    /// There before, and gone.
    pub destroyed: Vec<Id>,
    /// Where to go on from.
    pub new_state: Position,
    /// Whether there is more behind `new_state`.
    pub has_more: bool,
}

/// Returns which messages of a mailbox changed behind a position, oldest change first, at most `limit` of them.
///
/// # Errors
/// The database does not answer.
pub async fn changes(
    views: &Views,
    team: &TeamId,
    mailbox: &MailboxId,
    since: Position,
    limit: usize,
) -> Result<Changes<MessageId>, Error> {
    changes_of(views, team, mailbox, Kind::Message, since, limit).await
}

/// Returns the state token of a mailbox's messages: where they last changed.
///
/// # Errors
/// The database does not answer.
pub async fn state(views: &Views, team: &TeamId, mailbox: &MailboxId) -> Result<Position, Error> {
    state_of(views, team, mailbox, Kind::Message).await
}

/// What a tombstone stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    Message,
    Thread,
}

impl Kind {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Message => "message",
            Self::Thread => "thread",
        }
    }
}

pub(crate) async fn changes_of<Id: FromStr<Err: std::error::Error + Send + Sync + 'static>>(
    views: &Views,
    team: &TeamId,
    mailbox: &MailboxId,
    kind: Kind,
    since: Position,
    limit: usize,
) -> Result<Changes<Id>, Error> {
    let limit = limit.clamp(1, crate::page::ROWS_MAX);
    let fetch = i64::try_from(limit + 1).unwrap_or(i64::MAX);
    let mut select = Select::new("SELECT id, created_position, position, is_gone FROM (SELECT ");
    select.push(match kind {
        Kind::Message => {
            "message_id AS id, created_position, changed_position AS position, FALSE AS is_gone FROM messages"
        }
        Kind::Thread => {
            "thread_id AS id, created_position, changed_position AS position, FALSE AS is_gone FROM threads"
        }
    });
    select.push(" WHERE team_id = ").text(team.as_str()).push(" AND mailbox_id = ").text(mailbox.as_str());
    select.push(" AND changed_position > ").int(signed(since)).push(" ORDER BY changed_position LIMIT ").int(fetch);
    select.push(
        ") AS present UNION ALL SELECT id, created_position, position, is_gone FROM (SELECT id, created_position,
         destroyed_position AS position, TRUE AS is_gone FROM message_tombstones WHERE team_id = ",
    );
    select.text(team.as_str()).push(" AND mailbox_id = ").text(mailbox.as_str());
    select.push(" AND kind = ").text(kind.as_str()).push(" AND destroyed_position > ").int(signed(since));
    select.push(" ORDER BY destroyed_position LIMIT ").int(fetch);
    select.push(") AS gone ORDER BY position LIMIT ").int(fetch);
    let rows = select.fetch(&mut views.read().await?).await?;
    let mut changes =
        Changes { created: vec![], updated: vec![], destroyed: vec![], new_state: since, has_more: rows.len() > limit };
    for cells in rows.iter().take(limit) {
        let id = cells.parsed("id")?;
        let is_new = cells.unsigned("created_position")? > since;
        match (cells.get::<bool>("is_gone")?, is_new) {
            (false, true) => changes.created.push(id),
            (false, false) => changes.updated.push(id),
            (true, false) => changes.destroyed.push(id),
            // It came and went while nobody looked.
            (true, true) => {}
        }
        changes.new_state = cells.unsigned("position")?;
    }
    Ok(changes)
}

pub(crate) async fn state_of(views: &Views, team: &TeamId, mailbox: &MailboxId, kind: Kind) -> Result<Position, Error> {
    let mut select = Select::new("SELECT CAST(COALESCE(MAX(position), 0) AS BIGINT) AS position FROM (SELECT ");
    select.push(match kind {
        Kind::Message => "MAX(changed_position) AS position FROM messages WHERE team_id = ",
        Kind::Thread => "MAX(changed_position) AS position FROM threads WHERE team_id = ",
    });
    select.text(team.as_str()).push(" AND mailbox_id = ").text(mailbox.as_str());
    select.push(" UNION ALL SELECT MAX(destroyed_position) AS position FROM message_tombstones WHERE team_id = ");
    select.text(team.as_str()).push(" AND mailbox_id = ").text(mailbox.as_str());
    select.push(" AND kind = ").text(kind.as_str()).push(") AS both_kinds");
    let rows = select.fetch(&mut views.read().await?).await?;
    rows.first().map_or(Ok(0), |cells| cells.unsigned("position"))
}
