//! The visible part of a document as plain text.

use super::LINKS_MAX;
use super::dom::{Data, Document, Step};
use super::visible::Marks;
use crate::content::Link;

/// Returns the text and the link targets.
pub(super) fn text(document: &Document, marks: &Marks) -> (String, Vec<Link>) {
    let mut out = Out::default();
    let mut links = Links::default();
    let mut lists: Vec<Option<u32>> = Vec::new();
    let mut preformatted = 0_usize;
    document.walk(|step| {
        let (index, entering) = match step {
            Step::Enter(index) => (index, true),
            Step::Leave(index) => (index, false),
        };
        let node = &document.nodes[index];
        if !marks.shown(index) {
            return false;
        }
        if let (Data::Text(text), true) = (&node.data, entering) {
            out.text(text, preformatted > 0);
        }
        let name = node.name();
        if name.is_empty() {
            return true;
        }
        let gap = gap(name);
        if gap > 0 {
            out.line_break(gap);
        }
        match (name, entering) {
            ("br", true) => out.hard_break(),
            ("td" | "th", true) => out.space(),
            ("pre" | "textarea", true) => preformatted += 1,
            ("pre" | "textarea", false) => preformatted = preformatted.saturating_sub(1),
            ("blockquote", true) => out.quote_depth += 1,
            ("blockquote", false) => out.quote_depth = out.quote_depth.saturating_sub(1),
            ("ul" | "menu", true) => lists.push(None),
            ("ol", true) => lists.push(Some(0)),
            ("ul" | "menu" | "ol", false) => {
                lists.pop();
            }
            ("li", true) => match lists.last_mut() {
                Some(Some(number)) => {
                    *number = number.saturating_add(1);
                    let item = format!("{number}. ");
                    out.text(&item, true);
                }
                _ => out.text("- ", true),
            },
            ("img", true) => {
                if let Some(alt) = node.attribute("alt").map(str::trim).filter(|alt| !alt.is_empty()) {
                    out.text(alt, false);
                }
            }
            ("a" | "area", true) => links.open(node.attribute("href"), out.text.len()),
            ("a" | "area", false) => links.close(&out.text),
            _ => {}
        }
        true
    });
    (out.finish(), links.found)
}

/// Line breaks around an element: 2 leaves an empty line.
fn gap(name: &str) -> usize {
    match name {
        "p" | "h1" | "h2" | "h3" | "h4" | "h5" | "h6" | "blockquote" | "pre" => 2,
        "address" | "article" | "aside" | "body" | "center" | "dd" | "details" | "dialog" | "div" | "dl" | "dt"
        | "fieldset" | "figcaption" | "figure" | "footer" | "form" | "header" | "hr" | "html" | "legend" | "li"
        | "main" | "menu" | "nav" | "ol" | "section" | "summary" | "table" | "caption" | "tbody" | "thead"
        | "tfoot" | "tr" | "ul" | "textarea" | "option" => 1,
        _ => 0,
    }
}

/// Collapses white space the way CSS does and owes line breaks until there is text to separate.
#[derive(Default)]
struct Out {
    text: String,
    /// Breaks owed before the next text.
    breaks: usize,
    space: bool,
    quote_depth: usize,
}

impl Out {
    fn text(&mut self, text: &str, preformatted: bool) {
        for character in text.chars() {
            match character {
                '\n' if preformatted => self.hard_break(),
                '\r' => {}
                // A soft hyphen is a place to break a line, not a character.
                '\u{ad}' => {}
                character if character.is_whitespace() && (!preformatted || character != ' ') => self.space(),
                character => self.character(character),
            }
        }
    }

    fn character(&mut self, character: char) {
        if !self.text.is_empty() {
            for _ in 0..self.breaks.min(2) {
                self.text.push('\n');
            }
        }
        if self.breaks > 0 || self.text.is_empty() {
            if self.quote_depth > 0 {
                self.text.push_str("> ");
            }
        } else if self.space {
            self.text.push(' ');
        }
        (self.breaks, self.space) = (0, false);
        self.text.push(character);
    }

    fn space(&mut self) {
        self.space = true;
    }

    fn line_break(&mut self, at_least: usize) {
        self.breaks = self.breaks.max(at_least);
        self.space = false;
    }

    fn hard_break(&mut self) {
        self.breaks += 1;
        self.space = false;
    }

    fn finish(self) -> String {
        self.text
    }
}

#[derive(Default)]
struct Links {
    found: Vec<Link>,
    known: std::collections::HashSet<String>,
    /// Index of the link that is open and where its words begin in the text.
    words_from: Option<(usize, usize)>,
}

/// The longest words kept of one link, in characters.
const WORDS_CHARS_MAX: usize = 200;

impl Links {
    fn open(&mut self, href: Option<&str>, text_length: usize) {
        let Some(href) = href.map(str::trim) else {
            return;
        };
        let scheme = href.split(':').next().unwrap_or_default().to_ascii_lowercase();
        if !matches!(scheme.as_str(), "http" | "https" | "mailto") || self.found.len() >= LINKS_MAX {
            return;
        }
        let href: String = href.chars().filter(|c| !c.is_control() && !crate::content::is_invisible(*c)).collect();
        if self.known.insert(href.clone()) {
            self.words_from = Some((self.found.len(), text_length));
            self.found.push(Link { url: href, words: String::new() });
        }
    }

    fn close(&mut self, text: &str) {
        if let Some((link, from)) = self.words_from.take() {
            let words = text[from..].split_whitespace().collect::<Vec<_>>().join(" ");
            self.found[link].words = words.chars().take(WORDS_CHARS_MAX).collect();
        }
    }
}
