//! Sending accounts (providers): how a team's mail leaves.

use axum::extract::State;
use domain::id::{ProviderId, SecretId};
use domain::provider::credentials::{Credentials, PURPOSE};
use domain::provider::{
    By, ChangeProvider, CreateProvider, DeleteProvider, Provider, Quotas, Security, Settings, Status, SwitchProvider,
    Transport,
};
use domain::{StreamId, Versioned};
use eventlog::{Idempotency, SecretText};
use projections::providers::{self, Filter, Health};
use serde::Deserialize;
use utoipa::{IntoParams, ToSchema};

use super::provider_body::{Beside, ProviderBody, ProviderItem, ProviderListItem, ProviderType, host};
use crate::auth::{Call, Scoped, guards};
use crate::envelope::{Data, Deleted, List, Reply};
use crate::etag::{ETag, IfMatch, IfNoneMatch};
use crate::idempotency::{Keyed, KeyedOnly};
use crate::openapi::{IdempotencyHeader, IfMatchHeader, IfNoneMatchHeader, Routes};
use crate::path::Id;
use crate::problem::Problem;
use crate::query::{Limit, Query, page};
use crate::{App, Json, door};

pub(super) fn routes() -> Routes {
    Routes::new()
        .with(door!(list_providers))
        .with(door!(create_provider))
        .with(door!(get_provider))
        .with(door!(update_provider))
        .with(door!(delete_provider))
        .with(door!(activate_provider))
        .with(door!(deactivate_provider))
}

/// The states accounts are listed by.
#[derive(Debug, Clone, Copy, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum StatusName {
    Active,
    Inactive,
    Error,
    Pending,
}

/// The types accounts are listed by.
#[derive(Debug, Clone, Copy, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum TypeName {
    Smtp,
    GmailApi,
    OutlookApi,
    AmazonSes,
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
    /// Only accounts in this state.
    #[param(inline)]
    status: Option<StatusName>,
    /// Only accounts of this type.
    #[serde(rename = "type")]
    #[param(inline)]
    kind: Option<TypeName>,
}

/// List sending accounts
///
/// Newest first. Passwords are never listed.
#[utoipa::path(
    get,
    path = "/providers",
    tag = "Sending accounts",
    operation_id = "managementListProviders",
    params(ListQuery),
    responses((status = 200, description = "Sending accounts", body = List<ProviderListItem>)),
)]
async fn list_providers(
    call: Scoped<guards::ProviderRead>,
    State(app): State<App>,
    Query(query): Query<ListQuery>,
) -> Result<Reply<List<ProviderListItem>>, Problem> {
    let health = match query.status {
        None => None,
        Some(StatusName::Active) => Some(Health::Active),
        Some(StatusName::Inactive) => Some(Health::Inactive),
        Some(StatusName::Error) => Some(Health::Broken),
        // No account waits for anything here.
        Some(StatusName::Pending) => return Ok(Reply::ok(call.list(vec![], None))),
    };
    let kinds = match query.kind {
        None => vec![],
        Some(TypeName::Smtp) => vec!["custom_smtp", "direct_mx", "sandbox"],
        Some(TypeName::AmazonSes) => vec!["ses"],
        Some(TypeName::GmailApi | TypeName::OutlookApi) => return Ok(Reply::ok(call.list(vec![], None))),
    };
    let page = page(query.cursor, query.limit);
    let paged = providers::list(&app.views, &call.caller.team, &Filter { health, kinds }, &page).await?;
    let items = paged.rows.iter().map(|row| {
        let url = app.notifications.url(&call.caller.team, &row.id);
        ProviderListItem::new(row.id.as_str(), &row.provider, &Beside::of(row).reached_at(url))
    });
    Ok(Reply::ok(call.list(items.collect(), paged.next_cursor)))
}

fn sealed(app: &App, username: &str, password: &str) -> Result<(SecretId, SecretText), Problem> {
    let credentials = Credentials { username: username.to_owned(), password: password.to_owned() };
    let text = serde_json::to_vec(&credentials).map_err(|_| Problem::internal())?;
    Ok((SecretId::new(app.allot.now(), app.allot.random()), SecretText::new(text)))
}

/// Create a sending account
///
/// A submission server of the team's own, its account at Amazon SES, or, where the installation allows it, the recipients' own
/// servers. Secrets are kept sealed and never shown.
#[utoipa::path(
    post,
    path = "/providers",
    tag = "Sending accounts",
    operation_id = "managementCreateProvider",
    params(IdempotencyHeader),
    request_body = ProviderBody,
    responses(
        (status = 201, description = "Created", body = Data<ProviderItem>, headers(("Location" = String))),
        (status = 400, description = "Invalid body", body = crate::problem::Body),
        (status = 409, description = "Limit reached, or key used for another request", body = crate::problem::Body),
        (status = 422, description = "A field is not acceptable", body = crate::problem::Body),
    ),
)]
async fn create_provider(
    call: Scoped<guards::ProviderCreate>,
    State(app): State<App>,
    Keyed { body, idempotency }: Keyed<ProviderBody>,
) -> Result<Reply<Data<ProviderItem>>, Problem> {
    let required = |field: &str| Problem::invalid(field, "required", format!("{field} is required"));
    if body.name.is_none() {
        return Err(required("name"));
    }
    let kind = body.kind.unwrap_or_default();
    body.fits(kind)?;
    if body.topic()?.is_some() {
        let message = "a topic is taken when its subscription is confirmed, or named in a later change";
        return Err(Problem::unacceptable("ses_topic_arn", "not_applicable", message));
    }
    let transport = match kind {
        ProviderType::Smtp => Transport::CustomSmtp {
            host: host(body.smtp_host.as_deref().ok_or_else(|| required("smtp_host"))?, &app.config.smtp_hosts)?,
            port: port(body.smtp_port.ok_or_else(|| required("smtp_port"))?)?,
            security: body.smtp_protocol.map(Security::from).ok_or_else(|| required("smtp_protocol"))?,
        },
        ProviderType::AmazonSes => body.ses(None, None)?,
        ProviderType::DirectMx if app.config.allow_direct => Transport::DirectMx,
        ProviderType::DirectMx => {
            let message = "this installation lets its operator alone make accounts of this type";
            return Err(Problem::unacceptable("type", "not_allowed", message));
        }
    };
    let fields = kind.login_fields();
    let credentials = match (body.login(), body.password()) {
        (Some(username), Some(password)) => Some(sealed(&app, username, password)?),
        (None, None) if kind != ProviderType::AmazonSes => None,
        (None, _) => return Err(required(fields.username)),
        (Some(_), None) => return Err(required(fields.password)),
    };
    let quotas = body.quotas.unwrap_or_default().read(Quotas::default())?;
    let id = ProviderId::new(call.at, app.allot.random());
    let command = CreateProvider {
        provider: id.clone(),
        settings: Settings { transport, percentage: body.share(None)?, quotas },
        identity: body.identity(domain::provider::Identity::default())?,
        managed: false,
        secret: credentials.as_ref().map(|(secret, _)| secret.clone()),
    };
    let mut submission = call.submission(command).fresh(StreamId::Provider(id.clone()));
    if let Some((secret, text)) = credentials {
        submission = submission.with_secret(secret, PURPOSE, text);
    }
    let answered = call.clone().into_call();
    let url = app.notifications.url(&call.caller.team, &id);
    app.submit(&call, submission, idempotency, move |appended| {
        let fold = &appended.state.1;
        let beside = Beside { created_at: answered.at, updated_at: answered.at, ..Beside::default() };
        let beside = beside.reached_at(url.clone());
        let location = format!("/api/v1/providers/{id}");
        Reply::created(&location, answered.data(ProviderItem::new(id.as_str(), fold, &beside)))
            .tagged(&ETag::of_version(fold.version))
    })
    .await
}

fn port(port: u16) -> Result<u16, Problem> {
    if port == 0 { Err(Problem::invalid("smtp_port", "invalid_value", "smtp_port must not be 0")) } else { Ok(port) }
}

/// Returns an account of the caller's team and what is known beside it.
pub(super) async fn existing(
    app: &App,
    call: &Call,
    id: &ProviderId,
) -> Result<(Versioned<Provider>, Beside), Problem> {
    let team = &call.caller.team;
    let fold: Versioned<Provider> = app.log.state(team, &[StreamId::Provider(id.clone())]).await?;
    if matches!(fold.status, Status::Absent | Status::Deleted) {
        return Err(Problem::not_found());
    }
    let mut row = providers::get(&app.views, team, id).await?;
    if row.is_none() {
        let head = app.log.head(team).await?;
        app.caught_up(team, head.position).await;
        row = providers::get(&app.views, team, id).await?;
    }
    let beside = Beside::of(&row.ok_or_else(Problem::unavailable)?);
    Ok((fold, beside.reached_at(app.notifications.url(team, id))))
}

/// Get a sending account
#[utoipa::path(
    get,
    path = "/providers/{public_id}",
    tag = "Sending accounts",
    operation_id = "managementGetProvider",
    params(("public_id" = String, Path, description = "Sending account id", example = "dprov_06bqmn3t0d4gq2v8xk1hz7sw"), IfNoneMatchHeader),
    responses(
        (status = 200, description = "The sending account", body = Data<ProviderItem>, headers(("ETag" = String))),
        (status = 304, description = "Not modified"),
        (status = 404, description = "No such sending account", body = crate::problem::Body),
    ),
)]
async fn get_provider(
    call: Scoped<guards::ProviderRead>,
    State(app): State<App>,
    Id(id): Id<ProviderId>,
    known: IfNoneMatch,
) -> Result<Reply<Data<ProviderItem>>, Problem> {
    let (fold, beside) = existing(&app, &call, &id).await?;
    let tag = ETag::of_version(fold.version);
    if known.has(&tag) {
        return Ok(Reply::not_modified(&tag));
    }
    Ok(Reply::ok(call.data(ProviderItem::new(id.as_str(), &fold, &beside))).tagged(&tag))
}

/// Returns the way mail leaves with what a change says about it.
fn moved(app: &App, body: &ProviderBody, now: &Transport) -> Result<Transport, Problem> {
    let (old_host, old_port, security) = match now {
        Transport::CustomSmtp { host, port, security } => (host, port, security),
        Transport::Ses { region, configuration_set } => return body.ses(Some(region), configuration_set.as_deref()),
        Transport::DirectMx | Transport::Sandbox => {
            if body.smtp_host.is_some() || body.smtp_port.is_some() || body.smtp_protocol.is_some() {
                let message = "the account has no server of its own";
                return Err(Problem::unacceptable("smtp_host", "not_changeable", message));
            }
            return Ok(now.clone());
        }
    };
    Ok(Transport::CustomSmtp {
        host: match &body.smtp_host {
            Some(given) => host(given, &app.config.smtp_hosts)?,
            None => old_host.clone(),
        },
        port: port(body.smtp_port.unwrap_or(*old_port))?,
        security: body.smtp_protocol.map_or(*security, Security::from),
    })
}

/// Returns new credentials where a change names a login or a password.
async fn replaced(
    app: &App,
    call: &Call,
    fold: &Provider,
    body: &ProviderBody,
) -> Result<Option<(SecretId, SecretText)>, Problem> {
    if body.login().is_none() && body.password().is_none() {
        return Ok(None);
    }
    let mut credentials = Credentials { username: String::new(), password: String::new() };
    if let Some(secret) = &fold.secret
        && let Some(text) = app.log.secret(&call.caller.team, secret, PURPOSE).await?
    {
        credentials = serde_json::from_slice(text.expose()).map_err(|_| Problem::internal())?;
    }
    let username = body.login().cloned().unwrap_or(credentials.username);
    let password = body.password().cloned().unwrap_or(credentials.password);
    let kind = fold.settings.as_ref().map_or(ProviderType::Smtp, |s| ProviderType::of(&s.transport));
    let fields = kind.login_fields();
    for (field, value) in [(fields.username, &username), (fields.password, &password)] {
        if value.is_empty() {
            return Err(Problem::invalid(field, "required", format!("{field} is required")));
        }
    }
    sealed(app, &username, &password).map(Some)
}

/// Update a sending account
///
/// What is absent stays; null clears; `variables` are replaced as a whole.
#[utoipa::path(
    patch,
    path = "/providers/{public_id}",
    tag = "Sending accounts",
    operation_id = "managementUpdateProvider",
    params(("public_id" = String, Path, description = "Sending account id", example = "dprov_06bqmn3t0d4gq2v8xk1hz7sw"), IfMatchHeader),
    request_body = ProviderBody,
    responses(
        (status = 200, description = "The sending account", body = Data<ProviderItem>, headers(("ETag" = String))),
        (status = 400, description = "Invalid body", body = crate::problem::Body),
        (status = 404, description = "No such sending account", body = crate::problem::Body),
        (status = 409, description = "It has changed since it was read", body = crate::problem::Body),
        (status = 422, description = "A field is not acceptable", body = crate::problem::Body),
    ),
)]
async fn update_provider(
    call: Scoped<guards::ProviderUpdate>,
    State(app): State<App>,
    Id(id): Id<ProviderId>,
    expected: IfMatch,
    Json(body): Json<ProviderBody>,
) -> Result<Reply<Data<ProviderItem>>, Problem> {
    let (fold, mut beside) = existing(&app, &call, &id).await?;
    let now = fold.settings.as_ref().ok_or_else(Problem::not_found)?;
    let kind = ProviderType::of(&now.transport);
    if body.kind.is_some_and(|given| given != kind) {
        return Err(Problem::unacceptable("type", "not_changeable", "the type of an account never changes"));
    }
    body.fits(kind)?;
    let settings = Settings {
        transport: moved(&app, &body, &now.transport)?,
        percentage: body.share(now.percentage)?,
        quotas: body.quotas.unwrap_or_default().read(now.quotas)?,
    };
    let credentials = replaced(&app, &call, &fold, &body).await?;
    let command = ChangeProvider {
        provider: id.clone(),
        settings: Some(settings),
        identity: Some(body.identity(fold.identity.clone())?),
        secret: credentials.as_ref().map(|(secret, _)| secret.clone()),
        topic: body.topic()?,
        by: By::Team,
        if_version: expected.version(fold.version),
    };
    let mut submission = call.submission(command);
    if let Some((secret, text)) = credentials {
        submission = submission.with_secret(secret, PURPOSE, text);
    }
    let appended = app.append(&call, submission).await?;
    if !appended.records.is_empty() {
        beside.updated_at = call.at;
    }
    let item = ProviderItem::new(id.as_str(), &appended.state, &beside);
    Ok(Reply::ok(call.data(item)).tagged(&ETag::of_version(appended.state.version)))
}

/// Delete a sending account
///
/// Mail that waits for it finds another way or ends.
#[utoipa::path(
    delete,
    path = "/providers/{public_id}",
    tag = "Sending accounts",
    operation_id = "managementDeleteProvider",
    params(("public_id" = String, Path, description = "Sending account id", example = "dprov_06bqmn3t0d4gq2v8xk1hz7sw")),
    responses(
        (status = 200, description = "Deleted", body = Data<Deleted>),
        (status = 404, description = "No such sending account", body = crate::problem::Body),
        (status = 422, description = "The account is managed", body = crate::problem::Body),
    ),
)]
async fn delete_provider(
    call: Scoped<guards::ProviderDelete>,
    State(app): State<App>,
    Id(id): Id<ProviderId>,
) -> Result<Reply<Data<Deleted>>, Problem> {
    existing(&app, &call, &id).await?;
    app.append(&call, call.submission(DeleteProvider { provider: id.clone(), by: By::Team })).await?;
    Ok(Reply::ok(call.data(Deleted::new(id))))
}

async fn switch(
    app: &App,
    call: Call,
    id: ProviderId,
    active: bool,
    idempotency: Option<Idempotency>,
) -> Result<Reply<Data<ProviderItem>>, Problem> {
    let (_, beside) = existing(app, &call, &id).await?;
    let command = SwitchProvider { provider: id.clone(), active };
    let answered = call.clone();
    app.submit(&call, call.submission(command), idempotency, move |appended| {
        let changed = !appended.records.is_empty();
        let updated_at = if changed { answered.at } else { beside.updated_at };
        let beside = Beside { updated_at, ..beside.clone() };
        let item = ProviderItem::new(id.as_str(), &appended.state, &beside);
        Reply::ok(answered.data(item)).tagged(&ETag::of_version(appended.state.version))
    })
    .await
}

/// Activate a sending account
///
/// It may be chosen again; an account in error is tried again.
#[utoipa::path(
    post,
    path = "/providers/{public_id}/activate",
    tag = "Sending accounts",
    operation_id = "managementActivateProvider",
    params(("public_id" = String, Path, description = "Sending account id", example = "dprov_06bqmn3t0d4gq2v8xk1hz7sw"), IdempotencyHeader),
    responses(
        (status = 200, description = "The sending account", body = Data<ProviderItem>),
        (status = 404, description = "No such sending account", body = crate::problem::Body),
        (status = 409, description = "Key used for another request", body = crate::problem::Body),
    ),
)]
async fn activate_provider(
    call: Scoped<guards::ProviderUpdate>,
    State(app): State<App>,
    Id(id): Id<ProviderId>,
    KeyedOnly(idempotency): KeyedOnly,
) -> Result<Reply<Data<ProviderItem>>, Problem> {
    switch(&app, call.into_call(), id, true, idempotency).await
}

/// Deactivate a sending account
///
/// It is not chosen until it is activated again.
#[utoipa::path(
    post,
    path = "/providers/{public_id}/deactivate",
    tag = "Sending accounts",
    operation_id = "managementDeactivateProvider",
    params(("public_id" = String, Path, description = "Sending account id", example = "dprov_06bqmn3t0d4gq2v8xk1hz7sw"), IdempotencyHeader),
    responses(
        (status = 200, description = "The sending account", body = Data<ProviderItem>),
        (status = 404, description = "No such sending account", body = crate::problem::Body),
        (status = 409, description = "Key used for another request", body = crate::problem::Body),
    ),
)]
async fn deactivate_provider(
    call: Scoped<guards::ProviderUpdate>,
    State(app): State<App>,
    Id(id): Id<ProviderId>,
    KeyedOnly(idempotency): KeyedOnly,
) -> Result<Reply<Data<ProviderItem>>, Problem> {
    switch(&app, call.into_call(), id, false, idempotency).await
}
