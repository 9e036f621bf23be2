//! How much mail is taken from whom: token buckets, bounded in number.

use std::hash::Hash;
use std::net::IpAddr;
use std::num::NonZeroUsize;
use std::sync::{Mutex, PoisonError};

use domain::id::MailboxId;
use lru::LruCache;

/// How many buckets are remembered; the one used longest ago is forgotten, which fills it.
const BUCKETS_MAX: NonZeroUsize = NonZeroUsize::new(100_000).expect("it is not zero");
/// A bucket holds what flows in during this time, microseconds.
const WINDOW_MICROS: i64 = 60_000_000;

/// Buckets of one kind. A bucket is one number: when it will be full again if nothing more is taken.
struct Buckets<K> {
    /// How long one token takes to flow in, microseconds; 0 means that nothing is limited.
    token_micros: i64,
    full_at: Mutex<LruCache<K, i64>>,
}

impl<K: Hash + Eq> Buckets<K> {
    fn new(per_minute: u32) -> Self {
        let token_micros = WINDOW_MICROS.checked_div(i64::from(per_minute)).unwrap_or(0);
        Self { token_micros, full_at: Mutex::new(LruCache::new(BUCKETS_MAX)) }
    }

    /// Takes a token; tells whether there was one.
    fn take(&self, key: impl FnOnce() -> K, now: i64) -> bool {
        if self.token_micros == 0 {
            return true;
        }
        let mut buckets = self.full_at.lock().unwrap_or_else(PoisonError::into_inner);
        let full_at = buckets.get_or_insert_mut(key(), || now);
        let next = (*full_at).max(now) + self.token_micros;
        let granted = next <= now + WINDOW_MICROS;
        if granted {
            *full_at = next;
        }
        granted
    }
}

/// The rates of mail coming in.
pub(super) struct Rates {
    per_mailbox_and_peer: Buckets<(MailboxId, IpAddr)>,
    per_mailbox: Buckets<MailboxId>,
    reports_per_peer: Buckets<IpAddr>,
}

impl Rates {
    pub(super) fn new(per_minute_per_mailbox_and_peer: u32, per_minute_per_mailbox: u32) -> Self {
        Self {
            per_mailbox_and_peer: Buckets::new(per_minute_per_mailbox_and_peer),
            per_mailbox: Buckets::new(per_minute_per_mailbox),
            reports_per_peer: Buckets::new(per_minute_per_mailbox),
        }
    }

    /// Counts a mail from a peer to a mailbox; tells whether it is within the rates.
    pub(super) fn admit(&self, mailbox: &MailboxId, peer: IpAddr, now: i64) -> bool {
        // The peer's bucket first, so that a flood does not use up what others may send to the mailbox.
        self.per_mailbox_and_peer.take(|| (mailbox.clone(), peer), now)
            && self.per_mailbox.take(|| mailbox.clone(), now)
    }

    /// Counts a report from a peer; tells whether it is within the rate. Large hosts return much, so a peer has as much as
    /// a mailbox has from all.
    pub(super) fn admit_report(&self, peer: IpAddr, now: i64) -> bool {
        self.reports_per_peer.take(|| peer, now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_gives_a_minutes_worth_at_once_and_then_its_rate() {
        let buckets = Buckets::new(60);
        let taken = |now: i64| (0..1_000).take_while(|_| buckets.take(|| 'a', now)).count();
        assert_eq!(taken(0), 60);
        assert_eq!(taken(999_999), 0);
        assert_eq!(taken(1_000_000), 1);
        assert_eq!(taken(31_000_000), 30);
        assert_eq!(taken(1_000_000_000), 60);
        assert!((0..1_000).all(|_| Buckets::new(0).take(|| 'a', 0)));
    }

    #[test]
    fn a_flood_from_one_peer_leaves_the_mailbox_open_to_others() {
        let rates = Rates::new(10, 20);
        let mailbox = MailboxId::new(1, [1; 9]);
        let (a, b): (IpAddr, IpAddr) = ("192.0.2.1".parse().unwrap(), "192.0.2.2".parse().unwrap());
        let admitted = |peer: IpAddr| (0..100).filter(|_| rates.admit(&mailbox, peer, 0)).count();
        assert_eq!((admitted(a), admitted(b)), (10, 10));
        assert_eq!(admitted("192.0.2.3".parse().unwrap()), 0);
    }
}
