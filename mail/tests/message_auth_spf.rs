//! SPF by table: every mechanism, modifier, limit and error of RFC 7208. A wrong `pass` here is a broken promise.
#![expect(clippy::unwrap_used, reason = "tests")]

use mail::auth::{AuthResult, SpfOutcome, SpfRequest, Zone, check_host};

/// One line per record: `name TXT text`, `name A address`, `name MX preference host`, `address PTR name`,
/// `name FAIL` (every query fails), `name EMPTY` (exists, without records).
fn zone(text: &str) -> Zone {
    let mut zone = Zone::new();
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let mut words = line.splitn(3, ' ');
        let (name, kind, rest) = (words.next().unwrap(), words.next().unwrap(), words.next().unwrap_or_default());
        zone = match kind {
            "TXT" => zone.with_txt(name, rest),
            "A" => zone.with_address(name, rest.parse().unwrap()),
            "MX" => {
                let (preference, host) = rest.split_once(' ').unwrap();
                zone.with_mx(name, preference.parse().unwrap(), host)
            }
            "PTR" => zone.with_ptr(name.parse().unwrap(), rest),
            "FAIL" => zone.with_failure(name),
            "EMPTY" => zone.with_name(name),
            other => panic!("unknown record type {other}"),
        };
    }
    zone
}

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

async fn result(records: &str, peer: &str) -> AuthResult {
    ask(&zone(records), peer, "user@a.example", "helo.example").await.result
}

use AuthResult::{Fail, Neutral, None, Pass, Permerror, Softfail, Temperror};

#[tokio::test]
async fn records_are_found_or_not() {
    let cases = [
        ("no such domain", "x.example EMPTY", None),
        ("no record", "a.example TXT hello", None),
        ("another version", "a.example TXT v=spf10 +all\na.example TXT v=spf2.0/mfrom +all", None),
        ("glued version", "a.example TXT v=spf1mx +all", None),
        ("leading space", "a.example TXT  v=spf1 +all", None),
        ("version only", "a.example TXT v=spf1", Neutral),
        ("upper case", "a.example TXT V=SPF1 -ALL", Fail),
        ("two records", "a.example TXT v=spf1 +all\na.example TXT v=spf1 -all", Permerror),
        ("two equal records", "a.example TXT v=spf1 +all\na.example TXT v=spf1 +all", Permerror),
        ("beside others", "a.example TXT google-site=1\na.example TXT v=spf1 -all", Fail),
        ("servers down", "a.example FAIL", Temperror),
        ("trailing spaces", "a.example TXT v=spf1  ip4:192.0.2.1   -all  ", Pass),
    ];
    for (name, records, expected) in cases {
        assert_eq!(result(records, "192.0.2.1").await, expected, "{name}");
    }
    for domain in ["localhost", "[192.0.2.1]", "a..example", ".example.com", "x".repeat(64).as_str()] {
        let sender = format!("user@{domain}");
        let zone = Zone::new().with_txt(domain, "v=spf1 +all");
        assert_eq!(ask(&zone, "192.0.2.1", &sender, "h.example").await.result, None, "{domain}");
    }
}

#[tokio::test]
async fn every_syntax_error_is_a_permanent_error() {
    let broken = [
        "foo",
        "all.",
        "all:x.example",
        "all/8",
        "+-all",
        "ip4",
        "ip4:",
        "ip4:1.2.3",
        "ip4:1.2.3.4:25",
        "ip4:1.2.3.4/",
        "ip4:1.2.3.4/33",
        "ip4:1.2.3.4/032",
        "ip4:1.2.3.4/00",
        "ip4:1.2.3.4//32",
        "ip4:01.2.3.4",
        "ip4:1.2.3.4/+8",
        "ip4:1.2.3.4/-1",
        "ip4/8",
        "ip6",
        "ip6:",
        "ip6:2001:db8::/129",
        "ip6:2001:db8::/064",
        "ip6:2001:db8:::1",
        "ip6:192.0.2.1",
        "ip6:fe80::1%eth0",
        "ip4:2001:db8::1",
        "a:",
        "a/",
        "a/33",
        "a/008",
        "a//129",
        "a/24//129",
        "a/24/64",
        "a:/24",
        "a:museum",
        "a:museum.",
        "a:111.222.33.44",
        "a:abc.123",
        "a:x.example/33",
        "a:-foo.example.-com",
        "mx:",
        "mx/33",
        "mx:x.example//129",
        "ptr:",
        "ptr/0",
        "ptr:x.example/8",
        "exists",
        "exists:",
        "exists:x",
        "include",
        "include:",
        "include/24",
        "include:x.example/24",
        "include:museum",
        "exists:%",
        "exists:%x.example",
        "exists:%{z}.example",
        "exists:%{c}.example",
        "exists:%{r}.example",
        "exists:%{t}.example",
        "exists:%{d0}.example",
        "exists:%{d2x}.example",
        "exists:%{}.example",
        "exists:%{d",
        "exists:%{d}x",
        "redirect=",
        "redirect:x.example",
        "redirect=x.example redirect=y.example",
        "exp=",
        "exp=x.example exp=y.example",
        "redirect=museum",
        "moo=%x",
        "moo=%{z}",
        "a=b c",
        "ip4:192.0.2.1,ip4:192.0.2.2",
        "a:x.example/24abc",
        "-all;",
        "a\tb",
        "a\u{1}",
        "all\u{e9}",
        "=x",
        "1a=x",
        "ip4:192.0.2.1\u{0}",
    ];
    for term in broken {
        // Even where an earlier term would match: the whole record counts (section 4.6).
        let records = format!("a.example TXT v=spf1 ip4:192.0.2.1 {term} +all");
        assert_eq!(result(&records, "192.0.2.1").await, Permerror, "{term:?}");
    }
    let fine = [
        "moo=cow",
        "moo=",
        "x-y_z.1=%{d}%%%_%-",
        "a:foo:bar/baz.example.com",
        "a:x.example.",
        "exists:%{i}._x.%{d2}",
        "exists:%{l1r+-}.x.example",
        "a:x.e4-a",
        "ptr",
        "ptr:%{d}",
        "include:%{d2}",
        "mx/0//0",
        "a//0",
        "exp=%{d}",
        "exp=why.example",
        "A:X.EXAMPLE",
        "exists:%{L}.x.example",
        "redirect=%{d2}.y.example",
        "a:foo.%{d}",
        "exists:%{d4096}.x.example",
    ];
    for term in fine {
        let records = format!("a.example TXT v=spf1 ip4:192.0.2.1 {term}");
        assert_eq!(result(&records, "192.0.2.1").await, Pass, "{term:?}");
    }
}

#[tokio::test]
async fn networks_match_exactly() {
    let cases = [
        ("ip4:192.0.2.1", "192.0.2.1", Pass),
        ("ip4:192.0.2.1", "192.0.2.2", Fail),
        ("ip4:192.0.2.128/25", "192.0.2.127", Fail),
        ("ip4:192.0.2.128/25", "192.0.2.255", Pass),
        ("ip4:0.0.0.0/0", "203.0.113.7", Pass),
        ("ip4:0.0.0.0/0", "2001:db8::1", Fail),
        ("ip6:2001:db8::/32", "2001:db8:ffff::1", Pass),
        ("ip6:2001:db8::/32", "2001:db9::1", Fail),
        ("ip6:2001:db8::1", "2001:db8::1", Pass),
        ("ip6:::/0", "192.0.2.1", Fail),
        ("ip6:::ffff:192.0.2.0/120", "192.0.2.1", Fail),
        ("ip6:::/0", "::ffff:192.0.2.1", Fail),
        ("ip4:192.0.2.1", "::ffff:192.0.2.1", Pass),
        ("?ip4:192.0.2.1", "192.0.2.1", Neutral),
        ("~ip4:192.0.2.1", "192.0.2.1", Softfail),
        ("-ip4:192.0.2.1", "192.0.2.1", Fail),
        ("+ip4:192.0.2.1", "192.0.2.1", Pass),
        ("IP4:192.0.2.1", "192.0.2.1", Pass),
        ("ip6:2001:DB8::1/128", "2001:db8::1", Pass),
    ];
    for (term, peer, expected) in cases {
        assert_eq!(result(&format!("a.example TXT v=spf1 {term} -all"), peer).await, expected, "{term} {peer}");
    }
}

const HOSTS: &str = "a.example A 192.0.2.10\na.example A 2001:db8::10\nb.example A 192.0.2.20\na.example MX 10 m1.example\n\
    a.example MX 20 m2.example\nm1.example A 192.0.2.30\nm2.example A 2001:db8::30\nnull.example MX 0 .\n";

#[tokio::test]
async fn addresses_and_exchangers_match() {
    let cases = [
        ("a", "192.0.2.10", Pass),
        ("a", "192.0.2.11", Fail),
        ("a/24", "192.0.2.11", Pass),
        ("a/0", "198.51.100.1", Pass),
        ("a", "2001:db8::10", Pass),
        ("a//64", "2001:db8::99", Pass),
        ("a/0", "2001:db8::99", Fail),
        ("a//0", "192.0.2.99", Fail),
        ("a:b.example", "192.0.2.20", Pass),
        ("a:b.example/24", "192.0.2.99", Pass),
        ("a:b.example//64", "2001:db8::10", Fail),
        ("a:none.example", "192.0.2.10", Fail),
        ("mx", "192.0.2.30", Pass),
        ("mx", "2001:db8::30", Pass),
        ("mx", "192.0.2.10", Fail),
        ("mx/24", "192.0.2.99", Pass),
        ("mx:a.example//64", "2001:db8::77", Pass),
        ("mx:b.example", "192.0.2.20", Fail),
        ("mx:null.example", "192.0.2.20", Fail),
        ("exists:b.example", "198.51.100.1", Pass),
        ("exists:b.example", "2001:db8::1", Pass),
        ("exists:m2.example", "192.0.2.1", Fail),
        ("a:::ffff.example", "192.0.2.1", Fail),
    ];
    for (term, peer, expected) in cases {
        assert_eq!(result(&format!("{HOSTS}a.example TXT v=spf1 {term} -all"), peer).await, expected, "{term} {peer}");
    }
    for (records, expected) in [
        ("a.example TXT v=spf1 a:b.example -all\nb.example FAIL", Temperror),
        ("a.example TXT v=spf1 mx:b.example -all\nb.example MX 10 m.example\nm.example FAIL", Temperror),
        ("a.example TXT v=spf1 exists:b.example -all\nb.example FAIL", Temperror),
        ("a.example TXT v=spf1 ip4:192.0.2.1 a:b.example -all\nb.example FAIL", Pass),
    ] {
        assert_eq!(result(records, "192.0.2.1").await, expected, "{records}");
    }
}

#[tokio::test]
async fn names_of_the_peer_match_only_when_they_lead_back() {
    let records = "a.example TXT v=spf1 ptr -all\nb.example TXT v=spf1 ptr:a.example -all\n192.0.2.1 PTR mail.a.example\nmail.a.example A 192.0.2.1\n\
        192.0.2.2 PTR mail.a.example\n192.0.2.3 PTR evila.example\nevila.example A 192.0.2.3\n192.0.2.4 PTR a.example\na.example A 192.0.2.4\n192.0.2.9 FAIL";
    let zone = zone(records);
    for (peer, expected) in [
        ("192.0.2.1", Pass),
        ("192.0.2.2", Fail),
        ("192.0.2.3", Fail),
        ("192.0.2.4", Pass),
        ("192.0.2.5", Fail),
        ("192.0.2.9", Fail),
    ] {
        assert_eq!(ask(&zone, peer, "u@a.example", "h.example").await.result, expected, "{peer}");
        assert_eq!(ask(&zone, peer, "u@b.example", "h.example").await.result, expected, "{peer} by ptr:a.example");
    }
    // Only ten names are looked at.
    let many: String = (0..10).map(|i| format!("192.0.2.1 PTR n{i}.other.example\n")).collect();
    let late = format!("a.example TXT v=spf1 ptr -all\n{many}192.0.2.1 PTR mail.a.example\nmail.a.example A 192.0.2.1");
    assert_eq!(result(&late, "192.0.2.1").await, Fail);
}

#[tokio::test]
async fn includes_and_redirects_follow_their_rules() {
    let include = |inner: &str| format!("a.example TXT v=spf1 include:b.example ~all\nb.example TXT v=spf1 {inner}");
    for (inner, expected) in [
        ("+all", Pass),
        ("-all", Softfail),
        ("~all", Softfail),
        ("?all", Softfail),
        ("", Softfail),
        ("foo", Permerror),
        ("redirect=c.example", Permerror),
        ("include:none.example", Permerror),
        ("a:c.example -all", Softfail),
    ] {
        assert_eq!(result(&include(inner), "192.0.2.1").await, expected, "include of {inner:?}");
    }
    assert_eq!(result("a.example TXT v=spf1 include:b.example -all\nb.example EMPTY", "192.0.2.1").await, Permerror);
    assert_eq!(result("a.example TXT v=spf1 include:b.example -all\nb.example FAIL", "192.0.2.1").await, Temperror);
    assert_eq!(
        result("a.example TXT v=spf1 -include:b.example +all\nb.example TXT v=spf1 ip4:192.0.2.1", "192.0.2.1").await,
        Fail
    );
    let redirect = |rest: &str, inner: &str| format!("a.example TXT v=spf1 {rest}\nb.example TXT v=spf1 {inner}");
    for (rest, inner, expected) in [
        ("redirect=b.example", "ip4:192.0.2.1 -all", Pass),
        ("redirect=b.example", "-all", Fail),
        ("redirect=b.example ip4:192.0.2.1", "-all", Pass),
        ("redirect=b.example ?all", "+all", Neutral),
        ("REDIRECT=b.example", "~all", Softfail),
        ("redirect=none.example", "+all", Permerror),
        ("redirect=b.example", "foo", Permerror),
        ("redirect=b.example", "redirect=a.example", Permerror),
    ] {
        assert_eq!(result(&redirect(rest, inner), "192.0.2.1").await, expected, "{rest} -> {inner}");
    }
    // `d` is the included domain inside an include (section 7.2): the match must be b's own.
    let scoped = "a.example TXT v=spf1 include:b.example -all\nb.example TXT v=spf1 a -all\na.example A 192.0.2.1\nb.example A 192.0.2.2";
    assert_eq!((result(scoped, "192.0.2.1").await, result(scoped, "192.0.2.2").await), (Fail, Pass));
}

#[tokio::test]
async fn limits_end_an_evaluation_as_an_error() {
    let many = |count: usize| {
        let terms: String = (0..count).map(|i| format!("a:h{i}.example ")).collect();
        let hosts: String = (0..count).map(|i| format!("h{i}.example A 198.51.100.1\n")).collect();
        format!("a.example TXT v=spf1 {terms}ip4:192.0.2.1 -all\n{hosts}")
    };
    assert_eq!(result(&many(10), "192.0.2.1").await, Pass);
    assert_eq!(result(&many(11), "192.0.2.1").await, Permerror);
    let chain: String = (0..11).map(|i| format!("d{i}.example TXT v=spf1 include:d{}.example\n", i + 1)).collect();
    assert_eq!(
        result(
            &format!("a.example TXT v=spf1 include:d0.example +all\n{chain}d11.example TXT v=spf1 +all"),
            "192.0.2.1"
        )
        .await,
        Permerror
    );
    assert_eq!(result("a.example TXT v=spf1 include:a.example +all", "192.0.2.1").await, Permerror);
    assert_eq!(result("a.example TXT v=spf1 redirect=a.example", "192.0.2.1").await, Permerror);
    let mixed = "a.example TXT v=spf1 mx:h.example ptr include:i.example a:h.example a:h.example a:h.example a:h.example a:h.example redirect=r.example\n\
        i.example TXT v=spf1 a:h.example -all\nr.example TXT v=spf1 a:h.example +all\nh.example A 198.51.100.1\nh.example MX 1 h.example";
    assert_eq!(result(mixed, "192.0.2.1").await, Permerror, "eleven lookups over three records");
    let exchangers = |count: usize| {
        let mx: String =
            (0..count).map(|i| format!("a.example MX {i} m{i}.example\nm{i}.example A 198.51.100.1\n")).collect();
        format!("a.example TXT v=spf1 mx ip4:192.0.2.1 -all\n{mx}")
    };
    assert_eq!(result(&exchangers(10), "192.0.2.1").await, Pass);
    assert_eq!(result(&exchangers(11), "192.0.2.1").await, Permerror);
    assert_eq!(result("a.example TXT v=spf1 a:n1.example a:n2.example ip4:192.0.2.1 -all", "192.0.2.1").await, Pass);
    assert_eq!(
        result("a.example TXT v=spf1 a:n1.example a:n2.example mx:n3.example ip4:192.0.2.1 -all", "192.0.2.1").await,
        Permerror
    );
    assert_eq!(
        result("a.example TXT v=spf1 a:n1.example exists:n2.example a:n3.example +all\nn1.example EMPTY", "192.0.2.1")
            .await,
        Permerror
    );
}

#[tokio::test]
async fn explanations_are_given_for_failures_only() {
    let records = "a.example TXT v=spf1 ip4:192.0.2.1 -all exp=why.a.example\nwhy.a.example TXT %{i} is not one of %{d}'s: %{c} %{r} %{t}\n\
        b.example TXT v=spf1 include:a.example -all\nc.example TXT v=spf1 redirect=a.example exp=own.example\nown.example TXT own\n\
        d.example TXT v=spf1 -all exp=two.example\ntwo.example TXT one\ntwo.example TXT two\ne.example TXT v=spf1 -all exp=none.example\n\
        f.example TXT v=spf1 -all exp=bad.example\nbad.example TXT %{z}";
    let zone = zone(records);
    let text = "192.0.2.9 is not one of a.example's: 192.0.2.9 mx.receiver.example 1700000000";
    for (domain, reason) in [
        ("a.example", Some(text)),
        ("b.example", Option::None),
        ("c.example", Some(text)),
        ("d.example", Option::None),
        ("e.example", Option::None),
        ("f.example", Option::None),
    ] {
        let outcome = ask(&zone, "192.0.2.9", &format!("u@{domain}"), "h.example").await;
        assert_eq!((outcome.result, outcome.reason.as_deref()), (Fail, reason), "{domain}");
    }
    assert_eq!(ask(&zone, "192.0.2.1", "u@a.example", "h.example").await.reason, Option::None);
}

mod properties {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        /// Garbage without the letters of `all`, `a`, `ip4`, `ip6` and `include` never passes anyone.
        #[test]
        fn no_garbage_passes(garbage in "[b-hj-zB-HJ-Z0-9:=%{}. ~?+\u{e9}\u{1}-]{0,60}", peer in any::<[u8; 4]>()) {
            let zone = Zone::new().with_txt("a.example", format!("v=spf1 {garbage}"));
            let peer = std::net::Ipv4Addr::from(peer).to_string();
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let outcome = runtime.block_on(ask(&zone, &peer, "u@a.example", "h.example"));
            prop_assert_ne!(outcome.result, Pass);
        }
    }
}
