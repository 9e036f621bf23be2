//! Whether the peer's address has a name that leads back to it (RFC 8601 section 2.7.3).

use std::net::IpAddr;

use super::resolver::{DnsError, Resolver};
use super::results::{AuthResult, IprevVerdict};

/// Names looked at.
const NAMES_MAX: usize = 10;

/// Looks up the names of an address and the addresses of those names.
pub async fn check_iprev(peer: IpAddr, resolver: &dyn Resolver) -> IprevVerdict {
    let peer = peer.to_canonical();
    let verdict = |result, name| IprevVerdict { result, name };
    let names = match resolver.ptr(peer).await {
        Ok(names) if !names.is_empty() => names,
        // No name at all: nothing was claimed, and nothing confirmed.
        Ok(_) | Err(DnsError::NxDomain) => return verdict(AuthResult::Permerror, None),
        Err(DnsError::Temporary) => return verdict(AuthResult::Temperror, None),
    };
    let mut temporary = false;
    for name in names.iter().take(NAMES_MAX) {
        let found = match peer {
            IpAddr::V4(peer) => resolver.a(name).await.map(|addresses| addresses.contains(&peer)),
            IpAddr::V6(peer) => resolver.aaaa(name).await.map(|addresses| addresses.contains(&peer)),
        };
        match found {
            Ok(true) => {
                return verdict(AuthResult::Pass, Some(name.trim_end_matches('.').to_ascii_lowercase()));
            }
            Ok(false) | Err(DnsError::NxDomain) => {}
            Err(DnsError::Temporary) => temporary = true,
        }
    }
    verdict(if temporary { AuthResult::Temperror } else { AuthResult::Fail }, None)
}
