//! What a mail transaction is made of: envelope, parameters, content.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::trace::Received;
use super::{PeerInfo, TlsInfo};
use crate::address::{ForwardPath, ReversePath};

/// `BODY=` (RFC 6152, RFC 3030).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BodyType {
    /// Only octets up to 127, in lines. Claimed, not checked: 8-bit octets are kept all the same.
    SevenBit,
    /// Any octets, in lines.
    EightBitMime,
    /// Any octets, without lines; comes by BDAT only.
    BinaryMime,
}

/// `RET=` (RFC 3461 §4.3): what a failure report is to return.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Return {
    /// The whole message.
    Full,
    /// Its header only.
    Headers,
}

/// `NOTIFY=` (RFC 3461 §4.1): of what the sender wants to be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Notify {
    /// Of nothing.
    Never,
    /// Of what is set; at least one is.
    On {
        /// Delivery.
        success: bool,
        /// Permanent failure.
        failure: bool,
        /// A delay.
        delay: bool,
    },
}

/// `ORCPT=` (RFC 3461 §4.2): the recipient as the original sender named it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OriginalRecipient {
    /// `rfc822`, `utf-8` or another registered type, in lower case.
    pub address_type: String,
    /// The address, decoded from xtext; at most 500 characters, none of them a control character.
    pub address: String,
}

/// The parameters of MAIL.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MailParameters {
    /// `SIZE=`: octets announced (RFC 1870).
    pub size_octets: Option<u64>,
    /// `BODY=`.
    pub body: Option<BodyType>,
    /// `SMTPUTF8` (RFC 6531).
    pub smtputf8: bool,
    /// `RET=`; submission only.
    pub ret: Option<Return>,
    /// `ENVID=`, decoded from xtext, at most 100 characters; submission only.
    pub envid: Option<String>,
    /// `AUTH=` was given (RFC 4954 §5). Its claim is never believed; submission only.
    pub auth_claimed: bool,
}

impl MailParameters {
    /// Tells whether a parameter of RFC 3461 is among them.
    pub(super) fn asks_dsn(&self) -> bool {
        self.ret.is_some() || self.envid.is_some()
    }
}

/// The parameters of RCPT (RFC 3461); submission only.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RcptParameters {
    /// `NOTIFY=`.
    pub notify: Option<Notify>,
    /// `ORCPT=`.
    pub original: Option<OriginalRecipient>,
}

/// An accepted recipient.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recipient {
    /// Whom the message is for.
    pub path: ForwardPath,
    /// What was asked about it.
    pub parameters: RcptParameters,
}

/// A whole message and its envelope, for the driver to deliver. The client is told `250` only after that.
#[derive(Clone, PartialEq, Eq)]
pub struct Transaction {
    /// The client.
    pub peer: PeerInfo,
    /// What it called itself in EHLO or HELO: no white space or control characters, otherwise anything.
    pub helo: String,
    /// It said EHLO.
    pub esmtp: bool,
    /// The TLS the message came through.
    pub tls: Option<TlsInfo>,
    /// As whom the client authenticated.
    pub authenticated: Option<String>,
    /// The envelope sender.
    pub reverse_path: ReversePath,
    /// The parameters of MAIL.
    pub parameters: MailParameters,
    /// At least one; each path once.
    pub recipients: Vec<Recipient>,
    /// The content, dots unstuffed, otherwise exactly as it came (line ends repaired where configured so).
    pub data: Vec<u8>,
    /// When MAIL was accepted, in microseconds since the Unix epoch.
    pub started_at: i64,
    /// When the end of data arrived, in microseconds since the Unix epoch.
    pub received_at: i64,
}

impl Transaction {
    /// Describes the hop for its `Received` field; `by` is our host name, `id` our id of the message.
    #[must_use]
    pub fn received<'a>(&'a self, by: &'a str, id: &'a str) -> Received<'a> {
        let only = match self.recipients.as_slice() {
            [one] => Some(&one.path),
            _ => None,
        };
        Received {
            helo: &self.helo,
            reverse_name: self.peer.reverse_name.as_deref(),
            address: self.peer.address,
            by,
            esmtp: self.esmtp,
            tls: self.tls.as_ref(),
            authenticated: self.authenticated.is_some(),
            smtputf8: self.parameters.smtputf8,
            id,
            recipient: only,
            at_micros: self.received_at,
        }
    }
}

impl fmt::Debug for Transaction {
    /// Shows sizes only: neither content nor addresses belong into a log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transaction")
            .field("recipients", &self.recipients.len())
            .field("data_octets", &self.data.len())
            .finish_non_exhaustive()
    }
}
