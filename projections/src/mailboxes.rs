//! The mailboxes of a team, closed ones included.

use std::collections::{BTreeMap, BTreeSet};

use domain::Event;
use domain::id::{DomainId, MailboxId, Position, TeamId};
use domain::mailbox::{Event as MailboxEvent, FilterMode, SendScope, SenderRule, Status};
use domain::message::Event as MessageEvent;
use eventlog::Recorded;

use crate::db::{Cells, Select, Tx};
use crate::table::Kind::{Int, Text};
use crate::table::{Existing, Rows, Table, cells};
use crate::{Error, Page, Paged, Projection, Views, signed};

/// The projection's name.
pub const NAME: &str = "mailboxes";

const MAILBOXES: Table = Table {
    name: "mailboxes",
    key: &[("mailbox_id", Text)],
    rest: &[
        ("domain_id", Text),
        ("email", Text),
        ("display_name", Text),
        ("status", Text),
        ("quota_bytes", Int),
        ("send_scope", Text),
        ("filter_mode", Text),
        ("rules", Text),
        ("bytes_used", Int),
        ("messages", Int),
        ("created_at", Int),
        ("updated_at", Int),
        ("created_position", Int),
        ("version", Int),
        ("identity_position", Int),
        ("limit_position", Int),
        ("usage_position", Int),
    ],
};

const SELECT: &str = "
SELECT mailbox_id, domain_id, email, display_name, status, quota_bytes, send_scope, filter_mode, rules, bytes_used,
       messages, created_at, updated_at, created_position, version, identity_position, limit_position, usage_position
FROM mailboxes
WHERE team_id = ";

/// A mailbox as it is listed.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// The mailbox.
    pub id: MailboxId,
    /// The domain its address is on.
    pub domain: DomainId,
    /// Its address, lower case; `None` after erasure.
    pub email: Option<String>,
    /// The name shown beside it.
    pub display_name: Option<String>,
    /// Active, suspended or closed.
    pub status: Status,
    /// How many bytes of mail it may hold.
    pub quota_bytes: i64,
    /// Which accounts it may send through.
    pub send_scope: SendScope,
    /// How its sender rules are read.
    pub filter_mode: FilterMode,
    /// Its sender rules, sorted by pattern; none after erasure.
    pub rules: Vec<SenderRule>,
    /// How many bytes of mail it holds.
    pub bytes_used: i64,
    /// How many messages it holds.
    pub messages: i64,
    /// When it was opened, microseconds since the Unix epoch.
    pub created_at: i64,
    /// When it was last changed; mail does not change it.
    pub updated_at: i64,
    /// Where in the log it was opened; the order of the list.
    pub created_position: Position,
    /// Events in its stream: its `ETag`.
    pub version: u64,
    /// Where in the log its name last changed.
    pub identity_position: Position,
    /// Where in the log its quota last changed.
    pub limit_position: Position,
    /// Where in the log what it holds last changed.
    pub usage_position: Position,
}

/// Which mailboxes are wanted.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Filter {
    /// Closed mailboxes too.
    pub include_closed: bool,
    /// Only where the id or the address contains this text.
    pub search: Option<String>,
}

/// Returns a mailbox, closed or not.
///
/// # Errors
/// The database does not answer.
pub async fn get(views: &Views, team: &TeamId, mailbox: &MailboxId) -> Result<Option<Row>, Error> {
    let mut select = Select::new(SELECT);
    select.text(team.as_str()).push(" AND mailbox_id = ").text(mailbox.as_str());
    select.fetch(&mut views.read().await?).await?.first().map(row).transpose()
}

/// Returns the open mailbox of an address (canonical, lower case).
///
/// # Errors
/// The database does not answer.
pub async fn find_by_address(views: &Views, team: &TeamId, email: &str) -> Result<Option<Row>, Error> {
    let mut select = Select::new(SELECT);
    select.text(team.as_str()).push(" AND email = ").text(email.replace('\0', "")).push(" AND status <> 'closed'");
    select.fetch(&mut views.read().await?).await?.first().map(row).transpose()
}

/// Returns mailboxes, newest first.
///
/// # Errors
/// [`Error::BadCursor`], or the database does not answer.
pub async fn list(views: &Views, team: &TeamId, filter: &Filter, page: &Page) -> Result<Paged<Row>, Error> {
    let mut select = Select::new(SELECT);
    select.text(team.as_str());
    if !filter.include_closed {
        select.push(" AND status <> 'closed'");
    }
    if let Some(search) = &filter.search {
        let search = crate::folded(search);
        select.push(" AND (").contains("mailbox_id", &search).push(" OR ").contains("email", &search).push(")");
    }
    if let Some(position) = page.key::<Position>(NAME)? {
        select.push(" AND created_position < ").int(signed(position));
    }
    select.push(" ORDER BY created_position DESC LIMIT ").int(page.fetch());
    let rows = select.fetch(&mut views.read().await?).await?;
    let rows = rows.iter().map(row).collect::<Result<_, _>>()?;
    Paged::new(rows, page, NAME, |row: &Row| row.created_position)
}

/// Returns how many mailboxes of each domain are not closed; domains without any are left out.
///
/// # Errors
/// The database does not answer.
pub async fn count_by_domain(views: &Views, team: &TeamId) -> Result<BTreeMap<DomainId, u64>, Error> {
    let mut select = Select::new("SELECT domain_id, CAST(COUNT(*) AS BIGINT) AS total FROM mailboxes WHERE team_id = ");
    select.text(team.as_str()).push(" AND status <> 'closed' GROUP BY domain_id");
    let counts = select.fetch(&mut views.read().await?).await?;
    counts.iter().map(|cells| Ok((cells.parsed("domain_id")?, cells.unsigned("total")?))).collect()
}

/// Returns how many mailboxes of a domain are not closed.
///
/// # Errors
/// The database does not answer.
pub async fn count_of_domain(views: &Views, team: &TeamId, domain: &DomainId) -> Result<u64, Error> {
    let mut select = Select::new("SELECT CAST(COUNT(*) AS BIGINT) AS total FROM mailboxes WHERE team_id = ");
    select.text(team.as_str()).push(" AND domain_id = ").text(domain.as_str()).push(" AND status <> 'closed'");
    let rows = select.fetch(&mut views.read().await?).await?;
    rows.first().map_or(Ok(0), |cells| cells.unsigned("total"))
}

fn row(cells: &Cells) -> Result<Row, Error> {
    Ok(Row {
        id: cells.parsed("mailbox_id")?,
        domain: cells.parsed("domain_id")?,
        email: cells.get("email")?,
        display_name: cells.get("display_name")?,
        status: cells.named("status")?,
        quota_bytes: cells.get("quota_bytes")?,
        send_scope: cells.json("send_scope")?,
        filter_mode: cells.named("filter_mode")?,
        rules: cells.json("rules")?,
        bytes_used: cells.get("bytes_used")?,
        messages: cells.get("messages")?,
        created_at: cells.get("created_at")?,
        updated_at: cells.get("updated_at")?,
        created_position: cells.unsigned("created_position")?,
        version: cells.unsigned("version")?,
        identity_position: cells.unsigned("identity_position")?,
        limit_position: cells.unsigned("limit_position")?,
        usage_position: cells.unsigned("usage_position")?,
    })
}

/// See the module.
#[derive(Debug)]
pub struct Mailboxes;

#[async_trait::async_trait]
impl Projection for Mailboxes {
    fn name(&self) -> &'static str {
        NAME
    }

    fn version(&self) -> i64 {
        3
    }

    fn schema(&self) -> &'static str {
        include_str!("mailboxes.sql")
    }

    fn tables(&self) -> &'static [&'static Table] {
        &[&MAILBOXES]
    }

    async fn apply(&self, tx: &mut Tx<'_>, team: &TeamId, events: &[Recorded]) -> Result<(), Error> {
        let touched: BTreeSet<&MailboxId> = events.iter().filter_map(|record| mailbox_of(&record.event)).collect();
        let mut keys = Rows::new();
        touched.iter().for_each(|id| keys.push(cells![id.as_str()]));
        let stored = MAILBOXES.load(tx, team, keys).await?;
        let mut mailboxes: BTreeMap<MailboxId, Row> =
            stored.iter().map(|cells| row(cells).map(|row| (row.id.clone(), row))).collect::<Result<_, _>>()?;
        for record in events {
            match &record.event {
                Event::Mailbox(MailboxEvent::Opened(e)) => {
                    mailboxes.insert(e.mailbox.clone(), opened(record, e));
                }
                Event::Mailbox(e) => {
                    if let Some(row) = mailboxes.get_mut(e.mailbox()) {
                        change(row, e, record.position);
                        (row.updated_at, row.version) = (record.at, record.stream_version);
                    }
                }
                Event::Message(MessageEvent::Received(e)) => {
                    if let Some(row) = mailboxes.get_mut(&e.mailbox) {
                        row.bytes_used = row.bytes_used.saturating_add(e.size_bytes);
                        row.messages += 1;
                        row.usage_position = record.position;
                    }
                }
                Event::Message(MessageEvent::Filed(e)) => {
                    if let Some(row) = mailboxes.get_mut(&e.mailbox) {
                        row.bytes_used = row.bytes_used.saturating_add(e.size_bytes);
                        row.messages += 1;
                        row.usage_position = record.position;
                    }
                }
                Event::Message(MessageEvent::Destroyed(e)) => {
                    if let Some(row) = mailboxes.get_mut(&e.mailbox) {
                        row.bytes_used = row.bytes_used.saturating_sub(e.size_bytes);
                        row.messages -= 1;
                        row.usage_position = record.position;
                    }
                }
                _ => {}
            }
        }
        let mut rows = Rows::new();
        for row in mailboxes.values() {
            write(&mut rows, row)?;
        }
        MAILBOXES.insert(tx, team, rows, Existing::Replace).await
    }
}

/// The mailbox whose row an event changes.
fn mailbox_of(event: &Event) -> Option<&MailboxId> {
    match event {
        Event::Mailbox(e) => Some(e.mailbox()),
        Event::Message(MessageEvent::Received(e)) => Some(&e.mailbox),
        Event::Message(MessageEvent::Filed(e)) => Some(&e.mailbox),
        Event::Message(MessageEvent::Destroyed(e)) => Some(&e.mailbox),
        _ => None,
    }
}

fn opened(record: &Recorded, e: &domain::Halves<domain::mailbox::Opened, domain::mailbox::Owner>) -> Row {
    Row {
        id: e.mailbox.clone(),
        domain: e.domain.clone(),
        email: e.personal.known().map(|p| p.email.clone()),
        display_name: e.personal.known().and_then(|p| p.display_name.clone()),
        status: Status::Active,
        quota_bytes: e.quota_bytes,
        send_scope: e.send_scope.clone(),
        filter_mode: FilterMode::Off,
        rules: vec![],
        bytes_used: 0,
        messages: 0,
        created_at: record.at,
        updated_at: record.at,
        created_position: record.position,
        version: record.stream_version,
        identity_position: record.position,
        limit_position: record.position,
        usage_position: record.position,
    }
}

fn change(row: &mut Row, event: &MailboxEvent, position: Position) {
    match event {
        // Handled by its caller: it makes the row.
        MailboxEvent::Opened(_) => {}
        MailboxEvent::Renamed(e) => {
            row.display_name = e.personal.known().and_then(|p| p.display_name.clone());
            row.identity_position = position;
        }
        MailboxEvent::QuotaChanged(e) => {
            row.quota_bytes = e.quota_bytes;
            row.limit_position = position;
        }
        MailboxEvent::SendScopeChanged(e) => row.send_scope = e.send_scope.clone(),
        MailboxEvent::RulesReplaced(e) => {
            row.filter_mode = e.mode;
            row.rules = e.personal.known().map(|p| p.rules.clone()).unwrap_or_default();
        }
        MailboxEvent::Suspended(_) => row.status = Status::Suspended,
        MailboxEvent::Resumed(_) => row.status = Status::Active,
        MailboxEvent::Closed(_) => row.status = Status::Closed,
    }
}

fn write(rows: &mut Rows, row: &Row) -> Result<(), Error> {
    let (status, mode) = (serde_json::to_value(row.status)?, serde_json::to_value(row.filter_mode)?);
    rows.push(cells![
        row.id.as_str(),
        row.domain.as_str(),
        row.email.as_ref(),
        row.display_name.as_ref(),
        status.as_str(),
        row.quota_bytes,
        &serde_json::to_string(&row.send_scope)?,
        mode.as_str(),
        &serde_json::to_string(&row.rules)?,
        row.bytes_used,
        row.messages,
        row.created_at,
        row.updated_at,
        row.created_position,
        row.version,
        row.identity_position,
        row.limit_position,
        row.usage_position,
    ]);
    Ok(())
}
