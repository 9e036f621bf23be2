//! One way to speak to two engines: SQLite in a file or in memory, or a PostgreSQL schema.
//!
//! An enum and macros instead of a generic parameter: concrete drivers in both arms, plain texts, no bounds on any
//! function. SQL is shared wherever both engines understand it; where they differ, [`Tx::pick`] names both texts.
//!
//! Table definitions are written once, as SQLite reads them: for PostgreSQL `TEXT` compares by bytes
//! (`COLLATE "C"`) as it does in SQLite, and `WITHOUT ROWID` is left out.

mod held;
mod select;

use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use eventlog::postgres::{Answering, Servers};
#[doc(hidden)]
pub use sqlx;
use sqlx::error::DatabaseError;
use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions, PgRow};
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteJournalMode, SqliteLockingMode, SqlitePoolOptions, SqliteRow, SqliteSynchronous,
};
use sqlx::{
    AssertSqlSafe, ConnectOptions, Decode, PgConnection, PgPool, Postgres, Row as _, Sqlite, SqliteConnection,
    SqlitePool, Transaction, Type,
};

use crate::Error;

#[doc(hidden)]
pub use held::at_once;
pub use held::{Carried, Held, HeldReader, HeldTx, Line};
pub use select::Select;

/// Connections that read a SQLite file at the same time.
const READERS: u32 = 4;
/// Connections to PostgreSQL.
const POSTGRES_CONNECTIONS: u32 = 8;
/// How long a node that stops in the middle of a PostgreSQL transaction keeps its locks: then another goes on.
const HOLD: &str = "10s";
/// The same for the transactions of a scratch schema, which nobody else wants and which may rest.
const SCRATCH_HOLD: &str = "300s";
/// How long a statement waits for the one SQLite writer.
const WRITER_WAIT: Duration = Duration::from_secs(120);

/// A database of views. Cheap to clone.
#[derive(Debug, Clone)]
pub enum Db {
    /// One connection writes, a few read.
    Sqlite {
        /// A pool of exactly one connection.
        writer: SqlitePool,
        /// Read-only connections.
        readers: SqlitePool,
        /// How the same database is attached by another connection.
        location: String,
        /// The file; `None` in memory.
        path: Option<PathBuf>,
    },
    /// All connections see one schema.
    Postgres {
        /// Connections whose `search_path` is the schema.
        pool: PgPool,
        /// The schema.
        schema: String,
        /// How another schema is opened.
        servers: Servers,
    },
    /// At the end of a simulated line.
    Held(Held),
}

/// A transaction.
#[derive(Debug)]
pub enum Tx<'c> {
    /// Of the one writer.
    Sqlite(Transaction<'c, Sqlite>),
    /// Of any connection.
    Postgres(Transaction<'c, Postgres>, Answering),
    /// Of a simulated database.
    Held(HeldTx),
}

/// A connection to read with.
#[derive(Debug)]
pub enum Reader {
    /// Read-only.
    Sqlite(PoolConnection<Sqlite>),
    /// Any connection.
    Postgres(PoolConnection<Postgres>, Answering),
    /// Of a simulated database.
    Held(HeldReader),
}

/// What [`exec!`](crate::exec), [`fetch_all!`](crate::fetch_all), [`fetch_opt!`](crate::fetch_opt) and
/// [`rows!`](crate::rows) run on: whatever has a method `connection` that returns one.
#[derive(Debug)]
pub enum Connection<'a> {
    /// SQLite.
    Sqlite(&'a mut SqliteConnection),
    /// PostgreSQL.
    Postgres(&'a mut PgConnection, &'a Answering),
    /// SQLite, whose answers are waited for without letting simulated time pass.
    Held(&'a mut SqliteConnection),
}

/// Runs a statement and returns how many rows it touched: `exec!(tx, "UPDATE … WHERE a = $1", a)?`.
#[macro_export]
macro_rules! exec {
    ($on:expr, $sql:expr $(, $bind:expr)* $(,)?) => {
        match $on.connection() {
            $crate::db::Connection::Sqlite(c) => {
                $crate::db::sqlx::query($sql)$(.bind($bind))*.execute(&mut *c).await.map(|done| done.rows_affected())
            }
            $crate::db::Connection::Postgres(c, answering) => {
                let work = $crate::db::sqlx::query($sql)$(.bind($bind))*.execute(&mut *c);
                answering.guard(work).await.map(|done| done.rows_affected())
            }
            $crate::db::Connection::Held(c) => {
                let work = $crate::db::sqlx::query($sql)$(.bind($bind))*.execute(&mut *c);
                $crate::db::at_once(work).await.map(|done| done.rows_affected())
            }
        }
    };
}

/// Runs a query and returns its rows as values of a type that is read from rows of both engines:
/// `fetch_all!(reader, (String, i64), "SELECT …", a)?`.
#[macro_export]
macro_rules! fetch_all {
    ($on:expr, $row:ty, $sql:expr $(, $bind:expr)* $(,)?) => {
        match $on.connection() {
            $crate::db::Connection::Sqlite(c) => {
                $crate::db::sqlx::query_as::<_, $row>($sql)$(.bind($bind))*.fetch_all(&mut *c).await
            }
            $crate::db::Connection::Postgres(c, answering) => {
                answering.guard($crate::db::sqlx::query_as::<_, $row>($sql)$(.bind($bind))*.fetch_all(&mut *c)).await
            }
            $crate::db::Connection::Held(c) => {
                $crate::db::at_once($crate::db::sqlx::query_as::<_, $row>($sql)$(.bind($bind))*.fetch_all(&mut *c)).await
            }
        }
    };
}

/// Runs a query and returns its first row, if any; see [`fetch_all!`](crate::fetch_all).
#[macro_export]
macro_rules! fetch_opt {
    ($on:expr, $row:ty, $sql:expr $(, $bind:expr)* $(,)?) => {
        match $on.connection() {
            $crate::db::Connection::Sqlite(c) => {
                $crate::db::sqlx::query_as::<_, $row>($sql)$(.bind($bind))*.fetch_optional(&mut *c).await
            }
            $crate::db::Connection::Postgres(c, answering) => {
                answering.guard($crate::db::sqlx::query_as::<_, $row>($sql)$(.bind($bind))*.fetch_optional(&mut *c)).await
            }
            $crate::db::Connection::Held(c) => {
                let work = $crate::db::sqlx::query_as::<_, $row>($sql)$(.bind($bind))*.fetch_optional(&mut *c);
                $crate::db::at_once(work).await
            }
        }
    };
}

/// Runs a query and returns its rows as [`Cells`](crate::db::Cells), read column by column.
#[macro_export]
macro_rules! rows {
    ($on:expr, $sql:expr $(, $bind:expr)* $(,)?) => {
        match $on.connection() {
            $crate::db::Connection::Sqlite(c) => $crate::db::sqlx::query($sql)$(.bind($bind))*
                .fetch_all(&mut *c)
                .await
                .map(|rows| rows.into_iter().map($crate::db::Cells::Sqlite).collect::<Vec<_>>()),
            $crate::db::Connection::Postgres(c, answering) => answering
                .guard($crate::db::sqlx::query($sql)$(.bind($bind))*.fetch_all(&mut *c))
                .await
                .map(|rows| rows.into_iter().map($crate::db::Cells::Postgres).collect::<Vec<_>>()),
            $crate::db::Connection::Held(c) => {
                $crate::db::at_once($crate::db::sqlx::query($sql)$(.bind($bind))*.fetch_all(&mut *c))
                    .await
                    .map(|rows| rows.into_iter().map($crate::db::Cells::Sqlite).collect::<Vec<_>>())
            }
        }
    };
}

/// Which engine a text is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Engine {
    /// SQLite.
    Sqlite,
    /// PostgreSQL.
    Postgres,
}

impl Engine {
    /// Returns a table definition as this engine reads it.
    #[must_use]
    pub fn schema(self, sqlite: &str) -> String {
        match self {
            Self::Sqlite => sqlite.to_owned(),
            Self::Postgres => sqlite.replace(" TEXT", " TEXT COLLATE \"C\"").replace(" WITHOUT ROWID", ""),
        }
    }

    /// Returns the text of this engine.
    #[must_use]
    pub fn pick<T>(self, sqlite: T, postgres: T) -> T {
        match self {
            Self::Sqlite => sqlite,
            Self::Postgres => postgres,
        }
    }
}

impl Tx<'_> {
    /// Returns the connection to run statements on.
    pub fn connection(&mut self) -> Connection<'_> {
        match self {
            Self::Sqlite(tx) => Connection::Sqlite(tx),
            Self::Postgres(tx, answering) => Connection::Postgres(tx, answering),
            Self::Held(tx) => Connection::Held(tx.connection()),
        }
    }

    /// Returns which engine this is.
    #[must_use]
    pub fn engine(&self) -> Engine {
        match self {
            Self::Sqlite(_) | Self::Held(_) => Engine::Sqlite,
            Self::Postgres(..) => Engine::Postgres,
        }
    }

    /// Returns the text of this transaction's engine, for the few statements whose text differs.
    #[must_use]
    pub fn pick(&self, sqlite: &'static str, postgres: &'static str) -> &'static str {
        self.engine().pick(sqlite, postgres)
    }

    /// Makes everything written so far visible and lasting.
    ///
    /// # Errors
    /// The database does not answer; whether it was done is not known.
    pub async fn commit(self) -> Result<(), Error> {
        match self {
            Self::Sqlite(tx) => Ok(tx.commit().await?),
            Self::Postgres(tx, answering) => Ok(answering.guard(tx.commit()).await?),
            Self::Held(tx) => tx.commit().await,
        }
    }

    /// Undoes everything written so far. Dropping the transaction does the same, later.
    ///
    /// # Errors
    /// The database does not answer; then it undoes by itself.
    pub async fn rollback(self) -> Result<(), Error> {
        match self {
            Self::Sqlite(tx) => Ok(tx.rollback().await?),
            Self::Postgres(tx, answering) => Ok(answering.guard(tx.rollback()).await?),
            Self::Held(tx) => tx.rollback(),
        }
    }
}

impl Reader {
    /// Returns the connection to run queries on.
    pub fn connection(&mut self) -> Connection<'_> {
        match self {
            Self::Sqlite(c) => Connection::Sqlite(c),
            Self::Postgres(c, answering) => Connection::Postgres(c, answering),
            Self::Held(reader) => Connection::Held(reader.connection()),
        }
    }

    /// Returns which engine this is.
    #[must_use]
    pub fn engine(&self) -> Engine {
        match self {
            Self::Sqlite(_) | Self::Held(_) => Engine::Sqlite,
            Self::Postgres(..) => Engine::Postgres,
        }
    }

    /// Returns the text of this connection's engine, for the few queries whose text differs.
    #[must_use]
    pub fn pick(&self, sqlite: &'static str, postgres: &'static str) -> &'static str {
        self.engine().pick(sqlite, postgres)
    }
}

/// What a SQLite file is for. It decides how safely it is written, and how much of it its writer keeps in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// Read models. They survive a crash of the process; a power cut may take the last commits, which are applied again.
    Views,
    /// Bookkeeping, as safe. It may have a row for each of a million mails, and touches few of them at a time.
    Work,
    /// Read models that nobody else reads and that are thrown away after a crash.
    Scratch,
}

impl Purpose {
    /// Returns the most that is kept in memory, KiB: every page of events touches leaves all over the indexes of read models.
    fn cache_kibibytes(self) -> u32 {
        match self {
            Self::Views | Self::Scratch => 64 * 1024,
            Self::Work => 8 * 1024,
        }
    }
}

impl Db {
    /// Opens or creates a SQLite file.
    pub(crate) async fn open_sqlite(path: &Path, purpose: Purpose) -> Result<Self, Error> {
        let options = SqliteConnectOptions::new().filename(path).create_if_missing(true);
        let options = match purpose {
            Purpose::Views | Purpose::Work => options
                .journal_mode(SqliteJournalMode::Wal)
                .synchronous(SqliteSynchronous::Normal)
                // Copying back is what flushes here: 32 MiB at a time instead of 4.
                .pragma("wal_autocheckpoint", "8192"),
            // Without a journal nothing can be undone, so a failed scratch file is deleted as a whole.
            Purpose::Scratch => options
                .journal_mode(SqliteJournalMode::Off)
                .synchronous(SqliteSynchronous::Off)
                .locking_mode(SqliteLockingMode::Normal),
        };
        Self::sqlite(options, purpose, format!("file:{}?mode=ro", escaped(path)), Some(path.to_owned())).await
    }

    /// Opens a new SQLite database in memory, which is gone when its last connection is.
    pub(crate) async fn open_memory() -> Result<Self, Error> {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let name = format!("/postlog-views-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let options = SqliteConnectOptions::new()
            .filename(&name)
            .vfs("memdb")
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Memory)
            .synchronous(SqliteSynchronous::Off);
        Self::sqlite(options, Purpose::Scratch, format!("file:{name}?vfs=memdb"), None).await
    }

    async fn sqlite(
        options: SqliteConnectOptions,
        purpose: Purpose,
        location: String,
        path: Option<PathBuf>,
    ) -> Result<Self, Error> {
        let options = options.foreign_keys(false).busy_timeout(Duration::from_secs(30)).disable_statement_logging();
        let writer = SqlitePoolOptions::new()
            .max_connections(1)
            .min_connections(1)
            .acquire_timeout(WRITER_WAIT)
            .idle_timeout(None)
            .max_lifetime(None)
            .test_before_acquire(false)
            .connect_with(options.clone().pragma("cache_size", format!("-{}", purpose.cache_kibibytes())))
            .await?;
        let readers = SqlitePoolOptions::new()
            .max_connections(READERS)
            .test_before_acquire(false)
            .connect_lazy_with(options.create_if_missing(false).pragma("query_only", "1"));
        Ok(Self::Sqlite { writer, readers, location, path })
    }

    /// Opens a PostgreSQL schema, which is created if it is missing.
    pub(crate) async fn open_postgres(servers: &Servers, schema: &str) -> Result<Self, Error> {
        Self::postgres(servers, schema, POSTGRES_CONNECTIONS, HOLD).await
    }

    /// Opens a new, empty PostgreSQL schema in the same database; what was in it is dropped.
    pub(crate) async fn scratch_schema(&self, name: &str) -> Result<Self, Error> {
        let Self::Postgres { pool, servers, .. } = self else {
            return Err(sqlx::Error::Configuration("only PostgreSQL has schemas".into()).into());
        };
        let drop = sqlx::query(AssertSqlSafe(format!("DROP SCHEMA IF EXISTS {name} CASCADE"))).execute(pool);
        servers.answering().guard(drop).await?;
        Self::postgres(servers, name, 1, SCRATCH_HOLD).await
    }

    async fn postgres(servers: &Servers, schema: &str, connections: u32, hold: &'static str) -> Result<Self, Error> {
        let path = schema.to_owned();
        // A commit of views that is lost is applied again, so none waits for a flush.
        let here = move |options: PgConnectOptions| {
            let hold = ("idle_in_transaction_session_timeout", hold);
            options.options([("search_path", path.as_str()), ("synchronous_commit", "off"), hold])
        };
        let pool = servers.pool(PgPoolOptions::new().max_connections(connections), Duration::ZERO, here).await?;
        // Two nodes may start at once, and CREATE SCHEMA IF NOT EXISTS can then fail on its catalogue's unique index.
        let create = format!("CREATE SCHEMA IF NOT EXISTS {schema}");
        if sqlx::query(AssertSqlSafe(create.clone())).execute(&pool).await.is_err() {
            sqlx::query(AssertSqlSafe(create)).execute(&pool).await?;
        }
        Ok(Self::Postgres { pool, schema: schema.to_owned(), servers: servers.clone() })
    }

    /// Begins a transaction that may write. On SQLite there is one at a time.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn begin(&self) -> Result<Tx<'static>, Error> {
        Ok(match self {
            Self::Sqlite { writer, .. } => Tx::Sqlite(writer.begin_with("BEGIN IMMEDIATE").await?),
            Self::Postgres { pool, servers, .. } => {
                let answering = servers.answering();
                Tx::Postgres(answering.guard(pool.begin()).await?, answering)
            }
            Self::Held(held) => Tx::Held(held.begin().await?),
        })
    }

    /// Returns a connection to read with.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn read(&self) -> Result<Reader, Error> {
        Ok(match self {
            Self::Sqlite { readers, .. } => Reader::Sqlite(readers.acquire().await?),
            Self::Postgres { pool, servers, .. } => {
                let answering = servers.answering();
                Reader::Postgres(answering.guard(pool.acquire()).await?, answering)
            }
            Self::Held(held) => Reader::Held(held.read().await?),
        })
    }

    /// Returns which engine this is.
    #[must_use]
    pub fn engine(&self) -> Engine {
        match self {
            Self::Sqlite { .. } | Self::Held(_) => Engine::Sqlite,
            Self::Postgres { .. } => Engine::Postgres,
        }
    }

    /// Runs statements without parameters, for example table definitions.
    pub(crate) async fn script(tx: &mut Tx<'_>, sql: String) -> Result<(), Error> {
        let query = sqlx::raw_sql(AssertSqlSafe(sql));
        match tx.connection() {
            Connection::Sqlite(c) => query.execute(&mut *c).await.map(|_| ())?,
            Connection::Postgres(c, answering) => answering.guard(query.execute(&mut *c)).await.map(|_| ())?,
            Connection::Held(c) => at_once(query.execute(&mut *c)).await.map(|_| ())?,
        }
        Ok(())
    }

    /// Creates the tables and indexes of a script (`CREATE … IF NOT EXISTS`, as SQLite reads it) that are not there.
    ///
    /// PostgreSQL keeps writers off a table while it looks for an index of it, and a writer of two such tables and whoever
    /// looks at one after the other can wait for each other. So it is asked for the names before.
    pub(crate) async fn create_missing(tx: &mut Tx<'_>, script: &str) -> Result<(), Error> {
        const MISSING: &str = "SELECT name FROM unnest(string_to_array($1, ' ')) AS wanted (name)
                               WHERE to_regclass(name) IS NULL";
        let engine = tx.engine();
        let names = script.split(" IF NOT EXISTS ").skip(1).filter_map(|rest| rest.split_whitespace().next());
        let names = names.collect::<Vec<_>>().join(" ");
        if engine == Engine::Postgres && fetch_all!(tx, (String,), MISSING, names)?.is_empty() {
            return Ok(());
        }
        Self::script(tx, engine.schema(script)).await
    }

    /// Rewrites a SQLite file, so that nothing of what was deleted or replaced is left in it or in its write-ahead file.
    /// Does nothing on PostgreSQL, which has a vacuum of its own.
    pub(crate) async fn scrub(&self) -> Result<(), Error> {
        let Self::Sqlite { writer, path: Some(_), .. } = self else { return Ok(()) };
        let mut connection = writer.acquire().await?;
        for sql in ["VACUUM", "PRAGMA wal_checkpoint(TRUNCATE)"] {
            sqlx::query(sql).persistent(false).execute(&mut *connection).await?;
        }
        Ok(())
    }

    /// Closes all connections.
    pub async fn close(&self) {
        match self {
            Self::Sqlite { writer, readers, .. } => {
                readers.close().await;
                writer.close().await;
            }
            Self::Postgres { pool, .. } => pool.close().await,
            Self::Held(_) => {}
        }
    }
}

/// A path as it stands in a `file:` name.
fn escaped(path: &Path) -> String {
    let text = path.to_string_lossy();
    text.replace('%', "%25").replace('?', "%3f").replace('#', "%23")
}

/// Returns whether a refusal says nothing about the statement: the database is busy, full, stopping or out of reach.
pub(crate) fn is_unavailable(error: &dyn DatabaseError) -> bool {
    let Some(code) = error.code() else { return false };
    // SQLite: BUSY, LOCKED, IOERR, FULL, CANTOPEN. PostgreSQL classes: connection, rollback, resources, operator, system.
    code.parse::<i32>().is_ok_and(|code| code < 10_000 && matches!(code & 0xff, 5 | 6 | 10 | 13 | 14))
        || (code.len() == 5 && ["08", "40", "53", "57", "58"].contains(&&code[..2]))
}

/// One row of a query, read by column name.
#[derive(Debug)]
pub enum Cells {
    /// From SQLite.
    Sqlite(SqliteRow),
    /// From PostgreSQL.
    Postgres(PgRow),
}

impl Cells {
    /// Returns the value of a column.
    ///
    /// # Errors
    /// There is no such column or it is of another type.
    pub fn get<T>(&self, column: &str) -> Result<T, Error>
    where
        T: for<'r> Decode<'r, Sqlite> + Type<Sqlite> + for<'r> Decode<'r, Postgres> + Type<Postgres>,
    {
        Ok(match self {
            Self::Sqlite(row) => row.try_get(column)?,
            Self::Postgres(row) => row.try_get(column)?,
        })
    }

    /// Returns the text of a column.
    ///
    /// # Errors
    /// It is null or not text.
    pub fn text(&self, column: &str) -> Result<String, Error> {
        self.get(column)
    }

    /// Returns a count or position.
    ///
    /// # Errors
    /// It is null, negative or not a number.
    pub fn unsigned(&self, column: &str) -> Result<u64, Error> {
        u64::try_from(self.get::<i64>(column)?).map_err(|e| corrupt(column, e))
    }

    /// Returns a value that is stored as its text.
    ///
    /// # Errors
    /// It is null or not the text of such a value.
    pub fn parsed<T: FromStr<Err: std::error::Error + Send + Sync + 'static>>(&self, column: &str) -> Result<T, Error> {
        self.text(column)?.parse().map_err(|e| corrupt(column, e))
    }

    /// Returns a value that is stored as its text; `None` where the column is null or empty.
    ///
    /// # Errors
    /// It is not the text of such a value.
    pub fn parsed_opt<T: FromStr<Err: std::error::Error + Send + Sync + 'static>>(
        &self,
        column: &str,
    ) -> Result<Option<T>, Error> {
        let text: Option<String> = self.get(column)?;
        text.filter(|t| !t.is_empty()).map(|t| t.parse().map_err(|e| corrupt(column, e))).transpose()
    }

    /// Returns a value that is stored as JSON.
    ///
    /// # Errors
    /// It is null or not the JSON of such a value.
    pub fn json<T: serde::de::DeserializeOwned>(&self, column: &str) -> Result<T, Error> {
        serde_json::from_str(&self.text(column)?).map_err(|e| corrupt(column, e))
    }

    /// Returns a value that is stored as JSON; `None` where the column is null.
    ///
    /// # Errors
    /// It is not the JSON of such a value.
    pub fn json_opt<T: serde::de::DeserializeOwned>(&self, column: &str) -> Result<Option<T>, Error> {
        let text: Option<String> = self.get(column)?;
        text.map(|t| serde_json::from_str(&t).map_err(|e| corrupt(column, e))).transpose()
    }

    /// Returns a plain enum that is stored under the name serde gives it.
    ///
    /// # Errors
    /// It is null or not such a name.
    pub fn named<T: serde::de::DeserializeOwned>(&self, column: &str) -> Result<T, Error> {
        serde_json::from_value(serde_json::Value::String(self.text(column)?)).map_err(|e| corrupt(column, e))
    }

    /// Returns a plain enum that is stored under the name serde gives it; `None` where the column is null.
    ///
    /// # Errors
    /// It is not such a name.
    pub fn named_opt<T: serde::de::DeserializeOwned>(&self, column: &str) -> Result<Option<T>, Error> {
        let text: Option<String> = self.get(column)?;
        text.map(|t| serde_json::from_value(serde_json::Value::String(t)).map_err(|e| corrupt(column, e))).transpose()
    }
}

/// Says that a stored value is not what its column promises.
pub(crate) fn corrupt(column: &str, source: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::Corrupt { column: column.to_owned(), source: Box::new(source) }
}
