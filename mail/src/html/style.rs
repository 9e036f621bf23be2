//! The small part of CSS that decides whether text is seen at all.
//!
//! Inline styles, presentational attributes and the simple rules of `<style>` blocks (one tag, class or id per
//! selector). Rules inside `@media` and selectors that need a cascade are not applied: hiding too little is the
//! milder error for formatting tricks that real newsletters use, and the colours they might set make us careful
//! instead (see [`Sheet::sets_unknown_background`]).

/// A colour as red, green, blue.
pub(super) type Colour = [u8; 3];

/// What one set of declarations says about visibility; `None` where it is silent.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Declared {
    /// `display: none`, `opacity: 0`, zero-size or off-screen boxes: nothing inside can undo it.
    pub removed: Option<bool>,
    /// `visibility`: inherited, a child may turn it back on.
    pub invisible: Option<bool>,
    /// A font size of nothing: inherited, a child may set a real one.
    pub tiny: Option<bool>,
    pub colour: Option<Colour>,
    /// A plain background colour; `Some(None)` when there is one that we cannot compute.
    pub background: Option<Option<Colour>>,
}

impl Declared {
    fn overlay(&mut self, above: &Declared) {
        self.removed = above.removed.or(self.removed);
        self.invisible = above.invisible.or(self.invisible);
        self.tiny = above.tiny.or(self.tiny);
        self.colour = above.colour.or(self.colour);
        self.background = above.background.or(self.background);
    }
}

/// Returns whether an element hides its content by itself, whatever surrounds it.
pub(super) fn hides_itself(name: &str, attributes: &[(String, String)]) -> bool {
    let declared = of_attributes(name, attributes);
    is_never_shown(name)
        || declared.removed == Some(true)
        || declared.invisible == Some(true)
        || declared.tiny == Some(true)
        || declared.colour.is_some()
}

/// Returns whether the content of these elements is never part of the visible text.
pub(super) fn is_never_shown(name: &str) -> bool {
    matches!(
        name,
        "head"
            | "title"
            | "style"
            | "script"
            | "template"
            | "iframe"
            | "noembed"
            | "noframes"
            | "object"
            | "applet"
            | "audio"
            | "video"
            | "canvas"
            | "svg"
            | "math"
            | "datalist"
            | "param"
    )
}

/// Returns what an element's own attributes declare.
pub(super) fn of_attributes(name: &str, attributes: &[(String, String)]) -> Declared {
    let mut declared = Declared::default();
    for (key, value) in attributes {
        match key.as_str() {
            "hidden" => declared.removed = Some(true),
            "bgcolor" => declared.background = Some(colour(value)),
            "background" => declared.background = Some(None),
            "color" if name == "font" => declared.colour = colour(value),
            "text" if name == "body" => declared.colour = colour(value),
            "open" if name == "dialog" => declared.removed = declared.removed.or(Some(false)),
            _ => {}
        }
    }
    if name == "dialog" && declared.removed.is_none() {
        declared.removed = Some(true);
    }
    if let Some((_, style)) = attributes.iter().find(|(key, _)| key == "style") {
        declared.overlay(&declarations(style));
    }
    declared
}

/// Reads a declaration list.
pub(super) fn declarations(style: &str) -> Declared {
    let mut declared = Declared::default();
    let mut zero_box = false;
    let mut clipped = false;
    let mut positioned = false;
    let mut far_away = false;
    let mut gone = false;
    let style = without_comments(style);
    for declaration in style.split(';') {
        let Some((property, value)) = declaration.split_once(':') else {
            continue;
        };
        let value = value.to_ascii_lowercase();
        let value = value.split('!').next().unwrap_or_default().trim();
        match property.trim().to_ascii_lowercase().as_str() {
            "display" => declared.removed = Some(value == "none"),
            "visibility" => declared.invisible = Some(matches!(value, "hidden" | "collapse")),
            "opacity" => gone |= number(value).is_some_and(|n| n <= 0.01),
            "font-size" => declared.tiny = font_size_tiny(value),
            "font" => declared.tiny = value.split_whitespace().find_map(|word| font_size_tiny(word.split('/').next()?)),
            "color" => declared.colour = colour(value),
            "background" | "background-color" => declared.background = background(value),
            "background-image" if value != "none" => declared.background = Some(None),
            "max-height" | "max-width" | "height" | "width" => zero_box |= is_nothing(value),
            "overflow" | "overflow-x" | "overflow-y" => clipped |= matches!(value, "hidden" | "clip"),
            "position" => positioned |= matches!(value, "absolute" | "fixed"),
            "left" | "top" | "right" | "bottom" => far_away |= number(value).is_some_and(|n| n <= -200.0),
            "text-indent" | "margin-left" | "margin-top" => gone |= number(value).is_some_and(|n| n <= -500.0),
            "clip" => gone |= compact(value).starts_with("rect(0"),
            "clip-path" => gone |= ["inset(50%", "inset(100%"].iter().any(|start| compact(value).starts_with(start)),
            "transform" => gone |= compact(value).contains("scale(0)"),
            _ => {}
        }
    }
    if gone || zero_box && clipped || positioned && far_away {
        declared.removed = Some(true);
    }
    declared
}

fn compact(value: &str) -> String {
    value.replace([' ', ','], "")
}

/// A length of at most one pixel.
fn is_nothing(value: &str) -> bool {
    let size = number(value);
    size == Some(0.0) || size.is_some_and(|size| size <= 1.0) && !value.ends_with('%') && !value.ends_with("em")
}

fn without_comments(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find("/*") {
        out.push_str(&rest[..start]);
        rest = rest[start + 2..].find("*/").map_or("", |end| &rest[start + 2 + end + 2..]);
    }
    out.push_str(rest);
    out
}

/// The number a value begins with, its unit ignored.
fn number(value: &str) -> Option<f32> {
    let end = value.find(|c: char| !(c.is_ascii_digit() || matches!(c, '.' | '-' | '+'))).unwrap_or(value.len());
    value[..end].parse().ok()
}

fn font_size_tiny(value: &str) -> Option<bool> {
    let size = number(value)?;
    let relative = value.ends_with('%') || value.ends_with("em") || value.ends_with("ex");
    match (relative, size) {
        (_, 0.0) => Some(true),
        // Relative sizes of nothing are nothing: they neither hide nor show.
        (true, _) => None,
        (false, size) => Some(size < 2.0),
    }
}

fn background(value: &str) -> Option<Option<Colour>> {
    if matches!(value, "none" | "transparent" | "inherit" | "initial" | "unset") {
        return None;
    }
    Some(value.split_whitespace().find_map(colour).filter(|_| !value.contains("url(") && !value.contains("gradient")))
}

fn colour(value: &str) -> Option<Colour> {
    let value = value.trim().to_ascii_lowercase();
    if let Some(inside) = value.strip_prefix("rgb(").or_else(|| value.strip_prefix("rgba(")) {
        let inside = inside.trim_end_matches(')');
        let mut parts = inside.split([',', ' ', '/']).filter(|part| !part.is_empty());
        let mut channel = || parts.next().and_then(|part| part.parse::<f32>().ok()).map(|n| n.clamp(0.0, 255.0) as u8);
        return Some([channel()?, channel()?, channel()?]);
    }
    const NAMES: [(&str, Colour); 12] = [
        ("white", [255; 3]),
        ("black", [0; 3]),
        ("red", [255, 0, 0]),
        ("green", [0, 128, 0]),
        ("blue", [0, 0, 255]),
        ("gray", [128; 3]),
        ("grey", [128; 3]),
        ("silver", [192; 3]),
        ("yellow", [255, 255, 0]),
        ("whitesmoke", [245; 3]),
        ("snow", [255, 250, 250]),
        ("ivory", [255, 255, 240]),
    ];
    if let Some((_, colour)) = NAMES.iter().find(|(name, _)| *name == value) {
        return Some(*colour);
    }
    let hex = value.strip_prefix('#').unwrap_or(&value);
    if !hex.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    let digit = |at: usize, width: usize| u8::from_str_radix(&hex[at..at + width], 16).ok();
    match hex.len() {
        3 | 4 => Some([digit(0, 1)? * 17, digit(1, 1)? * 17, digit(2, 1)? * 17]),
        6 | 8 => Some([digit(0, 2)?, digit(2, 2)?, digit(4, 2)?]),
        _ => None,
    }
}

/// Returns whether text of one colour cannot be told from its background.
pub(super) fn is_camouflaged(colour: Colour, background: Colour) -> bool {
    colour.iter().zip(background).all(|(one, other)| one.abs_diff(other) <= 6)
}

/// A selector of the simple kind: all that is given must match.
#[derive(Debug, Default)]
struct Selector {
    tag: Option<String>,
    id: Option<String>,
    class: Option<String>,
}

/// The rules of a document's `<style>` blocks.
#[derive(Debug, Default)]
pub(super) struct Sheet {
    rules: Vec<(Selector, Declared)>,
    /// Whether some rule sets a background for elements that we cannot tell.
    pub sets_unknown_background: bool,
}

/// Rules kept: each costs a comparison per element.
const RULES_MAX: usize = 400;

impl Sheet {
    /// Adds the text of one `<style>` element.
    pub(super) fn add(&mut self, css: &str) {
        let css = without_comments(css).replace("<!--", " ").replace("-->", " ");
        let mut rest = css.as_str();
        while let Some(open) = rest.find('{') {
            let prelude = rest[..open].rsplit([';', '}']).next().unwrap_or_default().trim();
            let body = &rest[open + 1..];
            if prelude.starts_with('@') {
                let end = block_end(body);
                self.sets_unknown_background |= body[..end].contains("background");
                rest = body.get(end + 1..).unwrap_or_default();
                continue;
            }
            let end = body.find('}').unwrap_or(body.len());
            self.rule(prelude, &declarations(&body[..end]));
            rest = body.get(end + 1..).unwrap_or_default();
        }
    }

    fn rule(&mut self, prelude: &str, declared: &Declared) {
        if *declared == Declared::default() {
            return;
        }
        for selector in prelude.split(',') {
            match simple(selector.trim()) {
                Some(selector) if self.rules.len() < RULES_MAX => self.rules.push((selector, declared.clone())),
                _ => self.sets_unknown_background |= declared.background.is_some(),
            }
        }
    }

    /// Returns what the sheet and the element's own attributes declare together.
    pub(super) fn declared(&self, name: &str, attributes: &[(String, String)]) -> Declared {
        let mut declared = Declared::default();
        if !self.rules.is_empty() {
            let find = |wanted: &str| attributes.iter().find(|(key, _)| key == wanted).map(|(_, value)| value.as_str());
            let (id, classes) = (find("id"), find("class").unwrap_or_default());
            for (selector, rule) in &self.rules {
                let matches = selector.tag.as_deref().is_none_or(|tag| tag == name)
                    && selector.id.as_deref().is_none_or(|wanted| id == Some(wanted))
                    && selector
                        .class
                        .as_deref()
                        .is_none_or(|wanted| classes.split_ascii_whitespace().any(|class| class == wanted));
                if matches {
                    declared.overlay(rule);
                }
            }
        }
        declared.overlay(&of_attributes(name, attributes));
        declared
    }
}

fn block_end(body: &str) -> usize {
    let mut depth = 1_usize;
    for (at, byte) in body.bytes().enumerate() {
        match byte {
            b'{' => depth += 1,
            b'}' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return at;
        }
    }
    body.len()
}

fn simple(selector: &str) -> Option<Selector> {
    let plain = |text: &str| !text.is_empty() && text.chars().all(|c| c.is_alphanumeric() || matches!(c, '-' | '_'));
    if let Some((tag, class)) = selector.split_once('.') {
        let tag_fine = tag.is_empty() || plain(tag);
        let tag = (!tag.is_empty()).then(|| tag.to_ascii_lowercase());
        return (tag_fine && plain(class)).then(|| Selector { tag, id: None, class: Some(class.to_owned()) });
    }
    if let Some((tag, id)) = selector.split_once('#') {
        let tag_fine = tag.is_empty() || plain(tag);
        let tag = (!tag.is_empty()).then(|| tag.to_ascii_lowercase());
        return (tag_fine && plain(id)).then(|| Selector { tag, id: Some(id.to_owned()), class: None });
    }
    plain(selector).then(|| Selector { tag: Some(selector.to_ascii_lowercase()), ..Selector::default() })
}
