//! Every promise, on SQLite files, and what only SQLite can be asked for.
#![expect(clippy::unwrap_used, reason = "tests may fail loudly")]

use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use domain::Actor;
use domain::id::{KeyId, TeamId};
use domain::team::{CreateTeam, Limits};
use eventlog::chain::Verifier;
use eventlog::checkpoint::SigningKey;
use eventlog::conformance::Store;
use eventlog::sqlite::{OpenError, SqliteBackend};
use eventlog::{
    Allot, Backend, BlobStore, EventLog, LogError, MasterKey, Options, Refusal, SignError, Signer, Submission,
};
use sqlx::{Connection, SqliteConnection};
use tempfile::TempDir;
use tokio::sync::Mutex;
use tokio::task::JoinSet;

/// A data directory. Its nodes share one backend, as the handles of one process do.
struct Sqlite {
    directory: TempDir,
    open: Mutex<Option<Arc<SqliteBackend>>>,
}

impl Sqlite {
    async fn new() -> Self {
        Self { directory: tempfile::tempdir().unwrap(), open: Mutex::new(None) }
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("log.db")
    }

    async fn backend(&self) -> Arc<SqliteBackend> {
        let mut open = self.open.lock().await;
        match &*open {
            Some(backend) => Arc::clone(backend),
            None => {
                let backend = Arc::new(SqliteBackend::open_reserving(&self.path(), 1 << 20).await.unwrap());
                *open = Some(Arc::clone(&backend));
                backend
            }
        }
    }

    async fn log(&self) -> EventLog {
        open(self.backend().await).await
    }

    /// Does something to the file that the log would never do.
    async fn tamper(&self, sql: &'static str) {
        let mut connection = SqliteConnection::connect(self.path().to_str().unwrap()).await.unwrap();
        sqlx::query(sql).execute(&mut connection).await.unwrap();
        connection.close().await.unwrap();
    }
}

#[async_trait]
impl Store for Sqlite {
    async fn node(&self) -> Arc<dyn Backend> {
        self.backend().await
    }

    async fn restart(&self) {
        if let Some(backend) = self.open.lock().await.take() {
            backend.close().await;
        }
    }
}

eventlog::conformance_suite!(Sqlite::new());

async fn open(backend: Arc<SqliteBackend>) -> EventLog {
    let options = Options::new(MasterKey::new(&[7; 32]), BlobStore::memory(), Allot::system().entropy());
    EventLog::open(backend, options).await.unwrap()
}

fn team() -> TeamId {
    TeamId::new(1, [1; 9])
}

async fn create_team(log: &EventLog) {
    let create = CreateTeam { name: "Acme".into(), limits: Limits { active_keys: 10_000, ..Limits::default() } };
    log.transact(Submission::new(team(), 1, Actor::Operator, "req_1", create)).await.unwrap();
}

async fn create_key(log: &EventLog, n: u32) -> u64 {
    let mut random = [0; 9];
    random[..4].copy_from_slice(&n.to_be_bytes());
    let minted = domain::api_key::Minted {
        key: KeyId::new(1, random),
        lookup: format!("{n:064x}"),
        prefix: "smx_inf_ab".into(),
        suffix: "wxyz".into(),
    };
    let create = domain::api_key::CreateTeamKey {
        minted,
        kind: domain::api_key::Kind::Infrastructure,
        name: "ci".into(),
        permissions: domain::permission::Preset::Full.permissions(),
    };
    let outcome = log.transact(Submission::new(team(), 1, Actor::Operator, "req_1", create)).await.unwrap();
    outcome.done().unwrap().head.position
}

async fn verified(log: &EventLog) -> u64 {
    let mut verifier = Verifier::new(team());
    log.read_stored(&team(), 0, 100_000).await.unwrap().iter().for_each(|r| verifier.next(r).unwrap());
    verifier.end(&log.head(&team()).await.unwrap()).unwrap();
    verifier.verified().0
}

#[tokio::test]
async fn a_hole_stops_reading_and_is_never_skipped() {
    let store = Sqlite::new().await;
    let log = store.log().await;
    create_team(&log).await;
    for n in 1..6 {
        create_key(&log, n).await;
    }
    store.tamper("DELETE FROM events WHERE position = 3").await;
    for (after, limit) in [(0, 10), (1, 10), (2, 10), (2, 1)] {
        let read = log.read(&team(), after, limit).await;
        assert!(matches!(read, Err(LogError::Gap { expected: 3, found: 4, .. })), "after {after}: {read:?}");
    }
    assert_eq!(log.read(&team(), 0, 2).await.unwrap().len(), 2);
    assert_eq!(log.read(&team(), 3, 10).await.unwrap().len(), 3);
}

#[tokio::test]
async fn nothing_is_signed_once_the_last_signed_record_is_another() {
    let store = Sqlite::new().await;
    let log = store.log().await;
    create_team(&log).await;
    for n in 1..6 {
        create_key(&log, n).await;
    }
    let key = SigningKey::unnamed(&[7; 32]);
    let signer = Signer { key, retired: vec![], every_events: 1_000, posts: false };
    let growth = log.sign_growth(&team(), &signer, 1, true).await.unwrap().unwrap();
    log.keep_growth(&[growth]).await.unwrap();
    create_key(&log, 6).await;
    store.tamper("UPDATE events SET hash = randomblob(32) WHERE position = 6").await;
    let refused = log.sign_growth(&team(), &signer, 1, true).await;
    assert!(matches!(refused, Err(SignError::Refused(Refusal::Changed { size: 6, .. }))), "{refused:?}");
    store.tamper("DELETE FROM events WHERE position = 6").await;
    let refused = log.sign_growth(&team(), &signer, 1, true).await;
    assert!(matches!(refused, Err(SignError::Refused(Refusal::Changed { size: 6, .. }))), "{refused:?}");
}

#[tokio::test]
async fn a_file_that_is_no_database_is_named_and_left_alone() {
    let store = Sqlite::new().await;
    std::fs::write(store.path(), "this is not a database, and long enough to have a header of its own").unwrap();
    match SqliteBackend::open(&store.path()).await.map(drop).unwrap_err() {
        OpenError::Open { path, .. } => assert_eq!(path, store.path()),
        other => panic!("{other}"),
    }
    assert!(std::fs::read_to_string(store.path()).unwrap().starts_with("this is not"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_backup_under_load_is_a_prefix_with_everything_answered_before_it() {
    let store = Sqlite::new().await;
    let (log, backend) = (store.log().await, store.backend().await);
    create_team(&log).await;
    let mut writer = JoinSet::new();
    let writing = log.clone();
    writer.spawn(async move {
        for n in 1..400 {
            create_key(&writing, n).await;
        }
    });
    for copy in 0..5 {
        let answered = create_key(&log, 10_000 + copy).await;
        let path = store.directory.path().join(format!("backup-{copy}.db"));
        backend.backup(&path).await.unwrap();
        assert_eq!(SqliteBackend::begin_epoch(&path).await.unwrap(), 2);
        let restored = open(Arc::new(SqliteBackend::open(&path).await.unwrap())).await;
        assert!(verified(&restored).await >= answered);
        assert_eq!(restored.epoch(), 2);
        let position = create_key(&restored, 20_000).await;
        assert_eq!(restored.read(&team(), position - 1, 1).await.unwrap()[0].epoch, 2);
        verified(&restored).await;
        restored.close().await;
    }
    writer.join_all().await;
}

#[tokio::test]
async fn the_write_ahead_file_is_gone_after_closing() {
    let store = Sqlite::new().await;
    let log = store.log().await;
    create_team(&log).await;
    log.close().await;
    let left = std::fs::metadata(store.path().with_extension("db-wal")).map_or(0, |m| m.len());
    assert_eq!(left, 0);
}

#[tokio::test]
async fn a_sealed_secret_that_was_moved_to_another_row_or_team_does_not_open() {
    let store = Sqlite::new().await;
    let log = store.log().await;
    let teams = [TeamId::new(1, [1; 9]), TeamId::new(1, [2; 9])];
    let secret = domain::id::SecretId::new(1, [1; 9]);
    for team in &teams {
        let create = CreateTeam { name: "x".to_owned(), limits: Limits::default() };
        let submission = Submission::new(team.clone(), 1, Actor::Operator, "test", create);
        let text = eventlog::SecretText::new(b"secret".to_vec());
        log.transact(submission.with_secret(secret.clone(), "webhook", text)).await.unwrap();
    }
    for team in &teams {
        assert_eq!(log.secret(team, &secret, "webhook").await.unwrap().unwrap().expose(), b"secret");
    }
    store
        .tamper(
            "UPDATE secrets SET sealed = (SELECT sealed FROM secrets ORDER BY team_id DESC LIMIT 1)
             WHERE team_id = (SELECT MIN(team_id) FROM secrets)",
        )
        .await;
    let moved = log.secret(&teams[0], &secret, "webhook").await;
    assert!(matches!(moved, Err(LogError::Seal(_))), "{moved:?}");
    assert_eq!(log.secret(&teams[1], &secret, "webhook").await.unwrap().unwrap().expose(), b"secret");
}
