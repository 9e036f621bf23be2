//! Streams: feeds of nodes, and clients that come back with the last id they have.

use std::borrow::Cow;
use std::sync::OnceLock;

use api::stream::model::{Encoded, Filter, Progress, Reach, Start, Step, Window, judge, within_reach};
use bytes::Bytes;
use domain::id::{EventId, Position};
use domain::testing::team_id;

use super::{Action, DesignError, Proof, State};
use crate::book::Kind;

/// How many records a page of the log has.
const PAGE: usize = 2;
/// How many bytes of frames a window keeps; a frame is one byte here, so that every second client stands before it.
const WINDOW_BYTES: usize = 1;
/// How many bytes go to a client at once.
const CHUNK_BYTES: usize = 2;
/// A frame is the byte of its position.
static FRAMES: [u8; 64] = {
    let mut frames = [0; 64];
    let mut n = 0;
    while n < 64 {
        frames[n] = n as u8;
        n += 1;
    }
    frames
};

/// A node's reading of the log for its streams.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Feed {
    /// How far it has come.
    pub progress: Progress,
    /// The shared frames, while somebody reads them.
    pub window: Option<Window>,
    /// What was read and is not in the window yet.
    pub page: Vec<Position>,
    /// Whether the window that exists now is one the page is for.
    pub is_for_window: bool,
}

/// A client's connection.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Connection {
    /// To which node.
    pub node: u8,
    /// Whether it has its place in the feed.
    pub is_seated: bool,
    /// Where it stands, once that is known.
    pub cursor: Option<Position>,
    /// Whether what it was sent last came from the log and not from the window.
    pub has_replayed: bool,
}

/// What is left of a node's feed when a client has gone: that depends on who else listens there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Left {
    /// Nobody did.
    Nothing,
    /// Others listen to the team in another way.
    Feed,
    /// Others share its window.
    Window,
}

/// A stream client.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Reader {
    /// Its connection.
    pub connection: Option<Connection>,
    /// The last event it has; it resumes from there.
    pub last: Position,
    /// Everything it was told of, in order.
    pub received: Vec<Position>,
}

impl Reader {
    /// Returns a client that has everything up to a position.
    #[must_use]
    pub fn at(position: Position) -> Self {
        Self { connection: None, last: position, received: vec![] }
    }
}

/// What happens to streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ReaderAction {
    /// A client connects and takes its place in the node's feed.
    Sit {
        /// The client.
        reader: u8,
        /// The node.
        node: u8,
    },
    /// The head is read, and where to begin is decided.
    Begin(u8),
    /// The client is sent what it finds, from the window or from the log; it may be cut off before anything arrives.
    Send {
        /// The client.
        reader: u8,
        /// Whether the connection is lost, and what was sent with it.
        lost: bool,
    },
    /// The connection is cut.
    Drop {
        /// The client.
        reader: u8,
        /// What goes on without it.
        left: Left,
    },
    /// A feed reads a page.
    Claim(u8),
    /// A feed puts one event of its page into the window.
    Push(u8),
}

fn window_time() -> tokio::time::Instant {
    static ONE: OnceLock<tokio::time::Instant> = OnceLock::new();
    *ONE.get_or_init(tokio::time::Instant::now)
}

impl Proof {
    pub(super) fn feed_actions(&self, state: &State, node: u8, actions: &mut Vec<Action>) {
        let Some(feed) = &state.nodes[usize::from(node)].feed else { return };
        if !feed.page.is_empty() {
            actions.push(Action::Reader(ReaderAction::Push(node)));
        } else if feed.progress.position() < state.log.head() {
            actions.push(Action::Reader(ReaderAction::Claim(node)));
        }
    }

    pub(super) fn reader_actions(&self, state: &State, reader: u8, actions: &mut Vec<Action>) {
        let mut add = |action| actions.push(Action::Reader(action));
        let early = self.has(DesignError::BacklogBeforeSubscribing);
        let Some(connection) = &state.readers[usize::from(reader)].connection else {
            for node in (0..self.bounds.nodes).filter(|node| Self::is_awake(state, *node)) {
                add(ReaderAction::Sit { reader, node });
            }
            return;
        };
        if Self::is_awake(state, connection.node) {
            match (connection.cursor, connection.is_seated) {
                (None, _) => add(ReaderAction::Begin(reader)),
                (Some(_), false) if early => {
                    add(ReaderAction::Send { reader, lost: false });
                    add(ReaderAction::Sit { reader, node: connection.node });
                }
                (Some(_), _) => {
                    add(ReaderAction::Send { reader, lost: false });
                    if state.spent.drops < self.bounds.drops {
                        add(ReaderAction::Send { reader, lost: true });
                    }
                }
            }
        }
        if state.spent.drops < self.bounds.drops {
            for left in [Left::Nothing, Left::Feed, Left::Window] {
                add(ReaderAction::Drop { reader, left });
            }
        }
    }

    pub(super) fn stream(&self, state: &mut State, action: ReaderAction) -> Option<()> {
        match action {
            ReaderAction::Sit { reader, node } => self.sit(state, reader, node),
            ReaderAction::Begin(reader) => {
                let last = state.readers[usize::from(reader)].last;
                let start = self.place(state, last);
                state.readers[usize::from(reader)].connection.as_mut()?.cursor = Some(start);
            }
            ReaderAction::Send { reader, lost } => self.send(state, reader, lost)?,
            ReaderAction::Drop { reader, left } => {
                state.spent.drops += 1;
                leave(state, reader, left)?;
            }
            ReaderAction::Claim(node) => {
                let after = state.nodes[usize::from(node)].feed.as_ref()?.progress.position();
                let page = Self::visible(state, after, PAGE);
                let feed = state.nodes[usize::from(node)].feed.as_mut()?;
                feed.progress.claim(*page.last()?);
                feed.is_for_window = feed.window.is_some();
                feed.page = page;
            }
            ReaderAction::Push(node) => {
                let is_told = |position| matches!(state.log.kind(position), Kind::Mail { .. });
                let position = *state.nodes[usize::from(node)].feed.as_ref()?.page.first()?;
                let told = is_told(position);
                let feed = state.nodes[usize::from(node)].feed.as_mut()?;
                feed.page.remove(0);
                if let Some(window) = feed.window.as_mut().filter(|_| told && feed.is_for_window) {
                    window.push(position, encoded(position), window_time(), WINDOW_BYTES);
                }
            }
        }
        Some(())
    }

    fn sit(&self, state: &mut State, reader: u8, node: u8) {
        let head = self.head(state);
        let early = self.has(DesignError::BacklogBeforeSubscribing);
        let connection = state.readers[usize::from(reader)].connection.take();
        if early && connection.is_none() {
            let last = state.readers[usize::from(reader)].last;
            let cursor = Some(self.place(state, last));
            let connection = Connection { node, is_seated: false, cursor, has_replayed: false };
            state.readers[usize::from(reader)].connection = Some(connection);
            return;
        }
        let feed = state.nodes[usize::from(node)].feed.get_or_insert_with(|| Feed {
            progress: Progress::after(head),
            window: None,
            page: vec![],
            is_for_window: false,
        });
        if feed.window.is_none() {
            feed.window = Some(Window::new(feed.progress.position()));
            feed.is_for_window = false;
        }
        let cursor = connection.and_then(|connection| connection.cursor);
        state.readers[usize::from(reader)].connection =
            Some(Connection { node, is_seated: true, cursor, has_replayed: false });
    }

    /// Returns the last position that can be seen.
    fn head(&self, state: &State) -> Position {
        Self::visible(state, self.begin(), usize::MAX).last().copied().unwrap_or(self.begin())
    }

    /// Returns where a stream begins that presents the id of a position, by the program's own rule.
    fn place(&self, state: &State, last: Position) -> Position {
        let head = self.head(state);
        let reach = Reach { records_max: 1_000, age_micros_max: i64::MAX };
        let id = EventId::new(&team_id(), 1, last).to_string();
        let Some(id) = within_reach(&id, &team_id(), head, reach) else { return head };
        let at = |position: Position| position.checked_sub(1).and_then(|index| usize::try_from(index).ok());
        let own = at(last).and_then(|index| state.log.records.get(index));
        let next = at(last + 1).and_then(|index| state.log.records.get(index));
        match judge(id, own, next, 1, 1, reach) {
            Start::After(position) => position,
            Start::SyncRequired => head,
        }
    }

    fn send(&self, state: &mut State, reader: u8, lost: bool) -> Option<()> {
        let connection = state.readers[usize::from(reader)].connection.clone()?;
        let mut cursor = connection.cursor?;
        let mut has_replayed = false;
        let step = if connection.is_seated {
            let window = state.nodes[usize::from(connection.node)].feed.as_mut()?.window.as_mut()?;
            if self.has(DesignError::BacklogBeforeSubscribing) {
                // What came between the backlog and the subscription is nobody's business.
                cursor = cursor.max(window.after());
            }
            let again = self.has(DesignError::NoDropAtHandOver) && connection.has_replayed && cursor >= window.after();
            let from = if again { window.after() } else { cursor };
            window.take(&Filter::default(), from, CHUNK_BYTES).step(cursor)
        } else {
            Step::Replay
        };
        let sent: Vec<Position> = match step {
            Step::Wait => return None,
            Step::Go(upto, chunk) => {
                cursor = upto;
                chunk.map(|chunk| chunk.iter().map(|frame| Position::from(*frame)).collect()).unwrap_or_default()
            }
            Step::Replay => {
                has_replayed = true;
                let page = Self::visible(state, cursor, PAGE);
                cursor = *page.last()?;
                page.into_iter().filter(|position| matches!(state.log.kind(*position), Kind::Mail { .. })).collect()
            }
        };
        if lost {
            state.spent.drops += 1;
            return leave(state, reader, Left::Window);
        }
        let of = &mut state.readers[usize::from(reader)];
        of.connection = Some(Connection { cursor: Some(cursor), has_replayed, ..connection });
        if let Some(last) = sent.last() {
            of.last = *last;
        }
        of.received.extend(sent);
        Some(())
    }
}

fn encoded(position: Position) -> Encoded {
    let index = usize::try_from(position).unwrap_or(0).min(FRAMES.len() - 1);
    let frame = Bytes::from_static(&FRAMES[index..=index]);
    Encoded { event_type: Cow::Borrowed("message.received"), mailbox: None, frame }
}

/// A client goes; the last one of a window and of a feed takes them along.
fn leave(state: &mut State, reader: u8, left: Left) -> Option<()> {
    let gone = state.readers[usize::from(reader)].connection.take()?;
    let listens = |reader: &Reader| reader.connection.as_ref().is_some_and(|c| c.is_seated && c.node == gone.node);
    if !gone.is_seated || state.readers.iter().any(listens) {
        return Some(());
    }
    let feed = &mut state.nodes[usize::from(gone.node)].feed;
    match left {
        Left::Nothing => *feed = None,
        Left::Feed => {
            if let Some(feed) = feed {
                (feed.window, feed.is_for_window) = (None, false);
            }
        }
        Left::Window => {}
    }
    Some(())
}
