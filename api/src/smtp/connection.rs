//! One connection: does what its session says.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use mail::address::ReversePath;
use mail::smtp::proxy::{Progress, parse as parse_proxy_header};
use mail::smtp::{Action, MailParameters, PeerInfo, Session, TlsInfo, Transaction, Verdict};
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::desk::{Desk, Place};
use super::network::counted_as;
use super::stream::Stream;
use super::{Shared, tls};

/// How long a listed proxy has for its header.
const PROXY_HEADER_TIME_MAX: Duration = Duration::from_secs(10);
/// How much is read of it at once: more than any header has.
const PROXY_READ_OCTETS: usize = 4096;
/// How long and how much of what a client still sends is read after the last reply: closing a socket with unread
/// octets would reset the connection, and the reply might be lost with it.
const LINGER_TIME_MAX: Duration = Duration::from_millis(500);
const LINGER_OCTETS_MAX: usize = 64 * 1024;
/// How long a client must keep silent even where no greeting delay is configured: what it sent with its first segment
/// is seen within this.
const GLANCE: Duration = Duration::from_millis(1);
/// How long a wait for a deadline is at least, so that a clock that stands still does not spin.
const WAIT_MIN: Duration = Duration::from_millis(1);

/// How a session ended, as a metric label.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// The dialogue came to an end, by QUIT or by a reply that ends it.
    Closed,
    /// The client went away.
    Cut,
    /// The client let a deadline pass.
    TimedOut,
    /// The client did not wait for the greeting.
    EarlyTalker,
    /// The handshake failed.
    TlsFailed,
    /// A PROXY header was wrong, or came from somebody who is no proxy.
    ProxyInvalid,
    /// The client has too many connections.
    PeerLimit,
    /// All clients together have.
    TotalLimit,
    /// Memory for unfinished mail ran out.
    MemoryLimit,
    /// The program stops.
    Drained,
}

impl Outcome {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Cut => "cut",
            Self::TimedOut => "timed_out",
            Self::EarlyTalker => "early_talker",
            Self::TlsFailed => "tls_failed",
            Self::ProxyInvalid => "proxy_invalid",
            Self::PeerLimit => "peer_limit",
            Self::TotalLimit => "total_limit",
            Self::MemoryLimit => "memory_limit",
            Self::Drained => "drained",
        }
    }
}

impl From<io::Error> for Outcome {
    fn from(_: io::Error) -> Self {
        Self::Cut
    }
}

/// Counts the octets a connection holds in the sum of all.
struct Held {
    shared: Arc<Shared>,
    octets: usize,
}

impl Held {
    /// Notes how many octets the connection holds now; returns how many all of them hold.
    fn set(&mut self, octets: usize) -> usize {
        let before = std::mem::replace(&mut self.octets, octets);
        let total = &self.shared.held_octets;
        if octets >= before {
            total.fetch_add(octets - before, Ordering::Relaxed) + (octets - before)
        } else {
            total.fetch_sub(before - octets, Ordering::Relaxed) - (before - octets)
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.set(0);
    }
}

/// A connection before anything was read from it.
pub(super) struct Connection {
    pub(super) shared: Arc<Shared>,
    pub(super) stream: TcpStream,
    pub(super) remote: SocketAddr,
    /// It begins with TLS (RFC 8314).
    pub(super) implicit_tls: bool,
    pub(super) stop: CancellationToken,
}

impl Connection {
    /// Serves the connection to its end.
    pub(super) async fn serve(self) -> Outcome {
        let Self { shared, mut stream, remote, implicit_tls, stop } = self;
        let is_proxy = shared.settings.proxy_peers.iter().any(|peer| peer.contains(remote.ip()));
        let (client, ahead) = if is_proxy {
            let header = timeout(PROXY_HEADER_TIME_MAX, Box::pin(read_proxy_header(&mut stream, remote, implicit_tls)));
            match header.await {
                Ok(Ok(read)) => read,
                Ok(Err(outcome)) => return outcome,
                Err(_) => return Outcome::ProxyInvalid,
            }
        } else {
            (remote, vec![])
        };
        let address = client.ip().to_canonical();
        let trusted = shared.settings.trusted_peers.iter().any(|peer| peer.contains(address));
        let peer = counted_as(address);
        let mut stream = Stream::Clear(stream);
        let counted = match (trusted, shared.connections.of_peer(peer)) {
            (true, _) => None,
            (false, Ok(counted)) => Some(counted),
            (false, Err(refusal)) => {
                let _ = timeout(LINGER_TIME_MAX, stream.write(&refusal.reply())).await;
                let _ = timeout(LINGER_TIME_MAX, stream.close()).await;
                return Outcome::PeerLimit;
            }
        };
        let tls = match implicit_tls {
            true => match Box::pin(handshake(&shared, &mut stream)).await {
                Ok(tls) => Some(tls),
                Err(outcome) => return outcome,
            },
            false => None,
        };
        let info = PeerInfo { trusted, tls, ..PeerInfo::new(address, client.port()) };
        let session = Session::new(shared.session(address), info, shared.allot.now());
        let mut dialogue = Dialogue {
            held: Held { shared: Arc::clone(&shared), octets: 0 },
            overloaded: shared.connections.overloaded(),
            desk: Desk::of(&shared.purpose),
            place: Place { shared, stop, peer, trusted, _counted: counted },
            stream,
            session,
            stopping: false,
            greeted: false,
            heard: false,
        };
        let outcome = match dialogue.run(&ahead).await {
            Ok(outcome) | Err(outcome) => outcome,
        };
        if outcome != Outcome::Cut {
            dialogue.linger().await;
        }
        outcome
    }
}

/// Does a TLS handshake on a connection in the clear.
async fn handshake(shared: &Shared, stream: &mut Stream) -> Result<TlsInfo, Outcome> {
    let time_max = Duration::from_secs(shared.settings.limits.tls_handshake_seconds.into());
    let (Some(tls), Stream::Clear(clear)) = (&shared.tls, std::mem::replace(stream, Stream::Gone)) else {
        return Err(Outcome::TlsFailed);
    };
    // Everything read so far went to the session, so whatever the handshake meets came after our reply: octets in
    // the clear are no handshake and end it.
    let secured = match timeout(time_max, tls.acceptor().accept(clear)).await {
        Ok(Ok(secured)) => secured,
        Ok(Err(_)) | Err(_) => return Err(Outcome::TlsFailed),
    };
    let info = tls::info(secured.get_ref().1);
    *stream = Stream::Tls(Box::new(secured));
    Ok(info)
}

/// Reads the header of a listed proxy. Returns the client, and what came behind the header; where `exact`, nothing
/// behind it is read.
async fn read_proxy_header(
    stream: &mut TcpStream,
    remote: SocketAddr,
    exact: bool,
) -> Result<(SocketAddr, Vec<u8>), Outcome> {
    let mut input = Vec::with_capacity(PROXY_READ_OCTETS);
    loop {
        let octets_max = if exact { 1 } else { PROXY_READ_OCTETS as u64 };
        if stream.take(octets_max).read_buf(&mut input).await? == 0 {
            return Err(Outcome::Cut);
        }
        match parse_proxy_header(&input) {
            Ok(Progress::Incomplete) => {}
            // A proxy that speaks for itself, as in health checks, is its own client.
            Ok(Progress::Complete { client, octets }) => {
                return Ok((client.unwrap_or(remote), input.split_off(octets)));
            }
            Err(_) => return Err(Outcome::ProxyInvalid),
        }
    }
}

/// Tells whether a client begins with a PROXY header though it is no proxy of ours.
fn claims_proxy(octets: &[u8]) -> bool {
    octets.starts_with(b"PROXY ") || octets.starts_with(b"\r\n\r\n\0\r\nQUIT\n")
}

/// What ended a wait for input.
enum Wake {
    Read(io::Result<usize>),
    Deadline,
    Stop,
    Overload,
}

/// A connection whose client is known.
struct Dialogue {
    place: Place,
    desk: Desk,
    stream: Stream,
    session: Session,
    /// The session has been told to stop.
    stopping: bool,
    /// The greeting was sent.
    greeted: bool,
    /// Something was heard from the client.
    heard: bool,
    overloaded: watch::Receiver<bool>,
    held: Held,
}

impl Dialogue {
    fn shared(&self) -> &Shared {
        &self.place.shared
    }

    async fn run(&mut self, ahead: &[u8]) -> Result<Outcome, Outcome> {
        self.note_load();
        self.session.feed(ahead, self.place.shared.allot.now());
        let early_talker = !ahead.is_empty() && !self.place.trusted;
        if !early_talker {
            self.delay(GLANCE).await?;
        }
        loop {
            let action = self.session.next_action();
            match action {
                Action::Reply(octets) => self.write(&octets).await?,
                Action::NeedInput { deadline } => self.input(deadline).await?,
                Action::CheckSender { path, parameters } => {
                    let verdict = Box::pin(self.check_sender(&path, &parameters)).await;
                    self.answer(verdict);
                }
                Action::CheckRecipient { path, .. } => {
                    let sender = self.session.reverse_path();
                    let verdict = Box::pin(self.desk.check_recipient(&self.place, sender, path)).await;
                    self.answer(verdict);
                }
                Action::Authenticate(credentials) => {
                    let verdict = Box::pin(self.desk.authenticate(&self.place, credentials)).await;
                    self.answer(verdict);
                }
                Action::Deliver(transaction) => {
                    let verdict = Box::pin(self.deliver(*transaction)).await;
                    self.answer(verdict);
                }
                Action::Delay(delay) => self.delay(delay).await?,
                Action::StartTls => Box::pin(self.start_tls()).await?,
                Action::Close if early_talker => return Ok(Outcome::EarlyTalker),
                Action::Close if self.stopping => return Ok(Outcome::Drained),
                Action::Close => return Ok(Outcome::Closed),
                // Every question is answered above before the next action is asked for.
                Action::NeedAnswer => return Ok(Outcome::Closed),
            }
        }
    }

    fn answer(&mut self, verdict: Verdict) {
        self.session.answer(verdict, self.place.shared.allot.now());
    }

    async fn write(&mut self, octets: &[u8]) -> Result<(), Outcome> {
        let time_max = Duration::from_secs(self.shared().settings.limits.command_idle_seconds.into());
        timeout(time_max, self.stream.write(octets)).await.map_err(|_| Outcome::TimedOut)??;
        self.greeted = true;
        Ok(())
    }

    /// Waits for input, the deadline, the end of the program or a change of load, whichever is first.
    async fn input(&mut self, deadline: i64) -> Result<(), Outcome> {
        let left = deadline.saturating_sub(self.place.shared.allot.now());
        let wait = Duration::from_micros(u64::try_from(left).unwrap_or(0)).max(WAIT_MIN);
        let (session, allot, heard) = (&mut self.session, &self.place.shared.allot, &mut self.heard);
        let mut foreign_proxy = false;
        let read = self.stream.read(|octets| {
            foreign_proxy = !*heard && claims_proxy(octets);
            *heard = true;
            session.feed(octets, allot.now());
        });
        let wake = tokio::select! {
            biased;
            read = read => Wake::Read(read),
            () = self.place.stop.cancelled(), if !self.stopping => Wake::Stop,
            Ok(()) = self.overloaded.changed() => Wake::Overload,
            () = sleep(wait) => Wake::Deadline,
        };
        match wake {
            Wake::Read(read) => {
                if read? == 0 {
                    return Err(Outcome::Cut);
                }
                if foreign_proxy {
                    return Err(Outcome::ProxyInvalid);
                }
                self.bound_memory().await
            }
            Wake::Deadline => {
                let now = self.place.shared.allot.now();
                self.session.timed_out(now);
                if now >= deadline { self.farewell(Outcome::TimedOut).await } else { Ok(()) }
            }
            Wake::Stop => {
                self.stopping = true;
                self.session.shutdown();
                Ok(())
            }
            Wake::Overload => {
                self.note_load();
                Ok(())
            }
        }
    }

    fn note_load(&mut self) {
        let overloaded = *self.overloaded.borrow_and_update();
        self.session.set_overloaded(overloaded);
    }

    /// Sends what the session says last, then ends the dialogue.
    async fn farewell(&mut self, outcome: Outcome) -> Result<(), Outcome> {
        if let Action::Reply(octets) = self.session.next_action() {
            self.write(&octets).await?;
        }
        Err(outcome)
    }

    /// Ends the dialogue where unfinished mail takes more memory than there is; new mail is refused long before.
    async fn bound_memory(&mut self) -> Result<(), Outcome> {
        let octets_max = self.shared().settings.held_octets_max.saturating_mul(2);
        if self.held.set(self.session.held_octets()) <= octets_max {
            return Ok(());
        }
        self.write(b"421 4.3.1 insufficient memory, try again later\r\n").await?;
        Err(Outcome::MemoryLimit)
    }

    async fn delay(&mut self, delay: Duration) -> Result<(), Outcome> {
        if self.greeted {
            self.place.pause(delay).await;
            return Ok(());
        }
        // Before the greeting the client must keep silent.
        let mut delay = std::pin::pin!(sleep(delay));
        loop {
            let (session, allot) = (&mut self.session, &self.place.shared.allot);
            let read = tokio::select! {
                read = self.stream.read(|octets| session.feed(octets, allot.now())) => read?,
                () = delay.as_mut() => return Ok(()),
                () = self.place.stop.cancelled() => return Ok(()),
            };
            if read == 0 {
                return Err(Outcome::Cut);
            }
            if !self.place.trusted {
                return self.farewell(Outcome::EarlyTalker).await;
            }
        }
    }

    async fn check_sender(&mut self, path: &ReversePath, parameters: &MailParameters) -> Verdict {
        if self.shared().held_octets.load(Ordering::Relaxed) > self.shared().settings.held_octets_max {
            return Verdict::storage_full();
        }
        self.desk.check_sender(&self.place, path, parameters).await
    }

    async fn deliver(&mut self, transaction: Transaction) -> Verdict {
        self.held.set(transaction.data.capacity());
        let verdict = self.desk.deliver(&self.place, transaction).await;
        self.held.set(0);
        verdict
    }

    async fn start_tls(&mut self) -> Result<(), Outcome> {
        let info = handshake(&self.place.shared, &mut self.stream).await?;
        self.session.tls_established(info, self.place.shared.allot.now());
        Ok(())
    }

    /// Closes our half and reads the client's to its end, for a moment.
    async fn linger(&mut self) {
        let stream = &mut self.stream;
        let lingering = async {
            stream.close().await?;
            let mut octets = 0;
            while octets < LINGER_OCTETS_MAX {
                match stream.read(|_| {}).await? {
                    0 => break,
                    more => octets += more,
                }
            }
            io::Result::Ok(())
        };
        let _ = timeout(LINGER_TIME_MAX, Box::pin(lingering)).await;
    }
}
