//! Work that one node does for all: the one that holds its lease.
//!
//! Such work may be done twice without harm (it drops what has expired, or computes what is computed alike everywhere), so
//! the lease saves work and nothing hangs on it.

use projections::db::Cells;
use projections::webhook_attempts::Work;
use projections::{Error, exec, rows};

/// `$1`: name; `$2`: node; `$3`: end of the lease; `$4`: now. The epoch grows with every change of hands.
const HOLD: &str = "
INSERT INTO duties (name, owner, epoch, expires_at) VALUES ($1, $2, 1, $3)
ON CONFLICT (name) DO UPDATE
SET owner = excluded.owner, expires_at = excluded.expires_at,
    epoch = duties.epoch + CASE WHEN duties.owner = excluded.owner THEN 0 ELSE 1 END
WHERE duties.owner = excluded.owner OR duties.expires_at <= $4
RETURNING epoch";

/// A duty of this installation, as one node sees it. Cheap to clone.
#[derive(Clone)]
pub struct Duty {
    work: Work,
    name: &'static str,
    node: String,
}

impl std::fmt::Debug for Duty {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Duty").field("name", &self.name).field("node", &self.node).finish_non_exhaustive()
    }
}

impl Duty {
    /// The table of duties, for [`Work`]'s constructors.
    pub const TABLES: &'static str = include_str!("duty.sql");

    /// Returns a duty of a work database that was opened with [`Duty::TABLES`]. `node` differs between nodes.
    #[must_use]
    pub fn new(work: Work, name: &'static str, node: impl Into<String>) -> Self {
        Self { work, name, node: node.into() }
    }

    /// Takes the duty, or keeps it, until a time (microseconds since the Unix epoch); returns the epoch of the lease, or
    /// `None` while another node holds it.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn hold(&self, now: i64, until: i64) -> Result<Option<i64>, Error> {
        let mut tx = self.work.begin().await?;
        let held = rows!(tx, HOLD, self.name, self.node.as_str(), until, now)?;
        tx.commit().await?;
        held.first().map(|cells: &Cells| cells.get("epoch")).transpose()
    }

    /// Gives the duty back, if this node holds it: another may take it at once.
    ///
    /// # Errors
    /// The database does not answer; then the lease ends by itself.
    pub async fn give_back(&self) -> Result<(), Error> {
        let mut tx = self.work.begin().await?;
        let sql = "UPDATE duties SET expires_at = 0 WHERE name = $1 AND owner = $2";
        exec!(tx, sql, self.name, self.node.as_str())?;
        tx.commit().await
    }
}

#[cfg(test)]
mod tests {
    use eventlog::testing::Cluster;

    use super::*;

    async fn works() -> [Work; 2] {
        let cluster = Cluster::shared();
        let database = cluster.create_database(None).await;
        let postgres = Work::open_postgres(&cluster.url(&database), &[Duty::TABLES]).await.unwrap();
        [Work::memory(&[Duty::TABLES]).await.unwrap(), postgres]
    }

    #[tokio::test]
    async fn one_node_holds_a_duty_until_its_lease_ends() {
        for work in works().await {
            let (a, b) = (Duty::new(work.clone(), "tidy", "a"), Duty::new(work.clone(), "tidy", "b"));
            assert_eq!(a.hold(0, 10).await.unwrap(), Some(1));
            assert_eq!(b.hold(9, 19).await.unwrap(), None);
            assert_eq!(a.hold(9, 19).await.unwrap(), Some(1), "its own is prolonged");
            assert_eq!(b.hold(18, 28).await.unwrap(), None);
            assert_eq!(b.hold(19, 29).await.unwrap(), Some(2), "it has ended");
            assert_eq!(a.hold(20, 30).await.unwrap(), None);
            a.give_back().await.unwrap();
            assert_eq!(a.hold(20, 30).await.unwrap(), None, "what another holds is not given back");
            b.give_back().await.unwrap();
            assert_eq!(a.hold(20, 30).await.unwrap(), Some(3));
            assert_eq!(Duty::new(work, "other", "b").hold(20, 30).await.unwrap(), Some(1), "duties are apart");
        }
    }
}
