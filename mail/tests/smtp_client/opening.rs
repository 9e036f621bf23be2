//! Greeting, EHLO and HELO, STARTTLS, AUTH.

use crate::script::*;
use mail::bounce::Stage;
use mail::smtp::client::{Action, Cause, ClientConfig, Login, Tls};

fn failure(config: &ClientConfig, peer: &[Peer]) -> (Stage, Cause) {
    let seen = play(config, &[], peer);
    assert!(seen.closed && seen.failures.len() == 1, "{seen:?}");
    (seen.failures[0].stage, seen.failures[0].cause)
}

fn with_login() -> ClientConfig {
    let login = Login { username: "user".to_owned(), password: "secret".to_owned() };
    ClientConfig { login: Some(login), dangerous_auth_without_tls: true, ..config() }
}

#[test]
fn a_connection_is_opened_and_closed_politely() {
    let seen = play(&config(), &[], &[GREETING, EHLO, BYE]);
    assert_eq!(seen.said, "EHLO mail.sender.example\r\nQUIT\r\n");
    assert!(seen.failures.is_empty() && seen.closed);
    assert_eq!(seen.waits, [timeouts().greeting, timeouts().hello, timeouts().quit]);
}

#[test]
fn a_host_that_does_not_know_ehlo_is_greeted_the_old_way() {
    let seen = play(&config(), &[], &[GREETING, Peer::Says("502 what?\r\n"), Peer::Says("250 hello\r\n"), BYE]);
    assert_eq!(seen.said, "EHLO mail.sender.example\r\nHELO mail.sender.example\r\nQUIT\r\n");
}

#[test]
fn a_host_that_does_not_want_us_is_left() {
    let cases: [(&[Peer], Stage, Cause); 7] = [
        (&[Peer::Says("554 no\r\n")], Stage::Greeting, Cause::Reply),
        (&[Peer::Says("421 busy\r\n")], Stage::Greeting, Cause::Reply),
        (&[Peer::Says("HTTP/1.1 400 Bad Request\r\n")], Stage::Greeting, Cause::Garbage),
        (&[Peer::Closes], Stage::Greeting, Cause::Lost),
        (&[Peer::Sleeps], Stage::Greeting, Cause::TimedOut),
        (&[GREETING, Peer::Says("421 4.3.2 shutting down\r\n")], Stage::Hello, Cause::Reply),
        (&[GREETING, Peer::Says("502 no\r\n"), Peer::Says("550 no\r\n")], Stage::Hello, Cause::Reply),
    ];
    for (peer, stage, cause) in cases {
        assert_eq!(failure(&config(), peer), (stage, cause), "{peer:?}");
    }
}

const TLS_EHLO: Peer = Peer::Says("250-mx\r\n250-STARTTLS\r\n250 AUTH LOGIN\r\n");
const GO: Peer = Peer::Says("220 2.0.0 go\r\n");

#[test]
fn tls_is_used_where_offered_and_everything_before_it_forgotten() {
    let seen = play(&config(), &[], &[GREETING, TLS_EHLO, GO, EHLO, BYE]);
    assert_eq!(seen.said, "EHLO mail.sender.example\r\nSTARTTLS\r\nEHLO mail.sender.example\r\nQUIT\r\n");
    assert_eq!(seen.handshakes, 1);
    let seen = play(&config(), &[], &[GREETING, TLS_EHLO, Peer::Says("454 4.7.0 not now\r\n"), BYE]);
    assert!(seen.failures.is_empty(), "opportunistic: without");
    let required = ClientConfig { tls: Tls::Required, ..config() };
    assert_eq!(failure(&required, &[GREETING, TLS_EHLO, Peer::Says("454 no\r\n")]), (Stage::StartTls, Cause::Reply));
    assert_eq!(failure(&required, &[GREETING, EHLO]).1, Cause::TlsNotOffered);
    assert_eq!(failure(&config(), &[GREETING, TLS_EHLO, GO, Peer::BreaksTls]), (Stage::StartTls, Cause::TlsHandshake));
    let never = ClientConfig { tls: Tls::Never, ..config() };
    assert!(!play(&never, &[], &[GREETING, TLS_EHLO, BYE]).said.contains("STARTTLS"));
}

#[test]
fn what_comes_in_the_clear_after_starttls_is_never_read() {
    let injected = Peer::Says("220 go\r\n250-mx\r\n250 AUTH PLAIN\r\n");
    let mut client = mail::smtp::client::Client::new(config());
    let _ = client.next_action();
    client.feed(b"220 mx\r\n");
    let _ = client.next_action();
    client.feed(b"250-mx\r\n250 STARTTLS\r\n");
    let _ = client.next_action();
    let Peer::Says(text) = injected else { unreachable!() };
    client.feed(text.as_bytes());
    let Action::Failed(failure) = client.next_action() else { panic!("must fail") };
    assert_eq!(failure.cause, Cause::Garbage);
    assert_eq!(client.next_action(), Action::Close);
}

#[test]
fn auth_takes_what_is_offered() {
    let plain = Peer::Says("250-mx\r\n250 AUTH LOGIN PLAIN\r\n");
    let ok = Peer::Says("235 2.7.0 welcome\r\n");
    let seen = play(&with_login(), &[], &[GREETING, plain, ok, BYE]);
    assert!(seen.said.contains("AUTH PLAIN AHVzZXIAc2VjcmV0\r\n"), "{}", seen.said);
    let seen = play(&with_login(), &[], &[GREETING, plain, Peer::Says("334 \r\n"), ok, BYE]);
    assert_eq!(seen.said.matches("AHVzZXIAc2VjcmV0").count(), 2);
    let login = Peer::Says("250-mx\r\n250-AUTH=LOGIN\r\n250 HELP\r\n");
    let asks = Peer::Says("334 VXNlcm5hbWU6\r\n");
    let seen = play(&with_login(), &[], &[GREETING, login, asks, Peer::Says("334 UGFzc3dvcmQ6\r\n"), ok, BYE]);
    assert!(seen.said.contains("AUTH LOGIN\r\ndXNlcg==\r\nc2VjcmV0\r\n"), "{}", seen.said);
    let wrong = [GREETING, plain, Peer::Says("535 5.7.8 wrong\r\n")];
    assert_eq!(failure(&with_login(), &wrong), (Stage::Auth, Cause::AuthRejected));
    assert_eq!(failure(&with_login(), &[GREETING, plain, Peer::Says("454 4.7.0 later\r\n")]).1, Cause::Reply);
    assert_eq!(failure(&with_login(), &[GREETING, EHLO]).1, Cause::AuthNotOffered);
    let careful = ClientConfig { dangerous_auth_without_tls: false, ..with_login() };
    assert_eq!(failure(&careful, &[GREETING, plain]).1, Cause::AuthWithoutTls);
}

#[test]
fn the_transcript_holds_no_password() {
    let mut client = mail::smtp::client::Client::new(with_login());
    for text in ["220 mx\r\n", "250-mx\r\n250 AUTH PLAIN\r\n", "535 5.7.8 no\x1b[31m\r\n"] {
        client.feed(text.as_bytes());
        let _ = client.next_action();
    }
    let transcript = client.take_transcript();
    assert!(transcript.contains("S: 535 5.7.8 no [31m") && transcript.contains("C: AUTH PLAIN …"), "{transcript}");
    assert!(!transcript.contains("AHVzZXIAc2VjcmV0") && !transcript.contains("secret"));
    assert!(!format!("{:?}", with_login()).contains("secret"));
}

#[test]
fn a_server_that_repeats_the_password_is_not_quoted_with_it() {
    let refusals = [
        ("secret", "535 5.7.8 secret is wrong\r\n"),
        ("secret", "535-5.7.8 c2VjcmV0 and\r\n535 5.7.8 AHVzZXIAc2VjcmV0 are wrong\r\n"),
        ("sec\tret", "535 5.7.8 sec\tret is wrong\r\n"),
        // Too short to be left out as it is; without its padding.
        ("abcde", "535 5.7.8 AHVzZXIAYWJjZGU is wrong\r\n"),
    ];
    for (password, refusal) in refusals {
        let login = Login { username: "user".to_owned(), password: password.to_owned() };
        let mut client = mail::smtp::client::Client::new(ClientConfig { login: Some(login), ..with_login() });
        let mut failures = vec![];
        for text in ["220 mx\r\n", "250-mx\r\n250 AUTH PLAIN\r\n", refusal] {
            client.feed(text.as_bytes());
            while let action @ (Action::Failed(_) | Action::Send(_)) = client.next_action() {
                failures.extend(matches!(action, Action::Failed(_)).then(|| format!("{action:?}")));
            }
        }
        let shown = format!("{} {}", client.take_transcript(), failures.concat());
        assert!(shown.contains("535 5.7.8 —") && shown.contains("wrong") && failures.len() == 1, "{shown}");
        for secret in ["secret", "sec ret", "c2VjcmV0", "AHVzZXIA"] {
            assert!(!shown.contains(secret), "{shown}");
        }
    }
}

#[test]
fn a_password_that_is_a_word_of_the_protocol_hides_nothing_that_is_read() {
    let login = Login { username: "user".to_owned(), password: "STARTTLS".to_owned() };
    let config = ClientConfig { login: Some(login), tls: Tls::Required, ..config() };
    assert_eq!(play(&config, &[], &[GREETING, TLS_EHLO, Peer::Says("220 go\r\n"), Peer::Closes]).handshakes, 1);
}
