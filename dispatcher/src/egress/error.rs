//! How an attempt fails, in words that stay the same.

use std::fmt;

use super::policy::{Forbidden, Refused};

/// Why an attempt got no answer. Messages are for the owner of the endpoint: they carry no address and no
/// text of the remote side.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AttemptError {
    /// The URL, or an address it leads to, is not one we call. Nothing was sent.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// The host name has no usable addresses. Nothing was sent.
    #[error("{0}")]
    Dns(DnsFault),
    /// No connection came about. Nothing was sent.
    #[error("{0}")]
    Connect(ConnectFault),
    /// The TLS handshake failed or a record was broken.
    #[error("{0}")]
    Tls(TlsFault),
    /// The total deadline ran out; whether the receiver acted is unknown once the phase is [`Phase::Answer`].
    #[error("no answer in time: the deadline ran out while {0}")]
    Timeout(Phase),
    /// The connection was closed or reset before an answer; whether the receiver acted is unknown.
    #[error("the connection was closed before an answer")]
    Reset,
    /// What came back is not an acceptable HTTP/1.1 answer (RFC 9112).
    #[error("{0}")]
    BadResponse(ResponseFault),
}

impl AttemptError {
    /// Returns the stable category: `refused`, `dns`, `connect`, `tls`, `timeout`, `reset` or `bad_response`.
    pub const fn category(&self) -> &'static str {
        match self {
            Self::Refused(_) => "refused",
            Self::Dns(_) => "dns",
            Self::Connect(_) => "connect",
            Self::Tls(_) => "tls",
            Self::Timeout(_) => "timeout",
            Self::Reset => "reset",
            Self::BadResponse(_) => "bad_response",
        }
    }
}

impl From<Forbidden> for AttemptError {
    fn from(forbidden: Forbidden) -> Self {
        Self::Refused(forbidden.into())
    }
}

/// What was wrong with the name's addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DnsFault {
    /// The name does not exist or has no addresses.
    NotFound,
    /// The look-up failed.
    Failed,
    /// More addresses than [`super::Limits::addresses_max`].
    TooMany,
}

impl fmt::Display for DnsFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotFound => "the host name was not found",
            Self::Failed => "the host name could not be looked up",
            Self::TooMany => "the host name has too many addresses",
        })
    }
}

/// Why the TCP connection did not come about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConnectFault {
    /// Nobody listens there.
    Refused,
    /// Nobody answered within [`super::Limits::connect_seconds`] per address.
    TimedOut,
    /// No route, or our own machine could not open a connection.
    Unreachable,
}

impl fmt::Display for ConnectFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Refused => "the connection was refused",
            Self::TimedOut => "the connection was not accepted in time",
            Self::Unreachable => "the host could not be reached",
        })
    }
}

/// Why TLS failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TlsFault {
    /// The certificate is out of date, or not valid yet.
    Expired,
    /// The certificate is for other names.
    WrongHost,
    /// The certificate was not issued by an authority that we trust.
    UnknownIssuer,
    /// The certificate was revoked.
    Revoked,
    /// The certificate is unacceptable for another reason.
    BadCertificate,
    /// No common protocol or cipher, a broken record, or a peer that does not speak TLS.
    Protocol,
    /// The connection was closed during the handshake.
    Closed,
}

impl fmt::Display for TlsFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Expired => "the TLS certificate is expired or not valid yet",
            Self::WrongHost => "the TLS certificate is not valid for the host",
            Self::UnknownIssuer => "the TLS certificate was issued by an unknown authority",
            Self::Revoked => "the TLS certificate was revoked",
            Self::BadCertificate => "the TLS certificate is not acceptable",
            Self::Protocol => "the TLS handshake failed",
            Self::Closed => "the connection was closed during the TLS handshake",
        })
    }
}

/// What the attempt was doing when its deadline ran out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Looking up the host name.
    Dns,
    /// Opening the TCP connection.
    Connect,
    /// Shaking hands.
    Tls,
    /// Sending the request and waiting for the head of the answer.
    Answer,
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Dns => "looking up the host name",
            Self::Connect => "connecting",
            Self::Tls => "setting up TLS",
            Self::Answer => "waiting for the answer",
        })
    }
}

/// What was wrong with the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ResponseFault {
    /// Not HTTP/1.1.
    Malformed,
    /// The head is larger, or has more fields, than [`super::Limits`] allows.
    HeadTooLarge,
    /// The answer, with everything around it, took more bytes than [`super::Limits::answer_wire_bytes`].
    TooManyBytes,
}

impl fmt::Display for ResponseFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Malformed => "the answer was not valid HTTP",
            Self::HeadTooLarge => "the answer had too many or too large headers",
            Self::TooManyBytes => "the answer was too large",
        })
    }
}
