//! The content of BDAT: counted octets in chunks (RFC 3030 §2).

use super::content::{Content, find_line_octet};

/// Collects chunks. No dots are removed; only line ends are looked at, across chunk boundaries.
#[derive(Debug, Default)]
pub struct ChunkDecoder {
    /// The last octet was a CR whose fellow may still come, in this chunk or the next.
    cr: bool,
}

impl ChunkDecoder {
    /// Starts before the first octet of the first chunk.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a piece of a chunk to `content`.
    pub fn feed(&mut self, input: &[u8], content: &mut Content) {
        let Some(&first) = input.first() else { return };
        let mut at = 0;
        if std::mem::take(&mut self.cr) {
            if first == b'\n' {
                content.push(b"\r\n");
                at = 1;
            } else {
                content.push_bare(b'\r');
            }
        }
        let mut run = at;
        while let Some(offset) = find_line_octet(&input[at..]) {
            at += offset + 1;
            match (input[at - 1], input.get(at)) {
                (b'\r', Some(b'\n')) => {
                    at += 1;
                    continue;
                }
                (b'\r', None) => {
                    self.cr = true;
                    content.push(&input[run..at - 1]);
                    return;
                }
                (bare, _) => {
                    content.push(&input[run..at - 1]);
                    content.push_bare(bare);
                    run = at;
                }
            }
        }
        content.push(&input[run..]);
    }

    /// Ends the message: a CR at its very end was a bare one.
    pub fn finish(&mut self, content: &mut Content) {
        if std::mem::take(&mut self.cr) {
            content.push_bare(b'\r');
        }
    }
}
