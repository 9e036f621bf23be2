//! The decisions behind webhooks, without the tasks that carry them out: the model checker runs them in every order.

pub use crate::queue::Hold;
pub use crate::queue::lease::Lease;
pub use crate::webhook::verdict::{Reply, Verdict, ended, is_over, lease_covers, retrying, verdict};
pub use crate::webhook::window::{Bounds, Lane, Phase, Row, Settlement, Snapshot, Window, Work};
