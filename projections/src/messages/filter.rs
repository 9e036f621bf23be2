//! Which messages are listed, and in which order.

use domain::id::ThreadId;
use domain::message::Folder;
use serde_json::Value;

use super::Row;
use crate::db::Select;
use crate::{Error, Page, folded};

/// How many words of a search are looked for; the rest is ignored.
const WORDS_MAX: usize = 10;

/// Which messages are wanted; conditions that are not set do not count. Texts are found in any case.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Filter {
    /// In this folder.
    pub folder: Option<Folder>,
    /// In this thread.
    pub thread: Option<ThreadId>,
    /// Each word is somewhere in subject, sender, recipients or preview.
    pub q: Option<String>,
    /// Name or address of the sender contains this.
    pub from: Option<String>,
    /// Name or address of a `To` recipient contains this.
    pub to: Option<String>,
    /// Name or address of a `Cc` recipient contains this.
    pub cc: Option<String>,
    /// Name or address of a `Bcc` recipient contains this: received mail never says, so there is none.
    pub bcc: Option<String>,
    /// The subject contains this.
    pub subject: Option<String>,
    /// The Message-ID is this, without angle brackets.
    pub rfc5322_message_id: Option<String>,
    /// It has this keyword.
    pub keyword: Option<String>,
    /// It does not have this keyword.
    pub not_keyword: Option<String>,
    /// Received at or after this time, microseconds since the Unix epoch.
    pub after: Option<i64>,
    /// Received before this time.
    pub before: Option<i64>,
    /// It has at least this many bytes.
    pub min_size_bytes: Option<i64>,
    /// It has fewer bytes than this.
    pub max_size_bytes: Option<i64>,
    /// With, or without attachments.
    pub has_attachment: Option<bool>,
    /// Unread, or read.
    pub is_unread: Option<bool>,
}

impl Filter {
    /// Adds the conditions to a query over `messages`.
    pub(crate) fn narrow(&self, select: &mut Select) {
        if let Some(folder) = self.folder {
            select.push(" AND folder = ").text(folder.as_str());
        }
        if let Some(thread) = &self.thread {
            select.push(" AND thread_id = ").text(thread.as_str());
        }
        if let Some(q) = &self.q {
            words(select, q);
        }
        let texts = [
            ("from_folded", &self.from),
            ("to_folded", &self.to),
            ("cc_folded", &self.cc),
            ("subject_folded", &self.subject),
        ];
        for (column, text) in texts {
            if let Some(text) = text {
                select.push(" AND ").contains(column, &folded(text));
            }
        }
        if self.bcc.is_some() {
            select.push(" AND 1 = 0");
        }
        if let Some(id) = &self.rfc5322_message_id {
            select.push(" AND rfc5322_message_id = ").text(id.replace('\0', ""));
        }
        if let Some(keyword) = &self.keyword {
            select.push(" AND ").contains("keywords", &quoted(keyword));
        }
        if let Some(keyword) = &self.not_keyword {
            select.push(" AND NOT (").contains("keywords", &quoted(keyword)).push(")");
        }
        let numbers = [
            (" AND received_at >= ", self.after),
            (" AND received_at < ", self.before),
            (" AND size_bytes >= ", self.min_size_bytes),
            (" AND size_bytes < ", self.max_size_bytes),
        ];
        for (condition, number) in numbers {
            if let Some(number) = number {
                select.push(condition).int(number);
            }
        }
        match self.has_attachment {
            Some(true) => {
                select.push(" AND attachments > 0");
            }
            Some(false) => {
                select.push(" AND attachments = 0");
            }
            None => {}
        }
        match self.is_unread {
            Some(true) => {
                select.push(" AND is_unread");
            }
            Some(false) => {
                select.push(" AND NOT is_unread");
            }
            None => {}
        }
    }
}

/// Adds that each word is somewhere in a message of the table `messages`.
pub(crate) fn words(select: &mut Select, q: &str) {
    for word in folded(q).split_whitespace().take(WORDS_MAX) {
        select.push(" AND (").contains("subject_folded", word);
        for column in ["from_folded", "to_folded", "cc_folded", "preview_folded"] {
            select.push(" OR ").contains(column, word);
        }
        select.push(")");
    }
}

/// A keyword as it stands in the JSON of all keywords of a message.
fn quoted(keyword: &str) -> String {
    Value::String(keyword.to_lowercase()).to_string()
}

/// What a list is sorted by. Ties are broken by the id, in the same direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SortBy {
    /// When it was accepted.
    #[default]
    ReceivedAt,
    /// When its author says it was sent; when it was accepted, where that is not said.
    SentAt,
    /// The subject, in any case.
    Subject,
    /// The sender's name, then address, in any case.
    From,
    /// The recipients' names and addresses, in any case.
    To,
    /// How many bytes.
    SizeBytes,
}

/// The order of a list. The default is newest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Sort {
    /// What by.
    pub by: SortBy,
    /// From the smallest to the largest, or from the oldest to the newest.
    pub ascending: bool,
}

impl Sort {
    fn column(self) -> &'static str {
        match self.by {
            SortBy::ReceivedAt => "received_at",
            SortBy::SentAt => "COALESCE(sent_at, received_at)",
            SortBy::Subject => "subject_folded",
            SortBy::From => "from_folded",
            SortBy::To => "to_folded",
            SortBy::SizeBytes => "size_bytes",
        }
    }

    /// The name of the list in its cursors: a cursor of another order is refused.
    pub(super) fn list(self) -> &'static str {
        match (self.by, self.ascending) {
            (SortBy::ReceivedAt, false) => "messages-received",
            (SortBy::ReceivedAt, true) => "messages+received",
            (SortBy::SentAt, false) => "messages-sent",
            (SortBy::SentAt, true) => "messages+sent",
            (SortBy::Subject, false) => "messages-subject",
            (SortBy::Subject, true) => "messages+subject",
            (SortBy::From, false) => "messages-from",
            (SortBy::From, true) => "messages+from",
            (SortBy::To, false) => "messages-to",
            (SortBy::To, true) => "messages+to",
            (SortBy::SizeBytes, false) => "messages-size",
            (SortBy::SizeBytes, true) => "messages+size",
        }
    }

    pub(super) fn key(self, row: &Row) -> (Value, String) {
        let [subject, from, to] = &row.sort_texts;
        let value = match self.by {
            SortBy::ReceivedAt => row.received_at.into(),
            SortBy::SentAt => row.sent_at.unwrap_or(row.received_at).into(),
            SortBy::Subject => subject.as_str().into(),
            SortBy::From => from.as_str().into(),
            SortBy::To => to.as_str().into(),
            SortBy::SizeBytes => row.size_bytes.into(),
        };
        (value, row.id.to_string())
    }

    pub(super) fn behind(self, select: &mut Select, page: &Page) -> Result<(), Error> {
        let Some((value, id)) = page.key::<(Value, String)>(self.list())? else { return Ok(()) };
        select.push(" AND (").push(self.column()).push(", message_id) ");
        select.push(if self.ascending { "> (" } else { "< (" });
        match self.by {
            SortBy::ReceivedAt | SortBy::SentAt | SortBy::SizeBytes => {
                select.int(value.as_i64().ok_or(Error::BadCursor)?);
            }
            SortBy::Subject | SortBy::From | SortBy::To => {
                select.text(value.as_str().ok_or(Error::BadCursor)?.replace('\0', ""));
            }
        }
        select.push(", ").text(id.replace('\0', "")).push(")");
        Ok(())
    }

    pub(super) fn order(self, select: &mut Select) {
        let direction = if self.ascending { " ASC" } else { " DESC" };
        select.push(" ORDER BY ").push(self.column()).push(direction).push(", message_id").push(direction);
    }
}
