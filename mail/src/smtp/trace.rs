//! Trace information: what a hop writes on top of a message, and what it reads there (RFC 5321 §4.4).
//!
//! Functions over the raw octets of a message. Fields are found without parsing the message: a field is a
//! line and the lines after it that begin with white space; the header ends at the first empty line.

use std::borrow::Cow;
use std::fmt;
use std::net::IpAddr;
use std::ops::Range;

use jiff::Timestamp;
use jiff::tz::TimeZone;

use super::TlsInfo;
use crate::address::{ForwardPath, ReversePath, normalise_domain};

/// The `Received` field of one hop; `Display` writes it folded, with its final CRLF.
#[derive(Debug, Clone)]
pub struct Received<'a> {
    /// What the client called itself.
    pub helo: &'a str,
    /// The client's name by confirmed reverse lookup.
    pub reverse_name: Option<&'a str>,
    /// The client's address.
    pub address: IpAddr,
    /// Our host name.
    pub by: &'a str,
    /// The client said EHLO.
    pub esmtp: bool,
    /// The TLS it came through.
    pub tls: Option<&'a TlsInfo>,
    /// The client had authenticated.
    pub authenticated: bool,
    /// The transaction used SMTPUTF8.
    pub smtputf8: bool,
    /// Our id of the message.
    pub id: &'a str,
    /// The recipient, only where there is exactly one: nobody may learn of the others.
    pub recipient: Option<&'a ForwardPath>,
    /// When the end of data arrived, in microseconds since the Unix epoch.
    pub at_micros: i64,
}

impl fmt::Display for Received<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let helo = printable(self.helo);
        let name = self.reverse_name.map_or(Cow::Borrowed("unknown"), printable);
        write!(f, "Received: from {helo} ({name} {})\r\n", literal(self.address))?;
        let protocol = protocol(self.esmtp, self.tls.is_some(), self.authenticated, self.smtputf8);
        write!(f, "\tby {} with {protocol}", printable(self.by))?;
        if let Some(tls) = self.tls {
            write!(f, "\r\n\t({} {})", printable(&tls.version), printable(&tls.cipher))?;
        }
        write!(f, "\r\n\tid {}", printable(self.id))?;
        if let Some(recipient) = self.recipient {
            write!(f, "\r\n\tfor {recipient}")?;
        }
        write!(f, ";\r\n\t{}\r\n", rfc5322_date(self.at_micros))
    }
}

/// Returns the protocol keyword of `Received` (RFC 3848, RFC 6531 §4.3).
#[must_use]
pub fn protocol(esmtp: bool, tls: bool, authenticated: bool, smtputf8: bool) -> &'static str {
    match (esmtp, smtputf8, tls, authenticated) {
        (false, ..) => "SMTP",
        (true, false, false, false) => "ESMTP",
        (true, false, false, true) => "ESMTPA",
        (true, false, true, false) => "ESMTPS",
        (true, false, true, true) => "ESMTPSA",
        (true, true, false, false) => "UTF8SMTP",
        (true, true, false, true) => "UTF8SMTPA",
        (true, true, true, false) => "UTF8SMTPS",
        (true, true, true, true) => "UTF8SMTPSA",
    }
}

/// Returns the `Return-Path` field with its CRLF (RFC 5321 §4.4): written once, at final delivery.
#[must_use]
pub fn return_path(sender: &ReversePath) -> String {
    format!("Return-Path: {sender}\r\n")
}

/// Returns a date as RFC 5322 §3.3 writes it, in UTC: `Tue, 01 Jul 2025 10:52:37 +0000`.
///
/// A time outside the years that the calendar can express becomes the nearest one it can.
#[must_use]
pub fn rfc5322_date(at_micros: i64) -> String {
    let nearest = if at_micros < 0 { Timestamp::MIN } else { Timestamp::MAX };
    let at = Timestamp::from_microsecond(at_micros).unwrap_or(nearest);
    at.to_zoned(TimeZone::UTC).strftime("%a, %d %b %Y %H:%M:%S +0000").to_string()
}

/// Keeps what is a word in a trace field; a client's name must not open comments or clauses of its own.
fn printable(text: &str) -> Cow<'_, str> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "-._:[]".contains(c);
    if text.is_empty() {
        Cow::Borrowed("unknown")
    } else if text.chars().all(allowed) {
        Cow::Borrowed(text)
    } else {
        Cow::Owned(text.chars().map(|c| if allowed(c) { c } else { '?' }).collect())
    }
}

pub(super) fn literal(address: IpAddr) -> String {
    match address.to_canonical() {
        IpAddr::V4(v4) => format!("[{v4}]"),
        IpAddr::V6(v6) => format!("[IPv6:{v6}]"),
    }
}

/// A field of a raw header block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Field<'a> {
    /// What stands before the colon, without white space around it; empty where there is no colon.
    pub name: &'a [u8],
    /// What stands behind the colon, folds included; the whole line where there is no colon.
    pub value: &'a [u8],
    /// Where the field stands in the message, line end included.
    pub range: Range<usize>,
}

impl Field<'_> {
    fn is(&self, name: &str) -> bool {
        self.name.eq_ignore_ascii_case(name.as_bytes())
    }
}

/// Walks over the fields of a header block; see [`fields`].
#[derive(Debug, Clone)]
pub struct Fields<'a> {
    raw: &'a [u8],
    at: usize,
}

/// Iterates over the fields at the start of a raw message.
#[must_use]
pub fn fields(raw: &[u8]) -> Fields<'_> {
    Fields { raw, at: 0 }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Field<'a>;

    fn next(&mut self) -> Option<Field<'a>> {
        let start = self.at;
        let mut end = line_end(self.raw, start);
        if trim_line_end(&self.raw[start..end]).is_empty() {
            return None;
        }
        while matches!(self.raw.get(end), Some(b' ' | b'\t')) {
            end = line_end(self.raw, end);
        }
        self.at = end;
        let whole = &self.raw[start..end];
        let (name, value) = match whole.iter().position(|&b| b == b':') {
            Some(colon) => (whole[..colon].trim_ascii(), &whole[colon + 1..]),
            None => (&[][..], whole),
        };
        Some(Field { name, value, range: start..end })
    }
}

fn line_end(raw: &[u8], start: usize) -> usize {
    raw[start..].iter().position(|&b| b == b'\n').map_or(raw.len(), |offset| start + offset + 1)
}

fn trim_line_end(line: &[u8]) -> &[u8] {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    line.strip_suffix(b"\r").unwrap_or(line)
}

/// How large a header block is, and how often the message has been relayed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct HeaderCount {
    /// Octets of all fields, line ends included.
    pub octets: usize,
    /// Fields; a line that is none counts as one.
    pub fields: usize,
    /// `Received` fields (RFC 5321 §6.3).
    pub received: usize,
}

/// Measures the header block of a raw message, in one pass.
#[must_use]
pub fn count_header(raw: &[u8]) -> HeaderCount {
    let mut count = HeaderCount::default();
    for field in fields(raw) {
        count.octets = field.range.end;
        count.fields += 1;
        count.received += usize::from(field.is("Received"));
    }
    count
}

/// Returns the message without the fields for which `unwanted` holds, its body untouched.
pub fn without_fields<'a>(raw: &'a [u8], mut unwanted: impl FnMut(&Field<'_>) -> bool) -> Cow<'a, [u8]> {
    let dropped: Vec<Range<usize>> = fields(raw).filter(|field| unwanted(field)).map(|f| f.range).collect();
    if dropped.is_empty() {
        return Cow::Borrowed(raw);
    }
    let mut kept = Vec::with_capacity(raw.len());
    let mut at = 0;
    for range in dropped {
        kept.extend_from_slice(&raw[at..range.start]);
        at = range.end;
    }
    kept.extend_from_slice(&raw[at..]);
    Cow::Owned(kept)
}

/// Returns the message without `Authentication-Results` fields that claim to be ours (RFC 8601 §5): only
/// those that we write ourselves may carry our authserv-id.
#[must_use]
pub fn without_forged_results<'a>(raw: &'a [u8], authserv_id: &str) -> Cow<'a, [u8]> {
    without_fields(raw, |field| is_forged_result(field, authserv_id))
}

/// Returns the message as it goes below our trace fields: without forged `Authentication-Results` and
/// without `Return-Path`, of which final delivery writes the only one.
#[must_use]
pub fn without_untrusted_trace<'a>(raw: &'a [u8], authserv_id: &str) -> Cow<'a, [u8]> {
    without_fields(raw, |field| field.is("Return-Path") || is_forged_result(field, authserv_id))
}

fn is_forged_result(field: &Field<'_>, authserv_id: &str) -> bool {
    if !field.is("Authentication-Results") {
        return false;
    }
    let claimed = claimed_authserv_id(field.value);
    let normal = |id: &str| normalise_domain(id).unwrap_or_else(|_| id.to_ascii_lowercase());
    claimed.trim_end_matches('.').eq_ignore_ascii_case(authserv_id)
        || normal(claimed.trim_end_matches('.')) == normal(authserv_id)
}

/// Reads the authserv-id (RFC 8601 §2.2) past comments and folds, in or without quotes.
fn claimed_authserv_id(value: &[u8]) -> String {
    let value = String::from_utf8_lossy(value);
    let mut id = String::new();
    let (mut depth, mut quoted) = (0_usize, false);
    let mut chars = value.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' if quoted => id.extend(chars.next()),
            '\\' => {
                chars.next();
            }
            '"' if depth == 0 => quoted = !quoted,
            _ if quoted => id.push(c),
            '(' if depth == 0 && !id.is_empty() => break,
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            _ if depth > 0 => {}
            ';' => break,
            // A version number may follow the id.
            _ if c.is_whitespace() && !id.is_empty() => break,
            _ if c.is_whitespace() => {}
            _ => id.push(c),
        }
    }
    id
}
