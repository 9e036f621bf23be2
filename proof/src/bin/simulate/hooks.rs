//! The webhook reactor on a node: its requests go over the simulated network, its leases and cursors lie in the database.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use dispatcher::egress::{Client, Dial, Foreign, HostTable};
use dispatcher::queue::Queue;
use dispatcher::webhook::{Config, Reactor};
use eventlog::{Allot, EventLog};
use projections::Views;
use projections::db::{Carried, Held, Line as Way};
use projections::webhook_attempts::Work;
use tokio_util::sync::CancellationToken;
use turmoil::net::TcpStream;

use crate::ground::Ground;
use crate::line::Line;
use crate::node::Wire;

/// How long a lease lasts: no node may be away for longer without another taking over.
pub const LEASE: Duration = Duration::from_secs(12);

/// How deliveries are made: as always, with shorter times.
pub fn config() -> Config {
    let mut config = Config {
        attempt_seconds: 2,
        lease_seconds: LEASE.as_secs(),
        idle_release_seconds: 6,
        concurrency_per_webhook_max: 4,
        window_events_max: 8,
        blocked_mailboxes_max: 2,
        queue_per_mailbox_max: 2,
        page_events: 4,
        ..Config::default()
    };
    config.schedule.attempt_offsets_seconds = vec![0, 1, 2, 4, 6, 9, 12, 16];
    config.schedule.overdue_gap_seconds = 1;
    config.targets.dangerous_allow_http_loopback = true;
    config
}

/// A database at the end of a node's line.
#[derive(Debug)]
struct Over(Line);

#[async_trait]
impl Way for Over {
    async fn carry(&self, work: Carried) -> bool {
        self.0.ask(move |_| work).await.is_ok()
    }
}

/// A database on the same host.
#[derive(Debug)]
pub struct Beside;

#[async_trait]
impl Way for Beside {
    async fn carry(&self, work: Carried) -> bool {
        work.await;
        true
    }
}

/// The simulated network, for the guarded client: loopback is where the receiver is.
struct Network;

#[async_trait]
impl Dial for Network {
    async fn dial(&self, address: SocketAddr) -> io::Result<Box<dyn Foreign>> {
        Ok(Box::new(Wire(TcpStream::connect(("receiver", address.port())).await?)))
    }
}

/// Opens a database through a line as often as it takes.
async fn open<T, F: Future<Output = Result<T, projections::Error>>>(
    held: &Held,
    line: &Line,
    open: impl Fn(Held) -> F,
) -> T {
    loop {
        match open(held.through(Arc::new(Over(line.clone())))).await {
            Ok(opened) => return opened,
            Err(_) => tokio::time::sleep(Duration::from_millis(200)).await,
        }
    }
}

/// Delivers until the node is gone.
pub async fn run(ground: Ground, log: EventLog, line: Line, allot: Allot, name: &'static str) {
    let views = open(&ground.views, &line, Views::simulated).await;
    let work = open(&ground.work, &line, |held| Work::simulated(held, &[Queue::TABLES])).await;
    let config = config();
    let (policy, limits) = (config.targets.clone(), config.limits.clone());
    let client = Client::over(policy, limits, Arc::new(HostTable::default()), Arc::new(Network)).unwrap();
    let reactor = Reactor::new(log, views, Queue::new(work), client, allot, config, name).unwrap();
    ground.notes.add(|| format!("{name}: delivers"));
    reactor.run(CancellationToken::new()).await.unwrap();
}
