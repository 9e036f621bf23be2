//! Reports between mail systems: complaints that come in (RFC 5965), delivery notifications that go out (RFC 3464).
//! Delivery notifications that come in are [`bounce`](crate::bounce)'s.

mod complaint;
mod dsn;

pub use complaint::{Complaint, FeedbackType, read_complaint};
pub use dsn::{Dsn, DsnRecipient, compose_dsn};
