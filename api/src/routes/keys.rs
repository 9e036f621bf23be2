//! API keys of the team.
//!
//! Nobody hands out more than they hold: a key's maker must have every permission that a new infrastructure key gets.

use axum::extract::State;
use domain::api_key::{ApiKey, CreateSendingKey, CreateTeamKey, Created, Kind, RevokeKey, RotateKey};
use domain::id::{KeyId, MailboxId};
use domain::permission::{Permissions, Preset, SENDING_PERMISSIONS};
use domain::published::rfc3339;
use domain::{StreamId, Versioned};
use projections::api_keys::{self, Filter, Row, Scope};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::mailbox_view::MailboxSendScope;
use super::mailboxes::key_stream;
use crate::auth::secret::{Fresh, mint};
use crate::auth::{Call, Caller, Scoped, guards};
use crate::envelope::{Data, Deleted, List, Reply};
use crate::etag::{ETag, IfNoneMatch};
use crate::field::{list, present, required_text, text};
use crate::idempotency::Keyed;
use crate::openapi::{IdempotencyHeader, IfNoneMatchHeader, Routes};
use crate::path::Id;
use crate::problem::Problem;
use crate::query::{Limit, Query, flag, page};
use crate::{App, door};

pub(super) fn routes() -> Routes {
    Routes::new()
        .with(door!(list_keys))
        .with(door!(create_key))
        .with(door!(get_key))
        .with(door!(delete_key))
        .with(door!(rotate_key))
}

/// Which surface a key is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum KeyKind {
    Infrastructure,
    Sending,
    Mailbox,
}

impl From<Kind> for KeyKind {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::Infrastructure => Self::Infrastructure,
            Kind::Sending => Self::Sending,
            Kind::Mailbox => Self::Mailbox,
        }
    }
}

impl From<KeyKind> for Kind {
    fn from(kind: KeyKind) -> Self {
        match kind {
            KeyKind::Infrastructure => Self::Infrastructure,
            KeyKind::Sending => Self::Sending,
            KeyKind::Mailbox => Self::Mailbox,
        }
    }
}

/// A key as it is listed: never its secret.
#[derive(Debug, Clone, Serialize, ToSchema)]
struct Key {
    #[schema(example = "smx_06bqmn3t0d4gq2v8xk1hz7sw")]
    id: String,
    kind: KeyKind,
    #[schema(required)]
    name: Option<String>,
    key_prefix: String,
    key_suffix: String,
    permissions: Vec<&'static str>,
    /// The mailbox it is confined to.
    #[schema(required)]
    mailbox_id: Option<String>,
    /// The key it was rotated from.
    #[schema(required)]
    replaces: Option<String>,
    /// `active` or `revoked`.
    status: &'static str,
    created_at: String,
    #[schema(required)]
    revoked_at: Option<String>,
}

impl Key {
    fn of_row(row: &Row) -> Self {
        Self {
            id: row.id.to_string(),
            kind: row.kind.into(),
            name: row.name.clone(),
            key_prefix: row.prefix.clone(),
            key_suffix: row.suffix.clone(),
            permissions: row.permissions.names().collect(),
            mailbox_id: row.mailbox.as_ref().map(ToString::to_string),
            replaces: row.replaces.as_ref().map(ToString::to_string),
            status: if row.revoked_at.is_some() { "revoked" } else { "active" },
            created_at: rfc3339(row.created_at),
            revoked_at: row.revoked_at.map(rfc3339),
        }
    }

    /// Returns the key that was just minted, after the one it succeeds or as one of its own.
    fn fresh(fresh: &Fresh, created: &Created, name: Option<String>, at: i64) -> Self {
        Self {
            id: fresh.minted.key.to_string(),
            kind: created.kind.into(),
            name,
            key_prefix: fresh.minted.prefix.clone(),
            key_suffix: fresh.minted.suffix.clone(),
            permissions: created.permissions.names().collect(),
            mailbox_id: created.mailbox.as_ref().map(ToString::to_string),
            replaces: created.replaces.as_ref().map(ToString::to_string),
            status: "active",
            created_at: rfc3339(at),
            revoked_at: None,
        }
    }
}

/// A new key with its secret, shown once.
#[derive(Debug, Clone, Serialize, ToSchema)]
struct KeyWithSecret {
    #[serde(flatten)]
    key: Key,
    /// Shown exactly once.
    secret: String,
    /// The same secret as client libraries spell it; both work.
    secret_alternate: String,
}

impl KeyWithSecret {
    fn new(key: Key, fresh: &Fresh) -> Self {
        let secret = fresh.secret.expose_str().to_owned();
        Self { key, secret, secret_alternate: fresh.alternate.expose_str().to_owned() }
    }
}

/// Returns the answer that shows a new key's secret.
fn shown_once(call: &Call, fold: &Versioned<ApiKey>, fresh: &Fresh) -> Reply<Data<KeyWithSecret>> {
    let created = fold.created.as_ref().expect("the command that minted the key has created it");
    let key = Key::fresh(fresh, created, fold.name.clone(), call.at);
    let location = format!("/api/v1/keys/{}", fresh.minted.key);
    Reply::created(&location, call.data(KeyWithSecret::new(key, fresh))).tagged(&ETag::of_version(fold.version))
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
    /// Only keys of this kind; mailbox credentials are listed only when asked for.
    #[param(inline)]
    kind: Option<KeyKind>,
    /// Only credentials of this mailbox.
    mailbox_id: Option<String>,
    /// Revoked keys too.
    #[serde(default, deserialize_with = "flag")]
    include_revoked: Option<bool>,
}

/// List keys
///
/// Newest first. Secrets are never listed.
#[utoipa::path(
    get,
    path = "/keys",
    tag = "Keys",
    operation_id = "managementListKeys",
    params(ListQuery),
    responses((status = 200, description = "Keys", body = List<Key>)),
)]
async fn list_keys(
    call: Scoped<guards::KeyRead>,
    State(app): State<App>,
    Query(query): Query<ListQuery>,
) -> Result<Reply<List<Key>>, Problem> {
    let mailbox = query.mailbox_id.map(|id| {
        let refused = |_| Problem::invalid("mailbox_id", "invalid_value", "mailbox_id is not a mailbox's id");
        id.parse::<MailboxId>().map_err(refused)
    });
    let scope = match (mailbox.transpose()?, query.kind) {
        (Some(mailbox), _) => Scope::Mailbox(mailbox),
        (None, Some(KeyKind::Mailbox)) => Scope::All,
        (None, _) => Scope::Team,
    };
    let filter =
        Filter { scope, kind: query.kind.map(Kind::from), include_revoked: query.include_revoked == Some(true) };
    let page = page(query.cursor, query.limit);
    let paged = api_keys::list(&app.views, &call.caller.team, &filter, &page).await?;
    Ok(Reply::ok(call.list(paged.rows.iter().map(Key::of_row).collect(), paged.next_cursor)))
}

/// A key to create.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct CreateKeyBody {
    /// What it is for.
    #[serde(deserialize_with = "required_text::<1, 255, _>")]
    #[schema(min_length = 1, max_length = 255)]
    name: String,
    /// `infrastructure` or `sending`; credentials of mailboxes are created at their mailbox.
    kind: KeyKind,
    /// What it may do; either this or `preset`. A sending key may only send and needs neither.
    #[serde(default, deserialize_with = "list::<_, 1, 100, _>")]
    #[schema(nullable = false, min_items = 1, max_items = 100)]
    permissions: Option<Vec<String>>,
    /// A named set of permissions: `root:full`, `root:readonly`, `root:webhook_admin`, `root:provider_admin` or
    /// `root:billing_admin`.
    #[serde(default, deserialize_with = "text::<1, 64, _>")]
    #[schema(nullable = false, example = "root:readonly")]
    preset: Option<String>,
    /// Which sending accounts a sending key may send through; all by default.
    #[serde(default, deserialize_with = "present")]
    #[schema(nullable = false)]
    send_scope: Option<MailboxSendScope>,
}

impl CreateKeyBody {
    fn read(&self, caller: &Caller) -> Result<(Kind, Permissions), Problem> {
        let named = match (&self.permissions, &self.preset) {
            (Some(_), Some(_)) => {
                return Err(Problem::unacceptable("preset", "ambiguous", "give either permissions or preset"));
            }
            (Some(names), None) => Some(parse_permissions(names)?),
            (None, Some(name)) => {
                let unknown = || Problem::invalid("preset", "invalid_value", "there is no such preset");
                Some(Preset::parse(name).ok_or_else(unknown)?.permissions())
            }
            (None, None) => None,
        };
        match self.kind {
            KeyKind::Mailbox => {
                let message = "credentials of mailboxes are created with POST /mailboxes/{public_id}/keys";
                Err(Problem::unacceptable("kind", "invalid_value", message))
            }
            KeyKind::Sending => {
                let sending = parse_permissions(&SENDING_PERMISSIONS.map(str::to_owned))?;
                if named.is_some_and(|named| named != sending) {
                    let message = "a sending key holds email.send and nothing else";
                    return Err(Problem::unacceptable("permissions", "invalid_value", message));
                }
                Ok((Kind::Sending, sending))
            }
            KeyKind::Infrastructure => {
                let permissions = named.ok_or_else(|| {
                    Problem::unacceptable("permissions", "required", "permissions or a preset are required")
                })?;
                let own = Preset::Full.permissions();
                if let Some(beyond) = permissions.names().find(|name| !own.allow(name)) {
                    let message = format!("{beyond} is not a permission of infrastructure keys");
                    return Err(Problem::unacceptable("permissions", "invalid_value", message));
                }
                covered(caller, &permissions)?;
                Ok((Kind::Infrastructure, permissions))
            }
        }
    }
}

fn parse_permissions(names: &[String]) -> Result<Permissions, Problem> {
    Permissions::parse(names.iter().map(String::as_str))
        .map_err(|e| Problem::invalid("permissions", "invalid_value", e.to_string()))
}

/// Refuses to hand out what the caller does not hold.
fn covered(caller: &Caller, permissions: &Permissions) -> Result<(), Problem> {
    match permissions.names().find(|name| !caller.may(name)) {
        None => Ok(()),
        Some(name) => {
            Err(Problem::forbidden(format!("The credential cannot hand out {name}, which it does not hold.")))
        }
    }
}

/// Create a key
///
/// Mints an infrastructure or sending key; its secret is shown once, in both spellings that work.
#[utoipa::path(
    post,
    path = "/keys",
    tag = "Keys",
    operation_id = "managementCreateKey",
    params(IdempotencyHeader),
    request_body = CreateKeyBody,
    responses(
        (status = 201, description = "Created", body = Data<KeyWithSecret>, headers(("Location" = String))),
        (status = 400, description = "Invalid body", body = crate::problem::Body),
        (status = 409, description = "Limit reached, or key used for another request", body = crate::problem::Body),
        (status = 422, description = "The permissions do not fit", body = crate::problem::Body),
    ),
)]
async fn create_key(
    call: Scoped<guards::KeyCreate>,
    State(app): State<App>,
    Keyed { body, idempotency }: Keyed<CreateKeyBody>,
) -> Result<Reply<Data<KeyWithSecret>>, Problem> {
    let (kind, permissions) = body.read(&call.caller)?;
    let send_scope = body.send_scope.map(MailboxSendScope::read).transpose()?;
    if send_scope.is_some() && kind != Kind::Sending {
        return Err(Problem::unacceptable("send_scope", "invalid_value", "only sending keys have a send scope"));
    }
    let fresh = mint(&app.allot, app.auth.pepper(), kind);
    if let Some(send_scope) = send_scope {
        let command = CreateSendingKey { minted: fresh.minted.clone(), name: body.name, permissions, send_scope };
        let submission = call.submission(command).fresh(key_stream(&fresh.minted));
        let answered = call.clone().into_call();
        let reply = move |appended: &eventlog::Appended<(Versioned<domain::team::Team>, Versioned<ApiKey>)>| {
            shown_once(&answered, &appended.state.1, &fresh)
        };
        return app.submit(&call, submission, idempotency, reply).await;
    }
    let command = CreateTeamKey { minted: fresh.minted.clone(), kind, name: body.name, permissions };
    let submission = call.submission(command).fresh(key_stream(&fresh.minted));
    let answered = call.clone().into_call();
    app.submit(&call, submission, idempotency, move |appended| shown_once(&answered, &appended.state.1, &fresh)).await
}

async fn existing(app: &App, call: &Call, id: &KeyId) -> Result<Row, Problem> {
    let team = &call.caller.team;
    if let Some(row) = api_keys::get(&app.views, team, id).await? {
        return Ok(row);
    }
    let fold: Versioned<ApiKey> = app.log.state(team, &[StreamId::ApiKey(id.clone())]).await?;
    if fold.created.is_none() {
        return Err(Problem::not_found());
    }
    let head = app.log.head(team).await?;
    app.caught_up(team, head.position).await;
    api_keys::get(&app.views, team, id).await?.ok_or_else(Problem::unavailable)
}

/// Get a key
///
/// Any key of the team, credentials of mailboxes and revoked keys included; never its secret.
#[utoipa::path(
    get,
    path = "/keys/{key_id}",
    tag = "Keys",
    operation_id = "managementGetKey",
    params(("key_id" = String, Path, description = "Key id", example = "smx_06bqmn3t0d4gq2v8xk1hz7sw"), IfNoneMatchHeader),
    responses(
        (status = 200, description = "The key", body = Data<Key>, headers(("ETag" = String))),
        (status = 304, description = "Not modified"),
        (status = 404, description = "No such key", body = crate::problem::Body),
    ),
)]
async fn get_key(
    call: Scoped<guards::KeyRead>,
    State(app): State<App>,
    Id(id): Id<KeyId>,
    known: IfNoneMatch,
) -> Result<Reply<Data<Key>>, Problem> {
    let row = existing(&app, &call, &id).await?;
    let tag = ETag::of_version(row.version);
    if known.has(&tag) {
        return Ok(Reply::not_modified(&tag));
    }
    Ok(Reply::ok(call.data(Key::of_row(&row))).tagged(&tag))
}

/// Revoke a key
///
/// It stops working at once and never comes back. Repeating it changes nothing.
#[utoipa::path(
    delete,
    path = "/keys/{key_id}",
    tag = "Keys",
    operation_id = "managementRevokeKey",
    params(("key_id" = String, Path, description = "Key id", example = "smx_06bqmn3t0d4gq2v8xk1hz7sw")),
    responses(
        (status = 200, description = "Revoked", body = Data<Deleted>),
        (status = 404, description = "No such key", body = crate::problem::Body),
    ),
)]
async fn delete_key(
    call: Scoped<guards::KeyRevoke>,
    State(app): State<App>,
    Id(id): Id<KeyId>,
) -> Result<Reply<Data<Deleted>>, Problem> {
    let answered = call.clone().into_call();
    let submission = call.submission(RevokeKey { key: id.clone(), mailbox: None });
    app.submit(&call, submission, None, move |_| Reply::ok(answered.data(Deleted::new(&id)))).await
}

/// How to rotate a key.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct RotateKeyBody {
    /// Whether the old secret stops working in the same step; otherwise it works until it is revoked. At the team's
    /// limit of active keys only `true` is possible.
    #[serde(default, deserialize_with = "present")]
    #[schema(nullable = false, default = false)]
    revoke_old: Option<bool>,
}

/// Rotate a key
///
/// Mints a successor with the same name and permissions; its secret is shown once.
#[utoipa::path(
    post,
    path = "/keys/{key_id}/rotate",
    tag = "Keys",
    operation_id = "managementRotateKey",
    params(("key_id" = String, Path, description = "Key id", example = "smx_06bqmn3t0d4gq2v8xk1hz7sw"), IdempotencyHeader),
    request_body = RotateKeyBody,
    responses(
        (status = 201, description = "The successor", body = Data<KeyWithSecret>, headers(("Location" = String))),
        (status = 404, description = "No such key", body = crate::problem::Body),
        (status = 409, description = "Revoked, limit reached, or key used for another request", body = crate::problem::Body),
    ),
)]
async fn rotate_key(
    call: Scoped<guards::KeyRotate>,
    State(app): State<App>,
    Id(id): Id<KeyId>,
    Keyed { body, idempotency }: Keyed<RotateKeyBody>,
) -> Result<Reply<Data<KeyWithSecret>>, Problem> {
    let old: Versioned<ApiKey> = app.log.state(&call.caller.team, &[StreamId::ApiKey(id.clone())]).await?;
    let created = old.created.as_ref().ok_or_else(Problem::not_found)?;
    // The successor's secret goes to the caller, so rotating a key is handing out what it holds.
    match created.kind {
        Kind::Infrastructure => covered(&call.caller, &created.permissions)?,
        Kind::Sending => {}
        Kind::Mailbox if call.caller.may("mailbox.admin.manage") => {}
        Kind::Mailbox => {
            return Err(Problem::forbidden("Rotating a mailbox's credential needs mailbox.admin.manage."));
        }
    }
    let fresh = mint(&app.allot, app.auth.pepper(), created.kind);
    let command = RotateKey { old: id, minted: fresh.minted.clone(), revoke_old: body.revoke_old.unwrap_or(false) };
    let submission = call.submission(command).fresh(key_stream(&fresh.minted));
    let answered = call.clone().into_call();
    app.submit(&call, submission, idempotency, move |appended| shown_once(&answered, &appended.state.2, &fresh)).await
}
