//! Mail that was accepted: where it is, and later, never, now.
//!
//! The team's managers reach every mail by its entry in the delivery log. A sending key reaches what was handed in with
//! it, a mailbox key what its mailbox sent.

use axum::extract::State;
use domain::id::{DeliveryLogId, OutboundId};
use domain::outbound::{CancelMail, Outbound, RescheduleMail, RetryMail, SwitchMail};
use domain::{Command, StreamId, Versioned};
use projections::outbound::{self, Row};
use serde::Deserialize;
use utoipa::ToSchema;

use super::email_body::send_at;
use super::email_logs::existing;
use super::email_view::EmailState;
use crate::auth::{Call, Scoped, guards};
use crate::envelope::{Data, Reply};
use crate::etag::{ETag, IfMatch, IfNoneMatch};
use crate::idempotency::{Keyed, KeyedOnly};
use crate::openapi::{IdempotencyHeader, IfMatchHeader, IfNoneMatchHeader, Routes};
use crate::path::Id;
use crate::problem::Problem;
use crate::{App, Json, door};
use eventlog::{Answer, Idempotency, Outcome};

pub(super) fn routes() -> Routes {
    Routes::new()
        .with(door!(get_email))
        .with(door!(reschedule_email))
        .with(door!(cancel_email))
        .with(door!(reschedule_logged_email))
        .with(door!(hold_logged_email))
        .with(door!(resume_logged_email))
        .with(door!(cancel_logged_email))
        .with(door!(retry_logged_email))
}

/// A mail's answer.
type EmailReply = Reply<Data<EmailState>>;

/// Returns a mail that the caller's key may see.
async fn own(app: &App, call: &Call, id: &OutboundId) -> Result<Versioned<Outbound>, Problem> {
    let stream = StreamId::Outbound(id.clone());
    let mail: Versioned<Outbound> = app.log.state(&call.caller.team, &[stream]).await?;
    let accepted = mail.accepted.as_ref().ok_or_else(Problem::not_found)?;
    let is_own = match &call.caller.mailbox {
        Some(mailbox) => accepted.mail.mailbox.as_ref() == Some(mailbox),
        None => accepted.mail.key.as_ref() == Some(&call.caller.key),
    };
    if is_own { Ok(mail) } else { Err(Problem::not_found()) }
}

/// Returns how a mail is listed, once the read models have it.
async fn listed(app: &App, call: &Call, id: &OutboundId) -> Result<Row, Problem> {
    outbound::get(&app.views, &call.caller.team, id).await?.ok_or_else(Problem::unavailable)
}

/// Carries out a command about a mail and answers where the mail is then. Told again under the same key, it is not
/// carried out again.
async fn carry_out<C>(
    app: &App,
    call: &Call,
    id: &OutboundId,
    command: C,
    idempotency: Option<Idempotency>,
) -> Result<EmailReply, Problem>
where
    C: Command<State = Versioned<Outbound>, Rejected = domain::outbound::Rejected>,
{
    let mut submission = call.submission(command);
    if let Some(idempotency) = idempotency {
        submission = submission.idempotent(idempotency, |_| Answer::default());
    }
    let position = match app.log.transact(submission).await.map_err(Problem::from)? {
        Outcome::Done(appended) => appended.records.last().map(|last| last.position),
        // What is answered is where the mail is now; only the command is not repeated.
        Outcome::Repeated(_) => None,
    };
    let position = match position {
        Some(position) => position,
        None => app.log.head(&call.caller.team).await?.position,
    };
    app.caught_up(&call.caller.team, position).await;
    let row = listed(app, call, id).await?;
    Ok(Reply::ok(call.data(EmailState::new(&row))).tagged(&ETag::of_version(row.version)))
}

/// When a mail is to be sent from now on.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct RescheduleBody {
    /// At most 30 days ahead; a time in the past means now.
    #[schema(format = "date-time", example = "2026-11-22T09:00:00Z")]
    send_at: String,
}

/// How a mail is tried again.
#[derive(Debug, Clone, Copy, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct RetryBody {
    /// Whether recipients whose server's answer was lost are sent to again; they may get the mail twice.
    #[serde(default)]
    resend_uncertain: bool,
}

/// Get an email
///
/// Where the mail is, and where each of its recipients is.
#[utoipa::path(
    get,
    path = "/emails/{message_id}",
    tag = "Sending",
    operation_id = "sendingGetEmail",
    params(("message_id" = String, Path, description = "Email id", example = "eml_06bqmn3t0d4gq2v8xk1hz7sw"), IfNoneMatchHeader),
    responses(
        (status = 200, description = "The mail", body = Data<EmailState>, headers(("ETag" = String))),
        (status = 304, description = "Not modified"),
        (status = 404, description = "No such mail", body = crate::problem::Body),
    ),
)]
async fn get_email(
    call: Scoped<guards::EmailSend>,
    State(app): State<App>,
    Id(id): Id<OutboundId>,
    known: IfNoneMatch,
) -> Result<EmailReply, Problem> {
    own(&app, &call, &id).await?;
    let row = listed(&app, &call, &id).await?;
    let tag = ETag::of_version(row.version);
    if known.has(&tag) {
        return Ok(Reply::not_modified(&tag));
    }
    Ok(Reply::ok(call.data(EmailState::new(&row))).tagged(&tag))
}

/// Reschedule an email
///
/// Sends it at another time, as long as nothing was handed over.
#[utoipa::path(
    patch,
    path = "/emails/{message_id}",
    tag = "Sending",
    operation_id = "sendingRescheduleEmail",
    params(("message_id" = String, Path, description = "Email id", example = "eml_06bqmn3t0d4gq2v8xk1hz7sw"), IfMatchHeader),
    request_body = RescheduleBody,
    responses(
        (status = 200, description = "The mail", body = Data<EmailState>, headers(("ETag" = String))),
        (status = 404, description = "No such mail", body = crate::problem::Body),
        (status = 409, description = "It is on its way or settled, or has changed since it was read", body = crate::problem::Body),
        (status = 422, description = "The time is not acceptable", body = crate::problem::Body),
    ),
)]
async fn reschedule_email(
    call: Scoped<guards::EmailSend>,
    State(app): State<App>,
    Id(id): Id<OutboundId>,
    expected: IfMatch,
    Json(body): Json<RescheduleBody>,
) -> Result<EmailReply, Problem> {
    let mail = own(&app, &call, &id).await?;
    let if_version = expected.version(mail.version);
    let command = RescheduleMail { outbound: id.clone(), send_at: send_at(&body.send_at, call.at)?, if_version };
    carry_out(&app, &call, &id, command, None).await
}

/// Cancel an email
///
/// Recipients that wait are not sent to any more, and the money held for them is free again. What is on its way goes on.
#[utoipa::path(
    post,
    path = "/emails/{message_id}/cancel",
    tag = "Sending",
    operation_id = "sendingCancelEmail",
    params(("message_id" = String, Path, description = "Email id", example = "eml_06bqmn3t0d4gq2v8xk1hz7sw"), IdempotencyHeader),
    responses(
        (status = 200, description = "The mail", body = Data<EmailState>),
        (status = 404, description = "No such mail", body = crate::problem::Body),
        (status = 409, description = "It is settled", body = crate::problem::Body),
    ),
)]
async fn cancel_email(
    call: Scoped<guards::EmailSend>,
    State(app): State<App>,
    Id(id): Id<OutboundId>,
    KeyedOnly(idempotency): KeyedOnly,
) -> Result<EmailReply, Problem> {
    own(&app, &call, &id).await?;
    carry_out(&app, &call, &id, CancelMail { outbound: id.clone() }, idempotency).await
}

/// Reschedule a mail
///
/// Sends it at another time, as long as nothing was handed over.
#[utoipa::path(
    post,
    path = "/emails/logs/{public_id}/reschedule",
    tag = "Delivery log",
    operation_id = "managementRescheduleEmail",
    params(("public_id" = String, Path, description = "Log id", example = "dlog_06bqmn3t0d4gq2v8xk1hz7sw"), IdempotencyHeader, IfMatchHeader),
    request_body = RescheduleBody,
    responses(
        (status = 200, description = "The mail", body = Data<EmailState>),
        (status = 404, description = "No such entry", body = crate::problem::Body),
        (status = 409, description = "It is on its way or settled, or has changed since it was read", body = crate::problem::Body),
        (status = 422, description = "The time is not acceptable", body = crate::problem::Body),
    ),
)]
async fn reschedule_logged_email(
    call: Scoped<guards::SendingManage>,
    State(app): State<App>,
    Id(id): Id<DeliveryLogId>,
    expected: IfMatch,
    Keyed { body, idempotency }: Keyed<RescheduleBody>,
) -> Result<EmailReply, Problem> {
    let row = caught(&app, &call, &id).await?;
    let if_version = expected.version(row.version);
    let command = RescheduleMail { outbound: row.id.clone(), send_at: send_at(&body.send_at, call.at)?, if_version };
    carry_out(&app, &call, &row.id, command, idempotency).await
}

/// Returns an entry, also one of a mail that was accepted this moment.
async fn caught(app: &App, call: &Call, id: &DeliveryLogId) -> Result<Row, Problem> {
    if let Ok(head) = app.log.known_head(&call.caller.team).await {
        app.caught_up(&call.caller.team, head).await;
    }
    existing(app, call, id).await
}

async fn switch(
    app: &App,
    call: &Call,
    id: &DeliveryLogId,
    paused: bool,
    idempotency: Option<Idempotency>,
) -> Result<EmailReply, Problem> {
    let row = caught(app, call, id).await?;
    carry_out(app, call, &row.id, SwitchMail { outbound: row.id.clone(), paused }, idempotency).await
}

/// Hold a mail
///
/// It waits until it is resumed, and ages meanwhile. What is on its way goes on.
#[utoipa::path(
    post,
    path = "/emails/logs/{public_id}/hold",
    tag = "Delivery log",
    operation_id = "managementHoldEmail",
    params(("public_id" = String, Path, description = "Log id", example = "dlog_06bqmn3t0d4gq2v8xk1hz7sw"), IdempotencyHeader),
    responses(
        (status = 200, description = "The mail", body = Data<EmailState>),
        (status = 404, description = "No such entry", body = crate::problem::Body),
        (status = 409, description = "It is settled", body = crate::problem::Body),
    ),
)]
async fn hold_logged_email(
    call: Scoped<guards::SendingManage>,
    State(app): State<App>,
    Id(id): Id<DeliveryLogId>,
    KeyedOnly(idempotency): KeyedOnly,
) -> Result<EmailReply, Problem> {
    switch(&app, &call, &id, true, idempotency).await
}

/// Resume a mail
///
/// It goes on from where it was held.
#[utoipa::path(
    post,
    path = "/emails/logs/{public_id}/resume",
    tag = "Delivery log",
    operation_id = "managementResumeEmail",
    params(("public_id" = String, Path, description = "Log id", example = "dlog_06bqmn3t0d4gq2v8xk1hz7sw"), IdempotencyHeader),
    responses(
        (status = 200, description = "The mail", body = Data<EmailState>),
        (status = 404, description = "No such entry", body = crate::problem::Body),
        (status = 409, description = "It is settled", body = crate::problem::Body),
    ),
)]
async fn resume_logged_email(
    call: Scoped<guards::SendingManage>,
    State(app): State<App>,
    Id(id): Id<DeliveryLogId>,
    KeyedOnly(idempotency): KeyedOnly,
) -> Result<EmailReply, Problem> {
    switch(&app, &call, &id, false, idempotency).await
}

/// Cancel a mail
///
/// Recipients that wait are not sent to any more, and the money held for them is free again. What is on its way goes on.
#[utoipa::path(
    post,
    path = "/emails/logs/{public_id}/cancel",
    tag = "Delivery log",
    operation_id = "managementCancelEmail",
    params(("public_id" = String, Path, description = "Log id", example = "dlog_06bqmn3t0d4gq2v8xk1hz7sw"), IdempotencyHeader),
    responses(
        (status = 200, description = "The mail", body = Data<EmailState>),
        (status = 404, description = "No such entry", body = crate::problem::Body),
        (status = 409, description = "It is settled", body = crate::problem::Body),
    ),
)]
async fn cancel_logged_email(
    call: Scoped<guards::SendingManage>,
    State(app): State<App>,
    Id(id): Id<DeliveryLogId>,
    KeyedOnly(idempotency): KeyedOnly,
) -> Result<EmailReply, Problem> {
    let row = caught(&app, &call, &id).await?;
    carry_out(&app, &call, &row.id, CancelMail { outbound: row.id.clone() }, idempotency).await
}

/// Retry a mail now
///
/// Recipients that wait for their next attempt are due at once. Those whose server's answer was lost are sent to again
/// only if that is asked for.
#[utoipa::path(
    post,
    path = "/emails/logs/{public_id}/retry",
    tag = "Delivery log",
    operation_id = "managementRetryEmail",
    params(("public_id" = String, Path, description = "Log id", example = "dlog_06bqmn3t0d4gq2v8xk1hz7sw"), IdempotencyHeader),
    request_body = RetryBody,
    responses(
        (status = 200, description = "The mail", body = Data<EmailState>),
        (status = 404, description = "No such entry", body = crate::problem::Body),
        (status = 409, description = "It is settled", body = crate::problem::Body),
    ),
)]
async fn retry_logged_email(
    call: Scoped<guards::SendingManage>,
    State(app): State<App>,
    Id(id): Id<DeliveryLogId>,
    Keyed { body, idempotency }: Keyed<RetryBody>,
) -> Result<EmailReply, Problem> {
    let row = caught(&app, &call, &id).await?;
    let command = RetryMail { outbound: row.id.clone(), resend_uncertain: body.resend_uncertain };
    carry_out(&app, &call, &row.id, command, idempotency).await
}
