//! Content on its way out: stuffed (RFC 5321 §4.5.2) or in a chunk (RFC 3030), a piece at a time.

use super::Content;

/// Octets of content handed out at once.
const PIECE_OCTETS: usize = 64 * 1024;

/// Content that is being sent.
#[derive(Debug)]
pub(super) struct Sending {
    content: Content,
    at: usize,
    chunk: bool,
    /// The last piece, with the end in it, has been handed out.
    pub ended: bool,
}

impl Sending {
    pub(super) fn data(content: Content) -> Self {
        Self { content, at: 0, chunk: false, ended: false }
    }

    pub(super) fn chunk(content: Content) -> Self {
        Self { content, at: 0, chunk: true, ended: false }
    }

    /// Appends the next piece.
    pub(super) fn write_piece(&mut self, out: &mut Vec<u8>) {
        let rest = &self.content[self.at..];
        let mut end = rest.len().min(PIECE_OCTETS);
        if self.chunk {
            out.extend_from_slice(&rest[..end]);
            self.at += end;
            self.ended = self.at == self.content.len();
            return;
        }
        // Pieces end with lines, so that each begins at the start of one.
        if end < rest.len() {
            end = rest[..end].iter().rposition(|octet| *octet == b'\n').map_or(end, |newline| newline + 1);
        }
        let at_line_start = self.at == 0 || self.content[self.at - 1] == b'\n';
        stuff(&rest[..end], at_line_start, out);
        self.at += end;
        if self.at == self.content.len() {
            if !self.content.ends_with(b"\r\n") && !self.content.is_empty() {
                out.extend_from_slice(b"\r\n");
            }
            out.extend_from_slice(b".\r\n");
            self.ended = true;
        }
    }
}

fn stuff(piece: &[u8], mut at_line_start: bool, out: &mut Vec<u8>) {
    for line in piece.split_inclusive(|octet| *octet == b'\n') {
        if at_line_start && line.starts_with(b".") {
            out.push(b'.');
        }
        out.extend_from_slice(line);
        at_line_start = true;
    }
}

/// Tells whether every line ends in CRLF and nothing else does.
pub(super) fn has_only_crlf(content: &[u8]) -> bool {
    let mut before = 0;
    for octet in content {
        if (*octet == b'\n') != (before == b'\r') {
            return false;
        }
        before = *octet;
    }
    before != b'\r'
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent(content: &[u8]) -> Vec<u8> {
        let mut sending = Sending::data(content.into());
        let mut out = Vec::new();
        while !sending.ended {
            sending.write_piece(&mut out);
        }
        out
    }

    #[test]
    fn every_dot_at_the_start_of_a_line_is_doubled() {
        assert_eq!(sent(b".a\r\n..\r\nb.\r\n"), b"..a\r\n...\r\nb.\r\n.\r\n");
        assert_eq!(sent(b""), b".\r\n");
        assert_eq!(sent(b"no end"), b"no end\r\n.\r\n");
        let long = [b".".repeat(70_000), b"\r\n".to_vec(), b".x\r\n".repeat(50_000)].concat();
        let expected = [b".".repeat(70_001), b"\r\n".to_vec(), b"..x\r\n".repeat(50_000), b".\r\n".to_vec()].concat();
        assert_eq!(sent(&long), expected);
    }
}
