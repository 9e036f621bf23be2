//! One mail: MAIL, RCPT, DATA or BDAT, and what became of each recipient.

use super::content::{Sending, has_only_crlf};
use super::dialogue::Expected;
use super::reply::ServerReply;
use super::{Action, Cause, Client, Content, Failure, Phase};
use crate::address::{Address, ReversePath};
use crate::bounce::{Classification, Stage, classify_reply};
use crate::smtp::{Notify, RcptParameters, Return};

/// Longest `ENVID` and `ORCPT`, as they are written (RFC 3461 §4.2 and §4.4).
const ENVID_OCTETS_MAX: usize = 100;
const ORCPT_OCTETS_MAX: usize = 500;

/// A mail to be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mail {
    /// The envelope sender.
    pub mail_from: ReversePath,
    /// The envelope recipients.
    pub recipients: Vec<Address>,
    /// The message: lines end in CRLF.
    pub content: Content,
    /// The header holds text that needs SMTPUTF8 (RFC 6531), whatever the envelope is.
    pub smtputf8: bool,
    /// The envelope id, for peers that offer DSN (RFC 3461 §4.4).
    pub envelope_id: Option<String>,
    /// What failure reports return, for such peers (RFC 3461 §4.3).
    pub ret: Option<Return>,
    /// What is asked for each recipient, for such peers (RFC 3461 §4.1 and §4.2), in their order; nothing for those beyond
    /// the end of the list.
    pub parameters: Vec<RcptParameters>,
}

/// Why a mail was not even offered to the peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LocalRefusal {
    /// The peer takes no message of this size.
    #[error("552 5.3.4 message of {octets} octets is larger than the {most} that the host takes")]
    TooLarge {
        /// Octets of the message.
        octets: u64,
        /// The most that the peer takes.
        most: u64,
    },
    /// An address or the header needs SMTPUTF8, which the peer does not offer.
    #[error("553 5.6.7 the host does not support internationalized addresses (SMTPUTF8)")]
    Smtputf8,
    /// The content has 8-bit octets and the peer does not offer 8BITMIME.
    #[error("554 5.6.3 the host does not support 8BITMIME, which the content needs")]
    EightBit,
    /// The content has a bare CR or LF.
    #[error("554 5.6.0 the content has a bare CR or LF")]
    LineEnds,
    /// There is no recipient.
    #[error("554 5.5.1 no recipient")]
    NoRecipient,
}

/// What became of one recipient.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RecipientResult {
    /// The peer has taken responsibility.
    Accepted(ServerReply),
    /// The peer has said no: for good, or for now ([`ServerReply::is_permanent`]).
    Rejected {
        /// To what.
        stage: Stage,
        /// What it said.
        reply: ServerReply,
    },
    /// The mail was not offered; another try at this peer is of no use.
    Refused(LocalRefusal),
    /// The connection was lost before the end of the content: nothing was accepted.
    NotSent(Failure),
    /// The connection was lost after the end of the content and before the reply: it may have been accepted.
    Uncertain(Failure),
}

impl RecipientResult {
    /// Tells whether the peer has taken responsibility.
    #[must_use]
    pub fn is_accepted(&self) -> bool {
        matches!(self, Self::Accepted(_))
    }

    /// Tells whether another try is of no use.
    #[must_use]
    pub fn is_permanent(&self) -> bool {
        match self {
            Self::Rejected { reply, .. } => reply.is_permanent(),
            Self::Refused(_) => true,
            Self::Accepted(_) | Self::NotSent(_) | Self::Uncertain(_) => false,
        }
    }

    /// Says what the failure means; nothing where there was none.
    #[must_use]
    pub fn classify(&self) -> Option<Classification> {
        match self {
            Self::Accepted(_) => None,
            Self::Rejected { stage, reply } => Some(reply.classify(*stage)),
            Self::Refused(refusal) => {
                let text = refusal.to_string();
                let code = text.get(..3).and_then(|code| code.parse().ok()).unwrap_or(554);
                let (enhanced, text) = text.get(4..).unwrap_or_default().split_once(' ').unwrap_or_default();
                Some(classify_reply(Stage::Mail, code, Some(enhanced), text))
            }
            Self::NotSent(failure) | Self::Uncertain(failure) => Some(failure.classify()),
        }
    }
}

/// What became of a mail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// One for each recipient, in their order.
    pub recipients: Vec<RecipientResult>,
}

/// A mail on its way.
#[derive(Debug)]
pub(super) struct Transaction {
    mail: Mail,
    results: Vec<Option<RecipientResult>>,
    /// Recipients that the peer takes.
    accepted: Vec<bool>,
    sending: Option<Sending>,
    /// The end of the content is in what has been handed to the driver.
    end_sent: bool,
    /// The content is to nobody: nothing comes of it.
    void: bool,
}

impl Transaction {
    /// What was written so far has been handed to the driver.
    pub(super) fn octets_left_us(&mut self) {
        self.end_sent |= self.sending.as_ref().is_some_and(|sending| sending.ended);
    }

    fn is_wanted(&self) -> bool {
        self.accepted.contains(&true)
    }

    /// Gives a result to every recipient that has none.
    fn settle(&mut self, result: &RecipientResult) {
        for slot in &mut self.results {
            slot.get_or_insert_with(|| result.clone());
        }
    }
}

impl Client {
    pub(super) fn begin(&mut self, mail: Mail) {
        self.phase = Phase::Mail;
        let count = mail.recipients.len();
        let mut transaction = Transaction {
            results: vec![None; count],
            accepted: vec![false; count],
            sending: None,
            end_sent: false,
            void: false,
            mail,
        };
        self.refuse(&mut transaction);
        let offered: Vec<usize> = (0..count).filter(|at| transaction.results[*at].is_none()).collect();
        let mail_line = self.mail_line(&transaction.mail);
        self.transaction = Some(transaction);
        if offered.is_empty() {
            self.finish();
            return;
        }
        if self.dirty {
            self.send("RSET", Expected::Reset);
            if !self.grouped() {
                return;
            }
        }
        self.dirty = true;
        self.send(&mail_line, Expected::Mail);
        if self.grouped() {
            for at in offered {
                self.say_recipient(at);
            }
            if !self.chunked() {
                self.send("DATA", Expected::Data);
            }
        }
    }

    /// Settles what the peer cannot take.
    fn refuse(&self, transaction: &mut Transaction) {
        let mail = &transaction.mail;
        let octets = mail.content.len() as u64;
        let utf8 = mail.smtputf8 || mail.mail_from.address().is_some_and(|address| !address.is_ascii());
        let whole = if !has_only_crlf(&mail.content) {
            Some(LocalRefusal::LineEnds)
        } else if let Some(most) = self.capabilities.size_octets_max.filter(|most| octets > *most) {
            Some(LocalRefusal::TooLarge { octets, most })
        } else if utf8 && !self.capabilities.smtputf8 {
            Some(LocalRefusal::Smtputf8)
        } else if !self.capabilities.eight_bit_mime && !mail.content.is_ascii() {
            Some(LocalRefusal::EightBit)
        } else {
            None
        };
        for (recipient, slot) in mail.recipients.iter().zip(&mut transaction.results) {
            let alone = (!recipient.is_ascii() && !self.capabilities.smtputf8).then_some(LocalRefusal::Smtputf8);
            *slot = whole.or(alone).map(RecipientResult::Refused);
        }
    }

    fn mail_line(&self, mail: &Mail) -> String {
        let mut line = format!("MAIL FROM:{}", mail.mail_from);
        if self.capabilities.size {
            line.push_str(&format!(" SIZE={}", mail.content.len()));
        }
        if self.capabilities.eight_bit_mime && !mail.content.is_ascii() {
            line.push_str(" BODY=8BITMIME");
        }
        let addresses = mail.recipients.iter().chain(mail.mail_from.address());
        if self.capabilities.smtputf8 && (mail.smtputf8 || addresses.into_iter().any(|address| !address.is_ascii())) {
            line.push_str(" SMTPUTF8");
        }
        if self.capabilities.dsn {
            line.push_str(match mail.ret {
                Some(Return::Full) => " RET=FULL",
                Some(Return::Headers) => " RET=HDRS",
                None => "",
            });
            let id = mail.envelope_id.as_deref().map(xtext).filter(|id| id.len() <= ENVID_OCTETS_MAX);
            if let Some(id) = id {
                line.push_str(&format!(" ENVID={id}"));
            }
        }
        line
    }

    /// Returns what is asked about a recipient; nothing of a peer that does not offer DSN.
    fn recipient_parameters(&self, parameters: Option<&RcptParameters>) -> String {
        let mut text = String::new();
        let Some(asked) = parameters.filter(|_| self.capabilities.dsn) else { return text };
        match asked.notify {
            Some(Notify::Never) => text.push_str(" NOTIFY=NEVER"),
            Some(Notify::On { success, failure, delay }) => {
                let words = [("SUCCESS", success), ("FAILURE", failure), ("DELAY", delay)];
                let words: Vec<&str> = words.iter().filter(|(_, on)| *on).map(|(word, _)| *word).collect();
                if !words.is_empty() {
                    text.push_str(&format!(" NOTIFY={}", words.join(",")));
                }
            }
            None => {}
        }
        // What is not ASCII is written in another way for each type of address: it is left out.
        if let Some(original) = asked.original.as_ref().filter(|original| original.address.is_ascii()) {
            let address = xtext(&original.address);
            if address.len() + original.address_type.len() < ORCPT_OCTETS_MAX {
                text.push_str(&format!(" ORCPT={};{address}", original.address_type));
            }
        }
        text
    }

    fn grouped(&self) -> bool {
        self.config.pipelining && self.capabilities.pipelining
    }

    fn chunked(&self) -> bool {
        self.config.chunking && self.capabilities.chunking
    }

    fn say_recipient(&mut self, at: usize) {
        let Some(transaction) = &self.transaction else { return };
        let asked = self.recipient_parameters(transaction.mail.parameters.get(at));
        let line = format!("RCPT TO:<{}>{asked}", transaction.mail.recipients[at]);
        self.send(&line, Expected::Rcpt(at));
    }

    pub(super) fn on_mail_reply(&mut self, expected: Expected, reply: ServerReply) {
        match expected {
            Expected::Reset => self.on_reset_reply(reply),
            Expected::Mail => self.on_sender_reply(reply),
            Expected::Rcpt(at) => self.on_recipient_reply(at, reply),
            Expected::Data => self.on_data_reply(reply),
            _ => self.on_content_reply(reply),
        }
    }

    fn on_reset_reply(&mut self, reply: ServerReply) {
        if !reply.is_positive() {
            // Whatever is open there, it is not what we think.
            self.fail(Cause::Reply, Some(reply));
            return;
        }
        if !self.grouped()
            && let Some(transaction) = &self.transaction
        {
            let line = self.mail_line(&transaction.mail);
            self.send(&line, Expected::Mail);
        }
        self.dirty = true;
    }

    fn on_sender_reply(&mut self, reply: ServerReply) {
        let positive = reply.is_positive();
        if !positive && let Some(transaction) = &mut self.transaction {
            transaction.settle(&RecipientResult::Rejected { stage: Stage::Mail, reply });
        }
        self.go_on(None);
    }

    fn on_recipient_reply(&mut self, at: usize, reply: ServerReply) {
        if let Some(transaction) = &mut self.transaction {
            // Where MAIL was refused, what is said of a recipient is not about it.
            if transaction.results[at].is_none() {
                if reply.is_positive() {
                    transaction.accepted[at] = true;
                } else {
                    transaction.results[at] = Some(RecipientResult::Rejected { stage: Stage::Rcpt, reply });
                }
            }
        }
        self.go_on(Some(at));
    }

    /// Says the next command where commands do not go in groups, and what a group leaves open.
    fn go_on(&mut self, answered: Option<usize>) {
        if !self.expected.is_empty() {
            return;
        }
        let Some(transaction) = &self.transaction else { return };
        let from = answered.map_or(0, |at| at + 1);
        let next = (from..transaction.results.len()).find(|at| transaction.results[*at].is_none());
        if let Some(at) = next.filter(|_| !self.grouped()) {
            self.say_recipient(at);
        } else if !transaction.is_wanted() {
            self.finish();
        } else if self.chunked() {
            self.say_chunk();
        } else {
            self.send("DATA", Expected::Data);
        }
    }

    fn say_chunk(&mut self) {
        let Some(transaction) = &mut self.transaction else { return };
        let octets = transaction.mail.content.len();
        let mut sending = Sending::chunk(transaction.mail.content.clone());
        let line = format!("BDAT {octets} LAST");
        self.transcript.said(&format!("{line} [{octets} octets]"));
        self.out.extend_from_slice(format!("{line}\r\n").as_bytes());
        sending.write_piece(&mut self.out);
        transaction.sending = Some(sending);
        self.expected.push_back(Expected::Content);
    }

    fn on_data_reply(&mut self, reply: ServerReply) {
        let Some(transaction) = &mut self.transaction else { return };
        if reply.code != 354 {
            // A yes to DATA that is not 354 is no reply to DATA.
            if reply.is_positive() {
                self.fail(Cause::Garbage, Some(reply));
                return;
            }
            transaction.settle(&RecipientResult::Rejected { stage: Stage::Data, reply });
            self.finish();
            return;
        }
        // With no recipient left, the end alone is sent (RFC 2920 §3.1): the peer has nobody to deliver it to.
        transaction.void = !transaction.is_wanted();
        let content = if transaction.void { Content::from([]) } else { transaction.mail.content.clone() };
        self.transcript.said(&format!("[{} octets]", content.len()));
        transaction.sending = Some(Sending::data(content));
        self.expected.push_back(Expected::Content);
    }

    /// Writes the next piece of the content, when nothing else is waiting to be sent.
    pub(super) fn next_content(&mut self) {
        if self.phase != Phase::Mail {
            return;
        }
        let sending = self.transaction.as_mut().and_then(|transaction| transaction.sending.as_mut());
        if let Some(sending) = sending.filter(|sending| !sending.ended) {
            sending.write_piece(&mut self.out);
        }
    }

    fn on_content_reply(&mut self, reply: ServerReply) {
        let Some(transaction) = &mut self.transaction else { return };
        let early = !transaction.end_sent;
        if early && (reply.is_positive() || reply.code / 100 == 3) {
            // Nobody can accept what has not been sent.
            self.expected.push_front(Expected::Content);
            self.fail(Cause::Garbage, Some(reply));
            return;
        }
        if reply.code / 100 == 3 {
            self.expected.push_front(Expected::Content);
            self.fail(Cause::Garbage, Some(reply));
            return;
        }
        let closes = early || reply.code == 421;
        if reply.is_positive() {
            self.dirty = false;
            transaction.settle(&RecipientResult::Accepted(reply));
        } else {
            transaction.settle(&RecipientResult::Rejected { stage: Stage::Data, reply });
        }
        self.finish();
        if closes {
            self.close();
        }
    }

    /// Hands the outcome out.
    fn finish(&mut self) {
        let Some(transaction) = self.transaction.take() else { return };
        let failure = || Failure { stage: Stage::Rcpt, cause: Cause::Garbage, reply: None };
        let missing = RecipientResult::Refused(LocalRefusal::NoRecipient);
        let recipients = transaction.results.into_iter().map(|result| match result {
            Some(result) => result,
            None if transaction.end_sent => RecipientResult::Uncertain(failure()),
            None => missing.clone(),
        });
        self.news.push_back(Action::Done(Outcome { recipients: recipients.collect() }));
        self.phase = Phase::Ready;
    }

    /// The connection ended within the mail.
    pub(super) fn end_by_failure(&mut self, failure: Failure) {
        if let Some(transaction) = &mut self.transaction {
            let uncertain = transaction.end_sent && !transaction.void;
            transaction.settle(&if uncertain {
                RecipientResult::Uncertain(failure)
            } else {
                RecipientResult::NotSent(failure)
            });
        }
        self.finish();
    }
}

/// Writes a text where only some characters may stand (RFC 3461 §4).
fn xtext(text: &str) -> String {
    text.bytes().fold(String::new(), |mut out, byte| {
        if matches!(byte, b'!'..=b'~') && !matches!(byte, b'+' | b'=') {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("+{byte:02X}"));
        }
        out
    })
}
