//! `postlog export`: a team's log as sealed files.

use anyhow::{Context as _, bail};
use domain::id::{Position, TeamId};
use eventlog::export::write::Writer;
use eventlog::export::{LeftOut, NamedBody};

use super::checkpoint::sign_all;
use super::{PAGE, print, progress, team_id};
use crate::cli;
use crate::config::Config;
use crate::store::{Purpose, Store};

/// `postlog export`
///
/// # Errors
/// The log is not what was written, the directory holds something else, or a file cannot be written.
pub async fn export(config: &Config, what: cli::Export) -> anyhow::Result<()> {
    let team = team_id(&what.team)?;
    let store = Store::open(config, Purpose::Command).await?;
    let (size, note) = sign_all(&store, &team).await?;
    let left_out = LeftOut { personal: what.without_personal, bodies: !what.bodies };
    let segment_bytes = usize::from(what.segment_mebibytes) * 1024 * 1024;
    let shown = what.directory.display();
    let mut writer = Writer::begin(&what.directory, &team, left_out, segment_bytes)
        .with_context(|| format!("cannot export to {shown}"))?;
    if writer.position() > size {
        bail!("{shown} holds more than the log: remove it and start again");
    }
    copy(&store, &team, &mut writer, size).await?;
    let segments = writer.finish(&store.signer.key, &note).context("the export cannot be sealed")?;
    std::fs::File::open(&what.directory).and_then(|directory| directory.sync_all())?;
    print(format_args!(
        "{shown} holds {size} events of {team} in {segments} sealed segment(s); to check it anywhere:"
    ))?;
    print(format_args!("postlog verify --export {shown} --key {}", store.signer.key.public()))
}

async fn copy(store: &Store, team: &TeamId, writer: &mut Writer, size: Position) -> anyhow::Result<()> {
    let bar = progress(size, team.as_str());
    while writer.position() < size {
        let after = writer.position();
        let wanted = usize::try_from(size - after).unwrap_or(PAGE).min(PAGE);
        let page = store.log.read_stored(team, after, wanted).await?;
        if page.is_empty() {
            bail!("{team}: the log ends at position {after} instead of {size}");
        }
        for record in page {
            let mut bodies = vec![];
            if let Some(named) = NamedBody::of(&record.facts) {
                bodies.extend(store.log.blob(team, &named.blob).await?.map(|bytes| (named.blob, bytes)));
            }
            writer.append(record, &bodies).context("the export cannot be written")?;
        }
        bar.set_position(writer.position());
    }
    bar.finish_and_clear();
    Ok(())
}
