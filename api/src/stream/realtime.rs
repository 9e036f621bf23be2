//! What a mailbox's stream says of an event: the message with a piece of its body, so that most readers need not ask again.

use domain::event::Event;
use domain::id::{EventId, MailboxId, TeamId};
use domain::message;
use domain::published::{WebhookEventType, rfc3339};
use serde::Serialize;
use utoipa::ToSchema;

use super::snapshot::Snapshot;

/// What the stream tells of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = MailboxRealtimeEventType)]
pub enum EventType {
    /// A message arrived.
    #[serde(rename = "message.received")]
    Received,
    /// A message arrived and was classified as spam.
    #[serde(rename = "message.received.spam")]
    ReceivedSpam,
    /// The place to resume from is not known or too old: read the changes, then go on with this stream.
    #[serde(rename = "sync_required")]
    SyncRequired,
}

/// A name and an address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = MailboxAddress)]
pub struct Address {
    /// The address.
    pub email: String,
    /// The name shown beside it.
    #[schema(required)]
    pub name: Option<String>,
}

impl From<&message::Person> for Address {
    fn from(person: &message::Person) -> Self {
        Self { email: person.email.clone(), name: person.name.clone() }
    }
}

/// The flags of a message when the event happened.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = MailboxMessageFlags)]
pub struct Flags {
    /// Whether it was read.
    pub seen: bool,
    /// Whether it was marked.
    pub flagged: bool,
    /// Whether it is a draft.
    pub draft: bool,
    /// Whether it was answered.
    pub answered: bool,
}

/// The beginning of a message's body.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = MailboxRealtimeBody)]
pub struct Body {
    /// The text; null when there is none or the message is gone.
    #[schema(required)]
    pub text: Option<String>,
    /// The HTML as sent, not sanitised; null when there is none or the message is gone.
    #[schema(required)]
    pub html: Option<String>,
    /// Whether the message has more text or HTML than this.
    pub is_truncated: bool,
    /// How many bytes text and HTML may each have here.
    pub max_bytes: usize,
}

/// An attachment, as its sender describes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = MailboxRealtimeAttachment)]
pub struct Attachment {
    /// The attachment's id within the message.
    pub id: String,
    /// Its file name.
    #[schema(required)]
    pub filename: Option<String>,
    /// Its declared media type.
    pub content_type: String,
    /// Its decoded size.
    #[schema(required)]
    pub size_bytes: Option<u64>,
    /// `attachment` or `inline`.
    #[schema(required)]
    pub disposition: Option<String>,
    /// The id by which the HTML refers to it.
    #[schema(required)]
    pub content_id: Option<String>,
}

/// The message that an event is about, as it arrived.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = MailboxRealtimeMessage)]
pub struct Message {
    /// The message.
    pub id: String,
    /// Its thread.
    #[schema(required)]
    pub thread_id: Option<String>,
    /// The folder it was put into.
    pub folder_ids: Vec<String>,
    /// Its subject.
    #[schema(required)]
    pub subject: Option<String>,
    /// Its first visible words.
    #[schema(required)]
    pub preview: Option<String>,
    /// Its author.
    #[schema(required)]
    pub from: Option<Address>,
    /// Its primary recipients.
    pub to: Vec<Address>,
    /// Its further recipients.
    pub cc: Vec<Address>,
    /// Recipients its header should not have named.
    pub bcc: Vec<Address>,
    /// When it arrived.
    #[schema(required)]
    pub received_at: Option<String>,
    /// When its author says it was sent.
    #[schema(required)]
    pub sent_at: Option<String>,
    /// How many bytes it has.
    #[schema(required)]
    pub size_bytes: Option<i64>,
    /// Whether it has attachments.
    pub has_attachments: bool,
    /// Its attachments, without their bytes.
    pub attachments: Vec<Attachment>,
    /// Its keywords when it arrived.
    pub keywords: Vec<String>,
    /// Its flags when it arrived.
    pub flags: Flags,
    /// Its Message-ID without angle brackets (RFC 5322 section 3.6.4).
    #[schema(required)]
    pub rfc5322_message_id: Option<String>,
    /// The beginning of its body.
    pub body: Body,
}

/// One event of a mailbox's stream. All keys are always there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = MailboxRealtimeEvent)]
pub struct RealtimeEvent {
    /// The event's id, the same as in the stream's `id` line; null for `sync_required`.
    #[schema(required)]
    pub id: Option<String>,
    /// What happened.
    pub event_type: EventType,
    /// The team.
    pub team_public_id: String,
    /// The mailbox.
    pub mailbox_id: String,
    /// The message's Message-ID.
    #[schema(required)]
    pub message_id: Option<String>,
    /// What kind of id that is.
    #[schema(required)]
    pub message_id_kind: Option<&'static str>,
    /// The envelope sender; null for the null sender of bounces.
    #[schema(required)]
    pub sender: Option<String>,
    /// The envelope recipients of this copy.
    pub recipients: Vec<String>,
    /// Whether the message was classified as spam.
    #[schema(required)]
    pub is_spam: Option<bool>,
    /// The message.
    #[schema(required)]
    pub message: Option<Message>,
    /// When it happened.
    pub occurred_at: String,
}

/// Returns under which type a mailbox's stream tells of an event, if it does.
pub(super) fn told_as(event: &Event, mailbox: &MailboxId) -> Option<WebhookEventType> {
    match event {
        Event::Message(message::Event::Received(e)) if e.mailbox == *mailbox => WebhookEventType::of(event),
        _ => None,
    }
}

/// Returns what a mailbox's stream says of the arrival of a message.
pub(super) fn received(
    id: EventId,
    team: &TeamId,
    at: i64,
    event: &domain::Halves<message::Received, message::Correspondence>,
    snapshot: Snapshot,
) -> RealtimeEvent {
    let personal = event.personal.known();
    let addresses = |people: &[message::Person]| people.iter().map(Address::from).collect();
    let message_id = personal.map(|p| p.rfc5322_message_id.clone());
    let message = Message {
        id: event.message.to_string(),
        thread_id: Some(event.thread.to_string()),
        folder_ids: vec![event.folder.as_str().to_owned()],
        subject: personal.and_then(|p| p.subject.clone()),
        preview: personal.map(|p| p.preview.clone()),
        from: personal.and_then(|p| p.from.as_ref()).map(Address::from),
        to: personal.map(|p| addresses(&p.to)).unwrap_or_default(),
        cc: personal.map(|p| addresses(&p.cc)).unwrap_or_default(),
        bcc: snapshot.bcc,
        received_at: Some(rfc3339(at)),
        sent_at: event.sent_at.map(rfc3339),
        size_bytes: Some(event.size_bytes),
        has_attachments: event.attachments > 0,
        attachments: snapshot.attachments,
        keywords: vec![],
        flags: Flags::default(),
        rfc5322_message_id: message_id.clone(),
        body: snapshot.body,
    };
    RealtimeEvent {
        id: Some(id.to_string()),
        event_type: if event.is_spam { EventType::ReceivedSpam } else { EventType::Received },
        team_public_id: team.to_string(),
        mailbox_id: event.mailbox.to_string(),
        message_id_kind: message_id.is_some().then_some("rfc5322"),
        message_id,
        sender: personal.and_then(|p| p.mail_from.clone()),
        recipients: personal.map(|p| p.rcpt_to.clone()).unwrap_or_default(),
        is_spam: Some(event.is_spam),
        message: Some(message),
        occurred_at: rfc3339(at),
    }
}

/// Returns what tells a client that it must read the changes of its mailbox.
pub(super) fn sync_required(team: &TeamId, mailbox: &MailboxId, at: i64) -> RealtimeEvent {
    RealtimeEvent {
        id: None,
        event_type: EventType::SyncRequired,
        team_public_id: team.to_string(),
        mailbox_id: mailbox.to_string(),
        message_id: None,
        message_id_kind: None,
        sender: None,
        recipients: vec![],
        is_spam: None,
        message: None,
        occurred_at: rfc3339(at),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use domain::testing::{mailbox_id, received_halves, team_id};

    fn shown() -> serde_json::Value {
        let (facts, personal) = received_halves(1, &mailbox_id(1));
        let halves = domain::Halves::new(facts, personal);
        let id = EventId::new(&team_id(), 1, 9);
        serde_json::to_value(received(id, &team_id(), 1_700_000_000_000_000, &halves, Snapshot::none(16_384))).unwrap()
    }

    #[test]
    fn every_key_of_the_contract_is_there() {
        let shown = shown();
        let keys = [
            "event_type",
            "team_public_id",
            "mailbox_id",
            "message_id",
            "message_id_kind",
            "sender",
            "recipients",
            "is_spam",
            "message",
            "occurred_at",
            "id",
        ];
        assert_eq!(shown.as_object().unwrap().len(), keys.len());
        assert!(keys.iter().all(|k| shown.get(k).is_some()));
        let keys = [
            "id",
            "thread_id",
            "folder_ids",
            "subject",
            "preview",
            "from",
            "to",
            "cc",
            "bcc",
            "received_at",
            "sent_at",
            "size_bytes",
            "has_attachments",
            "attachments",
            "keywords",
            "flags",
            "rfc5322_message_id",
            "body",
        ];
        assert_eq!(shown["message"].as_object().unwrap().len(), keys.len());
        assert!(keys.iter().all(|k| shown["message"].get(k).is_some()));
        assert_eq!(shown["message"]["body"]["max_bytes"], 16_384);
        assert_eq!(shown["message"]["from"], serde_json::json!({"email": "ann@example.net", "name": null}));
        assert_eq!(shown["occurred_at"], "2023-11-14T22:13:20.000Z");
    }

    #[test]
    fn sync_required_has_the_same_keys_and_no_message() {
        let shown = shown();
        let sync = serde_json::to_value(sync_required(&team_id(), &mailbox_id(1), 0)).unwrap();
        assert_eq!(sync["event_type"], "sync_required");
        assert_eq!(sync["recipients"], serde_json::json!([]));
        assert!(sync["message"].is_null() && sync["id"].is_null() && sync["is_spam"].is_null());
        assert!(shown.as_object().unwrap().keys().eq(sync.as_object().unwrap().keys()));
    }

    #[test]
    fn an_erased_message_says_nothing_personal() {
        let (facts, _) = received_halves(1, &mailbox_id(1));
        let halves = domain::Halves { facts, personal: domain::Personal::Erased };
        let id = EventId::new(&team_id(), 1, 9);
        let event = received(id, &team_id(), 0, &halves, Snapshot::none(16_384));
        let text = serde_json::to_string(&event).unwrap();
        assert!(!text.contains('@') && event.message_id_kind.is_none());
    }
}
