//! `postlog master-key`: another key for what is sealed.

use anyhow::bail;
use domain::id::SecretId;
use domain::provider::credentials;
use domain::{sending_domain, webhook_endpoint};

use super::{PAGE, for_each_team, print};
use crate::cli::MasterKeyCommand;
use crate::config::Config;
use crate::secrets;
use crate::store::{Purpose, Store};

/// All that secrets are sealed for. What is missing here is reported as not opened, and stays as it is.
const PURPOSES: &[&str] =
    &[webhook_endpoint::SECRET_PURPOSE, credentials::PURPOSE, sending_domain::SIGNING_KEY_PURPOSE];

/// `postlog master-key`
///
/// # Errors
/// The file exists or cannot be written, the log is not available, or none of the configured keys opens a secret.
pub async fn master_key(config: &Config, command: MasterKeyCommand) -> anyhow::Result<()> {
    match command {
        MasterKeyCommand::New { file } => {
            secrets::make(&file, eventlog::Allot::system().random())?;
            print(format_args!("made {}; `postlog master-key --help` tells what is next", file.display()))
        }
        MasterKeyCommand::Reseal => reseal(&Store::open(config, Purpose::Command).await?).await,
    }
}

async fn reseal(store: &Store) -> anyhow::Result<()> {
    let (mut resealed, mut unopened) = (0, vec![]);
    for_each_team(&store.log, None, async |team| {
        let mut after: Option<SecretId> = None;
        loop {
            let done = store.log.reseal(&team, after.as_ref(), PAGE, PURPOSES).await?;
            resealed += done.resealed;
            unopened.extend(done.unopened.into_iter().map(|id| format!("{id} of {team}")));
            match done.last {
                Some(last) => after = Some(last),
                None => return Ok(()),
            }
        }
    })
    .await?;
    if !unopened.is_empty() {
        bail!(
            "{resealed} secrets were sealed anew; {} are opened by none of the configured keys: {}",
            unopened.len(),
            unopened.iter().take(10).map(String::as_str).collect::<Vec<_>>().join(", ")
        );
    }
    secrets::note_master_key(&store.log, &store.secrets).await?;
    print(format_args!("{resealed} secrets were sealed anew; the current key opens all"))
}
