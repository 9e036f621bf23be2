//! What holds for every projection, whatever happened: checked on generated histories.

#[path = "../../eventlog/tests/support/cluster.rs"]
pub(crate) mod cluster;
mod erasing;
pub(crate) mod history;
mod lists;
mod postgres;
mod properties;
mod rebuilding;
mod running;
mod threading;
pub(crate) mod world;
