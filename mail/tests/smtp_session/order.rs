//! Pipelining, STARTTLS, and what may not be sent before a reply (RFC 2920, RFC 3207).

use crate::driver::*;
use mail::smtp::{Action, Config, Session, StartTls};
use std::sync::Arc;

#[test]
fn a_pipelined_group_is_answered_in_order_and_in_one_write() {
    let mut session = Session::new(Arc::new(inbound()), mail::smtp::PeerInfo::default(), START);
    assert!(matches!(session.next_action(), Action::Reply(_)));
    session.feed(b"EHLO x\r\n", START);
    assert!(matches!(session.next_action(), Action::Reply(_)));
    session.feed(b"MAIL FROM:<a@example.net>\r\nRCPT TO:<u@example.org>\r\nRCPT TO:<v@example.org>\r\nDATA\r\n", START);
    let mut writes = Vec::new();
    loop {
        match session.next_action() {
            Action::Reply(octets) => writes.push(String::from_utf8(octets).unwrap()),
            Action::CheckSender { .. } | Action::CheckRecipient { .. } => {
                session.answer(mail::smtp::Verdict::Accept, START);
            }
            Action::NeedInput { .. } => break,
            other => panic!("{other:?}"),
        }
    }
    let [write] = writes.as_slice() else { panic!("{writes:?}") };
    let codes: Vec<&str> = write.lines().map(|line| &line[..3]).collect();
    assert_eq!(codes, ["250", "250", "250", "354"]);
}

#[test]
fn data_needs_one_accepted_recipient() {
    let refused =
        "MAIL FROM:<a@example.net>\r\nRCPT TO:<unknown@example.org>\r\nRCPT TO:<x@elsewhere.example>\r\nDATA\r\n";
    talk(&["EHLO x\r\n", refused]).assert_codes(&["250", "250 2.1.0", "550 5.1.1", "550 5.7.1", "554 5.5.1"]);
    let one = "MAIL FROM:<a@example.net>\r\nRCPT TO:<unknown@example.org>\r\nRCPT TO:<u@example.org>\r\nDATA\r\n";
    let outcome = talk(&["EHLO x\r\n", one, "hi\r\n.\r\n"]);
    outcome.assert_codes(&["250", "250 2.1.0", "550 5.1.1", "250 2.1.5", "354", "250 2.0.0"]);
    assert_eq!(outcome.delivered[0].recipients.len(), 1);
    let broken = "MAIL FROM:<a@example.net>\r\nRCPT TO:<>\r\nDATA\r\n";
    talk(&["EHLO x\r\n", broken]).assert_codes(&["250", "250 2.1.0", "501 5.1.3", "554 5.5.1"]);
}

#[test]
fn input_that_should_have_waited_for_a_reply_ends_the_session() {
    for (steps, codes) in [
        (&["EHLO x\r\n", ENVELOPE, "DATA\r\nSubject: blind\r\n\r\n.\r\n"][..], &["250", "250 2.1.0", "250 2.1.5"][..]),
        (&["EHLO x\r\n", "DATA\r\nSubject: blind\r\n\r\n.\r\n"], &["250"]),
        (&["EHLO x\r\nMAIL FROM:<a@example.net>\r\n"], &[]),
        (&["HELO x\r\nMAIL FROM:<a@example.net>\r\n"], &[]),
        (&["EHLO x\r\n", "NOOP\r\nNOOP\r\n"], &["250"]),
        (&["EHLO x\r\n", "VRFY u\r\nN"], &["250"]),
    ] {
        // Only together are these a violation: sent one after another each would wait for its reply.
        let mut driver = Driver::greeted(inbound(), mail::smtp::PeerInfo::default());
        for step in steps {
            driver.say(step);
        }
        let expected: Vec<&str> = codes.iter().copied().chain(["554 5.5.0"]).collect();
        driver.outcome.assert_codes(&expected);
        assert!(driver.outcome.closed && driver.outcome.delivered.is_empty());
    }
}

#[test]
fn the_next_transaction_may_follow_the_final_dot_at_once() {
    let next = format!("one\r\n.\r\n{ENVELOPE}DATA\r\n");
    let outcome = talk(&["EHLO x\r\n", &format!("{ENVELOPE}DATA\r\n"), &next, "two\r\n.\r\nQUIT\r\n"]);
    assert_eq!(outcome.data(), [b"one\r\n", b"two\r\n"]);
    assert!(outcome.closed);
}

fn with_tls() -> Config {
    Config { start_tls: StartTls::Optional, ..inbound() }
}

#[test]
fn starttls_forgets_what_was_said_in_the_clear() {
    let outcome = talk_with(
        &with_tls(),
        &[
            "EHLO x\r\n",
            "STARTTLS\r\n",
            "MAIL FROM:<a@example.net>\r\n",
            "EHLO y\r\n",
            "STARTTLS\r\n",
            ENVELOPE,
            "DATA\r\n",
            ".\r\n",
        ],
    );
    outcome.assert_codes(&[
        "250",
        "220 2.0.0",
        "503 5.5.1",
        "250",
        "503 5.5.1",
        "250 2.1.0",
        "250 2.1.5",
        "354",
        "250 2.0.0",
    ]);
    assert_eq!(outcome.transcript.matches("STARTTLS").count(), 1);
    assert_eq!((outcome.delivered[0].tls.clone(), outcome.delivered[0].helo.as_str()), (Some(tls()), "y"));
}

#[test]
fn starttls_takes_no_argument_and_may_be_required() {
    talk_with(&with_tls(), &["STARTTLS x\r\n"]).assert_codes(&["501 5.5.4"]);
    let required = Config { start_tls: StartTls::Required, ..inbound() };
    talk_with(&required, &["EHLO x\r\n", ENVELOPE, "STARTTLS\r\n", "EHLO x\r\n", ENVELOPE]).assert_codes(&[
        "250",
        "530 5.7.0",
        "503 5.5.1",
        "220 2.0.0",
        "250",
        "250 2.1.0",
        "250 2.1.5",
    ]);
}

#[test]
fn octets_sent_in_the_clear_after_starttls_are_never_interpreted() {
    // In the same segment as the command.
    let mut driver = Driver::greeted(with_tls(), mail::smtp::PeerInfo::default());
    driver.say("EHLO x\r\n").say("STARTTLS\r\nMAIL FROM:<evil@example.net>\r\n");
    driver.outcome.assert_codes(&["250", "554 5.5.0"]);
    assert!(driver.outcome.closed);

    // Read by the driver before it began the handshake.
    let mut driver = Driver::greeted(with_tls(), mail::smtp::PeerInfo::default());
    driver.say("EHLO x\r\n");
    driver.session.feed(b"STARTTLS\r\n", START);
    assert!(matches!(driver.session.next_action(), Action::Reply(_)));
    assert_eq!(driver.session.next_action(), Action::StartTls);
    driver.session.feed(b"EHLO evil\r\n", START);
    driver.session.tls_established(tls(), START);
    assert_eq!(driver.session.next_action(), Action::Close);
    assert_eq!(driver.session.tls(), None);
}
