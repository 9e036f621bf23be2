//! Mail about mail of ours: return paths that are recognised, reports that become events.
//!
//! A report counts where it proves what it is about. At a return path the address itself does: nobody but us can make
//! one. In a mailbox (a team's own provider returns mail to its author) a return path inside of the report does, or our id
//! of a mail that was sent as that mailbox. A report without such a proof counts only where it is a whole one (RFC 3464),
//! comes from the null sender, names no other mail, and one mail alone can be meant. No report is ever answered.

use std::time::Duration;

use domain::StreamId;
use domain::Versioned;
use domain::id::{OutboundId, RequestId, TeamId};
use domain::outbound::{Outbound, RecordFeedback, Rejected, ReturnPath, Status, UnsubscribeMethod};
use domain::{Actor, outbound::Recipient};
use eventlog::{LogError, Submission, TransactError};
use mail::address::Address;
use mail::verp::{MacKey, Verp};
use projections::sent_mail;

use super::content::Content;
use super::content::INLINE_OCTETS_MAX;
use super::report::{self, Heard, Reading, Report};
use super::{Destination, Inner, Receiver, Refusal};
use crate::unsubscription::Unsubscription;

/// How many teams whose ids begin alike are asked for a mail.
const TEAMS_ASKED_MAX: usize = 16;
/// How long after it was sent a mail can be meant by a report that does not name it, microseconds.
const INFERRED_MICROS_MAX: i64 = 7 * 24 * 60 * 60 * 1_000_000;
/// How long a report without proof waits for the read models.
const VIEWS_WITHIN: Duration = Duration::from_secs(2);
/// Where at the bounce domain reports arrive that providers send to one agreed address.
const REPORT_ADDRESS: &str = "fbl";

/// How return paths of ours are recognised.
#[derive(Debug, Clone)]
pub struct Returns {
    /// The key they are made with.
    pub key: MacKey,
    /// The domain they are made at, where one is configured.
    pub domain: Option<String>,
}

/// What a mail to a return path, or to the address for reports, is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReportOn {
    /// A mail that the address itself names.
    Mail(ReturnPath),
    /// A mail that the report has to name.
    AnyMail,
    /// The recipient of a mail that the address names wants no more of its kind.
    Unsubscription(ReturnPath),
}

impl Returns {
    /// Returns what a recipient is a return path of; `None` for any other address.
    pub(super) fn recognise(&self, address: &Address) -> Option<ReportOn> {
        let token = Verp::parse(address.local(), &self.key);
        if let Some(path) = token.as_ref().and_then(ReturnPath::read) {
            return Some(ReportOn::Mail(path));
        }
        let token = Verp::parse_unsubscribe(address.local(), &self.key);
        if let Some(path) = token.as_ref().and_then(ReturnPath::read) {
            return Some(ReportOn::Unsubscription(path));
        }
        let is_for_reports = address.local().eq_ignore_ascii_case(REPORT_ADDRESS);
        (is_for_reports && self.is_home(address)).then_some(ReportOn::AnyMail)
    }

    /// Returns whether an address is at the bounce domain.
    pub(super) fn is_home(&self, address: &Address) -> bool {
        self.domain.as_deref().is_some_and(|domain| domain.eq_ignore_ascii_case(address.domain()))
    }
}

/// A mail that a report is about.
struct Subject {
    team: TeamId,
    outbound: OutboundId,
    mail: Versioned<Outbound>,
    /// Its recipient, where the return path says which.
    only: Option<u8>,
}

/// What came of a mail to a return path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Took {
    /// What it says is on record, or was.
    Report,
    /// It says nothing that is recorded, and needs no answer.
    Nothing,
}

impl Receiver {
    /// Records what mail to return paths says.
    pub(super) async fn record_returned(
        &self,
        returns: &Returns,
        content: &Content,
        about: &[ReportOn],
        request: &RequestId,
    ) -> Result<Took, Refusal> {
        let wishes = about.iter().filter_map(|on| match on {
            ReportOn::Unsubscription(path) => Some(path),
            ReportOn::Mail(_) | ReportOn::AnyMail => None,
        });
        let mut wished = false;
        for path in wishes {
            wished = true;
            self.unsubscribe(path, content, request).await?;
        }
        if wished && about.iter().all(|on| matches!(on, ReportOn::Unsubscription(_))) {
            return Ok(Took::Nothing);
        }
        let report = match self.read_report(returns, content).await? {
            Reading::Report(report) => report,
            Reading::Automatic => {
                reports_total("automatic");
                return Ok(Took::Nothing);
            }
            Reading::Message => return Err(Refusal::NoReport),
        };
        let mut paths: Vec<ReturnPath> = vec![];
        for on in about {
            match on {
                ReportOn::Mail(path) => paths.push(path.clone()),
                ReportOn::AnyMail if report.tokens.is_empty() => {
                    reports_total("unknown");
                    return Err(Refusal::NoReport);
                }
                ReportOn::AnyMail => paths.extend(report.tokens.iter().cloned()),
                ReportOn::Unsubscription(_) => {}
            }
        }
        paths.dedup();
        for path in &paths {
            match self.inner.find_returned(path).await.map_err(unavailable)? {
                Some(subject) => self.inner.record(&subject, &report, content, request).await?,
                // Its log was restored from before it was sent, or its team's is gone.
                None => reports_total("orphan"),
            }
        }
        Ok(Took::Report)
    }

    /// Takes the recipient of a mail off its kind of mail, whatever is written: the address is the wish. A report that
    /// comes there is nobody's wish.
    async fn unsubscribe(&self, path: &ReturnPath, content: &Content, request: &RequestId) -> Result<(), Refusal> {
        let Some(number) = path.recipient.filter(|_| content.mail_from.is_some()) else {
            reports_total("automatic");
            return Ok(());
        };
        let Some(subject) = self.inner.find_returned(path).await.map_err(unavailable)? else {
            reports_total("orphan");
            return Ok(());
        };
        reports_total("unsubscription");
        let wish = Unsubscription {
            team: &subject.team,
            outbound: &subject.outbound,
            recipient: number,
            topic: subject.mail.accepted.as_ref().and_then(|accepted| accepted.topic.clone()),
            method: UnsubscribeMethod::Mail,
            actor: Actor::Smtp,
            request: request.to_string(),
            client_ip: Some(content.correspondence.peer_ip.clone()),
        };
        wish.record(&self.inner.log, self.inner.allot.now()).await.map(drop).map_err(|error| {
            tracing::warn!(team.id = %subject.team, error, "an unsubscription could not be recorded");
            Refusal::Unavailable
        })
    }

    /// Records what a mail to a mailbox says of mail that was sent as it, if it is a report.
    pub(super) async fn record_reported(
        &self,
        returns: &Returns,
        content: &Content,
        destination: &Destination,
        request: &RequestId,
    ) -> Result<(), Refusal> {
        let Reading::Report(report) = self.read_report(returns, content).await? else { return Ok(()) };
        let team = &destination.team;
        for path in report.tokens.iter().filter(|path| path.may_be_of(team)) {
            let found = self.inner.mail(team, &path.outbound, path.recipient).await.map_err(unavailable)?;
            if let Some(subject) = found {
                return self.inner.record(&subject, &report, content, request).await;
            }
        }
        let Some(own) = self.inner.own_address(destination).await else { return Ok(()) };
        for id in &report.ids {
            let Some(subject) = self.inner.mail(team, id, None).await.map_err(unavailable)? else { continue };
            if subject.was_sent_as(&own) {
                return self.inner.record(&subject, &report, content, request).await;
            }
        }
        // Reports come from nobody; what somebody claims to be one has to prove it.
        let subjects = match content.mail_from {
            None => self.inner.inferred(team, &report, &own).await.map_err(unavailable)?,
            Some(_) => vec![],
        };
        if subjects.is_empty() {
            reports_total("unknown");
        }
        for subject in &subjects {
            self.inner.record(subject, &report, content, request).await?;
        }
        Ok(())
    }

    /// Reads a mail as a report, a large one away from other work.
    async fn read_report(&self, returns: &Returns, content: &Content) -> Result<Reading, Refusal> {
        if content.raw.len() <= INLINE_OCTETS_MAX {
            return Ok(report::read(&content.raw, &returns.key));
        }
        let (raw, key) = (content.raw.clone(), returns.key.clone());
        // The only way to fail is that the program is stopping.
        tokio::task::spawn_blocking(move || report::read(&raw, &key)).await.map_err(|_| Refusal::Unavailable)
    }
}

impl Subject {
    /// Returns whether returned mail goes to this mailbox, perhaps under a tag.
    fn was_sent_as(&self, own: &str) -> bool {
        let Some(letter) = &self.mail.letter else { return false };
        let Ok(sender) = Address::parse(letter.return_path.as_deref().unwrap_or(&letter.from.email)) else {
            return false;
        };
        let is_own = |address: &Address| address.canonical().eq_ignore_ascii_case(own);
        is_own(&sender) || sender.without_tag().is_some_and(|base| is_own(&base))
    }

    /// Returns whether a report without proof may be about this mail: it was sent from that domain, it is the mail whose
    /// Message-ID is quoted if one is, and a provider has it for a recipient of that address, nobody knows how it ended.
    fn may_be_meant(&self, domain: &str, quoted: Option<&str>, to: &Address) -> bool {
        let Some(letter) = &self.mail.letter else { return false };
        let sender = Address::parse(letter.return_path.as_deref().unwrap_or(&letter.from.email));
        let open = |number: &u8| {
            let status = self.mail.recipient(*number).map(|recipient| recipient.status);
            matches!(status, Some(Status::Sent | Status::Unknown | Status::Uncertain { .. } | Status::InFlight { .. }))
        };
        sender.is_ok_and(|sender| sender.domain().eq_ignore_ascii_case(domain))
            && quoted.is_none_or(|id| letter.rfc5322_message_id == id)
            && report::numbers(&self.mail, Some(to)).iter().any(open)
    }
}

impl Inner {
    /// Finds the mail of a return path.
    async fn find_returned(&self, path: &ReturnPath) -> Result<Option<Subject>, LogError> {
        let teams = self.log.teams(path.team_after().as_ref(), TEAMS_ASKED_MAX).await?;
        for team in teams.iter().take_while(|team| path.may_be_of(team)) {
            if let Some(subject) = self.mail(team, &path.outbound, path.recipient).await? {
                return Ok(Some(subject));
            }
        }
        Ok(None)
    }

    /// Finds the mails of a report that names none of them: those a provider took in the last days for the recipients that
    /// it names, sent from the domain that it came back to. Where one of its recipients may be meant in two mails, or in
    /// none, it says nothing.
    async fn inferred(&self, team: &TeamId, report: &Report, own: &str) -> Result<Vec<Subject>, LogError> {
        let Some((recipients, quoted)) = report.hearsay() else { return Ok(vec![]) };
        let Some((_, domain)) = own.rsplit_once('@') else { return Ok(vec![]) };
        // What was sent a moment ago may not be readable yet.
        let head = self.log.head(team).await?;
        self.views.wait_for(team, head.position, VIEWS_WITHIN).await;
        let mut subjects: Vec<Subject> = vec![];
        for to in recipients {
            let since = self.allot.now().saturating_sub(INFERRED_MICROS_MAX);
            let found = sent_mail::to(&self.views, team, to.as_str(), since).await.unwrap_or_else(|error| {
                tracing::warn!(error = %error, "a projection does not answer; a report stays without its mail");
                vec![]
            });
            if found.len() >= sent_mail::FOUND_MAX {
                return Ok(vec![]);
            }
            let mut meant = vec![];
            for id in found {
                let subject = self.mail(team, &id, None).await?;
                meant.extend(subject.filter(|subject| subject.may_be_meant(domain, quoted, to)));
            }
            match (meant.pop(), meant.is_empty()) {
                (Some(subject), true) if subjects.iter().all(|known| known.outbound != subject.outbound) => {
                    subjects.push(subject);
                }
                (Some(_), true) => {}
                (Some(_), false) | (None, _) => return Ok(vec![]),
            }
        }
        Ok(subjects)
    }

    /// Returns a team's mail; `None` if it has no such mail.
    async fn mail(&self, team: &TeamId, outbound: &OutboundId, only: Option<u8>) -> Result<Option<Subject>, LogError> {
        let mail: Versioned<Outbound> = self.log.state(team, &[StreamId::Outbound(outbound.clone())]).await?;
        let known = mail.accepted.is_some() && only.is_none_or(|number| mail.recipient(number).is_some());
        Ok(known.then(|| Subject { team: team.clone(), outbound: outbound.clone(), mail, only }))
    }

    /// Records what a report says of a mail.
    async fn record(
        &self,
        subject: &Subject,
        report: &Report,
        content: &Content,
        request: &RequestId,
    ) -> Result<(), Refusal> {
        let heard = report.heard(&subject.mail, subject.only);
        reports_total(match (report.is_complaint(), heard.is_empty()) {
            (_, true) => "silent",
            (true, false) => "complaint",
            (false, false) => "delivery",
        });
        for Heard { recipient, feedback, source, report } in heard {
            let Some(Recipient { address, .. }) = subject.mail.recipient(recipient) else { continue };
            let (outbound, address) = (subject.outbound.clone(), address.clone());
            let command = RecordFeedback { outbound, recipient, address, feedback, source, report };
            let now = self.allot.now();
            let submission = Submission::new(subject.team.clone(), now, Actor::Smtp, request.as_str(), command)
                .from_ip(content.correspondence.peer_ip.clone());
            match self.log.transact(submission).await {
                Ok(_) => {}
                Err(error) => passed_over(&error)?,
            }
        }
        Ok(())
    }
}

/// Passes over what cannot be recorded and never will be; the sender repeats the rest.
fn passed_over(error: &TransactError<Rejected>) -> Result<(), Refusal> {
    match error {
        // It waits for its next attempt, or was cancelled after a lost answer: the report is about an older one.
        TransactError::Rejected(Rejected::NotSent) => Ok(()),
        TransactError::Full => Err(Refusal::StoreFull),
        TransactError::Overloaded | TransactError::Unavailable(_) | TransactError::Stopped => Err(Refusal::Unavailable),
        TransactError::Rejected(_) | TransactError::Taken(_) | TransactError::IdempotencyMismatch => {
            tracing::warn!(error = %error, "a report could not be recorded");
            Ok(())
        }
    }
}

fn unavailable(error: LogError) -> Refusal {
    super::recipient::unavailable(error)
}

fn reports_total(kind: &'static str) {
    metrics::counter!("mail_reports_total", "kind" => kind).increment(1);
}
