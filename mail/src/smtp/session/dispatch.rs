//! What each command does.

use super::super::command::{Command, SyntaxError};
use super::super::transaction::{BodyType, MailParameters, RcptParameters, Recipient};
use super::super::{Profile, Reply, StartTls, XclientAttributes};
use super::{Action, Envelope, Helo, Inbox, Phase, Question, Session};
use crate::address::{AddressError, ForwardPath, ReversePath};

impl Session {
    pub(super) fn command_line(&mut self, line: &[u8]) {
        match Command::parse(line) {
            Ok(command) => self.command(command),
            Err(SyntaxError::Chunk) => {
                // The octets of the chunk cannot be told from commands any more.
                self.disconnect(SyntaxError::Chunk.reply());
            }
            Err(error) => {
                // RCPT with a wrong address still was an attempt; see `Envelope::rcpt_seen`.
                if let (SyntaxError::Recipient(_), Some(envelope)) = (error, &mut self.envelope) {
                    envelope.rcpt_seen = true;
                }
                self.error(error.reply());
            }
        }
    }

    /// Refuses a line that ended in a bare LF. Where the LF is part of an unfinished address, the address
    /// is named as the fault.
    pub(super) fn bare_lf_line(&mut self, line: &[u8]) {
        let head = line.get(..4).unwrap_or_default().to_ascii_uppercase();
        let inside_address = line.contains(&b'<') && !line.contains(&b'>');
        let reply = match head.as_slice() {
            b"MAIL" if inside_address => SyntaxError::Sender(AddressError::ControlCharacter).reply(),
            b"RCPT" if inside_address => SyntaxError::Recipient(AddressError::ControlCharacter).reply(),
            _ => Reply::new(500, 5, 2, "lines end in CRLF, not in LF alone"),
        };
        self.error(reply);
    }

    pub(super) fn line_too_long(&mut self, in_auth: bool) {
        self.counters.long_lines += 1;
        if self.counters.long_lines >= self.config.limits.long_lines_max {
            self.disconnect(Reply::new(421, 7, 0, "too many over-long lines"));
        } else if in_auth {
            self.error(Reply::new(500, 5, 6, "authentication line too long"));
        } else {
            self.error(Reply::new(500, 5, 2, "line too long"));
        }
    }

    fn command(&mut self, command: Command) {
        if command.ends_group() && !self.inbox.is_empty() {
            // Input after such a command was written without knowing our reply: the body of a message sent
            // blindly after DATA, or commands injected before a handshake. None of it is interpreted.
            self.disconnect(Reply::new(554, 5, 0, "you must wait for this reply before you go on"));
            return;
        }
        match command {
            Command::Helo(name) => self.hello(name, false),
            Command::Ehlo(name) => self.hello(name, true),
            Command::Mail { path, parameters, extended } => self.mail(path, parameters, extended),
            Command::Rcpt { path, parameters, utf8 } => self.rcpt(path, parameters, utf8),
            Command::Data => self.data(),
            Command::Bdat { octets, last } => self.bdat(octets, last),
            Command::StartTls => self.start_tls(),
            Command::Auth { mechanism, initial } => self.auth(mechanism, initial.as_deref()),
            Command::Xclient(attributes) => self.xclient(attributes),
            Command::Rset => {
                self.envelope = None;
                self.idle_command(&Reply::new(250, 0, 0, "ok"));
            }
            Command::Noop => self.idle_command(&Reply::new(250, 0, 0, "ok")),
            // Whether a mailbox exists is told at RCPT only (RFC 5321 §3.5.3, §7.3).
            Command::Vrfy => self.idle_command(&Reply::new(252, 1, 5, "send mail and see")),
            Command::Expn => self.error(SyntaxError::NotImplemented.reply()),
            Command::Help => self.idle_command(&Reply::new(214, 0, 0, "see RFC 5321")),
            Command::Quit => self.disconnect(Reply::new(221, 0, 0, "goodbye")),
        }
    }

    /// Answers a command that brings no mail nearer; too many of them end the session.
    pub(super) fn idle_command(&mut self, reply: &Reply) {
        self.counters.idle_commands += 1;
        if self.counters.idle_commands > self.config.limits.idle_commands_max {
            self.disconnect(Reply::new(421, 7, 0, "too many commands without mail"));
        } else {
            self.reply(reply);
        }
    }

    fn hello(&mut self, name: String, esmtp: bool) {
        self.envelope = None;
        self.helo = Some(Helo { name, esmtp });
        let text = if esmtp { self.extensions() } else { self.config.hostname.clone() };
        self.idle_command(&Reply::plain(250, text));
    }

    fn extensions(&self) -> String {
        let limits = &self.config.limits;
        let mut text = format!("{}\nPIPELINING\nSIZE {}", self.config.hostname, limits.message_octets_max);
        text.push_str("\n8BITMIME\nSMTPUTF8\nENHANCEDSTATUSCODES\nCHUNKING");
        for (offered, keyword) in [
            (self.config.binarymime, "\nBINARYMIME"),
            (self.config.takes_dsn(), "\nDSN"),
            (self.offers_start_tls(), "\nSTARTTLS"),
            (self.may_authenticate() && self.authenticated.is_none(), "\nAUTH PLAIN LOGIN"),
            (self.peer.may_xclient, "\nXCLIENT NAME ADDR PORT PROTO HELO"),
        ] {
            if offered {
                text.push_str(keyword);
            }
        }
        text.push_str(&format!("\nLIMITS RCPTMAX={} MAILMAX={}", limits.recipients_max, limits.transactions_max));
        text
    }

    fn mail(&mut self, path: ReversePath, parameters: MailParameters, extended: bool) {
        let limits = &self.config.limits;
        let submission = self.config.profile == Profile::Submission;
        let binary = parameters.body == Some(BodyType::BinaryMime);
        if self.helo.is_none() {
            self.bad_sequence("say EHLO first");
        } else if self.envelope.is_some() {
            self.bad_sequence("a transaction is already open");
        } else if self.tls.is_none() && self.config.start_tls == StartTls::Required {
            self.error(Reply::new(530, 7, 0, "issue STARTTLS first"));
        } else if submission && self.authenticated.is_none() {
            self.error(Reply::new(530, 7, 0, "authentication required"));
        } else if self.counters.transactions >= limits.transactions_max {
            self.disconnect(Reply::new(421, 7, 0, "too many transactions"));
        } else if (extended && !self.esmtp())
            || (!submission && parameters.auth_claimed)
            || (!self.config.takes_dsn() && parameters.asks_dsn())
        {
            self.error(SyntaxError::Parameter.reply());
        } else if binary && !self.config.binarymime {
            self.error(SyntaxError::Argument.reply());
        } else if parameters.size_octets.is_some_and(|size| size > limits.message_octets_max) {
            self.reply(&too_large());
        } else {
            let action = Action::CheckSender { path: path.clone(), parameters: parameters.clone() };
            self.ask(Question::Sender { path, parameters }, action);
        }
    }

    pub(super) fn open_transaction(&mut self, path: ReversePath, parameters: MailParameters) {
        self.counters.transactions += 1;
        self.envelope = Some(Box::new(Envelope {
            reverse_path: path,
            parameters,
            recipients: Vec::new(),
            rcpt_seen: false,
            started_at: self.now,
            chunks: None,
            chunk_failed: false,
        }));
        self.reply(&Reply::new(250, 1, 0, "sender ok"));
    }

    fn rcpt(&mut self, path: ForwardPath, parameters: RcptParameters, utf8: bool) {
        let Some(envelope) = &mut self.envelope else {
            return self.bad_sequence("say MAIL first");
        };
        envelope.rcpt_seen = true;
        let foreign_literal = path.address().filter(|address| address.is_literal()).is_some_and(|address| {
            let ours = |ip: &std::net::IpAddr| address.domain() == super::super::trace::literal(*ip);
            !self.config.literals.iter().any(ours)
        });
        let known = envelope.recipients.iter().any(|recipient| recipient.path == path);
        if envelope.chunks.is_some() || envelope.chunk_failed {
            self.bad_sequence("the message has begun");
        } else if !self.config.takes_dsn() && parameters != RcptParameters::default() {
            self.error(SyntaxError::Parameter.reply());
        } else if utf8 && !envelope.parameters.smtputf8 {
            self.error(SyntaxError::Utf8Unasked.reply());
        } else if foreign_literal {
            self.refuse_recipient(Reply::new(550, 1, 2, "this address literal is not ours"));
        } else if known {
            // One copy is enough, and a client that repeats itself after a lost reply is served.
            self.reply(&recipient_ok());
        } else if envelope.recipients.len() >= self.config.limits.recipients_max {
            self.reply(&Reply::new(452, 5, 3, "too many recipients, send the rest in another transaction"));
        } else {
            let action = Action::CheckRecipient { path: path.clone(), parameters: parameters.clone() };
            self.ask(Question::Recipient(Recipient { path, parameters }), action);
        }
    }

    pub(super) fn add_recipient(&mut self, recipient: Recipient) {
        if let Some(envelope) = &mut self.envelope {
            envelope.recipients.push(recipient);
            self.reply(&recipient_ok());
        }
    }

    pub(super) fn refuse_recipient(&mut self, reply: Reply) {
        self.counters.refused_recipients += 1;
        if reply.code() == 421 {
            self.disconnect(reply);
        } else if self.counters.refused_recipients > self.config.limits.refused_recipients_max {
            self.disconnect(Reply::new(421, 7, 0, "too many refused recipients"));
        } else {
            self.reply(&reply);
        }
    }

    fn start_tls(&mut self) {
        if self.tls.is_some() {
            self.bad_sequence("TLS is already active");
        } else if self.envelope.is_some() {
            self.bad_sequence("a transaction is open");
        } else if !self.offers_start_tls() {
            self.error(Reply::new(454, 7, 0, "TLS is not available"));
        } else {
            self.reply(&Reply::new(220, 0, 0, "go ahead"));
            self.phase = Phase::Handshake { injected: false };
            self.pending = Some(Action::StartTls);
        }
    }

    fn xclient(&mut self, attributes: XclientAttributes) {
        if !self.peer.may_xclient {
            self.disconnect(Reply::new(550, 7, 0, "you are no proxy of ours"));
            return;
        }
        if self.envelope.is_some() {
            self.bad_sequence("a transaction is open");
            return;
        }
        if let Some(address) = attributes.address {
            // The name belonged to the address before.
            self.peer.address = address;
            self.peer.reverse_name = None;
        }
        self.peer.port = attributes.port.unwrap_or(self.peer.port);
        if let Some(name) = attributes.reverse_name {
            self.peer.reverse_name = name;
        }
        self.forget_client();
        self.inbox = Inbox::default();
        self.banner();
    }

    /// Puts a question to the driver; the session goes on with its answer.
    pub(super) fn ask(&mut self, question: Question, action: Action) {
        self.phase = Phase::Asked(question);
        self.pending = Some(action);
    }
}

pub(super) fn too_large() -> Reply {
    Reply::new(552, 3, 4, "message too large")
}

fn recipient_ok() -> Reply {
    Reply::new(250, 1, 5, "recipient ok")
}
