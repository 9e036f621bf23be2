//! Mail that comes back: reports in standard form and in any other, complaints, and the replies they quote.

use mail::bounce::{self, Bounce, Classification, Incoming, Stage};
use mail::report::{Complaint, read_complaint};
use mail::verp::{MacKey, Verp};

use crate::input::{assert_line, assert_text, steered};

const RECIPIENTS_MAX: usize = 1000;

pub fn run(data: &[u8]) {
    let (steer, raw) = steered(data);
    let incoming = bounce::read(raw);
    assert_eq!(incoming, bounce::read(raw), "the same bytes mean the same");
    if let Incoming::Bounce(bounce) = &incoming {
        returned(bounce);
    }
    if let Some(complaint) = read_complaint(raw) {
        let stored = serde_json::to_string(&complaint).expect("it can be written");
        assert_eq!(serde_json::from_str::<Complaint>(&stored).expect("it reads back"), complaint);
        assert!(complaint.incidents >= 1);
    }
    reply(steer, &String::from_utf8_lossy(raw));
}

fn returned(bounce: &Bounce) {
    assert!((1..=RECIPIENTS_MAX).contains(&bounce.recipients.len()));
    for outcome in &bounce.recipients {
        classified(&outcome.classification);
        assert_line("a host", outcome.remote_mta.as_deref().unwrap_or_default());
    }
    // Nothing that arrives can name one of our mails without our key.
    for path in &bounce.original.return_paths {
        let local = path.split('@').next().unwrap_or_default();
        assert_eq!(Verp::parse(local, &MacKey::new([42; 32])), None, "a forged return path");
    }
    let stored = serde_json::to_string(bounce).expect("it can be written");
    assert_eq!(&serde_json::from_str::<Bounce>(&stored).expect("it reads back"), bounce);
}

fn reply(steer: u8, text: &str) {
    let stages = [Stage::Connect, Stage::Greeting, Stage::Mail, Stage::Rcpt, Stage::Data];
    let code = 400 + u16::from(steer);
    let stage = stages[usize::from(steer) % stages.len()];
    let enhanced = text.split(' ').next();
    classified(&bounce::classify_reply(stage, code, enhanced, text));
    classified(&bounce::classify_failure(text));
}

fn classified(found: &Classification) {
    assert!(found.diagnostic.chars().count() <= 1000, "{} characters", found.diagnostic.chars().count());
    assert_line("a diagnostic", &found.diagnostic);
    assert!(found.smtp_code.is_none_or(|code| (200..660).contains(&code)), "{:?}", found.smtp_code);
    let enhanced = found.enhanced_code.as_deref().unwrap_or("5.0.0");
    assert_text("an enhanced code", enhanced);
    assert!(enhanced.split('.').count() == 3 && enhanced.len() <= 11, "{enhanced:?}");
    let suppression = found.category.suppression();
    assert_eq!(suppression, found.category.suppression());
}
