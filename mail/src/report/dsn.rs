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
    /// What the remote host said.
    pub diagnostic: Option<&'a str>,
    /// The remote host.
    pub remote_mta: Option<&'a str>,
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
    /// Whether to return all of it (`RET=FULL`). It is returned without its body where it is not 7-bit.
    pub return_full: bool,
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
    let subject = match dsn.recipients.iter().map(|recipient| recipient.action).find(|action| *action == Action::Failed)
    {
        Some(_) => "Undelivered mail returned to sender",
        None => "Delivery status notification",
    };
    // RFC 3834 §5 and RFC 3464 §2: a machine answers, and no machine is to answer it.
    out.write(
        format!(
            "Date: {}\r\nFrom: Mail Delivery System <{}>\r\nTo: <{}>\r\nSubject: {subject}\r\nMessage-ID: <{}>\r\nAuto-Submitted: auto-replied\r\nMIME-Version: 1.0\r\n",
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
            text.push_str(&format!("Diagnostic-Code: smtp; {}\r\n", plain(diagnostic)));
        }
    }
    MimePart::new("message/delivery-status", text.into_bytes()).transfer_encoding("7bit")
}

fn returned<'x>(dsn: &Dsn<'_>) -> MimePart<'x> {
    let text = String::from_utf8_lossy(dsn.original);
    let seven_bit = text.is_ascii()
        && !text.contains('\0')
        && text.split("\r\n").all(|line| line.len() <= 998 && !line.contains(['\r', '\n']));
    if dsn.return_full && seven_bit {
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
