//! The way to the database: each request and each answer is a datagram of the simulated network.
//!
//! The network carries numbers; what they stand for lies on a desk that all hosts share. So a request that arrives is carried
//! out whatever became of the node that sent it, and an answer that is lost leaves what was done.

use std::any::Any;
use std::collections::BTreeMap;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use eventlog::MemoryBackend;
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use turmoil::net::UdpSocket;

use crate::notes::Notes;

/// Where the database listens.
pub const DATABASE: (&str, u16) = ("db", 5432);
/// How long a node waits for the database.
pub const PATIENCE: Duration = Duration::from_secs(3);
/// After this an unclaimed request or answer is dropped, with whatever it holds.
const FORGET_AFTER: Duration = Duration::from_secs(5);

type Outcome = Box<dyn Any + Send>;
type Carried = Pin<Box<dyn Future<Output = Outcome> + Send>>;
type Request = Box<dyn FnOnce(Arc<MemoryBackend>) -> Carried + Send>;

#[derive(Default)]
struct Desk {
    last: u64,
    requests: BTreeMap<u64, (Duration, Request)>,
    answers: BTreeMap<u64, (Duration, Outcome)>,
    waiting: BTreeMap<u64, oneshot::Sender<()>>,
}

/// What lies between the nodes and the database. Cheap to clone.
#[derive(Clone, Default)]
pub struct Exchange {
    desk: Arc<Mutex<Desk>>,
}

/// The database did not answer in time.
#[derive(Debug)]
pub struct Silent;

/// The time of the simulation.
pub fn now() -> Duration {
    turmoil::sim_elapsed().unwrap_or_default()
}

impl Exchange {
    fn desk(&self) -> MutexGuard<'_, Desk> {
        self.desk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps an answer for who asked. Who has given up meanwhile has closed the connection: what was done stays done, and a lock
    /// that was waited for is let go at once, as a server does that finds nobody at the other end.
    fn keep(&self, number: u64, answer: Outcome) -> bool {
        let mut desk = self.desk();
        let is_waited_for = desk.waiting.get(&number).is_some_and(|waiting| !waiting.is_closed());
        if is_waited_for {
            desk.answers.insert(number, (now(), answer));
        }
        is_waited_for
    }

    /// Carries out what arrives, for ever.
    pub async fn serve(self, store: Arc<MemoryBackend>, notes: Notes) -> io::Result<()> {
        let socket = Arc::new(UdpSocket::bind(("0.0.0.0", DATABASE.1)).await?);
        let mut running = JoinSet::new();
        let mut sweep = tokio::time::interval(Duration::from_secs(1));
        let mut bytes = [0; 8];
        loop {
            tokio::select! {
                biased;
                received = socket.recv_from(&mut bytes) => {
                    let (_, from) = received?;
                    let number = u64::from_be_bytes(bytes);
                    let Some((_, request)) = self.desk().requests.remove(&number) else { continue };
                    notes.add(|| format!("database: {number}"));
                    let (exchange, socket, store) = (self.clone(), Arc::clone(&socket), Arc::clone(&store));
                    running.spawn(async move {
                        let answer = request(store).await;
                        if !exchange.keep(number, answer) {
                            return;
                        }
                        let _ = socket.send_to(&number.to_be_bytes(), from).await;
                    });
                }
                Some(_) = running.join_next() => {}
                _ = sweep.tick() => {
                    let now = now();
                    let is_fresh = |at: &Duration| now.saturating_sub(*at) < FORGET_AFTER;
                    let mut desk = self.desk();
                    desk.requests.retain(|_, (at, _)| is_fresh(at));
                    desk.answers.retain(|_, (at, _)| is_fresh(at));
                }
            }
        }
    }
}

/// A node's connection to the database. Cheap to clone.
#[derive(Clone)]
pub struct Line {
    exchange: Exchange,
    socket: Arc<UdpSocket>,
}

impl std::fmt::Debug for Line {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Line")
    }
}

impl Line {
    /// Opens the connection of the host this is called on.
    pub async fn open(exchange: Exchange) -> io::Result<Self> {
        let socket = Arc::new(UdpSocket::bind(("0.0.0.0", 7000)).await?);
        Ok(Self { exchange, socket })
    }

    /// Takes answers in, for ever.
    pub async fn listen(self) {
        let mut bytes = [0; 8];
        while self.socket.recv_from(&mut bytes).await.is_ok() {
            if let Some(waiting) = self.exchange.desk().waiting.remove(&u64::from_be_bytes(bytes)) {
                let _ = waiting.send(());
            }
        }
    }

    /// Has something done at the database and returns what came of it.
    pub async fn ask<T, F>(&self, request: impl FnOnce(Arc<MemoryBackend>) -> F + Send + 'static) -> Result<T, Silent>
    where
        T: Send + 'static,
        F: Future<Output = T> + Send + 'static,
    {
        let carry: Request = Box::new(move |store| {
            let work = request(store);
            Box::pin(async move { Box::new(work.await) as Outcome })
        });
        let (told, answered) = oneshot::channel();
        let number = {
            let mut desk = self.exchange.desk();
            desk.last += 1;
            let number = desk.last;
            desk.requests.insert(number, (now(), carry));
            desk.waiting.insert(number, told);
            number
        };
        self.socket.send_to(&number.to_be_bytes(), DATABASE).await.map_err(|_| Silent)?;
        let in_time = tokio::time::timeout(PATIENCE, answered).await;
        let answer = {
            let mut desk = self.exchange.desk();
            desk.waiting.remove(&number);
            // What it holds must not be held until it is forgotten.
            desk.requests.remove(&number);
            desk.answers.remove(&number)
        };
        match (in_time, answer) {
            (Ok(Ok(())), Some((_, answer))) => answer.downcast::<T>().map(|answer| *answer).map_err(|_| Silent),
            _ => Err(Silent),
        }
    }
}
