//! What tests of the log and of everything on it need: stores that fail or wait where a test says ([`InFront`]), and a
//! private PostgreSQL cluster.
//!
//! The cluster is made once per test binary, with a fresh database per test, and gone afterwards. It listens on a socket
//! in its own directory and nowhere else. A shell waits for the end of this process (its standard input closes), stops
//! the server and removes the directory, so that nothing is left behind even by a killed test.

mod in_front;
mod s3;
mod sources;
pub mod statements;

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use sqlx::{AssertSqlSafe, Connection, PgConnection};
use tokio::sync::OnceCell;

use crate::Backend as _;
use crate::postgres::{Config, PostgresBackend};

pub use in_front::InFront;
pub use s3::S3;

/// Names the directory of a cluster that a test binary is to use instead of one of its own: whoever started it reads its
/// log afterwards.
const GIVEN: &str = "POSTLOG_TEST_CLUSTER";

/// A running cluster.
#[derive(Debug)]
pub struct Cluster {
    directory: PathBuf,
    databases: AtomicU64,
    /// A database with the tables of a log, to be copied.
    empty_log: OnceCell<String>,
    /// Stops the server when this process ends; its standard input must stay open until then.
    _watch: Option<Child>,
}

impl Cluster {
    /// Returns the cluster of this test binary, started on first use.
    ///
    /// # Panics
    /// PostgreSQL is not installed or does not start.
    pub fn shared() -> &'static Self {
        static SHARED: OnceLock<Cluster> = OnceLock::new();
        SHARED.get_or_init(|| match std::env::var_os(GIVEN) {
            Some(directory) => Self {
                directory: directory.into(),
                databases: AtomicU64::new(0),
                empty_log: OnceCell::new(),
                _watch: None,
            },
            None => Self::start(&[]),
        })
    }

    /// Returns whether this process is to use a cluster that somebody else observes.
    #[must_use]
    pub fn is_given() -> bool {
        std::env::var_os(GIVEN).is_some()
    }

    /// Makes a process that is to be started use this cluster.
    pub fn give<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        command.env(GIVEN, &self.directory)
    }

    /// Returns what the server has written into its log so far.
    ///
    /// # Panics
    /// The log cannot be read.
    #[must_use]
    pub fn server_log(&self) -> String {
        let bytes = std::fs::read(self.directory.join("server.log")).expect("the server's log");
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Starts a cluster with further settings such as `fsync=off`. It ends when it is dropped.
    ///
    /// # Panics
    /// PostgreSQL is not installed or does not start.
    #[must_use]
    pub fn start(settings: &[&str]) -> Self {
        let bin = programs().expect(
            "these tests need the PostgreSQL server programs (initdb, pg_ctl, postgres): \
             install the package `postgresql` (Debian, Ubuntu) or `postgresql-server` (Fedora)",
        );
        let directory = tempfile::Builder::new().prefix("pg-").tempdir().expect("a temporary directory").keep();
        let user = unprivileged(&directory);
        let data = directory.join("data");
        run(
            user,
            Command::new(bin.join("initdb")).arg("-D").arg(&data).args([
                "-U",
                "postlog",
                "--auth=trust",
                "--no-sync",
                "--encoding=UTF8",
                // Any locale that does not sort by bytes: the tables must do so by themselves.
                "--locale=C.UTF-8",
            ]),
        );
        let further: String = settings.iter().map(|setting| format!(" -c {setting}")).collect();
        let settings = format!(
            "-k {} -c listen_addresses= -c max_connections=400 -c shared_buffers=64MB -c max_wal_size=2GB{further}",
            directory.display()
        );
        let log = directory.join("server.log");
        let pg_ctl = bin.join("pg_ctl");
        run(
            user,
            Command::new(&pg_ctl).arg("-D").arg(&data).arg("-l").arg(&log).args(["-w", "-o", &settings, "start"]),
        );
        let mut watch = Command::new("sh");
        watch.args(["-c", "read _; \"$0\" -D \"$1\" -m immediate stop; rm -rf \"$2\""]);
        watch.arg(&pg_ctl).arg(&data).arg(&directory).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        let watch = as_user(user, &mut watch).process_group(0).spawn().expect("a shell");
        Self { directory, databases: AtomicU64::new(0), empty_log: OnceCell::new(), _watch: Some(watch) }
    }

    /// Returns the URL of a database of this cluster.
    #[must_use]
    pub fn url(&self, database: &str) -> String {
        let host = self.directory.to_string_lossy().replace('/', "%2F");
        format!("postgres://postlog@{host}/{database}")
    }

    /// Creates an empty database, or a copy of another one; returns its name.
    ///
    /// # Panics
    /// The server refuses.
    pub async fn create_database(&self, template: Option<&str>) -> String {
        let number = self.databases.fetch_add(1, Ordering::Relaxed);
        let name = format!("test_{}_{number}", std::process::id());
        let template = template.map_or(String::new(), |template| format!(" TEMPLATE {template}"));
        self.admin(&format!("CREATE DATABASE {name}{template}")).await;
        name
    }

    /// Creates a database with the tables of a log and nothing in them; returns its name.
    ///
    /// # Panics
    /// The server refuses.
    pub async fn create_log(&self) -> String {
        let migrated = async {
            let name = self.create_database(None).await;
            let opened = PostgresBackend::open(&Config::new(self.url(&name))).await;
            opened.expect("a fresh database takes the tables").close().await;
            name
        };
        let template = self.empty_log.get_or_init(|| migrated).await;
        self.create_database(Some(template)).await
    }

    /// Runs a statement as the cluster's owner.
    ///
    /// # Panics
    /// The server refuses.
    pub async fn admin(&self, sql: &str) {
        let mut connection = PgConnection::connect(&self.url("postgres")).await.expect("the cluster answers");
        sqlx::query(AssertSqlSafe(sql.to_owned())).execute(&mut connection).await.expect("the cluster obeys");
        connection.close().await.expect("the cluster says goodbye");
    }
}

/// Returns where the server's programs are: in the path, or where Debian puts them.
fn programs() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut places: Vec<PathBuf> = std::env::split_paths(&path).collect();
    let mut versions: Vec<_> = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten().collect();
    versions.sort_by_key(|entry| entry.file_name().to_string_lossy().parse::<u32>().unwrap_or(0));
    places.extend(versions.into_iter().rev().map(|entry| entry.path().join("bin")));
    places.into_iter().find(|place| ["initdb", "pg_ctl", "postgres"].iter().all(|name| place.join(name).exists()))
}

/// PostgreSQL refuses to run as root: returns the user to run it as instead, owner of the directory from now on.
fn unprivileged(directory: &Path) -> Option<(u32, u32)> {
    use std::os::unix::fs::MetadataExt;
    if std::fs::metadata(directory).expect("the directory was just made").uid() != 0 {
        return None;
    }
    let users = std::fs::read_to_string("/etc/passwd").expect("a list of users");
    let ids = |name: &str| {
        let fields: Vec<_> = users.lines().find(|line| line.split(':').next() == Some(name))?.split(':').collect();
        Some((fields.get(2)?.parse().ok()?, fields.get(3)?.parse().ok()?))
    };
    let (user, group) = ids("postgres").or_else(|| ids("nobody")).expect("a user `postgres` or `nobody`");
    std::os::unix::fs::chown(directory, Some(user), Some(group)).expect("root gives its directory away");
    Some((user, group))
}

fn as_user(user: Option<(u32, u32)>, command: &mut Command) -> &mut Command {
    // The current directory may be closed to that user.
    command.current_dir("/");
    match user {
        Some((user, group)) => command.uid(user).gid(group),
        None => command,
    }
}

fn run(user: Option<(u32, u32)>, command: &mut Command) {
    // The server inherits what it is given: a pipe would be waited for until it ends.
    let log = tempfile::tempfile().expect("a temporary file");
    let said = log.try_clone().expect("a second handle");
    let status = as_user(user, command)
        .stdin(Stdio::null())
        .stdout(log.try_clone().expect("a second handle"))
        .stderr(log)
        .status()
        .expect("a PostgreSQL program");
    if !status.success() {
        use std::io::{Read, Seek};
        let (mut said, mut text) = (said, String::new());
        said.rewind().and_then(|()| said.read_to_string(&mut text)).expect("its words");
        panic!("{command:?} failed: {text}");
    }
}
