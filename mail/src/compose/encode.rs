//! Content transfer encodings for what we send: 7-bit always, so that no relay has a reason to touch signed bytes.

use data_encoding::BASE64;

/// Longest line sent unencoded, in octets without its CRLF.
const PLAIN_LINE_OCTETS_MAX: usize = 78;
/// Octets of an encoded line without its CRLF (RFC 2045 §6.7, §6.8).
const ENCODED_LINE_OCTETS_MAX: usize = 76;

/// An encoded body and the name of its encoding.
pub(super) struct Encoded {
    pub encoding: &'static str,
    pub body: String,
}

/// Makes every line end a CRLF: bare CR and bare LF count as line ends.
pub(super) fn with_crlf(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + text.len() / 40);
    let mut after_cr = false;
    for c in text.chars() {
        match c {
            '\r' => out.push_str("\r\n"),
            '\n' if after_cr => {}
            '\n' => out.push_str("\r\n"),
            other => out.push(other),
        }
        after_cr = c == '\r';
    }
    out
}

/// Encodes text whose lines end in CRLF by whichever encoding is the most readable.
pub(super) fn text(text: String) -> Encoded {
    if text.split("\r\n").all(is_plain) {
        return Encoded { encoding: "7bit", body: text };
    }
    let escaped = text.bytes().filter(|byte| !matches!(byte, b' '..=b'~' | b'\r' | b'\n') || *byte == b'=').count();
    // Three octets for each escaped one against four thirds for all.
    if escaped.saturating_mul(6) > text.len() {
        return Encoded { encoding: "base64", body: base64(text.as_bytes()) };
    }
    Encoded { encoding: "quoted-printable", body: quoted_printable(&text) }
}

/// Tells whether a line survives every relay: short, printable, not to be taken for an mbox separator or for the end
/// of the data, no white space at its end.
fn is_plain(line: &str) -> bool {
    line.len() <= PLAIN_LINE_OCTETS_MAX
        && line.bytes().all(|byte| matches!(byte, b' '..=b'~' | b'\t'))
        && !line.ends_with([' ', '\t'])
        && !line.starts_with('.')
        && !line.starts_with("From ")
}

/// Encodes bytes in lines of 76 characters.
pub(super) fn base64(bytes: &[u8]) -> String {
    let encoded = BASE64.encode(bytes);
    let mut out = String::with_capacity(encoded.len() + encoded.len() / 38 + 2);
    let mut rest = encoded.as_str();
    while !rest.is_empty() {
        let (line, more) = rest.split_at(rest.len().min(ENCODED_LINE_OCTETS_MAX));
        out.push_str(line);
        out.push_str("\r\n");
        rest = more;
    }
    out
}

/// Writes text as encoded words, one a line (RFC 2047 §2): for what a reader would otherwise take for one.
pub(super) fn words(text: &str) -> String {
    // 75 octets of a word, less its frame, hold 45 octets.
    const WORD_OCTETS_MAX: usize = 45;
    let mut words = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let (piece, more) = rest.split_at(rest.floor_char_boundary(rest.len().min(WORD_OCTETS_MAX)));
        words.push(format!("=?utf-8?B?{}?=", BASE64.encode(piece.as_bytes())));
        rest = more;
    }
    words.join("\r\n ")
}

fn quoted_printable(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + text.len() / 4);
    for (position, line) in text.split("\r\n").enumerate() {
        if position > 0 {
            out.push_str("\r\n");
        }
        quoted_printable_line(&mut out, line.as_bytes());
    }
    out
}

fn quoted_printable_line(out: &mut String, line: &[u8]) {
    let mut column = 0;
    for (at, byte) in line.iter().enumerate() {
        let last = at + 1 == line.len();
        let literal = match byte {
            b'=' => false,
            b' ' | b'\t' => !last,
            b'.' => column > 0,
            // `From ` at the start of a line is taken for a separator by mbox readers.
            b'F' => column > 0 || !line[at..].starts_with(b"From "),
            other => matches!(other, b'!'..=b'~'),
        };
        let width = if literal { 1 } else { 3 };
        let room = if last { ENCODED_LINE_OCTETS_MAX } else { ENCODED_LINE_OCTETS_MAX - 1 };
        if column + width > room {
            out.push_str("=\r\n");
            column = 0;
            // What was a harmless dot becomes the first of its line.
            if *byte == b'.' {
                out.push_str("=2E");
                column = 3;
                continue;
            }
        }
        if literal {
            out.push(char::from(*byte));
        } else {
            out.push_str(&format!("={byte:02X}"));
        }
        column += width;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_that_relays_change_are_encoded() {
        let cases = [
            ("plain\r\nlines\r\n", "7bit", "plain\r\nlines\r\n"),
            ("From me\r\n", "quoted-printable", "=46rom me\r\n"),
            ("a\r\n.\r\nb", "quoted-printable", "a\r\n=2E\r\nb"),
            ("end \r\n", "quoted-printable", "end=20\r\n"),
            (
                "1=2 \u{fc}ber alle lange Texte hier\r\n",
                "quoted-printable",
                "1=3D2 =C3=BCber alle lange Texte hier\r\n",
            ),
            ("\u{4f60}\u{597d}", "base64", "5L2g5aW9\r\n"),
        ];
        for (input, encoding, expected) in cases {
            let encoded = text(input.to_owned());
            assert_eq!((encoded.encoding, encoded.body.as_str()), (encoding, expected), "{input:?}");
        }
    }

    #[test]
    fn long_lines_are_broken_softly_and_come_back() {
        for line in ["x".repeat(500), ".".repeat(300), "From ".repeat(99), "\u{e9}bc d ".repeat(80)] {
            let encoded = quoted_printable(&line);
            assert!(encoded.split("\r\n").all(|line| line.len() <= 76 && !line.starts_with('.')), "{encoded}");
            let decoded = crate::message::decode_quoted_printable(encoded.as_bytes());
            assert_eq!(String::from_utf8(decoded).unwrap(), line);
        }
    }

    #[test]
    fn every_line_end_becomes_crlf() {
        assert_eq!(with_crlf("a\rb\nc\r\nd\n\re\r\r\n"), "a\r\nb\r\nc\r\nd\r\n\r\ne\r\n\r\n");
    }
}
