//! A whole API in memory or on PostgreSQL, with a clock that stands still until it is moved.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use api::auth::secret::{Pepper, mint};
use api::{App, Config};
use axum::body::Body;
use axum::http::{HeaderMap, Method, Request, StatusCode};
use bytes::Bytes;
use domain::api_key::{CreateMailboxKey, CreateTeamKey, Kind};
use domain::id::{BlobId, DomainId, MailboxId, MessageId, TeamId};
use domain::mailbox::{OpenMailbox, SendScope};
use domain::message::ReceiveMessage;
use domain::permission::{MAILBOX_PERMISSIONS, Permissions, Preset};
use domain::sending_domain::{AddVerifiedDomain, Mode};
use domain::team::{CreateTeam, Limits};
use domain::{Actor, Command};
use eventlog::postgres::{self, PostgresBackend};
use eventlog::testing::Cluster;
use eventlog::{Allot, Appended, Backend, BlobStore, EventLog, MasterKey, MemoryBackend, Options, Submission};
use projections::webhook_attempts::Work;
use projections::{Runner, Views};
use serde_json::Value;
use tokio::sync::OnceCell;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

use crate::dns::Dns;

/// When every test begins, microseconds since the Unix epoch: 2026-11-21T10:00:00Z.
pub const START: i64 = 1_795_255_200_000_000;
pub const SECOND: i64 = 1_000_000;

pub struct World {
    pub app: App,
    pub router: axum::Router,
    clock: Arc<AtomicI64>,
    dns: Arc<Dns>,
    stop: CancellationToken,
    #[expect(dead_code, reason = "owns the task that keeps the read models")]
    followers: JoinSet<Result<(), projections::Error>>,
}

/// A team with an infrastructure key that may do everything.
#[derive(Clone)]
pub struct Team {
    pub id: TeamId,
    pub domain: String,
    pub root: String,
}

/// A mailbox with its key.
#[derive(Clone)]
pub struct Box_ {
    pub id: MailboxId,
    pub key: String,
}

/// An answer.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("not JSON: {:?}", self.body))
    }

    pub fn data(&self) -> Value {
        let json = self.json();
        assert_eq!(json["ok"], true, "{json}");
        json["data"].clone()
    }

    pub fn header(&self, name: &str) -> String {
        self.headers.get(name).map(|v| v.to_str().unwrap().to_owned()).unwrap_or_default()
    }

    /// Returns the status and the error's code.
    pub fn refusal(&self) -> (u16, String) {
        let json = self.json();
        assert_eq!(json["ok"], false, "{json}");
        (self.status.as_u16(), json["error"]["code"].as_str().unwrap().to_owned())
    }

    /// Returns the first faulty field.
    pub fn param(&self) -> String {
        let json = self.json();
        assert_eq!(json["error"]["param"], json["error"]["errors"][0]["field"]);
        json["error"]["param"].as_str().unwrap_or_default().to_owned()
    }
}

/// A request to be made.
pub struct Call<'a> {
    world: &'a World,
    method: Method,
    path: String,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

impl Call<'_> {
    pub fn key(self, key: &str) -> Self {
        self.header("authorization", &format!("Bearer {key}"))
    }

    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    pub fn json(mut self, body: &Value) -> Self {
        self.body = body.to_string().into_bytes();
        self.header("content-type", "application/json")
    }

    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }

    pub async fn send(self) -> Answer {
        // Links stand beside the API.
        let is_link = self.path.starts_with("/u/") || self.path.starts_with("/o/");
        let prefix = if is_link { "" } else { "/api/v1" };
        let mut request = Request::builder().method(self.method).uri(format!("{prefix}{}", self.path));
        for (name, value) in self.headers {
            request = request.header(name, value);
        }
        self.world.raw(request.body(Body::from(self.body)).unwrap()).await
    }
}

impl World {
    pub async fn new() -> Self {
        Self::with(Config::default()).await
    }

    pub async fn with(config: Config) -> Self {
        assert_eq!(config.problems(), Vec::<String>::new());
        let clock = Arc::new(AtomicI64::new(START));
        let now = Arc::clone(&clock);
        let allot = Allot::new(move || now.load(Ordering::SeqCst), Allot::system().entropy());
        let options = Options::new(MasterKey::new(&[7; 32]), BlobStore::memory(), allot.entropy());
        let (backend, views, attempts) = stores().await;
        let log = EventLog::open(backend, options).await.unwrap();
        let stop = CancellationToken::new();
        let mut followers = JoinSet::new();
        followers.spawn(Runner::new(log.clone(), views.clone()).run(stop.clone()));
        let dns = Arc::new(Dns::default());
        let app = App::new(log, views, allot, Pepper::new([9; 32]), config).with_attempts(attempts);
        let app = app.with_resolver(Arc::<Dns>::clone(&dns));
        Self { router: api::router(app.clone()), app, clock, dns, stop, followers }
    }

    pub fn app_dns(&self) -> &Dns {
        &self.dns
    }

    pub fn now(&self) -> i64 {
        self.clock.load(Ordering::SeqCst)
    }

    pub fn advance(&self, micros: i64) {
        self.clock.fetch_add(micros, Ordering::SeqCst);
    }

    pub async fn raw(&self, request: Request<Body>) -> Answer {
        let response = self.router.clone().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let body = axum::body::to_bytes(body, usize::MAX).await.unwrap();
        Answer { status: parts.status, headers: parts.headers, body }
    }

    pub fn call(&self, method: Method, path: &str) -> Call<'_> {
        Call { world: self, method, path: path.to_owned(), headers: vec![], body: vec![] }
    }

    pub fn get(&self, path: &str) -> Call<'_> {
        self.call(Method::GET, path)
    }

    pub fn post(&self, path: &str) -> Call<'_> {
        self.call(Method::POST, path)
    }

    pub fn patch(&self, path: &str) -> Call<'_> {
        self.call(Method::PATCH, path)
    }

    pub fn put(&self, path: &str) -> Call<'_> {
        self.call(Method::PUT, path)
    }

    pub fn delete(&self, path: &str) -> Call<'_> {
        self.call(Method::DELETE, path)
    }

    /// Carries out a command as the operator and waits until it can be read.
    pub async fn command<C: Command>(&self, team: &TeamId, command: C) -> Appended<C::State> {
        self.submit(Submission::new(team.clone(), self.now(), Actor::Operator, "test", command)).await
    }

    async fn submit<C: Command>(&self, submission: Submission<C>) -> Appended<C::State> {
        let appended = self.app.log.transact(submission).await.unwrap().done().unwrap();
        if let Some(last) = appended.records.last() {
            assert!(self.app.views.wait_for(&last.team, last.position, Duration::from_secs(20)).await);
        }
        appended
    }

    pub async fn team(&self, domain: &str) -> Team {
        self.team_with(domain, Limits::default()).await
    }

    pub async fn team_with(&self, domain: &str, limits: Limits) -> Team {
        let id = TeamId::new(self.now(), self.app.allot.random());
        self.command(&id, CreateTeam { name: format!("Team {domain}"), limits }).await;
        let added = DomainId::new(self.now(), self.app.allot.random());
        let add = AddVerifiedDomain { domain: added, name: domain.to_owned(), mode: Mode::SendReceive };
        self.command(&id, add).await;
        let root = self.team_key(&id, Kind::Infrastructure, Preset::Full.permissions()).await;
        Team { id, domain: domain.to_owned(), root }
    }

    pub async fn team_key(&self, team: &TeamId, kind: Kind, permissions: Permissions) -> String {
        let fresh = mint(&self.app.allot, self.app.auth.pepper(), kind);
        let create = CreateTeamKey { minted: fresh.minted, kind, name: "test".to_owned(), permissions };
        self.command(team, create).await;
        fresh.secret.expose_str().to_owned()
    }

    pub async fn mailbox(&self, team: &Team, local: &str) -> Box_ {
        let fresh = mint(&self.app.allot, self.app.auth.pepper(), Kind::Mailbox);
        let id = MailboxId::new(self.now(), self.app.allot.random());
        let open = OpenMailbox {
            mailbox: id.clone(),
            email: format!("{local}@{}", team.domain).parse().unwrap(),
            display_name: None,
            quota_bytes: 1 << 30,
            send_scope: SendScope::All,
            credential: Some((fresh.minted, Permissions::parse(MAILBOX_PERMISSIONS).unwrap())),
        };
        self.command(&team.id, open).await;
        Box_ { id, key: fresh.secret.expose_str().to_owned() }
    }

    pub async fn mailbox_key(&self, team: &TeamId, mailbox: &MailboxId, permissions: Permissions) -> String {
        let fresh = mint(&self.app.allot, self.app.auth.pepper(), Kind::Mailbox);
        let name = "test".to_owned();
        self.command(team, CreateMailboxKey { minted: fresh.minted, mailbox: mailbox.clone(), name, permissions })
            .await;
        fresh.secret.expose_str().to_owned()
    }

    /// Puts a message into a mailbox as the SMTP door would.
    pub async fn receive(&self, team: &Team, mailbox: &MailboxId, raw: &str) -> MessageId {
        let raw = raw.replace('\n', "\r\n");
        let parsed = mail::message::parse(raw.as_bytes(), &mail::message::ParseLimits::default());
        let message = MessageId::new(self.now(), self.app.allot.random());
        let blob = BlobId::new(self.now(), self.app.allot.random());
        let (mut facts, mut personal) = domain::testing::received_halves(1, mailbox);
        facts.message = message.clone();
        facts.blob = blob.clone();
        facts.size_bytes = i64::try_from(raw.len()).unwrap();
        facts.attachments = u32::try_from(parsed.attachments.len()).unwrap();
        let root = parsed.references.first().or(parsed.message_id.first()).cloned().unwrap_or_default();
        facts.thread = domain::id::ThreadId::rooted_at(mailbox, &root);
        facts.sent_at = parsed.sent_at;
        personal.subject = parsed.subject.clone();
        personal.preview = parsed.preview.clone();
        personal.rfc5322_message_id = parsed.message_id.first().cloned().unwrap_or_default();
        let command = ReceiveMessage { facts, personal, mail_from: Some("ann@example.net".parse().unwrap()) };
        let staged = self.app.log.stage_blob(&team.id, &blob, Bytes::from(raw)).await.unwrap();
        let submission =
            Submission::new(team.id.clone(), self.now(), Actor::Smtp, "smtp", command).with_blob(blob, staged);
        self.submit(submission).await;
        message
    }
}

/// Where a world keeps its log, its read models and the attempts at its deliveries: in memory, or in a database of a
/// cluster that this process was given.
async fn stores() -> (Arc<dyn Backend>, Views, Work) {
    if !Cluster::is_given() {
        return (Arc::new(MemoryBackend::default()), Views::memory().await.unwrap(), Work::memory(&[]).await.unwrap());
    }
    static TEMPLATE: OnceCell<String> = OnceCell::const_new();
    let cluster = Cluster::shared();
    let made = async {
        let name = cluster.create_database(None).await;
        let (backend, views, work) = open(&cluster.url(&name)).await;
        backend.close().await;
        views.close().await;
        work.close().await;
        name
    };
    let template = TEMPLATE.get_or_init(|| made).await;
    let (backend, views, work) = open(&cluster.url(&cluster.create_database(Some(template)).await)).await;
    (Arc::new(backend), views, work)
}

async fn open(url: &str) -> (PostgresBackend, Views, Work) {
    // What is looked at here are statements: nothing is lost if this server crashes.
    let config = postgres::Config { dangerous_unsafe_postgres: true, ..postgres::Config::new(url) };
    let backend = PostgresBackend::open(&config).await.unwrap();
    (backend, Views::open_postgres(url).await.unwrap(), Work::open_postgres(url, &[]).await.unwrap())
}

impl Drop for World {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// A mail with a text, an HTML body and an attachment.
pub const MAIL: &str = "From: Ann <ann@example.net>
To: box@a.test
Reply-To: office@example.net
Subject: Your code
Date: Sat, 21 Nov 2026 09:59:00 +0000
Message-ID: <one@example.net>
MIME-Version: 1.0
Content-Type: multipart/mixed; boundary=outer

--outer
Content-Type: text/plain; charset=utf-8

Your verification code is 123456.

-- 
Ann
--outer
Content-Type: application/pdf; name=\"bill.pdf\"
Content-Disposition: attachment; filename=\"bill.pdf\"
Content-Transfer-Encoding: base64

aGVsbG8gd29ybGQ=
--outer--
";

/// A plain answer to [`MAIL`].
pub const REPLY: &str = "From: Ann <ann@example.net>
To: box@a.test
Subject: Re: Your code
Date: Sat, 21 Nov 2026 10:01:00 +0000
Message-ID: <two@example.net>
In-Reply-To: <one@example.net>
References: <one@example.net>

Never mind.
";
