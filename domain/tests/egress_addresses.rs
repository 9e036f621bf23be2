//! The address policy against every entry of the two IANA special-purpose address registries, and around them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use domain::egress::{InvalidNetwork, Network, Policy, is_allowed};
use proptest::prelude::*;

/// Block, and whether the address before its first and the one behind its last is allowed (`None`: there is none).
type Row = (&'static str, Option<bool>, Option<bool>);

/// IANA IPv4 Special-Purpose Address Registry (RFC 6890 and later), every row, and multicast (RFC 5771).
const IPV4: [Row; 28] = [
    ("0.0.0.0/8", None, Some(true)),
    ("0.0.0.0/32", None, Some(false)),
    ("10.0.0.0/8", Some(true), Some(true)),
    ("100.64.0.0/10", Some(true), Some(true)),
    ("127.0.0.0/8", Some(true), Some(true)),
    ("169.254.0.0/16", Some(true), Some(true)),
    ("172.16.0.0/12", Some(true), Some(true)),
    ("192.0.0.0/24", Some(true), Some(true)),
    ("192.0.0.0/29", Some(true), Some(false)),
    ("192.0.0.8/32", Some(false), Some(false)),
    ("192.0.0.9/32", Some(false), Some(false)),
    ("192.0.0.10/32", Some(false), Some(false)),
    ("192.0.0.170/32", Some(false), Some(false)),
    ("192.0.0.171/32", Some(false), Some(false)),
    ("192.0.2.0/24", Some(true), Some(true)),
    ("192.31.196.0/24", Some(true), Some(true)),
    ("192.52.193.0/24", Some(true), Some(true)),
    ("192.88.99.0/24", Some(true), Some(true)),
    ("192.88.99.2/32", Some(false), Some(false)),
    ("192.168.0.0/16", Some(true), Some(true)),
    ("192.175.48.0/24", Some(true), Some(true)),
    ("198.18.0.0/15", Some(true), Some(true)),
    ("198.51.100.0/24", Some(true), Some(true)),
    ("203.0.113.0/24", Some(true), Some(true)),
    ("224.0.0.0/4", Some(true), Some(false)),
    ("232.0.0.0/8", Some(false), Some(false)),
    ("240.0.0.0/4", Some(false), None),
    ("255.255.255.255/32", Some(false), None),
];

/// IANA IPv6 Special-Purpose Address Registry, every row but the mapped and NAT64 prefixes, which are judged by what they
/// carry (below), and multicast, site-local and unassigned space (RFC 4291, RFC 3879).
const IPV6: [Row; 28] = [
    ("::1/128", Some(false), Some(false)),
    ("::/128", None, Some(false)),
    ("::/96", None, Some(false)),
    ("64:ff9b:1::/48", Some(false), Some(false)),
    ("100::/64", Some(false), Some(false)),
    ("100:0:0:1::/64", Some(false), Some(false)),
    ("2001::/23", Some(true), Some(true)),
    ("2001::/32", Some(true), Some(false)),
    ("2001:1::1/128", Some(false), Some(false)),
    ("2001:1::2/128", Some(false), Some(false)),
    ("2001:1::3/128", Some(false), Some(false)),
    ("2001:2::/48", Some(false), Some(false)),
    ("2001:3::/32", Some(false), Some(false)),
    ("2001:4:112::/48", Some(false), Some(false)),
    ("2001:10::/28", Some(false), Some(false)),
    ("2001:20::/28", Some(false), Some(false)),
    ("2001:30::/28", Some(false), Some(false)),
    ("2001:db8::/32", Some(true), Some(true)),
    ("2002::/16", Some(true), Some(true)),
    ("2620:4f:8000::/48", Some(true), Some(true)),
    ("3fff::/20", Some(true), Some(true)),
    ("4000::/2", Some(true), Some(false)),
    ("5f00::/16", Some(false), Some(false)),
    ("fc00::/7", Some(false), Some(false)),
    ("fe80::/10", Some(false), Some(false)),
    ("fec0::/10", Some(false), Some(false)),
    ("ff00::/8", Some(false), None),
    ("8000::/1", Some(false), None),
];

fn first_and_last(block: &str) -> (IpAddr, IpAddr) {
    let (base, bits) = block.split_once('/').expect("address/bits");
    let bits: u32 = bits.parse().expect("a number");
    match base.parse().expect("an address") {
        IpAddr::V4(ip) => {
            let last = ip.to_bits() | u32::MAX.checked_shr(bits).unwrap_or(0);
            (IpAddr::V4(ip), IpAddr::V4(Ipv4Addr::from_bits(last)))
        }
        IpAddr::V6(ip) => {
            let last = ip.to_bits() | u128::MAX.checked_shr(bits).unwrap_or(0);
            (IpAddr::V6(ip), IpAddr::V6(Ipv6Addr::from_bits(last)))
        }
    }
}

fn neighbour(ip: IpAddr, step: i8) -> Option<IpAddr> {
    match ip {
        IpAddr::V4(ip) => ip.to_bits().checked_add_signed(step.into()).map(|bits| Ipv4Addr::from_bits(bits).into()),
        IpAddr::V6(ip) => ip.to_bits().checked_add_signed(step.into()).map(|bits| Ipv6Addr::from_bits(bits).into()),
    }
}

fn allowed(text: &str) -> bool {
    is_allowed(text.parse().expect("an address"), &Policy::default())
}

#[test]
fn every_registered_block_is_refused_from_its_first_to_its_last_address_and_no_further() {
    let policy = Policy::default();
    for (block, before, behind) in IPV4.into_iter().chain(IPV6) {
        let (first, last) = first_and_last(block);
        assert!(!is_allowed(first, &policy), "first of {block}");
        assert!(!is_allowed(last, &policy), "last of {block}");
        assert_eq!(neighbour(first, -1).map(|ip| is_allowed(ip, &policy)), before, "before {block}");
        assert_eq!(neighbour(last, 1).map(|ip| is_allowed(ip, &policy)), behind, "behind {block}");
    }
}

#[test]
fn ipv6_is_global_unicast_or_nothing() {
    assert!(!allowed("1fff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"));
    assert!(allowed("2000::"));
    assert!(allowed("2606:4700::1111"));
    assert!(allowed("2a00:1450:4001::1"));
    assert!(allowed("3ffe:ffff:ffff:ffff:ffff:ffff:ffff:ffff"));
    assert!(!allowed("4000::"));
}

/// Every IPv4 block again, inside of IPv6: mapped and NAT64 forms are judged by what they carry, the other forms are
/// refused whatever they carry.
#[test]
fn an_ipv4_address_inside_of_ipv6_is_extracted_and_judged() {
    let policy = Policy::default();
    let embed = |prefix: u128, ip: Ipv4Addr| IpAddr::V6(Ipv6Addr::from_bits(prefix | u128::from(ip.to_bits())));
    let mapped = 0xffff_u128 << 32;
    let nat64 = 0x0064_ff9b_u128 << 96;
    let local_nat64 = 0x0064_ff9b_0001_u128 << 80;
    let six_to_four =
        |ip: Ipv4Addr| IpAddr::V6(Ipv6Addr::from_bits((0x2002_u128 << 112) | (u128::from(ip.to_bits()) << 80) | 1));
    let inside = IPV4.iter().flat_map(|(block, _, _)| {
        let (first, last) = first_and_last(block);
        [first, last]
    });
    for ip in inside {
        let IpAddr::V4(ip) = ip else { unreachable!("the table is of IPv4") };
        for form in [embed(mapped, ip), embed(nat64, ip), embed(local_nat64, ip), embed(0, ip), six_to_four(ip)] {
            assert!(!is_allowed(form, &policy), "{form} carries {ip}");
        }
    }
    let public = Ipv4Addr::new(8, 8, 8, 8);
    assert!(is_allowed(embed(mapped, public), &policy));
    assert!(is_allowed(embed(nat64, public), &policy));
    for form in [embed(local_nat64, public), embed(0, public), six_to_four(public)] {
        assert!(!is_allowed(form, &policy), "{form}");
    }
}

#[test]
fn a_sandbox_reaches_loopback_and_nothing_else_that_is_not_public() {
    let policy = Policy { dangerous_allow_http_loopback: true, ..Policy::default() };
    let allowed = |text: &str| is_allowed(text.parse().expect("an address"), &policy);
    for ip in ["127.0.0.1", "127.255.255.255", "::1", "::ffff:127.0.0.1", "8.8.8.8"] {
        assert!(allowed(ip), "{ip}");
    }
    for ip in ["10.0.0.1", "169.254.169.254", "0.0.0.0", "::", "64:ff9b::127.0.0.1", "::127.0.0.1", "2002:7f00:1::"] {
        assert!(!allowed(ip), "{ip}");
    }
}

#[test]
fn the_operators_networks_open_and_close_ranges() {
    let network = |text: &str| text.parse::<Network>().expect("a network");
    let policy = Policy {
        dangerous_allow_networks: vec![network("10.1.0.0/16"), network("fd00:1::/32")],
        refused_networks: vec![network("10.1.9.0/24"), network("8.8.8.0/24"), network("2606:4700::/32")],
        ..Policy::default()
    };
    let allowed = |text: &str| is_allowed(text.parse().expect("an address"), &policy);
    for ip in ["10.1.0.1", "::ffff:10.1.0.1", "fd00:1::1", "9.9.9.9"] {
        assert!(allowed(ip), "{ip}");
    }
    let refused = ["10.2.0.1", "10.1.9.1", "::ffff:10.1.9.1", "8.8.8.8", "64:ff9b::8.8.8.8", "64:ff9b::10.1.0.1"];
    for ip in refused.into_iter().chain(["fd00:2::1", "2606:4700::1111"]) {
        assert!(!allowed(ip), "{ip}");
    }
}

#[test]
fn a_network_is_written_exactly() {
    for text in ["0.0.0.0/0", "10.0.0.0/8", "127.0.0.1/32", "::/0", "2001:db8::/32", "::1/128"] {
        assert_eq!(text.parse::<Network>().expect(text).to_string(), text);
    }
    let refused = |text: &str| text.parse::<Network>().expect_err(text);
    for text in ["", "10.0.0.0", "10.0.0.0/", "10.0.0.0/+8", "10.0.0.0/0008", "x/8", "10.0.0/8", "host/8", " ::/0"] {
        assert_eq!(refused(text), InvalidNetwork::Malformed, "{text}");
    }
    for text in ["10.0.0.0/33", "::/129", "::/999"] {
        assert_eq!(refused(text), InvalidNetwork::PrefixBits, "{text}");
    }
    for text in ["10.0.0.1/8", "128.0.0.0/0", "2001:db8::1/64", "::1/127"] {
        assert_eq!(refused(text), InvalidNetwork::HostBits, "{text}");
    }
}

#[test]
fn the_policy_is_read_from_configuration() {
    let policy: Policy = serde_json::from_str(r#"{"refused_networks":["198.41.0.0/24"]}"#).expect("a policy");
    assert_eq!(policy.ports, [443, 8443]);
    assert_eq!(policy.refused_networks[0].to_string(), "198.41.0.0/24");
    assert!(!policy.dangerous_allow_http_loopback);
    assert!(serde_json::from_str::<Policy>(r#"{"refused_networks":["198.41.0.1/24"]}"#).is_err());
    assert!(serde_json::from_str::<Policy>(r#"{"allow_everything":true}"#).is_err());
}

proptest! {
    /// A second, independently written reading of the rule for IPv4, by the standard library's classes.
    #[test]
    fn no_allowed_ipv4_address_is_private_in_the_standard_librarys_eyes(bits in any::<u32>()) {
        let ip = Ipv4Addr::from_bits(bits);
        let special = ip.is_private() || ip.is_loopback() || ip.is_link_local() || ip.is_broadcast()
            || ip.is_documentation() || ip.is_multicast() || ip.is_unspecified();
        prop_assert!(!(special && is_allowed(IpAddr::V4(ip), &Policy::default())));
    }

    #[test]
    fn every_form_of_one_ipv4_address_gets_one_answer(bits in any::<u32>()) {
        let ip = Ipv4Addr::from_bits(bits);
        let policy = Policy::default();
        let plain = is_allowed(IpAddr::V4(ip), &policy);
        prop_assert_eq!(plain, is_allowed(IpAddr::V6(ip.to_ipv6_mapped()), &policy));
        let nat64 = Ipv6Addr::from_bits((0x0064_ff9b_u128 << 96) | u128::from(bits));
        prop_assert_eq!(plain, is_allowed(IpAddr::V6(nat64), &policy));
    }

    #[test]
    fn no_ipv6_address_outside_of_2000_3_is_allowed_unless_it_carries_ipv4(bits in any::<u128>()) {
        let ip = Ipv6Addr::from_bits(bits);
        let global = bits >> 125 == 1;
        prop_assume!(!global);
        prop_assume!(ip.to_ipv4_mapped().is_none() && bits >> 32 != 0x0064_ff9b_u128 << 64);
        prop_assert!(!is_allowed(IpAddr::V6(ip), &Policy::default()));
    }
}
