//! Email formats and protocols without IO: bytes in, values out.
//!
//! Everything here knows RFCs and nothing of teams, events or storage. There is no clock, no randomness and no
//! environment: the same input gives the same output for ever. The only `async` is the DNS resolver trait that
//! sender verification ([`auth`]) is given by its caller.
//!
//! Invariants: every function is total over hostile bytes (no panic, no unbounded recursion, work at most
//! proportional to the input times a fixed limit), every text that leaves the crate is valid UTF-8 without NUL, and an
//! [`address::Address`] is valid wherever it appears: it cannot break out of a header line or a command.
#![cfg_attr(test, expect(clippy::unwrap_used, reason = "tests"))]

pub mod address;
pub mod auth;
pub mod content;
pub mod header;
pub mod html;
pub mod message;
pub mod smtp;
pub mod spam;
pub mod thread;
