//! What holds for every projection, whatever happened: checked on generated histories.

#[path = "../../eventlog/tests/support/cluster.rs"]
mod cluster;
mod erasing;
mod history;
mod lists;
mod postgres;
mod properties;
mod rebuilding;
mod running;
mod threading;
mod world;
