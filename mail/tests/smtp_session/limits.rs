//! Sizes and counts, each one below, at and above its limit.

use crate::driver::*;
use mail::smtp::{Config, Limits, PeerInfo, Reply, StartTls, Verdict};
use std::time::Duration;

fn limited(change: impl FnOnce(&mut Limits)) -> Config {
    let mut config = inbound();
    change(&mut config.limits);
    config
}

#[test]
fn a_command_line_may_have_2048_octets_with_its_crlf() {
    for (octets, expected) in [(2047, "250 2.0.0"), (2048, "250 2.0.0"), (2049, "500 5.5.2"), (9000, "500 5.5.2")] {
        let line = format!("NOOP {}\r\n", "x".repeat(octets - 7));
        assert_eq!(line.len(), octets);
        let outcome = talk(&["EHLO x\r\n", &line, "RSET\r\n"]);
        outcome.assert_codes(&["250", expected, "250 2.0.0"]);
    }
    // A long line is dropped to its CRLF: neither CR nor LF alone brings commands out of it.
    let line = format!("NOOP {}\nQUIT\n\rQUIT\r\r\n", "x".repeat(3000));
    talk(&["EHLO x\r\n", &line, "RSET\r\n"]).assert_codes(&["250", "500 5.5.2", "250 2.0.0"]);
}

#[test]
fn the_third_long_line_closes() {
    let line = format!("{}\r\n", "x".repeat(3000));
    let outcome = talk(&["EHLO x\r\n", &line, &line]);
    assert_eq!((outcome.last().as_str(), outcome.closed), ("500 5.5.2", false));
    let outcome = talk(&["EHLO x\r\n", &line, &line, &line]);
    assert_eq!((outcome.last().as_str(), outcome.closed), ("421 4.7.0", true));
}

#[test]
fn content_lines_have_no_limit() {
    let line = format!("{}\r\n.\r\n", "x".repeat(200_000));
    let mut driver = Driver::greeted(inbound(), PeerInfo::default());
    driver.say("EHLO x\r\n").say(format!("{ENVELOPE}DATA\r\n")).say(&line);
    assert_eq!(driver.outcome.delivered[0].data.len(), 200_002);
}

#[test]
fn a_message_may_be_as_large_as_the_limit_and_is_discarded_past_it() {
    let config = limited(|limits| limits.message_octets_max = 100);
    for (octets, expected, closed) in [
        (99, "250 2.0.0", false),
        (100, "250 2.0.0", false),
        (101, "552 5.3.4", false),
        (200, "552 5.3.4", false),
        (201, "421 4.3.4", true),
    ] {
        // The CRLF before the final dot belongs to the message.
        let content = format!("{}\r\n.\r\n", "x".repeat(octets - 2));
        let outcome = talk_with(&config, &["EHLO x\r\n", ENVELOPE, "DATA\r\n", &content]);
        assert_eq!((outcome.last().as_str(), outcome.closed), (expected, closed), "{octets}");
        assert_eq!(outcome.delivered.len(), usize::from(octets <= 100));
    }
}

#[test]
fn a_discarded_message_takes_no_memory() {
    let config = limited(|limits| limits.message_octets_max = 1_000_000);
    let mut driver = Driver::greeted(config, PeerInfo::default());
    driver.say("EHLO x\r\n").say(format!("{ENVELOPE}DATA\r\n"));
    let block = vec![b'x'; 100_000];
    for _ in 0..9 {
        driver.say(&block);
    }
    assert!(driver.session.held_octets() >= 900_000);
    driver.say(&block).say(&block);
    assert!(driver.session.held_octets() <= 4096);
}

#[test]
fn an_idle_session_holds_no_buffers() {
    let mut driver = Driver::greeted(inbound(), PeerInfo::default());
    let group = format!("{ENVELOPE}{}DATA\r\n", "RCPT TO:<u@example.org>\r\n".repeat(1000));
    driver.say("EHLO x\r\n").say(&group).say("x\r\n.\r\n");
    assert!(driver.session.held_octets() <= 4096);
    assert!(size_of::<mail::smtp::Session>() <= 640, "{}", size_of::<mail::smtp::Session>());
}

#[test]
fn the_header_block_is_bounded_in_octets_fields_and_hops() {
    let field = |octets: usize| format!("A: {}\r\n", "x".repeat(octets - 5));
    let octets = limited(|limits| limits.header_octets_max = 1000);
    let fields = limited(|limits| limits.header_fields_max = 60);
    for (config, header, expected) in [
        (&octets, field(999), "250 2.0.0"),
        (&octets, field(1000), "250 2.0.0"),
        (&octets, field(1001), "552 5.3.4"),
        (&fields, field(9).repeat(59), "250 2.0.0"),
        (&fields, field(9).repeat(60), "250 2.0.0"),
        (&fields, field(9).repeat(61), "552 5.3.4"),
        (&inbound(), "Received: x\r\n".repeat(49), "250 2.0.0"),
        (&inbound(), "Received: x\r\n".repeat(50), "250 2.0.0"),
        (&inbound(), "received : x\r\n".repeat(51), "554 5.4.6"),
    ] {
        let body = "Received: not a header\r\n".repeat(60);
        let outcome = talk_with(config, &["EHLO x\r\n", ENVELOPE, "DATA\r\n", &format!("{header}\r\n{body}.\r\n")]);
        assert_eq!(outcome.last(), expected);
    }
}

#[test]
fn recipients_past_the_limit_are_put_off_and_the_others_stay() {
    let config = limited(|limits| limits.recipients_max = 100);
    for (count, put_off) in [(99, 0), (100, 0), (101, 1), (150, 50)] {
        let group: String = (0..count).map(|n| format!("RCPT TO:<u{n}@example.org>\r\n")).collect();
        // One that is already accepted is no further one.
        let group = format!("MAIL FROM:<>\r\n{group}RCPT TO:<u0@example.org>\r\nDATA\r\n");
        let outcome = talk_with(&config, &["EHLO x\r\n", &group, ".\r\n"]);
        assert_eq!(outcome.codes().iter().filter(|code| *code == "452 4.5.3").count(), put_off);
        assert_eq!(outcome.delivered[0].recipients.len(), count - put_off);
    }
}

#[test]
fn refused_recipients_are_no_errors_but_end_the_session_when_too_many() {
    let config = limited(|limits| limits.refused_recipients_max = 30);
    for (count, closed) in [(29, false), (30, false), (31, true)] {
        let group = format!("MAIL FROM:<>\r\n{}", "RCPT TO:<unknown@example.org>\r\n".repeat(count));
        let outcome = talk_with(&config, &["EHLO x\r\n", &group]);
        assert_eq!(outcome.closed, closed, "{count}");
        assert_eq!(outcome.last(), if closed { "421 4.7.0" } else { "550 5.1.1" });
        assert!(outcome.delays.is_empty());
    }
}

#[test]
fn transactions_are_counted_per_connection() {
    let config = limited(|limits| limits.transactions_max = 3);
    let message = [ENVELOPE, "DATA\r\n", "x\r\n.\r\n"];
    let steps: Vec<&str> = ["EHLO x\r\n"].into_iter().chain(message.repeat(3)).collect();
    let outcome = talk_with(&config, &steps);
    assert_eq!((outcome.delivered.len(), outcome.closed), (3, false));
    let steps: Vec<&str> = ["EHLO x\r\n"].into_iter().chain(message.repeat(4)).collect();
    let outcome = talk_with(&config, &steps);
    assert_eq!((outcome.delivered.len(), outcome.last().as_str(), outcome.closed), (3, "421 4.7.0", true));
}

#[test]
fn errors_first_slow_a_client_down_and_then_end_its_session() {
    for (errors, delays, closed) in
        [(9, 0, false), (10, 1, false), (11, 2, false), (19, 10, false), (20, 10, true), (21, 10, true)]
    {
        let steps: Vec<&str> = ["EHLO x\r\n"].into_iter().chain(std::iter::repeat_n("XYZZY\r\n", errors)).collect();
        let outcome = talk(&steps);
        assert_eq!(outcome.delays, vec![Duration::from_secs(1); delays], "{errors}");
        assert_eq!(
            (outcome.last().as_str(), outcome.closed),
            if closed { ("421 4.7.0", true) } else { ("500 5.5.2", false) }
        );
    }
    // Then every reply is slow, not only those to errors.
    let steps: Vec<&str> = std::iter::repeat_n("XYZZY\r\n", 10).chain(["EHLO x\r\n", ENVELOPE]).collect();
    assert_eq!(talk(&steps).delays.len(), 4);
}

#[test]
fn commands_without_mail_are_counted_until_a_message_is_accepted() {
    for command in ["NOOP\r\n", "RSET\r\n", "VRFY u\r\n", "HELP\r\n", "EHLO x\r\n", "HELO x\r\n"] {
        for (count, closed) in [(99, false), (100, false), (101, true)] {
            let steps: Vec<&str> = std::iter::repeat_n(command, count).collect();
            let mut driver = Driver::greeted(inbound(), PeerInfo::default());
            for step in steps {
                driver.say(step);
            }
            assert_eq!(driver.outcome.closed, closed, "{command} {count}");
            assert_eq!(driver.outcome.last() == "421 4.7.0", closed);
        }
    }
    let mut driver = Driver::greeted(inbound(), PeerInfo::default());
    for round in 0..3 {
        for _ in 0..90 {
            driver.say("NOOP\r\n");
        }
        driver.say("EHLO x\r\n").say(format!("{ENVELOPE}DATA\r\n")).say("x\r\n.\r\n");
        assert_eq!(driver.outcome.delivered.len(), round + 1);
    }
}

#[test]
fn limits_are_read_with_defaults_and_refuse_unknown_fields() {
    let limits: Limits = serde_json::from_str(r#"{"message_octets_max": 100000}"#).unwrap();
    assert_eq!(limits, Limits { message_octets_max: 100_000, ..Limits::default() });
    assert!(serde_json::from_str::<Limits>(r#"{"message_size": 1}"#).is_err());
    assert_eq!(Limits::default().validate(), Ok(()));
    let broken = Limits { message_octets_max: 52_428_801, command_octets_max: 511, recipients_max: 99, ..limits };
    let fields: Vec<&str> = broken.validate().unwrap_err().iter().map(|error| error.field).collect();
    assert_eq!(fields, ["command_octets_max", "message_octets_max", "recipients_max"]);
}

#[test]
fn a_reply_text_can_never_end_its_line() {
    let mut driver = Driver::greeted(inbound(), PeerInfo::default());
    driver.session.feed(b"EHLO x\r\nMAIL FROM:<>\r\n".get(..8).unwrap(), START);
    driver.run();
    driver.session.feed(b"MAIL FROM:<>\r\n", START);
    assert!(matches!(driver.session.next_action(), mail::smtp::Action::CheckSender { .. }));
    driver.session.answer(Verdict::reject(550, 7, 1, format!("no\r250 ü{}", "x".repeat(1000))), START);
    driver.run();
    let last = driver.outcome.transcript.lines().last().unwrap();
    assert!(last.starts_with("550 5.7.1 no?250 ?xxx") && last.len() <= 510, "{last}");
}

#[test]
fn a_verdict_is_always_a_refusal_of_its_class() {
    let code = |verdict: Verdict| match verdict {
        Verdict::Refuse(reply) => (reply.code(), reply.enhanced()),
        other => panic!("{other:?}"),
    };
    assert_eq!(code(Verdict::reject(250, 1, 1, "")), (554, Some("5.1.1".to_owned())));
    assert_eq!(code(Verdict::temp_fail(550, 1, 1, "")), (451, Some("4.1.1".to_owned())));
    let mut driver = Driver::greeted(Config { start_tls: StartTls::Off, ..inbound() }, PeerInfo::default());
    driver.say("EHLO x\r\n");
    driver.session.feed(b"MAIL FROM:<>\r\n", START);
    let _ = driver.session.next_action();
    driver.session.answer(Verdict::Refuse(Reply::new(250, 0, 0, "a mistake")), START);
    driver.run();
    assert_eq!(driver.outcome.last(), "451 4.3.0");
}
