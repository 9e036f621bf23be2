//! Opens what an installation is made of: the log, its secrets and the read models.

use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, bail};
use dispatcher::duty::Duty;
use dispatcher::queue::Queue;
use dispatcher::{dns, outbound};
use eventlog::postgres::{self, CellConfig, CellsBackend, PostgresBackend, Servers};
use eventlog::sqlite::SqliteBackend;
use eventlog::{Allot, Backend, BlobStore, EventLog, Options, Signer};
use projections::Views;
use projections::webhook_attempts::Work;

use crate::config::{Cell, Config};
use crate::secrets::{self, InstallationSecrets};

/// An open installation.
pub struct Store {
    /// The log.
    pub log: EventLog,
    /// The read models.
    pub views: Views,
    /// The dispatcher's bookkeeping.
    pub work: Work,
    /// Clock and randomness.
    pub allot: Allot,
    /// Master key, pepper and what signs checkpoints.
    pub secrets: InstallationSecrets,
    /// Signs checkpoints.
    pub signer: Signer,
    /// This node's name, kept in its data directory: after a restart it takes up its own leases at once.
    pub node: String,
    /// The PostgreSQL servers, where the log is kept there: those of the home database, then those of each cell.
    pub servers: Vec<Servers>,
    /// The SQLite backend, where the log is kept in it.
    pub sqlite: Option<Arc<SqliteBackend>>,
    /// The databases, where the logs are in several.
    pub cells: Option<CellsBackend>,
    /// Held as long as this process serves from the data directory.
    _lock: Option<std::fs::File>,
}

/// Why an installation is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// To serve: only one process at a time may, from one data directory.
    Serve,
    /// For an operator command, which may run beside a server.
    Command,
}

impl Store {
    /// Opens an installation, making its data directory on the first start.
    ///
    /// # Errors
    /// Something cannot be opened, is damaged, or is served by another process.
    pub async fn open(config: &Config, purpose: Purpose) -> anyhow::Result<Self> {
        let data = &config.server.data_dir;
        if purpose == Purpose::Command && config.database.url.is_empty() && !data.join("log.db").exists() {
            bail!(
                "{} holds no installation yet; start `postlog` once, or name its place with --data-dir",
                data.display()
            );
        }
        std::fs::create_dir_all(data).with_context(|| format!("cannot make {}", data.display()))?;
        let allot = Allot::system();
        let lock = match purpose {
            // Also on PostgreSQL: the directory holds the node's name, under which it holds leases.
            Purpose::Serve => Some(lock(data)?),
            Purpose::Command => None,
        };
        let secrets = secrets::load(config, &allot)?;
        let mut options = Options::new(secrets.master_key.clone(), blobs(config)?, allot.entropy());
        options.queue_max = NonZeroUsize::new(config.database.queue_max).unwrap_or(NonZeroUsize::MIN);
        let tables = &[Queue::TABLES, outbound::Queue::TABLES, dns::Queue::TABLES, Duty::TABLES];
        let (mut servers, mut cells) = (vec![], None);
        let (backend, views, work, sqlite): (Arc<dyn Backend>, Views, Work, _) = if config.database.url.is_empty() {
            // A command that reads for a moment needs no room to write.
            let reserve = match purpose {
                Purpose::Serve => config.database.write_ahead_reserve_mebibytes * 1024 * 1024,
                Purpose::Command => 0,
            };
            let sqlite = SqliteBackend::open_reserving(&data.join("log.db"), reserve).await?;
            let sqlite = Arc::new(sqlite);
            let views = Views::open_sqlite(&data.join("views.db")).await?;
            let work = Work::open_sqlite(&data.join("work.db"), tables).await?;
            (Arc::<SqliteBackend>::clone(&sqlite), views, work, Some(sqlite))
        } else {
            options.lanes = NonZeroUsize::new(config.database.lanes).unwrap_or(NonZeroUsize::MIN);
            let url = &config.database.url;
            let on: Servers = url.parse().context("database.url is not a URL of PostgreSQL")?;
            let backend: Arc<dyn Backend> = if config.database.cells.is_empty() {
                Arc::new(PostgresBackend::open_on(&on, &settings(config, url)).await?)
            } else {
                Arc::new(cells.insert(open_cells(config, &on).await?).clone())
            };
            let (views, work) = (Views::open_postgres_on(&on).await?, Work::open_postgres_on(&on, tables).await?);
            servers.push(on);
            servers.extend(cells.iter().flat_map(CellsBackend::servers).cloned());
            (backend, views, work, None)
        };
        let key = config.checkpoints.key(&secrets.checkpoint_seed).context("checkpoints.origin")?;
        let signer = config.checkpoints.signer(key).context("checkpoints.retired_keys")?;
        let node = node(data, &allot)?;
        let log = EventLog::open(backend, options).await?;
        secrets::check(&log, &secrets, &signer).await?;
        // Asked at the start: otherwise the first large mail would be the one to find out.
        if purpose == Purpose::Serve && config.blobs.location.starts_with("s3://") {
            let cannot = || format!("blobs.location: {} cannot be used", config.blobs.location);
            log.check_bodies().await.with_context(cannot)?;
        }
        let store = Self { log, views, work, allot, secrets, signer, node, servers, sqlite, cells, _lock: lock };
        crate::erasures::catch_up(config, &store).await?;
        Ok(store)
    }
}

/// How many connections of a pool the lanes leave to whoever reads.
const CONNECTIONS_BESIDE_LANES: u32 = 8;

fn settings(config: &Config, url: &str) -> postgres::Config {
    let dangerous_unsafe_postgres = config.database.dangerous_unsafe_postgres;
    let usual = postgres::Config::new(url);
    // Each lane may keep a connection with heads taken while it reads by another.
    let lanes = u32::try_from(config.database.lanes).unwrap_or(u32::MAX);
    let connections_max = usual.connections_max.max(lanes.saturating_add(CONNECTIONS_BESIDE_LANES));
    postgres::Config { dangerous_unsafe_postgres, connections_max, ..usual }
}

async fn open_cells(config: &Config, home: &Servers) -> anyhow::Result<CellsBackend> {
    let database = &config.database;
    let cell = |cell: &Cell| CellConfig { name: cell.name.clone(), database: settings(config, &cell.url) };
    let others: Vec<CellConfig> = database.cells.iter().map(cell).collect();
    Ok(CellsBackend::open_on(home, &settings(config, &database.url), &others, &database.new_teams_cell).await?)
}

fn lock(data: &Path) -> anyhow::Result<std::fs::File> {
    let path = data.join("postlog.lock");
    let file = std::fs::OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .with_context(|| format!("cannot open {}", path.display()))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(std::fs::TryLockError::WouldBlock) => {
            bail!("another postlog serves from {}; stop it first, or name another --data-dir", data.display())
        }
        Err(std::fs::TryLockError::Error(e)) => Err(e).with_context(|| format!("cannot lock {}", path.display())),
    }
}

/// Returns the name of this node, made on its first start.
fn node(data: &Path, allot: &Allot) -> anyhow::Result<String> {
    let path = data.join("node.name");
    match std::fs::read_to_string(&path) {
        Ok(name) if !name.trim().is_empty() => Ok(name.trim().to_owned()),
        _ => {
            let name = format!("node-{}", hex::encode(allot.random::<8>()));
            std::fs::write(&path, &name).with_context(|| format!("cannot write {}", path.display()))?;
            Ok(name)
        }
    }
}

fn blobs(config: &Config) -> anyhow::Result<BlobStore> {
    let location = &config.blobs.location;
    if let Some(rest) = location.strip_prefix("s3://") {
        let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        return BlobStore::s3(bucket, prefix, std::env::vars()).context("blobs.location: the bucket cannot be used");
    }
    let directory = if location.is_empty() { config.server.data_dir.join("blobs") } else { location.into() };
    BlobStore::local(&directory).with_context(|| format!("blobs.location: {} cannot be used", directory.display()))
}
