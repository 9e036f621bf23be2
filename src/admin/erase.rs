//! `postlog erase`: takes what identifies a person out of a team's log for good.
//!
//! Positions, facts and the hash chain stay. What was erased from the log is then erased from the read models, by the
//! same rebuild beside the old rows that a running server would make; the command ends when that is done.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context as _, bail};
use domain::id::{BlobId, MailboxId, MessageId, Position, TeamId};
use domain::mailbox::{Mailbox, Status};
use domain::message::{Correspondence, Event as MessageEvent};
use domain::team::{ErasureSubject, PersonalDataErased, RecordErasure};
use domain::{Event, StreamId, Versioned, api_key, mailbox};
use eventlog::{DirectoryKey, Recorded};
use mail::address::Address;

use super::{PAGE, print, submit, team_id};
use crate::cli;
use crate::config::Config;
use crate::store::{Purpose, Store};

/// How many events are erased at once.
const CHUNK: usize = 1_000;
/// How often a rebuild that somebody else makes is looked after.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// What is erased.
enum Subject {
    Message(MessageId),
    Address(String),
    Mailbox(MailboxId),
}

impl Subject {
    fn kind(&self) -> ErasureSubject {
        match self {
            Self::Message(_) => ErasureSubject::Message,
            Self::Address(_) => ErasureSubject::Address,
            Self::Mailbox(_) => ErasureSubject::Mailbox,
        }
    }
}

/// What was found in the log.
#[derive(Default)]
struct Found {
    positions: Vec<Position>,
    bodies: Vec<BlobId>,
    /// Messages that are erased: whatever happened to them later goes too.
    messages: BTreeSet<MessageId>,
    /// Mailboxes whose sender rules name the address; these decide about mail and are not touched.
    rules: BTreeSet<MailboxId>,
}

/// `postlog erase`
///
/// # Errors
/// The subject is not understood, still in use, or a store is not available.
pub async fn erase(config: &Config, what: cli::Erase) -> anyhow::Result<()> {
    let team = team_id(&what.team)?;
    let store = Store::open(config, Purpose::Command).await?;
    let subject = subject(&store, &team, what.what).await?;
    let found = find(&store, &team, &subject).await?;
    for mailbox in &found.rules {
        print(format_args!(
            "note: sender rules of {mailbox} name the address and still will; change them if they should not"
        ))?;
    }
    if found.positions.is_empty() {
        return print(format_args!("the log of {team} holds nothing of it"));
    }
    let (events, bodies) = (found.positions.len(), found.bodies.len());
    if !what.yes {
        return print(format_args!(
            "{events} events and {bodies} mail bodies would be erased for good; nothing was done: add --yes to do it"
        ));
    }
    // The bodies first: an event that still says whom it is about is how they are found by the next try.
    store.log.erase_blobs(&team, &found.bodies).await.context("bodies could not be erased; try again")?;
    let mut erased = 0;
    for chunk in found.positions.chunks(CHUNK) {
        erased += store.log.erase_personal(&team, chunk).await.context("not everything was erased; try again")?;
    }
    let bodies = u64::try_from(bodies).unwrap_or(u64::MAX);
    let record = PersonalDataErased { subject: subject.kind(), events: erased, bodies };
    submit(&store, &team, RecordErasure { erased: record }).await?;
    loop {
        match projections::erasure::catch_up(&store.views, &store.log).await {
            Ok(_) => break,
            // A server beside this command has noticed it as well.
            Err(projections::Error::RebuildRunning) => tokio::time::sleep(LOOK_EVERY).await,
            Err(error) => {
                return Err(error).context("erased from the log; the read models follow when a server runs");
            }
        }
    }
    print(format_args!(
        "erased: {erased} events and {bodies} mail bodies. Stored answers to API requests go within 24 hours and webhook \
         attempts within 7 days by themselves; backups keep what they hold"
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
    })
}

async fn find(store: &Store, team: &TeamId, subject: &Subject) -> anyhow::Result<Found> {
    let mut found = Found::default();
    let mut after: Position = 0;
    loop {
        let page = store.log.read(team, after, PAGE).await?;
        let Some(last) = page.last() else { return Ok(found) };
        after = last.position;
        page.iter().for_each(|record| found.judge(subject, record));
    }
}

impl Found {
    fn judge(&mut self, subject: &Subject, record: &Recorded) {
        let is_about = match (subject, &record.event) {
            (Subject::Message(id), Event::Message(e)) => e.message() == id,
            (Subject::Mailbox(id), Event::Mailbox(e)) => e.mailbox() == id,
            (Subject::Mailbox(id), Event::Message(e)) => e.mailbox() == id,
            (Subject::Mailbox(id), Event::ApiKey(api_key::Event::Created(e))) => e.mailbox.as_ref() == Some(id),
            (Subject::Mailbox(id), Event::ApiKey(api_key::Event::Revoked(e))) => e.mailbox.as_ref() == Some(id),
            (Subject::Address(address), Event::Message(MessageEvent::Received(e))) => {
                e.personal.known().is_some_and(|known| names(known, address))
            }
            (Subject::Address(_), Event::Message(e)) => self.messages.contains(e.message()),
            (Subject::Address(address), Event::Mailbox(e)) => self.mailbox(address, e),
            _ => false,
        };
        if !is_about {
            return;
        }
        self.positions.push(record.position);
        if let Event::Message(e) = &record.event {
            self.messages.insert(e.message().clone());
            if let MessageEvent::Received(e) = e {
                self.bodies.push(e.blob.clone());
            }
        }
    }

    /// Returns whether an event tells of a mailbox that had the address; notes rules that name it.
    fn mailbox(&mut self, address: &str, event: &mailbox::Event) -> bool {
        match event {
            mailbox::Event::Opened(e) => e.personal.known().is_some_and(|p| is(&p.email, address)),
            mailbox::Event::Closed(e) => e.personal.known().is_some_and(|p| is(&p.email, address)),
            mailbox::Event::RulesReplaced(e) => {
                let rules = e.personal.known().map(|p| p.rules.as_slice()).unwrap_or_default();
                if rules.iter().any(|rule| is(&rule.pattern, address)) {
                    self.rules.insert(e.mailbox.clone());
                } else {
                    self.rules.remove(&e.mailbox);
                }
                false
            }
            _ => false,
        }
    }
}

/// Returns whether a mail is from or to an address, on its envelope or in its header.
fn names(mail: &Correspondence, address: &str) -> bool {
    let people = mail.from.iter().chain(&mail.to).chain(&mail.cc).map(|person| person.email.as_str());
    people.chain(mail.mail_from.as_deref()).chain(mail.rcpt_to.iter().map(String::as_str)).any(|of| is(of, address))
}

fn is(text: &str, address: &str) -> bool {
    Address::parse(text).map_or_else(|_| text.eq_ignore_ascii_case(address), |of| of.canonical() == address)
}
