//! Mail out by SMTP (RFC 5321): sockets, TLS and reused connections around [`mail::smtp::client`].
//!
//! The state machine knows what to say and what came of it; here is where to, how long, and how many. Every address is
//! judged before it is connected to: whoever may name a server must not make us talk to our own network.
//!
//! It deliberately knows no teams, queues or retries: a mail goes in, one result per recipient comes out.

mod connection;
mod pool;
mod tls;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use domain::egress::{Policy, judge};
use mail::auth::{DnsError, Resolver};
use mail::smtp::client::{ClientConfig, Login, Mail, RecipientResult, Timeouts, Tls};
use rustls::RootCertStore;
use tokio::net::TcpStream;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, timeout};

use connection::{Connection, Step};
use pool::Pool;
use tls::Connectors;

/// How a connection is protected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protection {
    /// Not at all.
    None,
    /// By STARTTLS where it is offered, whatever the certificate says (RFC 7435).
    Opportunistic,
    /// By STARTTLS with a valid certificate, or no mail (RFC 3207).
    Starttls,
    /// By TLS from the first octet with a valid certificate (RFC 8314 §3).
    Tls,
}

/// Where mail is handed over. Its `Debug` shows no password.
#[derive(Debug, Clone)]
pub struct Peer {
    /// What connections are shared under: nobody else's connection is ever used.
    pub key: String,
    /// Host name or address.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// How the connection is protected.
    pub protection: Protection,
    /// Authenticates with this.
    pub login: Option<Login>,
}

/// Bounds on connections.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Our name in EHLO.
    pub hostname: String,
    /// Longest wait for an address to accept a connection.
    pub connect: Duration,
    /// Longest time for one mail, from the connection to the last reply.
    pub session: Duration,
    /// How long a connection is kept unused.
    pub idle: Duration,
    /// How long a connection is used at all.
    pub age: Duration,
    /// Mails through one connection.
    pub mails_per_connection: u32,
    /// Connections to one peer at once.
    pub connections_per_peer_max: usize,
    /// Replies are waited for so long.
    pub timeouts: Timeouts,
}

/// Why a mail was not even begun. Nothing was handed over.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unreachable {
    /// The name does not exist.
    #[error("the host does not exist")]
    NoHost,
    /// The look-up failed.
    #[error("the look-up of the host failed")]
    Lookup,
    /// The address, or the port, is not one that mail is sent to.
    #[error("the host may not be connected to")]
    Forbidden,
    /// No address accepted a connection.
    #[error("no address of the host accepts a connection")]
    Connect,
    /// Our own name is no host name.
    #[error("our own host name is not valid")]
    Hostname,
}

/// What came of a mail.
#[derive(Debug)]
pub struct Submitted {
    /// One for each recipient, in their order.
    pub recipients: Vec<RecipientResult>,
    /// What was said, without passwords and content.
    pub transcript: String,
    /// Whether a connection was opened for it.
    pub connected: bool,
    /// Whether the peer offers reports (RFC 3461) and was told what is asked of them.
    pub dsn: bool,
}

/// The use of one connection to a peer; given back when dropped.
#[derive(Debug)]
pub struct Turn {
    /// `None` if the pool is gone.
    _permit: Option<OwnedSemaphorePermit>,
}

/// Hands mail over by SMTP. Cheap to clone; clones share connections.
#[derive(Clone)]
pub struct Mailer {
    shared: Arc<Shared>,
}

struct Shared {
    limits: Limits,
    policy: Policy,
    resolver: Arc<dyn Resolver>,
    connectors: Connectors,
    pool: Pool,
}

impl std::fmt::Debug for Mailer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Mailer").field("limits", &self.shared.limits).finish_non_exhaustive()
    }
}

impl Mailer {
    /// Returns a mailer that trusts the public certificate authorities. `policy` says which addresses and ports may be
    /// connected to.
    #[must_use]
    pub fn new(limits: Limits, policy: Policy, resolver: Arc<dyn Resolver>) -> Self {
        Self::with_roots(limits, policy, resolver, RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() })
    }

    /// Returns a mailer that trusts the given certificate authorities only.
    #[must_use]
    pub fn with_roots(limits: Limits, policy: Policy, resolver: Arc<dyn Resolver>, roots: RootCertStore) -> Self {
        let pool = Pool::new(&limits);
        Self { shared: Arc::new(Shared { limits, policy, resolver, connectors: Connectors::new(roots), pool }) }
    }

    /// Hands one mail over. A kept connection that proves stale before the peer has answered MAIL is replaced once.
    ///
    /// Dropping the future closes the connection; whether the peer has the mail is then not known.
    ///
    /// # Errors
    /// [`Unreachable`]: no connection came about.
    pub async fn submit(&self, peer: &Peer, mail: Mail) -> Result<Submitted, Unreachable> {
        self.submit_in(&self.turn(peer).await, peer, mail).await
    }

    /// Waits until a connection to the peer may be used.
    pub async fn turn(&self, peer: &Peer) -> Turn {
        Turn { _permit: self.shared.pool.permit(&peer.key).await }
    }

    /// Hands one mail over as [`Mailer::submit`] does, in a turn that was waited for.
    ///
    /// # Errors
    /// [`Unreachable`]: no connection came about.
    pub async fn submit_in(&self, _turn: &Turn, peer: &Peer, mail: Mail) -> Result<Submitted, Unreachable> {
        let until = Instant::now() + self.shared.limits.session;
        let mut said = String::new();
        if let Some(mut kept) = self.shared.pool.take(peer).await {
            let outcome = kept.carry(mail.clone(), until).await;
            said.push_str(&kept.transcript());
            if !kept.was_stale(&outcome) {
                let dsn = kept.offers_dsn();
                let submitted = Submitted { recipients: outcome, transcript: said, connected: false, dsn };
                return Ok(self.keep(peer, kept, submitted));
            }
        }
        let mut fresh = self.connect(peer).await?;
        let outcome = fresh.carry(mail, until).await;
        said.push_str(&fresh.transcript());
        let dsn = fresh.offers_dsn();
        Ok(self.keep(peer, fresh, Submitted { recipients: outcome, transcript: said, connected: true, dsn }))
    }

    /// Connects, says hello and authenticates, then says goodbye: what a test of an account needs.
    ///
    /// # Errors
    /// [`Unreachable`]: no connection came about.
    pub async fn probe(&self, peer: &Peer) -> Result<Probed, Unreachable> {
        let until = Instant::now() + Duration::from_secs(60).min(self.shared.limits.session);
        let mut fresh = self.connect(peer).await?;
        let failure = match fresh.step(until).await {
            Step::Failed(failure) => Some(failure),
            Step::Ready | Step::Done(_) | Step::Closed => None,
        };
        let ready = failure.is_none() && fresh.is_ready();
        fresh.quit().await;
        Ok(Probed { ready, failure, transcript: fresh.transcript() })
    }

    /// Says goodbye on connections that have been idle for too long.
    pub async fn close_idle(&self) {
        for mut connection in self.shared.pool.expired() {
            connection.quit().await;
        }
    }

    fn keep(&self, peer: &Peer, connection: Connection, submitted: Submitted) -> Submitted {
        self.shared.pool.put(peer, connection);
        submitted
    }

    async fn connect(&self, peer: &Peer) -> Result<Connection, Unreachable> {
        let Shared { limits, policy, connectors, .. } = &*self.shared;
        let addresses = self.addresses(peer).await?;
        let mut connected = None;
        for address in addresses.iter().take(4) {
            if let Ok(Ok(tcp)) = timeout(limits.connect, TcpStream::connect(address)).await {
                connected = Some((tcp, *address));
                break;
            }
        }
        let (tcp, address) = connected.ok_or(Unreachable::Connect)?;
        // Commands are small: waiting to fill a segment would only add latency.
        tcp.set_nodelay(true).map_err(|_| Unreachable::Connect)?;
        let mut config = ClientConfig::new(&limits.hostname).map_err(|_| Unreachable::Hostname)?;
        config.tls = match peer.protection {
            Protection::None | Protection::Tls => Tls::Never,
            Protection::Opportunistic => Tls::Opportunistic,
            Protection::Starttls => Tls::Required,
        };
        config.implicit_tls = peer.protection == Protection::Tls;
        config.login.clone_from(&peer.login);
        config.timeouts = limits.timeouts;
        // What does not leave the machine cannot be listened to; the policy has said that it may be reached at all.
        config.dangerous_auth_without_tls = address.ip().is_loopback() && policy.dangerous_allow_http_loopback;
        let strict = peer.protection != Protection::Opportunistic;
        Connection::open(tcp, config, connectors.of(strict), &peer.host).await.ok_or(Unreachable::Connect)
    }

    /// Looks the host up and judges every address: one that is not public condemns the name.
    async fn addresses(&self, peer: &Peer) -> Result<Vec<SocketAddr>, Unreachable> {
        let Shared { policy, resolver, .. } = &*self.shared;
        let literal = peer.host.trim_start_matches('[').trim_end_matches(']');
        let found: Vec<IpAddr> = if let Ok(ip) = literal.parse() {
            vec![ip]
        } else if peer.host.eq_ignore_ascii_case("localhost") {
            vec![IpAddr::V4(Ipv4Addr::LOCALHOST)]
        } else {
            let (v4, v6) = tokio::join!(resolver.a(&peer.host), resolver.aaaa(&peer.host));
            let failed = |e: &DnsError| *e != DnsError::NxDomain;
            // A name without addresses is hopeless; one whose addresses could not be looked up is not.
            let is_failed = v4.as_ref().is_err_and(failed) || v6.as_ref().is_err_and(failed);
            let v4 = v4.unwrap_or_default().into_iter().map(IpAddr::V4);
            let all: Vec<_> = v4.chain(v6.unwrap_or_default().into_iter().map(IpAddr::V6)).collect();
            if all.is_empty() {
                return Err(if is_failed { Unreachable::Lookup } else { Unreachable::NoHost });
            }
            all
        };
        let own = policy.dangerous_allow_http_loopback && found.iter().all(IpAddr::is_loopback);
        if found.iter().any(|ip| judge(*ip, policy).is_err()) || (!own && !policy.ports.contains(&peer.port)) {
            return Err(Unreachable::Forbidden);
        }
        Ok(found.into_iter().map(|ip| SocketAddr::new(ip.to_canonical(), peer.port)).collect())
    }
}

/// What a test of a peer found.
#[derive(Debug)]
pub struct Probed {
    /// Whether the peer would take mail.
    pub ready: bool,
    /// Why not, if the peer said so.
    pub failure: Option<mail::smtp::client::Failure>,
    /// What was said.
    pub transcript: String,
}
