//! A store that stops an append where a test says, as a crash would find it.

use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use eventlog::testing::InFront;
use eventlog::{AppendError, Backend, Batch};
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
impl InFront for Gate {
    fn behind(&self) -> &dyn Backend {
        &*self.inner
    }

    async fn append(&self, batch: &Batch) -> Result<(), AppendError> {
        self.pass(batch).await
    }
}
