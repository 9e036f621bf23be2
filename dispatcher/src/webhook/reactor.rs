//! The one task that visits webhooks with something to do.
//!
//! It holds all state in memory and never waits for anything but its own next step: every look-up, page, request and
//! write is a task of its own set whose result comes back as a [`Done`]. Dropping the reactor drops them all, which is
//! what a crash would do.
//!
//! Where things are: this file decides what is looked at; `reactor/leases.rs` takes and keeps webhooks,
//! `reactor/deliveries.rs` reads and attempts, `reactor/writes.rs` writes down.

mod deliveries;
mod leases;
mod writes;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use domain::id::{Position, TeamId, WebhookId};
use eventlog::{Allot, EventLog, Hint, LogError};
use projections::Views;
use tokio::sync::Semaphore;
use tokio::task::{JoinError, JoinSet};
use tokio::time::{Instant, sleep_until, timeout_at};
use tokio_util::sync::CancellationToken;

use super::active::Active;
use super::attempt::{Attempted, Job};
use super::config::Config;
use super::endpoint::{self, Endpoint, Seen, Unready, Visit};
use super::item::LogPage;
use super::turns::{Shares, Turns};
use crate::egress::Client;
use crate::queue::{Key, Queue, Write};
use crate::retry::{InvalidSchedule, Schedule};

/// Teams looked at at the same time.
const VISITS_MAX: usize = 16;
/// How long a webhook that another node holds is left alone.
const HELD_ELSEWHERE: Duration = Duration::from_secs(5);
/// Longest wait for the last write.
const LAST_WRITE_WITHIN: Duration = Duration::from_secs(5);

/// The reactor cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The retry schedule makes no sense.
    #[error(transparent)]
    Schedule(#[from] InvalidSchedule),
    /// A part of it panicked; what it had not written down is done again after a restart.
    #[error("a task of the webhook reactor ended badly")]
    Task(#[from] JoinError),
}

/// What all tasks of the reactor share.
#[derive(Debug)]
pub(crate) struct Context {
    pub(crate) log: EventLog,
    pub(crate) views: Views,
    pub(crate) queue: Queue,
    pub(crate) client: Client,
    pub(crate) allot: Allot,
    pub(crate) config: Config,
    pub(crate) schedule: Schedule,
    /// Under which name leases are held.
    pub(crate) node: String,
    visits: Semaphore,
    number: AtomicU32,
}

impl Context {
    /// Returns the next number of this process.
    pub(crate) fn next_number(&self) -> u32 {
        self.number.fetch_add(1, Ordering::Relaxed)
    }

    /// Returns when a lease that is taken or renewed now ends, in stored time.
    fn lease_end(&self) -> i64 {
        let lease = i64::try_from(self.config.lease().as_micros()).unwrap_or(i64::MAX);
        self.allot.now().saturating_add(lease)
    }
}

/// What a task of the reactor comes back with.
enum Done {
    Attempt(Box<Job>, Attempted),
    Page { team: TeamId, after: Position, page: Result<LogPage, LogError> },
    Scan { key: Key, lease_epoch: i64, page: Result<LogPage, LogError> },
    Visited(TeamId, Result<Visit, Unready>),
    Walked { teams: Vec<TeamId>, next: Option<Walk> },
    Endpoint(Key, Result<Option<Endpoint>, Unready>),
    Acquired(leases::Acquired),
    Renewed(leases::Renewed),
    Polled(Box<leases::Polled>),
    Written { writes: Vec<Write>, at: Instant, result: Result<Vec<Key>, projections::Error> },
    Dropped(Result<(), projections::Error>),
}

/// How far the walk over all teams at start has come.
enum Walk {
    /// Through all teams, for those whose projections are behind: a webhook may be newer. First, so that a team that
    /// catches up meanwhile is found by one of the two.
    Behind(Option<TeamId>),
    /// Through the teams that have webhooks, as far as the projection knows.
    WithWebhooks(Option<TeamId>),
}

/// What is known of a team with webhooks.
#[derive(Default)]
struct Team {
    /// Where its log ends, at least; 0 if not known yet.
    head: Position,
    webhooks: BTreeMap<WebhookId, Known>,
    is_visiting: bool,
    /// Whether something moved since the visit began.
    is_dirty: bool,
}

/// What is known of a webhook whether or not this node works at it.
struct Known {
    seen: Seen,
    /// The cursor and whether it is parked, as this node last wrote them; `None` if it has not looked yet.
    left: Option<(Position, bool)>,
    /// Another node holds it: not asked for again before this.
    elsewhere_until: Option<Instant>,
}

/// Turns events into webhook requests. See the module `webhook`.
pub struct Reactor {
    context: Arc<Context>,
    teams: HashMap<TeamId, Team>,
    active: HashMap<Key, Active>,
    turns: Turns,
    alarms: BTreeSet<(i64, Key)>,
    /// Pages that are being read, and who waits for them.
    pages: HashMap<(TeamId, Position), Vec<Key>>,
    leases: leases::State,
    writes: writes::State,
    is_stopping: bool,
    tasks: JoinSet<Done>,
}

impl std::fmt::Debug for Reactor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reactor").field("context", &self.context).finish_non_exhaustive()
    }
}

impl Reactor {
    /// Returns a reactor that delivers a log's events to the webhooks in its views.
    ///
    /// `node` names who holds leases. It must differ between nodes that share a work database, and stay the same when
    /// a node is started again: then it takes up its own webhooks at once, without waiting for its old leases to end.
    ///
    /// # Errors
    /// [`Error::Schedule`].
    pub fn new(
        log: EventLog,
        views: Views,
        queue: Queue,
        client: Client,
        allot: Allot,
        config: Config,
        node: impl Into<String>,
    ) -> Result<Self, Error> {
        let schedule = Schedule::try_from(config.schedule.clone())?;
        let turns = Turns::new(Shares {
            total_max: config.concurrency_max,
            team_max: config.concurrency_per_team_max,
            host_max: config.concurrency_per_host_max,
            host_and_team_max: config.concurrency_per_host_and_team_max,
        });
        let leases = leases::State::new(&config, allot.now());
        let context = Context {
            log,
            views,
            queue,
            client,
            allot,
            config,
            schedule,
            node: node.into(),
            visits: Semaphore::new(VISITS_MAX),
            number: AtomicU32::new(0),
        };
        Ok(Self {
            context: Arc::new(context),
            teams: HashMap::new(),
            active: HashMap::new(),
            turns,
            alarms: BTreeSet::new(),
            pages: HashMap::new(),
            leases,
            writes: writes::State::default(),
            is_stopping: false,
            tasks: JoinSet::new(),
        })
    }

    /// Delivers until it is told to stop; then finishes what is on its way, writes it down and gives its leases back.
    ///
    /// # Errors
    /// [`Error::Task`]. Databases and endpoints that do not answer are no errors: they are tried again.
    pub async fn run(mut self, stop: CancellationToken) -> Result<(), Error> {
        let mut hints = self.context.log.wake().all();
        self.walk(Walk::Behind(None));
        loop {
            self.turn();
            let wake_at = self.next_look();
            tokio::select! {
                () = stop.cancelled() => break,
                Some(done) = self.tasks.join_next() => self.take_all(done)?,
                hint = hints.next() => match hint {
                    Some(Hint { team, head, .. }) => self.moved(&team, head),
                    // Hints were missed: the poll finds whoever moved.
                    None => self.leases.poll_now(),
                },
                () = sleep_until(wake_at) => {}
            }
        }
        self.shut_down().await
    }

    /// Does everything that can be done without waiting.
    fn turn(&mut self) {
        self.ring_alarms();
        self.keep_leases();
        self.start_attempts();
        self.write_if_due();
    }

    /// Returns when something is due at the latest. Stored time may be moved by a test or an operator, so that it is
    /// looked at once per poll whatever it said before.
    fn next_look(&self) -> Instant {
        let now = Instant::now();
        let alarm = self.alarms.first().map(|(at, _)| {
            let micros = u64::try_from(at.saturating_sub(self.context.allot.now())).unwrap_or(0);
            now + Duration::from_micros(micros).min(Duration::from_secs(60))
        });
        [alarm, self.writes.due_at()].into_iter().flatten().fold(self.leases.next_at(), Instant::min)
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
            Done::Attempt(job, attempted) => self.attempted(*job, attempted),
            Done::Page { team, after, page } => self.page_read(team, after, page),
            Done::Scan { key, lease_epoch, page } => self.scanned(&key, lease_epoch, page),
            Done::Visited(team, visit) => self.visited(&team, visit),
            Done::Walked { teams, next } => {
                for team in teams {
                    let head = self.teams.get(&team).map_or(0, |team| team.head);
                    self.moved(&team, head);
                }
                if let Some(next) = next {
                    self.walk(next);
                }
            }
            Done::Endpoint(key, endpoint) => self.endpoint_loaded(key, endpoint),
            Done::Acquired(acquired) => self.acquired(acquired),
            Done::Renewed(renewed) => self.renewed(renewed),
            Done::Polled(polled) => self.polled(*polled),
            Done::Written { writes, at, result } => self.written(writes, at, result),
            Done::Dropped(result) => {
                if let Err(error) = result {
                    // Their leases run out, and whoever finds them then drops them.
                    tracing::warn!(%error, "what is kept of a deleted webhook could not be dropped");
                }
            }
        }
    }

    /// Goes on with the walk over all teams.
    fn walk(&mut self, walk: Walk) {
        const TEAMS: usize = 100;
        const BEHIND: usize = 1_000;
        let context = Arc::clone(&self.context);
        self.tasks.spawn(async move {
            let found = match &walk {
                Walk::Behind(after) => {
                    let page = projections::behind(&context.views, &context.log, after.as_ref(), BEHIND).await;
                    page.map_err(|e| e.to_string()).map(|page| {
                        let teams = page.teams.into_iter().map(|(team, _)| team).collect();
                        let next = page.next.map_or(Walk::WithWebhooks(None), |last| Walk::Behind(Some(last)));
                        (teams, Some(next))
                    })
                }
                Walk::WithWebhooks(after) => {
                    let rows = projections::webhooks::of_teams(&context.views, after.as_ref(), TEAMS).await;
                    rows.map_err(|e| e.to_string()).map(|rows| {
                        let mut teams: Vec<_> = rows.into_iter().map(|(team, _)| team).collect();
                        teams.dedup();
                        let next = teams.last().cloned().map(|last| Walk::WithWebhooks(Some(last)));
                        (teams, next)
                    })
                }
            };
            match found {
                Ok((teams, next)) => Done::Walked { teams, next },
                Err(error) => {
                    tracing::warn!(error, "teams could not be listed for webhooks; trying again");
                    tokio::time::sleep(Duration::from_secs(1)).await;
                    Done::Walked { teams: vec![], next: Some(walk) }
                }
            }
        });
    }

    /// Hears that a team's log has grown.
    fn moved(&mut self, id: &TeamId, head: Position) {
        let team = self.teams.entry(id.clone()).or_default();
        if team.head > 0 || head > 0 {
            team.head = team.head.max(head);
        }
        team.is_dirty = true;
        let webhooks: Vec<_> = team.webhooks.keys().cloned().collect();
        self.visit(id);
        for webhook in webhooks {
            self.consider(&Key { team: id.clone(), webhook });
        }
    }

    /// Looks at a team's webhooks, unless somebody does.
    fn visit(&mut self, id: &TeamId) {
        let Some(team) = self.teams.get_mut(id).filter(|team| team.is_dirty && !team.is_visiting) else { return };
        if self.is_stopping {
            return;
        }
        (team.is_dirty, team.is_visiting) = (false, true);
        let known = team.webhooks.iter().map(|(id, known)| (id.clone(), known.seen.clone())).collect();
        let (context, id, head) = (Arc::clone(&self.context), id.clone(), team.head);
        self.tasks.spawn(async move {
            let _permit = context.visits.acquire().await;
            let visit = endpoint::visit(&context, &id, head, &known).await;
            if visit.is_err() {
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
            Done::Visited(id, visit)
        });
    }

    fn visited(&mut self, id: &TeamId, visit: Result<Visit, Unready>) {
        let Some(team) = self.teams.get_mut(id) else { return };
        team.is_visiting = false;
        let visit = match visit {
            Ok(visit) => visit,
            Err(error) => {
                tracing::warn!(team.id = %id, %error, "a team's webhooks could not be looked at; trying again");
                team.is_dirty = true;
                return self.visit(id);
            }
        };
        team.head = team.head.max(visit.head);
        team.is_dirty |= visit.again;
        let mut changed = vec![];
        if let Some(found) = visit.webhooks {
            for webhook in team.webhooks.keys().filter(|webhook| !found.contains_key(webhook)) {
                changed.push(webhook.clone());
            }
            team.webhooks.retain(|webhook, _| found.contains_key(webhook));
            for (webhook, seen) in found {
                match team.webhooks.get_mut(&webhook) {
                    Some(known) if known.seen == seen => continue,
                    Some(known) => known.seen = seen,
                    None => {
                        let known = Known { seen, left: None, elsewhere_until: None };
                        team.webhooks.insert(webhook.clone(), known);
                    }
                }
                changed.push(webhook);
            }
        }
        let webhooks: Vec<_> = team.webhooks.keys().cloned().collect();
        for webhook in changed {
            self.reload(&Key { team: id.clone(), webhook });
        }
        for webhook in webhooks {
            self.consider(&Key { team: id.clone(), webhook });
        }
        self.visit(id);
        if self.teams.get(id).is_some_and(|team| team.webhooks.is_empty() && !team.is_visiting) {
            self.teams.remove(id);
        }
    }

    /// Takes up a webhook that has something to do, or goes on with it.
    fn consider(&mut self, key: &Key) {
        if self.active.contains_key(key) {
            return self.poke(key);
        }
        let Some(team) = self.teams.get_mut(&key.team) else { return };
        let Some(known) = team.webhooks.get_mut(&key.webhook) else { return };
        if self.is_stopping {
            return;
        }
        let wanted = match known.left {
            None => true,
            Some((_, true)) => known.seen.is_on,
            Some((cursor, false)) => !known.seen.is_on || cursor < team.head,
        };
        match known.elsewhere_until {
            _ if !wanted => {}
            // Hints that come meanwhile are not lost: it is looked at again then.
            Some(until) if until > Instant::now() => self.leases.look_again(key.clone(), until),
            _ => self.leases.want(key.clone(), known.seen.begin),
        }
    }

    /// Finishes what is on its way, writes everything down and gives the leases back.
    async fn shut_down(mut self) -> Result<(), Error> {
        self.is_stopping = true;
        let until = Instant::now() + Duration::from_secs(self.context.config.drain_seconds);
        // A lease that is being taken is waited for too: it would keep others off until its end.
        while self.turns.in_flight() > 0 || self.writes.is_writing() || self.leases.is_acquiring() {
            match timeout_at(until, self.tasks.join_next()).await {
                Ok(Some(done)) => self.take_all(done)?,
                Ok(None) => break,
                Err(_) => {
                    tracing::warn!(attempts = self.turns.in_flight(), "stopping with webhook attempts on their way");
                    break;
                }
            }
        }
        self.tasks.abort_all();
        let last = tokio::time::timeout(LAST_WRITE_WITHIN, self.write_last()).await;
        if !matches!(last, Ok(Ok(()))) {
            tracing::warn!("the webhooks' cursors could not be written at the end; some events will be sent again");
        }
        Ok(())
    }
}
