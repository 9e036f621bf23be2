//! Whose turn it is: teams take turns, and no team, host or webhook takes more than its share. Pure.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;

use domain::id::{TeamId, WebhookId};

use crate::queue::Key;

/// How many attempts may be on their way.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shares {
    pub(crate) total_max: usize,
    pub(crate) team_max: usize,
    pub(crate) host_max: usize,
    pub(crate) host_and_team_max: usize,
}

#[derive(Debug, Default)]
struct Team {
    in_flight: usize,
    ready: VecDeque<WebhookId>,
    in_ring: bool,
}

#[derive(Debug, Default)]
struct Host {
    in_flight: usize,
    by_team: HashMap<TeamId, usize>,
    waiting: VecDeque<Key>,
}

impl Host {
    fn has_room(&self, team: &TeamId, shares: &Shares) -> bool {
        self.in_flight < shares.host_max && self.by_team.get(team).is_none_or(|n| *n < shares.host_and_team_max)
    }
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Turns {
    shares: Shares,
    in_flight: usize,
    teams: HashMap<TeamId, Team>,
    /// Teams with webhooks that are ready, in the order of their turns.
    ring: VecDeque<TeamId>,
    hosts: HashMap<Arc<str>, Host>,
    /// Webhooks that stand in a team's or a host's line.
    queued: HashSet<Key>,
}

impl Turns {
    pub(crate) fn new(shares: Shares) -> Self {
        Self {
            shares,
            in_flight: 0,
            teams: HashMap::new(),
            ring: VecDeque::new(),
            hosts: HashMap::new(),
            queued: HashSet::new(),
        }
    }

    /// Returns how many attempts are on their way.
    pub(crate) fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// Puts a webhook that could start an attempt into its team's line, unless it stands in one.
    pub(crate) fn enqueue(&mut self, key: &Key) {
        if !self.queued.insert(key.clone()) {
            return;
        }
        let team = self.teams.entry(key.team.clone()).or_default();
        team.ready.push_back(key.webhook.clone());
        if !team.in_ring {
            team.in_ring = true;
            self.ring.push_back(key.team.clone());
        }
    }

    /// Takes the next webhook out of its line; `None` while all shares are taken or nobody waits.
    pub(crate) fn next(&mut self) -> Option<Key> {
        if self.in_flight >= self.shares.total_max {
            return None;
        }
        loop {
            let id = self.ring.pop_front()?;
            let Some(team) = self.teams.get_mut(&id) else { continue };
            team.in_ring = false;
            if team.in_flight >= self.shares.team_max {
                // Its next release puts it back.
                continue;
            }
            let Some(webhook) = team.ready.pop_front() else {
                self.forget_idle_team(&id);
                continue;
            };
            if !team.ready.is_empty() {
                team.in_ring = true;
                self.ring.push_back(id.clone());
            }
            let key = Key { team: id, webhook };
            self.queued.remove(&key);
            return Some(key);
        }
    }

    /// Takes a place for an attempt. Where the host has none left, the webhook waits for it and `false` is returned.
    pub(crate) fn take(&mut self, key: &Key, origin: &Arc<str>) -> bool {
        let host = self.hosts.entry(Arc::clone(origin)).or_default();
        if !host.has_room(&key.team, &self.shares) {
            if self.queued.insert(key.clone()) {
                host.waiting.push_back(key.clone());
            }
            return false;
        }
        host.in_flight += 1;
        *host.by_team.entry(key.team.clone()).or_default() += 1;
        self.teams.entry(key.team.clone()).or_default().in_flight += 1;
        self.in_flight += 1;
        true
    }

    /// Gives a place back.
    pub(crate) fn release(&mut self, key: &Key, origin: &Arc<str>) {
        self.in_flight = self.in_flight.saturating_sub(1);
        if let Some(team) = self.teams.get_mut(&key.team) {
            team.in_flight = team.in_flight.saturating_sub(1);
            if !team.in_ring && !team.ready.is_empty() {
                team.in_ring = true;
                self.ring.push_back(key.team.clone());
            }
        }
        self.forget_idle_team(&key.team);
        if let Some(host) = self.hosts.get_mut(origin) {
            host.in_flight = host.in_flight.saturating_sub(1);
            if let Some(n) = host.by_team.get_mut(&key.team) {
                *n -= 1;
                if *n == 0 {
                    host.by_team.remove(&key.team);
                }
            }
        }
        self.wake(origin);
    }

    /// Lets the first webhook that waits for a host and may use it now take its team's next turn. Called when a place
    /// became free, or was not used after all.
    pub(crate) fn wake(&mut self, origin: &Arc<str>) {
        let Some(host) = self.hosts.get_mut(origin) else { return };
        let shares = self.shares;
        let index = host.waiting.iter().position(|key| host.has_room(&key.team, &shares));
        let woken = index.and_then(|index| host.waiting.remove(index));
        if host.in_flight == 0 && host.waiting.is_empty() {
            self.hosts.remove(origin);
        }
        if let Some(key) = woken {
            self.queued.remove(&key);
            self.enqueue(&key);
        }
    }

    /// Takes a webhook out of whatever line it stands in.
    pub(crate) fn forget(&mut self, key: &Key, origin: &Arc<str>) {
        if !self.queued.remove(key) {
            return;
        }
        if let Some(team) = self.teams.get_mut(&key.team) {
            team.ready.retain(|webhook| *webhook != key.webhook);
        }
        if let Some(host) = self.hosts.get_mut(origin) {
            host.waiting.retain(|waiting| waiting != key);
        }
        self.wake(origin);
    }

    fn forget_idle_team(&mut self, id: &TeamId) {
        if self.teams.get(id).is_some_and(|team| team.in_flight == 0 && team.ready.is_empty() && !team.in_ring) {
            self.teams.remove(id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(team: u8, webhook: u8) -> Key {
        Key { team: TeamId::new(1, [team; 9]), webhook: WebhookId::new(1, [webhook; 9]) }
    }

    fn turns() -> Turns {
        Turns::new(Shares { total_max: 10, team_max: 3, host_max: 4, host_and_team_max: 2 })
    }

    #[test]
    fn teams_take_turns_however_many_webhooks_one_has() {
        let mut t = turns();
        (1..=4).for_each(|n| t.enqueue(&key(1, n)));
        t.enqueue(&key(2, 9));
        t.enqueue(&key(2, 9));
        let order: Vec<_> = std::iter::from_fn(|| t.next()).collect();
        assert_eq!(order, [key(1, 1), key(2, 9), key(1, 2), key(1, 3), key(1, 4)]);
    }

    #[test]
    fn a_team_at_its_share_waits_for_its_own_release() {
        let mut t = turns();
        for n in 1..=4 {
            t.enqueue(&key(1, n));
        }
        let hosts: Vec<Arc<str>> = ["a", "b", "c"].map(Arc::from).into();
        for host in &hosts {
            let next = t.next().unwrap();
            assert!(t.take(&next, host));
        }
        assert_eq!(t.next(), None);
        t.enqueue(&key(2, 1));
        assert_eq!(t.next(), Some(key(2, 1)));
        t.release(&key(1, 1), &hosts[0]);
        assert_eq!(t.next(), Some(key(1, 4)));
        assert_eq!(t.in_flight(), 2);
    }

    #[test]
    fn a_host_keeps_room_for_a_second_team() {
        let mut t = turns();
        let host: Arc<str> = "host".into();
        assert!(t.take(&key(1, 1), &host) && t.take(&key(1, 2), &host));
        assert!(!t.take(&key(1, 3), &host));
        assert!(t.take(&key(2, 1), &host));
        t.release(&key(2, 1), &host);
        assert_eq!(t.next(), None, "the waiting team has its share");
        t.release(&key(1, 1), &host);
        assert_eq!(t.next(), Some(key(1, 3)));
    }

    #[test]
    fn a_place_that_is_not_used_goes_to_the_next_in_line() {
        let mut t = turns();
        let host: Arc<str> = "host".into();
        assert!(t.take(&key(1, 1), &host) && t.take(&key(1, 2), &host));
        assert!(!t.take(&key(1, 3), &host) && !t.take(&key(1, 4), &host));
        t.release(&key(1, 1), &host);
        t.forget(&key(1, 3), &host);
        assert_eq!(t.next(), Some(key(1, 4)));
    }

    #[test]
    fn nothing_is_kept_of_those_who_are_done() {
        let mut t = turns();
        let host: Arc<str> = "host".into();
        t.enqueue(&key(1, 1));
        let next = t.next().unwrap();
        assert!(t.take(&next, &host));
        t.release(&next, &host);
        assert!(t.teams.is_empty() && t.hosts.is_empty() && t.queued.is_empty() && t.ring.is_empty());
    }
}
