//! A door on a free port of the loopback, a log behind it, and a client that speaks byte by byte.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use api::auth::secret::Pepper;
use api::receive::{Receiver, Returns};
use api::smtp::{Config, Listener, Tls};
use bytes::Bytes;
use domain::id::{BlobId, DomainId, MailboxId, TeamId};
use domain::mailbox::{OpenMailbox, SendScope};
use domain::message::{Correspondence, Received};
use domain::sending_domain::{AddVerifiedDomain, Mode};
use domain::team::{CreateTeam, Limits};
use domain::{Actor, Command, Event};
use eventlog::sqlite::SqliteBackend;
use eventlog::{Allot, Backend, BlobStore, EventLog, MasterKey, MemoryBackend, Options, Submission};
use mail::auth::Resolver;
use projections::{Runner, Views};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::backends::Faulty;

/// Nothing in these tests takes this long unless it hangs.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Where the log is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Store {
    Memory,
    Sqlite,
}

pub const STORES: [Store; 2] = [Store::Memory, Store::Sqlite];

/// A running door.
pub struct Door {
    pub address: SocketAddr,
    pub log: EventLog,
    pub views: Views,
    pub allot: Allot,
    pub faults: Arc<Faulty>,
    pub waits: mpsc::Receiver<()>,
    pub stop: CancellationToken,
    pub tasks: JoinSet<Result<(), api::smtp::Error>>,
    #[expect(dead_code, reason = "owns the task")]
    followers: JoinSet<Result<(), projections::Error>>,
    _directory: tempfile::TempDir,
}

/// A configuration for tests: a free port, no patience with guessers.
pub fn config() -> Config {
    Config { listen: vec!["127.0.0.1:0".parse().unwrap()], hostname: "mx.test".into(), ..Config::default() }
}

impl Door {
    pub async fn open(store: Store) -> Self {
        Self::with(store, config(), None).await
    }

    pub async fn with(store: Store, config: Config, tls: Option<Tls>) -> Self {
        Self::verifying(store, config, tls, None).await
    }

    pub async fn verifying(
        store: Store,
        config: Config,
        tls: Option<Tls>,
        resolver: Option<Arc<dyn Resolver>>,
    ) -> Self {
        assert_eq!(config.problems(), Vec::<String>::new());
        let directory = tempfile::tempdir().unwrap();
        let inner: Arc<dyn Backend> = match store {
            Store::Memory => Arc::new(MemoryBackend::default()),
            Store::Sqlite => Arc::new(SqliteBackend::open(&directory.path().join("log.db")).await.unwrap()),
        };
        let (faults, waits) = Faulty::new(inner);
        let allot = Allot::system();
        let options = Options::new(MasterKey::new(&[7; 32]), BlobStore::memory(), allot.entropy());
        let log = EventLog::open(faults.clone(), options).await.unwrap();
        let views = Views::memory().await.unwrap();
        let receiver = Receiver::new(log.clone(), views.clone(), allot.clone(), config.receive_options(), resolver);
        let key = Pepper::new([9; 32]).return_path_key();
        let receiver = receiver.with_returns(Returns { key, domain: Some("bounce.test".to_owned()) });
        let listener = Listener::bind(config, receiver, allot.clone(), tls).await.unwrap();
        let address = listener.addresses()[0];
        let (stop, mut tasks, mut followers) = (CancellationToken::new(), JoinSet::new(), JoinSet::new());
        followers.spawn(Runner::new(log.clone(), views.clone()).run(stop.clone()));
        tasks.spawn(listener.run(stop.clone()));
        Self { address, log, views, allot, faults, waits, stop, tasks, followers, _directory: directory }
    }

    pub async fn run<C: Command>(&self, team: &TeamId, command: C) {
        let submission = Submission::new(team.clone(), self.allot.now(), Actor::Operator, "test", command);
        self.log.transact(submission).await.map(|_| ()).unwrap();
    }

    /// Makes a team with a domain that receives.
    pub async fn team(&self, domain: &str) -> TeamId {
        let team = TeamId::new(self.allot.now(), self.allot.random());
        self.run(&team, CreateTeam { name: domain.into(), limits: Limits::default() }).await;
        self.domain(&team, domain, Mode::SendReceive).await;
        team
    }

    pub async fn domain(&self, team: &TeamId, name: &str, mode: Mode) {
        let domain = DomainId::new(self.allot.now(), self.allot.random());
        self.run(team, AddVerifiedDomain { domain, name: name.into(), mode }).await;
    }

    pub async fn mailbox(&self, team: &TeamId, address: &str) -> MailboxId {
        let mailbox = MailboxId::new(self.allot.now(), self.allot.random());
        let command = OpenMailbox {
            mailbox: mailbox.clone(),
            email: address.parse().unwrap(),
            display_name: None,
            quota_bytes: 1 << 30,
            send_scope: SendScope::All,
            credential: None,
        };
        self.run(team, command).await;
        mailbox
    }

    /// Returns both halves of every mail a team has received.
    pub async fn mails(&self, team: &TeamId) -> Vec<(Received, Correspondence)> {
        let records = self.log.read(team, 0, 10_000).await.unwrap();
        let mail = |event: Event| match event {
            Event::Message(domain::message::Event::Received(e)) => {
                Some((e.facts, e.personal.known().cloned().unwrap()))
            }
            _ => None,
        };
        records.into_iter().filter_map(|record| mail(record.event)).collect()
    }

    /// Waits until the projections show everything a team's log holds.
    pub async fn projected(&self, team: &TeamId) {
        let head = self.log.head(team).await.unwrap().position;
        assert!(self.views.wait_for(team, head, PATIENCE).await, "the projections lag");
    }

    pub async fn raw(&self, team: &TeamId, blob: &BlobId) -> Bytes {
        self.log.blob(team, blob).await.unwrap().unwrap()
    }

    pub async fn connect(&self) -> Client<TcpStream> {
        Client::over(TcpStream::connect(self.address).await.unwrap())
    }

    /// Connects and gets past EHLO.
    pub async fn hello(&self) -> Client<TcpStream> {
        let mut client = self.connect().await;
        client.expect("220").await;
        client.say("EHLO client.test", "250").await;
        client
    }
}

/// A client that sends exactly what it is told to.
pub struct Client<S> {
    pub stream: S,
    unread: Vec<u8>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Client<S> {
    pub fn over(stream: S) -> Self {
        Self { stream, unread: vec![] }
    }

    pub async fn send(&mut self, octets: impl AsRef<[u8]>) {
        self.stream.write_all(octets.as_ref()).await.unwrap();
        self.stream.flush().await.unwrap();
    }

    /// Reads one reply of one or more lines.
    pub async fn reply(&mut self) -> String {
        self.try_reply().await.expect("the server closed the connection")
    }

    /// Reads one reply; `None` if the connection ends instead.
    pub async fn try_reply(&mut self) -> Option<String> {
        let mut reply = String::new();
        loop {
            if let Some(end) = self.unread.windows(2).position(|pair| pair == b"\r\n") {
                let line: Vec<u8> = self.unread.drain(..end + 2).collect();
                let line = String::from_utf8(line).unwrap();
                let last = line.as_bytes().get(3) != Some(&b'-');
                reply.push_str(&line);
                if last {
                    return Some(reply);
                }
                continue;
            }
            let mut octets = [0; 4096];
            let read = tokio::time::timeout(PATIENCE, self.stream.read(&mut octets)).await;
            match read.expect("no reply came in time") {
                Ok(0) | Err(_) => return None,
                Ok(read) => self.unread.extend_from_slice(&octets[..read]),
            }
        }
    }

    pub async fn expect(&mut self, start: &str) -> String {
        let reply = self.reply().await;
        assert!(reply.starts_with(start), "expected {start}, got {reply:?}");
        reply
    }

    /// Says a line and expects a reply that starts so.
    pub async fn say(&mut self, line: &str, start: &str) -> String {
        self.send(format!("{line}\r\n")).await;
        let reply = self.reply().await;
        assert!(reply.starts_with(start), "to {line:?}: expected {start}, got {reply:?}");
        reply
    }

    /// Waits for the connection to end without another reply.
    pub async fn expect_end(&mut self) {
        assert_eq!(self.try_reply().await, None);
    }

    /// Hands over a mail, up to and without its last reply.
    pub async fn submit(&mut self, from: &str, to: &[&str], content: &str) {
        self.say(&format!("MAIL FROM:<{from}>"), "250").await;
        for to in to {
            self.say(&format!("RCPT TO:<{to}>"), "250").await;
        }
        self.say("DATA", "354").await;
        let end = if content.ends_with("\r\n") { ".\r\n" } else { "\r\n.\r\n" };
        self.send(format!("{content}{end}")).await;
    }

    pub async fn deliver(&mut self, from: &str, to: &[&str], content: &str) -> String {
        self.submit(from, to, content).await;
        self.expect("250").await
    }
}

/// Returns a small mail with its own Message-ID.
pub fn mail(id: &str, subject: &str) -> String {
    format!(
        "From: Ann <ann@sender.test>\r\nTo: box@team.test\r\nSubject: {subject}\r\n\
         Date: Tue, 1 Sep 2026 10:00:00 +0000\r\nMessage-ID: <{id}@sender.test>\r\n\r\nHello there.\r\n"
    )
}
