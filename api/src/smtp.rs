//! The SMTP doors: sockets and TLS around the session state machine of [`mail::smtp`]. Behind one door stands
//! [`crate::receive`] (mail from other hosts), behind the other [`crate::submit`] (mail from the teams' own users).
//!
//! A [`Listener`] owns the sockets and one task per connection, bounded by the limits of its configuration. Waiting
//! (for a client, for a tarpit delay) holds nothing but the socket and the session. It decides nothing about mail
//! itself: the session knows the protocol, a desk (`desk.rs`) asks the pipeline behind the door.
//!
//! Invariants:
//! - `250` to the end of a mail is written only after every copy of it is durable.
//! - A key is taken under TLS only; in a sandbox, from this machine also without.
//! - Octets that arrived before a TLS handshake are never interpreted after it.
//! - A PROXY protocol header is read from listed peers, before anything else, and from nobody else.

mod config;
mod connection;
mod desk;
mod network;
mod peers;
mod receiving;
mod stream;
mod submission_config;
mod submitting;
mod tls;

use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use eventlog::Allot;
use futures_util::future::join_all;
use mail::smtp::{ConnectionRefusal, Limits, StartTls};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::Instrument as _;

pub use config::{Config, GreylistConfig, HarvestConfig, RateConfig, TlsConfig};
pub(crate) use network::counted_as;
pub use network::{Network, NotNetwork};
pub use submission_config::{GuessConfig, SubmissionConfig, SubmissionTls};
pub use tls::{SelfSigned, Tls, TlsError, self_signed};

use connection::{Connection, Outcome};
use desk::Purpose;
use peers::{Connections, Guessing};
use receiving::Receiving;
use stream::dismiss;
use submitting::Submitting;

use crate::receive::Receiver;
use crate::submit::Submitter;

/// How often certificate files are looked at.
const CERTIFICATE_CHECK_EVERY: Duration = Duration::from_secs(30);
/// Pause after a connection could not be accepted, so that a lack of file descriptors does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The door could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The host name is none.
    #[error("the host name of an SMTP listener: {0}")]
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

/// What both doors are told in the same words.
struct Settings {
    /// The door, in metrics.
    door: &'static str,
    limits: Limits,
    proxy_peers: Vec<Network>,
    trusted_peers: Vec<Network>,
    held_octets_max: usize,
    drain_seconds: u32,
}

/// What all connections of a listener share.
struct Shared {
    purpose: Purpose,
    allot: Allot,
    settings: Settings,
    session: Arc<mail::smtp::Config>,
    /// How sessions with this machine behave, where they differ.
    session_on_loopback: Option<Arc<mail::smtp::Config>>,
    tls: Option<Tls>,
    connections: Arc<Connections>,
    /// Octets of unfinished mail in memory.
    held_octets: AtomicUsize,
}

impl Shared {
    fn session(&self, client: IpAddr) -> Arc<mail::smtp::Config> {
        let on_loopback = self.session_on_loopback.as_ref().filter(|_| client.is_loopback());
        Arc::clone(on_loopback.unwrap_or(&self.session))
    }
}

/// A socket that listens.
struct Socket {
    listener: TcpListener,
    /// Its connections begin with TLS.
    implicit_tls: bool,
}

/// Serves SMTP; see the module.
pub struct Listener {
    shared: Arc<Shared>,
    sockets: Vec<Socket>,
}

impl std::fmt::Debug for Listener {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Listener").field("addresses", &self.addresses()).finish_non_exhaustive()
    }
}

impl Listener {
    /// Opens the sockets of the receiving door. Without `tls`, STARTTLS is not offered whatever the configuration says.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn bind(config: Config, receiver: Receiver, allot: Allot, tls: Option<Tls>) -> Result<Self, Error> {
        let session = config.session()?;
        let sockets = listen(&config.listen, &[]).await?;
        let purpose = Purpose::Receiving(Arc::new(Receiving { receiver, harvest: Guessing::new(config.harvest) }));
        let settings = Settings {
            door: "smtp",
            limits: config.limits,
            proxy_peers: config.proxy_peers,
            trusted_peers: config.trusted_peers,
            held_octets_max: config.held_octets_max,
            drain_seconds: config.drain_seconds,
        };
        Ok(Self::new(purpose, settings, session, allot, tls, sockets))
    }

    /// Opens the sockets of the submission door; `hostname` stands in where the configuration names none. Without `tls`,
    /// sessions that begin with it fail, and only those from this machine, if at all, get past authentication.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn bind_submission(
        config: SubmissionConfig,
        hostname: &str,
        submitter: Submitter,
        allot: Allot,
        tls: Option<Tls>,
    ) -> Result<Self, Error> {
        let session = config.session(hostname)?;
        let sockets = listen(&config.listen, &config.listen_tls).await?;
        let guessing = Guessing::new(config.guessing);
        let settings = Settings {
            door: "submission",
            limits: session.limits.clone(),
            proxy_peers: config.proxy_peers,
            trusted_peers: vec![],
            held_octets_max: config.held_octets_max,
            drain_seconds: config.drain_seconds,
        };
        let purpose = Purpose::Submission(Arc::new(Submitting { submitter, guessing }));
        let mut listener = Self::new(purpose, settings, session, allot, tls, sockets);
        if let Some(shared) = Arc::get_mut(&mut listener.shared).filter(|_| config.auth_on_loopback) {
            let session = mail::smtp::Config { dangerous_auth_without_tls: true, ..(*shared.session).clone() };
            shared.session_on_loopback = Some(Arc::new(session));
        }
        Ok(listener)
    }

    fn new(
        purpose: Purpose,
        settings: Settings,
        mut session: mail::smtp::Config,
        allot: Allot,
        tls: Option<Tls>,
        sockets: Vec<Socket>,
    ) -> Self {
        if tls.is_none() {
            session.start_tls = StartTls::Off;
        }
        let shared = Shared {
            purpose,
            allot,
            session: Arc::new(session),
            session_on_loopback: None,
            tls,
            connections: Connections::new(settings.door, &settings.limits),
            held_octets: AtomicUsize::new(0),
            settings,
        };
        Self { shared: Arc::new(shared), sockets }
    }

    /// Returns where it listens, in the order of the configuration; addresses for sessions that begin with TLS come last.
    #[must_use]
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.sockets.iter().filter_map(|socket| socket.listener.local_addr().ok()).collect()
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
        let grace = Duration::from_secs(shared.settings.drain_seconds.into());
        if tokio::time::timeout(grace, tasks.wait()).await.is_err() {
            tracing::warn!(sessions = tasks.len(), "SMTP sessions were cut, since they did not end in time");
            cut.cancel();
            tasks.wait().await;
        }
        Ok(())
    }
}

/// Opens sockets for sessions that begin in the clear, and for those that begin with TLS.
async fn listen(clear: &[SocketAddr], tls: &[SocketAddr]) -> Result<Vec<Socket>, Error> {
    let mut sockets = Vec::with_capacity(clear.len() + tls.len());
    let all = clear.iter().map(|address| (address, false)).chain(tls.iter().map(|address| (address, true)));
    for (address, implicit_tls) in all {
        let bind = |source| Error::Bind { address: *address, source };
        sockets.push(Socket { listener: TcpListener::bind(address).await.map_err(bind)?, implicit_tls });
    }
    Ok(sockets)
}

/// Takes connections from one socket for ever.
async fn accept(
    socket: &Socket,
    shared: &Arc<Shared>,
    tasks: &TaskTracker,
    stop: &CancellationToken,
    cut: &CancellationToken,
) {
    loop {
        match socket.listener.accept().await {
            Ok((stream, remote)) => {
                // A reply is one write; waiting for more to send would only delay it.
                let _ = stream.set_nodelay(true);
                let (shared, stop) = (Arc::clone(shared), stop.clone());
                start(Connection { shared, stream, remote, implicit_tls: socket.implicit_tls, stop }, tasks, cut);
            }
            Err(error) => {
                tracing::warn!(error = %error, "an SMTP connection could not be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Starts the task of one connection, unless there are too many.
fn start(connection: Connection, tasks: &TaskTracker, cut: &CancellationToken) {
    let door = connection.shared.settings.door;
    let opened = match connection.shared.connections.open() {
        Ok(opened) => opened,
        Err(refusal) => return refuse(door, connection, refusal),
    };
    let cut = cut.clone();
    let served = async move {
        let outcome = tokio::select! {
            outcome = connection.serve() => outcome,
            () = cut.cancelled() => Outcome::Drained,
        };
        ended(door, outcome);
        drop(opened);
    };
    tasks.spawn(served.instrument(tracing::debug_span!("smtp.session", smtp.door = door)));
}

fn refuse(door: &'static str, connection: Connection, refusal: ConnectionRefusal) {
    // Where TLS comes first, a line in the clear says nothing.
    if !connection.implicit_tls {
        dismiss(connection.stream, &refusal.reply());
    }
    let outcome = match refusal {
        ConnectionRefusal::TooManyFromPeer => Outcome::PeerLimit,
        ConnectionRefusal::TooMany => Outcome::TotalLimit,
        ConnectionRefusal::ShuttingDown => Outcome::Drained,
    };
    ended(door, outcome);
}

fn ended(door: &'static str, outcome: Outcome) {
    metrics::counter!("smtp_sessions_total", "door" => door, "outcome" => outcome.as_str()).increment(1);
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
