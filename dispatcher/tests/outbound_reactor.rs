//! The outbound reactor against SMTP servers on loopback, over a log in memory and SQLite.
#![expect(clippy::unwrap_used, reason = "tests may fail loudly")]
#![expect(clippy::disallowed_methods, reason = "servers end with the runtime of their test")]

#[path = "outbound/control.rs"]
mod control;
#[path = "outbound/crashes.rs"]
mod crashes;
#[path = "outbound/fairness.rs"]
mod fairness;
#[path = "outbound/faults.rs"]
mod faults;
#[path = "outbound/gate.rs"]
mod gate;
#[path = "outbound/judge.rs"]
mod judge;
#[path = "outbound/notices.rs"]
mod notices;
#[path = "outbound/paths.rs"]
mod paths;
#[path = "support/reactor.rs"]
mod reactor;
#[path = "outbound/server.rs"]
mod server;
#[path = "outbound/ses.rs"]
mod ses;
#[path = "outbound/simulator.rs"]
mod simulator;
#[path = "outbound/store_sqlite.rs"]
mod store;
#[path = "outbound/stories.rs"]
mod stories;
#[path = "outbound/world.rs"]
mod world;
