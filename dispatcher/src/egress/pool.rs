//! Connections kept for the next request to the same origin.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::time::{Duration, Instant};

use super::Limits;
use super::connection::Connection;

/// Idle connections by origin, newest last. Bounded in number, idle time and age.
pub(super) struct Pool {
    shelves: Mutex<Shelves>,
    per_origin_max: usize,
    total_max: usize,
    idle_max: Duration,
    age_max: Duration,
}

#[derive(Default)]
struct Shelves {
    by_origin: HashMap<Arc<str>, Vec<Idle>>,
    total: usize,
    swept_at: Option<Instant>,
}

struct Idle {
    connection: Connection,
    since: Instant,
}

impl Pool {
    pub(super) fn new(limits: &Limits) -> Self {
        Self {
            shelves: Mutex::default(),
            per_origin_max: limits.pool_idle_per_origin_max,
            total_max: limits.pool_idle_max,
            idle_max: Duration::from_secs(limits.pool_idle_seconds),
            age_max: Duration::from_secs(limits.pool_age_seconds),
        }
    }

    /// Takes the connection that was used last, if one is young enough. The caller finds out whether it still works.
    pub(super) fn take(&self, origin: &Arc<str>) -> Option<Connection> {
        let now = Instant::now();
        let mut shelves = self.lock();
        let shelf = shelves.by_origin.get_mut(origin)?;
        let mut found = None;
        let mut taken = 0;
        while let Some(idle) = shelf.pop() {
            taken += 1;
            if self.is_fresh(&idle, now) {
                found = Some(idle.connection);
                break;
            }
        }
        shelves.total -= taken;
        found
    }

    /// Keeps a connection for later, or drops it when the pool is full or the connection old.
    pub(super) fn put(&self, origin: &Arc<str>, connection: Connection) {
        let now = Instant::now();
        let idle = Idle { connection, since: now };
        if !self.is_fresh(&idle, now) {
            return;
        }
        let mut shelves = self.lock();
        // Once a second is often enough for timeouts of many seconds, and rare enough not to be felt.
        if shelves.swept_at.is_none_or(|at| now.duration_since(at) >= Duration::from_secs(1)) {
            self.sweep(&mut shelves, now);
        }
        if shelves.total >= self.total_max {
            return;
        }
        if let Some(shelf) = shelves.by_origin.get_mut(origin) {
            if shelf.len() >= self.per_origin_max {
                return;
            }
            shelf.push(idle);
        } else {
            shelves.by_origin.insert(Arc::clone(origin), vec![idle]);
        }
        shelves.total += 1;
    }

    /// Closes what has been idle or open for too long; returns how many connections stay.
    pub(super) fn close_idle(&self) -> usize {
        let mut shelves = self.lock();
        self.sweep(&mut shelves, Instant::now());
        shelves.total
    }

    fn sweep(&self, shelves: &mut Shelves, now: Instant) {
        let mut total = 0;
        shelves.by_origin.retain(|_, shelf| {
            shelf.retain(|idle| self.is_fresh(idle, now));
            total += shelf.len();
            !shelf.is_empty()
        });
        shelves.total = total;
        shelves.swept_at = Some(now);
    }

    fn is_fresh(&self, idle: &Idle, now: Instant) -> bool {
        now.duration_since(idle.since) < self.idle_max && now.duration_since(idle.connection.opened_at()) < self.age_max
    }

    /// A panic elsewhere cannot leave the shelves half changed in a way that matters: at worst the count is off until
    /// the next sweep.
    fn lock(&self) -> MutexGuard<'_, Shelves> {
        self.shelves.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
