//! Which parts are the body, and what they say (after the algorithm of RFC 8621 section 4.1.4).

use super::ParseLimits;
use super::flowed::unflow;
use super::tree::{Part, Tree};
use crate::header::decode_charset;
use crate::html;

/// The bodies of a message and the parts they were made of.
pub(super) struct Bodies {
    pub text: Option<String>,
    pub text_derived: bool,
    pub html: Option<String>,
    pub html_derived: bool,
    /// Indices of the text parts that are body and therefore not attachments.
    pub parts: Vec<usize>,
    pub encrypted: bool,
    pub truncated: bool,
}

/// Chooses and decodes the bodies; a missing text or HTML is derived from the other.
pub(super) fn select(raw: &[u8], tree: &Tree, limits: &ParseLimits) -> Bodies {
    let mut choice = Choice::default();
    choice.consider(tree, &[0], "mixed", false, true, true);
    let encrypted = tree.parts.iter().any(is_encrypted);
    let mut reader = Reader { raw, tree, limits, truncated: false };
    let text = reader.text(&choice.text);
    let html = reader.html(&choice.html);
    let has_html = choice.html.iter().any(|index| tree.parts[*index].is("text/html"));
    let has_text = choice.text.iter().any(|index| tree.parts[*index].is("text/plain"));
    let truncated = reader.truncated;
    let mut parts: Vec<usize> = choice.text.iter().chain(&choice.html).copied().collect();
    parts.sort_unstable();
    parts.dedup();
    parts.retain(|index| tree.parts[*index].content_type.starts_with("text/"));
    let inline_pgp = text.as_deref().is_some_and(|text| text.trim_start().starts_with("-----BEGIN PGP MESSAGE-----"));
    Bodies {
        text_derived: text.is_some() && !has_text,
        html_derived: html.is_some() && !has_html,
        text,
        html,
        parts,
        encrypted: encrypted || inline_pgp,
        truncated,
    }
}

/// PGP/MIME (RFC 3156) and S/MIME (RFC 8551), whose content nobody here can read.
fn is_encrypted(part: &Part) -> bool {
    let smime = part.is("application/pkcs7-mime") || part.is("application/x-pkcs7-mime");
    let signed_only = part.content.get("smime-type").is_some_and(|kind| kind.eq_ignore_ascii_case("signed-data"));
    part.is("multipart/encrypted") || part.is("application/pgp-encrypted") || smime && !signed_only
}

#[derive(Default)]
struct Choice {
    text: Vec<usize>,
    html: Vec<usize>,
}

impl Choice {
    /// Goes through siblings; as deep as the tree, whose depth is bounded.
    fn consider(
        &mut self,
        tree: &Tree,
        siblings: &[usize],
        kind: &str,
        alternative: bool,
        mut text: bool,
        mut html: bool,
    ) {
        let (texts_before, htmls_before) = (self.text.len(), self.html.len());
        for (position, &index) in siblings.iter().enumerate() {
            let part = &tree.parts[index];
            if part.multipart {
                let children: Vec<usize> = tree.children(index).map(|(child, _)| child).collect();
                let inner = part.content_type.trim_start_matches("multipart/").to_owned();
                let in_alternative = alternative || inner == "alternative";
                if inner != "encrypted" {
                    self.consider(tree, &children, &inner, in_alternative, text, html);
                }
                continue;
            }
            if !is_inline(part, kind, position) {
                continue;
            }
            if kind == "alternative" {
                match part.content_type.as_str() {
                    "text/plain" if text => self.text.push(index),
                    "text/html" if html => self.html.push(index),
                    _ => {}
                }
                continue;
            }
            if alternative {
                html &= !part.is("text/plain");
                text &= !part.is("text/html");
            }
            if text {
                self.text.push(index);
            }
            if html {
                self.html.push(index);
            }
        }
        if kind == "alternative" && text && html {
            if self.text.len() == texts_before && self.html.len() > htmls_before {
                self.text.extend_from_slice(&self.html[htmls_before..]);
            } else if self.html.len() == htmls_before && self.text.len() > texts_before {
                self.html.extend_from_slice(&self.text[texts_before..]);
            }
        }
    }
}

fn is_inline(part: &Part, kind: &str, position: usize) -> bool {
    let shown = part.is("text/plain") || part.is("text/html");
    shown
        && !part.opaque
        && part.disposition.value != "attachment"
        && (position == 0 || kind != "related" && part.file_name().is_none())
}

struct Reader<'a> {
    raw: &'a [u8],
    tree: &'a Tree,
    limits: &'a ParseLimits,
    truncated: bool,
}

impl Reader<'_> {
    fn text(&mut self, parts: &[usize]) -> Option<String> {
        self.join(parts, |reader, index| {
            let part = &reader.tree.parts[index];
            if part.is("text/html") {
                let (text, cut) = html::visible_text(&reader.decoded(part));
                reader.truncated |= cut;
                return text;
            }
            let text = reader.decoded(part);
            let flowed = part.content.get("format").is_some_and(|format| format.eq_ignore_ascii_case("flowed"));
            let delete = part.content.get("delsp").is_some_and(|delete| delete.eq_ignore_ascii_case("yes"));
            if flowed { unflow(&text, delete) } else { text }
        })
    }

    fn html(&mut self, parts: &[usize]) -> Option<String> {
        self.join(parts, |reader, index| {
            let part = &reader.tree.parts[index];
            if part.is("text/html") {
                return reader.decoded(part);
            }
            html::from_text(&reader.text(&[index]).unwrap_or_default())
        })
    }

    fn join(&mut self, parts: &[usize], read: impl Fn(&mut Self, usize) -> String) -> Option<String> {
        let mut joined: Option<String> = None;
        for index in parts {
            let next = read(self, *index);
            let body = joined.get_or_insert_default();
            if !body.is_empty() && !next.is_empty() && !body.ends_with('\n') {
                body.push('\n');
            }
            body.push_str(&next);
            if body.len() > self.limits.body_bytes_max {
                body.truncate(body.floor_char_boundary(self.limits.body_bytes_max));
                self.truncated = true;
                break;
            }
        }
        joined
    }

    /// Returns a part as text: transfer encoding and charset undone, LF line ends, no NUL, no stray controls.
    fn decoded(&mut self, part: &Part) -> String {
        // Decoded bytes may grow by a factor of three as UTF-8, hence the cut before and after.
        let mut bytes = part.decode(self.raw);
        if bytes.len() > self.limits.body_bytes_max {
            bytes.truncate(self.limits.body_bytes_max);
            self.truncated = true;
        }
        let declared = part.content.get("charset");
        let inside = declared.is_none() && part.is("text/html");
        let label = if inside { meta_charset(&bytes) } else { declared.map(str::to_owned) };
        plain(&decode_charset(label.as_deref(), &bytes))
    }
}

/// The charset an HTML document names itself, looked for where browsers look (its first kilobyte).
fn meta_charset(bytes: &[u8]) -> Option<String> {
    let head = String::from_utf8_lossy(&bytes[..bytes.len().min(1024)]).to_ascii_lowercase();
    let after = &head[head.find("charset=")? + "charset=".len()..];
    let label: String = after
        .trim_start_matches(['"', '\''])
        .chars()
        .take_while(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_'))
        .collect();
    // A document that was found by its ASCII-compatible `charset=` cannot be UTF-16.
    (!label.is_empty() && !label.starts_with("utf-16")).then_some(label)
}

fn plain(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    loop {
        // Runs of plain ASCII are copied whole: most mail is little else.
        let run = rest.bytes().position(|byte| !matches!(byte, b' '..=b'~' | b'\n' | b'\t')).unwrap_or(rest.len());
        out.push_str(&rest[..run]);
        let mut characters = rest[run..].chars();
        let Some(character) = characters.next() else {
            return out;
        };
        rest = characters.as_str();
        match character {
            '\r' if rest.starts_with('\n') => {}
            '\r' | '\u{c}' => out.push('\n'),
            '\u{feff}' if out.is_empty() => {}
            _ if character.is_control() => {}
            _ => out.push(character),
        }
    }
}
