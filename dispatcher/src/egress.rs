//! THE client for URLs that strangers gave us.
//!
//! A webhook URL is a request that our machine talks to an address of a stranger's choice. Everything that makes this
//! dangerous is answered here and nowhere else:
//! - **Where**: [`policy`] judges the text, [`address`] every address the name has, before each new connection and
//!   again for each reused one. We connect to a judged address; the name serves for TLS and `Host` only. Redirects are
//!   answers, not instructions. No proxy is taken from the environment.
//! - **How long**: one deadline over look-up, connection, TLS, request and answer. There is no timeout per read that a
//!   receiver could renew byte by byte.
//! - **How much**: bounds on head, header count, body kept and bytes on the wire; nothing is decompressed.
//!
//! It is deliberately not a general HTTP client: POST and GET over HTTP/1.1 only, no cookies, no retries (see
//! [`crate::retry`]), no limit on concurrency (the caller's, who knows the teams; [`Target::origin`] is the key).
//!
//! It is built on hyper's connection rather than on a ready-made client because the rules above are about
//! connections: which address, judged when, how many bytes, closed when.

mod connection;
mod error;
mod pool;
mod resolve;
mod wire;

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{self, HeaderMap, HeaderValue};
use hyper::{Method, Request, Uri};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use serde::{Deserialize, Serialize};
use tokio::time::{Duration, Instant, timeout_at};
use tokio_rustls::TlsConnector;

pub use domain::egress as policy;
pub use domain::egress::address;
pub use error::{AttemptError, ConnectFault, DnsFault, Phase, ResponseFault, TlsFault};
pub use policy::{Policy, Refused, Target};
pub use resolve::{HostTable, Resolve, ResolveError, SystemResolver};
pub use wire::{Dial, Foreign};

use connection::{Connection, dial};
use policy::{Host, Scheme, judge};
use pool::Pool;

const USER_AGENT: &str = concat!("Postlog/", env!("CARGO_PKG_VERSION"));

/// Bounds on what one attempt may cost.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Longest attempt in all; a caller may ask for less, never for more.
    pub attempt_seconds: u64,
    /// Longest wait for one of a host's addresses to accept a connection.
    pub connect_seconds: u64,
    /// Most addresses a name may have; with more the attempt fails.
    pub addresses_max: usize,
    /// Most addresses to try.
    pub addresses_tried_max: usize,
    /// Largest head of an answer, at least 8,192.
    pub answer_head_bytes: usize,
    /// Most header fields in an answer.
    pub answer_headers_max: usize,
    /// Most bytes received per attempt in all: TLS, interim answers, head, framing and body.
    pub answer_wire_bytes: u64,
    /// Most bytes of the body that are read and kept.
    pub body_preview_bytes: usize,
    /// Most idle connections kept per origin.
    pub pool_idle_per_origin_max: usize,
    /// Most idle connections kept in all.
    pub pool_idle_max: usize,
    /// Longest time a connection is kept unused.
    pub pool_idle_seconds: u64,
    /// Longest time a connection is used at all: how long a change of a host's addresses may stay unnoticed.
    pub pool_age_seconds: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            attempt_seconds: 10,
            connect_seconds: 3,
            addresses_max: 64,
            addresses_tried_max: 4,
            answer_head_bytes: 32 * 1024,
            answer_headers_max: 100,
            answer_wire_bytes: 256 * 1024,
            body_preview_bytes: 64 * 1024,
            pool_idle_per_origin_max: 16,
            pool_idle_max: 1024,
            pool_idle_seconds: 30,
            pool_age_seconds: 60,
        }
    }
}

/// A limit that makes no sense.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{field} must lie between {min} and {max}")]
pub struct InvalidLimit {
    /// Name of the field in [`Limits`].
    pub field: &'static str,
    /// Smallest accepted value.
    pub min: u64,
    /// Largest accepted value.
    pub max: u64,
}

impl Limits {
    /// Checks every limit.
    ///
    /// # Errors
    /// All limits out of range, so that they can be reported together.
    pub fn validate(&self) -> Result<(), Vec<InvalidLimit>> {
        const MIB: u64 = 1024 * 1024;
        let rows: [(&'static str, u64, u64, u64); 11] = [
            ("attempt_seconds", self.attempt_seconds, 1, 120),
            ("connect_seconds", self.connect_seconds, 1, 120),
            ("addresses_max", self.addresses_max as u64, 1, 1024),
            ("addresses_tried_max", self.addresses_tried_max as u64, 1, 16),
            ("answer_head_bytes", self.answer_head_bytes as u64, 8192, MIB),
            ("answer_headers_max", self.answer_headers_max as u64, 1, 1000),
            ("answer_wire_bytes", self.answer_wire_bytes, 16 * 1024, 64 * MIB),
            ("body_preview_bytes", self.body_preview_bytes as u64, 0, 16 * MIB),
            ("pool_idle_max", self.pool_idle_max as u64, 0, 100_000),
            ("pool_idle_seconds", self.pool_idle_seconds, 0, 3600),
            ("pool_age_seconds", self.pool_age_seconds, 0, 3600),
        ];
        let wrong: Vec<_> = rows
            .into_iter()
            .filter(|&(_, value, min, max)| !(min..=max).contains(&value))
            .map(|(field, _, min, max)| InvalidLimit { field, min, max })
            .collect();
        if wrong.is_empty() { Ok(()) } else { Err(wrong) }
    }
}

/// What a receiver answered. Redirects and errors are answers too; only the caller knows what counts as success.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// HTTP status code.
    pub status: u16,
    /// How long the receiver asks us to wait (RFC 9110 10.2.3); a date is read against the answer's own `Date`.
    pub retry_after: Option<Duration>,
    /// The fields of its head.
    pub headers: HeaderMap,
    /// The beginning of the body, as received, never decoded.
    pub body_preview: Bytes,
    /// How the body ended. It does not change what `status` says.
    pub body_end: BodyEnd,
    /// From the start of the attempt to here.
    pub elapsed: Duration,
}

impl Answer {
    /// Returns whether the status is one of 200 to 299.
    pub const fn is_success(&self) -> bool {
        matches!(self.status, 200..=299)
    }
}

/// How the body of an [`Answer`] ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyEnd {
    /// It was received completely.
    Complete,
    /// It went on beyond the limits; the connection was closed.
    Truncated,
    /// It had not ended when the deadline ran out; the connection was closed.
    TimedOut,
    /// The connection broke or the framing was wrong.
    Broken,
}

/// Sends POST requests to strangers. Cheap to clone; clones share connections.
#[derive(Clone)]
pub struct Client {
    shared: Arc<Shared>,
}

struct Shared {
    policy: Policy,
    limits: Limits,
    resolve: Arc<dyn Resolve>,
    tls: TlsConnector,
    pool: Pool,
    /// `None` for this machine's own network.
    over: Option<Arc<dyn Dial>>,
}

impl Client {
    /// Returns a client that trusts the public certificate authorities.
    ///
    /// # Errors
    /// All limits out of range.
    pub fn new(policy: Policy, limits: Limits, resolve: Arc<dyn Resolve>) -> Result<Self, Vec<InvalidLimit>> {
        let roots = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
        Self::with_roots(policy, limits, resolve, roots)
    }

    /// Returns a client that opens its connections over another network than this machine's: a simulated one.
    ///
    /// # Errors
    /// All limits out of range.
    pub fn over(
        policy: Policy,
        limits: Limits,
        resolve: Arc<dyn Resolve>,
        network: Arc<dyn Dial>,
    ) -> Result<Self, Vec<InvalidLimit>> {
        Self::build(policy, limits, resolve, RootCertStore::empty(), Some(network))
    }

    /// Returns a client that trusts the given certificate authorities only.
    ///
    /// # Errors
    /// All limits out of range.
    pub fn with_roots(
        policy: Policy,
        limits: Limits,
        resolve: Arc<dyn Resolve>,
        roots: RootCertStore,
    ) -> Result<Self, Vec<InvalidLimit>> {
        Self::build(policy, limits, resolve, roots, None)
    }

    fn build(
        policy: Policy,
        limits: Limits,
        resolve: Arc<dyn Resolve>,
        roots: RootCertStore,
        over: Option<Arc<dyn Dial>>,
    ) -> Result<Self, Vec<InvalidLimit>> {
        limits.validate()?;
        let mut config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("the provider's cipher suites cover TLS 1.2 and 1.3")
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        let pool = Pool::new(&limits);
        let tls = TlsConnector::from(Arc::new(config));
        Ok(Self { shared: Arc::new(Shared { policy, limits, resolve, tls, pool, over }) })
    }

    /// Returns the policy this client judges by.
    pub fn policy(&self) -> &Policy {
        &self.shared.policy
    }

    /// Makes one attempt: POSTs `body` with `headers` and reads the answer, all within `deadline`. `Host`,
    /// `Content-Length` and the connection's own fields are set here; `User-Agent` and `Accept` unless given.
    ///
    /// A pooled connection that turns out to have been closed before any byte of an answer is replaced once by a new
    /// one; a new connection is never retried. Dropping the future closes the connection.
    ///
    /// # Errors
    /// [`AttemptError`] if no complete head of an answer came back.
    pub async fn post(
        &self,
        target: &Target,
        headers: HeaderMap,
        body: Bytes,
        deadline: Duration,
    ) -> Result<Answer, AttemptError> {
        self.attempt(Method::POST, target, headers, body, deadline).await
    }

    /// Makes one attempt: GETs what is there and reads the answer, all within `deadline`; see [`Client::post`].
    ///
    /// # Errors
    /// [`AttemptError`] if no complete head of an answer came back.
    pub async fn get(&self, target: &Target, headers: HeaderMap, deadline: Duration) -> Result<Answer, AttemptError> {
        self.attempt(Method::GET, target, headers, Bytes::new(), deadline).await
    }

    async fn attempt(
        &self,
        method: Method,
        target: &Target,
        headers: HeaderMap,
        body: Bytes,
        deadline: Duration,
    ) -> Result<Answer, AttemptError> {
        let Shared { policy, limits, pool, .. } = &*self.shared;
        let started = Instant::now();
        let until = started + deadline.min(Duration::from_secs(limits.attempt_seconds));
        target.check(policy)?;
        let headers = complete(headers, target);

        while let Some(mut connection) = pool.take(target.origin()) {
            if judge(connection.peer().ip(), policy).is_err() || !connection.is_reusable().await {
                continue;
            }
            let request = request(method.clone(), target, headers.clone(), body.clone())?;
            match connection.exchange(request, limits, started, until).await {
                Err(fault) if fault.silent => break,
                Err(fault) => return Err(fault.error),
                Ok(answer) => {
                    self.keep(target, connection, &answer).await;
                    return Ok(answer);
                }
            }
        }

        let mut connection = self.connect(target, until).await?;
        let request = request(method, target, headers, body)?;
        let answer = connection.exchange(request, limits, started, until).await.map_err(|fault| fault.error)?;
        self.keep(target, connection, &answer).await;
        Ok(answer)
    }

    /// Closes connections that have been idle or open for too long; returns how many stay. [`Client::post`] does this
    /// in passing, so only a caller that may fall silent needs to call it now and then.
    pub fn close_idle(&self) -> usize {
        self.shared.pool.close_idle()
    }

    async fn connect(&self, target: &Target, until: Instant) -> Result<Connection, AttemptError> {
        let Shared { limits, tls, over, .. } = &*self.shared;
        let addresses = self.addresses(target, until).await?;
        let tried = &addresses[..addresses.len().min(limits.addresses_tried_max)];
        let tcp = dial(over.as_deref(), tried, until, Duration::from_secs(limits.connect_seconds)).await?;
        let tls = match target.scheme() {
            Scheme::Http => None,
            Scheme::Https => Some((tls, server_name(target.host())?)),
        };
        Connection::establish(tcp, tls, limits, until).await
    }

    /// Looks up the host and judges every address: one that is not public condemns the name, since the next look-up
    /// might be answered with that one alone.
    async fn addresses(&self, target: &Target, until: Instant) -> Result<Vec<SocketAddr>, AttemptError> {
        let Shared { policy, limits, resolve, .. } = &*self.shared;
        let found = match target.host() {
            Host::Address(ip) => vec![*ip],
            // RFC 6761 6.3: these names mean this machine, whatever a name server says.
            Host::Name(_) if policy.dangerous_allow_http_loopback && target.is_loopback() => {
                vec![IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)]
            }
            Host::Name(name) => match timeout_at(until, resolve.resolve(name)).await {
                Ok(Ok(found)) => found,
                Ok(Err(ResolveError::NotFound)) => {
                    return Err(AttemptError::Dns(DnsFault::NotFound));
                }
                Ok(Err(ResolveError::Failed(_))) => {
                    return Err(AttemptError::Dns(DnsFault::Failed));
                }
                Err(_) => return Err(AttemptError::Timeout(Phase::Dns)),
            },
        };
        if found.is_empty() {
            return Err(AttemptError::Dns(DnsFault::NotFound));
        }
        if found.len() > limits.addresses_max {
            return Err(AttemptError::Dns(DnsFault::TooMany));
        }
        for ip in &found {
            judge(*ip, policy)?;
        }
        Ok(found.into_iter().map(|ip| SocketAddr::new(ip.to_canonical(), target.port())).collect())
    }

    async fn keep(&self, target: &Target, mut connection: Connection, answer: &Answer) {
        if answer.body_end == BodyEnd::Complete && connection.is_reusable().await {
            self.shared.pool.put(target.origin(), connection);
        }
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("policy", &self.shared.policy).field("limits", &self.shared.limits).finish()
    }
}

fn complete(mut headers: HeaderMap, target: &Target) -> HeaderMap {
    // Framing is ours alone: a stray field here could split the request in two.
    for name in [header::CONTENT_LENGTH, header::TRANSFER_ENCODING, header::CONNECTION, header::UPGRADE, header::EXPECT]
    {
        headers.remove(name);
    }
    let host = HeaderValue::from_str(target.authority()).expect("a target's authority is visible ASCII");
    headers.insert(header::HOST, host);
    headers.entry(header::USER_AGENT).or_insert(HeaderValue::from_static(USER_AGENT));
    headers.entry(header::ACCEPT).or_insert(HeaderValue::from_static("*/*"));
    headers
}

fn request(
    method: Method,
    target: &Target,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Request<Full<Bytes>>, AttemptError> {
    let mut request = Request::new(Full::new(body));
    *request.method_mut() = method;
    *request.uri_mut() = Uri::try_from(&**target.path_and_query()).map_err(|_| Refused::Malformed)?;
    *request.headers_mut() = headers;
    Ok(request)
}

fn server_name(host: &Host) -> Result<ServerName<'static>, AttemptError> {
    match host {
        Host::Address(ip) => Ok(ServerName::from(*ip)),
        Host::Name(name) => ServerName::try_from(name.to_string()).map_err(|_| AttemptError::Refused(Refused::Host)),
    }
}

/// Reads `Retry-After` (RFC 9110 10.2.3): seconds, or a date that is compared with the answer's `Date`, so that
/// neither clock needs to be right.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim();
    if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) {
        // More digits than fit are still a wish to wait very long.
        return Some(Duration::from_secs(text.parse().unwrap_or(u64::from(u32::MAX))));
    }
    let at = http_date(text)?;
    let date = http_date(headers.get(header::DATE)?.to_str().ok()?.trim())?;
    Some(Duration::from_secs(u64::try_from(at - date).unwrap_or(0)))
}

/// Returns seconds since the epoch for the preferred form of an HTTP date (RFC 9110 5.6.7).
fn http_date(text: &str) -> Option<i64> {
    let parsed = jiff::fmt::rfc2822::parse(text).ok()?;
    Some(parsed.timestamp().as_second())
}
