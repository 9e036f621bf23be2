//! The one task that finds what is due and has it looked at.
//!
//! It holds all state in memory and never waits for anything but its own next step: every page, look and write is a task
//! of its own set whose result comes back as a [`Done`]. Dropping the reactor drops them all, which is what a crash
//! would do.

mod plan;
mod teams;

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use domain::id::{AddressId, OutboundId, Position, SecretId, TeamId};
use domain::outbound::Outbound;
use domain::provider::credentials::Credentials;
use eventlog::{Allot, EventLog, Hint, LogError};
use mail::address::Address;
use mail::auth::{DkimSigner, Resolver};
use mail::verp::MacKey;
use tokio::task::{JoinError, JoinSet};
use tokio::time::{Instant, sleep_until, timeout_at};
use tokio_util::sync::CancellationToken;

use super::config::Config;
use super::direct::Sites;
use super::patience::Patience;
use super::queue::{Leased, Next, Queue, Settlement};
use super::results::Judge;
use super::sandbox::LocalDelivery;
use super::ses::Ses;
use super::visit::{Used, Visit};
use crate::moves::Moves;
use crate::smtp::Mailer;

use plan::Planned;

/// Teams whose leases are asked for with one statement.
const ACQUIRE_MAX: usize = 256;
/// Settlements written at a time.
const SETTLE_MAX: usize = 1_000;
/// Pause after a database did not answer.
const PAUSE: Duration = Duration::from_millis(500);
/// How often old transcripts are dropped.
const EXPIRE_EVERY: Duration = Duration::from_secs(600);

/// The reactor cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A part of it panicked; what it had not written down is looked at again after a restart.
    #[error("a task of the outbound reactor ended badly")]
    Task(#[from] JoinError),
}

/// Makes the id of an address within a team.
pub type Addresses = Arc<dyn Fn(&TeamId, &Address) -> AddressId + Send + Sync>;

/// What a reactor works with.
pub struct Parts {
    /// The truth.
    pub log: EventLog,
    /// Its own bookkeeping.
    pub queue: Queue,
    /// Hands mail over; see [`Config::mailer`].
    pub mailer: Mailer,
    /// Finds mail exchangers.
    pub resolver: Arc<dyn Resolver>,
    /// Takes mail to this installation's own mailboxes.
    pub local: Arc<dyn LocalDelivery>,
    /// Time and randomness.
    pub allot: Allot,
    /// How mail is carried.
    pub config: Config,
    /// Names who holds leases. It must differ between nodes that share a work database, and stay the same when a node is
    /// started again.
    pub node: String,
}

/// What all tasks of the reactor share.
pub(crate) struct Context {
    pub(crate) log: EventLog,
    pub(crate) queue: Queue,
    pub(crate) mailer: Mailer,
    pub(crate) resolver: Arc<dyn Resolver>,
    pub(crate) local: Arc<dyn LocalDelivery>,
    pub(crate) allot: Allot,
    pub(crate) config: Config,
    pub(crate) node: String,
    pub(crate) sites: Sites,
    pub(crate) signers: std::sync::Mutex<HashMap<SecretId, Arc<DkimSigner>>>,
    pub(crate) credentials: std::sync::Mutex<HashMap<SecretId, Credentials>>,
    pub(crate) return_path_key: Option<MacKey>,
    pub(crate) patience: Patience,
    pub(crate) ses: Ses,
    /// Makes the digests of addresses; without it reports to senders stay in this installation.
    pub(crate) addresses: Option<Addresses>,
}

impl Context {
    pub(crate) fn judge<'a>(&'a self, mail: &'a Outbound, attempt: u32, direct: bool, host: &'a str) -> Judge<'a> {
        Judge { mail, attempt, policy: &self.config.retry, allot: &self.allot, direct, host, onward: None }
    }

    /// Returns when a lease that is taken or renewed now ends, in stored time.
    fn lease_end(&self) -> i64 {
        let lease = i64::try_from(self.config.lease().as_micros()).unwrap_or(i64::MAX);
        self.allot.now().saturating_add(lease)
    }
}

/// What a task comes back with.
enum Done {
    Acquired(Vec<TeamId>, Result<Vec<Leased>, projections::Error>),
    Renewed(Vec<TeamId>, Result<BTreeSet<TeamId>, projections::Error>),
    Polled { due: Result<Vec<TeamId>, projections::Error>, moved: Result<Vec<(TeamId, Position, i64)>, LogError> },
    Walked { teams: Vec<TeamId>, next: Option<Option<TeamId>> },
    Planned(TeamId, Result<Planned, String>),
    Due(TeamId, Result<(Vec<OutboundId>, i64), projections::Error>),
    Visited(Box<Settlement>),
    Settled(Vec<Settlement>, Result<(), projections::Error>),
    Idle,
}

/// What is known of a team whose lease is held.
struct Team {
    cursor: Position,
    /// Where its log ends, at least.
    head: Position,
    is_planning: bool,
    /// Where its log was thought to end when it was last read.
    planned_for: Position,
    is_looking: bool,
    /// Mails that are due and not being looked at.
    queue: VecDeque<OutboundId>,
    /// Mails that are being looked at, or whose outcome is being written; `true` if one was changed meanwhile.
    active: BTreeMap<OutboundId, bool>,
    /// When the next mail is due, at the earliest.
    next_due_at: i64,
    /// The earliest that became known while the database was asked.
    due_meanwhile: i64,
    used: Used,
    idle_since: Instant,
}

impl Team {
    fn new(leased: Leased, head: Position) -> Self {
        Self {
            cursor: leased.cursor,
            head,
            is_planning: false,
            planned_for: 0,
            is_looking: false,
            queue: VecDeque::new(),
            active: BTreeMap::new(),
            next_due_at: leased.next_due_at,
            due_meanwhile: i64::MAX,
            used: Arc::new(tokio::sync::Mutex::new(leased.usage)),
            idle_since: Instant::now(),
        }
    }

    fn alarm(&mut self, at: i64) {
        self.next_due_at = self.next_due_at.min(at);
        self.due_meanwhile = self.due_meanwhile.min(at);
    }

    fn is_idle(&self) -> bool {
        let busy = self.is_planning || self.is_looking || self.cursor < self.head;
        !busy && self.queue.is_empty() && self.active.is_empty()
    }
}

/// Carries outgoing mail. See the module `outbound`.
pub struct Reactor {
    context: Arc<Context>,
    teams: BTreeMap<TeamId, Team>,
    /// Teams whose lease is wanted, with where their log ends as far as known.
    wanted: BTreeMap<TeamId, Position>,
    /// Whose turn was last.
    last: Option<TeamId>,
    /// Mails being looked at.
    in_flight: usize,
    settlements: Vec<Settlement>,
    is_settling: bool,
    is_acquiring: bool,
    is_renewing: bool,
    is_polling: bool,
    renew_at: Instant,
    poll_at: Instant,
    expire_at: Instant,
    moves: Moves,
    is_stopping: bool,
    tasks: JoinSet<Done>,
}

impl std::fmt::Debug for Reactor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reactor").field("teams", &self.teams.len()).finish_non_exhaustive()
    }
}

impl Reactor {
    /// Returns a reactor that carries a log's outgoing mail.
    #[must_use]
    pub fn new(parts: Parts) -> Self {
        let Parts { log, queue, mailer, resolver, local, allot, config, node } = parts;
        let now = Instant::now();
        let (renew_at, moves) = (now + config.lease() / 3, Moves::new(allot.now()));
        let (sites, signers) = (Sites::default(), std::sync::Mutex::default());
        let ses = Ses::new(&config);
        let context = Context {
            log,
            queue,
            mailer,
            resolver,
            local,
            allot,
            config,
            node,
            sites,
            signers,
            credentials: std::sync::Mutex::default(),
            return_path_key: None,
            patience: Patience::default(),
            ses,
            addresses: None,
        };
        Self {
            context: Arc::new(context),
            teams: BTreeMap::new(),
            wanted: BTreeMap::new(),
            last: None,
            in_flight: 0,
            settlements: vec![],
            is_settling: false,
            is_acquiring: false,
            is_renewing: false,
            is_polling: false,
            renew_at,
            poll_at: now,
            expire_at: now + EXPIRE_EVERY,
            moves,
            is_stopping: false,
            tasks: JoinSet::new(),
        }
    }

    /// Makes return paths under a key, where the configuration has a bounce domain. Whoever receives for that domain
    /// reads them with the same key.
    #[must_use]
    pub fn with_return_paths(mut self, key: MacKey) -> Self {
        if let Some(context) = Arc::get_mut(&mut self.context) {
            context.return_path_key = Some(key);
        }
        self
    }

    /// Sends reports to senders who have no mailbox here (RFC 3464) as mails of their own, whose recipients have these
    /// digests.
    #[must_use]
    pub fn with_addresses(mut self, addresses: Addresses) -> Self {
        if let Some(context) = Arc::get_mut(&mut self.context) {
            context.addresses = Some(addresses);
        }
        self
    }

    /// Carries mail until it is told to stop; then finishes what is on its way, as long as that may take, and gives its
    /// leases back.
    ///
    /// # Errors
    /// [`Error::Task`]. Databases and servers that do not answer are no errors: they are tried again.
    pub async fn run(mut self, stop: CancellationToken) -> Result<(), Error> {
        let mut hints = self.context.log.wake().all();
        self.walk(None);
        loop {
            self.turn();
            let wake_at = self.next_look();
            tokio::select! {
                () = stop.cancelled() => break,
                Some(done) = self.tasks.join_next() => self.take_all(done)?,
                hint = hints.next() => match hint {
                    Some(Hint { team, head, .. }) => self.moved(team, head),
                    // Hints were missed: the poll finds whoever moved.
                    None => self.poll_at = Instant::now(),
                },
                () = sleep_until(wake_at) => {}
            }
        }
        self.shut_down().await
    }

    /// Does everything that can be done without waiting.
    fn turn(&mut self) {
        self.keep_leases();
        self.poll();
        self.plan();
        self.look();
        self.take_turns();
        self.write();
    }

    /// Returns when something is due at the latest. Stored time may be moved by a test or an operator, so that it is
    /// looked at once per poll whatever it said before.
    fn next_look(&self) -> Instant {
        let now = self.context.allot.now();
        let due = self.teams.values().filter(|t| !t.is_looking && t.queue.is_empty() && t.active.is_empty());
        let due = due.map(|team| team.next_due_at).min().unwrap_or(i64::MAX);
        let micros = u64::try_from(due.saturating_sub(now)).unwrap_or(0);
        let due = Instant::now() + Duration::from_micros(micros).min(Duration::from_secs(60));
        due.min(self.poll_at).min(self.renew_at)
    }

    fn take_all(&mut self, done: Result<Done, JoinError>) -> Result<(), Error> {
        self.take(done?);
        while let Some(done) = self.tasks.try_join_next() {
            self.take(done?);
        }
        Ok(())
    }

    fn take(&mut self, done: Done) {
        match done {
            Done::Acquired(asked, taken) => self.acquired(asked, taken),
            Done::Renewed(asked, held) => self.renewed(asked, held),
            Done::Polled { due, moved } => self.polled(due, moved),
            Done::Walked { teams, next } => {
                for team in teams {
                    self.moved(team, 0);
                }
                if let Some(after) = next {
                    self.walk(after);
                }
            }
            Done::Planned(team, planned) => self.planned(&team, planned),
            Done::Due(team, found) => self.found(&team, found),
            Done::Visited(settlement) => {
                self.in_flight = self.in_flight.saturating_sub(1);
                metrics::gauge!("outbound_inflight").set(self.in_flight as f64);
                self.settlements.push(*settlement);
            }
            Done::Settled(all, result) => self.settled(all, result),
            Done::Idle => {}
        }
    }

    /// Looks for due mail of teams that have some.
    fn look(&mut self) {
        if self.is_stopping {
            return;
        }
        let now = self.context.allot.now();
        let (page, most) = (self.context.config.page_mails, self.context.config.concurrency_per_team_max);
        for (id, team) in &mut self.teams {
            let full = team.active.len() >= most || !team.queue.is_empty();
            if full || team.is_looking || team.next_due_at > now {
                continue;
            }
            (team.is_looking, team.due_meanwhile) = (true, i64::MAX);
            let (context, id, limit) = (Arc::clone(&self.context), id.clone(), team.active.len() + page);
            self.tasks.spawn(async move {
                let found = context.queue.due(&id, now, limit).await;
                if found.is_err() {
                    tokio::time::sleep(PAUSE).await;
                }
                Done::Due(id, found)
            });
        }
    }

    fn found(&mut self, id: &TeamId, found: Result<(Vec<OutboundId>, i64), projections::Error>) {
        let Some(team) = self.teams.get_mut(id) else { return };
        team.is_looking = false;
        match found {
            Ok((due, next)) => {
                team.next_due_at = next.min(team.due_meanwhile);
                team.queue.extend(due.into_iter().filter(|id| !team.active.contains_key(id)));
            }
            Err(error) => tracing::warn!(team.id = %id, %error, "due mail could not be looked for; trying again"),
        }
    }

    /// Starts looks, one of each team in turn.
    fn take_turns(&mut self) {
        let (most, per_team) = (self.context.config.concurrency_max, self.context.config.concurrency_per_team_max);
        while self.in_flight < most && !self.is_stopping {
            // The last quarter is for teams that have nothing on its way: a few teams whose servers hang must not hold
            // all there is.
            let share = per_team.min((most - self.in_flight).saturating_sub(most / 4)).max(1);
            let ready = |team: &Team| !team.queue.is_empty() && team.active.len() < share;
            let after = self.last.as_ref().map_or(std::ops::Bound::Unbounded, std::ops::Bound::Excluded);
            let later = self.teams.range::<TeamId, _>((after, std::ops::Bound::Unbounded));
            let next = later.chain(self.teams.iter()).find(|(_, team)| ready(team)).map(|(id, _)| id.clone());
            let Some(id) = next else { return };
            self.last = Some(id.clone());
            let Some(team) = self.teams.get_mut(&id) else { return };
            let Some(outbound) = team.queue.pop_front() else { return };
            if team.active.contains_key(&outbound) {
                continue;
            }
            team.active.insert(outbound.clone(), false);
            let visit = Visit {
                context: Arc::clone(&self.context),
                team: id,
                outbound,
                used: Arc::clone(&team.used),
                transcripts: vec![],
                usage: BTreeMap::new(),
                heard: false,
                notify_at: None,
            };
            self.in_flight += 1;
            metrics::gauge!("outbound_inflight").set(self.in_flight as f64);
            self.tasks.spawn(async move { Done::Visited(Box::new(visit.run().await)) });
        }
    }

    /// Writes down what became of mails: all that came during the last write.
    fn write(&mut self) {
        if self.is_settling || self.settlements.is_empty() {
            return;
        }
        self.is_settling = true;
        let n = self.settlements.len().min(SETTLE_MAX);
        let mut all: Vec<_> = self.settlements.drain(..n).collect();
        for settlement in &mut all {
            let team = self.teams.get(&settlement.team);
            if team.and_then(|t| t.active.get(&settlement.outbound)).is_some_and(|changed| *changed) {
                settlement.next = Next::At { due_at: 0, waits: false };
            }
        }
        let context = Arc::clone(&self.context);
        self.tasks.spawn(async move {
            let written = context.queue.settle(&all, &context.node, context.lease_end()).await;
            if written.is_err() {
                tokio::time::sleep(PAUSE).await;
            }
            Done::Settled(all, written)
        });
    }

    fn settled(&mut self, all: Vec<Settlement>, written: Result<(), projections::Error>) {
        self.is_settling = false;
        if let Err(error) = written {
            tracing::warn!(%error, "what became of mails could not be written down; trying again");
            self.settlements.extend(all);
            return;
        }
        for settlement in all {
            let Some(team) = self.teams.get_mut(&settlement.team) else { continue };
            let changed = team.active.remove(&settlement.outbound).unwrap_or_default();
            team.idle_since = Instant::now();
            match settlement.next {
                Next::At { due_at, .. } => team.alarm(due_at),
                Next::Settled => {}
            }
            if changed {
                // Its row was written with or without the change: it is looked at again in either case.
                team.queue.push_back(settlement.outbound);
            }
        }
    }

    /// Finishes what is on its way, writes it down and gives the leases back.
    async fn shut_down(mut self) -> Result<(), Error> {
        self.is_stopping = true;
        let until = Instant::now() + Duration::from_secs(self.context.config.drain_seconds);
        // A lease that is being taken is waited for too: it would keep others off until its end.
        while self.in_flight > 0 || self.is_settling || !self.settlements.is_empty() || self.is_acquiring {
            self.write();
            match timeout_at(until, self.tasks.join_next()).await {
                Ok(Some(done)) => self.take_all(done)?,
                Ok(None) => break,
                Err(_) => {
                    tracing::warn!(mails = self.in_flight, "stopping with mail on its way: it becomes uncertain");
                    break;
                }
            }
        }
        self.tasks.abort_all();
        let teams: Vec<_> = self.teams.keys().cloned().collect();
        let release = self.context.queue.release(&teams, &self.context.node);
        if !matches!(tokio::time::timeout(Duration::from_secs(5), release).await, Ok(Ok(()))) {
            tracing::warn!("leases could not be given back; other nodes wait for their end");
        }
        Ok(())
    }
}
