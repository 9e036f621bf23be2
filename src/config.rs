//! Configuration: one commented default file, overridden by a file, then by the environment; read once, checked whole.
//!
//! The default file names every key with its type. What a file or the environment adds is checked against it, so a
//! misspelt key or a value of the wrong type is an error that names the key, and all errors are shown together.

mod database;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use domain::sending_domain::records::Installation;
use serde::Deserialize;
use toml::{Table, Value};
use tracing_subscriber::EnvFilter;

use database::is_postgres;
pub use database::{Cell, Database};

/// The default file: documentation and defaults in one.
pub const DEFAULT: &str = include_str!("config.default.toml");

const ENV_PREFIX: &str = "POSTLOG_";

/// Everything that can be configured.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The process.
    pub server: Server,
    /// Where the log is.
    pub database: Database,
    /// Where large bodies are.
    pub blobs: Blobs,
    /// Where the installation secrets are.
    pub secrets: Secrets,
    /// Where erasures are remembered.
    pub erasures: Erasures,
    /// The HTTP door.
    pub http: Http,
    /// The SMTP door.
    pub smtp: api::smtp::Config,
    /// The SMTP submission door.
    pub submission: api::smtp::SubmissionConfig,
    /// Where mail that comes back goes.
    pub bounces: Bounces,
    /// HTTP connections.
    pub connections: api::stream::serve::Config,
    /// Streams.
    pub streams: api::stream::Config,
    /// Webhook deliveries.
    pub webhooks: dispatcher::webhook::Config,
    /// Outgoing mail.
    pub outbound: dispatcher::outbound::Config,
    /// The DNS, and what this installation is called in it.
    pub dns: Dns,
    /// Signed checkpoints of the logs.
    pub checkpoints: dispatcher::checkpoints::Config,
    /// Prometheus metrics.
    pub metrics: Metrics,
    /// Log lines.
    pub log: Log,
    /// What a new team may have.
    pub limits: domain::team::Limits,
    /// What things cost.
    pub prices: domain::billing::PriceBook,
    /// What a new team may spend.
    pub billing: Billing,
}

/// The DNS: whom we ask, what we are called, how often sending domains are looked up.
#[derive(Debug, Clone, Deserialize)]
pub struct Dns {
    /// Who is asked; the machine's own servers without.
    #[serde(default)]
    pub server: Option<SocketAddr>,
    /// The host that MX records of sending domains name; `[smtp] hostname` without.
    #[serde(default)]
    pub mx_host: Option<String>,
    /// The preference of these records.
    pub mx_priority: u16,
    /// The SPF mechanism that names our source addresses; `a:` and the MX host without.
    #[serde(default)]
    pub spf_mechanism: Option<String>,
    /// See `[dns]` in the default file.
    #[serde(flatten)]
    pub checks: dispatcher::dns::Config,
}

/// What a new team may spend.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Billing {
    /// How much a new team may spend before it pays, nano-dollars.
    pub new_team_credit_limit_nanos: domain::money::Nanos,
    /// How long after the end of a UTC day its received mail and storage are charged.
    pub charge_after_seconds: u32,
    /// How often is looked whether that time has come.
    pub charge_look_seconds: u32,
}

/// See `[bounces]` in the default file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[expect(missing_docs, reason = "the default file documents each key")]
pub struct Bounces {
    pub domain: Option<String>,
}

impl Bounces {
    /// Returns the domain that reports come back to, as it is compared.
    ///
    /// # Errors
    /// It is no name of a domain.
    pub fn normalised(&self) -> anyhow::Result<Option<String>> {
        let domain = self.domain.as_deref().map(mail::address::normalise_domain).transpose();
        domain.map_err(|e| anyhow::anyhow!("bounces.domain: {e}"))
    }

    /// Returns what is wrong with the section.
    fn problems(&self) -> Vec<String> {
        self.normalised().err().map(|e| e.to_string()).into_iter().collect()
    }
}

/// The HTTP door: its address here, the rest as the door defines it.
#[derive(Debug, Clone, Deserialize)]
pub struct Http {
    /// Where the API and the streams answer.
    pub listen: SocketAddr,
    /// See `[http]` in the default file.
    #[serde(flatten)]
    pub door: api::Config,
}

/// A part of the work that a node can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// The API and the streams.
    Http,
    /// Receiving mail, and taking it from the teams' own users.
    Smtp,
    /// The read models.
    Project,
    /// Webhook deliveries.
    Dispatch,
}

/// See `[server]` in the default file.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "the default file documents each key")]
pub struct Server {
    pub sandbox: bool,
    pub data_dir: PathBuf,
    pub roles: Vec<Role>,
    pub grace_seconds: u64,
    pub poll_idle_milliseconds: u64,
    pub poll_busy_milliseconds: u64,
    pub duty_lease_seconds: u64,
}

/// See `[blobs]` in the default file.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "the default file documents each key")]
pub struct Blobs {
    pub location: String,
    pub move_after_seconds: u64,
    pub move_look_seconds: u64,
    pub move_bodies_per_look_max: u64,
    pub orphan_after_seconds: u64,
    pub orphan_look_seconds: u64,
}

impl Blobs {
    /// Returns what is wrong with the section; an upload waits for its mail for so many seconds.
    fn problems(&self, upload_seconds: u64) -> Vec<String> {
        let mut problems = vec![];
        if !is_blob_location(&self.location) {
            problems.push("blobs.location must be a directory or s3://bucket/prefix".to_owned());
        }
        for (key, seconds) in
            [("move_look_seconds", self.move_look_seconds), ("orphan_look_seconds", self.orphan_look_seconds)]
        {
            if seconds == 0 {
                problems.push(format!("blobs.{key} must not be 0"));
            }
        }
        if self.move_bodies_per_look_max == 0 {
            problems.push("blobs.move_bodies_per_look_max must not be 0".to_owned());
        }
        let least = upload_seconds.saturating_add(ORPHAN_MARGIN_SECONDS);
        if self.orphan_after_seconds != 0 && self.orphan_after_seconds < least {
            problems.push(format!(
                "blobs.orphan_after_seconds must be 0 or at least {least}: the life of an upload, and a day"
            ));
        }
        problems
    }
}

/// How much longer than an upload may live an object without a row is kept.
const ORPHAN_MARGIN_SECONDS: u64 = 24 * 60 * 60;

/// See `[secrets]` in the default file.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "the default file documents each key")]
pub struct Secrets {
    pub master_key_file: String,
    pub previous_master_key_files: Vec<String>,
    pub pepper_file: String,
    pub checkpoint_key_file: String,
}

/// See `[erasures]` in the default file.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "the default file documents each key")]
pub struct Erasures {
    pub record_file: String,
}

/// See `[metrics]` in the default file.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "the default file documents each key")]
pub struct Metrics {
    pub listen: String,
}

/// See `[log]` in the default file.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "the default file documents each key")]
pub struct Log {
    pub level: String,
    pub format: LogFormat,
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    /// For people.
    Text,
    /// For machines.
    Json,
}

/// Everything that is wrong with a configuration, one line each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problems(pub Vec<String>);

impl std::fmt::Display for Problems {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "the configuration has {} problem(s):", self.0.len())?;
        self.0.iter().try_for_each(|problem| writeln!(f, "  - {problem}"))
    }
}

impl std::error::Error for Problems {}

/// Where the configuration comes from: given, so that tests never touch the real environment.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    /// The text of the operator's file, with its name for messages.
    pub file: Option<(String, String)>,
    /// Environment variables.
    pub environment: Vec<(String, String)>,
}

impl Config {
    /// Reads and checks the configuration.
    ///
    /// # Errors
    /// Everything that is wrong, at once.
    pub fn load(sources: &Sources) -> Result<Self, Problems> {
        let mut merged: Table = DEFAULT.parse().expect("the default file is valid TOML, a test says so");
        let mut problems = vec![];
        if let Some((name, text)) = &sources.file {
            match text.parse::<Table>() {
                Ok(table) => merge(&mut merged, table, name, "", &mut problems),
                Err(e) => problems.push(format!("{name} is not TOML: {e}")),
            }
        }
        for (variable, text) in &sources.environment {
            if let Some(key) = variable.strip_prefix(ENV_PREFIX) {
                merge_variable(&mut merged, variable, key, text, &mut problems);
            }
        }
        if !problems.is_empty() {
            return Err(Problems(problems));
        }
        for section in
            ["http", "smtp", "submission", "bounces", "streams", "webhooks", "outbound", "dns", "checkpoints"]
        {
            if let Some(Value::Table(table)) = merged.get_mut(section) {
                drop_empty(table);
            }
        }
        let config: Self = serde_path_to_error::deserialize(Value::Table(merged))
            .map_err(|e| Problems(vec![format!("{}: {}", e.path(), e.inner().message())]))?;
        let problems = config.problems();
        if problems.is_empty() { Ok(config) } else { Err(Problems(problems)) }
    }

    /// Returns what is wrong with the sections of the doors and the dispatcher.
    fn sections(&self) -> [(&'static str, Vec<String>); 11] {
        let mut dns = self.installation().problems();
        dns.extend(self.dns.checks.problems());
        let door = &self.http.door;
        let upload_seconds = u64::from(door.upload_seconds).saturating_add(door.upload_url_seconds.into());
        [
            ("blobs", self.blobs.problems(upload_seconds)),
            ("http", self.http.door.problems()),
            ("smtp", self.smtp.problems()),
            ("submission", self.submission.problems()),
            ("bounces", self.bounces.problems()),
            ("connections", self.connections.problems("connections")),
            ("streams", self.streams.problems()),
            ("webhooks", self.webhooks.problems()),
            ("outbound", self.outbound.problems()),
            ("dns", dns),
            ("checkpoints", self.checkpoints.problems()),
        ]
    }

    /// Returns what this installation is called in the DNS.
    #[must_use]
    pub fn installation(&self) -> Installation {
        let mx_host = self.dns.mx_host.clone().unwrap_or_else(|| self.smtp.hostname.clone());
        let spf_mechanism = self.dns.spf_mechanism.clone().unwrap_or_else(|| format!("a:{mx_host}"));
        Installation { mx_host, mx_priority: self.dns.mx_priority, spf_mechanism }
    }

    /// Returns the settings of webhooks: a sandbox may call this machine over plain http.
    pub fn webhook_settings(&self) -> dispatcher::webhook::Config {
        let mut settings = self.webhooks.clone();
        settings.targets.dangerous_allow_http_loopback |= self.server.sandbox;
        settings
    }

    fn problems(&self) -> Vec<String> {
        let mut problems = vec![];
        let mut check = |ok: bool, problem: &str| {
            if !ok {
                problems.push(problem.to_owned());
            }
        };
        check(!self.server.roles.is_empty(), "server.roles names no role");
        check((1..=300).contains(&self.server.grace_seconds), "server.grace_seconds must be 1 to 300");
        let polls = [self.server.poll_idle_milliseconds, self.server.poll_busy_milliseconds];
        check(polls.iter().all(|p| (5..=60_000).contains(p)), "server.poll_*_milliseconds must be 5 to 60000");
        check((3..=3_600).contains(&self.server.duty_lease_seconds), "server.duty_lease_seconds must be 3 to 3600");
        check((1..=64).contains(&self.database.lanes), "database.lanes must be 1 to 64");
        check(
            self.database.write_ahead_reserve_mebibytes <= 4_096,
            "database.write_ahead_reserve_mebibytes must be 0 to 4096",
        );
        check((16..=1_000_000).contains(&self.database.queue_max), "database.queue_max must be 16 to 1000000");
        let url = &self.database.url;
        check(url.is_empty() || is_postgres(url), "database.url must be empty (SQLite) or begin with postgres://");
        let listen = &self.metrics.listen;
        check(
            listen.is_empty() || listen.parse::<SocketAddr>().is_ok(),
            "metrics.listen must be ADDRESS:PORT or empty",
        );
        let secrets = &self.secrets;
        let one = [
            ("master_key_file", &secrets.master_key_file),
            ("pepper_file", &secrets.pepper_file),
            ("checkpoint_key_file", &secrets.checkpoint_key_file),
        ];
        let previous = secrets.previous_master_key_files.iter().map(|file| ("previous_master_key_files", file));
        for (key, file) in one.into_iter().filter(|(_, file)| !file.is_empty()).chain(previous) {
            // A configured secret is never made: a misspelt name must not cost every key of an installation.
            check(Path::new(file).is_file(), &format!("secrets.{key}: {file:?} is no file"));
        }
        check(EnvFilter::try_new(&self.log.level).is_ok(), "log.level must be a level or a filter");
        let prices = &self.prices;
        let prices = [
            prices.inbound_message_nanos,
            prices.outgoing_recipient_nanos,
            prices.managed_recipient_nanos,
            prices.storage_gb_month_nanos,
        ];
        check(prices.iter().all(|p| p.0 >= 0), "prices must not be negative");
        let credit = self.billing.new_team_credit_limit_nanos;
        check(credit.0 >= 0, "billing.new_team_credit_limit_nanos must not be negative");
        let after = self.billing.charge_after_seconds;
        check((60..=86_400).contains(&after), "billing.charge_after_seconds must be between 60 and 86400");
        check(self.billing.charge_look_seconds > 0, "billing.charge_look_seconds must be more than 0");
        problems.extend(self.database.problems());
        problems.extend(self.sections().into_iter().flat_map(|(name, section)| {
            section.into_iter().map(move |p| if p.starts_with(name) { p } else { format!("{name}.{p}") })
        }));
        problems
    }
}

/// Returns whether bodies can be kept there: in a directory, or under a prefix of a bucket that has a name.
fn is_blob_location(location: &str) -> bool {
    match location.split_once("://") {
        Some(("s3", rest)) => rest.split('/').next().is_some_and(|bucket| !bucket.is_empty()),
        Some(_) => false,
        None => true,
    }
}

/// Drops empty texts: TOML has no null, so an empty text stands for "none" in the sections of the doors and the dispatcher.
fn drop_empty(table: &mut Table) {
    table.retain(|_, value| value.as_str() != Some(""));
    table.iter_mut().filter_map(|(_, value)| value.as_table_mut()).for_each(drop_empty);
}

/// Lays a table over the defaults; what the defaults do not have, or have with another type, is a problem.
fn merge(base: &mut Table, over: Table, source: &str, path: &str, problems: &mut Vec<String>) {
    for (key, value) in over {
        let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
        match (base.get_mut(&key), value) {
            (None, _) => problems.push(format!("{source}: unknown key {path}{}", nearest(base, &key))),
            (Some(Value::Table(base)), Value::Table(over)) => merge(base, over, source, &path, problems),
            (Some(Value::Float(base)), Value::Integer(n)) => *base = f64::from(i32::try_from(n).unwrap_or(i32::MAX)),
            (Some(slot), value) if slot.same_type(&value) => *slot = value,
            (Some(slot), value) => {
                problems.push(format!("{source}: {path} must be {}, not {}", slot.type_str(), value.type_str()));
            }
        }
    }
}

/// Returns a hint if a known key looks like the unknown one.
fn nearest(known: &Table, key: &str) -> String {
    let distance = |a: &str, b: &str| {
        let (a, b): (Vec<_>, Vec<_>) = (a.chars().collect(), b.chars().collect());
        let mut row: Vec<usize> = (0..=b.len()).collect();
        for (i, x) in a.iter().enumerate() {
            let mut diagonal = std::mem::replace(&mut row[0], i + 1);
            for (j, y) in b.iter().enumerate() {
                let cost = diagonal + usize::from(x != y);
                diagonal = row[j + 1];
                row[j + 1] = cost.min(row[j] + 1).min(diagonal + 1);
            }
        }
        row[b.len()]
    };
    let best = known.keys().map(|k| (distance(k, key), k)).min();
    best.filter(|(d, _)| *d <= 3).map_or_else(String::new, |(_, k)| format!(" (did you mean {k}?)"))
}

fn merge_variable(base: &mut Table, variable: &str, key: &str, text: &str, problems: &mut Vec<String>) {
    let path: Vec<String> = key.split("__").map(str::to_lowercase).collect();
    // POSTLOG_CONFIG and the like have no section and are not configuration keys.
    let [sections @ .., last] = path.as_slice() else { return };
    if sections.is_empty() {
        return;
    }
    let mut table = Some(&mut *base);
    for section in sections {
        table = table.and_then(|t| t.get_mut(section)).and_then(Value::as_table_mut);
    }
    let Some(slot) = table.and_then(|t| t.get_mut(last)) else {
        problems.push(format!("{variable}: unknown key {}", path.join(".")));
        return;
    };
    let parsed = match slot {
        Value::String(_) => Some(Value::String(text.to_owned())),
        _ => format!("v = {text}").parse::<Table>().ok().and_then(|mut t| t.remove("v")).filter(|v| v.same_type(slot)),
    };
    match parsed {
        Some(value) => *slot = value,
        None => problems.push(format!("{variable}: {} must be {}", path.join("."), slot.type_str())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(file: &str, environment: &[(&str, &str)]) -> Result<Config, Problems> {
        let environment = environment.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        Config::load(&Sources { file: Some(("my.toml".into(), file.into())), environment })
    }

    #[test]
    fn the_default_file_is_a_valid_configuration() {
        let config = Config::load(&Sources::default()).unwrap();
        assert!(config.server.sandbox);
        assert_eq!(config.limits, domain::team::Limits::default());
        assert_eq!(config.prices, domain::billing::PriceBook::default());
        // What the file says is what each part takes when it is told nothing.
        assert_eq!(config.http.door, api::Config::default());
        assert_eq!(config.connections, api::stream::serve::Config::default());
        assert_eq!(config.streams, api::stream::Config::default());
        assert_eq!(config.smtp, api::smtp::Config::default());
        assert_eq!(config.submission, api::smtp::SubmissionConfig::default());
        assert_eq!(config.bounces, Bounces::default());
        assert_eq!(config.webhooks, dispatcher::webhook::Config::default());
        assert_eq!(config.outbound, dispatcher::outbound::Config::default());
        assert_eq!(config.dns.checks, dispatcher::dns::Config::default());
        assert_eq!(config.checkpoints, dispatcher::checkpoints::Config::default());
        assert_eq!(config.installation(), Installation::default());
    }

    #[test]
    fn the_environment_wins_over_the_file_and_the_file_over_the_default() {
        let file = "[server]\ngrace_seconds = 7\n[log]\nlevel = \"debug\"\n";
        let config = load(file, &[("POSTLOG_LOG__LEVEL", "warn"), ("POSTLOG_SERVER__ROLES", "[\"http\"]")]).unwrap();
        assert_eq!(config.server.grace_seconds, 7);
        assert_eq!(config.log.level, "warn");
        assert_eq!(config.server.roles, [Role::Http]);
    }

    #[test]
    fn every_problem_is_named_at_once() {
        let file = "[server]\ngrace_second = 7\nsandbox = \"yes\"\n[nothing]\nx = 1\n";
        let problems = load(file, &[("POSTLOG_DATABASE__LANES", "many"), ("POSTLOG_HTTP__LISTN", "x")]).unwrap_err().0;
        assert_eq!(problems.len(), 5, "{problems:?}");
        assert!(problems.iter().any(|p| p.contains("server.grace_second (did you mean grace_seconds?)")));
        assert!(problems.iter().any(|p| p.contains("server.sandbox must be boolean, not string")));
        assert!(problems.iter().any(|p| p.contains("POSTLOG_DATABASE__LANES")));
    }

    #[test]
    fn impossible_values_are_refused_with_the_name_of_the_key() {
        let file = "[server]\nroles = []\ngrace_seconds = 0\n[database]\nurl = \"mysql://x\"\nlanes = 0\n\
                    new_teams_cell = \"c\"\n[[database.cells]]\nname = \"B\"\nurl = \"x\"\n\
                    [webhooks]\nlease_seconds = 1\n[smtp]\nhostname = \"not a name\"\n\
                    [submission]\ndrain_seconds = 0\n[bounces]\ndomain = \"not a name\"\n\
                    [checkpoints]\nevery_events = 0\norigin = \"a b\"\npost_to = \"ftp://x\"\nretired_keys = [\"x\"]\n";
        let problems = load(file, &[]).unwrap_err().0;
        for key in [
            "server.roles",
            "server.grace_seconds",
            "database.url",
            "database.lanes",
            "database.cells.name",
            "database.cells.url",
            "database.new_teams_cell",
            "webhooks.lease_seconds",
            "smtp.hostname",
            "submission.drain_seconds",
            "bounces.domain",
            "checkpoints.every_events",
            "checkpoints.origin",
            "checkpoints.post_to",
            "checkpoints.retired_keys",
        ] {
            assert!(problems.iter().any(|p| p.contains(key)), "{key} is missing in {problems:?}");
        }
    }
}
