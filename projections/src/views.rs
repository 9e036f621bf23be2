//! The handle readers hold: the database of views, and how far it has come.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use domain::id::{Position, TeamId};
use eventlog::postgres::Servers;
use sqlx::AssertSqlSafe;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use crate::db::{Db, Held, Purpose, Reader, Tx};
use crate::{ALL, Error, Projection, exec, fetch_all, rows, signed};

/// The PostgreSQL schema of views.
const SCHEMA: &str = "views";

/// How often somebody who waits looks at the cursors itself: another node may be the one that moves them.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// How many teams' reached positions are kept in memory.
const REACHED_MAX: usize = 100_000;

/// The read models. Cheap to clone.
#[derive(Clone)]
pub struct Views {
    inner: Arc<Inner>,
}

struct Inner {
    db: Db,
    projections: &'static [&'static dyn Projection],
    reached: Mutex<HashMap<TeamId, watch::Sender<Position>>>,
    rebuild: Arc<tokio::sync::Mutex<()>>,
    /// How many runners of this process keep these views up.
    runners: AtomicUsize,
    /// Somebody waits: a runner that rests goes on.
    wanted: Notify,
}

/// Says that a runner of this process keeps the views up, until it is dropped.
pub(crate) struct Running(Views);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.inner.runners.fetch_sub(1, Ordering::Relaxed);
    }
}

impl std::fmt::Debug for Views {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Views").field("db", &self.inner.db).finish_non_exhaustive()
    }
}

/// A projection that stands still for one team, because an event could not be folded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parked {
    /// The team.
    pub team: TeamId,
    /// The projection's name.
    pub projection: String,
    /// The last position before the event that could not be folded.
    pub position: Position,
    /// How often it was tried.
    pub tries: u64,
    /// What went wrong.
    pub error: String,
}

impl Views {
    /// Opens or creates the SQLite file of views. Tables whose version has changed are made anew, empty: the
    /// [`Runner`](crate::Runner) fills them before it says that it is ready.
    ///
    /// # Errors
    /// The file cannot be opened or written.
    pub async fn open_sqlite(path: &Path) -> Result<Self, Error> {
        Self::over(Db::open_sqlite(path, Purpose::Views).await?, ALL).await
    }

    /// Opens new views in memory, for tests and simulation.
    ///
    /// # Errors
    /// SQLite has no memory left.
    pub async fn memory() -> Result<Self, Error> {
        Self::over(Db::open_memory().await?, ALL).await
    }

    /// Opens or finds the views in the database of a simulation.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn simulated(held: Held) -> Result<Self, Error> {
        Self::over(Db::Held(held), ALL).await
    }

    /// Opens or creates the schema `views` of a PostgreSQL database; see [`Views::open_sqlite`].
    ///
    /// # Errors
    /// The database does not answer, or refuses to create tables.
    pub async fn open_postgres(url: &str) -> Result<Self, Error> {
        Self::open_postgres_on(&url.parse()?).await
    }

    /// The same with servers that somebody follows.
    ///
    /// # Errors
    /// See [`Views::open_postgres`].
    pub async fn open_postgres_on(servers: &Servers) -> Result<Self, Error> {
        Self::over(Db::open_postgres(servers, SCHEMA).await?, ALL).await
    }

    /// Brings the tables of a database up to date and returns views over it.
    pub(crate) async fn over(db: Db, projections: &'static [&'static dyn Projection]) -> Result<Self, Error> {
        let mut tx = db.begin().await?;
        if let Err(error) = create_bookkeeping(&mut tx).await {
            // Another node that starts at the same moment may have been first.
            tracing::debug!(%error, "the views' bookkeeping tables could not be created; trying once more");
            tx.rollback().await?;
            tx = db.begin().await?;
            create_bookkeeping(&mut tx).await?;
        }
        bring_up_to_date(&mut tx, projections, false).await?;
        tx.commit().await?;
        let inner = Inner {
            db,
            projections,
            reached: Mutex::default(),
            rebuild: Arc::default(),
            runners: AtomicUsize::new(0),
            wanted: Notify::new(),
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Leaves nothing in the files of what was replaced: rows that were made before an erasure.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn scrub(&self) -> Result<(), Error> {
        self.inner.db.scrub().await
    }

    /// Notes that a runner of this process keeps the views up: those who wait hear from it and need not look.
    pub(crate) fn running(&self) -> Running {
        self.inner.runners.fetch_add(1, Ordering::Relaxed);
        Running(self.clone())
    }

    /// Waits until somebody waits for the views.
    pub(crate) async fn wanted(&self) {
        self.inner.wanted.notified().await;
    }

    /// Returns the database, for bookkeeping that lives beside the views.
    #[must_use]
    pub fn db(&self) -> &Db {
        &self.inner.db
    }

    /// Returns the lock of whoever computes these views anew.
    pub(crate) fn rebuild_lock(&self) -> Arc<tokio::sync::Mutex<()>> {
        Arc::clone(&self.inner.rebuild)
    }

    /// Returns the projections these views keep.
    pub(crate) fn projections(&self) -> &'static [&'static dyn Projection] {
        self.inner.projections
    }

    /// Returns a connection to read with.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn read(&self) -> Result<Reader, Error> {
        self.inner.db.read().await
    }

    /// Returns the position that all projections have reached for a team. Parked ones do not count: they stand still
    /// until somebody has looked at them.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn position(&self, team: &TeamId) -> Result<Position, Error> {
        let mut reader = self.read().await?;
        let cursors = fetch_all!(
            reader,
            (String, i64, bool),
            "SELECT projection, position,
                    EXISTS (SELECT 1 FROM parked
                            WHERE parked.team_id = cursors.team_id AND parked.projection = cursors.projection)
             FROM cursors WHERE team_id = $1",
            team.as_str()
        )?;
        let cursors: HashMap<String, (i64, bool)> =
            cursors.into_iter().map(|(p, at, parked)| (p, (at, parked))).collect();
        let of = |p: &&dyn Projection| cursors.get(p.name()).copied().unwrap_or((0, false));
        let moving = self.projections().iter().map(of).filter(|(_, parked)| !parked).map(|(at, _)| at).min();
        let lowest = moving.or_else(|| self.projections().iter().map(|p| of(p).0).min());
        Ok(lowest.and_then(|at| Position::try_from(at).ok()).unwrap_or(0))
    }

    /// Waits until all projections have reached a position of a team's log; returns whether they have.
    pub async fn wait_for(&self, team: &TeamId, position: Position, timeout: Duration) -> bool {
        let begun = Instant::now();
        let deadline = begun + timeout;
        let mut reached = self.listen(team);
        let known = *reached.borrow_and_update();
        if known >= position {
            return true;
        }
        self.inner.wanted.notify_one();
        // A runner of this process tells as soon as it has come that far. Where there is none, or nothing is known of the
        // team yet, the cursors are looked at first.
        let is_told = known > 0 && self.inner.runners.load(Ordering::Relaxed) > 0;
        let mut look = if is_told { begun + LOOK_EVERY } else { begun };
        loop {
            if *reached.borrow_and_update() >= position {
                return true;
            }
            let now = Instant::now();
            if now >= look.min(deadline) {
                // The runner of another node may be ahead of this one.
                if let Ok(at) = self.position(team).await {
                    self.publish(team, at);
                    if at >= position {
                        return true;
                    }
                }
                look = now + LOOK_EVERY;
            }
            if now >= deadline {
                return *reached.borrow_and_update() >= position;
            }
            tokio::select! {
                _ = reached.changed() => {}
                () = tokio::time::sleep_until(look.min(deadline)) => {}
            }
        }
    }

    /// Returns the projections that stand still.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn parked(&self) -> Result<Vec<Parked>, Error> {
        let mut reader = self.read().await?;
        let rows = rows!(
            reader,
            "SELECT team_id, projection, position, tries, error FROM parked ORDER BY team_id, projection"
        )?;
        let parked = |cells: &crate::db::Cells| {
            Ok(Parked {
                team: cells.parsed("team_id")?,
                projection: cells.text("projection")?,
                position: cells.unsigned("position")?,
                tries: cells.unsigned("tries")?,
                error: cells.text("error")?,
            })
        };
        rows.iter().map(parked).collect()
    }

    /// Returns every row of a team in every table, as text in the order of keys: two copies can be compared by it.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn dump(&self, team: &TeamId) -> Result<BTreeMap<&'static str, Vec<String>>, Error> {
        let mut reader = self.read().await?;
        let mut dump = BTreeMap::new();
        for projection in self.projections() {
            for table in projection.tables() {
                dump.insert(table.name, table.dump(&mut reader, team).await?);
            }
        }
        Ok(dump)
    }

    /// Closes all connections.
    pub async fn close(&self) {
        self.inner.db.close().await;
    }

    fn listen(&self, team: &TeamId) -> watch::Receiver<Position> {
        let mut reached = self.inner.reached.lock().unwrap_or_else(PoisonError::into_inner);
        reached.entry(team.clone()).or_insert_with(|| watch::channel(0).0).subscribe()
    }

    /// Makes all tables anew if they were computed from a log of another epoch: after a restore from a backup, positions
    /// the views have seen may hold other events or none.
    pub(crate) async fn begin_epoch(&self, epoch: u16) -> Result<(), Error> {
        let mut tx = self.inner.db.begin().await?;
        lock_versions(&mut tx).await?;
        let sql = "SELECT version, tables FROM projection_versions WHERE projection = ''";
        let known = fetch_all!(tx, (i64, String), sql)?.first().map_or(0, |(epoch, _)| *epoch);
        if known == i64::from(epoch) {
            return tx.rollback().await;
        }
        if known != 0 {
            tracing::warn!(from = known, to = epoch, "the log was restored from a backup: all views are computed anew");
            bring_up_to_date(&mut tx, self.projections(), true).await?;
        }
        exec!(tx, "UPDATE projection_versions SET version = $1 WHERE projection = ''", i64::from(epoch))?;
        tx.commit().await
    }

    /// Tells who waits that all projections of a team have reached a position.
    pub(crate) fn publish(&self, team: &TeamId, position: Position) {
        let mut reached = self.inner.reached.lock().unwrap_or_else(PoisonError::into_inner);
        if reached.len() >= REACHED_MAX && !reached.contains_key(team) {
            reached.retain(|_, sender| sender.receiver_count() > 0);
        }
        let sender = reached.entry(team.clone()).or_insert_with(|| watch::channel(0).0);
        sender.send_if_modified(|at| {
            let grew = position > *at;
            *at = position.max(*at);
            grew
        });
    }
}

pub(crate) async fn create_bookkeeping(tx: &mut Tx<'_>) -> Result<(), Error> {
    let engine = tx.engine();
    Db::script(tx, engine.schema(include_str!("views.sql"))).await?;
    lock_versions(tx).await?;
    // A row of no projection: its version is the log's epoch, and whoever computes views anew holds its lock.
    exec!(
        tx,
        "INSERT INTO projection_versions (projection, version, tables) VALUES ('', 0, '[]')
         ON CONFLICT (projection) DO NOTHING"
    )?;
    Ok(())
}

/// Lets nodes that start at once take turns. Whoever only reads, or holds a row, is not in the way.
async fn lock_versions(tx: &mut Tx<'_>) -> Result<(), Error> {
    let sql = tx.pick("SELECT 1", "LOCK TABLE projection_versions IN SHARE ROW EXCLUSIVE MODE");
    Db::script(tx, sql.to_owned()).await
}

/// Creates the tables of new projections and makes those of changed ones anew, or all of them.
async fn bring_up_to_date(tx: &mut Tx<'_>, projections: &[&dyn Projection], all: bool) -> Result<(), Error> {
    let engine = tx.engine();
    let stored = fetch_all!(tx, (String, i64, String), "SELECT projection, version, tables FROM projection_versions")?;
    let stored: BTreeMap<String, (i64, String)> = stored.into_iter().map(|(p, v, t)| (p, (v, t))).collect();
    for projection in projections {
        let (name, version) = (projection.name(), projection.version());
        match stored.get(name) {
            Some((found, _)) if *found == version && !all => continue,
            Some((found, tables)) => {
                tracing::info!(follower.name = name, from = found, to = version, "this view is computed anew");
                for table in serde_json::from_str::<Vec<String>>(tables)? {
                    exec!(tx, AssertSqlSafe(format!("DROP TABLE IF EXISTS {table}")))?;
                }
            }
            None => {}
        }
        Db::script(tx, engine.schema(projection.schema())).await?;
        exec!(tx, "DELETE FROM cursors WHERE projection = $1", name)?;
        exec!(tx, "DELETE FROM parked WHERE projection = $1", name)?;
        note_version(tx, *projection).await?;
    }
    Ok(())
}

/// Notes of which version the tables of a projection are, and which tables they are.
pub(crate) async fn note_version(tx: &mut Tx<'_>, projection: &dyn Projection) -> Result<(), Error> {
    let tables: Vec<&str> = projection.tables().iter().map(|table| table.name).collect();
    exec!(
        tx,
        "INSERT INTO projection_versions (projection, version, tables) VALUES ($1, $2, $3)
         ON CONFLICT (projection) DO UPDATE SET version = excluded.version, tables = excluded.tables",
        projection.name(),
        projection.version(),
        serde_json::to_string(&tables)?
    )?;
    Ok(())
}

/// Where each projection of a team stands, under the lock that keeps every other node from moving it.
pub(crate) async fn lock_cursors(
    tx: &mut Tx<'_>,
    team: &TeamId,
    projections: &[&'static dyn Projection],
) -> Result<HashMap<&'static str, Position>, Error> {
    let sql = tx.pick(
        "SELECT projection, position,
                (SELECT version FROM projection_versions v WHERE v.projection = cursors.projection)
         FROM cursors WHERE team_id = $1",
        "SELECT projection, position,
                (SELECT version FROM projection_versions v WHERE v.projection = cursors.projection)
         FROM cursors WHERE team_id = $1 ORDER BY projection FOR UPDATE",
    );
    let mut stored = fetch_all!(tx, (String, i64, i64), sql, team.as_str())?;
    if stored.len() < projections.len() {
        exec!(
            tx,
            "INSERT INTO cursors (team_id, projection, position)
             SELECT $1, projection, 0 FROM projection_versions WHERE projection <> ''
             ON CONFLICT (team_id, projection) DO NOTHING",
            team.as_str()
        )?;
        stored = fetch_all!(tx, (String, i64, i64), sql, team.as_str())?;
    }
    let mut cursors = HashMap::new();
    for projection in projections {
        let found = stored.iter().find(|(name, _, _)| name == projection.name());
        // Another build has made these tables anew: this one must not write into them.
        let (_, position, _) = found
            .filter(|(_, _, version)| *version == projection.version())
            .ok_or_else(|| Error::Superseded { projection: projection.name() })?;
        cursors.insert(projection.name(), Position::try_from(*position).unwrap_or(0));
    }
    Ok(cursors)
}

/// Moves cursors of a team, all from one position to another.
pub(crate) async fn move_cursors(
    tx: &mut Tx<'_>,
    team: &TeamId,
    projections: &[&'static dyn Projection],
    from: Position,
    to: Position,
) -> Result<(), Error> {
    let names: Vec<&str> = projections.iter().map(|p| p.name()).collect();
    let sql = tx.pick(
        "UPDATE cursors SET position = $1
         WHERE team_id = $2 AND position = $3 AND projection IN (SELECT value FROM json_each($4))",
        "UPDATE cursors SET position = $1
         WHERE team_id = $2 AND position = $3 AND projection IN (SELECT json_array_elements_text($4::json))",
    );
    let moved = exec!(tx, sql, signed(to), team.as_str(), signed(from), serde_json::to_string(&names)?)?;
    if moved == u64::try_from(names.len()).unwrap_or(u64::MAX) {
        return Ok(());
    }
    Err(Error::Moved { projection: names_first(projections), team: team.clone() })
}

fn names_first(projections: &[&'static dyn Projection]) -> &'static str {
    projections.first().map_or("", |p| p.name())
}
