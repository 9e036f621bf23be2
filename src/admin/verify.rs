//! `postlog verify`: of the logs of this installation, or of an export.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use domain::id::{Position, TeamId};
use eventlog::chain::Verifier;
use eventlog::checkpoint::VerifyingKey;
use eventlog::export::Directory;
use eventlog::merkle::{self, Frontier};
use eventlog::{CheckpointRow, EventLog, Signer};

use super::{PAGE, for_each_team, print, progress, team_id};
use crate::cli;
use crate::config::Config;
use crate::store::{Purpose, Store};

/// `postlog verify`
///
/// # Errors
/// A log is not what was written; the message names the first place.
pub async fn verify(config: &Config, what: cli::Verify) -> anyhow::Result<()> {
    let only = what.team.as_deref().map(team_id).transpose()?;
    let store = Store::open(config, Purpose::Command).await?;
    if let Some(sqlite) = &store.sqlite
        && let Some(found) = sqlite.damage().await?
    {
        bail!("{} is damaged: {found}", config.server.data_dir.join("log.db").display());
    }
    let (mut teams, mut records) = (0u64, 0u64);
    for_each_team(&store.log, only, async |team| {
        let mut checkpoints = Checkpoints::new(&store.log, &store.signer, &team);
        let head = store.log.head(&team).await?;
        let bar = progress(head.position, team.as_str());
        let mut verifier = Verifier::new(team.clone());
        while verifier.verified().0 < head.position {
            let (position, _) = verifier.verified();
            let wanted = usize::try_from(head.position - position).unwrap_or(PAGE).min(PAGE);
            let page = store.log.read_stored(&team, position, wanted).await?;
            if page.is_empty() {
                break;
            }
            for record in &page {
                verifier.next(record)?;
                checkpoints.next(&record.hash).await?;
            }
            bar.set_position(verifier.verified().0);
        }
        verifier.end(&head)?;
        checkpoints.end().await?;
        bar.finish_and_clear();
        teams += 1;
        records += head.position;
        let (hash, signed) = (hex::encode(head.hash), checkpoints.signed);
        print(format_args!("{team}  {} events  {signed} checkpoints  head {hash}", head.position))
    })
    .await?;
    print(format_args!("the chain holds: {records} events of {teams} team(s)"))
}

/// The checkpoints of a log, met one after another by a walk over its records.
struct Checkpoints<'a> {
    log: &'a EventLog,
    signer: &'a Signer,
    team: &'a TeamId,
    tree: Frontier,
    page: std::vec::IntoIter<CheckpointRow>,
    next: Option<CheckpointRow>,
    signed: u64,
    is_begun: bool,
}

impl<'a> Checkpoints<'a> {
    fn new(log: &'a EventLog, signer: &'a Signer, team: &'a TeamId) -> Self {
        let (tree, page) = (Frontier::default(), vec![].into_iter());
        Self { log, signer, team, tree, page, next: None, signed: 0, is_begun: false }
    }

    /// Finds the checkpoint behind a position.
    async fn seek(&mut self, after: Position) -> anyhow::Result<()> {
        self.next = self.page.next();
        if self.next.is_none() {
            self.page = self.log.checkpoints(self.team, after, PAGE).await?.into_iter();
            self.next = self.page.next();
        }
        Ok(())
    }

    async fn next(&mut self, hash: &merkle::Hash) -> anyhow::Result<()> {
        if !self.is_begun {
            self.is_begun = true;
            self.seek(0).await?;
        }
        self.tree.push(merkle::leaf(hash), |_, _| {});
        let size = self.tree.size();
        let Some(row) = self.next.take_if(|row| row.size == size) else { return Ok(()) };
        let keys = std::iter::once(self.signer.key.public()).chain(&self.signer.retired);
        let read = keys.map(|key| key.checkpoint(&row.note)).find_map(Result::ok);
        let Some(read) = read else {
            bail!("{}: the checkpoint at position {size} is not signed by a known key, or was changed", self.team);
        };
        if (read.size, read.root) != (size, self.tree.root()) {
            bail!("{}: the records up to position {size} are not those the checkpoint was signed over", self.team);
        }
        self.signed += 1;
        self.seek(size).await
    }

    /// Checks that the log reaches to its last checkpoint.
    async fn end(&mut self) -> anyhow::Result<()> {
        if !self.is_begun {
            self.seek(0).await?;
        }
        match &self.next {
            // Signed after the walk began.
            Some(row) if self.log.head(self.team).await?.position < row.size => {
                bail!("{}: the log ends before position {}, where a checkpoint was signed", self.team, row.size)
            }
            _ => Ok(()),
        }
    }
}

/// `postlog verify --export`: needs no installation.
///
/// # Errors
/// The export is not what was written; the message names the first place.
pub fn verify_export(directory: &Path, keys: &[String], kept: &[PathBuf]) -> anyhow::Result<()> {
    let keys = keys
        .iter()
        .map(|key| key.trim().parse::<VerifyingKey>().with_context(|| format!("--key {key}")))
        .collect::<anyhow::Result<Vec<_>>>()?;
    let kept = kept
        .iter()
        .map(|path| {
            let note = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
            Ok((path.display().to_string(), note))
        })
        .collect::<anyhow::Result<Vec<_>>>()?;
    let report = eventlog::export::verify::verify(&Directory(directory.to_owned()), &keys, &kept)?;
    print(format_args!("team      {}", report.team))?;
    print(format_args!("origin    {}", report.origin))?;
    print(format_args!("events    {}", report.records))?;
    print(format_args!("head      {}", hex::encode(report.head)))?;
    print(format_args!("root      {}", hex::encode(report.root)))?;
    print(format_args!("bodies    {}", report.bodies))?;
    print(format_args!("personal halves left out or erased  {}", report.personal_absent))?;
    print(format_args!("the export holds: every event is what was written"))
}
