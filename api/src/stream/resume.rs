//! Where a stream begins: after the last event the client has, if that place is known and still offered.

use domain::id::{EventId, Position, TeamId};
use eventlog::{EventLog, LogError, Recorded};

/// How far back a stream may resume.
#[derive(Debug, Clone, Copy)]
pub struct Reach {
    /// Records between the place and the head.
    pub records_max: u64,
    /// Age of the first record that would be replayed, microseconds.
    pub age_micros_max: i64,
}

/// Where a stream begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// After this position; nothing is missed.
    After(Position),
    /// The place is not known or not offered any more: the client must read what it missed elsewhere.
    SyncRequired,
}

/// Returns where a stream begins that presents the id of the last event it has seen.
///
/// An id is honoured only if the event at its position is the one it was made for: same team, same epoch. After a
/// restore from a backup an id of before may name a position that is now taken by another event.
///
/// # Errors
/// The log cannot be read.
pub(super) async fn start(
    log: &EventLog,
    team: &TeamId,
    head: Position,
    last_event_id: &str,
    now: i64,
    reach: Reach,
) -> Result<Start, LogError> {
    let Some(id) = within_reach(last_event_id, team, head, reach) else { return Ok(Start::SyncRequired) };
    // The event itself and the one after it; position 0, "before the first", has only the latter.
    let (before, own) = id.position.checked_sub(1).map_or((0, 0), |before| (before, 1));
    let records = log.read(team, before, own + 1).await?;
    let own = (own == 1).then(|| records.first()).flatten();
    Ok(judge(id, own, records.last().filter(|next| next.position > id.position), log.epoch(), now, reach))
}

/// Returns an id that may be resumed from, as far as the log need not be read to say so.
#[must_use]
pub fn within_reach(last_event_id: &str, team: &TeamId, head: Position, reach: Reach) -> Option<EventId> {
    let id = last_event_id.parse::<EventId>().ok()?;
    (id.is_of(team) && id.position <= head && head - id.position <= reach.records_max).then_some(id)
}

/// Decides about an id by the record at its position and the one after it, as far as there are any.
#[must_use]
pub fn judge(
    id: EventId,
    own: Option<&Recorded>,
    next: Option<&Recorded>,
    epoch: u16,
    now: i64,
    reach: Reach,
) -> Start {
    let known = if id.position == 0 { Some(id.epoch.min(epoch)) } else { own.map(|record| record.epoch) };
    let too_old = next.is_some_and(|next| now.saturating_sub(next.at) > reach.age_micros_max);
    if known == Some(id.epoch) && !too_old { Start::After(id.position) } else { Start::SyncRequired }
}
