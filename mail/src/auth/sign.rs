//! DKIM signatures, made (RFC 6376 section 5, RFC 8301, RFC 8463).
//!
//! Signing is the last change to a message: what leaves is the signature's field followed by the very bytes that were
//! signed. The time is an argument, so the same message signed at the same time with the same key is the same bytes.

mod key;

use data_encoding::BASE64;

use super::dkim::is_same_or_below;
use super::signed::{Form, RawField, SignedMessage, canonical_signature};
use crate::address::normalise_domain;

pub use key::{DkimKey, KeyError, KeyType, txt_strings};

/// Fields that are signed once more than they occur, so that nobody can add one (RFC 6376 section 8.15).
const OVERSIGNED: [&str; 13] = [
    "From",
    "To",
    "Subject",
    "Date",
    "Message-ID",
    "Reply-To",
    "Cc",
    "In-Reply-To",
    "References",
    "MIME-Version",
    "Content-Type",
    "List-Unsubscribe",
    "List-Unsubscribe-Post",
];

/// Fields that are signed where they occur.
const SIGNED: [&str; 4] = ["Content-Transfer-Encoding", "Sender", "List-ID", "Auto-Submitted"];

/// How long a signature is valid, in seconds: longer than mail is kept in any queue.
pub const VALID_SECONDS_DEFAULT: u32 = 7 * 24 * 3600;

/// Why a message is not signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SignError {
    /// The domain or the selector is no domain name.
    #[error("the {0} is not a domain name")]
    Name(&'static str),
    /// The message has no `From` field, or several.
    #[error("the message has not exactly one From field")]
    From,
    /// The signing domain is neither the author's nor above it, so DMARC would not count the signature.
    #[error("the signing domain is not the author's")]
    NotAligned,
    /// The message has a bare CR or LF, or does not end in CRLF: it would change on its way.
    #[error("the message has a line that does not end in CRLF")]
    LineEnds,
    /// The key cannot sign.
    #[error("the key cannot sign")]
    Key,
}

/// A key with the name it is published under.
#[derive(Debug, Clone)]
pub struct DkimSigner {
    domain: String,
    selector: String,
    key: DkimKey,
    valid_seconds: u32,
}

impl DkimSigner {
    /// Makes a signer for `<selector>._domainkey.<domain>`.
    ///
    /// # Errors
    /// `Name` where either is no domain name.
    pub fn new(domain: &str, selector: &str, key: DkimKey) -> Result<Self, SignError> {
        let domain = normalise_domain(domain).ok().filter(|name| !name.starts_with('['));
        let selector = super::dkim::domain_name(Some(selector));
        Ok(Self {
            domain: domain.ok_or(SignError::Name("domain"))?,
            selector: selector.ok_or(SignError::Name("selector"))?,
            key,
            valid_seconds: VALID_SECONDS_DEFAULT,
        })
    }

    /// Changes how long signatures are valid.
    #[must_use]
    pub fn valid_for(self, seconds: u32) -> Self {
        Self { valid_seconds: seconds.max(1), ..self }
    }

    /// Returns the name of the TXT record that holds the public key.
    #[must_use]
    pub fn record_name(&self) -> String {
        format!("{}._domainkey.{}", self.selector, self.domain)
    }

    /// Returns the text of that record.
    #[must_use]
    pub fn record(&self) -> String {
        self.key.record()
    }

    /// Returns the `DKIM-Signature` field of a message with its final line break, to go before the message as it is.
    ///
    /// # Errors
    /// Every [`SignError`] but `Name`.
    pub fn sign(&self, raw: &[u8], now_seconds: i64) -> Result<String, SignError> {
        check_line_ends(raw)?;
        let message = SignedMessage::split(raw);
        self.check_alignment(&message)?;
        let names = covered(&message);
        let body_hash = message.body_hash(Form::Relaxed, None).ok_or(SignError::Key)?;
        let signed_at = now_seconds.max(0);
        let value = format!(
            " v=1; a={}; c=relaxed/relaxed;\r\n d={}; s={};\r\n t={signed_at}; x={};\r\n h={};\r\n bh={};\r\n b=",
            self.key.key_type().algorithm(),
            self.domain,
            self.selector,
            signed_at.saturating_add(i64::from(self.valid_seconds)),
            fold(&names.join(":"), ':'),
            BASE64.encode(&body_hash),
        );
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut bytes = message.canonical_fields(&names, Form::Relaxed);
        canonical_signature(&mut bytes, RawField { name: b"DKIM-Signature", value: value.as_bytes() }, Form::Relaxed);
        let signature = self.key.sign(&bytes).ok_or(SignError::Key)?;
        Ok(format!("DKIM-Signature:{value}{}\r\n", wrap(&BASE64.encode(&signature))))
    }

    fn check_alignment(&self, message: &SignedMessage<'_>) -> Result<(), SignError> {
        let mut from = message.fields.iter().filter(|field| field.is("From"));
        let (Some(only), None) = (from.next(), from.next()) else {
            return Err(SignError::From);
        };
        let (authors, _) = crate::header::addresses(&crate::header::unfold(only.value), 100);
        let aligned = |domain: String| is_same_or_below(&domain, &self.domain);
        if authors.is_empty() || !authors.iter().all(|author| aligned(author.domain())) {
            return Err(SignError::NotAligned);
        }
        Ok(())
    }
}

/// Signs a message with every key and returns it with the signatures on top, the first key's first.
///
/// # Errors
/// As [`DkimSigner::sign`].
pub fn sign_dkim(raw: &[u8], signers: &[&DkimSigner], now_seconds: i64) -> Result<Vec<u8>, SignError> {
    let mut out = Vec::with_capacity(raw.len() + signers.len() * 1024);
    for signer in signers {
        out.extend_from_slice(signer.sign(raw, now_seconds)?.as_bytes());
    }
    out.extend_from_slice(raw);
    Ok(out)
}

fn check_line_ends(raw: &[u8]) -> Result<(), SignError> {
    let mut before = 0;
    for byte in raw {
        if (*byte == b'\n') != (before == b'\r') {
            return Err(SignError::LineEnds);
        }
        before = *byte;
    }
    if raw.ends_with(b"\r\n") { Ok(()) } else { Err(SignError::LineEnds) }
}

/// The names of `h=`: fields that occur as often as they occur, those to be sealed once more.
fn covered(message: &SignedMessage<'_>) -> Vec<&'static str> {
    let mut names = Vec::new();
    for (list, seals) in [(&OVERSIGNED[..], 1), (&SIGNED[..], 0)] {
        for name in list {
            let count = message.fields.iter().filter(|field| field.is(name)).count();
            names.extend(std::iter::repeat_n(*name, count + seals));
        }
    }
    names
}

/// Folds behind `separator`, so that no line of the field is long.
fn fold(text: &str, separator: char) -> String {
    let mut out = String::with_capacity(text.len() + 16);
    let mut column = 3;
    for piece in text.split_inclusive(separator) {
        if column + piece.len() > 76 {
            out.push_str("\r\n  ");
            column = 2;
        }
        out.push_str(piece);
        column += piece.len();
    }
    out
}

fn wrap(text: &str) -> String {
    let mut lines = Vec::new();
    let (first, mut rest) = text.split_at(text.len().min(72));
    lines.push(first);
    while !rest.is_empty() {
        let (line, more) = rest.split_at(rest.len().min(74));
        lines.push(line);
        rest = more;
    }
    lines.join("\r\n  ")
}
