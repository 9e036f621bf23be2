//! A delivery group: sending accounts that are chosen together, each with its weight.
//!
//! Invariants:
//! - A deleted group never comes back.
//! - At most one group of a team is its default.
//! - A group has at most [`MEMBERS_MAX`] members, a team at most [`GROUPS_MAX`] groups.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::entity::{Fold, Versioned, fold_of};
use crate::event::stored_events;
use crate::id::{GroupId, ProviderId};
use crate::personal::Halves;
use crate::routing::Routing;
use crate::team::Team;
use crate::{Command, Moment, StreamId};

/// The most accounts one group may have.
pub const MEMBERS_MAX: usize = 200;
/// The most groups one team may have.
pub const GROUPS_MAX: usize = 100;

/// Accounts and their weights, 0 to 100.
pub type Members = BTreeMap<ProviderId, u8>;

/// Facts of `delivery_group.created` and `delivery_group.members_changed`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Composed {
    /// The group.
    pub group: GroupId,
    /// Its members and their weights.
    pub members: Members,
}

/// Personal half of `delivery_group.created` and `delivery_group.renamed`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Name {
    /// What its owner calls it.
    pub name: String,
}

/// Facts of events that only name their group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subject {
    /// The group.
    pub group: GroupId,
}

stored_events! {
    /// What can happen to a delivery group.
    enum Event;
    /// Accounts were put together.
    Created(Composed, Name) = "delivery_group.created" v 1;
    /// It is called otherwise.
    Renamed(Subject, Name) = "delivery_group.renamed" v 1;
    /// It has other members or weights.
    MembersChanged(Composed) = "delivery_group.members_changed" v 1;
    /// Mail without a group of its own goes through it.
    MadeDefault(Subject) = "delivery_group.made_default" v 1;
    /// It is the default no more.
    DefaultCleared(Subject) = "delivery_group.default_cleared" v 1;
    /// It is gone for good.
    Deleted(Subject) = "delivery_group.deleted" v 1;
}

impl Event {
    /// Returns the group it is about.
    #[must_use]
    pub fn group(&self) -> &GroupId {
        match self {
            Self::Created(e) => &e.group,
            Self::MembersChanged(e) => &e.group,
            Self::Renamed(e) => &e.group,
            Self::MadeDefault(e) | Self::DefaultCleared(e) | Self::Deleted(e) => &e.group,
        }
    }

    pub(crate) fn links(&self) -> Vec<StreamId> {
        match self {
            Self::Renamed(_) => vec![],
            Self::Created(_)
            | Self::MembersChanged(_)
            | Self::MadeDefault(_)
            | Self::DefaultCleared(_)
            | Self::Deleted(_) => vec![StreamId::Routing],
        }
    }
}

/// The fold of a group's stream.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct DeliveryGroup {
    /// Its members; `None` before creation. Accounts deleted since are still listed: routing leaves them out.
    pub members: Option<Members>,
    /// What its owner calls it; `None` after erasure.
    pub name: Option<String>,
    /// Whether mail without a group of its own goes through it.
    pub is_default: bool,
    /// Whether it is gone for good.
    pub deleted: bool,
}

impl Fold for DeliveryGroup {
    fn evolve(&mut self, event: &crate::Event) {
        let crate::Event::DeliveryGroup(event) = event else { return };
        match event {
            Event::Created(e) => {
                self.members = Some(e.members.clone());
                self.name = e.personal.known().map(|p| p.name.clone());
            }
            Event::Renamed(e) => self.name = e.personal.known().map(|p| p.name.clone()),
            Event::MembersChanged(e) => self.members = Some(e.members.clone()),
            Event::MadeDefault(_) => self.is_default = true,
            Event::DefaultCleared(_) => self.is_default = false,
            Event::Deleted(_) => (self.deleted, self.is_default) = (true, false),
        }
    }

    fold_of!(DeliveryGroup, Group);
}

/// Why a group command can be refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Rejected {
    /// There is no such team.
    #[error("no such team")]
    UnknownTeam,
    /// There is no such group.
    #[error("no such delivery group")]
    Unknown,
    /// The group id was used before.
    #[error("the delivery group exists already")]
    Exists,
    /// A member is not a sending account of this team.
    #[error("{0} is not a sending account of this team")]
    UnknownMember(ProviderId),
    /// More members than a group may have.
    #[error("a delivery group has at most {MEMBERS_MAX} members")]
    TooManyMembers,
    /// More groups than a team may have.
    #[error("a team has at most {GROUPS_MAX} delivery groups")]
    TooManyGroups,
    /// The group changed since the caller read it.
    #[error("the delivery group has changed since it was read")]
    VersionMismatch {
        /// The current version.
        current: u64,
    },
}

/// Creates a group.
#[derive(Debug, Clone)]
pub struct CreateGroup {
    /// The new group's id.
    pub group: GroupId,
    /// What its owner calls it.
    pub name: String,
    /// Its members and their weights.
    pub members: Members,
    /// Whether it becomes the team's default.
    pub is_default: bool,
}

impl Command for CreateGroup {
    type State = (Versioned<Team>, Versioned<Routing>, Versioned<DeliveryGroup>);
    type Rejected = Rejected;

    fn streams(&self) -> Vec<StreamId> {
        vec![StreamId::Team, StreamId::Routing, StreamId::Group(self.group.clone())]
    }

    fn decide(&self, (team, routing, group): &Self::State, _: &Moment) -> Result<Vec<crate::Event>, Rejected> {
        if let Some(members) = &group.members {
            let same = !group.deleted && *members == self.members && group.name.as_ref() == Some(&self.name);
            return if same { Ok(vec![]) } else { Err(Rejected::Exists) };
        }
        if team.id.is_none() {
            return Err(Rejected::UnknownTeam);
        }
        if routing.groups.len() >= GROUPS_MAX {
            return Err(Rejected::TooManyGroups);
        }
        known_members(&self.members, routing)?;
        let facts = Composed { group: self.group.clone(), members: self.members.clone() };
        let mut events = vec![Event::Created(Halves::new(facts, Name { name: self.name.clone() }))];
        if self.is_default {
            events.extend(made_default(&self.group, routing));
        }
        Ok(events.into_iter().map(crate::Event::DeliveryGroup).collect())
    }
}

/// Changes a group; what is `None` stays.
#[derive(Debug, Clone)]
pub struct ChangeGroup {
    /// The group.
    pub group: GroupId,
    /// What its owner calls it from now on.
    pub name: Option<String>,
    /// Its members from now on, as a whole.
    pub members: Option<Members>,
    /// Whether it is the team's default from now on.
    pub is_default: Option<bool>,
    /// The version the caller has read.
    pub if_version: Option<u64>,
}

impl Command for ChangeGroup {
    type State = (Versioned<Routing>, Versioned<DeliveryGroup>);
    type Rejected = Rejected;

    fn streams(&self) -> Vec<StreamId> {
        vec![StreamId::Routing, StreamId::Group(self.group.clone())]
    }

    fn decide(&self, (routing, group): &Self::State, _: &Moment) -> Result<Vec<crate::Event>, Rejected> {
        let members = group.members.as_ref().filter(|_| !group.deleted).ok_or(Rejected::Unknown)?;
        match self.if_version {
            Some(version) if version != group.version => {
                return Err(Rejected::VersionMismatch { current: group.version });
            }
            _ => {}
        }
        let mut events = vec![];
        if let Some(name) = self.name.clone().filter(|n| group.name.as_ref() != Some(n)) {
            let subject = Subject { group: self.group.clone() };
            events.push(Event::Renamed(Halves::new(subject, Name { name })));
        }
        if let Some(wanted) = self.members.clone().filter(|m| m != members) {
            known_members(&wanted, routing)?;
            events.push(Event::MembersChanged(Composed { group: self.group.clone(), members: wanted }.into()));
        }
        match self.is_default {
            Some(true) if !group.is_default => events.extend(made_default(&self.group, routing)),
            Some(false) if group.is_default => {
                events.push(Event::DefaultCleared(Subject { group: self.group.clone() }.into()));
            }
            _ => {}
        }
        Ok(events.into_iter().map(crate::Event::DeliveryGroup).collect())
    }
}

/// Deletes a group for good. Its accounts stay.
#[derive(Debug, Clone)]
pub struct DeleteGroup {
    /// The group.
    pub group: GroupId,
}

impl Command for DeleteGroup {
    type State = Versioned<DeliveryGroup>;
    type Rejected = Rejected;

    fn streams(&self) -> Vec<StreamId> {
        vec![StreamId::Group(self.group.clone())]
    }

    fn decide(&self, group: &Self::State, _: &Moment) -> Result<Vec<crate::Event>, Rejected> {
        if group.members.is_none() {
            return Err(Rejected::Unknown);
        }
        if group.deleted {
            return Ok(vec![]);
        }
        Ok(vec![crate::Event::DeliveryGroup(Event::Deleted(Subject { group: self.group.clone() }.into()))])
    }
}

/// Makes a group the default; the one before is it no more.
fn made_default(group: &GroupId, routing: &Routing) -> Vec<Event> {
    let before = routing.default_group.clone().filter(|g| g != group);
    let cleared = before.map(|group| Event::DefaultCleared(Subject { group }.into()));
    cleared.into_iter().chain([Event::MadeDefault(Subject { group: group.clone() }.into())]).collect()
}

fn known_members(members: &Members, routing: &Routing) -> Result<(), Rejected> {
    if members.len() > MEMBERS_MAX {
        return Err(Rejected::TooManyMembers);
    }
    match members.keys().find(|member| !routing.accounts.contains_key(member)) {
        Some(stranger) => Err(Rejected::UnknownMember(stranger.clone())),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{fold, given, group_id, provider_created, provider_id, team_created};

    fn create(n: u8, is_default: bool) -> CreateGroup {
        let members = Members::from([(provider_id(1), 100)]);
        CreateGroup { group: group_id(n), name: format!("g{n}"), members, is_default }
    }

    fn with_account() -> Vec<crate::Event> {
        team_created().into_iter().chain([provider_created(1)]).collect()
    }

    #[test]
    fn a_member_must_be_an_account_of_the_team() {
        given(team_created()).when(create(1, false)).then_rejected(&Rejected::UnknownMember(provider_id(1)));
    }

    #[test]
    fn one_group_is_the_default() {
        let mut log = with_account();
        log.extend(given(log.clone()).when(create(1, true)).then_events());
        log.extend(given(log.clone()).when(create(2, true)).then_events());
        let routing: Versioned<Routing> = fold(&[StreamId::Routing], &log);
        assert_eq!(routing.default_group, Some(group_id(2)));
        let first: Versioned<DeliveryGroup> = fold(&[StreamId::Group(group_id(1))], &log);
        assert!(!first.is_default);
        log.extend(given(log.clone()).when(DeleteGroup { group: group_id(2) }).then_events());
        let routing: Versioned<Routing> = fold(&[StreamId::Routing], &log);
        assert_eq!(routing.default_group, None);
    }

    #[test]
    fn a_deleted_group_cannot_be_changed() {
        let mut log = with_account();
        log.extend(given(log.clone()).when(create(1, false)).then_events());
        log.extend(given(log.clone()).when(DeleteGroup { group: group_id(1) }).then_events());
        let change = ChangeGroup {
            group: group_id(1),
            name: Some("x".into()),
            members: None,
            is_default: None,
            if_version: None,
        };
        given(log).when(change).then_rejected(&Rejected::Unknown);
    }
}
