//! Every promise, on the log in memory.

use std::sync::Arc;

use async_trait::async_trait;
use eventlog::conformance::Store;
use eventlog::{Backend, MemoryBackend};

struct Memory(Arc<MemoryBackend>);

#[async_trait]
impl Store for Memory {
    async fn node(&self) -> Arc<dyn Backend> {
        Arc::<MemoryBackend>::clone(&self.0)
    }

    async fn restart(&self) {}
}

async fn memory() -> Memory {
    Memory(Arc::default())
}

eventlog::conformance_suite!(memory());
