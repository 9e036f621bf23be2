//! Whatever arrives, in whatever pieces: no panic, and one delivery per true end of data.

use crate::driver::*;
use mail::smtp::{Config, LineEnds, PeerInfo};
use proptest::prelude::*;

fn any_line() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        Just(b"EHLO x\r\n".to_vec()),
        Just(ENVELOPE.as_bytes().to_vec()),
        Just(b"MAIL FROM:<> BODY=BINARYMIME SMTPUTF8\r\n".to_vec()),
        Just(b"RCPT TO:<u@example.org>\r\n".to_vec()),
        Just(b"DATA\r\n".to_vec()),
        Just(b"RSET\r\n".to_vec()),
        Just(b"STARTTLS\r\n".to_vec()),
        Just(b"AUTH LOGIN\r\n".to_vec()),
        Just(b"AUTH PLAIN AGtleQBzZWNyZXQ=\r\n".to_vec()),
        Just(b"\r\n.\r\n".to_vec()),
        Just(b".\r\n".to_vec()),
        (0_usize..40, any::<bool>())
            .prop_map(|(n, last)| format!("BDAT {n}{}\r\n", if last { " LAST" } else { "" }).into_bytes()),
        proptest::collection::vec(prop_oneof![Just(b'\r'), Just(b'\n'), Just(b'.'), Just(0), any::<u8>()], 0..60),
        Just(vec![b'y'; 3000]),
    ]
}

/// What DATA means, said in the simplest possible way: the content up to the first CRLF . CRLF, where the
/// first line counts as preceded by CRLF, with the dot at the start of each other such line removed.
fn reference(content: &[u8]) -> Option<(Vec<u8>, usize)> {
    let whole = [b"\r\n", content].concat();
    let end = whole.windows(5).position(|five| five == b"\r\n.\r\n")?;
    let kept = whole[..end + 2].to_vec();
    let mut message = Vec::new();
    let mut at = 0;
    while at < kept.len() {
        message.push(kept[at]);
        if message.ends_with(b"\r\n") && kept.get(at + 1) == Some(&b'.') && kept[..=at].ends_with(b"\r\n") {
            at += 1;
        }
        at += 1;
    }
    Some((message[2..].to_vec(), end + 5 - 2))
}

fn has_bare_line_end(message: &[u8]) -> bool {
    let without = String::from_utf8_lossy(message).replace("\r\n", "");
    without.contains(['\r', '\n'])
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn arbitrary_input_never_panics_and_replies_in_whole_lines(
        lines in proptest::collection::vec(any_line(), 0..40),
        pieces in proptest::collection::vec(1_usize..90, 1..8),
        submitting in any::<bool>(),
    ) {
        let (config, peer) = if submitting { (submission(), under_tls()) } else { (inbound(), PeerInfo::default()) };
        let input = lines.concat();
        let mut driver = Driver::greeted(config, peer);
        let mut rest = input.as_slice();
        for piece in pieces.iter().cycle() {
            if rest.is_empty() { break; }
            let (head, tail) = rest.split_at((*piece).min(rest.len()));
            driver.say(head);
            rest = tail;
        }
        // Each delivery needs an end of its own.
        let dots = input.windows(5).filter(|five| *five == b"\r\n.\r\n").count();
        let chunks = String::from_utf8_lossy(&input).matches(" LAST\r\n").count();
        prop_assert!(driver.outcome.delivered.len() <= dots + chunks);
        for line in driver.outcome.transcript.split_terminator("\r\n") {
            prop_assert!(line.len() >= 4 && line.len() <= 510 && line.is_ascii());
            prop_assert!(line.as_bytes()[..3].iter().all(u8::is_ascii_digit) && matches!(line.as_bytes()[3], b' ' | b'-'));
        }
    }

    #[test]
    fn data_ends_and_unstuffs_as_the_reference_says(
        content in proptest::collection::vec(prop_oneof![3 => Just(b'\r'), 3 => Just(b'\n'), 3 => Just(b'.'), 1 => Just(b'x'), 1 => Just(0)], 0..40),
        piece in 1_usize..9,
    ) {
        let mut content = content;
        content.extend_from_slice(b"\r\n.\r\n");
        let Some((message, end)) = reference(&content) else { return Ok(()) };
        for line_ends in [LineEnds::Keep, LineEnds::Reject] {
            let config = Config { line_ends, ..inbound() };
            let mut driver = Driver::greeted(config, PeerInfo::default());
            driver.say("EHLO x\r\n").say(format!("{ENVELOPE}DATA\r\n"));
            driver.say_in_pieces(&content[..end - 1], piece);
            prop_assert_eq!(driver.outcome.last(), "354");
            driver.say(&content[end - 1..end]);
            prop_assert_ne!(driver.outcome.last(), "354");
            let refused = line_ends == LineEnds::Reject && has_bare_line_end(&message);
            let expected: Vec<&[u8]> = if refused { vec![] } else { vec![&message] };
            prop_assert_eq!(driver.outcome.data(), expected);
        }
    }

    #[test]
    fn what_a_client_stuffs_arrives_unchanged(
        body in "([a-z.]{0,9}\r\n){0,9}",
        piece in 1_usize..30,
    ) {
        let stuffed: String = body.split_inclusive("\r\n").map(|line| if line.starts_with('.') { format!(".{line}") } else { line.to_owned() }).collect();
        let mut driver = Driver::greeted(inbound(), PeerInfo::default());
        driver.say("EHLO x\r\n").say(format!("{ENVELOPE}DATA\r\n"));
        driver.say_in_pieces(format!("{stuffed}.\r\n").as_bytes(), piece);
        prop_assert_eq!(driver.outcome.data(), [body.as_bytes()]);
    }

    #[test]
    fn normalized_content_has_no_bare_line_end(
        content in proptest::collection::vec(prop_oneof![Just(b'\r'), Just(b'\n'), Just(b'.'), Just(b'x')], 0..60),
        piece in 1_usize..9,
        chunked in any::<bool>(),
    ) {
        let config = Config { line_ends: LineEnds::Normalize, ..inbound() };
        let mut driver = Driver::greeted(config, PeerInfo::default());
        driver.say("EHLO x\r\n").say(ENVELOPE);
        if chunked {
            driver.say_in_pieces(&[format!("BDAT {} LAST\r\n", content.len()).as_bytes(), &content].concat(), piece);
        } else {
            driver.say("DATA\r\n");
            driver.say_in_pieces(&[&content[..], b"\r\n.\r\n"].concat(), piece);
        }
        prop_assert!(!driver.outcome.delivered.is_empty());
        prop_assert!(!has_bare_line_end(&driver.outcome.delivered[0].data));
    }
}
