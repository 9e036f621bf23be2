//! Balance, transactions, usage and counters, counted once more from the events alone, to the nano-dollar.

use std::collections::BTreeMap;

use domain::balance::Event as Balance;
use domain::billing::Meter;
use domain::id::OutboundId;
use domain::money::Nanos;
use domain::outbound::{Event as Outbound, Status};
use domain::{Event, StreamId, Versioned};
use eventlog::{EventLog, Recorded};
use proptest::prelude::*;

use super::history::{Op, Story, ops, told};
use super::properties::{Place, block_on};
use super::world::{apply, memory_log};
use crate::balance::{self, TransactionKind};
use crate::email_metrics::{self, Counts};
use crate::outbound::{LogStatus, Row, list};
use crate::{Page, Views, usage};
use domain::id::Position;

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn balance_and_usage_are_the_sums_over_the_events(ops in ops(1..160, true), page in 1..40_usize) {
        block_on(money_adds_up(Place::Memory, &ops, page));
    }

    #[test]
    fn counters_of_mail_are_those_of_the_mails(ops in ops(1..160, false), page in 1..40_usize) {
        block_on(counters_agree(Place::Memory, &ops, page));
    }
}

/// What the events say, without any fold of the house.
#[derive(Default)]
struct Recount {
    purchased: i64,
    adjusted: i64,
    consumed: i64,
    held: i64,
    units: BTreeMap<&'static str, i64>,
}

fn recount(events: &[Recorded]) -> Recount {
    let mut sum = Recount::default();
    // The price of a recipient stands in the acceptance of its mail.
    let mut prices = BTreeMap::new();
    for record in events {
        match &record.event {
            Event::Balance(Balance::ToppedUp(e)) => sum.purchased += e.amount_nanos.0,
            Event::Balance(Balance::Adjusted(e)) => sum.adjusted += e.amount_nanos.0,
            Event::Balance(Balance::UsageCharged(e)) => sum.consumed += e.amount_nanos.0,
            Event::Outbound(e) => {
                if let Outbound::Accepted(accepted) = e {
                    prices.insert(e.mail().outbound.clone(), accepted.prices);
                }
                let (booking, prices) = (e.booking(), prices[&e.mail().outbound]);
                let (meter, price) = match e.is_managed() {
                    true => (Meter::ManagedRecipients, prices.managed_nanos),
                    false => (Meter::OutgoingRecipients, prices.own_nanos),
                };
                assert_eq!(booking.charged_nanos, price.times(i64::from(booking.charged_units)));
                sum.held += booking.held_nanos.0 - booking.released_nanos.0;
                sum.consumed += booking.charged_nanos.0;
                if booking.charged_units > 0 {
                    *sum.units.entry(meter.as_str()).or_default() += i64::from(booking.charged_units);
                }
            }
            _ => {}
        }
    }
    sum
}

pub async fn money_adds_up(place: Place<'_>, ops: &[(Op, i64)], page: usize) {
    let log = memory_log().await;
    let team = told(&log, 1, ops).await.team;
    let views = place.views(0).await;
    apply(&log, &views, &team, &[page], Position::MAX).await;
    let counted = recount(&log.read(&team, 0, 10_000).await.unwrap());

    let row = balance::get(&views, &team).await.unwrap();
    assert_eq!(row.purchased.0, counted.purchased + counted.adjusted);
    assert_eq!((row.consumed.0, row.held.0), (counted.consumed, counted.held));
    // Who decides about money must see the same.
    let decided: Versioned<domain::balance::Balance> = log.state(&team, &[StreamId::Balance]).await.unwrap();
    assert_eq!((decided.purchased, decided.consumed, decided.held), (row.purchased, row.consumed, row.held));
    assert_eq!(row.available(), decided.available());
    assert!(row.held.0 >= 0, "more was let go than was held");

    let everything = usage::Filter::days(i64::MIN, i64::MAX);
    let totals = usage::totals(&views, &team, &everything).await.unwrap();
    // A story may go over midnight: a meter then has a total for each of its days.
    let mut units: BTreeMap<_, i64> = BTreeMap::new();
    for total in totals.iter().filter(|total| total.meter.is_charged_with_mail() && total.units != 0) {
        *units.entry(total.meter.as_str()).or_default() += total.units;
    }
    assert_eq!(units, counted.units);

    let mut rows = balance::transactions(&views, &team, &[], &Page::first(1_000)).await.unwrap().rows;
    rows.reverse();
    let mut left = Nanos(0);
    for row in &rows {
        assert_eq!(row.balance_before, left);
        assert_eq!(row.balance_after.0, left.0 + row.amount.0);
        left = row.balance_after;
    }
    assert_eq!(left, row.left());
    let charged: BTreeMap<_, i64> = rows
        .iter()
        .filter(|row| row.kind == TransactionKind::Usage && row.meter.is_some_and(Meter::is_charged_with_mail))
        .fold(BTreeMap::new(), |mut sums, row| {
            *sums.entry(row.meter.map_or("", Meter::as_str)).or_default() += row.units.unwrap_or_default();
            sums
        });
    assert_eq!(charged, counted.units);
    let summary = balance::summary(&views, &team, i64::MIN, i64::MAX).await.unwrap();
    assert_eq!(
        (summary.purchased.0, summary.adjusted.0, summary.consumed.0),
        (counted.purchased, counted.adjusted, counted.consumed)
    );
    assert_eq!(summary.transactions, u64::try_from(rows.len()).unwrap());
    views.close().await;
}

pub async fn counters_agree(place: Place<'_>, ops: &[(Op, i64)], page: usize) {
    let log = memory_log().await;
    let story = told(&log, 1, ops).await;
    let views = place.views(0).await;
    apply(&log, &views, &story.team, &[page], Position::MAX).await;
    let mails = list(&views, &story.team, &Default::default(), Default::default(), &Page::first(1_000)).await.unwrap();
    let mut counted = Counts::default();
    let mut held = 0;
    for mail in &mails.rows {
        held += agrees_with_its_fold(&log, &story, mail).await;
        counted.total += 1;
        match mail.log_status {
            LogStatus::Pending => counted.pending += 1,
            LogStatus::Sent => counted.sent += 1,
            LogStatus::Failed => counted.failed += 1,
            LogStatus::Rejected => counted.rejected += 1,
        }
        for recipient in &mail.progress.recipients {
            counted.recipients += 1;
            counted.taken += i64::from(recipient.taken);
            counted.delivered += i64::from(recipient.status == Status::Delivered);
        }
    }
    let hours = email_metrics::Filter::hours(i64::MIN, i64::MAX);
    let sums = email_metrics::sums(&views, &story.team, &hours).await.unwrap();
    assert_eq!(
        (sums.total, sums.pending, sums.sent, sums.failed, sums.rejected),
        (counted.total, counted.pending, counted.sent, counted.failed, counted.rejected)
    );
    assert_eq!((sums.recipients, sums.taken, sums.delivered), (counted.recipients, counted.taken, counted.delivered));
    assert_eq!(balance::get(&views, &story.team).await.unwrap().held.0, held, "held for nobody");
    feedback_is_counted_once(&log, &views, &story, &sums).await;
    views.close().await;
}

/// Compares a row with the fold that decisions see, and returns what is held for the mail.
async fn agrees_with_its_fold(log: &EventLog, story: &Story, row: &Row) -> i64 {
    let streams = [StreamId::Outbound(row.id.clone())];
    let mail: Versioned<domain::outbound::Outbound> = log.state(&story.team, &streams).await.unwrap();
    let accepted = mail.accepted.as_ref().unwrap();
    let statuses: Vec<_> = mail.recipients.iter().map(|r| r.status).collect();
    assert_eq!(row.progress.recipients.iter().map(|r| r.status).collect::<Vec<_>>(), statuses);
    assert_eq!((row.version, row.progress.attempts), (mail.version, mail.attempts));
    assert_eq!((row.progress.paused, row.progress.cancelled), (mail.paused, mail.cancelled));
    let open = |s: &&Status| matches!(s, Status::Waiting | Status::InFlight { .. } | Status::Uncertain { .. });
    let count = i64::try_from(statuses.iter().filter(open).count()).unwrap();
    accepted.prices.held_nanos.times(count).0
}

async fn feedback_is_counted_once(log: &EventLog, views: &Views, story: &Story, sums: &Counts) {
    let (mut complaints, mut unsubscribes) = (0, 0);
    let mut opened: Vec<(OutboundId, u8)> = vec![];
    for record in log.read(&story.team, 0, 10_000).await.unwrap() {
        match &record.event {
            Event::Outbound(Outbound::Complained(_)) => complaints += 1,
            Event::Outbound(Outbound::Unsubscribed(_)) => unsubscribes += 1,
            Event::Outbound(Outbound::Opened(e)) => opened.push((e.mail.outbound.clone(), e.recipient)),
            _ => {}
        }
    }
    opened.sort();
    opened.dedup();
    let opens = i64::try_from(opened.len()).unwrap();
    assert_eq!((sums.complaints, sums.unsubscribes, sums.opens), (complaints, unsubscribes, opens));
    let mut by_hour = Counts::default();
    let hours = email_metrics::Filter::hours(i64::MIN, i64::MAX);
    let series = email_metrics::series(views, &story.team, &hours, email_metrics::Granularity::Hourly).await.unwrap();
    series.values().for_each(|counts| by_hour.add(counts, 1));
    assert_eq!(by_hour, *sums);
}
