//! HTML bodies: the text a person would see, and HTML that is safe to show (WHATWG HTML; RFC 2046 section 4.1).
//!
//! Input is cut to a number of bytes and parsed into a bounded tree (depth, attributes, nodes); everything after that
//! is iterative. The visible text leaves out what CSS hides, so that a reader who is a program sees no more than one
//! who looks at the screen. Sanitised HTML always comes out of the allow list of `ammonia` as the last step.

mod attributes;
mod dom;
mod render;
mod sanitize;
mod style;
mod visible;

pub use sanitize::{RemoteImages, escape, from_text};

use crate::content::Link;
use dom::Document;

/// Bytes of HTML given to the text converter.
pub const TEXT_BYTES_MAX: usize = 512 * 1024;
/// Bytes of HTML given to the sanitiser.
pub const SANITIZE_BYTES_MAX: usize = 2 * 1024 * 1024;
/// Links kept from one document.
const LINKS_MAX: usize = 1000;

/// What to make of a document.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RenderOptions {
    /// Leave out quoted history that the markup marks as such.
    pub strip_quotes: bool,
    /// Also return sanitised HTML of the same content.
    pub include_html: bool,
}

/// A document as a reader sees it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rendered {
    /// The visible text; quoted blocks are prefixed with `> `.
    pub text: String,
    /// The same content as sanitised HTML with remote images blocked, if asked for.
    pub html: Option<String>,
    /// Targets of the visible `http`, `https` and `mailto` links, each once, in order.
    pub links: Vec<Link>,
    /// Characters (white space not counted) that were left out because nobody would see them.
    pub hidden_chars: usize,
    /// Whether quoted history was left out.
    pub quotes_stripped: bool,
    /// Whether a limit cut the document.
    pub truncated: bool,
}

/// Renders a document.
pub fn render(html: &str, options: RenderOptions) -> Rendered {
    let limit = if options.include_html { SANITIZE_BYTES_MAX } else { TEXT_BYTES_MAX };
    let (html, cut) = cut(html, limit);
    let document = Document::parse(html);
    let marks = visible::mark(&document, options.strip_quotes);
    let (text, links) = render::text(&document, &marks);
    let (text, text_cut) = clip(text, TEXT_BYTES_MAX);
    Rendered {
        html: options.include_html.then(|| sanitize::clean(&document, &marks, RemoteImages::Blocked)),
        text,
        links,
        hidden_chars: marks.hidden_chars,
        quotes_stripped: marks.quotes_stripped,
        truncated: cut || text_cut || document.truncated,
    }
}

/// Returns the visible text of a document, quotes included, and whether a limit cut it.
pub fn visible_text(html: &str) -> (String, bool) {
    let rendered = render(html, RenderOptions { strip_quotes: false, include_html: false });
    (rendered.text, rendered.truncated)
}

/// Returns the whole document as sanitised HTML for display, and whether a limit cut it.
///
/// Show it in a sandboxed frame all the same: no scripts, no forms, `default-src 'none'`.
pub fn sanitize(html: &str, images: RemoteImages) -> (String, bool) {
    let (html, cut) = cut(html, SANITIZE_BYTES_MAX);
    let document = Document::parse(html);
    let marks = visible::Marks::none(&document);
    (sanitize::clean(&document, &marks, images), cut || document.truncated)
}

/// Cuts at a tag boundary, so that no half tag turns into text.
fn cut(html: &str, bytes_max: usize) -> (&str, bool) {
    if html.len() <= bytes_max {
        return (html, false);
    }
    let end = html.floor_char_boundary(bytes_max);
    let open = html[..end].rfind('<');
    let closed = html[..end].rfind('>');
    let end = match (open, closed) {
        (Some(open), Some(closed)) if open > closed => open,
        (Some(open), None) => open,
        _ => end,
    };
    (&html[..end], true)
}

fn clip(mut text: String, bytes_max: usize) -> (String, bool) {
    let cut = text.len() > bytes_max;
    if cut {
        text.truncate(text.floor_char_boundary(bytes_max));
    }
    (text, cut)
}
