//! The piece of a message's body that travels with its event.

use bytes::Bytes;
use domain::Halves;
use domain::id::TeamId;
use domain::message::{Correspondence, Received};
use eventlog::{EventLog, LogError};
use mail::message::{ParseLimits, ParsedMessage, parse};
use tokio::sync::Semaphore;

use super::realtime::{Address, Attachment, Body};

/// How many bytes of a raw message are looked at: bodies come before large attachments, and a snapshot is small.
const RAW_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Raw messages up to this many bytes are parsed where they are; larger ones on a thread of their own.
const PARSE_INLINE_BYTES_MAX: usize = 64 * 1024;
/// How many large messages are parsed at once.
const LARGE_AT_ONCE: usize = 2;

static LARGE: Semaphore = Semaphore::const_new(LARGE_AT_ONCE);

/// What the raw message adds to its event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Snapshot {
    pub body: Body,
    pub bcc: Vec<Address>,
    pub attachments: Vec<Attachment>,
}

impl Snapshot {
    /// Returns the snapshot of a message whose bytes are gone.
    pub fn none(max_bytes: usize) -> Self {
        let body = Body { text: None, html: None, is_truncated: false, max_bytes };
        Self { body, bcc: vec![], attachments: vec![] }
    }

    /// Reads the raw message behind an event and takes the beginning of its bodies.
    ///
    /// An erased event has no snapshot: its bytes name people too.
    ///
    /// # Errors
    /// A store does not answer.
    pub async fn read(
        log: &EventLog,
        team: &TeamId,
        event: &Halves<Received, Correspondence>,
        max_bytes: usize,
    ) -> Result<Self, LogError> {
        if event.personal.known().is_none() {
            return Ok(Self::none(max_bytes));
        }
        let large = usize::try_from(event.size_bytes).is_ok_and(|size| size > PARSE_INLINE_BYTES_MAX);
        let _permit = if large { LARGE.acquire().await.ok() } else { None };
        let Some(raw) = log.blob(team, &event.blob).await? else { return Ok(Self::none(max_bytes)) };
        if raw.len() <= PARSE_INLINE_BYTES_MAX {
            return Ok(Self::of(&raw, max_bytes));
        }
        let parsed = tokio::task::spawn_blocking(move || Self::of(&raw, max_bytes)).await;
        // The parser does not panic; should it ever, the event still goes out.
        Ok(parsed.unwrap_or_else(|error| {
            tracing::error!(error = &error as &dyn std::error::Error, "a message could not be parsed for a stream");
            Self::none(max_bytes)
        }))
    }

    /// Returns the snapshot of a raw message.
    fn of(raw: &Bytes, max_bytes: usize) -> Self {
        let whole = raw.len() <= RAW_BYTES_MAX;
        // Markup takes room: text that is derived from HTML needs more of it than it gives.
        let limits = ParseLimits {
            body_bytes_max: 8 * max_bytes.max(1_024),
            attachment_bytes_max: RAW_BYTES_MAX,
            decoded_bytes_max: 2 * RAW_BYTES_MAX,
            ..ParseLimits::default()
        };
        Self::of_parsed(parse(&raw[..raw.len().min(RAW_BYTES_MAX)], &limits), whole, max_bytes)
    }

    fn of_parsed(parsed: ParsedMessage, whole: bool, max_bytes: usize) -> Self {
        let mut is_truncated = parsed.body_truncated || !whole;
        let mut cut = |text: Option<String>| {
            text.map(|mut text| {
                if text.len() > max_bytes {
                    is_truncated = true;
                    text.truncate(text.floor_char_boundary(max_bytes));
                }
                text
            })
        };
        let text = cut(parsed.text);
        let html = cut(parsed.html.filter(|_| !parsed.html_derived));
        let bcc = parsed.bcc.into_iter().map(|a| Address { email: a.email, name: a.name }).collect();
        let attachments = parsed.attachments.into_iter().map(|a| Attachment {
            id: format!("att_{}", a.part_id),
            filename: a.filename,
            content_type: a.content_type,
            size_bytes: a.size_bytes,
            disposition: a.disposition,
            content_id: a.content_id,
        });
        Self { body: Body { text, html, is_truncated, max_bytes }, bcc, attachments: attachments.collect() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(raw: String, max_bytes: usize) -> Snapshot {
        Snapshot::of(&Bytes::from(raw), max_bytes)
    }

    #[test]
    fn a_short_body_is_whole() {
        let snapshot = of("Subject: x\r\n\r\nHello\r\n".into(), 16_384);
        assert_eq!(snapshot.body.text.as_deref().map(str::trim_end), Some("Hello"));
        assert_eq!((snapshot.body.html, snapshot.body.is_truncated), (None, false));
    }

    #[test]
    fn a_body_is_cut_between_characters() {
        let head = "Content-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n\r\n";
        for max_bytes in [10, 11, 12, 13] {
            let body = of(format!("{head}{}", "€".repeat(100)), max_bytes).body;
            let text = body.text.unwrap();
            assert!(text.len() <= max_bytes && text.len() > max_bytes - 3 && text.chars().all(|c| c == '€'), "{text}");
            assert!(body.is_truncated);
        }
    }

    #[test]
    fn text_and_html_are_cut_each_on_its_own() {
        let part = |kind: &str, body: &str| format!("--b\r\nContent-Type: text/{kind}\r\n\r\n{body}\r\n");
        let raw = format!(
            "Content-Type: multipart/alternative; boundary=b\r\n\r\n{}{}--b--\r\n",
            part("plain", "short"),
            part("html", &format!("<p>{}</p>", "x".repeat(40_000)))
        );
        let body = of(raw, 16_384).body;
        assert_eq!(body.text.as_deref().map(str::trim_end), Some("short"));
        assert_eq!(body.html.map(|h| h.len()), Some(16_384));
        assert!(body.is_truncated);
    }

    #[test]
    fn attachments_are_described() {
        let raw = "Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n\r\nhi\r\n--b\r\nContent-Type: application/pdf\r\nContent-Disposition: attachment; filename=\"a.pdf\"\r\n\r\n%PDF\r\n--b--\r\n";
        let snapshot = of(raw.into(), 16_384);
        assert_eq!(snapshot.attachments.len(), 1);
        assert_eq!(snapshot.attachments[0].filename.as_deref(), Some("a.pdf"));
    }
}
