//! A sending domain: a mail domain that a team controls and uses.
//!
//! Invariants:
//! - A domain belongs to at most one team (the directory holds the name for as long as it is owned).
//! - Mailboxes open only on a verified domain that receives; a domain with open mailboxes is not removed.
//! - One failed check is not believed: only the second in a row fails a verified domain.
//! - A failed domain stays failed until everything is right again.
//! - The log holds public keys and references to sealed private keys, never the private keys.

use serde::{Deserialize, Serialize};

use crate::StreamId;
use crate::entity::{Fold, fold_of};
use crate::event::stored_events;
use crate::id::{DomainId, SecretId};
use crate::mailbox::{FilterMode, Rules, SenderRule};
use crate::team::LimitReached;

mod commands;
pub mod records;

pub use commands::{
    ActivateKey, AddDomain, AddSigningKey, AddVerifiedDomain, ChangeMode, NewKey, RecordCheck, RemoveDomain,
    ReplaceDomainRules, RetireKey,
};
pub use records::{Checks, Found};

/// What a domain is used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// Only as sender.
    SendOnly,
    /// As sender and for mailboxes.
    SendReceive,
}

/// Facts of `sending_domain.added`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Added {
    /// The domain's id.
    pub domain: DomainId,
    /// Its name, A-label, lower case.
    pub name: String,
    /// What it is used for.
    pub mode: Mode,
}

/// How control over a domain was shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Proof {
    /// The operator of the installation vouches for it.
    Operator,
    /// The records are where only its owner can put them.
    Dns,
}

/// Facts of `sending_domain.verified`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verified {
    /// The domain.
    pub domain: DomainId,
    /// How control was shown.
    pub proof: Proof,
}

/// Facts of `sending_domain.checked`: the records are not what they were at the check before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checked {
    /// The domain.
    pub domain: DomainId,
    /// What is right.
    pub checks: Checks,
    /// What was found; bounded, see [`records::FOUND_MAX`].
    pub found: Vec<Found>,
    /// How many checks in a row were not complete.
    pub failures: u32,
    /// When, microseconds since the Unix epoch.
    pub checked_at: i64,
}

/// Facts of `sending_domain.failed`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failed {
    /// The domain.
    pub domain: DomainId,
    /// What is right.
    pub checks: Checks,
}

/// Facts of `sending_domain.mode_changed`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModeChanged {
    /// The domain.
    pub domain: DomainId,
    /// What it is used for from now on.
    pub mode: Mode,
}

/// How mail is signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Algorithm {
    /// `rsa-sha256` (RFC 6376, RFC 8301).
    Rsa,
    /// `ed25519-sha256` (RFC 8463).
    Ed25519,
}

impl Algorithm {
    /// Returns the `k=` tag of the key record (RFC 6376 §3.6.1).
    #[must_use]
    pub fn tag(self) -> &'static str {
        match self {
            Self::Rsa => "rsa",
            Self::Ed25519 => "ed25519",
        }
    }
}

/// Facts of `sending_domain.key_added`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyAdded {
    /// The domain.
    pub domain: DomainId,
    /// The selector, lower case (RFC 6376 §3.1).
    pub selector: String,
    /// How it signs.
    pub algorithm: Algorithm,
    /// The public key, base64, as in the `p=` tag.
    pub public_key: String,
    /// The sealed private key.
    pub secret: SecretId,
}

/// Facts of `sending_domain.key_activated` and `sending_domain.key_retired`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeySubject {
    /// The domain.
    pub domain: DomainId,
    /// The selector.
    pub selector: String,
}

/// Facts of `sending_domain.sender_rules_replaced`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RulesReplaced {
    /// The domain.
    pub domain: DomainId,
    /// How the rules are read.
    pub mode: FilterMode,
    /// How many there are.
    pub count: u32,
}

/// Facts of `sending_domain.removed`; the name is said again so that its directory row can be dropped.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Removed {
    /// The domain.
    pub domain: DomainId,
    /// Its name.
    pub name: String,
}

stored_events! {
    /// What can happen to a sending domain.
    enum Event;
    /// A team claimed a domain.
    Added(Added) = "sending_domain.added" v 1;
    /// The team controls it.
    Verified(Verified) = "sending_domain.verified" v 1;
    /// Its records changed.
    Checked(Checked) = "sending_domain.checked" v 1;
    /// Its records are not right any more.
    Failed(Failed) = "sending_domain.failed" v 1;
    /// It is used for more than before, and must be verified again.
    ModeChanged(ModeChanged) = "sending_domain.mode_changed" v 1;
    /// It got a signing key, which its owner has yet to publish.
    KeyAdded(KeyAdded) = "sending_domain.key_added" v 1;
    /// A signing key is published and used.
    KeyActivated(KeySubject) = "sending_domain.key_activated" v 1;
    /// A signing key is used no more; its record may stay until mail under way has arrived.
    KeyRetired(KeySubject) = "sending_domain.key_retired" v 1;
    /// Who may write to its mailboxes changed.
    RulesReplaced(RulesReplaced, Rules) = "sending_domain.sender_rules_replaced" v 1;
    /// The team gave it up.
    Removed(Removed) = "sending_domain.removed" v 1;
}

impl Event {
    /// Returns the domain it is about.
    #[must_use]
    pub fn domain(&self) -> &DomainId {
        match self {
            Self::Added(e) => &e.domain,
            Self::Verified(e) => &e.domain,
            Self::Checked(e) => &e.domain,
            Self::Failed(e) => &e.domain,
            Self::ModeChanged(e) => &e.domain,
            Self::KeyAdded(e) => &e.domain,
            Self::KeyActivated(e) | Self::KeyRetired(e) => &e.domain,
            Self::RulesReplaced(e) => &e.domain,
            Self::Removed(e) => &e.domain,
        }
    }

    pub(crate) fn links(&self) -> Vec<StreamId> {
        match self {
            Self::Added(_) | Self::Verified(_) | Self::Failed(_) | Self::ModeChanged(_) | Self::Removed(_) => {
                vec![StreamId::Team]
            }
            Self::Checked(_)
            | Self::KeyAdded(_)
            | Self::KeyActivated(_)
            | Self::KeyRetired(_)
            | Self::RulesReplaced(_) => vec![],
        }
    }
}

/// Where a domain is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// Not added yet.
    #[default]
    Absent,
    /// Its records were not right yet.
    Pending,
    /// The team controls it.
    Verified,
    /// Its records are not right any more.
    Failed,
    /// The team gave it up.
    Removed,
}

/// Where a signing key is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KeyStatus {
    /// To be published.
    Pending,
    /// Signs.
    Active,
}

/// A signing key that is not retired.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SigningKey {
    /// The selector.
    pub selector: String,
    /// How it signs.
    pub algorithm: Algorithm,
    /// The public key, base64.
    pub public_key: String,
    /// The sealed private key.
    pub secret: SecretId,
    /// Where it is in its life.
    pub status: KeyStatus,
}

/// What the private half of a signing key is sealed for: the secret is its DER, RSA in PKCS #1, Ed25519 in PKCS #8.
pub const SIGNING_KEY_PURPOSE: &str = "dkim";

/// The most signing keys a domain may have that are not retired: two algorithms, each with a successor.
pub const KEYS_MAX: usize = 4;

/// How long the record of a retired key stays, so that mail under way can still be verified, microseconds.
pub const RETIRED_STAYS_MICROS: i64 = 7 * 24 * 3_600_000_000;

/// The fold of a sending domain's stream.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct SendingDomain {
    /// Where it is in its life.
    pub status: Status,
    /// Its name, A-label, lower case.
    pub name: String,
    /// What it is used for; `None` before it was added.
    pub mode: Option<Mode>,
    /// What was right at the last check that found something new; `None` before the first.
    pub checks: Option<Checks>,
    /// What was found then.
    pub found: Vec<Found>,
    /// How many checks in a row were not complete.
    pub failures: u32,
    /// When the last check that found something new was made, microseconds since the Unix epoch.
    pub checked_at: Option<i64>,
    /// Whether the operator vouches for it: then no check fails it.
    pub vouched: bool,
    /// Its signing keys that are not retired.
    pub keys: Vec<SigningKey>,
    /// The key of each algorithm that signed last before the one that signs now: its record stays until mail under way
    /// has arrived.
    #[serde(default)]
    pub retired: Vec<SigningKey>,
    /// How its sender rules are read.
    pub filter_mode: FilterMode,
    /// Its sender rules, sorted by pattern.
    pub rules: Vec<SenderRule>,
}

impl SendingDomain {
    /// Returns the keys that sign, one per algorithm.
    pub fn signing_keys(&self) -> impl Iterator<Item = &SigningKey> {
        self.keys.iter().filter(|k| k.status == KeyStatus::Active)
    }

    /// Returns whether its sender rules let an envelope sender write to its mailboxes that have none of their own.
    #[must_use]
    pub fn admits(&self, sender: Option<&mail::address::Address>) -> bool {
        crate::mailbox::rules_admit(self.filter_mode, &self.rules, sender)
    }

    fn retire(&mut self, selector: &str) {
        let Some(at) = self.keys.iter().position(|k| k.selector == selector) else { return };
        let key = self.keys.remove(at);
        // What never signed leaves nothing behind.
        if key.status == KeyStatus::Active {
            self.retired.retain(|before| before.algorithm != key.algorithm);
            self.retired.push(key);
        }
    }
}

impl Fold for SendingDomain {
    fn evolve(&mut self, event: &crate::Event) {
        let crate::Event::SendingDomain(event) = event else { return };
        match event {
            Event::Added(e) => {
                self.status = Status::Pending;
                self.name.clone_from(&e.name);
                self.mode = Some(e.mode);
            }
            Event::Verified(e) => {
                (self.status, self.failures) = (Status::Verified, 0);
                self.vouched |= e.proof == Proof::Operator;
            }
            Event::Checked(e) => {
                self.checks = Some(e.checks);
                self.found.clone_from(&e.found);
                self.failures = e.failures;
                self.checked_at = Some(e.checked_at);
            }
            Event::Failed(_) => self.status = Status::Failed,
            Event::ModeChanged(e) => {
                (self.status, self.mode, self.failures) = (Status::Pending, Some(e.mode), 0);
            }
            Event::KeyAdded(e) => self.keys.push(SigningKey {
                selector: e.selector.clone(),
                algorithm: e.algorithm,
                public_key: e.public_key.clone(),
                secret: e.secret.clone(),
                status: KeyStatus::Pending,
            }),
            Event::KeyActivated(e) => {
                let key = self.keys.iter_mut().find(|k| k.selector == e.selector);
                key.into_iter().for_each(|k| k.status = KeyStatus::Active);
            }
            Event::KeyRetired(e) => self.retire(&e.selector),
            Event::RulesReplaced(e) => {
                self.filter_mode = e.mode;
                self.rules = e.personal.known().map(|p| p.rules.clone()).unwrap_or_default();
            }
            Event::Removed(_) => self.status = Status::Removed,
        }
    }

    fold_of!(SendingDomain, Domain);
}

/// Why a domain command can be refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Rejected {
    /// There is no such team.
    #[error("no such team")]
    UnknownTeam,
    /// There is no such domain.
    #[error("no such domain")]
    Unknown,
    /// The domain id was used before.
    #[error("the domain exists already")]
    Exists,
    /// The team has as many domains as it may.
    #[error(transparent)]
    Limit(#[from] LimitReached),
    /// Mailboxes are open on it.
    #[error("the domain has {mailboxes} active mailboxes")]
    InUse {
        /// How many.
        mailboxes: u32,
    },
    /// A domain that receives cannot be made one that only sends.
    #[error("a domain can only be changed from send_only to send_receive")]
    ModeNotChangeable,
    /// The domain only sends: there is nothing to filter.
    #[error("the domain does not receive mail")]
    DoesNotReceive,
    /// The selector is in use, or was.
    #[error("the selector is taken")]
    SelectorTaken,
    /// More signing keys than a domain may have.
    #[error("a domain has at most {KEYS_MAX} signing keys")]
    TooManyKeys,
    /// There is no such signing key.
    #[error("no such signing key")]
    UnknownKey,
    /// The domain changed since the caller read it.
    #[error("the domain has changed since it was read")]
    VersionMismatch {
        /// The current version.
        current: u64,
    },
}

#[cfg(test)]
mod tests;
