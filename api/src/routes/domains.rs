//! Sending domains: claimed, verified by their DNS records, given up.

use std::sync::Arc;

use axum::extract::State;
use domain::id::{DomainId, SecretId};
use domain::sending_domain::{
    AddDomain, Algorithm, ChangeMode, NewKey, RemoveDomain, SIGNING_KEY_PURPOSE, SendingDomain, Status,
};
use domain::team::{Resource, Team};
use domain::{StreamId, Versioned};
use eventlog::SecretText;
use mail::auth::{DkimKey, KeyType};
use projections::domains::{self, Row};
use serde::Deserialize;
use utoipa::{IntoParams, ToSchema};

use super::domain_view::{Beside, DomainMode, MailboxDomain, VerificationStatus, records_of};
use crate::auth::{Call, Scoped, guards};
use crate::envelope::{Data, Deleted, List, Reply};
use crate::etag::{ETag, IfMatch, IfNoneMatch};
use crate::field::{present, required_text};
use crate::idempotency::Keyed;
use crate::openapi::{IdempotencyHeader, IfMatchHeader, IfNoneMatchHeader, Routes};
use crate::path::Id;
use crate::problem::{Code, Problem};
use crate::query::{Limit, Query, page};
use crate::{App, Json, door};

pub(super) fn routes() -> Routes {
    Routes::new()
        .with(door!(list_domains))
        .with(door!(create_domain))
        .with(door!(get_domain))
        .with(door!(update_domain))
        .with(door!(delete_domain))
}

/// Strength of new RSA keys, which every receiver verifies (RFC 8301 §3.2).
const RSA_BITS: usize = 2_048;

/// A new signing key and its private half, to be sealed.
pub(super) struct MadeKey {
    pub(super) key: NewKey,
    pub(super) private: SecretText,
}

fn no_key(error: &(dyn std::error::Error + 'static)) -> Problem {
    tracing::error!(error, "a signing key could not be made");
    Problem::internal()
}

/// Makes a signing key under a name that is not used again.
pub(super) async fn make_key(app: &App, at: i64, algorithm: Algorithm) -> Result<MadeKey, Problem> {
    let made = match algorithm {
        Algorithm::Ed25519 => DkimKey::generate_ed25519(app.allot.random()),
        Algorithm::Rsa => {
            // However many ask, others keep most of the machine.
            let _turn = app.key_makers.acquire().await.map_err(|error| no_key(&error))?;
            let entropy = app.allot.entropy();
            // Primes are searched for: other requests must not wait for it.
            let search = tokio::task::spawn_blocking(move || DkimKey::generate_rsa(RSA_BITS, |out| entropy(out)));
            search.await.map_err(|error| no_key(&error))?
        }
    };
    let made = made.map_err(|error| no_key(&error))?;
    let letter = match made.key_type() {
        KeyType::Rsa => 'r',
        KeyType::Ed25519 => 'e',
    };
    let selector = format!("pl{letter}{}", hex::encode(app.allot.random::<6>()));
    let secret = SecretId::new(at, app.allot.random());
    let key = NewKey { selector, algorithm, public_key: made.public_key(), secret };
    Ok(MadeKey { key, private: SecretText::new(made.to_der().to_vec()) })
}

/// Returns the name of a domain in lower-case A-labels.
fn name(given: &str) -> Result<String, Problem> {
    let refused = |message: &str| Problem::invalid("domain", "invalid_value", message);
    // A fully qualified name may end in a dot.
    let given = given.strip_suffix('.').unwrap_or(given);
    let name = mail::address::normalise_domain(given).map_err(|error| refused(&error.to_string()))?;
    if name.starts_with('[') || !name.contains('.') {
        return Err(refused("domain must be a name such as mail.example.com"));
    }
    if name.parse::<std::net::Ipv4Addr>().is_ok() {
        return Err(refused("domain must not be an address"));
    }
    // The longest name below it, a selector's, must fit as well (RFC 1035 §2.3.4).
    if name.len() > 220 {
        return Err(refused("domain must have at most 220 characters"));
    }
    Ok(name)
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
    /// Only domains in this state.
    #[param(inline)]
    status: Option<VerificationStatus>,
    /// Only domains whose name or id contains this.
    search: Option<String>,
}

/// List domains
///
/// Newest first.
#[utoipa::path(
    get,
    path = "/domains",
    tag = "Domains",
    operation_id = "managementListDomains",
    params(ListQuery),
    responses((status = 200, description = "Domains", body = List<MailboxDomain>)),
)]
async fn list_domains(
    call: Scoped<guards::DomainRead>,
    State(app): State<App>,
    Query(query): Query<ListQuery>,
) -> Result<Reply<List<MailboxDomain>>, Problem> {
    let filter = domains::Filter { status: query.status.map(VerificationStatus::filter), search: query.search };
    let team = &call.caller.team;
    let paged = domains::list(&app.views, team, &filter, &page(query.cursor, query.limit)).await?;
    let owner: Versioned<Team> = app.log.state(team, &[StreamId::Team]).await?;
    let shown = paged.rows.iter().map(|row| {
        let fold = Versioned { version: row.version, state: Arc::new(row.domain.clone()) };
        shown(&app, &call, &row.id, &fold, (&Beside::of_row(row, mailboxes(&owner, &row.id)), row.retired_at))
    });
    Ok(Reply::ok(call.list(shown.collect(), paged.next_cursor)))
}

fn mailboxes(team: &Team, id: &DomainId) -> u32 {
    team.domain(id).map_or(0, |(_, owned)| owned.mailboxes)
}

fn shown(
    app: &App,
    call: &Call,
    id: &DomainId,
    domain: &Versioned<SendingDomain>,
    (beside, retired_at): (&Beside, Option<i64>),
) -> MailboxDomain {
    let records = records_of(&call.caller.team, domain, retired_at, (&app.config.installation, call.at));
    MailboxDomain::new(id, domain, beside, &records)
}

fn tag(domain: &Versioned<SendingDomain>, mailboxes: u32) -> ETag {
    ETag::of_version_beside(domain.version, u64::from(mailboxes))
}

/// A domain to create.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct DomainCreateBody {
    /// Its name.
    #[serde(deserialize_with = "required_text::<1, 255, _>")]
    #[schema(min_length = 1, max_length = 255, example = "mail.example.com")]
    domain: String,
    /// `send_receive` by default.
    #[serde(default, deserialize_with = "present")]
    #[schema(nullable = false)]
    mode: Option<DomainMode>,
}

/// Create a domain
///
/// It gets an RSA and an Ed25519 signing key. Publish its records, then verify it.
#[utoipa::path(
    post,
    path = "/domains",
    tag = "Domains",
    operation_id = "managementCreateDomain",
    params(IdempotencyHeader),
    request_body = DomainCreateBody,
    responses(
        (status = 201, description = "Created", body = Data<MailboxDomain>, headers(("Location" = String))),
        (status = 400, description = "Invalid body", body = crate::problem::Body),
        (status = 409, description = "In use, limit reached, or key used for another request", body = crate::problem::Body),
    ),
)]
async fn create_domain(
    call: Scoped<guards::DomainCreate>,
    State(app): State<App>,
    Keyed { body, idempotency }: Keyed<DomainCreateBody>,
) -> Result<Reply<Data<MailboxDomain>>, Problem> {
    let name = name(&body.domain)?;
    let owner: Versioned<Team> = app.log.state(&call.caller.team, &[StreamId::Team]).await?;
    // A repetition is answered from what is kept, whatever came of the domain.
    if idempotency.is_none() {
        if owner.domains.contains_key(&name) {
            return Err(Problem::new(Code::Conflict, "The domain is in use."));
        }
        owner.room_for(Resource::Domains, 1)?;
    }
    let id = DomainId::new(call.at, app.allot.random());
    let made = [make_key(&app, call.at, Algorithm::Rsa).await?, make_key(&app, call.at, Algorithm::Ed25519).await?];
    let command = AddDomain {
        domain: id.clone(),
        name,
        mode: body.mode.unwrap_or(DomainMode::SendReceive).into(),
        keys: made.iter().map(|made| made.key.clone()).collect(),
    };
    let mut submission = call.submission(command).fresh(StreamId::Domain(id.clone()));
    for made in made {
        submission = submission.with_secret(made.key.secret, SIGNING_KEY_PURPOSE, made.private);
    }
    let (answered, config) = (call.clone().into_call(), app.config.clone());
    app.submit(&call, submission, idempotency, move |appended| {
        let fold = &appended.state.1;
        let beside = Beside { verified_at: None, created_at: answered.at, mailboxes: 0 };
        let records = records_of(&answered.caller.team, fold, None, (&config.installation, answered.at));
        let location = format!("/api/v1/domains/{id}");
        Reply::created(&location, answered.data(MailboxDomain::new(&id, fold, &beside, &records))).tagged(&tag(fold, 0))
    })
    .await
}

/// A domain of the caller's team, as it is now.
pub(super) struct Existing {
    pub(super) row: Row,
    pub(super) domain: Versioned<SendingDomain>,
    pub(super) mailboxes: u32,
}

pub(super) async fn existing(app: &App, call: &Call, id: &DomainId) -> Result<Existing, Problem> {
    let team = &call.caller.team;
    let streams = [StreamId::Team, StreamId::Domain(id.clone())];
    let (owner, domain): (Versioned<Team>, Versioned<SendingDomain>) = app.log.state(team, &streams).await?;
    if matches!(domain.status, Status::Absent | Status::Removed) {
        return Err(Problem::not_found());
    }
    let mailboxes = mailboxes(&owner, id);
    if let Some(row) = domains::get(&app.views, team, id).await? {
        return Ok(Existing { row, domain, mailboxes });
    }
    let head = app.log.head(team).await?;
    app.caught_up(team, head.position).await;
    let row = domains::get(&app.views, team, id).await?.ok_or_else(Problem::unavailable)?;
    Ok(Existing { row, domain, mailboxes })
}

/// Get a domain
#[utoipa::path(
    get,
    path = "/domains/{public_id}",
    tag = "Domains",
    operation_id = "managementGetDomain",
    params(("public_id" = String, Path, description = "Domain id", example = "mdom_06bqmn3t0d4gq2v8xk1hz7sw"), IfNoneMatchHeader),
    responses(
        (status = 200, description = "The domain", body = Data<MailboxDomain>, headers(("ETag" = String))),
        (status = 304, description = "Not modified"),
        (status = 404, description = "No such domain", body = crate::problem::Body),
    ),
)]
async fn get_domain(
    call: Scoped<guards::DomainRead>,
    State(app): State<App>,
    Id(id): Id<DomainId>,
    known: IfNoneMatch,
) -> Result<Reply<Data<MailboxDomain>>, Problem> {
    let Existing { row, domain, mailboxes } = existing(&app, &call, &id).await?;
    let tag = tag(&domain, mailboxes);
    if known.has(&tag) {
        return Ok(Reply::not_modified(&tag));
    }
    let beside = Beside::of_row(&row, mailboxes);
    Ok(Reply::ok(call.data(shown(&app, &call, &id, &domain, (&beside, row.retired_at)))).tagged(&tag))
}

/// What to change of a domain.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct DomainUpdateBody {
    /// Only `send_receive`: a domain that receives stays one.
    #[schema(value_type = String, example = "send_receive")]
    mode: String,
}

/// Update a domain
///
/// Lets it receive too. It must be verified again.
#[utoipa::path(
    patch,
    path = "/domains/{public_id}",
    tag = "Domains",
    operation_id = "managementUpdateDomain",
    params(("public_id" = String, Path, description = "Domain id", example = "mdom_06bqmn3t0d4gq2v8xk1hz7sw"), IfMatchHeader),
    request_body = DomainUpdateBody,
    responses(
        (status = 200, description = "The domain", body = Data<MailboxDomain>, headers(("ETag" = String))),
        (status = 400, description = "Invalid body", body = crate::problem::Body),
        (status = 404, description = "No such domain", body = crate::problem::Body),
        (status = 409, description = "It has changed since it was read", body = crate::problem::Body),
        (status = 422, description = "Another mode than send_receive", body = crate::problem::Body),
    ),
)]
async fn update_domain(
    call: Scoped<guards::DomainCreate>,
    State(app): State<App>,
    Id(id): Id<DomainId>,
    expected: IfMatch,
    Json(body): Json<DomainUpdateBody>,
) -> Result<Reply<Data<MailboxDomain>>, Problem> {
    let Existing { row, domain, mailboxes } = existing(&app, &call, &id).await?;
    if body.mode != "send_receive" {
        return Err(Problem::unacceptable("mode", "not_changeable", "mode can only be changed to send_receive"));
    }
    let mode = domain::sending_domain::Mode::SendReceive;
    let command = ChangeMode { domain: id.clone(), mode, if_version: expected.version(domain.version) };
    let appended = app.append(&call, call.submission(command)).await?;
    let beside = Beside::of_row(&row, mailboxes);
    let domain = shown(&app, &call, &id, &appended.state, (&beside, row.retired_at));
    Ok(Reply::ok(call.data(domain)).tagged(&tag(&appended.state, mailboxes)))
}

/// Delete a domain
///
/// Gives it up: its name is free again. Not while mailboxes are open on it.
#[utoipa::path(
    delete,
    path = "/domains/{public_id}",
    tag = "Domains",
    operation_id = "managementDeleteDomain",
    params(("public_id" = String, Path, description = "Domain id", example = "mdom_06bqmn3t0d4gq2v8xk1hz7sw")),
    responses(
        (status = 200, description = "Deleted", body = Data<Deleted>),
        (status = 404, description = "No such domain", body = crate::problem::Body),
        (status = 409, description = "Mailboxes are open on it", body = crate::problem::Body),
    ),
)]
async fn delete_domain(
    call: Scoped<guards::DomainDelete>,
    State(app): State<App>,
    Id(id): Id<DomainId>,
) -> Result<Reply<Data<Deleted>>, Problem> {
    existing(&app, &call, &id).await?;
    app.append(&call, call.submission(RemoveDomain { domain: id.clone() })).await?;
    Ok(Reply::ok(call.data(Deleted::new(id))))
}
