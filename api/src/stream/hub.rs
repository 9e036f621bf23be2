//! All open streams of this node: who may open one, who shares a feed, and how they end.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use domain::api_key::ApiKey;
use domain::id::{EventId, KeyId, MailboxId, Position, TeamId};
use domain::mailbox::{Mailbox, Status};
use domain::{StreamId, Versioned};
use eventlog::{Allot, EventLog, LogError};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::Config;
use super::feed::{Channel, Ending, Feed, Kitchen, Member};
use super::filter::{Filter, Interest};
use super::render::{PublishedEvent, Renderer};
use super::resume::{Reach, Start, start};
use super::subscription::Subscription;
use super::{frame, realtime};

/// How often the heads of all teams are looked at, should a wake-up be lost.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How far back that look goes: clocks of nodes differ.
const LOOK_BACK_MICROS: i64 = 5_000_000;
/// How many moved teams are read at once.
const LOOK_TEAMS: usize = 1_000;
/// When a client that found no free place may try again, seconds.
const RETRY_SECONDS: u64 = 5;

/// What a client asks for.
#[derive(Debug, Clone)]
pub(super) struct Wish {
    pub team: TeamId,
    pub key: KeyId,
    /// The mailbox whose end is the stream's end.
    pub mailbox: Option<MailboxId>,
    pub interest: Interest,
    pub filter: Filter,
    pub last_event_id: Option<String>,
    pub ping: Duration,
    pub close_after: Option<Duration>,
}

/// Why a stream is not opened.
#[derive(Debug, thiserror::Error)]
pub(super) enum Refused {
    /// The key, the mailbox or the team has as many open streams as it may.
    #[error("there are too many open event streams for this {of}; the limit is {max}")]
    TooMany { of: &'static str, max: usize, retry_after_seconds: u64 },
    /// This node has as many as it can, or it is stopping.
    #[error("no more event streams can be opened here now")]
    Full { retry_after_seconds: u64 },
    /// The key is not valid any more.
    #[error("the key was revoked")]
    Revoked,
    /// The mailbox is suspended or closed.
    #[error("the mailbox is not active")]
    MailboxInactive,
    /// The log cannot be read.
    #[error(transparent)]
    Log(#[from] LogError),
}

#[derive(Default)]
struct Places {
    feeds: HashMap<TeamId, Arc<Feed>>,
    of_key: HashMap<KeyId, usize>,
    of_mailbox: HashMap<MailboxId, usize>,
    open: usize,
    stopping: bool,
}

/// What the streams share.
pub(super) struct Hub {
    pub kitchen: Arc<Kitchen>,
    /// Turns at reading the log for clients that stand before a window.
    pub replays: Arc<Semaphore>,
    pub tasks: TaskTracker,
    pub allot: Allot,
    pub config: Config,
    places: Mutex<Places>,
}

/// The open streams of this node. Cheap to clone.
#[derive(Clone)]
pub struct Streams {
    pub(super) hub: Arc<Hub>,
}

impl std::fmt::Debug for Streams {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Streams").field("open", &self.open()).finish_non_exhaustive()
    }
}

/// An open stream's place; it is free again when this is dropped.
pub(super) struct Seat {
    hub: Arc<Hub>,
    feed: Arc<Feed>,
    member: Arc<Member>,
    key: KeyId,
    interest: Interest,
    number: u64,
}

impl Seat {
    pub fn hub(&self) -> &Hub {
        &self.hub
    }

    pub fn member(&self) -> &Arc<Member> {
        &self.member
    }

    pub fn team(&self) -> &TeamId {
        self.feed.team()
    }

    pub fn interest(&self) -> &Interest {
        &self.interest
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut places = self.hub.places();
        let last = self.feed.leave(&self.interest, self.number);
        let places = &mut *places;
        if last && places.feeds.get(self.feed.team()).is_some_and(|feed| Arc::ptr_eq(feed, &self.feed)) {
            places.feeds.remove(self.feed.team());
        }
        if last {
            self.feed.stop();
        }
        places.open -= 1;
        count_down(&mut places.of_key, &self.key);
        if let Interest::Mailbox(mailbox) = &self.interest {
            count_down(&mut places.of_mailbox, mailbox);
        }
        metrics::gauge!("sse_clients").decrement(1.0);
    }
}

fn count_down<K: Hash + Eq>(counts: &mut HashMap<K, usize>, key: &K) {
    if let Some(count) = counts.get_mut(key) {
        *count -= 1;
        if *count == 0 {
            counts.remove(key);
        }
    }
}

impl Places {
    /// Returns why one more stream does not fit, if so.
    fn refuse(&self, config: &Config, wish: &Wish) -> Option<Refused> {
        if self.stopping || self.open >= config.streams_max {
            return Some(Refused::Full { retry_after_seconds: RETRY_SECONDS });
        }
        let of_mailbox = match &wish.interest {
            Interest::Mailbox(mailbox) => self.of_mailbox.get(mailbox).copied(),
            Interest::Team => None,
        };
        let counts = [
            ("key", self.of_key.get(&wish.key).copied(), config.streams_per_key_max),
            ("mailbox", of_mailbox, config.streams_per_mailbox_max),
            ("team", self.feeds.get(&wish.team).map(|feed| feed.members()), config.streams_per_team_max),
        ];
        let full = counts.into_iter().find(|(_, open, max)| open.unwrap_or(0) >= *max);
        full.map(|(of, _, max)| Refused::TooMany { of, max, retry_after_seconds: RETRY_SECONDS })
    }
}

impl Hub {
    fn places(&self) -> MutexGuard<'_, Places> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a place in the team's feed; `None` if the team has no feed and `head` does not say where one would begin.
    fn sit(self: &Arc<Self>, wish: &Wish, head: Option<Position>) -> Result<Option<(Seat, Arc<Channel>)>, Refused> {
        let mut places = self.places();
        if let Some(refused) = places.refuse(&self.config, wish) {
            return Err(refused);
        }
        let feed = match places.feeds.get(&wish.team).filter(|feed| !feed.is_dead()) {
            Some(feed) => Arc::clone(feed),
            None => {
                let Some(head) = head else { return Ok(None) };
                let feed = Arc::new(Feed::new(wish.team.clone(), head));
                places.feeds.insert(wish.team.clone(), Arc::clone(&feed));
                self.tasks.spawn(Arc::clone(&feed).run(Arc::clone(&self.kitchen)));
                feed
            }
        };
        let member = Arc::new(Member::new(wish.key.clone(), wish.mailbox.clone()));
        let (number, channel) = feed.join(&wish.interest, &member);
        places.open += 1;
        *places.of_key.entry(wish.key.clone()).or_default() += 1;
        if let Interest::Mailbox(mailbox) = &wish.interest {
            *places.of_mailbox.entry(mailbox.clone()).or_default() += 1;
        }
        metrics::gauge!("sse_clients").increment(1.0);
        let (key, interest) = (wish.key.clone(), wish.interest.clone());
        Ok(Some((Seat { hub: Arc::clone(self), feed, member, key, interest, number }, channel)))
    }

    /// Opens a stream.
    ///
    /// The order matters. Only after the place is taken is the head read: from here on the feed misses nothing. The
    /// head is noted before the key is looked at: a revocation that this look cannot see comes after the head, and the
    /// feed will meet it.
    pub async fn open(self: &Arc<Self>, wish: Wish) -> Result<Subscription, Refused> {
        let log = &self.kitchen.log;
        let (seat, channel) = match self.sit(&wish, None)? {
            Some(sat) => sat,
            None => {
                let head = log.head(&wish.team).await?.position;
                self.sit(&wish, Some(head))?.ok_or(Refused::Full { retry_after_seconds: RETRY_SECONDS })?
            }
        };
        let moved = channel.moved();
        let head = log.head(&wish.team).await?;
        log.note_moved(&wish.team, head.position);
        self.check(&wish).await?;
        let now = self.allot.now();
        let reach = Reach {
            records_max: self.config.replay_records_max,
            age_micros_max: i64::try_from(self.config.replay_seconds_max.saturating_mul(1_000_000)).unwrap_or(i64::MAX),
        };
        let start = match &wish.last_event_id {
            Some(id) => start(log, &wish.team, head.position, id, now, reach).await?,
            None => Start::After(head.position),
        };
        let (cursor, sync_required) = match start {
            Start::After(position) => (position, None),
            Start::SyncRequired => (head.position, Some(self.sync_required(&wish, head.position, now).await?)),
        };
        Ok(Subscription {
            seat,
            channel,
            moved,
            filter: wish.filter,
            cursor,
            sync_required,
            retry_milliseconds: self.retry_milliseconds(),
            ping: wish.ping,
            close_after: wish.close_after,
            chunk_bytes: self.config.chunk_bytes,
        })
    }

    async fn check(&self, wish: &Wish) -> Result<(), Refused> {
        let log = &self.kitchen.log;
        let key = StreamId::ApiKey(wish.key.clone());
        let (key, status) = match &wish.mailbox {
            None => (log.state::<Versioned<ApiKey>>(&wish.team, &[key]).await?, Status::Active),
            Some(mailbox) => {
                let streams = [key, StreamId::Mailbox(mailbox.clone())];
                let (key, mailbox) = log.state::<(Versioned<ApiKey>, Versioned<Mailbox>)>(&wish.team, &streams).await?;
                (key, mailbox.status)
            }
        };
        if key.created.is_none() || key.revoked {
            return Err(Refused::Revoked);
        }
        match status {
            Status::Active => Ok(()),
            Status::Absent | Status::Suspended | Status::Closed => Err(Refused::MailboxInactive),
        }
    }

    /// The frame carries the head's id, so that the client's next reconnection goes on from here.
    async fn sync_required(&self, wish: &Wish, head: Position, now: i64) -> Result<Bytes, LogError> {
        let log = &self.kitchen.log;
        let last = log.read(&wish.team, head.saturating_sub(1), 1).await?;
        let id = last.first().map_or_else(|| EventId::new(&wish.team, log.epoch(), 0), |record| record.id());
        let frame = match &wish.interest {
            Interest::Mailbox(mailbox) => {
                frame::event("sync_required", &realtime::sync_required(&wish.team, mailbox, now), id)
            }
            Interest::Team => frame::event("sync_required", &PublishedEvent::sync_required(head, now), id),
        };
        Ok(frame.expect("a struct of strings and nulls always serialises"))
    }

    /// Spreads reconnections: a herd that was cut at once does not come back at once.
    fn retry_milliseconds(&self) -> u64 {
        let base = self.config.retry_milliseconds;
        base + u64::from(u32::from_be_bytes(self.allot.random())) % base.max(1)
    }
}

impl Streams {
    /// Returns the streams over a log.
    #[must_use]
    pub fn new(log: EventLog, allot: Allot, config: Config) -> Self {
        let renderer = Renderer::new(log.clone(), config.body_bytes, config.kept_frames_bytes);
        let kitchen = Kitchen {
            log,
            renderer,
            window_bytes: config.window_bytes,
            window_age: Duration::from_millis(config.window_milliseconds),
        };
        Self {
            hub: Arc::new(Hub {
                kitchen: Arc::new(kitchen),
                replays: Arc::new(Semaphore::new(config.replays_at_once)),
                tasks: TaskTracker::new(),
                allot,
                config,
                places: Mutex::default(),
            }),
        }
    }

    /// Returns how many streams are open on this node.
    #[must_use]
    pub fn open(&self) -> usize {
        self.hub.places().open
    }

    /// Keeps the streams right until stopped, then says goodbye to every client and ends.
    ///
    /// Wake-ups drive the streams. As one may be lost, the heads of all teams are looked at once a second too: a
    /// revocation on another node ends streams here even then.
    pub async fn run(self, stop: CancellationToken) {
        let mut since = self.hub.allot.now();
        while !stop.is_cancelled() {
            tokio::select! {
                () = stop.cancelled() => break,
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
            match self.look_at_heads(since).await {
                Ok(newest) => since = newest,
                Err(error) => {
                    let error = &error as &dyn std::error::Error;
                    tracing::warn!(error, "heads cannot be read; streams go on with wake-ups alone");
                }
            }
        }
        self.shut_down();
        self.hub.tasks.close();
        self.hub.tasks.wait().await;
    }

    /// Wakes the feeds of teams that moved; returns when the newest of them did.
    async fn look_at_heads(&self, since: i64) -> Result<i64, LogError> {
        let log = &self.hub.kitchen.log;
        let mut newest = since;
        let mut from = since - LOOK_BACK_MICROS;
        loop {
            if self.hub.places().feeds.is_empty() {
                return Ok(self.hub.allot.now().max(newest));
            }
            let moved = log.moved_since(from, LOOK_TEAMS).await?;
            for (team, position, at) in &moved {
                newest = newest.max(*at);
                if self.hub.places().feeds.contains_key(team) {
                    log.note_moved(team, *position);
                }
            }
            match moved.last() {
                // Were a whole page of the same moment, the next would be the same page.
                Some((_, _, at)) if moved.len() == LOOK_TEAMS && *at > from => from = *at,
                _ => return Ok(newest),
            }
        }
    }

    /// Ends every stream with a goodbye and opens no more.
    pub fn shut_down(&self) {
        let mut places = self.hub.places();
        places.stopping = true;
        for feed in places.feeds.values() {
            feed.end_all(Ending::Shutdown);
            feed.stop();
        }
    }
}
