//! The byte stream under one connection: TCP or TLS over TCP, with a budget on what the other side may send.
//!
//! The budget sits below TLS and below HTTP, so that it covers everything a hostile receiver can send without making
//! progress: oversized certificate chains, endless `100 Continue` answers, chunk framing around single bytes.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};

use async_trait::async_trait;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

/// Counts received bytes for one attempt and says when there were too many. Shared by the stream, which counts, and
/// the connection, which starts anew for each attempt; both are always on the same task.
#[derive(Debug)]
pub(super) struct Meter {
    received: AtomicU64,
    budget: AtomicU64,
}

impl Meter {
    pub(super) fn new(budget: u64) -> Arc<Self> {
        Arc::new(Self { received: AtomicU64::new(0), budget: AtomicU64::new(budget) })
    }

    pub(super) fn restart(&self, budget: u64) {
        self.received.store(0, Ordering::Relaxed);
        self.budget.store(budget, Ordering::Relaxed);
    }

    pub(super) fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    pub(super) fn is_spent(&self) -> bool {
        self.received() >= self.budget.load(Ordering::Relaxed)
    }
}

/// A connection of a network that is not this machine's.
pub trait Foreign: AsyncRead + AsyncWrite + Send + Unpin + std::fmt::Debug {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin + std::fmt::Debug> Foreign for T {}

/// Opens connections over another network than this machine's, for simulations.
#[async_trait]
pub trait Dial: Send + Sync {
    /// Opens a connection to an address that was judged.
    ///
    /// # Errors
    /// The address does not take it.
    async fn dial(&self, address: SocketAddr) -> io::Result<Box<dyn Foreign>>;
}

/// What is under a connection.
#[derive(Debug)]
pub(super) enum Tcp {
    /// The kernel's.
    Own(TcpStream),
    /// Another network's.
    Foreign(Box<dyn Foreign>),
}

/// A TCP stream whose received bytes are metered.
#[derive(Debug)]
pub(super) struct Metered {
    tcp: Tcp,
    meter: Arc<Meter>,
}

impl Metered {
    pub(super) const fn new(tcp: Tcp, meter: Arc<Meter>) -> Self {
        Self { tcp, meter }
    }
}

impl AsyncRead for Metered {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.meter.is_spent() {
            return Poll::Ready(Err(io::Error::other("the other side sent too many bytes")));
        }
        let before = buf.filled().len();
        ready!(match &mut self.tcp {
            Tcp::Own(io) => Pin::new(io).poll_read(cx, buf),
            Tcp::Foreign(io) => Pin::new(io).poll_read(cx, buf),
        })?;
        let received = buf.filled().len() - before;
        self.meter.received.fetch_add(received as u64, Ordering::Relaxed);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Metered {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.tcp {
            Tcp::Own(io) => Pin::new(io).poll_write(cx, bytes),
            Tcp::Foreign(io) => Pin::new(io).poll_write(cx, bytes),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut self.tcp {
            Tcp::Own(io) => Pin::new(io).poll_write_vectored(cx, slices),
            Tcp::Foreign(io) => Pin::new(io).poll_write_vectored(cx, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match &self.tcp {
            Tcp::Own(io) => io.is_write_vectored(),
            Tcp::Foreign(io) => io.is_write_vectored(),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.tcp {
            Tcp::Own(io) => Pin::new(io).poll_flush(cx),
            Tcp::Foreign(io) => Pin::new(io).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.tcp {
            Tcp::Own(io) => Pin::new(io).poll_shutdown(cx),
            Tcp::Foreign(io) => Pin::new(io).poll_shutdown(cx),
        }
    }
}

/// What HTTP is spoken over.
#[derive(Debug)]
pub(super) enum Wire {
    Plain(Metered),
    Tls(Box<TlsStream<Metered>>),
}

impl AsyncRead for Wire {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(io) => Pin::new(io).poll_read(cx, buf),
            Self::Tls(io) => Pin::new(io).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Wire {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(io) => Pin::new(io).poll_write(cx, bytes),
            Self::Tls(io) => Pin::new(io).poll_write(cx, bytes),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(io) => Pin::new(io).poll_write_vectored(cx, slices),
            Self::Tls(io) => Pin::new(io).poll_write_vectored(cx, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Plain(io) => io.is_write_vectored(),
            Self::Tls(io) => io.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(io) => Pin::new(io).poll_flush(cx),
            Self::Tls(io) => Pin::new(io).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(io) => Pin::new(io).poll_shutdown(cx),
            Self::Tls(io) => Pin::new(io).poll_shutdown(cx),
        }
    }
}
