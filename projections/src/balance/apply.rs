//! The fold of money into the tables of [`super`].

use std::collections::BTreeMap;

use domain::Event;
use domain::balance::{Booking, Event as BalanceEvent, Note};
use domain::billing::Meter;
use domain::id::{PaymentId, TeamId};
use domain::money::Nanos;
use eventlog::Recorded;
use serde::{Deserialize, Serialize};

use super::{CURRENCY, Row, Summary, TransactionKind};
use crate::db::Tx;
use crate::table::Kind::{Int, Text};
use crate::table::{Existing, Rows, Table, cells};
use crate::usage::day_of;
use crate::{Error, Projection, signed};

const BALANCES: Table = Table {
    name: "balances",
    key: &[("currency", Text)],
    rest: &[
        ("purchased", Int),
        ("consumed", Int),
        ("held", Int),
        ("credit_limit", Int),
        ("open_since", Int),
        ("open_usage", Text),
        ("changed_position", Int),
    ],
};

const TRANSACTIONS: Table = Table {
    name: "transactions",
    key: &[("position", Int)],
    rest: &[
        ("epoch", Int),
        ("at", Int),
        ("kind", Text),
        ("meter", Text),
        ("units", Int),
        ("amount", Int),
        ("balance_before", Int),
        ("balance_after", Int),
        ("last_position", Int),
        ("last_at", Int),
        ("payment_id", Text),
        ("note", Text),
    ],
};

const DAYS: Table = Table {
    name: "balance_days",
    key: &[("day", Int)],
    rest: &[("purchased", Int), ("adjusted", Int), ("consumed", Int), ("transactions", Int)],
};

/// See [`super`].
#[derive(Debug)]
pub struct Balances;

#[async_trait::async_trait]
impl Projection for Balances {
    fn name(&self) -> &'static str {
        super::NAME
    }

    fn version(&self) -> i64 {
        1
    }

    fn schema(&self) -> &'static str {
        include_str!("../balance.sql")
    }

    fn tables(&self) -> &'static [&'static Table] {
        &[&BALANCES, &TRANSACTIONS, &DAYS]
    }

    async fn apply(&self, tx: &mut Tx<'_>, team: &TeamId, events: &[Recorded]) -> Result<(), Error> {
        let moves = |record: &&Recorded| match &record.event {
            Event::Balance(_) => true,
            Event::Outbound(e) => !e.booking().is_nothing(),
            _ => false,
        };
        let mut events = events.iter().filter(moves).peekable();
        if events.peek().is_none() {
            return Ok(());
        }
        let mut batch = Batch::load(tx, team).await?;
        events.for_each(|record| batch.fold(record));
        batch.write(tx, team).await
    }
}

/// The charges of one meter in the open group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Charges {
    meter: Meter,
    position: i64,
    epoch: i64,
    at: i64,
    units: i64,
    nanos: i64,
    last_position: i64,
    last_at: i64,
}

/// A row on its way.
struct NewRow {
    epoch: i64,
    at: i64,
    kind: TransactionKind,
    meter: Option<Meter>,
    units: Option<i64>,
    amount: i64,
    before: i64,
    last: (i64, i64),
    payment: Option<PaymentId>,
    note: Option<String>,
}

struct Batch {
    balance: Row,
    /// What was left when the open group began.
    open_since: i64,
    /// The open group, in the order in which its rows began.
    open: Vec<Charges>,
    /// Rows by position.
    rows: BTreeMap<i64, NewRow>,
    days: BTreeMap<i64, Summary>,
}

impl Batch {
    async fn load(tx: &mut Tx<'_>, team: &TeamId) -> Result<Self, Error> {
        let mut keys = Rows::new();
        keys.push(cells![CURRENCY]);
        let stored = BALANCES.load(tx, team, keys).await?;
        let (mut balance, mut open_since, mut open) = (Row::default(), 0, vec![]);
        if let Some(cells) = stored.first() {
            (balance, open_since) = (super::row(cells)?, cells.get("open_since")?);
            open = cells.json("open_usage")?;
        }
        Ok(Self { balance, open_since, open, rows: BTreeMap::new(), days: BTreeMap::new() })
    }

    fn fold(&mut self, record: &Recorded) {
        match &record.event {
            Event::Balance(BalanceEvent::ToppedUp(e)) => {
                self.paid(record, e.kind.into(), &e.payment, e.amount_nanos, e.personal.known());
                self.day(record).purchased.0 += e.amount_nanos.0;
            }
            Event::Balance(BalanceEvent::Adjusted(e)) => {
                self.paid(record, e.kind.into(), &e.payment, e.amount_nanos, e.personal.known());
                self.day(record).adjusted.0 += e.amount_nanos.0;
            }
            Event::Balance(BalanceEvent::UsageCharged(e)) => self.charge(record, e.meter, e.units, e.amount_nanos),
            Event::Balance(BalanceEvent::CreditLimitChanged(e)) => self.balance.credit_limit = e.credit_limit_nanos,
            Event::Outbound(e) => {
                let Booking { held_nanos, released_nanos, charged_nanos, charged_units } = e.booking();
                let held = &mut self.balance.held.0;
                *held = held.saturating_add(held_nanos.0).saturating_sub(released_nanos.0);
                if charged_units > 0 || charged_nanos.0 != 0 {
                    let meter = if e.is_managed() { Meter::ManagedRecipients } else { Meter::OutgoingRecipients };
                    self.charge(record, meter, i64::from(charged_units), charged_nanos);
                }
            }
            _ => return,
        }
        self.balance.changed_position = record.position;
    }

    fn day(&mut self, record: &Recorded) -> &mut Summary {
        self.days.entry(day_of(record.at)).or_default()
    }

    fn paid(
        &mut self,
        record: &Recorded,
        kind: TransactionKind,
        payment: &PaymentId,
        amount: Nanos,
        note: Option<&Note>,
    ) {
        self.close();
        let (position, before) = (signed(record.position), self.balance.left().0);
        let row = NewRow {
            epoch: i64::from(record.epoch),
            at: record.at,
            kind,
            meter: None,
            units: None,
            amount: amount.0,
            before,
            last: (position, record.at),
            payment: Some(payment.clone()),
            note: note.and_then(|note| note.note.clone()),
        };
        self.rows.insert(position, row);
        self.balance.purchased = Nanos(self.balance.purchased.0.saturating_add(amount.0));
        self.day(record).transactions += 1;
    }

    fn charge(&mut self, record: &Recorded, meter: Meter, units: i64, amount: Nanos) {
        if self.open.first().is_some_and(|first| day_of(first.at) != day_of(record.at)) {
            self.close();
        }
        if self.open.is_empty() {
            self.open_since = self.balance.left().0;
        }
        let (position, at) = (signed(record.position), record.at);
        if let Some(charges) = self.open.iter_mut().find(|charges| charges.meter == meter) {
            charges.units = charges.units.saturating_add(units);
            charges.nanos = charges.nanos.saturating_add(amount.0);
            (charges.last_position, charges.last_at) = (position, at);
        } else {
            let (epoch, nanos) = (i64::from(record.epoch), amount.0);
            self.open.push(Charges { meter, position, epoch, at, units, nanos, last_position: position, last_at: at });
            self.day(record).transactions += 1;
        }
        self.balance.consumed = Nanos(self.balance.consumed.0.saturating_add(amount.0));
        let consumed = &mut self.day(record).consumed.0;
        *consumed = consumed.saturating_add(amount.0);
    }

    /// Makes rows of the open group.
    fn show_open(&mut self) {
        let mut before = self.open_since;
        for charges in &self.open {
            let row = NewRow {
                epoch: charges.epoch,
                at: charges.at,
                kind: TransactionKind::Usage,
                meter: Some(charges.meter),
                units: Some(charges.units),
                amount: charges.nanos.saturating_neg(),
                before,
                last: (charges.last_position, charges.last_at),
                payment: None,
                note: None,
            };
            before = before.saturating_sub(charges.nanos);
            self.rows.insert(charges.position, row);
        }
    }

    fn close(&mut self) {
        self.show_open();
        self.open.clear();
    }

    async fn write(mut self, tx: &mut Tx<'_>, team: &TeamId) -> Result<(), Error> {
        self.show_open();
        let mut rows = Rows::new();
        for (position, row) in &self.rows {
            rows.push(cells![
                *position,
                row.epoch,
                row.at,
                row.kind.as_str(),
                row.meter.map(Meter::as_str),
                row.units,
                row.amount,
                row.before,
                row.before.saturating_add(row.amount),
                row.last.0,
                row.last.1,
                row.payment.as_ref().map(PaymentId::as_str),
                row.note.as_ref(),
            ]);
        }
        TRANSACTIONS.insert(tx, team, rows, Existing::Replace).await?;
        let mut rows = Rows::new();
        for (day, sum) in &self.days {
            rows.push(cells![*day, sum.purchased.0, sum.adjusted.0, sum.consumed.0, sum.transactions]);
        }
        const ADD: &str = "ON CONFLICT (team_id, day) DO UPDATE
            SET purchased = balance_days.purchased + excluded.purchased,
                adjusted = balance_days.adjusted + excluded.adjusted,
                consumed = balance_days.consumed + excluded.consumed,
                transactions = balance_days.transactions + excluded.transactions";
        DAYS.insert(tx, team, rows, Existing::Clause(ADD)).await?;
        let b = &self.balance;
        let open = serde_json::to_string(&self.open)?;
        let (purchased, consumed, held) = (b.purchased.0, b.consumed.0, b.held.0);
        let mut rows = Rows::new();
        rows.push(cells![
            CURRENCY,
            purchased,
            consumed,
            held,
            b.credit_limit.0,
            self.open_since,
            &open,
            b.changed_position,
        ]);
        BALANCES.insert(tx, team, rows, Existing::Replace).await
    }
}
