//! The native API over a log and read models in memory: every resource, the conventions, and walks over the document.
#![expect(clippy::unwrap_used, reason = "tests may fail loudly")]

#[path = "http_api/audit.rs"]
mod audit;
#[path = "http_api/audit_table.rs"]
mod audit_table;
#[path = "http_api/conventions.rs"]
mod conventions;
#[path = "http_api/delivery.rs"]
mod delivery;
#[path = "http_api/dns.rs"]
mod dns;
#[path = "http_api/domains.rs"]
mod domains;
#[path = "http_api/framing.rs"]
mod framing;
#[path = "http_api/harness.rs"]
mod harness;
#[path = "http_api/injection.rs"]
mod injection;
#[path = "http_api/keys.rs"]
mod keys;
#[path = "http_api/limits.rs"]
mod limits;
#[path = "http_api/links.rs"]
mod links;
#[path = "http_api/mail.rs"]
mod mail;
#[path = "http_api/mailboxes.rs"]
mod mailboxes;
#[path = "http_api/matrix.rs"]
mod matrix;
#[path = "http_api/money.rs"]
mod money;
#[path = "http_api/notifications.rs"]
mod notifications;
#[path = "http_api/providers.rs"]
mod providers;
#[path = "http_api/sending.rs"]
mod sending;
#[path = "http_api/submissions.rs"]
mod submissions;
#[path = "http_api/suppressions.rs"]
mod suppressions;
#[path = "http_api/timing.rs"]
mod timing;
#[path = "http_api/uploads.rs"]
mod uploads;
#[path = "http_api/usage.rs"]
mod usage;
#[path = "http_api/walks.rs"]
mod walks;
#[path = "http_api/webhooks.rs"]
mod webhooks;
