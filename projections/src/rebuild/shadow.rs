//! Where views are computed anew: scratch databases with the tables of some projections.

use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use domain::id::TeamId;
use eventlog::Recorded;
use sqlx::AssertSqlSafe;
use tokio::sync::{OwnedMutexGuard, mpsc};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::pace::Pace;
use crate::db::{Connection, Db, Engine, Purpose, Tx};
use crate::views::create_bookkeeping;
use crate::{Error, Projection, Views, exec, fetch_all};

/// How many pages wait for a shadow that is behind the others.
const PAGES_AHEAD: usize = 2;

/// Some projections and the scratch database they are computed in.
pub(super) struct Shadow {
    pub db: Db,
    pub projections: Vec<&'static dyn Projection>,
    /// The name under which the live connection sees it.
    pub name: String,
    files: Vec<PathBuf>,
}

/// All projections that are computed anew, spread over databases that work side by side.
pub(super) struct Shadows {
    pub list: Vec<Shadow>,
}

/// How much of the work a projection is, roughly; what is not named is a little.
fn weight(projection: &str) -> u32 {
    match projection {
        crate::messages::NAME => 5,
        crate::audit::NAME | crate::inbox_logs::NAME => 2,
        _ => 1,
    }
}

/// How many shadows work side by side: the fold of one goes on while the database of another writes.
const SHADOWS: usize = 3;

/// Spreads projections over groups of about equal work.
fn groups(projections: &[&'static dyn Projection]) -> Vec<Vec<&'static dyn Projection>> {
    let mut sorted = projections.to_vec();
    sorted.sort_by_key(|p| std::cmp::Reverse(weight(p.name())));
    let mut groups: [(u32, Vec<&'static dyn Projection>); SHADOWS] = Default::default();
    for projection in sorted {
        if let Some((work, group)) = groups.iter_mut().min_by_key(|(work, _)| *work) {
            *work += weight(projection.name());
            group.push(projection);
        }
    }
    groups.into_iter().map(|(_, group)| group).filter(|group| !group.is_empty()).collect()
}

/// Returns the statements of a definition that make tables and what a fold needs.
fn tables(schema: &str) -> String {
    schema.split(';').filter(|s| !is_index(s)).collect::<Vec<_>>().join(";")
}

/// Returns the statements of a definition that only readers need.
pub(super) fn indexes(schema: &str) -> String {
    schema.split_inclusive(';').filter(|s| is_index(s)).collect()
}

fn is_index(statement: &str) -> bool {
    statement.trim_start().starts_with("CREATE INDEX")
}

impl Shadows {
    /// Makes new shadows; what a rebuild that was cut off has left behind is dropped.
    pub(super) async fn open(views: &Views, projections: &[&'static dyn Projection]) -> Result<Self, Error> {
        let mut list = vec![];
        for (i, group) in groups(projections).into_iter().enumerate() {
            let name = format!("views_rebuild_{i}");
            let mut files = vec![];
            let db = match views.db() {
                Db::Sqlite { path: Some(path), .. } => {
                    let mut file = path.clone().into_os_string();
                    file.push(format!(".rebuild-{i}"));
                    files.push(PathBuf::from(file));
                    remove(&files)?;
                    Db::open_sqlite(&files[0], Purpose::Scratch).await?
                }
                Db::Sqlite { path: None, .. } => Db::open_memory().await?,
                Db::Postgres { .. } => views.db().scratch_schema(&name).await?,
                Db::Held(_) => return Err(simulated()),
            };
            let shadow = Shadow { db, projections: group, name, files };
            shadow.create().await?;
            list.push(shadow);
        }
        Ok(Self { list })
    }

    /// Returns one shadow over a database that will stay, bookkeeping included.
    pub(super) async fn over(db: Db, projections: &[&'static dyn Projection]) -> Result<Self, Error> {
        let shadow = Shadow { db, projections: projections.to_vec(), name: String::new(), files: vec![] };
        let mut tx = shadow.db.begin().await?;
        create_bookkeeping(&mut tx).await?;
        tx.commit().await?;
        shadow.create().await?;
        Ok(Self { list: vec![shadow] })
    }

    /// Drops the shadows.
    pub(super) async fn discard(self) -> Result<(), Error> {
        for shadow in self.list {
            if let Db::Postgres { schema, .. } = &shadow.db {
                let mut tx = shadow.db.begin().await?;
                exec!(tx, AssertSqlSafe(format!("DROP SCHEMA {schema} CASCADE")))?;
                tx.commit().await?;
            }
            shadow.db.close().await;
            remove(&shadow.files)?;
        }
        Ok(())
    }

    /// Starts folding events of one team; each shadow goes on by itself and makes way for those who append.
    pub(super) fn folding(&self, team: &TeamId, pace: &Arc<Pace>) -> Folding {
        let mut tasks = JoinSet::new();
        let mut queues = vec![];
        for shadow in &self.list {
            let (queue, mut pages) = mpsc::channel::<Arc<Vec<Recorded>>>(PAGES_AHEAD);
            let (db, projections, team) = (shadow.db.clone(), shadow.projections.clone(), team.clone());
            let pace = Arc::clone(pace);
            tasks.spawn(async move {
                while let Some(events) = pages.recv().await {
                    let mut tx = db.begin().await?;
                    for projection in &projections {
                        let began = Instant::now();
                        projection.apply(&mut tx, &team, &events).await?;
                        // Nobody else wants this transaction.
                        pace.rest(began.elapsed()).await;
                    }
                    tx.commit().await?;
                }
                Ok(())
            });
            queues.push(queue);
        }
        Folding { tasks, queues }
    }
}

impl Shadow {
    async fn create(&self) -> Result<(), Error> {
        let mut tx = self.db.begin().await?;
        for projection in &self.projections {
            let sql = tx.engine().schema(&tables(projection.schema()));
            Db::script(&mut tx, sql).await?;
        }
        tx.commit().await
    }
}

/// Shadows at work on one team.
pub(super) struct Folding {
    tasks: JoinSet<Result<(), Error>>,
    queues: Vec<mpsc::Sender<Arc<Vec<Recorded>>>>,
}

impl Folding {
    /// Hands a page to all shadows; says whether they all go on.
    pub(super) async fn send(&mut self, events: Arc<Vec<Recorded>>) -> bool {
        for queue in &self.queues {
            if queue.send(Arc::clone(&events)).await.is_err() {
                return false;
            }
        }
        true
    }

    /// Waits until all pages are folded.
    pub(super) async fn finish(self) -> Result<(), Error> {
        let Self { mut tasks, queues } = self;
        drop(queues);
        while let Some(done) = tasks.join_next().await {
            match done {
                Ok(result) => result?,
                Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
                Err(_) => {}
            }
        }
        Ok(())
    }
}

fn remove(files: &[PathBuf]) -> Result<(), Error> {
    for path in files {
        match std::fs::remove_file(path) {
            Ok(()) => {}
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
            Err(source) => return Err(Error::File { path: path.clone(), source }),
        }
    }
    Ok(())
}

/// Keeps a second rebuild out: of this process, and of every other one.
pub(super) struct Guard {
    _here: OwnedMutexGuard<()>,
    /// Locked until it is closed.
    _file: Option<File>,
    /// On PostgreSQL: holds a row lock, and says so often enough to keep it. A node that stops loses it to another.
    held: JoinSet<()>,
    let_go: CancellationToken,
    is_on_postgres: bool,
}

/// How often the holder of the lock of a rebuild says that it is there.
const BEAT: Duration = Duration::from_secs(2);

/// Keeps a row lock until it is let go or lost.
async fn keep(mut tx: Tx<'static>, let_go: CancellationToken) {
    loop {
        tokio::select! {
            () = let_go.cancelled() => break,
            () = tokio::time::sleep(BEAT) => {}
        }
        if let Err(error) = exec!(tx, "SELECT 1") {
            tracing::warn!(%error, "the lock of a rebuild is lost");
            return;
        }
    }
    if let Err(error) = tx.rollback().await {
        tracing::debug!(%error, "the lock of a rebuild could not be given back; it goes with its connection");
    }
}

impl Guard {
    pub(super) async fn take(views: &Views) -> Result<Self, Error> {
        let here = views.rebuild_lock().try_lock_owned().map_err(|_| Error::RebuildRunning)?;
        let (mut file, mut held, let_go) = (None, JoinSet::new(), CancellationToken::new());
        let is_on_postgres = matches!(views.db(), Db::Postgres { .. });
        match views.db() {
            Db::Sqlite { path: Some(path), .. } => {
                let mut lock = path.clone().into_os_string();
                lock.push(".rebuild.lock");
                let path = PathBuf::from(lock);
                let opened = File::options().create(true).truncate(false).write(true).open(&path);
                let opened = opened.map_err(|source| Error::File { path: path.clone(), source })?;
                match opened.try_lock() {
                    Ok(()) => file = Some(opened),
                    Err(std::fs::TryLockError::WouldBlock) => return Err(Error::RebuildRunning),
                    Err(std::fs::TryLockError::Error(source)) => return Err(Error::File { path, source }),
                }
            }
            Db::Sqlite { path: None, .. } => {}
            Db::Held(_) => return Err(simulated()),
            Db::Postgres { .. } => {
                let mut holding = views.db().begin().await?;
                let sql =
                    "SELECT projection, version FROM projection_versions WHERE projection = '' FOR UPDATE SKIP LOCKED";
                if fetch_all!(holding, (String, i64), sql)?.is_empty() {
                    return Err(Error::RebuildRunning);
                }
                held.spawn(keep(holding, let_go.clone()));
            }
        }
        Ok(Self { _here: here, _file: file, held, let_go, is_on_postgres })
    }

    /// Fails if another node may have begun a rebuild: what this one has computed may be of the past.
    pub(super) fn check(&mut self) -> Result<(), Error> {
        if self.is_on_postgres && self.held.try_join_next().is_some() {
            return Err(Error::RebuildRunning);
        }
        Ok(())
    }

    /// Lets others rebuild.
    pub(super) async fn release(mut self) {
        self.let_go.cancel();
        while self.held.join_next().await.is_some() {}
    }
}

/// The views of a simulation are made with it and end with it.
pub(super) fn simulated() -> Error {
    sqlx::Error::Configuration("the views of a simulation are not computed anew".into()).into()
}

/// Attaches shadows to a SQLite connection, each under its name.
pub(super) async fn attach(connection: Connection<'_>, shadows: &Shadows) -> Result<(), Error> {
    let Connection::Sqlite(connection) = connection else { return Ok(()) };
    // A rebuild whose future was dropped may have left some.
    let sql = "SELECT name FROM pragma_database_list WHERE name LIKE 'views!_rebuild!_%' ESCAPE '!'";
    for (name,) in sqlx::query_as::<_, (String,)>(sql).fetch_all(&mut *connection).await? {
        sqlx::query(AssertSqlSafe(format!("DETACH DATABASE {name}")))
            .persistent(false)
            .execute(&mut *connection)
            .await?;
    }
    for shadow in &shadows.list {
        let Db::Sqlite { location, .. } = &shadow.db else { continue };
        let sql = format!("ATTACH DATABASE $1 AS {}", shadow.name);
        sqlx::query(AssertSqlSafe(sql)).persistent(false).bind(location.as_str()).execute(&mut *connection).await?;
    }
    Ok(())
}

/// Detaches what [`attach`] attached.
pub(super) async fn detach(connection: Connection<'_>, shadows: &Shadows) -> Result<(), Error> {
    let Connection::Sqlite(connection) = connection else { return Ok(()) };
    for shadow in &shadows.list {
        let sql = format!("DETACH DATABASE {}", shadow.name);
        sqlx::query(AssertSqlSafe(sql)).persistent(false).execute(&mut *connection).await?;
    }
    Ok(())
}

/// Returns how a shadow's and the live table of that name are spelled in the swap.
pub(super) fn spelled(live: &Db, shadow: &Shadow, table: &str) -> (String, String) {
    let shadow_table = format!("{}.{table}", shadow.name);
    match (live.engine(), live) {
        (Engine::Postgres, Db::Postgres { schema, .. }) => (format!("{schema}.{table}"), shadow_table),
        _ => (format!("main.{table}"), shadow_table),
    }
}
