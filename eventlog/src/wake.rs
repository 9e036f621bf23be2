//! "Team T moved": a hint without content. What moved, a follower learns only from the log.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use domain::id::{Position, TeamId};
use tokio::sync::{Notify, broadcast, watch};

/// How many hints a listener to all teams may be behind before it is told to look at everything.
const HINTS_MAX: usize = 8_192;

/// A team's log has grown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hint {
    /// Whose.
    pub team: TeamId,
    /// Where it ends now, at least.
    pub head: Position,
    /// Whether this process has just appended; else it is what a look at the heads found, which finds that, too.
    pub is_own: bool,
}

/// Tells followers that a team's log has grown. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Wake {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    teams: Mutex<HashMap<TeamId, watch::Sender<Position>>>,
    all: broadcast::Sender<Hint>,
    written: Notify,
}

impl Default for Wake {
    fn default() -> Self {
        Self {
            inner: Arc::new(Inner {
                teams: Mutex::default(),
                all: broadcast::channel(HINTS_MAX).0,
                written: Notify::new(),
            }),
        }
    }
}

impl Wake {
    /// Says that a team's log was found to end at `head`. Hints may come late, twice or out of order.
    pub fn moved(&self, team: &TeamId, head: Position) {
        self.hint(team, head, false);
    }

    /// Says that this process has appended to a team's log, which now ends at `head`.
    pub(crate) fn appended(&self, team: &TeamId, head: Position) {
        self.hint(team, head, true);
    }

    fn hint(&self, team: &TeamId, head: Position, is_own: bool) {
        let mut teams = self.inner.teams.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(sender) = teams.get(team) {
            if sender.receiver_count() == 0 {
                teams.remove(team);
            } else {
                sender.send_if_modified(|seen| {
                    let grew = head > *seen;
                    *seen = head.max(*seen);
                    grew
                });
            }
        }
        drop(teams);
        // Nobody listening is fine: a follower that starts later reads its cursor and the log.
        let _ = self.inner.all.send(Hint { team: team.clone(), head, is_own });
    }

    /// Says that this process itself has appended something.
    pub(crate) fn wrote(&self) {
        self.inner.written.notify_one();
    }

    /// Waits until this process has appended something since the last time somebody waited. For one waiter.
    pub async fn written(&self) {
        self.inner.written.notified().await;
    }

    /// Returns a listener to one team. Its value is a position known to exist, 0 if none is known yet.
    #[must_use]
    pub fn team(&self, team: &TeamId) -> watch::Receiver<Position> {
        let mut teams = self.inner.teams.lock().unwrap_or_else(PoisonError::into_inner);
        teams.entry(team.clone()).or_insert_with(|| watch::channel(0).0).subscribe()
    }

    /// Returns a listener to all teams.
    #[must_use]
    pub fn all(&self) -> WakeListener {
        WakeListener { hints: self.inner.all.subscribe() }
    }

    /// Returns the teams somebody listens to, for polling their heads.
    #[must_use]
    pub fn listened(&self) -> Vec<TeamId> {
        let mut teams = self.inner.teams.lock().unwrap_or_else(PoisonError::into_inner);
        teams.retain(|_, sender| sender.receiver_count() > 0);
        teams.keys().cloned().collect()
    }
}

/// Hears of every team that moved.
#[derive(Debug)]
pub struct WakeListener {
    hints: broadcast::Receiver<Hint>,
}

impl WakeListener {
    /// Waits for the next hint. `None` means that hints were missed: look at every team.
    pub async fn next(&mut self) -> Option<Hint> {
        match self.hints.recv().await {
            Ok(hint) => Some(hint),
            Err(broadcast::error::RecvError::Lagged(_)) => None,
            // The sender lives as long as the log; if it is gone there will never be another hint.
            Err(broadcast::error::RecvError::Closed) => std::future::pending().await,
        }
    }
}
