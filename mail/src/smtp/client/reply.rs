//! Replies as they come: in pieces, on several lines, longer and stranger than allowed (RFC 5321 §4.2).

use serde::{Deserialize, Serialize};

use crate::bounce::{Classification, Stage, classify_reply};

/// Longest line taken, in octets; the standard has 512, hosts have more.
const LINE_OCTETS_MAX: usize = 4096;
/// Longest text kept of a reply, in octets.
const TEXT_OCTETS_MAX: usize = 8192;
/// Lines of one reply.
const LINES_MAX: usize = 200;

/// What a server answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerReply {
    /// The reply code.
    pub code: u16,
    /// The enhanced status code (RFC 2034), which need not be of the code's class: the code counts.
    pub enhanced: Option<String>,
    /// The text without the codes: valid UTF-8, without control characters but the line feeds between its lines.
    pub text: String,
}

impl ServerReply {
    /// Tells whether it says yes.
    #[must_use]
    pub fn is_positive(&self) -> bool {
        self.code / 100 == 2
    }

    /// Tells whether another try is of no use. `552` for too many recipients means `452` (RFC 5321 §4.5.3.1.10).
    #[must_use]
    pub fn is_permanent(&self) -> bool {
        let too_many = self.code == 552 && self.text.to_ascii_lowercase().contains("too many recipients");
        self.code / 100 == 5 && !too_many
    }

    /// Says what the reply means.
    #[must_use]
    pub fn classify(&self, stage: Stage) -> Classification {
        classify_reply(stage, self.code, self.enhanced.as_deref(), &self.text)
    }
}

/// What came is no reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Garbage;

/// Puts replies together.
#[derive(Debug, Default)]
pub(super) struct ReplyReader {
    buffer: Vec<u8>,
    /// Lines of the reply that is not complete.
    code: Option<u16>,
    enhanced: Option<String>,
    text: String,
    lines: usize,
}

impl ReplyReader {
    pub(super) fn push(&mut self, octets: &[u8]) {
        self.buffer.extend_from_slice(octets);
    }

    /// Tells whether nothing is left that has not been read.
    pub(super) fn is_empty(&self) -> bool {
        self.buffer.is_empty() && self.code.is_none()
    }

    /// Returns the next whole reply.
    pub(super) fn next(&mut self) -> Result<Option<ServerReply>, Garbage> {
        while let Some(end) = self.buffer.iter().position(|octet| *octet == b'\n') {
            let line: Vec<u8> = self.buffer.drain(..=end).collect();
            if line.len() > LINE_OCTETS_MAX {
                return Err(Garbage);
            }
            if self.line(&line)? {
                self.lines = 0;
                return Ok(self.code.take().map(|code| ServerReply {
                    code,
                    enhanced: self.enhanced.take(),
                    text: std::mem::take(&mut self.text),
                }));
            }
        }
        if self.buffer.len() > LINE_OCTETS_MAX { Err(Garbage) } else { Ok(None) }
    }

    /// Takes one line; answers whether it is the last of its reply.
    fn line(&mut self, line: &[u8]) -> Result<bool, Garbage> {
        let line = String::from_utf8_lossy(line);
        let line = line.trim_end_matches(['\r', '\n']);
        let code = line.get(..3).filter(|code| code.bytes().all(|b| b.is_ascii_digit()));
        let code: u16 =
            code.and_then(|code| code.parse().ok()).filter(|code| (200..600).contains(code)).ok_or(Garbage)?;
        let more = match line.as_bytes().get(3) {
            None | Some(b' ') => false,
            Some(b'-') => true,
            Some(_) => return Err(Garbage),
        };
        self.lines += 1;
        // The last code counts, but lines that disagree about success are no reply at all.
        if self.lines > LINES_MAX || self.code.is_some_and(|known| known / 100 != code / 100) {
            return Err(Garbage);
        }
        let rest = line.get(4..).unwrap_or_default();
        let (enhanced, text) = split_enhanced(rest);
        if self.lines > 1 {
            self.text.push('\n');
        }
        if self.text.len() < TEXT_OCTETS_MAX {
            self.text.extend(on_one_line(text));
        }
        self.code = Some(code);
        self.enhanced = self.enhanced.take().or(enhanced);
        Ok(!more)
    }
}

/// Returns a text with spaces in the place of control characters.
pub(super) fn on_one_line(text: &str) -> impl Iterator<Item = char> {
    text.chars().map(|c| if c.is_control() { ' ' } else { c })
}

/// Takes the enhanced status code off the front of a line.
fn split_enhanced(line: &str) -> (Option<String>, &str) {
    let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
    let mut parts = word.split('.');
    let digits = |part: Option<&str>| {
        part.is_some_and(|part| (1..=3).contains(&part.len()) && part.bytes().all(|b| b.is_ascii_digit()))
    };
    let class = matches!(parts.next(), Some("2" | "4" | "5"));
    if class && digits(parts.next()) && digits(parts.next()) && parts.next().is_none() {
        return (Some(word.to_owned()), rest);
    }
    (None, line)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(input: &[u8], piece: usize) -> Vec<Result<ServerReply, Garbage>> {
        let mut reader = ReplyReader::default();
        let mut replies = Vec::new();
        for piece in input.chunks(piece) {
            reader.push(piece);
            loop {
                match reader.next() {
                    Ok(Some(reply)) => replies.push(Ok(reply)),
                    Ok(None) => break,
                    Err(garbage) => {
                        replies.push(Err(garbage));
                        return replies;
                    }
                }
            }
        }
        replies
    }

    #[test]
    fn replies_are_put_together_from_pieces() {
        let input = b"220 mx ESMTP\r\n250-mx\r\n250-SIZE 5\r\n250 OK\n550-5.1.1 no\r\n550 5.1.1 user\x07 \xff\r\n354\r\n550 4.1.1 x\r\n";
        for piece in [1, 2, 7, 64, 1000] {
            let replies: Vec<ServerReply> = read(input, piece).into_iter().map(Result::unwrap).collect();
            let seen: Vec<_> = replies.iter().map(|r| (r.code, r.enhanced.as_deref(), r.text.as_str())).collect();
            let expected = [
                (220, None, "mx ESMTP"),
                (250, None, "mx\nSIZE 5\nOK"),
                (550, Some("5.1.1"), "no\nuser  \u{fffd}"),
                (354, None, ""),
                (550, Some("4.1.1"), "x"),
            ];
            assert_eq!(seen, expected, "in pieces of {piece}");
        }
    }

    #[test]
    fn what_is_no_reply_is_garbage() {
        for input in ["hello\r\n", "25 x\r\n", "2500 x\r\n", "250-a\r\n550 b\r\n", "150 x\r\n", "600 x\r\n", "\r\n"] {
            assert_eq!(read(input.as_bytes(), 3).last(), Some(&Err(Garbage)), "{input:?}");
        }
        assert_eq!(read(&vec![b'x'; 5000], 100).last(), Some(&Err(Garbage)));
        assert_eq!(read("250-x\r\n".repeat(300).as_bytes(), 100).last(), Some(&Err(Garbage)));
        assert!(
            read(b"250-a\r\n251 b\r\n", 5)[0].as_ref().is_ok_and(|reply| reply.code == 251),
            "the last code counts"
        );
    }
}
