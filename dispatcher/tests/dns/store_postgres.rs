//! Where a world keeps what it knows: log, views and work in one PostgreSQL database of its own.

use std::sync::Arc;

use dispatcher::dns::Queue;
use eventlog::Backend;
use eventlog::postgres::{Config, PostgresBackend};
use eventlog::testing::Cluster;
use projections::Views;
use projections::webhook_attempts::Work;

pub async fn open() -> (Arc<dyn Backend>, Views, Work) {
    let cluster = Cluster::shared();
    let url = cluster.url(&cluster.create_database(None).await);
    let config = Config { connections_max: 6, ..Config::new(&url) };
    let backend = Arc::new(PostgresBackend::open(&config).await.unwrap());
    let views = Views::open_postgres(&url).await.unwrap();
    (backend, views, Work::open_postgres(&url, &[Queue::TABLES]).await.unwrap())
}
