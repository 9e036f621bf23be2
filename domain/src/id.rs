//! Identifiers: opaque to outsiders, typed inside.
//!
//! Every id is its kind's prefix and 24 characters of lower-case Crockford base32 made from
//! 48 bits of milliseconds and 72 random bits, so that ids of one kind sort by creation time.
//! Event ids are different: they are positions, see [`EventId`].

use std::fmt;
use std::sync::Arc;

use sha2::{Digest, Sha256};

const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";

/// Returns 24 base32 characters for 15 bytes, order-preserving.
fn base32(bytes: &[u8; 15]) -> String {
    let mut out = String::with_capacity(24);
    for chunk in bytes.chunks_exact(5) {
        let n = chunk.iter().fold(0u64, |n, b| (n << 8) | u64::from(*b));
        for i in (0..8).rev() {
            out.push(char::from(ALPHABET[usize::try_from((n >> (i * 5)) & 31).unwrap_or(0)]));
        }
    }
    out
}

/// Returns the 15 bytes behind 24 base32 characters; `None` for any other text.
fn unbase32(text: &str) -> Option<[u8; 15]> {
    let text = text.as_bytes();
    if text.len() != 24 {
        return None;
    }
    let mut out = [0u8; 15];
    for (chunk, slot) in text.chunks_exact(8).zip(out.chunks_exact_mut(5)) {
        let mut n = 0u64;
        for c in chunk {
            let v = ALPHABET.iter().position(|a| a == c)?;
            n = (n << 5) | u64::try_from(v).ok()?;
        }
        slot.copy_from_slice(&n.to_be_bytes()[3..]);
    }
    Some(out)
}

/// The part of an id behind its prefix, made from the time in microseconds and nine random bytes.
fn time_sortable(now_micros: i64, random: [u8; 9]) -> String {
    let millis = u64::try_from(now_micros / 1_000).unwrap_or(0).to_be_bytes();
    let mut bytes = [0u8; 15];
    bytes[..6].copy_from_slice(&millis[2..]);
    bytes[6..].copy_from_slice(&random);
    base32(&bytes)
}

/// The time in microseconds behind the part of an id that [`time_sortable`] has made.
fn made_at_micros(body: &str) -> i64 {
    let Some(bytes) = unbase32(body) else { return 0 };
    let mut millis = [0u8; 8];
    millis[2..].copy_from_slice(&bytes[..6]);
    i64::from_be_bytes(millis).saturating_mul(1_000)
}

/// An id's text was not one of its kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a {kind} id")]
pub struct BadId {
    /// The prefix that was expected, for example `mbx_`.
    pub kind: &'static str,
}

macro_rules! ids {
    ($($(#[$doc:meta])* $name:ident = $prefix:literal;)+) => {$(
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Arc<str>);

        impl $name {
            /// The prefix every id of this kind begins with.
            pub const PREFIX: &'static str = $prefix;

            /// Returns a new id from the time (microseconds since the Unix epoch) and nine random bytes.
            #[must_use]
            pub fn new(now_micros: i64, random: [u8; 9]) -> Self {
                Self(format!("{}{}", $prefix, time_sortable(now_micros, random)).into())
            }

            /// Returns the id as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }

            /// Returns the 120 bits behind the prefix as a number; numbers sort like ids.
            #[must_use]
            pub fn to_bits(&self) -> u128 {
                // The text was checked when the id was made.
                let bytes = unbase32(&self.0[$prefix.len()..]).unwrap_or_default();
                bytes.iter().fold(0, |n, b| (n << 8) | u128::from(*b))
            }

            /// Returns the id of a number, see [`Self::to_bits`]; `None` beyond 120 bits.
            #[must_use]
            pub fn from_bits(bits: u128) -> Option<Self> {
                let (beyond, bytes) = bits.to_be_bytes().split_first().map(|(first, rest)| (*first, rest.try_into()))?;
                (beyond == 0).then_some(())?;
                Some(Self(format!("{}{}", $prefix, base32(&bytes.ok()?)).into()))
            }

            /// Returns when the id was made according to itself, microseconds since the Unix epoch; to the millisecond.
            /// Says nothing of ids that are digests or places.
            #[must_use]
            pub fn made_at_micros(&self) -> i64 {
                made_at_micros(&self.0[$prefix.len()..])
            }
        }

        impl std::str::FromStr for $name {
            type Err = BadId;
            fn from_str(text: &str) -> Result<Self, BadId> {
                match text.strip_prefix($prefix) {
                    Some(rest) if rest.len() == 24 && rest.bytes().all(|b| ALPHABET.contains(&b)) => Ok(Self(text.into())),
                    _ => Err(BadId { kind: $prefix }),
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                s.serialize_str(&self.0)
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                <std::borrow::Cow<'de, str>>::deserialize(d)?.parse().map_err(serde::de::Error::custom)
            }
        }
    )+};
}

ids! {
    /// A team (tenant): the owner of one log.
    TeamId = "team_";
    /// An API key or mailbox credential.
    KeyId = "smx_";
    /// A mailbox: an address that receives.
    MailboxId = "mbx_";
    /// A sending domain.
    DomainId = "mdom_";
    /// A webhook endpoint.
    WebhookId = "whk_";
    /// One attempt of a webhook delivery.
    AttemptId = "whda_";
    /// A message inside a mailbox.
    MessageId = "msg_";
    /// A thread of messages inside a mailbox.
    ThreadId = "thr_";
    /// A blob: bytes stored apart from the log.
    BlobId = "blob_";
    /// A sealed secret.
    SecretId = "sec_";
    /// A row of the inbox log (accepted inbound mail).
    InboxLogId = "ilog_";
    /// A request, as answered in `X-Request-Id`.
    RequestId = "req_";
    /// A sending account (provider).
    ProviderId = "dprov_";
    /// A delivery group: sending accounts chosen together.
    GroupId = "dgrp_";
    /// An outgoing mail.
    OutboundId = "eml_";
    /// An uploaded attachment.
    AttachmentId = "att_";
    /// An attachment upload that was announced.
    UploadId = "upl_";
    /// A request to raise a team's limit.
    LimitRequestId = "trir_";
    /// A payment or correction of a balance, named by whoever makes it.
    PaymentId = "pay_";
    /// A recipient address within one team: a keyed digest of it, see [`AddressId::of`].
    AddressId = "addr_";
    /// A row of the delivery log: one outgoing mail.
    DeliveryLogId = "dlog_";
    /// A row of a balance's history.
    TransactionId = "tx_";
}

impl AddressId {
    /// Returns the id of an address within a team: HMAC-SHA-256 (RFC 2104) under a key that is kept outside the
    /// database, so that facts can name a recipient without telling who it is.
    ///
    /// Addresses that differ only in the case of their letters have one id; nothing else is folded, neither dots
    /// nor what stands behind a `+`.
    #[must_use]
    pub fn of(key: &[u8; 32], team: &TeamId, address: &mail::address::Address) -> Self {
        let pad = |with: u8| {
            let mut block = [with; 64];
            block.iter_mut().zip(key).for_each(|(b, k)| *b ^= k);
            block
        };
        let inner = Sha256::new()
            .chain_update(pad(0x36))
            .chain_update(b"postlog/address/1\0")
            .chain_update(team.as_str())
            .chain_update([0])
            .chain_update(address.canonical())
            .finalize();
        let digest = Sha256::new().chain_update(pad(0x5c)).chain_update(inner).finalize();
        let mut bytes = [0u8; 15];
        bytes.copy_from_slice(&digest[..15]);
        Self(format!("{}{}", Self::PREFIX, base32(&bytes)).into())
    }
}

impl MailboxId {
    /// Returns when the id was allotted, microseconds since the Unix epoch, to the millisecond: when its mailbox was opened.
    #[must_use]
    pub fn allotted_at(&self) -> i64 {
        let Some(bytes) = unbase32(&self.0[Self::PREFIX.len()..]) else { return 0 };
        let millis = bytes[..6].iter().fold(0, |millis, byte| (millis << 8) | i64::from(*byte));
        millis * 1_000
    }
}

impl ThreadId {
    /// Returns the id of the thread that begins with the given RFC 5322 Message-ID in a mailbox.
    ///
    /// Two replies to a message that is not known yet thus meet in one thread, in any order of arrival.
    #[must_use]
    pub fn rooted_at(mailbox: &MailboxId, rfc5322_message_id: &str) -> Self {
        let digest = Sha256::new()
            .chain_update(b"postlog/thread/1\0")
            .chain_update(mailbox.as_str())
            .chain_update([0])
            .chain_update(rfc5322_message_id)
            .finalize();
        let mut bytes = [0u8; 15];
        bytes.copy_from_slice(&digest[..15]);
        Self(format!("{}{}", Self::PREFIX, base32(&bytes)).into())
    }
}

macro_rules! rows_of_events {
    ($($name:ident),+) => {$(
        impl $name {
            /// Returns the id of the row of an event: the event's own position under another prefix.
            #[must_use]
            pub fn of_event(event: &EventId) -> Self {
                Self(format!("{}{}", Self::PREFIX, event.body()).into())
            }

            /// Returns the event this row was made from.
            #[must_use]
            pub fn event(&self) -> Option<EventId> {
                format!("{}{}", EventId::PREFIX, &self.0[Self::PREFIX.len()..]).parse().ok()
            }
        }
    )+};
}

rows_of_events! { InboxLogId, DeliveryLogId, TransactionId }

/// A place in a team's log: 1, 2, 3 … without holes; 0 is "before the first event".
pub type Position = u64;

/// The public id of an event: `evt_` and base32 of (team tag, epoch, position).
///
/// Sortable within a team, unique across teams, and readable as a place in the log: a client that
/// presents the last id it saw names the exact position to go on from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EventId {
    /// The first 40 bits of a digest of the team id.
    pub team_tag: [u8; 5],
    /// How often the installation's log has been restored from a backup, plus one.
    pub epoch: u16,
    /// The place in the team's log.
    pub position: Position,
}

impl EventId {
    /// The prefix of event ids.
    pub const PREFIX: &'static str = "evt_";

    /// Returns the id of the event at a position of a team's log.
    #[must_use]
    pub fn new(team: &TeamId, epoch: u16, position: Position) -> Self {
        Self { team_tag: Self::tag(team), epoch, position }
    }

    /// Returns whether this id was made for the team.
    #[must_use]
    pub fn is_of(&self, team: &TeamId) -> bool {
        self.team_tag == Self::tag(team)
    }

    fn tag(team: &TeamId) -> [u8; 5] {
        let digest = Sha256::new().chain_update(b"postlog/team-tag/1\0").chain_update(team.as_str()).finalize();
        let mut tag = [0u8; 5];
        tag.copy_from_slice(&digest[..5]);
        tag
    }

    fn body(&self) -> String {
        let mut bytes = [0u8; 15];
        bytes[..5].copy_from_slice(&self.team_tag);
        bytes[5..7].copy_from_slice(&self.epoch.to_be_bytes());
        bytes[7..].copy_from_slice(&self.position.to_be_bytes());
        base32(&bytes)
    }
}

impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", Self::PREFIX, self.body())
    }
}

impl std::str::FromStr for EventId {
    type Err = BadId;
    fn from_str(text: &str) -> Result<Self, BadId> {
        let bytes = text.strip_prefix(Self::PREFIX).and_then(unbase32).ok_or(BadId { kind: Self::PREFIX })?;
        let mut team_tag = [0u8; 5];
        team_tag.copy_from_slice(&bytes[..5]);
        let mut position = [0u8; 8];
        position.copy_from_slice(&bytes[7..]);
        let position = Position::from_be_bytes(position);
        // Positions are stored as signed 64-bit numbers; a larger one was never issued.
        if i64::try_from(position).is_err() {
            return Err(BadId { kind: Self::PREFIX });
        }
        Ok(Self { team_tag, epoch: u16::from_be_bytes([bytes[5], bytes[6]]), position })
    }
}

impl serde::Serialize for EventId {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for EventId {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        <std::borrow::Cow<'de, str>>::deserialize(d)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn an_event_id_survives_its_text(epoch in any::<u16>(), position in 0..=i64::MAX as u64, seed in any::<[u8; 9]>()) {
            let team = TeamId::new(1_000, seed);
            let id = EventId::new(&team, epoch, position);
            prop_assert_eq!(id.to_string().parse::<EventId>().unwrap(), id);
            prop_assert!(id.is_of(&team));
        }

        #[test]
        fn event_ids_of_a_team_sort_like_positions(a in 0..=i64::MAX as u64, b in 0..=i64::MAX as u64) {
            let team = TeamId::new(1_000, [7; 9]);
            let (x, y) = (EventId::new(&team, 1, a).to_string(), EventId::new(&team, 1, b).to_string());
            prop_assert_eq!(a.cmp(&b), x.cmp(&y));
        }

        #[test]
        fn any_text_is_parsed_or_refused_without_panic(text in ".{0,40}") {
            let _ = text.parse::<EventId>();
            let _ = text.parse::<MailboxId>();
        }
    }

    #[test]
    fn a_mailbox_id_says_when_it_was_allotted() {
        assert_eq!(MailboxId::new(1_700_000_000_123_456, [255; 9]).allotted_at(), 1_700_000_000_123_000);
    }

    #[test]
    fn ids_sort_by_their_time() {
        let early = MailboxId::new(1_700_000_000_000_000, [255; 9]);
        let late = MailboxId::new(1_700_000_000_001_000, [0; 9]);
        assert!(early < late);
        assert_eq!(early.as_str().parse::<MailboxId>().unwrap(), early);
        assert_eq!(late.made_at_micros(), 1_700_000_000_001_000);
        assert!("mbx_short".parse::<MailboxId>().is_err());
    }

    #[test]
    fn an_id_is_its_number_and_numbers_sort_like_ids() {
        let (early, late) = (TeamId::new(1_700_000_000_000_000, [255; 9]), TeamId::new(1_700_000_000_001_000, [0; 9]));
        assert!(early.to_bits() < late.to_bits());
        assert_eq!(TeamId::from_bits(late.to_bits()), Some(late));
        assert_eq!(TeamId::from_bits(1 << 120), None);
        assert_eq!(TeamId::from_bits(0).unwrap().to_bits(), 0);
    }

    #[test]
    fn an_address_id_depends_on_key_team_and_address_but_not_on_case() {
        let (a, b) = (TeamId::new(1, [1; 9]), TeamId::new(1, [2; 9]));
        let address = |text: &str| mail::address::Address::parse(text).unwrap();
        let of = |key: u8, team: &TeamId, text: &str| AddressId::of(&[key; 32], team, &address(text));
        assert_eq!(of(1, &a, "Bob@Example.org"), of(1, &a, "bob@example.ORG"));
        assert_ne!(of(1, &a, "bob@example.org"), of(2, &a, "bob@example.org"));
        assert_ne!(of(1, &a, "bob@example.org"), of(1, &b, "bob@example.org"));
        assert_ne!(of(1, &a, "bob@example.org"), of(1, &a, "b.ob@example.org"));
        assert!(of(1, &a, "bob@example.org").as_str().parse::<AddressId>().is_ok());
    }

    #[test]
    fn an_inbox_log_id_names_its_event() {
        let id = EventId::new(&TeamId::new(1, [1; 9]), 3, 42);
        assert_eq!(InboxLogId::of_event(&id).event(), Some(id));
    }
}
