//! What a lane decides and what a store takes, without tasks and waiting: the model checker runs them in every order.
//!
//! [`Desk::decide`] is the lane's own decision of a batch with one submission, [`Ledger::append`] the rule of the
//! backend in memory, which the conformance suite keeps equal to that of the databases.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use domain::id::{Position, TeamId};
use domain::{Command, State, StreamId};
use tokio::sync::oneshot;

use super::Working;
use super::attempt::{Attempt, Directory, Fate};
use super::job::{Job, TypedJob, empty};
use crate::backend::{AppendError, Batch, Head};
use crate::directory::DirectoryKey;
use crate::fold_cache::{Folded, Known};
use crate::log::Shared;
use crate::memory::Store;
use crate::record::Recorded;
use crate::transact::{Outcome, Submission, TransactError};

/// What a store holds, as a value.
#[derive(Clone, Default)]
pub struct Ledger {
    store: Store,
}

impl std::fmt::Debug for Ledger {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Ledger")
    }
}

impl Ledger {
    /// Returns where a team's log ends.
    #[must_use]
    pub fn head(&self, team: &TeamId) -> Position {
        self.store.head(team).map_or(0, |head| head.position)
    }

    /// Returns a team's records, in order; those that cannot be read are left out.
    #[must_use]
    pub fn records(&self, team: &TeamId) -> Vec<Recorded> {
        self.store.records(team).iter().filter_map(|stored| Recorded::decode(stored).ok()).collect()
    }

    /// Returns the folded state of streams.
    pub fn state<S: State>(&self, team: &TeamId, streams: &[StreamId]) -> S {
        S::from_entities(&mut streams.iter().map(|stream| self.fold(team, stream)))
    }

    /// Writes a batch, all or nothing.
    ///
    /// # Errors
    /// Another writer was first.
    pub fn append(&mut self, batch: &Batch) -> Result<(), AppendError> {
        self.store.append(batch)
    }

    fn fold(&self, team: &TeamId, stream: &StreamId) -> Folded {
        let (mut fold, own) = (empty(stream), stream.to_string());
        for stored in self.store.records_of(team, stream) {
            if let Ok(record) = Recorded::decode(stored) {
                Arc::make_mut(&mut fold.state).evolve(&record.event);
                fold.version += u64::from(stored.stream == own);
            }
        }
        fold
    }

    fn folds(&self, keys: impl IntoIterator<Item = (TeamId, StreamId)>) -> Working {
        let fold = |key: (TeamId, StreamId)| {
            let fold = self.fold(&key.0, &key.1);
            (key, fold)
        };
        keys.into_iter().map(fold).collect()
    }
}

/// What a lane came to.
#[derive(Debug)]
pub struct Decision<C: Command> {
    /// What is to be appended; may be empty.
    pub batch: Batch,
    /// What the caller is told once it is, and not before.
    pub outcome: Result<Outcome<C::State>, TransactError<C::Rejected>>,
    /// Whether nothing will be appended that could collide: the head must be looked up before anyone is told.
    pub is_unproven: bool,
}

/// A lane's decisions.
pub struct Desk {
    shared: Shared,
}

impl Default for Desk {
    fn default() -> Self {
        Self { shared: Shared::for_model() }
    }
}

impl std::fmt::Debug for Desk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Desk")
    }
}

impl Desk {
    /// Decides a submission on the heads and folds of one moment and the answers and the directory of another, as nodes do
    /// that remember heads and folds.
    pub fn decide<C: Command>(&self, submission: Submission<C>, known: &Ledger, looked_up: &Ledger) -> Decision<C> {
        let (reply, mut told) = oneshot::channel();
        let mut job = TypedJob::new(submission, reply);
        let team = job.team().clone();
        let heads = HashMap::from([(team.clone(), Known::of(known.store.head(&team).unwrap_or(Head::empty(1))))]);
        let mut base = known.folds(job.streams().into_iter().map(|stream| (team.clone(), stream)));
        let answer = job.answer_key().and_then(|(key, _)| Some((key.clone(), looked_up.store.answer(&key)?.clone())));
        let answers = answer.into_iter().collect();
        let mut directory: Directory = BTreeMap::new();
        let (attempt, fate) = loop {
            let mut attempt = Attempt::new(&heads, base.clone(), false);
            let fate = attempt.decide_one(&self.shared, &mut job, &answers, &directory);
            if !attempt.needed.is_empty() {
                base.extend(known.folds(std::mem::take(&mut attempt.needed)));
                continue;
            }
            let unknown: BTreeSet<DirectoryKey> = std::mem::take(&mut attempt.unknown);
            let found: Vec<_> =
                unknown.iter().filter_map(|key| Some((key.clone(), looked_up.store.entry(key)?.clone()))).collect();
            if found.is_empty() {
                attempt.seal();
                break (attempt, fate);
            }
            directory.extend(unknown.into_iter().map(|key| (key, None)));
            directory.extend(found.into_iter().map(|(key, entry)| (key, Some(entry))));
        };
        let job = Box::new(job);
        match fate {
            Fate::Repeat(answer) => job.repeat(answer),
            Fate::Failed(failure) => job.fail(failure),
            Fate::Rejected | Fate::Decided => job.finish(),
        }
        let stopped = || Err(TransactError::Stopped);
        let is_unproven = !attempt.unproven().is_empty();
        Decision { batch: attempt.batch, outcome: told.try_recv().unwrap_or_else(|_| stopped()), is_unproven }
    }
}
