//! Attempts: begun before anything is handed over, and what came of them.

use std::collections::BTreeSet;

use super::event::{
    AttemptFailed, AttemptStarted, Bounced, Cancelled, Deferred, Delivered, Event, Rejected as RejectedFacts, Sent,
    Uncertain,
};
use super::notice::with_notices;
use super::parts::{AttemptTrouble, Mail, Onward, RejectReason, Stage};
use super::report::Report;
use super::state::OpenAttempt;
use super::{Outbound, Rejected, Status};
use crate::bounce::{Category, Kind, Source, Verdict};
use crate::entity::Versioned;
use crate::id::{AddressId, OutboundId, ProviderId};
use crate::personal::Halves;
use crate::provider::{self, Provider};
use crate::retry::announces_delay;
use crate::routing::{Part, Routing};
use crate::suppression::{self, Cause, Reason, Suppression, Whom};
use crate::{Command, Moment, StreamId};

/// Writes down that a mail is about to be handed over. Nothing may be handed over before this is durable.
///
/// The suppression list is read again: who came on it since acceptance is refused here.
#[derive(Debug, Clone)]
pub struct BeginAttempt {
    /// The mail.
    pub outbound: OutboundId,
    /// The number of the attempt: one more than were started.
    pub attempt: u32,
    /// The account.
    pub account: ProviderId,
    /// The numbers of the recipients it is for.
    pub recipients: Vec<u8>,
    /// Their addresses, so that the suppression list is read for them.
    pub addresses: Vec<AddressId>,
}

impl BeginAttempt {
    /// Returns the command for recipients of a mail.
    #[must_use]
    pub fn of(outbound: OutboundId, state: &Outbound, account: ProviderId, recipients: Vec<u8>) -> Self {
        let addresses = addresses_of(state, &recipients);
        Self { outbound, attempt: state.attempts + 1, account, recipients, addresses }
    }
}

fn addresses_of(state: &Outbound, numbers: &[u8]) -> Vec<AddressId> {
    let unique: BTreeSet<_> = numbers.iter().filter_map(|n| state.recipient(*n)).map(|r| r.address.clone()).collect();
    unique.into_iter().collect()
}

impl Command for BeginAttempt {
    type State = (Versioned<Outbound>, Versioned<Routing>, Vec<Versioned<Suppression>>);
    type Rejected = Rejected;

    fn streams(&self) -> Vec<StreamId> {
        let singles = [StreamId::Outbound(self.outbound.clone()), StreamId::Routing];
        singles.into_iter().chain(self.addresses.iter().cloned().map(StreamId::Suppression)).collect()
    }

    fn decide(&self, (mail, routing, listed): &Self::State, at: &Moment) -> Result<Vec<crate::Event>, Rejected> {
        let accepted = mail.accepted.as_ref().ok_or(Rejected::Unknown)?;
        if self.attempt <= mail.attempts {
            return Ok(vec![]);
        }
        if self.attempt != mail.attempts + 1 {
            return Err(Rejected::WrongAttempt);
        }
        let wanted: BTreeSet<u8> = self.recipients.iter().copied().collect();
        let waiting = mail.numbers(|r| r.status == Status::Waiting);
        let waiting: Vec<u8> = waiting.into_iter().filter(|n| wanted.contains(n)).collect();
        if waiting.is_empty() {
            return Ok(vec![]);
        }
        let stopped_here = mail.paused || is_stopped(mail, routing, &waiting);
        if stopped_here {
            return Err(Rejected::Paused);
        }
        if waiting.iter().any(|n| mail.recipient(*n).is_some_and(|r| r.due_at > at.now)) {
            return Err(Rejected::NotDue);
        }
        let candidates = mail.asking(|asks| routing.eligible(asks, &mail.left));
        let candidate =
            candidates.into_iter().find(|c| c.account == self.account).ok_or(Rejected::AccountNotEligible)?;
        let (refused, going) = split_by_list(&waiting, mail, &self.addresses, listed, at.now)?;
        let mut events = vec![];
        if !refused.is_empty() {
            events.push(rejected(mail, &accepted.mail, &refused, RejectReason::Suppressed, None, at.now));
        }
        if !going.is_empty() {
            let facts = AttemptStarted {
                mail: accepted.mail.clone(),
                attempt: self.attempt,
                account: self.account.clone(),
                managed: candidate.managed,
                recipients: going,
                at: at.now,
            };
            events.push(Event::AttemptStarted(facts.into()));
        }
        Ok(with_notices(mail, at.now, events.into_iter().map(crate::Event::Outbound).collect()))
    }
}

/// Returns whether sending is stopped for a part that one of the recipients belongs to.
fn is_stopped(mail: &Outbound, routing: &Routing, numbers: &[u8]) -> bool {
    let Some(accepted) = &mail.accepted else { return false };
    let site = |n: &u8| mail.recipient(*n).and_then(|r| r.email.as_deref()).and_then(|e| e.rsplit_once('@'));
    routing.paused.iter().any(|part| match part {
        Part::Team => true,
        Part::Domain(domain) => accepted.domain.as_ref() == Some(domain),
        Part::Key(key) => accepted.mail.key.as_ref() == Some(key),
        Part::Site(name) => numbers.iter().filter_map(site).any(|(_, domain)| domain.eq_ignore_ascii_case(name)),
    })
}

/// Parts recipients into those on the suppression list and the others.
fn split_by_list(
    numbers: &[u8],
    mail: &Outbound,
    addresses: &[AddressId],
    listed: &[Versioned<Suppression>],
    now: i64,
) -> Result<(Vec<u8>, Vec<u8>), Rejected> {
    let accepted = mail.accepted.as_ref().ok_or(Rejected::Unknown)?;
    let (mut refused, mut going) = (vec![], vec![]);
    for number in numbers {
        let Some(recipient) = mail.recipient(*number) else { continue };
        let suppression = read_for(&recipient.address, addresses, listed)?;
        match suppression.stops(accepted.purpose, accepted.topic.as_deref(), accepted.forced, now) {
            Some(_) => refused.push(*number),
            None => going.push(*number),
        }
    }
    Ok((refused, going))
}

fn read_for<'a>(
    address: &AddressId,
    addresses: &[AddressId],
    listed: &'a [Versioned<Suppression>],
) -> Result<&'a Suppression, Rejected> {
    let read = addresses.iter().zip(listed).find(|(a, _)| *a == address);
    read.map(|(_, s)| s.state.as_ref()).ok_or_else(|| Rejected::AddressNotRead(address.clone()))
}

/// What came of an attempt for some recipients.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The provider took it. Where the account reaches the recipients' own servers, it is delivered.
    Taken {
        /// Whether it was the recipients' own server that took it.
        delivered: bool,
    },
    /// It was refused for now.
    Deferred {
        /// What the server said.
        verdict: Verdict,
        /// Whether the server may have taken it all the same: only where doubles are the custom (RFC 5321 §4.5.3.2.6).
        uncertain: bool,
        /// When to try again, microseconds since the Unix epoch; `None` when it has been tried long enough.
        retry_at: Option<i64>,
    },
    /// The provider refused it for good.
    Rejected {
        /// Why.
        reason: RejectReason,
        /// What the server said, if one did.
        verdict: Option<Verdict>,
    },
    /// The recipients' own server refused it for good.
    Bounced {
        /// What the server said.
        verdict: Verdict,
    },
    /// Nobody knows whether it was taken.
    Uncertain {
        /// How far it had come.
        stage: Stage,
    },
}

/// What came of an attempt for the recipients it came out alike for.
#[derive(Debug, Clone)]
pub struct Results {
    /// The numbers of the recipients.
    pub recipients: Vec<u8>,
    /// What came of it.
    pub outcome: Outcome,
    /// What the server said.
    pub report: Report,
}

/// Writes down what came of an attempt. Results for recipients that are not in it any more are passed over, so telling
/// them again changes nothing, and certain results that come late replace uncertain ones.
#[derive(Debug, Clone)]
pub struct RecordResults {
    /// The mail.
    pub outbound: OutboundId,
    /// The attempt.
    pub attempt: u32,
    /// What came of it.
    pub results: Vec<Results>,
    /// The recipients' addresses, so that the suppression list is read for them.
    pub addresses: Vec<AddressId>,
}

impl RecordResults {
    /// Returns the command for an attempt of a mail.
    #[must_use]
    pub fn of(outbound: OutboundId, state: &Outbound, attempt: u32, results: Vec<Results>) -> Self {
        let all: Vec<u8> = results.iter().flat_map(|r| r.recipients.iter().copied()).collect();
        let addresses = addresses_of(state, &all);
        Self { outbound, attempt, results, addresses }
    }
}

impl Command for RecordResults {
    type State = (Versioned<Outbound>, Vec<Versioned<Suppression>>);
    type Rejected = Rejected;

    fn streams(&self) -> Vec<StreamId> {
        let mail = std::iter::once(StreamId::Outbound(self.outbound.clone()));
        mail.chain(self.addresses.iter().cloned().map(StreamId::Suppression)).collect()
    }

    fn decide(&self, (mail, listed): &Self::State, at: &Moment) -> Result<Vec<crate::Event>, Rejected> {
        let accepted = mail.accepted.as_ref().ok_or(Rejected::Unknown)?;
        if self.attempt == 0 || self.attempt > mail.attempts {
            return Err(Rejected::WrongAttempt);
        }
        let Some(open) = mail.open.get(&self.attempt) else { return Ok(vec![]) };
        let mut told = Telling {
            mail,
            subject: &accepted.mail,
            attempt: self.attempt,
            open,
            addresses: &self.addresses,
            listed,
            now: at.now,
            seen: BTreeSet::new(),
            settled: BTreeSet::new(),
            events: vec![],
        };
        for results in &self.results {
            told.tell(results)?;
        }
        Ok(with_notices(mail, at.now, told.events))
    }
}

/// Turns results into events.
struct Telling<'a> {
    mail: &'a Outbound,
    subject: &'a Mail,
    attempt: u32,
    open: &'a OpenAttempt,
    addresses: &'a [AddressId],
    listed: &'a [Versioned<Suppression>],
    now: i64,
    /// Recipients that had their result.
    seen: BTreeSet<u8>,
    /// Addresses whose place on the suppression list is decided.
    settled: BTreeSet<AddressId>,
    events: Vec<crate::Event>,
}

impl Telling<'_> {
    fn push(&mut self, event: Event) {
        self.events.push(crate::Event::Outbound(event));
    }

    /// Returns the recipients that are still in the attempt and had no result in this command.
    fn open_recipients(&mut self, numbers: &[u8], certain: bool) -> Vec<u8> {
        let (mail, attempt) = (self.mail, self.attempt);
        let is_open = |n: &u8| match mail.recipient(*n).map(|r| r.status) {
            Some(Status::InFlight { attempt: a }) => a == attempt,
            Some(Status::Uncertain { attempt: a, .. }) => certain && a == attempt,
            _ => false,
        };
        numbers.iter().copied().filter(|n| is_open(n) && self.seen.insert(*n)).collect()
    }

    fn tell(&mut self, results: &Results) -> Result<(), Rejected> {
        let certain = !matches!(results.outcome, Outcome::Uncertain { .. });
        let numbers = self.open_recipients(&results.recipients, certain);
        if numbers.is_empty() {
            return Ok(());
        }
        let parties = self.mail.parties(&numbers).saying(&results.report);
        match &results.outcome {
            Outcome::Taken { delivered } => {
                let onward = results.report.onward.filter(|_| self.mail.asks_notices());
                self.taken(numbers, *delivered, onward, parties)?;
            }
            Outcome::Deferred { verdict, uncertain, retry_at: Some(retry_at) } => {
                self.deferred(numbers, *verdict, *uncertain, *retry_at, parties);
            }
            Outcome::Deferred { verdict, retry_at: None, .. } => {
                let expired = Verdict { category: Category::Expired, ..*verdict };
                for number in numbers {
                    self.bounced(number, expired, Source::Postlog, &results.report)?;
                }
            }
            Outcome::Rejected { reason, verdict } => {
                let booking = self.mail.release(&numbers);
                let (mail, reason, verdict) = (self.subject.clone(), *reason, *verdict);
                let facts = RejectedFacts { mail, recipients: numbers, reason, verdict, booking, at: self.now };
                self.push(Event::Rejected(Halves::new(facts, parties)));
            }
            Outcome::Bounced { verdict } => {
                for number in numbers {
                    self.bounced(number, *verdict, Source::Smtp, &results.report)?;
                }
            }
            Outcome::Uncertain { stage } => {
                let (mail, attempt, stage) = (self.subject.clone(), self.attempt, *stage);
                let facts = Uncertain { mail, attempt, recipients: numbers, stage, at: self.now };
                self.push(Event::Uncertain(Halves::new(facts, parties)));
            }
        }
        Ok(())
    }

    fn taken(
        &mut self,
        numbers: Vec<u8>,
        delivered: bool,
        onward: Option<Onward>,
        parties: super::Parties,
    ) -> Result<(), Rejected> {
        let booking = self.mail.charge(&numbers, self.open.managed);
        let (mail, account, managed) = (self.subject.clone(), self.open.account.clone(), self.open.managed);
        if !delivered {
            let (attempt, recipients, at) = (self.attempt, numbers, self.now);
            let facts = Sent { mail, attempt, account, managed, recipients, booking, at, onward };
            self.push(Event::Sent(Halves::new(facts, parties)));
            return Ok(());
        }
        let facts = Delivered {
            mail,
            recipients: numbers.clone(),
            source: Source::Smtp,
            account: Some(account),
            managed,
            booking,
            at: self.now,
            onward,
        };
        self.push(Event::Delivered(Halves::new(facts, parties)));
        for number in numbers {
            let Some(recipient) = self.mail.recipient(number) else { continue };
            let suppression = read_for(&recipient.address, self.addresses, self.listed)?;
            if !suppression.evidence.is_empty() && self.settled.insert(recipient.address.clone()) {
                self.events.push(evidence_cleared(&recipient.address));
            }
        }
        Ok(())
    }

    fn deferred(
        &mut self,
        numbers: Vec<u8>,
        verdict: Verdict,
        uncertain: bool,
        retry_at: i64,
        parties: super::Parties,
    ) {
        let announced = announces_delay(self.mail.first_deferred_at, self.mail.delay_announced_at, self.now)
            && !self.events.iter().any(|e| matches!(e, crate::Event::Outbound(Event::Deferred(d)) if d.announced));
        let facts = Deferred {
            mail: self.subject.clone(),
            attempt: self.attempt,
            recipients: numbers.clone(),
            verdict,
            uncertain,
            retry_at,
            expires_at: self.mail.expires_at(),
            announced,
            at: self.now,
        };
        self.push(Event::Deferred(Halves::new(facts, parties)));
        // Cancelled while it was in flight: now it can be stopped.
        if self.mail.cancelled {
            let (mail, booking) = (self.subject.clone(), self.mail.release(&numbers));
            let parties = self.mail.parties(&numbers);
            self.push(Event::Cancelled(Halves::new(Cancelled { mail, recipients: numbers, booking }, parties)));
        }
    }

    fn bounced(&mut self, number: u8, verdict: Verdict, source: Source, report: &Report) -> Result<(), Rejected> {
        let Some(recipient) = self.mail.recipient(number) else { return Ok(()) };
        let suppression = read_for(&recipient.address, self.addresses, self.listed)?;
        let facts = Bounced {
            mail: self.subject.clone(),
            recipient: number,
            address: recipient.address.clone(),
            kind: verdict.category.kind(),
            verdict,
            source,
            late: false,
            managed: self.open.managed,
            booking: self.mail.release(&[number]),
            at: self.now,
        };
        let parties = self.mail.parties(&[number]).saying(report);
        self.push(Event::Bounced(Halves::new(facts, parties)));
        if self.settled.insert(recipient.address.clone()) {
            let subject = self.subject.outbound.clone();
            let (email, now) = (recipient.email.as_deref(), self.now);
            let added = suppressed_by_bounce(suppression, &recipient.address, email, verdict, subject, now);
            self.events.extend(added);
        }
        Ok(())
    }
}

/// Returns the event that says that earlier soft bounces of an address count no more.
pub(super) fn evidence_cleared(address: &AddressId) -> crate::Event {
    let facts = suppression::Subject { address: address.clone() };
    crate::Event::Suppression(suppression::Event::EvidenceCleared(facts.into()))
}

/// Returns the event that suppresses an address after a bounce, if it is one too many.
pub(super) fn suppressed_by_bounce(
    state: &Suppression,
    address: &AddressId,
    email: Option<&str>,
    verdict: Verdict,
    outbound: OutboundId,
    now: i64,
) -> Option<crate::Event> {
    // Somebody else's word for the kind must not suppress: only the category does.
    let expires_at = state.after_bounce(verdict.category, now)?;
    let facts = suppression::Added {
        address: address.clone(),
        cause: Cause { reason: Reason::HardBounce, topic: None },
        expires_at,
        outbound: Some(outbound),
    };
    let whom = email.map(|email| Whom { email: email.to_lowercase(), note: None });
    suppression::added(state, facts, whom, now)
}

/// Returns the event that refuses recipients for good.
fn rejected(
    state: &Outbound,
    mail: &Mail,
    numbers: &[u8],
    reason: RejectReason,
    verdict: Option<Verdict>,
    at: i64,
) -> Event {
    let booking = state.release(numbers);
    let facts = RejectedFacts { mail: mail.clone(), recipients: numbers.to_vec(), reason, verdict, booking, at };
    Event::Rejected(Halves::new(facts, state.parties(numbers)))
}

/// Writes down that an attempt came to nothing before anything was handed over: its recipients wait again.
///
/// A refused login breaks the account for all mail in the same append.
#[derive(Debug, Clone)]
pub struct FailAttempt {
    /// The mail.
    pub outbound: OutboundId,
    /// The attempt.
    pub attempt: u32,
    /// Its account.
    pub account: ProviderId,
    /// Why.
    pub trouble: AttemptTrouble,
    /// Whether the mail looks for another account.
    pub leaves_account: bool,
    /// When its recipients are due again, microseconds since the Unix epoch.
    pub retry_at: i64,
    /// What the server said.
    pub report: Report,
}

impl Command for FailAttempt {
    type State = (Versioned<Outbound>, Versioned<Provider>);
    type Rejected = Rejected;

    fn streams(&self) -> Vec<StreamId> {
        vec![StreamId::Outbound(self.outbound.clone()), StreamId::Provider(self.account.clone())]
    }

    fn decide(&self, (mail, provider): &Self::State, _: &Moment) -> Result<Vec<crate::Event>, Rejected> {
        let accepted = mail.accepted.as_ref().ok_or(Rejected::Unknown)?;
        let flying = mail.numbers(|r| r.status == Status::InFlight { attempt: self.attempt });
        let own = mail.open.get(&self.attempt).is_some_and(|open| open.account == self.account);
        if flying.is_empty() || !own {
            return Ok(vec![]);
        }
        let refused = self.trouble == AttemptTrouble::LoginRefused;
        let facts = AttemptFailed {
            mail: accepted.mail.clone(),
            attempt: self.attempt,
            account: self.account.clone(),
            trouble: self.trouble,
            leaves_account: self.leaves_account || refused,
            retry_at: self.retry_at,
        };
        let parties = mail.parties(&flying).saying(&self.report);
        let mut events = vec![crate::Event::Outbound(Event::AttemptFailed(Halves::new(facts, parties)))];
        if mail.cancelled {
            let (mail_id, booking) = (accepted.mail.clone(), mail.release(&flying));
            let cancelled = Cancelled { mail: mail_id, recipients: flying.clone(), booking };
            events.push(crate::Event::Outbound(Event::Cancelled(Halves::new(cancelled, mail.parties(&flying)))));
        }
        if refused {
            let message = self.report.diagnostic.clone().unwrap_or_default();
            let said = provider::Said { message };
            let broken = provider::broken(&self.account, provider, provider::Trouble::LoginRefused, said);
            events.extend(broken.map(crate::Event::Provider));
        }
        Ok(events)
    }
}

/// Gives up recipients that wait, because no account will ever carry the mail, or because it has waited long enough.
#[derive(Debug, Clone)]
pub struct RejectWaiting {
    /// The mail.
    pub outbound: OutboundId,
    /// Why.
    pub reason: RejectReason,
}

impl Command for RejectWaiting {
    type State = Versioned<Outbound>;
    type Rejected = Rejected;

    fn streams(&self) -> Vec<StreamId> {
        vec![StreamId::Outbound(self.outbound.clone())]
    }

    fn decide(&self, mail: &Self::State, at: &Moment) -> Result<Vec<crate::Event>, Rejected> {
        let accepted = mail.accepted.as_ref().ok_or(Rejected::Unknown)?;
        let waiting = mail.numbers(|r| r.status == Status::Waiting);
        if waiting.is_empty() {
            return Ok(vec![]);
        }
        let rejected = rejected(mail, &accepted.mail, &waiting, self.reason, None, at.now);
        Ok(with_notices(mail, at.now, vec![crate::Event::Outbound(rejected)]))
    }
}

/// Returns whether a verdict's kind is hard; what the provider says of itself does not count.
#[must_use]
pub(super) fn kind_of(verdict: Verdict, told: Option<Kind>) -> Kind {
    match (verdict.category, told) {
        (Category::Undetermined, Some(kind)) => kind,
        (category, _) => category.kind(),
    }
}
