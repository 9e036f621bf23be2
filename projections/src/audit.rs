//! Who did what, when, from where and why: every event of the team, by name.

use domain::id::{EventId, Position, TeamId};
use domain::{Event, StreamId};
use eventlog::Recorded;

use crate::db::{Cells, Select, Tx, corrupt};
use crate::table::Kind::{Int, Text};
use crate::table::{Existing, Rows, Table, cells};
use crate::{Error, Page, Paged, Projection, Views, signed};

/// The projection's name.
pub const NAME: &str = "audit";

const AUDIT: Table = Table {
    name: "audit",
    key: &[("at", Int), ("position", Int)],
    rest: &[
        ("epoch", Int),
        ("name", Text),
        ("stream", Text),
        ("stream_version", Int),
        ("actor", Text),
        ("correlation", Text),
        ("causation", Text),
        ("client_ip", Text),
    ],
};

/// An event as the audit log shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// The event.
    pub id: EventId,
    /// Its place in the team's log.
    pub position: Position,
    /// When, microseconds since the Unix epoch.
    pub at: i64,
    /// What happened: the stored name, for example `mailbox.opened`.
    pub name: String,
    /// The entity it happened to, for example `mailbox/mbx_…`; `None` for kinds this build does not know.
    pub stream: Option<StreamId>,
    /// The entity's version after it.
    pub stream_version: u64,
    /// Who caused it, as `kind:id`.
    pub actor: String,
    /// The request it belongs to.
    pub correlation: String,
    /// The event that led to it.
    pub causation: Option<String>,
    /// Where the request came from; `None` if unknown or erased.
    pub client_ip: Option<String>,
}

/// Which events are wanted.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Filter {
    /// Only what this actor caused, as `kind:id`.
    pub actor: Option<String>,
    /// Only events of this stored name.
    pub name: Option<String>,
    /// Only events of this entity.
    pub stream: Option<StreamId>,
    /// Only at or after this time, microseconds since the Unix epoch.
    pub from: Option<i64>,
    /// Only before this time.
    pub to: Option<i64>,
}

/// Returns events, newest first; events of the same time by position.
///
/// # Errors
/// [`Error::BadCursor`], or the database does not answer.
pub async fn list(views: &Views, team: &TeamId, filter: &Filter, page: &Page) -> Result<Paged<Row>, Error> {
    let mut select = Select::new(
        "SELECT at, position, epoch, name, stream, stream_version, actor, correlation, causation, client_ip
         FROM audit WHERE team_id = ",
    );
    select.text(team.as_str());
    if let Some(actor) = &filter.actor {
        select.push(" AND actor = ").text(actor.replace('\0', ""));
    }
    if let Some(name) = &filter.name {
        select.push(" AND name = ").text(name.replace('\0', ""));
    }
    if let Some(stream) = &filter.stream {
        select.push(" AND stream = ").text(stream.to_string());
    }
    if let Some(from) = filter.from {
        select.push(" AND at >= ").int(from);
    }
    if let Some(to) = filter.to {
        select.push(" AND at < ").int(to);
    }
    if let Some((at, position)) = page.key::<(i64, Position)>(NAME)? {
        select.push(" AND (at, position) < (").int(at).push(", ").int(signed(position)).push(")");
    }
    select.push(" ORDER BY at DESC, position DESC LIMIT ").int(page.fetch());
    let rows = select.fetch(&mut views.read().await?).await?;
    let rows = rows.iter().map(|cells| row(team, cells)).collect::<Result<_, _>>()?;
    Paged::new(rows, page, NAME, |row: &Row| (row.at, row.position))
}

fn row(team: &TeamId, cells: &Cells) -> Result<Row, Error> {
    let position = cells.unsigned("position")?;
    let epoch = u16::try_from(cells.get::<i64>("epoch")?).map_err(|e| corrupt("epoch", e))?;
    Ok(Row {
        id: EventId::new(team, epoch, position),
        position,
        at: cells.get("at")?,
        name: cells.text("name")?,
        stream: cells.parsed_opt("stream")?,
        stream_version: cells.unsigned("stream_version")?,
        actor: cells.text("actor")?,
        correlation: cells.text("correlation")?,
        causation: cells.get("causation")?,
        client_ip: cells.get("client_ip")?,
    })
}

/// See the module.
#[derive(Debug)]
pub struct Audit;

#[async_trait::async_trait]
impl Projection for Audit {
    fn name(&self) -> &'static str {
        NAME
    }

    fn version(&self) -> i64 {
        1
    }

    fn schema(&self) -> &'static str {
        include_str!("audit.sql")
    }

    fn tables(&self) -> &'static [&'static Table] {
        &[&AUDIT]
    }

    async fn apply(&self, tx: &mut Tx<'_>, team: &TeamId, events: &[Recorded]) -> Result<(), Error> {
        let mut rows = Rows::new();
        for record in events {
            rows.push(cells![
                record.at,
                record.position,
                i64::from(record.epoch),
                record.event.name(),
                record.stream.as_ref().map(StreamId::to_string).as_deref(),
                record.stream_version,
                &record.actor,
                &record.correlation,
                record.causation.as_ref(),
                peer(record),
            ]);
        }
        AUDIT.insert(tx, team, rows, Existing::Refuse).await
    }
}

/// Where an event came from: the request's address, or the mail peer's.
fn peer(record: &Recorded) -> Option<&str> {
    let smtp = || match &record.event {
        Event::Message(domain::message::Event::Received(e)) => e.personal.known().map(|p| p.peer_ip.as_str()),
        _ => None,
    };
    record.client_ip.as_deref().or_else(smtp)
}
