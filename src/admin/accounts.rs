//! `postlog accounts`: ways out that need no password of the team's.

use anyhow::bail;
use domain::id::ProviderId;
use domain::provider::{CreateProvider, Identity, Quotas, Settings, Transport};
use domain::routing::Routing;
use domain::{StreamId, Versioned};

use super::{print, submit, team_id};
use crate::cli::{self, AccountKind};
use crate::config::Config;
use crate::store::{Purpose, Store};

const NAME_CHARS_MAX: usize = 255;

/// `postlog accounts`
///
/// # Errors
/// An argument is not understood, or the log is not available or refuses.
pub async fn accounts(config: &Config, command: cli::Accounts) -> anyhow::Result<()> {
    match command {
        cli::Accounts::Add { team, kind, name, managed } => {
            let transport = match kind {
                AccountKind::Direct if config.server.sandbox => {
                    bail!("--kind direct: nothing leaves the machine of a sandbox; set server.sandbox = false first")
                }
                AccountKind::Direct => Transport::DirectMx,
                AccountKind::Sandbox => Transport::Sandbox,
            };
            let count = name.chars().count();
            if name.trim().is_empty() || count > NAME_CHARS_MAX || name.chars().any(char::is_control) {
                bail!("--name must be 1 to {NAME_CHARS_MAX} characters without control characters");
            }
            let (team, store) = (team_id(&team)?, Store::open(config, Purpose::Command).await?);
            let command = account(&store, &name, transport, managed);
            let id = command.provider.clone();
            submit(&store, &team, command).await?;
            print(format_args!("{id}  {name}"))
        }
        cli::Accounts::List { team } => {
            let (team, store) = (team_id(&team)?, Store::open(config, Purpose::Command).await?);
            let routing: Versioned<Routing> = store.log.state(&team, &[StreamId::Routing]).await?;
            for (id, account) in &routing.accounts {
                let state = match (account.active, account.broken) {
                    (true, false) => "active",
                    (true, true) => "broken",
                    (false, _) => "inactive",
                };
                let managed = if account.managed { "  managed" } else { "" };
                print(format_args!("{id}  {}  {state}{managed}", account.transport.kind()))?;
            }
            Ok(())
        }
    }
}

/// Returns the command that makes an account without credentials.
pub(super) fn account(store: &Store, name: &str, transport: Transport, managed: bool) -> CreateProvider {
    CreateProvider {
        provider: ProviderId::new(store.allot.now(), store.allot.random()),
        settings: Settings { transport, percentage: None, quotas: Quotas::default() },
        identity: Identity { name: name.to_owned(), ..Identity::default() },
        managed,
        secret: None,
    }
}
