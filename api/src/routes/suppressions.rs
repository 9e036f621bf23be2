//! The suppression list: addresses that the team does not write to, and why.

use axum::extract::State;
use domain::id::AddressId;
use domain::published::rfc3339;
use domain::suppression::{Cause, Reason, SuppressAddress, Suppression, UnsuppressAddress};
use domain::{StreamId, Versioned};
use mail::address::Address;
use projections::suppressions::{self, Listed, Row};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::auth::{Call, Scoped, guards};
use crate::envelope::{Data, Deleted, List, Reply};
use crate::etag::{ETag, IfNoneMatch};
use crate::field::{present, required_list, required_text, text, text_or_null};
use crate::openapi::{IfNoneMatchHeader, Routes};
use crate::path::Id;
use crate::problem::{ErrorBody, Problem};
use crate::query::{Limit, Query, flag, instant, page};
use crate::{App, Json, door};

pub(super) fn routes() -> Routes {
    Routes::new()
        .with(door!(list_suppressions))
        .with(door!(create_suppression))
        .with(door!(import_suppressions))
        .with(door!(get_suppression))
        .with(door!(delete_suppression))
}

/// The most addresses of one import.
const IMPORT_MAX: usize = 1_000;
/// How many of them are written at the same time.
const IMPORTED_TOGETHER: usize = 64;
/// The most characters of a topic, as in mails that name one.
const TOPIC_CHARS_MAX: usize = 64;

/// Why an address is not written to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum SuppressionReason {
    /// Mail to it bounced for good.
    HardBounce,
    /// Its owner marked mail as spam.
    Complaint,
    /// Its owner unsubscribed.
    Unsubscribe,
    /// The team says so.
    Manual,
    /// It came with a list.
    Import,
}

impl From<SuppressionReason> for Reason {
    fn from(reason: SuppressionReason) -> Self {
        match reason {
            SuppressionReason::HardBounce => Self::HardBounce,
            SuppressionReason::Complaint => Self::Complaint,
            SuppressionReason::Unsubscribe => Self::Unsubscribe,
            SuppressionReason::Manual => Self::Manual,
            SuppressionReason::Import => Self::Import,
        }
    }
}

impl From<Reason> for SuppressionReason {
    fn from(reason: Reason) -> Self {
        match reason {
            Reason::HardBounce => Self::HardBounce,
            Reason::Complaint => Self::Complaint,
            Reason::Unsubscribe => Self::Unsubscribe,
            Reason::Manual => Self::Manual,
            Reason::Import => Self::Import,
        }
    }
}

/// One cause for which an address is on the list.
#[derive(Debug, Clone, Serialize, ToSchema)]
struct SuppressionCause {
    reason: SuppressionReason,
    /// The kind of mail it is confined to; null for all.
    #[schema(required)]
    topic: Option<String>,
    /// When it ends by itself; null for never.
    #[schema(required)]
    expires_at: Option<String>,
    /// The mail that led to it.
    #[schema(required)]
    message_id: Option<String>,
    #[schema(required)]
    note: Option<String>,
    created_at: String,
}

/// An address that is not written to.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[schema(as = Suppression)]
struct Shown {
    #[schema(example = "addr_06bqmn3t0d4gq2v8xk1hz7sw")]
    id: String,
    /// The address; null when it was erased.
    #[schema(required, example = "bob@example.net")]
    email: Option<String>,
    /// Oldest first; one is enough.
    causes: Vec<SuppressionCause>,
    /// Whether it is not written to now; false when all causes have ended.
    is_active: bool,
    created_at: String,
    updated_at: String,
}

impl Shown {
    fn of(row: &Row, now: i64) -> Self {
        let cause = |listed: &Listed| SuppressionCause {
            reason: listed.cause.reason.into(),
            topic: listed.cause.topic.clone(),
            expires_at: listed.expires_at.map(rfc3339),
            message_id: listed.outbound.as_ref().map(ToString::to_string),
            note: listed.note.clone(),
            created_at: rfc3339(listed.since),
        };
        Self {
            id: row.id.to_string(),
            email: row.email.clone(),
            causes: row.causes.iter().map(cause).collect(),
            is_active: row.expires_at().is_none_or(|at| at > now),
            created_at: rfc3339(row.created_at),
            updated_at: rfc3339(row.updated_at),
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
    #[param(value_type = Option<u32>, minimum = 1, maximum = 100, default = 50)]
    limit: Limit<100, 50>,
    /// Only addresses with such a cause.
    #[param(inline)]
    reason: Option<SuppressionReason>,
    /// `true` leaves out addresses of which all causes have ended.
    #[serde(default, deserialize_with = "flag")]
    active: Option<bool>,
    /// Only addresses that contain this.
    search: Option<String>,
}

/// List suppressed addresses
///
/// Newest first.
#[utoipa::path(
    get,
    path = "/suppressions",
    tag = "Suppressions",
    operation_id = "managementListSuppressions",
    params(ListQuery),
    responses((status = 200, description = "Suppressed addresses", body = List<Shown>)),
)]
async fn list_suppressions(
    call: Scoped<guards::SuppressionRead>,
    State(app): State<App>,
    Query(query): Query<ListQuery>,
) -> Result<Reply<List<Shown>>, Problem> {
    let filter = suppressions::Filter {
        reason: query.reason.map(Reason::from),
        active_at: query.active.filter(|active| *active).map(|_| call.at),
        search: query.search,
    };
    let page = page(query.cursor, query.limit);
    let paged = suppressions::list(&app.views, &call.caller.team, &filter, &page).await?;
    Ok(Reply::ok(call.list(paged.rows.iter().map(|row| Shown::of(row, call.at)).collect(), paged.next_cursor)))
}

/// An address to put on the list.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct SuppressionCreateBody {
    #[serde(deserialize_with = "required_text::<3, 320, _>")]
    #[schema(min_length = 3, max_length = 320, example = "bob@example.net")]
    email: String,
    /// `manual` by default; `import` in an import.
    #[serde(default, deserialize_with = "present")]
    #[schema(nullable = false)]
    reason: Option<SuppressionReason>,
    /// The kind of mail it is confined to; all mail without.
    #[serde(default, deserialize_with = "text::<1, TOPIC_CHARS_MAX, _>")]
    #[schema(nullable = false, min_length = 1, max_length = 64)]
    topic: Option<String>,
    /// When it ends by itself; never without.
    #[serde(default, deserialize_with = "present")]
    #[schema(nullable = false, format = "date-time")]
    expires_at: Option<String>,
    /// For people.
    #[serde(default, deserialize_with = "text_or_null::<0, 255, _>")]
    #[schema(value_type = Option<String>, max_length = 255)]
    note: Option<Option<String>>,
}

impl SuppressionCreateBody {
    fn command(self, app: &App, call: &Call, reason: Reason) -> Result<SuppressAddress, Problem> {
        let address = address(&self.email)?;
        let expires_at = match self.expires_at {
            None => None,
            Some(text) => Some(instant(&text).filter(|at| *at > call.at).ok_or_else(|| {
                Problem::unacceptable("expires_at", "invalid_value", "expires_at must be an RFC 3339 timestamp ahead")
            })?),
        };
        Ok(SuppressAddress {
            address: app.outbox.address(&call.caller.team, &address),
            email: address.canonical(),
            cause: Cause { reason: self.reason.map_or(reason, Reason::from), topic: self.topic },
            expires_at,
            note: self.note.flatten().filter(|note| !note.is_empty()),
        })
    }
}

fn address(email: &str) -> Result<Address, Problem> {
    Address::parse(email).map_err(|error| Problem::unacceptable("email", "invalid_email", error.to_string()))
}

/// Returns a row as it must be by now, should the read models be late.
fn row_of(command: &SuppressAddress, state: &Versioned<Suppression>, at: i64) -> Row {
    let listed = |(cause, expires_at): (&Cause, &Option<i64>)| Listed {
        cause: cause.clone(),
        since: at,
        expires_at: *expires_at,
        outbound: None,
        note: command.note.clone().filter(|_| *cause == command.cause),
    };
    Row {
        id: command.address.clone(),
        email: Some(command.email.clone()),
        causes: state.causes.iter().map(listed).collect(),
        created_at: at,
        updated_at: at,
        created_position: 0,
        changed_position: 0,
        version: state.version,
    }
}

/// Suppress an address
///
/// From now on no mail goes there, what is queued included. The same again changes nothing.
#[utoipa::path(
    post,
    path = "/suppressions",
    tag = "Suppressions",
    operation_id = "managementCreateSuppression",
    request_body = SuppressionCreateBody,
    responses(
        (status = 201, description = "On the list", body = Data<Shown>, headers(("Location" = String))),
        (status = 400, description = "Invalid body", body = crate::problem::Body),
        (status = 409, description = "The address has as many causes as it may", body = crate::problem::Body),
        (status = 422, description = "A field is not acceptable", body = crate::problem::Body),
    ),
)]
async fn create_suppression(
    call: Scoped<guards::SuppressionManage>,
    State(app): State<App>,
    Json(body): Json<SuppressionCreateBody>,
) -> Result<Reply<Data<Shown>>, Problem> {
    let command = body.command(&app, &call, Reason::Manual)?;
    let appended = app.append(&call, call.submission(command.clone())).await?;
    let state = &appended.state.1;
    let row = suppressions::get(&app.views, &call.caller.team, &command.address).await.ok().flatten();
    let row = row.unwrap_or_else(|| row_of(&command, state, call.at));
    let location = format!("/api/v1/suppressions/{}", row.id);
    Ok(Reply::created(&location, call.data(Shown::of(&row, call.at))).tagged(&ETag::of_version(state.version)))
}

/// Addresses to put on the list.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct SuppressionImportBody {
    #[serde(deserialize_with = "required_list::<_, 1, IMPORT_MAX, _>")]
    #[schema(value_type = Vec<SuppressionCreateBody>, min_items = 1, max_items = 1000)]
    entries: Vec<serde_json::Value>,
}

/// An address that was not taken.
#[derive(Debug, Clone, Serialize, ToSchema)]
struct SuppressionImportFailure {
    /// Its place in the request.
    index: usize,
    error: ErrorBody,
}

/// What came of an import.
#[derive(Debug, Clone, Serialize, ToSchema)]
struct SuppressionImportResult {
    total: usize,
    /// New on the list, or for one more cause.
    added: usize,
    /// There already, for the same cause.
    unchanged: usize,
    failed: usize,
    failures: Vec<SuppressionImportFailure>,
}

async fn import_one(app: &App, call: &Call, entry: serde_json::Value) -> Result<(bool, u64), Problem> {
    let body: SuppressionCreateBody = crate::body::from_value(entry)?;
    let command = body.command(app, call, Reason::Import)?;
    let appended = app.log.transact(call.submission(command)).await?.done().ok_or_else(Problem::internal)?;
    let last = appended.records.last().map(|record| record.position);
    Ok((last.is_some(), last.unwrap_or_default()))
}

/// Import suppressed addresses
///
/// Each is taken or refused by itself, so that a repetition takes what is missing.
#[utoipa::path(
    post,
    path = "/suppressions/import",
    tag = "Suppressions",
    operation_id = "managementImportSuppressions",
    request_body = SuppressionImportBody,
    responses(
        (status = 200, description = "What came of it", body = Data<SuppressionImportResult>),
        (status = 400, description = "Invalid body", body = crate::problem::Body),
    ),
)]
async fn import_suppressions(
    call: Scoped<guards::SuppressionManage>,
    State(app): State<App>,
    Json(body): Json<SuppressionImportBody>,
) -> Result<Reply<Data<SuppressionImportResult>>, Problem> {
    use futures_util::StreamExt as _;
    let total = body.entries.len();
    let imports = body.entries.into_iter().map(|entry| import_one(&app, &call, entry));
    // The log writes together what comes together.
    let results: Vec<_> = futures_util::stream::iter(imports).buffered(IMPORTED_TOGETHER).collect().await;
    let (mut added, mut unchanged, mut failures, mut last) = (0, 0, vec![], 0);
    for (index, result) in results.into_iter().enumerate() {
        match result {
            Ok((true, position)) => (added, last) = (added + 1, last.max(position)),
            Ok((false, _)) => unchanged += 1,
            Err(problem) => failures.push(SuppressionImportFailure { index, error: problem.detail() }),
        }
    }
    app.caught_up(&call.caller.team, last).await;
    let failed = failures.len();
    Ok(Reply::ok(call.data(SuppressionImportResult { total, added, unchanged, failed, failures })))
}

/// Returns the address that a path names, by its id or as it is.
fn named(app: &App, call: &Call, text: &str) -> Result<AddressId, Problem> {
    if text.contains('@') {
        let address = Address::parse(text).map_err(|_| Problem::not_found())?;
        return Ok(app.outbox.address(&call.caller.team, &address));
    }
    text.parse().map_err(|_| Problem::not_found())
}

async fn existing(app: &App, call: &Call, text: &str) -> Result<(Row, Versioned<Suppression>), Problem> {
    let (team, id) = (&call.caller.team, named(app, call, text)?);
    let state: Versioned<Suppression> = app.log.state(team, &[StreamId::Suppression(id.clone())]).await?;
    if state.causes.is_empty() {
        return Err(Problem::not_found());
    }
    if let Some(row) = suppressions::get(&app.views, team, &id).await? {
        return Ok((row, state));
    }
    let head = app.log.head(team).await?;
    app.caught_up(team, head.position).await;
    let row = suppressions::get(&app.views, team, &id).await?.ok_or_else(Problem::unavailable)?;
    Ok((row, state))
}

/// Get a suppressed address
///
/// By its id, or by the address itself.
#[utoipa::path(
    get,
    path = "/suppressions/{public_id}",
    tag = "Suppressions",
    operation_id = "managementGetSuppression",
    params(("public_id" = String, Path, description = "Suppression id, or the address", example = "addr_06bqmn3t0d4gq2v8xk1hz7sw"), IfNoneMatchHeader),
    responses(
        (status = 200, description = "Why it is not written to", body = Data<Shown>, headers(("ETag" = String))),
        (status = 304, description = "Not modified"),
        (status = 404, description = "It is not on the list", body = crate::problem::Body),
    ),
)]
async fn get_suppression(
    call: Scoped<guards::SuppressionRead>,
    State(app): State<App>,
    Id(named): Id<String>,
    known: IfNoneMatch,
) -> Result<Reply<Data<Shown>>, Problem> {
    let (row, state) = existing(&app, &call, &named).await?;
    let tag = ETag::of_version(state.version);
    if known.has(&tag) {
        return Ok(Reply::not_modified(&tag));
    }
    Ok(Reply::ok(call.data(Shown::of(&row, call.at))).tagged(&tag))
}

/// Take an address off the list
///
/// Lifts all causes, hard bounces and complaints included; the log keeps that it happened.
#[utoipa::path(
    delete,
    path = "/suppressions/{public_id}",
    tag = "Suppressions",
    operation_id = "managementDeleteSuppression",
    params(("public_id" = String, Path, description = "Suppression id, or the address", example = "addr_06bqmn3t0d4gq2v8xk1hz7sw")),
    responses(
        (status = 200, description = "Written to again", body = Data<Deleted>),
        (status = 404, description = "It is not on the list", body = crate::problem::Body),
    ),
)]
async fn delete_suppression(
    call: Scoped<guards::SuppressionManage>,
    State(app): State<App>,
    Id(named): Id<String>,
) -> Result<Reply<Data<Deleted>>, Problem> {
    let (row, _) = existing(&app, &call, &named).await?;
    let command = UnsuppressAddress { address: row.id.clone(), email: row.email.unwrap_or_default() };
    app.append(&call, call.submission(command)).await?;
    Ok(Reply::ok(call.data(Deleted::new(row.id))))
}
