//! One attempt: look once more, sign, POST, and say what follows from the answer.

use std::sync::Arc;

use bytes::Bytes;
use domain::id::{AttemptId, EventId};
use domain::webhook_endpoint::{RecordExhausted, RecordGone, Rejected};
use domain::{Actor, Command};
use eventlog::{LogError, Submission, TransactError};
use hyper::header::{CONTENT_TYPE, HeaderValue};
use projections::webhook_attempts::{AttemptResult, Row as AttemptRow};
use sha2::{Digest, Sha256};
use tokio::time::Instant;

use super::endpoint::{self, Endpoint};
use super::item::{Item, read_page};
use super::reactor::Context;
use super::sign;
use super::verdict::{self, Reply, Verdict, verdict};
use super::window::{Phase, Row, Settlement, Work};
use crate::egress::{Answer, AttemptError};
use crate::queue::Key;

/// After so many tries an event that cannot be processed waits for a restart or the operator.
const POISON_TRIES_MAX: u32 = 5;
/// Pause after the first of them; it doubles with each.
const POISON_PAUSE_MICROS: i64 = 10_000_000;
/// Who signs commands of this reactor.
const ACTOR: Actor = Actor::System("webhooks");

/// An attempt to be made.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) key: Key,
    /// The epoch of the lease it is made under.
    pub(crate) lease_epoch: i64,
    /// Until when that lease surely lasts, by this machine's own monotonic clock.
    pub(crate) lease_until: Instant,
    pub(crate) endpoint: Arc<Endpoint>,
    pub(crate) work: Work<Item>,
}

/// What came of it.
#[derive(Debug)]
pub(crate) enum Attempted {
    /// A request was made, or failed in a way that counts.
    Made(Settlement, Box<AttemptRow>),
    /// Something else was settled: no request was made.
    Settled(Settlement),
    /// Nothing was done: the endpoint has changed since it was loaded.
    Changed,
    /// Nothing was done: the lease would not last long enough.
    LeaseShort,
    /// Nothing was done: the log cannot be read now.
    Unavailable(String),
}

/// Makes an attempt.
pub(crate) async fn attempt(context: &Context, job: &Job) -> Attempted {
    let item = match item(context, job).await {
        Ok(item) => item,
        Err(Unreadable::Poison(error)) => return Attempted::Settled(poisoned(context, job, error)),
        Err(Unreadable::Unavailable(error)) => return Attempted::Unavailable(error),
    };
    let (item, body) = match &item.body {
        Ok(body) => (&item, body.clone()),
        Err(error) => return Attempted::Settled(poisoned(context, job, error.clone())),
    };
    if verdict::is_over(&context.schedule, job.work.attempts) {
        // The last attempt was made, but the log could not be told.
        return Attempted::Settled(exhausted(context, job, item.id, job.work.attempts, "all attempts failed").await);
    }
    let number = job.work.attempts + 1;
    match endpoint::state(context, &job.key).await {
        Ok(state) if state.version == job.endpoint.version && job.endpoint.is_on => {}
        Ok(_) => return Attempted::Changed,
        Err(error) => return Attempted::Unavailable(error.to_string()),
    }
    // The subscription may have changed since the event was read. What was attempted once is seen through.
    if number == 1 && !item.is_wanted(&job.key.webhook, &job.endpoint.subscription) {
        return Attempted::Settled(Settlement::Delivered);
    }
    // Nothing may come between this look at our own clock and the request.
    let left = job.lease_until.saturating_duration_since(Instant::now());
    if !verdict::lease_covers(left, context.config.attempt_reserve()) {
        return Attempted::LeaseShort;
    }
    let started = Instant::now();
    let started_at = context.allot.now();
    let answer = post(context, job, item, body.clone(), started_at, number).await;
    let elapsed = started.elapsed();
    let first_due_at = job.work.first_due_at.unwrap_or(started_at);
    let (settlement, result, next_retry_at) = outcome(context, job, item, &answer, first_due_at, number).await;
    let row = AttemptRow {
        id: attempt_id(context, started_at),
        webhook: job.key.webhook.clone(),
        created_at: started_at,
        event: item.id,
        event_type: item.event_type,
        delivery_attempt: number,
        max_attempts: context.schedule.attempts_max(),
        result,
        response_status: answer.as_ref().ok().map(|answer| answer.status),
        response_ms: u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX),
        response_body: answer.as_ref().ok().and_then(|answer| preview(answer, context.config.response_preview_bytes)),
        error_message: answer.as_ref().err().map(|failure| failure.message.clone()),
        next_retry_at,
        payload_bytes: u64::try_from(body.len()).unwrap_or(u64::MAX),
        payload_sha256: hex::encode(Sha256::digest(&body)),
    };
    metrics::counter!("webhook_attempts_total", "outcome" => result.as_str()).increment(1);
    metrics::histogram!("webhook_attempt_seconds").record(elapsed.as_secs_f64());
    Attempted::Made(settlement, Box::new(row))
}

/// Why an event could not be read again.
enum Unreadable {
    Poison(String),
    Unavailable(String),
}

/// Returns the event: as it was read with its page, or from the log again. The same event gives the same bytes.
async fn item(context: &Context, job: &Job) -> Result<Arc<Item>, Unreadable> {
    if let Some(item) = &job.work.item {
        return Ok(Arc::clone(item));
    }
    let position = job.work.position;
    let page = match read_page(&context.log, &job.key.team, position.saturating_sub(1), 1).await {
        Ok(page) => page,
        Err(LogError::Corrupt(error)) => return Err(Unreadable::Poison(error.to_string())),
        Err(error) => return Err(Unreadable::Unavailable(error.to_string())),
    };
    let found = page.items.into_iter().find(|item| item.position == position);
    found.ok_or_else(|| Unreadable::Poison("the log has no such event for webhooks any more".to_owned()))
}

/// Why there was no answer.
struct Failure {
    /// Safe to show to the endpoint's owner.
    message: String,
}

impl From<AttemptError> for Failure {
    fn from(error: AttemptError) -> Self {
        Self { message: format!("{}: {error}", error.category()) }
    }
}

async fn post(
    context: &Context,
    job: &Job,
    item: &Item,
    body: Bytes,
    at_micros: i64,
    number: u32,
) -> Result<Answer, Failure> {
    let target = match &job.endpoint.target {
        Ok(target) => target,
        Err(refused) => return Err(AttemptError::Refused(refused.clone()).into()),
    };
    let secret = job.endpoint.secret.as_ref().map_err(|error| Failure { message: format!("secret: {error}") })?;
    let event_id = item.id.to_string();
    let attempt =
        sign::Attempt { event_id: &event_id, event_type: item.event_type.as_str(), number, at_micros, body: &body };
    let mut headers = sign::headers(&attempt, secret, &[]).map_err(|e| Failure { message: format!("sign: {e}") })?;
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok(context.client.post(target, headers, body, context.config.attempt_deadline()).await?)
}

/// Does what an answer asks for.
async fn outcome(
    context: &Context,
    job: &Job,
    item: &Item,
    answer: &Result<Answer, Failure>,
    first_due_at: i64,
    number: u32,
) -> (Settlement, AttemptResult, Option<i64>) {
    let (error, reply) = match answer {
        Ok(Answer { status, retry_after, .. }) => {
            (format!("answered {status}"), Reply { status: Some(*status), retry_after: *retry_after })
        }
        Err(failure) => (failure.message.clone(), Reply { status: None, retry_after: None }),
    };
    let now = context.allot.now();
    let next = match verdict(&context.schedule, reply, first_due_at, number, now, jitter(context)) {
        Verdict::Delivered => return (Settlement::Delivered, AttemptResult::Success, None),
        Verdict::Gone => {
            let settlement = gone(context, job, item.id, first_due_at, number, &error).await;
            return (settlement, AttemptResult::PermanentFailure, None);
        }
        Verdict::Exhausted => {
            let settlement = exhausted(context, job, item.id, number, &error).await;
            return (settlement, AttemptResult::PermanentFailure, None);
        }
        Verdict::Retry(next) => next,
    };
    let row = verdict::retrying(item.position, number, first_due_at, next, error);
    // Switched off while the request was made: the row waits until the webhook is on again, nothing is planned.
    let on = endpoint::state(context, &job.key).await.map_or(true, |state| endpoint::is_on(&state));
    let (result, next) = if on { (AttemptResult::Retrying, Some(next)) } else { (AttemptResult::Failed, None) };
    (Settlement::Blocked(row), result, next)
}

/// Tells the log that every attempt failed.
async fn exhausted(context: &Context, job: &Job, event: EventId, attempts: u32, error: &str) -> Settlement {
    let command = RecordExhausted { webhook: job.key.webhook.clone(), event_position: event.position, attempts };
    let told = tell(context, job, event, command).await;
    let now = context.allot.now();
    Settlement::Blocked(verdict::ended(event.position, Phase::Exhausted, attempts, error.to_owned(), told, now))
}

/// Tells the log that the endpoint is gone.
async fn gone(
    context: &Context,
    job: &Job,
    event: EventId,
    first_due_at: i64,
    attempts: u32,
    error: &str,
) -> Settlement {
    let told = tell(context, job, event, RecordGone { webhook: job.key.webhook.clone() }).await;
    let now = context.allot.now();
    let row = verdict::ended(event.position, Phase::Gone, attempts, error.to_owned(), told, now);
    Settlement::Blocked(Row { first_due_at, ..row })
}

/// Sends a command; returns whether it is in the log or pointless.
async fn tell<C>(context: &Context, job: &Job, event: EventId, command: C) -> bool
where
    C: Command<Rejected = Rejected>,
{
    let now = context.allot.now();
    let correlation = attempt_id(context, now).to_string();
    let submission = Submission::new(job.key.team.clone(), now, ACTOR, correlation, command).caused_by(&event);
    match context.log.transact(submission).await {
        Ok(_) => true,
        // It is gone: there is nothing left to say about it.
        Err(TransactError::Rejected(_)) => true,
        Err(error) => {
            tracing::warn!(
                team.id = %job.key.team, webhook.id = %job.key.webhook, log.position = event.position, %error,
                "the end of a webhook delivery could not be recorded; trying again"
            );
            false
        }
    }
}

/// An event that cannot be processed blocks its own mailbox, for this webhook only, and is tried again a few times.
fn poisoned(context: &Context, job: &Job, error: String) -> Settlement {
    let now = context.allot.now();
    let tries = job.work.tries + 1;
    let pause = POISON_PAUSE_MICROS << tries.min(POISON_TRIES_MAX);
    let next_due_at = (tries < POISON_TRIES_MAX).then(|| now.saturating_add(pause));
    metrics::counter!("webhook_poisoned_total").increment(1);
    tracing::error!(
        team.id = %job.key.team, webhook.id = %job.key.webhook, log.position = job.work.position, tries, error,
        "an event cannot be processed for a webhook; its mailbox waits"
    );
    Settlement::Blocked(Row {
        position: job.work.position,
        phase: Phase::Poisoned,
        attempts: tries,
        first_due_at: now,
        next_due_at,
        last_error: error,
    })
}

/// Ids of attempts sort by time, and within one process by number: a list of attempts is in the order they were made.
fn attempt_id(context: &Context, at_micros: i64) -> AttemptId {
    let mut random: [u8; 9] = context.allot.random();
    random[..4].copy_from_slice(&context.next_number().to_be_bytes());
    AttemptId::new(at_micros, random)
}

/// Returns a number from -1 to 1.
fn jitter(context: &Context) -> f64 {
    let random = u32::from_be_bytes(context.allot.random());
    f64::from(random) / f64::from(u32::MAX) * 2.0 - 1.0
}

/// Returns the beginning of an answer's body as text; NUL, which not every store keeps, is replaced.
fn preview(answer: &Answer, bytes_max: usize) -> Option<String> {
    let bytes = &answer.body_preview[..answer.body_preview.len().min(bytes_max)];
    let text = String::from_utf8_lossy(bytes).replace('\0', "\u{fffd}");
    (!text.is_empty()).then_some(text)
}
