//! The submission door, and what comes back of what went out through it.

#[path = "clients.rs"]
mod clients;
#[path = "dialogue.rs"]
mod dialogue;
#[path = "harness.rs"]
mod harness;
#[path = "mails.rs"]
mod mails;
#[path = "reports.rs"]
mod reports;
