//! The section `submission` of the configuration.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use domain::outbound::RECIPIENTS_MAX;
use mail::address::{AddressError, normalise_domain};
use mail::smtp::{Limits, Profile, StartTls};
use serde::Deserialize;

use super::network::Network;

/// How mail is taken from the teams' own users.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SubmissionConfig {
    /// Where to listen for sessions that begin in the clear (port 587); nowhere if empty.
    pub listen: Vec<SocketAddr>,
    /// Where to listen for sessions that begin with TLS (port 465, RFC 8314); nowhere if empty.
    pub listen_tls: Vec<SocketAddr>,
    /// Our name in the greeting and in trace fields; that of the receiving door if `None`.
    pub hostname: Option<String>,
    /// Takes keys in the clear, from anybody.
    pub dangerous_auth_without_tls: bool,
    /// Takes keys in the clear from this machine. Not a key of the configuration file: a sandbox does.
    #[serde(skip)]
    pub auth_on_loopback: bool,
    /// Load balancers: their connections begin with a PROXY protocol header, which is taken from nobody else.
    pub proxy_peers: Vec<Network>,
    /// The most octets of unfinished mail held in memory, over all connections.
    pub held_octets_max: usize,
    /// How long open sessions get to end when the program stops.
    pub drain_seconds: u32,
    /// The certificate.
    pub tls: SubmissionTls,
    /// What is done about peers that guess keys.
    pub guessing: GuessConfig,
    /// Sizes, counts and times of sessions.
    pub limits: Limits,
}

/// The certificate of the submission listener.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SubmissionTls {
    /// PEM file of the certificate chain; without it, that of the receiving door is used.
    pub certificate_file: Option<PathBuf>,
    /// PEM file of the private key.
    pub key_file: Option<PathBuf>,
}

/// Delays and disconnections against guessing keys, per peer and hour.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GuessConfig {
    /// So many wrong keys are answered at once.
    pub wrong_keys_free: u32,
    /// From here on nobody authenticates from there any more.
    pub wrong_keys_max: u32,
    /// The first delay.
    pub delay_min_millis: u32,
    /// The longest delay.
    pub delay_max_millis: u32,
}

impl Default for GuessConfig {
    fn default() -> Self {
        Self { wrong_keys_free: 5, wrong_keys_max: 50, delay_min_millis: 1_000, delay_max_millis: 5_000 }
    }
}

impl Default for SubmissionConfig {
    fn default() -> Self {
        Self {
            listen: vec![SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 2587)],
            listen_tls: vec![],
            hostname: None,
            dangerous_auth_without_tls: false,
            auth_on_loopback: false,
            proxy_peers: vec![],
            held_octets_max: 256 * 1024 * 1024,
            drain_seconds: 10,
            tls: SubmissionTls::default(),
            guessing: GuessConfig::default(),
            limits: Limits { recipients_max: 100, ..Limits::default() },
        }
    }
}

impl SubmissionConfig {
    /// Returns everything that is wrong with the section, each naming its key.
    #[must_use]
    pub fn problems(&self) -> Vec<String> {
        let mut problems = vec![];
        if let Some(Err(e)) = self.hostname.as_deref().map(normalise_domain) {
            problems.push(format!("submission.hostname: {e}"));
        }
        for e in self.limits.validate().err().unwrap_or_default() {
            problems.push(format!("submission.limits.{e}"));
        }
        if self.tls.certificate_file.is_some() != self.tls.key_file.is_some() {
            problems
                .push("submission.tls.certificate_file and submission.tls.key_file must be given together".to_owned());
        }
        let message_octets = usize::try_from(self.limits.message_octets_max).unwrap_or(usize::MAX);
        if self.held_octets_max < message_octets {
            problems
                .push("submission.held_octets_max must not be below submission.limits.message_octets_max".to_owned());
        }
        if !(1..=600).contains(&self.drain_seconds) {
            problems.push("submission.drain_seconds must be from 1 to 600".to_owned());
        }
        let guessing = &self.guessing;
        if guessing.wrong_keys_max <= guessing.wrong_keys_free {
            problems.push(
                "submission.guessing.wrong_keys_max must be above submission.guessing.wrong_keys_free".to_owned(),
            );
        }
        if guessing.delay_min_millis > guessing.delay_max_millis || guessing.delay_max_millis > 60_000 {
            problems.push("submission.guessing.delay_max_millis must be from delay_min_millis to 60000".to_owned());
        }
        problems
    }

    /// Returns how the sessions of this listener behave; `hostname` stands in where the section names none.
    ///
    /// # Errors
    /// The host name is none; [`SubmissionConfig::problems`] says so before.
    pub fn session(&self, hostname: &str) -> Result<mail::smtp::Config, AddressError> {
        let hostname = self.hostname.as_deref().unwrap_or(hostname);
        let mut session = mail::smtp::Config::new(Profile::Submission, hostname)?;
        session.limits = self.limits.clone();
        // A client that has more is asked to send the rest in another transaction, and told beforehand.
        session.limits.recipients_max = session.limits.recipients_max.min(RECIPIENTS_MAX);
        session.start_tls = StartTls::Optional;
        session.dangerous_auth_without_tls = self.dangerous_auth_without_tls;
        Ok(session)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_have_no_problems_and_take_no_key_in_the_clear() {
        let config = SubmissionConfig::default();
        assert_eq!(config.problems(), Vec::<String>::new());
        let session = config.session("mx.example.org").unwrap();
        assert!(!session.dangerous_auth_without_tls && session.limits.recipients_max == RECIPIENTS_MAX);
    }

    #[test]
    fn every_problem_is_named_at_once() {
        let mut config = SubmissionConfig {
            hostname: Some("not a name".into()),
            held_octets_max: 1,
            drain_seconds: 0,
            ..SubmissionConfig::default()
        };
        config.limits.recipients_max = 1;
        config.tls.key_file = Some("x".into());
        config.guessing = GuessConfig { wrong_keys_max: 0, delay_max_millis: 1, ..GuessConfig::default() };
        let problems = config.problems();
        for key in [
            "submission.hostname",
            "submission.limits.recipients_max",
            "submission.tls.key_file",
            "submission.held_octets_max",
            "submission.drain_seconds",
            "submission.guessing.wrong_keys_max",
            "submission.guessing.delay_max_millis",
        ] {
            assert!(problems.iter().any(|p| p.contains(key)), "{key} is not in {problems:?}");
        }
    }
}
