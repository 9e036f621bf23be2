//! Who did what, and the proof that nothing was changed since.

use axum::extract::State;
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use domain::StreamId;
use domain::id::{
    AddressId, DomainId, GroupId, KeyId, MailboxId, MessageId, OutboundId, Position, ProviderId, WebhookId,
};
use domain::published::rfc3339;
use eventlog::chain::{Broken, Verifier};
use eventlog::{LogError, StoredRecord};
use projections::audit::{self, Filter, Row};
use serde::{Deserialize, Serialize};
use subtle::ConstantTimeEq;
use utoipa::{IntoParams, ToSchema};

use crate::auth::{Call, Scoped, guards};
use crate::envelope::{Data, List, Reply};
use crate::openapi::Routes;
use crate::problem::Problem;
use crate::query::{Limit, Query, end_time, page, time};
use crate::{App, door};

pub(super) fn routes() -> Routes {
    Routes::new().with(door!(list_audit_events)).with(door!(verify_audit))
}

/// An event of the audit log.
#[derive(Debug, Clone, Serialize, ToSchema)]
struct AuditEvent {
    #[schema(example = "evt_06bqmn3t0d4gq2v8xk1hz7sw")]
    id: String,
    /// What happened.
    #[serde(rename = "type")]
    #[schema(example = "mailbox.opened")]
    event_type: String,
    /// Its place in the team's log.
    sequence: u64,
    occurred_at: String,
    /// Who caused it: `key:<id>`, `operator`, `smtp` or `system:<part>`.
    actor: String,
    /// The key that caused it.
    #[schema(required)]
    key_id: Option<String>,
    /// What it happened to.
    #[schema(example = "mailbox/mbx_06bqmn3t0d4gq2v8xk1hz7sw")]
    #[schema(required)]
    entity: Option<String>,
    /// That entity's version after it.
    entity_version: u64,
    /// The request it belongs to.
    request_id: String,
    /// The event that led to it.
    #[schema(required)]
    caused_by: Option<String>,
    /// Where the request came from; null when unknown or erased.
    #[schema(required)]
    client_ip: Option<String>,
}

impl From<Row> for AuditEvent {
    fn from(row: Row) -> Self {
        Self {
            id: row.id.to_string(),
            event_type: row.name,
            sequence: row.position,
            occurred_at: rfc3339(row.at),
            key_id: row.actor.strip_prefix("key:").map(str::to_owned),
            actor: row.actor,
            entity: row.stream.map(|stream| stream.to_string()),
            entity_version: row.stream_version,
            request_id: row.correlation,
            caused_by: row.causation,
            client_ip: row.client_ip,
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
    /// Only what this actor caused: a key's id, or `operator`, `smtp`, `system:<part>`.
    actor: Option<String>,
    /// Only events of this type.
    #[serde(rename = "type")]
    #[param(rename = "type")]
    event_type: Option<String>,
    /// Only what happened to this entity: the id of a mailbox, key, webhook, message, domain, account, group or outgoing mail, or
    /// `team`, `balance` or `routing`.
    entity: Option<String>,
    /// Only from this time or date (UTC) on.
    #[serde(default, deserialize_with = "time")]
    #[param(value_type = Option<String>)]
    from_date: Option<i64>,
    /// Only up to this time, or to the end of this date (UTC).
    #[serde(default, deserialize_with = "end_time")]
    #[param(value_type = Option<String>)]
    to_date: Option<i64>,
}

/// Returns the stream of an entity named by its id, or by `kind/id` as the list shows it.
fn entity(text: &str) -> Result<StreamId, Problem> {
    let unknown = |_| Problem::invalid("entity", "invalid_value", "entity is not an id of this API");
    if matches!(text, "team" | "balance" | "routing") || text.contains('/') {
        return text.parse::<StreamId>().map_err(unknown);
    }
    let prefix = text.split_inclusive('_').next().unwrap_or_default();
    match prefix {
        MailboxId::PREFIX => text.parse().map(StreamId::Mailbox),
        KeyId::PREFIX => text.parse().map(StreamId::ApiKey),
        WebhookId::PREFIX => text.parse().map(StreamId::Webhook),
        DomainId::PREFIX => text.parse().map(StreamId::Domain),
        ProviderId::PREFIX => text.parse().map(StreamId::Provider),
        GroupId::PREFIX => text.parse().map(StreamId::Group),
        OutboundId::PREFIX => text.parse().map(StreamId::Outbound),
        AddressId::PREFIX => text.parse().map(StreamId::Suppression),
        _ => text.parse::<MessageId>().map(StreamId::Message),
    }
    .map_err(unknown)
}

/// List audit events
///
/// Every change of state of the team, newest first: who, what, when, from where and why.
#[utoipa::path(
    get,
    path = "/audit/events",
    tag = "Audit",
    operation_id = "managementListAuditEvents",
    params(ListQuery),
    responses((status = 200, description = "Events", body = List<AuditEvent>)),
)]
async fn list_audit_events(
    call: Scoped<guards::AuditRead>,
    State(app): State<App>,
    Query(query): Query<ListQuery>,
) -> Result<Reply<List<AuditEvent>>, Problem> {
    let actor = query.actor.map(|a| if a.starts_with(KeyId::PREFIX) { format!("key:{a}") } else { a });
    let filter = Filter {
        actor,
        name: query.event_type,
        stream: query.entity.as_deref().map(entity).transpose()?,
        from: query.from_date,
        to: query.to_date,
    };
    let page = page(query.cursor, query.limit);
    let paged = audit::list(&app.views, &call.caller.team, &filter, &page).await?;
    Ok(Reply::ok(call.list(paged.rows.into_iter().map(AuditEvent::from).collect(), paged.next_cursor)))
}

/// Where a log is not what was written.
#[derive(Debug, Clone, Serialize, ToSchema)]
struct Break {
    /// The place.
    sequence: u64,
    /// `missing`, `changed`, `personal_changed` or `head`.
    kind: &'static str,
    /// For people.
    message: String,
}

/// How far the team's log was verified.
#[derive(Debug, Clone, Serialize, ToSchema)]
struct AuditVerification {
    /// Whether everything that was walked is what was written.
    ok: bool,
    /// Whether the walk came to the end of the log; otherwise go on with `next_cursor`.
    complete: bool,
    /// The last place that was verified; everything up to here is what was written.
    verified_sequence: u64,
    /// The hash of that record, lower-case hex.
    verified_hash: String,
    /// Where the log ended when the walk began.
    head_sequence: u64,
    /// The hash in the log's head, lower-case hex.
    head_hash: String,
    /// The first record that is not what was written.
    #[schema(required)]
    first_break: Option<Break>,
    /// Where to go on.
    #[schema(required)]
    next_cursor: Option<String>,
}

/// Parameters of the verification.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct VerifyQuery {
    /// The `next_cursor` of the walk before.
    cursor: Option<String>,
}

/// Records read at once.
const RECORDS_PER_READ: usize = 1_000;

/// Verify the audit log
///
/// Recomputes the hash chain of the team's log from its first record, or from where the walk before stopped.
#[utoipa::path(
    get,
    path = "/audit/verify",
    tag = "Audit",
    operation_id = "managementVerifyAudit",
    params(VerifyQuery),
    responses((status = 200, description = "How far it is what was written", body = Data<AuditVerification>)),
)]
async fn verify_audit(
    call: Scoped<guards::AuditRead>,
    State(app): State<App>,
    Query(query): Query<VerifyQuery>,
) -> Result<Reply<Data<AuditVerification>>, Problem> {
    let team = &call.caller.team;
    // What is appended from now on is not part of this walk.
    let head = app.log.head(team).await?;
    let mut verifier = match &query.cursor {
        None => Verifier::new(team.clone()),
        Some(cursor) => {
            let (position, hash) = read_cursor(&app, &call, cursor)?;
            Verifier::resume(team.clone(), position, hash)
        }
    };
    let mut left = app.config.audit_verify_records_max;
    let mut broken = None;
    while broken.is_none() && left > 0 && verifier.verified().0 < head.position {
        let after = verifier.verified().0;
        let to_head = usize::try_from(head.position - after).unwrap_or(usize::MAX);
        let page = match app.log.read_stored(team, after, left.min(to_head).min(RECORDS_PER_READ)).await {
            Ok(page) => page,
            Err(LogError::Gap { team, expected, found }) => {
                broken = Some(Broken::Gap { team, expected, found });
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        if page.is_empty() {
            break;
        }
        left -= page.len().min(left);
        let step = |verifier: &mut Verifier, page: &[StoredRecord]| page.iter().try_for_each(|r| verifier.next(r));
        broken = step(&mut verifier, &page).err();
        tokio::task::yield_now().await;
    }
    let (position, hash) = verifier.verified();
    let complete = broken.is_some() || position >= head.position || left > 0;
    if complete && broken.is_none() {
        broken = verifier.end(&head).err();
    }
    let next_cursor = (!complete).then(|| write_cursor(&app, &call, position, hash));
    Ok(Reply::ok(call.data(AuditVerification {
        ok: broken.is_none(),
        complete,
        verified_sequence: position,
        verified_hash: hex::encode(hash),
        head_sequence: head.position,
        head_hash: hex::encode(head.hash),
        first_break: broken.as_ref().map(shown),
        next_cursor,
    })))
}

fn shown(broken: &Broken) -> Break {
    let (sequence, kind, message) = match broken {
        Broken::Gap { expected, .. } => (*expected, "missing", "The record at this place is missing."),
        Broken::Changed { position, .. } => (*position, "changed", "The record at this place was changed."),
        Broken::PersonalChanged { position, .. } => {
            (*position, "personal_changed", "The personal half of the record at this place was changed.")
        }
        Broken::Head { found, .. } => (*found, "head", "The log does not end where its head says."),
    };
    Break { sequence, kind, message: message.to_owned() }
}

const CURSOR_PURPOSE: &[u8] = b"postlog/audit-cursor/1\0";

/// Returns a cursor nobody else can make: a walk that goes on trusts the hash in it.
fn write_cursor(app: &App, call: &Call, position: Position, hash: [u8; 32]) -> String {
    let at = position.to_be_bytes();
    let mac = app.auth.pepper().mac(CURSOR_PURPOSE, &[call.caller.team.as_str().as_bytes(), &at, &hash]);
    BASE64_URL_SAFE_NO_PAD.encode([at.as_slice(), &hash, &mac].concat())
}

fn read_cursor(app: &App, call: &Call, cursor: &str) -> Result<(Position, [u8; 32]), Problem> {
    let refused = || Problem::invalid("cursor", "invalid_value", "the cursor is not one of this walk");
    let bytes = BASE64_URL_SAFE_NO_PAD.decode(cursor).map_err(|_| refused())?;
    let (at, rest) = bytes.split_first_chunk::<8>().ok_or_else(refused)?;
    let (hash, mac) = rest.split_first_chunk::<32>().ok_or_else(refused)?;
    let expected = app.auth.pepper().mac(CURSOR_PURPOSE, &[call.caller.team.as_str().as_bytes(), at, hash]);
    if !bool::from(expected.as_slice().ct_eq(mac)) {
        return Err(refused());
    }
    Ok((Position::from_be_bytes(*at), *hash))
}
