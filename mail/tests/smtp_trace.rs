//! Trace fields and the PROXY header: written exactly, read leniently, never believed.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::borrow::Cow;
use std::net::IpAddr;

use mail::address::{Address, ForwardPath, ReversePath};
use mail::smtp::TlsInfo;
use mail::smtp::proxy::{self, NotProxy, Progress};
use mail::smtp::trace::{
    Received, count_header, fields, protocol, return_path, rfc5322_date, without_forged_results,
    without_untrusted_trace,
};
use proptest::prelude::*;

const AT: i64 = 1_751_367_157_000_000;

#[test]
fn dates_are_written_as_rfc_5322_wants_them() {
    // RFC 5322 §3.3
    for (micros, expected) in [
        (0, "Thu, 01 Jan 1970 00:00:00 +0000"),
        (AT, "Tue, 01 Jul 2025 10:52:37 +0000"),
        (AT + 999_999, "Tue, 01 Jul 2025 10:52:37 +0000"),
        (951_782_400_000_000, "Tue, 29 Feb 2000 00:00:00 +0000"),
    ] {
        assert_eq!(rfc5322_date(micros), expected);
    }
    assert!(rfc5322_date(i64::MAX).contains("9999"));
    assert!(rfc5322_date(i64::MIN).ends_with("+0000"));
}

fn received() -> Received<'static> {
    Received {
        helo: "client.example",
        reverse_name: Some("mail.client.example"),
        address: "192.0.2.7".parse().unwrap(),
        by: "mx.example.org",
        esmtp: true,
        tls: None,
        authenticated: false,
        smtputf8: false,
        id: "msg_1",
        recipient: None,
        at_micros: AT,
    }
}

#[test]
fn a_received_field_tells_the_hop_and_only_a_lone_recipient() {
    // RFC 5321 §4.4
    assert_eq!(
        received().to_string(),
        "Received: from client.example (mail.client.example [192.0.2.7])\r\n\tby mx.example.org with ESMTP\r\n\tid msg_1;\r\n\tTue, 01 Jul 2025 10:52:37 +0000\r\n"
    );
    let recipient = ForwardPath::from(Address::parse("u@example.org").unwrap());
    let tls = TlsInfo { version: "TLSv1.3".to_owned(), cipher: "TLS_AES_256_GCM_SHA384".to_owned() };
    let full = Received {
        reverse_name: None,
        address: "2001:db8::1".parse().unwrap(),
        tls: Some(&tls),
        recipient: Some(&recipient),
        ..received()
    };
    assert_eq!(
        full.to_string(),
        "Received: from client.example (unknown [IPv6:2001:db8::1])\r\n\tby mx.example.org with ESMTPS\r\n\t(TLSv1.3 TLS_AES_256_GCM_SHA384)\r\n\tid msg_1\r\n\tfor <u@example.org>;\r\n\tTue, 01 Jul 2025 10:52:37 +0000\r\n"
    );
    let mapped = Received { address: "::ffff:192.0.2.7".parse::<IpAddr>().unwrap(), ..received() };
    assert!(mapped.to_string().contains("[192.0.2.7]"));
}

#[test]
fn a_client_cannot_write_trace_clauses_through_its_name() {
    let forged = Received { helo: "x) by mx.example.org with ESMTPSA (\r\nX: y", reverse_name: Some(""), ..received() };
    let text = forged.to_string();
    assert_eq!(text.matches("\r\n").count(), 4);
    assert!(text.starts_with("Received: from x??by?mx.example.org?with?ESMTPSA????X:?y (unknown ["), "{text}");
    assert_eq!(fields(text.as_bytes()).count(), 1);
}

#[test]
fn the_protocol_keyword_follows_the_registry() {
    // RFC 3848, RFC 6531 §4.3
    for (given, keyword) in [
        ((false, true, false, false), "SMTP"),
        ((true, false, false, false), "ESMTP"),
        ((true, true, false, false), "ESMTPS"),
        ((true, false, true, false), "ESMTPA"),
        ((true, true, true, false), "ESMTPSA"),
        ((true, false, false, true), "UTF8SMTP"),
        ((true, true, false, true), "UTF8SMTPS"),
        ((true, false, true, true), "UTF8SMTPA"),
        ((true, true, true, true), "UTF8SMTPSA"),
    ] {
        let (esmtp, tls, authenticated, smtputf8) = given;
        assert_eq!(protocol(esmtp, tls, authenticated, smtputf8), keyword);
    }
}

#[test]
fn a_return_path_is_the_envelope_sender() {
    assert_eq!(return_path(&ReversePath::Null), "Return-Path: <>\r\n");
    assert_eq!(return_path(&ReversePath::parse("<A@Example.net>").unwrap()), "Return-Path: <A@example.net>\r\n");
}

#[test]
fn fields_are_found_by_lines_and_folds() {
    let raw = b"A: 1\r\n 2\r\nno colon\r\nB : x:y\r\n\tz\r\n\r\nC: body\r\n";
    let found: Vec<(&[u8], &[u8])> = fields(raw).map(|field| (field.name, field.value)).collect();
    assert_eq!(found, [(&b"A"[..], &b" 1\r\n 2\r\n"[..]), (b"", b"no colon\r\n"), (b"B", b" x:y\r\n\tz\r\n")]);
    let counted = count_header(b"Received: a\r\nRECEIVED : b\r\n c\r\nX-Received: c\r\n\r\nReceived: body\r\n");
    assert_eq!((counted.octets, counted.fields, counted.received), (46, 3, 2));
    for (raw, count) in
        [(&b""[..], 0), (b"\r\n", 0), (b"\n", 0), (b"A: 1", 1), (b"A: 1\nB: 2\n\nC: 3\n", 2), (b"\r\nA: 1\r\n", 0)]
    {
        assert_eq!(fields(raw).count(), count, "{raw:?}");
    }
}

#[test]
fn results_that_claim_to_be_ours_are_removed() {
    // RFC 8601 §2.2, §5
    for ours in [
        "Authentication-Results: mx.example.org; spf=pass",
        "authentication-results: MX.Example.ORG;spf=pass",
        "Authentication-Results : mx.example.org 1; none",
        "Authentication-Results:\r\n\tmx.example.org;\r\n\tdkim=pass",
        "Authentication-Results: (a (nested\\) ; x) comment) mx.example.org (c); spf=pass",
        "Authentication-Results: mx.example.org(c); spf=pass",
        "Authentication-Results: \"mx.example.org\"; spf=pass",
        "Authentication-Results: \"mx.\\example.org\"; spf=pass",
        "Authentication-Results: mx.example.org.; spf=pass",
        "Authentication-Results: mx.example.org",
    ] {
        let raw = format!("A: 1\r\n{ours}\r\nB: 2\r\n\r\n{ours}\r\n");
        let kept = without_forged_results(raw.as_bytes(), "mx.example.org");
        assert_eq!(String::from_utf8_lossy(&kept), format!("A: 1\r\nB: 2\r\n\r\n{ours}\r\n"), "{ours}");
    }
    for theirs in [
        "Authentication-Results: mx.example.com; spf=pass",
        "Authentication-Results: sub.mx.example.org; spf=pass",
        "Authentication-Results: (mx.example.org) other; spf=pass",
        "ARC-Authentication-Results: i=1; mx.example.org; spf=pass",
        "X-Authentication-Results: mx.example.org; spf=pass",
        "Authentication-Results:",
    ] {
        let raw = format!("{theirs}\r\n\r\nbody");
        assert!(matches!(without_forged_results(raw.as_bytes(), "mx.example.org"), Cow::Borrowed(_)), "{theirs}");
    }
    let raw = "Authentication-Results: bücher.example; spf=pass\r\n\r\n".as_bytes();
    assert_eq!(&*without_forged_results(raw, "xn--bcher-kva.example"), b"\r\n");
}

#[test]
fn a_return_path_of_the_client_makes_room_for_the_true_one() {
    let raw = b"Return-Path: <evil@example.net>\r\nSubject: x\r\nreturn-path:\r\n <b@c>\r\n\r\nReturn-Path: body\r\n";
    assert_eq!(&*without_untrusted_trace(raw, "mx.example.org"), b"Subject: x\r\n\r\nReturn-Path: body\r\n");
}

fn complete(client: Option<&str>, octets: usize) -> Result<Progress, NotProxy> {
    Ok(Progress::Complete { client: client.map(|text| text.parse().unwrap()), octets })
}

fn v2(command: u8, family: u8, addresses: &[u8]) -> Vec<u8> {
    let length = u16::try_from(addresses.len()).unwrap().to_be_bytes();
    [&b"\r\n\r\n\0\r\nQUIT\n"[..], &[command, family], &length, addresses].concat()
}

#[test]
fn a_proxy_header_names_the_client_however_it_is_cut() {
    let v4 = [192, 0, 2, 7, 198, 51, 100, 1, 0xc0, 0, 0, 25];
    let mut v6 = [0_u8; 36];
    v6[..2].copy_from_slice(&[0x20, 0x01]);
    v6[15] = 1;
    v6[32..34].copy_from_slice(&[0xc0, 0]);
    for (header, client) in [
        (b"PROXY TCP4 192.0.2.7 198.51.100.1 49152 25\r\n".to_vec(), Some("192.0.2.7:49152")),
        (b"PROXY TCP6 2001:db8::7 2001:db8::1 49152 25\r\n".to_vec(), Some("[2001:db8::7]:49152")),
        (b"PROXY UNKNOWN\r\n".to_vec(), None),
        (b"PROXY UNKNOWN anything at all\r\n".to_vec(), None),
        (v2(0x21, 0x11, &v4), Some("192.0.2.7:49152")),
        (v2(0x21, 0x11, &[&v4[..], b"\x04\0\x01x"].concat()), Some("192.0.2.7:49152")),
        (v2(0x21, 0x21, &v6), Some("[2001::1]:49152")),
        (v2(0x21, 0x00, &[]), None),
        (v2(0x20, 0x00, &[]), None),
        (v2(0x20, 0x11, &v4), None),
    ] {
        for cut in 0..header.len() {
            assert_eq!(proxy::parse(&header[..cut]), Ok(Progress::Incomplete), "{cut} of {header:?}");
        }
        assert_eq!(proxy::parse(&header), complete(client, header.len()));
        assert_eq!(proxy::parse(&[&header, &b"EHLO x\r\n"[..]].concat()), complete(client, header.len()));
    }
}

#[test]
fn what_is_no_proxy_header_is_refused() {
    let long = format!("PROXY UNKNOWN {}\r\n", "x".repeat(100));
    for broken in [
        &b"EHLO x\r\n"[..],
        b"PROXZ",
        b"PROXY TCP4 192.0.2.7 198.51.100.1 49152\r\n",
        b"PROXY TCP4 192.0.2.7 198.51.100.1 49152 25 x\r\n",
        b"PROXY TCP4 192.0.2.7 198.51.100.1 99999 25\r\n",
        b"PROXY TCP4 2001:db8::7 2001:db8::1 49152 25\r\n",
        b"PROXY TCP5 192.0.2.7 198.51.100.1 49152 25\r\n",
        b"PROXY \xff\r\n",
        long.as_bytes(),
        &v2(0x11, 0x11, &[0; 12]),
        &v2(0x21, 0x11, &[0; 11]),
        &v2(0x21, 0x12, &[0; 12]),
        &v2(0x21, 0x11, &[0; 5000]),
    ] {
        assert_eq!(proxy::parse(broken), Err(NotProxy), "{broken:?}");
    }
}

proptest! {
    #[test]
    fn fields_cover_the_header_block_without_gaps(raw in "([A-Za-z:. \t]|\r\n|\n|\r){0,80}") {
        let mut end = 0;
        for field in fields(raw.as_bytes()) {
            prop_assert_eq!(field.range.start, end);
            prop_assert!(field.range.end > end);
            end = field.range.end;
        }
        prop_assert_eq!(count_header(raw.as_bytes()).octets, end);
        let kept = without_untrusted_trace(raw.as_bytes(), "mx.example.org");
        prop_assert!(kept.ends_with(&raw.as_bytes()[end..]));
    }

    #[test]
    fn arbitrary_octets_are_no_danger_to_the_proxy_parser(octets in proptest::collection::vec(any::<u8>(), 0..60), tail in 0_usize..13) {
        let _ = proxy::parse(&octets);
        let _ = proxy::parse(&[&b"\r\n\r\n\0\r\nQUIT\n"[..tail.min(12)], &octets].concat());
        if let Ok(Progress::Complete { octets: length, .. }) = proxy::parse(&[&b"PROXY "[..], &octets].concat()) {
            prop_assert!(length <= octets.len() + 6);
        }
    }
}
