//! How many sending accounts a team may have, how much its managed account may take a day, and asking for more.

use axum::extract::State;
use domain::id::{LimitRequestId, ProviderId};
use domain::published::rfc3339;
use domain::team::{DecideLimitIncrease, Decision, RequestLimitIncrease, Resource, Team};
use domain::{StreamId, Versioned};
use projections::email_metrics::{self, Filter as Metered, hour_of};
use projections::providers::{self, Filter};
use projections::{Page, usage};
use serde::Serialize;
use utoipa::ToSchema;

use crate::auth::{Call, Scoped, guards};
use crate::envelope::{Data, Reply};
use crate::idempotency::KeyedOnly;
use crate::openapi::{IdempotencyHeader, Routes};
use crate::path::Id;
use crate::problem::{Code, Problem};
use crate::{App, door};

pub(super) fn routes() -> Routes {
    Routes::new()
        .with(door!(get_provider_limits))
        .with(door!(request_sending_account_limit_increase))
        .with(door!(get_managed_limit_request))
        .with(door!(create_managed_limit_request))
        .with(door!(cancel_managed_limit_request))
}

const HOURS_OF_DAY: i64 = 24;
/// How requests about the managed account begin in the contract.
const MANAGED_PREFIX: &str = "slir_";

/// How many of a resource there are and may be.
#[derive(Debug, Clone, Serialize, ToSchema)]
struct ResourceLimitSnapshot {
    #[schema(example = "sending_accounts")]
    resource_type: &'static str,
    usage: u32,
    max_allowed: u32,
    /// Always 0: nothing is reserved.
    reserved: u32,
    /// From how many on more can be asked for.
    threshold_usage: u32,
    usage_ratio: f64,
    is_near_limit: bool,
    is_at_limit: bool,
    can_request_increase: bool,
    #[schema(required)]
    pending_request_id: Option<String>,
}

impl ResourceLimitSnapshot {
    fn of(team: &Team) -> Self {
        let (used, max) = team.usage(Resource::SendingAccounts);
        let threshold = team.increase_threshold(Resource::SendingAccounts);
        let pending = team.limit_requests.get(&Resource::SendingAccounts);
        Self {
            resource_type: "sending_accounts",
            usage: used,
            // The contract knows no limit of nothing.
            max_allowed: max.max(1),
            reserved: 0,
            threshold_usage: threshold,
            usage_ratio: ratio(used, max),
            is_near_limit: used >= threshold,
            is_at_limit: used >= max,
            can_request_increase: used >= threshold && pending.is_none(),
            pending_request_id: pending.map(ToString::to_string),
        }
    }
}

fn ratio(used: u32, max: u32) -> f64 {
    if max == 0 { 1.0 } else { f64::from(used) / f64::from(max) }
}

/// How much the managed account may take a day; all null without one, or without a limit.
#[derive(Debug, Clone, Serialize, ToSchema)]
struct SharedAmazonSesLimit {
    #[schema(required)]
    provider_id: Option<String>,
    /// Recipients per UTC day.
    #[schema(required)]
    daily_limit: Option<u32>,
    sent_today: u32,
    #[schema(required)]
    threshold_usage: Option<u32>,
    #[schema(required)]
    usage_ratio: Option<f64>,
    is_near_limit: bool,
    can_request_increase: bool,
    #[schema(required)]
    pending_request_id: Option<String>,
}

impl SharedAmazonSesLimit {
    fn new(managed: Option<&Managed>, pending: Option<&LimitRequestId>) -> Self {
        let (limit, sent) = managed.map_or((None, 0), |m| (m.daily_limit, m.sent_today));
        let threshold = limit.map(threshold);
        let near = threshold.is_some_and(|threshold| sent >= threshold);
        Self {
            provider_id: managed.map(|m| m.id.to_string()),
            daily_limit: limit,
            sent_today: sent,
            threshold_usage: threshold,
            usage_ratio: limit.map(|limit| ratio(sent, limit)),
            is_near_limit: near,
            can_request_increase: near && pending.is_none(),
            pending_request_id: pending.map(managed_id),
        }
    }
}

fn threshold(limit: u32) -> u32 {
    u32::try_from((u64::from(limit) * 4).div_ceil(5)).unwrap_or(u32::MAX)
}

/// The account that the operator runs for the team.
struct Managed {
    id: ProviderId,
    daily_limit: Option<u32>,
    sent_today: u32,
}

/// Returns the team's managed account, the oldest if there are several.
async fn managed(app: &App, call: &Call) -> Result<Option<Managed>, Problem> {
    let (views, team) = (&app.views, &call.caller.team);
    let (mut found, mut page) = (None, Page::first(1_000));
    loop {
        let paged = providers::list(views, team, &Filter::default(), &page).await?;
        found = paged.rows.into_iter().rfind(|row| row.provider.managed).or(found);
        match paged.next_cursor {
            Some(cursor) => page.after = Some(cursor),
            None => break,
        }
    }
    let Some(row) = found else { return Ok(None) };
    let quota = row.provider.settings.as_ref().and_then(|s| s.quotas.per_day);
    let hours = Metered::hours(usage::day_of(call.at) * HOURS_OF_DAY, hour_of(call.at));
    let sent = email_metrics::sums(views, team, &Metered { provider: Some(row.id.clone()), ..hours }).await?.taken;
    Ok(Some(Managed {
        id: row.id,
        daily_limit: quota.map(|range| range.max),
        sent_today: u32::try_from(sent.max(0)).unwrap_or(u32::MAX),
    }))
}

async fn team(app: &App, call: &Call) -> Result<Versioned<Team>, Problem> {
    Ok(app.log.state(&call.caller.team, &[StreamId::Team]).await?)
}

/// The limits of sending accounts.
#[derive(Debug, Clone, Serialize, ToSchema)]
struct ProviderLimits {
    sending_accounts: ResourceLimitSnapshot,
    shared_amazon_ses: SharedAmazonSesLimit,
}

/// Get the limits of sending accounts
#[utoipa::path(
    get,
    path = "/providers/limits",
    tag = "Sending accounts",
    operation_id = "managementGetProviderLimits",
    responses((status = 200, description = "The limits", body = Data<ProviderLimits>)),
)]
async fn get_provider_limits(
    call: Scoped<guards::ProviderRead>,
    State(app): State<App>,
) -> Result<Reply<Data<ProviderLimits>>, Problem> {
    let team = team(&app, &call).await?;
    let managed = managed(&app, &call).await?;
    let pending = team.limit_requests.get(&Resource::ManagedDaily);
    let data = ProviderLimits {
        sending_accounts: ResourceLimitSnapshot::of(&team),
        shared_amazon_ses: SharedAmazonSesLimit::new(managed.as_ref(), pending),
    };
    Ok(Reply::ok(call.data(data)))
}

/// A request for more sending accounts.
#[derive(Debug, Clone, Serialize, ToSchema)]
struct SendingAccountLimitRequest {
    #[schema(example = "trir_06bqmn3t0d4gq2v8xk1hz7sw")]
    request_id: String,
    limit: ResourceLimitSnapshot,
}

/// Request more sending accounts
///
/// From 80 % of the limit on, one request at a time. The operator decides.
#[utoipa::path(
    post,
    path = "/providers/limits/sending-accounts/request-increase",
    tag = "Sending accounts",
    operation_id = "managementRequestSendingAccountLimitIncrease",
    params(IdempotencyHeader),
    responses(
        (status = 200, description = "Requested", body = Data<SendingAccountLimitRequest>),
        (status = 409, description = "A request is pending, or key used for another request", body = crate::problem::Body),
        (status = 422, description = "There is still enough room", body = crate::problem::Body),
    ),
)]
async fn request_sending_account_limit_increase(
    call: Scoped<guards::ProviderCreate>,
    State(app): State<App>,
    KeyedOnly(idempotency): KeyedOnly,
) -> Result<Reply<Data<SendingAccountLimitRequest>>, Problem> {
    let request = LimitRequestId::new(call.at, app.allot.random());
    let resource = Resource::SendingAccounts;
    let command = RequestLimitIncrease { request: request.clone(), resource, measured: None };
    let answered = call.clone().into_call();
    app.submit(&call, call.submission(command), idempotency, move |appended| {
        let limit = ResourceLimitSnapshot::of(&appended.state);
        Reply::ok(answered.data(SendingAccountLimitRequest { request_id: request.to_string(), limit }))
    })
    .await
}

fn managed_id(request: &LimitRequestId) -> String {
    format!("{MANAGED_PREFIX}{}", &request.as_str()[LimitRequestId::PREFIX.len()..])
}

/// The id of a request about the managed account.
struct ManagedRequestId(LimitRequestId);

impl std::str::FromStr for ManagedRequestId {
    type Err = ();
    fn from_str(text: &str) -> Result<Self, ()> {
        let rest = text.strip_prefix(MANAGED_PREFIX).ok_or(())?;
        format!("{}{rest}", LimitRequestId::PREFIX).parse().map(Self).map_err(|_| ())
    }
}

/// A request for a higher daily limit of the managed account.
#[derive(Debug, Clone, Serialize, ToSchema)]
struct SharedAmazonSesLimitRequest {
    #[schema(example = "slir_06bqmn3t0d4gq2v8xk1hz7sw")]
    id: String,
    /// `pending` or `cancelled`.
    #[schema(example = "pending")]
    status: &'static str,
    current_daily_limit: u32,
    current_daily_sent: u32,
    #[schema(required)]
    approved_daily_limit: Option<u32>,
    created_at: String,
    #[schema(required)]
    decided_at: Option<String>,
    #[schema(required)]
    decision_note: Option<String>,
}

impl SharedAmazonSesLimitRequest {
    fn new(request: &LimitRequestId, managed: Option<&Managed>, decided_at: Option<i64>) -> Self {
        Self {
            id: managed_id(request),
            status: if decided_at.is_some() { "cancelled" } else { "pending" },
            current_daily_limit: managed.and_then(|m| m.daily_limit).unwrap_or(0),
            current_daily_sent: managed.map_or(0, |m| m.sent_today),
            approved_daily_limit: None,
            created_at: rfc3339(request.made_at_micros()),
            decided_at: decided_at.map(rfc3339),
            decision_note: None,
        }
    }
}

/// The daily limit of the managed account and what was asked.
#[derive(Debug, Clone, Serialize, ToSchema)]
struct SharedAmazonSesLimitRequestPage {
    limit: SharedAmazonSesLimit,
    #[schema(required)]
    pending_request: Option<SharedAmazonSesLimitRequest>,
}

/// Get the daily limit of the managed account
///
/// With the request for a higher one that waits for the operator, if any.
#[utoipa::path(
    get,
    path = "/providers/shared-amazon-ses-limit-request",
    tag = "Sending accounts",
    operation_id = "managementGetSharedAmazonSesLimitRequest",
    responses((status = 200, description = "The limit", body = Data<SharedAmazonSesLimitRequestPage>)),
)]
async fn get_managed_limit_request(
    call: Scoped<guards::ProviderRead>,
    State(app): State<App>,
) -> Result<Reply<Data<SharedAmazonSesLimitRequestPage>>, Problem> {
    let team = team(&app, &call).await?;
    let managed = managed(&app, &call).await?;
    let pending = team.limit_requests.get(&Resource::ManagedDaily);
    let data = SharedAmazonSesLimitRequestPage {
        limit: SharedAmazonSesLimit::new(managed.as_ref(), pending),
        pending_request: pending.map(|request| SharedAmazonSesLimitRequest::new(request, managed.as_ref(), None)),
    };
    Ok(Reply::ok(call.data(data)))
}

/// A request and the limit it is about.
#[derive(Debug, Clone, Serialize, ToSchema)]
struct SharedAmazonSesLimitRequestCreate {
    limit: SharedAmazonSesLimit,
    request: SharedAmazonSesLimitRequest,
}

/// Request a higher daily limit of the managed account
///
/// From 80 % of the limit on, one request at a time. The operator decides.
#[utoipa::path(
    post,
    path = "/providers/shared-amazon-ses-limit-request",
    tag = "Sending accounts",
    operation_id = "managementCreateSharedAmazonSesLimitRequest",
    params(IdempotencyHeader),
    responses(
        (status = 200, description = "Requested", body = Data<SharedAmazonSesLimitRequestCreate>),
        (status = 404, description = "There is no managed account", body = crate::problem::Body),
        (status = 409, description = "A request is pending, or key used for another request", body = crate::problem::Body),
        (status = 422, description = "There is still enough room", body = crate::problem::Body),
    ),
)]
async fn create_managed_limit_request(
    call: Scoped<guards::ProviderUpdate>,
    State(app): State<App>,
    KeyedOnly(idempotency): KeyedOnly,
) -> Result<Reply<Data<SharedAmazonSesLimitRequestCreate>>, Problem> {
    let managed = managed(&app, &call).await?.ok_or_else(Problem::not_found)?;
    let limit = managed.daily_limit.ok_or_else(|| {
        Problem::new(Code::ValidationError, "The managed account has no daily limit that could be raised.")
    })?;
    let request = LimitRequestId::new(call.at, app.allot.random());
    let measured = Some((managed.sent_today, limit));
    let command = RequestLimitIncrease { request: request.clone(), resource: Resource::ManagedDaily, measured };
    let shown = SharedAmazonSesLimitRequestCreate {
        limit: SharedAmazonSesLimit::new(Some(&managed), Some(&request)),
        request: SharedAmazonSesLimitRequest::new(&request, Some(&managed), None),
    };
    let answered = call.clone().into_call();
    app.submit(&call, call.submission(command), idempotency, move |_| Reply::ok(answered.data(shown.clone()))).await
}

/// Cancel a request for a higher daily limit
///
/// As long as the operator has not decided.
#[utoipa::path(
    delete,
    path = "/providers/shared-amazon-ses-limit-request/{request_id}",
    tag = "Sending accounts",
    operation_id = "managementCancelSharedAmazonSesLimitRequest",
    params(("request_id" = String, Path, description = "Request id", example = "slir_06bqmn3t0d4gq2v8xk1hz7sw")),
    responses(
        (status = 200, description = "Cancelled", body = Data<SharedAmazonSesLimitRequestCreate>),
        (status = 404, description = "No such request", body = crate::problem::Body),
        (status = 409, description = "It was decided", body = crate::problem::Body),
    ),
)]
async fn cancel_managed_limit_request(
    call: Scoped<guards::ProviderUpdate>,
    State(app): State<App>,
    Id(ManagedRequestId(request)): Id<ManagedRequestId>,
) -> Result<Reply<Data<SharedAmazonSesLimitRequestCreate>>, Problem> {
    let team = team(&app, &call).await?;
    if team.limit_requests.get(&Resource::ManagedDaily) != Some(&request) {
        return Err(if team.decided_request.as_ref() == Some(&request) {
            Problem::new(Code::Conflict, "The request was decided or cancelled.")
        } else {
            Problem::not_found()
        });
    }
    let managed = managed(&app, &call).await?;
    let decide = DecideLimitIncrease { request: request.clone(), decision: Decision::Cancelled, limits: None };
    app.append(&call, call.submission(decide)).await?;
    let shown = SharedAmazonSesLimitRequestCreate {
        limit: SharedAmazonSesLimit::new(managed.as_ref(), None),
        request: SharedAmazonSesLimitRequest::new(&request, managed.as_ref(), Some(call.at)),
    };
    Ok(Reply::ok(call.data(shown)))
}
