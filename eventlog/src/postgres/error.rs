//! Why a database cannot be opened.

use sqlx::migrate::MigrateError;

/// The store could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The server does not answer, or not as one would.
    #[error("cannot open the PostgreSQL database")]
    Connect(#[source] sqlx::Error),
    /// The tables could not be brought up to date.
    #[error("cannot migrate the PostgreSQL database")]
    Migrate(#[source] MigrateError),
    /// A newer program has changed the tables.
    #[error(
        "the PostgreSQL database was written by a newer postlog: its tables are of version {found}, this program knows \
         {known}; start the newer program"
    )]
    Newer {
        /// The version of its tables.
        found: i64,
        /// The newest version that this program knows.
        known: i64,
    },
    /// Its settings can lose what was acknowledged; each is named.
    #[error("the PostgreSQL server can lose acknowledged events: {}", .0.join("; "))]
    Unsafe(Vec<String>),
    /// What it holds was never written.
    #[error("the PostgreSQL database is damaged: {0}")]
    Damaged(String),
}
