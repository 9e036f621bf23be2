//! The outbound reactor against SMTP servers on loopback, over PostgreSQL.
#![expect(clippy::unwrap_used, reason = "tests may fail loudly")]
#![expect(clippy::disallowed_methods, reason = "servers end with the runtime of their test")]

#[path = "outbound/server.rs"]
mod server;
#[path = "outbound/store_postgres.rs"]
mod store;
#[path = "outbound/stories.rs"]
mod stories;
#[path = "outbound/world.rs"]
mod world;
