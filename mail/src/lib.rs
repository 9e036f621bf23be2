//! Email formats and protocols: bytes in, values out.
//!
//! This crate knows RFCs and nothing of teams, mailboxes that exist, or events. Everything in it is a
//! function of its arguments: no IO, clock, randomness, environment, async or logging. The invariant that
//! matters most to the others: an [`address::Address`] is valid wherever it appears, and no text of this
//! crate that goes into a header line or a command can break out of its line.

pub mod address;
pub mod smtp;
