//! `postlog billing`: a team's money by the hand of the operator.

use anyhow::{Context as _, bail};
use domain::balance::{AdjustBalance, AdjustmentKind, Balance, ChangeCreditLimit, PaymentKind, TopUp};
use domain::id::{PaymentId, TeamId};
use domain::money::Nanos;
use domain::{StreamId, Versioned};

use super::{print, submit, team_id};
use crate::cli;
use crate::config::Config;
use crate::store::{Purpose, Store};

const NOTE_CHARS_MAX: usize = 255;

/// `postlog billing`
///
/// # Errors
/// An argument is not understood, or the log is not available or refuses.
pub async fn billing(config: &Config, command: cli::Billing) -> anyhow::Result<()> {
    match command {
        cli::Billing::Show { team } => {
            let (team, store) = (team_id(&team)?, Store::open(config, Purpose::Command).await?);
            show(&store, &team).await
        }
        cli::Billing::TopUp { team, amount, payment, credit, note } => {
            let (team, amount, note) = (team_id(&team)?, dollars(&amount)?, checked(note)?);
            let store = Store::open(config, Purpose::Command).await?;
            let kind = if credit { PaymentKind::Credit } else { PaymentKind::Purchase };
            let payment = payment_id(&store, payment)?;
            submit(&store, &team, TopUp { payment, kind, amount, note }).await?;
            show(&store, &team).await
        }
        cli::Billing::Adjust { team, amount, payment, refund, note } => {
            let (team, amount, note) = (team_id(&team)?, dollars(&amount)?, checked(note)?);
            let store = Store::open(config, Purpose::Command).await?;
            let kind = if refund { AdjustmentKind::Refund } else { AdjustmentKind::Adjustment };
            let payment = payment_id(&store, payment)?;
            submit(&store, &team, AdjustBalance { payment, kind, amount, note }).await?;
            show(&store, &team).await
        }
        cli::Billing::CreditLimit { team, amount } => {
            let (team, credit_limit) = (team_id(&team)?, dollars(&amount)?);
            let store = Store::open(config, Purpose::Command).await?;
            submit(&store, &team, ChangeCreditLimit { credit_limit }).await?;
            show(&store, &team).await
        }
    }
}

async fn show(store: &Store, team: &TeamId) -> anyhow::Result<()> {
    let balance: Versioned<Balance> = store.log.state(team, &[StreamId::Balance]).await?;
    print(format_args!("paid          {}", balance.purchased))?;
    print(format_args!("charged       {}", balance.consumed))?;
    print(format_args!("held          {}", balance.held))?;
    print(format_args!("credit limit  {}", balance.credit_limit))?;
    print(format_args!("can be spent  {}", balance.available()))
}

fn payment_id(store: &Store, given: Option<String>) -> anyhow::Result<PaymentId> {
    match given {
        None => Ok(PaymentId::new(store.allot.now(), store.allot.random())),
        Some(text) => text.parse().with_context(|| format!("{text} is not a payment id (pay_ and 24 characters)")),
    }
}

fn checked(note: Option<String>) -> anyhow::Result<Option<String>> {
    if note.as_ref().is_some_and(|n| n.chars().count() > NOTE_CHARS_MAX || n.chars().any(char::is_control)) {
        bail!("--note must have at most {NOTE_CHARS_MAX} characters and no control characters");
    }
    Ok(note)
}

/// Reads an amount of US dollars exactly: no float ever touches money.
fn dollars(text: &str) -> anyhow::Result<Nanos> {
    let refused = || format!("--amount {text}: not an amount like 12.50, with at most nine decimals");
    let (negative, digits) = text.strip_prefix('-').map_or((false, text), |rest| (true, rest));
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, "0"));
    let is_number = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
    if !is_number(whole) || !is_number(fraction) || fraction.len() > 9 {
        bail!(refused());
    }
    let whole: i64 = whole.parse().with_context(refused)?;
    let nanos: i64 = format!("{fraction:0<9}").parse().with_context(refused)?;
    let sum = whole.checked_mul(Nanos::DOLLAR.0).and_then(|n| n.checked_add(nanos)).with_context(refused)?;
    Ok(Nanos(if negative { -sum } else { sum }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_read_exactly() {
        let rows = [("1", 1_000_000_000), ("12.5", 12_500_000_000), ("-0.000000001", -1), ("0.15", 150_000_000)];
        for (text, nanos) in rows {
            assert_eq!(dollars(text).unwrap(), Nanos(nanos), "{text}");
        }
        for text in ["", "-", ".", "1.", ".5", "1e3", "1.0000000001", "99999999999999", "--1", "1 "] {
            assert!(dollars(text).is_err(), "{text}");
        }
    }
}
