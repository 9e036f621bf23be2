//! Sending: one mail or a batch of them.

use axum::extract::State;
use domain::id::{MailboxId, OutboundId};
use domain::outbound::Origin;
use eventlog::{Answer, Idempotency, Outcome, TransactError};
use mail::compose::Limits;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::email_body::{ATTACHMENTS_MAX, EmailSendRequest, faulty};
use crate::auth::{Call, FromLog, guards};
use crate::envelope::{Data, Reply};
use crate::field::required_list;
use crate::idempotency::{Keyed, KeyedMail};
use crate::openapi::{IdempotencyHeader, Routes};
use crate::problem::{Code, ErrorBody, Problem};
use crate::send::{Composed, Staged, Terms};
use crate::{App, door};

pub(super) fn routes() -> Routes {
    Routes::new().with(door!(send_email)).with(door!(send_email_batch))
}

/// From how many bytes on a mail is composed away from other requests.
const COMPOSE_INLINE_BYTES_MAX: usize = 64 * 1024;

/// A mail that was taken over.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(super) struct SendSuccessData {
    #[schema(example = "eml_06bqmn3t0d4gq2v8xk1hz7sw")]
    message_id: String,
    /// Always `queued`.
    status: &'static str,
}

impl SendSuccessData {
    pub(super) fn queued(outbound: &OutboundId) -> Self {
        Self { message_id: outbound.to_string(), status: "queued" }
    }
}

/// What an API calls things and how many there may be.
#[derive(Debug, Clone, Copy)]
pub(super) struct Dialect {
    /// The most files of one mail.
    pub(super) attachments_max: usize,
    /// What a file's media type is called.
    pub(super) media_type: &'static str,
}

const SENDING: Dialect = Dialect { attachments_max: ATTACHMENTS_MAX, media_type: "type" };

/// Composes a draft, away from other requests when it is large.
pub(super) async fn composed(
    draft: mail::compose::Draft,
    outbound: &OutboundId,
    now: i64,
    dialect: Dialect,
) -> Result<Composed, Problem> {
    let files: usize = draft.attachments.iter().map(|file| file.content.len()).sum();
    let bodies = [&draft.text, &draft.html].into_iter().flatten().map(String::len).sum::<usize>();
    let limits = Limits { attachments_max: dialect.attachments_max, ..Limits::default() };
    let result = if files + bodies <= COMPOSE_INLINE_BYTES_MAX {
        Composed::of(draft, &limits, outbound, now)
    } else {
        let outbound = outbound.clone();
        let compose = move || Composed::of(draft, &limits, &outbound, now);
        tokio::task::spawn_blocking(compose).await.map_err(|error| {
            tracing::error!(error = &error as &dyn std::error::Error, "a mail could not be composed");
            Problem::internal()
        })?
    };
    result.map_err(|faults| faulty(&faults, dialect.media_type))
}

/// Makes a request into a mail that waits for nothing but its command.
async fn staged(app: &App, call: &Call, request: EmailSendRequest, outbound: &OutboundId) -> Result<Staged, Problem> {
    let mut asked = request.read(call.at)?;
    super::email_uploads::fill(app, call, &mut asked).await?;
    super::email_links::mark(app, call, outbound, &mut asked)?;
    let track_opens = asked.track_opens;
    let mail = composed(asked.draft, outbound, call.at, SENDING).await?;
    let mailbox: Option<MailboxId> = call.caller.mailbox.clone();
    let terms = Terms {
        origin: Origin::Http,
        key: Some(call.caller.key.clone()),
        mailbox,
        groups: asked.groups,
        labels: asked.labels,
        purpose: asked.purpose,
        topic: asked.topic,
        send_at: asked.send_at,
    };
    let mut staged = app.outbox.stage(&call.caller.team, outbound.clone(), mail, terms, call.at).await?;
    staged.command.track_opens = track_opens;
    Ok(staged)
}

/// Takes a staged mail over; the answer under an idempotency key is rendered by `answer`.
pub(super) async fn accepted(
    app: &App,
    call: &Call,
    staged: Staged,
    idempotency: Option<(Idempotency, Answer)>,
) -> Result<Outcome<domain::outbound::Acceptance>, Problem> {
    let Staged { command, blob, bytes } = staged;
    let fresh = domain::StreamId::Outbound(command.outbound.clone());
    let mut submission = call.submission(command).fresh(fresh).with_blob(blob, bytes);
    if let Some((idempotency, answer)) = idempotency {
        submission = submission.idempotent(idempotency, move |_| answer.clone());
    }
    app.log.transact(submission).await.map_err(Problem::from)
}

/// Send an email
///
/// Takes one mail over. With an idempotency key a repetition gets the same answer, and one mail is sent.
#[utoipa::path(
    post,
    path = "/emails/send",
    tag = "Sending",
    operation_id = "sendingSendEmail",
    params(IdempotencyHeader),
    request_body = EmailSendRequest,
    responses(
        (status = 200, description = "Queued", body = Data<SendSuccessData>),
        (status = 400, description = "The body is not JSON", body = crate::problem::Body),
        (status = 402, description = "The balance is too low", body = crate::problem::Body),
        (status = 409, description = "Key used for another request", body = crate::problem::Body),
        (status = 422, description = "A field is not acceptable", body = crate::problem::Body),
    ),
)]
async fn send_email(
    call: FromLog<guards::EmailSend>,
    State(app): State<App>,
    KeyedMail(Keyed { body, idempotency }): KeyedMail<EmailSendRequest>,
) -> Result<Reply<Data<SendSuccessData>>, Problem> {
    let outbound = OutboundId::new(call.at, app.allot.random());
    let staged = staged(&app, &call, body, &outbound).await?;
    let reply = Reply::ok(call.data(SendSuccessData::queued(&outbound)));
    let kept = idempotency.map(|idempotency| (idempotency, reply.to_answer(call.request.as_str())));
    match accepted(&app, &call, staged, kept).await? {
        Outcome::Done(_) => Ok(reply),
        Outcome::Repeated(answer) => Ok(Reply::kept(answer)),
    }
}

/// Mails to send.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct BatchSendRequest {
    #[serde(deserialize_with = "required_list::<_, 1, 100, _>")]
    #[schema(value_type = Vec<EmailSendRequest>, min_items = 1, max_items = 100)]
    messages: Vec<serde_json::Value>,
}

/// What became of one mail of a batch.
#[derive(Debug, Serialize, ToSchema)]
struct BatchResultItem {
    /// Its place in the request.
    index: usize,
    /// `queued` or `failed`.
    status: &'static str,
    #[schema(required)]
    message_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    error: Option<ErrorBody>,
}

/// How many there were.
#[derive(Debug, Serialize, ToSchema)]
struct BatchSummary {
    total: usize,
    queued: usize,
    failed: usize,
}

/// What became of a batch.
#[derive(Debug, Serialize, ToSchema)]
struct BatchSendSuccessData {
    results: Vec<BatchResultItem>,
    summary: BatchSummary,
}

/// Claims an idempotency key for what is not an event, so that it cannot stand for another request.
pub(super) struct Claim;

impl domain::Command for Claim {
    type State = ();
    type Rejected = domain::outbound::Rejected;

    fn streams(&self) -> Vec<domain::StreamId> {
        vec![]
    }

    fn decide(&self, (): &(), _: &domain::Moment) -> Result<Vec<domain::Event>, Self::Rejected> {
        Ok(vec![])
    }
}

/// Sends one mail of a batch and returns its id.
async fn send_item(
    app: &App,
    call: &Call,
    (index, message): (usize, serde_json::Value),
    batch: Option<&Idempotency>,
) -> Result<String, Problem> {
    let request: EmailSendRequest = crate::body::from_value(message).map_err(Problem::into_validation)?;
    let outbound = OutboundId::new(call.at, app.allot.random());
    let staged = staged(app, call, request, &outbound).await?;
    let id = outbound.to_string();
    let kept = batch.map(|batch| {
        let own = Idempotency { scope: format!("{} {index}", batch.scope), ..batch.clone() };
        (own, Answer { status: 200, headers: vec![], body: id.clone() })
    });
    Ok(match accepted(app, call, staged, kept).await? {
        Outcome::Done(_) => id,
        Outcome::Repeated(answer) => answer.body,
    })
}

/// Send a batch of emails
///
/// Takes up to 100 mails over, each for itself. A repetition under the same idempotency key answers what was queued and
/// tries again what was not.
#[utoipa::path(
    post,
    path = "/emails/send/batch",
    tag = "Sending",
    operation_id = "sendingSendEmailBatch",
    params(IdempotencyHeader),
    request_body = BatchSendRequest,
    responses(
        (status = 200, description = "What became of each", body = Data<BatchSendSuccessData>),
        (status = 400, description = "The body is not JSON", body = crate::problem::Body),
        (status = 402, description = "The balance is too low", body = crate::problem::Body),
        (status = 409, description = "Key used for another request", body = crate::problem::Body),
        (status = 422, description = "No mail is acceptable", body = crate::problem::Body),
    ),
)]
async fn send_email_batch(
    call: FromLog<guards::EmailSend>,
    State(app): State<App>,
    KeyedMail(Keyed { body, idempotency }): KeyedMail<BatchSendRequest>,
) -> Result<Reply<Data<BatchSendSuccessData>>, Problem> {
    if let Some(key) = &idempotency {
        let claim = call.submission(Claim).idempotent(key.clone(), |_| Answer::default());
        app.log.transact(claim).await.map_err(|error: TransactError<_>| Problem::from(error))?;
    }
    // All of them are queued at once, so that they share one flush.
    let items = body.messages.into_iter().enumerate().map(|item| send_item(&app, &call, item, idempotency.as_ref()));
    let outcomes = futures_util::future::join_all(items).await;
    if let Some(problem) = none_taken(&outcomes) {
        return Err(problem);
    }
    let total = outcomes.len();
    let results: Vec<_> = outcomes
        .into_iter()
        .enumerate()
        .map(|(index, outcome)| match outcome {
            Ok(id) => BatchResultItem { index, status: "queued", message_id: Some(id), error: None },
            Err(problem) => {
                BatchResultItem { index, status: "failed", message_id: None, error: Some(problem.detail()) }
            }
        })
        .collect();
    let queued = results.iter().filter(|r| r.message_id.is_some()).count();
    let summary = BatchSummary { total, queued, failed: total - queued };
    Ok(Reply::ok(call.data(BatchSendSuccessData { results, summary })))
}

/// Returns the answer to a batch of which nothing was taken over: the reason they share, or that none was acceptable.
fn none_taken(outcomes: &[Result<String, Problem>]) -> Option<Problem> {
    let problems: Vec<&Problem> = outcomes.iter().filter_map(|outcome| outcome.as_ref().err()).collect();
    if problems.len() < outcomes.len() {
        return None;
    }
    let first = problems.first()?;
    if problems.iter().all(|p| p.code() == first.code()) && first.code() != Code::ValidationError {
        return Some((*first).clone());
    }
    if problems.iter().all(|p| p.code().retryable()) {
        return Some(Problem::unavailable());
    }
    let errors = problems.iter().enumerate().flat_map(|(i, problem)| {
        problem.errors().iter().cloned().map(move |mut error| {
            error.field = format!("messages.{i}.{}", error.field);
            error
        })
    });
    Some(
        Problem::new(Code::ValidationError, "No mail of the batch is acceptable.")
            .with_errors(errors.take(100).collect()),
    )
}
