//! A webhook endpoint: a URL that is told of a team's events, with a secret and a filter.
//!
//! Invariants:
//! - A deleted webhook never comes back.
//! - `failing` begins when a delivery is exhausted and ends only when the webhook is enabled again.
//! - The log holds a reference to the sealed secret, never the secret.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::entity::{Fold, Versioned, fold_of};
use crate::event::stored_events;
use crate::id::{MailboxId, Position, SecretId, WebhookId};
use crate::personal::Halves;
use crate::published::WebhookEventType;
use crate::team::{LimitReached, Resource, Team};
use crate::{Command, Moment, StreamId};

/// What the signing secret of a webhook is sealed for.
pub const SECRET_PURPOSE: &str = "webhook";

/// Which events an endpoint is told of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subscription {
    /// The published types.
    pub event_types: BTreeSet<WebhookEventType>,
    /// The mailboxes; empty means all.
    pub mailboxes: BTreeSet<MailboxId>,
}

/// Facts of `webhook.created`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Created {
    /// The webhook.
    pub webhook: WebhookId,
    /// Which events it is told of.
    pub subscription: Subscription,
    /// Whether deliveries are made.
    pub enabled: bool,
    /// The sealed signing secret.
    pub secret: SecretId,
    /// Deliveries begin after this position; `None` means after this event.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub deliver_after: Option<Position>,
}

/// Personal half of `webhook.created` and `webhook.redirected`: URLs may carry names and tokens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Destination {
    /// Where deliveries go.
    pub url: String,
    /// What its owner calls it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub name: Option<String>,
}

/// Facts of events that only name their webhook.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subject {
    /// The webhook.
    pub webhook: WebhookId,
}

/// Facts of `webhook.subscription_changed`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SubscriptionChanged {
    /// The webhook.
    pub webhook: WebhookId,
    /// Which events it is told of from now on.
    pub subscription: Subscription,
}

/// What happens to events that arrived while a webhook was off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Backlog {
    /// They are delivered now.
    Deliver,
    /// They are left out.
    Skip,
}

/// Facts of `webhook.enabled`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Enabled {
    /// The webhook.
    pub webhook: WebhookId,
    /// What happens to the events in between.
    pub backlog: Backlog,
}

/// Why a webhook was disabled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DisableReason {
    /// Somebody asked for it.
    Requested,
    /// The endpoint answered `410 Gone`.
    Gone,
}

/// Facts of `webhook.disabled`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Disabled {
    /// The webhook.
    pub webhook: WebhookId,
    /// Why.
    pub reason: DisableReason,
}

/// Facts of `webhook.secret_rotated`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SecretRotated {
    /// The webhook.
    pub webhook: WebhookId,
    /// The sealed secret from now on; the one before is dead at once.
    pub secret: SecretId,
}

/// Facts of `delivery.exhausted`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeliveryExhausted {
    /// The webhook.
    pub webhook: WebhookId,
    /// The position of the event that could not be delivered.
    pub event_position: Position,
    /// How many attempts were made.
    pub attempts: u32,
}

/// Facts of `delivery.skipped`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeliverySkipped {
    /// The webhook.
    pub webhook: WebhookId,
    /// The position of the event that is not delivered.
    pub event_position: Position,
    /// Why it could not be.
    pub reason: String,
}

stored_events! {
    /// What can happen to a webhook endpoint.
    enum Event;
    /// A URL asked to be told of events.
    Created(Created, Destination) = "webhook.created" v 1;
    /// Its URL or name changed.
    Redirected(Subject, Destination) = "webhook.redirected" v 1;
    /// It is told of other events.
    SubscriptionChanged(SubscriptionChanged) = "webhook.subscription_changed" v 1;
    /// Deliveries are made again.
    Enabled(Enabled) = "webhook.enabled" v 1;
    /// Deliveries are not made any more.
    Disabled(Disabled) = "webhook.disabled" v 1;
    /// Another secret signs from now on.
    SecretRotated(SecretRotated) = "webhook.secret_rotated" v 1;
    /// Somebody asked for a test delivery.
    Tested(Subject) = "webhook.tested" v 1;
    /// Every attempt of one delivery failed.
    DeliveryExhausted(DeliveryExhausted) = "delivery.exhausted" v 1;
    /// The operator left one event out that could not be made into a delivery.
    DeliverySkipped(DeliverySkipped) = "delivery.skipped" v 1;
    /// It does not answer; deliveries wait until it is enabled again.
    Failing(Subject) = "webhook.failing" v 1;
    /// It is gone for good.
    Deleted(Subject) = "webhook.deleted" v 1;
}

impl Event {
    /// Returns the webhook it is about.
    #[must_use]
    pub fn webhook(&self) -> &WebhookId {
        match self {
            Self::Created(e) => &e.webhook,
            Self::Redirected(e) => &e.webhook,
            Self::SubscriptionChanged(e) => &e.webhook,
            Self::Enabled(e) => &e.webhook,
            Self::Disabled(e) => &e.webhook,
            Self::SecretRotated(e) => &e.webhook,
            Self::DeliveryExhausted(e) => &e.webhook,
            Self::DeliverySkipped(e) => &e.webhook,
            Self::Tested(e) | Self::Failing(e) | Self::Deleted(e) => &e.webhook,
        }
    }
}

/// Where a webhook is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// Not created yet.
    #[default]
    Absent,
    /// Deliveries are made.
    Enabled,
    /// Deliveries are not made.
    Disabled,
    /// Gone for good.
    Deleted,
}

/// The fold of a webhook's stream.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct WebhookEndpoint {
    /// Where it is in its life.
    pub status: Status,
    /// Whether deliveries wait because the endpoint does not answer.
    pub failing: bool,
    /// How often it was switched on again: who looks now and then sees that it was off in between.
    #[serde(default)]
    pub times_enabled: u32,
    /// Where deliveries go; `None` after erasure.
    pub url: Option<String>,
    /// What its owner calls it.
    pub name: Option<String>,
    /// Which events it is told of; `None` before creation.
    pub subscription: Option<Subscription>,
    /// The sealed signing secret.
    pub secret: Option<SecretId>,
    /// The event the operator left out last: so that the same wish again adds nothing.
    #[serde(default)]
    pub last_skipped: Option<Position>,
}

impl Fold for WebhookEndpoint {
    fn evolve(&mut self, event: &crate::Event) {
        let crate::Event::Webhook(event) = event else { return };
        match event {
            Event::Created(e) => {
                self.status = if e.enabled { Status::Enabled } else { Status::Disabled };
                self.url = e.personal.known().map(|p| p.url.clone());
                self.name = e.personal.known().and_then(|p| p.name.clone());
                self.subscription = Some(e.subscription.clone());
                self.secret = Some(e.secret.clone());
            }
            Event::Redirected(e) => {
                self.url = e.personal.known().map(|p| p.url.clone());
                self.name = e.personal.known().and_then(|p| p.name.clone());
            }
            Event::SubscriptionChanged(e) => self.subscription = Some(e.subscription.clone()),
            Event::Enabled(_) => {
                (self.status, self.failing) = (Status::Enabled, false);
                self.times_enabled += 1;
            }
            Event::Disabled(_) => self.status = Status::Disabled,
            Event::SecretRotated(e) => self.secret = Some(e.secret.clone()),
            Event::Failing(_) => self.failing = true,
            Event::Deleted(_) => self.status = Status::Deleted,
            Event::DeliverySkipped(e) => self.last_skipped = Some(e.event_position),
            Event::Tested(_) | Event::DeliveryExhausted(_) => {}
        }
    }

    fold_of!(WebhookEndpoint, Webhook);
}

/// Why a webhook command can be refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Rejected {
    /// There is no such team.
    #[error("no such team")]
    UnknownTeam,
    /// There is no such webhook.
    #[error("no such webhook")]
    Unknown,
    /// The webhook id was used before.
    #[error("the webhook exists already")]
    Exists,
    /// The team has as many webhooks as it may.
    #[error(transparent)]
    Limit(#[from] LimitReached),
    /// The webhook does not subscribe to test events.
    #[error("the webhook is not subscribed to sendmux.test")]
    NotSubscribedToTests,
    /// The webhook is off.
    #[error("the webhook is disabled")]
    Disabled,
    /// The webhook changed since the caller read it.
    #[error("the webhook has changed since it was read")]
    VersionMismatch {
        /// The current version.
        current: u64,
    },
}

/// Creates a webhook.
#[derive(Debug, Clone)]
pub struct CreateWebhook {
    /// The new webhook's id.
    pub webhook: WebhookId,
    /// Where deliveries go; checked against the address policy at the door.
    pub url: String,
    /// What its owner calls it.
    pub name: Option<String>,
    /// Which events it is told of.
    pub subscription: Subscription,
    /// Whether deliveries are made.
    pub enabled: bool,
    /// The sealed signing secret, stored with the event.
    pub secret: SecretId,
    /// Deliveries begin after this position; `None` means after this event.
    pub deliver_after: Option<Position>,
}

impl Command for CreateWebhook {
    type State = (Versioned<Team>, Versioned<WebhookEndpoint>);
    type Rejected = Rejected;

    fn streams(&self) -> Vec<StreamId> {
        vec![StreamId::Team, StreamId::Webhook(self.webhook.clone())]
    }

    fn decide(&self, (team, webhook): &Self::State, _: &Moment) -> Result<Vec<crate::Event>, Rejected> {
        if webhook.status != Status::Absent {
            return if webhook.secret.as_ref() == Some(&self.secret) { Ok(vec![]) } else { Err(Rejected::Exists) };
        }
        if team.id.is_none() {
            return Err(Rejected::UnknownTeam);
        }
        team.room_for(Resource::Webhooks, 1)?;
        let facts = Created {
            webhook: self.webhook.clone(),
            subscription: self.subscription.clone(),
            enabled: self.enabled,
            secret: self.secret.clone(),
            deliver_after: self.deliver_after,
        };
        let destination = Destination { url: self.url.clone(), name: self.name.clone() };
        Ok(vec![crate::Event::Webhook(Event::Created(Halves::new(facts, destination)))])
    }
}

/// Changes a webhook; what is `None` stays.
#[derive(Debug, Clone)]
pub struct ChangeWebhook {
    /// The webhook.
    pub webhook: WebhookId,
    /// The new URL.
    pub url: Option<String>,
    /// The new name; `Some(None)` clears it.
    pub name: Option<Option<String>>,
    /// The new published types.
    pub event_types: Option<BTreeSet<WebhookEventType>>,
    /// The new mailbox filter.
    pub mailboxes: Option<BTreeSet<MailboxId>>,
    /// On or off; switching on clears `failing`.
    pub enabled: Option<bool>,
    /// What happens, when it is switched on, to the events in between.
    pub backlog: Backlog,
    /// The version the caller has read.
    pub if_version: Option<u64>,
}

impl Command for ChangeWebhook {
    type State = Versioned<WebhookEndpoint>;
    type Rejected = Rejected;

    fn streams(&self) -> Vec<StreamId> {
        vec![StreamId::Webhook(self.webhook.clone())]
    }

    fn decide(&self, state: &Self::State, _: &Moment) -> Result<Vec<crate::Event>, Rejected> {
        let (url, subscription) = existing(state)?;
        match self.if_version {
            Some(version) if version != state.version => {
                return Err(Rejected::VersionMismatch { current: state.version });
            }
            _ => {}
        }
        let webhook = || self.webhook.clone();
        let mut events = vec![];
        let destination = Destination {
            url: self.url.clone().unwrap_or_else(|| url.to_owned()),
            name: self.name.clone().unwrap_or_else(|| state.name.clone()),
        };
        if destination.url != url || destination.name != state.name {
            events.push(Event::Redirected(Halves::new(Subject { webhook: webhook() }, destination)));
        }
        let wanted = Subscription {
            event_types: self.event_types.clone().unwrap_or_else(|| subscription.event_types.clone()),
            mailboxes: self.mailboxes.clone().unwrap_or_else(|| subscription.mailboxes.clone()),
        };
        if wanted != *subscription {
            let facts = SubscriptionChanged { webhook: webhook(), subscription: wanted };
            events.push(Event::SubscriptionChanged(facts.into()));
        }
        match (self.enabled, state.status) {
            (Some(true), Status::Disabled) => {
                events.push(Event::Enabled(Enabled { webhook: webhook(), backlog: self.backlog }.into()));
            }
            (Some(false), Status::Enabled) => {
                events.push(Event::Disabled(Disabled { webhook: webhook(), reason: DisableReason::Requested }.into()));
            }
            _ => {}
        }
        Ok(events.into_iter().map(crate::Event::Webhook).collect())
    }
}

/// Replaces a webhook's signing secret; the old one is dead at once.
#[derive(Debug, Clone)]
pub struct RotateSecret {
    /// The webhook.
    pub webhook: WebhookId,
    /// The new sealed secret, stored with the event.
    pub secret: SecretId,
}

impl Command for RotateSecret {
    type State = Versioned<WebhookEndpoint>;
    type Rejected = Rejected;

    fn streams(&self) -> Vec<StreamId> {
        vec![StreamId::Webhook(self.webhook.clone())]
    }

    fn decide(&self, state: &Self::State, _: &Moment) -> Result<Vec<crate::Event>, Rejected> {
        existing(state)?;
        if state.secret.as_ref() == Some(&self.secret) {
            return Ok(vec![]);
        }
        let facts = SecretRotated { webhook: self.webhook.clone(), secret: self.secret.clone() };
        Ok(vec![crate::Event::Webhook(Event::SecretRotated(facts.into()))])
    }
}

/// Asks for a test delivery. Every command is a new test.
#[derive(Debug, Clone)]
pub struct TestWebhook {
    /// The webhook.
    pub webhook: WebhookId,
}

impl Command for TestWebhook {
    type State = Versioned<WebhookEndpoint>;
    type Rejected = Rejected;

    fn streams(&self) -> Vec<StreamId> {
        vec![StreamId::Webhook(self.webhook.clone())]
    }

    fn decide(&self, state: &Self::State, _: &Moment) -> Result<Vec<crate::Event>, Rejected> {
        let (_, subscription) = existing(state)?;
        if state.status == Status::Disabled {
            return Err(Rejected::Disabled);
        }
        if !subscription.event_types.contains(&WebhookEventType::Test) {
            return Err(Rejected::NotSubscribedToTests);
        }
        Ok(vec![crate::Event::Webhook(Event::Tested(Subject { webhook: self.webhook.clone() }.into()))])
    }
}

/// Records that every attempt of one delivery failed; from then on the webhook is failing.
#[derive(Debug, Clone)]
pub struct RecordExhausted {
    /// The webhook.
    pub webhook: WebhookId,
    /// The position of the event that could not be delivered.
    pub event_position: Position,
    /// How many attempts were made.
    pub attempts: u32,
}

impl Command for RecordExhausted {
    type State = Versioned<WebhookEndpoint>;
    type Rejected = Rejected;

    fn streams(&self) -> Vec<StreamId> {
        vec![StreamId::Webhook(self.webhook.clone())]
    }

    fn decide(&self, state: &Self::State, _: &Moment) -> Result<Vec<crate::Event>, Rejected> {
        existing(state)?;
        if state.failing {
            return Ok(vec![]);
        }
        let facts = DeliveryExhausted {
            webhook: self.webhook.clone(),
            event_position: self.event_position,
            attempts: self.attempts,
        };
        let failing = Subject { webhook: self.webhook.clone() };
        Ok(vec![
            crate::Event::Webhook(Event::DeliveryExhausted(facts.into())),
            crate::Event::Webhook(Event::Failing(failing.into())),
        ])
    }
}

/// The most characters of the reason that is recorded with a skipped delivery.
const REASON_CHARS_MAX: usize = 500;

/// Records that the operator leaves out an event that cannot be made into a delivery.
#[derive(Debug, Clone)]
pub struct SkipDelivery {
    /// The webhook.
    pub webhook: WebhookId,
    /// The position of the event.
    pub event_position: Position,
    /// Why it could not be delivered; cut after 500 characters.
    pub reason: String,
}

impl Command for SkipDelivery {
    type State = Versioned<WebhookEndpoint>;
    type Rejected = Rejected;

    fn streams(&self) -> Vec<StreamId> {
        vec![StreamId::Webhook(self.webhook.clone())]
    }

    fn decide(&self, state: &Self::State, _: &Moment) -> Result<Vec<crate::Event>, Rejected> {
        existing(state)?;
        if state.last_skipped == Some(self.event_position) {
            return Ok(vec![]);
        }
        let facts = DeliverySkipped {
            webhook: self.webhook.clone(),
            event_position: self.event_position,
            reason: self.reason.chars().take(REASON_CHARS_MAX).collect(),
        };
        Ok(vec![crate::Event::Webhook(Event::DeliverySkipped(facts.into()))])
    }
}

/// Records that an endpoint said it is gone for good (`410`).
#[derive(Debug, Clone)]
pub struct RecordGone {
    /// The webhook.
    pub webhook: WebhookId,
}

impl Command for RecordGone {
    type State = Versioned<WebhookEndpoint>;
    type Rejected = Rejected;

    fn streams(&self) -> Vec<StreamId> {
        vec![StreamId::Webhook(self.webhook.clone())]
    }

    fn decide(&self, state: &Self::State, _: &Moment) -> Result<Vec<crate::Event>, Rejected> {
        existing(state)?;
        if state.status == Status::Disabled {
            return Ok(vec![]);
        }
        let facts = Disabled { webhook: self.webhook.clone(), reason: DisableReason::Gone };
        Ok(vec![crate::Event::Webhook(Event::Disabled(facts.into()))])
    }
}

/// Deletes a webhook for good.
#[derive(Debug, Clone)]
pub struct DeleteWebhook {
    /// The webhook.
    pub webhook: WebhookId,
}

impl Command for DeleteWebhook {
    type State = Versioned<WebhookEndpoint>;
    type Rejected = Rejected;

    fn streams(&self) -> Vec<StreamId> {
        vec![StreamId::Webhook(self.webhook.clone())]
    }

    fn decide(&self, state: &Self::State, _: &Moment) -> Result<Vec<crate::Event>, Rejected> {
        match state.status {
            Status::Absent => Err(Rejected::Unknown),
            Status::Deleted => Ok(vec![]),
            Status::Enabled | Status::Disabled => {
                let facts = Subject { webhook: self.webhook.clone() };
                Ok(vec![crate::Event::Webhook(Event::Deleted(facts.into()))])
            }
        }
    }
}

/// Returns the URL and subscription of a webhook that exists.
fn existing(state: &WebhookEndpoint) -> Result<(&str, &Subscription), Rejected> {
    match (state.status, &state.subscription) {
        (Status::Enabled | Status::Disabled, Some(subscription)) => {
            Ok((state.url.as_deref().unwrap_or_default(), subscription))
        }
        _ => Err(Rejected::Unknown),
    }
}
