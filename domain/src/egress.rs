//! Which URLs we are willing to call. Pure: text in, [`Target`] or [`Refused`] out.
//!
//! The doors use it to refuse a URL when it is given, the egress client whenever it is about to be called.
//!
//! A URL is taken apart and put together again exactly once, here. What is connected to later is the [`Target`], so
//! there is no second reading of the text that could disagree with the first (the usual way around such a guard).

use std::net::IpAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use url::Url;

pub mod address;

pub use address::{Forbidden, InvalidNetwork, Network, is_allowed, judge};

/// Longest URL, in bytes, both as given and in its canonical form.
pub const URL_BYTES_MAX: usize = 2048;

/// What a URL may look like and where it may lead.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Policy {
    /// Ports that may be called.
    pub ports: Vec<u16>,
    /// Addresses never to be called although they are public: our own, or a NAT64 prefix of this network's own.
    /// Wins over everything below.
    pub refused_networks: Vec<Network>,
    /// Lets `http://` and `https://` reach this machine's loopback on any port. For sandboxes only: whoever may
    /// create a webhook can then talk to every service that trusts local callers.
    pub dangerous_allow_http_loopback: bool,
    /// Inside networks that may be called over https. Whoever may create a webhook can then reach them. Local host
    /// names (`receiver`, `receiver.internal`) are accepted as soon as this is not empty.
    pub dangerous_allow_networks: Vec<Network>,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            ports: vec![443, 8443],
            refused_networks: Vec::new(),
            dangerous_allow_http_loopback: false,
            dangerous_allow_networks: Vec::new(),
        }
    }
}

/// Why a URL, or an address it leads to, is not called. The message is meant for the person who gave the URL and
/// therefore does not say which address a name has: that would tell strangers about our network.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// More than [`URL_BYTES_MAX`] bytes.
    #[error("url is longer than {URL_BYTES_MAX} bytes")]
    TooLong,
    /// Not an absolute URL, or it contains spaces, control characters or backslashes.
    #[error("url is not a well-formed absolute URL")]
    Malformed,
    /// Another scheme than https.
    #[error("url must begin with https://")]
    Scheme,
    /// A user name or password before the host.
    #[error("url must not contain a user name or password")]
    UserInfo,
    /// A part behind `#`, which is never sent and so can only mislead.
    #[error("url must not contain a fragment")]
    Fragment,
    /// The host is neither a valid DNS name (RFC 1123 2.1, RFC 5891) nor an IP address.
    #[error("url has no valid host")]
    Host,
    /// The host is a name of a local network (RFC 6761, RFC 6762, or a name without a dot).
    #[error("url must name a public host")]
    LocalName,
    /// A port outside of [`Policy::ports`].
    #[error("url must not use port {port}")]
    Port {
        /// The port asked for.
        port: u16,
    },
    /// The host is, or has, an address that is not public.
    #[error("url leads to an address that is not public")]
    Address {
        /// Name of the range the address lies in; not part of the message.
        block: &'static str,
    },
}

impl Refused {
    /// Returns a stable word for this reason, for programs.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::TooLong => "url_too_long",
            Self::Malformed => "url_malformed",
            Self::Scheme => "url_scheme",
            Self::UserInfo => "url_user_info",
            Self::Fragment => "url_fragment",
            Self::Host => "url_host",
            Self::LocalName => "url_local_name",
            Self::Port { .. } => "url_port",
            Self::Address { .. } => "url_address",
        }
    }
}

impl From<Forbidden> for Refused {
    fn from(Forbidden { block }: Forbidden) -> Self {
        Self::Address { block }
    }
}

/// A host in canonical form.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Host {
    /// A DNS name: lower case, ASCII (A-labels), without trailing dot.
    Name(Arc<str>),
    /// An address; IPv4-mapped IPv6 has become IPv4.
    Address(IpAddr),
}

/// Transport of a [`Target`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Scheme {
    /// HTTP over TLS.
    Https,
    /// Plain HTTP, possible for loopback in a sandbox only.
    Http,
}

/// A URL that passed the policy, in parts that need no further interpretation. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    scheme: Scheme,
    host: Host,
    port: u16,
    origin: Arc<str>,
    authority: Arc<str>,
    path_and_query: Arc<str>,
}

impl Target {
    /// Reads a URL and judges everything that can be judged without DNS.
    ///
    /// # Errors
    /// The first [`Refused`] that applies.
    pub fn parse(text: &str, policy: &Policy) -> Result<Self, Refused> {
        if text.len() > URL_BYTES_MAX {
            return Err(Refused::TooLong);
        }
        let scheme = check_spelling(text)?;
        let url = Url::parse(text).map_err(|_| Refused::Host)?;
        if !url.username().is_empty() || url.password().is_some() {
            return Err(Refused::UserInfo);
        }
        let host = match url.host() {
            Some(url::Host::Domain(name)) => Host::Name(canonical_name(name)?),
            Some(url::Host::Ipv4(ip)) => Host::Address(IpAddr::V4(ip)),
            Some(url::Host::Ipv6(ip)) => Host::Address(IpAddr::V6(ip).to_canonical()),
            None => return Err(Refused::Host),
        };
        let port = url.port_or_known_default().ok_or(Refused::Malformed)?;
        let mut request_target = url.path().to_owned();
        if let Some(query) = url.query() {
            request_target.push('?');
            request_target.push_str(query);
        }
        let target = Self::from_parts(scheme, host, port, &request_target)?;
        if target.url_bytes() > URL_BYTES_MAX {
            return Err(Refused::TooLong);
        }
        target.check(policy)?;
        Ok(target)
    }

    fn from_parts(scheme: Scheme, host: Host, port: u16, request_target: &str) -> Result<Self, Refused> {
        let (name, default_port) = match scheme {
            Scheme::Https => ("https", 443),
            Scheme::Http => ("http", 80),
        };
        let bare = match &host {
            Host::Name(host) => host.to_string(),
            Host::Address(IpAddr::V4(ip)) => ip.to_string(),
            Host::Address(IpAddr::V6(ip)) => format!("[{ip}]"),
        };
        let authority = if port == default_port { bare } else { format!("{bare}:{port}") };
        // Both go into the head of a request: nothing in them may end a line.
        if !authority.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(Refused::Host);
        }
        if !request_target.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(Refused::Malformed);
        }
        Ok(Self {
            origin: format!("{name}://{authority}").into(),
            authority: authority.into(),
            path_and_query: request_target.into(),
            scheme,
            host,
            port,
        })
    }

    /// Judges scheme, port and host once more, for instance under a policy that has changed since [`Target::parse`].
    ///
    /// # Errors
    /// [`Refused::Scheme`], [`Refused::Port`], [`Refused::LocalName`] or [`Refused::Address`].
    pub fn check(&self, policy: &Policy) -> Result<(), Refused> {
        let sandboxed = policy.dangerous_allow_http_loopback && self.is_loopback();
        if self.scheme == Scheme::Http && !sandboxed {
            return Err(Refused::Scheme);
        }
        match &self.host {
            Host::Name(name) if !sandboxed && is_local(name) && policy.dangerous_allow_networks.is_empty() => {
                return Err(Refused::LocalName);
            }
            Host::Name(_) => {}
            Host::Address(ip) => judge(*ip, policy)?,
        }
        if !sandboxed && !policy.ports.contains(&self.port) {
            return Err(Refused::Port { port: self.port });
        }
        Ok(())
    }

    /// Returns how to speak to the host.
    pub const fn scheme(&self) -> Scheme {
        self.scheme
    }

    /// Returns the canonical host.
    pub const fn host(&self) -> &Host {
        &self.host
    }

    /// Returns the TCP port.
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// Returns `scheme://host[:port]`, the same text for every spelling of one origin (RFC 6454): the key to limit
    /// concurrency by.
    pub const fn origin(&self) -> &Arc<str> {
        &self.origin
    }

    /// Returns the whole canonical URL.
    pub fn url(&self) -> String {
        format!("{}{}", self.origin, self.path_and_query)
    }

    /// Returns whether the host is a loopback address or a name that always means loopback (RFC 6761 6.3).
    pub fn is_loopback(&self) -> bool {
        match &self.host {
            Host::Name(name) => is_localhost(name),
            Host::Address(ip) => ip.is_loopback(),
        }
    }

    /// Returns what a `Host` field says: host and, unless it is the scheme's own, port. Visible ASCII.
    pub const fn authority(&self) -> &Arc<str> {
        &self.authority
    }

    /// Returns the target of the request (RFC 9112 3.2.1). Visible ASCII.
    pub const fn path_and_query(&self) -> &Arc<str> {
        &self.path_and_query
    }

    fn url_bytes(&self) -> usize {
        self.origin.len() + self.path_and_query.len()
    }
}

/// Refuses, on the text itself, what a lenient URL parser would repair in silence.
fn check_spelling(text: &str) -> Result<Scheme, Refused> {
    let repaired = |c: char| c.is_control() || c.is_whitespace() || c == '\\';
    if text.is_empty() || text.contains(repaired) {
        return Err(Refused::Malformed);
    }
    let (scheme, rest) = text.split_once(':').ok_or(Refused::Malformed)?;
    let scheme = match scheme {
        s if s.eq_ignore_ascii_case("https") => Scheme::Https,
        s if s.eq_ignore_ascii_case("http") => Scheme::Http,
        _ => return Err(Refused::Scheme),
    };
    let rest = rest.strip_prefix("//").ok_or(Refused::Malformed)?;
    if text.contains('#') {
        return Err(Refused::Fragment);
    }
    let authority = rest.split(['/', '?']).next().unwrap_or_default();
    match authority {
        "" => Err(Refused::Host),
        a if a.contains('@') => Err(Refused::UserInfo),
        // Percent-encoding in a host, and IPv6 zone ids, have no honest use here.
        a if a.contains('%') => Err(Refused::Host),
        _ => Ok(scheme),
    }
}

/// Checks a name that the URL parser has already mapped by IDNA (RFC 5891, UTS 46) and lower-cased.
fn canonical_name(name: &str) -> Result<Arc<str>, Refused> {
    let name = name.strip_suffix('.').unwrap_or(name);
    let valid = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_'))
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    if name.len() > 253 || !name.split('.').all(valid) {
        return Err(Refused::Host);
    }
    Ok(name.into())
}

fn is_localhost(name: &str) -> bool {
    name == "localhost" || name.ends_with(".localhost")
}

fn is_local(name: &str) -> bool {
    const LOCAL: [&str; 5] = [".localhost", ".local", ".internal", ".home.arpa", ".onion"];
    !name.contains('.') || LOCAL.iter().any(|suffix| name.ends_with(suffix))
}
