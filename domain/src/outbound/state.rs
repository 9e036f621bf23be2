//! The fold of an outgoing mail, bounded by its recipients.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::Origin;
use super::event::{Accepted, Event};
use super::notice::{Notice, Told};
use super::parts::{Letter, Machine, Onward, Parties, PostponeReason};
use crate::balance::Booking;
use crate::entity::{Fold, fold_of};
use crate::id::{AddressId, ProviderId};
use crate::mailbox::SendScope;
use crate::money::Nanos;
use crate::routing::{Asks, Sender};

/// Where a recipient's mail is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "snake_case")]
pub enum Status {
    /// Not handed over yet, or to be tried again.
    Waiting,
    /// Being handed over.
    InFlight {
        /// In this attempt.
        attempt: u32,
    },
    /// Perhaps handed over.
    Uncertain {
        /// In this attempt.
        attempt: u32,
        /// Since when, microseconds since the Unix epoch.
        since: i64,
    },
    /// A provider has it; not yet final, though often the last that is heard.
    Sent,
    /// Final: the recipient's server has it.
    Delivered,
    /// Final: it came back.
    Bounced,
    /// Final: it was not taken.
    Rejected,
    /// Final: it was not sent any more.
    Cancelled,
    /// Final unless evidence turns up: nobody knows.
    Unknown,
}

impl Status {
    /// Returns whether nothing more is done for the recipient.
    #[must_use]
    pub fn is_settled(self) -> bool {
        !matches!(self, Self::Waiting | Self::InFlight { .. } | Self::Uncertain { .. })
    }
}

/// One recipient of a mail.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recipient {
    /// Who, as a keyed digest.
    pub address: AddressId,
    /// Who; `None` after erasure.
    pub email: Option<String>,
    /// Where the mail is.
    pub status: Status,
    /// Whether money is held for it.
    pub held: bool,
    /// When it is due, microseconds since the Unix epoch.
    pub due_at: i64,
    /// How often it was deferred.
    pub deferrals: u32,
    /// Whether a delay at another server was told.
    pub delayed: bool,
    /// Whether it complained.
    pub complained: bool,
    /// Whether it unsubscribed.
    pub unsubscribed: bool,
    /// Whether a person, and whether a program opened it.
    pub opened: (bool, bool),
    /// Who tells the sender what becomes of it, where that was asked for and it was handed on.
    #[serde(default)]
    pub onward: Option<Onward>,
    /// What the sender was told of it by mail, or will be.
    #[serde(default)]
    pub told: Told,
}

/// An attempt that is not over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenAttempt {
    /// Its account.
    pub account: ProviderId,
    /// Whether it costs the managed price.
    pub managed: bool,
    /// Since when, microseconds since the Unix epoch.
    pub since: i64,
}

/// The fold of an outgoing mail's stream.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Outbound {
    /// How it was accepted; `None` before.
    pub accepted: Option<Accepted>,
    /// What names people; `None` after erasure.
    pub letter: Option<Letter>,
    /// Its recipients.
    pub recipients: Vec<Recipient>,
    /// When it is to be sent; `None` at once.
    pub send_at: Option<i64>,
    /// Whether it waits until it is resumed.
    pub paused: bool,
    /// Whether it is not sent any more.
    pub cancelled: bool,
    /// Why it waits though it is due.
    pub postponed: Option<(PostponeReason, Option<i64>)>,
    /// How many attempts were started.
    pub attempts: u32,
    /// Attempts that some recipient is still in flight or uncertain in; at most one per recipient.
    pub open: BTreeMap<u32, OpenAttempt>,
    /// The account it was last given to.
    pub account: Option<ProviderId>,
    /// Whether that account costs the managed price.
    pub managed: bool,
    /// The accounts it left behind.
    pub left: BTreeSet<ProviderId>,
    /// When it was first deferred, microseconds since the Unix epoch.
    pub first_deferred_at: Option<i64>,
    /// When outsiders were last told that it is late.
    pub delay_announced_at: Option<i64>,
    /// What the sender is yet to be told by mail.
    #[serde(default)]
    pub notices: Vec<Notice>,
    /// How many reports to the sender were planned.
    #[serde(default)]
    pub notices_planned: u32,
}

impl Outbound {
    /// Returns whether nothing more is done for any recipient.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.accepted.is_some() && self.recipients.iter().all(|r| r.status.is_settled())
    }

    /// Returns when it is to be sent first, microseconds since the Unix epoch.
    #[must_use]
    pub fn due_at(&self) -> i64 {
        self.accepted.as_ref().map_or(0, |a| self.send_at.unwrap_or(a.accepted_at))
    }

    /// Returns until when it is tried, microseconds since the Unix epoch.
    #[must_use]
    pub fn expires_at(&self) -> i64 {
        self.accepted.as_ref().map_or(0, |a| self.due_at().saturating_add(a.lifetime_micros))
    }

    /// Returns the numbers of the recipients that are due at a moment.
    #[must_use]
    pub fn waiting(&self, now: i64) -> Vec<u8> {
        self.numbers(|r| r.status == Status::Waiting && r.due_at <= now)
    }

    /// Returns when the next recipient is due; `None` if nobody waits or the mail is paused.
    #[must_use]
    pub fn next_due_at(&self) -> Option<i64> {
        let waiting = self.recipients.iter().filter(|r| r.status == Status::Waiting && !self.paused);
        waiting.map(|r| r.due_at).min()
    }

    /// Hands what this mail asks of routing to a function.
    pub fn asking<T>(&self, ask: impl FnOnce(&Asks<'_>) -> T) -> T {
        let accepted = self.accepted.as_ref();
        let scopes: Vec<&SendScope> = accepted.map(|a| a.scopes.iter().collect()).unwrap_or_default();
        let email = self.letter.as_ref().map(|l| l.from.email.to_lowercase()).unwrap_or_default();
        let sender = Sender { email: &email, verified: accepted.is_some_and(|a| a.domain.is_some()) };
        ask(&Asks { scopes: &scopes, groups: accepted.map_or(&[], |a| &a.groups), sender })
    }

    /// Returns the numbers of the recipients a test holds for.
    pub(super) fn numbers(&self, test: impl Fn(&Recipient) -> bool) -> Vec<u8> {
        let found = self.recipients.iter().zip(0u8..).filter(|(r, _)| test(r));
        found.map(|(_, number)| number).collect()
    }

    /// Returns a recipient by its number.
    #[must_use]
    pub fn recipient(&self, number: u8) -> Option<&Recipient> {
        self.recipients.get(usize::from(number))
    }

    /// Returns what lets the money of recipients go.
    pub(super) fn release(&self, numbers: &[u8]) -> Booking {
        let released_nanos = self.held_for(numbers).1;
        Booking { released_nanos, ..Booking::default() }
    }

    /// Returns what charges recipients whose money is still held.
    pub(super) fn charge(&self, numbers: &[u8], managed: bool) -> Booking {
        let (charged_units, released_nanos) = self.held_for(numbers);
        let prices = self.accepted.as_ref().map(|a| a.prices).unwrap_or_default();
        let unit = if managed { prices.managed_nanos } else { prices.own_nanos };
        let charged_nanos = unit.times(i64::from(charged_units));
        Booking { held_nanos: Nanos::default(), released_nanos, charged_nanos, charged_units }
    }

    fn held_for(&self, numbers: &[u8]) -> (u32, Nanos) {
        let held = numbers.iter().filter(|n| self.recipient(**n).is_some_and(|r| r.held)).count();
        let held = u32::try_from(held).unwrap_or(u32::MAX);
        let unit = self.accepted.as_ref().map(|a| a.prices.held_nanos).unwrap_or_default();
        (held, unit.times(i64::from(held)))
    }

    /// Returns the personal half of an event about some recipients.
    pub(super) fn parties(&self, numbers: &[u8]) -> Parties {
        let letter = self.letter.as_ref();
        let email = |n: &u8| self.recipient(*n).and_then(|r| r.email.clone());
        Parties {
            sender: letter.map(|l| l.return_path.clone().unwrap_or_else(|| l.from.email.clone())).unwrap_or_default(),
            recipients: numbers.iter().filter_map(email).collect(),
            rfc5322_message_id: letter.map(|l| l.rfc5322_message_id.clone()).unwrap_or_default(),
            labels: letter.map(|l| l.labels.clone()).unwrap_or_default(),
            ..Parties::default()
        }
    }

    /// Changes recipients by their numbers; unknown numbers are passed over.
    fn each(&mut self, numbers: &[u8], change: impl Fn(&mut Recipient)) {
        for number in numbers {
            if let Some(recipient) = self.recipients.get_mut(usize::from(*number)) {
                change(recipient);
            }
        }
    }

    fn settle(&mut self, numbers: &[u8], status: Status) {
        self.each(numbers, |r| (r.status, r.held) = (status, false));
    }

    fn begin(&mut self, e: &Accepted, letter: Option<&Letter>) {
        let due_at = e.send_at.unwrap_or(e.accepted_at);
        // Nothing is held for recipients that are refused in the same breath, and reports of ours cost nothing.
        let held = e.origin != Origin::Report && (e.booking.held_nanos.0 > 0 || e.prices.held_nanos.0 == 0);
        self.recipients = e
            .recipients
            .iter()
            .enumerate()
            .map(|(i, to)| Recipient {
                address: to.address.clone(),
                email: letter.and_then(|l| l.recipients.get(i)).map(|p| p.email.clone()),
                status: Status::Waiting,
                held,
                due_at,
                deferrals: 0,
                delayed: false,
                complained: false,
                unsubscribed: false,
                opened: (false, false),
                onward: None,
                told: Told::default(),
            })
            .collect();
        self.send_at = e.send_at;
        self.accepted = Some(e.clone());
        self.letter = letter.cloned();
    }

    /// Forgets attempts in which nobody is in flight or uncertain any more.
    fn close_attempts(&mut self) {
        let recipients = &self.recipients;
        self.open.retain(|n, _| {
            recipients.iter().any(|r| match r.status {
                Status::InFlight { attempt } | Status::Uncertain { attempt, .. } => attempt == *n,
                _ => false,
            })
        });
    }
}

impl Fold for Outbound {
    fn evolve(&mut self, event: &crate::Event) {
        let crate::Event::Outbound(event) = event else { return };
        match event {
            Event::Accepted(e) => self.begin(e, e.personal.known()),
            Event::Rescheduled(e) => {
                self.send_at = Some(e.send_at);
                self.recipients.iter_mut().for_each(|r| r.due_at = e.send_at);
            }
            Event::Paused(_) => self.paused = true,
            Event::Resumed(_) => self.paused = false,
            Event::Cancelled(e) => {
                self.cancelled = true;
                self.settle(&e.recipients, Status::Cancelled);
            }
            Event::RetryRequested(e) => {
                self.postponed = None;
                self.each(&e.recipients, |r| (r.status, r.due_at) = (Status::Waiting, e.at));
            }
            Event::Postponed(e) => self.postponed = Some((e.reason, e.until)),
            Event::AttemptStarted(e) => {
                self.postponed = None;
                self.attempts = e.attempt;
                // Going on with another account leaves the one before behind.
                let before = self.account.replace(e.account.clone());
                self.left.extend(before.filter(|b| *b != e.account));
                self.managed = e.managed;
                let open = OpenAttempt { account: e.account.clone(), managed: e.managed, since: e.at };
                self.open.insert(e.attempt, open);
                self.each(&e.recipients, |r| r.status = Status::InFlight { attempt: e.attempt });
            }
            Event::AttemptFailed(e) => {
                if e.leaves_account {
                    self.left.insert(e.account.clone());
                    self.account.take_if(|a| *a == e.account);
                }
                let flying = self.numbers(|r| r.status == Status::InFlight { attempt: e.attempt });
                self.each(&flying, |r| (r.status, r.due_at) = (Status::Waiting, e.retry_at));
            }
            Event::Sent(e) => {
                self.settle(&e.recipients, Status::Sent);
                self.each(&e.recipients, |r| r.onward = e.onward);
            }
            Event::Delivered(e) => {
                self.settle(&e.recipients, Status::Delivered);
                self.each(&e.recipients, |r| r.onward = e.onward.or(r.onward));
            }
            Event::Deferred(e) => {
                self.first_deferred_at.get_or_insert(e.at);
                if e.announced {
                    self.delay_announced_at = Some(e.at);
                }
                self.each(&e.recipients, |r| {
                    (r.status, r.due_at) = (Status::Waiting, e.retry_at);
                    r.deferrals = r.deferrals.saturating_add(1);
                });
            }
            Event::Delayed(e) => self.each(&[e.recipient], |r| r.delayed = true),
            Event::Uncertain(e) => {
                let status = Status::Uncertain { attempt: e.attempt, since: e.at };
                self.each(&e.recipients, |r| r.status = status);
            }
            Event::Rejected(e) => self.settle(&e.recipients, Status::Rejected),
            Event::Bounced(e) => self.settle(&[e.recipient], Status::Bounced),
            Event::Complained(e) => self.each(&[e.recipient], |r| r.complained = true),
            Event::Opened(e) => self.each(&[e.recipient], |r| match e.machine {
                Machine::Yes => r.opened.1 = true,
                Machine::No | Machine::Unknown => r.opened.0 = true,
            }),
            Event::Unsubscribed(e) => self.each(&[e.recipient], |r| r.unsubscribed = true),
            Event::Released(e) => self.settle(&e.recipients, Status::Unknown),
            Event::NoticePlanned(e) => {
                self.notices_planned = e.number;
                self.each(&e.numbers(), |r| r.told.note(e.action));
                self.notices.push(Notice::of(e, e.personal.known()));
            }
            Event::NoticeSettled(e) => self.notices.retain(|notice| notice.number != e.number),
        }
        self.close_attempts();
    }

    fold_of!(Outbound, Outbound);
}
