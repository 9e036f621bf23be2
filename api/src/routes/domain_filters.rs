//! Who may write to the mailboxes of a domain that have no rules of their own.

use axum::extract::State;
use domain::id::DomainId;
use domain::sending_domain::{Mode, Rejected, ReplaceDomainRules};

use super::domains::{Existing, existing};
use super::mailbox_filters::{FilterState, SetFilterStateBody, normalised};
use crate::auth::{Call, Scoped, guards};
use crate::envelope::{Data, Reply};
use crate::etag::{ETag, IfMatch, IfNoneMatch};
use crate::openapi::{IfMatchHeader, IfNoneMatchHeader, Routes};
use crate::path::Id;
use crate::problem::Problem;
use crate::{App, Json, door};

pub(super) fn routes() -> Routes {
    Routes::new().with(door!(get_domain_filters)).with(door!(set_domain_filters))
}

async fn receiving(app: &App, call: &Call, id: &DomainId) -> Result<Existing, Problem> {
    let existing = existing(app, call, id).await?;
    match existing.domain.mode {
        Some(Mode::SendReceive) => Ok(existing),
        Some(Mode::SendOnly) | None => Err(Rejected::DoesNotReceive.into()),
    }
}

/// Get a domain's sender rules
///
/// Who may write to its mailboxes that have no rules of their own.
#[utoipa::path(
    get,
    path = "/domains/{public_id}/filters",
    tag = "Domains",
    operation_id = "managementGetDomainFilters",
    params(("public_id" = String, Path, description = "Domain id", example = "mdom_06bqmn3t0d4gq2v8xk1hz7sw"), IfNoneMatchHeader),
    responses(
        (status = 200, description = "The rules", body = Data<FilterState>, headers(("ETag" = String))),
        (status = 304, description = "Not modified"),
        (status = 404, description = "No such domain", body = crate::problem::Body),
        (status = 409, description = "The domain only sends", body = crate::problem::Body),
    ),
)]
async fn get_domain_filters(
    call: Scoped<guards::MailboxAdminManage>,
    State(app): State<App>,
    Id(id): Id<DomainId>,
    known: IfNoneMatch,
) -> Result<Reply<Data<FilterState>>, Problem> {
    let Existing { domain, .. } = receiving(&app, &call, &id).await?;
    let tag = ETag::of_version(domain.version);
    if known.has(&tag) {
        return Ok(Reply::not_modified(&tag));
    }
    Ok(Reply::ok(call.data(FilterState::new(domain.filter_mode, &domain.rules))).tagged(&tag))
}

/// Set a domain's sender rules
///
/// Replaces the whole set at once. Rules of a mailbox go before those of its domain.
#[utoipa::path(
    put,
    path = "/domains/{public_id}/filters",
    tag = "Domains",
    operation_id = "managementSetDomainFilters",
    params(("public_id" = String, Path, description = "Domain id", example = "mdom_06bqmn3t0d4gq2v8xk1hz7sw"), IfMatchHeader),
    request_body = SetFilterStateBody,
    responses(
        (status = 200, description = "The rules", body = Data<FilterState>, headers(("ETag" = String))),
        (status = 400, description = "Invalid body", body = crate::problem::Body),
        (status = 404, description = "No such domain", body = crate::problem::Body),
        (status = 409, description = "It has changed since it was read, or only sends", body = crate::problem::Body),
        (status = 422, description = "A rule does not fit its mode, or its pattern is none", body = crate::problem::Body),
    ),
)]
async fn set_domain_filters(
    call: Scoped<guards::MailboxAdminManage>,
    State(app): State<App>,
    Id(id): Id<DomainId>,
    expected: IfMatch,
    Json(body): Json<SetFilterStateBody>,
) -> Result<Reply<Data<FilterState>>, Problem> {
    let Existing { domain, .. } = receiving(&app, &call, &id).await?;
    let command = ReplaceDomainRules {
        domain: id,
        mode: body.mode.into(),
        rules: normalised(&body)?,
        if_version: expected.version(domain.version),
    };
    let domain = app.append(&call, call.submission(command)).await?.state;
    let rules = FilterState::new(domain.filter_mode, &domain.rules);
    Ok(Reply::ok(call.data(rules)).tagged(&ETag::of_version(domain.version)))
}
