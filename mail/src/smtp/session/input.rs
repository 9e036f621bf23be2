//! Octets that have arrived but are not processed, and the command lines in them (RFC 5321 §2.3.8).

use std::fmt;

/// An empty inbox keeps no more memory than this, in octets.
const KEPT_OCTETS_MAX: usize = 4096;

/// What the inbox begins with.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Line {
    /// No line has ended yet.
    Incomplete,
    /// A line exceeded its limit; it has been dropped up to its CRLF.
    TooLong,
    /// A line without its CRLF.
    Whole(Vec<u8>),
    /// A line that ended in LF alone, without it. It is never a command.
    BareLf(Vec<u8>),
}

/// Input in its order.
#[derive(Default)]
pub(super) struct Inbox {
    octets: Vec<u8>,
    /// Octets before this are processed.
    read: usize,
    /// So many octets after `read` are known to hold no LF, so that slow input is not searched again.
    searched: usize,
    /// The rest of an over-long line is being dropped; tells whether its last octet was a CR.
    dropping: Option<bool>,
}

impl fmt::Debug for Inbox {
    /// Shows the size only: what arrives may be a secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Inbox({} octets)", self.octets.len() - self.read)
    }
}

impl Inbox {
    pub(super) fn is_empty(&self) -> bool {
        self.read == self.octets.len()
    }

    pub(super) fn held_octets(&self) -> usize {
        self.octets.capacity()
    }

    pub(super) fn extend(&mut self, input: &[u8]) {
        self.octets.extend_from_slice(input);
    }

    /// Hands the unprocessed octets to `take`, which returns how many of them it has processed.
    pub(super) fn process(&mut self, take: impl FnOnce(&[u8]) -> usize) {
        let taken = take(&self.octets[self.read..]);
        self.consume(taken);
    }

    /// Takes the next line, which may have `octets_max` octets with its CRLF.
    pub(super) fn take_line(&mut self, octets_max: usize) -> Line {
        if self.dropping.is_some() {
            return self.drop_line();
        }
        let waiting = &self.octets[self.read..];
        let window = &waiting[..waiting.len().min(octets_max)];
        let from = self.searched.min(window.len());
        let Some(offset) = window[from..].iter().position(|&b| b == b'\n') else {
            if waiting.len() >= octets_max {
                self.searched = 0;
                self.dropping = Some(false);
                return self.drop_line();
            }
            self.searched = window.len();
            return Line::Incomplete;
        };
        let end = from + offset;
        let line = match window[..end].strip_suffix(b"\r") {
            Some(line) => Line::Whole(line.to_vec()),
            None => Line::BareLf(window[..end].to_vec()),
        };
        self.searched = 0;
        self.consume(end + 1);
        line
    }

    fn drop_line(&mut self) -> Line {
        let mut after_cr = self.dropping.unwrap_or(false);
        let waiting = &self.octets[self.read..];
        let end = waiting.iter().position(|&b| {
            let ends = after_cr && b == b'\n';
            after_cr = b == b'\r';
            ends
        });
        let dropped = end.map_or(waiting.len(), |end| end + 1);
        self.dropping = if end.is_some() { None } else { Some(after_cr) };
        self.consume(dropped);
        if end.is_some() { Line::TooLong } else { Line::Incomplete }
    }

    fn consume(&mut self, count: usize) {
        self.read += count;
        if self.is_empty() {
            self.read = 0;
            self.octets.clear();
            if self.octets.capacity() > KEPT_OCTETS_MAX {
                self.octets = Vec::new();
            }
        } else if self.read > self.octets.len() / 2 && self.read > KEPT_OCTETS_MAX {
            // Moved only when at least as much is dropped as is kept, so the cost per octet is constant.
            self.octets.drain(..self.read);
            self.read = 0;
        }
    }
}
