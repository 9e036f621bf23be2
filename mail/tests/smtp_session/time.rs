//! Deadlines, driven by numbers.

use crate::driver::*;
use mail::smtp::{Action, PeerInfo};
use std::time::Duration;

fn greeted() -> Driver {
    let mut driver = Driver::greeted(inbound(), PeerInfo::default());
    driver.say("EHLO x\r\n");
    driver
}

#[test]
fn an_idle_client_is_sent_away_after_five_minutes() {
    let mut driver = greeted();
    assert_eq!(driver.deadline, Some(START + 300 * SECOND));
    driver.now += 100 * SECOND;
    driver.say("NOOP\r\n");
    assert_eq!(driver.deadline, Some(START + 400 * SECOND));
    // A deadline that was overtaken by input does nothing.
    driver.session.timed_out(START + 300 * SECOND);
    driver.run();
    assert!(!driver.outcome.closed);
    driver.session.timed_out(START + 400 * SECOND);
    driver.run();
    assert_eq!((driver.outcome.last().as_str(), driver.outcome.closed), ("421 4.4.2", true));
}

#[test]
fn half_a_command_does_not_extend_the_wait() {
    let mut driver = greeted();
    driver.now += 299 * SECOND;
    driver.say("NOO");
    assert_eq!(driver.deadline, Some(START + 300 * SECOND));
}

#[test]
fn under_load_the_wait_is_short() {
    let mut driver = greeted();
    driver.session.set_overloaded(true);
    driver.run();
    assert_eq!(driver.deadline, Some(START + 10 * SECOND));
    driver.session.set_overloaded(false);
    driver.run();
    assert_eq!(driver.deadline, Some(START + 300 * SECOND));
}

#[test]
fn idle_content_is_dropped_without_delivery() {
    for (begin, part) in [("DATA\r\n", "half\r\n."), ("BDAT 100\r\n", "half")] {
        let mut driver = greeted();
        driver.say(ENVELOPE).say(begin);
        driver.now += 179 * SECOND;
        driver.say(part);
        assert_eq!(driver.deadline, Some(START + (179 + 180) * SECOND));
        driver.session.timed_out(START + (179 + 180) * SECOND);
        driver.run();
        assert_eq!((driver.outcome.last().as_str(), driver.outcome.closed), ("421 4.4.2", true));
        driver.say("\r\n.\r\n");
        assert!(driver.outcome.delivered.is_empty());
        assert_eq!(driver.session.held_octets(), 0);
    }
}

#[test]
fn under_load_content_has_to_keep_a_least_rate() {
    for begin in ["DATA\r\n", "BDAT 1000000\r\n"] {
        let mut driver = greeted();
        driver.session.set_overloaded(true);
        driver.say(ENVELOPE).say(begin);
        assert_eq!(driver.deadline, Some(START + 10 * SECOND));
        driver.now += SECOND;
        driver.say("x".repeat(5000));
        assert_eq!(driver.deadline, Some(START + 20 * SECOND));
        driver.say("x".repeat(500_000));
        // Then the usual wait rules.
        assert_eq!(driver.deadline, Some(START + 181 * SECOND));
    }
}

#[test]
fn a_session_lasts_an_hour_and_ends_between_commands() {
    let mut driver = greeted();
    driver.now = START + 3599 * SECOND;
    driver.say(ENVELOPE).say("DATA\r\n");
    driver.now = START + 3700 * SECOND;
    driver.say("x\r\n.\r\n");
    driver.outcome.assert_codes(&["250", "250 2.1.0", "250 2.1.5", "354", "250 2.0.0", "421 4.4.2"]);
    assert!(driver.outcome.closed);
    assert_eq!(driver.outcome.delivered[0].received_at, START + 3700 * SECOND);
    assert_eq!(driver.outcome.delivered[0].started_at, START + 3599 * SECOND);

    let mut driver = greeted();
    driver.now = START + 3500 * SECOND;
    driver.say("NOOP\r\n");
    assert_eq!(driver.deadline, Some(START + 3600 * SECOND));
}

#[test]
fn a_clock_set_back_changes_nothing() {
    let mut driver = greeted();
    driver.now = START - 1000 * SECOND;
    driver.say("NOOP\r\n");
    assert_eq!(driver.deadline, Some(START + 300 * SECOND));
}

#[test]
fn shutdown_waits_for_the_message_under_way() {
    let mut idle = greeted();
    idle.session.shutdown();
    idle.run();
    idle.outcome.assert_codes(&["250", "421 4.3.2"]);
    assert!(idle.outcome.closed);

    let mut busy = greeted();
    busy.say(ENVELOPE).say("DATA\r\n").say("x\r\n");
    busy.session.shutdown();
    busy.run();
    assert!(!busy.outcome.closed);
    busy.say(format!(".\r\n{ENVELOPE}"));
    assert_eq!(busy.outcome.codes()[4..], ["250 2.0.0", "421 4.3.2"]);
    assert_eq!((busy.outcome.delivered.len(), busy.outcome.closed), (1, true));

    let mut fresh = Driver::new(inbound(), PeerInfo::default());
    fresh.session.shutdown();
    fresh.run();
    assert!(fresh.outcome.closed && fresh.outcome.transcript.starts_with("421 4.3.2"));
}

#[test]
fn the_greeting_may_be_delayed_to_hear_who_talks_first() {
    let mut config = inbound();
    config.limits.greeting_delay_millis = 1500;
    let mut driver = Driver::new(config.clone(), PeerInfo::default());
    driver.run();
    assert_eq!(driver.outcome.delays, [Duration::from_millis(1500)]);
    assert!(driver.outcome.transcript.starts_with("220 "));

    let mut driver = Driver::new(config, PeerInfo::default());
    assert_eq!(driver.session.next_action(), Action::Delay(Duration::from_millis(1500)));
    driver.session.early_talk(START);
    driver.run();
    assert!(driver.outcome.closed && driver.outcome.transcript.starts_with("554 5.5.0"));
}

#[test]
fn an_answer_nobody_asked_for_is_ignored() {
    let mut driver = greeted();
    driver.session.answer(mail::smtp::Verdict::unavailable(), START);
    driver.say("NOOP\r\n");
    driver.outcome.assert_codes(&["250", "250 2.0.0"]);
}
