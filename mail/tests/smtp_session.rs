//! Whole dialogues with a receiving session. Every script is also fed in pieces of 1, 2, 7 and 64 octets and
//! must give the same transcript and the same deliveries.
#![expect(clippy::unwrap_used, reason = "tests")]

#[path = "smtp_session/auth.rs"]
mod auth;
#[path = "smtp_session/bdat.rs"]
mod bdat;
#[path = "smtp_session/data.rs"]
mod data;
#[path = "smtp_session/dialogue.rs"]
mod dialogue;
#[path = "smtp_session/driver.rs"]
mod driver;
#[path = "smtp_session/limits.rs"]
mod limits;
#[path = "smtp_session/order.rs"]
mod order;
#[path = "smtp_session/properties.rs"]
mod properties;
#[path = "smtp_session/recipients.rs"]
mod recipients;
#[path = "smtp_session/time.rs"]
mod time;
