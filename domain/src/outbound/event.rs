//! What can happen to an outgoing mail.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::report::Report;
use crate::StreamId;
use crate::balance::Booking;
use crate::bounce::{Consequence, Kind, Source, Verdict};
use crate::event::stored_events;
use crate::id::{AddressId, BlobId, DomainId, GroupId, KeyId, MailboxId, MessageId, OutboundId, ProviderId, ThreadId};
use crate::mailbox::SendScope;
use crate::message::Person;
use crate::money::Nanos;
use crate::suppression::Purpose;

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

/// Facts of `outbound.accepted`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Accepted {
    /// Which mail.
    pub mail: Mail,
    /// Through which door it came.
    pub origin: super::Origin,
    /// The recipients; their place is their number in all later events.
    pub recipients: Vec<To>,
    /// Where its bytes are.
    pub blob: BlobId,
    /// How many bytes.
    pub size_bytes: i64,
    /// Lower-case hex of the SHA-256 of the bytes.
    pub sha256: String,
    /// The accounts of the key and the mailbox, where they are not all.
    pub scopes: Vec<SendScope>,
    /// The delivery groups it asked for.
    pub groups: Vec<GroupId>,
    /// The team's domain in `From`, whose key signs.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub domain: Option<DomainId>,
    /// What kind of mail it is.
    pub purpose: Purpose,
    /// What it is about, for unsubscriptions.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub topic: Option<String>,
    /// Whether it goes to addresses that bounced or complained.
    pub forced: bool,
    /// Whether opening it is noticed.
    pub track_opens: bool,
    /// What a recipient costs.
    pub prices: UnitPrices,
    /// The money held.
    pub booking: Booking,
    /// When it was accepted, microseconds since the Unix epoch.
    pub accepted_at: i64,
    /// When it is to be sent; `None` at once.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub send_at: Option<i64>,
    /// How long it is tried after it is due, microseconds.
    pub lifetime_micros: i64,
    /// Its copy in the mailbox.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub copy: Option<MessageId>,
    /// The thread of that copy.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub thread: Option<ThreadId>,
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

/// Personal half of `outbound.accepted`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Letter {
    /// Header `From`.
    pub from: Person,
    /// The envelope sender the caller asked for.
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

/// Facts of events that only name their mail.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subject {
    /// Which mail.
    pub mail: Mail,
}

/// Facts of `outbound.rescheduled`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rescheduled {
    /// Which mail.
    pub mail: Mail,
    /// When it is to be sent from now on, microseconds since the Unix epoch.
    pub send_at: i64,
}

/// Facts of `outbound.cancelled`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cancelled {
    /// Which mail.
    pub mail: Mail,
    /// The recipients it will not be sent to; what is in flight goes on.
    pub recipients: Vec<u8>,
    /// The money let go.
    #[serde(default)]
    pub booking: Booking,
}

/// Facts of `outbound.retry_requested`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RetryRequested {
    /// Which mail.
    pub mail: Mail,
    /// The recipients that are due now.
    pub recipients: Vec<u8>,
    /// Whether some of them may get it twice.
    pub uncertain: bool,
    /// When, microseconds since the Unix epoch.
    pub at: i64,
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

/// Facts of `outbound.postponed`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Postponed {
    /// Which mail.
    pub mail: Mail,
    /// Why it waits.
    pub reason: PostponeReason,
    /// Until when, if that is known, microseconds since the Unix epoch.
    pub until: Option<i64>,
}

/// Facts of `outbound.attempt_started`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttemptStarted {
    /// Which mail.
    pub mail: Mail,
    /// 1, 2, 3 …
    pub attempt: u32,
    /// The account.
    pub account: ProviderId,
    /// Whether it costs the managed price.
    pub managed: bool,
    /// The recipients it is for.
    pub recipients: Vec<u8>,
    /// When, microseconds since the Unix epoch.
    pub at: i64,
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

/// Facts of `outbound.attempt_failed`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttemptFailed {
    /// Which mail.
    pub mail: Mail,
    /// Which attempt.
    pub attempt: u32,
    /// Its account.
    pub account: ProviderId,
    /// Why.
    pub trouble: AttemptTrouble,
    /// Whether the account is left behind for good.
    pub leaves_account: bool,
    /// When its recipients are due again, microseconds since the Unix epoch.
    pub retry_at: i64,
}

/// Facts of `outbound.sent`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sent {
    /// Which mail.
    pub mail: Mail,
    /// Which attempt.
    pub attempt: u32,
    /// The account that took it.
    pub account: ProviderId,
    /// Whether it costs the managed price.
    pub managed: bool,
    /// The recipients it was taken for.
    pub recipients: Vec<u8>,
    /// The money charged.
    #[serde(default)]
    pub booking: Booking,
    /// When, microseconds since the Unix epoch.
    pub at: i64,
}

/// Facts of `outbound.delivered`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Delivered {
    /// Which mail.
    pub mail: Mail,
    /// The recipients whose server has it.
    pub recipients: Vec<u8>,
    /// Who told us.
    pub source: Source,
    /// The account that carried it.
    pub account: Option<ProviderId>,
    /// Whether it costs the managed price.
    pub managed: bool,
    /// The money charged, where it was not before.
    #[serde(default)]
    pub booking: Booking,
    /// When, microseconds since the Unix epoch.
    pub at: i64,
}

/// Facts of `outbound.deferred`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deferred {
    /// Which mail.
    pub mail: Mail,
    /// Which attempt.
    pub attempt: u32,
    /// The recipients that are tried again.
    pub recipients: Vec<u8>,
    /// What the server said.
    pub verdict: Verdict,
    /// Whether the server may have taken it all the same.
    pub uncertain: bool,
    /// When they are due again, microseconds since the Unix epoch.
    pub retry_at: i64,
    /// Until when they are tried.
    pub expires_at: i64,
    /// Whether outsiders are told of the delay this time.
    pub announced: bool,
    /// When, microseconds since the Unix epoch.
    pub at: i64,
}

/// Facts of `outbound.delayed`: another server, which has the mail, is late.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Delayed {
    /// Which mail.
    pub mail: Mail,
    /// The recipient.
    pub recipient: u8,
    /// What the server said.
    pub verdict: Verdict,
    /// Who told us.
    pub source: Source,
    /// Until when it is tried there.
    pub expires_at: Option<i64>,
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

/// Facts of `outbound.uncertain`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Uncertain {
    /// Which mail.
    pub mail: Mail,
    /// Which attempt.
    pub attempt: u32,
    /// The recipients who may have it.
    pub recipients: Vec<u8>,
    /// How far it had come.
    pub stage: Stage,
    /// When, microseconds since the Unix epoch.
    pub at: i64,
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

/// Facts of `outbound.rejected`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rejected {
    /// Which mail.
    pub mail: Mail,
    /// The recipients it is not sent to.
    pub recipients: Vec<u8>,
    /// Why.
    pub reason: RejectReason,
    /// What the server said, if one did.
    pub verdict: Option<Verdict>,
    /// The money let go.
    #[serde(default)]
    pub booking: Booking,
    /// When, microseconds since the Unix epoch.
    pub at: i64,
}

/// Facts of `outbound.bounced`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bounced {
    /// Which mail.
    pub mail: Mail,
    /// The recipient.
    pub recipient: u8,
    /// Who, as a keyed digest.
    pub address: AddressId,
    /// Whether trying again could help.
    pub kind: Kind,
    /// What the server said.
    pub verdict: Verdict,
    /// Who told us.
    pub source: Source,
    /// Whether it had been delivered before.
    pub late: bool,
    /// Whether what is charged costs the managed price.
    pub managed: bool,
    /// The money let go or charged.
    #[serde(default)]
    pub booking: Booking,
    /// When, microseconds since the Unix epoch.
    pub at: i64,
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

/// Facts of `outbound.complained`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Complained {
    /// Which mail.
    pub mail: Mail,
    /// The recipient.
    pub recipient: u8,
    /// What about.
    pub complaint: Complaint,
    /// Who told us.
    pub source: Source,
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

/// Facts of `outbound.opened`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Opened {
    /// Which mail.
    pub mail: Mail,
    /// The recipient.
    pub recipient: u8,
    /// Whether it was a program.
    pub machine: Machine,
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

/// Facts of `outbound.unsubscribed`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unsubscribed {
    /// Which mail.
    pub mail: Mail,
    /// The recipient.
    pub recipient: u8,
    /// How.
    pub method: UnsubscribeMethod,
    /// The topic; `None` for all.
    pub topic: Option<String>,
}

/// Facts of `outbound.released`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Released {
    /// Which mail.
    pub mail: Mail,
    /// The recipients whose outcome nobody knows.
    pub recipients: Vec<u8>,
    /// The money let go.
    #[serde(default)]
    pub booking: Booking,
}

stored_events! {
    /// What can happen to an outgoing mail.
    enum Event;
    /// It was taken over, and money is held for it.
    Accepted(Accepted, Letter) = "outbound.accepted" v 1;
    /// It is to be sent at another time.
    Rescheduled(Rescheduled) = "outbound.rescheduled" v 1;
    /// It waits until it is resumed.
    Paused(Subject) = "outbound.paused" v 1;
    /// It goes on.
    Resumed(Subject) = "outbound.resumed" v 1;
    /// It is not sent any more.
    Cancelled(Cancelled, Parties) = "outbound.cancelled" v 1;
    /// Somebody wants it tried now.
    RetryRequested(RetryRequested) = "outbound.retry_requested" v 1;
    /// It waits though it is due.
    Postponed(Postponed) = "outbound.postponed" v 1;
    /// It is about to be handed over.
    AttemptStarted(AttemptStarted) = "outbound.attempt_started" v 1;
    /// Nothing was handed over.
    AttemptFailed(AttemptFailed, Parties) = "outbound.attempt_failed" v 1;
    /// A provider took it.
    Sent(Sent, Parties) = "outbound.sent" v 1;
    /// The recipients' server took it.
    Delivered(Delivered, Parties) = "outbound.delivered" v 1;
    /// It is tried again later.
    Deferred(Deferred, Parties) = "outbound.deferred" v 1;
    /// A server that has it is late.
    Delayed(Delayed, Parties) = "outbound.delayed" v 1;
    /// Nobody knows whether it was taken.
    Uncertain(Uncertain, Parties) = "outbound.uncertain" v 1;
    /// It was not taken.
    Rejected(Rejected, Parties) = "outbound.rejected" v 1;
    /// The recipient's server does not want it, or it could not be delivered in time.
    Bounced(Bounced, Parties) = "outbound.bounced" v 1;
    /// A recipient complained about it.
    Complained(Complained, Parties) = "outbound.complained" v 1;
    /// It was opened.
    Opened(Opened, Parties) = "outbound.opened" v 1;
    /// A recipient wants no more of its kind.
    Unsubscribed(Unsubscribed, Parties) = "outbound.unsubscribed" v 1;
    /// Its outcome stayed unknown; the money is free again.
    Released(Released) = "outbound.released" v 1;
}

impl Event {
    /// Returns which mail it is about.
    #[must_use]
    pub fn mail(&self) -> &Mail {
        match self {
            Self::Accepted(e) => &e.mail,
            Self::Rescheduled(e) => &e.mail,
            Self::Paused(e) | Self::Resumed(e) => &e.mail,
            Self::Cancelled(e) => &e.mail,
            Self::RetryRequested(e) => &e.mail,
            Self::Postponed(e) => &e.mail,
            Self::AttemptStarted(e) => &e.mail,
            Self::AttemptFailed(e) => &e.mail,
            Self::Sent(e) => &e.mail,
            Self::Delivered(e) => &e.mail,
            Self::Deferred(e) => &e.mail,
            Self::Delayed(e) => &e.mail,
            Self::Uncertain(e) => &e.mail,
            Self::Rejected(e) => &e.mail,
            Self::Bounced(e) => &e.mail,
            Self::Complained(e) => &e.mail,
            Self::Opened(e) => &e.mail,
            Self::Unsubscribed(e) => &e.mail,
            Self::Released(e) => &e.mail,
        }
    }

    /// Returns what it does to the team's money.
    #[must_use]
    pub fn booking(&self) -> Booking {
        match self {
            Self::Accepted(e) => e.booking,
            Self::Cancelled(e) => e.booking,
            Self::Sent(e) => e.booking,
            Self::Delivered(e) => e.booking,
            Self::Rejected(e) => e.booking,
            Self::Bounced(e) => e.booking,
            Self::Released(e) => e.booking,
            Self::Rescheduled(_)
            | Self::Paused(_)
            | Self::Resumed(_)
            | Self::RetryRequested(_)
            | Self::Postponed(_)
            | Self::AttemptStarted(_)
            | Self::AttemptFailed(_)
            | Self::Deferred(_)
            | Self::Delayed(_)
            | Self::Uncertain(_)
            | Self::Complained(_)
            | Self::Opened(_)
            | Self::Unsubscribed(_) => Booking::default(),
        }
    }

    /// Returns whether what it charges costs the managed price.
    #[must_use]
    pub fn is_managed(&self) -> bool {
        match self {
            Self::Sent(e) => e.managed,
            Self::Delivered(e) => e.managed,
            Self::Bounced(e) => e.managed,
            _ => false,
        }
    }

    pub(crate) fn links(&self) -> Vec<StreamId> {
        let money = (!self.booking().is_nothing()).then_some(StreamId::Balance);
        let evidence = match self {
            Self::Bounced(e) if matches!(e.verdict.category.consequence(), Consequence::AfterSome { .. }) => {
                Some(StreamId::Suppression(e.address.clone()))
            }
            _ => None,
        };
        money.into_iter().chain(evidence).collect()
    }
}
