//! The spam score, rule by rule.

use mail::auth::{AuthResult, AuthResults, DmarcPolicy, DmarcVerdict, IprevVerdict, SpfScope, SpfVerdict};
use mail::message::{ParseLimits, parse};
use mail::spam::{EnvelopeFacts, SpamPolicy, Verdict, score};

const GOOD: &str = "From: Bob <bob@sender.example>\nTo: ann@x.example\nDate: Fri, 21 Nov 1997 09:55:06 -0600\nMessage-ID: <a@sender.example>\n";

fn envelope() -> EnvelopeFacts {
    EnvelopeFacts { mail_from: Some("bob@sender.example".to_owned()), helo: "mx.sender.example".to_owned() }
}

fn judged(raw: &str) -> Verdict {
    score(&parse(raw.as_bytes(), &ParseLimits::default()), &AuthResults::unchecked(), &envelope())
}

fn rules(verdict: &Verdict) -> Vec<&str> {
    verdict.rules.iter().map(|rule| rule.name.as_str()).collect()
}

#[test]
fn an_ordinary_message_scores_nothing() {
    let verdict = judged(&format!("{GOOD}Subject: Lunch on Friday?\n\nShall we?\n"));
    assert_eq!((verdict.is_spam, verdict.score, rules(&verdict)), (false, 0, vec![]));
}

#[test]
fn the_test_string_is_always_spam() {
    let gtube = ["XJS*C4JDBQADN1.NSBN3*2IDNEN", "*GTUBE-STANDARD-ANTI-UBE-TEST-EMAIL*C.34X"].concat();
    for raw in [
        format!("{GOOD}Subject: x\n\n{gtube}\n"),
        format!("{GOOD}Subject: x\nContent-Type: text/html\n\n<p>{gtube}</p>"),
        format!("{GOOD}Subject: {gtube}\n\nx"),
    ] {
        let parsed = parse(raw.as_bytes(), &ParseLimits::default());
        let lenient = SpamPolicy { threshold_tenths: 1_000_000 };
        let verdict = lenient.score(&parsed, &AuthResults::unchecked(), &envelope());
        assert!(verdict.is_spam && rules(&verdict).contains(&"GTUBE"), "{raw}");
    }
}

#[test]
fn each_rule_fires_on_its_own_case() {
    let no = |drop: &str| {
        GOOD.lines().filter(|line| !line.starts_with(drop)).map(|line| format!("{line}\n")).collect::<String>()
    };
    let body = "Subject: hi there\n\nbody\n";
    let attach = |name: &str| {
        format!(
            "{GOOD}Subject: x\nContent-Type: multipart/mixed; boundary=bnd\n\n--bnd\n\nx\n--bnd\nContent-Disposition: attachment; filename=\"{name}\"\n\nx\n--bnd--\n"
        )
    };
    let cases = [
        ("FROM_MISSING", format!("{}{body}", no("From"))),
        ("DATE_MISSING", format!("{}{body}", no("Date"))),
        ("MESSAGE_ID_MISSING", format!("{}{body}", no("Message-ID"))),
        ("FROM_SEVERAL", format!("{GOOD}From: eve@evil.example\n{body}")),
        ("FIELDS_DOUBLED", format!("{GOOD}Subject: other\n{body}")),
        ("RECIPIENTS_UNDISCLOSED", format!("{}To: undisclosed-recipients:;\n{body}", no("To"))),
        ("SUBJECT_SHOUTS", format!("{GOOD}Subject: CLAIM YOUR PRIZE NOW\n\nbody")),
        ("REPLY_TO_FREEMAIL", format!("{GOOD}Reply-To: bob.sender@gmail.com\n{body}")),
        ("NAME_FORGED", format!("{}From: \"service@bank.example\" <x@evil.example>\n{body}", no("From"))),
        ("NAME_DECEPTIVE", format!("{GOOD}Subject: a\u{200b}b\u{200b}c\u{200b}d\u{200b}e\n\nbody")),
        (
            "HIDDEN_TEXT",
            format!(
                "{GOOD}Subject: x\nContent-Type: text/html\n\n<p>shown</p><p style=display:none>{}</p>",
                "hidden ".repeat(100)
            ),
        ),
        ("TAG_CHARACTERS", format!("{GOOD}Subject: x\n\nhi {}", "\u{e0041}".repeat(40))),
        ("ATTACHMENT_EXECUTABLE", attach("run.EXE")),
        ("ATTACHMENT_DISGUISED", attach("invoice.pdf.exe")),
        (
            "LINK_DISGUISED",
            format!(
                "{GOOD}Subject: x\nContent-Type: text/html\n\n<a href='https://evil.example/'>https://bank.example/login</a>"
            ),
        ),
    ];
    for (rule, raw) in cases {
        let verdict = judged(&raw);
        assert!(rules(&verdict).contains(&rule), "{rule}: {verdict:?}");
        assert!(verdict.rules.iter().all(|rule| rule.points > 0 && !rule.description.is_empty()));
        assert_eq!(verdict.score, verdict.rules.iter().map(|rule| rule.points).sum::<i32>());
    }
    for quiet in [
        format!("{}From: \"bob@sender.example\" <bob@mail.sender.example>\n{body}", no("From")),
        format!("{GOOD}Subject: NASA\n\nbody"),
        format!(
            "{GOOD}Subject: x\nContent-Type: text/html\n\n<a href='https://www.bank.example/login'>https://bank.example</a> <a href='https://x.example'>report.pdf</a>"
        ),
        attach("archive.tar.gz"),
    ] {
        assert_eq!(rules(&judged(&quiet)), Vec::<&str>::new(), "{quiet}");
    }
    let helo = |helo: &str| EnvelopeFacts { helo: helo.to_owned(), ..EnvelopeFacts::default() };
    let parsed = parse(format!("{GOOD}{body}").as_bytes(), &ParseLimits::default());
    for (name, fires) in [
        ("friend", true),
        ("192.0.2.1", true),
        ("[192.0.2.1]", false),
        ("mx.example", false),
        ("", false),
        ("localhost", false),
    ] {
        let verdict = score(&parsed, &AuthResults::unchecked(), &helo(name));
        assert_eq!(rules(&verdict).contains(&"HELO_NOT_A_NAME"), fires, "{name}");
    }
}

#[test]
fn authentication_counts_and_a_failed_policy_decides_alone() {
    let parsed = parse(format!("{GOOD}Subject: x y\n\nbody").as_bytes(), &ParseLimits::default());
    let results = |dmarc: AuthResult, policy: Option<DmarcPolicy>, spf: AuthResult| AuthResults {
        checked: true,
        spf: Some(SpfVerdict {
            result: spf,
            domain: "sender.example".to_owned(),
            scope: SpfScope::Mailfrom,
            reason: None,
        }),
        dmarc: Some(DmarcVerdict { result: dmarc, policy, ..DmarcVerdict::default() }),
        iprev: Some(IprevVerdict { result: AuthResult::Pass, name: None }),
        ..AuthResults::default()
    };
    let judge = |auth: &AuthResults| score(&parsed, auth, &envelope());
    for policy in [DmarcPolicy::Reject, DmarcPolicy::Quarantine] {
        let verdict = judge(&results(AuthResult::Fail, Some(policy), AuthResult::None));
        assert!(verdict.is_spam && rules(&verdict) == ["DMARC_FAIL_POLICY"], "{policy:?}");
    }
    let lenient = judge(&results(AuthResult::Fail, Some(DmarcPolicy::None), AuthResult::Softfail));
    assert_eq!((lenient.is_spam, rules(&lenient)), (false, vec!["DMARC_FAIL", "SPF_SOFTFAIL"]));
    let forwarded = judge(&results(AuthResult::Pass, Some(DmarcPolicy::Reject), AuthResult::Fail));
    assert_eq!(forwarded.score, 0, "DMARC passed by DKIM: a broken SPF of a forwarder says nothing");
    let unavailable = judge(&results(AuthResult::Temperror, None, AuthResult::Temperror));
    assert_eq!(unavailable.score, 0, "a DNS failure is never held against the sender");
}
