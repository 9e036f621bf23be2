//! The sending client: whole dialogues, each also in pieces, and against our own receiving session over a pipe that
//! cuts and reorders.
#![expect(clippy::unwrap_used, reason = "tests")]

#[path = "smtp_client/against_session.rs"]
mod against_session;
#[path = "smtp_client/dialogue.rs"]
mod dialogue;
#[path = "smtp_client/opening.rs"]
mod opening;
#[path = "smtp_client/script.rs"]
mod script;
