//! `postlog checkpoint` and `postlog prove`.

use std::io::Write as _;

use anyhow::{Context as _, bail};
use domain::id::{Position, TeamId};
use eventlog::merkle;
use serde_json::json;

use super::{print, team_id};
use crate::cli;
use crate::config::Config;
use crate::store::{Purpose, Store};

/// Signs everything there is of a log; returns the latest checkpoint's note and size.
pub(super) async fn sign_all(store: &Store, team: &TeamId) -> anyhow::Result<(Position, String)> {
    while let Some(growth) = store.log.sign_growth(team, &store.signer, store.allot.now(), true).await? {
        store.log.keep_growth(&[growth]).await?;
    }
    let last = store.log.last_checkpoint(team).await?.with_context(|| format!("{team} has no log"))?;
    Ok((last.size, last.note))
}

/// Prints a note as it is.
fn print_note(note: &str) -> anyhow::Result<()> {
    std::io::stdout().lock().write_all(note.as_bytes()).context("cannot write to standard output")
}

/// `postlog checkpoint`
///
/// # Errors
/// There is no such checkpoint, or what would be signed is not the truth.
pub async fn checkpoint(config: &Config, command: cli::Checkpoint) -> anyhow::Result<()> {
    let store = Store::open(config, Purpose::Command).await?;
    match command {
        cli::Checkpoint::Key => print(format_args!("{}", store.signer.key.public())),
        cli::Checkpoint::Show { team, size } => {
            let team = team_id(&team)?;
            let row = match size {
                Some(size) => store.log.checkpoint(&team, size).await?,
                None => store.log.last_checkpoint(&team).await?,
            };
            print_note(&row.with_context(|| format!("{team}: no such checkpoint was signed"))?.note)
        }
        cli::Checkpoint::Sign { team } => {
            let (_, note) = sign_all(&store, &team_id(&team)?).await?;
            print_note(&note)
        }
    }
}

/// `postlog prove`
///
/// # Errors
/// No checkpoint covers what is asked for.
pub async fn prove(config: &Config, what: cli::Prove) -> anyhow::Result<()> {
    let store = Store::open(config, Purpose::Command).await?;
    let latest = async |team: &TeamId| {
        let last = store.log.last_checkpoint(team).await?;
        last.map(|row| row.size).with_context(|| format!("{team}: no checkpoint was signed yet"))
    };
    let proven = match what {
        cli::Prove::Inclusion { team, position, size } => {
            let team = team_id(&team)?;
            let size = match size {
                Some(size) => size,
                None => latest(&team).await?,
            };
            let Some(proof) = store.log.prove_inclusion(&team, position, size).await? else {
                bail!("--position {position}: no checkpoint covers it at size {size}");
            };
            let record = store.log.read_stored(&team, position - 1, 1).await?.pop().context("the record is gone")?;
            json!({
                "team": team, "position": position, "record_hash": hex::encode(record.hash),
                "leaf_hash": hex::encode(merkle::leaf(&record.hash)), "size": size,
                "root": hex::encode(proof.root), "proof": proof.hashes.iter().map(hex::encode).collect::<Vec<_>>(),
            })
        }
        cli::Prove::Consistency { team, from, to } => {
            let team = team_id(&team)?;
            let size = match to {
                Some(size) => size,
                None => latest(&team).await?,
            };
            let proof = store.log.prove_consistency(&team, from, size).await?;
            let (Some(proof), Some(from_root)) = (proof, store.log.root(&team, from).await?) else {
                bail!("--from {from}: it must be 1 to {size}, and a checkpoint must cover {size}");
            };
            json!({
                "team": team, "from": from, "from_root": hex::encode(from_root), "size": size,
                "root": hex::encode(proof.root), "proof": proof.hashes.iter().map(hex::encode).collect::<Vec<_>>(),
            })
        }
    };
    print(format_args!("{}", serde_json::to_string_pretty(&proven)?))
}
