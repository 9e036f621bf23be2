//! Accepted inbound mail, as it is billed.

use axum::extract::State;
use domain::billing::PriceBook;
use domain::id::{InboxLogId, MailboxId};
use domain::published::rfc3339;
use projections::inbox_logs::{self, Filter, Row};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::auth::{Scoped, guards};
use crate::envelope::{Data, List, Reply};
use crate::openapi::Routes;
use crate::path::Id;
use crate::problem::Problem;
use crate::query::{DAY_MICROS, Limit, Query, end_time, page, time};
use crate::{App, door};

pub(super) fn routes() -> Routes {
    Routes::new().with(door!(list_inbox_logs)).with(door!(get_inbox_log))
}

/// One accepted mail.
#[derive(Debug, Clone, Serialize, ToSchema)]
struct IncomingLogItem {
    #[schema(example = "ilog_06bqmn3t0d4gq2v8xk1hz7sw")]
    id: String,
    #[schema(required)]
    mailbox_id: Option<String>,
    #[schema(required)]
    mailbox_email: Option<String>,
    event_type: ReceivedType,
    #[schema(required)]
    message_id: Option<String>,
    /// `rfc5322`.
    #[schema(required)]
    message_id_kind: Option<&'static str>,
    #[schema(required)]
    from_email: Option<String>,
    to_emails: Vec<String>,
    #[schema(required)]
    subject: Option<String>,
    #[schema(required)]
    size_bytes: Option<i64>,
    received_at: String,
    is_spam: bool,
    /// Start of the UTC day on which it is billed.
    billing_bucket_start: String,
    /// US dollars, six decimals.
    #[schema(example = "0.000150")]
    unit_amount: String,
    /// US dollars, six decimals.
    #[schema(example = "0.000150")]
    amount: String,
}

/// How an arrival is published.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
enum ReceivedType {
    #[serde(rename = "message.received")]
    Received,
    #[serde(rename = "message.received.spam")]
    Spam,
}

impl IncomingLogItem {
    fn new(row: Row, prices: &PriceBook) -> Self {
        let unit = prices.inbound_message_nanos;
        Self {
            id: row.id.to_string(),
            mailbox_id: Some(row.mailbox.to_string()),
            mailbox_email: row.mailbox_email,
            event_type: if row.is_spam { ReceivedType::Spam } else { ReceivedType::Received },
            message_id_kind: row.rfc5322_message_id.is_some().then_some("rfc5322"),
            message_id: row.rfc5322_message_id,
            from_email: row.from_email,
            to_emails: row.to_emails,
            subject: row.subject,
            size_bytes: Some(row.size_bytes),
            received_at: rfc3339(row.received_at),
            is_spam: row.is_spam,
            billing_bucket_start: rfc3339(row.received_at.div_euclid(DAY_MICROS) * DAY_MICROS),
            unit_amount: unit.to_six_decimals(),
            amount: unit.times(1).to_six_decimals(),
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
    /// Only of this mailbox.
    mailbox_id: Option<String>,
    /// Only of this type.
    #[param(inline)]
    event_type: Option<ReceivedType>,
    /// Only from this time or date (UTC) on.
    #[serde(default, deserialize_with = "time")]
    #[param(value_type = Option<String>)]
    from_date: Option<i64>,
    /// Only up to this time, or to the end of this date (UTC).
    #[serde(default, deserialize_with = "end_time")]
    #[param(value_type = Option<String>)]
    to_date: Option<i64>,
    /// Only where mailbox, sender, recipient, subject or message id contains this.
    search: Option<String>,
}

/// List accepted inbound mail
///
/// Newest first. Mail that was refused never appears.
#[utoipa::path(
    get,
    path = "/inboxes/logs",
    tag = "Inboxes",
    operation_id = "managementListInboxLogs",
    params(ListQuery),
    responses((status = 200, description = "Accepted mail", body = List<IncomingLogItem>)),
)]
async fn list_inbox_logs(
    call: Scoped<guards::LogsRead>,
    State(app): State<App>,
    Query(query): Query<ListQuery>,
) -> Result<Reply<List<IncomingLogItem>>, Problem> {
    let mailbox = query.mailbox_id.map(|id| id.parse::<MailboxId>());
    let mailbox = match mailbox {
        None => None,
        Some(Ok(id)) => Some(id),
        // No mailbox has such an id, so nothing arrived there.
        Some(Err(_)) => return Ok(Reply::ok(call.list(vec![], None))),
    };
    let filter = Filter {
        mailbox,
        is_spam: query.event_type.map(|t| t == ReceivedType::Spam),
        from: query.from_date,
        to: query.to_date,
        search: query.search.filter(|text| !text.is_empty()),
    };
    let page = page(query.cursor, query.limit);
    let paged = inbox_logs::list(&app.views, &call.caller.team, &filter, &page).await?;
    let items = paged.rows.into_iter().map(|row| IncomingLogItem::new(row, &app.config.prices)).collect();
    Ok(Reply::ok(call.list(items, paged.next_cursor)))
}

/// Get one accepted mail
///
/// Kept when the message itself is gone.
#[utoipa::path(
    get,
    path = "/inboxes/logs/{public_id}",
    tag = "Inboxes",
    operation_id = "managementGetInboxLog",
    params(("public_id" = String, Path, description = "Log id", example = "ilog_06bqmn3t0d4gq2v8xk1hz7sw")),
    responses(
        (status = 200, description = "The accepted mail", body = Data<IncomingLogItem>),
        (status = 404, description = "No such row", body = crate::problem::Body),
    ),
)]
async fn get_inbox_log(
    call: Scoped<guards::LogsRead>,
    State(app): State<App>,
    Id(id): Id<InboxLogId>,
) -> Result<Reply<Data<IncomingLogItem>>, Problem> {
    let row = inbox_logs::get(&app.views, &call.caller.team, &id).await?.ok_or_else(Problem::not_found)?;
    Ok(Reply::ok(call.data(IncomingLogItem::new(row, &app.config.prices))))
}
