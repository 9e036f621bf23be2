//! The promises of the event streams, checked through the router and over real sockets, by a parser of their own.
#![expect(clippy::unwrap_used, reason = "tests may fail loudly")]

#[path = "stream_contract/cuts.rs"]
mod cuts;
#[path = "stream_contract/endings.rs"]
mod endings;
#[path = "stream_contract/events.rs"]
mod events;
#[path = "stream_contract/handover.rs"]
mod handover;
#[path = "stream_contract/harness.rs"]
mod harness;
#[path = "stream_contract/parser.rs"]
mod parser;
#[path = "stream_contract/requests.rs"]
mod requests;
#[path = "stream_contract/sockets.rs"]
mod sockets;
#[path = "stream_contract/time.rs"]
mod time;
