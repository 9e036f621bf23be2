//! What a mailbox sent: who it goes to and how far it is (RFC 8621 §7).

use axum::extract::State;
use domain::id::{MailboxId, MessageId, OutboundId, ThreadId};
use domain::outbound::Status;
use domain::published::rfc3339;
use projections::outbound::{self, Filter, RecipientProgress, Row, Sort, SortBy, UndoStatus};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::changes::{Feed, MailboxChanges};
use super::email_view::reason;
use super::message_view::state_token;
use crate::auth::{Call, Scoped, guards};
use crate::envelope::{Data, List, Reply};
use crate::etag::{ETag, IfNoneMatch};
use crate::openapi::{IfNoneMatchHeader, MailboxSelection, Routes};
use crate::path::Id;
use crate::problem::Problem;
use crate::query::{Limit, Query, page, time};
use crate::{App, door};

pub(super) fn routes() -> Routes {
    Routes::new().with(door!(list_submissions)).with(door!(get_submission)).with(door!(get_submission_changes))
}

const PREFIX: &str = "sub_";
/// The most ids one parameter may name.
const IDS_MAX: usize = 100;

/// Returns the id of a mail's submission: the mail's own under another prefix.
pub(super) fn submission_id(mail: &OutboundId) -> String {
    format!("{PREFIX}{}", &mail.as_str()[OutboundId::PREFIX.len()..])
}

/// The id of a submission.
struct SubmissionId(OutboundId);

impl std::str::FromStr for SubmissionId {
    type Err = ();
    fn from_str(text: &str) -> Result<Self, ()> {
        let rest = text.strip_prefix(PREFIX).ok_or(())?;
        format!("{}{rest}", OutboundId::PREFIX).parse().map(Self).map_err(|_| ())
    }
}

/// Returns the id of a mailbox's one identity: the mailbox's own under another prefix.
fn identity_id(mailbox: &MailboxId) -> String {
    format!("id_{}", &mailbox.as_str()[MailboxId::PREFIX.len()..])
}

/// An address of an envelope.
#[derive(Debug, Clone, Serialize, ToSchema)]
struct MailboxSubmissionEnvelopeAddress {
    email: String,
    /// Always null.
    #[schema(required)]
    parameters: Option<std::collections::BTreeMap<String, Option<String>>>,
}

/// An envelope (RFC 5321 §2.3.1).
#[derive(Debug, Clone, Serialize, ToSchema)]
struct MailboxSubmissionEnvelope {
    #[schema(required)]
    mail_from: Option<MailboxSubmissionEnvelopeAddress>,
    rcpt_to: Vec<MailboxSubmissionEnvelopeAddress>,
}

/// How far the mail for one recipient is.
#[derive(Debug, Clone, Serialize, ToSchema)]
struct MailboxSubmissionDeliveryStatus {
    email: String,
    /// What the server said last.
    #[schema(required)]
    smtp_reply: Option<String>,
    /// `queued`, `yes`, `no` or `unknown`.
    #[schema(required, example = "yes")]
    delivered: Option<&'static str>,
    /// `yes` or `unknown`.
    #[schema(required, example = "unknown")]
    displayed: Option<&'static str>,
}

/// A mail that the mailbox sent.
#[derive(Debug, Clone, Serialize, ToSchema)]
struct MailboxSubmission {
    #[schema(example = "sub_06bqmn3t0d4gq2v8xk1hz7sw")]
    id: String,
    #[schema(required, example = "id_06bqmn3t0d4gq2v8xk1hz7sw")]
    identity_id: Option<String>,
    /// The copy in Sent.
    #[schema(required, example = "msg_06bqmn3t0d4gq2v8xk1hz7sw")]
    email_id: Option<String>,
    #[schema(required, example = "thr_06bqmn3t0d4gq2v8xk1hz7sw")]
    thread_id: Option<String>,
    /// When it was or is to be sent first.
    #[schema(required)]
    send_at: Option<String>,
    /// Whether it can still be cancelled: `pending`, `final` or `canceled`.
    #[schema(required, example = "final")]
    undo_status: Option<&'static str>,
    /// Null after erasure.
    #[schema(required)]
    envelope: Option<MailboxSubmissionEnvelope>,
    delivery_status: Vec<MailboxSubmissionDeliveryStatus>,
    dsn_blob_ids: Vec<String>,
    mdn_blob_ids: Vec<String>,
    /// The mail's id in webhooks and in the delivery log.
    #[schema(example = "eml_06bqmn3t0d4gq2v8xk1hz7sw")]
    sendmux_message_id: String,
}

fn delivered(at: &RecipientProgress) -> &'static str {
    match at.status {
        Status::Waiting | Status::InFlight { .. } => "queued",
        Status::Delivered => "yes",
        Status::Bounced | Status::Rejected | Status::Cancelled => "no",
        // Another server has it, and may not say what becomes of it.
        Status::Sent | Status::Uncertain { .. } | Status::Unknown => "unknown",
    }
}

/// Returns what a server said last, as a reply line.
fn smtp_reply(at: &RecipientProgress) -> Option<String> {
    let Some(verdict) = at.verdict else { return reason(at) };
    let words = at.diagnostic.clone().unwrap_or_else(|| verdict.category.as_str().to_owned());
    match verdict.smtp_code {
        Some(code) if !words.starts_with(&code.to_string()) => {
            let enhanced = verdict.enhanced_text().map(|text| format!("{text} ")).unwrap_or_default();
            Some(format!("{code} {enhanced}{words}"))
        }
        _ => Some(words),
    }
}

impl MailboxSubmission {
    fn new(row: &Row) -> Self {
        let address = |email: String| MailboxSubmissionEnvelopeAddress { email, parameters: None };
        let envelope = row.letter.as_ref().map(|letter| MailboxSubmissionEnvelope {
            mail_from: Some(address(letter.return_path.clone().unwrap_or_else(|| letter.from.email.clone()))),
            rcpt_to: letter.recipients.iter().map(|person| address(person.email.clone())).collect(),
        });
        let delivery_status = row.recipients().filter_map(|(_, person, at)| {
            Some(MailboxSubmissionDeliveryStatus {
                email: person?.email.clone(),
                smtp_reply: smtp_reply(at),
                delivered: Some(delivered(at)),
                displayed: Some(if at.opened_at.is_some() { "yes" } else { "unknown" }),
            })
        });
        Self {
            id: submission_id(&row.id),
            identity_id: row.mailbox.as_ref().map(identity_id),
            email_id: row.copy.as_ref().map(ToString::to_string),
            thread_id: row.thread.as_ref().map(ToString::to_string),
            send_at: Some(rfc3339(row.send_at)),
            undo_status: Some(row.undo_status.as_str()),
            envelope,
            delivery_status: delivery_status.collect(),
            dsn_blob_ids: vec![],
            mdn_blob_ids: vec![],
            sendmux_message_id: row.id.to_string(),
        }
    }
}

#[derive(Debug, Clone, Copy, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum UndoName {
    Pending,
    Final,
    Canceled,
}

impl From<UndoName> for UndoStatus {
    fn from(name: UndoName) -> Self {
        match name {
            UndoName::Pending => Self::Pending,
            UndoName::Final => Self::Final,
            UndoName::Canceled => Self::Canceled,
        }
    }
}

#[derive(Debug, Clone, Copy, Default, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum SubmissionSort {
    #[default]
    SendAt,
    EmailId,
    ThreadId,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum SubmissionDirection {
    Asc,
    #[default]
    Desc,
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
    /// Comma-separated, at most 100.
    identity_ids: Option<String>,
    /// Comma-separated ids of copies in Sent, at most 100.
    email_ids: Option<String>,
    /// Comma-separated, at most 100.
    thread_ids: Option<String>,
    /// Only those that can still be cancelled, cannot, or were.
    #[param(inline)]
    undo_status: Option<UndoName>,
    /// Only those sent, or to be sent, at or after this time or date (UTC).
    #[serde(default, deserialize_with = "time")]
    #[param(value_type = Option<String>)]
    after: Option<i64>,
    /// Only those sent, or to be sent, before this time or date (UTC).
    #[serde(default, deserialize_with = "time")]
    #[param(value_type = Option<String>)]
    before: Option<i64>,
    /// `send_at` by default.
    #[serde(default)]
    #[param(inline, value_type = Option<SubmissionSort>)]
    sort_by: SubmissionSort,
    /// `desc` by default.
    #[serde(default)]
    #[param(inline, value_type = Option<SubmissionDirection>)]
    sort_direction: SubmissionDirection,
}

/// Reads a list of ids; ids of nothing are left out, so that a list of them alone finds nothing.
fn wanted<Id: std::str::FromStr>(field: &str, text: Option<&str>) -> Result<Option<Vec<Id>>, Problem> {
    let Some(text) = text else { return Ok(None) };
    let all: Vec<_> = text.split(',').map(str::trim).filter(|id| !id.is_empty()).collect();
    if all.len() > IDS_MAX {
        let message = format!("{field} must name at most {IDS_MAX} ids");
        return Err(Problem::invalid(field, "too_many", message));
    }
    Ok(Some(all.into_iter().filter_map(|id| id.parse().ok()).collect()))
}

impl ListQuery {
    /// Returns what is wanted; `None` where nothing can be found.
    fn filter(&self, mailbox: &MailboxId) -> Result<Option<Filter>, Problem> {
        let identities = wanted::<String>("identity_ids", self.identity_ids.as_deref())?;
        let copies = wanted::<MessageId>("email_ids", self.email_ids.as_deref())?;
        let threads = wanted::<ThreadId>("thread_ids", self.thread_ids.as_deref())?;
        let own = identity_id(mailbox);
        let none = identities.is_some_and(|ids| !ids.contains(&own))
            || copies.as_ref().is_some_and(Vec::is_empty)
            || threads.as_ref().is_some_and(Vec::is_empty);
        Ok((!none).then(|| Filter {
            mailbox: Some(mailbox.clone()),
            copies: copies.unwrap_or_default(),
            threads: threads.unwrap_or_default(),
            undo_status: self.undo_status.map(UndoStatus::from),
            after: self.after,
            before: self.before,
        }))
    }

    fn sort(&self) -> Sort {
        let by = match self.sort_by {
            SubmissionSort::SendAt => SortBy::SendAt,
            SubmissionSort::EmailId => SortBy::Copy,
            SubmissionSort::ThreadId => SortBy::Thread,
        };
        Sort { by, ascending: self.sort_direction == SubmissionDirection::Asc }
    }
}

/// The meta object of the submission list.
#[derive(Debug, Clone, Serialize, ToSchema)]
struct MailboxSubmissionsMeta {
    /// The request's id.
    request_id: String,
    /// The state of the mailbox's submissions, for `GET /mailbox/submissions/changes`.
    query_state: String,
}

/// List submissions
///
/// What the mailbox sent, newest first.
#[utoipa::path(
    get,
    path = "/mailbox/submissions",
    tag = "Mailbox API",
    operation_id = "mailboxListSubmissions",
    params(ListQuery, MailboxSelection),
    responses(
        (status = 200, description = "Submissions", body = List<MailboxSubmission, MailboxSubmissionsMeta>),
        (status = 400, description = "Invalid parameter", body = crate::problem::Body),
    ),
)]
async fn list_submissions(
    call: Scoped<guards::MailboxRead>,
    State(app): State<App>,
    Query(query): Query<ListQuery>,
) -> Result<Reply<List<MailboxSubmission, MailboxSubmissionsMeta>>, Problem> {
    let (team, mailbox) = (&call.caller.team, call.mailbox()?);
    // The state is read first: what changes between the two is told again by the changes since then, never left out.
    let state = outbound::state(&app.views, team, Some(mailbox)).await?;
    let (rows, next_cursor) = match query.filter(mailbox)? {
        None => (vec![], None),
        Some(filter) => {
            let sort = query.sort();
            let paged = outbound::list(&app.views, team, &filter, sort, &page(query.cursor, query.limit)).await?;
            (paged.rows, paged.next_cursor)
        }
    };
    let meta =
        MailboxSubmissionsMeta { request_id: call.request.to_string(), query_state: state_token(&app, &call, state) };
    let data = rows.iter().map(MailboxSubmission::new).collect();
    Ok(Reply::ok(List { ok: true, data, pagination: next_cursor.into(), meta }))
}

/// Returns a mail that the caller's mailbox sent.
async fn existing(app: &App, call: &Call, id: &OutboundId) -> Result<Row, Problem> {
    let row = outbound::get(&app.views, &call.caller.team, id).await?;
    let mailbox = call.mailbox()?;
    row.filter(|row| row.mailbox.as_ref() == Some(mailbox)).ok_or_else(Problem::not_found)
}

/// Get a submission
#[utoipa::path(
    get,
    path = "/mailbox/submissions/{submission_id}",
    tag = "Mailbox API",
    operation_id = "mailboxGetSubmission",
    params(
        ("submission_id" = String, Path, description = "Submission id", example = "sub_06bqmn3t0d4gq2v8xk1hz7sw"),
        IfNoneMatchHeader,
        MailboxSelection,
    ),
    responses(
        (status = 200, description = "The submission", body = Data<MailboxSubmission>, headers(("ETag" = String))),
        (status = 304, description = "Not modified"),
        (status = 404, description = "No such submission", body = crate::problem::Body),
    ),
)]
async fn get_submission(
    call: Scoped<guards::MailboxRead>,
    State(app): State<App>,
    Id(SubmissionId(id)): Id<SubmissionId>,
    known: IfNoneMatch,
) -> Result<Reply<Data<MailboxSubmission>>, Problem> {
    let row = existing(&app, &call, &id).await?;
    let tag = ETag::of_version(row.version);
    if known.has(&tag) {
        return Ok(Reply::not_modified(&tag));
    }
    Ok(Reply::ok(call.data(MailboxSubmission::new(&row))).tagged(&tag))
}

/// Parameters of the changes.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct ChangesQuery {
    /// The state to start from; without it, where things stand now.
    since_state: Option<String>,
    /// How many changes at most.
    #[serde(default)]
    #[param(value_type = Option<u32>, minimum = 1, maximum = 500, default = 50)]
    limit: Limit<500, 50>,
}

/// Get submission changes
///
/// What changed since a state.
#[utoipa::path(
    get,
    path = "/mailbox/submissions/changes",
    tag = "Mailbox API",
    operation_id = "mailboxGetSubmissionChanges",
    params(ChangesQuery, MailboxSelection),
    responses(
        (status = 200, description = "What changed", body = Data<MailboxChanges>),
        (status = 400, description = "Invalid state", body = crate::problem::Body),
    ),
)]
async fn get_submission_changes(
    call: Scoped<guards::MailboxRead>,
    State(app): State<App>,
    Query(query): Query<ChangesQuery>,
) -> Result<Reply<Data<MailboxChanges>>, Problem> {
    let feed = Feed::new(&app, &call, query.limit.get()).await?;
    let changes = feed.submissions("since_state", query.since_state.as_deref()).await?;
    Ok(Reply::ok(call.data(changes)))
}
