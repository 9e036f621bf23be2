//! A log store that can be told to fail or to wait.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use eventlog::testing::InFront;
use eventlog::{AppendError, Backend, Batch, DirectoryEntry, DirectoryKey, StoreError};
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
impl InFront for Faulty {
    fn behind(&self) -> &dyn Backend {
        &*self.inner
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
}
