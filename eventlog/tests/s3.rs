//! Large bodies on a real S3 server (moto): staged, read, erased, moved, many at once, and refused with a clear error.
#![expect(clippy::unwrap_used, reason = "tests may fail loudly")]

use std::sync::Arc;

use bytes::Bytes;
use domain::Actor;
use domain::id::{BlobId, MailboxId, TeamId};
use domain::message::ReceiveMessage;
use domain::team::{CreateTeam, Limits};
use domain::testing::{NOW, received_halves};
use eventlog::testing::S3;
use eventlog::{
    Allot, Backend, BlobStore, EventLog, INLINE_BYTES_MAX, LogError, MasterKey, MemoryBackend, Options, StoreError,
    Submission,
};

const BUCKET: &str = S3::BUCKET;

fn store(server: &S3, bucket: &str) -> BlobStore {
    // Installing the provider a second time is refused and changes nothing.
    let _ = rustls::crypto::ring::default_provider().install_default();
    BlobStore::s3(bucket, "prefix", server.variables()).unwrap()
}

async fn log_over(backend: &Arc<MemoryBackend>, blobs: BlobStore) -> EventLog {
    let options = Options::new(MasterKey::new(&[7; 32]), blobs, Allot::system().entropy());
    EventLog::open(Arc::<MemoryBackend>::clone(backend) as Arc<dyn Backend>, options).await.unwrap()
}

fn team() -> TeamId {
    TeamId::new(NOW, [1; 9])
}

fn blob(n: u8) -> BlobId {
    BlobId::new(NOW, [n; 9])
}

fn body(size: usize) -> Bytes {
    (0..size).map(|i| u8::try_from((i * 31 + size) % 256).unwrap()).collect()
}

/// Appends an event with a body.
async fn append(log: &EventLog, n: u8, bytes: Bytes) {
    let mailbox = MailboxId::new(NOW, [1; 9]);
    let (mut facts, personal) = received_halves(n, &mailbox);
    facts.blob = blob(n);
    let staged = log.stage_blob(&team(), &blob(n), bytes).await.unwrap();
    let command = ReceiveMessage { facts, personal, mail_from: None };
    let submission = Submission::new(team(), NOW, Actor::Smtp, "test", command).with_blob(blob(n), staged);
    log.transact(submission).await.unwrap();
}

async fn open_mailbox(log: &EventLog) {
    use domain::mailbox::{OpenMailbox, SendScope};
    let submit = |command| Submission::new(team(), NOW, Actor::Operator, "test", command);
    log.transact(submit(CreateTeam { name: "x".to_owned(), limits: Limits::default() })).await.unwrap();
    let add = domain::sending_domain::AddVerifiedDomain {
        domain: domain::id::DomainId::new(NOW, [1; 9]),
        name: "a.test".to_owned(),
        mode: domain::sending_domain::Mode::SendReceive,
    };
    log.transact(Submission::new(team(), NOW, Actor::Operator, "test", add)).await.unwrap();
    let open = OpenMailbox {
        mailbox: MailboxId::new(NOW, [1; 9]),
        email: "box@a.test".parse().unwrap(),
        display_name: None,
        quota_bytes: 1 << 40,
        send_scope: SendScope::All,
        credential: None,
    };
    log.transact(Submission::new(team(), NOW, Actor::Operator, "test", open)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bodies_live_in_a_bucket_from_their_staging_to_their_erasure() {
    let server = S3::start(false).await;
    let backend = Arc::new(MemoryBackend::default());
    let log = log_over(&backend, store(&server, BUCKET)).await;
    log.check_bodies().await.unwrap();
    assert_eq!(server.objects().await, 0, "the probe is gone");
    open_mailbox(&log).await;
    let sizes = [INLINE_BYTES_MAX, INLINE_BYTES_MAX + 1, 1 << 20, 20 << 20];
    for (n, size) in (1u8..).zip(sizes) {
        append(&log, n, body(size)).await;
    }
    assert_eq!(server.objects().await, 3, "the first is inline");
    for (n, size) in (1u8..).zip(sizes) {
        assert!(log.blob(&team(), &blob(n)).await.unwrap() == Some(body(size)), "{size} bytes");
    }
    // Another node finds the same.
    let other = log_over(&backend, store(&server, BUCKET)).await;
    assert!(other.blob(&team(), &blob(3)).await.unwrap() == Some(body(1 << 20)));
    // What is old moves out; then everything is erased.
    assert_eq!(log.move_bodies_out(&team(), None, NOW + 1_000_000, 100).await.unwrap().bodies, 1);
    assert_eq!(server.objects().await, 4);
    assert!(other.blob(&team(), &blob(1)).await.unwrap() == Some(body(INLINE_BYTES_MAX)));
    let ids: Vec<_> = (1..=4).map(blob).collect();
    assert_eq!(log.erase_blobs(&team(), &ids).await.unwrap(), 4);
    assert_eq!(server.objects().await, 0);
    assert_eq!(other.blob(&team(), &blob(3)).await.unwrap(), None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crash_between_object_and_append_leaves_nothing_that_is_referred_to() {
    let server = S3::start(false).await;
    let backend = Arc::new(MemoryBackend::default());
    let log = log_over(&backend, store(&server, BUCKET)).await;
    open_mailbox(&log).await;
    append(&log, 1, body(INLINE_BYTES_MAX + 1)).await;
    drop(log.stage_blob(&team(), &blob(2), body(INLINE_BYTES_MAX + 2)).await.unwrap());
    let log = log_over(&backend, store(&server, BUCKET)).await;
    assert_eq!(log.blob(&team(), &blob(2)).await.unwrap(), None);
    assert_eq!(server.objects().await, 2);
    assert_eq!(log.drop_orphans(&team(), 0, 100).await.unwrap().dropped, 0, "it is young");
    let found = log.drop_orphans(&team(), i64::MAX, 100).await.unwrap();
    assert_eq!((found.looked_at, found.dropped), (2, 1));
    assert!(log.blob(&team(), &blob(1)).await.unwrap() == Some(body(INLINE_BYTES_MAX + 1)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_bodies_at_once_come_back_each_its_own() {
    let server = S3::start(false).await;
    let log = log_over(&Arc::new(MemoryBackend::default()), store(&server, BUCKET)).await;
    open_mailbox(&log).await;
    let size = |n: u8| INLINE_BYTES_MAX + 1 + usize::from(n) * 97;
    futures_util::future::join_all((1..=100).map(|n| append(&log, n, body(size(n))))).await;
    let read = async |n: u8| assert!(log.blob(&team(), &blob(n)).await.unwrap() == Some(body(size(n))), "body {n}");
    futures_util::future::join_all((1..=100).map(read)).await;
    let found = log.drop_orphans(&team(), i64::MAX, 1_000).await.unwrap();
    assert_eq!((found.looked_at, found.dropped), (100, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bucket_that_cannot_be_used_is_told_at_the_start() {
    let refused = async |store: BlobStore| {
        let log = log_over(&Arc::new(MemoryBackend::default()), store).await;
        match log.check_bodies().await {
            Err(LogError::Store(StoreError::Unavailable(why))) => why,
            other => panic!("{other:?}"),
        }
    };
    let server = S3::start(true).await;
    let why = refused(store(&server, BUCKET)).await;
    assert!(why.contains("InvalidAccessKeyId") || why.contains("403"), "wrong credentials: {why}");
    let server = S3::start(false).await;
    let why = refused(store(&server, "nowhere")).await;
    assert!(why.contains("NoSuchBucket") || why.contains("404"), "no such bucket: {why}");
    let gone = store(&server, BUCKET);
    drop(server);
    let began = std::time::Instant::now();
    let why = refused(gone).await;
    assert!(began.elapsed().as_secs() <= 35, "it is gone, and that took {:?} to say: {why}", began.elapsed());
}
