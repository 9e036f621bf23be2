//! Who is connected how often, and who guesses addresses.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::IpAddr;
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use lru::LruCache;
use mail::smtp::{ConnectionRefusal, Limits};
use tokio::sync::watch;

use super::config::HarvestConfig;
use super::submission_config::GuessConfig;

/// Below this share of the overload mark, in percent, the listener counts as relieved. The gap keeps a number of
/// connections that swings around the mark from waking everybody.
const RELIEVED_PERCENT: usize = 90;
/// For how many peers guesses are counted.
const GUESSERS_MAX: NonZeroUsize = NonZeroUsize::new(50_000).expect("it is not zero");
/// Over which time they are counted, microseconds.
const GUESSES_MICROS: i64 = 3_600_000_000;

/// The connections of a listener.
pub(super) struct Connections {
    door: &'static str,
    open: AtomicUsize,
    of_peer: Mutex<HashMap<IpAddr, usize>>,
    connections_max: usize,
    per_peer_max: usize,
    overload_mark: usize,
    overloaded: watch::Sender<bool>,
}

impl Connections {
    /// `door` names the listener in metrics.
    pub(super) fn new(door: &'static str, limits: &Limits) -> Arc<Self> {
        let mark = limits.connections_max.saturating_mul(usize::from(limits.overload_connections_percent)) / 100;
        Arc::new(Self {
            door,
            open: AtomicUsize::new(0),
            of_peer: Mutex::default(),
            connections_max: limits.connections_max,
            per_peer_max: limits.connections_per_peer_max,
            overload_mark: mark.max(1),
            overloaded: watch::channel(false).0,
        })
    }

    /// Counts a connection until the returned value is dropped.
    pub(super) fn open(self: &Arc<Self>) -> Result<Opened, ConnectionRefusal> {
        let open = self.open.fetch_add(1, Ordering::Relaxed) + 1;
        let opened = Opened { connections: Arc::clone(self) };
        if open > self.connections_max {
            return Err(ConnectionRefusal::TooMany);
        }
        self.note(open);
        Ok(opened)
    }

    /// Counts a connection of a peer until the returned value is dropped.
    pub(super) fn of_peer(self: &Arc<Self>, peer: IpAddr) -> Result<OfPeer, ConnectionRefusal> {
        let mut of_peer = self.of_peer.lock().unwrap_or_else(PoisonError::into_inner);
        let count = of_peer.entry(peer).or_insert(0);
        if *count >= self.per_peer_max {
            return Err(ConnectionRefusal::TooManyFromPeer);
        }
        *count += 1;
        Ok(OfPeer { connections: Arc::clone(self), peer })
    }

    /// Returns whether connections run short, now and from time to time.
    pub(super) fn overloaded(&self) -> watch::Receiver<bool> {
        self.overloaded.subscribe()
    }

    fn note(&self, open: usize) {
        metrics::gauge!("smtp_connections_open", "door" => self.door)
            .set(f64::from(u32::try_from(open).unwrap_or(u32::MAX)));
        self.overloaded.send_if_modified(|overloaded| {
            let before = *overloaded;
            if open >= self.overload_mark {
                *overloaded = true;
            } else if open < self.overload_mark * RELIEVED_PERCENT / 100 || open == 0 {
                *overloaded = false;
            }
            before != *overloaded
        });
    }
}

/// A counted connection.
pub(super) struct Opened {
    connections: Arc<Connections>,
}

impl Drop for Opened {
    fn drop(&mut self) {
        let before = self.connections.open.fetch_sub(1, Ordering::Relaxed);
        self.connections.note(before.saturating_sub(1));
    }
}

/// A counted connection of a peer.
pub(super) struct OfPeer {
    connections: Arc<Connections>,
    peer: IpAddr,
}

impl Drop for OfPeer {
    fn drop(&mut self) {
        let mut of_peer = self.connections.of_peer.lock().unwrap_or_else(PoisonError::into_inner);
        if let Entry::Occupied(mut count) = of_peer.entry(self.peer) {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
    }
}

/// How many guesses of a peer, at recipients or at keys, are endured in an hour.
#[derive(Debug, Clone, Copy)]
pub(super) struct Endured {
    free: u32,
    max: u32,
    delay_min_millis: u32,
    delay_max_millis: u32,
}

impl From<HarvestConfig> for Endured {
    fn from(of: HarvestConfig) -> Self {
        let (free, max) = (of.unknown_recipients_free, of.unknown_recipients_max);
        Self { free, max, delay_min_millis: of.delay_min_millis, delay_max_millis: of.delay_max_millis }
    }
}

impl From<GuessConfig> for Endured {
    fn from(of: GuessConfig) -> Self {
        let (free, max) = (of.wrong_keys_free, of.wrong_keys_max);
        Self { free, max, delay_min_millis: of.delay_min_millis, delay_max_millis: of.delay_max_millis }
    }
}

/// What is done about a peer's next guess.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Patience {
    /// Answered at once.
    Full,
    /// Answered after this.
    Short(Duration),
    /// The connection ends.
    None,
}

struct Guesses {
    count: u32,
    since: i64,
}

/// Counts guesses by peer.
pub(super) struct Guessing {
    endured: Endured,
    guesses: Mutex<LruCache<IpAddr, Guesses>>,
}

impl Guessing {
    pub(super) fn new(endured: impl Into<Endured>) -> Self {
        Self { endured: endured.into(), guesses: Mutex::new(LruCache::new(GUESSERS_MAX)) }
    }

    /// Tells whether a peer has used up all patience.
    pub(super) fn is_spent(&self, peer: IpAddr, now: i64) -> bool {
        let mut guesses = self.guesses.lock().unwrap_or_else(PoisonError::into_inner);
        guesses.get(&peer).is_some_and(|of| now - of.since < GUESSES_MICROS && of.count > self.endured.max)
    }

    /// Counts a wrong guess.
    pub(super) fn note(&self, peer: IpAddr, now: i64) -> Patience {
        let mut guesses = self.guesses.lock().unwrap_or_else(PoisonError::into_inner);
        let of_peer = guesses.get_or_insert_mut(peer, || Guesses { count: 0, since: now });
        if now - of_peer.since >= GUESSES_MICROS {
            *of_peer = Guesses { count: 0, since: now };
        }
        of_peer.count = of_peer.count.saturating_add(1);
        let Endured { free, max, delay_min_millis, delay_max_millis } = self.endured;
        if of_peer.count <= free {
            return Patience::Full;
        }
        if of_peer.count > max {
            return Patience::None;
        }
        // From the shortest to the longest delay in even steps.
        let (step, steps) = (u64::from(of_peer.count - free - 1), u64::from((max - free).saturating_sub(1).max(1)));
        let (shortest, longest) = (u64::from(delay_min_millis), u64::from(delay_max_millis));
        Patience::Short(Duration::from_millis(shortest + (longest - shortest) * step / steps))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(all: usize, per_peer: usize) -> Limits {
        Limits { connections_max: all, connections_per_peer_max: per_peer, ..Limits::default() }
    }

    #[test]
    fn connections_are_counted_while_they_are_open() {
        let connections = Connections::new("smtp", &limits(2, 1));
        let peer = "192.0.2.1".parse().unwrap();
        let (first, second) = (connections.open(), connections.open());
        assert!(first.is_ok() && second.is_ok());
        assert_eq!(connections.open().err(), Some(ConnectionRefusal::TooMany));
        let of_peer = connections.of_peer(peer);
        assert_eq!(connections.of_peer(peer).err(), Some(ConnectionRefusal::TooManyFromPeer));
        drop((first, of_peer));
        assert!(connections.open().is_ok() && connections.of_peer(peer).is_ok());
        assert!(connections.of_peer.lock().unwrap().is_empty());
    }

    #[test]
    fn overload_begins_at_its_mark_and_ends_below_it() {
        let connections = Connections::new("smtp", &limits(20, 20));
        let overloaded = connections.overloaded();
        let mut open: Vec<_> = (0..15).map(|_| connections.open()).collect();
        assert!(!*overloaded.borrow());
        open.push(connections.open());
        assert!(*overloaded.borrow());
        open.pop();
        open.pop();
        assert!(*overloaded.borrow(), "it is not relieved at once");
        open.pop();
        assert!(!*overloaded.borrow());
    }

    #[test]
    fn patience_with_guesses_grows_shorter_and_ends() {
        let config =
            HarvestConfig { unknown_recipients_free: 2, unknown_recipients_max: 7, ..HarvestConfig::default() };
        let harvest = Guessing::new(config);
        let (peer, other) = ("192.0.2.1".parse().unwrap(), "192.0.2.2".parse().unwrap());
        let noted: Vec<_> = (0..8).map(|_| harvest.note(peer, 0)).collect();
        let short = |millis| Patience::Short(Duration::from_millis(millis));
        let expected =
            [Patience::Full, Patience::Full, short(1000), short(2000), short(3000), short(4000), short(5000)];
        assert_eq!(noted[..7], expected);
        assert_eq!(noted[7], Patience::None);
        assert!(harvest.is_spent(peer, 1) && !harvest.is_spent(other, 1) && !harvest.is_spent(peer, GUESSES_MICROS));
        assert_eq!(harvest.note(other, 0), Patience::Full);
        assert_eq!(harvest.note(peer, GUESSES_MICROS), Patience::Full);
    }
}
