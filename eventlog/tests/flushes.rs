//! Flushes that fail stop the log; flushes that take long delay answers and nothing else.
#![expect(clippy::unwrap_used, reason = "tests may fail loudly")]

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use domain::Actor;
use domain::id::TeamId;
use domain::team::{ChangeLimits, CreateTeam, Limits};
use eventlog::chain::Verifier;
use eventlog::sqlite::SqliteBackend;
use eventlog::{Allot, BlobStore, EventLog, Failpoints, Fault, MasterKey, Options, Point, Submission, TransactError};
use tokio::task::JoinSet;

/// `COMMIT` is the last of twelve statements.
const COMMIT: Point = Point::Statement(11);

fn team(n: u8) -> TeamId {
    TeamId::new(1, [n; 9])
}

async fn open(directory: &Path, failpoints: &Failpoints) -> EventLog {
    let backend = SqliteBackend::open(&directory.join("log.db")).await.unwrap().with_failpoints(failpoints.clone());
    let options = Options::new(MasterKey::new(&[7; 32]), BlobStore::memory(), Allot::system().entropy());
    EventLog::open(Arc::new(backend), options).await.unwrap()
}

async fn create(log: &EventLog, n: u8) -> Result<(), TransactError<domain::team::Rejected>> {
    let create = CreateTeam { name: "Acme".into(), limits: Limits::default() };
    log.transact(Submission::new(team(n), 1, Actor::Operator, "req_1", create)).await.map(|_| ())
}

async fn verify(log: &EventLog, n: u8) -> u64 {
    let mut verifier = Verifier::new(team(n));
    log.read_stored(&team(n), 0, 1_000).await.unwrap().iter().for_each(|r| verifier.next(r).unwrap());
    verifier.end(&log.head(&team(n)).await.unwrap()).unwrap();
    verifier.verified().0
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flush_that_fails_stops_the_log_and_the_next_start_knows_what_was_answered() {
    for (n, point) in (0..5).map(|_| COMMIT).chain((0..5).map(|_| Point::AfterCommit)).enumerate() {
        let directory = tempfile::tempdir().unwrap();
        let failpoints = Failpoints::default();
        let log = open(directory.path(), &failpoints).await;
        create(&log, 1).await.unwrap();
        failpoints.arm(point, Fault::Flush);
        let answered = create(&log, 2).await;
        assert!(matches!(answered, Err(TransactError::Stopped)), "{n}: {answered:?}");
        // Whoever runs the log is told, and nothing is written any more: a flush is never tried again.
        tokio::time::timeout(Duration::from_secs(5), log.failed()).await.unwrap();
        assert!(matches!(create(&log, 3).await, Err(TransactError::Stopped)));
        log.close().await;
        let log = open(directory.path(), &Failpoints::default()).await;
        assert_eq!(verify(&log, 1).await, 1, "what was answered is there");
        assert_eq!(verify(&log, 2).await, u64::from(point == Point::AfterCommit), "what was not may be");
        assert_eq!(verify(&log, 3).await, 0);
        create(&log, 3).await.unwrap();
        log.close().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn answers_wait_for_a_slow_flush_and_nothing_else_happens() {
    let directory = tempfile::tempdir().unwrap();
    let (begun, ended) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let (starts, ends) = (Arc::clone(&begun), Arc::clone(&ended));
    let failpoints = Failpoints::observed(move |point| {
        if point == COMMIT {
            let n = starts.fetch_add(1, Ordering::SeqCst);
            // From a tenth of a second to half a second.
            let (_keep, never) = std::sync::mpsc::sync_channel::<()>(0);
            let _ = never.recv_timeout(Duration::from_millis(100 * (1 + n % 5)));
        } else if point == Point::AfterCommit {
            ends.fetch_add(1, Ordering::SeqCst);
        }
    });
    let log = open(directory.path(), &failpoints).await;
    create(&log, 1).await.unwrap();
    let began = Instant::now();
    let mut producers = JoinSet::new();
    for webhooks in 1..=64u32 {
        let (log, ended) = (log.clone(), Arc::clone(&ended));
        producers.spawn(async move {
            let before = ended.load(Ordering::SeqCst);
            let limits = Limits { webhooks: webhooks + 100, ..Limits::default() };
            let change = Submission::new(team(1), 1, Actor::Operator, "req_1", ChangeLimits { limits });
            log.transact(change).await.unwrap();
            assert!(ended.load(Ordering::SeqCst) > before, "an answer came before the flush");
        });
    }
    producers.join_all().await;
    let flushes = ended.load(Ordering::SeqCst);
    assert!(flushes < 20, "who waits is written together: {flushes} flushes");
    assert!(began.elapsed() >= Duration::from_millis(100));
    log.close().await;
    let log = open(directory.path(), &Failpoints::default()).await;
    assert_eq!(verify(&log, 1).await, 65);
    log.close().await;
}
