//! BDAT (RFC 3030).

use crate::driver::*;
use mail::smtp::{Config, LineEnds, PeerInfo};

fn chunks_with(config: &Config, mail: &str, steps: &[&[u8]]) -> Outcome {
    let mut all: Vec<&[u8]> = vec![b"EHLO x\r\n", mail.as_bytes()];
    all.extend(steps);
    talk_as(config, &PeerInfo::default(), &all)
}

fn chunks(steps: &[&[u8]]) -> Outcome {
    chunks_with(&inbound(), ENVELOPE, steps)
}

#[test]
fn chunks_are_counted_not_searched() {
    let outcome = chunks(&[b"BDAT 5\r\na\r\n.\r", b"bdat 6\r\n\nMAIL\r", b"BDAT 3 last\r\n\n.\r", b"NOOP\r\n"]);
    // The last chunk ends in a bare CR.
    assert_eq!(outcome.codes()[3..], ["250 2.0.0", "250 2.0.0", "550 5.6.0", "250 2.0.0"]);
    let outcome = chunks(&[b"BDAT 5\r\na\r\n.\r", b"BDAT 7\r\n\nMAIL\r\n", b"BDAT 3 LAST\r\n..x"]);
    assert_eq!(outcome.data(), [b"a\r\n.\r\nMAIL\r\n..x"]);
}

#[test]
fn an_empty_last_chunk_ends_the_message() {
    assert_eq!(chunks(&[b"BDAT 0 LAST\r\n"]).data(), [b""]);
    assert_eq!(chunks(&[b"BDAT 3\r\nx\r\nBDAT 0 LAST\r\n"]).data(), [b"x\r\n"]);
    assert_eq!(chunks(&[b"BDAT 0\r\nBDAT 3 LAST\r\nx\r\n"]).data(), [b"x\r\n"]);
}

#[test]
fn everything_may_be_pipelined_around_chunks() {
    let group = format!("{ENVELOPE}BDAT 3\r\na\r\nBDAT 3 LAST\r\nb\r\n{ENVELOPE}BDAT 3 LAST\r\nc\r\nQUIT\r\n");
    let outcome = talk(&["EHLO x\r\n", &group]);
    assert_eq!(outcome.data(), [&b"a\r\nb\r\n"[..], b"c\r\n"]);
    assert!(outcome.closed);
}

#[test]
fn chunks_without_a_recipient_are_skipped_and_refused() {
    let outcome = talk(&[
        "EHLO x\r\n",
        "BDAT 6\r\nNOOP\r\n",
        "MAIL FROM:<>\r\nBDAT 6 LAST\r\nQUIT\r\nRCPT TO:<u@example.org>\r\n",
    ]);
    outcome.assert_codes(&["250", "503 5.5.1", "250 2.1.0", "503 5.5.1", "250 2.1.5"]);
    assert!(outcome.delivered.is_empty() && !outcome.closed);
}

#[test]
fn data_mail_and_rcpt_are_out_of_place_between_chunks() {
    let outcome = chunks(&[
        b"BDAT 3\r\na\r\n",
        b"DATA\r\n",
        b"RCPT TO:<v@example.org>\r\n",
        b"MAIL FROM:<>\r\n",
        b"BDAT 0 LAST\r\n",
    ]);
    assert_eq!(outcome.codes()[3..], ["250 2.0.0", "503 5.5.1", "503 5.5.1", "503 5.5.1", "250 2.0.0"]);
    assert_eq!(outcome.delivered[0].recipients.len(), 1);
}

fn small() -> Config {
    let mut config = inbound();
    config.limits.message_octets_max = 10;
    config
}

#[test]
fn a_chunk_past_the_limit_fails_all_that_follow_until_rset() {
    let outcome = chunks_with(
        &small(),
        ENVELOPE,
        &[
            b"BDAT 8\r\n12345678",
            b"BDAT 3\r\n123",
            b"BDAT 5\r\nQUIT\r",
            b"BDAT 0 LAST\r\n",
            b"DATA\r\n",
            b"RSET\r\n",
            ENVELOPE.as_bytes(),
            b"BDAT 1 LAST\r\nx",
        ],
    );
    assert_eq!(
        outcome.codes()[3..],
        [
            "250 2.0.0",
            "552 5.3.4",
            "503 5.5.1",
            "503 5.5.1",
            "503 5.5.1",
            "250 2.0.0",
            "250 2.1.0",
            "250 2.1.5",
            "250 2.0.0"
        ]
    );
    assert_eq!(outcome.data(), [b"x"]);
}

#[test]
fn sizes_hold_at_their_limits() {
    for (octets, last) in [(9, "250 2.0.0"), (10, "250 2.0.0"), (11, "552 5.3.4"), (20, "552 5.3.4"), (21, "421 4.3.4")]
    {
        let chunk = format!("BDAT {octets} LAST\r\n{}", "x".repeat(octets));
        let outcome = chunks_with(&small(), ENVELOPE, &[chunk.as_bytes()]);
        assert_eq!((outcome.last().as_str(), outcome.closed), (last, octets > 20));
    }
}

#[test]
fn a_size_that_cannot_be_skipped_closes() {
    for argument in ["99999999999999999999", "", "x", "-1", "+1", "1 LAST x", "1 FIRST", "1\0"] {
        let outcome = chunks(&[format!("BDAT {argument}\r\nMAIL FROM:<>\r\n").as_bytes()]);
        assert_eq!((outcome.last().as_str(), outcome.closed), ("501 5.5.4", true), "{argument:?}");
    }
    let outcome = chunks(&[b"BDAT 18446744073709551615\r\nMAIL FROM:<>\r\n"]);
    assert_eq!((outcome.last().as_str(), outcome.closed), ("421 4.3.4", true));
}

#[test]
fn line_ends_in_chunks_follow_the_policy_unless_the_body_is_binary() {
    let normalizing = Config { line_ends: LineEnds::Normalize, ..inbound() };
    let steps: [&[u8]; 3] = [b"BDAT 3\r\na\nb", b"BDAT 2\r\n\r\r", b"BDAT 3 LAST\r\n\n\nc"];
    assert_eq!(chunks(&steps).last(), "550 5.6.0");
    assert_eq!(chunks_with(&normalizing, ENVELOPE, &steps).data(), [b"a\r\nb\r\n\r\n\r\nc"]);
    let binary = "MAIL FROM:<> BODY=BINARYMIME\r\nRCPT TO:<u@example.org>\r\n";
    assert_eq!(chunks_with(&inbound(), binary, &steps).data(), [b"a\nb\r\r\n\nc"]);
}
