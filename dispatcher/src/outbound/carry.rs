//! Hands a mail over, transaction by transaction, and writes down what came of each before the next.

use std::sync::Arc;

use domain::bounce::{Category, Verdict};
use domain::id::ProviderId;
use domain::outbound::{AttemptTrouble, FailAttempt, Onward, Outbound, Outcome, RecordResults, Results, Stage, Status};
use domain::provider::{BreakProvider, Trouble};
use domain::routing::Routing;
use tokio::sync::mpsc;

use super::letter::{Letter, addresses};
use super::patience::Mood;
use super::queue::Transcript;
use super::results::{Carried, Failed, Judge};
use super::visit::{Visit, Way, numbers};
use super::{direct, sandbox, ses};
use crate::smtp::{Peer, Turn};

/// The most of what was said in one attempt that is kept, bytes.
const SAID_BYTES_MAX: usize = 64 * 1024;

/// An attempt that was begun.
#[derive(Clone, Copy)]
pub(crate) struct Job<'a> {
    pub(crate) mail: &'a Outbound,
    pub(crate) routing: &'a Routing,
    pub(crate) account: &'a ProviderId,
    pub(crate) attempt: u32,
    pub(crate) letter: &'a Letter,
    /// The numbers of its recipients.
    pub(crate) going: &'a [u8],
}

impl Visit {
    /// Makes an attempt that was begun.
    pub(crate) async fn carry(&mut self, job: &Job<'_>, way: Way) {
        match way {
            Way::Account(peer, turn) => self.by_account(job, &peer, turn).await,
            Way::Ses(account) => self.by_ses(job, &account).await,
            Way::Direct(mut plan) => {
                plan.retain(job.going);
                self.directly(job, plan).await;
            }
            Way::Sandbox => {
                let context = Arc::clone(&self.context);
                let domain = &context.config.simulator_domain;
                let judge = context.judge(job.mail, job.attempt, true, domain);
                let judge = Judge { onward: Some(Onward::Delivered), ..judge };
                let carried = sandbox::carry(&judge, &*context.local, domain, job.letter, job.going).await;
                self.settle(job, carried).await;
            }
        }
    }

    async fn by_account(&mut self, job: &Job<'_>, peer: &Peer, turn: Turn) {
        let context = Arc::clone(&self.context);
        let judge = context.judge(job.mail, job.attempt, false, &peer.host);
        let to = addresses(job.mail, job.going).unwrap_or_default();
        let numbers = job.going.to_vec();
        let envelopes = match context.config.bounce_domain_through_accounts {
            true => job.letter.envelopes(&context, (&self.team, &self.outbound), numbers, to),
            false => vec![job.letter.envelope(numbers, to)],
        };
        let (mut turn, mut left) = (Some(turn), envelopes.len());
        for envelope in envelopes {
            left -= 1;
            let Some(held) = &turn else { return };
            let carried = match context.mailer.submit_in(held, peer, job.letter.mail(&envelope)).await {
                Ok(submitted) => {
                    context.patience.learn(job.account, Mood::of(&submitted.recipients), context.allot.now());
                    let mut carried = Carried { transcript: submitted.transcript, ..Carried::default() };
                    let onward = Some(Onward::at_server(submitted.dsn, envelope.returns_here));
                    Judge { onward, ..judge }.all(&envelope.numbers, &submitted.recipients, &mut carried);
                    carried
                }
                Err(e) => {
                    context.patience.learn(job.account, Mood::Unreachable, context.allot.now());
                    Carried::failed(AttemptTrouble::Unreachable, judge.report(&e.to_string()))
                }
            };
            // It ends the attempt for all who are left.
            let over = carried.failed.is_some() || left == 0;
            // Another mail may be handed over while this one is written down.
            turn = turn.filter(|_| !over);
            self.settle(job, carried).await;
        }
    }

    async fn by_ses(&mut self, job: &Job<'_>, account: &ses::Account) {
        let context = Arc::clone(&self.context);
        let judge = context.judge(job.mail, job.attempt, false, "Amazon SES");
        let to = addresses(job.mail, job.going).unwrap_or_default();
        let said = context.ses.send(account, job.letter, (&self.team, &self.outbound), &to, context.allot.now()).await;
        let mut carried = Carried { transcript: said.transcript, ..Carried::default() };
        let report = judge.report(&said.text);
        let mut mood = Mood::Answered;
        match said.outcome {
            ses::Outcome::Taken(id) => {
                mood = Mood::Took;
                // Amazon tells us by notifications, and knows nothing of what the sender asked for.
                let report = report.with_provider_message_id(id).handed_on(Some(Onward::SilentHere));
                carried.tell_all(job.going, &Outcome::Taken { delivered: false }, &report);
            }
            ses::Outcome::Refused(verdict) => carried.tell_all(job.going, &judge.refused(verdict), &report),
            ses::Outcome::Uncertain => {
                carried.tell_all(job.going, &Outcome::Uncertain { stage: Stage::NoAnswer }, &report);
            }
            ses::Outcome::Failed(trouble) => {
                mood = match trouble {
                    AttemptTrouble::Throttled => Mood::PushedBack,
                    AttemptTrouble::Unreachable => Mood::Unreachable,
                    AttemptTrouble::LoginRefused | AttemptTrouble::Abandoned => Mood::Answered,
                };
                carried.failed = Some(Failed { trouble, report });
            }
            ses::Outcome::Closed => {
                let message = said.text.clone();
                let (provider, trouble) = (job.account.clone(), Trouble::AccountSuspended);
                self.surely(&BreakProvider { provider, trouble, message }).await;
                carried.failed = Some(Failed { trouble: AttemptTrouble::Unreachable, report });
            }
        }
        context.patience.learn(job.account, mood, context.allot.now());
        self.settle(job, carried).await;
    }

    async fn directly(&mut self, job: &Job<'_>, plan: direct::Plan) {
        let context = Arc::clone(&self.context);
        let judge = context.judge(job.mail, job.attempt, true, "");
        let (team, outbound) = (self.team.clone(), self.outbound.clone());
        let (tell, mut told) = mpsc::channel(1);
        let names = (&team, &outbound);
        let carrying = direct::carry(&context, judge, job.letter, names, plan, tell);
        let writing = async {
            while let Some(carried) = told.recv().await {
                self.settle(job, carried).await;
            }
        };
        tokio::join!(carrying, writing);
    }

    /// Records what came of a transaction. It has happened: this goes on until it is written or the program stops, and
    /// then it is uncertain.
    async fn settle(&mut self, job: &Job<'_>, mut carried: Carried) {
        self.keep_transcript(job, std::mem::take(&mut carried.transcript));
        let fail = carried.failed.take().and_then(|failed| self.failing(job, failed, &mut carried));
        for results in &carried.results {
            let n = u64::try_from(results.recipients.len()).unwrap_or(u64::MAX);
            metrics::counter!("outbound_recipients_total", "outcome" => label(&results.outcome)).increment(n);
        }
        if !carried.results.is_empty() {
            let command = RecordResults::of(self.outbound.clone(), job.mail, job.attempt, carried.results);
            self.surely(&command).await;
        }
        if let Some(fail) = fail {
            self.surely(&fail).await;
        }
    }

    fn keep_transcript(&mut self, job: &Job<'_>, said: String) {
        if said.is_empty() {
            return;
        }
        match self.transcripts.last_mut().filter(|t| t.attempt == job.attempt) {
            Some(kept) if kept.said.len() + said.len() <= SAID_BYTES_MAX => kept.said.push_str(&said),
            Some(_) => {}
            None => {
                let (attempt, account, at) = (job.attempt, job.account.clone(), self.context.allot.now());
                self.transcripts.push(Transcript { attempt, account, said, at });
            }
        }
    }

    /// Returns what ends an attempt that handed nothing over; where it has been tried for long enough, that is a result.
    fn failing(&self, job: &Job<'_>, failed: Failed, carried: &mut Carried) -> Option<FailAttempt> {
        let refused = failed.trouble == AttemptTrouble::LoginRefused;
        let mut left = job.mail.left.clone();
        left.insert(job.account.clone());
        let others = !job.mail.asking(|asks| job.routing.eligible(asks, &left)).is_empty();
        let leaves_account = refused || (failed.trouble == AttemptTrouble::Unreachable && others);
        let judge = self.context.judge(job.mail, job.attempt, false, "");
        let now = self.context.allot.now();
        let retry_at = if leaves_account { Some(now) } else { judge.next(job.attempt.saturating_sub(1)) };
        let Some(retry_at) = retry_at else {
            let recipients = numbers(job.mail, |status| status == Status::InFlight { attempt: job.attempt });
            let verdict = Verdict::of(Category::Network);
            let outcome = Outcome::Deferred { verdict, uncertain: false, retry_at: None };
            carried.results.push(Results { recipients, outcome, report: failed.report });
            return None;
        };
        Some(FailAttempt {
            outbound: self.outbound.clone(),
            attempt: job.attempt,
            account: job.account.clone(),
            trouble: failed.trouble,
            leaves_account,
            retry_at,
            report: failed.report,
        })
    }
}

fn label(outcome: &Outcome) -> &'static str {
    match outcome {
        Outcome::Taken { delivered: true } => "delivered",
        Outcome::Taken { delivered: false } => "sent",
        Outcome::Deferred { .. } => "deferred",
        Outcome::Rejected { .. } => "rejected",
        Outcome::Bounced { .. } => "bounced",
        Outcome::Uncertain { .. } => "uncertain",
    }
}
