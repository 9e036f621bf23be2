//! The SMTP doors over real sockets: what clients see, and what is in the log afterwards.
#![expect(clippy::unwrap_used, reason = "tests may fail loudly")]

#[path = "smtp_door/backends.rs"]
mod backends;
#[path = "smtp_door/clients.rs"]
mod clients;
#[path = "smtp_door/connections.rs"]
mod connections;
#[path = "smtp_door/durability.rs"]
mod durability;
#[path = "smtp_door/harness.rs"]
mod harness;
#[path = "smtp_door/mails.rs"]
mod mails;
#[path = "smtp_door/recipients.rs"]
mod recipients;
#[path = "submission_door/submission.rs"]
mod submission;
#[path = "smtp_door/tls.rs"]
mod tls;
