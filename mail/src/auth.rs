//! Who really sent a message: SPF, DKIM, DMARC, ARC and the peer's name, looked up through a resolver that the
//! caller brings (RFC 7208, 6376, 8301, 8463, 9989, 8617, 8601).
//!
//! Nothing here reads a clock or a socket: time and answers come in as arguments. Each message has a budget of DNS
//! queries; when it is spent, what is not yet known becomes `temperror`, never `pass`.

mod arc;
mod dkim;
mod dmarc;
mod iprev;
mod resolver;
mod results;
mod sign;
mod signed;
mod spf;
mod tags;

use std::net::IpAddr;

use crate::header::addresses;

pub use arc::verify_arc;
pub use dkim::verify_dkim;
pub use dmarc::{DmarcInput, check_dmarc};
pub use iprev::check_iprev;
pub use resolver::{Budget, DnsError, MxRecord, RecordType, Resolver, Zone, published};
pub use results::{
    ArcVerdict, AuthResult, AuthResults, DkimVerdict, DmarcPolicy, DmarcVerdict, IprevVerdict, SpfScope, SpfVerdict,
};
pub use sign::{DkimKey, DkimSigner, KeyError, KeyType, SignError, VALID_SECONDS_DEFAULT, sign_dkim, txt_strings};
pub use spf::{SpfOutcome, SpfRequest, check_host};

/// What is to be verified.
#[derive(Debug, Clone, Copy)]
pub struct AuthRequest<'a> {
    /// The message as it came over the wire, without our own trace fields.
    pub raw: &'a [u8],
    /// The peer's address.
    pub peer: IpAddr,
    /// The name the peer gave itself.
    pub helo: &'a str,
    /// The envelope sender; `None` or empty for the null sender.
    pub mail_from: Option<&'a str>,
    /// The name of this host, for the macros of SPF explanations.
    pub receiver: &'a str,
    /// The current time in seconds since the Unix epoch, for signatures that expire.
    pub now: i64,
}

/// DNS queries one message may cause, in the order they are handed out. Each method is sure of its own share and may
/// use what those before it left: an SPF record made to be expensive cannot keep DMARC from failing a forgery.
const QUERIES: Shares = Shares { spf: 26, dkim: 10, dmarc: 14, iprev: 6, arc: 4 };

struct Shares {
    spf: usize,
    dkim: usize,
    dmarc: usize,
    iprev: usize,
    arc: usize,
}

/// Verifies a message by every method, with at most 60 DNS queries.
///
/// The deadline for the whole is the caller's: drop the future, and record [`AuthResults::unchecked`].
pub async fn verify(request: &AuthRequest<'_>, resolver: &dyn Resolver) -> AuthResults {
    let budget = Budget::new(resolver, QUERIES.spf);
    let peer = request.peer.to_canonical();
    let message = SignedMessage::split(request.raw);
    let sender = request.mail_from.filter(|sender| !sender.is_empty());
    let helo = spf(request, &format!("postmaster@{}", request.helo), SpfScope::Helo, &budget).await;
    let spf = match sender {
        Some(sender) => spf(request, sender, SpfScope::Mailfrom, &budget).await,
        // The null sender stands for postmaster at the peer's name (RFC 7208 section 2.4).
        None => helo.clone(),
    };
    budget.grant(QUERIES.dkim);
    let dkim = verify_dkim(&message, request.now, &budget).await;
    budget.grant(QUERIES.dmarc);
    let authors = authors(&message);
    let from_fields = message.fields.iter().filter(|field| field.is("From")).count();
    let input = DmarcInput { from_fields, authors: &authors, spf: &spf, dkim: &dkim };
    let dmarc = check_dmarc(&input, &budget).await;
    budget.grant(QUERIES.iprev);
    let iprev = check_iprev(peer, &budget).await;
    budget.grant(QUERIES.arc);
    let arc = verify_arc(&message, request.now, &budget).await;
    let verified_domain = dmarc.domain.clone().filter(|_| dmarc.result == AuthResult::Pass);
    AuthResults {
        checked: true,
        iprev: Some(iprev),
        spf_helo: Some(helo).filter(|_| sender.is_some()),
        spf: Some(spf),
        dkim,
        dmarc: Some(dmarc),
        arc: Some(arc),
        verified_domain,
    }
}

async fn spf(request: &AuthRequest<'_>, sender: &str, scope: SpfScope, budget: &Budget<'_>) -> SpfVerdict {
    let domain = sender.rsplit_once('@').map_or(sender, |(_, domain)| domain).trim_end_matches('.');
    // Records live under A-labels, whatever the envelope says.
    let domain = idna::domain_to_ascii(domain).unwrap_or_else(|_| domain.to_ascii_lowercase());
    let domain: String = domain.chars().filter(|c| !c.is_control()).take(255).collect();
    let mut outcome = check_host(
        &SpfRequest {
            peer: request.peer,
            domain: domain.clone(),
            sender: sender.to_owned(),
            helo: request.helo.to_owned(),
            receiver: request.receiver.to_owned(),
            now: request.now,
        },
        budget,
    )
    .await;
    if outcome.result == AuthResult::Temperror && budget.queries_left() == 0 {
        // It was not the DNS that failed, but the record that asked too much.
        outcome = SpfOutcome { result: AuthResult::Permerror, reason: Some("too many DNS queries".to_owned()) };
    }
    SpfVerdict { result: outcome.result, domain, scope, reason: outcome.reason }
}

/// The domains of all authors, one entry per address.
fn authors(message: &SignedMessage<'_>) -> Vec<String> {
    let fields = message.fields.iter().filter(|field| field.is("From"));
    fields
        .flat_map(|field| addresses(&crate::header::unfold(field.value), 100).0)
        .map(|author| author.domain())
        .collect()
}

pub use signed::SignedMessage;
