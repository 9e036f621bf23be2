//! The MIME structure of a message: which bytes are which part (RFC 2046 section 5.1).
//!
//! One pass over the lines with an explicit stack of open multiparts. Depth and number of parts are bounded here,
//! before any library sees a byte, so that no input makes later stages recurse deeply or run long. The contents of
//! a `message/rfc822` part are opaque: whoever wants to look inside parses its bytes anew.

use super::ParseLimits;
use super::decode::TransferEncoding;
use crate::header::{Block, BlockLimits, Parameterised, line_end, trim_line_break};

/// One entity. Offsets are into the raw message; the body ends before the line break that belongs to the boundary.
#[derive(Debug, Clone)]
pub(super) struct Part {
    pub parent: Option<usize>,
    pub depth: usize,
    pub header_start: usize,
    pub body_start: usize,
    pub end: usize,
    /// Lower case; what the part says, or the default of its context.
    pub content_type: String,
    /// Whether the part is listed but not looked into (too deep).
    pub opaque: bool,
    pub content: Parameterised,
    pub disposition: Parameterised,
    pub content_id: Option<String>,
    pub encoding: TransferEncoding,
    /// Whether this entity holds children.
    pub multipart: bool,
}

impl Part {
    pub(super) fn decode(&self, raw: &[u8]) -> Vec<u8> {
        self.encoding.decode(self.bytes(raw))
    }

    pub(super) fn bytes<'a>(&self, raw: &'a [u8]) -> &'a [u8] {
        raw.get(self.body_start..self.end).unwrap_or_default()
    }

    pub(super) fn is(&self, content_type: &str) -> bool {
        self.content_type == content_type
    }

    /// Returns the file name of the part, still untrusted.
    pub(super) fn file_name(&self) -> Option<&str> {
        self.disposition.get("filename").or_else(|| self.content.get("name"))
    }
}

#[derive(Debug)]
pub(super) struct Tree {
    /// In document order; the first is the message itself.
    pub parts: Vec<Part>,
    /// Whether parts were dropped or not looked into because of a limit.
    pub truncated: bool,
}

impl Tree {
    pub(super) fn children(&self, parent: usize) -> impl Iterator<Item = (usize, &Part)> {
        self.parts.iter().enumerate().filter(move |(_, part)| part.parent == Some(parent))
    }
}

struct Open {
    part: usize,
    boundary: Vec<u8>,
}

/// What the current line belongs to.
enum Mode {
    /// The header of the part with this index.
    Header(usize),
    /// The body of a leaf.
    Leaf(usize),
    /// Preamble or epilogue: nobody's text.
    Between,
}

struct Splitter<'a> {
    raw: &'a [u8],
    limits: &'a ParseLimits,
    tree: Tree,
    open: Vec<Open>,
    mode: Mode,
}

/// Splits a message into its parts.
pub(super) fn split(raw: &[u8], limits: &ParseLimits) -> Tree {
    let tree = Tree { parts: Vec::new(), truncated: false };
    let mut splitter = Splitter { raw, limits, tree, open: Vec::new(), mode: Mode::Between };
    splitter.begin(None, 0);
    let mut at = 0;
    let mut full = false;
    while at < raw.len() && !full {
        let next = line_end(raw, at);
        let line = trim_line_break(&raw[at..next]);
        match splitter.boundary(line) {
            Some((level, closing)) => full = !splitter.cross(level, closing, at, next),
            None => {
                if let (Mode::Header(part), true) = (&splitter.mode, line.is_empty()) {
                    splitter.end_header(*part, next);
                }
            }
        }
        at = next;
    }
    splitter.close(0, at.min(raw.len()));
    splitter.tree
}

impl Splitter<'_> {
    /// Starts an entity; `false` when no more parts are allowed.
    fn begin(&mut self, parent: Option<usize>, at: usize) -> bool {
        if self.tree.parts.len() >= self.limits.parts_max {
            self.tree.truncated = true;
            return false;
        }
        let depth = parent.map_or(0, |parent| self.tree.parts[parent].depth + 1);
        self.mode = Mode::Header(self.tree.parts.len());
        self.tree.parts.push(Part {
            parent,
            depth,
            header_start: at,
            body_start: self.raw.len(),
            end: self.raw.len(),
            content_type: String::new(),
            opaque: false,
            content: Parameterised::default(),
            disposition: Parameterised::default(),
            content_id: None,
            encoding: TransferEncoding::Identity,
            multipart: false,
        });
        true
    }

    /// Reads the finished header of a part and decides what its body is.
    fn end_header(&mut self, index: usize, body_start: usize) {
        let header_start = self.tree.parts[index].header_start;
        let limits = if index == 0 { self.limits.header() } else { PART_HEADER };
        let block = Block::scan(&self.raw[header_start..body_start], limits);
        let parsed = |name| block.first(name).map(|field| Parameterised::parse(&field.unfolded()));
        let content = parsed("Content-Type").unwrap_or_default();
        let encoding = block.first("Content-Transfer-Encoding").map(|field| field.text());
        let content_id = block.first("Content-ID").map(|field| field.text());
        let digest = self.tree.parts[index].parent.is_some_and(|parent| self.tree.parts[parent].is("multipart/digest"));
        let default = if digest { "message/rfc822" } else { "text/plain" };
        let part = &mut self.tree.parts[index];
        part.body_start = body_start;
        part.content_type = if content.value.contains('/') { content.value.clone() } else { default.to_owned() };
        part.content = content;
        part.disposition = parsed("Content-Disposition").unwrap_or_default();
        part.encoding = encoding.map_or(TransferEncoding::Identity, |label| TransferEncoding::from_label(&label));
        part.content_id = content_id.map(|id| bare_content_id(&id)).filter(|id| !id.is_empty());
        self.mode = Mode::Leaf(index);
        if part.content_type.starts_with("multipart/") {
            self.open_multipart(index, body_start);
        }
    }

    fn open_multipart(&mut self, index: usize, body_start: usize) {
        let part = &self.tree.parts[index];
        let declared = part.content.get("boundary").map(|boundary| boundary.trim_end().as_bytes().to_vec());
        let boundary = declared.filter(|boundary| !boundary.is_empty());
        if part.depth >= self.limits.depth_max {
            let part = &mut self.tree.parts[index];
            part.opaque = true;
            part.content_type = "application/octet-stream".to_owned();
            self.tree.truncated = true;
        } else if let Some(boundary) = boundary.or_else(|| guess_boundary(&self.raw[body_start..])) {
            self.tree.parts[index].multipart = true;
            self.open.push(Open { part: index, boundary });
            self.mode = Mode::Between;
        } else {
            self.tree.parts[index].content_type = "text/plain".to_owned();
        }
    }

    /// Returns the innermost open multipart whose boundary this line is, and whether it closes it.
    fn boundary(&self, line: &[u8]) -> Option<(usize, bool)> {
        let content = line.strip_prefix(b"--")?;
        let content = &content[..content.iter().rposition(|b| !matches!(b, b' ' | b'\t')).map_or(0, |last| last + 1)];
        self.open.iter().enumerate().rev().find_map(|(level, open)| {
            let rest = content.strip_prefix(open.boundary.as_slice())?;
            match rest {
                b"" => Some((level, false)),
                b"--" => Some((level, true)),
                _ => None,
            }
        })
    }

    /// Handles a boundary line; `false` when the limit of parts ends the work.
    fn cross(&mut self, level: usize, closing: bool, line_start: usize, next: usize) -> bool {
        self.close(level + 1, self.before_line_break(line_start));
        if closing {
            let parent = self.open.remove(level).part;
            self.tree.parts[parent].end = next;
            self.mode = Mode::Between;
            return true;
        }
        let parent = self.open[level].part;
        self.begin(Some(parent), next)
    }

    /// Ends the current entity and every multipart above `level`.
    fn close(&mut self, level: usize, end: usize) {
        match self.mode {
            Mode::Header(part) => {
                // A header without an empty line: the part has no body.
                self.end_header(part, end.max(self.tree.parts[part].header_start));
                self.open.retain(|open| open.part != part);
                if std::mem::take(&mut self.tree.parts[part].multipart) {
                    self.tree.parts[part].content_type = "text/plain".to_owned();
                }
                self.tree.parts[part].end = end.max(self.tree.parts[part].body_start);
            }
            Mode::Leaf(part) => self.tree.parts[part].end = end.max(self.tree.parts[part].body_start),
            Mode::Between => {}
        }
        while self.open.len() > level {
            let Some(open) = self.open.pop() else { break };
            let has_children = self.tree.parts.iter().skip(open.part).any(|part| part.parent == Some(open.part));
            let part = &mut self.tree.parts[open.part];
            part.end = end.max(part.body_start);
            if !has_children {
                // The announced boundary never came: everything is recovered as text.
                part.multipart = false;
                part.content_type = "text/plain".to_owned();
            }
        }
        self.mode = Mode::Between;
    }

    /// The line break before a boundary belongs to the boundary (RFC 2046 section 5.1.1).
    fn before_line_break(&self, line_start: usize) -> usize {
        trim_line_break(&self.raw[..line_start]).len()
    }
}

const PART_HEADER: BlockLimits = BlockLimits { fields_max: 100, bytes_max: 32 * 1024 };

fn bare_content_id(id: &str) -> String {
    id.trim().trim_matches(|character| matches!(character, '<' | '>')).chars().filter(|c| !c.is_control()).collect()
}

/// Lines searched for a delimiter when a multipart names no boundary.
const GUESS_LINES_MAX: usize = 50;

fn guess_boundary(body: &[u8]) -> Option<Vec<u8>> {
    let mut at = 0;
    for _ in 0..GUESS_LINES_MAX {
        if at >= body.len() {
            return None;
        }
        let next = line_end(body, at);
        let line = trim_line_break(&body[at..next]);
        let following = trim_line_break(&body[next..line_end(body, next)]);
        let header_follows = following.is_empty() || following.contains(&b':');
        if let Some(boundary) = line.strip_prefix(b"--")
            && boundary.len() >= 3
            && boundary.len() <= 200
            && header_follows
        {
            return Some(boundary.trim_ascii_end().to_vec());
        }
        at = next;
    }
    None
}
