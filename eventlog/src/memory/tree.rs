//! Trees and checkpoints, beside the log.

use std::collections::btree_map::Entry;

use async_trait::async_trait;
use domain::id::{Position, TeamId};

use super::{MemoryBackend, index};
use crate::backend::StoreError;
use crate::merkle::Hash;
use crate::merkle::tiles::{TileId, Tiles};
use crate::tree::{CheckpointRow, Growth, Signed, Trees};

#[async_trait]
impl Trees for MemoryBackend {
    async fn hashes(&self, team: &TeamId, after: Position, limit: usize) -> Result<Vec<Hash>, StoreError> {
        let store = self.store();
        let records = store.teams.get(team).map_or(&[][..], |t| &t.records);
        Ok(records.iter().skip(index(after)).take(limit).map(|r| r.hash).collect())
    }

    async fn tiles(&self, team: &TeamId, wanted: &[TileId]) -> Result<Tiles, StoreError> {
        let store = self.store();
        let Some(team) = store.teams.get(team) else { return Ok(Tiles::new()) };
        Ok(wanted.iter().filter_map(|id| Some((*id, team.tiles.get(id)?.clone()))).collect())
    }

    async fn last_checkpoint(&self, team: &TeamId) -> Result<Option<CheckpointRow>, StoreError> {
        Ok(self.store().teams.get(team).and_then(|t| t.checkpoints.values().next_back().cloned()))
    }

    async fn checkpoints(
        &self,
        team: &TeamId,
        after: Position,
        limit: usize,
    ) -> Result<Vec<CheckpointRow>, StoreError> {
        let store = self.store();
        let Some(team) = store.teams.get(team) else { return Ok(vec![]) };
        let behind = team.checkpoints.range(after.saturating_add(1)..);
        Ok(behind.take(limit).map(|(_, row)| row.clone()).collect())
    }

    async fn signed(&self, after: Option<&TeamId>, limit: usize) -> Result<Vec<Signed>, StoreError> {
        let store = self.store();
        let signed =
            store.teams.iter().filter(|(id, _)| after.is_none_or(|after| *id > after)).filter_map(|(id, t)| {
                let size = t.checkpoints.keys().next_back().copied().unwrap_or(0);
                Some(Signed { team: id.clone(), head: t.head?.0.position, size })
            });
        Ok(signed.take(limit).collect())
    }

    async fn grow(&self, growths: &[Growth]) -> Result<(), StoreError> {
        let mut store = self.store();
        for growth in growths {
            let team = store.teams.entry(growth.team.clone()).or_default();
            for (id, hashes) in &growth.tiles {
                let kept = team.tiles.entry(*id).or_default();
                if kept.len() < hashes.len() {
                    kept.clone_from(hashes);
                }
            }
            for row in &growth.checkpoints {
                if let Entry::Vacant(free) = team.checkpoints.entry(row.size) {
                    free.insert(row.clone());
                }
            }
        }
        Ok(())
    }

    async fn unposted(&self, limit: usize) -> Result<Vec<(TeamId, CheckpointRow)>, StoreError> {
        let store = self.store();
        let all = store.teams.iter().flat_map(|(id, team)| team.checkpoints.values().map(move |row| (id, row)));
        let mut due: Vec<_> =
            all.filter(|(_, row)| !row.is_posted).map(|(id, row)| (id.clone(), row.clone())).collect();
        due.sort_by_key(|(_, row)| (row.made_at, row.size));
        due.truncate(limit);
        Ok(due)
    }

    async fn mark_posted(&self, posted: &[(TeamId, Position)]) -> Result<(), StoreError> {
        let mut store = self.store();
        for (team, size) in posted {
            if let Some(row) = store.teams.get_mut(team).and_then(|t| t.checkpoints.get_mut(size)) {
                row.is_posted = true;
            }
        }
        Ok(())
    }
}
