//! What a run stands on: one store, one team with two mailboxes and keys, a clock and random bytes of the seed.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use api::auth::secret::{Fresh, Pepper, mint};
use dispatcher::queue::Queue;
use domain::api_key::{CreateMailboxKey, CreateTeamKey, Kind};
use domain::id::{DomainId, MailboxId, Position, SecretId, TeamId, WebhookId};
use domain::permission::{Permissions, Preset};
use domain::published::WebhookEventType;
use domain::webhook_endpoint::{CreateWebhook, SECRET_PURPOSE, Subscription};
use domain::{Actor, Command, mailbox, sending_domain, team};
use eventlog::{Allot, BlobStore, EventLog, MasterKey, MemoryBackend, Options, SecretText, Submission};
use projections::db::Held;
use projections::webhook_attempts::Work;
use projections::{Runner, Views};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::fault::Fault;
use crate::hooks::Beside;
use crate::line::Exchange;
use crate::notes::Notes;
use crate::numbers::Numbers;
use crate::tally::Tally;

/// When every run begins, microseconds since the Unix epoch.
const BEGINNING: i64 = 1_795_255_200_000_000;

/// The true time of the simulation, microseconds since the Unix epoch.
pub fn wall_clock() -> i64 {
    BEGINNING + i64::try_from(crate::line::now().as_micros()).unwrap_or(i64::MAX)
}

/// See the module. Cheap to clone.
#[derive(Clone)]
pub struct Ground {
    pub seed: u64,
    pub fault: Option<Fault>,
    pub notes: Notes,
    pub exchange: Exchange,
    pub store: Arc<MemoryBackend>,
    /// The database of views, and of the webhooks' cursors and leases.
    pub views: Held,
    pub work: Held,
    /// The views as the database's own host sees them.
    pub read_models: Views,
    pub tally: Tally,
    pub allot: Allot,
    pub team: TeamId,
    pub mailboxes: [MailboxId; 2],
    /// Of the first mailbox.
    pub mailbox_key: Arc<Fresh>,
    pub team_key: Arc<Fresh>,
    /// Where the log ends before anything is simulated.
    pub begin: Position,
}

/// Returns how a log is opened in a simulation.
pub fn options(allot: &Allot) -> Options {
    Options::new(MasterKey::new(&[7; 32]), BlobStore::memory(), allot.entropy())
}

/// Returns the key that digests of keys are made with.
pub fn pepper() -> Pepper {
    Pepper::new([9; 32])
}

/// Has the database forget what is written of deliveries, or of leases.
async fn spoil(work: &Work, fault: Option<Fault>) {
    let sql = match fault {
        Some(Fault::ResultsNotWritten) => {
            "CREATE TRIGGER spoil AFTER UPDATE OF cursor, horizon, pending ON webhook_cursors BEGIN
                 UPDATE webhook_cursors SET cursor = OLD.cursor, horizon = OLD.horizon, pending = OLD.pending
                 WHERE team_id = OLD.team_id AND webhook_id = OLD.webhook_id;
             END"
        }
        Some(Fault::LeasesDoNotLast) => {
            "CREATE TRIGGER spoil AFTER UPDATE OF expires_at ON webhook_cursors BEGIN
                 UPDATE webhook_cursors SET expires_at = 0
                 WHERE team_id = OLD.team_id AND webhook_id = OLD.webhook_id;
             END"
        }
        _ => return,
    };
    let mut tx = work.begin().await.unwrap();
    projections::exec!(tx, sql).unwrap();
    tx.commit().await.unwrap();
}

impl Ground {
    /// Founds the team.
    pub async fn new(seed: u64, fault: Option<Fault>, notes: Notes) -> Self {
        let numbers = Mutex::new(Numbers::new(seed, 1));
        let entropy = move |bytes: &mut [u8]| numbers.lock().unwrap_or_else(PoisonError::into_inner).fill(bytes);
        let allot = Allot::new(wall_clock, Arc::new(entropy));
        let store = Arc::new(MemoryBackend::default());
        let log = EventLog::open(Arc::<MemoryBackend>::clone(&store), options(&allot)).await.unwrap();
        let id = |n: u8| MailboxId::new(BEGINNING, [n; 9]);
        let views = Held::open(Arc::new(Beside)).await.unwrap();
        let work = Held::open(Arc::new(Beside)).await.unwrap();
        let tables = Work::simulated(work.clone(), &[Queue::TABLES]).await.unwrap();
        spoil(&tables, fault).await;
        let mut ground = Self {
            seed,
            fault,
            notes,
            exchange: Exchange::default(),
            store,
            read_models: Views::simulated(views.clone()).await.unwrap(),
            views,
            work,
            tally: Tally::default(),
            team: TeamId::new(BEGINNING, [1; 9]),
            mailboxes: [id(1), id(2)],
            mailbox_key: Arc::new(mint(&allot, &pepper(), Kind::Mailbox)),
            team_key: Arc::new(mint(&allot, &pepper(), Kind::Infrastructure)),
            allot,
            begin: 0,
        };
        ground.found(&log).await;
        ground.hook(&log).await;
        ground.begin = log.head(&ground.team).await.unwrap().position;
        ground.project_to(&log, ground.begin).await;
        log.close().await;
        ground
    }

    /// Computes the views up to a position.
    async fn project_to(&self, log: &EventLog, position: Position) {
        let stop = CancellationToken::new();
        let mut runner = JoinSet::new();
        runner.spawn(Runner::new(log.clone(), self.read_models.clone()).run(stop.clone()));
        assert!(self.read_models.wait_for(&self.team, position, Duration::from_secs(60)).await);
        stop.cancel();
        while runner.join_next().await.is_some() {}
    }

    /// Makes a webhook that is told of everything.
    async fn hook(&self, log: &EventLog) {
        let secret = SecretId::new(BEGINNING, [1; 9]);
        let event_types = WebhookEventType::ALL.into_iter().collect();
        let command = CreateWebhook {
            webhook: WebhookId::new(BEGINNING, [1; 9]),
            url: format!("http://127.0.0.1:{}/hook", crate::receiver::PORT),
            name: None,
            subscription: Subscription { event_types, mailboxes: [].into() },
            enabled: true,
            secret: secret.clone(),
            deliver_after: None,
        };
        let sealed = dispatcher::webhook::sign::Secret::from_random(&[1; 32]).unwrap();
        let sealed = SecretText::new(sealed.expose().as_bytes().to_vec());
        let now = self.allot.now();
        let submission = Submission::new(self.team.clone(), now, Actor::Operator, "req_setup", command);
        log.transact(submission.with_secret(secret, SECRET_PURPOSE, sealed)).await.unwrap();
    }

    async fn tell<C: Command>(&self, log: &EventLog, command: C) {
        let now = self.allot.now();
        log.transact(Submission::new(self.team.clone(), now, Actor::Operator, "req_setup", command)).await.unwrap();
    }

    async fn found(&self, log: &EventLog) {
        self.tell(log, team::CreateTeam { name: "Acme".into(), limits: team::Limits::default() }).await;
        let domain = DomainId::new(BEGINNING, [1; 9]);
        let mode = sending_domain::Mode::SendReceive;
        self.tell(log, sending_domain::AddVerifiedDomain { domain, name: "acme.example".into(), mode }).await;
        for (n, mailbox) in self.mailboxes.iter().enumerate() {
            let open = mailbox::OpenMailbox {
                mailbox: mailbox.clone(),
                email: mail::address::Address::parse(&format!("box{n}@acme.example")).unwrap(),
                display_name: None,
                quota_bytes: 1 << 40,
                send_scope: mailbox::SendScope::All,
                credential: None,
            };
            self.tell(log, open).await;
        }
        let key = CreateMailboxKey {
            minted: self.mailbox_key.minted.clone(),
            mailbox: self.mailboxes[0].clone(),
            name: "agent".into(),
            permissions: Permissions::parse(["mailbox.read", "email.receive"]).unwrap(),
        };
        self.tell(log, key).await;
        let key = CreateTeamKey {
            minted: self.team_key.minted.clone(),
            kind: Kind::Infrastructure,
            name: "all".into(),
            permissions: Preset::Full.permissions(),
        };
        self.tell(log, key).await;
    }
}
