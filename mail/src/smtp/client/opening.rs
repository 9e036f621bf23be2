//! From the greeting to the first mail: EHLO or HELO, STARTTLS, AUTH (RFC 5321 §3.1, RFC 3207, RFC 4954).

use data_encoding::BASE64;

use super::capabilities::Capabilities;
use super::dialogue::Expected;
use super::reply::ServerReply;
use super::secrets::plain;
use super::{Cause, Client, Phase, Tls};

impl Client {
    pub(super) fn say_hello(&mut self) {
        let line = format!("EHLO {}", self.config.hostname);
        self.send(&line, Expected::Ehlo);
    }

    pub(super) fn on_opening_reply(&mut self, expected: Expected, reply: ServerReply) {
        match expected {
            Expected::Greeting if reply.code == 220 => self.say_hello(),
            Expected::Ehlo if reply.is_positive() => {
                self.capabilities = Capabilities::read(&reply.text);
                self.after_hello();
            }
            // A host of before 1995. One that says 4xx does not mean that.
            Expected::Ehlo if reply.is_permanent() => {
                let line = format!("HELO {}", self.config.hostname);
                self.send(&line, Expected::Helo);
            }
            Expected::Helo if reply.is_positive() => {
                self.capabilities = Capabilities::default();
                self.after_hello();
            }
            Expected::StartTls if reply.code == 220 => self.phase = Phase::Handshake,
            Expected::StartTls if self.config.tls == Tls::Opportunistic => self.after_tls(),
            Expected::AuthPlain { .. } | Expected::AuthLogin | Expected::AuthUsername | Expected::AuthPassword => {
                self.on_auth_reply(expected, reply);
            }
            _ => self.fail(Cause::Reply, Some(reply)),
        }
    }

    fn after_hello(&mut self) {
        if self.tls || self.config.tls == Tls::Never {
            self.after_tls();
        } else if self.capabilities.start_tls {
            self.send("STARTTLS", Expected::StartTls);
        } else if self.config.tls == Tls::Required {
            self.fail(Cause::TlsNotOffered, None);
        } else {
            self.after_tls();
        }
    }

    fn after_tls(&mut self) {
        let Some(login) = self.config.login.clone() else {
            self.phase = Phase::Ready;
            return;
        };
        if !self.tls && !self.config.dangerous_auth_without_tls {
            self.fail(Cause::AuthWithoutTls, None);
        } else if self.capabilities.auth_plain {
            self.transcript.said("AUTH PLAIN …");
            self.send_unseen(&format!("AUTH PLAIN {}", plain(&login)), Expected::AuthPlain { repeated: false });
        } else if self.capabilities.auth_login {
            self.send("AUTH LOGIN", Expected::AuthLogin);
        } else {
            self.fail(Cause::AuthNotOffered, None);
        }
    }

    fn on_auth_reply(&mut self, expected: Expected, reply: ServerReply) {
        let Some(login) = self.config.login.clone() else {
            self.fail(Cause::Garbage, Some(reply));
            return;
        };
        match (expected, reply.code) {
            (_, 235) if !matches!(expected, Expected::AuthLogin | Expected::AuthUsername) => self.phase = Phase::Ready,
            // Some hosts do not take the response with the command.
            (Expected::AuthPlain { repeated: false }, 334) => {
                self.transcript.said("…");
                self.send_unseen(&plain(&login), Expected::AuthPlain { repeated: true });
            }
            (Expected::AuthLogin, 334) => {
                self.transcript.said("…");
                self.send_unseen(&BASE64.encode(login.username.as_bytes()), Expected::AuthUsername);
            }
            (Expected::AuthUsername, 334) => {
                self.transcript.said("…");
                self.send_unseen(&BASE64.encode(login.password.as_bytes()), Expected::AuthPassword);
            }
            _ => {
                let cause = if reply.is_permanent() { Cause::AuthRejected } else { Cause::Reply };
                self.fail(cause, Some(reply));
            }
        }
    }
}
