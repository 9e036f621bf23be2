//! Erasing what was found, and erasing it again: from the log, the bodies, the dispatcher's bookkeeping and the read
//! models.
//!
//! Every erasure is written into a record apart from the database, by positions alone, so that the record names nobody. A
//! backup that is older than an erasure brings back what was erased; each start therefore compares the record with what
//! this database has seen of it, and erases again before anybody can ask.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use dispatcher::outbound::Queue;
use domain::id::{BlobId, EventId, OutboundId, Position, RequestId, TeamId};
use domain::team::{ErasureSubject, PersonalDataErased, RecordErasure};
use domain::{Actor, Event, message, outbound};
use eventlog::{Recorded, Submission, TransactError};
use serde::{Deserialize, Serialize};

use crate::config::Config;
use crate::store::Store;

/// How many events are erased at once.
const PAGE: u64 = 1_000;
/// How often a rebuild that somebody else makes is looked after.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// How often a write-ahead file that somebody reads from is tried to be emptied.
const EMPTYINGS_MAX: usize = 50;

/// First and last position of events without a gap.
type Range = (Position, Position);

/// One erasure: a line of the record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Erasure {
    /// When it was asked for, microseconds since the Unix epoch.
    pub at: i64,
    /// Of which team.
    pub team: TeamId,
    /// What it was about.
    pub subject: ErasureSubject,
    /// The events, by the epoch they were written in: after a restore their positions are taken by others.
    pub events: BTreeMap<u16, Vec<Range>>,
}

impl Erasure {
    /// Returns an erasure of events, given by epoch and position.
    #[must_use]
    pub fn new(at: i64, team: TeamId, subject: ErasureSubject, events: &BTreeSet<(u16, Position)>) -> Self {
        let mut ranges: BTreeMap<u16, Vec<Range>> = BTreeMap::new();
        for (epoch, position) in events {
            let ranges = ranges.entry(*epoch).or_default();
            match ranges.last_mut() {
                Some((_, last)) if *last + 1 == *position => *last = *position,
                _ => ranges.push((*position, *position)),
            }
        }
        Self { at, team, subject, events: ranges }
    }
}

/// What an erasure took away.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Done {
    /// Personal halves of events.
    pub events: u64,
    /// Bodies.
    pub bodies: u64,
}

/// Carries out an erasure, after it was written into the record. May be repeated.
///
/// # Errors
/// A store does not answer, or the record cannot be written; then the next start or the same command goes on.
pub async fn carry_out(config: &Config, store: &Store, erasure: &Erasure) -> anyhow::Result<Done> {
    record(config, erasure)?;
    let done = erase(store, erasure).await?;
    follow(store).await?;
    remember(config, store).await?;
    Ok(done)
}

/// Erases again what the record names and this database may have got back from a backup.
///
/// # Errors
/// The record cannot be read, or a store does not answer: what was erased must not be served.
pub async fn catch_up(config: &Config, store: &Store) -> anyhow::Result<()> {
    let Some(text) = read(config)? else { return Ok(()) };
    let seen = store.log.keep_first(&mark(store), "").await?;
    if seen == digest(store, &text) {
        return Ok(());
    }
    let mut done = Done::default();
    for (n, line) in whole(&text).lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let erasure: Erasure = serde_json::from_str(line)
            .with_context(|| format!("line {} of {} is not an erasure", n + 1, place(config).display()))?;
        let again = erase(store, &erasure).await?;
        done = Done { events: done.events + again.events, bodies: done.bodies + again.bodies };
    }
    if done != Done::default() {
        tracing::warn!(done.events, done.bodies, "a backup had brought back what was erased; it was erased again");
        follow(store).await?;
    }
    remember(config, store).await
}

/// Erases from the log, the bodies and the bookkeeping.
async fn erase(store: &Store, erasure: &Erasure) -> anyhow::Result<Done> {
    let team = &erasure.team;
    let mut done = Done::default();
    for (epoch, ranges) in &erasure.events {
        for (first, last) in ranges {
            let mut after = first.saturating_sub(1);
            while after < *last {
                let limit = usize::try_from((last - after).min(PAGE)).unwrap_or(usize::MAX);
                let mut page = store.log.read(team, after, limit).await?;
                let Some(end) = page.last() else { break };
                after = end.position;
                page.retain(|record| record.epoch == *epoch);
                erase_page(store, team, &page, &mut done).await.context("not everything was erased; try again")?;
            }
        }
    }
    let erased = PersonalDataErased { subject: erasure.subject, events: done.events, bodies: done.bodies };
    let request = RequestId::new(store.allot.now(), store.allot.random());
    let command = RecordErasure { erased };
    let submission = Submission::new(team.clone(), store.allot.now(), Actor::Operator, request.to_string(), command);
    match store.log.transact(submission).await {
        // A backup may be older than the team.
        Ok(_) | Err(TransactError::Rejected(domain::team::Rejected::Unknown)) => Ok(done),
        Err(error) => Err(anyhow::anyhow!("{error}")).context("erased, but not recorded in the log"),
    }
}

async fn erase_page(store: &Store, team: &TeamId, page: &[Recorded], done: &mut Done) -> anyhow::Result<()> {
    let bodies: Vec<BlobId> = page.iter().filter_map(|record| body(&record.event)).cloned().collect();
    let positions: Vec<Position> = page.iter().map(|record| record.position).collect();
    let events: Vec<EventId> = page.iter().map(Recorded::id).collect();
    let mails: BTreeSet<&OutboundId> = page
        .iter()
        .filter_map(|record| match &record.event {
            Event::Outbound(e) => Some(&e.mail().outbound),
            _ => None,
        })
        .collect();
    let mails: Vec<OutboundId> = mails.into_iter().cloned().collect();
    // The bodies first: they are found by the events, of which less is known afterwards.
    done.bodies += store.log.erase_blobs(team, &bodies).await?;
    done.events += store.log.erase_personal(team, &positions).await?;
    projections::webhook_attempts::forget(&store.work, team, &events).await?;
    Queue::new(store.work.clone()).forget(team, &mails).await?;
    Ok(())
}

/// Returns the body that an event names.
#[must_use]
pub fn body(event: &Event) -> Option<&BlobId> {
    match event {
        Event::Message(message::Event::Received(e)) => Some(&e.blob),
        Event::Message(message::Event::Filed(e)) => Some(&e.blob),
        Event::Outbound(outbound::Event::Accepted(e)) => Some(&e.blob),
        _ => None,
    }
}

/// Has the read models made anew, and nothing of what was erased left in files.
async fn follow(store: &Store) -> anyhow::Result<()> {
    loop {
        match projections::erasure::catch_up(&store.views, &store.log).await {
            Ok(_) => break,
            // A server beside this command has noticed it as well.
            Err(projections::Error::RebuildRunning) => tokio::time::sleep(LOOK_EVERY).await,
            Err(error) => {
                return Err(error).context("erased from the log; the read models follow when a server runs");
            }
        }
    }
    scrub(store).await
}

/// Leaves nothing in files of what was erased.
///
/// # Errors
/// Somebody keeps the log's write-ahead file, or a store does not answer.
pub async fn scrub(store: &Store) -> anyhow::Result<()> {
    store.views.scrub().await.context("erased, but the file of the read models may still hold it; try again")?;
    store.work.scrub().await.context("erased, but the file of the dispatcher may still hold it; try again")?;
    let Some(sqlite) = &store.sqlite else { return Ok(()) };
    for _ in 0..EMPTYINGS_MAX {
        if sqlite.empty_write_ahead().await? {
            return Ok(());
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    anyhow::bail!("erased, but the log's write-ahead file is being read and may still hold it; try again")
}

fn place(config: &Config) -> PathBuf {
    match config.erasures.record_file.as_str() {
        "" => config.server.data_dir.join("erasures.jsonl"),
        file => PathBuf::from(file),
    }
}

fn read(config: &Config) -> anyhow::Result<Option<String>> {
    let place = place(config);
    match std::fs::read_to_string(&place) {
        Ok(text) => Ok(Some(text)),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e).with_context(|| format!("cannot read {}", place.display())),
    }
}

/// Returns the lines that were written to their end.
fn whole(text: &str) -> &str {
    text.rfind('\n').map_or("", |end| &text[..=end])
}

/// Adds a line, durably, before anything is erased.
fn record(config: &Config, erasure: &Erasure) -> anyhow::Result<()> {
    let place = place(config);
    let whole = whole(&read(config)?.unwrap_or_default()).len() as u64;
    let write = || -> std::io::Result<()> {
        let mut file = std::fs::OpenOptions::new().create(true).append(true).open(&place)?;
        // Half a line: its erasure was never begun.
        if file.metadata()?.len() > whole {
            file.set_len(whole)?;
        }
        file.write_all(format!("{}\n", serde_json::to_string(erasure)?).as_bytes())?;
        file.sync_all()?;
        place.parent().map_or(Ok(()), |directory| std::fs::File::open(directory).and_then(|d| d.sync_all()))
    };
    write().with_context(|| format!("cannot write {}; nothing was erased", place.display()))
}

/// Notes that this database has seen the whole record.
async fn remember(config: &Config, store: &Store) -> anyhow::Result<()> {
    if let Some(text) = read(config)? {
        store.log.keep(&mark(store), &digest(store, &text)).await?;
    }
    Ok(())
}

fn mark(store: &Store) -> String {
    format!("erasures seen by {}", store.node)
}

fn digest(store: &Store, text: &str) -> String {
    hex::encode(store.secrets.pepper.mac(b"postlog/erasures/1\0", &[text.as_bytes()]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_a_line_is_no_erasure() {
        assert_eq!(whole("{}\n{\"at\":1"), "{}\n");
        assert_eq!(whole("{\"at\":1"), "");
        assert_eq!(whole("{}\n"), "{}\n");
    }

    #[test]
    fn neighbouring_positions_are_one_range_and_epochs_are_apart() {
        let events = BTreeSet::from([(1, 3), (1, 4), (1, 5), (1, 9), (2, 6), (2, 7)]);
        let team = TeamId::new(1, [1; 9]);
        let erasure = Erasure::new(7, team, ErasureSubject::Address, &events);
        assert_eq!(erasure.events, BTreeMap::from([(1, vec![(3, 5), (9, 9)]), (2, vec![(6, 7)])]));
        let line = serde_json::to_string(&erasure).unwrap();
        assert!(line.contains(r#""events":{"1":[[3,5],[9,9]],"2":[[6,7]]}"#), "{line}");
        assert_eq!(serde_json::from_str::<Erasure>(&line).unwrap(), erasure);
    }
}
