//! Which IP addresses a stranger's URL may lead to: global unicast and nothing else.
//!
//! The rule is an allow-list. IPv4 is what the IANA special-purpose registry (RFC 6890) and the multicast and
//! reserved ranges leave over; IPv6 is `2000::/3` without the special blocks inside it. A name is attached to each
//! block only so that the operator's log can say why an address was refused.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::Policy;

/// A range of addresses that share their first bits, written `10.0.0.0/8` or `2001:db8::/32` (RFC 4632, RFC 4291 2.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Network {
    base: IpAddr,
    prefix_bits: u8,
}

/// Why a text is not a [`Network`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidNetwork {
    /// Not `address/bits`.
    #[error("a network is written address/bits, as in 10.0.0.0/8")]
    Malformed,
    /// More bits than the address has.
    #[error("a network has at most 32 bits for IPv4 and 128 for IPv6")]
    PrefixBits,
    /// Bits behind the prefix are set, so that the writer may have meant something else.
    #[error("the network's address has bits set behind its prefix")]
    HostBits,
}

impl Network {
    const fn v4(a: u8, b: u8, c: u8, d: u8, prefix_bits: u8) -> Self {
        Self { base: IpAddr::V4(Ipv4Addr::new(a, b, c, d)), prefix_bits }
    }

    const fn v6(first: [u16; 4], prefix_bits: u8) -> Self {
        let base = Ipv6Addr::new(first[0], first[1], first[2], first[3], 0, 0, 0, 0);
        Self { base: IpAddr::V6(base), prefix_bits }
    }

    /// Returns whether the address lies in this range. An IPv4 address never lies in an IPv6 range.
    pub const fn contains(&self, ip: IpAddr) -> bool {
        match (self.base, ip) {
            (IpAddr::V4(base), IpAddr::V4(ip)) => {
                let shift = 32 - self.prefix_bits as u32;
                shift == 32 || (base.to_bits() ^ ip.to_bits()) >> shift == 0
            }
            (IpAddr::V6(base), IpAddr::V6(ip)) => {
                let shift = 128 - self.prefix_bits as u32;
                shift == 128 || (base.to_bits() ^ ip.to_bits()) >> shift == 0
            }
            _ => false,
        }
    }
}

impl FromStr for Network {
    type Err = InvalidNetwork;

    fn from_str(text: &str) -> Result<Self, InvalidNetwork> {
        let (base, bits) = text.split_once('/').ok_or(InvalidNetwork::Malformed)?;
        let base: IpAddr = base.parse().map_err(|_| InvalidNetwork::Malformed)?;
        if bits.is_empty() || bits.len() > 3 || !bits.bytes().all(|b| b.is_ascii_digit()) {
            return Err(InvalidNetwork::Malformed);
        }
        let prefix_bits: u8 = bits.parse().map_err(|_| InvalidNetwork::PrefixBits)?;
        let host_bits = match base {
            IpAddr::V4(_) if prefix_bits > 32 => return Err(InvalidNetwork::PrefixBits),
            IpAddr::V6(_) if prefix_bits > 128 => return Err(InvalidNetwork::PrefixBits),
            IpAddr::V4(ip) => u128::from(ip.to_bits().checked_shl(u32::from(prefix_bits)).unwrap_or(0)),
            IpAddr::V6(ip) => ip.to_bits().checked_shl(u32::from(prefix_bits)).unwrap_or(0),
        };
        if host_bits != 0 {
            return Err(InvalidNetwork::HostBits);
        }
        Ok(Self { base, prefix_bits })
    }
}

impl TryFrom<String> for Network {
    type Error = InvalidNetwork;

    fn try_from(text: String) -> Result<Self, InvalidNetwork> {
        text.parse()
    }
}

impl From<Network> for String {
    fn from(network: Network) -> Self {
        network.to_string()
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.base, self.prefix_bits)
    }
}

/// An address was refused; `block` names the range it lies in, for the operator's eyes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Forbidden {
    /// Name of the range, such as `private use`.
    pub block: &'static str,
}

/// Every IPv4 block that is not global unicast. The few entries that the registry calls globally reachable (AS112,
/// AMT, anycast relays) are refused too: they carry one fixed service each, and a webhook receiver is none of them.
const SPECIAL_V4: &[(Network, &str)] = &[
    (Network::v4(0, 0, 0, 0, 8), "this network"),
    (Network::v4(10, 0, 0, 0, 8), "private use"),
    (Network::v4(100, 64, 0, 0, 10), "shared address space"),
    (Network::v4(127, 0, 0, 0, 8), "loopback"),
    (Network::v4(169, 254, 0, 0, 16), "link local"),
    (Network::v4(172, 16, 0, 0, 12), "private use"),
    (Network::v4(192, 0, 0, 0, 24), "IETF protocol assignments"),
    (Network::v4(192, 0, 2, 0, 24), "documentation"),
    (Network::v4(192, 31, 196, 0, 24), "AS112"),
    (Network::v4(192, 52, 193, 0, 24), "AMT"),
    (Network::v4(192, 88, 99, 0, 24), "6to4 relay anycast"),
    (Network::v4(192, 168, 0, 0, 16), "private use"),
    (Network::v4(192, 175, 48, 0, 24), "AS112"),
    (Network::v4(198, 18, 0, 0, 15), "benchmarking"),
    (Network::v4(198, 51, 100, 0, 24), "documentation"),
    (Network::v4(203, 0, 113, 0, 24), "documentation"),
    (Network::v4(224, 0, 0, 0, 4), "multicast"),
    (Network::v4(255, 255, 255, 255, 32), "limited broadcast"),
    (Network::v4(240, 0, 0, 0, 4), "reserved"),
];

/// IPv6 global unicast (RFC 4291 2.4): whatever lies outside is refused without a name being needed.
const GLOBAL_V6: Network = Network::v6([0x2000, 0, 0, 0], 3);

/// Special blocks inside `2000::/3`. `2001::/23` covers several narrower ones, which come first for their names.
/// 6to4 and Teredo are refused whatever IPv4 address they carry: both are tunnels to relays nobody runs any more.
const SPECIAL_V6: &[(Network, &str)] = &[
    (Network::v6([0x2001, 0, 0, 0], 32), "Teredo"),
    (Network::v6([0x2001, 2, 0, 0], 48), "benchmarking"),
    (Network::v6([0x2001, 3, 0, 0], 32), "AMT"),
    (Network::v6([0x2001, 4, 0x112, 0], 48), "AS112"),
    (Network::v6([0x2001, 0x10, 0, 0], 28), "ORCHID"),
    (Network::v6([0x2001, 0x20, 0, 0], 28), "ORCHIDv2"),
    (Network::v6([0x2001, 0x30, 0, 0], 28), "drone remote identification"),
    (Network::v6([0x2001, 0, 0, 0], 23), "IETF protocol assignments"),
    (Network::v6([0x2001, 0xdb8, 0, 0], 32), "documentation"),
    (Network::v6([0x2002, 0, 0, 0], 16), "6to4"),
    (Network::v6([0x2620, 0x4f, 0x8000, 0], 48), "AS112"),
    (Network::v6([0x3fff, 0, 0, 0], 20), "documentation"),
];

/// NAT64's well-known prefix (RFC 6052): on a network without IPv4 it is the way to every IPv4 host.
const NAT64: Network = Network::v6([0x64, 0xff9b, 0, 0], 96);

/// Names of blocks outside `2000::/3`; the rest is "not global unicast".
const OUTSIDE_V6: &[(Network, &str)] = &[
    (Network::v6([0, 0, 0, 0], 96), "unspecified, loopback or IPv4-compatible"),
    (Network::v6([0x64, 0xff9b, 1, 0], 48), "local-use NAT64"),
    (Network::v6([0x100, 0, 0, 0], 64), "discard only"),
    (Network::v6([0x100, 0, 0, 1], 64), "dummy prefix"),
    (Network::v6([0x5f00, 0, 0, 0], 16), "segment routing"),
    (Network::v6([0xfc00, 0, 0, 0], 7), "unique local"),
    (Network::v6([0xfe80, 0, 0, 0], 10), "link local"),
    (Network::v6([0xfec0, 0, 0, 0], 10), "site local"),
    (Network::v6([0xff00, 0, 0, 0], 8), "multicast"),
];

/// Returns whether a stranger's URL may lead to this address under this policy.
pub fn is_allowed(ip: IpAddr, policy: &Policy) -> bool {
    judge(ip, policy).is_ok()
}

/// Judges one address. IPv4-mapped IPv6 (`::ffff:a.b.c.d`) is judged as the IPv4 address that the system would
/// connect to, NAT64 (`64:ff9b::a.b.c.d`) by the IPv4 address behind the translator.
///
/// # Errors
/// [`Forbidden`] names the block that made the address unacceptable.
pub fn judge(ip: IpAddr, policy: &Policy) -> Result<(), Forbidden> {
    let ip = ip.to_canonical();
    if policy.refused_networks.iter().any(|network| network.contains(ip)) {
        return Err(Forbidden { block: "refused by the operator" });
    }
    if policy.dangerous_allow_networks.iter().any(|network| network.contains(ip)) {
        return Ok(());
    }
    if policy.dangerous_allow_http_loopback && ip.is_loopback() {
        return Ok(());
    }
    match ip {
        IpAddr::V4(_) => outside_of(SPECIAL_V4, ip),
        // The address behind a translator is in the translator's network, so the exceptions made above for our own
        // loopback and networks do not extend to it; the operator's refusals do.
        IpAddr::V6(v6) if NAT64.contains(ip) => {
            let embedded = IpAddr::V4(low_32_bits(v6));
            if policy.refused_networks.iter().any(|network| network.contains(embedded)) {
                return Err(Forbidden { block: "refused by the operator" });
            }
            outside_of(SPECIAL_V4, embedded)
        }
        IpAddr::V6(_) if GLOBAL_V6.contains(ip) => outside_of(SPECIAL_V6, ip),
        IpAddr::V6(_) => outside_of(OUTSIDE_V6, ip).and(Err(Forbidden { block: "not global unicast" })),
    }
}

fn outside_of(blocks: &[(Network, &'static str)], ip: IpAddr) -> Result<(), Forbidden> {
    match blocks.iter().find(|(network, _)| network.contains(ip)) {
        Some(&(_, block)) => Err(Forbidden { block }),
        None => Ok(()),
    }
}

fn low_32_bits(ip: Ipv6Addr) -> Ipv4Addr {
    let [.., a, b, c, d] = ip.octets();
    Ipv4Addr::new(a, b, c, d)
}
