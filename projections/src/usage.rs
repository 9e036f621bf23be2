//! What is charged: metered units per team, meter, UTC day, mailbox and key.
//!
//! The day is that of the recorded time of the event. Each row names how many events it sums up and the first and
//! last of their positions, so that anyone can recount it.

use std::collections::BTreeMap;

use domain::Actor;
use domain::billing::{Meter, metered};
use domain::id::{MailboxId, Position, TeamId};
use eventlog::Recorded;

use crate::db::{Cells, Select, Tx, corrupt};
use crate::table::Kind::{Int, Text};
use crate::table::{Existing, Rows, Table, cells};
use crate::{Error, Page, Paged, Projection, Views};

/// The projection's name.
pub const NAME: &str = "usage";

/// A day, microseconds.
pub const DAY_MICROS: i64 = 24 * 60 * 60 * 1_000_000;

const USAGE: Table = Table {
    name: "usage",
    key: &[("day", Int), ("meter", Text), ("mailbox_id", Text), ("actor", Text)],
    rest: &[("units", Int), ("events", Int), ("first_position", Int), ("last_position", Int)],
};

/// What was used of one meter on one day in one mailbox through one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// UTC day: days since 1970-01-01.
    pub day: i64,
    /// What is counted.
    pub meter: Meter,
    /// The mailbox it is attributed to, if any.
    pub mailbox: Option<MailboxId>,
    /// Who caused it, as `kind:id`: a key, `smtp`, …
    pub actor: String,
    /// How many units, releases subtracted.
    pub units: i64,
    /// How many events they are summed up from.
    pub events: i64,
    /// The first of those events.
    pub first_position: Position,
    /// The last of those events.
    pub last_position: Position,
}

/// What was used of one meter on one day.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Total {
    /// UTC day: days since 1970-01-01.
    pub day: i64,
    /// What is counted.
    pub meter: Meter,
    /// How many units, releases subtracted.
    pub units: i64,
    /// How many events they are summed up from.
    pub events: i64,
    /// The first of those events.
    pub first_position: Position,
    /// The last of those events.
    pub last_position: Position,
}

/// Which usage is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filter {
    /// First UTC day, days since 1970-01-01.
    pub from_day: i64,
    /// Last UTC day, inclusive.
    pub to_day: i64,
    /// Only this meter.
    pub meter: Option<Meter>,
    /// Only this mailbox.
    pub mailbox: Option<MailboxId>,
    /// Only what this actor caused, as `kind:id`.
    pub actor: Option<String>,
}

impl Filter {
    /// Returns a filter for everything between two UTC days, both inclusive.
    #[must_use]
    pub fn days(from_day: i64, to_day: i64) -> Self {
        Self { from_day, to_day, meter: None, mailbox: None, actor: None }
    }
}

/// Returns the UTC day of a time in microseconds since the Unix epoch, as days since 1970-01-01.
#[must_use]
pub fn day_of(at_micros: i64) -> i64 {
    at_micros.div_euclid(DAY_MICROS)
}

/// Returns usage in full detail, oldest day first.
///
/// # Errors
/// [`Error::BadCursor`], or the database does not answer.
pub async fn by_day(views: &Views, team: &TeamId, filter: &Filter, page: &Page) -> Result<Paged<Row>, Error> {
    let mut select = Select::new(
        "SELECT day, meter, mailbox_id, actor, units, events, first_position, last_position
         FROM usage WHERE team_id = ",
    );
    select.text(team.as_str());
    narrow(&mut select, filter);
    if let Some((day, meter, mailbox, actor)) = page.key::<(i64, String, String, String)>(NAME)? {
        select.push(" AND (day, meter, mailbox_id, actor) > (");
        select.int(day).push(", ").text(meter).push(", ").text(mailbox).push(", ").text(actor).push(")");
    }
    select.push(" ORDER BY day, meter, mailbox_id, actor LIMIT ").int(page.fetch());
    let rows = select.fetch(&mut views.read().await?).await?;
    let rows = rows.iter().map(row).collect::<Result<_, _>>()?;
    Paged::new(rows, page, NAME, |row: &Row| {
        let mailbox = row.mailbox.as_ref().map_or("", MailboxId::as_str);
        (row.day, row.meter.as_str(), mailbox.to_owned(), row.actor.clone())
    })
}

/// Returns sums per day and meter, oldest day first. Days without usage are left out.
///
/// # Errors
/// The database does not answer.
pub async fn totals(views: &Views, team: &TeamId, filter: &Filter) -> Result<Vec<Total>, Error> {
    let mut select = Select::new(
        "SELECT day, meter, CAST(SUM(units) AS BIGINT) AS units, CAST(SUM(events) AS BIGINT) AS events,
                MIN(first_position) AS first_position, MAX(last_position) AS last_position
         FROM usage WHERE team_id = ",
    );
    select.text(team.as_str());
    narrow(&mut select, filter);
    select.push(" GROUP BY day, meter ORDER BY day, meter");
    let rows = select.fetch(&mut views.read().await?).await?;
    let total = |cells: &Cells| {
        Ok(Total {
            day: cells.get("day")?,
            meter: meter(cells)?,
            units: cells.get("units")?,
            events: cells.get("events")?,
            first_position: cells.unsigned("first_position")?,
            last_position: cells.unsigned("last_position")?,
        })
    };
    rows.iter().map(total).collect()
}

/// Returns the first UTC day on which anything of a meter was used, days since 1970-01-01.
///
/// # Errors
/// The database does not answer.
pub async fn first_day(views: &Views, team: &TeamId, meter: Meter) -> Result<Option<i64>, Error> {
    let mut select = Select::new("SELECT MIN(day) AS day FROM usage WHERE team_id = ");
    select.text(team.as_str()).push(" AND meter = ").text(meter.as_str());
    let rows = select.fetch(&mut views.read().await?).await?;
    rows.first().map_or(Ok(None), |cells| cells.get("day"))
}

/// Returns the sum of a meter before a UTC day, for meters that say how much there is (stored bytes).
///
/// # Errors
/// The database does not answer.
pub async fn carried_into(views: &Views, team: &TeamId, meter: Meter, day: i64) -> Result<i64, Error> {
    let mut select = Select::new("SELECT CAST(COALESCE(SUM(units), 0) AS BIGINT) AS units FROM usage WHERE team_id = ");
    select.text(team.as_str()).push(" AND meter = ").text(meter.as_str()).push(" AND day < ").int(day);
    let rows = select.fetch(&mut views.read().await?).await?;
    rows.first().map_or(Ok(0), |cells| cells.get("units"))
}

fn narrow(select: &mut Select, filter: &Filter) {
    select.push(" AND day >= ").int(filter.from_day).push(" AND day <= ").int(filter.to_day);
    if let Some(meter) = filter.meter {
        select.push(" AND meter = ").text(meter.as_str());
    }
    if let Some(mailbox) = &filter.mailbox {
        select.push(" AND mailbox_id = ").text(mailbox.as_str());
    }
    if let Some(actor) = &filter.actor {
        select.push(" AND actor = ").text(actor.replace('\0', ""));
    }
}

fn meter(cells: &Cells) -> Result<Meter, Error> {
    Meter::parse(&cells.text("meter")?).ok_or_else(|| corrupt("meter", std::fmt::Error))
}

fn row(cells: &Cells) -> Result<Row, Error> {
    Ok(Row {
        day: cells.get("day")?,
        meter: meter(cells)?,
        mailbox: cells.parsed_opt("mailbox_id")?,
        actor: cells.text("actor")?,
        units: cells.get("units")?,
        events: cells.get("events")?,
        first_position: cells.unsigned("first_position")?,
        last_position: cells.unsigned("last_position")?,
    })
}

/// See the module.
#[derive(Debug)]
pub struct Usage;

#[async_trait::async_trait]
impl Projection for Usage {
    fn name(&self) -> &'static str {
        NAME
    }

    fn version(&self) -> i64 {
        2
    }

    fn schema(&self) -> &'static str {
        include_str!("usage.sql")
    }

    fn tables(&self) -> &'static [&'static Table] {
        &[&USAGE]
    }

    async fn apply(&self, tx: &mut Tx<'_>, team: &TeamId, events: &[Recorded]) -> Result<(), Error> {
        // Key: day, meter, mailbox, actor. Value: units, events, first and last position.
        type Key = (i64, Meter, Option<MailboxId>, String);
        let mut sums: BTreeMap<Key, (i64, i64, Position, Position)> = BTreeMap::new();
        for record in events {
            for m in metered(&record.event) {
                let actor = m.key.map_or_else(|| record.actor.clone(), |key| Actor::ApiKey(key).to_string());
                let key = (day_of(record.at), m.meter, m.mailbox, actor);
                let sum = sums.entry(key).or_insert((0, 0, record.position, record.position));
                sum.0 = sum.0.saturating_add(m.units);
                sum.1 += 1;
                sum.3 = record.position;
            }
        }
        let mut rows = Rows::new();
        for ((day, meter, mailbox, actor), (units, events, first, last)) in &sums {
            let mailbox = mailbox.as_ref().map_or("", MailboxId::as_str);
            rows.push(cells![*day, meter.as_str(), mailbox, actor, *units, *events, *first, *last]);
        }
        const ADD: &str = "ON CONFLICT (team_id, day, meter, mailbox_id, actor) DO UPDATE
            SET units = usage.units + excluded.units, events = usage.events + excluded.events,
                last_position = excluded.last_position";
        USAGE.insert(tx, team, rows, Existing::Clause(ADD)).await
    }
}
