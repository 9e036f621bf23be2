//! Which periodic work is this node's: each is done by the one node that holds its lease.

use std::time::{Duration, Instant};

use dispatcher::duty::Duty;
use eventlog::Allot;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// Tells whether a duty is this node's. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Held(watch::Receiver<Option<Instant>>);

impl Held {
    /// Returns whether this node holds the lease as far as its own monotonic clock can tell.
    #[must_use]
    pub fn is_mine(&self) -> bool {
        self.0.borrow().is_some_and(|until| until > Instant::now())
    }
}

/// Takes and keeps a duty of this node.
#[derive(Debug)]
pub struct Keeper {
    duty: Duty,
    allot: Allot,
    lease: Duration,
    held: watch::Sender<Option<Instant>>,
}

impl Keeper {
    /// Returns a keeper that does not run yet, and what tells whether the duty is held.
    #[must_use]
    pub fn new(duty: Duty, allot: Allot, lease: Duration) -> (Self, Held) {
        let (held, tells) = watch::channel(None);
        (Self { duty, allot, lease, held }, Held(tells))
    }

    /// Renews the lease at a third of its time, and takes it when its holder has let it end, until told to stop.
    ///
    /// # Errors
    /// Never: a store that does not answer is tried again.
    pub async fn run(self, stop: CancellationToken) -> anyhow::Result<()> {
        let lease_micros = i64::try_from(self.lease.as_micros()).unwrap_or(i64::MAX);
        while !stop.is_cancelled() {
            let began = Instant::now();
            let now = self.allot.now();
            match self.duty.hold(now, now.saturating_add(lease_micros)).await {
                Ok(Some(epoch)) => {
                    if self.held.send_replace(Some(began + self.lease)).is_none() {
                        tracing::debug!(epoch, duty = ?self.duty, "this node has a duty");
                    }
                }
                Ok(None) => drop(self.held.send_replace(None)),
                // The lease may have been prolonged or not: what is held ends by itself.
                Err(error) => tracing::warn!(%error, "the lease of a duty could not be asked for; trying again"),
            }
            tokio::select! {
                () = stop.cancelled() => {}
                () = tokio::time::sleep(self.lease / 3) => {}
            }
        }
        self.held.send_replace(None);
        if let Err(error) = self.duty.give_back().await {
            tracing::debug!(%error, "a duty could not be given back; its lease ends by itself");
        }
        Ok(())
    }
}
