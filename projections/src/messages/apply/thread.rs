//! A thread while a batch is folded.

use std::collections::BTreeMap;

use domain::id::{MessageId, Position};
use domain::message::{Folder, Person};

use super::super::references::subject_key;
use crate::db::Cells;
use crate::{Error, folded};

/// How many participants of a thread are kept: the first ones.
const PARTICIPANTS_MAX: usize = 50;

/// A thread: a fold of the messages that are in it, in the order in which they arrived.
#[derive(Debug, Clone)]
pub(super) struct Thread {
    pub subject: Option<String>,
    pub subject_key: Option<String>,
    pub messages: u64,
    pub unread: u64,
    pub with_attachments: u64,
    pub folders: BTreeMap<Folder, u64>,
    pub participants: Vec<Person>,
    pub last: (i64, MessageId),
    pub created_position: Position,
    pub changed_position: Position,
    /// A message has gone: what the others have in common must be found out anew.
    pub is_stale: bool,
}

/// What a thread takes from one of its messages.
pub(super) struct Member<'a> {
    pub message: &'a MessageId,
    pub received_at: i64,
    pub folder: Folder,
    pub is_unread: bool,
    pub has_attachments: bool,
    pub subject: Option<&'a str>,
    pub people: Vec<&'a Person>,
}

impl Thread {
    /// Returns a thread that begins at a position, still without messages.
    pub(super) fn begun(message: &MessageId, position: Position) -> Self {
        Self {
            subject: None,
            subject_key: None,
            messages: 0,
            unread: 0,
            with_attachments: 0,
            folders: BTreeMap::new(),
            participants: vec![],
            last: (i64::MIN, message.clone()),
            created_position: position,
            changed_position: position,
            is_stale: false,
        }
    }

    /// Returns the same thread without messages, to which those that are left are added again.
    pub(super) fn emptied(&self) -> Self {
        Self { changed_position: self.changed_position, ..Self::begun(&self.last.1, self.created_position) }
    }

    pub(super) fn read(cells: &Cells) -> Result<Self, Error> {
        Ok(Self {
            subject: cells.get("subject")?,
            subject_key: cells.get("subject_key")?,
            messages: cells.unsigned("messages")?,
            unread: cells.unsigned("unread")?,
            with_attachments: cells.unsigned("with_attachments")?,
            folders: cells.json("folders")?,
            participants: cells.json("participants")?,
            last: (cells.get("last_received_at")?, cells.parsed("last_message_id")?),
            created_position: cells.unsigned("created_position")?,
            changed_position: cells.unsigned("changed_position")?,
            is_stale: false,
        })
    }

    pub(super) fn add(&mut self, member: Member<'_>) {
        if self.messages == 0 {
            self.subject = member.subject.map(str::to_owned);
            self.subject_key = member.subject.and_then(subject_key);
        }
        self.messages += 1;
        self.unread += u64::from(member.is_unread);
        self.with_attachments += u64::from(member.has_attachments);
        *self.folders.entry(member.folder).or_default() += 1;
        if (member.received_at, member.message) > (self.last.0, &self.last.1) {
            self.last = (member.received_at, member.message.clone());
        }
        for person in member.people {
            self.meet(person);
        }
    }

    fn meet(&mut self, person: &Person) {
        let email = folded(&person.email);
        if let Some(known) = self.participants.iter_mut().find(|p| folded(&p.email) == email) {
            if known.name.is_none() {
                known.name.clone_from(&person.name);
            }
        } else if self.participants.len() < PARTICIPANTS_MAX {
            self.participants.push(person.clone());
        }
    }

    /// Takes over the messages of another thread that is one with this. What depends on their order is found out anew.
    pub(super) fn absorb(&mut self, other: &Self) {
        self.messages += other.messages;
        self.unread += other.unread;
        self.with_attachments += other.with_attachments;
        for (folder, count) in &other.folders {
            *self.folders.entry(*folder).or_default() += count;
        }
        if other.last > self.last {
            self.last.clone_from(&other.last);
        }
        self.is_stale = true;
    }

    /// Takes a message out; says whether none is left.
    pub(super) fn remove(&mut self, folder: Folder, is_unread: bool, has_attachments: bool) -> bool {
        self.messages = self.messages.saturating_sub(1);
        self.unread = self.unread.saturating_sub(u64::from(is_unread));
        self.with_attachments = self.with_attachments.saturating_sub(u64::from(has_attachments));
        self.leave(folder);
        self.is_stale = true;
        self.messages == 0
    }

    pub(super) fn moved(&mut self, from: Folder, to: Folder) {
        self.leave(from);
        *self.folders.entry(to).or_default() += 1;
    }

    fn leave(&mut self, folder: Folder) {
        if let Some(count) = self.folders.get_mut(&folder) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                self.folders.remove(&folder);
            }
        }
    }
}
