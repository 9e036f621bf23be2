//! A log with teams, money and sending accounts, and a clock in the test's hand.

use std::sync::atomic::{AtomicI64, AtomicU8, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use dispatcher::outbound::{Config, Filing, LocalDelivery, Parts, Queue, Reactor};
use domain::id::{BlobId, OutboundId, ProviderId, SecretId, TeamId};
use domain::money::Nanos;
use domain::outbound::{AcceptMail, Outbound, Status};
use domain::personal::Halves;
use domain::provider::credentials::{Credentials, PURPOSE};
use domain::provider::{CreateProvider, Identity, Quotas, Security, Settings, Transport};
use domain::testing::Put;
use domain::{Actor, Command, StreamId, Versioned, balance};
use eventlog::{Allot, Backend, BlobStore, EventLog, MasterKey, Options, SecretText, Submission};
use mail::address::{Address, ReversePath};
use mail::auth::Zone;
use mail::smtp::client::{Content, ServerReply};
use mail::verp::MacKey;
use projections::webhook_attempts::Work;

use crate::gate::Gate;
use crate::reactor::{Running, eventually};

pub const SECOND: i64 = 1_000_000;
const NOW: i64 = 1_700_000_000_000_000;

/// Mailboxes at `here.example`, which answer as they are told.
pub struct Mailboxes {
    pub code: Mutex<u16>,
    pub taken: Mutex<Vec<(ReversePath, Vec<Address>, String)>>,
    /// What is made of reports, and those that are there.
    pub filing: Mutex<Filing>,
    pub reports: Mutex<Vec<String>>,
    /// How often one was handed over.
    pub handed_over: AtomicU8,
}

#[async_trait]
impl LocalDelivery for Mailboxes {
    async fn deliver(&self, mail_from: &ReversePath, recipients: &[Address], content: Content) -> Vec<ServerReply> {
        let code = *self.code.lock().unwrap();
        let said = |to: &Address| {
            let code = if to.domain() == "nowhere.example" { 550 } else { code };
            let (enhanced, text) = if code == 250 { ("2.0.0", "ok") } else { ("4.2.2", "not now") };
            let enhanced = if code == 550 { "5.1.1" } else { enhanced };
            ServerReply { code, enhanced: Some(enhanced.into()), text: text.into() }
        };
        if code == 250 {
            let text = String::from_utf8(content.to_vec()).unwrap();
            let same = (mail_from.clone(), recipients.to_vec(), text);
            let mut taken = self.taken.lock().unwrap();
            // As mailboxes do: the same mail handed over again is there once.
            if !taken.contains(&same) {
                taken.push(same);
            }
        }
        recipients.iter().map(said).collect()
    }

    async fn file_report(&self, _: &TeamId, to: &Address, content: Content) -> Filing {
        assert_eq!(to.local(), "ann");
        self.handed_over.fetch_add(1, Ordering::SeqCst);
        let filing = *self.filing.lock().unwrap();
        let text = String::from_utf8(content.to_vec()).unwrap();
        let mut reports = self.reports.lock().unwrap();
        if filing == Filing::Filed && !reports.contains(&text) {
            reports.push(text);
        }
        filing
    }
}

pub struct World {
    pub log: EventLog,
    pub gate: Arc<Gate>,
    pub mailboxes: Arc<Mailboxes>,
    pub return_paths: Option<MacKey>,
    /// What is written in each mail.
    pub body: String,
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
        Self::over(backend, work).await
    }

    pub async fn over(backend: Arc<dyn Backend>, work: Work) -> Self {
        let world = Self::open(backend, work).await;
        world.create_team(&world.team).await;
        world
    }

    /// Opens what may be there already; the team is only a name.
    pub async fn open(backend: Arc<dyn Backend>, work: Work) -> Self {
        let clock = Arc::new(AtomicI64::new(NOW));
        let of = Arc::clone(&clock);
        let allot = Allot::new(move || of.load(Ordering::SeqCst), Allot::system().entropy());
        let options = Options::new(MasterKey::new(&[7; 32]), BlobStore::memory(), allot.entropy());
        let gate = Arc::new(Gate::new(backend));
        let log = EventLog::open(gate.clone(), options).await.unwrap();
        let team = TeamId::new(NOW, allot.random());
        let mut config = Config { dangerous_allow_loopback: true, poll_milliseconds: 20, ..Config::default() };
        config.retry.jitter_percent = 0;
        let queue = Queue::new(work);
        let number = AtomicU8::new(1);
        let mailboxes = Mailboxes {
            code: Mutex::new(250),
            taken: Mutex::default(),
            filing: Mutex::new(Filing::Filed),
            reports: Mutex::default(),
            handed_over: AtomicU8::new(0),
        };
        let mailboxes = Arc::new(mailboxes);
        let zone = Zone::default();
        let (return_paths, body) = (None, "Hi\r\n".to_owned());
        Self { log, gate, mailboxes, return_paths, body, queue, clock, config, team, zone, allot, number }
    }

    /// Creates a team with money and a verified domain.
    pub async fn create_team(&self, team: &TeamId) {
        let limits = domain::team::Limits::default();
        self.tell(team, domain::team::CreateTeam { name: "Acme".into(), limits }).await;
        let domain = domain::id::DomainId::new(NOW, self.allot.random());
        let name = format!("d{}.example.org", self.next());
        let mode = domain::sending_domain::Mode::SendOnly;
        self.tell(team, domain::sending_domain::AddVerifiedDomain { domain, name, mode }).await;
        let kind = balance::PaymentKind::Purchase;
        let amount_nanos = Nanos(1_000_000 * Nanos::DOLLAR.0);
        let paid = balance::ToppedUp { payment: domain::testing::payment_id(1), kind, amount_nanos };
        let paid = balance::Event::ToppedUp(Halves::new(paid, balance::Note { note: None }));
        self.tell(team, Put(domain::Event::Balance(paid))).await;
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

    /// Returns a number that was not given out before.
    pub fn next(&self) -> u8 {
        self.number.fetch_add(1, Ordering::SeqCst)
    }

    pub async fn tell_sealed<C: Command>(&self, command: C, (id, purpose, text): (SecretId, &'static str, SecretText)) {
        let submission = Submission::new(self.team.clone(), self.now(), Actor::Operator, "test", command);
        self.log.transact(submission.with_secret(id, purpose, text)).await.unwrap();
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
        self.accept_with(team, to, |command| command.send_at = send_at).await
    }

    pub async fn accept_with(&self, team: &TeamId, to: &[&str], change: impl FnOnce(&mut AcceptMail)) -> OutboundId {
        let state: Versioned<domain::team::Team> = self.log.state(team, &[StreamId::Team]).await.unwrap();
        let from = format!("ann@{}", state.domains.keys().next().unwrap());
        let mut command = domain::testing::accept(1, &[1]);
        command.outbound = OutboundId::new(NOW, self.allot.random());
        command.blob = BlobId::new(NOW, self.allot.random());
        command.from = Address::parse(&from).unwrap();
        let one = command.recipients.pop().unwrap();
        for text in to {
            let address = Address::parse(text).unwrap();
            let mut recipient = one.clone();
            recipient.address = domain::id::AddressId::of(&[1; 32], team, &address);
            recipient.person.email = (*text).to_owned();
            command.recipients.push(recipient);
        }
        change(&mut command);
        let body = &self.body;
        let raw = format!("From: {from}\r\nSubject: Hello\r\nMessage-ID: <{}@x>\r\n\r\n{body}", command.outbound);
        let (id, blob) = (command.outbound.clone(), command.blob.clone());
        let staged = self.log.stage_blob(team, &blob, raw.into_bytes().into()).await.unwrap();
        let submission = Submission::new(team.clone(), self.now(), Actor::Operator, "test", command);
        self.log.transact(submission.with_blob(blob, staged)).await.unwrap();
        id
    }

    /// Returns the names of all that happened to a mail, in order.
    pub async fn chain(&self, id: &OutboundId) -> Vec<String> {
        let records = self.log.read(&self.team, 0, 1_000).await.unwrap();
        let of = |event: &domain::Event| matches!(event, domain::Event::Outbound(e) if e.mail().outbound == *id);
        records.iter().filter(|r| of(&r.event)).map(|r| r.event.name().to_owned()).collect()
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
            local: self.mailboxes.clone(),
            allot: self.allot.clone(),
            config: self.config.clone(),
            node: node.to_owned(),
        };
        let mut reactor = Reactor::new(parts);
        if let Some(key) = &self.return_paths {
            reactor = reactor.with_return_paths(key.clone());
        }
        let addresses = |team: &TeamId, address: &Address| domain::id::AddressId::of(&[1; 32], team, address);
        let reactor = reactor.with_addresses(Arc::new(addresses));
        Running::start(|stop| async { reactor.run(stop).await.unwrap() })
    }
}
