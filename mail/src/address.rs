//! Addresses that cannot be wrong: RFC 5321 §4.1.2, RFC 5322 §3.4, RFC 6531 §3.3.
//!
//! Text becomes an [`Address`] once, at the door; everything behind it can rely on the grammar and on the
//! length limits, and on no address ever carrying a CR, LF or NUL into a header line or an SMTP command.
//! What is only *shown* (a header's `From`) stays a lenient [`Mailbox`], because a received message is kept
//! even where its headers are wrong.

use std::borrow::Cow;
use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use idna::uts46::{AsciiDenyList, DnsLength, Hyphens, Uts46};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

mod mailbox;
mod path;
mod pattern;

pub use mailbox::Mailbox;
pub use path::{ForwardPath, ReversePath};
pub use pattern::SenderPattern;

/// Longest local part, in octets as written (RFC 5321 §4.5.3.1.1).
pub const LOCAL_PART_OCTETS_MAX: usize = 64;
/// Longest domain, in octets of its A-label form (RFC 5321 §4.5.3.1.2).
pub const DOMAIN_OCTETS_MAX: usize = 255;
/// Longest address, in octets: a path of 256 less its angle brackets (RFC 5321 §4.5.3.1.3).
pub const ADDRESS_OCTETS_MAX: usize = 254;
/// Longest label of a domain name, in octets (RFC 1035 §2.3.4).
const LABEL_OCTETS_MAX: usize = 63;

/// Why a text is not an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AddressError {
    /// Nothing was given.
    #[error("the address is empty")]
    Empty,
    /// There is no `@` after the local part.
    #[error("the address has no @")]
    AtMissing,
    /// The local part has more than 64 octets.
    #[error("the local part is longer than {LOCAL_PART_OCTETS_MAX} octets")]
    LocalPartTooLong,
    /// The domain has more than 255 octets, or one of its labels more than 63.
    #[error("the domain is longer than {DOMAIN_OCTETS_MAX} octets, or one of its labels than {LABEL_OCTETS_MAX}")]
    DomainTooLong,
    /// The whole address has more than 254 octets.
    #[error("the address is longer than {ADDRESS_OCTETS_MAX} octets")]
    TooLong,
    /// A CR, LF, NUL or another control character: never removed, always refused.
    #[error("the address contains a control character")]
    ControlCharacter,
    /// The local part is neither a dot-string nor a quoted string (RFC 5321 §4.1.2).
    #[error("the local part is not valid")]
    LocalPart,
    /// The domain is not a host name, in ASCII or IDNA2008.
    #[error("the domain is not valid")]
    Domain,
    /// The bracketed literal is neither an IPv4 nor an `IPv6:` address (RFC 5321 §4.1.3).
    #[error("the address literal is not valid")]
    Literal,
    /// A path is not enclosed in `<` and `>`, or its source route is malformed.
    #[error("the path is not valid")]
    Path,
}

impl AddressError {
    /// Tells whether a length limit was broken, which SMTP answers otherwise than a grammar error.
    #[must_use]
    pub fn is_length(self) -> bool {
        matches!(self, Self::LocalPartTooLong | Self::DomainTooLong | Self::TooLong)
    }
}

/// An addr-spec: the local part exactly as written, quoting included, and the domain as lower-case A-labels.
///
/// The domain may be an address literal (`u@[192.0.2.1]`); see [`Address::is_literal`]. Equality is that of
/// the text, so local parts differing in case differ; look mailboxes up by [`Address::canonical`].
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Address {
    text: Box<str>,
    /// Where the `@` stands; a local part has at most 64 octets.
    at: u8,
}

impl Address {
    /// Parses an addr-spec without brackets, comments or a display name.
    ///
    /// # Errors
    /// Every [`AddressError`] but `Path`.
    pub fn parse(text: &str) -> Result<Self, AddressError> {
        if text.is_empty() {
            return Err(AddressError::Empty);
        }
        if text.chars().any(char::is_control) {
            return Err(AddressError::ControlCharacter);
        }
        let at = local_part_octets(text)?;
        if at > LOCAL_PART_OCTETS_MAX {
            return Err(AddressError::LocalPartTooLong);
        }
        let (local, rest) = text.split_at(at);
        let domain = rest.strip_prefix('@').ok_or(AddressError::AtMissing)?;
        let domain = normalise_domain(domain)?;
        if at + 1 + domain.len() > ADDRESS_OCTETS_MAX {
            return Err(AddressError::TooLong);
        }
        Ok(Self {
            text: format!("{local}@{domain}").into_boxed_str(),
            at: u8::try_from(at).map_err(|_| AddressError::LocalPartTooLong)?,
        })
    }

    /// Returns the whole address.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Returns the local part as written, quotes included.
    #[must_use]
    pub fn local(&self) -> &str {
        &self.text[..usize::from(self.at)]
    }

    /// Returns the domain as lower-case A-labels, or the address literal with its brackets.
    #[must_use]
    pub fn domain(&self) -> &str {
        &self.text[usize::from(self.at) + 1..]
    }

    /// Tells whether the domain is an address literal (RFC 5321 §4.1.3).
    #[must_use]
    pub fn is_literal(&self) -> bool {
        self.domain().starts_with('[')
    }

    /// Tells whether the address can be sent without SMTPUTF8 (RFC 6531).
    #[must_use]
    pub fn is_ascii(&self) -> bool {
        self.text.is_ascii()
    }

    /// Returns the key under which a hosted mailbox is found: local part in lower case, without quotes that
    /// it does not need (RFC 5321 §4.1.2 holds both forms equivalent), and the domain.
    #[must_use]
    pub fn canonical(&self) -> String {
        format!("{}@{}", fold_local(self.local()), self.domain())
    }

    /// Returns the local part before the first `+` (sub-addressing, RFC 5233); without a tag, all of it.
    /// A quoted local part has no tag.
    #[must_use]
    pub fn base_local(&self) -> &str {
        self.split_tag().map_or(self.local(), |(base, _)| base)
    }

    /// Returns the sub-address: `tag` of `user+tag@example.org`.
    #[must_use]
    pub fn tag(&self) -> Option<&str> {
        self.split_tag().map(|(_, tag)| tag)
    }

    /// Returns the address without its tag, or nothing where it has none.
    #[must_use]
    pub fn without_tag(&self) -> Option<Self> {
        let (base, _) = self.split_tag()?;
        Self::parse(&format!("{base}@{}", self.domain())).ok()
    }

    fn split_tag(&self) -> Option<(&str, &str)> {
        if self.local().starts_with('"') {
            return None;
        }
        self.local().split_once('+').filter(|(base, _)| !base.is_empty())
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Address({})", self.text)
    }
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        Self::parse(text)
    }
}

impl AsRef<str> for Address {
    fn as_ref(&self) -> &str {
        &self.text
    }
}

impl Serialize for Address {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text)
    }
}

impl<'de> Deserialize<'de> for Address {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        parse_serde(deserializer, Self::parse)
    }
}

/// Deserializes a string and parses it with `parse`.
fn parse_serde<'de, D, T>(deserializer: D, parse: fn(&str) -> Result<T, AddressError>) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
{
    let text = Cow::<str>::deserialize(deserializer)?;
    parse(&text).map_err(de::Error::custom)
}

/// Returns the domain in lower-case A-labels, or the address literal in its shortest form.
///
/// A single label is a domain (`localhost`); a final dot is not part of one.
///
/// # Errors
/// `Domain`, `DomainTooLong`, `Literal`; `ControlCharacter` for a CR, LF, NUL or another control character.
pub fn normalise_domain(domain: &str) -> Result<String, AddressError> {
    if domain.chars().any(char::is_control) {
        return Err(AddressError::ControlCharacter);
    }
    if let Some(literal) = domain.strip_prefix('[') {
        return normalise_literal(literal);
    }
    // Longer than any spelling of a legal name: refused before the work of IDNA is spent on it.
    if domain.len() > 4 * DOMAIN_OCTETS_MAX {
        return Err(AddressError::DomainTooLong);
    }
    let lower = domain.to_ascii_lowercase();
    let plain = lower.is_ascii() && !lower.split('.').any(|label| label.starts_with("xn--"));
    let ascii = if plain {
        lower
    } else {
        Uts46::new()
            .to_ascii(lower.as_bytes(), AsciiDenyList::STD3, Hyphens::CheckFirstLast, DnsLength::Ignore)
            .map_err(|_| AddressError::Domain)?
            .into_owned()
    };
    if ascii.len() > DOMAIN_OCTETS_MAX {
        return Err(AddressError::DomainTooLong);
    }
    for label in ascii.split('.') {
        if label.len() > LABEL_OCTETS_MAX {
            return Err(AddressError::DomainTooLong);
        }
        let known = label.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        if label.is_empty() || !known || label.starts_with('-') || label.ends_with('-') {
            return Err(AddressError::Domain);
        }
    }
    Ok(ascii)
}

fn normalise_literal(after_bracket: &str) -> Result<String, AddressError> {
    let inner = after_bracket.strip_suffix(']').ok_or(AddressError::Literal)?;
    if let Ok(v4) = inner.parse::<Ipv4Addr>() {
        return Ok(format!("[{v4}]"));
    }
    let (tag, number) = inner.split_once(':').ok_or(AddressError::Literal)?;
    if !tag.eq_ignore_ascii_case("IPv6") {
        return Err(AddressError::Literal);
    }
    let v6 = number.parse::<Ipv6Addr>().map_err(|_| AddressError::Literal)?;
    Ok(format!("[IPv6:{v6}]"))
}

/// Measures the local part at the start of `text`, in octets. The caller has refused control characters.
fn local_part_octets(text: &str) -> Result<usize, AddressError> {
    let Some(quoted) = text.strip_prefix('"') else {
        let (local, _) = text.split_once('@').ok_or(AddressError::AtMissing)?;
        return if is_dot_string(local) { Ok(local.len()) } else { Err(AddressError::LocalPart) };
    };
    let mut chars = quoted.char_indices();
    while let Some((offset, c)) = chars.next() {
        match c {
            '"' => return Ok(1 + offset + 1),
            // A quoted pair is ASCII only, even under SMTPUTF8 (RFC 6531 §3.3 extends qtext, not the pair).
            '\\' => match chars.next() {
                Some((_, ' '..='~')) => {}
                _ => return Err(AddressError::LocalPart),
            },
            ' '..='~' => {}
            other if is_utf8_text(other) => {}
            _ => return Err(AddressError::LocalPart),
        }
    }
    Err(AddressError::LocalPart)
}

fn is_dot_string(text: &str) -> bool {
    text.split('.').all(|atom| !atom.is_empty() && atom.chars().all(is_atext))
}

fn is_atext(c: char) -> bool {
    c.is_ascii_alphanumeric() || "!#$%&'*+-/=?^_`{|}~".contains(c) || is_utf8_text(c)
}

/// UTF8-non-ascii of RFC 6531, less the line separators, which some readers treat as line ends, and less
/// U+FFFD, which only says that somebody's decoding failed.
fn is_utf8_text(c: char) -> bool {
    !c.is_ascii() && !c.is_control() && !matches!(c, '\u{2028}' | '\u{2029}' | '\u{fffd}')
}

/// Folds a local part for lookups, to the spelling with the least quoting. Lower-casing goes char by char: the
/// final sigma rule of whole-word lower-casing would make equal names differ by what follows them.
fn fold_local(local: &str) -> String {
    let bare: String = unquote(local).chars().flat_map(char::to_lowercase).collect();
    // A lone `*` stays quoted, or the text of one address would read as the pattern for its whole domain.
    if is_dot_string(&bare) && bare != "*" {
        return bare;
    }
    format!("\"{}\"", bare.replace('\\', "\\\\").replace('"', "\\\""))
}

/// Returns what a quoted local part says without quotes and escapes; any other is returned as it is.
fn unquote(local: &str) -> Cow<'_, str> {
    let Some(inner) = local.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) else {
        return Cow::Borrowed(local);
    };
    let mut text = String::with_capacity(inner.len());
    let mut chars = inner.chars();
    while let Some(c) = chars.next() {
        text.extend(if c == '\\' { chars.next() } else { Some(c) });
    }
    Cow::Owned(text)
}
