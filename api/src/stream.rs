//! Streams: the log as it happens, resumable at any event.
//!
//! `GET /mailbox/events` tells of what arrives in one mailbox, `GET /events/stream` of everything published of a team;
//! `GET /events` is the same feed in pages. All three read the log and nothing else.
//!
//! How it works: one task per team with open streams reads what is new once and encodes it once per kind of stream
//! (`feed`) into a bounded window of frames (`window`). A client is a cursor, a filter and a socket (`subscription`);
//! there is no queue per client. Whoever stands before the window, be it after a reconnection or because it reads
//! slowly, is served from the log by the same code.
//!
//! Invariants:
//! - Every event with a position beyond the cursor that passes the filter is sent exactly once per connection, in order.
//! - Nothing is encoded or copied for a client that has no room for it.
//! - No client waits for another; the feed waits for none.
//! - After the record that revokes its key or suspends its mailbox, a stream ends; it does not need to be read to end.
//! - An id that cannot be resumed from is answered with `sync_required`, never with silence.

mod feed;
mod filter;
mod frame;
mod hub;
mod list;
mod live;
#[cfg(feature = "model")]
pub mod model;
mod parameters;
mod realtime;
mod render;
mod resume;
pub mod serve;
mod snapshot;
mod subscription;
mod window;

use serde::Deserialize;

pub use hub::Streams;
pub use realtime::RealtimeEvent;
pub use render::PublishedEvent;

use crate::door;
use crate::openapi::Routes;

/// The section `streams` of the configuration.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Streams open on one node.
    pub streams_max: usize,
    /// Streams open of one team on one node.
    pub streams_per_team_max: usize,
    /// Streams open with one key on one node.
    pub streams_per_key_max: usize,
    /// Streams open on one mailbox on one node.
    pub streams_per_mailbox_max: usize,
    /// The least time clients are told to wait before they reconnect; up to as much again is added at random.
    pub retry_milliseconds: u64,
    /// How many bytes of text and of HTML an event of a mailbox carries.
    pub body_bytes: usize,
    /// How many bytes of frames go to a client at once; a longer frame goes alone.
    pub chunk_bytes: usize,
    /// How many bytes of frames are kept for all clients of one mailbox or one team.
    pub window_bytes: usize,
    /// How long frames are kept for all clients of one mailbox or one team.
    pub window_milliseconds: u64,
    /// How many bytes of frames with pieces of messages are kept over all teams, for clients that resume.
    pub kept_frames_bytes: usize,
    /// How many clients that are behind are read for at once.
    pub replays_at_once: usize,
    /// How many records back a stream may resume.
    pub replay_records_max: u64,
    /// How far back in time a stream may resume.
    pub replay_seconds_max: u64,
    /// How many records a page of the event feed looks at before it answers with what it has.
    pub scan_records_max: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            streams_max: 20_000,
            streams_per_team_max: 2_000,
            streams_per_key_max: 100,
            streams_per_mailbox_max: 100,
            retry_milliseconds: 2_000,
            body_bytes: 16_384,
            chunk_bytes: 64 * 1024,
            window_bytes: 1024 * 1024,
            window_milliseconds: 5_000,
            kept_frames_bytes: 16 * 1024 * 1024,
            replays_at_once: 8,
            replay_records_max: 1_000_000,
            replay_seconds_max: 7 * 24 * 60 * 60,
            scan_records_max: 10_000,
        }
    }
}

impl Config {
    /// Returns everything that is wrong with the section, each naming its key.
    #[must_use]
    pub fn problems(&self) -> Vec<String> {
        let positive = [
            ("streams_max", self.streams_max > 0),
            ("streams_per_team_max", self.streams_per_team_max > 0),
            ("streams_per_key_max", self.streams_per_key_max > 0),
            ("streams_per_mailbox_max", self.streams_per_mailbox_max > 0),
            ("retry_milliseconds", self.retry_milliseconds > 0),
            ("chunk_bytes", self.chunk_bytes > 0),
            ("window_bytes", self.window_bytes > 0),
            ("window_milliseconds", self.window_milliseconds > 0),
            ("replays_at_once", self.replays_at_once > 0),
            ("scan_records_max", self.scan_records_max > 0),
        ];
        let zero = positive.iter().filter(|(_, ok)| !ok).map(|(key, _)| format!("streams.{key} must not be 0"));
        let mut problems: Vec<String> = zero.collect();
        let bounds = [
            ("body_bytes", self.body_bytes, 1024 * 1024),
            ("replays_at_once", self.replays_at_once, 1_024),
            ("scan_records_max", self.scan_records_max, 1_000_000),
        ];
        let over = bounds.iter().filter(|(_, n, max)| n > max);
        problems.extend(over.map(|(key, _, max)| format!("streams.{key} must be at most {max}")));
        problems
    }
}

/// Returns the routes of the streams and the event feed.
pub(crate) fn routes() -> Routes {
    Routes::new()
        .with(door!(live::stream_mailbox_events))
        .with(door!(live::stream_events))
        .with(door!(list::list_events))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_sound_and_every_problem_is_told_at_once() {
        assert_eq!(Config::default().problems(), Vec::<String>::new());
        let faulty = Config { streams_max: 0, replays_at_once: 0, body_bytes: usize::MAX, ..Config::default() };
        assert_eq!(faulty.problems().len(), 3, "{:?}", faulty.problems());
    }
}
