//! Where a world keeps what it knows: the log in memory, work in SQLite.

use std::sync::Arc;

use dispatcher::outbound::Queue;
use eventlog::{Backend, MemoryBackend};
use projections::webhook_attempts::Work;

pub async fn open() -> (Arc<dyn Backend>, Work) {
    (Arc::new(MemoryBackend::default()), Work::memory(&[Queue::TABLES]).await.unwrap())
}
