//! RCPT: whom a message is for (RFC 5321 §4.1.1.3, RFC 3461).

use crate::driver::*;
use mail::smtp::{Config, Notify, OriginalRecipient, Return};

#[test]
fn each_recipient_has_its_reply() {
    for (line, expected) in [
        ("RCPT TO:<u@example.org>", "250 2.1.5"),
        ("rcpt to: <u@EXAMPLE.org> ", "250 2.1.5"),
        ("RCPT TO:<\"john doe\"@example.org>", "250 2.1.5"),
        ("RCPT TO:<@r1,@r2:u@example.org>", "250 2.1.5"),
        ("RCPT TO:<postmaster>", "250 2.1.5"),
        ("RCPT TO:<Postmaster>", "250 2.1.5"),
        ("RCPT TO:<user%other@example.org>", "250 2.1.5"),
        ("RCPT TO:<a!b@example.org>", "250 2.1.5"),
        ("RCPT TO:<u@[192.0.2.1]>", "550 5.1.2"),
        ("RCPT TO:<u@[IPv6:2001:db8::1]>", "550 5.1.2"),
        ("RCPT TO:<u@[192.0.2.1>", "501 5.1.3"),
        ("RCPT TO:<u@elsewhere.example>", "550 5.7.1"),
        ("RCPT TO:<unknown@example.org>", "550 5.1.1"),
        ("RCPT TO:<quota@example.org>", "452 4.2.2"),
        ("RCPT TO:<u\r@example.org>", "501 5.1.3"),
        ("RCPT TO:<u\0@example.org>", "501 5.1.3"),
        ("RCPT TO:<post\0master>", "501 5.1.3"),
        ("RCPT TO:<>", "501 5.1.3"),
        ("RCPT TO:u@example.org", "501 5.5.4"),
        ("RCPT FROM:<u@example.org>", "501 5.5.4"),
        ("RCPT TO:<ü@example.org>", "553 5.6.7"),
        ("RCPT TO:<u@example.org> NOTIFY=NEVER", "555 5.5.4"),
        ("RCPT TO:<u@example.org> ORCPT=rfc822;u@example.org", "555 5.5.4"),
        ("RCPT TO:<u@example.org> FOO=1", "555 5.5.4"),
    ] {
        assert_eq!(reply_in_transaction(line), expected, "{line:?}");
    }
}

#[test]
fn address_lengths_hold_at_their_limits() {
    // RFC 5321 §4.5.3.1
    for (octets, sender, recipient) in [(64, "250 2.1.0", "250 2.1.5"), (65, "553 5.1.7", "553 5.1.3")] {
        let local = "l".repeat(octets);
        assert_eq!(reply_to(&format!("MAIL FROM:<{local}@example.net>")), sender);
        assert_eq!(reply_in_transaction(&format!("RCPT TO:<{local}@example.org>")), recipient);
    }
    let label = "d".repeat(63);
    let long = format!("{label}.{label}.{label}.{label}.{label}");
    assert_eq!(reply_to(&format!("MAIL FROM:<a@{long}>")), "553 5.1.7");
    assert_eq!(reply_in_transaction(&format!("RCPT TO:<a@{long}>")), "553 5.1.3");
}

#[test]
fn a_literal_of_ours_is_put_before_the_driver() {
    let config = Config { literals: vec!["192.0.2.1".parse().unwrap()], ..inbound() };
    let outcome = talk_with(
        &config,
        &["EHLO x\r\n", "MAIL FROM:<>\r\n", "RCPT TO:<u@[192.0.2.1]>\r\n", "RCPT TO:<u@[192.0.2.2]>\r\n"],
    );
    outcome.assert_codes(&["250", "250 2.1.0", "250 2.1.5", "550 5.1.2"]);
}

#[test]
fn quoting_is_kept_and_routes_are_dropped() {
    let outcome = talk(&[
        "EHLO x\r\n",
        "MAIL FROM:<@r:a@example.net>\r\nRCPT TO:<\"john doe\"@Example.org>\r\nRCPT TO:<@r1,@r2:u@example.org>\r\nRCPT TO:<postmaster>\r\nDATA\r\n",
        ".\r\n",
    ]);
    let paths: Vec<String> = outcome.delivered[0].recipients.iter().map(|r| r.path.to_string()).collect();
    assert_eq!(paths, ["<\"john doe\"@example.org>", "<u@example.org>", "<postmaster>"]);
    assert_eq!(outcome.delivered[0].reverse_path.to_string(), "<a@example.net>");
}

#[test]
fn a_recipient_named_twice_gets_one_copy() {
    let twice = "MAIL FROM:<>\r\nRCPT TO:<u@example.org>\r\nRCPT TO:<u@EXAMPLE.org>\r\nDATA\r\n";
    let outcome = talk(&["EHLO x\r\n", twice, ".\r\n"]);
    outcome.assert_codes(&["250", "250 2.1.0", "250 2.1.5", "250 2.1.5", "354", "250 2.0.0"]);
    assert_eq!(outcome.delivered[0].recipients.len(), 1);
}

#[test]
fn utf8_addresses_need_smtputf8_and_domains_become_a_labels() {
    // RFC 6531 §3.3
    let steps = "MAIL FROM:<ä@bücher.example> SMTPUTF8\r\nRCPT TO:<ü@BÜCHER.example>\r\nRCPT TO:<ü@xn--bcher-kva.example>\r\nDATA\r\n";
    let outcome = talk(&["EHLO x\r\n", steps, ".\r\n"]);
    outcome.assert_codes(&["250", "250 2.1.0", "250 2.1.5", "250 2.1.5", "354", "250 2.0.0"]);
    let message = &outcome.delivered[0];
    assert!(message.parameters.smtputf8);
    assert_eq!(message.recipients.len(), 1);
    assert_eq!(message.recipients[0].path.as_str(), "ü@xn--bcher-kva.example");
}

#[test]
fn a_driver_may_end_the_session_instead_of_answering() {
    let outcome = talk(&["EHLO x\r\n", "MAIL FROM:<>\r\nRCPT TO:<harvest@example.org>\r\nNOOP\r\n"]);
    outcome.assert_codes(&["250", "250 2.1.0", "421 4.7.0"]);
    assert!(outcome.closed);
    let outcome = talk(&["EHLO x\r\n", "MAIL FROM:<gone@example.net>\r\nNOOP\r\n"]);
    outcome.assert_codes(&["250", "421 4.7.0"]);
    assert!(outcome.closed);
}

fn submit(lines: &[&str]) -> Outcome {
    let login = ["EHLO x\r\n".to_owned(), "AUTH PLAIN AGtleQBzZWNyZXQ=\r\n".to_owned()];
    let steps: Vec<String> = login.into_iter().chain(lines.iter().map(|line| format!("{line}\r\n"))).collect();
    let steps: Vec<&[u8]> = steps.iter().map(String::as_bytes).collect();
    talk_as(&submission(), &under_tls(), &steps)
}

#[test]
fn dsn_parameters_are_decoded_and_kept_on_submission() {
    // RFC 3461 §4
    let outcome = submit(&[
        "MAIL FROM:<a@example.org> RET=HDRS ENVID=QQ+2B314 AUTH=<>",
        "RCPT TO:<u@example.org> NOTIFY=SUCCESS,delay ORCPT=RFC822;u+2Btag@example.org",
        "RCPT TO:<v@example.org> NOTIFY=NEVER",
        "DATA",
        ".",
    ]);
    let message = &outcome.delivered[0];
    assert_eq!(message.parameters.ret, Some(Return::Headers));
    assert_eq!(message.parameters.envid.as_deref(), Some("QQ+314"));
    let first = &message.recipients[0].parameters;
    assert_eq!(first.notify, Some(Notify::On { success: true, failure: false, delay: true }));
    let original = OriginalRecipient { address_type: "rfc822".to_owned(), address: "u+tag@example.org".to_owned() };
    assert_eq!(first.original, Some(original));
    assert_eq!(message.recipients[1].parameters.notify, Some(Notify::Never));
    assert_eq!(message.authenticated.as_deref(), Some("key"));
}

#[test]
fn malformed_dsn_parameters_are_named() {
    for parameters in ["RET=ALL", "RET", "ENVID=+", "ENVID=+0d", "ENVID=+0D+0A", "ENVID=+FF", "ENVID=a=b"] {
        assert_eq!(submit(&[&format!("MAIL FROM:<a@example.org> {parameters}")]).last(), "501 5.5.4", "{parameters}");
    }
    for (characters, expected) in [(99, "250 2.1.0"), (100, "250 2.1.0"), (101, "501 5.5.4")] {
        let line = format!("MAIL FROM:<a@example.org> ENVID={}", "e".repeat(characters));
        assert_eq!(submit(&[&line]).last(), expected);
    }
    for parameters in [
        "NOTIFY=NEVER,SUCCESS",
        "NOTIFY=",
        "NOTIFY=SOMETIMES",
        "NOTIFY",
        "ORCPT=u@x",
        "ORCPT=;u@x",
        "ORCPT=rfc822;",
        "ORCPT=rfc822;+0A",
    ] {
        let outcome = submit(&["MAIL FROM:<a@example.org>", &format!("RCPT TO:<u@example.org> {parameters}")]);
        assert_eq!(outcome.last(), "501 5.5.4", "{parameters}");
    }
    for (characters, expected) in [(500, "250 2.1.5"), (501, "501 5.5.4")] {
        let line = format!("RCPT TO:<u@example.org> ORCPT=rfc822;{}", "o".repeat(characters));
        assert_eq!(submit(&["MAIL FROM:<a@example.org>", &line]).last(), expected);
    }
}
