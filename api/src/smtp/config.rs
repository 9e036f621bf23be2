//! The section `smtp` of the configuration.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use mail::address::{Address, normalise_domain};
use mail::smtp::{Limits, Profile, StartTls};
use serde::Deserialize;

use super::network::Network;
use crate::receive;

/// How mail is taken in by SMTP.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Where to listen; nowhere if empty.
    pub listen: Vec<SocketAddr>,
    /// Our name in the greeting, in trace headers and in `Authentication-Results`.
    pub hostname: String,
    /// Sizes, counts and times of sessions.
    pub limits: Limits,
    /// STARTTLS.
    pub tls: TlsConfig,
    /// Load balancers: their connections begin with a PROXY protocol header, which is taken from nobody else.
    pub proxy_peers: Vec<Network>,
    /// Peers that may talk before the greeting and are not counted, delayed or slowed down.
    pub trusted_peers: Vec<Network>,
    /// Address literals that are ours (`RCPT TO:<u@[192.0.2.1]>`).
    pub literals: Vec<IpAddr>,
    /// Looks up SPF, DKIM, DMARC, ARC and the peer's name for each mail. Needs DNS.
    pub verify_senders: bool,
    /// The hosted domains whose mail is refused (`550 5.7.26`) when it fails its author's DMARC policy of `reject`; `*`
    /// means all of them. Elsewhere such mail is taken and labelled as spam. Needs `verify_senders`.
    pub dmarc_reject_domains: Vec<String>,
    /// The spam score, in tenths of a point, from which mail goes to the junk folder.
    pub spam_threshold_tenths: i32,
    /// The mailbox that gets mail for `postmaster` here and at hosted domains that have no such mailbox.
    pub postmaster_mailbox: Option<String>,
    /// The most octets of unfinished mail held in memory, over all connections.
    pub held_octets_max: usize,
    /// How many mails larger than 64 KiB are parsed at the same time; 0 means one per processor.
    pub large_mails_parsed_at_once: usize,
    /// How long open sessions get to end when the program stops.
    pub drain_seconds: u32,
    /// What is done about peers that guess addresses.
    pub harvest: HarvestConfig,
    /// How many mails are taken how fast.
    pub rates: RateConfig,
    /// Whether senders that are new to a mailbox are asked to come again.
    pub greylist: GreylistConfig,
}

/// Greylisting (RFC 6647). A peer is its network: an IPv4 /24 or an IPv6 /64.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GreylistConfig {
    /// Whether it is done at all.
    pub on: bool,
    /// How long a new sender has to wait.
    pub delay_seconds: u32,
    /// How long it is remembered that it came.
    pub window_seconds: u32,
    /// How many days a sender that waited is let in, from its last mail on.
    pub pass_days: u32,
}

impl Default for GreylistConfig {
    fn default() -> Self {
        Self { on: false, delay_seconds: 300, window_seconds: 86_400, pass_days: 35 }
    }
}

/// STARTTLS of the SMTP listener.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TlsConfig {
    /// PEM file of the certificate chain; without it a self-made certificate is used.
    pub certificate_file: Option<PathBuf>,
    /// PEM file of the private key.
    pub key_file: Option<PathBuf>,
    /// Takes mail only after STARTTLS. Public receivers must not require it (RFC 3207 §4).
    pub required: bool,
    /// Does not offer STARTTLS at all.
    pub off: bool,
}

/// Delays and disconnections against directory harvesting, per peer and hour.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HarvestConfig {
    /// So many unknown recipients are answered at once.
    pub unknown_recipients_free: u32,
    /// From here on connections end with `421`.
    pub unknown_recipients_max: u32,
    /// The first delay.
    pub delay_min_millis: u32,
    /// The longest delay.
    pub delay_max_millis: u32,
}

impl Default for HarvestConfig {
    fn default() -> Self {
        Self {
            unknown_recipients_free: 20,
            unknown_recipients_max: 100,
            delay_min_millis: 1_000,
            delay_max_millis: 5_000,
        }
    }
}

/// Token buckets; each holds one minute's worth. 0 turns a rate off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RateConfig {
    /// Mails from one peer to one mailbox.
    pub mails_per_minute_per_mailbox_and_peer: u32,
    /// Mails from all peers to one mailbox.
    pub mails_per_minute_per_mailbox: u32,
}

impl Default for RateConfig {
    fn default() -> Self {
        Self { mails_per_minute_per_mailbox_and_peer: 600, mails_per_minute_per_mailbox: 3_000 }
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: vec![SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 2525)],
            hostname: "localhost".to_owned(),
            limits: Limits::default(),
            tls: TlsConfig::default(),
            proxy_peers: vec![],
            trusted_peers: vec![],
            literals: vec![],
            verify_senders: false,
            dmarc_reject_domains: vec![],
            spam_threshold_tenths: 50,
            postmaster_mailbox: None,
            held_octets_max: 512 * 1024 * 1024,
            large_mails_parsed_at_once: 0,
            drain_seconds: 10,
            harvest: HarvestConfig::default(),
            rates: RateConfig::default(),
            greylist: GreylistConfig::default(),
        }
    }
}

impl Config {
    /// Returns everything that is wrong with the section, each naming its key.
    #[must_use]
    pub fn problems(&self) -> Vec<String> {
        let mut problems = vec![];
        if let Err(e) = normalise_domain(&self.hostname) {
            problems.push(format!("smtp.hostname: {e}"));
        }
        for e in self.limits.validate().err().unwrap_or_default() {
            problems.push(format!("smtp.limits.{e}"));
        }
        let tls = &self.tls;
        if tls.certificate_file.is_some() != tls.key_file.is_some() {
            problems.push("smtp.tls.certificate_file and smtp.tls.key_file must be given together".to_owned());
        }
        if tls.off && (tls.required || tls.certificate_file.is_some()) {
            problems.push("smtp.tls.off cannot be combined with a certificate or with smtp.tls.required".to_owned());
        }
        if let Some(Err(e)) = self.postmaster_mailbox.as_deref().map(Address::parse) {
            problems.push(format!("smtp.postmaster_mailbox: {e}"));
        }
        for domain in self.dmarc_reject_domains.iter().filter(|domain| *domain != "*") {
            if let Err(e) = normalise_domain(domain) {
                problems.push(format!("smtp.dmarc_reject_domains: {domain}: {e}"));
            }
        }
        if !self.dmarc_reject_domains.is_empty() && !self.verify_senders {
            problems.push("smtp.dmarc_reject_domains needs smtp.verify_senders".to_owned());
        }
        let message_octets = usize::try_from(self.limits.message_octets_max).unwrap_or(usize::MAX);
        if self.held_octets_max < message_octets {
            problems.push("smtp.held_octets_max must not be below smtp.limits.message_octets_max".to_owned());
        }
        if !(1..=600).contains(&self.drain_seconds) {
            problems.push("smtp.drain_seconds must be from 1 to 600".to_owned());
        }
        if !(1..=10_000).contains(&self.spam_threshold_tenths) {
            problems.push("smtp.spam_threshold_tenths must be from 1 to 10000".to_owned());
        }
        let harvest = &self.harvest;
        if harvest.unknown_recipients_max <= harvest.unknown_recipients_free {
            problems.push(
                "smtp.harvest.unknown_recipients_max must be above smtp.harvest.unknown_recipients_free".to_owned(),
            );
        }
        if harvest.delay_min_millis > harvest.delay_max_millis || harvest.delay_max_millis > 60_000 {
            problems.push("smtp.harvest.delay_max_millis must be from delay_min_millis to 60000".to_owned());
        }
        if self.greylist.delay_seconds >= self.greylist.window_seconds {
            problems.push("smtp.greylist.window_seconds must be above smtp.greylist.delay_seconds".to_owned());
        }
        problems
    }

    /// Returns what the receive pipeline needs of the section.
    #[must_use]
    pub fn receive_options(&self) -> receive::Options {
        receive::Options {
            hostname: normalise_domain(&self.hostname).unwrap_or_else(|_| "localhost".to_owned()),
            spam_threshold_tenths: self.spam_threshold_tenths,
            postmaster_mailbox: self.postmaster_mailbox.as_deref().and_then(|text| Address::parse(text).ok()),
            dmarc_reject_domains: self
                .dmarc_reject_domains
                .iter()
                .map(|domain| normalise_domain(domain).unwrap_or_else(|_| domain.clone()))
                .collect(),
            greylist: self.greylist.on.then(|| receive::GreylistTimes {
                delay_micros: i64::from(self.greylist.delay_seconds) * 1_000_000,
                window_micros: i64::from(self.greylist.window_seconds) * 1_000_000,
                pass_micros: i64::from(self.greylist.pass_days) * 24 * 3_600 * 1_000_000,
            }),
            large_mails_parsed_at_once: self.large_mails_parsed_at_once,
            mails_per_minute_per_mailbox_and_peer: self.rates.mails_per_minute_per_mailbox_and_peer,
            mails_per_minute_per_mailbox: self.rates.mails_per_minute_per_mailbox,
        }
    }

    /// Returns how the sessions of this listener behave.
    ///
    /// # Errors
    /// The host name is none; [`Config::problems`] says so before.
    pub fn session(&self) -> Result<mail::smtp::Config, mail::address::AddressError> {
        let mut session = mail::smtp::Config::new(Profile::Inbound, &self.hostname)?;
        session.limits = self.limits.clone();
        session.literals.clone_from(&self.literals);
        session.start_tls = match &self.tls {
            TlsConfig { off: true, .. } => StartTls::Off,
            TlsConfig { required: true, .. } => StartTls::Required,
            TlsConfig { .. } => StartTls::Optional,
        };
        Ok(session)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_have_no_problems() {
        assert_eq!(Config::default().problems(), Vec::<String>::new());
        assert!(Config::default().session().is_ok());
    }

    #[test]
    fn every_problem_is_named_at_once() {
        let mut config = Config {
            hostname: "not a name".into(),
            postmaster_mailbox: Some("nobody".into()),
            held_octets_max: 1,
            drain_seconds: 0,
            dmarc_reject_domains: vec!["not a name".into()],
            spam_threshold_tenths: 0,
            ..Config::default()
        };
        config.limits.recipients_max = 1;
        config.tls = TlsConfig { certificate_file: Some("x".into()), off: true, ..TlsConfig::default() };
        config.harvest = HarvestConfig { unknown_recipients_max: 0, delay_max_millis: 1, ..HarvestConfig::default() };
        config.greylist.window_seconds = 1;
        let problems = config.problems();
        for key in [
            "smtp.greylist.window_seconds",
            "smtp.hostname",
            "smtp.limits.recipients_max",
            "smtp.tls.key_file",
            "smtp.tls.off",
            "smtp.postmaster_mailbox",
            "smtp.held_octets_max",
            "smtp.dmarc_reject_domains: not a name",
            "smtp.dmarc_reject_domains needs",
            "smtp.drain_seconds",
            "smtp.spam_threshold_tenths",
            "smtp.harvest.unknown_recipients_max",
            "smtp.harvest.delay_max_millis",
        ] {
            assert!(problems.iter().any(|p| p.contains(key)), "{key} is not in {problems:?}");
        }
    }
}
