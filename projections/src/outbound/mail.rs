//! How one mail fares: the fold of its events into what is shown of it.

use domain::bounce::{Kind, Verdict};
use domain::id::ProviderId;
use domain::outbound::{
    Accepted, AttemptTrouble, Complaint, Event, Machine, Parties, PostponeReason, RejectReason, Status,
};
use serde::{Deserialize, Serialize};

/// What the delivery log says of a mail or a recipient.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogStatus {
    /// It is on its way to an account.
    Pending,
    /// Somebody took it, and it has not come back.
    Sent,
    /// It came back, or nobody knows whether it was taken.
    Failed,
    /// It was not taken, or not sent at all.
    Rejected,
}

impl LogStatus {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Pending, Self::Sent, Self::Failed, Self::Rejected];

    /// Returns the name as stored and shown.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Sent => "sent",
            Self::Failed => "failed",
            Self::Rejected => "rejected",
        }
    }

    /// Returns what is said of a recipient.
    #[must_use]
    pub fn of(status: Status) -> Self {
        match status {
            Status::Waiting | Status::InFlight { .. } => Self::Pending,
            Status::Sent | Status::Delivered => Self::Sent,
            Status::Uncertain { .. } | Status::Unknown | Status::Bounced => Self::Failed,
            Status::Rejected | Status::Cancelled => Self::Rejected,
        }
    }
}

/// Whether a mail can still be cancelled (RFC 8621 §7).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UndoStatus {
    /// For some recipient it can.
    Pending,
    /// It is too late.
    Final,
    /// It was cancelled.
    Canceled,
}

impl UndoStatus {
    /// Returns the name as stored and shown.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Final => "final",
            Self::Canceled => "canceled",
        }
    }
}

/// How a mail fares.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Progress {
    /// Where each recipient is; their place is their number.
    pub recipients: Vec<RecipientProgress>,
    /// How many attempts were started.
    pub attempts: u32,
    /// Whether the account it was last given to costs the managed price.
    pub managed: bool,
    /// Whether it waits until it is resumed.
    pub paused: bool,
    /// Whether it is not sent any more.
    pub cancelled: bool,
    /// Why it waits though it is due, and until when if that is known.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub postponed: Option<(PostponeReason, Option<i64>)>,
    /// Why the latest attempt came to nothing; `None` once one came to something.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub trouble: Option<AttemptTrouble>,
    /// The provider's id of the mail.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub provider_message_id: Option<String>,
}

/// Where one recipient of a mail is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecipientProgress {
    /// Where the mail is.
    pub status: Status,
    /// When it is due, microseconds since the Unix epoch.
    pub due_at: i64,
    /// Since when it is where it is.
    pub since: i64,
    /// Whether a provider or the recipient's server has taken it, whatever came after.
    pub taken: bool,
    /// How often it was deferred.
    pub deferrals: u32,
    /// What a server said last.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub verdict: Option<Verdict>,
    /// Its words; `None` after erasure.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub diagnostic: Option<String>,
    /// The server that said it; `None` after erasure.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub remote_mta: Option<String>,
    /// Why it was refused.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub rejected: Option<RejectReason>,
    /// How it bounced.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub bounced: Option<Kind>,
    /// What its owner complained about.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub complained: Option<Complaint>,
    /// When a person, or nobody knows who, first opened it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub opened_at: Option<i64>,
    /// Whether its owner wants no more of its kind.
    pub unsubscribed: bool,
}

impl RecipientProgress {
    fn heard(&mut self, verdict: Option<Verdict>, parties: Option<&Parties>) {
        self.verdict = verdict;
        self.diagnostic = parties.and_then(|p| p.diagnostic.clone());
        self.remote_mta = parties.and_then(|p| p.remote_mta.clone());
    }
}

/// What of a mail changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct State {
    pub(super) progress: Progress,
    pub(super) provider: Option<ProviderId>,
    pub(super) send_at: i64,
    pub(super) sent_at: Option<i64>,
}

impl State {
    pub(super) fn accepted(e: &Accepted) -> Self {
        let send_at = e.send_at.unwrap_or(e.accepted_at);
        let waiting = RecipientProgress {
            status: Status::Waiting,
            due_at: send_at,
            since: e.accepted_at,
            taken: false,
            deferrals: 0,
            verdict: None,
            diagnostic: None,
            remote_mta: None,
            rejected: None,
            bounced: None,
            complained: None,
            opened_at: None,
            unsubscribed: false,
        };
        let progress = Progress { recipients: vec![waiting; e.recipients.len()], ..Progress::default() };
        Self { progress, provider: None, send_at, sent_at: None }
    }

    pub(super) fn log_status(&self) -> LogStatus {
        // One that is still on its way keeps the mail pending, one that arrived makes it a success.
        let statuses = self.progress.recipients.iter().map(|r| LogStatus::of(r.status));
        statuses.min().unwrap_or(LogStatus::Rejected)
    }

    pub(super) fn undo_status(&self) -> UndoStatus {
        if self.progress.recipients.iter().any(|r| r.status == Status::Waiting) {
            UndoStatus::Pending
        } else if self.progress.cancelled {
            UndoStatus::Canceled
        } else {
            UndoStatus::Final
        }
    }

    pub(super) fn due_at(&self) -> Option<i64> {
        let waiting = self.progress.recipients.iter().filter(|r| r.status == Status::Waiting && !self.progress.paused);
        waiting.map(|r| r.due_at).min()
    }

    /// Changes recipients by their numbers; unknown numbers are passed over.
    fn each(&mut self, numbers: &[u8], change: impl Fn(&mut RecipientProgress)) {
        for number in numbers {
            if let Some(recipient) = self.progress.recipients.get_mut(usize::from(*number)) {
                change(recipient);
            }
        }
    }

    fn settle(&mut self, numbers: &[u8], status: Status, at: i64) {
        self.each(numbers, |r| (r.status, r.since) = (status, at));
    }

    fn taken(&mut self, numbers: &[u8], status: Status, at: i64, parties: Option<&Parties>) {
        self.sent_at = self.sent_at.or(Some(at));
        self.progress.trouble = None;
        if let Some(id) = parties.and_then(|p| p.provider_message_id.as_ref()) {
            self.progress.provider_message_id = Some(id.clone());
        }
        self.each(numbers, |r| {
            (r.status, r.since, r.taken) = (status, at, true);
            r.heard(None, parties);
        });
    }

    /// Folds one event; the one that accepted it is the beginning and changes nothing.
    pub(super) fn fold(&mut self, event: &Event, at: i64) {
        match event {
            Event::Accepted(_) => {}
            Event::Rescheduled(e) => {
                self.send_at = e.send_at;
                self.progress.recipients.iter_mut().for_each(|r| r.due_at = e.send_at);
            }
            Event::Paused(_) => self.progress.paused = true,
            Event::Resumed(_) => self.progress.paused = false,
            Event::Cancelled(e) => {
                self.progress.cancelled = true;
                self.settle(&e.recipients, Status::Cancelled, at);
            }
            Event::RetryRequested(e) => {
                self.progress.postponed = None;
                self.each(&e.recipients, |r| (r.status, r.due_at, r.since) = (Status::Waiting, e.at, e.at));
            }
            Event::Postponed(e) => self.progress.postponed = Some((e.reason, e.until)),
            Event::AttemptStarted(e) => {
                self.progress.postponed = None;
                (self.progress.attempts, self.progress.managed) = (e.attempt, e.managed);
                self.provider = Some(e.account.clone());
                self.settle(&e.recipients, Status::InFlight { attempt: e.attempt }, e.at);
            }
            Event::AttemptFailed(e) => {
                self.progress.trouble = Some(e.trouble);
                let known = e.personal.known();
                let flying = self.progress.recipients.iter_mut();
                for r in flying.filter(|r| r.status == Status::InFlight { attempt: e.attempt }) {
                    (r.status, r.due_at, r.since) = (Status::Waiting, e.retry_at, at);
                    r.heard(None, known);
                }
            }
            Event::Sent(e) => self.taken(&e.recipients, Status::Sent, e.at, e.personal.known()),
            Event::Delivered(e) => self.taken(&e.recipients, Status::Delivered, e.at, e.personal.known()),
            Event::Deferred(_) | Event::Uncertain(_) | Event::Rejected(_) | Event::Bounced(_) => self.refused(event),
            Event::Delayed(_)
            | Event::Complained(_)
            | Event::Opened(_)
            | Event::Unsubscribed(_)
            | Event::Released(_) => self.later(event, at),
            Event::NoticePlanned(_) | Event::NoticeSettled(_) => {}
        }
    }

    /// Folds what a server said instead of taking the mail.
    fn refused(&mut self, event: &Event) {
        match event {
            Event::Deferred(e) => self.each(&e.recipients, |r| {
                (r.status, r.due_at, r.since) = (Status::Waiting, e.retry_at, e.at);
                r.deferrals = r.deferrals.saturating_add(1);
                r.heard(Some(e.verdict), e.personal.known());
            }),
            Event::Uncertain(e) => self.each(&e.recipients, |r| {
                (r.status, r.since) = (Status::Uncertain { attempt: e.attempt, since: e.at }, e.at);
                r.heard(None, e.personal.known());
            }),
            Event::Rejected(e) => self.each(&e.recipients, |r| {
                (r.status, r.since, r.rejected) = (Status::Rejected, e.at, Some(e.reason));
                r.heard(e.verdict, e.personal.known());
            }),
            Event::Bounced(e) => self.each(&[e.recipient], |r| {
                (r.status, r.since, r.bounced) = (Status::Bounced, e.at, Some(e.kind));
                // Who charges for it has taken it.
                r.taken |= e.late || e.booking.charged_units > 0;
                r.heard(Some(e.verdict), e.personal.known());
            }),
            _ => {}
        }
    }

    /// Folds what comes beside the outcome.
    fn later(&mut self, event: &Event, at: i64) {
        match event {
            Event::Delayed(e) => {
                self.each(&[e.recipient], |r| r.heard(Some(e.verdict), e.personal.known()));
            }
            Event::Complained(e) => self.each(&[e.recipient], |r| r.complained = Some(e.complaint)),
            Event::Opened(e) if e.machine != Machine::Yes => {
                self.each(&[e.recipient], |r| r.opened_at = r.opened_at.or(Some(at)));
            }
            Event::Unsubscribed(e) => self.each(&[e.recipient], |r| r.unsubscribed = true),
            Event::Released(e) => self.settle(&e.recipients, Status::Unknown, at),
            _ => {}
        }
    }
}
