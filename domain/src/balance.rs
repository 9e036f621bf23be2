//! A team's money: what was paid in, what is held for mail under way, and what was charged.
//!
//! Holds and charges come with the events of outgoing mail, which are linked into this stream, so that a decision
//! about money and the mail it is about are one append.
//!
//! Invariants:
//! - Spendable money is what was paid in, less what was charged and what is held, plus the credit limit.
//! - A payment is booked once, however often it is told.
//! - Usage of a meter is charged once per day.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::billing::Meter;
use crate::entity::{Fold, Versioned, fold_of};
use crate::event::stored_events;
use crate::id::PaymentId;
use crate::money::Nanos;
use crate::personal::Halves;
use crate::team::Team;
use crate::{Command, Moment, StreamId};

/// How many of the latest payments are remembered, to recognise one that is told again.
pub const PAYMENTS_REMEMBERED: usize = 64;

/// Where money came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PaymentKind {
    /// Somebody paid.
    Purchase,
    /// An automatic payment.
    AutoTopUp,
    /// A gift of the operator, for example to a new team.
    Credit,
}

/// Facts of `balance.topped_up`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ToppedUp {
    /// Names the payment.
    pub payment: PaymentId,
    /// Where the money came from.
    pub kind: PaymentKind,
    /// How much, more than nothing.
    pub amount_nanos: Nanos,
}

/// Why a balance was corrected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AdjustmentKind {
    /// Money went back.
    Refund,
    /// A correction.
    Adjustment,
}

/// Facts of `balance.adjusted`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Adjusted {
    /// Names the correction.
    pub payment: PaymentId,
    /// Why.
    pub kind: AdjustmentKind,
    /// How much more the team has from now on; negative for less.
    pub amount_nanos: Nanos,
}

/// Personal half of payments and corrections.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Note {
    /// What the operator wrote beside it, at most 255 characters.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub note: Option<String>,
}

/// Facts of `balance.usage_charged`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UsageCharged {
    /// What was counted.
    pub meter: Meter,
    /// UTC day: days since 1970-01-01.
    pub day: i64,
    /// How many units.
    pub units: i64,
    /// What they cost.
    pub amount_nanos: Nanos,
}

/// Facts of `balance.credit_limit_changed`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CreditLimitChanged {
    /// How far below zero the team may spend.
    pub credit_limit_nanos: Nanos,
}

stored_events! {
    /// What can happen to a balance besides the holds and charges of mail.
    enum Event;
    /// Money came in.
    ToppedUp(ToppedUp, Note) = "balance.topped_up" v 1;
    /// It was corrected.
    Adjusted(Adjusted, Note) = "balance.adjusted" v 1;
    /// A day's use of a meter was charged.
    UsageCharged(UsageCharged) = "balance.usage_charged" v 1;
    /// The team may spend before it pays.
    CreditLimitChanged(CreditLimitChanged) = "balance.credit_limit_changed" v 1;
}

/// What an event does to the money of a mail. Facts, so that a change of prices never changes the past.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Booking {
    /// How much more is held.
    #[serde(skip_serializing_if = "is_zero", default)]
    pub held_nanos: Nanos,
    /// How much less is held.
    #[serde(skip_serializing_if = "is_zero", default)]
    pub released_nanos: Nanos,
    /// How much is charged.
    #[serde(skip_serializing_if = "is_zero", default)]
    pub charged_nanos: Nanos,
    /// For how many recipients.
    #[serde(skip_serializing_if = "is_none", default)]
    pub charged_units: u32,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands over references")]
fn is_none(units: &u32) -> bool {
    *units == 0
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands over references")]
fn is_zero(nanos: &Nanos) -> bool {
    *nanos == Nanos::default()
}

impl Booking {
    /// Returns whether it moves no money.
    #[must_use]
    pub fn is_nothing(&self) -> bool {
        *self == Self::default()
    }
}

/// The fold of a team's money.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Balance {
    /// All that was paid in, corrections included.
    pub purchased: Nanos,
    /// All that was charged.
    pub consumed: Nanos,
    /// What is held for mail under way.
    pub held: Nanos,
    /// How far below zero the team may spend.
    pub credit_limit: Nanos,
    /// The last day that was charged, per meter.
    pub charged_until: BTreeMap<Meter, i64>,
    /// The latest payments, oldest first.
    pub payments: Vec<PaymentId>,
}

impl Balance {
    /// Returns what can be spent now.
    #[must_use]
    pub fn available(&self) -> Nanos {
        let sum = i128::from(self.purchased.0) - i128::from(self.consumed.0) - i128::from(self.held.0)
            + i128::from(self.credit_limit.0);
        Nanos(i64::try_from(sum).unwrap_or(if sum < 0 { i64::MIN } else { i64::MAX }))
    }

    /// Returns what is left of what was paid in, holds not counted.
    #[must_use]
    pub fn left(&self) -> Nanos {
        Nanos(self.purchased.0.saturating_sub(self.consumed.0))
    }

    fn book(&mut self, booking: Booking) {
        self.held = Nanos(self.held.0.saturating_add(booking.held_nanos.0).saturating_sub(booking.released_nanos.0));
        self.consumed = Nanos(self.consumed.0.saturating_add(booking.charged_nanos.0));
    }

    fn paid(&mut self, payment: &PaymentId, amount: Nanos) {
        self.purchased = Nanos(self.purchased.0.saturating_add(amount.0));
        if self.payments.len() >= PAYMENTS_REMEMBERED {
            self.payments.remove(0);
        }
        self.payments.push(payment.clone());
    }
}

impl Fold for Balance {
    fn evolve(&mut self, event: &crate::Event) {
        match event {
            crate::Event::Balance(Event::ToppedUp(e)) => self.paid(&e.payment, e.amount_nanos),
            crate::Event::Balance(Event::Adjusted(e)) => self.paid(&e.payment, e.amount_nanos),
            crate::Event::Balance(Event::UsageCharged(e)) => {
                self.book(Booking { charged_nanos: e.amount_nanos, ..Booking::default() });
                self.charged_until.insert(e.meter, e.day);
            }
            crate::Event::Balance(Event::CreditLimitChanged(e)) => self.credit_limit = e.credit_limit_nanos,
            crate::Event::Outbound(e) => self.book(e.booking()),
            _ => {}
        }
    }

    fold_of!(Balance, Balance);
}

/// Why a balance command can be refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Rejected {
    /// There is no such team.
    #[error("no such team")]
    UnknownTeam,
    /// A payment must bring something.
    #[error("the amount must be more than zero")]
    NotPositive,
    /// A credit limit below zero says nothing.
    #[error("the credit limit must not be negative")]
    NegativeLimit,
    /// The meter is charged with the mail itself.
    #[error("this meter is charged with each mail")]
    ChargedWithMail,
}

/// Books a payment.
#[derive(Debug, Clone)]
pub struct TopUp {
    /// Names the payment; told again, it is not booked again.
    pub payment: PaymentId,
    /// Where the money came from.
    pub kind: PaymentKind,
    /// How much.
    pub amount: Nanos,
    /// What is written beside it.
    pub note: Option<String>,
}

impl Command for TopUp {
    type State = (Versioned<Team>, Versioned<Balance>);
    type Rejected = Rejected;

    fn streams(&self) -> Vec<StreamId> {
        vec![StreamId::Team, StreamId::Balance]
    }

    fn decide(&self, (team, balance): &Self::State, _: &Moment) -> Result<Vec<crate::Event>, Rejected> {
        if team.id.is_none() {
            return Err(Rejected::UnknownTeam);
        }
        if self.amount.0 <= 0 {
            return Err(Rejected::NotPositive);
        }
        if balance.payments.contains(&self.payment) {
            return Ok(vec![]);
        }
        let facts = ToppedUp { payment: self.payment.clone(), kind: self.kind, amount_nanos: self.amount };
        let note = Note { note: self.note.clone() };
        Ok(vec![crate::Event::Balance(Event::ToppedUp(Halves::new(facts, note)))])
    }
}

/// Corrects a balance.
#[derive(Debug, Clone)]
pub struct AdjustBalance {
    /// Names the correction; told again, it is not booked again.
    pub payment: PaymentId,
    /// Why.
    pub kind: AdjustmentKind,
    /// How much more, negative for less.
    pub amount: Nanos,
    /// What is written beside it.
    pub note: Option<String>,
}

impl Command for AdjustBalance {
    type State = (Versioned<Team>, Versioned<Balance>);
    type Rejected = Rejected;

    fn streams(&self) -> Vec<StreamId> {
        vec![StreamId::Team, StreamId::Balance]
    }

    fn decide(&self, (team, balance): &Self::State, _: &Moment) -> Result<Vec<crate::Event>, Rejected> {
        if team.id.is_none() {
            return Err(Rejected::UnknownTeam);
        }
        if balance.payments.contains(&self.payment) || self.amount.0 == 0 {
            return Ok(vec![]);
        }
        let facts = Adjusted { payment: self.payment.clone(), kind: self.kind, amount_nanos: self.amount };
        let note = Note { note: self.note.clone() };
        Ok(vec![crate::Event::Balance(Event::Adjusted(Halves::new(facts, note)))])
    }
}

/// Changes how far below zero a team may spend.
#[derive(Debug, Clone)]
pub struct ChangeCreditLimit {
    /// The limit from now on.
    pub credit_limit: Nanos,
}

impl Command for ChangeCreditLimit {
    type State = (Versioned<Team>, Versioned<Balance>);
    type Rejected = Rejected;

    fn streams(&self) -> Vec<StreamId> {
        vec![StreamId::Team, StreamId::Balance]
    }

    fn decide(&self, (team, balance): &Self::State, _: &Moment) -> Result<Vec<crate::Event>, Rejected> {
        if team.id.is_none() {
            return Err(Rejected::UnknownTeam);
        }
        if self.credit_limit.0 < 0 {
            return Err(Rejected::NegativeLimit);
        }
        if balance.credit_limit == self.credit_limit {
            return Ok(vec![]);
        }
        let facts = CreditLimitChanged { credit_limit_nanos: self.credit_limit };
        Ok(vec![crate::Event::Balance(Event::CreditLimitChanged(facts.into()))])
    }
}

/// Charges a day's use of a meter that is not charged with each mail (received mail, storage).
///
/// Never refused for want of money: what was used is owed.
#[derive(Debug, Clone)]
pub struct ChargeUsage {
    /// What was counted.
    pub meter: Meter,
    /// UTC day: days since 1970-01-01. Days are charged in order, each once.
    pub day: i64,
    /// How many units.
    pub units: i64,
    /// What they cost.
    pub amount: Nanos,
}

impl Command for ChargeUsage {
    type State = Versioned<Balance>;
    type Rejected = Rejected;

    fn streams(&self) -> Vec<StreamId> {
        vec![StreamId::Balance]
    }

    fn decide(&self, balance: &Self::State, _: &Moment) -> Result<Vec<crate::Event>, Rejected> {
        if self.meter.is_charged_with_mail() {
            return Err(Rejected::ChargedWithMail);
        }
        let done = balance.charged_until.get(&self.meter).is_some_and(|last| *last >= self.day);
        if done || self.amount.0 <= 0 {
            return Ok(vec![]);
        }
        let facts = UsageCharged { meter: self.meter, day: self.day, units: self.units, amount_nanos: self.amount };
        Ok(vec![crate::Event::Balance(Event::UsageCharged(facts.into()))])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{fold, given, payment_id, team_created};

    fn top_up(n: u8, amount: i64) -> TopUp {
        TopUp { payment: payment_id(n), kind: PaymentKind::Purchase, amount: Nanos(amount), note: None }
    }

    #[test]
    fn a_payment_told_twice_is_booked_once() {
        let mut log = team_created();
        log.extend(given(log.clone()).when(top_up(1, 5)).then_events());
        given(log.clone()).when(top_up(1, 5)).then_nothing();
        let balance: Versioned<Balance> = fold(&[StreamId::Balance], &log);
        assert_eq!(balance.available(), Nanos(5));
        given(log).when(top_up(2, 0)).then_rejected(&Rejected::NotPositive);
    }

    #[test]
    fn a_day_of_a_meter_is_charged_once_and_in_order() {
        let mut log = team_created();
        let charge = |day| ChargeUsage { meter: Meter::InboundMessages, day, units: 3, amount: Nanos(450) };
        log.extend(given(log.clone()).when(charge(10)).then_events());
        given(log.clone()).when(charge(9)).then_nothing();
        given(log.clone()).when(charge(10)).then_nothing();
        let balance: Versioned<Balance> = fold(&[StreamId::Balance], &log);
        assert_eq!((balance.consumed, balance.available()), (Nanos(450), Nanos(-450)));
        let wrong = ChargeUsage { meter: Meter::OutgoingRecipients, ..charge(11) };
        given(log).when(wrong).then_rejected(&Rejected::ChargedWithMail);
    }

    #[test]
    fn a_credit_limit_can_be_spent_before_anything_is_paid() {
        let mut log = team_created();
        log.extend(given(log.clone()).when(ChangeCreditLimit { credit_limit: Nanos(7) }).then_events());
        let balance: Versioned<Balance> = fold(&[StreamId::Balance], &log);
        assert_eq!((balance.available(), balance.left()), (Nanos(7), Nanos(0)));
    }
}
