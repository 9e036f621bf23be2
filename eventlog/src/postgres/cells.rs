//! Several databases as one store: each team's log lies in one of them, its cell.
//!
//! The first is the home cell. It also holds the directory of the whole installation and says which teams live elsewhere.
//! An entry of the directory that leads to a team of another cell is true if that cell's own directory has it too: there
//! it was written in the transaction of its event. So an entry is first taken at home, which decides between
//! teams of different cells, and then appended with its event; if a crash comes between, what was taken at home leads
//! nowhere, and after some minutes it may be taken by others.
//!
//! Where a team lives is remembered. A move is counted at home; the count is looked at whenever moved heads are asked for,
//! and when a cell refuses an append because the team's head is frozen there.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use domain::StreamId;
use domain::id::{BlobId, Position, SecretId, TeamId};
use lru::LruCache;

use super::read::unavailable;
use super::write::FROZEN;
use super::{Config, OpenError, PostgresBackend};
use crate::backend::{
    AnswerKey, AnswerRow, AppendError, Backend, Batch, BlobRow, Head, Hold, SnapshotRow, StoreError, StreamHistory,
};
use crate::chain::GENESIS;
use crate::directory::{DirectoryEntry, DirectoryKey};
use crate::record::StoredRecord;

/// The name of the first cell.
pub const HOME: &str = "home";

/// Of how many teams it is remembered where they live.
const REMEMBERED_MAX: NonZeroUsize = NonZeroUsize::new(200_000).expect("not zero");
/// How long what was taken at home is kept for a team whose cell does not have it: longer than any append takes.
const TAKEN_MICROS: i64 = 600 * 1_000_000;

/// A database of the installation, and what it is called.
#[derive(Debug, Clone)]
pub struct CellConfig {
    /// Its name: lower-case letters, digits and hyphens.
    pub name: String,
    /// How it is reached.
    pub database: Config,
}

pub(super) struct Cell {
    pub(super) name: String,
    pub(super) store: PostgresBackend,
}

/// See the module. Cheap to clone.
#[derive(Clone)]
pub struct CellsBackend {
    pub(super) inner: Arc<Cells>,
}

pub(super) struct Cells {
    /// The first is home.
    pub(super) cells: Vec<Cell>,
    /// Where teams live, by number of the cell.
    homes: Mutex<LruCache<TeamId, usize>>,
    /// How many moves there were when that was read.
    moves: AtomicI64,
    /// Where new teams come to live.
    new_teams: usize,
}

impl CellsBackend {
    /// Connects to all cells and brings their tables up to date. `new_teams` names the cell where teams are made.
    ///
    /// # Errors
    /// A cell cannot be opened, or the cells do not belong together.
    pub async fn open(home: &Config, others: &[CellConfig], new_teams: &str) -> Result<Self, OpenError> {
        let mut cells = vec![Cell { name: HOME.to_owned(), store: PostgresBackend::open(home).await? }];
        for CellConfig { name, database } in others {
            let store = PostgresBackend::open(database).await?;
            if store.epoch != cells[0].store.epoch {
                let epochs = (store.epoch, cells[0].store.epoch);
                return Err(OpenError::Damaged(format!("cell {name} is of epoch {}, home of {}", epochs.0, epochs.1)));
            }
            cells.push(Cell { name: name.clone(), store });
        }
        let new_teams = cells.iter().position(|cell| cell.name == new_teams);
        let new_teams = new_teams.ok_or_else(|| OpenError::Damaged("new teams have no cell".to_owned()))?;
        let homes = Mutex::new(LruCache::new(REMEMBERED_MAX));
        let inner = Cells { cells, homes, moves: AtomicI64::new(0), new_teams };
        inner.refresh().await.map_err(|e| OpenError::Damaged(e.to_string()))?;
        Ok(Self { inner: Arc::new(inner) })
    }
}

impl Cells {
    pub(super) fn home(&self) -> &PostgresBackend {
        &self.cells[0].store
    }

    pub(super) fn cell(&self, name: &str) -> Option<usize> {
        self.cells.iter().position(|cell| cell.name == name)
    }

    fn remembered(&self) -> std::sync::MutexGuard<'_, LruCache<TeamId, usize>> {
        self.homes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Forgets where teams live if any has moved since. Returns whether that was so.
    pub(super) async fn refresh(&self) -> Result<bool, StoreError> {
        let moves: i64 = sqlx::query_scalar("SELECT moves FROM log.installation")
            .fetch_one(&self.home().pool)
            .await
            .map_err(|e| unavailable(&e))?;
        let has_moved = self.moves.swap(moves, Ordering::SeqCst) != moves;
        if has_moved {
            self.remembered().clear();
        }
        Ok(has_moved)
    }

    /// Returns the cells of teams, by number.
    pub(super) async fn places(&self, teams: &BTreeSet<TeamId>) -> Result<HashMap<TeamId, usize>, StoreError> {
        let (mut places, mut unknown) = (HashMap::with_capacity(teams.len()), vec![]);
        {
            let mut remembered = self.remembered();
            for team in teams {
                match remembered.get(team) {
                    Some(cell) => drop(places.insert(team.clone(), *cell)),
                    None => unknown.push(team.as_str()),
                }
            }
        }
        if unknown.is_empty() {
            return Ok(places);
        }
        let began = self.moves.load(Ordering::SeqCst);
        let rows: Vec<(String, Option<String>, bool)> = sqlx::query_as(
            "SELECT w.team_id, r.cell, h.team_id IS NOT NULL
             FROM UNNEST($1::text[]) AS w(team_id)
             LEFT JOIN log.residences r ON r.team_id = w.team_id
             LEFT JOIN log.heads h ON h.team_id = w.team_id",
        )
        .bind(&unknown)
        .fetch_all(&self.home().pool)
        .await
        .map_err(|e| unavailable(&e))?;
        for (team, cell, is_here) in rows {
            let team: TeamId = team.parse().map_err(|_| StoreError::Corrupt("a team's id".to_owned()))?;
            let place = match &cell {
                None if is_here => 0,
                None => self.new_teams,
                Some(name) => self.cell(name).ok_or_else(|| {
                    StoreError::Unavailable(format!("{team} lives in cell {name}, which this node does not know"))
                })?,
            };
            // Not of a team that does not exist: it may come to live elsewhere. Nor if a move was counted meanwhile.
            if (cell.is_some() || is_here) && self.moves.load(Ordering::SeqCst) == began {
                self.remembered().put(team.clone(), place);
            }
            places.insert(team, place);
        }
        Ok(places)
    }

    async fn place(&self, team: &TeamId) -> Result<&PostgresBackend, StoreError> {
        let places = self.places(&BTreeSet::from([team.clone()])).await?;
        Ok(&self.cells[places.get(team).copied().unwrap_or(0)].store)
    }

    /// Divides things by the cells of their teams: the number of each cell, with the numbers of its things.
    async fn divided(&self, teams: Vec<TeamId>) -> Result<BTreeMap<usize, Vec<usize>>, StoreError> {
        let places = self.places(&teams.iter().cloned().collect()).await?;
        let mut divided: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        for (index, team) in teams.iter().enumerate() {
            divided.entry(places.get(team).copied().unwrap_or(0)).or_default().push(index);
        }
        Ok(divided)
    }

    /// Returns the one cell of a batch, and makes new teams live where new teams do.
    async fn cell_of(&self, batch: &Batch) -> Result<usize, AppendError> {
        let teams = teams_of(batch);
        let mut places = self.places(&teams).await.map_err(append_failed)?;
        let begins = |team: &TeamId| batch.records.iter().any(|r| r.team == *team && r.position == 1);
        for team in teams.iter().filter(|team| begins(team)) {
            if places.get(team) == Some(&0) {
                continue;
            }
            let cell = self.settle(team).await.map_err(append_failed)?;
            places.insert(team.clone(), cell);
        }
        let cells: BTreeSet<usize> = places.into_values().collect();
        match cells.len() {
            0 | 1 => Ok(cells.first().copied().unwrap_or(0)),
            _ => Err(AppendError::Refused("the teams of a batch live in several cells".to_owned())),
        }
    }

    /// Has a team that begins live in the cell of new teams, unless it lives somewhere already. A frozen head at home keeps
    /// it from beginning there, whatever another node was told of new teams.
    async fn settle(&self, team: &TeamId) -> Result<usize, StoreError> {
        sqlx::query(
            "WITH kept AS (
                 INSERT INTO log.heads (team_id, epoch, position, hash, moved_at, frozen_at) VALUES ($1, 1, 0, $3, 0, 0)
                 ON CONFLICT (team_id) DO NOTHING RETURNING team_id
             )
             INSERT INTO log.residences (team_id, cell) SELECT kept.team_id, $2 FROM kept ON CONFLICT (team_id) DO NOTHING",
        )
        .bind(team.as_str())
        .bind(&self.cells[self.new_teams].name)
        .bind(&GENESIS[..])
        .execute(&self.home().pool)
        .await
        .map_err(|e| unavailable(&e))?;
        self.remembered().pop(team);
        let places = self.places(&BTreeSet::from([team.clone()])).await?;
        Ok(places.get(team).copied().unwrap_or(0))
    }

    /// Appends to a cell, by what holds its teams or by itself.
    async fn append_to(&self, cell: usize, batch: &Batch, hold: Option<Box<dyn Hold>>) -> Result<(), AppendError> {
        if cell != 0 && !batch.claims.is_empty() {
            self.take(batch).await?;
        }
        let appended = match hold {
            Some(hold) => hold.append(batch).await,
            None => self.cells[cell].store.append(batch).await,
        };
        match &appended {
            Ok(()) if cell != 0 && !batch.releases.is_empty() => {
                // Best effort: what stays leads nowhere, and may be taken by others later.
                if let Err(error) = self.give_back_released(batch).await {
                    tracing::debug!(%error, "released directory entries stay at home for a while");
                }
            }
            Err(AppendError::Conflict) if cell == 0 && !batch.claims.is_empty() => {
                let entries: Vec<DirectoryKey> = batch.claims.iter().map(|(key, _)| key.clone()).collect();
                self.drop_strays(&entries, batch.at).await.map_err(append_failed)?;
            }
            Err(AppendError::Refused(why)) if why == FROZEN => {
                // Either it lives elsewhere and is found there, or it is on its way.
                self.refresh().await.map_err(append_failed)?;
                let teams = teams_of(batch);
                for team in &teams {
                    self.remembered().pop(team);
                }
                let places = self.places(&teams).await.map_err(append_failed)?;
                if places.into_values().any(|place| place != cell) {
                    return Err(AppendError::Conflict);
                }
            }
            Err(AppendError::Conflict | AppendError::Refused(_) | AppendError::Full) if cell != 0 => {
                if let Err(error) = self.give_back_untaken(cell, batch).await {
                    tracing::debug!(%error, "directory entries that came to nothing stay at home for a while");
                }
            }
            _ => {}
        }
        appended
    }

    /// Takes directory entries at home for teams of another cell.
    async fn take(&self, batch: &Batch) -> Result<(), AppendError> {
        let entries: Vec<DirectoryKey> = batch.claims.iter().map(|(key, _)| key.clone()).collect();
        for attempt in 0..2 {
            let (mut names, mut teams, mut ids, mut targets) = (vec![], vec![], vec![], vec![]);
            for (key, entry) in &batch.claims {
                names.push(key.to_text());
                teams.push(entry.team.as_str());
                ids.push(entry.target.id());
                targets.push(serde_json::to_string(&entry.target).expect("a directory target is plain data"));
            }
            let taken: Vec<String> = sqlx::query_scalar(
                "INSERT INTO log.directory AS d (entry, team_id, target_id, target, taken_at)
                 SELECT DISTINCT ON (w.entry) w.entry, w.team_id, w.target_id, w.target, $5
                 FROM UNNEST($1::text[], $2::text[], $3::text[], $4::text[]) AS w(entry, team_id, target_id, target)
                 ORDER BY w.entry
                 ON CONFLICT (entry) DO UPDATE
                 SET target_id = excluded.target_id, target = excluded.target, taken_at = excluded.taken_at
                 WHERE d.team_id = excluded.team_id
                 RETURNING d.entry",
            )
            .bind(&names)
            .bind(&teams)
            .bind(&ids)
            .bind(&targets)
            .bind(batch.at)
            .fetch_all(&self.home().pool)
            .await
            .map_err(|e| append_failed(unavailable(&e)))?;
            // What is claimed twice in one batch, its own cell refuses.
            if taken.len() == names.iter().collect::<BTreeSet<_>>().len() {
                return Ok(());
            }
            if attempt == 0 {
                self.drop_strays(&entries, batch.at).await.map_err(append_failed)?;
            }
        }
        Err(AppendError::Conflict)
    }

    /// Returns which entries other cells have themselves, of those that home says are theirs.
    async fn confirmed(&self, rows: &[(DirectoryKey, DirectoryEntry)]) -> Result<BTreeSet<DirectoryKey>, StoreError> {
        let mut confirmed = BTreeSet::new();
        for (cell, indexes) in self.divided(rows.iter().map(|(_, entry)| entry.team.clone()).collect()).await? {
            let rows = picked(rows, &indexes);
            let keys: Vec<DirectoryKey> = rows.iter().map(|(key, _)| key.clone()).collect();
            if cell == 0 {
                confirmed.extend(keys);
                continue;
            }
            let found: HashMap<_, _> = self.cells[cell].store.directory(&keys).await?.into_iter().collect();
            let is_own =
                |key: &DirectoryKey, entry: &DirectoryEntry| found.get(key).is_some_and(|own| own.team == entry.team);
            confirmed.extend(rows.into_iter().filter(|(key, entry)| is_own(key, entry)).map(|(key, _)| key));
        }
        Ok(confirmed)
    }

    /// Drops entries at home that lead nowhere: what took them was never appended, or released them long ago.
    async fn drop_strays(&self, entries: &[DirectoryKey], now: i64) -> Result<(), StoreError> {
        let rows = self.home().directory(entries).await?;
        let confirmed = self.confirmed(&rows).await?;
        let strays: Vec<_> = rows.into_iter().filter(|(key, _)| !confirmed.contains(key)).collect();
        sqlx::query(
            "DELETE FROM log.directory d USING UNNEST($1::text[], $2::text[]) AS w(entry, team_id)
             WHERE d.entry = w.entry AND d.team_id = w.team_id AND d.taken_at < $3",
        )
        .bind(strays.iter().map(|(key, _)| key.to_text()).collect::<Vec<_>>())
        .bind(strays.iter().map(|(_, entry)| entry.team.as_str()).collect::<Vec<_>>())
        .bind(now.saturating_sub(TAKEN_MICROS))
        .execute(&self.home().pool)
        .await
        .map_err(|e| unavailable(&e))?;
        Ok(())
    }

    /// Gives back what a batch took at home and did not append.
    async fn give_back_untaken(&self, cell: usize, batch: &Batch) -> Result<(), StoreError> {
        let keys: Vec<DirectoryKey> = batch.claims.iter().map(|(key, _)| key.clone()).collect();
        let own: HashMap<_, _> = self.cells[cell].store.directory(&keys).await?.into_iter().collect();
        let untaken: Vec<_> = batch.claims.iter().filter(|(key, _)| !own.contains_key(key)).collect();
        sqlx::query(
            "DELETE FROM log.directory d USING UNNEST($1::text[], $2::text[]) AS w(entry, team_id)
             WHERE d.entry = w.entry AND d.team_id = w.team_id AND d.taken_at = $3",
        )
        .bind(untaken.iter().map(|(key, _)| key.to_text()).collect::<Vec<_>>())
        .bind(untaken.iter().map(|(_, entry)| entry.team.as_str()).collect::<Vec<_>>())
        .bind(batch.at)
        .execute(&self.home().pool)
        .await
        .map_err(|e| unavailable(&e))?;
        Ok(())
    }

    async fn give_back_released(&self, batch: &Batch) -> Result<(), StoreError> {
        sqlx::query(
            "DELETE FROM log.directory d USING UNNEST($1::text[], $2::text[]) AS w(team_id, target_id)
             WHERE d.team_id = w.team_id AND d.target_id = w.target_id",
        )
        .bind(batch.releases.iter().map(|(team, _)| team.as_str()).collect::<Vec<_>>())
        .bind(batch.releases.iter().map(|(_, id)| id.as_str()).collect::<Vec<_>>())
        .execute(&self.home().pool)
        .await
        .map_err(|e| unavailable(&e))?;
        Ok(())
    }
}

/// Returns the teams that a batch writes something of.
fn teams_of(batch: &Batch) -> BTreeSet<TeamId> {
    let of_answers = batch.answers.iter().map(|answer| &answer.key.team);
    batch.heads.iter().map(|(team, _)| team).chain(of_answers).cloned().collect()
}

/// Returns the things of the given numbers.
fn picked<T: Clone>(things: &[T], indexes: &[usize]) -> Vec<T> {
    indexes.iter().filter_map(|index| things.get(*index)).cloned().collect()
}

fn append_failed(error: StoreError) -> AppendError {
    AppendError::Unavailable(error.to_string())
}

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

/// Puts lists of cells together, in order, as many as were asked for.
fn merged<T, K: Ord>(lists: Vec<Vec<T>>, limit: usize, key: impl Fn(&T) -> K) -> Vec<T> {
    let mut all: Vec<T> = lists.into_iter().flatten().collect();
    all.sort_by_key(key);
    all.truncate(limit);
    all
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
        let mut heads = vec![];
        for (cell, indexes) in self.inner.divided(teams.to_vec()).await? {
            heads.extend(self.inner.cells[cell].store.heads(&picked(teams, &indexes)).await?);
        }
        Ok(heads)
    }

    async fn moved_since(&self, at: i64, limit: usize) -> Result<Vec<(TeamId, Position, i64)>, StoreError> {
        self.inner.refresh().await?;
        let mut lists = vec![];
        for cell in &self.inner.cells {
            lists.push(cell.store.moved_since(at, limit).await?);
        }
        Ok(merged(lists, limit, |(_, _, at)| *at))
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
        Ok(merged(lists, limit, Clone::clone))
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
        self.inner.place(team).await?.blob(team, id).await
    }

    async fn secret(&self, team: &TeamId, id: &SecretId) -> Result<Option<Vec<u8>>, StoreError> {
        self.inner.place(team).await?.secret(team, id).await
    }

    async fn erase_personal(&self, team: &TeamId, positions: &[Position]) -> Result<u64, StoreError> {
        self.inner.place(team).await?.erase_personal(team, positions).await
    }

    async fn erasures(&self, after: Option<&TeamId>, limit: usize) -> Result<Vec<(TeamId, i64)>, StoreError> {
        let mut lists = vec![];
        for cell in &self.inner.cells {
            lists.push(cell.store.erasures(after, limit).await?);
        }
        Ok(merged(lists, limit, |(team, _)| team.clone()))
    }

    async fn erase_blobs(&self, team: &TeamId, ids: &[BlobId]) -> Result<u64, StoreError> {
        self.inner.place(team).await?.erase_blobs(team, ids).await
    }

    async fn close(&self) {
        for cell in &self.inner.cells {
            cell.store.close().await;
        }
    }
}
