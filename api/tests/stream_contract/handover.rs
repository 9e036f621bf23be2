//! Between taking a place, reading the head and replaying, other events are appended: none is lost or comes twice.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use domain::id::{BlobId, Position, TeamId};
use eventlog::testing::InFront;
use eventlog::{Backend, BlobRow, Head, MemoryBackend, StoreError, StoredRecord};
use tokio::sync::Semaphore;

use super::harness::{World, config, ids};

/// A memory log whose reads can be held back before or after they are made.
struct Gated {
    inner: MemoryBackend,
    /// Which read is held back; the count goes down with each.
    skip: AtomicUsize,
    /// Whether it is held back after it was made, so that its answer is old.
    after: std::sync::atomic::AtomicBool,
    held: Semaphore,
    go: Semaphore,
}

impl Gated {
    fn new() -> Self {
        Self {
            inner: MemoryBackend::default(),
            skip: AtomicUsize::new(usize::MAX),
            after: false.into(),
            held: Semaphore::new(0),
            go: Semaphore::new(0),
        }
    }

    /// Holds back the read after `skip` others.
    fn hold_back(&self, skip: usize, after: bool) {
        self.after.store(after, Ordering::SeqCst);
        self.skip.store(skip, Ordering::SeqCst);
    }

    async fn gate<T>(&self, read: impl Future<Output = T>) -> T {
        let count = |n: usize| if n == usize::MAX { None } else { Some(n.wrapping_sub(1)) };
        let held = self.skip.fetch_update(Ordering::SeqCst, Ordering::SeqCst, count) == Ok(0);
        if !held {
            return read.await;
        }
        if self.after.load(Ordering::SeqCst) {
            let answer = read.await;
            self.held.add_permits(1);
            self.go.acquire().await.unwrap().forget();
            answer
        } else {
            self.held.add_permits(1);
            self.go.acquire().await.unwrap().forget();
            read.await
        }
    }
}

#[async_trait]
impl InFront for Gated {
    fn behind(&self) -> &dyn Backend {
        &self.inner
    }

    async fn heads(&self, teams: &[TeamId]) -> Result<Vec<(TeamId, Head)>, StoreError> {
        self.gate(self.inner.heads(teams)).await
    }

    async fn read(&self, team: &TeamId, after: Position, limit: usize) -> Result<Vec<StoredRecord>, StoreError> {
        self.gate(self.inner.read(team, after, limit)).await
    }

    async fn blob(&self, team: &TeamId, id: &BlobId) -> Result<Option<BlobRow>, StoreError> {
        self.gate(self.inner.blob(team, id)).await
    }
}

/// Opens a stream while one of its reads is held back and events are appended meanwhile.
async fn race(hold: usize, after: bool, resume: bool, others_listen: bool) -> bool {
    let backend = Arc::new(Gated::new());
    let world = World::over(Arc::<Gated>::clone(&backend), config(), None).await;
    let mut reference = vec![];
    let before = world.head_id().await.to_string();
    for _ in 0..3 {
        reference.push(world.receive().await.to_string());
    }
    let other = if others_listen { Some(world.open("", None).await) } else { None };
    let missed = if resume { 0 } else { reference.len() };
    backend.hold_back(hold, after);
    let presented = resume.then_some(before.as_str());
    let mut opening = std::pin::pin!(world.open("", presented));
    let mut reader = None;
    let mut was_held = false;
    tokio::select! {
        opened = &mut opening => reader = Some(opened),
        held = backend.held.acquire() => {
            held.unwrap().forget();
            was_held = true;
        }
    }
    for _ in 0..2 {
        reference.push(world.receive().await.to_string());
    }
    backend.go.add_permits(1);
    let mut reader = match reader {
        Some(reader) => reader,
        None => opening.await,
    };
    // Reads of the replay and of the feed are held back too, once the stream is open.
    let mut seen = ids(&reader.at_once().await);
    for _ in 0..2 {
        reference.push(world.receive().await.to_string());
    }
    let last = reference.last().unwrap().clone();
    while seen.last() != Some(&last) {
        seen.push(reader.next().await.unwrap().id);
    }
    // Without an id the stream begins at some moment while it was opened; from there on nothing is missing.
    assert!(seen.len() >= 2, "what came after the opening is there");
    let expected = &reference[reference.len() - seen.len()..];
    assert_eq!(seen, expected, "hold {hold}, after {after}, resume {resume}, others {others_listen}");
    assert!(
        !resume || seen.len() == reference.len(),
        "hold {hold}, after {after}: {} of {}",
        seen.len(),
        reference.len()
    );
    assert!(seen.len() <= reference.len() - missed, "events before the opening are not told");
    drop(other);
    was_held
}

#[tokio::test]
async fn events_that_come_during_the_handover_are_told_once() {
    let mut held = 0;
    for hold in 0..14 {
        for (after, resume, others) in [(false, true), (true, true), (false, false), (true, false)]
            .into_iter()
            .flat_map(|(a, r)| [(a, r, true), (a, r, false)])
        {
            held += usize::from(race(hold, after, resume, others).await);
        }
    }
    assert!(held >= 16, "the races should have happened: {held}");
}

#[tokio::test]
async fn a_revocation_during_the_opening_ends_the_stream_or_refuses_it() {
    for hold in 0..10 {
        for after in [false, true] {
            let backend = Arc::new(Gated::new());
            let world = World::over(Arc::<Gated>::clone(&backend), config(), None).await;
            let _other = world.open("", None).await;
            backend.hold_back(hold, after);
            let mut opening = std::pin::pin!(world.ask(&world.mailbox_key, "/mailbox/events", None));
            let mut response = None;
            tokio::select! {
                opened = &mut opening => response = Some(opened),
                held = backend.held.acquire() => held.unwrap().forget(),
            }
            let key = world.mailbox_key.minted.key.clone();
            world.submit(domain::api_key::RevokeKey { key, mailbox: None }).await;
            backend.go.add_permits(1);
            let response = match response {
                Some(response) => response,
                None => opening.await,
            };
            if response.status() == 200 {
                let mut reader = super::harness::Reader::new(response);
                assert!(reader.rest().await.is_empty());
                assert!(reader.parser.comments.last().unwrap().contains("revoked"));
            } else {
                assert_eq!(response.status(), 401, "hold {hold}, after {after}");
            }
        }
    }
}
