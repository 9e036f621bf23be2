//! Which nodes of a document are seen, and which of those are quoted history.

use super::dom::{Data, Document, Node, Step};
use super::style::{self, Colour, Declared, Sheet};

/// Why a node is left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mark {
    /// It is part of the output.
    Shown,
    /// Nobody would see it.
    Hidden,
    /// It is quoted history.
    Quoted,
}

/// One mark per node.
pub(super) struct Marks {
    pub marks: Vec<Mark>,
    pub hidden_chars: usize,
    pub quotes_stripped: bool,
}

impl Marks {
    /// Marks everything as shown.
    pub(super) fn none(document: &Document) -> Self {
        Marks { marks: vec![Mark::Shown; document.nodes.len()], hidden_chars: 0, quotes_stripped: false }
    }

    pub(super) fn shown(&self, node: usize) -> bool {
        self.marks[node] == Mark::Shown
    }
}

/// What a node inherits from those around it.
#[derive(Clone)]
struct Seen {
    removed: bool,
    invisible: bool,
    tiny: bool,
    colour: Option<Colour>,
    /// `None` when something unknown lies behind the text.
    background: Option<Colour>,
    /// Never part of the text, and not worth counting: `<head>`, `<style>`, `<script>`.
    machinery: bool,
}

impl Seen {
    fn hides_text(&self) -> bool {
        let camouflaged = match (self.colour, self.background) {
            (Some(colour), Some(background)) => style::is_camouflaged(colour, background),
            _ => false,
        };
        self.removed || self.invisible || self.tiny || camouflaged
    }

    fn with(&self, declared: &Declared) -> Self {
        let mut seen = self.clone();
        seen.removed |= declared.removed == Some(true);
        seen.invisible = declared.invisible.unwrap_or(seen.invisible);
        seen.tiny = declared.tiny.unwrap_or(seen.tiny);
        seen.colour = declared.colour.or(seen.colour);
        seen.background = declared.background.unwrap_or(seen.background);
        seen
    }
}

/// Marks hidden nodes and, if asked, quoted ones. When leaving out the quotes would leave nothing, they stay.
pub(super) fn mark(document: &Document, strip_quotes: bool) -> Marks {
    let mut marks = Marks::none(document);
    hide(document, &mut marks);
    if strip_quotes {
        let without_quotes = quote(document, &marks);
        let remains = document.nodes.iter().zip(&without_quotes).any(|(node, mark)| {
            *mark == Mark::Shown
                && match &node.data {
                    Data::Text(text) => text.chars().any(|c| !c.is_whitespace()),
                    Data::Element { .. } => node.name() == "img",
                    _ => false,
                }
        });
        if remains {
            marks.quotes_stripped = without_quotes.contains(&Mark::Quoted);
            marks.marks = without_quotes;
        }
    }
    marks
}

fn hide(document: &Document, marks: &mut Marks) {
    let mut sheet = Sheet::default();
    for node in &document.nodes {
        if node.name() == "style" {
            let mut child = node.first;
            while let Some(index) = child {
                if let Data::Text(css) = &document.nodes[index].data {
                    sheet.add(css);
                }
                child = document.nodes[index].next;
            }
        }
    }
    let root = Seen {
        removed: false,
        invisible: false,
        tiny: false,
        colour: None,
        background: (!sheet.sets_unknown_background).then_some([255; 3]),
        machinery: false,
    };
    let mut stack = vec![root];
    document.walk(|step| {
        let Step::Enter(index) = step else {
            if let Step::Leave(index) = step
                && matches!(document.nodes[index].data, Data::Element { .. })
            {
                stack.pop();
            }
            return true;
        };
        let Some(around) = stack.last() else {
            return false;
        };
        match &document.nodes[index].data {
            Data::Element { attributes, .. } => {
                let name = document.nodes[index].name();
                let mut seen = around.with(&sheet.declared(name, attributes));
                seen.machinery |= style::is_never_shown(name);
                if seen.removed || seen.machinery || name == "img" && (seen.invisible || is_pixel(attributes)) {
                    marks.marks[index] = Mark::Hidden;
                }
                stack.push(seen);
            }
            Data::Text(text) => {
                if around.machinery || around.hides_text() {
                    marks.marks[index] = Mark::Hidden;
                    let counts = !around.machinery;
                    marks.hidden_chars += text.chars().filter(|c| counts && is_ink(*c)).count();
                }
            }
            Data::Nothing => marks.marks[index] = Mark::Hidden,
            Data::Document => {}
        }
        true
    });
}

fn is_ink(character: char) -> bool {
    !character.is_whitespace() && !crate::content::is_invisible(character)
}

/// A tracking pixel has no business in the text, whatever its `alt` says.
fn is_pixel(attributes: &[(String, String)]) -> bool {
    ["width", "height"].iter().all(|wanted| {
        let value = attributes.iter().find(|(key, _)| key == wanted).map(|(_, value)| value.trim());
        value.is_some_and(|value| matches!(value, "0" | "1" | "0px" | "1px"))
    })
}

/// Marks quoted history on top of what is hidden.
fn quote(document: &Document, hidden: &Marks) -> Vec<Mark> {
    let mut marks = hidden.marks.clone();
    let mut inside: Option<usize> = None;
    let mut rest = false;
    let mut text_seen = false;
    document.walk(|step| {
        match step {
            Step::Enter(index) => {
                let node = &document.nodes[index];
                if inside.is_none() && !rest {
                    match quoting(document, node) {
                        Quoting::This => inside = Some(index),
                        // With no text of one's own before it, this is a forwarded message: keep it.
                        Quoting::AllThatFollows if text_seen => rest = true,
                        _ => {}
                    }
                }
                if let Data::Text(text) = &node.data {
                    text_seen |= marks[index] == Mark::Shown && text.chars().any(|c| !c.is_whitespace());
                }
                // Elements that were open before the rest began hold text that stays.
                if (inside.is_some() || rest) && marks[index] == Mark::Shown {
                    marks[index] = Mark::Quoted;
                }
            }
            Step::Leave(index) => {
                if inside == Some(index) {
                    inside = None;
                }
            }
        }
        true
    });
    marks
}

enum Quoting {
    No,
    This,
    AllThatFollows,
}

fn quoting(document: &Document, node: &Node) -> Quoting {
    let name = node.name();
    if name.is_empty() {
        return Quoting::No;
    }
    let id = node.attribute("id").unwrap_or_default();
    if id.eq_ignore_ascii_case("divRplyFwdMsg") || id.eq_ignore_ascii_case("appendonsend") {
        return Quoting::AllThatFollows;
    }
    let cite = name == "blockquote" && node.attribute("type").is_some_and(|kind| kind.eq_ignore_ascii_case("cite"));
    let classes =
        ["gmail_quote", "yahoo_quoted", "moz-cite-prefix", "protonmail_quote", "tutanota_quote", "zmail_extra"];
    let classed = classes.iter().any(|class| node.has_class(class));
    if (cite || classed) && !is_forward(document, node) {
        return Quoting::This;
    }
    Quoting::No
}

/// Mailers wrap a forwarded message in the same markup as a reply's quote.
fn is_forward(document: &Document, node: &Node) -> bool {
    let mut start = String::new();
    let mut at = node.first;
    let mut budget = 40;
    let mut trail = Vec::new();
    while let (Some(index), true) = (at.or_else(|| trail.pop().flatten()), budget > 0) {
        budget -= 1;
        let child = &document.nodes[index];
        if let Data::Text(text) = &child.data {
            start.push_str(&text.chars().take(200).collect::<String>());
        }
        trail.push(child.next);
        at = child.first;
        if start.trim().len() > 60 {
            break;
        }
    }
    crate::content::is_forward_marker(start.trim_start())
}
