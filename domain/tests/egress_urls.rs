//! The URL policy: what is refused without a look-up, and what remains of a URL that is not.

use domain::egress::{Host, Policy, Refused, Scheme, Target, URL_BYTES_MAX};
use proptest::prelude::*;

const PRIVATE: &str = "url_address";

/// Spellings that must never become a target, with the reason given.
const FORBIDDEN: &[(&str, &str)] = &[
    // Other schemes, and no scheme.
    ("http://hooks.shop.com/", "url_scheme"),
    ("HTTP://hooks.shop.com/", "url_scheme"),
    ("http://localhost/", "url_scheme"),
    ("http://127.0.0.1/", "url_scheme"),
    ("ftp://hooks.shop.com/", "url_scheme"),
    ("file:///etc/passwd", "url_scheme"),
    ("gopher://127.0.0.1:70/", "url_scheme"),
    ("dict://127.0.0.1:11211/", "url_scheme"),
    ("ws://hooks.shop.com/", "url_scheme"),
    ("wss://hooks.shop.com/", "url_scheme"),
    ("data:text/html,x", "url_scheme"),
    ("javascript:alert(1)", "url_scheme"),
    ("unix:/run/docker.sock", "url_scheme"),
    ("jar:https://hooks.shop.com!/", "url_scheme"),
    ("blob:https://hooks.shop.com/1", "url_scheme"),
    ("view-source:https://hooks.shop.com/", "url_scheme"),
    ("", "url_malformed"),
    ("hooks.shop.com", "url_malformed"),
    ("//hooks.shop.com/", "url_malformed"),
    ("/hook", "url_malformed"),
    ("https", "url_malformed"),
    // Shapes that lenient parsers repair.
    ("https:hooks.shop.com/", "url_malformed"),
    ("https:/hooks.shop.com/", "url_malformed"),
    ("https:///hooks.shop.com/", "url_host"),
    ("https:////127.0.0.1/", "url_host"),
    ("https://", "url_host"),
    ("https:///", "url_host"),
    ("https://?x", "url_host"),
    ("https://:443/", "url_host"),
    ("https:\\\\hooks.shop.com\\", "url_malformed"),
    ("https://hooks.shop.com\\@127.0.0.1/", "url_malformed"),
    (" https://hooks.shop.com/", "url_malformed"),
    ("https://hooks.shop.com/ ", "url_malformed"),
    ("https://hooks.shop.com/a b", "url_malformed"),
    ("https://127.0.0.1 .hooks.shop.com/", "url_malformed"),
    ("https://hooks.shop.com\t/", "url_malformed"),
    ("https://127.0.\n0.1/", "url_malformed"),
    ("ht\ntps://hooks.shop.com/", "url_malformed"),
    ("https://hooks.shop.com/\r\nHost: inside", "url_malformed"),
    ("https://hooks.shop.com/\0", "url_malformed"),
    ("https://hooks.shop.com/\u{7f}", "url_malformed"),
    ("https://hooks.shop.com/\u{85}", "url_malformed"),
    ("https://hooks.shop.com/\u{2028}", "url_malformed"),
    ("https://hooks.shop.com/\u{a0}", "url_malformed"),
    ("\u{feff}https://hooks.shop.com/", "url_scheme"),
    // User-info, real and disguised.
    ("https://user@hooks.shop.com/", "url_user_info"),
    ("https://user:password@hooks.shop.com/", "url_user_info"),
    ("https://@hooks.shop.com/", "url_user_info"),
    ("https://:@hooks.shop.com/", "url_user_info"),
    ("https://hooks.shop.com@127.0.0.1/", "url_user_info"),
    ("https://hooks.shop.com:443@127.0.0.1/", "url_user_info"),
    ("https://127.0.0.1@hooks.shop.com/", "url_user_info"),
    ("https://a@b@hooks.shop.com/", "url_user_info"),
    // Fragments.
    ("https://hooks.shop.com/#x", "url_fragment"),
    ("https://hooks.shop.com#", "url_fragment"),
    ("https://hooks.shop.com#@127.0.0.1/", "url_fragment"),
    // Ports.
    ("https://hooks.shop.com:80/", "url_port"),
    ("https://hooks.shop.com:22/", "url_port"),
    ("https://hooks.shop.com:25/", "url_port"),
    ("https://hooks.shop.com:0/", "url_port"),
    ("https://hooks.shop.com:8080/", "url_port"),
    ("https://hooks.shop.com:6379/", "url_port"),
    ("https://hooks.shop.com:65535/", "url_port"),
    ("https://8.8.8.8:53/", "url_port"),
    ("https://hooks.shop.com:65979/", "url_host"),
    ("https://hooks.shop.com:-443/", "url_host"),
    ("https://hooks.shop.com:+443/", "url_host"),
    ("https://hooks.shop.com:4 43/", "url_malformed"),
    ("https://hooks.shop.com:443:443/", "url_host"),
    ("https://hooks.shop.com:0x1bb/", "url_host"),
    // Names of local networks.
    ("https://localhost/", "url_local_name"),
    ("https://LOCALHOST/", "url_local_name"),
    ("https://localhost./", "url_local_name"),
    ("https://localhost:8443/", "url_local_name"),
    ("https://a.localhost/", "url_local_name"),
    ("https://ⓛⓞⓒⓐⓛⓗⓞⓢⓣ/", "url_local_name"),
    ("https://ｌｏｃａｌｈｏｓｔ/", "url_local_name"),
    ("https://printer.local/", "url_local_name"),
    ("https://metadata.google.internal/", "url_local_name"),
    ("https://router.home.arpa/", "url_local_name"),
    ("https://abc.onion/", "url_local_name"),
    ("https://intranet/", "url_local_name"),
    ("https://postgres:8443/", "url_local_name"),
    // Hosts that are no hosts.
    ("https://.shop.com/", "url_host"),
    ("https://hooks..shop.com/", "url_host"),
    ("https://hooks.shop.com../", "url_host"),
    ("https://./", "url_host"),
    ("https://-hooks.shop.com/", "url_host"),
    ("https://hooks-.shop.com/", "url_host"),
    ("https://hooks*.shop.com/", "url_host"),
    ("https://hooks,shop.com/", "url_host"),
    ("https://hooks;shop.com/", "url_host"),
    ("https://hooks!shop.com/", "url_host"),
    ("https://hooks|shop.com/", "url_host"),
    ("https://<hooks>.shop.com/", "url_host"),
    ("https://xn--a/", "url_host"),
    ("https://xn--.shop.com/", "url_host"),
    ("https://\u{200b}/", "url_host"),
    ("https://%68ooks.shop.com/", "url_host"),
    ("https://127.0.0.1%2f.shop.com/", "url_host"),
    ("https://%31%32%37.0.0.1/", "url_host"),
    ("https://hooks.shop.com%00.evil.com/", "url_host"),
    ("https://hooks.shop.com%23.evil.com/", "url_host"),
    ("https://1.2.3.4.5/", "url_host"),
    ("https://127.0.0.256/", "url_host"),
    ("https://4294967296/", "url_host"),
    ("https://0x1ffffffff/", "url_host"),
    ("https://08.8.8.8/", "url_host"),
    ("https://8.8.8.8.0x/", "url_host"),
    ("https://[::1/", "url_host"),
    ("https://::1/", "url_host"),
    ("https://[fe80::1%25eth0]/", "url_host"),
    ("https://[fe80::1%eth0]/", "url_host"),
    ("https://[127.0.0.1]/", "url_host"),
    ("https://[v1.x]/", "url_host"),
    ("https://[]/", "url_host"),
    // IPv4 in every notation that the system's own parsers have ever understood.
    ("https://127.0.0.1/", PRIVATE),
    ("https://127.0.0.1./", PRIVATE),
    ("https://127.1/", PRIVATE),
    ("https://127.0.1/", PRIVATE),
    ("https://2130706433/", PRIVATE),
    ("https://2130706433./", PRIVATE),
    ("https://0x7f000001/", PRIVATE),
    ("https://0X7F.0.0.1/", PRIVATE),
    ("https://0x7f.1/", PRIVATE),
    ("https://0177.0.0.1/", PRIVATE),
    ("https://017700000001/", PRIVATE),
    ("https://00000177.0x0.0.01/", PRIVATE),
    ("https://127.0.0.1:8443/", PRIVATE),
    ("https://１２７.０.０.１/", PRIVATE),
    ("https://127。0。0。1/", PRIVATE),
    ("https://①②⑦.⓪.⓪.①/", PRIVATE),
    ("https://0/", PRIVATE),
    ("https://0x/", PRIVATE),
    ("https://0.0.0.0/", PRIVATE),
    ("https://10.0.0.1/", PRIVATE),
    ("https://10.1/", PRIVATE),
    ("https://167772161/", PRIVATE),
    ("https://012.0.0.1/", PRIVATE),
    ("https://100.64.0.1/", PRIVATE),
    ("https://169.254.169.254/latest/meta-data/", PRIVATE),
    ("https://2852039166/", PRIVATE),
    ("https://0xa9fea9fe/", PRIVATE),
    ("https://0251.0376.0251.0376/", PRIVATE),
    ("https://172.16.0.1/", PRIVATE),
    ("https://172.31.255.255/", PRIVATE),
    ("https://192.0.0.192/", PRIVATE),
    ("https://192.0.2.1/", PRIVATE),
    ("https://192.88.99.1/", PRIVATE),
    ("https://192.168.0.1/", PRIVATE),
    ("https://192.168.1/", PRIVATE),
    ("https://198.18.0.1/", PRIVATE),
    ("https://198.51.100.1/", PRIVATE),
    ("https://203.0.113.1/", PRIVATE),
    ("https://224.0.0.1/", PRIVATE),
    ("https://240.0.0.1/", PRIVATE),
    ("https://255.255.255.255/", PRIVATE),
    ("https://4294967295/", PRIVATE),
    // IPv6, and IPv4 inside of it.
    ("https://[::]/", PRIVATE),
    ("https://[::1]/", PRIVATE),
    ("https://[0:0:0:0:0:0:0:1]/", PRIVATE),
    ("https://[0000:0000:0000:0000:0000:0000:0000:0001]/", PRIVATE),
    ("https://[::ffff:127.0.0.1]/", PRIVATE),
    ("https://[::ffff:7f00:1]/", PRIVATE),
    ("https://[::FFFF:A9FE:A9FE]/", PRIVATE),
    ("https://[::127.0.0.1]/", PRIVATE),
    ("https://[::7f00:1]/", PRIVATE),
    ("https://[::8.8.8.8]/", PRIVATE),
    ("https://[64:ff9b::127.0.0.1]/", PRIVATE),
    ("https://[64:ff9b::a9fe:a9fe]/", PRIVATE),
    ("https://[64:ff9b:1::8.8.8.8]/", PRIVATE),
    ("https://[2002:7f00:1::]/", PRIVATE),
    ("https://[2002:a9fe:a9fe::1]/", PRIVATE),
    ("https://[2002:808:808::1]/", PRIVATE),
    ("https://[2001::1]/", PRIVATE),
    ("https://[2001:0:4136:e378:8000:63bf:3fff:fdd2]/", PRIVATE),
    ("https://[2001:db8::1]/", PRIVATE),
    ("https://[2001:10::1]/", PRIVATE),
    ("https://[2001:20::1]/", PRIVATE),
    ("https://[3fff::1]/", PRIVATE),
    ("https://[100::1]/", PRIVATE),
    ("https://[5f00::1]/", PRIVATE),
    ("https://[fc00::1]/", PRIVATE),
    ("https://[fd00:ec2::254]/", PRIVATE),
    ("https://[fe80::1]/", PRIVATE),
    ("https://[fec0::1]/", PRIVATE),
    ("https://[ff02::1]/", PRIVATE),
    ("https://[1::1]/", PRIVATE),
    ("https://[4000::1]/", PRIVATE),
    ("https://[ffff::1]/", PRIVATE),
];

#[test]
fn forbidden_spellings_never_become_a_target() {
    assert!(FORBIDDEN.len() >= 112, "{} rows", FORBIDDEN.len());
    let policy = Policy::default();
    let wrong: Vec<_> = FORBIDDEN
        .iter()
        .map(|&(url, reason)| (url, reason, Target::parse(url, &policy).map(|t| t.url()).map_err(|r| r.code())))
        .filter(|(_, reason, answer)| answer.as_ref().err() != Some(reason))
        .collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn an_allowed_url_has_one_canonical_form() {
    let rows = [
        ("https://hooks.shop.com", "https://hooks.shop.com/"),
        ("HTTPS://Hooks.SHOP.com:443/A?b=C", "https://hooks.shop.com/A?b=C"),
        ("https://hooks.shop.com./x", "https://hooks.shop.com/x"),
        ("https://hooks.shop.com:8443/", "https://hooks.shop.com:8443/"),
        ("https://hooks.shop.com:00443/", "https://hooks.shop.com/"),
        ("https://hooks.shop.com:/", "https://hooks.shop.com/"),
        ("https://hooks.shop.com?x", "https://hooks.shop.com/?x"),
        ("https://hooks.shop.com/a/../b/./c", "https://hooks.shop.com/b/c"),
        ("https://hooks.shop.com/%2e%2e/@x:y", "https://hooks.shop.com/@x:y"),
        ("https://hooks.shop.com/é?ü", "https://hooks.shop.com/%C3%A9?%C3%BC"),
        ("https://bücher.example.com/", "https://xn--bcher-kva.example.com/"),
        ("https://xn--bcher-kva.example.com/", "https://xn--bcher-kva.example.com/"),
        ("https://under_score.shop.com/", "https://under_score.shop.com/"),
        ("https://8.8.8.8/", "https://8.8.8.8/"),
        ("https://134744072/", "https://8.8.8.8/"),
        ("https://0x08080808/", "https://8.8.8.8/"),
        ("https://010.010.010.010/", "https://8.8.8.8/"),
        ("https://[::ffff:8.8.8.8]/", "https://8.8.8.8/"),
        ("https://[64:FF9B::8.8.8.8]/", "https://[64:ff9b::808:808]/"),
        ("https://[2606:4700:0:0::1111]:8443/", "https://[2606:4700::1111]:8443/"),
    ];
    let policy = Policy::default();
    for (given, canonical) in rows {
        let target = Target::parse(given, &policy).expect(given);
        assert_eq!(target.url(), canonical, "{given}");
        assert_eq!(target.scheme(), Scheme::Https);
        assert_eq!(Target::parse(canonical, &policy).expect(canonical), target, "canonical is a fixed point");
    }
}

#[test]
fn a_sandbox_opens_loopback_over_http_on_any_port_and_nothing_more() {
    let policy = Policy { dangerous_allow_http_loopback: true, ..Policy::default() };
    let open = [
        "http://127.0.0.1:9000/hook",
        "http://127.9.9.9/",
        "http://[::1]:9000/",
        "http://localhost:9000/",
        "http://LOCALHOST.:9000/",
        "http://a.localhost:1/",
        "https://localhost:9443/",
        "https://127.0.0.1:9443/",
        "http://[::ffff:127.0.0.1]:9000/",
        "https://hooks.shop.com/",
    ];
    for url in open {
        assert!(Target::parse(url, &policy).is_ok(), "{url}");
    }
    let closed = [
        ("http://hooks.shop.com/", "url_scheme"),
        ("http://8.8.8.8/", "url_scheme"),
        ("http://10.0.0.1/", "url_scheme"),
        ("http://0.0.0.0:9000/", "url_scheme"),
        ("http://localhost.shop.com/", "url_scheme"),
        ("http://notlocalhost/", "url_scheme"),
        ("https://10.0.0.1/", "url_address"),
        ("https://hooks.shop.com:9000/", "url_port"),
        ("https://intranet/", "url_local_name"),
        ("http://u@127.0.0.1/", "url_user_info"),
    ];
    for (url, reason) in closed {
        assert_eq!(Target::parse(url, &policy).map_err(|r| r.code()).err(), Some(reason), "{url}");
    }
}

#[test]
fn inside_networks_make_inside_names_and_addresses_callable() {
    let inside = vec!["10.0.0.0/8".parse().expect("a network")];
    let policy = Policy { dangerous_allow_networks: inside, ..Policy::default() };
    for url in ["https://receiver/", "https://receiver.internal/", "https://10.1.2.3/"] {
        assert!(Target::parse(url, &policy).is_ok(), "{url}");
    }
    assert_eq!(Target::parse("http://10.1.2.3/", &policy), Err(Refused::Scheme));
    assert_eq!(Target::parse("https://10.1.2.3:9000/", &policy), Err(Refused::Port { port: 9000 }));
    assert!(Target::parse("https://192.168.0.1/", &policy).is_err());
}

#[test]
fn a_target_is_judged_again_under_a_changed_policy() {
    let sandbox = Policy { dangerous_allow_http_loopback: true, ..Policy::default() };
    let target = Target::parse("http://127.0.0.1:9000/", &sandbox).expect("sandboxed");
    assert_eq!(target.check(&sandbox), Ok(()));
    assert_eq!(target.check(&Policy::default()), Err(Refused::Scheme));
}

#[test]
fn length_is_bounded_before_and_after_encoding() {
    let policy = Policy::default();
    let of_length = |bytes: usize| format!("https://hooks.shop.com/{}", "a".repeat(bytes - 23));
    assert!(Target::parse(&of_length(URL_BYTES_MAX), &policy).is_ok());
    assert_eq!(Target::parse(&of_length(URL_BYTES_MAX + 1), &policy), Err(Refused::TooLong));
    let grows = format!("https://hooks.shop.com/{}", "é".repeat(900));
    assert_eq!(Target::parse(&grows, &policy), Err(Refused::TooLong), "one é is six bytes on the wire");
    let label = "a".repeat(64);
    assert_eq!(Target::parse(&format!("https://{label}.com/"), &policy), Err(Refused::Host));
    let name = "a.".repeat(127) + "com";
    assert_eq!(Target::parse(&format!("https://{name}/"), &policy), Err(Refused::Host));
}

#[test]
fn messages_name_the_field_and_keep_our_network_to_themselves() {
    for (url, _) in FORBIDDEN {
        let refused = Target::parse(url, &Policy::default()).expect_err(url);
        assert!(refused.to_string().starts_with("url "), "{refused}");
    }
    let refused = Target::parse("https://10.0.0.1/", &Policy::default()).expect_err("private");
    assert!(!refused.to_string().contains("private"), "{refused}");
}

proptest! {
    #[test]
    fn whatever_is_accepted_is_stable_and_clean(url in "https?://[ -~é。１]{0,40}(/[ -~]{0,20})?") {
        for sandboxed in [false, true] {
            let policy = Policy { dangerous_allow_http_loopback: sandboxed, ..Policy::default() };
            let Ok(target) = Target::parse(&url, &policy) else { continue };
            let canonical = target.url();
            prop_assert!(canonical.is_ascii() && !canonical.contains(['#', ' ', '\\']));
            let again = Target::parse(&canonical, &policy);
            prop_assert_eq!(again.as_ref(), Ok(&target));
            if let Host::Address(ip) = target.host() {
                prop_assert!(domain::egress::is_allowed(*ip, &policy));
            }
        }
    }

    #[test]
    fn no_text_makes_it_panic(url in ".{0,200}") {
        let _ = Target::parse(&url, &Policy::default());
        let _ = Target::parse(&format!("https://{url}"), &Policy::default());
    }
}
