//! Composition: golden files, refused fields, and properties judged by our own parser.
#![expect(clippy::unwrap_used, reason = "tests")]

use mail::address::Address;
use mail::compose::{Attachment, AutoSubmitted, Draft, FieldError, Limits, ListUnsubscribe, Person, Problem, Stamp};
use mail::message::{ParseLimits, ParsedMessage, attachment_bytes, headers, parse};
use proptest::prelude::*;

const STAMP: Stamp<'static> = Stamp { message_id: "eml_1@example.com", at_micros: 1_751_367_157_000_000 };

fn person(email: &str, name: Option<&str>) -> Person {
    Person { email: email.to_owned(), name: name.map(str::to_owned) }
}

fn simple() -> Draft {
    Draft {
        from: person("ann@example.com", Some("Ann")),
        to: vec![person("bob@example.org", None)],
        subject: "Hello".to_owned(),
        text: Some("Hello Bob,\nhow are you?\n".to_owned()),
        ..Draft::default()
    }
}

fn compose(draft: Draft) -> Vec<u8> {
    draft.check(&Limits::default()).unwrap().compose(&STAMP).unwrap()
}

fn faults(draft: Draft) -> Vec<String> {
    draft.check(&Limits::default()).unwrap_err().into_iter().map(|fault| fault.field).collect()
}

fn rich() -> Draft {
    Draft {
        from: person("zoé@bücher.example".replace('é', "e").as_str(), Some("Zoë Müller, Dr.")),
        to: vec![person("bob@example.org", Some("Bob \"the\" Builder")), person("\"john doe\"@example.org", None)],
        cc: vec![person("carol@example.net", Some("Карол"))],
        bcc: vec![person("secret@example.net", Some("Hidden"))],
        reply_to: vec![person("help@example.com", Some("Help"))],
        subject: "Ünïcödé subject that is long enough to need more than one encoded word, surely".to_owned(),
        html: Some("<p>Hällo <b>Bob</b></p><img src=\"cid:logo@x\">".to_owned()),
        attachments: vec![
            Attachment {
                filename: Some("Über uns — 2025.txt".to_owned()),
                content_type: Some("text/plain; charset=utf-8".to_owned()),
                content: "From here\n.\nbare\rline ends\n".as_bytes().to_vec(),
                ..Attachment::default()
            },
            Attachment {
                content_type: Some("image/gif".to_owned()),
                content: b"GIF89a\x01\x00\x01\x00\x00\x00\x00;".to_vec(),
                content_id: Some("<logo@x>".to_owned()),
                inline: true,
                ..Attachment::default()
            },
        ],
        headers: vec![
            ("X-Tag".to_owned(), "spring sale".to_owned()),
            ("X-Name".to_owned(), "Zoë".to_owned()),
            ("Precedence".to_owned(), "bulk".to_owned()),
        ],
        in_reply_to: Some("<parent@example.org>".to_owned()),
        references: vec!["root@example.org".to_owned(), "<parent@example.org>".to_owned()],
        unsubscribe: Some(ListUnsubscribe {
            url: "https://mail.example.com/u/abc".to_owned(),
            mailto: Some("u+abc@example.com".to_owned()),
        }),
        auto_submitted: AutoSubmitted::Generated,
        ..simple()
    }
    .without_text()
}

trait WithoutText {
    fn without_text(self) -> Self;
}

impl WithoutText for Draft {
    fn without_text(mut self) -> Self {
        self.text = None;
        self
    }
}

/// Compares with a golden file; a failure prints what the file should hold.
fn golden(name: &str, composed: &[u8], expected: &str) {
    let composed = String::from_utf8(composed.to_vec()).unwrap().replace("\r\n", "\n");
    assert_eq!(composed, expected, "tests/golden/compose/{name} should be:\n{composed}");
}

#[test]
fn composed_messages_stay_the_same_bytes() {
    golden("simple.eml", &compose(simple()), include_str!("golden/compose/simple.eml"));
    golden("rich.eml", &compose(rich()), include_str!("golden/compose/rich.eml"));
    let hostile_text = Draft {
        text: Some("From me\n.\n..\ntrailing \nlong ".to_owned() + &"x".repeat(1200)),
        subject: "=?utf-8?q?not_decoded?= and  two spaces".to_owned(),
        to: Vec::new(),
        bcc: vec![person("bob@example.org", None)],
        ..simple()
    };
    golden("hostile-text.eml", &compose(hostile_text), include_str!("golden/compose/hostile-text.eml"));
}

#[test]
fn a_rich_message_parses_back_to_its_draft() {
    let composed = compose(rich());
    let parsed = parse(&composed, &ParseLimits::default());
    let from = parsed.from.clone().unwrap();
    assert_eq!((from.name.as_deref(), from.email.as_str()), (Some("Zoë Müller, Dr."), "zoe@xn--bcher-kva.example"));
    assert_eq!(parsed.to[0].name.as_deref(), Some("Bob \"the\" Builder"));
    assert_eq!(parsed.to[1].email, "\"john doe\"@example.org");
    assert_eq!(parsed.cc[0].name.as_deref(), Some("Карол"));
    assert_eq!(parsed.reply_to[0].email, "help@example.com");
    assert_eq!(parsed.subject.as_deref(), Some(rich().subject.as_str()));
    assert_eq!(parsed.sent_at, Some(STAMP.at_micros));
    assert_eq!(parsed.message_id, ["eml_1@example.com"]);
    assert_eq!(parsed.in_reply_to, ["parent@example.org"]);
    assert_eq!(parsed.references, ["root@example.org", "parent@example.org"]);
    assert_eq!(parsed.html.as_deref().map(str::trim_end), rich().html.as_deref());
    assert_eq!(parsed.text.as_deref().map(str::trim_end), Some("Hällo Bob"));
    assert!(!parsed.text_derived);
    assert!(parsed.automatic.auto_submitted.is_some() && parsed.automatic.list);
    let names: Vec<_> = parsed.attachments.iter().map(|a| (a.filename.as_deref(), a.inline)).collect();
    assert_eq!(names, [(None, true), (Some("Über uns — 2025.txt"), false)]);
    let text = attachment_bytes(&composed, parsed.attachments[1].part_id, &ParseLimits::default()).unwrap();
    assert_eq!(text, rich().attachments[0].content, "attachments are byte-exact");
    let fields = headers(&composed, &ParseLimits::default());
    assert_eq!(fields.iter().find(|field| field.name == "X-Name").unwrap().value, "Zoë");
    let whole = String::from_utf8(composed).unwrap();
    assert!(!whole.contains("secret@") && !whole.contains("Hidden") && !whole.to_lowercase().contains("\nbcc:"));
}

#[test]
fn every_recipient_is_in_the_envelope_once() {
    let draft = Draft {
        cc: vec![person("BOB@example.org", None), person("carol@example.net", None)],
        bcc: vec![person("dave@example.net", None)],
        return_path: Some("bounces@example.com".to_owned()),
        ..simple()
    };
    let message = draft.check(&Limits::default()).unwrap();
    let recipients: Vec<&str> = message.recipients().into_iter().map(Address::as_str).collect();
    assert_eq!(recipients, ["bob@example.org", "carol@example.net", "dave@example.net"]);
    assert_eq!(message.return_path().as_str(), "bounces@example.com");
    assert_eq!(simple().check(&Limits::default()).unwrap().return_path().as_str(), "ann@example.com");
}

type Spoil = fn(&mut Draft, String);

#[test]
fn no_field_lets_a_line_end_through() {
    let spoils: [(&str, Spoil); 16] = [
        ("from.email", |draft, evil| draft.from.email = format!("a{evil}@example.com")),
        ("from.name", |draft, evil| draft.from.name = Some(format!("a{evil}b"))),
        ("to[0].email", |draft, evil| draft.to[0].email = format!("a@example.com{evil}")),
        ("to[0].name", |draft, evil| draft.to[0].name = Some(format!("a{evil}b"))),
        ("cc[0].name", |draft, evil| draft.cc = vec![person("c@example.com", Some(&format!("a{evil}b")))]),
        ("bcc[0].email", |draft, evil| draft.bcc = vec![person(&format!("c{evil}@example.com"), None)]),
        ("reply_to[0].email", |draft, evil| draft.reply_to = vec![person(&format!("c{evil}@example.com"), None)]),
        ("subject", |draft, evil| draft.subject = format!("a{evil}Bcc: x@example.com")),
        ("headers.X-Tag", |draft, evil| draft.headers = vec![("X-Tag".into(), format!("a{evil}b"))]),
        ("in_reply_to", |draft, evil| draft.in_reply_to = Some(format!("a{evil}b@x"))),
        ("references[0]", |draft, evil| draft.references = vec![format!("a{evil}b@x")]),
        ("return_path.email", |draft, evil| draft.return_path = Some(format!("a{evil}@example.com"))),
        ("attachments[0].filename", |draft, evil| {
            draft.attachments = vec![file(Some(format!("a{evil}b")), None, None)]
        }),
        ("attachments[0].content_type", |draft, evil| {
            draft.attachments = vec![file(Some("a".into()), Some(format!("text/plain; x=\"a{evil}b\"")), None)]
        }),
        ("attachments[0].content_id", |draft, evil| {
            draft.attachments = vec![file(Some("a".into()), None, Some(format!("a{evil}b")))]
        }),
        ("unsubscribe.url", |draft, evil| {
            draft.unsubscribe = Some(ListUnsubscribe { url: format!("https://x/{evil}"), mailto: None })
        }),
    ];
    for (field, spoil) in spoils {
        for evil in ["\r\n", "\n", "\r", "\0", "\u{b}", "\u{1b}", "\u{85}", "\u{2028}"] {
            let mut draft = simple();
            spoil(&mut draft, evil.to_owned());
            let found = faults(draft);
            let expected = field.trim_end_matches(".email");
            assert!(found.iter().any(|name| name.starts_with(expected)), "{field} {evil:?}: {found:?}");
        }
    }
    let mut named = simple();
    named.headers = vec![("X-Tag\r\nBcc".to_owned(), "x@example.com".to_owned())];
    assert_eq!(faults(named), ["headers.X-TagBcc"]);
    let bad_id = Stamp { message_id: "a@b>\r\nBcc: <x@y", ..STAMP };
    let fault = simple().check(&Limits::default()).unwrap().compose(&bad_id).unwrap_err();
    assert_eq!(fault, FieldError { field: "message_id".to_owned(), problem: Problem::MessageId });
}

fn file(filename: Option<String>, content_type: Option<String>, content_id: Option<String>) -> Attachment {
    Attachment { filename, content_type, content_id, content: vec![1, 2, 3], inline: false }
}

#[test]
fn every_fault_names_its_field() {
    let mut draft = simple();
    draft.from.email = "no at sign".to_owned();
    draft.to = vec![person("", None), person("a@[192.0.2.1]", None), person("a@localhost", None)];
    draft.headers = vec![("Bcc".into(), "x@y".into()), ("X-A".into(), "1".into()), ("x-a".into(), "2".into())];
    draft.attachments = vec![file(None, Some("multipart/mixed".into()), None)];
    draft.text = None;
    draft.in_reply_to = Some("two ids".to_owned());
    draft.unsubscribe = Some(ListUnsubscribe { url: "http://x/".into(), mailto: Some("a?b@example.com".into()) });
    let expected = [
        "headers.Bcc",
        "headers.x-a",
        "from.email",
        "to[0].email",
        "to[1].email",
        "to[2].email",
        "text",
        "attachments[0].filename",
        "attachments[0].content_type",
        "in_reply_to",
        "unsubscribe.url",
        "unsubscribe.mailto",
    ];
    assert_eq!(faults(draft), expected);
    let crowd: Vec<Person> = (0..51).map(|n| person(&format!("u{n}@example.com"), None)).collect();
    assert_eq!(faults(Draft { to: crowd.clone(), ..simple() }), ["to", "recipients"]);
    let split = Draft { to: crowd[..26].to_vec(), bcc: crowd[26..].to_vec(), ..simple() };
    assert_eq!(faults(split), ["recipients"]);
    assert_eq!(faults(Draft { to: Vec::new(), ..simple() }), ["to"]);
    assert_eq!(faults(Draft { subject: "x".repeat(999), ..simple() }), ["subject"]);
    assert_eq!(
        faults(Draft { attachments: vec![file(Some("a".into()), None, None); 21], ..simple() }),
        ["attachments"]
    );
    let large = Draft {
        attachments: vec![Attachment { filename: Some("a".into()), content: vec![0; 1000], ..Attachment::default() }],
        ..simple()
    };
    let limits = Limits { message_octets_max: 1500, ..Limits::default() };
    let fault = large.check(&limits).unwrap().compose(&STAMP).unwrap_err();
    assert_eq!(fault.to_string(), "message has more than 1500 octets");
}

#[test]
fn custom_fields_with_a_typed_twin_are_written_once() {
    let draft = Draft {
        headers: vec![
            ("In-Reply-To".into(), "<a@x>".into()),
            ("references".into(), "<r@x> <a@x>".into()),
            ("Reply-To".into(), "Help <help@example.com>".into()),
        ],
        ..simple()
    };
    let parsed = parse(&compose(draft.clone()), &ParseLimits::default());
    assert_eq!(parsed.in_reply_to, ["a@x"]);
    assert_eq!(parsed.references, ["r@x", "a@x"]);
    assert_eq!(parsed.reply_to[0].name.as_deref(), Some("Help"));
    let twice = Draft { in_reply_to: Some("b@x".into()), ..draft };
    assert_eq!(faults(twice), ["headers.In-Reply-To"]);
}

#[test]
fn local_parts_beyond_ascii_need_smtputf8() {
    let draft = Draft { to: vec![person("jürgen@example.org", None)], ..simple() };
    let message = draft.clone().check(&Limits::default()).unwrap();
    assert!(message.needs_smtputf8());
    assert!(String::from_utf8(message.compose(&STAMP).unwrap()).unwrap().contains("<jürgen@example.org>"));
    let ascii_only = Limits { smtputf8: false, ..Limits::default() };
    assert_eq!(draft.check(&ascii_only).unwrap_err()[0].problem, Problem::Smtputf8);
    let domain = Draft { to: vec![person("j@bücher.example", None)], ..simple() };
    let message = domain.check(&ascii_only).unwrap();
    assert!(!message.needs_smtputf8());
    assert!(message.compose(&STAMP).unwrap().is_ascii());
}

#[test]
fn long_threads_keep_their_root_and_their_end() {
    let references = (0..500).map(|n| format!("m{n}@example.com")).collect();
    let parsed = parse(&compose(Draft { references, ..simple() }), &ParseLimits::default());
    assert_eq!(parsed.references.len(), 21);
    assert_eq!((parsed.references[0].as_str(), parsed.references[20].as_str()), ("m0@example.com", "m499@example.com"));
}

fn assert_clean(raw: &[u8]) {
    let text = String::from_utf8_lossy(raw);
    assert!(text.ends_with("\r\n"));
    assert!(!text.replace("\r\n", "").contains(['\r', '\n']), "a bare line end");
    assert!(text.split("\r\n").all(|line| line.len() <= 998), "a long line");
    let body = text.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    assert!(body.is_ascii() && !body.contains('\0'), "an 8-bit body");
}

fn words() -> impl Strategy<Value = String> {
    prop_oneof![9 => "[ -~äßЖ漢😀\t]{0,120}", 1 => "[a-z ]{0,60}=\\?utf-8\\?[qb]\\?[a-z_é]{0,40}\\?= ?"]
}

fn normal(text: &str) -> String {
    text.replace("\r\n", "\n").replace('\r', "\n").trim_end_matches('\n').to_owned()
}

/// White space at the ends of a header value and its exact kind inside carry nothing (RFC 5322 §2.2.3).
fn header_text(text: &str) -> String {
    text.replace('\t', " ").trim().to_owned()
}

fn assert_parses_back(draft: &Draft, parsed: &ParsedMessage) {
    assert_eq!(header_text(parsed.subject.as_deref().unwrap_or_default()), header_text(&draft.subject));
    let name = parsed.from.as_ref().and_then(|from| from.name.clone()).unwrap_or_default();
    // Runs of white space in a name carry nothing either.
    let one_line = |name: &str| name.split_whitespace().collect::<Vec<_>>().join(" ");
    assert_eq!(one_line(&name), one_line(draft.from.name.as_deref().unwrap_or_default()));
    assert_eq!(normal(parsed.text.as_deref().unwrap_or_default()), normal(draft.text.as_deref().unwrap_or_default()));
    if let Some(html) = &draft.html {
        assert_eq!(normal(parsed.html.as_deref().unwrap_or_default()), normal(html));
    }
    assert_eq!(parsed.to.len(), draft.to.len());
    assert_eq!(parsed.attachments.len(), draft.attachments.len());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn what_is_composed_parses_back_to_the_draft(
        subject in words(),
        name in prop_oneof![9 => "[ -~äßЖ漢😀]{0,60}", 1 => "[a-z ]{0,9}=\\?utf-8\\?[qb]\\?[a-z_é]{0,20}\\?="],
        text in "([ -~é漢\t]{0,200}(\r\n|\n|\r|\\.\n|From ))*",
        html in proptest::option::of("<p>([ -;é漢]{0,300}(\n|\r\n)?){0,4}</p>"),
        file in proptest::option::of((proptest::collection::vec(any::<u8>(), 0..400), "[a-zA-Zé漢 \"\\\\;%'.-]{1,80}x")),
        tag in words(),
    ) {
        let attachments = file.iter().map(|(content, filename)| Attachment {
            filename: Some(filename.clone()), content: content.clone(), ..Attachment::default()
        }).collect();
        let headers = Some(tag.trim()).filter(|tag| !tag.is_empty()).map(|tag| ("X-Tag".to_owned(), tag.to_owned()));
        let draft = Draft {
            from: person("ann@example.com", Some(&name)),
            subject, html, attachments,
            text: Some(text),
            headers: headers.clone().into_iter().collect(),
            ..simple()
        };
        let composed = compose(draft.clone());
        assert_clean(&composed);
        let parsed = parse(&composed, &ParseLimits::default());
        assert_parses_back(&draft, &parsed);
        if let Some((content, filename)) = &file {
            let kept = attachment_bytes(&composed, parsed.attachments[0].part_id, &ParseLimits::default());
            prop_assert_eq!(kept.as_ref(), Some(content));
            prop_assert_eq!(parsed.attachments[0].filename.as_deref(), Some(filename.trim()));
        }
        if let Some((_, tag)) = &headers {
            let fields = mail::message::headers(&composed, &ParseLimits::default());
            let found = fields.iter().find(|field| field.name == "X-Tag").map(|field| header_text(&field.value));
            prop_assert_eq!(found, Some(header_text(tag)));
        }
        prop_assert_eq!(compose(draft), composed, "the same stamp gives the same bytes");
    }

    #[test]
    fn no_text_adds_a_field(
        values in proptest::collection::vec("(\r|\n|\0|[ -~é]|\r\nBcc: x@example\\.com\r\n){0,20}", 10),
    ) {
        let text = |at: usize| values[at].clone();
        let draft = Draft {
            from: person(&text(0), Some(&text(1))),
            to: vec![person(&text(2), Some(&text(3)))],
            subject: text(4),
            headers: vec![(text(5), text(6))],
            attachments: vec![file(Some(text(7)), Some(text(8)), Some(text(9)))],
            in_reply_to: Some(text(0)),
            ..simple()
        };
        // Spoil one field at a time as well, or hardly anything would pass.
        let single = [
            Draft { subject: text(4), ..simple() },
            Draft { from: person("a@example.com", Some(&text(1))), ..simple() },
            Draft { from: person(&text(0), None), ..simple() },
            Draft { headers: vec![("X-Tag".into(), text(6))], ..simple() },
            Draft { headers: vec![(format!("X-{}", text(5)), text(6))], ..simple() },
            Draft { attachments: vec![file(Some(text(7)), None, None)], ..simple() },
            Draft { attachments: vec![file(Some("a".into()), Some(format!("a/b; c=\"{}\"", text(8))), None)], ..simple() },
            Draft { attachments: vec![file(Some("a".into()), None, Some(text(9)))], ..simple() },
            Draft { in_reply_to: Some(text(0)), ..simple() },
            draft,
        ];
        for draft in single {
            let customs = draft.headers.len();
            let Ok(message) = draft.check(&Limits::default()) else { continue };
            let raw = message.compose(&STAMP).unwrap();
            assert_clean(&raw);
            let fields = headers(&raw, &ParseLimits::default());
            prop_assert!(!fields.iter().any(|field| field.name.eq_ignore_ascii_case("bcc")));
            let own = ["Date", "From", "To", "Subject", "Message-ID", "In-Reply-To", "MIME-Version", "Content-Type", "Content-Transfer-Encoding"];
            let foreign = fields.iter().filter(|field| !own.contains(&field.name.as_str())).count();
            prop_assert!(foreign <= customs, "{:?}", fields);
        }
    }
}
