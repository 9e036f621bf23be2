//! Mail that clients hand in: what is mended stays the same message, and can be handed in again.

use mail::message::{ParseLimits, parse};
use mail::smtp::trace;
use mail::submission::{Mark, submit};

use crate::input::{assert_line, has_bare_line_end};

pub fn run(raw: &[u8]) {
    let mark = Mark { id: "eml_1", trace: "Received: from x by y;\r\n\tnow\r\n", at_micros: 1_751_367_157_000_000 };
    // The session that takes it in has seen to its lines.
    if has_bare_line_end(raw) {
        return;
    }
    let Ok(mended) = submit(raw, &mark) else { return };
    assert!(mended.bytes.ends_with(b"\r\n") && !mended.bytes.contains(&0));
    assert!(mended.bytes.len() <= raw.len() + 2048, "mending added {} octets", mended.bytes.len() - raw.len());
    assert_line("the id", &mended.message_id);
    let names: Vec<_> = trace::fields(&mended.bytes).map(|field| field.name.to_ascii_lowercase()).collect();
    let count = |name: &str| names.iter().filter(|known| known.as_slice() == name.as_bytes()).count();
    assert_eq!(count("bcc"), 0, "whoever was hidden shows");
    assert_eq!((count("x-postlog-id"), count("message-id")), (1, 1));
    assert!(count("date") >= 1);
    let parsed = parse(&mended.bytes, &ParseLimits::default());
    assert_eq!(parsed.from_all.len(), 1);
    assert_eq!(parsed.subject.as_deref().unwrap_or_default(), mended.subject);
    assert_eq!(parsed.message_id, [mended.message_id.as_str()]);
    // A server behind another of ours mends nothing any more but its own mark.
    let again = submit(&mended.bytes, &mark).expect("what was mended is whole");
    assert_eq!((again.message_id, again.subject), (mended.message_id, mended.subject));
}
