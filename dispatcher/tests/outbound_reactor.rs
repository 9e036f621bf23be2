//! The outbound reactor against SMTP servers on loopback, over a log in memory and SQLite.
#![expect(clippy::unwrap_used, reason = "tests may fail loudly")]
#![expect(clippy::disallowed_methods, reason = "servers end with the runtime of their test")]

#[path = "outbound/server.rs"]
mod server;
#[path = "outbound/store_sqlite.rs"]
mod store;
#[path = "outbound/stories.rs"]
mod stories;
#[path = "outbound/world.rs"]
mod world;
