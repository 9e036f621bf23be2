//! Folds: what a decision may know of an entity, computed from its stream and nothing else.

use std::sync::Arc;

use serde::{Serialize, de::DeserializeOwned};

use crate::event::Event;
use crate::stream::StreamId;
use crate::{
    api_key::ApiKey, balance::Balance, delivery_group::DeliveryGroup, mailbox::Mailbox, message::Message,
    outbound::Outbound, provider::Provider, routing::Routing, sending_domain::SendingDomain, suppression::Suppression,
    team::Team, webhook_endpoint::WebhookEndpoint,
};

/// The fold of one stream.
pub trait Fold:
    Default + Clone + PartialEq + std::fmt::Debug + Serialize + DeserializeOwned + Send + Sync + 'static
{
    /// Applies one event. Never fails, never decides, ignores events of other aggregates.
    fn evolve(&mut self, event: &Event);

    /// Returns this fold out of an entity of the same kind; the default when the kind differs.
    fn of(entity: &Entity) -> Arc<Self>;
}

/// A fold and the version of its stream: how many events were recorded in it.
#[derive(Debug, Clone, PartialEq)]
pub struct Versioned<F> {
    /// Number of events recorded in the stream; the entity's `ETag`.
    pub version: u64,
    /// The folded state.
    pub state: Arc<F>,
}

impl<F: Default> Default for Versioned<F> {
    fn default() -> Self {
        Self { version: 0, state: Arc::default() }
    }
}

impl<F> std::ops::Deref for Versioned<F> {
    type Target = F;
    fn deref(&self) -> &F {
        &self.state
    }
}

/// What a command's decision sees: a [`Versioned`] fold, or a tuple of them, in the order of its streams.
pub trait State: Sized + Send + Sync + 'static {
    /// Takes the parts out of the loaded entities.
    fn from_entities(entities: &mut dyn Iterator<Item = Versioned<Entity>>) -> Self;
}

impl<F: Fold> State for Versioned<F> {
    fn from_entities(entities: &mut dyn Iterator<Item = Versioned<Entity>>) -> Self {
        entities.next().map(|e| Self { version: e.version, state: F::of(&e.state) }).unwrap_or_default()
    }
}

impl State for () {
    fn from_entities(_: &mut dyn Iterator<Item = Versioned<Entity>>) -> Self {}
}

impl<A: State, B: State> State for (A, B) {
    fn from_entities(entities: &mut dyn Iterator<Item = Versioned<Entity>>) -> Self {
        (A::from_entities(entities), B::from_entities(entities))
    }
}

impl<A: State, B: State, C: State> State for (A, B, C) {
    fn from_entities(entities: &mut dyn Iterator<Item = Versioned<Entity>>) -> Self {
        (A::from_entities(entities), B::from_entities(entities), C::from_entities(entities))
    }
}

/// All that is left: only as the last part of a state.
impl<F: Fold> State for Vec<Versioned<F>> {
    fn from_entities(entities: &mut dyn Iterator<Item = Versioned<Entity>>) -> Self {
        entities.map(|e| Versioned { version: e.version, state: F::of(&e.state) }).collect()
    }
}

macro_rules! entities {
    ($($kind:ident: $fold:ty),+) => {
        /// The fold of any stream; which one, the stream's kind decides.
        #[derive(Debug, Clone, PartialEq)]
        pub enum Entity {
            $(#[doc = concat!("See [`", stringify!($fold), "`].")] $kind(Arc<$fold>),)+
        }

        impl Entity {
            /// Applies one event; copies the state only if somebody else still holds it.
            pub fn evolve(&mut self, event: &Event) {
                match self { $(Self::$kind(fold) => Arc::make_mut(fold).evolve(event),)+ }
            }

            /// Returns the state as JSON, for a disposable snapshot.
            ///
            /// # Errors
            /// The state does not serialise.
            pub fn to_json(&self) -> Result<String, serde_json::Error> {
                match self { $(Self::$kind(fold) => serde_json::to_string(fold.as_ref()),)+ }
            }

            /// Reads a snapshot of the entity of a stream.
            ///
            /// # Errors
            /// The JSON is not a snapshot of this build.
            pub fn from_json(stream: &StreamId, json: &str) -> Result<Self, serde_json::Error> {
                Ok(match Self::of_stream(stream) { $(Self::$kind(_) => Self::$kind(Arc::new(serde_json::from_str(json)?)),)+ })
            }
        }

        $(impl From<$fold> for Entity {
            fn from(fold: $fold) -> Self {
                Self::$kind(Arc::new(fold))
            }
        })+
    };
}

entities! {
    Team: Team, ApiKey: ApiKey, Mailbox: Mailbox, Webhook: WebhookEndpoint, Message: Message, Domain: SendingDomain,
    Balance: Balance, Routing: Routing, Provider: Provider, Group: DeliveryGroup, Outbound: Outbound,
    Suppression: Suppression
}

/// The version of the shape of all folds together: snapshots of another version are ignored.
pub const SNAPSHOT_VERSION: i64 = 3;

impl Entity {
    /// Returns the fold of an empty stream.
    #[must_use]
    pub fn of_stream(stream: &StreamId) -> Self {
        match stream {
            StreamId::Team => Self::Team(Arc::default()),
            StreamId::ApiKey(_) => Self::ApiKey(Arc::default()),
            StreamId::Mailbox(_) => Self::Mailbox(Arc::default()),
            StreamId::Webhook(_) => Self::Webhook(Arc::default()),
            StreamId::Message(_) => Self::Message(Arc::default()),
            StreamId::Domain(_) => Self::Domain(Arc::default()),
            StreamId::Balance => Self::Balance(Arc::default()),
            StreamId::Routing => Self::Routing(Arc::default()),
            StreamId::Provider(_) => Self::Provider(Arc::default()),
            StreamId::Group(_) => Self::Group(Arc::default()),
            StreamId::Outbound(_) => Self::Outbound(Arc::default()),
            StreamId::Suppression(_) => Self::Suppression(Arc::default()),
        }
    }
}

macro_rules! fold_of {
    ($fold:ty, $kind:ident) => {
        fn of(entity: &$crate::entity::Entity) -> std::sync::Arc<Self> {
            match entity {
                $crate::entity::Entity::$kind(fold) => std::sync::Arc::clone(fold),
                _ => std::sync::Arc::default(),
            }
        }
    };
}
pub(crate) use fold_of;
