//! What starts and stops, and in which order: the only place that wires.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use api::receive::Receiver;
use axum::Router;
use axum::routing::get;
use dispatcher::checkpoints;
use dispatcher::duty::Duty;
use dispatcher::queue::Queue;
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::config::{Config, Role};
use crate::dns::Names;
use crate::doors::{self, Doors, bind};
use crate::duties::{Held, Keeper};
use crate::first_run::{self, Addresses};
use crate::local::LocalMail;
use crate::outgoing::Outgoing;
use crate::shutdown::{Signals, Tasks};
use crate::store::{Purpose, Store};
use crate::{bodies, charges, poll, telemetry};

/// How often a start says that it waits for the read models.
const TELL_EVERY: Duration = Duration::from_secs(5);

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
        usable(&mut ready).await?;
    }
    let names = Names::new(&config)?;
    let outgoing = Outgoing::new(&config, &store, &names)?;
    let receiver = doors::receiver(&config, &store, &names)?;
    let open = Doors::new(&config, &store, &outgoing, &names, &stop);
    let http = open.http(&mut doors, ready).await?;
    let addresses = Addresses {
        http,
        smtp: open.smtp(&mut doors, &receiver).await?,
        submission: open.submission(&mut doors, http).await?,
        metrics: start_metrics(&mut doors, &config, recorder, &stop).await?,
    };
    start_dispatch(&mut doors, &config, &store, outgoing, names, &receiver, &stop)?;
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

/// Waits until the read models are usable. Whoever watches a start that takes long is told what it waits for.
async fn usable(ready: &mut watch::Receiver<bool>) -> anyhow::Result<()> {
    let began = Instant::now();
    loop {
        tokio::select! {
            ended = ready.wait_for(|ready| *ready) => return ended.map(drop).context("the read models stopped"),
            () = tokio::time::sleep(TELL_EVERY) => tracing::info!(
                elapsed_seconds = began.elapsed().as_secs(),
                "computing the read models from the log, as after a restore or an upgrade; doors open when that is done",
            ),
        }
    }
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
    dangerous(config.submission.dangerous_auth_without_tls, "submission.dangerous_auth_without_tls");
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
    let pace = poll::Pace {
        idle: Duration::from_millis(config.server.poll_idle_milliseconds),
        busy: Duration::from_millis(config.server.poll_busy_milliseconds),
        heard: Arc::default(),
    };
    start_servers(below, config, store, &pace, stop);
    below.start("heads", poll::heads(log.clone(), allot.clone(), pace, stop.clone()));
    below.start("erasures elsewhere", poll::erasures(log.clone(), stop.clone()));
    let duty = keep(below, "housekeeping duty", config, store, "housekeeping", stop);
    below.start("housekeeping", poll::housekeeping(log.clone(), store.work.clone(), allot, duty, stop.clone()));
    if config.server.roles.contains(&Role::Dispatch) {
        let (log, allot, blobs) = (store.log.clone(), store.allot.clone(), config.blobs.clone());
        below.start("bodies", bodies::keep_moving(log.clone(), allot.clone(), blobs.clone(), stop.clone()));
        below.start("orphans", bodies::keep_tidy(log, allot, blobs, stop.clone()));
        let duty = keep(below, "charges duty", config, store, "charges", stop);
        let charger = charges::charger(config, store);
        below
            .start("charges", charges::keep_charging(charger, store.allot.clone(), config.billing, duty, stop.clone()));
    }
    if !config.server.roles.contains(&Role::Project) {
        return None;
    }
    let runner = projections::Runner::new(log.clone(), store.views.clone());
    let ready = runner.ready();
    let duty = keep(below, "erasures duty", config, store, "erasures", stop);
    let (views, stop, erasing) = (store.views.clone(), stop.clone(), stop.clone());
    below.start("erasures", async move {
        projections::erasure::follow(views, log, move || duty.is_mine(), erasing).await;
        Ok(())
    });
    below.start("read models", async move { Ok(runner.run(stop).await?) });
    Some(ready)
}

/// Follows the PostgreSQL servers, and has nodes tell each other of appends where that is configured.
fn start_servers(below: &mut Tasks, config: &Config, store: &Store, pace: &poll::Pace, stop: &CancellationToken) {
    for servers in store.servers.clone() {
        let following = stop.clone();
        below.start("PostgreSQL servers", async move {
            servers.follow(following).await;
            Ok(())
        });
    }
    // The first are those of the home database, which every node is connected to, wherever it appends.
    if let (true, Some(servers)) = (config.database.notify, store.servers.first().cloned()) {
        let (wake, node) = (store.log.wake().clone(), store.node.clone());
        let (heard, stop) = (Arc::clone(&pace.heard), stop.clone());
        below.start("notifications", async move {
            eventlog::postgres::notify(servers, wake, node, heard, stop).await;
            Ok(())
        });
    }
}

/// Starts keeping a duty; returns what tells whether this node has it.
fn keep(
    below: &mut Tasks,
    task: &'static str,
    config: &Config,
    store: &Store,
    duty: &'static str,
    stop: &CancellationToken,
) -> Held {
    let lease = Duration::from_secs(config.server.duty_lease_seconds);
    let (keeper, held) =
        Keeper::new(Duty::new(store.work.clone(), duty, store.node.clone()), store.allot.clone(), lease);
    below.start(task, keeper.run(stop.clone()));
    held
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

fn start_dispatch(
    doors: &mut Tasks,
    config: &Config,
    store: &Store,
    outgoing: Outgoing,
    names: Names,
    receiver: &Receiver,
    stop: &CancellationToken,
) -> anyhow::Result<()> {
    if !config.server.roles.contains(&Role::Dispatch) {
        return Ok(());
    }
    let settings = config.webhook_settings();
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
    let local = Arc::new(LocalMail::new(receiver, store.allot.clone(), &config.smtp.hostname));
    let (reactor, carrying) = (outgoing.reactor(store, local), stop.clone());
    doors.start("outgoing mail", async move { Ok(reactor.run(carrying).await?) });
    start_checkpoints(doors, config, store, stop)?;
    // A sandbox has nobody to ask: what is not looked up stays as it is.
    if let Some(resolver) = names.fresh {
        let checker = dispatcher::dns::Checker::new(dispatcher::dns::Parts {
            log: store.log.clone(),
            views: store.views.clone(),
            queue: dispatcher::dns::Queue::new(store.work.clone()),
            resolver,
            allot: store.allot.clone(),
            installation: config.installation(),
            config: config.dns.checks.clone(),
            node: store.node.clone(),
        });
        let stop = stop.clone();
        doors.start("domain checks", async move {
            checker.run(stop).await;
            Ok(())
        });
    }
    Ok(())
}

fn start_checkpoints(
    doors: &mut Tasks,
    config: &Config,
    store: &Store,
    stop: &CancellationToken,
) -> anyhow::Result<()> {
    let settings = &config.checkpoints;
    let resolve = Arc::new(dispatcher::egress::SystemResolver::default());
    let places = checkpoints::Places::new(settings.post_to.as_deref(), settings.directory.as_deref(), resolve)
        .context("checkpoints.post_to")?;
    let keeper = checkpoints::Keeper::new(checkpoints::Parts {
        log: store.log.clone(),
        duty: Duty::new(store.work.clone(), "checkpoints", store.node.clone()),
        signer: store.signer.clone(),
        places,
        allot: store.allot.clone(),
        config: settings.clone(),
    });
    let stop = stop.clone();
    doors.start("checkpoints", async move {
        keeper.run(stop).await;
        Ok(())
    });
    Ok(())
}
