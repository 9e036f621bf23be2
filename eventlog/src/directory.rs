//! The directory: the one inline projection, because uniqueness and authentication are global.
//!
//! Address to mailbox, domain name to team, key digest to key. Its rows are written in the append transaction and
//! follow from the events alone, so it can be rebuilt from the logs.

use domain::id::{DomainId, KeyId, MailboxId, TeamId};
use domain::permission::Permissions;
use domain::{Event, api_key, mailbox, sending_domain};
use serde::{Deserialize, Serialize};

/// What must be unique in the whole installation.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DirectoryKey {
    /// A mailbox address, canonical (lower case).
    Address(String),
    /// A domain name, A-label, lower case.
    Domain(String),
    /// The keyed digest of an API key, lower-case hex.
    KeyLookup(String),
}

impl DirectoryKey {
    /// Returns the key as it is stored: kind, colon, text.
    #[must_use]
    pub fn to_text(&self) -> String {
        match self {
            Self::Address(a) => format!("address:{a}"),
            Self::Domain(d) => format!("domain:{d}"),
            Self::KeyLookup(k) => format!("key:{k}"),
        }
    }

    /// Reads a stored key.
    #[must_use]
    pub fn from_text(text: &str) -> Option<Self> {
        let (kind, rest) = text.split_once(':')?;
        match kind {
            "address" => Some(Self::Address(rest.to_owned())),
            "domain" => Some(Self::Domain(rest.to_owned())),
            "key" => Some(Self::KeyLookup(rest.to_owned())),
            _ => None,
        }
    }
}

/// What a directory key leads to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum DirectoryTarget {
    /// An address receives for this mailbox.
    Mailbox {
        /// The mailbox.
        id: MailboxId,
    },
    /// A domain name belongs to a team.
    Domain {
        /// The domain.
        id: DomainId,
    },
    /// A digest authenticates as this key.
    Key {
        /// The key.
        id: KeyId,
        /// Which surface it is for.
        key_kind: api_key::Kind,
        /// The mailbox it is confined to.
        mailbox: Option<MailboxId>,
        /// What it may do.
        permissions: Permissions,
    },
}

impl DirectoryTarget {
    /// Returns the id of the entity, by which the row is released again.
    #[must_use]
    pub fn id(&self) -> &str {
        match self {
            Self::Mailbox { id } => id.as_str(),
            Self::Domain { id } => id.as_str(),
            Self::Key { id, .. } => id.as_str(),
        }
    }
}

/// A row of the directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirectoryEntry {
    /// The team that owns the key.
    pub team: TeamId,
    /// What it leads to.
    pub target: DirectoryTarget,
}

/// What an event does to the directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Change {
    /// Takes a key; refused if it is taken.
    Claim(DirectoryKey, DirectoryTarget),
    /// Drops the rows that lead to an entity of the team.
    Release(String),
}

/// Returns what an event does to the directory.
pub(crate) fn change(event: &Event) -> Option<Change> {
    match event {
        Event::SendingDomain(sending_domain::Event::Added(e)) => {
            Some(Change::Claim(DirectoryKey::Domain(e.name.clone()), DirectoryTarget::Domain { id: e.domain.clone() }))
        }
        Event::SendingDomain(sending_domain::Event::Removed(e)) => Some(Change::Release(e.domain.to_string())),
        Event::Mailbox(mailbox::Event::Opened(e)) => e.personal.known().map(|owner| {
            Change::Claim(
                DirectoryKey::Address(owner.email.clone()),
                DirectoryTarget::Mailbox { id: e.mailbox.clone() },
            )
        }),
        Event::Mailbox(mailbox::Event::Closed(e)) => Some(Change::Release(e.mailbox.to_string())),
        Event::ApiKey(api_key::Event::Created(e)) => Some(Change::Claim(
            DirectoryKey::KeyLookup(e.lookup.clone()),
            DirectoryTarget::Key {
                id: e.key.clone(),
                key_kind: e.kind,
                mailbox: e.mailbox.clone(),
                permissions: e.permissions.clone(),
            },
        )),
        Event::ApiKey(api_key::Event::Revoked(e)) => Some(Change::Release(e.key.to_string())),
        _ => None,
    }
}
