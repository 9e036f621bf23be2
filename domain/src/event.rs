//! Every event that can be in a log, over all aggregates, and how it is stored.
//!
//! A stored event is a type name, an integer version and two JSON texts: facts and the personal half.
//! The names in the tables of the aggregates' `stored_events!` ARE the storage format. Renaming one
//! orphans history; changing the shape behind one needs a new version and an arm in [`crate::upcast`].

use serde::{Serialize, de::DeserializeOwned};

use crate::personal::{Halves, Personal};
use crate::stream::StreamId;
use crate::{
    api_key, balance, delivery_group, mailbox, message, outbound, provider, routing, sending_domain, suppression, team,
    webhook_endpoint,
};

/// An event as it is stored: before the record's metadata is added.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Encoded {
    /// The stored type name, for example `mailbox.opened`.
    pub name: String,
    /// The version of the stored shape.
    pub version: i64,
    /// JSON object; hashed byte for byte.
    pub facts: String,
    /// JSON object, or `None` for events without personal data.
    pub personal: Option<String>,
}

/// Stored bytes could not be read as the event they claim to be.
#[derive(Debug, thiserror::Error)]
#[error("stored event {name} v{version} cannot be decoded")]
pub struct DecodeError {
    /// The stored type name.
    pub name: String,
    /// The stored version.
    pub version: i64,
    /// What was wrong with the JSON.
    #[source]
    pub source: serde_json::Error,
}

/// An event of a type this build does not know: written by a newer one, carried along untouched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unknown {
    /// What is stored.
    pub encoded: Encoded,
}

/// Everything that can have happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// See [`team::Event`].
    Team(team::Event),
    /// See [`sending_domain::Event`].
    SendingDomain(sending_domain::Event),
    /// See [`api_key::Event`].
    ApiKey(api_key::Event),
    /// See [`mailbox::Event`].
    Mailbox(mailbox::Event),
    /// See [`message::Event`].
    Message(message::Event),
    /// See [`webhook_endpoint::Event`].
    Webhook(webhook_endpoint::Event),
    /// See [`balance::Event`].
    Balance(balance::Event),
    /// See [`provider::Event`].
    Provider(provider::Event),
    /// See [`delivery_group::Event`].
    DeliveryGroup(delivery_group::Event),
    /// See [`routing::Event`].
    Routing(routing::Event),
    /// See [`outbound::Event`].
    Outbound(outbound::Event),
    /// See [`suppression::Event`].
    Suppression(suppression::Event),
    /// Written by a newer build.
    Unknown(Unknown),
}

/// Returns the stored name and version of every event there is.
pub fn stored() -> impl Iterator<Item = (&'static str, i64)> {
    [
        team::Event::STORED,
        sending_domain::Event::STORED,
        api_key::Event::STORED,
        mailbox::Event::STORED,
        message::Event::STORED,
        webhook_endpoint::Event::STORED,
        balance::Event::STORED,
        provider::Event::STORED,
        delivery_group::Event::STORED,
        routing::Event::STORED,
        outbound::Event::STORED,
        suppression::Event::STORED,
    ]
    .into_iter()
    .flatten()
    .copied()
}

impl Event {
    /// Returns the stored type name.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::Team(e) => e.name(),
            Self::SendingDomain(e) => e.name(),
            Self::ApiKey(e) => e.name(),
            Self::Mailbox(e) => e.name(),
            Self::Message(e) => e.name(),
            Self::Webhook(e) => e.name(),
            Self::Balance(e) => e.name(),
            Self::Provider(e) => e.name(),
            Self::DeliveryGroup(e) => e.name(),
            Self::Routing(e) => e.name(),
            Self::Outbound(e) => e.name(),
            Self::Suppression(e) => e.name(),
            Self::Unknown(e) => &e.encoded.name,
        }
    }

    /// Returns the stored form.
    #[must_use]
    pub fn encode(&self) -> Encoded {
        match self {
            Self::Team(e) => e.encode(),
            Self::SendingDomain(e) => e.encode(),
            Self::ApiKey(e) => e.encode(),
            Self::Mailbox(e) => e.encode(),
            Self::Message(e) => e.encode(),
            Self::Webhook(e) => e.encode(),
            Self::Balance(e) => e.encode(),
            Self::Provider(e) => e.encode(),
            Self::DeliveryGroup(e) => e.encode(),
            Self::Routing(e) => e.encode(),
            Self::Outbound(e) => e.encode(),
            Self::Suppression(e) => e.encode(),
            Self::Unknown(e) => e.encoded.clone(),
        }
    }

    /// Reads a stored event, upcasting older shapes. `personal` is `None` when it was erased or never existed.
    ///
    /// # Errors
    /// The JSON does not have the shape that the name and version promise.
    pub fn decode(name: &str, version: i64, facts: &str, personal: Option<&str>) -> Result<Self, DecodeError> {
        let failed = |source| DecodeError { name: name.to_owned(), version, source };
        let upcast;
        let (version, facts) = match crate::upcast::newest(name, version, facts).map_err(failed)? {
            Some((version, facts)) => {
                upcast = facts;
                (version, upcast.as_str())
            }
            None => (version, facts),
        };
        let stored = Stored { name, version, facts, personal };
        let event = match name.split_once('.').map_or(name, |(aggregate, _)| aggregate) {
            "team" => team::Event::decode(&stored).map(|e| e.map(Self::Team)),
            "sending_domain" => sending_domain::Event::decode(&stored).map(|e| e.map(Self::SendingDomain)),
            "api_key" => api_key::Event::decode(&stored).map(|e| e.map(Self::ApiKey)),
            "mailbox" => mailbox::Event::decode(&stored).map(|e| e.map(Self::Mailbox)),
            "message" => message::Event::decode(&stored).map(|e| e.map(Self::Message)),
            "webhook" | "delivery" => webhook_endpoint::Event::decode(&stored).map(|e| e.map(Self::Webhook)),
            "balance" => balance::Event::decode(&stored).map(|e| e.map(Self::Balance)),
            "provider" => provider::Event::decode(&stored).map(|e| e.map(Self::Provider)),
            "delivery_group" => delivery_group::Event::decode(&stored).map(|e| e.map(Self::DeliveryGroup)),
            "routing" => routing::Event::decode(&stored).map(|e| e.map(Self::Routing)),
            "outbound" => outbound::Event::decode(&stored).map(|e| e.map(Self::Outbound)),
            "suppression" => suppression::Event::decode(&stored).map(|e| e.map(Self::Suppression)),
            _ => Ok(None),
        }
        .map_err(failed)?;
        Ok(event.unwrap_or_else(|| {
            Self::Unknown(Unknown {
                encoded: Encoded {
                    name: name.to_owned(),
                    version,
                    facts: facts.to_owned(),
                    personal: personal.map(str::to_owned),
                },
            })
        }))
    }

    /// Returns the stream this event is recorded in; `None` only for [`Event::Unknown`], which is never written.
    #[must_use]
    pub fn stream(&self) -> Option<StreamId> {
        Some(match self {
            Self::Team(_) => StreamId::Team,
            Self::SendingDomain(e) => StreamId::Domain(e.domain().clone()),
            Self::Balance(_) => StreamId::Balance,
            Self::Provider(e) => StreamId::Provider(e.provider().clone()),
            Self::DeliveryGroup(e) => StreamId::Group(e.group().clone()),
            Self::Routing(_) => StreamId::Routing,
            Self::Outbound(e) => StreamId::Outbound(e.mail().outbound.clone()),
            Self::Suppression(e) => StreamId::Suppression(e.address().clone()),
            Self::ApiKey(e) => StreamId::ApiKey(e.key().clone()),
            Self::Mailbox(e) => StreamId::Mailbox(e.mailbox().clone()),
            Self::Message(e) => StreamId::Message(e.message().clone()),
            Self::Webhook(e) => StreamId::Webhook(e.webhook().clone()),
            Self::Unknown(_) => return None,
        })
    }

    /// Returns the other streams whose folds read this event too.
    #[must_use]
    pub fn links(&self) -> Vec<StreamId> {
        match self {
            Self::ApiKey(e) => e.links(),
            Self::Mailbox(mailbox::Event::Opened(_) | mailbox::Event::Closed(_))
            | Self::Webhook(webhook_endpoint::Event::Created(_) | webhook_endpoint::Event::Deleted(_)) => {
                vec![StreamId::Team]
            }
            Self::SendingDomain(e) => e.links(),
            Self::Provider(e) => e.links(),
            Self::DeliveryGroup(e) => e.links(),
            Self::Outbound(e) => e.links(),
            Self::Team(_)
            | Self::Mailbox(_)
            | Self::Message(_)
            | Self::Webhook(_)
            | Self::Balance(_)
            | Self::Routing(_)
            | Self::Suppression(_)
            | Self::Unknown(_) => vec![],
        }
    }

    /// Returns this event with its personal half erased.
    #[must_use]
    pub fn erased(&self) -> Self {
        let e = self.encode();
        Self::decode(&e.name, e.version, &e.facts, None).unwrap_or_else(|_| self.clone())
    }
}

/// What [`Event::decode`] hands to the aggregates.
#[derive(Debug, Clone, Copy)]
pub struct Stored<'a> {
    /// Stored type name.
    pub name: &'a str,
    /// Newest version of the shape.
    pub version: i64,
    /// JSON of the facts.
    pub facts: &'a str,
    /// JSON of the personal half, if still there.
    pub personal: Option<&'a str>,
}

/// Writes both halves as JSON.
pub(crate) fn encode_halves<F: Serialize, P: Serialize>(name: &str, version: i64, halves: &Halves<F, P>) -> Encoded {
    let json = |v: Result<String, serde_json::Error>| v.expect("event payloads are plain structs and always serialise");
    let personal = match &halves.personal {
        // Zero-sized means `Nothing`: the event has no personal half to store.
        Personal::Known(p) if size_of::<P>() > 0 => Some(json(serde_json::to_string(p))),
        Personal::Known(_) | Personal::Erased => None,
    };
    Encoded { name: name.to_owned(), version, facts: json(serde_json::to_string(&halves.facts)), personal }
}

/// Reads both halves from JSON.
pub(crate) fn decode_halves<F: DeserializeOwned, P: DeserializeOwned>(
    stored: &Stored<'_>,
) -> Result<Halves<F, P>, serde_json::Error> {
    let personal = match stored.personal {
        Some(text) => Personal::Known(serde_json::from_str(text)?),
        None if size_of::<P>() == 0 => Personal::Known(serde_json::from_str("{}")?),
        None => Personal::Erased,
    };
    Ok(Halves { facts: serde_json::from_str(stored.facts)?, personal })
}

/// Declares an aggregate's events: the enum, its stored names and versions, and both directions of storage.
macro_rules! stored_events {
    ($(#[$enum_doc:meta])* enum Event; $($(#[$doc:meta])* $variant:ident($facts:ty $(, $personal:ty)?) = $name:literal v $version:literal;)+) => {
        $(#[$enum_doc])*
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub enum Event {
            $($(#[$doc])* $variant($crate::personal::Halves<$facts $(, $personal)?>),)+
        }

        impl Event {
            /// Stored names and versions of this aggregate's events.
            pub const STORED: &'static [(&'static str, i64)] = &[$(($name, $version)),+];

            /// Returns the stored type name.
            #[must_use]
            pub fn name(&self) -> &'static str {
                match self { $(Self::$variant(_) => $name,)+ }
            }

            /// Returns the stored form.
            #[must_use]
            pub fn encode(&self) -> $crate::event::Encoded {
                match self { $(Self::$variant(e) => $crate::event::encode_halves($name, $version, e),)+ }
            }

            /// Reads a stored event; `None` if the name or its version is not known to this build.
            ///
            /// # Errors
            /// The JSON does not have the promised shape.
            pub fn decode(stored: &$crate::event::Stored<'_>) -> Result<Option<Self>, serde_json::Error> {
                Ok(match (stored.name, stored.version) {
                    $(($name, $version) => Some(Self::$variant($crate::event::decode_halves(stored)?)),)+
                    _ => None,
                })
            }
        }
    };
}
pub(crate) use stored_events;
