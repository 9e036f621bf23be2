//! What a node does now and then: hears of other processes' appends, and drops bookkeeping that has expired.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use domain::id::{Position, TeamId};
use eventlog::{Allot, EventLog, LogError};
use projections::uploads;
use projections::webhook_attempts::Work;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::duties::Held;

/// How far the clocks of nodes may differ before an append of one is noticed late by another.
const SKEW_MICROS: i64 = 10 * 1_000_000;
/// How many heads one look takes.
const PAGE: usize = 1_000;
/// How often other processes' erasures are looked for.
const ERASURES_EVERY: Duration = Duration::from_secs(1);
/// How often expired bookkeeping is dropped.
const HOUSEKEEPING_EVERY: Duration = Duration::from_secs(60);
/// How many expired answers one statement drops.
const ANSWERS: usize = 1_000;
/// How many expired uploads are dropped at a time.
const UPLOADS: usize = 100;

/// How often the heads are looked at.
#[derive(Debug, Clone)]
pub struct Pace {
    /// While nobody waits for events.
    pub idle: Duration,
    /// While somebody does.
    pub busy: Duration,
    /// And whenever another node says that it has appended.
    pub heard: Arc<Notify>,
}

/// Looks at the heads that moved, often while somebody waits for events and seldom otherwise.
///
/// # Errors
/// Never: a store that does not answer is tried again.
pub async fn heads(log: EventLog, allot: Allot, pace: Pace, stop: CancellationToken) -> anyhow::Result<()> {
    let mut seen: HashMap<TeamId, (Position, i64)> = HashMap::new();
    loop {
        let pause = if log.wake().listened().is_empty() { pace.idle } else { pace.busy };
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            () = tokio::time::sleep(pause) => {}
            () = pace.heard.notified() => {}
        }
        let since = allot.now() - SKEW_MICROS;
        if let Err(e) = look(&log, since, &mut seen).await {
            tracing::warn!(error = %e, "the heads of the logs cannot be read; trying again");
        }
        seen.retain(|_, (_, at)| *at >= since);
    }
}

async fn look(log: &EventLog, since: i64, seen: &mut HashMap<TeamId, (Position, i64)>) -> Result<(), LogError> {
    let mut from = since;
    loop {
        let moved = log.moved_since(from, PAGE).await?;
        let full = moved.len() == PAGE;
        let last = moved.last().map_or(from, |(_, _, at)| *at);
        for (team, head, at) in moved {
            if seen.insert(team.clone(), (head, at)).is_none_or(|(before, _)| before < head) {
                log.note_moved(&team, head);
            }
        }
        // A page full of one microsecond cannot be passed; the next look sees the rest.
        if !full || last == from {
            return Ok(());
        }
        from = last;
    }
}

/// Forgets what this node remembers of teams of which something was erased, by whichever process.
///
/// # Errors
/// Never: a store that does not answer is tried again.
pub async fn erasures(log: EventLog, stop: CancellationToken) -> anyhow::Result<()> {
    let mut seen: HashMap<TeamId, i64> = HashMap::new();
    loop {
        if let Err(error) = note_erased(&log, &mut seen).await {
            tracing::warn!(%error, "erasures cannot be looked for; trying again");
        }
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            () = tokio::time::sleep(ERASURES_EVERY) => {}
        }
    }
}

async fn note_erased(log: &EventLog, seen: &mut HashMap<TeamId, i64>) -> Result<(), LogError> {
    let mut after = None;
    loop {
        let page = log.erasures(after.as_ref(), PAGE).await?;
        let Some((last, _)) = page.last() else { return Ok(()) };
        after = Some(last.clone());
        for (team, erasures) in page {
            if seen.insert(team.clone(), erasures) != Some(erasures) {
                log.note_erased(&team);
            }
        }
    }
}

/// Drops answers to requests that are older than 24 hours, and uploads that expired.
///
/// # Errors
/// Never: a store that does not answer is tried again.
pub async fn housekeeping(
    log: EventLog,
    work: Work,
    allot: Allot,
    duty: Held,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    loop {
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            () = tokio::time::sleep(HOUSEKEEPING_EVERY) => {}
        }
        if !duty.is_mine() {
            continue;
        }
        while !stop.is_cancelled() {
            match log.drop_expired_answers(allot.now(), ANSWERS).await {
                Ok(dropped) if dropped < u64::try_from(ANSWERS).unwrap_or(u64::MAX) => break,
                Ok(_) => {}
                Err(e) => {
                    tracing::warn!(error = %e, "expired answers cannot be dropped; trying again");
                    break;
                }
            }
        }
        while !stop.is_cancelled() {
            match uploads::drop_expired(&work, &log, allot.now(), UPLOADS).await {
                Ok(dropped) if dropped < UPLOADS => break,
                Ok(_) => {}
                Err(e) => {
                    tracing::warn!(error = %e, "expired uploads cannot be dropped; trying again");
                    break;
                }
            }
        }
    }
}
