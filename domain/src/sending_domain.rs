//! A sending domain: a mail domain that a team controls and uses.
//!
//! Invariants:
//! - A domain belongs to at most one team (the directory holds the name for as long as it is owned).
//! - Mailboxes open only on a verified domain that receives.

use serde::{Deserialize, Serialize};

use crate::entity::Versioned;
use crate::event::stored_events;
use crate::id::DomainId;
use crate::team::{LimitReached, Resource, Team};
use crate::{Command, Moment, StreamId};

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
}

/// Facts of `sending_domain.verified`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verified {
    /// The domain.
    pub domain: DomainId,
    /// How control was shown.
    pub proof: Proof,
}

stored_events! {
    /// What can happen to a sending domain.
    enum Event;
    /// A team claimed a domain.
    Added(Added) = "sending_domain.added" v 1;
    /// The team controls it.
    Verified(Verified) = "sending_domain.verified" v 1;
}

/// Why a domain command can be refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Rejected {
    /// There is no such team.
    #[error("no such team")]
    UnknownTeam,
    /// The team has as many domains as it may.
    #[error(transparent)]
    Limit(#[from] LimitReached),
}

/// Gives a team a domain the operator vouches for.
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
    type State = Versioned<Team>;
    type Rejected = Rejected;

    fn streams(&self) -> Vec<StreamId> {
        vec![StreamId::Team]
    }

    fn decide(&self, team: &Self::State, _: &Moment) -> Result<Vec<crate::Event>, Rejected> {
        if team.id.is_none() {
            return Err(Rejected::UnknownTeam);
        }
        if team.domains.contains_key(&self.name) {
            return Ok(vec![]);
        }
        team.room_for(Resource::Domains, 1)?;
        let added = Added { domain: self.domain.clone(), name: self.name.clone(), mode: self.mode };
        let verified = Verified { domain: self.domain.clone(), proof: Proof::Operator };
        Ok(vec![
            crate::Event::SendingDomain(Event::Added(added.into())),
            crate::Event::SendingDomain(Event::Verified(verified.into())),
        ])
    }
}
