//! Operator commands beside serving.

mod accounts;
mod billing;
mod checkpoint;
mod classify;
mod deliveries;
mod erase;
mod export;
mod master_key;
mod verify;

use std::io::Write as _;
use std::path::Path;

use anyhow::{Context as _, bail};
use api::auth::secret::{Fresh, mint};
use domain::id::{DomainId, KeyId, Position, TeamId};
use domain::provider::Transport;
use domain::{Actor, Command, api_key, balance, permission, sending_domain, team};
use eventlog::{EventLog, Outcome, Submission, TransactError};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::cli;
use crate::config::Config;
use crate::store::{Purpose, Store};

pub use accounts::accounts;
pub use billing::billing;
pub use checkpoint::{checkpoint, prove};
pub use classify::classify_bounce;
pub use deliveries::deliveries;
pub use erase::erase;
pub use export::export;
pub use master_key::master_key;
pub use verify::{verify, verify_export};

/// How many records one page of a walk holds.
const PAGE: usize = 1_000;

/// Submits a command as the operator.
///
/// # Errors
/// It is refused or the log is not available.
pub async fn submit<C: Command>(store: &Store, team: &TeamId, command: C) -> anyhow::Result<()> {
    let request = domain::id::RequestId::new(store.allot.now(), store.allot.random());
    let submission = Submission::new(team.clone(), store.allot.now(), Actor::Operator, request.to_string(), command);
    match store.log.transact(submission).await {
        Ok(Outcome::Done(_) | Outcome::Repeated(_)) => Ok(()),
        Err(TransactError::Taken(key)) => bail!("{} is taken by another team or mailbox", key.to_text()),
        Err(e) => Err(anyhow::anyhow!("{e}")),
    }
}

fn print(text: std::fmt::Arguments<'_>) -> anyhow::Result<()> {
    writeln!(std::io::stdout().lock(), "{text}").context("cannot write to standard output")
}

fn team_id(text: &str) -> anyhow::Result<TeamId> {
    text.parse().with_context(|| format!("{text} is not a team id; `postlog teams list` shows them"))
}

/// Mints an infrastructure or sending key and returns it with its secret.
///
/// # Errors
/// It is refused or the log is not available.
pub async fn create_key(
    store: &Store,
    team: &TeamId,
    kind: api_key::Kind,
    name: &str,
    permissions: permission::Permissions,
) -> anyhow::Result<Fresh> {
    let fresh = mint(&store.allot, &store.secrets.pepper, kind);
    let command = api_key::CreateTeamKey { minted: fresh.minted.clone(), kind, name: name.to_owned(), permissions };
    submit(store, team, command).await?;
    Ok(fresh)
}

/// Makes a team, with a domain the operator vouches for.
///
/// # Errors
/// It is refused or the log is not available.
pub async fn create_team(store: &Store, config: &Config, name: &str, domain: Option<&str>) -> anyhow::Result<TeamId> {
    let team = TeamId::new(store.allot.now(), store.allot.random());
    if name.trim().is_empty() || name.chars().count() > 255 || name.chars().any(char::is_control) {
        bail!("--name must be 1 to 255 characters without control characters");
    }
    // The domain is checked before anything is written.
    let domain = domain.map(normalise).transpose()?;
    submit(store, &team, team::CreateTeam { name: name.to_owned(), limits: config.limits }).await?;
    let credit_limit = config.billing.new_team_credit_limit_nanos;
    if credit_limit.0 > 0 {
        submit(store, &team, balance::ChangeCreditLimit { credit_limit }).await?;
    }
    if let Some(domain) = domain {
        add_domain(store, &team, domain, sending_domain::Mode::SendReceive).await?;
    }
    if config.server.sandbox {
        submit(store, &team, accounts::account(store, "Sandbox", Transport::Sandbox, false)).await?;
    }
    Ok(team)
}

fn normalise(domain: &str) -> anyhow::Result<String> {
    mail::address::normalise_domain(domain).with_context(|| format!("{domain} is not a domain name"))
}

async fn add_domain(store: &Store, team: &TeamId, name: String, mode: sending_domain::Mode) -> anyhow::Result<()> {
    let domain = DomainId::new(store.allot.now(), store.allot.random());
    submit(store, team, sending_domain::AddVerifiedDomain { domain, name, mode }).await
}

/// `postlog teams`
///
/// # Errors
/// The log is not available or refuses.
pub async fn teams(config: &Config, command: cli::Teams) -> anyhow::Result<()> {
    match command {
        cli::Teams::Create { name, domain } => {
            // The first team of a production installation is made before anything ever served.
            let is_new = config.database.url.is_empty() && !config.server.data_dir.join("log.db").exists();
            let purpose = if is_new { Purpose::Serve } else { Purpose::Command };
            let store = Store::open(config, purpose).await?;
            let team = create_team(&store, config, &name, domain.as_deref()).await?;
            let permissions = permission::Preset::Full.permissions();
            let key = create_key(&store, &team, api_key::Kind::Infrastructure, "Default", permissions).await?;
            print(format_args!("team    {team}"))?;
            print(format_args!("key     {}   (shown once)", key.secret.expose_str()))
        }
        cli::Teams::List => {
            let store = Store::open(config, Purpose::Command).await?;
            for_each_team(&store.log, None, async |team| {
                let state: domain::Versioned<team::Team> = store.log.state(&team, &[domain::StreamId::Team]).await?;
                let domains: Vec<_> = state.domains.keys().map(String::as_str).collect();
                print(format_args!("{team}  {}  {}", state.name.as_deref().unwrap_or("-"), domains.join(" ")))
            })
            .await
        }
    }
}

/// `postlog domains`
///
/// # Errors
/// The log is not available or refuses.
pub async fn domains(config: &Config, command: cli::Domains) -> anyhow::Result<()> {
    let cli::Domains::Add { team, domain, send_only } = command;
    let (team, name) = (team_id(&team)?, normalise(&domain)?);
    let mode = if send_only { sending_domain::Mode::SendOnly } else { sending_domain::Mode::SendReceive };
    let store = Store::open(config, Purpose::Command).await?;
    add_domain(&store, &team, name.clone(), mode).await?;
    print(format_args!("{name} belongs to {team}"))
}

/// `postlog keys`
///
/// # Errors
/// The log is not available or refuses.
pub async fn keys(config: &Config, command: cli::Keys) -> anyhow::Result<()> {
    match command {
        cli::Keys::Create { team, name, kind, permissions } => {
            let (team, store) = (team_id(&team)?, Store::open(config, Purpose::Command).await?);
            let (kind, permissions) = match kind {
                cli::KeyKind::Infrastructure => (api_key::Kind::Infrastructure, parse_permissions(&permissions)?),
                cli::KeyKind::Sending => {
                    (api_key::Kind::Sending, permission::Permissions::parse(permission::SENDING_PERMISSIONS)?)
                }
            };
            let key = create_key(&store, &team, kind, &name, permissions).await?;
            print(format_args!("{}  {}   (shown once)", key.minted.key, key.secret.expose_str()))
        }
        cli::Keys::List { team } => {
            let (team, store) = (team_id(&team)?, Store::open(config, Purpose::Command).await?);
            list_keys(&store.log, &team).await
        }
        cli::Keys::Revoke { team, key } => {
            let key: KeyId = key.parse().with_context(|| format!("{key} is not a key id"))?;
            let (team, store) = (team_id(&team)?, Store::open(config, Purpose::Command).await?);
            submit(&store, &team, api_key::RevokeKey { key: key.clone(), mailbox: None }).await?;
            print(format_args!("{key} is revoked"))
        }
    }
}

fn parse_permissions(names: &[String]) -> anyhow::Result<permission::Permissions> {
    match names {
        [one] if permission::Preset::parse(one).is_some() => {
            Ok(permission::Preset::parse(one).map(permission::Preset::permissions).unwrap_or_default())
        }
        names => Ok(permission::Permissions::parse(names.iter().map(String::as_str))?),
    }
}

/// Lists keys from the log itself, so that it is right even while read models are behind.
async fn list_keys(log: &EventLog, team: &TeamId) -> anyhow::Result<()> {
    let mut keys = std::collections::BTreeMap::new();
    let mut after: Position = 0;
    loop {
        let page = log.read(team, after, PAGE).await?;
        let Some(last) = page.last() else { break };
        after = last.position;
        for record in page {
            match record.event {
                domain::Event::ApiKey(api_key::Event::Created(e)) => {
                    let name = e.personal.known().map(|p| p.name.clone()).unwrap_or_default();
                    keys.insert(e.key.clone(), (e.kind, e.prefix.clone(), e.suffix.clone(), name));
                }
                domain::Event::ApiKey(api_key::Event::Revoked(e)) => drop(keys.remove(&e.key)),
                _ => {}
            }
        }
    }
    for (key, (kind, prefix, suffix, name)) in keys {
        print(format_args!("{key}  {:14}  {prefix}…{suffix}  {name}", kind.as_str()))?;
    }
    Ok(())
}

/// Visits one team, or all in pages.
async fn for_each_team(
    log: &EventLog,
    only: Option<TeamId>,
    mut visit: impl AsyncFnMut(TeamId) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    if let Some(team) = only {
        return visit(team).await;
    }
    let mut after: Option<TeamId> = None;
    loop {
        let page = log.teams(after.as_ref(), PAGE).await?;
        let Some(last) = page.last() else { return Ok(()) };
        after = Some(last.clone());
        for team in page {
            visit(team).await?;
        }
    }
}

fn progress(length: u64, what: &str) -> ProgressBar {
    let style = ProgressStyle::with_template("{msg} [{bar:40}] {human_pos}/{human_len} {per_sec} eta {eta}")
        .expect("the template is valid, every run uses it");
    let bar = ProgressBar::with_draw_target(Some(length), ProgressDrawTarget::stderr()).with_style(style);
    bar.set_message(what.to_owned());
    bar
}

/// `postlog rebuild`
///
/// # Errors
/// There is no such read model, or a store is not available.
pub async fn rebuild(config: &Config, what: cli::Rebuild) -> anyhow::Result<()> {
    let team = what.team.as_deref().map(team_id).transpose()?;
    let store = Store::open(config, Purpose::Command).await?;
    let bar = progress(0, what.projection.as_deref().unwrap_or("all read models"));
    let started = std::time::Instant::now();
    let done = projections::rebuild(&store.views, &store.log, what.projection.as_deref(), team.as_ref(), |progress| {
        bar.set_length(progress.total);
        bar.set_position(progress.events);
    })
    .await?;
    bar.finish_and_clear();
    let seconds = started.elapsed().as_secs_f64();
    print(format_args!("rebuilt from {done} events in {seconds:.1} s"))
}

/// `postlog replay`
///
/// # Errors
/// The moment is not understood, the file exists, or a store is not available.
pub async fn replay(config: &Config, what: cli::Replay) -> anyhow::Result<()> {
    let team = team_id(&what.team)?;
    if what.out.exists() {
        bail!("{} exists already", what.out.display());
    }
    let store = Store::open(config, Purpose::Command).await?;
    let until = match what.until.parse::<Position>() {
        Ok(position) => position,
        Err(_) => {
            let moment: jiff::Timestamp = what.until.parse().with_context(|| {
                format!("--until {}: neither a position nor a time like 2026-11-01T00:00:00Z", what.until)
            })?;
            last_position_at(&store.log, &team, moment.as_microsecond()).await?
        }
    };
    let head = store.log.head(&team).await?.position;
    if head == 0 {
        bail!("{team} has no log");
    }
    if until > head {
        bail!("--until {until}: the log of {team} ends at {head}");
    }
    let bar = progress(until, team.as_str());
    projections::replay(&store.log, &team, until, &what.out, |progress| bar.set_position(progress.events)).await?;
    bar.finish_and_clear();
    print(format_args!("{} holds the read models of {team} as of position {until}", what.out.display()))
}

/// Returns the last position whose event was recorded at or before a time.
async fn last_position_at(log: &EventLog, team: &TeamId, at: i64) -> anyhow::Result<Position> {
    let mut last = 0;
    loop {
        let page = log.read_stored(team, last, PAGE).await?;
        match page.iter().position(|record| record.at > at) {
            Some(0) => return Ok(last),
            Some(n) => return Ok(page[n - 1].position),
            None => match page.last() {
                Some(record) => last = record.position,
                None => return Ok(last),
            },
        }
    }
}

/// `postlog backup`
///
/// # Errors
/// The directory exists or a copy cannot be written.
pub async fn backup(config: &Config, what: cli::Backup) -> anyhow::Result<()> {
    if what.out.exists() {
        bail!("{} exists already", what.out.display());
    }
    let store = Store::open(config, Purpose::Command).await?;
    let Some(sqlite) = &store.sqlite else {
        bail!("the log is on PostgreSQL: back that up with pg_basebackup or pg_dump, and the blob location beside it");
    };
    std::fs::create_dir_all(&what.out).with_context(|| format!("cannot make {}", what.out.display()))?;
    // The log first: every large body it names was stored before its event, so the copy made after it has them all.
    sqlite.backup(&what.out.join("log.db")).await?;
    if config.blobs.location.is_empty() {
        copy_tree(&config.server.data_dir.join("blobs"), &what.out.join("blobs"))?;
    }
    std::fs::File::open(&what.out).and_then(|d| d.sync_all())?;
    print(format_args!(
        "copied the log to {}; the read models are rebuilt from it, and the secret files must be kept apart",
        what.out.display()
    ))
}

/// `postlog restore`
///
/// # Errors
/// The data directory is not empty, or the copy cannot be read or written.
pub async fn restore(config: &Config, what: cli::Restore) -> anyhow::Result<()> {
    let data = &config.server.data_dir;
    let (from, to) = (what.from.join("log.db"), data.join("log.db"));
    if !from.exists() {
        bail!("{} is not a backup: it holds no log.db", what.from.display());
    }
    if to.exists() {
        bail!("{} holds an installation already; restore into an empty directory", data.display());
    }
    std::fs::create_dir_all(data).with_context(|| format!("cannot make {}", data.display()))?;
    if what.from.join("blobs").exists() && config.blobs.location.is_empty() {
        copy_tree(&what.from.join("blobs"), &data.join("blobs"))?;
    }
    std::fs::copy(&from, &to).with_context(|| format!("cannot write {}", to.display()))?;
    // Events after the backup are lost. Clients may hold their ids, so new events must not get the same ones.
    let epoch = eventlog::sqlite::SqliteBackend::begin_epoch(&to).await?;
    std::fs::File::open(&to).and_then(|f| f.sync_all())?;
    print(format_args!(
        "restored into {} as epoch {epoch}; put master.key, pepper.key and checkpoint.key beside it, then start postlog",
        data.display()
    ))
}

fn copy_tree(from: &Path, to: &Path) -> anyhow::Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_tree(&entry.path(), &target)?;
        } else {
            std::fs::copy(entry.path(), &target)?;
            std::fs::File::open(&target)?.sync_all()?;
        }
    }
    Ok(())
}
