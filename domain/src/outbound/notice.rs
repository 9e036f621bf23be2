//! Reports to the sender of a mail (RFC 3461, RFC 3464): planned in the append of what they tell, settled when they are told.
//!
//! Only a client that hands mail in by SMTP and says so (`NOTIFY`) is told by mail; all others have events.
//!
//! Invariants:
//! - Per recipient there is at most one report of each kind: failure, delay, success.
//! - Nobody is told what another server has promised to tell, or returns to the sender by itself.
//! - Nothing is ever reported of a report.

use std::collections::BTreeSet;

use mail::address::Address;
use mail::smtp::Notify;
use serde::{Deserialize, Serialize};

use super::event::{Accepted, Event};
use super::parts::{Letter, Mail, Onward, Parties, RecipientKind, RejectReason, To, UnitPrices};
use super::report::Report;
use super::{Origin, Outbound, Rejected};
use crate::balance::Booking;
use crate::bounce::{Category, Verdict};
use crate::entity::Versioned;
use crate::id::{AddressId, BlobId, OutboundId};
use crate::message::Person;
use crate::personal::{Halves, Personal};
use crate::provider::Transport;
use crate::routing::{Asks, Routing, Sender};
use crate::suppression::Purpose;
use crate::{Command, Moment, StreamId};

/// What is said where nobody knows what became of a mail.
const UNKNOWN: &str = "the connection was lost after the mail had been handed over; it may have been delivered";

/// What a report says became of a mail (RFC 3464 §2.3.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NoticeAction {
    /// It was not delivered, and is not tried any more.
    Failed,
    /// It was not delivered yet.
    Delayed,
    /// It lies in the recipient's mailbox.
    Delivered,
    /// A server has it that tells no more.
    Relayed,
}

/// What the sender was told of a recipient, or will be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Told {
    /// That it failed.
    pub failure: bool,
    /// That it is late.
    pub delay: bool,
    /// That it was delivered, or handed on.
    pub success: bool,
}

impl Told {
    pub(super) fn note(&mut self, action: NoticeAction) {
        match action {
            NoticeAction::Failed => self.failure = true,
            NoticeAction::Delayed => self.delay = true,
            NoticeAction::Delivered | NoticeAction::Relayed => self.success = true,
        }
    }
}

/// What a report says of one recipient.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct NoticeOf {
    /// Its number.
    pub recipient: u8,
    /// The enhanced status code (RFC 3463).
    pub status: (u8, u16, u16),
}

/// Facts of `outbound.notice_planned`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NoticePlanned {
    /// Which mail.
    pub mail: Mail,
    /// 1, 2, 3 … among the mail's reports.
    pub number: u32,
    /// What became of it.
    pub action: NoticeAction,
    /// For whom.
    pub recipients: Vec<NoticeOf>,
    /// When, microseconds since the Unix epoch.
    pub at: i64,
}

impl NoticePlanned {
    /// Returns the numbers of its recipients.
    #[must_use]
    pub fn numbers(&self) -> Vec<u8> {
        self.recipients.iter().map(|of| of.recipient).collect()
    }
}

/// Personal half of `outbound.notice_planned`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct NoticeWords {
    /// What was said of each recipient, in the order of the facts.
    pub recipients: Vec<Words>,
}

/// What a server said of one recipient.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Words {
    /// One line.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub diagnostic: Option<String>,
    /// The server.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub remote_mta: Option<String>,
}

/// A report that waits to be told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Notice {
    /// Its number among the mail's reports.
    pub number: u32,
    /// What became of the mail.
    pub action: NoticeAction,
    /// For whom, and what was said; nothing was said after erasure.
    pub recipients: Vec<(NoticeOf, Words)>,
    /// When it was planned, microseconds since the Unix epoch.
    pub at: i64,
}

impl Notice {
    pub(super) fn of(planned: &NoticePlanned, words: Option<&NoticeWords>) -> Self {
        let words = words.map(|w| w.recipients.as_slice()).unwrap_or_default();
        let said = words.iter().cloned().chain(std::iter::repeat(Words::default()));
        let recipients = planned.recipients.iter().copied().zip(said).collect();
        Self { number: planned.number, action: planned.action, recipients, at: planned.at }
    }
}

/// Why a report is not told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DropReason {
    /// The mail, or who sent it, was erased.
    Erased,
    /// The sender's mailbox here does not take it.
    Refused,
    /// No account of the mail's can carry mail from the null sender.
    NoWayOut,
    /// The sender's mailbox could not take it for as long as mail is tried.
    Expired,
}

/// What became of a report.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "snake_case")]
pub enum NoticeOutcome {
    /// It is in the sender's mailbox here.
    Filed,
    /// It is a mail of its own.
    Sent {
        /// Which.
        outbound: OutboundId,
    },
    /// Nobody is told.
    Dropped {
        /// Why.
        reason: DropReason,
    },
}

/// Facts of `outbound.notice_settled`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NoticeSettled {
    /// Which mail.
    pub mail: Mail,
    /// Which of its reports.
    pub number: u32,
    /// What became of it.
    pub outcome: NoticeOutcome,
    /// When, microseconds since the Unix epoch.
    pub at: i64,
}

impl Outbound {
    /// Returns whether its sender may want to be told by mail what becomes of it.
    #[must_use]
    pub fn asks_notices(&self) -> bool {
        let by_smtp = self.accepted.as_ref().is_some_and(|accepted| accepted.origin == Origin::Smtp);
        by_smtp && self.letter.as_ref().is_some_and(|letter| letter.notices.is_some())
    }

    /// Returns whether an account that this mail could take carries a report about it, from an address of its author's domain
    /// and with the null sender in the envelope. Amazon SES takes no such mail.
    #[must_use]
    pub fn has_way_for_report(&self, routing: &Routing, from: &str) -> bool {
        let Some(accepted) = &self.accepted else { return false };
        let scopes: Vec<_> = accepted.scopes.iter().collect();
        let sender = Sender { email: from, verified: accepted.domain.is_some() };
        let asks = Asks { scopes: &scopes, groups: &accepted.groups, sender };
        let takes = |transport: &Transport| !matches!(transport, Transport::Ses { .. });
        let accounts = routing.eligible(&asks, &BTreeSet::new());
        accounts.iter().any(|c| routing.accounts.get(&c.account).is_some_and(|a| takes(&a.transport)))
    }

    /// Returns whether its sender asked to be told of such an end, and was not.
    fn owes(&self, number: u8, action: NoticeAction) -> bool {
        let asked = self.letter.as_ref().and_then(|l| l.notices.as_ref()?.recipients.get(usize::from(number))?.notify);
        let (Some(Notify::On { success, failure, delay }), Some(recipient)) = (asked, self.recipient(number)) else {
            return false;
        };
        let elsewhere = recipient.onward.is_some_and(Onward::is_told_elsewhere);
        match action {
            NoticeAction::Failed => failure && !recipient.told.failure && !elsewhere,
            NoticeAction::Delayed => delay && !recipient.told.delay && !elsewhere,
            NoticeAction::Delivered | NoticeAction::Relayed => success && !recipient.told.success,
        }
    }
}

/// Adds to events about a mail what its sender is to be told of them.
pub(super) fn with_notices(mail: &Outbound, now: i64, mut events: Vec<crate::Event>) -> Vec<crate::Event> {
    if !mail.asks_notices() {
        return events;
    }
    let outbound = |event: &crate::Event| match event {
        crate::Event::Outbound(event) => Some(event.clone()),
        _ => None,
    };
    let heard: Vec<Event> = events.iter().filter_map(outbound).collect();
    let announced = mail.delay_announced_at.is_some()
        || heard.iter().any(|event| matches!(event, Event::Deferred(e) if e.announced));
    let mut owed = Owed { mail, announced, seen: BTreeSet::new(), all: vec![] };
    heard.iter().for_each(|event| owed.hear(event));
    events.extend(owed.planned(now));
    events
}

/// Returns what the sender is to be told after a server that had promised to say when it delivers has said so.
pub(super) fn confirmed(mail: &Outbound, number: u8, report: &Report, now: i64) -> Vec<crate::Event> {
    let promised = mail.recipient(number).is_some_and(|r| r.onward == Some(Onward::PromisedHere));
    if !promised || !mail.asks_notices() {
        return vec![];
    }
    let mut owed = Owed { mail, announced: false, seen: BTreeSet::new(), all: vec![] };
    let words = Words { diagnostic: report.diagnostic.clone(), remote_mta: report.remote_mta.clone() };
    owed.add(number, NoticeAction::Delivered, (2, 0, 0), words);
    owed.planned(now)
}

/// What is owed after some events.
struct Owed<'a> {
    mail: &'a Outbound,
    /// Outsiders are told that the mail is late.
    announced: bool,
    seen: BTreeSet<(u8, NoticeAction)>,
    all: Vec<(NoticeAction, NoticeOf, Words)>,
}

impl Owed<'_> {
    fn add(&mut self, recipient: u8, action: NoticeAction, status: (u8, u16, u16), words: Words) {
        if self.mail.owes(recipient, action) && self.seen.insert((recipient, action)) {
            self.all.push((action, NoticeOf { recipient, status }, words));
        }
    }

    fn each(&mut self, numbers: &[u8], action: NoticeAction, status: (u8, u16, u16), said: &Personal<Parties>) {
        for number in numbers {
            self.add(*number, action, status, words(said));
        }
    }

    fn hear(&mut self, event: &Event) {
        use NoticeAction::{Delayed, Delivered, Failed, Relayed};
        match event {
            Event::Rejected(e) => {
                let status = e.verdict.map_or_else(|| refused(e.reason), failed);
                self.each(&e.recipients, Failed, status, &e.personal);
            }
            Event::Bounced(e) => self.each(&[e.recipient], Failed, failed(e.verdict), &e.personal),
            Event::Released(e) => {
                let words = Words { diagnostic: Some(UNKNOWN.to_owned()), remote_mta: None };
                e.recipients.iter().for_each(|n| self.add(*n, Failed, (4, 4, 2), words.clone()));
            }
            Event::Deferred(e) if self.announced => self.each(&e.recipients, Delayed, late(e.verdict), &e.personal),
            Event::Delayed(e) => self.each(&[e.recipient], Delayed, late(e.verdict), &e.personal),
            Event::Sent(e) => {
                if matches!(e.onward, Some(Onward::Silent | Onward::SilentHere)) {
                    self.each(&e.recipients, Relayed, (2, 0, 0), &e.personal);
                }
            }
            Event::Delivered(e) => {
                for number in &e.recipients {
                    let before = self.mail.recipient(*number).and_then(|r| r.onward);
                    let action = match e.onward {
                        Some(Onward::Silent | Onward::SilentHere) => Relayed,
                        Some(Onward::Promised | Onward::PromisedHere) => continue,
                        // Evidence that came later: who had promised to say so to the sender has done it.
                        None if before == Some(Onward::Promised) => continue,
                        Some(Onward::Delivered) | None => Delivered,
                    };
                    self.add(*number, action, (2, 0, 0), words(&e.personal));
                }
            }
            Event::Accepted(_)
            | Event::Rescheduled(_)
            | Event::Paused(_)
            | Event::Resumed(_)
            // Who takes a mail back knows that it was not sent.
            | Event::Cancelled(_)
            | Event::RetryRequested(_)
            | Event::Postponed(_)
            | Event::AttemptStarted(_)
            | Event::AttemptFailed(_)
            | Event::Deferred(_)
            | Event::Uncertain(_)
            | Event::Complained(_)
            | Event::Opened(_)
            | Event::Unsubscribed(_)
            | Event::NoticePlanned(_)
            | Event::NoticeSettled(_) => {}
        }
    }

    /// Returns one event for each end that recipients came to.
    fn planned(self, at: i64) -> Vec<crate::Event> {
        let Some(accepted) = &self.mail.accepted else { return vec![] };
        let actions: BTreeSet<NoticeAction> = self.all.iter().map(|(action, _, _)| *action).collect();
        let numbered = actions.into_iter().zip(self.mail.notices_planned.saturating_add(1)..);
        let event = |(action, number)| {
            let of_action = self.all.iter().filter(|(of, _, _)| *of == action);
            let (recipients, said) = of_action.map(|(_, of, words)| (*of, words.clone())).unzip();
            let facts = NoticePlanned { mail: accepted.mail.clone(), number, action, recipients, at };
            crate::Event::Outbound(Event::NoticePlanned(Halves::new(facts, NoticeWords { recipients: said })))
        };
        numbered.map(event).collect()
    }
}

fn words(said: &Personal<Parties>) -> Words {
    let known = said.known();
    Words {
        diagnostic: known.and_then(|parties| parties.diagnostic.clone()),
        remote_mta: known.and_then(|parties| parties.remote_mta.clone()),
    }
}

/// Returns the status of a mail that a rule of ours has stopped.
fn refused(reason: RejectReason) -> (u8, u16, u16) {
    match reason {
        RejectReason::Suppressed => (5, 7, 1),
        RejectReason::Provider => (5, 0, 0),
        RejectReason::NoActiveProviders => (5, 3, 5),
        RejectReason::NotSendable => (5, 6, 0),
    }
}

/// Returns the status of a mail that is not tried any more.
fn failed(verdict: Verdict) -> (u8, u16, u16) {
    if verdict.category == Category::Expired {
        return (4, 4, 7);
    }
    // Where reply and status code contradict each other the reply counts (RFC 3463 §2).
    let class = verdict.smtp_code.map(|code| code / 100).filter(|class| matches!(class, 4 | 5));
    let (own, subject, detail) = verdict.enhanced_code.unwrap_or_else(|| usual(verdict.category));
    (class.map_or(own.clamp(4, 5), |class| u8::try_from(class).unwrap_or(5)), subject, detail)
}

/// Returns the status of a mail that is tried again.
fn late(verdict: Verdict) -> (u8, u16, u16) {
    let (_, subject, detail) = verdict.enhanced_code.unwrap_or_else(|| usual(verdict.category));
    (4, subject, detail)
}

/// Returns the status that servers give where a category is known and no code (RFC 3463, RFC 7372).
fn usual(category: Category) -> (u8, u16, u16) {
    match category {
        Category::UserUnknown => (5, 1, 1),
        Category::DomainUnknown => (5, 1, 2),
        Category::MailboxInactive => (5, 2, 1),
        Category::MailboxFull => (5, 2, 2),
        Category::MessageTooLarge => (5, 3, 4),
        Category::ContentRejected => (5, 6, 0),
        Category::PolicyBlocked | Category::RelayDenied => (5, 7, 1),
        Category::AuthFailure => (5, 7, 26),
        Category::RateLimited | Category::Greylisted => (4, 7, 1),
        Category::Network => (4, 4, 1),
        Category::RoutingLoop => (5, 4, 6),
        Category::Protocol => (5, 5, 0),
        Category::Expired => (4, 4, 7),
        Category::SenderRejected => (5, 1, 8),
        Category::Undetermined => (5, 0, 0),
    }
}

/// Writes down that a report is in its sender's mailbox here, or that nobody can be told.
#[derive(Debug, Clone)]
pub struct SettleNotice {
    /// The mail.
    pub outbound: OutboundId,
    /// Which of its reports.
    pub number: u32,
    /// Why nobody is told; `None` where it was filed.
    pub dropped: Option<DropReason>,
}

impl Command for SettleNotice {
    type State = Versioned<Outbound>;
    type Rejected = Rejected;

    fn streams(&self) -> Vec<StreamId> {
        vec![StreamId::Outbound(self.outbound.clone())]
    }

    fn decide(&self, mail: &Self::State, at: &Moment) -> Result<Vec<crate::Event>, Rejected> {
        let outcome = self.dropped.map_or(NoticeOutcome::Filed, |reason| NoticeOutcome::Dropped { reason });
        Ok(settled(mail, self.number, outcome, at.now)?.into_iter().collect())
    }
}

/// Returns the event that settles a report; `None` where it was settled before.
fn settled(mail: &Outbound, number: u32, outcome: NoticeOutcome, at: i64) -> Result<Option<crate::Event>, Rejected> {
    let accepted = mail.accepted.as_ref().ok_or(Rejected::Unknown)?;
    let waits = mail.notices.iter().any(|notice| notice.number == number);
    let facts = NoticeSettled { mail: accepted.mail.clone(), number, outcome, at };
    Ok(waits.then(|| crate::Event::Outbound(Event::NoticeSettled(facts.into()))))
}

/// A report as a mail: its bytes exist and are stored with the events.
#[derive(Debug, Clone)]
pub struct NewReport {
    /// Its id.
    pub outbound: OutboundId,
    /// Header `From`.
    pub from: Person,
    /// Header `Subject`.
    pub subject: String,
    /// Who sent the mail that it is about.
    pub to: Address,
    /// The same as a keyed digest.
    pub address: AddressId,
    /// The Message-ID, without angle brackets.
    pub rfc5322_message_id: String,
    /// Where its bytes are.
    pub blob: BlobId,
    /// How many bytes.
    pub size_bytes: i64,
    /// Lower-case hex of the SHA-256 of the bytes.
    pub sha256: String,
}

/// Makes a report a mail of its own, on the ways that the mail it is about could take, and free of charge.
///
/// It leaves from the null sender, so that nothing comes back of it.
#[derive(Debug, Clone)]
pub struct SendNotice {
    /// The mail.
    pub outbound: OutboundId,
    /// Which of its reports.
    pub number: u32,
    /// The report.
    pub report: NewReport,
}

impl Command for SendNotice {
    type State = (Versioned<Outbound>, Versioned<Routing>);
    type Rejected = Rejected;

    fn streams(&self) -> Vec<StreamId> {
        vec![StreamId::Outbound(self.outbound.clone()), StreamId::Routing]
    }

    fn decide(&self, (mail, routing): &Self::State, at: &Moment) -> Result<Vec<crate::Event>, Rejected> {
        let accepted = mail.accepted.as_ref().ok_or(Rejected::Unknown)?;
        if !mail.has_way_for_report(routing, &self.report.from.email.to_lowercase()) {
            let outcome = NoticeOutcome::Dropped { reason: DropReason::NoWayOut };
            return Ok(settled(mail, self.number, outcome, at.now)?.into_iter().collect());
        }
        let outcome = NoticeOutcome::Sent { outbound: self.report.outbound.clone() };
        let Some(settled) = settled(mail, self.number, outcome, at.now)? else { return Ok(vec![]) };
        Ok(vec![settled, self.report.accepted(accepted, at.now)])
    }
}

impl NewReport {
    /// Returns the event that takes it over; it costs nothing.
    fn accepted(&self, about: &Accepted, now: i64) -> crate::Event {
        let facts = Accepted {
            mail: Mail { outbound: self.outbound.clone(), mailbox: None, key: about.mail.key.clone() },
            origin: Origin::Report,
            recipients: vec![To { address: self.address.clone(), kind: RecipientKind::To }],
            blob: self.blob.clone(),
            size_bytes: self.size_bytes,
            sha256: self.sha256.clone(),
            scopes: about.scopes.clone(),
            groups: about.groups.clone(),
            domain: about.domain.clone(),
            purpose: Purpose::Transactional,
            topic: None,
            forced: false,
            track_opens: false,
            prices: UnitPrices::default(),
            booking: Booking::default(),
            accepted_at: now,
            send_at: None,
            lifetime_micros: about.lifetime_micros,
            copy: None,
            thread: None,
        };
        let letter = Letter {
            from: self.from.clone(),
            return_path: Some(String::new()),
            recipients: vec![Person { name: None, email: self.to.to_string() }],
            reply_to: vec![],
            subject: Some(self.subject.clone()),
            rfc5322_message_id: self.rfc5322_message_id.clone(),
            labels: super::Labels::default(),
            notices: None,
        };
        crate::Event::Outbound(Event::Accepted(Halves::new(facts, letter)))
    }
}
