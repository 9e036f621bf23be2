//! Tells the sender by mail what became of a mail, where its client asked for that (RFC 3461, RFC 3464).
//!
//! What is told is an event already; here are the bytes and the way. They follow from the log alone, so that after a crash
//! the same report is made again, which a mailbox takes once; and what becomes a mail of its own does so in the append that
//! settles it.

use std::collections::BTreeSet;

use domain::StreamId;
use domain::Versioned;
use domain::id::{BlobId, OutboundId, ProviderId};
use domain::message::Person;
use domain::outbound::{
    DropReason, NewReport, Notice, NoticeAction, NoticeOf, Origin, Outbound, SendNotice, SettleNotice, Words,
};
use domain::provider::Transport;
use domain::routing::Routing;
use domain::team::Team;
use eventlog::{Submission, TransactError};
use mail::address::{Address, normalise_domain};
use mail::bounce::Action;
use mail::compose::{Stamp, message_id};
use mail::report::{Dsn, DsnRecipient, compose_dsn};
use mail::smtp::{RcptParameters, Return};
use sha2::{Digest as _, Sha256};

use super::Unready;
use super::sandbox::Filing;
use super::visit::Visit;

/// Who reports, in words and in an address.
const REPORTER: &str = "Mail Delivery System";
const REPORTER_LOCAL: &str = "mailer-daemon";
/// The shortest and the longest wait for a mailbox that cannot take a report now, microseconds.
const WAIT_MIN: i64 = 10_000_000;
const WAIT_MAX: i64 = 3_600_000_000;

/// A report with everything that is said in it.
struct Report {
    to: Address,
    from: Address,
    message_id: String,
    subject: &'static str,
    bytes: Vec<u8>,
}

/// Returns the accounts that cannot carry a mail because of its envelope: Amazon SES takes none from the null sender.
pub(super) fn closed_to(mail: &Outbound, routing: &Routing) -> BTreeSet<ProviderId> {
    if mail.accepted.as_ref().is_none_or(|accepted| accepted.origin != Origin::Report) {
        return BTreeSet::new();
    }
    let closed = routing.accounts.iter().filter(|(_, account)| matches!(account.transport, Transport::Ses { .. }));
    closed.map(|(id, _)| id.clone()).collect()
}

impl Visit {
    /// Tells the sender the next thing that it is to be told. Returns whether there was something.
    pub(super) async fn notify(&mut self, mail: &Versioned<Outbound>, now: i64) -> Result<bool, Unready> {
        let Some(notice) = mail.notices.first() else {
            self.notify_at = None;
            return Ok(false);
        };
        if self.notify_at.is_some_and(|at| at > now) {
            return Ok(false);
        }
        let Some(report) = self.report(mail, notice).await? else {
            return self.settle_notice(notice, Some(DropReason::Erased)).await;
        };
        match self.file(&report).await? {
            Filing::Filed => self.settle_notice(notice, None).await,
            Filing::Refused => self.settle_notice(notice, Some(DropReason::Refused)).await,
            Filing::Elsewhere => self.send_notice(mail, notice, report, now).await,
            Filing::Later => {
                let lifetime = mail.accepted.as_ref().map_or(0, |accepted| accepted.lifetime_micros);
                let age = now.saturating_sub(notice.at);
                if age >= lifetime {
                    return self.settle_notice(notice, Some(DropReason::Expired)).await;
                }
                self.notify_at = Some(now.saturating_add(age.clamp(WAIT_MIN, WAIT_MAX)));
                Ok(false)
            }
        }
    }

    async fn settle_notice(&self, notice: &Notice, dropped: Option<DropReason>) -> Result<bool, Unready> {
        metrics::counter!("outbound_notices_total", "outcome" => dropped.map_or("filed", |_| "dropped")).increment(1);
        self.tell(&SettleNotice { outbound: self.outbound.clone(), number: notice.number, dropped }).await?;
        Ok(true)
    }

    /// Composes a report; `None` where what it needs was erased.
    async fn report(&self, mail: &Outbound, notice: &Notice) -> Result<Option<Report>, Unready> {
        let (Some(accepted), Some(letter)) = (&mail.accepted, &mail.letter) else { return Ok(None) };
        let sender = letter.return_path.as_ref().unwrap_or(&letter.from.email);
        let (Ok(to), Ok(author)) = (Address::parse(sender), Address::parse(&letter.from.email)) else {
            return Ok(None);
        };
        let Some(raw) = self.context.log.blob(&self.team, &accepted.blob).await? else { return Ok(None) };
        // A verified domain has a name for this; elsewhere the author's own address is all that may be used.
        let daemon = Address::parse(&format!("{REPORTER_LOCAL}@{}", author.domain())).ok();
        let from = daemon.filter(|_| accepted.domain.is_some()).unwrap_or(author);
        let asked = letter.notices.clone().unwrap_or_default();
        let addresses: Option<Vec<Address>> =
            notice.recipients.iter().map(|(of, _)| address_of(mail, of.recipient)).collect();
        let Some(addresses) = addresses else { return Ok(None) };
        let wishes: Vec<RcptParameters> = notice.recipients.iter().map(|(of, _)| wish(&asked.recipients, of)).collect();
        let statuses: Vec<String> = notice.recipients.iter().map(|(of, _)| status_of(of)).collect();
        let all = notice.recipients.iter().zip(&addresses).zip(wishes.iter().zip(&statuses));
        let recipients: Vec<DsnRecipient<'_>> = all
            .map(|(((_, words), address), (wish, status))| DsnRecipient {
                address,
                original: wish.original.as_ref(),
                action: action_of(notice.action),
                status,
                diagnostic: words.diagnostic.as_deref(),
                remote_mta: host_of(words),
                retried_until_micros: (notice.action == NoticeAction::Delayed).then(|| mail.expires_at()),
            })
            .collect();
        let message_id = message_id(&format!("{}.{}", self.outbound, notice.number), &from);
        let dsn = Dsn {
            reporting_mta: &self.context.config.hostname,
            from: &from,
            to: &to,
            recipients: &recipients,
            envelope_id: asked.envid.as_deref(),
            arrived_micros: accepted.accepted_at,
            original: &raw,
            return_full: asked.ret == Some(Return::Full),
            refers_to: Some(&letter.rfc5322_message_id),
        };
        let composed = compose_dsn(&dsn, &Stamp { message_id: &message_id, at_micros: notice.at });
        let subject = dsn.subject();
        let bytes = composed.map_err(|fault| Unready(format!("a report cannot be composed: {fault:?}")))?;
        Ok(Some(Report { to, from, message_id, subject, bytes }))
    }

    /// Puts a report into the sender's mailbox, if the team has it here. What somebody else's domain receives comes from
    /// outside, with all that is asked of strangers.
    async fn file(&self, report: &Report) -> Result<Filing, Unready> {
        let team: Versioned<Team> = self.context.log.state(&self.team, &[StreamId::Team]).await?;
        if !team.domains.contains_key(report.to.domain()) {
            return Ok(Filing::Elsewhere);
        }
        let content = report.bytes.clone().into();
        Ok(self.context.local.file_report(&self.team, &report.to, content).await)
    }

    /// Makes a report a mail of its own.
    async fn send_notice(&self, mail: &Outbound, notice: &Notice, report: Report, now: i64) -> Result<bool, Unready> {
        let routing: Versioned<Routing> = self.context.log.state(&self.team, &[StreamId::Routing]).await?;
        let (from, addresses) = (report.from.canonical(), self.context.addresses.clone());
        let Some(addresses) = addresses.filter(|_| mail.has_way_for_report(&routing, &from)) else {
            return self.settle_notice(notice, Some(DropReason::NoWayOut)).await;
        };
        let random = || self.context.allot.random();
        let (outbound, blob) = (OutboundId::new(now, random()), BlobId::new(now, random()));
        let sha256 = hex::encode(Sha256::digest(&report.bytes));
        let size_bytes = i64::try_from(report.bytes.len()).unwrap_or(i64::MAX);
        let staged = self.context.log.stage_blob(&self.team, &blob, report.bytes.into()).await?;
        let new = NewReport {
            outbound: outbound.clone(),
            from: Person { name: Some(REPORTER.to_owned()), email: report.from.to_string() },
            subject: report.subject.to_owned(),
            address: addresses(&self.team, &report.to),
            to: report.to,
            rfc5322_message_id: report.message_id,
            blob: blob.clone(),
            size_bytes,
            sha256,
        };
        let command = SendNotice { outbound: self.outbound.clone(), number: notice.number, report: new };
        let submission = self.submission(command).fresh(StreamId::Outbound(outbound)).with_blob(blob, staged);
        metrics::counter!("outbound_notices_total", "outcome" => "sent").increment(1);
        match self.context.log.transact(submission).await {
            // Settled by somebody else meanwhile: the next step sees it.
            Ok(_) | Err(TransactError::Rejected(_)) => Ok(true),
            Err(error) => Err(Unready(error.to_string())),
        }
    }

    fn submission<C: domain::Command>(&self, command: C) -> Submission<C> {
        let now = self.context.allot.now();
        Submission::new(self.team.clone(), now, super::visit::ACTOR, self.outbound.as_str(), command)
    }
}

fn address_of(mail: &Outbound, number: u8) -> Option<Address> {
    Address::parse(mail.recipient(number)?.email.as_deref()?).ok()
}

fn wish(asked: &[RcptParameters], of: &NoticeOf) -> RcptParameters {
    asked.get(usize::from(of.recipient)).cloned().unwrap_or_default()
}

fn status_of(of: &NoticeOf) -> String {
    let (class, subject, detail) = of.status;
    format!("{class}.{}.{}", subject.min(999), detail.min(999))
}

fn action_of(action: NoticeAction) -> Action {
    match action {
        NoticeAction::Failed => Action::Failed,
        NoticeAction::Delayed => Action::Delayed,
        NoticeAction::Delivered => Action::Delivered,
        NoticeAction::Relayed => Action::Relayed,
    }
}

/// Returns the server that said something, where that is the name of a host.
fn host_of(words: &Words) -> Option<&str> {
    words.remote_mta.as_deref().filter(|host| normalise_domain(host).is_ok())
}
