//! The decisions behind streams, without the tasks that carry them out: the model checker runs them in every order.

pub use super::feed::Progress;
pub use super::filter::Filter;
pub use super::frame::Encoded;
pub use super::resume::{Reach, Start, judge, within_reach};
pub use super::window::{Step, Taken, Window};
