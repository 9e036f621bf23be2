//! Streams: the events of one entity, read together to decide about it.

use std::fmt;

use crate::id::{AddressId, DomainId, GroupId, KeyId, MailboxId, MessageId, OutboundId, ProviderId, WebhookId};

/// Names the stream of one entity within a team's log.
///
/// An event is recorded in one stream and may be linked into others whose folds also need it: a new
/// mailbox counts against the team's limit, so `mailbox.opened` is linked into [`StreamId::Team`].
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum StreamId {
    /// The team itself: its limits and what counts against them.
    Team,
    /// One API key.
    ApiKey(KeyId),
    /// One mailbox.
    Mailbox(MailboxId),
    /// One webhook endpoint.
    Webhook(WebhookId),
    /// One message in a mailbox.
    Message(MessageId),
    /// One sending domain.
    Domain(DomainId),
    /// The team's money: what was paid, held and charged.
    Balance,
    /// What routing must know of all the team's sending accounts and delivery groups.
    Routing,
    /// One sending account.
    Provider(ProviderId),
    /// One delivery group.
    Group(GroupId),
    /// One outgoing mail.
    Outbound(OutboundId),
    /// One recipient address: whether it is suppressed.
    Suppression(AddressId),
}

impl fmt::Display for StreamId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Team => f.write_str("team"),
            Self::ApiKey(id) => write!(f, "key/{id}"),
            Self::Mailbox(id) => write!(f, "mailbox/{id}"),
            Self::Webhook(id) => write!(f, "webhook/{id}"),
            Self::Message(id) => write!(f, "message/{id}"),
            Self::Domain(id) => write!(f, "domain/{id}"),
            Self::Balance => f.write_str("balance"),
            Self::Routing => f.write_str("routing"),
            Self::Provider(id) => write!(f, "provider/{id}"),
            Self::Group(id) => write!(f, "group/{id}"),
            Self::Outbound(id) => write!(f, "outbound/{id}"),
            Self::Suppression(id) => write!(f, "suppression/{id}"),
        }
    }
}

impl std::str::FromStr for StreamId {
    type Err = crate::id::BadId;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.split_once('/') {
            None if text == "team" => Ok(Self::Team),
            None if text == "balance" => Ok(Self::Balance),
            None if text == "routing" => Ok(Self::Routing),
            Some(("key", id)) => id.parse().map(Self::ApiKey),
            Some(("mailbox", id)) => id.parse().map(Self::Mailbox),
            Some(("webhook", id)) => id.parse().map(Self::Webhook),
            Some(("message", id)) => id.parse().map(Self::Message),
            Some(("domain", id)) => id.parse().map(Self::Domain),
            Some(("provider", id)) => id.parse().map(Self::Provider),
            Some(("group", id)) => id.parse().map(Self::Group),
            Some(("outbound", id)) => id.parse().map(Self::Outbound),
            Some(("suppression", id)) => id.parse().map(Self::Suppression),
            _ => Err(crate::id::BadId { kind: "stream" }),
        }
    }
}
