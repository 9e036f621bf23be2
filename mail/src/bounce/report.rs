//! The machine-readable part of a report (RFC 3464 §2), and reports of its kind that break its rules.

use super::codes::{self, Enhanced};
use super::{Action, Evidence, Outcome, RECIPIENTS_MAX, beginning, session};
use crate::address::Address;
use crate::header::{Block, BlockLimits};

const LIMITS: BlockLimits = BlockLimits { fields_max: 100, bytes_max: 64 * 1024 };

/// A `message/delivery-status` part.
pub(super) struct Status {
    pub reporting_mta: Option<String>,
    pub envelope_id: Option<String>,
    /// What became of a mail that was delivered, from a receipt (RFC 8098 §3.2.6).
    pub disposition: Option<String>,
    pub recipients: Vec<Recipient>,
}

/// One recipient's block.
pub(super) struct Recipient {
    /// The block says what blocks about the whole message say.
    about_message: bool,
    pub address: Option<Address>,
    pub original_address: Option<Address>,
    pub action: Option<Action>,
    pub status: Option<Enhanced>,
    pub diagnostic: Option<String>,
    pub remote_mta: Option<String>,
}

impl Status {
    /// Reads the blocks. A block without a recipient is one about the message.
    pub(super) fn read(bytes: &[u8]) -> Self {
        let mut status = Self { reporting_mta: None, envelope_id: None, disposition: None, recipients: Vec::new() };
        let text = String::from_utf8_lossy(bytes).replace("\r\n", "\n");
        for group in text.split("\n\n").map(str::trim_matches_newlines).filter(|group| !group.is_empty()) {
            let block = Block::scan(group.as_bytes(), LIMITS);
            let text = |name: &str| block.first(name).map(|field| field.text()).filter(|text| !text.is_empty());
            let mta = |name: &str| text(name).map(|value| after_type(&value).to_owned());
            status.reporting_mta = status.reporting_mta.take().or_else(|| mta("Reporting-MTA"));
            status.envelope_id = status.envelope_id.take().or_else(|| text("Original-Envelope-Id"));
            status.disposition = status.disposition.take().or_else(|| text("Disposition"));
            let named = ["Final-Recipient", "Original-Recipient", "X-Actual-Recipient"];
            let about_recipient =
                named.iter().any(|name| block.first(name).is_some()) || block.first("Action").is_some();
            if !about_recipient || status.recipients.len() >= RECIPIENTS_MAX {
                continue;
            }
            // Addresses are no encoded words, even where they look like some (RFC 2047 §5).
            let address = |name: &str| block.first(name).and_then(|field| recipient(&field.unfolded()));
            status.recipients.push(Recipient {
                about_message: block.first("Reporting-MTA").is_some(),
                address: address("Final-Recipient").or_else(|| address("X-Actual-Recipient")),
                original_address: address("Original-Recipient"),
                action: text("Action").and_then(|value| action(&value)),
                status: text("Status").and_then(|value| Enhanced::parse(&value)),
                diagnostic: diagnostic(&block),
                remote_mta: mta("Remote-MTA"),
            });
        }
        // Some say once for all what became of the mail, before they name who it was for.
        let named = |recipient: &Recipient| recipient.address.is_some() || recipient.original_address.is_some();
        if status.recipients.iter().any(named) {
            status.recipients.retain(|recipient| named(recipient) || !recipient.about_message);
        }
        status
    }
}

/// Lines of running text that blocks are looked for in.
const TEXT_LINES_MAX: usize = 400;

impl Status {
    /// Reads blocks that stand in a text for people, quoted or not.
    pub(super) fn in_text(text: &str) -> Self {
        let bare = |line: &'_ str| line.trim_start_matches(['>', ' ', '\t']).to_owned();
        let fields = ["final-recipient:", "original-recipient:", "reporting-mta:", "action:", "diagnostic-code:"];
        let is_field = |line: &str| {
            fields.iter().any(|name| line.get(..name.len()).is_some_and(|start| start.eq_ignore_ascii_case(name)))
        };
        let lines = text.lines().take(TEXT_LINES_MAX);
        let lines: Vec<(bool, String)> = lines.map(|line| (line.starts_with([' ', '\t']), bare(line))).collect();
        let Some(first) = lines.iter().position(|(_, line)| is_field(line)) else { return Self::read(b"") };
        let mut blocks = String::new();
        for (folded, line) in &lines[first..] {
            // What is neither a field nor a folded one ends a block.
            let field = line.split_once(':').is_some_and(|(name, _)| !name.is_empty() && !name.contains(' '));
            blocks.push_str(match (line.is_empty() || !(field || *folded), *folded && !field) {
                (true, _) => "\n",
                (false, true) => " ",
                (false, false) => "",
            });
            if field || *folded {
                blocks.push_str(line);
            }
            blocks.push('\n');
        }
        Self::read(blocks.as_bytes())
    }
}

/// White space at the ends of a block's lines is kept: a folded field may begin with it.
trait TrimNewlines {
    fn trim_matches_newlines(&self) -> &str;
}

impl TrimNewlines for str {
    fn trim_matches_newlines(&self) -> &str {
        self.trim_matches('\n')
    }
}

/// Takes the longest diagnostic: systems that give several give the remote host's words in one of them. Where there is
/// none, the comment beside the status code says what happened: `4.0.0 (host name lookup failure)`.
fn diagnostic(block: &Block<'_>) -> Option<String> {
    let fields = block.all("Diagnostic-Code").chain(block.all("X-Supplementary-Info"));
    let texts = fields.map(|field| after_type(&field.text()).to_owned()).filter(|text| !text.is_empty());
    texts.max_by_key(String::len).or_else(|| {
        let status = block.first("Status")?.text();
        let comment = status.split_once('(')?.1.trim_end().trim_end_matches(')').trim();
        (!comment.is_empty()).then(|| comment.to_owned())
    })
}

/// Cuts `smtp;`, `dns;`, `rfc822;`, `X-Postfix;` off.
fn after_type(value: &str) -> &str {
    match value.split_once(';') {
        Some((kind, rest)) if kind.len() <= 30 && !kind.trim().contains(' ') => rest.trim(),
        _ => value.trim(),
    }
}

/// Reads `rfc822; <bob@example.org>`, `utf-8; …`, with or without the type and the brackets.
pub(super) fn recipient(value: &str) -> Option<Address> {
    let value = after_type(value);
    let bare = value.split(['<', '>']).find(|piece| piece.contains('@')).unwrap_or(value);
    let bare = bare.split_whitespace().find(|word| word.contains('@')).unwrap_or(bare);
    let bare = bare.trim_matches(|c: char| {
        matches!(c, ',' | ';' | ':' | '(' | ')' | '\'' | '"' | '`' | '.') && !bare.starts_with('"')
    });
    Address::parse(bare).ok()
}

fn action(value: &str) -> Option<Action> {
    // `failed (bad destination mailbox address)` is seen.
    let word = value.split(|c: char| !c.is_ascii_alphabetic()).find(|word| !word.is_empty())?;
    match word.to_ascii_lowercase().as_str() {
        "failed" | "failure" | "fail" | "deliverable" | "expired" => Some(Action::Failed),
        "delayed" | "deferred" => Some(Action::Delayed),
        "delivered" => Some(Action::Delivered),
        "relayed" => Some(Action::Relayed),
        "expanded" => Some(Action::Expanded),
        _ => None,
    }
}

impl Recipient {
    /// Returns a recipient of whom only these fields are known.
    pub(super) fn of_fields(status: Option<&str>, diagnostic: &str) -> Self {
        Self {
            address: None,
            original_address: None,
            action: None,
            status: status.and_then(Enhanced::parse),
            diagnostic: Some(after_type(diagnostic).to_owned()),
            remote_mta: None,
            about_message: false,
        }
    }

    /// Classifies with what the report says around it.
    pub(super) fn outcome(&self, surroundings: &str) -> Outcome {
        let surroundings = beginning(surroundings);
        let diagnostic = self.diagnostic.as_deref().unwrap_or_default();
        let smtp_code = codes::smtp_code(diagnostic).or_else(|| codes::smtp_code(surroundings));
        let evidence = Evidence {
            smtp_code,
            enhanced: codes::enhanced(diagnostic).filter(|code| code.class != 2),
            status: self.status.filter(|code| code.class != 2),
            diagnostic,
            surroundings,
            stage: session::stage(diagnostic).or_else(|| session::stage(surroundings)),
        };
        let mut classification = evidence.classify();
        if classification.diagnostic.is_empty() {
            classification.diagnostic = super::one_line(surroundings);
        }
        Outcome {
            address: self.address.clone(),
            original_address: self.original_address.clone(),
            action: self.action(),
            classification,
            remote_mta: self.remote_mta.clone(),
        }
    }

    fn action(&self) -> Action {
        match (self.action, self.status.map(|status| status.class)) {
            (Some(action), _) => action,
            (None, Some(2)) => Action::Delivered,
            (None, _) => Action::Failed,
        }
    }
}
