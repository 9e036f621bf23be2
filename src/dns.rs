//! Names looked up in the real DNS, for checking where mail comes from.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use anyhow::Context as _;
use async_trait::async_trait;
use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolverConfig};
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::rr::{Name, RData, RecordType};
use hickory_resolver::{ResolverBuilder, TokioResolver};
use mail::auth::{DnsError, MxRecord, Resolver};

use crate::config::Config;

/// The most answers of one name that are looked at; more is an attack or a mistake.
const ANSWERS_MAX: usize = 100;

/// Who may be asked for names. Neither is there in a sandbox that names no server.
pub struct Names {
    /// Answers whatever mail needs; what it learnt is kept for its time to live.
    pub cached: Option<Arc<dyn Resolver>>,
    /// Answers for the records of sending domains: whoever has just published one wants it to be seen.
    pub fresh: Option<Arc<dyn Resolver>>,
}

impl Names {
    /// Returns the resolvers of an installation.
    ///
    /// # Errors
    /// The configuration of the machine cannot be read.
    pub fn new(config: &Config) -> anyhow::Result<Self> {
        Ok(Self { cached: made(config, Caching::Kept)?, fresh: made(config, Caching::Off)? })
    }
}

fn made(config: &Config, caching: Caching) -> anyhow::Result<Option<Arc<dyn Resolver>>> {
    Ok(match config.dns.server {
        Some(server) => Some(Arc::new(SystemDns::at(server, caching)?)),
        None if config.server.sandbox => None,
        None => Some(Arc::new(SystemDns::new(caching)?)),
    })
}

/// Whether answers are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Caching {
    /// For their time to live.
    Kept,
    /// Not at all.
    Off,
}

/// A resolver over the servers of `/etc/resolv.conf` or one that is named, with a cache that
/// keeps answers for their time to live, or without one.
pub struct SystemDns {
    resolver: TokioResolver,
}

impl SystemDns {
    /// Returns a resolver with the machine's configuration.
    ///
    /// # Errors
    /// The configuration cannot be read.
    pub fn new(caching: Caching) -> anyhow::Result<Self> {
        Self::of(TokioResolver::builder_tokio().context("the DNS configuration cannot be read")?, caching)
    }

    /// Returns a resolver that asks one server.
    ///
    /// # Errors
    /// The resolver cannot be made.
    pub fn at(server: SocketAddr, caching: Caching) -> anyhow::Result<Self> {
        let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()].map(|mut connection| {
            connection.port = server.port();
            connection
        });
        let server = NameServerConfig::new(server.ip(), true, connections.into());
        let config = ResolverConfig::from_name_servers(vec![server]);
        Self::of(TokioResolver::builder_with_config(config, TokioRuntimeProvider::default()), caching)
    }

    fn of(mut builder: ResolverBuilder<TokioRuntimeProvider>, caching: Caching) -> anyhow::Result<Self> {
        if caching == Caching::Off {
            builder.options_mut().cache_size = 0;
        }
        Ok(Self { resolver: builder.build().context("the DNS resolver cannot be made")? })
    }

    async fn look_up(&self, name: &str, record_type: RecordType) -> Result<Vec<RData>, DnsError> {
        // A final dot makes the name absolute, so that no search domain of this machine is appended.
        let name = Name::from_utf8(format!("{}.", name.trim_end_matches('.'))).map_err(|_| DnsError::NxDomain)?;
        self.ask(name, record_type).await
    }

    async fn ask(&self, name: Name, record_type: RecordType) -> Result<Vec<RData>, DnsError> {
        match self.resolver.lookup(name, record_type).await {
            Ok(found) => Ok(found.answers().iter().take(ANSWERS_MAX).map(|record| record.data.clone()).collect()),
            Err(e) => absent(&e),
        }
    }
}

/// Tells "there is no such name" and "the name has no such records" from "nobody answered".
fn absent(error: &NetError) -> Result<Vec<RData>, DnsError> {
    if error.is_nx_domain() {
        Err(DnsError::NxDomain)
    } else if error.is_no_records_found() {
        Ok(vec![])
    } else {
        Err(DnsError::Temporary)
    }
}

fn text(name: &Name) -> String {
    name.to_ascii().trim_end_matches('.').to_owned()
}

#[async_trait]
impl Resolver for SystemDns {
    async fn txt(&self, name: &str) -> Result<Vec<Vec<u8>>, DnsError> {
        let answers = self.look_up(name, RecordType::TXT).await?;
        let joined = |data| if let RData::TXT(txt) = data { Some(txt.txt_data.concat()) } else { None };
        Ok(answers.into_iter().filter_map(joined).collect())
    }

    async fn a(&self, name: &str) -> Result<Vec<Ipv4Addr>, DnsError> {
        let answers = self.look_up(name, RecordType::A).await?;
        Ok(answers.into_iter().filter_map(|data| if let RData::A(a) = data { Some(a.0) } else { None }).collect())
    }

    async fn aaaa(&self, name: &str) -> Result<Vec<Ipv6Addr>, DnsError> {
        let answers = self.look_up(name, RecordType::AAAA).await?;
        Ok(answers.into_iter().filter_map(|data| if let RData::AAAA(a) = data { Some(a.0) } else { None }).collect())
    }

    async fn mx(&self, name: &str) -> Result<Vec<MxRecord>, DnsError> {
        let answers = self.look_up(name, RecordType::MX).await?;
        let record = |data| {
            let RData::MX(mx) = data else { return None };
            Some(MxRecord { preference: mx.preference, exchange: text(&mx.exchange) })
        };
        Ok(answers.into_iter().filter_map(record).collect())
    }

    async fn ptr(&self, address: IpAddr) -> Result<Vec<String>, DnsError> {
        let answers = self.ask(Name::from(address), RecordType::PTR).await?;
        Ok(answers
            .into_iter()
            .filter_map(|d| if let RData::PTR(ptr) = d { Some(text(&ptr.0)) } else { None })
            .collect())
    }
}
