//! What can be asked about a sending domain.

use super::records::{Checks, Found, bounded};
use super::{
    Added, Algorithm, Checked, Event, Failed, KEYS_MAX, KeyAdded, KeyStatus, KeySubject, Mode, ModeChanged, Proof,
    Rejected, Removed, RulesReplaced, SendingDomain, SigningKey, Status, Verified,
};
use crate::entity::Versioned;
use crate::id::{DomainId, SecretId};
use crate::mailbox::{FilterMode, Rules, SenderRule};
use crate::personal::Halves;
use crate::team::{Resource, Team};
use crate::{Command, Moment, StreamId};

/// Gives a team a domain the operator vouches for, or vouches for one it has.
#[derive(Debug, Clone)]
pub struct AddVerifiedDomain {
    /// The new domain's id.
    pub domain: DomainId,
    /// Its name, A-label, lower case.
    pub name: String,
    /// What it is used for.
    pub mode: Mode,
}

impl Command for AddVerifiedDomain {
    type State = (Versioned<Team>, Versioned<SendingDomain>);
    type Rejected = Rejected;

    fn streams(&self) -> Vec<StreamId> {
        vec![StreamId::Team, StreamId::Domain(self.domain.clone())]
    }

    fn decide(&self, (team, domain): &Self::State, _: &Moment) -> Result<Vec<crate::Event>, Rejected> {
        if team.id.is_none() {
            return Err(Rejected::UnknownTeam);
        }
        let verified = |domain: &DomainId| {
            let facts = Verified { domain: domain.clone(), proof: Proof::Operator };
            crate::Event::SendingDomain(Event::Verified(facts.into()))
        };
        if let Some(owned) = team.domains.get(&self.name) {
            return Ok(if owned.verified { vec![] } else { vec![verified(&owned.id)] });
        }
        if domain.status != Status::Absent {
            return Err(Rejected::Exists);
        }
        team.room_for(Resource::Domains, 1)?;
        let added = Added { domain: self.domain.clone(), name: self.name.clone(), mode: self.mode };
        Ok(vec![crate::Event::SendingDomain(Event::Added(added.into())), verified(&self.domain)])
    }
}

/// The public side of a new signing key; the private key is sealed and stored with the event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewKey {
    /// The selector, lower case.
    pub selector: String,
    /// How it signs.
    pub algorithm: Algorithm,
    /// The public key, base64.
    pub public_key: String,
    /// The sealed private key.
    pub secret: SecretId,
}

impl NewKey {
    fn added(&self, domain: &DomainId) -> Event {
        let facts = KeyAdded {
            domain: domain.clone(),
            selector: self.selector.clone(),
            algorithm: self.algorithm,
            public_key: self.public_key.clone(),
            secret: self.secret.clone(),
        };
        Event::KeyAdded(facts.into())
    }
}

/// Claims a domain for a team, with its first signing keys. It is pending until its records are right.
#[derive(Debug, Clone)]
pub struct AddDomain {
    /// The new domain's id.
    pub domain: DomainId,
    /// Its name, A-label, lower case.
    pub name: String,
    /// What it is used for.
    pub mode: Mode,
    /// Its first signing keys.
    pub keys: Vec<NewKey>,
}

impl Command for AddDomain {
    type State = (Versioned<Team>, Versioned<SendingDomain>);
    type Rejected = Rejected;

    fn streams(&self) -> Vec<StreamId> {
        vec![StreamId::Team, StreamId::Domain(self.domain.clone())]
    }

    fn decide(&self, (team, domain): &Self::State, _: &Moment) -> Result<Vec<crate::Event>, Rejected> {
        if domain.status != Status::Absent {
            let same = domain.status != Status::Removed && domain.name == self.name;
            return if same { Ok(vec![]) } else { Err(Rejected::Exists) };
        }
        if team.id.is_none() {
            return Err(Rejected::UnknownTeam);
        }
        if team.domains.contains_key(&self.name) {
            return Err(Rejected::Exists);
        }
        if self.keys.len() > KEYS_MAX {
            return Err(Rejected::TooManyKeys);
        }
        team.room_for(Resource::Domains, 1)?;
        let added = Added { domain: self.domain.clone(), name: self.name.clone(), mode: self.mode };
        let keys = self.keys.iter().map(|key| key.added(&self.domain));
        Ok(std::iter::once(Event::Added(added.into())).chain(keys).map(crate::Event::SendingDomain).collect())
    }
}

/// Writes down what a look at a domain's records found. A look that could not be made (the DNS did not answer) is not
/// written down at all: it says nothing.
#[derive(Debug, Clone)]
pub struct RecordCheck {
    /// The domain.
    pub domain: DomainId,
    /// What is right.
    pub checks: Checks,
    /// What was found.
    pub found: Vec<Found>,
    /// The selectors whose keys are published.
    pub published: Vec<String>,
    /// When, microseconds since the Unix epoch.
    pub checked_at: i64,
    /// The version the look was made for: with another mode or other keys it would have looked for other records.
    pub if_version: Option<u64>,
}

impl Command for RecordCheck {
    type State = Versioned<SendingDomain>;
    type Rejected = Rejected;

    fn streams(&self) -> Vec<StreamId> {
        vec![StreamId::Domain(self.domain.clone())]
    }

    fn decide(&self, state: &Self::State, _: &Moment) -> Result<Vec<crate::Event>, Rejected> {
        owned(state)?;
        expect_version(self.if_version, state.version)?;
        if state.checked_at.is_some_and(|last| last >= self.checked_at) {
            return Ok(vec![]);
        }
        let complete = self.checks.are_complete();
        // Two are enough to be believed; counting on would be an event per look.
        let failures = if complete { 0 } else { (state.failures + 1).min(2) };
        let found = bounded(self.found.clone());
        let mut events = self.keys_in_use(state);
        if state.checks != Some(self.checks) || state.found != found || state.failures != failures {
            let facts = Checked {
                domain: self.domain.clone(),
                checks: self.checks,
                found,
                failures,
                checked_at: self.checked_at,
            };
            events.push(Event::Checked(facts.into()));
        }
        match state.status {
            Status::Pending | Status::Failed if complete => {
                events.push(Event::Verified(Verified { domain: self.domain.clone(), proof: Proof::Dns }.into()));
            }
            Status::Verified if failures >= 2 && !state.vouched => {
                events.push(Event::Failed(Failed { domain: self.domain.clone(), checks: self.checks }.into()));
            }
            _ => {}
        }
        Ok(events.into_iter().map(crate::Event::SendingDomain).collect())
    }
}

impl RecordCheck {
    /// Returns the events by which published keys begin to sign and their predecessors stop.
    fn keys_in_use(&self, state: &SendingDomain) -> Vec<Event> {
        let fresh = |key: &&SigningKey| key.status == KeyStatus::Pending && self.published.contains(&key.selector);
        state.keys.iter().filter(fresh).flat_map(|key| activated(&self.domain, state, key)).collect()
    }
}

fn activated(domain: &DomainId, state: &SendingDomain, key: &SigningKey) -> Vec<Event> {
    let subject = |selector: &str| KeySubject { domain: domain.clone(), selector: selector.to_owned() };
    let before = state.signing_keys().filter(|k| k.algorithm == key.algorithm);
    let retired = before.map(|k| Event::KeyRetired(subject(&k.selector).into()));
    std::iter::once(Event::KeyActivated(subject(&key.selector).into())).chain(retired).collect()
}

/// Gives a domain another signing key: the first step of a rotation.
#[derive(Debug, Clone)]
pub struct AddSigningKey {
    /// The domain.
    pub domain: DomainId,
    /// The key.
    pub key: NewKey,
}

impl Command for AddSigningKey {
    type State = Versioned<SendingDomain>;
    type Rejected = Rejected;

    fn streams(&self) -> Vec<StreamId> {
        vec![StreamId::Domain(self.domain.clone())]
    }

    fn decide(&self, state: &Self::State, _: &Moment) -> Result<Vec<crate::Event>, Rejected> {
        owned(state)?;
        // The selector of a retired key is taken too: its record may still be needed.
        let known = state.keys.iter().chain(&state.retired).find(|k| k.selector == self.key.selector);
        if let Some(known) = known {
            return if known.secret == self.key.secret { Ok(vec![]) } else { Err(Rejected::SelectorTaken) };
        }
        if state.keys.len() >= KEYS_MAX {
            return Err(Rejected::TooManyKeys);
        }
        Ok(vec![crate::Event::SendingDomain(self.key.added(&self.domain))])
    }
}

/// Lets a key sign though nobody has looked whether it is published: for domains the operator vouches for.
#[derive(Debug, Clone)]
pub struct ActivateKey {
    /// The domain.
    pub domain: DomainId,
    /// The selector.
    pub selector: String,
}

impl Command for ActivateKey {
    type State = Versioned<SendingDomain>;
    type Rejected = Rejected;

    fn streams(&self) -> Vec<StreamId> {
        vec![StreamId::Domain(self.domain.clone())]
    }

    fn decide(&self, state: &Self::State, _: &Moment) -> Result<Vec<crate::Event>, Rejected> {
        owned(state)?;
        let key = state.keys.iter().find(|k| k.selector == self.selector).ok_or(Rejected::UnknownKey)?;
        if key.status == KeyStatus::Active {
            return Ok(vec![]);
        }
        Ok(activated(&self.domain, state, key).into_iter().map(crate::Event::SendingDomain).collect())
    }
}

/// Stops a key from signing.
#[derive(Debug, Clone)]
pub struct RetireKey {
    /// The domain.
    pub domain: DomainId,
    /// The selector.
    pub selector: String,
}

impl Command for RetireKey {
    type State = Versioned<SendingDomain>;
    type Rejected = Rejected;

    fn streams(&self) -> Vec<StreamId> {
        vec![StreamId::Domain(self.domain.clone())]
    }

    fn decide(&self, state: &Self::State, _: &Moment) -> Result<Vec<crate::Event>, Rejected> {
        owned(state)?;
        if !state.keys.iter().any(|k| k.selector == self.selector) {
            return Ok(vec![]);
        }
        let facts = KeySubject { domain: self.domain.clone(), selector: self.selector.clone() };
        Ok(vec![crate::Event::SendingDomain(Event::KeyRetired(facts.into()))])
    }
}

/// Lets a domain receive too. It must be verified again.
#[derive(Debug, Clone)]
pub struct ChangeMode {
    /// The domain.
    pub domain: DomainId,
    /// What it is used for from now on.
    pub mode: Mode,
    /// The version the caller has read.
    pub if_version: Option<u64>,
}

impl Command for ChangeMode {
    type State = Versioned<SendingDomain>;
    type Rejected = Rejected;

    fn streams(&self) -> Vec<StreamId> {
        vec![StreamId::Domain(self.domain.clone())]
    }

    fn decide(&self, state: &Self::State, _: &Moment) -> Result<Vec<crate::Event>, Rejected> {
        let mode = owned(state)?;
        expect_version(self.if_version, state.version)?;
        match (mode, self.mode) {
            (Mode::SendOnly, Mode::SendReceive) => {
                let facts = ModeChanged { domain: self.domain.clone(), mode: self.mode };
                Ok(vec![crate::Event::SendingDomain(Event::ModeChanged(facts.into()))])
            }
            (Mode::SendReceive, Mode::SendOnly) => Err(Rejected::ModeNotChangeable),
            (Mode::SendOnly, Mode::SendOnly) | (Mode::SendReceive, Mode::SendReceive) => Ok(vec![]),
        }
    }
}

/// Replaces the sender rules of a domain's mailboxes that have none of their own.
#[derive(Debug, Clone)]
pub struct ReplaceDomainRules {
    /// The domain.
    pub domain: DomainId,
    /// How the rules are read.
    pub mode: FilterMode,
    /// The rules; sorted and without repeats.
    pub rules: Vec<SenderRule>,
    /// The version the caller has read.
    pub if_version: Option<u64>,
}

impl Command for ReplaceDomainRules {
    type State = Versioned<SendingDomain>;
    type Rejected = Rejected;

    fn streams(&self) -> Vec<StreamId> {
        vec![StreamId::Domain(self.domain.clone())]
    }

    fn decide(&self, state: &Self::State, _: &Moment) -> Result<Vec<crate::Event>, Rejected> {
        if owned(state)? == Mode::SendOnly {
            return Err(Rejected::DoesNotReceive);
        }
        expect_version(self.if_version, state.version)?;
        if state.filter_mode == self.mode && state.rules == self.rules {
            return Ok(vec![]);
        }
        let count = u32::try_from(self.rules.len()).unwrap_or(u32::MAX);
        let facts = RulesReplaced { domain: self.domain.clone(), mode: self.mode, count };
        let rules = Rules { rules: self.rules.clone() };
        Ok(vec![crate::Event::SendingDomain(Event::RulesReplaced(Halves::new(facts, rules)))])
    }
}

/// Gives a domain up. Its name is free again.
#[derive(Debug, Clone)]
pub struct RemoveDomain {
    /// The domain.
    pub domain: DomainId,
}

impl Command for RemoveDomain {
    type State = (Versioned<Team>, Versioned<SendingDomain>);
    type Rejected = Rejected;

    fn streams(&self) -> Vec<StreamId> {
        vec![StreamId::Team, StreamId::Domain(self.domain.clone())]
    }

    fn decide(&self, (team, domain): &Self::State, _: &Moment) -> Result<Vec<crate::Event>, Rejected> {
        if domain.status == Status::Removed {
            return Ok(vec![]);
        }
        let (name, owned) = team.domain(&self.domain).ok_or(Rejected::Unknown)?;
        if owned.mailboxes > 0 {
            return Err(Rejected::InUse { mailboxes: owned.mailboxes });
        }
        let facts = Removed { domain: self.domain.clone(), name: name.to_owned() };
        Ok(vec![crate::Event::SendingDomain(Event::Removed(facts.into()))])
    }
}

/// Returns what a domain is used for, if the team has it.
fn owned(state: &SendingDomain) -> Result<Mode, Rejected> {
    match (state.status, state.mode) {
        (Status::Pending | Status::Verified | Status::Failed, Some(mode)) => Ok(mode),
        _ => Err(Rejected::Unknown),
    }
}

fn expect_version(wanted: Option<u64>, current: u64) -> Result<(), Rejected> {
    match wanted {
        Some(version) if version != current => Err(Rejected::VersionMismatch { current }),
        _ => Ok(()),
    }
}
