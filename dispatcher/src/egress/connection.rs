//! One HTTP/1.1 connection: open it to a judged address, send a request, read the answer within bounds.
//!
//! The connection has no task of its own. Whoever holds it drives it, so an abandoned attempt closes its socket at
//! once, an idle connection costs only its socket and buffers, and an exchange needs no hand-over between threads.

use std::future::{Future, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;

use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt, Full};
use hyper::Request;
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::CertificateError;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::time::{Duration, Instant, timeout_at};
use tokio_rustls::TlsConnector;

use super::error::{AttemptError, ConnectFault, Phase, ResponseFault, TlsFault};
use super::wire::{Dial, Meter, Metered, Tcp, Wire};
use super::{Answer, BodyEnd, Limits, retry_after};

type Exchange = http1::Connection<TokioIo<Wire>, Full<Bytes>>;

/// An open connection, between requests or in one.
pub(super) struct Connection {
    sender: http1::SendRequest<Full<Bytes>>,
    /// `None` once the connection has ended: its remains tell a waiting request so only when they are dropped.
    exchange: Option<Exchange>,
    meter: Arc<Meter>,
    peer: SocketAddr,
    opened_at: Instant,
}

/// A failed exchange.
pub(super) struct Fault {
    pub(super) error: AttemptError,
    /// The connection ended without a single byte of an answer. On a connection that had been idle this is how a
    /// receiver's own idle timeout looks, and the request may be sent again on a new one.
    pub(super) silent: bool,
}

/// Opens a connection over this machine's network, or over the one that was given.
async fn connect(over: Option<&dyn Dial>, address: SocketAddr) -> io::Result<(Tcp, SocketAddr)> {
    if let Some(over) = over {
        return Ok((Tcp::Foreign(over.dial(address).await?), address));
    }
    let tcp = TcpStream::connect(address).await?;
    let peer = tcp.peer_addr()?;
    // A delivery is one small write: waiting to fill a segment would only add latency.
    tcp.set_nodelay(true)?;
    Ok((Tcp::Own(tcp), peer))
}

/// Opens a TCP connection to the first of the addresses that accepts one; returns it with the address at its other end.
pub(super) async fn dial(
    over: Option<&dyn Dial>,
    addresses: &[SocketAddr],
    until: Instant,
    each: Duration,
) -> Result<(Tcp, SocketAddr), AttemptError> {
    let mut fault = ConnectFault::Unreachable;
    for address in addresses {
        let now = Instant::now();
        if now >= until {
            return Err(AttemptError::Timeout(Phase::Connect));
        }
        match timeout_at(until.min(now + each), connect(over, *address)).await {
            Ok(Ok(tcp)) => return Ok(tcp),
            Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => fault = ConnectFault::Refused,
            Ok(Err(_)) => fault = ConnectFault::Unreachable,
            Err(_) if Instant::now() >= until => return Err(AttemptError::Timeout(Phase::Connect)),
            Err(_) => fault = ConnectFault::TimedOut,
        }
    }
    Err(AttemptError::Connect(fault))
}

impl Connection {
    /// Makes an HTTP connection of a TCP one, with TLS for `server_name` if there is one.
    pub(super) async fn establish(
        (tcp, peer): (Tcp, SocketAddr),
        tls: Option<(&TlsConnector, ServerName<'static>)>,
        limits: &Limits,
        until: Instant,
    ) -> Result<Self, AttemptError> {
        let meter = Meter::new(limits.answer_wire_bytes);
        let metered = Metered::new(tcp, Arc::clone(&meter));
        let wire = match tls {
            None => Wire::Plain(metered),
            Some((connector, server_name)) => match timeout_at(until, connector.connect(server_name, metered)).await {
                Ok(Ok(stream)) => Wire::Tls(Box::new(stream)),
                Ok(Err(_)) if meter.is_spent() => {
                    return Err(AttemptError::BadResponse(ResponseFault::TooManyBytes));
                }
                Ok(Err(error)) => return Err(AttemptError::Tls(handshake_fault(&error))),
                Err(_) => return Err(AttemptError::Timeout(Phase::Tls)),
            },
        };
        let (sender, exchange) = http1::Builder::new()
            .max_buf_size(limits.answer_head_bytes)
            .max_header_size(limits.answer_head_bytes)
            .max_headers(limits.answer_headers_max)
            .handshake(TokioIo::new(wire))
            .await
            .map_err(|error| classify(&error, &meter))?;
        Ok(Self { sender, exchange: Some(exchange), meter, peer, opened_at: Instant::now() })
    }

    /// Returns the address at the other end.
    pub(super) const fn peer(&self) -> SocketAddr {
        self.peer
    }

    /// Returns when the connection was opened.
    pub(super) const fn opened_at(&self) -> Instant {
        self.opened_at
    }

    /// Looks whether the connection can carry another request: not closed meanwhile, nothing received unasked.
    pub(super) async fn is_reusable(&mut self) -> bool {
        poll_fn(|cx| {
            if let Some(exchange) = &mut self.exchange
                && Pin::new(exchange).poll(cx).is_ready()
            {
                self.exchange = None;
            }
            Poll::Ready(())
        })
        .await;
        self.exchange.is_some() && self.sender.is_ready()
    }

    /// Sends a request and reads its answer: the head completely, of the body at most the configured preview.
    ///
    /// Once the head is there the receiver has spoken, and its status stands however the body ends: treating a 2xx
    /// as a failure because of a slow body would deliver the event twice.
    pub(super) async fn exchange(
        &mut self,
        request: Request<Full<Bytes>>,
        limits: &Limits,
        started: Instant,
        until: Instant,
    ) -> Result<Answer, Fault> {
        self.meter.restart(limits.answer_wire_bytes);
        let sent = self.sender.send_request(request);
        let response = match timeout_at(until, drive(&mut self.exchange, sent)).await {
            Ok(Ok(response)) => response,
            Ok(Err(error)) => {
                let error = classify(&error, &self.meter);
                let silent = error == AttemptError::Reset && self.meter.received() == 0;
                return Err(Fault { error, silent });
            }
            Err(_) => {
                return Err(Fault { error: AttemptError::Timeout(Phase::Answer), silent: false });
            }
        };
        let (head, body) = response.into_parts();
        let (status, headers) = (head.status.as_u16(), head.headers);
        let retry_after = retry_after(&headers);
        let (body_preview, body_end) = self.preview(body, limits.body_preview_bytes, until).await;
        Ok(Answer { status, retry_after, headers, body_preview, body_end, elapsed: started.elapsed() })
    }

    async fn preview(&mut self, mut body: Incoming, bytes_max: usize, until: Instant) -> (Bytes, BodyEnd) {
        let mut preview = Bytes::new();
        let mut joined = BytesMut::new();
        let end = loop {
            let data = match timeout_at(until, drive(&mut self.exchange, body.frame())).await {
                Ok(None) => break BodyEnd::Complete,
                Ok(Some(Ok(frame))) => match frame.into_data() {
                    Ok(data) => data,
                    Err(_trailers) => continue,
                },
                Ok(Some(Err(_))) if self.meter.is_spent() => break BodyEnd::Truncated,
                Ok(Some(Err(_))) => break BodyEnd::Broken,
                Err(_) => break BodyEnd::TimedOut,
            };
            // Nearly every answer is one frame, which is kept as it is; more are joined.
            if preview.is_empty() && joined.is_empty() && data.len() <= bytes_max {
                preview = data;
                continue;
            }
            if joined.is_empty() {
                joined.extend_from_slice(&std::mem::take(&mut preview));
            }
            let room = bytes_max - joined.len();
            joined.extend_from_slice(&data[..data.len().min(room)]);
            if data.len() > room {
                break BodyEnd::Truncated;
            }
        };
        if joined.is_empty() { (preview, end) } else { (joined.freeze(), end) }
    }
}

/// Runs one step of the conversation and the connection under it together, on the caller's task.
async fn drive<F: Future>(exchange: &mut Option<Exchange>, step: F) -> F::Output {
    let mut step = pin!(step);
    poll_fn(|cx| {
        if let Poll::Ready(output) = step.as_mut().poll(cx) {
            return Poll::Ready(output);
        }
        if let Some(running) = exchange {
            if Pin::new(running).poll(cx).is_ready() {
                *exchange = None;
            }
            return step.as_mut().poll(cx);
        }
        Poll::Pending
    })
    .await
}

/// Names what hyper reports about an exchange that got no answer.
fn classify(error: &hyper::Error, meter: &Meter) -> AttemptError {
    if meter.is_spent() {
        return AttemptError::BadResponse(ResponseFault::TooManyBytes);
    }
    if error.is_parse_too_large() {
        return AttemptError::BadResponse(ResponseFault::HeadTooLarge);
    }
    if error.is_parse() {
        return AttemptError::BadResponse(ResponseFault::Malformed);
    }
    if error.is_incomplete_message() || error.is_canceled() || error.is_closed() {
        return AttemptError::Reset;
    }
    match std::error::Error::source(error).and_then(|source| source.downcast_ref::<io::Error>()) {
        Some(io) => match tls_fault(io) {
            Some(fault) => AttemptError::Tls(fault),
            None => AttemptError::Reset,
        },
        None => AttemptError::BadResponse(ResponseFault::Malformed),
    }
}

fn handshake_fault(error: &io::Error) -> TlsFault {
    tls_fault(error).unwrap_or(TlsFault::Closed)
}

fn tls_fault(error: &io::Error) -> Option<TlsFault> {
    let error = error.get_ref()?.downcast_ref::<rustls::Error>()?;
    Some(match error {
        rustls::Error::InvalidCertificate(reason) => match reason {
            CertificateError::Expired
            | CertificateError::ExpiredContext { .. }
            | CertificateError::NotValidYet
            | CertificateError::NotValidYetContext { .. } => TlsFault::Expired,
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => TlsFault::WrongHost,
            CertificateError::UnknownIssuer => TlsFault::UnknownIssuer,
            CertificateError::Revoked => TlsFault::Revoked,
            _ => TlsFault::BadCertificate,
        },
        _ => TlsFault::Protocol,
    })
}
