//! A submission door beside a receiving one, over the same log: the way out and the way back.

use std::net::SocketAddr;
use std::sync::Arc;

use api::App;
use api::auth::secret::{Fresh, Pepper, mint};
use api::smtp::{GuessConfig, Listener, SubmissionConfig, Tls, self_signed};
use api::submit::Submitter;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use domain::api_key::{CreateTeamKey, Kind};
use domain::balance::ChangeCreditLimit;
use domain::id::{KeyId, MailboxId, OutboundId, ProviderId, TeamId};
use domain::mailbox::{OpenMailbox, SendScope};
use domain::money::Nanos;
use domain::outbound::Outbound;
use domain::permission::{MAILBOX_PERMISSIONS, Permissions, SENDING_PERMISSIONS};
use domain::provider::{CreateProvider, Identity, Quotas, Settings, Transport};
use domain::{StreamId, Versioned};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::harness::{Client, Door, PATIENCE, Store};

/// Both doors.
pub struct Office {
    pub door: Door,
    pub app: App,
    pub address: SocketAddr,
    pub tls_address: SocketAddr,
    connector: TlsConnector,
    #[expect(dead_code, reason = "owns the task")]
    tasks: JoinSet<Result<(), api::smtp::Error>>,
}

/// A configuration for tests: free ports, keys in the clear from this machine, no patience with guessers.
pub fn config() -> SubmissionConfig {
    SubmissionConfig {
        listen: vec!["127.0.0.1:0".parse().unwrap()],
        listen_tls: vec!["127.0.0.1:0".parse().unwrap()],
        auth_on_loopback: true,
        guessing: GuessConfig { wrong_keys_free: 1, wrong_keys_max: 3, delay_min_millis: 1, delay_max_millis: 2 },
        ..SubmissionConfig::default()
    }
}

impl Office {
    pub async fn open(store: Store) -> Self {
        Self::with(store, config(), api::Config::default()).await
    }

    pub async fn with(store: Store, config: SubmissionConfig, http: api::Config) -> Self {
        assert_eq!(config.problems(), Vec::<String>::new());
        let door = Door::open(store).await;
        let app = App::new(door.log.clone(), door.views.clone(), door.allot.clone(), Pepper::new([9; 32]), http);
        let made = self_signed("mx.test").unwrap();
        let tls = Tls::from_pem(&made.certificate_pem, &made.key_pem).unwrap();
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(made.certificate_pem.as_bytes()).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let client = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let submitter = Submitter::new(&app, "mx.test");
        let listener =
            Listener::bind_submission(config, "mx.test", submitter, door.allot.clone(), Some(tls)).await.unwrap();
        let addresses = listener.addresses();
        let mut tasks = JoinSet::new();
        tasks.spawn(listener.run(door.stop.clone()));
        let connector = TlsConnector::from(Arc::new(client));
        Self { door, app, address: addresses[0], tls_address: addresses[1], connector, tasks }
    }

    /// Makes a team with a domain, an account to send through and a dollar.
    pub async fn team(&self, domain: &str) -> TeamId {
        let team = self.door.team(domain).await;
        self.door.run(&team, ChangeCreditLimit { credit_limit: Nanos::DOLLAR }).await;
        let create = CreateProvider {
            provider: ProviderId::new(self.door.allot.now(), self.door.allot.random()),
            settings: Settings { transport: Transport::Sandbox, percentage: None, quotas: Quotas::default() },
            identity: Identity { name: "Sandbox".to_owned(), ..Identity::default() },
            managed: false,
            secret: None,
        };
        self.door.run(&team, create).await;
        team
    }

    fn mint(&self, kind: Kind) -> (Fresh, KeyId, String) {
        let fresh = mint(&self.door.allot, self.app.auth.pepper(), kind);
        let (key, secret) = (fresh.minted.key.clone(), fresh.secret.expose_str().to_owned());
        (fresh, key, secret)
    }

    pub async fn key(&self, team: &TeamId, kind: Kind) -> (KeyId, String) {
        let (fresh, key, secret) = self.mint(kind);
        let permissions = Permissions::parse(SENDING_PERMISSIONS).unwrap();
        let create = CreateTeamKey { minted: fresh.minted, kind, name: "test".to_owned(), permissions };
        self.door.run(team, create).await;
        (key, secret)
    }

    /// Opens a mailbox with a key of its own.
    pub async fn mailbox(&self, team: &TeamId, address: &str) -> (MailboxId, KeyId, String) {
        let (fresh, key, secret) = self.mint(Kind::Mailbox);
        let mailbox = MailboxId::new(self.door.allot.now(), self.door.allot.random());
        let open = OpenMailbox {
            mailbox: mailbox.clone(),
            email: address.parse().unwrap(),
            display_name: None,
            quota_bytes: 1 << 30,
            send_scope: SendScope::All,
            credential: Some((fresh.minted, Permissions::parse(MAILBOX_PERMISSIONS).unwrap())),
        };
        self.door.run(team, open).await;
        (mailbox, key, secret)
    }

    /// Connects in the clear and gets past EHLO.
    pub async fn hello(&self) -> Client<TcpStream> {
        let mut client = Client::over(TcpStream::connect(self.address).await.unwrap());
        client.expect("220").await;
        client.say("EHLO client.test", "250").await;
        client
    }

    /// Connects in the clear and shows a key.
    pub async fn login(&self, secret: &str) -> Client<TcpStream> {
        let mut client = self.hello().await;
        client.say(&plain("anything", secret), "235 2.7.0").await;
        client
    }

    pub async fn secured(&self, stream: TcpStream) -> Client<TlsStream<TcpStream>> {
        let name = ServerName::try_from("mx.test").unwrap();
        let handshake = self.connector.connect(name, stream);
        Client::over(tokio::time::timeout(PATIENCE, handshake).await.unwrap().unwrap())
    }

    pub async fn state(&self, team: &TeamId, id: &OutboundId) -> Versioned<Outbound> {
        self.door.log.state(team, &[StreamId::Outbound(id.clone())]).await.unwrap()
    }

    /// Returns the bytes of a mail as they will be sent.
    pub async fn text(&self, team: &TeamId, id: &OutboundId) -> String {
        let mail = self.state(team, id).await;
        let raw = self.door.raw(team, &mail.accepted.as_ref().unwrap().blob).await;
        String::from_utf8(raw.to_vec()).unwrap()
    }

    /// Returns the names of all events of a team behind a position.
    pub async fn names(&self, team: &TeamId, after: u64) -> Vec<String> {
        let records = self.door.log.read(team, after, 1_000).await.unwrap();
        records.iter().map(|record| record.event.name().to_owned()).collect()
    }

    pub async fn head(&self, team: &TeamId) -> u64 {
        self.door.log.head(team).await.unwrap().position
    }
}

/// Returns the AUTH command of a key.
pub fn plain(user: &str, secret: &str) -> String {
    format!("AUTH PLAIN {}", BASE64_STANDARD.encode(format!("\0{user}\0{secret}")))
}

/// Returns the id that a reply names.
pub fn id_in(reply: &str) -> OutboundId {
    let word = reply.split_whitespace().find(|word| word.starts_with("eml_"));
    word.unwrap_or_else(|| panic!("no id in {reply:?}")).parse().unwrap()
}

/// Hands over a mail and returns what is answered to its end.
pub async fn hand_over<S: AsyncRead + AsyncWrite + Unpin>(
    client: &mut Client<S>,
    from: &str,
    to: &[&str],
    content: &str,
) -> String {
    client.submit(from, to, content).await;
    client.reply().await
}

/// Returns a small mail with its own Message-ID.
pub fn mail(id: &str, from: &str) -> String {
    format!(
        "From: Ann <{from}>\r\nTo: Bob <bob@example.net>\r\nSubject: Hello\r\n\
         Date: Tue, 1 Sep 2026 10:00:00 +0000\r\nMessage-ID: <{id}@client.test>\r\n\r\nHello there.\r\n"
    )
}
