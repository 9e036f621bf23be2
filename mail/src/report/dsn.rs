//! Delivery notifications of our own (RFC 3464, RFC 3461 §6): for accepted submissions only, never to the null sender.

use mail_builder::headers::content_type::ContentType;
use mail_builder::mime::MimePart;
use mail_builder::writer::Writer as _;

use crate::address::Address;
use crate::bounce::Action;
use crate::compose::{FieldError, Problem, Stamp};
use crate::compose::{check_message_id, encode_text};
use crate::smtp::OriginalRecipient;
use crate::smtp::trace::{count_header, rfc5322_date};

/// Longest text of a field, in characters: a line has 998 octets at most.
const FIELD_CHARS_MAX: usize = 900;

/// What became of one recipient.
#[derive(Debug, Clone, Copy)]
pub struct DsnRecipient<'a> {
    /// The recipient.
    pub address: &'a Address,
    /// The recipient as the sender named it (`ORCPT`).
    pub original: Option<&'a OriginalRecipient>,
    /// What became of the mail.
    pub action: Action,
    /// The enhanced status code: `5.1.1`.
    pub status: &'a str,
    /// Why, in one line: what the remote host said, from its reply code on, or what we say ourselves.
    pub diagnostic: Option<&'a str>,
    /// The remote host.
    pub remote_mta: Option<&'a str>,
    /// Until when a delayed mail is tried again, in microseconds since the Unix epoch.
    pub retried_until_micros: Option<i64>,
}

/// A notification.
#[derive(Debug, Clone, Copy)]
pub struct Dsn<'a> {
    /// The host that writes it.
    pub reporting_mta: &'a str,
    /// The address it is from: `postmaster` or `mailer-daemon` of that host.
    pub from: &'a Address,
    /// The envelope sender of the mail. The notification's own envelope sender is the null one.
    pub to: &'a Address,
    /// What became of whom; at least one.
    pub recipients: &'a [DsnRecipient<'a>],
    /// The envelope id that the sender gave (`ENVID`).
    pub envelope_id: Option<&'a str>,
    /// When the mail was accepted, in microseconds since the Unix epoch.
    pub arrived_micros: i64,
    /// The mail.
    pub original: &'a [u8],
    /// Whether to return all of it (`RET=FULL`). Only the header is returned where it is not 7-bit, and where nothing failed
    /// (RFC 3461 §4.3).
    pub return_full: bool,
    /// The Message-ID of the mail, without angle brackets: the notification belongs to its thread.
    pub refers_to: Option<&'a str>,
}

impl Dsn<'_> {
    /// Returns the subject of the notification.
    #[must_use]
    pub fn subject(&self) -> &'static str {
        match self.recipients.iter().map(|recipient| recipient.action).min_by_key(|action| rank(*action)) {
            Some(Action::Failed) => "Undelivered mail returned to sender",
            Some(Action::Delayed) => "Delayed mail (still being tried)",
            _ => "Delivery status notification",
        }
    }
}

/// The worst news come first.
fn rank(action: Action) -> u8 {
    match action {
        Action::Failed => 0,
        Action::Delayed => 1,
        Action::Delivered | Action::Relayed | Action::Expanded => 2,
    }
}

/// Composes a notification.
///
/// # Errors
/// `message_id` where the stamp's is none, `recipients` where there are none or one's status is none.
pub fn compose_dsn(dsn: &Dsn<'_>, stamp: &Stamp<'_>) -> Result<Vec<u8>, FieldError> {
    check_message_id(stamp.message_id)?;
    if dsn.recipients.is_empty() || !dsn.recipients.iter().all(|recipient| is_status(recipient.status)) {
        return Err(FieldError { field: "recipients".to_owned(), problem: Problem::Required });
    }
    let mut out = Vec::new();
    let subject = dsn.subject();
    let refers_to = dsn.refers_to.filter(|id| check_message_id(id).is_ok());
    let references = refers_to.map(|id| format!("In-Reply-To: <{id}>\r\nReferences: <{id}>\r\n")).unwrap_or_default();
    // RFC 3834 §5 and RFC 3464 §2: a machine answers, and no machine is to answer it.
    out.write(
        format!(
            "Date: {}\r\nFrom: Mail Delivery System <{}>\r\nTo: <{}>\r\nSubject: {subject}\r\nMessage-ID: <{}>\r\n{references}Auto-Submitted: auto-replied\r\nMIME-Version: 1.0\r\n",
            rfc5322_date(stamp.at_micros),
            dsn.from,
            dsn.to,
            stamp.message_id
        )
        .as_bytes(),
    );
    let boundary = format!("=_dsn_{}", stamp.message_id.split('@').next().unwrap_or_default());
    let content_type = ContentType::new("multipart/report")
        .attribute("report-type", "delivery-status")
        .attribute("boundary", boundary.chars().take(70).collect::<String>());
    MimePart::new(content_type, vec![explanation(dsn), status(dsn), returned(dsn)]).write_part(&mut out);
    Ok(out)
}

fn is_status(status: &str) -> bool {
    let mut parts = status.split('.');
    let digits = |part: Option<&str>, most: usize| {
        part.is_some_and(|part| (1..=most).contains(&part.len()) && part.bytes().all(|byte| byte.is_ascii_digit()))
    };
    matches!(status.as_bytes().first(), Some(b'2' | b'4' | b'5'))
        && digits(parts.next(), 1)
        && digits(parts.next(), 3)
        && digits(parts.next(), 3)
        && parts.next().is_none()
}

fn explanation<'x>(dsn: &Dsn<'_>) -> MimePart<'x> {
    let mut text = format!("This is the mail system at {}.\r\n\r\n", plain(dsn.reporting_mta));
    for recipient in dsn.recipients {
        let fate = match recipient.action {
            Action::Failed => "could not be delivered to",
            Action::Delayed => "has not been delivered yet, and will be tried again, to",
            Action::Delivered => "was delivered to",
            Action::Relayed => "was handed on, to a system that sends no notifications, for",
            Action::Expanded => "was sent on to the members behind",
        };
        text.push_str(&format!("Your message {fate}\r\n\r\n    <{}>\r\n\r\n", recipient.address));
        if let Some(diagnostic) = recipient.diagnostic {
            text.push_str(&format!("    {}\r\n\r\n", plain(diagnostic)));
        }
        if let Some(until) = recipient.retried_until_micros {
            text.push_str(&format!("It will be tried until {}.\r\n\r\n", rfc5322_date(until)));
        }
    }
    encode_text("text/plain", &text)
}

fn status<'x>(dsn: &Dsn<'_>) -> MimePart<'x> {
    let mut text = format!("Reporting-MTA: dns; {}\r\n", plain(dsn.reporting_mta));
    if let Some(id) = dsn.envelope_id {
        text.push_str(&format!("Original-Envelope-Id: {}\r\n", plain(id)));
    }
    text.push_str(&format!("Arrival-Date: {}\r\n", rfc5322_date(dsn.arrived_micros)));
    for recipient in dsn.recipients {
        text.push_str("\r\n");
        if let Some(original) = recipient.original {
            text.push_str(&format!(
                "Original-Recipient: {}; {}\r\n",
                plain(&original.address_type),
                plain(&original.address)
            ));
        }
        let (kind, address) = if recipient.address.is_ascii() {
            ("rfc822", recipient.address.as_str().to_owned())
        } else {
            ("utf-8", utf8_addr_xtext(recipient.address.as_str()))
        };
        let action = match recipient.action {
            Action::Failed => "failed",
            Action::Delayed => "delayed",
            Action::Delivered => "delivered",
            Action::Relayed => "relayed",
            Action::Expanded => "expanded",
        };
        text.push_str(&format!(
            "Final-Recipient: {kind}; {address}\r\nAction: {action}\r\nStatus: {}\r\n",
            recipient.status
        ));
        if let Some(remote) = recipient.remote_mta {
            text.push_str(&format!("Remote-MTA: dns; {}\r\n", plain(remote)));
        }
        if let Some(diagnostic) = recipient.diagnostic {
            // What no server said is not SMTP's (RFC 3464 §2.1.2 and §2.3.6).
            let kind = if is_reply(diagnostic) { "smtp" } else { "x-postlog" };
            text.push_str(&format!("Diagnostic-Code: {kind}; {}\r\n", plain(diagnostic)));
        }
        if let Some(until) = recipient.retried_until_micros {
            text.push_str(&format!("Will-Retry-Until: {}\r\n", rfc5322_date(until)));
        }
    }
    MimePart::new("message/delivery-status", text.into_bytes()).transfer_encoding("7bit")
}

/// Tells whether a text begins as a refusal of a server does.
fn is_reply(text: &str) -> bool {
    let bytes = text.as_bytes();
    let code = bytes.len() >= 3 && matches!(bytes[0], b'2' | b'4' | b'5') && bytes[1..3].iter().all(u8::is_ascii_digit);
    code && bytes.get(3).is_none_or(|next| matches!(next, b' ' | b'-'))
}

fn returned<'x>(dsn: &Dsn<'_>) -> MimePart<'x> {
    let text = String::from_utf8_lossy(dsn.original);
    let seven_bit = text.is_ascii()
        && !text.contains('\0')
        && text.split("\r\n").all(|line| line.len() <= 998 && !line.contains(['\r', '\n']));
    let failed = dsn.recipients.iter().any(|recipient| recipient.action == Action::Failed);
    if dsn.return_full && failed && seven_bit {
        return MimePart::new("message/rfc822", dsn.original.to_vec()).transfer_encoding("7bit");
    }
    let header = &dsn.original[..count_header(dsn.original).octets.min(dsn.original.len())];
    encode_text("text/rfc822-headers", &String::from_utf8_lossy(header))
}

/// What may stand in a field or a line of the explanation, whoever wrote it.
fn plain(text: &str) -> String {
    let words: Vec<&str> = text.split_whitespace().collect();
    let line = words.join(" ");
    line.chars().take(FIELD_CHARS_MAX).map(|c| if matches!(c, ' '..='~') { c } else { '?' }).collect()
}

/// Writes an address beyond ASCII where only ASCII may stand (RFC 6533 §3).
fn utf8_addr_xtext(address: &str) -> String {
    address.chars().fold(String::new(), |mut out, c| {
        if matches!(c, '!'..='~') && !matches!(c, '\\' | '+' | '=') {
            out.push(c);
        } else {
            out.push_str(&format!("\\x{{{:X}}}", u32::from(c)));
        }
        out
    })
}
