//! A mailbox: an address that receives.
//!
//! Invariants:
//! - An address belongs to at most one open mailbox of the whole installation (directory row).
//! - A closed mailbox never comes back, and closing it ends all its credentials.
//! - A suspended or closed mailbox receives nothing.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::api_key::{self, Minted, RevokeReason, revoked};
use crate::entity::{Fold, Versioned, fold_of};
use crate::event::stored_events;
use crate::id::{DomainId, KeyId, MailboxId};
use crate::permission::Permissions;
use crate::personal::Halves;
use crate::sending_domain::Mode;
use crate::team::{LimitReached, Resource, Team};
use crate::{Command, Moment, StreamId};

/// Which sending accounts a mailbox may send through.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum SendScope {
    /// Every account of the team.
    #[default]
    All,
    /// Chosen accounts.
    Providers {
        /// Their ids.
        provider_public_ids: Vec<String>,
    },
    /// Chosen delivery groups.
    Group {
        /// Their ids.
        group_public_ids: Vec<String>,
    },
}

/// How sender rules are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FilterMode {
    /// Every sender may write.
    #[default]
    Off,
    /// Only listed senders may write.
    Allowlist,
    /// Listed senders may not write.
    Denylist,
}

/// One sender rule: an address, or a domain, with an optional note.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct SenderRule {
    /// An address or a domain, lower case.
    pub pattern: String,
    /// What its author wrote beside it, at most 255 characters.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub note: Option<String>,
}

/// Facts of `mailbox.opened`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Opened {
    /// The mailbox.
    pub mailbox: MailboxId,
    /// The domain its address is on.
    pub domain: DomainId,
    /// How many bytes of mail it may hold.
    pub quota_bytes: i64,
    /// Which accounts it may send through.
    pub send_scope: SendScope,
}

/// Personal half of `mailbox.opened`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner {
    /// The address, lower case.
    pub email: String,
    /// The name shown beside it.
    pub display_name: Option<String>,
}

/// Facts of events that only name their mailbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subject {
    /// The mailbox.
    pub mailbox: MailboxId,
}

/// Personal half of `mailbox.renamed`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DisplayName {
    /// The name from now on; `None` clears it.
    pub display_name: Option<String>,
}

/// Facts of `mailbox.quota_changed`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct QuotaChanged {
    /// The mailbox.
    pub mailbox: MailboxId,
    /// How many bytes of mail it may hold from now on.
    pub quota_bytes: i64,
}

/// Facts of `mailbox.send_scope_changed`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SendScopeChanged {
    /// The mailbox.
    pub mailbox: MailboxId,
    /// The scope from now on.
    pub send_scope: SendScope,
}

/// Facts of `mailbox.sender_rules_replaced`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RulesReplaced {
    /// The mailbox.
    pub mailbox: MailboxId,
    /// How the rules are read.
    pub mode: FilterMode,
    /// How many there are.
    pub count: u32,
}

/// Personal half of `mailbox.sender_rules_replaced`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rules {
    /// The whole set, sorted by pattern.
    pub rules: Vec<SenderRule>,
}

/// Facts of `mailbox.closed`; the address is named again so that its directory row can be dropped.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Closed {
    /// The mailbox.
    pub mailbox: MailboxId,
    /// The domain its address was on; version 1 did not say.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub domain: Option<DomainId>,
}

stored_events! {
    /// What can happen to a mailbox.
    enum Event;
    /// An address began to receive.
    Opened(Opened, Owner) = "mailbox.opened" v 1;
    /// Its shown name changed.
    Renamed(Subject, DisplayName) = "mailbox.renamed" v 1;
    /// It may hold another amount of mail.
    QuotaChanged(QuotaChanged) = "mailbox.quota_changed" v 1;
    /// It may send through other accounts.
    SendScopeChanged(SendScopeChanged) = "mailbox.send_scope_changed" v 1;
    /// Who may write to it changed.
    RulesReplaced(RulesReplaced, Rules) = "mailbox.sender_rules_replaced" v 1;
    /// It receives and sends nothing for now.
    Suspended(Subject) = "mailbox.suspended" v 1;
    /// It works again.
    Resumed(Subject) = "mailbox.resumed" v 1;
    /// It is gone for good.
    Closed(Closed, Owner) = "mailbox.closed" v 2;
}

impl Event {
    /// Returns the mailbox it is about.
    #[must_use]
    pub fn mailbox(&self) -> &MailboxId {
        match self {
            Self::Opened(e) => &e.mailbox,
            Self::Renamed(e) => &e.mailbox,
            Self::QuotaChanged(e) => &e.mailbox,
            Self::SendScopeChanged(e) => &e.mailbox,
            Self::RulesReplaced(e) => &e.mailbox,
            Self::Suspended(e) | Self::Resumed(e) => &e.mailbox,
            Self::Closed(e) => &e.mailbox,
        }
    }
}

/// Where a mailbox is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// Not opened yet.
    #[default]
    Absent,
    /// Receives and sends.
    Active,
    /// Keeps its data and does nothing.
    Suspended,
    /// Gone for good.
    Closed,
}

/// The fold of a mailbox's stream and of its credentials.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Mailbox {
    /// Where it is in its life.
    pub status: Status,
    /// Its address, lower case; `None` after erasure.
    pub email: Option<String>,
    /// The domain the address is on.
    #[serde(default)]
    pub domain: Option<DomainId>,
    /// The name shown beside the address.
    pub display_name: Option<String>,
    /// How many bytes of mail it may hold.
    pub quota_bytes: i64,
    /// Which accounts it may send through.
    pub send_scope: SendScope,
    /// How its sender rules are read.
    pub filter_mode: FilterMode,
    /// Its sender rules, sorted by pattern.
    pub rules: Vec<SenderRule>,
    /// Its credentials that are not revoked, bounded by the team's key limit.
    pub keys: BTreeMap<KeyId, api_key::Created>,
}

impl Mailbox {
    /// Returns whether the sender rules let an envelope sender write, see [`rules_admit`].
    #[must_use]
    pub fn admits(&self, sender: Option<&mail::address::Address>) -> bool {
        rules_admit(self.filter_mode, &self.rules, sender)
    }
}

/// Returns whether sender rules let an envelope sender write.
///
/// The null sender (bounces) has no address: it passes a denylist and is stopped by an allowlist.
#[must_use]
pub fn rules_admit(mode: FilterMode, rules: &[SenderRule], sender: Option<&mail::address::Address>) -> bool {
    let listed = || {
        sender.is_some_and(|sender| {
            rules.iter().any(|rule| {
                mail::address::SenderPattern::parse(&rule.pattern).is_ok_and(|pattern| pattern.matches_address(sender))
            })
        })
    };
    match mode {
        FilterMode::Off => true,
        FilterMode::Allowlist => listed(),
        FilterMode::Denylist => !listed(),
    }
}

impl Fold for Mailbox {
    fn evolve(&mut self, event: &crate::Event) {
        let event = match event {
            crate::Event::Mailbox(event) => event,
            crate::Event::ApiKey(api_key::Event::Created(e)) => {
                self.keys.insert(e.key.clone(), e.facts.clone());
                return;
            }
            crate::Event::ApiKey(api_key::Event::Revoked(e)) => {
                self.keys.remove(&e.key);
                return;
            }
            _ => return,
        };
        match event {
            Event::Opened(e) => {
                self.status = Status::Active;
                self.email = e.personal.known().map(|p| p.email.clone());
                self.display_name = e.personal.known().and_then(|p| p.display_name.clone());
                self.domain = Some(e.domain.clone());
                self.quota_bytes = e.quota_bytes;
                self.send_scope = e.send_scope.clone();
            }
            Event::Renamed(e) => self.display_name = e.personal.known().and_then(|p| p.display_name.clone()),
            Event::QuotaChanged(e) => self.quota_bytes = e.quota_bytes,
            Event::SendScopeChanged(e) => self.send_scope = e.send_scope.clone(),
            Event::RulesReplaced(e) => {
                self.filter_mode = e.mode;
                self.rules = e.personal.known().map(|p| p.rules.clone()).unwrap_or_default();
            }
            Event::Suspended(_) => self.status = Status::Suspended,
            Event::Resumed(_) => self.status = Status::Active,
            Event::Closed(_) => self.status = Status::Closed,
        }
    }

    fold_of!(Mailbox, Mailbox);
}

/// Why a mailbox command can be refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Rejected {
    /// There is no such team.
    #[error("no such team")]
    UnknownTeam,
    /// There is no such mailbox, or it is closed.
    #[error("no such mailbox")]
    Unknown,
    /// The mailbox id was used before.
    #[error("the mailbox exists already")]
    Exists,
    /// The mailbox is closed.
    #[error("the mailbox is deleted")]
    Closed,
    /// The address is on a domain that is not this team's, not verified or does not receive.
    #[error("the address's domain is not a verified receiving domain of this team")]
    DomainNotAvailable,
    /// A team limit stands against it.
    #[error(transparent)]
    Limit(#[from] LimitReached),
    /// The entity changed since the caller read it.
    #[error("the mailbox has changed since it was read")]
    VersionMismatch {
        /// The current version.
        current: u64,
    },
}

/// Refuses unless the caller's version, where given, is the current one.
fn expect_version(wanted: Option<u64>, current: u64) -> Result<(), Rejected> {
    match wanted {
        Some(version) if version != current => Err(Rejected::VersionMismatch { current }),
        _ => Ok(()),
    }
}

/// Opens a mailbox, with a first credential if the team has room for one.
#[derive(Debug, Clone)]
pub struct OpenMailbox {
    /// The new mailbox's id.
    pub mailbox: MailboxId,
    /// Its address.
    pub email: mail::address::Address,
    /// The name shown beside it.
    pub display_name: Option<String>,
    /// How many bytes of mail it may hold.
    pub quota_bytes: i64,
    /// Which accounts it may send through.
    pub send_scope: SendScope,
    /// Its first credential's public side and what that may do.
    pub credential: Option<(Minted, Permissions)>,
}

impl Command for OpenMailbox {
    type State = (Versioned<Team>, Versioned<Mailbox>);
    type Rejected = Rejected;

    fn streams(&self) -> Vec<StreamId> {
        vec![StreamId::Team, StreamId::Mailbox(self.mailbox.clone())]
    }

    fn decide(&self, (team, mailbox): &Self::State, _: &Moment) -> Result<Vec<crate::Event>, Rejected> {
        let email = self.email.canonical();
        match mailbox.status {
            Status::Absent => {}
            Status::Active | Status::Suspended if mailbox.email.as_deref() == Some(email.as_str()) => {
                return Ok(vec![]);
            }
            Status::Active | Status::Suspended | Status::Closed => return Err(Rejected::Exists),
        }
        if team.id.is_none() {
            return Err(Rejected::UnknownTeam);
        }
        let domain = team
            .domains
            .get(self.email.domain())
            .filter(|d| d.verified && d.mode == Mode::SendReceive)
            .ok_or(Rejected::DomainNotAvailable)?;
        team.room_for(Resource::Mailboxes, 1)?;
        let facts = Opened {
            mailbox: self.mailbox.clone(),
            domain: domain.id.clone(),
            quota_bytes: self.quota_bytes,
            send_scope: self.send_scope.clone(),
        };
        let owner = Owner { email, display_name: self.display_name.clone() };
        let opened = crate::Event::Mailbox(Event::Opened(Halves::new(facts, owner)));
        // A mailbox without a credential is still a mailbox: the caller is told that the key limit stands.
        let credential = self.credential.as_ref().filter(|_| team.room_for(Resource::ActiveKeys, 1).is_ok()).map(
            |(minted, permissions)| {
                let mailbox = Some(self.mailbox.clone());
                minted.created(api_key::Kind::Mailbox, "Default", permissions.clone(), mailbox, None)
            },
        );
        Ok(std::iter::once(opened).chain(credential).collect())
    }
}

/// Changes a mailbox's name, quota or send scope; what is `None` stays.
#[derive(Debug, Clone)]
pub struct ChangeMailbox {
    /// The mailbox.
    pub mailbox: MailboxId,
    /// The new name; `Some(None)` clears it.
    pub display_name: Option<Option<String>>,
    /// The new quota in bytes.
    pub quota_bytes: Option<i64>,
    /// The new send scope.
    pub send_scope: Option<SendScope>,
    /// The version the caller has read.
    pub if_version: Option<u64>,
}

impl Command for ChangeMailbox {
    type State = Versioned<Mailbox>;
    type Rejected = Rejected;

    fn streams(&self) -> Vec<StreamId> {
        vec![StreamId::Mailbox(self.mailbox.clone())]
    }

    fn decide(&self, state: &Self::State, _: &Moment) -> Result<Vec<crate::Event>, Rejected> {
        open(state)?;
        expect_version(self.if_version, state.version)?;
        let mailbox = || self.mailbox.clone();
        let mut events = vec![];
        if let Some(display_name) = self.display_name.clone().filter(|n| *n != state.display_name) {
            events.push(Event::Renamed(Halves::new(Subject { mailbox: mailbox() }, DisplayName { display_name })));
        }
        if let Some(quota_bytes) = self.quota_bytes.filter(|q| *q != state.quota_bytes) {
            events.push(Event::QuotaChanged(QuotaChanged { mailbox: mailbox(), quota_bytes }.into()));
        }
        if let Some(send_scope) = self.send_scope.clone().filter(|s| *s != state.send_scope) {
            events.push(Event::SendScopeChanged(SendScopeChanged { mailbox: mailbox(), send_scope }.into()));
        }
        Ok(events.into_iter().map(crate::Event::Mailbox).collect())
    }
}

/// Replaces a mailbox's sender rules as a whole.
#[derive(Debug, Clone)]
pub struct ReplaceSenderRules {
    /// The mailbox.
    pub mailbox: MailboxId,
    /// How the rules are read.
    pub mode: FilterMode,
    /// The rules; sorted and without repeats.
    pub rules: Vec<SenderRule>,
    /// The version the caller has read.
    pub if_version: Option<u64>,
}

impl Command for ReplaceSenderRules {
    type State = Versioned<Mailbox>;
    type Rejected = Rejected;

    fn streams(&self) -> Vec<StreamId> {
        vec![StreamId::Mailbox(self.mailbox.clone())]
    }

    fn decide(&self, state: &Self::State, _: &Moment) -> Result<Vec<crate::Event>, Rejected> {
        open(state)?;
        expect_version(self.if_version, state.version)?;
        if state.filter_mode == self.mode && state.rules == self.rules {
            return Ok(vec![]);
        }
        let count = u32::try_from(self.rules.len()).unwrap_or(u32::MAX);
        let facts = RulesReplaced { mailbox: self.mailbox.clone(), mode: self.mode, count };
        let rules = Rules { rules: self.rules.clone() };
        Ok(vec![crate::Event::Mailbox(Event::RulesReplaced(Halves::new(facts, rules)))])
    }
}

/// Stops a mailbox until it is resumed.
#[derive(Debug, Clone)]
pub struct SuspendMailbox {
    /// The mailbox.
    pub mailbox: MailboxId,
}

impl Command for SuspendMailbox {
    type State = Versioned<Mailbox>;
    type Rejected = Rejected;

    fn streams(&self) -> Vec<StreamId> {
        vec![StreamId::Mailbox(self.mailbox.clone())]
    }

    fn decide(&self, state: &Self::State, _: &Moment) -> Result<Vec<crate::Event>, Rejected> {
        match state.status {
            Status::Absent => Err(Rejected::Unknown),
            Status::Closed => Err(Rejected::Closed),
            Status::Suspended => Ok(vec![]),
            Status::Active => {
                Ok(vec![crate::Event::Mailbox(Event::Suspended(Subject { mailbox: self.mailbox.clone() }.into()))])
            }
        }
    }
}

/// Lets a suspended mailbox work again.
#[derive(Debug, Clone)]
pub struct ResumeMailbox {
    /// The mailbox.
    pub mailbox: MailboxId,
}

impl Command for ResumeMailbox {
    type State = Versioned<Mailbox>;
    type Rejected = Rejected;

    fn streams(&self) -> Vec<StreamId> {
        vec![StreamId::Mailbox(self.mailbox.clone())]
    }

    fn decide(&self, state: &Self::State, _: &Moment) -> Result<Vec<crate::Event>, Rejected> {
        match state.status {
            Status::Absent => Err(Rejected::Unknown),
            Status::Closed => Err(Rejected::Closed),
            Status::Active => Ok(vec![]),
            Status::Suspended => {
                Ok(vec![crate::Event::Mailbox(Event::Resumed(Subject { mailbox: self.mailbox.clone() }.into()))])
            }
        }
    }
}

/// Closes a mailbox for good and ends its credentials.
#[derive(Debug, Clone)]
pub struct CloseMailbox {
    /// The mailbox.
    pub mailbox: MailboxId,
}

impl Command for CloseMailbox {
    type State = Versioned<Mailbox>;
    type Rejected = Rejected;

    fn streams(&self) -> Vec<StreamId> {
        vec![StreamId::Mailbox(self.mailbox.clone())]
    }

    fn decide(&self, state: &Self::State, _: &Moment) -> Result<Vec<crate::Event>, Rejected> {
        match state.status {
            Status::Absent => return Err(Rejected::Unknown),
            Status::Closed => return Ok(vec![]),
            Status::Active | Status::Suspended => {}
        }
        let owner = Owner { email: state.email.clone().unwrap_or_default(), display_name: state.display_name.clone() };
        let facts = Closed { mailbox: self.mailbox.clone(), domain: state.domain.clone() };
        let closed = Event::Closed(Halves::new(facts, owner));
        let keys = state.keys.values().map(|key| revoked(key, RevokeReason::MailboxClosed));
        Ok(keys.chain([crate::Event::Mailbox(closed)]).collect())
    }
}

/// Refuses unless the mailbox is open (active or suspended).
fn open(mailbox: &Mailbox) -> Result<(), Rejected> {
    match mailbox.status {
        Status::Absent | Status::Closed => Err(Rejected::Unknown),
        Status::Active | Status::Suspended => Ok(()),
    }
}
