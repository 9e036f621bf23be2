//! The section `http` of the configuration.

use std::net::IpAddr;

use domain::billing::PriceBook;
use domain::egress::Policy;
use domain::sending_domain::records::Installation;
use serde::Deserialize;
use url::Url;

/// Requests a key may make.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RateLimits {
    /// How long a window is.
    pub window_seconds: u32,
    /// Requests per window and infrastructure key.
    pub infrastructure_requests: u32,
    /// Requests per window and mailbox or sending key.
    pub mailbox_requests: u32,
}

impl Default for RateLimits {
    fn default() -> Self {
        Self { window_seconds: 60, infrastructure_requests: 600, mailbox_requests: 1_800 }
    }
}

/// What a new mailbox credential says about reaching the mailbox by other protocols.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MailServer {
    /// The host name.
    pub host: String,
    /// The port for IMAP.
    pub imap_port: u16,
    /// The port for SMTP submission.
    pub smtp_port: u16,
}

impl Default for MailServer {
    fn default() -> Self {
        Self { host: "localhost".to_owned(), imap_port: 993, smtp_port: 587 }
    }
}

/// How the HTTP door behaves.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Where clients reach this API, without a path: the origin of download URLs.
    pub public_url: String,
    /// The longest JSON body.
    pub body_bytes_max: usize,
    /// Longest body of a request that sends mail, bytes: attachments come as base64 inside of it.
    pub send_body_bytes_max: usize,
    /// How long mail is tried after it is due, seconds; said by the section of outgoing mail.
    #[serde(skip)]
    pub mail_lifetime_seconds: u64,
    /// Where returned mail arrives, and mail that unsubscribes; a section of its own in the configuration file.
    #[serde(skip)]
    pub bounce_domain: Option<String>,
    /// How deep a JSON body may be nested.
    pub json_depth_max: usize,
    /// How long one request may take before it is given up.
    pub request_seconds_max: u64,
    /// How long a handler waits for the read models after a write.
    pub read_your_writes_milliseconds_max: u64,
    /// How long the URL of an attachment works without a key.
    pub download_url_seconds: u32,
    /// How long the URL of an announced upload works.
    pub upload_url_seconds: u32,
    /// How long an uploaded file can be sent along.
    pub upload_seconds: u32,
    /// How many announced and uploaded files a team may keep.
    pub uploads_max: u64,
    /// How many bytes those may have together.
    pub uploads_bytes_max: u64,
    /// How many records one audit verification walks before it answers how far it came.
    pub audit_verify_records_max: usize,
    /// How many rows of usage are summed up for one answer.
    pub usage_rows_max: usize,
    /// Peers whose `X-Forwarded-For` is believed.
    pub trusted_proxies: Vec<IpAddr>,
    /// Requests a key may make.
    pub rate_limits: RateLimits,
    /// What new mailbox credentials say about IMAP and SMTP.
    pub mail_server: MailServer,
    /// What a unit of each meter costs; a section of its own in the configuration file.
    #[serde(skip)]
    pub prices: PriceBook,
    /// Which URLs a webhook may have: the policy by which they are called.
    #[serde(skip)]
    pub webhook_urls: Policy,
    /// Which servers a sending account may name: the policy by which they are connected to.
    #[serde(skip)]
    pub smtp_hosts: Policy,
    /// Whether teams may make accounts that hand mail to the recipients' own servers; said by the section of outgoing mail.
    #[serde(skip)]
    pub allow_direct: bool,
    /// What this installation is called in the DNS; a section of its own in the configuration file.
    #[serde(skip)]
    pub installation: Installation,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            public_url: "http://127.0.0.1:8080".to_owned(),
            body_bytes_max: 10 * 1024 * 1024,
            send_body_bytes_max: 40 * 1024 * 1024,
            mail_lifetime_seconds: 72 * 60 * 60,
            bounce_domain: None,
            json_depth_max: 32,
            request_seconds_max: 30,
            read_your_writes_milliseconds_max: 2_000,
            download_url_seconds: 15 * 60,
            upload_url_seconds: 15 * 60,
            upload_seconds: 24 * 60 * 60,
            uploads_max: 1_000,
            uploads_bytes_max: 2 * 1024 * 1024 * 1024,
            audit_verify_records_max: 200_000,
            usage_rows_max: 100_000,
            trusted_proxies: vec![],
            rate_limits: RateLimits::default(),
            mail_server: MailServer::default(),
            prices: PriceBook::default(),
            webhook_urls: Policy::default(),
            smtp_hosts: Policy::default(),
            allow_direct: false,
            installation: Installation::default(),
        }
    }
}

impl Config {
    /// Returns everything that is wrong with the section, each naming its key.
    #[must_use]
    pub fn problems(&self) -> Vec<String> {
        let mut problems = vec![];
        if origin(&self.public_url).is_none() {
            problems.push("http.public_url must be http(s)://host[:port] without a path".to_owned());
        }
        let positive = [
            ("body_bytes_max", self.body_bytes_max > 0),
            ("send_body_bytes_max", self.send_body_bytes_max > 0),
            ("json_depth_max", self.json_depth_max > 0),
            ("request_seconds_max", self.request_seconds_max > 0),
            ("download_url_seconds", self.download_url_seconds > 0),
            ("upload_url_seconds", self.upload_url_seconds > 0),
            ("upload_seconds", self.upload_seconds > 0),
            ("audit_verify_records_max", self.audit_verify_records_max > 0),
            ("usage_rows_max", self.usage_rows_max > 0),
            ("rate_limits.window_seconds", self.rate_limits.window_seconds > 0),
            ("rate_limits.infrastructure_requests", self.rate_limits.infrastructure_requests > 0),
            ("rate_limits.mailbox_requests", self.rate_limits.mailbox_requests > 0),
            ("mail_server.imap_port", self.mail_server.imap_port > 0),
            ("mail_server.smtp_port", self.mail_server.smtp_port > 0),
        ];
        problems.extend(positive.iter().filter(|(_, ok)| !ok).map(|(key, _)| format!("http.{key} must not be 0")));
        if mail::address::normalise_domain(&self.mail_server.host).is_err() {
            problems.push("http.mail_server.host must be a host name".to_owned());
        }
        problems
    }
}

/// Returns the origin of a base URL: no path, query, fragment or user.
fn origin(base: &str) -> Option<String> {
    let url = Url::parse(base).ok()?;
    let bare = matches!(url.scheme(), "http" | "https")
        && url.path() == "/"
        && url.query().is_none()
        && url.fragment().is_none()
        && url.username().is_empty()
        && url.password().is_none();
    bare.then(|| url.origin().ascii_serialization())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_sound() {
        assert_eq!(Config::default().problems(), Vec::<String>::new());
    }

    #[test]
    fn every_problem_is_told_at_once() {
        let config = Config {
            public_url: "ftp://x/y".into(),
            body_bytes_max: 0,
            mail_server: MailServer { host: "a b".into(), ..MailServer::default() },
            ..Config::default()
        };
        assert_eq!(config.problems().len(), 3, "{:?}", config.problems());
        assert!(config.problems().iter().all(|p| p.starts_with("http.")));
    }
}
