//! Bodies on the move: old inline ones go out into the object store, and objects that nothing refers to go away.
//!
//! The log's database is dear and an object store is cheap: a body is written inline because that saves a flush, and once it
//! is old that reason is gone. Nothing is remembered of what was moved: a row that holds its bytes waits to be moved, so a
//! mover that stops anywhere is gone on with by the next. The order of each step is such that at every moment a row finds
//! its bytes, inline or outside, and that an erasure beside it is final:
//!
//! | stops after | what there is | what becomes of it |
//! |---|---|---|
//! | the object is written | inline, and an object | the object is written again, the same |
//! | the inline bytes are dropped | the object | done |
//! | the row was erased meanwhile | an object without a row | dropped at once; after a crash, as an orphan |

use domain::id::{BlobId, TeamId};
use futures_util::StreamExt as _;

use crate::log::{EventLog, LogError};

/// What one call moved.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MovedBodies {
    /// How many bodies.
    pub bodies: u64,
    /// How many bytes.
    pub bytes: u64,
    /// The last id that was looked at: the next call goes on after it. `None` when there was nothing left.
    pub last: Option<BlobId>,
}

/// What one call found of objects.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Orphans {
    /// How many objects were looked at.
    pub looked_at: u64,
    /// How many of them nothing referred to, and are gone.
    pub dropped: u64,
}

impl EventLog {
    /// Moves a team's inline bodies that were made before a time, microseconds since the Unix epoch, into the object store: at
    /// most `bodies_max`, in the order of their ids, after a given one.
    ///
    /// Any number of nodes may do so at once, beside readers and erasures. A body is read the same at every moment.
    ///
    /// # Errors
    /// A store does not answer or is full; asking again goes on.
    pub async fn move_bodies_out(
        &self,
        team: &TeamId,
        after: Option<&BlobId>,
        before_micros: i64,
        bodies_max: usize,
    ) -> Result<MovedBodies, LogError> {
        let (backend, objects) = (&self.shared.backend, &self.shared.blobs);
        let before = BlobId::new(before_micros.max(0), [0; 9]);
        let mut moved = MovedBodies::default();
        for id in backend.inline_blobs(team, after, &before, bodies_max).await? {
            let row = backend.blob(team, &id).await?;
            if let Some(bytes) = row.and_then(|row| row.inline) {
                let size_bytes = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
                objects.put(team, &id, bytes).await?;
                if backend.drop_inline(team, &id).await? {
                    moved.bodies += 1;
                    moved.bytes += size_bytes;
                } else if backend.blob(team, &id).await?.is_none() {
                    // It was erased between: what was just written must not outlive it.
                    objects.delete(team, &id).await?;
                }
            }
            moved.last = Some(id);
        }
        Ok(moved)
    }

    /// Drops a team's objects that no row refers to and that were stored before a time, microseconds since the Unix epoch: what
    /// is left of appends that never came, and of movers that stopped beside an erasure. At most `objects_max` are dropped.
    ///
    /// The time must lie further back than any append, and any upload that waits for its mail, may take.
    ///
    /// # Errors
    /// A store does not answer; asking again goes on.
    pub async fn drop_orphans(
        &self,
        team: &TeamId,
        before_micros: i64,
        objects_max: usize,
    ) -> Result<Orphans, LogError> {
        let (backend, objects) = (&self.shared.backend, &self.shared.blobs);
        let mut found = Orphans::default();
        let mut listed = std::pin::pin!(objects.list(team));
        while let Some(object) = listed.next().await {
            let (id, stored_at) = object?;
            found.looked_at += 1;
            if stored_at < before_micros && backend.blob(team, &id).await?.is_none() {
                objects.delete(team, &id).await?;
                found.dropped += 1;
                if usize::try_from(found.dropped).unwrap_or(usize::MAX) >= objects_max {
                    break;
                }
            }
        }
        Ok(found)
    }

    /// Shows that the object store takes, gives and drops an object.
    ///
    /// # Errors
    /// It does not.
    pub async fn check_bodies(&self) -> Result<(), LogError> {
        Ok(self.shared.blobs.check(self.shared.random()).await?)
    }
}
