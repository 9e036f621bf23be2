//! A lane: the writer of a share of the teams.
//!
//! It takes whatever is queued (there is no timer: a batch is what arrived during the last flush), decides one command
//! after another on folded state, and appends all their events in one transaction. Heads and folds come from the
//! cache; should another node have written meanwhile, the append collides on a position, nothing is written, and the
//! batch is decided anew on fresh state.

use std::collections::hash_map::Entry;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use domain::id::{Position, TeamId};
use domain::{Command, Entity, Event, State, StreamId, Versioned};
use tokio::sync::{mpsc, oneshot};

use crate::backend::{AnswerKey, AnswerRow, AppendError, Batch, Head, SecretRow};
use crate::chain;
use crate::directory::{Change, DirectoryEntry, DirectoryKey, change};
use crate::fold_cache::Folded;
use crate::log::{LogError, Shared};
use crate::record::{PersonalHalf, Recorded, StoredPersonal, StoredRecord};
use crate::transact::{ANSWER_MICROS, Answer, Appended, Outcome, Submission, TransactError};

/// The most submissions one batch takes.
const BATCH_MAX: usize = 512;
/// The most body bytes one batch takes beyond its first submission: bounds what one flush has to write.
const BATCH_BODY_BYTES_MAX: i64 = 8 * 1024 * 1024;
/// How often a batch is decided anew after another writer was first.
const CONFLICTS_MAX: u32 = 8;

/// The folds a batch works on: those of the cache, evolved by the batch so far.
pub(crate) type Working = HashMap<(TeamId, StreamId), Folded>;

/// Why a job of a batch ends without being written; the job keeps domain rejections to itself.
pub(crate) enum Failure {
    Taken(DirectoryKey),
    IdempotencyMismatch,
    Full,
    Unavailable(String),
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
    /// Adds what is stored beside the events.
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
            Failure::Stopped => TransactError::Stopped,
        }));
        self.finish();
    }
}

/// What a job of a batch has come to.
enum Fate {
    Open,
    Rejected,
    Failed(Failure),
    Repeat(Answer),
    Decided,
}

pub(crate) struct Lane {
    shared: Arc<Shared>,
    queue: mpsc::Receiver<Box<dyn Job>>,
}

impl Lane {
    pub(crate) fn new(shared: Arc<Shared>, queue: mpsc::Receiver<Box<dyn Job>>) -> Self {
        Self { shared, queue }
    }

    /// Serves the queue until every sender is gone or a flush fails.
    pub(crate) async fn run(mut self) {
        while let Some(first) = self.queue.recv().await {
            let mut bytes = first.body_bytes();
            let mut jobs = vec![first];
            while jobs.len() < BATCH_MAX && bytes < BATCH_BODY_BYTES_MAX {
                let Ok(job) = self.queue.try_recv() else { break };
                bytes += job.body_bytes();
                jobs.push(job);
            }
            metrics::histogram!("append_batch_size").record(f64::from(u32::try_from(jobs.len()).unwrap_or(u32::MAX)));
            if self.write(jobs).await.is_break() {
                break;
            }
        }
        self.queue.close();
        while let Some(job) = self.queue.recv().await {
            job.fail(Failure::Stopped);
        }
    }

    /// Decides and writes one batch; breaks when the log must stop.
    async fn write(&self, mut jobs: Vec<Box<dyn Job>>) -> std::ops::ControlFlow<()> {
        use std::ops::ControlFlow::{Break, Continue};
        for attempt in 0..=CONFLICTS_MAX {
            let attempted = match self.decide(&mut jobs).await {
                Ok(attempted) => attempted,
                Err(e) => {
                    fail_all(jobs, || Failure::Unavailable(e.to_string()));
                    return Continue(());
                }
            };
            let result = if attempted.batch.records.is_empty() && attempted.batch.answers.is_empty() {
                Ok(())
            } else {
                self.shared.backend.append(&attempted.batch).await
            };
            match result {
                Ok(()) => {
                    self.publish(attempted, jobs);
                    return Continue(());
                }
                Err(AppendError::Conflict) => {
                    metrics::counter!("append_conflicts_total").increment(1);
                    tracing::debug!(attempt, "another writer was first; deciding anew");
                    jobs.iter().for_each(|job| self.shared.folds.forget(job.team()));
                }
                Err(AppendError::Full) => {
                    fail_all(jobs, || Failure::Full);
                    return Continue(());
                }
                Err(AppendError::Unavailable(why)) => {
                    // It is not known whether the batch was written: forget, so that the truth is read again.
                    jobs.iter().for_each(|job| self.shared.folds.forget(job.team()));
                    fail_all(jobs, || Failure::Unavailable(why.clone()));
                    return Continue(());
                }
                Err(AppendError::Flush(why)) => {
                    tracing::error!(why, "a flush of the log failed; stopping, since the disk's content is not known");
                    fail_all(jobs, || Failure::Stopped);
                    self.shared.failed.cancel();
                    return Break(());
                }
            }
        }
        fail_all(jobs, || Failure::Unavailable("other writers were first too often".to_owned()));
        Continue(())
    }

    /// Gives everyone their answer after the commit.
    fn publish(&self, attempted: Attempt, jobs: Vec<Box<dyn Job>>) {
        let mut changed: HashMap<TeamId, Vec<(StreamId, Folded)>> = HashMap::new();
        for ((team, stream), fold) in attempted.working {
            if attempted.touched.contains(&(team.clone(), stream.clone())) {
                changed.entry(team).or_default().push((stream, fold));
            }
        }
        attempted.stale.iter().for_each(|(team, stream)| self.shared.folds.drop_fold(team, stream));
        for (team, head) in &attempted.batch.heads {
            self.shared.folds.advance(team, *head, changed.remove(team).unwrap_or_default().into_iter());
            self.shared.wake.moved(team, head.position);
        }
        for (job, fate) in jobs.into_iter().zip(attempted.fates) {
            match fate {
                Fate::Repeat(answer) => job.repeat(answer),
                Fate::Failed(failure) => job.fail(failure),
                Fate::Open | Fate::Rejected | Fate::Decided => job.finish(),
            }
        }
    }

    async fn decide(&self, jobs: &mut [Box<dyn Job>]) -> Result<Attempt, LogError> {
        let (heads, mut base) = self.load(jobs).await?;
        let answers = self.answers(jobs).await?;
        let mut taken: BTreeSet<DirectoryKey> = BTreeSet::new();
        loop {
            let mut attempt = Attempt::new(heads.clone(), base.clone());
            for job in jobs.iter_mut() {
                let fate = attempt.decide_one(&self.shared, job.as_mut(), &answers, &taken);
                attempt.fates.push(fate);
            }
            if !attempt.needed.is_empty() {
                base.extend(self.shared.load_folds(attempt.needed.into_iter().collect()).await?);
                continue;
            }
            // Uniqueness is checked against the store once per batch; a key that is taken there drops its command and
            // the rest is decided again without it.
            let claimed: Vec<_> = attempt.batch.claims.iter().map(|(key, _)| key.clone()).collect();
            if claimed.is_empty() {
                return Ok(attempt);
            }
            let released: HashSet<_> = attempt.batch.releases.iter().cloned().collect();
            let found = self.shared.backend.directory(&claimed).await?;
            let conflicts: Vec<_> = found
                .into_iter()
                .filter(|(_, entry)| !released.contains(&(entry.team.clone(), entry.target.id().to_owned())))
                .map(|(key, _)| key)
                .collect();
            if conflicts.is_empty() {
                return Ok(attempt);
            }
            taken.extend(conflicts);
        }
    }

    /// Returns the heads and folds the jobs need: heads first, so that no fold is older than its head.
    async fn load(&self, jobs: &[Box<dyn Job>]) -> Result<(HashMap<TeamId, Head>, Working), LogError> {
        let teams: BTreeSet<_> = jobs.iter().map(|job| job.team().clone()).collect();
        let heads = self.shared.heads(teams).await?;
        let mut base = Working::new();
        let mut missing = BTreeSet::new();
        for job in jobs {
            for stream in job.streams() {
                let key = (job.team().clone(), stream);
                if base.contains_key(&key) {
                    continue;
                }
                if let Some(fold) = self.shared.folds.fold(&key.0, &key.1) {
                    base.insert(key, fold);
                } else if job.is_fresh(&key.1) {
                    let fold = empty(&key.1);
                    base.insert(key, fold);
                } else {
                    missing.insert(key);
                }
            }
        }
        // A stream that one job calls fresh and another does not is read: the store knows.
        base.extend(self.shared.load_folds(missing.into_iter().collect()).await?);
        Ok((heads, base))
    }

    async fn answers(&self, jobs: &[Box<dyn Job>]) -> Result<HashMap<AnswerKey, AnswerRow>, LogError> {
        let keys: Vec<_> = jobs.iter().filter_map(|job| job.answer_key()).map(|(key, _)| key).collect();
        if keys.is_empty() {
            return Ok(HashMap::new());
        }
        let rows = self.shared.backend.answers(&keys).await?;
        Ok(rows.into_iter().map(|row| (row.key.clone(), row)).collect())
    }
}

fn fail_all(jobs: Vec<Box<dyn Job>>, failure: impl Fn() -> Failure) {
    jobs.into_iter().for_each(|job| job.fail(failure()));
}

/// One try at a batch.
struct Attempt {
    heads: HashMap<TeamId, Head>,
    working: Working,
    touched: HashSet<(TeamId, StreamId)>,
    /// Streams that events are recorded in though no command named them: they must be read before anything is written.
    needed: BTreeSet<(TeamId, StreamId)>,
    /// Cached folds of linked streams that this batch did not evolve: they are dropped rather than loaded.
    stale: Vec<(TeamId, StreamId)>,
    claimed: BTreeSet<DirectoryKey>,
    fates: Vec<Fate>,
    batch: Batch,
    /// Answers given within this batch: a repetition may sit right behind its original.
    given: HashMap<AnswerKey, ([u8; 32], Answer)>,
}

impl Attempt {
    fn new(heads: HashMap<TeamId, Head>, working: Working) -> Self {
        Self {
            heads,
            working,
            touched: HashSet::new(),
            needed: BTreeSet::new(),
            stale: vec![],
            claimed: BTreeSet::new(),
            fates: vec![],
            batch: Batch::default(),
            given: HashMap::new(),
        }
    }

    fn decide_one(
        &mut self,
        shared: &Shared,
        job: &mut dyn Job,
        answers: &HashMap<AnswerKey, AnswerRow>,
        taken: &BTreeSet<DirectoryKey>,
    ) -> Fate {
        let answer_key = job.answer_key();
        if let Some((key, fingerprint)) = &answer_key {
            match self.earlier_answer(shared, key, fingerprint, answers, job.now()) {
                Fate::Open => {}
                fate => return fate,
            }
        }
        let Ok(events) = job.decide(&self.working) else { return Fate::Rejected };
        let mut claims = vec![];
        for event in &events {
            match change(event) {
                Some(Change::Claim(key, _)) if taken.contains(&key) || self.claimed.contains(&key) => {
                    return Fate::Failed(Failure::Taken(key));
                }
                Some(Change::Claim(key, target)) => claims.push((key, target)),
                Some(Change::Release(id)) => self.batch.releases.push((job.team().clone(), id)),
                None => {}
            }
        }
        for (key, target) in claims {
            self.claimed.insert(key.clone());
            self.batch.claims.push((key, DirectoryEntry { team: job.team().clone(), target }));
        }
        let records: Vec<_> = events.into_iter().filter_map(|event| self.record(shared, job, event)).collect();
        let head = self.heads.get(job.team()).copied().unwrap_or(Head::empty(1));
        let answer = job.prepare(records, head, &self.working);
        job.extras(shared, &mut self.batch);
        self.batch.at = self.batch.at.max(job.now());
        if let (Some((key, fingerprint)), Some(answer)) = (answer_key, answer) {
            self.keep_answer(shared, key, fingerprint, answer, job.now());
        }
        Fate::Decided
    }

    /// Returns the fate of a request that was made before; [`Fate::Open`] if it was not.
    fn earlier_answer(
        &mut self,
        shared: &Shared,
        key: &AnswerKey,
        fingerprint: &[u8; 32],
        answers: &HashMap<AnswerKey, AnswerRow>,
        now: i64,
    ) -> Fate {
        if let Some((given_fingerprint, answer)) = self.given.get(key) {
            return if given_fingerprint == fingerprint {
                Fate::Repeat(answer.clone())
            } else {
                Fate::Failed(Failure::IdempotencyMismatch)
            };
        }
        let Some(row) = answers.get(key) else { return Fate::Open };
        if row.created_at <= now - ANSWER_MICROS {
            self.batch.expired_answers.push(key.clone());
            return Fate::Open;
        }
        if row.fingerprint != *fingerprint {
            return Fate::Failed(Failure::IdempotencyMismatch);
        }
        match shared.master_key.open(&key.team, &key.key, "answer", &row.sealed) {
            Ok(clear) => match serde_json::from_slice(clear.expose()) {
                Ok(answer) => Fate::Repeat(answer),
                Err(_) => Fate::Failed(Failure::Unavailable("a stored answer cannot be read".to_owned())),
            },
            Err(e) => Fate::Failed(Failure::Unavailable(e.to_string())),
        }
    }

    fn keep_answer(&mut self, shared: &Shared, key: AnswerKey, fingerprint: [u8; 32], answer: Answer, now: i64) {
        // Answers may hold a secret that is shown once, so they are sealed like secrets.
        let clear = serde_json::to_vec(&answer).expect("an answer is plain data");
        let sealed = shared.master_key.seal(shared.random(), &key.team, &key.key, "answer", &clear);
        let status = i64::from(answer.status);
        self.batch.answers.push(AnswerRow { key: key.clone(), fingerprint, status, sealed, created_at: now });
        self.given.insert(key, (fingerprint, answer));
    }

    /// Puts an event into its place: position, stream version, chain. Events of unknown kinds are never written.
    fn record(&mut self, shared: &Shared, job: &dyn Job, event: Event) -> Option<Recorded> {
        let team = job.team().clone();
        let stream = event.stream()?;
        let links = event.links();
        for of in std::iter::once(&stream).chain(&links) {
            let key = (team.clone(), of.clone());
            let fold = match self.working.entry(key.clone()) {
                Entry::Occupied(fold) => fold.into_mut(),
                Entry::Vacant(slot) if *of == stream => {
                    if !job.is_fresh(of) {
                        self.needed.insert(key.clone());
                    }
                    slot.insert(empty(of))
                }
                Entry::Vacant(_) => {
                    self.stale.push(key);
                    continue;
                }
            };
            Arc::make_mut(&mut fold.state).evolve(&event);
            fold.version += u64::from(*of == stream);
            self.touched.insert(key);
        }
        let head = self.heads.entry(team.clone()).or_insert(Head::empty(1));
        let position: Position = head.position + 1;
        let stream_version = self.working.get(&(team.clone(), stream.clone())).map_or(1, |fold| fold.version);
        let encoded = event.encode();
        let personal = personal_half(shared, encoded.personal.as_deref(), job.client_ip());
        let mut record = StoredRecord {
            team: team.clone(),
            position,
            epoch: head.epoch,
            stream: stream.to_string(),
            stream_version,
            name: encoded.name,
            version: encoded.version,
            facts: encoded.facts,
            personal_digest: personal.as_ref().map(chain::personal_digest),
            personal,
            actor: String::new(),
            causation: None,
            correlation: String::new(),
            at: 0,
            hash: chain::GENESIS,
        };
        job.sign(&mut record);
        record.hash = chain::hash(&head.hash, &record);
        *head = Head { epoch: head.epoch, position, hash: record.hash };
        let head = *head;
        match self.batch.heads.iter_mut().find(|(of, _)| *of == team) {
            Some((_, of)) => *of = head,
            None => self.batch.heads.push((team.clone(), head)),
        }
        self.batch.links.extend(links.into_iter().map(|link| (team.clone(), link.to_string(), position)));
        let recorded = Recorded {
            team,
            position,
            epoch: record.epoch,
            stream: Some(stream),
            stream_version,
            event,
            actor: record.actor.clone(),
            causation: record.causation.clone(),
            correlation: record.correlation.clone(),
            client_ip: job.client_ip(),
            at: record.at,
            hash: record.hash,
        };
        self.batch.records.push(record);
        Some(recorded)
    }
}

fn personal_half(shared: &Shared, event: Option<&str>, client_ip: Option<String>) -> Option<StoredPersonal> {
    if event.is_none() && client_ip.is_none() {
        return None;
    }
    let event = event.map(|json| {
        serde_json::from_str::<&serde_json::value::RawValue>(json).expect("an encoded personal half is valid JSON")
    });
    let json = serde_json::to_string(&PersonalHalf { event, client_ip }).expect("a personal half is plain data");
    Some(StoredPersonal { salt: shared.random(), json })
}
