//! Looks for what would show the guarantees false.
//!
//! - [`model`]: every interleaving, up to stated bounds, of crashes, lost answers, takeovers, pauses and reconnections.
//!   What is decided in it is decided by the program's own functions; what the tasks around them do step by step (read,
//!   wait, write) is stated here once more, as actions that may happen in any order.
//! - [`book`]: the team's log in the model, kept by the lane's decisions and the store's rule.
//! - The program `simulate` (`src/bin/simulate`): the program's own tasks in simulated time, over a simulated network.
//!
//! It is for development only: nothing of the product imports it.

pub mod book;
pub mod model;
pub mod parts;
pub mod replay;
pub mod walk;
