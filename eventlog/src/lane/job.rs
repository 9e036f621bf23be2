//! A submission on its way through a lane, with its command's type erased.

use std::sync::Arc;

use domain::id::TeamId;
use domain::{Command, Entity, Event, State, StreamId, Versioned};
use tokio::sync::oneshot;

use super::Working;
use crate::backend::{AnswerKey, Batch, Head, SecretRow};
use crate::directory::DirectoryKey;
use crate::fold_cache::Folded;
use crate::log::Shared;
use crate::record::{Recorded, StoredRecord};
use crate::transact::{Answer, Appended, Outcome, Submission, TransactError};

/// Why a job of a batch ends without being written; the job keeps domain rejections to itself.
pub(crate) enum Failure {
    Taken(DirectoryKey),
    IdempotencyMismatch,
    Full,
    Unavailable(String),
    Panicked,
    Stopped,
}

/// A submission with its command's type erased.
pub(crate) trait Job: Send + Sync {
    fn team(&self) -> &TeamId;
    fn streams(&self) -> Vec<StreamId>;
    fn is_fresh(&self, stream: &StreamId) -> bool;
    fn answer_key(&self) -> Option<(AnswerKey, [u8; 32])>;
    fn body_bytes(&self) -> i64;
    fn now(&self) -> i64;
    /// Decides; `Err(())` means the job has noted its own rejection.
    fn decide(&mut self, folds: &Working) -> Result<Vec<Event>, ()>;
    /// Fills in who and why.
    fn sign(&self, record: &mut StoredRecord);
    fn client_ip(&self) -> Option<String>;
    /// Notes what will be written and renders the answer to keep.
    fn prepare(&mut self, records: Vec<Recorded>, head: Head, folds: &Working) -> Option<Answer>;
    /// Adds the secrets and bodies that are stored with the events.
    fn extras(&self, shared: &Shared, batch: &mut Batch);
    fn repeat(self: Box<Self>, answer: Answer);
    fn finish(self: Box<Self>);
    fn fail(self: Box<Self>, failure: Failure);
}

type Reply<C> = Result<Outcome<<C as Command>::State>, TransactError<<C as Command>::Rejected>>;

pub(crate) struct TypedJob<C: Command> {
    submission: Submission<C>,
    streams: Vec<StreamId>,
    reply: oneshot::Sender<Reply<C>>,
    outcome: Option<Reply<C>>,
}

impl<C: Command> TypedJob<C> {
    pub(crate) fn new(submission: Submission<C>, reply: oneshot::Sender<Reply<C>>) -> Self {
        let streams = submission.command.streams();
        Self { submission, streams, reply, outcome: None }
    }

    fn state(&self, folds: &Working) -> C::State {
        let team = &self.submission.moment.team;
        C::State::from_entities(
            &mut self
                .streams
                .iter()
                .map(|stream| folds.get(&(team.clone(), stream.clone())).cloned().unwrap_or_else(|| empty(stream))),
        )
    }
}

pub(crate) fn empty(stream: &StreamId) -> Folded {
    Versioned { version: 0, state: Arc::new(Entity::of_stream(stream)) }
}

impl<C: Command> Job for TypedJob<C> {
    fn team(&self) -> &TeamId {
        &self.submission.moment.team
    }

    fn streams(&self) -> Vec<StreamId> {
        self.streams.clone()
    }

    fn is_fresh(&self, stream: &StreamId) -> bool {
        self.submission.fresh.contains(stream)
    }

    fn answer_key(&self) -> Option<(AnswerKey, [u8; 32])> {
        let idempotency = self.submission.idempotency.as_ref()?;
        Some((idempotency.answer_key(self.team()), idempotency.fingerprint))
    }

    fn body_bytes(&self) -> i64 {
        self.submission.blobs.iter().filter(|(_, b)| b.inline.is_some()).map(|(_, b)| b.size_bytes).sum()
    }

    fn now(&self) -> i64 {
        self.submission.moment.now
    }

    fn decide(&mut self, folds: &Working) -> Result<Vec<Event>, ()> {
        match self.submission.command.decide(&self.state(folds), &self.submission.moment) {
            Ok(events) => {
                self.outcome = None;
                Ok(events)
            }
            Err(rejected) => {
                self.outcome = Some(Err(TransactError::Rejected(rejected)));
                Err(())
            }
        }
    }

    fn sign(&self, record: &mut StoredRecord) {
        record.actor = self.submission.actor.to_string();
        record.causation.clone_from(&self.submission.causation);
        record.correlation.clone_from(&self.submission.correlation);
        record.at = self.submission.moment.now;
    }

    fn client_ip(&self) -> Option<String> {
        self.submission.client_ip.clone()
    }

    fn prepare(&mut self, records: Vec<Recorded>, head: Head, folds: &Working) -> Option<Answer> {
        let appended = Appended { records, state: self.state(folds), head };
        let answer = self.submission.render.as_ref().map(|render| render(&appended));
        self.outcome = Some(Ok(Outcome::Done(appended)));
        answer
    }

    fn extras(&self, shared: &Shared, batch: &mut Batch) {
        let team = self.team();
        for (id, purpose, secret) in &self.submission.secrets {
            let sealed = shared.master_key.seal(shared.random(), team, id.as_str(), purpose, secret.expose());
            batch.secrets.push((team.clone(), SecretRow { id: id.clone(), sealed }));
        }
        let blobs = self.submission.blobs.iter().map(|(id, b)| (team.clone(), b.clone().into_row(id.clone())));
        batch.blobs.extend(blobs);
    }

    fn repeat(mut self: Box<Self>, answer: Answer) {
        self.outcome = Some(Ok(Outcome::Repeated(answer)));
        self.finish();
    }

    fn finish(self: Box<Self>) {
        let outcome = self.outcome.unwrap_or(Err(TransactError::Stopped));
        // The caller may have gone away; what was written stays written.
        let _ = self.reply.send(outcome);
    }

    fn fail(mut self: Box<Self>, failure: Failure) {
        self.outcome = Some(Err(match failure {
            Failure::Taken(key) => TransactError::Taken(key),
            Failure::IdempotencyMismatch => TransactError::IdempotencyMismatch,
            Failure::Full => TransactError::Full,
            Failure::Unavailable(why) => TransactError::Unavailable(why),
            Failure::Panicked => TransactError::Unavailable("the command could not be carried out".to_owned()),
            Failure::Stopped => TransactError::Stopped,
        }));
        self.finish();
    }
}
