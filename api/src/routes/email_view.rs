//! How outgoing mail is shown: where it is, where each of its recipients is, and why.

use std::collections::BTreeMap;

use domain::bounce::{Kind, Verdict};
use domain::message::Person;
use domain::outbound::{AttemptTrouble, PostponeReason, RecipientKind, Status};
use domain::published::rfc3339;
use projections::outbound::{LogStatus, RecipientProgress, Row};
use serde::Serialize;
use utoipa::ToSchema;

/// Returns where in the header a recipient stands, in the contract's word.
pub(super) fn kind_name(kind: RecipientKind) -> &'static str {
    match kind {
        RecipientKind::To => "to",
        RecipientKind::Cc => "cc",
        RecipientKind::Bcc => "bcc",
    }
}

fn status_name(status: Status) -> &'static str {
    match status {
        Status::Waiting => "waiting",
        Status::InFlight { .. } => "sending",
        Status::Uncertain { .. } => "uncertain",
        Status::Sent => "sent",
        Status::Delivered => "delivered",
        Status::Bounced => "bounced",
        Status::Rejected => "rejected",
        Status::Cancelled => "cancelled",
        Status::Unknown => "unknown",
    }
}

pub(super) fn postponed_name(reason: PostponeReason) -> &'static str {
    match reason {
        PostponeReason::QuotaReached => "quota_reached",
        PostponeReason::NoActiveProviders => "no_active_providers",
        PostponeReason::Throttled => "throttled",
        PostponeReason::TransportParked => "transport_parked",
    }
}

pub(super) fn trouble_name(trouble: AttemptTrouble) -> &'static str {
    match trouble {
        AttemptTrouble::LoginRefused => "login_refused",
        AttemptTrouble::Unreachable => "unreachable",
        AttemptTrouble::Throttled => "throttled",
        AttemptTrouble::Abandoned => "abandoned",
    }
}

/// What a server said, in the words of the protocol.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(super) struct Said {
    /// What it is about.
    #[schema(example = "user_unknown")]
    category: &'static str,
    #[schema(required, example = 550)]
    smtp_code: Option<u16>,
    #[schema(required, example = "5.1.1")]
    enhanced_code: Option<String>,
}

impl From<Verdict> for Said {
    fn from(verdict: Verdict) -> Self {
        Self {
            category: verdict.category.as_str(),
            smtp_code: verdict.smtp_code,
            enhanced_code: verdict.enhanced_text(),
        }
    }
}

/// Where one recipient of a mail is.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(super) struct EmailOutcome {
    #[schema(required)]
    email: Option<String>,
    #[serde(rename = "type")]
    kind: &'static str,
    /// `waiting`, `sending`, `uncertain`, `sent`, `delivered`, `bounced`, `rejected`, `cancelled` or `unknown`.
    #[schema(example = "delivered")]
    status: &'static str,
    /// Since when.
    since: String,
    /// Why, where there is something to say.
    #[schema(required)]
    reason: Option<String>,
    /// `Permanent`, `Transient` or `Undetermined`.
    #[schema(required)]
    bounce_type: Option<&'static str>,
    /// What the server said last.
    #[schema(required)]
    said: Option<Said>,
    #[schema(required)]
    remote_mta: Option<String>,
    /// When it is tried next.
    #[schema(required)]
    next_attempt_at: Option<String>,
    #[schema(required)]
    complaint_type: Option<&'static str>,
    #[schema(required)]
    opened_at: Option<String>,
    unsubscribed: bool,
}

/// Returns why a recipient is where it is.
pub(super) fn reason(at: &RecipientProgress) -> Option<String> {
    if let Some(diagnostic) = &at.diagnostic {
        return Some(diagnostic.clone());
    }
    match (at.rejected, at.verdict) {
        (Some(rejected), _) => Some(rejected.as_str().to_owned()),
        (None, Some(verdict)) => Some(verdict.category.as_str().to_owned()),
        (None, None) => match at.status {
            Status::Uncertain { .. } | Status::Unknown => Some("the server's answer was lost".to_owned()),
            Status::Cancelled => Some("cancelled".to_owned()),
            _ => None,
        },
    }
}

impl EmailOutcome {
    fn new(kind: RecipientKind, person: Option<&Person>, at: &RecipientProgress, paused: bool) -> Self {
        let waits = at.status == Status::Waiting && !paused;
        Self {
            email: person.map(|p| p.email.clone()),
            kind: kind_name(kind),
            status: status_name(at.status),
            since: rfc3339(at.since),
            reason: reason(at),
            bounce_type: at.bounced.map(Kind::contract_name),
            said: at.verdict.map(Said::from),
            remote_mta: at.remote_mta.clone(),
            next_attempt_at: waits.then(|| rfc3339(at.due_at)),
            complaint_type: at.complained.map(|c| c.as_str()),
            opened_at: at.opened_at.map(rfc3339),
            unsubscribed: at.unsubscribed,
        }
    }

    pub(super) fn all(row: &Row) -> Vec<Self> {
        row.recipients().map(|(to, person, at)| Self::new(to.kind, person, at, row.progress.paused)).collect()
    }
}

/// Returns why a mail is where it is: what holds it up, or what was said about the first recipient that failed.
pub(super) fn status_reason(row: &Row) -> Option<String> {
    let progress = &row.progress;
    match row.log_status {
        LogStatus::Pending => {
            if progress.paused {
                return Some("held".to_owned());
            }
            if let Some((reason, _)) = progress.postponed {
                return Some(postponed_name(reason).to_owned());
            }
            if let Some(trouble) = progress.trouble {
                return Some(trouble_name(trouble).to_owned());
            }
            progress.recipients.iter().filter(|r| LogStatus::of(r.status) == LogStatus::Pending).find_map(reason)
        }
        LogStatus::Sent => None,
        LogStatus::Failed | LogStatus::Rejected => {
            progress.recipients.iter().filter(|r| LogStatus::of(r.status) == row.log_status).find_map(reason)
        }
    }
}

/// Where a mail is.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(super) struct EmailState {
    #[schema(example = "eml_06bqmn3t0d4gq2v8xk1hz7sw")]
    message_id: String,
    /// Its entry in the delivery log.
    #[schema(example = "dlog_06bqmn3t0d4gq2v8xk1hz7sw")]
    log_id: String,
    /// `pending`, `sent`, `failed` or `rejected`.
    #[schema(example = "pending")]
    status: &'static str,
    #[schema(required)]
    status_reason: Option<String>,
    /// Whether it can still be cancelled: `pending`, `final` or `canceled`.
    #[schema(example = "final")]
    undo_status: &'static str,
    /// Whether it waits until it is resumed.
    is_held: bool,
    /// When it was or is to be sent first.
    send_at: String,
    #[schema(required)]
    sent_at: Option<String>,
    /// When it is tried next; null when nobody waits or it is held.
    #[schema(required)]
    next_attempt_at: Option<String>,
    attempts: u32,
    /// The Message-ID, without angle brackets.
    #[schema(required)]
    rfc5322_message_id: Option<String>,
    #[schema(required)]
    subject: Option<String>,
    recipients: Vec<EmailOutcome>,
    tags: Vec<String>,
    metadata: BTreeMap<String, String>,
    created_at: String,
}

impl EmailState {
    pub(super) fn new(row: &Row) -> Self {
        let letter = row.letter.as_ref();
        let labels = letter.map(|l| l.labels.clone()).unwrap_or_default();
        Self {
            message_id: row.id.to_string(),
            log_id: row.log.to_string(),
            status: row.log_status.as_str(),
            status_reason: status_reason(row),
            undo_status: row.undo_status.as_str(),
            is_held: row.progress.paused,
            send_at: rfc3339(row.send_at),
            sent_at: row.sent_at.map(rfc3339),
            next_attempt_at: row.due_at.map(rfc3339),
            attempts: row.progress.attempts,
            rfc5322_message_id: letter.map(|l| l.rfc5322_message_id.clone()),
            subject: letter.and_then(|l| l.subject.clone()),
            recipients: EmailOutcome::all(row),
            tags: labels.tags,
            metadata: labels.metadata,
            created_at: rfc3339(row.accepted_at),
        }
    }
}
