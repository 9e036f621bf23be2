//! The webhook reactor against receivers on loopback, over a log in memory and SQLite.
#![expect(clippy::unwrap_used, reason = "tests may fail loudly")]
#![expect(clippy::disallowed_methods, reason = "receivers end with the runtime of their test")]

#[path = "webhook/clocks.rs"]
mod clocks;
#[path = "webhook/crashes.rs"]
mod crashes;
#[path = "webhook/deliveries.rs"]
mod deliveries;
#[path = "webhook/failures.rs"]
mod failures;
#[path = "webhook/isolation.rs"]
mod isolation;
#[path = "webhook/nodes.rs"]
mod nodes;
#[path = "webhook/random.rs"]
mod random;
#[path = "support/reactor.rs"]
mod reactor;
#[path = "webhook/store_sqlite.rs"]
mod store;
#[path = "webhook/world.rs"]
mod world;
