//! What a place to keep logs must be able to do.

use async_trait::async_trait;
use bytes::Bytes;
use domain::StreamId;
use domain::id::{BlobId, Position, SecretId, TeamId};

use crate::chain::GENESIS;
use crate::directory::{DirectoryEntry, DirectoryKey};
use crate::record::StoredRecord;
use crate::tree::Trees;

/// Where a team's log ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// How often the installation was restored from a backup, plus one.
    pub epoch: u16,
    /// The last position; 0 for an empty log.
    pub position: Position,
    /// The hash of the last record.
    pub hash: [u8; 32],
}

impl Head {
    /// Returns the head of an empty log.
    #[must_use]
    pub fn empty(epoch: u16) -> Self {
        Self { epoch, position: 0, hash: GENESIS }
    }
}

/// An answer to a request with an idempotency key, as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AnswerRow {
    /// Whose request.
    pub key: AnswerKey,
    /// SHA-256 over the request: the same key with another request is refused.
    pub fingerprint: [u8; 32],
    /// HTTP status; 0 where there is no HTTP.
    pub status: i64,
    /// The sealed body and headers.
    pub sealed: Vec<u8>,
    /// When, microseconds since the Unix epoch.
    pub created_at: i64,
}

/// Names one answer.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AnswerKey {
    /// The team.
    pub team: TeamId,
    /// The endpoint, and where the contract says so its mailbox.
    pub scope: String,
    /// What the caller sent.
    pub key: String,
}

/// A body that is stored with its event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlobRow {
    /// The blob.
    pub id: BlobId,
    /// The bytes; `None` when they are in the object store.
    pub inline: Option<Bytes>,
    /// How many bytes.
    pub size_bytes: i64,
}

/// A sealed secret that is stored with its event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecretRow {
    /// The secret.
    pub id: SecretId,
    /// Nonce and ciphertext.
    pub sealed: Vec<u8>,
}

/// A stored snapshot of a fold: a disposable cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotRow {
    /// The team.
    pub team: TeamId,
    /// The stream, as text.
    pub stream: String,
    /// [`domain::entity::SNAPSHOT_VERSION`] when it was taken.
    pub shape: i64,
    /// The stream's version in it.
    pub stream_version: u64,
    /// The last position folded into it.
    pub position: Position,
    /// JSON of the fold.
    pub state: String,
    /// See [`StreamHistory::erasures`]: a snapshot of before an erasure is not kept after it.
    pub erasures: i64,
}

/// What a fold is computed from: a snapshot and the records after it, of the stream itself and linked into it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct StreamHistory {
    /// A snapshot, if there is one of the current shape.
    pub snapshot: Option<SnapshotRow>,
    /// Records after the snapshot, by position.
    pub records: Vec<StoredRecord>,
    /// How often personal halves of the team were erased before this was read.
    pub erasures: i64,
}

/// Everything one append writes. All of it appears, or nothing.
#[derive(Debug, Clone, Default)]
pub struct Batch {
    /// The heads of the teams after this batch.
    pub heads: Vec<(TeamId, Head)>,
    /// The records, gapless per team from the head before.
    pub records: Vec<StoredRecord>,
    /// Further streams a record is read in: team, stream as text, position.
    pub links: Vec<(TeamId, String, Position)>,
    /// Answers to requests with idempotency keys.
    pub answers: Vec<AnswerRow>,
    /// Expired answers under keys that are used again.
    pub expired_answers: Vec<AnswerKey>,
    /// Directory keys taken.
    pub claims: Vec<(DirectoryKey, DirectoryEntry)>,
    /// Directory rows dropped: team and entity id.
    pub releases: Vec<(TeamId, String)>,
    /// Sealed secrets.
    pub secrets: Vec<(TeamId, SecretRow)>,
    /// Bodies.
    pub blobs: Vec<(TeamId, BlobRow)>,
    /// When the batch was written, microseconds since the Unix epoch; kept in the head rows.
    pub at: i64,
}

impl Batch {
    /// Returns whether there is nothing to write: every answer of a batch is beside one of these.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.records.is_empty() && self.answers.is_empty()
    }
}

/// The store could not be read.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// It does not answer; trying again may help.
    #[error("the log's store does not answer: {0}")]
    Unavailable(String),
    /// There is no room for what should be kept; it may fit later.
    #[error("the store is full: {0}")]
    Full(String),
    /// It answers with something that was never written.
    #[error("the log's store is corrupt: {0}")]
    Corrupt(String),
}

/// A batch was not written.
#[derive(Debug, Clone, thiserror::Error)]
pub enum AppendError {
    /// Another writer took a position, an idempotency key or a directory key. Nothing was written: read again and decide anew.
    #[error("another writer was first")]
    Conflict,
    /// There is no room for it. Nothing was written; it may fit later.
    #[error("the log's store is full")]
    Full,
    /// The store does not answer, or it is not known whether the batch was written.
    #[error("the log's store does not answer: {0}")]
    Unavailable(String),
    /// The store does not take this content (for example a NUL in a text, or an id of a secret that exists already).
    /// Nothing was written; it will never fit.
    #[error("the log's store refuses it: {0}")]
    Refused(String),
    /// A flush failed: what the disk holds is not known any more, so the process must stop and recover.
    #[error("the log could not be flushed: {0}")]
    Flush(String),
}

/// Keeps every other writer off some teams until it appends or is dropped.
#[async_trait]
pub trait Hold: Send {
    /// See [`Backend::append`].
    async fn append(self: Box<Self>, batch: &Batch) -> Result<(), AppendError>;
}

/// A place to keep logs. The promises are listed at the crate's root.
#[async_trait]
pub trait Backend: Send + Sync + 'static {
    /// Returns the current epoch: 1, and one more after each restore from a backup.
    async fn epoch(&self) -> Result<u16, StoreError>;

    /// Returns whether not every batch of teams can be written at once; see [`Backend::parts`].
    fn is_divided(&self) -> bool {
        false
    }

    /// Returns a number for each team: what is written at once must be of teams with the same one.
    async fn parts(&self, teams: &[TeamId]) -> Result<Vec<usize>, StoreError> {
        Ok(vec![0; teams.len()])
    }

    /// Returns the heads of the given teams; teams without a log are left out.
    async fn heads(&self, teams: &[TeamId]) -> Result<Vec<(TeamId, Head)>, StoreError>;

    /// Returns teams whose head moved at or after a time, with that time, at most `limit`, oldest first.
    async fn moved_since(&self, at: i64, limit: usize) -> Result<Vec<(TeamId, Position, i64)>, StoreError>;

    /// Returns when a head moved last, microseconds since the Unix epoch; 0 if none ever did.
    async fn last_moved(&self) -> Result<i64, StoreError>;

    /// Returns teams in the order of their ids, after a given one, at most `limit`.
    async fn teams(&self, after: Option<&TeamId>, limit: usize) -> Result<Vec<TeamId>, StoreError>;

    /// Returns the records after a position, in order, at most `limit`; each call is its own snapshot.
    async fn read(&self, team: &TeamId, after: Position, limit: usize) -> Result<Vec<StoredRecord>, StoreError>;

    /// Returns what the folds of the given streams are computed from, in the order asked.
    async fn histories(&self, streams: &[(TeamId, StreamId)]) -> Result<Vec<StreamHistory>, StoreError>;

    /// Keeps snapshots of teams of which nothing was erased since they were read. They may be lost.
    async fn save_snapshots(&self, snapshots: &[SnapshotRow]) -> Result<(), StoreError>;

    /// Returns the stored answers of the given keys, expired ones included; unknown keys are left out.
    async fn answers(&self, keys: &[AnswerKey]) -> Result<Vec<AnswerRow>, StoreError>;

    /// Drops answers older than a time, at most `limit`; returns how many.
    async fn drop_answers(&self, before: i64, limit: usize) -> Result<u64, StoreError>;

    /// Returns the directory rows of the given keys; free keys are left out.
    async fn directory(&self, keys: &[DirectoryKey]) -> Result<Vec<(DirectoryKey, DirectoryEntry)>, StoreError>;

    /// Writes a batch durably, all or nothing. Only the lanes of [`crate::EventLog`] call this.
    async fn append(&self, batch: &Batch) -> Result<(), AppendError>;

    /// Waits for its turn and keeps every other writer off the given teams (sorted): so that even a slow node gets its
    /// batch written beside a busy one.
    async fn hold(&self, teams: &[TeamId]) -> Result<Box<dyn Hold>, StoreError>;

    /// Returns a body's row.
    async fn blob(&self, team: &TeamId, id: &BlobId) -> Result<Option<BlobRow>, StoreError>;

    /// Returns a sealed secret.
    async fn secret(&self, team: &TeamId, id: &SecretId) -> Result<Option<Vec<u8>>, StoreError>;

    /// Returns a team's sealed secrets in the order of their ids, after a given one, at most `limit`.
    async fn secrets(
        &self,
        team: &TeamId,
        after: Option<&SecretId>,
        limit: usize,
    ) -> Result<Vec<SecretRow>, StoreError>;

    /// Puts other sealed bytes in the place of a secret's, if it still has those that were read. Returns whether it had.
    async fn replace_secret(&self, team: &TeamId, read: &SecretRow, sealed: &[u8]) -> Result<bool, StoreError>;

    /// Erases the personal halves at the given positions; the chain stays whole. Returns how many there were.
    async fn erase_personal(&self, team: &TeamId, positions: &[Position]) -> Result<u64, StoreError>;

    /// Returns teams of which personal halves were erased, with how often, in the order of their ids, after a given one,
    /// at most `limit`.
    async fn erasures(&self, after: Option<&TeamId>, limit: usize) -> Result<Vec<(TeamId, i64)>, StoreError>;

    /// Drops the rows of bodies, with the bytes of those that are inline. Returns how many there were.
    async fn erase_blobs(&self, team: &TeamId, ids: &[BlobId]) -> Result<u64, StoreError>;

    /// Keeps a value of the installation under a name unless there is one; returns the one that is kept. A store that
    /// outlives no process keeps nothing.
    async fn keep_first(&self, _name: &str, value: &str) -> Result<String, StoreError> {
        Ok(value.to_owned())
    }

    /// Keeps a value of the installation under a name, instead of the one that may be there.
    async fn keep(&self, _name: &str, _value: &str) -> Result<(), StoreError> {
        Ok(())
    }

    /// Returns where the trees over the logs are kept.
    fn trees(&self) -> &dyn Trees;

    /// Returns inline bodies of a team after one id and before another, in the order of their ids, at most `limit`. A store
    /// that keeps no bodies of its own has none.
    async fn inline_blobs(
        &self,
        _team: &TeamId,
        _after: Option<&BlobId>,
        _before: &BlobId,
        _limit: usize,
    ) -> Result<Vec<BlobId>, StoreError> {
        Ok(vec![])
    }

    /// Drops the bytes of an inline body, whose object is stored already, and keeps its row. Returns whether it was inline.
    async fn drop_inline(&self, _team: &TeamId, _id: &BlobId) -> Result<bool, StoreError> {
        Ok(false)
    }

    /// Ends background work and closes connections.
    async fn close(&self);
}
