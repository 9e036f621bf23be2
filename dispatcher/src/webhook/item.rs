//! What the log holds for webhooks: records as they are delivered, rendered once.

use bytes::Bytes;
use domain::StreamId;
use domain::id::{EventId, MailboxId, Position, TeamId, WebhookId};
use domain::published::{Envelope, WebhookEventType, webhook_body};
use domain::webhook_endpoint::Subscription;
use domain::{Event, webhook_endpoint};
use eventlog::{EventLog, LogError, Recorded, StoredRecord};

use super::window::Lane;

/// An event that webhooks can be told of.
#[derive(Debug)]
pub(crate) struct Item {
    /// Where it is in the team's log.
    pub(crate) position: Position,
    /// Its public id.
    pub(crate) id: EventId,
    /// Its published type.
    pub(crate) event_type: WebhookEventType,
    /// The mailbox it is about.
    pub(crate) mailbox: Option<MailboxId>,
    /// The only webhook it is for, if it is a test.
    pub(crate) test_of: Option<WebhookId>,
    /// The exact bytes to send, or why there are none.
    pub(crate) body: Result<Bytes, String>,
}

impl Item {
    /// Returns whether a webhook with this subscription is told of the event.
    pub(crate) fn is_wanted(&self, webhook: &WebhookId, subscription: &Subscription) -> bool {
        if !subscription.event_types.contains(&self.event_type) {
            return false;
        }
        match (&self.test_of, &self.mailbox) {
            (Some(of), _) => of == webhook,
            (None, Some(mailbox)) => subscription.mailboxes.is_empty() || subscription.mailboxes.contains(mailbox),
            (None, None) => subscription.mailboxes.is_empty(),
        }
    }

    /// Returns the events among which this one keeps its order.
    pub(crate) fn lane(&self) -> Lane {
        self.mailbox.clone()
    }
}

/// A page of the log, reduced to what webhooks are told of.
#[derive(Debug, Default)]
pub(crate) struct LogPage {
    /// The events, in order.
    pub(crate) items: Vec<std::sync::Arc<Item>>,
    /// The last position read; 0 if there was nothing.
    pub(crate) last: Position,
}

/// Reads the page behind a position.
///
/// # Errors
/// The log cannot be read. A record that cannot be decoded is an item without a body, not an error.
pub(crate) async fn read_page(
    log: &EventLog,
    team: &TeamId,
    after: Position,
    limit: usize,
) -> Result<LogPage, LogError> {
    let stored = log.read_stored(team, after, limit).await?;
    Ok(LogPage {
        last: stored.last().map_or(0, |record| record.position),
        items: stored.iter().filter_map(item).map(std::sync::Arc::new).collect(),
    })
}

/// Returns whether webhooks may be told of events of a name: most are none of ours, and need not be decoded to see that.
fn may_be_told(name: &str) -> bool {
    matches!(name.split_once('.'), Some(("message" | "outbound" | "webhook", _)))
}

fn item(stored: &StoredRecord) -> Option<Item> {
    if !may_be_told(&stored.name) {
        return None;
    }
    match Recorded::decode(stored) {
        Ok(record) => rendered(&record),
        Err(error) => undecodable(stored, &error),
    }
}

fn rendered(record: &Recorded) -> Option<Item> {
    let event_type = WebhookEventType::of(&record.event)?;
    let envelope = Envelope { team: &record.team, id: record.id(), at: record.at };
    let body = webhook_body(&record.event, envelope)?;
    let (mailbox, test_of) = match &record.event {
        Event::Message(e) => (Some(e.mailbox().clone()), None),
        Event::Outbound(e) => (e.mail().mailbox.clone(), None),
        Event::Webhook(webhook_endpoint::Event::Tested(e)) => (None, Some(e.webhook.clone())),
        _ => (None, None),
    };
    let body = serde_json::to_vec(&body).map(Bytes::from).map_err(|error| error.to_string());
    Some(Item { position: record.position, id: record.id(), event_type, mailbox, test_of, body })
}

/// Makes of a damaged record what its surroundings still tell: whom it concerns, so that nobody else waits for it.
fn undecodable(stored: &StoredRecord, error: &(dyn std::error::Error + 'static)) -> Option<Item> {
    let stream = stored.stream.parse().ok();
    let facts: serde_json::Value = serde_json::from_str(&stored.facts).unwrap_or_default();
    let (event_type, test_of) = match (stored.name.as_str(), stream) {
        ("message.received", _) => (WebhookEventType::Received, None),
        ("outbound.delivered", _) => (WebhookEventType::Delivered, None),
        ("outbound.bounced", _) => (WebhookEventType::Bounced, None),
        ("outbound.complained", _) => (WebhookEventType::Complained, None),
        ("outbound.rejected", _) => (WebhookEventType::Rejected, None),
        ("outbound.delayed", _) => (WebhookEventType::DeliveryDelayed, None),
        ("outbound.deferred", _) if facts["announced"] == true => (WebhookEventType::DeliveryDelayed, None),
        ("webhook.tested", Some(StreamId::Webhook(webhook))) => (WebhookEventType::Test, Some(webhook)),
        _ => return None,
    };
    let causes: Vec<_> = std::iter::successors(Some(error), |error| error.source()).map(ToString::to_string).collect();
    Some(Item {
        position: stored.position,
        id: EventId::new(&stored.team, stored.epoch, stored.position),
        event_type,
        mailbox: facts
            .get("mailbox")
            .or_else(|| facts["mail"].get("mailbox"))
            .and_then(|id| id.as_str())
            .and_then(|id| id.parse().ok()),
        test_of,
        body: Err(causes.join(": ")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_event_that_webhooks_are_told_of_is_decoded() {
        let told: Vec<_> =
            domain::testing::one_of_each().into_iter().filter(|e| WebhookEventType::of(e).is_some()).collect();
        assert!(told.len() >= WebhookEventType::ALL.len() - 1);
        for event in told {
            assert!(may_be_told(event.name()), "{}", event.name());
        }
    }
}
