use std::collections::BTreeMap;

use proptest::prelude::*;

use super::report::Report;
use super::*;
use crate::balance::Balance;
use crate::bounce::{Category, Source, Verdict};
use crate::entity::Versioned;
use crate::id::ProviderId;
use crate::suppression::{Cause, Purpose, Reason, SuppressAddress, Suppression};
use crate::testing::{
    NOW, accept, address_id, fold, given, group_id, key_created, key_id, mailbox_id, opened, outbound_id,
    provider_created, provider_id, team_id, with_money,
};
use crate::{Command, Event as Any, Moment, StreamId};

mod notices;

const HOUR: i64 = 3_600_000_000;
const UNIT: i64 = 150_000;

fn verdict(category: Category) -> Verdict {
    Verdict::of(category)
}

fn mail(log: &[Any], n: u8) -> Versioned<Outbound> {
    fold(&[StreamId::Outbound(outbound_id(n))], log)
}

fn money(log: &[Any]) -> Versioned<Balance> {
    fold(&[StreamId::Balance], log)
}

fn listed(log: &[Any], n: u8) -> Versioned<Suppression> {
    fold(&[StreamId::Suppression(address_id(n))], log)
}

/// Decides a command at a moment and adds its events.
fn at<C: Command>(log: &mut Vec<Any>, now: i64, command: &C) -> Result<usize, C::Rejected> {
    let decide = |log: &[Any]| command.decide(&fold(&command.streams(), log), &Moment { team: team_id(), now });
    let events = decide(log)?;
    let count = events.len();
    log.extend(events);
    assert!(
        decide(log).is_ok_and(|again| again.is_empty()) || decide(log).is_err(),
        "the same command again added events"
    );
    Ok(count)
}

fn accepted(recipients: &[u8]) -> Vec<Any> {
    let mut log = with_money();
    at(&mut log, NOW, &accept(1, recipients)).unwrap();
    log
}

fn begin(log: &mut Vec<Any>, now: i64) -> u32 {
    let state = mail(log, 1);
    let command = BeginAttempt::of(outbound_id(1), &state, provider_id(1), state.waiting(now));
    at(log, now, &command).unwrap();
    mail(log, 1).attempts
}

fn tell(log: &mut Vec<Any>, now: i64, attempt: u32, recipients: &[u8], outcome: Outcome) -> usize {
    let results = vec![Results { recipients: recipients.to_vec(), outcome, report: Report::of("250 ok", None) }];
    let state = mail(log, 1);
    at(log, now, &RecordResults::of(outbound_id(1), &state, attempt, results)).unwrap()
}

fn hear(log: &mut Vec<Any>, now: i64, number: u8, feedback: Feedback) -> Result<usize, Rejected> {
    let address = mail(log, 1).recipient(number).unwrap().address.clone();
    let (outbound, source) = (outbound_id(1), Source::Provider);
    at(log, now, &RecordFeedback { outbound, recipient: number, address, feedback, source, report: Report::default() })
}

fn names(log: &[Any], from: usize) -> Vec<&str> {
    log[from..].iter().map(Any::name).collect()
}

#[test]
fn money_is_held_at_acceptance_and_charged_when_a_provider_takes_the_mail() {
    let mut log = accepted(&[1, 2]);
    assert_eq!((money(&log).held.0, money(&log).consumed.0), (2 * UNIT, 0));
    let attempt = begin(&mut log, NOW);
    tell(&mut log, NOW, attempt, &[0], Outcome::Taken { delivered: false });
    assert_eq!((money(&log).held.0, money(&log).consumed.0), (UNIT, UNIT));
    let refused = Outcome::Rejected { reason: RejectReason::Provider, verdict: None };
    tell(&mut log, NOW, attempt, &[1], refused);
    assert_eq!((money(&log).held.0, money(&log).consumed.0), (0, UNIT));
    assert!(mail(&log, 1).is_settled());
}

#[test]
fn who_is_on_the_providers_own_list_comes_on_ours_once() {
    let mut log = accepted(&[1]);
    let attempt = begin(&mut log, NOW);
    tell(&mut log, NOW, attempt, &[0], Outcome::Taken { delivered: false });
    let from = log.len();
    let refused = || Feedback::Rejected { reason: RejectReason::Suppressed };
    assert_eq!(hear(&mut log, NOW, 0, refused()), Ok(2));
    assert_eq!(names(&log, from), ["outbound.rejected", "suppression.added"]);
    assert_eq!(hear(&mut log, NOW, 0, refused()), Ok(0), "a repetition adds nothing");
}

#[test]
fn the_last_unit_is_sold_once() {
    let mut log = with_money();
    let spend = i64::from(1_000_000_000u32) - UNIT;
    let adjust = crate::balance::AdjustBalance {
        payment: crate::testing::payment_id(9),
        kind: crate::balance::AdjustmentKind::Adjustment,
        amount: Nanos(-spend),
        note: None,
    };
    at(&mut log, NOW, &adjust).unwrap();
    at(&mut log, NOW, &accept(1, &[1])).unwrap();
    let refused = at(&mut log, NOW, &accept(2, &[1])).unwrap_err();
    assert!(matches!(refused, Rejected::InsufficientCredits { available: Nanos(0), .. }));
}

#[test]
fn suppressed_recipients_are_refused_at_acceptance_and_before_each_attempt() {
    let mut log = with_money();
    let suppress = |n: u8| SuppressAddress {
        address: address_id(n),
        email: format!("r{n}@example.net"),
        cause: Cause { reason: Reason::Complaint, topic: None },
        expires_at: None,
        note: None,
    };
    at(&mut log, NOW, &suppress(1)).unwrap();
    let from = log.len();
    at(&mut log, NOW, &accept(1, &[1, 2, 3])).unwrap();
    assert_eq!(names(&log, from), ["outbound.accepted", "outbound.rejected"]);
    assert_eq!(money(&log).held.0, 2 * UNIT);
    at(&mut log, NOW, &suppress(2)).unwrap();
    let from = log.len();
    begin(&mut log, NOW);
    assert_eq!(names(&log, from), ["outbound.rejected", "outbound.attempt_started"]);
    assert_eq!(money(&log).held.0, UNIT);
    let forced = AcceptMail { forced: true, ..accept(2, &[1]) };
    at(&mut log, NOW, &forced).unwrap();
    assert!(!mail(&log, 2).is_settled());
}

#[test]
fn a_sender_must_be_the_teams_own() {
    let log = with_money();
    let foreign = AcceptMail { from: mail::address::Address::parse("eve@victim.example").unwrap(), ..accept(1, &[1]) };
    given(log.clone()).when(foreign).then_rejected(&Rejected::SenderNotAllowed);
    let boxed = log.into_iter().chain([opened(1)]).collect::<Vec<_>>();
    let as_mailbox = AcceptMail { mailbox: Some(mailbox_id(1)), ..accept(1, &[1]) };
    given(boxed.clone()).when(as_mailbox.clone()).then_rejected(&Rejected::SenderNotAllowed);
    let own = AcceptMail { from: mail::address::Address::parse("box1@example.org").unwrap(), ..as_mailbox };
    assert_eq!(given(boxed).when(own).then_events().len(), 1);
}

#[test]
fn a_mail_without_an_account_in_scope_is_refused() {
    let none = with_money().into_iter().filter(|e| !matches!(e, Any::Provider(_))).collect::<Vec<_>>();
    given(none).when(accept(1, &[1])).then_rejected(&Rejected::NoActiveProviders);
    let strange = AcceptMail { groups: vec![group_id(1)], ..accept(1, &[1]) };
    given(with_money()).when(strange).then_rejected(&Rejected::UnknownGroup(group_id(1)));
    let mut log = with_money();
    log.push(key_created(1));
    let scope = crate::mailbox::SendScope::Providers { provider_public_ids: vec![provider_id(7).to_string()] };
    let scoped = crate::api_key::SendScopeChanged { key: key_id(1), send_scope: scope };
    log.push(Any::ApiKey(crate::api_key::Event::SendScopeChanged(scoped.into())));
    let narrow = AcceptMail { key: Some(key_id(1)), ..accept(1, &[1]) };
    given(log).when(narrow).then_rejected(&Rejected::NoActiveProviders);
}

#[test]
fn a_refused_login_breaks_the_account_and_the_next_one_is_tried() {
    let mut log = accepted(&[1]);
    log.push(provider_created(2));
    let attempt = begin(&mut log, NOW);
    let from = log.len();
    let fail = FailAttempt {
        outbound: outbound_id(1),
        attempt,
        account: provider_id(1),
        trouble: AttemptTrouble::LoginRefused,
        leaves_account: false,
        retry_at: NOW,
        report: Report::of("535 no", None),
    };
    at(&mut log, NOW, &fail).unwrap();
    assert_eq!(names(&log, from), ["outbound.attempt_failed", "provider.broken"]);
    let state = mail(&log, 1);
    let again = BeginAttempt::of(outbound_id(1), &state, provider_id(1), vec![0]);
    assert_eq!(at(&mut log, NOW, &again), Err(Rejected::AccountNotEligible));
    let other = BeginAttempt::of(outbound_id(1), &state, provider_id(2), vec![0]);
    assert_eq!(at(&mut log, NOW, &other), Ok(1));
}

#[test]
fn what_may_have_been_handed_over_is_not_handed_over_again_unasked() {
    let mut log = accepted(&[1]);
    let attempt = begin(&mut log, NOW);
    tell(&mut log, NOW, attempt, &[0], Outcome::Uncertain { stage: Stage::NoAnswer });
    assert!(mail(&log, 1).waiting(NOW + 100 * HOUR).is_empty());
    let release = ReleaseUncertain { outbound: outbound_id(1) };
    assert_eq!(at(&mut log, NOW + 23 * HOUR, &release), Ok(0));
    let mut asked = log.clone();
    let retry = |resend_uncertain| RetryMail { outbound: outbound_id(1), resend_uncertain };
    assert_eq!(at(&mut asked, NOW + HOUR, &retry(false)), Ok(0));
    assert_eq!(at(&mut asked, NOW + HOUR, &retry(true)), Ok(1));
    assert_eq!(mail(&asked, 1).waiting(NOW + HOUR), [0]);
    assert_eq!(at(&mut log, NOW + 24 * HOUR, &release), Ok(1));
    assert_eq!((money(&log).held.0, money(&log).consumed.0), (0, 0));
    hear(&mut log, NOW + 25 * HOUR, 0, Feedback::Delivered).unwrap();
    assert_eq!(money(&log).consumed.0, 0, "what was let go is not charged any more");
}

#[test]
fn a_certain_result_that_comes_late_replaces_an_uncertain_one() {
    let mut log = accepted(&[1]);
    let attempt = begin(&mut log, NOW);
    tell(&mut log, NOW, attempt, &[0], Outcome::Uncertain { stage: Stage::Interrupted });
    assert_eq!(tell(&mut log, NOW + 1, attempt, &[0], Outcome::Taken { delivered: true }), 1);
    assert_eq!(mail(&log, 1).recipients[0].status, Status::Delivered);
    assert_eq!(money(&log).consumed.0, UNIT);
}

#[test]
fn a_late_bounce_suppresses_and_is_never_turned_back() {
    let mut log = accepted(&[1]);
    let attempt = begin(&mut log, NOW);
    tell(&mut log, NOW, attempt, &[0], Outcome::Taken { delivered: true });
    let bounced = Feedback::Bounced { verdict: verdict(Category::UserUnknown), kind: None };
    let from = log.len();
    hear(&mut log, NOW + HOUR, 0, bounced.clone()).unwrap();
    assert_eq!(names(&log, from), ["outbound.bounced", "suppression.added"]);
    assert_eq!(hear(&mut log, NOW + HOUR, 0, bounced), Ok(0));
    assert_eq!(hear(&mut log, NOW + HOUR, 0, Feedback::Delivered), Ok(0));
    assert_eq!(listed(&log, 1).stops(Purpose::Transactional, None, false, NOW), Some(Reason::HardBounce));
}

#[test]
fn policy_bounces_do_not_suppress_and_disabled_mailboxes_do_the_second_time() {
    let mut log = with_money();
    for (n, suppressed) in [(1, false), (2, false), (3, true)] {
        at(&mut log, NOW, &accept(n, &[1])).unwrap();
        let state = mail(&log, n);
        let recipients = state.waiting(NOW);
        at(&mut log, NOW, &BeginAttempt::of(outbound_id(n), &state, provider_id(1), recipients)).unwrap();
        let category = if n == 1 { Category::PolicyBlocked } else { Category::MailboxInactive };
        let outcome = Outcome::Bounced { verdict: verdict(category) };
        let results = vec![Results { recipients: vec![0], outcome, report: Report::default() }];
        let state = mail(&log, n);
        at(&mut log, NOW, &RecordResults::of(outbound_id(n), &state, 1, results)).unwrap();
        let stopped = listed(&log, 1).stops(Purpose::Transactional, None, false, NOW).is_some();
        assert_eq!(stopped, suppressed, "after bounce {n}");
    }
}

#[test]
fn a_delay_is_told_once_it_is_five_minutes_old() {
    let mut log = accepted(&[1]);
    let mut told = vec![];
    for minutes in [0, 1, 6, 20] {
        let now = NOW + minutes * 60_000_000;
        let attempt = begin(&mut log, now);
        let outcome = Outcome::Deferred {
            verdict: verdict(Category::Greylisted),
            uncertain: false,
            retry_at: Some(now + 60_000_000),
        };
        tell(&mut log, now, attempt, &[0], outcome);
        let last = log.last().unwrap();
        told.push(crate::published::WebhookEventType::of(last).is_some());
    }
    assert_eq!(told, [false, false, true, false]);
    let attempt = begin(&mut log, NOW + 2 * HOUR);
    let expired = Outcome::Deferred { verdict: verdict(Category::Greylisted), uncertain: false, retry_at: None };
    tell(&mut log, NOW + 2 * HOUR, attempt, &[0], expired);
    assert!(matches!(log.last(), Some(Any::Outbound(Event::Bounced(e))) if e.verdict.category == Category::Expired));
    assert_eq!(money(&log).held.0, 0);
}

#[test]
fn a_cancelled_mail_ends_in_flight_recipients_when_they_would_wait_again() {
    let mut log = accepted(&[1, 2]);
    let state = mail(&log, 1);
    at(&mut log, NOW, &BeginAttempt::of(outbound_id(1), &state, provider_id(1), vec![0])).unwrap();
    at(&mut log, NOW, &CancelMail { outbound: outbound_id(1) }).unwrap();
    assert_eq!(mail(&log, 1).recipients[1].status, Status::Cancelled);
    let outcome =
        Outcome::Deferred { verdict: verdict(Category::Network), uncertain: false, retry_at: Some(NOW + HOUR) };
    tell(&mut log, NOW, 1, &[0], outcome);
    assert!(mail(&log, 1).is_settled());
    assert_eq!(money(&log).held.0, 0);
}

#[test]
fn a_scheduled_mail_waits_for_its_time_and_can_be_moved_until_it_leaves() {
    let mut log = with_money();
    at(&mut log, NOW, &AcceptMail { send_at: Some(NOW + HOUR), ..accept(1, &[1]) }).unwrap();
    let early = BeginAttempt::of(outbound_id(1), &mail(&log, 1), provider_id(1), vec![0]);
    assert_eq!(at(&mut log, NOW, &early), Err(Rejected::NotDue));
    let move_to = |send_at| RescheduleMail { outbound: outbound_id(1), send_at, if_version: None };
    at(&mut log, NOW, &move_to(NOW + 2 * HOUR)).unwrap();
    assert_eq!(mail(&log, 1).next_due_at(), Some(NOW + 2 * HOUR));
    let mut now_instead = log.clone();
    at(&mut now_instead, NOW, &move_to(0)).unwrap();
    let moved = mail(&now_instead, 1);
    assert_eq!((moved.next_due_at(), moved.expires_at()), (Some(NOW), NOW + 72 * HOUR));
    begin(&mut log, NOW + 2 * HOUR);
    assert_eq!(at(&mut log, NOW, &move_to(NOW + 3 * HOUR)), Err(Rejected::TooLate));
}

#[test]
fn nothing_leaves_while_a_mail_or_its_team_is_paused() {
    let mut log = accepted(&[1]);
    let switch = |paused| SwitchMail { outbound: outbound_id(1), paused };
    at(&mut log, NOW, &switch(true)).unwrap();
    let attempt = BeginAttempt::of(outbound_id(1), &mail(&log, 1), provider_id(1), vec![0]);
    assert_eq!(at(&mut log, NOW, &attempt), Err(Rejected::Paused));
    at(&mut log, NOW, &switch(false)).unwrap();
    let part = crate::routing::Part::Site("example.net".into());
    at(&mut log, NOW, &crate::routing::SwitchSending { part, paused: true }).unwrap();
    assert_eq!(at(&mut log, NOW, &attempt), Err(Rejected::Paused));
}

#[test]
fn why_a_mail_waits_is_said_once_per_reason() {
    let mut log = accepted(&[1]);
    let wait = |reason, until| PostponeMail { outbound: outbound_id(1), reason, until };
    assert_eq!(at(&mut log, NOW, &wait(PostponeReason::QuotaReached, Some(NOW + 1))), Ok(1));
    assert_eq!(at(&mut log, NOW, &wait(PostponeReason::QuotaReached, Some(NOW + 2))), Ok(0));
    assert_eq!(at(&mut log, NOW, &wait(PostponeReason::NoActiveProviders, None)), Ok(1));
    begin(&mut log, NOW);
    assert_eq!(mail(&log, 1).postponed, None);
}

#[test]
fn an_erased_mail_still_settles() {
    let mut log: Vec<Any> = accepted(&[1]).iter().map(Any::erased).collect();
    let attempt = begin(&mut log, NOW);
    tell(&mut log, NOW, attempt, &[0], Outcome::Taken { delivered: true });
    assert!(mail(&log, 1).is_settled());
    assert!(crate::published::published(log.last().unwrap()).is_some());
}

/// A wish about one mail with three recipients, two of them alike.
#[derive(Debug, Clone)]
enum Wish {
    Begin { account: u8, recipients: u8 },
    Tell { attempt: u32, recipients: u8, outcome: u8 },
    Fail { attempt: u32, account: u8, login: bool },
    Hear { recipient: u8, feedback: u8 },
    Cancel,
    Switch(bool),
    Retry(bool),
    Reschedule(i64),
    Release,
    Give,
    Wait(i64),
}

fn wish() -> impl Strategy<Value = Wish> {
    prop_oneof![
        6 => (1u8..4, 1u8..8).prop_map(|(account, recipients)| Wish::Begin { account, recipients }),
        8 => (1u32..6, 1u8..8, 0u8..8).prop_map(|(attempt, recipients, outcome)| Wish::Tell { attempt, recipients, outcome }),
        2 => (1u32..6, 1u8..4, any::<bool>()).prop_map(|(attempt, account, login)| Wish::Fail { attempt, account, login }),
        5 => (0u8..3, 0u8..8).prop_map(|(recipient, feedback)| Wish::Hear { recipient, feedback }),
        1 => Just(Wish::Cancel),
        1 => any::<bool>().prop_map(Wish::Switch),
        2 => any::<bool>().prop_map(Wish::Retry),
        1 => (0i64..5).prop_map(|hours| Wish::Reschedule(hours * HOUR)),
        2 => Just(Wish::Release),
        1 => Just(Wish::Give),
        4 => (0i64..30).prop_map(|hours| Wish::Wait(hours * HOUR)),
    ]
}

fn bits(mask: u8) -> Vec<u8> {
    (0..3).filter(|n| mask & (1 << n) != 0).collect()
}

fn outcome(n: u8, now: i64) -> Outcome {
    match n {
        0 => Outcome::Taken { delivered: false },
        1 => Outcome::Taken { delivered: true },
        2 => Outcome::Deferred { verdict: verdict(Category::Network), uncertain: false, retry_at: Some(now + HOUR) },
        3 => Outcome::Deferred { verdict: verdict(Category::MailboxFull), uncertain: false, retry_at: None },
        4 => Outcome::Rejected { reason: RejectReason::Provider, verdict: None },
        5 => Outcome::Bounced { verdict: verdict(Category::UserUnknown) },
        6 => Outcome::Bounced { verdict: verdict(Category::MailboxInactive) },
        _ => Outcome::Uncertain { stage: Stage::NoAnswer },
    }
}

fn feedback(n: u8) -> Feedback {
    match n {
        0 | 1 => Feedback::Delivered,
        2 => Feedback::Bounced { verdict: verdict(Category::UserUnknown), kind: None },
        3 => Feedback::Delayed { verdict: verdict(Category::Network), expires_at: None },
        4 => Feedback::Rejected { reason: RejectReason::Provider },
        5 => Feedback::Complained { complaint: Complaint::Abuse },
        6 => Feedback::Opened { machine: Machine::No },
        _ => Feedback::Unsubscribed { method: UnsubscribeMethod::OneClick },
    }
}

fn apply(log: &mut Vec<Any>, now: i64, wish: &Wish) {
    let (state, outbound) = (mail(log, 1), outbound_id(1));
    let report = Report::of("said", Some("mx"));
    let _ = match wish {
        Wish::Begin { account, recipients } => {
            let command = BeginAttempt::of(outbound, &state, provider_id(*account), bits(*recipients));
            at(log, now, &command)
        }
        Wish::Tell { attempt, recipients, outcome: n } => {
            let results = vec![Results { recipients: bits(*recipients), outcome: outcome(*n, now), report }];
            at(log, now, &RecordResults::of(outbound, &state, *attempt, results))
        }
        Wish::Fail { attempt, account, login } => {
            let trouble = if *login { AttemptTrouble::LoginRefused } else { AttemptTrouble::Unreachable };
            let (attempt, account) = (*attempt, provider_id(*account));
            at(
                log,
                now,
                &FailAttempt { outbound, attempt, account, trouble, leaves_account: false, retry_at: now, report },
            )
        }
        Wish::Hear { recipient, feedback: n } => hear(log, now, *recipient, feedback(*n)),
        Wish::Cancel => at(log, now, &CancelMail { outbound }),
        Wish::Switch(paused) => at(log, now, &SwitchMail { outbound, paused: *paused }),
        Wish::Retry(resend_uncertain) => at(log, now, &RetryMail { outbound, resend_uncertain: *resend_uncertain }),
        Wish::Reschedule(later) => at(log, now, &RescheduleMail { outbound, send_at: now + later, if_version: None }),
        Wish::Release => at(log, now, &ReleaseUncertain { outbound }),
        Wish::Give => at(log, now, &RejectWaiting { outbound, reason: RejectReason::NoActiveProviders }),
        Wish::Wait(_) => Ok(0),
    };
}

/// Looks at one event as an outsider would, with nothing but the facts.
fn check(
    event: &Event,
    finals: &mut BTreeMap<u8, &'static str>,
    charged: &mut BTreeMap<u8, u32>,
) -> Result<(), TestCaseError> {
    let mut end = |numbers: &[u8], outcome: &'static str| -> Result<(), TestCaseError> {
        for number in numbers {
            let before = finals.insert(*number, outcome);
            let allowed = match before {
                None => true,
                Some("delivered") => outcome == "bounced",
                Some("unknown") => matches!(outcome, "delivered" | "bounced" | "rejected"),
                Some(_) => false,
            };
            prop_assert!(allowed, "{outcome} after {before:?} for recipient {number}");
        }
        Ok(())
    };
    let concerned = match event {
        Event::Sent(e) => e.recipients.clone(),
        Event::Delivered(e) => e.recipients.clone(),
        Event::Bounced(e) => vec![e.recipient],
        _ => vec![],
    };
    let booking = event.booking();
    if booking.charged_units > 0 {
        // Either all that are named are charged, or this event charges a single one.
        prop_assert_eq!(usize::try_from(booking.charged_units).unwrap(), concerned.len());
        concerned.iter().for_each(|n| *charged.entry(*n).or_default() += 1);
    }
    match event {
        Event::Delivered(e) => end(&e.recipients, "delivered"),
        Event::Bounced(e) => end(&[e.recipient], "bounced"),
        Event::Rejected(e) => end(&e.recipients, "rejected"),
        Event::Cancelled(e) => end(&e.recipients, "cancelled"),
        Event::Released(e) => end(&e.recipients, "unknown"),
        _ => Ok(()),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]

    #[test]
    fn under_any_sequence_money_and_outcomes_stay_straight(wishes in prop::collection::vec(wish(), 1..80)) {
        let mut log = with_money();
        log.extend([provider_created(2), provider_created(3)]);
        at(&mut log, NOW, &accept(1, &[1, 2, 2])).unwrap();
        let start = log.len() - 1;
        let (mut now, mut finals, mut charged) = (NOW, BTreeMap::new(), BTreeMap::new());
        let mut runs: Vec<ProviderId> = vec![];
        for wish in &wishes {
            if let Wish::Wait(time) = wish {
                now += time;
            }
            let from = log.len();
            let before = mail(&log, 1);
            apply(&mut log, now, wish);
            for event in &log[from..] {
                let Any::Outbound(event) = event else { continue };
                check(event, &mut finals, &mut charged)?;
                if let Event::AttemptStarted(e) = event {
                    let fresh = e.recipients.iter().all(|n| before.recipients[usize::from(*n)].status == Status::Waiting);
                    prop_assert!(fresh, "handed over while in flight, uncertain or settled");
                    if runs.last() != Some(&e.account) {
                        prop_assert!(!runs.contains(&e.account), "an account that was left came back");
                        runs.push(e.account.clone());
                    }
                }
            }
            let state = mail(&log, 1);
            let held = i64::try_from(state.recipients.iter().filter(|r| r.held).count()).unwrap() * UNIT;
            prop_assert_eq!(money(&log).held.0, held, "the balance holds what the recipients hold");
            prop_assert!(state.open.len() <= 3);
        }
        // What is still open is ended; then every hold is charged or released.
        now += 100 * HOUR;
        let state = mail(&log, 1);
        for attempt in state.open.keys() {
            let results = vec![Results { recipients: vec![0, 1, 2], outcome: outcome(7, now), report: Report::default() }];
            at(&mut log, now, &RecordResults::of(outbound_id(1), &state, *attempt, results)).unwrap();
        }
        at(&mut log, now + 24 * HOUR, &ReleaseUncertain { outbound: outbound_id(1) }).unwrap();
        let _ = at(&mut log, now, &CancelMail { outbound: outbound_id(1) });
        let _ = at(&mut log, now, &RejectWaiting { outbound: outbound_id(1), reason: RejectReason::NoActiveProviders });
        prop_assert!(mail(&log, 1).is_settled());
        prop_assert!(charged.values().all(|times| *times <= 1), "charged twice: {charged:?}");
        let (mut held, mut released, mut cost) = (0, 0, 0);
        for event in &log[start..] {
            let Any::Outbound(event) = event else { continue };
            let booking = event.booking();
            held += booking.held_nanos.0;
            released += booking.released_nanos.0;
            cost += booking.charged_nanos.0;
        }
        prop_assert_eq!(held, released, "every hold is resolved once");
        prop_assert_eq!(money(&log).held.0, 0);
        prop_assert_eq!(money(&log).consumed.0, cost);
        prop_assert_eq!(cost, UNIT * i64::try_from(charged.len()).unwrap());
    }
}
