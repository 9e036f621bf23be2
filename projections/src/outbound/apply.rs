//! The fold of outgoing mail into the tables of [`super`], of [`crate::email_logs`] and of [`crate::email_metrics`].
//!
//! What a batch touches is loaded first, folded in memory and written back: one statement per table and batch. Of mail
//! that is there already only what can change is read and written.

use std::collections::{BTreeMap, BTreeSet};

use domain::bounce::Kind as BounceKind;
use domain::id::{DomainId, OutboundId, Position, ProviderId, TeamId};
use domain::outbound::{Accepted, Event as OutboundEvent, Letter, Status};
use domain::{Event, Halves};
use eventlog::Recorded;

use super::Facts;
use super::event::Said;
use super::mail::{LogStatus, State};
use crate::db::Tx;
use crate::email_metrics::{Counts, hour_of};
use crate::table::Kind::{Int, Text};
use crate::table::{Existing, Kind, Rows, Table, cells};
use crate::{Error, Projection, folded};

const OUTBOUND: Table = Table {
    name: "outbound",
    key: &[("outbound_id", Text)],
    rest: &[
        ("epoch", Int),
        ("origin", Text),
        ("mailbox_id", Text),
        ("key_id", Text),
        ("domain_id", Text),
        ("facts", Text),
        ("letter", Text),
        ("copy_id", Text),
        ("thread_id", Text),
        ("search", Text),
        ("accepted_at", Int),
        ("created_position", Int),
        ("changed_position", Int),
        ("version", Int),
        ("log_status", Text),
        ("undo_status", Text),
        ("provider_id", Text),
        ("send_at", Int),
        ("due_at", Int),
        ("sent_at", Int),
        ("progress", Text),
    ],
};

/// What of a mail changes.
const CHANGING: [(&str, Kind); 9] = [
    ("changed_position", Int),
    ("version", Int),
    ("log_status", Text),
    ("undo_status", Text),
    ("provider_id", Text),
    ("send_at", Int),
    ("due_at", Int),
    ("sent_at", Int),
    ("progress", Text),
];

const EVENTS: Table = Table {
    name: "outbound_events",
    key: &[("outbound_id", Text), ("position", Int)],
    rest: &[("epoch", Int), ("at", Int), ("name", Text), ("actor", Text), ("said", Text)],
};

const METRICS: Table = Table {
    name: "email_metrics",
    key: &[("hour", Int), ("provider_id", Text), ("domain_id", Text)],
    rest: &[
        ("total", Int),
        ("pending", Int),
        ("sent", Int),
        ("failed", Int),
        ("rejected", Int),
        ("recipients", Int),
        ("taken", Int),
        ("delivered", Int),
        ("hard_bounces", Int),
        ("soft_bounces", Int),
        ("complaints", Int),
        ("opens", Int),
        ("unsubscribes", Int),
    ],
};

/// See [`super`].
#[derive(Debug)]
pub struct OutboundMail;

#[async_trait::async_trait]
impl Projection for OutboundMail {
    fn name(&self) -> &'static str {
        super::NAME
    }

    fn version(&self) -> i64 {
        1
    }

    fn schema(&self) -> &'static str {
        include_str!("../outbound.sql")
    }

    fn tables(&self) -> &'static [&'static Table] {
        &[&OUTBOUND, &EVENTS, &METRICS]
    }

    async fn apply(&self, tx: &mut Tx<'_>, team: &TeamId, events: &[Recorded]) -> Result<(), Error> {
        let mut batch = Batch::load(tx, team, events).await?;
        for record in events {
            if let Event::Outbound(event) = &record.event {
                batch.fold(record, event)?;
            }
        }
        batch.write(tx, team).await
    }
}

/// Hour, account and domain under which a mail is counted; empty where there is none.
type Cell = (i64, String, String);

/// A mail that the batch touches.
struct Mail<'e> {
    state: State,
    accepted_at: i64,
    domain: Option<DomainId>,
    changed_position: Position,
    version: u64,
    /// The event that brought it, if that is in this batch.
    arrival: Option<(&'e Recorded, &'e Halves<Accepted, Letter>)>,
    /// Where it was counted before this batch, and as what.
    counted: Option<(Cell, Counts)>,
}

impl Mail<'_> {
    fn count(&self) -> (Cell, Counts) {
        let provider = self.state.provider.as_ref().map_or("", ProviderId::as_str).to_owned();
        let domain = self.domain.as_ref().map_or("", DomainId::as_str).to_owned();
        ((hour_of(self.accepted_at), provider, domain), counts(&self.state))
    }
}

/// Returns what one mail adds to the counters.
fn counts(state: &State) -> Counts {
    let mut counts = Counts { total: 1, ..Counts::default() };
    match state.log_status() {
        LogStatus::Pending => counts.pending = 1,
        LogStatus::Sent => counts.sent = 1,
        LogStatus::Failed => counts.failed = 1,
        LogStatus::Rejected => counts.rejected = 1,
    }
    for r in &state.progress.recipients {
        counts.recipients += 1;
        counts.taken += i64::from(r.taken);
        counts.delivered += i64::from(r.status == Status::Delivered);
        counts.hard_bounces += i64::from(r.bounced == Some(BounceKind::Hard));
        counts.soft_bounces += i64::from(r.bounced.is_some_and(|kind| kind != BounceKind::Hard));
        counts.complaints += i64::from(r.complained.is_some());
        counts.opens += i64::from(r.opened_at.is_some());
        counts.unsubscribes += i64::from(r.unsubscribed);
    }
    counts
}

struct Batch<'e> {
    mails: BTreeMap<&'e OutboundId, Mail<'e>>,
    events: Rows,
}

impl<'e> Batch<'e> {
    async fn load(tx: &mut Tx<'_>, team: &TeamId, events: &'e [Recorded]) -> Result<Self, Error> {
        let mut arriving: BTreeSet<&OutboundId> = BTreeSet::new();
        let mut stored: BTreeSet<&'e OutboundId> = BTreeSet::new();
        for record in events {
            let Event::Outbound(event) = &record.event else { continue };
            let id = &event.mail().outbound;
            if let OutboundEvent::Accepted(_) = event {
                arriving.insert(id);
            } else if !arriving.contains(id) {
                stored.insert(id);
            }
        }
        let mut keys = Rows::new();
        stored.iter().for_each(|id| keys.push(cells![id.as_str()]));
        let columns = "outbound_id, domain_id, accepted_at, changed_position, version, provider_id, send_at, sent_at,
                       progress";
        let mut mails = BTreeMap::new();
        for cells in OUTBOUND.load_columns(tx, team, keys, columns).await? {
            let id: OutboundId = cells.parsed("outbound_id")?;
            let Some(id) = stored.get(&id) else { continue };
            let state = State {
                progress: cells.json("progress")?,
                provider: cells.parsed_opt("provider_id")?,
                send_at: cells.get("send_at")?,
                sent_at: cells.get("sent_at")?,
            };
            let mut mail = Mail {
                state,
                accepted_at: cells.get("accepted_at")?,
                domain: cells.parsed_opt("domain_id")?,
                changed_position: cells.unsigned("changed_position")?,
                version: cells.unsigned("version")?,
                arrival: None,
                counted: None,
            };
            mail.counted = Some(mail.count());
            mails.insert(*id, mail);
        }
        Ok(Self { mails, events: Rows::new() })
    }

    fn fold(&mut self, record: &'e Recorded, event: &'e OutboundEvent) -> Result<(), Error> {
        let id = &event.mail().outbound;
        self.events.push(cells![
            id.as_str(),
            record.position,
            i64::from(record.epoch),
            record.at,
            event.name(),
            &record.actor,
            &serde_json::to_string(&Said::of(event))?,
        ]);
        if let OutboundEvent::Accepted(e) = event {
            let mail = Mail {
                state: State::accepted(e),
                accepted_at: e.accepted_at,
                domain: e.domain.clone(),
                changed_position: record.position,
                version: record.stream_version,
                arrival: Some((record, e)),
                counted: None,
            };
            self.mails.insert(id, mail);
        } else if let Some(mail) = self.mails.get_mut(id) {
            mail.state.fold(event, record.at);
            (mail.changed_position, mail.version) = (record.position, record.stream_version);
        }
        Ok(())
    }

    async fn write(self, tx: &mut Tx<'_>, team: &TeamId) -> Result<(), Error> {
        if self.events.is_empty() {
            return Ok(());
        }
        let (mut new, mut changed) = (Rows::new(), Rows::new());
        let mut cells: BTreeMap<Cell, Counts> = BTreeMap::new();
        for (id, mail) in &self.mails {
            let progress = serde_json::to_string(&mail.state.progress)?;
            match mail.arrival {
                Some((record, e)) => push_arrival(&mut new, mail, record, e, &progress)?,
                None => changed.push(cells![
                    id.as_str(),
                    mail.changed_position,
                    mail.version,
                    mail.state.log_status().as_str(),
                    mail.state.undo_status().as_str(),
                    mail.state.provider.as_ref().map(ProviderId::as_str),
                    mail.state.send_at,
                    mail.state.due_at(),
                    mail.state.sent_at,
                    &progress,
                ]),
            }
            let (cell, now) = mail.count();
            if mail.counted.as_ref() == Some(&(cell.clone(), now)) {
                continue;
            }
            if let Some((cell, before)) = &mail.counted {
                cells.entry(cell.clone()).or_default().add(before, -1);
            }
            cells.entry(cell).or_default().add(&now, 1);
        }
        OUTBOUND.insert(tx, team, new, Existing::Refuse).await?;
        OUTBOUND.update(tx, team, &CHANGING, changed).await?;
        EVENTS.insert(tx, team, self.events, Existing::Refuse).await?;
        write_metrics(tx, team, cells).await
    }
}

/// Counters that came to nothing are dropped: whether they ever counted something depends on where batches end.
async fn write_metrics(tx: &mut Tx<'_>, team: &TeamId, mut cells: BTreeMap<Cell, Counts>) -> Result<(), Error> {
    let mut keys = Rows::new();
    cells.keys().for_each(|(hour, provider, domain)| keys.push(cells![*hour, provider, domain]));
    for stored in METRICS.load(tx, team, keys).await? {
        let cell = (stored.get("hour")?, stored.text("provider_id")?, stored.text("domain_id")?);
        if let Some(counts) = cells.get_mut(&cell) {
            counts.add(&Counts::read(&stored)?, 1);
        }
    }
    let (mut rows, mut gone) = (Rows::new(), Rows::new());
    for ((hour, provider, domain), counts) in &cells {
        if counts.total == 0 {
            gone.push(cells![*hour, provider, domain]);
            continue;
        }
        let [a, b, c, d, e, f, g, h, i, j, k, l, m] = counts.each();
        rows.push(cells![*hour, provider, domain, a, b, c, d, e, f, g, h, i, j, k, l, m]);
    }
    METRICS.delete(tx, team, gone).await?;
    METRICS.insert(tx, team, rows, Existing::Replace).await
}

fn push_arrival(
    rows: &mut Rows,
    mail: &Mail<'_>,
    record: &Recorded,
    e: &Halves<Accepted, Letter>,
    progress: &str,
) -> Result<(), Error> {
    let facts = Facts {
        recipients: e.recipients.clone(),
        groups: e.groups.clone(),
        blob: e.blob.clone(),
        size_bytes: e.size_bytes,
        sha256: e.sha256.clone(),
        purpose: e.purpose,
        topic: e.topic.clone(),
        scheduled: e.send_at.is_some(),
        lifetime_micros: e.lifetime_micros,
    };
    let origin = serde_json::to_value(e.origin)?;
    let letter = e.personal.known();
    let letter_json = letter.map(serde_json::to_string).transpose()?;
    rows.push(cells![
        e.mail.outbound.as_str(),
        i64::from(record.epoch),
        origin.as_str(),
        e.mail.mailbox.as_ref().map(|id| id.as_str()),
        e.mail.key.as_ref().map(|id| id.as_str()),
        e.domain.as_ref().map(|id| id.as_str()),
        &serde_json::to_string(&facts)?,
        letter_json.as_ref(),
        e.copy.as_ref().map(|id| id.as_str()),
        e.thread.as_ref().map(|id| id.as_str()),
        &letter.map(search).unwrap_or_default(),
        e.accepted_at,
        record.position,
        mail.changed_position,
        mail.version,
        mail.state.log_status().as_str(),
        mail.state.undo_status().as_str(),
        mail.state.provider.as_ref().map(ProviderId::as_str),
        mail.state.send_at,
        mail.state.due_at(),
        mail.state.sent_at,
        progress,
    ]);
    Ok(())
}

/// What a search looks through, in lower case, one thing a line.
fn search(letter: &Letter) -> String {
    let ids = [letter.subject.as_deref().unwrap_or_default(), letter.rfc5322_message_id.as_str()];
    let senders = [Some(letter.from.email.as_str()), letter.return_path.as_deref()];
    let recipients = letter.recipients.iter().map(|person| person.email.as_str());
    let parts: Vec<&str> = senders.into_iter().flatten().chain(recipients).chain(ids).collect();
    folded(&parts.join("\n"))
}
