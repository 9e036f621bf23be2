//! The reverse and the forward path of the envelope (RFC 5321 §4.1.2).

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{ADDRESS_OCTETS_MAX, Address, AddressError, normalise_domain, parse_serde};

/// The envelope sender: an address, or the null path of bounces.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ReversePath {
    /// `<>`: nobody is to be told of a failure (RFC 5321 §4.5.5).
    Null,
    /// Whoever is told of a failure.
    Address(Address),
}

impl ReversePath {
    /// Parses a path in angle brackets; a source route is dropped (RFC 5321 appendix C).
    ///
    /// # Errors
    /// `Path` for missing brackets or a malformed route, else the address's own error.
    pub fn parse(text: &str) -> Result<Self, AddressError> {
        match inner(text)? {
            "" => Ok(Self::Null),
            path => Address::parse(drop_route(path)?).map(Self::Address),
        }
    }

    /// Returns the address, or nothing for the null path.
    #[must_use]
    pub fn address(&self) -> Option<&Address> {
        match self {
            Self::Null => None,
            Self::Address(address) => Some(address),
        }
    }

    /// Tells whether this is the null path.
    #[must_use]
    pub fn is_null(&self) -> bool {
        matches!(self, Self::Null)
    }

    /// Returns the address as text, empty for the null path: the form in which it is stored.
    #[must_use]
    pub fn as_str(&self) -> &str {
        self.address().map_or("", Address::as_str)
    }
}

impl fmt::Display for ReversePath {
    /// Writes the path with its angle brackets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "<{}>", self.as_str())
    }
}

impl From<Address> for ReversePath {
    fn from(address: Address) -> Self {
        Self::Address(address)
    }
}

impl Serialize for ReversePath {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for ReversePath {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        parse_serde(deserializer, |text| match text {
            "" => Ok(Self::Null),
            address => Address::parse(address).map(Self::Address),
        })
    }
}

/// An envelope recipient.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ForwardPath {
    /// `<postmaster>` without a domain: the operator of this host (RFC 5321 §4.1.1.3).
    Postmaster,
    /// Any other recipient.
    Address(Address),
}

impl ForwardPath {
    /// Parses a path in angle brackets; a source route is dropped (RFC 5321 appendix C).
    ///
    /// # Errors
    /// `Empty` for `<>`, `Path` for missing brackets or a malformed route, else the address's own error.
    pub fn parse(text: &str) -> Result<Self, AddressError> {
        Self::parse_inner(inner(text)?)
    }

    fn parse_inner(path: &str) -> Result<Self, AddressError> {
        let path = drop_route(path)?;
        if path.eq_ignore_ascii_case("postmaster") {
            return Ok(Self::Postmaster);
        }
        Address::parse(path).map(Self::Address)
    }

    /// Returns the address, or nothing for the bare postmaster.
    #[must_use]
    pub fn address(&self) -> Option<&Address> {
        match self {
            Self::Postmaster => None,
            Self::Address(address) => Some(address),
        }
    }

    /// Returns the address as text, `postmaster` for the bare postmaster: the form in which it is stored.
    #[must_use]
    pub fn as_str(&self) -> &str {
        self.address().map_or("postmaster", Address::as_str)
    }
}

impl fmt::Display for ForwardPath {
    /// Writes the path with its angle brackets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "<{}>", self.as_str())
    }
}

impl From<Address> for ForwardPath {
    fn from(address: Address) -> Self {
        Self::Address(address)
    }
}

impl Serialize for ForwardPath {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for ForwardPath {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        parse_serde(deserializer, Self::parse_inner)
    }
}

fn inner(text: &str) -> Result<&str, AddressError> {
    text.strip_prefix('<').and_then(|rest| rest.strip_suffix('>')).ok_or(AddressError::Path)
}

/// Drops `@relay1,@relay2:` from the front: we route by the recipient's domain alone.
fn drop_route(path: &str) -> Result<&str, AddressError> {
    if !path.starts_with('@') {
        return Ok(path);
    }
    // The limit of a path counts its route, so that a route cannot be used to pass unbounded text.
    if path.len() > ADDRESS_OCTETS_MAX {
        return Err(AddressError::TooLong);
    }
    let (route, address) = path.split_once(':').ok_or(AddressError::Path)?;
    for hop in route.split(',') {
        normalise_domain(hop.strip_prefix('@').ok_or(AddressError::Path)?)?;
    }
    Ok(address)
}
