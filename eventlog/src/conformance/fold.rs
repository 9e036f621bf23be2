//! Folds are what a replay from scratch gives, whatever was cached, evicted, kept as a snapshot or erased.

use std::collections::BTreeMap;

use domain::api_key::{CreateMailboxKey, RevokeKey, RotateKey};
use domain::mailbox::{CloseMailbox, ResumeMailbox, SuspendMailbox};
use domain::message::{ChangeKeywords, DeleteMessage, Deletion};
use domain::permission::Preset;
use domain::published::WebhookEventType;
use domain::team::{ChangeLimits, Limits, Team};
use domain::testing::{NOW, fold};
use domain::webhook_endpoint::{CreateWebhook, DeleteWebhook, RecordExhausted, Subscription, WebhookEndpoint};
use domain::{Command, Event, Moment, StreamId, Versioned, api_key, mailbox, message, sending_domain};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use super::Store;
use super::support::{Tenant, assert_whole, open, open_with, options, tiny};
use crate::{Backend, EventLog, Options, SnapshotRow, TransactError};

/// One step of a random history. Numbers name things of a small world, so that steps meet each other.
#[derive(Debug, Clone)]
enum Step {
    Open(u64, u64),
    Close(u64),
    Suspend(u64),
    Resume(u64),
    Rename(u64, u8),
    Receive(u64, u64),
    Keyword(u64, u64, u8),
    Delete(u64, u64, bool),
    CreateKey(u64),
    CreateMailboxKey(u64, u64),
    Rotate(u64, u64, bool),
    Revoke(u64),
    CreateWebhook(u64),
    DeleteWebhook(u64),
    Exhausted(u64),
    Limits(u32),
    Erase(u64),
    Busy(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let small = || 1..5u64;
    prop_oneof![
        4 => (small(), small()).prop_map(|(a, b)| Step::Open(a, b)),
        2 => small().prop_map(Step::Close),
        2 => small().prop_map(Step::Suspend),
        2 => small().prop_map(Step::Resume),
        2 => (small(), any::<u8>()).prop_map(|(a, b)| Step::Rename(a, b)),
        4 => (1..8u64, small()).prop_map(|(a, b)| Step::Receive(a, b)),
        3 => (1..8u64, small(), 0..4u8).prop_map(|(a, b, c)| Step::Keyword(a, b, c)),
        1 => (1..8u64, small(), any::<bool>()).prop_map(|(a, b, c)| Step::Delete(a, b, c)),
        3 => (1..6u64).prop_map(Step::CreateKey),
        2 => (1..6u64, small()).prop_map(|(a, b)| Step::CreateMailboxKey(a, b)),
        2 => (1..6u64, 1..6u64, any::<bool>()).prop_map(|(a, b, c)| Step::Rotate(a, b, c)),
        1 => (1..6u64).prop_map(Step::Revoke),
        1 => (1..4u64).prop_map(Step::CreateWebhook),
        1 => (1..4u64).prop_map(Step::DeleteWebhook),
        1 => (1..4u64).prop_map(Step::Exhausted),
        1 => (0..5u32).prop_map(Step::Limits),
        1 => any::<u64>().prop_map(Step::Erase),
        1 => small().prop_map(Step::Busy),
    ]
}

/// What the log should be: all events from the start, and who holds what must be unique.
#[derive(Default)]
struct Model {
    events: Vec<Event>,
    taken: BTreeMap<String, String>,
}

impl Model {
    /// Returns whether the events would take something that is taken; notes what they take and release if not.
    fn take(&mut self, events: &[Event]) -> bool {
        let mut taken = self.taken.clone();
        for event in events {
            let claim = match event {
                Event::Mailbox(mailbox::Event::Opened(e)) => {
                    e.personal.known().map(|owner| (owner.email.clone(), e.mailbox.to_string()))
                }
                Event::ApiKey(api_key::Event::Created(e)) => Some((e.lookup.clone(), e.key.to_string())),
                Event::SendingDomain(sending_domain::Event::Added(e)) => Some((e.name.clone(), e.domain.to_string())),
                _ => None,
            };
            let release = match event {
                Event::Mailbox(mailbox::Event::Closed(e)) => Some(e.mailbox.to_string()),
                Event::ApiKey(api_key::Event::Revoked(e)) => Some(e.key.to_string()),
                _ => None,
            };
            if let Some((key, owner)) = claim
                && taken.insert(key, owner).is_some()
            {
                return false;
            }
            taken.retain(|_, owner| Some(&*owner) != release.as_ref());
        }
        self.taken = taken;
        true
    }
}

/// A log under test beside its model.
struct Run<'a> {
    nodes: &'a [EventLog],
    turn: usize,
    tenant: Tenant,
    model: Model,
}

impl Run<'_> {
    fn node(&self) -> &EventLog {
        &self.nodes[self.turn % self.nodes.len()]
    }

    /// Does the same with the log and with the model.
    async fn wish<C: Command + Clone>(&mut self, command: C) {
        self.turn += 1;
        let state: C::State = fold(&command.streams(), &self.model.events);
        let moment = Moment { team: self.tenant.id.clone(), now: NOW };
        let expected = command.decide(&state, &moment);
        let found = self.node().transact(self.tenant.submit(command)).await;
        match (expected, found) {
            (Ok(events), Ok(outcome)) => {
                assert!(self.model.take(&events), "the log let something be taken twice: {events:?}");
                let appended = outcome.done().unwrap();
                let found: Vec<_> = appended.records.into_iter().map(|r| r.event).collect();
                assert_eq!(found, events);
                self.model.events.extend(events);
            }
            (Ok(events), Err(TransactError::Taken(key))) => {
                assert!(!self.model.take(&events), "{} was free", key.to_text());
            }
            (Err(expected), Err(TransactError::Rejected(found))) => {
                assert_eq!(found.to_string(), expected.to_string());
            }
            (expected, found) => {
                panic!("expected {:?}, found {:?}", expected.map_err(|e| e.to_string()), found.map(|_| ()))
            }
        }
    }

    async fn step(&mut self, step: Step) {
        let t = self.tenant.clone();
        match step {
            Step::Open(n, address) => self.wish(t.open_as(n, address)).await,
            Step::Close(n) => self.wish(CloseMailbox { mailbox: t.mailbox(n) }).await,
            Step::Suspend(n) => self.wish(SuspendMailbox { mailbox: t.mailbox(n) }).await,
            Step::Resume(n) => self.wish(ResumeMailbox { mailbox: t.mailbox(n) }).await,
            Step::Rename(n, to) => self.wish(t.rename(n, &format!("name {to}"))).await,
            Step::Receive(n, into) => self.wish(t.receive(n, into)).await,
            Step::Keyword(n, mailbox, k) => {
                let (message, mailbox) = (t.message(n), t.mailbox(mailbox));
                let (add, remove) = ([format!("k{k}")].into(), [format!("k{}", k / 2)].into());
                self.wish(ChangeKeywords { message, mailbox, add, remove, if_version: None }).await;
            }
            Step::Delete(n, mailbox, for_good) => {
                let mode = if for_good { Deletion::Permanent } else { Deletion::ToTrash };
                let (message, mailbox) = (t.message(n), t.mailbox(mailbox));
                self.wish(DeleteMessage { message, mailbox, mode, if_version: None }).await;
            }
            Step::CreateKey(n) => self.wish(t.create_key(n)).await,
            Step::CreateMailboxKey(n, mailbox) => {
                let (minted, permissions) = (t.minted(n), Preset::ReadOnly.permissions());
                let name = "mailbox key".to_owned();
                self.wish(CreateMailboxKey { minted, mailbox: t.mailbox(mailbox), name, permissions }).await;
            }
            Step::Rotate(old, new, revoke_old) => {
                let mut minted = t.minted(new);
                minted.lookup = t.minted(new + old).lookup;
                self.wish(RotateKey { old: t.key(old), minted, revoke_old }).await;
            }
            Step::Revoke(n) => self.wish(RevokeKey { key: t.key(n), mailbox: None }).await,
            Step::CreateWebhook(n) => self.wish(create_webhook(&t, n)).await,
            Step::DeleteWebhook(n) => self.wish(DeleteWebhook { webhook: t.webhook(n) }).await,
            Step::Exhausted(n) => {
                self.wish(RecordExhausted { webhook: t.webhook(n), event_position: 1, attempts: 8 }).await;
            }
            Step::Limits(n) => {
                let limits = Limits { mailboxes: n, active_keys: n + 1, webhooks: 2, ..Limits::default() };
                self.wish(ChangeLimits { limits }).await;
            }
            Step::Erase(seed) => self.erase(seed).await,
            Step::Busy(n) => {
                for i in 0..40 {
                    self.wish(t.rename(n, &format!("busy {i}"))).await;
                }
            }
        }
    }

    /// Erases what a caller might: not the names of mailboxes, by which a repeated wish is recognised.
    async fn erase(&mut self, seed: u64) {
        let erasable = |e: &Event| matches!(e, Event::Message(_) | Event::Mailbox(mailbox::Event::Renamed(_)));
        let positions: Vec<u64> = (1u64..)
            .zip(&self.model.events)
            .filter(|(position, event)| erasable(event) && (seed >> (position % 64)) & 1 == 1)
            .map(|(position, _)| position)
            .collect();
        self.node().erase_personal(&self.tenant.id, &positions).await.unwrap();
        for position in positions {
            let event = &mut self.model.events[usize::try_from(position - 1).unwrap()];
            *event = event.erased();
        }
        // The other nodes count the erasures of each team.
        for node in self.nodes {
            node.note_erased(&self.tenant.id);
        }
    }

    /// Checks every fold of the small world on the node that has just worked.
    async fn check(&self) {
        let (log, t, events) = (self.node(), &self.tenant, &self.model.events);
        let team = [StreamId::Team];
        assert_eq!(log.state::<Versioned<Team>>(&t.id, &team).await.unwrap(), fold(&team, events));
        for n in 1..5 {
            let pair = [StreamId::Mailbox(t.mailbox(n)), StreamId::ApiKey(t.key(n))];
            type Pair = (Versioned<mailbox::Mailbox>, Versioned<api_key::ApiKey>);
            assert_eq!(log.state::<Pair>(&t.id, &pair).await.unwrap(), fold(&pair, events));
            let webhook = [StreamId::Webhook(t.webhook(n))];
            assert_eq!(log.state::<Versioned<WebhookEndpoint>>(&t.id, &webhook).await.unwrap(), fold(&webhook, events));
            let message = [StreamId::Message(t.message(n))];
            assert_eq!(
                log.state::<Versioned<message::Message>>(&t.id, &message).await.unwrap(),
                fold(&message, events)
            );
        }
    }
}

fn create_webhook(t: &Tenant, n: u64) -> CreateWebhook {
    CreateWebhook {
        webhook: t.webhook(n),
        url: format!("https://hooks.example.com/{n}"),
        name: None,
        subscription: Subscription { event_types: [WebhookEventType::Received].into(), mailboxes: [].into() },
        enabled: true,
        secret: t.secret(n),
        deliver_after: None,
    }
}

/// Runs random histories, each in a team of its own, against the model.
async fn run_histories(store: &impl Store, cases: u32, options: &[Options]) {
    let mut nodes = vec![];
    for options in options {
        nodes.push(open_with(store, options.clone()).await);
    }
    let mut runner = TestRunner::new(Config { cases, failure_persistence: None, ..Config::default() });
    let strategy = proptest::collection::vec(step(), 1..45);
    let next = std::sync::atomic::AtomicU64::new(1);
    let outcome = tokio::task::block_in_place(|| {
        runner.run(&strategy, |steps| {
            let n = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            tokio::runtime::Handle::current().block_on(async {
                let limits = Limits { mailboxes: 3, active_keys: 3, ..Limits::default() };
                let tenant = Tenant::create(n, &nodes[0], limits).await;
                let events = tenant.events(&nodes[0]).await;
                let mut run = Run { nodes: &nodes, turn: 0, tenant, model: Model::default() };
                assert!(run.model.take(&events));
                run.model.events = events;
                for step in steps {
                    run.step(step).await;
                    run.check().await;
                }
                assert_eq!(run.tenant.events(run.node()).await, run.model.events);
                assert_whole(&run.tenant, run.node()).await;
            });
            Ok(())
        })
    });
    outcome.unwrap();
}

/// One node with ample caches against the model.
pub async fn folds_equal_a_replay_from_scratch(store: &impl Store) {
    run_histories(store, 12, &[options()]).await;
}

/// Three nodes that write in turns and whose caches evict nearly everything, against the model.
pub async fn folds_stay_right_when_caches_hold_almost_nothing(store: &impl Store) {
    let n = |n| std::num::NonZeroUsize::new(n).unwrap();
    let small = Options { cached_teams_max: n(2), cached_folds_max: n(3), ..options() };
    run_histories(store, 12, &[tiny(), small, options()]).await;
}

/// Three nodes that write in turns and keep everything in memory, so that each follows the others, against the model.
pub async fn folds_follow_what_other_nodes_append(store: &impl Store) {
    run_histories(store, 12, &[options(), options(), options()]).await;
}

/// Long streams are kept as snapshots; with them and without them the folds are the same.
pub async fn snapshots_change_nothing(store: &impl Store) {
    let log = open(store).await;
    let tenant = Tenant::create(1, &log, Limits { active_keys: 1_000, ..Limits::default() }).await;
    log.transact(tenant.submit(tenant.open(1))).await.unwrap();
    for n in 1..=90 {
        log.transact(tenant.submit(tenant.create_key(n))).await.unwrap();
        log.transact(tenant.submit(tenant.rename(1, &format!("{n}")))).await.unwrap();
    }
    let streams = [StreamId::Team, StreamId::Mailbox(tenant.mailbox(1))];
    type Both = (Versioned<Team>, Versioned<mailbox::Mailbox>);
    let expected: Both = fold(&streams, &tenant.events(&log).await);
    let backend = store.node().await;
    let asked: Vec<_> = streams.iter().map(|s| (tenant.id.clone(), s.clone())).collect();
    for round in 0..3u64 {
        let cold = open(store).await;
        assert_eq!(cold.state::<Both>(&tenant.id, &streams).await.unwrap(), expected, "round {round}");
        let histories = backend.histories(&asked).await.unwrap();
        assert!(histories.iter().all(|h| h.snapshot.is_some() && h.records.is_empty()), "round {round}");
    }
    // What comes after a snapshot is folded onto it, and a limit counts what is in it.
    log.transact(tenant.submit(tenant.create_key(91))).await.unwrap();
    let cold = open(store).await;
    let team: Versioned<Team> = cold.state(&tenant.id, &streams[..1]).await.unwrap();
    assert_eq!((team.active_keys, team.version), (91, expected.0.version));
    // A snapshot of an older build, or an older one of this build, is not used or does not replace a newer one.
    let kept = backend.histories(&asked[..1]).await.unwrap()[0].snapshot.clone().unwrap();
    backend.save_snapshots(&[SnapshotRow { position: 3, state: "{}".to_owned(), ..kept.clone() }]).await.unwrap();
    assert_eq!(backend.histories(&asked[..1]).await.unwrap()[0].snapshot, Some(kept.clone()));
    let other_shape = SnapshotRow { shape: domain::entity::SNAPSHOT_VERSION + 1, state: "?".to_owned(), ..kept };
    backend.save_snapshots(&[other_shape]).await.unwrap();
    let cold = open(store).await;
    assert_eq!(cold.state::<Versioned<Team>>(&tenant.id, &streams[..1]).await.unwrap(), team);
}

/// A snapshot made of what was read before an erasure does not bring the erased half back.
pub async fn a_snapshot_of_before_an_erasure_is_not_kept(store: &impl Store) {
    let log = open(store).await;
    let tenant = Tenant::create(1, &log, Limits::default()).await;
    log.transact(tenant.submit(tenant.open(1))).await.unwrap();
    log.transact(tenant.submit(tenant.rename(1, "Ann Example"))).await.unwrap();
    let backend: std::sync::Arc<dyn Backend> = store.node().await;
    let stream = StreamId::Mailbox(tenant.mailbox(1));
    let asked = [(tenant.id.clone(), stream.clone())];
    let read = backend.histories(&asked).await.unwrap().remove(0);
    let state: Versioned<mailbox::Mailbox> = log.state(&tenant.id, std::slice::from_ref(&stream)).await.unwrap();
    assert_eq!(state.display_name.as_deref(), Some("Ann Example"));
    let snapshot = SnapshotRow {
        team: tenant.id.clone(),
        stream: stream.to_string(),
        shape: domain::entity::SNAPSHOT_VERSION,
        stream_version: 2,
        position: 5,
        state: serde_json::to_string(&*state.state).unwrap(),
        erasures: read.erasures,
    };
    backend.save_snapshots(std::slice::from_ref(&snapshot)).await.unwrap();
    assert!(backend.histories(&asked).await.unwrap()[0].snapshot.is_some());
    log.erase_personal(&tenant.id, &[5]).await.unwrap();
    assert!(backend.histories(&asked).await.unwrap()[0].snapshot.is_none(), "a snapshot outlived the erasure");
    backend.save_snapshots(&[snapshot]).await.unwrap();
    assert!(backend.histories(&asked).await.unwrap()[0].snapshot.is_none(), "a late snapshot came back");
    let state: Versioned<mailbox::Mailbox> = log.state(&tenant.id, &[stream]).await.unwrap();
    assert_eq!((state.display_name.as_deref(), state.version), (None, 2));
}

/// After a restart everything that was answered is there: records, folds, answers, directory, bodies, secrets.
pub async fn reopening_loses_nothing(store: &impl Store) {
    let log = open(store).await;
    let tenant = Tenant::create(1, &log, Limits::default()).await;
    let body = log.stage_blob(&tenant.id, &tenant.blob(1), "body".into()).await.unwrap();
    let secret = crate::SecretText::new(b"secret".to_vec());
    let submission = tenant.submit(create_webhook(&tenant, 1)).with_secret(tenant.secret(1), "webhook", secret);
    log.transact(submission.with_blob(tenant.blob(1), body)).await.unwrap();
    for n in 1..=30 {
        log.transact(tenant.submit(tenant.open(n))).await.unwrap();
    }
    let (before, head) = (tenant.stored(&log).await, log.head(&tenant.id).await.unwrap());
    log.close().await;
    store.restart().await;
    let log = open(store).await;
    assert_eq!(tenant.stored(&log).await, before);
    assert_eq!(log.head(&tenant.id).await.unwrap(), head);
    assert_eq!(log.epoch(), 1);
    assert!(log.blob(&tenant.id, &tenant.blob(1)).await.unwrap().is_some());
    assert!(log.secret(&tenant.id, &tenant.secret(1), "webhook").await.unwrap().is_some());
    for n in 1..=30 {
        let key = crate::DirectoryKey::Address(tenant.address(n).canonical());
        assert_eq!(log.find(&key).await.unwrap().unwrap().team, tenant.id);
    }
    let team: Versioned<Team> = log.state(&tenant.id, &[StreamId::Team]).await.unwrap();
    assert_eq!((team.mailboxes, team.webhooks), (30, 1));
    log.transact(tenant.submit(tenant.open(31))).await.unwrap();
    assert_whole(&tenant, &log).await;
}
