//! SPF macros, turned into lookups (RFC 7208 section 7).
#![expect(clippy::unwrap_used, reason = "tests")]

use mail::auth::AuthResult::{Neutral, Pass};
use mail::auth::{SpfOutcome, SpfRequest, Zone, check_host};

async fn ask(zone: &Zone, peer: &str, sender: &str, helo: &str) -> SpfOutcome {
    let request = SpfRequest {
        peer: peer.parse().unwrap(),
        domain: sender.rsplit_once('@').unwrap().1.to_owned(),
        sender: sender.to_owned(),
        helo: helo.to_owned(),
        receiver: "mx.receiver.example".to_owned(),
        now: 1_700_000_000,
    };
    check_host(&request, zone).await
}

#[tokio::test]
async fn macros_expand_as_the_examples_of_the_standard_do() {
    // RFC 7208 section 7.4, turned into lookups: the name exists only where the expansion is right.
    let examples = [
        ("%{s}", "strong-bad@email.example.com"),
        ("%{o}", "email.example.com"),
        ("%{d}", "email.example.com"),
        ("%{d4}", "email.example.com"),
        ("%{d3}", "email.example.com"),
        ("%{d2}", "example.com"),
        ("%{d1}", "com"),
        ("%{dr}", "com.example.email"),
        ("%{d2r}", "example.email"),
        ("%{l}", "strong-bad"),
        ("%{l-}", "strong.bad"),
        ("%{lr}", "strong-bad"),
        ("%{lr-}", "bad.strong"),
        ("%{l1r-}", "strong"),
        ("%{i}", "192.0.2.3"),
        ("%{ir}.%{v}._spf.%{d2}", "3.2.0.192.in-addr._spf.example.com"),
        ("%{lr-}.lp._spf.%{d2}", "bad.strong.lp._spf.example.com"),
        ("%{lr-}.lp.%{ir}.%{v}._spf.%{d2}", "bad.strong.lp.3.2.0.192.in-addr._spf.example.com"),
        ("%{h}", "helo.example"),
        ("%{S}", "strong-bad%40email.example.com"),
        ("a%%b%-c", "a%b%20c"),
    ];
    for (text, expansion) in examples {
        let zone = Zone::new()
            .with_txt("email.example.com", format!("v=spf1 exists:{text}.t.example -all"))
            .with_address(&format!("{expansion}.t.example"), "127.0.0.2".parse().unwrap());
        let outcome = ask(&zone, "192.0.2.3", "strong-bad@email.example.com", "helo.example").await;
        assert_eq!(outcome.result, Pass, "{text}");
    }
    let v6 = Zone::new().with_txt("email.example.com", "v=spf1 exists:%{ir}.%{v}.t.example -all").with_address(
        "1.0.b.c.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6.t.example",
        "127.0.0.2".parse().unwrap(),
    );
    assert_eq!(ask(&v6, "2001:db8::cb01", "x@email.example.com", "h.example").await.result, Pass);
    let named = Zone::new()
        .with_txt("a.example", "v=spf1 exists:%{p}.t.example -all")
        .with_ptr("192.0.2.1".parse().unwrap(), "mx.a.example")
        .with_address("mx.a.example", "192.0.2.1".parse().unwrap())
        .with_address("mx.a.example.t.example", "127.0.0.2".parse().unwrap())
        .with_address("unknown.t.example", "127.0.0.2".parse().unwrap());
    assert_eq!(ask(&named, "192.0.2.1", "x@a.example", "h.example").await.result, Pass);
    assert_eq!(ask(&named, "192.0.2.2", "x@a.example", "h.example").await.result, Pass, "unknown");
    // A local part that makes an impossible name does not match; it does not fail either.
    let impossible = Zone::new().with_txt("a.example", "v=spf1 exists:%{l}.t.example ?all");
    for local in ["a..b", &"x".repeat(64), ".a", "a b"] {
        assert_eq!(
            ask(&impossible, "192.0.2.1", &format!("{local}@a.example"), "h.example").await.result,
            Neutral,
            "{local}"
        );
    }
    // A name that is too long loses labels from the left.
    let long = Zone::new()
        .with_txt("a.example", "v=spf1 exists:%{l}.t.example -all")
        .with_address(&format!("{}t.example", "abcdefghi.".repeat(24)), "127.0.0.2".parse().unwrap());
    let sender = format!("{}@a.example", "abcdefghi.".repeat(30).trim_end_matches('.'));
    assert_eq!(ask(&long, "192.0.2.1", &sender, "h.example").await.result, Pass);
    // A missing local part stands for postmaster.
    let bare = Zone::new()
        .with_txt("a.example", "v=spf1 exists:%{l}.t.example -all")
        .with_address("postmaster.t.example", "127.0.0.2".parse().unwrap());
    assert_eq!(ask(&bare, "192.0.2.1", "@a.example", "h.example").await.result, Pass);
}
