//! Accepted inbound mail as it is charged: one row per mailbox delivery, kept when the message is gone.

use std::collections::BTreeMap;

use domain::Event;
use domain::id::{EventId, InboxLogId, MailboxId, MessageId, Position, TeamId};
use domain::mailbox::Event as MailboxEvent;
use domain::message::{Correspondence, Event as MessageEvent};
use domain::published::WebhookEventType;
use eventlog::Recorded;

use crate::db::{Cells, Select, Tx, corrupt};
use crate::table::Kind::{Bool, Int, Text};
use crate::table::{Existing, Rows, Table, cells};
use crate::{Error, Page, Paged, Projection, Views, folded, signed};

/// The projection's name.
pub const NAME: &str = "inbox_logs";

const LOGS: Table = Table {
    name: "inbox_logs",
    key: &[("position", Int)],
    rest: &[
        ("at", Int),
        ("epoch", Int),
        ("mailbox_id", Text),
        ("mailbox_email", Text),
        ("message_id", Text),
        ("is_spam", Bool),
        ("size_bytes", Int),
        ("from_email", Text),
        ("to_emails", Text),
        ("subject", Text),
        ("rfc5322_message_id", Text),
        ("search", Text),
    ],
};

/// The address of each mailbox, as far as this projection has to know it.
const ADDRESSES: Table = Table { name: "inbox_log_addresses", key: &[("mailbox_id", Text)], rest: &[("email", Text)] };

const SELECT: &str = "
SELECT position, at, epoch, mailbox_id, mailbox_email, message_id, is_spam, size_bytes, from_email, to_emails,
       subject, rfc5322_message_id
FROM inbox_logs
WHERE team_id = ";

/// One accepted mail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// The row's id.
    pub id: InboxLogId,
    /// The event it was made from.
    pub event: EventId,
    /// The mailbox that took it.
    pub mailbox: MailboxId,
    /// That mailbox's address; `None` after erasure.
    pub mailbox_email: Option<String>,
    /// The message.
    pub message: MessageId,
    /// Whether it was classified as spam.
    pub is_spam: bool,
    /// How many bytes.
    pub size_bytes: i64,
    /// Header `From`, or the envelope sender where there is none.
    pub from_email: Option<String>,
    /// The envelope recipients of this copy; none after erasure.
    pub to_emails: Vec<String>,
    /// Header `Subject`.
    pub subject: Option<String>,
    /// The Message-ID, without angle brackets; `None` after erasure.
    pub rfc5322_message_id: Option<String>,
    /// When it was accepted, microseconds since the Unix epoch.
    pub received_at: i64,
}

impl Row {
    /// Returns the type under which the event is published.
    #[must_use]
    pub fn event_type(&self) -> WebhookEventType {
        if self.is_spam { WebhookEventType::ReceivedSpam } else { WebhookEventType::Received }
    }
}

/// Which mails are wanted.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Filter {
    /// Only of this mailbox.
    pub mailbox: Option<MailboxId>,
    /// Only spam, or only what is not.
    pub is_spam: Option<bool>,
    /// Only at or after this time, microseconds since the Unix epoch.
    pub from: Option<i64>,
    /// Only before this time.
    pub to: Option<i64>,
    /// Only where mailbox, sender, recipient, subject or Message-ID contains this text.
    pub search: Option<String>,
}

/// Returns one row.
///
/// # Errors
/// The database does not answer.
pub async fn get(views: &Views, team: &TeamId, id: &InboxLogId) -> Result<Option<Row>, Error> {
    let Some(event) = id.event().filter(|event| event.is_of(team)) else { return Ok(None) };
    let mut select = Select::new(SELECT);
    select.text(team.as_str()).push(" AND position = ").int(signed(event.position));
    select.push(" AND epoch = ").int(i64::from(event.epoch));
    select.fetch(&mut views.read().await?).await?.first().map(|cells| row(team, cells)).transpose()
}

/// Returns rows, newest first.
///
/// # Errors
/// [`Error::BadCursor`], or the database does not answer.
pub async fn list(views: &Views, team: &TeamId, filter: &Filter, page: &Page) -> Result<Paged<Row>, Error> {
    let mut select = Select::new(SELECT);
    select.text(team.as_str());
    if let Some(mailbox) = &filter.mailbox {
        select.push(" AND mailbox_id = ").text(mailbox.as_str());
    }
    if let Some(spam) = filter.is_spam {
        select.push(if spam { " AND is_spam" } else { " AND NOT is_spam" });
    }
    if let Some(from) = filter.from {
        select.push(" AND at >= ").int(from);
    }
    if let Some(to) = filter.to {
        select.push(" AND at < ").int(to);
    }
    if let Some(search) = &filter.search {
        select.push(" AND ").contains("search", &folded(search));
    }
    if let Some((at, position)) = page.key::<(i64, Position)>(NAME)? {
        select.push(" AND (at, position) < (").int(at).push(", ").int(signed(position)).push(")");
    }
    select.push(" ORDER BY at DESC, position DESC LIMIT ").int(page.fetch());
    let rows = select.fetch(&mut views.read().await?).await?;
    let rows = rows.iter().map(|cells| row(team, cells)).collect::<Result<_, _>>()?;
    Paged::new(rows, page, NAME, |row: &Row| (row.received_at, row.event.position))
}

fn row(team: &TeamId, cells: &Cells) -> Result<Row, Error> {
    let epoch = u16::try_from(cells.get::<i64>("epoch")?).map_err(|e| corrupt("epoch", e))?;
    let event = EventId::new(team, epoch, cells.unsigned("position")?);
    Ok(Row {
        id: InboxLogId::of_event(&event),
        event,
        mailbox: cells.parsed("mailbox_id")?,
        mailbox_email: cells.get("mailbox_email")?,
        message: cells.parsed("message_id")?,
        is_spam: cells.get("is_spam")?,
        size_bytes: cells.get("size_bytes")?,
        from_email: cells.get("from_email")?,
        to_emails: cells.json("to_emails")?,
        subject: cells.get("subject")?,
        rfc5322_message_id: cells.get("rfc5322_message_id")?,
        received_at: cells.get("at")?,
    })
}

/// See the module.
#[derive(Debug)]
pub struct InboxLogs;

#[async_trait::async_trait]
impl Projection for InboxLogs {
    fn name(&self) -> &'static str {
        NAME
    }

    fn version(&self) -> i64 {
        1
    }

    fn schema(&self) -> &'static str {
        include_str!("inbox_logs.sql")
    }

    fn tables(&self) -> &'static [&'static Table] {
        &[&LOGS, &ADDRESSES]
    }

    async fn apply(&self, tx: &mut Tx<'_>, team: &TeamId, events: &[Recorded]) -> Result<(), Error> {
        let mut addresses: BTreeMap<&MailboxId, Option<String>> = BTreeMap::new();
        let mut opened = Rows::new();
        for record in events {
            match &record.event {
                Event::Mailbox(MailboxEvent::Opened(e)) => {
                    let email = e.personal.known().map(|p| p.email.clone());
                    opened.push(cells![e.mailbox.as_str(), email.as_ref()]);
                    addresses.insert(&e.mailbox, email);
                }
                Event::Message(MessageEvent::Received(e)) => drop(addresses.entry(&e.mailbox).or_insert(None)),
                _ => {}
            }
        }
        let mut keys = Rows::new();
        addresses.keys().for_each(|id| keys.push(cells![id.as_str()]));
        ADDRESSES.insert(tx, team, opened, Existing::Replace).await?;
        for cells in ADDRESSES.load(tx, team, keys).await? {
            let id: MailboxId = cells.parsed("mailbox_id")?;
            if let Some(address) = addresses.get_mut(&id) {
                *address = cells.get("email")?;
            }
        }
        let mut rows = Rows::new();
        for record in events {
            let Event::Message(MessageEvent::Received(e)) = &record.event else { continue };
            let mailbox_email = addresses.get(&e.mailbox).and_then(Option::as_ref);
            let known = e.personal.known();
            let from = known.and_then(|p| p.from.as_ref().map(|from| &from.email).or(p.mail_from.as_ref()));
            let to = serde_json::to_string(known.map_or(&[][..], |p| &p.rcpt_to))?;
            rows.push(cells![
                record.position,
                record.at,
                i64::from(record.epoch),
                e.mailbox.as_str(),
                mailbox_email,
                e.message.as_str(),
                e.is_spam,
                e.size_bytes,
                from,
                &to,
                known.and_then(|p| p.subject.as_ref()),
                known.map(|p| &p.rfc5322_message_id),
                &search(mailbox_email, from, known),
            ]);
        }
        LOGS.insert(tx, team, rows, Existing::Refuse).await
    }
}

/// What a search looks through, in lower case, one thing a line.
fn search(mailbox: Option<&String>, from: Option<&String>, known: Option<&Correspondence>) -> String {
    let parts = mailbox.into_iter().chain(from).map(String::as_str).chain(known.into_iter().flat_map(|p| {
        let ids = [p.subject.as_deref().unwrap_or_default(), p.rfc5322_message_id.as_str()];
        p.rcpt_to.iter().map(String::as_str).chain(ids)
    }));
    folded(&parts.collect::<Vec<_>>().join("\n"))
}
