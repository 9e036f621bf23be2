//! Which thread a new message belongs to, as far as the messages before it tell.

use std::collections::HashMap;

use domain::id::{MailboxId, TeamId, ThreadId};
use domain::message::Person;
use mail::thread::{is_generic_subject, normalize_subject};

use crate::db::Select;
use crate::{Error, Views, folded};

/// How long a conversation is recognised by its subject alone: seven days, microseconds.
pub const SUBJECT_MICROS: i64 = 7 * 24 * 60 * 60 * 1_000_000;

/// How many Message-IDs of one message are kept and looked up; the likeliest come first.
pub(super) const REFERENCES_MAX: usize = 50;

/// How many characters of a subject are compared.
const SUBJECT_CHARS_MAX: usize = 200;

/// How many threads of one subject are looked at; the latest come first.
const CANDIDATES_MAX: i64 = 20;

/// Returns how a Message-ID is kept: a digest of it and the mailbox, so that no header is an index key.
pub(super) fn reference(mailbox: &MailboxId, rfc5322_message_id: &str) -> ThreadId {
    ThreadId::rooted_at(mailbox, rfc5322_message_id)
}

/// Returns the subject by which a conversation is recognised; `None` where it says too little.
pub(super) fn subject_key(subject: &str) -> Option<String> {
    let base = normalize_subject(subject).base;
    (!base.is_empty() && !is_generic_subject(&base)).then(|| base.chars().take(SUBJECT_CHARS_MAX).collect())
}

/// Returns the thread of the first Message-ID that a message in the mailbox has; else of the first that another message
/// there refers to. `message_ids` are without angle brackets: `In-Reply-To` first, then `References` from last to first.
///
/// # Errors
/// The database does not answer.
pub async fn thread_of_references(
    views: &Views,
    team: &TeamId,
    mailbox: &MailboxId,
    message_ids: &[String],
) -> Result<Option<ThreadId>, Error> {
    let references: Vec<ThreadId> = message_ids.iter().take(REFERENCES_MAX).map(|id| reference(mailbox, id)).collect();
    if references.is_empty() {
        return Ok(None);
    }
    let mut reader = views.read().await?;
    let mut select = Select::new(
        "SELECT r.reference AS reference, COALESCE(a.thread_id, r.thread_id) AS thread_id, r.is_own AS is_own
         FROM message_references r LEFT JOIN thread_aliases a
           ON a.team_id = r.team_id AND a.alias = r.thread_id AND a.mailbox_id = ",
    );
    select.text(mailbox.as_str()).push(" WHERE r.team_id = ");
    select.text(team.as_str()).push(" AND r.reference IN (");
    select.push(reader.pick("SELECT value FROM json_each(", "SELECT json_array_elements_text("));
    select.text(serde_json::to_string(&references)?).push(reader.pick("))", "::json))"));
    let mut known: HashMap<ThreadId, (ThreadId, bool)> = HashMap::new();
    for cells in select.fetch(&mut reader).await? {
        known.insert(cells.parsed("reference")?, (cells.parsed("thread_id")?, cells.get("is_own")?));
    }
    let found = |own: bool| references.iter().find_map(|r| known.get(r).filter(|(_, is_own)| *is_own == own));
    Ok(found(true).or_else(|| found(false)).map(|(thread, _)| thread.clone()))
}

/// Returns the thread that a reply without usable references continues: the same normalised subject behind a reply or
/// forward prefix, a participant in common and not more than seven days ago; the latest such thread.
///
/// `participants` are the addresses of the new message but the mailbox's own, which is in every conversation.
///
/// # Errors
/// The database does not answer.
pub async fn thread_by_subject(
    views: &Views,
    team: &TeamId,
    mailbox: &MailboxId,
    subject: &str,
    participants: &[&str],
    now_micros: i64,
) -> Result<Option<ThreadId>, Error> {
    let Some(key) = subject_key(subject).filter(|_| normalize_subject(subject).had_prefix) else { return Ok(None) };
    let wanted: Vec<String> = participants.iter().map(|email| folded(email)).collect();
    let mut select = Select::new("SELECT thread_id, participants FROM threads WHERE team_id = ");
    select.text(team.as_str()).push(" AND mailbox_id = ").text(mailbox.as_str());
    select.push(" AND subject_key = ").text(key.replace('\0', "\u{fffd}"));
    select.push(" AND last_received_at >= ").int(now_micros.saturating_sub(SUBJECT_MICROS));
    select.push(" ORDER BY last_received_at DESC, thread_id DESC LIMIT ").int(CANDIDATES_MAX);
    for cells in select.fetch(&mut views.read().await?).await? {
        let there: Vec<Person> = cells.json("participants")?;
        if there.iter().any(|person| wanted.contains(&folded(&person.email))) {
            return Ok(Some(cells.parsed("thread_id")?));
        }
    }
    Ok(None)
}
