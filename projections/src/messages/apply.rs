//! The fold of message events into the tables of [`super`].
//!
//! What a batch touches is loaded first, folded in memory and written back: one statement per table and batch. The
//! result is a function of the events alone, wherever batches begin and end.

mod batch;
mod merge;
mod thread;

use domain::id::TeamId;
use eventlog::Recorded;

use crate::db::Tx;
use crate::table::Kind::{Bool, Int, Text};
use crate::table::Table;
use crate::{Error, Projection};

pub(super) const MESSAGES: Table = Table {
    name: "messages",
    key: &[("message_id", Text)],
    rest: &[
        ("mailbox_id", Text),
        ("thread_id", Text),
        ("folder", Text),
        ("keywords", Text),
        ("is_unread", Bool),
        ("version", Int),
        ("created_position", Int),
        ("changed_position", Int),
        ("received_at", Int),
        ("sent_at", Int),
        ("size_bytes", Int),
        ("attachments", Int),
        ("is_spam", Bool),
        ("blob_id", Text),
        ("checks", Text),
        ("correspondence", Text),
        ("subject", Text),
        ("preview", Text),
        ("rfc5322_message_id", Text),
        ("subject_folded", Text),
        ("from_folded", Text),
        ("to_folded", Text),
        ("cc_folded", Text),
        ("preview_folded", Text),
    ],
};

pub(super) const THREADS: Table = Table {
    name: "threads",
    key: &[("mailbox_id", Text), ("thread_id", Text)],
    rest: &[
        ("subject", Text),
        ("subject_key", Text),
        ("messages", Int),
        ("unread", Int),
        ("with_attachments", Int),
        ("folders", Text),
        ("participants", Text),
        ("last_message_id", Text),
        ("last_received_at", Int),
        ("created_position", Int),
        ("changed_position", Int),
    ],
};

pub(super) const FOLDERS: Table = Table {
    name: "folders",
    key: &[("mailbox_id", Text), ("folder", Text)],
    rest: &[("messages", Int), ("unread", Int), ("created_position", Int), ("changed_position", Int)],
};

pub(super) const TOMBSTONES: Table = Table {
    name: "message_tombstones",
    key: &[("mailbox_id", Text), ("kind", Text), ("id", Text)],
    rest: &[("created_position", Int), ("destroyed_position", Int)],
};

pub(super) const REFERENCES: Table =
    Table { name: "message_references", key: &[("reference", Text)], rest: &[("thread_id", Text), ("is_own", Bool)] };

pub(super) const ALIASES: Table =
    Table { name: "thread_aliases", key: &[("mailbox_id", Text), ("alias", Text)], rest: &[("thread_id", Text)] };

/// See [`super`].
#[derive(Debug)]
pub struct Messages;

#[async_trait::async_trait]
impl Projection for Messages {
    fn name(&self) -> &'static str {
        super::NAME
    }

    fn version(&self) -> i64 {
        3
    }

    fn schema(&self) -> &'static str {
        include_str!("../messages.sql")
    }

    fn tables(&self) -> &'static [&'static Table] {
        &[&MESSAGES, &THREADS, &FOLDERS, &TOMBSTONES, &REFERENCES, &ALIASES]
    }

    async fn apply(&self, tx: &mut Tx<'_>, team: &TeamId, events: &[Recorded]) -> Result<(), Error> {
        let mut batch = batch::Batch::load(tx, team, events).await?;
        for record in events {
            batch.fold(record)?;
        }
        batch.write(tx, team).await
    }
}
