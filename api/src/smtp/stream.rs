//! The socket of a connection, in the clear or under TLS.

use std::future::poll_fn;
use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::{Poll, ready};

use tokio::io::{AsyncRead, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

/// Octets taken per read. They live on the stack during one poll, so that an idle connection has no read buffer.
const READ_OCTETS: usize = 32 * 1024;

/// See the module.
pub(super) enum Stream {
    Clear(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
    /// Given to a handshake that failed.
    Gone,
}

impl Stream {
    /// Waits for octets and hands them to `take`; returns how many there were, 0 at the end. Safe to drop while it
    /// waits: what was read has been handed on.
    pub(super) async fn read(&mut self, mut take: impl FnMut(&[u8])) -> io::Result<usize> {
        poll_fn(|cx| {
            let mut space = [MaybeUninit::<u8>::uninit(); READ_OCTETS];
            let mut buffer = ReadBuf::uninit(&mut space);
            match self {
                Self::Clear(stream) => ready!(Pin::new(stream).poll_read(cx, &mut buffer))?,
                Self::Tls(stream) => ready!(Pin::new(stream).poll_read(cx, &mut buffer))?,
                Self::Gone => return Poll::Ready(Err(gone())),
            }
            take(buffer.filled());
            Poll::Ready(Ok(buffer.filled().len()))
        })
        .await
    }

    pub(super) async fn write(&mut self, octets: &[u8]) -> io::Result<()> {
        match self {
            Self::Clear(stream) => stream.write_all(octets).await,
            Self::Tls(stream) => {
                stream.write_all(octets).await?;
                stream.flush().await
            }
            Self::Gone => Err(gone()),
        }
    }

    /// Says goodbye to the other side's socket.
    pub(super) async fn close(&mut self) -> io::Result<()> {
        match self {
            Self::Clear(stream) => stream.shutdown().await,
            Self::Tls(stream) => stream.shutdown().await,
            Self::Gone => Err(gone()),
        }
    }
}

fn gone() -> io::Error {
    io::ErrorKind::NotConnected.into()
}

/// Sends a line on a connection that is not served, and closes it.
pub(super) fn dismiss(stream: TcpStream, octets: &[u8]) {
    // The socket does not block, and a new connection has room for a line.
    if let Ok(mut stream) = stream.into_std() {
        let _ = io::Write::write(&mut stream, octets);
    }
}
