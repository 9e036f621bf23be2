//! From what servers said to what is recorded.

use domain::bounce::{Category, Verdict};
use domain::outbound::report::Report;
use domain::outbound::{AttemptTrouble, Onward, Outbound, Outcome, RejectReason, Results, Stage};
use domain::retry::RetryPolicy;
use domain::routing::seed;
use eventlog::Allot;
use mail::bounce::Classification;
use mail::smtp::client::{Cause, Failure, RecipientResult};

/// Before anything was handed over, this went wrong for all recipients.
#[derive(Debug)]
pub(crate) struct Failed {
    pub(crate) trouble: AttemptTrouble,
    pub(crate) report: Report,
}

/// What came of an attempt.
#[derive(Debug, Default)]
pub(crate) struct Carried {
    pub(crate) results: Vec<Results>,
    /// Of the recipients without a result.
    pub(crate) failed: Option<Failed>,
    pub(crate) transcript: String,
}

impl Carried {
    pub(crate) fn failed(trouble: AttemptTrouble, report: Report) -> Self {
        Self { failed: Some(Failed { trouble, report }), ..Self::default() }
    }

    /// Adds the same result for several recipients.
    pub(crate) fn tell_all(&mut self, numbers: &[u8], outcome: &Outcome, report: &Report) {
        numbers.iter().for_each(|number| self.tell(*number, outcome.clone(), report.clone()));
    }

    /// Adds a result; recipients it came out alike for are told of together.
    pub(crate) fn tell(&mut self, number: u8, outcome: Outcome, report: Report) {
        match self.results.iter_mut().find(|r| r.outcome == outcome && r.report == report) {
            Some(same) => same.recipients.push(number),
            None => self.results.push(Results { recipients: vec![number], outcome, report }),
        }
    }
}

/// Turns results into what is recorded, for one attempt of a mail.
#[derive(Clone, Copy)]
pub(crate) struct Judge<'a> {
    pub(crate) mail: &'a Outbound,
    pub(crate) attempt: u32,
    pub(crate) policy: &'a RetryPolicy,
    /// Tells the time.
    pub(crate) allot: &'a Allot,
    /// The answers are those of the recipients' own servers.
    pub(crate) direct: bool,
    /// The server.
    pub(crate) host: &'a str,
    /// Who tells the sender what becomes of mail that it takes.
    pub(crate) onward: Option<Onward>,
}

impl Judge<'_> {
    /// Judges the results of recipients of one submission into `carried`.
    pub(crate) fn all(&self, numbers: &[u8], results: &[RecipientResult], carried: &mut Carried) {
        if !self.direct
            && let Some(failed) = self.login_refused(results)
        {
            carried.failed = Some(failed);
            return;
        }
        let unsent = |r: &RecipientResult| matches!(r, RecipientResult::NotSent(_));
        let nothing = results.iter().all(unsent);
        for (number, result) in numbers.iter().zip(results) {
            match result {
                RecipientResult::NotSent(failure) if nothing && !self.direct => {
                    carried.failed = Some(self.failure(failure));
                }
                _ => self.one(*number, result, carried),
            }
        }
    }

    fn one(&self, number: u8, result: &RecipientResult, carried: &mut Carried) {
        let (outcome, report) = match result {
            RecipientResult::Accepted(reply) => {
                (Outcome::Taken { delivered: self.direct }, self.report(&reply_text(reply)).handed_on(self.onward))
            }
            RecipientResult::Rejected { stage, reply } => {
                let verdict = verdict_of(&reply.classify(*stage));
                let report = self.report(&reply_text(reply));
                if reply.is_permanent() {
                    (self.refused(verdict), report)
                } else {
                    (self.later(number, verdict, false), report)
                }
            }
            RecipientResult::Refused(refusal) => {
                let verdict = result.classify().map(|c| verdict_of(&c));
                let outcome = Outcome::Rejected { reason: RejectReason::NotSendable, verdict };
                (outcome, self.report(&refusal.to_string()))
            }
            RecipientResult::NotSent(failure) => {
                let verdict = verdict_of(&failure.classify());
                (self.later(number, verdict, false), self.report(&failure_text(failure)))
            }
            RecipientResult::Uncertain(failure) => {
                let report = self.report(&failure_text(failure));
                if self.direct {
                    // There the Message-ID recognises a double (RFC 5321 §4.5.3.2.6).
                    (self.later(number, verdict_of(&failure.classify()), true), report)
                } else {
                    (Outcome::Uncertain { stage: Stage::NoAnswer }, report)
                }
            }
        };
        carried.tell(number, outcome, report);
    }

    pub(crate) fn refused(&self, verdict: Verdict) -> Outcome {
        if self.direct {
            return Outcome::Bounced { verdict };
        }
        Outcome::Rejected { reason: RejectReason::Provider, verdict: Some(verdict) }
    }

    /// Returns the outcome of a recipient that is tried again, as long as the mail lives.
    pub(crate) fn later(&self, number: u8, verdict: Verdict, uncertain: bool) -> Outcome {
        let deferrals = self.mail.recipient(number).map_or(0, |r| r.deferrals);
        let retry_at = self.next(deferrals);
        Outcome::Deferred { verdict, uncertain, retry_at }
    }

    /// Returns when the next attempt is due; `None` to give up.
    pub(crate) fn next(&self, tries: u32) -> Option<i64> {
        let id = self.mail.accepted.as_ref().map(|a| &a.mail.outbound);
        let seed = id.map_or(0, |id| seed(id, self.attempt));
        self.policy.next(tries, self.allot.now(), self.mail.expires_at(), seed, None)
    }

    pub(crate) fn report(&self, text: &str) -> Report {
        Report::of(text, Some(self.host))
    }

    /// Some servers refuse a login only when the mail begins.
    fn login_refused(&self, results: &[RecipientResult]) -> Option<Failed> {
        let RecipientResult::Rejected { stage: mail::bounce::Stage::Mail, reply } = results.first()? else {
            return None;
        };
        let refused = matches!(reply.code, 530 | 535);
        refused.then(|| Failed { trouble: AttemptTrouble::LoginRefused, report: self.report(&reply_text(reply)) })
    }

    fn failure(&self, failure: &Failure) -> Failed {
        let permanent = failure.reply.as_ref().is_none_or(|reply| reply.code / 100 == 5);
        let trouble = match failure.cause {
            Cause::AuthRejected if permanent => AttemptTrouble::LoginRefused,
            Cause::AuthRejected => AttemptTrouble::Throttled,
            Cause::Reply if !permanent => AttemptTrouble::Throttled,
            _ => AttemptTrouble::Unreachable,
        };
        Failed { trouble, report: self.report(&failure_text(failure)) }
    }
}

/// Returns a classification in the words of the log.
pub(crate) fn verdict_of(classification: &Classification) -> Verdict {
    let mut parts = classification.enhanced_code.as_deref().unwrap_or_default().split('.');
    let class = parts.next().and_then(|p| p.parse().ok());
    let (subject, detail) = (parts.next().and_then(|p| p.parse().ok()), parts.next().and_then(|p| p.parse().ok()));
    let enhanced_code = match (class, subject, detail) {
        (Some(class), Some(subject), Some(detail)) => Some((class, subject, detail)),
        _ => None,
    };
    Verdict {
        category: Category::parse(classification.category.as_str()).unwrap_or(Category::Undetermined),
        smtp_code: classification.smtp_code,
        enhanced_code,
    }
}

fn reply_text(reply: &mail::smtp::client::ServerReply) -> String {
    let enhanced = reply.enhanced.as_deref().map(|code| format!(" {code}")).unwrap_or_default();
    format!("{}{enhanced} {}", reply.code, reply.text)
}

fn failure_text(failure: &Failure) -> String {
    match &failure.reply {
        Some(reply) => reply_text(reply),
        None => failure.cause.to_string(),
    }
}
