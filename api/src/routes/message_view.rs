//! How messages are shown, and how their bytes are read for it.

use std::collections::BTreeSet;

use domain::id::{EventId, MessageId, Position};
use domain::message::{Authentication, Person};
use domain::published::rfc3339;
use mail::message::{Address, Attachment, ParseLimits, ParsedMessage};
use projections::messages::{self, Row};
use serde::Serialize;
use utoipa::ToSchema;

use super::attachments::download_url;
use crate::App;
use crate::auth::Call;
use crate::problem::Problem;

/// Raw messages up to this many bytes are parsed where they are; larger ones on a thread of their own.
const PARSE_INLINE_BYTES_MAX: usize = 64 * 1024;

/// A name and an address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub(super) struct MailboxAddress {
    pub(super) email: String,
    #[schema(required)]
    pub(super) name: Option<String>,
}

impl From<&Person> for MailboxAddress {
    fn from(person: &Person) -> Self {
        Self { email: person.email.clone(), name: person.name.clone() }
    }
}

impl From<&Address> for MailboxAddress {
    fn from(address: &Address) -> Self {
        Self { email: address.email.clone(), name: address.name.clone() }
    }
}

pub(super) fn people<'a, T: 'a>(list: impl IntoIterator<Item = &'a T>) -> Vec<MailboxAddress>
where
    MailboxAddress: From<&'a T>,
{
    list.into_iter().map(MailboxAddress::from).collect()
}

/// The flags of a message.
#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
pub(super) struct MailboxMessageFlags {
    seen: bool,
    flagged: bool,
    answered: bool,
    draft: bool,
}

/// An attachment, as its sender describes it.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(super) struct MailboxAttachment {
    /// The attachment's id within its message.
    #[schema(example = "att_2")]
    id: String,
    #[schema(required)]
    filename: Option<String>,
    content_type: String,
    #[schema(required)]
    size_bytes: Option<u64>,
    #[schema(required)]
    disposition: Option<String>,
    /// The id by which the HTML refers to it.
    #[schema(required)]
    content_id: Option<String>,
    /// Works without a key for a short time; read the message again for a new one.
    download_url: String,
}

pub(super) fn attachments(app: &App, call: &Call, id: &MessageId, list: &[Attachment]) -> Vec<MailboxAttachment> {
    let shown = |attachment: &Attachment| MailboxAttachment {
        id: attachment_id(attachment.part_id),
        filename: attachment.filename.clone(),
        content_type: attachment.content_type.clone(),
        size_bytes: attachment.size_bytes,
        disposition: attachment.disposition.clone(),
        content_id: attachment.content_id.clone(),
        download_url: download_url(app, call, id, attachment.part_id),
    };
    list.iter().map(shown).collect()
}

/// Returns the id of a part of a message.
pub(super) fn attachment_id(part: u32) -> String {
    format!("att_{part}")
}

/// A message as it is listed.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(super) struct MailboxMessageSummary {
    #[schema(example = "msg_06bqmn3t0d4gq2v8xk1hz7sw")]
    id: String,
    #[schema(required)]
    thread_id: Option<String>,
    folder_ids: Vec<String>,
    #[schema(required)]
    subject: Option<String>,
    /// The first visible words.
    #[schema(required)]
    preview: Option<String>,
    #[schema(required)]
    from: Option<MailboxAddress>,
    to: Vec<MailboxAddress>,
    cc: Vec<MailboxAddress>,
    bcc: Vec<MailboxAddress>,
    #[schema(required)]
    received_at: Option<String>,
    #[schema(required)]
    sent_at: Option<String>,
    #[schema(required)]
    size_bytes: Option<i64>,
    has_attachments: bool,
    keywords: BTreeSet<String>,
    flags: MailboxMessageFlags,
    /// Whether it was classified as spam.
    is_spam: bool,
    /// The domain that is shown to have sent it (DMARC).
    #[schema(required)]
    verified_domain: Option<String>,
}

impl MailboxMessageSummary {
    pub(super) fn new(row: &Row) -> Self {
        let has = |keyword: &str| row.keywords.contains(keyword);
        let c = &row.correspondence;
        Self {
            id: row.id.to_string(),
            thread_id: Some(row.thread.to_string()),
            folder_ids: vec![row.folder.as_str().to_owned()],
            subject: row.subject.clone(),
            preview: row.preview.clone(),
            from: c.from.as_ref().map(MailboxAddress::from),
            to: people(&c.to),
            cc: people(&c.cc),
            bcc: vec![],
            received_at: Some(rfc3339(row.received_at)),
            sent_at: row.sent_at.map(rfc3339),
            size_bytes: Some(row.size_bytes),
            has_attachments: row.attachments > 0,
            keywords: row.keywords.clone(),
            flags: MailboxMessageFlags {
                seen: has("$seen"),
                flagged: has("$flagged"),
                answered: has("$answered"),
                draft: has("$draft"),
            },
            is_spam: row.is_spam,
            verified_domain: c.verified_domain.clone(),
        }
    }
}

/// How a message's origin was checked.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(super) struct MailboxMessageAuthentication {
    spf: String,
    dkim: String,
    dmarc: String,
    arc: String,
}

impl From<&Authentication> for MailboxMessageAuthentication {
    fn from(checks: &Authentication) -> Self {
        Self {
            spf: checks.spf.clone(),
            dkim: checks.dkim.clone(),
            dmarc: checks.dmarc.clone(),
            arc: checks.arc.clone(),
        }
    }
}

/// Why a message was or was not classified as spam.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(super) struct MailboxMessageSpam {
    /// The score in tenths of a point.
    score_tenths: i64,
    /// The rules that gave points.
    rules: Vec<String>,
}

/// A message.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(super) struct MailboxMessage {
    #[serde(flatten)]
    summary: MailboxMessageSummary,
    attachments: Vec<MailboxAttachment>,
    #[schema(required)]
    text_body: Option<String>,
    /// As sent, not sanitised.
    #[schema(required)]
    html_body: Option<String>,
    /// `Message-ID` without angle brackets.
    message_id: Vec<String>,
    /// `In-Reply-To` without angle brackets.
    in_reply_to: Vec<String>,
    /// `References` without angle brackets, oldest first.
    references: Vec<String>,
    /// Where answers go, if not to the author.
    reply_to: Vec<MailboxAddress>,
    authentication: MailboxMessageAuthentication,
    spam: MailboxMessageSpam,
}

impl MailboxMessage {
    pub(super) fn new(app: &App, call: &Call, row: &Row, parsed: ParsedMessage) -> Self {
        let mut summary = MailboxMessageSummary::new(row);
        summary.bcc = people(&parsed.bcc);
        Self {
            attachments: attachments(app, call, &row.id, &parsed.attachments),
            summary,
            reply_to: people(&parsed.reply_to),
            text_body: parsed.text,
            html_body: parsed.html.filter(|_| !parsed.html_derived),
            message_id: parsed.message_id,
            in_reply_to: parsed.in_reply_to,
            references: parsed.references,
            authentication: (&row.checks.authentication).into(),
            spam: MailboxMessageSpam { score_tenths: row.checks.spam_score, rules: row.checks.spam_rules.clone() },
        }
    }
}

/// Returns the row of a message of the caller's mailbox.
pub(super) async fn existing(app: &App, call: &Call, id: &MessageId) -> Result<Row, Problem> {
    let found = messages::get(&app.views, &call.caller.team, call.mailbox()?, id).await?;
    found.ok_or_else(Problem::not_found)
}

/// Returns the bytes of a message.
pub(super) async fn raw(app: &App, call: &Call, row: &Row) -> Result<bytes::Bytes, Problem> {
    if let Some(bytes) = app.log.blob(&call.caller.team, &row.blob).await? {
        return Ok(bytes);
    }
    if row.rfc5322_message_id.is_none() {
        // Erased, and its bytes with it: an empty mail is what is left to show.
        return Ok(bytes::Bytes::new());
    }
    tracing::error!(message.id = row.id.as_str(), "the bytes of a message are missing");
    Err(Problem::internal())
}

/// Returns the parsed view of a message's bytes.
pub(super) async fn parsed(app: &App, call: &Call, row: &Row) -> Result<ParsedMessage, Problem> {
    let bytes = raw(app, call, row).await?;
    on_bytes(bytes, |bytes| mail::message::parse(bytes, &ParseLimits::default())).await
}

/// Computes something from the bytes of a message, away from other requests when there are many bytes.
pub(super) async fn on_bytes<T: Send + 'static>(
    bytes: bytes::Bytes,
    compute: impl FnOnce(&[u8]) -> T + Send + 'static,
) -> Result<T, Problem> {
    if bytes.len() <= PARSE_INLINE_BYTES_MAX {
        return Ok(compute(&bytes));
    }
    tokio::task::spawn_blocking(move || compute(&bytes)).await.map_err(|error| {
        tracing::error!(error = &error as &dyn std::error::Error, "a message could not be read");
        Problem::internal()
    })
}

/// Returns the token of a state: a place in the team's log.
pub(super) fn state_token(app: &App, call: &Call, position: Position) -> String {
    EventId::new(&call.caller.team, app.log.epoch(), position).to_string()
}
