//! DMARC by table (RFC 9989).

use mail::auth::{
    AuthResult, DkimVerdict, DmarcInput, DmarcPolicy, DmarcVerdict, SpfScope, SpfVerdict, Zone, check_dmarc,
};

fn records(lines: &[(&str, &str)]) -> Zone {
    lines.iter().fold(Zone::new(), |zone, (name, text)| zone.with_txt(&format!("_dmarc.{name}"), text))
}

fn spf(result: AuthResult, domain: &str) -> SpfVerdict {
    SpfVerdict { result, domain: domain.to_owned(), scope: SpfScope::Mailfrom, reason: None }
}

fn signature(result: AuthResult, domain: &str) -> DkimVerdict {
    DkimVerdict { result, domain: domain.to_owned(), ..DkimVerdict::default() }
}

async fn judged(zone: &Zone, author: &str, spf: &SpfVerdict, dkim: &[DkimVerdict]) -> DmarcVerdict {
    check_dmarc(&DmarcInput { from_fields: 1, authors: &[author.to_owned()], spf, dkim }, zone).await
}

use AuthResult::{Fail, Neutral, None as Nothing, Pass, Permerror, Temperror};

#[tokio::test]
async fn identities_align_by_organisation_or_strictly() {
    let relaxed = &[("a.example", "v=DMARC1; p=reject")][..];
    let strict = &[("a.example", "v=DMARC1; p=reject; adkim=s; aspf=s")][..];
    let split = &[("a.example", "v=DMARC1; p=reject; psd=n"), ("team.a.example", "v=DMARC1; p=reject; psd=n")][..];
    let suffix = &[("co.example", "v=DMARC1; p=none; psd=y"), ("shop.co.example", "v=DMARC1; p=reject")][..];
    let cases = [
        ("same domain", relaxed, "a.example", "a.example", Pass),
        ("below the author", relaxed, "a.example", "mail.a.example", Pass),
        ("above the author", relaxed, "news.a.example", "a.example", Pass),
        ("beside the author", relaxed, "news.a.example", "mail.a.example", Pass),
        ("another organisation", relaxed, "a.example", "evil.example", Fail),
        ("a name that ends alike", relaxed, "a.example", "eva.example", Fail),
        ("strict and same", strict, "a.example", "a.example", Pass),
        ("strict and below", strict, "a.example", "mail.a.example", Fail),
        ("two organisations in one tree", split, "a.example", "team.a.example", Fail),
        ("within the lower one", split, "x.team.a.example", "y.team.a.example", Pass),
        ("under one public suffix", suffix, "shop.co.example", "other.co.example", Fail),
        ("under one registered name", suffix, "www.shop.co.example", "shop.co.example", Pass),
        ("the suffix itself", suffix, "shop.co.example", "co.example", Fail),
        ("upper case", relaxed, "A.Example", "MAIL.a.example", Pass),
    ];
    for (name, lines, author, verified, expected) in cases {
        let zone = records(lines);
        let by_spf = judged(&zone, author, &spf(Pass, verified), &[]).await;
        assert_eq!(
            (by_spf.result, by_spf.aligned_spf, by_spf.aligned_dkim),
            (expected, expected == Pass, false),
            "{name} by SPF"
        );
        let by_dkim =
            judged(&zone, author, &spf(Fail, verified), &[signature(Fail, author), signature(Pass, verified)]).await;
        assert_eq!(
            (by_dkim.result, by_dkim.aligned_spf, by_dkim.aligned_dkim),
            (expected, false, expected == Pass),
            "{name} by DKIM"
        );
    }
    let zone = records(relaxed);
    for result in [Fail, Neutral, Nothing, Permerror] {
        assert_eq!(
            judged(&zone, "a.example", &spf(result, "a.example"), &[signature(result, "a.example")]).await.result,
            Fail
        );
    }
}

#[tokio::test]
async fn the_policy_is_found_by_walking_the_tree() {
    use DmarcPolicy::{None as Watch, Quarantine, Reject};
    let deep = "1.2.3.4.5.6.7.8.9.a.example";
    type Lines = &'static [(&'static str, &'static str)];
    let cases: &[(&str, Lines, &str, Option<DmarcPolicy>)] = &[
        ("own record", &[("a.example", "v=DMARC1; p=reject")], "a.example", Some(Reject)),
        ("no record", &[("b.example", "v=DMARC1; p=reject")], "a.example", None),
        ("inherited", &[("a.example", "v=DMARC1; p=reject")], "x.y.a.example", Some(Reject)),
        ("subdomain policy", &[("a.example", "v=DMARC1; p=reject; sp=quarantine")], "x.a.example", Some(Quarantine)),
        (
            "own before inherited",
            &[("a.example", "v=DMARC1; p=reject"), ("x.a.example", "v=DMARC1; p=none")],
            "x.a.example",
            Some(Watch),
        ),
        (
            "organisation, not parent",
            &[("a.example", "v=DMARC1; p=reject"), ("x.a.example", "v=DMARC1; p=none")],
            "y.x.a.example",
            Some(Reject),
        ),
        (
            "psd=n stops",
            &[("a.example", "v=DMARC1; p=reject"), ("x.a.example", "v=DMARC1; p=none; psd=n")],
            "y.x.a.example",
            Some(Watch),
        ),
        ("top level", &[("example", "v=DMARC1; p=quarantine; psd=y")], "a.example", Some(Quarantine)),
        (
            "jump over labels",
            &[("a.example", "v=DMARC1; p=reject"), ("3.4.5.6.7.8.9.a.example", "v=DMARC1; p=none; psd=n")],
            deep,
            Some(Reject),
        ),
        ("landing after the jump", &[("5.6.7.8.9.a.example", "v=DMARC1; p=quarantine; psd=n")], deep, Some(Quarantine)),
        ("testing is one step milder", &[("a.example", "v=DMARC1; p=reject; t=y")], "a.example", Some(Quarantine)),
        ("testing twice milder is none", &[("a.example", "v=DMARC1; p=quarantine; t=y")], "a.example", Some(Watch)),
        ("only reports wanted", &[("a.example", "v=DMARC1; rua=mailto:d@a.example")], "a.example", Some(Watch)),
        (
            "bad policy with reports",
            &[("a.example", "v=DMARC1; p=banana; rua=mailto:d@a.example")],
            "a.example",
            Some(Watch),
        ),
        ("bad policy", &[("a.example", "v=DMARC1; p=banana")], "a.example", None),
        ("no policy", &[("a.example", "v=DMARC1; sp=reject")], "a.example", None),
        ("bad subdomain policy", &[("a.example", "v=DMARC1; p=reject; sp=x")], "x.a.example", Some(Reject)),
        ("two records", &[("a.example", "v=DMARC1; p=reject"), ("a.example", "v=DMARC1; p=none")], "a.example", None),
        (
            "beside another text",
            &[("a.example", "hello"), ("a.example", "v=DMARC1; p=reject")],
            "a.example",
            Some(Reject),
        ),
        ("version not first", &[("a.example", "p=reject; v=DMARC1")], "a.example", None),
        ("another version", &[("a.example", "v=DMARC10; p=reject")], "a.example", None),
        (
            "old tags ignored",
            &[("a.example", "v=DMARC1; p=reject; pct=0; rf=afrf; ri=1; nonsense;; x")],
            "a.example",
            Some(Reject),
        ),
        ("spaces and case", &[("a.example", "v = DMARC1 ;  p =  Reject ;")], "a.example", Some(Reject)),
    ];
    for (name, lines, author, policy) in cases {
        let verdict = judged(&records(lines), author, &spf(Fail, "x.example"), &[]).await;
        assert_eq!(verdict.policy, *policy, "{name}");
        assert_eq!(verdict.result, if policy.is_some() { Fail } else { Nothing }, "{name}");
        assert_eq!(verdict.domain.as_deref(), Some(*author), "{name}");
    }
    let missing = || records(&[("a.example", "v=DMARC1; p=none; sp=quarantine; np=reject")]);
    let ghost = judged(&missing(), "ghost.a.example", &spf(Fail, "x"), &[]).await;
    assert_eq!(ghost.policy, Some(Reject), "a name that does not exist");
    let real = missing().with_mx("real.a.example", 1, "mx.a.example");
    assert_eq!(judged(&real, "real.a.example", &spf(Fail, "x"), &[]).await.policy, Some(Quarantine));
}

#[tokio::test]
async fn unclear_authors_and_missing_answers_are_told_apart() {
    let zone = records(&[("a.example", "v=DMARC1; p=reject")]);
    let ask = |from_fields, authors: &'static [&'static str]| {
        let (zone, authors) = (zone.clone(), authors.iter().map(|a| (*a).to_owned()).collect::<Vec<_>>());
        async move {
            check_dmarc(&DmarcInput { from_fields, authors: &authors, spf: &spf(Pass, "a.example"), dkim: &[] }, &zone)
                .await
        }
    };
    assert_eq!(ask(1, &["a.example", "a.example"]).await.result, Pass);
    assert_eq!(ask(1, &["a.example", "b.example"]).await.result, Permerror);
    assert_eq!(ask(2, &["a.example"]).await.result, Permerror);
    assert_eq!(ask(1, &[]).await.result, Permerror);
    assert_eq!(ask(1, &["localhost"]).await.result, Permerror);
    assert_eq!(ask(1, &["a..example"]).await.result, Permerror);
    let down = zone.clone().with_failure("_dmarc.a.example");
    assert_eq!(judged(&down, "a.example", &spf(Pass, "a.example"), &[]).await.result, Temperror);
    assert_eq!(judged(&zone, "a.example", &spf(Temperror, "a.example"), &[]).await.result, Temperror);
    assert_eq!(
        judged(&zone, "a.example", &spf(Fail, "x"), &[signature(Temperror, "m.a.example")]).await.result,
        Temperror
    );
    assert_eq!(
        judged(&zone, "a.example", &spf(Pass, "a.example"), &[signature(Temperror, "a.example")]).await.result,
        Pass
    );
    // Somebody else's broken name servers do not soften a forgery.
    let forged =
        judged(&zone, "a.example", &spf(Temperror, "evil.example"), &[signature(Temperror, "evil.example")]).await;
    assert_eq!((forged.result, forged.policy), (Fail, Some(DmarcPolicy::Reject)));
}
