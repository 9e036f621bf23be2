//! What the world says about a mail after it left: deliveries, bounces, complaints, openings.

use super::attempt::{evidence_cleared, kind_of, suppressed_by_bounce};
use super::event::{Bounced, Complained, Delayed, Delivered, Event, Opened, Rejected as RejectedFacts, Unsubscribed};
use super::notice::{confirmed, with_notices};
use super::parts::{Complaint, Machine, Mail, RejectReason, UnsubscribeMethod};
use super::report::Report;
use super::{Outbound, Recipient, Rejected, Status};
use crate::bounce::{Kind, Source, Verdict};
use crate::entity::Versioned;
use crate::id::{AddressId, OutboundId};
use crate::personal::Halves;
use crate::suppression::{self, Cause, Reason, Suppression, Whom};
use crate::{Command, Moment, StreamId};

/// What is heard of one recipient.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Feedback {
    /// The recipient's server has it.
    Delivered,
    /// It came back.
    Bounced {
        /// What the server said.
        verdict: Verdict,
        /// The provider's own word, where the verdict says nothing.
        kind: Option<Kind>,
    },
    /// A server that has it is late.
    Delayed {
        /// What the server said.
        verdict: Verdict,
        /// Until when it is tried there, microseconds since the Unix epoch.
        expires_at: Option<i64>,
    },
    /// The provider refused it after it had taken it.
    Rejected {
        /// Why.
        reason: RejectReason,
    },
    /// The recipient complained.
    Complained {
        /// What about.
        complaint: Complaint,
    },
    /// It was opened.
    Opened {
        /// Whether it was a program.
        machine: Machine,
    },
    /// The recipient wants no more of its kind.
    Unsubscribed {
        /// How.
        method: UnsubscribeMethod,
    },
}

/// Writes down what is heard of one recipient. Feedback comes in any order and more than once: what is known already
/// changes nothing, and nothing turns a bounce back into a delivery.
#[derive(Debug, Clone)]
pub struct RecordFeedback {
    /// The mail.
    pub outbound: OutboundId,
    /// The recipient's number.
    pub recipient: u8,
    /// Its address, so that the suppression list is read for it.
    pub address: AddressId,
    /// What is heard.
    pub feedback: Feedback,
    /// Who told us.
    pub source: Source,
    /// What a server said.
    pub report: Report,
}

impl Command for RecordFeedback {
    type State = (Versioned<Outbound>, Versioned<Suppression>);
    type Rejected = Rejected;

    fn streams(&self) -> Vec<StreamId> {
        vec![StreamId::Outbound(self.outbound.clone()), StreamId::Suppression(self.address.clone())]
    }

    fn decide(&self, (mail, listed): &Self::State, at: &Moment) -> Result<Vec<crate::Event>, Rejected> {
        let accepted = mail.accepted.as_ref().ok_or(Rejected::Unknown)?;
        let recipient = mail.recipient(self.recipient).ok_or(Rejected::Unknown)?;
        if recipient.address != self.address {
            return Err(Rejected::AddressNotRead(recipient.address.clone()));
        }
        if matches!(recipient.status, Status::Waiting | Status::Cancelled) {
            return Err(Rejected::NotSent);
        }
        let heard = Heard { command: self, mail, subject: &accepted.mail, recipient, listed, now: at.now };
        Ok(with_notices(mail, at.now, heard.events()))
    }
}

struct Heard<'a> {
    command: &'a RecordFeedback,
    mail: &'a Outbound,
    subject: &'a Mail,
    recipient: &'a Recipient,
    listed: &'a Suppression,
    now: i64,
}

impl Heard<'_> {
    fn events(&self) -> Vec<crate::Event> {
        let status = self.recipient.status;
        let under_way =
            matches!(status, Status::InFlight { .. } | Status::Uncertain { .. } | Status::Sent | Status::Unknown);
        match &self.command.feedback {
            Feedback::Delivered if under_way => self.delivered(),
            // The server that took it had promised to say so.
            Feedback::Delivered if status == Status::Delivered => {
                confirmed(self.mail, self.command.recipient, &self.command.report, self.now)
            }
            Feedback::Bounced { verdict, kind } if under_way || status == Status::Delivered => {
                self.bounced(*verdict, *kind)
            }
            Feedback::Delayed { verdict, expires_at } if under_way && !self.recipient.delayed => {
                self.delayed(*verdict, *expires_at)
            }
            Feedback::Rejected { reason } if under_way => self.rejected(*reason),
            Feedback::Complained { complaint } if !self.recipient.complained => self.complained(*complaint),
            Feedback::Opened { machine } => self.opened(*machine),
            Feedback::Unsubscribed { method } if !self.recipient.unsubscribed => self.unsubscribed(*method),
            Feedback::Delivered
            | Feedback::Bounced { .. }
            | Feedback::Delayed { .. }
            | Feedback::Rejected { .. }
            | Feedback::Complained { .. }
            | Feedback::Unsubscribed { .. } => vec![],
        }
    }

    fn numbers(&self) -> [u8; 1] {
        [self.command.recipient]
    }

    fn parties(&self) -> super::Parties {
        self.mail.parties(&self.numbers()).saying(&self.command.report)
    }

    /// Returns whether the account of the recipient's attempt costs the managed price.
    fn managed(&self) -> bool {
        match self.recipient.status {
            Status::InFlight { attempt } | Status::Uncertain { attempt, .. } => {
                self.mail.open.get(&attempt).is_some_and(|open| open.managed)
            }
            _ => self.mail.managed,
        }
    }

    fn delivered(&self) -> Vec<crate::Event> {
        let facts = Delivered {
            mail: self.subject.clone(),
            recipients: self.numbers().to_vec(),
            source: self.command.source,
            account: self.mail.account.clone(),
            managed: self.managed(),
            booking: self.mail.charge(&self.numbers(), self.managed()),
            at: self.now,
            onward: None,
        };
        let delivered = crate::Event::Outbound(Event::Delivered(Halves::new(facts, self.parties())));
        let cleared = (!self.listed.evidence.is_empty()).then(|| evidence_cleared(&self.command.address));
        std::iter::once(delivered).chain(cleared).collect()
    }

    fn bounced(&self, verdict: Verdict, kind: Option<Kind>) -> Vec<crate::Event> {
        let facts = Bounced {
            mail: self.subject.clone(),
            recipient: self.command.recipient,
            address: self.command.address.clone(),
            kind: kind_of(verdict, kind),
            verdict,
            source: self.command.source,
            late: self.recipient.status == Status::Delivered,
            managed: self.managed(),
            // What comes back was taken before.
            booking: self.mail.charge(&self.numbers(), self.managed()),
            at: self.now,
        };
        let bounced = crate::Event::Outbound(Event::Bounced(Halves::new(facts, self.parties())));
        let (address, email) = (&self.command.address, self.recipient.email.as_deref());
        let outbound = self.subject.outbound.clone();
        let added = suppressed_by_bounce(self.listed, address, email, verdict, outbound, self.now);
        std::iter::once(bounced).chain(added).collect()
    }

    fn delayed(&self, verdict: Verdict, expires_at: Option<i64>) -> Vec<crate::Event> {
        let (mail, recipient, source) = (self.subject.clone(), self.command.recipient, self.command.source);
        let facts = Delayed { mail, recipient, verdict, source, expires_at };
        vec![crate::Event::Outbound(Event::Delayed(Halves::new(facts, self.parties())))]
    }

    fn rejected(&self, reason: RejectReason) -> Vec<crate::Event> {
        let facts = RejectedFacts {
            mail: self.subject.clone(),
            recipients: self.numbers().to_vec(),
            reason,
            verdict: None,
            booking: self.mail.release(&self.numbers()),
            at: self.now,
        };
        let rejected = crate::Event::Outbound(Event::Rejected(Halves::new(facts, self.parties())));
        // The provider does not write to it any more: trying again could only harm.
        let cause = Cause { reason: Reason::HardBounce, topic: None };
        let listed_there = reason == RejectReason::Suppressed && self.command.source == Source::Provider;
        let added = listed_there.then(|| self.suppressed(cause)).flatten();
        std::iter::once(rejected).chain(added).collect()
    }

    fn complained(&self, complaint: Complaint) -> Vec<crate::Event> {
        let (mail, recipient, source) = (self.subject.clone(), self.command.recipient, self.command.source);
        let facts = Complained { mail, recipient, complaint, source };
        let complained = crate::Event::Outbound(Event::Complained(Halves::new(facts, self.parties())));
        let cause = Cause { reason: Reason::Complaint, topic: None };
        let added = complaint.suppresses().then(|| self.suppressed(cause)).flatten();
        std::iter::once(complained).chain(added).collect()
    }

    fn opened(&self, machine: Machine) -> Vec<crate::Event> {
        let known = match machine {
            Machine::Yes => self.recipient.opened.1,
            Machine::No | Machine::Unknown => self.recipient.opened.0,
        };
        if known {
            return vec![];
        }
        let facts = Opened { mail: self.subject.clone(), recipient: self.command.recipient, machine };
        vec![crate::Event::Outbound(Event::Opened(Halves::new(facts, self.parties())))]
    }

    fn unsubscribed(&self, method: UnsubscribeMethod) -> Vec<crate::Event> {
        let topic = self.mail.accepted.as_ref().and_then(|a| a.topic.clone());
        let (mail, recipient) = (self.subject.clone(), self.command.recipient);
        let facts = Unsubscribed { mail, recipient, method, topic: topic.clone() };
        let unsubscribed = crate::Event::Outbound(Event::Unsubscribed(Halves::new(facts, self.parties())));
        let added = self.suppressed(Cause { reason: Reason::Unsubscribe, topic });
        std::iter::once(unsubscribed).chain(added).collect()
    }

    fn suppressed(&self, cause: Cause) -> Option<crate::Event> {
        let facts = suppression::Added {
            address: self.command.address.clone(),
            cause,
            expires_at: None,
            outbound: Some(self.subject.outbound.clone()),
        };
        let email = self.recipient.email.as_deref();
        let whom = email.map(|email| Whom { email: email.to_lowercase(), note: None });
        suppression::added(self.listed, facts, whom, self.now)
    }
}
