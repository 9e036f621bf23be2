//! Usage and what it costs: sums of the team's events, each with the range of positions it was summed up from.

use std::collections::{BTreeMap, BTreeSet};

use axum::extract::State;
use domain::billing::{Meter, PriceBook};
use domain::id::MailboxId;
use domain::money::Nanos;
use domain::published::rfc3339;
use projections::usage::{self, Filter, Row};
use projections::{Page, Views};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::auth::{Call, Scoped, guards};
use crate::envelope::{Meta, Pagination, Reply};
use crate::openapi::Routes;
use crate::problem::{Code, Problem};
use crate::query::{DAY_MICROS, Limit, Query, day};
use crate::{App, door};

pub(super) fn routes() -> Routes {
    Routes::new().with(door!(get_usage))
}

/// The longest period of one answer, days.
const DAYS_MAX: i64 = 366;

/// Usage of one meter, as finely as it was asked for.
#[derive(Debug, Clone, Serialize, ToSchema)]
struct UsageRow {
    /// What is counted: `inbound_messages` (messages), `outgoing_recipients` and `managed_recipients` (recipients whose mail
    /// an account of the team or of the operator took) or `stored_bytes` (bytes; negative when mail was destroyed).
    #[schema(example = "inbound_messages")]
    meter: &'static str,
    /// UTC day.
    #[schema(example = "2026-11-21")]
    #[schema(required)]
    day: Option<String>,
    #[schema(required)]
    mailbox_id: Option<String>,
    /// The key through which it was caused.
    #[schema(required)]
    key_id: Option<String>,
    /// Who caused it: `key:<id>`, `smtp`, …
    #[schema(required)]
    actor: Option<String>,
    /// How many units, releases subtracted.
    units: i64,
    /// How many events they are summed up from.
    events: i64,
    /// The place of the first of them in the team's log.
    first_sequence: u64,
    /// The place of the last of them.
    last_sequence: u64,
    /// US dollars per unit; null for stored bytes, which are charged by the day, see `storage`.
    #[schema(example = "0.000150000")]
    #[schema(required)]
    unit_price: Option<String>,
    /// US dollars; null for stored bytes.
    #[schema(example = "0.000150000")]
    #[schema(required)]
    amount: Option<String>,
}

/// Storage of one UTC day.
#[derive(Debug, Clone, Serialize, ToSchema)]
struct StorageDay {
    #[schema(example = "2026-11-21")]
    day: String,
    /// Bytes stored at the end of the day.
    stored_bytes: i64,
    /// US dollars per decimal gigabyte and month.
    gb_month_price: String,
    /// US dollars for this day: the month's price divided by its days, rounded to a billionth.
    amount: String,
}

/// Usage of a period.
#[derive(Debug, Clone, Serialize, ToSchema)]
struct Usage {
    /// Start of the first UTC day.
    from: String,
    /// End of the last UTC day.
    to: String,
    currency: &'static str,
    /// What the rows are told apart by.
    group_by: Vec<&'static str>,
    usage: Vec<UsageRow>,
    /// Storage by the day, for the whole team; only with the first page and without a mailbox filter.
    storage: Vec<StorageDay>,
    /// US dollars of the rows and days above.
    amount: String,
}

/// An answer with usage.
#[derive(Debug, Serialize, ToSchema)]
struct UsageResponse {
    /// Always true.
    ok: bool,
    data: Usage,
    /// Set when the rows of the finest grouping do not fit into one answer.
    pagination: Pagination,
    meta: Meta,
}

/// What rows can be told apart by, besides their meter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Dimension {
    Day,
    Mailbox,
    Key,
}

impl Dimension {
    const ALL: [Self; 3] = [Self::Day, Self::Mailbox, Self::Key];

    fn as_str(self) -> &'static str {
        match self {
            Self::Day => "day",
            Self::Mailbox => "mailbox",
            Self::Key => "key",
        }
    }
}

/// Parameters of the usage.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct UsageQuery {
    /// First UTC day, `YYYY-MM-DD`; the first of the current month by default.
    from: Option<String>,
    /// Last UTC day, inclusive; today by default. At most 366 days.
    to: Option<String>,
    /// Only this mailbox.
    mailbox_id: Option<String>,
    /// Comma-separated: `meter`, `day`, `mailbox`, `key`; all by default. Rows always differ by meter.
    group_by: Option<String>,
    /// The `next_cursor` of the page before; for the finest grouping only.
    cursor: Option<String>,
    /// How many rows of the finest grouping at most.
    #[serde(default)]
    #[param(value_type = Option<u32>, minimum = 1, maximum = 1000, default = 1000)]
    limit: Limit<1000, 1000>,
}

impl UsageQuery {
    fn dimensions(&self) -> Result<BTreeSet<Dimension>, Problem> {
        let Some(text) = &self.group_by else { return Ok(Dimension::ALL.into()) };
        let mut dimensions = BTreeSet::new();
        for name in text.split(',').map(str::trim).filter(|name| *name != "meter") {
            let found = Dimension::ALL.into_iter().find(|d| d.as_str() == name);
            dimensions.insert(found.ok_or_else(|| {
                Problem::invalid("group_by", "invalid_value", "group_by is a list of meter, day, mailbox and key")
            })?);
        }
        Ok(dimensions)
    }

    /// Returns the first and the last day, days since 1970-01-01.
    fn days(&self, now: i64) -> Result<(i64, i64), Problem> {
        let read = |field: &str, text: &str| {
            let malformed = || Problem::invalid(field, "invalid_value", format!("{field} must be a date, YYYY-MM-DD"));
            day(text).map(usage::day_of).ok_or_else(malformed)
        };
        let last = self.to.as_deref().map_or(Ok(usage::day_of(now)), |text| read("to", text))?;
        let first = match &self.from {
            Some(text) => read("from", text)?,
            None => last - i64::from(date(last).day()) + 1,
        };
        if first > last || last - first >= DAYS_MAX {
            let message = format!("from must not be after to, and the period at most {DAYS_MAX} days");
            return Err(Problem::invalid("from", "invalid_period", message));
        }
        Ok((first, last))
    }
}

/// Returns the date of a day.
fn date(day: i64) -> jiff::civil::Date {
    let at = jiff::Timestamp::from_microsecond(day.saturating_mul(DAY_MICROS)).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
    at.to_zoned(jiff::tz::TimeZone::UTC).date()
}

/// Get usage
///
/// What was used per meter, day, mailbox and key, with prices. Each row names the events it was summed up from by their
/// places in the log, so that it can be recounted.
#[utoipa::path(
    get,
    path = "/billing/usage",
    tag = "Billing",
    operation_id = "managementGetUsage",
    params(UsageQuery),
    responses((status = 200, description = "Usage", body = UsageResponse), (status = 400, description = "Invalid period", body = crate::problem::Body)),
)]
async fn get_usage(
    call: Scoped<guards::BillingRead>,
    State(app): State<App>,
    Query(query): Query<UsageQuery>,
) -> Result<Reply<UsageResponse>, Problem> {
    let (first, last) = query.days(call.at)?;
    let dimensions = query.dimensions()?;
    let mailbox = query.mailbox_id.as_deref().map(str::parse::<MailboxId>).transpose();
    let mailbox =
        mailbox.map_err(|_| Problem::invalid("mailbox_id", "invalid_value", "mailbox_id is not a mailbox's id"))?;
    let whole_team = mailbox.is_none();
    let filter = Filter { mailbox, ..Filter::days(first, last) };
    let finest = dimensions.len() == Dimension::ALL.len();
    let first_page = query.cursor.is_none();
    let (sums, next_cursor) = if finest {
        let page = Page { after: query.cursor, limit: query.limit.get() };
        let paged = usage::by_day(&app.views, &call.caller.team, &filter, &page).await?;
        (paged.rows.iter().map(|row| Sum::of(row, &dimensions)).collect(), paged.next_cursor)
    } else {
        (summed(&app, &call, &filter, &dimensions).await?, None)
    };
    let storage = if whole_team && first_page {
        storage(&app.views, &call, &app.config.prices, first, last).await?
    } else {
        vec![]
    };
    let prices = &app.config.prices;
    let amount = sums.iter().map(|sum| i128::from(sum.amount(prices).map_or(0, |n| n.0))).sum::<i128>()
        + storage.iter().map(|day| i128::from(day.1.0)).sum::<i128>();
    let names = dimensions.iter().map(|d| d.as_str());
    let data = Usage {
        from: rfc3339(first * DAY_MICROS),
        to: rfc3339((last + 1) * DAY_MICROS),
        currency: "USD",
        group_by: std::iter::once("meter").chain(names).collect(),
        usage: sums.into_iter().map(|sum| sum.into_row(prices)).collect(),
        storage: storage.into_iter().map(|(day, _)| day).collect(),
        amount: Nanos(i64::try_from(amount).unwrap_or(i64::MAX)).to_string(),
    };
    Ok(Reply::ok(UsageResponse { ok: true, data, pagination: next_cursor.into(), meta: call.meta() }))
}

/// What a sum is told apart from others by.
type Group = (Option<i64>, Meter, Option<MailboxId>, Option<String>);

/// Rows of the read model, added up.
struct Sum {
    group: Group,
    units: i64,
    events: i64,
    first: u64,
    last: u64,
}

impl Sum {
    fn of(row: &Row, dimensions: &BTreeSet<Dimension>) -> Self {
        let by = |dimension: Dimension| dimensions.contains(&dimension);
        Self {
            group: (
                by(Dimension::Day).then_some(row.day),
                row.meter,
                row.mailbox.clone().filter(|_| by(Dimension::Mailbox)),
                by(Dimension::Key).then(|| row.actor.clone()),
            ),
            units: row.units,
            events: row.events,
            first: row.first_position,
            last: row.last_position,
        }
    }

    fn add(&mut self, other: &Self) {
        self.units = self.units.saturating_add(other.units);
        self.events = self.events.saturating_add(other.events);
        (self.first, self.last) = (self.first.min(other.first), self.last.max(other.last));
    }

    fn unit_price(&self, prices: &PriceBook) -> Option<Nanos> {
        match self.group.1 {
            Meter::InboundMessages => Some(prices.inbound_message_nanos),
            Meter::OutgoingRecipients => Some(prices.outgoing_recipient_nanos),
            Meter::ManagedRecipients => Some(prices.managed_recipient_nanos),
            Meter::StoredBytes => None,
        }
    }

    fn amount(&self, prices: &PriceBook) -> Option<Nanos> {
        self.unit_price(prices).map(|price| price.times(self.units))
    }

    fn into_row(self, prices: &PriceBook) -> UsageRow {
        let (unit_price, amount) = (self.unit_price(prices), self.amount(prices));
        let (day, meter, mailbox, actor) = self.group;
        UsageRow {
            meter: meter.as_str(),
            day: day.map(|day| date(day).to_string()),
            mailbox_id: mailbox.map(|id| id.to_string()),
            key_id: actor.as_deref().and_then(|a| a.strip_prefix("key:")).map(str::to_owned),
            actor,
            units: self.units,
            events: self.events,
            first_sequence: self.first,
            last_sequence: self.last,
            unit_price: unit_price.map(|n| n.to_string()),
            amount: amount.map(|n| n.to_string()),
        }
    }
}

/// Adds rows up by the dimensions that are left.
async fn summed(
    app: &App,
    call: &Call,
    filter: &Filter,
    dimensions: &BTreeSet<Dimension>,
) -> Result<Vec<Sum>, Problem> {
    const ROWS_PER_READ: usize = 1_000;
    let mut sums: BTreeMap<Group, Sum> = BTreeMap::new();
    let (mut page, mut seen) = (Page::first(ROWS_PER_READ), 0);
    loop {
        let paged = usage::by_day(&app.views, &call.caller.team, filter, &page).await?;
        seen += paged.rows.len();
        if seen > app.config.usage_rows_max {
            let message = "The period has too many rows to sum up in one answer; ask for a shorter one.";
            return Err(Problem::new(Code::ValidationError, message));
        }
        for row in &paged.rows {
            let sum = Sum::of(row, dimensions);
            match sums.get_mut(&sum.group) {
                Some(known) => known.add(&sum),
                None => drop(sums.insert(sum.group.clone(), sum)),
            }
        }
        match paged.next_cursor {
            Some(cursor) => page.after = Some(cursor),
            None => return Ok(sums.into_values().collect()),
        }
    }
}

/// Returns what was stored at the end of each day up to today, and what each day costs.
async fn storage(
    views: &Views,
    call: &Call,
    prices: &PriceBook,
    first: i64,
    last: i64,
) -> Result<Vec<(StorageDay, Nanos)>, Problem> {
    let team = &call.caller.team;
    let mut stored = usage::carried_into(views, team, Meter::StoredBytes, first).await?;
    let filter = Filter { meter: Some(Meter::StoredBytes), ..Filter::days(first, last) };
    let moved: BTreeMap<i64, i64> =
        usage::totals(views, team, &filter).await?.into_iter().map(|total| (total.day, total.units)).collect();
    // Days to come have not cost anything yet.
    let last = last.min(usage::day_of(call.at));
    let mut days = vec![];
    for day in first..=last {
        stored = stored.saturating_add(moved.get(&day).copied().unwrap_or(0));
        let amount = prices.storage_of_day(day, stored);
        let shown = StorageDay {
            day: date(day).to_string(),
            stored_bytes: stored,
            gb_month_price: prices.storage_gb_month_nanos.to_string(),
            amount: amount.to_string(),
        };
        days.push((shown, amount));
    }
    Ok(days)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_period_is_the_current_month_unless_it_is_named() {
        let query = |from: Option<&str>, to: Option<&str>| UsageQuery {
            from: from.map(str::to_owned),
            to: to.map(str::to_owned),
            mailbox_id: None,
            group_by: None,
            cursor: None,
            limit: Limit::default(),
        };
        let now = day("2026-11-21").unwrap();
        let (first, last) = query(None, None).days(now).unwrap();
        assert_eq!((date(first).to_string(), date(last).to_string()), ("2026-11-01".into(), "2026-11-21".into()));
        assert!(query(Some("2026-01-01"), Some("2026-12-31")).days(now).is_ok());
        for (from, to) in [("2026-11-22", "2026-11-21"), ("2025-01-01", "2026-11-21"), ("x", "2026-11-21")] {
            assert!(query(Some(from), Some(to)).days(now).is_err());
        }
    }
}
