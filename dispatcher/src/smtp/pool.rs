//! Connections that are kept for the next mail, and how many there may be.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use super::connection::Connection;
use super::{Limits, Peer};

struct Kept {
    connection: Connection,
    /// What the connection is good for: another host, protection or password needs another connection.
    peer: Fingerprint,
    since: Instant,
}

#[derive(Clone, PartialEq, Eq)]
struct Fingerprint {
    host: String,
    port: u16,
    protection: super::Protection,
    login: Option<mail::smtp::client::Login>,
}

impl Fingerprint {
    fn of(peer: &Peer) -> Self {
        Self { host: peer.host.clone(), port: peer.port, protection: peer.protection, login: peer.login.clone() }
    }
}

struct Slot {
    permits: Arc<Semaphore>,
    idle: Vec<Kept>,
}

/// See the module.
pub(super) struct Pool {
    slots: Mutex<HashMap<String, Slot>>,
    per_peer: usize,
    idle: Duration,
    age: Duration,
    mails: u32,
}

impl Pool {
    pub(super) fn new(limits: &Limits) -> Self {
        Self {
            slots: Mutex::default(),
            per_peer: limits.connections_per_peer_max.max(1),
            idle: limits.idle,
            age: limits.age,
            mails: limits.mails_per_connection,
        }
    }

    fn slots(&self) -> MutexGuard<'_, HashMap<String, Slot>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until another connection to the peer may be used.
    pub(super) async fn permit(&self, key: &str) -> Option<OwnedSemaphorePermit> {
        let permits = {
            let mut slots = self.slots();
            let new = || Slot { permits: Arc::new(Semaphore::new(self.per_peer)), idle: vec![] };
            Arc::clone(&slots.entry(key.to_owned()).or_insert_with(new).permits)
        };
        permits.acquire_owned().await.ok()
    }

    /// Returns a connection that was kept and is still alive.
    pub(super) async fn take(&self, peer: &Peer) -> Option<Connection> {
        let wanted = Fingerprint::of(peer);
        loop {
            let mut kept = self.slots().get_mut(&peer.key).and_then(|slot| slot.idle.pop())?;
            let fresh = kept.since.elapsed() < self.idle && kept.connection.opened_at.elapsed() < self.age;
            if fresh && kept.peer == wanted && kept.connection.is_alive().await {
                return Some(kept.connection);
            }
            if kept.connection.is_ready() {
                kept.connection.quit().await;
            }
        }
    }

    /// Keeps a connection, if it can carry another mail.
    pub(super) fn put(&self, peer: &Peer, connection: Connection) {
        let worn = connection.mails() >= self.mails || connection.opened_at.elapsed() >= self.age;
        if !connection.is_ready() || worn || self.idle.is_zero() {
            return;
        }
        if let Some(slot) = self.slots().get_mut(&peer.key) {
            slot.idle.push(Kept { connection, peer: Fingerprint::of(peer), since: Instant::now() });
        }
    }

    /// Takes out what has been idle for too long.
    pub(super) fn expired(&self) -> Vec<Connection> {
        let mut expired = vec![];
        let mut slots = self.slots();
        for slot in slots.values_mut() {
            let old = slot.idle.extract_if(.., |kept| kept.since.elapsed() >= self.idle);
            expired.extend(old.map(|kept| kept.connection));
        }
        slots.retain(|_, slot| !slot.idle.is_empty() || Arc::strong_count(&slot.permits) > 1);
        expired
    }
}
