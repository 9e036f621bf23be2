//! How outgoing mail leaves this installation, and what the doors may ask of that. In a sandbox nothing leaves the machine.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use anyhow::Context as _;
use api::carrier::{Carrier, Server, Transcript, Trial};
use async_trait::async_trait;
use dispatcher::outbound::{Config as Settings, LocalDelivery, Parts, Queue, Reactor, TRANSCRIPTS_MICROS};
use dispatcher::smtp::{Mailer, Peer, Protection};
use domain::egress::Network;
use domain::id::{OutboundId, TeamId};
use domain::provider::credentials::Credentials;
use domain::provider::{Security, Trouble};
use mail::auth::{DnsError, MxRecord, Resolver};
use mail::smtp::client::{Cause, Failure, Login};

use crate::config::Config;
use crate::dns::SystemDns;
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
pub fn settings(config: &Config) -> Settings {
    let mut settings = config.outbound.clone();
    if settings.hostname == Settings::default().hostname {
        settings.hostname.clone_from(&config.smtp.hostname);
    }
    if config.server.sandbox {
        settings.dangerous_allow_loopback = true;
        settings.refused_networks.extend(EVERYWHERE_ELSE.iter().filter_map(|text| text.parse::<Network>().ok()));
    }
    settings
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
    /// The machine's DNS configuration cannot be read.
    pub fn new(config: &Config, store: &Store) -> anyhow::Result<Self> {
        let settings = settings(config);
        let resolver: Arc<dyn Resolver> = match config.server.sandbox {
            true => Arc::new(NoDns),
            false => Arc::new(SystemDns::new().context("outgoing mail needs DNS")?),
        };
        let mailer = settings.mailer(Arc::clone(&resolver));
        Ok(Self { settings, resolver, mailer, queue: Queue::new(store.work.clone()) })
    }

    /// Returns how mail is carried.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Returns what the doors may ask.
    pub fn carrier(&self) -> Arc<dyn Carrier> {
        Arc::new(Asked { mailer: self.mailer.clone(), queue: self.queue.clone() })
    }

    /// Returns the task that carries mail, and takes mail to this installation's own mailboxes.
    pub fn reactor(self, store: &Store, local: Arc<dyn LocalDelivery>) -> Reactor {
        let Self { settings, resolver, mailer, queue } = self;
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
    }
}

/// Answers what the doors ask.
struct Asked {
    mailer: Mailer,
    queue: Queue,
}

#[async_trait]
impl Carrier for Asked {
    async fn probe(&self, server: Server) -> Trial {
        let protection = match server.security {
            Security::None => Protection::None,
            Security::Starttls => Protection::Starttls,
            Security::Tls => Protection::Tls,
        };
        let login = server.login.map(|Credentials { username, password }| Login { username, password });
        // A test shares no connection with mail: what it is about is whether one comes about.
        let peer = Peer { key: String::new(), host: server.host, port: server.port, protection, login };
        match self.mailer.probe(&peer).await {
            Ok(probed) => trial(probed.ready, probed.failure.as_ref()),
            Err(unreachable) => Trial { result: Err(None), message: unreachable.to_string() },
        }
    }

    async fn transcripts(
        &self,
        team: &TeamId,
        mail: &OutboundId,
        now: i64,
    ) -> Result<Vec<Transcript>, projections::Error> {
        let all = self.queue.transcripts(team, mail).await?;
        let kept = all.into_iter().filter(|t| t.at > now - TRANSCRIPTS_MICROS);
        Ok(kept.map(|t| Transcript { attempt: t.attempt, account: t.account, said: t.said, at: t.at }).collect())
    }
}

/// Says what a look at a server means for its account.
fn trial(ready: bool, failure: Option<&Failure>) -> Trial {
    let Some(failure) = failure else {
        return match ready {
            true => Trial { result: Ok(()), message: "The server is ready to take mail.".to_owned() },
            false => Trial { result: Err(None), message: "The server closed the connection.".to_owned() },
        };
    };
    let permanent = failure.reply.as_ref().is_none_or(|reply| reply.code / 100 == 5);
    let trouble = match failure.cause {
        Cause::AuthRejected if permanent => Some(Trouble::LoginRefused),
        Cause::AuthNotOffered | Cause::AuthWithoutTls | Cause::TlsNotOffered | Cause::Garbage => {
            Some(Trouble::Misconfigured)
        }
        _ => None,
    };
    let message = match &failure.reply {
        Some(reply) => format!("{}: {} {}", failure.cause, reply.code, reply.text),
        None => failure.cause.to_string(),
    };
    Trial { result: Err(trouble), message }
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
    use mail::bounce::Stage;
    use mail::smtp::client::ServerReply;

    use super::*;
    use crate::config::Sources;

    #[test]
    fn a_refused_password_is_told_from_a_server_that_is_busy() {
        let refused = |code, cause| {
            let reply = ServerReply { code, enhanced: None, text: "no".to_owned() };
            trial(false, Some(&Failure { stage: Stage::Auth, cause, reply: Some(reply) })).result
        };
        assert_eq!(refused(535, Cause::AuthRejected), Err(Some(Trouble::LoginRefused)));
        assert_eq!(refused(454, Cause::AuthRejected), Err(None));
        assert_eq!(refused(421, Cause::Reply), Err(None));
        assert_eq!(trial(true, None).result, Ok(()));
        assert_eq!(trial(false, None).result, Err(None));
    }

    #[test]
    fn a_sandbox_reaches_this_machine_and_no_other() {
        let config = Config::load(&Sources::default()).unwrap();
        let policy = settings(&config).policy();
        for own in ["127.0.0.1", "127.255.255.254", "::1"] {
            assert!(judge(own.parse().unwrap(), &policy).is_ok(), "{own}");
        }
        for other in ["1.1.1.1", "63.1.2.3", "95.0.0.1", "126.255.255.255", "128.0.0.1", "203.0.114.9", "2606:4700::1"]
        {
            assert!(judge(other.parse().unwrap(), &policy).is_err(), "{other}");
        }
        let config = Config { server: crate::config::Server { sandbox: false, ..config.server.clone() }, ..config };
        let policy = settings(&config).policy();
        assert!(judge("1.1.1.1".parse().unwrap(), &policy).is_ok());
        assert!(judge("127.0.0.1".parse().unwrap(), &policy).is_err());
    }
}
