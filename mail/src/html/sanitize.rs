//! HTML that is safe to show: the tree written out balanced and bounded, then passed through the allow list.

use std::borrow::Cow;
use std::collections::HashSet;

use super::dom::{DEPTH_MAX, Data, Document, Step, is_void};
use super::visible::Marks;

/// Whether images from elsewhere may load: loading one tells its sender that, when and where the mail was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RemoteImages {
    /// Their address is moved to `data-blocked-src`.
    Blocked,
    /// They keep their `src`.
    Allowed,
}

/// What a style may set: looks, and nothing that moves, hides or fetches.
const STYLE_PROPERTIES: [&str; 41] = [
    "background-color",
    "border",
    "border-bottom",
    "border-collapse",
    "border-color",
    "border-left",
    "border-radius",
    "border-right",
    "border-spacing",
    "border-style",
    "border-top",
    "border-width",
    "color",
    "display",
    "font-family",
    "font-size",
    "font-style",
    "font-weight",
    "height",
    "letter-spacing",
    "line-height",
    "list-style-type",
    "margin",
    "margin-bottom",
    "margin-left",
    "margin-right",
    "margin-top",
    "max-width",
    "min-width",
    "padding",
    "padding-bottom",
    "padding-left",
    "padding-right",
    "padding-top",
    "text-align",
    "text-decoration",
    "text-transform",
    "vertical-align",
    "white-space",
    "width",
    "word-break",
];

/// Writes the shown nodes and sanitises them.
pub(super) fn clean(document: &Document, marks: &Marks, images: RemoteImages) -> String {
    let html = serialize(document, marks, images);
    let mut builder = ammonia::Builder::default();
    builder
        .add_generic_attributes(["style", "dir"])
        .filter_style_properties(HashSet::from(STYLE_PROPERTIES))
        .add_tags(["font"])
        .add_tag_attributes("font", ["color", "face", "size"])
        .add_tag_attributes("img", ["data-blocked-src"])
        .add_tag_attributes("table", ["align", "bgcolor", "border", "cellpadding", "cellspacing", "width"])
        .add_tag_attributes("td", ["align", "bgcolor", "valign", "width", "height"])
        .add_tag_attributes("th", ["bgcolor", "valign", "width", "height"])
        .add_tag_attributes("tr", ["bgcolor", "valign"])
        .url_schemes(HashSet::from(["http", "https", "mailto", "tel", "cid", "data"]))
        .url_relative(ammonia::UrlRelative::Deny)
        .link_rel(Some("noopener noreferrer nofollow"))
        .attribute_filter(allowed_value);
    builder.clean(&html).to_string()
}

/// `data:` is for pictures only, and a style must not fetch anything.
fn allowed_value<'v>(element: &str, attribute: &str, value: &'v str) -> Option<Cow<'v, str>> {
    let lower = value.trim_start().to_ascii_lowercase();
    let refused = match (element, attribute) {
        ("img", "src") => lower.starts_with("data:") && !is_data_image(&lower),
        (_, "href" | "src" | "cite" | "longdesc") => lower.starts_with("data:") || lower.starts_with("cid:"),
        (_, "style") => lower.contains("url(") || lower.contains("expression(") || lower.contains('\\'),
        _ => false,
    };
    (!refused).then_some(Cow::Borrowed(value))
}

fn is_data_image(lower: &str) -> bool {
    ["data:image/png", "data:image/jpeg", "data:image/jpg", "data:image/gif", "data:image/webp", "data:image/bmp"]
        .iter()
        .any(|kind| lower.starts_with(kind))
}

fn serialize(document: &Document, marks: &Marks, images: RemoteImages) -> String {
    let mut out = String::new();
    let mut depth = 0_usize;
    let mut written: Vec<bool> = Vec::new();
    document.walk(|step| {
        let (index, entering) = match step {
            Step::Enter(index) => (index, true),
            Step::Leave(index) => (index, false),
        };
        let node = &document.nodes[index];
        match &node.data {
            Data::Element { attributes, .. } => {
                let name = node.name();
                let shown = marks.shown(index) && !super::style::is_never_shown(name);
                if entering {
                    // Deeper elements keep their text and lose their tags.
                    let write = shown && depth < DEPTH_MAX && is_plain_name(name);
                    written.push(write);
                    if write {
                        open(&mut out, name, attributes, images);
                        depth += usize::from(!is_void(name));
                    }
                    return shown;
                }
                if written.pop() == Some(true) && !is_void(name) {
                    depth -= 1;
                    out.push_str("</");
                    out.push_str(name);
                    out.push('>');
                }
            }
            Data::Text(text) if entering && marks.shown(index) => {
                let text: String = text.chars().filter(|c| !crate::content::is_invisible(*c)).collect();
                out.push_str(&escape(&text));
            }
            _ => {}
        }
        true
    });
    out
}

fn is_plain_name(name: &str) -> bool {
    !matches!(name, "html" | "body" | "plaintext" | "xmp" | "listing" | "noscript" | "textarea" | "select")
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric())
}

fn open(out: &mut String, name: &str, attributes: &[(String, String)], images: RemoteImages) {
    out.push('<');
    out.push_str(name);
    for (key, value) in attributes {
        if !key.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-') || key.starts_with("data-") {
            continue;
        }
        let lower = value.trim_start().to_ascii_lowercase();
        let local = lower.starts_with("cid:") || lower.starts_with("data:");
        let blocked = name == "img" && key == "src" && images == RemoteImages::Blocked && !local;
        let key = if blocked { "data-blocked-src" } else { key.as_str() };
        let value: String = value.chars().filter(|c| !crate::content::is_invisible(*c)).collect();
        out.push(' ');
        out.push_str(key);
        out.push_str("=\"");
        out.push_str(&escape(&value));
        out.push('"');
    }
    out.push('>');
}

/// Returns text with the characters that mean something in HTML escaped.
pub fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            other => out.push(other),
        }
    }
    out
}

/// Returns plain text as HTML: paragraphs at empty lines, `<br>` at line ends.
pub fn from_text(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + text.len() / 8 + 16);
    for paragraph in text.split("\n\n").map(|paragraph| paragraph.trim_matches('\n')).filter(|p| !p.is_empty()) {
        out.push_str("<p>");
        out.push_str(&escape(paragraph).replace('\n', "<br>\n"));
        out.push_str("</p>\n");
    }
    out
}
