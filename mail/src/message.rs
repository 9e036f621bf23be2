//! A received message, parsed as far as it can be (RFC 5322, RFC 2045 to 2049, RFC 2047, RFC 2231, RFC 3676, RFC 6532).
//!
//! Parsing never fails: the raw bytes are the truth and this is a view of them that can be made again. It is a
//! function of the bytes and the limits alone; [`PARSER_VERSION`] changes whenever its result may.
//!
//! Limits are applied before any library sees the bytes: our own splitter divides the message into a bounded number
//! of parts in one pass, and only single fields and single decoded bodies go further. The contents of attached messages
//! are opaque: parse the bytes of the attachment to look inside.

mod attachment;
mod automatic;
mod bodies;
mod decode;
mod flowed;
mod tree;

use serde::{Deserialize, Serialize};

use crate::header::{Block, BlockLimits, EmailAddress, addresses, message_ids};

pub use crate::header::EmailAddress as Address;
pub use attachment::{Attachment, AttachmentBytes, attachment_bytes, sanitize_filename};
pub use automatic::{AutomaticFacts, is_robot};
pub use decode::{decode_base64, decode_quoted_printable};

/// The version of this parser. A projection built by another version may be rebuilt.
pub const PARSER_VERSION: u32 = 1;

/// Limits of parsing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ParseLimits {
    /// Deepest MIME part looked into; what lies deeper is one opaque attachment.
    pub depth_max: usize,
    /// Parts kept; the rest is dropped.
    pub parts_max: usize,
    /// Header fields kept.
    pub header_fields_max: usize,
    /// Header bytes looked at.
    pub header_bytes_max: usize,
    /// Addresses kept in one field.
    pub addresses_max: usize,
    /// References kept: the first and the newest.
    pub references_max: usize,
    /// Largest decoded attachment that can be fetched, in bytes.
    pub attachment_bytes_max: usize,
    /// Decoded bytes over all parts; parts beyond are listed without size and digest.
    pub decoded_bytes_max: usize,
    /// Text and HTML kept, in bytes each.
    pub body_bytes_max: usize,
}

impl Default for ParseLimits {
    fn default() -> Self {
        ParseLimits {
            depth_max: 50,
            parts_max: 1000,
            header_fields_max: 2000,
            header_bytes_max: 256 * 1024,
            addresses_max: 2000,
            references_max: 100,
            attachment_bytes_max: 50 * 1024 * 1024,
            decoded_bytes_max: 100 * 1024 * 1024,
            body_bytes_max: 2 * 1024 * 1024,
        }
    }
}

impl ParseLimits {
    fn header(&self) -> BlockLimits {
        BlockLimits { fields_max: self.header_fields_max, bytes_max: self.header_bytes_max }
    }
}

/// How much of a message could be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ParseStatus {
    /// All of it.
    Complete,
    /// Something is malformed or beyond a limit; the raw bytes hold more.
    Partial,
}

/// Counts and marks of the header that a verdict may need.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeaderFacts {
    /// `From` fields; a message has exactly one (RFC 5322 section 3.6).
    pub from_fields: usize,
    /// `Date` fields.
    pub date_fields: usize,
    /// `Message-ID` fields.
    pub message_id_fields: usize,
    /// `Subject` fields.
    pub subject_fields: usize,
    /// `Received` fields: how often the message was handed on.
    pub received_fields: usize,
    /// Whether the only recipients named are an empty group such as `undisclosed-recipients:;`.
    pub undisclosed_recipients: bool,
    /// The part of `X-Mailer` or `User-Agent` that names the program.
    pub mailer: Option<String>,
}

/// The parsed view of a message. All text is valid UTF-8 without NUL.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ParsedMessage {
    /// The version of the parser that made this.
    pub parser_version: u32,
    /// How much could be read.
    pub parse_status: ParseStatus,
    /// Whether a limit left something out.
    pub truncated: bool,
    /// Whether text or HTML were cut at `body_bytes_max`.
    pub body_truncated: bool,
    /// Whether the content is encrypted, so that there is no body to show.
    pub encrypted: bool,
    /// Bytes of the raw message.
    pub size_bytes: usize,
    /// The subject, decoded.
    pub subject: Option<String>,
    /// The author: the only address of the only `From` field, or the first of several.
    pub from: Option<EmailAddress>,
    /// All authors of all `From` fields.
    pub from_all: Vec<EmailAddress>,
    /// The `Sender`, where it differs from the author.
    pub sender: Option<EmailAddress>,
    /// Primary recipients.
    pub to: Vec<EmailAddress>,
    /// Further recipients.
    pub cc: Vec<EmailAddress>,
    /// Recipients that should not have been in the header.
    pub bcc: Vec<EmailAddress>,
    /// Where answers go, if not to the author.
    pub reply_to: Vec<EmailAddress>,
    /// The moment of the `Date` field, in microseconds since the Unix epoch.
    pub sent_at: Option<i64>,
    /// The `Date` field as written.
    pub date: Option<String>,
    /// `Message-ID` without brackets; empty when there is none, several when several fields are there.
    pub message_id: Vec<String>,
    /// `In-Reply-To` ids without brackets.
    pub in_reply_to: Vec<String>,
    /// `References` ids without brackets, oldest first.
    pub references: Vec<String>,
    /// The `Thread-Topic` that some programs send in place of references.
    pub thread_topic: Option<String>,
    /// The text body.
    pub text: Option<String>,
    /// Whether `text` was derived from the HTML.
    pub text_derived: bool,
    /// The HTML body as sent: not sanitised.
    pub html: Option<String>,
    /// Whether `html` was derived from the text.
    pub html_derived: bool,
    /// The first characters a reader would see, on one line.
    pub preview: String,
    /// Everything that is not the body, in order.
    pub attachments: Vec<Attachment>,
    /// Signs of automatic mail.
    pub automatic: AutomaticFacts,
    /// Counts of the header.
    pub facts: HeaderFacts,
}

/// A header field, decoded for display.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeaderField {
    /// The name as written.
    pub name: String,
    /// The value, unfolded and decoded.
    pub value: String,
}

/// Parses a message.
pub fn parse(raw: &[u8], limits: &ParseLimits) -> ParsedMessage {
    let raw = &*with_line_feeds(raw);
    let tree = tree::split(raw, limits);
    let block = Block::scan(raw, limits.header());
    let bodies = bodies::select(raw, &tree, limits);
    let (attachments, attachments_cut) = attachment::list(raw, &tree, &bodies, limits);
    let people = People::read(&block, limits);
    let (references, references_cut) = references(&block, limits);
    let text_of = |name: &str| block.first(name).map(|field| field.text()).filter(|text| !text.is_empty());
    let content_type = tree.parts.first().map_or("", |part| part.content.value.as_str());
    let truncated =
        tree.truncated || block.truncated || attachments_cut || people.truncated || references_cut || bodies.truncated;
    ParsedMessage {
        parser_version: PARSER_VERSION,
        parse_status: if truncated || block.fields.is_empty() { ParseStatus::Partial } else { ParseStatus::Complete },
        truncated,
        body_truncated: bodies.truncated,
        encrypted: bodies.encrypted,
        size_bytes: raw.len(),
        subject: text_of("Subject"),
        automatic: AutomaticFacts::read(&block, people.from.first(), content_type),
        facts: facts(&block, people.to.is_empty() && people.cc.is_empty()),
        sender: people.distinct_sender(),
        from: people.from.first().cloned(),
        from_all: people.from,
        to: people.to,
        cc: people.cc,
        bcc: people.bcc,
        reply_to: people.reply_to,
        sent_at: block.first("Date").and_then(|field| date_micros(field.value)),
        date: text_of("Date"),
        message_id: ids(&block, "Message-ID", limits.references_max),
        in_reply_to: ids(&block, "In-Reply-To", limits.references_max),
        references,
        thread_topic: text_of("Thread-Topic"),
        preview: preview(bodies.text.as_deref().unwrap_or_default()),
        text: bodies.text,
        text_derived: bodies.text_derived,
        html: bodies.html,
        html_derived: bodies.html_derived,
        attachments,
    }
}

/// Returns the header fields of a message, decoded for display, within the limits.
pub fn headers(raw: &[u8], limits: &ParseLimits) -> Vec<HeaderField> {
    let raw = &*with_line_feeds(raw);
    let block = Block::scan(raw, limits.header());
    block.fields.iter().map(|field| HeaderField { name: field.name.to_owned(), value: field.text() }).collect()
}

/// A file of CR line ends only (old systems) becomes readable; every other input is taken as it is.
fn with_line_feeds(raw: &[u8]) -> std::borrow::Cow<'_, [u8]> {
    if raw.contains(&b'\n') || !raw.contains(&b'\r') {
        return raw.into();
    }
    raw.iter().map(|byte| if *byte == b'\r' { b'\n' } else { *byte }).collect::<Vec<u8>>().into()
}

/// Everyone named in the header.
struct People {
    from: Vec<EmailAddress>,
    sender: Vec<EmailAddress>,
    to: Vec<EmailAddress>,
    cc: Vec<EmailAddress>,
    bcc: Vec<EmailAddress>,
    reply_to: Vec<EmailAddress>,
    truncated: bool,
}

impl People {
    fn read(block: &Block<'_>, limits: &ParseLimits) -> Self {
        let mut truncated = false;
        let mut list = |name: &str| {
            let mut all = Vec::new();
            for field in block.all(name) {
                let room = limits.addresses_max - all.len();
                let (found, cut) = addresses(&field.unfolded(), room);
                truncated |= cut;
                all.extend(found);
            }
            all
        };
        People {
            from: list("From"),
            sender: list("Sender"),
            to: list("To"),
            cc: list("Cc"),
            bcc: list("Bcc"),
            reply_to: list("Reply-To"),
            truncated,
        }
    }

    fn distinct_sender(&self) -> Option<EmailAddress> {
        let from = self.from.first().map(|from| from.email.as_str());
        self.sender.first().filter(|sender| Some(sender.email.as_str()) != from).cloned()
    }
}

fn ids(block: &Block<'_>, name: &str, ids_max: usize) -> Vec<String> {
    block.all(name).flat_map(|field| message_ids(field.value)).take(ids_max).collect()
}

/// Keeps the first reference, which names the thread, and the newest ones, which name the parent.
fn references(block: &Block<'_>, limits: &ParseLimits) -> (Vec<String>, bool) {
    let mut all: Vec<String> = Vec::new();
    let mut known = std::collections::HashSet::new();
    for id in block.all("References").flat_map(|field| message_ids(field.value)) {
        if known.insert(id.clone()) {
            all.push(id);
        }
    }
    let surplus = all.len().saturating_sub(limits.references_max);
    if surplus > 0 {
        all.drain(1..=surplus);
    }
    (all, surplus > 0)
}

fn facts(block: &Block<'_>, no_recipients: bool) -> HeaderFacts {
    let count = |name: &str| block.all(name).count();
    let empty_group = |name: &str| block.all(name).any(|field| crate::header::group_is_empty(&field.unfolded()));
    HeaderFacts {
        from_fields: count("From"),
        date_fields: count("Date"),
        message_id_fields: count("Message-ID"),
        subject_fields: count("Subject"),
        received_fields: count("Received"),
        undisclosed_recipients: no_recipients && (empty_group("To") || empty_group("Cc")),
        mailer: ["X-Mailer", "User-Agent"].iter().find_map(|name| block.first(name)).map(|field| field.text()),
    }
}

/// Reads a date the way mail programs really write it (RFC 5322 sections 3.3 and 4.3).
fn date_micros(value: &[u8]) -> Option<i64> {
    let line = crate::header::unfold(value);
    // Without a zone the moment is unknown by hours; UTC is the guess that is wrong by the least.
    let parsed = datetime(&line).or_else(|| datetime(&format!("{line} +0000")))?;
    parsed.to_timestamp().checked_mul(1_000_000)
}

fn datetime(line: &str) -> Option<mail_parser::DateTime> {
    let line = format!("{line}\n");
    let parsed = mail_parser::parsers::MessageStream::new(line.as_bytes()).parse_date().into_datetime()?;
    parsed.is_valid().then_some(parsed)
}

const PREVIEW_CHARS_MAX: usize = 200;

fn preview(text: &str) -> String {
    // White space and padding may be most of a text, so more than the length of the preview is looked at.
    let start: String = text.chars().take(PREVIEW_CHARS_MAX * 20).collect();
    let (visible, _) = crate::content::strip_invisible(&start);
    let words: Vec<&str> = visible.split_whitespace().collect();
    let line: String = words.join(" ").chars().take(PREVIEW_CHARS_MAX).collect();
    line.trim_end().to_owned()
}
