//! The handle everyone holds.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::num::NonZeroUsize;
use std::sync::Arc;

use bytes::Bytes;
use domain::id::{BlobId, Position, SecretId, TeamId};
use domain::{Command, Entity, State, StreamId, Versioned};
use futures_util::stream::{self, StreamExt, TryStreamExt};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::backend::{Backend, Head, SnapshotRow, StoreError};
use crate::blob::{BlobStore, StagedBlob};
use crate::directory::{DirectoryEntry, DirectoryKey};
use crate::failpoint::Failpoints;
use crate::fold_cache::{FoldCache, Folded, Known};
use crate::lane::{Job, Lane, TypedJob, Working, empty};
use crate::record::{CorruptRecord, Recorded, StoredRecord};
use crate::secret::{MasterKey, SealError, SecretText};
use crate::transact::{ANSWER_MICROS, Outcome, Submission, TransactError};
use crate::wake::Wake;

/// Fills a slice with random bytes.
pub type Entropy = Arc<dyn Fn(&mut [u8]) + Send + Sync>;

/// A cold fold of at least this many records is kept as a snapshot.
const SNAPSHOT_AFTER_RECORDS: usize = 64;

/// How many teams that other nodes moved are followed at once.
const FOLLOWED_AT_ONCE: usize = 8;

/// How a log is run.
#[derive(Clone)]
pub struct Options {
    /// How many writers share the teams. SQLite takes 1.
    pub lanes: NonZeroUsize,
    /// How many submissions may wait in one lane; more are refused at once.
    pub queue_max: NonZeroUsize,
    /// How many teams' heads are kept in memory.
    pub cached_teams_max: NonZeroUsize,
    /// How many folds are kept in memory; of those of mails, messages and recipient addresses 8,192 at most.
    pub cached_folds_max: NonZeroUsize,
    /// Seals secrets and kept answers.
    pub master_key: MasterKey,
    /// Where large bodies are kept.
    pub blobs: BlobStore,
    /// Where random bytes come from.
    pub entropy: Entropy,
    /// Where a test can make an append fail.
    pub failpoints: Failpoints,
}

impl Options {
    /// Returns options with default sizes.
    #[must_use]
    pub fn new(master_key: MasterKey, blobs: BlobStore, entropy: Entropy) -> Self {
        let n = |n: usize| NonZeroUsize::new(n).unwrap_or(NonZeroUsize::MIN);
        Self {
            lanes: NonZeroUsize::MIN,
            queue_max: n(8_192),
            cached_teams_max: n(100_000),
            cached_folds_max: n(200_000),
            master_key,
            blobs,
            entropy,
            failpoints: Failpoints::default(),
        }
    }
}

/// What sealing secrets anew has done.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Resealed {
    /// How many were sealed with the current key.
    pub resealed: u64,
    /// Those that none of the keys opens.
    pub unopened: Vec<SecretId>,
    /// The last that was looked at; `None` at the end.
    pub last: Option<SecretId>,
}

/// The log could not be read.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The store does not answer or is corrupt.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A record is not readable.
    #[error(transparent)]
    Corrupt(#[from] CorruptRecord),
    /// A page of records has a hole. Nothing is skipped: reading stops.
    #[error("{team}: expected position {expected}, found {found}")]
    Gap {
        /// The team.
        team: TeamId,
        /// The position that should be there.
        expected: Position,
        /// What is there.
        found: Position,
    },
    /// A sealed secret cannot be opened.
    #[error(transparent)]
    Seal(#[from] SealError),
}

/// What the lanes and the readers share.
pub(crate) struct Shared {
    pub(crate) backend: Arc<dyn Backend>,
    pub(crate) folds: FoldCache,
    pub(crate) wake: Wake,
    pub(crate) master_key: MasterKey,
    pub(crate) failed: CancellationToken,
    pub(crate) failpoints: Failpoints,
    pub(crate) blobs: BlobStore,
    entropy: Entropy,
    epoch: u16,
}

#[cfg(feature = "model")]
impl Shared {
    /// Returns what decisions need besides folds: a key to seal answers with, and bytes that are not random, so that the
    /// same decision is the same value for ever.
    pub(crate) fn for_model() -> Self {
        let one = NonZeroUsize::MIN;
        Self {
            backend: Arc::new(crate::memory::MemoryBackend::default()),
            folds: FoldCache::new(one, one),
            wake: Wake::default(),
            master_key: MasterKey::new(&[0; 32]),
            failed: CancellationToken::new(),
            failpoints: Failpoints::default(),
            blobs: BlobStore::memory(),
            entropy: Arc::new(|bytes: &mut [u8]| bytes.fill(0)),
            epoch: 1,
        }
    }
}

impl Shared {
    pub(crate) fn random<const N: usize>(&self) -> [u8; N] {
        let mut bytes = [0; N];
        (self.entropy)(&mut bytes);
        bytes
    }

    /// Returns the heads of teams, from memory where they are known.
    pub(crate) async fn heads(&self, teams: Vec<TeamId>) -> Result<HashMap<TeamId, Known>, LogError> {
        let mut heads = HashMap::with_capacity(teams.len());
        let mut missing = vec![];
        let mut began = vec![];
        for team in teams {
            match self.folds.known(&team) {
                Some(known) => drop(heads.insert(team, known)),
                None => {
                    began.push((self.folds.read_began(&team), self.folds.behind(&team)));
                    missing.push(team);
                }
            }
        }
        if !missing.is_empty() {
            let found: HashMap<_, _> = self.backend.heads(&missing).await?.into_iter().collect();
            let follow = missing.into_iter().zip(began).map(async |(team, (began, behind))| {
                let mut head = found.get(&team).copied().unwrap_or(Head::empty(self.epoch));
                head.epoch = self.epoch;
                let known = self.follow(&team, behind, head, began).await?;
                Ok::<_, LogError>((team, known))
            });
            heads.extend(stream::iter(follow).buffer_unordered(FOLLOWED_AT_ONCE).try_collect::<Vec<_>>().await?);
        }
        Ok(heads)
    }

    /// Folds streams from the store and keeps the folds.
    pub(crate) async fn load_folds(&self, missing: Vec<(TeamId, StreamId)>) -> Result<Working, LogError> {
        if missing.is_empty() {
            return Ok(Working::new());
        }
        let as_of: Vec<_> = missing.iter().map(|(team, _)| self.folds.as_of(team)).collect();
        let histories = self.backend.histories(&missing).await?;
        let mut folds = Working::new();
        let mut snapshots = vec![];
        for (((team, stream), as_of), history) in missing.into_iter().zip(as_of).zip(histories) {
            let mut fold = empty(&stream);
            let mut position = 0;
            if let Some(snapshot) = &history.snapshot
                && let Ok(entity) = Entity::from_json(&stream, &snapshot.state)
            {
                fold = Versioned { version: snapshot.stream_version, state: Arc::new(entity) };
                position = snapshot.position;
            }
            let own = stream.to_string();
            for stored in history.records.iter().filter(|r| r.position > position) {
                let record = Recorded::decode(stored)?;
                Arc::make_mut(&mut fold.state).evolve(&record.event);
                fold.version += u64::from(stored.stream == own);
            }
            if let Some(last) = history.records.last()
                && history.records.len() >= SNAPSHOT_AFTER_RECORDS
                && let Ok(state) = fold.state.to_json()
            {
                snapshots.push(SnapshotRow {
                    team: team.clone(),
                    stream: own,
                    shape: domain::entity::SNAPSHOT_VERSION,
                    stream_version: fold.version,
                    position: last.position,
                    state,
                    erasures: history.erasures,
                });
            }
            if let Some(as_of) = as_of {
                self.folds.add(&team, stream.clone(), fold.clone(), as_of);
            }
            folds.insert((team, stream), fold);
        }
        if !snapshots.is_empty()
            && let Err(e) = self.backend.save_snapshots(&snapshots).await
        {
            tracing::debug!(error = %e, "snapshots were not kept; the folds will be computed again");
        }
        Ok(folds)
    }
}

/// The log of every team of an installation. Cheap to clone.
#[derive(Clone)]
pub struct EventLog {
    pub(crate) shared: Arc<Shared>,
    lanes: Arc<[mpsc::Sender<Box<dyn Job>>]>,
    tasks: TaskTracker,
}

impl std::fmt::Debug for EventLog {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EventLog").field("lanes", &self.lanes.len()).finish_non_exhaustive()
    }
}

impl EventLog {
    /// Starts the writers of a log over a backend.
    ///
    /// # Errors
    /// The backend does not tell its epoch.
    pub async fn open(backend: Arc<dyn Backend>, options: Options) -> Result<Self, LogError> {
        let epoch = backend.epoch().await?;
        let shared = Arc::new(Shared {
            backend,
            folds: FoldCache::new(options.cached_teams_max, options.cached_folds_max),
            wake: Wake::default(),
            master_key: options.master_key,
            failed: CancellationToken::new(),
            failpoints: options.failpoints,
            blobs: options.blobs,
            entropy: options.entropy,
            epoch,
        });
        let tasks = TaskTracker::new();
        let lanes = (0..options.lanes.get())
            .map(|_| {
                let (sender, queue) = mpsc::channel(options.queue_max.get());
                tasks.spawn(Lane::new(Arc::clone(&shared), queue).run());
                sender
            })
            .collect();
        tasks.close();
        Ok(Self { shared, lanes, tasks })
    }

    /// Decides a command and appends its events: the only way to change anything.
    ///
    /// Answers only after the events are durable. Everything the submission carries is written with them or not at all.
    ///
    /// # Errors
    /// See [`TransactError`]; after every error but `Unavailable` it is certain that nothing was written.
    pub async fn transact<C: Command>(
        &self,
        submission: Submission<C>,
    ) -> Result<Outcome<C::State>, TransactError<C::Rejected>> {
        let mut hasher = DefaultHasher::new();
        submission.moment.team.hash(&mut hasher);
        let lanes = u64::try_from(self.lanes.len()).unwrap_or(1);
        let lane = &self.lanes[usize::try_from(hasher.finish() % lanes).unwrap_or(0)];
        let (reply, answer) = oneshot::channel();
        lane.try_send(Box::new(TypedJob::new(submission, reply))).map_err(|e| match e {
            mpsc::error::TrySendError::Full(_) => TransactError::Overloaded,
            mpsc::error::TrySendError::Closed(_) => TransactError::Stopped,
        })?;
        answer.await.unwrap_or(Err(TransactError::Stopped))
    }

    /// Returns the folded state of streams, as new as this node knows.
    ///
    /// # Errors
    /// The store does not answer or a record is not readable.
    pub async fn state<S: State>(&self, team: &TeamId, streams: &[StreamId]) -> Result<S, LogError> {
        let heads = self.shared.heads(vec![team.clone()]).await?;
        let cached = |stream| heads.get(team).and_then(|known| self.shared.folds.fold(team, stream, *known));
        let mut folds: Vec<Option<Folded>> = streams.iter().map(cached).collect();
        let missing: Vec<_> =
            streams.iter().zip(&folds).filter(|(_, f)| f.is_none()).map(|(s, _)| (team.clone(), s.clone())).collect();
        let loaded = self.shared.load_folds(missing).await?;
        Ok(S::from_entities(&mut streams.iter().zip(&mut folds).map(|(stream, fold)| {
            fold.take()
                .or_else(|| loaded.get(&(team.clone(), stream.clone())).cloned())
                .unwrap_or_else(|| empty(stream))
        })))
    }

    /// Returns where a team's log ends.
    ///
    /// # Errors
    /// The store does not answer.
    pub async fn head(&self, team: &TeamId) -> Result<Head, LogError> {
        let found = self.shared.backend.heads(std::slice::from_ref(team)).await?;
        Ok(found.into_iter().next().map_or(Head::empty(self.shared.epoch), |(_, head)| head))
    }

    /// Returns the last position of a team's log that this node knows of; asks the store only if it knows none.
    ///
    /// # Errors
    /// The store does not answer.
    pub async fn known_head(&self, team: &TeamId) -> Result<Position, LogError> {
        let heads = self.shared.heads(vec![team.clone()]).await?;
        Ok(heads.get(team).map_or(0, |known| known.head.position))
    }

    /// Returns the epoch new events are written in.
    #[must_use]
    pub fn epoch(&self) -> u16 {
        self.shared.epoch
    }

    /// Returns the records after a position, in order, at most `limit`; empty at the head.
    ///
    /// States that are folded afterwards know of these records: they may be committed before the append that wrote
    /// them has been answered, and nobody must act on a record and find that it never happened.
    ///
    /// # Errors
    /// The store does not answer, a record is not readable, or the page has a hole.
    pub async fn read(&self, team: &TeamId, after: Position, limit: usize) -> Result<Vec<Recorded>, LogError> {
        let stored = self.read_stored(team, after, limit).await?;
        stored.into_iter().map(|record| Recorded::try_from(record).map_err(LogError::from)).collect()
    }

    /// Returns the records after a position exactly as stored, for verification and export.
    ///
    /// # Errors
    /// The store does not answer or the page has a hole.
    pub async fn read_stored(
        &self,
        team: &TeamId,
        after: Position,
        limit: usize,
    ) -> Result<Vec<StoredRecord>, LogError> {
        let page = self.shared.backend.read(team, after, limit).await?;
        for (expected, record) in (after + 1..).zip(&page) {
            if record.position != expected {
                return Err(LogError::Gap { team: team.clone(), expected, found: record.position });
            }
        }
        if let Some(last) = page.last() {
            self.shared.folds.outgrown(team, last.position);
        }
        Ok(page)
    }

    /// Returns where the logs of some teams end; teams without a log are left out.
    ///
    /// # Errors
    /// The store does not answer.
    pub async fn heads_of(&self, teams: &[TeamId]) -> Result<Vec<(TeamId, Head)>, LogError> {
        Ok(self.shared.backend.heads(teams).await?)
    }

    /// Returns when a log has grown last, whichever team's, microseconds since the Unix epoch; 0 if none ever has.
    ///
    /// # Errors
    /// The store does not answer.
    pub async fn last_moved(&self) -> Result<i64, LogError> {
        Ok(self.shared.backend.last_moved().await?)
    }

    /// Returns teams in the order of their ids, after a given one, at most `limit`.
    ///
    /// # Errors
    /// The store does not answer.
    pub async fn teams(&self, after: Option<&TeamId>, limit: usize) -> Result<Vec<TeamId>, LogError> {
        Ok(self.shared.backend.teams(after, limit).await?)
    }

    /// Returns teams whose head moved at or after a time, oldest first, at most `limit`: how nodes learn of each other.
    ///
    /// # Errors
    /// The store does not answer.
    pub async fn moved_since(&self, at: i64, limit: usize) -> Result<Vec<(TeamId, Position, i64)>, LogError> {
        Ok(self.shared.backend.moved_since(at, limit).await?)
    }

    /// Tells this node that a team's log has grown elsewhere: its folds are read anew and its followers wake.
    pub fn note_moved(&self, team: &TeamId, head: Position) {
        self.shared.folds.outgrown(team, head);
        self.shared.wake.moved(team, head);
    }

    /// Returns the wake-ups of this log.
    #[must_use]
    pub fn wake(&self) -> &Wake {
        &self.shared.wake
    }

    /// Returns what an address, a domain name or a key digest leads to.
    ///
    /// # Errors
    /// The store does not answer.
    pub async fn find(&self, key: &DirectoryKey) -> Result<Option<DirectoryEntry>, LogError> {
        let found = self.shared.backend.directory(std::slice::from_ref(key)).await?;
        Ok(found.into_iter().next().map(|(_, entry)| entry))
    }

    /// Makes a body ready to be stored with its event.
    ///
    /// # Errors
    /// A large body is not taken by the object store.
    pub async fn stage_blob(&self, team: &TeamId, id: &BlobId, bytes: Bytes) -> Result<StagedBlob, LogError> {
        Ok(self.shared.blobs.stage(team, id, bytes).await?)
    }

    /// Returns a body; `None` if there is none.
    ///
    /// # Errors
    /// A store does not answer.
    pub async fn blob(&self, team: &TeamId, id: &BlobId) -> Result<Option<Bytes>, LogError> {
        match self.shared.backend.blob(team, id).await? {
            Some(row) => match row.inline {
                Some(bytes) => Ok(Some(bytes)),
                None => Ok(self.shared.blobs.get(team, id).await?),
            },
            None => Ok(None),
        }
    }

    /// Stores bytes that no event names: an upload that waits for the mail it goes with. Whoever does so drops them.
    ///
    /// # Errors
    /// The object store is full or does not answer.
    pub async fn put_loose(&self, team: &TeamId, id: &BlobId, bytes: Bytes) -> Result<(), LogError> {
        Ok(self.shared.blobs.put(team, id, bytes).await?)
    }

    /// Returns bytes that no event names; `None` if there are none.
    ///
    /// # Errors
    /// The object store does not answer.
    pub async fn loose(&self, team: &TeamId, id: &BlobId) -> Result<Option<Bytes>, LogError> {
        Ok(self.shared.blobs.get(team, id).await?)
    }

    /// Drops bytes that no event names. Dropping them again changes nothing.
    ///
    /// # Errors
    /// The object store does not answer.
    pub async fn drop_loose(&self, team: &TeamId, id: &BlobId) -> Result<(), LogError> {
        Ok(self.shared.blobs.delete(team, id).await?)
    }

    /// Opens a sealed secret; `None` if there is none.
    ///
    /// # Errors
    /// The store does not answer, or the secret was sealed with another master key or for another purpose.
    pub async fn secret(&self, team: &TeamId, id: &SecretId, purpose: &str) -> Result<Option<SecretText>, LogError> {
        match self.shared.backend.secret(team, id).await? {
            Some(sealed) => Ok(Some(self.shared.master_key.open(team, id.as_str(), purpose, &sealed)?)),
            None => Ok(None),
        }
    }

    /// Seals a page of a team's secrets anew that an earlier master key had sealed: those after a given one, at most
    /// `limit`. `purposes` are all that secrets are sealed for.
    ///
    /// Whoever reads meanwhile reads one or the other. May be repeated at any time.
    ///
    /// # Errors
    /// The store does not answer.
    pub async fn reseal(
        &self,
        team: &TeamId,
        after: Option<&SecretId>,
        limit: usize,
        purposes: &[&str],
    ) -> Result<Resealed, LogError> {
        let shared = &self.shared;
        let mut done = Resealed::default();
        for row in shared.backend.secrets(team, after, limit).await? {
            let seal = |purpose: &&str| {
                shared.master_key.reseal(shared.random(), team, row.id.as_str(), purpose, &row.sealed).ok()
            };
            match purposes.iter().find_map(seal) {
                Some(Some(sealed)) => {
                    done.resealed += u64::from(shared.backend.replace_secret(team, &row, &sealed).await?);
                }
                Some(None) => {}
                None => done.unopened.push(row.id.clone()),
            }
            done.last = Some(row.id);
        }
        Ok(done)
    }

    /// Drops answers older than 24 hours, at most `limit`; returns how many.
    ///
    /// # Errors
    /// The store does not answer.
    pub async fn drop_expired_answers(&self, now_micros: i64, limit: usize) -> Result<u64, LogError> {
        Ok(self.shared.backend.drop_answers(now_micros - ANSWER_MICROS, limit).await?)
    }

    /// Erases the personal halves at the given positions; the chain stays whole. Returns how many there were.
    ///
    /// # Errors
    /// The store does not answer.
    pub async fn erase_personal(&self, team: &TeamId, positions: &[Position]) -> Result<u64, LogError> {
        let erased = self.shared.backend.erase_personal(team, positions).await?;
        self.shared.folds.forget(team);
        Ok(erased)
    }

    /// Returns teams of which personal halves were erased, with how often, in the order of their ids, after a given one,
    /// at most `limit`: whoever keeps copies compares the numbers with those its copies were made at.
    ///
    /// # Errors
    /// The store does not answer.
    pub async fn erasures(&self, after: Option<&TeamId>, limit: usize) -> Result<Vec<(TeamId, i64)>, LogError> {
        Ok(self.shared.backend.erasures(after, limit).await?)
    }

    /// Tells this node that personal halves were erased elsewhere: its folds of the team are read anew.
    pub fn note_erased(&self, team: &TeamId) {
        self.shared.folds.forget(team);
    }

    /// Erases bodies; the events that name them stay. Returns how many there were.
    ///
    /// # Errors
    /// A store does not answer; what was not erased then is erased by asking again.
    pub async fn erase_blobs(&self, team: &TeamId, ids: &[BlobId]) -> Result<u64, LogError> {
        // The rows after them: as long as a row is there, asking again finds its body.
        for id in ids {
            self.shared.blobs.delete(team, id).await?;
        }
        let erased = self.shared.backend.erase_blobs(team, ids).await?;
        // A mover may have written a body between the two. Without its row it drops what it writes from here on itself.
        for id in ids {
            self.shared.blobs.delete(team, id).await?;
        }
        Ok(erased)
    }

    /// Keeps a value of the installation under a name unless there is one; returns the one that is kept. It is not part of
    /// any team's log.
    ///
    /// # Errors
    /// The store does not answer.
    pub async fn keep_first(&self, name: &str, value: &str) -> Result<String, LogError> {
        Ok(self.shared.backend.keep_first(name, value).await?)
    }

    /// Keeps a value of the installation under a name, instead of the one that may be there.
    ///
    /// # Errors
    /// The store does not answer.
    pub async fn keep(&self, name: &str, value: &str) -> Result<(), LogError> {
        Ok(self.shared.backend.keep(name, value).await?)
    }

    pub(crate) fn backend(&self) -> &dyn Backend {
        &*self.shared.backend
    }

    /// Waits until a flush has failed; the process must then stop.
    pub async fn failed(&self) {
        self.shared.failed.cancelled().await;
    }

    /// Waits for queued submissions to be written and closes the store. Other handles must be dropped or idle.
    pub async fn close(self) {
        let Self { shared, lanes, tasks } = self;
        drop(lanes);
        tasks.wait().await;
        shared.backend.close().await;
    }
}
