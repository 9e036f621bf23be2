//! Checkpoints come by themselves, from one node at a time, and are kept where they are posted to.
#![expect(clippy::unwrap_used, reason = "tests may fail loudly")]
#![expect(clippy::disallowed_methods, reason = "keepers end with the runtime of their test")]

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use dispatcher::checkpoints::{Config, Keeper, Parts, Places};
use dispatcher::duty::Duty;
use dispatcher::egress::SystemResolver;
use domain::Actor;
use domain::api_key::{CreateTeamKey, Kind, Minted};
use domain::id::{KeyId, TeamId};
use domain::permission::Preset;
use domain::team::{CreateTeam, Limits};
use eventlog::checkpoint::SigningKey;
use eventlog::{Allot, BlobStore, CheckpointRow, EventLog, MasterKey, MemoryBackend, Options, Submission};
use projections::webhook_attempts::Work;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

const PATIENCE: Duration = Duration::from_secs(20);

struct World {
    log: EventLog,
    work: Work,
    config: Config,
}

fn team() -> TeamId {
    TeamId::new(1, [1; 9])
}

fn submit<C: domain::Command>(command: C) -> Submission<C> {
    Submission::new(team(), 1, Actor::Operator, "req_1", command)
}

impl World {
    async fn new(config: Config) -> Self {
        let options = Options::new(MasterKey::new(&[7; 32]), BlobStore::memory(), Allot::system().entropy());
        let log = EventLog::open(Arc::new(MemoryBackend::default()), options).await.unwrap();
        let limits = Limits { active_keys: 10_000, ..Limits::default() };
        log.transact(submit(CreateTeam { name: "Acme".into(), limits })).await.unwrap();
        let config = Config { poll_milliseconds: 10, ..config };
        Self { log, work: Work::memory(&[Duty::TABLES]).await.unwrap(), config }
    }

    async fn append(&self, numbers: std::ops::Range<u32>) {
        for n in numbers {
            let mut random = [0; 9];
            random[..4].copy_from_slice(&n.to_be_bytes());
            let (prefix, suffix) = ("smx_inf_ab".into(), "wxyz".into());
            let minted = Minted { key: KeyId::new(1, random), lookup: format!("{n:064x}"), prefix, suffix };
            let permissions = Preset::BillingAdmin.permissions();
            let create = CreateTeamKey { minted, kind: Kind::Infrastructure, name: "ci".into(), permissions };
            self.log.transact(submit(create)).await.unwrap();
        }
    }

    fn start(&self, node: &str) -> (CancellationToken, JoinHandle<()>) {
        let (stop, config) = (CancellationToken::new(), self.config.clone());
        let resolve = Arc::new(SystemResolver::default());
        let keeper = Keeper::new(Parts {
            log: self.log.clone(),
            duty: Duty::new(self.work.clone(), "checkpoints", node),
            signer: config.signer(SigningKey::unnamed(&[7; 32])).unwrap(),
            places: Places::new(config.post_to.as_deref(), config.directory.as_deref(), resolve).unwrap(),
            allot: Allot::system(),
            config,
        });
        let stopped = stop.clone();
        (stop, tokio::spawn(async move { keeper.run(stopped).await }))
    }

    async fn checkpoints(&self) -> Vec<CheckpointRow> {
        self.log.checkpoints(&team(), 0, 1_000).await.unwrap()
    }

    async fn sizes(&self) -> Vec<u64> {
        self.checkpoints().await.iter().map(|row| row.size).collect()
    }

    async fn eventually(&self, what: &str, holds: impl AsyncFn(&Self) -> bool) {
        let waiting = async {
            let mut pace = tokio::time::interval(Duration::from_millis(5));
            while !holds(self).await {
                pace.tick().await;
            }
        };
        assert!(tokio::time::timeout(PATIENCE, waiting).await.is_ok(), "never: {what}; {:?}", self.sizes().await);
    }
}

#[tokio::test]
async fn they_come_after_so_many_events_and_not_before() {
    let world = World::new(Config { every_events: 10, every_seconds: 3_600, ..Config::default() }).await;
    world.append(0..4).await;
    let (stop, running) = world.start("one");
    // What nobody knows the age of is signed at once.
    world.eventually("the start", async |w| w.sizes().await == [5]).await;
    world.append(4..13).await;
    world.append(13..14).await;
    world.eventually("ten more", async |w| w.sizes().await == [5, 15]).await;
    world.append(14..43).await;
    world.eventually("two at once", async |w| w.sizes().await.starts_with(&[5, 15, 25, 35])).await;
    assert!(world.checkpoints().await.iter().all(|row| row.is_posted), "there is nowhere to post to");
    stop.cancel();
    running.await.unwrap();
}

#[tokio::test]
async fn they_come_from_one_node_until_it_ends_and_are_kept_by_both() {
    let directory = tempfile::tempdir().unwrap();
    let kept = directory.path().join("kept");
    let places = Config { every_seconds: 1, directory: Some(kept.clone()), ..Config::default() };
    let world = World::new(places).await;
    let (stop, one) = world.start("one");
    world.eventually("the first", async |w| w.sizes().await == [1]).await;
    let (stop_two, two) = world.start("two");
    world.append(0..3).await;
    world.eventually("the second", async |w| w.sizes().await.last() == Some(&4)).await;
    stop.cancel();
    one.await.unwrap();
    world.append(3..5).await;
    world.eventually("the other node", async |w| w.sizes().await.last() == Some(&6)).await;
    let file = |row: &CheckpointRow| kept.join(team().as_str()).join(format!("{:020}.checkpoint", row.size));
    let is_kept = |path: &Path, row: &CheckpointRow| std::fs::read_to_string(path).ok().as_ref() == Some(&row.note);
    world
        .eventually("all files", async |w| {
            w.checkpoints().await.iter().all(|row| row.is_posted && is_kept(&file(row), row))
        })
        .await;
    // Nothing that is kept is ever replaced.
    let first = &world.checkpoints().await[0];
    std::fs::write(file(first), "another log").unwrap();
    stop_two.cancel();
    two.await.unwrap();
    assert_eq!(std::fs::read_to_string(file(first)).unwrap(), "another log");
}
