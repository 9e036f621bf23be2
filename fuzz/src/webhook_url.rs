//! URLs that strangers want called: what is accepted leads to a public place, and every reader reads it the same way.

use std::net::IpAddr;

use domain::egress::{Host, Policy, Scheme, Target, URL_BYTES_MAX, is_allowed};

pub fn run(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let policy = Policy::default();
    let Ok(target) = Target::parse(&text, &policy) else { return };
    assert_eq!(target.scheme(), Scheme::Https);
    assert!(policy.ports.contains(&target.port()));
    assert!(target.check(&policy).is_ok() && !target.is_loopback());
    let url = target.url();
    assert!(url.len() <= URL_BYTES_MAX && url.bytes().all(|octet| octet.is_ascii_graphic()), "{url:?}");
    assert_eq!(Target::parse(&url, &policy).expect("it reads back"), target, "the canonical form is canonical");
    // Another reading of the same text must lead to the same host.
    let read = url::Url::parse(&text).expect("it was read");
    let again = url::Url::parse(&url).expect("it reads back");
    assert_eq!(Some(leads_to(&read)), again.host_str().map(str::to_owned), "{text:?}");
    assert!(again.username().is_empty() && again.password().is_none() && again.fragment().is_none());
    match target.host() {
        Host::Address(ip) => {
            assert!(is_allowed(*ip, &policy), "{ip}");
            assert!(is_public(*ip), "{ip} is not public");
        }
        Host::Name(name) => {
            assert!(name.contains('.') && name.len() <= 253);
            assert!(name.parse::<IpAddr>().is_err(), "{name} is an address in another spelling");
            let last = name.rsplit('.').next().unwrap_or_default();
            assert!(!last.bytes().all(|octet| octet.is_ascii_digit()), "{name} is an address in another spelling");
        }
    }
}

/// Returns the host a URL leads to as its canonical form writes it: an IPv4 address is the same one when it is written as an
/// IPv6 address (RFC 4291 §2.5.5.2).
fn leads_to(url: &url::Url) -> String {
    let mapped = match url.host() {
        Some(url::Host::Ipv6(ip)) => ip.to_ipv4_mapped(),
        _ => None,
    };
    let written = || url.host_str().unwrap_or_default().trim_end_matches('.').to_owned();
    mapped.map_or_else(written, |ip| ip.to_string())
}

/// What the standard library knows of addresses, as a second opinion.
fn is_public(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => {
            let refused = ip.is_private() || ip.is_loopback() || ip.is_link_local() || ip.is_broadcast();
            !(refused || ip.is_multicast() || ip.is_unspecified() || ip.is_documentation() || ip.octets()[0] == 0)
        }
        IpAddr::V6(ip) => {
            let refused = ip.is_loopback() || ip.is_multicast() || ip.is_unspecified() || ip.is_unique_local();
            let embedded = ip.to_ipv4_mapped().is_some() || matches!(ip.segments(), [0x64, 0xff9b, ..] | [0x2002, ..]);
            !(refused || ip.is_unicast_link_local() || embedded)
        }
    }
}
