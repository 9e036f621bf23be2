//! Greeting, EHLO, grammar (RFC 5321 §3, §4.1).

use crate::driver::*;
use mail::smtp::{PeerInfo, StartTls};

#[test]
fn a_plain_dialogue_delivers_one_message() {
    let outcome = talk(&[
        "EHLO client.example\r\n",
        "MAIL FROM:<a@example.net>\r\n",
        "RCPT TO:<u@example.org>\r\n",
        "DATA\r\n",
        "Subject: x\r\n\r\n..dot\r\nbody\r\n.\r\n",
        "QUIT\r\n",
    ]);
    outcome.assert_codes(&["250", "250 2.1.0", "250 2.1.5", "354", "250 2.0.0", "221 2.0.0"]);
    assert!(outcome.transcript.starts_with("220 mx.example.org ESMTP "));
    assert!(outcome.transcript.contains("250 2.0.0 accepted as msg_0\r\n"));
    assert!(outcome.closed);
    let [message] = outcome.delivered.as_slice() else { panic!("one message") };
    assert_eq!(message.data, b"Subject: x\r\n\r\n.dot\r\nbody\r\n");
    assert_eq!(message.reverse_path.to_string(), "<a@example.net>");
    assert_eq!(message.recipients[0].path.to_string(), "<u@example.org>");
    assert_eq!((message.helo.as_str(), message.esmtp), ("client.example", true));
    assert_eq!((message.tls.as_ref(), message.authenticated.as_ref()), (None, None));
}

#[test]
fn ehlo_lists_what_the_profile_and_the_connection_offer() {
    let lines = |outcome: &Outcome| -> Vec<String> {
        let last = outcome.transcript.rsplit("220 mx.example.org ESMTP ready\r\n").next().unwrap();
        last.lines().filter(|line| line.starts_with("250")).map(|line| line[4..].to_owned()).collect()
    };
    let common = ["mx.example.org", "PIPELINING", "SIZE 26214400", "8BITMIME", "SMTPUTF8", "ENHANCEDSTATUSCODES"];
    let with = |more: &[&str]| -> Vec<String> {
        let all =
            common.iter().chain(["CHUNKING"].iter()).chain(more).chain(["LIMITS RCPTMAX=1000 MAILMAX=1000"].iter());
        all.map(|line| (*line).to_owned()).collect()
    };
    assert_eq!(lines(&talk(&["EHLO x\r\n"])), with(&["BINARYMIME"]));
    let offering = mail::smtp::Config { start_tls: StartTls::Optional, ..inbound() };
    assert_eq!(lines(&talk_with(&offering, &["EHLO x\r\n"])), with(&["BINARYMIME", "STARTTLS"]));
    assert_eq!(lines(&talk_with(&submission(), &["EHLO x\r\n"])), with(&["DSN", "STARTTLS"]));
    let secure = talk_as(&submission(), &under_tls(), &[b"EHLO x\r\n"]);
    assert_eq!(lines(&secure), with(&["DSN", "AUTH PLAIN LOGIN"]));
    let open = mail::smtp::Config { dangerous_auth_without_tls: true, start_tls: StartTls::Off, ..submission() };
    assert_eq!(lines(&talk_with(&open, &["EHLO x\r\n"])), with(&["DSN", "AUTH PLAIN LOGIN"]));
}

#[test]
fn helo_answers_one_line_and_uses_no_extensions() {
    let outcome = talk(&[
        "HELO x\r\n",
        "MAIL FROM:<a@example.net> SIZE=1\r\n",
        ENVELOPE,
        "BDAT 3\r\nabc",
        "DATA\r\n",
        "x\r\n.\r\n",
    ]);
    outcome.assert_codes(&["250", "555 5.5.4", "250 2.1.0", "250 2.1.5", "503 5.5.1", "354", "250 2.0.0"]);
    assert!(outcome.transcript.contains("250 mx.example.org\r\n"));
    assert!(!outcome.delivered[0].esmtp);
}

#[test]
fn each_line_has_its_reply() {
    // RFC 5321 §4.2, §4.3.2; RFC 3463
    for (line, expected) in [
        ("EHLO", "501 5.5.4"),
        ("HELO ", "501 5.5.4"),
        ("EHLO \u{e4}", "250"),
        ("ehlo client.example  \t", "250"),
        ("MAIL FROM:<a@example.net>", "250 2.1.0"),
        ("mail from:<a@example.net> ", "250 2.1.0"),
        ("MAIL FROM: <a@example.net>", "250 2.1.0"),
        ("MAIL FROM:a@example.net", "501 5.5.4"),
        ("MAIL FROM:<>", "250 2.1.0"),
        ("MAIL FROM:<a@example.net> SIZE=abc", "501 5.5.4"),
        ("MAIL FROM:<a@example.net> SIZE=", "501 5.5.4"),
        ("MAIL FROM:<a@example.net> SIZE", "501 5.5.4"),
        ("MAIL FROM:<a@example.net> SIZE=1 SIZE=1", "501 5.5.4"),
        ("MAIL FROM:<a@example.net> SIZE=26214400", "250 2.1.0"),
        ("MAIL FROM:<a@example.net> SIZE=26214401", "552 5.3.4"),
        ("MAIL FROM:<a@example.net> SIZE=99999999999", "552 5.3.4"),
        ("MAIL FROM:<a@example.net> SIZE=99999999999999999999", "552 5.3.4"),
        ("MAIL FROM:<a@example.net> SIZE=999999999999999999999", "501 5.5.4"),
        ("MAIL FROM:<a@example.net> FOO=bar", "555 5.5.4"),
        ("MAIL FROM:<a@example.net> FOO", "555 5.5.4"),
        ("MAIL FROM:<a@example.net> =bar", "501 5.5.4"),
        ("MAIL FROM:<a@example.net>SIZE=1", "501 5.5.4"),
        ("MAIL FROM:<a@example.net> BODY=8BITMIME", "250 2.1.0"),
        ("MAIL FROM:<a@example.net> BODY=7bit", "250 2.1.0"),
        ("MAIL FROM:<a@example.net> body=BINARYMIME", "250 2.1.0"),
        ("MAIL FROM:<a@example.net> BODY=9BIT", "501 5.5.4"),
        ("MAIL FROM:<a@example.net> RET=FULL", "555 5.5.4"),
        ("MAIL FROM:<a@example.net> ENVID=x", "555 5.5.4"),
        ("MAIL FROM:<a@example.net> AUTH=<>", "555 5.5.4"),
        ("MAIL FROM:<@r1,@r2:a@example.net>", "250 2.1.0"),
        ("MAIL FROM:<\"a>b\"@example.net>", "250 2.1.0"),
        ("MAIL FROM:<a b@example.net>", "501 5.1.7"),
        ("MAIL FROM:<a@example.net", "501 5.1.7"),
        ("MAIL FROM:<a\rb@example.net>", "501 5.1.7"),
        ("MAIL FROM:<a\0b@example.net>", "501 5.1.7"),
        ("MAIL FROM:<a@example.net> SIZE=1\0", "501 5.5.4"),
        ("MAIL FROM:<ä@example.net>", "553 5.6.7"),
        ("MAIL FROM:<a@bücher.example>", "553 5.6.7"),
        ("MAIL FROM:<ä@bücher.example> SMTPUTF8", "250 2.1.0"),
        ("MAIL FROM:<a@example.net> SMTPUTF8=1", "501 5.5.4"),
        ("MAIL <a@example.net>", "501 5.5.4"),
        ("MAIL", "501 5.5.4"),
        ("MAIL FROM:<blocked@example.net>", "550 5.7.1"),
        ("MAIL FROM:<down@example.net>", "451 4.3.0"),
        ("RCPT TO:<u@example.org>", "503 5.5.1"),
        ("DATA", "503 5.5.1"),
        ("DATA x", "501 5.5.4"),
        ("RSET", "250 2.0.0"),
        ("RSET x", "501 5.5.4"),
        ("NOOP", "250 2.0.0"),
        ("NOOP anything at all", "250 2.0.0"),
        ("VRFY u@example.org", "252 2.1.5"),
        ("VRFY unknown", "252 2.1.5"),
        ("EXPN list", "502 5.5.1"),
        ("HELP", "214 2.0.0"),
        ("HELP MAIL", "214 2.0.0"),
        ("TURN", "502 5.5.1"),
        ("ETRN x", "502 5.5.1"),
        ("XYZZY", "500 5.5.2"),
        ("", "500 5.5.2"),
        ("  EHLO x", "500 5.5.2"),
        ("NOOP \0", "500 5.5.2"),
        ("EHLO x\r", "500 5.5.2"),
        ("STARTTLS", "454 4.7.0"),
        ("AUTH PLAIN AGEAYg==", "502 5.5.1"),
        ("QUIT", "221 2.0.0"),
        ("XCLIENT ADDR=192.0.2.9", "550 5.7.0"),
    ] {
        assert_eq!(reply_to(line), expected, "{line:?}");
    }
}

#[test]
fn invalid_utf8_is_an_invalid_argument() {
    // RFC 6531 §3.3
    for (line, expected) in [
        (&b"MAIL FROM:<\xff@example.net> SMTPUTF8\r\n"[..], "501 5.1.7"),
        (b"EHLO \xff\r\n", "501 5.5.4"),
        (b"\xff\xfe\r\n", "500 5.5.2"),
        (b"NOOP \xff\r\n", "500 5.5.2"),
    ] {
        let outcome = talk_as(&inbound(), &PeerInfo::default(), &[b"EHLO x\r\n", line]);
        assert_eq!(outcome.last(), expected, "{line:?}");
    }
    let steps: [&[u8]; 3] = [b"EHLO x\r\n", b"MAIL FROM:<a@b> SMTPUTF8\r\n", b"RCPT TO:<\xff@example.org>\r\n"];
    assert_eq!(talk_as(&inbound(), &PeerInfo::default(), &steps).last(), "501 5.1.3");
}

#[test]
fn a_bare_lf_never_ends_a_command() {
    for (line, expected) in [
        ("EHLO x\n", "500 5.5.2"),
        ("MAIL FROM:<a@example.net>\n", "500 5.5.2"),
        ("MAIL FROM:<a\n", "501 5.1.7"),
        ("RCPT TO:<a\n", "501 5.1.3"),
        ("QUIT\n", "500 5.5.2"),
    ] {
        let outcome = talk(&["EHLO x\r\n", line]);
        outcome.assert_codes(&["250", expected]);
        assert!(!outcome.closed);
    }
}

#[test]
fn commands_out_of_sequence_are_refused() {
    talk(&["MAIL FROM:<a@example.net>\r\n"]).assert_codes(&["503 5.5.1"]);
    talk(&["EHLO x\r\n", ENVELOPE, "MAIL FROM:<b@example.net>\r\n"]).assert_codes(&[
        "250",
        "250 2.1.0",
        "250 2.1.5",
        "503 5.5.1",
    ]);
    assert_eq!(reply_in_transaction("DATA"), "503 5.5.1");
    assert_eq!(reply_in_transaction("STARTTLS"), "503 5.5.1");
}

#[test]
fn a_second_ehlo_and_rset_reset_the_transaction_only() {
    let outcome = talk(&[
        "EHLO x\r\n",
        ENVELOPE,
        "EHLO y\r\n",
        "DATA\r\n",
        ENVELOPE,
        "RSET\r\n",
        "DATA\r\n",
        ENVELOPE,
        "DATA\r\n",
        ".\r\n",
    ]);
    outcome.assert_codes(&[
        "250",
        "250 2.1.0",
        "250 2.1.5",
        "250",
        "503 5.5.1",
        "250 2.1.0",
        "250 2.1.5",
        "250 2.0.0",
        "503 5.5.1",
        "250 2.1.0",
        "250 2.1.5",
        "354",
        "250 2.0.0",
    ]);
    assert_eq!(outcome.delivered.len(), 1);
    assert_eq!(outcome.delivered[0].helo, "y");
}

#[test]
fn an_http_client_is_sent_away_at_once() {
    for first in ["GET / HTTP/1.1\r\n", "POST / HTTP/1.1\r\n", "CONNECT mx:25 HTTP/1.1\r\n", "get /\r\n"] {
        let outcome = talk(&[&format!("{first}Host: mx.example.org\r\n\r\nMAIL FROM:<a@b>\r\n")]);
        outcome.assert_codes(&["421 4.7.0"]);
        assert!(outcome.closed);
    }
}

#[test]
fn quit_closes_whatever_else_waits() {
    let outcome = talk(&["EHLO x\r\n", "QUIT\r\nNOOP\r\nMAIL FROM:<a@b>\r\n"]);
    outcome.assert_codes(&["250", "221 2.0.0"]);
    assert!(outcome.closed);
}

#[test]
fn a_client_that_talks_before_the_greeting_is_refused() {
    for told in [true, false] {
        let mut driver = Driver::new(inbound(), PeerInfo::default());
        if told {
            driver.session.early_talk(START);
        } else {
            driver.session.feed(b"EHLO x\r\n", START);
        }
        driver.run();
        assert_eq!(driver.outcome.transcript.get(..9), Some("554 5.5.0"));
        assert!(driver.outcome.closed && !driver.outcome.transcript.contains("220"));
    }
    let mut driver = Driver::new(inbound(), PeerInfo { trusted: true, ..PeerInfo::default() });
    driver.session.early_talk(START);
    driver.say("EHLO x\r\n");
    driver.outcome.assert_codes(&["250"]);
}

#[test]
fn a_listed_proxy_names_the_real_client() {
    let proxy = PeerInfo { may_xclient: true, reverse_name: Some("lb.example.org".to_owned()), ..PeerInfo::default() };
    let mut driver = Driver::greeted(inbound(), proxy.clone());
    driver.say("EHLO lb\r\n").say("XCLIENT NAME=client.example ADDR=192.0.2.9 PORT=25252 PROTO=ESMTP\r\n");
    driver.outcome.assert_codes(&["250", "220"]);
    assert!(driver.outcome.transcript.contains("XCLIENT NAME ADDR"));
    assert_eq!(driver.session.peer().address.to_string(), "192.0.2.9");
    assert_eq!(
        (driver.session.peer().port, driver.session.peer().reverse_name.as_deref()),
        (25252, Some("client.example"))
    );
    assert_eq!(driver.session.helo(), None);
    driver.say("XCLIENT ADDR=IPV6:2001:db8::1 NAME=[UNAVAILABLE]\r\n");
    assert_eq!(driver.session.peer().address.to_string(), "2001:db8::1");
    assert_eq!(driver.session.peer().reverse_name, None);
    for broken in ["XCLIENT", "XCLIENT ADDR", "XCLIENT ADDR=x", "XCLIENT FOO=bar", "XCLIENT PORT=70000"] {
        let outcome = talk_as(&inbound(), &proxy, &[format!("{broken}\r\n").as_bytes()]);
        assert_eq!(outcome.last(), "501 5.5.4", "{broken}");
    }
}
