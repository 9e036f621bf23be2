//! The team: the tenant that owns one log, and the limits that everything in it counts against.
//!
//! Invariants:
//! - A team is created once.
//! - Counts never exceed their limit through any sequence of commands; lowering a limit below the count
//!   only stops further growth.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::entity::{Fold, Versioned, fold_of};
use crate::event::stored_events;
use crate::id::{DomainId, LimitRequestId, TeamId};
use crate::personal::Halves;
use crate::{Command, Moment, StreamId, api_key, mailbox, provider, sending_domain, webhook_endpoint};

/// How many of each resource a team may have at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    /// Keys and mailbox credentials that are not revoked.
    pub active_keys: u32,
    /// Webhook endpoints.
    pub webhooks: u32,
    /// Mailboxes that are not closed.
    pub mailboxes: u32,
    /// Sending domains.
    pub domains: u32,
    /// Sending accounts.
    pub sending_accounts: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self { active_keys: 100, webhooks: 10, mailboxes: 50, domains: 25, sending_accounts: 200 }
    }
}

/// A counted resource of a team.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Resource {
    /// See [`Limits::active_keys`].
    ActiveKeys,
    /// See [`Limits::webhooks`].
    Webhooks,
    /// See [`Limits::mailboxes`].
    Mailboxes,
    /// See [`Limits::domains`].
    Domains,
    /// See [`Limits::sending_accounts`].
    SendingAccounts,
    /// Recipients that the managed account takes on one day: a quota of the account, not a count of this fold.
    ManagedDaily,
}

impl std::fmt::Display for Resource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::ActiveKeys => "active keys",
            Self::Webhooks => "webhooks",
            Self::Mailboxes => "mailboxes",
            Self::Domains => "domains",
            Self::SendingAccounts => "sending accounts",
            Self::ManagedDaily => "managed recipients a day",
        })
    }
}

/// The team already has as many of a resource as it may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the team's limit of {max} {resource} is reached")]
pub struct LimitReached {
    /// What is limited.
    pub resource: Resource,
    /// How many are allowed.
    pub max: u32,
}

/// Facts of `team.created`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Created {
    /// The new team.
    pub team: TeamId,
    /// Its limits.
    pub limits: Limits,
}

/// Personal half of `team.created`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TeamName {
    /// What people call the team.
    pub name: String,
}

/// Facts of `team.limits_changed`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LimitsChanged {
    /// The limits from now on.
    pub limits: Limits,
}

/// Facts of `team.limit_increase_requested`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LimitIncreaseRequested {
    /// The request.
    pub request: LimitRequestId,
    /// What there should be more of.
    pub resource: Resource,
    /// How many there may be now.
    pub current: u32,
}

/// How a request for a higher limit ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Decision {
    /// The operator raised the limit.
    Approved,
    /// The operator did not.
    Denied,
    /// The team took it back.
    Cancelled,
}

/// Facts of `team.limit_increase_decided`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LimitIncreaseDecided {
    /// The request.
    pub request: LimitRequestId,
    /// What there should be more of.
    pub resource: Resource,
    /// How it ended.
    pub decision: Decision,
}

/// What an erasure was about. The subject itself is not recorded: its name is what had to go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErasureSubject {
    /// One message.
    Message,
    /// Everything that names an address.
    Address,
    /// A mailbox and all that was in it.
    Mailbox,
    /// Everything of the team that names anybody.
    Team,
}

/// Facts of `team.personal_data_erased`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PersonalDataErased {
    /// What it was about.
    pub subject: ErasureSubject,
    /// How many events lost their personal half.
    pub events: u64,
    /// How many bodies were erased.
    pub bodies: u64,
}

stored_events! {
    /// What can happen to a team.
    enum Event;
    /// A tenant came into being.
    Created(Created, TeamName) = "team.created" v 1;
    /// The operator changed what the team may have.
    LimitsChanged(LimitsChanged) = "team.limits_changed" v 1;
    /// Personal halves and bodies were erased for good.
    PersonalDataErased(PersonalDataErased) = "team.personal_data_erased" v 1;
    /// It asked for more of something.
    LimitIncreaseRequested(LimitIncreaseRequested) = "team.limit_increase_requested" v 1;
    /// That was answered.
    LimitIncreaseDecided(LimitIncreaseDecided) = "team.limit_increase_decided" v 1;
}

/// A sending domain as its team knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OwnedDomain {
    /// The domain's id.
    pub id: DomainId,
    /// What it is used for.
    pub mode: sending_domain::Mode,
    /// Whether the team has shown that it controls the domain.
    pub verified: bool,
    /// Mailboxes on it that are not closed.
    #[serde(default)]
    pub mailboxes: u32,
}

/// The fold of a team's stream and of all events that count against its limits.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Team {
    /// The team's id once it was created.
    pub id: Option<TeamId>,
    /// What people call the team; `None` before creation or after erasure.
    pub name: Option<String>,
    /// What it may have.
    pub limits: Limits,
    /// Keys that are not revoked.
    pub active_keys: u32,
    /// Webhook endpoints.
    pub webhooks: u32,
    /// Mailboxes that are not closed.
    pub mailboxes: u32,
    /// Domains by name (A-label, lower case).
    pub domains: BTreeMap<String, OwnedDomain>,
    /// Sending accounts that are not deleted.
    #[serde(default)]
    pub sending_accounts: u32,
    /// Requests for a higher limit that are not answered, one per resource.
    #[serde(default)]
    pub limit_requests: BTreeMap<Resource, LimitRequestId>,
    /// The request that was answered last.
    #[serde(default)]
    pub decided_request: Option<LimitRequestId>,
}

impl Team {
    /// Returns whether `more` of a resource still fit.
    ///
    /// # Errors
    /// The limit that stands against it.
    pub fn room_for(&self, resource: Resource, more: u32) -> Result<(), LimitReached> {
        let (used, max) = self.usage(resource);
        if used.saturating_add(more) > max { Err(LimitReached { resource, max }) } else { Ok(()) }
    }

    /// Returns how many of a resource there are, and how many there may be.
    #[must_use]
    pub fn usage(&self, resource: Resource) -> (u32, u32) {
        match resource {
            Resource::ActiveKeys => (self.active_keys, self.limits.active_keys),
            Resource::Webhooks => (self.webhooks, self.limits.webhooks),
            Resource::Mailboxes => (self.mailboxes, self.limits.mailboxes),
            Resource::Domains => (u32::try_from(self.domains.len()).unwrap_or(u32::MAX), self.limits.domains),
            Resource::SendingAccounts => (self.sending_accounts, self.limits.sending_accounts),
            Resource::ManagedDaily => (0, u32::MAX),
        }
    }

    /// Returns from how many of a resource on more of it can be asked for: 80 % of the limit, rounded up.
    #[must_use]
    pub fn increase_threshold(&self, resource: Resource) -> u32 {
        threshold_of(self.usage(resource).1)
    }

    /// Returns the domain with this id and its name.
    #[must_use]
    pub fn domain(&self, id: &DomainId) -> Option<(&str, &OwnedDomain)> {
        self.domains.iter().find(|(_, d)| d.id == *id).map(|(name, d)| (name.as_str(), d))
    }

    fn domain_mut(&mut self, id: &DomainId) -> Option<&mut OwnedDomain> {
        self.domains.values_mut().find(|d| d.id == *id)
    }
}

/// Returns four fifths of a limit, rounded up.
fn threshold_of(max: u32) -> u32 {
    u32::try_from((u64::from(max) * 4).div_ceil(5)).unwrap_or(u32::MAX)
}

impl Fold for Team {
    fn evolve(&mut self, event: &crate::Event) {
        use crate::Event as E;
        match event {
            E::Team(Event::Created(e)) => {
                self.id = Some(e.team.clone());
                self.name = e.personal.known().map(|p| p.name.clone());
                self.limits = e.limits;
            }
            E::Team(Event::LimitsChanged(e)) => self.limits = e.limits,
            E::Team(Event::LimitIncreaseRequested(e)) => {
                self.limit_requests.insert(e.resource, e.request.clone());
            }
            E::Team(Event::LimitIncreaseDecided(e)) => {
                self.limit_requests.remove(&e.resource);
                self.decided_request = Some(e.request.clone());
            }
            E::SendingDomain(event) => self.evolve_domain(event),
            E::ApiKey(api_key::Event::Created(_)) => self.active_keys += 1,
            E::ApiKey(api_key::Event::Revoked(_)) => self.active_keys = self.active_keys.saturating_sub(1),
            E::Mailbox(mailbox::Event::Opened(e)) => {
                self.mailboxes += 1;
                self.domain_mut(&e.domain).into_iter().for_each(|d| d.mailboxes += 1);
            }
            E::Mailbox(mailbox::Event::Closed(e)) => {
                self.mailboxes = self.mailboxes.saturating_sub(1);
                let domain = e.domain.as_ref().and_then(|id| self.domain_mut(id));
                domain.into_iter().for_each(|d| d.mailboxes = d.mailboxes.saturating_sub(1));
            }
            E::Provider(provider::Event::Created(_)) => self.sending_accounts += 1,
            E::Provider(provider::Event::Deleted(_)) => {
                self.sending_accounts = self.sending_accounts.saturating_sub(1);
            }
            E::Webhook(webhook_endpoint::Event::Created(_)) => self.webhooks += 1,
            E::Webhook(webhook_endpoint::Event::Deleted(_)) => self.webhooks = self.webhooks.saturating_sub(1),
            E::Team(Event::PersonalDataErased(_))
            | E::ApiKey(_)
            | E::Mailbox(_)
            | E::Webhook(_)
            | E::Message(_)
            | E::Provider(_)
            | E::Balance(_)
            | E::DeliveryGroup(_)
            | E::Routing(_)
            | E::Outbound(_)
            | E::Suppression(_)
            | E::Unknown(_) => {}
        }
    }

    fold_of!(Team, Team);
}

impl Team {
    fn evolve_domain(&mut self, event: &sending_domain::Event) {
        use sending_domain::Event as E;
        match event {
            E::Added(e) => {
                let domain = OwnedDomain { id: e.domain.clone(), mode: e.mode, verified: false, mailboxes: 0 };
                self.domains.insert(e.name.clone(), domain);
            }
            E::Removed(e) => {
                self.domains.remove(&e.name);
            }
            E::Verified(_) | E::Failed(_) | E::ModeChanged(_) => {
                let Some(domain) = self.domain_mut(event.domain()) else { return };
                match event {
                    E::ModeChanged(e) => (domain.mode, domain.verified) = (e.mode, false),
                    _ => domain.verified = matches!(event, E::Verified(_)),
                }
            }
            E::Checked(_) | E::KeyAdded(_) | E::KeyActivated(_) | E::KeyRetired(_) | E::RulesReplaced(_) => {}
        }
    }
}

/// Why a team command can be refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Rejected {
    /// The log already belongs to a team.
    #[error("the team exists already")]
    Exists,
    /// There is no such team.
    #[error("no such team")]
    Unknown,
    /// There is still enough room.
    #[error("more can be asked for from {threshold} on")]
    BelowThreshold {
        /// From how many on.
        threshold: u32,
    },
    /// Another request for the same resource waits.
    #[error("a request is pending already: {0}")]
    RequestPending(LimitRequestId),
    /// No such request waits.
    #[error("no such pending request")]
    NoSuchRequest,
}

/// Creates a tenant.
#[derive(Debug, Clone)]
pub struct CreateTeam {
    /// What people call it, 1 to 255 characters.
    pub name: String,
    /// What it may have.
    pub limits: Limits,
}

impl Command for CreateTeam {
    type State = Versioned<Team>;
    type Rejected = Rejected;

    fn streams(&self) -> Vec<StreamId> {
        vec![StreamId::Team]
    }

    fn decide(&self, team: &Self::State, at: &Moment) -> Result<Vec<crate::Event>, Rejected> {
        match &team.id {
            Some(_) if team.name.as_ref() == Some(&self.name) => Ok(vec![]),
            Some(_) => Err(Rejected::Exists),
            None => Ok(vec![crate::Event::Team(Event::Created(Halves::new(
                Created { team: at.team.clone(), limits: self.limits },
                TeamName { name: self.name.clone() },
            )))]),
        }
    }
}

/// Changes what a team may have.
#[derive(Debug, Clone)]
pub struct ChangeLimits {
    /// The limits from now on.
    pub limits: Limits,
}

impl Command for ChangeLimits {
    type State = Versioned<Team>;
    type Rejected = Rejected;

    fn streams(&self) -> Vec<StreamId> {
        vec![StreamId::Team]
    }

    fn decide(&self, team: &Self::State, _: &Moment) -> Result<Vec<crate::Event>, Rejected> {
        if team.id.is_none() {
            return Err(Rejected::Unknown);
        }
        if team.limits == self.limits {
            return Ok(vec![]);
        }
        Ok(vec![crate::Event::Team(Event::LimitsChanged(LimitsChanged { limits: self.limits }.into()))])
    }
}

/// Asks the operator for more of a resource.
#[derive(Debug, Clone)]
pub struct RequestLimitIncrease {
    /// The new request's id.
    pub request: LimitRequestId,
    /// What there should be more of.
    pub resource: Resource,
    /// How much was used and is allowed, where this fold does not count it. A request binds nobody: the measure may be
    /// a moment old.
    pub measured: Option<(u32, u32)>,
}

impl Command for RequestLimitIncrease {
    type State = Versioned<Team>;
    type Rejected = Rejected;

    fn streams(&self) -> Vec<StreamId> {
        vec![StreamId::Team]
    }

    fn decide(&self, team: &Self::State, _: &Moment) -> Result<Vec<crate::Event>, Rejected> {
        if team.id.is_none() {
            return Err(Rejected::Unknown);
        }
        if team.decided_request.as_ref() == Some(&self.request) {
            return Ok(vec![]);
        }
        match team.limit_requests.get(&self.resource) {
            Some(pending) if *pending == self.request => return Ok(vec![]),
            Some(pending) => return Err(Rejected::RequestPending(pending.clone())),
            None => {}
        }
        let (used, current) = self.measured.unwrap_or_else(|| team.usage(self.resource));
        let threshold = threshold_of(current);
        if used < threshold {
            return Err(Rejected::BelowThreshold { threshold });
        }
        let facts = LimitIncreaseRequested { request: self.request.clone(), resource: self.resource, current };
        Ok(vec![crate::Event::Team(Event::LimitIncreaseRequested(facts.into()))])
    }
}

/// Answers a request for a higher limit.
#[derive(Debug, Clone)]
pub struct DecideLimitIncrease {
    /// The request.
    pub request: LimitRequestId,
    /// How it ends.
    pub decision: Decision,
    /// The limits from now on, where it is approved.
    pub limits: Option<Limits>,
}

impl Command for DecideLimitIncrease {
    type State = Versioned<Team>;
    type Rejected = Rejected;

    fn streams(&self) -> Vec<StreamId> {
        vec![StreamId::Team]
    }

    fn decide(&self, team: &Self::State, _: &Moment) -> Result<Vec<crate::Event>, Rejected> {
        let pending = team.limit_requests.iter().find(|(_, request)| **request == self.request);
        let Some((resource, _)) = pending else {
            let told_again = team.decided_request.as_ref() == Some(&self.request);
            return if told_again { Ok(vec![]) } else { Err(Rejected::NoSuchRequest) };
        };
        let (request, resource, decision) = (self.request.clone(), *resource, self.decision);
        let decided = Event::LimitIncreaseDecided(LimitIncreaseDecided { request, resource, decision }.into());
        let limits = self.limits.filter(|l| decision == Decision::Approved && *l != team.limits);
        let changed = limits.map(|limits| Event::LimitsChanged(LimitsChanged { limits }.into()));
        Ok(std::iter::once(decided).chain(changed).map(crate::Event::Team).collect())
    }
}

/// Records that personal data was erased: after the fact, since what is gone cannot be refused any more.
#[derive(Debug, Clone)]
pub struct RecordErasure {
    /// What was erased.
    pub erased: PersonalDataErased,
}

impl Command for RecordErasure {
    type State = Versioned<Team>;
    type Rejected = Rejected;

    fn streams(&self) -> Vec<StreamId> {
        vec![StreamId::Team]
    }

    fn decide(&self, team: &Self::State, _: &Moment) -> Result<Vec<crate::Event>, Rejected> {
        // The team's own name may be what was erased; its id is among the facts.
        if team.id.is_none() {
            return Err(Rejected::Unknown);
        }
        if self.erased.events == 0 && self.erased.bodies == 0 {
            return Ok(vec![]);
        }
        Ok(vec![crate::Event::Team(Event::PersonalDataErased(self.erased.clone().into()))])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{given, team_id};

    #[test]
    fn a_team_is_created_once() {
        let create = CreateTeam { name: "Acme".into(), limits: Limits::default() };
        let events = given([]).when(create).then_events();
        assert_eq!(events[0].name(), "team.created");
        given(events)
            .when(CreateTeam { name: "Other".into(), limits: Limits::default() })
            .then_rejected(&Rejected::Exists);
    }

    #[test]
    fn more_of_a_resource_can_be_asked_for_from_four_fifths_on_and_once_at_a_time() {
        use crate::testing::{limit_request_id, provider_created, with_limits};
        let mut log = with_limits(Limits { sending_accounts: 4, ..Limits::default() });
        log.extend((1..=3).map(provider_created));
        let resource = Resource::SendingAccounts;
        let request = |n| RequestLimitIncrease { request: limit_request_id(n), resource, measured: None };
        given(log.clone()).when(request(1)).then_rejected(&Rejected::BelowThreshold { threshold: 4 });
        log.push(provider_created(4));
        log.extend(given(log.clone()).when(request(1)).then_events());
        given(log.clone()).when(request(2)).then_rejected(&Rejected::RequestPending(limit_request_id(1)));
        let limits = Some(Limits { sending_accounts: 8, ..Limits::default() });
        let decide = DecideLimitIncrease { request: limit_request_id(1), decision: Decision::Approved, limits };
        let events = given(log.clone()).when(decide).then_events();
        assert_eq!(
            events.iter().map(crate::Event::name).collect::<Vec<_>>(),
            ["team.limit_increase_decided", "team.limits_changed"]
        );
        log.extend(events);
        given(log).when(request(2)).then_rejected(&Rejected::BelowThreshold { threshold: 7 });
    }

    #[test]
    fn limits_of_a_team_that_does_not_exist_cannot_change() {
        let _ = team_id();
        given([]).when(ChangeLimits { limits: Limits::default() }).then_rejected(&Rejected::Unknown);
    }

    #[test]
    fn each_erasure_is_recorded_without_what_it_was_about() {
        let erased = PersonalDataErased { subject: ErasureSubject::Address, events: 3, bodies: 2 };
        let history = crate::testing::team_created();
        let events = given(history.clone()).when(RecordErasure { erased: erased.clone() }).then_events_each_time();
        assert_eq!(events[0].name(), "team.personal_data_erased");
        assert_eq!(events[0].encode().personal, None);
        given(history)
            .when(RecordErasure { erased: PersonalDataErased { events: 0, bodies: 0, ..erased } })
            .then_nothing();
    }
}
