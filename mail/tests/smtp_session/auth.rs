//! AUTH (RFC 4954).

use crate::driver::*;
use mail::smtp::{Config, StartTls};

fn login(lines: &[&str]) -> Outcome {
    let steps: Vec<String> = lines.iter().map(|line| format!("{line}\r\n")).collect();
    let steps: Vec<&[u8]> = steps.iter().map(String::as_bytes).collect();
    talk_as(&submission(), &under_tls(), &steps)
}

#[test]
fn plain_and_login_work_with_and_without_an_initial_response() {
    // "key" and "secret"; with an empty or an equal authorization identity.
    for lines in [
        &["AUTH PLAIN AGtleQBzZWNyZXQ="][..],
        &["auth plain a2V5AGtleQBzZWNyZXQ="],
        &["AUTH PLAIN", "AGtleQBzZWNyZXQ="],
        &["AUTH LOGIN", "a2V5", "c2VjcmV0"],
        &["AUTH LOGIN a2V5", "c2VjcmV0"],
    ] {
        let all: Vec<&str> = ["EHLO x"].into_iter().chain(lines.iter().copied()).chain(["EHLO x"]).collect();
        let outcome = login(&all);
        assert!(outcome.codes().contains(&"235 2.7.0".to_owned()), "{lines:?} {}", outcome.transcript);
        // Once authenticated, AUTH is offered no more.
        assert_eq!(outcome.transcript.matches("AUTH PLAIN LOGIN").count(), 1);
    }
    let challenges = login(&["EHLO x", "AUTH LOGIN", "a2V5", "c2VjcmV0"]);
    assert!(challenges.transcript.contains("334 VXNlcm5hbWU6\r\n334 UGFzc3dvcmQ6\r\n"));
    assert!(login(&["EHLO x", "AUTH PLAIN"]).transcript.ends_with("334 \r\n"));
}

#[test]
fn wrong_credentials_are_refused_alike_and_three_times_close() {
    let wrong_secret = "AUTH PLAIN AGtleQB3cm9uZw==";
    let wrong_user = "AUTH PLAIN AG5vYm9keQBzZWNyZXQ=";
    let outcome = login(&["EHLO x", wrong_secret, wrong_user, "NOOP"]);
    outcome.assert_codes(&["250", "535 5.7.8", "535 5.7.8", "250 2.0.0"]);
    let replies: Vec<&str> = outcome.transcript.lines().filter(|line| line.starts_with("535")).collect();
    assert_eq!(replies[0], replies[1]);
    let outcome = login(&["EHLO x", wrong_secret, wrong_user, wrong_secret, "NOOP"]);
    outcome.assert_codes(&["250", "535 5.7.8", "535 5.7.8", "535 5.7.8", "421 4.7.0"]);
    assert!(outcome.closed);
}

#[test]
fn malformed_exchanges_are_named() {
    for (lines, expected) in [
        (&["AUTH"][..], "501 5.5.4"),
        (&["AUTH CRAM-MD5"], "504 5.5.4"),
        (&["AUTH PLAIN a b"], "501 5.5.4"),
        (&["AUTH PLAIN !!!"], "501 5.5.2"),
        (&["AUTH PLAIN", "*"], "501 5.7.0"),
        (&["AUTH LOGIN", "*"], "501 5.7.0"),
        (&["AUTH LOGIN a2V5", "*"], "501 5.7.0"),
        (&["AUTH PLAIN ="], "535 5.7.8"),
        (&["AUTH PLAIN", ""], "535 5.7.8"),
        // "one part", no UTF-8, acting for somebody else, a fourth part
        (&["AUTH PLAIN b25l"], "535 5.7.8"),
        (&["AUTH PLAIN AP8A/w=="], "535 5.7.8"),
        (&["AUTH PLAIN b3RoZXIAa2V5AHNlY3JldA=="], "535 5.7.8"),
        (&["AUTH PLAIN AGtleQBzZWNyZXQAeA=="], "535 5.7.8"),
        // `=` is an empty user name, which is not refused before there is a password
        (&["AUTH LOGIN =", "c2VjcmV0"], "535 5.7.8"),
    ] {
        let all: Vec<&str> = ["EHLO x"].into_iter().chain(lines.iter().copied()).collect();
        assert_eq!(login(&all).last(), expected, "{lines:?}");
    }
    // After any of these the dialogue goes on.
    assert_eq!(login(&["EHLO x", "AUTH PLAIN", "*", "NOOP"]).last(), "250 2.0.0");
}

#[test]
fn auth_is_possible_once_and_outside_a_transaction_only() {
    let right = "AUTH PLAIN AGtleQBzZWNyZXQ=";
    assert_eq!(login(&[right]).last(), "503 5.5.1");
    assert_eq!(login(&["HELO x", right]).last(), "503 5.5.1");
    assert_eq!(login(&["EHLO x", right, right]).last(), "503 5.5.1");
    assert_eq!(login(&["EHLO x", right, "MAIL FROM:<a@example.org>", right]).last(), "503 5.5.1");
    assert_eq!(login(&["EHLO x", "MAIL FROM:<a@example.org>"]).last(), "530 5.7.0");
    assert_eq!(login(&["EHLO x", right, "RSET", "EHLO y", "MAIL FROM:<a@example.org>"]).last(), "250 2.1.0");
}

#[test]
fn nobody_authenticates_in_the_clear() {
    let right = "AUTH PLAIN AGtleQBzZWNyZXQ=\r\n";
    talk_with(&submission(), &["EHLO x\r\n", right]).assert_codes(&["250", "538 5.7.11"]);
    talk_with(&submission(), &["EHLO x\r\n", "STARTTLS\r\n", "EHLO x\r\n", right]).assert_codes(&[
        "250",
        "220 2.0.0",
        "250",
        "235 2.7.0",
    ]);
    let sandbox = Config { dangerous_auth_without_tls: true, start_tls: StartTls::Optional, ..submission() };
    // A handshake forgets the authentication that preceded it.
    talk_with(&sandbox, &["EHLO x\r\n", right, "STARTTLS\r\n", "EHLO x\r\n", ENVELOPE]).assert_codes(&[
        "250",
        "235 2.7.0",
        "220 2.0.0",
        "250",
        "530 5.7.0",
        "503 5.5.1",
    ]);
}

#[test]
fn secrets_do_not_show_themselves() {
    let config = std::sync::Arc::new(submission());
    let mut session = mail::smtp::Session::new(config, under_tls(), START);
    let _ = session.next_action();
    session.feed(b"EHLO x\r\n", START);
    let _ = session.next_action();
    session.feed(b"AUTH PLAIN AGtleQBodW50ZXIy\r\n", START);
    let action = session.next_action();
    assert!(!format!("{action:?}{session:?}").contains("hunter2"));
}

#[test]
fn a_long_auth_line_has_a_limit_of_its_own() {
    // RFC 4954 §4: at least 12288 octets with CRLF
    for (octets, expected) in [(12_287, "501 5.5.2"), (12_288, "501 5.5.2"), (12_289, "500 5.5.6")] {
        let response = format!("{}!\r\n", "A".repeat(octets - 3));
        let steps: [&[u8]; 3] = [b"EHLO x\r\n", b"AUTH PLAIN\r\n", response.as_bytes()];
        assert_eq!(talk_as(&submission(), &under_tls(), &steps).last(), expected, "{octets}");
    }
}
