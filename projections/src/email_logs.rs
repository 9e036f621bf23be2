//! The delivery log: one entry per outgoing mail, with the outcome of each of its recipients and all that happened to it.
//!
//! Its tables are those of [`crate::outbound`].

use domain::id::{DeliveryLogId, EventId, MailboxId, OutboundId, Position, ProviderId, TeamId};

use crate::db::{Cells, Select, corrupt};
use crate::outbound::{LogStatus, Row, SELECT, Said, row};
use crate::{Error, Page, Paged, Views, folded, signed};

/// The name of the list.
const LIST: &str = "email_logs";

/// Which entries are wanted; conditions that are not set do not count.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Filter {
    /// Only of this status.
    pub status: Option<LogStatus>,
    /// Only what was last given to this account.
    pub provider: Option<ProviderId>,
    /// Only what this mailbox sends.
    pub mailbox: Option<MailboxId>,
    /// Only accepted at or after this time, microseconds since the Unix epoch.
    pub from: Option<i64>,
    /// Only accepted before this time.
    pub to: Option<i64>,
    /// Only where sender, recipient, subject or Message-ID contains this text.
    pub search: Option<String>,
}

/// One thing that happened to a mail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Happened {
    /// The event.
    pub event: EventId,
    /// Where in the log.
    pub position: Position,
    /// When, microseconds since the Unix epoch.
    pub at: i64,
    /// The event's stored name, for example `outbound.deferred`.
    pub name: String,
    /// Who caused it, as `kind:id`.
    pub actor: String,
    /// What it said.
    pub said: Said,
}

/// Returns an entry by its id.
///
/// # Errors
/// The database does not answer.
pub async fn get(views: &Views, team: &TeamId, log: &DeliveryLogId) -> Result<Option<Row>, Error> {
    let Some(event) = log.event().filter(|event| event.is_of(team)) else { return Ok(None) };
    let mut select = Select::new(SELECT);
    select.text(team.as_str()).push(" AND created_position = ").int(signed(event.position));
    select.push(" AND epoch = ").int(i64::from(event.epoch));
    select.fetch(&mut views.read().await?).await?.first().map(|cells| row(team, cells)).transpose()
}

/// Returns entries, newest first.
///
/// # Errors
/// [`Error::BadCursor`], or the database does not answer.
pub async fn list(views: &Views, team: &TeamId, filter: &Filter, page: &Page) -> Result<Paged<Row>, Error> {
    let mut select = Select::new(SELECT);
    select.text(team.as_str());
    if let Some(status) = filter.status {
        select.push(" AND log_status = ").text(status.as_str());
    }
    if let Some(provider) = &filter.provider {
        select.push(" AND provider_id = ").text(provider.as_str());
    }
    if let Some(mailbox) = &filter.mailbox {
        select.push(" AND mailbox_id = ").text(mailbox.as_str());
    }
    if let Some(from) = filter.from {
        select.push(" AND accepted_at >= ").int(from);
    }
    if let Some(to) = filter.to {
        select.push(" AND accepted_at < ").int(to);
    }
    if let Some(search) = &filter.search {
        select.push(" AND ").contains("search", &folded(search));
    }
    if let Some((at, position)) = page.key::<(i64, Position)>(LIST)? {
        select.push(" AND (accepted_at, created_position) < (").int(at).push(", ").int(signed(position)).push(")");
    }
    select.push(" ORDER BY accepted_at DESC, created_position DESC LIMIT ").int(page.fetch());
    let rows = select.fetch(&mut views.read().await?).await?;
    let rows = rows.iter().map(|cells| row(team, cells)).collect::<Result<_, _>>()?;
    Paged::new(rows, page, LIST, |row: &Row| (row.accepted_at, row.created_position))
}

/// Returns what happened to a mail, oldest first.
///
/// # Errors
/// [`Error::BadCursor`], or the database does not answer.
pub async fn history(
    views: &Views,
    team: &TeamId,
    outbound: &OutboundId,
    page: &Page,
) -> Result<Paged<Happened>, Error> {
    const LIST: &str = "email_log_history";
    let mut select = Select::new("SELECT position, epoch, at, name, actor, said FROM outbound_events WHERE team_id = ");
    select.text(team.as_str()).push(" AND outbound_id = ").text(outbound.as_str());
    if let Some(position) = page.key::<Position>(LIST)? {
        select.push(" AND position > ").int(signed(position));
    }
    select.push(" ORDER BY position LIMIT ").int(page.fetch());
    let rows = select.fetch(&mut views.read().await?).await?;
    let rows = rows.iter().map(|cells| happened(team, cells)).collect::<Result<_, _>>()?;
    Paged::new(rows, page, LIST, |row: &Happened| row.position)
}

fn happened(team: &TeamId, cells: &Cells) -> Result<Happened, Error> {
    let position = cells.unsigned("position")?;
    let epoch = u16::try_from(cells.get::<i64>("epoch")?).map_err(|e| corrupt("epoch", e))?;
    Ok(Happened {
        event: EventId::new(team, epoch, position),
        position,
        at: cells.get("at")?,
        name: cells.text("name")?,
        actor: cells.text("actor")?,
        said: cells.json("said")?,
    })
}
