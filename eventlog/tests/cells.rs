//! Every promise, with the teams' logs in two databases; and teams that move from one to the other.
#![expect(clippy::unwrap_used, reason = "tests may fail loudly")]

use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use domain::Actor;
use domain::api_key::{CreateTeamKey, Kind, Minted};
use domain::id::{BlobId, KeyId, SecretId, TeamId};
use domain::permission::Preset;
use domain::team::{ChangeLimits, CreateTeam, Limits};
use eventlog::chain::Verifier;
use eventlog::conformance::Store;
use eventlog::postgres::{CellConfig, CellsBackend, Config, HOME, MoveError, Step};
use eventlog::testing::Cluster;

use eventlog::{
    Allot, Backend, BlobStore, CheckpointRow, DirectoryKey, EventLog, Growth, MasterKey, Options, SecretRow,
    Submission, TransactError,
};
use futures_util::FutureExt as _;
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use tokio::sync::Mutex;

/// Two databases. Each node has its own connections.
struct Two {
    home: String,
    away: String,
    open: Mutex<Vec<CellsBackend>>,
}

impl Two {
    async fn new() -> Self {
        let cluster = Cluster::shared();
        let (home, away) = (cluster.create_log().await, cluster.create_log().await);
        Self { home, away, open: Mutex::default() }
    }

    fn config(name: &str) -> Config {
        Config { connections_max: 5, ..Config::new(Cluster::shared().url(name)) }
    }

    /// Returns a node that makes new teams in a cell.
    async fn cells(&self, new_teams: &str) -> CellsBackend {
        let away = CellConfig { name: "away".to_owned(), database: Self::config(&self.away) };
        let cells = CellsBackend::open(&Self::config(&self.home), &[away], new_teams).await.unwrap();
        self.open.lock().await.push(cells.clone());
        cells
    }

    async fn log(&self, cells: &CellsBackend) -> EventLog {
        let options = Options::new(MasterKey::new(&[7; 32]), BlobStore::memory(), Allot::system().entropy());
        EventLog::open(Arc::new(cells.clone()), options).await.unwrap()
    }

    /// Returns what a team has in a cell's log: of every table with its rows, how many and a digest of them. Where it lives
    /// is not part of it, nor are its head, which stays behind empty, and the directory of home, which is everybody's.
    async fn content(&self, database: &str, team: &TeamId) -> BTreeMap<String, (i64, String)> {
        let mut connection = PgConnection::connect(&Self::config(database).url).await.unwrap();
        let tables: Vec<String> = sqlx::query_scalar(
            "SELECT table_name::text FROM information_schema.columns
             WHERE table_schema = 'log' AND column_name = 'team_id'
             AND table_name NOT IN ('heads', 'directory', 'residences', 'moves')",
        )
        .fetch_all(&mut connection)
        .await
        .unwrap();
        let mut content = BTreeMap::new();
        for table in tables {
            let sql = format!(
                "SELECT COUNT(*), COALESCE(md5(string_agg(t::text, '' ORDER BY t::text)), '')
                 FROM log.{table} t WHERE team_id = $1"
            );
            let row = sqlx::query_as(AssertSqlSafe(sql)).bind(team.as_str()).fetch_one(&mut connection).await.unwrap();
            content.insert(table, row);
        }
        connection.close().await.unwrap();
        content
    }

    async fn is_empty(&self, database: &str, team: &TeamId) -> bool {
        self.content(database, team).await.values().all(|(rows, _)| *rows == 0)
    }
}

#[async_trait]
impl Store for Two {
    async fn node(&self) -> Arc<dyn Backend> {
        // Nodes that do not agree where new teams live are the worst case.
        let new_teams = if self.open.lock().await.len() % 2 == 0 { "away" } else { HOME };
        Arc::new(self.cells(new_teams).await)
    }

    async fn restart(&self) {
        for cells in self.open.lock().await.drain(..) {
            cells.close().await;
        }
    }
}

eventlog::conformance_suite!(Two::new());

const NOW: i64 = 1_795_255_200_000_000;
const SOON: Duration = Duration::from_millis(20);

fn team(n: u8) -> TeamId {
    TeamId::new(NOW, [n; 9])
}

async fn create(log: &EventLog, n: u8) {
    let create = CreateTeam { name: "Acme".into(), limits: Limits::default() };
    log.transact(Submission::new(team(n), NOW, Actor::Operator, "req_1", create)).await.unwrap();
}

async fn change(log: &EventLog, n: u8, webhooks: u32) -> Result<u64, TransactError<domain::team::Rejected>> {
    let limits = Limits { webhooks, ..Limits::default() };
    let submission = Submission::new(team(n), NOW, Actor::Operator, "req_1", ChangeLimits { limits });
    Ok(log.transact(submission).await?.done().unwrap().head.position)
}

async fn key(log: &EventLog, n: u8, lookup: &str) -> Result<(), String> {
    let id = KeyId::new(NOW, Allot::system().random());
    let minted = Minted { key: id, lookup: lookup.to_owned(), prefix: "smx_inf_a".into(), suffix: "z".into() };
    let permissions = Preset::Full.permissions();
    let create = CreateTeamKey { minted, kind: Kind::Infrastructure, name: "k".into(), permissions };
    let submission = Submission::new(team(n), NOW, Actor::Operator, "req_2", create);
    log.transact(submission).await.map(drop).map_err(|e| e.to_string())
}

async fn verify(log: &EventLog, n: u8) -> u64 {
    let mut verifier = Verifier::new(team(n));
    for record in log.read_stored(&team(n), 0, 10_000).await.unwrap() {
        verifier.next(&record).unwrap();
    }
    verifier.end(&log.head(&team(n)).await.unwrap()).unwrap();
    verifier.verified().0
}

async fn find(log: &EventLog, lookup: &str) -> Option<TeamId> {
    log.find(&DirectoryKey::KeyLookup(lookup.to_owned())).await.unwrap().map(|entry| entry.team)
}

#[tokio::test]
async fn a_team_moves_under_load_and_back_and_nothing_is_lost_or_left_behind() {
    let two = Two::new().await;
    let (a, b) = (two.cells(HOME).await, two.cells(HOME).await);
    let (log, other) = (two.log(&a).await, two.log(&b).await);
    create(&log, 1).await;
    create(&log, 2).await;
    key(&log, 1, "aa").await.unwrap();
    let body = BlobId::new(NOW, [3; 9]);
    let staged = log.stage_blob(&team(1), &body, bytes::Bytes::from_static(b"body")).await.unwrap();
    let limits = Limits { webhooks: 77, ..Limits::default() };
    let with_body = Submission::new(team(1), NOW, Actor::Operator, "req_3", ChangeLimits { limits })
        .with_blob(body.clone(), staged);
    log.transact(with_body).await.unwrap();
    let done = Arc::new(tokio::sync::Notify::new());
    for to in ["away", HOME, "away"] {
        let ended = Arc::clone(&done);
        // The other node goes on all the time; while the head is frozen it is told to try again.
        let load = async {
            let (mut acknowledged, mut refused, mut n) = (vec![], 0_u32, 20_u32);
            loop {
                n += 1;
                match change(&other, 1, n % 1_000 + 11).await {
                    Ok(position) => acknowledged.push(position),
                    Err(TransactError::Unavailable(why)) => {
                        assert!(why.contains("moved"), "{why}");
                        refused += 1;
                    }
                    Err(e) => panic!("{e}"),
                }
                if ended.notified().now_or_never().is_some() {
                    return (acknowledged, refused);
                }
            }
        };
        let moving = async {
            let moved = a.relocate(&team(1), to, NOW, SOON, |_| {}).await.unwrap();
            done.notify_one();
            moved.unwrap()
        };
        let ((acknowledged, _), switched) = tokio::join!(load, moving);
        // Appended before and after the switch, each exactly once and in order.
        assert!(acknowledged.windows(2).all(|pair| pair[0] < pair[1]), "{acknowledged:?}");
        assert!(acknowledged.iter().any(|position| *position > switched) || !acknowledged.is_empty());
        change(&other, 1, 5_000).await.unwrap();
        for node in [&log, &other] {
            let reached = verify(node, 1).await;
            assert!(acknowledged.iter().all(|position| *position <= reached));
            assert_eq!(find(node, "aa").await, Some(team(1)));
            assert_eq!(node.blob(&team(1), &body).await.unwrap().unwrap(), "body");
        }
        let left = if to == HOME { &two.away } else { &two.home };
        assert!(two.is_empty(left, &team(1)).await, "{:?}", two.content(left, &team(1)).await);
        assert_eq!(a.residence(&team(1)).await.unwrap(), (to.to_owned(), None));
        assert_eq!(log.teams(None, 10).await.unwrap(), [team(1), team(2)]);
    }
    verify(&log, 2).await;
    assert!(matches!(a.relocate(&team(1), "away", NOW, SOON, |_| {}).await, Ok(None)), "it is there");
    assert!(matches!(a.relocate(&team(1), "nowhere", NOW, SOON, |_| {}).await, Err(MoveError::UnknownCell(_))));
}

#[tokio::test]
async fn a_move_that_is_cut_off_anywhere_goes_on_where_it_was() {
    for cut in 0..4 {
        let two = Two::new().await;
        let cells = two.cells(HOME).await;
        let log = two.log(&cells).await;
        create(&log, 1).await;
        key(&log, 1, "aa").await.unwrap();
        for n in 0..30 {
            change(&log, 1, 20 + n).await.unwrap();
        }
        let mut steps = 0;
        let one = team(1);
        let moving = cells.relocate(&one, "away", NOW, SOON, |_| {
            assert!(steps != cut, "cut off");
            steps += 1;
        });
        assert!(AssertUnwindSafe(moving).catch_unwind().await.is_err(), "step {cut}");
        let reached = log.head(&team(1)).await.unwrap().position;
        if cut < 1 {
            // Not frozen yet: it goes on, and what comes is moved with the rest.
            change(&log, 1, 99).await.unwrap();
        }
        // Another process takes it up.
        let later = two.cells(HOME).await;
        let moved = later.relocate(&team(1), "away", NOW, SOON, |_| {}).await.unwrap();
        let extra = u64::from(cut < 1);
        match cut {
            // Everything was done but for telling so.
            3 => assert_eq!(moved, None),
            _ => assert_eq!(moved, Some(reached + extra)),
        }
        for node in [&log, &two.log(&later).await] {
            cells.moved_since(0, 1).await.unwrap();
            assert_eq!(verify(node, 1).await, reached + extra);
            assert_eq!(find(node, "aa").await, Some(team(1)));
        }
        change(&log, 1, 100).await.unwrap();
        assert!(two.is_empty(&two.home, &team(1)).await);
    }
}

#[tokio::test]
async fn a_frozen_team_is_told_to_try_again_and_a_move_taken_back_leaves_it_where_it_was() {
    let two = Two::new().await;
    let cells = two.cells(HOME).await;
    let log = two.log(&cells).await;
    create(&log, 1).await;
    create(&log, 2).await;
    let one = team(1);
    let moving = cells.relocate(&one, "away", NOW, SOON, |step| assert!(!matches!(step, Step::Frozen(_)), "cut off"));
    assert!(AssertUnwindSafe(moving).catch_unwind().await.is_err());
    let refused = change(&log, 1, 50).await.unwrap_err();
    assert!(matches!(&refused, TransactError::Unavailable(why) if why.contains("moved")), "{refused}");
    // What is changed now might be copied already.
    assert!(log.erase_personal(&team(1), &[1]).await.is_err());
    assert!(cells.erase_blobs(&team(1), &[]).await.is_err());
    let secret = SecretRow { id: SecretId::new(NOW, [1; 9]), sealed: vec![1] };
    assert!(cells.replace_secret(&team(1), &secret, &[2]).await.is_err());
    for n in [1, 2] {
        let checkpoint = CheckpointRow { size: 1, made_at: NOW, note: "note".into(), is_posted: false };
        let growth = Growth { team: team(n), tiles: vec![], checkpoints: vec![checkpoint] };
        assert_eq!(cells.trees().grow(&[growth]).await.is_err(), n == 1);
        assert_eq!(cells.trees().last_checkpoint(&team(n)).await.unwrap().is_some(), n == 2);
    }
    change(&log, 2, 50).await.unwrap();
    assert!(matches!(cells.relocate(&team(1), HOME, NOW, SOON, |_| {}).await, Err(MoveError::OnItsWay(_))));
    cells.stay(&team(1)).await.unwrap();
    change(&log, 1, 51).await.unwrap();
    verify(&log, 1).await;
    assert!(two.is_empty(&two.away, &team(1)).await);
    assert!(matches!(cells.stay(&team(1)).await, Err(MoveError::NotOnItsWay)));
}

#[tokio::test]
async fn a_changed_copy_is_found_and_the_team_goes_on_where_it_lives() {
    let two = Two::new().await;
    let cells = two.cells(HOME).await;
    let log = two.log(&cells).await;
    create(&log, 1).await;
    change(&log, 1, 50).await.unwrap();
    let one = team(1);
    let cut = cells.relocate(&one, "away", NOW, SOON, |_| panic!("cut off"));
    assert!(AssertUnwindSafe(cut).catch_unwind().await.is_err());
    let mut away = PgConnection::connect(&Two::config(&two.away).url).await.unwrap();
    let changed = sqlx::query("UPDATE log.events SET facts = facts || ' ' WHERE position = 1");
    assert_eq!(changed.execute(&mut away).await.unwrap().rows_affected(), 1);
    let moved = cells.relocate(&team(1), "away", NOW, SOON, |_| {}).await;
    assert!(matches!(moved, Err(MoveError::Broken(_))), "{moved:?}");
    change(&log, 1, 52).await.unwrap();
    assert_eq!(cells.residence(&team(1)).await.unwrap().0, HOME);
}

#[tokio::test]
async fn what_is_unique_is_unique_across_cells() {
    let two = Two::new().await;
    let (home, away) = (two.cells(HOME).await, two.cells("away").await);
    let (log, other) = (two.log(&home).await, two.log(&away).await);
    create(&log, 1).await;
    create(&other, 2).await;
    assert_eq!(home.residence(&team(2)).await.unwrap().0, "away");
    key(&log, 1, "aa").await.unwrap();
    key(&other, 2, "bb").await.unwrap();
    for (node, n, lookup) in [(&other, 2, "aa"), (&log, 1, "bb")] {
        assert!(key(node, n, lookup).await.unwrap_err().contains("taken"));
    }
    // Both at once: one of them has it, wherever it lives.
    for round in 0..10 {
        let lookup = format!("cc{round}");
        let (one, two) = tokio::join!(key(&log, 1, &lookup), key(&other, 2, &lookup));
        assert!(one.is_ok() != two.is_ok(), "{one:?} {two:?}");
        let owner = find(&log, &lookup).await.unwrap();
        assert_eq!(owner, if one.is_ok() { team(1) } else { team(2) });
        assert_eq!(find(&other, &lookup).await, Some(owner));
    }
}

/// One row for each table that a short life of a team leaves empty.
const FURTHER: [&str; 6] = [
    "INSERT INTO log.event_links (team_id, stream, position) VALUES ($1, 'a', 1)",
    "INSERT INTO log.answers (team_id, scope, request_key, fingerprint, status, sealed, created_at)
     VALUES ($1, 's', 'k', '\\x01', 200, '\\x0203', 1)",
    "INSERT INTO log.secrets (team_id, secret_id, sealed) VALUES ($1, 's', '\\x00ff')",
    "INSERT INTO log.snapshots (team_id, stream, shape, stream_version, position, state) VALUES ($1, 'a', 0, 1, 1, '{}')",
    "INSERT INTO log.checkpoints (team_id, size, made_at, note, posted)
     SELECT $1, n, 1, 'line' || chr(10) || n, n % 2 FROM generate_series(1, 2) AS n",
    "INSERT INTO log.tree_tiles (team_id, level, tile, hashes)
     SELECT $1, 0, n, decode(repeat('ab', 32 * n::int), 'hex') FROM generate_series(1, 200) AS n",
];

#[tokio::test]
async fn every_table_of_a_teams_log_moves_as_it_is() {
    let two = Two::new().await;
    let cells = two.cells(HOME).await;
    let log = two.log(&cells).await;
    create(&log, 1).await;
    key(&log, 1, "aa").await.unwrap();
    let body = BlobId::new(NOW, [3; 9]);
    let staged = log.stage_blob(&team(1), &body, bytes::Bytes::from_static(b"body")).await.unwrap();
    let limits = ChangeLimits { limits: Limits { webhooks: 77, ..Limits::default() } };
    let with_body = Submission::new(team(1), NOW, Actor::Operator, "req_3", limits).with_blob(body, staged);
    log.transact(with_body).await.unwrap();
    let mut home = PgConnection::connect(&Two::config(&two.home).url).await.unwrap();
    for sql in FURTHER {
        sqlx::query(sql).bind(team(1).as_str()).execute(&mut home).await.unwrap();
    }
    let before = two.content(&two.home, &team(1)).await;
    assert!(before.iter().all(|(table, (rows, _))| *rows > 0 || table == "personal"), "{before:?}");
    let one = team(1);
    // Cut off between the copy and the freeze; then the tree grows.
    let cut = cells.relocate(&one, "away", NOW, SOON, |_| panic!("cut off"));
    assert!(AssertUnwindSafe(cut).catch_unwind().await.is_err());
    for sql in [
        "UPDATE log.tree_tiles SET hashes = hashes || hashes WHERE team_id = $1 AND tile = 200",
        "INSERT INTO log.checkpoints (team_id, size, made_at, note, posted) VALUES ($1, 3, 1, 'three', 0)",
    ] {
        sqlx::query(sql).bind(team(1).as_str()).execute(&mut home).await.unwrap();
    }
    let before = two.content(&two.home, &team(1)).await;
    cells.relocate(&team(1), "away", NOW, SOON, |_| {}).await.unwrap();
    let after = two.content(&two.away, &team(1)).await;
    for (table, content) in &before {
        // Snapshots are made anew from the log.
        assert_eq!(if table == "snapshots" { 0 } else { content.0 }, after[table].0, "{table}");
        assert!(table == "snapshots" || content == &after[table], "{table}");
    }
    assert!(two.is_empty(&two.home, &team(1)).await);
}

#[tokio::test]
async fn two_processes_never_make_the_same_move() {
    let two = Two::new().await;
    let (a, b) = (two.cells(HOME).await, two.cells(HOME).await);
    let log = two.log(&a).await;
    create(&log, 1).await;
    for n in 0..30 {
        change(&log, 1, 20 + n).await.unwrap();
    }
    let one = team(1);
    let (at_a, at_b) =
        tokio::join!(a.relocate(&one, "away", NOW, SOON, |_| {}), b.relocate(&one, "away", NOW, SOON, |_| {}));
    for moved in [&at_a, &at_b] {
        assert!(matches!(moved, Ok(_) | Err(MoveError::Busy)), "{moved:?}");
    }
    assert!(at_a.is_ok() || at_b.is_ok());
    assert_eq!(a.residence(&team(1)).await.unwrap(), ("away".to_owned(), None));
    assert_eq!(verify(&log, 1).await, 31);
    assert!(two.is_empty(&two.home, &team(1)).await);
}

#[tokio::test]
async fn exchanged_cells_are_refused() {
    let two = Two::new().await;
    two.cells(HOME).await;
    let other = CellConfig { name: "other".to_owned(), database: Two::config(&two.away) };
    let refused = CellsBackend::open(&Two::config(&two.home), &[other], HOME).await.err().unwrap();
    assert!(refused.to_string().contains("is cell away"), "{refused}");
    let home = CellConfig { name: "away".to_owned(), database: Two::config(&two.home) };
    assert!(CellsBackend::open(&Two::config(&two.away), &[home], HOME).await.is_err());
}
