//! Greylisting (RFC 6647): who sends to a mailbox for the first time is asked to come again in a few minutes.
//!
//! What is remembered is bookkeeping of this node, in memory and bounded: forgetting it costs a sender one more delay.

use std::net::IpAddr;
use std::num::NonZeroUsize;
use std::sync::{Mutex, PoisonError};

use lru::LruCache;
use sha2::{Digest, Sha256};

use crate::smtp::counted_as;

/// How many triplets are remembered; the one used longest ago is forgotten.
const TRIPLETS_MAX: NonZeroUsize = NonZeroUsize::new(500_000).expect("it is not zero");

/// How long senders wait, and how long it is remembered that they did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Times {
    /// A sender that comes again sooner is put off again, microseconds.
    pub delay_micros: i64,
    /// A sender that comes again later is new again, microseconds.
    pub window_micros: i64,
    /// How long a sender that has passed does not wait, counted from its last mail, microseconds.
    pub pass_micros: i64,
}

#[derive(Debug, Clone, Copy)]
enum Seen {
    /// First at this time, and not in time again since.
    First(i64),
    /// It has passed, last at this time.
    Passed(i64),
}

/// See the module.
pub(super) struct Greylist {
    times: Option<Times>,
    seen: Mutex<LruCache<[u8; 16], Seen>>,
}

impl Greylist {
    /// Returns a list; without times it puts nobody off.
    pub(super) fn new(times: Option<Times>) -> Self {
        Self { times, seen: Mutex::new(LruCache::new(TRIPLETS_MAX)) }
    }

    /// Tells whether mail from a sender at a network to a mailbox is taken now.
    pub(super) fn admit(&self, peer: IpAddr, sender: &str, mailbox: &str, now: i64) -> bool {
        let Some(times) = self.times else { return true };
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let triplet = triplet(peer, sender, mailbox);
        let next = match seen.get(&triplet).copied() {
            Some(Seen::Passed(last)) if now - last < times.pass_micros => Seen::Passed(now),
            Some(Seen::First(first)) if now - first < times.delay_micros => Seen::First(first),
            Some(Seen::First(first)) if now - first < times.window_micros => Seen::Passed(now),
            Some(_) | None => Seen::First(now),
        };
        seen.put(triplet, next);
        matches!(next, Seen::Passed(_))
    }
}

/// Large senders retry from another machine of the same network: here an IPv4 /24 is one peer too.
fn network(peer: IpAddr) -> IpAddr {
    match counted_as(peer) {
        IpAddr::V4(v4) => IpAddr::V4((v4.to_bits() & !0xff).into()),
        v6 @ IpAddr::V6(_) => v6,
    }
}

fn triplet(peer: IpAddr, sender: &str, mailbox: &str) -> [u8; 16] {
    let digest = Sha256::new()
        .chain_update(network(peer).to_string())
        .chain_update([0])
        .chain_update(sender.to_lowercase())
        .chain_update([0])
        .chain_update(mailbox)
        .finalize();
    let mut triplet = [0; 16];
    triplet.copy_from_slice(&digest[..16]);
    triplet
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: i64 = 60_000_000;
    const DAY: i64 = 24 * 60 * MINUTE;

    fn list() -> Greylist {
        Greylist::new(Some(Times { delay_micros: 5 * MINUTE, window_micros: DAY, pass_micros: 35 * DAY }))
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_new_sender_waits_once_and_then_comes_and_goes() {
        let list = list();
        let at = |now: i64| list.admit(ip("192.0.2.1"), "a@sender.test", "mbx_1", now);
        assert!(!at(0) && !at(MINUTE) && !at(5 * MINUTE - 1), "haste does not help, nor does it begin the wait again");
        assert!(at(5 * MINUTE) && at(5 * MINUTE + 1));
        assert!(at(30 * DAY) && at(60 * DAY), "each mail keeps the door open for 35 days more");
        assert!(!at(60 * DAY + 35 * DAY), "who was away that long is new");
    }

    #[test]
    fn who_never_comes_again_in_time_stays_new() {
        let list = list();
        let at = |now: i64| list.admit(ip("192.0.2.1"), "a@sender.test", "mbx_1", now);
        assert!(!at(0) && !at(DAY) && !at(2 * DAY));
        assert!(at(2 * DAY + 5 * MINUTE));
    }

    #[test]
    fn a_network_is_one_peer_and_everything_else_tells_senders_apart() {
        let list = list();
        assert!(!list.admit(ip("192.0.2.1"), "A@sender.test", "mbx_1", 0));
        assert!(!list.admit(ip("2001:db8::1"), "a@sender.test", "mbx_1", 0));
        let now = 5 * MINUTE;
        assert!(list.admit(ip("192.0.2.77"), "a@Sender.test", "mbx_1", now));
        assert!(list.admit(ip("::ffff:192.0.2.77"), "a@sender.test", "mbx_1", now));
        assert!(list.admit(ip("2001:db8::ffff"), "a@sender.test", "mbx_1", now));
        for (peer, sender, mailbox) in [
            ("192.0.3.1", "a@sender.test", "mbx_1"),
            ("192.0.2.1", "b@sender.test", "mbx_1"),
            ("192.0.2.1", "a@sender.test", "mbx_2"),
            ("192.0.2.1", "", "mbx_1"),
            ("2001:db8:0:1::1", "a@sender.test", "mbx_1"),
        ] {
            assert!(!list.admit(ip(peer), sender, mailbox, now), "{peer} {sender} {mailbox}");
        }
    }

    #[test]
    fn switched_off_it_puts_nobody_off() {
        assert!(Greylist::new(None).admit(ip("192.0.2.1"), "a@sender.test", "mbx_1", 0));
    }
}
