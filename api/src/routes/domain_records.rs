//! The DNS records of a sending domain: what is expected, what was found, a look now, and the zone file.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::HeaderValue;
use axum::http::header::{CONTENT_DISPOSITION, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use domain::id::DomainId;
use domain::published::rfc3339;
use domain::sending_domain::records::{Expected, RecordKind, judge, questions, satisfies, zone_file};
use domain::sending_domain::{Found, RecordCheck, SendingDomain};
use mail::auth::{DnsError, RecordType, Resolver, published};
use serde::Serialize;
use utoipa::ToSchema;

use super::domain_view::{MailboxDomainVerifyResult, published_keys, records_of};
use super::domains::{Existing, existing};
use crate::auth::{Call, Scoped, guards};
use crate::envelope::{Data, Reply};
use crate::openapi::Routes;
use crate::path::Id;
use crate::problem::{Code, Problem};
use crate::{App, door};

pub(super) fn routes() -> Routes {
    Routes::new().with(door!(verify_domain)).with(door!(get_domain_zone_file)).with(door!(get_domain_records))
}

/// When to ask again where the DNS did not answer, seconds.
const RETRY_AFTER_SECONDS: u64 = 30;
/// Longest time for all records of a domain.
const PATIENCE: Duration = Duration::from_secs(20);

/// Looks up everything that is expected.
async fn look_up(resolver: &dyn Resolver, expected: &[Expected]) -> Result<Vec<Found>, DnsError> {
    let looks = questions(expected).into_iter().map(async |question| {
        let kind = if question.kind.is_exchanger() { RecordType::Mx } else { RecordType::Txt };
        let values = published(resolver, &question.name, kind).await?;
        Ok(Found { kind: question.kind, name: question.name, values })
    });
    futures_util::future::try_join_all(looks).await
}

/// Verify a domain
///
/// Looks its records up now, as is done by itself every six hours. When the DNS does not answer, nothing changes.
#[utoipa::path(
    post,
    path = "/domains/{public_id}/verify",
    tag = "Domains",
    operation_id = "managementVerifyDomain",
    params(("public_id" = String, Path, description = "Domain id", example = "mdom_06bqmn3t0d4gq2v8xk1hz7sw")),
    responses(
        (status = 200, description = "What was found right", body = Data<MailboxDomainVerifyResult>),
        (status = 404, description = "No such domain", body = crate::problem::Body),
        (status = 409, description = "It changed while it was looked up", body = crate::problem::Body),
        (status = 503, description = "The DNS does not answer", body = crate::problem::Body),
    ),
)]
async fn verify_domain(
    call: Scoped<guards::DomainVerify>,
    State(app): State<App>,
    Id(id): Id<DomainId>,
) -> Result<Reply<Data<MailboxDomainVerifyResult>>, Problem> {
    let Existing { domain, .. } = existing(&app, &call, &id).await?;
    let unanswered = || {
        let message = "The DNS did not answer; nothing was changed.";
        Problem::new(Code::ServiceUnavailable, message).retry_after(RETRY_AFTER_SECONDS)
    };
    let resolver: Arc<dyn Resolver> = app.resolver.clone().ok_or_else(unanswered)?;
    let expected = records_of(&call.caller.team, &domain, None, (&app.config.installation, call.at));
    let found = match tokio::time::timeout(PATIENCE, look_up(resolver.as_ref(), &expected)).await {
        Ok(Ok(found)) => found,
        Ok(Err(_)) | Err(_) => return Err(unanswered()),
    };
    let (checks, published) = judge(&expected, &found, &domain.keys, &domain.name);
    let checked_at = app.allot.now();
    let if_version = Some(domain.version);
    let command = RecordCheck { domain: id.clone(), checks, found, published, checked_at, if_version };
    // Who changed the domain meanwhile may have changed what was to be looked up: the version decides.
    let state = app.append(&call, call.submission(command)).await?.state;
    Ok(Reply::ok(call.data(MailboxDomainVerifyResult::new(&state, checks, checked_at))))
}

/// Get a domain's zone file
///
/// All its records as lines of a zone file (RFC 1035 §5).
#[utoipa::path(
    get,
    path = "/domains/{public_id}/zone-file",
    tag = "Domains",
    operation_id = "managementGetDomainZoneFile",
    params(("public_id" = String, Path, description = "Domain id", example = "mdom_06bqmn3t0d4gq2v8xk1hz7sw")),
    responses(
        (status = 200, description = "The zone file", content_type = "text/plain", body = String, headers(("Content-Disposition" = String))),
        (status = 404, description = "No such domain", body = crate::problem::Body),
    ),
)]
async fn get_domain_zone_file(
    call: Scoped<guards::DomainRead>,
    State(app): State<App>,
    Id(id): Id<DomainId>,
) -> Result<Response, Problem> {
    let Existing { row, domain, .. } = existing(&app, &call, &id).await?;
    let records = records_of(&call.caller.team, &domain, row.retired_at, (&app.config.installation, call.at));
    // A domain is made of letters, digits, hyphens and dots, so that it needs no escape.
    let disposition = HeaderValue::try_from(format!("attachment; filename=\"{}.zone\"", domain.name))
        .unwrap_or_else(|_| HeaderValue::from_static("attachment"));
    let plain = HeaderValue::from_static("text/plain; charset=utf-8");
    Ok(([(CONTENT_TYPE, plain), (CONTENT_DISPOSITION, disposition)], zone_file(&records)).into_response())
}

/// A record as it must be and as it was found.
#[derive(Debug, Clone, Serialize, ToSchema)]
struct DomainRecord {
    /// What it is for: `verification`, `spf`, `dmarc`, `dkim`, `mx`, `mail_from_mx`, `mail_from_spf`.
    purpose: &'static str,
    /// `TXT` or `MX`.
    #[serde(rename = "type")]
    kind: &'static str,
    name: String,
    /// The value that is expected.
    value: String,
    /// The preference of an MX record.
    #[schema(required)]
    priority: Option<u16>,
    /// The signing key it belongs to.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    selector: Option<String>,
    /// `ok`, `missing` (nothing is there), `mismatch` (something else is there), `unchecked`.
    status: &'static str,
    /// What the last check found under this name.
    found: Vec<String>,
}

/// The records of a domain.
#[derive(Debug, Clone, Serialize, ToSchema)]
struct DomainRecords {
    records: Vec<DomainRecord>,
    /// When they were last found changed; null before the first check.
    #[schema(required)]
    checked_at: Option<String>,
}

fn purpose(kind: RecordKind) -> &'static str {
    match kind {
        RecordKind::Verification => "verification",
        RecordKind::Spf => "spf",
        RecordKind::Dmarc => "dmarc",
        RecordKind::Dkim => "dkim",
        RecordKind::Mx => "mx",
        RecordKind::MailFromMx => "mail_from_mx",
        RecordKind::MailFromSpf => "mail_from_spf",
    }
}

impl DomainRecord {
    fn of(record: Expected, domain: &SendingDomain, selectors: &[String]) -> Self {
        let here = |f: &&Found| f.kind == record.kind && f.name.eq_ignore_ascii_case(&record.name);
        let found = domain.found.iter().find(here).map(|f| f.values.clone());
        let status = match &found {
            None => "unchecked",
            Some(values) if satisfies(&record, values) => "ok",
            Some(values) if values.is_empty() => "missing",
            Some(_) => "mismatch",
        };
        let selector = (record.kind == RecordKind::Dkim)
            .then(|| selectors.iter().find(|s| record.name.split('.').next() == Some(s.as_str())).cloned());
        Self {
            purpose: purpose(record.kind),
            kind: record.kind.record_type(),
            priority: record.priority,
            selector: selector.flatten(),
            status,
            found: found.unwrap_or_default(),
            name: record.name,
            value: record.value,
        }
    }
}

fn shown(app: &App, call: &Call, Existing { row, domain, .. }: &Existing) -> DomainRecords {
    let records = records_of(&call.caller.team, domain, row.retired_at, (&app.config.installation, call.at));
    let keys = published_keys(domain, row.retired_at, call.at);
    let selectors: Vec<String> = keys.into_iter().map(|key| key.selector).collect();
    DomainRecords {
        records: records.into_iter().map(|record| DomainRecord::of(record, domain, &selectors)).collect(),
        checked_at: domain.checked_at.map(rfc3339),
    }
}

/// Get a domain's DNS records
///
/// Each record as it must be, and what the last check found in its place.
#[utoipa::path(
    get,
    path = "/domains/{public_id}/records",
    tag = "Domains",
    operation_id = "managementGetDomainRecords",
    params(("public_id" = String, Path, description = "Domain id", example = "mdom_06bqmn3t0d4gq2v8xk1hz7sw")),
    responses(
        (status = 200, description = "The records", body = Data<DomainRecords>),
        (status = 404, description = "No such domain", body = crate::problem::Body),
    ),
)]
async fn get_domain_records(
    call: Scoped<guards::DomainRead>,
    State(app): State<App>,
    Id(id): Id<DomainId>,
) -> Result<Reply<Data<DomainRecords>>, Problem> {
    let existing = existing(&app, &call, &id).await?;
    Ok(Reply::ok(call.data(shown(&app, &call, &existing))))
}
