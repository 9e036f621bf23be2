//! One look at one mail: reads its state and does the next thing, until it has to wait.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use domain::bounce::{Category, Verdict};
use domain::id::{OutboundId, ProviderId, TeamId};
use domain::outbound::report::Report;
use domain::outbound::{
    BeginAttempt, Event, Outbound, Outcome, PostponeMail, PostponeReason, RecordFeedback, RecordResults, RejectReason,
    RejectWaiting, Rejected, ReleaseUncertain, Results, Stage, Status, UNKNOWN_AFTER_MICROS,
};
use domain::provider::quota::Usage;
use domain::provider::{BreakProvider, Transport, Trouble};
use domain::routing::{Attempted, Candidate, Choice, Quota, Routing, seed};
use domain::{Actor, Command, StreamId, Versioned};
use eventlog::{Appended, Submission, TransactError};
use tokio::sync::Mutex;

use super::carry::Job;
use super::letter::{self, Unsendable};
use super::patience::Wait;
use super::queue::{Next, Settlement, Transcript};
use super::reactor::Context;
use super::sandbox::{self, Heard};
use super::{Unready, direct, notify, ses};
use crate::smtp::{Peer, Turn};

/// Steps of one look; a mail that wants more is looked at again.
const STEPS_MAX: usize = 12;
const SECOND: i64 = 1_000_000;
/// Who carries mail, in the log.
pub(super) const ACTOR: Actor = Actor::System("outbound");
/// How long a mail waits for something that announces itself: this is only in case it does not.
const FAR: i64 = 3_600 * SECOND;

/// What a team's accounts were given, as this node knows.
pub(crate) type Used = Arc<Mutex<BTreeMap<ProviderId, Usage>>>;

/// One look at one mail.
pub(crate) struct Visit {
    pub(crate) context: Arc<Context>,
    pub(crate) team: TeamId,
    pub(crate) outbound: OutboundId,
    pub(crate) used: Used,
    pub(crate) transcripts: Vec<Transcript>,
    /// Usage that changed.
    pub(crate) usage: BTreeMap<ProviderId, Usage>,
    /// Whether the simulator has had its say.
    pub(crate) heard: bool,
    /// When a report to the sender is to be tried again, microseconds since the Unix epoch.
    pub(crate) notify_at: Option<i64>,
}

/// How an account carries a mail.
pub(crate) enum Way {
    Account(Peer, Turn),
    Ses(ses::Account),
    Direct(direct::Plan),
    Sandbox,
}

impl Visit {
    /// Does what there is to do.
    pub(crate) async fn run(mut self) -> Settlement {
        let mut next = None;
        for _ in 0..STEPS_MAX {
            next = match self.step().await {
                Ok(next) => next,
                Err(error) => {
                    tracing::warn!(team.id = %self.team, outbound.id = %self.outbound, %error, "a mail could not be carried; trying again");
                    Some(self.at(self.context.allot.now() + SECOND))
                }
            };
            if next.is_some() {
                break;
            }
        }
        let next = next.unwrap_or_else(|| self.at(self.context.allot.now()));
        let Self { team, outbound, transcripts, usage, .. } = self;
        Settlement { team, outbound, next, transcripts, usage }
    }

    fn at(&self, due_at: i64) -> Next {
        Next::At { due_at, waits: false }
    }

    /// Does one thing; `None` to look again at once.
    async fn step(&mut self) -> Result<Option<Next>, Unready> {
        let streams = [StreamId::Outbound(self.outbound.clone()), StreamId::Routing];
        let (mail, routing): (Versioned<Outbound>, Versioned<Routing>) =
            self.context.log.state(&self.team, &streams).await?;
        let now = self.context.allot.now();
        if mail.accepted.is_none() {
            return Ok(Some(Next::Settled));
        }
        if self.hear(&mail, &routing).await? {
            return Ok(None);
        }
        if self.notify(&mail, now).await? {
            return Ok(None);
        }
        if mail.is_settled() {
            return Ok(Some(self.notify_at.map_or(Next::Settled, |at| self.at(at))));
        }
        if let Some(attempt) = abandoned(&mail) {
            self.recover(&mail, &routing, attempt).await?;
            return Ok(None);
        }
        let release_at = uncertain_since(&mail).map(|since| since.saturating_add(UNKNOWN_AFTER_MICROS));
        if release_at.is_some_and(|at| at <= now) {
            self.tell(&ReleaseUncertain { outbound: self.outbound.clone() }).await?;
            return Ok(None);
        }
        let due = if mail.paused { vec![] } else { mail.waiting(now) };
        if due.is_empty() {
            let alarm = [mail.next_due_at(), release_at, self.notify_at].into_iter().flatten().min();
            // A paused mail is looked at when somebody changes it.
            return Ok(Some(self.at(alarm.unwrap_or(now + 24 * FAR))));
        }
        self.attempt(&mail, &routing, due, now).await
    }

    /// Ends an attempt that nobody works at any more: whoever began it is gone.
    async fn recover(&self, mail: &Outbound, routing: &Routing, attempt: u32) -> Result<(), Unready> {
        let account = mail.open.get(&attempt).map(|open| &open.account);
        let transport = account.and_then(|id| routing.accounts.get(id)).map(|a| &a.transport);
        let direct = transport.is_some_and(Transport::reaches_recipients);
        let judge = self.context.judge(mail, attempt, direct, "");
        let flying = numbers(mail, |status| status == Status::InFlight { attempt });
        let results = flying.iter().map(|number| {
            let outcome = match direct {
                true => judge.later(*number, Verdict::of(Category::Network), true),
                false => Outcome::Uncertain { stage: Stage::Interrupted },
            };
            Results { recipients: vec![*number], outcome, report: Report::default() }
        });
        let command = RecordResults::of(self.outbound.clone(), mail, attempt, results.collect());
        self.tell(&command).await?;
        Ok(())
    }

    /// Makes one attempt for the recipients that are due.
    async fn attempt(
        &mut self,
        mail: &Versioned<Outbound>,
        routing: &Routing,
        due: Vec<u8>,
        now: i64,
    ) -> Result<Option<Next>, Unready> {
        let mut beside = notify::closed_to(mail, routing);
        let candidate = match self.candidate(mail, routing, due.len(), now, &mut beside).await? {
            Ok(candidate) => candidate,
            Err(next) => return Ok(next),
        };
        // Amazon SES writes fields of its own into the header, which would break our signature, and signs itself.
        let transport = routing.accounts.get(&candidate.account).map(|a| &a.transport);
        let signs = !matches!(transport, Some(Transport::Ses { .. }));
        let prepared = match letter::prepare(&self.context, &self.team, mail, signs).await {
            Ok(prepared) => prepared,
            Err(Unsendable::Now(unready)) => return Err(unready),
            Err(Unsendable::Never(why)) => {
                tracing::warn!(team.id = %self.team, outbound.id = %self.outbound, why, "a mail cannot be sent");
                return self.reject(RejectReason::NotSendable).await;
            }
        };
        let (way, going) = match self.way(mail, routing, &candidate, &due, now).await? {
            Ok(found) => found,
            Err(next) => return Ok(next),
        };
        let now = self.context.allot.now();
        if self.context.patience.of(&candidate.account, now).is_some() {
            // While this one waited for its turn, another was sent away.
            return Ok(None);
        }
        // Between the choice and here others of the team may have taken the room.
        match self.choose(mail, routing, &beside, (going.len(), now), true).await {
            Choice::Account(again) if again.account == candidate.account => {}
            _ => return Ok(None),
        }
        let begin = BeginAttempt::of(self.outbound.clone(), mail, candidate.account.clone(), going);
        let attempt = begin.attempt;
        let appended = match self.transact(&begin).await {
            Ok(appended) => appended,
            Err(TransactError::Rejected(Rejected::Paused)) => {
                return Ok(Some(Next::At { due_at: now + FAR, waits: true }));
            }
            Err(TransactError::Rejected(_)) => return Ok(None),
            Err(error) => return Err(Unready(error.to_string())),
        };
        let started = appended.records.iter().find_map(|record| match &record.event {
            domain::Event::Outbound(Event::AttemptStarted(e)) if e.attempt == attempt => Some(e.recipients.clone()),
            _ => None,
        });
        // Nothing was written: another node began this attempt, or everybody is on the suppression list.
        let Some(going) = started else { return Ok(None) };
        let (mail, account) = (&appended.state.0, &candidate.account);
        self.heard = false;
        self.carry(&Job { mail, routing, account, attempt, letter: &prepared, going: &going }, way).await;
        Ok(None)
    }

    /// Chooses an account that may be used now, or does what is to be done without one. Accounts that ask for patience
    /// are left `beside`, but a mail that one of them has deferred stays with it.
    async fn candidate(
        &mut self,
        mail: &Versioned<Outbound>,
        routing: &Routing,
        n: usize,
        now: i64,
        beside: &mut BTreeSet<ProviderId>,
    ) -> Result<Result<Candidate, Option<Next>>, Unready> {
        let mut first: Option<Wait> = None;
        loop {
            let wait = match self.choose(mail, routing, beside, (n, now), false).await {
                Choice::Account(candidate) => {
                    let Some(wait) = self.context.patience.of(&candidate.account, now) else {
                        return Ok(Ok(candidate));
                    };
                    first = first.filter(|known| known.until <= wait.until).or(Some(wait));
                    if mail.account.as_ref() != Some(&candidate.account) {
                        beside.insert(candidate.account);
                        continue;
                    }
                    Some(wait)
                }
                Choice::QuotaReached { until } => Some(Wait { until, reason: PostponeReason::QuotaReached }),
                Choice::None => first,
            };
            return match wait {
                Some(Wait { until, reason }) => self.postpone(mail, reason, Some(until), until, now).await.map(Err),
                None => self.without_account(mail, routing, now).await.map(Err),
            };
        }
    }

    async fn choose(
        &mut self,
        mail: &Outbound,
        routing: &Routing,
        beside: &BTreeSet<ProviderId>,
        (n, now): (usize, i64),
        take: bool,
    ) -> Choice {
        let recipients = u32::try_from(n).unwrap_or(u32::MAX);
        let seed = seed(&self.outbound, mail.attempts);
        let left: BTreeSet<_> = mail.left.union(beside).cloned().collect();
        let attempted = Attempted { current: mail.account.as_ref(), left: &left, seed };
        let mut used = self.used.lock().await;
        let quota = Quota { usage: &used, now, recipients };
        let choice = mail.asking(|asks| routing.choose(asks, &attempted, &quota));
        if let Choice::Account(candidate) = &choice
            && take
        {
            let usage = used.entry(candidate.account.clone()).or_default();
            usage.add(now, recipients);
            self.usage.insert(candidate.account.clone(), *usage);
        }
        choice
    }

    /// No account can be used: waits for one, or ends where none ever will be.
    async fn without_account(
        &mut self,
        mail: &Versioned<Outbound>,
        routing: &Routing,
        now: i64,
    ) -> Result<Option<Next>, Unready> {
        let hope = mail.asking(|asks| routing.in_scope(asks)).iter().any(|c| !mail.left.contains(&c.account));
        if !hope || now >= mail.expires_at() {
            return self.reject(RejectReason::NoActiveProviders).await;
        }
        self.postpone(mail, PostponeReason::NoActiveProviders, None, mail.expires_at(), now).await
    }

    async fn reject(&self, reason: RejectReason) -> Result<Option<Next>, Unready> {
        self.tell(&RejectWaiting { outbound: self.outbound.clone(), reason }).await?;
        Ok(None)
    }

    async fn postpone(
        &self,
        mail: &Outbound,
        reason: PostponeReason,
        until: Option<i64>,
        due_at: i64,
        now: i64,
    ) -> Result<Option<Next>, Unready> {
        if now >= mail.expires_at() {
            return self.reject(RejectReason::NoActiveProviders).await;
        }
        self.tell(&PostponeMail { outbound: self.outbound.clone(), reason, until }).await?;
        Ok(Some(Next::At { due_at: due_at.min(mail.expires_at()).max(now + 1), waits: true }))
    }

    /// Finds how the account carries the mail, and for whom now; or what is to be done instead.
    async fn way(
        &self,
        mail: &Versioned<Outbound>,
        routing: &Routing,
        candidate: &Candidate,
        due: &[u8],
        now: i64,
    ) -> Result<Result<(Way, Vec<u8>), Option<Next>>, Unready> {
        let broken = |message: String| BreakProvider {
            provider: candidate.account.clone(),
            trouble: Trouble::Misconfigured,
            message,
        };
        match routing.accounts.get(&candidate.account).map(|a| &a.transport) {
            Some(Transport::CustomSmtp { .. }) => {
                match letter::peer(&self.context, &self.team, &candidate.account).await? {
                    Ok(peer) => {
                        // Before the attempt is begun: who waits for a connection is not on its way.
                        let turn = self.context.mailer.turn(&peer).await;
                        Ok(Ok((Way::Account(peer, turn), due.to_vec())))
                    }
                    Err(message) => {
                        self.tell(&broken(message)).await?;
                        Ok(Err(None))
                    }
                }
            }
            Some(Transport::Sandbox) => Ok(Ok((Way::Sandbox, due.to_vec()))),
            Some(Transport::DirectMx) => {
                let context = &self.context;
                let Some(plan) = direct::plan(context, mail, due, now).await else {
                    return self.reject(RejectReason::NotSendable).await.map(Err);
                };
                if !plan.numbers.is_empty() {
                    let numbers = plan.numbers.clone();
                    return Ok(Ok((Way::Direct(plan), numbers)));
                }
                let later = plan.later.unwrap_or(now + SECOND);
                if plan.parked {
                    let reason = PostponeReason::TransportParked;
                    return self.postpone(mail, reason, Some(later), later, now).await.map(Err);
                }
                Ok(Err(Some(self.at(later))))
            }
            Some(Transport::Ses { region, configuration_set }) => {
                match letter::access_key(&self.context, &self.team, &candidate.account).await? {
                    Ok(key) => {
                        let account = ses::Account { region: region.clone(), set: configuration_set.clone(), key };
                        Ok(Ok((Way::Ses(account), due.to_vec())))
                    }
                    Err(message) => {
                        self.tell(&broken(message)).await?;
                        Ok(Err(None))
                    }
                }
            }
            // The account is gone since it was chosen.
            None => Ok(Err(None)),
        }
    }

    /// Records what recipients of the simulator have to say after they have the mail. What they say follows from the
    /// mail's state, so that it is said after a restart too. Returns whether there was something.
    async fn hear(&mut self, mail: &Outbound, routing: &Routing) -> Result<bool, Unready> {
        let account = mail.account.as_ref().and_then(|id| routing.accounts.get(id));
        if self.heard || !account.is_some_and(|a| a.transport == Transport::Sandbox) {
            return Ok(false);
        }
        self.heard = true;
        let said = sandbox::afterwards(mail, &self.context.config.simulator_domain);
        let any = !said.is_empty();
        for Heard { number, feedback, source, report } in said {
            let Some(recipient) = mail.recipient(number) else { continue };
            let address = recipient.address.clone();
            let outbound = self.outbound.clone();
            self.tell(&RecordFeedback { outbound, recipient: number, address, feedback, source, report }).await?;
        }
        Ok(any)
    }

    async fn transact<C>(&self, command: &C) -> Result<Appended<C::State>, TransactError<C::Rejected>>
    where
        C: Command + Clone + Send + Sync + 'static,
        C::State: Send + Sync,
        C::Rejected: Send + Sync,
    {
        let now = self.context.allot.now();
        let submission = Submission::new(self.team.clone(), now, ACTOR, self.outbound.as_str(), command.clone());
        let outcome = self.context.log.transact(submission).await?;
        outcome.done().ok_or(TransactError::Stopped)
    }

    /// Carries a command out; a refusal means that the state has moved on, which the next step sees.
    pub(super) async fn tell<C>(&self, command: &C) -> Result<(), Unready>
    where
        C: Command + Clone + Send + Sync + 'static,
        C::State: Send + Sync,
        C::Rejected: Send + Sync,
    {
        match self.transact(command).await {
            Ok(_) | Err(TransactError::Rejected(_)) => Ok(()),
            Err(error) => Err(Unready(error.to_string())),
        }
    }

    pub(super) async fn surely<C>(&self, command: &C)
    where
        C: Command + Clone + Send + Sync + 'static,
        C::State: Send + Sync,
        C::Rejected: Send + Sync,
    {
        loop {
            match self.transact(command).await {
                Ok(_) | Err(TransactError::Stopped) => return,
                Err(TransactError::Rejected(error)) => {
                    tracing::error!(team.id = %self.team, outbound.id = %self.outbound, %error, "an outcome was refused");
                    return;
                }
                Err(error) => {
                    tracing::warn!(team.id = %self.team, outbound.id = %self.outbound, %error, "an outcome could not be written; trying again");
                    tokio::time::sleep(Duration::from_millis(500)).await;
                }
            }
        }
    }
}

pub(super) fn numbers(mail: &Outbound, test: impl Fn(Status) -> bool) -> Vec<u8> {
    mail.recipients.iter().zip(0u8..).filter(|(r, _)| test(r.status)).map(|(_, n)| n).collect()
}

/// Returns an attempt that some recipient is in flight in.
fn abandoned(mail: &Outbound) -> Option<u32> {
    mail.recipients.iter().find_map(|r| match r.status {
        Status::InFlight { attempt } => Some(attempt),
        _ => None,
    })
}

/// Returns since when the first recipient is uncertain.
fn uncertain_since(mail: &Outbound) -> Option<i64> {
    let since = mail.recipients.iter().filter_map(|r| match r.status {
        Status::Uncertain { since, .. } => Some(since),
        _ => None,
    });
    since.min()
}
