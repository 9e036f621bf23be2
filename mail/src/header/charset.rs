//! Bytes in a declared, misspelt or undeclared charset, turned into text (RFC 2046 section 4.1.2).

use chardetng::{EncodingDetector, Iso2022JpDetection, Utf8Detection};
use encoding_rs::{EUC_KR, Encoding, GBK, UTF_8};
use mail_parser::decoders::charsets::map::charset_decoder;

/// Decodes bytes by the charset the sender named. An unknown or useless name falls back to [`decode_undeclared`].
pub fn decode_charset(label: Option<&str>, bytes: &[u8]) -> String {
    let Some(label) = label.map(normalise) else {
        return decode_undeclared(bytes);
    };
    decode_known(&label, bytes).unwrap_or_else(|| decode_undeclared(bytes))
}

/// Decodes by a charset label, or returns `None` when nothing by that name is known.
pub(super) fn decode_known(label: &str, bytes: &[u8]) -> Option<String> {
    let label = normalise(label);
    match label.as_str() {
        // "ASCII" with the eighth bit set, and the names mailers use for "we do not know".
        "" | "us-ascii" | "ascii" | "ansi_x3.4-1968" | "unknown-8bit" | "x-unknown" | "unknown" | "default"
        | "binary" | "8bit" => Some(decode_undeclared(bytes)),
        "iso-2022-kr" | "csiso2022kr" => Some(iso_2022_kr(bytes)),
        "hz-gb-2312" | "hz" => Some(hz(bytes)),
        "utf-7" | "unicode-1-1-utf-7" | "csutf7" | "x-unicode-2-0-utf-7" => {
            charset_decoder(b"utf-7").map(|decode| decode(bytes))
        }
        "cp932" | "ms932" | "windows-932" => Some(decode(encoding_rs::SHIFT_JIS, bytes)),
        "cp949" | "ms949" | "uhc" | "windows-949" | "ks_c_5601-1987" => Some(decode(EUC_KR, bytes)),
        "cp936" | "ms936" | "windows-936" => Some(decode(GBK, bytes)),
        "cp950" | "windows-950" => Some(decode(encoding_rs::BIG5, bytes)),
        _ => match Encoding::for_label(label.as_bytes()) {
            Some(encoding) if encoding != encoding_rs::REPLACEMENT => Some(decode(encoding, bytes)),
            _ => charset_decoder(label.as_bytes()).map(|decode| decode(bytes)),
        },
    }
}

fn decode(encoding: &'static Encoding, bytes: &[u8]) -> String {
    encoding.decode(bytes).0.into_owned()
}

fn normalise(label: &str) -> String {
    let label = label.trim_matches(|c: char| c.is_whitespace() || matches!(c, '"' | '\'' | '\0' | ';'));
    match label.to_ascii_lowercase().as_str() {
        "utf" | "utf_8" | "utf8mb4" | "utf-8n" | "utf 8" => "utf-8".to_owned(),
        other => other.strip_prefix("charset=").unwrap_or(other).to_owned(),
    }
}

/// Decodes bytes nobody named a charset for: UTF-8 if it is valid, else a detector's guess, which ends at windows-1252.
pub fn decode_undeclared(bytes: &[u8]) -> String {
    if let Ok(text) = std::str::from_utf8(bytes) {
        return text.to_owned();
    }
    let mut detector = EncodingDetector::new(Iso2022JpDetection::Allow);
    // The first part of a long text decides: detection costs more than decoding.
    detector.feed(&bytes[..bytes.len().min(DETECT_BYTES_MAX)], true);
    let encoding = detector.guess(None, Utf8Detection::Allow);
    if encoding == UTF_8 { String::from_utf8_lossy(bytes).into_owned() } else { decode(encoding, bytes) }
}

const DETECT_BYTES_MAX: usize = 64 * 1024;

/// ISO-2022-KR (RFC 1557): the characters between SO and SI are KS X 1001 with the eighth bit off.
fn iso_2022_kr(bytes: &[u8]) -> String {
    let mut euc = Vec::with_capacity(bytes.len());
    let mut shifted = false;
    let mut rest = bytes;
    while let Some((&byte, tail)) = rest.split_first() {
        rest = tail;
        match byte {
            0x0e => shifted = true,
            0x0f => shifted = false,
            0x1b if tail.starts_with(b"$)C") => rest = &tail[3..],
            b'\n' => {
                shifted = false;
                euc.push(byte);
            }
            0x21..=0x7e if shifted => euc.push(byte | 0x80),
            _ => euc.push(byte),
        }
    }
    decode(EUC_KR, &euc)
}

/// HZ (RFC 1843): `~{` and `~}` enclose GB 2312 with the eighth bit off.
fn hz(bytes: &[u8]) -> String {
    let mut gbk = Vec::with_capacity(bytes.len());
    let mut shifted = false;
    let mut rest = bytes;
    while let Some((&byte, tail)) = rest.split_first() {
        rest = tail;
        match (byte, tail.first()) {
            (b'~', Some(b'{')) => (shifted, rest) = (true, &tail[1..]),
            (b'~', Some(b'}')) => (shifted, rest) = (false, &tail[1..]),
            (b'~', Some(b'~')) if !shifted => {
                gbk.push(b'~');
                rest = &tail[1..];
            }
            (b'~', Some(b'\n')) if !shifted => rest = &tail[1..],
            (0x21..=0x7e, _) if shifted => gbk.push(byte | 0x80),
            _ => gbk.push(byte),
        }
    }
    decode(GBK, &gbk)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn declared_charsets_give_the_right_text() {
        let cases: &[(&str, &[u8], &str)] = &[
            ("utf-8", "žluť".as_bytes(), "žluť"),
            ("utf8", "ž".as_bytes(), "ž"),
            ("\"utf-8\"", "ž".as_bytes(), "ž"),
            ("us-ascii", b"caf\xe9", "café"),
            ("iso-8859-1", b"caf\xe9", "café"),
            ("iso-8859-15", b"\xa4", "€"),
            ("cp1252", b"\x80", "€"),
            ("windows-1251", b"\xcf\xf0\xe8\xe2\xe5\xf2", "Привет"),
            ("koi8-r", b"\xf0\xd2\xc9\xd7\xc5\xd4", "Привет"),
            ("gb2312", b"\xc4\xe3\xba\xc3", "你好"),
            ("gbk", b"\xc4\xe3\xba\xc3", "你好"),
            ("gb18030", b"\xc4\xe3\xba\xc3", "你好"),
            ("big5", b"\xa7A\xa6n", "你好"),
            ("x-sjis", b"\x83n\x83\x8d\x81[", "ハロー"),
            ("windows-31j", b"\x83n\x83\x8d\x81[", "ハロー"),
            ("euc-jp", b"\xa5\xcf\xa5\xed\xa1\xbc", "ハロー"),
            ("iso-2022-jp", b"\x1b$B%O%m!<\x1b(B", "ハロー"),
            ("euc-kr", b"\xbe\xc8\xb3\xe7", "안녕"),
            ("iso-2022-kr", b"\x1b$)C\x0e>H3g\x0f!", "안녕!"),
            ("hz-gb-2312", b"~{Dc:C~}!", "你好!"),
            ("utf-7", b"Hi +Jjo-!", "Hi ☺!"),
            ("utf-16", b"\xfe\xff\x00\xe1", "á"),
            ("utf-16", b"\xff\xfe\xe1\x00", "á"),
            ("ibm850", b"\x82", "é"),
            ("unknown-8bit", "ž".as_bytes(), "ž"),
            ("no-such-thing", b"caf\xe9", "café"),
        ];
        for (label, bytes, text) in cases {
            assert_eq!(decode_charset(Some(label), bytes), *text, "{label}");
        }
    }

    #[test]
    fn undeclared_eight_bit_text_is_detected() {
        assert_eq!(decode_undeclared("plain ž".as_bytes()), "plain ž");
        let (koi8, ..) = encoding_rs::KOI8_R.encode("Здравствуйте, это письмо написано по-русски");
        assert_eq!(decode_undeclared(&koi8), "Здравствуйте, это письмо написано по-русски");
        assert_eq!(decode_undeclared(b"Gr\xfc\xdfe aus M\xfcnchen"), "Grüße aus München");
    }
}
