//! A message that one of our own users hands in: what must be right about it, and the little that is mended (RFC 6409 §8).
//!
//! The message leaves as it came, but for this: fields that are not for recipients go (`Bcc`, `Return-Path`), a
//! missing `Date` or `Message-ID` is added, and what the caller puts on top. Whatever cannot be sent as it is, is
//! refused while its author's program still holds it.

use crate::address::{Address, AddressError};
use crate::compose::NamedAddress;
use crate::header::EmailAddress;
use crate::message::{ParseLimits, ParsedMessage, parse};
use crate::smtp::trace::{fields, rfc5322_date, without_fields};
use crate::thread::{references_for_threading, usable_message_id};

/// Longest line, in octets without its line end (RFC 5322 §2.1.1).
pub const LINE_OCTETS_MAX: usize = 998;
/// Fields that nobody but us may write, or that are not for recipients.
const REMOVED: [&str; 4] = ["Bcc", "Resent-Bcc", "Return-Path", MAIL_ID_FIELD];
/// The field that names a mail where systems on the way change its `Message-ID`; reports bring it back.
pub const MAIL_ID_FIELD: &str = "X-Postlog-ID";

/// Why a message is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// A line before the body is no header field.
    #[error("the header has a line that is no field")]
    Header,
    /// There is not exactly one author.
    #[error("the message must have one From field with one address")]
    Author,
    /// The author's address is none.
    #[error("the address in From is not valid: {0}")]
    AuthorAddress(AddressError),
    /// The address in `Sender` is none.
    #[error("the address in Sender is not valid: {0}")]
    SenderAddress(AddressError),
    /// A line is too long for the way.
    #[error("a line is longer than 998 octets")]
    LongLine,
    /// A character no message may have.
    #[error("the message has a NUL")]
    Nul,
}

/// A message that can be sent.
#[derive(Debug, Clone)]
pub struct Submitted {
    /// Its bytes, mended.
    pub bytes: Vec<u8>,
    /// The author.
    pub from: NamedAddress,
    /// Who sent it for the author, where another is named.
    pub sender: Option<Address>,
    /// Everyone in `To`.
    pub to: Vec<EmailAddress>,
    /// Everyone in `Cc`.
    pub cc: Vec<EmailAddress>,
    /// `Reply-To`.
    pub reply_to: Vec<EmailAddress>,
    /// `Subject`, decoded; empty where there is none.
    pub subject: String,
    /// Its `Message-ID`, without brackets.
    pub message_id: String,
    /// Whether the client gave that id, so that a repetition can be told from another message.
    pub identified: bool,
    /// What it refers to: `In-Reply-To` first, then `References` from last to first.
    pub references: Vec<String>,
}

/// What is written on a message that lacks it.
#[derive(Debug, Clone, Copy)]
pub struct Mark<'a> {
    /// Our id of the mail: letters, digits and `_`.
    pub id: &'a str,
    /// Whole fields on top, each with its CRLF: the trace of this hop.
    pub trace: &'a str,
    /// Now, microseconds since the Unix epoch.
    pub at_micros: i64,
}

/// Reads and mends a message whose lines end in CRLF.
///
/// # Errors
/// See [`Fault`].
pub fn submit(raw: &[u8], mark: &Mark<'_>) -> Result<Submitted, Fault> {
    check_lines(raw)?;
    let parsed = parse(raw, &ParseLimits::default());
    let from = author(&parsed)?;
    let sender =
        parsed.sender.as_ref().map(|of| Address::parse(&of.email)).transpose().map_err(Fault::SenderAddress)?;
    let given = usable_message_id(&parsed).filter(|id| id.len() <= LINE_OCTETS_MAX / 2 && parsed.message_id.len() == 1);
    let given = given.map(str::to_owned);
    let replaced = given.is_none();
    let kept = without_fields(raw, |field| {
        let is = |name: &str| field.name.eq_ignore_ascii_case(name.as_bytes());
        REMOVED.iter().any(|name| is(name)) || (replaced && is("Message-ID"))
    });
    let identified = given.is_some();
    let message_id = given.unwrap_or_else(|| crate::compose::message_id(mark.id, &from.address));
    let mut top = format!("{}{MAIL_ID_FIELD}: {}\r\n", mark.trace, mark.id);
    if replaced {
        top.push_str(&format!("Message-ID: <{message_id}>\r\n"));
    }
    if parsed.facts.date_fields == 0 {
        top.push_str(&format!("Date: {}\r\n", rfc5322_date(mark.at_micros)));
    }
    let references = references_for_threading(&parsed);
    let ParsedMessage { to, cc, reply_to, subject, .. } = parsed;
    let bytes = assembled(&top, &kept);
    let subject = subject.unwrap_or_default();
    Ok(Submitted { bytes, from, sender, to, cc, reply_to, subject, message_id, identified, references })
}

fn check_lines(raw: &[u8]) -> Result<(), Fault> {
    if raw.contains(&0) {
        return Err(Fault::Nul);
    }
    let too_long = |line: &[u8]| line.strip_suffix(b"\r").unwrap_or(line).len() > LINE_OCTETS_MAX;
    if raw.split(|octet| *octet == b'\n').any(too_long) {
        return Err(Fault::LongLine);
    }
    let is_name = |name: &[u8]| !name.is_empty() && name.iter().all(|octet| matches!(octet, 33..=57 | 59..=126));
    if fields(raw).all(|field| is_name(field.name)) { Ok(()) } else { Err(Fault::Header) }
}

fn author(parsed: &ParsedMessage) -> Result<NamedAddress, Fault> {
    let [author] = parsed.from_all.as_slice() else { return Err(Fault::Author) };
    if parsed.facts.from_fields != 1 {
        return Err(Fault::Author);
    }
    let address = Address::parse(&author.email).map_err(Fault::AuthorAddress)?;
    Ok(NamedAddress { address, name: author.name.clone() })
}

/// Puts fields on top of a message that ends with a line.
fn assembled(top: &str, kept: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(top.len() + kept.len() + 2);
    bytes.extend_from_slice(top.as_bytes());
    bytes.extend_from_slice(kept);
    if !bytes.ends_with(b"\r\n") {
        bytes.extend_from_slice(b"\r\n");
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    const MARK: Mark<'static> = Mark { id: "eml_1", trace: "Received: x\r\n", at_micros: 1_751_367_157_000_000 };

    fn text(raw: &str) -> String {
        String::from_utf8(submit(raw.as_bytes(), &MARK).unwrap().bytes).unwrap()
    }

    #[test]
    fn a_whole_message_leaves_as_it_came_under_the_trace() {
        let raw = "From: Ann <ann@a.test>\r\nTo: b@b.test\r\nDate: Tue, 1 Jul 2025 10:00:00 +0200\r\n\
                   Message-ID: <one@a.test>\r\nSubject: =?utf-8?q?H=C3=A9?=\r\n\r\n.dot \r\n\r\n";
        assert_eq!(text(raw), format!("Received: x\r\nX-Postlog-ID: eml_1\r\n{raw}"));
        let submitted = submit(raw.as_bytes(), &MARK).unwrap();
        assert_eq!((submitted.message_id.as_str(), submitted.identified), ("one@a.test", true));
        assert_eq!((submitted.subject.as_str(), submitted.from.name.as_deref()), ("Hé", Some("Ann")));
    }

    #[test]
    fn what_is_missing_is_added_and_what_is_not_for_recipients_goes() {
        let raw = "From: ann@a.test\r\nbcc: c@b.test,\r\n\td@b.test\r\nX-Postlog-Id: forged\r\nSubject: x\r\n\r\nbody";
        assert_eq!(
            text(raw),
            "Received: x\r\nX-Postlog-ID: eml_1\r\nMessage-ID: <eml_1@a.test>\r\nDate: Tue, 01 Jul 2025 10:52:37 +0000\r\n\
             From: ann@a.test\r\nSubject: x\r\n\r\nbody\r\n"
        );
        // An id that is none, or two of them, name no message.
        for ids in ["Message-ID: <>\r\n", "Message-ID: <a@b>\r\nMessage-ID: <c@d>\r\n", "Message-ID: no id\r\n"] {
            let submitted = submit(format!("From: ann@a.test\r\n{ids}\r\nx\r\n").as_bytes(), &MARK).unwrap();
            assert!(!submitted.identified);
            let text = String::from_utf8(submitted.bytes).unwrap();
            assert_eq!(text.matches("Message-ID").count(), 1, "{text}");
        }
    }

    #[test]
    fn what_cannot_be_sent_is_refused() {
        let long = format!("From: a@a.test\r\n\r\n{}\r\n", "x".repeat(999));
        let rows = [
            ("Subject: x\r\n\r\n", Fault::Author),
            ("From: a@a.test, b@a.test\r\n\r\n", Fault::Author),
            ("From: a@a.test\r\nFrom: a@a.test\r\n\r\n", Fault::Author),
            ("From: a@a.test\r\nno field\r\n\r\n", Fault::Header),
            (" folded\r\nFrom: a@a.test\r\n\r\n", Fault::Header),
            ("From: a@a.test\r\n\r\na\0b\r\n", Fault::Nul),
            (&long, Fault::LongLine),
        ];
        for (raw, fault) in rows {
            assert_eq!(submit(raw.as_bytes(), &MARK).unwrap_err(), fault, "{raw:?}");
        }
        assert!(submit(format!("From: a@a.test\r\n\r\n{}\r\n", "x".repeat(998)).as_bytes(), &MARK).is_ok());
        let bad = submit(b"From: <ann@-bad-.test>\r\n\r\n", &MARK);
        assert!(matches!(bad, Err(Fault::AuthorAddress(_) | Fault::Author)), "{bad:?}");
    }
}
