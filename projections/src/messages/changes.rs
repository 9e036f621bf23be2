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

    fn table(self) -> &'static str {
        match self {
            Self::Message => "messages",
            Self::Thread => "threads",
        }
    }

    fn id(self) -> &'static str {
        match self {
            Self::Message => "message_id",
            Self::Thread => "thread_id",
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
    // What is new comes at its beginning, even if it changed later: who stops in between has then heard of it.
    let mut select = Select::new("SELECT '' AS id, -1 AS position, 'state' AS what, (");
    last_change(&mut select, team, mailbox, kind);
    select.push(") AS state UNION ALL SELECT id, position, what, 0 AS state FROM (SELECT ");
    select.push(kind.id()).push(" AS id, created_position AS position, 'created' AS what FROM ").push(kind.table());
    select.push(" WHERE team_id = ").text(team.as_str()).push(" AND mailbox_id = ").text(mailbox.as_str());
    select.push(" AND created_position > ").int(signed(since)).push(" ORDER BY created_position LIMIT ").int(fetch);
    select.push(") AS new UNION ALL SELECT id, position, what, 0 AS state FROM (SELECT ");
    select.push(kind.id()).push(" AS id, changed_position AS position, 'updated' AS what FROM ").push(kind.table());
    select.push(" WHERE team_id = ").text(team.as_str()).push(" AND mailbox_id = ").text(mailbox.as_str());
    select.push(" AND changed_position > created_position AND changed_position > ").int(signed(since));
    select.push(" AND created_position <= ").int(signed(since)).push(" ORDER BY changed_position LIMIT ").int(fetch);
    // What came and went while nobody looked is not told of.
    select.push(
        ") AS old UNION ALL SELECT id, position, what, 0 AS state FROM (SELECT id, destroyed_position AS position,
         'destroyed' AS what FROM message_tombstones WHERE team_id = ",
    );
    select.text(team.as_str()).push(" AND mailbox_id = ").text(mailbox.as_str());
    select.push(" AND kind = ").text(kind.as_str()).push(" AND destroyed_position > ").int(signed(since));
    select.push(" AND created_position <= ").int(signed(since)).push(" ORDER BY destroyed_position LIMIT ").int(fetch);
    select.push(") AS gone ORDER BY position LIMIT ").int(fetch + 1);
    let rows = select.fetch(&mut views.read().await?).await?;
    // The first row is the state of the same moment.
    let Some((state, rows)) = rows.split_first() else { return Err(sqlx::Error::RowNotFound.into()) };
    let has_more = rows.len() > limit;
    let mut changes = Changes { created: vec![], updated: vec![], destroyed: vec![], new_state: since, has_more };
    for cells in rows.iter().take(limit) {
        let list = match cells.text("what")?.as_str() {
            "created" => &mut changes.created,
            "updated" => &mut changes.updated,
            _ => &mut changes.destroyed,
        };
        list.push(cells.parsed("id")?);
        changes.new_state = cells.unsigned("position")?;
    }
    if !has_more {
        changes.new_state = state.unsigned("state")?.max(changes.new_state);
    }
    Ok(changes)
}

pub(crate) async fn state_of(views: &Views, team: &TeamId, mailbox: &MailboxId, kind: Kind) -> Result<Position, Error> {
    let mut select = Select::new("");
    last_change(&mut select, team, mailbox, kind);
    let rows = select.fetch(&mut views.read().await?).await?;
    rows.first().map_or(Ok(0), |cells| cells.unsigned("state"))
}

/// Adds a query for where the last change is.
fn last_change(select: &mut Select, team: &TeamId, mailbox: &MailboxId, kind: Kind) {
    select.push("SELECT CAST(COALESCE(MAX(position), 0) AS BIGINT) AS state FROM (SELECT ");
    select.push("MAX(created_position) AS position FROM ").push(kind.table());
    select.push(" WHERE team_id = ").text(team.as_str()).push(" AND mailbox_id = ").text(mailbox.as_str());
    select.push(" UNION ALL SELECT MAX(changed_position) AS position FROM ").push(kind.table());
    select.push(" WHERE team_id = ").text(team.as_str()).push(" AND mailbox_id = ").text(mailbox.as_str());
    select.push(" AND changed_position > created_position");
    select.push(" UNION ALL SELECT MAX(destroyed_position) AS position FROM message_tombstones WHERE team_id = ");
    select.text(team.as_str()).push(" AND mailbox_id = ").text(mailbox.as_str());
    select.push(" AND kind = ").text(kind.as_str()).push(") AS ends");
}
