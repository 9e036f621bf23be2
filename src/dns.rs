//! Names looked up in the real DNS, for checking where mail comes from.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::Context as _;
use async_trait::async_trait;
use hickory_resolver::TokioResolver;
use hickory_resolver::net::NetError;
use hickory_resolver::proto::rr::{Name, RData, RecordType};
use mail::auth::{DnsError, MxRecord, Resolver};

/// The most answers of one name that are looked at; more is an attack or a mistake.
const ANSWERS_MAX: usize = 100;

/// A resolver over the servers of `/etc/resolv.conf`, with a cache that keeps answers for their time to live.
pub struct SystemDns {
    resolver: TokioResolver,
}

impl SystemDns {
    /// Returns a resolver with the machine's configuration.
    ///
    /// # Errors
    /// The configuration cannot be read.
    pub fn new() -> anyhow::Result<Self> {
        let builder = TokioResolver::builder_tokio().context("the DNS configuration cannot be read")?;
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
