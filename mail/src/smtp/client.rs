//! The sending side of SMTP as a state machine without IO: RFC 5321 with its extensions.
//!
//! A [`Client`] speaks on one connection. Its driver feeds it what arrives and does what [`Client::next_action`] says.
//! Once it is [`Action::Ready`] it takes one [`Mail`] after another by [`Client::submit`] and answers each with an
//! [`Outcome`]: one result per recipient.
//!
//! What it promises of a result, each of it a test:
//! - [`Accepted`](RecipientResult::Accepted): the peer has said so after the whole content;
//! - [`Rejected`](RecipientResult::Rejected), [`NotSent`](RecipientResult::NotSent) and
//!   [`Refused`](RecipientResult::Refused): the peer has not accepted the mail, trying again doubles nothing;
//! - [`Uncertain`](RecipientResult::Uncertain): the connection was lost after the end of the content and before the
//!   reply: the peer may have accepted it.
//!
//! It deliberately knows no sockets, TLS, clocks, queues or MX records, and it never retries.

mod capabilities;
mod content;
mod dialogue;
mod opening;
mod reply;
mod secrets;
mod transaction;
mod transcript;

use std::collections::VecDeque;
use std::sync::Arc;

use crate::address::{Address, AddressError, ReversePath, normalise_domain};

pub use capabilities::Capabilities;
pub use reply::ServerReply;
pub use transaction::{LocalRefusal, Mail, Outcome, RecipientResult};

use dialogue::Expected;
use reply::ReplyReader;
use secrets::Secrets;
use transaction::Transaction;
use transcript::Transcript;

use crate::bounce::{Classification, Stage, classify_failure};

/// Whether TLS is used (RFC 3207).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tls {
    /// Not by STARTTLS: for peers that failed at it, and for connections that began with TLS.
    Never,
    /// Where the peer offers it.
    Opportunistic,
    /// No mail without it.
    Required,
}

/// What a client authenticates with. Its `Debug` does not show the password.
#[derive(Clone, PartialEq, Eq)]
pub struct Login {
    /// The user name.
    pub username: String,
    /// The password.
    pub password: String,
}

impl std::fmt::Debug for Login {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Login").field("username", &self.username).finish_non_exhaustive()
    }
}

/// How long to wait for what, in seconds (RFC 5321 §4.5.3.2). Shorter for the final reply makes doubles.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// For the greeting.
    pub greeting: u32,
    /// For the reply to EHLO, HELO, STARTTLS and AUTH.
    pub hello: u32,
    /// For the reply to MAIL and RCPT.
    pub envelope: u32,
    /// For the reply to DATA.
    pub data: u32,
    /// For the reply to the content.
    pub end_of_data: u32,
    /// For the reply to RSET.
    pub reset: u32,
    /// For the reply to QUIT.
    pub quit: u32,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self { greeting: 60, hello: 300, envelope: 300, data: 120, end_of_data: 600, reset: 20, quit: 5 }
    }
}

/// How a client behaves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientConfig {
    /// Our name in EHLO: the name that our address leads back to.
    pub hostname: String,
    /// Whether TLS is used.
    pub tls: Tls,
    /// The connection began with TLS (port 465).
    pub implicit_tls: bool,
    /// Authenticates with this.
    pub login: Option<Login>,
    /// Lets AUTH happen in the clear. For loopback only.
    pub dangerous_auth_without_tls: bool,
    /// Sends commands in groups where the peer offers PIPELINING (RFC 2920).
    pub pipelining: bool,
    /// Sends content by BDAT where the peer offers CHUNKING (RFC 3030).
    pub chunking: bool,
    /// How long to wait.
    pub timeouts: Timeouts,
}

impl ClientConfig {
    /// Returns the defaults: opportunistic TLS, pipelining, DATA.
    ///
    /// # Errors
    /// Where `hostname` is neither a domain name nor an address literal.
    pub fn new(hostname: &str) -> Result<Self, AddressError> {
        Ok(Self {
            hostname: normalise_domain(hostname)?,
            tls: Tls::Opportunistic,
            implicit_tls: false,
            login: None,
            dangerous_auth_without_tls: false,
            pipelining: true,
            chunking: false,
            timeouts: Timeouts::default(),
        })
    }
}

/// Why a connection is of no more use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Cause {
    /// The peer closed, or the connection broke.
    #[error("connection lost")]
    Lost,
    /// The peer did not answer in time.
    #[error("connection timed out waiting for a reply")]
    TimedOut,
    /// What the peer said is not SMTP.
    #[error("the peer does not speak SMTP")]
    Garbage,
    /// The peer said no, or that it closes (421).
    #[error("the peer refused")]
    Reply,
    /// The peer has no STARTTLS and TLS is required.
    #[error("TLS is required and the peer does not offer it")]
    TlsNotOffered,
    /// The handshake failed.
    #[error("TLS handshake failed")]
    TlsHandshake,
    /// The peer has no AUTH that we speak.
    #[error("the peer offers no AUTH mechanism that we speak")]
    AuthNotOffered,
    /// The password would go over the wire in the clear.
    #[error("AUTH would happen without TLS")]
    AuthWithoutTls,
    /// The peer said no to the password.
    #[error("authentication failed")]
    AuthRejected,
}

/// A connection that failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// How far it had come.
    pub stage: Stage,
    /// What happened.
    pub cause: Cause,
    /// The reply that ended it.
    pub reply: Option<ServerReply>,
}

impl Failure {
    /// Classifies the failure for a delivery log.
    #[must_use]
    pub fn classify(&self) -> Classification {
        match &self.reply {
            Some(reply) => reply.classify(self.stage),
            None => classify_failure(&self.cause.to_string()),
        }
    }
}

/// What the driver does next.
#[derive(Debug, PartialEq, Eq)]
#[must_use]
pub enum Action {
    /// Write these octets.
    Send(Vec<u8>),
    /// Read and [`Client::feed`]; after so many seconds without anything call [`Client::timed_out`]; where the peer
    /// closes call [`Client::lost`]. Where writing fails, feed what can still be read first: it may be the reason.
    NeedInput {
        /// How long to wait.
        seconds: u32,
    },
    /// Do the TLS handshake, then call [`Client::tls_established`] or [`Client::tls_failed`].
    StartTls,
    /// Give it a mail by [`Client::submit`], or [`Client::quit`]. While idle, what arrives is to be fed: it may be a
    /// `421`.
    Ready,
    /// This became of the mail.
    Done(Outcome),
    /// The connection failed before or between mails.
    Failed(Failure),
    /// Close the connection.
    Close,
}

/// A mail was submitted at the wrong moment; it comes back.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the client is not ready for a mail")]
pub struct NotReady(pub Mail);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Until the client may send mail.
    Opening,
    /// The driver does the handshake.
    Handshake,
    /// Between mails.
    Ready,
    /// Within one.
    Mail,
    /// After QUIT.
    Quitting,
    /// Nothing more is said.
    Closed,
}

/// One connection's sending side; see the [module](self) for the contract with its driver.
#[derive(Debug)]
pub struct Client {
    config: ClientConfig,
    phase: Phase,
    tls: bool,
    capabilities: Capabilities,
    reader: ReplyReader,
    /// What the last reply was a reply to.
    answered: Stage,
    /// What the next replies are replies to.
    expected: VecDeque<Expected>,
    out: Vec<u8>,
    /// What the driver is told when everything before it has been sent.
    news: VecDeque<Action>,
    transaction: Option<Transaction>,
    /// A transaction may be open at the peer.
    dirty: bool,
    mails: u32,
    transcript: Transcript,
    secrets: Secrets,
}

impl Client {
    /// Begins: the greeting is waited for.
    #[must_use]
    pub fn new(config: ClientConfig) -> Self {
        let tls = config.implicit_tls;
        let secrets = Secrets::of(config.login.as_ref());
        Self {
            config,
            phase: Phase::Opening,
            tls,
            capabilities: Capabilities::default(),
            reader: ReplyReader::default(),
            answered: Stage::Greeting,
            expected: VecDeque::from([Expected::Greeting]),
            out: Vec::new(),
            news: VecDeque::new(),
            transaction: None,
            dirty: false,
            mails: 0,
            transcript: Transcript::default(),
            secrets,
        }
    }

    /// Returns what to do next. To be asked again after each action but `NeedInput`, `StartTls`, `Ready` and `Close`.
    pub fn next_action(&mut self) -> Action {
        if self.out.is_empty() && self.news.is_empty() {
            self.next_content();
        }
        if !self.out.is_empty() {
            if let Some(transaction) = &mut self.transaction {
                transaction.octets_left_us();
            }
            return Action::Send(std::mem::take(&mut self.out));
        }
        if let Some(news) = self.news.pop_front() {
            return news;
        }
        match self.phase {
            Phase::Closed => Action::Close,
            Phase::Handshake => Action::StartTls,
            Phase::Ready => Action::Ready,
            Phase::Opening | Phase::Mail | Phase::Quitting => Action::NeedInput { seconds: self.seconds() },
        }
    }

    /// Takes octets from the peer.
    pub fn feed(&mut self, octets: &[u8]) {
        if self.phase == Phase::Closed {
            return;
        }
        if self.phase == Phase::Handshake && !octets.is_empty() {
            // What comes in the clear after STARTTLS must never be read as if it were protected (CVE-2011-0411).
            self.fail(Cause::Garbage, None);
            return;
        }
        self.reader.push(octets);
        while self.phase != Phase::Closed {
            match self.reader.next() {
                Ok(Some(reply)) => self.on_reply(reply),
                Ok(None) => break,
                Err(reply::Garbage) => self.fail(Cause::Garbage, None),
            }
            if self.phase == Phase::Handshake && !self.reader.is_empty() {
                self.fail(Cause::Garbage, None);
            }
        }
    }

    /// Tells that the peer closed, or that reading or writing failed.
    pub fn lost(&mut self) {
        self.fail(Cause::Lost, None);
    }

    /// Tells that nothing came in the time that `NeedInput` gave.
    pub fn timed_out(&mut self) {
        self.fail(Cause::TimedOut, None);
    }

    /// Tells that the handshake is done: the dialogue begins anew.
    pub fn tls_established(&mut self) {
        if self.phase == Phase::Handshake {
            self.tls = true;
            self.phase = Phase::Opening;
            self.capabilities = Capabilities::default();
            self.transcript.note("TLS");
            self.say_hello();
        }
    }

    /// Tells that the handshake failed. Without a policy against it, another connection with [`Tls::Never`] may work.
    pub fn tls_failed(&mut self) {
        if self.phase == Phase::Handshake {
            self.fail(Cause::TlsHandshake, None);
        }
    }

    /// Begins a mail.
    ///
    /// # Errors
    /// Gives the mail back where the last action was not `Ready`.
    pub fn submit(&mut self, mail: Mail) -> Result<(), NotReady> {
        if self.phase != Phase::Ready {
            return Err(NotReady(mail));
        }
        self.mails += 1;
        self.begin(mail);
        Ok(())
    }

    /// Says goodbye; where that is not possible, closes.
    pub fn quit(&mut self) {
        if self.phase == Phase::Ready {
            self.phase = Phase::Quitting;
            self.send("QUIT", Expected::Quit);
        } else if self.phase != Phase::Mail && self.phase != Phase::Closed {
            self.phase = Phase::Closed;
        }
    }

    /// Returns what the peer offers.
    #[must_use]
    pub fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    /// Tells whether the connection is under TLS.
    #[must_use]
    pub fn is_tls(&self) -> bool {
        self.tls
    }

    /// Returns how many mails have been submitted. A failure on a connection that has carried one before, and before
    /// MAIL is answered, is a stale connection's: try a fresh one at once.
    #[must_use]
    pub fn mails(&self) -> u32 {
        self.mails
    }

    /// Takes what has been said so far, without content and passwords, at most 64 KiB.
    #[must_use]
    pub fn take_transcript(&mut self) -> String {
        self.transcript.take()
    }
}

/// The content of a mail, shared with whoever retries it.
pub type Content = Arc<[u8]>;

impl Mail {
    /// Makes a mail whose header needs no SMTPUTF8.
    #[must_use]
    pub fn new(mail_from: ReversePath, recipients: Vec<Address>, content: Content) -> Self {
        Self { mail_from, recipients, content, smtputf8: false, envelope_id: None, ret: None, parameters: vec![] }
    }
}
