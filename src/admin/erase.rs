//! `postlog erase`: finds what identifies a person in a team's log, and has it erased for good ([`crate::erasures`]).
//!
//! Positions, facts and the hash chain stay. What was erased from the log is then erased from the read models, by the
//! same rebuild beside the old rows that a running server would make; the command ends when that is done.

mod find;

use anyhow::{Context as _, bail};
use domain::id::{DomainId, GroupId, KeyId, MailboxId, Position, ProviderId, TeamId, WebhookId};
use domain::mailbox::{CloseMailbox, Mailbox, Status};
use domain::provider::{By, DeleteProvider};
use domain::sending_domain::RemoveDomain;
use domain::team::ErasureSubject;
use domain::{
    Event, StreamId, Versioned, api_key, delivery_group, mailbox, provider, sending_domain, webhook_endpoint,
};
use eventlog::DirectoryKey;
use mail::address::Address;
use std::collections::BTreeSet;

use super::{PAGE, print, submit, team_id};
use crate::cli;
use crate::config::Config;
use crate::erasures::{self, Erasure};
use crate::store::{Purpose, Store};

use find::{Found, Subject};

/// `postlog erase`
///
/// # Errors
/// The subject is not understood, still in use, or a store is not available.
pub async fn erase(config: &Config, what: cli::Erase) -> anyhow::Result<()> {
    let team = team_id(&what.team)?;
    let store = Store::open(config, Purpose::Command).await?;
    let subject = subject(&store, &team, what.what).await?;
    if what.yes && matches!(subject, Subject::Team) {
        close(&store, &team).await?;
    }
    let found = find(&store, &team, &subject).await?;
    for (stream, what) in &found.in_use() {
        print(format_args!(
            "note: the {what} of {stream} names the address and is in use; change it, then erase again"
        ))?;
    }
    if found.events.is_empty() {
        if what.yes {
            // Whatever kept an earlier run from its end.
            erasures::scrub(&store).await?;
        }
        return print(format_args!("the log of {team} holds nothing of it"));
    }
    if !what.yes {
        let (events, bodies) = (found.events.len(), found.bodies.len());
        return print(format_args!(
            "{events} events and {bodies} mail bodies would be erased for good; nothing was done: add --yes to do it"
        ));
    }
    match &subject {
        Subject::Mailbox(mailbox) => {
            projections::uploads::erase(&store.work, &store.log, &team, Some(mailbox)).await?;
        }
        Subject::Team => projections::uploads::erase(&store.work, &store.log, &team, None).await?,
        Subject::Message(_) | Subject::Address(_) => {}
    }
    let erasure = Erasure::new(store.allot.now(), team, subject.kind(), &found.events);
    let done = erasures::carry_out(config, &store, &erasure).await?;
    print(format_args!(
        "erased: {} events and {} mail bodies. Stored answers to API requests are sealed and go within 24 hours; a backup \
         keeps what it holds, and whoever restores it erases it again with the record of erasures beside it",
        done.events, done.bodies
    ))
}

async fn subject(store: &Store, team: &TeamId, what: cli::ErasureSubject) -> anyhow::Result<Subject> {
    Ok(match what {
        cli::ErasureSubject::Message { id } => {
            Subject::Message(id.parse().with_context(|| format!("{id} is not a message id"))?)
        }
        cli::ErasureSubject::Address { address } => {
            let address = Address::parse(&address).with_context(|| format!("{address} is not an address"))?.canonical();
            if store.log.find(&DirectoryKey::Address(address.clone())).await?.is_some_and(|found| found.team == *team) {
                bail!("{address} is an open mailbox of this team: close it, then erase the mailbox");
            }
            Subject::Address(address)
        }
        cli::ErasureSubject::Mailbox { id } => {
            let id: MailboxId = id.parse().with_context(|| format!("{id} is not a mailbox id"))?;
            let state: Versioned<Mailbox> = store.log.state(team, &[StreamId::Mailbox(id.clone())]).await?;
            match state.status {
                Status::Absent => bail!("{team} has no mailbox {id}"),
                Status::Active | Status::Suspended => bail!("{id} is open: delete the mailbox first, then erase it"),
                Status::Closed => Subject::Mailbox(id),
            }
        }
        cli::ErasureSubject::Everything => Subject::Team,
    })
}

async fn find(store: &Store, team: &TeamId, subject: &Subject) -> anyhow::Result<Found> {
    let mut found = Found::default();
    let mut after: Position = 0;
    loop {
        let page = store.log.read_stored(team, after, PAGE).await?;
        let Some(last) = page.last() else { return Ok(found) };
        after = last.position;
        for record in &page {
            found.judge(subject, record)?;
        }
    }
}

impl Subject {
    fn kind(&self) -> ErasureSubject {
        match self {
            Self::Message(_) => ErasureSubject::Message,
            Self::Address(_) => ErasureSubject::Address,
            Self::Mailbox(_) => ErasureSubject::Mailbox,
            Self::Team => ErasureSubject::Team,
        }
    }
}

/// What a team has that works.
#[derive(Default)]
struct Working {
    keys: BTreeSet<KeyId>,
    webhooks: BTreeSet<WebhookId>,
    mailboxes: BTreeSet<MailboxId>,
    groups: BTreeSet<GroupId>,
    accounts: BTreeSet<ProviderId>,
    domains: BTreeSet<DomainId>,
}

impl Working {
    fn note(&mut self, event: Event) {
        match event {
            Event::ApiKey(api_key::Event::Created(e)) => drop(self.keys.insert(e.facts.key)),
            Event::ApiKey(api_key::Event::Revoked(e)) => drop(self.keys.remove(&e.key)),
            Event::Webhook(webhook_endpoint::Event::Created(e)) => drop(self.webhooks.insert(e.facts.webhook)),
            Event::Webhook(webhook_endpoint::Event::Deleted(e)) => drop(self.webhooks.remove(&e.webhook)),
            Event::Mailbox(mailbox::Event::Opened(e)) => drop(self.mailboxes.insert(e.facts.mailbox)),
            Event::Mailbox(mailbox::Event::Closed(e)) => drop(self.mailboxes.remove(&e.mailbox)),
            Event::DeliveryGroup(delivery_group::Event::Created(e)) => drop(self.groups.insert(e.facts.group)),
            Event::DeliveryGroup(delivery_group::Event::Deleted(e)) => drop(self.groups.remove(&e.group)),
            Event::Provider(provider::Event::Created(e)) => drop(self.accounts.insert(e.facts.provider)),
            Event::Provider(provider::Event::Deleted(e)) => drop(self.accounts.remove(&e.provider)),
            Event::SendingDomain(sending_domain::Event::Added(e)) => drop(self.domains.insert(e.facts.domain)),
            Event::SendingDomain(sending_domain::Event::Removed(e)) => drop(self.domains.remove(&e.domain)),
            _ => {}
        }
    }
}

/// Ends everything by which a team receives, sends or is reached: nothing new comes into a log that is being erased.
async fn close(store: &Store, team: &TeamId) -> anyhow::Result<()> {
    let mut working = Working::default();
    let mut after: Position = 0;
    loop {
        let page = store.log.read(team, after, PAGE).await?;
        let Some(last) = page.last() else { break };
        after = last.position;
        page.into_iter().for_each(|record| working.note(record.event));
    }
    for key in working.keys {
        submit(store, team, api_key::RevokeKey { key, mailbox: None }).await?;
    }
    for webhook in working.webhooks {
        submit(store, team, webhook_endpoint::DeleteWebhook { webhook }).await?;
    }
    for mailbox in working.mailboxes {
        submit(store, team, CloseMailbox { mailbox }).await?;
    }
    for group in working.groups {
        submit(store, team, delivery_group::DeleteGroup { group }).await?;
    }
    for provider in working.accounts {
        submit(store, team, DeleteProvider { provider, by: By::Operator }).await?;
    }
    for domain in working.domains {
        submit(store, team, RemoveDomain { domain }).await?;
    }
    Ok(())
}
