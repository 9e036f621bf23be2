//! `postlog deliveries`: events that cannot be made into a webhook delivery, and what is to become of them.

use anyhow::{Context as _, bail};
use dispatcher::queue::{Poisoned, Queue};
use dispatcher::webhook::{Resolution, resolve_poisoned};
use domain::id::RequestId;

use super::{print, team_id};
use crate::cli;
use crate::config::Config;
use crate::store::{Purpose, Store};

/// How many are looked at; there is one per blocked mailbox and webhook.
const STUCK_MAX: usize = 10_000;

/// `postlog deliveries`
///
/// # Errors
/// There is no such delivery, or a store is not available.
pub async fn deliveries(config: &Config, command: cli::Deliveries) -> anyhow::Result<()> {
    let store = Store::open(config, Purpose::Command).await?;
    let queue = Queue::new(store.work.clone());
    let stuck = queue.poisoned(STUCK_MAX).await?;
    let (which, resolution) = match command {
        cli::Deliveries::Stuck => return list(&stuck),
        cli::Deliveries::Retry(which) => (which, Resolution::Retry),
        cli::Deliveries::Skip(which) => (which, Resolution::Skip),
    };
    let team = team_id(&which.team)?;
    let webhook = which.webhook.parse().with_context(|| format!("{} is not a webhook id", which.webhook))?;
    let is_meant = |p: &&Poisoned| p.team == team && p.webhook == webhook && p.position == which.position;
    let Some(poisoned) = stuck.iter().find(is_meant) else {
        bail!("event {} is not stuck for {webhook}; `postlog deliveries stuck` shows what is", which.position);
    };
    let (now, request) = (store.allot.now(), RequestId::new(store.allot.now(), store.allot.random()));
    if !resolve_poisoned(&queue, &store.log, poisoned, resolution, &request, now).await? {
        bail!("event {} is not stuck for {webhook} any more", which.position);
    }
    match resolution {
        Resolution::Retry => print(format_args!("event {} is tried again for {webhook}", which.position)),
        Resolution::Skip => {
            print(format_args!("event {} is left out for {webhook}, and that is on record", which.position))
        }
    }
}

fn list(stuck: &[Poisoned]) -> anyhow::Result<()> {
    if stuck.is_empty() {
        return print(format_args!("nothing is stuck"));
    }
    for p in stuck {
        let mailbox = p.mailbox.as_ref().map_or("-", |id| id.as_str());
        print(format_args!(
            "{}  {}  {mailbox}  event {}  {} tries  {}",
            p.team, p.webhook, p.position, p.tries, p.error
        ))?;
    }
    Ok(())
}
