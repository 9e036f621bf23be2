//! What a message says about the conversation it belongs to (RFC 5322 section 3.6.4, RFC 5256 section 2.1).

use sha2::{Digest, Sha256};

use crate::message::ParsedMessage;

/// A subject without what programs put around it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NormalizedSubject {
    /// What the message is about, lower case, white space collapsed.
    pub base: String,
    /// Whether a reply or forward prefix was there.
    pub had_prefix: bool,
}

/// Prefixes of replies and forwards, lower case.
const PREFIXES: &[&str] = &[
    "re",
    "fw",
    "fwd",
    "aw",
    "wg",
    "sv",
    "vs",
    "vb",
    "antw",
    "doorst",
    "odp",
    "pd",
    "r",
    "i",
    "rif",
    "res",
    "enc",
    "tr",
    "rv",
    "ynt",
    "i̇lt",
    "ilt",
    "bls",
    "trs",
    "回复",
    "回覆",
    "答复",
    "答覆",
    "转发",
    "轉寄",
    "转寄",
    "返信",
    "転送",
    "답장",
    "전달",
    "ответ",
    "отв",
    "на",
    "пересл",
    "απ",
    "σχετ",
    "πρθ",
    "השב",
    "תשובה",
    "הועבר",
    "رد",
    "إعادة توجيه",
    "vá",
    "továbbítás",
    "atb",
    "yth",
    "trả lời",
    "chuyển tiếp",
    "bal",
];

/// Rounds of peeling: nobody replies to replies more often without the subject having been cut.
const ROUNDS_MAX: usize = 100;

/// Returns the subject without reply and forward prefixes, list tags and trailers.
pub fn normalize_subject(subject: &str) -> NormalizedSubject {
    let (visible, _) = crate::content::strip_invisible(subject);
    let mut rest = visible.split_whitespace().collect::<Vec<_>>().join(" ").to_lowercase();
    let mut had_prefix = false;
    for _ in 0..ROUNDS_MAX {
        let before = rest.len();
        while let Some(shorter) = rest.strip_suffix("(fwd)") {
            rest = shorter.trim_end().to_owned();
            had_prefix = true;
        }
        if let Some(inner) = rest.strip_prefix("[fwd:").and_then(|inner| inner.strip_suffix(']')) {
            rest = inner.trim().to_owned();
            had_prefix = true;
        }
        if let Some(shorter) = without_prefix(&rest) {
            rest = shorter.to_owned();
            had_prefix = true;
        } else if let Some(shorter) = without_tag(&rest) {
            rest = shorter.to_owned();
        }
        if rest.len() == before {
            break;
        }
    }
    NormalizedSubject { base: rest, had_prefix }
}

/// `re:`, `re[2]:`, `re(2):`, `re^2:`, `re :`
fn without_prefix(subject: &str) -> Option<&str> {
    let (head, tail) = subject.split_once([':', '：'])?;
    let head = head.trim_end();
    let word = head.trim_end_matches(|c: char| c.is_ascii_digit() || matches!(c, '[' | ']' | '(' | ')' | '^' | '*'));
    PREFIXES.contains(&word.trim_end()).then(|| tail.trim_start())
}

/// A `[list]` tag, unless it is all there is.
fn without_tag(subject: &str) -> Option<&str> {
    let (_, tail) = subject.strip_prefix('[')?.split_once(']')?;
    Some(tail.trim_start()).filter(|tail| !tail.is_empty())
}

/// Returns whether a normalised subject is too common to connect two messages by itself.
pub fn is_generic_subject(base: &str) -> bool {
    const GENERIC: [&str; 24] = [
        "no subject",
        "(no subject)",
        "kein betreff",
        "sans objet",
        "sin asunto",
        "question",
        "a question",
        "quick question",
        "hello",
        "hi there",
        "hey there",
        "good morning",
        "thank you",
        "thanks",
        "test",
        "test mail",
        "test email",
        "test message",
        "follow up",
        "following up",
        "for your information",
        "new message",
        "your order",
        "out of office",
    ];
    let words = base.split_whitespace().count();
    let ideographic =
        base.chars().any(|c| ('\u{3040}'..='\u{9fff}').contains(&c) || ('\u{ac00}'..='\u{d7af}').contains(&c));
    // Languages without spaces say a sentence in one "word".
    let short = if ideographic { base.chars().count() < 5 } else { words <= 1 };
    short || GENERIC.contains(&base)
}

/// Returns the ids that may name an earlier message of the conversation, the likeliest first: `In-Reply-To`, then
/// `References` from last to first, each once.
pub fn references_for_threading(parsed: &ParsedMessage) -> Vec<String> {
    let mut ids: Vec<String> = Vec::new();
    for id in parsed.in_reply_to.iter().chain(parsed.references.iter().rev()) {
        let own = parsed.message_id.contains(id);
        if !own && !ids.contains(id) {
            ids.push(id.clone());
        }
    }
    ids
}

/// Returns the `Message-ID` of a message if it is usable as one: printable ASCII around one `@`.
pub fn usable_message_id(parsed: &ParsedMessage) -> Option<&str> {
    let usable = |id: &&String| {
        let halves = id.split_once('@');
        halves.is_some_and(|(left, right)| !left.is_empty() && !right.is_empty())
            && id.bytes().all(|byte| byte.is_ascii_graphic())
    };
    parsed.message_id.iter().find(usable).map(String::as_str)
}

/// Returns the id we use for a message without a usable one, without brackets: made from its bytes, so that the
/// same message gets the same id again. It is never added to the message.
pub fn minted_message_id(raw: &[u8], receiver: &str) -> String {
    let digest = Sha256::digest(raw);
    let hex: String = digest.iter().take(20).map(|byte| format!("{byte:02x}")).collect();
    format!("sha256.{hex}@{receiver}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subjects_are_peeled() {
        let cases = [
            ("Re: Re: AW: Fwd: [list] RE[2]: x (fwd)", "x", true),
            ("x", "x", false),
            ("  Quarterly   Report ", "quarterly report", false),
            ("SV: Antw: WG: VS: VB: mötet", "mötet", true),
            ("回复：会议", "会议", true),
            ("转发: 答复: 会议", "会议", true),
            ("R: I: RIF: preventivo", "preventivo", true),
            ("RES: ENC: TR: YNT: Odp: teste", "teste", true),
            ("Re(3): a", "a", true),
            ("Re^2: a", "a", true),
            ("[Fwd: hello you]", "hello you", true),
            ("[list]", "[list]", false),
            ("Project: status", "project: status", false),
            ("Re:", "", true),
            ("", "", false),
            ("Re\u{200b}: z", "z", true),
        ];
        for (subject, base, had_prefix) in cases {
            let expected = NormalizedSubject { base: base.to_owned(), had_prefix };
            assert_eq!(normalize_subject(subject), expected, "{subject:?}");
        }
        assert!(normalize_subject(&"re: ".repeat(50_000)).had_prefix);
    }

    #[test]
    fn generic_subjects_do_not_connect() {
        for generic in ["", "hi", "question", "no subject", "会议"] {
            assert!(is_generic_subject(generic), "{generic}");
        }
        for own in ["invoice 4711 overdue", "quarterly report", "来週の会議について"] {
            assert!(!is_generic_subject(own), "{own}");
        }
    }

    #[test]
    fn the_parent_comes_first_and_the_root_last() {
        let raw = b"Message-ID: <d@x>\r\nIn-Reply-To: <c@x>\r\nReferences: <a@x> <b@x> <c@x> <d@x>\r\n\r\n";
        let parsed = crate::message::parse(raw, &Default::default());
        assert_eq!(references_for_threading(&parsed), ["c@x", "b@x", "a@x"]);
        assert_eq!(usable_message_id(&parsed), Some("d@x"));
    }

    #[test]
    fn a_minted_id_is_stable_and_usable() {
        let id = minted_message_id(b"From: a@b\r\n\r\n", "mx.example");
        assert_eq!(id, minted_message_id(b"From: a@b\r\n\r\n", "mx.example"));
        assert_ne!(id, minted_message_id(b"From: a@c\r\n\r\n", "mx.example"));
        let raw = format!("Message-ID: <{id}>\r\n\r\n");
        assert_eq!(usable_message_id(&crate::message::parse(raw.as_bytes(), &Default::default())), Some(id.as_str()));
        for bad in ["Message-ID: <no-at>\r\n\r\n", "Message-ID: \r\n\r\n", "Subject: x\r\n\r\n"] {
            assert_eq!(usable_message_id(&crate::message::parse(bad.as_bytes(), &Default::default())), None, "{bad}");
        }
    }
}
