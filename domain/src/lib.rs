//! What may happen in Postlog, and why not: commands, decisions and events.
//!
//! This crate is pure. It has no IO, no clock, no randomness, no `async` and no logging: ids and the
//! time arrive inside a command or its [`Moment`], so the same input gives the same output for ever.
//! It knows no HTTP, no SQL and no wire dialect, except the pure renderers in [`published`].
//!
//! The main types are [`Command`] (a wish), [`Event`] (a fact) and the folds in one file per
//! aggregate. A command names the streams it must read; [`Command::decide`] sees nothing else.
//!
//! Invariants:
//! - `decide` never changes anything; `evolve` never fails and never decides.
//! - The same command decided again on the state after its own events yields no events.
//! - A stored event name never changes its meaning; a changed shape is a new version with an upcast.
#![cfg_attr(test, expect(clippy::unwrap_used, reason = "tests may fail loudly"))]

pub mod api_key;
pub mod balance;
pub mod billing;
pub mod bounce;
pub mod delivery_group;
pub mod egress;
pub mod entity;
pub mod event;
pub mod id;
pub mod mailbox;
pub mod message;
pub mod money;
pub mod outbound;
pub mod permission;
pub mod personal;
pub mod provider;
pub mod published;
pub mod retry;
pub mod routing;
pub mod sending_domain;
pub mod site;
pub mod stream;
pub mod suppression;
pub mod team;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod upcast;
pub mod webhook_endpoint;

pub use entity::{Entity, Fold, State, Versioned};
pub use event::Event;
pub use personal::{Halves, Nothing, Personal};
pub use stream::StreamId;

use id::TeamId;

/// Who caused an event. Rendered into the record as `kind:id`; never contains personal data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Actor {
    /// A request authenticated by an API key.
    ApiKey(id::KeyId),
    /// The person who runs this installation, through the command line.
    Operator,
    /// A mail peer that handed over a message by SMTP.
    Smtp,
    /// Postlog itself, for example the webhook dispatcher.
    System(&'static str),
}

impl std::fmt::Display for Actor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::ApiKey(id) => write!(f, "key:{id}"),
            Self::Operator => f.write_str("operator"),
            Self::Smtp => f.write_str("smtp"),
            Self::System(part) => write!(f, "system:{part}"),
        }
    }
}

/// When and for which team a decision is taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Moment {
    /// The team whose log is written.
    pub team: TeamId,
    /// Microseconds since the Unix epoch, UTC.
    pub now: i64,
}

/// A wish. Answered with facts, or with the reason why not.
pub trait Command: Send + Sync + 'static {
    /// Only what this decision must know: one fold or a tuple of folds, see [`State`].
    type State: State;
    /// Why the wish can be refused.
    type Rejected: std::error::Error + Send + Sync + 'static;

    /// Returns the streams to fold, in the order of the parts of [`Command::State`].
    fn streams(&self) -> Vec<StreamId>;

    /// Returns the events that fulfil the wish; none when it is fulfilled already.
    ///
    /// # Errors
    /// The rule that forbids the wish.
    fn decide(&self, state: &Self::State, at: &Moment) -> Result<Vec<Event>, Self::Rejected>;
}
