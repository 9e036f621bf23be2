//! Encoded words in header text (RFC 2047, with the language tag of RFC 2231 section 5).

use super::charset::decode_known;
use super::printable;
use crate::message::{decode_base64, decode_quoted_printable};

/// Returns header text with its encoded words decoded.
///
/// Liberal where senders are: words inside quotes, words longer than 75 characters, spaces inside a word. Adjacent
/// words of one charset are joined before decoding, so that a character split between two words survives. A word
/// in an unknown charset is shown raw.
pub fn decode_words(text: &str) -> String {
    if !text.contains("=?") {
        return printable(text);
    }
    let mut out = String::with_capacity(text.len());
    let mut run: Option<Run> = None;
    let mut closes = Closes { text, next: None };
    let mut at = 0;
    while at < text.len() {
        if let Some((word, end)) = parse_word(text, at, &mut closes) {
            match &mut run {
                Some(open) if open.charset == word.charset => open.bytes.extend(word.bytes),
                _ => {
                    flush(&mut out, run.take());
                    run = Some(word);
                }
            }
            at = end;
            // White space between two encoded words is not part of the text (RFC 2047 section 6.2).
            let gap = text[at..].len() - text[at..].trim_start_matches([' ', '\t']).len();
            if gap > 0 && parse_word(text, at + gap, &mut closes).is_some() {
                at += gap;
            }
            continue;
        }
        flush(&mut out, run.take());
        let step = text[at..].find("=?").map_or(text.len() - at, |offset| if offset == 0 { 2 } else { offset });
        out.push_str(&text[at..at + step]);
        at += step;
    }
    flush(&mut out, run);
    printable(&out)
}

struct Run {
    charset: String,
    bytes: Vec<u8>,
}

/// Remembers where the next `?=` is: looking for it from every `=?` anew would be quadratic.
struct Closes<'a> {
    text: &'a str,
    next: Option<usize>,
}

impl Closes<'_> {
    fn after(&mut self, at: usize) -> usize {
        match self.next {
            Some(next) if next >= at => next,
            _ => {
                let found = self.text[at..].find("?=").map_or(self.text.len(), |offset| at + offset);
                self.next = Some(found);
                found
            }
        }
    }
}

fn flush(out: &mut String, run: Option<Run>) {
    if let Some(run) = run
        && let Some(text) = decode_known(&run.charset, &run.bytes)
    {
        out.push_str(&text);
    }
}

/// The longest charset name looked at.
const CHARSET_BYTES_MAX: usize = 64;

fn parse_word(text: &str, at: usize, closes: &mut Closes<'_>) -> Option<(Run, usize)> {
    let bytes = text.as_bytes();
    if !bytes.get(at..)?.starts_with(b"=?") {
        return None;
    }
    let charset_start = at + 2;
    let window = &bytes[charset_start..bytes.len().min(charset_start + CHARSET_BYTES_MAX)];
    let charset_end = charset_start + window.iter().position(|byte| *byte == b'?')?;
    let charset = text.get(charset_start..charset_end)?.split('*').next()?.to_ascii_lowercase();
    let encoding = *bytes.get(charset_end + 1)?;
    let content_start = charset_end + 3;
    if bytes.get(charset_end + 2) != Some(&b'?') || charset.is_empty() {
        return None;
    }
    let content_end = closes.after(content_start);
    let content = bytes.get(content_start..content_end).filter(|_| content_end < bytes.len())?;
    let decoded = match encoding {
        b'b' | b'B' => decode_base64(content),
        b'q' | b'Q' => {
            let spaced: Vec<u8> = content.iter().map(|byte| if *byte == b'_' { b' ' } else { *byte }).collect();
            decode_word_quoted(&spaced)
        }
        _ => return None,
    };
    decode_known(&charset, b"")?;
    Some((Run { charset, bytes: decoded }, content_end + 2))
}

/// The Q encoding: like quoted-printable, but a space at the end is text.
fn decode_word_quoted(content: &[u8]) -> Vec<u8> {
    let kept = content.iter().rposition(|byte| *byte != b' ').map_or(0, |last| last + 1);
    let mut decoded = decode_quoted_printable(&content[..kept]);
    decoded.extend_from_slice(&content[kept..]);
    decoded
}

#[cfg(test)]
mod tests {
    use super::decode_words;

    #[test]
    fn encoded_words_are_decoded() {
        let cases = [
            ("=?utf-8?B?xb4=?=", "ž"),
            ("=?UTF-8?q?a_b=3d?=", "a b="),
            ("=?utf-8?q?one?= =?utf-8?q?two?=", "onetwo"),
            ("=?utf-8?q?one?= x =?utf-8?q?two?=", "one x two"),
            ("=?utf-8?b?xQ==?= =?utf-8?b?vg==?=", "ž"),
            ("=?utf-8?q?=C5?==?utf-8?q?=BE?=", "ž"),
            ("=?utf-8*en?Q?tagged?=", "tagged"),
            ("\"=?iso-8859-1?q?Andr=E9?=\" x", "\"André\" x"),
            ("=?no-such?q?raw?=", "=?no-such?q?raw?="),
            ("=?utf-8?q?spaces inside?=", "spaces inside"),
            ("=?utf-8?x?bad?= =? a =?utf-8?q", "=?utf-8?x?bad?= =? a =?utf-8?q"),
            ("=?iso-2022-jp?b?GyRCJU8lbSE8GyhC?=", "ハロー"),
            ("plain\u{0}nul\u{7}", "plainnul "),
            ("=?utf-8?q?=00a=07?=", "a "),
        ];
        for (input, expected) in cases {
            assert_eq!(decode_words(input), expected, "{input}");
        }
        let long = format!("=?utf-8?q?{}?=", "x".repeat(500));
        assert_eq!(decode_words(&long), "x".repeat(500));
    }

    #[test]
    fn many_unfinished_words_cost_linear_time() {
        let input = "=?a?Q?".repeat(40_000);
        assert_eq!(decode_words(&input), input);
    }
}
