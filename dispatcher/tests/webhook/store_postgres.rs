//! Where a world keeps what it knows: log, work and views in one PostgreSQL database of its own.

use std::path::Path;
use std::sync::Arc;

use dispatcher::queue::Queue;
use eventlog::Backend;
use eventlog::postgres::{Config, PostgresBackend};
use eventlog::testing::Cluster;
use projections::Views;
use projections::webhook_attempts::Work;
use tokio::sync::OnceCell;

/// How many random histories are tried.
pub const RANDOM_CASES: u32 = 5;

pub struct Store {
    pub backend: Arc<dyn Backend>,
    pub work: Work,
    pub views: Views,
}

/// Opens a new database, copied from one whose tables were made once.
pub async fn open() -> Store {
    static TEMPLATE: OnceCell<String> = OnceCell::const_new();
    let cluster = Cluster::shared();
    let migrated = async {
        let name = cluster.create_database(None).await;
        let store = connect(&cluster.url(&name)).await;
        store.backend.close().await;
        store.work.close().await;
        store.views.close().await;
        name
    };
    let template = TEMPLATE.get_or_init(|| migrated).await;
    connect(&cluster.url(&cluster.create_database(Some(template)).await)).await
}

/// The same: a server needs no directory.
pub async fn open_lasting(_: &Path) -> Store {
    open().await
}

async fn connect(url: &str) -> Store {
    let config = Config { connections_max: 6, ..Config::new(url) };
    Store {
        backend: Arc::new(PostgresBackend::open(&config).await.unwrap()),
        work: Work::open_postgres(url, &[Queue::TABLES]).await.unwrap(),
        views: Views::open_postgres(url).await.unwrap(),
    }
}
