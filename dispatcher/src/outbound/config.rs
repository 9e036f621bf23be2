//! The configuration section `outbound`.

use std::sync::Arc;
use std::time::Duration;

use domain::egress::{Network, Policy};
use domain::retry::RetryPolicy;
use domain::site::SitePolicy;
use mail::auth::Resolver;
use mail::smtp::client::Timeouts;
use serde::{Deserialize, Serialize};

use crate::smtp::{Limits, Mailer};

/// How outgoing mail is carried.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Our name in EHLO: the name that our address leads back to.
    pub hostname: String,
    /// When refused mail is tried again, and for how long.
    pub retry: RetryPolicy,
    /// How hard the recipients' own servers are tried.
    pub sites: SitePolicy,
    /// TCP ports that mail is handed over to.
    pub ports: Vec<u16>,
    /// Addresses never to be connected to although they are public.
    pub refused_networks: Vec<Network>,
    /// Lets accounts name servers on this machine's loopback, on any port, with passwords in the clear. For sandboxes
    /// only: whoever may create an account can then talk to every local service.
    pub dangerous_allow_loopback: bool,
    /// Inside networks that accounts may name servers in.
    pub dangerous_allow_networks: Vec<Network>,
    /// The domain whose recipients are played by Postlog itself, in mail through sandbox accounts.
    pub simulator_domain: String,
    /// The domain that bounces of what is sent directly come back to, each to an address of its own; said by whoever
    /// receives for it. Empty: bounces go to the sender.
    #[serde(skip)]
    pub bounce_domain: String,
    /// Whether mail through SMTP accounts names the bounce domain too. Many providers take only senders they know.
    pub bounce_domain_through_accounts: bool,
    /// Where Amazon SES answers, as an origin such as `http://127.0.0.1:4579`; for emulators. Empty: at Amazon.
    pub ses_endpoint: String,
    /// TCP port of the recipients' own servers.
    pub direct_port: u16,
    /// Whether teams may make accounts that hand mail to the recipients' own servers: it leaves from our address, under our
    /// name, and our reputation pays for it. A sandbox never allows it.
    pub allow_direct: bool,
    /// Mails on their way at the same time, in all.
    pub concurrency_max: usize,
    /// Mails on their way for one team.
    pub concurrency_per_team_max: usize,
    /// Connections to one account's server.
    pub connections_per_account_max: usize,
    /// Mails through one connection.
    pub mails_per_connection: u32,
    /// How long a connection is kept unused.
    pub idle_seconds: u64,
    /// How long a connection is used at all.
    pub connection_age_seconds: u64,
    /// Longest wait for a server to accept a connection.
    pub connect_seconds: u64,
    /// Longest time for one mail, from the connection to the last reply.
    pub session_seconds: u64,
    /// Longest wait for the reply to the content. Shorter than ten minutes makes doubles (RFC 5321 §4.5.3.2.6).
    pub final_reply_seconds: u32,
    /// Events read at a time.
    pub page_events: usize,
    /// Due mails of one team taken up at a time.
    pub page_mails: usize,
    /// How often due work and moved teams are looked for; hints make it faster, never slower.
    pub poll_milliseconds: u64,
    /// How long a node keeps a team without renewing its lease. Renewed at a third.
    pub lease_seconds: u64,
    /// After how much idle time a lease is given back.
    pub idle_release_seconds: u64,
    /// Longest wait for mail on its way when the program stops. What is not answered then is uncertain.
    pub drain_seconds: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            hostname: "localhost".to_owned(),
            retry: RetryPolicy::default(),
            sites: SitePolicy::default(),
            ports: vec![25, 465, 587, 2525],
            refused_networks: vec![],
            dangerous_allow_loopback: false,
            dangerous_allow_networks: vec![],
            simulator_domain: "simulator.postlog.test".to_owned(),
            bounce_domain: String::new(),
            bounce_domain_through_accounts: false,
            ses_endpoint: String::new(),
            direct_port: 25,
            allow_direct: false,
            concurrency_max: 256,
            concurrency_per_team_max: 32,
            connections_per_account_max: 10,
            mails_per_connection: 100,
            idle_seconds: 10,
            connection_age_seconds: 300,
            connect_seconds: 30,
            session_seconds: 1_800,
            final_reply_seconds: 600,
            page_events: 500,
            page_mails: 64,
            poll_milliseconds: 1_000,
            lease_seconds: 30,
            idle_release_seconds: 30,
            drain_seconds: 10,
        }
    }
}

impl Config {
    /// Returns everything that is wrong, each entry naming its key; empty if nothing is.
    #[must_use]
    pub fn problems(&self) -> Vec<String> {
        let wide = |n: usize| u64::try_from(n).unwrap_or(u64::MAX);
        let rows = [
            ("concurrency_max", wide(self.concurrency_max), 1, 10_000),
            ("concurrency_per_team_max", wide(self.concurrency_per_team_max), 1, 10_000),
            ("connections_per_account_max", wide(self.connections_per_account_max), 1, 1_000),
            ("mails_per_connection", self.mails_per_connection.into(), 1, 100_000),
            ("idle_seconds", self.idle_seconds, 0, 300),
            ("connection_age_seconds", self.connection_age_seconds, 1, 3_600),
            ("connect_seconds", self.connect_seconds, 1, 300),
            ("session_seconds", self.session_seconds, 10, 7_200),
            ("final_reply_seconds", self.final_reply_seconds.into(), 1, 3_600),
            ("page_events", wide(self.page_events), 1, 1_000),
            ("page_mails", wide(self.page_mails), 1, 1_000),
            ("poll_milliseconds", self.poll_milliseconds, 10, 60_000),
            ("lease_seconds", self.lease_seconds, 3, 3_600),
            ("idle_release_seconds", self.idle_release_seconds, 1, 3_600),
            ("drain_seconds", self.drain_seconds, 0, 300),
            ("direct_port", self.direct_port.into(), 1, 65_535),
        ];
        let out_of_range = rows.into_iter().filter(|(_, value, min, max)| !(min..=max).contains(&value));
        let mut problems: Vec<_> =
            out_of_range.map(|(key, _, min, max)| format!("outbound.{key} must lie between {min} and {max}")).collect();
        if let Err(invalid) = self.retry.check() {
            problems.push(format!("outbound.retry: {invalid}"));
        }
        let names = [
            ("hostname", &self.hostname),
            ("simulator_domain", &self.simulator_domain),
            ("bounce_domain", &self.bounce_domain),
        ];
        for (key, name) in names {
            let off = key == "bounce_domain" && name.is_empty();
            if !off && mail::address::normalise_domain(name).is_err() {
                problems.push(format!("outbound.{key} must be a host name"));
            }
        }
        if let Err(why) = super::ses::endpoint(self, "eu-west-1") {
            problems.push(format!("outbound.ses_endpoint: {why}"));
        }
        problems
    }

    /// Returns a mailer that obeys this section.
    #[must_use]
    pub fn mailer(&self, resolver: Arc<dyn Resolver>) -> Mailer {
        Mailer::new(self.limits(), self.policy(), resolver)
    }

    /// Returns which addresses and ports may be connected to.
    #[must_use]
    pub fn policy(&self) -> Policy {
        Policy {
            ports: self.ports.clone(),
            refused_networks: self.refused_networks.clone(),
            dangerous_allow_http_loopback: self.dangerous_allow_loopback,
            dangerous_allow_networks: self.dangerous_allow_networks.clone(),
        }
    }

    /// Returns the bounds on connections.
    #[must_use]
    pub fn limits(&self) -> Limits {
        Limits {
            hostname: self.hostname.clone(),
            connect: Duration::from_secs(self.connect_seconds),
            session: Duration::from_secs(self.session_seconds),
            idle: Duration::from_secs(self.idle_seconds),
            age: Duration::from_secs(self.connection_age_seconds),
            mails_per_connection: self.mails_per_connection,
            connections_per_peer_max: self.connections_per_account_max,
            timeouts: Timeouts { end_of_data: self.final_reply_seconds, ..Timeouts::default() },
        }
    }

    pub(crate) fn lease(&self) -> Duration {
        Duration::from_secs(self.lease_seconds)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_have_no_problems() {
        assert_eq!(Config::default().problems(), Vec::<String>::new());
    }

    #[test]
    fn all_problems_are_named_at_once() {
        let config = Config { hostname: "a b".into(), lease_seconds: 0, page_events: 0, ..Config::default() };
        let problems = config.problems().join("\n");
        for key in ["hostname", "lease_seconds", "page_events"] {
            assert!(problems.contains(key), "{key} is missing in {problems}");
        }
    }
}
