//! The delivery log: what became of each outgoing mail, and all that happened to it.

use axum::extract::State;
use domain::StreamId;
use domain::Versioned;
use domain::id::{DeliveryLogId, ProviderId};
use domain::outbound::Status;
use domain::provider::Provider;
use domain::published::rfc3339;
use projections::email_logs::{self, Filter, Happened};
use projections::outbound::{LogStatus, Row, providers_of};
use projections::providers;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::email_view::{EmailOutcome, Said, kind_name, postponed_name, reason, status_reason, trouble_name};
use crate::auth::{Call, Scoped, guards};
use crate::envelope::{Data, List, Reply};
use crate::etag::{ETag, IfNoneMatch};
use crate::openapi::{IfNoneMatchHeader, Routes};
use crate::path::Id;
use crate::problem::Problem;
use crate::query::{Limit, Query, end_time, page, time};
use crate::{App, door};

pub(super) fn routes() -> Routes {
    Routes::new()
        .with(door!(list_email_logs))
        .with(door!(get_email_log))
        .with(door!(list_email_log_history))
        .with(door!(list_email_log_transcripts))
}

/// One outgoing mail.
#[derive(Debug, Clone, Serialize, ToSchema)]
struct DeliveryLogItem {
    #[schema(example = "dlog_06bqmn3t0d4gq2v8xk1hz7sw")]
    id: String,
    /// The account it was last given to.
    #[schema(required)]
    provider_id: Option<String>,
    #[schema(required)]
    provider_name: Option<String>,
    /// The delivery groups it asked for.
    #[schema(required)]
    delivery_group: Option<Vec<String>>,
    /// The Message-ID, without angle brackets.
    #[schema(required)]
    message_id: Option<String>,
    #[schema(required)]
    from_email: Option<String>,
    /// Always null: addresses are not rewritten.
    #[schema(required)]
    sent_from_email: Option<String>,
    /// The first recipient.
    #[schema(required)]
    to_email: Option<String>,
    #[schema(required)]
    subject: Option<String>,
    status: EmailLogStatus,
    #[schema(required)]
    status_reason: Option<String>,
    attempts: u32,
    #[schema(required)]
    sent_at: Option<String>,
    #[schema(required)]
    size_bytes: Option<i64>,
    created_at: String,
    #[schema(required)]
    recipient_count: Option<usize>,
    /// Recipients for whom somebody took it, whatever came after.
    #[schema(required)]
    accepted_recipient_count: Option<usize>,
    /// Recipients for whom nobody took it and nobody will.
    #[schema(required)]
    rejected_recipient_count: Option<usize>,
    /// The mail's id in the sending API.
    #[schema(example = "eml_06bqmn3t0d4gq2v8xk1hz7sw")]
    email_id: String,
    /// The mailbox that sent it.
    #[schema(required)]
    mailbox_id: Option<String>,
    /// The key it was handed in with.
    #[schema(required)]
    key_id: Option<String>,
    /// When it was or is to be sent first.
    send_at: String,
    /// When it is tried next.
    #[schema(required)]
    next_attempt_at: Option<String>,
    /// Whether it waits until it is resumed.
    is_held: bool,
}

/// Whether a recipient's mail was taken.
#[derive(Debug, Clone, Serialize, ToSchema)]
struct DeliveryLogRecipient {
    email: String,
    #[serde(rename = "type")]
    #[schema(required)]
    kind: Option<&'static str>,
    /// `accepted` or `rejected`.
    #[schema(example = "accepted")]
    status: &'static str,
    #[schema(required)]
    reason: Option<String>,
}

/// One outgoing mail with its recipients.
#[derive(Debug, Clone, Serialize, ToSchema)]
struct DeliveryLogDetail {
    #[serde(flatten)]
    item: DeliveryLogItem,
    /// Those whose outcome is known, in order; null while there is none.
    #[schema(required)]
    recipients: Option<Vec<DeliveryLogRecipient>>,
    /// Where each recipient is, in order.
    outcomes: Vec<EmailOutcome>,
    tags: Vec<String>,
    metadata: std::collections::BTreeMap<String, String>,
    /// Lower-case hex of the SHA-256 of the mail before it was signed.
    sha256: String,
}

/// The states entries are listed by.
#[derive(Debug, Clone, Copy, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum EmailLogStatus {
    Pending,
    Sent,
    Failed,
    Rejected,
}

impl From<LogStatus> for EmailLogStatus {
    fn from(status: LogStatus) -> Self {
        match status {
            LogStatus::Pending => Self::Pending,
            LogStatus::Sent => Self::Sent,
            LogStatus::Failed => Self::Failed,
            LogStatus::Rejected => Self::Rejected,
        }
    }
}

impl From<EmailLogStatus> for LogStatus {
    fn from(status: EmailLogStatus) -> Self {
        match status {
            EmailLogStatus::Pending => Self::Pending,
            EmailLogStatus::Sent => Self::Sent,
            EmailLogStatus::Failed => Self::Failed,
            EmailLogStatus::Rejected => Self::Rejected,
        }
    }
}

/// Returns whether nobody took a recipient's mail and nobody will.
fn is_rejected(status: Status, taken: bool) -> bool {
    !taken && matches!(status, Status::Rejected | Status::Bounced | Status::Cancelled)
}

impl DeliveryLogItem {
    fn new(row: &Row, provider_name: Option<String>) -> Self {
        let letter = row.letter.as_ref();
        let groups: Vec<_> = row.facts.groups.iter().map(ToString::to_string).collect();
        let progress = &row.progress.recipients;
        Self {
            id: row.log.to_string(),
            provider_id: row.provider.as_ref().map(ToString::to_string),
            provider_name,
            delivery_group: (!groups.is_empty()).then_some(groups),
            message_id: letter.map(|l| l.rfc5322_message_id.clone()),
            from_email: letter.map(|l| l.from.email.clone()),
            sent_from_email: None,
            to_email: letter.and_then(|l| l.recipients.first()).map(|p| p.email.clone()),
            subject: letter.and_then(|l| l.subject.clone()),
            status: row.log_status.into(),
            status_reason: status_reason(row),
            attempts: row.progress.attempts,
            sent_at: row.sent_at.map(rfc3339),
            size_bytes: Some(row.facts.size_bytes),
            created_at: rfc3339(row.accepted_at),
            recipient_count: Some(progress.len()),
            accepted_recipient_count: Some(progress.iter().filter(|r| r.taken).count()),
            rejected_recipient_count: Some(progress.iter().filter(|r| is_rejected(r.status, r.taken)).count()),
            email_id: row.id.to_string(),
            mailbox_id: row.mailbox.as_ref().map(ToString::to_string),
            key_id: row.key.as_ref().map(ToString::to_string),
            send_at: rfc3339(row.send_at),
            next_attempt_at: row.due_at.map(rfc3339),
            is_held: row.progress.paused,
        }
    }
}

impl DeliveryLogDetail {
    fn new(row: &Row, provider_name: Option<String>) -> Self {
        let known = row.recipients().filter(|(_, _, at)| at.taken || is_rejected(at.status, at.taken));
        let recipients: Vec<_> = known
            .filter_map(|(to, person, at)| {
                Some(DeliveryLogRecipient {
                    email: person?.email.clone(),
                    kind: Some(kind_name(to.kind)),
                    status: if at.taken { "accepted" } else { "rejected" },
                    reason: reason(at),
                })
            })
            .collect();
        let labels = row.letter.as_ref().map(|l| l.labels.clone()).unwrap_or_default();
        Self {
            item: DeliveryLogItem::new(row, provider_name),
            recipients: (!recipients.is_empty()).then_some(recipients),
            outcomes: EmailOutcome::all(row),
            tags: labels.tags,
            metadata: labels.metadata,
            sha256: row.facts.sha256.clone(),
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
    #[param(value_type = Option<u32>, minimum = 1, maximum = 100, default = 25)]
    limit: Limit<100, 25>,
    /// Only mail in this state.
    #[param(inline)]
    status: Option<EmailLogStatus>,
    /// Only from this time or date (UTC) on.
    #[serde(default, deserialize_with = "time")]
    #[param(value_type = Option<String>)]
    from_date: Option<i64>,
    /// Only up to this time, or to the end of this date (UTC).
    #[serde(default, deserialize_with = "end_time")]
    #[param(value_type = Option<String>)]
    to_date: Option<i64>,
    /// Only what was last given to this account.
    provider_id: Option<String>,
    /// Only where sender, recipient, subject or Message-ID contains this.
    search: Option<String>,
}

/// List outgoing mail
///
/// Newest first.
#[utoipa::path(
    get,
    path = "/emails/logs",
    tag = "Delivery log",
    operation_id = "managementListEmailLogs",
    params(ListQuery),
    responses((status = 200, description = "Outgoing mail", body = List<DeliveryLogItem>)),
)]
async fn list_email_logs(
    call: Scoped<guards::LogsRead>,
    State(app): State<App>,
    Query(query): Query<ListQuery>,
) -> Result<Reply<List<DeliveryLogItem>>, Problem> {
    let provider = match query.provider_id.map(|id| id.parse::<ProviderId>()) {
        None => None,
        Some(Ok(id)) => Some(id),
        // No account has such an id, so nothing left through it.
        Some(Err(_)) => return Ok(Reply::ok(call.list(vec![], None))),
    };
    let filter = Filter {
        status: query.status.map(LogStatus::from),
        provider,
        mailbox: None,
        from: query.from_date,
        to: query.to_date,
        search: query.search.filter(|text| !text.is_empty()),
    };
    let team = &call.caller.team;
    let paged = email_logs::list(&app.views, team, &filter, &page(query.cursor, query.limit)).await?;
    let names = providers::names(&app.views, team, &providers_of(&paged.rows)).await?;
    let name = |row: &Row| row.provider.as_ref().and_then(|id| names.get(id)).cloned();
    let items = paged.rows.iter().map(|row| DeliveryLogItem::new(row, name(row))).collect();
    Ok(Reply::ok(call.list(items, paged.next_cursor)))
}

/// Returns an entry of the caller's team.
pub(super) async fn existing(app: &App, call: &Call, id: &DeliveryLogId) -> Result<Row, Problem> {
    email_logs::get(&app.views, &call.caller.team, id).await?.ok_or_else(Problem::not_found)
}

/// Get one outgoing mail
///
/// With the outcome of each recipient. Once all of them are settled it hardly changes any more.
#[utoipa::path(
    get,
    path = "/emails/logs/{public_id}",
    tag = "Delivery log",
    operation_id = "managementGetEmailLog",
    params(("public_id" = String, Path, description = "Log id", example = "dlog_06bqmn3t0d4gq2v8xk1hz7sw"), IfNoneMatchHeader),
    responses(
        (status = 200, description = "The mail", body = Data<DeliveryLogDetail>, headers(("ETag" = String))),
        (status = 304, description = "Not modified"),
        (status = 404, description = "No such entry", body = crate::problem::Body),
    ),
)]
async fn get_email_log(
    call: Scoped<guards::LogsRead>,
    State(app): State<App>,
    Id(id): Id<DeliveryLogId>,
    known: IfNoneMatch,
) -> Result<Reply<Data<DeliveryLogDetail>>, Problem> {
    let row = existing(&app, &call, &id).await?;
    let names = providers::names(&app.views, &call.caller.team, &row.provider.iter().cloned().collect()).await?;
    let name = row.provider.as_ref().and_then(|id| names.get(id)).cloned();
    let detail = DeliveryLogDetail::new(&row, name);
    // The account's name is shown too, so the version of the mail alone does not say whether anything changed.
    let tag = ETag::of_json(&detail);
    if known.has(&tag) {
        return Ok(Reply::not_modified(&tag));
    }
    Ok(Reply::ok(call.data(detail)).tagged(&tag))
}

/// One thing that happened to a mail.
#[derive(Debug, Clone, Serialize, ToSchema)]
struct EmailLogEvent {
    #[schema(example = "evt_06bqmn3t0d4gq2v8xk1hz7sw")]
    id: String,
    /// Its place in the team's log.
    sequence: u64,
    occurred_at: String,
    /// Its name in the log.
    #[schema(example = "outbound.deferred")]
    event: String,
    /// Who caused it, as `kind:id`.
    actor: String,
    /// The places, from 0, of the recipients it is about; none where it is about the whole mail.
    recipients: Vec<u8>,
    #[schema(required)]
    attempt: Option<u32>,
    #[schema(required)]
    provider_id: Option<String>,
    #[schema(required)]
    said: Option<Said>,
    /// Why an attempt came to nothing, why it was refused, or why it waits.
    #[schema(required)]
    reason: Option<String>,
    /// When it goes on.
    #[schema(required)]
    until: Option<String>,
    /// The server's words.
    #[schema(required)]
    diagnostic: Option<String>,
    #[schema(required)]
    remote_mta: Option<String>,
    #[schema(required)]
    provider_message_id: Option<String>,
}

impl From<Happened> for EmailLogEvent {
    fn from(happened: Happened) -> Self {
        let said = happened.said;
        let reason = said
            .trouble
            .map(trouble_name)
            .or(said.rejected.map(|r| r.as_str()))
            .or(said.postponed.map(postponed_name))
            .or(said.complaint.map(|c| c.as_str()));
        Self {
            id: happened.event.to_string(),
            sequence: happened.position,
            occurred_at: rfc3339(happened.at),
            event: happened.name,
            actor: happened.actor,
            recipients: said.recipients,
            attempt: said.attempt,
            provider_id: said.account.map(|id| id.to_string()),
            said: said.verdict.map(Said::from),
            reason: reason.map(str::to_owned),
            until: said.until.map(rfc3339),
            diagnostic: said.diagnostic,
            remote_mta: said.remote_mta,
            provider_message_id: said.provider_message_id,
        }
    }
}

/// Parameters of the history.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct HistoryQuery {
    /// The `next_cursor` of the page before.
    cursor: Option<String>,
    /// How many at most.
    #[serde(default)]
    #[param(value_type = Option<u32>, minimum = 1, maximum = 100, default = 50)]
    limit: Limit<100, 50>,
}

/// List what happened to a mail
///
/// Oldest first: accepted, each attempt, each answer.
#[utoipa::path(
    get,
    path = "/emails/logs/{public_id}/history",
    tag = "Delivery log",
    operation_id = "managementListEmailLogHistory",
    params(("public_id" = String, Path, description = "Log id", example = "dlog_06bqmn3t0d4gq2v8xk1hz7sw"), HistoryQuery),
    responses(
        (status = 200, description = "What happened", body = List<EmailLogEvent>),
        (status = 404, description = "No such entry", body = crate::problem::Body),
    ),
)]
async fn list_email_log_history(
    call: Scoped<guards::LogsRead>,
    State(app): State<App>,
    Id(id): Id<DeliveryLogId>,
    Query(query): Query<HistoryQuery>,
) -> Result<Reply<List<EmailLogEvent>>, Problem> {
    let row = existing(&app, &call, &id).await?;
    let page = page(query.cursor, query.limit);
    let paged = email_logs::history(&app.views, &call.caller.team, &row.id, &page).await?;
    Ok(Reply::ok(call.list(paged.rows.into_iter().map(EmailLogEvent::from).collect(), paged.next_cursor)))
}

/// What was said in one attempt.
#[derive(Debug, Clone, Serialize, ToSchema)]
struct EmailTranscript {
    /// Its number, from 1.
    attempt: u32,
    provider_id: String,
    at: String,
    /// The dialogue with the server, without passwords and content.
    transcript: String,
}

/// List the SMTP transcripts of a mail
///
/// Of attempts through the team's own accounts in the last seven days, first attempt first.
#[utoipa::path(
    get,
    path = "/emails/logs/{public_id}/transcripts",
    tag = "Delivery log",
    operation_id = "managementListEmailLogTranscripts",
    params(("public_id" = String, Path, description = "Log id", example = "dlog_06bqmn3t0d4gq2v8xk1hz7sw")),
    responses(
        (status = 200, description = "Transcripts", body = List<EmailTranscript>),
        (status = 404, description = "No such entry", body = crate::problem::Body),
    ),
)]
async fn list_email_log_transcripts(
    call: Scoped<guards::LogsRead>,
    State(app): State<App>,
    Id(id): Id<DeliveryLogId>,
) -> Result<Reply<List<EmailTranscript>>, Problem> {
    let row = existing(&app, &call, &id).await?;
    let carrier = app.carrier.as_ref().ok_or_else(Problem::unavailable)?;
    let team = &call.caller.team;
    let mut shown = vec![];
    for transcript in carrier.transcripts(team, &row.id, call.at).await? {
        let stream = StreamId::Provider(transcript.account.clone());
        let account: Versioned<Provider> = app.log.state(team, &[stream]).await?;
        // How the operator's accounts log in is the operator's.
        if !account.managed {
            shown.push(EmailTranscript {
                attempt: transcript.attempt,
                provider_id: transcript.account.to_string(),
                at: rfc3339(transcript.at),
                transcript: transcript.said,
            });
        }
    }
    Ok(Reply::ok(call.list(shown, None)))
}
