//! From records to frames: what a team's stream and a mailbox's stream say of an event.
//!
//! The frame of a record is always the same bytes (until its personal half is erased), so it does not matter whether a
//! client gets it live, from a window or from a replay. Frames with a piece of a message are costly and therefore kept
//! for a while: after a restart many clients resume at the same places.

use std::borrow::Cow;
use std::num::NonZeroUsize;
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use domain::Event;
use domain::id::{MailboxId, Position, TeamId};
use domain::message;
use domain::published::{published, rfc3339};
use eventlog::{EventLog, LogError, Recorded};
use lru::LruCache;
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use super::filter::{Filter, Interest};
use super::frame::{self, Encoded};
use super::realtime;
use super::snapshot::Snapshot;

/// One event of a team's feed, on the stream and in pages alike. All keys are always there.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
#[schema(as = PublishedEvent)]
pub struct PublishedEvent {
    /// The event's id; null for `sync_required`.
    #[schema(required)]
    pub id: Option<String>,
    /// The published type.
    #[serde(rename = "type")]
    pub event_type: String,
    /// Its place in the team's log.
    pub position: u64,
    /// When it happened.
    pub occurred_at: String,
    /// Who caused it: `key:` and an id, `operator`, `smtp`, or `system:` and a part of this server.
    #[schema(required)]
    pub actor: Option<String>,
    /// The mailbox it is about.
    #[schema(required)]
    pub mailbox_id: Option<String>,
    /// What happened; null for `sync_required`. What named people is null once it was erased.
    #[schema(required, value_type = Option<Object>)]
    pub data: Option<Value>,
}

impl PublishedEvent {
    /// Returns what a team may see of a record; `None` if it is not published.
    pub(super) fn of(record: &Recorded) -> Option<Self> {
        let shown = published(&record.event)?;
        Some(Self {
            id: Some(record.id().to_string()),
            event_type: shown.event_type,
            position: record.position,
            occurred_at: rfc3339(record.at),
            actor: Some(record.actor.clone()),
            mailbox_id: shown.mailbox.map(|m| m.to_string()),
            data: Some(shown.data),
        })
    }

    /// Returns what tells a client of the team's stream that the place it named is not known or too old.
    pub(super) fn sync_required(head: Position, at: i64) -> Self {
        Self {
            id: None,
            event_type: "sync_required".to_owned(),
            position: head,
            occurred_at: rfc3339(at),
            actor: None,
            mailbox_id: None,
            data: None,
        }
    }
}

/// Costly frames, as many as fit into a number of bytes; the least recently used leave.
struct Kept {
    frames: LruCache<(TeamId, Position), Bytes>,
    bytes: usize,
}

/// Makes frames.
pub(super) struct Renderer {
    log: EventLog,
    body_bytes: usize,
    kept_bytes_max: usize,
    kept: Mutex<Kept>,
}

/// The most frames kept, whatever their size.
const KEPT_MAX: NonZeroUsize = NonZeroUsize::new(16_384).expect("not zero");

impl Renderer {
    /// Returns a renderer that puts at most `body_bytes` of text and of HTML into an event.
    pub fn new(log: EventLog, body_bytes: usize, kept_bytes_max: usize) -> Self {
        let kept = Mutex::new(Kept { frames: LruCache::new(KEPT_MAX), bytes: 0 });
        Self { log, body_bytes, kept_bytes_max, kept }
    }

    /// Returns the frame of a record for an interest, if it is told of it and the filter lets it pass.
    ///
    /// # Errors
    /// A store does not answer.
    pub async fn encode(
        &self,
        interest: &Interest,
        filter: &Filter,
        record: &Recorded,
    ) -> Result<Option<Encoded>, LogError> {
        match interest {
            Interest::Team => Ok(self.encode_published(filter, record)),
            Interest::Mailbox(mailbox) => self.encode_realtime(mailbox, filter, record).await,
        }
    }

    fn encode_published(&self, filter: &Filter, record: &Recorded) -> Option<Encoded> {
        let shown = PublishedEvent::of(record)?;
        let mailbox = shown.mailbox_id.as_deref().and_then(|m| m.parse().ok());
        if !filter.passes(&shown.event_type, mailbox.as_ref()) {
            return None;
        }
        let frame = serialised(frame::event(&shown.event_type, &shown, record.id()), record)?;
        Some(Encoded { event_type: Cow::Owned(shown.event_type), mailbox, frame })
    }

    async fn encode_realtime(
        &self,
        mailbox: &MailboxId,
        filter: &Filter,
        record: &Recorded,
    ) -> Result<Option<Encoded>, LogError> {
        let Some(told_as) = realtime::told_as(&record.event, mailbox) else { return Ok(None) };
        let event_type = told_as.as_str();
        if !filter.passes(event_type, Some(mailbox)) {
            return Ok(None);
        }
        let Event::Message(message::Event::Received(event)) = &record.event else { return Ok(None) };
        let encoded = |frame| Encoded { event_type: Cow::Borrowed(event_type), mailbox: Some(mailbox.clone()), frame };
        // What was erased is rendered anew, so that no kept frame outlives it.
        let known = event.personal.known().is_some();
        let key = (record.team.clone(), record.position);
        if known && let Some(frame) = self.lock().frames.get(&key) {
            return Ok(Some(encoded(frame.clone())));
        }
        let snapshot = Snapshot::read(&self.log, &record.team, event, self.body_bytes).await?;
        let shown = realtime::received(record.id(), &record.team, record.at, event, snapshot);
        let Some(frame) = serialised(frame::event(event_type, &shown, record.id()), record) else { return Ok(None) };
        if known {
            self.keep(key, &frame);
        }
        Ok(Some(encoded(frame)))
    }

    fn keep(&self, key: (TeamId, Position), frame: &Bytes) {
        let mut kept = self.lock();
        kept.bytes += frame.len();
        if let Some((_, old)) = kept.frames.push(key, frame.clone()) {
            kept.bytes -= old.len();
        }
        while kept.bytes > self.kept_bytes_max {
            let Some((_, old)) = kept.frames.pop_lru() else { break };
            kept.bytes -= old.len();
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Payloads are plain structs and JSON values, which always serialise; should one ever not, it is left out, loudly.
fn serialised(frame: Result<Bytes, serde_json::Error>, record: &Recorded) -> Option<Bytes> {
    frame
        .inspect_err(|error| {
            let error = error as &dyn std::error::Error;
            tracing::error!(error, event.type = record.event.name(), log.position = record.position, "an event cannot be shown");
        })
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use domain::id::Position;
    use domain::testing::{mailbox_id, one_of_each, received, team_id};
    use eventlog::{Allot, BlobStore, MasterKey, MemoryBackend, Options};
    use std::sync::Arc;

    fn recorded(position: Position, event: Event) -> Recorded {
        Recorded {
            team: team_id(),
            position,
            epoch: 1,
            stream: event.stream(),
            stream_version: 1,
            event,
            actor: "smtp".into(),
            causation: None,
            correlation: "req_1".into(),
            client_ip: Some("192.0.2.1".into()),
            at: 1_700_000_000_000_000,
            hash: [0; 32],
        }
    }

    async fn renderer(kept_bytes_max: usize) -> Renderer {
        let options = Options::new(MasterKey::new(&[1; 32]), BlobStore::memory(), Allot::system().entropy());
        let log = EventLog::open(Arc::new(MemoryBackend::default()), options).await.unwrap();
        Renderer::new(log, 16_384, kept_bytes_max)
    }

    #[tokio::test]
    async fn a_mailbox_hears_of_its_own_mail_only() {
        let renderer = renderer(1 << 20).await;
        let own = Interest::Mailbox(mailbox_id(1));
        let other = Interest::Mailbox(mailbox_id(2));
        for event in one_of_each() {
            let told = matches!(event, Event::Message(message::Event::Received(_)));
            let record = recorded(1, event);
            assert_eq!(renderer.encode(&own, &Filter::all(), &record).await.unwrap().is_some(), told);
            assert!(renderer.encode(&other, &Filter::all(), &record).await.unwrap().is_none());
            assert!(renderer.encode(&Interest::Team, &Filter::all(), &record).await.unwrap().is_some());
        }
    }

    #[tokio::test]
    async fn client_addresses_are_not_shown_to_the_team_feed() {
        let renderer = renderer(1 << 20).await;
        let record = recorded(4, received(1));
        let shown = renderer.encode(&Interest::Team, &Filter::all(), &record).await.unwrap().unwrap();
        assert!(!std::str::from_utf8(&shown.frame).unwrap().contains("192.0.2.1"));
    }

    #[tokio::test]
    async fn kept_frames_are_bounded_and_an_erased_one_is_not_shown_again() {
        let renderer = renderer(3_000).await;
        let own = Interest::Mailbox(mailbox_id(1));
        for n in 1..=50u8 {
            renderer.encode(&own, &Filter::all(), &recorded(n.into(), received(n))).await.unwrap().unwrap();
            let kept = renderer.lock();
            assert!(kept.bytes <= 3_000 && kept.bytes == kept.frames.iter().map(|(_, f)| f.len()).sum::<usize>());
        }
        let erased = recorded(50, received(50).erased());
        let shown = renderer.encode(&own, &Filter::all(), &erased).await.unwrap().unwrap();
        assert!(!std::str::from_utf8(&shown.frame).unwrap().contains('@'));
    }
}
