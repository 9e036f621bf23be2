//! The program: configuration, wiring, shutdown and operator commands.
//!
//! It holds no rule of the product. What starts and stops, and in which order, is in [`run`].
#![cfg_attr(test, expect(clippy::unwrap_used, reason = "tests may fail loudly"))]

pub mod admin;
pub mod bench;
pub mod bodies;
pub mod carrier;
pub mod charges;
pub mod cli;
pub mod config;
pub mod dns;
pub mod doors;
pub mod duties;
pub mod fetch;
pub mod first_run;
pub mod local;
pub mod outgoing;
pub mod poll;
pub mod run;
pub mod secrets;
pub mod shutdown;
pub mod store;
pub mod telemetry;

use anyhow::Context as _;
use cli::{Cli, Command, ConfigCommand, Verify};
use config::{Config, Sources};

/// Carries out a command line.
///
/// # Errors
/// What could not be done, for people.
pub fn main(cli: Cli) -> anyhow::Result<()> {
    if let Some(Command::Config(ConfigCommand::Default)) = cli.command {
        use std::io::Write as _;
        return Ok(std::io::stdout().write_all(config::DEFAULT.as_bytes())?);
    }
    if let Some(Command::ClassifyBounce) = cli.command {
        return admin::classify_bounce(std::io::stdin().lock(), std::io::stdout().lock());
    }
    if let Some(Command::Verify(Verify { export: Some(export), key, checkpoint, .. })) = &cli.command {
        return admin::verify_export(export, key, checkpoint);
    }
    let config = load(&cli)?;
    if let Some(Command::Config(ConfigCommand::Check)) = cli.command {
        use std::io::Write as _;
        return Ok(writeln!(std::io::stdout(), "the configuration is valid")?);
    }
    // Every TLS connection needs one provider; ring is the only one in the tree.
    let _ = rustls::crypto::ring::default_provider().install_default();
    telemetry::start_logging(&config.log)?;
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().context("cannot start the runtime")?;
    runtime.block_on(carry_out(cli.command.unwrap_or(Command::Serve), config))
}

fn load(cli: &Cli) -> anyhow::Result<Config> {
    let file = match &cli.config {
        Some(path) => {
            let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
            Some((path.display().to_string(), text))
        }
        None => None,
    };
    let mut config = Config::load(&Sources { file, environment: std::env::vars().collect() })?;
    if let Some(directory) = &cli.data_dir {
        config.server.data_dir.clone_from(directory);
    }
    Ok(config)
}

async fn carry_out(command: Command, config: Config) -> anyhow::Result<()> {
    match command {
        Command::Serve => run::serve(config).await,
        Command::Teams(command) => admin::teams(&config, command).await,
        Command::Domains(command) => admin::domains(&config, command).await,
        Command::Keys(command) => admin::keys(&config, command).await,
        Command::Verify(what) => admin::verify(&config, what).await,
        Command::Checkpoint(command) => admin::checkpoint(&config, command).await,
        Command::Prove(what) => admin::prove(&config, what).await,
        Command::Export(what) => admin::export(&config, what).await,
        Command::Rebuild(what) => admin::rebuild(&config, what).await,
        Command::Replay(what) => admin::replay(&config, what).await,
        Command::Erase(what) => admin::erase(&config, what).await,
        Command::Accounts(command) => admin::accounts(&config, command).await,
        Command::Billing(command) => admin::billing(&config, command).await,
        Command::MasterKey(command) => admin::master_key(&config, command).await,
        Command::Deliveries(command) => admin::deliveries(&config, command).await,
        Command::Backup(what) => admin::backup(&config, what).await,
        Command::Restore(what) => admin::restore(&config, what).await,
        Command::Bench(what) => bench::run(&config, &what).await,
        // Answered before the runtime started.
        Command::Config(_) | Command::ClassifyBounce => Ok(()),
    }
}
