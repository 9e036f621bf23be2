//! Characters that take no room on the screen but do in a prompt (Unicode 16, chapters 23.2 to 23.9).

/// How many invisible characters of each kind a text held.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Joiners, zero-width spaces, fillers, supplementary variation selectors.
    pub zero_width: usize,
    /// U+E0000 to U+E007F.
    pub tag_chars: usize,
    /// Embeddings, overrides, isolates and marks of direction.
    pub bidi: usize,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    ZeroWidth,
    Tag,
    Bidi,
    /// Removed, but of no significance: the selectors that choose between a coloured and a plain emoji.
    Presentation,
}

fn kind(character: char) -> Option<Kind> {
    match character {
        '\u{fe00}'..='\u{fe0f}' => Some(Kind::Presentation),
        '\u{e0000}'..='\u{e007f}' => Some(Kind::Tag),
        '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => Some(Kind::Bidi),
        '\u{ad}'
        | '\u{34f}'
        | '\u{115f}'
        | '\u{1160}'
        | '\u{17b4}'
        | '\u{17b5}'
        | '\u{180b}'..='\u{180f}'
        | '\u{200b}'..='\u{200d}'
        | '\u{2060}'..='\u{2065}'
        | '\u{206a}'..='\u{206f}'
        | '\u{3164}'
        | '\u{feff}'
        | '\u{ffa0}'
        | '\u{fff9}'..='\u{fffb}'
        | '\u{1bca0}'..='\u{1bca3}'
        | '\u{1d173}'..='\u{1d17a}'
        | '\u{e0080}'..='\u{e0fff}' => Some(Kind::ZeroWidth),
        _ => None,
    }
}

/// Returns whether a character is one of those that nobody sees.
pub fn is_invisible(character: char) -> bool {
    kind(character).is_some()
}

/// Returns text without invisible and control characters (line breaks and tabs stay), and what was removed.
pub fn strip_invisible(text: &str) -> (String, Counts) {
    let mut counts = Counts::default();
    // Most mail is plain ASCII and needs no look at each character.
    if text.bytes().all(|byte| matches!(byte, b' '..=b'~' | b'\n' | b'\t')) {
        return (text.to_owned(), counts);
    }
    let kept = text
        .chars()
        .filter_map(|character| match kind(character) {
            None if matches!(character, '\u{2028}' | '\u{2029}') => Some('\n'),
            None => (!character.is_control() || matches!(character, '\n' | '\t')).then_some(character),
            Some(kind) => {
                match kind {
                    Kind::ZeroWidth => counts.zero_width += 1,
                    Kind::Tag => counts.tag_chars += 1,
                    Kind::Bidi => counts.bidi += 1,
                    Kind::Presentation => {}
                }
                None
            }
        })
        .collect();
    (kept, counts)
}
