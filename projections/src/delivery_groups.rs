//! The delivery groups of a team; deleted ones are gone.

use std::collections::{BTreeMap, BTreeSet};

use domain::Event;
use domain::delivery_group::{Event as GroupEvent, Members};
use domain::id::{GroupId, Position, TeamId};
use eventlog::Recorded;

use crate::db::{Cells, Select, Tx};
use crate::table::Kind::{Bool, Int, Text};
use crate::table::{Existing, Rows, Table, cells};
use crate::{Error, Page, Paged, Projection, Views, signed};

/// The projection's name.
pub const NAME: &str = "delivery_groups";

const GROUPS: Table = Table {
    name: "delivery_groups",
    key: &[("group_id", Text)],
    rest: &[
        ("name", Text),
        ("members", Text),
        ("is_default", Bool),
        ("created_at", Int),
        ("updated_at", Int),
        ("created_position", Int),
        ("changed_position", Int),
        ("version", Int),
    ],
};

const SELECT: &str = "
SELECT group_id, name, members, is_default, created_at, updated_at, created_position, changed_position, version
FROM delivery_groups
WHERE team_id = ";

/// A delivery group as it is listed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// The group.
    pub id: GroupId,
    /// What its owner calls it; `None` after erasure.
    pub name: Option<String>,
    /// Its accounts and their weights, 0 to 100. Accounts deleted since are still here: routing leaves them out.
    pub members: Members,
    /// Whether mail without a group of its own goes through it.
    pub is_default: bool,
    /// When it was created, microseconds since the Unix epoch.
    pub created_at: i64,
    /// When it was last changed.
    pub updated_at: i64,
    /// Where in the log it was created; the order of the list.
    pub created_position: Position,
    /// Where in the log it last changed.
    pub changed_position: Position,
    /// Events in its stream: its `ETag`.
    pub version: u64,
}

/// Returns a group.
///
/// # Errors
/// The database does not answer.
pub async fn get(views: &Views, team: &TeamId, group: &GroupId) -> Result<Option<Row>, Error> {
    let mut select = Select::new(SELECT);
    select.text(team.as_str()).push(" AND group_id = ").text(group.as_str());
    select.fetch(&mut views.read().await?).await?.first().map(row).transpose()
}

/// Returns groups, newest first.
///
/// # Errors
/// [`Error::BadCursor`], or the database does not answer.
pub async fn list(views: &Views, team: &TeamId, page: &Page) -> Result<Paged<Row>, Error> {
    let mut select = Select::new(SELECT);
    select.text(team.as_str());
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
        id: cells.parsed("group_id")?,
        name: cells.get("name")?,
        members: cells.json("members")?,
        is_default: cells.get("is_default")?,
        created_at: cells.get("created_at")?,
        updated_at: cells.get("updated_at")?,
        created_position: cells.unsigned("created_position")?,
        changed_position: cells.unsigned("changed_position")?,
        version: cells.unsigned("version")?,
    })
}

/// See the module.
#[derive(Debug)]
pub struct DeliveryGroups;

#[async_trait::async_trait]
impl Projection for DeliveryGroups {
    fn name(&self) -> &'static str {
        NAME
    }

    fn version(&self) -> i64 {
        1
    }

    fn schema(&self) -> &'static str {
        include_str!("delivery_groups.sql")
    }

    fn tables(&self) -> &'static [&'static Table] {
        &[&GROUPS]
    }

    async fn apply(&self, tx: &mut Tx<'_>, team: &TeamId, events: &[Recorded]) -> Result<(), Error> {
        let mut touched = BTreeSet::new();
        for record in events {
            if let Event::DeliveryGroup(e) = &record.event {
                touched.insert(e.group());
            }
        }
        let mut keys = Rows::new();
        touched.iter().for_each(|id| keys.push(cells![id.as_str()]));
        let stored = GROUPS.load(tx, team, keys).await?;
        let mut groups: BTreeMap<GroupId, Row> =
            stored.iter().map(|cells| row(cells).map(|row| (row.id.clone(), row))).collect::<Result<_, _>>()?;
        for record in events {
            if let Event::DeliveryGroup(e) = &record.event {
                change(&mut groups, record, e);
            }
        }
        let (mut rows, mut gone) = (Rows::new(), Rows::new());
        for id in touched {
            let Some(row) = groups.get(id) else {
                gone.push(cells![id.as_str()]);
                continue;
            };
            rows.push(cells![
                row.id.as_str(),
                row.name.as_ref(),
                &serde_json::to_string(&row.members)?,
                row.is_default,
                row.created_at,
                row.updated_at,
                row.created_position,
                row.changed_position,
                row.version,
            ]);
        }
        GROUPS.delete(tx, team, gone).await?;
        GROUPS.insert(tx, team, rows, Existing::Replace).await
    }
}

fn change(groups: &mut BTreeMap<GroupId, Row>, record: &Recorded, event: &GroupEvent) {
    if let GroupEvent::Created(e) = event {
        let row = Row {
            id: e.group.clone(),
            name: e.personal.known().map(|p| p.name.clone()),
            members: e.members.clone(),
            is_default: false,
            created_at: record.at,
            updated_at: record.at,
            created_position: record.position,
            changed_position: record.position,
            version: record.stream_version,
        };
        groups.insert(e.group.clone(), row);
        return;
    }
    let Some(row) = groups.get_mut(event.group()) else { return };
    match event {
        // Handled above: it makes the row.
        GroupEvent::Created(_) => {}
        GroupEvent::Renamed(e) => row.name = e.personal.known().map(|p| p.name.clone()),
        GroupEvent::MembersChanged(e) => row.members = e.members.clone(),
        GroupEvent::MadeDefault(_) => row.is_default = true,
        GroupEvent::DefaultCleared(_) => row.is_default = false,
        GroupEvent::Deleted(e) => {
            groups.remove(&e.group);
            return;
        }
    }
    (row.updated_at, row.changed_position, row.version) = (record.at, record.position, record.stream_version);
}
