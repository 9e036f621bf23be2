//! A feed: one team's log, read once for all its open streams.
//!
//! One task per team that somebody listens to waits for the log to move, reads what is new, encodes each event once per
//! kind of stream and puts the frames into shared windows. It waits for no client. The log is also where it hears that
//! a key was revoked or a mailbox suspended: the streams concerned end there and then.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use domain::id::{KeyId, MailboxId, Position, TeamId};
use domain::{Event, api_key, mailbox};
use eventlog::{EventLog, LogError, Recorded};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::filter::{Filter, Interest};
use super::render::Renderer;
use super::window::{Taken, Window};

/// How many records are read at once.
const PAGE_RECORDS: usize = 256;
/// Clients hear of encoded frames at least this often while a page is worked through.
const TELL_AFTER: Duration = Duration::from_millis(1);
/// How often a store that does not answer is asked again before the team's streams end.
const ATTEMPTS_MAX: u32 = 6;
/// The pause before the second attempt; it doubles each time.
const FIRST_PAUSE: Duration = Duration::from_millis(50);

/// Why the server ended a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Ending {
    /// Its key was revoked.
    Revoked = 1,
    /// Its mailbox was suspended or closed.
    MailboxInactive = 2,
    /// The server stops.
    Shutdown = 3,
    /// The log cannot be read.
    Unavailable = 4,
    /// The client does not read.
    Stalled = 5,
}

impl Ending {
    const ALL: [Self; 5] = [Self::Revoked, Self::MailboxInactive, Self::Shutdown, Self::Unavailable, Self::Stalled];

    /// Returns the reason as metrics name it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Revoked => "revoked",
            Self::MailboxInactive => "mailbox_inactive",
            Self::Shutdown => "shutdown",
            Self::Unavailable => "unavailable",
            Self::Stalled => "stalled",
        }
    }

    /// Returns the reason as the last line of the stream tells it.
    pub fn farewell(self) -> &'static str {
        match self {
            Self::Revoked => "the key was revoked",
            Self::MailboxInactive => "the mailbox is not active",
            Self::Shutdown => "the server is stopping, reconnect to go on",
            Self::Unavailable => "the log does not answer, reconnect to go on",
            Self::Stalled => "nothing was read for too long, reconnect to go on",
        }
    }
}

/// An open stream, as those see it who may have to end it.
#[derive(Debug)]
pub(super) struct Member {
    key: KeyId,
    mailbox: Option<MailboxId>,
    ended: AtomicU8,
}

impl Member {
    /// Returns a stream that was opened with a key, for a mailbox or a whole team.
    pub fn new(key: KeyId, mailbox: Option<MailboxId>) -> Self {
        Self { key, mailbox, ended: AtomicU8::new(0) }
    }

    /// Ends the stream, unless it has ended. Whoever serves it looks before each frame.
    pub fn end(&self, ending: Ending) {
        if self.ended.compare_exchange(0, ending as u8, Ordering::AcqRel, Ordering::Acquire).is_ok() {
            metrics::counter!("sse_cut_total", "reason" => ending.as_str()).increment(1);
        }
    }

    /// Returns why the stream has ended, if it has.
    pub fn ended(&self) -> Option<Ending> {
        let ended = self.ended.load(Ordering::Acquire);
        Ending::ALL.into_iter().find(|ending| *ending as u8 == ended)
    }

    fn ended_by(&self, event: &Event) -> Option<Ending> {
        match event {
            Event::ApiKey(api_key::Event::Revoked(e)) if e.key == self.key => Some(Ending::Revoked),
            Event::Mailbox(mailbox::Event::Suspended(e)) if self.mailbox.as_ref() == Some(&e.mailbox) => {
                Some(Ending::MailboxInactive)
            }
            Event::Mailbox(mailbox::Event::Closed(e)) if self.mailbox.as_ref() == Some(&e.mailbox) => {
                Some(Ending::MailboxInactive)
            }
            _ => None,
        }
    }
}

/// The frames of one kind of stream, and the bell that says there are more.
#[derive(Debug)]
pub(super) struct Channel {
    window: Mutex<Window>,
    moved: watch::Sender<()>,
}

impl Channel {
    fn new(after: Position) -> Self {
        Self { window: Mutex::new(Window::new(after)), moved: watch::Sender::new(()) }
    }

    fn window(&self) -> MutexGuard<'_, Window> {
        self.window.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the bell.
    pub fn moved(&self) -> watch::Receiver<()> {
        self.moved.subscribe()
    }

    /// See [`Window::take`].
    pub fn take(&self, filter: &Filter, cursor: Position, chunk_bytes: usize) -> Taken {
        self.window().take(filter, cursor, chunk_bytes)
    }

    fn ring(&self) {
        self.moved.send_replace(());
    }
}

/// What all feeds share.
pub(super) struct Kitchen {
    pub log: EventLog,
    pub renderer: Renderer,
    /// How many bytes of frames a window keeps.
    pub window_bytes: usize,
    /// How long a window keeps a frame.
    pub window_age: Duration,
}

/// How far a feed has come: the rule by which a window misses nothing, whenever it is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Progress {
    /// Up to here records are being, or have been, put into the windows that existed when their page was begun.
    claimed: Position,
}

impl Progress {
    /// Returns the progress of a feed that begins after a position.
    #[must_use]
    pub fn after(position: Position) -> Self {
        Self { claimed: position }
    }

    /// Returns the position that the next page is read behind; a window that is made now begins there too. If that is
    /// while a page is worked through, it misses that page: it begins after it.
    #[must_use]
    pub fn position(self) -> Position {
        self.claimed
    }

    /// Notes that a page up to `last` was read. It is for those windows that exist now, and for no others.
    pub fn claim(&mut self, last: Position) {
        self.claimed = last;
    }
}

struct State {
    progress: Progress,
    channels: HashMap<Interest, (Arc<Channel>, usize)>,
    members: HashMap<u64, Arc<Member>>,
    members_ever: u64,
    dead: bool,
}

/// See the module.
pub(super) struct Feed {
    team: TeamId,
    state: Mutex<State>,
    stop: CancellationToken,
}

impl Feed {
    /// Returns a feed of what comes after a position. Nobody reads yet: see [`Feed::run`].
    pub fn new(team: TeamId, after: Position) -> Self {
        let state = State {
            progress: Progress::after(after),
            channels: HashMap::new(),
            members: HashMap::new(),
            members_ever: 0,
            dead: false,
        };
        Self { team, state: Mutex::new(state), stop: CancellationToken::new() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the team.
    pub fn team(&self) -> &TeamId {
        &self.team
    }

    /// Returns how many streams are open.
    pub fn members(&self) -> usize {
        self.state().members.len()
    }

    /// Returns whether the feed has given up: a new one must be made.
    pub fn is_dead(&self) -> bool {
        self.state().dead
    }

    /// Adds a stream. Its number is for [`Feed::leave`].
    pub fn join(&self, interest: &Interest, member: &Arc<Member>) -> (u64, Arc<Channel>) {
        let mut state = self.state();
        let begin = state.progress.position();
        let entry = state.channels.entry(interest.clone()).or_insert_with(|| (Arc::new(Channel::new(begin)), 0));
        entry.1 += 1;
        let channel = Arc::clone(&entry.0);
        state.members_ever += 1;
        let number = state.members_ever;
        state.members.insert(number, Arc::clone(member));
        (number, channel)
    }

    /// Removes a stream; returns whether it was the last.
    pub fn leave(&self, interest: &Interest, number: u64) -> bool {
        let mut state = self.state();
        state.members.remove(&number);
        if let Some((_, listeners)) = state.channels.get_mut(interest) {
            *listeners -= 1;
            if *listeners == 0 {
                state.channels.remove(interest);
            }
        }
        state.members.is_empty()
    }

    /// Ends all streams.
    pub fn end_all(&self, ending: Ending) {
        let state = self.state();
        state.members.values().for_each(|member| member.end(ending));
        state.channels.values().for_each(|(channel, _)| channel.ring());
    }

    /// Stops the task.
    pub fn stop(&self) {
        self.stop.cancel();
    }

    /// Follows the log until stopped, or until the log cannot be read any more.
    pub async fn run(self: Arc<Self>, kitchen: Arc<Kitchen>) {
        let follow = self.follow(&kitchen);
        tokio::select! {
            () = self.stop.cancelled() => {}
            error = follow => {
                let error = &error as &dyn std::error::Error;
                tracing::error!(error, team.id = %self.team, "the log cannot be read: the team's streams end");
                self.state().dead = true;
                self.end_all(Ending::Unavailable);
            }
        }
    }

    async fn follow(&self, kitchen: &Kitchen) -> LogError {
        let mut moved = kitchen.log.wake().team(&self.team);
        loop {
            // Marked as seen before reading: what comes meanwhile wakes again.
            moved.borrow_and_update();
            if let Err(error) = self.catch_up(kitchen).await {
                return error;
            }
            let oldest = self.oldest();
            tokio::select! {
                changed = moved.changed() => {
                    if changed.is_err() {
                        // The log is gone; so will be this task.
                        std::future::pending::<()>().await;
                    }
                }
                () = tokio::time::sleep_until(oldest.unwrap_or_else(Instant::now) + kitchen.window_age), if oldest.is_some() => {
                    self.expire(Instant::now().checked_sub(kitchen.window_age));
                }
            }
        }
    }

    /// Puts everything up to the head into the windows.
    async fn catch_up(&self, kitchen: &Kitchen) -> Result<(), LogError> {
        loop {
            let after = self.state().progress.position();
            let page = patiently(|| kitchen.log.read(&self.team, after, PAGE_RECORDS)).await?;
            let Some(last) = page.last().map(|record| record.position) else { return Ok(()) };
            let channels: Vec<(Interest, Arc<Channel>)> = {
                let mut state = self.state();
                state.progress.claim(last);
                state.channels.iter().map(|(interest, (channel, _))| (interest.clone(), Arc::clone(channel))).collect()
            };
            self.serve(kitchen, &page, &channels).await?;
        }
    }

    async fn serve(
        &self,
        kitchen: &Kitchen,
        page: &[Recorded],
        channels: &[(Interest, Arc<Channel>)],
    ) -> Result<(), LogError> {
        let everything = Filter::default();
        let mut untold = vec![false; channels.len()];
        let mut told_at = Instant::now();
        for record in page {
            self.obey(record);
            for ((interest, channel), untold) in channels.iter().zip(&mut untold) {
                if !interest.concerns(&record.event) {
                    continue;
                }
                let encode = || kitchen.renderer.encode(interest, &everything, record);
                if let Some(encoded) = patiently(encode).await? {
                    channel.window().push(record.position, encoded, Instant::now(), kitchen.window_bytes);
                    *untold = true;
                }
            }
            if told_at.elapsed() > TELL_AFTER {
                tell(channels, &mut untold);
                told_at = Instant::now();
            }
        }
        tell(channels, &mut untold);
        Ok(())
    }

    /// Ends the streams that a record forbids.
    fn obey(&self, record: &Recorded) {
        if !matches!(record.event, Event::ApiKey(_) | Event::Mailbox(_)) {
            return;
        }
        let state = self.state();
        let mut any = false;
        for member in state.members.values() {
            if let Some(ending) = member.ended_by(&record.event) {
                member.end(ending);
                any = true;
            }
        }
        if any {
            state.channels.values().for_each(|(channel, _)| channel.ring());
        }
    }

    fn oldest(&self) -> Option<Instant> {
        self.state().channels.values().filter_map(|(channel, _)| channel.window().oldest()).min()
    }

    fn expire(&self, before: Option<Instant>) {
        let Some(before) = before else { return };
        // A frame that is exactly as old as allowed goes too, or the timer would fire again at once.
        let before = before + Duration::from_nanos(1);
        self.state().channels.values().for_each(|(channel, _)| channel.window().expire(before));
    }
}

fn tell(channels: &[(Interest, Arc<Channel>)], untold: &mut [bool]) {
    for ((_, channel), untold) in channels.iter().zip(untold) {
        if std::mem::take(untold) {
            channel.ring();
        }
    }
}

/// Asks a store again while it does not answer. What is corrupt does not get better by asking.
pub(super) async fn patiently<T, F>(ask: impl Fn() -> F) -> Result<T, LogError>
where
    F: Future<Output = Result<T, LogError>>,
{
    let mut pause = FIRST_PAUSE;
    for _ in 1..ATTEMPTS_MAX {
        match ask().await {
            Err(LogError::Store(eventlog::StoreError::Unavailable(_))) => tokio::time::sleep(pause).await,
            answer => return answer,
        }
        pause *= 2;
    }
    ask().await
}
