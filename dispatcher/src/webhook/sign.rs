//! Signatures that let a receiver tell our deliveries from forged ones.
//!
//! Every delivery carries two signatures over the same body, so that both kinds of verifying code in the field work:
//! - `X-Sendmux-Signature: sha256=<lower-case hex>`: HMAC-SHA256 (RFC 2104) over the exact body; the key is the whole
//!   secret as text, `whsec_` included. It has no time in it and so does not stop a replay.
//! - Standard Webhooks 1.0: `webhook-signature: v1,<base64>` over `id.timestamp.body`; the key is what the base64
//!   behind `whsec_` decodes to. The time is that of the attempt, the id is the same in every attempt.
//!
//! Pure: the random bytes of a new secret and all times are handed in.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use hyper::header::{HeaderMap, HeaderName, HeaderValue};
use sha2::Sha256;
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

/// Native signature: `sha256=` and 64 lower-case hex digits.
pub const X_SENDMUX_SIGNATURE: HeaderName = HeaderName::from_static("x-sendmux-signature");
/// Id of the event, the same in every attempt.
pub const X_SENDMUX_EVENT_ID: HeaderName = HeaderName::from_static("x-sendmux-event-id");
/// Published type of the event.
pub const X_SENDMUX_EVENT_TYPE: HeaderName = HeaderName::from_static("x-sendmux-event-type");
/// Number of the attempt, from 1.
pub const X_SENDMUX_DELIVERY_ATTEMPT: HeaderName = HeaderName::from_static("x-sendmux-delivery-attempt");
/// Standard Webhooks: id of the message.
pub const WEBHOOK_ID: HeaderName = HeaderName::from_static("webhook-id");
/// Standard Webhooks: seconds since the epoch of this attempt.
pub const WEBHOOK_TIMESTAMP: HeaderName = HeaderName::from_static("webhook-timestamp");
/// Standard Webhooks: one or more signatures separated by spaces.
pub const WEBHOOK_SIGNATURE: HeaderName = HeaderName::from_static("webhook-signature");

/// What a secret begins with.
pub const SECRET_PREFIX: &str = "whsec_";
/// How far a receiver may let the signed time lie from its own, in seconds, as the standard's libraries do.
pub const TOLERANCE_SECONDS: u64 = 5 * 60;

const KEY_BYTES: std::ops::RangeInclusive<usize> = 24..=64;
const EVENT_ID_BYTES_MAX: usize = 128;

/// A webhook's signing secret: `whsec_` and the base64 of 24 to 64 bytes. Neither shown nor printed by accident, and
/// wiped from memory when dropped.
#[derive(Clone)]
pub struct Secret {
    text: Zeroizing<String>,
    key: Zeroizing<Vec<u8>>,
}

/// Why a text, or random bytes, are no [`Secret`]. Never quotes them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidSecret {
    /// It does not begin with `whsec_`.
    #[error("a webhook secret begins with {SECRET_PREFIX}")]
    Prefix,
    /// What follows is not padded base64 (RFC 4648 4).
    #[error("a webhook secret is base64 after its prefix")]
    Encoding,
    /// Too few bytes to be safe, or more than receivers are required to accept.
    #[error("a webhook secret has 24 to 64 bytes")]
    Length,
}

impl Secret {
    /// Returns a new secret made of 24 to 64 random bytes.
    ///
    /// # Errors
    /// [`InvalidSecret::Length`].
    pub fn from_random(random: &[u8]) -> Result<Self, InvalidSecret> {
        if !KEY_BYTES.contains(&random.len()) {
            return Err(InvalidSecret::Length);
        }
        let mut text = Zeroizing::new(String::with_capacity(SECRET_PREFIX.len() + 88));
        text.push_str(SECRET_PREFIX);
        STANDARD.encode_string(random, &mut text);
        Ok(Self { text, key: Zeroizing::new(random.to_vec()) })
    }

    /// Reads a secret as it was shown to its owner.
    ///
    /// # Errors
    /// [`InvalidSecret`] by what is wrong.
    pub fn parse(text: &str) -> Result<Self, InvalidSecret> {
        let encoded = text.strip_prefix(SECRET_PREFIX).ok_or(InvalidSecret::Prefix)?;
        let key = Zeroizing::new(STANDARD.decode(encoded).map_err(|_| InvalidSecret::Encoding)?);
        if !KEY_BYTES.contains(&key.len()) {
            return Err(InvalidSecret::Length);
        }
        Ok(Self { text: Zeroizing::new(text.to_owned()), key })
    }

    /// Returns the secret's text, to be sealed or shown once to its owner.
    pub fn expose(&self) -> &str {
        &self.text
    }

    fn native(&self, body: &[u8]) -> [u8; 32] {
        let mut mac = keyed(self.text.as_bytes());
        mac.update(body);
        mac.finalize().into_bytes().into()
    }

    fn standard(&self, id: &str, timestamp: &str, body: &[u8]) -> [u8; 32] {
        let mut mac = keyed(&self.key);
        for part in [id.as_bytes(), b".", timestamp.as_bytes(), b".", body] {
            mac.update(part);
        }
        mac.finalize().into_bytes().into()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

fn keyed(key: &[u8]) -> Hmac<Sha256> {
    Hmac::new_from_slice(key).expect("HMAC takes keys of any length")
}

/// One attempt at delivering one event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attempt<'a> {
    /// Id of the event: 1 to 128 of `A-Z a-z 0-9 _ -`. A dot would make the signed text ambiguous.
    pub event_id: &'a str,
    /// Published type of the event: lower-case words joined by dots.
    pub event_type: &'a str,
    /// Number of the attempt, from 1.
    pub number: u32,
    /// When the attempt is made, in microseconds since the epoch.
    pub at_micros: i64,
    /// The exact bytes that will be sent.
    pub body: &'a [u8],
}

/// Why an attempt cannot be signed. The message names the field.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidAttempt {
    /// See [`Attempt::event_id`].
    #[error("event_id must be 1 to {EVENT_ID_BYTES_MAX} of A-Z a-z 0-9 _ -")]
    EventId,
    /// See [`Attempt::event_type`].
    #[error("event_type must be 1 to {EVENT_ID_BYTES_MAX} of a-z 0-9 _ .")]
    EventType,
    /// A moment before 1970.
    #[error("at_micros must not be negative")]
    At,
}

/// Returns the seven headers of one attempt, signed with the webhook's current secret. While a rotation lasts,
/// `previous` holds the secrets that receivers may still verify with: each adds a `v1` signature to
/// `webhook-signature`. The native header has room for one signature only, the current one.
///
/// # Errors
/// [`InvalidAttempt`] by field.
pub fn headers(attempt: &Attempt<'_>, current: &Secret, previous: &[Secret]) -> Result<HeaderMap, InvalidAttempt> {
    let id = header_value(attempt.event_id, |b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-'))
        .ok_or(InvalidAttempt::EventId)?;
    let event_type = header_value(attempt.event_type, |b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'.'))
        .ok_or(InvalidAttempt::EventType)?;
    let seconds = u64::try_from(attempt.at_micros).map_err(|_| InvalidAttempt::At)? / 1_000_000;
    let timestamp = seconds.to_string();

    let native = format!("sha256={}", hex::encode(current.native(attempt.body)));
    let mut standard = String::new();
    for secret in std::iter::once(current).chain(previous) {
        let signature = secret.standard(attempt.event_id, &timestamp, attempt.body);
        standard.push_str(if standard.is_empty() { "v1," } else { " v1," });
        STANDARD.encode_string(signature, &mut standard);
    }

    let ascii = |text: &str| HeaderValue::from_str(text).expect("hex, base64, digits, commas and spaces only");
    let mut headers = HeaderMap::with_capacity(12);
    headers.insert(X_SENDMUX_SIGNATURE, ascii(&native));
    headers.insert(X_SENDMUX_EVENT_ID, id.clone());
    headers.insert(X_SENDMUX_EVENT_TYPE, event_type);
    headers.insert(X_SENDMUX_DELIVERY_ATTEMPT, HeaderValue::from(attempt.number));
    headers.insert(WEBHOOK_ID, id);
    headers.insert(WEBHOOK_TIMESTAMP, HeaderValue::from(seconds));
    headers.insert(WEBHOOK_SIGNATURE, ascii(&standard));
    Ok(headers)
}

fn header_value(text: &str, allowed: impl Fn(u8) -> bool) -> Option<HeaderValue> {
    let fits = (1..=EVENT_ID_BYTES_MAX).contains(&text.len()) && text.bytes().all(allowed);
    fits.then(|| HeaderValue::from_str(text).ok()).flatten()
}

/// Why a received delivery is not to be believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unverified {
    /// A header is missing or not of the right form.
    #[error("the header {0} is missing or malformed")]
    Header(&'static str),
    /// The signed time is too far from the receiver's.
    #[error("the timestamp is outside of the tolerance")]
    Timestamp,
    /// No signature is one of ours over these bytes.
    #[error("the signature does not match")]
    Signature,
}

/// Verifies `X-Sendmux-Signature` over the exact body, in constant time.
///
/// # Errors
/// [`Unverified::Header`] or [`Unverified::Signature`].
pub fn verify_native(secret: &Secret, headers: &HeaderMap, body: &[u8]) -> Result<(), Unverified> {
    const NAME: &str = "x-sendmux-signature";
    let hex_digits = text(headers, NAME)?.strip_prefix("sha256=").ok_or(Unverified::Header(NAME))?;
    // Compared as text, so that upper-case hex is no second valid spelling.
    let expected = hex::encode(secret.native(body));
    if bool::from(expected.as_bytes().ct_eq(hex_digits.as_bytes())) { Ok(()) } else { Err(Unverified::Signature) }
}

/// Verifies the Standard Webhooks headers over the exact body, in constant time. One matching `v1` signature is
/// enough; other versions are ignored. `tolerance_seconds` bounds how old or how early the attempt may be.
///
/// # Errors
/// [`Unverified`] by what is wrong.
pub fn verify_standard(
    secret: &Secret,
    headers: &HeaderMap,
    body: &[u8],
    now_seconds: i64,
    tolerance_seconds: u64,
) -> Result<(), Unverified> {
    let id = text(headers, "webhook-id")?;
    let timestamp = text(headers, "webhook-timestamp")?;
    let signatures = text(headers, "webhook-signature")?;
    let signed_at: i64 = timestamp.parse().map_err(|_| Unverified::Header("webhook-timestamp"))?;
    if now_seconds.abs_diff(signed_at) > tolerance_seconds {
        return Err(Unverified::Timestamp);
    }
    let expected = STANDARD.encode(secret.standard(id, timestamp, body));
    let mut matches = subtle::Choice::from(0);
    for signature in signatures.split(' ').filter_map(|signature| signature.strip_prefix("v1,")) {
        matches |= expected.as_bytes().ct_eq(signature.as_bytes());
    }
    if bool::from(matches) { Ok(()) } else { Err(Unverified::Signature) }
}

fn text<'a>(headers: &'a HeaderMap, name: &'static str) -> Result<&'a str, Unverified> {
    headers.get(name).and_then(|value| value.to_str().ok()).ok_or(Unverified::Header(name))
}

#[cfg(test)]
mod tests;
