//! Who may work at a webhook: the rule of leases. Pure.
//!
//! The statements in `sql.rs` say the same to the databases, where it has to hold: `tests/rule.rs` asks both the same things.

use super::Hold;

/// A lease as it is stored.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Lease {
    /// The node that has it; empty for none.
    pub owner: String,
    /// Grows by one with each taking; every write names it.
    pub epoch: i64,
    /// When it ends, microseconds since the Unix epoch.
    pub expires_at: i64,
}

impl Lease {
    /// Returns a lease that nobody ever had.
    #[must_use]
    pub fn free() -> Self {
        Self { owner: String::new(), epoch: 0, expires_at: 0 }
    }

    /// Returns the lease after a node has asked for it; `None` if another node has it.
    #[must_use]
    pub fn taken(&self, node: &str, now: i64, expires_at: i64) -> Option<Self> {
        let is_free = self.owner.is_empty() || self.owner == node || self.expires_at <= now;
        is_free.then(|| Self { owner: node.to_owned(), epoch: self.epoch + 1, expires_at })
    }

    /// Returns the lease after its holder has written under it; `None` if another has taken it meanwhile, in which case
    /// nothing is written.
    #[must_use]
    pub fn written(&self, node: &str, epoch: i64, hold: Hold, expires_at: i64) -> Option<Self> {
        if self.owner != node || self.epoch != epoch {
            return None;
        }
        let (owner, expires_at) = match hold {
            Hold::Keep => (self.owner.clone(), expires_at),
            Hold::HandOver => (self.owner.clone(), 0),
            Hold::Release => (String::new(), 0),
        };
        Some(Self { owner, epoch, expires_at })
    }

    /// Returns the lease prolonged; `None` if another has taken it meanwhile.
    #[must_use]
    pub fn renewed(&self, node: &str, epoch: i64, expires_at: i64) -> Option<Self> {
        self.written(node, epoch, Hold::Keep, expires_at)
    }
}
