//! What outsiders see of events: the names and JSON of streams, webhooks and the team's event feed.
//!
//! Stored events are private; this file is the contract. Renaming a struct can never change a webhook.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::id::{EventId, MailboxId, TeamId};
use crate::{Event, api_key, mailbox, message, team, webhook_endpoint};

mod sending;

pub use sending::SendingDetails;

/// The types a webhook can subscribe to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum WebhookEventType {
    /// A receiving server accepted a message.
    #[serde(rename = "message.delivered")]
    Delivered,
    /// A message bounced.
    #[serde(rename = "message.bounced")]
    Bounced,
    /// A recipient marked a message as spam.
    #[serde(rename = "message.complained")]
    Complained,
    /// The sending system refused a message.
    #[serde(rename = "message.rejected")]
    Rejected,
    /// A delivery is late and still tried.
    #[serde(rename = "message.delivery_delayed")]
    DeliveryDelayed,
    /// A message arrived in a mailbox.
    #[serde(rename = "message.received")]
    Received,
    /// A message arrived and was classified as spam.
    #[serde(rename = "message.received.spam")]
    ReceivedSpam,
    /// Somebody asked for a test delivery.
    #[serde(rename = "sendmux.test")]
    Test,
}

impl WebhookEventType {
    /// All types, in the order of the contract.
    pub const ALL: [Self; 8] = [
        Self::Delivered,
        Self::Bounced,
        Self::Complained,
        Self::Rejected,
        Self::DeliveryDelayed,
        Self::Received,
        Self::ReceivedSpam,
        Self::Test,
    ];

    /// Returns the published name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Delivered => "message.delivered",
            Self::Bounced => "message.bounced",
            Self::Complained => "message.complained",
            Self::Rejected => "message.rejected",
            Self::DeliveryDelayed => "message.delivery_delayed",
            Self::Received => "message.received",
            Self::ReceivedSpam => "message.received.spam",
            Self::Test => "sendmux.test",
        }
    }

    /// Returns the type of that name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|t| t.as_str() == name)
    }

    /// Returns the type under which webhooks are told of an event, if they are.
    #[must_use]
    pub fn of(event: &Event) -> Option<Self> {
        match event {
            Event::Message(message::Event::Received(e)) if e.is_spam => Some(Self::ReceivedSpam),
            Event::Message(message::Event::Received(_)) => Some(Self::Received),
            Event::Webhook(webhook_endpoint::Event::Tested(_)) => Some(Self::Test),
            Event::Outbound(e) => sending::webhook_type(e),
            _ => None,
        }
    }
}

/// The `data` object of a native webhook: always these fifteen keys, null where they do not apply, and `details` about
/// outgoing mail.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct WebhookData {
    /// The message's id in the world: RFC 5322 for inbound, the provider's for sending feedback.
    pub message_id: Option<String>,
    /// `provider` or `rfc5322`.
    pub message_id_kind: Option<String>,
    /// The id of the outbound message.
    pub sendmux_message_id: Option<String>,
    /// Envelope sender.
    pub sender: Option<String>,
    /// The recipients it is about; empty for a test.
    pub recipients: Vec<String>,
    /// The mailbox, for inbound mail.
    pub mailbox_id: Option<String>,
    /// Whether inbound mail was classified as spam.
    pub is_spam: Option<bool>,
    /// `Permanent`, `Transient` or `Undetermined`.
    pub bounce_type: Option<String>,
    /// The kind of bounce within its type.
    pub bounce_subtype: Option<String>,
    /// The kind of complaint.
    pub complaint_type: Option<String>,
    /// The kind of complaint within its type.
    pub complaint_subtype: Option<String>,
    /// Why a message was refused.
    pub reject_reason: Option<String>,
    /// Why a delivery is late.
    pub delay_type: Option<String>,
    /// Until when a late delivery is tried.
    pub delay_expires_at: Option<String>,
    /// The webhook that was tested.
    pub webhook_id: Option<String>,
    /// What is known beyond the contract, about outgoing mail.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub details: Option<SendingDetails>,
}

/// The body of a native webhook request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WebhookBody {
    /// The event's id; the same in every attempt.
    pub id: String,
    /// The published type.
    #[serde(rename = "type")]
    pub event_type: WebhookEventType,
    /// The team.
    pub team_public_id: String,
    /// When it happened, RFC 3339 UTC.
    pub occurred_at: String,
    /// Its place in the team's log: lets a receiver put late arrivals in order.
    pub sequence: u64,
    /// What happened.
    pub data: WebhookData,
}

/// What is published of one event besides its data.
#[derive(Debug, Clone, Copy)]
pub struct Envelope<'a> {
    /// The team.
    pub team: &'a TeamId,
    /// The event's public id.
    pub id: EventId,
    /// When it happened, microseconds since the Unix epoch.
    pub at: i64,
}

/// Returns the body that a webhook is sent for an event; `None` if webhooks are not told of it.
///
/// The same event always gives the same bytes, so every attempt of a delivery carries the same body.
#[must_use]
pub fn webhook_body(event: &Event, envelope: Envelope<'_>) -> Option<WebhookBody> {
    let data = match event {
        Event::Message(message::Event::Received(e)) => WebhookData {
            message_id: e.personal.known().map(|p| p.rfc5322_message_id.clone()),
            message_id_kind: Some("rfc5322".to_owned()),
            sender: e.personal.known().and_then(|p| p.mail_from.clone()),
            recipients: e.personal.known().map(|p| p.rcpt_to.clone()).unwrap_or_default(),
            mailbox_id: Some(e.mailbox.to_string()),
            is_spam: Some(e.is_spam),
            ..WebhookData::default()
        },
        Event::Webhook(webhook_endpoint::Event::Tested(e)) => {
            WebhookData { webhook_id: Some(e.webhook.to_string()), ..WebhookData::default() }
        }
        Event::Outbound(e) => sending::webhook_data(e)?,
        _ => return None,
    };
    Some(WebhookBody {
        id: envelope.id.to_string(),
        event_type: WebhookEventType::of(event)?,
        team_public_id: envelope.team.to_string(),
        occurred_at: rfc3339(envelope.at),
        sequence: envelope.id.position,
        data,
    })
}

/// Returns every type the team's feed can contain: a misspelt filter can be told from one that matches nothing yet.
pub fn types() -> impl Iterator<Item = &'static str> {
    let stored = crate::event::stored().map(|(name, _)| sending::name_of(name).unwrap_or(name));
    // A test delivery is published under the name its webhook sees.
    stored
        .filter(|name| *name != "webhook.tested")
        .chain(WebhookEventType::ALL.into_iter().map(WebhookEventType::as_str))
}

/// An event as the team's own feed shows it.
#[derive(Debug, Clone, PartialEq)]
pub struct Published {
    /// The published type: the webhook name where there is one, else the stored name.
    pub event_type: String,
    /// The mailbox it is about.
    pub mailbox: Option<MailboxId>,
    /// What happened. Personal fields are null after erasure.
    pub data: Value,
}

/// Returns what the team itself may see of an event.
///
/// Secrets never are in events; lookup digests of keys and references to sealed secrets are left out here.
#[must_use]
pub fn published(event: &Event) -> Option<Published> {
    let own_name = || sending::name_of(event.name()).unwrap_or(event.name()).to_owned();
    let event_type = WebhookEventType::of(event).map_or_else(own_name, |t| t.as_str().to_owned());
    let (mailbox, data) = match event {
        Event::Team(e) => (None, team_data(e)),
        Event::SendingDomain(e) => (None, sending::domain_data(e)),
        Event::Provider(e) => (None, sending::provider_data(e)),
        Event::DeliveryGroup(e) => (None, sending::group_data(e)),
        Event::Routing(e) => (None, sending::routing_data(e)),
        Event::Balance(e) => (None, sending::balance_data(e)),
        Event::Suppression(e) => (None, sending::suppression_data(e)),
        Event::Outbound(e) => (e.mail().mailbox.clone(), sending::mail_data(e)),
        Event::ApiKey(e) => key_data(e),
        Event::Mailbox(e) => (Some(e.mailbox().clone()), mailbox_data(e)),
        Event::Message(e) => (Some(e.mailbox().clone()), message_data(e)),
        Event::Webhook(e) => (None, webhook_data(e)),
        Event::Unknown(_) => return None,
    };
    Some(Published { event_type, mailbox, data })
}

fn team_data(event: &team::Event) -> Value {
    match event {
        team::Event::Created(e) => {
            json!({"team_id": e.team, "name": e.personal.known().map(|p| &p.name), "limits": e.limits})
        }
        team::Event::LimitsChanged(e) => json!({"limits": e.limits}),
        team::Event::LimitIncreaseRequested(e) => {
            json!({"request_id": e.request, "resource": e.resource, "current": e.current})
        }
        team::Event::LimitIncreaseDecided(e) => {
            json!({"request_id": e.request, "resource": e.resource, "decision": e.decision})
        }
        team::Event::PersonalDataErased(e) => {
            json!({"subject": e.subject, "events": e.events, "bodies": e.bodies})
        }
    }
}

fn key_data(event: &api_key::Event) -> (Option<MailboxId>, Value) {
    match event {
        api_key::Event::Created(e) => (
            e.mailbox.clone(),
            json!({
                "key_id": e.key, "kind": e.kind, "name": e.personal.known().map(|p| &p.name), "key_prefix": e.prefix,
                "key_suffix": e.suffix, "permissions": e.permissions, "mailbox_id": e.mailbox, "replaces": e.replaces,
            }),
        ),
        api_key::Event::SendScopeChanged(e) => (None, sending::send_scope_data(e)),
        api_key::Event::Revoked(e) => {
            (e.mailbox.clone(), json!({"key_id": e.key, "mailbox_id": e.mailbox, "reason": e.reason}))
        }
    }
}

fn mailbox_data(event: &mailbox::Event) -> Value {
    use mailbox::Event as E;
    let id = event.mailbox();
    match event {
        E::Opened(e) => json!({
            "mailbox_id": id, "email": e.personal.known().map(|p| &p.email),
            "display_name": e.personal.known().and_then(|p| p.display_name.as_ref()),
            "quota_bytes": e.quota_bytes, "send_scope": e.send_scope,
        }),
        E::Renamed(e) => {
            json!({"mailbox_id": id, "display_name": e.personal.known().and_then(|p| p.display_name.as_ref())})
        }
        E::QuotaChanged(e) => json!({"mailbox_id": id, "quota_bytes": e.quota_bytes}),
        E::SendScopeChanged(e) => json!({"mailbox_id": id, "send_scope": e.send_scope}),
        E::RulesReplaced(e) => json!({"mailbox_id": id, "mode": e.mode, "rules": e.count}),
        E::Suspended(_) | E::Resumed(_) => json!({"mailbox_id": id}),
        E::Closed(e) => json!({"mailbox_id": id, "email": e.personal.known().map(|p| &p.email)}),
    }
}

fn message_data(event: &message::Event) -> Value {
    use message::Event as E;
    match event {
        E::Received(e) => {
            let p = e.personal.known();
            json!({
                "id": e.message, "mailbox_id": e.mailbox, "thread_id": e.thread, "folder_id": e.folder,
                "size_bytes": e.size_bytes, "sha256": e.sha256, "is_spam": e.is_spam, "spam_score": e.spam_score,
                "spam_rules": e.spam_rules, "attachments": e.attachments, "authentication": e.authentication,
                "message_id": p.map(|p| &p.rfc5322_message_id), "message_id_kind": "rfc5322",
                "sender": p.and_then(|p| p.mail_from.as_ref()), "recipients": p.map(|p| &p.rcpt_to),
                "from": p.and_then(|p| p.from.as_ref()), "to": p.map(|p| &p.to), "cc": p.map(|p| &p.cc),
                "subject": p.and_then(|p| p.subject.as_ref()), "preview": p.map(|p| &p.preview),
                "verified_domain": p.and_then(|p| p.verified_domain.as_ref()),
            })
        }
        E::Filed(e) => {
            let p = e.personal.known();
            json!({
                "id": e.message, "mailbox_id": e.mailbox, "thread_id": e.thread, "folder_id": e.folder,
                "size_bytes": e.size_bytes, "sha256": e.sha256, "attachments": e.attachments, "keywords": e.keywords,
                "sendmux_message_id": e.outbound, "message_id": p.map(|p| &p.rfc5322_message_id),
                "message_id_kind": "rfc5322", "from": p.and_then(|p| p.from.as_ref()), "to": p.map(|p| &p.to),
                "cc": p.map(|p| &p.cc), "subject": p.and_then(|p| p.subject.as_ref()),
                "preview": p.map(|p| &p.preview),
            })
        }
        E::KeywordsChanged(e) => {
            json!({"id": e.message, "mailbox_id": e.mailbox, "added": e.added, "removed": e.removed})
        }
        E::Moved(e) => json!({"id": e.message, "mailbox_id": e.mailbox, "folder_id": e.folder}),
        E::DuplicateReceived(e) => json!({"id": e.message, "mailbox_id": e.mailbox}),
        E::Destroyed(e) => json!({"id": e.message, "mailbox_id": e.mailbox, "size_bytes": e.size_bytes}),
    }
}

fn webhook_data(event: &webhook_endpoint::Event) -> Value {
    use webhook_endpoint::Event as E;
    let id = event.webhook();
    match event {
        E::Created(e) => json!({
            "webhook_id": id, "url": e.personal.known().map(|p| &p.url),
            "name": e.personal.known().and_then(|p| p.name.as_ref()), "enabled": e.enabled,
            "event_types": e.subscription.event_types, "mailbox_ids": e.subscription.mailboxes,
        }),
        E::Redirected(e) => json!({
            "webhook_id": id, "url": e.personal.known().map(|p| &p.url),
            "name": e.personal.known().and_then(|p| p.name.as_ref()),
        }),
        E::SubscriptionChanged(e) => json!({
            "webhook_id": id, "event_types": e.subscription.event_types, "mailbox_ids": e.subscription.mailboxes,
        }),
        E::Enabled(e) => json!({"webhook_id": id, "backlog": e.backlog}),
        E::Disabled(e) => json!({"webhook_id": id, "reason": e.reason}),
        E::DeliveryExhausted(e) => {
            json!({"webhook_id": id, "event_position": e.event_position, "attempts": e.attempts})
        }
        E::DeliverySkipped(e) => json!({"webhook_id": id, "event_position": e.event_position, "reason": e.reason}),
        E::SecretRotated(_) | E::Tested(_) | E::Failing(_) | E::Deleted(_) => json!({"webhook_id": id}),
    }
}

/// Returns a time in microseconds since the Unix epoch as RFC 3339 UTC with milliseconds, ending in `Z`.
///
/// Times outside the years 0 to 9999 are shown as the nearest of these.
#[must_use]
pub fn rfc3339(at_micros: i64) -> String {
    let clamped = at_micros.clamp(-62_167_219_200_000_000, 253_402_207_200_000_000 - 1);
    let timestamp = jiff::Timestamp::from_microsecond(clamped).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
    format!("{timestamp:.3}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{received, team_id};

    #[test]
    fn a_webhook_body_has_all_fifteen_data_keys() {
        let team = team_id();
        let envelope = Envelope { team: &team, id: EventId::new(&team, 1, 7), at: 1_700_000_000_123_456 };
        let body = webhook_body(&received(1), envelope).unwrap();
        let json = serde_json::to_value(&body).unwrap();
        assert_eq!(json["data"].as_object().unwrap().len(), 15);
        assert_eq!(json["type"], "message.received");
        assert_eq!(json["occurred_at"], "2023-11-14T22:13:20.123Z");
        assert_eq!(json["sequence"], 7);
    }

    #[test]
    fn a_webhook_about_an_outgoing_mail_has_the_fifteen_keys_and_what_is_known_beyond_them() {
        let team = team_id();
        let envelope = Envelope { team: &team, id: EventId::new(&team, 1, 7), at: 1_700_000_000_123_456 };
        let mut told = std::collections::BTreeMap::new();
        for event in crate::testing::one_of_each().iter().filter(|e| matches!(e, Event::Outbound(_))) {
            let Some(body) = webhook_body(event, envelope) else { continue };
            let json = serde_json::to_value(&body).unwrap();
            assert_eq!(json["data"].as_object().unwrap().len(), 16);
            assert!(json["data"]["sendmux_message_id"].as_str().unwrap().starts_with("eml_"));
            assert_eq!(json["data"]["recipients"], json!(["r1@example.net"]));
            let back: WebhookBody = serde_json::from_value(json.clone()).unwrap();
            assert_eq!(back, body);
            assert!(webhook_body(&event.erased(), envelope).unwrap().data.recipients.is_empty());
            told.insert(body.event_type, json["data"].clone());
        }
        let types: Vec<_> = told.keys().map(|t| t.as_str()).collect();
        let all = [
            "message.delivered",
            "message.bounced",
            "message.complained",
            "message.rejected",
            "message.delivery_delayed",
        ];
        assert_eq!(types, all);
        let bounced = &told[&WebhookEventType::Bounced];
        assert_eq!((&bounced["bounce_type"], &bounced["bounce_subtype"]), (&json!("Permanent"), &json!("NoEmail")));
        assert_eq!((&bounced["message_id"], &bounced["message_id_kind"]), (&json!("0100"), &json!("provider")));
        assert_eq!(bounced["details"]["enhanced_code"], "5.1.1");
        assert_eq!(bounced["details"]["labels"]["tags"], json!(["welcome"]));
    }

    #[test]
    fn every_event_but_unknown_is_published_without_secrets() {
        for event in crate::testing::one_of_each() {
            let shown = published(&event).unwrap().data.to_string();
            assert!(!shown.contains("lookup") && !shown.contains("sec_"), "{shown}");
            assert!(published(&event.erased()).is_some());
            assert!(types().any(|t| t == published(&event).unwrap().event_type), "{}", event.name());
        }
    }
}
