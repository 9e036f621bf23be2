//! What holds for every projection, whatever happened: checked on generated histories.

mod erasing;
pub(crate) mod history;
mod lists;
mod money;
mod postgres;
mod properties;
mod rebuilding;
mod running;
mod threading;
pub(crate) mod world;
