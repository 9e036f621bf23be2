//! What people ask of a mail that was accepted: later, never, now.

use super::event::{Cancelled, Event, Postponed, Released, Rescheduled, RetryRequested, Subject};
use super::notice::with_notices;
use super::parts::PostponeReason;
use super::{Outbound, Rejected, Status, UNKNOWN_AFTER_MICROS};
use crate::entity::Versioned;
use crate::id::OutboundId;
use crate::personal::Halves;
use crate::{Command, Moment, StreamId};

/// Sends a mail at another time, as long as no attempt was started.
#[derive(Debug, Clone)]
pub struct RescheduleMail {
    /// The mail.
    pub outbound: OutboundId,
    /// When it is to be sent, microseconds since the Unix epoch; a moment in the past means now.
    pub send_at: i64,
    /// The version the caller has read.
    pub if_version: Option<u64>,
}

impl Command for RescheduleMail {
    type State = Versioned<Outbound>;
    type Rejected = Rejected;

    fn streams(&self) -> Vec<StreamId> {
        vec![StreamId::Outbound(self.outbound.clone())]
    }

    fn decide(&self, mail: &Self::State, at: &Moment) -> Result<Vec<crate::Event>, Rejected> {
        let accepted = mail.accepted.as_ref().ok_or(Rejected::Unknown)?;
        match self.if_version {
            Some(version) if version != mail.version => {
                return Err(Rejected::VersionMismatch { current: mail.version });
            }
            _ => {}
        }
        if mail.attempts > 0 || mail.is_settled() || mail.cancelled {
            return Err(Rejected::TooLate);
        }
        // A mail's life is counted from when it is due: a moment long past would end it at once.
        let send_at = self.send_at.max(at.now);
        if mail.send_at == Some(send_at) {
            return Ok(vec![]);
        }
        let facts = Rescheduled { mail: accepted.mail.clone(), send_at };
        Ok(vec![crate::Event::Outbound(Event::Rescheduled(facts.into()))])
    }
}

/// Stops a mail, or lets it go on. It keeps its age meanwhile.
#[derive(Debug, Clone)]
pub struct SwitchMail {
    /// The mail.
    pub outbound: OutboundId,
    /// Whether it waits from now on.
    pub paused: bool,
}

impl Command for SwitchMail {
    type State = Versioned<Outbound>;
    type Rejected = Rejected;

    fn streams(&self) -> Vec<StreamId> {
        vec![StreamId::Outbound(self.outbound.clone())]
    }

    fn decide(&self, mail: &Self::State, _: &Moment) -> Result<Vec<crate::Event>, Rejected> {
        let accepted = mail.accepted.as_ref().ok_or(Rejected::Unknown)?;
        if mail.paused == self.paused {
            return Ok(vec![]);
        }
        if mail.is_settled() {
            return Err(Rejected::TooLate);
        }
        let facts = Subject { mail: accepted.mail.clone() };
        let event = if self.paused { Event::Paused(facts.into()) } else { Event::Resumed(facts.into()) };
        Ok(vec![crate::Event::Outbound(event)])
    }
}

/// Ends a mail for all recipients that wait; what is in flight ends as soon as it would wait again.
#[derive(Debug, Clone)]
pub struct CancelMail {
    /// The mail.
    pub outbound: OutboundId,
}

impl Command for CancelMail {
    type State = Versioned<Outbound>;
    type Rejected = Rejected;

    fn streams(&self) -> Vec<StreamId> {
        vec![StreamId::Outbound(self.outbound.clone())]
    }

    fn decide(&self, mail: &Self::State, _: &Moment) -> Result<Vec<crate::Event>, Rejected> {
        let accepted = mail.accepted.as_ref().ok_or(Rejected::Unknown)?;
        if mail.cancelled {
            return Ok(vec![]);
        }
        if mail.is_settled() {
            return Err(Rejected::TooLate);
        }
        let waiting = mail.numbers(|r| r.status == Status::Waiting);
        let (booking, parties) = (mail.release(&waiting), mail.parties(&waiting));
        let facts = Cancelled { mail: accepted.mail.clone(), recipients: waiting, booking };
        Ok(vec![crate::Event::Outbound(Event::Cancelled(Halves::new(facts, parties)))])
    }
}

/// Makes a mail due now. Recipients who may have it are sent to again only if that is asked for in so many words.
#[derive(Debug, Clone)]
pub struct RetryMail {
    /// The mail.
    pub outbound: OutboundId,
    /// Whether recipients with an uncertain outcome are sent to again, perhaps twice.
    pub resend_uncertain: bool,
}

impl Command for RetryMail {
    type State = Versioned<Outbound>;
    type Rejected = Rejected;

    fn streams(&self) -> Vec<StreamId> {
        vec![StreamId::Outbound(self.outbound.clone())]
    }

    fn decide(&self, mail: &Self::State, at: &Moment) -> Result<Vec<crate::Event>, Rejected> {
        let accepted = mail.accepted.as_ref().ok_or(Rejected::Unknown)?;
        let doubtful = |status| self.resend_uncertain && matches!(status, Status::Uncertain { .. });
        let late = |due_at: i64| due_at > at.now || mail.postponed.is_some();
        let recipients = mail.numbers(|r| (r.status == Status::Waiting && late(r.due_at)) || doubtful(r.status));
        if mail.cancelled || mail.is_settled() {
            return Err(Rejected::TooLate);
        }
        if recipients.is_empty() {
            return Ok(vec![]);
        }
        let uncertain = recipients.iter().any(|n| mail.recipient(*n).is_some_and(|r| doubtful(r.status)));
        let facts = RetryRequested { mail: accepted.mail.clone(), recipients, uncertain, at: at.now };
        Ok(vec![crate::Event::Outbound(Event::RetryRequested(facts.into()))])
    }
}

/// Writes down why a mail waits though it is due; once per reason.
#[derive(Debug, Clone)]
pub struct PostponeMail {
    /// The mail.
    pub outbound: OutboundId,
    /// Why.
    pub reason: PostponeReason,
    /// Until when, if that is known, microseconds since the Unix epoch.
    pub until: Option<i64>,
}

impl Command for PostponeMail {
    type State = Versioned<Outbound>;
    type Rejected = Rejected;

    fn streams(&self) -> Vec<StreamId> {
        vec![StreamId::Outbound(self.outbound.clone())]
    }

    fn decide(&self, mail: &Self::State, _: &Moment) -> Result<Vec<crate::Event>, Rejected> {
        let accepted = mail.accepted.as_ref().ok_or(Rejected::Unknown)?;
        let known = mail.postponed.is_some_and(|(reason, _)| reason == self.reason);
        let waits = mail.recipients.iter().any(|r| r.status == Status::Waiting);
        if known || !waits {
            return Ok(vec![]);
        }
        let facts = Postponed { mail: accepted.mail.clone(), reason: self.reason, until: self.until };
        Ok(vec![crate::Event::Outbound(Event::Postponed(facts.into()))])
    }
}

/// Lets the money of recipients go whose outcome has been uncertain for 24 hours.
#[derive(Debug, Clone)]
pub struct ReleaseUncertain {
    /// The mail.
    pub outbound: OutboundId,
}

impl Command for ReleaseUncertain {
    type State = Versioned<Outbound>;
    type Rejected = Rejected;

    fn streams(&self) -> Vec<StreamId> {
        vec![StreamId::Outbound(self.outbound.clone())]
    }

    fn decide(&self, mail: &Self::State, at: &Moment) -> Result<Vec<crate::Event>, Rejected> {
        let accepted = mail.accepted.as_ref().ok_or(Rejected::Unknown)?;
        let recipients = mail
            .numbers(|r| matches!(r.status, Status::Uncertain { since, .. } if at.now - since >= UNKNOWN_AFTER_MICROS));
        if recipients.is_empty() {
            return Ok(vec![]);
        }
        let booking = mail.release(&recipients);
        let facts = Released { mail: accepted.mail.clone(), recipients, booking };
        Ok(with_notices(mail, at.now, vec![crate::Event::Outbound(Event::Released(facts.into()))]))
    }
}
