//! How verification asks the DNS, and two resolvers: one in memory, one that keeps a budget.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::{Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;

/// Why a query has no answer. A name that exists without records of the type is not an error but an empty answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DnsError {
    /// The name does not exist.
    #[error("the name does not exist")]
    NxDomain,
    /// No answer could be had (SERVFAIL, timeout, refused, budget spent); another try may help.
    #[error("no answer could be had")]
    Temporary,
}

/// A mail exchanger.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MxRecord {
    /// Lower is tried first.
    pub preference: u16,
    /// Its name, without a final dot; empty for the null MX (RFC 7505).
    pub exchange: String,
}

/// Asks the DNS. Names come and go without a final dot; implementations follow CNAMEs and retry over TCP.
#[async_trait]
pub trait Resolver: Send + Sync {
    /// Returns the TXT records of a name, the strings of each record joined without a space.
    async fn txt(&self, name: &str) -> Result<Vec<Vec<u8>>, DnsError>;
    /// Returns the IPv4 addresses of a name.
    async fn a(&self, name: &str) -> Result<Vec<Ipv4Addr>, DnsError>;
    /// Returns the IPv6 addresses of a name.
    async fn aaaa(&self, name: &str) -> Result<Vec<Ipv6Addr>, DnsError>;
    /// Returns the mail exchangers of a name.
    async fn mx(&self, name: &str) -> Result<Vec<MxRecord>, DnsError>;
    /// Returns the names of an address.
    async fn ptr(&self, address: IpAddr) -> Result<Vec<String>, DnsError>;
}

/// What kind of records is looked up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RecordType {
    /// Texts.
    Txt,
    /// Mail exchangers.
    Mx,
}

/// Returns the texts or mail exchangers under a name, as text; none where there is no such name.
///
/// # Errors
/// [`DnsError::Temporary`]: what is there is not known.
pub async fn published(resolver: &dyn Resolver, name: &str, kind: RecordType) -> Result<Vec<String>, DnsError> {
    let answer = match kind {
        RecordType::Txt => {
            let texts = resolver.txt(name).await;
            texts.map(|all| all.iter().map(|text| String::from_utf8_lossy(text).into_owned()).collect::<Vec<_>>())
        }
        RecordType::Mx => {
            let hosts = resolver.mx(name).await;
            hosts.map(|all| all.into_iter().map(|mx| mx.exchange).collect())
        }
    };
    match answer {
        Err(DnsError::NxDomain) => Ok(vec![]),
        answer => answer,
    }
}

#[derive(Debug, Clone, Default)]
struct Records {
    txt: Vec<Vec<u8>>,
    a: Vec<Ipv4Addr>,
    aaaa: Vec<Ipv6Addr>,
    mx: Vec<MxRecord>,
}

/// A resolver that knows a fixed set of records: for sandboxes without network and for tests.
#[derive(Debug, Clone, Default)]
pub struct Zone {
    names: HashMap<String, Records>,
    addresses: HashMap<IpAddr, Vec<String>>,
    unavailable: Vec<String>,
}

impl Zone {
    /// Returns an empty zone: every name is unknown.
    pub fn new() -> Self {
        Zone::default()
    }

    fn entry(&mut self, name: &str) -> &mut Records {
        self.names.entry(key(name)).or_default()
    }

    /// Adds a TXT record.
    #[must_use]
    pub fn with_txt(mut self, name: &str, text: impl AsRef<[u8]>) -> Self {
        self.entry(name).txt.push(text.as_ref().to_vec());
        self
    }

    /// Adds an A or AAAA record.
    #[must_use]
    pub fn with_address(mut self, name: &str, address: IpAddr) -> Self {
        match address {
            IpAddr::V4(address) => self.entry(name).a.push(address),
            IpAddr::V6(address) => self.entry(name).aaaa.push(address),
        }
        self
    }

    /// Adds an MX record.
    #[must_use]
    pub fn with_mx(mut self, name: &str, preference: u16, exchange: &str) -> Self {
        self.entry(name).mx.push(MxRecord { preference, exchange: key(exchange) });
        self
    }

    /// Adds a PTR record.
    #[must_use]
    pub fn with_ptr(mut self, address: IpAddr, name: &str) -> Self {
        self.addresses.entry(address).or_default().push(key(name));
        self
    }

    /// Makes a name exist without records.
    #[must_use]
    pub fn with_name(mut self, name: &str) -> Self {
        self.entry(name);
        self
    }

    /// Makes every query for a name (or for an address, as text) fail temporarily.
    #[must_use]
    pub fn with_failure(mut self, name: &str) -> Self {
        self.unavailable.push(key(name));
        self
    }

    fn records(&self, name: &str) -> Result<&Records, DnsError> {
        let name = key(name);
        if self.unavailable.contains(&name) {
            return Err(DnsError::Temporary);
        }
        if let Some(records) = self.names.get(&name) {
            return Ok(records);
        }
        // A name with names below it exists, although it has no records of its own (RFC 8020).
        let suffix = format!(".{name}");
        static EMPTY: Records = Records { txt: Vec::new(), a: Vec::new(), aaaa: Vec::new(), mx: Vec::new() };
        if self.names.keys().any(|other| other.ends_with(&suffix)) { Ok(&EMPTY) } else { Err(DnsError::NxDomain) }
    }
}

fn key(name: &str) -> String {
    name.trim_end_matches('.').to_ascii_lowercase()
}

#[async_trait]
impl Resolver for Zone {
    async fn txt(&self, name: &str) -> Result<Vec<Vec<u8>>, DnsError> {
        self.records(name).map(|records| records.txt.clone())
    }

    async fn a(&self, name: &str) -> Result<Vec<Ipv4Addr>, DnsError> {
        self.records(name).map(|records| records.a.clone())
    }

    async fn aaaa(&self, name: &str) -> Result<Vec<Ipv6Addr>, DnsError> {
        self.records(name).map(|records| records.aaaa.clone())
    }

    async fn mx(&self, name: &str) -> Result<Vec<MxRecord>, DnsError> {
        self.records(name).map(|records| records.mx.clone())
    }

    async fn ptr(&self, address: IpAddr) -> Result<Vec<String>, DnsError> {
        if self.unavailable.contains(&address.to_string()) {
            return Err(DnsError::Temporary);
        }
        self.addresses.get(&address).cloned().ok_or(DnsError::NxDomain)
    }
}

#[derive(Default)]
struct Spent {
    queries_left: usize,
    txt: HashMap<String, Result<Vec<Vec<u8>>, DnsError>>,
    a: HashMap<String, Result<Vec<Ipv4Addr>, DnsError>>,
    aaaa: HashMap<String, Result<Vec<Ipv6Addr>, DnsError>>,
    mx: HashMap<String, Result<Vec<MxRecord>, DnsError>>,
    ptr: HashMap<IpAddr, Result<Vec<String>, DnsError>>,
}

/// A resolver for one message: it answers the same question once, and no more questions than it was given.
pub struct Budget<'r> {
    inner: &'r dyn Resolver,
    spent: Mutex<Spent>,
}

impl<'r> Budget<'r> {
    /// Returns a resolver that passes at most `queries_max` queries on.
    pub fn new(inner: &'r dyn Resolver, queries_max: usize) -> Self {
        Budget { inner, spent: Mutex::new(Spent { queries_left: queries_max, ..Spent::default() }) }
    }

    /// Returns how many queries are left.
    pub fn queries_left(&self) -> usize {
        self.lock().queries_left
    }

    /// Adds queries to the budget.
    pub fn grant(&self, queries: usize) {
        self.lock().queries_left += queries;
    }

    fn lock(&self) -> MutexGuard<'_, Spent> {
        // A panic elsewhere cannot leave the counters in a state that matters.
        self.spent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes one query from the budget.
    fn take(&self) -> Result<(), DnsError> {
        let mut spent = self.lock();
        spent.queries_left = spent.queries_left.checked_sub(1).ok_or(DnsError::Temporary)?;
        Ok(())
    }
}

/// Asks once per question; the lock is never held across the question.
macro_rules! ask {
    ($self:ident, $kind:ident, $key:expr, $question:expr) => {{
        let known = $self.lock().$kind.get(&$key).cloned();
        match known {
            Some(answer) => answer,
            None => {
                $self.take()?;
                let answer = $question.await;
                $self.lock().$kind.insert($key, answer.clone());
                answer
            }
        }
    }};
}

#[async_trait]
impl Resolver for Budget<'_> {
    async fn txt(&self, name: &str) -> Result<Vec<Vec<u8>>, DnsError> {
        ask!(self, txt, key(name), self.inner.txt(name))
    }

    async fn a(&self, name: &str) -> Result<Vec<Ipv4Addr>, DnsError> {
        ask!(self, a, key(name), self.inner.a(name))
    }

    async fn aaaa(&self, name: &str) -> Result<Vec<Ipv6Addr>, DnsError> {
        ask!(self, aaaa, key(name), self.inner.aaaa(name))
    }

    async fn mx(&self, name: &str) -> Result<Vec<MxRecord>, DnsError> {
        ask!(self, mx, key(name), self.inner.mx(name))
    }

    async fn ptr(&self, address: IpAddr) -> Result<Vec<String>, DnsError> {
        ask!(self, ptr, address, self.inner.ptr(address))
    }
}
