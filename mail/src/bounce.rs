//! Bounces, told apart: who was not reached, why, and whether it is for good (RFC 3461 to 3464, RFC 6522, and what
//! mail systems send in their place).
//!
//! [`read`] takes a message that came back and answers with one outcome per recipient, or with the reason why it is no
//! bounce. [`classify_reply`] takes an SMTP reply and answers with the same words, so that a refusal in a session and
//! one in a report mean the same. The knowledge is in tables: `bounce/rules.txt`, `bounce/signs.txt` and
//! `bounce/status_codes.rs`.
//!
//! A `5xx` is not "hard": most are about the sender, the content or a policy, and say nothing about the address.
//! Invariant: whatever the bytes, an answer; texts in it have no control characters and at most 1,000 characters.

mod codes;
mod notice;
mod original;
mod phrases;
mod report;
mod session;
mod signs;
mod status_codes;
mod text;

use serde::{Deserialize, Serialize};

use crate::address::Address;

pub use notice::NotABounce;
pub use original::Original;

/// Longest diagnostic kept, in characters.
const DIAGNOSTIC_CHARS_MAX: usize = 1000;
/// Recipients read from one report.
const RECIPIENTS_MAX: usize = 1000;
/// What is read of a text about one recipient, in octets: what matters is said at the beginning.
const SAID_OCTETS_MAX: usize = 8 * 1024;

/// Whether an address is worth another mail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BounceType {
    /// The address does not exist, or its account is closed.
    Hard,
    /// The address may well exist.
    Soft,
    /// Nothing can be said.
    Undetermined,
}

/// Why a mail was not delivered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Category {
    /// There is no such mailbox.
    UserUnknown,
    /// There is no such domain, or it takes no mail.
    DomainUnknown,
    /// The mailbox exists but is disabled or suspended.
    MailboxInactive,
    /// The mailbox, or the disk it is on, is full.
    MailboxFull,
    /// The message is too large.
    MessageTooLarge,
    /// The content was taken for spam, a virus or otherwise unwanted.
    ContentRejected,
    /// The sender's host, address or reputation is not welcome.
    PolicyBlocked,
    /// SPF, DKIM or DMARC failed.
    AuthFailure,
    /// Too much at once.
    RateLimited,
    /// First contact is always refused; later tries are not.
    Greylisted,
    /// The host asked is not responsible for the recipient.
    RelayDenied,
    /// The host cannot be reached.
    Network,
    /// The message goes in circles.
    RoutingLoop,
    /// We said something wrong.
    Protocol,
    /// It was tried for too long.
    Expired,
    /// The sender's address is not accepted.
    SenderRejected,
    /// None of these.
    Undetermined,
}

impl Category {
    /// Returns the name used on the wire: `user_unknown`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::UserUnknown => "user_unknown",
            Self::DomainUnknown => "domain_unknown",
            Self::MailboxInactive => "mailbox_inactive",
            Self::MailboxFull => "mailbox_full",
            Self::MessageTooLarge => "message_too_large",
            Self::ContentRejected => "content_rejected",
            Self::PolicyBlocked => "policy_blocked",
            Self::AuthFailure => "auth_failure",
            Self::RateLimited => "rate_limited",
            Self::Greylisted => "greylisted",
            Self::RelayDenied => "relay_denied",
            Self::Network => "network",
            Self::RoutingLoop => "routing_loop",
            Self::Protocol => "protocol",
            Self::Expired => "expired",
            Self::SenderRejected => "sender_rejected",
            Self::Undetermined => "undetermined",
        }
    }

    /// Reads the name.
    fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|category| category.as_str() == name)
    }

    /// Every category.
    pub const ALL: [Self; 17] = [
        Self::UserUnknown,
        Self::DomainUnknown,
        Self::MailboxInactive,
        Self::MailboxFull,
        Self::MessageTooLarge,
        Self::ContentRejected,
        Self::PolicyBlocked,
        Self::AuthFailure,
        Self::RateLimited,
        Self::Greylisted,
        Self::RelayDenied,
        Self::Network,
        Self::RoutingLoop,
        Self::Protocol,
        Self::Expired,
        Self::SenderRejected,
        Self::Undetermined,
    ];

    /// Returns when the address is to be suppressed.
    #[must_use]
    pub fn suppression(self) -> Suppression {
        match self {
            Self::UserUnknown | Self::DomainUnknown => Suppression::AtOnce,
            Self::MailboxInactive => {
                Suppression::After { failures: 2, within_days: 14, spread_days: 0, for_days: None }
            }
            Self::MailboxFull => {
                Suppression::After { failures: 5, within_days: 90, spread_days: 7, for_days: Some(30) }
            }
            Self::Expired => Suppression::After { failures: 3, within_days: 90, spread_days: 0, for_days: None },
            _ => Suppression::Never,
        }
    }
}

/// When failures of a category make an address one that is not mailed any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Suppression {
    /// The failures say nothing about the address.
    Never,
    /// With the first failure, if it is hard.
    AtOnce,
    /// With so many in a row.
    After {
        /// Failures in a row.
        failures: u32,
        /// The days they have to fall into.
        within_days: u32,
        /// The days there have to be between the first and the last.
        spread_days: u32,
        /// The days after which the address is mailed again; for ever where there are none.
        for_days: Option<u32>,
    },
}

/// What a failure means.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Classification {
    /// Whether the address is worth another mail.
    pub bounce_type: BounceType,
    /// Why it failed.
    pub category: Category,
    /// The SMTP reply code, where one was found.
    pub smtp_code: Option<u16>,
    /// The enhanced status code, where one was found (RFC 3463).
    pub enhanced_code: Option<String>,
    /// What the host said, on one line.
    pub diagnostic: String,
}

/// What became of the mail for one recipient (RFC 3464 §2.3.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// It bounced.
    Failed,
    /// It is still being tried: no bounce.
    Delayed,
    /// It was delivered: no bounce.
    Delivered,
    /// It was handed to a system that sends no reports: no bounce.
    Relayed,
    /// It was sent on to several addresses: no bounce.
    Expanded,
}

/// The outcome for one recipient.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// The recipient that the report names.
    pub address: Option<Address>,
    /// The recipient as we named it, where the report tells (`Original-Recipient`).
    pub original_address: Option<Address>,
    /// What became of the mail.
    pub action: Action,
    /// What that means. Of weight only where `action` is `failed`.
    #[serde(flatten)]
    pub classification: Classification,
    /// The host that refused.
    pub remote_mta: Option<String>,
}

/// A report about mail that was sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bounce {
    /// One for each recipient named; at least one.
    pub recipients: Vec<Outcome>,
    /// What it says of the mail it is about.
    pub original: Original,
    /// The host that wrote the report.
    pub reporting_mta: Option<String>,
    /// Whether the report has the standard's form.
    pub standard: bool,
}

impl Bounce {
    /// Returns the recipients that were not reached.
    pub fn failed(&self) -> impl Iterator<Item = &Outcome> {
        self.recipients.iter().filter(|outcome| outcome.action == Action::Failed)
    }
}

/// What a message turned out to be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Incoming {
    /// A report about mail that was sent.
    Bounce(Bounce),
    /// Something else.
    NotABounce(NotABounce),
}

/// Reads a message that came to a return path.
#[must_use]
pub fn read(raw: &[u8]) -> Incoming {
    notice::read(raw, 0)
}

/// Where in a session a reply came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// Looking the host up, or connecting.
    Connect,
    /// In place of the greeting.
    Greeting,
    /// To EHLO or HELO.
    Hello,
    /// To STARTTLS.
    StartTls,
    /// To AUTH.
    Auth,
    /// To MAIL.
    Mail,
    /// To RCPT.
    Rcpt,
    /// To DATA, BDAT, or the content.
    Data,
}

/// Classifies an SMTP reply by the same rules as a report.
///
/// `enhanced` is the status code in front of the text, where there is one; `text` is the rest, on one or several lines.
#[must_use]
pub fn classify_reply(stage: Stage, code: u16, enhanced: Option<&str>, text: &str) -> Classification {
    let evidence = Evidence {
        smtp_code: Some(code),
        enhanced: enhanced.and_then(codes::Enhanced::parse).or_else(|| codes::enhanced(text)),
        status: None,
        diagnostic: text,
        surroundings: "",
        stage: Some(stage),
    };
    evidence.classify()
}

/// Classifies a failure below SMTP: no reply was had. `text` says what happened: `connection timed out`.
#[must_use]
pub fn classify_failure(text: &str) -> Classification {
    let evidence =
        Evidence { smtp_code: None, enhanced: None, status: None, diagnostic: text, surroundings: "", stage: None };
    let found = evidence.classify();
    if found.category != Category::Undetermined {
        return found;
    }
    Classification { category: Category::Network, bounce_type: BounceType::Soft, ..found }
}

/// Classifies what a report says of one recipient by the same rules: its status code, and what the host said with the type
/// of that in front (`smtp; 550 5.1.1 …`), as in RFC 3464 §2.3.4 and §2.3.6.
#[must_use]
pub fn classify_reported(status: Option<&str>, diagnostic: &str) -> Classification {
    report::Recipient::of_fields(status, diagnostic).outcome("").classification
}

/// All that is known about one failure.
struct Evidence<'a> {
    smtp_code: Option<u16>,
    /// The status code in the diagnostic: more precise than that of the report.
    enhanced: Option<codes::Enhanced>,
    /// The status code of the report.
    status: Option<codes::Enhanced>,
    diagnostic: &'a str,
    /// What else the report says about it, for people.
    surroundings: &'a str,
    stage: Option<Stage>,
}

impl Evidence<'_> {
    fn classify(&self) -> Classification {
        let phrases::Verdict { category, for_good } = self.verdict();
        // The code of the reply says whether another try may help; the rest only says why (RFC 5321 §4.2.1).
        let class = self.smtp_code.map(|code| code / 100);
        let class = class.or_else(|| self.enhanced.or(self.status).map(|status| u16::from(status.class)));
        let for_good = for_good || matches!(category, Category::UserUnknown | Category::DomainUnknown);
        // A code that says more than "failed for good" was a host's refusal, which is not proof against an address.
        let says_nothing = |code: &codes::Enhanced| code.is_generic() && code.class == 5;
        let nothing_said = self.smtp_code.is_none() && self.enhanced.iter().chain(&self.status).all(says_nothing);
        let bounce_type = match category {
            Category::Undetermined if nothing_said => BounceType::Undetermined,
            _ if for_good && class != Some(4) => BounceType::Hard,
            _ => BounceType::Soft,
        };
        Classification {
            bounce_type,
            category,
            smtp_code: self.smtp_code,
            enhanced_code: self
                .enhanced
                .filter(|code| !code.is_generic())
                .or(self.status)
                .or(self.enhanced)
                .map(|code| code.to_string()),
            diagnostic: one_line(self.diagnostic),
        }
    }

    /// The text of the reply is the best witness, then its codes, then what the report says around them.
    fn verdict(&self) -> phrases::Verdict {
        let temporary = self
            .smtp_code
            .map_or_else(|| self.enhanced.or(self.status).is_some_and(|code| code.class == 4), |code| code / 100 == 4);
        let said =
            |text: &str| phrases::Said::new(text, self.enhanced.or(self.status), self.smtp_code, temporary).verdict();
        let by_code = |code: Option<codes::Enhanced>| code.and_then(status_codes::category).map(Into::into);
        said(self.diagnostic)
            .or_else(|| by_code(self.enhanced))
            .or_else(|| by_code(self.status))
            .or_else(|| said(self.surroundings))
            .or_else(|| status_codes::by_reply_code(self.smtp_code?, self.stage).map(Into::into))
            .map_or(Category::Undetermined.into(), |verdict| self.at_its_stage(verdict))
    }

    /// Before RCPT there is no recipient yet: what does not exist then is ours.
    fn at_its_stage(&self, verdict: phrases::Verdict) -> phrases::Verdict {
        let of_an_address =
            matches!(verdict.category, Category::UserUnknown | Category::DomainUnknown | Category::MailboxInactive);
        match self.stage {
            Some(Stage::Mail) if of_an_address => Category::SenderRejected.into(),
            Some(Stage::Greeting | Stage::Hello) if of_an_address => Category::PolicyBlocked.into(),
            _ => verdict,
        }
    }
}

/// Returns as much of a text about one recipient as is read.
fn beginning(text: &str) -> &str {
    &text[..text.floor_char_boundary(text.len().min(SAID_OCTETS_MAX))]
}

/// Returns a text on one line, without control characters, cut to the longest diagnostic.
fn one_line(text: &str) -> String {
    let words: Vec<&str> =
        beginning(text).split(|c: char| c.is_whitespace() || c.is_control()).filter(|word| !word.is_empty()).collect();
    words.join(" ").chars().take(DIAGNOSTIC_CHARS_MAX).collect()
}
