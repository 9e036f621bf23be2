//! The keys of a team and the credentials of its mailboxes, revoked ones included.

use std::collections::BTreeMap;

use domain::Event;
use domain::api_key::{Event as KeyEvent, Kind as KeyKind, RevokeReason};
use domain::id::{KeyId, MailboxId, Position, TeamId};
use domain::permission::Permissions;
use eventlog::Recorded;

use crate::db::{Cells, Select, Tx};
use crate::table::Kind::{Int, Text};
use crate::table::{Existing, Rows, Table, cells};
use crate::{Error, Page, Paged, Projection, Views, signed};

/// The projection's name.
pub const NAME: &str = "api_keys";

const KEYS: Table = Table {
    name: "api_keys",
    key: &[("key_id", Text)],
    rest: &[
        ("kind", Text),
        ("mailbox_id", Text),
        ("name", Text),
        ("prefix", Text),
        ("suffix", Text),
        ("permissions", Text),
        ("replaces", Text),
        ("created_by", Text),
        ("created_at", Int),
        ("created_position", Int),
        ("revoked_at", Int),
        ("revoke_reason", Text),
        ("version", Int),
    ],
};

const SELECT: &str = "
SELECT key_id, kind, mailbox_id, name, prefix, suffix, permissions, replaces, created_by, created_at,
       created_position, revoked_at, revoke_reason, version
FROM api_keys
WHERE team_id = ";

/// A key as it is listed.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// The key.
    pub id: KeyId,
    /// Which surface it is for.
    pub kind: KeyKind,
    /// The mailbox it is confined to.
    pub mailbox: Option<MailboxId>,
    /// What its owner calls it; `None` after erasure.
    pub name: Option<String>,
    /// The label and first characters of the secret.
    pub prefix: String,
    /// The last characters of the secret.
    pub suffix: String,
    /// What it may do.
    pub permissions: Permissions,
    /// The key it was rotated from.
    pub replaces: Option<KeyId>,
    /// Who created it, as `kind:id`.
    pub created_by: String,
    /// When, microseconds since the Unix epoch.
    pub created_at: i64,
    /// Where in the log; the order of the list.
    pub created_position: Position,
    /// When it ended, microseconds since the Unix epoch; `None` while it works.
    pub revoked_at: Option<i64>,
    /// Why it ended.
    pub revoke_reason: Option<RevokeReason>,
    /// Events in its stream: its `ETag`.
    pub version: u64,
}

/// Which keys are wanted.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Filter {
    /// Whose keys.
    pub scope: Scope,
    /// Only keys for this surface.
    pub kind: Option<KeyKind>,
    /// Revoked keys too.
    pub include_revoked: bool,
}

/// Whose keys are wanted.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Scope {
    /// The team's and all mailboxes'.
    #[default]
    All,
    /// Only those that are confined to no mailbox.
    Team,
    /// Only those of one mailbox.
    Mailbox(MailboxId),
}

/// Returns a key, revoked or not.
///
/// # Errors
/// The database does not answer.
pub async fn get(views: &Views, team: &TeamId, key: &KeyId) -> Result<Option<Row>, Error> {
    let mut select = Select::new(SELECT);
    select.text(team.as_str()).push(" AND key_id = ").text(key.as_str());
    select.fetch(&mut views.read().await?).await?.first().map(row).transpose()
}

/// Returns keys, newest first.
///
/// # Errors
/// [`Error::BadCursor`], or the database does not answer.
pub async fn list(views: &Views, team: &TeamId, filter: &Filter, page: &Page) -> Result<Paged<Row>, Error> {
    let mut select = Select::new(SELECT);
    select.text(team.as_str());
    match &filter.scope {
        Scope::All => {}
        Scope::Team => {
            select.push(" AND mailbox_id IS NULL");
        }
        Scope::Mailbox(id) => {
            select.push(" AND mailbox_id = ").text(id.as_str());
        }
    }
    if let Some(kind) = filter.kind {
        select.push(" AND kind = ").text(kind.as_str());
    }
    if !filter.include_revoked {
        select.push(" AND revoked_at IS NULL");
    }
    if let Some(position) = page.key::<Position>(NAME)? {
        select.push(" AND created_position < ").int(signed(position));
    }
    // Keys that were created by one command differ in their positions, so the order is total.
    select.push(" ORDER BY created_position DESC LIMIT ").int(page.fetch());
    let rows = select.fetch(&mut views.read().await?).await?;
    let rows = rows.iter().map(row).collect::<Result<_, _>>()?;
    Paged::new(rows, page, NAME, |row: &Row| row.created_position)
}

fn row(cells: &Cells) -> Result<Row, Error> {
    Ok(Row {
        id: cells.parsed("key_id")?,
        kind: cells.named("kind")?,
        mailbox: cells.parsed_opt("mailbox_id")?,
        name: cells.get("name")?,
        prefix: cells.text("prefix")?,
        suffix: cells.text("suffix")?,
        permissions: cells.json("permissions")?,
        replaces: cells.parsed_opt("replaces")?,
        created_by: cells.text("created_by")?,
        created_at: cells.get("created_at")?,
        created_position: cells.unsigned("created_position")?,
        revoked_at: cells.get("revoked_at")?,
        revoke_reason: cells.named_opt("revoke_reason")?,
        version: cells.unsigned("version")?,
    })
}

/// See the module.
#[derive(Debug)]
pub struct ApiKeys;

#[async_trait::async_trait]
impl Projection for ApiKeys {
    fn name(&self) -> &'static str {
        NAME
    }

    fn version(&self) -> i64 {
        1
    }

    fn schema(&self) -> &'static str {
        include_str!("api_keys.sql")
    }

    fn tables(&self) -> &'static [&'static Table] {
        &[&KEYS]
    }

    async fn apply(&self, tx: &mut Tx<'_>, team: &TeamId, events: &[Recorded]) -> Result<(), Error> {
        let mut created = Rows::new();
        let mut ended = BTreeMap::new();
        for record in events {
            match &record.event {
                Event::ApiKey(KeyEvent::Created(e)) => created.push(cells![
                    e.key.as_str(),
                    e.kind.as_str(),
                    e.mailbox.as_ref().map(MailboxId::as_str),
                    e.personal.known().map(|p| &p.name),
                    &e.prefix,
                    &e.suffix,
                    &serde_json::to_string(&e.permissions)?,
                    e.replaces.as_ref().map(KeyId::as_str),
                    &record.actor,
                    record.at,
                    record.position,
                    None::<i64>,
                    None::<&str>,
                    record.stream_version,
                ]),
                Event::ApiKey(KeyEvent::Revoked(e)) => {
                    ended.insert(&e.key, (record, e.reason));
                }
                _ => {}
            }
        }
        KEYS.insert(tx, team, created, Existing::Replace).await?;
        let mut rows = Rows::new();
        for (key, (record, reason)) in ended {
            let reason = serde_json::to_value(reason)?;
            rows.push(cells![key.as_str(), record.at, reason.as_str(), record.stream_version]);
        }
        KEYS.update(tx, team, &[("revoked_at", Int), ("revoke_reason", Text), ("version", Int)], rows).await
    }
}
