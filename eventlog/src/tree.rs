//! The stored Merkle tree of each log, and the checkpoints that sign it.
//!
//! The tree follows the log and is never written by an append: whoever signs reads the hashes of the new records, lets the
//! tree grow by them ([`crate::merkle`]) and writes the longer tiles together with the checkpoints. So the tree is as long as the
//! last checkpoint says. It can be thrown away with the checkpoints and made anew from the log.
//!
//! Before anything is signed, the stored tree must have the root that the last checkpoint says, that checkpoint must be signed
//! by a known key, and the log must still hold its last record. Otherwise nothing is signed: see [`Refusal`].

use async_trait::async_trait;
use domain::id::{Position, TeamId};

use crate::backend::StoreError;
use crate::checkpoint::{BadNote, Checkpoint, SigningKey, VerifyingKey};
use crate::log::{EventLog, LogError};
use crate::merkle::tiles::{Growing, TileId, Tiles, edge, find};
use crate::merkle::{self, Hash, Plan};

/// Most records that one call adds to a tree.
const GROWTH_MAX: u64 = 10_000;
/// How many hashes are read at once.
const HASHES_PER_READ: u64 = 2_000;

/// A kept checkpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckpointRow {
    /// The last position it covers.
    pub size: Position,
    /// When it was signed, microseconds since the Unix epoch.
    pub made_at: i64,
    /// The signed note.
    pub note: String,
    /// Whether it need not be posted any more.
    pub is_posted: bool,
}

/// By what a team's tree has grown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Growth {
    /// The team.
    pub team: TeamId,
    /// The tiles that became longer, whole.
    pub tiles: Vec<(TileId, Vec<Hash>)>,
    /// What was signed, by size.
    pub checkpoints: Vec<CheckpointRow>,
}

/// Where a log stands, and its tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signed {
    /// The team.
    pub team: TeamId,
    /// Where its log ends.
    pub head: Position,
    /// What its last checkpoint covers.
    pub size: Position,
}

/// A place to keep trees and checkpoints, beside the log.
#[async_trait]
pub trait Trees: Send + Sync {
    /// Returns the hashes of the records after a position, in order, at most `limit`. Ends before the first hole.
    async fn hashes(&self, team: &TeamId, after: Position, limit: usize) -> Result<Vec<Hash>, StoreError>;

    /// Returns tiles; those that there are not are left out.
    async fn tiles(&self, team: &TeamId, wanted: &[TileId]) -> Result<Tiles, StoreError>;

    /// Returns the last checkpoint of a team.
    async fn last_checkpoint(&self, team: &TeamId) -> Result<Option<CheckpointRow>, StoreError>;

    /// Returns the checkpoints of a team that cover more than a position, by size, at most `limit`.
    async fn checkpoints(&self, team: &TeamId, after: Position, limit: usize)
    -> Result<Vec<CheckpointRow>, StoreError>;

    /// Returns teams in the order of their ids, after a given one, at most `limit`, with what is signed of their logs.
    async fn signed(&self, after: Option<&TeamId>, limit: usize) -> Result<Vec<Signed>, StoreError>;

    /// Keeps what trees have grown by, all or nothing. A tile that is as long already stays, and so does a checkpoint of a size
    /// that was signed before: two nodes that do the same work write the same.
    async fn grow(&self, growths: &[Growth]) -> Result<(), StoreError>;

    /// Returns checkpoints that are to be posted, oldest first, at most `limit`.
    async fn unposted(&self, limit: usize) -> Result<Vec<(TeamId, CheckpointRow)>, StoreError>;

    /// Notes that checkpoints need not be posted any more.
    async fn mark_posted(&self, posted: &[(TeamId, Position)]) -> Result<(), StoreError>;
}

/// Nothing was signed, because it would not be the truth: somebody must look.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The log ends before the last checkpoint.
    #[error("{team}: the log ends at position {head}, but the checkpoint at {size} was signed")]
    Shorter {
        /// The team.
        team: TeamId,
        /// Where the log ends.
        head: Position,
        /// What the last checkpoint covers.
        size: Position,
    },
    /// The record at the last checkpoint is another.
    #[error("{team}: the record at position {size} is not the one the checkpoint there was signed over")]
    Changed {
        /// The team.
        team: TeamId,
        /// What the last checkpoint covers.
        size: Position,
    },
    /// The stored tree has another root.
    #[error("{team}: the stored tree is not the one the checkpoint at position {size} was signed over")]
    Tree {
        /// The team.
        team: TeamId,
        /// What the last checkpoint covers.
        size: Position,
    },
    /// The last checkpoint is not one of ours.
    #[error("{team}: the checkpoint at position {size} cannot be relied on")]
    Note {
        /// The team.
        team: TeamId,
        /// What the last checkpoint covers.
        size: Position,
        /// Why.
        #[source]
        why: BadNote,
    },
    /// The longer tree does not begin with the shorter one.
    #[error("{team}: the tree at position {size} does not go on from the checkpoint at {from}")]
    Inconsistent {
        /// The team.
        team: TeamId,
        /// What the last checkpoint covers.
        from: Position,
        /// What was to be signed.
        size: Position,
    },
}

/// No checkpoint was made.
#[derive(Debug, thiserror::Error)]
pub enum SignError {
    /// It would not be the truth.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The log does not answer.
    #[error(transparent)]
    Log(#[from] LogError),
}

impl From<StoreError> for SignError {
    fn from(error: StoreError) -> Self {
        Self::Log(error.into())
    }
}

/// Who signs, and how often.
#[derive(Debug, Clone)]
pub struct Signer {
    /// The key.
    pub key: SigningKey,
    /// Keys whose last checkpoints are gone on from, too: those that were used before.
    pub retired: Vec<VerifyingKey>,
    /// How many records lie between two checkpoints at most.
    pub every_events: u64,
    /// Whether new checkpoints are to be posted.
    pub posts: bool,
}

impl Signer {
    /// Returns what the last checkpoint of a team says, once it is relied on.
    fn read(&self, team: &TeamId, row: &CheckpointRow) -> Result<Checkpoint, Refusal> {
        let keys = std::iter::once(self.key.public()).chain(&self.retired);
        let mut why = BadNote::Form;
        for key in keys {
            match key.checkpoint(&row.note) {
                Ok(read) if read.size == row.size && read.origin == key.origin(team) => return Ok(read),
                Ok(_) => why = BadNote::NotACheckpoint,
                Err(e @ BadNote::Unsigned(_)) if why == BadNote::Form => why = e,
                Err(BadNote::Unsigned(_)) => {}
                Err(e) => why = e,
            }
        }
        Err(Refusal::Note { team: team.clone(), size: row.size, why })
    }
}

/// A proof from the stored tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proof {
    /// The tree's size.
    pub size: Position,
    /// Its root.
    pub root: Hash,
    /// The proof's hashes, from the leaves to the root.
    pub hashes: Vec<Hash>,
}

impl EventLog {
    fn trees(&self) -> &dyn Trees {
        self.backend().trees()
    }

    /// Signs what was appended to a log since its last checkpoint: at every so many records, and at its head if asked. Nothing
    /// is kept until [`EventLog::keep_growth`]. A long log takes several calls: `None` once there is nothing left to sign.
    ///
    /// # Errors
    /// See [`SignError`].
    pub async fn sign_growth(
        &self,
        team: &TeamId,
        signer: &Signer,
        now_micros: i64,
        up_to_head: bool,
    ) -> Result<Option<Growth>, SignError> {
        let head = self.head(team).await?.position;
        let (last, mut tree) = self.grown_so_far(team, signer, head).await?;
        let every = signer.every_events.max(1);
        let stop = head.min(last.size.saturating_add(GROWTH_MAX.next_multiple_of(every)));
        let mut checkpoints = vec![];
        while tree.size() < stop {
            let next = last.size + (tree.size() - last.size + 1).next_multiple_of(every);
            if next > stop && !up_to_head {
                break;
            }
            self.grow_to(team, &mut tree, next.min(stop)).await?;
            let (size, root) = (tree.size(), tree.root());
            if last.size > 0 && !self.is_consistent(team, &last, &tree).await? {
                return Err(Refusal::Inconsistent { team: team.clone(), from: last.size, size }.into());
            }
            let note = signer.key.sign_checkpoint(team, size, root);
            checkpoints.push(CheckpointRow { size, made_at: now_micros, note, is_posted: !signer.posts });
        }
        if checkpoints.is_empty() {
            return Ok(None);
        }
        let tiles = tree.grown().map(|(id, hashes)| (id, hashes.to_vec())).collect();
        Ok(Some(Growth { team: team.clone(), tiles, checkpoints }))
    }

    /// Returns the last checkpoint and the tree it was signed over.
    async fn grown_so_far(
        &self,
        team: &TeamId,
        signer: &Signer,
        head: Position,
    ) -> Result<(Checkpoint, Growing), SignError> {
        let last = match self.trees().last_checkpoint(team).await? {
            Some(row) => signer.read(team, &row)?,
            None => Checkpoint { origin: String::new(), size: 0, root: merkle::empty() },
        };
        let (team, size) = (team.clone(), last.size);
        if size > head {
            return Err(Refusal::Shorter { team, head, size }.into());
        }
        let tiles = self.stored(&team, &edge(size)).await?;
        let Some(tree) = Growing::resume(size, tiles).filter(|tree| tree.root() == last.root) else {
            return Err(Refusal::Tree { team, size }.into());
        };
        if size > 0 {
            let stored = self.trees().hashes(&team, size - 1, 1).await?;
            let signed = self.node(&team, merkle::NodeId { level: 0, index: size - 1 }).await?;
            if stored.first().map(|hash| merkle::leaf(hash)) != signed {
                return Err(Refusal::Changed { team, size }.into());
            }
        }
        Ok((last, tree))
    }

    async fn grow_to(&self, team: &TeamId, tree: &mut Growing, size: Position) -> Result<(), SignError> {
        while tree.size() < size {
            let after = tree.size();
            let limit = usize::try_from((size - after).min(HASHES_PER_READ)).unwrap_or(usize::MAX);
            let hashes = self.trees().hashes(team, after, limit).await?;
            if hashes.is_empty() {
                // The head says that there are more.
                let gap = LogError::Gap { team: team.clone(), expected: after + 1, found: size };
                return Err(gap.into());
            }
            hashes.iter().for_each(|hash| tree.push(merkle::leaf(hash)));
        }
        Ok(())
    }

    /// Proves to ourselves what we will be asked to prove to others.
    async fn is_consistent(&self, team: &TeamId, last: &Checkpoint, tree: &Growing) -> Result<bool, LogError> {
        let Some(plan) = merkle::consistency(last.size, tree.size()) else { return Ok(false) };
        let missing: Vec<_> = plan.nodes().filter(|id| find(tree.tiles(), *id).is_none()).map(TileId::of).collect();
        let stored = self.stored(team, &missing).await?;
        let proof = plan.proof(|id| find(tree.tiles(), id).or_else(|| find(&stored, id)));
        Ok(proof.is_some_and(|p| merkle::verify_consistency(last.size, tree.size(), &last.root, &tree.root(), &p)))
    }

    /// Keeps what was signed, of several teams in one transaction.
    ///
    /// # Errors
    /// The store does not answer.
    pub async fn keep_growth(&self, growths: &[Growth]) -> Result<(), LogError> {
        Ok(self.trees().grow(growths).await?)
    }

    /// Returns the last checkpoint of a team.
    ///
    /// # Errors
    /// The store does not answer.
    pub async fn last_checkpoint(&self, team: &TeamId) -> Result<Option<CheckpointRow>, LogError> {
        Ok(self.trees().last_checkpoint(team).await?)
    }

    /// Returns the checkpoints of a team that cover more than a position, by size, at most `limit`.
    ///
    /// # Errors
    /// The store does not answer.
    pub async fn checkpoints(
        &self,
        team: &TeamId,
        after: Position,
        limit: usize,
    ) -> Result<Vec<CheckpointRow>, LogError> {
        Ok(self.trees().checkpoints(team, after, limit).await?)
    }

    /// Returns the checkpoint that covers exactly the records up to a position.
    ///
    /// # Errors
    /// The store does not answer.
    pub async fn checkpoint(&self, team: &TeamId, size: Position) -> Result<Option<CheckpointRow>, LogError> {
        let Some(after) = size.checked_sub(1) else { return Ok(None) };
        Ok(self.trees().checkpoints(team, after, 1).await?.pop().filter(|row| row.size == size))
    }

    /// Returns teams in the order of their ids, after a given one, at most `limit`, with what is signed of their logs.
    ///
    /// # Errors
    /// The store does not answer.
    pub async fn signed(&self, after: Option<&TeamId>, limit: usize) -> Result<Vec<Signed>, LogError> {
        Ok(self.trees().signed(after, limit).await?)
    }

    /// Returns checkpoints that are to be posted, oldest first, at most `limit`.
    ///
    /// # Errors
    /// The store does not answer.
    pub async fn unposted(&self, limit: usize) -> Result<Vec<(TeamId, CheckpointRow)>, LogError> {
        Ok(self.trees().unposted(limit).await?)
    }

    /// Notes that checkpoints need not be posted any more.
    ///
    /// # Errors
    /// The store does not answer.
    pub async fn mark_posted(&self, posted: &[(TeamId, Position)]) -> Result<(), LogError> {
        Ok(self.trees().mark_posted(posted).await?)
    }

    /// Returns the proof that the record at a position is in the tree of a size; `None` if the tree does not reach there.
    ///
    /// # Errors
    /// The store does not answer.
    pub async fn prove_inclusion(
        &self,
        team: &TeamId,
        position: Position,
        size: Position,
    ) -> Result<Option<Proof>, LogError> {
        match position.checked_sub(1).and_then(|leaf| merkle::inclusion(leaf, size)) {
            Some(plan) => self.prove(team, &plan, size).await,
            None => Ok(None),
        }
    }

    /// Returns the proof that the log of one size begins with the log of a smaller one; `None` if the tree does not reach
    /// there, or a size is 0.
    ///
    /// # Errors
    /// The store does not answer.
    pub async fn prove_consistency(
        &self,
        team: &TeamId,
        from: Position,
        size: Position,
    ) -> Result<Option<Proof>, LogError> {
        match merkle::consistency(from, size) {
            Some(plan) => self.prove(team, &plan, size).await,
            None => Ok(None),
        }
    }

    /// Returns the root of the stored tree at a size; `None` if it does not reach there.
    ///
    /// # Errors
    /// The store does not answer.
    pub async fn root(&self, team: &TeamId, size: Position) -> Result<Option<Hash>, LogError> {
        let nodes = merkle::peaks(size);
        let tiles = self.tiles_of(team, nodes.iter().copied()).await?;
        let hashes = nodes.into_iter().map(|id| find(&tiles, id)).collect::<Option<Vec<_>>>();
        Ok(hashes.and_then(|hashes| merkle::Frontier::resume(size, hashes)).map(|frontier| frontier.root()))
    }

    async fn prove(&self, team: &TeamId, plan: &Plan, size: Position) -> Result<Option<Proof>, LogError> {
        // What lies behind the last checkpoint is nobody's promise yet.
        if self.trees().last_checkpoint(team).await?.is_none_or(|last| last.size < size) {
            return Ok(None);
        }
        let Some(root) = self.root(team, size).await? else { return Ok(None) };
        let tiles = self.tiles_of(team, plan.nodes()).await?;
        Ok(plan.proof(|id| find(&tiles, id)).map(|hashes| Proof { size, root, hashes }))
    }

    async fn node(&self, team: &TeamId, id: merkle::NodeId) -> Result<Option<Hash>, LogError> {
        Ok(find(&self.tiles_of(team, std::iter::once(id)).await?, id))
    }

    async fn tiles_of(&self, team: &TeamId, nodes: impl Iterator<Item = merkle::NodeId>) -> Result<Tiles, LogError> {
        let mut wanted: Vec<_> = nodes.map(TileId::of).collect();
        wanted.sort_unstable();
        wanted.dedup();
        self.stored(team, &wanted).await
    }

    async fn stored(&self, team: &TeamId, wanted: &[TileId]) -> Result<Tiles, LogError> {
        if wanted.is_empty() { Ok(Tiles::new()) } else { Ok(self.trees().tiles(team, wanted).await?) }
    }
}
