//! How outgoing mail leaves this installation, and what the doors may ask of that. In a sandbox nothing leaves the machine.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use api::carrier::Carrier;
use async_trait::async_trait;
use dispatcher::outbound::{Config as Settings, LocalDelivery, Parts, Queue, Reactor};
use dispatcher::smtp::Mailer;
use domain::egress::Network;
use mail::auth::{DnsError, MxRecord, Resolver};

use crate::carrier;
use crate::config::Config;
use crate::dns::Names;
use crate::store::Store;

/// All public addresses: everything of IPv4 but 127.0.0.0/8, and what of IPv6 is assigned at all.
const EVERYWHERE_ELSE: &[&str] = &[
    "0.0.0.0/2",
    "64.0.0.0/3",
    "96.0.0.0/4",
    "112.0.0.0/5",
    "120.0.0.0/6",
    "124.0.0.0/7",
    "126.0.0.0/8",
    "128.0.0.0/1",
    "2000::/3",
];

/// Returns the settings of outgoing mail: a sandbox may hand mail to servers on this machine, and to no others.
///
/// # Errors
/// `bounces.domain` is no name of a domain.
pub fn settings(config: &Config) -> anyhow::Result<Settings> {
    let mut settings = config.outbound.clone();
    if settings.hostname == Settings::default().hostname {
        settings.hostname.clone_from(&config.smtp.hostname);
    }
    settings.bounce_domain = config.bounces.normalised()?.unwrap_or_default();
    if config.server.sandbox {
        settings.dangerous_allow_loopback = true;
        settings.refused_networks.extend(EVERYWHERE_ELSE.iter().filter_map(|text| text.parse::<Network>().ok()));
    }
    Ok(settings)
}

/// Returns a resolver that there is in any case: without one, a sandbox knows no names.
pub fn or_none(resolver: Option<Arc<dyn Resolver>>) -> Arc<dyn Resolver> {
    resolver.unwrap_or_else(|| Arc::new(NoDns))
}

/// What carries outgoing mail: the task that does it, and what the doors may ask of it.
pub struct Outgoing {
    settings: Settings,
    resolver: Arc<dyn Resolver>,
    mailer: Mailer,
    queue: Queue,
}

impl Outgoing {
    /// Returns what carries the mail of an installation.
    ///
    /// # Errors
    /// `bounces.domain` is no name of a domain.
    pub fn new(config: &Config, store: &Store, names: &Names) -> anyhow::Result<Self> {
        let settings = settings(config)?;
        let resolver = or_none(names.cached.clone());
        let mailer = settings.mailer(Arc::clone(&resolver));
        Ok(Self { settings, resolver, mailer, queue: Queue::new(store.work.clone()) })
    }

    /// Returns how mail is carried.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Returns what the doors may ask.
    pub fn carrier(&self) -> Arc<dyn Carrier> {
        carrier::carrier(self.mailer.clone(), self.queue.clone())
    }

    /// Returns the task that carries mail, and takes mail to this installation's own mailboxes.
    pub fn reactor(self, store: &Store, local: Arc<dyn LocalDelivery>) -> Reactor {
        let Self { settings, resolver, mailer, queue } = self;
        let pepper = store.secrets.pepper.clone();
        Reactor::new(Parts {
            log: store.log.clone(),
            queue,
            mailer,
            resolver,
            local,
            allot: store.allot.clone(),
            config: settings,
            node: store.node.clone(),
        })
        .with_return_paths(store.secrets.pepper.return_path_key())
        .with_addresses(Arc::new(move |team, address| pepper.address(team, address)))
    }
}

/// Knows no names: a sandbox asks nobody.
struct NoDns;

#[async_trait]
impl Resolver for NoDns {
    async fn txt(&self, _: &str) -> Result<Vec<Vec<u8>>, DnsError> {
        Err(DnsError::NxDomain)
    }

    async fn a(&self, _: &str) -> Result<Vec<Ipv4Addr>, DnsError> {
        Err(DnsError::NxDomain)
    }

    async fn aaaa(&self, _: &str) -> Result<Vec<Ipv6Addr>, DnsError> {
        Err(DnsError::NxDomain)
    }

    async fn mx(&self, _: &str) -> Result<Vec<MxRecord>, DnsError> {
        Err(DnsError::NxDomain)
    }

    async fn ptr(&self, _: IpAddr) -> Result<Vec<String>, DnsError> {
        Err(DnsError::NxDomain)
    }
}

#[cfg(test)]
mod tests {
    use domain::egress::judge;

    use super::*;
    use crate::config::Sources;

    #[test]
    fn a_sandbox_reaches_this_machine_and_no_other() {
        let config = Config::load(&Sources::default()).unwrap();
        let policy = settings(&config).unwrap().policy();
        for own in ["127.0.0.1", "127.255.255.254", "::1"] {
            assert!(judge(own.parse().unwrap(), &policy).is_ok(), "{own}");
        }
        for other in ["1.1.1.1", "63.1.2.3", "95.0.0.1", "126.255.255.255", "128.0.0.1", "203.0.114.9", "2606:4700::1"]
        {
            assert!(judge(other.parse().unwrap(), &policy).is_err(), "{other}");
        }
        let config = Config { server: crate::config::Server { sandbox: false, ..config.server.clone() }, ..config };
        let policy = settings(&config).unwrap().policy();
        assert!(judge("1.1.1.1".parse().unwrap(), &policy).is_ok());
        assert!(judge("127.0.0.1".parse().unwrap(), &policy).is_err());
    }
}
