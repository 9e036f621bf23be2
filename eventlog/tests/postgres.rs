//! Every promise, on PostgreSQL, and what only PostgreSQL can be asked for.
#![expect(clippy::unwrap_used, reason = "tests may fail loudly")]

use std::sync::Arc;

use async_trait::async_trait;
use domain::Actor;
use domain::id::TeamId;
use domain::team::{ChangeLimits, CreateTeam, Limits};
use eventlog::chain::Verifier;
use eventlog::conformance::Store;
use eventlog::postgres::{Config, OpenError, PostgresBackend};
use eventlog::testing::Cluster;
use eventlog::{Allot, Backend, BlobStore, EventLog, LogError, MasterKey, Options, Submission, TransactError};
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use tokio::sync::Mutex;
use tokio::task::JoinSet;

/// A database. Each node has its own connections.
struct Database {
    name: String,
    open: Mutex<Vec<Arc<PostgresBackend>>>,
}

impl Database {
    async fn new() -> Self {
        Self { name: Cluster::shared().create_log().await, open: Mutex::default() }
    }

    fn config(&self) -> Config {
        Config { connections_max: 6, ..Config::new(Cluster::shared().url(&self.name)) }
    }

    async fn backend(&self) -> Arc<PostgresBackend> {
        let backend = Arc::new(PostgresBackend::open(&self.config()).await.unwrap());
        self.open.lock().await.push(Arc::clone(&backend));
        backend
    }

    async fn log(&self) -> EventLog {
        let options = Options::new(MasterKey::new(&[7; 32]), BlobStore::memory(), Allot::system().entropy());
        EventLog::open(self.backend().await, options).await.unwrap()
    }

    /// Does something to the database that the log would never do.
    async fn tamper(&self, sql: &str) {
        let mut connection = PgConnection::connect(&self.config().url).await.unwrap();
        sqlx::query(AssertSqlSafe(sql.to_owned())).execute(&mut connection).await.unwrap();
        connection.close().await.unwrap();
    }
}

#[async_trait]
impl Store for Database {
    async fn node(&self) -> Arc<dyn Backend> {
        self.backend().await
    }

    async fn restart(&self) {
        for backend in self.open.lock().await.drain(..) {
            backend.close().await;
        }
    }
}

eventlog::conformance_suite!(Database::new());

fn team(n: u8) -> TeamId {
    TeamId::new(1, [n; 9])
}

async fn create_team(log: &EventLog, n: u8) -> u64 {
    let create = CreateTeam { name: "Acme".into(), limits: Limits::default() };
    log.transact(Submission::new(team(n), 1, Actor::Operator, "req_1", create))
        .await
        .unwrap()
        .done()
        .unwrap()
        .head
        .position
}

async fn change(log: &EventLog, n: u8, webhooks: u32) -> Result<u64, TransactError<domain::team::Rejected>> {
    let limits = Limits { webhooks, ..Limits::default() };
    let submission = Submission::new(team(n), 1, Actor::Operator, "req_1", ChangeLimits { limits });
    Ok(log.transact(submission).await?.done().unwrap().head.position)
}

#[tokio::test]
async fn a_hole_stops_reading_and_is_never_skipped() {
    let database = Database::new().await;
    let log = database.log().await;
    create_team(&log, 1).await;
    for webhooks in 11..16 {
        change(&log, 1, webhooks).await.unwrap();
    }
    database.tamper("DELETE FROM log.events WHERE position = 3").await;
    for (after, limit) in [(0, 10), (2, 10), (2, 1)] {
        let read = log.read(&team(1), after, limit).await;
        assert!(matches!(read, Err(LogError::Gap { expected: 3, found: 4, .. })), "after {after}: {read:?}");
    }
}

#[tokio::test]
async fn a_server_that_can_lose_events_is_refused_unless_that_is_allowed() {
    let database = Database::new().await;
    let name = &database.name;
    Cluster::shared().admin(&format!("ALTER DATABASE {name} SET synchronous_commit = off")).await;
    match PostgresBackend::open(&database.config()).await.map(drop).unwrap_err() {
        OpenError::Unsafe(problems) => assert!(problems[0].starts_with("synchronous_commit"), "{problems:?}"),
        other => panic!("{other}"),
    }
    let allowed = Config { dangerous_unsafe_postgres: true, ..database.config() };
    PostgresBackend::open(&allowed).await.unwrap().close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nodes_that_start_at_once_migrate_once() {
    let cluster = Cluster::shared();
    let config = Config { connections_max: 2, ..Config::new(cluster.url(&cluster.create_database(None).await)) };
    let mut starting = JoinSet::new();
    for _ in 0..6 {
        let config = config.clone();
        starting.spawn(async move { PostgresBackend::open(&config).await.unwrap().epoch().await.unwrap() });
    }
    assert_eq!(starting.join_all().await, [1; 6]);
    assert_eq!(PostgresBackend::begin_epoch(&config).await.unwrap(), 2);
    assert_eq!(PostgresBackend::open(&config).await.unwrap().epoch().await.unwrap(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn cut_connections_lose_nothing_acknowledged_and_write_nothing_twice() {
    let database = Database::new().await;
    let log = database.log().await;
    for n in 1..=4 {
        create_team(&log, n).await;
    }
    let mut cutter = JoinSet::new();
    let (config, name) = (database.config(), database.name.clone());
    cutter.spawn(async move {
        let mut connection = PgConnection::connect(&config.url).await.unwrap();
        for _ in 0..25 {
            let cut = format!(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                 WHERE datname = '{name}' AND pid <> pg_backend_pid()"
            );
            sqlx::query(AssertSqlSafe(cut)).execute(&mut connection).await.unwrap();
            tokio::task::yield_now().await;
        }
    });
    let mut writers = JoinSet::new();
    for n in 1..=4u8 {
        let log = log.clone();
        writers.spawn(async move {
            let mut acknowledged = vec![];
            for webhooks in 0..120 {
                match change(&log, n, 100 + webhooks).await {
                    Ok(position) => acknowledged.push((position, 100 + webhooks)),
                    Err(TransactError::Unavailable(_)) => {}
                    Err(e) => panic!("{e}"),
                }
            }
            (n, acknowledged)
        });
    }
    cutter.join_all().await;
    for (n, acknowledged) in writers.join_all().await {
        let records = log.read_stored(&team(n), 0, 1_000).await.unwrap();
        let mut verifier = Verifier::new(team(n));
        records.iter().for_each(|r| verifier.next(r).unwrap());
        verifier.end(&log.head(&team(n)).await.unwrap()).unwrap();
        for (position, webhooks) in &acknowledged {
            let facts = &records[usize::try_from(position - 1).unwrap()].facts;
            assert!(facts.contains(&format!("\"webhooks\":{webhooks},")), "{facts}");
        }
        let mut facts: Vec<_> = records.iter().map(|r| &r.facts).collect();
        facts.sort();
        facts.dedup();
        assert_eq!(facts.len(), records.len(), "something was written twice");
        assert!(acknowledged.len() > 60);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_head_that_somebody_else_holds_is_waited_for() {
    let database = Database::new().await;
    let (log, other) = (database.log().await, database.backend().await);
    create_team(&log, 1).await;
    let hold = other.hold(&[team(1), team(2)]).await.unwrap();
    let mut waiting = JoinSet::new();
    waiting.spawn(async move { change(&log, 1, 11).await.unwrap() });
    // Another team's writer does not wait.
    let log = database.log().await;
    create_team(&log, 3).await;
    assert!(waiting.try_join_next().is_none());
    drop(hold);
    assert_eq!(waiting.join_all().await, [2]);
    assert_eq!(log.teams(None, 10).await.unwrap(), [team(1), team(3)]);
}

/// A full disk cannot be had in a test, but its error can: everything behind it is the real way.
#[tokio::test]
async fn a_full_disk_refuses_appends_and_nothing_is_left_of_them() {
    let database = Database::new().await;
    let log = database.log().await;
    create_team(&log, 1).await;
    database
        .tamper(
            "CREATE FUNCTION log.no_space() RETURNS trigger LANGUAGE plpgsql AS $$
             BEGIN RAISE EXCEPTION 'could not extend file: No space left on device' USING ERRCODE = '53100'; END $$",
        )
        .await;
    database.tamper("CREATE TRIGGER no_space BEFORE INSERT ON log.events EXECUTE FUNCTION log.no_space()").await;
    for _ in 0..3 {
        assert!(matches!(change(&log, 1, 11).await, Err(TransactError::Full)));
    }
    assert_eq!(log.read(&team(1), 0, 10).await.unwrap().len(), 1, "reading goes on");
    assert_eq!(log.head(&team(1)).await.unwrap().position, 1);
    database.tamper("DROP TRIGGER no_space ON log.events").await;
    assert_eq!(change(&log, 1, 11).await.unwrap(), 2, "and so does writing, once there is space again");
}
