//! A log store that can be told to fail or to wait.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use domain::StreamId;
use domain::id::{BlobId, Position, SecretId, TeamId};
use eventlog::{
    AnswerKey, AnswerRow, AppendError, Backend, Batch, BlobRow, DirectoryEntry, DirectoryKey, Head, Hold, SnapshotRow,
    StoreError, StreamHistory,
};
use tokio::sync::{Semaphore, mpsc};

/// What happens to the next appends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(usize)]
pub enum Fault {
    None,
    Full,
    Unavailable,
    /// Each append waits for a permit, after it said so.
    Gated,
}

/// Wraps a store; faults are injected in front of it.
pub struct Faulty {
    inner: Arc<dyn Backend>,
    fault: AtomicUsize,
    pub gate: Semaphore,
    waiting: mpsc::Sender<()>,
}

impl Faulty {
    pub fn new(inner: Arc<dyn Backend>) -> (Arc<Self>, mpsc::Receiver<()>) {
        let (waiting, waits) = mpsc::channel(1024);
        (Arc::new(Self { inner, fault: AtomicUsize::new(0), gate: Semaphore::new(0), waiting }), waits)
    }

    pub fn set(&self, fault: Fault) {
        self.fault.store(fault as usize, Ordering::SeqCst);
    }

    fn is(&self, fault: Fault) -> bool {
        self.fault.load(Ordering::SeqCst) == fault as usize
    }
}

#[async_trait]
impl Backend for Faulty {
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

    async fn read(
        &self,
        team: &TeamId,
        after: Position,
        limit: usize,
    ) -> Result<Vec<eventlog::StoredRecord>, StoreError> {
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
        if self.is(Fault::Unavailable) {
            return Err(StoreError::Unavailable("injected".into()));
        }
        self.inner.directory(keys).await
    }

    async fn append(&self, batch: &Batch) -> Result<(), AppendError> {
        if self.is(Fault::Full) {
            return Err(AppendError::Full);
        }
        if self.is(Fault::Unavailable) {
            return Err(AppendError::Unavailable("injected".into()));
        }
        if self.is(Fault::Gated) {
            self.waiting.send(()).await.unwrap();
            self.gate.acquire().await.unwrap().forget();
        }
        self.inner.append(batch).await
    }

    async fn hold(&self, teams: &[TeamId]) -> Result<Box<dyn Hold>, StoreError> {
        self.inner.hold(teams).await
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
