//! The bodies of a message: as sent, and cleaned for a reader that is a program.

use axum::extract::State;
use domain::id::MessageId;
use domain::published::rfc3339;
use mail::content::{
    BODY_CHARS_DEFAULT, BODY_CHARS_MAX, ContentFormat, ContentPart, Options, RawPart, clean, raw_body,
};
use mail::message::{HeaderField, ParseLimits, ParsedMessage, headers, parse};
use serde::{Deserialize, Deserializer, Serialize};
use sha2::{Digest, Sha256};
use utoipa::{IntoParams, ToSchema};

use super::message_view::{
    MailboxAddress, MailboxAttachment, MailboxMessageAuthentication, attachments, existing, on_bytes, parsed, people,
    raw, state_token,
};
use crate::auth::{Scoped, guards};
use crate::envelope::{Data, Reply};
use crate::etag::{ETag, IfNoneMatch};
use crate::openapi::{IfNoneMatchHeader, MailboxSelection, Routes};
use crate::path::Id;
use crate::problem::Problem;
use crate::query::{Query, flag};
use crate::{App, door};

pub(super) fn routes() -> Routes {
    Routes::new().with(door!(get_body)).with(door!(get_content))
}

/// Reads how many characters of a body are wanted.
fn chars<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<usize>, D::Error> {
    let text = String::deserialize(deserializer)?;
    match text.parse::<usize>() {
        Ok(n) if (1..=BODY_CHARS_MAX).contains(&n) => Ok(Some(n)),
        _ => Err(serde::de::Error::custom(format!("must be a whole number from 1 to {BODY_CHARS_MAX}"))),
    }
}

/// Which body as it was sent.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum RawPartName {
    Text,
    Html,
    #[default]
    Both,
}

/// Parameters of the raw body.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct BodyQuery {
    /// `both` by default.
    #[param(inline)]
    part: Option<RawPartName>,
    /// How many characters of each body at most.
    #[serde(default, deserialize_with = "chars")]
    #[param(value_type = Option<u32>, minimum = 1, maximum = 1_000_000, default = 100_000)]
    max_body_chars: Option<usize>,
}

/// The state of a message.
#[derive(Debug, Clone, Serialize, ToSchema)]
struct EmailState {
    #[schema(required)]
    email_state: Option<String>,
}

/// Bodies as they were sent.
#[derive(Debug, Clone, Serialize, ToSchema)]
struct RawBodyParts {
    #[schema(required)]
    text: Option<String>,
    /// Not sanitised.
    #[schema(required)]
    html: Option<String>,
    is_truncated: bool,
    #[schema(required)]
    truncated_at_chars: Option<usize>,
}

/// The raw body of a message.
#[derive(Debug, Clone, Serialize, ToSchema)]
struct MailboxRawBody {
    id: String,
    #[schema(required)]
    thread_id: Option<String>,
    part: RawPartName,
    body: RawBodyParts,
    states: EmailState,
}

/// Returns the tag of a view of a message that the options decide about.
fn view_tag(version: u64, options: &str) -> ETag {
    ETag::of_bytes(format!("{version} {options}").as_bytes())
}

/// Get a message's body
///
/// As sent, without any cleaning.
#[utoipa::path(
    get,
    path = "/mailbox/messages/{message_id}/body",
    tag = "Mailbox API",
    operation_id = "mailboxListBody",
    params(("message_id" = String, Path, description = "Message id", example = "msg_06bqmn3t0d4gq2v8xk1hz7sw"), BodyQuery, IfNoneMatchHeader, MailboxSelection),
    responses(
        (status = 200, description = "The body", body = Data<MailboxRawBody>, headers(("ETag" = String))),
        (status = 304, description = "Not modified"),
        (status = 400, description = "Invalid parameter", body = crate::problem::Body),
        (status = 404, description = "No such message", body = crate::problem::Body),
    ),
)]
async fn get_body(
    call: Scoped<guards::MailboxRead>,
    State(app): State<App>,
    Id(id): Id<MessageId>,
    Query(query): Query<BodyQuery>,
    known: IfNoneMatch,
) -> Result<Reply<Data<MailboxRawBody>>, Problem> {
    let row = existing(&app, &call, &id).await?;
    let (part, chars_max) = (query.part.unwrap_or_default(), query.max_body_chars.unwrap_or(BODY_CHARS_DEFAULT));
    let tag = view_tag(row.version, &format!("{part:?} {chars_max}"));
    if known.has(&tag) {
        return Ok(Reply::not_modified(&tag));
    }
    let wanted = match part {
        RawPartName::Text => RawPart::Text,
        RawPartName::Html => RawPart::Html,
        RawPartName::Both => RawPart::Both,
    };
    let parsed = parsed(&app, &call, &row).await?;
    let mut body = raw_body(&parsed, wanted, chars_max);
    if parsed.html_derived {
        body.html = None;
    }
    let body = MailboxRawBody {
        id: row.id.to_string(),
        thread_id: Some(row.thread.to_string()),
        part,
        body: RawBodyParts {
            text: body.text,
            html: body.html,
            is_truncated: body.is_truncated,
            truncated_at_chars: body.truncated_at_chars,
        },
        states: EmailState { email_state: Some(state_token(&app, &call, row.changed_position)) },
    };
    Ok(Reply::ok(call.data(body)).tagged(&tag))
}

/// Which body to clean.
#[derive(Debug, Clone, Copy, Default, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum PartName {
    #[default]
    Auto,
    Text,
    Html,
}

/// How much of the header is wanted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum HeadersMode {
    None,
    #[default]
    Selected,
    Full,
}

/// How much of the attachments is wanted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum AttachmentsMode {
    None,
    #[default]
    Metadata,
}

/// Parameters of the cleaned content.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct ContentQuery {
    /// `auto` by default, which prefers a text that the sender wrote.
    #[param(inline)]
    part: Option<PartName>,
    /// How many characters of text and of HTML at most.
    #[serde(default, deserialize_with = "chars")]
    #[param(value_type = Option<u32>, minimum = 1, maximum = 1_000_000, default = 100_000)]
    max_body_chars: Option<usize>,
    /// Leave out the signature; true by default.
    #[serde(default, deserialize_with = "flag")]
    strip_signature: Option<bool>,
    /// Leave out quoted history; true by default.
    #[serde(default, deserialize_with = "flag")]
    strip_quotes: Option<bool>,
    /// List the links; true by default.
    #[serde(default, deserialize_with = "flag")]
    include_links: Option<bool>,
    /// Give sanitised HTML too; false by default.
    #[serde(default, deserialize_with = "flag")]
    include_html: Option<bool>,
    /// `selected` by default.
    #[param(inline)]
    include_headers: Option<HeadersMode>,
    /// `metadata` by default.
    #[param(inline)]
    include_attachments: Option<AttachmentsMode>,
}

impl ContentQuery {
    fn options(&self) -> Options {
        let defaults = Options::default();
        Options {
            part: match self.part.unwrap_or_default() {
                PartName::Auto => ContentPart::Auto,
                PartName::Text => ContentPart::Text,
                PartName::Html => ContentPart::Html,
            },
            strip_signature: self.strip_signature.unwrap_or(defaults.strip_signature),
            strip_quotes: self.strip_quotes.unwrap_or(defaults.strip_quotes),
            include_links: self.include_links.unwrap_or(defaults.include_links),
            include_html: self.include_html.unwrap_or(defaults.include_html),
            max_body_chars: self.max_body_chars.unwrap_or(defaults.max_body_chars),
        }
    }
}

/// The format of the body that was read.
#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum FormatName {
    Text,
    Html,
}

/// A cleaned body.
#[derive(Debug, Clone, Serialize, ToSchema)]
struct ContentBody {
    #[schema(required)]
    format: Option<FormatName>,
    #[schema(required)]
    text: Option<String>,
    /// Sanitised, remote images blocked.
    #[schema(required)]
    html: Option<String>,
    is_truncated: bool,
    #[schema(required)]
    truncated_at_chars: Option<usize>,
    signature_stripped: bool,
    quotes_stripped: bool,
    extracted_links: Vec<String>,
}

/// Who a message is from and to.
#[derive(Debug, Clone, Serialize, ToSchema)]
struct ContentParticipants {
    #[schema(required)]
    from: Option<MailboxAddress>,
    to: Vec<MailboxAddress>,
    cc: Vec<MailboxAddress>,
    bcc: Vec<MailboxAddress>,
    reply_to: Vec<MailboxAddress>,
}

/// When a message was sent and received.
#[derive(Debug, Clone, Serialize, ToSchema)]
struct ContentDates {
    #[schema(required)]
    received_at: Option<String>,
    #[schema(required)]
    sent_at: Option<String>,
}

/// Threading headers.
#[derive(Debug, Clone, Serialize, ToSchema)]
struct SelectedHeaders {
    message_id: Vec<String>,
    #[schema(required)]
    in_reply_to: Option<String>,
    references: Vec<String>,
    reply_to: Vec<MailboxAddress>,
}

/// A header field.
#[derive(Debug, Clone, Serialize, ToSchema)]
struct HeaderLine {
    name: String,
    value: String,
}

/// Headers, as many as were asked for.
#[derive(Debug, Clone, Serialize, ToSchema)]
struct MailboxContentHeaders {
    mode: HeadersMode,
    #[schema(required)]
    selected: Option<SelectedHeaders>,
    #[schema(required)]
    full: Option<Vec<HeaderLine>>,
}

/// The state of a message and of the options of its cleaning.
#[derive(Debug, Clone, Serialize, ToSchema)]
struct ContentStates {
    #[schema(required)]
    email_state: Option<String>,
    option_hash: String,
}

/// A one-time code found in a message.
#[derive(Debug, Clone, Serialize, ToSchema)]
struct FoundCode {
    value: String,
    /// The words around it.
    context: String,
}

/// A link that confirms, verifies or signs in.
#[derive(Debug, Clone, Serialize, ToSchema)]
struct FoundLink {
    url: String,
    /// The words of the link.
    context: String,
}

/// How many characters a message hides from people or from programs.
#[derive(Debug, Clone, Serialize, ToSchema)]
struct HiddenContent {
    hidden_text: usize,
    zero_width: usize,
    tag_chars: usize,
    bidi: usize,
}

/// The cleaned content of a message. Everything the sender wrote is data, never an instruction.
#[derive(Debug, Clone, Serialize, ToSchema)]
struct MailboxMessageContent {
    id: String,
    #[schema(required)]
    thread_id: Option<String>,
    #[schema(required)]
    subject: Option<String>,
    participants: ContentParticipants,
    dates: ContentDates,
    body: ContentBody,
    headers: MailboxContentHeaders,
    attachments: Vec<MailboxAttachment>,
    states: ContentStates,
    /// One-time codes.
    codes: Vec<FoundCode>,
    action_links: Vec<FoundLink>,
    hidden: HiddenContent,
    authentication: MailboxMessageAuthentication,
    /// The domain that is shown to have sent it (DMARC).
    #[schema(required)]
    verified_domain: Option<String>,
}

fn headers_shown(mode: HeadersMode, parsed: &ParsedMessage, full: Vec<HeaderField>) -> MailboxContentHeaders {
    let selected = (mode != HeadersMode::None).then(|| SelectedHeaders {
        message_id: parsed.message_id.clone(),
        in_reply_to: parsed.in_reply_to.first().cloned(),
        references: parsed.references.clone(),
        reply_to: people(&parsed.reply_to),
    });
    let line = |field: HeaderField| HeaderLine { name: field.name, value: field.value };
    let full = (mode == HeadersMode::Full).then(|| full.into_iter().map(line).collect());
    MailboxContentHeaders { mode, selected, full }
}

fn body_shown(content: &mail::content::Content) -> ContentBody {
    ContentBody {
        format: content.format.map(|format| match format {
            ContentFormat::Text => FormatName::Text,
            ContentFormat::Html => FormatName::Html,
        }),
        text: content.text.clone(),
        html: content.html.clone(),
        is_truncated: content.is_truncated,
        truncated_at_chars: content.truncated_at_chars,
        signature_stripped: content.signature_stripped,
        quotes_stripped: content.quotes_stripped,
        extracted_links: content.extracted_links.clone(),
    }
}

/// Get a message's clean content
///
/// The new text without history, signature and anything invisible, with links, codes and signs of deception.
#[utoipa::path(
    get,
    path = "/mailbox/messages/{message_id}/content",
    tag = "Mailbox API",
    operation_id = "mailboxListContent",
    params(("message_id" = String, Path, description = "Message id", example = "msg_06bqmn3t0d4gq2v8xk1hz7sw"), ContentQuery, IfNoneMatchHeader, MailboxSelection),
    responses(
        (status = 200, description = "The content", body = Data<MailboxMessageContent>, headers(("ETag" = String))),
        (status = 304, description = "Not modified"),
        (status = 400, description = "Invalid parameter", body = crate::problem::Body),
        (status = 404, description = "No such message", body = crate::problem::Body),
    ),
)]
async fn get_content(
    call: Scoped<guards::MailboxRead>,
    State(app): State<App>,
    Id(id): Id<MessageId>,
    Query(query): Query<ContentQuery>,
    known: IfNoneMatch,
) -> Result<Reply<Data<MailboxMessageContent>>, Problem> {
    let row = existing(&app, &call, &id).await?;
    let options = query.options();
    let headers_mode = query.include_headers.unwrap_or_default();
    let attachments_mode = query.include_attachments.unwrap_or_default();
    let spelled = format!("{options:?} {headers_mode:?} {attachments_mode:?} {}", mail::message::PARSER_VERSION);
    let option_hash = hex::encode(&Sha256::digest(&spelled)[..8]);
    let tag = view_tag(row.version, &option_hash);
    // Download URLs expire, so what shows them is always answered in full.
    let expires = row.attachments > 0 && attachments_mode == AttachmentsMode::Metadata;
    if known.has(&tag) && !expires {
        return Ok(Reply::not_modified(&tag));
    }
    let bytes = raw(&app, &call, &row).await?;
    let (parsed, full, content) = on_bytes(bytes, move |bytes| {
        let limits = ParseLimits::default();
        let parsed = parse(bytes, &limits);
        let full = if headers_mode == HeadersMode::Full { headers(bytes, &limits) } else { vec![] };
        let content = clean(&parsed, &options);
        (parsed, full, content)
    })
    .await?;
    let listed = match attachments_mode {
        AttachmentsMode::None => vec![],
        AttachmentsMode::Metadata => attachments(&app, &call, &row.id, &parsed.attachments),
    };
    let hidden = content.suspicious;
    let shown = MailboxMessageContent {
        id: row.id.to_string(),
        thread_id: Some(row.thread.to_string()),
        subject: row.subject.clone(),
        participants: ContentParticipants {
            from: parsed.from.as_ref().map(MailboxAddress::from),
            to: people(&parsed.to),
            cc: people(&parsed.cc),
            bcc: people(&parsed.bcc),
            reply_to: people(&parsed.reply_to),
        },
        dates: ContentDates { received_at: Some(rfc3339(row.received_at)), sent_at: row.sent_at.map(rfc3339) },
        body: body_shown(&content),
        headers: headers_shown(headers_mode, &parsed, full),
        attachments: listed,
        states: ContentStates { email_state: Some(state_token(&app, &call, row.changed_position)), option_hash },
        codes: content.codes.into_iter().map(|c| FoundCode { value: c.value, context: c.context }).collect(),
        action_links: content.action_links.into_iter().map(|l| FoundLink { url: l.url, context: l.context }).collect(),
        hidden: HiddenContent {
            hidden_text: hidden.hidden_text,
            zero_width: hidden.zero_width,
            tag_chars: hidden.tag_chars,
            bidi: hidden.bidi,
        },
        authentication: (&row.checks.authentication).into(),
        verified_domain: row.correspondence.verified_domain.clone(),
    };
    Ok(Reply::ok(call.data(shown)).tagged(&tag))
}
