//! An outgoing mail: from acceptance to the last that is heard of it.
//!
//! A mail is accepted once with all its recipients, money is held for them, and from then on each recipient has an
//! outcome of its own. Attempts are events: what may have been handed over is known after any crash.
//!
//! ```text
//! waiting ─ attempt_started ─> in flight ─┬─ sent ──────> delivered ──> bounced (late)
//!    ^                                    ├─ delivered      │  bounced
//!    ├── deferred, attempt_failed ────────┤                 └─ complained, opened, unsubscribed: beside the outcome
//!    │                                    ├─ rejected, bounced
//!    └── retry_requested ── uncertain <───┘
//!                               └─ released after 24 h ─> unknown ─> delivered, bounced (late evidence)
//! ```
//!
//! Invariants:
//! - Each recipient is charged at most once, and only after a provider or the recipient's server took the mail.
//! - What is held for a recipient is either charged or released, never both, and always one of them in the end.
//! - A recipient has one final outcome; a late bounce after delivery, and evidence after `unknown`, are the exceptions.
//! - What may have been handed over is never handed over again unless somebody asks for it.
//! - An account that was left behind is never used again for the same mail.
//! - What the sender asked to be told by mail is planned in the append of what it is to be told (`notice.rs`).
//! - The state is bounded by the number of recipients.

mod accept;
mod attempt;
mod control;
mod event;
mod feedback;
mod notice;
mod parts;
pub mod report;
mod return_path;
mod state;

pub use accept::{AcceptMail, Acceptance, NewRecipient, Origin, SentCopy};
pub use attempt::{BeginAttempt, FailAttempt, Outcome, RecordResults, RejectWaiting, Results};
pub use control::{CancelMail, PostponeMail, ReleaseUncertain, RescheduleMail, RetryMail, SwitchMail};
pub use event::{
    Accepted, AttemptFailed, AttemptStarted, Bounced, Cancelled, Complained, Deferred, Delayed, Delivered, Event,
    Opened, Postponed, Rejected as RejectedFacts, Released, Rescheduled, RetryRequested, Sent, Subject, Uncertain,
    Unsubscribed,
};
pub use feedback::{Feedback, RecordFeedback};
pub use notice::{
    DropReason, NewReport, Notice, NoticeAction, NoticeOf, NoticeOutcome, NoticePlanned, NoticeSettled, NoticeWords,
    SendNotice, SettleNotice, Told, Words,
};
pub use parts::{
    AttemptTrouble, Complaint, Labels, Letter, Machine, Mail, Notices, Onward, Parties, PostponeReason, RecipientKind,
    RejectReason, Stage, To, UnitPrices, UnsubscribeMethod,
};
pub use return_path::ReturnPath;
pub use state::{Outbound, Recipient, Status};

use crate::id::{AddressId, GroupId};
use crate::money::Nanos;

/// The most recipients one mail may have, repeats included.
pub const RECIPIENTS_MAX: usize = 50;

/// How long money is held for a recipient whose outcome nobody knows, microseconds.
pub const UNKNOWN_AFTER_MICROS: i64 = 24 * 60 * 60 * 1_000_000;

/// Why a command about an outgoing mail can be refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Rejected {
    /// There is no such team.
    #[error("no such team")]
    UnknownTeam,
    /// There is no such mail.
    #[error("no such mail")]
    Unknown,
    /// No recipient, or more than a mail may have.
    #[error("a mail has 1 to {RECIPIENTS_MAX} recipients")]
    Recipients,
    /// The key is revoked.
    #[error("the key is revoked")]
    KeyRevoked,
    /// The mailbox is suspended, closed or does not exist.
    #[error("the mailbox is not active")]
    MailboxNotActive,
    /// Neither a verified domain nor an account of the team stands behind the sender's address.
    #[error("the team may not send as this address")]
    SenderNotAllowed,
    /// There is no such delivery group.
    #[error("no such delivery group: {0}")]
    UnknownGroup(GroupId),
    /// No account in scope can be used.
    #[error("no sending account in scope is active")]
    NoActiveProviders,
    /// There is not enough money.
    #[error("the balance is too low")]
    InsufficientCredits {
        /// What would be held.
        needed: Nanos,
        /// What can be spent.
        available: Nanos,
    },
    /// Sending is stopped for this mail, or for the part it belongs to.
    #[error("the mail is paused")]
    Paused,
    /// The mail waits for its time.
    #[error("the mail is not due yet")]
    NotDue,
    /// The account cannot carry this mail.
    #[error("the account is not eligible for this mail")]
    AccountNotEligible,
    /// An attempt number that was not expected.
    #[error("the attempt is not the mail's next one")]
    WrongAttempt,
    /// A recipient's address was not read with the mail.
    #[error("the suppression list was not read for {0}")]
    AddressNotRead(AddressId),
    /// Nothing is left that could be changed.
    #[error("the mail is on its way or settled")]
    TooLate,
    /// Nothing was ever handed over for this recipient.
    #[error("the mail was not sent to this recipient")]
    NotSent,
    /// The mail changed since the caller read it.
    #[error("the mail has changed since it was read")]
    VersionMismatch {
        /// The current version.
        current: u64,
    },
}

#[cfg(test)]
mod tests;
