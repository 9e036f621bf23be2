//! Stores of tests that stand in front of a real one and change what one or two operations do.

use async_trait::async_trait;
use domain::StreamId;
use domain::id::{BlobId, Position, SecretId, TeamId};

use crate::backend::{
    AnswerKey, AnswerRow, AppendError, Backend, Batch, BlobRow, Head, Hold, SecretRow, SnapshotRow, StoreError,
    StreamHistory,
};
use crate::directory::{DirectoryEntry, DirectoryKey};
use crate::record::StoredRecord;
use crate::tree::Trees;

/// A store in front of another one: what it does not define goes straight through. Whatever is one, is a [`Backend`].
#[async_trait]
pub trait InFront: Send + Sync + 'static {
    /// Returns the store behind this one.
    fn behind(&self) -> &dyn Backend;

    /// Stands in front of [`Backend::heads`].
    async fn heads(&self, teams: &[TeamId]) -> Result<Vec<(TeamId, Head)>, StoreError> {
        self.behind().heads(teams).await
    }

    /// Stands in front of [`Backend::read`].
    async fn read(&self, team: &TeamId, after: Position, limit: usize) -> Result<Vec<StoredRecord>, StoreError> {
        self.behind().read(team, after, limit).await
    }

    /// Stands in front of [`Backend::directory`].
    async fn directory(&self, keys: &[DirectoryKey]) -> Result<Vec<(DirectoryKey, DirectoryEntry)>, StoreError> {
        self.behind().directory(keys).await
    }

    /// Stands in front of [`Backend::append`].
    async fn append(&self, batch: &Batch) -> Result<(), AppendError> {
        self.behind().append(batch).await
    }

    /// Stands in front of [`Backend::blob`].
    async fn blob(&self, team: &TeamId, id: &BlobId) -> Result<Option<BlobRow>, StoreError> {
        self.behind().blob(team, id).await
    }
}

#[async_trait]
impl<T: InFront> Backend for T {
    async fn epoch(&self) -> Result<u16, StoreError> {
        self.behind().epoch().await
    }

    async fn heads(&self, teams: &[TeamId]) -> Result<Vec<(TeamId, Head)>, StoreError> {
        InFront::heads(self, teams).await
    }

    async fn moved_since(&self, at: i64, limit: usize) -> Result<Vec<(TeamId, Position, i64)>, StoreError> {
        self.behind().moved_since(at, limit).await
    }

    fn is_divided(&self) -> bool {
        self.behind().is_divided()
    }

    async fn parts(&self, teams: &[TeamId]) -> Result<Vec<usize>, StoreError> {
        self.behind().parts(teams).await
    }

    async fn last_moved(&self) -> Result<i64, StoreError> {
        self.behind().last_moved().await
    }

    async fn teams(&self, after: Option<&TeamId>, limit: usize) -> Result<Vec<TeamId>, StoreError> {
        self.behind().teams(after, limit).await
    }

    async fn read(&self, team: &TeamId, after: Position, limit: usize) -> Result<Vec<StoredRecord>, StoreError> {
        InFront::read(self, team, after, limit).await
    }

    async fn histories(&self, streams: &[(TeamId, StreamId)]) -> Result<Vec<StreamHistory>, StoreError> {
        self.behind().histories(streams).await
    }

    async fn save_snapshots(&self, snapshots: &[SnapshotRow]) -> Result<(), StoreError> {
        self.behind().save_snapshots(snapshots).await
    }

    async fn answers(&self, keys: &[AnswerKey]) -> Result<Vec<AnswerRow>, StoreError> {
        self.behind().answers(keys).await
    }

    async fn drop_answers(&self, before: i64, limit: usize) -> Result<u64, StoreError> {
        self.behind().drop_answers(before, limit).await
    }

    async fn directory(&self, keys: &[DirectoryKey]) -> Result<Vec<(DirectoryKey, DirectoryEntry)>, StoreError> {
        InFront::directory(self, keys).await
    }

    async fn append(&self, batch: &Batch) -> Result<(), AppendError> {
        InFront::append(self, batch).await
    }

    async fn hold(&self, teams: &[TeamId]) -> Result<Box<dyn Hold>, StoreError> {
        self.behind().hold(teams).await
    }

    async fn blob(&self, team: &TeamId, id: &BlobId) -> Result<Option<BlobRow>, StoreError> {
        InFront::blob(self, team, id).await
    }

    async fn secret(&self, team: &TeamId, id: &SecretId) -> Result<Option<Vec<u8>>, StoreError> {
        self.behind().secret(team, id).await
    }

    async fn secrets(
        &self,
        team: &TeamId,
        after: Option<&SecretId>,
        limit: usize,
    ) -> Result<Vec<SecretRow>, StoreError> {
        self.behind().secrets(team, after, limit).await
    }

    async fn replace_secret(&self, team: &TeamId, read: &SecretRow, sealed: &[u8]) -> Result<bool, StoreError> {
        self.behind().replace_secret(team, read, sealed).await
    }

    async fn erase_personal(&self, team: &TeamId, positions: &[Position]) -> Result<u64, StoreError> {
        self.behind().erase_personal(team, positions).await
    }

    async fn erasures(&self, after: Option<&TeamId>, limit: usize) -> Result<Vec<(TeamId, i64)>, StoreError> {
        self.behind().erasures(after, limit).await
    }

    async fn erase_blobs(&self, team: &TeamId, ids: &[BlobId]) -> Result<u64, StoreError> {
        self.behind().erase_blobs(team, ids).await
    }

    async fn keep_first(&self, name: &str, value: &str) -> Result<String, StoreError> {
        self.behind().keep_first(name, value).await
    }

    async fn keep(&self, name: &str, value: &str) -> Result<(), StoreError> {
        self.behind().keep(name, value).await
    }

    async fn inline_blobs(
        &self,
        team: &TeamId,
        after: Option<&BlobId>,
        before: &BlobId,
        limit: usize,
    ) -> Result<Vec<BlobId>, StoreError> {
        self.behind().inline_blobs(team, after, before, limit).await
    }

    async fn drop_inline(&self, team: &TeamId, id: &BlobId) -> Result<bool, StoreError> {
        self.behind().drop_inline(team, id).await
    }

    fn trees(&self) -> &dyn Trees {
        self.behind().trees()
    }

    async fn close(&self) {
        self.behind().close().await;
    }
}
