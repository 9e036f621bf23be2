//! Bodies in the background: old inline ones move into the object store, and objects that nothing refers to are dropped.

use std::collections::HashMap;
use std::time::Duration;

use domain::id::{BlobId, TeamId};
use eventlog::{Allot, EventLog, LogError};
use tokio_util::sync::CancellationToken;

use crate::config::Blobs;

/// Teams asked for at a time.
const TEAMS: usize = 200;
/// Bodies moved of one team before the next has its turn.
const BODIES: usize = 100;
/// Teams of which it is remembered how far they were moved. Of others it is found out again.
const MARKS_MAX: usize = 100_000;
/// Objects dropped of one team in one look.
const ORPHANS_MAX: usize = 10_000;
const MICROS_PER_SECOND: i64 = 1_000_000;

/// Moves what is old, again and again until stopped. Any number of nodes may do so; what one has moved the others find moved.
///
/// # Errors
/// None: what fails is tried again with the next look.
pub async fn keep_moving(log: EventLog, allot: Allot, settings: Blobs, stop: CancellationToken) -> anyhow::Result<()> {
    let mut marks = HashMap::new();
    let every = Duration::from_secs(settings.move_look_seconds);
    while settings.move_after_seconds > 0 && wait(every, &stop).await {
        match move_old(&log, &allot, &settings, &mut marks, &stop).await {
            Ok((0, _)) => {}
            Ok((bodies, bytes)) => tracing::info!(bodies, bytes, "old bodies moved into the object store"),
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(error, "old bodies cannot be moved now; tried again with the next look");
            }
        }
    }
    stop.cancelled().await;
    Ok(())
}

/// Drops what nothing refers to, again and again until stopped.
///
/// # Errors
/// None: what fails is tried again with the next look.
pub async fn keep_tidy(log: EventLog, allot: Allot, settings: Blobs, stop: CancellationToken) -> anyhow::Result<()> {
    let every = Duration::from_secs(settings.orphan_look_seconds);
    while settings.orphan_after_seconds > 0 && wait(every, &stop).await {
        match drop_old(&log, &allot, &settings, &stop).await {
            Ok(0) => {}
            Ok(dropped) => tracing::info!(dropped, "objects that nothing refers to were dropped"),
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(error, "the object store cannot be looked through now; tried again with the next look");
            }
        }
    }
    stop.cancelled().await;
    Ok(())
}

/// Returns whether the time has passed without being stopped.
async fn wait(time: Duration, stop: &CancellationToken) -> bool {
    tokio::select! {
        () = stop.cancelled() => false,
        () = tokio::time::sleep(time) => true,
    }
}

fn ago(allot: &Allot, seconds: u64) -> i64 {
    allot.now().saturating_sub(i64::try_from(seconds).unwrap_or(i64::MAX).saturating_mul(MICROS_PER_SECOND))
}

/// Goes over all teams in turns, so that one with much to move does not keep the others waiting. Returns how many bodies were
/// moved, and their bytes.
async fn move_old(
    log: &EventLog,
    allot: &Allot,
    settings: &Blobs,
    marks: &mut HashMap<TeamId, BlobId>,
    stop: &CancellationToken,
) -> Result<(u64, u64), LogError> {
    let before = ago(allot, settings.move_after_seconds);
    let (mut bodies, mut bytes, mut last) = (0, 0, None);
    loop {
        let mut teams = log.teams(last.as_ref(), TEAMS).await?;
        let Some(newest) = teams.last().cloned() else { return Ok((bodies, bytes)) };
        last = Some(newest);
        while !teams.is_empty() {
            let mut unfinished = vec![];
            for team in teams {
                if stop.is_cancelled() || bodies >= settings.move_bodies_per_look_max {
                    return Ok((bodies, bytes));
                }
                let moved = log.move_bodies_out(&team, marks.get(&team), before, BODIES).await?;
                bodies += moved.bodies;
                bytes += moved.bytes;
                if let Some(mark) = moved.last {
                    if marks.len() >= MARKS_MAX {
                        marks.clear();
                    }
                    marks.insert(team.clone(), mark);
                    unfinished.push(team);
                }
            }
            teams = unfinished;
        }
    }
}

async fn drop_old(log: &EventLog, allot: &Allot, settings: &Blobs, stop: &CancellationToken) -> Result<u64, LogError> {
    let before = ago(allot, settings.orphan_after_seconds);
    let (mut dropped, mut last) = (0, None);
    loop {
        let teams = log.teams(last.as_ref(), TEAMS).await?;
        let Some(newest) = teams.last().cloned() else { return Ok(dropped) };
        last = Some(newest);
        for team in teams {
            if stop.is_cancelled() {
                return Ok(dropped);
            }
            dropped += log.drop_orphans(&team, before, ORPHANS_MAX).await?.dropped;
        }
    }
}
