//! A team with two mailboxes and a webhook, the real log and the real reactor, with a clock in the test's hand.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU8, Ordering};
use std::time::Duration;

use dispatcher::egress::HostTable;
use dispatcher::model::Phase;
use dispatcher::queue::Queue;
use dispatcher::webhook::{Config, Error, Reactor};
use domain::id::SecretId;
use domain::message::ReceiveMessage;
use domain::published::WebhookEventType;
use domain::testing::{mailbox_id, opened, received_halves, team_created, team_id, webhook_id};
use domain::webhook_endpoint::{CreateWebhook, Subscription};
use domain::{Actor, Command, Event, Moment, StreamId};
use eventlog::{Allot, BlobStore, EventLog, MasterKey, MemoryBackend, Options, SecretText, Submission};
use projections::db::Select;
use projections::webhook_attempts::Work;
use projections::{Runner, Views};
use proof::replay::{Kept, Observed};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::receiver::{Receiver, Recorder};

/// How many attempts are made.
pub const ATTEMPTS: u8 = 8;
const NOW: i64 = 1_700_000_000_000_000;
const SECOND: i64 = 1_000_000;
const PATIENCE: Duration = Duration::from_secs(60);

/// Writes an event as it is.
struct Put(Event);

impl Command for Put {
    type State = ();
    type Rejected = std::convert::Infallible;

    fn streams(&self) -> Vec<StreamId> {
        self.0.stream().into_iter().collect()
    }

    fn decide(&self, (): &(), _: &Moment) -> Result<Vec<Event>, Self::Rejected> {
        Ok(vec![self.0.clone()])
    }
}

/// See the module.
pub struct World {
    log: EventLog,
    views: Views,
    queue: Queue,
    allot: Allot,
    clock: Arc<AtomicI64>,
    pub receiver: Receiver,
    recorder: Recorder,
    begin: u64,
    mails: AtomicU8,
    stop: CancellationToken,
}

impl Drop for World {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// The bounds of the model, and its schedule: a second between attempts.
fn config() -> Config {
    let mut config = Config {
        concurrency_per_webhook_max: 2,
        window_events_max: 3,
        blocked_mailboxes_max: 2,
        queue_per_mailbox_max: 1,
        page_events: 2,
        flush_milliseconds: 2,
        flush_busy_milliseconds: 4,
        poll_milliseconds: 10,
        ..Config::default()
    };
    config.schedule.attempt_offsets_seconds = (0..u64::from(ATTEMPTS)).collect();
    config.schedule.jitter_percent = 0;
    config.schedule.overdue_gap_seconds = 0;
    config.schedule.retry_after_max_seconds = 0;
    config.targets.dangerous_allow_http_loopback = true;
    config
}

async fn tell<C: Command>(log: &EventLog, submission: Submission<C>) -> u64 {
    log.transact(submission).await.unwrap().done().unwrap().head.position
}

fn submission<C: Command>(command: C) -> Submission<C> {
    Submission::new(team_id(), NOW, Actor::Operator, "test", command)
}

impl World {
    pub async fn new(seed: u64) -> Self {
        let clock = Arc::new(AtomicI64::new(NOW));
        let of = Arc::clone(&clock);
        let allot = Allot::new(move || of.load(Ordering::SeqCst), Allot::system().entropy());
        let options = Options::new(MasterKey::new(&[7; 32]), BlobStore::memory(), allot.entropy());
        let log = EventLog::open(Arc::new(MemoryBackend::default()), options).await.unwrap();
        let views = Views::memory().await.unwrap();
        let queue = Queue::new(Work::memory(&[Queue::TABLES]).await.unwrap());
        let stop = CancellationToken::new();
        tokio::spawn(Runner::new(log.clone(), views.clone()).run(stop.clone()));
        for event in team_created().into_iter().chain([opened(1), opened(2)]) {
            tell(&log, submission(Put(event))).await;
        }
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let secret = SecretId::new(NOW, [1; 9]);
        let command = CreateWebhook {
            webhook: webhook_id(1),
            url: format!("http://127.0.0.1:{}/hook", listener.local_addr().unwrap().port()),
            name: None,
            subscription: Subscription {
                event_types: WebhookEventType::ALL.into_iter().collect(),
                mailboxes: [].into(),
            },
            enabled: true,
            secret: secret.clone(),
            deliver_after: None,
        };
        let sealed = dispatcher::webhook::sign::Secret::from_random(&[1; 32]).unwrap();
        let sealed = SecretText::new(sealed.expose().as_bytes().to_vec());
        let begin = tell(&log, submission(command).with_secret(secret, "webhook", sealed)).await;
        let recorder = Recorder::default();
        let receiver = Receiver::start(listener, recorder.clone(), begin, seed);
        let mails = AtomicU8::new(0);
        Self { log, views, queue, allot, clock, receiver, recorder, begin, mails, stop }
    }

    /// Lets a mail arrive. It is noted before anybody can have heard of it: this task runs on before the network does.
    pub async fn receive(&self, mailbox: u8) {
        let n = self.mails.fetch_add(1, Ordering::SeqCst) + 1;
        let (facts, personal) = received_halves(n, &mailbox_id(mailbox));
        tell(&self.log, submission(ReceiveMessage { facts, personal, mail_from: None })).await;
        self.recorder.add(Observed::Mail { mailbox });
    }

    pub fn tick(&self) {
        self.clock.fetch_add(SECOND, Ordering::SeqCst);
        self.recorder.add(Observed::Tick);
    }

    pub fn start(&self) -> JoinHandle<Result<(), Error>> {
        let config = config();
        assert_eq!(config.problems(), Vec::<String>::new());
        let client = config.client(Arc::new(HostTable::default())).unwrap();
        let (log, views, queue) = (self.log.clone(), self.views.clone(), self.queue.clone());
        let reactor = Reactor::new(log, views, queue, client, self.allot.clone(), config, "a").unwrap();
        tokio::spawn(reactor.run(self.stop.clone()))
    }

    /// Ends the reactor on the spot, and notes it when everything it had sent has arrived.
    pub async fn crash(&self, running: JoinHandle<Result<(), Error>>) {
        running.abort();
        assert!(running.await.unwrap_err().is_cancelled());
        tokio::time::timeout(PATIENCE, self.receiver.wait_for_silence()).await.unwrap();
        self.recorder.add(Observed::Crash);
    }

    /// Returns what is kept, and whether something could be attempted now that is not settled.
    async fn kept(&self) -> Option<(Kept, bool)> {
        let mut reader = self.queue.work().read().await.unwrap();
        let cursors =
            Select::new("SELECT cursor, horizon, pending FROM webhook_cursors").fetch(&mut reader).await.unwrap();
        let cells = cursors.first()?;
        let cursor = cells.unsigned("cursor").unwrap();
        let pending: Vec<u64> = cells.json("pending").unwrap();
        let select = Select::new("SELECT mailbox_id, position, phase, attempts, next_due_at FROM webhook_exceptions");
        let rows = select.fetch(&mut reader).await.unwrap();
        let now = self.clock.load(Ordering::SeqCst);
        let waits = rows.iter().all(|cells| {
            cells.text("phase").unwrap() == Phase::Retrying.as_str()
                && cells.get::<Option<i64>>("next_due_at").unwrap().is_some_and(|at| at > now)
        });
        let mut rows: Vec<_> = rows
            .iter()
            .map(|cells| {
                let mailbox = if cells.text("mailbox_id").unwrap() == mailbox_id(1).as_str() { 1 } else { 2 };
                let phase = Phase::parse(&cells.text("phase").unwrap()).unwrap();
                let attempts = u32::try_from(cells.unsigned("attempts").unwrap()).unwrap();
                (mailbox, cells.unsigned("position").unwrap() - self.begin, phase, attempts)
            })
            .collect();
        rows.sort_by_key(|(mailbox, ..)| *mailbox);
        let is_quiet = waits && cursor == self.begin + u64::from(self.mails.load(Ordering::SeqCst));
        let pending = pending.into_iter().map(|offset| cursor + offset - self.begin).collect();
        let horizon = cells.unsigned("horizon").unwrap() - self.begin;
        Some((Kept { cursor: cursor - self.begin, horizon, pending, rows }, is_quiet))
    }

    /// Waits until nothing can happen before time passes, and notes what is kept then.
    pub async fn until_quiet(&self) -> Kept {
        let waiting = async {
            loop {
                if let Some((kept, true)) = self.kept().await {
                    return kept;
                }
                tokio::task::yield_now().await;
            }
        };
        let kept = match tokio::time::timeout(PATIENCE, waiting).await {
            Ok(kept) => kept,
            Err(_) => panic!("never quiet: {:?}\n{:#?}", self.kept().await, self.recording()),
        };
        self.recorder.add(Observed::Kept(kept.clone()));
        kept
    }

    /// Lets time pass until everything is delivered.
    pub async fn until_delivered(&self) {
        while !self.until_quiet().await.rows.is_empty() {
            self.tick();
        }
    }

    pub fn recording(&self) -> Vec<Observed> {
        self.recorder.all()
    }
}
