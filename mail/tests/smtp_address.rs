//! Addresses, paths, patterns and header mailboxes: what is accepted, how it is kept, and what is refused.
#![expect(clippy::unwrap_used, reason = "tests")]

use mail::address::{Address, AddressError, ForwardPath, Mailbox, ReversePath, SenderPattern};
use proptest::prelude::*;

fn address(text: &str) -> Address {
    Address::parse(text).unwrap()
}

#[test]
fn an_address_keeps_its_local_part_and_lowers_its_domain() {
    // RFC 5321 §2.4 (case), RFC 5890 §2.3.2.1 (A-labels)
    for (given, kept) in [
        ("a@b", "a@b"),
        ("John.Doe@Example.ORG", "John.Doe@example.org"),
        ("user%other@x.org", "user%other@x.org"),
        ("a!b@x.org", "a!b@x.org"),
        ("!#$%&'*+-/=?^_`{|}~@x.org", "!#$%&'*+-/=?^_`{|}~@x.org"),
        ("\"john doe\"@x.org", "\"john doe\"@x.org"),
        ("\"a@b\"@x.org", "\"a@b\"@x.org"),
        ("\"a\\\"b\"@x.org", "\"a\\\"b\"@x.org"),
        ("\"\"@x.org", "\"\"@x.org"),
        ("u@bücher.example", "u@xn--bcher-kva.example"),
        ("u@XN--BCHER-KVA.example", "u@xn--bcher-kva.example"),
        ("u@BÜCHER.example", "u@xn--bcher-kva.example"),
        ("用户@例子.example", "用户@xn--fsqu00a.example"),
        ("u@[192.0.2.1]", "u@[192.0.2.1]"),
        ("u@[ipv6:2001:DB8:0::1]", "u@[IPv6:2001:db8::1]"),
        ("u@123.example", "u@123.example"),
        ("u@r3---sn.example", "u@r3---sn.example"),
    ] {
        let parsed = Address::parse(given).unwrap_or_else(|e| panic!("{given}: {e}"));
        assert_eq!(parsed.as_str(), kept);
        assert_eq!(format!("{}@{}", parsed.local(), parsed.domain()), kept);
    }
    assert!(address("u@[192.0.2.1]").is_literal());
    assert!(!address("用户@example.org").is_ascii());
}

#[test]
fn what_breaks_the_grammar_is_refused_by_name() {
    use AddressError::*;
    for (given, error) in [
        ("", Empty),
        ("a", AtMissing),
        ("\"a\"", AtMissing),
        ("\"a\"b@x", AtMissing),
        ("@x", LocalPart),
        ("a..b@x", LocalPart),
        (".a@x", LocalPart),
        ("a.@x", LocalPart),
        ("a b@x", LocalPart),
        (" a@x", LocalPart),
        ("a(c)@x", LocalPart),
        ("<a@x>", LocalPart),
        ("\"a@x", LocalPart),
        ("\"a\\@x", LocalPart),
        ("\"a\\é\"@x", LocalPart),
        ("a\u{2028}b@x", LocalPart),
        ("a\u{fffd}b@x", LocalPart),
        ("a@", Domain),
        ("a@x.", Domain),
        ("a@.x", Domain),
        ("a@x..y", Domain),
        ("a@-x", Domain),
        ("a@x-", Domain),
        ("a@x_y", Domain),
        ("a@b@c", Domain),
        ("a@x y", Domain),
        ("a@x>", Domain),
        ("a@xn--", Domain),
        ("a@xn--zzzzzzzz999", Domain),
        ("a@ex\u{200b}\u{ad}\u{fffd}.org", Domain),
        ("a@[192.0.2]", Literal),
        ("a@[192.0.2.1", Literal),
        ("a@[192.0.2.01]", Literal),
        ("a@[IPv6:zz]", Literal),
        ("a@[x:y]", Literal),
        ("a@[]", Literal),
        ("a\r\nb@x", ControlCharacter),
        ("a\0@x", ControlCharacter),
        ("\"a\n\"@x", ControlCharacter),
        ("a@x\r", ControlCharacter),
        ("a\u{85}@x", ControlCharacter),
        ("a\t@x", ControlCharacter),
        ("a@\u{7f}x", ControlCharacter),
    ] {
        assert_eq!(Address::parse(given), Err(error), "{given:?}");
    }
}

#[test]
fn lengths_are_counted_in_octets_up_to_their_limit() {
    // RFC 5321 §4.5.3.1: 64, 255, 256 less two brackets
    for (octets, accepted) in [(63, true), (64, true), (65, false)] {
        assert_eq!(Address::parse(&format!("{}@x", "l".repeat(octets))).is_ok(), accepted, "{octets}");
    }
    assert!(Address::parse(&format!("{}@x", "é".repeat(32))).is_ok());
    assert_eq!(Address::parse(&format!("{}@x", "é".repeat(33))), Err(AddressError::LocalPartTooLong));
    for (octets, accepted) in [(62, true), (63, true), (64, false)] {
        assert_eq!(Address::parse(&format!("l@{}", "d".repeat(octets))).is_ok(), accepted, "{octets}");
    }
    let domain = |octets: usize| "d.".repeat(octets / 2 + 1)[..octets].to_owned();
    for (octets, accepted) in [(251, true), (253, false)] {
        assert_eq!(Address::parse(&format!("l1@{}", domain(octets))).is_ok(), accepted, "{octets}");
    }
    assert_eq!(Address::parse(&format!("l@{}", domain(253))), Err(AddressError::TooLong));
    assert_eq!(Address::parse(&format!("l@{}", domain(257))), Err(AddressError::DomainTooLong));
    assert_eq!(Address::parse(&format!("l@{}", "é".repeat(100_000))), Err(AddressError::DomainTooLong));
}

#[test]
fn the_canonical_form_ignores_case_and_needless_quotes_only() {
    // RFC 5321 §4.1.2: quoted and unquoted forms of one string are equivalent
    for (given, canonical) in [
        ("John.Doe@Example.org", "john.doe@example.org"),
        ("\"John.Doe\"@example.org", "john.doe@example.org"),
        ("\"J\\ohn\"@example.org", "john@example.org"),
        ("\"John Doe\"@example.org", "\"john doe\"@example.org"),
        ("\"John\\ Doe\"@example.org", "\"john doe\"@example.org"),
        ("\"a\\\\b\\\"\"@example.org", "\"a\\\\b\\\"\"@example.org"),
        ("ÄB@example.org", "äb@example.org"),
        ("ΑΣ@example.org", "ασ@example.org"),
    ] {
        assert_eq!(address(given).canonical(), canonical);
    }
}

#[test]
fn a_tag_is_what_follows_the_first_plus() {
    // RFC 5233
    let tagged = address("User+news+1@example.org");
    assert_eq!((tagged.base_local(), tagged.tag()), ("User", Some("news+1")));
    assert_eq!(tagged.without_tag(), Some(address("User@example.org")));
    assert_eq!(address("u+@example.org").base_local(), "u");
    for untagged in ["user@example.org", "+tag@example.org", "\"u+tag\"@example.org"] {
        let untagged = address(untagged);
        assert_eq!((untagged.base_local(), untagged.tag()), (untagged.local(), None));
        assert_eq!(untagged.without_tag(), None);
    }
}

#[test]
fn paths_know_the_null_sender_the_bare_postmaster_and_drop_routes() {
    // RFC 5321 §4.5.5, §4.1.1.3, appendix C
    assert_eq!(ReversePath::parse("<>"), Ok(ReversePath::Null));
    assert_eq!(ReversePath::parse("<a@x>"), Ok(address("a@x").into()));
    assert_eq!(ForwardPath::parse("<PostMaster>"), Ok(ForwardPath::Postmaster));
    assert_eq!(ForwardPath::parse("<@r1,@r2:u@x>"), Ok(address("u@x").into()));
    assert_eq!(ForwardPath::parse("<@r1:u@[IPv6:::1]>"), Ok(address("u@[IPv6:::1]").into()));
    assert_eq!(ForwardPath::parse("<>"), Err(AddressError::Empty));
    assert_eq!(ReversePath::parse("<postmaster>"), Err(AddressError::AtMissing));
    for broken in ["a@x", "<a@x", "a@x>", "<@r1>", "<@r1,r2:u@x>", "<@:u@x>", "<@r1,:u@x>", "<<a@x>>", "< a@x>"] {
        assert!(ForwardPath::parse(broken).is_err(), "{broken}");
    }
    let long_route = format!("<{}:u@x>", vec!["@relay.example.org"; 20].join(","));
    assert_eq!(ForwardPath::parse(&long_route), Err(AddressError::TooLong));
}

#[test]
fn a_sender_pattern_matches_one_address_or_one_domain_exactly() {
    for (pattern, normalised, sender, matches) in [
        ("Bob@Example.org", "bob@example.org", "<BOB@example.ORG>", true),
        ("bob@example.org", "bob@example.org", "<bob2@example.org>", false),
        ("bob@example.org", "bob@example.org", "<\"bob\"@example.org>", true),
        ("Example.org", "example.org", "<x@example.org>", true),
        ("*@Example.org", "example.org", "<x@EXAMPLE.org>", true),
        ("example.org", "example.org", "<x@sub.example.org>", false),
        ("example.org", "example.org", "<x@badexample.org>", false),
        ("*@bücher.example", "xn--bcher-kva.example", "<x@xn--bcher-kva.example>", true),
        ("example.org", "example.org", "<>", false),
    ] {
        let parsed = SenderPattern::parse(pattern).unwrap();
        assert_eq!(parsed.as_str(), normalised);
        assert_eq!(parsed.matches(&ReversePath::parse(sender).unwrap()), matches, "{pattern} {sender}");
    }
    // The one sender called `*` is not everybody.
    let star = SenderPattern::parse("\"*\"@example.org").unwrap();
    assert_eq!(SenderPattern::parse(star.as_str()).as_ref(), Ok(&star));
    assert!(!star.is_domain() && star.matches_address(&address("*@example.org")));
    for broken in ["", "*", "*@", "@example.org", "*.example.org", "b*@example.org@", "a b", "x\r\n.org", "*@*"] {
        assert!(SenderPattern::parse(broken).is_err(), "{broken}");
    }
}

#[test]
fn all_of_them_are_strings_in_json() {
    let json = |value: serde_json::Value| value.to_string();
    assert_eq!(json(serde_json::to_value(address("a@X.org")).unwrap()), "\"a@x.org\"");
    assert_eq!(serde_json::from_str::<Address>("\"a@X.org\"").unwrap(), address("a@x.org"));
    assert_eq!(serde_json::from_str::<Address>("\"\\u0061@X.org\"").unwrap(), address("a@x.org"));
    assert!(serde_json::from_str::<Address>("\"a\\r\\n@x.org\"").is_err());
    assert_eq!(serde_json::from_str::<ReversePath>("\"\"").unwrap(), ReversePath::Null);
    assert_eq!(serde_json::to_string(&ReversePath::Null).unwrap(), "\"\"");
    assert_eq!(serde_json::from_str::<ForwardPath>("\"postmaster\"").unwrap(), ForwardPath::Postmaster);
    assert_eq!(serde_json::to_string(&ForwardPath::Postmaster).unwrap(), "\"postmaster\"");
    assert_eq!(serde_json::from_str::<SenderPattern>("\"*@X.org\"").unwrap().as_str(), "x.org");
}

#[test]
fn a_header_mailbox_keeps_what_can_be_shown() {
    let mailbox = Mailbox::new(Some(" Doe,\r\n \"J\" "), "j@x.org");
    assert_eq!(mailbox.to_string(), "\"Doe,   \\\"J\\\"\" <j@x.org>");
    assert_eq!(mailbox.parse_address(), Ok(address("j@x.org")));
    assert_eq!(Mailbox::new(Some(" \t"), "j@x.org").name(), None);
    assert_eq!(Mailbox::new(Some("Ann Lee"), "not an address").to_string(), "Ann Lee <not an address>");
    // A control character does not vanish: the remains would be a valid address that nobody wrote.
    assert!(Mailbox::new(None, "j\0@x.org").parse_address().is_err());
    assert_eq!(Mailbox::new(Some(&"é".repeat(1000)), "a@x").name().map(str::len), Some(998));
    let json = serde_json::to_string(&mailbox).unwrap();
    assert_eq!(serde_json::from_str::<Mailbox>(&json).unwrap(), mailbox);
}

fn any_local() -> impl Strategy<Value = String> {
    prop_oneof![
        "[a-zA-Z0-9!#$%&'*+/=?^_`{|}~.-]{1,66}",
        "\"([ -!#-\\[\\]-~]|\\\\[ -~]){0,30}\"",
        "[a-zäöüßΣσςİKa用]{1,20}",
        "\"\\PC{0,12}\"",
    ]
}

fn any_domain() -> impl Strategy<Value = String> {
    prop_oneof![
        "[a-zA-Z0-9-]{1,64}(\\.[a-zA-Z0-9-]{1,20}){0,4}",
        "[a-zäöüßΣς用א1-]{1,12}\\.example",
        "xn--[a-z0-9-]{1,12}",
        "\\[(IPv6:)?[0-9a-f:.]{1,20}\\]",
    ]
}

proptest! {
    #[test]
    fn display_reads_back_as_the_same_address(local in any_local(), domain in any_domain()) {
        if let Ok(parsed) = Address::parse(&format!("{local}@{domain}")) {
            let shown = parsed.to_string();
            prop_assert_eq!(Address::parse(&shown), Ok(parsed.clone()));
            prop_assert_eq!(parsed.local(), local);
            prop_assert!(parsed.as_str().len() <= 254);
            let path = ReversePath::Address(parsed.clone());
            prop_assert_eq!(ReversePath::parse(&path.to_string()), Ok(path));
            if let Ok(canonical) = Address::parse(&parsed.canonical()) {
                prop_assert_eq!(canonical.canonical(), parsed.canonical());
            }
            if let Ok(pattern) = SenderPattern::parse(parsed.as_str()) {
                prop_assert!(pattern.matches_address(&parsed));
                prop_assert_eq!(SenderPattern::parse(pattern.as_str()), Ok(pattern));
            }
            let everyone = SenderPattern::parse(&format!("*@{}", parsed.domain())).unwrap();
            prop_assert!(everyone.matches_address(&parsed));
        }
    }

    #[test]
    fn no_accepted_text_ever_contains_cr_lf_or_nul(text in "(\\PC|[\\x00-\\x1f\"@<>.\\\\]|[a-z]){0,40}") {
        for kept in [
            Address::parse(&text).map(|a| a.to_string()),
            ReversePath::parse(&text).map(|a| a.to_string()),
            ForwardPath::parse(&text).map(|a| a.to_string()),
            SenderPattern::parse(&text).map(|a| a.to_string()),
            Ok(Mailbox::new(Some(&text), &text).to_string()),
        ].into_iter().flatten() {
            prop_assert!(!kept.contains(['\r', '\n', '\0']));
        }
    }
}
