//! Sandbox accounts: mail to this installation's own mailboxes, and recipients that Postlog plays itself.

use std::time::Duration;

use async_trait::async_trait;
use domain::bounce::{Source, Verdict};
use domain::id::TeamId;
use domain::outbound::report::Report;
use domain::outbound::{Complaint, Feedback, Outbound, Outcome, Recipient, RejectReason, Status};
use mail::address::{Address, ReversePath};
use mail::bounce::{Stage, classify_reply};
use mail::smtp::client::{Content, RecipientResult, ServerReply};

use super::letter::{Letter, addresses};
use super::results::{Carried, Judge, verdict_of};

/// How long the slow recipient takes to answer.
const SLOW: Duration = Duration::from_secs(3);

/// Takes mail into this installation's mailboxes, on the way that received mail takes.
#[async_trait]
pub trait LocalDelivery: Send + Sync {
    /// Takes a mail and answers for each recipient as an SMTP server would: `250` once it is durable, `451` to try
    /// again, `550` for addresses that are no mailbox here. Called again with the same bytes after a crash.
    async fn deliver(&self, mail_from: &ReversePath, recipients: &[Address], content: Content) -> Vec<ServerReply>;

    /// Takes a report of ours into the mailbox of a team that sent the mail it is about. Called again with the same bytes
    /// after a crash.
    async fn file_report(&self, team: &TeamId, to: &Address, content: Content) -> Filing;
}

/// What a mailbox makes of a report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Filing {
    /// It has it.
    Filed,
    /// It may take it later.
    Later,
    /// It does not take it.
    Refused,
    /// The team has no such mailbox here: the address is somewhere else.
    Elsewhere,
}

/// Knows no mailbox.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoLocalDelivery;

#[async_trait]
impl LocalDelivery for NoLocalDelivery {
    async fn deliver(&self, _: &ReversePath, recipients: &[Address], _: Content) -> Vec<ServerReply> {
        vec![reply(550, "5.7.1", "a sandbox sends nothing to the outside"); recipients.len()]
    }

    async fn file_report(&self, _: &TeamId, _: &Address, _: Content) -> Filing {
        Filing::Elsewhere
    }
}

/// What is heard later of a recipient that Postlog plays.
#[derive(Debug)]
pub(crate) struct Heard {
    pub(crate) number: u8,
    pub(crate) feedback: Feedback,
    pub(crate) source: Source,
    pub(crate) report: Report,
}

/// How a recipient of the simulator behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    Delivered,
    BounceHard,
    BounceSoft,
    BounceAsync,
    Complaint,
    Suppressed,
    Defer,
    Slow,
    Reply,
    OutOfOffice,
    Loop,
    Nobody,
}

impl Role {
    fn of(address: &Address) -> Self {
        match address.base_local().to_ascii_lowercase().as_str() {
            "delivered" => Self::Delivered,
            "bounce.hard" => Self::BounceHard,
            "bounce.soft" => Self::BounceSoft,
            "bounce.async" => Self::BounceAsync,
            "complaint" => Self::Complaint,
            "suppressed" => Self::Suppressed,
            "defer" => Self::Defer,
            "slow" => Self::Slow,
            "reply" => Self::Reply,
            "ooo" => Self::OutOfOffice,
            "loop" => Self::Loop,
            _ => Self::Nobody,
        }
    }

    /// Returns what its server says.
    fn answer(self, deferrals: u32) -> ServerReply {
        match self {
            Self::BounceHard | Self::Nobody => reply(550, "5.1.1", "no such user here"),
            Self::BounceSoft => reply(552, "5.2.2", "mailbox is full"),
            Self::Defer if deferrals == 0 => reply(451, "4.7.1", "greylisted, try again later"),
            Self::Loop => reply(554, "5.4.6", "too many hops, mail loop detected"),
            _ => reply(250, "2.0.0", "ok"),
        }
    }

    /// Returns what is heard after it was delivered.
    fn later(self) -> Option<(Feedback, Source, &'static str)> {
        match self {
            Self::BounceAsync => {
                let verdict = verdict(550, "5.1.1", "no such user here");
                Some((Feedback::Bounced { verdict, kind: None }, Source::Dsn, "550 5.1.1 no such user here"))
            }
            Self::Complaint => {
                Some((Feedback::Complained { complaint: Complaint::Abuse }, Source::Provider, "abuse report"))
            }
            _ => None,
        }
    }
}

fn reply(code: u16, enhanced: &str, text: &str) -> ServerReply {
    ServerReply { code, enhanced: Some(enhanced.to_owned()), text: text.to_owned() }
}

fn verdict(code: u16, enhanced: &str, text: &str) -> Verdict {
    verdict_of(&classify_reply(Stage::Rcpt, code, Some(enhanced), text))
}

/// Carries a mail within the machine.
pub(crate) async fn carry(
    judge: &Judge<'_>,
    local: &dyn LocalDelivery,
    simulator_domain: &str,
    letter: &Letter,
    numbers: &[u8],
) -> Carried {
    let mut carried = Carried::default();
    let (mut own, mut own_numbers) = (vec![], vec![]);
    for (number, address) in numbers.iter().zip(addresses(judge.mail, numbers).unwrap_or_default()) {
        if !address.domain().eq_ignore_ascii_case(simulator_domain) {
            own.push(address);
            own_numbers.push(*number);
            continue;
        }
        let role = Role::of(&address);
        if role == Role::Slow {
            tokio::time::sleep(SLOW).await;
        }
        if role == Role::Suppressed {
            let outcome = Outcome::Rejected { reason: RejectReason::Suppressed, verdict: None };
            carried.tell(*number, outcome, judge.report("the address is on the provider's suppression list"));
            continue;
        }
        let deferrals = judge.mail.recipient(*number).map_or(0, |r| r.deferrals);
        let busy = answer_by_mail(role, local, judge.mail, &address).await;
        let said = busy.unwrap_or_else(|| role.answer(deferrals));
        judge.all(&[*number], &[as_result(said)], &mut carried);
    }
    if !own.is_empty() {
        let mut replies = local.deliver(&letter.mail_from, &own, letter.content.clone()).await;
        // Whoever answers for too few has not taken the others.
        replies.resize_with(own.len(), || reply(451, "4.3.0", "no answer for this recipient"));
        let results: Vec<_> = replies.into_iter().map(as_result).collect();
        judge.all(&own_numbers, &results, &mut carried);
    }
    carried
}

/// Returns what recipients of the simulator have yet to say of a mail that they have. It follows from the mail's state
/// alone: what was said is in there.
pub(crate) fn afterwards(mail: &Outbound, simulator_domain: &str) -> Vec<Heard> {
    let says = |(recipient, number): (&Recipient, u8)| {
        let address = Address::parse(recipient.email.as_deref()?).ok()?;
        let plays = address.domain().eq_ignore_ascii_case(simulator_domain) && recipient.status == Status::Delivered;
        let (feedback, source, text) = plays.then(|| Role::of(&address).later()).flatten()?;
        let told = matches!(feedback, Feedback::Complained { .. }) && recipient.complained;
        let report = Report::of(text, Some(simulator_domain));
        (!told).then_some(Heard { number, feedback, source, report })
    };
    mail.recipients.iter().zip(0u8..).filter_map(says).collect()
}

fn as_result(reply: ServerReply) -> RecipientResult {
    if reply.is_positive() {
        return RecipientResult::Accepted(reply);
    }
    RecipientResult::Rejected { stage: Stage::Rcpt, reply }
}

/// Sends the answer of recipients that write back: to the sender's mailbox, if it has one here. It is sent before the
/// recipient says that it has the mail, and is the same bytes each time, so that a crash neither loses nor doubles it.
/// Returns what the recipient says instead if the mailbox cannot take it now.
async fn answer_by_mail(role: Role, local: &dyn LocalDelivery, mail: &Outbound, from: &Address) -> Option<ServerReply> {
    let automatic = match role {
        Role::Reply => false,
        Role::OutOfOffice => true,
        _ => return None,
    };
    let (letter, accepted) = (mail.letter.as_ref()?, mail.accepted.as_ref()?);
    let to = letter.reply_to.first().map_or(&letter.from.email, |person| &person.email);
    let to = Address::parse(to).ok()?;
    let subject: String = letter.subject.iter().flat_map(|s| s.chars()).filter(|c| (' '..='~').contains(c)).collect();
    let (prefix, text, field) = match automatic {
        true => ("Automatic reply:", "I am out of the office.", "Auto-Submitted: auto-replied\r\n"),
        false => ("Re:", "Thank you, got it.", ""),
    };
    let (id, date) = (&letter.rfc5322_message_id, rfc5322_date(accepted.accepted_at));
    let local_part = from.base_local();
    let content = format!(
        "Date: {date}\r\nFrom: {from}\r\nTo: {to}\r\nSubject: {prefix} {subject}\r\nMessage-ID: <{local_part}.{id}>\r\n\
         In-Reply-To: <{id}>\r\nReferences: <{id}>\r\n{field}MIME-Version: 1.0\r\n\
         Content-Type: text/plain; charset=utf-8\r\n\r\n{text}\r\n"
    );
    let null = if automatic { "<>".to_owned() } else { format!("<{from}>") };
    let mail_from = ReversePath::parse(&null).ok()?;
    let mut replies = local.deliver(&mail_from, &[to], content.into_bytes().into()).await;
    let said = replies.pop()?;
    (said.code / 100 == 4).then_some(said)
}

fn rfc5322_date(at: i64) -> String {
    let at = jiff::Timestamp::from_microsecond(at).unwrap_or_default().to_zoned(jiff::tz::TimeZone::UTC);
    jiff::fmt::rfc2822::to_string(&at).unwrap_or_default()
}
