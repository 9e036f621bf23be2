//! What projections add to incoming mail: the thread of an earlier message, the bytes a mailbox holds.
//!
//! Projections lag and may be away for a while. Neither stops a mail: its thread is then found from its references
//! alone, and its mailbox counts as it was last known.

use domain::id::ThreadId;
use projections::{mailboxes, messages};

use super::content::Content;
use super::recipient::Reserved;
use super::{Destination, Inner};

impl Inner {
    /// Returns the thread of a mail in a mailbox.
    pub(super) async fn thread(&self, destination: &Destination, content: &Content, now: i64) -> ThreadId {
        let found = match self.known_thread(destination, content, now).await {
            Ok(found) => found,
            Err(error) => {
                projection_unavailable(&error);
                None
            }
        };
        found.unwrap_or_else(|| {
            let mail = &content.correspondence;
            // The last of the references is the oldest: replies to a mail that never came here meet under its id, and
            // should it come later, it finds itself there.
            let root = mail.references.last().unwrap_or(&mail.rfc5322_message_id);
            ThreadId::rooted_at(&destination.mailbox, root)
        })
    }

    async fn known_thread(
        &self,
        destination: &Destination,
        content: &Content,
        now: i64,
    ) -> Result<Option<ThreadId>, projections::Error> {
        let Destination { team, mailbox } = destination;
        let mail = &content.correspondence;
        if !mail.references.is_empty() {
            return messages::thread_of_references(&self.views, team, mailbox, &mail.references).await;
        }
        // Only what looks like a reply goes by its subject.
        let Some(subject) = mail.subject.as_deref().filter(|_| content.is_reply_by_subject) else { return Ok(None) };
        let own = self.own_address(destination).await;
        let people = mail.from.iter().chain(&mail.to).chain(&mail.cc).map(|person| person.email.as_str());
        let others: Vec<_> =
            people.filter(|email| !own.as_deref().is_some_and(|own| own.eq_ignore_ascii_case(email))).collect();
        messages::thread_by_subject(&self.views, team, mailbox, subject, &others, now).await
    }

    /// Takes room for a mail in a mailbox.
    pub(super) async fn reserve(&self, destination: &Destination, bytes: i64) -> Reserved<'_> {
        self.used_bytes(destination).await;
        self.usage.reserve(&destination.mailbox, bytes)
    }

    /// Returns how many bytes a mailbox holds, from memory for a few seconds.
    pub(super) async fn used_bytes(&self, Destination { team, mailbox }: &Destination) -> i64 {
        let now = self.allot.now();
        if let Some(bytes) = self.usage.get(mailbox, now) {
            return bytes;
        }
        match mailboxes::get(&self.views, team, mailbox).await {
            Ok(row) => {
                let bytes = row.map_or(0, |row| row.bytes_used);
                self.usage.put(mailbox.clone(), bytes, now);
                bytes
            }
            Err(error) => {
                projection_unavailable(&error);
                self.usage.last_known(mailbox)
            }
        }
    }
}

fn projection_unavailable(error: &projections::Error) {
    metrics::counter!("smtp_projection_errors_total").increment(1);
    tracing::warn!(error = %error, "a projection does not answer; incoming mail goes on without it");
}
