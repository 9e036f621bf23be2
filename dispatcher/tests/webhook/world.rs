//! A log with teams, mailboxes and webhooks, a clock in the test's hand, and receivers that note what they are sent.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use dispatcher::egress::HostTable;
use dispatcher::queue::Queue;
use dispatcher::webhook::sign::Secret;
use dispatcher::webhook::{Config, Reactor};
use domain::id::{BlobId, DomainId, MailboxId, MessageId, Position, SecretId, TeamId, ThreadId, WebhookId};
use domain::message::{Correspondence, Folder, ReceiveMessage, Received};
use domain::published::WebhookEventType;
use domain::testing::Put;
use domain::webhook_endpoint::{Backlog, ChangeWebhook, CreateWebhook, Subscription, TestWebhook, WebhookEndpoint};
use domain::{Actor, Command, StreamId, Versioned};
use eventlog::{Allot, BlobStore, EventLog, MasterKey, Options, SecretText, Submission};
use projections::webhook_attempts::{self, Filter};
use projections::{Page, Runner, Views};
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::reactor::{PATIENCE, Running, eventually};
use crate::store::{self, Store};

pub const NOW: i64 = 1_700_000_000_000_000;
pub const SECOND: i64 = 1_000_000;

/// One request as a receiver saw it.
#[derive(Debug, Clone)]
pub struct Seen {
    pub path: String,
    pub id: String,
    pub attempt: u32,
    pub position: Position,
    pub mailbox: Option<String>,
    pub headers: HeaderMap,
    pub body: Bytes,
}

/// What a receiver does with a request.
pub enum Manner {
    Answer(u16),
    AnswerWith(u16, Vec<(&'static str, String)>, String),
    Hang,
    /// Answers after a signal.
    Wait(Arc<Notify>, u16),
}

type Behaviour = Arc<dyn Fn(&Seen) -> Manner + Send + Sync>;

#[derive(Clone)]
struct Shared {
    seen: Arc<Mutex<Vec<Seen>>>,
    arrived: Arc<Notify>,
    behaviour: Arc<Mutex<Behaviour>>,
}

/// A receiver on loopback.
pub struct Receiver {
    pub port: u16,
    shared: Shared,
    task: JoinHandle<()>,
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn handle(State(shared): State<Shared>, uri: axum::http::Uri, headers: HeaderMap, body: Bytes) -> Response {
    let json: serde_json::Value = serde_json::from_slice(&body).unwrap();
    let text = |name: &str| headers.get(name).unwrap().to_str().unwrap().to_owned();
    let seen = Seen {
        path: uri.path().to_owned(),
        id: text("webhook-id"),
        attempt: text("x-sendmux-delivery-attempt").parse().unwrap(),
        position: json["sequence"].as_u64().unwrap(),
        mailbox: json["data"]["mailbox_id"].as_str().map(str::to_owned),
        headers,
        body,
    };
    let behaviour = Arc::clone(&shared.behaviour.lock().unwrap());
    let manner = behaviour(&seen);
    shared.seen.lock().unwrap().push(seen);
    shared.arrived.notify_waiters();
    let status = |n| StatusCode::from_u16(n).unwrap();
    match manner {
        Manner::Answer(n) => status(n).into_response(),
        Manner::AnswerWith(n, headers, body) => {
            let mut response = (status(n), body).into_response();
            for (name, value) in headers {
                response.headers_mut().insert(name, value.parse().unwrap());
            }
            response
        }
        Manner::Hang => std::future::pending().await,
        Manner::Wait(signal, n) => {
            signal.notified().await;
            status(n).into_response()
        }
    }
}

impl Receiver {
    pub async fn start(behaviour: impl Fn(&Seen) -> Manner + Send + Sync + 'static) -> Self {
        let shared = Shared {
            seen: Arc::default(),
            arrived: Arc::default(),
            behaviour: Arc::new(Mutex::new(Arc::new(behaviour))),
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let router = Router::new().fallback(handle).with_state(shared.clone());
        let task = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { port, shared, task }
    }

    pub fn behave(&self, behaviour: impl Fn(&Seen) -> Manner + Send + Sync + 'static) {
        *self.shared.behaviour.lock().unwrap() = Arc::new(behaviour);
    }

    pub fn seen(&self) -> Vec<Seen> {
        self.shared.seen.lock().unwrap().clone()
    }

    pub fn count(&self) -> usize {
        self.shared.seen.lock().unwrap().len()
    }

    /// Waits until so many requests have arrived, but not for long.
    pub async fn wait_a_little(&self, n: usize) {
        let _ = tokio::time::timeout(Duration::from_millis(100), self.wait(n)).await;
    }

    /// Waits until so many requests have arrived and returns them all.
    pub async fn wait(&self, n: usize) -> Vec<Seen> {
        let waiting = async {
            loop {
                let arrived = self.shared.arrived.notified();
                tokio::pin!(arrived);
                arrived.as_mut().enable();
                if self.count() >= n {
                    return self.seen();
                }
                arrived.await;
            }
        };
        match tokio::time::timeout(PATIENCE, waiting).await {
            Ok(seen) => seen,
            Err(_) => panic!("only {} of {n} requests arrived: {:?}", self.count(), places(&self.seen())),
        }
    }
}

/// Returns (position, attempt) of requests.
pub fn places(seen: &[Seen]) -> Vec<(Position, u32)> {
    seen.iter().map(|s| (s.position, s.attempt)).collect()
}

/// See the module.
pub struct World {
    pub log: EventLog,
    pub views: Views,
    pub queue: Queue,
    pub allot: Allot,
    pub clock: Arc<AtomicI64>,
    pub config: Config,
    pub team: TeamId,
    number: AtomicU64,
    stop: CancellationToken,
    runner: JoinHandle<Result<(), projections::Error>>,
}

impl Drop for World {
    fn drop(&mut self) {
        self.stop.cancel();
        self.runner.abort();
    }
}

pub fn config() -> Config {
    let mut config = Config {
        flush_milliseconds: 5,
        flush_busy_milliseconds: 10,
        poll_milliseconds: 20,
        page_events: 16,
        ..Config::default()
    };
    config.targets.dangerous_allow_http_loopback = true;
    config.schedule.jitter_percent = 0;
    config
}

impl World {
    pub async fn new() -> Self {
        Self::with(config()).await
    }

    pub async fn with(config: Config) -> Self {
        Self::over(store::open().await, config).await
    }

    pub async fn over(store: Store, config: Config) -> Self {
        let Store { backend, work, views } = store;
        assert_eq!(config.problems(), Vec::<String>::new());
        let clock = Arc::new(AtomicI64::new(NOW));
        let of = Arc::clone(&clock);
        let allot = Allot::new(move || of.load(Ordering::SeqCst), Allot::system().entropy());
        let blobs = BlobStore::memory();
        let options = Options::new(MasterKey::new(&[7; 32]), blobs, allot.entropy());
        let log = EventLog::open(backend, options).await.unwrap();
        let stop = CancellationToken::new();
        let runner = tokio::spawn(Runner::new(log.clone(), views.clone()).run(stop.clone()));
        let team = TeamId::new(NOW, allot.random());
        let queue = Queue::new(work);
        let number = AtomicU64::new(0);
        let world = Self { log, views, queue, allot, clock, config, team, number, stop, runner };
        let team = world.team.clone();
        world.create_team(&team).await;
        world
    }

    pub async fn create_team(&self, team: &TeamId) {
        let limits = domain::team::Limits { webhooks: 1_000, ..domain::team::Limits::default() };
        self.tell(team, domain::team::CreateTeam { name: "Acme".into(), limits }).await;
    }

    pub fn now(&self) -> i64 {
        self.clock.load(Ordering::SeqCst)
    }

    pub fn advance(&self, micros: i64) {
        self.clock.fetch_add(micros, Ordering::SeqCst);
    }

    /// Carries a command out and returns where its last event is.
    pub async fn tell<C: Command>(&self, team: &TeamId, command: C) -> Position {
        let submission = Submission::new(team.clone(), self.now(), Actor::Operator, "test", command);
        self.log.transact(submission).await.unwrap().done().unwrap().head.position
    }

    pub async fn mailbox(&self) -> MailboxId {
        self.mailbox_of(&self.team).await
    }

    pub async fn mailbox_of(&self, team: &TeamId) -> MailboxId {
        let mailbox = MailboxId::new(NOW, self.allot.random());
        let n = self.number.fetch_add(1, Ordering::SeqCst);
        let opened = domain::mailbox::Event::Opened(domain::Halves::new(
            domain::mailbox::Opened {
                mailbox: mailbox.clone(),
                domain: DomainId::new(NOW, self.allot.random()),
                quota_bytes: 1 << 30,
                send_scope: domain::mailbox::SendScope::All,
            },
            domain::mailbox::Owner { email: format!("box{n}@example.org"), display_name: None },
        ));
        self.tell(team, Put(domain::Event::Mailbox(opened))).await;
        mailbox
    }

    /// Lets a mail arrive and returns where its event is.
    pub async fn receive(&self, mailbox: &MailboxId) -> Position {
        self.receive_of(&self.team, mailbox).await
    }

    pub async fn receive_of(&self, team: &TeamId, mailbox: &MailboxId) -> Position {
        self.tell(team, self.mail(mailbox)).await
    }

    pub fn mail(&self, mailbox: &MailboxId) -> ReceiveMessage {
        let n = self.number.fetch_add(1, Ordering::SeqCst);
        let facts = Received {
            message: MessageId::new(NOW, self.allot.random()),
            mailbox: mailbox.clone(),
            thread: ThreadId::new(NOW, self.allot.random()),
            folder: Folder::Inbox,
            blob: BlobId::new(NOW, self.allot.random()),
            size_bytes: 1_000,
            sha256: format!("{n:064x}"),
            is_spam: false,
            spam_score: 0,
            spam_rules: vec![],
            attachments: 0,
            authentication: domain::message::Authentication::default(),
            sent_at: Some(NOW),
            parser_version: 1,
            own_report: false,
        };
        let personal = Correspondence {
            mail_from: Some("ann@example.net".into()),
            rcpt_to: vec!["box@example.org".into()],
            from: None,
            to: vec![],
            cc: vec![],
            subject: Some(format!("Hello {n}")),
            preview: "Hello".into(),
            rfc5322_message_id: format!("m{n}@example.net"),
            references: vec![],
            helo: "mx.example.net".into(),
            peer_ip: "192.0.2.1".into(),
            verified_domain: None,
        };
        ReceiveMessage { facts, personal, mail_from: Some("ann@example.net".parse().unwrap()) }
    }

    pub async fn receiver(&self, behaviour: impl Fn(&Seen) -> Manner + Send + Sync + 'static) -> Receiver {
        Receiver::start(behaviour).await
    }

    pub async fn webhook(&self, receiver: &Receiver) -> WebhookId {
        self.webhook_at(&self.team, &format!("http://127.0.0.1:{}/hook", receiver.port), |_| {}).await.0
    }

    /// Creates a webhook told of everything, after the caller's changes.
    pub async fn webhook_at(
        &self,
        team: &TeamId,
        url: &str,
        change: impl FnOnce(&mut CreateWebhook),
    ) -> (WebhookId, Secret) {
        let webhook = WebhookId::new(NOW, self.allot.random());
        let (id, secret) = self.secret();
        let mut command = CreateWebhook {
            webhook: webhook.clone(),
            url: url.to_owned(),
            name: None,
            subscription: Subscription {
                event_types: WebhookEventType::ALL.into_iter().collect(),
                mailboxes: BTreeSet::new(),
            },
            enabled: true,
            secret: id.clone(),
            deliver_after: None,
        };
        change(&mut command);
        let submission = Submission::new(team.clone(), self.now(), Actor::Operator, "test", command);
        let sealed = SecretText::new(secret.expose().as_bytes().to_vec());
        self.log.transact(submission.with_secret(id, "webhook", sealed)).await.unwrap();
        (webhook, secret)
    }

    pub fn secret(&self) -> (SecretId, Secret) {
        let secret = Secret::from_random(&self.allot.random::<32>()).unwrap();
        (SecretId::new(NOW, self.allot.random()), secret)
    }

    pub async fn switch(&self, webhook: &WebhookId, on: bool, backlog: Backlog) -> Position {
        let command = ChangeWebhook {
            webhook: webhook.clone(),
            url: None,
            name: None,
            event_types: None,
            mailboxes: None,
            enabled: Some(on),
            backlog,
            if_version: None,
        };
        self.tell(&self.team, command).await
    }

    pub async fn test(&self, webhook: &WebhookId) -> Position {
        self.tell(&self.team, TestWebhook { webhook: webhook.clone() }).await
    }

    pub async fn state(&self, webhook: &WebhookId) -> Versioned<WebhookEndpoint> {
        self.log.state(&self.team, &[StreamId::Webhook(webhook.clone())]).await.unwrap()
    }

    /// Waits until a webhook counts as failing.
    pub async fn until_failing(&self, webhook: &WebhookId) {
        eventually("the webhook fails", || async { self.state(webhook).await.failing }).await;
    }

    /// Returns the attempts that were written down, oldest first.
    pub async fn attempts(&self, webhook: &WebhookId) -> Vec<webhook_attempts::Row> {
        let (filter, page) = (Filter::default(), Page::first(1_000));
        let work = self.queue.work();
        let paged = webhook_attempts::list(work, &self.team, webhook, &filter, &page, self.now()).await.unwrap();
        paged.rows.into_iter().rev().collect()
    }

    /// Waits until so many attempts of a webhook are written down, and returns them.
    pub async fn written(&self, webhook: &WebhookId, n: usize) -> Vec<webhook_attempts::Row> {
        let waiting = async {
            while self.attempts(webhook).await.len() < n {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        let patience = tokio::time::timeout(PATIENCE, waiting).await;
        let attempts = self.attempts(webhook).await;
        assert!(patience.is_ok(), "only {} of {n} attempts are written: {attempts:#?}", attempts.len());
        attempts
    }

    pub fn reactor(&self, node: &str) -> Reactor {
        let client = self.config.client(Arc::new(HostTable::default())).unwrap();
        let (log, views, queue) = (self.log.clone(), self.views.clone(), self.queue.clone());
        Reactor::new(log, views, queue, client, self.allot.clone(), self.config.clone(), node).unwrap()
    }

    pub fn start(&self) -> Running {
        self.start_as("node")
    }

    pub fn start_as(&self, node: &str) -> Running {
        let reactor = self.reactor(node);
        Running::start(|stop| async { reactor.run(stop).await.unwrap() })
    }
}
