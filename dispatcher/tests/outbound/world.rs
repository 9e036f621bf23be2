//! A log with teams, money and sending accounts, and a clock in the test's hand.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU8, Ordering};
use std::time::Duration;

use dispatcher::outbound::{Config, Error, NoLocalDelivery, Parts, Queue, Reactor};
use domain::id::{BlobId, OutboundId, ProviderId, SecretId, TeamId};
use domain::outbound::{Outbound, Status};
use domain::provider::credentials::{Credentials, PURPOSE};
use domain::provider::{CreateProvider, Identity, Quotas, Security, Settings, Transport};
use domain::{Actor, Command, StreamId, Versioned};
use eventlog::{Allot, BlobStore, EventLog, MasterKey, Options, SecretText, Submission};
use mail::auth::Zone;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

pub const SECOND: i64 = 1_000_000;
const NOW: i64 = 1_700_000_000_000_000;
const PATIENCE: Duration = Duration::from_secs(20);

pub async fn eventually<F: Future<Output = bool>>(what: &str, mut holds: impl FnMut() -> F) {
    let waiting = async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    assert!(tokio::time::timeout(PATIENCE, waiting).await.is_ok(), "never: {what}");
}

pub struct World {
    pub log: EventLog,
    pub queue: Queue,
    pub clock: Arc<AtomicI64>,
    pub config: Config,
    pub team: TeamId,
    pub zone: Zone,
    allot: Allot,
    number: AtomicU8,
}

impl World {
    pub async fn new() -> Self {
        let (backend, work) = crate::store::open().await;
        let clock = Arc::new(AtomicI64::new(NOW));
        let of = Arc::clone(&clock);
        let allot = Allot::new(move || of.load(Ordering::SeqCst), Allot::system().entropy());
        let options = Options::new(MasterKey::new(&[7; 32]), BlobStore::memory(), allot.entropy());
        let log = EventLog::open(backend, options).await.unwrap();
        let team = TeamId::new(NOW, allot.random());
        let mut config = Config { dangerous_allow_loopback: true, poll_milliseconds: 20, ..Config::default() };
        config.retry.jitter_percent = 0;
        let queue = Queue::new(work);
        let number = AtomicU8::new(1);
        let world = Self { log, queue, clock, config, team, zone: Zone::default(), allot, number };
        let team = world.team.clone();
        world.create_team(&team).await;
        world
    }

    /// Creates a team with a dollar and a verified domain.
    pub async fn create_team(&self, team: &TeamId) {
        let limits = domain::team::Limits::default();
        self.tell(team, domain::team::CreateTeam { name: "Acme".into(), limits }).await;
        let domain = domain::id::DomainId::new(NOW, self.allot.random());
        let name = format!("d{}.example.org", self.number.fetch_add(1, Ordering::SeqCst));
        let mode = domain::sending_domain::Mode::SendOnly;
        self.tell(team, domain::sending_domain::AddVerifiedDomain { domain, name, mode }).await;
        let paid = domain::testing::with_money().pop().unwrap();
        self.tell(team, Put(paid)).await;
    }

    pub fn now(&self) -> i64 {
        self.clock.load(Ordering::SeqCst)
    }

    pub fn advance(&self, micros: i64) {
        self.clock.fetch_add(micros, Ordering::SeqCst);
    }

    pub async fn tell<C: Command>(&self, team: &TeamId, command: C) {
        let submission = Submission::new(team.clone(), self.now(), Actor::Operator, "test", command);
        self.log.transact(submission).await.unwrap();
    }

    pub async fn account(&self, port: u16) -> ProviderId {
        self.account_of(&self.team, port, Quotas::default(), 100).await
    }

    pub async fn account_of(&self, team: &TeamId, port: u16, quotas: Quotas, weight: u8) -> ProviderId {
        let transport = Transport::CustomSmtp { host: "127.0.0.1".into(), port, security: Security::None };
        self.account_by(team, transport, quotas, weight).await
    }

    pub async fn account_by(&self, team: &TeamId, transport: Transport, quotas: Quotas, weight: u8) -> ProviderId {
        let provider = ProviderId::new(NOW, self.allot.random());
        let secret = SecretId::new(NOW, self.allot.random());
        let command = CreateProvider {
            provider: provider.clone(),
            settings: Settings { transport, percentage: Some(weight), quotas },
            identity: Identity { name: "a".into(), ..Identity::default() },
            managed: false,
            secret: Some(secret.clone()),
        };
        let submission = Submission::new(team.clone(), self.now(), Actor::Operator, "test", command);
        let credentials = Credentials { username: "ann".into(), password: "secret".into() };
        let text = SecretText::new(serde_json::to_vec(&credentials).unwrap());
        self.log.transact(submission.with_secret(secret, PURPOSE, text)).await.unwrap();
        provider
    }

    pub async fn accept(&self, to: &[&str]) -> OutboundId {
        self.accept_of(&self.team, to, None).await
    }

    pub async fn accept_of(&self, team: &TeamId, to: &[&str], send_at: Option<i64>) -> OutboundId {
        let state: Versioned<domain::team::Team> = self.log.state(team, &[StreamId::Team]).await.unwrap();
        let from = format!("ann@{}", state.domains.keys().next().unwrap());
        let mut command = domain::testing::accept(1, &[1]);
        command.outbound = OutboundId::new(NOW, self.allot.random());
        command.blob = BlobId::new(NOW, self.allot.random());
        command.send_at = send_at;
        command.from = mail::address::Address::parse(&from).unwrap();
        let one = command.recipients.pop().unwrap();
        for text in to {
            let address = mail::address::Address::parse(text).unwrap();
            let mut recipient = one.clone();
            recipient.address = domain::id::AddressId::of(&[1; 32], team, &address);
            recipient.person.email = (*text).to_owned();
            command.recipients.push(recipient);
        }
        let raw = format!("From: {from}\r\nSubject: Hello\r\nMessage-ID: <{}@x>\r\n\r\nHi\r\n", command.outbound);
        let (id, blob) = (command.outbound.clone(), command.blob.clone());
        let staged = self.log.stage_blob(team, &blob, raw.into_bytes().into()).await.unwrap();
        let submission = Submission::new(team.clone(), self.now(), Actor::Operator, "test", command);
        self.log.transact(submission.with_blob(blob, staged)).await.unwrap();
        id
    }

    pub async fn state(&self, id: &OutboundId) -> Versioned<Outbound> {
        self.state_of(&self.team, id).await
    }

    pub async fn state_of(&self, team: &TeamId, id: &OutboundId) -> Versioned<Outbound> {
        self.log.state(team, &[StreamId::Outbound(id.clone())]).await.unwrap()
    }

    pub async fn until(&self, id: &OutboundId, what: &str, holds: impl Fn(&Outbound) -> bool) -> Versioned<Outbound> {
        eventually(what, || async { holds(&*self.state(id).await) }).await;
        self.state(id).await
    }

    pub async fn until_status(&self, id: &OutboundId, statuses: &[Status]) -> Versioned<Outbound> {
        let wanted = statuses.to_vec();
        let is = move |m: &Outbound| m.recipients.iter().map(|r| r.status).collect::<Vec<_>>() == wanted;
        self.until(id, &format!("{statuses:?}"), is).await
    }

    pub fn start(&self) -> Running {
        self.start_as("node")
    }

    pub fn start_as(&self, node: &str) -> Running {
        let resolver = Arc::new(self.zone.clone());
        let parts = Parts {
            log: self.log.clone(),
            queue: self.queue.clone(),
            mailer: self.config.mailer(resolver.clone()),
            resolver,
            local: Arc::new(NoLocalDelivery),
            allot: self.allot.clone(),
            config: self.config.clone(),
            node: node.to_owned(),
        };
        let stop = CancellationToken::new();
        let task = tokio::spawn(Reactor::new(parts).run(stop.clone()));
        Running { stop, task }
    }
}

pub struct Running {
    stop: CancellationToken,
    task: JoinHandle<Result<(), Error>>,
}

impl Running {
    /// Ends it as a crash would.
    pub async fn crash(self) {
        self.task.abort();
        assert!(self.task.await.unwrap_err().is_cancelled());
    }

    pub async fn stop(self) {
        self.stop.cancel();
        tokio::time::timeout(PATIENCE, self.task).await.unwrap().unwrap().unwrap();
    }
}

/// Writes an event as it is.
#[derive(Debug)]
pub struct Put(pub domain::Event);

impl Command for Put {
    type State = ();
    type Rejected = std::convert::Infallible;

    fn streams(&self) -> Vec<StreamId> {
        self.0.stream().into_iter().collect()
    }

    fn decide(&self, (): &(), _: &domain::Moment) -> Result<Vec<domain::Event>, Self::Rejected> {
        Ok(vec![self.0.clone()])
    }
}
