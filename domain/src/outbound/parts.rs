//! What events of an outgoing mail are made of.

use std::collections::BTreeMap;

use mail::smtp::{RcptParameters, Return};
use serde::{Deserialize, Serialize};

use super::report::Report;
use crate::id::{AddressId, KeyId, MailboxId, OutboundId};
use crate::message::Person;
use crate::money::Nanos;

/// Which mail an event is about, and who sent it: outcomes are recorded by Postlog itself and billed to them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mail {
    /// The mail.
    pub outbound: OutboundId,
    /// The mailbox it was sent as.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub mailbox: Option<MailboxId>,
    /// The key it was handed in with.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub key: Option<KeyId>,
}

/// Where a recipient stands in the header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RecipientKind {
    /// `To`.
    To,
    /// `Cc`.
    Cc,
    /// Nowhere.
    Bcc,
}

/// A recipient without personal data.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct To {
    /// Who, as a keyed digest.
    pub address: AddressId,
    /// Where it stands in the header.
    pub kind: RecipientKind,
}

/// What one recipient costs, fixed when the mail is accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct UnitPrices {
    /// Through the team's own account.
    pub own_nanos: Nanos,
    /// Through a managed account.
    pub managed_nanos: Nanos,
    /// What is held until it is known which.
    pub held_nanos: Nanos,
}

/// What the caller wrote on a mail to find it again.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Labels {
    /// Tags.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub tags: Vec<String>,
    /// Names and values.
    #[serde(skip_serializing_if = "BTreeMap::is_empty", default)]
    pub metadata: BTreeMap<String, String>,
}

/// What a client asked of reports about a mail's delivery (RFC 3461), to be handed on as it is.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Notices {
    /// `RET`: what a failure report returns.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub ret: Option<Return>,
    /// `ENVID`: the client's own id of the mail.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub envid: Option<String>,
    /// `NOTIFY` and `ORCPT` of each recipient, in the order of the facts.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub recipients: Vec<RcptParameters>,
}

impl Notices {
    /// Returns whether anything was asked.
    #[must_use]
    pub fn is_nothing(&self) -> bool {
        let plain = |to: &RcptParameters| to.notify.is_none() && to.original.is_none();
        self.ret.is_none() && self.envid.is_none() && self.recipients.iter().all(plain)
    }
}

/// Who tells the sender what becomes of a mail that was handed on (RFC 3461 §5.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Onward {
    /// It lies in the recipient's mailbox: this is where its way ends.
    Delivered,
    /// The next server reports as it was asked to, to the sender.
    Promised,
    /// The next server reports as it was asked to, and its reports come to us.
    PromisedHere,
    /// The next server offers no reports; what it returns goes to the sender.
    Silent,
    /// The next server offers no reports; what it returns comes to us.
    SilentHere,
}

impl Onward {
    /// Returns who tells of a mail that a server has taken.
    #[must_use]
    pub fn at_server(offers_dsn: bool, returns_here: bool) -> Self {
        match (offers_dsn, returns_here) {
            (true, true) => Self::PromisedHere,
            (true, false) => Self::Promised,
            (false, true) => Self::SilentHere,
            (false, false) => Self::Silent,
        }
    }

    /// Returns whether the sender hears of failures and delays without us.
    pub(super) fn is_told_elsewhere(self) -> bool {
        matches!(self, Self::Promised | Self::Silent)
    }
}

/// Personal half of `outbound.accepted`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Letter {
    /// Header `From`.
    pub from: Person,
    /// The envelope sender that was asked for; empty for the null sender.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub return_path: Option<String>,
    /// The recipients, in the order of the facts.
    pub recipients: Vec<Person>,
    /// Header `Reply-To`.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub reply_to: Vec<Person>,
    /// Header `Subject`, decoded.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub subject: Option<String>,
    /// The Message-ID, without angle brackets; never changes.
    pub rfc5322_message_id: String,
    /// What the caller wrote on it.
    #[serde(default)]
    pub labels: Labels,
    /// What was asked of reports about its delivery.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub notices: Option<Notices>,
}

/// Personal half of what is heard of a mail.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Parties {
    /// Who sent it.
    pub sender: String,
    /// The recipients the event is about.
    pub recipients: Vec<String>,
    /// The Message-ID, without angle brackets.
    pub rfc5322_message_id: String,
    /// The provider's id of it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub provider_message_id: Option<String>,
    /// What the server said: one line, at most 1,000 characters.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub diagnostic: Option<String>,
    /// The server that said it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub remote_mta: Option<String>,
    /// What the caller wrote on the mail.
    #[serde(default)]
    pub labels: Labels,
}

impl Parties {
    /// Returns these parties with what a server said.
    #[must_use]
    pub(crate) fn saying(mut self, report: &Report) -> Self {
        self.provider_message_id.clone_from(&report.provider_message_id);
        self.diagnostic.clone_from(&report.diagnostic);
        self.remote_mta.clone_from(&report.remote_mta);
        self
    }
}

/// Why a mail waits though it is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PostponeReason {
    /// All eligible accounts have used up their quotas.
    QuotaReached,
    /// Every account in scope is switched off or broken.
    NoActiveProviders,
    /// The provider or the recipients' servers ask for patience.
    Throttled,
    /// The way out is closed for now.
    TransportParked,
}

/// Why an attempt came to nothing before anything was handed over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AttemptTrouble {
    /// The login was refused.
    LoginRefused,
    /// The server could not be reached.
    Unreachable,
    /// The server wants us to come later.
    Throttled,
    /// The attempt was given up before it began: a restart, a lease that ran out.
    Abandoned,
}

/// How far an attempt had come when it was lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// All was written and no answer came.
    NoAnswer,
    /// We stopped between handing over and writing it down.
    Interrupted,
}

/// Why a recipient's mail was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RejectReason {
    /// The address is on the suppression list.
    Suppressed,
    /// The provider refused it.
    Provider,
    /// No account in scope can be used.
    NoActiveProviders,
    /// The mail cannot be sent this way, for example 8-bit addresses to an old server.
    NotSendable,
}

impl RejectReason {
    /// Returns the name as stored and shown.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Suppressed => "suppressed",
            Self::Provider => "provider",
            Self::NoActiveProviders => "no_active_providers",
            Self::NotSendable => "not_sendable",
        }
    }
}

/// What somebody complains about (RFC 5965 §7.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Complaint {
    /// Unwanted mail.
    Abuse,
    /// A fraud.
    Fraud,
    /// A virus.
    Virus,
    /// It was taken for spam and is not.
    NotSpam,
    /// Wants no more of it.
    OptOut,
    /// Something else.
    Other,
}

impl Complaint {
    /// Returns the name as stored and shown.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Abuse => "abuse",
            Self::Fraud => "fraud",
            Self::Virus => "virus",
            Self::NotSpam => "not-spam",
            Self::OptOut => "opt-out",
            Self::Other => "other",
        }
    }

    /// Returns whether the address is not written to any more.
    #[must_use]
    pub fn suppresses(self) -> bool {
        !matches!(self, Self::NotSpam)
    }
}

/// Whether a person opened a mail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Machine {
    /// A program: a proxy that fetches every picture, a scanner.
    Yes,
    /// A person.
    No,
    /// Nobody knows.
    Unknown,
}

/// How somebody unsubscribed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UnsubscribeMethod {
    /// One click (RFC 8058).
    OneClick,
    /// A mail to the address in List-Unsubscribe (RFC 2369).
    Mail,
    /// The page behind the link.
    Page,
    /// The provider told us.
    Provider,
}
