//! What DKIM and ARC signatures cover: header fields and body exactly as they came, and their canonical forms
//! (RFC 6376 section 3.4).

use std::sync::OnceLock;

use sha2::{Digest, Sha256};

use crate::header::{line_end, trim_line_break};

/// Fields of a message that signatures may cover; with more than these no signature is valid.
const FIELDS_MAX: usize = 4000;

/// A header field with its bytes untouched.
#[derive(Debug, Clone, Copy)]
pub(super) struct RawField<'a> {
    /// Everything before the colon.
    pub name: &'a [u8],
    /// Everything behind it, folding and final line break included.
    pub value: &'a [u8],
}

impl RawField<'_> {
    pub(super) fn is(&self, name: &str) -> bool {
        self.name.trim_ascii_end().eq_ignore_ascii_case(name.as_bytes())
    }
}

/// A message split into the things that are signed.
pub struct SignedMessage<'a> {
    pub(super) fields: Vec<RawField<'a>>,
    body: &'a [u8],
    /// Canonical bodies, made once each: hashing is cheap, canonicalising for every signature is not.
    relaxed: OnceLock<Vec<u8>>,
    simple: OnceLock<Vec<u8>>,
}

impl<'a> SignedMessage<'a> {
    /// Splits a message.
    pub fn split(raw: &'a [u8]) -> Self {
        let mut fields: Vec<RawField<'a>> = Vec::new();
        let mut start: Option<usize> = None;
        let mut at = 0;
        let mut body = raw.len();
        while at < raw.len() {
            let next = line_end(raw, at);
            let line = trim_line_break(&raw[at..next]);
            if line.is_empty() {
                body = next;
                break;
            }
            if !matches!(line[0], b' ' | b'\t') {
                push(&mut fields, raw, start.replace(at), at);
            }
            at = next;
        }
        push(&mut fields, raw, start, at);
        SignedMessage { fields, body: &raw[body..], relaxed: OnceLock::new(), simple: OnceLock::new() }
    }

    fn canonical_body(&self, form: Form) -> &[u8] {
        let cell = match form {
            Form::Relaxed => &self.relaxed,
            Form::Simple => &self.simple,
        };
        cell.get_or_init(|| canonical_body(self.body, form))
    }

    /// Returns the hash of the canonical body, or of its first `length` bytes; `None` if the body is shorter.
    pub(super) fn body_hash(&self, form: Form, length: Option<u64>) -> Option<[u8; 32]> {
        let body = self.canonical_body(form);
        let covered = match length {
            Some(length) => body.get(..usize::try_from(length).ok()?)?,
            None => body,
        };
        Some(Sha256::digest(covered).into())
    }

    /// Returns whether a signature over the first `length` bytes leaves some of the body uncovered.
    pub(super) fn has_more_than(&self, form: Form, length: u64) -> bool {
        self.canonical_body(form).len() as u64 > length
    }

    /// Returns the canonical form of the named fields, each name taking the lowest field not yet taken
    /// (RFC 6376 section 5.4.2); names without a field left add nothing, which is what oversigning relies on.
    pub(super) fn canonical_fields(&self, names: &[String], form: Form) -> Vec<u8> {
        let mut out = Vec::new();
        let mut next: Vec<(&str, usize)> = Vec::new();
        for name in names {
            let slot = match next.iter().position(|(known, _)| known.eq_ignore_ascii_case(name)) {
                Some(slot) => slot,
                None => {
                    next.push((name, self.fields.len()));
                    next.len() - 1
                }
            };
            let found = self.fields[..next[slot].1].iter().rposition(|field| field.is(name));
            next[slot].1 = found.unwrap_or(0);
            if let Some(index) = found {
                canonical_field(&mut out, self.fields[index], form);
            }
        }
        out
    }
}

fn push<'a>(fields: &mut Vec<RawField<'a>>, raw: &'a [u8], start: Option<usize>, end: usize) {
    let Some(start) = start else { return };
    let line = &raw[start..end];
    if let Some(colon) = line.iter().position(|byte| *byte == b':')
        && fields.len() < FIELDS_MAX
    {
        fields.push(RawField { name: &line[..colon], value: &line[colon + 1..] });
    }
}

/// A canonicalisation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    Relaxed,
    Simple,
}

impl Form {
    pub(super) fn parse(text: &str) -> Option<Self> {
        match text {
            "relaxed" => Some(Form::Relaxed),
            "simple" => Some(Form::Simple),
            _ => None,
        }
    }
}

/// Returns a body in canonical form (RFC 6376 sections 3.4.3 and 3.4.4). Lines without content at the end disappear;
/// in the relaxed form a line of white space has no content.
fn canonical_body(body: &[u8], form: Form) -> Vec<u8> {
    let mut out = Vec::with_capacity(body.len() + 2);
    let mut empty_lines = 0_usize;
    let mut at = 0;
    while at < body.len() {
        let next = line_end(body, at);
        let line = trim_line_break(&body[at..next]);
        at = next;
        let content = match form {
            Form::Simple => line,
            Form::Relaxed => &line[..line.iter().rposition(|byte| !is_wsp(*byte)).map_or(0, |last| last + 1)],
        };
        if content.is_empty() {
            empty_lines += 1;
            continue;
        }
        for _ in 0..std::mem::take(&mut empty_lines) {
            out.extend_from_slice(b"\r\n");
        }
        match form {
            Form::Simple => out.extend_from_slice(content),
            Form::Relaxed => collapse(&mut out, content),
        }
        out.extend_from_slice(b"\r\n");
    }
    if out.is_empty() && form == Form::Simple {
        out.extend_from_slice(b"\r\n");
    }
    out
}

fn is_wsp(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t')
}

/// Appends a line with every run of white space as one space.
fn collapse(out: &mut Vec<u8>, line: &[u8]) {
    let mut after_space = false;
    for byte in line {
        let space = is_wsp(*byte);
        if !(space && after_space) {
            out.push(if space { b' ' } else { *byte });
        }
        after_space = space;
    }
}

/// Appends a field in canonical form with its line break.
pub(super) fn canonical_field(out: &mut Vec<u8>, field: RawField<'_>, form: Form) {
    if form == Form::Simple {
        out.extend_from_slice(field.name);
        out.push(b':');
        out.extend_from_slice(trim_line_break(field.value));
    } else {
        out.extend(field.name.trim_ascii_end().to_ascii_lowercase());
        out.push(b':');
        let words =
            field.value.split(|byte| matches!(byte, b' ' | b'\t' | b'\r' | b'\n')).filter(|word| !word.is_empty());
        for (position, word) in words.enumerate() {
            if position > 0 {
                out.push(b' ');
            }
            out.extend_from_slice(word);
        }
    }
    out.extend_from_slice(b"\r\n");
}

/// Appends the signature's own field: its `b=` value empty, without the final line break (RFC 6376 section 3.7).
pub(super) fn canonical_signature(out: &mut Vec<u8>, field: RawField<'_>, form: Form) {
    let value = without_signature(field.value);
    canonical_field(out, RawField { name: field.name, value: &value }, form);
    out.truncate(out.len() - 2);
}

/// Removes the value of the `b` tag and nothing else.
fn without_signature(value: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(value.len());
    for (position, tag) in value.split(|byte| *byte == b';').enumerate() {
        if position > 0 {
            out.push(b';');
        }
        let equals = tag.iter().position(|byte| *byte == b'=');
        match equals.filter(|equals| tag[..*equals].trim_ascii() == b"b") {
            Some(equals) => out.extend_from_slice(&tag[..=equals]),
            None => out.extend_from_slice(tag),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_taken_from_the_bottom() {
        let message = SignedMessage::split(b"A: 1\r\nB : x \t y \r\n z\r\nA: 2\r\n\r\nbody");
        let names: Vec<String> = ["a", "b", "A", "a", "none"].map(str::to_owned).to_vec();
        let relaxed = message.canonical_fields(&names, Form::Relaxed);
        assert_eq!(String::from_utf8(relaxed).unwrap(), "a:2\r\nb:x y z\r\na:1\r\n");
        let simple = message.canonical_fields(&names[..2], Form::Simple);
        assert_eq!(String::from_utf8(simple).unwrap(), "A: 2\r\nB : x \t y \r\n z\r\n");
    }

    #[test]
    fn only_the_signature_value_is_removed() {
        assert_eq!(without_signature(b" a=1; b=AB=\r\n C; bh=x; h=b"), b" a=1; b=; bh=x; h=b");
        assert_eq!(without_signature(b"b = x"), b"b =");
    }

    #[test]
    fn bodies_have_canonical_forms() {
        let cases: &[(&[u8], Form, &[u8])] = &[
            (b"", Form::Simple, b"\r\n"),
            (b"", Form::Relaxed, b""),
            (b"\r\n\r\n", Form::Simple, b"\r\n"),
            (b"\r\n\r\n", Form::Relaxed, b""),
            (b" C \r\nD \t E\r\n\r\n\r\n", Form::Relaxed, b" C\r\nD E\r\n"),
            (b" C \r\nD \t E\r\n\r\n\r\n", Form::Simple, b" C \r\nD \t E\r\n"),
            (b" \r\n \r\n", Form::Relaxed, b""),
            (b" \r\n", Form::Simple, b" \r\n"),
            (b"a \r\n\r\n b\r\n\t\r\n", Form::Relaxed, b"a\r\n\r\n b\r\n"),
            (b"no end", Form::Simple, b"no end\r\n"),
            (b"no end \t", Form::Relaxed, b"no end\r\n"),
            (b"a\r\n\r\nb\r\n", Form::Relaxed, b"a\r\n\r\nb\r\n"),
        ];
        for (body, form, expected) in cases {
            let raw = [b"A: 1\r\n\r\n", *body].concat();
            let message = SignedMessage::split(&raw);
            assert_eq!(message.canonical_body(*form), *expected, "{body:?} {form:?}");
        }
    }
}
