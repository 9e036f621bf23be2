//! Header fields: scanning, unfolding, and the values that many fields share (RFC 5322 section 2.2, RFC 2047, RFC 2231).
//!
//! The scanner is linear in its input and bounded in what it keeps; nothing here recurses.

mod address;
mod charset;
mod parameter;
mod word;

pub use address::{EmailAddress, addresses, group_is_empty};
pub use charset::{decode_charset, decode_undeclared};
pub use parameter::Parameterised;
pub use word::decode_words;

/// How much of a header block is looked at; what lies beyond is ignored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockLimits {
    /// Fields kept.
    pub fields_max: usize,
    /// Bytes of the block that are scanned for fields.
    pub bytes_max: usize,
}

/// One header field as it stands in the message: nothing decoded, nothing unfolded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Field<'a> {
    /// The name as written, without the colon.
    pub name: &'a str,
    /// Everything after the colon up to, and without, the final line break.
    pub value: &'a [u8],
}

impl Field<'_> {
    /// Returns whether the field has this name, in any case.
    pub fn is(&self, name: &str) -> bool {
        self.name.eq_ignore_ascii_case(name)
    }

    /// Returns the value unfolded, 8-bit bytes turned into text, encoded words left alone.
    pub fn unfolded(&self) -> String {
        unfold(self.value)
    }

    /// Returns the value as a person reads it: unfolded, encoded words decoded, control characters as spaces.
    pub fn text(&self) -> String {
        decode_words(&unfold(self.value))
    }
}

/// A scanned header block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Block<'a> {
    /// The fields in their order, at most `fields_max`.
    pub fields: Vec<Field<'a>>,
    /// Offset of the first byte of the body (after the empty line), or the length of the input.
    pub body_start: usize,
    /// Whether fields were left out because a limit was reached.
    pub truncated: bool,
}

impl<'a> Block<'a> {
    /// Scans the header block at the start of `bytes`.
    ///
    /// Tolerated (RFC 5322 section 4 and what is seen in practice): a leading mbox `From ` line, lines without a
    /// colon, LF line ends, continuation lines of white space only, a missing empty line.
    pub fn scan(bytes: &'a [u8], limits: BlockLimits) -> Self {
        let mut block = Block { fields: Vec::new(), body_start: bytes.len(), truncated: false };
        let mut open: Option<(usize, usize)> = None;
        let mut at = 0;
        while at < bytes.len() {
            let next = line_end(bytes, at);
            let line = trim_line_break(&bytes[at..next]);
            if line.is_empty() {
                block.body_start = next;
                break;
            }
            if matches!(line[0], b' ' | b'\t') {
                if let Some((_, end)) = &mut open {
                    *end = at + line.len();
                }
            } else {
                block.keep(bytes, open.take(), limits);
                open = Some((at, at + line.len()));
            }
            at = next;
        }
        block.keep(bytes, open.take(), limits);
        block
    }

    fn keep(&mut self, bytes: &'a [u8], range: Option<(usize, usize)>, limits: BlockLimits) {
        let Some((start, end)) = range else { return };
        if self.fields.len() >= limits.fields_max || start >= limits.bytes_max {
            self.truncated = true;
            return;
        }
        // A field that crosses the byte limit is cut there: its beginning is still worth showing.
        let cut = end.min(limits.bytes_max);
        self.truncated |= cut < end;
        if let Some(field) = field(&bytes[start..cut]) {
            self.fields.push(field);
        }
    }

    /// Returns the first field of this name.
    pub fn first(&self, name: &str) -> Option<&Field<'a>> {
        self.fields.iter().find(|field| field.is(name))
    }

    /// Returns every field of this name, in order.
    pub fn all<'b>(&'b self, name: &'b str) -> impl Iterator<Item = &'b Field<'a>> {
        self.fields.iter().filter(move |field| field.is(name))
    }
}

fn field(line: &[u8]) -> Option<Field<'_>> {
    let colon = line.iter().position(|byte| *byte == b':')?;
    let name = std::str::from_utf8(&line[..colon]).ok()?.trim_end();
    let printable = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' ');
    // `From alice Mon Jan 1 00:00:00 2001` is an mbox separator, not a field named "From alice Mon Jan 1 00".
    let separator = line.starts_with(b"From ") || line.starts_with(b">From ");
    (printable && !separator).then(|| Field { name, value: &line[colon + 1..] })
}

/// Returns the offset just behind the line that starts at `at` (its LF included).
pub(crate) fn line_end(bytes: &[u8], at: usize) -> usize {
    bytes[at..].iter().position(|byte| *byte == b'\n').map_or(bytes.len(), |offset| at + offset + 1)
}

/// Returns the line without its CRLF or LF.
pub(crate) fn trim_line_break(line: &[u8]) -> &[u8] {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    line.strip_suffix(b"\r").unwrap_or(line)
}

/// Returns a field value on one line (RFC 5322 section 2.2.3), 8-bit bytes decoded, trimmed.
pub fn unfold(value: &[u8]) -> String {
    let bytes: Vec<u8> = value.iter().copied().filter(|byte| !matches!(byte, b'\r' | b'\n')).collect();
    let text = decode_undeclared(&bytes);
    text.trim_matches(|character: char| character.is_ascii_whitespace() || character == '\0').to_owned()
}

/// Returns text for display: control characters become spaces, NUL disappears.
pub fn printable(text: &str) -> String {
    text.chars()
        .filter(|character| *character != '\0')
        .map(|character| if character.is_control() { ' ' } else { character })
        .collect()
}

/// Returns the message identifiers of a `Message-ID`, `In-Reply-To` or `References` value without angle brackets
/// (RFC 5322 section 3.6.4). A value without any brackets is split at white space and kept where it has an `@`.
pub fn message_ids(value: &[u8]) -> Vec<String> {
    let text = unfold(value);
    let mut ids = Vec::new();
    let mut rest = text.as_str();
    while let Some(open) = rest.find('<') {
        let inside = &rest[open + 1..];
        let Some(close) = inside.find(['>', '<']) else {
            break;
        };
        push_id(&mut ids, &inside[..close]);
        rest = &inside[close..];
    }
    if ids.is_empty() {
        for token in text.split([' ', '\t', ',']).filter(|token| token.contains('@')) {
            push_id(&mut ids, token.trim_matches(|character| matches!(character, '<' | '>')));
        }
    }
    ids
}

/// The longest identifier kept, in bytes: a field line may be 998 octets (RFC 5322 section 2.1.1).
const ID_BYTES_MAX: usize = 998;

fn push_id(ids: &mut Vec<String>, token: &str) {
    let id: String = token.chars().filter(|c| !c.is_control() && !c.is_whitespace()).collect();
    if !id.is_empty() && id.len() <= ID_BYTES_MAX {
        ids.push(id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: BlockLimits = BlockLimits { fields_max: 2000, bytes_max: 262_144 };

    #[test]
    fn odd_header_blocks_are_tolerated() {
        let raw = b"From bob Mon Jan  1 00:00:00 2001\nSubject: a\n b\n \t\n c\nno colon here\nX :y\r\n\r\nbody";
        let block = Block::scan(raw, LIMITS);
        assert_eq!(block.fields.iter().map(|f| f.name).collect::<Vec<_>>(), ["Subject", "X"]);
        assert_eq!(block.first("subject").unwrap().text(), "a b   c");
        assert_eq!(&raw[block.body_start..], b"body");
    }

    #[test]
    fn fields_beyond_the_limits_are_ignored_and_flagged() {
        let raw = "A: 1\r\n".repeat(10) + "\r\nbody";
        let block = Block::scan(raw.as_bytes(), BlockLimits { fields_max: 3, bytes_max: 1000 });
        assert_eq!((block.fields.len(), block.truncated), (3, true));
        assert_eq!(&raw[block.body_start..], "body");
        let cut = Block::scan(b"A: 123456789\r\n\r\n", BlockLimits { fields_max: 3, bytes_max: 5 });
        assert_eq!((cut.fields[0].value, cut.truncated), (&b" 12"[..], true));
    }

    #[test]
    fn identifiers_lose_their_brackets() {
        assert_eq!(message_ids(b" <a@b>\r\n <c@d> junk <e@f>"), ["a@b", "c@d", "e@f"]);
        assert_eq!(message_ids(b"a@b, c@d"), ["a@b", "c@d"]);
        assert_eq!(message_ids(b"<broken <ok@x>"), ["broken", "ok@x"]);
        assert!(message_ids(b"no identifier").is_empty());
    }
}
