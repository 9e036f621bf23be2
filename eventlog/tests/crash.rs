//! What is left after a failure at each step of an append, after kills at any moment, and after torn writes.
#![expect(clippy::unwrap_used, reason = "tests may fail loudly")]

use std::io::{BufRead, BufReader};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use domain::Actor;
use domain::api_key::{CreateTeamKey, Kind, Minted, RotateKey};
use domain::id::{BlobId, KeyId, SecretId, TeamId};
use domain::permission::Preset;
use domain::team::{CreateTeam, Limits};
use eventlog::chain::Verifier;
use eventlog::sqlite::SqliteBackend;
use eventlog::{
    Allot, Answer, BlobStore, DirectoryKey, EventLog, Failpoints, Fault, Idempotency, MasterKey, Options, Outcome,
    Point, SecretText, Submission, TransactError,
};

/// `BEGIN`, ten tables' statements and `COMMIT`.
const STATEMENTS: usize = 12;

fn points() -> impl Iterator<Item = Point> {
    let lane = [Point::LaneBeforeDecide, Point::LaneBeforeAppend, Point::LaneAfterAppend, Point::AfterCommit];
    lane.into_iter().chain((0..STATEMENTS).map(Point::Statement))
}

/// Returns whether the commit was done when a point is passed.
fn is_written(point: Point) -> bool {
    matches!(point, Point::LaneAfterAppend | Point::AfterCommit)
}

async fn open(directory: &Path, failpoints: &Failpoints) -> EventLog {
    let backend = SqliteBackend::open_reserving(&directory.join("log.db"), 1 << 20)
        .await
        .unwrap()
        .with_failpoints(failpoints.clone());
    let options = Options::new(MasterKey::new(&[7; 32]), BlobStore::memory(), Allot::system().entropy());
    EventLog::open(Arc::new(backend), Options { failpoints: failpoints.clone(), ..options }).await.unwrap()
}

fn team() -> TeamId {
    TeamId::new(1, [1; 9])
}

fn minted(n: u32) -> Minted {
    let mut random = [0; 9];
    random[..4].copy_from_slice(&n.to_be_bytes());
    Minted {
        key: KeyId::new(1, random),
        lookup: format!("{n:064x}"),
        prefix: "smx_inf_ab".into(),
        suffix: "wxyz".into(),
    }
}

fn create_key(n: u32) -> Submission<CreateTeamKey> {
    let (name, permissions) = ("ci".to_owned(), Preset::Full.permissions());
    let create = CreateTeamKey { minted: minted(n), kind: Kind::Infrastructure, name, permissions };
    Submission::new(team(), 1, Actor::Operator, "req_1", create)
}

async fn begin(directory: &Path) {
    let log = open(directory, &Failpoints::default()).await;
    let limits = Limits { active_keys: 1_000_000, ..Limits::default() };
    let create = CreateTeam { name: "Acme".into(), limits };
    log.transact(Submission::new(team(), 1, Actor::Operator, "req_1", create)).await.unwrap();
    log.transact(create_key(1)).await.unwrap();
    log.close().await;
}

/// One command with something of everything: two events, links, a release, a claim, an answer, a secret, a body.
async fn rotate(log: &EventLog) -> Result<bool, TransactError<domain::api_key::Rejected>> {
    let rotate = RotateKey { old: minted(1).key, minted: minted(2), revoke_old: true };
    let key = Idempotency { scope: "POST /keys".into(), key: "k".into(), fingerprint: [1; 32] };
    let blob = log.stage_blob(&team(), &BlobId::new(1, [3; 9]), "a body".into()).await.unwrap();
    let submission = Submission::new(team(), 1, Actor::Operator, "req_2", rotate)
        .idempotent(key, |appended| Answer { body: appended.head.position.to_string(), ..Answer::default() })
        .with_secret(SecretId::new(1, [3; 9]), "webhook", SecretText::new(b"a secret".to_vec()))
        .with_blob(BlobId::new(1, [3; 9]), blob);
    Ok(match log.transact(submission).await? {
        Outcome::Done(appended) => {
            assert_eq!(appended.records.len(), 2);
            false
        }
        Outcome::Repeated(answer) => {
            assert_eq!(answer.body, "4");
            true
        }
    })
}

async fn verify(log: &EventLog) -> u64 {
    let mut verifier = Verifier::new(team());
    log.read_stored(&team(), 0, 1_000_000).await.unwrap().iter().for_each(|r| verifier.next(r).unwrap());
    verifier.end(&log.head(&team()).await.unwrap()).unwrap();
    verifier.verified().0
}

/// Checks that all of the rotation is there, or nothing of it.
async fn assert_all_or_nothing(log: &EventLog, written: bool, context: &str) {
    assert_eq!(verify(log).await, if written { 4 } else { 2 }, "{context}");
    let found = [
        log.find(&DirectoryKey::KeyLookup(minted(1).lookup)).await.unwrap().is_none(),
        log.find(&DirectoryKey::KeyLookup(minted(2).lookup)).await.unwrap().is_some(),
        log.secret(&team(), &SecretId::new(1, [3; 9]), "webhook").await.unwrap().is_some(),
        log.blob(&team(), &BlobId::new(1, [3; 9])).await.unwrap().is_some(),
    ];
    assert_eq!(found, [written; 4], "{context}");
    // Whoever heard nothing asks again: the answer is repeated, or it is done now; it is never done twice.
    assert_eq!(rotate(log).await.unwrap(), written, "{context}");
    assert_eq!(verify(log).await, 4, "{context}");
    assert!(rotate(log).await.unwrap(), "{context}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_error_at_any_step_leaves_all_or_nothing() {
    for point in points() {
        let directory = tempfile::tempdir().unwrap();
        begin(directory.path()).await;
        let failpoints = Failpoints::default();
        let log = open(directory.path(), &failpoints).await;
        failpoints.arm(point, Fault::Error);
        let answered = rotate(&log).await;
        assert!(!failpoints.is_armed(), "{point:?} was not passed");
        assert!(matches!(answered, Err(TransactError::Unavailable(_))), "{point:?}: {answered:?}");
        // The same log goes on.
        assert_all_or_nothing(&log, is_written(point), &format!("error at {point:?}")).await;
        log.close().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_panic_at_any_step_stops_the_log_and_leaves_all_or_nothing() {
    for point in points() {
        let directory = tempfile::tempdir().unwrap();
        begin(directory.path()).await;
        let failpoints = Failpoints::default();
        let log = open(directory.path(), &failpoints).await;
        failpoints.arm(point, Fault::Panic);
        let answered = rotate(&log).await;
        assert!(matches!(answered, Err(TransactError::Stopped)), "{point:?}: {answered:?}");
        log.failed().await;
        assert!(matches!(log.transact(create_key(9)).await, Err(TransactError::Stopped)));
        log.close().await;
        let log = open(directory.path(), &Failpoints::default()).await;
        assert_all_or_nothing(&log, is_written(point), &format!("panic at {point:?}")).await;
        log.close().await;
    }
}

/// Runs a test of this file in a process of its own.
fn child(test: &str, directory: &Path, order: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", test, "--nocapture", "--test-threads=1"]);
    command.env("CRASH_DIRECTORY", directory).env("CRASH_ORDER", order);
    command.stdin(Stdio::null()).stderr(Stdio::null()).stdout(Stdio::null());
    command
}

/// Returns what a parent process asked for.
fn ordered() -> Option<(std::path::PathBuf, String)> {
    Some((std::env::var_os("CRASH_DIRECTORY")?.into(), std::env::var("CRASH_ORDER").ok()?))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kill_at_any_step_leaves_all_or_nothing() {
    if let Some((directory, order)) = ordered() {
        let failpoints = Failpoints::default();
        let log = open(&directory, &failpoints).await;
        let point = points().nth(order.parse().unwrap()).unwrap();
        failpoints.arm(point, Fault::Abort);
        drop(rotate(&log).await);
        return;
    }
    for (i, point) in points().enumerate() {
        let directory = tempfile::tempdir().unwrap();
        begin(directory.path()).await;
        let ended = child("a_kill_at_any_step_leaves_all_or_nothing", directory.path(), &i.to_string()).status();
        assert_eq!(ended.unwrap().signal(), Some(6), "{point:?} was not passed");
        let log = open(directory.path(), &Failpoints::default()).await;
        assert_all_or_nothing(&log, is_written(point), &format!("kill at {point:?}")).await;
        log.close().await;
    }
}

/// Writes as fast as it can and says what was acknowledged, until it is killed.
#[expect(clippy::print_stdout, reason = "the parent process reads it")]
async fn write_until_killed(directory: &Path, first: u32) {
    let log = open(directory, &Failpoints::default()).await;
    let mut producers = tokio::task::JoinSet::new();
    for producer in 0..8 {
        let log = log.clone();
        producers.spawn(async move {
            for n in 0.. {
                let n = first + producer + 8 * n;
                let position = log.transact(create_key(n)).await.unwrap().done().unwrap().records[0].position;
                println!("\nacknowledged {position} {n}");
            }
        });
    }
    producers.join_all().await;
}

/// Starts a writer, kills it after some acknowledgements; returns those that came out: position and number.
fn kill_after(directory: &Path, test: &str, first: u32, acknowledgements: usize) -> Vec<(u64, u32)> {
    let mut writer = child(test, directory, &first.to_string()).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(writer.stdout.take().unwrap()).lines().map_while(Result::ok);
    let mut acknowledged = vec![];
    let read = |line: String| -> Option<(u64, u32)> {
        let (position, n) = line.strip_prefix("acknowledged ")?.split_once(' ')?;
        Some((position.parse().ok()?, n.parse().ok()?))
    };
    while acknowledged.len() < acknowledgements {
        acknowledged.extend(read(lines.next().expect("the writer goes on until it is killed")));
    }
    writer.kill().unwrap();
    writer.wait().unwrap();
    // The last line may be torn: then nobody was told.
    let mut rest: Vec<_> = lines.collect();
    rest.pop();
    acknowledged.extend(rest.into_iter().filter_map(read));
    acknowledged
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_acknowledged_is_lost_by_kills_at_any_moment() {
    const NAME: &str = "nothing_acknowledged_is_lost_by_kills_at_any_moment";
    if let Some((directory, first)) = ordered() {
        return write_until_killed(&directory, first.parse().unwrap()).await;
    }
    let directory = tempfile::tempdir().unwrap();
    begin(directory.path()).await;
    for kill in 1..=20u32 {
        let after = usize::try_from(kill * kill * 7 % 150).unwrap() + 1;
        let acknowledged = kill_after(directory.path(), NAME, kill * 100_000, after);
        let log = open(directory.path(), &Failpoints::default()).await;
        verify(&log).await;
        let records = log.read_stored(&team(), 0, 1_000_000).await.unwrap();
        for (position, n) in &acknowledged {
            let facts = &records[usize::try_from(position - 1).unwrap()].facts;
            assert!(facts.contains(&minted(*n).lookup), "kill {kill}: {position} is not {n}");
            assert!(log.find(&DirectoryKey::KeyLookup(minted(*n).lookup)).await.unwrap().is_some());
        }
        log.close().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_torn_write_ahead_file_gives_a_whole_prefix() {
    const NAME: &str = "a_torn_write_ahead_file_gives_a_whole_prefix";
    if let Some((directory, first)) = ordered() {
        return write_until_killed(&directory, first.parse().unwrap()).await;
    }
    let directory = tempfile::tempdir().unwrap();
    begin(directory.path()).await;
    kill_after(directory.path(), NAME, 100_000, 40);
    let database = std::fs::read(directory.path().join("log.db")).unwrap();
    let wal = std::fs::read(directory.path().join("log.db-wal")).unwrap();
    let mut positions = vec![];
    // The last state is the whole file, as a kill leaves it: everything acknowledged is in it.
    for state in 0..=40usize {
        let torn = tempfile::tempdir().unwrap();
        let cut = wal.len() * state / 40;
        let mut left = wal[..cut].to_vec();
        // In every other state the last sector before the cut never reached the disk.
        if state % 2 == 1 && cut > 4_096 {
            left[cut - 512..].fill(0);
        }
        std::fs::write(torn.path().join("log.db"), &database).unwrap();
        std::fs::write(torn.path().join("log.db-wal"), left).unwrap();
        let log = open(torn.path(), &Failpoints::default()).await;
        positions.push(verify(&log).await);
        for record in log.read(&team(), 0, 1_000_000).await.unwrap() {
            if let domain::Event::ApiKey(domain::api_key::Event::Created(e)) = &record.event {
                let entry = log.find(&DirectoryKey::KeyLookup(e.lookup.clone())).await.unwrap();
                assert!(entry.is_some(), "state {state}: an event without its directory row");
            }
        }
        log.transact(create_key(7)).await.unwrap();
        log.close().await;
    }
    assert!(positions.is_sorted());
    assert!(positions[40] >= 40);
}
