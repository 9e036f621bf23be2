//! Trees and checkpoints of teams that live in several databases.

use std::collections::BTreeMap;

use async_trait::async_trait;
use domain::id::{Position, TeamId};

use super::backend::merged;
use super::{CellsBackend, picked};
use crate::backend::StoreError;
use crate::merkle::Hash;
use crate::merkle::tiles::{TileId, Tiles};
use crate::tree::{CheckpointRow, Growth, Signed, Trees};

#[async_trait]
impl Trees for CellsBackend {
    async fn hashes(&self, team: &TeamId, after: Position, limit: usize) -> Result<Vec<Hash>, StoreError> {
        self.inner.place(team).await?.hashes(team, after, limit).await
    }

    async fn tiles(&self, team: &TeamId, wanted: &[TileId]) -> Result<Tiles, StoreError> {
        self.inner.place(team).await?.tiles(team, wanted).await
    }

    async fn last_checkpoint(&self, team: &TeamId) -> Result<Option<CheckpointRow>, StoreError> {
        self.inner.place(team).await?.last_checkpoint(team).await
    }

    async fn checkpoints(
        &self,
        team: &TeamId,
        after: Position,
        limit: usize,
    ) -> Result<Vec<CheckpointRow>, StoreError> {
        self.inner.place(team).await?.checkpoints(team, after, limit).await
    }

    async fn signed(&self, after: Option<&TeamId>, limit: usize) -> Result<Vec<Signed>, StoreError> {
        let mut lists = vec![];
        for cell in &self.inner.cells {
            lists.push(cell.store.signed(after, limit).await?);
        }
        Ok(merged(
            lists,
            limit,
            |signed| signed.team.clone(),
            |kept, other| (kept.head, kept.size) = (kept.head.max(other.head), kept.size.max(other.size)),
        ))
    }

    async fn grow(&self, growths: &[Growth]) -> Result<(), StoreError> {
        let mut failed = None;
        for (cell, indexes) in self.inner.divided(growths.iter().map(|growth| growth.team.clone()).collect()).await? {
            if let Err(error) = self.inner.cells[cell].store.grow(&picked(growths, &indexes)).await {
                failed = Some(error);
            }
        }
        match failed {
            None => Ok(()),
            Some(error) => {
                // A team may have moved unheard of.
                self.inner.refresh().await?;
                Err(error)
            }
        }
    }

    async fn unposted(&self, limit: usize) -> Result<Vec<(TeamId, CheckpointRow)>, StoreError> {
        let mut rows = BTreeMap::new();
        for cell in &self.inner.cells {
            // While a team moves, two cells have its checkpoints.
            for (team, row) in cell.store.unposted(limit).await? {
                rows.entry((row.made_at, row.size, team)).or_insert(row);
            }
        }
        Ok(rows.into_iter().take(limit).map(|((_, _, team), row)| (team, row)).collect())
    }

    async fn mark_posted(&self, posted: &[(TeamId, Position)]) -> Result<(), StoreError> {
        // Everywhere, see above.
        for cell in &self.inner.cells {
            cell.store.mark_posted(posted).await?;
        }
        Ok(())
    }
}
