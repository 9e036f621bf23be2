//! SPF macros (RFC 7208 section 7).

use std::net::IpAddr;

/// Where a macro string stands: what it may contain depends on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// A domain-spec: it must end like a domain name.
    Domain,
    /// An unknown modifier: any macro string will do.
    Anywhere,
    /// The text of an explanation: spaces and the letters `c`, `r`, `t` are allowed too.
    Explanation,
}

/// A parsed macro string.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct MacroString {
    pieces: Vec<Piece>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece {
    Literal(String),
    Macro { letter: u8, escape: bool, keep: Option<usize>, reverse: bool, delimiters: String },
}

/// What macros stand for.
pub(super) struct Values<'a> {
    pub sender: &'a str,
    pub domain: &'a str,
    pub peer: IpAddr,
    pub helo: &'a str,
    /// The validated name of the peer, if it was looked up.
    pub peer_name: &'a str,
    pub receiver: &'a str,
    pub now: i64,
}

impl MacroString {
    /// Parses a macro string; `None` where the grammar forbids it.
    pub(super) fn parse(text: &str, place: Place) -> Option<Self> {
        let mut pieces: Vec<Piece> = Vec::new();
        let mut literal = String::new();
        let mut rest = text;
        while let Some(character) = rest.chars().next() {
            if character != '%' {
                let space = character == ' ' && place == Place::Explanation;
                if !(('\u{21}'..='\u{7e}').contains(&character) || space) {
                    return None;
                }
                literal.push(character);
                rest = &rest[1..];
                continue;
            }
            match rest.as_bytes().get(1)? {
                b'%' => literal.push('%'),
                b'_' => literal.push(' '),
                b'-' => literal.push_str("%20"),
                b'{' => {
                    let end = rest.find('}')?;
                    if !literal.is_empty() {
                        pieces.push(Piece::Literal(std::mem::take(&mut literal)));
                    }
                    pieces.push(macro_piece(&rest[2..end], place)?);
                    rest = &rest[end + 1..];
                    continue;
                }
                _ => return None,
            }
            rest = &rest[2..];
        }
        if !literal.is_empty() {
            pieces.push(Piece::Literal(literal));
        }
        if place == Place::Domain && !ends_like_a_domain(&pieces, text) {
            return None;
        }
        Some(MacroString { pieces })
    }

    /// Returns whether the peer's name is needed, which costs queries.
    pub(super) fn needs_peer_name(&self) -> bool {
        self.pieces.iter().any(|piece| matches!(piece, Piece::Macro { letter: b'p', .. }))
    }

    /// Replaces the macros by what they stand for.
    pub(super) fn expand(&self, values: &Values<'_>) -> String {
        let mut out = String::new();
        for piece in &self.pieces {
            match piece {
                Piece::Literal(text) => out.push_str(text),
                Piece::Macro { letter, escape, keep, reverse, delimiters } => {
                    let value = transform(&values.of(*letter), *keep, *reverse, delimiters);
                    if *escape { out.push_str(&url_escape(&value)) } else { out.push_str(&value) }
                }
            }
        }
        out
    }
}

fn macro_piece(body: &str, place: Place) -> Option<Piece> {
    let letter = *body.as_bytes().first()?;
    let lower = letter.to_ascii_lowercase();
    let known = b"slodiphv".contains(&lower) || place == Place::Explanation && b"crt".contains(&lower);
    if !known {
        return None;
    }
    let rest = &body[1..];
    let digits_end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
    let keep = match &rest[..digits_end] {
        "" => None,
        // More labels than a name can have are all of them.
        digits => Some(digits.parse::<usize>().unwrap_or(usize::MAX)).filter(|keep| *keep > 0).map(Some)?,
    };
    let rest = &rest[digits_end..];
    let (reverse, delimiters) = match rest.strip_prefix(['r', 'R']) {
        Some(delimiters) => (true, delimiters),
        None => (false, rest),
    };
    let fine = delimiters.chars().all(|c| matches!(c, '.' | '-' | '+' | ',' | '/' | '_' | '='));
    fine.then(|| Piece::Macro {
        letter: lower,
        escape: letter.is_ascii_uppercase(),
        keep,
        reverse,
        delimiters: if delimiters.is_empty() { ".".to_owned() } else { delimiters.to_owned() },
    })
}

/// `domain-end = ( "." toplabel [ "." ] ) / macro-expand`
fn ends_like_a_domain(pieces: &[Piece], text: &str) -> bool {
    match pieces.last() {
        None => false,
        Some(Piece::Macro { .. }) => true,
        Some(Piece::Literal(_)) if text.ends_with("%%") || text.ends_with("%_") || text.ends_with("%-") => true,
        Some(Piece::Literal(literal)) => {
            let name = literal.strip_suffix('.').unwrap_or(literal);
            name.rsplit_once('.').is_some_and(|(before, top)| {
                // ".example" right behind a macro is fine, alone it has no label before the top one.
                (!before.is_empty() || pieces.len() > 1) && is_top_label(top)
            })
        }
    }
}

/// Letters and digits with at least one letter, or with a hyphen inside.
fn is_top_label(label: &str) -> bool {
    let bytes = label.as_bytes();
    let edges =
        bytes.first().is_some_and(u8::is_ascii_alphanumeric) && bytes.last().is_some_and(u8::is_ascii_alphanumeric);
    edges
        && bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || *byte == b'-')
        && bytes.iter().any(|byte| byte.is_ascii_alphabetic() || *byte == b'-')
}

impl Values<'_> {
    fn of(&self, letter: u8) -> String {
        let (local, sender_domain) = self.sender.rsplit_once('@').unwrap_or(("postmaster", self.sender));
        match letter {
            b's' => self.sender.to_owned(),
            b'l' => local.to_owned(),
            b'o' => sender_domain.to_owned(),
            b'd' => self.domain.to_owned(),
            b'i' => match self.peer {
                IpAddr::V4(address) => address.to_string(),
                IpAddr::V6(address) => {
                    let nibbles = address.octets().into_iter().flat_map(|octet| [octet >> 4, octet & 15]);
                    nibbles.map(|nibble| format!("{nibble:X}")).collect::<Vec<_>>().join(".")
                }
            },
            b'p' => self.peer_name.to_owned(),
            b'v' => if self.peer.is_ipv4() { "in-addr" } else { "ip6" }.to_owned(),
            b'h' => self.helo.to_owned(),
            b'c' => self.peer.to_string(),
            b'r' => self.receiver.to_owned(),
            b't' => self.now.to_string(),
            _ => String::new(),
        }
    }
}

fn transform(value: &str, keep: Option<usize>, reverse: bool, delimiters: &str) -> String {
    let mut parts: Vec<&str> = value.split(|c| delimiters.contains(c)).collect();
    if reverse {
        parts.reverse();
    }
    let skip = keep.map_or(0, |keep| parts.len().saturating_sub(keep));
    parts[skip..].join(".")
}

/// Escapes everything but the unreserved characters (RFC 3986 section 2.3).
fn url_escape(value: &str) -> String {
    let mut out = String::new();
    for byte in value.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}
