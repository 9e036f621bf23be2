//! The sending domains of a team; those it gave up are gone.

use std::collections::{BTreeMap, BTreeSet};

use domain::Event;
use domain::entity::Fold as _;
use domain::id::{DomainId, Position, TeamId};
use domain::sending_domain::{Event as DomainEvent, SendingDomain, Status};
use eventlog::Recorded;

use crate::db::{Cells, Select, Tx, corrupt};
use crate::table::Kind::{Int, Text};
use crate::table::{Existing, Rows, Table, cells};
use crate::{Error, Page, Paged, Projection, Views, fetch_all, signed};

/// The projection's name.
pub const NAME: &str = "domains";

const DOMAINS: Table = Table {
    name: "domains",
    key: &[("domain_id", Text)],
    rest: &[
        ("name", Text),
        ("status", Text),
        ("state", Text),
        ("verified_at", Int),
        ("created_at", Int),
        ("updated_at", Int),
        ("created_position", Int),
        ("changed_position", Int),
        ("rules_position", Int),
        ("retired_at", Int),
        ("version", Int),
    ],
};

const SELECT: &str = "
SELECT domain_id, state, verified_at, created_at, updated_at, created_position, changed_position, rules_position,
       retired_at, version
FROM domains
WHERE team_id = ";

/// A sending domain as it is listed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// The domain.
    pub id: DomainId,
    /// Its name, mode and state, what the last check found, its signing keys and its sender rules. Private keys are
    /// referred to and not here.
    pub domain: SendingDomain,
    /// When it last became verified, microseconds since the Unix epoch.
    pub verified_at: Option<i64>,
    /// When it was added, microseconds since the Unix epoch.
    pub created_at: i64,
    /// When it was last changed.
    pub updated_at: i64,
    /// Where in the log it was added; the order of the list.
    pub created_position: Position,
    /// Where in the log it last changed.
    pub changed_position: Position,
    /// Where in the log its sender rules last changed.
    pub rules_position: Position,
    /// When a signing key was last retired.
    pub retired_at: Option<i64>,
    /// Events in its stream: its `ETag`.
    pub version: u64,
}

/// Which domains are wanted.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Filter {
    /// Only in this state.
    pub status: Option<Status>,
    /// Only where the id or the name contains this text.
    pub search: Option<String>,
}

/// Returns a domain.
///
/// # Errors
/// The database does not answer.
pub async fn get(views: &Views, team: &TeamId, domain: &DomainId) -> Result<Option<Row>, Error> {
    let mut select = Select::new(SELECT);
    select.text(team.as_str()).push(" AND domain_id = ").text(domain.as_str());
    select.fetch(&mut views.read().await?).await?.first().map(row).transpose()
}

/// Returns the domain of a name (A-label, lower case).
///
/// # Errors
/// The database does not answer.
pub async fn find_by_name(views: &Views, team: &TeamId, name: &str) -> Result<Option<Row>, Error> {
    let mut select = Select::new(SELECT);
    select.text(team.as_str()).push(" AND name = ").text(name.replace('\0', ""));
    select.fetch(&mut views.read().await?).await?.first().map(row).transpose()
}

/// Returns domains, newest first.
///
/// # Errors
/// [`Error::BadCursor`], or the database does not answer.
pub async fn list(views: &Views, team: &TeamId, filter: &Filter, page: &Page) -> Result<Paged<Row>, Error> {
    let mut select = Select::new(SELECT);
    select.text(team.as_str());
    if let Some(status) = filter.status {
        select.push(" AND status = ").text(status_name(status));
    }
    if let Some(search) = &filter.search {
        let search = crate::folded(search);
        select.push(" AND (").contains("domain_id", &search).push(" OR ").contains("name", &search).push(")");
    }
    if let Some(position) = page.key::<Position>(NAME)? {
        select.push(" AND created_position < ").int(signed(position));
    }
    select.push(" ORDER BY created_position DESC LIMIT ").int(page.fetch());
    let rows = select.fetch(&mut views.read().await?).await?;
    let rows = rows.iter().map(row).collect::<Result<_, _>>()?;
    Paged::new(rows, page, NAME, |row: &Row| row.created_position)
}

/// Returns teams with a domain that was added since a time and still waits for its records, in the order of their ids
/// after the given one.
///
/// # Errors
/// The database does not answer.
pub async fn teams_waiting(
    views: &Views,
    since_micros: i64,
    after: Option<&TeamId>,
    limit: usize,
) -> Result<Vec<TeamId>, Error> {
    let mut select = Select::new("SELECT DISTINCT team_id FROM domains WHERE status = ");
    select.text(status_name(Status::Pending)).push(" AND created_at >= ").int(since_micros);
    if let Some(after) = after {
        select.push(" AND team_id > ").text(after.as_str());
    }
    select.push(" ORDER BY team_id LIMIT ").int(i64::try_from(limit).unwrap_or(i64::MAX));
    let rows = select.fetch(&mut views.read().await?).await?;
    rows.iter().map(|cells| cells.parsed("team_id")).collect()
}

/// Returns teams with domains, in the order of their ids after the given one.
///
/// # Errors
/// The database does not answer.
pub async fn teams_with(views: &Views, after: Option<&TeamId>, limit: usize) -> Result<Vec<TeamId>, Error> {
    let mut reader = views.read().await?;
    let teams = fetch_all!(
        reader,
        (String,),
        "SELECT DISTINCT team_id FROM domains WHERE team_id > $1 ORDER BY team_id LIMIT $2",
        after.map_or("", TeamId::as_str),
        i64::try_from(limit).unwrap_or(i64::MAX)
    )?;
    teams.into_iter().map(|(team,)| team.parse().map_err(|e| corrupt("team_id", e))).collect()
}

fn status_name(status: Status) -> &'static str {
    match status {
        Status::Absent => "absent",
        Status::Pending => "pending",
        Status::Verified => "verified",
        Status::Failed => "failed",
        Status::Removed => "removed",
    }
}

fn row(cells: &Cells) -> Result<Row, Error> {
    Ok(Row {
        id: cells.parsed("domain_id")?,
        domain: cells.json("state")?,
        verified_at: cells.get("verified_at")?,
        created_at: cells.get("created_at")?,
        updated_at: cells.get("updated_at")?,
        created_position: cells.unsigned("created_position")?,
        changed_position: cells.unsigned("changed_position")?,
        rules_position: cells.unsigned("rules_position")?,
        retired_at: cells.get("retired_at")?,
        version: cells.unsigned("version")?,
    })
}

/// See the module.
#[derive(Debug)]
pub struct Domains;

#[async_trait::async_trait]
impl Projection for Domains {
    fn name(&self) -> &'static str {
        NAME
    }

    fn version(&self) -> i64 {
        2
    }

    fn schema(&self) -> &'static str {
        include_str!("domains.sql")
    }

    fn tables(&self) -> &'static [&'static Table] {
        &[&DOMAINS]
    }

    async fn apply(&self, tx: &mut Tx<'_>, team: &TeamId, events: &[Recorded]) -> Result<(), Error> {
        let mut touched = BTreeSet::new();
        for record in events {
            if let Event::SendingDomain(e) = &record.event {
                touched.insert(e.domain());
            }
        }
        let mut keys = Rows::new();
        touched.iter().for_each(|id| keys.push(cells![id.as_str()]));
        let stored = DOMAINS.load(tx, team, keys).await?;
        let mut domains: BTreeMap<DomainId, Row> =
            stored.iter().map(|cells| row(cells).map(|row| (row.id.clone(), row))).collect::<Result<_, _>>()?;
        for record in events {
            if let Event::SendingDomain(e) = &record.event {
                change(&mut domains, record, e);
            }
        }
        let (mut rows, mut gone) = (Rows::new(), Rows::new());
        for id in touched {
            let Some(row) = domains.get(id) else {
                gone.push(cells![id.as_str()]);
                continue;
            };
            rows.push(cells![
                row.id.as_str(),
                &row.domain.name,
                status_name(row.domain.status),
                &serde_json::to_string(&row.domain)?,
                row.verified_at,
                row.created_at,
                row.updated_at,
                row.created_position,
                row.changed_position,
                row.rules_position,
                row.retired_at,
                row.version,
            ]);
        }
        DOMAINS.delete(tx, team, gone).await?;
        DOMAINS.insert(tx, team, rows, Existing::Replace).await
    }
}

fn change(domains: &mut BTreeMap<DomainId, Row>, record: &Recorded, event: &DomainEvent) {
    let id = event.domain();
    if let DomainEvent::Added(_) = event {
        let row = Row {
            id: id.clone(),
            domain: SendingDomain::default(),
            verified_at: None,
            created_at: record.at,
            updated_at: record.at,
            created_position: record.position,
            changed_position: record.position,
            rules_position: record.position,
            retired_at: None,
            version: 0,
        };
        domains.insert(id.clone(), row);
    }
    let Some(row) = domains.get_mut(id) else { return };
    row.domain.evolve(&record.event);
    match event {
        DomainEvent::Verified(_) => row.verified_at = Some(record.at),
        DomainEvent::RulesReplaced(_) => row.rules_position = record.position,
        DomainEvent::KeyRetired(_) => row.retired_at = Some(record.at),
        DomainEvent::Removed(_) => {
            domains.remove(id);
            return;
        }
        DomainEvent::Added(_)
        | DomainEvent::Checked(_)
        | DomainEvent::Failed(_)
        | DomainEvent::ModeChanged(_)
        | DomainEvent::KeyAdded(_)
        | DomainEvent::KeyActivated(_) => {}
    }
    (row.updated_at, row.changed_position, row.version) = (record.at, record.position, record.stream_version);
}
