//! What senders asked to be told by mail (RFC 3461).

use mail::smtp::{Notify, RcptParameters};

use super::*;

const ALL: Notify = Notify::On { success: true, failure: true, delay: true };

/// Accepts a mail by SMTP whose recipients ask for these reports.
fn asking(asked: &[Option<Notify>]) -> Vec<Any> {
    let mut log = with_money();
    at(&mut log, NOW, &asked_for(asked)).unwrap();
    log
}

fn asked_for(asked: &[Option<Notify>]) -> AcceptMail {
    let numbers: Vec<u8> = (1..).take(asked.len()).collect();
    let recipients = asked.iter().map(|notify| RcptParameters { notify: *notify, original: None });
    let notices = Notices { ret: None, envid: Some("QQ".into()), recipients: recipients.collect() };
    AcceptMail { origin: Origin::Smtp, notices: Some(notices), ..accept(1, &numbers) }
}

fn taken(log: &mut Vec<Any>, attempt: u32, recipients: &[u8], delivered: bool, onward: Onward) -> usize {
    let report = Report::of("250 ok", Some("mx.example.net")).handed_on(Some(onward));
    let outcome = Outcome::Taken { delivered };
    let results = vec![Results { recipients: recipients.to_vec(), outcome, report }];
    let state = mail(log, 1);
    at(log, NOW, &RecordResults::of(outbound_id(1), &state, attempt, results)).unwrap()
}

/// An action, the numbers of recipients, and the status of the first of them.
type Planned = (NoticeAction, Vec<u8>, (u8, u16, u16));

/// Returns what is planned, in order.
fn planned(log: &[Any]) -> Vec<Planned> {
    let notices = log.iter().filter_map(|event| match event {
        Any::Outbound(Event::NoticePlanned(e)) => Some((e.action, e.numbers(), e.recipients[0].status)),
        _ => None,
    });
    notices.collect()
}

#[test]
fn only_who_asked_by_smtp_is_told_of_a_failure() {
    let on = |failure| Some(Notify::On { success: true, failure, delay: true });
    let mut log = asking(&[on(true), on(false), None, Some(Notify::Never), on(true)]);
    let attempt = begin(&mut log, NOW);
    tell(&mut log, NOW, attempt, &[0, 1, 2, 3, 4], Outcome::Bounced { verdict: verdict(Category::UserUnknown) });
    assert_eq!(planned(&log), [(NoticeAction::Failed, vec![0, 4], (5, 1, 1))]);
    assert_eq!(mail(&log, 1).notices[0].recipients[0].1.diagnostic.as_deref(), Some("250 ok"));

    let mut log = with_money();
    at(&mut log, NOW, &AcceptMail { origin: Origin::Http, ..asked_for(&[Some(ALL)]) }).unwrap();
    let attempt = begin(&mut log, NOW);
    tell(&mut log, NOW, attempt, &[0], Outcome::Bounced { verdict: verdict(Category::UserUnknown) });
    assert_eq!(planned(&log), [], "other doors have events");
}

#[test]
fn success_is_told_by_whoever_is_last_to_know() {
    for (delivered, onward, expected) in [
        (true, Onward::Delivered, Some(NoticeAction::Delivered)),
        (false, Onward::Silent, Some(NoticeAction::Relayed)),
        (true, Onward::SilentHere, Some(NoticeAction::Relayed)),
        (false, Onward::Promised, None),
        (true, Onward::PromisedHere, None),
    ] {
        let mut log = asking(&[Some(ALL)]);
        let attempt = begin(&mut log, NOW);
        taken(&mut log, attempt, &[0], delivered, onward);
        let told: Vec<_> = planned(&log).into_iter().map(|(action, _, _)| action).collect();
        assert_eq!(told, expected.into_iter().collect::<Vec<_>>(), "{onward:?}");
    }
}

#[test]
fn what_a_server_had_promised_to_tell_us_is_passed_on_once() {
    let mut log = asking(&[Some(ALL)]);
    let attempt = begin(&mut log, NOW);
    taken(&mut log, attempt, &[0], true, Onward::PromisedHere);
    let from = log.len();
    hear(&mut log, NOW, 0, Feedback::Delivered).unwrap();
    assert_eq!(names(&log, from), ["outbound.notice_planned"], "that it was delivered is known");
    assert_eq!(hear(&mut log, NOW, 0, Feedback::Delivered), Ok(0));
    let bounced = Feedback::Bounced { verdict: verdict(Category::UserUnknown), kind: None };
    hear(&mut log, NOW, 0, bounced).unwrap();
    let told: Vec<_> = planned(&log).into_iter().map(|(action, _, _)| action).collect();
    assert_eq!(told, [NoticeAction::Delivered, NoticeAction::Failed]);
}

#[test]
fn what_comes_back_to_the_sender_by_itself_is_not_told_again() {
    for onward in [Onward::Promised, Onward::Silent] {
        let mut log = asking(&[Some(Notify::On { success: false, failure: true, delay: true })]);
        let attempt = begin(&mut log, NOW);
        taken(&mut log, attempt, &[0], false, onward);
        let late = Feedback::Delayed { verdict: verdict(Category::Network), expires_at: None };
        hear(&mut log, NOW, 0, late).unwrap();
        hear(&mut log, NOW, 0, Feedback::Bounced { verdict: verdict(Category::UserUnknown), kind: None }).unwrap();
        assert_eq!(planned(&log), [], "{onward:?}");
    }
}

#[test]
fn a_delay_is_told_once_and_then_what_became_of_it() {
    let mut log = asking(&[Some(ALL), Some(ALL)]);
    let mut now = NOW;
    let defer = |log: &mut Vec<Any>, now: i64, retry_at: Option<i64>| {
        let attempt = begin(log, now);
        let verdict = verdict(Category::Greylisted);
        tell(log, now, attempt, &[0, 1], Outcome::Deferred { verdict, uncertain: false, retry_at });
    };
    defer(&mut log, now, Some(now + HOUR));
    assert_eq!(planned(&log), [], "the first time it is nothing to talk about");
    for _ in 0..6 {
        now += HOUR;
        defer(&mut log, now, Some(now + HOUR));
    }
    assert_eq!(planned(&log), [(NoticeAction::Delayed, vec![0, 1], (4, 7, 1))]);
    now += HOUR;
    defer(&mut log, now, None);
    assert_eq!(planned(&log)[1..], [(NoticeAction::Failed, vec![0, 1], (4, 4, 7))]);
}

#[test]
fn who_is_refused_at_the_door_for_all_recipients_is_told_by_that() {
    let suppress = |n: u8| SuppressAddress {
        address: address_id(n),
        email: format!("r{n}@example.net"),
        cause: Cause { reason: Reason::Complaint, topic: None },
        expires_at: None,
        note: None,
    };
    for (asked, expected) in [(1, vec![]), (2, vec![(NoticeAction::Failed, vec![0], (5, 7, 1))])] {
        let mut log = with_money();
        at(&mut log, NOW, &suppress(1)).unwrap();
        at(&mut log, NOW, &asked_for(&vec![Some(ALL); asked])).unwrap();
        assert_eq!(planned(&log), expected);
    }
}

#[test]
fn what_stays_unknown_is_told_as_what_it_is() {
    let mut log = asking(&[Some(ALL)]);
    let attempt = begin(&mut log, NOW);
    tell(&mut log, NOW, attempt, &[0], Outcome::Uncertain { stage: Stage::NoAnswer });
    at(&mut log, NOW + 24 * HOUR, &ReleaseUncertain { outbound: outbound_id(1) }).unwrap();
    assert_eq!(planned(&log), [(NoticeAction::Failed, vec![0], (4, 4, 2))]);
    let said = mail(&log, 1).notices[0].recipients[0].1.diagnostic.clone().unwrap();
    assert!(said.contains("may have been delivered"), "{said}");
}

#[test]
fn who_takes_a_mail_back_is_not_told_of_it() {
    let mut log = asking(&[Some(ALL)]);
    at(&mut log, NOW, &CancelMail { outbound: outbound_id(1) }).unwrap();
    assert_eq!(planned(&log), []);
}

fn report(n: u8) -> SendNotice {
    let report = NewReport {
        outbound: outbound_id(n),
        from: crate::message::Person { name: None, email: "mailer-daemon@example.org".into() },
        subject: "Undelivered mail returned to sender".into(),
        to: "ann@example.org".parse().unwrap(),
        address: address_id(9),
        rfc5322_message_id: "1.1@example.org".into(),
        blob: crate::testing::blob_id(n),
        size_bytes: 1,
        sha256: "00".repeat(32),
    };
    SendNotice { outbound: outbound_id(1), number: 1, report }
}

fn failed() -> Vec<Any> {
    let mut log = asking(&[Some(ALL)]);
    let attempt = begin(&mut log, NOW);
    tell(&mut log, NOW, attempt, &[0], Outcome::Bounced { verdict: verdict(Category::UserUnknown) });
    log
}

#[test]
fn a_report_becomes_a_mail_of_its_own_once_costs_nothing_and_is_not_reported_on() {
    let mut log = failed();
    let (from, before) = (log.len(), money(&log).state);
    assert_eq!(at(&mut log, NOW, &report(2)), Ok(2));
    assert_eq!(at(&mut log, NOW, &report(3)), Ok(0), "another node did it");
    assert_eq!(names(&log, from), ["outbound.notice_settled", "outbound.accepted"]);
    let own = mail(&log, 2);
    assert_eq!(own.letter.as_ref().unwrap().return_path.as_deref(), Some(""));
    let begin = BeginAttempt::of(outbound_id(2), &own, provider_id(1), vec![0]);
    at(&mut log, NOW, &begin).unwrap();
    let results = vec![Results {
        recipients: vec![0],
        outcome: Outcome::Taken { delivered: true },
        report: Report::default().handed_on(Some(Onward::Silent)),
    }];
    let state = mail(&log, 2);
    at(&mut log, NOW, &RecordResults::of(outbound_id(2), &state, 1, results)).unwrap();
    assert!(mail(&log, 2).is_settled());
    assert_eq!(planned(&log).len(), 1);
    assert_eq!((money(&log).state.held, money(&log).state.consumed), (before.held, before.consumed));
    let metered: Vec<_> = log[from..].iter().flat_map(crate::billing::metered).collect();
    assert_eq!(metered, [], "nor is it metered");
}

#[test]
fn where_only_amazon_could_carry_a_report_nobody_is_told() {
    let mut log = failed();
    let direct = crate::provider::DeleteProvider { provider: provider_id(1), by: crate::provider::By::Team };
    at(&mut log, NOW, &direct).unwrap();
    log.push(crate::testing::ses_created(2));
    let from = log.len();
    assert_eq!(at(&mut log, NOW, &report(2)), Ok(1));
    assert_eq!(names(&log, from), ["outbound.notice_settled"]);
    assert_eq!(mail(&log, 1).notices, []);
}

#[test]
fn a_report_is_settled_once() {
    let mut log = failed();
    let settle = SettleNotice { outbound: outbound_id(1), number: 1, dropped: None };
    assert_eq!(at(&mut log, NOW, &settle), Ok(1));
    assert_eq!(at(&mut log, NOW, &SettleNotice { dropped: Some(DropReason::Erased), ..settle }), Ok(0));
}
