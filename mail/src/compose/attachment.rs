//! Files of a draft: checked names, types and content ids (RFC 2045 §5.1, RFC 2183, RFC 2392).

use super::{Attachment, FieldError, Problem};
use crate::compose::check::{Faults, has_control};

const FILENAME_OCTETS_MAX: usize = 255;
const CONTENT_ID_OCTETS_MAX: usize = 200;
const MEDIA_TYPE_OCTETS_MAX: usize = 255;

/// A checked file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct File {
    pub filename: Option<String>,
    pub media_type: MediaType,
    pub content: Vec<u8>,
    pub content_id: Option<String>,
    pub inline: bool,
}

/// A media type and its parameters, each a token or a text without control characters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct MediaType {
    pub name: String,
    pub parameters: Vec<(String, String)>,
}

impl MediaType {
    fn binary() -> Self {
        Self { name: "application/octet-stream".to_owned(), parameters: Vec::new() }
    }

    /// Parses `type/subtype; name=value; name="value"`.
    fn parse(text: &str) -> Option<Self> {
        let mut pieces = split_parameters(text)?.into_iter();
        let name = pieces.next()?.trim().to_ascii_lowercase();
        let (kind, subtype) = name.split_once('/')?;
        if !is_token(kind) || !is_token(subtype) {
            return None;
        }
        let mut parameters = Vec::new();
        for piece in pieces {
            let piece = piece.trim();
            if piece.is_empty() {
                continue;
            }
            let (key, value) = piece.split_once('=')?;
            let (key, value) = (key.trim().to_ascii_lowercase(), value.trim());
            let value = match value.strip_prefix('"') {
                Some(rest) => rest.strip_suffix('"')?.replace("\\\"", "\"").replace("\\\\", "\\"),
                None if is_token(value) => value.to_owned(),
                None => return None,
            };
            let known = parameters.iter().any(|(other, _)| *other == key);
            // `boundary` would make a leaf look like a container; a name ending in `*` is the encoder's business.
            if !is_token(&key) || key == "boundary" || key.contains('*') || known {
                return None;
            }
            parameters.push((key, value));
        }
        Some(Self { name, parameters })
    }
}

/// Splits at semicolons outside quotes; nothing where a quote stays open.
fn split_parameters(text: &str) -> Option<Vec<&str>> {
    let (mut pieces, mut start, mut quoted, mut escaped) = (Vec::new(), 0, false, false);
    for (at, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            ';' if !quoted => {
                pieces.push(&text[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    pieces.push(&text[start..]);
    (!quoted).then_some(pieces)
}

fn is_token(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`{|}~".contains(&b))
}

/// Checks one file; `field` is its place in the draft.
pub(super) fn check(attachment: Attachment, field: &str, faults: &mut Faults) -> File {
    let filename = attachment.filename.map(|name| name.trim().to_owned()).filter(|name| !name.is_empty());
    if let Some(name) = &filename {
        check_filename(name, field, faults);
    }
    let content_id = attachment.content_id.as_deref().and_then(|id| check_content_id(id, field, faults));
    if attachment.inline && content_id.is_none() {
        faults.add(format!("{field}.content_id"), Problem::Required);
    }
    if !attachment.inline && filename.is_none() {
        faults.add(format!("{field}.filename"), Problem::Required);
    }
    let media_type = match &attachment.content_type {
        Some(given) => check_media_type(given, field).unwrap_or_else(|fault| {
            faults.push(fault);
            MediaType::binary()
        }),
        None => MediaType::binary(),
    };
    File { filename, media_type, content: attachment.content, content_id, inline: attachment.inline }
}

fn check_filename(name: &str, field: &str, faults: &mut Faults) {
    let field = format!("{field}.filename");
    if has_control(name) {
        faults.add(field, Problem::ControlCharacter);
    } else if name.len() > FILENAME_OCTETS_MAX {
        faults.add(field, Problem::TooLong { most: FILENAME_OCTETS_MAX, unit: "octets" });
    }
}

fn check_content_id(given: &str, field: &str, faults: &mut Faults) -> Option<String> {
    let id = given.strip_prefix('<').and_then(|rest| rest.strip_suffix('>')).unwrap_or(given);
    let fine = |b: u8| b.is_ascii_graphic() && !b"<>\"()\\,;:".contains(&b);
    if id.is_empty() || id.len() > CONTENT_ID_OCTETS_MAX || !id.bytes().all(fine) {
        let problem = if has_control(given) { Problem::ControlCharacter } else { Problem::MessageId };
        faults.add(format!("{field}.content_id"), problem);
        return None;
    }
    Some(id.to_owned())
}

fn check_media_type(given: &str, field: &str) -> Result<MediaType, FieldError> {
    let field = format!("{field}.content_type");
    if has_control(given) {
        return Err(FieldError { field, problem: Problem::ControlCharacter });
    }
    let parsed = MediaType::parse(given).filter(|_| given.len() <= MEDIA_TYPE_OCTETS_MAX && given.is_ascii());
    match parsed {
        Some(media_type) if !media_type.name.starts_with("multipart/") => {
            // A message may not be base64 (RFC 2046 §5.2.1), and everything attached here is.
            let message = media_type.name.starts_with("message/");
            Ok(if message { MediaType::binary() } else { media_type })
        }
        _ => Err(FieldError { field, problem: Problem::MediaType }),
    }
}
