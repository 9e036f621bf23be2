//! HTML bodies: what comes out of the cleaner is read again by another parser, and holds nothing that acts.

use html5ever::tendril::TendrilSink as _;
use html5ever::{ParseOpts, parse_document};
use mail::html::{RemoteImages, RenderOptions, TEXT_BYTES_MAX, render, sanitize, visible_text};
use markup5ever_rcdom::{Handle, NodeData, RcDom};

use crate::input::{assert_text, bit, steered};

/// Elements that a reader may be shown. What is not listed here must never come out, whatever the cleaner's own list says.
const ELEMENTS: &[&str] = &[
    "a",
    "abbr",
    "acronym",
    "area",
    "article",
    "aside",
    "b",
    "bdi",
    "bdo",
    "blockquote",
    "br",
    "caption",
    "center",
    "cite",
    "code",
    "col",
    "colgroup",
    "data",
    "dd",
    "del",
    "details",
    "dfn",
    "div",
    "dl",
    "dt",
    "em",
    "figcaption",
    "figure",
    "font",
    "footer",
    "h1",
    "h2",
    "h3",
    "h4",
    "h5",
    "h6",
    "header",
    "hgroup",
    "hr",
    "i",
    "img",
    "ins",
    "kbd",
    "li",
    "map",
    "mark",
    "nav",
    "ol",
    "p",
    "pre",
    "q",
    "rp",
    "rt",
    "rtc",
    "ruby",
    "s",
    "samp",
    "small",
    "span",
    "strike",
    "strong",
    "sub",
    "summary",
    "sup",
    "table",
    "tbody",
    "td",
    "th",
    "thead",
    "time",
    "tr",
    "tt",
    "u",
    "ul",
    "var",
    "wbr",
    // The parser's own, around what it was given.
    "html",
    "head",
    "body",
    "tfoot",
];

/// Whether images may load from elsewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Images {
    Blocked,
    Allowed,
}

pub fn run(data: &[u8]) {
    let (steer, input) = steered(data);
    let html = String::from_utf8_lossy(input);
    let (shown, _) = sanitize(&html, RemoteImages::Blocked);
    assert_harmless(&shown, Images::Blocked);
    let (shown, _) = sanitize(&html, RemoteImages::Allowed);
    assert_harmless(&shown, Images::Allowed);
    // Whoever cleans what was cleaned sees no more than before: no second reading brings out what the first hid.
    let (again, _) = sanitize(&shown, RemoteImages::Allowed);
    assert_harmless(&again, Images::Allowed);
    assert_eq!(visible_text(&again).0.trim(), visible_text(&shown).0.trim(), "cleaning twice changes what is read");
    let options = RenderOptions { strip_quotes: bit(steer, 0), include_html: true };
    let rendered = render(&html, options);
    assert_text("the text", &rendered.text);
    assert!(rendered.text.len() <= TEXT_BYTES_MAX && rendered.links.len() <= 1000);
    assert_harmless(rendered.html.as_deref().unwrap_or_default(), Images::Blocked);
    for link in &rendered.links {
        let scheme = link.url.split(':').next().unwrap_or_default().to_ascii_lowercase();
        assert!(matches!(scheme.as_str(), "http" | "https" | "mailto"), "a link to {:?}", link.url);
    }
}

/// Asserts that a browser that is given this HTML runs nothing, asks for nothing it should not, and sends nothing.
pub fn assert_harmless(html: &str, images: Images) {
    assert_text("the HTML", html);
    // Twice: once as a page, and once inside of one, where the reader shows it.
    for page in [html.to_owned(), format!("<!doctype html><table><tr><td>{html}</td></tr></table>")] {
        let dom = parse_document(RcDom::default(), ParseOpts::default()).one(page.as_str());
        let mut waiting: Vec<Handle> = vec![dom.document.clone()];
        while let Some(node) = waiting.pop() {
            if let NodeData::Element { name, attrs, .. } = &node.data {
                let element = name.local.as_ref();
                assert!(name.ns == html5ever::ns!(html), "<{element}> of another language in {html:?}");
                assert!(ELEMENTS.contains(&element), "<{element}> in {html:?}");
                for attribute in attrs.borrow().iter() {
                    assert_attribute(element, &attribute.name.local, &attribute.value, images);
                }
            }
            assert!(
                !matches!(node.data, NodeData::Comment { .. } | NodeData::ProcessingInstruction { .. }),
                "{html:?}"
            );
            waiting.extend(node.children.borrow().iter().cloned());
        }
    }
}

fn assert_attribute(element: &str, name: &str, value: &str, images: Images) {
    let what = format!("{name}={value:?} of <{element}>");
    assert!(!name.starts_with("on"), "{what} acts");
    let fetches =
        ["srcset", "srcdoc", "action", "formaction", "background", "poster", "ping", "xlink:href", "data", "usemap"];
    assert!(!fetches.contains(&name) && !name.contains(':'), "{what} fetches");
    // Browsers leave out white space and control characters before they look at the scheme.
    let bare: String = value.chars().filter(|c| !c.is_control() && !c.is_whitespace()).collect();
    let bare = bare.to_ascii_lowercase();
    if matches!(name, "href" | "src" | "cite" | "longdesc") {
        let scheme = bare.split(':').next().unwrap_or_default();
        let allowed = match (element, name) {
            ("img", "src") => matches!(scheme, "cid" | "data") || images == Images::Allowed,
            _ => matches!(scheme, "http" | "https" | "mailto" | "tel"),
        };
        assert!(allowed && bare.contains(':'), "{what} leads where it must not");
        assert!(scheme != "data" || bare.starts_with("data:image/"), "{what} is no picture");
        assert!(!bare.starts_with("data:image/svg"), "{what} is a picture that acts");
    }
    if name == "style" {
        let fetching = ["url(", "expression", "@import", "javascript", "behavior", "-moz-binding", "position"];
        assert!(fetching.iter().all(|word| !bare.contains(word)), "{what} fetches or hides");
    }
}
