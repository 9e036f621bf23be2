//! A cut through start tags with absurdly many attributes, made on the source text.

use std::borrow::Cow;

/// Drops attributes beyond the limit before the tokenizer compares each with all others.
pub(super) fn limit_attributes(html: &str, attributes_max: usize) -> Cow<'_, str> {
    let bytes = html.as_bytes();
    let mut out: Option<String> = None;
    let mut copied = 0;
    let mut at = 0;
    while at < bytes.len() {
        if bytes[at] != b'<' || !bytes.get(at + 1).is_some_and(u8::is_ascii_alphabetic) {
            at += 1;
            continue;
        }
        let (cut, end) = tag_extent(bytes, at + 1, attributes_max);
        if let Some(cut) = cut {
            let text = out.get_or_insert_default();
            text.push_str(&html[copied..cut]);
            copied = end;
        }
        at = end.max(at + 1);
    }
    match out {
        Some(mut text) => {
            text.push_str(&html[copied..]);
            Cow::Owned(text)
        }
        None => Cow::Borrowed(html),
    }
}

/// Returns where to cut a start tag with too many attributes, if it has, and where its `>` (or the input) ends it.
fn tag_extent(bytes: &[u8], mut at: usize, attributes_max: usize) -> (Option<usize>, usize) {
    let mut attributes = 0;
    let mut cut = None;
    while at < bytes.len() && !matches!(bytes[at], b'>' | b' ' | b'\t' | b'\n' | b'\r' | 0x0c | b'/') {
        at += 1;
    }
    while at < bytes.len() && bytes[at] != b'>' {
        if bytes[at].is_ascii_whitespace() || bytes[at] == b'/' {
            at += 1;
            continue;
        }
        attributes += 1;
        if attributes == attributes_max + 1 {
            cut = Some(at);
        }
        at = attribute_end(bytes, at);
    }
    (cut, at)
}

/// Returns the offset behind one attribute, with its value if it has one (WHATWG HTML 13.2.5.32 and following).
fn attribute_end(bytes: &[u8], mut at: usize) -> usize {
    // A leading `=` belongs to the name.
    at += 1;
    while at < bytes.len() && !bytes[at].is_ascii_whitespace() && !matches!(bytes[at], b'>' | b'/' | b'=') {
        at += 1;
    }
    let mut ahead = at;
    while ahead < bytes.len() && bytes[ahead].is_ascii_whitespace() {
        ahead += 1;
    }
    if bytes.get(ahead) != Some(&b'=') {
        return at;
    }
    ahead += 1;
    while ahead < bytes.len() && bytes[ahead].is_ascii_whitespace() {
        ahead += 1;
    }
    match bytes.get(ahead) {
        Some(&quote @ (b'"' | b'\'')) => {
            let inside = &bytes[ahead + 1..];
            ahead + 1 + inside.iter().position(|byte| *byte == quote).map_or(inside.len(), |offset| offset + 1)
        }
        _ => {
            while ahead < bytes.len() && !bytes[ahead].is_ascii_whitespace() && bytes[ahead] != b'>' {
                ahead += 1;
            }
            ahead
        }
    }
}

#[cfg(test)]
mod tests {
    use super::limit_attributes;

    #[test]
    fn attributes_beyond_the_limit_are_cut() {
        let cases = [
            ("<p a b c>x</p>", "<p a b >x</p>"),
            ("<p a=1 b='>' c=\"d\" e>x", "<p a=1 b='>' >x"),
            ("<p a=x'y b=\"q\"c d>x", "<p a=x'y b=\"q\">x"),
            ("<p a = 1 b = 2>x", "<p a = 1 b = 2>x"),
            ("a < b c d e > f", "a < b c d e > f"),
            ("<p/a/b/c>", "<p/a/b/>"),
            ("<p a b c", "<p a b "),
        ];
        for (html, expected) in cases {
            assert_eq!(limit_attributes(html, 2), expected);
        }
    }
}
