//! Mail about mail of ours: return paths that are recognised, reports that become events.
//!
//! A report counts where it proves what it is about. At a return path the address itself does: nobody but us can make
//! one. In a mailbox (a team's own provider returns mail to its author) a return path inside of the report does, or our id
//! of a mail that was sent as that mailbox. A report without such a proof changes nothing. No report is ever answered.

use domain::StreamId;
use domain::Versioned;
use domain::id::{OutboundId, RequestId, TeamId};
use domain::outbound::{Outbound, RecordFeedback, Rejected, ReturnPath};
use domain::{Actor, outbound::Recipient};
use eventlog::{LogError, Submission, TransactError};
use mail::address::Address;
use mail::verp::{MacKey, Verp};

use super::content::Content;
use super::content::INLINE_OCTETS_MAX;
use super::report::{self, Heard, Reading, Report};
use super::{Destination, Inner, Receiver, Refusal};

/// How many teams whose ids begin alike are asked for a mail.
const TEAMS_ASKED_MAX: usize = 16;
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
}

impl Returns {
    /// Returns what a recipient is a return path of; `None` for any other address.
    pub(super) fn recognise(&self, address: &Address) -> Option<ReportOn> {
        let token = Verp::parse(address.local(), &self.key);
        if let Some(path) = token.as_ref().and_then(ReturnPath::read) {
            return Some(ReportOn::Mail(path));
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
        reports_total("unknown");
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
