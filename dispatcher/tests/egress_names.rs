//! The client against names: what they resolve to, whose certificate answers, and a trap that must never be reached.
#![expect(clippy::disallowed_methods, reason = "receivers end with the runtime of their test")]

use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, TcpListener as TrapListener};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use dispatcher::egress::{
    AttemptError, Client, DnsFault, HostTable, Limits, Phase, Policy, Refused, Resolve, ResolveError, Target, TlsFault,
};
use hyper::header::HeaderMap;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::RootCertStore;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

const SHORT: Duration = Duration::from_millis(250);
const LONG: Duration = Duration::from_secs(5);
const HOST: &str = "hooks.shop.com";
const ALLOWED: &str = "127.0.0.1";
const TRAP: &str = "127.0.0.2";

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

/// A certificate authority of our own.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    roots: RootCertStore,
}

impl Authority {
    fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        let certificate = params.self_signed(&key).expect("a certificate");
        let mut roots = RootCertStore::empty();
        roots.add(certificate.der().clone()).expect("a root");
        Self { issuer: Issuer::new(params, key), roots }
    }

    fn acceptor(&self, name: &str, change: impl FnOnce(&mut CertificateParams)) -> TlsAcceptor {
        let mut params = CertificateParams::new([name.to_owned()]).expect("a name");
        change(&mut params);
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate");
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("defaults")
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], key)
            .expect("a matching key");
        TlsAcceptor::from(Arc::new(config))
    }
}

/// An https receiver that answers 200 with what the client called it, in TLS and in HTTP.
struct Receiver {
    port: u16,
    connections: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl Receiver {
    async fn start(acceptor: TlsAcceptor) -> Self {
        let listener = TcpListener::bind((ALLOWED, 0)).await.expect("a free port");
        let port = listener.local_addr().expect("bound").port();
        let connections = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&connections);
        let task = tokio::spawn(async move {
            while let Ok((tcp, _)) = listener.accept().await {
                counted.fetch_add(1, Ordering::SeqCst);
                tokio::spawn(serve(acceptor.clone(), tcp));
            }
        });
        Self { port, connections, task }
    }

    fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(acceptor: TlsAcceptor, tcp: TcpStream) {
    let Ok(mut stream) = acceptor.accept(tcp).await else {
        return;
    };
    let sni = stream.get_ref().1.server_name().unwrap_or("none").to_owned();
    let mut request = Vec::new();
    while stream.read_buf(&mut request).await.is_ok_and(|read| read > 0) {
        if !request.ends_with(b"\r\n\r\n{}") {
            continue;
        }
        let text = String::from_utf8_lossy(&request).into_owned();
        let host = text.lines().find_map(|line| line.strip_prefix("host: ")).unwrap_or("none");
        let body = format!("{sni} {host}");
        let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        if stream.write_all(answer.as_bytes()).await.is_err() {
            return;
        }
        request.clear();
    }
}

/// Listens where nobody may ever connect. A connection over loopback is queued before the one who connects goes on,
/// so that looking once afterwards is enough.
struct Trap(TrapListener);

impl Trap {
    fn set(address: &str, port: u16) -> Self {
        let listener = TrapListener::bind((ip(address), port)).expect("the trap's port is free");
        listener.set_nonblocking(true).expect("a socket");
        Self(listener)
    }

    fn assert_untouched(&self) {
        let caught = self.0.accept().map(|(_, from)| from);
        assert_eq!(caught.expect_err("nobody came").kind(), io::ErrorKind::WouldBlock);
    }
}

/// Answers look-ups one after the other from a list; the last answer stays.
struct Rebinding(Mutex<VecDeque<Vec<IpAddr>>>);

#[async_trait]
impl Resolve for Rebinding {
    async fn resolve(&self, _: &str) -> Result<Vec<IpAddr>, ResolveError> {
        let mut answers = self.0.lock().expect("no panic while locked");
        let answer = if answers.len() > 1 { answers.pop_front() } else { answers.front().cloned() };
        answer.ok_or(ResolveError::NotFound)
    }
}

/// A name server that never answers, or only with an error.
struct Broken {
    hangs: bool,
}

#[async_trait]
impl Resolve for Broken {
    async fn resolve(&self, _: &str) -> Result<Vec<IpAddr>, ResolveError> {
        if self.hangs {
            std::future::pending::<()>().await;
        }
        Err(ResolveError::Failed(io::Error::other("SERVFAIL")))
    }
}

/// Lets exactly one loopback address count as public.
fn policy(port: u16) -> Policy {
    let allowed = format!("{ALLOWED}/32").parse().expect("a network");
    Policy { ports: vec![port], dangerous_allow_networks: vec![allowed], ..Policy::default() }
}

fn table(addresses: &[&str]) -> Arc<dyn Resolve> {
    Arc::new(HostTable::from_iter([(HOST, addresses.iter().copied().map(ip).collect())]))
}

fn client(port: u16, limits: Limits, resolve: Arc<dyn Resolve>, roots: &RootCertStore) -> Client {
    Client::with_roots(policy(port), limits, resolve, roots.clone()).expect("valid limits")
}

async fn post(client: &Client, port: u16, deadline: Duration) -> Result<String, AttemptError> {
    let target = Target::parse(&format!("https://{HOST}:{port}/hook"), client.policy()).expect("a public name");
    let answer = client.post(&target, HeaderMap::new(), Bytes::from_static(b"{}"), deadline).await?;
    Ok(String::from_utf8_lossy(&answer.body_preview).into_owned())
}

fn not_public(answer: &Result<String, AttemptError>) -> bool {
    matches!(answer, Err(AttemptError::Refused(Refused::Address { .. })))
}

#[tokio::test]
async fn the_name_serves_for_tls_and_host_and_the_judged_address_for_the_connection() {
    let authority = Authority::new("ours");
    let receiver = Receiver::start(authority.acceptor(HOST, |_| {})).await;
    let client = client(receiver.port, Limits::default(), table(&[ALLOWED]), &authority.roots);
    for _ in 0..10 {
        let answer = post(&client, receiver.port, LONG).await;
        assert_eq!(answer, Ok(format!("{HOST} {HOST}:{}", receiver.port)));
    }
    assert_eq!(receiver.connections(), 1, "one handshake for all");
}

#[tokio::test]
async fn a_name_with_one_private_address_among_public_ones_is_refused_before_any_connection() {
    let authority = Authority::new("ours");
    let receiver = Receiver::start(authority.acceptor(HOST, |_| {})).await;
    let trap = Trap::set(TRAP, receiver.port);
    let mixtures: [&[&str]; 9] = [
        &[TRAP],
        &[ALLOWED, TRAP],
        &[TRAP, ALLOWED],
        &[ALLOWED, "::1"],
        &[ALLOWED, "::ffff:127.0.0.2"],
        &[ALLOWED, "64:ff9b::127.0.0.2"],
        &[ALLOWED, "64:ff9b::127.0.0.1"],
        &[ALLOWED, "169.254.169.254"],
        &[ALLOWED, ALLOWED, ALLOWED, ALLOWED, ALLOWED, "0.0.0.0"],
    ];
    for addresses in mixtures {
        let client = client(receiver.port, Limits::default(), table(addresses), &authority.roots);
        let answer = post(&client, receiver.port, LONG).await;
        assert!(not_public(&answer), "{addresses:?}: {answer:?}");
    }
    trap.assert_untouched();
    assert_eq!(receiver.connections(), 0);
}

#[tokio::test]
async fn a_name_that_turns_private_after_it_was_public_is_refused() {
    let authority = Authority::new("ours");
    let receiver = Receiver::start(authority.acceptor(HOST, |_| {})).await;
    let trap = Trap::set(TRAP, receiver.port);
    let answers = [vec![ip(ALLOWED)], vec![ip(TRAP)]];
    // Nothing is pooled, so that each attempt looks up anew.
    let limits = Limits { pool_idle_max: 0, ..Limits::default() };
    let rebinding = Arc::new(Rebinding(Mutex::new(answers.into())));
    let client = client(receiver.port, limits, rebinding, &authority.roots);
    assert!(post(&client, receiver.port, LONG).await.is_ok());
    for _ in 0..3 {
        assert!(not_public(&post(&client, receiver.port, LONG).await));
    }
    trap.assert_untouched();
    assert_eq!(receiver.connections(), 1);
}

/// The answer judged is the answer used: there is no second look-up within an attempt that could say something else.
#[tokio::test]
async fn a_name_that_turns_private_between_judging_and_connecting_gains_nothing() {
    let authority = Authority::new("ours");
    let receiver = Receiver::start(authority.acceptor(HOST, |_| {})).await;
    let trap = Trap::set(TRAP, receiver.port);
    let rebinding = Arc::new(Rebinding(Mutex::new([vec![ip(ALLOWED)], vec![ip(TRAP)]].into())));
    let client = client(receiver.port, Limits::default(), rebinding, &authority.roots);
    for _ in 0..3 {
        assert!(post(&client, receiver.port, LONG).await.is_ok(), "the kept connection leads to the judged address");
    }
    assert_eq!(receiver.connections(), 1);
    trap.assert_untouched();
}

#[tokio::test]
async fn by_default_nothing_on_this_machine_is_reachable() {
    let trap = TrapListener::bind((ALLOWED, 0)).expect("a free port");
    trap.set_nonblocking(true).expect("a socket");
    let port = trap.local_addr().expect("bound").port();
    let policy = Policy { ports: vec![port], ..Policy::default() };
    for addresses in [&["127.0.0.1"][..], &["::ffff:127.0.0.1"], &["::1"], &["0.0.0.0"], &["::"], &["64:ff9b::7f00:1"]]
    {
        let client = Client::new(policy.clone(), Limits::default(), table(addresses)).expect("valid limits");
        assert!(not_public(&post(&client, port, LONG).await), "{addresses:?}");
    }
    let sandbox = Policy { dangerous_allow_http_loopback: true, ..policy.clone() };
    let client = Client::new(policy, Limits::default(), table(&[])).expect("valid limits");
    for host in ["127.0.0.1", "localhost", "[::1]"] {
        for scheme in ["http", "https"] {
            let target = Target::parse(&format!("{scheme}://{host}:{port}/"), &sandbox).expect("loopback");
            let answer = client.post(&target, HeaderMap::new(), Bytes::new(), LONG).await;
            let refused = matches!(answer, Err(AttemptError::Refused(_)));
            assert!(refused, "a target of a laxer policy is judged again: {scheme} {host} {answer:?}");
        }
    }
    Trap(trap).assert_untouched();
}

#[tokio::test]
async fn in_a_sandbox_localhost_needs_no_name_server() {
    let listener = TcpListener::bind((ALLOWED, 0)).await.expect("a free port");
    let port = listener.local_addr().expect("bound").port();
    let policy = Policy { dangerous_allow_http_loopback: true, ..Policy::default() };
    let client =
        Client::new(policy.clone(), Limits::default(), Arc::new(Broken { hangs: true })).expect("valid limits");
    let target = Target::parse(&format!("http://localhost:{port}/"), &policy).expect("loopback");
    let receive = async {
        let (mut stream, _) = listener.accept().await.expect("a connection");
        let mut request = [0; 1024];
        let read = stream.read(&mut request).await.expect("a request");
        stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.expect("connected");
        String::from_utf8_lossy(&request[..read]).into_owned()
    };
    let (answer, request) = tokio::join!(client.post(&target, HeaderMap::new(), Bytes::new(), LONG), receive);
    assert_eq!(answer.expect("answered").status, 204);
    assert!(request.contains(&format!("host: localhost:{port}\r\n")), "{request}");
}

#[tokio::test]
async fn a_name_without_usable_addresses_is_a_dns_error() {
    let authority = Authority::new("ours");
    let attempt = |resolve: Arc<dyn Resolve>| {
        let client = client(443, Limits::default(), resolve, &authority.roots);
        async move { post(&client, 443, SHORT).await }
    };
    let dns = |fault| Err(AttemptError::Dns(fault));
    assert_eq!(attempt(Arc::new(HostTable::default())).await, dns(DnsFault::NotFound));
    assert_eq!(attempt(table(&[])).await, dns(DnsFault::NotFound));
    assert_eq!(attempt(table(&[ALLOWED; 65])).await, dns(DnsFault::TooMany));
    assert_eq!(attempt(Arc::new(Broken { hangs: false })).await, dns(DnsFault::Failed));
    let started = Instant::now();
    assert_eq!(attempt(Arc::new(Broken { hangs: true })).await, Err(AttemptError::Timeout(Phase::Dns)));
    assert!(started.elapsed() < LONG);
}

#[tokio::test]
async fn a_certificate_that_does_not_fit_is_refused_by_its_reason() {
    let authority = Authority::new("ours");
    let (stranger, impostor) = (Authority::new("a stranger"), Authority::new("ours"));
    let acceptors = [
        (stranger.acceptor(HOST, |_| {}), TlsFault::UnknownIssuer),
        (impostor.acceptor(HOST, |_| {}), TlsFault::BadCertificate),
        (authority.acceptor("hooks.other.com", |_| {}), TlsFault::WrongHost),
        (authority.acceptor("shop.com", |_| {}), TlsFault::WrongHost),
        (authority.acceptor(HOST, |params| params.not_after = rcgen::date_time_ymd(2001, 1, 1)), TlsFault::Expired),
        (authority.acceptor(HOST, |params| params.not_before = rcgen::date_time_ymd(3000, 1, 1)), TlsFault::Expired),
    ];
    for (acceptor, fault) in acceptors {
        let receiver = Receiver::start(acceptor).await;
        let client = client(receiver.port, Limits::default(), table(&[ALLOWED]), &authority.roots);
        assert_eq!(post(&client, receiver.port, LONG).await, Err(AttemptError::Tls(fault)));
    }
    let receiver = Receiver::start(authority.acceptor(HOST, |_| {})).await;
    let client = Client::new(policy(receiver.port), Limits::default(), table(&[ALLOWED])).expect("valid limits");
    let answer = post(&client, receiver.port, LONG).await;
    assert_eq!(answer, Err(AttemptError::Tls(TlsFault::UnknownIssuer)), "the public authorities do not know ours");
}

/// Listens without TLS and treats the first connection in the given manner.
async fn after_accept<F, R>(manner: F, deadline: Duration) -> Result<String, AttemptError>
where
    F: FnOnce(TcpStream) -> R,
    R: Future<Output = ()>,
{
    let listener = TcpListener::bind((ALLOWED, 0)).await.expect("a free port");
    let port = listener.local_addr().expect("bound").port();
    let client = client(port, Limits::default(), table(&[ALLOWED]), &RootCertStore::empty());
    let attempt = post(&client, port, deadline);
    let receive = async {
        let (stream, _) = listener.accept().await.expect("a connection");
        manner(stream).await;
    };
    tokio::pin!(attempt);
    tokio::select! {
        answer = &mut attempt => answer,
        () = receive => attempt.await,
    }
}

#[tokio::test]
async fn a_handshake_that_leads_nowhere_ends_in_time_and_in_bytes() {
    let hang = |stream: TcpStream| async move {
        std::future::pending::<()>().await;
        drop(stream);
    };
    assert_eq!(after_accept(hang, SHORT).await, Err(AttemptError::Timeout(Phase::Tls)));

    let plain = |mut stream: TcpStream| async move {
        let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
    };
    assert_eq!(after_accept(plain, LONG).await, Err(AttemptError::Tls(TlsFault::Protocol)));

    let close = |stream: TcpStream| async move { drop(stream) };
    assert_eq!(after_accept(close, LONG).await, Err(AttemptError::Tls(TlsFault::Closed)));

    // Well-formed records without end: the outer framing of a handshake message that never completes.
    let flood = |mut stream: TcpStream| async move {
        let mut record = vec![0x16, 3, 3, 0x40, 0];
        record.extend_from_slice(&[0; 0x4000]);
        while stream.write_all(&record).await.is_ok() {}
    };
    let started = Instant::now();
    let answer = after_accept(flood, LONG).await;
    assert!(matches!(answer, Err(AttemptError::Tls(_) | AttemptError::BadResponse(_))), "{answer:?}");
    assert!(started.elapsed() < LONG, "by bytes, not by time");
}

#[test]
fn every_failure_has_a_stable_category_and_a_message_without_addresses() {
    let target = Target::parse("https://10.0.0.1/", &Policy::default()).expect_err("private");
    let rows = [
        (AttemptError::Refused(target), "refused"),
        (AttemptError::Dns(DnsFault::NotFound), "dns"),
        (AttemptError::Connect(dispatcher::egress::ConnectFault::Refused), "connect"),
        (AttemptError::Tls(TlsFault::Expired), "tls"),
        (AttemptError::Timeout(Phase::Answer), "timeout"),
        (AttemptError::Reset, "reset"),
        (AttemptError::BadResponse(dispatcher::egress::ResponseFault::Malformed), "bad_response"),
    ];
    for (error, category) in rows {
        assert_eq!(error.category(), category);
        assert!(!error.to_string().contains("10."), "{error}");
    }
}

#[tokio::test]
async fn the_systems_resolver_reads_the_hosts_file() {
    let resolver = dispatcher::egress::SystemResolver::default();
    let found = resolver.resolve("localhost").await.expect("in every hosts file");
    assert!(!found.is_empty() && found.iter().all(IpAddr::is_loopback));
}
