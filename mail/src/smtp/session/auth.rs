//! AUTH PLAIN and LOGIN (RFC 4954, RFC 4616).

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::super::command::Mechanism;
use super::super::reply::Reply;
use super::super::{Profile, Session};
use super::{Action, Phase, Question};

/// What is expected of the client next.
#[derive(Debug)]
pub(super) enum AuthStep {
    Plain,
    LoginUsername,
    LoginPassword { username: String },
}

/// A secret on its way to be compared; it shows itself only where asked to.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Returns the secret.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

/// What a client authenticates with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credentials {
    /// The id of a key, or a mailbox.
    pub username: String,
    /// The key's secret.
    pub secret: Secret,
}

impl Session {
    /// Credentials are taken on submission only, and only where nobody can overhear them.
    pub(super) fn may_authenticate(&self) -> bool {
        let private = self.tls.is_some() || self.config.dangerous_auth_without_tls;
        self.config.profile == Profile::Submission && private
    }

    pub(super) fn auth(&mut self, mechanism: Mechanism, initial: Option<&str>) {
        if self.config.profile != Profile::Submission {
            self.error(Reply::new(502, 5, 1, "authentication is not offered here"));
        } else if !self.esmtp() {
            self.bad_sequence("say EHLO first");
        } else if self.envelope.is_some() {
            self.bad_sequence("a transaction is open");
        } else if self.authenticated.is_some() {
            self.bad_sequence("already authenticated");
        } else if !self.may_authenticate() {
            self.error(Reply::new(538, 7, 11, "authentication needs TLS"));
        } else {
            let step = match mechanism {
                Mechanism::Plain => AuthStep::Plain,
                Mechanism::Login => AuthStep::LoginUsername,
            };
            match initial {
                // `=` alone is the empty response, which base64 cannot express as a word.
                Some("=") => self.auth_line(step, b""),
                Some(initial) => self.auth_line(step, initial.as_bytes()),
                None => self.challenge(step),
            }
        }
    }

    fn challenge(&mut self, step: AuthStep) {
        let text = match &step {
            AuthStep::Plain => String::new(),
            AuthStep::LoginUsername => STANDARD.encode("Username:"),
            AuthStep::LoginPassword { .. } => STANDARD.encode("Password:"),
        };
        self.phase = Phase::Auth(step);
        self.reply(&Reply::plain(334, text));
    }

    /// Takes the client's response to a challenge, or its initial response.
    pub(super) fn auth_line(&mut self, step: AuthStep, line: &[u8]) {
        if line == b"*" {
            return self.error(Reply::new(501, 7, 0, "authentication cancelled"));
        }
        let Ok(response) = STANDARD.decode(line) else {
            return self.error(Reply::new(501, 5, 2, "invalid base64"));
        };
        // No credentials of ours are other than UTF-8, so what is not is simply wrong.
        let Ok(response) = String::from_utf8(response) else {
            return self.auth_refused(wrong_credentials());
        };
        match step {
            AuthStep::Plain => match split_plain(&response) {
                Some((username, secret)) => self.authenticate(username.to_owned(), secret.to_owned()),
                None => self.auth_refused(wrong_credentials()),
            },
            AuthStep::LoginUsername => self.challenge(AuthStep::LoginPassword { username: response }),
            AuthStep::LoginPassword { username } => self.authenticate(username, response),
        }
    }

    fn authenticate(&mut self, username: String, secret: String) {
        let credentials = Credentials { username: username.clone(), secret: Secret(secret) };
        self.ask(Question::Credentials { username }, Action::Authenticate(credentials));
    }

    pub(super) fn auth_accepted(&mut self, username: String) {
        self.authenticated = Some(username);
        self.reply(&Reply::new(235, 7, 0, "authentication successful"));
    }

    pub(super) fn auth_refused(&mut self, reply: Reply) {
        // A failure of ours is no guess of theirs.
        self.counters.auth_failures += u32::from(reply.code() >= 500);
        let last = self.counters.auth_failures >= self.config.limits.auth_failures_max;
        let closes = reply.code() == 421;
        self.error(reply);
        if last && !closes && !matches!(self.phase, Phase::Closing) {
            self.disconnect(Reply::new(421, 7, 0, "too many failed authentications"));
        }
    }
}

/// Splits `authzid NUL authcid NUL passwd`. To act for somebody else is not possible here.
fn split_plain(response: &str) -> Option<(&str, &str)> {
    let mut parts = response.split('\0');
    let (authorize, username, secret) = (parts.next()?, parts.next()?, parts.next()?);
    let own = authorize.is_empty() || authorize == username;
    (own && parts.next().is_none()).then_some((username, secret))
}

fn wrong_credentials() -> Reply {
    Reply::new(535, 7, 8, "authentication failed")
}
