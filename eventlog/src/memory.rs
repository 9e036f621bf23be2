//! A log in memory: a real implementation with every promise but surviving the process, for tests and simulation.

mod tree;

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use domain::StreamId;
use domain::id::{BlobId, Position, SecretId, TeamId};

use crate::backend::{
    AnswerKey, AnswerRow, AppendError, Backend, Batch, BlobRow, Head, Hold, SecretRow, SnapshotRow, StoreError,
    StreamHistory,
};
use crate::directory::{DirectoryEntry, DirectoryKey};
use crate::merkle::tiles::Tiles;
use crate::record::StoredRecord;
use crate::tree::{CheckpointRow, Trees};

#[derive(Clone, Default)]
pub(crate) struct Team {
    head: Option<(Head, i64)>,
    records: Vec<StoredRecord>,
    /// The last version of each stream.
    versions: BTreeMap<String, u64>,
    /// Where each stream's records are, linked ones included.
    places: BTreeMap<String, BTreeSet<Position>>,
    blobs: BTreeMap<BlobId, BlobRow>,
    secrets: BTreeMap<SecretId, Vec<u8>>,
    snapshots: BTreeMap<String, SnapshotRow>,
    erasures: i64,
    tiles: Tiles,
    checkpoints: BTreeMap<Position, CheckpointRow>,
}

/// What the backend holds, as a value.
#[derive(Clone, Default)]
pub(crate) struct Store {
    teams: BTreeMap<TeamId, Team>,
    answers: BTreeMap<AnswerKey, AnswerRow>,
    directory: BTreeMap<DirectoryKey, DirectoryEntry>,
}

/// See the module.
#[derive(Default)]
pub struct MemoryBackend {
    store: Arc<Mutex<Store>>,
    /// Writers take turns in the order they came.
    turn: Arc<tokio::sync::Mutex<()>>,
}

impl MemoryBackend {
    fn store(&self) -> MutexGuard<'_, Store> {
        lock(&self.store)
    }
}

fn lock(store: &Mutex<Store>) -> MutexGuard<'_, Store> {
    store.lock().unwrap_or_else(PoisonError::into_inner)
}

fn index(position: Position) -> usize {
    usize::try_from(position).unwrap_or(usize::MAX)
}

/// Returns whether a key occurs twice.
fn repeats<T: std::hash::Hash + Eq>(keys: impl Iterator<Item = T>) -> bool {
    let mut seen = HashSet::new();
    !keys.into_iter().all(|key| seen.insert(key))
}

#[cfg(feature = "model")]
impl Store {
    pub(crate) fn head(&self, team: &TeamId) -> Option<Head> {
        self.teams.get(team).and_then(|team| team.head).map(|(head, _)| head)
    }

    pub(crate) fn records(&self, team: &TeamId) -> &[StoredRecord] {
        self.teams.get(team).map_or(&[], |team| &team.records)
    }

    pub(crate) fn records_of(&self, team: &TeamId, stream: &StreamId) -> impl Iterator<Item = &StoredRecord> {
        let places = |team: &Team| team.places.get(&stream.to_string()).cloned().unwrap_or_default();
        let places = self.teams.get(team).map(places).unwrap_or_default();
        let records = self.records(team);
        places.into_iter().filter_map(|position| records.get(index(position - 1)))
    }

    pub(crate) fn answer(&self, key: &AnswerKey) -> Option<&AnswerRow> {
        self.answers.get(key)
    }

    pub(crate) fn entry(&self, key: &DirectoryKey) -> Option<&DirectoryEntry> {
        self.directory.get(key)
    }
}

impl Store {
    fn conflicts(&self, batch: &Batch) -> bool {
        let mut next: BTreeMap<&TeamId, usize> = BTreeMap::new();
        let mut versions: BTreeMap<(&TeamId, &str), u64> = BTreeMap::new();
        let misplaced = batch.records.iter().any(|record| {
            let team = self.teams.get(&record.team);
            let next = next.entry(&record.team).or_insert_with(|| team.map_or(0, |t| t.records.len()));
            *next += 1;
            let last = versions
                .entry((&record.team, &record.stream))
                .or_insert_with(|| team.and_then(|t| t.versions.get(&record.stream)).copied().unwrap_or(0));
            let version_taken = record.stream_version <= *last;
            *last = record.stream_version;
            version_taken || index(record.position) != *next
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
        let has_secret = |(team, row): &(TeamId, SecretRow)| {
            self.teams.get(team).is_some_and(|team| team.secrets.contains_key(&row.id))
        };
        let has_blob =
            |(team, row): &(TeamId, BlobRow)| self.teams.get(team).is_some_and(|team| team.blobs.contains_key(&row.id));
        misplaced
            || answered
            || claimed
            || batch.secrets.iter().any(has_secret)
            || batch.blobs.iter().any(has_blob)
            || repeats(batch.answers.iter().map(|row| &row.key))
            || repeats(batch.claims.iter().map(|(key, _)| key))
            || repeats(batch.secrets.iter().map(|(team, row)| (team, &row.id)))
            || repeats(batch.blobs.iter().map(|(team, row)| (team, &row.id)))
    }

    pub(crate) fn append(&mut self, batch: &Batch) -> Result<(), AppendError> {
        if self.conflicts(batch) {
            return Err(AppendError::Conflict);
        }
        for (team, id) in &batch.releases {
            self.directory.retain(|_, entry| entry.team != *team || entry.target.id() != id);
        }
        batch.expired_answers.iter().for_each(|key| drop(self.answers.remove(key)));
        self.answers.extend(batch.answers.iter().map(|row| (row.key.clone(), row.clone())));
        self.directory.extend(batch.claims.iter().cloned());
        for record in &batch.records {
            let team = self.teams.entry(record.team.clone()).or_default();
            team.places.entry(record.stream.clone()).or_default().insert(record.position);
            team.versions.insert(record.stream.clone(), record.stream_version);
            team.records.push(record.clone());
        }
        for (team, link, position) in &batch.links {
            self.teams.entry(team.clone()).or_default().places.entry(link.clone()).or_default().insert(*position);
        }
        for (team, blob) in &batch.blobs {
            self.teams.entry(team.clone()).or_default().blobs.insert(blob.id.clone(), blob.clone());
        }
        for (team, secret) in &batch.secrets {
            self.teams.entry(team.clone()).or_default().secrets.insert(secret.id.clone(), secret.sealed.clone());
        }
        for (team, head) in &batch.heads {
            let team = self.teams.entry(team.clone()).or_default();
            let moved_at = team.head.map_or(batch.at, |(_, at)| at.max(batch.at));
            team.head = Some((*head, moved_at));
        }
        Ok(())
    }
}

/// The turn of one writer, kept from everyone else.
struct Held {
    store: Arc<Mutex<Store>>,
    _turn: tokio::sync::OwnedMutexGuard<()>,
}

#[async_trait]
impl Hold for Held {
    async fn append(self: Box<Self>, batch: &Batch) -> Result<(), AppendError> {
        lock(&self.store).append(batch)
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

    async fn last_moved(&self) -> Result<i64, StoreError> {
        let moved = self.store().teams.values().filter_map(|team| team.head).map(|(_, at)| at).max();
        Ok(moved.unwrap_or(0))
    }

    async fn teams(&self, after: Option<&TeamId>, limit: usize) -> Result<Vec<TeamId>, StoreError> {
        let store = self.store();
        let with_log = store.teams.iter().filter(|(_, team)| team.head.is_some()).map(|(id, _)| id);
        Ok(with_log.filter(|id| after.is_none_or(|after| *id > after)).take(limit).cloned().collect())
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
            let places = team.places.get(&name).into_iter().flat_map(|places| places.range(after + 1..));
            let records = places.map(|p| team.records[index(*p - 1)].clone()).collect();
            StreamHistory { records, snapshot, erasures: team.erasures }
        };
        Ok(streams.iter().map(history).collect())
    }

    async fn save_snapshots(&self, snapshots: &[SnapshotRow]) -> Result<(), StoreError> {
        let mut store = self.store();
        for snapshot in snapshots {
            let Some(team) = store.teams.get_mut(&snapshot.team) else { continue };
            let newer = team
                .snapshots
                .get(&snapshot.stream)
                .is_none_or(|kept| kept.shape != snapshot.shape || kept.position < snapshot.position);
            if newer && team.erasures == snapshot.erasures {
                team.snapshots.insert(snapshot.stream.clone(), snapshot.clone());
            }
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
        let _turn = self.turn.lock().await;
        self.store().append(batch)
    }

    async fn hold(&self, _: &[TeamId]) -> Result<Box<dyn Hold>, StoreError> {
        let turn = Arc::clone(&self.turn).lock_owned().await;
        Ok(Box::new(Held { store: Arc::clone(&self.store), _turn: turn }))
    }

    async fn blob(&self, team: &TeamId, id: &BlobId) -> Result<Option<BlobRow>, StoreError> {
        Ok(self.store().teams.get(team).and_then(|t| t.blobs.get(id).cloned()))
    }

    async fn secret(&self, team: &TeamId, id: &SecretId) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self.store().teams.get(team).and_then(|t| t.secrets.get(id).cloned()))
    }

    async fn secrets(
        &self,
        team: &TeamId,
        after: Option<&SecretId>,
        limit: usize,
    ) -> Result<Vec<SecretRow>, StoreError> {
        let store = self.store();
        let Some(team) = store.teams.get(team) else { return Ok(vec![]) };
        let mut rows: Vec<_> = team
            .secrets
            .iter()
            .filter(|(id, _)| after.is_none_or(|after| *id > after))
            .map(|(id, sealed)| SecretRow { id: id.clone(), sealed: sealed.clone() })
            .collect();
        rows.sort_by(|a, b| a.id.cmp(&b.id));
        rows.truncate(limit);
        Ok(rows)
    }

    async fn replace_secret(&self, team: &TeamId, read: &SecretRow, sealed: &[u8]) -> Result<bool, StoreError> {
        let mut store = self.store();
        let found = store.teams.get_mut(team).and_then(|team| team.secrets.get_mut(&read.id));
        Ok(found.filter(|found| **found == read.sealed).map(|found| *found = sealed.to_vec()).is_some())
    }

    async fn erase_personal(&self, team: &TeamId, positions: &[Position]) -> Result<u64, StoreError> {
        let mut store = self.store();
        let Some(team) = store.teams.get_mut(team) else { return Ok(0) };
        let mut erased = 0;
        for position in positions {
            if let Some(record) = team.records.get_mut(index(position.wrapping_sub(1))) {
                erased += u64::from(record.personal.take().is_some());
            }
        }
        team.snapshots.clear();
        team.erasures += 1;
        Ok(erased)
    }

    async fn erasures(&self, after: Option<&TeamId>, limit: usize) -> Result<Vec<(TeamId, i64)>, StoreError> {
        let store = self.store();
        let erased = store.teams.iter().filter(|(id, team)| team.erasures > 0 && after.is_none_or(|after| *id > after));
        let mut erased: Vec<_> = erased.map(|(id, team)| (id.clone(), team.erasures)).collect();
        erased.sort();
        erased.truncate(limit);
        Ok(erased)
    }

    async fn erase_blobs(&self, team: &TeamId, ids: &[BlobId]) -> Result<u64, StoreError> {
        let mut store = self.store();
        let Some(team) = store.teams.get_mut(team) else { return Ok(0) };
        let erased = ids.iter().filter(|id| team.blobs.remove(*id).is_some()).count();
        Ok(u64::try_from(erased).unwrap_or(u64::MAX))
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
        let store = self.store();
        let rows = store.teams.get(team).into_iter().flat_map(|team| team.blobs.values());
        let wanted =
            |row: &&BlobRow| row.inline.is_some() && row.id < *before && after.is_none_or(|after| row.id > *after);
        Ok(rows.filter(wanted).take(limit).map(|row| row.id.clone()).collect())
    }

    async fn drop_inline(&self, team: &TeamId, id: &BlobId) -> Result<bool, StoreError> {
        let mut store = self.store();
        let row = store.teams.get_mut(team).and_then(|team| team.blobs.get_mut(id));
        Ok(row.is_some_and(|row| row.inline.take().is_some()))
    }

    async fn close(&self) {}
}
