//! `tag=value; …` lists, read strictly (RFC 6376 section 3.2): a tag given twice makes the whole list invalid.

/// A parsed list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct TagList {
    tags: Vec<(String, String)>,
}

/// Tags kept in one list.
const TAGS_MAX: usize = 100;

impl TagList {
    /// Parses a list. Folding white space is removed around names and values; `None` if the grammar is broken.
    pub(super) fn parse(bytes: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(bytes).ok()?;
        let mut tags: Vec<(String, String)> = Vec::new();
        let mut pieces = text.split(';').peekable();
        while let Some(piece) = pieces.next() {
            let piece = piece.trim_matches(is_fws);
            if piece.is_empty() {
                // A list may end in a semicolon; an empty tag elsewhere is an error.
                if pieces.peek().is_some() {
                    return None;
                }
                continue;
            }
            let (name, value) = piece.split_once('=')?;
            let (name, value) = (name.trim_matches(is_fws), value.trim_matches(is_fws));
            let first = name.bytes().next().is_some_and(|byte| byte.is_ascii_alphabetic());
            let fine = first && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
            let printable = value.chars().all(|c| is_fws(c) || !c.is_control());
            let known = tags.iter().any(|(known, _)| known == name);
            if !fine || !printable || known || tags.len() >= TAGS_MAX {
                return None;
            }
            tags.push((name.to_owned(), value.to_owned()));
        }
        (!tags.is_empty()).then_some(TagList { tags })
    }

    /// Returns a value as written. Names are case-sensitive.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.tags.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// Returns a value without any white space inside.
    pub(super) fn compact(&self, name: &str) -> Option<String> {
        self.get(name).map(|value| value.chars().filter(|c| !is_fws(*c)).collect())
    }

    /// Returns the items of a colon-separated value, without white space.
    pub(super) fn items(&self, name: &str) -> Option<Vec<String>> {
        self.compact(name).map(|value| value.split(':').map(str::to_owned).collect())
    }

    /// Returns the first tag's name and value.
    pub(super) fn first(&self) -> (&str, &str) {
        self.tags.first().map_or(("", ""), |(name, value)| (name.as_str(), value.as_str()))
    }

    /// Returns an unsigned number, or `Err` if the value is none.
    pub(super) fn number(&self, name: &str) -> Result<Option<u64>, ()> {
        let Some(value) = self.get(name) else {
            return Ok(None);
        };
        let digits = !value.is_empty() && value.len() <= 20 && value.bytes().all(|byte| byte.is_ascii_digit());
        if digits { value.parse().map(Some).map_err(|_| ()) } else { Err(()) }
    }
}

fn is_fws(character: char) -> bool {
    matches!(character, ' ' | '\t' | '\r' | '\n')
}

/// Decodes strict base64 (with or without its padding); white space was removed before.
pub(super) fn base64(text: &str) -> Option<Vec<u8>> {
    let alphabet = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/');
    let data = text.trim_end_matches('=');
    let padding = text.len() - data.len();
    let fine = data.bytes().all(alphabet) && padding <= 2 && data.len() % 4 != 1;
    fine.then(|| crate::message::decode_base64(data.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_read_strictly() {
        let list = TagList::parse(b" v=1; a = rsa-sha256 ;\r\n\th=from : to;b=AB\r\n CD==; ").unwrap();
        assert_eq!((list.get("a"), list.compact("b").as_deref()), (Some("rsa-sha256"), Some("ABCD==")));
        assert_eq!(list.items("h").unwrap(), ["from", "to"]);
        assert_eq!((list.first(), list.get("V")), (("v", "1"), None));
        for broken in ["", ";", "a", "a=1;;b=2", "a=1; a=2", "1a=2", "a=\u{1}", "=1"] {
            assert_eq!(TagList::parse(broken.as_bytes()), None, "{broken}");
        }
    }

    #[test]
    fn base64_is_strict() {
        assert_eq!(base64("YQ=="), Some(b"a".to_vec()));
        assert_eq!(base64("YQ"), Some(b"a".to_vec()));
        for broken in ["Y", "Y!==", "YQ===", "A=B="] {
            assert_eq!(base64(broken), None, "{broken}");
        }
    }
}
