//! Which reply answers what, and what follows from it.

use super::reply::ServerReply;
use super::{Action, Cause, Client, Failure, Phase};
use crate::bounce::Stage;

/// What a reply is a reply to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Expected {
    Greeting,
    Ehlo,
    Helo,
    StartTls,
    /// To `AUTH PLAIN` with its initial response; holds whether the response has been repeated.
    AuthPlain {
        repeated: bool,
    },
    AuthLogin,
    AuthUsername,
    AuthPassword,
    Reset,
    Mail,
    Rcpt(usize),
    Data,
    /// To the end of the content.
    Content,
    Quit,
}

impl Expected {
    fn stage(self) -> Stage {
        match self {
            Self::Greeting => Stage::Greeting,
            Self::Ehlo | Self::Helo => Stage::Hello,
            Self::StartTls => Stage::StartTls,
            Self::AuthPlain { .. } | Self::AuthLogin | Self::AuthUsername | Self::AuthPassword => Stage::Auth,
            Self::Reset | Self::Mail | Self::Quit => Stage::Mail,
            Self::Rcpt(_) => Stage::Rcpt,
            Self::Data | Self::Content => Stage::Data,
        }
    }
}

impl Client {
    /// Says a line that the next expected reply answers.
    pub(super) fn send(&mut self, line: &str, expected: Expected) {
        self.transcript.said(line);
        self.send_unseen(line, expected);
    }

    /// Says a line that nobody is to read later.
    pub(super) fn send_unseen(&mut self, line: &str, expected: Expected) {
        self.out.extend_from_slice(line.as_bytes());
        self.out.extend_from_slice(b"\r\n");
        self.expected.push_back(expected);
    }

    /// How long to wait for the next reply.
    pub(super) fn seconds(&self) -> u32 {
        let timeouts = &self.config.timeouts;
        match self.expected.front() {
            Some(Expected::Greeting) => timeouts.greeting,
            Some(Expected::Mail | Expected::Rcpt(_)) => timeouts.envelope,
            Some(Expected::Data) => timeouts.data,
            Some(Expected::Content) => timeouts.end_of_data,
            Some(Expected::Reset) => timeouts.reset,
            Some(Expected::Quit) | None => timeouts.quit,
            Some(_) => timeouts.hello,
        }
    }

    /// Where the dialogue stands.
    pub(super) fn stage(&self) -> Stage {
        match (self.expected.front(), self.phase) {
            (Some(expected), _) => expected.stage(),
            (None, Phase::Opening | Phase::Handshake) => self.answered,
            (None, Phase::Mail) => Stage::Data,
            (None, _) => Stage::Mail,
        }
    }

    pub(super) fn on_reply(&mut self, mut reply: ServerReply) {
        let quoted = self.secrets.left_out_of(&reply.text);
        self.transcript.heard(reply.code, reply.enhanced.as_deref(), &quoted);
        // A list of extensions is read and never quoted; every other text may come to be shown. A password that is a phrase of
        // refusals may cost one its category; its code counts as ever.
        if !(reply.is_positive() && self.expected.front() == Some(&Expected::Ehlo)) {
            reply.text = quoted;
        }
        let Some(expected) = self.expected.pop_front() else {
            // Nobody asked: it can only be the goodbye of a peer that is tired of waiting.
            let cause = if reply.code == 421 { Cause::Reply } else { Cause::Garbage };
            self.fail(cause, Some(reply));
            return;
        };
        if reply.code == 421 && expected != Expected::Quit && expected != Expected::Content {
            self.expected.push_front(expected);
            self.fail(Cause::Reply, Some(reply));
            return;
        }
        self.answered = expected.stage();
        match expected {
            Expected::Quit => self.phase = Phase::Closed,
            Expected::Reset | Expected::Mail | Expected::Rcpt(_) | Expected::Data | Expected::Content => {
                self.on_mail_reply(expected, reply);
            }
            _ => self.on_opening_reply(expected, reply),
        }
    }

    /// Ends the connection for a reason.
    pub(super) fn fail(&mut self, cause: Cause, reply: Option<ServerReply>) {
        if self.phase == Phase::Closed {
            return;
        }
        let failure = Failure { stage: self.stage(), cause, reply };
        self.transcript.note(&failure.cause.to_string());
        match self.phase {
            Phase::Mail => self.end_by_failure(failure),
            Phase::Quitting => {}
            Phase::Opening | Phase::Handshake | Phase::Ready | Phase::Closed => {
                self.news.push_back(Action::Failed(failure));
            }
        }
        self.close();
    }

    /// Says nothing more.
    pub(super) fn close(&mut self) {
        self.phase = Phase::Closed;
        self.out.clear();
        self.expected.clear();
    }
}
