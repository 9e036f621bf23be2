//! What a node at rest costs, however many teams there are that do nothing.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use domain::id::TeamId;
use eventlog::testing::Cluster;
use sqlx::{Connection as _, PgConnection, SqliteConnection};

use crate::harness::{Installation, Server};

/// How long a node that has just started is left alone before it is looked at.
const SETTLE: Duration = Duration::from_secs(6);
/// How long it is looked at.
const WINDOW: Duration = Duration::from_secs(12);
/// How many teams one statement makes.
const CHUNK: usize = 5_000;

/// What a team that has rested for long has in the databases: the log ends at 3, and all that follows it has come as far.
const POSTGRES: &[&str] = &[
    "INSERT INTO log.heads (team_id, epoch, position, hash, moved_at)
     SELECT t, 1, 3, decode(repeat('00', 32), 'hex'), 1 FROM UNNEST($1::text[]) AS t",
    "INSERT INTO views.cursors (team_id, projection, position)
     SELECT t, p.projection, 3 FROM UNNEST($1::text[]) AS t, views.projection_versions p WHERE p.projection <> ''",
    "INSERT INTO work.outbound_teams (team_id, cursor, log_epoch, owner, expires_at, next_due_at)
     SELECT t, 3, 1, '', 0, 9223372036854775807 FROM UNNEST($1::text[]) AS t",
    "INSERT INTO log.checkpoints (team_id, size, made_at, note, posted)
     SELECT t, 3, 1, '', 1 FROM UNNEST($1::text[]) AS t",
];
const SQLITE: &[(&str, &str)] = &[
    (
        "log.db",
        "INSERT INTO heads (team_id, epoch, position, hash, moved_at)
         SELECT value, 1, 3, zeroblob(32), 1 FROM json_each($1)",
    ),
    (
        "log.db",
        "INSERT INTO checkpoints (team_id, size, made_at, note, posted) SELECT value, 3, 1, '', 1 FROM json_each($1)",
    ),
    (
        "views.db",
        "INSERT INTO cursors (team_id, projection, position)
         SELECT value, p.projection, 3 FROM json_each($1), projection_versions p WHERE p.projection <> ''",
    ),
    (
        "work.db",
        "INSERT INTO outbound_teams (team_id, cursor, log_epoch, owner, expires_at, next_due_at)
         SELECT value, 3, 1, '', 0, 9223372036854775807 FROM json_each($1)",
    ),
];

fn ids(teams: usize) -> Vec<Vec<String>> {
    let id = |n: usize| {
        let mut random = [0; 9];
        random[1..].copy_from_slice(&u64::try_from(n).unwrap().to_be_bytes());
        TeamId::new(1_700_000_000_000_000, random).to_string()
    };
    let all: Vec<String> = (0..teams).map(id).collect();
    all.chunks(CHUNK).map(<[String]>::to_vec).collect()
}

async fn fill_postgres(installation: &Installation, teams: usize) {
    let mut connection = PgConnection::connect(installation.database()).await.unwrap();
    for ids in ids(teams) {
        for sql in POSTGRES {
            sqlx::query(*sql).bind(&ids).execute(&mut connection).await.unwrap();
        }
    }
    sqlx::query("ANALYZE").execute(&mut connection).await.unwrap();
    connection.close().await.unwrap();
}

async fn fill_sqlite(installation: &Installation, teams: usize) {
    for (file, sql) in SQLITE {
        let options = sqlx::sqlite::SqliteConnectOptions::new().filename(installation.data().join(file));
        let mut connection = SqliteConnection::connect_with(&options).await.unwrap();
        for ids in ids(teams) {
            let ids = serde_json::to_string(&ids).unwrap();
            sqlx::query(*sql).bind(ids).execute(&mut connection).await.unwrap();
        }
        connection.close().await.unwrap();
    }
}

/// Starts a node over that many teams. Returns how long it took to be ready.
async fn start(installation: &Installation, teams: usize, on_postgres: bool) -> (Server, Duration) {
    assert!(installation.start().terminate());
    match on_postgres {
        true => fill_postgres(installation, teams).await,
        false => fill_sqlite(installation, teams).await,
    }
    let began = Instant::now();
    let server = installation.start();
    (server, began.elapsed())
}

/// What a process has used so far: processor time in milliseconds, and its memory now, KiB.
fn used(server: &Server) -> (u64, u64) {
    let read = |file: &str| std::fs::read_to_string(format!("/proc/{}/{file}", server.pid())).unwrap();
    let stat = read("stat");
    // Behind the name, which may hold anything; times are in hundredths of a second.
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    let status = read("status");
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    (ticks * 10, resident.split_whitespace().next().unwrap().parse().unwrap())
}

/// Waits until a node that has just started has looked at all teams once: it does not work less any more than before.
async fn settle(server: &Server) {
    let mut before = u64::MAX;
    for _ in 0..20 {
        let (from, _) = used(server);
        tokio::time::sleep(SETTLE).await;
        let worked = used(server).0 - from;
        if worked + 50 >= before {
            return;
        }
        before = worked;
    }
}

/// Counts the statements of a database in a part of its server's log, by how they begin.
fn statements(log: &str, database: &str) -> BTreeMap<String, u64> {
    let mut counts = BTreeMap::new();
    for line in log.lines() {
        let Some(said) = line.strip_prefix(database).and_then(|rest| rest.strip_prefix("@LOG:  ")) else { continue };
        let text = match said.strip_prefix("statement: ") {
            Some(text) => text,
            None => match said.strip_prefix("execute ").and_then(|said| said.split_once(": ")) {
                Some((_, text)) => text,
                None => continue,
            },
        };
        *counts.entry(text.to_owned()).or_default() += 1;
    }
    counts
}

fn database(installation: &Installation) -> &str {
    installation.database().rsplit('/').next().unwrap()
}

/// Needs two nodes at rest for some seconds: nothing here waits for something to happen, it sees to it that nothing does.
#[tokio::test]
async fn fifty_idle_teams_and_two_thousand_cause_the_same_statements() {
    let cluster = Cluster::start(&["log_statement=all", "log_line_prefix=%d@"]);
    let mut nodes = vec![];
    for teams in [50, 2_000] {
        let url = cluster.url(&cluster.create_database(None).await);
        // The day's charges go over all teams, once a day.
        let installation =
            Installation::new().with("DATABASE__URL", &url).with("BILLING__CHARGE_LOOK_SECONDS", "86400");
        let (server, _) = start(&installation, teams, true).await;
        nodes.push((installation, server));
    }
    tokio::time::sleep(SETTLE).await;
    let from = cluster.server_log().len();
    let before: Vec<_> = nodes.iter().map(|(_, server)| used(server)).collect();
    tokio::time::sleep(WINDOW).await;
    let log = cluster.server_log();
    let few = statements(&log[from..], database(&nodes[0].0));
    let many = statements(&log[from..], database(&nodes[1].0));
    assert!(few.values().sum::<u64>() > 10, "{few:#?}");
    for text in few.keys().chain(many.keys()) {
        let count = |of: &BTreeMap<String, u64>| of.get(text).copied().unwrap_or_default();
        // Timers of two processes do not tick at once, and a connection that has rested is tried before it is used; what
        // depended on the teams would differ by forty times.
        assert!(count(&few).abs_diff(count(&many)) <= 10, "{} and {}: {text}", count(&few), count(&many));
    }
    let memory: Vec<u64> = before.iter().map(|(_, kib)| *kib).collect();
    assert!(memory[1] < memory[0] + 16 * 1024, "KiB: {memory:?}");
}

/// A table of what a node at rest costs, for the numbers of teams in `POSTLOG_TEST_IDLE_TEAMS`.
#[tokio::test]
#[expect(clippy::print_stderr, reason = "it is asked to print")]
async fn a_table_of_idle_costs() {
    let Ok(wanted) = std::env::var("POSTLOG_TEST_IDLE_TEAMS") else { return };
    eprintln!("engine      teams    ready in   memory     processor   statements");
    for on_postgres in [false, true] {
        for teams in wanted.split(',').map(|n| n.trim().parse::<usize>().unwrap()) {
            let cluster = on_postgres.then(|| Cluster::start(&["log_statement=all", "log_line_prefix=%d@"]));
            let installation = match &cluster {
                Some(cluster) => {
                    let url = cluster.url(&cluster.create_database(None).await);
                    Installation::new().with("DATABASE__URL", &url)
                }
                None => Installation::new(),
            };
            let installation = installation.with_patience(Duration::from_secs(600));
            let (server, ready) = start(&installation, teams, on_postgres).await;
            settle(&server).await;
            let log = || cluster.as_ref().map(Cluster::server_log).unwrap_or_default();
            let (from, (busy, _)) = (log().len(), used(&server));
            tokio::time::sleep(WINDOW).await;
            let (after, kib) = used(&server);
            let ran =
                cluster.as_ref().map(|_| statements(&log()[from..], database(&installation)).values().sum::<u64>());
            let ran = ran.map_or("-".to_owned(), |n| format!("{:.1}/s", n as f64 / WINDOW.as_secs_f64()));
            eprintln!(
                "{:10} {teams:>6}   {:>6} ms   {:>4} MiB   {:>5.1} ms/s   {ran:>8}",
                if on_postgres { "postgresql" } else { "sqlite" },
                ready.as_millis(),
                kib / 1024,
                (after - busy) as f64 / WINDOW.as_secs_f64(),
            );
        }
    }
}
