//! The commands of `docs/operations.md`, run as they are written: only places, ports and numbers are filled in.

use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tempfile::TempDir;

const OPERATIONS: &str = include_str!("../../docs/operations.md");

/// Returns the n-th block of commands behind a heading of the manual.
pub fn block(heading: &str, n: usize) -> &'static str {
    let (_, rest) = OPERATIONS.split_once(&format!("{heading}\n")).expect("the manual has this part");
    let block = rest.split("```sh\n").nth(n + 1).expect("a block");
    block.split_once("```").expect("its end").0
}

/// Returns the commands of the program in a block: what stands behind `postlog`, without the place of its data and without
/// comments.
pub fn commands(block: &'static str) -> Vec<Vec<&'static str>> {
    let lines = block.lines().filter_map(|line| line.trim().strip_prefix("postlog "));
    let words = |line: &'static str| {
        let words = line.split(" #").next().unwrap_or(line).split_whitespace();
        let mut words: Vec<_> = words.collect();
        if words.first() == Some(&"--data-dir") {
            words.drain(..2);
        }
        words
    };
    lines.map(words).collect()
}

/// PostgreSQL servers, each with a directory and a port.
pub struct Servers {
    place: TempDir,
    user: Option<(u32, u32)>,
    ports: [u16; 3],
}

const NAMES: [&str; 3] = ["one", "two", "restored"];

/// PostgreSQL refuses to run as root: returns whom to run it as instead.
fn unprivileged() -> Option<(u32, u32)> {
    use std::os::unix::fs::MetadataExt as _;
    if std::fs::metadata("/proc/self").expect("this process").uid() != 0 {
        return None;
    }
    let users = std::fs::read_to_string("/etc/passwd").expect("a list of users");
    let ids = |name: &str| {
        let fields: Vec<_> = users.lines().find(|line| line.split(':').next() == Some(name))?.split(':').collect();
        Some((fields.get(2)?.parse().ok()?, fields.get(3)?.parse().ok()?))
    };
    Some(ids("postgres").or_else(|| ids("nobody")).expect("a user `postgres` or `nobody`"))
}

/// Returns the path with the directory of PostgreSQL's programs in it.
fn path() -> String {
    let path = std::env::var("PATH").unwrap_or_default();
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let bins: Vec<_> = versions.map(|version| version.path().join("bin").display().to_string()).collect();
    [bins, vec![path]].concat().join(":")
}

fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address").port()
}

impl Servers {
    /// Returns a place for servers, none of which runs.
    pub fn none() -> Self {
        let place = TempDir::new().expect("a temporary directory");
        let user = unprivileged();
        std::fs::create_dir(place.path().join("backups")).expect("a directory");
        if let Some((user, group)) = user {
            for path in [place.path().to_owned(), place.path().join("backups")] {
                std::os::unix::fs::chown(path, Some(user), Some(group)).expect("root gives its directory away");
            }
        }
        Self { place, user, ports: [free_port(), free_port(), free_port()] }
    }

    /// Starts a primary and its synchronous standby.
    pub fn pair() -> Self {
        let servers = Self::none();
        servers.run(block("## Synchronous standby and failover", 0));
        servers
    }

    /// Starts a primary alone: the first part of the same commands.
    pub fn primary() -> Self {
        let servers = Self::none();
        let (primary, _) =
            block("## Synchronous standby and failover", 0).split_once("# A standby").expect("two parts");
        servers.run(primary);
        servers
    }

    /// Returns the directory of a server.
    pub fn directory(&self, server: usize) -> PathBuf {
        self.place.path().join(NAMES[server])
    }

    /// Returns the URL of the database on a server.
    pub fn url_of(&self, server: usize) -> String {
        format!("postgres://postlog@127.0.0.1:{}/postlog", self.ports[server])
    }

    /// Fills in what differs here.
    pub fn filled(&self, commands: &str) -> String {
        let place = self.place.path().display().to_string();
        commands
            .replace("/srv/pg", &place)
            .replace("/backups/", &format!("{place}/backups/"))
            .replace("5433", &self.ports[0].to_string())
            .replace("5434", &self.ports[1].to_string())
            .replace("5435", &self.ports[2].to_string())
            // What a crash of this machine would do to files of a test is of no interest.
            .replace("initdb -D", "initdb --no-sync -D")
            .replace("pg_basebackup -D", "pg_basebackup --no-sync -D")
    }

    /// Runs commands of the manual, or others, as the owner of the servers.
    pub fn run(&self, commands: &str) {
        if let Err(said) = self.try_run(commands) {
            panic!("{commands}\nfailed: {said}");
        }
    }

    /// The same; returns what they said when they failed.
    pub fn try_run(&self, commands: &str) -> Result<(), String> {
        let log = tempfile::tempfile().expect("a temporary file");
        let mut command = Command::new("sh");
        command.args(["-ec", &self.filled(commands)]).env("PATH", path()).current_dir("/").stdin(Stdio::null());
        // The servers inherit what they are given: a pipe would be waited for until they end.
        command.stdout(log.try_clone().unwrap()).stderr(log.try_clone().unwrap());
        if let Some((user, group)) = self.user {
            command.uid(user).gid(group);
        }
        let status = command.status().expect("a shell");
        if status.success() {
            return Ok(());
        }
        use std::io::{Read as _, Seek as _};
        let (mut log, mut said) = (log, String::new());
        log.rewind().and_then(|()| log.read_to_string(&mut said)).expect("its words");
        Err(said)
    }

    /// Returns the process id of a server that runs.
    pub fn pid(&self, server: usize) -> Option<String> {
        let text = std::fs::read_to_string(self.directory(server).join("postmaster.pid")).ok()?;
        text.lines().next().map(str::to_owned)
    }

    /// Stops a restored server and forgets what it held.
    pub fn drop_restored(&self) {
        let directory = self.directory(2).display().to_string();
        self.run(&format!("pg_ctl -D {directory} -m immediate -w stop && rm -rf {directory}"));
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        for server in 0..NAMES.len() {
            if let Some(pid) = self.pid(server) {
                let _ = Command::new("kill").args(["-QUIT", &pid]).status();
            }
        }
    }
}

/// Returns whether a process is there.
pub fn is_there(pid: &str) -> bool {
    Path::new(&format!("/proc/{pid}")).exists()
}
