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

mod backend;
mod tree;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use domain::id::TeamId;
use lru::LruCache;

use super::read::unavailable;
use super::write::FROZEN;
use super::{Config, Guarded as _, OpenError, PostgresBackend, Servers};
use crate::backend::{AppendError, Backend as _, Batch, Head, Hold, StoreError};
use crate::chain::GENESIS;
use crate::directory::{DirectoryEntry, DirectoryKey};

/// The name of the first cell.
pub const HOME: &str = "home";

/// Under which name each database keeps which cell it is.
const NAME: &str = "cell";
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
    /// The servers of the others.
    servers: Vec<Servers>,
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
        Self::open_on(&home.url.parse().map_err(OpenError::Connect)?, home, others, new_teams).await
    }

    /// The same with servers of the home cell that somebody follows; those of the others are [`CellsBackend::servers`].
    ///
    /// # Errors
    /// A cell cannot be opened, or the cells do not belong together.
    pub async fn open_on(
        servers: &Servers,
        home: &Config,
        others: &[CellConfig],
        new_teams: &str,
    ) -> Result<Self, OpenError> {
        let mut cells = vec![Cell { name: HOME.to_owned(), store: PostgresBackend::open_on(servers, home).await? }];
        let mut servers = vec![];
        for CellConfig { name, database } in others {
            let on: Servers = database.url.parse().map_err(OpenError::Connect)?;
            let store = PostgresBackend::open_on(&on, database).await?;
            if store.epoch != cells[0].store.epoch {
                let epochs = (store.epoch, cells[0].store.epoch);
                return Err(OpenError::Damaged(format!("cell {name} is of epoch {}, home of {}", epochs.0, epochs.1)));
            }
            cells.push(Cell { name: name.clone(), store });
            servers.push(on);
        }
        for Cell { name, store } in &cells {
            // The names are what says where a team lives: two URLs that were exchanged would lose them all.
            let named = store.keep_first(NAME, name).await.map_err(|e| OpenError::Damaged(e.to_string()))?;
            if named != *name {
                return Err(OpenError::Damaged(format!("the database given for cell {name} is cell {named}")));
            }
        }
        let new_teams = cells.iter().position(|cell| cell.name == new_teams);
        let new_teams = new_teams.ok_or_else(|| OpenError::Damaged("new teams have no cell".to_owned()))?;
        let homes = Mutex::new(LruCache::new(REMEMBERED_MAX));
        let inner = Cells { cells, servers, homes, moves: AtomicI64::new(0), new_teams };
        inner.refresh().await.map_err(|e| OpenError::Damaged(e.to_string()))?;
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Returns the servers of the cells beside home; somebody should follow them, see [`Servers::follow`].
    #[must_use]
    pub fn servers(&self) -> &[Servers] {
        &self.inner.servers
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
            .guarded(&self.home().answering)
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
        .guarded(&self.home().answering)
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

    async fn heads(&self, teams: &[TeamId]) -> Result<Vec<(TeamId, Head)>, StoreError> {
        let mut heads = vec![];
        for (cell, indexes) in self.divided(teams.to_vec()).await? {
            heads.extend(self.cells[cell].store.heads(&picked(teams, &indexes)).await?);
        }
        Ok(heads)
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
        .guarded(&self.home().answering)
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
            .guarded(&self.home().answering)
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
        .guarded(&self.home().answering)
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
        .guarded(&self.home().answering)
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
        .guarded(&self.home().answering)
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
