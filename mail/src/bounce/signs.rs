//! By what reports and other automatic mail are told apart. The phrases are in `bounce/signs.txt`.

use std::sync::LazyLock;

/// Phrases, in lower case.
type Phrases = Vec<&'static str>;

#[derive(Debug, Default)]
pub(super) struct Signs {
    pub report_subjects: Phrases,
    pub report_words: Phrases,
    pub system_words: Phrases,
    pub reply_subjects: Phrases,
    pub challenges: Phrases,
    pub report_challenges: Phrases,
    pub list_subjects: Phrases,
    pub warning_subjects: Phrases,
    pub warning_words: Phrases,
    pub given_up: Phrases,
}

pub(super) static SIGNS: LazyLock<Signs> = LazyLock::new(|| read(include_str!("signs.txt")));

/// Reads the file of signs; a test sees to it that nothing in it is passed over.
fn read(text: &'static str) -> Signs {
    let mut signs = Signs::default();
    let mut nowhere = Phrases::new();
    let mut head = "";
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
        if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            head = name;
            continue;
        }
        let list = signs.list(head).unwrap_or(&mut nowhere);
        list.extend(line.split('|').map(str::trim).filter(|phrase| !phrase.is_empty()));
    }
    signs
}

impl Signs {
    fn list(&mut self, head: &str) -> Option<&mut Phrases> {
        Some(match head {
            "report subjects" => &mut self.report_subjects,
            "report words" => &mut self.report_words,
            "report words of systems" => &mut self.system_words,
            "automatic reply subjects" => &mut self.reply_subjects,
            "challenges" => &mut self.challenges,
            "challenges in reports" => &mut self.report_challenges,
            "list subjects" => &mut self.list_subjects,
            "warning subjects" => &mut self.warning_subjects,
            "warning words" => &mut self.warning_words,
            "given up" => &mut self.given_up,
            _ => return None,
        })
    }
}

/// Tells whether one of the phrases is in a text, which is in lower case.
pub(super) fn says(phrases: &[&str], text: &str) -> bool {
    phrases.iter().any(|phrase| text.contains(phrase))
}

/// Returns where the first of the phrases begins in a text, which is in lower case.
pub(super) fn place(phrases: &[&str], text: &str) -> Option<usize> {
    phrases.iter().filter_map(|phrase| text.find(phrase)).min()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_list_is_read_and_every_phrase_can_match() {
        let text = include_str!("signs.txt");
        let heads: Vec<&str> = text.lines().filter(|line| line.starts_with('[') && line.ends_with(']')).collect();
        assert_eq!(heads.len(), 10);
        let mut signs = read(text);
        for head in heads {
            let list = signs.list(head.trim_matches(['[', ']'])).map(|list| list.clone()).unwrap_or_default();
            assert!(!list.is_empty(), "{head}");
            for phrase in list {
                let blank = phrase.contains("  ") || phrase.trim() != phrase;
                assert!(phrase.len() >= 4 && phrase == phrase.to_lowercase() && !blank, "{phrase:?}");
            }
        }
    }
}
