//! DATA: one true end, the dots of lines, and nothing else, however the octets come.

use mail::smtp::{Content, DataDecoder, LineEnds};

use crate::input::{has_bare_line_end, piece_sizes, steered};

/// What a content led to: how many octets it had, and itself.
type Decoded = Option<(usize, Vec<u8>, bool)>;

pub fn run(data: &[u8]) {
    let (steer, input) = steered(data);
    let line_ends = match steer % 3 {
        0 => LineEnds::Reject,
        1 => LineEnds::Normalize,
        _ => LineEnds::Keep,
    };
    let octets_max = if steer.is_multiple_of(2) { u64::from(steer) * 8 } else { u64::MAX };
    let whole = decode(input, usize::MAX, octets_max, line_ends);
    for size in piece_sizes(steer) {
        assert_eq!(decode(input, size, octets_max, line_ends), whole, "cut into pieces of {size}");
    }
    let expected = reference(input);
    let ended = whole.as_ref().map(|(octets, ..)| *octets);
    assert_eq!(ended, expected.as_ref().map(|(octets, _)| *octets), "where DATA ends");
    let (Some((_, message, refused)), Some((_, expected))) = (whole, expected) else { return };
    assert!(message.len() as u64 <= octets_max);
    let bare = has_bare_line_end(&expected);
    match line_ends {
        LineEnds::Reject if bare => assert!(refused && message.is_empty()),
        LineEnds::Normalize => assert!(!refused && !has_bare_line_end(&message)),
        _ if expected.len() as u64 <= octets_max => assert_eq!(message, expected),
        _ => assert!(message.len() <= expected.len()),
    }
}

fn decode(input: &[u8], size: usize, octets_max: u64, line_ends: LineEnds) -> Decoded {
    let (mut decoder, mut content) = (DataDecoder::new(), Content::new(octets_max, line_ends));
    let mut before = 0;
    for piece in input.chunks(size) {
        if let Some(taken) = decoder.feed(piece, &mut content) {
            assert!(taken <= piece.len());
            let refused = content.has_refused_line_end();
            return Some((before + taken, content.into_bytes(), refused));
        }
        before += piece.len();
    }
    None
}

/// What DATA means, said in the simplest possible way: the content up to the first CRLF . CRLF, where the first line counts
/// as preceded by CRLF, without the dot at the start of each other such line.
fn reference(input: &[u8]) -> Option<(usize, Vec<u8>)> {
    let whole = [b"\r\n", input].concat();
    let end = whole.windows(5).position(|five| five == b"\r\n.\r\n")?;
    let mut message = Vec::new();
    let mut at = 0;
    while at < end + 2 {
        message.push(whole[at]);
        let at_line_start = whole[..=at].ends_with(b"\r\n");
        at += if at_line_start && whole.get(at + 1) == Some(&b'.') && at + 1 < end + 2 { 2 } else { 1 };
    }
    Some((end + 5 - 2, message.split_off(2)))
}
