//! From a checked message to its bytes.

use std::borrow::Cow;

use data_encoding::BASE32_NOPAD;
use mail_builder::headers::address::Address as AddressList;
use mail_builder::headers::content_type::ContentType;
use mail_builder::headers::message_id::MessageId;
use mail_builder::headers::raw::Raw;
use mail_builder::headers::text::Text;
use mail_builder::headers::{Header as _, HeaderType};
use mail_builder::mime::MimePart;
use mail_builder::writer::Writer as _;
use sha2::{Digest, Sha256};

use super::attachment::File;
use super::encode::{self, Encoded};
use super::{AutoSubmitted, FieldError, Message, NamedAddress, Problem, Stamp, check, custom};
use crate::smtp::trace::rfc5322_date;

pub(super) fn build(message: &Message, stamp: &Stamp<'_>) -> Result<Vec<u8>, FieldError> {
    check::message_id(stamp.message_id)?;
    let too_large = || {
        let problem = Problem::TooLong { most: message.message_octets_max, unit: "octets" };
        Err(FieldError { field: "message".to_owned(), problem })
    };
    // Encoding never makes content smaller, so that what is too large is refused before any work.
    let content: usize = message.attachments.iter().map(|file| file.content.len() / 3 * 4).sum();
    if content > message.message_octets_max {
        return too_large();
    }
    let mut out = Vec::new();
    write_header(message, stamp, &mut out);
    body(message, stamp).write_part(&mut out);
    // A message ends with a line end: one that lacks it would get it on its way, behind the signature's back.
    if !out.ends_with(b"\r\n") {
        out.extend_from_slice(b"\r\n");
    }
    if out.len() > message.message_octets_max {
        return too_large();
    }
    Ok(out)
}

fn write_header(message: &Message, stamp: &Stamp<'_>, out: &mut Vec<u8>) {
    let mut field = |name: &str, value: HeaderType<'_>| {
        out.write(name.as_bytes());
        out.write(b": ");
        value.write_header(out, name.len() + 2);
    };
    field("Date", raw(rfc5322_date(stamp.at_micros)));
    field("From", people(std::slice::from_ref(&message.from)));
    if !message.reply_to.is_empty() {
        field("Reply-To", people(&message.reply_to));
    }
    if !message.to.is_empty() {
        field("To", people(&message.to));
    } else if message.cc.is_empty() {
        // Programs complain of a message to nobody (RFC 5322 §3.6.3 has this form for it).
        field("To", raw("undisclosed-recipients:;"));
    }
    if !message.cc.is_empty() {
        field("Cc", people(&message.cc));
    }
    field("Subject", subject(&message.subject));
    field("Message-ID", MessageId::new(stamp.message_id).into());
    if let Some(id) = &message.in_reply_to {
        field("In-Reply-To", MessageId::new(id.as_str()).into());
    }
    if !message.references.is_empty() {
        field("References", MessageId::new_list(message.references.iter().map(String::as_str)).into());
    }
    if let Some(unsubscribe) = &message.unsubscribe {
        field("List-Unsubscribe", raw(crate::unsubscribe::header_value(unsubscribe)));
        field("List-Unsubscribe-Post", raw(crate::unsubscribe::ONE_CLICK));
    }
    match message.auto_submitted {
        AutoSubmitted::No => {}
        AutoSubmitted::Replied => field("Auto-Submitted", raw("auto-replied")),
        AutoSubmitted::Generated => field("Auto-Submitted", raw("auto-generated")),
    }
    for (name, value) in &message.headers {
        let plain = custom::is_plain(value);
        field(name, if plain { raw(custom::fold(name, value)) } else { text(value) });
    }
    field("MIME-Version", raw("1.0"));
}

fn raw<'x>(value: impl Into<Cow<'x, str>>) -> HeaderType<'x> {
    Raw::new(value).into()
}

/// Writes a subject as it is where that is readable; what could be taken for an encoded word becomes one.
fn subject(subject: &str) -> HeaderType<'_> {
    if custom::is_plain(subject) {
        let folded = custom::fold("Subject", subject);
        if folded.split("\r\n").all(|line| line.len() <= 78 && !line.trim().is_empty()) {
            return raw(folded);
        }
    }
    text(subject)
}

fn text(text: &str) -> HeaderType<'_> {
    if text.contains("=?") { raw(encode::words(text)) } else { Text::new(text).into() }
}

/// Writes one person a line.
fn people(people: &[NamedAddress]) -> HeaderType<'static> {
    let lines: Vec<String> = people.iter().map(person).collect();
    raw(lines.join(",\r\n "))
}

fn person(person: &NamedAddress) -> String {
    let address = person.address.as_str();
    if let Some(name) = person.name.as_deref().filter(|name| name.contains("=?")) {
        return format!("{}\r\n <{address}>", encode::words(name));
    }
    let mut line = Vec::new();
    // The column of the longest name of a field these are written to.
    AddressList::new_address(person.name.as_deref(), address).write_header(&mut line, "Reply-To: ".len());
    String::from_utf8_lossy(&line).trim_end().to_owned()
}

fn body<'x>(message: &'x Message, stamp: &Stamp<'_>) -> MimePart<'x> {
    let mut boundaries = Boundaries::new(message, stamp);
    let (related, attached): (Vec<&File>, Vec<&File>) =
        message.attachments.iter().partition(|file| file.inline && message.html.is_some());
    let html = message.html.as_deref().map(|html| {
        let html = text_part("text/html", html);
        if related.is_empty() {
            return html;
        }
        let parts = std::iter::once(html).chain(related.into_iter().map(file_part)).collect();
        multipart("multipart/related", Some("text/html"), &mut boundaries, parts)
    });
    let text = match (&message.text, &message.html) {
        (Some(text), _) => Some(text_part("text/plain", text)),
        (None, Some(html)) => {
            let (derived, _) = crate::html::visible_text(html);
            Some(derived.trim())
                .filter(|text| !text.is_empty())
                .map(|text| text_part("text/plain", &format!("{text}\r\n")))
        }
        (None, None) => None,
    };
    let shown = match (text, html) {
        (Some(text), Some(html)) => multipart("multipart/alternative", None, &mut boundaries, vec![text, html]),
        (Some(only), None) | (None, Some(only)) => only,
        (None, None) => text_part("text/plain", ""),
    };
    if attached.is_empty() {
        return shown;
    }
    let parts = std::iter::once(shown).chain(attached.into_iter().map(file_part)).collect();
    multipart("multipart/mixed", None, &mut boundaries, parts)
}

/// Makes a text part in whichever encoding keeps it 7-bit.
pub(crate) fn text_part<'x>(media_type: &'static str, text: &str) -> MimePart<'x> {
    let Encoded { encoding, body } = encode::text(encode::with_crlf(text));
    let charset = if text.is_ascii() { "us-ascii" } else { "utf-8" };
    MimePart::new(ContentType::new(media_type).attribute("charset", charset), body).transfer_encoding(encoding)
}

fn file_part(file: &File) -> MimePart<'_> {
    let mut content_type = ContentType::new(file.media_type.name.as_str());
    for (name, value) in &file.media_type.parameters {
        content_type = content_type.attribute(name.as_str(), value.as_str());
    }
    let mut disposition = ContentType::new(if file.inline { "inline" } else { "attachment" });
    if let Some(name) = &file.filename {
        disposition = disposition.attribute("filename", name.as_str());
        if !name.is_ascii() {
            // For programs that know no extended parameters (RFC 2231). Those that do prefer the one before it, and
            // some take whatever comes first.
            disposition = disposition.attribute("filename", ascii_fallback(name));
        }
    }
    let part = MimePart::new(content_type, encode::base64(&file.content).into_bytes())
        .transfer_encoding("base64")
        .header("Content-Disposition", disposition);
    match &file.content_id {
        Some(id) => part.cid(id.as_str()),
        None => part,
    }
}

fn ascii_fallback(name: &str) -> String {
    name.chars()
        .map(|c| if matches!(c, ' '..='~') && !matches!(c, '"' | '\\' | '%') { c } else { '_' })
        .take(70)
        .collect()
}

fn multipart<'x>(
    media_type: &'static str,
    root: Option<&'static str>,
    boundaries: &mut Boundaries,
    parts: Vec<MimePart<'x>>,
) -> MimePart<'x> {
    let mut content_type = ContentType::new(media_type);
    if let Some(root) = root {
        // The type of the root part (RFC 2387 §3.1).
        content_type = content_type.attribute("type", root);
    }
    MimePart::new(content_type.attribute("boundary", boundaries.next()), parts)
}

/// Boundaries made of the content: the same for the same message, and in no text that knew them before. Their `=_`
/// cannot occur in an encoded body (RFC 2045 §6.7).
struct Boundaries {
    digest: String,
    used: u32,
}

impl Boundaries {
    fn new(message: &Message, stamp: &Stamp<'_>) -> Self {
        let mut hash = Sha256::new();
        let texts = [Some(stamp.message_id), message.text.as_deref(), message.html.as_deref()];
        for text in texts.into_iter().flatten() {
            hash.update((text.len() as u64).to_be_bytes());
            hash.update(text.as_bytes());
        }
        let digest = BASE32_NOPAD.encode(&hash.finalize()[..15]).to_ascii_lowercase();
        Self { digest, used: 0 }
    }

    fn next(&mut self) -> String {
        self.used += 1;
        format!("=_{}_{}", self.used, self.digest)
    }
}
