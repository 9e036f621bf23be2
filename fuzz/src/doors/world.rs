//! An installation in memory with one team that has one of everything.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use api::auth::secret::{Pepper, mint};
use api::{App, Config, RateLimits};
use axum::body::{Body, HttpBody as _};
use axum::http::{HeaderName, Method, Request, StatusCode};
use bytes::Bytes;
use domain::api_key::{CreateTeamKey, Kind};
use domain::balance::ChangeCreditLimit;
use domain::id::{BlobId, DomainId, EventId, MailboxId, MessageId, ProviderId, TeamId, ThreadId};
use domain::mailbox::{OpenMailbox, SendScope};
use domain::message::ReceiveMessage;
use domain::money::Nanos;
use domain::permission::{MAILBOX_PERMISSIONS, Permissions, Preset};
use domain::provider::{CreateProvider, Identity, Quotas, Settings, Transport};
use domain::sending_domain::{AddVerifiedDomain, Mode};
use domain::team::{CreateTeam, Limits};
use domain::{Actor, Command};
use eventlog::{Allot, BlobStore, EventLog, MasterKey, MemoryBackend, Options, Submission};
use projections::webhook_attempts::Work;
use projections::{Runner, Views};
use serde_json::{Value, json};
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt as _;

use super::RUNS_PER_WORLD;

/// 2026-11-21T10:00:00Z in microseconds since the Unix epoch.
const START: i64 = 1_795_255_200_000_000;

/// One operation of the API document.
#[derive(Debug, Clone)]
pub struct Operation {
    pub method: Method,
    pub path: String,
    pub of_mailbox: bool,
    pub has_body: bool,
}

impl Operation {
    /// Returns whether it reads and comes to an end in the envelope: streams do not, and the document has a form of its own.
    pub fn is_list(&self) -> bool {
        let other = ["/mailbox/events", "/events/stream", "/openapi.json"];
        self.method == Method::GET && !other.contains(&self.path.as_str())
    }
}

/// A whole answer.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub is_json: bool,
    pub body: Bytes,
    pub json: Value,
}

/// The beginning of a stream.
#[derive(Debug)]
pub struct Begun {
    pub status: StatusCode,
    pub text: String,
}

pub struct World {
    runtime: Runtime,
    router: axum::Router,
    log: EventLog,
    operations: Vec<Operation>,
    things: BTreeMap<&'static str, String>,
    pub team: TeamId,
    root: String,
    mailbox_key: String,
    stop: CancellationToken,
}

impl Drop for World {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

thread_local! {
    static WORLD: RefCell<Option<(World, usize)>> = const { RefCell::new(None) };
}

impl World {
    /// Runs something with an installation that is not too old.
    pub fn with(run: impl FnOnce(&Self)) {
        WORLD.with_borrow_mut(|slot| {
            if slot.as_ref().is_none_or(|(_, runs)| *runs >= RUNS_PER_WORLD) {
                *slot = Some((Self::new(), 0));
            }
            let (world, runs) = slot.as_mut().expect("it was just made");
            *runs += 1;
            run(world);
        });
    }

    fn new() -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let clock = Arc::new(AtomicI64::new(START));
        // Time goes on with every look at it, so that ids made one after the other differ.
        let allot = Allot::new(move || clock.fetch_add(10, Ordering::Relaxed), Allot::system().entropy());
        let stop = CancellationToken::new();
        let made = runtime.block_on(Made::new(&allot, &stop));
        let mut world = Self {
            runtime,
            router: made.router,
            log: made.log,
            operations: operations(),
            things: made.things,
            team: made.team,
            root: made.root,
            mailbox_key: made.mailbox_key,
            stop,
        };
        world.make_things();
        world
    }

    /// Makes by the API what can be made by it.
    fn make_things(&mut self) {
        let hook = json!({"url": "https://hooks.example.com/in", "event_types": ["message.received"]});
        let webhook = self.made("/webhooks", false, &hook);
        let group = self.made("/delivery-groups", false, &json!({"name": "x"}));
        let listed = self.made("/suppressions", false, &json!({"email": "never@example.net"}));
        let key = self.made("/keys", false, &json!({"name": "x", "kind": "sending", "permissions": ["email.send"]}));
        let mail = json!({"to": [{"email": "bob@example.net"}], "subject": "Hi", "text_body": "Hi"});
        let sent = self.made("/mailbox/messages/send", true, &mail);
        let file = json!({"filename": "a.txt", "size_bytes": 3, "content_type": "text/plain"});
        let upload = self.made("/mailbox/attachment-uploads", true, &file);
        let id = |value: &Value, field: &str| value[field].as_str().unwrap_or("none").to_owned();
        self.things.extend([
            ("/webhooks", id(&webhook, "id")),
            ("/delivery-groups", id(&group, "id")),
            ("/suppressions", id(&listed, "id")),
            ("/keys", id(&key, "id")),
            ("/emails", id(&sent, "email_id")),
            ("/mailbox/submissions", id(&sent, "submission_id")),
            ("/mailbox/attachment-uploads", id(&upload, "upload_id")),
        ]);
    }

    fn made(&self, path: &str, of_mailbox: bool, body: &Value) -> Value {
        let answer = self.call(Method::POST, path, of_mailbox, &[], body.to_string().into_bytes());
        assert!(answer.status.is_success(), "{path}: {}", answer.json);
        answer.json["data"].clone()
    }

    /// Returns the operation that a line names, or one that it stands for.
    pub fn operation(&self, line: &[u8], wanted: impl Fn(&Operation) -> bool) -> &Operation {
        let line = String::from_utf8_lossy(line);
        let candidates: Vec<_> = self.operations.iter().filter(|operation| wanted(operation)).collect();
        let named = candidates.iter().find(|o| format!("{} {}", o.method, o.path) == line);
        let some = line.bytes().map(usize::from).sum::<usize>() % candidates.len();
        named.copied().unwrap_or(candidates[some])
    }

    /// Returns the path of an operation with the ids of this team's things in it.
    pub fn path_of(&self, operation: &Operation) -> String {
        let mut path = String::new();
        let mut before = String::new();
        for segment in operation.path.split('/').skip(1) {
            path.push('/');
            if segment.starts_with('{') {
                let thing =
                    self.things.iter().filter(|(place, _)| before.ends_with(*place)).max_by_key(|(p, _)| p.len());
                path.push_str(thing.map_or("none", |(_, id)| id.as_str()));
            } else {
                path.push_str(segment);
            }
            before = format!("{before}/{segment}");
        }
        path
    }

    /// Makes a request and returns its whole answer.
    pub fn call(
        &self,
        method: Method,
        path: &str,
        of_mailbox: bool,
        headers: &[(HeaderName, &[u8])],
        body: Vec<u8>,
    ) -> Answer {
        let request = self.request(method, path, of_mailbox, headers, body);
        self.runtime.block_on(async {
            let response = self.router.clone().oneshot(request).await.expect("the router answers");
            let status = response.status();
            let is_json = response.headers().get("content-type").is_some_and(|of| of == "application/json");
            let body = axum::body::to_bytes(response.into_body(), 64 << 20).await.expect("a whole answer");
            Answer { status, is_json, json: serde_json::from_slice(&body).unwrap_or_default(), body }
        })
    }

    fn request(
        &self,
        method: Method,
        path: &str,
        of_mailbox: bool,
        headers: &[(HeaderName, &[u8])],
        body: Vec<u8>,
    ) -> Request<Body> {
        let key = if of_mailbox { &self.mailbox_key } else { &self.root };
        let request = Request::builder().method(method).uri(format!("/api/v1{path}"));
        let request = request.header("authorization", format!("Bearer {key}")).header("content-length", body.len());
        let request = headers.iter().fold(request, |request, (name, value)| request.header(name, *value));
        request.body(Body::from(body)).expect("a request")
    }

    /// Opens a stream and returns what it says before it waits.
    pub fn begin_stream(&self, path: &str, of_mailbox: bool, last_event_id: Option<&[u8]>) -> Begun {
        let id = last_event_id.map(|id| (HeaderName::from_static("last-event-id"), id));
        let headers: Vec<_> = id.into_iter().collect();
        let request = self.request(Method::GET, path, of_mailbox, &headers, vec![]);
        self.runtime.block_on(async {
            let response = self.router.clone().oneshot(request).await.expect("the router answers");
            let status = response.status();
            let mut body = std::pin::pin!(response.into_body());
            let mut text = String::new();
            // The log is in memory: what a stream has to say at once it says without waiting.
            let patience = Duration::from_millis(5);
            while let Ok(Some(Ok(frame))) =
                tokio::time::timeout(patience, std::future::poll_fn(|cx| body.as_mut().poll_frame(cx))).await
            {
                let data = frame.into_data().unwrap_or_default();
                text.push_str(std::str::from_utf8(&data).expect("a stream is UTF-8"));
            }
            Begun { status, text }
        })
    }

    /// Returns whether the log still goes on after an event of this team.
    pub fn may_resume_after(&self, id: &EventId) -> bool {
        let head = self.runtime.block_on(self.log.head(&self.team)).expect("the log answers");
        id.epoch == EventId::new(&self.team, 1, 1).epoch && id.position <= head.position
    }
}

fn operations() -> Vec<Operation> {
    let document = serde_json::to_value(api::document()).expect("the document is JSON");
    let mut operations = vec![];
    for (path, item) in document["paths"].as_object().into_iter().flatten() {
        for (method, operation) in item.as_object().into_iter().flatten() {
            let surface = operation["x-postlog-surface"].as_str().unwrap_or_default();
            operations.push(Operation {
                method: method.to_uppercase().parse().expect("a method"),
                path: path.clone(),
                of_mailbox: matches!(surface, "mailbox" | "sending"),
                has_body: operation.get("requestBody").is_some(),
            });
        }
    }
    operations
}

/// What is made by commands.
struct Made {
    router: axum::Router,
    log: EventLog,
    team: TeamId,
    root: String,
    mailbox_key: String,
    things: BTreeMap<&'static str, String>,
}

impl Made {
    async fn new(allot: &Allot, stop: &CancellationToken) -> Self {
        let options = Options::new(MasterKey::new(&[7; 32]), BlobStore::memory(), allot.entropy());
        let log = EventLog::open(Arc::new(MemoryBackend::default()), options).await.expect("a log in memory");
        let views = Views::memory().await.expect("views in memory");
        let followers = TaskTracker::new();
        followers.spawn(Runner::new(log.clone(), views.clone()).run(stop.clone()));
        let rate_limits =
            RateLimits { infrastructure_requests: u32::MAX, mailbox_requests: u32::MAX, ..RateLimits::default() };
        let pepper = Pepper::new([9; 32]);
        let attempts = Work::memory(&[]).await.expect("work in memory");
        let config = Config { rate_limits, ..Config::default() };
        let streams = api::stream::Config {
            streams_per_key_max: 1_000_000,
            streams_per_mailbox_max: 1_000_000,
            streams_per_team_max: 1_000_000,
            ..api::stream::Config::default()
        };
        let streams = api::stream::Streams::new(log.clone(), allot.clone(), streams);
        let app = App::new(log.clone(), views.clone(), allot.clone(), pepper.clone(), config);
        let app = app.with_attempts(attempts).with_streams(streams);
        let team = TeamId::new(allot.now(), allot.random());
        let does = Does { log: &log, allot, team: &team, views: &views };
        let limits = Limits { active_keys: 1_000_000, mailboxes: 1_000_000, ..Limits::default() };
        does.command(CreateTeam { name: "Team".to_owned(), limits }).await;
        let domain = DomainId::new(allot.now(), allot.random());
        let add = AddVerifiedDomain { domain: domain.clone(), name: "a.test".to_owned(), mode: Mode::SendReceive };
        does.command(add).await;
        let root = mint(allot, &pepper, Kind::Infrastructure);
        let permissions = Preset::Full.permissions();
        let create =
            CreateTeamKey { minted: root.minted, kind: Kind::Infrastructure, name: "x".to_owned(), permissions };
        does.command(create).await;
        let (mailbox, mailbox_key) = does.mailbox(&pepper).await;
        let message = does.message(&mailbox).await;
        let provider = does.account().await;
        let things = BTreeMap::from([
            ("/domains", domain.to_string()),
            ("/mailboxes", mailbox.to_string()),
            ("/mailbox/messages", message.to_string()),
            ("/mailbox/threads", ThreadId::rooted_at(&mailbox, "one@example.net").to_string()),
            ("/attachments", "att_2".to_owned()),
            ("/folders", "inbox".to_owned()),
            ("/providers", provider.to_string()),
        ]);
        let root = root.secret.expose_str().to_owned();
        Self { router: api::router(app), log, team, root, mailbox_key, things }
    }
}

/// Carries out commands as the operator.
struct Does<'a> {
    log: &'a EventLog,
    allot: &'a Allot,
    team: &'a TeamId,
    views: &'a Views,
}

impl Does<'_> {
    async fn command<C: Command>(&self, command: C) {
        self.submit(Submission::new(self.team.clone(), self.allot.now(), Actor::Operator, "fuzz", command)).await;
    }

    async fn submit<C: Command>(&self, submission: Submission<C>) {
        let done = self.log.transact(submission).await.expect("the log takes it").done();
        let appended = done.expect("a command of the world is accepted");
        if let Some(last) = appended.records.last() {
            assert!(self.views.wait_for(&last.team, last.position, Duration::from_secs(20)).await);
        }
    }

    async fn mailbox(&self, pepper: &Pepper) -> (MailboxId, String) {
        let fresh = mint(self.allot, pepper, Kind::Mailbox);
        let mailbox = MailboxId::new(self.allot.now(), self.allot.random());
        let permissions = Permissions::parse(MAILBOX_PERMISSIONS).expect("known permissions");
        let open = OpenMailbox {
            mailbox: mailbox.clone(),
            email: "box@a.test".parse().expect("an address"),
            display_name: None,
            quota_bytes: 1 << 30,
            send_scope: SendScope::All,
            credential: Some((fresh.minted, permissions)),
        };
        self.command(open).await;
        (mailbox, fresh.secret.expose_str().to_owned())
    }

    async fn message(&self, mailbox: &MailboxId) -> MessageId {
        const RAW: &[u8] = b"From: ann@example.net\r\nSubject: Hi\r\nMessage-ID: <one@example.net>\r\n\r\nHi.\r\n";
        let message = MessageId::new(self.allot.now(), self.allot.random());
        let blob = BlobId::new(self.allot.now(), self.allot.random());
        let (mut facts, mut personal) = domain::testing::received_halves(1, mailbox);
        (facts.message, facts.blob) = (message.clone(), blob.clone());
        facts.thread = ThreadId::rooted_at(mailbox, "one@example.net");
        personal.rfc5322_message_id = "one@example.net".to_owned();
        let mail_from = Some("ann@example.net".parse().expect("an address"));
        let command = ReceiveMessage { facts, personal, mail_from };
        let staged = self.log.stage_blob(self.team, &blob, Bytes::from_static(RAW)).await.expect("it is small");
        let now = self.allot.now();
        self.submit(Submission::new(self.team.clone(), now, Actor::Smtp, "smtp", command).with_blob(blob, staged))
            .await;
        message
    }

    async fn account(&self) -> ProviderId {
        self.command(ChangeCreditLimit { credit_limit: Nanos::DOLLAR }).await;
        let provider = ProviderId::new(self.allot.now(), self.allot.random());
        let create = CreateProvider {
            provider: provider.clone(),
            settings: Settings { transport: Transport::Sandbox, percentage: None, quotas: Quotas::default() },
            identity: Identity { name: "Sandbox".to_owned(), ..Identity::default() },
            managed: false,
            secret: None,
        };
        self.command(create).await;
        provider
    }
}
