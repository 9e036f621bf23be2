//! Webhooks: events sent to endpoints that teams have named. A webhook is a cursor over its team's log.
//!
//! The [`Reactor`] is one task that visits webhooks with something to do. For each it holds a lease, reads the log
//! behind the cursor, renders, signs and POSTs the events its subscription asks for, and writes down in batches what
//! is settled. Only failures become rows. What changes a webhook's state goes into the log as a command.
//!
//! Promises:
//! - **At least once.** Every matching event is answered 2xx once, or ends exhausted after all attempts of the schedule,
//!   or waits while the webhook is off. Nothing is skipped but on the owner's or the operator's word.
//! - **Order.** Of one mailbox, event n + 1 is not attempted before n is settled. A node that was paused for longer than
//!   its lease may complete one old request late; the payload's `sequence` shows it.
//! - **Few duplicates.** After a 2xx an event is sent again only if its result had not been written down at a crash or
//!   takeover. All attempts have the same id and, unless personal data was erased meanwhile, the same bytes.
//! - **No neighbours.** Bounds per team and per host, and turns between teams, keep one team's dead endpoints from
//!   slowing another's.
//!
//! A blocked mailbox does not hold up the others: the window (`window.rs`) explains how, and what bounds it.

mod active;
mod attempt;
mod config;
mod endpoint;
mod item;
mod poison;
mod reactor;
pub mod sign;
mod turns;
pub(crate) mod verdict;
pub(crate) mod window;

pub use config::Config;
pub use poison::{Resolution, ResolveError, resolve_poisoned};
pub use reactor::{Error, Reactor};
