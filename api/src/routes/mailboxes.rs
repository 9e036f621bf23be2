//! Mailboxes of the team.

use axum::extract::State;
use domain::api_key::{Kind, Minted};
use domain::id::MailboxId;
use domain::mailbox::{
    ChangeMailbox, CloseMailbox, Mailbox as Fold, OpenMailbox, ResumeMailbox, SendScope, Status, SuspendMailbox,
};
use domain::permission::{MAILBOX_PERMISSIONS, Permissions};
use domain::{StreamId, Versioned};
use projections::mailboxes::{self, Filter, Row};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::mailbox_view::{Mailbox, MailboxCredential, MailboxSendScope, QUOTA_TIERS, mailbox_address, quota};
use crate::auth::secret::mint;
use crate::auth::{Call, Scoped, guards};
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
        .with(door!(get_mailbox))
        .with(door!(update_mailbox))
        .with(door!(delete_mailbox))
        .with(door!(suspend_mailbox))
        .with(door!(resume_mailbox))
        .with(door!(get_own_mailbox))
}

/// A new mailbox and its first credential.
#[derive(Debug, Clone, Serialize, ToSchema)]
struct MailboxCreateResult {
    mailbox: Mailbox,
    /// Null when the team has as many active keys as it may.
    #[schema(required)]
    credential: Option<MailboxCredential>,
    /// Why there is no credential.
    #[schema(required)]
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
            mailbox: Mailbox::of_fold(&id, mailbox),
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
    let fold: Versioned<Fold> = app.log.state(&call.caller.team, &[StreamId::Mailbox(id.clone())]).await?;
    if fold.status == Status::Absent {
        return Err(Problem::not_found());
    }
    let quota_bytes = body.quota_bytes.map(quota).transpose()?;
    // How much it holds, no decision knows: only the read models count it.
    if let Some(quota) = quota_bytes
        && quota < existing(&app, &call, &id).await?.bytes_used
    {
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
        let mailbox = Mailbox::of_fold(&id, &appended.state);
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
    let answered = call.clone().into_call();
    let submission = call.submission(SuspendMailbox { mailbox: id.clone() });
    app.submit(&call, submission, idempotency, move |appended| {
        let mailbox = Mailbox::of_fold(&id, &appended.state);
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
    let answered = call.clone().into_call();
    let submission = call.submission(ResumeMailbox { mailbox: id.clone() });
    app.submit(&call, submission, idempotency, move |appended| {
        let mailbox = Mailbox::of_fold(&id, &appended.state);
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
