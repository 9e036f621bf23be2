//! A team with a domain, a DNS and a clock in the test's hand.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex};

use dispatcher::dns::{Checker, Config, Parts, Queue};
use domain::id::{DomainId, SecretId, TeamId};
use domain::sending_domain::records::{Installation, expected};
use domain::sending_domain::{AddDomain, Algorithm, Mode, NewKey, SendingDomain, Status};
use domain::team::{CreateTeam, Limits};
use domain::{Actor, Command, StreamId, Versioned};
use eventlog::{Allot, BlobStore, EventLog, MasterKey, Options, Submission};
use mail::auth::{DnsError, MxRecord, Resolver, Zone};
use projections::{Runner, Views};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::reactor::{PATIENCE, Running, eventually};

pub const SECOND: i64 = 1_000_000;
const NOW: i64 = 1_700_000_000_000_000;

/// A DNS whose records change, that counts questions and that may never answer.
#[derive(Default)]
pub struct Dns {
    zone: Mutex<Zone>,
    asked: Mutex<Vec<String>>,
    hangs: AtomicBool,
}

impl Dns {
    pub fn serve(&self, zone: Zone) {
        *self.zone.lock().unwrap() = zone;
    }

    pub fn hang(&self, hangs: bool) {
        self.hangs.store(hangs, Ordering::SeqCst);
    }

    pub fn asked(&self) -> usize {
        self.asked.lock().unwrap().len()
    }

    pub fn was_asked_of(&self, name: &str) -> bool {
        self.asked.lock().unwrap().iter().any(|asked| asked == name)
    }

    async fn zone(&self, name: &str) -> Zone {
        self.asked.lock().unwrap().push(name.to_owned());
        if self.hangs.load(Ordering::SeqCst) {
            std::future::pending::<()>().await;
        }
        self.zone.lock().unwrap().clone()
    }
}

#[async_trait::async_trait]
impl Resolver for Dns {
    async fn txt(&self, name: &str) -> Result<Vec<Vec<u8>>, DnsError> {
        self.zone(name).await.txt(name).await
    }

    async fn a(&self, name: &str) -> Result<Vec<Ipv4Addr>, DnsError> {
        self.zone(name).await.a(name).await
    }

    async fn aaaa(&self, name: &str) -> Result<Vec<Ipv6Addr>, DnsError> {
        self.zone(name).await.aaaa(name).await
    }

    async fn mx(&self, name: &str) -> Result<Vec<MxRecord>, DnsError> {
        self.zone(name).await.mx(name).await
    }

    async fn ptr(&self, address: IpAddr) -> Result<Vec<String>, DnsError> {
        self.zone(&address.to_string()).await.ptr(address).await
    }
}

pub struct World {
    pub log: EventLog,
    pub dns: Arc<Dns>,
    pub config: Config,
    pub team: TeamId,
    pub domain: DomainId,
    clock: Arc<AtomicI64>,
    allot: Allot,
    views: Views,
    queue: Queue,
    stop: CancellationToken,
    followers: JoinSet<Result<(), projections::Error>>,
}

impl World {
    /// Returns a team with the domain `mail.example.com`, which only sends.
    pub async fn new() -> Self {
        let (backend, views, work) = crate::store::open().await;
        let clock = Arc::new(AtomicI64::new(NOW));
        let of = Arc::clone(&clock);
        let allot = Allot::new(move || of.load(Ordering::SeqCst), Allot::system().entropy());
        let options = Options::new(MasterKey::new(&[7; 32]), BlobStore::memory(), allot.entropy());
        let log = EventLog::open(backend, options).await.unwrap();
        let stop = CancellationToken::new();
        let mut followers = JoinSet::new();
        followers.spawn(Runner::new(log.clone(), views.clone()).run(stop.clone()));
        let (team, domain) = (TeamId::new(NOW, allot.random()), DomainId::new(NOW, allot.random()));
        let config = Config { poll_milliseconds: 10, look_seconds: 5, ..Config::default() };
        let (dns, queue) = (Arc::default(), Queue::new(work));
        let world = Self { log, dns, config, team, domain, clock, allot, views, queue, stop, followers };
        world.tell(CreateTeam { name: "Acme".into(), limits: Limits::default() }).await;
        world.add(world.domain.clone(), "mail.example.com").await;
        world
    }

    pub async fn add(&self, domain: DomainId, name: &str) {
        let key = NewKey {
            selector: "pl1".into(),
            algorithm: Algorithm::Ed25519,
            public_key: "a2V5".into(),
            secret: SecretId::new(NOW, self.allot.random()),
        };
        self.tell(AddDomain { domain, name: name.to_owned(), mode: Mode::SendOnly, keys: vec![key] }).await;
    }

    pub async fn tell<C: Command>(&self, command: C) {
        let position = self.tell_the_log(command).await;
        assert!(self.views.wait_for(&self.team, position, PATIENCE).await);
    }

    /// Carries out a command, whether or not it can be read; returns the log's head.
    pub async fn tell_the_log<C: Command>(&self, command: C) -> u64 {
        let submission = Submission::new(self.team.clone(), self.now(), Actor::Operator, "test", command);
        self.log.transact(submission).await.unwrap().done().unwrap().head.position
    }

    /// What is read stays as it is from now on, whatever is written.
    pub async fn stop_views(&mut self) {
        self.stop.cancel();
        while self.followers.join_next().await.is_some() {}
    }

    pub fn now(&self) -> i64 {
        self.clock.load(Ordering::SeqCst)
    }

    pub fn advance(&self, seconds: u32) {
        self.clock.fetch_add(i64::from(seconds) * SECOND, Ordering::SeqCst);
    }

    pub async fn state(&self) -> Versioned<SendingDomain> {
        self.log.state(&self.team, &[StreamId::Domain(self.domain.clone())]).await.unwrap()
    }

    /// Waits until the domain is in a state, in the log and in what is read of it.
    pub async fn until(&self, status: Status) {
        eventually(&format!("{status:?}"), || async { self.state().await.status == status }).await;
        self.shown().await;
    }

    /// Waits until what is read shows what was written: looks go by what is read, and take a later state for a change.
    pub async fn shown(&self) {
        let head = self.log.head(&self.team).await.unwrap().position;
        assert!(self.views.wait_for(&self.team, head, PATIENCE).await);
    }

    fn installation() -> Installation {
        let (mx_host, spf_mechanism) = ("mx.post.example".to_owned(), "a:mx.post.example".to_owned());
        Installation { mx_host, mx_priority: 10, spf_mechanism }
    }

    /// Returns the zone with everything that is expected now, but one name.
    pub async fn zone_without(&self, left_out: &str) -> Zone {
        let domain = self.state().await;
        let all = expected(&self.team, &domain.name, Mode::SendOnly, &domain.keys, &Self::installation());
        let mut zone = Zone::new();
        for record in all.into_iter().filter(|record| record.name != left_out) {
            zone = match record.priority {
                Some(priority) => zone.with_mx(&record.name, priority, &record.value),
                None => zone.with_txt(&record.name, record.value),
            };
        }
        zone
    }

    pub fn start(&self, node: &str) -> Running {
        let parts = Parts {
            log: self.log.clone(),
            views: self.views.clone(),
            queue: self.queue.clone(),
            resolver: Arc::<Dns>::clone(&self.dns),
            allot: self.allot.clone(),
            installation: Self::installation(),
            config: self.config.clone(),
            node: node.to_owned(),
        };
        Running::start(|stop| Checker::new(parts).run(stop))
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}
