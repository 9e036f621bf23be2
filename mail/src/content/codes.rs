//! One-time codes and links to follow, with the words around them.

use serde::{Deserialize, Serialize};

/// A code that someone is meant to type somewhere.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Code {
    /// The code without separators.
    pub value: String,
    /// The line it stands in, or that line and the one that announces it.
    pub context: String,
}

/// A link that someone is meant to follow to confirm something.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ActionLink {
    /// The target.
    pub url: String,
    /// The words of the link or the line it stands in.
    pub context: String,
}

/// A link and its words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// The target.
    pub url: String,
    /// The visible words of the link; empty for a bare address.
    pub words: String,
}

const CODES_MAX: usize = 10;
const LINKS_MAX: usize = 1000;
/// The longest address taken for a link.
const URL_BYTES_MAX: usize = 4096;
const CONTEXT_CHARS_MAX: usize = 200;

const CODE_WORDS: &[&str] = &[
    "code",
    "passcode",
    "otp",
    "pin",
    "one-time",
    "verification",
    "verify",
    "token",
    "2fa",
    "código",
    "codigo",
    "codice",
    "kod",
    "kód",
    "koodi",
    "код",
    "κωδικός",
    "קוד",
    "رمز",
    "验证码",
    "驗證碼",
    "校验码",
    "確認コード",
    "認証コード",
    "認証番号",
    "인증번호",
    "인증 코드",
    "mã",
];

const ACTION_WORDS: &[&str] = &[
    "verify",
    "verification",
    "confirm",
    "activate",
    "activation",
    "reset",
    "sign in",
    "sign-in",
    "signin",
    "log in",
    "login",
    "magic",
    "invite",
    "invitation",
    "accept",
    "unlock",
    "password",
    "bestätig",
    "aktivier",
    "confirme",
    "confirmar",
    "verificar",
    "conferma",
    "activer",
    "bevestig",
    "bekräfta",
    "bekræft",
    "vahvista",
    "potwierdź",
    "aktywuj",
    "potvrd",
    "подтверд",
    "активир",
    "onayla",
    "doğrula",
    "确认",
    "验证",
    "驗證",
    "確認",
    "認証",
    "인증",
    "확인",
];

/// Returns the codes of a text, each once.
pub(super) fn codes(text: &str) -> Vec<Code> {
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    let mut found: Vec<Code> = Vec::new();
    let announces = |line: &str| {
        let lower = line.to_lowercase();
        CODE_WORDS.iter().any(|word| contains_word(&lower, word))
    };
    for (at, line) in lines.iter().enumerate() {
        if line.len() > 2000 || !line.bytes().any(|byte| byte.is_ascii_digit()) {
            continue;
        }
        let above = at.checked_sub(1).and_then(|above| lines.get(above)).filter(|line| announces(line));
        let here = announces(line);
        // A code on a line of its own is announced by the line above; one in a sentence, by the sentence.
        let alone = line.split_whitespace().count() <= 3;
        let announced = here || alone && above.is_some();
        if !announced {
            continue;
        }
        for value in candidates(line) {
            if found.len() >= CODES_MAX {
                return found;
            }
            if found.iter().all(|code| code.value != value) {
                let context = if here { (*line).to_owned() } else { format!("{} {}", above.unwrap_or(line), line) };
                found.push(Code { value, context: shorten(&context) });
            }
        }
    }
    found
}

/// A Latin word must not be part of a longer one ("pin" in "opinion"); other scripts have no word breaks to check.
fn contains_word(text: &str, word: &str) -> bool {
    if !word.is_ascii() {
        return text.contains(word);
    }
    text.match_indices(word).any(|(at, _)| {
        let before = text[..at].chars().next_back();
        let after = text[at + word.len()..].chars().next();
        !before.is_some_and(char::is_alphanumeric) && !after.is_some_and(|c| c.is_alphanumeric() && c != 's')
    })
}

fn candidates(line: &str) -> Vec<String> {
    let mut values = Vec::new();
    let words: Vec<&str> = line.split_whitespace().collect();
    let mut at = 0;
    while let Some(word) = words.get(at) {
        at += 1;
        let bare = word.trim_matches(|c: char| !c.is_alphanumeric());
        if bare.contains("://") || bare.contains('@') || bare.contains(['/', '.', ',', '$', '€', '£', '%']) {
            continue;
        }
        // "123 456" is one code in two groups.
        if let Some(next) = words.get(at).map(|next| next.trim_matches(|c: char| !c.is_alphanumeric()))
            && is_group(bare)
            && is_group(next)
            && word.ends_with(bare)
        {
            values.push(format!("{bare}{next}"));
            at += 1;
            continue;
        }
        let joined = bare.replace('-', "");
        let digits = joined.bytes().filter(u8::is_ascii_digit).count();
        let letters = joined.bytes().filter(u8::is_ascii_uppercase).count();
        let whole = digits + letters == joined.len() && (4..=8).contains(&joined.len());
        let year = joined.len() == 4 && (joined.starts_with("19") || joined.starts_with("20")) && letters == 0;
        let amount = word.starts_with(['$', '€', '£', '#', '+', '(']);
        if whole && digits >= 2 && !year && !amount {
            values.push(joined);
        }
    }
    values
}

fn is_group(word: &str) -> bool {
    word.len() == 3 && word.bytes().all(|byte| byte.is_ascii_digit())
}

/// Returns the web addresses written out in a text, each once.
pub(super) fn links(text: &str) -> Vec<Link> {
    let mut found: Vec<Link> = Vec::new();
    let mut known = std::collections::HashSet::new();
    let mut rest = text;
    while let Some(at) = rest.find("http") {
        let candidate = &rest[at..];
        let scheme = ["https://", "http://"].iter().find(|scheme| candidate.starts_with(**scheme));
        let Some(scheme) = scheme else {
            rest = &candidate[4..];
            continue;
        };
        let end = candidate
            .find(|c: char| {
                c.is_whitespace()
                    || c.is_control()
                    || matches!(c, '<' | '>' | '"' | '`' | '「' | '」' | '（' | '）' | '。' | '，')
            })
            .unwrap_or(candidate.len());
        let url = trim_url(&candidate[..end]);
        if url.len() > scheme.len() && found.len() < LINKS_MAX && known.insert(url) {
            found.push(Link { url: url.to_owned(), words: String::new() });
        }
        rest = &candidate[end.max(4)..];
    }
    found
}

/// Punctuation at the end belongs to the sentence, a closing bracket too unless it was opened inside.
fn trim_url(url: &str) -> &str {
    if url.len() > URL_BYTES_MAX {
        return "";
    }
    let mut url = url;
    loop {
        let trimmed = url.trim_end_matches(['.', ',', ';', ':', '!', '?', '\'', '*', '_', '|']);
        let unbalanced = |open: char, close: char| {
            trimmed.ends_with(close) && trimmed.matches(close).count() > trimmed.matches(open).count()
        };
        if unbalanced('(', ')') || unbalanced('[', ']') || unbalanced('{', '}') {
            url = &trimmed[..trimmed.len() - 1];
        } else if trimmed.len() == url.len() {
            return url;
        } else {
            url = trimmed;
        }
    }
}

/// Returns the links that ask for an action, by their words, their line, or their address.
pub(super) fn action_links(text: &str, links: &[Link]) -> Vec<ActionLink> {
    let asks = |text: &str| {
        let lower = text.to_lowercase();
        ACTION_WORDS.iter().any(|word| lower.contains(word))
    };
    links
        .iter()
        .filter(|link| link.url.starts_with("http"))
        .take(200)
        .filter_map(|link| {
            let line = if link.words.is_empty() { text.lines().find(|line| line.contains(&link.url)) } else { None };
            let context = line.unwrap_or(&link.words);
            let lower = link.url.to_lowercase();
            let refused = lower.contains("unsubscribe") || context.to_lowercase().contains("unsubscribe");
            (!refused && (asks(context) || asks(&link.url)))
                .then(|| ActionLink { url: link.url.clone(), context: shorten(context) })
        })
        .take(20)
        .collect()
}

fn shorten(text: &str) -> String {
    text.trim().chars().take(CONTEXT_CHARS_MAX).collect()
}
