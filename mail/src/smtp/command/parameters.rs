//! The parameters of MAIL and RCPT (RFC 5321 §4.1.2, RFC 1870, 3030, 3461, 4954, 6152, 6531).

use super::SyntaxError;
use crate::smtp::transaction::{BodyType, MailParameters, Notify, OriginalRecipient, RcptParameters, Return};

/// Longest `ENVID`, in characters after decoding (RFC 3461 §4.4).
const ENVID_CHARS_MAX: usize = 100;
/// Longest address in `ORCPT`, in characters after decoding (RFC 3461 §4.2).
const ORCPT_CHARS_MAX: usize = 500;
/// Most digits of `SIZE` (RFC 1870 §4).
const SIZE_DIGITS_MAX: usize = 20;

/// A parameter without a value is a keyword alone, not a keyword with an empty value.
type Parameter<'a> = (String, Option<&'a str>);

fn split(text: &str) -> Result<Vec<Parameter<'_>>, SyntaxError> {
    let mut found: Vec<Parameter<'_>> = Vec::new();
    for word in text.split([' ', '\t']).filter(|word| !word.is_empty()) {
        let (keyword, value) = match word.split_once('=') {
            Some((keyword, value)) => (keyword, Some(value)),
            None => (word, None),
        };
        let mut letters = keyword.bytes();
        let head = letters.next().is_some_and(|b| b.is_ascii_alphanumeric());
        let valid = head && letters.all(|b| b.is_ascii_alphanumeric() || b == b'-');
        let sound = value.is_none_or(|value| !value.is_empty() && !value.contains(char::is_control));
        let keyword = keyword.to_ascii_uppercase();
        if !valid || !sound || found.iter().any(|(other, _)| *other == keyword) {
            return Err(SyntaxError::Argument);
        }
        found.push((keyword, value));
    }
    Ok(found)
}

pub(super) fn parse_mail(text: &str) -> Result<MailParameters, SyntaxError> {
    let mut parameters = MailParameters::default();
    for (keyword, value) in split(text)? {
        match (keyword.as_str(), value) {
            ("SIZE", Some(value)) => parameters.size_octets = Some(parse_size(value)?),
            ("BODY", Some(value)) => parameters.body = Some(parse_body(value)?),
            ("SMTPUTF8", None) => parameters.smtputf8 = true,
            ("RET", Some(value)) => parameters.ret = Some(parse_return(value)?),
            ("ENVID", Some(value)) => {
                let envid = decode_xtext(value).filter(|id| id.chars().count() <= ENVID_CHARS_MAX);
                parameters.envid = Some(envid.ok_or(SyntaxError::Argument)?);
            }
            ("AUTH", Some(value)) => {
                decode_xtext(value).ok_or(SyntaxError::Argument)?;
                parameters.auth_claimed = true;
            }
            ("SIZE" | "BODY" | "SMTPUTF8" | "RET" | "ENVID" | "AUTH", _) => {
                return Err(SyntaxError::Argument);
            }
            _ => return Err(SyntaxError::Parameter),
        }
    }
    Ok(parameters)
}

pub(super) fn parse_rcpt(text: &str) -> Result<RcptParameters, SyntaxError> {
    let mut parameters = RcptParameters::default();
    for (keyword, value) in split(text)? {
        match (keyword.as_str(), value) {
            ("NOTIFY", Some(value)) => parameters.notify = Some(parse_notify(value)?),
            ("ORCPT", Some(value)) => parameters.original = Some(parse_original(value)?),
            ("NOTIFY" | "ORCPT", None) => return Err(SyntaxError::Argument),
            _ => return Err(SyntaxError::Parameter),
        }
    }
    Ok(parameters)
}

fn parse_size(value: &str) -> Result<u64, SyntaxError> {
    if value.len() > SIZE_DIGITS_MAX || !value.bytes().all(|b| b.is_ascii_digit()) {
        return Err(SyntaxError::Argument);
    }
    // Twenty digits may exceed the type; whatever does exceeds every limit as well.
    Ok(value.parse().unwrap_or(u64::MAX))
}

fn parse_body(value: &str) -> Result<BodyType, SyntaxError> {
    match value.to_ascii_uppercase().as_str() {
        "7BIT" => Ok(BodyType::SevenBit),
        "8BITMIME" => Ok(BodyType::EightBitMime),
        "BINARYMIME" => Ok(BodyType::BinaryMime),
        _ => Err(SyntaxError::Argument),
    }
}

fn parse_return(value: &str) -> Result<Return, SyntaxError> {
    match value.to_ascii_uppercase().as_str() {
        "FULL" => Ok(Return::Full),
        "HDRS" => Ok(Return::Headers),
        _ => Err(SyntaxError::Argument),
    }
}

fn parse_notify(value: &str) -> Result<Notify, SyntaxError> {
    if value.eq_ignore_ascii_case("NEVER") {
        return Ok(Notify::Never);
    }
    let (mut success, mut failure, mut delay) = (false, false, false);
    for word in value.split(',') {
        let flag = match word.to_ascii_uppercase().as_str() {
            "SUCCESS" => &mut success,
            "FAILURE" => &mut failure,
            "DELAY" => &mut delay,
            _ => return Err(SyntaxError::Argument),
        };
        *flag = true;
    }
    Ok(Notify::On { success, failure, delay })
}

fn parse_original(value: &str) -> Result<OriginalRecipient, SyntaxError> {
    let (address_type, address) = value.split_once(';').ok_or(SyntaxError::Argument)?;
    let named = !address_type.is_empty() && address_type.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    let address = decode_xtext(address)
        .filter(|address| named && !address.is_empty() && address.chars().count() <= ORCPT_CHARS_MAX)
        .ok_or(SyntaxError::Argument)?;
    Ok(OriginalRecipient { address_type: address_type.to_ascii_lowercase(), address })
}

/// Decodes xtext (RFC 3461 §4): `+HH` is an octet, other printable characters but `=` stand for themselves.
/// What decodes to a control character or to no UTF-8 is refused: it will be shown and sent on.
pub(super) fn decode_xtext(text: &str) -> Option<String> {
    let mut octets = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes().iter();
    while let Some(&octet) = rest.next() {
        match octet {
            b'+' => {
                let (high, low) = (hex_digit(*rest.next()?)?, hex_digit(*rest.next()?)?);
                octets.push(high * 16 + low);
            }
            b'=' | 0..=b' ' | 0x7f => return None,
            other => octets.push(other),
        }
    }
    String::from_utf8(octets).ok().filter(|decoded| !decoded.contains(char::is_control))
}

/// Only upper-case digits are hex digits of xtext.
fn hex_digit(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'A'..=b'F' => Some(digit - b'A' + 10),
        _ => None,
    }
}
