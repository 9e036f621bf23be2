//! The SMTP door: sockets and TLS around the session state machine of [`mail::smtp`], and [`crate::receive`] behind it.
//!
//! A [`Listener`] owns the sockets and one task per connection, bounded by the limits of its configuration. Waiting
//! (for a client, for a tarpit delay) holds nothing but the socket and the session. It decides nothing about mail
//! itself: the session knows the protocol, the receiver knows mailboxes.
//!
//! Invariants:
//! - `250` to the end of a mail is written only after every copy of it is durable.
//! - Octets that arrived before a TLS handshake are never interpreted after it.
//! - A PROXY protocol header is read from listed peers, before anything else, and from nobody else.

mod config;
mod connection;
mod network;
mod peers;
mod stream;
mod tls;

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use eventlog::Allot;
use futures_util::future::join_all;
use mail::smtp::{ConnectionRefusal, StartTls};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::Instrument as _;

pub use config::{Config, GreylistConfig, HarvestConfig, RateConfig, TlsConfig};
pub(crate) use network::counted_as;
pub use network::{Network, NotNetwork};
pub use tls::{SelfSigned, Tls, TlsError, self_signed};

use connection::{Connection, Outcome};
use peers::{Connections, Harvest};
use stream::dismiss;

use crate::receive::Receiver;

/// How often certificate files are looked at.
const CERTIFICATE_CHECK_EVERY: Duration = Duration::from_secs(30);
/// Pause after a connection could not be accepted, so that a lack of file descriptors does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The door could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The host name is none.
    #[error("smtp.hostname: {0}")]
    Hostname(#[from] mail::address::AddressError),
    /// An address cannot be listened at.
    #[error("cannot listen for SMTP at {address}: {source}")]
    Bind {
        /// Where.
        address: SocketAddr,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

/// What all connections of a listener share.
struct Shared {
    receiver: Receiver,
    allot: Allot,
    config: Config,
    session: Arc<mail::smtp::Config>,
    tls: Option<Tls>,
    connections: Arc<Connections>,
    harvest: Harvest,
    /// Octets of unfinished mail in memory.
    held_octets: AtomicUsize,
}

/// Receives mail by SMTP; see the module.
pub struct Listener {
    shared: Arc<Shared>,
    sockets: Vec<TcpListener>,
}

impl std::fmt::Debug for Listener {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Listener").field("sockets", &self.sockets).finish_non_exhaustive()
    }
}

impl Listener {
    /// Opens the sockets. Without `tls`, STARTTLS is not offered whatever the configuration says.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn bind(config: Config, receiver: Receiver, allot: Allot, tls: Option<Tls>) -> Result<Self, Error> {
        let mut session = config.session()?;
        if tls.is_none() {
            session.start_tls = StartTls::Off;
        }
        let mut sockets = Vec::with_capacity(config.listen.len());
        for address in &config.listen {
            let bind = |source| Error::Bind { address: *address, source };
            sockets.push(TcpListener::bind(address).await.map_err(bind)?);
        }
        let shared = Shared {
            receiver,
            allot,
            session: Arc::new(session),
            tls,
            connections: Connections::new(&config.limits),
            harvest: Harvest::new(config.harvest),
            held_octets: AtomicUsize::new(0),
            config,
        };
        Ok(Self { shared: Arc::new(shared), sockets })
    }

    /// Returns where it listens, in the order of the configuration.
    #[must_use]
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.sockets.iter().filter_map(|socket| socket.local_addr().ok()).collect()
    }

    /// Serves connections until it is told to stop; then open sessions end at their next command boundary, a mail under
    /// way is finished, and what is not done after `drain_seconds` is cut.
    ///
    /// # Errors
    /// None at present; a task that ends early stops the program, which this signature allows for.
    pub async fn run(self, stop: CancellationToken) -> Result<(), Error> {
        let Self { shared, sockets } = self;
        let (cut, tasks) = (CancellationToken::new(), TaskTracker::new());
        let accepting = join_all(sockets.iter().map(|socket| accept(socket, &shared, &tasks, &stop, &cut)));
        tokio::select! {
            () = stop.cancelled() => {}
            () = watch_certificate(shared.tls.as_ref()) => {}
            _ = accepting => {}
        }
        drop(sockets);
        tasks.close();
        let grace = Duration::from_secs(shared.config.drain_seconds.into());
        if tokio::time::timeout(grace, tasks.wait()).await.is_err() {
            tracing::warn!(sessions = tasks.len(), "SMTP sessions were cut, since they did not end in time");
            cut.cancel();
            tasks.wait().await;
        }
        Ok(())
    }
}

/// Takes connections from one socket for ever.
async fn accept(
    socket: &TcpListener,
    shared: &Arc<Shared>,
    tasks: &TaskTracker,
    stop: &CancellationToken,
    cut: &CancellationToken,
) {
    loop {
        match socket.accept().await {
            Ok((stream, peer)) => start(stream, peer, shared, tasks, stop, cut),
            Err(error) => {
                tracing::warn!(error = %error, "an SMTP connection could not be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Starts the task of one connection, unless there are too many.
fn start(
    stream: TcpStream,
    peer: SocketAddr,
    shared: &Arc<Shared>,
    tasks: &TaskTracker,
    stop: &CancellationToken,
    cut: &CancellationToken,
) {
    // A reply is one write; waiting for more to send would only delay it.
    let _ = stream.set_nodelay(true);
    let opened = match shared.connections.open() {
        Ok(opened) => opened,
        Err(refusal) => return refuse(stream, refusal),
    };
    let connection = Connection::new(Arc::clone(shared), stream, peer, stop.clone());
    let cut = cut.clone();
    let served = async move {
        let outcome = tokio::select! {
            outcome = connection.serve() => outcome,
            () = cut.cancelled() => Outcome::Drained,
        };
        ended(outcome);
        drop(opened);
    };
    tasks.spawn(served.instrument(tracing::debug_span!("smtp.session")));
}

fn refuse(stream: TcpStream, refusal: ConnectionRefusal) {
    dismiss(stream, &refusal.reply());
    ended(match refusal {
        ConnectionRefusal::TooManyFromPeer => Outcome::PeerLimit,
        ConnectionRefusal::TooMany => Outcome::TotalLimit,
        ConnectionRefusal::ShuttingDown => Outcome::Drained,
    });
}

fn ended(outcome: Outcome) {
    metrics::counter!("smtp_sessions_total", "outcome" => outcome.as_str()).increment(1);
    tracing::debug!(outcome = outcome.as_str(), "SMTP session ended");
}

/// Reads certificate files again after they were written.
fn watch_certificate(tls: Option<&Tls>) -> impl Future<Output = ()> {
    let tls = tls.cloned();
    async move {
        let Some(tls) = tls else { return std::future::pending().await };
        loop {
            tokio::time::sleep(CERTIFICATE_CHECK_EVERY).await;
            match tls.reload_if_changed() {
                Ok(true) => tracing::info!("the SMTP certificate was read again"),
                Ok(false) => {}
                Err(error) => {
                    tracing::error!(error = %error, "the new SMTP certificate cannot be used; the old one stays")
                }
            }
        }
    }
}
