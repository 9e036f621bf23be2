//! What we do about it: reactors that turn a team's events into effects in the world.
//!
//! It is deliberately not a second truth: whatever an effect has to say goes back into the log as a command.
//!
//! The ground that reactors stand on:
//! - [`egress`] is the only client for URLs that strangers gave us. It reaches public addresses and nothing else.
//! - [`retry`] says when the next attempt is due. It is a function of stored numbers, so a restart changes nothing.
//! - [`queue`] keeps leases, cursors and failures: durable, fenced, and never the truth.
//! - [`duty`] is the lease of work that one node does for all.
//!
//! - [`smtp`] hands mail over, to public addresses only as well.
//!
//! The reactors: [`webhook`] tells endpoints of events, [`outbound`] carries outgoing mail, [`dns`] looks up the records
//! of sending domains, [`checkpoints`] signs how long each log is, [`charges`] charges by the day what no mail is charged with.
//!
//! Invariants: no effect without a bound on its time and its bytes; no clock and no randomness inside, both are
//! handed in (only elapsed time is measured here).
#![cfg_attr(test, expect(clippy::unwrap_used, reason = "tests may fail loudly"))]

pub mod charges;
pub mod checkpoints;
pub mod dns;
pub mod duty;
pub mod egress;
#[cfg(feature = "model")]
pub mod model;
pub mod outbound;
pub mod queue;
pub mod retry;
pub mod smtp;
pub mod webhook;
