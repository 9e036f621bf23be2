//! What the streams and the feed are asked with.

use std::collections::BTreeSet;
use std::time::Duration;

use domain::id::{EventId, Position};
use serde::{Deserialize, Deserializer, de::Error};

use super::filter::{MAILBOX_TYPES, TEAM_TYPES};

/// Seconds within bounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Seconds<const MIN: u64, const MAX: u64>(u64);

impl<const MIN: u64, const MAX: u64> Seconds<MIN, MAX> {
    /// Returns that many seconds.
    pub fn duration(self) -> Duration {
        Duration::from_secs(self.0)
    }
}

impl<'de, const MIN: u64, const MAX: u64> Deserialize<'de> for Seconds<MIN, MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        match text.parse::<u64>() {
            Ok(n) if digits && (MIN..=MAX).contains(&n) => Ok(Self(n)),
            _ => Err(D::Error::custom(format!("must be a whole number of seconds from {MIN} to {MAX}"))),
        }
    }
}

/// Reads the names of a comma-separated list, each of which must be known.
fn names(text: &str, known: impl Fn(&str) -> bool) -> Result<BTreeSet<String>, String> {
    let names: BTreeSet<String> = text.split(',').map(|name| name.trim().to_owned()).collect();
    match names.iter().find(|name| !known(name)) {
        Some(name) => Err(format!("{name:?} is not an event type")),
        None => Ok(names),
    }
}

/// Types of a mailbox's stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct MailboxTypes(BTreeSet<String>);

impl MailboxTypes {
    /// Returns the types to let pass; `None` when these are all.
    pub fn filter(self) -> Option<BTreeSet<String>> {
        (self.0.len() < MAILBOX_TYPES.len()).then_some(self.0)
    }
}

impl<'de> Deserialize<'de> for MailboxTypes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        names(&text, |name| MAILBOX_TYPES.iter().any(|t| t.as_str() == name)).map(Self).map_err(D::Error::custom)
    }
}

/// Types of a team's feed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct TeamTypes(pub BTreeSet<String>);

impl<'de> Deserialize<'de> for TeamTypes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        names(&text, |name| TEAM_TYPES.contains(name)).map(Self).map_err(D::Error::custom)
    }
}

/// A place in a team's log, as a caller names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// The place of an event.
    Event(EventId),
    /// A position; 0 is before the first event.
    Position(Position),
}

impl<'de> Deserialize<'de> for Place {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        if digits && let Ok(position) = text.parse::<i64>() {
            return Ok(Self::Position(position.unsigned_abs()));
        }
        text.parse().map(Self::Event).map_err(|_| D::Error::custom("must be the id of an event or a position"))
    }
}

/// An id of this installation's mailboxes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Mailbox(pub domain::id::MailboxId);

impl<'de> Deserialize<'de> for Mailbox {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map(Self).map_err(|_| D::Error::custom("must be the id of a mailbox"))
    }
}

/// The longest resume id that is looked at; ids are shorter.
const EVENT_ID_BYTES_MAX: usize = 256;

/// The parameters of a mailbox's stream.
#[derive(Debug, Deserialize)]
pub(super) struct MailboxStream {
    pub event_types: Option<MailboxTypes>,
    pub last_event_id: Option<String>,
    pub ping: Option<Seconds<10, 300>>,
    pub close_after: Option<Seconds<30, 3600>>,
}

/// The parameters of a team's stream.
#[derive(Debug, Deserialize)]
pub(super) struct TeamStream {
    pub event_types: Option<TeamTypes>,
    pub mailbox_id: Option<Mailbox>,
    pub last_event_id: Option<String>,
    pub ping: Option<Seconds<10, 300>>,
    pub close_after: Option<Seconds<30, 3600>>,
}

/// The parameters of a page of a team's feed.
#[derive(Debug, Deserialize)]
pub(super) struct Page {
    pub event_types: Option<TeamTypes>,
    pub mailbox_id: Option<Mailbox>,
    pub after: Option<Place>,
    pub cursor: Option<Place>,
    pub since: Option<Place>,
    #[serde(default)]
    pub limit: crate::query::Limit<500, 50>,
}

/// Returns the id to resume after: the header's, which browsers send, before the query's. An empty one is none.
pub(super) fn last_event_id(header: Option<&axum::http::HeaderValue>, query: Option<String>) -> Option<String> {
    let header = header.map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
    let given = header.filter(|id| !id.is_empty()).or(query.filter(|id| !id.is_empty()))?;
    // What is too long to be an id stays one that is not known.
    Some(if given.len() > EVENT_ID_BYTES_MAX { "?".to_owned() } else { given })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::query::parse;
    use axum::http::HeaderValue;

    #[test]
    fn parameters_within_bounds_are_read() {
        let p: MailboxStream = parse("ping=10&close_after=3600&event_types=message.received&x=1").unwrap();
        assert_eq!(p.ping.unwrap().duration(), Duration::from_secs(10));
        assert_eq!(p.close_after.unwrap().duration(), Duration::from_secs(3_600));
        assert_eq!(p.event_types.unwrap().filter().unwrap().len(), 1);
        let p: MailboxStream = parse("event_types=message.received.spam,%20message.received").unwrap();
        assert_eq!(p.event_types.unwrap().filter(), None);
        let p: Page = parse("after=7&event_types=mailbox.opened,sendmux.test&limit=500").unwrap();
        assert_eq!((p.after, p.limit.get()), (Some(Place::Position(7)), 500));
    }

    #[test]
    fn a_faulty_parameter_is_named() {
        let faulty = [
            ("ping=9", "ping"),
            ("ping=301", "ping"),
            ("ping=%2B30", "ping"),
            ("ping=30.5", "ping"),
            ("ping=", "ping"),
            ("ping=99999999999999999999999", "ping"),
            ("close_after=29", "close_after"),
            ("close_after=3601", "close_after"),
            ("close_after=-40", "close_after"),
            ("event_types=", "event_types"),
            ("event_types=message.received,", "event_types"),
            ("event_types=sync_required", "event_types"),
            ("event_types=mailbox.opened", "event_types"),
            ("ping=30&ping=40", "ping"),
            ("last_event_id=%00", "last_event_id"),
        ];
        for (query, field) in faulty {
            assert_eq!(parse::<MailboxStream>(query).unwrap_err().errors()[0].field, field, "{query}");
        }
        let faulty = [
            ("event_types=message.recieved", "event_types"),
            ("event_types=webhook.tested", "event_types"),
            ("mailbox_id=abc", "mailbox_id"),
            ("after=-1", "after"),
            ("after=evt_zzz", "after"),
            ("since=99999999999999999999", "since"),
            ("cursor=", "cursor"),
            ("limit=501", "limit"),
            ("limit=0", "limit"),
        ];
        for (query, field) in faulty {
            assert_eq!(parse::<Page>(query).unwrap_err().errors()[0].field, field, "{query}");
        }
    }

    #[test]
    fn the_header_wins_over_the_query() {
        let header = HeaderValue::from_static("a");
        assert_eq!(last_event_id(Some(&header), Some("b".into())).as_deref(), Some("a"));
        assert_eq!(last_event_id(None, Some("b".into())).as_deref(), Some("b"));
        assert_eq!(last_event_id(Some(&HeaderValue::from_static("")), Some("b".into())).as_deref(), Some("b"));
        assert_eq!(last_event_id(None, Some(String::new())), None);
        let long = HeaderValue::from_str(&"x".repeat(10_000)).unwrap();
        assert_eq!(last_event_id(Some(&long), None).as_deref(), Some("?"));
        let bytes = HeaderValue::from_bytes(b"\xff").unwrap();
        assert_eq!(last_event_id(Some(&bytes), None).as_deref(), Some("\u{fffd}"));
    }
}
