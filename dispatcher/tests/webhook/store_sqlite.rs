//! Where a world keeps what it knows: in memory, work and views in SQLite.

use std::path::Path;
use std::sync::Arc;

use dispatcher::queue::Queue;
use eventlog::sqlite::SqliteBackend;
use eventlog::{Backend, MemoryBackend};
use projections::Views;
use projections::webhook_attempts::Work;

/// How many random histories are tried.
pub const RANDOM_CASES: u32 = 16;

pub struct Store {
    pub backend: Arc<dyn Backend>,
    pub work: Work,
    pub views: Views,
}

pub async fn open() -> Store {
    Store {
        backend: Arc::new(MemoryBackend::default()),
        work: Work::memory(&[Queue::TABLES]).await.unwrap(),
        views: Views::memory().await.unwrap(),
    }
}

/// Opens files in a directory, as in production.
pub async fn open_lasting(directory: &Path) -> Store {
    let file = |name: &str| directory.join(name);
    Store {
        backend: Arc::new(SqliteBackend::open(&file("log.db")).await.unwrap()),
        work: Work::open_sqlite(&file("work.db"), &[Queue::TABLES]).await.unwrap(),
        views: Views::open_sqlite(&file("views.db")).await.unwrap(),
    }
}
