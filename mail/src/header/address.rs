//! Address lists (RFC 5322 section 3.4), read the way they are really written.

use serde::{Deserialize, Serialize};

use super::word::decode_words;

/// An address in a header field.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct EmailAddress {
    /// The display name, decoded.
    pub name: Option<String>,
    /// The addr-spec as written, without white space or control characters; it has a local part and a domain.
    pub email: String,
}

impl EmailAddress {
    /// Returns the domain in lower case.
    pub fn domain(&self) -> String {
        self.email.rsplit_once('@').map_or("", |(_, domain)| domain).to_ascii_lowercase()
    }
}

/// The longest addr-spec kept, in bytes: 64 + 1 + 255 (RFC 5321 section 4.5.3.1), doubled for sloppy senders.
const EMAIL_BYTES_MAX: usize = 640;
/// The longest display name kept, in characters.
const NAME_CHARS_MAX: usize = 1000;

/// Parses an unfolded address list, keeping at most `addresses_max`; the flag tells whether some were left out.
///
/// Groups are flattened, comments become the name where there is none, entries without an `@` are dropped.
pub fn addresses(text: &str, addresses_max: usize) -> (Vec<EmailAddress>, bool) {
    let mut list = List { out: Vec::new(), entry: Entry::default(), addresses_max, truncated: false };
    let mut characters = text.chars().peekable();
    while let Some(character) = characters.next() {
        if list.truncated {
            break;
        }
        match character {
            '"' => list.entry.quoted(&mut characters),
            '(' => list.entry.comment(&mut characters),
            '<' => list.entry.angle(&mut characters),
            '[' => {
                // A domain literal may hold colons, which would otherwise look like a group.
                list.entry.plain.push('[');
                for inner in characters.by_ref().take_while(|inner| *inner != ']') {
                    list.entry.plain.push(inner);
                }
                list.entry.plain.push(']');
            }
            ',' | ';' => list.finish(),
            ':' if list.entry.angle.is_none() && !list.entry.plain.contains('@') => list.entry = Entry::default(),
            other => list.entry.plain.push(other),
        }
    }
    list.finish();
    (list.out, list.truncated)
}

/// Returns whether a value is a group without members, such as `undisclosed-recipients:;`.
pub fn group_is_empty(text: &str) -> bool {
    text.contains(':') && addresses(text, 1).0.is_empty()
}

type Characters<'a> = std::iter::Peekable<std::str::Chars<'a>>;

struct List {
    out: Vec<EmailAddress>,
    entry: Entry,
    addresses_max: usize,
    truncated: bool,
}

impl List {
    fn finish(&mut self) {
        if let Some(address) = std::mem::take(&mut self.entry).address() {
            if self.out.len() >= self.addresses_max {
                self.truncated = true;
            } else {
                self.out.push(address);
            }
        }
    }
}

/// What has been read of one address. Quotes stay in `plain` between two marks, so that a quoted local part is not
/// torn apart at its spaces.
#[derive(Default)]
struct Entry {
    plain: String,
    angle: Option<String>,
    comment: String,
}

/// Stands for a quotation mark inside `plain`: NUL cannot occur in unfolded text that matters.
const MARK: char = '\0';

impl Entry {
    fn quoted(&mut self, characters: &mut Characters<'_>) {
        self.plain.push(MARK);
        while let Some(character) = characters.next() {
            match character {
                '"' => break,
                '\\' => self.plain.extend(characters.next()),
                MARK => {}
                other => self.plain.push(other),
            }
        }
        self.plain.push(MARK);
    }

    fn comment(&mut self, characters: &mut Characters<'_>) {
        let mut depth = 1_u32;
        while let Some(character) = characters.next() {
            match character {
                '(' => depth += 1,
                ')' => depth -= 1,
                '\\' => {
                    self.comment.extend(characters.next());
                    continue;
                }
                _ => {}
            }
            if depth == 0 {
                break;
            }
            self.comment.push(character);
        }
        self.plain.push(' ');
    }

    fn angle(&mut self, characters: &mut Characters<'_>) {
        let mut inside = String::new();
        let mut quoted = false;
        while let Some(&character) = characters.peek() {
            match character {
                '"' => quoted = !quoted,
                '>' if !quoted => {
                    characters.next();
                    break;
                }
                // `<a@b, c@d>`: the bracket was never closed where it should have been.
                ',' if !quoted && inside.contains('@') && !inside.starts_with('@') => break,
                _ => {}
            }
            inside.push(character);
            characters.next();
        }
        // Of several bracketed texts the last one is the address: `"x" <not this> <a@b>`.
        if let Some(previous) = self.angle.replace(inside) {
            self.plain.push_str(&previous);
        }
    }

    fn address(self) -> Option<EmailAddress> {
        let (email, name) = match &self.angle {
            Some(angle) => (addr_spec(angle)?, self.plain.replace(MARK, "")),
            None => self.bare()?,
        };
        let name = [name.as_str(), self.comment.as_str()]
            .into_iter()
            .map(|text| decode_words(text.trim()).split_whitespace().collect::<Vec<_>>().join(" "))
            .find(|text| !text.is_empty())
            .map(|text| text.chars().take(NAME_CHARS_MAX).collect());
        Some(EmailAddress { name, email })
    }

    /// Without brackets: the last word with an `@` is the address, the others are the name.
    fn bare(&self) -> Option<(String, String)> {
        let words = split_words(&self.plain);
        let at = words.iter().rposition(|word| word.contains('@'))?;
        let email = addr_spec(&words[at].replace(MARK, "\""))?;
        let others: Vec<String> =
            words.iter().enumerate().filter(|(i, _)| *i != at).map(|(_, word)| word.replace(MARK, "")).collect();
        Some((email, others.join(" ")))
    }
}

fn split_words(plain: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut quoted = false;
    for character in plain.chars() {
        quoted ^= character == MARK;
        if character.is_whitespace() && !quoted {
            words.push(String::new());
        } else if let Some(word) = words.last_mut() {
            word.push(character);
        }
    }
    words.retain(|word| !word.is_empty());
    words
}

fn addr_spec(text: &str) -> Option<String> {
    let text = text.trim();
    // A source route `@a,@b:c@d` is obsolete and ignored (RFC 5321 appendix C).
    let text = if text.starts_with('@') { text.split_once(':').map_or(text, |(_, rest)| rest) } else { text };
    let text = text.strip_prefix("mailto:").unwrap_or(text);
    let mut quoted = false;
    let email: String = text
        .chars()
        .filter(|character| {
            quoted ^= *character == '"';
            !character.is_control() && (quoted || !character.is_whitespace())
        })
        .collect();
    let (local, domain) = email.rsplit_once('@')?;
    let usable = !local.is_empty() && !domain.is_empty() && email.len() <= EMAIL_BYTES_MAX;
    usable.then_some(email)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Vec<(Option<String>, String)> {
        addresses(text, 100).0.into_iter().map(|address| (address.name, address.email)).collect()
    }

    fn named(name: &str, email: &str) -> (Option<String>, String) {
        ((!name.is_empty()).then(|| name.to_owned()), email.to_owned())
    }

    #[test]
    fn addresses_are_split_right() {
        let cases: &[(&str, &[(&str, &str)])] = &[
            ("a@b.example", &[("", "a@b.example")]),
            ("Bob <b@x>, \"Doe, Jane\" <j@x>", &[("Bob", "b@x"), ("Doe, Jane", "j@x")]),
            ("undisclosed-recipients:;", &[]),
            ("Team: a@x, B <b@x>;, c@x", &[("", "a@x"), ("B", "b@x"), ("", "c@x")]),
            ("a@x (Alice (the first))", &[("Alice (the first)", "a@x")]),
            ("(c) Bob (d) <b@x>", &[("Bob", "b@x")]),
            ("Bob b@x", &[("Bob", "b@x")]),
            ("\"a@b\" <c@d>", &[("a@b", "c@d")]),
            ("\"john doe\"@x", &[("", "\"john doe\"@x")]),
            ("<@r1,@r2:u@x>", &[("", "u@x")]),
            ("=?utf-8?q?J=C3=BCrgen?= <j@x>", &[("Jürgen", "j@x")]),
            ("=?utf-8?q?a=2C_b=3Cx=40y=3E?= <j@x>", &[("a, b<x@y>", "j@x")]),
            ("\"=?utf-8?b?xb4=?=\" <j@x>", &[("ž", "j@x")]),
            ("Jörg <j@münchen.example>", &[("Jörg", "j@münchen.example")]),
            ("u@[IPv6:2001:db8::1], v@x", &[("", "u@[IPv6:2001:db8::1]"), ("", "v@x")]),
            ("Just A Name, ,, <>", &[]),
            ("Bob <b@x", &[("Bob", "b@x")]),
            ("Bob <b@x, c@y", &[("Bob", "b@x"), ("", "c@y")]),
            ("\"a \\\"quoted\\\" name\" <q@x>", &[("a \"quoted\" name", "q@x")]),
            ("a@b c@d", &[("a@b", "c@d")]),
        ];
        for (input, expected) in cases {
            let expected: Vec<_> = expected.iter().map(|(name, email)| named(name, email)).collect();
            assert_eq!(parsed(input), expected, "{input}");
        }
    }

    #[test]
    fn long_lists_and_deep_comments_are_bounded() {
        let list = "a@x,".repeat(5000);
        let (kept, truncated) = addresses(&list, 2000);
        assert_eq!((kept.len(), truncated), (2000, true));
        let deep = format!("{}a@x", "(".repeat(200_000));
        assert!(addresses(&deep, 10).0.is_empty());
    }

    #[test]
    fn an_empty_group_is_recognised() {
        assert!(group_is_empty("undisclosed-recipients:;"));
        assert!(!group_is_empty("Team: a@x;"));
        assert!(!group_is_empty(""));
    }
}
