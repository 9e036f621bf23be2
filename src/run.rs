//! What starts and stops, and in which order: the only place that wires.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use api::smtp::{Listener, Tls};
use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;
use dispatcher::outbound::NoLocalDelivery;
use dispatcher::queue::Queue;
use eventlog::EventLog;
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::config::{Config, Role};
use crate::first_run::{self, Addresses};
use crate::outgoing::Outgoing;
use crate::shutdown::{Signals, Tasks};
use crate::store::{Purpose, Store};
use crate::{dns, poll, telemetry};

/// Serves until a signal, a failed flush of the log, or a task that ends early.
///
/// # Errors
/// Something cannot be opened, or the log must stop.
pub async fn serve(config: Config) -> anyhow::Result<()> {
    for warning in warnings(&config) {
        tracing::warn!("{warning}");
    }
    let recorder = telemetry::start_metrics()?;
    let store = Store::open(&config, Purpose::Serve).await?;
    let welcome = first_run::prepare(&store, &config).await?;

    // Two tokens: doors and dispatch stop first; what they rely on goes on until they have finished.
    let (stop, stop_below) = (CancellationToken::new(), CancellationToken::new());
    let mut doors = Tasks::new(stop.clone());
    let mut below = Tasks::new(stop_below.clone());
    let ready = start_below(&mut below, &config, &store, &stop_below);
    if let Some(mut ready) = ready.clone() {
        // Until the read models were computed once by this build, lists would lie.
        ready.wait_for(|ready| *ready).await.context("the read models stopped")?;
    }
    let outgoing = Outgoing::new(&config, &store)?;
    let addresses = Addresses {
        http: start_http(&mut doors, &config, &store, &outgoing, ready, &stop).await?,
        smtp: start_smtp(&mut doors, &config, &store, &stop).await?,
        metrics: start_metrics(&mut doors, &config, recorder, &stop).await?,
    };
    start_dispatch(&mut doors, &config, &store, outgoing, &stop)?;
    let log = store.log.clone();
    doors.start("log", {
        let stop = stop.clone();
        async move {
            tokio::select! {
                () = stop.cancelled() => Ok(()),
                () = log.failed() => bail!("the log could not be flushed; start again to recover what was acknowledged"),
            }
        }
    });
    // Who reads that it runs may tell it to stop.
    let signals = Signals::catch().context("signals cannot be received")?;
    first_run::announce(&config, addresses, welcome)?;

    let grace = Duration::from_secs(config.server.grace_seconds);
    let ended = tokio::select! {
        ended = doors.run(grace) => ended,
        never = signals.stop(stop.clone()) => match never {},
    };
    stop_below.cancel();
    let below = below.run(Duration::from_secs(3)).await;
    store.views.close().await;
    // Others may still hold the log; what they wrote is durable, so closing is a courtesy with a bound.
    let _ = tokio::time::timeout(Duration::from_secs(2), store.log.clone().close()).await;
    ended.and(below)
}

/// Returns what an operator should know at each start.
fn warnings(config: &Config) -> Vec<String> {
    let mut warnings = vec![];
    let mut dangerous = |on: bool, key: &str| {
        if on {
            warnings.push(format!("{key} is on: safety is weakened"));
        }
    };
    dangerous(config.database.dangerous_unsafe_postgres, "database.dangerous_unsafe_postgres");
    dangerous(config.webhooks.targets.dangerous_allow_http_loopback, "webhooks.targets.dangerous_allow_http_loopback");
    let networks = !config.webhooks.targets.dangerous_allow_networks.is_empty();
    dangerous(networks, "webhooks.targets.dangerous_allow_networks");
    dangerous(config.outbound.dangerous_allow_loopback, "outbound.dangerous_allow_loopback");
    let networks = !config.outbound.dangerous_allow_networks.is_empty();
    dangerous(networks, "outbound.dangerous_allow_networks");
    if config.server.sandbox {
        warnings.push(
            "sandbox: webhooks and outgoing mail may go to this machine without TLS, and nowhere else; \
             set server.sandbox = false for production"
                .into(),
        );
    }
    warnings
}

/// Starts what the doors rely on. Returns a watch that turns true when the read models are usable.
fn start_below(
    below: &mut Tasks,
    config: &Config,
    store: &Store,
    stop: &CancellationToken,
) -> Option<watch::Receiver<bool>> {
    let (log, allot) = (store.log.clone(), store.allot.clone());
    let idle = Duration::from_millis(config.server.poll_idle_milliseconds);
    let busy = Duration::from_millis(config.server.poll_busy_milliseconds);
    below.start("heads", poll::heads(log.clone(), allot.clone(), idle, busy, stop.clone()));
    below.start("housekeeping", poll::housekeeping(log.clone(), store.work.clone(), allot, stop.clone()));
    if !config.server.roles.contains(&Role::Project) {
        return None;
    }
    let runner = projections::Runner::new(log.clone(), store.views.clone());
    let ready = runner.ready();
    let (views, stop, erasing) = (store.views.clone(), stop.clone(), stop.clone());
    below.start("erasures", async move {
        projections::erasure::follow(views, log, erasing).await;
        Ok(())
    });
    below.start("read models", async move { Ok(runner.run(stop).await?) });
    Some(ready)
}

async fn bind(address: SocketAddr, what: &str) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| format!("{what}: cannot listen on {address}"))
}

async fn start_http(
    doors: &mut Tasks,
    config: &Config,
    store: &Store,
    outgoing: &Outgoing,
    ready: Option<watch::Receiver<bool>>,
    stop: &CancellationToken,
) -> anyhow::Result<Option<SocketAddr>> {
    if !config.server.roles.contains(&Role::Http) {
        return Ok(None);
    }
    let listener = bind(config.http.listen, "http.listen").await?;
    let address = listener.local_addr()?;
    let mut door = config.http.door.clone();
    if door.public_url == api::Config::default().public_url {
        door.public_url = format!("http://{address}");
    }
    door.prices = config.prices;
    door.webhook_urls = webhooks(config).targets;
    let outbound = outgoing.settings();
    (door.smtp_hosts, door.mail_lifetime_seconds) = (outbound.policy(), outbound.retry.give_up_seconds.into());
    let streams = api::stream::Streams::new(store.log.clone(), store.allot.clone(), config.streams.clone());
    let app =
        api::App::new(store.log.clone(), store.views.clone(), store.allot.clone(), store.secrets.pepper.clone(), door)
            .with_streams(streams.clone())
            .with_attempts(store.work.clone())
            .with_carrier(outgoing.carrier());
    let health = Router::new()
        .route("/health/live", get(|| async { "live" }))
        .route("/health/ready", get(is_ready))
        .with_state(Health { log: store.log.clone(), ready, stop: stop.clone() });
    let router = api::router(app).merge(health);
    let server = api::stream::serve::Server::new(listener, router, config.connections.clone());
    let (until, streaming) = (stop.clone(), stop.clone());
    doors.start("http", async move {
        server.run(until).await;
        Ok(())
    });
    doors.start("streams", async move {
        streams.run(streaming).await;
        Ok(())
    });
    Ok(Some(address))
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

async fn start_smtp(
    doors: &mut Tasks,
    config: &Config,
    store: &Store,
    stop: &CancellationToken,
) -> anyhow::Result<Option<SocketAddr>> {
    if !config.server.roles.contains(&Role::Smtp) || config.smtp.listen.is_empty() {
        return Ok(None);
    }
    let resolver: Option<Arc<dyn mail::auth::Resolver>> =
        if config.smtp.verify_senders { Some(Arc::new(dns::SystemDns::new()?)) } else { None };
    let receiver = api::receive::Receiver::new(
        store.log.clone(),
        store.views.clone(),
        store.allot.clone(),
        config.smtp.receive_options(),
        resolver,
    );
    let tls = if config.smtp.tls.off { None } else { Some(tls(config)?) };
    let listener = Listener::bind(config.smtp.clone(), receiver, store.allot.clone(), tls).await?;
    let address = listener.addresses().first().copied();
    let stop = stop.clone();
    doors.start("smtp", async move { Ok(listener.run(stop).await?) });
    Ok(address)
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

async fn start_metrics(
    doors: &mut Tasks,
    config: &Config,
    recorder: PrometheusHandle,
    stop: &CancellationToken,
) -> anyhow::Result<Option<SocketAddr>> {
    let Ok(address) = config.metrics.listen.parse::<SocketAddr>() else { return Ok(None) };
    let listener = bind(address, "metrics.listen").await?;
    let address = listener.local_addr()?;
    let upkeep = recorder.clone();
    let router = Router::new().route("/metrics", get(move || std::future::ready(recorder.render())));
    let (stop, tidy) = (stop.clone(), stop.clone());
    doors.start("metrics", async move {
        Ok(axum::serve(listener, router).with_graceful_shutdown(stop.cancelled_owned()).await?)
    });
    doors.start("metrics upkeep", async move {
        while !tidy.is_cancelled() {
            tokio::select! { () = tidy.cancelled() => {}, () = tokio::time::sleep(Duration::from_secs(5)) => {} }
            upkeep.run_upkeep();
        }
        Ok(())
    });
    Ok(Some(address))
}

/// Returns the settings of webhooks: a sandbox may call this machine over plain http.
fn webhooks(config: &Config) -> dispatcher::webhook::Config {
    let mut settings = config.webhooks.clone();
    settings.targets.dangerous_allow_http_loopback |= config.server.sandbox;
    settings
}

fn start_dispatch(
    doors: &mut Tasks,
    config: &Config,
    store: &Store,
    outgoing: Outgoing,
    stop: &CancellationToken,
) -> anyhow::Result<()> {
    if !config.server.roles.contains(&Role::Dispatch) {
        return Ok(());
    }
    let settings = webhooks(config);
    let resolve = Arc::new(dispatcher::egress::SystemResolver::default());
    let client = settings.client(resolve).map_err(|invalid| {
        anyhow::anyhow!("webhooks.limits: {}", invalid.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))
    })?;
    let reactor = dispatcher::webhook::Reactor::new(
        store.log.clone(),
        store.views.clone(),
        Queue::new(store.work.clone()),
        client,
        store.allot.clone(),
        settings,
        store.node.clone(),
    )?;
    let webhooks = stop.clone();
    doors.start("webhooks", async move { Ok(reactor.run(webhooks).await?) });
    let (reactor, stop) = (outgoing.reactor(store, Arc::new(NoLocalDelivery)), stop.clone());
    doors.start("outgoing mail", async move { Ok(reactor.run(stop).await?) });
    Ok(())
}
