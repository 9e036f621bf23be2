//! A log in memory: a real implementation with every promise but surviving the process, for tests and simulation.

use std::collections::{BTreeMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use domain::StreamId;
use domain::id::{BlobId, Position, SecretId, TeamId};

use crate::backend::{
    AnswerKey, AnswerRow, AppendError, Backend, Batch, BlobRow, Head, SnapshotRow, StoreError, StreamHistory,
};
use crate::directory::{DirectoryEntry, DirectoryKey};
use crate::record::StoredRecord;

#[derive(Default)]
struct Team {
    head: Option<(Head, i64)>,
    records: Vec<StoredRecord>,
    links: BTreeMap<String, Vec<Position>>,
    blobs: BTreeMap<BlobId, BlobRow>,
    secrets: BTreeMap<SecretId, Vec<u8>>,
    snapshots: BTreeMap<String, SnapshotRow>,
}

#[derive(Default)]
struct Store {
    teams: BTreeMap<TeamId, Team>,
    answers: BTreeMap<AnswerKey, AnswerRow>,
    directory: BTreeMap<DirectoryKey, DirectoryEntry>,
}

/// See the module.
#[derive(Default)]
pub struct MemoryBackend {
    store: Mutex<Store>,
}

impl MemoryBackend {
    fn store(&self) -> MutexGuard<'_, Store> {
        self.store.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn index(position: Position) -> usize {
    usize::try_from(position).unwrap_or(usize::MAX)
}

impl Store {
    fn conflicts(&self, batch: &Batch) -> bool {
        let ends = |team: &TeamId| self.teams.get(team).map_or(0, |t| t.records.len());
        let mut next: BTreeMap<&TeamId, usize> = BTreeMap::new();
        let gap = batch.records.iter().any(|record| {
            let next = next.entry(&record.team).or_insert_with(|| ends(&record.team));
            *next += 1;
            index(record.position) != *next
        });
        let mut versions = HashSet::new();
        let version_taken = batch.records.iter().any(|record| {
            let key = (&record.team, &record.stream, record.stream_version);
            let stored = self.teams.get(&record.team).is_some_and(|team| {
                team.records.iter().any(|r| r.stream == record.stream && r.stream_version == record.stream_version)
            });
            // Looking through the whole log is quadratic; only a stream's first record can claim a used id.
            (record.stream_version == 1 && stored) || !versions.insert(key)
        });
        let answered = batch
            .answers
            .iter()
            .any(|row| self.answers.contains_key(&row.key) && !batch.expired_answers.contains(&row.key));
        let claimed = batch.claims.iter().any(|(key, _)| {
            self.directory.get(key).is_some_and(|entry| {
                !batch.releases.iter().any(|(team, id)| *team == entry.team && id == entry.target.id())
            })
        });
        gap || version_taken || answered || claimed
    }
}

#[async_trait]
impl Backend for MemoryBackend {
    async fn epoch(&self) -> Result<u16, StoreError> {
        Ok(1)
    }

    async fn heads(&self, teams: &[TeamId]) -> Result<Vec<(TeamId, Head)>, StoreError> {
        let store = self.store();
        Ok(teams.iter().filter_map(|t| Some((t.clone(), store.teams.get(t)?.head?.0))).collect())
    }

    async fn moved_since(&self, at: i64, limit: usize) -> Result<Vec<(TeamId, Position, i64)>, StoreError> {
        let store = self.store();
        let heads = store.teams.iter().filter_map(|(id, team)| team.head.map(|(h, t)| (id.clone(), h.position, t)));
        let mut moved: Vec<_> = heads.filter(|(_, _, t)| *t >= at).collect();
        moved.sort_by_key(|(_, _, t)| *t);
        moved.truncate(limit);
        Ok(moved)
    }

    async fn teams(&self, after: Option<&TeamId>, limit: usize) -> Result<Vec<TeamId>, StoreError> {
        let store = self.store();
        Ok(store.teams.keys().filter(|id| after.is_none_or(|after| *id > after)).take(limit).cloned().collect())
    }

    async fn read(&self, team: &TeamId, after: Position, limit: usize) -> Result<Vec<StoredRecord>, StoreError> {
        let store = self.store();
        let records = store.teams.get(team).map_or(&[][..], |t| &t.records);
        Ok(records.iter().skip(index(after)).take(limit).cloned().collect())
    }

    async fn histories(&self, streams: &[(TeamId, StreamId)]) -> Result<Vec<StreamHistory>, StoreError> {
        let store = self.store();
        let history = |(team, stream): &(TeamId, StreamId)| {
            let Some(team) = store.teams.get(team) else { return StreamHistory::default() };
            let name = stream.to_string();
            let current = |s: &&SnapshotRow| s.shape == domain::entity::SNAPSHOT_VERSION;
            let snapshot = team.snapshots.get(&name).filter(current).cloned();
            let after = snapshot.as_ref().map_or(0, |s| s.position);
            let places = team.links.get(&name).map_or(&[][..], Vec::as_slice);
            let records = places.iter().filter(|p| **p > after).map(|p| team.records[index(*p - 1)].clone());
            StreamHistory { records: records.collect(), snapshot }
        };
        Ok(streams.iter().map(history).collect())
    }

    async fn save_snapshots(&self, snapshots: &[SnapshotRow]) -> Result<(), StoreError> {
        let mut store = self.store();
        for snapshot in snapshots {
            let team = store.teams.entry(snapshot.team.clone()).or_default();
            team.snapshots.insert(snapshot.stream.clone(), snapshot.clone());
        }
        Ok(())
    }

    async fn answers(&self, keys: &[AnswerKey]) -> Result<Vec<AnswerRow>, StoreError> {
        let store = self.store();
        Ok(keys.iter().filter_map(|key| store.answers.get(key).cloned()).collect())
    }

    async fn drop_answers(&self, before: i64, limit: usize) -> Result<u64, StoreError> {
        let mut store = self.store();
        let old: Vec<_> =
            store.answers.values().filter(|r| r.created_at < before).take(limit).map(|r| r.key.clone()).collect();
        old.iter().for_each(|key| drop(store.answers.remove(key)));
        Ok(u64::try_from(old.len()).unwrap_or(u64::MAX))
    }

    async fn directory(&self, keys: &[DirectoryKey]) -> Result<Vec<(DirectoryKey, DirectoryEntry)>, StoreError> {
        let store = self.store();
        Ok(keys.iter().filter_map(|key| Some((key.clone(), store.directory.get(key)?.clone()))).collect())
    }

    async fn append(&self, batch: &Batch) -> Result<(), AppendError> {
        let mut store = self.store();
        if store.conflicts(batch) {
            return Err(AppendError::Conflict);
        }
        for (team, id) in &batch.releases {
            store.directory.retain(|_, entry| entry.team != *team || entry.target.id() != id);
        }
        batch.expired_answers.iter().for_each(|key| drop(store.answers.remove(key)));
        store.answers.extend(batch.answers.iter().map(|row| (row.key.clone(), row.clone())));
        store.directory.extend(batch.claims.iter().cloned());
        for record in &batch.records {
            let team = store.teams.entry(record.team.clone()).or_default();
            team.links.entry(record.stream.clone()).or_default().push(record.position);
            team.records.push(record.clone());
        }
        for (team, link, position) in &batch.links {
            store.teams.entry(team.clone()).or_default().links.entry(link.clone()).or_default().push(*position);
        }
        for (team, blob) in &batch.blobs {
            store.teams.entry(team.clone()).or_default().blobs.insert(blob.id.clone(), blob.clone());
        }
        for (team, secret) in &batch.secrets {
            store.teams.entry(team.clone()).or_default().secrets.insert(secret.id.clone(), secret.sealed.clone());
        }
        for (team, head) in &batch.heads {
            store.teams.entry(team.clone()).or_default().head = Some((*head, batch.at));
        }
        Ok(())
    }

    async fn blob(&self, team: &TeamId, id: &BlobId) -> Result<Option<BlobRow>, StoreError> {
        Ok(self.store().teams.get(team).and_then(|t| t.blobs.get(id).cloned()))
    }

    async fn secret(&self, team: &TeamId, id: &SecretId) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self.store().teams.get(team).and_then(|t| t.secrets.get(id).cloned()))
    }

    async fn erase_personal(&self, team: &TeamId, positions: &[Position]) -> Result<u64, StoreError> {
        let mut store = self.store();
        let Some(team) = store.teams.get_mut(team) else { return Ok(0) };
        let mut erased = 0;
        for position in positions {
            if let Some(record) = team.records.get_mut(index(position.saturating_sub(1))) {
                erased += u64::from(record.personal.take().is_some());
            }
        }
        team.snapshots.clear();
        Ok(erased)
    }

    async fn close(&self) {}
}
