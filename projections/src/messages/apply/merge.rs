//! Threads that turn out to be one.
//!
//! Messages that have a Message-ID in common, as their own or among those they refer to, are one conversation, in
//! whatever order they come: a reply may be here before what it answers, and only a third message may show that two
//! threads belong together. The thread that began first keeps its id, the others become aliases of it.
//!
//! It follows from the arrivals alone and needs no event of its own: whoever computes it anew gets the same.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use domain::id::{MailboxId, Position, TeamId, ThreadId};

use super::super::changes::Kind;
use super::super::references::{REFERENCES_MAX, reference};
use super::batch::{Arrival, Batch};
use super::{ALIASES, REFERENCES};
use crate::db::Tx;
use crate::table::{Existing, Rows, cells};
use crate::{Error, exec, signed};

/// Returns the digests of an arrival's own Message-ID and of those it refers to; none after erasure.
pub(super) fn references_of(e: &Arrival) -> impl Iterator<Item = (ThreadId, bool)> {
    let known = e.personal.known();
    let own = known.map(|p| (reference(&e.mailbox, &p.rfc5322_message_id), true));
    let others = known.into_iter().flat_map(|p| p.references.iter().take(REFERENCES_MAX));
    own.into_iter().chain(others.map(|id| (reference(&e.mailbox, id), false)))
}

/// One thread that was joined to another.
struct Merge {
    mailbox: MailboxId,
    from: ThreadId,
    into: ThreadId,
    position: Position,
}

/// Which thread each Message-ID and each old thread id leads to, as far as a batch has to know.
#[derive(Default)]
pub(super) struct Joined {
    /// Threads by the digests of Message-IDs; a thread here may be an alias by now.
    known: BTreeMap<ThreadId, ThreadId>,
    /// Always one step: an alias never leads to another.
    aliases: BTreeMap<(MailboxId, ThreadId), ThreadId>,
    changed: BTreeSet<(MailboxId, ThreadId)>,
    merges: Vec<Merge>,
}

impl Joined {
    /// Loads what arrivals refer to; returns also the threads that may be concerned.
    pub(super) async fn load(
        tx: &mut Tx<'_>,
        team: &TeamId,
        arrivals: &[Cow<'_, Arrival>],
    ) -> Result<(Self, BTreeSet<(MailboxId, ThreadId)>), Error> {
        let mut joined = Self::default();
        if arrivals.is_empty() {
            return Ok((joined, BTreeSet::new()));
        }
        let mut mailboxes: BTreeMap<ThreadId, &MailboxId> = BTreeMap::new();
        let mut threads: BTreeSet<(MailboxId, ThreadId)> = BTreeSet::new();
        for e in arrivals {
            threads.insert((e.mailbox.clone(), e.thread.clone()));
            mailboxes.extend(references_of(e).map(|(reference, _)| (reference, &e.mailbox)));
        }
        let mut keys = Rows::new();
        mailboxes.keys().for_each(|reference| keys.push(cells![reference.as_str()]));
        for found in REFERENCES.load_columns(tx, team, keys, "reference, thread_id").await? {
            let (reference, thread): (ThreadId, ThreadId) = (found.parsed("reference")?, found.parsed("thread_id")?);
            if let Some(mailbox) = mailboxes.get(&reference) {
                threads.insert(((*mailbox).clone(), thread.clone()));
            }
            joined.known.insert(reference, thread);
        }
        let mut keys = Rows::new();
        threads.iter().for_each(|(mailbox, thread)| keys.push(cells![mailbox.as_str(), thread.as_str()]));
        for found in ALIASES.load(tx, team, keys).await? {
            let mailbox: MailboxId = found.parsed("mailbox_id")?;
            let thread: ThreadId = found.parsed("thread_id")?;
            threads.insert((mailbox.clone(), thread.clone()));
            joined.aliases.insert((mailbox, found.parsed("alias")?), thread);
        }
        Ok((joined, threads))
    }

    /// Notes that a Message-ID leads to a thread, unless it leads somewhere already.
    pub(super) fn knows(&mut self, reference: &ThreadId, thread: &ThreadId) {
        self.known.entry(reference.clone()).or_insert_with(|| thread.clone());
    }

    fn resolve(&self, mailbox: &MailboxId, thread: &ThreadId) -> ThreadId {
        self.aliases.get(&(mailbox.clone(), thread.clone())).unwrap_or(thread).clone()
    }

    fn alias(&mut self, mailbox: &MailboxId, from: &ThreadId, into: &ThreadId, position: Position) {
        for ((_, alias), target) in self.aliases.iter_mut().filter(|((of, _), _)| of == mailbox) {
            if *target == *from {
                *target = into.clone();
                self.changed.insert((mailbox.clone(), alias.clone()));
            }
        }
        self.aliases.insert((mailbox.clone(), from.clone()), into.clone());
        self.changed.insert((mailbox.clone(), from.clone()));
        let (mailbox, from, into) = (mailbox.clone(), from.clone(), into.clone());
        self.merges.push(Merge { mailbox, from, into, position });
    }

    /// Moves the messages and aliases that are there already, then writes the new aliases. What is folded in memory has
    /// moved with them.
    pub(super) async fn write(&self, tx: &mut Tx<'_>, team: &TeamId) -> Result<(), Error> {
        for merge in &self.merges {
            exec!(
                tx,
                "UPDATE messages SET thread_id = $1, changed_position = $2
                 WHERE team_id = $3 AND mailbox_id = $4 AND thread_id = $5",
                merge.into.as_str(),
                signed(merge.position),
                team.as_str(),
                merge.mailbox.as_str(),
                merge.from.as_str()
            )?;
            exec!(
                tx,
                "UPDATE thread_aliases SET thread_id = $1 WHERE team_id = $2 AND mailbox_id = $3 AND thread_id = $4",
                merge.into.as_str(),
                team.as_str(),
                merge.mailbox.as_str(),
                merge.from.as_str()
            )?;
        }
        let mut rows = Rows::new();
        for (mailbox, alias) in &self.changed {
            let target = self.resolve(mailbox, alias);
            rows.push(cells![mailbox.as_str(), alias.as_str(), target.as_str()]);
        }
        ALIASES.insert(tx, team, rows, Existing::Replace).await
    }
}

impl Batch<'_> {
    /// Returns the thread of an arrival with these references; joins to it every other thread that shares one with it.
    pub(super) fn join(&mut self, position: Position, e: &Arrival, references: &[(ThreadId, bool)]) -> ThreadId {
        let mailbox = &e.mailbox;
        let named = self.joined.resolve(mailbox, &e.thread);
        let mut candidates = BTreeSet::from([named.clone()]);
        for (reference, _) in references {
            if let Some(thread) = self.joined.known.get(reference) {
                candidates.insert(self.joined.resolve(mailbox, thread));
            }
        }
        let began =
            |thread: &ThreadId| self.threads.get(&(mailbox.clone(), thread.clone())).map(|t| t.created_position);
        let oldest = candidates.iter().filter_map(|thread| Some((began(thread)?, thread))).min();
        let root = oldest.map_or(named, |(_, thread)| thread.clone());
        for from in candidates.iter().filter(|thread| **thread != root) {
            self.merge(mailbox, from, &root, position);
        }
        root
    }

    fn merge(&mut self, mailbox: &MailboxId, from: &ThreadId, into: &ThreadId, position: Position) {
        self.joined.alias(mailbox, from, into, position);
        let key = (mailbox.clone(), from.clone());
        let Some(other) = self.threads.remove(&key) else { return };
        if let Some(thread) = self.threads.get_mut(&(mailbox.clone(), into.clone())) {
            thread.absorb(&other);
            thread.changed_position = position;
        }
        for message in self.messages.values_mut().filter(|m| m.mailbox == *mailbox && m.thread == *from) {
            (message.thread, message.changed_position) = (into.clone(), position);
        }
        if !self.begun.remove(&key) {
            self.ended.insert(key);
        }
        let tombstone = (mailbox.clone(), Kind::Thread, from.to_string());
        self.tombstones.insert(tombstone, (other.created_position, position));
    }
}
