//! Address ranges of peers, as the configuration names them: `192.0.2.1`, `192.0.2.0/24`, `2001:db8::/32`.

use std::net::IpAddr;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, de};

/// A range of addresses: all that share its first bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network {
    first: IpAddr,
    prefix_bits: u8,
}

/// A text is not an address, nor an address with a prefix length.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not an address or a range of addresses such as 192.0.2.0/24")]
pub struct NotNetwork;

impl Network {
    /// Tells whether an address is in the range. An IPv4 address mapped into IPv6 counts as IPv4.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.first, address.to_canonical()) {
            (IpAddr::V4(first), IpAddr::V4(address)) => {
                leading(first.to_bits().into(), 32, self.prefix_bits)
                    == leading(address.to_bits().into(), 32, self.prefix_bits)
            }
            (IpAddr::V6(first), IpAddr::V6(address)) => {
                leading(first.to_bits(), 128, self.prefix_bits) == leading(address.to_bits(), 128, self.prefix_bits)
            }
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => false,
        }
    }
}

/// Returns the first `bits` bits of a number of `width` bits.
fn leading(number: u128, width: u8, bits: u8) -> u128 {
    number.checked_shr(u32::from(width - bits)).unwrap_or(0)
}

impl FromStr for Network {
    type Err = NotNetwork;

    fn from_str(text: &str) -> Result<Self, NotNetwork> {
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address, Some(bits)),
            None => (text, None),
        };
        let first = address.parse::<IpAddr>().map_err(|_| NotNetwork)?;
        let width = if first.is_ipv4() { 32 } else { 128 };
        let prefix_bits = bits.map_or(Ok(width), |bits| bits.parse::<u8>().map_err(|_| NotNetwork))?;
        if prefix_bits > width { Err(NotNetwork) } else { Ok(Self { first, prefix_bits }) }
    }
}

impl<'de> Deserialize<'de> for Network {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

/// Returns what is counted as one peer: an IPv4 address, or the /64 an IPv6 host can choose its addresses from.
pub(crate) fn counted_as(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6((v6.to_bits() & !u128::from(u64::MAX)).into()),
        v4 @ IpAddr::V4(_) => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_holds_its_first_and_last_address_and_no_neighbour() {
        for (range, inside, outside) in [
            ("192.0.2.1", vec!["192.0.2.1", "::ffff:192.0.2.1"], vec!["192.0.2.0", "192.0.2.2", "::1"]),
            ("192.0.2.0/24", vec!["192.0.2.0", "192.0.2.255"], vec!["192.0.1.255", "192.0.3.0"]),
            ("0.0.0.0/0", vec!["0.0.0.0", "255.255.255.255"], vec!["::"]),
            ("2001:db8::/32", vec!["2001:db8::", "2001:db8:ffff::1"], vec!["2001:db7::", "2001:db9::"]),
            ("::/0", vec!["::", "ffff::"], vec!["10.0.0.1"]),
            ("::1", vec!["::1"], vec!["::2"]),
        ] {
            let network: Network = range.parse().unwrap();
            assert!(inside.iter().all(|a| network.contains(a.parse().unwrap())), "{range}");
            assert!(!outside.iter().any(|a| network.contains(a.parse().unwrap())), "{range}");
        }
        for wrong in ["", "192.0.2", "192.0.2.0/33", "::/129", "192.0.2.0/", "example.org", "192.0.2.0/-1"] {
            assert_eq!(wrong.parse::<Network>(), Err(NotNetwork), "{wrong}");
        }
    }

    #[test]
    fn an_ipv6_host_is_counted_by_its_network() {
        let a = counted_as("2001:db8:1:2:3::4".parse().unwrap());
        assert_eq!(a, counted_as("2001:db8:1:2:ffff::".parse().unwrap()));
        assert_ne!(a, counted_as("2001:db8:1:3::4".parse().unwrap()));
        assert_eq!(counted_as("::ffff:192.0.2.7".parse().unwrap()), "192.0.2.7".parse::<IpAddr>().unwrap());
    }
}
