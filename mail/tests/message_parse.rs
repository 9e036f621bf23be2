//! Parsing real and hostile messages (RFC 5322, RFC 2045 to 2049, RFC 3676).
#![expect(clippy::disallowed_methods, reason = "hostile input must not take long, which only a clock can tell")]
#![expect(clippy::unwrap_used, reason = "tests")]

use std::time::{Duration, Instant};

use mail::message::{ParseLimits, ParseStatus, ParsedMessage, attachment_bytes, headers, parse};

fn parsed(raw: impl AsRef<[u8]>) -> ParsedMessage {
    let raw = raw.as_ref();
    let message = parse(raw, &ParseLimits::default());
    assert_eq!(message, parse(raw, &ParseLimits::default()), "parsing is a function of the bytes");
    let json = serde_json::to_string(&message).unwrap();
    assert!(!json.contains("\\u0000"), "no NUL in any text");
    assert_eq!(serde_json::from_str::<ParsedMessage>(&json).unwrap(), message);
    message
}

fn crlf(text: &str) -> String {
    text.replace('\n', "\r\n")
}

#[test]
fn an_ordinary_message_is_read_whole() {
    let message = parsed(crlf(
        "From: =?utf-8?q?J=C3=BCrgen?= <j@sender.example>\nTo: \"Doe, Jane\" <jane@x.example>, b@y.example\nCc: c@z.example\n\
         Reply-To: answers@sender.example\nSubject: =?utf-8?b?xb5sdcWlb3XEjWvDvQ==?= day\nDate: Fri, 21 Nov 1997 09:55:06 -0600\n\
         Message-ID: <m1@sender.example>\nIn-Reply-To: <p@x.example>\nReferences: <r@x.example>\n <p@x.example>\n\nHello\nWorld\n",
    ));
    assert_eq!(message.subject.as_deref(), Some("žluťoučký day"));
    assert_eq!(message.from.as_ref().unwrap().name.as_deref(), Some("Jürgen"));
    assert_eq!(message.to[0].name.as_deref(), Some("Doe, Jane"));
    assert_eq!((message.to.len(), message.cc.len(), message.bcc.len(), message.reply_to.len()), (2, 1, 0, 1));
    assert_eq!(message.sent_at, Some(880_127_706_000_000));
    assert_eq!(message.date.as_deref(), Some("Fri, 21 Nov 1997 09:55:06 -0600"));
    assert_eq!(message.message_id, ["m1@sender.example"]);
    assert_eq!(message.in_reply_to, ["p@x.example"]);
    assert_eq!(message.references, ["r@x.example", "p@x.example"]);
    assert_eq!(message.text.as_deref(), Some("Hello\nWorld\n"));
    assert_eq!(message.html.as_deref(), Some("<p>Hello<br>\nWorld</p>\n"));
    assert!(message.html_derived && !message.text_derived && !message.truncated && !message.encrypted);
    assert_eq!((message.preview.as_str(), message.parse_status), ("Hello World", ParseStatus::Complete));
    assert!(message.attachments.is_empty());
}

#[test]
fn broken_boundaries_lose_no_part() {
    let part =
        |boundary: &str, name: &str| format!("--{boundary}\nContent-Type: text/plain; name={name}\n\ntext of {name}\n");
    let two = format!("{}{}", part("bnd", "one.txt"), part("bnd", "two.txt"));
    let cases = [
        ("no closing boundary", format!("Content-Type: multipart/mixed; boundary=bnd\n\npreamble\n{two}"), 1),
        ("no boundary parameter", format!("Content-Type: multipart/mixed\n\n{two}--bnd--\n"), 1),
        (
            "trailing spaces",
            format!(
                "Content-Type: multipart/mixed; boundary=\"bnd \"\n\n{}--b  \n\nx\n--bnd--  \n",
                part("bnd", "one.txt")
            ),
            0,
        ),
        ("epilogue", format!("Content-Type: multipart/mixed; boundary=bnd\n\n{two}--bnd--\nepilogue\n"), 1),
    ];
    for (name, raw, attachments) in cases {
        let message = parsed(raw);
        let text = message.text.clone().unwrap();
        assert!(
            text.contains("text of one.txt") && !text.contains("preamble") && !text.contains("epilogue"),
            "{name}: {text}"
        );
        assert_eq!(message.attachments.len(), attachments, "{name}");
    }
    let prefix = "Content-Type: multipart/mixed; boundary=abc\n\n--abc\nContent-Type: multipart/mixed; boundary=abcdef\n\n\
                  --abcdef\n\ninner\n--abcdef--\n--abc\n\nouter\n--abc--\n";
    assert_eq!(parsed(prefix).text.as_deref(), Some("inner\nouter"));
    let absent = "Content-Type: multipart/mixed; boundary=never\n\nall of this\nis text\n";
    assert_eq!(parsed(absent).text.as_deref(), Some("all of this\nis text\n"));
    let headless = "Content-Type: multipart/mixed; boundary=b\n\n--b\nContent-Type: text/plain\n--b\n\nsecond\n--b--\n";
    assert_eq!(parsed(headless).text.as_deref(), Some("second"));
}

#[test]
fn hostile_structures_cost_little_time() {
    let nested: String =
        (0..10_000).map(|i| format!("Content-Type: multipart/mixed; boundary=b{i}\n\n--b{i}\n")).collect();
    let many = format!("Content-Type: multipart/mixed; boundary=b\n\n{}", "--b\n\nx\n".repeat(200_000));
    let fields = format!("From: a@b\n{}\nbody", "X-Field: value\n".repeat(200_000));
    let references: String = (0..200_000).map(|i| format!(" <id{i}@x>\n")).collect();
    let references = format!("From: a@b\nReferences:{references}\nbody");
    let dashes = format!("Content-Type: multipart/mixed; boundary=b\n\n--b\n\n{}", "--\n".repeat(1_000_000));
    let words = format!("Subject: {}\n\nbody", "=?utf-8?q?a?= ".repeat(300_000));
    let parameters = format!("Content-Type: text/plain{}\n\nbody", "; a=b".repeat(100_000));
    let people = format!("To: {}\n\nbody", "a@b,".repeat(500_000));
    let cases = [
        ("10 000 nested multiparts", nested, true),
        ("200 000 parts", many, true),
        ("200 000 header fields", fields, true),
        ("200 000 references", references, true),
        ("lines of dashes", dashes, true),
        ("300 000 encoded words", words, true),
        ("100 000 parameters", parameters, true),
        ("500 000 recipients", people, true),
    ];
    for (name, raw, truncated) in cases {
        assert!(raw.len() < 5 * 1024 * 1024, "{name}");
        let start = Instant::now();
        let message = parse(raw.as_bytes(), &ParseLimits::default());
        let elapsed = start.elapsed();
        // The bar is one second in a release build on an idle machine; here only the order of growth is checked.
        assert!(elapsed < Duration::from_secs(15), "{name} took {elapsed:?}");
        assert_eq!(message.truncated, truncated, "{name}");
        assert_eq!(message.parse_status == ParseStatus::Partial, truncated, "{name}");
    }
}

#[test]
fn limits_hold_at_themselves() {
    let limits = ParseLimits {
        depth_max: 20,
        parts_max: 200,
        header_fields_max: 500,
        addresses_max: 100,
        references_max: 100,
        ..ParseLimits::default()
    };
    let nested = |count: usize| -> String {
        let head = |i| format!("Content-Type: multipart/mixed; boundary=b{i}\n\n--b{i}\n");
        (0..count).map(head).collect::<String>() + "\ninnermost\n"
    };
    // The message itself is a part.
    let parts =
        |count: usize| format!("Content-Type: multipart/mixed; boundary=b\n\n{}", "--b\n\nx\n".repeat(count - 1));
    let fields = |count: usize| format!("{}\nbody", "X-Field: value\n".repeat(count));
    let holds = |name: &str, max: usize, make: &dyn Fn(usize) -> String| {
        for (count, beyond) in [(max - 1, false), (max, false), (max + 1, true)] {
            let message = parse(make(count).as_bytes(), &limits);
            assert_eq!(message.truncated, beyond, "{count} {name}");
            assert_eq!(message.parse_status == ParseStatus::Partial, beyond, "{count} {name}");
        }
    };
    holds("nested multiparts", limits.depth_max, &nested);
    holds("parts", limits.parts_max, &parts);
    holds("header fields", limits.header_fields_max, &fields);
    for (count, kept) in [(99, 99), (100, 100), (101, 100)] {
        let people: Vec<_> = (0..count).map(|n| format!("p{n}@example.net")).collect();
        let ids: Vec<_> = (0..count).map(|n| format!("<{n}@example.net>")).collect();
        let raw = format!("To: {}\nReferences: {}\n\nbody", people.join(",\n "), ids.join("\n "));
        let message = parse(raw.as_bytes(), &limits);
        assert_eq!((message.to.len(), message.references.len()), (kept, kept), "{count}");
    }
}

#[test]
fn hostile_html_costs_little_time() {
    let cases = [
        ("nested div", "<div>".repeat(100_000)),
        ("nested tables", "<table><tr><td>".repeat(20_000)),
        ("formatting brought back in each paragraph", (0..20_000).map(|i| format!("<p><font size={i}></p>")).collect()),
        ("attributes", format!("<p {}>x", (0..100_000).map(|i| format!("a{i}=1 ")).collect::<String>())),
        ("unclosed anchors", "<a href=x>".repeat(50_000)),
        ("end tags", format!("{}{}", "<b>".repeat(50_000), "</i></b>".repeat(20_000))),
        ("text before a table", format!("<table>{}", "x<b>".repeat(50_000))),
        ("blockquotes", format!("{}x", "<blockquote>".repeat(50_000))),
        ("an unfinished tag", format!("<p {}", "a='".repeat(100_000))),
        ("comments", "<!--".repeat(200_000)),
        ("style rules", format!("<style>{}</style>{}", "a{color:red}".repeat(20_000), "<a>x</a>".repeat(5_000))),
    ];
    for (name, html) in cases {
        let raw = format!("Content-Type: text/html\n\n{html}");
        let start = Instant::now();
        let message = parse(raw.as_bytes(), &ParseLimits::default());
        let content =
            mail::content::clean(&message, &mail::content::Options { include_html: true, ..Default::default() });
        let elapsed = start.elapsed();
        assert!(content.html.is_some(), "{name}");
        assert!(elapsed < Duration::from_secs(30), "{name} took {elapsed:?}");
    }
}

#[test]
fn attached_messages_are_opaque_and_can_be_parsed_in_turn() {
    let mut inner = "Subject: level 0\n\nthe innermost text\n".to_owned();
    for level in 1..=20 {
        inner = format!(
            "Subject: level {level}\nContent-Type: multipart/mixed; boundary=b{level}\n\n--b{level}\n\ntext {level}\n\
             --b{level}\nContent-Type: message/rfc822\n\n{inner}\n--b{level}--\n"
        );
    }
    let mut raw = inner.into_bytes();
    for level in (1..=20).rev() {
        let message = parsed(&raw);
        assert_eq!(message.subject.as_deref(), Some(format!("level {level}").as_str()));
        assert_eq!(message.text.as_deref(), Some(format!("text {level}").as_str()));
        assert_eq!(message.attachments.len(), 1);
        assert_eq!(message.attachments[0].content_type, "message/rfc822");
        raw = attachment_bytes(&raw, message.attachments[0].part_id, &ParseLimits::default()).unwrap();
    }
    assert_eq!(parsed(&raw).text.as_deref(), Some("the innermost text\n"));
}

#[test]
fn bodies_are_chosen_from_alternatives_and_sequences() {
    let alternative =
        "--a\nContent-Type: text/plain\n\nplain\n--a\nContent-Type: text/html\n\n<p>rich <b>text</b></p>\n--a--\n";
    let message = parsed(format!("Content-Type: multipart/alternative; boundary=a\n\n{alternative}"));
    assert_eq!(message.text.as_deref(), Some("plain"));
    assert_eq!(message.html.as_deref(), Some("<p>rich <b>text</b></p>"));
    assert!(!message.text_derived && !message.html_derived && message.attachments.is_empty());

    let html_only = parsed("Content-Type: text/html; charset=utf-8\n\n<p>only <i>html</i></p><p>two</p>");
    assert_eq!(html_only.text.as_deref(), Some("only html\n\ntwo"));
    assert!(html_only.text_derived && !html_only.html_derived);

    let mixed = parsed(
        "Content-Type: multipart/mixed; boundary=m\n\n--m\n\nfirst\n--m\nContent-Type: image/png\n\nPNG\n--m\n\nsecond\n--m--\n",
    );
    assert_eq!(mixed.text.as_deref(), Some("first\nsecond"));
    assert_eq!(mixed.attachments.len(), 1);

    let related = parsed(crlf(
        "Content-Type: multipart/alternative; boundary=a\n\n--a\n\nplain\n--a\nContent-Type: multipart/related; boundary=r\n\n\
         --r\nContent-Type: text/html\n\n<img src=\"cid:pic@x\">\n--r\nContent-Type: image/png\nContent-ID: <pic@x>\n\
         Content-Transfer-Encoding: base64\n\niVBORw0KGgo=\n--r--\n--a--\n",
    ));
    let picture = &related.attachments[0];
    assert_eq!((picture.content_id.as_deref(), picture.inline, picture.size_bytes), (Some("pic@x"), true, Some(8)));
    assert_eq!(picture.sniffed_type.as_deref(), Some("image/png"));

    let nothing = parsed("Subject: no body\n\n");
    assert_eq!((nothing.text.as_deref(), nothing.preview.as_str()), (Some(""), ""));
}

#[test]
fn attachments_are_named_typed_and_fetched() {
    let raw = crlf(
        "Content-Type: multipart/mixed; boundary=m\n\n--m\n\nbody\n--m\nContent-Type: image/png; name=ignored.png\n\
         Content-Disposition: attachment; filename*=utf-8''..%2F..%2Fetc%2Fp%E2%80%AEgnp.exe\nContent-Transfer-Encoding: base64\n\n\
         PGh0bWw+PGJvZHk+aGk8L2JvZHk+\n--m\nContent-Type: weird type\\\";\nContent-Disposition: attachment\n\nraw\n--m--\n",
    );
    let message = parsed(&raw);
    let [first, second] = &message.attachments[..] else { panic!("two attachments: {:?}", message.attachments) };
    assert_eq!(first.filename.as_deref(), Some("../../etc/pgnp.exe"), "a label, without the direction override");
    assert_eq!((first.content_type.as_str(), first.sniffed_type.as_deref()), ("image/png", Some("text/html")));
    assert_eq!(first.disposition.as_deref(), Some("attachment"));
    let bytes = attachment_bytes(raw.as_bytes(), first.part_id, &ParseLimits::default()).unwrap();
    assert_eq!(bytes, b"<html><body>hi</body>");
    assert_eq!(first.size_bytes, Some(bytes.len() as u64));
    assert_eq!(first.sha256.as_ref().unwrap().len(), 64);
    assert_eq!(second.filename, None);
    assert!(attachment_bytes(raw.as_bytes(), 999, &ParseLimits::default()).is_none());
    let small = ParseLimits { attachment_bytes_max: 5, ..ParseLimits::default() };
    assert!(attachment_bytes(raw.as_bytes(), first.part_id, &small).is_none());
    assert!(parse(raw.as_bytes(), &small).truncated);
}

#[test]
fn file_names_are_cut_and_cleaned() {
    use mail::message::sanitize_filename;
    assert_eq!(sanitize_filename("a\0b\r\nc.txt").as_deref(), Some("abc.txt"));
    assert_eq!(sanitize_filename("C:\\x"), Some("C:\\x".to_owned()));
    assert_eq!(sanitize_filename(" \u{202e} "), None);
    let long = sanitize_filename(&format!("{}.pdf", "ž".repeat(1000))).unwrap();
    assert!(long.len() <= 255 && long.ends_with(".pdf"));
}

#[test]
fn charsets_flowed_text_and_encodings_meet_in_bodies() {
    let body = |head: &str, body: &[u8]| {
        let mut raw = format!("{head}\r\n\r\n").into_bytes();
        raw.extend_from_slice(body);
        parsed(raw).text.unwrap()
    };
    assert_eq!(body("Content-Type: text/plain; charset=iso-2022-jp", b"\x1b$B%O%m!<\x1b(B"), "ハロー");
    assert_eq!(
        body(
            "Content-Type: text/plain; charset=\"utf-8\"\r\nContent-Transfer-Encoding: quoted-printable",
            b"caf=C3=A9=\r\n!"
        ),
        "café!"
    );
    assert_eq!(body("Content-Type: text/plain; charset=us-ascii", b"caf\xe9 cr\xe8me"), "café crème");
    assert_eq!(
        body("Content-Type: text/plain; format=flowed; delsp=yes", b"one \r\ntwo\r\n> a \r\n> b\r\n"),
        "onetwo\n> ab\n"
    );
    assert_eq!(
        body("X: y", b"begin 644 x\nnot decoded\nend\n=ybegin line=128 size=1 name=x"),
        "begin 644 x\nnot decoded\nend\n=ybegin line=128 size=1 name=x"
    );
    assert_eq!(body("Content-Type: text/plain; charset=utf-16", b"\xff\xfeh\x00i\x00"), "hi");
    assert_eq!(body("Content-Type: text/html", b"<meta charset=iso-8859-2><p>\xbelu\xbb"), "žluť");
    assert_eq!(body("X: y", b"nul\0 and bell\x07"), "nul and bell");
}

#[test]
fn dates_are_normalised_or_null() {
    let sent = |date: &str| parsed(format!("Date: {date}\n\n")).sent_at;
    assert_eq!(sent("Thu, 1 Jan 1970 00:00:01 GMT"), Some(1_000_000));
    assert_eq!(sent("21 Nov 97 09:55:06 -0600"), Some(880_127_706_000_000));
    assert_eq!(sent("Fri, 21 Nov 1997 09:55:06"), Some(880_106_106_000_000));
    assert_eq!(sent("Fri, 21 Nov 1997 16:55:06 +0100 (CET)"), Some(880_127_706_000_000));
    assert_eq!(sent("Wed, 31 Dec 1969 23:59:59 +0000"), Some(-1_000_000));
    assert!(sent("Thu, 31 Dec 2099 00:00:00 +0000").is_some());
    for nonsense in ["yesterday", "Fri, 99 Nov 1997 99:99:99 +9999", ""] {
        assert_eq!(sent(nonsense), None, "{nonsense}");
    }
    assert_eq!(parsed("Date: yesterday\n\n").date.as_deref(), Some("yesterday"));
}

#[test]
fn odd_files_are_tolerated() {
    assert_eq!(parsed("Subject: cr\rFrom: a@b\r\rbody\r").text.as_deref(), Some("body\n"));
    assert_eq!(parsed("From a@b Mon Jan 1\nSubject: mbox\n\nx").subject.as_deref(), Some("mbox"));
    assert_eq!(parsed("Subject: no empty line").subject.as_deref(), Some("no empty line"));
    assert_eq!(parsed("").parse_status, ParseStatus::Partial);
    assert_eq!(parsed(vec![0_u8; 1000]).from, None);
    let two = parsed("From: a@x\nFrom: b@y\n\n");
    assert_eq!((two.from.unwrap().email, two.from_all.len(), two.facts.from_fields), ("a@x".to_owned(), 2, 2));
    let none = parsed("To: undisclosed-recipients:;\n\n");
    assert!(none.from.is_none() && none.to.is_empty() && none.facts.undisclosed_recipients);
    let fields = headers(b"Subject: =?utf-8?q?=C5=BE?=\nX: 1\n\n", &ParseLimits::default());
    assert_eq!((fields.len(), fields[0].value.as_str()), (2, "ž"));
}

#[test]
fn references_keep_the_first_and_the_newest() {
    let list: String = (0..300).map(|i| format!(" <id{i}@x>\n")).collect();
    let message = parsed(format!("References:{list}\n\n"));
    assert_eq!(message.references.len(), 100);
    assert_eq!((message.references[0].as_str(), message.references[1].as_str()), ("id0@x", "id201@x"));
    assert_eq!(message.references[99], "id299@x");
}

#[test]
fn what_is_packed_is_kept_as_it_is() {
    // Encodings of before MIME, and containers: never unpacked on the way in, never taken for a body.
    let packed = "begin 644 cat.txt\n#0V%T\n`\nend\n=ybegin line=128 size=3 name=a.bin\nxyz\n=yend size=3\n";
    let message = parsed(format!("Subject: x\n\nSee below.\n{packed}"));
    assert_eq!(message.text.as_deref(), Some(format!("See below.\n{packed}").as_str()));
    assert!(message.attachments.is_empty());
    // 10 MiB of zeros in a few lines: the attachment is its packed bytes.
    let zip = "UEsDBBQAAAAIAAAAIQAAAAAAEAAAAAAAoAAEAAAAYm9tYgMA";
    for (name, declared) in [("winmail.dat", "application/ms-tnef"), ("bomb.zip", "application/zip")] {
        let message = parsed(format!(
            "Content-Type: multipart/mixed; boundary=b\n\n--b\nContent-Type: text/plain\n\nhello\n--b\n\
             Content-Type: {declared}; name={name}\nContent-Transfer-Encoding: base64\n\n{zip}\n--b--\n"
        ));
        assert_eq!(message.text.as_deref(), Some("hello"), "{name}");
        let [attachment] = &message.attachments[..] else { panic!("{name}: {:?}", message.attachments) };
        assert_eq!((attachment.content_type.as_str(), attachment.size_bytes), (declared, Some(36)), "{name}");
    }
}

#[test]
fn the_same_bytes_give_the_same_view() {
    let raw = "From: =?utf-8?q?J=C3=BCrgen?= <j@x>\nSubject: a\nContent-Type: multipart/alternative; boundary=b\n\n\
               --b\n\ntext\n--b\nContent-Type: text/html\n\n<p>html\n--b--\n";
    assert_eq!(parsed(raw), parsed(raw));
}

#[test]
fn encrypted_messages_have_no_invented_body() {
    let pgp = parsed(
        "Content-Type: multipart/encrypted; protocol=\"application/pgp-encrypted\"; boundary=e\n\n--e\n\
         Content-Type: application/pgp-encrypted\n\nVersion: 1\n--e\nContent-Type: application/octet-stream; name=encrypted.asc\n\n\
         -----BEGIN PGP MESSAGE-----\n--e--\n",
    );
    assert!(pgp.encrypted && pgp.text.is_none() && pgp.html.is_none());
    assert_eq!(pgp.attachments.len(), 2);
    let smime = parsed("Content-Type: application/pkcs7-mime; smime-type=enveloped-data; name=smime.p7m\n\nAAAA");
    assert!(smime.encrypted && smime.attachments.len() == 1 && smime.text.is_none());
    let signed = parsed(
        "Content-Type: multipart/signed; boundary=s\n\n--s\n\nclear\n--s\nContent-Type: application/pgp-signature\n\nsig\n--s--\n",
    );
    assert!(!signed.encrypted);
    assert_eq!((signed.text.as_deref(), signed.attachments.len()), (Some("clear"), 1));
}

#[test]
fn automatic_mail_is_recognised() {
    let facts = |head: &str| parsed(format!("{head}\n\n")).automatic;
    for automatic in [
        "Auto-Submitted: auto-replied",
        "Auto-Submitted: auto-generated; x=y",
        "Precedence: bulk",
        "List-Id: <l.x>",
        "List-Unsubscribe: <mailto:u@x>",
        "X-Auto-Response-Suppress: OOF, AutoReply",
        "X-Autoreply: yes",
        "From: MAILER-DAEMON@x",
        "From: no-reply+1@x",
        "From: owner-list@x",
        "From: list-request@x",
        "From: bounce-1@x",
        "Content-Type: multipart/report; boundary=x",
        "Return-Path: <>",
    ] {
        assert!(facts(automatic).is_automatic(), "{automatic}");
    }
    for personal in
        ["Auto-Submitted: no", "From: bob@x", "Precedence: normal", "X-Auto-Response-Suppress: None", "Listen: x"]
    {
        assert!(!facts(personal).is_automatic(), "{personal}");
    }
}

mod properties {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]

        #[test]
        fn any_bytes_are_parsed_without_panic(raw in proptest::collection::vec(any::<u8>(), 0..2000)) {
            parsed(raw);
        }

        #[test]
        fn any_mime_like_text_is_parsed_without_panic(
            lines in proptest::collection::vec(prop_oneof![
                Just("--b".to_owned()), Just("--b--".to_owned()), Just("--c".to_owned()), Just(String::new()),
                Just("Content-Type: multipart/mixed; boundary=b".to_owned()), Just("Content-Type: multipart/alternative; boundary=c".to_owned()),
                Just("Content-Type: text/html".to_owned()), Just("Content-Transfer-Encoding: base64".to_owned()),
                Just("Content-Type: message/rfc822".to_owned()), "[ -~]{0,40}", "\\PC{0,20}",
            ], 0..40)
        ) {
            let raw = lines.join("\r\n");
            let message = parsed(&raw);
            for attachment in &message.attachments {
                let bytes = attachment_bytes(raw.as_bytes(), attachment.part_id, &ParseLimits::default()).unwrap();
                prop_assert_eq!(Some(bytes.len() as u64), attachment.size_bytes);
            }
        }
    }
}
