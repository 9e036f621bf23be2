//! Received messages: whatever the bytes are, a bounded view of them.

use mail::auth::AuthResults;
use mail::content::{self, Options};
use mail::message::{ParseLimits, ParsedMessage, attachment_bytes, headers, parse};
use mail::{spam, thread};

use crate::input::{assert_line, assert_text, bit, steered};

pub fn run(data: &[u8]) {
    let (steer, raw) = steered(data);
    let limits = if bit(steer, 0) { small() } else { ParseLimits::default() };
    let parsed = parse(raw, &limits);
    assert_eq!(parsed, parse(raw, &limits), "the same bytes give the same view");
    check(raw, &parsed, &limits);
    let stored = serde_json::to_string(&parsed).expect("it can be written");
    assert_eq!(serde_json::from_str::<ParsedMessage>(&stored).expect("it reads back"), parsed);
    let fields = headers(raw, &limits);
    assert!(fields.len() <= limits.header_fields_max);
    for field in &fields {
        assert_line("a header field's name", &field.name);
        assert_line("a header field", &field.value);
    }
    readers(&parsed, steer);
}

fn small() -> ParseLimits {
    ParseLimits {
        depth_max: 3,
        parts_max: 5,
        header_fields_max: 6,
        header_bytes_max: 512,
        addresses_max: 4,
        references_max: 3,
        attachment_bytes_max: 256,
        decoded_bytes_max: 512,
        body_bytes_max: 128,
    }
}

fn check(raw: &[u8], parsed: &ParsedMessage, limits: &ParseLimits) {
    let people = [&parsed.from_all, &parsed.to, &parsed.cc, &parsed.bcc, &parsed.reply_to];
    for person in people.into_iter().flatten() {
        assert_line("an address", &person.email);
        assert_line("a name", person.name.as_deref().unwrap_or_default());
    }
    assert!(people.iter().all(|list| list.len() <= limits.addresses_max));
    assert!(parsed.references.len() <= limits.references_max && parsed.message_id.len() <= limits.references_max);
    for id in parsed.references.iter().chain(&parsed.message_id).chain(&parsed.in_reply_to) {
        assert_line("an id", id);
        assert!(!id.is_empty() && id.len() <= 998, "{id:?}");
    }
    assert_line("the subject", parsed.subject.as_deref().unwrap_or_default());
    assert_line("the preview", &parsed.preview);
    assert!(parsed.preview.chars().count() <= 201);
    for body in [&parsed.text, &parsed.html].into_iter().flatten() {
        assert_text("a body", body);
    }
    // What is derived from the other body grows by its markup, and never beyond a factor.
    let written = parsed.text.as_deref().filter(|_| !parsed.text_derived);
    assert!(written.is_none_or(|text| text.len() <= limits.body_bytes_max), "a text beyond its limit");
    assert!(parsed.attachments.len() <= limits.parts_max);
    for attachment in &parsed.attachments {
        let name = attachment.filename.as_deref().unwrap_or("x");
        assert_line("a file name", name);
        assert!(!name.is_empty() && name.len() <= 255, "{name:?}");
        assert_line("a media type", &attachment.content_type);
        let bytes = attachment_bytes(raw, attachment.part_id, limits);
        let Some(bytes) = bytes else { continue };
        assert!(bytes.len() <= limits.attachment_bytes_max);
        assert!(attachment.size_bytes.is_none_or(|size| size == bytes.len() as u64), "another size than listed");
    }
}

/// What is made of the view for those who read it.
fn readers(parsed: &ParsedMessage, steer: u8) {
    let options = Options {
        strip_quotes: bit(steer, 1),
        strip_signature: bit(steer, 2),
        include_html: true,
        max_body_chars: if bit(steer, 3) { 40 } else { 10_000 },
        ..Options::default()
    };
    let cleaned = content::clean(parsed, &options);
    for body in [&cleaned.text, &cleaned.html].into_iter().flatten() {
        assert!(body.chars().count() <= options.max_body_chars);
        assert_text("a cleaned body", body);
    }
    if let Some(html) = &cleaned.html {
        crate::html::assert_harmless(html, crate::html::Images::Blocked);
    }
    for link in cleaned.action_links.iter().map(|link| &link.url).chain(&cleaned.extracted_links) {
        let scheme = link.split(':').next().unwrap_or_default().to_ascii_lowercase();
        assert!(matches!(scheme.as_str(), "http" | "https" | "mailto"), "a link to {link:?}");
    }
    let subject = thread::normalize_subject(parsed.subject.as_deref().unwrap_or_default());
    let again = thread::normalize_subject(&subject.base);
    assert_eq!(again.base, subject.base, "a normalised subject is normal");
    let envelope = spam::EnvelopeFacts::default();
    let verdict = spam::score(parsed, &AuthResults::unchecked(), &envelope);
    assert_eq!(verdict, spam::score(parsed, &AuthResults::unchecked(), &envelope));
}
