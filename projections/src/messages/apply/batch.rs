//! One batch of events on its way into the tables.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use domain::id::{MailboxId, MessageId, Position, TeamId, ThreadId};
use domain::message::{Authentication, Event as MessageEvent, Filed, Folder, Person, Received};
use domain::{Event, Halves, mailbox};
use eventlog::Recorded;

use super::super::changes::Kind;
use super::super::{Checks, Correspondence, SEEN};
use super::merge::{Joined, references_of};
use super::thread::{Member, Thread};
use super::{FOLDERS, MESSAGES, REFERENCES, THREADS, TOMBSTONES};
use crate::db::Tx;
use crate::table::Kind::{Bool, Int, Text};
use crate::table::{Existing, Rows, cells};
use crate::{Error, folded};

pub(super) type Arrival = Halves<Received, domain::message::Correspondence>;

/// What of a message can change.
pub(super) struct Message<'e> {
    pub(super) mailbox: MailboxId,
    pub(super) thread: ThreadId,
    folder: Folder,
    keywords: BTreeSet<String>,
    version: u64,
    created_position: Position,
    pub(super) changed_position: Position,
    has_attachments: bool,
    /// The event that brought it, if that is in this batch.
    arrival: Option<(&'e Recorded, Cow<'e, Arrival>)>,
}

/// Returns what brings a message into a mailbox: mail that came in, or the copy of mail that went out.
fn arrival_of(event: &MessageEvent) -> Option<Cow<'_, Arrival>> {
    match event {
        MessageEvent::Received(e) => Some(Cow::Borrowed(e)),
        MessageEvent::Filed(e) => Some(Cow::Owned(Halves { facts: filed(e), personal: e.personal.clone() })),
        _ => None,
    }
}

/// Returns a copy of mail that went out as if it had come in; nothing was to be checked about it.
fn filed(e: &Filed) -> Received {
    Received {
        message: e.message.clone(),
        mailbox: e.mailbox.clone(),
        thread: e.thread.clone(),
        folder: e.folder,
        blob: e.blob.clone(),
        size_bytes: e.size_bytes,
        sha256: e.sha256.clone(),
        is_spam: false,
        spam_score: 0,
        spam_rules: vec![],
        attachments: e.attachments,
        authentication: Authentication::default(),
        sent_at: e.sent_at,
        parser_version: e.parser_version,
        own_report: false,
    }
}

impl Message<'_> {
    fn is_unread(&self) -> bool {
        !self.keywords.contains(SEEN)
    }
}

#[derive(Clone, Copy)]
struct Counts {
    messages: u64,
    unread: u64,
    created_position: Position,
    changed_position: Position,
}

/// Everything the events of a batch touch.
pub(super) struct Batch<'e> {
    pub(super) messages: BTreeMap<MessageId, Message<'e>>,
    changed: BTreeSet<MessageId>,
    destroyed: BTreeSet<MessageId>,
    pub(super) threads: BTreeMap<(MailboxId, ThreadId), Thread>,
    pub(super) ended: BTreeSet<(MailboxId, ThreadId)>,
    pub(super) begun: BTreeSet<(MailboxId, ThreadId)>,
    folders: BTreeMap<(MailboxId, Folder), Counts>,
    pub(super) tombstones: BTreeMap<(MailboxId, Kind, String), (Position, Position)>,
    references: BTreeMap<ThreadId, (ThreadId, bool)>,
    pub(super) joined: Joined,
}

impl<'e> Batch<'e> {
    /// Loads what the events touch and is there already.
    pub(super) async fn load(tx: &mut Tx<'_>, team: &TeamId, events: &'e [Recorded]) -> Result<Self, Error> {
        let mut arriving: BTreeSet<&MessageId> = BTreeSet::new();
        let mut stored: BTreeSet<&MessageId> = BTreeSet::new();
        let mut mailboxes: BTreeSet<&MailboxId> = BTreeSet::new();
        let mut arrivals: Vec<Cow<'_, Arrival>> = vec![];
        for record in events {
            let Event::Message(event) = &record.event else { continue };
            mailboxes.insert(event.mailbox());
            if let Some(arrival) = arrival_of(event) {
                arriving.insert(event.message());
                arrivals.push(arrival);
            } else if !arriving.contains(event.message()) {
                stored.insert(event.message());
            }
        }
        let messages = load_messages(tx, team, &stored).await?;
        let (joined, mut threads) = Joined::load(tx, team, &arrivals).await?;
        threads.extend(messages.values().map(|m| (m.mailbox.clone(), m.thread.clone())));
        Ok(Self {
            messages,
            changed: BTreeSet::new(),
            destroyed: BTreeSet::new(),
            threads: load_threads(tx, team, &threads).await?,
            ended: BTreeSet::new(),
            begun: BTreeSet::new(),
            folders: load_folders(tx, team, &mailboxes).await?,
            tombstones: BTreeMap::new(),
            references: BTreeMap::new(),
            joined,
        })
    }

    /// Folds one event.
    pub(super) fn fold(&mut self, record: &'e Recorded) -> Result<(), Error> {
        match &record.event {
            Event::Mailbox(mailbox::Event::Opened(e)) => {
                for folder in Folder::ALL {
                    let position = record.position;
                    let counts =
                        Counts { messages: 0, unread: 0, created_position: position, changed_position: position };
                    self.folders.insert((e.mailbox.clone(), folder), counts);
                }
            }
            Event::Message(MessageEvent::Received(e)) => self.arrived(record, Cow::Borrowed(e), BTreeSet::new()),
            Event::Message(event @ MessageEvent::Filed(e)) => {
                if let Some(arrival) = arrival_of(event) {
                    self.arrived(record, arrival, e.keywords.clone());
                }
            }
            Event::Message(MessageEvent::KeywordsChanged(e)) => {
                let Some(message) = self.messages.get_mut(&e.message) else { return Ok(()) };
                let was_unread = message.is_unread();
                message.keywords.retain(|keyword| !e.removed.contains(keyword));
                message.keywords.extend(e.added.iter().cloned());
                let (unread, folder) = (message.is_unread(), message.folder);
                let thread = self.touch(&e.message, record);
                if let Some(thread) = thread.filter(|_| unread != was_unread) {
                    thread.unread = stepped(thread.unread, was_unread, unread);
                }
                if unread != was_unread {
                    self.count(&e.mailbox, folder, record.position, |c| {
                        c.unread = stepped(c.unread, was_unread, unread)
                    });
                }
            }
            Event::Message(MessageEvent::Moved(e)) => {
                let Some(message) = self.messages.get_mut(&e.message) else { return Ok(()) };
                let (from, unread) = (message.folder, message.is_unread());
                message.folder = e.folder;
                if let Some(thread) = self.touch(&e.message, record) {
                    thread.moved(from, e.folder);
                }
                self.count(&e.mailbox, from, record.position, |c| leave(c, unread));
                self.count(&e.mailbox, e.folder, record.position, |c| enter(c, unread));
            }
            // Its version is the length of its stream, whatever is in that.
            Event::Message(MessageEvent::DuplicateReceived(e)) => drop(self.touch(&e.message, record)),
            Event::Message(MessageEvent::Destroyed(e)) => self.gone(record, &e.message),
            Event::Team(_)
            | Event::SendingDomain(_)
            | Event::ApiKey(_)
            | Event::Mailbox(_)
            | Event::Webhook(_)
            | Event::Balance(_)
            | Event::Provider(_)
            | Event::DeliveryGroup(_)
            | Event::Routing(_)
            | Event::Outbound(_)
            | Event::Suppression(_)
            | Event::Unknown(_) => {}
        }
        Ok(())
    }

    fn arrived(&mut self, record: &'e Recorded, arrival: Cow<'e, Arrival>, keywords: BTreeSet<String>) {
        let (e, is_unread) = (arrival.as_ref(), !keywords.contains(SEEN));
        let references: Vec<_> = references_of(e).collect();
        let thread_id = self.join(record.position, e, &references);
        let message = Message {
            mailbox: e.mailbox.clone(),
            thread: thread_id.clone(),
            folder: e.folder,
            keywords,
            version: record.stream_version,
            created_position: record.position,
            changed_position: record.position,
            has_attachments: e.attachments > 0,
            arrival: None,
        };
        self.count(&e.mailbox, e.folder, record.position, |c| enter(c, is_unread));
        let known = e.personal.known();
        let key = (e.mailbox.clone(), thread_id.clone());
        let thread = self.threads.entry(key.clone()).or_insert_with(|| {
            self.begun.insert(key.clone());
            self.tombstones.remove(&(key.0, Kind::Thread, key.1.to_string()));
            Thread::begun(&e.message, record.position)
        });
        thread.changed_position = record.position;
        thread.add(Member {
            message: &e.message,
            received_at: record.at,
            folder: e.folder,
            is_unread,
            has_attachments: e.attachments > 0,
            subject: known.and_then(|p| p.subject.as_deref()),
            people: known.map_or_else(Vec::new, |p| people(p.from.as_ref(), &p.to, &p.cc)),
        });
        for (reference, is_own) in references {
            self.joined.knows(&reference, &thread_id);
            let found = self.references.entry(reference).or_insert_with(|| (thread_id.clone(), is_own));
            if is_own && !found.1 {
                *found = (thread_id.clone(), true);
            }
        }
        let id = e.message.clone();
        self.messages.insert(id, Message { arrival: Some((record, arrival)), ..message });
    }

    fn gone(&mut self, record: &Recorded, id: &MessageId) {
        let Some(message) = self.messages.remove(id) else { return };
        let (position, unread) = (record.position, message.is_unread());
        let tombstone = (message.mailbox.clone(), Kind::Message, id.to_string());
        self.tombstones.insert(tombstone, (message.created_position, position));
        if message.arrival.is_none() {
            self.destroyed.insert(id.clone());
        }
        self.changed.remove(id);
        self.count(&message.mailbox, message.folder, position, |c| leave(c, unread));
        let key = (message.mailbox, message.thread);
        let Some(thread) = self.threads.get_mut(&key) else { return };
        thread.changed_position = position;
        if thread.remove(message.folder, unread, message.has_attachments) {
            let created = thread.created_position;
            self.threads.remove(&key);
            if !self.begun.remove(&key) {
                self.ended.insert(key.clone());
            }
            self.tombstones.insert((key.0, Kind::Thread, key.1.to_string()), (created, position));
        }
    }

    /// Notes that a message has changed; returns its thread, which then has changed too.
    fn touch(&mut self, id: &MessageId, record: &Recorded) -> Option<&mut Thread> {
        let message = self.messages.get_mut(id)?;
        (message.version, message.changed_position) = (record.stream_version, record.position);
        if message.arrival.is_none() {
            self.changed.insert(id.clone());
        }
        let thread = self.threads.get_mut(&(message.mailbox.clone(), message.thread.clone()))?;
        thread.changed_position = record.position;
        Some(thread)
    }

    fn count(&mut self, mailbox: &MailboxId, folder: Folder, position: Position, change: impl FnOnce(&mut Counts)) {
        if let Some(counts) = self.folders.get_mut(&(mailbox.clone(), folder)) {
            change(counts);
            counts.changed_position = position;
        }
    }

    /// Writes everything that changed.
    pub(super) async fn write(mut self, tx: &mut Tx<'_>, team: &TeamId) -> Result<(), Error> {
        self.joined.write(tx, team).await?;
        self.write_messages(tx, team).await?;
        self.refresh_threads(tx, team).await?;
        self.write_threads(tx, team).await?;
        let mut rows = Rows::new();
        for ((mailbox, folder), c) in &self.folders {
            let (mailbox, folder) = (mailbox.as_str(), folder.as_str());
            rows.push(cells![mailbox, folder, c.messages, c.unread, c.created_position, c.changed_position]);
        }
        FOLDERS.insert(tx, team, rows, Existing::Replace).await?;
        let mut rows = Rows::new();
        for ((mailbox, kind, id), (created, destroyed)) in &self.tombstones {
            rows.push(cells![mailbox.as_str(), kind.as_str(), id, *created, *destroyed]);
        }
        TOMBSTONES.insert(tx, team, rows, Existing::Replace).await?;
        let mut rows = Rows::new();
        for (reference, (thread, is_own)) in &self.references {
            rows.push(cells![reference.as_str(), thread.as_str(), *is_own]);
        }
        // The first message that refers to an id says which thread it means, until a message has that id itself.
        const FIRST_WINS: &str = "ON CONFLICT (team_id, reference) DO UPDATE
            SET thread_id = excluded.thread_id, is_own = TRUE
            WHERE excluded.is_own AND NOT message_references.is_own";
        REFERENCES.insert(tx, team, rows, Existing::Clause(FIRST_WINS)).await
    }

    async fn write_messages(&self, tx: &mut Tx<'_>, team: &TeamId) -> Result<(), Error> {
        let mut keys = Rows::new();
        self.destroyed.iter().for_each(|id| keys.push(cells![id.as_str()]));
        MESSAGES.delete(tx, team, keys).await?;
        let (mut new, mut changed) = (Rows::new(), Rows::new());
        for (id, message) in &self.messages {
            if let Some((record, e)) = &message.arrival {
                push_arrival(&mut new, message, record, e)?;
            } else if self.changed.contains(id) {
                changed.push(cells![
                    id.as_str(),
                    message.folder.as_str(),
                    &serde_json::to_string(&message.keywords)?,
                    message.is_unread(),
                    message.version,
                    message.changed_position,
                ]);
            }
        }
        MESSAGES.insert(tx, team, new, Existing::Replace).await?;
        let columns =
            [("folder", Text), ("keywords", Text), ("is_unread", Bool), ("version", Int), ("changed_position", Int)];
        MESSAGES.update(tx, team, &columns, changed).await
    }

    /// Computes anew the threads that have lost a message.
    async fn refresh_threads(&mut self, tx: &mut Tx<'_>, team: &TeamId) -> Result<(), Error> {
        let mut fresh: BTreeMap<(MailboxId, ThreadId), Thread> =
            self.threads.iter().filter(|(_, t)| t.is_stale).map(|(key, t)| (key.clone(), t.emptied())).collect();
        if fresh.is_empty() {
            return Ok(());
        }
        let keys: Vec<_> = fresh.keys().map(|(mailbox, thread)| [mailbox.as_str(), thread.as_str()]).collect();
        let sql = tx.pick(
            "SELECT mailbox_id, thread_id, message_id, folder, is_unread, attachments, received_at, subject,
                    correspondence
             FROM messages
             WHERE team_id = $1 AND (mailbox_id, thread_id) IN (SELECT value->>0, value->>1 FROM json_each($2))
             ORDER BY created_position",
            "SELECT mailbox_id, thread_id, message_id, folder, is_unread, attachments, received_at, subject,
                    correspondence
             FROM messages
             WHERE team_id = $1
               AND (mailbox_id, thread_id) IN (SELECT value->>0, value->>1 FROM json_array_elements($2::json))
             ORDER BY created_position",
        );
        for cells in crate::rows!(tx, sql, team.as_str(), serde_json::to_string(&keys)?)? {
            let key = (cells.parsed("mailbox_id")?, cells.parsed("thread_id")?);
            let Some(thread) = fresh.get_mut(&key) else { continue };
            let message: MessageId = cells.parsed("message_id")?;
            let subject: Option<String> = cells.get("subject")?;
            let known: Correspondence = cells.json_opt("correspondence")?.unwrap_or_default();
            if thread.messages == 0 {
                thread.last = (i64::MIN, message.clone());
            }
            thread.add(Member {
                message: &message,
                received_at: cells.get("received_at")?,
                folder: cells.named("folder")?,
                is_unread: cells.get("is_unread")?,
                has_attachments: cells.unsigned("attachments")? > 0,
                subject: subject.as_deref(),
                people: people(known.from.as_ref(), &known.to, &known.cc),
            });
        }
        self.threads.extend(fresh);
        Ok(())
    }

    async fn write_threads(&self, tx: &mut Tx<'_>, team: &TeamId) -> Result<(), Error> {
        let mut keys = Rows::new();
        let ended = self.ended.iter().filter(|key| !self.threads.contains_key(*key));
        ended.for_each(|(mailbox, thread)| keys.push(cells![mailbox.as_str(), thread.as_str()]));
        THREADS.delete(tx, team, keys).await?;
        let mut back = Rows::new();
        let begun = self.begun.iter();
        begun.for_each(|(mailbox, id)| back.push(cells![mailbox.as_str(), Kind::Thread.as_str(), id.as_str()]));
        TOMBSTONES.delete(tx, team, back).await?;
        let mut rows = Rows::new();
        for ((mailbox, id), t) in &self.threads {
            rows.push(cells![
                mailbox.as_str(),
                id.as_str(),
                t.subject.as_ref(),
                t.subject_key.as_ref(),
                t.messages,
                t.unread,
                t.with_attachments,
                &serde_json::to_string(&t.folders)?,
                &serde_json::to_string(&t.participants)?,
                t.last.1.as_str(),
                t.last.0,
                t.created_position,
                t.changed_position,
            ]);
        }
        THREADS.insert(tx, team, rows, Existing::Replace).await
    }
}

async fn load_messages<'e>(
    tx: &mut Tx<'_>,
    team: &TeamId,
    wanted: &BTreeSet<&MessageId>,
) -> Result<BTreeMap<MessageId, Message<'e>>, Error> {
    let mut keys = Rows::new();
    wanted.iter().for_each(|id| keys.push(cells![id.as_str()]));
    let columns = "message_id, mailbox_id, thread_id, folder, keywords, version, created_position, changed_position,
                   attachments";
    let stored = MESSAGES.load_columns(tx, team, keys, columns).await?;
    let message = |cells: &crate::db::Cells| {
        let message = Message {
            mailbox: cells.parsed("mailbox_id")?,
            thread: cells.parsed("thread_id")?,
            folder: cells.named("folder")?,
            keywords: cells.json("keywords")?,
            version: cells.unsigned("version")?,
            created_position: cells.unsigned("created_position")?,
            changed_position: cells.unsigned("changed_position")?,
            has_attachments: cells.unsigned("attachments")? > 0,
            arrival: None,
        };
        Ok((cells.parsed("message_id")?, message))
    };
    stored.iter().map(message).collect()
}

async fn load_threads(
    tx: &mut Tx<'_>,
    team: &TeamId,
    wanted: &BTreeSet<(MailboxId, ThreadId)>,
) -> Result<BTreeMap<(MailboxId, ThreadId), Thread>, Error> {
    let mut keys = Rows::new();
    wanted.iter().for_each(|(mailbox, thread)| keys.push(cells![mailbox.as_str(), thread.as_str()]));
    let stored = THREADS.load(tx, team, keys).await?;
    let thread = |cells: &crate::db::Cells| {
        Ok(((cells.parsed("mailbox_id")?, cells.parsed("thread_id")?), Thread::read(cells)?))
    };
    stored.iter().map(thread).collect()
}

async fn load_folders(
    tx: &mut Tx<'_>,
    team: &TeamId,
    mailboxes: &BTreeSet<&MailboxId>,
) -> Result<BTreeMap<(MailboxId, Folder), Counts>, Error> {
    let mut keys = Rows::new();
    for mailbox in mailboxes {
        Folder::ALL.iter().for_each(|folder| keys.push(cells![mailbox.as_str(), folder.as_str()]));
    }
    let stored = FOLDERS.load(tx, team, keys).await?;
    let counts = |cells: &crate::db::Cells| {
        let counts = Counts {
            messages: cells.unsigned("messages")?,
            unread: cells.unsigned("unread")?,
            created_position: cells.unsigned("created_position")?,
            changed_position: cells.unsigned("changed_position")?,
        };
        Ok(((cells.parsed("mailbox_id")?, cells.named("folder")?), counts))
    };
    stored.iter().map(counts).collect()
}

fn push_arrival(rows: &mut Rows, message: &Message<'_>, record: &Recorded, e: &Arrival) -> Result<(), Error> {
    let checks = Checks {
        sha256: e.sha256.clone(),
        spam_score: e.spam_score,
        spam_rules: e.spam_rules.clone(),
        authentication: e.authentication.clone(),
        parser_version: e.parser_version,
    };
    let known = e.personal.known();
    let correspondence = known.map(|p| Correspondence {
        mail_from: p.mail_from.clone(),
        rcpt_to: p.rcpt_to.clone(),
        from: p.from.clone(),
        to: p.to.clone(),
        cc: p.cc.clone(),
        references: p.references.clone(),
        verified_domain: p.verified_domain.clone(),
    });
    let correspondence = correspondence.map(|c| serde_json::to_string(&c)).transpose()?;
    let persons = |list: &[Person]| list.iter().map(shown).collect::<Vec<_>>().join(", ");
    rows.push(cells![
        e.message.as_str(),
        message.mailbox.as_str(),
        message.thread.as_str(),
        message.folder.as_str(),
        &serde_json::to_string(&message.keywords)?,
        message.is_unread(),
        message.version,
        message.created_position,
        message.changed_position,
        record.at,
        e.sent_at,
        e.size_bytes,
        i64::from(e.attachments),
        e.is_spam,
        e.blob.as_str(),
        &serde_json::to_string(&checks)?,
        correspondence.as_ref(),
        known.and_then(|p| p.subject.as_ref()),
        known.map(|p| &p.preview),
        known.map(|p| &p.rfc5322_message_id),
        &folded(known.and_then(|p| p.subject.as_deref()).unwrap_or_default()),
        &folded(&known.and_then(|p| p.from.as_ref()).map(shown).unwrap_or_default()),
        &folded(&known.map(|p| persons(&p.to)).unwrap_or_default()),
        &folded(&known.map(|p| persons(&p.cc)).unwrap_or_default()),
        &folded(known.map_or("", |p| &p.preview)),
    ]);
    Ok(())
}

fn people<'a>(from: Option<&'a Person>, to: &'a [Person], cc: &'a [Person]) -> Vec<&'a Person> {
    from.into_iter().chain(to).chain(cc).collect()
}

/// Name and address, as a search finds them.
fn shown(person: &Person) -> String {
    match &person.name {
        Some(name) => format!("{name} <{}>", person.email),
        None => person.email.clone(),
    }
}

fn enter(counts: &mut Counts, is_unread: bool) {
    counts.messages += 1;
    counts.unread += u64::from(is_unread);
}

fn leave(counts: &mut Counts, is_unread: bool) {
    counts.messages = counts.messages.saturating_sub(1);
    counts.unread = counts.unread.saturating_sub(u64::from(is_unread));
}

/// Returns a count of unread messages after one of them went from one to the other.
fn stepped(unread: u64, was: bool, is: bool) -> u64 {
    (unread + u64::from(is)).saturating_sub(u64::from(was))
}
