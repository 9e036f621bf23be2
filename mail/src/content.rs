//! What an agent gets to read: the new text of a message, without history, signature and anything invisible.
//!
//! The rule in doubt is to keep more, not less; the full body stays available through [`raw_body`]. Text that comes
//! out of [`clean`] holds no zero-width, tag or bidirectional control characters, is never longer than what went in,
//! and cleaning it again changes nothing.

mod characters;
mod codes;
mod language;
mod quotes;
mod signature;

use serde::{Deserialize, Serialize};

use crate::html::{self, RenderOptions};
use crate::message::ParsedMessage;

pub use characters::{Counts, is_invisible, strip_invisible};
pub use codes::{ActionLink, Code, Link};
pub(crate) use language::is_forward_marker;

/// Which body to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ContentPart {
    /// The text part if the sender wrote one, else the HTML.
    #[default]
    Auto,
    /// The text part, derived from HTML if there is none.
    Text,
    /// The HTML part; its visible text and itself.
    Html,
}

/// The format of the body that was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ContentFormat {
    /// `text/plain`.
    Text,
    /// `text/html`.
    Html,
}

/// How to clean.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// Which body to read.
    pub part: ContentPart,
    /// Leave out the signature.
    pub strip_signature: bool,
    /// Leave out quoted history.
    pub strip_quotes: bool,
    /// List the links.
    pub include_links: bool,
    /// Return sanitised HTML when the message has any.
    pub include_html: bool,
    /// The longest text and the longest HTML returned, in characters.
    pub max_body_chars: usize,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            part: ContentPart::Auto,
            strip_signature: true,
            strip_quotes: true,
            include_links: true,
            include_html: false,
            max_body_chars: BODY_CHARS_DEFAULT,
        }
    }
}

/// Characters of body returned when the caller names no limit.
pub const BODY_CHARS_DEFAULT: usize = 100_000;
/// The largest limit a caller may name.
pub const BODY_CHARS_MAX: usize = 1_000_000;

/// Signs that the sender tried to show a program something else than a person.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Suspicious {
    /// Characters hidden by style in the HTML.
    pub hidden_text: usize,
    /// Zero-width characters.
    pub zero_width: usize,
    /// Unicode tag characters, which can spell invisible instructions.
    pub tag_chars: usize,
    /// Bidirectional controls, which can make text read differently than it is.
    pub bidi: usize,
}

/// The cleaned content of a message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Content {
    /// The text.
    pub text: Option<String>,
    /// Sanitised HTML with remote images blocked, if it was asked for and the message has HTML.
    pub html: Option<String>,
    /// The format of the body that was read; `None` for a message without a body.
    pub format: Option<ContentFormat>,
    /// The links of the text, each once, in order.
    pub extracted_links: Vec<String>,
    /// Whether text or HTML were cut at `truncated_at_chars`.
    pub is_truncated: bool,
    /// Where they were cut, in characters.
    pub truncated_at_chars: Option<usize>,
    /// Whether quoted history was left out.
    pub quotes_stripped: bool,
    /// Whether a signature was left out.
    pub signature_stripped: bool,
    /// Signs of deception.
    pub suspicious: Suspicious,
    /// One-time codes, with the text around them.
    pub codes: Vec<Code>,
    /// Links that confirm, verify or sign in, with the text around them.
    pub action_links: Vec<ActionLink>,
}

/// Returns the content of a message for a reader who is a program.
pub fn clean(parsed: &ParsedMessage, options: &Options) -> Content {
    let written_text = parsed.text.as_deref().filter(|text| !parsed.text_derived && !text.trim().is_empty());
    let written_html = parsed.html.as_deref().filter(|_| !parsed.html_derived);
    let use_html = match options.part {
        ContentPart::Auto | ContentPart::Text => written_text.is_none() && written_html.is_some(),
        ContentPart::Html => written_html.is_some(),
    };
    let forward = is_forward(parsed);
    let include_html = options.include_html || options.part == ContentPart::Html;
    let strip_quotes = options.strip_quotes && !forward;
    let rendered = written_html.map(|html| html::render(html, RenderOptions { strip_quotes, include_html }));
    let body = match (&rendered, written_text) {
        (Some(rendered), _) if use_html => Some(rendered.text.as_str()),
        (_, text) => text,
    };
    let cleaned = clean_text(body.unwrap_or_default(), strip_quotes, options.strip_signature);
    let found = rendered.as_ref().filter(|_| use_html).map(|rendered| rendered.links.clone());
    let links = found.unwrap_or_else(|| codes::links(&cleaned.text));
    let (text, text_cut) = truncate(&cleaned.text, options.max_body_chars);
    let html = rendered.as_ref().and_then(|rendered| rendered.html.as_deref());
    let html = html.map(|html| truncate_html(html, options.max_body_chars));
    let html_cut = html.as_ref().is_some_and(|(_, cut)| *cut);
    let limit_cut = use_html && rendered.as_ref().is_some_and(|rendered| rendered.truncated) || parsed.body_truncated;
    Content {
        format: match (body, use_html) {
            (None, _) => None,
            (Some(_), true) => Some(ContentFormat::Html),
            (Some(_), false) => Some(ContentFormat::Text),
        },
        codes: codes::codes(&text),
        action_links: codes::action_links(&text, &links),
        extracted_links: if options.include_links {
            links.into_iter().map(|link| link.url).collect()
        } else {
            Vec::new()
        },
        is_truncated: text_cut || html_cut || limit_cut,
        truncated_at_chars: (text_cut || html_cut).then_some(options.max_body_chars),
        quotes_stripped: cleaned.quotes_stripped
            || use_html && rendered.as_ref().is_some_and(|rendered| rendered.quotes_stripped),
        signature_stripped: cleaned.signature_stripped,
        suspicious: suspicious(written_text, rendered.as_ref()),
        text: body.map(|_| text),
        html: html.map(|(html, _)| html),
    }
}

fn is_forward(parsed: &ParsedMessage) -> bool {
    parsed.subject.as_deref().is_some_and(language::has_forward_prefix)
}

fn suspicious(text: Option<&str>, rendered: Option<&html::Rendered>) -> Suspicious {
    let in_text = text.map(|text| strip_invisible(text).1).unwrap_or_default();
    let in_html = rendered.map(|rendered| strip_invisible(&rendered.text).1).unwrap_or_default();
    Suspicious {
        hidden_text: rendered.map_or(0, |rendered| rendered.hidden_chars),
        // Both parts usually say the same: the larger count is the honest one, a sum would count twice.
        zero_width: in_text.zero_width.max(in_html.zero_width),
        tag_chars: in_text.tag_chars.max(in_html.tag_chars),
        bidi: in_text.bidi.max(in_html.bidi),
    }
}

/// Text after cleaning.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CleanText {
    /// What is left.
    pub text: String,
    /// Whether quoted history was left out.
    pub quotes_stripped: bool,
    /// Whether a signature was left out.
    pub signature_stripped: bool,
}

/// Passes over a text until nothing changes: a signature may hide that a quote is the last thing, and vice versa.
const PASSES_MAX: usize = 64;

/// Returns plain text without invisible characters and, if asked, without quoted history and signature.
pub fn clean_text(text: &str, strip_quotes: bool, strip_signature: bool) -> CleanText {
    let mut result =
        CleanText { text: tidy(&strip_invisible(text).0), quotes_stripped: false, signature_stripped: false };
    for _ in 0..PASSES_MAX {
        let mut lines: Vec<&str> = result.text.split('\n').collect();
        let before = lines.len();
        if strip_quotes {
            lines = quotes::strip(lines);
        }
        let after_quotes = lines.len();
        if strip_signature {
            lines = signature::strip(lines);
        }
        result.quotes_stripped |= after_quotes < before;
        result.signature_stripped |= lines.len() < after_quotes;
        if lines.len() == before {
            break;
        }
        result.text = tidy(&lines.join("\n"));
    }
    result
}

/// Removes line ends' white space, empty lines around the text, and runs of more than two empty lines.
fn tidy(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut empty = 0_usize;
    for line in text.split('\n') {
        // The signature separator is the one line whose final space means something.
        let line = if line == "-- " { line } else { line.trim_end() };
        if line.is_empty() {
            empty += 1;
            continue;
        }
        if !out.is_empty() {
            out.extend(std::iter::repeat_n('\n', empty.min(2) + 1));
        }
        empty = 0;
        out.push_str(line);
    }
    out
}

fn truncate(text: &str, chars_max: usize) -> (String, bool) {
    match text.char_indices().nth(chars_max) {
        Some((end, _)) => (text[..end].to_owned(), true),
        None => (text.to_owned(), false),
    }
}

fn truncate_html(html: &str, chars_max: usize) -> (String, bool) {
    let (mut cut, truncated) = truncate(html, chars_max);
    if truncated && let Some(open) = cut.rfind('<').filter(|open| cut.rfind('>').is_none_or(|closed| closed < *open)) {
        cut.truncate(open);
    }
    (cut, truncated)
}

/// Which body to return as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RawPart {
    /// The text body only.
    Text,
    /// The HTML body only.
    Html,
    /// Both.
    #[default]
    Both,
}

/// A body as it was sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RawBody {
    /// The HTML, not sanitised.
    pub html: Option<String>,
    /// The text.
    pub text: Option<String>,
    /// Whether one of them was cut.
    pub is_truncated: bool,
    /// Where, in characters.
    pub truncated_at_chars: Option<usize>,
}

/// Returns the bodies without any cleaning, each cut at `max_body_chars` characters.
pub fn raw_body(parsed: &ParsedMessage, part: RawPart, max_body_chars: usize) -> RawBody {
    let wanted = |wanted: bool, body: &Option<String>| {
        body.as_deref().filter(|_| wanted).map(|body| truncate(body, max_body_chars))
    };
    let text = wanted(part != RawPart::Html, &parsed.text);
    let html = wanted(part != RawPart::Text, &parsed.html);
    let cut = [&text, &html].into_iter().flatten().any(|(_, cut)| *cut);
    RawBody {
        is_truncated: cut || parsed.body_truncated,
        truncated_at_chars: cut.then_some(max_body_chars),
        text: text.map(|(text, _)| text),
        html: html.map(|(html, _)| html),
    }
}
