//! A bounded document tree built by html5ever (WHATWG HTML, section 13.2).
//!
//! The real tree builder is used because only it knows what a browser would show: which end tag closes what, which
//! formatting element comes back. What it lacks are limits, so a guard stands between tokenizer and tree builder:
//! it caps depth, open formatting elements, attributes and nodes, which are the four ways to make it quadratic.

use std::borrow::Cow;
use std::cell::{Cell, RefCell};

use super::attributes::limit_attributes;
use html5ever::interface::{ElemName, ElementFlags, NodeOrText, QuirksMode, TreeSink};
use html5ever::tendril::StrTendril;
use html5ever::tokenizer::{
    BufferQueue, EndTag, StartTag, Tag, Token, TokenSink, TokenSinkResult, Tokenizer, TokenizerOpts,
};
use html5ever::tree_builder::{TreeBuilder, TreeBuilderOpts};
use html5ever::{Attribute, LocalName, Namespace, QualName};

/// Deepest element kept; deeper ones are flattened into it.
pub(super) const DEPTH_MAX: usize = 256;
/// Attributes kept on one element.
const ATTRIBUTES_MAX: usize = 256;
/// Formatting elements (`b`, `font`, …) that may be open at once: the tree builder re-creates all of them per block.
const FORMATTING_MAX: usize = 64;
/// Nodes in one document.
const NODES_MAX: usize = 200_000;

/// What a node is.
#[derive(Debug)]
pub(super) enum Data {
    Document,
    Element {
        name: QualName,
        attributes: Vec<(String, String)>,
    },
    Text(String),
    /// Comments, processing instructions: never shown.
    Nothing,
}

/// A node and its neighbours, by index.
#[derive(Debug)]
pub(super) struct Node {
    pub data: Data,
    pub parent: Option<usize>,
    pub first: Option<usize>,
    pub last: Option<usize>,
    pub previous: Option<usize>,
    pub next: Option<usize>,
    depth: usize,
}

impl Node {
    /// Returns the element's local name, or an empty string.
    pub(super) fn name(&self) -> &str {
        if let Data::Element { name, .. } = &self.data { &name.local } else { "" }
    }

    /// Returns an attribute of an element.
    pub(super) fn attribute(&self, wanted: &str) -> Option<&str> {
        let Data::Element { attributes, .. } = &self.data else {
            return None;
        };
        attributes.iter().find(|(name, _)| name == wanted).map(|(_, value)| value.as_str())
    }

    pub(super) fn has_class(&self, wanted: &str) -> bool {
        self.attribute("class").is_some_and(|classes| classes.split_ascii_whitespace().any(|class| class == wanted))
    }
}

/// A parsed document. Node 0 is the document.
pub(super) struct Document {
    pub nodes: Vec<Node>,
    /// Whether a limit cut something.
    pub truncated: bool,
}

/// One step of a walk over the tree.
pub(super) enum Step {
    Enter(usize),
    Leave(usize),
}

impl Document {
    pub(super) fn parse(html: &str) -> Self {
        let sink = Arena::default();
        sink.node(Data::Document);
        let options = TreeBuilderOpts { scripting_enabled: false, drop_doctype: true, ..TreeBuilderOpts::default() };
        let guard = Guard {
            builder: TreeBuilder::new(sink, options),
            formatting: Cell::new(0),
            overflow: RefCell::new(Vec::new()),
            silenced: Cell::new(false),
            truncated: Cell::new(false),
        };
        let tokenizer = Tokenizer::new(guard, TokenizerOpts::default());
        let input = BufferQueue::default();
        input.push_back(StrTendril::from(limit_attributes(html, ATTRIBUTES_MAX).as_ref()));
        // `feed` stops at every script so that a browser could run it; we only go on.
        while !input.is_empty() {
            let _ = tokenizer.feed(&input);
        }
        tokenizer.end();
        let truncated = tokenizer.sink.truncated.get();
        Document { nodes: tokenizer.sink.builder.sink.nodes.into_inner(), truncated }
    }

    /// Walks in document order without recursion. `visit` returns whether to enter the node's children.
    pub(super) fn walk(&self, mut visit: impl FnMut(Step) -> bool) {
        let mut at = 0;
        loop {
            let enter = visit(Step::Enter(at));
            if let (true, Some(child)) = (enter, self.nodes[at].first) {
                at = child;
                continue;
            }
            loop {
                visit(Step::Leave(at));
                if at == 0 {
                    return;
                }
                if let Some(next) = self.nodes[at].next {
                    at = next;
                    break;
                }
                match self.nodes[at].parent {
                    Some(parent) => at = parent,
                    None => return,
                }
            }
        }
    }
}

/// Stands between tokenizer and tree builder and holds back what would make the tree too large.
struct Guard {
    builder: TreeBuilder<usize, Arena>,
    formatting: Cell<usize>,
    /// Names of the elements left out because the tree is too deep already.
    overflow: RefCell<Vec<LocalName>>,
    /// Whether one of those elements hides its content: text is then left out too, to be on the safe side.
    silenced: Cell<bool>,
    truncated: Cell<bool>,
}

impl Guard {
    fn is_full(&self) -> bool {
        self.builder.sink.nodes.borrow().len() >= NODES_MAX
    }

    fn is_deep(&self, tag: &Tag) -> bool {
        self.builder.sink.depth.get() >= DEPTH_MAX
            || is_formatting(&tag.name) && self.formatting.get() >= FORMATTING_MAX
    }

    /// Returns whether the tree builder gets to see this tag.
    fn admits(&self, tag: &Tag) -> bool {
        let mut overflow = self.overflow.borrow_mut();
        match tag.kind {
            StartTag if is_void(&tag.name) => true,
            StartTag => {
                if overflow.is_empty() && !self.is_deep(tag) {
                    if is_formatting(&tag.name) {
                        self.formatting.set(self.formatting.get() + 1);
                    }
                    return true;
                }
                self.truncated.set(true);
                let attributes = plain_attributes(&tag.attrs);
                if super::style::hides_itself(&tag.name, &attributes) {
                    self.silenced.set(true);
                }
                if overflow.len() < NODES_MAX {
                    overflow.push(tag.name.clone());
                }
                false
            }
            EndTag => {
                let near = overflow.len().saturating_sub(32);
                if let Some(found) = overflow[near..].iter().rposition(|name| *name == tag.name) {
                    overflow.truncate(near + found);
                    if overflow.is_empty() {
                        self.silenced.set(false);
                    }
                    return false;
                }
                overflow.clear();
                self.silenced.set(false);
                if is_formatting(&tag.name) {
                    self.formatting.set(self.formatting.get().saturating_sub(1));
                }
                true
            }
        }
    }
}

impl TokenSink for Guard {
    type Handle = usize;

    fn process_token(&self, token: Token, line: u64) -> TokenSinkResult<usize> {
        let admitted = match &token {
            Token::EOFToken => true,
            _ if self.is_full() => {
                self.truncated.set(true);
                false
            }
            Token::TagToken(tag) => self.admits(tag),
            Token::CharacterTokens(_) => !self.silenced.get(),
            _ => true,
        };
        if admitted { self.builder.process_token(token, line) } else { TokenSinkResult::Continue }
    }

    fn end(&self) {
        self.builder.end();
    }

    fn adjusted_current_node_present_but_not_in_html_namespace(&self) -> bool {
        self.builder.adjusted_current_node_present_but_not_in_html_namespace()
    }
}

fn is_formatting(name: &str) -> bool {
    matches!(
        name,
        "a" | "b" | "big" | "code" | "em" | "font" | "i" | "nobr" | "s" | "small" | "strike" | "strong" | "tt" | "u"
    )
}

pub(super) fn is_void(name: &str) -> bool {
    matches!(
        name,
        "area"
            | "base"
            | "br"
            | "col"
            | "embed"
            | "hr"
            | "img"
            | "input"
            | "link"
            | "meta"
            | "source"
            | "track"
            | "wbr"
    )
}

fn plain_attributes(attributes: &[Attribute]) -> Vec<(String, String)> {
    attributes.iter().map(|a| (a.name.local.to_string(), a.value.to_string())).collect()
}

/// The tree sink: nodes in a vector, linked by index.
#[derive(Default)]
struct Arena {
    nodes: RefCell<Vec<Node>>,
    /// Depth of the element inserted last.
    depth: Cell<usize>,
}

impl Arena {
    fn node(&self, data: Data) -> usize {
        let mut nodes = self.nodes.borrow_mut();
        nodes.push(Node { data, parent: None, first: None, last: None, previous: None, next: None, depth: 0 });
        nodes.len() - 1
    }

    fn detach(&self, target: usize) {
        let mut nodes = self.nodes.borrow_mut();
        let (parent, previous, next) = (nodes[target].parent, nodes[target].previous, nodes[target].next);
        match (previous, parent) {
            (Some(previous), _) => nodes[previous].next = next,
            (None, Some(parent)) => nodes[parent].first = next,
            _ => {}
        }
        match (next, parent) {
            (Some(next), _) => nodes[next].previous = previous,
            (None, Some(parent)) => nodes[parent].last = previous,
            _ => {}
        }
        let node = &mut nodes[target];
        (node.parent, node.previous, node.next) = (None, None, None);
    }

    /// Links a detached node under `parent`, before `before` or at the end.
    fn link(&self, parent: usize, child: usize, before: Option<usize>) {
        let mut nodes = self.nodes.borrow_mut();
        let previous = before.map_or(nodes[parent].last, |before| nodes[before].previous);
        let depth = nodes[parent].depth + 1;
        let node = &mut nodes[child];
        (node.parent, node.previous, node.next, node.depth) = (Some(parent), previous, before, depth);
        if matches!(node.data, Data::Element { .. }) {
            self.depth.set(depth);
        }
        match previous {
            Some(previous) => nodes[previous].next = Some(child),
            None => nodes[parent].first = Some(child),
        }
        match before {
            Some(before) => nodes[before].previous = Some(child),
            None => nodes[parent].last = Some(child),
        }
    }

    fn insert(&self, parent: usize, child: NodeOrText<usize>, before: Option<usize>) {
        let child = match child {
            NodeOrText::AppendNode(node) => {
                self.detach(node);
                node
            }
            NodeOrText::AppendText(text) => {
                let mut nodes = self.nodes.borrow_mut();
                let neighbour = before.map_or(nodes[parent].last, |before| nodes[before].previous);
                if let Some(Data::Text(existing)) = neighbour.map(|index| &mut nodes[index].data) {
                    existing.push_str(&text);
                    return;
                }
                drop(nodes);
                self.node(Data::Text(text.to_string()))
            }
        };
        self.link(parent, child, before);
    }
}

/// An owned element name: the arena is behind a `RefCell`, so it cannot lend one.
#[derive(Debug)]
struct Name(QualName);

impl ElemName for Name {
    fn ns(&self) -> &Namespace {
        &self.0.ns
    }

    fn local_name(&self) -> &LocalName {
        &self.0.local
    }
}

impl TreeSink for Arena {
    type Handle = usize;
    type Output = Self;
    type ElemName<'a> = Name;

    fn finish(self) -> Self {
        self
    }

    fn parse_error(&self, _message: Cow<'static, str>) {}

    fn get_document(&self) -> usize {
        0
    }

    fn elem_name(&self, target: &usize) -> Name {
        match &self.nodes.borrow()[*target].data {
            Data::Element { name, .. } => Name(name.clone()),
            _ => Name(QualName::new(None, Namespace::default(), LocalName::default())),
        }
    }

    fn create_element(&self, name: QualName, attributes: Vec<Attribute>, _flags: ElementFlags) -> usize {
        self.node(Data::Element { name, attributes: plain_attributes(&attributes) })
    }

    fn create_comment(&self, _text: StrTendril) -> usize {
        self.node(Data::Nothing)
    }

    fn create_pi(&self, _target: StrTendril, _data: StrTendril) -> usize {
        self.node(Data::Nothing)
    }

    fn append(&self, parent: &usize, child: NodeOrText<usize>) {
        self.insert(*parent, child, None);
    }

    fn append_based_on_parent_node(&self, element: &usize, previous: &usize, child: NodeOrText<usize>) {
        let parent = self.nodes.borrow()[*element].parent;
        match parent {
            Some(parent) => self.insert(parent, child, Some(*element)),
            None => self.insert(*previous, child, None),
        }
    }

    fn append_doctype_to_document(&self, _name: StrTendril, _public: StrTendril, _system: StrTendril) {}

    /// The contents of a template are never shown; they are kept under the element itself, which is hidden.
    fn get_template_contents(&self, target: &usize) -> usize {
        *target
    }

    fn same_node(&self, one: &usize, other: &usize) -> bool {
        one == other
    }

    fn set_quirks_mode(&self, _mode: QuirksMode) {}

    fn append_before_sibling(&self, sibling: &usize, child: NodeOrText<usize>) {
        let parent = self.nodes.borrow()[*sibling].parent;
        if let Some(parent) = parent {
            self.insert(parent, child, Some(*sibling));
        }
    }

    fn add_attrs_if_missing(&self, target: &usize, attributes: Vec<Attribute>) {
        if let Data::Element { attributes: own, .. } = &mut self.nodes.borrow_mut()[*target].data {
            for (name, value) in plain_attributes(&attributes) {
                if own.len() < ATTRIBUTES_MAX && !own.iter().any(|(existing, _)| *existing == name) {
                    own.push((name, value));
                }
            }
        }
    }

    fn remove_from_parent(&self, target: &usize) {
        self.detach(*target);
    }

    fn reparent_children(&self, node: &usize, new_parent: &usize) {
        loop {
            let Some(child) = self.nodes.borrow()[*node].first else {
                break;
            };
            self.detach(child);
            self.link(*new_parent, child, None);
        }
    }
}
