//! Charges each UTC day once it is over.

use std::time::Duration;

use dispatcher::charges::Charger;
use eventlog::Allot;
use projections::usage;
use tokio_util::sync::CancellationToken;

use crate::config::{Billing, Config};
use crate::duties::Held;
use crate::store::Store;

/// Returns what charges the teams of an installation.
#[must_use]
pub fn charger(config: &Config, store: &Store) -> Charger {
    Charger::new(store.log.clone(), store.views.clone(), store.allot.clone(), config.prices)
}

/// Returns the last UTC day that can be charged at a time, days since 1970-01-01.
#[must_use]
pub fn chargeable(now_micros: i64, after_seconds: u32) -> i64 {
    usage::day_of(now_micros.saturating_sub(i64::from(after_seconds) * 1_000_000)) - 1
}

/// Charges all teams after the end of each day, as long as the duty is this node's, until told to stop.
///
/// # Errors
/// Never: what cannot be charged is tried again.
pub async fn keep_charging(
    charger: Charger,
    allot: Allot,
    config: Billing,
    duty: Held,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let mut charged = None;
    loop {
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            () = tokio::time::sleep(Duration::from_secs(config.charge_look_seconds.into())) => {}
        }
        let until = chargeable(allot.now(), config.charge_after_seconds);
        if charged >= Some(until) || !duty.is_mine() {
            continue;
        }
        match charger.charge_all(until, || duty.is_mine(), &stop).await {
            Ok(true) => charged = Some(until),
            Ok(false) => {}
            Err(error) => tracing::warn!(%error, "days could not be charged; trying again"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_day_is_charged_when_it_is_over_for_long_enough() {
        let midnight = 20_000 * usage::DAY_MICROS;
        assert_eq!(chargeable(midnight, 600), 19_998);
        assert_eq!(chargeable(midnight + 599_000_000, 600), 19_998);
        assert_eq!(chargeable(midnight + 600_000_000, 600), 19_999);
    }
}
