//! The decisions of the runner without its database, for the model checker.

pub use crate::runner::Visit;
pub use crate::runner::step::Step;
