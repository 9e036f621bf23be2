//! Who really sent a message: SPF, DKIM, DMARC, ARC and the peer's name, looked up through a resolver that the
//! caller brings (RFC 7208, 6376, 9989, 8617, 8601).
//!
//! Nothing here reads a clock or a socket: time and answers come in as arguments.

mod results;

pub use results::{
    ArcVerdict, AuthResult, AuthResults, DkimVerdict, DmarcPolicy, DmarcVerdict, IprevVerdict,
    SpfScope, SpfVerdict,
};
