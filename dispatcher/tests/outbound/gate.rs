//! A store that stops an append where a test says, as a crash would find it.

use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use domain::StreamId;
use domain::id::{BlobId, Position, SecretId, TeamId};
use eventlog::{
    AnswerKey, AnswerRow, AppendError, Backend, Batch, BlobRow, DirectoryEntry, DirectoryKey, Head, Hold, SnapshotRow,
    StoreError, StoredRecord, StreamHistory,
};
use tokio::sync::Notify;

/// What happens to an append that holds an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It waits, and is written when the gate opens: the crash came after it.
    Written,
    /// It waits, and is never written: the crash came before it.
    Lost,
    /// It is written, and whoever asked hears of it when the gate opens.
    Late,
    /// The disk is full.
    DiskFull,
}

pub struct Gate {
    inner: Arc<dyn Backend>,
    stops: Mutex<Option<(&'static str, Fate)>>,
    waiting: Mutex<bool>,
    opened: Notify,
}

impl Gate {
    pub fn new(inner: Arc<dyn Backend>) -> Self {
        Self { inner, stops: Mutex::default(), waiting: Mutex::default(), opened: Notify::new() }
    }

    /// Stops the next append of an event of this name.
    pub fn stop(&self, name: &'static str, fate: Fate) {
        *self.stops.lock().unwrap() = Some((name, fate));
    }

    /// Tells whether an append has been stopped.
    pub fn has_stopped(&self) -> bool {
        *self.waiting.lock().unwrap()
    }

    pub fn open(&self) {
        *self.stops.lock().unwrap() = None;
        *self.waiting.lock().unwrap() = false;
        self.opened.notify_one();
    }

    async fn pass(&self, batch: &Batch) -> Result<(), AppendError> {
        let stop = *self.stops.lock().unwrap();
        let Some((_, fate)) = stop.filter(|(name, _)| batch.records.iter().any(|r| r.name == *name)) else {
            return self.inner.append(batch).await;
        };
        if fate == Fate::Late {
            self.inner.append(batch).await?;
        }
        *self.waiting.lock().unwrap() = true;
        if fate == Fate::DiskFull {
            return Err(AppendError::Full);
        }
        self.opened.notified().await;
        match fate {
            Fate::Lost => Err(AppendError::Refused("it was never written".into())),
            Fate::Late => Ok(()),
            Fate::Written | Fate::DiskFull => self.inner.append(batch).await,
        }
    }
}

#[async_trait]
impl Backend for Gate {
    async fn append(&self, batch: &Batch) -> Result<(), AppendError> {
        self.pass(batch).await
    }

    async fn hold(&self, teams: &[TeamId]) -> Result<Box<dyn Hold>, StoreError> {
        self.inner.hold(teams).await
    }

    async fn epoch(&self) -> Result<u16, StoreError> {
        self.inner.epoch().await
    }

    async fn heads(&self, teams: &[TeamId]) -> Result<Vec<(TeamId, Head)>, StoreError> {
        self.inner.heads(teams).await
    }

    async fn moved_since(&self, at: i64, limit: usize) -> Result<Vec<(TeamId, Position, i64)>, StoreError> {
        self.inner.moved_since(at, limit).await
    }

    async fn appended(&self) -> Result<u64, StoreError> {
        self.inner.appended().await
    }

    async fn teams(&self, after: Option<&TeamId>, limit: usize) -> Result<Vec<TeamId>, StoreError> {
        self.inner.teams(after, limit).await
    }

    async fn read(&self, team: &TeamId, after: Position, limit: usize) -> Result<Vec<StoredRecord>, StoreError> {
        self.inner.read(team, after, limit).await
    }

    async fn histories(&self, streams: &[(TeamId, StreamId)]) -> Result<Vec<StreamHistory>, StoreError> {
        self.inner.histories(streams).await
    }

    async fn save_snapshots(&self, snapshots: &[SnapshotRow]) -> Result<(), StoreError> {
        self.inner.save_snapshots(snapshots).await
    }

    async fn answers(&self, keys: &[AnswerKey]) -> Result<Vec<AnswerRow>, StoreError> {
        self.inner.answers(keys).await
    }

    async fn drop_answers(&self, before: i64, limit: usize) -> Result<u64, StoreError> {
        self.inner.drop_answers(before, limit).await
    }

    async fn directory(&self, keys: &[DirectoryKey]) -> Result<Vec<(DirectoryKey, DirectoryEntry)>, StoreError> {
        self.inner.directory(keys).await
    }

    async fn blob(&self, team: &TeamId, id: &BlobId) -> Result<Option<BlobRow>, StoreError> {
        self.inner.blob(team, id).await
    }

    async fn secret(&self, team: &TeamId, id: &SecretId) -> Result<Option<Vec<u8>>, StoreError> {
        self.inner.secret(team, id).await
    }

    async fn erase_personal(&self, team: &TeamId, positions: &[Position]) -> Result<u64, StoreError> {
        self.inner.erase_personal(team, positions).await
    }

    async fn erasures(&self, after: Option<&TeamId>, limit: usize) -> Result<Vec<(TeamId, i64)>, StoreError> {
        self.inner.erasures(after, limit).await
    }

    async fn erase_blobs(&self, team: &TeamId, ids: &[BlobId]) -> Result<u64, StoreError> {
        self.inner.erase_blobs(team, ids).await
    }

    fn trees(&self) -> &dyn eventlog::Trees {
        self.inner.trees()
    }

    async fn close(&self) {
        self.inner.close().await;
    }
}
