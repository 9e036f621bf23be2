//! The sending accounts of a team. Deleted ones are listed no more, but what they were called can still be read.

use std::collections::{BTreeMap, BTreeSet};

use domain::Event;
use domain::entity::Fold as _;
use domain::id::{Position, ProviderId, TeamId};
use domain::outbound::Event as OutboundEvent;
use domain::provider::{Event as ProviderEvent, Provider, Status};
use eventlog::Recorded;
use serde::{Deserialize, Serialize};

use crate::db::{Cells, Select, Tx};
use crate::table::Kind::{Int, Text};
use crate::table::{Existing, Rows, Table, cells};
use crate::{Error, Page, Paged, Projection, Views, signed};

/// The projection's name.
pub const NAME: &str = "providers";

/// The most accounts whose names are asked for at once.
const NAMES_MAX: usize = 1_000;

const PROVIDERS: Table = Table {
    name: "providers",
    key: &[("provider_id", Text)],
    rest: &[
        ("health", Text),
        ("kind", Text),
        ("state", Text),
        ("last_test", Text),
        ("said", Text),
        ("last_used_at", Int),
        ("created_at", Int),
        ("updated_at", Int),
        ("created_position", Int),
        ("changed_position", Int),
        ("version", Int),
    ],
};

const SELECT: &str = "
SELECT provider_id, state, last_test, said, last_used_at, created_at, updated_at, created_position, changed_position,
       version
FROM providers
WHERE team_id = ";

/// A sending account as it is listed.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// The account.
    pub id: ProviderId,
    /// What it is, how it is called and how it fares.
    pub provider: Provider,
    /// How its latest connection test went.
    pub last_test: Option<LastTest>,
    /// What the server said when it refused the account or was tested last; `None` after erasure.
    pub said: Option<String>,
    /// When mail was last given to it, microseconds since the Unix epoch.
    pub last_used_at: Option<i64>,
    /// When it was created, microseconds since the Unix epoch.
    pub created_at: i64,
    /// When it was last changed; mail does not change it.
    pub updated_at: i64,
    /// Where in the log it was created; the order of the list.
    pub created_position: Position,
    /// Where in the log it last changed; mail does not change it.
    pub changed_position: Position,
    /// Events in its stream: its `ETag`.
    pub version: u64,
}

/// How a connection test went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastTest {
    /// Whether the server let us in.
    pub success: bool,
    /// How long it took, milliseconds.
    pub latency_milliseconds: u32,
    /// When, microseconds since the Unix epoch.
    pub tested_at: i64,
}

/// Whether an account can be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Health {
    /// It is chosen.
    Active,
    /// Somebody has switched it off.
    Inactive,
    /// It is switched on, but refused us and must be mended.
    Broken,
    /// It is gone for good.
    Deleted,
}

impl Health {
    /// Returns the health of an account.
    #[must_use]
    pub fn of(provider: &Provider) -> Self {
        match provider.status {
            Status::Absent | Status::Deleted => Self::Deleted,
            Status::Inactive => Self::Inactive,
            Status::Active if provider.trouble.is_some() => Self::Broken,
            Status::Active => Self::Active,
        }
    }

    /// Returns the name as stored.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Inactive => "inactive",
            Self::Broken => "broken",
            Self::Deleted => "deleted",
        }
    }
}

impl Row {
    /// Returns whether it can be used.
    #[must_use]
    pub fn health(&self) -> Health {
        Health::of(&self.provider)
    }

    /// Returns which way mail leaves, see [`domain::provider::Transport::kind`].
    #[must_use]
    pub fn kind(&self) -> &'static str {
        self.provider.settings.as_ref().map_or("", |settings| settings.transport.kind())
    }
}

/// Which accounts are wanted.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Filter {
    /// Only of this health; `None` for all that are not deleted.
    pub health: Option<Health>,
    /// Only of one of these kinds; all where there is none.
    pub kinds: Vec<&'static str>,
}

/// Returns an account that is not deleted.
///
/// # Errors
/// The database does not answer.
pub async fn get(views: &Views, team: &TeamId, provider: &ProviderId) -> Result<Option<Row>, Error> {
    let mut select = Select::new(SELECT);
    select.text(team.as_str()).push(" AND provider_id = ").text(provider.as_str()).push(" AND health <> 'deleted'");
    select.fetch(&mut views.read().await?).await?.first().map(row).transpose()
}

/// Returns accounts, newest first.
///
/// # Errors
/// [`Error::BadCursor`], or the database does not answer.
pub async fn list(views: &Views, team: &TeamId, filter: &Filter, page: &Page) -> Result<Paged<Row>, Error> {
    let mut select = Select::new(SELECT);
    select.text(team.as_str());
    match filter.health {
        Some(health) => select.push(" AND health = ").text(health.as_str()),
        None => select.push(" AND health <> 'deleted'"),
    };
    for (i, kind) in filter.kinds.iter().enumerate() {
        select.push(if i == 0 { " AND kind IN (" } else { ", " }).text(*kind);
    }
    if !filter.kinds.is_empty() {
        select.push(")");
    }
    if let Some(position) = page.key::<Position>(NAME)? {
        select.push(" AND created_position < ").int(signed(position));
    }
    select.push(" ORDER BY created_position DESC LIMIT ").int(page.fetch());
    let rows = select.fetch(&mut views.read().await?).await?;
    let rows = rows.iter().map(row).collect::<Result<_, _>>()?;
    Paged::new(rows, page, NAME, |row: &Row| row.created_position)
}

/// Returns what accounts are or were called, deleted ones too; at most 1,000. Accounts without a known name are left out.
///
/// # Errors
/// The database does not answer.
pub async fn names(
    views: &Views,
    team: &TeamId,
    providers: &BTreeSet<ProviderId>,
) -> Result<BTreeMap<ProviderId, String>, Error> {
    if providers.is_empty() {
        return Ok(BTreeMap::new());
    }
    let wanted: Vec<&ProviderId> = providers.iter().take(NAMES_MAX).collect();
    let mut reader = views.read().await?;
    let mut select = Select::new(SELECT);
    select.text(team.as_str()).push(" AND provider_id IN (");
    select.push(reader.pick("SELECT value FROM json_each(", "SELECT json_array_elements_text("));
    select.text(serde_json::to_string(&wanted)?).push(reader.pick("))", "::json))"));
    let mut names = BTreeMap::new();
    for cells in select.fetch(&mut reader).await? {
        let row = row(&cells)?;
        if !row.provider.identity.name.is_empty() {
            names.insert(row.id, row.provider.identity.name);
        }
    }
    Ok(names)
}

/// Returns how many accounts there are of each health and kind, deleted ones left out.
///
/// # Errors
/// The database does not answer.
pub async fn counts(views: &Views, team: &TeamId) -> Result<BTreeMap<(Health, String), u64>, Error> {
    let mut select =
        Select::new("SELECT health, kind, CAST(COUNT(*) AS BIGINT) AS total FROM providers WHERE team_id = ");
    select.text(team.as_str()).push(" AND health <> 'deleted' GROUP BY health, kind");
    let mut counts = BTreeMap::new();
    for cells in select.fetch(&mut views.read().await?).await? {
        let name = cells.text("health")?;
        let health = [Health::Active, Health::Inactive, Health::Broken].into_iter().find(|h| h.as_str() == name);
        if let Some(health) = health {
            counts.insert((health, cells.text("kind")?), cells.unsigned("total")?);
        }
    }
    Ok(counts)
}

fn row(cells: &Cells) -> Result<Row, Error> {
    Ok(Row {
        id: cells.parsed("provider_id")?,
        provider: cells.json("state")?,
        last_test: cells.json_opt("last_test")?,
        said: cells.get("said")?,
        last_used_at: cells.get("last_used_at")?,
        created_at: cells.get("created_at")?,
        updated_at: cells.get("updated_at")?,
        created_position: cells.unsigned("created_position")?,
        changed_position: cells.unsigned("changed_position")?,
        version: cells.unsigned("version")?,
    })
}

/// See the module.
#[derive(Debug)]
pub struct Providers;

#[async_trait::async_trait]
impl Projection for Providers {
    fn name(&self) -> &'static str {
        NAME
    }

    fn version(&self) -> i64 {
        2
    }

    fn schema(&self) -> &'static str {
        include_str!("providers.sql")
    }

    fn tables(&self) -> &'static [&'static Table] {
        &[&PROVIDERS]
    }

    async fn apply(&self, tx: &mut Tx<'_>, team: &TeamId, events: &[Recorded]) -> Result<(), Error> {
        let touched: BTreeSet<&ProviderId> = events.iter().filter_map(|record| account_of(&record.event)).collect();
        let mut keys = Rows::new();
        touched.iter().for_each(|id| keys.push(cells![id.as_str()]));
        let stored = PROVIDERS.load(tx, team, keys).await?;
        let mut accounts: BTreeMap<ProviderId, Row> =
            stored.iter().map(|cells| row(cells).map(|row| (row.id.clone(), row))).collect::<Result<_, _>>()?;
        for record in events {
            match &record.event {
                Event::Provider(e) => change(&mut accounts, record, e),
                Event::Outbound(OutboundEvent::AttemptStarted(e)) => {
                    if let Some(row) = accounts.get_mut(&e.account) {
                        row.last_used_at = row.last_used_at.max(Some(e.at));
                    }
                }
                _ => {}
            }
        }
        let mut rows = Rows::new();
        for row in accounts.values() {
            let last_test = row.last_test.as_ref().map(serde_json::to_string).transpose()?;
            rows.push(cells![
                row.id.as_str(),
                row.health().as_str(),
                row.kind(),
                &serde_json::to_string(&row.provider)?,
                last_test.as_ref(),
                row.said.as_ref(),
                row.last_used_at,
                row.created_at,
                row.updated_at,
                row.created_position,
                row.changed_position,
                row.version,
            ]);
        }
        PROVIDERS.insert(tx, team, rows, Existing::Replace).await
    }
}

/// The account whose row an event changes.
fn account_of(event: &Event) -> Option<&ProviderId> {
    match event {
        Event::Provider(e) => Some(e.provider()),
        Event::Outbound(OutboundEvent::AttemptStarted(e)) => Some(&e.account),
        _ => None,
    }
}

fn change(accounts: &mut BTreeMap<ProviderId, Row>, record: &Recorded, event: &ProviderEvent) {
    let row = accounts.entry(event.provider().clone()).or_insert_with(|| Row {
        id: event.provider().clone(),
        provider: Provider::default(),
        last_test: None,
        said: None,
        last_used_at: None,
        created_at: record.at,
        updated_at: record.at,
        created_position: record.position,
        changed_position: record.position,
        version: 0,
    });
    row.provider.evolve(&record.event);
    match event {
        ProviderEvent::Tested(e) => {
            row.last_test = Some(LastTest {
                success: e.success,
                latency_milliseconds: e.latency_milliseconds,
                tested_at: e.tested_at,
            });
            row.said = e.personal.known().map(|p| p.message.clone());
        }
        ProviderEvent::Broken(e) => row.said = e.personal.known().map(|p| p.message.clone()),
        ProviderEvent::Mended(_) => row.said = None,
        ProviderEvent::Created(_)
        | ProviderEvent::Reconfigured(_)
        | ProviderEvent::CredentialsReplaced(_)
        | ProviderEvent::Activated(_)
        | ProviderEvent::Deactivated(_)
        | ProviderEvent::TopicBound(_)
        | ProviderEvent::TopicReleased(_)
        | ProviderEvent::Deleted(_) => {}
    }
    (row.updated_at, row.changed_position, row.version) = (record.at, record.position, record.stream_version);
}
