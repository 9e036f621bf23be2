//! API keys and mailbox credentials.
//!
//! Invariants:
//! - A revoked key never comes back.
//! - A team never holds more active keys than its limit.
//! - The log holds a keyed digest of a key, never the key.

use serde::{Deserialize, Serialize};

use crate::entity::{Fold, Versioned, fold_of};
use crate::event::stored_events;
use crate::id::{KeyId, MailboxId};
use crate::mailbox::{Mailbox, SendScope, Status as MailboxStatus};
use crate::permission::Permissions;
use crate::personal::Halves;
use crate::team::{LimitReached, Resource, Team};
use crate::{Command, Moment, StreamId};

/// Which surface a key is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Management of a whole team.
    Infrastructure,
    /// Sending for a whole team.
    Sending,
    /// One mailbox.
    Mailbox,
}

impl Kind {
    /// Returns the label that begins a minted secret of this kind.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Infrastructure => "smx_inf_",
            Self::Sending => "smx_snd_",
            Self::Mailbox => "smx_mbx_",
        }
    }

    /// Returns the second label under which the same secret is accepted, as client libraries spell it.
    #[must_use]
    pub fn other_label(self) -> &'static str {
        match self {
            Self::Infrastructure => "smx_root_",
            Self::Sending | Self::Mailbox => "smx_mbx_",
        }
    }

    /// Returns the name as stored and shown.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Infrastructure => "infrastructure",
            Self::Sending => "sending",
            Self::Mailbox => "mailbox",
        }
    }
}

/// Facts of `api_key.created`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Created {
    /// The key's id.
    pub key: KeyId,
    /// Which surface it is for.
    pub kind: Kind,
    /// Lower-case hex of the keyed digest (HMAC-SHA-256) of the secret's random part.
    pub lookup: String,
    /// The label and first characters, shown in listings.
    pub prefix: String,
    /// The last characters, shown in listings.
    pub suffix: String,
    /// What it may do.
    pub permissions: Permissions,
    /// The mailbox it is confined to.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub mailbox: Option<MailboxId>,
    /// The key it was rotated from.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub replaces: Option<KeyId>,
}

/// Personal half of `api_key.created`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyName {
    /// What its owner calls it.
    pub name: String,
}

/// Why a key ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RevokeReason {
    /// Somebody asked for it.
    Requested,
    /// It was rotated with immediate effect.
    Rotated,
    /// Its mailbox was closed.
    MailboxClosed,
}

/// Facts of `api_key.revoked`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Revoked {
    /// The key's id.
    pub key: KeyId,
    /// Its lookup digest, so that the directory entry can be dropped.
    pub lookup: String,
    /// The mailbox it was confined to.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub mailbox: Option<MailboxId>,
    /// Why.
    pub reason: RevokeReason,
}

/// Facts of `api_key.send_scope_changed`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SendScopeChanged {
    /// The key's id.
    pub key: KeyId,
    /// The accounts it may send through from now on.
    pub send_scope: SendScope,
}

stored_events! {
    /// What can happen to a key.
    enum Event;
    /// A secret was minted and shown once.
    Created(Created, KeyName) = "api_key.created" v 1;
    /// It may send through other accounts than before, or than all.
    SendScopeChanged(SendScopeChanged) = "api_key.send_scope_changed" v 1;
    /// It works no more.
    Revoked(Revoked) = "api_key.revoked" v 1;
}

impl Event {
    /// Returns the key it is about.
    #[must_use]
    pub fn key(&self) -> &KeyId {
        match self {
            Self::Created(e) => &e.key,
            Self::SendScopeChanged(e) => &e.key,
            Self::Revoked(e) => &e.key,
        }
    }

    pub(crate) fn links(&self) -> Vec<StreamId> {
        let mailbox = match self {
            Self::Created(e) => &e.mailbox,
            Self::Revoked(e) => &e.mailbox,
            Self::SendScopeChanged(_) => return vec![],
        };
        std::iter::once(StreamId::Team).chain(mailbox.clone().map(StreamId::Mailbox)).collect()
    }
}

/// The fold of a key's stream.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ApiKey {
    /// How it was created; `None` before.
    pub created: Option<Created>,
    /// What its owner calls it.
    pub name: Option<String>,
    /// Which accounts it may send through.
    pub send_scope: SendScope,
    /// Whether it works no more.
    pub revoked: bool,
}

impl Fold for ApiKey {
    fn evolve(&mut self, event: &crate::Event) {
        match event {
            crate::Event::ApiKey(Event::Created(e)) => {
                self.created = Some(e.facts.clone());
                self.name = e.personal.known().map(|p| p.name.clone());
            }
            crate::Event::ApiKey(Event::SendScopeChanged(e)) => self.send_scope = e.send_scope.clone(),
            crate::Event::ApiKey(Event::Revoked(_)) => self.revoked = true,
            _ => {}
        }
    }

    fold_of!(ApiKey, ApiKey);
}

/// Why a key command can be refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Rejected {
    /// There is no such team.
    #[error("no such team")]
    UnknownTeam,
    /// There is no such key.
    #[error("no such key")]
    Unknown,
    /// There is no such mailbox.
    #[error("no such mailbox")]
    UnknownMailbox,
    /// The mailbox is suspended or closed.
    #[error("the mailbox is not active")]
    MailboxNotActive,
    /// The key is revoked already.
    #[error("the key is revoked")]
    Revoked,
    /// A key id was used for another key before.
    #[error("the key exists already")]
    Exists,
    /// The team has as many active keys as it may.
    #[error(transparent)]
    Limit(#[from] LimitReached),
}

/// A minted secret as the domain may know it: everything but the secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Minted {
    /// The key's id.
    pub key: KeyId,
    /// See [`Created::lookup`].
    pub lookup: String,
    /// See [`Created::prefix`].
    pub prefix: String,
    /// See [`Created::suffix`].
    pub suffix: String,
}

impl Minted {
    /// Returns the event that records this secret.
    #[must_use]
    pub fn created(
        &self,
        kind: Kind,
        name: &str,
        permissions: Permissions,
        mailbox: Option<MailboxId>,
        replaces: Option<KeyId>,
    ) -> crate::Event {
        let facts = Created {
            key: self.key.clone(),
            kind,
            lookup: self.lookup.clone(),
            prefix: self.prefix.clone(),
            suffix: self.suffix.clone(),
            permissions,
            mailbox,
            replaces,
        };
        crate::Event::ApiKey(Event::Created(Halves::new(facts, KeyName { name: name.to_owned() })))
    }
}

/// Creates a key for a whole team: infrastructure or sending.
#[derive(Debug, Clone)]
pub struct CreateTeamKey {
    /// The secret's public side.
    pub minted: Minted,
    /// Infrastructure or sending.
    pub kind: Kind,
    /// What its owner calls it.
    pub name: String,
    /// What it may do.
    pub permissions: Permissions,
}

impl Command for CreateTeamKey {
    type State = (Versioned<Team>, Versioned<ApiKey>);
    type Rejected = Rejected;

    fn streams(&self) -> Vec<StreamId> {
        vec![StreamId::Team, StreamId::ApiKey(self.minted.key.clone())]
    }

    fn decide(&self, (team, key): &Self::State, _: &Moment) -> Result<Vec<crate::Event>, Rejected> {
        if let Some(created) = &key.created {
            return if created.lookup == self.minted.lookup { Ok(vec![]) } else { Err(Rejected::Exists) };
        }
        if team.id.is_none() {
            return Err(Rejected::UnknownTeam);
        }
        team.room_for(Resource::ActiveKeys, 1)?;
        Ok(vec![self.minted.created(self.kind, &self.name, self.permissions.clone(), None, None)])
    }
}

/// Creates a sending key that may send through chosen accounts only.
#[derive(Debug, Clone)]
pub struct CreateSendingKey {
    /// The secret's public side.
    pub minted: Minted,
    /// What its owner calls it.
    pub name: String,
    /// What it may do.
    pub permissions: Permissions,
    /// Which accounts it may send through.
    pub send_scope: SendScope,
}

impl Command for CreateSendingKey {
    type State = (Versioned<Team>, Versioned<ApiKey>);
    type Rejected = Rejected;

    fn streams(&self) -> Vec<StreamId> {
        vec![StreamId::Team, StreamId::ApiKey(self.minted.key.clone())]
    }

    fn decide(&self, state: &Self::State, at: &Moment) -> Result<Vec<crate::Event>, Rejected> {
        let create = CreateTeamKey {
            minted: self.minted.clone(),
            kind: Kind::Sending,
            name: self.name.clone(),
            permissions: self.permissions.clone(),
        };
        let mut events = create.decide(state, at)?;
        if !events.is_empty() {
            events.extend(scoped(&self.minted.key, &self.send_scope));
        }
        Ok(events)
    }
}

/// Returns the event that confines a new key to a scope; all accounts need none.
fn scoped(key: &KeyId, scope: &SendScope) -> Option<crate::Event> {
    let facts = SendScopeChanged { key: key.clone(), send_scope: scope.clone() };
    (*scope != SendScope::All).then(|| crate::Event::ApiKey(Event::SendScopeChanged(facts.into())))
}

/// Changes which accounts a key may send through.
#[derive(Debug, Clone)]
pub struct ChangeSendScope {
    /// The key.
    pub key: KeyId,
    /// The accounts from now on.
    pub send_scope: SendScope,
}

impl Command for ChangeSendScope {
    type State = Versioned<ApiKey>;
    type Rejected = Rejected;

    fn streams(&self) -> Vec<StreamId> {
        vec![StreamId::ApiKey(self.key.clone())]
    }

    fn decide(&self, key: &Self::State, _: &Moment) -> Result<Vec<crate::Event>, Rejected> {
        key.created.as_ref().filter(|c| c.kind == Kind::Sending).ok_or(Rejected::Unknown)?;
        if key.revoked {
            return Err(Rejected::Revoked);
        }
        if key.send_scope == self.send_scope {
            return Ok(vec![]);
        }
        let facts = SendScopeChanged { key: self.key.clone(), send_scope: self.send_scope.clone() };
        Ok(vec![crate::Event::ApiKey(Event::SendScopeChanged(facts.into()))])
    }
}

/// Creates a credential of one mailbox.
#[derive(Debug, Clone)]
pub struct CreateMailboxKey {
    /// The secret's public side.
    pub minted: Minted,
    /// The mailbox.
    pub mailbox: MailboxId,
    /// What its owner calls it.
    pub name: String,
    /// What it may do.
    pub permissions: Permissions,
}

impl Command for CreateMailboxKey {
    type State = (Versioned<Team>, Versioned<Mailbox>, Versioned<ApiKey>);
    type Rejected = Rejected;

    fn streams(&self) -> Vec<StreamId> {
        vec![StreamId::Team, StreamId::Mailbox(self.mailbox.clone()), StreamId::ApiKey(self.minted.key.clone())]
    }

    fn decide(&self, (team, mailbox, key): &Self::State, _: &Moment) -> Result<Vec<crate::Event>, Rejected> {
        if let Some(created) = &key.created {
            return if created.lookup == self.minted.lookup { Ok(vec![]) } else { Err(Rejected::Exists) };
        }
        match mailbox.status {
            MailboxStatus::Absent => return Err(Rejected::UnknownMailbox),
            MailboxStatus::Suspended | MailboxStatus::Closed => return Err(Rejected::MailboxNotActive),
            MailboxStatus::Active => {}
        }
        team.room_for(Resource::ActiveKeys, 1)?;
        let mailbox = Some(self.mailbox.clone());
        Ok(vec![self.minted.created(Kind::Mailbox, &self.name, self.permissions.clone(), mailbox, None)])
    }
}

/// Replaces a key by a new secret with the same name and permissions.
#[derive(Debug, Clone)]
pub struct RotateKey {
    /// The key to replace.
    pub old: KeyId,
    /// The new secret's public side.
    pub minted: Minted,
    /// Whether the old secret stops working in the same step; otherwise it works until it is revoked.
    pub revoke_old: bool,
}

impl Command for RotateKey {
    type State = (Versioned<Team>, Versioned<ApiKey>, Versioned<ApiKey>);
    type Rejected = Rejected;

    fn streams(&self) -> Vec<StreamId> {
        vec![StreamId::Team, StreamId::ApiKey(self.old.clone()), StreamId::ApiKey(self.minted.key.clone())]
    }

    fn decide(&self, (team, old, new): &Self::State, _: &Moment) -> Result<Vec<crate::Event>, Rejected> {
        if let Some(created) = &new.created {
            return if created.lookup == self.minted.lookup { Ok(vec![]) } else { Err(Rejected::Exists) };
        }
        let created = old.created.as_ref().ok_or(Rejected::Unknown)?;
        if old.revoked {
            return Err(Rejected::Revoked);
        }
        if !self.revoke_old {
            team.room_for(Resource::ActiveKeys, 1)?;
        }
        let name = old.name.clone().unwrap_or_default();
        let successor = self.minted.created(
            created.kind,
            &name,
            created.permissions.clone(),
            created.mailbox.clone(),
            Some(self.old.clone()),
        );
        // The old key ends first, so that no reader of the log ever counts one key too many.
        let ended = self.revoke_old.then(|| revoked(created, RevokeReason::Rotated));
        let scoped = scoped(&self.minted.key, &old.send_scope);
        Ok(ended.into_iter().chain([successor]).chain(scoped).collect())
    }
}

/// Ends a key.
#[derive(Debug, Clone)]
pub struct RevokeKey {
    /// The key.
    pub key: KeyId,
    /// The mailbox it must belong to, where the request names one.
    pub mailbox: Option<MailboxId>,
}

impl Command for RevokeKey {
    type State = Versioned<ApiKey>;
    type Rejected = Rejected;

    fn streams(&self) -> Vec<StreamId> {
        vec![StreamId::ApiKey(self.key.clone())]
    }

    fn decide(&self, key: &Self::State, _: &Moment) -> Result<Vec<crate::Event>, Rejected> {
        let created = key.created.as_ref().ok_or(Rejected::Unknown)?;
        if self.mailbox.is_some() && created.mailbox != self.mailbox {
            return Err(Rejected::Unknown);
        }
        if key.revoked {
            return Ok(vec![]);
        }
        Ok(vec![revoked(created, RevokeReason::Requested)])
    }
}

/// Returns the event that ends a key.
pub(crate) fn revoked(created: &Created, reason: RevokeReason) -> crate::Event {
    let facts =
        Revoked { key: created.key.clone(), lookup: created.lookup.clone(), mailbox: created.mailbox.clone(), reason };
    crate::Event::ApiKey(Event::Revoked(facts.into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::permission::Preset;
    use crate::team::Limits;
    use crate::testing::{given, key_id, team_created, with_limits};

    fn minted(n: u8) -> Minted {
        Minted { key: key_id(n), lookup: format!("{n:064x}"), prefix: "smx_inf_ab".into(), suffix: "wxyz".into() }
    }

    fn create(n: u8) -> CreateTeamKey {
        CreateTeamKey {
            minted: minted(n),
            kind: Kind::Infrastructure,
            name: "ci".into(),
            permissions: Preset::ReadOnly.permissions(),
        }
    }

    #[test]
    fn a_key_beyond_the_limit_is_refused() {
        let team = with_limits(Limits { active_keys: 1, ..Limits::default() });
        let events = given(team.clone()).when(create(1)).then_events();
        given(team.into_iter().chain(events))
            .when(create(2))
            .then_rejected(&Rejected::Limit(LimitReached { resource: Resource::ActiveKeys, max: 1 }));
    }

    #[test]
    fn a_revoked_key_stays_revoked() {
        let mut log = team_created();
        log.extend(given(log.clone()).when(create(1)).then_events());
        log.extend(given(log.clone()).when(RevokeKey { key: key_id(1), mailbox: None }).then_events());
        let rotate = RotateKey { old: key_id(1), minted: minted(2), revoke_old: true };
        given(log).when(rotate).then_rejected(&Rejected::Revoked);
    }

    #[test]
    fn rotating_at_the_limit_needs_the_old_key_to_end() {
        let mut log = with_limits(Limits { active_keys: 1, ..Limits::default() });
        log.extend(given(log.clone()).when(create(1)).then_events());
        let keep = RotateKey { old: key_id(1), minted: minted(2), revoke_old: false };
        given(log.clone())
            .when(keep)
            .then_rejected(&Rejected::Limit(LimitReached { resource: Resource::ActiveKeys, max: 1 }));
        let end = RotateKey { old: key_id(1), minted: minted(2), revoke_old: true };
        let events = given(log).when(end).then_events();
        assert_eq!(events.iter().map(crate::Event::name).collect::<Vec<_>>(), ["api_key.revoked", "api_key.created"]);
    }

    #[test]
    fn a_rotated_sending_key_keeps_its_scope() {
        let mut log = team_created();
        let send_scope = SendScope::Providers { provider_public_ids: vec!["dprov_1".into()] };
        let permissions = Preset::ReadOnly.permissions();
        let create =
            CreateSendingKey { minted: minted(1), name: "worker".into(), permissions, send_scope: send_scope.clone() };
        log.extend(given(log.clone()).when(create).then_events());
        let rotate = RotateKey { old: key_id(1), minted: minted(2), revoke_old: true };
        log.extend(given(log.clone()).when(rotate).then_events());
        let key: Versioned<ApiKey> = crate::testing::fold(&[StreamId::ApiKey(key_id(2))], &log);
        assert_eq!(key.send_scope, send_scope);
        log.extend(
            given(log.clone()).when(ChangeSendScope { key: key_id(2), send_scope: SendScope::All }).then_events(),
        );
        given(log).when(ChangeSendScope { key: key_id(2), send_scope: SendScope::All }).then_nothing();
    }

    #[test]
    fn a_key_of_another_mailbox_is_unknown() {
        let mut log = team_created();
        log.extend(given(log.clone()).when(create(1)).then_events());
        let wrong = RevokeKey { key: key_id(1), mailbox: Some(crate::testing::mailbox_id(9)) };
        given(log).when(wrong).then_rejected(&Rejected::Unknown);
    }
}
