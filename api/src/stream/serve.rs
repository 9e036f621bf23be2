//! Serving HTTP connections, with open streams as cheap as they can be.
//!
//! Requests are read and ordinary answers written by hyper. When an answer turns out to be an open stream, the
//! connection is taken over: hyper's buffers and the request go, and what stays is the socket, the stream and at most
//! one chunk on its way out. That makes an idle stream small, and it makes the end of a stream ours to decide: a client
//! that does not read, or whose key is revoked while it does not read, is cut without waiting for it.
//!
//! An open stream is written as chunked HTTP/1.1 (RFC 9112 section 7.1), one chunk for all frames that are ready; to an
//! HTTP/1.0 client as it is (section 6.3). The connection ends with the stream.

use std::convert::Infallible;
use std::future::poll_fn;
use std::io::{self, IoSlice, Write as _};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, HttpBody as _};
use axum::extract::ConnectInfo;
use axum::http::header::{CONNECTION, TRANSFER_ENCODING};
use axum::http::{HeaderValue, Method, Request, Response, Version, response};
use bytes::Bytes;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::Deserialize;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{Instant, Sleep};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::Service as _;

use super::feed::{Ending, Member};
use super::live::Live;

/// How connections are served.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Connections open at once; more wait to be accepted. Each needs a descriptor.
    pub connections_max: usize,
    /// How long the head of a request may take to arrive, counted from the first moment the connection is idle.
    pub head_seconds_max: u64,
    /// How many bytes the head of a request may have, and how many of an answer are held back for a slow client.
    pub buffer_bytes_max: usize,
    /// How long a client of an open stream may take for one chunk before it is cut.
    pub stall_seconds_max: u64,
    /// How many bytes of an open stream the kernel may hold for a client.
    pub stream_send_buffer_bytes: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            connections_max: 16_384,
            head_seconds_max: 30,
            buffer_bytes_max: 64 * 1024,
            stall_seconds_max: 30,
            stream_send_buffer_bytes: 64 * 1024,
        }
    }
}

impl Config {
    /// Returns everything that is wrong with the section, each naming its key within the section `section`.
    #[must_use]
    pub fn problems(&self, section: &str) -> Vec<String> {
        let at_least = [
            ("connections_max", self.connections_max, 1),
            ("head_seconds_max", usize::try_from(self.head_seconds_max).unwrap_or(usize::MAX), 1),
            ("buffer_bytes_max", self.buffer_bytes_max, 8 * 1024),
            ("stall_seconds_max", usize::try_from(self.stall_seconds_max).unwrap_or(usize::MAX), 1),
            (
                "stream_send_buffer_bytes",
                usize::try_from(self.stream_send_buffer_bytes).unwrap_or(usize::MAX),
                4 * 1024,
            ),
        ];
        let low = at_least.into_iter().filter(|(_, n, min)| n < min);
        low.map(|(key, _, min)| format!("{section}.{key} must be at least {min}")).collect()
    }
}

/// A connection to a client.
pub trait Transport: AsyncRead + AsyncWrite + Unpin + Send + 'static {
    /// Bounds how many bytes are held for a client below us, where that can be bounded.
    ///
    /// If it fails more is held for a client that does not read: no harm to anybody else.
    fn hold_at_most(&self, bytes: usize);
}

impl Transport for TcpStream {
    fn hold_at_most(&self, bytes: usize) {
        let _ = socket2::SockRef::from(self).set_send_buffer_size(bytes);
    }
}

impl Transport for tokio_rustls::server::TlsStream<TcpStream> {
    fn hold_at_most(&self, bytes: usize) {
        self.get_ref().0.hold_at_most(bytes);
    }
}

/// Accepts connections and serves them.
#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
    router: Router,
    config: Config,
}

/// The pause after a failure to accept, for example when there are no descriptors left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

impl Server {
    /// Returns a server of a router's routes.
    #[must_use]
    pub fn new(listener: TcpListener, router: Router, config: Config) -> Self {
        Self { listener, router, config }
    }

    /// Serves until stopped; then accepts no more, lets open requests finish and returns when every connection ended.
    ///
    /// Open streams do not end by themselves: [`super::Streams::run`] must be stopped as well.
    pub async fn run(self, stop: CancellationToken) {
        let connections = TaskTracker::new();
        let places = Arc::new(Semaphore::new(self.config.connections_max));
        let config = Arc::new(self.config);
        loop {
            let next = async {
                let place = Arc::clone(&places).acquire_owned().await;
                (place, self.listener.accept().await)
            };
            let (place, accepted) = tokio::select! {
                () = stop.cancelled() => break,
                next = next => next,
            };
            match accepted {
                Ok((socket, peer)) => {
                    // Frames are small and must not wait for one another.
                    let _ = socket.set_nodelay(true);
                    let serve = serve_connection(socket, peer, self.router.clone(), Arc::clone(&config), stop.clone());
                    connections.spawn(async move {
                        let _place = place;
                        serve.await;
                    });
                }
                Err(error) => {
                    tracing::warn!(error = &error as &dyn std::error::Error, "a connection could not be accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
        drop(self.listener);
        connections.close();
        connections.wait().await;
    }
}

/// An answer that is an open stream, on its way from hyper to us.
struct Handoff {
    head: response::Parts,
    version: Version,
    body: Body,
    member: Arc<Member>,
}

/// What a connection's service and its transport tell each other's owner.
#[derive(Default)]
struct Between {
    handoff: Mutex<Option<Handoff>>,
    /// Whether hyper has written everything since the handoff was made.
    flushed: AtomicBool,
}

/// Serves one connection until it ends.
pub async fn serve_connection<T: Transport>(
    transport: T,
    peer: SocketAddr,
    router: Router,
    config: Arc<Config>,
    stop: CancellationToken,
) {
    let between = Arc::new(Between::default());
    let front = Front { router, peer, between: Arc::clone(&between) };
    let io = TokioIo::new(Observed { inner: transport, between: Arc::clone(&between) });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(Duration::from_secs(config.head_seconds_max))
        .max_buf_size(config.buffer_bytes_max)
        .serve_connection(io, front);
    let Some((transport, handoff)) = converse(Box::new(connection), between, stop).await else { return };
    let buffer_bytes = usize::try_from(config.stream_send_buffer_bytes).unwrap_or(usize::MAX);
    transport.hold_at_most(buffer_bytes);
    let mut pump = Pump::new(transport, handoff, Duration::from_secs(config.stall_seconds_max));
    drop(config);
    if let Err(error) = poll_fn(|cx| pump.poll(cx)).await {
        tracing::debug!(error = &error as &dyn std::error::Error, "an open stream broke");
    }
}

type Connection<T> = Box<http1::Connection<TokioIo<Observed<T>>, Front>>;

/// Lets hyper serve requests until the connection ends or one is answered by an open stream.
async fn converse<T: Transport>(
    mut connection: Connection<T>,
    between: Arc<Between>,
    stop: CancellationToken,
) -> Option<(T, Handoff)> {
    let mut stopping = std::pin::pin!(stop.cancelled());
    let mut told = false;
    let handoff = poll_fn(|cx| {
        if !told && stopping.as_mut().poll(cx).is_ready() {
            told = true;
            Pin::new(&mut *connection).graceful_shutdown();
        }
        let served = Pin::new(&mut *connection).poll(cx);
        // Answers to earlier requests must have left before the socket changes hands.
        if between.flushed.load(Ordering::Acquire)
            && let Some(handoff) = between.handoff.lock().unwrap_or_else(PoisonError::into_inner).take()
        {
            return Poll::Ready(Some(handoff));
        }
        match ready!(served) {
            Ok(()) => {}
            Err(error) => tracing::debug!(error = &error as &dyn std::error::Error, "a connection broke"),
        }
        Poll::Ready(None)
    })
    .await?;
    Some((connection.into_parts().io.into_inner().inner, handoff))
}

/// What hyper asks for answers.
struct Front {
    router: Router,
    peer: SocketAddr,
    between: Arc<Between>,
}

impl hyper::service::Service<Request<Incoming>> for Front {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn call(&self, mut request: Request<Incoming>) -> Self::Future {
        let get = request.method() == Method::GET;
        let version = request.version();
        request.extensions_mut().insert(ConnectInfo(self.peer));
        let answer = self.router.clone().call(request.map(Body::new));
        let between = Arc::clone(&self.between);
        Box::pin(async move {
            let mut response = answer.await?;
            let live = response.extensions_mut().remove::<Live>();
            let Some(Live(member)) = live.filter(|_| get) else { return Ok(response) };
            let (head, body) = response.into_parts();
            *between.handoff.lock().unwrap_or_else(PoisonError::into_inner) =
                Some(Handoff { head, version, body, member });
            between.flushed.store(false, Ordering::Release);
            std::future::pending().await
        })
    }
}

/// A transport that notes when hyper has written all it had: only then does it flush.
struct Observed<T> {
    inner: T,
    between: Arc<Between>,
}

impl<T: Transport> AsyncRead for Observed<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(cx, buf)
    }
}

impl<T: Transport> AsyncWrite for Observed<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.inner).poll_flush(cx);
        if matches!(flushed, Poll::Ready(Ok(()))) {
            self.between.flushed.store(true, Ordering::Release);
        }
        flushed
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

/// How often a stream whose client does not read is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How long the last chunk of a stream that has ended may take.
const LAST_CHUNK: Duration = Duration::from_secs(5);
/// How many bytes a client may send while it listens; there is nothing it could want to say.
const UNWANTED_BYTES_MAX: usize = 16 * 1024;

/// What is on its way to the client: a lead (the head of the answer, the chunk's size), the data, and a tail.
#[derive(Default)]
struct Outgoing {
    lead: Vec<u8>,
    data: Bytes,
    tail: &'static [u8],
    written: usize,
}

impl Outgoing {
    fn remaining(&self) -> usize {
        self.lead.len() + self.data.len() + self.tail.len() - self.written
    }

    fn slices(&self) -> [IoSlice<'_>; 3] {
        let mut skip = self.written;
        [&self.lead[..], &self.data[..], self.tail].map(|part| {
            let from = skip.min(part.len());
            skip -= from;
            IoSlice::new(&part[from..])
        })
    }
}

/// Writes an open stream to its client.
struct Pump<T> {
    transport: T,
    body: Body,
    member: Arc<Member>,
    chunked: bool,
    outgoing: Outgoing,
    /// Since when the chunk on its way has had to wait.
    waiting_since: Option<Instant>,
    timer: Option<Pin<Box<Sleep>>>,
    stall: Duration,
    unwanted_bytes: usize,
    finished: bool,
}

impl<T: Transport> Pump<T> {
    fn new(transport: T, handoff: Handoff, stall: Duration) -> Self {
        let chunked = handoff.version != Version::HTTP_10;
        let outgoing = Outgoing { lead: head(&handoff.head, chunked), ..Outgoing::default() };
        Self {
            transport,
            body: handoff.body,
            member: handoff.member,
            chunked,
            outgoing,
            waiting_since: None,
            timer: None,
            stall,
            unwanted_bytes: 0,
            finished: false,
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            if self.outgoing.remaining() > 0 {
                let slices = self.outgoing.slices();
                let Poll::Ready(written) = Pin::new(&mut self.transport).poll_write_vectored(cx, &slices) else {
                    return self.poll_waiting(cx);
                };
                match written? {
                    0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                    n => self.outgoing.written += n,
                }
                continue;
            }
            (self.waiting_since, self.timer) = (None, None);
            if self.finished {
                return Pin::new(&mut self.transport).poll_shutdown(cx);
            }
            self.outgoing = Outgoing::default();
            match Pin::new(&mut self.body).poll_frame(cx) {
                Poll::Ready(Some(Ok(frame))) => {
                    if let Ok(data) = frame.into_data() {
                        self.send(data);
                    }
                }
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Err(io::Error::other(error))),
                Poll::Ready(None) => {
                    self.finished = true;
                    self.outgoing.tail = if self.chunked { b"0\r\n\r\n" } else { b"" };
                }
                Poll::Pending => {
                    // TLS keeps bytes until it is flushed. Should that have to wait, it is retried with the next frame.
                    if let Poll::Ready(flushed) = Pin::new(&mut self.transport).poll_flush(cx) {
                        flushed?;
                    }
                    return self.poll_hung_up(cx);
                }
            }
        }
    }

    fn send(&mut self, data: Bytes) {
        if self.chunked && !data.is_empty() {
            let _ = write!(self.outgoing.lead, "{:x}\r\n", data.len());
            self.outgoing.tail = b"\r\n";
        }
        self.outgoing.data = data;
    }

    /// Waits for room, but not for ever, and not once the stream has been ended.
    fn poll_waiting(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let since = *self.waiting_since.get_or_insert_with(Instant::now);
        loop {
            let patience = match self.member.ended() {
                Some(Ending::Revoked | Ending::MailboxInactive) => Duration::ZERO,
                Some(Ending::Shutdown | Ending::Unavailable | Ending::Stalled) => self.stall.min(LAST_CHUNK),
                None => self.stall,
            };
            if since.elapsed() >= patience {
                self.member.end(Ending::Stalled);
                return Poll::Ready(Ok(()));
            }
            let look_at = (since + patience).min(Instant::now() + LOOK_EVERY);
            let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(look_at)));
            if timer.as_mut().poll(cx).is_pending() {
                return self.poll_hung_up(cx);
            }
            timer.as_mut().reset(look_at);
        }
    }

    /// Notices that the client has gone. What it sends meanwhile is dropped.
    fn poll_hung_up(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut space = [0; 256];
        loop {
            let mut buf = ReadBuf::new(&mut space);
            ready!(Pin::new(&mut self.transport).poll_read(cx, &mut buf))?;
            self.unwanted_bytes += buf.filled().len();
            if buf.filled().is_empty() || self.unwanted_bytes > UNWANTED_BYTES_MAX {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

/// Returns the head of an answer whose end is the end of the connection.
fn head(parts: &response::Parts, chunked: bool) -> Vec<u8> {
    let mut headers = parts.headers.clone();
    headers.insert(CONNECTION, HeaderValue::from_static("close"));
    if chunked {
        headers.insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    }
    let version = if chunked { "HTTP/1.1" } else { "HTTP/1.0" };
    let mut out = Vec::with_capacity(512);
    let reason = parts.status.canonical_reason().unwrap_or_default();
    let _ = write!(out, "{version} {} {reason}\r\n", parts.status.as_str());
    for (name, value) in &headers {
        out.extend_from_slice(name.as_str().as_bytes());
        out.extend_from_slice(b": ");
        out.extend_from_slice(value.as_bytes());
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(b"\r\n");
    out
}
