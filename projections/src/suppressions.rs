//! The suppression list of a team: one row per address, with its causes. Addresses that were taken off are gone.

use std::collections::{BTreeMap, BTreeSet};

use domain::Event;
use domain::id::{AddressId, OutboundId, Position, TeamId};
use domain::suppression::{Cause, Event as SuppressionEvent, Reason};
use eventlog::Recorded;
use serde::{Deserialize, Serialize};

use crate::db::{Cells, Select, Tx};
use crate::table::Kind::{Int, Text};
use crate::table::{Existing, Rows, Table, cells};
use crate::{Error, Page, Paged, Projection, Views, folded, signed};

/// The projection's name.
pub const NAME: &str = "suppressions";

const SUPPRESSIONS: Table = Table {
    name: "suppressions",
    key: &[("address_id", Text)],
    rest: &[
        ("email", Text),
        ("email_folded", Text),
        ("causes", Text),
        ("reasons", Text),
        ("expires_at", Int),
        ("created_at", Int),
        ("updated_at", Int),
        ("created_position", Int),
        ("changed_position", Int),
        ("version", Int),
    ],
};

const SELECT: &str = "
SELECT address_id, email, causes, created_at, updated_at, created_position, changed_position, version
FROM suppressions
WHERE team_id = ";

/// An address that is not written to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// The address, as a keyed digest.
    pub id: AddressId,
    /// The address; `None` after erasure.
    pub email: Option<String>,
    /// Why it is not written to, oldest first; some may have ended by themselves.
    pub causes: Vec<Listed>,
    /// When it came on the list, microseconds since the Unix epoch.
    pub created_at: i64,
    /// When a cause was last added.
    pub updated_at: i64,
    /// Where in the log it came on the list; the order of the list.
    pub created_position: Position,
    /// Where in the log a cause was last added.
    pub changed_position: Position,
    /// Events in its stream: its `ETag`.
    pub version: u64,
}

/// One cause for which an address is on the list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listed {
    /// Why, and the topic it is confined to.
    pub cause: Cause,
    /// Since when, microseconds since the Unix epoch.
    pub since: i64,
    /// When it ends by itself.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub expires_at: Option<i64>,
    /// The mail that led to it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub outbound: Option<OutboundId>,
    /// What somebody wrote beside it; `None` after erasure.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub note: Option<String>,
}

impl Row {
    /// Returns when it ends by itself, microseconds since the Unix epoch; `None` if it never does.
    #[must_use]
    pub fn expires_at(&self) -> Option<i64> {
        // One cause that never ends is enough.
        let ends: Option<Vec<i64>> = self.causes.iter().map(|listed| listed.expires_at).collect();
        ends.and_then(|ends| ends.into_iter().max())
    }
}

/// Which addresses are wanted.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Filter {
    /// Only with such a cause.
    pub reason: Option<Reason>,
    /// Only those still suppressed at this time, microseconds since the Unix epoch.
    pub active_at: Option<i64>,
    /// Only where the address contains this text.
    pub search: Option<String>,
}

/// Returns an address of the list.
///
/// # Errors
/// The database does not answer.
pub async fn get(views: &Views, team: &TeamId, address: &AddressId) -> Result<Option<Row>, Error> {
    let mut select = Select::new(SELECT);
    select.text(team.as_str()).push(" AND address_id = ").text(address.as_str());
    select.fetch(&mut views.read().await?).await?.first().map(row).transpose()
}

/// Returns addresses of the list, newest first.
///
/// # Errors
/// [`Error::BadCursor`], or the database does not answer.
pub async fn list(views: &Views, team: &TeamId, filter: &Filter, page: &Page) -> Result<Paged<Row>, Error> {
    let mut select = Select::new(SELECT);
    select.text(team.as_str());
    if let Some(reason) = filter.reason {
        select.push(" AND ").contains("reasons", &format!("\"{}\"", reason.as_str()));
    }
    if let Some(now) = filter.active_at {
        select.push(" AND (expires_at IS NULL OR expires_at > ").int(now).push(")");
    }
    if let Some(search) = &filter.search {
        select.push(" AND ").contains("email_folded", &folded(search));
    }
    if let Some(position) = page.key::<Position>(NAME)? {
        select.push(" AND created_position < ").int(signed(position));
    }
    select.push(" ORDER BY created_position DESC LIMIT ").int(page.fetch());
    let rows = select.fetch(&mut views.read().await?).await?;
    let rows = rows.iter().map(row).collect::<Result<_, _>>()?;
    Paged::new(rows, page, NAME, |row: &Row| row.created_position)
}

fn row(cells: &Cells) -> Result<Row, Error> {
    Ok(Row {
        id: cells.parsed("address_id")?,
        email: cells.get("email")?,
        causes: cells.json("causes")?,
        created_at: cells.get("created_at")?,
        updated_at: cells.get("updated_at")?,
        created_position: cells.unsigned("created_position")?,
        changed_position: cells.unsigned("changed_position")?,
        version: cells.unsigned("version")?,
    })
}

/// See the module.
#[derive(Debug)]
pub struct Suppressions;

#[async_trait::async_trait]
impl Projection for Suppressions {
    fn name(&self) -> &'static str {
        NAME
    }

    fn version(&self) -> i64 {
        1
    }

    fn schema(&self) -> &'static str {
        include_str!("suppressions.sql")
    }

    fn tables(&self) -> &'static [&'static Table] {
        &[&SUPPRESSIONS]
    }

    async fn apply(&self, tx: &mut Tx<'_>, team: &TeamId, events: &[Recorded]) -> Result<(), Error> {
        let mut touched = BTreeSet::new();
        for record in events {
            if let Event::Suppression(e) = &record.event {
                touched.insert(e.address());
            }
        }
        let mut keys = Rows::new();
        touched.iter().for_each(|id| keys.push(cells![id.as_str()]));
        let stored = SUPPRESSIONS.load(tx, team, keys).await?;
        let mut list: BTreeMap<AddressId, Row> =
            stored.iter().map(|cells| row(cells).map(|row| (row.id.clone(), row))).collect::<Result<_, _>>()?;
        for record in events {
            if let Event::Suppression(e) = &record.event {
                change(&mut list, record, e);
            }
        }
        let (mut rows, mut gone) = (Rows::new(), Rows::new());
        for id in touched {
            let Some(row) = list.get(id) else {
                gone.push(cells![id.as_str()]);
                continue;
            };
            let reasons: BTreeSet<&str> = row.causes.iter().map(|listed| listed.cause.reason.as_str()).collect();
            rows.push(cells![
                row.id.as_str(),
                row.email.as_ref(),
                &folded(row.email.as_deref().unwrap_or_default()),
                &serde_json::to_string(&row.causes)?,
                &serde_json::to_string(&reasons)?,
                row.expires_at(),
                row.created_at,
                row.updated_at,
                row.created_position,
                row.changed_position,
                row.version,
            ]);
        }
        SUPPRESSIONS.delete(tx, team, gone).await?;
        SUPPRESSIONS.insert(tx, team, rows, Existing::Replace).await
    }
}

fn change(list: &mut BTreeMap<AddressId, Row>, record: &Recorded, event: &SuppressionEvent) {
    match event {
        SuppressionEvent::Added(e) => {
            let known = e.personal.known();
            let row = list.entry(e.address.clone()).or_insert_with(|| Row {
                id: e.address.clone(),
                email: None,
                causes: vec![],
                created_at: record.at,
                updated_at: record.at,
                created_position: record.position,
                changed_position: record.position,
                version: 0,
            });
            row.email = known.map(|p| p.email.clone()).or(row.email.take());
            let listed = Listed {
                cause: e.cause.clone(),
                since: record.at,
                expires_at: e.expires_at,
                outbound: e.outbound.clone(),
                note: known.and_then(|p| p.note.clone()),
            };
            row.causes.retain(|listed| listed.cause != e.cause);
            row.causes.push(listed);
            (row.updated_at, row.changed_position, row.version) = (record.at, record.position, record.stream_version);
        }
        SuppressionEvent::Removed(e) => drop(list.remove(&e.address)),
        SuppressionEvent::EvidenceCleared(e) => {
            if let Some(row) = list.get_mut(&e.address) {
                row.version = record.stream_version;
            }
        }
    }
}
