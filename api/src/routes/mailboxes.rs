//! Mailboxes of the team.

use axum::extract::State;
use domain::api_key::{Kind, Minted};
use domain::id::MailboxId;
use domain::mailbox::{
    ChangeMailbox, CloseMailbox, Mailbox as Fold, OpenMailbox, ResumeMailbox, SendScope, Status, SuspendMailbox,
};
use domain::permission::{MAILBOX_PERMISSIONS, Permissions};
use domain::published::rfc3339;
use domain::sending_domain::Mode;
use domain::team::Team;
use domain::{StreamId, Versioned};
use eventlog::DirectoryKey;
use mail::address::Address;
use projections::mailboxes::{self, Filter, Row};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::auth::secret::{Fresh, mint};
use crate::auth::{Call, Scoped, guards};
use crate::config::MailServer;
use crate::envelope::{Data, Deleted, List, Reply};
use crate::etag::{ETag, IfMatch, IfNoneMatch};
use crate::field::{present, text, text_or_null};
use crate::idempotency::{Keyed, KeyedOnly};
use crate::openapi::{IdempotencyHeader, IfMatchHeader, IfNoneMatchHeader, MailboxSelection, Routes};
use crate::path::Id;
use crate::problem::Problem;
use crate::query::{Limit, Query, flag, page};
use crate::{App, Json, door};

pub(super) fn routes() -> Routes {
    Routes::new()
        .with(door!(list_mailboxes))
        .with(door!(create_mailbox))
        .with(door!(check_availability))
        .with(door!(get_mailbox))
        .with(door!(update_mailbox))
        .with(door!(delete_mailbox))
        .with(door!(suspend_mailbox))
        .with(door!(resume_mailbox))
        .with(door!(get_own_mailbox))
}

/// The storage tiers, bytes.
const QUOTA_TIERS: [i64; 3] = [1 << 30, 5 << 30, 50 << 30];
/// The most ids in a send scope.
const SCOPE_IDS_MAX: usize = 1_000;
const SHORT_CHARS: std::ops::RangeInclusive<usize> = 5..=254;

/// A mailbox.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(super) struct Mailbox {
    #[schema(example = "mbx_06bqmn3t0d4gq2v8xk1hz7sw")]
    id: String,
    /// The address, lower case.
    email: String,
    display_name: Option<String>,
    quota_bytes: Option<i64>,
    send_scope: Option<MailboxSendScope>,
    /// `active`, `suspended` or `deleted`.
    #[schema(example = "active")]
    status: &'static str,
    created_at: String,
}

/// Which sending accounts a mailbox may send through.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct MailboxSendScope {
    #[serde(rename = "type")]
    kind: ScopeType,
    /// Only for `providers`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    provider_public_ids: Option<Vec<String>>,
    /// Only for `group`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    group_public_ids: Option<Vec<String>>,
}

/// How a send scope is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum ScopeType {
    All,
    Providers,
    Group,
}

impl From<SendScope> for MailboxSendScope {
    fn from(scope: SendScope) -> Self {
        let (kind, provider_public_ids, group_public_ids) = match scope {
            SendScope::All => (ScopeType::All, None, None),
            SendScope::Providers { provider_public_ids } => (ScopeType::Providers, Some(provider_public_ids), None),
            SendScope::Group { group_public_ids } => (ScopeType::Group, None, Some(group_public_ids)),
        };
        Self { kind, provider_public_ids, group_public_ids }
    }
}

impl MailboxSendScope {
    fn read(self) -> Result<SendScope, Problem> {
        let ids = |field: &str, ids: Option<Vec<String>>| {
            let field = format!("send_scope.{field}");
            let ids = ids.filter(|ids| !ids.is_empty()).ok_or_else(|| {
                Problem::unacceptable(field.clone(), "required", format!("{field} must name at least one"))
            })?;
            let sound = ids.len() <= SCOPE_IDS_MAX && ids.iter().all(|id| (1..=128).contains(&id.chars().count()));
            if sound {
                Ok(ids)
            } else {
                let message = format!("{field} must have at most {SCOPE_IDS_MAX} ids of 1 to 128 characters");
                Err(Problem::invalid(field, "invalid_length", message))
            }
        };
        Ok(match self.kind {
            ScopeType::All => SendScope::All,
            ScopeType::Providers => {
                SendScope::Providers { provider_public_ids: ids("provider_public_ids", self.provider_public_ids)? }
            }
            ScopeType::Group => SendScope::Group { group_public_ids: ids("group_public_ids", self.group_public_ids)? },
        })
    }
}

/// Returns the name of a status on the wire.
fn status_name(status: Status) -> &'static str {
    match status {
        Status::Absent | Status::Closed => "deleted",
        Status::Active => "active",
        Status::Suspended => "suspended",
    }
}

impl Mailbox {
    fn of_row(row: &Row) -> Self {
        Self {
            id: row.id.to_string(),
            email: row.email.clone().unwrap_or_default(),
            display_name: row.display_name.clone(),
            quota_bytes: Some(row.quota_bytes),
            send_scope: Some(row.send_scope.clone().into()),
            status: status_name(row.status),
            created_at: rfc3339(row.created_at),
        }
    }

    fn of_fold(id: &MailboxId, created_at: i64, fold: &Fold) -> Self {
        Self {
            id: id.to_string(),
            email: fold.email.clone().unwrap_or_default(),
            display_name: fold.display_name.clone(),
            quota_bytes: Some(fold.quota_bytes),
            send_scope: Some(fold.send_scope.clone().into()),
            status: status_name(fold.status),
            created_at: rfc3339(created_at),
        }
    }
}

/// A mailbox credential, shown once.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(super) struct MailboxCredential {
    #[schema(example = "smx_06bqmn3t0d4gq2v8xk1hz7sw")]
    public_id: String,
    /// Bearer token for the API and password for IMAP and SMTP submission. Shown exactly once.
    secret: String,
    key_prefix: String,
    key_suffix: String,
    /// Mail server.
    server: String,
    imap_port: u16,
    smtp_port: u16,
    /// The mailbox's address.
    username: String,
}

impl MailboxCredential {
    pub(super) fn new(fresh: &Fresh, server: &MailServer, email: &str) -> Self {
        Self {
            public_id: fresh.minted.key.to_string(),
            secret: fresh.secret.expose_str().to_owned(),
            key_prefix: fresh.minted.prefix.clone(),
            key_suffix: fresh.minted.suffix.clone(),
            server: server.host.clone(),
            imap_port: server.imap_port,
            smtp_port: server.smtp_port,
            username: email.to_owned(),
        }
    }
}

/// A new mailbox and its first credential.
#[derive(Debug, Clone, Serialize, ToSchema)]
struct MailboxCreateResult {
    mailbox: Mailbox,
    /// Null when the team has as many active keys as it may.
    credential: Option<MailboxCredential>,
    /// Why there is no credential.
    warning: Option<&'static str>,
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
    /// Deleted mailboxes too.
    #[serde(default, deserialize_with = "flag")]
    include_deleted: Option<bool>,
}

/// List mailboxes
///
/// Newest first.
#[utoipa::path(
    get,
    path = "/mailboxes",
    tag = "Mailboxes",
    operation_id = "managementListMailboxes",
    params(ListQuery),
    responses((status = 200, description = "Mailboxes", body = List<Mailbox>)),
)]
async fn list_mailboxes(
    call: Scoped<guards::MailboxAdminRead>,
    State(app): State<App>,
    Query(query): Query<ListQuery>,
) -> Result<Reply<List<Mailbox>>, Problem> {
    let filter = Filter { include_closed: query.include_deleted == Some(true), search: None };
    let page = page(query.cursor, query.limit);
    let paged = mailboxes::list(&app.views, &call.caller.team, &filter, &page).await?;
    Ok(Reply::ok(call.list(paged.rows.iter().map(Mailbox::of_row).collect(), paged.next_cursor)))
}

/// A mailbox to create.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct CreateMailboxBody {
    /// The address; its domain must be a verified receiving domain of the team.
    #[schema(min_length = 5, max_length = 254, example = "agent@example.com")]
    email: String,
    /// The name shown beside the address.
    #[serde(default, deserialize_with = "text::<1, 254, _>")]
    #[schema(nullable = false, min_length = 1, max_length = 254)]
    display_name: Option<String>,
    /// 1, 5 or 50 GiB; 1 GiB by default.
    #[serde(default, deserialize_with = "present")]
    #[schema(nullable = false, minimum = 1)]
    quota_bytes: Option<i64>,
    #[serde(default, deserialize_with = "present")]
    #[schema(nullable = false)]
    send_scope: Option<MailboxSendScope>,
}

fn quota(bytes: i64) -> Result<i64, Problem> {
    if QUOTA_TIERS.contains(&bytes) {
        return Ok(bytes);
    }
    let message = format!("quota_bytes must be one of {}, {} and {}", QUOTA_TIERS[0], QUOTA_TIERS[1], QUOTA_TIERS[2]);
    Err(if bytes < 1 {
        Problem::invalid("quota_bytes", "invalid_value", message)
    } else {
        Problem::unacceptable("quota_bytes", "invalid_value", message)
    })
}

/// Returns the address if a mailbox can have it: a host name behind the `@` and an unquoted ASCII local part.
fn mailbox_address(email: &str) -> Result<Address, String> {
    if !SHORT_CHARS.contains(&email.chars().count()) {
        return Err("the address must have 5 to 254 characters".to_owned());
    }
    let address = Address::parse(email).map_err(|e| e.to_string())?;
    if address.is_literal() || address.local().starts_with('"') || !address.local().is_ascii() {
        return Err("a mailbox's address has a plain local part and a domain name".to_owned());
    }
    Ok(address)
}

/// Create a mailbox
///
/// Opens a mailbox on a verified receiving domain of the team and mints its first credential, whose secret is shown once.
#[utoipa::path(
    post,
    path = "/mailboxes",
    tag = "Mailboxes",
    operation_id = "managementCreateMailbox",
    params(IdempotencyHeader),
    request_body = CreateMailboxBody,
    responses(
        (status = 201, description = "Created", body = Data<MailboxCreateResult>, headers(("Location" = String, description = "Path of the mailbox"))),
        (status = 400, description = "Invalid body", body = crate::problem::Body),
        (status = 409, description = "Address in use, limit reached, or key used for another request", body = crate::problem::Body),
        (status = 422, description = "The domain does not receive for this team", body = crate::problem::Body),
    ),
)]
async fn create_mailbox(
    call: Scoped<guards::MailboxAdminCreate>,
    State(app): State<App>,
    Keyed { body, idempotency }: Keyed<CreateMailboxBody>,
) -> Result<Reply<Data<MailboxCreateResult>>, Problem> {
    let email = mailbox_address(&body.email).map_err(|why| Problem::invalid("email", "invalid_email", why))?;
    let fresh = mint(&app.allot, app.auth.pepper(), Kind::Mailbox);
    let id = MailboxId::new(call.at, app.allot.random());
    let command = OpenMailbox {
        mailbox: id.clone(),
        email,
        display_name: body.display_name,
        quota_bytes: body.quota_bytes.map_or(Ok(QUOTA_TIERS[0]), quota)?,
        send_scope: body.send_scope.map_or(Ok(SendScope::All), MailboxSendScope::read)?,
        credential: Some((fresh.minted.clone(), mailbox_permissions()?)),
    };
    let submission = call.submission(command).fresh(StreamId::Mailbox(id.clone())).fresh(key_stream(&fresh.minted));
    let (answered, server) = (call.clone().into_call(), app.config.mail_server.clone());
    app.submit(&call, submission, idempotency, move |appended| {
        let mailbox = &appended.state.1;
        let minted = mailbox.keys.contains_key(&fresh.minted.key);
        let email = mailbox.email.clone().unwrap_or_default();
        let result = MailboxCreateResult {
            mailbox: Mailbox::of_fold(&id, answered.at, mailbox),
            credential: minted.then(|| MailboxCredential::new(&fresh, &server, &email)),
            warning: (!minted).then_some(
                "The team's limit of active keys is reached, so the mailbox has no credential yet. \
                 Revoke a key, then create one with POST /mailboxes/{public_id}/keys.",
            ),
        };
        let tag = ETag::of_version(mailbox.version);
        Reply::created(&format!("/api/v1/mailboxes/{id}"), answered.data(result)).tagged(&tag)
    })
    .await
}

/// Returns what a mailbox credential may do.
pub(super) fn mailbox_permissions() -> Result<Permissions, Problem> {
    Permissions::parse(MAILBOX_PERMISSIONS).map_err(|error| {
        tracing::error!(error = &error as &dyn std::error::Error, "the catalogue lacks a mailbox permission");
        Problem::internal()
    })
}

/// Returns the stream of a minted key.
pub(super) fn key_stream(minted: &Minted) -> StreamId {
    StreamId::ApiKey(minted.key.clone())
}

/// Parameters of the availability check.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct AvailabilityQuery {
    /// The address.
    #[param(example = "agent@example.com")]
    email: String,
}

/// Whether a mailbox could be created.
#[derive(Debug, Serialize, ToSchema)]
struct MailboxAvailabilityResult {
    available: bool,
    email: String,
    reason: MailboxAvailabilityReason,
}

/// Why an address is or is not available.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum MailboxAvailabilityReason {
    Available,
    InvalidEmail,
    DomainNotAvailable,
    Taken,
}

/// Check an address
///
/// Says whether a mailbox with this address could be created now.
#[utoipa::path(
    get,
    path = "/mailboxes/availability",
    tag = "Mailboxes",
    operation_id = "managementCheckMailboxAvailability",
    params(AvailabilityQuery),
    responses((status = 200, description = "Whether it is available", body = Data<MailboxAvailabilityResult>)),
)]
async fn check_availability(
    call: Scoped<guards::MailboxAdminCreate>,
    State(app): State<App>,
    Query(query): Query<AvailabilityQuery>,
) -> Result<Reply<Data<MailboxAvailabilityResult>>, Problem> {
    use MailboxAvailabilityReason as Reason;
    let (email, reason) = match mailbox_address(&query.email) {
        Err(_) => (query.email.chars().take(254).collect(), Reason::InvalidEmail),
        Ok(address) => {
            let team: Versioned<Team> = app.log.state(&call.caller.team, &[StreamId::Team]).await?;
            let receives = |domain: &domain::team::OwnedDomain| domain.verified && domain.mode == Mode::SendReceive;
            let email = address.canonical();
            let reason = if !team.domains.get(address.domain()).is_some_and(receives) {
                Reason::DomainNotAvailable
            } else if app.log.find(&DirectoryKey::Address(email.clone())).await?.is_some() {
                Reason::Taken
            } else {
                Reason::Available
            };
            (email, reason)
        }
    };
    let available = reason == Reason::Available;
    Ok(Reply::ok(call.data(MailboxAvailabilityResult { available, email, reason })))
}

/// Returns the row of a mailbox of the caller's team.
///
/// A mailbox that the read models do not know yet is waited for; one that never was is not found.
pub(super) async fn existing(app: &App, call: &Call, id: &MailboxId) -> Result<Row, Problem> {
    let team = &call.caller.team;
    if let Some(row) = mailboxes::get(&app.views, team, id).await? {
        return Ok(row);
    }
    let fold: Versioned<Fold> = app.log.state(team, &[StreamId::Mailbox(id.clone())]).await?;
    if fold.status == Status::Absent {
        return Err(Problem::not_found());
    }
    let head = app.log.head(team).await?;
    app.caught_up(team, head.position).await;
    mailboxes::get(&app.views, team, id).await?.ok_or_else(Problem::unavailable)
}

/// Get a mailbox
///
/// Deleted mailboxes are kept with the status `deleted`.
#[utoipa::path(
    get,
    path = "/mailboxes/{public_id}",
    tag = "Mailboxes",
    operation_id = "managementGetMailbox",
    params(("public_id" = String, Path, description = "Mailbox id", example = "mbx_06bqmn3t0d4gq2v8xk1hz7sw"), IfNoneMatchHeader),
    responses(
        (status = 200, description = "The mailbox", body = Data<Mailbox>, headers(("ETag" = String))),
        (status = 304, description = "Not modified"),
        (status = 404, description = "No such mailbox", body = crate::problem::Body),
    ),
)]
async fn get_mailbox(
    call: Scoped<guards::MailboxAdminRead>,
    State(app): State<App>,
    Id(id): Id<MailboxId>,
    known: IfNoneMatch,
) -> Result<Reply<Data<Mailbox>>, Problem> {
    let row = existing(&app, &call, &id).await?;
    let tag = ETag::of_version(row.version);
    if known.has(&tag) {
        return Ok(Reply::not_modified(&tag));
    }
    Ok(Reply::ok(call.data(Mailbox::of_row(&row))).tagged(&tag))
}

/// What to change of a mailbox; what is absent stays.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct UpdateMailboxBody {
    /// Null clears it.
    #[serde(default, deserialize_with = "text_or_null::<1, 254, _>")]
    #[schema(value_type = Option<String>, min_length = 1, max_length = 254)]
    display_name: Option<Option<String>>,
    /// 1, 5 or 50 GiB, and not less than what is used.
    #[serde(default, deserialize_with = "present")]
    #[schema(nullable = false, minimum = 1)]
    quota_bytes: Option<i64>,
    #[serde(default, deserialize_with = "present")]
    #[schema(nullable = false)]
    send_scope: Option<MailboxSendScope>,
}

/// Update a mailbox
///
/// Changes name, quota and send scope together.
#[utoipa::path(
    patch,
    path = "/mailboxes/{public_id}",
    tag = "Mailboxes",
    operation_id = "managementUpdateMailbox",
    params(("public_id" = String, Path, description = "Mailbox id", example = "mbx_06bqmn3t0d4gq2v8xk1hz7sw"), IfMatchHeader),
    request_body = UpdateMailboxBody,
    responses(
        (status = 200, description = "The mailbox", body = Data<Mailbox>, headers(("ETag" = String))),
        (status = 400, description = "Invalid body", body = crate::problem::Body),
        (status = 404, description = "No such mailbox", body = crate::problem::Body),
        (status = 409, description = "It has changed since it was read", body = crate::problem::Body),
        (status = 422, description = "No such tier, or less than is used", body = crate::problem::Body),
    ),
)]
async fn update_mailbox(
    call: Scoped<guards::MailboxAdminManage>,
    State(app): State<App>,
    Id(id): Id<MailboxId>,
    expected: IfMatch,
    Json(body): Json<UpdateMailboxBody>,
) -> Result<Reply<Data<Mailbox>>, Problem> {
    let row = existing(&app, &call, &id).await?;
    let fold: Versioned<Fold> = app.log.state(&call.caller.team, &[StreamId::Mailbox(id.clone())]).await?;
    let quota_bytes = body.quota_bytes.map(quota).transpose()?;
    if quota_bytes.is_some_and(|quota| quota < row.bytes_used) {
        let message = "quota_bytes must not be less than what the mailbox holds";
        return Err(Problem::unacceptable("quota_bytes", "below_usage", message));
    }
    let command = ChangeMailbox {
        mailbox: id.clone(),
        display_name: body.display_name,
        quota_bytes,
        send_scope: body.send_scope.map(MailboxSendScope::read).transpose()?,
        if_version: expected.version(fold.version),
    };
    let answered = call.clone().into_call();
    app.submit(&call, call.submission(command), None, move |appended| {
        let mailbox = Mailbox::of_fold(&id, row.created_at, &appended.state);
        Reply::ok(answered.data(mailbox)).tagged(&ETag::of_version(appended.state.version))
    })
    .await
}

/// Delete a mailbox
///
/// Closes it for good and revokes its credentials. Repeating it changes nothing.
#[utoipa::path(
    delete,
    path = "/mailboxes/{public_id}",
    tag = "Mailboxes",
    operation_id = "managementDeleteMailbox",
    params(("public_id" = String, Path, description = "Mailbox id", example = "mbx_06bqmn3t0d4gq2v8xk1hz7sw")),
    responses(
        (status = 200, description = "Deleted", body = Data<Deleted>),
        (status = 404, description = "No such mailbox", body = crate::problem::Body),
    ),
)]
async fn delete_mailbox(
    call: Scoped<guards::MailboxAdminDelete>,
    State(app): State<App>,
    Id(id): Id<MailboxId>,
) -> Result<Reply<Data<Deleted>>, Problem> {
    let answered = call.clone().into_call();
    let submission = call.submission(CloseMailbox { mailbox: id.clone() });
    app.submit(&call, submission, None, move |_| Reply::ok(answered.data(Deleted::new(&id)))).await
}

/// Suspend a mailbox
///
/// It receives nothing and its credentials stop working; its data stays. Repeating it changes nothing.
#[utoipa::path(
    post,
    path = "/mailboxes/{public_id}/suspend",
    tag = "Mailboxes",
    operation_id = "managementSuspendMailbox",
    params(("public_id" = String, Path, description = "Mailbox id", example = "mbx_06bqmn3t0d4gq2v8xk1hz7sw"), IdempotencyHeader),
    responses(
        (status = 200, description = "The mailbox", body = Data<Mailbox>),
        (status = 404, description = "No such mailbox", body = crate::problem::Body),
        (status = 409, description = "The mailbox is deleted", body = crate::problem::Body),
    ),
)]
async fn suspend_mailbox(
    call: Scoped<guards::MailboxAdminManage>,
    State(app): State<App>,
    Id(id): Id<MailboxId>,
    KeyedOnly(idempotency): KeyedOnly,
) -> Result<Reply<Data<Mailbox>>, Problem> {
    let row = existing(&app, &call, &id).await?;
    let answered = call.clone().into_call();
    let submission = call.submission(SuspendMailbox { mailbox: id.clone() });
    app.submit(&call, submission, idempotency, move |appended| {
        let mailbox = Mailbox::of_fold(&id, row.created_at, &appended.state);
        Reply::ok(answered.data(mailbox)).tagged(&ETag::of_version(appended.state.version))
    })
    .await
}

/// Resume a mailbox
///
/// It receives again and its credentials work again. Repeating it changes nothing.
#[utoipa::path(
    post,
    path = "/mailboxes/{public_id}/resume",
    tag = "Mailboxes",
    operation_id = "managementResumeMailbox",
    params(("public_id" = String, Path, description = "Mailbox id", example = "mbx_06bqmn3t0d4gq2v8xk1hz7sw"), IdempotencyHeader),
    responses(
        (status = 200, description = "The mailbox", body = Data<Mailbox>),
        (status = 404, description = "No such mailbox", body = crate::problem::Body),
        (status = 409, description = "The mailbox is deleted", body = crate::problem::Body),
    ),
)]
async fn resume_mailbox(
    call: Scoped<guards::MailboxAdminManage>,
    State(app): State<App>,
    Id(id): Id<MailboxId>,
    KeyedOnly(idempotency): KeyedOnly,
) -> Result<Reply<Data<Mailbox>>, Problem> {
    let row = existing(&app, &call, &id).await?;
    let answered = call.clone().into_call();
    let submission = call.submission(ResumeMailbox { mailbox: id.clone() });
    app.submit(&call, submission, idempotency, move |appended| {
        let mailbox = Mailbox::of_fold(&id, row.created_at, &appended.state);
        Reply::ok(answered.data(mailbox)).tagged(&ETag::of_version(appended.state.version))
    })
    .await
}

/// The mailbox of a credential, with what it holds.
#[derive(Debug, Clone, Serialize, ToSchema)]
struct MailboxMe {
    #[serde(flatten)]
    mailbox: Mailbox,
    /// How many bytes of mail it holds.
    quota_used_bytes: i64,
}

/// Get the calling mailbox
///
/// The mailbox of the credential, with its storage.
#[utoipa::path(
    get,
    path = "/mailbox/me",
    tag = "Mailbox API",
    operation_id = "mailboxGetMe",
    params(IfNoneMatchHeader, MailboxSelection),
    responses(
        (status = 200, description = "The mailbox", body = Data<MailboxMe>, headers(("ETag" = String))),
        (status = 304, description = "Not modified"),
        (status = 404, description = "No such mailbox", body = crate::problem::Body),
    ),
)]
async fn get_own_mailbox(
    call: Scoped<guards::AnyMailboxKey>,
    State(app): State<App>,
    known: IfNoneMatch,
) -> Result<Reply<Data<MailboxMe>>, Problem> {
    let row = existing(&app, &call, call.mailbox()?).await?;
    let me = MailboxMe { mailbox: Mailbox::of_row(&row), quota_used_bytes: row.bytes_used };
    // Storage changes without the mailbox's own version, so the tag covers what is shown.
    let tag = ETag::of_json(&me);
    if known.has(&tag) {
        return Ok(Reply::not_modified(&tag));
    }
    Ok(Reply::ok(call.data(me)).tagged(&tag))
}
