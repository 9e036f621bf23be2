//! Patterns of sender rules: whom a mailbox lets in or keeps out.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{Address, AddressError, ReversePath, normalise_domain, parse_serde};

/// One sender, or every sender of exactly one domain; its subdomains are other domains.
///
/// Case never matters. `*@example.org` is read as the domain `example.org`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SenderPattern {
    /// A canonical address, or a domain: only the former holds an `@`.
    text: Box<str>,
}

impl SenderPattern {
    /// Parses an address, a domain, or `*@domain`.
    ///
    /// # Errors
    /// As [`Address::parse`] and [`normalise_domain`].
    pub fn parse(text: &str) -> Result<Self, AddressError> {
        let text = if let Some(domain) = text.strip_prefix("*@") {
            normalise_domain(domain)?
        } else if text.contains('@') {
            let canonical = Address::parse(text)?.canonical();
            // Lower-casing can lengthen a non-ASCII local part past its limit; no sender could match that.
            Address::parse(&canonical)?;
            canonical
        } else if text.is_empty() {
            return Err(AddressError::Empty);
        } else {
            normalise_domain(text)?
        };
        Ok(Self { text: text.into_boxed_str() })
    }

    /// Returns the normalised pattern: a lower-case address or domain.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Tells whether the pattern names a whole domain.
    #[must_use]
    pub fn is_domain(&self) -> bool {
        !self.text.contains('@')
    }

    /// Tells whether the envelope sender falls under the pattern. The null path falls under none.
    #[must_use]
    pub fn matches(&self, sender: &ReversePath) -> bool {
        sender.address().is_some_and(|address| self.matches_address(address))
    }

    /// Tells whether the address falls under the pattern.
    #[must_use]
    pub fn matches_address(&self, address: &Address) -> bool {
        if self.is_domain() {
            address.domain() == &*self.text
        } else {
            // The domain is compared first: it costs nothing and nearly always differs.
            self.text.ends_with(address.domain()) && address.canonical() == *self.text
        }
    }
}

impl fmt::Display for SenderPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl FromStr for SenderPattern {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        Self::parse(text)
    }
}

impl Serialize for SenderPattern {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text)
    }
}

impl<'de> Deserialize<'de> for SenderPattern {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        parse_serde(deserializer, Self::parse)
    }
}
