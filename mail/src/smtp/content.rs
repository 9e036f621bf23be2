//! The octets of a message while they arrive, from DATA or BDAT alike.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What becomes of a CR without LF, or an LF without CR, in content. Neither ever ends anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LineEnds {
    /// The message is read to its true end and refused: the next host might read it otherwise than we do.
    Reject,
    /// Either becomes CRLF.
    Normalize,
    /// Either is kept: BINARYMIME has no lines (RFC 3030 §3). Follows from `BODY=`, never from configuration.
    #[serde(skip)]
    Keep,
}

/// A message being collected. Past its limit, or once it is bound to be refused, it only counts.
pub struct Content {
    bytes: Vec<u8>,
    octets: u64,
    octets_max: u64,
    line_ends: LineEnds,
    bare: bool,
}

impl fmt::Debug for Content {
    /// Shows the size only: content does not belong into a log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Content({} octets)", self.octets)
    }
}

impl Content {
    /// Starts an empty message; nothing is allocated yet.
    #[must_use]
    pub fn new(octets_max: u64, line_ends: LineEnds) -> Self {
        Self { bytes: Vec::new(), octets: 0, octets_max, line_ends, bare: false }
    }

    /// Returns how many octets the message has so far, kept or not.
    #[must_use]
    pub fn octets(&self) -> u64 {
        self.octets
    }

    /// Tells whether the message is larger than allowed.
    #[must_use]
    pub fn is_too_large(&self) -> bool {
        self.octets > self.octets_max
    }

    /// Tells whether the message must be refused for a bare CR or LF.
    #[must_use]
    pub fn has_refused_line_end(&self) -> bool {
        self.bare && self.line_ends == LineEnds::Reject
    }

    /// Tells whether a bare CR or LF occurred, refused or not.
    #[must_use]
    pub fn has_bare_line_end(&self) -> bool {
        self.bare
    }

    /// Returns how much memory the message takes, in octets.
    #[must_use]
    pub fn held_octets(&self) -> usize {
        self.bytes.capacity()
    }

    /// Returns the message; empty where it is to be refused.
    #[must_use]
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.octets += bytes.len() as u64;
        if self.is_too_large() || self.has_refused_line_end() {
            self.bytes = Vec::new();
        } else {
            self.bytes.extend_from_slice(bytes);
        }
    }

    pub(super) fn push_bare(&mut self, byte: u8) {
        self.bare = true;
        match self.line_ends {
            LineEnds::Reject | LineEnds::Keep => self.push(&[byte]),
            LineEnds::Normalize => self.push(b"\r\n"),
        }
    }
}

/// Finds the first CR or LF.
///
/// Sixteen octets are looked at together without a branch between them, which the compiler turns into
/// vector instructions.
pub(super) fn find_line_octet(bytes: &[u8]) -> Option<usize> {
    const LANE: usize = 16;
    let is_line_octet = |byte: &u8| *byte == b'\r' || *byte == b'\n';
    let mut at = 0;
    for lane in bytes.chunks_exact(LANE) {
        if lane.iter().fold(false, |found, byte| found | is_line_octet(byte)) {
            break;
        }
        at += LANE;
    }
    bytes[at..].iter().position(is_line_octet).map(|offset| at + offset)
}
