//! A lane: the writer of a share of the teams.
//!
//! It takes whatever is queued (there is no timer: a batch is what arrived during the last flush), decides one command
//! after another on folded state, and appends all their events in one transaction. Heads and folds come from the
//! cache; should another node have written meanwhile, the append collides on a position, nothing is written, and the
//! batch is decided anew on fresh state; where that happens often ([`rivals`]), heads are taken first. What appends
//! nothing (a refusal, a wish fulfilled already) cannot collide, so its head is looked up before anyone is told.

mod attempt;
mod job;
#[cfg(feature = "model")]
pub mod model;
mod rivals;

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::ops::ControlFlow;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use domain::StreamId;
use domain::id::{Position, TeamId};
use tokio::sync::mpsc;

use crate::backend::{AnswerKey, AnswerRow, AppendError, Hold, StoreError};
use crate::directory::DirectoryKey;
use crate::failpoint::Point;
use crate::fold_cache::{Folded, Known};
use crate::log::{LogError, Shared};

use attempt::{Attempt, Fate};
pub(crate) use job::{Failure, Job, TypedJob, empty};
use rivals::Rivals;

/// The most submissions one batch takes.
const BATCH_MAX: usize = 512;
/// The most body bytes one batch takes beyond its first submission: bounds what one flush has to write.
const BATCH_BODY_BYTES_MAX: i64 = 8 * 1024 * 1024;
/// How often another writer may be first before the batch's teams are held.
const CONFLICTS_BEFORE_HOLDING: u32 = 2;
/// How often the append of a batch is tried before the batch is taken apart to find the command that never fits.
const TRIES_MAX: u32 = 5;

/// The folds a batch works on: those of the cache, evolved by the batch so far.
pub(crate) type Working = HashMap<(TeamId, StreamId), Folded>;

type Jobs = Vec<Box<dyn Job>>;

/// What is left to do after a batch was tried.
enum Written {
    /// Everyone has an answer.
    All,
    /// Something in it does not fit: each half is tried by itself.
    Apart(Jobs),
    /// The log must stop.
    Broken,
}

pub(crate) struct Lane {
    shared: Arc<Shared>,
    queue: mpsc::Receiver<Box<dyn Job>>,
    /// Taken from the queue, and first in the next batch.
    aside: VecDeque<Box<dyn Job>>,
    rivals: Rivals,
}

impl Lane {
    pub(crate) fn new(shared: Arc<Shared>, queue: mpsc::Receiver<Box<dyn Job>>) -> Self {
        Self { shared, queue, aside: VecDeque::new(), rivals: Rivals::new() }
    }

    /// Serves the queue until every sender is gone or a flush fails.
    pub(crate) async fn run(mut self) {
        // A lane that dies of a panic must not leave a log behind that only looks alive.
        let died = self.shared.failed.clone().drop_guard();
        while let Some(first) = self.next().await {
            let mut bytes = first.body_bytes();
            let mut jobs = vec![first];
            while jobs.len() < BATCH_MAX && bytes < BATCH_BODY_BYTES_MAX {
                let Some(job) = self.aside.pop_front().or_else(|| self.queue.try_recv().ok()) else { break };
                bytes += job.body_bytes();
                jobs.push(job);
            }
            if self.write(jobs).await.is_break() {
                break;
            }
        }
        self.queue.close();
        while let Some(job) = self.next().await {
            job.fail(Failure::Stopped);
        }
        died.disarm();
    }

    async fn next(&mut self) -> Option<Box<dyn Job>> {
        match self.aside.pop_front() {
            Some(job) => Some(job),
            None => self.queue.recv().await,
        }
    }

    /// Takes into a batch what was queued for its teams while it waited for their heads: others then wait the less often.
    fn join(&mut self, jobs: &mut Jobs, teams: &[TeamId]) {
        // What lies aside is older than the queue.
        if !self.aside.is_empty() {
            return;
        }
        let mut bytes: i64 = jobs.iter().map(|job| job.body_bytes()).sum();
        while jobs.len() < BATCH_MAX && bytes < BATCH_BODY_BYTES_MAX && self.aside.len() < BATCH_MAX {
            let Ok(job) = self.queue.try_recv() else { break };
            if teams.binary_search(job.team()).is_ok() {
                bytes += job.body_bytes();
                jobs.push(job);
            } else {
                self.aside.push_back(job);
            }
        }
    }

    /// Decides and writes one batch, in parts if it must be; breaks when the log must stop.
    async fn write(&mut self, jobs: Jobs) -> ControlFlow<()> {
        let mut parts = self.divide(jobs).await;
        while let Some((jobs, tries)) = parts.pop_front() {
            match self.write_part(jobs, tries).await {
                Written::All => {}
                Written::Apart(mut jobs) => {
                    let second = jobs.split_off(jobs.len() / 2);
                    parts.push_front((second, CONFLICTS_BEFORE_HOLDING));
                    parts.push_front((jobs, CONFLICTS_BEFORE_HOLDING));
                }
                Written::Broken => {
                    parts.into_iter().for_each(|(jobs, _)| fail_all(jobs, || Failure::Stopped));
                    return ControlFlow::Break(());
                }
            }
        }
        ControlFlow::Continue(())
    }

    /// Divides a batch into those that are written at once, in the order of each team. Teams with rivals are apart: nobody else
    /// waits for their heads, or is kept waiting.
    async fn divide(&self, jobs: Jobs) -> VecDeque<(Jobs, u32)> {
        let mut numbers = vec![0; jobs.len()];
        if self.shared.backend.is_divided() {
            let teams: Vec<TeamId> = jobs.iter().map(|job| job.team().clone()).collect();
            match self.shared.backend.parts(&teams).await {
                Ok(found) => numbers = found,
                Err(e) => {
                    fail_all(jobs, || Failure::Unavailable(e.to_string()));
                    return VecDeque::new();
                }
            }
        }
        let mut parts: BTreeMap<(bool, usize), Jobs> = BTreeMap::new();
        for (job, number) in jobs.into_iter().zip(numbers) {
            parts.entry((self.rivals.has(job.team()), number)).or_default().push(job);
        }
        parts.into_values().map(|jobs| (jobs, 0)).collect()
    }

    async fn write_part(&mut self, mut jobs: Jobs, first_try: u32) -> Written {
        let has_rivals = jobs.iter().any(|job| self.rivals.has(job.team()));
        // Where this node's knowledge of the teams ended, once that is in doubt.
        let mut known = vec![];
        let mut why = "other writers were first too often".to_owned();
        for tries in first_try..TRIES_MAX {
            // A busy writer elsewhere could be first for ever; so from the third try on it has to wait for us.
            let hold = has_rivals || tries >= CONFLICTS_BEFORE_HOLDING;
            match self.attempt(&mut jobs, tries, hold, &mut known).await {
                Ok(attempted) => {
                    let found = known.into_iter().map(|(team, known)| {
                        let found = attempted.decided_at(&team);
                        (team, known, found)
                    });
                    self.rivals.note(found);
                    self.publish(attempted, jobs);
                    return Written::All;
                }
                Err(Attempted::Log(e @ (LogError::Corrupt(_) | LogError::Store(StoreError::Corrupt(_))))) => {
                    // One team's unreadable record must not stop the others.
                    why = e.to_string();
                    break;
                }
                Err(Attempted::Log(e)) => {
                    fail_all(jobs, || Failure::Unavailable(e.to_string()));
                    return Written::All;
                }
                Err(Attempted::Append(AppendError::Conflict)) => {
                    metrics::counter!("append_conflicts_total").increment(1);
                    tracing::debug!(tries, "another writer was first; deciding anew");
                    self.doubt(&teams(&jobs), &mut known);
                }
                Err(Attempted::Append(AppendError::Refused(refused))) => {
                    why = refused;
                    break;
                }
                Err(Attempted::Append(AppendError::Full)) => {
                    fail_all(jobs, || Failure::Full);
                    return Written::All;
                }
                Err(Attempted::Append(AppendError::Unavailable(why))) => {
                    // It is not known whether the batch was written: forget, so that the truth is read again.
                    self.forget(&jobs);
                    fail_all(jobs, || Failure::Unavailable(why.clone()));
                    return Written::All;
                }
                Err(Attempted::Append(AppendError::Flush(why))) => {
                    tracing::error!(why, "a flush of the log failed; stopping, since the disk's content is not known");
                    fail_all(jobs, || Failure::Stopped);
                    self.shared.failed.cancel();
                    return Written::Broken;
                }
            }
        }
        self.forget(&jobs);
        if jobs.len() > 1 {
            return Written::Apart(jobs);
        }
        tracing::warn!(why, "a command cannot be carried out");
        fail_all(jobs, || Failure::Unavailable(why.clone()));
        Written::All
    }

    fn forget(&self, jobs: &[Box<dyn Job>]) {
        jobs.iter().for_each(|job| self.shared.folds.forget(job.team()));
    }

    /// Takes what is known of teams as doubtful, and notes for each how far that reached the first time.
    fn doubt(&self, teams: &[TeamId], known: &mut Vec<(TeamId, Position)>) {
        let reached: Vec<_> =
            teams.iter().filter_map(|team| Some((team.clone(), self.shared.folds.doubt(team)?))).collect();
        if known.is_empty() {
            *known = reached;
        }
    }

    /// Decides the whole batch and appends what it came to.
    async fn attempt(
        &mut self,
        jobs: &mut Jobs,
        tries: u32,
        hold: bool,
        known: &mut Vec<(TeamId, Position)>,
    ) -> Result<Attempt, Attempted> {
        let is_first = tries == 0;
        let hold = if hold { Some(self.hold(jobs, is_first, known).await?) } else { None };
        self.shared.failpoints.hit(Point::LaneBeforeDecide)?;
        let attempted = self.decide(jobs, is_first).await?;
        // Where teams move between databases, a head may have been held where it is no more.
        let is_sure = hold.is_some() && !self.shared.backend.is_divided();
        if !is_sure && !self.is_current(&attempted).await? {
            return Err(AppendError::Conflict.into());
        }
        self.shared.failpoints.hit(Point::LaneBeforeAppend)?;
        if !attempted.batch.is_empty() {
            let started = std::time::Instant::now();
            match hold {
                Some(hold) => hold.append(&attempted.batch).await?,
                None => self.shared.backend.append(&attempted.batch).await?,
            }
            metrics::histogram!("append_duration_seconds").record(started.elapsed());
        }
        self.shared.failpoints.hit(Point::LaneAfterAppend)?;
        Ok(attempted)
    }

    /// Keeps other writers off the teams of a batch, whose heads are then read: what was known of them is from before.
    async fn hold(
        &mut self,
        jobs: &mut Jobs,
        may_grow: bool,
        known: &mut Vec<(TeamId, Position)>,
    ) -> Result<Box<dyn Hold>, LogError> {
        let teams = teams(jobs);
        let hold = self.shared.backend.hold(&teams).await?;
        self.doubt(&teams, known);
        if may_grow {
            self.join(jobs, &teams);
        }
        Ok(hold)
    }

    /// Returns whether the heads are still those the batch was decided on, for the teams where no append will tell.
    async fn is_current(&self, attempted: &Attempt) -> Result<bool, LogError> {
        let unproven = attempted.unproven();
        if unproven.is_empty() {
            return Ok(true);
        }
        let found: HashMap<_, _> = self.shared.backend.heads(&unproven).await?.into_iter().collect();
        Ok(unproven.iter().all(|team| found.get(team).map_or(0, |head| head.position) == attempted.decided_at(team)))
    }

    /// Gives everyone their answer after the commit.
    fn publish(&self, mut attempted: Attempt, jobs: Jobs) {
        metrics::histogram!("append_batch_size").record(f64::from(u32::try_from(jobs.len()).unwrap_or(u32::MAX)));
        let mut moved = attempted.moved();
        for (team, head) in &attempted.batch.heads {
            if let Some((from, moved)) = moved.remove(team) {
                self.shared.folds.advance(team, from, *head, moved);
            }
            self.shared.wake.appended(team, head.position);
        }
        if !attempted.batch.heads.is_empty() {
            self.shared.wake.wrote();
        }
        for (job, fate) in jobs.into_iter().zip(attempted.fates) {
            match fate {
                Fate::Repeat(answer) => job.repeat(answer),
                Fate::Failed(failure) => job.fail(failure),
                Fate::Rejected | Fate::Decided => job.finish(),
            }
        }
    }

    async fn decide(&self, jobs: &mut [Box<dyn Job>], trust_fresh: bool) -> Result<Attempt, LogError> {
        let (heads, mut base) = self.load(jobs, trust_fresh).await?;
        let answers = self.answers(jobs).await?;
        let mut directory = BTreeMap::new();
        let mut panicked = HashSet::new();
        loop {
            let mut attempt = Attempt::new(&heads, base.clone(), trust_fresh);
            for (index, job) in jobs.iter_mut().enumerate() {
                if panicked.contains(&index) {
                    attempt.fates.push(Fate::Failed(Failure::Panicked));
                    continue;
                }
                // What a panic leaves half done is thrown away with the attempt.
                let decided = AssertUnwindSafe(|| attempt.decide_one(&self.shared, job.as_mut(), &answers, &directory));
                let Ok(fate) = std::panic::catch_unwind(decided) else {
                    tracing::error!("a command panicked; it is left out and the rest is decided again");
                    panicked.insert(index);
                    break;
                };
                attempt.fates.push(fate);
            }
            if attempt.fates.len() < jobs.len() {
                continue;
            }
            if !attempt.needed.is_empty() {
                base.extend(self.shared.load_folds(attempt.needed.into_iter().collect()).await?);
                continue;
            }
            // Uniqueness is checked against the store once per batch; if something is taken, all is decided again.
            let unknown: Vec<DirectoryKey> = std::mem::take(&mut attempt.unknown).into_iter().collect();
            let found = if unknown.is_empty() { vec![] } else { self.shared.backend.directory(&unknown).await? };
            if found.is_empty() {
                attempt.seal();
                return Ok(attempt);
            }
            directory.extend(unknown.into_iter().map(|key| (key, None)));
            directory.extend(found.into_iter().map(|(key, entry)| (key, Some(entry))));
        }
    }

    /// Returns the heads and folds the jobs need: heads first, so that no fold is older than its head.
    async fn load(
        &self,
        jobs: &[Box<dyn Job>],
        trust_fresh: bool,
    ) -> Result<(HashMap<TeamId, Known>, Working), LogError> {
        let heads = self.shared.heads(teams(jobs)).await?;
        let mut base = Working::with_capacity(jobs.len() * 2);
        let mut fresh = vec![];
        let mut missing = BTreeSet::new();
        for job in jobs {
            for stream in job.streams() {
                let key = (job.team().clone(), stream);
                if trust_fresh && job.is_fresh(&key.1) {
                    fresh.push(key);
                } else if let Entry::Vacant(slot) = base.entry(key) {
                    let (team, stream) = slot.key();
                    match heads.get(team).and_then(|known| self.shared.folds.fold(team, stream, *known)) {
                        Some(fold) => drop(slot.insert(fold)),
                        None => drop(missing.insert(slot.into_key())),
                    }
                }
            }
        }
        // A stream that one job calls fresh and another does not is read: the store knows.
        base.extend(self.shared.load_folds(missing.into_iter().collect()).await?);
        for key in fresh {
            let nothing = empty(&key.1);
            base.entry(key).or_insert(nothing);
        }
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

/// Why an attempt came to nothing.
enum Attempted {
    Log(LogError),
    Append(AppendError),
}

impl From<LogError> for Attempted {
    fn from(e: LogError) -> Self {
        Self::Log(e)
    }
}

impl From<AppendError> for Attempted {
    fn from(e: AppendError) -> Self {
        Self::Append(e)
    }
}

/// Returns the teams of a batch, each once, in the order in which heads are taken.
fn teams(jobs: &[Box<dyn Job>]) -> Vec<TeamId> {
    jobs.iter().map(|job| job.team().clone()).collect::<BTreeSet<_>>().into_iter().collect()
}

fn fail_all(jobs: Jobs, failure: impl Fn() -> Failure) {
    jobs.into_iter().for_each(|job| job.fail(failure()));
}
