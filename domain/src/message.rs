//! A message in a mailbox.
//!
//! Invariants:
//! - A message is received once; what was destroyed never comes back.
//! - A message is received only by an active mailbox whose sender rules admit the envelope sender and that has room.
//! - The log holds no body: a blob id, its size and its SHA-256 instead.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::entity::{Fold, Versioned, fold_of};
use crate::event::stored_events;
use crate::id::{BlobId, MailboxId, MessageId, OutboundId, ThreadId};
use crate::mailbox::{Mailbox, Status as MailboxStatus};
use crate::personal::Halves;
use crate::{Command, Moment, StreamId};

/// A folder every mailbox has. Its name is its id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Folder {
    /// Where wanted mail arrives.
    #[default]
    Inbox,
    /// Unfinished outgoing mail.
    Drafts,
    /// Mail that was sent.
    Sent,
    /// Mail classified as spam.
    Junk,
    /// Mail on its way out.
    Trash,
    /// Mail put aside.
    Archive,
}

impl Folder {
    /// All folders, in the order they are shown.
    pub const ALL: [Self; 6] = [Self::Inbox, Self::Drafts, Self::Sent, Self::Junk, Self::Trash, Self::Archive];

    /// Returns the folder's id, which is also its role.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Inbox => "inbox",
            Self::Drafts => "drafts",
            Self::Sent => "sent",
            Self::Junk => "junk",
            Self::Trash => "trash",
            Self::Archive => "archive",
        }
    }

    /// Returns the folder of that id.
    #[must_use]
    pub fn parse(id: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|f| f.as_str() == id)
    }
}

/// A name with an optional display name, as it stands in a header.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Person {
    /// The display name.
    pub name: Option<String>,
    /// The address, as written.
    pub email: String,
}

/// The results of the checks on a message's origin; details that name people are in the personal half.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Authentication {
    /// `pass`, `fail`, `softfail`, `neutral`, `none`, `temperror`, `permerror`, or `unchecked`.
    pub spf: String,
    /// The best DKIM result.
    pub dkim: String,
    /// The DMARC result.
    pub dmarc: String,
    /// The ARC result.
    pub arc: String,
}

/// Facts of `message.received`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Received {
    /// The new message.
    pub message: MessageId,
    /// The mailbox it arrived in.
    pub mailbox: MailboxId,
    /// The thread it belongs to.
    pub thread: ThreadId,
    /// The folder it was put into.
    pub folder: Folder,
    /// Where its bytes are: trace headers and the client's bytes unchanged.
    pub blob: BlobId,
    /// How many bytes.
    pub size_bytes: i64,
    /// Lower-case hex of the SHA-256 of the bytes.
    pub sha256: String,
    /// Whether it was classified as spam.
    pub is_spam: bool,
    /// The spam score in tenths of a point.
    pub spam_score: i64,
    /// The names of the rules that gave points.
    pub spam_rules: Vec<String>,
    /// How many attachments it has.
    pub attachments: u32,
    /// Origin checks.
    pub authentication: Authentication,
    /// When its author says it was sent, microseconds since the Unix epoch.
    pub sent_at: Option<i64>,
    /// The version of the parser that made this view.
    pub parser_version: u32,
    /// Whether Postlog wrote it itself to report on a mail (RFC 3464): nobody pays for its arrival.
    #[serde(skip_serializing_if = "std::ops::Not::not", default)]
    pub own_report: bool,
}

/// Personal half of `message.received` and `message.filed`; what only an arrival has is empty in the latter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Correspondence {
    /// Envelope sender; `None` for the null sender (bounces).
    pub mail_from: Option<String>,
    /// Envelope recipients of this copy.
    pub rcpt_to: Vec<String>,
    /// Header `From`.
    pub from: Option<Person>,
    /// Header `To`.
    pub to: Vec<Person>,
    /// Header `Cc`.
    pub cc: Vec<Person>,
    /// Header `Subject`, decoded.
    pub subject: Option<String>,
    /// The first visible words.
    pub preview: String,
    /// The Message-ID, without angle brackets; minted where the mail had none.
    pub rfc5322_message_id: String,
    /// Message-IDs it refers to: `In-Reply-To` first, then `References` from last to first.
    pub references: Vec<String>,
    /// What the peer called itself.
    pub helo: String,
    /// Where the peer connected from.
    pub peer_ip: String,
    /// The domain that passed DMARC.
    pub verified_domain: Option<String>,
}

/// Facts of `message.filed`: a message that did not arrive, but was put into a mailbox by its owner.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Filed {
    /// The new message.
    pub message: MessageId,
    /// The mailbox it is in.
    pub mailbox: MailboxId,
    /// The thread it belongs to.
    pub thread: ThreadId,
    /// The folder it was put into.
    pub folder: Folder,
    /// Where its bytes are.
    pub blob: BlobId,
    /// How many bytes.
    pub size_bytes: i64,
    /// Lower-case hex of the SHA-256 of the bytes.
    pub sha256: String,
    /// How many attachments it has.
    pub attachments: u32,
    /// When it was sent, microseconds since the Unix epoch.
    pub sent_at: Option<i64>,
    /// The version of the parser that made this view.
    pub parser_version: u32,
    /// The keywords it has from the start; a copy of what was sent is `$seen`.
    #[serde(skip_serializing_if = "BTreeSet::is_empty", default)]
    pub keywords: BTreeSet<String>,
    /// The outgoing mail it is the copy of.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub outbound: Option<OutboundId>,
}

/// Facts of `message.keywords_changed`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeywordsChanged {
    /// The message.
    pub message: MessageId,
    /// Its mailbox.
    pub mailbox: MailboxId,
    /// Keywords it has from now on, lower case; `$seen` and `$flagged` are two of them.
    pub added: BTreeSet<String>,
    /// Keywords it has no more.
    pub removed: BTreeSet<String>,
}

/// Facts of `message.moved`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Moved {
    /// The message.
    pub message: MessageId,
    /// Its mailbox.
    pub mailbox: MailboxId,
    /// The folder it is in from now on.
    pub folder: Folder,
}

/// Facts of `message.duplicate_received`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DuplicateReceived {
    /// The message that was there already.
    pub message: MessageId,
    /// Its mailbox.
    pub mailbox: MailboxId,
}

/// Facts of `message.destroyed`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Destroyed {
    /// The message.
    pub message: MessageId,
    /// Its mailbox.
    pub mailbox: MailboxId,
    /// Where its bytes were.
    pub blob: BlobId,
    /// How many bytes are free again.
    pub size_bytes: i64,
}

stored_events! {
    /// What can happen to a message.
    enum Event;
    /// A mail was accepted into a mailbox.
    Received(Received, Correspondence) = "message.received" v 1;
    /// A mail of the mailbox's own was put into it, for example the copy of what it sent.
    Filed(Filed, Correspondence) = "message.filed" v 1;
    /// Its keywords changed.
    KeywordsChanged(KeywordsChanged) = "message.keywords_changed" v 1;
    /// It went to another folder.
    Moved(Moved) = "message.moved" v 1;
    /// The same mail was handed over once more, because its sender had not heard that it was accepted.
    DuplicateReceived(DuplicateReceived) = "message.duplicate_received" v 1;
    /// It is gone for good.
    Destroyed(Destroyed) = "message.destroyed" v 1;
}

impl Event {
    /// Returns the message it is about.
    #[must_use]
    pub fn message(&self) -> &MessageId {
        match self {
            Self::Received(e) => &e.message,
            Self::Filed(e) => &e.message,
            Self::KeywordsChanged(e) => &e.message,
            Self::Moved(e) => &e.message,
            Self::DuplicateReceived(e) => &e.message,
            Self::Destroyed(e) => &e.message,
        }
    }

    /// Returns the mailbox the message is in.
    #[must_use]
    pub fn mailbox(&self) -> &MailboxId {
        match self {
            Self::Received(e) => &e.mailbox,
            Self::Filed(e) => &e.mailbox,
            Self::KeywordsChanged(e) => &e.mailbox,
            Self::Moved(e) => &e.mailbox,
            Self::DuplicateReceived(e) => &e.mailbox,
            Self::Destroyed(e) => &e.mailbox,
        }
    }
}

/// What must be known of a stored message to change it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stored {
    /// The mailbox it is in.
    pub mailbox: MailboxId,
    /// Where its bytes are.
    pub blob: BlobId,
    /// How many bytes.
    pub size_bytes: i64,
    /// The folder it is in.
    pub folder: Folder,
    /// Its keywords.
    pub keywords: BTreeSet<String>,
}

/// The fold of a message's stream.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Message {
    /// The message while it exists.
    pub stored: Option<Stored>,
    /// Whether it existed and is gone.
    pub destroyed: bool,
}

impl Fold for Message {
    fn evolve(&mut self, event: &crate::Event) {
        let crate::Event::Message(event) = event else { return };
        match (event, &mut self.stored) {
            (Event::Received(e), _) => {
                self.stored = Some(Stored {
                    mailbox: e.mailbox.clone(),
                    blob: e.blob.clone(),
                    size_bytes: e.size_bytes,
                    folder: e.folder,
                    keywords: BTreeSet::new(),
                });
            }
            (Event::Filed(e), _) => {
                self.stored = Some(Stored {
                    mailbox: e.mailbox.clone(),
                    blob: e.blob.clone(),
                    size_bytes: e.size_bytes,
                    folder: e.folder,
                    keywords: e.keywords.clone(),
                });
            }
            (Event::KeywordsChanged(e), Some(stored)) => {
                stored.keywords.retain(|k| !e.removed.contains(k));
                stored.keywords.extend(e.added.iter().cloned());
            }
            (Event::Moved(e), Some(stored)) => stored.folder = e.folder,
            (Event::Destroyed(_), _) => *self = Self { stored: None, destroyed: true },
            (Event::DuplicateReceived(_), _) | (Event::KeywordsChanged(_) | Event::Moved(_), None) => {}
        }
    }

    fold_of!(Message, Message);
}

/// Why a message command can be refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Rejected {
    /// There is no such mailbox any more.
    #[error("no such mailbox")]
    UnknownMailbox,
    /// The mailbox is suspended.
    #[error("the mailbox is suspended")]
    Suspended,
    /// The mailbox's sender rules refuse this sender.
    #[error("the mailbox does not accept mail from this sender")]
    SenderRefused,
    /// The mailbox has no room for it.
    #[error("the mailbox is full")]
    OverQuota,
    /// There is no such message in this mailbox.
    #[error("no such message")]
    Unknown,
    /// More keywords than a message may have.
    #[error("a message has at most {max} keywords")]
    TooManyKeywords {
        /// The bound.
        max: usize,
    },
    /// The message changed since the caller read it.
    #[error("the message has changed since it was read")]
    VersionMismatch {
        /// The current version.
        current: u64,
    },
}

/// Takes a mail into a mailbox.
#[derive(Debug, Clone)]
pub struct ReceiveMessage {
    /// What is recorded for ever.
    pub facts: Received,
    /// What identifies people.
    pub personal: Correspondence,
    /// The envelope sender; `None` for the null sender.
    pub mail_from: Option<mail::address::Address>,
}

impl Command for ReceiveMessage {
    type State = (Versioned<Mailbox>, Versioned<Message>);
    type Rejected = Rejected;

    fn streams(&self) -> Vec<StreamId> {
        vec![StreamId::Mailbox(self.facts.mailbox.clone()), StreamId::Message(self.facts.message.clone())]
    }

    fn decide(&self, (mailbox, message): &Self::State, _: &Moment) -> Result<Vec<crate::Event>, Rejected> {
        if message.stored.is_some() || message.destroyed {
            return Ok(vec![]);
        }
        match mailbox.status {
            MailboxStatus::Absent | MailboxStatus::Closed => return Err(Rejected::UnknownMailbox),
            MailboxStatus::Suspended => return Err(Rejected::Suspended),
            MailboxStatus::Active => {}
        }
        if !mailbox.admits(self.mail_from.as_ref()) {
            return Err(Rejected::SenderRefused);
        }
        Ok(vec![crate::Event::Message(Event::Received(Halves::new(self.facts.clone(), self.personal.clone())))])
    }
}

/// Takes a mail into a mailbox that has room for it.
#[derive(Debug, Clone)]
pub struct ReceiveWithinQuota {
    /// The mail.
    pub receive: ReceiveMessage,
    /// How many bytes the mailbox holds without it, as far as its door knows: what is stored is counted by a read
    /// model, which no decision reads, but whether it fits is decided here, by the quota of this moment.
    pub used_bytes: i64,
}

impl Command for ReceiveWithinQuota {
    type State = (Versioned<Mailbox>, Versioned<Message>);
    type Rejected = Rejected;

    fn streams(&self) -> Vec<StreamId> {
        self.receive.streams()
    }

    fn decide(&self, state: &Self::State, at: &Moment) -> Result<Vec<crate::Event>, Rejected> {
        let events = self.receive.decide(state, at)?;
        let after = self.used_bytes.saturating_add(self.receive.facts.size_bytes);
        if !events.is_empty() && after > state.0.quota_bytes { Err(Rejected::OverQuota) } else { Ok(events) }
    }
}

/// Records that a mail was handed over again that is here already.
#[derive(Debug, Clone)]
pub struct RecordDuplicate {
    /// The message that is here.
    pub message: MessageId,
    /// Its mailbox.
    pub mailbox: MailboxId,
}

impl Command for RecordDuplicate {
    type State = Versioned<Message>;
    type Rejected = Rejected;

    fn streams(&self) -> Vec<StreamId> {
        vec![StreamId::Message(self.message.clone())]
    }

    fn decide(&self, message: &Self::State, _: &Moment) -> Result<Vec<crate::Event>, Rejected> {
        // Whoever sends it again does not know that it was read and destroyed meanwhile.
        if message.stored.is_none() && !message.destroyed {
            return Err(Rejected::Unknown);
        }
        let facts = DuplicateReceived { message: self.message.clone(), mailbox: self.mailbox.clone() };
        Ok(vec![crate::Event::Message(Event::DuplicateReceived(facts.into()))])
    }
}

/// The most keywords one message may have.
pub const KEYWORDS_MAX: usize = 100;

/// Sets and clears keywords of a message.
#[derive(Debug, Clone)]
pub struct ChangeKeywords {
    /// The message.
    pub message: MessageId,
    /// The mailbox it must be in.
    pub mailbox: MailboxId,
    /// Keywords to set, lower case.
    pub add: BTreeSet<String>,
    /// Keywords to clear, lower case.
    pub remove: BTreeSet<String>,
    /// The version the caller has read.
    pub if_version: Option<u64>,
}

impl Command for ChangeKeywords {
    type State = Versioned<Message>;
    type Rejected = Rejected;

    fn streams(&self) -> Vec<StreamId> {
        vec![StreamId::Message(self.message.clone())]
    }

    fn decide(&self, message: &Self::State, _: &Moment) -> Result<Vec<crate::Event>, Rejected> {
        let stored = in_mailbox(message, &self.mailbox, self.if_version)?;
        let added: BTreeSet<_> = self.add.difference(&stored.keywords).cloned().collect();
        let removed: BTreeSet<_> =
            self.remove.intersection(&stored.keywords).filter(|k| !self.add.contains(*k)).cloned().collect();
        if added.is_empty() && removed.is_empty() {
            return Ok(vec![]);
        }
        if stored.keywords.len() + added.len() - removed.len() > KEYWORDS_MAX {
            return Err(Rejected::TooManyKeywords { max: KEYWORDS_MAX });
        }
        let facts = KeywordsChanged { message: self.message.clone(), mailbox: self.mailbox.clone(), added, removed };
        Ok(vec![crate::Event::Message(Event::KeywordsChanged(facts.into()))])
    }
}

/// Changes keywords of a message and moves it, in one step.
#[derive(Debug, Clone)]
pub struct ChangeMessage {
    /// What changes of its keywords, if anything.
    pub keywords: ChangeKeywords,
    /// The folder it goes to, if it goes anywhere; out of the trash is how a deleted message is restored.
    pub folder: Option<Folder>,
}

impl Command for ChangeMessage {
    type State = Versioned<Message>;
    type Rejected = Rejected;

    fn streams(&self) -> Vec<StreamId> {
        self.keywords.streams()
    }

    fn decide(&self, message: &Self::State, at: &Moment) -> Result<Vec<crate::Event>, Rejected> {
        let mut events = self.keywords.decide(message, at)?;
        let current = message.stored.as_ref().map(|stored| stored.folder);
        if let Some(folder) = self.folder.filter(|folder| current.is_some_and(|current| current != *folder)) {
            let (message, mailbox) = (self.keywords.message.clone(), self.keywords.mailbox.clone());
            events.push(crate::Event::Message(Event::Moved(Moved { message, mailbox, folder }.into())));
        }
        Ok(events)
    }
}

/// Deletes a message: to the trash, or for good.
#[derive(Debug, Clone)]
pub struct DeleteMessage {
    /// The message.
    pub message: MessageId,
    /// The mailbox it must be in.
    pub mailbox: MailboxId,
    /// For good; otherwise it goes to the trash.
    pub mode: Deletion,
    /// The version the caller has read.
    pub if_version: Option<u64>,
}

/// How a message is deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deletion {
    /// Moved to the trash folder.
    ToTrash,
    /// Destroyed.
    Permanent,
}

impl Command for DeleteMessage {
    type State = Versioned<Message>;
    type Rejected = Rejected;

    fn streams(&self) -> Vec<StreamId> {
        vec![StreamId::Message(self.message.clone())]
    }

    fn decide(&self, message: &Self::State, _: &Moment) -> Result<Vec<crate::Event>, Rejected> {
        let stored = in_mailbox(message, &self.mailbox, self.if_version)?;
        let (message, mailbox) = (self.message.clone(), self.mailbox.clone());
        let event = match self.mode {
            Deletion::ToTrash if stored.folder == Folder::Trash => return Ok(vec![]),
            Deletion::ToTrash => Event::Moved(Moved { message, mailbox, folder: Folder::Trash }.into()),
            Deletion::Permanent => Event::Destroyed(
                Destroyed { message, mailbox, blob: stored.blob.clone(), size_bytes: stored.size_bytes }.into(),
            ),
        };
        Ok(vec![crate::Event::Message(event)])
    }
}

/// Returns the message if it is in that mailbox at that version.
fn in_mailbox<'a>(
    message: &'a Versioned<Message>,
    mailbox: &MailboxId,
    if_version: Option<u64>,
) -> Result<&'a Stored, Rejected> {
    let stored = message.stored.as_ref().filter(|s| s.mailbox == *mailbox).ok_or(Rejected::Unknown)?;
    match if_version {
        Some(version) if version != message.version => Err(Rejected::VersionMismatch { current: message.version }),
        _ => Ok(stored),
    }
}

#[cfg(test)]
mod tests;
