//! What can happen to an outgoing mail.

use serde::{Deserialize, Serialize};

use super::notice::{NoticePlanned, NoticeSettled, NoticeWords};
use super::parts::{
    AttemptTrouble, Complaint, Letter, Machine, Mail, Onward, Parties, PostponeReason, RejectReason, Stage, To,
    UnitPrices, UnsubscribeMethod,
};
use crate::StreamId;
use crate::balance::Booking;
use crate::bounce::{Consequence, Kind, Source, Verdict};
use crate::event::stored_events;
use crate::id::{AddressId, BlobId, DomainId, GroupId, MessageId, ProviderId, ThreadId};
use crate::mailbox::SendScope;
use crate::suppression::Purpose;

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
    /// Who tells the sender from here on, where that was asked for (RFC 3461).
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub onward: Option<Onward>,
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
    /// Who tells the sender from here on, where that was asked for (RFC 3461).
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub onward: Option<Onward>,
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
    /// The sender is to be told by mail, as it asked.
    NoticePlanned(NoticePlanned, NoticeWords) = "outbound.notice_planned" v 1;
    /// It was told, or cannot be.
    NoticeSettled(NoticeSettled) = "outbound.notice_settled" v 1;
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
            Self::NoticePlanned(e) => &e.mail,
            Self::NoticeSettled(e) => &e.mail,
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
            | Self::Unsubscribed(_)
            | Self::NoticePlanned(_)
            | Self::NoticeSettled(_) => Booking::default(),
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
