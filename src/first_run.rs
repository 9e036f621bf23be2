//! The first minute of a sandbox: a team, a mailbox, keys shown once, and three commands to paste.

use std::io::Write as _;
use std::net::SocketAddr;

use anyhow::Context as _;
use domain::id::{MailboxId, TeamId};
use domain::mailbox::{OpenMailbox, SendScope};
use domain::permission::{MAILBOX_PERMISSIONS, Permissions, Preset};
use domain::{StreamId, Versioned, api_key, team};
use eventlog::DirectoryKey;

use crate::admin::{create_key, create_team, submit};
use crate::config::Config;
use crate::store::Store;

/// The domain of the sandbox's mailboxes: `.test` never exists in public DNS (RFC 2606 §2).
const DOMAIN: &str = "postlog.test";
const ADDRESS: &str = "agent@postlog.test";
const QUOTA_BYTES: i64 = 1 << 30;

/// Where this process answers.
#[derive(Debug, Clone, Copy, Default)]
pub struct Addresses {
    /// The HTTP door.
    pub http: Option<SocketAddr>,
    /// The SMTP door.
    pub smtp: Option<SocketAddr>,
    /// The submission door.
    pub submission: Option<SocketAddr>,
    /// The metrics.
    pub metrics: Option<SocketAddr>,
}

/// What a newcomer is given, once.
pub struct Welcome {
    team: TeamId,
    infrastructure: eventlog::SecretText,
    mailbox: eventlog::SecretText,
}

/// Makes the sandbox's team, mailbox and keys unless they were shown before.
///
/// A crash between making and showing them costs nothing: the next start makes further keys and shows those.
///
/// # Errors
/// The log is not available.
pub async fn prepare(store: &Store, config: &Config) -> anyhow::Result<Option<Welcome>> {
    if !config.server.sandbox || shown(config).exists() {
        return Ok(None);
    }
    let team = match store.log.teams(None, 1).await?.pop() {
        Some(team) => team,
        None => create_team(store, config, "Sandbox", Some(DOMAIN)).await?,
    };
    let state: Versioned<team::Team> = store.log.state(&team, &[StreamId::Team]).await?;
    if !state.domains.contains_key(DOMAIN) {
        // A team that an operator made: nothing to greet anybody with.
        return Ok(None);
    }
    let permissions = Preset::Full.permissions();
    let infrastructure = create_key(store, &team, api_key::Kind::Infrastructure, "First key", permissions).await?;
    let mailbox = mailbox_key(store, &team).await?;
    Ok(Some(Welcome { team, infrastructure: infrastructure.secret, mailbox }))
}

async fn mailbox_key(store: &Store, team: &TeamId) -> anyhow::Result<eventlog::SecretText> {
    let fresh = api::auth::secret::mint(&store.allot, &store.secrets.pepper, api_key::Kind::Mailbox);
    let permissions = Permissions::parse(MAILBOX_PERMISSIONS)?;
    let existing = store.log.find(&DirectoryKey::Address(ADDRESS.to_owned())).await?;
    if let Some(eventlog::DirectoryTarget::Mailbox { id }) = existing.map(|entry| entry.target) {
        let minted = fresh.minted.clone();
        let name = "First key".to_owned();
        submit(store, team, api_key::CreateMailboxKey { minted, mailbox: id, name, permissions }).await?;
    } else {
        let open = OpenMailbox {
            mailbox: MailboxId::new(store.allot.now(), store.allot.random()),
            email: mail::address::Address::parse(ADDRESS).context("the sandbox address is valid")?,
            display_name: Some("Agent".to_owned()),
            quota_bytes: QUOTA_BYTES,
            send_scope: SendScope::All,
            credential: Some((fresh.minted.clone(), permissions)),
        };
        submit(store, team, open).await?;
    }
    Ok(fresh.secret)
}

/// The mark that the keys were shown.
fn shown(config: &Config) -> std::path::PathBuf {
    config.server.data_dir.join("welcome.shown")
}

/// Says where Postlog answers and, on the first start, greets the newcomer.
///
/// # Errors
/// Standard output is closed or the mark cannot be written.
pub fn announce(config: &Config, addresses: Addresses, welcome: Option<Welcome>) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    let show = |address: Option<SocketAddr>| address.map_or_else(|| "off".to_owned(), |a| a.to_string());
    let mode = if config.server.sandbox { "sandbox: nothing leaves this machine" } else { "production" };
    writeln!(out, "Postlog {} is ready ({mode})", env!("CARGO_PKG_VERSION"))?;
    writeln!(
        out,
        "  http {}   smtp {}   submission {}   metrics {}   data {}",
        show(addresses.http),
        show(addresses.smtp),
        show(addresses.submission),
        show(addresses.metrics),
        config.server.data_dir.display()
    )?;
    if let Some(welcome) = welcome {
        greet(&mut out, addresses, &welcome)?;
        std::fs::write(shown(config), "").context("cannot mark the keys as shown")?;
    }
    out.flush()?;
    Ok(())
}

fn greet(out: &mut impl std::io::Write, addresses: Addresses, welcome: &Welcome) -> std::io::Result<()> {
    let (root, key) = (welcome.infrastructure.expose_str(), welcome.mailbox.expose_str());
    let http = addresses.http.map_or_else(|| "127.0.0.1:8080".to_owned(), |a| a.to_string());
    let smtp = addresses.smtp.map_or_else(|| "127.0.0.1:2525".to_owned(), |a| a.to_string());
    writeln!(
        out,
        "\n\
        Your team is {team}. These keys are shown once; keep them:\n\
        \n\
        \x20 infrastructure key  {root}\n\
        \x20 mailbox key         {key}   ({ADDRESS})\n\
        \n\
        Three commands to paste:\n\
        \n\
        1. watch the mailbox, in a terminal of its own\n\
        \x20  curl -N -H 'Authorization: Bearer {key}' http://{http}/api/v1/mailbox/events\n\
        2. send it a mail\n\
        \x20  printf 'From: Ann <ann@example.com>\\r\\nTo: {ADDRESS}\\r\\nSubject: Hello\\r\\n\
        Message-ID: <%s@example.com>\\r\\n\\r\\nHello, agent!\\r\\n' $(date +%s%N) | \
        curl -sS smtp://{smtp} --mail-from ann@example.com --mail-rcpt {ADDRESS} --upload-file -\n\
        3. read the usage of the day\n\
        \x20  curl -s -H 'Authorization: Bearer {root}' http://{http}/api/v1/billing/usage\n",
        team = welcome.team,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sandbox_address_is_valid_and_on_its_domain() {
        assert_eq!(mail::address::Address::parse(ADDRESS).unwrap().domain(), DOMAIN);
    }
}
