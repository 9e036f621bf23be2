//! Content transfer encodings, decoded as far as the bytes allow and never refused (RFC 2045 section 6).

/// How a part's bytes were encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TransferEncoding {
    /// 7bit, 8bit, binary, and everything unknown.
    Identity,
    Base64,
    QuotedPrintable,
}

impl TransferEncoding {
    pub(super) fn from_label(label: &str) -> Self {
        let label = label.trim();
        if label.eq_ignore_ascii_case("base64") {
            TransferEncoding::Base64
        } else if label.eq_ignore_ascii_case("quoted-printable") {
            TransferEncoding::QuotedPrintable
        } else {
            TransferEncoding::Identity
        }
    }

    pub(super) fn decode(self, bytes: &[u8]) -> Vec<u8> {
        match self {
            TransferEncoding::Identity => bytes.to_vec(),
            TransferEncoding::Base64 => decode_base64(bytes),
            TransferEncoding::QuotedPrintable => decode_quoted_printable(bytes),
        }
    }
}

/// Decodes base64 with best effort: white space and foreign characters are skipped, missing padding is assumed, and
/// padding in the middle ends one block and begins the next (RFC 2045 section 6.8).
pub fn decode_base64(bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes.len() / 4 * 3 + 3);
    let (mut bits, mut count) = (0_u32, 0_u8);
    for byte in bytes {
        let value = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            b'=' => {
                flush_base64(&mut out, bits, count);
                (bits, count) = (0, 0);
                continue;
            }
            _ => continue,
        };
        bits = bits << 6 | u32::from(value);
        count += 1;
        if count == 4 {
            out.extend_from_slice(&bits.to_be_bytes()[1..]);
            (bits, count) = (0, 0);
        }
    }
    flush_base64(&mut out, bits, count);
    out
}

fn flush_base64(out: &mut Vec<u8>, bits: u32, count: u8) {
    match count {
        2 => out.extend_from_slice(&(bits << 12).to_be_bytes()[1..2]),
        3 => out.extend_from_slice(&(bits << 6).to_be_bytes()[1..3]),
        _ => {}
    }
}

/// Decodes quoted-printable; what is not a valid escape stays as it is (RFC 2045 section 6.7).
pub fn decode_quoted_printable(bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes.len());
    for line in bytes.split_inclusive(|byte| *byte == b'\n') {
        let (content, ending) = split_ending(line);
        // White space at a line's end was added in transit and is not content.
        let kept = content.iter().rposition(|byte| !matches!(byte, b' ' | b'\t')).map_or(0, |last| last + 1);
        let mut rest = &content[..kept];
        let mut soft = false;
        while let Some((&byte, tail)) = rest.split_first() {
            rest = tail;
            if byte != b'=' {
                out.push(byte);
            } else if tail.is_empty() {
                soft = true;
            } else if let Some(decoded) = hex_pair(tail) {
                out.push(decoded);
                rest = &tail[2..];
            } else {
                out.push(byte);
            }
        }
        if !soft {
            out.extend_from_slice(ending);
        }
    }
    out
}

fn split_ending(line: &[u8]) -> (&[u8], &[u8]) {
    let content = crate::header::trim_line_break(line);
    line.split_at(content.len())
}

fn hex_pair(bytes: &[u8]) -> Option<u8> {
    let high = char::from(*bytes.first()?).to_digit(16)?;
    let low = char::from(*bytes.get(1)?).to_digit(16)?;
    u8::try_from(high * 16 + low).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_decoded_with_best_effort() {
        let cases: &[(&[u8], &[u8])] = &[
            (b"aGVsbG8=", b"hello"),
            (b"aGVs\r\n bG8=\r\n", b"hello"),
            (b"aGVsbG8", b"hello"),
            (b"aGV!s\x00bG8=", b"hello"),
            (b"aGVsbG8=aGVsbG8=", b"hellohello"),
            (b"YQ==Yg==", b"ab"),
            (b"a", b""),
            (b"====", b""),
            (b"", b""),
        ];
        for (input, expected) in cases {
            assert_eq!(decode_base64(input), *expected, "{input:?}");
        }
        assert_eq!(decode_base64(&b"QUFB".repeat(1_300_000)).len(), 3_900_000);
    }

    #[test]
    fn quoted_printable_falls_back_to_the_literal() {
        let cases: &[(&[u8], &[u8])] = &[
            (b"a=3db=3D", b"a=b="),
            (b"soft=\r\nbreak", b"softbreak"),
            (b"soft= \t\r\nbreak", b"softbreak"),
            (b"trailing  \r\nx", b"trailing\r\nx"),
            (b"=XZ =4", b"=XZ =4"),
            (b"end=", b"end"),
            (b"lf=\nonly", b"lfonly"),
        ];
        for (input, expected) in cases {
            assert_eq!(decode_quoted_printable(input), *expected, "{input:?}");
        }
        let long = "x".repeat(5000);
        assert_eq!(decode_quoted_printable(long.as_bytes()), long.as_bytes());
    }
}
