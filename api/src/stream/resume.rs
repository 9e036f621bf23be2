//! Where a stream begins: after the last event the client has, if that place is known and still offered.

use domain::id::{EventId, Position, TeamId};
use eventlog::{EventLog, LogError};

/// How far back a stream may resume.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reach {
    /// Records between the place and the head.
    pub records_max: u64,
    /// Age of the first record that would be replayed, microseconds.
    pub age_micros_max: i64,
}

/// Where a stream begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Start {
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
    let Ok(id) = last_event_id.parse::<EventId>() else { return Ok(Start::SyncRequired) };
    if !id.is_of(team) || id.position > head || head - id.position > reach.records_max {
        return Ok(Start::SyncRequired);
    }
    // The event itself and the one after it; position 0, "before the first", has only the latter.
    let (before, own) = id.position.checked_sub(1).map_or((0, 0), |before| (before, 1));
    let records = log.read(team, before, own + 1).await?;
    let epoch = if own == 0 { Some(id.epoch.min(log.epoch())) } else { records.first().map(|record| record.epoch) };
    if epoch != Some(id.epoch) {
        return Ok(Start::SyncRequired);
    }
    let too_old = records.get(own).is_some_and(|next| now.saturating_sub(next.at) > reach.age_micros_max);
    Ok(if too_old { Start::SyncRequired } else { Start::After(id.position) })
}
