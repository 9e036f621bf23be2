//! Delivery groups: sending accounts that are chosen together.

use std::collections::BTreeMap;

use axum::extract::State;
use domain::delivery_group::{ChangeGroup, CreateGroup, DeleteGroup, DeliveryGroup, MEMBERS_MAX, Members};
use domain::id::{GroupId, ProviderId};
use domain::published::rfc3339;
use domain::{StreamId, Versioned};
use projections::delivery_groups::{self, Row};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::auth::{Call, Scoped, guards};
use crate::envelope::{Data, Deleted, List, Reply};
use crate::etag::{ETag, IfMatch, IfNoneMatch};
use crate::field::{list, present, required_text, text};
use crate::idempotency::Keyed;
use crate::openapi::{IdempotencyHeader, IfMatchHeader, IfNoneMatchHeader, Routes};
use crate::path::Id;
use crate::problem::Problem;
use crate::query::{Limit, Query, page};
use crate::{App, Json, door};

pub(super) fn routes() -> Routes {
    Routes::new()
        .with(door!(list_groups))
        .with(door!(create_group))
        .with(door!(get_group))
        .with(door!(update_group))
        .with(door!(delete_group))
}

/// A sending account in a group.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct GroupMember {
    #[schema(example = "dprov_06bqmn3t0d4gq2v8xk1hz7sw")]
    provider_id: String,
    /// Its share within the group; 100 by default.
    #[serde(default = "full_weight")]
    #[schema(maximum = 100)]
    weight: u8,
}

fn full_weight() -> u8 {
    100
}

/// A delivery group.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[schema(as = DeliveryGroup)]
struct Group {
    #[schema(example = "dgrp_06bqmn3t0d4gq2v8xk1hz7sw")]
    id: String,
    #[schema(required)]
    name: Option<String>,
    members: Vec<GroupMember>,
    /// Whether mail without a group of its own goes through it.
    is_default: bool,
    created_at: String,
    updated_at: String,
}

fn shown(members: &Members) -> Vec<GroupMember> {
    members.iter().map(|(id, weight)| GroupMember { provider_id: id.to_string(), weight: *weight }).collect()
}

impl Group {
    fn of_row(row: &Row) -> Self {
        Self {
            id: row.id.to_string(),
            name: row.name.clone(),
            members: shown(&row.members),
            is_default: row.is_default,
            created_at: rfc3339(row.created_at),
            updated_at: rfc3339(row.updated_at),
        }
    }

    fn of_fold(id: &GroupId, fold: &DeliveryGroup, created_at: i64, updated_at: i64) -> Self {
        Self {
            id: id.to_string(),
            name: fold.name.clone(),
            members: fold.members.as_ref().map(shown).unwrap_or_default(),
            is_default: fold.is_default,
            created_at: rfc3339(created_at),
            updated_at: rfc3339(updated_at),
        }
    }
}

fn members(given: &[GroupMember]) -> Result<Members, Problem> {
    let mut members = BTreeMap::new();
    for (i, member) in given.iter().enumerate() {
        let unknown = |_| {
            let field = format!("members.{i}.provider_id");
            Problem::unacceptable(field, "unknown_provider", "there is no such sending account")
        };
        let id: ProviderId = member.provider_id.parse().map_err(unknown)?;
        if member.weight > 100 {
            let field = format!("members.{i}.weight");
            return Err(Problem::unacceptable(field, "invalid_value", "weight must be 0 to 100"));
        }
        if members.insert(id, member.weight).is_some() {
            let field = format!("members.{i}.provider_id");
            return Err(Problem::unacceptable(field, "duplicate", "the account is in the group already"));
        }
    }
    Ok(members)
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

/// List delivery groups
///
/// Newest first.
#[utoipa::path(
    get,
    path = "/delivery-groups",
    tag = "Delivery groups",
    operation_id = "managementListDeliveryGroups",
    params(ListQuery),
    responses((status = 200, description = "Delivery groups", body = List<Group>)),
)]
async fn list_groups(
    call: Scoped<guards::RoutingRead>,
    State(app): State<App>,
    Query(query): Query<ListQuery>,
) -> Result<Reply<List<Group>>, Problem> {
    let paged = delivery_groups::list(&app.views, &call.caller.team, &page(query.cursor, query.limit)).await?;
    Ok(Reply::ok(call.list(paged.rows.iter().map(Group::of_row).collect(), paged.next_cursor)))
}

/// A delivery group to create.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct DeliveryGroupCreateBody {
    #[serde(deserialize_with = "required_text::<1, 255, _>")]
    #[schema(min_length = 1, max_length = 255)]
    name: String,
    #[serde(default, deserialize_with = "list::<_, 0, MEMBERS_MAX, _>")]
    #[schema(nullable = false, max_items = 200)]
    members: Option<Vec<GroupMember>>,
    /// Whether it becomes the team's default; the one before is it no more.
    #[serde(default)]
    is_default: bool,
}

/// Create a delivery group
#[utoipa::path(
    post,
    path = "/delivery-groups",
    tag = "Delivery groups",
    operation_id = "managementCreateDeliveryGroup",
    params(IdempotencyHeader),
    request_body = DeliveryGroupCreateBody,
    responses(
        (status = 201, description = "Created", body = Data<Group>, headers(("Location" = String))),
        (status = 400, description = "Invalid body", body = crate::problem::Body),
        (status = 409, description = "Limit reached, or key used for another request", body = crate::problem::Body),
        (status = 422, description = "A member is unknown", body = crate::problem::Body),
    ),
)]
async fn create_group(
    call: Scoped<guards::RoutingCreate>,
    State(app): State<App>,
    Keyed { body, idempotency }: Keyed<DeliveryGroupCreateBody>,
) -> Result<Reply<Data<Group>>, Problem> {
    let id = GroupId::new(call.at, app.allot.random());
    let command = CreateGroup {
        group: id.clone(),
        name: body.name,
        members: members(&body.members.unwrap_or_default())?,
        is_default: body.is_default,
    };
    let submission = call.submission(command).fresh(StreamId::Group(id.clone()));
    let answered = call.clone().into_call();
    app.submit(&call, submission, idempotency, move |appended| {
        let fold = &appended.state.2;
        let location = format!("/api/v1/delivery-groups/{id}");
        Reply::created(&location, answered.data(Group::of_fold(&id, fold, answered.at, answered.at)))
            .tagged(&ETag::of_version(fold.version))
    })
    .await
}

async fn existing(app: &App, call: &Call, id: &GroupId) -> Result<(Row, Versioned<DeliveryGroup>), Problem> {
    let team = &call.caller.team;
    let fold: Versioned<DeliveryGroup> = app.log.state(team, &[StreamId::Group(id.clone())]).await?;
    if fold.deleted || fold.members.is_none() {
        return Err(Problem::not_found());
    }
    if let Some(row) = delivery_groups::get(&app.views, team, id).await? {
        return Ok((row, fold));
    }
    let head = app.log.head(team).await?;
    app.caught_up(team, head.position).await;
    let row = delivery_groups::get(&app.views, team, id).await?.ok_or_else(Problem::unavailable)?;
    Ok((row, fold))
}

/// Get a delivery group
#[utoipa::path(
    get,
    path = "/delivery-groups/{public_id}",
    tag = "Delivery groups",
    operation_id = "managementGetDeliveryGroup",
    params(("public_id" = String, Path, description = "Delivery group id", example = "dgrp_06bqmn3t0d4gq2v8xk1hz7sw"), IfNoneMatchHeader),
    responses(
        (status = 200, description = "The delivery group", body = Data<Group>, headers(("ETag" = String))),
        (status = 304, description = "Not modified"),
        (status = 404, description = "No such delivery group", body = crate::problem::Body),
    ),
)]
async fn get_group(
    call: Scoped<guards::RoutingRead>,
    State(app): State<App>,
    Id(id): Id<GroupId>,
    known: IfNoneMatch,
) -> Result<Reply<Data<Group>>, Problem> {
    let (row, fold) = existing(&app, &call, &id).await?;
    let tag = ETag::of_version(fold.version);
    if known.has(&tag) {
        return Ok(Reply::not_modified(&tag));
    }
    let group = Group::of_fold(&id, &fold, row.created_at, row.updated_at);
    Ok(Reply::ok(call.data(group)).tagged(&tag))
}

/// What to change of a delivery group; what is absent stays.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct DeliveryGroupUpdateBody {
    #[serde(default, deserialize_with = "text::<1, 255, _>")]
    #[schema(nullable = false, min_length = 1, max_length = 255)]
    name: Option<String>,
    /// Replaces all members.
    #[serde(default, deserialize_with = "list::<_, 0, MEMBERS_MAX, _>")]
    #[schema(nullable = false, max_items = 200)]
    members: Option<Vec<GroupMember>>,
    #[serde(default, deserialize_with = "present")]
    #[schema(nullable = false)]
    is_default: Option<bool>,
}

/// Update a delivery group
#[utoipa::path(
    patch,
    path = "/delivery-groups/{public_id}",
    tag = "Delivery groups",
    operation_id = "managementUpdateDeliveryGroup",
    params(("public_id" = String, Path, description = "Delivery group id", example = "dgrp_06bqmn3t0d4gq2v8xk1hz7sw"), IfMatchHeader),
    request_body = DeliveryGroupUpdateBody,
    responses(
        (status = 200, description = "The delivery group", body = Data<Group>, headers(("ETag" = String))),
        (status = 400, description = "Invalid body", body = crate::problem::Body),
        (status = 404, description = "No such delivery group", body = crate::problem::Body),
        (status = 409, description = "It has changed since it was read", body = crate::problem::Body),
        (status = 422, description = "A member is unknown", body = crate::problem::Body),
    ),
)]
async fn update_group(
    call: Scoped<guards::RoutingUpdate>,
    State(app): State<App>,
    Id(id): Id<GroupId>,
    expected: IfMatch,
    Json(body): Json<DeliveryGroupUpdateBody>,
) -> Result<Reply<Data<Group>>, Problem> {
    let (row, fold) = existing(&app, &call, &id).await?;
    let command = ChangeGroup {
        group: id.clone(),
        name: body.name,
        members: body.members.as_deref().map(members).transpose()?,
        is_default: body.is_default,
        if_version: expected.version(fold.version),
    };
    let appended = app.append(&call, call.submission(command)).await?;
    let updated_at = if appended.records.is_empty() { row.updated_at } else { call.at };
    let fold = &appended.state.1;
    let group = Group::of_fold(&id, fold, row.created_at, updated_at);
    Ok(Reply::ok(call.data(group)).tagged(&ETag::of_version(fold.version)))
}

/// Delete a delivery group
///
/// Its sending accounts stay.
#[utoipa::path(
    delete,
    path = "/delivery-groups/{public_id}",
    tag = "Delivery groups",
    operation_id = "managementDeleteDeliveryGroup",
    params(("public_id" = String, Path, description = "Delivery group id", example = "dgrp_06bqmn3t0d4gq2v8xk1hz7sw")),
    responses(
        (status = 200, description = "Deleted", body = Data<Deleted>),
        (status = 404, description = "No such delivery group", body = crate::problem::Body),
    ),
)]
async fn delete_group(
    call: Scoped<guards::RoutingDelete>,
    State(app): State<App>,
    Id(id): Id<GroupId>,
) -> Result<Reply<Data<Deleted>>, Problem> {
    existing(&app, &call, &id).await?;
    app.append(&call, call.submission(DeleteGroup { group: id.clone() })).await?;
    Ok(Reply::ok(call.data(Deleted::new(id))))
}
