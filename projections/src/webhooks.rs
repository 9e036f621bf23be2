//! The webhook endpoints that exist; deleted ones are gone.

use std::collections::{BTreeMap, BTreeSet};

use domain::Event;
use domain::id::{MailboxId, Position, SecretId, TeamId, WebhookId};
use domain::published::WebhookEventType;
use domain::webhook_endpoint::{Backlog, DisableReason, Event as WebhookEvent};
use eventlog::Recorded;

use crate::db::{Cells, Select, Tx};
use crate::table::Kind::{Bool, Int, Text};
use crate::table::{Existing, Rows, Table, cells};
use crate::{Error, Page, Paged, Projection, Views, signed};

/// The projection's name.
pub const NAME: &str = "webhooks";

const WEBHOOKS: Table = Table {
    name: "webhooks",
    key: &[("webhook_id", Text)],
    rest: &[
        ("url", Text),
        ("name", Text),
        ("event_types", Text),
        ("mailboxes", Text),
        ("enabled", Bool),
        ("failing", Bool),
        ("disable_reason", Text),
        ("secret_id", Text),
        ("deliver_after", Int),
        ("backlog_skipped_at", Int),
        ("created_at", Int),
        ("updated_at", Int),
        ("created_position", Int),
        ("changed_position", Int),
        ("version", Int),
    ],
};

const SELECT: &str = "
SELECT team_id, webhook_id, url, name, event_types, mailboxes, enabled, failing, disable_reason, secret_id,
       deliver_after, backlog_skipped_at, created_at, updated_at, created_position, changed_position, version
FROM webhooks
WHERE team_id";

/// A webhook endpoint as it is listed.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// The webhook.
    pub id: WebhookId,
    /// Where deliveries go; `None` after erasure.
    pub url: Option<String>,
    /// What its owner calls it.
    pub name: Option<String>,
    /// The published types it is told of.
    pub event_types: BTreeSet<WebhookEventType>,
    /// The mailboxes it is told of; empty means all.
    pub mailboxes: BTreeSet<MailboxId>,
    /// Whether deliveries are made.
    pub enabled: bool,
    /// Whether it stopped answering; ends when it is enabled again.
    pub failing: bool,
    /// Why it is off; `None` while it is on or if it was created off.
    pub disable_reason: Option<DisableReason>,
    /// The sealed signing secret.
    pub secret: SecretId,
    /// Deliveries begin after this position.
    pub deliver_after: Position,
    /// Where it was last switched on without what had happened meanwhile: nothing up to here is delivered any more.
    pub backlog_skipped_at: Option<Position>,
    /// When it was created, microseconds since the Unix epoch.
    pub created_at: i64,
    /// When it was last changed; tests and deliveries do not change it.
    pub updated_at: i64,
    /// Where in the log it was created; the order of the list.
    pub created_position: Position,
    /// Where in the log it was last changed.
    pub changed_position: Position,
    /// Events in its stream: its `ETag`.
    pub version: u64,
}

/// Returns a webhook that exists.
///
/// # Errors
/// The database does not answer.
pub async fn get(views: &Views, team: &TeamId, webhook: &WebhookId) -> Result<Option<Row>, Error> {
    let mut select = Select::new(SELECT);
    select.push(" = ").text(team.as_str()).push(" AND webhook_id = ").text(webhook.as_str());
    select.fetch(&mut views.read().await?).await?.first().map(row).transpose()
}

/// Returns webhooks, newest first.
///
/// # Errors
/// [`Error::BadCursor`], or the database does not answer.
pub async fn list(views: &Views, team: &TeamId, page: &Page) -> Result<Paged<Row>, Error> {
    let mut select = Select::new(SELECT);
    select.push(" = ").text(team.as_str());
    if let Some(position) = page.key::<Position>(NAME)? {
        select.push(" AND created_position < ").int(signed(position));
    }
    select.push(" ORDER BY created_position DESC LIMIT ").int(page.fetch());
    let rows = select.fetch(&mut views.read().await?).await?;
    let rows = rows.iter().map(row).collect::<Result<_, _>>()?;
    Paged::new(rows, page, NAME, |row: &Row| row.created_position)
}

/// Returns all webhooks of a team, oldest first; a team has few.
///
/// # Errors
/// The database does not answer.
pub async fn of_team(views: &Views, team: &TeamId) -> Result<Vec<Row>, Error> {
    let mut select = Select::new(SELECT);
    select.push(" = ").text(team.as_str()).push(" ORDER BY created_position");
    select.fetch(&mut views.read().await?).await?.iter().map(row).collect()
}

/// Returns the webhooks of teams behind a given one, team by team in the order of their ids, at most `limit` teams:
/// for whoever delivers for all of them.
///
/// # Errors
/// The database does not answer.
pub async fn of_teams(views: &Views, after: Option<&TeamId>, limit: usize) -> Result<Vec<(TeamId, Row)>, Error> {
    let mut select = Select::new(SELECT);
    select
        .push(" IN (SELECT DISTINCT team_id FROM webhooks WHERE team_id > ")
        .text(after.map_or("", TeamId::as_str))
        .push(" ORDER BY team_id LIMIT ")
        .int(i64::try_from(limit).unwrap_or(i64::MAX))
        .push(") ORDER BY team_id, created_position");
    let rows = select.fetch(&mut views.read().await?).await?;
    rows.iter().map(|cells| Ok((cells.parsed("team_id")?, row(cells)?))).collect()
}

fn row(cells: &Cells) -> Result<Row, Error> {
    let skipped: Option<i64> = cells.get("backlog_skipped_at")?;
    Ok(Row {
        id: cells.parsed("webhook_id")?,
        url: cells.get("url")?,
        name: cells.get("name")?,
        event_types: cells.json("event_types")?,
        mailboxes: cells.json("mailboxes")?,
        enabled: cells.get("enabled")?,
        failing: cells.get("failing")?,
        disable_reason: cells.named_opt("disable_reason")?,
        secret: cells.parsed("secret_id")?,
        deliver_after: cells.unsigned("deliver_after")?,
        backlog_skipped_at: skipped.and_then(|n| Position::try_from(n).ok()),
        created_at: cells.get("created_at")?,
        updated_at: cells.get("updated_at")?,
        created_position: cells.unsigned("created_position")?,
        changed_position: cells.unsigned("changed_position")?,
        version: cells.unsigned("version")?,
    })
}

/// See the module.
#[derive(Debug)]
pub struct Webhooks;

#[async_trait::async_trait]
impl Projection for Webhooks {
    fn name(&self) -> &'static str {
        NAME
    }

    fn version(&self) -> i64 {
        1
    }

    fn schema(&self) -> &'static str {
        include_str!("webhooks.sql")
    }

    fn tables(&self) -> &'static [&'static Table] {
        &[&WEBHOOKS]
    }

    async fn apply(&self, tx: &mut Tx<'_>, team: &TeamId, events: &[Recorded]) -> Result<(), Error> {
        let mut touched: BTreeSet<&WebhookId> = BTreeSet::new();
        for record in events {
            if let Event::Webhook(e) = &record.event {
                touched.insert(e.webhook());
            }
        }
        let mut keys = Rows::new();
        touched.iter().for_each(|id| keys.push(cells![id.as_str()]));
        let mut stored = BTreeMap::new();
        for cells in WEBHOOKS.load(tx, team, keys).await? {
            // The team is known; only the columns of the table are loaded.
            let row = row(&cells)?;
            stored.insert(row.id.clone(), row);
        }
        let mut gone = Rows::new();
        for record in events {
            match &record.event {
                Event::Webhook(WebhookEvent::Created(e)) => {
                    stored.insert(e.webhook.clone(), created(record, e));
                }
                Event::Webhook(WebhookEvent::Deleted(e)) => {
                    stored.remove(&e.webhook);
                    gone.push(cells![e.webhook.as_str()]);
                }
                Event::Webhook(e) => {
                    if let Some(row) = stored.get_mut(e.webhook()) {
                        change(row, e, record);
                    }
                }
                _ => {}
            }
        }
        WEBHOOKS.delete(tx, team, gone).await?;
        let mut rows = Rows::new();
        for row in stored.values() {
            write(&mut rows, row)?;
        }
        WEBHOOKS.insert(tx, team, rows, Existing::Replace).await
    }
}

fn created(
    record: &Recorded,
    e: &domain::Halves<domain::webhook_endpoint::Created, domain::webhook_endpoint::Destination>,
) -> Row {
    Row {
        id: e.webhook.clone(),
        url: e.personal.known().map(|p| p.url.clone()),
        name: e.personal.known().and_then(|p| p.name.clone()),
        event_types: e.subscription.event_types.clone(),
        mailboxes: e.subscription.mailboxes.clone(),
        enabled: e.enabled,
        failing: false,
        disable_reason: None,
        secret: e.secret.clone(),
        deliver_after: e.deliver_after.unwrap_or(record.position),
        backlog_skipped_at: None,
        created_at: record.at,
        updated_at: record.at,
        created_position: record.position,
        changed_position: record.position,
        version: record.stream_version,
    }
}

fn change(row: &mut Row, event: &WebhookEvent, record: &Recorded) {
    row.version = record.stream_version;
    match event {
        // The first two are handled by the caller: they make and unmake the row. The others say nothing about it.
        WebhookEvent::Created(_)
        | WebhookEvent::Deleted(_)
        | WebhookEvent::Tested(_)
        | WebhookEvent::DeliveryExhausted(_)
        | WebhookEvent::DeliverySkipped(_) => return,
        WebhookEvent::Redirected(e) => {
            row.url = e.personal.known().map(|p| p.url.clone());
            row.name = e.personal.known().and_then(|p| p.name.clone());
        }
        WebhookEvent::SubscriptionChanged(e) => {
            row.event_types = e.subscription.event_types.clone();
            row.mailboxes = e.subscription.mailboxes.clone();
        }
        WebhookEvent::Enabled(e) => {
            (row.enabled, row.failing, row.disable_reason) = (true, false, None);
            if e.backlog == Backlog::Skip {
                row.backlog_skipped_at = Some(record.position);
            }
        }
        WebhookEvent::Disabled(e) => (row.enabled, row.disable_reason) = (false, Some(e.reason)),
        WebhookEvent::SecretRotated(e) => row.secret = e.secret.clone(),
        WebhookEvent::Failing(_) => row.failing = true,
    }
    (row.updated_at, row.changed_position) = (record.at, record.position);
}

fn write(rows: &mut Rows, row: &Row) -> Result<(), Error> {
    let reason = serde_json::to_value(row.disable_reason)?;
    rows.push(cells![
        row.id.as_str(),
        row.url.as_ref(),
        row.name.as_ref(),
        &serde_json::to_string(&row.event_types)?,
        &serde_json::to_string(&row.mailboxes)?,
        row.enabled,
        row.failing,
        reason.as_str(),
        row.secret.as_str(),
        row.deliver_after,
        row.backlog_skipped_at,
        row.created_at,
        row.updated_at,
        row.created_position,
        row.changed_position,
        row.version,
    ]);
    Ok(())
}
