//! What hosts say, and what they mean by it. The rules are in `bounce/rules.txt`.

use std::sync::LazyLock;

use super::Category;
use super::codes::Enhanced;

/// When a rule applies at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum If {
    Always,
    /// The code says that another try may help.
    Temporary,
    /// The code does not.
    Permanent,
}

struct Rule {
    category: Category,
    when: If,
    phrases: Vec<(&'static str, Option<&'static str>)>,
}

/// How far apart the two sides of a `&` may be, in octets: they have to be about the same thing.
const APART_OCTETS_MAX: usize = 90;
/// Longest text looked at, in octets: what matters is said at the beginning.
const TEXT_OCTETS_MAX: usize = 16 * 1024;

static RULES: LazyLock<Vec<Rule>> = LazyLock::new(|| read(include_str!("rules.txt")));

/// Reads the file of rules; a test sees to it that nothing in it is passed over.
fn read(text: &'static str) -> Vec<Rule> {
    let mut rules: Vec<Rule> = Vec::new();
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
        if let Some(head) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            let (name, when) = match head.split_once(" if ") {
                Some((name, "temporary")) => (name, If::Temporary),
                Some((name, _)) => (name, If::Permanent),
                None => (head, If::Always),
            };
            rules.extend(Category::parse(name).map(|category| Rule { category, when, phrases: Vec::new() }));
        } else if let Some(rule) = rules.last_mut() {
            let phrases = line.split('|').map(str::trim).filter(|phrase| !phrase.is_empty());
            rule.phrases.extend(phrases.map(|phrase| match phrase.split_once('&') {
                Some((first, second)) => (first, Some(second)),
                None => (phrase, None),
            }));
        }
    }
    rules
}

/// A text made ready to be looked into.
pub(super) struct Said {
    text: String,
    temporary: bool,
}

impl Said {
    pub(super) fn new(text: &str, enhanced: Option<Enhanced>, smtp_code: Option<u16>, temporary: bool) -> Self {
        let text = &text[..text.floor_char_boundary(text.len().min(TEXT_OCTETS_MAX))];
        let mut lower = String::with_capacity(text.len() + 16);
        // Codes may stand outside the text, and rules may ask for them.
        if let Some(code) = enhanced {
            lower.push_str(&code.to_string());
        }
        if let Some(code) = smtp_code {
            lower.push_str(&format!(" {code}"));
        }
        for word in text.split_whitespace() {
            if !lower.is_empty() {
                lower.push(' ');
            }
            // Addresses and URLs are somebody's choice of words, not the host's.
            let word = match (word.rfind('@'), word.find("://")) {
                (Some(at), _) => word[at..].find('>').map_or("", |end| &word[at + end..]),
                (None, Some(_)) => "",
                (None, None) => word,
            };
            lower.extend(word.chars().flat_map(char::to_lowercase).map(|c| if c == '\u{2019}' { '\'' } else { c }));
        }
        Self { text: lower, temporary }
    }

    /// Returns what the first rule that applies says.
    pub(super) fn category(&self) -> Option<Category> {
        let applies = |rule: &&Rule| match rule.when {
            If::Always => true,
            If::Temporary => self.temporary,
            If::Permanent => !self.temporary,
        };
        RULES.iter().filter(applies).find(|rule| self.matches(rule)).map(|rule| rule.category)
    }

    fn matches(&self, rule: &Rule) -> bool {
        rule.phrases.iter().any(|(first, second)| match second {
            None => self.text.contains(first),
            Some(second) => self.text.match_indices(first).any(|(at, _)| {
                let after = &self.text[at + first.len()..];
                after[..after.floor_char_boundary(after.len().min(APART_OCTETS_MAX))].contains(second)
            }),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_rule_is_read_and_every_phrase_can_match() {
        let text = include_str!("rules.txt");
        let heads: Vec<&str> = text.lines().filter(|line| line.starts_with('[') && line.ends_with(']')).collect();
        assert_eq!(RULES.len(), heads.len());
        for head in heads {
            let when = head.trim_matches(['[', ']']).split_once(" if ").map(|(_, when)| when);
            assert!(matches!(when, None | Some("temporary" | "permanent")), "{head}");
        }
        for rule in RULES.iter() {
            assert!(!rule.phrases.is_empty());
            for (first, second) in &rule.phrases {
                for phrase in [Some(*first), *second].into_iter().flatten() {
                    assert!(phrase.len() >= 3 && phrase == phrase.to_lowercase(), "{phrase:?}");
                    assert!(!phrase.contains("  ") && !phrase.contains('@'), "{phrase:?}");
                }
            }
        }
    }
}
