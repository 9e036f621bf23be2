//! From names to addresses, behind a trait so that a sandbox or a test needs no DNS.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, ToSocketAddrs};
use std::sync::Arc;

use async_trait::async_trait;
use tokio::sync::Semaphore;

/// Answers which addresses a host name has, now.
#[async_trait]
pub trait Resolve: Send + Sync {
    /// Returns every address of `host`, a canonical name without trailing dot. The caller judges each of them and
    /// bounds the time.
    ///
    /// # Errors
    /// [`ResolveError`] when there is no answer.
    async fn resolve(&self, host: &str) -> Result<Vec<IpAddr>, ResolveError>;
}

/// Why a name has no addresses.
#[derive(Debug, thiserror::Error)]
pub enum ResolveError {
    /// The name does not exist.
    #[error("the name does not exist")]
    NotFound,
    /// The look-up failed, or the system does not tell that apart from a missing name.
    #[error("the look-up failed")]
    Failed(#[source] io::Error),
}

/// The operating system's resolver.
///
/// Names are looked up as absolute ones. Otherwise the machine's search domains would turn a stranger's name into one
/// of our own network's, and the different failures would tell which of those exist.
#[derive(Debug)]
pub struct SystemResolver {
    lookups: Arc<Semaphore>,
}

impl SystemResolver {
    /// Returns a resolver that runs at most `lookups_max` look-ups at a time. Each occupies a thread until the system
    /// gives up, even after the caller has: the bound keeps dead name servers from taking all of them.
    pub fn new(lookups_max: usize) -> Self {
        Self { lookups: Arc::new(Semaphore::new(lookups_max.max(1))) }
    }
}

impl Default for SystemResolver {
    fn default() -> Self {
        Self::new(128)
    }
}

#[async_trait]
impl Resolve for SystemResolver {
    async fn resolve(&self, host: &str) -> Result<Vec<IpAddr>, ResolveError> {
        let absolute = if host.contains('.') { format!("{host}.") } else { host.to_owned() };
        let closed = |_| ResolveError::Failed(io::Error::other("the resolver has been closed"));
        let permit = Arc::clone(&self.lookups).acquire_owned().await.map_err(closed)?;
        let lookup = tokio::task::spawn_blocking(move || {
            let addresses = (absolute.as_str(), 0).to_socket_addrs().map(|found| found.map(|a| a.ip()).collect());
            drop(permit);
            addresses
        });
        lookup.await.map_err(|gone| ResolveError::Failed(io::Error::other(gone)))?.map_err(ResolveError::Failed)
    }
}

/// A fixed table of names, for sandboxes and tests: a name that is not in it does not exist.
#[derive(Debug, Clone, Default)]
pub struct HostTable {
    hosts: BTreeMap<String, Vec<IpAddr>>,
}

impl<N: Into<String>> FromIterator<(N, Vec<IpAddr>)> for HostTable {
    fn from_iter<I: IntoIterator<Item = (N, Vec<IpAddr>)>>(hosts: I) -> Self {
        Self { hosts: hosts.into_iter().map(|(name, addresses)| (name.into(), addresses)).collect() }
    }
}

#[async_trait]
impl Resolve for HostTable {
    async fn resolve(&self, host: &str) -> Result<Vec<IpAddr>, ResolveError> {
        self.hosts.get(host).cloned().ok_or(ResolveError::NotFound)
    }
}
