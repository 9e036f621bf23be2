//! "Something was appended at a node": a notification after commits, so that other nodes look at the heads sooner.
//!
//! Never in an append's transaction, where it would make all commits of the database take turns. A hint without content,
//! at most one per node every few milliseconds; who misses it finds the same by the poll.

use std::sync::Arc;
use std::time::Duration;

use sqlx::PgPool;
use sqlx::postgres::{PgListener, PgPoolOptions};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::servers::Servers;
use crate::wake::Wake;

/// The one channel of an installation.
const CHANNEL: &str = "postlog_appended";
/// The least time between two notifications of a node.
const PAUSE: Duration = Duration::from_millis(5);
/// How long a connection is waited for.
const WITHIN: Duration = Duration::from_secs(5);
/// How long to wait after a server did not answer.
const BACK_OFF: Duration = Duration::from_secs(1);

/// Tells other nodes of appends here, and wakes `heard` when they tell, until told to stop.
pub async fn notify(servers: Servers, wake: Wake, node: String, heard: Arc<Notify>, stop: CancellationToken) {
    let both = async {
        tokio::join!(tell(&servers, &wake, &node), hear(&servers, &node, &heard));
    };
    tokio::select! {
        () = stop.cancelled() => {}
        () = both => {}
    }
}

/// Opens a pool of one connection, however long it takes.
async fn pool(servers: &Servers) -> PgPool {
    loop {
        let options =
            PgPoolOptions::new().max_connections(1).acquire_timeout(WITHIN).idle_timeout(None).max_lifetime(None);
        // A notification that is lost is only a hint that is lost, so that it waits for no flush.
        match servers.pool(options, PAUSE, |options| options.options([("synchronous_commit", "off")])).await {
            Ok(pool) => return pool,
            Err(error) => {
                tracing::debug!(%error, "nodes cannot tell each other of appends; they poll");
                tokio::time::sleep(BACK_OFF).await;
            }
        }
    }
}

async fn tell(servers: &Servers, wake: &Wake, node: &str) {
    let answering = servers.answering();
    let pool = pool(servers).await;
    loop {
        wake.written().await;
        let told = sqlx::query("SELECT pg_notify($1, $2)").bind(CHANNEL).bind(node).execute(&pool);
        match answering.guard(told).await {
            Ok(_) => {
                metrics::counter!("notifications_sent_total").increment(1);
                tokio::time::sleep(PAUSE).await;
            }
            Err(error) => {
                tracing::debug!(%error, "other nodes cannot be told of appends; they poll");
                tokio::time::sleep(BACK_OFF).await;
            }
        }
    }
}

async fn hear(servers: &Servers, node: &str, heard: &Notify) {
    let answering = servers.answering();
    let pool = pool(servers).await;
    loop {
        let listening = async {
            let mut listener = answering.guard(PgListener::connect_with(&pool)).await?;
            answering.guard(listener.listen(CHANNEL)).await?;
            // Whatever came before may have been missed.
            heard.notify_one();
            loop {
                let told = answering.guard(listener.recv()).await?;
                if told.payload() != node {
                    metrics::counter!("notifications_heard_total").increment(1);
                    heard.notify_one();
                }
            }
        };
        let ended: Result<std::convert::Infallible, sqlx::Error> = listening.await;
        let Err(error) = ended;
        tracing::debug!(%error, "appends of other nodes are not heard of; polling");
        tokio::time::sleep(BACK_OFF).await;
    }
}
