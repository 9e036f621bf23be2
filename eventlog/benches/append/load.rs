//! The load: events with 512 bytes of facts, idempotency keys on, from a number of producers that each wait for their answer.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use domain::id::{MailboxId, MessageId, TeamId};
use domain::message::{Event as MessageEvent, KeywordsChanged, Message};
use domain::{Actor, Command, Event, Moment, StreamId, Versioned};
use eventlog::{Allot, Answer, Backend, BlobStore, EventLog, Idempotency, MasterKey, Options, Submission};

/// How long one round measures.
const ROUND: Duration = Duration::from_millis(1_500);
/// How often each pair is measured.
pub const ROUNDS: usize = 3;

pub fn team(n: u64) -> TeamId {
    let mut random = [0; 9];
    random[..8].copy_from_slice(&n.to_be_bytes());
    TeamId::new(1_700_000_000_000_000, random)
}

/// Appends one event to a stream of its own.
struct Note {
    facts: KeywordsChanged,
}

impl Note {
    fn new(n: u64) -> Self {
        let mut random = [0; 9];
        random[..8].copy_from_slice(&n.to_be_bytes());
        let mailbox = MailboxId::new(1, [1; 9]);
        let bare = KeywordsChanged {
            message: MessageId::new(1_700_000_000_000_000, random),
            mailbox,
            added: BTreeSet::from([String::new()]),
            removed: BTreeSet::new(),
        };
        let bytes = Event::Message(MessageEvent::KeywordsChanged(bare.clone().into())).encode().facts.len();
        Self {
            facts: KeywordsChanged { added: BTreeSet::from(["k".repeat(crate::bare::FACTS_BYTES - bytes)]), ..bare },
        }
    }
}

impl Command for Note {
    type State = Versioned<Message>;
    type Rejected = Infallible;

    fn streams(&self) -> Vec<StreamId> {
        vec![StreamId::Message(self.facts.message.clone())]
    }

    fn decide(&self, _: &Self::State, _: &Moment) -> Result<Vec<Event>, Infallible> {
        Ok(vec![Event::Message(MessageEvent::KeywordsChanged(self.facts.clone().into()))])
    }
}

/// Returns a log over a backend.
pub async fn log(backend: Arc<dyn Backend>, lanes: usize) -> EventLog {
    let options = Options::new(MasterKey::new(&[7; 32]), BlobStore::memory(), Allot::system().entropy());
    EventLog::open(backend, Options { lanes: lanes.try_into().unwrap(), ..options }).await.unwrap()
}

/// Hands one event with an idempotency key to the log and waits for its answer.
pub async fn transact(log: &EventLog, team: &TeamId, n: u64) {
    let note = Note::new(n);
    let stream = StreamId::Message(note.facts.message.clone());
    let key = Idempotency { scope: "POST /messages".to_owned(), key: format!("bench-{n:016}"), fingerprint: [1; 32] };
    let submission = Submission::new(team.clone(), 1_700_000_000_000_000, Actor::Operator, "req_bench", note)
        .fresh(stream)
        .idempotent(key, |appended| Answer {
            status: 201,
            headers: vec![],
            body: format!("{{\"position\":{}}}", appended.head.position),
        });
    log.transact(submission).await.unwrap();
}

/// Lets producers work for a while; returns operations a second.
pub async fn measure<F, Fut>(producers: u64, work: F) -> f64
where
    F: Fn(u64, u64) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = ()> + Send,
{
    static NEXT: AtomicU64 = AtomicU64::new(1);
    let work = Arc::new(work);
    let started = Instant::now();
    let mut all = tokio::task::JoinSet::new();
    for producer in 0..producers {
        let work = Arc::clone(&work);
        all.spawn(async move {
            let mut done = 0u64;
            while started.elapsed() < ROUND {
                work(producer, NEXT.fetch_add(1, Ordering::Relaxed)).await;
                done += 1;
            }
            done
        });
    }
    let done: u64 = all.join_all().await.into_iter().sum();
    done as f64 / started.elapsed().as_secs_f64()
}

/// Returns the middle of some measurements.
pub fn median(mut all: Vec<f64>) -> f64 {
    all.sort_by(f64::total_cmp);
    all[all.len() / 2]
}
