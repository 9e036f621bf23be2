//! Complaints: somebody pressed "this is spam" (RFC 5965, RFC 6591), in the standard's form and in the older ones.

use serde::{Deserialize, Serialize};

use crate::address::Address;
use crate::bounce::Original;
use crate::header::{Block, BlockLimits};
use crate::message::{ParseLimits, attachment_bytes, parse};

const LIMITS: BlockLimits = BlockLimits { fields_max: 100, bytes_max: 64 * 1024 };
const RECIPIENTS_MAX: usize = 100;

/// What a report is about (RFC 5965 §7.3, RFC 6591 §3.1, RFC 6430).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FeedbackType {
    /// Unwanted mail.
    Abuse,
    /// Fraud or phishing.
    Fraud,
    /// A virus.
    Virus,
    /// Taken for spam by mistake: no complaint.
    NotSpam,
    /// SPF, DKIM or DMARC failed: for the operator, no complaint.
    AuthFailure,
    /// The recipient wants no more of it.
    OptOut,
    /// Anything else.
    Other,
}

impl FeedbackType {
    /// Tells whether the recipient is not to be mailed any more.
    #[must_use]
    pub fn suppresses(self) -> bool {
        matches!(self, Self::Abuse | Self::OptOut | Self::Fraud | Self::Virus)
    }

    fn parse(text: &str) -> Self {
        match text.trim().to_ascii_lowercase().as_str() {
            "abuse" => Self::Abuse,
            "fraud" => Self::Fraud,
            "virus" => Self::Virus,
            "not-spam" => Self::NotSpam,
            "auth-failure" => Self::AuthFailure,
            "opt-out" | "opt-out-list" => Self::OptOut,
            _ => Self::Other,
        }
    }
}

/// A complaint about one mail.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Complaint {
    /// What it is about.
    pub feedback_type: FeedbackType,
    /// Who complained, where that is told; redacted addresses are left out.
    pub recipients: Vec<Address>,
    /// The envelope sender of the mail.
    pub mail_from: Option<String>,
    /// When the mail arrived, as written.
    pub arrival_date: Option<String>,
    /// Where the mail came from.
    pub source_ip: Option<String>,
    /// The domain the mail is held against.
    pub reported_domain: Option<String>,
    /// Which program wrote the report.
    pub user_agent: Option<String>,
    /// How many mails the report stands for.
    pub incidents: u32,
    /// The mail itself, as far as it was returned.
    pub original: Original,
}

/// Reads a complaint; `None` where the message is none.
#[must_use]
pub fn read_complaint(raw: &[u8]) -> Option<Complaint> {
    let limits =
        ParseLimits { decoded_bytes_max: 4 * 1024 * 1024, body_bytes_max: 64 * 1024, ..ParseLimits::default() };
    let parsed = parse(raw, &limits);
    let part = |wanted: &[&str]| {
        let found = parsed.attachments.iter().find(|part| wanted.contains(&part.content_type.as_str()))?;
        attachment_bytes(raw, found.part_id, &limits)
    };
    let returned = part(&["message/rfc822", "text/rfc822-headers", "message/rfc822-headers", "message/global"]);
    let returned = returned.unwrap_or_default();
    let from = parsed.from.as_ref().map(|from| from.email.to_ascii_lowercase()).unwrap_or_default();
    let subject = parsed.subject.as_deref().unwrap_or_default().to_ascii_lowercase();
    let feedback = match part(&["message/feedback-report"]) {
        Some(feedback) => feedback,
        // One large host sends the mail alone, and says what it is in the subject.
        None if from.starts_with("staff@") && subject.starts_with("complaint about message from") => {
            let source = parsed.subject.as_deref().unwrap_or_default().rsplit(' ').next().unwrap_or_default();
            format!("Feedback-Type: abuse\nSource-IP: {source}\n").into_bytes()
        }
        None => return None,
    };
    Some(complaint(&feedback, &returned))
}

fn complaint(feedback: &[u8], returned: &[u8]) -> Complaint {
    let block = Block::scan(feedback, LIMITS);
    let text = |name: &str| block.first(name).map(|field| field.text()).filter(|text| !text.is_empty());
    let original = Original::read(returned);
    let mut recipients: Vec<Address> = Vec::new();
    let named = block.all("Original-Rcpt-To").map(|field| field.text());
    let header = Block::scan(returned, LIMITS);
    let hidden = ["X-HmXmrOriginalRecipient", "X-Original-To", "Delivered-To"];
    let hidden = hidden.iter().flat_map(|name| header.all(name)).map(|field| field.text());
    let shown = original.to.iter().cloned();
    for candidates in [named.collect::<Vec<_>>(), hidden.collect(), shown.collect()] {
        // What is more certain is enough.
        if !recipients.is_empty() {
            break;
        }
        for candidate in candidates.into_iter().take(RECIPIENTS_MAX) {
            let bare = candidate.trim().trim_start_matches("rfc822;").trim().trim_matches(['<', '>']);
            if let Ok(address) = Address::parse(bare)
                && !is_redacted(&address)
                && !recipients.contains(&address)
            {
                recipients.push(address);
            }
        }
    }
    let bare = |value: String| value.trim().trim_matches(['<', '>']).to_owned();
    Complaint {
        feedback_type: text("Feedback-Type").map_or(FeedbackType::Other, |value| FeedbackType::parse(&value)),
        recipients,
        mail_from: text("Original-Mail-From").map(bare),
        arrival_date: text("Arrival-Date").or_else(|| text("Received-Date")),
        source_ip: text("Source-IP"),
        reported_domain: text("Reported-Domain"),
        user_agent: text("User-Agent"),
        incidents: text("Incidents").and_then(|value| value.trim().parse().ok()).unwrap_or(1).max(1),
        original,
    }
}

/// Hosts hide who complained (RFC 6590).
fn is_redacted(address: &Address) -> bool {
    let local = address.local().to_ascii_lowercase();
    local.contains("redacted") || local == "undisclosed" || local.bytes().all(|byte| matches!(byte, b'x' | b'*' | b'-'))
}
