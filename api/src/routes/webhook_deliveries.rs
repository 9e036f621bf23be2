//! Attempts at webhook deliveries, kept for seven days.

use axum::extract::State;
use domain::id::{AttemptId, WebhookId};
use domain::published::{WebhookBody, WebhookEventType, rfc3339};
use projections::webhook_attempts::{self, AttemptResult, Filter, Row, Work};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::webhooks::{EventType, existing};
use crate::auth::{Scoped, guards};
use crate::envelope::{Data, List, Reply};
use crate::openapi::Routes;
use crate::path::{Id, Ids};
use crate::problem::Problem;
use crate::query::{Limit, Query, page};
use crate::{App, door};

pub(super) fn routes() -> Routes {
    Routes::new().with(door!(list_deliveries)).with(door!(get_delivery_payload))
}

/// How an attempt ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum DeliveryResult {
    Success,
    Retrying,
    Failed,
    PermanentFailure,
}

impl From<AttemptResult> for DeliveryResult {
    fn from(result: AttemptResult) -> Self {
        match result {
            AttemptResult::Success => Self::Success,
            AttemptResult::Retrying => Self::Retrying,
            AttemptResult::Failed => Self::Failed,
            AttemptResult::PermanentFailure => Self::PermanentFailure,
        }
    }
}

impl From<DeliveryResult> for AttemptResult {
    fn from(result: DeliveryResult) -> Self {
        match result {
            DeliveryResult::Success => Self::Success,
            DeliveryResult::Retrying => Self::Retrying,
            DeliveryResult::Failed => Self::Failed,
            DeliveryResult::PermanentFailure => Self::PermanentFailure,
        }
    }
}

/// One attempt.
#[derive(Debug, Clone, Serialize, ToSchema)]
struct WebhookDeliveryAttempt {
    #[schema(example = "whda_06bqmn3t0d4gq2v8xk1hz7sw")]
    id: String,
    event_id: String,
    event_type: EventType,
    /// From 1.
    delivery_attempt: u32,
    /// After how many the webhook counts as failing.
    max_attempts: u32,
    result: DeliveryResult,
    #[schema(required)]
    response_status: Option<u16>,
    response_ms: u64,
    /// The beginning of the answer's body.
    #[schema(required)]
    response_body: Option<String>,
    /// Why there was no answer.
    #[schema(required)]
    error_message: Option<String>,
    /// When the next attempt is due, while one is planned.
    #[schema(required)]
    next_retry_at: Option<String>,
    request_payload_bytes: u64,
    #[schema(required)]
    request_payload_sha256: Option<String>,
    payload_available: bool,
    payload_expires_at: String,
    created_at: String,
}

impl WebhookDeliveryAttempt {
    fn new(row: Row, now: i64) -> Self {
        let expires_at = row.expires_at();
        Self {
            id: row.id.to_string(),
            event_id: row.event.to_string(),
            event_type: row.event_type.into(),
            delivery_attempt: row.delivery_attempt,
            max_attempts: row.max_attempts,
            result: row.result.into(),
            response_status: row.response_status,
            response_ms: row.response_ms,
            response_body: row.response_body,
            error_message: row.error_message,
            next_retry_at: row.next_retry_at.map(rfc3339),
            request_payload_bytes: row.payload_bytes,
            request_payload_sha256: Some(row.payload_sha256),
            payload_available: now < expires_at,
            payload_expires_at: rfc3339(expires_at),
            created_at: rfc3339(row.created_at),
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
    /// Only at events of this type.
    #[param(inline)]
    event_type: Option<EventType>,
    /// Only those that ended like this.
    #[param(inline)]
    result: Option<DeliveryResult>,
}

fn attempts(app: &App) -> Result<&Work, Problem> {
    app.attempts.as_ref().ok_or_else(|| {
        tracing::error!("this node was started without the database of webhook attempts");
        Problem::unavailable()
    })
}

/// List delivery attempts
///
/// Newest first, one row per HTTP request.
#[utoipa::path(
    get,
    path = "/webhooks/{public_id}/deliveries",
    tag = "Webhooks",
    operation_id = "managementListDelivery",
    params(("public_id" = String, Path, description = "Webhook id", example = "whk_06bqmn3t0d4gq2v8xk1hz7sw"), ListQuery),
    responses(
        (status = 200, description = "Attempts", body = List<WebhookDeliveryAttempt>),
        (status = 400, description = "Invalid parameter", body = crate::problem::Body),
        (status = 404, description = "No such webhook", body = crate::problem::Body),
    ),
)]
async fn list_deliveries(
    call: Scoped<guards::WebhookRead>,
    State(app): State<App>,
    Id(id): Id<WebhookId>,
    Query(query): Query<ListQuery>,
) -> Result<Reply<List<WebhookDeliveryAttempt>>, Problem> {
    existing(&app, &call, &id).await?;
    let filter = Filter {
        event_type: query.event_type.map(WebhookEventType::from),
        result: query.result.map(AttemptResult::from),
    };
    let page = page(query.cursor, query.limit);
    let paged = webhook_attempts::list(attempts(&app)?, &call.caller.team, &id, &filter, &page, call.at).await?;
    let rows = paged.rows.into_iter().map(|row| WebhookDeliveryAttempt::new(row, call.at)).collect();
    Ok(Reply::ok(call.list(rows, paged.next_cursor)))
}

/// What an attempt delivered.
#[derive(Debug, Clone, Serialize, ToSchema)]
struct WebhookDeliveryPayload {
    #[schema(example = "whda_06bqmn3t0d4gq2v8xk1hz7sw")]
    id: String,
    event_id: String,
    event_type: EventType,
    delivery_attempt: u32,
    created_at: String,
    /// When it can no more be read.
    expires_at: String,
    /// The body of the request. What was erased since then is null.
    #[schema(value_type = Object)]
    payload: WebhookBody,
}

/// Get the payload of a delivery attempt
///
/// Made from its event again, until it expires.
#[utoipa::path(
    get,
    path = "/webhooks/{public_id}/deliveries/{delivery_id}/payload",
    tag = "Webhooks",
    operation_id = "managementGetDeliveryPayload",
    params(
        ("public_id" = String, Path, description = "Webhook id", example = "whk_06bqmn3t0d4gq2v8xk1hz7sw"),
        ("delivery_id" = String, Path, description = "Attempt id", example = "whda_06bqmn3t0d4gq2v8xk1hz7sw"),
    ),
    responses(
        (status = 200, description = "The payload", body = Data<WebhookDeliveryPayload>),
        (status = 404, description = "No such attempt, or it has expired", body = crate::problem::Body),
    ),
)]
async fn get_delivery_payload(
    call: Scoped<guards::WebhookRead>,
    State(app): State<App>,
    Ids(webhook, attempt): Ids<WebhookId, AttemptId>,
) -> Result<Reply<Data<WebhookDeliveryPayload>>, Problem> {
    let team = &call.caller.team;
    existing(&app, &call, &webhook).await?;
    let found = webhook_attempts::get(attempts(&app)?, team, &webhook, &attempt, call.at).await?;
    let row = found.ok_or_else(Problem::not_found)?;
    let payload = webhook_attempts::payload(&app.log, team, &row).await?.ok_or_else(Problem::not_found)?;
    Ok(Reply::ok(call.data(WebhookDeliveryPayload {
        id: row.id.to_string(),
        event_id: row.event.to_string(),
        event_type: row.event_type.into(),
        delivery_attempt: row.delivery_attempt,
        created_at: rfc3339(row.created_at),
        expires_at: rfc3339(row.expires_at()),
        payload,
    })))
}
