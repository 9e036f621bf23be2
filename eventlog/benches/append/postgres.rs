//! PostgreSQL: `transact` beside `pgbench`, which inserts one such row per transaction; and one busy team beside a
//! transaction per event.

use std::process::Command;
use std::sync::Arc;

use eventlog::postgres::{Config, PostgresBackend};
use eventlog::testing::Cluster;
use sqlx::PgPool;
use sqlx::postgres::PgPoolOptions;

use crate::bare::{FACTS_BYTES, SEALED_BYTES};
use crate::load::{ROUNDS, log, measure, median, team, transact};

const CLIENTS: u64 = 64;

async fn database() -> Config {
    let cluster = Cluster::shared();
    let name = cluster.create_database(None).await;
    Config { connections_max: 80, ..Config::new(cluster.url(&name)) }
}

async fn ours(producers: u64, teams: u64, lanes: usize) -> f64 {
    let backend = PostgresBackend::open(&database().await).await.unwrap();
    let log = log(Arc::new(backend), lanes).await;
    let writing = log.clone();
    let rate = measure(producers, move |producer, n| {
        let log = writing.clone();
        async move { transact(&log, &team(producer % teams), n).await }
    })
    .await;
    log.close().await;
    rate
}

/// One row into the log's table of events per transaction, prepared, by `pgbench`.
async fn pgbench() -> f64 {
    let config = database().await;
    eventlog::Backend::close(&PostgresBackend::open(&config).await.unwrap()).await;
    let script = tempfile::NamedTempFile::new().unwrap();
    let insert = format!(
        "\\set n :n + 1\nINSERT INTO log.events VALUES ('team_' || :client_id, :n, 1, 'message/msg_' || :n, 1, \
         'message.keywords_changed', 1, '{}', NULL, 'operator', NULL, 'req_bench', 1700000000000000, '\\x{}');\n",
        "k".repeat(FACTS_BYTES),
        "09".repeat(32),
    );
    std::fs::write(script.path(), insert).unwrap();
    let (server, name) = config.url.rsplit_once('/').unwrap();
    let socket = server.rsplit_once('@').unwrap().1.replace("%2F", "/");
    let name = name.to_owned();
    let path = script.path().to_owned();
    let said = tokio::task::spawn_blocking(move || {
        let mut command = Command::new("pgbench");
        command.args(["-n", "-M", "prepared", "-T", "2", "-D", "n=0", "-U", "postlog"]);
        command.args(["-c", &CLIENTS.to_string(), "-j", "2", "-h", &socket]);
        command.arg("-f").arg(path).arg(name).output().unwrap()
    })
    .await
    .unwrap();
    let text = String::from_utf8_lossy(&said.stdout).into_owned();
    let tps = text.lines().find_map(|line| line.strip_prefix("tps = ")).and_then(|t| t.split(' ').next());
    tps.and_then(|t| t.parse().ok()).unwrap_or_else(|| panic!("{text}{}", String::from_utf8_lossy(&said.stderr)))
}

/// What a log without batches does: lock the head, write the rows, move the head, commit; for each event.
async fn one_event(pool: &PgPool, team: &str, n: u64) {
    let mut transaction = pool.begin().await.unwrap();
    let position: i64 = sqlx::query_scalar("SELECT position FROM log.heads WHERE team_id = $1 FOR UPDATE")
        .bind(team)
        .fetch_one(&mut *transaction)
        .await
        .unwrap();
    sqlx::query(
        "INSERT INTO log.events VALUES ($1, $2, 1, $3, 1, 'message.keywords_changed', 1, $4, NULL, 'operator', NULL,
                                        'req_bench', $5, $6)",
    )
    .bind(team)
    .bind(position + 1)
    .bind(format!("message/msg_{n:024}"))
    .bind("k".repeat(FACTS_BYTES))
    .bind(1_700_000_000_000_000i64)
    .bind(&[9u8; 32][..])
    .execute(&mut *transaction)
    .await
    .unwrap();
    sqlx::query("INSERT INTO log.answers VALUES ($1, 'POST /messages', $2, $3, 201, $4, $5)")
        .bind(team)
        .bind(format!("bench-{n:016}"))
        .bind(&[1u8; 32][..])
        .bind(vec![7u8; SEALED_BYTES])
        .bind(1_700_000_000_000_000i64)
        .execute(&mut *transaction)
        .await
        .unwrap();
    sqlx::query("UPDATE log.heads SET position = $2, hash = $3 WHERE team_id = $1")
        .bind(team)
        .bind(position + 1)
        .bind(&[9u8; 32][..])
        .execute(&mut *transaction)
        .await
        .unwrap();
    transaction.commit().await.unwrap();
}

async fn unbatched(producers: u64) -> f64 {
    let config = database().await;
    eventlog::Backend::close(&PostgresBackend::open(&config).await.unwrap()).await;
    let connections = u32::try_from(producers).unwrap();
    let pool = PgPoolOptions::new().max_connections(connections).connect(&config.url).await.unwrap();
    sqlx::query("INSERT INTO log.heads VALUES ($1, 1, 0, $2, 0)")
        .bind(team(0).as_str())
        .bind(&[0u8; 32][..])
        .execute(&pool)
        .await
        .unwrap();
    let writing = pool.clone();
    let rate = measure(producers, move |_, n| {
        let pool = writing.clone();
        async move { one_event(&pool, team(0).as_str(), n).await }
    })
    .await;
    pool.close().await;
    rate
}

async fn pair(name: &str, ours: impl AsyncFn() -> f64, other: impl AsyncFn() -> f64) {
    let (mut through, mut beside, mut ratios) = (vec![], vec![], vec![]);
    for _ in 0..ROUNDS {
        through.push(ours().await);
        beside.push(other().await);
        ratios.push(through[through.len() - 1] / beside[beside.len() - 1]);
    }
    let (through, beside, ratio) = (median(through), median(beside), median(ratios));
    println!("{name}: {through:>8.0} {beside:>8.0} {ratio:>6.2}");
}

pub async fn compare() {
    println!("PostgreSQL, {FACTS_BYTES} bytes of facts, idempotency on: events/s through transact, beside, ratio");
    pair("64 teams, 1 lane, beside pgbench (64 clients)", async || ours(CLIENTS, 64, 1).await, pgbench).await;
    pair("64 teams, 2 lanes, beside pgbench (64 clients)", async || ours(CLIENTS, 64, 2).await, pgbench).await;
    pair(
        "one busy team, beside a transaction per event",
        async || ours(CLIENTS, 1, 1).await,
        async || unbatched(CLIENTS).await,
    )
    .await;
}
