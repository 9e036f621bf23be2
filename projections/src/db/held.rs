//! SQLite for simulations: one connection in memory, held by whoever's turn it is, at the end of a simulated line.
//!
//! A statement is done at once, on the thread that asks: simulated time does not pass meanwhile, so a run stays a function of
//! its seed although SQLite's driver has a thread of its own. What takes time, and can fail, is the line: the way of `BEGIN`
//! and back, and the way of `COMMIT` and back. A commit whose answer is lost was done; one that was lost itself was not.

use std::fmt;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;

use async_trait::async_trait;
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{Connection as _, SqliteConnection};
use tokio::sync::{Mutex, OwnedMutexGuard, oneshot};

use crate::Error;

/// Something to be done at the database.
pub type Carried = Pin<Box<dyn Future<Output = ()> + Send>>;

/// The way to a simulated database.
#[async_trait]
pub trait Line: fmt::Debug + Send + Sync {
    /// Has something done at the other end. Returns whether that is known; if it is not, it may have been done, or may be later,
    /// unless it has been dropped.
    async fn carry(&self, work: Carried) -> bool;
}

/// A simulated database. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Held {
    connection: Arc<Mutex<SqliteConnection>>,
    line: Arc<dyn Line>,
}

fn silent() -> Error {
    sqlx::Error::Io(std::io::Error::new(std::io::ErrorKind::TimedOut, "the database does not answer")).into()
}

impl Held {
    /// Opens a new, empty database in memory, reached by a line.
    ///
    /// # Errors
    /// SQLite has no memory left.
    pub async fn open(line: Arc<dyn Line>) -> Result<Self, Error> {
        let options = SqliteConnectOptions::new().in_memory(true).foreign_keys(false);
        let connection = at_once(SqliteConnection::connect_with(&options)).await?;
        Ok(Self { connection: Arc::new(Mutex::new(connection)), line })
    }

    /// Returns the same database, reached by another line.
    #[must_use]
    pub fn through(&self, line: Arc<dyn Line>) -> Self {
        Self { connection: Arc::clone(&self.connection), line }
    }

    async fn hello(&self) -> Result<OwnedMutexGuard<SqliteConnection>, Error> {
        if !self.line.carry(Box::pin(std::future::ready(()))).await {
            return Err(silent());
        }
        Ok(Arc::clone(&self.connection).lock_owned().await)
    }

    pub(super) async fn begin(&self) -> Result<HeldTx, Error> {
        let mut turn = Turn { connection: self.hello().await?, is_open: false };
        turn.run("BEGIN IMMEDIATE")?;
        turn.is_open = true;
        Ok(HeldTx { turn, line: Arc::clone(&self.line) })
    }

    pub(super) async fn read(&self) -> Result<HeldReader, Error> {
        Ok(HeldReader(self.hello().await?))
    }
}

/// Somebody's turn at the connection. What was not committed is undone when it ends.
#[derive(Debug)]
struct Turn {
    connection: OwnedMutexGuard<SqliteConnection>,
    is_open: bool,
}

impl Turn {
    fn run(&mut self, sql: &'static str) -> Result<(), Error> {
        let done = finish(sqlx::query(sql).execute(&mut *self.connection));
        Ok(done.map(|_| ())?)
    }

    fn end(mut self, sql: &'static str) -> Result<(), Error> {
        self.run(sql)?;
        self.is_open = false;
        Ok(())
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        if self.is_open {
            // Nobody is left to hear of a failure; then the next BEGIN fails, and tells.
            let _ = self.run("ROLLBACK");
        }
    }
}

/// A transaction in a simulation.
#[derive(Debug)]
pub struct HeldTx {
    turn: Turn,
    line: Arc<dyn Line>,
}

impl HeldTx {
    pub(super) fn connection(&mut self) -> &mut SqliteConnection {
        &mut self.turn.connection
    }

    pub(super) async fn commit(self) -> Result<(), Error> {
        let Self { turn, line } = self;
        let (tell, told) = oneshot::channel();
        let work = async move {
            let _ = tell.send(turn.end("COMMIT"));
        };
        if !line.carry(Box::pin(work)).await {
            return Err(silent());
        }
        told.await.unwrap_or_else(|_| Err(silent()))
    }

    pub(super) fn rollback(self) -> Result<(), Error> {
        self.turn.end("ROLLBACK")
    }
}

/// A turn to read.
#[derive(Debug)]
pub struct HeldReader(OwnedMutexGuard<SqliteConnection>);

impl HeldReader {
    pub(super) fn connection(&mut self) -> &mut SqliteConnection {
        &mut self.0
    }
}

/// Unparks a thread.
struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

fn finish<F: Future>(work: F) -> F::Output {
    let mut work = pin!(work);
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut context = Context::from_waker(&waker);
    loop {
        if let Poll::Ready(output) = work.as_mut().poll(&mut context) {
            return output;
        }
        std::thread::park();
    }
}

/// Returns what a future comes to, without ever giving its thread away meanwhile.
#[doc(hidden)]
#[must_use = "nothing is done before it is polled"]
pub async fn at_once<F: Future>(work: F) -> F::Output {
    finish(work)
}
