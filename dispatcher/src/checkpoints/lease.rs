//! Which node signs: one row. It saves work and nothing else; two nodes that sign at once write parts of one tree.

use projections::webhook_attempts::Work;
use projections::{Error, exec, rows};

/// `$1`: node; `$2`: end of the lease; `$3`: now.
const TAKE: &str = "INSERT INTO checkpoint_leases (name, owner, expires_at) VALUES ('sign', $1, $2)
     ON CONFLICT (name) DO UPDATE SET owner = excluded.owner, expires_at = excluded.expires_at
     WHERE checkpoint_leases.owner = excluded.owner OR checkpoint_leases.expires_at <= $3
     RETURNING owner";

const GIVE_BACK: &str = "UPDATE checkpoint_leases SET expires_at = 0 WHERE owner = $1";

/// Handle to the row. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Lease {
    work: Work,
}

impl Lease {
    /// The table, for [`Work`]'s constructors.
    pub const TABLES: &'static str = include_str!("lease.sql");

    /// Returns the lease in a work database that was opened with [`Lease::TABLES`].
    #[must_use]
    pub fn new(work: Work) -> Self {
        Self { work }
    }

    /// Takes or prolongs the lease; returns whether this node has it.
    pub(super) async fn hold(&self, node: &str, now: i64, expires_at: i64) -> Result<bool, Error> {
        let mut tx = self.work.begin().await?;
        let held = !rows!(tx, TAKE, node, expires_at, now)?.is_empty();
        tx.commit().await?;
        Ok(held)
    }

    /// Lets another node have it at once.
    pub(super) async fn give_back(&self, node: &str) -> Result<(), Error> {
        let mut tx = self.work.begin().await?;
        exec!(tx, GIVE_BACK, node)?;
        tx.commit().await
    }
}
