//! Where a world keeps what it knows: the log in memory, views and work in SQLite.

use std::sync::Arc;

use dispatcher::dns::Queue;
use eventlog::{Backend, MemoryBackend};
use projections::Views;
use projections::webhook_attempts::Work;

pub async fn open() -> (Arc<dyn Backend>, Views, Work) {
    let work = Work::memory(&[Queue::TABLES]).await.unwrap();
    (Arc::new(MemoryBackend::default()), Views::memory().await.unwrap(), work)
}
