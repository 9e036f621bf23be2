//! The doors: which of them open, and what stands behind each.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Context as _;
use api::limit::Limiter;
use api::receive::{Receiver, Returns};
use api::smtp::{Listener, Tls};
use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;
use eventlog::EventLog;
use mail::auth::Resolver;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::config::{Config, Role};
use crate::dns::Names;
use crate::outgoing::{self, Outgoing};
use crate::shutdown::Tasks;
use crate::store::Store;
use crate::{dns, fetch};

/// What all doors share.
pub struct Doors<'a> {
    config: &'a Config,
    store: &'a Store,
    outgoing: &'a Outgoing,
    names: &'a Names,
    /// A key has one rate, through whichever door it comes.
    limiter: Limiter,
    stop: CancellationToken,
}

impl<'a> Doors<'a> {
    /// Returns the doors of an installation; they close when `stop` is cancelled.
    pub fn new(
        config: &'a Config,
        store: &'a Store,
        outgoing: &'a Outgoing,
        names: &'a Names,
        stop: &CancellationToken,
    ) -> Self {
        let limiter = Limiter::new(config.http.door.rate_limits);
        Self { config, store, outgoing, names, limiter, stop: stop.clone() }
    }

    fn opens(&self, role: Role) -> bool {
        self.config.server.roles.contains(&role)
    }

    /// Opens the API, the streams and the health checks. Returns where.
    ///
    /// # Errors
    /// The address cannot be listened on.
    pub async fn http(
        &self,
        tasks: &mut Tasks,
        ready: Option<watch::Receiver<bool>>,
    ) -> anyhow::Result<Option<SocketAddr>> {
        let (config, store) = (self.config, self.store);
        if !self.opens(Role::Http) {
            return Ok(None);
        }
        let listener = bind(config.http.listen, "http.listen").await?;
        let address = listener.local_addr()?;
        let public_url = self.public_url(Some(address));
        let streams = api::stream::Streams::new(store.log.clone(), store.allot.clone(), config.streams.clone());
        let app = self
            .app(public_url)?
            .with_attempts(store.work.clone())
            .with_carrier(self.outgoing.carrier())
            .with_fetch(fetch::fetch(self.outgoing.settings().policy())?)
            .with_resolver(outgoing::or_none(self.names.fresh.clone()))
            .with_streams(streams.clone());
        let health = Router::new()
            .route("/health/live", get(|| async { "live" }))
            .route("/health/ready", get(is_ready))
            .with_state(Health { log: store.log.clone(), ready, stop: self.stop.clone() });
        let router = api::router(app).merge(health);
        let server = api::stream::serve::Server::new(listener, router, config.connections.clone());
        let (until, streaming) = (self.stop.clone(), self.stop.clone());
        tasks.start("http", async move {
            server.run(until).await;
            Ok(())
        });
        tasks.start("streams", async move {
            streams.run(streaming).await;
            Ok(())
        });
        Ok(Some(address))
    }

    /// Returns what the doors that keys open have in common.
    fn app(&self, public_url: String) -> anyhow::Result<api::App> {
        let (config, store) = (self.config, self.store);
        let mut door = config.http.door.clone();
        door.public_url = public_url;
        (door.prices, door.installation) = (config.prices, config.installation());
        door.webhook_urls = config.webhook_settings().targets;
        door.bounce_domain = config.bounces.normalised()?;
        let outbound = self.outgoing.settings();
        (door.smtp_hosts, door.mail_lifetime_seconds) = (outbound.policy(), outbound.retry.give_up_seconds.into());
        door.allow_direct = outbound.allow_direct && !config.server.sandbox;
        let (log, views, allot) = (store.log.clone(), store.views.clone(), store.allot.clone());
        let mut app = api::App::new(log, views, allot, store.secrets.pepper.clone(), door)
            .with_checkpoint_key(store.signer.key.public().clone());
        app.limiter = self.limiter.clone();
        Ok(app)
    }

    /// Returns the origin of links: as configured, or where the API answers here.
    fn public_url(&self, http: Option<SocketAddr>) -> String {
        let configured = &self.config.http.door.public_url;
        match http {
            Some(address) if *configured == api::Config::default().public_url => format!("http://{address}"),
            _ => configured.clone(),
        }
    }

    /// Opens the door for mail from outside. Returns where.
    ///
    /// # Errors
    /// The address cannot be listened on, or the certificate cannot be read.
    pub async fn smtp(&self, tasks: &mut Tasks, receiver: &Receiver) -> anyhow::Result<Option<SocketAddr>> {
        let (config, store) = (self.config, self.store);
        if !self.opens(Role::Smtp) || config.smtp.listen.is_empty() {
            return Ok(None);
        }
        let tls = if config.smtp.tls.off { None } else { Some(tls(config)?) };
        let listener = Listener::bind(config.smtp.clone(), receiver.clone(), store.allot.clone(), tls).await?;
        let address = listener.addresses().first().copied();
        let stop = self.stop.clone();
        tasks.start("smtp", async move { Ok(listener.run(stop).await?) });
        Ok(address)
    }

    /// Opens the door for mail that is to be sent. Returns where.
    ///
    /// # Errors
    /// The address cannot be listened on, or the certificate cannot be read.
    pub async fn submission(&self, tasks: &mut Tasks, http: Option<SocketAddr>) -> anyhow::Result<Option<SocketAddr>> {
        let (config, store) = (self.config, self.store);
        let settings = &config.submission;
        if !self.opens(Role::Smtp) || (settings.listen.is_empty() && settings.listen_tls.is_empty()) {
            return Ok(None);
        }
        let app = self.app(self.public_url(http))?;
        let hostname = settings.hostname.as_deref().unwrap_or(&config.smtp.hostname);
        let submitter = api::submit::Submitter::new(&app, hostname);
        let tls = match (&settings.tls.certificate_file, &settings.tls.key_file) {
            (Some(certificate), Some(key)) => Some(Tls::from_files(certificate, key).context("submission.tls")?),
            _ if config.smtp.tls.off => None,
            _ => Some(tls(config)?),
        };
        let mut settings = settings.clone();
        settings.auth_on_loopback = config.server.sandbox;
        let allot = store.allot.clone();
        let listener = Listener::bind_submission(settings, &config.smtp.hostname, submitter, allot, tls).await?;
        let address = listener.addresses().first().copied();
        let stop = self.stop.clone();
        tasks.start("submission", async move { Ok(listener.run(stop).await?) });
        Ok(address)
    }
}

/// Returns the pipeline of all mail that comes in: by SMTP, and from this installation to itself.
///
/// # Errors
/// The machine's DNS configuration cannot be read, or `bounces.domain` is no name of a domain.
pub fn receiver(config: &Config, store: &Store, names: &Names) -> anyhow::Result<Receiver> {
    let resolver: Option<Arc<dyn Resolver>> = match (config.smtp.verify_senders, &names.cached) {
        (false, _) => None,
        (true, Some(resolver)) => Some(Arc::clone(resolver)),
        (true, None) => Some(Arc::new(dns::SystemDns::new(dns::Caching::Kept)?)),
    };
    let (log, views, allot) = (store.log.clone(), store.views.clone(), store.allot.clone());
    let returns = Returns { key: store.secrets.pepper.return_path_key(), domain: config.bounces.normalised()? };
    Ok(Receiver::new(log, views, allot, config.smtp.receive_options(), resolver).with_returns(returns))
}

#[derive(Clone)]
struct Health {
    log: EventLog,
    ready: Option<watch::Receiver<bool>>,
    stop: CancellationToken,
}

/// Says whether this node should get requests: its store answers, its read models are usable, and it is not stopping.
async fn is_ready(State(health): State<Health>) -> (StatusCode, &'static str) {
    if health.stop.is_cancelled() {
        return (StatusCode::SERVICE_UNAVAILABLE, "stopping");
    }
    if health.ready.is_some_and(|ready| !*ready.borrow()) {
        return (StatusCode::SERVICE_UNAVAILABLE, "read models are being computed");
    }
    match health.log.teams(None, 1).await {
        Ok(_) => (StatusCode::OK, "ready"),
        Err(_) => (StatusCode::SERVICE_UNAVAILABLE, "the log does not answer"),
    }
}

/// Listens on an address; `what` is the configuration key that names it.
///
/// # Errors
/// The address cannot be listened on.
pub async fn bind(address: SocketAddr, what: &str) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| format!("{what}: cannot listen on {address}"))
}

/// Returns the configured certificate, or a self-made one that is kept in the data directory.
fn tls(config: &Config) -> anyhow::Result<Tls> {
    if let (Some(certificate), Some(key)) = (&config.smtp.tls.certificate_file, &config.smtp.tls.key_file) {
        return Tls::from_files(certificate, key).context("smtp.tls");
    }
    let data = &config.server.data_dir;
    let (certificate, key) = (data.join("smtp-self-made.crt"), data.join("smtp-self-made.key"));
    if !certificate.exists() || !key.exists() {
        let made = api::smtp::self_signed(&config.smtp.hostname)?;
        crate::secrets::write_private(&key, made.key_pem.as_bytes())?;
        std::fs::write(&certificate, made.certificate_pem).context("cannot keep the self-made certificate")?;
    }
    Tls::from_files(&certificate, &key).context("the self-made certificate in the data directory")
}
