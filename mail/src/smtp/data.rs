//! The content of DATA: dot-unstuffing and the one true end (RFC 5321 §4.1.1.4, §4.5.2).

use super::content::{Content, find_line_octet};

/// Where the decoder stands. A line begins after CRLF and at the very start (the CRLF of the command DATA),
/// never after a bare CR or LF.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    LineStart,
    /// After a dot that begins a line.
    Dot,
    /// After such a dot and a CR: LF is the end, everything else is text.
    DotCr,
    Text,
    Cr,
}

/// Decodes DATA in one pass over pieces of any size; its own memory is one state.
#[derive(Debug)]
pub struct DataDecoder {
    state: State,
}

impl DataDecoder {
    /// Starts before the first octet of content.
    #[must_use]
    pub fn new() -> Self {
        Self { state: State::LineStart }
    }

    /// Decodes a piece into `content`. Returns how many octets belonged to the message, its end included,
    /// once that end is in this piece; the rest is not touched.
    pub fn feed(&mut self, input: &[u8], content: &mut Content) -> Option<usize> {
        // `run..at` is text that will be copied in one go; a CR stays in it until it proves to be bare.
        let (mut run, mut at) = (0, 0);
        while at < input.len() {
            let byte = input[at];
            match self.state {
                State::Text => match find_line_octet(&input[at..]) {
                    None => at = input.len(),
                    Some(offset) => {
                        at += offset + 1;
                        if input[at - 1] == b'\r' {
                            self.state = State::Cr;
                        } else {
                            content.push(&input[run..at - 1]);
                            content.push_bare(b'\n');
                            run = at;
                        }
                    }
                },
                State::Cr if byte == b'\n' => {
                    if at == 0 {
                        // The CR came with the piece before and is not in the run.
                        content.push(b"\r");
                    }
                    at += 1;
                    self.state = State::LineStart;
                }
                State::Cr => {
                    content.push(&input[run..at.saturating_sub(1)]);
                    content.push_bare(b'\r');
                    run = at;
                    self.state = State::Text;
                }
                State::LineStart if byte == b'.' => {
                    content.push(&input[run..at]);
                    at += 1;
                    run = at;
                    self.state = State::Dot;
                }
                State::LineStart => self.state = State::Text,
                State::Dot if byte == b'\r' => {
                    at += 1;
                    run = at;
                    self.state = State::DotCr;
                }
                State::Dot => self.state = State::Text,
                State::DotCr if byte == b'\n' => {
                    self.state = State::LineStart;
                    return Some(at + 1);
                }
                State::DotCr => {
                    content.push_bare(b'\r');
                    self.state = State::Text;
                }
            }
        }
        if self.state == State::Cr && at > run {
            at -= 1;
        }
        content.push(&input[run..at]);
        None
    }
}

impl Default for DataDecoder {
    fn default() -> Self {
        Self::new()
    }
}
