//! Reports for people only: qmail, Exim, old sendmail, Exchange, Domino, web mail and everyone else who does not send
//! a machine-readable part (about half of what comes back).
//!
//! A report's own words come before the copy of the original. In them stands an address, usually at the start of a
//! line or after a word like "recipient", and what was wrong with it stands around it.

use std::collections::BTreeSet;

use super::codes;
use super::original::Original;
use super::report::recipient;
use super::{Action, Evidence, Outcome, RECIPIENTS_MAX, beginning, session};
use crate::address::Address;

/// Text looked at, in octets.
const TEXT_OCTETS_MAX: usize = 256 * 1024;
/// Lines of words kept of one recipient.
const WORDS_LINES_MAX: usize = 30;

/// Where the copy of the original begins, in lower case: at the start of a line, dashes and stars aside.
const ORIGINAL_MARKS: &[&str] = &[
    "this is a copy of the message",
    "this is a copy of your message",
    "below this line is a copy of the message",
    "original message follows",
    "original message headers",
    "original message header",
    "below is a copy of the original message",
    "the header of the original message",
    "begin message",
    "original message",
    "original mail",
    "original text",
    "your original message",
    "the original message was",
    "message headers follow",
    "message header follow",
    "returned message",
    "returned mail follows",
    "returned message follows",
    "unsent message below",
    "unsent message follows",
    "undelivered message follows",
    "undelivered message",
    "your message follows",
    "text of the message",
    "message text follows",
    "start of returned message",
    "body of message generated",
    "the following is the original message",
    "here is a copy of the message",
    "copy of the original message",
    "the header of the message follows",
    "the first",
    "received: from",
    "received: by",
    "return-path: <",
    "dkim-signature:",
];

/// The words of a report: without the copy of the original.
pub(super) struct Words<'a> {
    /// What the report says itself.
    pub notice: &'a str,
    /// The copy that follows, where there is one.
    pub copy: &'a str,
}

impl<'a> Words<'a> {
    pub(super) fn split(text: &'a str) -> Self {
        let text = &text[..text.floor_char_boundary(text.len().min(TEXT_OCTETS_MAX))];
        let mut at = 0;
        for line in text.split_inclusive('\n') {
            let bare = line.trim_matches(|c: char| {
                c.is_whitespace() || matches!(c, '-' | '*' | '=' | '>' | '_' | '#' | ':' | '|')
            });
            let lower = bare.to_lowercase();
            // A report that begins with such a line has nothing before it.
            if at > 0 && !text[..at].trim().is_empty() && is_mark(&lower, line) {
                return Self { notice: &text[..at], copy: &text[at..] };
            }
            at += line.len();
        }
        Self { notice: text, copy: "" }
    }
}

fn is_mark(bare: &str, line: &str) -> bool {
    ORIGINAL_MARKS.iter().any(|mark| match *mark {
        // sendmail says when the original was received, before it says anything else.
        "the original message was" => false,
        // Exim: "------ This is a copy of the message's headers".
        "the first" => bare.starts_with("the first") && bare.contains("lines"),
        "original message" | "original mail" | "original text" | "returned message" | "undelivered message" => {
            bare.starts_with(mark) && (line.trim_start().starts_with(['-', '=', '*', '_']) || bare == *mark)
        }
        mark => bare.starts_with(mark),
    })
}

/// Returns the header at the beginning of a copy in running text.
pub(super) fn copied_header(copy: &str) -> &str {
    let is_field = |line: &str| {
        line.split_once(':').is_some_and(|(name, _)| {
            !name.is_empty() && name.len() < 60 && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
        })
    };
    let mut at = 0;
    for line in copy.split_inclusive('\n') {
        let known = [
            "received:",
            "return-path:",
            "from:",
            "to:",
            "message-id:",
            "date:",
            "subject:",
            "dkim-signature:",
            "mime-version:",
        ];
        if is_field(line) && known.iter().any(|name| line.to_ascii_lowercase().starts_with(name)) {
            return &copy[at..];
        }
        at += line.len();
    }
    ""
}

/// An address in the words, and how surely it is the recipient.
struct Candidate {
    address: Address,
    /// Offset of its line.
    line: usize,
    certainty: u8,
    /// Whether nothing but punctuation stands before it: what follows is about it.
    leads: bool,
    /// What stands around it, where it leads.
    frame: Option<String>,
}

const CERTAIN: u8 = 3;
const LIKELY: u8 = 2;
const POSSIBLE: u8 = 1;
/// It may only tell which message the report is about.
const DESCRIBED: u8 = 0;

/// Finds the recipients that a report names and classifies each with the words around it.
///
/// `failed` are recipients that the report's header names; `ours` is everyone who cannot be the recipient: the report's
/// own author and addressee; `home` is the domain of the system that reports.
pub(super) fn outcomes(
    words: &Words<'_>,
    original: &Original,
    failed: &[Address],
    ours: &[String],
    home: Option<&str>,
) -> Vec<Outcome> {
    let lines: Vec<&str> = words.notice.lines().collect();
    let mut candidates = candidates(&lines, ours);
    if candidates.is_empty() && failed.is_empty() {
        // Who writes to himself is the recipient, too; where a report introduces somebody, it is about him.
        candidates = self::candidates(&lines, &[]);
        candidates.retain(|candidate| candidate.certainty == CERTAIN);
    }
    if candidates.is_empty() && failed.is_empty() && original.to.is_empty() {
        candidates = home.map(|home| users_of(&lines, home)).unwrap_or_default();
    }
    // One list is written in one way: who stands in the same place of a line as somebody who was introduced is in it.
    let certain = candidates.iter().filter(|candidate| candidate.certainty == CERTAIN);
    let introduced: BTreeSet<String> = certain.filter_map(|candidate| candidate.frame.clone()).collect();
    for candidate in &mut candidates {
        if candidate.frame.as_ref().is_some_and(|frame| introduced.contains(frame)) {
            candidate.certainty = CERTAIN;
        }
    }
    let in_original = |address: &Address| original.to.iter().any(|to| to.eq_ignore_ascii_case(address.as_str()));
    for candidate in &mut candidates {
        let described = is_description(&lines, candidate.line);
        if described {
            candidate.certainty = DESCRIBED;
        }
        if in_original(&candidate.address) && !described || failed.contains(&candidate.address) {
            candidate.certainty = CERTAIN;
        }
    }
    let best = candidates.iter().map(|candidate| candidate.certainty).max().unwrap_or(0);
    let mut outcomes: Vec<Outcome> = Vec::new();
    for candidate in candidates.iter().filter(|candidate| candidate.certainty == best) {
        if outcomes.iter().any(|known| known.address.as_ref() == Some(&candidate.address)) {
            continue;
        }
        // An address in the middle of what was said does not end it.
        let others = candidates.iter().filter(|other| other.leads || other.certainty == best);
        let others = others.filter(|other| other.address != candidate.address && other.line > candidate.line);
        let next = others.map(|other| other.line).min().unwrap_or(lines.len());
        let end = next.min(candidate.line + WORDS_LINES_MAX);
        let said = lines[candidate.line..end].join("\n");
        outcomes.push(outcome(Some(candidate.address.clone()), &said, words.notice));
    }
    for address in failed {
        if !outcomes.iter().any(|known| known.address.as_ref() == Some(address)) {
            outcomes.push(outcome(Some(address.clone()), words.notice, ""));
        }
    }
    if outcomes.is_empty() {
        // The report names nobody: it can only be about everyone the original was for.
        let all = original.to.iter().filter_map(|to| Address::parse(to).ok());
        outcomes = all.map(|address| outcome(Some(address), words.notice, "")).collect();
    }
    if outcomes.is_empty() {
        outcomes.push(outcome(None, words.notice, ""));
    }
    outcomes.truncate(RECIPIENTS_MAX);
    outcomes
}

fn outcome(address: Option<Address>, said: &str, surroundings: &str) -> Outcome {
    let (said, surroundings) = (beginning(said), beginning(surroundings));
    let evidence = Evidence {
        smtp_code: codes::smtp_code(said).or_else(|| codes::smtp_code(surroundings)),
        enhanced: codes::enhanced(said).or_else(|| codes::enhanced(surroundings)).filter(|code| code.class != 2),
        status: None,
        diagnostic: said,
        surroundings,
        stage: session::stage(said),
    };
    Outcome {
        address,
        original_address: None,
        action: Action::Failed,
        classification: evidence.classify(),
        remote_mta: None,
    }
}

fn candidates(lines: &[&str], ours: &[String]) -> Vec<Candidate> {
    let mut found = Vec::new();
    for (at, line) in lines.iter().enumerate() {
        let before: String = lines[at.saturating_sub(3)..at].join(" ").to_lowercase();
        for (offset, address) in addresses_in(line) {
            let text = address.as_str();
            let own = ours.iter().any(|own| own.eq_ignore_ascii_case(text));
            if own || is_machinery(&address) || is_contact(&line[..offset].to_lowercase(), &before) {
                continue;
            }
            let certainty = certainty(line, offset, &before);
            let leads = head(line, offset).is_empty();
            let frame = frame(line, offset, text.len());
            found.push(Candidate { address, line: at, certainty, leads, frame });
            if found.len() >= RECIPIENTS_MAX {
                return found;
            }
        }
    }
    found
}

/// Tells whether a line is one of those by which a report says which message it is about (`To:`, `Subject:`, `Sent:`).
fn is_description(lines: &[&str], at: usize) -> bool {
    let is = |line: &str, names: &[&str]| {
        let line = line.trim_start();
        names.iter().any(|name| line.get(..name.len()).is_some_and(|start| start.eq_ignore_ascii_case(name)))
    };
    let near = &lines[at.saturating_sub(4)..(at + 5).min(lines.len())];
    is(lines[at], &["to:", "cc:", "bcc:"]) && near.iter().any(|line| is(line, &["subject:", "sent:", "date:"]))
}

/// Addresses that no mail is written to.
fn is_machinery(address: &Address) -> bool {
    let local = address.local().to_ascii_lowercase();
    matches!(
        local.as_str(),
        "mailer-daemon" | "postmaster" | "abuse" | "mail-daemon" | "noreply" | "no-reply" | "helpdesk" | "support"
    ) || address.domain().starts_with("mail-") && address.domain().ends_with("google.com")
}

/// Words before an address that make it somebody else's: whom to ask, who sent it, which message it was.
fn is_contact(line_before: &str, lines_before: &str) -> bool {
    const ENDS: [&str; 14] = [
        "contact",
        "message-id:",
        "message id:",
        "from:",
        "from",
        "sender:",
        "mail from:",
        "mail from:<",
        "reply-to:",
        "e-mail to",
        "forward to",
        "sender <",
        "from address:",
        "from <",
    ];
    let before = line_before.trim_end_matches(['<', '"', '\'', ' ', '\t', '(', '[']);
    // What became of an address is told so, too: `(generated from bob@example.org)`.
    let made_from = ["generated from", "expanded from"].iter().any(|word| before.ends_with(word));
    !made_from && ENDS.iter().any(|end| before.ends_with(end))
        || line_before.contains("message-id")
        || before.is_empty()
            && ["contact", "send your message to", "please write to"].iter().any(|word| lines_before.ends_with(word))
}

/// Returns the words before an address in its line.
fn head(line: &str, offset: usize) -> &str {
    line[..offset].trim_matches(|c: char| {
        c.is_whitespace() || matches!(c, '<' | '"' | '\'' | '*' | '>' | '-' | '[' | '(' | ':' | '•')
    })
}

/// Finds the users whom a system names without its own domain, each alone in a line of a list that is introduced.
fn users_of(lines: &[&str], home: &str) -> Vec<Candidate> {
    let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | '+');
    let introduces = |line: &str| line.trim_end().ends_with(':') && introduced(&line.to_lowercase());
    let mut found = Vec::new();
    let mut listed = false;
    for (at, line) in lines.iter().enumerate() {
        let word = line.trim();
        if !listed || word.is_empty() {
            // An introduction may be longer than a line.
            listed |= introduces(&lines[at.saturating_sub(2)..=at].join(" "));
            continue;
        }
        let address = word.chars().all(is_name).then(|| Address::parse(&format!("{word}@{home}")).ok()).flatten();
        let Some(address) = address else {
            listed = introduces(line);
            continue;
        };
        found.push(Candidate { address, line: at, certainty: CERTAIN, leads: true, frame: None });
        if found.len() >= RECIPIENTS_MAX {
            break;
        }
    }
    found
}

/// Tells whether a text in lower case says that somebody is about to be named.
fn introduced(text: &str) -> bool {
    const INTRODUCTIONS: [&str; 24] = [
        "recipient",
        "rcpt to",
        "address",
        "failed",
        "could not be delivered",
        "couldn't be delivered",
        "undeliverable",
        "not delivered",
        "unable to deliver",
        "delivery to",
        "did not reach",
        "wasn't delivered to",
        "was not delivered to",
        "not reach",
        "deliver message to",
        "failure",
        "to:",
        "delivered to",
        "550",
        "553",
        "unknown user",
        "the following",
        "generated from",
        "expanded from",
    ];
    INTRODUCTIONS.iter().any(|word| text.contains(word))
}

fn certainty(line: &str, offset: usize, before: &str) -> u8 {
    let head = head(line, offset).to_lowercase();
    if head.is_empty() && introduced(before) {
        CERTAIN
    } else if head.is_empty() || introduced(&head) {
        LIKELY
    } else {
        POSSIBLE
    }
}

/// Returns the punctuation around an address at the beginning of a line that has a mark of a list, `<…>:` or `…:`; nothing
/// where words stand before it, or where it is not marked off from what follows.
fn frame(line: &str, offset: usize, octets: usize) -> Option<String> {
    let (before, behind) = (&line[..offset], line.get(offset + octets..)?);
    let mark = behind.strip_prefix('>').unwrap_or(behind);
    let marked = mark.starts_with(':') && before.chars().all(|c| c.is_whitespace() || c == '<' || c == '*');
    marked.then(|| format!("{before}\0{}:", &behind[..behind.len() - mark.len()]))
}

fn is_kind(kind: &str) -> bool {
    ["smtp", "rfc-822", "rfc822", "rfc_822", "internet"].iter().any(|known| kind.eq_ignore_ascii_case(known))
}

/// Finds addresses in a line, with the offset at which each begins.
fn addresses_in(line: &str) -> Vec<(usize, Address)> {
    let mut found = Vec::new();
    for (at, _) in line.match_indices('@').take(20) {
        let inside = |c: char| c.is_alphanumeric() || "!#$%&'*+-/=?^_`{|}~.".contains(c);
        let start = line[..at]
            .rfind(|c| !inside(c))
            .map_or(0, |before| before + line[before..].chars().next().map_or(1, char::len_utf8));
        let end = line[at + 1..]
            .find(|c: char| !(c.is_alphanumeric() || matches!(c, '.' | '-')))
            .map_or(line.len(), |length| at + 1 + length);
        let text = line[start..end].trim_end_matches(['.', '-']);
        // Quotes around an address are not part of it.
        let bare = text.trim_start_matches(['\'', '`', '=']);
        let bare = bare.strip_prefix("mailto:").unwrap_or(bare);
        // X.400 names the kind of an address inside of one: `;dda:SMTP=bob@example.org;`.
        let bare = bare.split_once('=').filter(|(kind, _)| is_kind(kind)).map_or(bare, |(_, bare)| bare);
        let Some(address) = recipient(bare).filter(|address| address.domain().contains('.')) else { continue };
        found.push((start, address));
    }
    found
}
