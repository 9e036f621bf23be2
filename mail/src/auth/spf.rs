//! Sender Policy Framework (RFC 7208), evaluated strictly: in doubt there is no `pass`.

mod macros;
mod record;

use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;

use super::resolver::{DnsError, Resolver};
use super::results::AuthResult;
use macros::{MacroString, Place, Values};
use record::{Cidr, Mechanism, Qualifier, Record};

/// Mechanisms and modifiers that ask the DNS, over all included records (RFC 7208 section 4.6.4).
const LOOKUPS_MAX: usize = 10;
/// Questions of those without an answer.
const VOID_LOOKUPS_MAX: usize = 2;
/// Mail exchangers of one `mx`, and names of one peer.
const NAMES_MAX: usize = 10;

/// The question whether a peer may send for a domain.
#[derive(Debug, Clone)]
pub struct SpfRequest {
    /// The peer's address.
    pub peer: IpAddr,
    /// The domain whose record is asked.
    pub domain: String,
    /// The identity, `local@domain`.
    pub sender: String,
    /// The name the peer gave itself.
    pub helo: String,
    /// The name of this host.
    pub receiver: String,
    /// The current time in seconds since the Unix epoch.
    pub now: i64,
}

/// The answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpfOutcome {
    /// The result.
    pub result: AuthResult,
    /// What decided: an error, or the explanation the domain gives for a `fail`. Printable ASCII.
    pub reason: Option<String>,
}

/// Evaluates `check_host()` of RFC 7208 section 4.
pub async fn check_host(request: &SpfRequest, resolver: &dyn Resolver) -> SpfOutcome {
    // IPv4 over an IPv6 socket is IPv4 (section 5): otherwise `ip4:` would never match it and `ip6:` might.
    let request = SpfRequest { peer: request.peer.to_canonical(), ..request.clone() };
    let sender = match request.sender.split_once('@') {
        // A missing local part stands for postmaster (section 4.3).
        Some(("", domain)) => format!("postmaster@{domain}"),
        Some(_) => request.sender.clone(),
        None => format!("postmaster@{}", request.sender),
    };
    let request = SpfRequest { sender, ..request };
    let mut evaluation = Evaluation { request: &request, resolver, lookups: 0, voids: 0, peer_name: None };
    let domain = request.domain.trim_end_matches('.').to_ascii_lowercase();
    match evaluation.check(domain, true).await {
        Ok((result, explanation)) => SpfOutcome { result, reason: explanation },
        Err(Failure::Temporary(reason)) => SpfOutcome { result: AuthResult::Temperror, reason: Some(reason) },
        Err(Failure::Permanent(reason)) => SpfOutcome { result: AuthResult::Permerror, reason: Some(reason) },
    }
}

enum Failure {
    Temporary(String),
    Permanent(String),
}

fn temporary(name: &str) -> Failure {
    Failure::Temporary(format!("no answer for {}", printable(name)))
}

fn permanent(reason: impl Into<String>) -> Failure {
    Failure::Permanent(reason.into())
}

fn printable(text: &str) -> String {
    text.chars().filter(|c| c.is_ascii_graphic() || *c == ' ').take(300).collect()
}

type Checked = Result<(AuthResult, Option<String>), Failure>;

struct Evaluation<'a> {
    request: &'a SpfRequest,
    resolver: &'a dyn Resolver,
    lookups: usize,
    voids: usize,
    peer_name: Option<String>,
}

impl Evaluation<'_> {
    /// Checks one domain. Recursion (include, redirect) costs a lookup each and is bounded by their number.
    fn check(&mut self, domain: String, explain: bool) -> Pin<Box<dyn Future<Output = Checked> + Send + '_>> {
        Box::pin(async move {
            if !is_checkable(&domain) {
                return Ok((AuthResult::None, None));
            }
            let Some(record) = self.record(&domain).await? else {
                return Ok((AuthResult::None, None));
            };
            for directive in &record.directives {
                if self.matches(&directive.mechanism, &domain).await? {
                    let result = match directive.qualifier {
                        Qualifier::Pass => AuthResult::Pass,
                        Qualifier::Fail => AuthResult::Fail,
                        Qualifier::Softfail => AuthResult::Softfail,
                        Qualifier::Neutral => AuthResult::Neutral,
                    };
                    let wanted = record.exp.as_ref().filter(|_| explain && result == AuthResult::Fail);
                    let explanation = match wanted {
                        Some(exp) => self.explanation(exp, &domain).await,
                        None => None,
                    };
                    return Ok((result, explanation));
                }
            }
            match &record.redirect {
                Some(redirect) => {
                    self.count_lookup()?;
                    let target = self.target(Some(redirect), &domain).await;
                    let target = target.ok_or_else(|| permanent("redirect to an impossible name"))?;
                    match self.check(target, explain).await? {
                        (AuthResult::None, _) => Err(permanent("redirect to a domain without a record")),
                        checked => Ok(checked),
                    }
                }
                None => Ok((AuthResult::Neutral, None)),
            }
        })
    }

    async fn record(&self, domain: &str) -> Result<Option<Record>, Failure> {
        let texts = match self.resolver.txt(domain).await {
            Ok(texts) => texts,
            Err(DnsError::NxDomain) => return Ok(None),
            Err(DnsError::Temporary) => return Err(temporary(domain)),
        };
        let mut records = texts.iter().filter(|text| record::is_spf(text));
        let Some(text) = records.next() else {
            return Ok(None);
        };
        if records.next().is_some() {
            return Err(permanent("several records"));
        }
        record::parse(text).map(Some).map_err(|error| permanent(error.0))
    }

    fn count_lookup(&mut self) -> Result<(), Failure> {
        self.lookups += 1;
        if self.lookups > LOOKUPS_MAX { Err(permanent("too many DNS lookups")) } else { Ok(()) }
    }

    /// Turns "no such name" into an empty answer and counts empty answers.
    fn answered<T>(&mut self, name: &str, answer: Result<Vec<T>, DnsError>) -> Result<Vec<T>, Failure> {
        let records = match answer {
            Ok(records) => records,
            Err(DnsError::NxDomain) => Vec::new(),
            Err(DnsError::Temporary) => return Err(temporary(name)),
        };
        if records.is_empty() {
            self.voids += 1;
            if self.voids > VOID_LOOKUPS_MAX {
                return Err(permanent("too many DNS lookups without an answer"));
            }
        }
        Ok(records)
    }

    async fn matches(&mut self, mechanism: &Mechanism, domain: &str) -> Result<bool, Failure> {
        match mechanism {
            Mechanism::All => Ok(true),
            Mechanism::Ip4(network, length) => Ok(in_network(self.request.peer, IpAddr::V4(*network), *length)),
            Mechanism::Ip6(network, length) => Ok(in_network(self.request.peer, IpAddr::V6(*network), *length)),
            Mechanism::Include(target) => self.included(target, domain).await,
            Mechanism::A(target, cidr) => {
                self.count_lookup()?;
                let Some(target) = self.target(target.as_ref(), domain).await else {
                    return Ok(false);
                };
                let answer = self.addresses(&target).await;
                let addresses = self.answered(&target, answer)?;
                Ok(self.any_in_network(&addresses, *cidr))
            }
            Mechanism::Mx(target, cidr) => {
                self.count_lookup()?;
                let Some(target) = self.target(target.as_ref(), domain).await else {
                    return Ok(false);
                };
                self.exchanger_matches(&target, *cidr).await
            }
            Mechanism::Ptr(target) => {
                self.count_lookup()?;
                let Some(target) = self.target(target.as_ref(), domain).await else {
                    return Ok(false);
                };
                let names = self.validated_names().await;
                Ok(names.iter().any(|name| is_same_or_below(name, &target)))
            }
            Mechanism::Exists(target) => {
                self.count_lookup()?;
                let Some(target) = self.target(Some(target), domain).await else {
                    return Ok(false);
                };
                // Always an A query, whatever the peer's family (section 5.7).
                let answer = self.resolver.a(&target).await;
                Ok(!self.answered(&target, answer)?.is_empty())
            }
        }
    }

    async fn included(&mut self, target: &MacroString, domain: &str) -> Result<bool, Failure> {
        self.count_lookup()?;
        let target = self.target(Some(target), domain).await;
        let target = target.ok_or_else(|| permanent("include of an impossible name"))?;
        match self.check(target, false).await?.0 {
            AuthResult::Pass => Ok(true),
            AuthResult::None => Err(permanent("include of a domain without a record")),
            _ => Ok(false),
        }
    }

    async fn exchanger_matches(&mut self, target: &str, cidr: Cidr) -> Result<bool, Failure> {
        let answer = self.resolver.mx(target).await;
        let exchangers = self.answered(target, answer)?;
        if exchangers.len() > NAMES_MAX {
            return Err(permanent("too many mail exchangers"));
        }
        for exchanger in exchangers.iter().filter(|exchanger| !exchanger.exchange.is_empty()) {
            match self.addresses(&exchanger.exchange).await {
                Ok(addresses) if self.any_in_network(&addresses, cidr) => return Ok(true),
                Ok(_) | Err(DnsError::NxDomain) => {}
                Err(DnsError::Temporary) => return Err(temporary(&exchanger.exchange)),
            }
        }
        Ok(false)
    }

    /// The addresses of a name, of the peer's family only.
    async fn addresses(&self, name: &str) -> Result<Vec<IpAddr>, DnsError> {
        Ok(match self.request.peer {
            IpAddr::V4(_) => self.resolver.a(name).await?.into_iter().map(IpAddr::V4).collect(),
            IpAddr::V6(_) => self.resolver.aaaa(name).await?.into_iter().map(IpAddr::V6).collect(),
        })
    }

    fn any_in_network(&self, addresses: &[IpAddr], cidr: Cidr) -> bool {
        let length = if self.request.peer.is_ipv4() { cidr.v4 } else { cidr.v6 };
        addresses.iter().any(|address| in_network(self.request.peer, *address, length))
    }

    /// The names of the peer that lead back to it; errors mean none (section 5.5).
    async fn validated_names(&self) -> Vec<String> {
        let names = self.resolver.ptr(self.request.peer).await.unwrap_or_default();
        let mut validated = Vec::new();
        for name in names.into_iter().take(NAMES_MAX) {
            if self.addresses(&name).await.is_ok_and(|addresses| addresses.contains(&self.request.peer)) {
                validated.push(name.trim_end_matches('.').to_ascii_lowercase());
            }
        }
        validated
    }

    /// The name a mechanism is about; `None` when its macros make an impossible one (section 4.8).
    async fn target(&mut self, target: Option<&MacroString>, domain: &str) -> Option<String> {
        let Some(target) = target else {
            return Some(domain.to_owned());
        };
        let expanded = self.expand(target, domain).await;
        let name = shorten_name(expanded.trim_end_matches('.'));
        is_possible_name(&name).then(|| name.to_ascii_lowercase())
    }

    async fn expand(&mut self, text: &MacroString, domain: &str) -> String {
        if text.needs_peer_name() && self.peer_name.is_none() {
            let names = self.validated_names().await;
            // The domain itself is preferred, then one below it, then any (section 7.3).
            let best = names.iter().find(|name| *name == domain);
            let best = best.or_else(|| names.iter().find(|name| is_same_or_below(name, domain))).or(names.first());
            self.peer_name = Some(best.cloned().unwrap_or_else(|| "unknown".to_owned()));
        }
        text.expand(&Values {
            sender: &self.request.sender,
            domain,
            peer: self.request.peer,
            helo: &self.request.helo,
            peer_name: self.peer_name.as_deref().unwrap_or("unknown"),
            receiver: &self.request.receiver,
            now: self.request.now,
        })
    }

    /// What the domain has to say about a `fail`; any problem with it means nothing (section 6.2).
    async fn explanation(&mut self, exp: &MacroString, domain: &str) -> Option<String> {
        let target = self.target(Some(exp), domain).await?;
        let texts = self.resolver.txt(&target).await.ok()?;
        let [text] = texts.as_slice() else {
            return None;
        };
        let text = std::str::from_utf8(text).ok()?;
        let text = MacroString::parse(text, Place::Explanation)?;
        Some(printable(&self.expand(&text, domain).await)).filter(|text| !text.is_empty())
    }
}

/// Returns whether a domain can have a record at all: several labels, none empty, no address literal (section 4.3).
fn is_checkable(domain: &str) -> bool {
    domain.contains('.') && !domain.starts_with('[') && is_possible_name(domain)
}

fn is_possible_name(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= 253
        && name.is_ascii()
        && name.split('.').all(|label| !label.is_empty() && label.len() <= 63)
        && !name.bytes().any(|byte| byte < b' ' || byte == 0x7f)
}

/// A name that macros made too long loses labels from the left (section 7.3).
fn shorten_name(name: &str) -> String {
    let mut name = name;
    while name.len() > 253 {
        match name.split_once('.') {
            Some((_, rest)) => name = rest,
            None => break,
        }
    }
    name.to_owned()
}

fn is_same_or_below(name: &str, domain: &str) -> bool {
    name == domain || name.strip_suffix(domain).is_some_and(|rest| rest.ends_with('.'))
}

fn in_network(peer: IpAddr, network: IpAddr, length: u8) -> bool {
    match (peer, network) {
        (IpAddr::V4(peer), IpAddr::V4(network)) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(length.min(32))).unwrap_or(0);
            u32::from(peer) & mask == u32::from(network) & mask
        }
        (IpAddr::V6(peer), IpAddr::V6(network)) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(length.min(128))).unwrap_or(0);
            u128::from(peer) & mask == u128::from(network) & mask
        }
        _ => false,
    }
}
