//! A team's money: what it has, what came in and went out.

use axum::extract::State;
use domain::billing::Meter;
use domain::money::Nanos;
use domain::published::rfc3339;
use projections::balance::{self, Transaction as Row, TransactionKind};
use projections::{Page, usage};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::auth::{Call, Scoped, guards};
use crate::envelope::{Data, List, Reply};
use crate::openapi::Routes;
use crate::problem::Problem;
use crate::query::{Limit, Query, page};
use crate::{App, door};

pub(super) fn routes() -> Routes {
    Routes::new().with(door!(get_balance)).with(door!(get_spend_summary)).with(door!(list_transactions))
}

/// Automatic payments.
#[derive(Debug, Clone, Serialize, ToSchema)]
struct AutoTopup {
    /// Always false: payments are booked by the operator.
    enabled: bool,
    #[schema(required)]
    threshold: Option<String>,
    #[schema(required)]
    amount: Option<String>,
    #[schema(required)]
    monthly_limit: Option<String>,
    /// What came in automatically this calendar month (UTC).
    #[schema(example = "0.000000")]
    monthly_used: String,
}

/// A team's money now. Amounts are US dollars with six decimals.
#[derive(Debug, Clone, Serialize, ToSchema)]
struct Balance {
    /// What can be spent now: what is left, without what is held for mail under way, with the credit limit.
    #[schema(example = "45.230000")]
    balance: String,
    /// All that was paid in, corrections included.
    #[schema(example = "100.000000")]
    balance_purchased: String,
    /// All that was charged.
    #[schema(example = "54.770000")]
    balance_consumed: String,
    /// What is held for mail under way.
    #[schema(example = "0.000000")]
    balance_held: String,
    /// How far below zero the team may spend.
    #[schema(example = "0.000000")]
    credit_limit: String,
    #[schema(example = "USD")]
    currency: &'static str,
    auto_topup: AutoTopup,
}

/// Get the balance
#[utoipa::path(
    get,
    path = "/billing/balance",
    tag = "Billing",
    operation_id = "managementListBalance",
    responses((status = 200, description = "The balance", body = Data<Balance>)),
)]
async fn get_balance(
    call: Scoped<guards::BillingRead>,
    State(app): State<App>,
) -> Result<Reply<Data<Balance>>, Problem> {
    let row = balance::get(&app.views, &call.caller.team).await?;
    let auto_topup = AutoTopup {
        enabled: false,
        threshold: None,
        amount: None,
        monthly_limit: None,
        monthly_used: topped_up_this_month(&app, &call).await?.to_six_decimals(),
    };
    let data = Balance {
        balance: row.available().to_six_decimals(),
        balance_purchased: row.purchased.to_six_decimals(),
        balance_consumed: row.consumed.to_six_decimals(),
        balance_held: row.held.to_six_decimals(),
        credit_limit: row.credit_limit.to_six_decimals(),
        currency: "USD",
        auto_topup,
    };
    Ok(Reply::ok(call.data(data)))
}

/// Returns what automatic payments brought since the first of the month.
async fn topped_up_this_month(app: &App, call: &Call) -> Result<Nanos, Problem> {
    let now = jiff::Timestamp::from_microsecond(call.at).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
    let first = now.to_zoned(jiff::tz::TimeZone::UTC).date().first_of_month();
    let first = first.to_zoned(jiff::tz::TimeZone::UTC).map_or(i64::MIN, |at| at.timestamp().as_microsecond());
    let (mut page, mut sum) = (Page::first(100), Nanos::default());
    loop {
        let paged = balance::transactions(&app.views, &call.caller.team, &[TransactionKind::AutoTopUp], &page).await?;
        for row in &paged.rows {
            if row.at < first {
                return Ok(sum);
            }
            sum = Nanos(sum.0.saturating_add(row.amount.0));
        }
        match paged.next_cursor {
            Some(cursor) => page.after = Some(cursor),
            None => return Ok(sum),
        }
    }
}

/// How far back a summary goes.
#[derive(Debug, Clone, Copy, Default, Deserialize, ToSchema)]
enum Days {
    #[serde(rename = "7")]
    Week,
    #[default]
    #[serde(rename = "30")]
    Month,
    #[serde(rename = "90")]
    Quarter,
}

impl Days {
    fn count(self) -> u8 {
        match self {
            Self::Week => 7,
            Self::Month => 30,
            Self::Quarter => 90,
        }
    }
}

/// Parameters of the summary.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct SummaryQuery {
    /// How many days, today included: 7, 30 or 90.
    #[serde(default)]
    #[param(inline, value_type = Option<Days>, default = "30")]
    days: Days,
}

/// What came in and went out. Amounts are US dollars with six decimals.
#[derive(Debug, Clone, Serialize, ToSchema)]
struct SpendSummary {
    #[schema(example = 30)]
    period_days: u8,
    #[schema(example = "150.000000")]
    total_purchased: String,
    #[schema(example = "54.770000")]
    total_consumed: String,
    /// What corrections brought, negative for less.
    #[schema(example = "0.000000")]
    total_adjusted: String,
    transaction_count: u64,
    #[schema(example = "USD")]
    currency: &'static str,
}

/// Get the spend summary
#[utoipa::path(
    get,
    path = "/billing/summary",
    tag = "Billing",
    operation_id = "managementGetSpendSummary",
    params(SummaryQuery),
    responses(
        (status = 200, description = "What came in and went out", body = Data<SpendSummary>),
        (status = 400, description = "Invalid parameter", body = crate::problem::Body),
    ),
)]
async fn get_spend_summary(
    call: Scoped<guards::BillingRead>,
    State(app): State<App>,
    Query(query): Query<SummaryQuery>,
) -> Result<Reply<Data<SpendSummary>>, Problem> {
    let (days, today) = (query.days.count(), usage::day_of(call.at));
    let summary = balance::summary(&app.views, &call.caller.team, today - i64::from(days) + 1, today).await?;
    let data = SpendSummary {
        period_days: days,
        total_purchased: summary.purchased.to_six_decimals(),
        total_consumed: summary.consumed.to_six_decimals(),
        total_adjusted: summary.adjusted.to_six_decimals(),
        transaction_count: summary.transactions,
        currency: "USD",
    };
    Ok(Reply::ok(call.data(data)))
}

/// What a transaction is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
enum TransactionType {
    #[serde(rename = "PURCHASE")]
    Purchase,
    #[serde(rename = "USAGE")]
    Usage,
    #[serde(rename = "AUTO_TOPUP")]
    AutoTopup,
    #[serde(rename = "REFUND")]
    Refund,
    #[serde(rename = "ADJUSTMENT")]
    Adjustment,
}

impl TransactionType {
    fn of(kind: TransactionKind) -> Self {
        match kind {
            TransactionKind::Purchase => Self::Purchase,
            TransactionKind::AutoTopUp => Self::AutoTopup,
            TransactionKind::Refund => Self::Refund,
            // Nobody paid for a gift.
            TransactionKind::Credit | TransactionKind::Adjustment => Self::Adjustment,
            TransactionKind::Usage => Self::Usage,
        }
    }
}

/// A payment, a correction, or the charges of one meter over up to a day.
#[derive(Debug, Clone, Serialize, ToSchema)]
struct Transaction {
    #[schema(example = "tx_06bqmn3t0d4gq2v8xk1hz7sw")]
    id: String,
    #[serde(rename = "type")]
    kind: TransactionType,
    /// US dollars with six decimals; negative for what was used.
    #[schema(example = "-0.001500")]
    amount: String,
    description: String,
    /// How many units were used.
    #[schema(required)]
    quantity: Option<i64>,
    #[schema(required)]
    balance_before: Option<String>,
    #[schema(required)]
    balance_after: Option<String>,
    created_at: String,
    /// What was used.
    #[schema(required, example = "outgoing_recipients")]
    meter: Option<&'static str>,
    /// When it last grew.
    updated_at: String,
    /// The places of its first and last event in the team's log.
    first_sequence: u64,
    last_sequence: u64,
}

fn description(row: &Row) -> String {
    if let Some(note) = &row.note {
        return note.clone();
    }
    let text = match (row.kind, row.meter) {
        (TransactionKind::Usage, Some(Meter::InboundMessages)) => "Accepted inbound mail",
        (TransactionKind::Usage, Some(Meter::StoredBytes)) => "Storage",
        (TransactionKind::Usage, Some(Meter::OutgoingRecipients)) => "Outgoing mail through own accounts",
        (TransactionKind::Usage, Some(Meter::ManagedRecipients)) => "Outgoing mail through managed accounts",
        (TransactionKind::Usage, None) => "Usage",
        (TransactionKind::Purchase, _) => "Payment",
        (TransactionKind::AutoTopUp, _) => "Automatic payment",
        (TransactionKind::Credit, _) => "Credit",
        (TransactionKind::Refund, _) => "Refund",
        (TransactionKind::Adjustment, _) => "Correction",
    };
    text.to_owned()
}

impl From<Row> for Transaction {
    fn from(row: Row) -> Self {
        Self {
            id: row.id.to_string(),
            kind: TransactionType::of(row.kind),
            amount: row.amount.to_six_decimals(),
            description: description(&row),
            quantity: row.units,
            balance_before: Some(row.balance_before.to_six_decimals()),
            balance_after: Some(row.balance_after.to_six_decimals()),
            created_at: rfc3339(row.at),
            meter: row.meter.map(Meter::as_str),
            updated_at: rfc3339(row.last_at),
            first_sequence: row.position,
            last_sequence: row.last_position,
        }
    }
}

/// Parameters of the list.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct ListQuery {
    /// The `next_cursor` of the page before.
    cursor: Option<String>,
    /// How many at most.
    #[serde(default)]
    #[param(value_type = Option<u32>, minimum = 1, maximum = 100, default = 25)]
    limit: Limit<100, 25>,
    /// Only of this type.
    #[serde(rename = "type")]
    #[param(inline)]
    kind: Option<TransactionType>,
}

/// List transactions
///
/// Newest first. Usage is grouped: one transaction per meter for the charges of a UTC day that no payment comes between.
#[utoipa::path(
    get,
    path = "/billing/transactions",
    tag = "Billing",
    operation_id = "managementListTransactions",
    params(ListQuery),
    responses((status = 200, description = "Transactions", body = List<Transaction>)),
)]
async fn list_transactions(
    call: Scoped<guards::BillingRead>,
    State(app): State<App>,
    Query(query): Query<ListQuery>,
) -> Result<Reply<List<Transaction>>, Problem> {
    let kinds: Vec<_> = TransactionKind::ALL
        .into_iter()
        .filter(|kind| query.kind.is_some_and(|wanted| wanted == TransactionType::of(*kind)))
        .collect();
    let page = page(query.cursor, query.limit);
    let paged = balance::transactions(&app.views, &call.caller.team, &kinds, &page).await?;
    Ok(Reply::ok(call.list(paged.rows.into_iter().map(Transaction::from).collect(), paged.next_cursor)))
}
