//! Append, dispatch, retry, lease takeover, stream resume and projection, as all that can happen.
//!
//! A [`State`] is everything that matters at one moment: what is durable, what each node has in memory, what is on its
//! way, what receivers and clients have seen. An [`Action`] is the smallest step that somebody could notice being cut in
//! two. Which steps there are is stated here; what comes of them is decided by the program's functions:
//!
//! | decision | function of the program |
//! |---|---|
//! | events of a command; stored answers; positions; conflicts | `Attempt::decide_one` of the lane, `Store::append` |
//! | what may be attempted, what is settled, what is written down | `webhook::window::Window` |
//! | what an answer means, when the next attempt is due | `webhook::verdict`, `retry::Schedule` |
//! | whose lease it is | `queue::lease::Lease`, which states what the statements in `queue/sql.rs` do |
//! | where a stream begins and goes on | `stream::resume`, `stream::window::Window`, `stream::feed::Progress` |
//! | which events a projection takes next | `runner::step::Step` |
//!
//! Time is in ticks. An attempt takes at most one, a lease lasts three, and none is begun under a lease with less than two
//! left, in the proportions of the configuration: lease > attempt + margin.

mod hook;
pub mod properties;
mod readers;
mod views;
mod writer;

use std::collections::BTreeMap;

use dispatcher::model::{Bounds as WindowBounds, Lane};
use dispatcher::retry::{Schedule, Settings};
use domain::id::Position;
use domain::testing::mailbox_id;
use stateright::{Model, Property};

pub use hook::{Arrival, Flight, Holder, Hook, HookAction, Stage, Tried, Writing};
pub use properties::Fault;
pub use readers::{Connection, Feed, Left, Reader, ReaderAction};
pub use views::{Runner, Tables, ViewAction, Views};
pub use writer::{Client, Writer, WriterAction};

use crate::book::{Library, Log};

/// Nodes are named so in leases.
pub const NODES: [&str; 3] = ["a", "b", "c"];

/// A mistake that somebody might make; each is put into the model to see that it is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DesignError {
    /// The look for an earlier answer is made before the append and not in it.
    AnswersApart,
    /// The client is told before the commit.
    AnswerBeforeCommit,
    /// An event counts as delivered before the request is made.
    DeliveredBeforeRequest,
    /// Event n + 1 is attempted while n is not settled.
    NextBeforeSettled,
    /// A result is written down whoever has the lease.
    Unfenced,
    /// The backlog is read before the place in the feed is taken.
    BacklogBeforeSubscribing,
    /// What was replayed is not dropped when the window takes over.
    NoDropAtHandOver,
    /// Rows and cursor of a projection are committed one after the other.
    CursorApart,
    /// Positions are handed out before the commit.
    PositionsBeforeCommit,
}

impl DesignError {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::AnswersApart,
        Self::AnswerBeforeCommit,
        Self::DeliveredBeforeRequest,
        Self::NextBeforeSettled,
        Self::Unfenced,
        Self::BacklogBeforeSubscribing,
        Self::NoDropAtHandOver,
        Self::CursorApart,
        Self::PositionsBeforeCommit,
    ];
}

/// How much may happen. Everything within is looked at, nothing beyond.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bounds {
    /// How many nodes there are, at most three.
    pub nodes: u8,
    /// The mailbox (1 or 2) each client writes one mail to.
    pub clients: Vec<u8>,
    /// How often a client sends the same request.
    pub sendings: u8,
    /// How often any node loses its memory.
    pub crashes: u8,
    /// How many answers to clients are lost.
    pub lost_answers: u8,
    /// Whether there is a webhook.
    pub webhook: bool,
    /// How many attempts are made at an event.
    pub attempts: u8,
    /// How often a lease is taken.
    pub leases: u8,
    /// How many requests the receiver refuses.
    pub refusals: u8,
    /// How many requests or answers of the receiver are lost, and answers of the database.
    pub lost_replies: u8,
    /// How often a node is stopped for a while.
    pub pauses: u8,
    /// How long it all lasts, in ticks.
    pub ticks: u8,
    /// How many stream clients there are.
    pub readers: u8,
    /// How many connections of stream clients are cut.
    pub drops: u8,
    /// Whether there are projections: two, one of them an event behind the other.
    pub views: bool,
    /// How many power cuts take the views' last transaction with them.
    pub cuts: u8,
}

impl Bounds {
    /// Nothing happens: the ground for others to add to.
    #[must_use]
    pub fn nothing() -> Self {
        Self {
            nodes: 2,
            clients: vec![1],
            sendings: 1,
            crashes: 0,
            lost_answers: 0,
            webhook: false,
            attempts: 2,
            leases: 2,
            refusals: 0,
            lost_replies: 0,
            pauses: 0,
            ticks: 0,
            readers: 0,
            drops: 0,
            views: false,
            cuts: 0,
        }
    }
}

impl Bounds {
    /// Sets a bound by its name, `crashes=2`; the clients' mailboxes are written `clients=1,2`.
    ///
    /// # Errors
    /// What is not a bound, or not a value of it.
    pub fn set(&mut self, text: &str) -> Result<(), String> {
        let wrong = || format!("{text:?} is not a bound of the model");
        let (name, value) = text.split_once('=').ok_or_else(wrong)?;
        let number = || value.parse::<u8>().map_err(|_| wrong());
        match name {
            "nodes" => self.nodes = number()?.clamp(1, 3),
            "clients" => {
                let mailboxes: Result<Vec<u8>, _> = value.split(',').map(str::parse).collect();
                self.clients = mailboxes.map_err(|_| wrong())?;
            }
            "sendings" => self.sendings = number()?,
            "crashes" => self.crashes = number()?,
            "lost_answers" => self.lost_answers = number()?,
            "attempts" => self.attempts = number()?,
            "leases" => self.leases = number()?,
            "refusals" => self.refusals = number()?,
            "lost_replies" => self.lost_replies = number()?,
            "pauses" => self.pauses = number()?,
            "ticks" => self.ticks = number()?,
            "readers" => self.readers = number()?,
            "drops" => self.drops = number()?,
            "cuts" => self.cuts = number()?,
            _ => return Err(wrong()),
        }
        Ok(())
    }
}

impl std::fmt::Display for Bounds {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { nodes, sendings, crashes, lost_answers, .. } = self;
        write!(f, "{nodes} nodes, {} mails sent up to {sendings} times, {crashes} crashes", self.clients.len())?;
        write!(f, ", {lost_answers} lost answers")?;
        if self.webhook {
            let Self { attempts, leases, refusals, lost_replies, pauses, ticks, .. } = self;
            write!(
                f,
                "; webhook: {attempts} attempts, {leases} leases, {refusals} refusals, {lost_replies} lost replies"
            )?;
            write!(f, ", {pauses} pauses, {ticks} ticks")?;
        }
        if self.readers > 0 {
            write!(f, "; {} stream clients, {} cuts", self.readers, self.drops)?;
        }
        if self.views {
            write!(f, "; 2 projections, {} power cuts", self.cuts)?;
        }
        Ok(())
    }
}

/// What of the bounds was used.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Spent {
    crashes: u8,
    lost_answers: u8,
    refusals: u8,
    lost_replies: u8,
    pauses: u8,
    drops: u8,
    cuts: u8,
}

/// What one node has in memory.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Node {
    /// Whether it is stopped: it does nothing, and does not know.
    pub paused: bool,
    /// Its writer.
    pub writer: Writer,
    /// How many commits its remembered heads and folds are as of.
    pub folds: Option<u8>,
    /// Its reading of the log for streams.
    pub feed: Option<Feed>,
    /// Its reading of the log for projections.
    pub runner: Runner,
    /// Its work at the webhook.
    pub holder: Option<Holder>,
}

/// Everything that matters at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct State {
    /// The team's log.
    pub log: Log,
    /// Commits that have their positions already and cannot be seen yet: only under a design error.
    pub unseen: Vec<u8>,
    /// Those who send mails.
    pub clients: Vec<Client>,
    /// The nodes.
    pub nodes: Vec<Node>,
    /// What is kept of the webhook.
    pub hook: Hook,
    /// What the webhook's receiver has seen.
    pub inbox: Vec<Arrival>,
    /// The stream clients.
    pub readers: Vec<Reader>,
    /// The projections' tables.
    pub views: Views,
    /// Ticks since the beginning.
    pub now: u8,
    /// What of the bounds was used.
    pub spent: Spent,
    /// What went wrong, see [`Fault`].
    pub faults: u8,
    /// Requests that came late from a node whose lease had gone, per mailbox.
    pub late: [u8; 3],
}

/// What happens next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Action {
    /// To a client and a writer.
    Writer(WriterAction),
    /// To the webhook.
    Hook(HookAction),
    /// To a stream.
    Reader(ReaderAction),
    /// To a projection.
    View(ViewAction),
    /// A node loses its memory; with `cut` the machine's power goes too.
    Crash {
        /// The node.
        node: u8,
        /// Whether the views' last transaction goes with it.
        cut: bool,
    },
    /// A node is stopped.
    Pause(u8),
    /// It goes on.
    Wake(u8),
    /// Time passes.
    Tick,
}

/// The model: bounds, perhaps with a mistake in it.
#[derive(Debug)]
pub struct Proof {
    /// How much may happen.
    pub bounds: Bounds,
    /// The mistake.
    pub error: Option<DesignError>,
    library: Library,
    schedule: Schedule,
    lanes: Vec<Lane>,
    begin: Log,
}

impl Proof {
    /// Returns the model of the program.
    #[must_use]
    pub fn new(bounds: Bounds) -> Self {
        Self::of(bounds, None)
    }

    /// Returns the model of a program with a mistake in it.
    #[must_use]
    pub fn with(bounds: Bounds, error: DesignError) -> Self {
        Self::of(bounds, Some(error))
    }

    fn of(bounds: Bounds, error: Option<DesignError>) -> Self {
        let library = Library::new(bounds.clients.clone(), error == Some(DesignError::AnswersApart));
        let settings = Settings {
            attempt_offsets_seconds: (0..u64::from(bounds.attempts)).collect(),
            jitter_percent: 0,
            retry_after_max_seconds: 0,
            overdue_gap_seconds: 0,
        };
        let schedule = Schedule::try_from(settings).expect("a slot per tick");
        // Ids are texts: made once, and shared from then on.
        let lanes = std::iter::once(None).chain((1..=u8::MAX).map(|n| Some(mailbox_id(n)))).collect();
        let begin = library.beginning();
        Self { bounds, error, library, schedule, lanes, begin }
    }

    /// Returns whether a mistake is in it.
    fn has(&self, error: DesignError) -> bool {
        self.error == Some(error)
    }

    /// Returns the lane of a mailbox.
    #[must_use]
    pub fn mailbox(&self, number: u8) -> Lane {
        self.lanes.get(usize::from(number)).cloned().flatten()
    }

    /// Returns where all logs begin to differ.
    #[must_use]
    pub fn begin(&self) -> Position {
        self.begin.head()
    }

    fn window_bounds() -> WindowBounds {
        WindowBounds { events_max: 3, blocked_max: 2, queue_max: 1 }
    }

    /// Returns the positions behind one that can be seen, in order.
    fn visible(state: &State, after: Position, limit: usize) -> Vec<Position> {
        let begin = state.log.head() - state.log.commits.len() as Position;
        let seen = |position: &Position| {
            position
                .checked_sub(begin + 1)
                .and_then(|n| u8::try_from(n).ok())
                .is_none_or(|n| !state.unseen.contains(&n))
        };
        (after + 1..=state.log.head())
            .filter(|position| state.unseen.is_empty() || seen(position))
            .take(limit)
            .collect()
    }

    fn is_awake(state: &State, node: u8) -> bool {
        !state.nodes[usize::from(node)].paused
    }

    fn crash(&self, state: &mut State, node: u8, cut: bool) {
        state.spent.crashes += 1;
        state.nodes[usize::from(node)] = empty_node();
        for client in &mut state.clients {
            if client.at == Some(node) {
                client.at = None;
            }
        }
        for reader in &mut state.readers {
            if reader.connection.as_ref().is_some_and(|connection| connection.node == node) {
                reader.connection = None;
            }
        }
        if cut {
            state.spent.cuts += 1;
            state.views.lose_last();
        }
    }
}

fn empty_node() -> Node {
    Node { paused: false, writer: Writer::Idle, folds: None, feed: None, runner: Runner::Idle, holder: None }
}

impl Model for Proof {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let begin = self.begin();
        let views = Views::at(begin);
        vec![State {
            log: self.begin.clone(),
            unseen: vec![],
            clients: vec![Client::default(); self.bounds.clients.len()],
            nodes: vec![empty_node(); usize::from(self.bounds.nodes)],
            hook: Hook::at(begin),
            inbox: vec![],
            readers: vec![Reader::at(begin); usize::from(self.bounds.readers)],
            views,
            now: 0,
            spent: Spent::default(),
            faults: 0,
            late: [0; 3],
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        for node in 0..self.bounds.nodes {
            if !Self::is_awake(state, node) {
                actions.push(Action::Wake(node));
                continue;
            }
            self.writer_actions(state, node, actions);
            if self.bounds.webhook {
                self.hook_actions(state, node, actions);
            }
            if self.bounds.readers > 0 {
                self.feed_actions(state, node, actions);
            }
            if self.bounds.views {
                self.view_actions(state, node, actions);
            }
            if state.spent.crashes < self.bounds.crashes && state.nodes[usize::from(node)] != empty_node() {
                actions.push(Action::Crash { node, cut: false });
                if state.spent.cuts < self.bounds.cuts {
                    actions.push(Action::Crash { node, cut: true });
                }
            }
            if state.spent.pauses < self.bounds.pauses && state.nodes[usize::from(node)].holder.is_some() {
                actions.push(Action::Pause(node));
            }
        }
        self.client_actions(state, actions);
        for reader in 0..self.bounds.readers {
            self.reader_actions(state, reader, actions);
        }
        if self.bounds.webhook && state.now < self.bounds.ticks && self.may_tick(state) {
            actions.push(Action::Tick);
        }
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = last.clone();
        match action {
            Action::Writer(action) => self.write(&mut state, action)?,
            Action::Hook(action) => self.dispatch(&mut state, action)?,
            Action::Reader(action) => self.stream(&mut state, action)?,
            Action::View(action) => self.project(&mut state, action)?,
            Action::Crash { node, cut } => self.crash(&mut state, node, cut),
            Action::Pause(node) => {
                state.spent.pauses += 1;
                state.nodes[usize::from(node)].paused = true;
            }
            Action::Wake(node) => state.nodes[usize::from(node)].paused = false,
            Action::Tick => state.now += 1,
        }
        Some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        properties::all()
    }
}

/// Rows of blocked mailboxes.
type Rows = BTreeMap<Lane, dispatcher::model::Row>;
