//! Composing what is sent: from a draft that nobody has checked to the bytes of a message (RFC 5322, 2045 to 2049,
//! 2047, 2231, 6532, 8058).
//!
//! [`Draft::check`] answers every fault with the field it is in; what passes is a [`Message`], which composes to the
//! same bytes for the same [`Stamp`] for ever. It deliberately knows neither keys nor queues: signing is
//! [`sign_dkim`](crate::auth::sign_dkim), and the last change to a message.
//!
//! Invariants, each of them a test:
//! - no text of a draft can end a line, add a field, or name a recipient that the envelope does not hold;
//! - lines end in CRLF and have at most 998 octets; the body is 7-bit, so that no relay has to change what was signed;
//! - no `Bcc` field leaves; what is composed parses back to the draft.

mod attachment;
mod build;
mod check;
mod custom;
mod encode;

use serde::{Deserialize, Serialize};

use crate::address::{Address, AddressError};

pub(crate) use build::text_part as encode_text;
pub use check::is_link;
pub(crate) use check::message_id as check_message_id;

/// An address with the name shown beside it, as somebody wrote them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Person {
    /// The address.
    pub email: String,
    /// The display name.
    #[serde(default)]
    pub name: Option<String>,
}

/// A file to send along.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attachment {
    /// The name to show; required unless the file is inline.
    #[serde(default)]
    pub filename: Option<String>,
    /// The media type with its parameters (`text/calendar; method=REQUEST`); `application/octet-stream` without.
    #[serde(default)]
    pub content_type: Option<String>,
    /// The bytes.
    pub content: Vec<u8>,
    /// The name by which HTML shows it (`cid:…`, RFC 2392), with or without brackets.
    #[serde(default)]
    pub content_id: Option<String>,
    /// Whether the body shows it; needs a `content_id`.
    #[serde(default)]
    pub inline: bool,
}

/// How a recipient leaves the list that a message belongs to (RFC 2369, RFC 8058).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListUnsubscribe {
    /// An `https` URL that unsubscribes by one POST.
    pub url: String,
    /// A `mailto` address that does the same.
    #[serde(default)]
    pub mailto: Option<String>,
}

/// What machines are told about a message (RFC 3834).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AutoSubmitted {
    /// Nothing: somebody wrote it.
    #[default]
    No,
    /// A machine answers a message.
    Replied,
    /// A machine wrote it unasked.
    Generated,
}

/// What is asked to be sent. Nothing in it is trusted: see [`Draft::check`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Draft {
    /// The author.
    pub from: Person,
    /// Primary recipients.
    pub to: Vec<Person>,
    /// Further recipients.
    pub cc: Vec<Person>,
    /// Recipients nobody sees.
    pub bcc: Vec<Person>,
    /// Where answers go.
    pub reply_to: Vec<Person>,
    /// The subject, in plain text.
    pub subject: String,
    /// The text body.
    pub text: Option<String>,
    /// The HTML body; a text body is derived from it where none is given.
    pub html: Option<String>,
    /// Files.
    pub attachments: Vec<Attachment>,
    /// Further header fields: name and value in plain text.
    pub headers: Vec<(String, String)>,
    /// The id of the message this one answers.
    pub in_reply_to: Option<String>,
    /// The ids of the thread, oldest first.
    pub references: Vec<String>,
    /// The envelope sender; the author's address without.
    pub return_path: Option<String>,
    /// How to leave the list.
    pub unsubscribe: Option<ListUnsubscribe>,
    /// What machines are told.
    pub auto_submitted: AutoSubmitted,
}

/// Limits of a draft.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Recipients over `to`, `cc` and `bcc`.
    pub recipients_max: usize,
    /// Addresses in `reply_to`.
    pub reply_to_max: usize,
    /// Characters of the subject.
    pub subject_chars_max: usize,
    /// Characters of a display name.
    pub name_chars_max: usize,
    /// Files.
    pub attachments_max: usize,
    /// Custom header fields.
    pub headers_max: usize,
    /// Octets of all custom header fields together.
    pub headers_octets_max: usize,
    /// Octets of the composed message.
    pub message_octets_max: usize,
    /// Whether addresses may have a local part beyond ASCII, which only hosts with SMTPUTF8 take (RFC 6531).
    pub smtputf8: bool,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            recipients_max: 50,
            reply_to_max: 10,
            subject_chars_max: 998,
            name_chars_max: 100,
            attachments_max: 20,
            headers_max: 50,
            headers_octets_max: 16 * 1024,
            message_octets_max: 26_214_400,
            smtputf8: true,
        }
    }
}

/// What is wrong with a field.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Problem {
    /// It must be given.
    #[error("is required")]
    Required,
    /// A CR, LF, NUL or another control character: never removed, always refused.
    #[error("contains a line break or another control character")]
    ControlCharacter,
    /// It has more than so many of a unit.
    #[error("has more than {most} {unit}")]
    TooLong {
        /// The most that is allowed.
        most: usize,
        /// Of what.
        unit: &'static str,
    },
    /// There are more than so many.
    #[error("has more than {most} entries")]
    TooMany {
        /// The most that is allowed.
        most: usize,
    },
    /// It is no address.
    #[error("is not a valid address: {0}")]
    Address(AddressError),
    /// The domain of an address is a literal or a single label, which no mail exchanger is found for.
    #[error("has a domain that cannot be looked up")]
    Domain,
    /// A local part beyond ASCII where it is not allowed.
    #[error("needs SMTPUTF8, which is not allowed here")]
    Smtputf8,
    /// It is no header field name.
    #[error("is not a header field name")]
    FieldName,
    /// The header field is written by the platform.
    #[error("is a reserved header field")]
    Reserved,
    /// The header field is not among those that may be set.
    #[error("is not among the header fields that may be set")]
    NotAllowed,
    /// It was given before.
    #[error("is given twice")]
    Duplicate,
    /// It is no message id.
    #[error("is not a message id")]
    MessageId,
    /// It is no media type.
    #[error("is not a media type that can be attached")]
    MediaType,
    /// It is no URL or address of the kind that is needed.
    #[error("is not a valid {0} URL")]
    Url(&'static str),
}

/// A field of a draft and what is wrong with it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field} {problem}")]
pub struct FieldError {
    /// The field, with its index in a list: `to[2].email`, `headers.X-Tag`.
    pub field: String,
    /// What is wrong with it.
    pub problem: Problem,
}

/// What is fixed when a message is accepted, so that every retry sends the same bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp<'a> {
    /// The `Message-ID` without brackets; see [`message_id`].
    pub message_id: &'a str,
    /// The `Date`, in microseconds since the Unix epoch.
    pub at_micros: i64,
}

/// Returns the `Message-ID` of a message: `<unique>@<domain of its author>`, without brackets (RFC 5322 §3.6.4).
///
/// `unique` is a text of letters and digits that is never used again, such as the message's own id.
#[must_use]
pub fn message_id(unique: &str, from: &Address) -> String {
    let unique: String = unique.chars().filter(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.')).collect();
    let domain = if from.is_literal() { "localhost" } else { from.domain() };
    format!("{}@{domain}", unique.trim_matches('.'))
}

/// A checked address with its display name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedAddress {
    /// The address.
    pub address: Address,
    /// The display name.
    pub name: Option<String>,
}

/// A draft that has passed every check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    from: NamedAddress,
    to: Vec<NamedAddress>,
    cc: Vec<NamedAddress>,
    bcc: Vec<NamedAddress>,
    reply_to: Vec<NamedAddress>,
    subject: String,
    text: Option<String>,
    html: Option<String>,
    attachments: Vec<attachment::File>,
    headers: Vec<(String, String)>,
    in_reply_to: Option<String>,
    references: Vec<String>,
    return_path: Option<Address>,
    unsubscribe: Option<ListUnsubscribe>,
    auto_submitted: AutoSubmitted,
    message_octets_max: usize,
}

impl Draft {
    /// Checks every field.
    ///
    /// # Errors
    /// All faults that were found, at least one, each with its field.
    pub fn check(self, limits: &Limits) -> Result<Message, Vec<FieldError>> {
        check::check(self, limits)
    }
}

impl Message {
    /// Returns the author.
    #[must_use]
    pub fn from(&self) -> &NamedAddress {
        &self.from
    }

    /// Returns the primary recipients.
    #[must_use]
    pub fn to(&self) -> &[NamedAddress] {
        &self.to
    }

    /// Returns the further recipients.
    #[must_use]
    pub fn cc(&self) -> &[NamedAddress] {
        &self.cc
    }

    /// Returns the recipients nobody sees.
    #[must_use]
    pub fn bcc(&self) -> &[NamedAddress] {
        &self.bcc
    }

    /// Returns the subject.
    #[must_use]
    pub fn subject(&self) -> &str {
        &self.subject
    }

    /// Returns the id of the message this one answers.
    #[must_use]
    pub fn in_reply_to(&self) -> Option<&str> {
        self.in_reply_to.as_deref()
    }

    /// Returns the ids of the thread, oldest first.
    #[must_use]
    pub fn references(&self) -> &[String] {
        &self.references
    }

    /// Returns everyone the message goes to, each address once.
    #[must_use]
    pub fn recipients(&self) -> Vec<&Address> {
        let mut known = std::collections::HashSet::new();
        let all = self.to.iter().chain(&self.cc).chain(&self.bcc).map(|person| &person.address);
        all.filter(|address| known.insert(address.canonical())).collect()
    }

    /// Returns the envelope sender that the caller asked for, or the author's address.
    #[must_use]
    pub fn return_path(&self) -> &Address {
        self.return_path.as_ref().unwrap_or(&self.from.address)
    }

    /// Tells whether the header holds addresses that only hosts with SMTPUTF8 take (RFC 6531).
    #[must_use]
    pub fn needs_smtputf8(&self) -> bool {
        let shown = self.to.iter().chain(&self.cc).chain(&self.reply_to).chain([&self.from]);
        shown.into_iter().any(|person| !person.address.is_ascii())
    }

    /// Composes the message: the same bytes for the same stamp.
    ///
    /// # Errors
    /// `message_id` where the stamp's is none, `message` where the result is larger than the limit.
    pub fn compose(&self, stamp: &Stamp<'_>) -> Result<Vec<u8>, FieldError> {
        build::build(self, stamp)
    }
}
