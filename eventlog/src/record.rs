//! A record: an event in its place, with everything that is known about how it got there.

use domain::id::{EventId, Position, TeamId};
use domain::{Event, StreamId};
use serde::{Deserialize, Serialize};

/// A record exactly as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredRecord {
    /// The team whose log it is in.
    pub team: TeamId,
    /// Its place: 1, 2, 3 … without holes.
    pub position: Position,
    /// How often the installation was restored from a backup when it was written, plus one.
    pub epoch: u16,
    /// The stream it was recorded in, as text.
    pub stream: String,
    /// Its place in that stream: 1, 2, 3 …
    pub stream_version: u64,
    /// Stored type name.
    pub name: String,
    /// Version of the stored shape.
    pub version: i64,
    /// JSON; hashed byte for byte.
    pub facts: String,
    /// SHA-256 of salt and personal half; `None` if the event never had one.
    pub personal_digest: Option<[u8; 32]>,
    /// The personal half, unless there is none or it was erased.
    pub personal: Option<StoredPersonal>,
    /// Who caused it, as `kind:id`.
    pub actor: String,
    /// The event that led here.
    pub causation: Option<String>,
    /// The request it belongs to.
    pub correlation: String,
    /// When, microseconds since the Unix epoch.
    pub at: i64,
    /// Hash over this record and its predecessor's hash.
    pub hash: [u8; 32],
}

/// The personal half as stored: erased as a whole, salt included.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredPersonal {
    /// Random bytes that make the digest unguessable.
    pub salt: [u8; 16],
    /// JSON of [`PersonalHalf`].
    pub json: String,
}

/// What is in the personal half of a record.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct PersonalHalf<'a> {
    /// The event's own personal half.
    #[serde(borrow, skip_serializing_if = "Option::is_none", default)]
    pub event: Option<&'a serde_json::value::RawValue>,
    /// Where the request came from.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub client_ip: Option<String>,
}

/// A record with its event decoded.
#[derive(Debug, Clone, PartialEq)]
pub struct Recorded {
    /// The team whose log it is in.
    pub team: TeamId,
    /// Its place: 1, 2, 3 … without holes.
    pub position: Position,
    /// See [`StoredRecord::epoch`].
    pub epoch: u16,
    /// The stream it was recorded in; `None` for kinds of stream this build does not know.
    pub stream: Option<StreamId>,
    /// Its place in that stream: the version of the entity after it.
    pub stream_version: u64,
    /// What happened.
    pub event: Event,
    /// Who caused it, as `kind:id`.
    pub actor: String,
    /// The event that led here.
    pub causation: Option<String>,
    /// The request it belongs to.
    pub correlation: String,
    /// Where the request came from; `None` if unknown or erased.
    pub client_ip: Option<String>,
    /// When, microseconds since the Unix epoch.
    pub at: i64,
    /// Hash over this record and its predecessor's hash.
    pub hash: [u8; 32],
}

/// A stored record could not be read.
#[derive(Debug, thiserror::Error)]
#[error("record {position} of {team} cannot be decoded")]
pub struct CorruptRecord {
    /// The team.
    pub team: TeamId,
    /// The place.
    pub position: Position,
    /// Why.
    #[source]
    pub source: Box<dyn std::error::Error + Send + Sync>,
}

impl Recorded {
    /// Returns the event's public id.
    #[must_use]
    pub fn id(&self) -> EventId {
        EventId::new(&self.team, self.epoch, self.position)
    }

    /// Decodes a stored record.
    ///
    /// # Errors
    /// Its JSON does not have the shape its name and version promise.
    pub fn decode(stored: &StoredRecord) -> Result<Self, CorruptRecord> {
        let (event, client_ip) = opened(stored)?;
        Ok(Self {
            team: stored.team.clone(),
            position: stored.position,
            epoch: stored.epoch,
            stream: stored.stream.parse().ok(),
            stream_version: stored.stream_version,
            event,
            actor: stored.actor.clone(),
            causation: stored.causation.clone(),
            correlation: stored.correlation.clone(),
            client_ip,
            at: stored.at,
            hash: stored.hash,
        })
    }
}

impl TryFrom<StoredRecord> for Recorded {
    type Error = CorruptRecord;

    /// Does what [`Recorded::decode`] does, without copies.
    fn try_from(stored: StoredRecord) -> Result<Self, CorruptRecord> {
        let (event, client_ip) = opened(&stored)?;
        let StoredRecord {
            team, position, epoch, stream, stream_version, actor, causation, correlation, at, hash, ..
        } = stored;
        let stream = stream.parse().ok();
        Ok(Self {
            team,
            position,
            epoch,
            stream,
            stream_version,
            event,
            actor,
            causation,
            correlation,
            client_ip,
            at,
            hash,
        })
    }
}

/// Returns the event and where its request came from.
fn opened(stored: &StoredRecord) -> Result<(Event, Option<String>), CorruptRecord> {
    let corrupt = |source: Box<dyn std::error::Error + Send + Sync>| CorruptRecord {
        team: stored.team.clone(),
        position: stored.position,
        source,
    };
    let half: PersonalHalf<'_> = match &stored.personal {
        Some(personal) => serde_json::from_str(&personal.json).map_err(|e| corrupt(e.into()))?,
        None => PersonalHalf::default(),
    };
    let event = Event::decode(&stored.name, stored.version, &stored.facts, half.event.map(|e| e.get()))
        .map_err(|e| corrupt(e.into()))?;
    Ok((event, half.client_ip))
}
