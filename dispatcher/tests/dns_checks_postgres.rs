//! Checks of the DNS records of sending domains, over PostgreSQL.
#![expect(clippy::unwrap_used, reason = "tests may fail loudly")]
#![expect(clippy::disallowed_methods, reason = "checkers end with the runtime of their test")]

#[path = "support/reactor.rs"]
mod reactor;
#[path = "dns/store_postgres.rs"]
mod store;
#[path = "dns/stories.rs"]
mod stories;
#[path = "dns/world.rs"]
mod world;
