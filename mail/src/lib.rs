//! Email formats and protocols: bytes in, values out.
//!
//! This crate knows RFCs and nothing of teams, mailboxes that exist, events or storage. Everything in it is a function
//! of its arguments: no IO, clock, randomness, environment or logging. The only `async` is the DNS resolver trait that
//! sender verification ([`auth`]) is given by its caller.
//!
//! Invariants:
//! - An [`address::Address`] is valid wherever it appears, and no text of this crate that goes into a header line or a
//!   command can break out of its line.
//! - Every function is total over hostile bytes: no panic, no unbounded recursion, work at most proportional to the
//!   input times a fixed limit.
//! - Every text that leaves the crate is valid UTF-8 without NUL.
#![cfg_attr(test, expect(clippy::unwrap_used, reason = "tests may fail loudly"))]

pub mod address;
pub mod auth;
pub mod bounce;
pub mod compose;
pub mod content;
pub mod header;
pub mod html;
pub mod message;
pub mod report;
pub mod smtp;
pub mod spam;
pub mod submission;
pub mod thread;
pub mod unsubscribe;
pub mod verp;
