//! A log, a team with two mailboxes and keys, the router over it, and clients.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU32, Ordering};
use std::time::Duration;

use api::auth::secret::{Fresh, Pepper, mint};
use api::stream::serve::{self, Server};
use api::stream::{self, Streams};
use axum::body::{Body, HttpBody as _};
use axum::http::{Request, Response};
use bytes::Bytes;
use domain::api_key::{CreateMailboxKey, CreateTeamKey, Kind};
use domain::id::{BlobId, DomainId, EventId, MailboxId, MessageId, TeamId};
use domain::permission::{Permissions, Preset};
use domain::testing::received_halves;
use domain::{Actor, Command, StreamId, mailbox, message, sending_domain, team};
use eventlog::sqlite::SqliteBackend;
use eventlog::{Allot, Appended, Backend, BlobStore, EventLog, MasterKey, MemoryBackend, Options, Submission};
use projections::Views;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt as _;

use super::parser::{Dispatched, Parser};

/// How long a test waits for what must come.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// The engines every story runs on.
#[derive(Debug, Clone, Copy)]
pub enum Engine {
    Memory,
    Sqlite,
}

pub const ENGINES: [Engine; 2] = [Engine::Memory, Engine::Sqlite];

/// A log with one team in it, and the API over it.
pub struct World {
    pub log: EventLog,
    pub allot: Allot,
    /// Moves the clock, microseconds.
    pub ahead: Arc<AtomicI64>,
    pub team: TeamId,
    pub mailboxes: [MailboxId; 2],
    /// A mailbox key of the first mailbox.
    pub mailbox_key: Fresh,
    /// A mailbox key of the second mailbox.
    pub other_mailbox_key: Fresh,
    /// An infrastructure key with every permission.
    pub team_key: Fresh,
    pub streams: Streams,
    pub router: axum::Router,
    counter: AtomicU32,
    tasks: TaskTracker,
    stop: CancellationToken,
    directory: Option<tempfile::TempDir>,
}

impl Drop for World {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

pub fn config() -> stream::Config {
    stream::Config {
        streams_per_key_max: 5_000,
        streams_per_mailbox_max: 5_000,
        streams_per_team_max: 5_000,
        ..stream::Config::default()
    }
}

impl World {
    pub async fn on(engine: Engine) -> Self {
        Self::with(engine, config()).await
    }

    pub async fn with(engine: Engine, config: stream::Config) -> Self {
        match engine {
            Engine::Memory => Self::over(Arc::new(MemoryBackend::default()), config, None).await,
            Engine::Sqlite => {
                let directory = tempfile::tempdir().unwrap();
                let backend = Arc::new(SqliteBackend::open(&directory.path().join("log.db")).await.unwrap());
                Self::over(backend, config, Some(directory)).await
            }
        }
    }

    pub async fn over(backend: Arc<dyn Backend>, config: stream::Config, directory: Option<tempfile::TempDir>) -> Self {
        let ahead = Arc::new(AtomicI64::new(0));
        let (system, offset) = (Allot::system(), Arc::clone(&ahead));
        let entropy = system.entropy();
        let allot = Allot::new(move || system.now() + offset.load(Ordering::Relaxed), entropy);
        let log = open(backend, &allot).await;
        let pepper = Pepper::new([9; 32]);
        let team = TeamId::new(allot.now(), allot.random());
        let mailboxes = [(); 2].map(|()| MailboxId::new(allot.now(), allot.random()));
        let mailbox_key = mint(&allot, &pepper, Kind::Mailbox);
        let other_mailbox_key = mint(&allot, &pepper, Kind::Mailbox);
        let team_key = mint(&allot, &pepper, Kind::Infrastructure);
        let (streams, router) = api_over(&log, &allot, config).await;
        let world = Self {
            log,
            allot,
            ahead,
            team,
            mailboxes,
            mailbox_key,
            other_mailbox_key,
            team_key,
            streams,
            router,
            counter: AtomicU32::new(0),
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
            directory,
        };
        world.found().await;
        world
    }

    async fn found(&self) {
        let limits = team::Limits { mailboxes: 1_000, active_keys: 10_000, ..team::Limits::default() };
        self.submit(team::CreateTeam { name: "Acme".into(), limits }).await;
        self.submit(sending_domain::AddVerifiedDomain {
            domain: DomainId::new(self.allot.now(), self.allot.random()),
            // Domains are unique over all teams.
            name: format!("{}.example", self.team.as_str().trim_start_matches("team_")),
            mode: sending_domain::Mode::SendReceive,
        })
        .await;
        let keys = [&self.mailbox_key, &self.other_mailbox_key];
        for (n, (mailbox, key)) in self.mailboxes.iter().zip(keys).enumerate() {
            self.open_mailbox(mailbox, &format!("box{n}")).await;
            self.give_key(mailbox, key).await;
        }
        self.submit(CreateTeamKey {
            minted: self.team_key.minted.clone(),
            kind: Kind::Infrastructure,
            name: "all".into(),
            permissions: Preset::Full.permissions(),
        })
        .await;
    }

    pub async fn open_mailbox(&self, mailbox: &MailboxId, local_part: &str) {
        let domain = self.team.as_str().trim_start_matches("team_");
        self.submit(mailbox::OpenMailbox {
            mailbox: mailbox.clone(),
            email: mail::address::Address::parse(&format!("{local_part}@{domain}.example")).unwrap(),
            display_name: None,
            quota_bytes: 1 << 40,
            send_scope: mailbox::SendScope::All,
            credential: None,
        })
        .await;
    }

    pub async fn give_key(&self, mailbox: &MailboxId, key: &Fresh) {
        self.submit(CreateMailboxKey {
            minted: key.minted.clone(),
            mailbox: mailbox.clone(),
            name: "agent".into(),
            permissions: Permissions::parse(["mailbox.read", "email.receive"]).unwrap(),
        })
        .await;
    }

    pub async fn submit<C: Command>(&self, command: C) -> Appended<C::State> {
        let submission = Submission::new(self.team.clone(), self.allot.now(), Actor::Operator, "req_test", command);
        self.log.transact(submission).await.unwrap().done().unwrap()
    }

    /// Takes a mail into the first mailbox; returns the event's id.
    pub async fn receive(&self) -> EventId {
        self.receive_in(0, false).await
    }

    /// Takes a mail into a mailbox, perhaps as spam; returns the event's id.
    pub async fn receive_in(&self, mailbox: usize, spam: bool) -> EventId {
        let n = self.counter.fetch_add(1, Ordering::Relaxed);
        self.receive_raw(mailbox, spam, format!("Subject: mail {n}\r\n\r\nHello, this is mail {n}.\r\n").into()).await
    }

    pub async fn receive_raw(&self, mailbox: usize, spam: bool, raw: Bytes) -> EventId {
        let (mut facts, personal) = received_halves(1, &self.mailboxes[mailbox]);
        facts.message = MessageId::new(self.allot.now(), self.allot.random());
        facts.blob = BlobId::new(self.allot.now(), self.allot.random());
        facts.size_bytes = i64::try_from(raw.len()).unwrap();
        facts.is_spam = spam;
        let staged = self.log.stage_blob(&self.team, &facts.blob, raw).await.unwrap();
        let (blob, stream) = (facts.blob.clone(), StreamId::Message(facts.message.clone()));
        let command = message::ReceiveMessage { facts, personal, mail_from: None };
        let submission = Submission::new(self.team.clone(), self.allot.now(), Actor::Smtp, "req_test", command)
            .fresh(stream)
            .with_blob(blob, staged);
        self.log.transact(submission).await.unwrap().done().unwrap().records[0].id()
    }

    /// The id of the last event there is.
    pub async fn head_id(&self) -> EventId {
        let head = self.log.head(&self.team).await.unwrap().position;
        self.log.read(&self.team, head - 1, 1).await.unwrap()[0].id()
    }

    /// Lets something run beside the test until its world ends.
    pub fn beside(&self, what: impl Future<Output = ()> + Send + 'static) {
        let stop = self.stop.clone();
        self.tasks.spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = what => {}
            }
        });
    }

    /// Serves the router on a loopback port.
    pub async fn listen(&self, config: serve::Config) -> SocketAddr {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        self.beside(Server::new(listener, self.router.clone(), config).run(self.stop.clone()));
        address
    }

    /// Asks the router; the answer may be an open stream.
    pub async fn ask(&self, key: &Fresh, path: &str, last_event_id: Option<&str>) -> Response<Body> {
        ask(&self.router, key, path, last_event_id).await
    }

    /// Opens the first mailbox's stream.
    pub async fn open(&self, query: &str, last_event_id: Option<&str>) -> Reader {
        let path = format!("/mailbox/events{query}");
        Reader::new(self.ask(&self.mailbox_key, &path, last_event_id).await)
    }

    /// Opens the team's stream.
    pub async fn open_team(&self, query: &str, last_event_id: Option<&str>) -> Reader {
        let path = format!("/events/stream{query}");
        Reader::new(self.ask(&self.team_key, &path, last_event_id).await)
    }

    pub fn directory(&self) -> &Path {
        self.directory.as_ref().unwrap().path()
    }

    /// Waits until so many streams are open.
    pub async fn until_open(&self, count: usize) {
        until(|| self.streams.open() == count).await;
    }
}

/// Waits until something holds.
pub async fn until(holds: impl Fn() -> bool) {
    let waiting = async {
        while !holds() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, waiting).await.expect("it should have come to hold");
}

pub async fn open(backend: Arc<dyn Backend>, allot: &Allot) -> EventLog {
    let options = Options::new(MasterKey::new(&[1; 32]), BlobStore::memory(), allot.entropy());
    EventLog::open(backend, options).await.unwrap()
}

pub async fn api_over(log: &EventLog, allot: &Allot, config: stream::Config) -> (Streams, axum::Router) {
    let streams = Streams::new(log.clone(), allot.clone(), config);
    let rate_limits =
        api::RateLimits { mailbox_requests: u32::MAX, infrastructure_requests: u32::MAX, ..api::RateLimits::default() };
    // Nothing here reads the read models, and nobody computes them.
    let http = api::Config { rate_limits, read_your_writes_milliseconds_max: 0, ..api::Config::default() };
    let views = Views::memory().await.unwrap();
    let app =
        api::App::new(log.clone(), views, allot.clone(), Pepper::new([9; 32]), http).with_streams(streams.clone());
    let router = api::router(app);
    (streams, router)
}

pub async fn ask(router: &axum::Router, key: &Fresh, path: &str, last_event_id: Option<&str>) -> Response<Body> {
    let mut request = Request::get(format!("/api/v1{path}"))
        .header("authorization", format!("Bearer {}", key.secret.expose_str()))
        .header("accept", "application/json");
    if let Some(id) = last_event_id {
        request = request.header("last-event-id", id);
    }
    router.clone().oneshot(request.body(Body::empty()).unwrap()).await.unwrap()
}

pub async fn json(response: Response<Body>) -> serde_json::Value {
    let bytes = axum::body::to_bytes(response.into_body(), 10 << 20).await.unwrap();
    serde_json::from_slice(&bytes).unwrap()
}

/// A stream read through the router, without a socket.
pub struct Reader {
    body: Body,
    pub parser: Parser,
    pub raw: Vec<u8>,
    ready: std::collections::VecDeque<Dispatched>,
    pub ended: bool,
}

impl Reader {
    pub fn new(response: Response<Body>) -> Self {
        assert_eq!(response.status(), 200);
        Self {
            body: response.into_body(),
            parser: Parser::default(),
            raw: vec![],
            ready: std::collections::VecDeque::new(),
            ended: false,
        }
    }

    /// Waits for the next chunk; `None` at the end.
    pub async fn chunk(&mut self) -> Option<Bytes> {
        let frame = std::future::poll_fn(|cx| std::pin::Pin::new(&mut self.body).poll_frame(cx)).await;
        let Some(frame) = frame else {
            self.ended = true;
            return None;
        };
        let chunk = frame.unwrap().into_data().unwrap();
        self.raw.extend_from_slice(&chunk);
        self.ready.extend(self.parser.feed(&chunk));
        Some(chunk)
    }

    /// Waits for the next event; `None` at the end of the stream.
    pub async fn next(&mut self) -> Option<Dispatched> {
        let read = async {
            while self.ready.is_empty() {
                self.chunk().await?;
            }
            self.ready.pop_front()
        };
        // With time standing still there is nothing to wait for.
        tokio::time::timeout(PATIENCE, read).await.expect("the next event should have come")
    }

    /// Waits for so many events.
    pub async fn take(&mut self, count: usize) -> Vec<Dispatched> {
        let mut events = vec![];
        while events.len() < count {
            events.push(self.next().await.expect("the stream should have gone on"));
        }
        events
    }

    /// What can be read without waiting.
    pub async fn at_once(&mut self) -> Vec<Dispatched> {
        use futures_util::FutureExt as _;
        while self.chunk().now_or_never().flatten().is_some() {}
        self.ready.drain(..).collect()
    }

    /// Reads to the end.
    pub async fn rest(&mut self) -> Vec<Dispatched> {
        let read = async { while self.chunk().await.is_some() {} };
        tokio::time::timeout(PATIENCE, read).await.expect("the stream should have ended");
        self.ready.drain(..).collect()
    }
}

/// The ids of events.
pub fn ids(events: &[Dispatched]) -> Vec<String> {
    events.iter().map(|e| e.id.clone()).collect()
}

/// A stream read from a socket by a client that decodes chunks (RFC 9112 section 7.1) itself.
pub struct Socket {
    pub stream: TcpStream,
    pub head: String,
    pub headers: BTreeMap<String, String>,
    undecoded: Vec<u8>,
    pub parser: Parser,
    ready: std::collections::VecDeque<Dispatched>,
    pub ended: bool,
}

pub fn request(key: &Fresh, path: &str, last_event_id: Option<&str>) -> String {
    let resume = last_event_id.map(|id| format!("Last-Event-ID: {id}\r\n")).unwrap_or_default();
    let secret = key.secret.expose_str();
    format!("GET /api/v1{path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {secret}\r\n{resume}\r\n")
}

impl Socket {
    pub async fn open(to: SocketAddr, key: &Fresh, path: &str, last_event_id: Option<&str>) -> Self {
        let mut stream = TcpStream::connect(to).await.unwrap();
        stream.write_all(request(key, path, last_event_id).as_bytes()).await.unwrap();
        Self::read_head(stream).await
    }

    pub async fn read_head(mut stream: TcpStream) -> Self {
        let mut bytes = vec![];
        let end = loop {
            if let Some(end) = bytes.windows(4).position(|w| w == b"\r\n\r\n") {
                break end;
            }
            assert!(stream.read_buf(&mut bytes).await.unwrap() > 0, "the head should have come");
        };
        let head = String::from_utf8(bytes[..end].to_vec()).unwrap();
        let headers = head.lines().skip(1).filter_map(|l| l.split_once(": "));
        let headers = headers.map(|(n, v)| (n.to_lowercase(), v.to_owned())).collect();
        let undecoded = bytes[end + 4..].to_vec();
        let ready = std::collections::VecDeque::new();
        Self { stream, head, headers, undecoded, parser: Parser::default(), ready, ended: false }
    }

    /// Decodes what is there; returns whether anything was.
    fn decode(&mut self) -> bool {
        let Some(line) = self.undecoded.windows(2).position(|w| w == b"\r\n") else { return false };
        let size = usize::from_str_radix(std::str::from_utf8(&self.undecoded[..line]).unwrap(), 16).unwrap();
        if self.undecoded.len() < line + 2 + size + 2 {
            return false;
        }
        let chunk: Vec<u8> = self.undecoded.drain(..line + 2 + size + 2).skip(line + 2).collect();
        assert_eq!(&chunk[size..], b"\r\n");
        self.ready.extend(self.parser.feed(&chunk[..size]));
        self.ended |= size == 0;
        true
    }

    /// Waits for the next event; `None` when the connection ends.
    pub async fn next(&mut self) -> Option<Dispatched> {
        let read = async {
            loop {
                if let Some(event) = self.ready.pop_front() {
                    return Some(event);
                }
                if !self.decode() && self.stream.read_buf(&mut self.undecoded).await.unwrap_or(0) == 0 {
                    return None;
                }
            }
        };
        tokio::time::timeout(PATIENCE, read).await.expect("the next event should have come")
    }

    /// Reads at most so many bytes, feeds them to the parser as far as chunks go, even half chunks, and cuts.
    pub async fn cut_after(mut self, bytes: usize) -> (Vec<Dispatched>, String) {
        let mut got = std::mem::take(&mut self.undecoded);
        while got.len() < bytes {
            let n = self.stream.read_buf(&mut got).await.unwrap_or(0);
            if n == 0 {
                break;
            }
        }
        got.truncate(bytes);
        let mut events = vec![];
        // A client hands on what it has of a chunk before the chunk is whole.
        let mut rest = &got[..];
        while let Some(line) = rest.windows(2).position(|w| w == b"\r\n") {
            let Ok(size) = usize::from_str_radix(std::str::from_utf8(&rest[..line]).unwrap(), 16) else { break };
            let data = &rest[line + 2..];
            events.extend(self.parser.feed(&data[..size.min(data.len())]));
            rest = data.get(size + 2..).unwrap_or_default();
        }
        (events, self.parser.last_event_id)
    }
}
