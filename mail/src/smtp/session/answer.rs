//! The driver's answers.

use super::super::reply::Reply;
use super::{Phase, Question, Session};

/// The driver's answer to a question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Yes.
    Accept,
    /// Yes, with a text for the reply: `accepted as msg_…`. Only a delivery's reply shows it.
    AcceptWith(String),
    /// No, with a 4yz or 5yz reply; `421` closes the connection as well. What is neither, a mistake of the
    /// driver, is sent as `451`.
    Refuse(Reply),
}

impl Verdict {
    /// Refuses for good, with the enhanced status `5.subject.detail`; a code that is not 5yz becomes `554`.
    #[must_use]
    pub fn reject(code: u16, subject: u8, detail: u8, text: impl Into<String>) -> Self {
        let code = if (500..=599).contains(&code) { code } else { 554 };
        Self::Refuse(Reply::new(code, subject, detail, text.into()))
    }

    /// Refuses for now, with the enhanced status `4.subject.detail`; a code that is not 4yz becomes `451`.
    #[must_use]
    pub fn temp_fail(code: u16, subject: u8, detail: u8, text: impl Into<String>) -> Self {
        let code = if (400..=499).contains(&code) { code } else { 451 };
        Self::Refuse(Reply::new(code, subject, detail, text.into()))
    }

    /// `550 5.1.1`: a domain of ours, but no such mailbox.
    #[must_use]
    pub fn unknown_mailbox() -> Self {
        Self::reject(550, 1, 1, "no such mailbox here")
    }

    /// `550 5.1.2`: the domain is not verified.
    #[must_use]
    pub fn unverified_domain() -> Self {
        Self::reject(550, 1, 2, "this domain does not receive mail yet")
    }

    /// `550 5.7.1`: a domain that is not ours.
    #[must_use]
    pub fn relay_denied() -> Self {
        Self::reject(550, 7, 1, "relay denied")
    }

    /// `550 5.7.1`: the mailbox's rules, or the scope of the client's key, keep this sender out.
    #[must_use]
    pub fn sender_denied() -> Self {
        Self::reject(550, 7, 1, "sender not allowed")
    }

    /// `550 5.7.26`: the author's domain asks to refuse what is not proven to come from it (RFC 7372 §3.3, RFC 9989).
    #[must_use]
    pub fn dmarc_rejected() -> Self {
        Self::reject(550, 7, 26, "the mail fails the DMARC policy of its author's domain")
    }

    /// `550 5.2.1`: the mailbox or its team is suspended.
    #[must_use]
    pub fn suspended() -> Self {
        Self::reject(550, 2, 1, "mailbox disabled")
    }

    /// `452 4.2.2`: the mailbox is full.
    #[must_use]
    pub fn over_quota() -> Self {
        Self::temp_fail(452, 2, 2, "mailbox full")
    }

    /// `452 4.3.1`: the disk is full.
    #[must_use]
    pub fn storage_full() -> Self {
        Self::temp_fail(452, 3, 1, "insufficient storage, try again later")
    }

    /// `451 4.3.0`: the store is unavailable, or was not done in time.
    #[must_use]
    pub fn unavailable() -> Self {
        Self::temp_fail(451, 3, 0, "temporary failure, try again later")
    }

    /// `451 4.7.1`: too fast, or greylisted.
    #[must_use]
    pub fn slow_down() -> Self {
        Self::temp_fail(451, 7, 1, "try again later")
    }

    /// `535 5.7.8`: unknown user or wrong secret, without telling which.
    #[must_use]
    pub fn wrong_credentials() -> Self {
        Self::reject(535, 7, 8, "authentication failed")
    }

    /// `421 4.7.0`, and close: this client has asked for too much.
    #[must_use]
    pub fn disconnect() -> Self {
        Self::temp_fail(421, 7, 0, "too many requests, try again later")
    }
}

impl Session {
    /// Takes the answer to the question last handed out. An answer that nobody asked for, as one that comes
    /// after the session was closed, is ignored.
    pub fn answer(&mut self, verdict: Verdict, now_micros: i64) {
        self.advance_clock(now_micros);
        if self.pending.is_some() || !matches!(self.phase, Phase::Asked(_)) {
            return;
        }
        let Phase::Asked(question) = std::mem::replace(&mut self.phase, Phase::Command) else {
            return;
        };
        self.waiting_since = self.now;
        let refusal = match &verdict {
            Verdict::Accept | Verdict::AcceptWith(_) => None,
            Verdict::Refuse(reply) if (400..=599).contains(&reply.code()) => Some(reply.clone()),
            Verdict::Refuse(_) => Some(Reply::new(451, 3, 0, "temporary failure, try again later")),
        };
        match (question, refusal) {
            (Question::Sender { path, parameters }, None) => self.open_transaction(path, parameters),
            (Question::Recipient(recipient), None) => self.add_recipient(recipient),
            (Question::Credentials { username }, None) => self.auth_accepted(username),
            (Question::Delivery, None) => {
                self.counters.idle_commands = 0;
                let text = match verdict {
                    Verdict::AcceptWith(text) => text,
                    _ => String::from("accepted"),
                };
                self.reply(&Reply::new(250, 0, 0, text));
            }
            (Question::Recipient(_), Some(reply)) => self.refuse_recipient(reply),
            (Question::Credentials { .. }, Some(reply)) => self.auth_refused(reply),
            (Question::Sender { .. } | Question::Delivery, Some(reply)) if reply.code() == 421 => {
                self.disconnect(reply);
            }
            (Question::Sender { .. } | Question::Delivery, Some(reply)) => self.reply(&reply),
        }
    }
}
