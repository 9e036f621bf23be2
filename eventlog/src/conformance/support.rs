//! What the promises share: a team, its ids, commands, and a command that keeps a lane busy.

use std::future::Future;
use std::num::NonZeroUsize;
use std::pin::Pin;
use std::sync::{Arc, Condvar, Mutex};
use std::task::Poll;

use domain::api_key::{CreateTeamKey, Kind, Minted};
use domain::id::{BlobId, DomainId, KeyId, MailboxId, MessageId, SecretId, TeamId, ThreadId, WebhookId};
use domain::mailbox::{ChangeMailbox, OpenMailbox, SendScope};
use domain::message::ReceiveMessage;
use domain::permission::Preset;
use domain::sending_domain::{AddVerifiedDomain, Mode};
use domain::team::{CreateTeam, Limits};
use domain::testing::NOW;
use domain::{Actor, Command, Event, Moment, StreamId};

use tokio::task::JoinSet;

use super::Store;
use crate::{Allot, BlobStore, EventLog, MasterKey, Options, Outcome, Recorded, StoredRecord, Submission};

pub(super) fn options() -> Options {
    Options::new(MasterKey::new(&[7; 32]), BlobStore::memory(), Allot::system().entropy())
}

pub(super) async fn open(store: &impl Store) -> EventLog {
    open_with(store, options()).await
}

pub(super) async fn open_with(store: &impl Store, options: Options) -> EventLog {
    EventLog::open(store.node().await, options).await.unwrap()
}

/// Returns options whose caches hold almost nothing.
pub(super) fn tiny() -> Options {
    let n = |n| NonZeroUsize::new(n).unwrap();
    Options { cached_teams_max: n(1), cached_folds_max: n(2), ..options() }
}

fn nine(team: u64, n: u64) -> [u8; 9] {
    let mut bytes = [0; 9];
    bytes[..4].copy_from_slice(&u32::try_from(team).unwrap().to_be_bytes());
    bytes[5..].copy_from_slice(&u32::try_from(n).unwrap().to_be_bytes());
    bytes
}

/// A team and the names of its things by number.
#[derive(Debug, Clone)]
pub(super) struct Tenant {
    pub(super) id: TeamId,
    pub(super) n: u64,
}

macro_rules! ids {
    ($($name:ident: $id:ty;)+) => {$(
        pub(super) fn $name(&self, n: u64) -> $id {
            <$id>::new(NOW, nine(self.n, n))
        }
    )+};
}

impl Tenant {
    pub(super) fn new(n: u64) -> Self {
        Self { id: TeamId::new(NOW, nine(n, 0)), n }
    }

    ids! {
        mailbox: MailboxId;
        key: KeyId;
        message: MessageId;
        webhook: WebhookId;
        blob: BlobId;
        secret: SecretId;
    }

    pub(super) fn submit<C: Command>(&self, command: C) -> Submission<C> {
        Submission::new(self.id.clone(), NOW, Actor::Operator, "req_test", command)
    }

    /// Creates the team with a domain of its own, `t<n>.example.org`.
    pub(super) async fn create(n: u64, log: &EventLog, limits: Limits) -> Self {
        let tenant = Self::new(n);
        log.transact(tenant.submit(CreateTeam { name: format!("Team {n}"), limits })).await.unwrap();
        log.transact(tenant.submit(tenant.add_domain())).await.unwrap();
        tenant
    }

    pub(super) fn add_domain(&self) -> AddVerifiedDomain {
        let name = format!("t{}.example.org", self.n);
        AddVerifiedDomain { domain: DomainId::new(NOW, nine(self.n, 1)), name, mode: Mode::SendReceive }
    }

    /// Opens mailbox `n` with the address of number `address`.
    pub(super) fn open_as(&self, n: u64, address: u64) -> OpenMailbox {
        OpenMailbox {
            mailbox: self.mailbox(n),
            email: self.address(address),
            display_name: None,
            quota_bytes: 1 << 30,
            send_scope: SendScope::All,
            credential: None,
        }
    }

    pub(super) fn open(&self, n: u64) -> OpenMailbox {
        self.open_as(n, n)
    }

    pub(super) fn address(&self, n: u64) -> mail::address::Address {
        mail::address::Address::parse(&format!("box{n}@t{}.example.org", self.n)).unwrap()
    }

    pub(super) fn rename(&self, n: u64, to: &str) -> ChangeMailbox {
        ChangeMailbox {
            mailbox: self.mailbox(n),
            display_name: Some(Some(to.to_owned())),
            quota_bytes: None,
            send_scope: None,
            if_version: None,
        }
    }

    pub(super) fn minted(&self, n: u64) -> Minted {
        let lookup = format!("{:032x}{n:032x}", self.n);
        Minted { key: self.key(n), lookup, prefix: "smx_inf_ab".into(), suffix: "wxyz".into() }
    }

    pub(super) fn create_key(&self, n: u64) -> CreateTeamKey {
        CreateTeamKey {
            minted: self.minted(n),
            kind: Kind::Infrastructure,
            name: format!("key {n}"),
            permissions: Preset::Full.permissions(),
        }
    }

    /// Message `n` arriving in mailbox `mailbox`.
    pub(super) fn receive(&self, n: u64, mailbox: u64) -> ReceiveMessage {
        let (mut facts, personal) = domain::testing::received_halves(1, &self.mailbox(mailbox));
        facts.message = self.message(n);
        facts.blob = self.blob(n);
        facts.thread = ThreadId::new(NOW, nine(self.n, n));
        ReceiveMessage { facts, personal, mail_from: None }
    }

    /// Returns the whole log.
    pub(super) async fn history(&self, log: &EventLog) -> Vec<Recorded> {
        let mut all = vec![];
        loop {
            let page = log.read(&self.id, position_of(all.last()), 50).await.unwrap();
            if page.is_empty() {
                return all;
            }
            all.extend(page);
        }
    }

    pub(super) async fn events(&self, log: &EventLog) -> Vec<Event> {
        self.history(log).await.into_iter().map(|r| r.event).collect()
    }

    pub(super) async fn stored(&self, log: &EventLog) -> Vec<StoredRecord> {
        log.read_stored(&self.id, 0, 100_000).await.unwrap()
    }
}

fn position_of(last: Option<&Recorded>) -> u64 {
    last.map_or(0, |r| r.position)
}

/// Returns the positions of what was appended.
pub(super) fn positions<S>(outcome: Outcome<S>) -> Vec<u64> {
    outcome.done().map_or(vec![], |appended| appended.records.iter().map(|r| r.position).collect())
}

/// Checks that a log is what was written, up to its head.
pub(super) async fn assert_whole(tenant: &Tenant, log: &EventLog) {
    let mut verifier = crate::chain::Verifier::new(tenant.id.clone());
    for record in tenant.stored(log).await {
        verifier.next(&record).unwrap();
    }
    verifier.end(&log.head(&tenant.id).await.unwrap()).unwrap();
}

/// Small numbers in an order that only looks random: every run does the same.
#[derive(Debug, Clone)]
pub(super) struct Dice(u64);

impl Dice {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(super) fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % sides
    }
}

type Boxed<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Keeps a lane busy, so that everything handed in meanwhile is taken as one batch.
#[derive(Debug, Clone, Default)]
pub(super) struct Gate(Arc<(Mutex<(bool, bool)>, Condvar)>);

impl Command for Gate {
    type State = ();
    type Rejected = std::convert::Infallible;

    fn streams(&self) -> Vec<StreamId> {
        vec![]
    }

    fn decide(&self, (): &(), _: &Moment) -> Result<Vec<Event>, Self::Rejected> {
        let (state, changed) = &*self.0;
        let mut state = state.lock().unwrap();
        state.0 = true;
        changed.notify_all();
        drop(changed.wait_while(state, |(_, open)| !*open).unwrap());
        Ok(vec![])
    }
}

impl Gate {
    /// Closes the lane of a team; returns once the lane waits.
    pub(super) async fn close(log: &EventLog, tenant: &Tenant) -> (Self, JoinSet<()>) {
        let gate = Self::default();
        let (log, submission, entered) = (log.clone(), tenant.submit(gate.clone()), gate.clone());
        let mut waiting = JoinSet::new();
        waiting.spawn(async move { drop(log.transact(submission).await.unwrap()) });
        tokio::task::spawn_blocking(move || {
            let (state, changed) = &*entered.0;
            drop(changed.wait_while(state.lock().unwrap(), |(entered, _)| !*entered).unwrap());
        })
        .await
        .unwrap();
        (gate, waiting)
    }

    pub(super) fn open(&self) {
        self.0.0.lock().unwrap().1 = true;
        self.0.1.notify_all();
    }
}

/// Submits everything in this order so that it is decided in one batch; returns the outcomes in the same order.
pub(super) async fn as_one_batch<T: Send>(log: &EventLog, tenant: &Tenant, all: Vec<Boxed<'_, T>>) -> Vec<T> {
    let (gate, waiting) = Gate::close(log, tenant).await;
    let mut slots: Vec<_> = all.into_iter().map(|future| (Some(future), None)).collect();
    let outcomes = std::future::poll_fn(|cx| {
        for (future, outcome) in &mut slots {
            if let Some(polled) = future
                && let Poll::Ready(ready) = polled.as_mut().poll(cx)
            {
                (*future, *outcome) = (None, Some(ready));
            }
        }
        gate.open();
        if slots.iter().all(|(future, _)| future.is_none()) {
            return Poll::Ready(slots.iter_mut().filter_map(|(_, outcome)| outcome.take()).collect());
        }
        Poll::Pending
    })
    .await;
    waiting.join_all().await;
    outcomes
}

/// Boxes a future for [`as_one_batch`].
pub(super) fn boxed<'a, T>(future: impl Future<Output = T> + Send + 'a) -> Boxed<'a, T> {
    Box::pin(future)
}
