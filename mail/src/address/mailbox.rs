//! A mailbox as a header names it (RFC 5322 §3.4): shown, never routed by.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{Address, AddressError};

/// Longest name and longest address text kept of a header's mailbox, in octets (RFC 5322 §2.1.1 line limit).
const TEXT_OCTETS_MAX: usize = 998;

/// A display name and the address text beside it, as some header gave them.
///
/// The address need not be valid: a message with a broken `From` is still received and shown. Neither text
/// holds control characters: in a name they become spaces, in an address U+FFFD, so that dropping one can
/// never turn a broken address into somebody's valid one.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(from = "Given")]
pub struct Mailbox {
    name: Option<String>,
    address: String,
}

/// The serialized form, cleaned again when read: stored text is not trusted more than received text.
#[derive(Deserialize)]
struct Given {
    #[serde(default)]
    name: Option<String>,
    address: String,
}

impl From<Given> for Mailbox {
    fn from(given: Given) -> Self {
        Self::new(given.name.as_deref(), &given.address)
    }
}

impl Mailbox {
    /// Keeps what can be shown of the two texts; a name of white space alone is no name.
    #[must_use]
    pub fn new(name: Option<&str>, address: &str) -> Self {
        let name = name.map(|name| clean(name, ' ')).filter(|name| !name.is_empty());
        Self { name, address: clean(address, '\u{fffd}') }
    }

    /// Returns the display name.
    #[must_use]
    pub fn name(&self) -> Option<&str> {
        self.name.as_deref()
    }

    /// Returns the address text, which may be no valid address.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Parses the address text.
    ///
    /// # Errors
    /// As [`Address::parse`].
    pub fn parse_address(&self) -> Result<Address, AddressError> {
        Address::parse(&self.address)
    }
}

impl From<Address> for Mailbox {
    fn from(address: Address) -> Self {
        Self { name: None, address: address.to_string() }
    }
}

impl fmt::Display for Mailbox {
    /// Writes `name <address>` for people, quoting the name where it is not made of atoms.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(name) = &self.name else {
            return f.write_str(&self.address);
        };
        let atoms = name.chars().all(|c| c == ' ' || super::is_atext(c));
        if atoms {
            return write!(f, "{name} <{}>", self.address);
        }
        f.write_str("\"")?;
        for c in name.chars() {
            if matches!(c, '"' | '\\') {
                f.write_str("\\")?;
            }
            write!(f, "{c}")?;
        }
        write!(f, "\" <{}>", self.address)
    }
}

fn clean(text: &str, replacement: char) -> String {
    let mut kept = String::new();
    for c in text.trim().chars() {
        let c = if c.is_control() || matches!(c, '\u{2028}' | '\u{2029}') { replacement } else { c };
        if kept.len() + c.len_utf8() > TEXT_OCTETS_MAX {
            break;
        }
        kept.push(c);
    }
    kept.truncate(kept.trim_end().len());
    kept
}
