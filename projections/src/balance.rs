//! A team's money: the balance now, each transaction with the balance before and after it, and sums per UTC day.
//!
//! Charges of mail come by the thousand, so they are grouped: one transaction per meter for all charges of a UTC day
//! that no payment comes between. Such a row grows until its day ends or money comes in, and is never touched again.
//! Rows of one group stand one behind another, so that each begins with the balance the one before it ended with.

mod apply;

use domain::balance::{AdjustmentKind, PaymentKind};
use domain::billing::Meter;
use domain::id::{EventId, PaymentId, Position, TeamId, TransactionId};
use domain::money::Nanos;

use crate::db::{Cells, Select, corrupt};
use crate::{Error, Page, Paged, Views, signed};

pub use apply::Balances;

/// The projection's name.
pub const NAME: &str = "balance";

/// The only currency there is.
const CURRENCY: &str = "USD";

/// A team's money now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Row {
    /// All that was paid in, corrections included.
    pub purchased: Nanos,
    /// All that was charged.
    pub consumed: Nanos,
    /// What is held for mail under way.
    pub held: Nanos,
    /// How far below zero the team may spend.
    pub credit_limit: Nanos,
    /// Where in the log it last changed.
    pub changed_position: Position,
}

impl Row {
    /// Returns what is left of what was paid in, holds not counted.
    #[must_use]
    pub fn left(&self) -> Nanos {
        Nanos(self.purchased.0.saturating_sub(self.consumed.0))
    }

    /// Returns what can be spent now.
    #[must_use]
    pub fn available(&self) -> Nanos {
        Nanos(self.left().0.saturating_sub(self.held.0).saturating_add(self.credit_limit.0))
    }
}

/// What a transaction is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum TransactionKind {
    /// Somebody paid.
    Purchase,
    /// An automatic payment.
    AutoTopUp,
    /// A gift of the operator.
    Credit,
    /// Money went back.
    Refund,
    /// A correction.
    Adjustment,
    /// Something was used.
    Usage,
}

impl TransactionKind {
    /// All kinds.
    pub const ALL: [Self; 6] =
        [Self::Purchase, Self::AutoTopUp, Self::Credit, Self::Refund, Self::Adjustment, Self::Usage];

    /// Returns the name as stored.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Purchase => "purchase",
            Self::AutoTopUp => "auto_top_up",
            Self::Credit => "credit",
            Self::Refund => "refund",
            Self::Adjustment => "adjustment",
            Self::Usage => "usage",
        }
    }
}

impl From<PaymentKind> for TransactionKind {
    fn from(kind: PaymentKind) -> Self {
        match kind {
            PaymentKind::Purchase => Self::Purchase,
            PaymentKind::AutoTopUp => Self::AutoTopUp,
            PaymentKind::Credit => Self::Credit,
        }
    }
}

impl From<AdjustmentKind> for TransactionKind {
    fn from(kind: AdjustmentKind) -> Self {
        match kind {
            AdjustmentKind::Refund => Self::Refund,
            AdjustmentKind::Adjustment => Self::Adjustment,
        }
    }
}

/// A payment, a correction, or the charges of one meter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transaction {
    /// The row's id.
    pub id: TransactionId,
    /// Its event, or the first of them; the order of the list.
    pub position: Position,
    /// The last of its events.
    pub last_position: Position,
    /// When it began, microseconds since the Unix epoch.
    pub at: i64,
    /// When it last grew.
    pub last_at: i64,
    /// What it is.
    pub kind: TransactionKind,
    /// What was used.
    pub meter: Option<Meter>,
    /// How many units were used.
    pub units: Option<i64>,
    /// How much more the team has; negative for what was used.
    pub amount: Nanos,
    /// What was left before it, holds not counted.
    pub balance_before: Nanos,
    /// What was left after it.
    pub balance_after: Nanos,
    /// The payment or correction.
    pub payment: Option<PaymentId>,
    /// What the operator wrote beside it; `None` after erasure.
    pub note: Option<String>,
}

/// What came in and went out over some days.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Summary {
    /// What was paid in.
    pub purchased: Nanos,
    /// What corrections brought, negative for less.
    pub adjusted: Nanos,
    /// What was charged.
    pub consumed: Nanos,
    /// How many transactions began.
    pub transactions: u64,
}

/// Returns the balance of a team; all zero before anything happened.
///
/// # Errors
/// The database does not answer.
pub async fn get(views: &Views, team: &TeamId) -> Result<Row, Error> {
    let mut select =
        Select::new("SELECT purchased, consumed, held, credit_limit, changed_position FROM balances WHERE team_id = ");
    select.text(team.as_str()).push(" AND currency = ").text(CURRENCY);
    let rows = select.fetch(&mut views.read().await?).await?;
    rows.first().map_or_else(|| Ok(Row::default()), row)
}

fn row(cells: &Cells) -> Result<Row, Error> {
    Ok(Row {
        purchased: Nanos(cells.get("purchased")?),
        consumed: Nanos(cells.get("consumed")?),
        held: Nanos(cells.get("held")?),
        credit_limit: Nanos(cells.get("credit_limit")?),
        changed_position: cells.unsigned("changed_position")?,
    })
}

/// Returns transactions, newest first; only of these kinds if there are any.
///
/// # Errors
/// [`Error::BadCursor`], or the database does not answer.
pub async fn transactions(
    views: &Views,
    team: &TeamId,
    kinds: &[TransactionKind],
    page: &Page,
) -> Result<Paged<Transaction>, Error> {
    const LIST: &str = "transactions";
    let mut select = Select::new(
        "SELECT position, epoch, at, kind, meter, units, amount, balance_before, balance_after, last_position, last_at,
                payment_id, note
         FROM transactions WHERE team_id = ",
    );
    select.text(team.as_str());
    for (i, kind) in kinds.iter().enumerate() {
        select.push(if i == 0 { " AND kind IN (" } else { ", " }).text(kind.as_str());
    }
    if !kinds.is_empty() {
        select.push(")");
    }
    if let Some(position) = page.key::<Position>(LIST)? {
        select.push(" AND position < ").int(signed(position));
    }
    select.push(" ORDER BY position DESC LIMIT ").int(page.fetch());
    let rows = select.fetch(&mut views.read().await?).await?;
    let rows = rows.iter().map(|cells| transaction(team, cells)).collect::<Result<_, _>>()?;
    Paged::new(rows, page, LIST, |row: &Transaction| row.position)
}

fn transaction(team: &TeamId, cells: &Cells) -> Result<Transaction, Error> {
    let position = cells.unsigned("position")?;
    let epoch = u16::try_from(cells.get::<i64>("epoch")?).map_err(|e| corrupt("epoch", e))?;
    let (kind, meter): (String, Option<String>) = (cells.text("kind")?, cells.get("meter")?);
    let kind = TransactionKind::ALL.into_iter().find(|k| k.as_str() == kind);
    Ok(Transaction {
        id: TransactionId::of_event(&EventId::new(team, epoch, position)),
        position,
        last_position: cells.unsigned("last_position")?,
        at: cells.get("at")?,
        last_at: cells.get("last_at")?,
        kind: kind.ok_or_else(|| corrupt("kind", std::fmt::Error))?,
        meter: meter.as_deref().and_then(Meter::parse),
        units: cells.get("units")?,
        amount: Nanos(cells.get("amount")?),
        balance_before: Nanos(cells.get("balance_before")?),
        balance_after: Nanos(cells.get("balance_after")?),
        payment: cells.parsed_opt("payment_id")?,
        note: cells.get("note")?,
    })
}

/// Returns what came in and went out between two UTC days, both inclusive; days since 1970-01-01.
///
/// # Errors
/// The database does not answer.
pub async fn summary(views: &Views, team: &TeamId, from_day: i64, to_day: i64) -> Result<Summary, Error> {
    let mut select = Select::new(
        "SELECT CAST(COALESCE(SUM(purchased), 0) AS BIGINT) AS purchased,
                CAST(COALESCE(SUM(adjusted), 0) AS BIGINT) AS adjusted,
                CAST(COALESCE(SUM(consumed), 0) AS BIGINT) AS consumed,
                CAST(COALESCE(SUM(transactions), 0) AS BIGINT) AS transactions
         FROM balance_days WHERE team_id = ",
    );
    select.text(team.as_str()).push(" AND day >= ").int(from_day).push(" AND day <= ").int(to_day);
    let rows = select.fetch(&mut views.read().await?).await?;
    let Some(cells) = rows.first() else { return Ok(Summary::default()) };
    Ok(Summary {
        purchased: Nanos(cells.get("purchased")?),
        adjusted: Nanos(cells.get("adjusted")?),
        consumed: Nanos(cells.get("consumed")?),
        transactions: cells.unsigned("transactions")?,
    })
}
