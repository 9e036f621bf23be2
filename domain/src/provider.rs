//! A sending account (provider): how a team's mail leaves.
//!
//! Invariants:
//! - A deleted account never comes back.
//! - An account that refused our login is broken until its credentials change, a test succeeds or somebody
//!   activates it again; broken accounts are not chosen.
//! - The log holds a reference to the sealed credentials, never the credentials.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::entity::{Fold, Versioned, fold_of};
use crate::event::stored_events;
use crate::id::{ProviderId, SecretId};
use crate::personal::Halves;
use crate::team::{LimitReached, Resource, Team};
use crate::{Command, Moment, StreamId};

pub mod credentials;
pub mod quota;
mod topic;
mod trial;

pub use quota::Quotas;
pub use topic::{BindTopic, TopicBound, is_topic};
pub(crate) use trial::broken;
pub use trial::{BreakProvider, RecordProviderTest};

/// How a connection to a server is protected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Security {
    /// Not at all.
    None,
    /// `STARTTLS` before anything else (RFC 3207).
    Starttls,
    /// TLS from the first byte (RFC 8314 §3).
    Tls,
}

/// Which way mail leaves through an account.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Transport {
    /// A submission server of the team's own.
    CustomSmtp {
        /// Host name.
        host: String,
        /// TCP port.
        port: u16,
        /// How the connection is protected.
        security: Security,
    },
    /// Amazon SES, API version 2.
    Ses {
        /// The region's name.
        region: String,
        /// The configuration set whose notifications come back.
        configuration_set: Option<String>,
    },
    /// Straight to the recipients' mail exchangers.
    DirectMx,
    /// Nowhere: local mailboxes and the simulator.
    Sandbox,
}

impl Transport {
    /// Returns the kind's name as stored.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::CustomSmtp { .. } => "custom_smtp",
            Self::Ses { .. } => "ses",
            Self::DirectMx => "direct_mx",
            Self::Sandbox => "sandbox",
        }
    }

    /// Returns whether its answers come from the recipients' own servers, so that acceptance is delivery.
    #[must_use]
    pub fn reaches_recipients(&self) -> bool {
        matches!(self, Self::DirectMx | Self::Sandbox)
    }
}

/// What an account is, apart from what names people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// Which way mail leaves.
    pub transport: Transport,
    /// Its share among the eligible accounts, 0 to 100; 0 is chosen only when nothing else is left, `None` counts as 100.
    pub percentage: Option<u8>,
    /// How many recipients it may be given.
    pub quotas: Quotas,
}

/// Personal half of an account: how it is called and as whom it sends.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Identity {
    /// What its owner calls it.
    pub name: String,
    /// The login name at the server.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub username: Option<String>,
    /// The address it sends as.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub from_email: Option<String>,
    /// The name it sends as.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub from_name: Option<String>,
    /// Where answers go.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub reply_to_email: Option<String>,
    /// The name beside it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub reply_to_name: Option<String>,
    /// The host that links are rewritten to.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub tracking_domain: Option<String>,
    /// Values for templates, at most 50.
    #[serde(skip_serializing_if = "BTreeMap::is_empty", default)]
    pub variables: BTreeMap<String, String>,
}

/// Facts of `provider.created`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Created {
    /// The account.
    pub provider: ProviderId,
    /// What it is.
    pub settings: Settings,
    /// Whether the operator runs it for the team, at the managed price.
    pub managed: bool,
    /// The sealed credentials.
    pub secret: Option<SecretId>,
}

/// Facts of `provider.reconfigured`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reconfigured {
    /// The account.
    pub provider: ProviderId,
    /// What it is from now on.
    pub settings: Settings,
}

/// Facts of `provider.credentials_replaced`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CredentialsReplaced {
    /// The account.
    pub provider: ProviderId,
    /// The sealed credentials from now on.
    pub secret: SecretId,
}

/// Facts of events that only name their account.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subject {
    /// The account.
    pub provider: ProviderId,
}

/// Facts of `provider.tested`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tested {
    /// The account.
    pub provider: ProviderId,
    /// Whether it let us in.
    pub success: bool,
    /// How long it took, milliseconds.
    pub latency_milliseconds: u32,
    /// When, microseconds since the Unix epoch.
    pub tested_at: i64,
}

/// Personal half of `provider.tested` and `provider.broken`: servers repeat names and addresses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Said {
    /// What the server said, at most 1,000 characters.
    pub message: String,
}

/// Why an account is not used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Trouble {
    /// It refused our login.
    LoginRefused,
    /// Its owner closed or suspended it.
    AccountSuspended,
    /// What is configured cannot work.
    Misconfigured,
}

/// Facts of `provider.broken`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Broken {
    /// The account.
    pub provider: ProviderId,
    /// Why.
    pub trouble: Trouble,
}

stored_events! {
    /// What can happen to a sending account.
    enum Event;
    /// A team got another way to send.
    Created(Created, Identity) = "provider.created" v 1;
    /// It sends otherwise from now on.
    Reconfigured(Reconfigured, Identity) = "provider.reconfigured" v 1;
    /// Other credentials are used from now on.
    CredentialsReplaced(CredentialsReplaced) = "provider.credentials_replaced" v 1;
    /// Somebody tried its connection.
    Tested(Tested, Said) = "provider.tested" v 1;
    /// It cannot be used until it is mended.
    Broken(Broken, Said) = "provider.broken" v 1;
    /// It may be used again.
    Mended(Subject) = "provider.mended" v 1;
    /// It is chosen again.
    Activated(Subject) = "provider.activated" v 1;
    /// It is not chosen for now.
    Deactivated(Subject) = "provider.deactivated" v 1;
    /// It is gone for good.
    Deleted(Subject) = "provider.deleted" v 1;
    /// Its notifications come from this topic, and from no other.
    TopicBound(TopicBound) = "provider.topic_bound" v 1;
    /// Its notifications are taken from no topic until one is bound again.
    TopicReleased(Subject) = "provider.topic_released" v 1;
}

impl Event {
    /// Returns the account it is about.
    #[must_use]
    pub fn provider(&self) -> &ProviderId {
        match self {
            Self::Created(e) => &e.provider,
            Self::Reconfigured(e) => &e.provider,
            Self::CredentialsReplaced(e) => &e.provider,
            Self::Tested(e) => &e.provider,
            Self::Broken(e) => &e.provider,
            Self::TopicBound(e) => &e.provider,
            Self::Mended(e) | Self::Activated(e) | Self::Deactivated(e) | Self::Deleted(e) | Self::TopicReleased(e) => {
                &e.provider
            }
        }
    }

    pub(crate) fn links(&self) -> Vec<StreamId> {
        match self {
            Self::Created(_) | Self::Deleted(_) => vec![StreamId::Team, StreamId::Routing],
            Self::Reconfigured(_) | Self::Broken(_) | Self::Mended(_) | Self::Activated(_) | Self::Deactivated(_) => {
                vec![StreamId::Routing]
            }
            Self::CredentialsReplaced(_) | Self::Tested(_) | Self::TopicBound(_) | Self::TopicReleased(_) => vec![],
        }
    }
}

/// Where an account is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// Not created yet.
    #[default]
    Absent,
    /// May be chosen.
    Active,
    /// Is not chosen.
    Inactive,
    /// Gone for good.
    Deleted,
}

/// The fold of an account's stream.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Provider {
    /// Where it is in its life.
    pub status: Status,
    /// Why it cannot be used, if so.
    pub trouble: Option<Trouble>,
    /// What it is; `None` before creation.
    pub settings: Option<Settings>,
    /// Whether the operator runs it for the team.
    pub managed: bool,
    /// How it is called and as whom it sends; empty after erasure.
    pub identity: Identity,
    /// The sealed credentials.
    pub secret: Option<SecretId>,
    /// When it was last tested, microseconds since the Unix epoch.
    pub last_tested_at: Option<i64>,
    /// The topic its notifications come from.
    #[serde(default)]
    pub topic: Option<String>,
}

impl Fold for Provider {
    fn evolve(&mut self, event: &crate::Event) {
        let crate::Event::Provider(event) = event else { return };
        match event {
            Event::Created(e) => {
                self.status = Status::Active;
                self.settings = Some(e.settings.clone());
                self.managed = e.managed;
                self.identity = e.personal.known().cloned().unwrap_or_default();
                self.secret = e.secret.clone();
            }
            Event::Reconfigured(e) => {
                self.settings = Some(e.settings.clone());
                self.identity = e.personal.known().cloned().unwrap_or_default();
            }
            Event::CredentialsReplaced(e) => self.secret = Some(e.secret.clone()),
            Event::Tested(e) => self.last_tested_at = Some(e.tested_at),
            Event::Broken(e) => self.trouble = Some(e.trouble),
            Event::Mended(_) => self.trouble = None,
            Event::Activated(_) => self.status = Status::Active,
            Event::Deactivated(_) => self.status = Status::Inactive,
            Event::Deleted(_) => self.status = Status::Deleted,
            Event::TopicBound(e) => self.topic = Some(e.topic.clone()),
            Event::TopicReleased(_) => self.topic = None,
        }
    }

    fold_of!(Provider, Provider);
}

/// Why an account command can be refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Rejected {
    /// There is no such team.
    #[error("no such team")]
    UnknownTeam,
    /// There is no such account.
    #[error("no such sending account")]
    Unknown,
    /// The account id was used before.
    #[error("the sending account exists already")]
    Exists,
    /// The operator runs this account; the team may only change its variables.
    #[error("a managed sending account cannot be changed or deleted")]
    Managed,
    /// The account is no account at Amazon SES.
    #[error("the sending account has no notifications")]
    NoNotifications,
    /// Its notifications come from another topic.
    #[error("the sending account's notifications come from another topic")]
    AnotherTopic,
    /// The team has as many accounts as it may.
    #[error(transparent)]
    Limit(#[from] LimitReached),
    /// The account changed since the caller read it.
    #[error("the sending account has changed since it was read")]
    VersionMismatch {
        /// The current version.
        current: u64,
    },
}

/// Gives a team another way to send.
#[derive(Debug, Clone)]
pub struct CreateProvider {
    /// The new account's id.
    pub provider: ProviderId,
    /// What it is.
    pub settings: Settings,
    /// How it is called and as whom it sends.
    pub identity: Identity,
    /// Whether the operator runs it for the team.
    pub managed: bool,
    /// The sealed credentials, stored with the event.
    pub secret: Option<SecretId>,
}

impl Command for CreateProvider {
    type State = (Versioned<Team>, Versioned<Provider>);
    type Rejected = Rejected;

    fn streams(&self) -> Vec<StreamId> {
        vec![StreamId::Team, StreamId::Provider(self.provider.clone())]
    }

    fn decide(&self, (team, provider): &Self::State, _: &Moment) -> Result<Vec<crate::Event>, Rejected> {
        if provider.status != Status::Absent {
            let same = provider.settings.as_ref() == Some(&self.settings) && provider.secret == self.secret;
            return if same && provider.status != Status::Deleted { Ok(vec![]) } else { Err(Rejected::Exists) };
        }
        if team.id.is_none() {
            return Err(Rejected::UnknownTeam);
        }
        team.room_for(Resource::SendingAccounts, 1)?;
        let facts = Created {
            provider: self.provider.clone(),
            settings: self.settings.clone(),
            managed: self.managed,
            secret: self.secret.clone(),
        };
        Ok(vec![crate::Event::Provider(Event::Created(Halves::new(facts, self.identity.clone())))])
    }
}

/// Who wants to change an account.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum By {
    /// The team itself: managed accounts let it change variables only.
    Team,
    /// The operator of the installation.
    Operator,
}

/// Changes an account; what is `None` stays.
#[derive(Debug, Clone)]
pub struct ChangeProvider {
    /// The account.
    pub provider: ProviderId,
    /// What it is from now on.
    pub settings: Option<Settings>,
    /// How it is called and as whom it sends from now on.
    pub identity: Option<Identity>,
    /// New sealed credentials, stored with the event.
    pub secret: Option<SecretId>,
    /// The topic its notifications come from, or none of them any more.
    pub topic: Option<Option<String>>,
    /// Who asks.
    pub by: By,
    /// The version the caller has read.
    pub if_version: Option<u64>,
}

impl Command for ChangeProvider {
    type State = Versioned<Provider>;
    type Rejected = Rejected;

    fn streams(&self) -> Vec<StreamId> {
        vec![StreamId::Provider(self.provider.clone())]
    }

    fn decide(&self, state: &Self::State, _: &Moment) -> Result<Vec<crate::Event>, Rejected> {
        let now = existing(state)?;
        match self.if_version {
            Some(version) if version != state.version => {
                return Err(Rejected::VersionMismatch { current: state.version });
            }
            _ => {}
        }
        let settings = self.settings.clone().unwrap_or_else(|| now.clone());
        let identity = self.identity.clone().unwrap_or_else(|| state.identity.clone());
        let secret = self.secret.clone().filter(|s| state.secret.as_ref() != Some(s));
        if state.managed && self.by == By::Team {
            let with_variables = Identity { variables: identity.variables.clone(), ..state.identity.clone() };
            if settings != *now || identity != with_variables || secret.is_some() || self.topic.is_some() {
                return Err(Rejected::Managed);
            }
        }
        let provider = || self.provider.clone();
        let mut events = vec![];
        let moved = settings.transport != now.transport || identity.username != state.identity.username;
        if settings != *now || identity != state.identity {
            let facts = Reconfigured { provider: provider(), settings };
            events.push(Event::Reconfigured(Halves::new(facts, identity)));
        }
        let replaced = secret.is_some();
        if let Some(secret) = secret {
            events.push(Event::CredentialsReplaced(CredentialsReplaced { provider: provider(), secret }.into()));
        }
        if (replaced || moved) && state.trouble.is_some() {
            events.push(Event::Mended(Subject { provider: provider() }.into()));
        }
        if let Some(topic) = &self.topic {
            events.extend(topic::changed(&self.provider, state, topic.as_deref())?);
        }
        Ok(events.into_iter().map(crate::Event::Provider).collect())
    }
}

/// Lets an account be chosen, or not; activating a broken one mends it.
#[derive(Debug, Clone)]
pub struct SwitchProvider {
    /// The account.
    pub provider: ProviderId,
    /// Whether it may be chosen from now on.
    pub active: bool,
}

impl Command for SwitchProvider {
    type State = Versioned<Provider>;
    type Rejected = Rejected;

    fn streams(&self) -> Vec<StreamId> {
        vec![StreamId::Provider(self.provider.clone())]
    }

    fn decide(&self, state: &Self::State, _: &Moment) -> Result<Vec<crate::Event>, Rejected> {
        existing(state)?;
        let subject = || Subject { provider: self.provider.clone() };
        let switched = match (self.active, state.status) {
            (true, Status::Inactive) => Some(Event::Activated(subject().into())),
            (false, Status::Active) => Some(Event::Deactivated(subject().into())),
            _ => None,
        };
        let mended = (self.active && state.trouble.is_some()).then(|| Event::Mended(subject().into()));
        Ok(switched.into_iter().chain(mended).map(crate::Event::Provider).collect())
    }
}

/// Deletes an account for good. Mail that waits for it finds another or ends.
#[derive(Debug, Clone)]
pub struct DeleteProvider {
    /// The account.
    pub provider: ProviderId,
    /// Who asks.
    pub by: By,
}

impl Command for DeleteProvider {
    type State = Versioned<Provider>;
    type Rejected = Rejected;

    fn streams(&self) -> Vec<StreamId> {
        vec![StreamId::Provider(self.provider.clone())]
    }

    fn decide(&self, state: &Self::State, _: &Moment) -> Result<Vec<crate::Event>, Rejected> {
        match state.status {
            Status::Absent => return Err(Rejected::Unknown),
            Status::Deleted => return Ok(vec![]),
            Status::Active | Status::Inactive => {}
        }
        if state.managed && self.by == By::Team {
            return Err(Rejected::Managed);
        }
        Ok(vec![crate::Event::Provider(Event::Deleted(Subject { provider: self.provider.clone() }.into()))])
    }
}

/// Returns the settings of an account that exists.
fn existing(state: &Provider) -> Result<&Settings, Rejected> {
    match (state.status, &state.settings) {
        (Status::Active | Status::Inactive, Some(settings)) => Ok(settings),
        _ => Err(Rejected::Unknown),
    }
}

#[cfg(test)]
mod tests;
