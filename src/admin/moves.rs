//! `postlog teams move` and `postlog teams stay`.

use std::time::Duration;

use anyhow::{Context as _, bail};
use domain::id::TeamId;
use eventlog::postgres::{CellsBackend, Step};

use super::print;
use crate::config::Config;
use crate::store::{Purpose, Store};

/// Moves a team to a cell.
///
/// # Errors
/// There is no such cell or team, the copy is not whole, or a database does not answer.
pub async fn relocate(config: &Config, team: &TeamId, cell: &str) -> anyhow::Result<()> {
    let store = Store::open(config, Purpose::Command).await?;
    // Every node looks at least this often whether something has moved.
    let grace = Duration::from_millis(config.server.poll_idle_milliseconds) * 2 + Duration::from_secs(1);
    let said = |step| match step {
        Step::Copied(position) => format!("copied and verified up to position {position}"),
        Step::Frozen(position) => format!("writes wait at position {position}"),
        Step::Switched(position) => format!("{team} lives in {cell} from position {position} on"),
        Step::Dropped => "dropped what was left behind".to_owned(),
    };
    let mut unsaid = Ok(());
    let progress = |step| {
        if let Err(e) = print(format_args!("{}", said(step))) {
            unsaid = Err(e);
        }
    };
    let moved = cells(&store)?.relocate(team, cell, store.allot.now(), grace, progress).await;
    let moved =
        moved.with_context(|| format!("{team} could not be moved; run the command again, or `postlog teams stay`"))?;
    if moved.is_none() {
        print(format_args!("{team} lives in {cell} already"))?;
    }
    unsaid
}

/// Takes back a move that has not switched.
///
/// # Errors
/// The team is not on its way, or a database does not answer.
pub async fn stay(config: &Config, team: &TeamId) -> anyhow::Result<()> {
    let store = Store::open(config, Purpose::Command).await?;
    let cells = cells(&store)?;
    cells.stay(team).await?;
    print(format_args!("{team} stays in {}", cells.residence(team).await?.0))
}

fn cells(store: &Store) -> anyhow::Result<&CellsBackend> {
    match &store.cells {
        Some(cells) => Ok(cells),
        None => bail!("there is one database only; name others as [[database.cells]]"),
    }
}
