//! Outgoing mail: what was accepted is carried out, and what came of it is recorded.
//!
//! The [`Reactor`] is one task. Per team it holds a lease, follows the log, and keeps a row for each mail that is not
//! settled: when to look at it. A look reads the mail's state from the log and does the next thing.
//!
//! Promises:
//! - **Never twice by itself.** An attempt is in the log before anything is handed over, and of several nodes that begin
//!   the same attempt one succeeds. What may have been handed over, and nobody knows, is recorded as uncertain and not
//!   tried again. To the recipients' own servers a lost answer is a deferral, as everywhere (RFC 5321 §4.5.3.2.6).
//! - **Never lost.** A mail is looked at again until it is settled; after a crash by whoever takes the lease.
//! - **Few accounts.** A login that is refused breaks the account and the mail tries the next; each at most once.
//! - **No neighbours.** Teams take turns, and one team's mail on its way is bounded.
//!
//! Return paths (RFC 5321 §4.4): with [`Config::bounce_domain`], a mail that goes straight to the recipients' servers is
//! one transaction per recipient, each from an address of its own ([`mail::verp`]), so that whatever comes back names its
//! recipient. A return path that the sender asked for is used as it is, in one transaction. Through SMTP accounts the
//! sender's address is used, because many providers take no other, unless the configuration says otherwise; Amazon SES
//! reports by itself.
//!
//! Who hands mail in by SMTP may ask to be told by mail what became of it (RFC 3461). Such a report is planned in the append of
//! what it tells, made from that event alone, and filed in the sender's mailbox here or, where there is none, sent as a mail
//! of its own by `notify.rs`. After a crash it is the same report, which a mailbox takes once.
//!
//! `visit.rs` decides about one mail, `letter.rs` makes it ready, `carry.rs` hands it over by way of `direct.rs`, `ses.rs`,
//! `sandbox.rs` and [`crate::smtp`], `results.rs` says what an answer means, `patience.rs` slows down where an account asks
//! for it, `reactor.rs` finds what is due.

mod carry;
mod config;
mod direct;
mod letter;
mod notify;
mod patience;
mod queue;
mod reactor;
mod results;
mod sandbox;
mod ses;
mod visit;

pub use config::Config;
pub use queue::{Queue, TRANSCRIPTS_MICROS, Transcript};
pub use reactor::{Addresses, Error, Parts, Reactor};
pub use sandbox::{Filing, LocalDelivery, NoLocalDelivery};

/// Something could not be read or written now; it is tried again.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Unready(String);

impl From<eventlog::LogError> for Unready {
    fn from(error: eventlog::LogError) -> Self {
        Self(error.to_string())
    }
}
