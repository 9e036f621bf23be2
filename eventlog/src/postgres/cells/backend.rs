//! The store whose teams live in several databases.

use std::collections::HashMap;
use std::sync::Arc;

use async_trait::async_trait;
use domain::StreamId;
use domain::id::{BlobId, Position, SecretId, TeamId};

use super::{Cells, CellsBackend, picked};
use crate::backend::{
    AnswerKey, AnswerRow, AppendError, Backend, Batch, BlobRow, Head, Hold, SecretRow, SnapshotRow, StoreError,
    StreamHistory,
};
use crate::directory::{DirectoryEntry, DirectoryKey};
use crate::record::StoredRecord;
use crate::tree::Trees;

/// The heads of a cell's teams, held; what is to be taken at home is taken when the batch is known.
struct CellHold {
    cells: Arc<Cells>,
    cell: usize,
    inner: Box<dyn Hold>,
}

#[async_trait]
impl Hold for CellHold {
    async fn append(self: Box<Self>, batch: &Batch) -> Result<(), AppendError> {
        let Self { cells, cell, inner } = *self;
        if cells.cell_of(batch).await? != cell {
            // It has moved while it was waited for.
            return Err(AppendError::Conflict);
        }
        cells.append_to(cell, batch, Some(inner)).await
    }
}

/// Puts lists of cells together, in order and each thing once, as many as were asked for. While a team moves, two cells
/// may name it; `best` tells which of two is kept.
pub(super) fn merged<T, K: Ord>(
    lists: Vec<Vec<T>>,
    limit: usize,
    key: impl Fn(&T) -> K,
    best: impl Fn(&mut T, T),
) -> Vec<T> {
    let mut all: Vec<T> = lists.into_iter().flatten().collect();
    all.sort_by_key(&key);
    let mut once: Vec<T> = Vec::with_capacity(all.len());
    for thing in all {
        match once.last_mut() {
            Some(last) if key(last) == key(&thing) => best(last, thing),
            _ => once.push(thing),
        }
    }
    // Only now: a list that is cut before would seem to be the last page.
    once.truncate(limit);
    once
}

#[async_trait]
impl Backend for CellsBackend {
    async fn epoch(&self) -> Result<u16, StoreError> {
        self.inner.home().epoch().await
    }

    fn is_divided(&self) -> bool {
        self.inner.cells.len() > 1
    }

    async fn parts(&self, teams: &[TeamId]) -> Result<Vec<usize>, StoreError> {
        let places = self.inner.places(&teams.iter().cloned().collect()).await?;
        Ok(teams.iter().map(|team| places.get(team).copied().unwrap_or(0)).collect())
    }

    async fn heads(&self, teams: &[TeamId]) -> Result<Vec<(TeamId, Head)>, StoreError> {
        let mut heads = self.inner.heads(teams).await?;
        // An empty log may be what a team has left behind.
        if heads.iter().any(|(_, head)| head.position == 0) {
            self.inner.refresh().await?;
            heads = self.inner.heads(teams).await?;
        }
        Ok(heads)
    }

    async fn moved_since(&self, at: i64, limit: usize) -> Result<Vec<(TeamId, Position, i64)>, StoreError> {
        self.inner.refresh().await?;
        let mut lists = vec![];
        for cell in &self.inner.cells {
            lists.push(cell.store.moved_since(at, limit).await?);
        }
        Ok(merged(lists, limit, |(team, _, at)| (*at, team.clone()), |_, _| {}))
    }

    async fn last_moved(&self) -> Result<i64, StoreError> {
        let mut last = 0;
        for cell in &self.inner.cells {
            last = cell.store.last_moved().await?.max(last);
        }
        Ok(last)
    }

    async fn teams(&self, after: Option<&TeamId>, limit: usize) -> Result<Vec<TeamId>, StoreError> {
        let mut lists = vec![];
        for cell in &self.inner.cells {
            lists.push(cell.store.teams(after, limit).await?);
        }
        Ok(merged(lists, limit, Clone::clone, |_, _| {}))
    }

    async fn read(&self, team: &TeamId, after: Position, limit: usize) -> Result<Vec<StoredRecord>, StoreError> {
        self.inner.place(team).await?.read(team, after, limit).await
    }

    async fn histories(&self, streams: &[(TeamId, StreamId)]) -> Result<Vec<StreamHistory>, StoreError> {
        let mut histories = vec![StreamHistory::default(); streams.len()];
        let teams = streams.iter().map(|(team, _)| team.clone()).collect();
        for (cell, indexes) in self.inner.divided(teams).await? {
            let found = self.inner.cells[cell].store.histories(&picked(streams, &indexes)).await?;
            for (index, history) in indexes.into_iter().zip(found) {
                histories[index] = history;
            }
        }
        Ok(histories)
    }

    async fn save_snapshots(&self, snapshots: &[SnapshotRow]) -> Result<(), StoreError> {
        let teams = snapshots.iter().map(|snapshot| snapshot.team.clone()).collect();
        for (cell, indexes) in self.inner.divided(teams).await? {
            self.inner.cells[cell].store.save_snapshots(&picked(snapshots, &indexes)).await?;
        }
        Ok(())
    }

    async fn answers(&self, keys: &[AnswerKey]) -> Result<Vec<AnswerRow>, StoreError> {
        let mut answers = vec![];
        for (cell, indexes) in self.inner.divided(keys.iter().map(|key| key.team.clone()).collect()).await? {
            answers.extend(self.inner.cells[cell].store.answers(&picked(keys, &indexes)).await?);
        }
        Ok(answers)
    }

    async fn drop_answers(&self, before: i64, limit: usize) -> Result<u64, StoreError> {
        let mut dropped = 0;
        for cell in &self.inner.cells {
            dropped = cell.store.drop_answers(before, limit).await?.max(dropped);
        }
        Ok(dropped)
    }

    async fn directory(&self, keys: &[DirectoryKey]) -> Result<Vec<(DirectoryKey, DirectoryEntry)>, StoreError> {
        let rows = self.inner.home().directory(keys).await?;
        let mut found = vec![];
        for (cell, indexes) in self.inner.divided(rows.iter().map(|(_, entry)| entry.team.clone()).collect()).await? {
            let rows = picked(&rows, &indexes);
            if cell == 0 {
                found.extend(rows);
                continue;
            }
            let keys: Vec<DirectoryKey> = rows.iter().map(|(key, _)| key.clone()).collect();
            let teams: HashMap<DirectoryKey, TeamId> = rows.into_iter().map(|(key, entry)| (key, entry.team)).collect();
            let own = self.inner.cells[cell].store.directory(&keys).await?;
            found.extend(own.into_iter().filter(|(key, entry)| teams.get(key) == Some(&entry.team)));
        }
        Ok(found)
    }

    async fn append(&self, batch: &Batch) -> Result<(), AppendError> {
        let cell = self.inner.cell_of(batch).await?;
        self.inner.append_to(cell, batch, None).await
    }

    async fn hold(&self, teams: &[TeamId]) -> Result<Box<dyn Hold>, StoreError> {
        let mut divided = self.inner.divided(teams.to_vec()).await?;
        let (Some((cell, _)), true) = (divided.pop_first(), divided.is_empty()) else {
            return Err(StoreError::Unavailable("teams that are held together live in several cells".to_owned()));
        };
        // A team that is being moved is not waited for.
        let inner = self.inner.cells[cell].store.hold(teams).await?;
        Ok(Box::new(CellHold { cells: Arc::clone(&self.inner), cell, inner }))
    }

    async fn blob(&self, team: &TeamId, id: &BlobId) -> Result<Option<BlobRow>, StoreError> {
        let found = self.inner.place(team).await?.blob(team, id).await?;
        if found.is_some() {
            return Ok(found);
        }
        // A body that is nowhere would be cleared away: so it is made sure that the team has not moved.
        self.inner.refresh().await?;
        self.inner.place(team).await?.blob(team, id).await
    }

    async fn secret(&self, team: &TeamId, id: &SecretId) -> Result<Option<Vec<u8>>, StoreError> {
        self.inner.place(team).await?.secret(team, id).await
    }

    async fn secrets(
        &self,
        team: &TeamId,
        after: Option<&SecretId>,
        limit: usize,
    ) -> Result<Vec<SecretRow>, StoreError> {
        self.inner.place(team).await?.secrets(team, after, limit).await
    }

    async fn replace_secret(&self, team: &TeamId, read: &SecretRow, sealed: &[u8]) -> Result<bool, StoreError> {
        self.inner.place(team).await?.replace_secret(team, read, sealed).await
    }

    async fn erase_personal(&self, team: &TeamId, positions: &[Position]) -> Result<u64, StoreError> {
        self.inner.place(team).await?.erase_personal(team, positions).await
    }

    async fn erasures(&self, after: Option<&TeamId>, limit: usize) -> Result<Vec<(TeamId, i64)>, StoreError> {
        let mut lists = vec![];
        for cell in &self.inner.cells {
            lists.push(cell.store.erasures(after, limit).await?);
        }
        Ok(merged(lists, limit, |(team, _)| team.clone(), |kept, other| kept.1 = kept.1.max(other.1)))
    }

    async fn erase_blobs(&self, team: &TeamId, ids: &[BlobId]) -> Result<u64, StoreError> {
        self.inner.place(team).await?.erase_blobs(team, ids).await
    }

    async fn keep_first(&self, name: &str, value: &str) -> Result<String, StoreError> {
        let kept = self.inner.home().keep_first(name, value).await?;
        for cell in &self.inner.cells[1..] {
            let there = cell.store.keep_first(name, &kept).await?;
            // The second: a new value that did not get as far as home, where it is written last.
            if there != kept && there != value {
                let why =
                    format!("the {name} of cell {} is not that of home: it is of another installation", cell.name);
                return Err(StoreError::Corrupt(why));
            }
        }
        Ok(kept)
    }

    async fn keep(&self, name: &str, value: &str) -> Result<(), StoreError> {
        for cell in self.inner.cells.iter().rev() {
            cell.store.keep(name, value).await?;
        }
        Ok(())
    }

    fn trees(&self) -> &dyn Trees {
        self
    }

    async fn inline_blobs(
        &self,
        team: &TeamId,
        after: Option<&BlobId>,
        before: &BlobId,
        limit: usize,
    ) -> Result<Vec<BlobId>, StoreError> {
        self.inner.place(team).await?.inline_blobs(team, after, before, limit).await
    }

    async fn drop_inline(&self, team: &TeamId, id: &BlobId) -> Result<bool, StoreError> {
        self.inner.place(team).await?.drop_inline(team, id).await
    }

    async fn close(&self) {
        for cell in &self.inner.cells {
            cell.store.close().await;
        }
    }
}
