//! The PROXY protocol, versions 1 and 2: how a load balancer says whom it speaks for.
//!
//! The listener reads the header from listed peers only, before TLS and before the session; from any other
//! peer these octets are early talk.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// The fixed start of a version 2 header.
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// Longest version 1 header, CRLF included.
const V1_OCTETS_MAX: usize = 107;
/// Longest version 2 header taken: addresses and a generous number of extensions.
const V2_OCTETS_MAX: usize = 4096;
const V2_FIXED_OCTETS: usize = 16;

/// What has been read so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// The header is not complete.
    Incomplete,
    /// The header is complete.
    Complete {
        /// The real client; nothing where the proxy speaks for itself, as in health checks.
        client: Option<SocketAddr>,
        /// Octets of the header; what follows belongs to the session.
        octets: usize,
    },
}

/// The octets are no PROXY header: close the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a PROXY protocol header")]
pub struct NotProxy;

/// Reads a header from the start of `input`, which grows until it is complete.
///
/// # Errors
/// Where `input` cannot become a header, or one of more than 4096 octets.
pub fn parse(input: &[u8]) -> Result<Progress, NotProxy> {
    let begins = |pattern: &[u8]| {
        let shared = input.len().min(pattern.len());
        input[..shared] == pattern[..shared]
    };
    if begins(SIGNATURE) {
        parse_v2(input)
    } else if begins(b"PROXY ") {
        parse_v1(input)
    } else {
        Err(NotProxy)
    }
}

fn parse_v1(input: &[u8]) -> Result<Progress, NotProxy> {
    let window = &input[..input.len().min(V1_OCTETS_MAX)];
    let Some(end) = window.windows(2).position(|pair| pair == b"\r\n") else {
        return if window.len() < V1_OCTETS_MAX { Ok(Progress::Incomplete) } else { Err(NotProxy) };
    };
    let line = std::str::from_utf8(&window[..end]).map_err(|_| NotProxy)?;
    let mut words = line.split(' ').skip(1);
    let client = match words.next() {
        Some("UNKNOWN") => None,
        Some(family @ ("TCP4" | "TCP6")) => {
            let source: IpAddr = words.next().and_then(|word| word.parse().ok()).ok_or(NotProxy)?;
            let target: IpAddr = words.next().and_then(|word| word.parse().ok()).ok_or(NotProxy)?;
            let port: u16 = words.next().and_then(|word| word.parse().ok()).ok_or(NotProxy)?;
            let target_port: Option<u16> = words.next().and_then(|word| word.parse().ok());
            let v4 = family == "TCP4";
            let sound = source.is_ipv4() == v4 && target.is_ipv4() == v4 && target_port.is_some();
            if !sound || words.next().is_some() {
                return Err(NotProxy);
            }
            Some(SocketAddr::new(source.to_canonical(), port))
        }
        _ => return Err(NotProxy),
    };
    Ok(Progress::Complete { client, octets: end + 2 })
}

fn parse_v2(input: &[u8]) -> Result<Progress, NotProxy> {
    let Some((fixed, rest)) = input.split_first_chunk::<V2_FIXED_OCTETS>() else {
        return Ok(Progress::Incomplete);
    };
    let length = usize::from(u16::from_be_bytes([fixed[14], fixed[15]]));
    let octets = V2_FIXED_OCTETS + length;
    let local = match fixed[12] {
        0x20 => true,
        0x21 => false,
        _ => return Err(NotProxy),
    };
    if octets > V2_OCTETS_MAX {
        return Err(NotProxy);
    }
    let Some(addresses) = rest.get(..length) else {
        return Ok(Progress::Incomplete);
    };
    let client = match fixed[13] {
        _ if local => None,
        // TCP over IPv4 and IPv6: source and target address, source and target port.
        0x11 => {
            let [a, b, c, d, _, _, _, _, high, low, _, _] = *first(addresses)?;
            let port = u16::from_be_bytes([high, low]);
            Some(SocketAddr::new(Ipv4Addr::new(a, b, c, d).into(), port))
        }
        0x21 => {
            let block: &[u8; 36] = first(addresses)?;
            let source: &[u8; 16] = first(block)?;
            let port = u16::from_be_bytes([block[32], block[33]]);
            Some(SocketAddr::new(IpAddr::V6(Ipv6Addr::from(*source)).to_canonical(), port))
        }
        0x00 => None,
        _ => return Err(NotProxy),
    };
    Ok(Progress::Complete { client, octets })
}

fn first<const N: usize>(octets: &[u8]) -> Result<&[u8; N], NotProxy> {
    octets.first_chunk().ok_or(NotProxy)
}
