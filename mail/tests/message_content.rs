//! What agents get to read: quotes, signatures, hidden text, codes, sanitised HTML.
#![expect(clippy::unwrap_used, reason = "tests")]

use mail::content::{Content, ContentFormat, ContentPart, Options, RawPart, clean, clean_text, is_invisible, raw_body};
use mail::html::{RemoteImages, RenderOptions, render, sanitize};
use mail::message::{ParseLimits, ParsedMessage, parse};

fn parsed(raw: &str) -> ParsedMessage {
    parse(raw.as_bytes(), &ParseLimits::default())
}

fn text_message(text: &str) -> ParsedMessage {
    parsed(&format!("Subject: Re: x\nContent-Type: text/plain; charset=utf-8\n\n{text}"))
}

fn html_message(html: &str) -> ParsedMessage {
    parsed(&format!("Subject: Re: x\nContent-Type: text/html; charset=utf-8\n\n{html}"))
}

fn cleaned(text: &str) -> String {
    clean(&text_message(text), &Options::default()).text.unwrap()
}

fn visible(html: &str) -> String {
    render(html, RenderOptions { strip_quotes: false, include_html: false }).text
}

fn clean_html(html: &str) -> Content {
    clean(&html_message(html), &Options { include_html: true, ..Options::default() })
}

#[test]
fn quoted_history_is_left_out_in_many_languages() {
    let attributions = [
        "On Mon, 3 Nov 2025 at 10:12, Bob <bob@x.example> wrote:",
        "On Mon, 3 Nov 2025 at 10:12, Bob Longname\n<bob.longname@some.example> wrote:",
        "Am 03.11.2025 um 10:12 schrieb Bob <bob@x.example>:",
        "Am Montag, 3. November 2025, 10:12:13 CET schrieb Bob:",
        "Le lun. 3 nov. 2025 à 10:12, Bob <bob@x.example> a écrit :",
        "El lun, 3 nov 2025 a las 10:12, Bob (<bob@x.example>) escribió:",
        "Il giorno lun 3 nov 2025 alle ore 10:12 Bob <bob@x.example> ha scritto:",
        "Em seg., 3 de nov. de 2025 às 10:12, Bob <bob@x.example> escreveu:",
        "Op ma 3 nov 2025 om 10:12 schreef Bob <bob@x.example>:",
        "Den mån 3 nov. 2025 kl 10:12 skrev Bob <bob@x.example>:",
        "pon., 3 lis 2025 o 10:12 Bob <bob@x.example> napisał(a):",
        "po 3. 11. 2025 v 10:12 odesílatel Bob <bob@x.example> napsal:",
        "ma 3. marrask. 2025 klo 10.12 Bob (bob@x.example) kirjoitti:",
        "Bob <bob@x.example> ezt írta (időpont: 2025. nov. 3., H, 10:12):",
        "Bob <bob@x.example>, 3 Kas 2025 Pzt, 10:12 tarihinde şunu yazdı:",
        "пн, 3 нояб. 2025 г. в 10:12, Bob <bob@x.example>:\nBob пишет 03.11.2025:",
        "3 ноября 2025 г., 10:12, Bob <bob@x.example> написал:",
        "пн, 3 лист. 2025 р. о 10:12 Bob <bob@x.example> пише:",
        "În lun., 3 nov. 2025 la 10:12, Bob <bob@x.example> a scris:",
        "Στις Δευ 3 Νοε 2025 στις 10:12 π.μ., ο χρήστης Bob <bob@x.example> έγραψε:",
        "Bob <bob@x.example> 于2025年11月3日周一 10:12写道：",
        "2025年11月3日(月) 10:12 Bob <bob@x.example> さんのメール:",
        "2025년 11월 3일 (월) 오전 10:12, Bob <bob@x.example>님이 작성:",
        "Vào 10:12, T2, 3 thg 11, 2025 Bob <bob@x.example> đã viết:",
        "Pada tanggal Sen, 3 Nov 2025 pukul 10.12 Bob <bob@x.example> menulis:",
        "\u{202b}בתאריך יום ב׳, 3 בנוב׳ 2025 ב-10:12 מאת \u{202a}Bob\u{202c}\u{200f} <\u{202a}bob@x.example\u{202c}\u{200f}> כתב:\u{202c}",
        "في الاثنين، 3 نوفمبر 2025، 10:12 ص كتب Bob <bob@x.example>:",
    ];
    for attribution in attributions {
        let text = format!("My answer.\n\n{attribution}\n> What was asked\n>\n> in two lines\n");
        let content = clean(&text_message(&text), &Options::default());
        let result = content.text.unwrap();
        assert!(result.starts_with("My answer.") && !result.contains("asked"), "{attribution}: {result}");
        assert!(content.quotes_stripped, "{attribution}");
        if !attribution.starts_with("пн, 3 нояб") {
            assert_eq!(result, "My answer.", "{attribution}");
        }
    }
}

#[test]
fn history_without_marks_is_cut_at_its_header() {
    let headers = [
        "-----Original Message-----\nFrom: Bob\nSent: today\n\nold",
        "-----Ursprüngliche Nachricht-----\nVon: Bob\n\nold",
        "-----Message d'origine-----\nold",
        "-----Mensaje original-----\nold",
        "-----邮件原件-----\nold",
        "________________________________\nFrom: Bob <bob@x.example>\nSent: Monday, November 3, 2025 10:12\nTo: Ann\nSubject: x\n\nold",
        "*Von:* Bob\n*Gesendet:* Montag\n*An:* Ann\n*Betreff:* x\n\nold",
        "De : Bob\nEnvoyé : lundi\nÀ : Ann\nObjet : x\n\nold",
        "发件人: Bob\n发送时间: 2025年\n收件人: Ann\n主题: x\n\nold",
        "差出人: Bob\n送信日時: 2025\n宛先: Ann\n件名: x\n\nold",
        "On Mon, 3 Nov 2025 at 10:12, Bob <bob@x.example> wrote:\n\nold without marks",
    ];
    for header in headers {
        assert_eq!(cleaned(&format!("My answer.\n\n{header}\n")), "My answer.", "{header}");
    }
}

#[test]
fn in_doubt_more_is_kept() {
    let kept = [
        "Only this.",
        "> quoted and nothing else",
        "Point by point:\n\n> first?\nYes.\n\n> second?\nNo.",
        "Look:\n\n> a saying\n\nNice, is it not?",
        "From: the beginning\nwe knew it.",
        "He wrote:\nnothing at all.",
        "Dear all,\n\nthe budget:\n2024 10\n2025 20",
        "---------- Forwarded message ---------\nFrom: Bob <bob@x.example>\nDate: Mon\nSubject: x\nTo: Ann\n\nforwarded text",
        "Please see below.\n\n---------- Forwarded message ---------\nFrom: Bob <b@x>\nDate: Mon\nSubject: x\nTo: Ann\n\ntext",
    ];
    for text in kept {
        assert_eq!(cleaned(text), text, "{text}");
    }
    let forward =
        parsed("Subject: Fwd: x\n\nFYI\n\n-----Original Message-----\nFrom: Bob\nSent: x\nTo: y\n\nthe point");
    assert!(clean(&forward, &Options::default()).text.unwrap().contains("the point"));
    assert_eq!(cleaned("On 3 Nov 2025, Bob <b@x> wrote:\n> question?\n\nThe answer."), "The answer.");
    let inline = "Hi,\n\nOn 3 Nov 2025, Bob <b@x> wrote:\n> one?\nYes.\n> two?\nNo.\n> rest\n> of it";
    let result = cleaned(inline);
    assert!(
        result.contains("Yes.") && result.contains("No.") && result.contains("> one?") && !result.contains("rest"),
        "{result}"
    );
}

#[test]
fn signatures_are_left_out() {
    let cases = [
        ("Text.\n\n-- \nBob\nCompany", "Text."),
        ("Text.\n--\nBob", "Text."),
        ("Text.\n\nSent from my iPhone", "Text."),
        ("Text.\n\nGet Outlook for iOS<https://aka.ms/x>\n", "Text."),
        ("Text.\n\nVon meinem iPhone gesendet", "Text."),
        ("Text.\n\nEnvoyé de mon iPhone", "Text."),
        ("Text.\n\niPhoneから送信", "Text."),
        ("Text.\n\n发自我的iPhone", "Text."),
        ("Text.\n\nSent from my iPhone\n\n> quoted", "Text."),
        ("Sent from my iPhone", "Sent from my iPhone"),
        ("-- \nonly a signature", "-- \nonly a signature"),
    ];
    for (text, expected) in cases {
        assert_eq!(cleaned(text), expected, "{text}");
    }
    let long = format!("a\n--\n{}", "a line of the text\n".repeat(40));
    assert_eq!(cleaned(&long).lines().count(), 42);
    let kept = clean(&text_message("Text.\n-- \nBob"), &Options { strip_signature: false, ..Options::default() });
    assert_eq!((kept.text.as_deref(), kept.signature_stripped), (Some("Text.\n-- \nBob"), false));
}

#[test]
fn structural_quotes_of_html_are_left_out() {
    let quotes = [
        "<blockquote type=cite><p>old</p></blockquote>",
        "<div class=\"gmail_quote\"><div class=gmail_attr>On 3 Nov 2025 Bob wrote:</div><blockquote>old</blockquote></div>",
        "<div class=yahoo_quoted>old</div>",
        "<div class=moz-cite-prefix>Am 3.11.2025 schrieb Bob:</div><blockquote type=\"cite\">old</blockquote>",
        "<hr><div id=divRplyFwdMsg><b>From:</b> Bob</div><div>old</div>",
        "<div id=appendonsend></div><hr><div>old</div>",
    ];
    for quote in quotes {
        let content = clean_html(&format!("<html><body><div>My answer.</div>{quote}</body></html>"));
        assert_eq!(content.text.as_deref(), Some("My answer."), "{quote}");
        assert!(content.quotes_stripped && !content.html.unwrap().contains("old"), "{quote}");
    }
    let only = clean_html("<blockquote type=cite>all there is</blockquote>");
    assert_eq!(only.text.as_deref(), Some("> all there is"));
    let forward = clean_html(
        "FYI<div class=gmail_quote><div>---------- Forwarded message ---------<br>From: Bob</div>text</div>",
    );
    assert!(forward.text.unwrap().contains("text"));
    let inline = clean_html(
        "<blockquote type=cite>one?</blockquote><p>Yes.</p><blockquote type=cite>two?</blockquote><p>No.</p>",
    );
    assert_eq!(inline.text.as_deref(), Some("Yes.\n\nNo."));
}

#[test]
fn text_nobody_sees_is_left_out_and_counted() {
    let hidden = [
        "<div style=\"display:none\">SECRET</div>",
        "<div style=\"DISPLAY : NONE !important\">SECRET</div>",
        "<div style=\"visibility:hidden\"><p>SECRET</p></div>",
        "<span style='font-size:0'>SECRET</span>",
        "<span style='font-size:0.1px'>SECRET</span>",
        "<span style='font:0/0 a'>SECRET</span>",
        "<p style='opacity:0'>SECRET</p>",
        "<p hidden>SECRET</p>",
        "<div style='height:0;overflow:hidden'>SECRET</div>",
        "<div style='max-height:0px;max-width:0;overflow:hidden'>SECRET</div>",
        "<div style='position:absolute;left:-9999px'>SECRET</div>",
        "<div style='text-indent:-9999px'>SECRET</div>",
        "<p style='color:#fff'>SECRET</p>",
        "<p style='color:white;background-color:#ffffff'>SECRET</p>",
        "<table bgcolor=black><tr><td><font color=#000000>SECRET</font></td></tr></table>",
        "<div style='clip:rect(0,0,0,0)'>SECRET</div>",
        "<style>.x{display:none}</style><div class='a x'>SECRET</div>",
        "<style>#gone { /* c */ visibility : hidden }</style><div id=gone>SECRET</div>",
        "<dialog>SECRET</dialog>",
        // What the tree builder knows and a plain tokenizer does not:
        "<p><font style='display:none'></p><p>SECRET</p></font>",
        "<div style=display:none><table><tr><td></div>SECRET</table></div>",
        "<span style=display:none><div></span>SECRET</div>",
    ];
    for html in hidden {
        let rendered =
            render(&format!("<p>shown</p>{html}"), RenderOptions { strip_quotes: false, include_html: true });
        assert!(!rendered.text.contains("SECRET"), "{html}: {}", rendered.text);
        assert!(!rendered.html.as_ref().unwrap().contains("SECRET"), "{html}: {:?}", rendered.html);
        assert!(rendered.text.contains("shown"), "{html}");
        assert_eq!(rendered.hidden_chars, 6, "{html}");
    }
    let never = [
        "<!-- SECRET -->",
        "<script>SECRET</script>",
        "<style>SECRET</style>",
        "<title>SECRET</title>",
        "<template>SECRET</template>",
        "<iframe>SECRET</iframe>",
        "<object>SECRET</object>",
    ];
    for html in never {
        let rendered = render(html, RenderOptions { strip_quotes: false, include_html: true });
        assert!(!rendered.text.contains("SECRET") && !rendered.html.unwrap().contains("SECRET"), "{html}");
        assert_eq!(rendered.hidden_chars, 0, "{html}");
    }
    let shown = [
        "<td style='font-size:0'><div style='font-size:14px'>SHOWN</div></td>",
        "<div style='visibility:hidden'><p style='visibility:visible'>SHOWN</p></div>",
        "<div style='background:#000'><p style='color:#fff'>SHOWN</p></div>",
        "<div style='background:url(x.png)'><p style='color:#fff'>SHOWN</p></div>",
        "<style>div.head p { background: navy }</style><div class=head><p style='color:#fff'>SHOWN</p></div>",
        "<style>@media (max-width:600px){.x{display:none}}</style><p class=x>SHOWN</p>",
        "<style>.x{display:none}</style><p class=x style='display:block'>SHOWN</p>",
        "<noscript>SHOWN</noscript>",
    ];
    for html in shown {
        assert!(visible(html).contains("SHOWN"), "{html}");
    }
    let deep =
        format!("{}<div style='display:none'>SECRET<b>SECRET</div>{}", "<div>".repeat(400), "</div>".repeat(400));
    assert!(!visible(&deep).contains("SECRET"));
}

#[test]
fn invisible_characters_are_removed_and_counted() {
    let tags: String = "ignore all".chars().map(|c| char::from_u32(0xe0000 + c as u32).unwrap()).collect();
    let content = clean(&text_message(&format!("a\u{200b}b\u{feff}c\u{202e}d{tags}e")), &Options::default());
    assert_eq!(content.text.as_deref(), Some("abcde"));
    let suspicious = content.suspicious;
    assert_eq!((suspicious.zero_width, suspicious.bidi, suspicious.tag_chars, suspicious.hidden_text), (2, 1, 10, 0));
    let html = clean_html("a&#8203;b&#x202E;c<i hidden>four</i>");
    assert_eq!(html.text.as_deref(), Some("abc"));
    assert_eq!((html.suspicious.zero_width, html.suspicious.bidi, html.suspicious.hidden_text), (1, 1, 4));
}

#[test]
fn html_becomes_readable_text() {
    let cases = [
        ("<p>one</p><p>two<br>three</p>", "one\n\ntwo\nthree"),
        ("<ul><li>a<li>b</ul><ol><li>c<li>d</ol>", "- a\n- b\n1. c\n2. d"),
        ("<table><tr><td>a</td><td>b</td></tr><tr><td>c</td></tr></table>", "a b\nc"),
        ("a&nbsp;&amp;&lt;b&gt;\n   c", "a &<b> c"),
        ("<pre>x\n  y</pre>", "x\n  y"),
        ("<blockquote>q<br>r</blockquote>s", "> q\n> r\n\ns"),
        ("<img src=x alt='a cat'> sat", "a cat sat"),
        ("<img src=x width=1 height=1 alt=pixel>text", "text"),
        ("<a href='https://x.example/'>link</a>", "link"),
        ("no markup", "no markup"),
    ];
    for (html, expected) in cases {
        assert_eq!(visible(html), expected, "{html}");
    }
}

#[test]
fn sanitised_html_runs_and_loads_nothing() {
    let dirty = "<p onclick=x style='background:url(http://t.example/x);color:red'>hi</p><script>alert(1)</script><form action=x><input name=y></form>\
        <img src='https://t.example/p.gif'><img src='cid:a@b'><img src='data:image/png;base64,AA'><img src='data:text/html,x'>\
        <a href='javascript:alert(1)'>js</a><a href='data:text/html,x'>data</a><a href='https://x.example/'>ok</a><iframe src=x></iframe>\
        <svg onload=x><a xlink:href='javascript:x'>s</a></svg><math><mi xlink:href='data:x'>m</mi></math><base href='//evil.example'><meta http-equiv=refresh content=0>\
        <link rel=stylesheet href=x><style>p{}</style><noscript><img src=x onerror=y></noscript>";
    let (blocked, _) = sanitize(dirty, RemoteImages::Blocked);
    for bad in [
        "onclick",
        "onload",
        "onerror",
        "<script",
        "alert",
        "javascript:",
        "<form",
        "<input",
        "<iframe",
        "<svg",
        "<base",
        "<meta",
        "<link",
        "<style",
        "url(",
        "text/html",
        " src=\"https:",
    ] {
        assert!(!blocked.contains(bad), "{bad} in {blocked}");
    }
    for good in [
        "hi</p>",
        "data-blocked-src=\"https://t.example/p.gif\"",
        "src=\"cid:a@b\"",
        "src=\"data:image/png",
        "href=\"https://x.example/\"",
        "rel=\"noopener noreferrer nofollow\"",
    ] {
        assert!(blocked.contains(good), "{good} in {blocked}");
    }
    assert!(sanitize(dirty, RemoteImages::Allowed).0.contains(" src=\"https://t.example/p.gif\""));
}

#[test]
fn the_wanted_body_is_chosen_and_cut() {
    let both = parsed(
        "Content-Type: multipart/alternative; boundary=a\n\n--a\n\nplain https://a.example/x.\n--a\nContent-Type: text/html\n\n<p>rich <a href='https://b.example/'>b</a></p>\n--a--\n",
    );
    let auto = clean(&both, &Options::default());
    assert_eq!(
        (auto.format, auto.text.as_deref(), auto.html.as_deref()),
        (Some(ContentFormat::Text), Some("plain https://a.example/x."), None)
    );
    assert_eq!(auto.extracted_links, ["https://a.example/x"]);
    let html = clean(&both, &Options { part: ContentPart::Html, ..Options::default() });
    assert_eq!((html.format, html.text.as_deref()), (Some(ContentFormat::Html), Some("rich b")));
    assert!(html.html.unwrap().contains("rich"));
    assert_eq!(html.extracted_links, ["https://b.example/"]);
    let none = clean(&both, &Options { include_links: false, max_body_chars: 5, ..Options::default() });
    assert_eq!((none.text.as_deref(), none.is_truncated, none.truncated_at_chars), (Some("plain"), true, Some(5)));
    assert!(none.extracted_links.is_empty());
    let raw = raw_body(&both, RawPart::Both, 8);
    assert_eq!(
        (raw.text.as_deref(), raw.html.as_deref(), raw.is_truncated, raw.truncated_at_chars),
        (Some("plain ht"), Some("<p>rich "), true, Some(8))
    );
    assert_eq!(raw_body(&both, RawPart::Text, 1000).html, None);
    let empty = clean(&parsed("Content-Type: application/pdf\n\nx"), &Options::default());
    assert_eq!((empty.text, empty.format), (None, None));
}

#[test]
fn codes_and_links_to_follow_are_found() {
    let codes = |text: &str| {
        clean(&text_message(text), &Options::default()).codes.into_iter().map(|c| c.value).collect::<Vec<_>>()
    };
    assert_eq!(codes("Your verification code is 123456. It expires in 10 minutes."), ["123456"]);
    assert_eq!(codes("Your code:\n\n123 456\n"), ["123456"]);
    assert_eq!(codes("Ihr Code lautet: A1B2C3"), ["A1B2C3"]);
    assert_eq!(codes("您的验证码：482913"), Vec::<String>::new());
    assert_eq!(codes("您的验证码： 482913 请勿泄露"), ["482913"]);
    assert_eq!(codes("Use 12-34-56 as your PIN"), ["123456"]);
    for nothing in
        ["We met in 2024 and in my opinion 123456 people came", "Invoice 4711 for $123456", "pin the date: 2025"]
    {
        assert_eq!(codes(nothing), Vec::<String>::new(), "{nothing}");
    }
    let content = clean_html(
        "<p>Welcome</p><a href='https://x.example/c?t=1'>Confirm your address</a> <a href='https://x.example/unsubscribe?verify=1'>unsubscribe</a> <a href='https://x.example/about'>About</a>",
    );
    assert_eq!(content.action_links.len(), 1);
    assert_eq!(
        (content.action_links[0].url.as_str(), content.action_links[0].context.as_str()),
        ("https://x.example/c?t=1", "Confirm your address")
    );
    let text = clean(&text_message("Reset it here: (https://x.example/a_(b)?c=1), or not."), &Options::default());
    assert_eq!(text.extracted_links, ["https://x.example/a_(b)?c=1"]);
}

mod properties {
    use super::*;
    use proptest::prelude::*;

    fn mail_like() -> impl Strategy<Value = String> {
        let line = prop_oneof![
            Just(String::new()),
            Just("> quoted".to_owned()),
            Just(">> deeper".to_owned()),
            Just("-- ".to_owned()),
            Just("--".to_owned()),
            Just("On Mon, 3 Nov 2025, Bob <b@x> wrote:".to_owned()),
            Just("-----Original Message-----".to_owned()),
            Just("From: a".to_owned()),
            Just("Sent: b".to_owned()),
            Just("To: c".to_owned()),
            Just("Sent from my iPhone".to_owned()),
            Just("________________".to_owned()),
            Just("---------- Forwarded message ---------".to_owned()),
            Just("own text".to_owned()),
            "\\PC{0,30}",
            "[\u{200b}\u{202e}\u{e0041}a \u{fe0f}]{0,10}",
            any::<String>(),
        ];
        proptest::collection::vec(line, 0..25).prop_map(|lines| lines.join("\n"))
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1000))]

        #[test]
        fn clean_text_is_visible_shorter_and_stays_clean(text in mail_like(), quotes: bool, signature: bool) {
            let once = clean_text(&text, quotes, signature);
            prop_assert!(!once.text.chars().any(is_invisible));
            prop_assert!(once.text.chars().count() <= text.chars().count());
            let twice = clean_text(&once.text, quotes, signature);
            prop_assert_eq!(&twice.text, &once.text);
            if text.chars().any(|c| !c.is_whitespace() && !c.is_control() && !is_invisible(c)) {
                prop_assert!(!once.text.trim().is_empty(), "something is always left");
            }
        }

        #[test]
        fn any_html_is_rendered_without_invisible_characters(
            parts in proptest::collection::vec(prop_oneof![
                Just("<div style='display:none'>".to_owned()), Just("</div>".to_owned()), Just("<table><tr><td>".to_owned()), Just("</table>".to_owned()),
                Just("<b>".to_owned()), Just("</b>".to_owned()), Just("<p>".to_owned()), Just("<a href='https://x.example'>".to_owned()), Just("</a>".to_owned()),
                Just("<svg><title>".to_owned()), Just("<template>".to_owned()), Just("<select><option>".to_owned()), Just("<blockquote type=cite>".to_owned()),
                Just("<frameset>".to_owned()), Just("<math><mi>".to_owned()), Just("&#8203;&#x202e;".to_owned()), Just("<form><button>".to_owned()), "\\PC{0,20}", any::<String>(),
            ], 0..40)
        ) {
            let html = parts.concat();
            let content = clean_html(&html);
            let text = content.text.unwrap_or_default();
            prop_assert!(!text.chars().any(is_invisible));
            let safe = content.html.unwrap_or_default();
            prop_assert!(!safe.chars().any(is_invisible));
            prop_assert!(!safe.contains("<script") && !safe.contains("display:none"));
        }
    }
}
