//! What callers hand to the only writer, and what they get back.

use std::sync::Arc;

use domain::id::{BlobId, SecretId, TeamId};
use domain::{Actor, Command, Moment, StreamId};
use serde::{Deserialize, Serialize};

use crate::backend::{AnswerKey, Head};
use crate::blob::StagedBlob;
use crate::directory::DirectoryKey;
use crate::record::Recorded;
use crate::secret::SecretText;

/// An answer to a request: kept for 24 hours and repeated to whoever repeats the request.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Answer {
    /// HTTP status; 0 where there is no HTTP.
    pub status: u16,
    /// Response headers beyond the usual ones, for example `location`.
    pub headers: Vec<(String, String)>,
    /// The body, as text.
    pub body: String,
}

/// Makes a request safe to repeat.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Idempotency {
    /// The endpoint, and where the contract says so its mailbox.
    pub scope: String,
    /// What the caller sent, 1 to 255 visible ASCII characters.
    pub key: String,
    /// SHA-256 over method, path and body.
    pub fingerprint: [u8; 32],
}

impl Idempotency {
    pub(crate) fn answer_key(&self, team: &TeamId) -> AnswerKey {
        AnswerKey { team: team.clone(), scope: self.scope.clone(), key: self.key.clone() }
    }
}

/// How long an answer is kept, microseconds.
pub const ANSWER_MICROS: i64 = 24 * 60 * 60 * 1_000_000;

type Render<S> = Arc<dyn Fn(&Appended<S>) -> Answer + Send + Sync>;

/// A command on its way to the log.
pub struct Submission<C: Command> {
    pub(crate) command: C,
    pub(crate) moment: Moment,
    pub(crate) actor: Actor,
    pub(crate) correlation: String,
    pub(crate) causation: Option<String>,
    pub(crate) client_ip: Option<String>,
    pub(crate) fresh: Vec<StreamId>,
    pub(crate) idempotency: Option<Idempotency>,
    pub(crate) render: Option<Render<C::State>>,
    pub(crate) secrets: Vec<(SecretId, &'static str, SecretText)>,
    pub(crate) blobs: Vec<(BlobId, StagedBlob)>,
}

impl<C: Command> Submission<C> {
    /// Returns a submission of a command, by somebody, as part of a request.
    #[must_use]
    pub fn new(team: TeamId, now_micros: i64, actor: Actor, correlation: impl Into<String>, command: C) -> Self {
        Self {
            command,
            moment: Moment { team, now: now_micros },
            actor,
            correlation: correlation.into(),
            causation: None,
            client_ip: None,
            fresh: vec![],
            idempotency: None,
            render: None,
            secrets: vec![],
            blobs: vec![],
        }
    }

    /// Names the event that led to this command.
    #[must_use]
    pub fn caused_by(mut self, event: &domain::id::EventId) -> Self {
        self.causation = Some(event.to_string());
        self
    }

    /// Names where the request came from; kept in the erasable half of each record.
    #[must_use]
    pub fn from_ip(mut self, ip: impl Into<String>) -> Self {
        self.client_ip = Some(ip.into());
        self
    }

    /// Promises that a stream has no events yet because its id was allotted just now, which saves looking.
    /// Should the promise be wrong, the append is refused.
    #[must_use]
    pub fn fresh(mut self, stream: StreamId) -> Self {
        self.fresh.push(stream);
        self
    }

    /// Makes the submission safe to repeat: its answer is stored with the events and given to repetitions.
    #[must_use]
    pub fn idempotent(
        mut self,
        idempotency: Idempotency,
        render: impl Fn(&Appended<C::State>) -> Answer + Send + Sync + 'static,
    ) -> Self {
        self.idempotency = Some(idempotency);
        self.render = Some(Arc::new(render));
        self
    }

    /// Seals a secret and stores it with the events.
    #[must_use]
    pub fn with_secret(mut self, id: SecretId, purpose: &'static str, secret: SecretText) -> Self {
        self.secrets.push((id, purpose, secret));
        self
    }

    /// Stores a body with the events.
    #[must_use]
    pub fn with_blob(mut self, id: BlobId, blob: StagedBlob) -> Self {
        self.blobs.push((id, blob));
        self
    }
}

/// What a command led to.
#[derive(Debug, Clone)]
pub struct Appended<S> {
    /// The new records; none when the wish was fulfilled already.
    pub records: Vec<Recorded>,
    /// The state of the command's streams after them.
    pub state: S,
    /// Where the team's log ends, at least.
    pub head: Head,
}

/// How a submission ended.
#[derive(Debug, Clone)]
pub enum Outcome<S> {
    /// Decided and, if there were events, durably written.
    Done(Appended<S>),
    /// The same request was answered before; this is that answer.
    Repeated(Answer),
}

impl<S> Outcome<S> {
    /// Returns what was appended; `None` for a repetition.
    pub fn done(self) -> Option<Appended<S>> {
        match self {
            Self::Done(appended) => Some(appended),
            Self::Repeated(_) => None,
        }
    }
}

/// Why a submission was not carried out.
#[derive(Debug, thiserror::Error)]
pub enum TransactError<R: std::error::Error + 'static> {
    /// A rule of the domain forbids it.
    #[error(transparent)]
    Rejected(R),
    /// What it needs to be unique is taken.
    #[error("{} is taken", .0.to_text())]
    Taken(DirectoryKey),
    /// The idempotency key was used for another request within 24 hours.
    #[error("the idempotency key was used for another request")]
    IdempotencyMismatch,
    /// Too many submissions wait. Nothing was done.
    #[error("the log is overloaded")]
    Overloaded,
    /// There is no room. Nothing was done.
    #[error("the log's store is full")]
    Full,
    /// The store does not answer; whether it was done is known only through the idempotency key.
    #[error("the log is not available: {0}")]
    Unavailable(String),
    /// The log has stopped.
    #[error("the log has stopped")]
    Stopped,
}
