//! Routing: which sending account a mail leaves through.
//!
//! The fold holds what is needed of all accounts and groups of a team, bounded by their limits. Choosing is a pure
//! function of the fold, the mail's scopes, the used quotas and a seed.
//!
//! Invariants:
//! - An account outside the scope of the key, the mailbox or the groups named in the mail is never chosen.
//! - An account that a mail has left behind is never chosen for it again.
//! - An account without room in its quotas is not chosen.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::delivery_group::{self, Members};
use crate::entity::{Fold, Versioned, fold_of};
use crate::event::stored_events;
use crate::id::{DomainId, GroupId, KeyId, ProviderId};
use crate::mailbox::SendScope;
use crate::provider::quota::Usage;
use crate::provider::{self, Quotas, Transport};
use crate::{Command, Moment, StreamId};

/// What sending can be stopped for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(tag = "of", content = "id", rename_all = "snake_case")]
pub enum Part {
    /// All mail of the team.
    Team,
    /// Mail from a domain.
    Domain(DomainId),
    /// Mail handed in with a key.
    Key(KeyId),
    /// Mail to recipients of one domain.
    Site(String),
}

/// The most parts that can be stopped at once.
pub const PAUSES_MAX: usize = 1_000;

/// Facts of `routing.paused` and `routing.resumed`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Switched {
    /// What is stopped or goes on.
    pub part: Part,
}

stored_events! {
    /// What can happen to a team's sending as a whole.
    enum Event;
    /// Mail of a part waits from now on.
    Paused(Switched) = "routing.paused" v 1;
    /// Mail of a part goes on.
    Resumed(Switched) = "routing.resumed" v 1;
}

/// What routing must know of an account.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Account {
    /// Which way mail leaves.
    pub transport: Transport,
    /// Whether the operator runs it for the team.
    pub managed: bool,
    /// See [`provider::Settings::percentage`].
    pub percentage: Option<u8>,
    /// How many recipients it may be given.
    pub quotas: Quotas,
    /// Whether it may be chosen.
    pub active: bool,
    /// Whether it cannot be used until it is mended.
    pub broken: bool,
    /// The address it sends as, lower case.
    pub from_email: Option<String>,
}

impl Account {
    fn new(settings: &provider::Settings, managed: bool, identity: Option<&provider::Identity>) -> Self {
        Self {
            transport: settings.transport.clone(),
            managed,
            percentage: settings.percentage,
            quotas: settings.quotas,
            active: true,
            broken: false,
            from_email: identity.and_then(|i| i.from_email.as_deref()).map(str::to_lowercase),
        }
    }
}

/// The fold of all that routing depends on.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Routing {
    /// The team's accounts that are not deleted.
    pub accounts: BTreeMap<ProviderId, Account>,
    /// The team's groups that are not deleted.
    pub groups: BTreeMap<GroupId, Members>,
    /// The group that mail without one goes through.
    pub default_group: Option<GroupId>,
    /// What is stopped.
    pub paused: BTreeSet<Part>,
}

impl Fold for Routing {
    fn evolve(&mut self, event: &crate::Event) {
        match event {
            crate::Event::Provider(event) => self.evolve_account(event),
            crate::Event::DeliveryGroup(event) => self.evolve_group(event),
            crate::Event::Routing(Event::Paused(e)) => {
                self.paused.insert(e.part.clone());
            }
            crate::Event::Routing(Event::Resumed(e)) => {
                self.paused.remove(&e.part);
            }
            _ => {}
        }
    }

    fold_of!(Routing, Routing);
}

impl Routing {
    fn evolve_account(&mut self, event: &provider::Event) {
        use provider::Event as E;
        if let E::Created(e) = event {
            let account = Account::new(&e.settings, e.managed, e.personal.known());
            self.accounts.insert(e.provider.clone(), account);
            return;
        }
        if let E::Deleted(e) = event {
            self.accounts.remove(&e.provider);
            self.groups.values_mut().for_each(|members| {
                members.remove(&e.provider);
            });
            return;
        }
        let Some(account) = self.accounts.get_mut(event.provider()) else { return };
        match event {
            E::Reconfigured(e) => {
                let changed = Account::new(&e.settings, account.managed, e.personal.known());
                *account = Account { active: account.active, broken: account.broken, ..changed };
            }
            E::Broken(_) => account.broken = true,
            E::Mended(_) => account.broken = false,
            E::Activated(_) => account.active = true,
            E::Deactivated(_) => account.active = false,
            E::Created(_)
            | E::Deleted(_)
            | E::CredentialsReplaced(_)
            | E::Tested(_)
            | E::TopicBound(_)
            | E::TopicReleased(_) => {}
        }
    }

    fn evolve_group(&mut self, event: &delivery_group::Event) {
        use delivery_group::Event as E;
        match event {
            E::Created(e) => {
                self.groups.insert(e.group.clone(), e.members.clone());
            }
            E::MembersChanged(e) => {
                self.groups.insert(e.group.clone(), e.members.clone());
            }
            E::MadeDefault(e) => self.default_group = Some(e.group.clone()),
            E::DefaultCleared(e) if self.default_group.as_ref() == Some(&e.group) => self.default_group = None,
            E::Deleted(e) => {
                self.groups.remove(&e.group);
                self.default_group.take_if(|g| *g == e.group);
            }
            E::DefaultCleared(_) | E::Renamed(_) => {}
        }
    }

    /// Returns the accounts that may carry a mail, usable now or not, each with its weight.
    #[must_use]
    pub fn in_scope(&self, asks: &Asks<'_>) -> Vec<Candidate> {
        let narrowed = (!asks.groups.is_empty())
            .then(|| SendScope::Group { group_public_ids: asks.groups.iter().map(ToString::to_string).collect() });
        let unscoped = narrowed.is_none() && asks.scopes.iter().all(|scope| **scope == SendScope::All);
        let default = self
            .default_group
            .as_ref()
            .filter(|_| unscoped)
            .map(|group| SendScope::Group { group_public_ids: vec![group.to_string()] });
        let scopes: Vec<&SendScope> = asks.scopes.iter().copied().chain(&narrowed).chain(&default).collect();
        let accounts = self.accounts.iter().filter(|(_, account)| asks.sender.may_use(account));
        accounts
            .filter_map(|(id, account)| {
                let mut weight = u32::from(account.percentage.unwrap_or(100));
                for scope in &scopes {
                    // The narrowest word on the weight wins: groups come after the account's own.
                    weight = self.weight_in(scope, id)?.unwrap_or(weight);
                }
                Some(Candidate { account: id.clone(), weight, managed: account.managed })
            })
            .collect()
    }

    /// Returns the accounts of [`Routing::in_scope`] that can be used and were not left behind.
    #[must_use]
    pub fn eligible(&self, asks: &Asks<'_>, left: &BTreeSet<ProviderId>) -> Vec<Candidate> {
        let usable = |id: &ProviderId| self.accounts.get(id).is_some_and(|a| a.active && !a.broken);
        self.in_scope(asks).into_iter().filter(|c| usable(&c.account) && !left.contains(&c.account)).collect()
    }

    /// Returns whether a scope holds an account, and the weight it gives it, if any.
    fn weight_in(&self, scope: &SendScope, account: &ProviderId) -> Option<Option<u32>> {
        match scope {
            SendScope::All => Some(None),
            SendScope::Providers { provider_public_ids } => {
                provider_public_ids.iter().any(|id| id == account.as_str()).then_some(None)
            }
            SendScope::Group { group_public_ids } => {
                let groups = self.groups.iter().filter(|(id, _)| group_public_ids.iter().any(|g| g == id.as_str()));
                let weights: Vec<u32> = groups.filter_map(|(_, m)| m.get(account)).map(|w| u32::from(*w)).collect();
                (!weights.is_empty()).then(|| Some(weights.iter().sum()))
            }
        }
    }

    /// Chooses an account for so many recipients, by weight, among the eligible ones that have room.
    ///
    /// The same arguments always give the same account. A mail that has an account keeps it as long as it is eligible.
    #[must_use]
    pub fn choose(&self, asks: &Asks<'_>, attempt: &Attempted<'_>, quotas: &Quota<'_>) -> Choice {
        let eligible = self.eligible(asks, attempt.left);
        let sticky = eligible.iter().find(|c| Some(&c.account) == attempt.current).cloned();
        let pool = sticky.map_or(eligible, |candidate| vec![candidate]);
        if pool.is_empty() {
            return Choice::None;
        }
        let room = |candidate: &Candidate| match self.accounts.get(&candidate.account) {
            Some(account) => {
                let usage = quotas.usage.get(&candidate.account).copied().unwrap_or_default();
                account.quotas.room(&candidate.account, &usage, quotas.now, quotas.recipients).map_err(|f| f.until)
            }
            None => Ok(()),
        };
        let (with_room, full): (Vec<_>, Vec<_>) =
            pool.into_iter().map(|c| (room(&c), c)).partition(|(room, _)| room.is_ok());
        let candidates: Vec<_> = with_room.into_iter().map(|(_, c)| c).collect();
        if let Some(chosen) = weighted(&candidates, attempt.seed) {
            return Choice::Account(chosen.clone());
        }
        let until = full.into_iter().filter_map(|(room, _)| room.err()).min();
        until.map_or(Choice::None, |until| Choice::QuotaReached { until })
    }
}

/// As whom a mail is sent.
#[derive(Debug, Clone, Copy)]
pub struct Sender<'a> {
    /// The address in `From`, canonical.
    pub email: &'a str,
    /// Whether its domain is a verified domain of the team.
    pub verified: bool,
}

impl Sender<'_> {
    /// Verified domains may use any account; any other address only the team's own account that is set up for it.
    fn may_use(&self, account: &Account) -> bool {
        let own = matches!(account.transport, Transport::CustomSmtp { .. }) && !account.managed;
        self.verified || (own && account.from_email.as_deref() == Some(self.email))
    }
}

/// What a mail asks of routing.
#[derive(Debug, Clone, Copy)]
pub struct Asks<'a> {
    /// The scopes of the key and of the mailbox; an account must be in all of them.
    pub scopes: &'a [&'a SendScope],
    /// The groups that the mail itself names.
    pub groups: &'a [GroupId],
    /// As whom it is sent.
    pub sender: Sender<'a>,
}

/// What a mail has tried before.
#[derive(Debug, Clone, Copy)]
pub struct Attempted<'a> {
    /// The account it was last given to.
    pub current: Option<&'a ProviderId>,
    /// The accounts it has left behind.
    pub left: &'a BTreeSet<ProviderId>,
    /// What decides among equals, see [`seed`].
    pub seed: u64,
}

/// What quotas have been used.
#[derive(Debug, Clone, Copy)]
pub struct Quota<'a> {
    /// What each account was given.
    pub usage: &'a BTreeMap<ProviderId, Usage>,
    /// Now, microseconds since the Unix epoch.
    pub now: i64,
    /// How many recipients the mail has.
    pub recipients: u32,
}

/// An account that may carry a mail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// The account.
    pub account: ProviderId,
    /// Its weight.
    pub weight: u32,
    /// Whether it costs the managed price.
    pub managed: bool,
}

/// What routing says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Choice {
    /// This account.
    Account(Candidate),
    /// All eligible accounts have used up their quotas.
    QuotaReached {
        /// When the first of them has room again, microseconds since the Unix epoch.
        until: i64,
    },
    /// No account is eligible.
    None,
}

/// Picks by weight; candidates without weight only where none has any.
fn weighted(candidates: &[Candidate], seed: u64) -> Option<&Candidate> {
    let total: u64 = candidates.iter().map(|c| u64::from(c.weight)).sum();
    let below = |bound: u64| u64::try_from((u128::from(mixed(seed)) * u128::from(bound)) >> 64).unwrap_or(0);
    if total == 0 {
        let index = below(u64::try_from(candidates.len()).unwrap_or(0));
        return candidates.get(usize::try_from(index).unwrap_or(0));
    }
    let mut rest = below(total);
    candidates.iter().find(|candidate| {
        let weight = u64::from(candidate.weight);
        let hit = rest < weight;
        rest = rest.saturating_sub(weight);
        hit
    })
}

/// Spreads the bits of a seed over the whole number (splitmix64).
pub(crate) fn mixed(seed: u64) -> u64 {
    let mut z = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Returns the seed of a mail's attempt: the same on every node.
#[must_use]
pub fn seed(outbound: &crate::id::OutboundId, attempt: u32) -> u64 {
    outbound.as_str().bytes().fold(u64::from(attempt), |seed, byte| mixed(seed ^ u64::from(byte)))
}

/// Why a routing command can be refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Rejected {
    /// Too many parts are stopped already.
    #[error("at most {PAUSES_MAX} parts can be paused at once")]
    TooMany,
}

/// Stops a part of a team's sending, or lets it go on. What waits keeps its age.
#[derive(Debug, Clone)]
pub struct SwitchSending {
    /// The part.
    pub part: Part,
    /// Whether it waits from now on.
    pub paused: bool,
}

impl Command for SwitchSending {
    type State = Versioned<Routing>;
    type Rejected = Rejected;

    fn streams(&self) -> Vec<StreamId> {
        vec![StreamId::Routing]
    }

    fn decide(&self, routing: &Self::State, _: &Moment) -> Result<Vec<crate::Event>, Rejected> {
        if routing.paused.contains(&self.part) == self.paused {
            return Ok(vec![]);
        }
        let switched = Switched { part: self.part.clone() };
        if self.paused {
            if routing.paused.len() >= PAUSES_MAX {
                return Err(Rejected::TooMany);
            }
            return Ok(vec![crate::Event::Routing(Event::Paused(switched.into()))]);
        }
        Ok(vec![crate::Event::Routing(Event::Resumed(switched.into()))])
    }
}

#[cfg(test)]
mod tests;
