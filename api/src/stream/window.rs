//! A window: the newest frames of one kind of stream, encoded once and shared by all its clients.
//!
//! Between [`Window::after`] and the newest position it is complete: whoever stands at or beyond `after` finds here all
//! that follows. Whoever stands before it reads the log instead. Frames leave when they are old or too many bytes.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};
use domain::id::Position;
use tokio::time::Instant;

use super::filter::Filter;
use super::frame::Encoded;

/// A frame in its place.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Slot {
    position: Position,
    encoded: Encoded,
    pushed_at: Instant,
}

/// What a client at some position finds.
#[derive(Debug, PartialEq, Eq)]
pub enum Taken {
    /// It stands before the window: the log has what it needs.
    Behind,
    /// All up to a position is dealt with; the frames that pass its filter, as one chunk.
    UpTo(Position, Option<Bytes>),
}

/// What a client does next, after it looked into the window.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// It stands at this position from now on, and sends the chunk, if there is one.
    Go(Position, Option<Bytes>),
    /// It has everything: it waits for the bell.
    Wait,
    /// It reads the log on from where it stands.
    Replay,
}

impl Taken {
    /// Returns what a client that stands at `cursor` does with what it found.
    #[must_use]
    pub fn step(self, cursor: Position) -> Step {
        match self {
            Self::Behind => Step::Replay,
            Self::UpTo(upto, chunk) if chunk.is_some() || upto > cursor => Step::Go(upto, chunk),
            Self::UpTo(..) => Step::Wait,
        }
    }
}

/// The last chunk that was joined for clients without a filter: many of them stand at the same place.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Joined {
    after: Position,
    upto: Position,
    chunk: Bytes,
}

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Window {
    after: Position,
    slots: VecDeque<Slot>,
    bytes: usize,
    joined: Option<Joined>,
}

impl Window {
    /// Returns a window that knows everything after a position: nothing so far.
    pub fn new(after: Position) -> Self {
        Self { after, slots: VecDeque::new(), bytes: 0, joined: None }
    }

    /// Returns the position after which the window is complete.
    #[must_use]
    #[cfg(any(test, feature = "model"))]
    pub fn after(&self) -> Position {
        self.after
    }

    /// Adds the frame of a position beyond all others; the oldest frames leave while there are more than `bytes_max`.
    pub fn push(&mut self, position: Position, encoded: Encoded, now: Instant, bytes_max: usize) {
        debug_assert!(self.slots.back().is_none_or(|last| last.position < position) && position > self.after);
        self.bytes += encoded.frame.len();
        self.slots.push_back(Slot { position, encoded, pushed_at: now });
        while self.bytes > bytes_max && self.slots.len() > 1 {
            self.drop_oldest();
        }
    }

    /// Lets frames go that were pushed before a moment.
    pub fn expire(&mut self, before: Instant) {
        while self.slots.front().is_some_and(|slot| slot.pushed_at < before) {
            self.drop_oldest();
        }
        if self.slots.is_empty() {
            self.slots = VecDeque::new();
            self.joined = None;
        }
    }

    /// Returns when the oldest frame was pushed.
    pub fn oldest(&self) -> Option<Instant> {
        self.slots.front().map(|slot| slot.pushed_at)
    }

    fn drop_oldest(&mut self) {
        if let Some(slot) = self.slots.pop_front() {
            self.bytes -= slot.encoded.frame.len();
            self.after = slot.position;
        }
    }

    /// Returns what a client that has dealt with everything up to `cursor` gets next: as many whole frames as fit into
    /// `chunk_bytes`, but at least one.
    pub fn take(&mut self, filter: &Filter, cursor: Position, chunk_bytes: usize) -> Taken {
        if cursor < self.after {
            return Taken::Behind;
        }
        if filter.passes_all()
            && let Some(joined) = &self.joined
            && joined.after == cursor
        {
            return Taken::UpTo(joined.upto, Some(joined.chunk.clone()));
        }
        let first = self.slots.partition_point(|slot| slot.position <= cursor);
        let mut chunk = Chunk::new(chunk_bytes);
        let mut upto = cursor;
        for slot in self.slots.range(first..) {
            if filter.passes(&slot.encoded.event_type, slot.encoded.mailbox.as_ref()) && !chunk.add(&slot.encoded.frame)
            {
                break;
            }
            upto = slot.position;
        }
        let frames = chunk.frames;
        let chunk = chunk.finish();
        if frames > 1
            && filter.passes_all()
            && let Some(chunk) = &chunk
        {
            self.joined = Some(Joined { after: cursor, upto, chunk: chunk.clone() });
        }
        Taken::UpTo(upto, chunk)
    }
}

/// Whole frames, joined up to a number of bytes. A single frame is passed on without copying it.
pub struct Chunk {
    bytes_max: usize,
    frames: usize,
    single: Bytes,
    joined: BytesMut,
}

impl Chunk {
    /// Returns an empty chunk for at most so many bytes, or one frame that is longer.
    pub fn new(bytes_max: usize) -> Self {
        Self { bytes_max, frames: 0, single: Bytes::new(), joined: BytesMut::new() }
    }

    /// Adds a frame unless it does not fit any more; returns whether it did.
    pub fn add(&mut self, frame: &Bytes) -> bool {
        match self.frames {
            0 => self.single = frame.clone(),
            _ if self.single.len().max(self.joined.len()) + frame.len() > self.bytes_max => return false,
            1 => {
                self.joined.reserve(self.single.len() + frame.len());
                self.joined.extend_from_slice(&self.single);
                self.joined.extend_from_slice(frame);
                self.single = Bytes::new();
            }
            _ => self.joined.extend_from_slice(frame),
        }
        self.frames += 1;
        true
    }

    /// Returns the frames; `None` if there are none.
    pub fn finish(self) -> Option<Bytes> {
        match self.frames {
            0 => None,
            1 => Some(self.single),
            _ => Some(self.joined.freeze()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use domain::testing::mailbox_id;
    use proptest::prelude::*;

    fn encoded(position: Position, event_type: &str) -> Encoded {
        let frame = Bytes::from(format!("<{position}>"));
        Encoded { event_type: event_type.to_owned().into(), mailbox: Some(mailbox_id(1)), frame }
    }

    fn window(positions: &[Position]) -> Window {
        let mut window = Window::new(0);
        for p in positions {
            window.push(*p, encoded(*p, "a"), Instant::now(), usize::MAX);
        }
        window
    }

    fn text(taken: &Taken) -> &str {
        match taken {
            Taken::UpTo(_, Some(chunk)) => std::str::from_utf8(chunk).unwrap(),
            Taken::UpTo(_, None) => "",
            Taken::Behind => "behind",
        }
    }

    #[test]
    fn unseen_frames_come_as_one_chunk() {
        let mut window = window(&[2, 5, 9]);
        assert_eq!(window.take(&Filter::all(), 2, 100), Taken::UpTo(9, Some(Bytes::from("<5><9>"))));
        assert_eq!(window.take(&Filter::all(), 9, 100), Taken::UpTo(9, None));
        // A client that comes to the same place later gets the same joined chunk, then the rest.
        window.push(11, encoded(11, "a"), Instant::now(), usize::MAX);
        assert_eq!(window.take(&Filter::all(), 2, 100), Taken::UpTo(9, Some(Bytes::from("<5><9>"))));
        assert_eq!(text(&window.take(&Filter::all(), 9, 100)), "<11>");
    }

    #[test]
    fn a_frame_longer_than_a_chunk_goes_alone() {
        let mut window = window(&[1, 2]);
        assert_eq!(window.take(&Filter::all(), 0, 1), Taken::UpTo(1, Some(Bytes::from("<1>"))));
    }

    #[test]
    fn who_stands_before_the_window_is_behind() {
        let mut window = Window::new(0);
        for p in 1..=10 {
            window.push(p, encoded(p, "a"), Instant::now(), 10);
        }
        assert_eq!(window.after(), 7);
        assert_eq!(window.take(&Filter::all(), 6, 100), Taken::Behind);
        assert_eq!(text(&window.take(&Filter::all(), 7, 100)), "<8><9><10>");
    }

    #[test]
    fn old_frames_leave() {
        let mut window = window(&[3]);
        assert!(window.oldest().is_some());
        window.expire(Instant::now() + std::time::Duration::from_secs(1));
        assert_eq!((window.after(), window.oldest()), (3, None));
    }

    proptest! {
        #[test]
        fn taking_in_any_portions_gives_every_passing_frame_once(
            types in prop::collection::vec(0usize..3, 1..40), chunk_bytes in 1usize..40, start in 0u64..40,
        ) {
            let names = ["a", "b", "c"];
            let mut window = Window::new(0);
            for (p, t) in (1..).zip(&types) {
                window.push(p, encoded(p, names[*t]), Instant::now(), usize::MAX);
            }
            let filter = Filter::of_types(["a", "c"]);
            let mut cursor = start;
            let mut got = String::new();
            loop {
                let taken = window.take(&filter, cursor, chunk_bytes);
                got.push_str(text(&taken));
                let Taken::UpTo(upto, _) = taken else { unreachable!() };
                if upto == cursor { break }
                cursor = upto;
            }
            let want: String = (1u64..).zip(&types).filter(|(p, t)| *p > start && **t != 1).map(|(p, _)| format!("<{p}>")).collect();
            prop_assert_eq!(got, want);
        }
    }
}
