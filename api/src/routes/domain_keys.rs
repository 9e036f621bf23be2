//! The signing keys of a sending domain: seen, rotated, withdrawn.
//!
//! A rotation makes a key beside the one that signs. Both records are to be published; the new key signs as soon as a
//! check finds its record, and the record of the old one stays for as long as mail signed with it may be under way.

use axum::extract::State;
use domain::id::DomainId;
use domain::published::rfc3339;
use domain::sending_domain::records::key_name;
use domain::sending_domain::{
    ActivateKey, AddSigningKey, Algorithm, KEYS_MAX, KeyStatus, NewKey, RETIRED_STAYS_MICROS, Rejected, RetireKey,
    SIGNING_KEY_PURPOSE, SendingDomain, SigningKey,
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::domains::{Existing, existing, make_key};
use crate::auth::{Scoped, guards};
use crate::envelope::{Data, Deleted, List, Reply};
use crate::idempotency::Keyed;
use crate::openapi::{IdempotencyHeader, Routes};
use crate::path::{Id, Ids};
use crate::problem::{Code, Problem};
use crate::{App, door};

pub(super) fn routes() -> Routes {
    Routes::new()
        .with(door!(list_signing_keys))
        .with(door!(create_signing_key))
        .with(door!(activate_signing_key))
        .with(door!(retire_signing_key))
}

/// How mail is signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum SigningAlgorithm {
    /// RSA with SHA-256 and 2048 bits, which every receiver verifies.
    Rsa,
    /// Ed25519 (RFC 8463), which many do.
    Ed25519,
}

impl From<SigningAlgorithm> for Algorithm {
    fn from(algorithm: SigningAlgorithm) -> Self {
        match algorithm {
            SigningAlgorithm::Rsa => Self::Rsa,
            SigningAlgorithm::Ed25519 => Self::Ed25519,
        }
    }
}

impl From<Algorithm> for SigningAlgorithm {
    fn from(algorithm: Algorithm) -> Self {
        match algorithm {
            Algorithm::Rsa => Self::Rsa,
            Algorithm::Ed25519 => Self::Ed25519,
        }
    }
}

/// A signing key of a domain.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[schema(as = DomainSigningKey)]
struct Shown {
    #[schema(example = "plr06bqmn3t0d4g")]
    selector: String,
    algorithm: SigningAlgorithm,
    /// `pending` (its record has not been found yet), `active` (it signs), `retired` (its record is still needed).
    status: &'static str,
    /// The name of its TXT record.
    record_name: String,
    /// The text of that record.
    record_value: String,
    /// Until when the record of a retired key should stay.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    keep_record_until: Option<String>,
}

impl Shown {
    fn of(key: &SigningKey, domain: &SendingDomain) -> Self {
        let (tag, public) = (key.algorithm.tag(), &key.public_key);
        Self {
            selector: key.selector.clone(),
            algorithm: key.algorithm.into(),
            status: match key.status {
                KeyStatus::Pending => "pending",
                KeyStatus::Active => "active",
            },
            record_name: key_name(&key.selector, &domain.name),
            record_value: format!("v=DKIM1; k={tag}; p={public}"),
            keep_record_until: None,
        }
    }

    fn retired(key: &SigningKey, domain: &SendingDomain, until: i64) -> Self {
        Self { status: "retired", keep_record_until: Some(rfc3339(until)), ..Self::of(key, domain) }
    }
}

/// List a domain's signing keys
///
/// Those that sign, those that will once their records are found, and those whose records are still needed.
#[utoipa::path(
    get,
    path = "/domains/{public_id}/signing-keys",
    tag = "Domains",
    operation_id = "managementListDomainSigningKeys",
    params(("public_id" = String, Path, description = "Domain id", example = "mdom_06bqmn3t0d4gq2v8xk1hz7sw")),
    responses(
        (status = 200, description = "Signing keys", body = List<Shown>),
        (status = 404, description = "No such domain", body = crate::problem::Body),
    ),
)]
async fn list_signing_keys(
    call: Scoped<guards::DomainRead>,
    State(app): State<App>,
    Id(id): Id<DomainId>,
) -> Result<Reply<List<Shown>>, Problem> {
    let Existing { row, domain, .. } = existing(&app, &call, &id).await?;
    let mut keys: Vec<Shown> = domain.keys.iter().map(|key| Shown::of(key, &domain)).collect();
    let until = row.retired_at.map(|at| at.saturating_add(RETIRED_STAYS_MICROS)).filter(|until| call.at < *until);
    if let Some(until) = until {
        keys.extend(domain.retired.iter().map(|key| Shown::retired(key, &domain, until)));
    }
    Ok(Reply::ok(call.list(keys, None)))
}

/// A signing key to make.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct SigningKeyCreateBody {
    algorithm: SigningAlgorithm,
}

/// Rotate a domain's signing key
///
/// Makes a successor for the key of this algorithm. Publish its record beside the old one: as soon as a check finds
/// it, the new key signs. Keep the old record for seven days after that.
#[utoipa::path(
    post,
    path = "/domains/{public_id}/signing-keys",
    tag = "Domains",
    operation_id = "managementCreateDomainSigningKey",
    params(("public_id" = String, Path, description = "Domain id", example = "mdom_06bqmn3t0d4gq2v8xk1hz7sw"), IdempotencyHeader),
    request_body = SigningKeyCreateBody,
    responses(
        (status = 201, description = "Created", body = Data<Shown>, headers(("Location" = String))),
        (status = 400, description = "Invalid body", body = crate::problem::Body),
        (status = 404, description = "No such domain", body = crate::problem::Body),
        (status = 409, description = "It has as many keys as it may", body = crate::problem::Body),
    ),
)]
async fn create_signing_key(
    call: Scoped<guards::DomainCreate>,
    State(app): State<App>,
    Id(id): Id<DomainId>,
    Keyed { body, idempotency }: Keyed<SigningKeyCreateBody>,
) -> Result<Reply<Data<Shown>>, Problem> {
    let Existing { domain, .. } = existing(&app, &call, &id).await?;
    // A repetition is answered from what is kept, however many keys there are by now.
    if idempotency.is_none() && domain.keys.len() >= KEYS_MAX {
        return Err(Rejected::TooManyKeys.into());
    }
    let made = make_key(&app, call.at, body.algorithm.into()).await?;
    let NewKey { selector, algorithm, public_key, secret } = made.key.clone();
    let key = SigningKey { selector, algorithm, public_key, secret: secret.clone(), status: KeyStatus::Pending };
    let command = AddSigningKey { domain: id.clone(), key: made.key };
    let submission = call.submission(command).with_secret(secret, SIGNING_KEY_PURPOSE, made.private);
    let answered = call.clone().into_call();
    app.submit(&call, submission, idempotency, move |appended| {
        let shown = Shown::of(&key, &appended.state);
        Reply::created(&format!("/api/v1/domains/{id}/signing-keys"), answered.data(shown))
    })
    .await
}

/// Activate a domain's signing key
///
/// Lets a key sign though no check has found its record: for domains the operator vouches for.
#[utoipa::path(
    post,
    path = "/domains/{public_id}/signing-keys/{selector}/activate",
    tag = "Domains",
    operation_id = "managementActivateDomainSigningKey",
    params(
        ("public_id" = String, Path, description = "Domain id", example = "mdom_06bqmn3t0d4gq2v8xk1hz7sw"),
        ("selector" = String, Path, description = "Selector", example = "plr06bqmn3t0d4g"),
    ),
    responses(
        (status = 200, description = "It signs", body = Data<Shown>),
        (status = 404, description = "No such domain or key", body = crate::problem::Body),
        (status = 409, description = "The operator does not vouch for the domain", body = crate::problem::Body),
    ),
)]
async fn activate_signing_key(
    call: Scoped<guards::DomainCreate>,
    State(app): State<App>,
    Ids(id, selector): Ids<DomainId, String>,
) -> Result<Reply<Data<Shown>>, Problem> {
    let Existing { domain, .. } = existing(&app, &call, &id).await?;
    if !domain.keys.iter().any(|key| key.selector == selector) {
        return Err(Problem::not_found());
    }
    if !domain.vouched {
        return Err(Problem::new(Code::Conflict, "The key signs as soon as a check finds its record."));
    }
    let command = ActivateKey { domain: id, selector: selector.clone() };
    let domain = app.append(&call, call.submission(command)).await?.state;
    let key = domain.keys.iter().find(|key| key.selector == selector).ok_or_else(Problem::not_found)?;
    Ok(Reply::ok(call.data(Shown::of(key, &domain))))
}

/// Retire a domain's signing key
///
/// It signs no more. Keep its record for seven days.
#[utoipa::path(
    delete,
    path = "/domains/{public_id}/signing-keys/{selector}",
    tag = "Domains",
    operation_id = "managementDeleteDomainSigningKey",
    params(
        ("public_id" = String, Path, description = "Domain id", example = "mdom_06bqmn3t0d4gq2v8xk1hz7sw"),
        ("selector" = String, Path, description = "Selector", example = "plr06bqmn3t0d4g"),
    ),
    responses(
        (status = 200, description = "Retired", body = Data<Deleted>),
        (status = 404, description = "No such domain or key", body = crate::problem::Body),
    ),
)]
async fn retire_signing_key(
    call: Scoped<guards::DomainCreate>,
    State(app): State<App>,
    Ids(id, selector): Ids<DomainId, String>,
) -> Result<Reply<Data<Deleted>>, Problem> {
    let Existing { domain, .. } = existing(&app, &call, &id).await?;
    if !domain.keys.iter().any(|key| key.selector == selector) {
        return Err(Problem::not_found());
    }
    app.append(&call, call.submission(RetireKey { domain: id, selector: selector.clone() })).await?;
    Ok(Reply::ok(call.data(Deleted::new(selector))))
}
