//! How the program ends: the first signal drains, the second ends at once; a task that ends early stops everything.

use std::convert::Infallible;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// The long-lived tasks of the program, each with a name.
#[derive(Debug)]
pub struct Tasks {
    set: JoinSet<(&'static str, anyhow::Result<()>)>,
    stop: CancellationToken,
}

impl Tasks {
    /// Returns an empty set whose tasks end when the token is cancelled.
    #[must_use]
    pub fn new(stop: CancellationToken) -> Self {
        Self { set: JoinSet::new(), stop }
    }

    /// Starts a task. It must end only after the token was cancelled.
    pub fn start<F>(&mut self, name: &'static str, task: F)
    where
        F: Future<Output = anyhow::Result<()>> + Send + 'static,
    {
        self.set.spawn(async move { (name, task.await) });
    }

    /// Waits until the token is cancelled or a task ends, then until all tasks have ended, at most `grace`.
    ///
    /// # Errors
    /// A task failed, panicked, ended early, or did not end in time.
    pub async fn run(mut self, grace: Duration) -> anyhow::Result<()> {
        let mut outcome = Ok(());
        tokio::select! {
            () = self.stop.cancelled() => {}
            Some(ended) = self.set.join_next() => {
                outcome = match ended {
                    // Being told to stop and having stopped may be seen at the same time.
                    Ok((_, Ok(()))) if self.stop.is_cancelled() => Ok(()),
                    Ok((name, Ok(()))) => Err(anyhow::anyhow!("{name} ended early")),
                    Ok((name, Err(e))) => Err(e.context(format!("{name} failed"))),
                    Err(e) => Err(anyhow::anyhow!("a task panicked: {e}")),
                };
                self.stop.cancel();
            }
        }
        let drained = tokio::time::timeout(grace, async {
            while let Some(ended) = self.set.join_next().await {
                if let Ok((name, Err(e))) = ended {
                    tracing::error!(task = name, error = format!("{e:#}"), "a task failed while stopping");
                }
            }
        })
        .await;
        if drained.is_err() {
            self.set.abort_all();
            outcome = outcome.and(Err(anyhow::anyhow!("not everything ended within {} s", grace.as_secs())));
        }
        outcome
    }
}

/// SIGTERM and SIGINT, caught from the moment this is made.
#[derive(Debug)]
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// Catches signals from now on.
    ///
    /// # Errors
    /// The signal handlers cannot be installed.
    pub fn catch() -> std::io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    async fn next(&mut self) {
        tokio::select! { _ = self.terminate.recv() => {}, _ = self.interrupt.recv() => {} }
    }

    /// Cancels the token at the first signal; ends the process at the second.
    pub async fn stop(mut self, stop: CancellationToken) -> Infallible {
        self.next().await;
        tracing::info!("stopping: new work is refused, open work finishes; a second signal ends at once");
        stop.cancel();
        self.next().await;
        tracing::warn!("ended by a second signal");
        std::process::exit(130)
    }
}
