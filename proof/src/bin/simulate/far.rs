//! The log's store as a node sees it: every call goes over the simulated network to the one store there is.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use domain::StreamId;
use domain::id::{BlobId, Position, SecretId, TeamId};
use eventlog::{
    AnswerKey, AnswerRow, AppendError, Backend, Batch, BlobRow, DirectoryEntry, DirectoryKey, Head, Hold,
    MemoryBackend, SecretRow, SnapshotRow, StoreError, StoredRecord, StreamHistory, Trees,
};

use crate::fault::Fault;
use crate::line::{Line, Silent};

/// See the module.
pub struct Far {
    line: Line,
    /// For what needs no network: trees are not looked at in a simulation.
    store: Arc<MemoryBackend>,
    fault: Option<Fault>,
}

/// Sends a call to the database: the arguments are cloned, for they go on a journey.
macro_rules! ask {
    ($self:ident, |$store:ident $(, $arg:ident)*| $call:expr) => {{
        $(let $arg = $arg.to_owned();)*
        $self.line.ask(move |$store| async move { $call.await }).await
    }};
}

impl From<Silent> for Unanswered {
    fn from(_: Silent) -> Self {
        Self
    }
}

/// No answer came, in the words of both kinds of errors.
struct Unanswered;

impl From<Unanswered> for StoreError {
    fn from(_: Unanswered) -> Self {
        Self::Unavailable("no answer".to_owned())
    }
}

impl From<Unanswered> for AppendError {
    fn from(_: Unanswered) -> Self {
        Self::Unavailable("no answer".to_owned())
    }
}

fn heard<T, E: From<Unanswered>>(answer: Result<Result<T, E>, Silent>) -> Result<T, E> {
    answer.unwrap_or_else(|silent| Err(Unanswered::from(silent).into()))
}

impl Far {
    /// Returns the store at the other end of a line, with a fault or without.
    pub fn new(line: Line, store: Arc<MemoryBackend>, fault: Option<Fault>) -> Self {
        Self { line, store, fault }
    }

    fn has(&self, fault: Fault) -> bool {
        self.fault == Some(fault)
    }
}

/// The turn of one writer, over the network.
struct FarHold {
    line: Line,
    held: Box<dyn Hold>,
}

#[async_trait]
impl Hold for FarHold {
    async fn append(self: Box<Self>, batch: &Batch) -> Result<(), AppendError> {
        let (batch, held) = (batch.clone(), self.held);
        heard(self.line.ask(move |_| async move { held.append(&batch).await }).await)
    }
}

#[async_trait]
impl Backend for Far {
    async fn epoch(&self) -> Result<u16, StoreError> {
        heard(ask!(self, |store| store.epoch()))
    }

    async fn heads(&self, teams: &[TeamId]) -> Result<Vec<(TeamId, Head)>, StoreError> {
        heard(ask!(self, |store, teams| store.heads(&teams)))
    }

    async fn moved_since(&self, at: i64, limit: usize) -> Result<Vec<(TeamId, Position, i64)>, StoreError> {
        heard(ask!(self, |store| store.moved_since(at, limit)))
    }

    async fn last_moved(&self) -> Result<i64, StoreError> {
        heard(ask!(self, |store| store.last_moved()))
    }

    async fn teams(&self, after: Option<&TeamId>, limit: usize) -> Result<Vec<TeamId>, StoreError> {
        let after = after.cloned();
        heard(ask!(self, |store| store.teams(after.as_ref(), limit)))
    }

    async fn read(&self, team: &TeamId, after: Position, limit: usize) -> Result<Vec<StoredRecord>, StoreError> {
        let mut records = heard(ask!(self, |store, team| store.read(&team, after, limit)))?;
        if self.has(Fault::ReadsALaggingCopy) {
            let now = crate::ground::wall_clock();
            records.retain(|record| record.at + 400_000 < now);
        }
        Ok(records)
    }

    async fn histories(&self, streams: &[(TeamId, StreamId)]) -> Result<Vec<StreamHistory>, StoreError> {
        heard(ask!(self, |store, streams| store.histories(&streams)))
    }

    async fn save_snapshots(&self, snapshots: &[SnapshotRow]) -> Result<(), StoreError> {
        heard(ask!(self, |store, snapshots| store.save_snapshots(&snapshots)))
    }

    async fn answers(&self, keys: &[AnswerKey]) -> Result<Vec<AnswerRow>, StoreError> {
        heard(ask!(self, |store, keys| store.answers(&keys)))
    }

    async fn drop_answers(&self, before: i64, limit: usize) -> Result<u64, StoreError> {
        heard(ask!(self, |store| store.drop_answers(before, limit)))
    }

    async fn directory(&self, keys: &[DirectoryKey]) -> Result<Vec<(DirectoryKey, DirectoryEntry)>, StoreError> {
        heard(ask!(self, |store, keys| store.directory(&keys)))
    }

    async fn append(&self, batch: &Batch) -> Result<(), AppendError> {
        let mut batch = batch.clone();
        if self.has(Fault::AnswersNotKept) {
            batch.answers.clear();
        }
        if self.has(Fault::AnsweredBeforeCommit) {
            // Whoever has it done later and says so now must not die meanwhile.
            let line = self.line.clone();
            #[expect(clippy::disallowed_methods, reason = "this fault is that nobody owns the task")]
            tokio::spawn(async move {
                tokio::time::sleep(Duration::from_millis(100)).await;
                line.ask(move |store| async move { store.append(&batch).await }).await
            });
            return Ok(());
        }
        heard(self.line.ask(move |store| async move { store.append(&batch).await }).await)
    }

    async fn hold(&self, teams: &[TeamId]) -> Result<Box<dyn Hold>, StoreError> {
        let held = heard(ask!(self, |store, teams| store.hold(&teams)))?;
        Ok(Box::new(FarHold { line: self.line.clone(), held }))
    }

    async fn blob(&self, team: &TeamId, id: &BlobId) -> Result<Option<BlobRow>, StoreError> {
        heard(ask!(self, |store, team, id| store.blob(&team, &id)))
    }

    async fn secret(&self, team: &TeamId, id: &SecretId) -> Result<Option<Vec<u8>>, StoreError> {
        heard(ask!(self, |store, team, id| store.secret(&team, &id)))
    }

    async fn secrets(
        &self,
        team: &TeamId,
        after: Option<&SecretId>,
        limit: usize,
    ) -> Result<Vec<SecretRow>, StoreError> {
        let after = after.cloned();
        heard(ask!(self, |store, team| store.secrets(&team, after.as_ref(), limit)))
    }

    async fn replace_secret(&self, team: &TeamId, read: &SecretRow, sealed: &[u8]) -> Result<bool, StoreError> {
        heard(ask!(self, |store, team, read, sealed| store.replace_secret(&team, &read, &sealed)))
    }

    async fn erase_personal(&self, team: &TeamId, positions: &[Position]) -> Result<u64, StoreError> {
        heard(ask!(self, |store, team, positions| store.erase_personal(&team, &positions)))
    }

    async fn erasures(&self, after: Option<&TeamId>, limit: usize) -> Result<Vec<(TeamId, i64)>, StoreError> {
        let after = after.cloned();
        heard(ask!(self, |store| store.erasures(after.as_ref(), limit)))
    }

    async fn erase_blobs(&self, team: &TeamId, ids: &[BlobId]) -> Result<u64, StoreError> {
        heard(ask!(self, |store, team, ids| store.erase_blobs(&team, &ids)))
    }

    fn trees(&self) -> &dyn Trees {
        self.store.trees()
    }

    async fn close(&self) {}
}
