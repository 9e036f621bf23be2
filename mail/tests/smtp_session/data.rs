//! DATA: only CRLF . CRLF ends it (RFC 5321 §4.1.1.4, §4.5.2).

use crate::driver::*;
use mail::smtp::{Config, LineEnds, PeerInfo};

fn begin(config: &Config) -> Driver {
    let mut driver = Driver::greeted(config.clone(), PeerInfo::default());
    driver.say("EHLO x\r\n").say(format!("{ENVELOPE}DATA\r\n"));
    assert_eq!(driver.outcome.last(), "354");
    driver
}

fn normalizing() -> Config {
    Config { line_ends: LineEnds::Normalize, ..inbound() }
}

/// Sends content whole, cut in two at every position, and in small pieces; all must come to the same.
fn send(config: &Config, content: &[u8]) -> Outcome {
    let play = |parts: &[&[u8]]| {
        let mut driver = begin(config);
        for part in parts {
            driver.say(part);
        }
        driver.outcome
    };
    let whole = play(&[content]);
    for cut in 0..=content.len() {
        let (head, tail) = content.split_at(cut);
        assert_eq!(play(&[head, tail]), whole, "cut at {cut} of {content:?}");
    }
    for piece in [1, 2, 7, 64] {
        assert_eq!(play(&content.chunks(piece).collect::<Vec<_>>()), whole, "pieces of {piece} of {content:?}");
    }
    whole
}

/// What looks like an end of data to some parsers and is none.
const FALSE_ENDS: &[&str] =
    &["\n.\n", "\n.\r\n", "\r\n.\n", "\r.\r", "\r.\n", "\n.\r", "\r\n.\r", "\r.\r\n", "\r\n.\r\r\n", "\r\r\n.\r\r\n"];

#[test]
fn nothing_but_crlf_dot_crlf_ends_data() {
    for false_end in FALSE_ENDS {
        let content = format!("a{false_end}MAIL FROM:<admin@example.org>\r\nRCPT TO:<u@example.org>\r\nDATA\r\nevil");
        let mut driver = begin(&inbound());
        driver.say(&content);
        assert_eq!(driver.outcome.last(), "354", "{false_end:?}");
        let outcome = send(&inbound(), format!("{content}\r\n.\r\n").as_bytes());
        assert_eq!(outcome.last(), "550 5.6.0", "{false_end:?}");
        assert!(outcome.delivered.is_empty() && !outcome.closed);
    }
}

#[test]
fn normalizing_repairs_bare_line_ends_into_one_message() {
    for (false_end, repaired) in [
        ("\n.\n", "\r\n.\r\n"),
        ("\n.\r\n", "\r\n.\r\n"),
        // A dot that begins a true line is a stuffed one, unless CRLF follows it.
        ("\r\n.\n", "\r\n\r\n"),
        ("\r.\r", "\r\n.\r\n"),
        ("\r.\n", "\r\n.\r\n"),
        ("\n.\r", "\r\n.\r\n"),
        ("\r\n.\r", "\r\n\r\n"),
        ("\r.\r\n", "\r\n.\r\n"),
        ("\r\n.\r\r\n", "\r\n\r\n\r\n"),
        ("\r\r\n.\r\r\n", "\r\n\r\n\r\n\r\n"),
    ] {
        let outcome = send(&normalizing(), format!("a{false_end}MAIL FROM:<x@y>\r\n.\r\n").as_bytes());
        assert_eq!(outcome.last(), "250 2.0.0", "{false_end:?}");
        let expected = format!("a{repaired}MAIL FROM:<x@y>\r\n");
        assert_eq!(outcome.data(), [expected.as_bytes()], "{false_end:?}");
    }
    assert_eq!(FALSE_ENDS.len(), 10);
}

#[test]
fn a_genuine_end_after_a_bare_cr_ends_and_is_refused() {
    let outcome = send(&inbound(), b"a\r\r\n.\r\n");
    assert_eq!(outcome.last(), "550 5.6.0");
    assert!(outcome.delivered.is_empty());
    assert_eq!(send(&normalizing(), b"a\r\r\n.\r\n").data(), [b"a\r\n\r\n"]);
}

#[test]
fn a_nul_is_content_and_never_ends() {
    for (content, kept) in
        [(&b"a\r\n\0.\r\nb\r\n.\r\n"[..], &b"a\r\n\0.\r\nb\r\n"[..]), (b"a\r\n.\0\r\nb\r\n.\r\n", b"a\r\n\0\r\nb\r\n")]
    {
        let outcome = send(&inbound(), content);
        assert_eq!((outcome.last().as_str(), outcome.data()), ("250 2.0.0", vec![kept]));
    }
}

#[test]
fn an_empty_message_is_a_message() {
    let outcome = send(&inbound(), b".\r\n");
    assert_eq!((outcome.last().as_str(), outcome.data()), ("250 2.0.0", vec![&b""[..]]));
}

#[test]
fn dots_are_unstuffed_once_at_the_start_of_each_line() {
    for (content, kept) in [
        (&b"..x\r\n.\r\n"[..], &b".x\r\n"[..]),
        (b"...\r\n.\r\n", b"..\r\n"),
        (b".x\r\n.\r\n", b"x\r\n"),
        (b"a.\r\n..\r\n.\r\n", b"a.\r\n.\r\n"),
        (b"a\r\n\r\n..b\r\n.\r\n", b"a\r\n\r\n.b\r\n"),
        (b"\r\n.\r\n", b"\r\n"),
        (b"\xff\xfe 8-bit \x80\r\n.\r\n", b"\xff\xfe 8-bit \x80\r\n"),
    ] {
        assert_eq!(send(&inbound(), content).data(), [kept], "{content:?}");
    }
}

#[test]
fn a_dialogue_goes_on_after_a_refused_message() {
    let mut driver = begin(&inbound());
    driver.say("a\nb\r\n.\r\n").say(format!("{ENVELOPE}DATA\r\n")).say("fine\r\n.\r\n");
    assert_eq!(driver.outcome.data(), [b"fine\r\n"]);
}

#[test]
fn a_delivery_that_fails_is_told_and_closes_the_transaction() {
    let mut driver = Driver::greeted(inbound(), PeerInfo::default());
    driver.say("EHLO x\r\n");
    driver.say("MAIL FROM:<full@example.net>\r\nRCPT TO:<u@example.org>\r\nDATA\r\n").say("x\r\n.\r\n").say("DATA\r\n");
    driver.outcome.assert_codes(&["250", "250 2.1.0", "250 2.1.5", "354", "452 4.3.1", "503 5.5.1"]);
}

#[test]
fn binarymime_needs_bdat() {
    let steps = "MAIL FROM:<a@example.net> BODY=BINARYMIME\r\nRCPT TO:<u@example.org>\r\nDATA\r\n";
    talk(&["EHLO x\r\n", steps]).assert_codes(&["250", "250 2.1.0", "250 2.1.5", "503 5.5.1"]);
    assert_eq!(talk_with(&Config { binarymime: false, ..inbound() }, &["EHLO x\r\n", steps]).codes()[1], "501 5.5.4");
}
