//! What hosts say, and what they mean by it. The rules are in `bounce/rules.txt`.

use std::sync::LazyLock;

use aho_corasick::AhoCorasick;

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
    /// Whether what is said is for good, though the category may mean the time being.
    for_good: bool,
    when: If,
    phrases: Vec<Phrase>,
}

/// Words, and those that have to follow them closely, with their places among all words looked for.
struct Phrase {
    first: (&'static str, usize),
    second: Option<(&'static str, usize)>,
}

struct Rules {
    rules: Vec<Rule>,
    /// Finds all words of all rules in one walk, however many there are.
    finder: Option<AhoCorasick>,
    /// How many words there are.
    words: usize,
}

/// How far apart the two sides of a `&` may be, in octets: they have to be about the same thing.
const APART_OCTETS_MAX: usize = 90;

static RULES: LazyLock<Rules> = LazyLock::new(|| read(include_str!("rules.txt")));

/// Reads the file of rules; a test sees to it that nothing in it is passed over.
fn read(text: &'static str) -> Rules {
    let mut rules: Vec<Rule> = Vec::new();
    let mut words: Vec<&'static str> = Vec::new();
    let mut place = |word: &'static str| {
        words.push(word);
        (word, words.len() - 1)
    };
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
        if let Some(head) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            let (name, when) = match head.split_once(" if ") {
                Some((name, "temporary")) => (name, If::Temporary),
                Some((name, _)) => (name, If::Permanent),
                None => (head, If::Always),
            };
            let (name, for_good) = name.strip_suffix(" for good").map_or((name, false), |name| (name, true));
            let category = Category::parse(name);
            rules.extend(category.map(|category| Rule { category, for_good, when, phrases: Vec::new() }));
        } else if let Some(rule) = rules.last_mut() {
            let phrases = line.split('|').map(str::trim).filter(|phrase| !phrase.is_empty());
            rule.phrases.extend(phrases.map(|phrase| match phrase.split_once('&') {
                Some((first, second)) => Phrase { first: place(first), second: Some(place(second)) },
                None => Phrase { first: place(phrase), second: None },
            }));
        }
    }
    Rules { rules, finder: AhoCorasick::new(&words).ok(), words: words.len() }
}

/// What a rule says.
#[derive(Debug, Clone, Copy)]
pub(super) struct Verdict {
    pub category: Category,
    pub for_good: bool,
}

impl From<Category> for Verdict {
    fn from(category: Category) -> Self {
        Self { category, for_good: false }
    }
}

/// Returns what is the host's own of a word: addresses and paths are somebody else's choice, but whose page a host
/// points to says what it is about. Without them what stands on either side comes together: `user <a@b> unknown`.
fn own_words(word: &str) -> &str {
    if let Some(at) = word.find("://") {
        let host = &word[at + 3..];
        return &host[..host.find(['/', '?', ':', '#', ')', '>', ',', ';']).unwrap_or(host.len())];
    }
    let Some(at) = word.rfind('@') else { return word };
    let domain = &word[at + 1..];
    let inside = |c: char| c.is_alphanumeric() || matches!(c, '.' | '-' | '[');
    let end = domain.find("..").or_else(|| domain.find(|c| !inside(c))).unwrap_or(domain.len());
    let behind = domain[end..].trim_start_matches(|c: char| !c.is_alphanumeric());
    // The command stays: `MAIL FROM:<a@b> SIZE=1` does not speak of a mail's size.
    let command = word[..at].find(":<").map(|colon| &word[..=colon]);
    command.filter(|_| behind.is_empty()).unwrap_or(behind)
}

/// A text made ready to be looked into.
pub(super) struct Said {
    text: String,
    temporary: bool,
}

impl Said {
    pub(super) fn new(text: &str, enhanced: Option<Enhanced>, smtp_code: Option<u16>, temporary: bool) -> Self {
        let text = super::beginning(text);
        let mut lower = String::with_capacity(text.len() + 16);
        // Codes may stand outside the text, and rules may ask for them.
        if let Some(code) = enhanced {
            lower.push_str(&code.to_string());
        }
        if let Some(code) = smtp_code {
            lower.push_str(&format!(" {code}"));
        }
        for word in text.split_whitespace().map(own_words).filter(|word| !word.is_empty()) {
            if !lower.is_empty() {
                lower.push(' ');
            }
            lower.extend(word.chars().flat_map(char::to_lowercase).map(|c| if c == '\u{2019}' { '\'' } else { c }));
        }
        Self { text: lower, temporary }
    }

    /// Returns what the first rule that applies says.
    pub(super) fn verdict(&self) -> Option<Verdict> {
        let applies = |rule: &&Rule| match rule.when {
            If::Always => true,
            If::Temporary => self.temporary,
            If::Permanent => !self.temporary,
        };
        let mut there = vec![false; RULES.words];
        for found in RULES.finder.iter().flat_map(|finder| finder.find_overlapping_iter(&self.text)) {
            there[found.pattern().as_usize()] = true;
        }
        let rule = RULES.rules.iter().filter(applies).find(|rule| self.matches(rule, &there))?;
        Some(Verdict { category: rule.category, for_good: rule.for_good })
    }

    fn matches(&self, rule: &Rule, there: &[bool]) -> bool {
        rule.phrases.iter().any(|phrase| match (phrase.first, phrase.second) {
            ((_, first), None) => there[first],
            ((word, first), Some((other, second))) => {
                there[first]
                    && there[second]
                    && self.text.match_indices(word).any(|(at, _)| {
                        let after = &self.text[at + word.len()..];
                        after[..after.floor_char_boundary(after.len().min(APART_OCTETS_MAX))].contains(other)
                    })
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_and_paths_are_nobodys_words() {
        let cases = [
            ("550 User <bob@spam.example> unknown", "550 user unknown"),
            ("550 bob@example.org:user not exist", "550 user not exist"),
            ("550 <bob@example.org>...User suspended", "550 user suspended"),
            ("550 after MAIL FROM:<a@b.example> SIZE=1: no", "550 after mail from: size=1: no"),
            ("554 see https://policy.example/spam?virus=1 now", "554 see policy.example now"),
            ("550 (bob@example.org) (a@b): no", "550 no"),
            ("550 Caf\u{e9} \u{2019}x\u{2019}", "550 caf\u{e9} 'x'"),
            ("@ @@ <@> ://", ""),
        ];
        for (said, heard) in cases {
            assert_eq!(Said::new(said, None, None, false).text, heard, "{said}");
        }
    }

    #[test]
    fn every_rule_is_read_and_every_phrase_can_match() {
        let text = include_str!("rules.txt");
        let heads: Vec<&str> = text.lines().filter(|line| line.starts_with('[') && line.ends_with(']')).collect();
        assert_eq!(RULES.rules.len(), heads.len());
        assert!(RULES.finder.is_some());
        for head in heads {
            let when = head.trim_matches(['[', ']']).split_once(" if ").map(|(_, when)| when);
            assert!(matches!(when, None | Some("temporary" | "permanent")), "{head}");
        }
        for rule in &RULES.rules {
            assert!(!rule.phrases.is_empty());
            for phrase in &rule.phrases {
                for (phrase, _) in [Some(phrase.first), phrase.second].into_iter().flatten() {
                    assert!(phrase.len() >= 3 && phrase == phrase.to_lowercase(), "{phrase:?}");
                    assert!(!phrase.contains("  ") && !phrase.contains('@'), "{phrase:?}");
                }
            }
        }
    }
}
