//! One client's stream: a cursor, a filter, and nothing else that grows.
//!
//! A client is served from the shared window while it stands within, and from the log while it stands before. It is the
//! same code for a client that has just resumed and for one that reads slowly: both stand before the window. Nothing is
//! made before the connection has room for it.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use domain::id::Position;
use eventlog::LogError;
use futures_util::Stream;
use tokio::sync::{Semaphore, watch};
use tokio::time::Instant;

use super::feed::{Channel, Ending, Kitchen, patiently};
use super::filter::{Filter, Interest};
use super::frame;
use super::hub::Seat;
use super::window::{Chunk, Step};

/// The most records a replay reads at once.
const PAGE_RECORDS_MAX: usize = 512;
/// The fewest: enough that a page of large frames is not read again and again.
const PAGE_RECORDS_MIN: usize = 16;

/// Everything a client's stream needs.
pub(super) struct Subscription {
    pub seat: Seat,
    pub channel: Arc<Channel>,
    pub moved: watch::Receiver<()>,
    pub filter: Filter,
    pub cursor: Position,
    /// Goes first: says that the place to resume from is unknown.
    pub sync_required: Option<Bytes>,
    pub retry_milliseconds: u64,
    pub ping: Duration,
    pub close_after: Option<Duration>,
    pub chunk_bytes: usize,
}

/// A page of the log, as a client with a filter sees it.
struct Page {
    upto: Position,
    records: usize,
    chunk: Option<Bytes>,
}

impl Subscription {
    /// Returns the bytes of the stream. Each item is whole lines, and no event is divided between items.
    pub fn into_stream(self) -> impl Stream<Item = Result<Bytes, Infallible>> + Send + 'static {
        let Self {
            seat,
            channel,
            mut moved,
            filter,
            mut cursor,
            sync_required,
            retry_milliseconds,
            ping,
            close_after,
            chunk_bytes,
        } = self;
        async_stream::stream! {
            let opened_at = Instant::now();
            let mut next_ping = opened_at + ping;
            let close_at = close_after.map(|after| opened_at + after);
            let mut page_records = PAGE_RECORDS_MAX;
            let timer = tokio::time::sleep_until(next_ping);
            tokio::pin!(timer);
            yield Ok(frame::opening(retry_milliseconds));
            if let Some(sync_required) = sync_required {
                yield Ok(sync_required);
            }
            let ending = loop {
                if let Some(ending) = seat.member().ended() {
                    break Some(ending);
                }
                let now = Instant::now();
                if close_at.is_some_and(|at| at <= now) {
                    break None;
                }
                if next_ping <= now {
                    next_ping = now + ping;
                    yield Ok(frame::HEARTBEAT);
                    continue;
                }
                // Marked as seen before looking: what comes meanwhile rings again.
                moved.borrow_and_update();
                match channel.take(&filter, cursor, chunk_bytes).step(cursor) {
                    Step::Go(upto, chunk) => {
                        cursor = upto;
                        if let Some(chunk) = chunk {
                            yield Ok(chunk);
                        }
                        continue;
                    }
                    Step::Wait => {}
                    Step::Replay => {
                        let page = replay(&seat, filter.clone(), cursor, page_records, chunk_bytes).await;
                        let Some(page) = page else { break Some(Ending::Unavailable) };
                        // A page full of large frames was read for nothing but its first records.
                        page_records = (page.records * 2).clamp(PAGE_RECORDS_MIN, PAGE_RECORDS_MAX);
                        cursor = page.upto;
                        if let Some(chunk) = page.chunk {
                            yield Ok(chunk);
                        }
                        continue;
                    }
                }
                let deadline = close_at.map_or(next_ping, |at| at.min(next_ping));
                if timer.deadline() != deadline {
                    timer.as_mut().reset(deadline);
                }
                tokio::select! {
                    // The channel lives as long as this stream: the bell never breaks.
                    _ = moved.changed() => {}
                    () = timer.as_mut() => {}
                }
            };
            if let Some(ending) = ending {
                seat.member().end(ending);
                yield Ok(frame::farewell(ending.farewell()));
            }
        }
    }
}

/// Reads a page of the log for a client that stands before the window; `None` if the log cannot be read.
///
/// It is a task of its own because nobody promises that a body is polled to its end: a stalled client must not keep
/// the place of others who wait to read.
async fn replay(seat: &Seat, filter: Filter, cursor: Position, records: usize, chunk_bytes: usize) -> Option<Page> {
    let hub = seat.hub();
    let (team, interest) = (seat.team().clone(), seat.interest().clone());
    let (kitchen, turns) = (Arc::clone(&hub.kitchen), Arc::clone(&hub.replays));
    let read =
        async move { read_page(&kitchen, &turns, (&team, &interest, &filter), cursor, records, chunk_bytes).await };
    match hub.tasks.spawn(read).await {
        Ok(Ok(page)) => Some(page),
        Ok(Err(error)) => {
            let error = &error as &dyn std::error::Error;
            tracing::error!(error, team.id = %seat.team(), log.position = cursor, "a stream cannot be replayed");
            None
        }
        Err(error) => {
            tracing::error!(error = &error as &dyn std::error::Error, "a replay did not end well");
            None
        }
    }
}

async fn read_page(
    kitchen: &Kitchen,
    turns: &Semaphore,
    (team, interest, filter): (&domain::id::TeamId, &Interest, &Filter),
    cursor: Position,
    records: usize,
    chunk_bytes: usize,
) -> Result<Page, LogError> {
    let _turn = turns.acquire().await.ok();
    let started = Instant::now();
    let records = patiently(|| kitchen.log.read(team, cursor, records)).await?;
    let mut chunk = Chunk::new(chunk_bytes);
    let mut page = Page { upto: cursor, records: 0, chunk: None };
    for record in &records {
        let encoded = patiently(|| kitchen.renderer.encode(interest, filter, record)).await?;
        if encoded.is_some_and(|encoded| !chunk.add(&encoded.frame)) {
            break;
        }
        page.upto = record.position;
        page.records += 1;
    }
    page.chunk = chunk.finish();
    metrics::histogram!("sse_replay_seconds").record(started.elapsed().as_secs_f64());
    if page.upto == cursor {
        // Behind the window there is always something; if not, the store has lost what it had.
        let lost = format!("nothing after position {cursor}, where there was something before");
        return Err(LogError::Store(eventlog::StoreError::Corrupt(lost)));
    }
    Ok(page)
}
