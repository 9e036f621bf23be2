//! How sending accounts fare: whether a server lets us in, how many there are, what left through each.

use std::time::Duration;

use axum::extract::State;
use domain::id::ProviderId;
use domain::provider::credentials::{Credentials, PURPOSE};
use domain::provider::{Provider, RecordProviderTest, Transport};
use domain::published::rfc3339;
use eventlog::Outcome;
use projections::email_metrics::{self, Filter as Metered, hour_of};
use projections::providers::{self, Filter, Health};
use projections::{Page, usage};
use serde::Serialize;
use utoipa::ToSchema;

use super::providers::existing;
use crate::auth::{Call, Scoped, guards};
use crate::carrier::{Server, Trial};
use crate::envelope::{Data, Reply};
use crate::idempotency::KeyedOnly;
use crate::openapi::{IdempotencyHeader, Routes};
use crate::path::Id;
use crate::problem::{Code, Problem};
use crate::{App, door};

pub(super) fn routes() -> Routes {
    Routes::new().with(door!(test_provider)).with(door!(get_provider_stats)).with(door!(get_provider_usage))
}

/// The longest look at a server: shorter than a request may take.
const TRIAL_WITHIN: Duration = Duration::from_secs(20);
/// The most characters of what was found.
const MESSAGE_CHARS_MAX: usize = 1_000;
/// What usage goes back.
const WINDOW_DAYS: u8 = 7;
const HOURS_OF_DAY: i64 = 24;

/// What a look at a server found.
#[derive(Debug, Clone, Serialize, ToSchema)]
struct ProviderTestResult {
    success: bool,
    #[schema(example = "The server accepts the login.")]
    message: String,
    #[schema(example = 182)]
    latency_ms: u32,
    tested_at: String,
}

/// Returns the server of an account and how to log in there.
async fn server(app: &App, call: &Call, account: &Provider) -> Result<Server, Problem> {
    let Some(Transport::CustomSmtp { host, port, security }) = account.settings.as_ref().map(|s| &s.transport) else {
        return Err(Problem::new(Code::ValidationError, "Only accounts with a server of their own can be tested."));
    };
    if account.managed {
        return Err(Problem::new(Code::ValidationError, "A managed account cannot be tested."));
    }
    let login = match &account.secret {
        None => None,
        Some(secret) => {
            let text = app.log.secret(&call.caller.team, secret, PURPOSE).await?.ok_or_else(Problem::internal)?;
            Some(serde_json::from_slice::<Credentials>(text.expose()).map_err(|_| Problem::internal())?)
        }
    };
    Ok(Server { host: host.clone(), port: *port, security: *security, login })
}

/// Test a sending account
///
/// Connects to its server, logs in and says goodbye; no mail is sent. A server that lets us in mends an account in error, one
/// that refuses the login puts it there.
#[utoipa::path(
    post,
    path = "/providers/{public_id}/test",
    tag = "Sending accounts",
    operation_id = "managementTestProvider",
    params(("public_id" = String, Path, description = "Sending account id", example = "dprov_06bqmn3t0d4gq2v8xk1hz7sw"), IdempotencyHeader),
    responses(
        (status = 200, description = "What was found", body = Data<ProviderTestResult>),
        (status = 404, description = "No such sending account", body = crate::problem::Body),
        (status = 409, description = "Key used for another request", body = crate::problem::Body),
        (status = 422, description = "The account has no server of its own", body = crate::problem::Body),
    ),
)]
async fn test_provider(
    call: Scoped<guards::ProviderUpdate>,
    State(app): State<App>,
    Id(id): Id<ProviderId>,
    KeyedOnly(idempotency): KeyedOnly,
) -> Result<Reply<Data<ProviderTestResult>>, Problem> {
    let (fold, _) = existing(&app, &call, &id).await?;
    let server = server(&app, &call, &fold).await?;
    let carrier = app.carrier.as_ref().ok_or_else(Problem::unavailable)?;
    let begun = app.allot.now();
    let trial = tokio::time::timeout(TRIAL_WITHIN, carrier.probe(server)).await;
    let Trial { result, message } =
        trial.unwrap_or_else(|_| Trial { result: Err(None), message: "The server did not answer in time.".to_owned() });
    let tested_at = app.allot.now();
    let latency_ms = u32::try_from((tested_at - begun).max(0) / 1_000).unwrap_or(u32::MAX);
    let message: String = message.chars().filter(|c| !c.is_control()).take(MESSAGE_CHARS_MAX).collect();
    let shown = ProviderTestResult {
        success: result.is_ok(),
        message: message.clone(),
        latency_ms,
        tested_at: rfc3339(tested_at),
    };
    let reply = Reply::ok(call.data(shown));
    let command = RecordProviderTest { provider: id, tested_at, latency_milliseconds: latency_ms, message, result };
    let mut submission = call.submission(command);
    if let Some(idempotency) = idempotency {
        let answer = reply.to_answer(call.request.as_str());
        submission = submission.idempotent(idempotency, move |_| answer.clone());
    }
    match app.log.transact(submission).await.map_err(Problem::from)? {
        Outcome::Repeated(answer) => Ok(Reply::kept(answer)),
        Outcome::Done(appended) => {
            app.caught_up(&call.caller.team, appended.head.position).await;
            Ok(reply)
        }
    }
}

/// Accounts by type.
#[derive(Debug, Clone, Copy, Default, Serialize, ToSchema)]
struct ProviderTypeCounts {
    smtp: u64,
    amazon_ses: u64,
    /// Always 0.
    gmail_api: u64,
    /// Always 0.
    outlook_api: u64,
}

/// Accounts by state.
#[derive(Debug, Clone, Copy, Default, Serialize, ToSchema)]
struct ProviderStatusCounts {
    active: u64,
    inactive: u64,
    error: u64,
    /// Always 0.
    pending: u64,
}

/// How many sending accounts there are.
#[derive(Debug, Clone, Copy, Default, Serialize, ToSchema)]
struct ProviderStats {
    total: u64,
    #[serde(flatten)]
    counts: ProviderStatusCounts,
    by_type: ProviderTypeCounts,
    by_status: ProviderStatusCounts,
}

/// Count sending accounts
#[utoipa::path(
    get,
    path = "/providers/stats",
    tag = "Sending accounts",
    operation_id = "managementGetProviderStats",
    responses((status = 200, description = "How many there are", body = Data<ProviderStats>)),
)]
async fn get_provider_stats(
    call: Scoped<guards::ProviderRead>,
    State(app): State<App>,
) -> Result<Reply<Data<ProviderStats>>, Problem> {
    let mut stats = ProviderStats::default();
    for ((health, kind), count) in providers::counts(&app.views, &call.caller.team).await? {
        stats.total += count;
        match health {
            Health::Active => stats.counts.active += count,
            Health::Inactive => stats.counts.inactive += count,
            Health::Broken => stats.counts.error += count,
            Health::Deleted => {}
        }
        if kind == "ses" {
            stats.by_type.amazon_ses += count;
        } else {
            stats.by_type.smtp += count;
        }
    }
    stats.by_status = stats.counts;
    Ok(Reply::ok(call.data(stats)))
}

/// What left through one account, in mails.
#[derive(Debug, Clone, Serialize, ToSchema)]
struct ProviderUsageItem {
    #[schema(example = "dprov_06bqmn3t0d4gq2v8xk1hz7sw")]
    provider_id: String,
    /// Since midnight (UTC).
    sent_today: i64,
    total_7d: i64,
    sent_7d: i64,
    failed_7d: i64,
    rejected_7d: i64,
    pending_7d: i64,
}

/// What left through each account.
#[derive(Debug, Clone, Serialize, ToSchema)]
struct ProviderUsage {
    /// Always 7: today and the six days before (UTC).
    window_days: u8,
    providers: Vec<ProviderUsageItem>,
}

/// Get usage by sending account
///
/// Mails that were last given to each account, today and in seven days. Mail counts on the day on which it was accepted.
#[utoipa::path(
    get,
    path = "/providers/usage",
    tag = "Sending accounts",
    operation_id = "managementGetProviderUsage",
    responses((status = 200, description = "What left through each account", body = Data<ProviderUsage>)),
)]
async fn get_provider_usage(
    call: Scoped<guards::ProviderRead>,
    State(app): State<App>,
) -> Result<Reply<Data<ProviderUsage>>, Problem> {
    let (views, team) = (&app.views, &call.caller.team);
    let (today, now) = (usage::day_of(call.at) * HOURS_OF_DAY, hour_of(call.at));
    let first = today - (i64::from(WINDOW_DAYS) - 1) * HOURS_OF_DAY;
    let week = email_metrics::by_provider(views, team, &Metered::hours(first, now)).await?;
    let day = email_metrics::by_provider(views, team, &Metered::hours(today, now)).await?;
    let (mut items, mut page) = (vec![], Page::first(1_000));
    loop {
        let paged = providers::list(views, team, &Filter::default(), &page).await?;
        for row in &paged.rows {
            let counts = week.get(&row.id).copied().unwrap_or_default();
            items.push(ProviderUsageItem {
                provider_id: row.id.to_string(),
                sent_today: day.get(&row.id).map_or(0, |counts| counts.sent),
                total_7d: counts.total,
                sent_7d: counts.sent,
                failed_7d: counts.failed,
                rejected_7d: counts.rejected,
                pending_7d: counts.pending,
            });
        }
        match paged.next_cursor {
            Some(cursor) => page.after = Some(cursor),
            None => break,
        }
    }
    Ok(Reply::ok(call.data(ProviderUsage { window_days: WINDOW_DAYS, providers: items })))
}
