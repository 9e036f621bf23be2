//! The receiving side of SMTP as a state machine without IO: RFC 5321 with its extensions.
//!
//! A [`Session`] serves one connection, for port 25 and for submission alike; its [`Profile`] tells which.
//! The driver (whoever owns the socket) feeds it the bytes that arrived and does what
//! [`Session::next_action`] says; questions about who may send what to whom go back to the driver as
//! actions and are answered by [`Session::answer`]. Time comes in as numbers and goes out as deadlines.
//!
//! It deliberately knows no mailboxes, teams, sockets, TLS or clocks, and it never sends a bounce.
//!
//! Invariants, each of them a test:
//! - only `CRLF . CRLF` ends DATA, however the bytes are cut into pieces; a bare CR or LF never does;
//! - there is exactly one [`Action::Deliver`] per true end of data, and `250` follows only its acceptance;
//! - bytes that came before a TLS handshake are never interpreted after it;
//! - a session holds one message at most, bounded by [`Limits::message_octets_max`], and no buffers while idle.
//!
//! A driver in its shortest form, over anything that reads and writes:
//!
//! ```
//! use mail::smtp::{Action, Config, PeerInfo, Profile, Session, Verdict};
//! use std::sync::Arc;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let config = Arc::new(Config::new(Profile::Inbound, "mx.example.org")?);
//! let now = || 1_751_367_157_000_000;
//! let mut wire: Vec<&[u8]> = vec![
//!     b"EHLO client.example\r\n",
//!     b"MAIL FROM:<a@example.net>\r\nRCPT TO:<u@example.org>\r\nDATA\r\n",
//!     b"Subject: hello\r\n\r\nbody\r\n.\r\n",
//!     b"QUIT\r\n",
//! ];
//! wire.reverse();
//! let (mut replies, mut kept) = (Vec::new(), Vec::new());
//! let mut session = Session::new(config, PeerInfo::default(), now());
//! loop {
//!     match session.next_action() {
//!         Action::Reply(octets) => replies.extend(octets),
//!         Action::CheckSender { .. } | Action::CheckRecipient { .. } => {
//!             session.answer(Verdict::Accept, now());
//!         }
//!         Action::Deliver(transaction) => {
//!             kept.push(transaction.data);
//!             session.answer(Verdict::AcceptWith("accepted as msg_1".to_owned()), now());
//!         }
//!         Action::NeedInput { .. } => match wire.pop() {
//!             Some(octets) => session.feed(octets, now()),
//!             None => break,
//!         },
//!         Action::Delay(_) | Action::StartTls | Action::Authenticate(_) | Action::NeedAnswer => break,
//!         Action::Close => break,
//!     }
//! }
//! assert_eq!(kept, [b"Subject: hello\r\n\r\nbody\r\n"]);
//! assert!(replies.ends_with(b"221 2.0.0 goodbye\r\n"));
//! # Ok(())
//! # }
//! ```

use std::net::{IpAddr, Ipv4Addr};

use crate::address::{AddressError, normalise_domain};

mod bdat;
pub mod client;
mod command;
mod content;
mod data;
mod limits;
pub mod proxy;
mod reply;
mod session;
pub mod trace;
mod transaction;

pub use bdat::ChunkDecoder;
pub use command::{Command, Mechanism, SyntaxError, XclientAttributes};
pub use content::{Content, LineEnds};
pub use data::DataDecoder;
pub use limits::{LimitError, Limits, MESSAGE_OCTETS_CEILING};
pub use reply::{ConnectionRefusal, Reply};
pub use session::{Action, Credentials, Secret, Session, Verdict};
pub use transaction::{
    BodyType, MailParameters, Notify, OriginalRecipient, RcptParameters, Recipient, Return, Transaction,
};

/// What the connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Profile {
    /// Mail from other hosts for mailboxes hosted here (port 25): no AUTH, no DSN parameters.
    Inbound,
    /// Mail from our own users (ports 587 and 465, RFC 6409): AUTH before MAIL, DSN parameters (RFC 3461).
    Submission,
}

/// Whether a listener speaks TLS after STARTTLS (RFC 3207).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StartTls {
    /// There is no certificate: STARTTLS is not offered and is answered `454`.
    Off,
    /// Offered; mail without it is taken too.
    Optional,
    /// Mail is only taken under TLS (`530` before it).
    Required,
}

/// How sessions of one listener behave; shared by all of them.
#[derive(Debug, Clone)]
pub struct Config {
    /// Our name in the greeting and in trace headers.
    pub hostname: String,
    /// What the listener is for.
    pub profile: Profile,
    /// Sizes, counts and times.
    pub limits: Limits,
    /// What becomes of a bare CR or LF in content.
    pub line_ends: LineEnds,
    /// Whether STARTTLS is offered. Of no importance where the connection began with TLS.
    pub start_tls: StartTls,
    /// Address literals that are ours: `RCPT TO:<u@[192.0.2.1]>` to any other is refused.
    pub literals: Vec<IpAddr>,
    /// Offers and accepts `BODY=BINARYMIME` (RFC 3030).
    pub binarymime: bool,
    /// Offers and accepts the parameters of RFC 3461 on submission; whoever offers them answers them.
    pub dsn: bool,
    /// Lets AUTH happen in the clear. For a sandbox on loopback only.
    pub dangerous_auth_without_tls: bool,
}

impl Config {
    /// Returns the defaults of a profile: port 25 refuses bare line ends and takes BINARYMIME, submission
    /// repairs the former and does not offer the latter (it has to be sent on).
    ///
    /// # Errors
    /// Where `hostname` is no domain name.
    pub fn new(profile: Profile, hostname: &str) -> Result<Self, AddressError> {
        let inbound = profile == Profile::Inbound;
        Ok(Self {
            hostname: normalise_domain(hostname)?,
            profile,
            limits: Limits::default(),
            line_ends: if inbound { LineEnds::Reject } else { LineEnds::Normalize },
            start_tls: StartTls::Off,
            literals: Vec::new(),
            binarymime: inbound,
            dsn: !inbound,
            dangerous_auth_without_tls: false,
        })
    }
}

impl Config {
    /// Tells whether parameters of RFC 3461 are taken.
    fn takes_dsn(&self) -> bool {
        self.dsn && self.profile == Profile::Submission
    }
}

/// What is known of the TLS layer, for the trace header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsInfo {
    /// Protocol version: `TLSv1.3`.
    pub version: String,
    /// Cipher suite: `TLS_AES_256_GCM_SHA384`.
    pub cipher: String,
}

/// The other end of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerInfo {
    /// Where it connects from; behind a proxy, where the real client connects from.
    pub address: IpAddr,
    /// Its port, 0 when unknown.
    pub port: u16,
    /// Its name by reverse lookup, confirmed by a forward lookup.
    pub reverse_name: Option<String>,
    /// The connection began with TLS (port 465).
    pub tls: Option<TlsInfo>,
    /// May talk before the greeting.
    pub trusted: bool,
    /// Is listed as a proxy and may say with XCLIENT whom it speaks for.
    pub may_xclient: bool,
}

impl PeerInfo {
    /// Describes a peer of which only the address is known.
    #[must_use]
    pub fn new(address: IpAddr, port: u16) -> Self {
        Self { address, port, reverse_name: None, tls: None, trusted: false, may_xclient: false }
    }
}

impl Default for PeerInfo {
    /// The loopback peer.
    fn default() -> Self {
        Self::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0)
    }
}
