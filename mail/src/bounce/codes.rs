//! Codes in running text: `550`, `5.1.1`.

use std::fmt;

/// An enhanced status code (RFC 3463).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Enhanced {
    pub class: u8,
    pub subject: u16,
    pub detail: u16,
}

impl fmt::Display for Enhanced {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.class, self.subject, self.detail)
    }
}

impl Enhanced {
    pub(super) fn parse(text: &str) -> Option<Self> {
        enhanced(text.trim())
    }

    /// Tells whether the code says no more than that something failed.
    pub(super) fn is_generic(self) -> bool {
        self.subject == 0
    }
}

/// Finds the first code in a text that says something, or else the first one. Addresses and version numbers are not
/// taken for codes.
pub(super) fn enhanced(text: &str) -> Option<Enhanced> {
    let mut first = None;
    for word in text.split(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '.' | '@' | '-' | '_' | '/'))) {
        let word = word.trim_end_matches(['.', '-']).trim_start_matches('-');
        let Some(found) = code(word) else { continue };
        if !found.is_generic() {
            return Some(found);
        }
        first = first.or(Some(found));
    }
    first
}

fn code(word: &str) -> Option<Enhanced> {
    // `550-5.1.1` and `5.1.1-user` are ways to write it.
    let word = word.rsplit_once('-').map_or(word, |(head, tail)| if tail.contains('.') { tail } else { head });
    let mut parts = word.split('.');
    let (class, subject, detail) = (parts.next()?, parts.next()?, parts.next()?);
    let digits = |text: &str, most: usize| (1..=most).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit());
    if parts.next().is_some() || !matches!(class, "2" | "4" | "5") || !digits(subject, 1) || !digits(detail, 3) {
        return None;
    }
    Some(Enhanced { class: class.parse().ok()?, subject: subject.parse().ok()?, detail: detail.parse().ok()? })
}

/// Finds the SMTP reply code in a text: the first number that is one and stands where one would.
pub(super) fn smtp_code(text: &str) -> Option<u16> {
    const KNOWN: [u16; 34] = [
        421, 422, 431, 432, 441, 442, 446, 447, 449, 450, 451, 452, 454, 455, 471, 500, 501, 502, 503, 504, 510, 511,
        512, 521, 523, 530, 535, 541, 550, 551, 552, 553, 554, 556,
    ];
    let bytes = text.as_bytes();
    let mut at = 0;
    while at + 3 <= bytes.len() {
        let alone_before = at == 0
            || !(bytes[at - 1].is_ascii_alphanumeric() || matches!(bytes[at - 1], b'.' | b'-' | b'/' | b'@' | b'='));
        let after = bytes.get(at + 3).copied().unwrap_or(b' ');
        let alone_after = !(after.is_ascii_alphanumeric() || matches!(after, b'.' | b'@' | b'%' | b'/'))
            || after == b'.' && !bytes.get(at + 4).is_some_and(u8::is_ascii_digit);
        if alone_before && alone_after && bytes[at..at + 3].iter().all(u8::is_ascii_digit) {
            let code = bytes[at..at + 3].iter().fold(0, |code, digit| code * 10 + u16::from(digit - b'0'));
            if KNOWN.contains(&code) || (557..=599).contains(&code) {
                return Some(code);
            }
        }
        at += 1;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_found_in_running_text() {
        let cases = [
            ("550 5.1.1 user unknown", Some(550), Some("5.1.1")),
            ("550-5.1.1 The email account", Some(550), Some("5.1.1")),
            ("smtp;550-5.7.26 x", Some(550), Some("5.7.26")),
            ("host 5.1.1.5 said: 554 no (#5.7.1)", Some(554), Some("5.7.1")),
            ("SMTP error: 5.0.0 (5.2.2)", None, Some("5.2.2")),
            ("Remote host said: 553 sorry", Some(553), None),
            ("version 4.5.6.7, 5 MB, port 550.5", None, None),
            ("exceeds 550 MB", Some(550), None),
            ("user550@example.com 5.1.1", None, Some("5.1.1")),
            ("421-4.7.0 [192.0.2.1]", Some(421), Some("4.7.0")),
            ("5.7.606", None, Some("5.7.606")),
        ];
        for (text, smtp, wanted) in cases {
            assert_eq!(smtp_code(text), smtp, "{text}");
            assert_eq!(enhanced(text).map(|code| code.to_string()).as_deref(), wanted, "{text}");
        }
    }
}
