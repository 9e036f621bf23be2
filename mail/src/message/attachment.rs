//! Attachments: what they claim to be, what they are, and their bytes.

use std::collections::HashSet;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::ParseLimits;
use super::bodies::Bodies;
use super::tree::{Part, Tree, split};

/// A part of a message that is not its body.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attachment {
    /// The number of the MIME part, stable for the same bytes and parser version.
    pub part_id: u32,
    /// The name to show: no control or direction characters, at most 255 bytes. Never a path.
    pub filename: Option<String>,
    /// The media type the sender declared.
    pub content_type: String,
    /// The media type the first bytes look like.
    pub sniffed_type: Option<String>,
    /// `attachment`, `inline` or what else the sender wrote.
    pub disposition: Option<String>,
    /// The `Content-ID` without brackets.
    pub content_id: Option<String>,
    /// Whether the body shows it (an image in the HTML, for instance).
    pub inline: bool,
    /// Decoded size; `None` beyond the limit of decoded bytes.
    pub size_bytes: Option<u64>,
    /// SHA-256 of the decoded bytes in hexadecimal; `None` beyond the limit of decoded bytes.
    pub sha256: Option<String>,
}

/// The decoded bytes of an attachment.
pub type AttachmentBytes = Vec<u8>;

/// Lists the attachments; the flag tells whether some were beyond the limit of decoded bytes.
pub(super) fn list(raw: &[u8], tree: &Tree, bodies: &Bodies, limits: &ParseLimits) -> (Vec<Attachment>, bool) {
    let mut decoded_total = 0_usize;
    let mut cut = false;
    let html = bodies.html.as_deref().filter(|_| !bodies.html_derived).unwrap_or_default();
    let shown = content_ids(html);
    let mut attachments = Vec::new();
    for (index, part) in tree.parts.iter().enumerate() {
        if part.multipart || bodies.parts.contains(&index) || index == 0 && part.bytes(raw).is_empty() {
            continue;
        }
        // The encoded size bounds the decoded one, so that nothing is decoded just to find it too large.
        decoded_total = decoded_total.saturating_add(part.bytes(raw).len());
        let content = (decoded_total <= limits.decoded_bytes_max).then(|| part.decode(raw));
        cut |= content.as_ref().is_none_or(|content| content.len() > limits.attachment_bytes_max);
        attachments.push(describe(index, part, content.as_deref(), &shown));
    }
    (attachments, cut)
}

/// The parts an HTML body refers to (RFC 2392).
fn content_ids(html: &str) -> HashSet<&str> {
    let end = |c: char| c.is_whitespace() || matches!(c, '"' | '\'' | '>' | ')' | '&' | '<');
    html.split("cid:").skip(1).map(|after| after.split(end).next().unwrap_or_default()).collect()
}

fn describe(index: usize, part: &Part, content: Option<&[u8]>, shown: &HashSet<&str>) -> Attachment {
    let shown_in_html = part.content_id.as_deref().is_some_and(|id| shown.contains(id));
    let disposition = Some(part.disposition.value.clone()).filter(|value| !value.is_empty());
    Attachment {
        part_id: u32::try_from(index).unwrap_or(u32::MAX),
        filename: part.file_name().and_then(sanitize_filename),
        content_type: media_type(&part.content_type),
        sniffed_type: content.and_then(infer::get).map(|kind| kind.mime_type().to_owned()),
        content_id: part.content_id.clone(),
        inline: shown_in_html || disposition.as_deref() == Some("inline"),
        disposition,
        size_bytes: content.map(|content| content.len() as u64),
        sha256: content.map(|content| hexadecimal(&Sha256::digest(content))),
    }
}

/// Only what RFC 6838 allows gets through: this value ends up in a response header.
fn media_type(declared: &str) -> String {
    let allowed =
        |c: char| c.is_ascii_alphanumeric() || matches!(c, '/' | '.' | '-' | '+' | '_' | '!' | '#' | '$' | '&' | '^');
    let fine = declared.len() <= 255
        && declared.chars().all(allowed)
        && declared.split('/').count() == 2
        && declared.split('/').all(|half| !half.is_empty());
    if fine { declared.to_owned() } else { "application/octet-stream".to_owned() }
}

fn hexadecimal(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut out, byte| {
        let _ = write!(out, "{byte:02x}");
        out
    })
}

/// The longest file name, in bytes.
const FILENAME_BYTES_MAX: usize = 255;

/// Returns an attachment name fit to be shown: without control, direction and invisible characters, cut to 255 bytes
/// with its extension kept. It may still contain slashes: it is a label, never a path.
pub fn sanitize_filename(name: &str) -> Option<String> {
    let (visible, _) = crate::content::strip_invisible(name);
    let visible: String = visible.chars().filter(|c| !c.is_control()).collect();
    let visible = visible.trim();
    if visible.is_empty() {
        return None;
    }
    if visible.len() <= FILENAME_BYTES_MAX {
        return Some(visible.to_owned());
    }
    let extension = visible.rfind('.').map(|dot| &visible[dot..]).filter(|extension| extension.len() <= 20);
    let extension = extension.unwrap_or_default();
    let stem = &visible[..visible.floor_char_boundary(FILENAME_BYTES_MAX - extension.len())];
    Some(format!("{stem}{extension}"))
}

/// Returns the decoded bytes of a part listed in [`super::ParsedMessage::attachments`].
///
/// `None` if there is no such part or it is larger than `attachment_bytes_max` when decoded.
pub fn attachment_bytes(raw: &[u8], part_id: u32, limits: &ParseLimits) -> Option<AttachmentBytes> {
    let raw = &*super::with_line_feeds(raw);
    let tree = split(raw, limits);
    let part = tree.parts.get(usize::try_from(part_id).ok()?).filter(|part| !part.multipart)?;
    let content = part.decode(raw);
    (content.len() <= limits.attachment_bytes_max).then_some(content)
}
