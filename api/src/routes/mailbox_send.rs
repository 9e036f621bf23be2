//! Sending as a mailbox: the mail leaves, and a copy stays in Sent, in the thread it belongs to.

use std::collections::BTreeMap;

use axum::extract::State;
use domain::id::{BlobId, OutboundId};
use domain::mailbox::Mailbox;
use domain::outbound::{Labels, Origin};
use domain::suppression::Purpose;
use domain::{StreamId, Versioned};
use eventlog::Outcome;
use mail::compose::{Attachment as File, Draft, Person};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::email_body::{decoded, judged, send_at};
use super::emails::{Dialect, accepted, composed};
use super::submissions::submission_id;
use crate::auth::{Call, FromLog, guards};
use crate::envelope::{Data, Reply};
use crate::field::{list, present, required_list, text};
use crate::idempotency::{Keyed, KeyedMail};
use crate::openapi::{IdempotencyHeader, MailboxSelection, Routes};
use crate::problem::{Code, Problem};
use crate::send::Terms;
use crate::{App, door};

pub(super) fn routes() -> Routes {
    Routes::new().with(door!(send_mailbox_message))
}

/// The most bytes of files that come inside of the request.
pub(super) const INLINE_BYTES_MAX: usize = 5_000_000;
const MAILBOX: Dialect = Dialect { attachments_max: 20, media_type: "content_type" };

/// A name and an address.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct MailboxRecipient {
    #[schema(max_length = 254, format = "email", example = "bob@example.net")]
    email: String,
    #[serde(default)]
    #[schema(max_length = 100)]
    name: Option<String>,
}

impl From<MailboxRecipient> for Person {
    fn from(recipient: MailboxRecipient) -> Self {
        Self { email: recipient.email, name: recipient.name.filter(|name| !name.is_empty()) }
    }
}

/// A file: in base64, or uploaded before.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct SendMailboxAttachment {
    #[schema(min_length = 1, max_length = 255, example = "invoice.pdf")]
    filename: String,
    #[schema(example = "application/pdf")]
    content_type: String,
    /// The bytes in base64; all files that come like this have at most 5,000,000 bytes.
    #[serde(default, deserialize_with = "present")]
    #[schema(nullable = false)]
    content: Option<String>,
    /// A file uploaded before, instead of `content`.
    #[serde(default, deserialize_with = "present")]
    #[schema(nullable = false, example = "blob_06bqmn3t0d4gq2v8xk1hz7sw")]
    blob_id: Option<String>,
    /// The name by which HTML shows it (`cid:`); the file is then part of the body.
    #[serde(default, deserialize_with = "present")]
    #[schema(nullable = false)]
    content_id: Option<String>,
}

/// A mail to send as the mailbox.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct SendMailboxMessageBody {
    /// The mailbox itself by default; no other address is accepted.
    #[serde(default, deserialize_with = "present")]
    #[schema(nullable = false)]
    from: Option<MailboxRecipient>,
    #[serde(deserialize_with = "required_list::<_, 1, 50, _>")]
    #[schema(min_items = 1, max_items = 50)]
    to: Vec<MailboxRecipient>,
    #[serde(default, deserialize_with = "list::<_, 0, 50, _>")]
    #[schema(nullable = false)]
    cc: Option<Vec<MailboxRecipient>>,
    #[serde(default, deserialize_with = "list::<_, 0, 50, _>")]
    #[schema(nullable = false)]
    bcc: Option<Vec<MailboxRecipient>>,
    #[serde(default, deserialize_with = "list::<_, 0, 10, _>")]
    #[schema(nullable = false)]
    reply_to: Option<Vec<MailboxRecipient>>,
    subject: String,
    #[serde(default, deserialize_with = "present")]
    #[schema(nullable = false)]
    text_body: Option<String>,
    #[serde(default, deserialize_with = "present")]
    #[schema(nullable = false)]
    html_body: Option<String>,
    #[serde(default, deserialize_with = "list::<_, 0, 20, _>")]
    #[schema(nullable = false, max_items = 20)]
    attachments: Option<Vec<SendMailboxAttachment>>,
    /// `In-Reply-To`, `References`, and header fields whose names begin with `X-`.
    #[serde(default, deserialize_with = "present")]
    #[schema(nullable = false)]
    custom_headers: Option<BTreeMap<String, String>>,
    /// The Message-ID of the mail this one answers.
    #[serde(default, deserialize_with = "present")]
    #[schema(nullable = false)]
    in_reply_to: Option<String>,
    /// The Message-IDs of the thread, oldest first.
    #[serde(default, deserialize_with = "list::<_, 0, 100, _>")]
    #[schema(nullable = false)]
    references: Option<Vec<String>>,
    /// When to send it, at most 30 days ahead; at once without.
    #[serde(default, deserialize_with = "text::<1, 64, _>")]
    #[schema(nullable = false, format = "date-time")]
    send_at: Option<String>,
}

/// A mail that was taken over.
#[derive(Debug, Clone, Serialize, ToSchema)]
struct SendMailboxMessageResult {
    /// The copy in Sent.
    #[schema(example = "msg_06bqmn3t0d4gq2v8xk1hz7sw")]
    message_id: String,
    /// Always `queued`.
    #[schema(example = "queued")]
    status: &'static str,
    #[schema(example = "sub_06bqmn3t0d4gq2v8xk1hz7sw")]
    submission_id: String,
    /// The mail's id in webhooks and in the delivery log.
    #[schema(example = "eml_06bqmn3t0d4gq2v8xk1hz7sw")]
    email_id: String,
    #[schema(example = "thr_06bqmn3t0d4gq2v8xk1hz7sw")]
    thread_id: String,
}

/// Reads the files of a request.
async fn files(app: &App, call: &Call, given: Vec<SendMailboxAttachment>) -> Result<Vec<File>, Problem> {
    let (mut files, mut inline_bytes) = (vec![], 0usize);
    for (i, attachment) in given.into_iter().enumerate() {
        let field = |name: &str| format!("attachments.{i}.{name}");
        let unknown =
            || Problem::unacceptable(field("blob_id"), "unknown_blob", "there is no such upload, or it expired");
        let content = match (attachment.content, attachment.blob_id) {
            (Some(_), Some(_)) => {
                let message = "give either content or blob_id";
                return Err(Problem::unacceptable(field("blob_id"), "ambiguous", message));
            }
            (None, None) => return Err(Problem::unacceptable(field("content"), "required", "content is required")),
            (Some(content), None) => {
                let content = decoded(&content).ok_or_else(|| {
                    Problem::unacceptable(field("content"), "invalid_base64", "content is not base64")
                })?;
                inline_bytes = inline_bytes.saturating_add(content.len());
                if inline_bytes > INLINE_BYTES_MAX {
                    let message =
                        format!("Files in the request have at most {INLINE_BYTES_MAX} bytes; upload larger ones.");
                    return Err(Problem::new(Code::PayloadTooLarge, message));
                }
                content
            }
            (None, Some(id)) => {
                let id: BlobId = id.parse().map_err(|_| unknown())?;
                let row = app.uploaded(call, id.as_str()).await?.ok_or_else(unknown)?;
                app.uploaded_bytes(call, &row).await?.ok_or_else(unknown)?.to_vec()
            }
        };
        judged(i, &attachment.filename, &content)?;
        files.push(File {
            filename: Some(attachment.filename),
            content_type: Some(attachment.content_type),
            content,
            inline: attachment.content_id.is_some(),
            content_id: attachment.content_id,
        });
    }
    Ok(files)
}

/// Makes a draft of a request.
async fn draft(app: &App, call: &Call, mailbox: &Mailbox, body: SendMailboxMessageBody) -> Result<Draft, Problem> {
    let people =
        |people: Option<Vec<MailboxRecipient>>| people.unwrap_or_default().into_iter().map(Person::from).collect();
    let own = Person { email: mailbox.email.clone().unwrap_or_default(), name: mailbox.display_name.clone() };
    let from = match body.from.map(Person::from) {
        None => own,
        Some(given) => Person { name: given.name.or(own.name), ..given },
    };
    if body.text_body.is_none() && body.html_body.is_none() {
        return Err(Problem::unacceptable("text_body", "required", "text_body or html_body is required"));
    }
    Ok(Draft {
        from,
        to: body.to.into_iter().map(Person::from).collect(),
        cc: people(body.cc),
        bcc: people(body.bcc),
        reply_to: people(body.reply_to),
        subject: body.subject,
        text: body.text_body,
        html: body.html_body,
        attachments: files(app, call, body.attachments.unwrap_or_default()).await?,
        in_reply_to: body.in_reply_to,
        references: body.references.unwrap_or_default(),
        // The composer takes In-Reply-To and References for what they are, and refuses what is not the caller's to set.
        headers: body.custom_headers.unwrap_or_default().into_iter().collect(),
        ..Draft::default()
    })
}

/// Send a message as the mailbox
///
/// The mail is queued, and a copy is filed in Sent. With an idempotency key a repetition gets the same answer, and one
/// mail is sent.
#[utoipa::path(
    post,
    path = "/mailbox/messages/send",
    tag = "Mailbox API",
    operation_id = "mailboxSendMessage",
    params(IdempotencyHeader, MailboxSelection),
    request_body = SendMailboxMessageBody,
    responses(
        (status = 200, description = "Queued", body = Data<SendMailboxMessageResult>),
        (status = 400, description = "The body is not JSON", body = crate::problem::Body),
        (status = 402, description = "The balance is too low", body = crate::problem::Body),
        (status = 409, description = "Key used for another request", body = crate::problem::Body),
        (status = 422, description = "A field is not acceptable", body = crate::problem::Body),
    ),
)]
async fn send_mailbox_message(
    call: FromLog<guards::MailboxSend>,
    State(app): State<App>,
    KeyedMail(Keyed { body, idempotency }): KeyedMail<SendMailboxMessageBody>,
) -> Result<Reply<Data<SendMailboxMessageResult>>, Problem> {
    let team = &call.caller.team;
    let mailbox = call.mailbox()?;
    let fold: Versioned<Mailbox> = app.log.state(team, &[StreamId::Mailbox(mailbox.clone())]).await?;
    let send_at = body.send_at.as_deref().map(|text| send_at(text, call.at)).transpose()?;
    let draft = draft(&app, &call, &fold, body).await?;
    let outbound = OutboundId::new(call.at, app.allot.random());
    let mail = composed(draft, &outbound, call.at, MAILBOX).await?;
    let terms = Terms {
        origin: Origin::Mailbox,
        key: Some(call.caller.key.clone()),
        mailbox: Some(mailbox.clone()),
        groups: vec![],
        labels: Labels::default(),
        purpose: Purpose::Transactional,
        topic: None,
        send_at,
    };
    let staged = app.outbox.stage(team, outbound.clone(), mail, terms, call.at).await?;
    let copy = staged.command.copy.as_ref().ok_or_else(Problem::internal)?;
    let result = SendMailboxMessageResult {
        message_id: copy.facts.message.to_string(),
        status: "queued",
        submission_id: submission_id(&outbound),
        email_id: outbound.to_string(),
        thread_id: copy.facts.thread.to_string(),
    };
    let reply = Reply::ok(call.data(result));
    // The key belongs to the mailbox: two mailboxes of a team may use the same one.
    let kept = idempotency.map(|mut own| {
        own.scope = format!("{} {mailbox}", own.scope);
        (own, reply.to_answer(call.request.as_str()))
    });
    let position = match accepted(&app, &call, staged, kept).await? {
        Outcome::Done(appended) => appended.head.position,
        Outcome::Repeated(answer) => return Ok(Reply::kept(answer)),
    };
    app.caught_up(team, position).await;
    Ok(reply)
}
