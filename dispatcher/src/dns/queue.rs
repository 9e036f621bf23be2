//! When each team's domains are looked at next, and who does it: one row per team.
//!
//! Bookkeeping, not truth: a lost row is made anew, at the price of one look more.

use domain::id::TeamId;
use projections::db::Cells;
use projections::webhook_attempts::Work;
use projections::{Error, exec, rows};

/// A text for SQLite and the same for PostgreSQL.
type Pair = (&'static str, &'static str);

/// `$1`: teams; `$2`: when a new one is due.
const INSERT: Pair = (
    "INSERT INTO dns_checks (team_id, due_at, owner, expires_at)
     SELECT value, $2, '', 0 FROM json_each($1) WHERE true
     ON CONFLICT DO NOTHING",
    "INSERT INTO dns_checks (team_id, due_at, owner, expires_at)
     SELECT value, $2, '', 0 FROM json_array_elements_text($1::json)
     ON CONFLICT DO NOTHING",
);

/// `$1`: teams; `$2`: when they are due at the latest.
const HASTEN: Pair = (
    "UPDATE dns_checks SET due_at = $2 WHERE due_at > $2 AND team_id IN (SELECT value FROM json_each($1))",
    "UPDATE dns_checks SET due_at = $2
     WHERE due_at > $2 AND team_id IN (SELECT value FROM json_array_elements_text($1::json))",
);

/// `$1`: node; `$2`: end of the lease; `$3`: now; `$4`: how many.
const LEASE: Pair = (
    "UPDATE dns_checks SET owner = $1, expires_at = $2
     WHERE team_id IN (SELECT team_id FROM dns_checks
                       WHERE due_at <= $3 AND (owner = '' OR expires_at <= $3) ORDER BY due_at LIMIT $4)
     RETURNING team_id",
    "UPDATE dns_checks SET owner = $1, expires_at = $2
     WHERE team_id IN (SELECT team_id FROM dns_checks
                       WHERE due_at <= $3 AND (owner = '' OR expires_at <= $3) ORDER BY due_at LIMIT $4
                       FOR UPDATE SKIP LOCKED)
     RETURNING team_id",
);

const SETTLE: &str = "UPDATE dns_checks SET due_at = $3, owner = '', expires_at = 0 WHERE team_id = $1 AND owner = $2";

/// What this node held when it ended is free again: nobody else has its name.
const TAKE_BACK: &str = "UPDATE dns_checks SET owner = '', expires_at = 0 WHERE owner = $1";

/// Handle to the table. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Queue {
    work: Work,
}

fn list(teams: &[TeamId]) -> Result<String, Error> {
    Ok(serde_json::to_string(teams)?)
}

impl Queue {
    /// The table of this queue, for [`Work`]'s constructors.
    pub const TABLES: &'static str = include_str!("queue.sql");

    /// Returns the queue in a work database that was opened with [`Queue::TABLES`].
    #[must_use]
    pub fn new(work: Work) -> Self {
        Self { work }
    }

    /// Adds teams that are not known yet.
    pub(crate) async fn add(&self, teams: &[TeamId], due_at: i64) -> Result<(), Error> {
        let mut tx = self.work.begin().await?;
        let insert = tx.pick(INSERT.0, INSERT.1);
        exec!(tx, insert, list(teams)?, due_at)?;
        tx.commit().await
    }

    /// Makes teams due at a time at the latest.
    pub(crate) async fn hasten(&self, teams: &[TeamId], due_at: i64) -> Result<(), Error> {
        let mut tx = self.work.begin().await?;
        let hasten = tx.pick(HASTEN.0, HASTEN.1);
        exec!(tx, hasten, list(teams)?, due_at)?;
        tx.commit().await
    }

    /// Takes teams that are due and that nobody works for.
    pub(crate) async fn lease(
        &self,
        node: &str,
        now: i64,
        expires_at: i64,
        limit: usize,
    ) -> Result<Vec<TeamId>, Error> {
        let mut tx = self.work.begin().await?;
        let lease = tx.pick(LEASE.0, LEASE.1);
        let found = rows!(tx, lease, node, expires_at, now, i64::try_from(limit).unwrap_or(i64::MAX))?;
        tx.commit().await?;
        found.iter().map(|cells: &Cells| cells.parsed("team_id")).collect()
    }

    /// Gives a team back; it is due again at a time. Does nothing once another node has taken it.
    pub(crate) async fn settle(&self, team: &TeamId, node: &str, due_at: i64) -> Result<(), Error> {
        let mut tx = self.work.begin().await?;
        exec!(tx, SETTLE, team.as_str(), node, due_at)?;
        tx.commit().await
    }

    /// Gives back what a node held when it ended.
    pub(crate) async fn take_back(&self, node: &str) -> Result<(), Error> {
        let mut tx = self.work.begin().await?;
        exec!(tx, TAKE_BACK, node)?;
        tx.commit().await
    }
}
