//! What can be read: each projection is one fold of the log into tables of its own.
//!
//! A projection is thrown away and computed again from the log whenever its [`Projection::version`] changes; nothing
//! here is truth, and no decision reads it. [`Views`] is the handle readers hold, [`Runner`] the one task that
//! keeps the tables up with every team's log: it applies a page of events and moves the cursors in one transaction.
//!
//! Invariants:
//! - Rows equal the fold of the team's log up to the cursor, whatever the batches were.
//! - Every key begins with `team_id`; no read of one team returns anything of another.
//! - An event that a projection cannot take parks that projection for that team, and nothing else; it is never skipped.
//! - A personal half that was erased shows as absent, never as an error; [`erasure`] takes it out of rows made before.
#![cfg_attr(test, expect(clippy::unwrap_used, reason = "tests may fail loudly"))]

pub mod api_keys;
pub mod audit;
pub mod balance;
mod behind;
pub mod db;
pub mod delivery_groups;
pub mod domains;
pub mod email_logs;
pub mod email_metrics;
pub mod erasure;
pub mod folders;
pub mod inbox_logs;
pub mod mailboxes;
pub mod messages;
#[cfg(feature = "model")]
pub mod model;
pub mod outbound;
pub mod page;
pub mod providers;
mod rebuild;
mod runner;
pub mod sent_mail;
pub mod suppressions;
mod table;
#[cfg(test)]
mod tests;
pub mod threads;
pub mod uploads;
pub mod usage;
mod views;
pub mod webhook_attempts;
pub mod webhooks;

use domain::id::{Position, TeamId};
use eventlog::{LogError, Recorded};

pub use behind::{Behind, behind};
pub use db::{Db, Tx};
pub use page::{Page, Paged};
pub use rebuild::{Progress, rebuild, replay};
pub use runner::Runner;
pub use table::Table;
pub use views::{Parked, Views};

/// One fold of the log into tables.
#[async_trait::async_trait]
pub trait Projection: Send + Sync + 'static {
    /// Returns its name, under which its cursors are kept.
    fn name(&self) -> &'static str;

    /// Returns the version of its tables and its fold. Any change of either is one more, never a migration.
    fn version(&self) -> i64;

    /// Returns its tables as SQL that SQLite understands; see [`db`] for what PostgreSQL gets.
    fn schema(&self) -> &'static str;

    /// Returns its tables' columns.
    fn tables(&self) -> &'static [&'static Table];

    /// Folds events of one team into the tables, within the caller's transaction. Events come in order of position,
    /// each exactly once.
    ///
    /// # Errors
    /// The database does not take the rows; the caller rolls back.
    async fn apply(&self, tx: &mut Tx<'_>, team: &TeamId, events: &[Recorded]) -> Result<(), Error>;
}

/// Every projection of the house.
pub static ALL: &[&dyn Projection] = &[
    &api_keys::ApiKeys,
    &mailboxes::Mailboxes,
    &messages::Messages,
    &webhooks::Webhooks,
    &usage::Usage,
    &audit::Audit,
    &inbox_logs::InboxLogs,
    &providers::Providers,
    &delivery_groups::DeliveryGroups,
    &domains::Domains,
    &suppressions::Suppressions,
    &balance::Balances,
    &outbound::OutboundMail,
    &sent_mail::SentMail,
];

/// Reading or computing views failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The database does not answer or refuses a statement.
    #[error("the views' database failed")]
    Database(#[from] sqlx::Error),
    /// The log could not be read.
    #[error("the log could not be read")]
    Log(#[from] LogError),
    /// A page cursor was not made by this list.
    #[error("the cursor is not one of this list")]
    BadCursor,
    /// A stored value is not what its column promises.
    #[error("column {column} holds something that was never written")]
    Corrupt {
        /// The column.
        column: String,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A value could not be written as JSON.
    #[error("a value could not be written as JSON")]
    Json(#[from] serde_json::Error),
    /// There is no projection of that name.
    #[error("there is no projection {0:?}")]
    UnknownProjection(String),
    /// A file could not be created or removed.
    #[error("cannot write {path}")]
    File {
        /// The file.
        path: std::path::PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Another build has made a projection's tables anew, with another version.
    #[error("the tables of {projection} belong to another build")]
    Superseded {
        /// The projection.
        projection: &'static str,
    },
    /// Another node moved a cursor; reading it again and trying again helps.
    #[error("another node has moved {projection} of {team}")]
    Moved {
        /// The projection.
        projection: &'static str,
        /// The team.
        team: TeamId,
    },
    /// Another rebuild is running.
    #[error("another rebuild is running")]
    RebuildRunning,
    /// The log ends before the wanted position.
    #[error("the log ends at {head}, before {wanted}")]
    BeyondHead {
        /// The wanted position.
        wanted: Position,
        /// Where it ends.
        head: Position,
    },
}

impl Error {
    /// Returns whether the world is at fault, so that trying again may help and no event is to blame.
    #[must_use]
    pub fn is_unavailable(&self) -> bool {
        match self {
            Self::Database(sqlx::Error::Database(e)) => db::is_unavailable(e.as_ref()),
            Self::Database(e) => {
                matches!(
                    e,
                    sqlx::Error::Io(_)
                        | sqlx::Error::Tls(_)
                        | sqlx::Error::Protocol(_)
                        | sqlx::Error::PoolTimedOut
                        | sqlx::Error::PoolClosed
                        | sqlx::Error::WorkerCrashed
                )
            }
            Self::Log(LogError::Store(eventlog::StoreError::Unavailable(_))) | Self::Moved { .. } => true,
            Self::Log(_)
            | Self::BadCursor
            | Self::Corrupt { .. }
            | Self::Json(_)
            | Self::UnknownProjection(_)
            | Self::File { .. }
            | Self::Superseded { .. }
            | Self::RebuildRunning
            | Self::BeyondHead { .. } => false,
        }
    }
}

/// Returns text as it is searched and sorted: lower case, so that both engines compare alike.
pub(crate) fn folded(text: &str) -> String {
    text.to_lowercase()
}

/// Returns the position as it is stored.
pub(crate) fn signed(position: Position) -> i64 {
    i64::try_from(position).unwrap_or(i64::MAX)
}
