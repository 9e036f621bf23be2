//! Webhooks: endpoints that are told of the team's events.

use std::collections::BTreeSet;

use axum::extract::State;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use domain::egress::Target;
use domain::id::{EventId, MailboxId, Position, SecretId, WebhookId};
use domain::published::{WebhookEventType, rfc3339};
use domain::team::Team;
use domain::webhook_endpoint::{
    Backlog, ChangeWebhook, CreateWebhook, DeleteWebhook, RotateSecret, SECRET_PURPOSE, Status, Subscription,
    TestWebhook, WebhookEndpoint,
};
use domain::{StreamId, Versioned};
use eventlog::SecretText;
use projections::webhooks::{self, Row};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::auth::{Call, Scoped, guards};
use crate::envelope::{Data, Deleted, List, Reply};
use crate::etag::{ETag, IfMatch, IfNoneMatch};
use crate::field::{list, present, required_list, text, text_or_null};
use crate::idempotency::{Keyed, KeyedOnly};
use crate::openapi::{IdempotencyHeader, IfMatchHeader, IfNoneMatchHeader, Routes};
use crate::path::Id;
use crate::problem::Problem;
use crate::query::{Limit, Query, flag, page};
use crate::{App, Json, door};

pub(super) fn routes() -> Routes {
    Routes::new()
        .with(door!(list_webhooks))
        .with(door!(create_webhook))
        .with(door!(get_webhook))
        .with(door!(update_webhook))
        .with(door!(delete_webhook))
        .with(door!(rotate_webhook_secret))
        .with(door!(test_webhook))
}

const SECRET_BYTES: usize = 32;

/// The types a webhook can be told of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[schema(as = WebhookEventType)]
pub(super) enum EventType {
    #[serde(rename = "message.delivered")]
    Delivered,
    #[serde(rename = "message.bounced")]
    Bounced,
    #[serde(rename = "message.complained")]
    Complained,
    #[serde(rename = "message.rejected")]
    Rejected,
    #[serde(rename = "message.delivery_delayed")]
    DeliveryDelayed,
    #[serde(rename = "message.received")]
    Received,
    #[serde(rename = "message.received.spam")]
    ReceivedSpam,
    #[serde(rename = "sendmux.test")]
    Test,
}

impl From<EventType> for WebhookEventType {
    fn from(event_type: EventType) -> Self {
        match event_type {
            EventType::Delivered => Self::Delivered,
            EventType::Bounced => Self::Bounced,
            EventType::Complained => Self::Complained,
            EventType::Rejected => Self::Rejected,
            EventType::DeliveryDelayed => Self::DeliveryDelayed,
            EventType::Received => Self::Received,
            EventType::ReceivedSpam => Self::ReceivedSpam,
            EventType::Test => Self::Test,
        }
    }
}

impl From<WebhookEventType> for EventType {
    fn from(event_type: WebhookEventType) -> Self {
        match event_type {
            WebhookEventType::Delivered => Self::Delivered,
            WebhookEventType::Bounced => Self::Bounced,
            WebhookEventType::Complained => Self::Complained,
            WebhookEventType::Rejected => Self::Rejected,
            WebhookEventType::DeliveryDelayed => Self::DeliveryDelayed,
            WebhookEventType::Received => Self::Received,
            WebhookEventType::ReceivedSpam => Self::ReceivedSpam,
            WebhookEventType::Test => Self::Test,
        }
    }
}

/// Which mailboxes a webhook is told of.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct WebhookFilters {
    /// Empty means all.
    #[serde(deserialize_with = "required_list::<_, 0, 1_000, _>")]
    #[schema(max_items = 1000)]
    mailbox_ids: Vec<String>,
}

/// A webhook.
#[derive(Debug, Clone, Serialize, ToSchema)]
struct WebhookSubscription {
    #[schema(example = "whk_06bqmn3t0d4gq2v8xk1hz7sw")]
    id: String,
    #[schema(required)]
    name: Option<String>,
    url: String,
    event_types: Vec<EventType>,
    filters: WebhookFilters,
    /// Whether deliveries are made.
    enabled: bool,
    /// Whether deliveries wait because the endpoint does not answer; ends when the webhook is disabled and enabled again.
    failing: bool,
    created_at: String,
    updated_at: String,
}

/// A webhook and its signing secret, shown once.
#[derive(Debug, Clone, Serialize, ToSchema)]
struct WebhookSubscriptionWithSecret {
    #[serde(flatten)]
    webhook: WebhookSubscription,
    /// Signs deliveries; the whole text, `whsec_` included, is the key of `X-Sendmux-Signature`. Shown exactly once.
    secret: String,
}

impl WebhookSubscription {
    fn of_row(row: &Row) -> Self {
        Self {
            id: row.id.to_string(),
            name: row.name.clone(),
            url: row.url.clone().unwrap_or_default(),
            event_types: row.event_types.iter().copied().map(EventType::from).collect(),
            filters: WebhookFilters { mailbox_ids: row.mailboxes.iter().map(ToString::to_string).collect() },
            enabled: row.enabled,
            failing: row.failing,
            created_at: rfc3339(row.created_at),
            updated_at: rfc3339(row.updated_at),
        }
    }

    fn of_fold(id: &WebhookId, fold: &WebhookEndpoint, created_at: i64, updated_at: i64) -> Self {
        let subscription = fold.subscription.as_ref();
        let event_types = subscription.into_iter().flat_map(|s| s.event_types.iter().copied().map(EventType::from));
        let mailboxes = subscription.into_iter().flat_map(|s| s.mailboxes.iter().map(ToString::to_string));
        Self {
            id: id.to_string(),
            name: fold.name.clone(),
            url: fold.url.clone().unwrap_or_default(),
            event_types: event_types.collect(),
            filters: WebhookFilters { mailbox_ids: mailboxes.collect() },
            enabled: fold.status == Status::Enabled,
            failing: fold.failing,
            created_at: rfc3339(created_at),
            updated_at: rfc3339(updated_at),
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
}

/// List webhooks
///
/// Newest first. Secrets are never listed.
#[utoipa::path(
    get,
    path = "/webhooks",
    tag = "Webhooks",
    operation_id = "managementListWebhooks",
    params(ListQuery),
    responses((status = 200, description = "Webhooks", body = List<WebhookSubscription>)),
)]
async fn list_webhooks(
    call: Scoped<guards::WebhookRead>,
    State(app): State<App>,
    Query(query): Query<ListQuery>,
) -> Result<Reply<List<WebhookSubscription>>, Problem> {
    let paged = webhooks::list(&app.views, &call.caller.team, &page(query.cursor, query.limit)).await?;
    Ok(Reply::ok(call.list(paged.rows.iter().map(WebhookSubscription::of_row).collect(), paged.next_cursor)))
}

/// A webhook to create.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct WebhookCreateBody {
    /// Where deliveries go; https, a public host, port 443 or 8443.
    #[schema(format = "uri", example = "https://hooks.example.com/postlog")]
    url: String,
    /// What it is for.
    #[serde(default, deserialize_with = "text::<1, 255, _>")]
    #[schema(nullable = false, min_length = 1, max_length = 255)]
    name: Option<String>,
    #[serde(deserialize_with = "required_list::<_, 1, 100, _>")]
    #[schema(min_items = 1)]
    event_types: Vec<EventType>,
    #[serde(default, deserialize_with = "present")]
    #[schema(nullable = false)]
    filters: Option<WebhookFilters>,
    /// Whether deliveries are made; true by default.
    #[serde(default, deserialize_with = "present")]
    #[schema(nullable = false, default = true)]
    enabled: Option<bool>,
    /// Deliveries begin behind this event, which may be long past; `beginning` for the whole log. Behind the webhook's
    /// own creation by default.
    #[serde(default, deserialize_with = "text::<1, 64, _>")]
    #[schema(nullable = false)]
    deliver_after: Option<String>,
}

/// Returns the canonical form of a URL that may be called.
fn target(app: &App, url: &str) -> Result<String, Problem> {
    use domain::egress::Refused;
    Target::parse(url, &app.config.webhook_urls).map(|target| target.url()).map_err(|refused| {
        let (code, message) = (refused.code(), refused.to_string());
        match refused {
            Refused::TooLong | Refused::Malformed => Problem::invalid("url", code, message),
            _ => Problem::unacceptable("url", code, message),
        }
    })
}

/// Returns the mailboxes of a filter; each must be one of the team.
async fn mailboxes(app: &App, call: &Call, filters: &WebhookFilters) -> Result<BTreeSet<MailboxId>, Problem> {
    let mut mailboxes = BTreeSet::new();
    for (i, id) in filters.mailbox_ids.iter().enumerate() {
        let field = format!("filters.mailbox_ids.{i}");
        let unknown = || Problem::unacceptable(field.clone(), "unknown_mailbox", "there is no such mailbox");
        let id: MailboxId = id.parse().map_err(|_| unknown())?;
        let stream = [StreamId::Mailbox(id.clone())];
        let fold: Versioned<domain::mailbox::Mailbox> = app.log.state(&call.caller.team, &stream).await?;
        if fold.status == domain::mailbox::Status::Absent {
            return Err(unknown());
        }
        mailboxes.insert(id);
    }
    Ok(mailboxes)
}

/// Returns the position behind which deliveries begin.
async fn deliver_after(app: &App, call: &Call, place: &str) -> Result<Position, Problem> {
    if place == "beginning" {
        return Ok(0);
    }
    let refused = || Problem::unacceptable("deliver_after", "unknown_event", "there is no such event");
    let event: EventId = place.parse().map_err(|_| refused())?;
    let head = app.log.head(&call.caller.team).await?;
    if !event.is_of(&call.caller.team) || event.epoch > head.epoch || event.position > head.position {
        return Err(refused());
    }
    Ok(event.position)
}

/// Returns a new signing secret: `whsec_` and the base64 of 32 random bytes.
fn new_secret(app: &App) -> (SecretId, SecretText) {
    let text = format!("whsec_{}", BASE64_STANDARD.encode(app.allot.random::<SECRET_BYTES>()));
    (SecretId::new(app.allot.now(), app.allot.random()), SecretText::new(text.into_bytes()))
}

/// Create a webhook
///
/// Its signing secret is shown once.
#[utoipa::path(
    post,
    path = "/webhooks",
    tag = "Webhooks",
    operation_id = "managementCreateWebhook",
    params(IdempotencyHeader),
    request_body = WebhookCreateBody,
    responses(
        (status = 201, description = "Created", body = Data<WebhookSubscriptionWithSecret>, headers(("Location" = String))),
        (status = 400, description = "Invalid body", body = crate::problem::Body),
        (status = 409, description = "Limit reached, or key used for another request", body = crate::problem::Body),
        (status = 422, description = "The URL may not be called, or a mailbox is unknown", body = crate::problem::Body),
    ),
)]
async fn create_webhook(
    call: Scoped<guards::WebhookCreate>,
    State(app): State<App>,
    Keyed { body, idempotency }: Keyed<WebhookCreateBody>,
) -> Result<Reply<Data<WebhookSubscriptionWithSecret>>, Problem> {
    let filters = body.filters.unwrap_or(WebhookFilters { mailbox_ids: vec![] });
    let (secret, text) = new_secret(&app);
    let id = WebhookId::new(call.at, app.allot.random());
    let deliver_after = match &body.deliver_after {
        None => None,
        Some(place) => Some(deliver_after(&app, &call, place).await?),
    };
    let command = CreateWebhook {
        webhook: id.clone(),
        url: target(&app, &body.url)?,
        name: body.name,
        subscription: Subscription {
            event_types: body.event_types.into_iter().map(WebhookEventType::from).collect(),
            mailboxes: mailboxes(&app, &call, &filters).await?,
        },
        enabled: body.enabled.unwrap_or(true),
        secret: secret.clone(),
        deliver_after,
    };
    let submission =
        call.submission(command).fresh(StreamId::Webhook(id.clone())).with_secret(secret, SECRET_PURPOSE, text.clone());
    let answered = call.clone().into_call();
    app.submit(&call, submission, idempotency, move |appended| {
        let fold: &(Versioned<Team>, Versioned<WebhookEndpoint>) = &appended.state;
        let webhook = WebhookSubscription::of_fold(&id, &fold.1, answered.at, answered.at);
        let body = WebhookSubscriptionWithSecret { webhook, secret: text.expose_str().to_owned() };
        let location = format!("/api/v1/webhooks/{id}");
        Reply::created(&location, answered.data(body)).tagged(&ETag::of_version(fold.1.version))
    })
    .await
}

/// Returns the row and the fold of a webhook of the caller's team.
pub(super) async fn existing(
    app: &App,
    call: &Call,
    id: &WebhookId,
) -> Result<(Row, Versioned<WebhookEndpoint>), Problem> {
    let team = &call.caller.team;
    let fold: Versioned<WebhookEndpoint> = app.log.state(team, &[StreamId::Webhook(id.clone())]).await?;
    match fold.status {
        Status::Absent | Status::Deleted => return Err(Problem::not_found()),
        Status::Enabled | Status::Disabled => {}
    }
    if let Some(row) = webhooks::get(&app.views, team, id).await? {
        return Ok((row, fold));
    }
    let head = app.log.head(team).await?;
    app.caught_up(team, head.position).await;
    let row = webhooks::get(&app.views, team, id).await?.ok_or_else(Problem::unavailable)?;
    Ok((row, fold))
}

/// Get a webhook
#[utoipa::path(
    get,
    path = "/webhooks/{public_id}",
    tag = "Webhooks",
    operation_id = "managementGetWebhook",
    params(("public_id" = String, Path, description = "Webhook id", example = "whk_06bqmn3t0d4gq2v8xk1hz7sw"), IfNoneMatchHeader),
    responses(
        (status = 200, description = "The webhook", body = Data<WebhookSubscription>, headers(("ETag" = String))),
        (status = 304, description = "Not modified"),
        (status = 404, description = "No such webhook", body = crate::problem::Body),
    ),
)]
async fn get_webhook(
    call: Scoped<guards::WebhookRead>,
    State(app): State<App>,
    Id(id): Id<WebhookId>,
    known: IfNoneMatch,
) -> Result<Reply<Data<WebhookSubscription>>, Problem> {
    let (row, _) = existing(&app, &call, &id).await?;
    let tag = ETag::of_version(row.version);
    if known.has(&tag) {
        return Ok(Reply::not_modified(&tag));
    }
    Ok(Reply::ok(call.data(WebhookSubscription::of_row(&row))).tagged(&tag))
}

/// What to change of a webhook; what is absent stays.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct WebhookUpdateBody {
    #[serde(default, deserialize_with = "present")]
    #[schema(nullable = false, format = "uri")]
    url: Option<String>,
    /// Null clears it.
    #[serde(default, deserialize_with = "text_or_null::<0, 255, _>")]
    #[schema(value_type = Option<String>, max_length = 255)]
    name: Option<Option<String>>,
    /// Replaces the list.
    #[serde(default, deserialize_with = "list::<_, 1, 100, _>")]
    #[schema(nullable = false, min_items = 1)]
    event_types: Option<Vec<EventType>>,
    /// Replaces the filter.
    #[serde(default, deserialize_with = "present")]
    #[schema(nullable = false)]
    filters: Option<WebhookFilters>,
    /// Switching on ends `failing` and delivers what happened meanwhile.
    #[serde(default, deserialize_with = "present")]
    #[schema(nullable = false)]
    enabled: Option<bool>,
}

/// Parameters of the update.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct UpdateQuery {
    /// With `true`, switching on leaves out what happened while the webhook was off.
    #[serde(default, deserialize_with = "flag")]
    skip_backlog: Option<bool>,
}

/// Update a webhook
///
/// Switching a webhook on again ends `failing` and delivers every event in between, unless `skip_backlog` is set.
#[utoipa::path(
    patch,
    path = "/webhooks/{public_id}",
    tag = "Webhooks",
    operation_id = "managementUpdateWebhook",
    params(("public_id" = String, Path, description = "Webhook id", example = "whk_06bqmn3t0d4gq2v8xk1hz7sw"), IfMatchHeader, UpdateQuery),
    request_body = WebhookUpdateBody,
    responses(
        (status = 200, description = "The webhook", body = Data<WebhookSubscription>, headers(("ETag" = String))),
        (status = 400, description = "Invalid body", body = crate::problem::Body),
        (status = 404, description = "No such webhook", body = crate::problem::Body),
        (status = 409, description = "It has changed since it was read", body = crate::problem::Body),
        (status = 422, description = "The URL may not be called, or a mailbox is unknown", body = crate::problem::Body),
    ),
)]
async fn update_webhook(
    call: Scoped<guards::WebhookUpdate>,
    State(app): State<App>,
    Id(id): Id<WebhookId>,
    Query(query): Query<UpdateQuery>,
    expected: IfMatch,
    Json(body): Json<WebhookUpdateBody>,
) -> Result<Reply<Data<WebhookSubscription>>, Problem> {
    let (row, fold) = existing(&app, &call, &id).await?;
    let mailboxes = match &body.filters {
        None => None,
        Some(filters) => Some(mailboxes(&app, &call, filters).await?),
    };
    let event_types = body.event_types.map(|types| types.into_iter().map(WebhookEventType::from).collect());
    let command = ChangeWebhook {
        webhook: id.clone(),
        url: body.url.map(|url| target(&app, &url)).transpose()?,
        name: body.name.map(|name| name.filter(|name| !name.is_empty())),
        event_types,
        mailboxes,
        enabled: body.enabled,
        backlog: if query.skip_backlog == Some(true) { Backlog::Skip } else { Backlog::Deliver },
        if_version: expected.version(fold.version),
    };
    let answered = call.clone().into_call();
    app.submit(&call, call.submission(command), None, move |appended| {
        let updated_at = if appended.records.is_empty() { row.updated_at } else { answered.at };
        let webhook = WebhookSubscription::of_fold(&id, &appended.state, row.created_at, updated_at);
        Reply::ok(answered.data(webhook)).tagged(&ETag::of_version(appended.state.version))
    })
    .await
}

/// Delete a webhook
///
/// Nothing is delivered any more, retries included.
#[utoipa::path(
    delete,
    path = "/webhooks/{public_id}",
    tag = "Webhooks",
    operation_id = "managementDeleteWebhook",
    params(("public_id" = String, Path, description = "Webhook id", example = "whk_06bqmn3t0d4gq2v8xk1hz7sw")),
    responses(
        (status = 200, description = "Deleted", body = Data<Deleted>),
        (status = 404, description = "No such webhook", body = crate::problem::Body),
    ),
)]
async fn delete_webhook(
    call: Scoped<guards::WebhookDelete>,
    State(app): State<App>,
    Id(id): Id<WebhookId>,
) -> Result<Reply<Data<Deleted>>, Problem> {
    existing(&app, &call, &id).await?;
    let answered = call.clone().into_call();
    let submission = call.submission(DeleteWebhook { webhook: id.clone() });
    app.submit(&call, submission, None, move |_| Reply::ok(answered.data(Deleted::new(&id)))).await
}

/// Rotate a webhook's secret
///
/// The old secret is dead at once; the next delivery is signed with the new one, which is shown once.
#[utoipa::path(
    post,
    path = "/webhooks/{public_id}/rotate-secret",
    tag = "Webhooks",
    operation_id = "managementRotateWebhookSecret",
    params(("public_id" = String, Path, description = "Webhook id", example = "whk_06bqmn3t0d4gq2v8xk1hz7sw"), IdempotencyHeader),
    responses(
        (status = 200, description = "The webhook with its new secret", body = Data<WebhookSubscriptionWithSecret>),
        (status = 404, description = "No such webhook", body = crate::problem::Body),
        (status = 409, description = "The key was used for another request", body = crate::problem::Body),
    ),
)]
async fn rotate_webhook_secret(
    call: Scoped<guards::WebhookManage>,
    State(app): State<App>,
    Id(id): Id<WebhookId>,
    KeyedOnly(idempotency): KeyedOnly,
) -> Result<Reply<Data<WebhookSubscriptionWithSecret>>, Problem> {
    let (row, _) = existing(&app, &call, &id).await?;
    let (secret, text) = new_secret(&app);
    let command = RotateSecret { webhook: id.clone(), secret: secret.clone() };
    let submission = call.submission(command).with_secret(secret, SECRET_PURPOSE, text.clone());
    let answered = call.clone().into_call();
    app.submit(&call, submission, idempotency, move |appended| {
        let webhook = WebhookSubscription::of_fold(&id, &appended.state, row.created_at, answered.at);
        let body = WebhookSubscriptionWithSecret { webhook, secret: text.expose_str().to_owned() };
        Reply::ok(answered.data(body)).tagged(&ETag::of_version(appended.state.version))
    })
    .await
}

/// The event of a test delivery.
#[derive(Debug, Clone, Serialize, ToSchema)]
struct WebhookTestResponse {
    #[schema(example = "evt_06bqmn3t0d4gq2v8xk1hz7sw")]
    event_id: String,
}

/// Test a webhook
///
/// Makes a delivery of type `sendmux.test`, whatever the mailbox filter.
#[utoipa::path(
    post,
    path = "/webhooks/{public_id}/test",
    tag = "Webhooks",
    operation_id = "managementTestWebhook",
    params(("public_id" = String, Path, description = "Webhook id", example = "whk_06bqmn3t0d4gq2v8xk1hz7sw"), IdempotencyHeader),
    responses(
        (status = 200, description = "The event that is delivered", body = Data<WebhookTestResponse>),
        (status = 404, description = "No such webhook", body = crate::problem::Body),
        (status = 409, description = "Off, or not subscribed to sendmux.test", body = crate::problem::Body),
    ),
)]
async fn test_webhook(
    call: Scoped<guards::WebhookManage>,
    State(app): State<App>,
    Id(id): Id<WebhookId>,
    KeyedOnly(idempotency): KeyedOnly,
) -> Result<Reply<Data<WebhookTestResponse>>, Problem> {
    let answered = call.clone().into_call();
    let submission = call.submission(TestWebhook { webhook: id });
    app.submit(&call, submission, idempotency, move |appended| {
        let event = appended.records.first().map(eventlog::Recorded::id);
        let event_id = event.map(|id| id.to_string()).unwrap_or_default();
        Reply::ok(answered.data(WebhookTestResponse { event_id }))
    })
    .await
}
