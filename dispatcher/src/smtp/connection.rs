//! One connection: does what the state machine says.

use std::time::Duration;

use mail::bounce::Stage;
use mail::smtp::client::{Action, Cause, Client, ClientConfig, Failure, Mail, Outcome, RecipientResult};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// Longest wait for a peer to take what is written.
const WRITE_WITHIN: Duration = Duration::from_secs(180);
/// Longest handshake.
const HANDSHAKE_WITHIN: Duration = Duration::from_secs(60);
/// Longest goodbye.
const QUIT_WITHIN: Duration = Duration::from_secs(2);
const READ_OCTETS: usize = 8 * 1024;

enum Wire {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Wire {
    async fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        match self {
            Self::Plain(stream) => stream.read(buffer).await,
            Self::Tls(stream) => stream.read(buffer).await,
        }
    }

    async fn write(&mut self, octets: &[u8]) -> std::io::Result<()> {
        match self {
            Self::Plain(stream) => stream.write_all(octets).await,
            Self::Tls(stream) => {
                stream.write_all(octets).await?;
                stream.flush().await
            }
        }
    }
}

/// Where the dialogue stands.
pub(super) enum Step {
    /// A mail may be given.
    Ready,
    /// This became of the mail.
    Done(Outcome),
    /// The connection is of no use.
    Failed(Failure),
    /// It is closed.
    Closed,
}

/// See the module.
pub(super) struct Connection {
    client: Client,
    /// `None` while TLS is negotiated, and after it failed.
    wire: Option<Wire>,
    tls: TlsConnector,
    host: String,
    pub(super) opened_at: Instant,
    ready: bool,
}

impl Connection {
    /// Begins the dialogue on a TCP connection; `None` where TLS was to come first and failed.
    pub(super) async fn open(tcp: TcpStream, config: ClientConfig, tls: TlsConnector, host: &str) -> Option<Self> {
        let wire = if config.implicit_tls { handshake(&tls, host, tcp).await? } else { Wire::Plain(tcp) };
        let host = host.to_owned();
        Some(Self { client: Client::new(config), wire: Some(wire), tls, host, opened_at: Instant::now(), ready: false })
    }

    pub(super) fn is_ready(&self) -> bool {
        self.ready
    }

    pub(super) fn offers_dsn(&self) -> bool {
        self.client.capabilities().dsn
    }

    pub(super) fn mails(&self) -> u32 {
        self.client.mails()
    }

    pub(super) fn transcript(&mut self) -> String {
        self.client.take_transcript()
    }

    /// Goes on until the dialogue needs a decision.
    pub(super) async fn step(&mut self, until: Instant) -> Step {
        self.ready = false;
        loop {
            match self.client.next_action() {
                Action::Send(octets) => self.send(&octets, until).await,
                Action::NeedInput { seconds } => self.receive(seconds, until).await,
                Action::StartTls => self.start_tls().await,
                Action::Ready => {
                    self.ready = true;
                    return Step::Ready;
                }
                Action::Done(outcome) => return Step::Done(outcome),
                Action::Failed(failure) => return Step::Failed(failure),
                Action::Close => {
                    self.wire = None;
                    return Step::Closed;
                }
            }
        }
    }

    async fn send(&mut self, octets: &[u8], until: Instant) {
        let Some(wire) = &mut self.wire else { return self.client.lost() };
        let until = until.min(Instant::now() + WRITE_WITHIN);
        match timeout_at(until, wire.write(octets)).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => {
                // The peer may have said why before it closed.
                let mut buffer = [0; READ_OCTETS];
                if let Ok(Ok(n)) = timeout(Duration::from_secs(1), wire.read(&mut buffer)).await {
                    self.client.feed(&buffer[..n]);
                }
                self.client.lost();
            }
            Err(_) => self.client.timed_out(),
        }
    }

    async fn receive(&mut self, seconds: u32, until: Instant) {
        let Some(wire) = &mut self.wire else { return self.client.lost() };
        let mut buffer = [0; READ_OCTETS];
        let until = until.min(Instant::now() + Duration::from_secs(seconds.into()));
        match timeout_at(until, wire.read(&mut buffer)).await {
            Ok(Ok(0) | Err(_)) => self.client.lost(),
            Ok(Ok(n)) => self.client.feed(&buffer[..n]),
            Err(_) => self.client.timed_out(),
        }
    }

    async fn start_tls(&mut self) {
        let Some(Wire::Plain(tcp)) = self.wire.take() else { return self.client.tls_failed() };
        match handshake(&self.tls, &self.host, tcp).await {
            Some(wire) => {
                self.wire = Some(wire);
                self.client.tls_established();
            }
            None => self.client.tls_failed(),
        }
    }

    /// Carries one mail.
    pub(super) async fn carry(&mut self, mail: Mail, until: Instant) -> Vec<RecipientResult> {
        let count = mail.recipients.len();
        let mut waiting = Some(mail);
        loop {
            match self.step(until).await {
                Step::Ready => {
                    let Some(mail) = waiting.take() else { return not_sent(count, lost()) };
                    self.ready = false;
                    if self.client.submit(mail).is_err() {
                        return not_sent(count, lost());
                    }
                }
                Step::Done(outcome) => {
                    // To the point where the next mail may come, so that this connection can be kept.
                    let _ = self.step(until.min(Instant::now() + Duration::from_secs(20))).await;
                    return outcome.recipients;
                }
                Step::Failed(failure) => return not_sent(count, failure),
                Step::Closed => return not_sent(count, lost()),
            }
        }
    }

    /// Tells whether a kept connection failed before the peer had answered anything about this mail.
    pub(super) fn was_stale(&self, results: &[RecipientResult]) -> bool {
        let early =
            |failure: &Failure| matches!(failure.cause, Cause::Lost | Cause::Reply) && failure.stage == Stage::Mail;
        let stale = |result: &RecipientResult| match result {
            RecipientResult::NotSent(failure) => early(failure),
            RecipientResult::Rejected { stage, reply } => *stage == Stage::Mail && reply.code == 421,
            _ => false,
        };
        !self.ready && results.iter().all(stale)
    }

    /// Looks whether a kept connection can carry another mail.
    pub(super) async fn is_alive(&mut self) -> bool {
        let Some(wire) = &mut self.wire else { return false };
        let mut buffer = [0; READ_OCTETS];
        match timeout(Duration::ZERO, wire.read(&mut buffer)).await {
            // Nothing to be read is what an idle connection looks like; whatever comes unasked is a goodbye.
            Err(_) => self.ready,
            Ok(_) => false,
        }
    }

    /// Says goodbye.
    pub(super) async fn quit(&mut self) {
        self.client.quit();
        let until = Instant::now() + QUIT_WITHIN;
        let _ = timeout_at(until, self.step(until)).await;
    }
}

async fn handshake(tls: &TlsConnector, host: &str, tcp: TcpStream) -> Option<Wire> {
    let name = ServerName::try_from(host.to_owned()).ok()?;
    let stream = timeout(HANDSHAKE_WITHIN, tls.connect(name, tcp)).await.ok()?.ok()?;
    Some(Wire::Tls(Box::new(stream)))
}

fn lost() -> Failure {
    Failure { stage: Stage::Mail, cause: Cause::Lost, reply: None }
}

fn not_sent(count: usize, failure: Failure) -> Vec<RecipientResult> {
    vec![RecipientResult::NotSent(failure); count]
}
