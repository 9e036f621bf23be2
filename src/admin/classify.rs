//! `postlog classify-bounce`: what a returned mail says, without an installation.

use std::io::{Read, Write};

use anyhow::{Context as _, bail};
use mail::bounce::{Incoming, NotABounce};
use mail::report::read_complaint;
use serde::Serialize;

/// Longest mail read, in bytes.
const MAIL_BYTES_MAX: u64 = 52_428_800;

/// What a mail turned out to be.
#[derive(Debug, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
enum Classified {
    /// A report about mail that was sent: one entry for each recipient.
    Bounce(mail::bounce::Bounce),
    /// A complaint.
    Complaint(mail::report::Complaint),
    /// Neither, and what it is.
    Neither { reason: NotABounce },
}

/// Reads a mail and writes as JSON what it says of each recipient.
///
/// # Errors
/// The mail is longer than 50 MiB, or the input or output fails.
pub fn classify_bounce(input: impl Read, mut output: impl Write) -> anyhow::Result<()> {
    let mut raw = vec![];
    input.take(MAIL_BYTES_MAX + 1).read_to_end(&mut raw).context("the mail cannot be read")?;
    if raw.len() as u64 > MAIL_BYTES_MAX {
        bail!("the mail is longer than {MAIL_BYTES_MAX} bytes");
    }
    let classified = match (read_complaint(&raw), mail::bounce::read(&raw)) {
        (Some(complaint), _) => Classified::Complaint(complaint),
        (None, Incoming::Bounce(bounce)) => Classified::Bounce(bounce),
        (None, Incoming::NotABounce(reason)) => Classified::Neither { reason },
    };
    serde_json::to_writer_pretty(&mut output, &classified).context("the answer cannot be written")?;
    writeln!(output).context("the answer cannot be written")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn classified(raw: &str) -> serde_json::Value {
        let mut out = vec![];
        classify_bounce(raw.as_bytes(), &mut out).unwrap();
        serde_json::from_slice(&out).unwrap()
    }

    #[test]
    fn each_recipient_of_a_report_has_an_outcome() {
        let json = classified(
            "From: MAILER-DAEMON@mx.example\nTo: b+x@bounce.example\nSubject: Undelivered\nMIME-Version: 1.0\n\
             Content-Type: multipart/report; report-type=delivery-status; boundary=b\n\n--b\n\nfailed\n--b\n\
             Content-Type: message/delivery-status\n\nReporting-MTA: dns; mx.example\n\n\
             Final-Recipient: rfc822; bob@example.org\nAction: failed\nStatus: 5.1.1\n\
             Diagnostic-Code: smtp; 550 5.1.1 no such user\n\n\
             Final-Recipient: rfc822; carl@example.org\nAction: delayed\nStatus: 4.2.2\n--b--\n",
        );
        assert_eq!(json["kind"], "bounce");
        let (bob, carl) = (&json["recipients"][0], &json["recipients"][1]);
        assert_eq!((&bob["address"], &bob["bounce_type"]), (&"bob@example.org".into(), &"hard".into()));
        assert_eq!((&bob["category"], &bob["smtp_code"]), (&"user_unknown".into(), &550.into()));
        assert_eq!((&carl["action"], &carl["category"]), (&"delayed".into(), &"mailbox_full".into()));
    }

    #[test]
    fn what_is_no_bounce_is_named() {
        let json = classified("From: a@example.org\nSubject: Out of office\nAuto-Submitted: auto-replied\n\nAway.\n");
        assert_eq!((&json["kind"], &json["reason"]), (&"neither".into(), &"auto_reply".into()));
        let json = classified(
            "From: fbl@isp.example\nMIME-Version: 1.0\n\
             Content-Type: multipart/report; report-type=feedback-report; boundary=b\n\n--b\n\ncomplaint\n--b\n\
             Content-Type: message/feedback-report\n\nFeedback-Type: abuse\nUser-Agent: X/1\nVersion: 1\n\
             Original-Rcpt-To: <bob@isp.example>\n--b--\n",
        );
        assert_eq!((&json["kind"], &json["feedback_type"]), (&"complaint".into(), &"abuse".into()));
        assert_eq!(classified("")["kind"], "neither");
    }
}
