//! What one event of a mail said, as it is listed with the mail.

use domain::bounce::{Source, Verdict};
use domain::id::ProviderId;
use domain::outbound::{AttemptTrouble, Complaint, Event, Parties, PostponeReason, RejectReason};
use domain::personal::Personal;
use serde::{Deserialize, Serialize};

/// What is worth showing of an event; what does not apply is `None`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Said {
    /// The numbers of the recipients it is about; none if it is about the mail.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub recipients: Vec<u8>,
    /// Which attempt.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attempt: Option<u32>,
    /// The account.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub account: Option<ProviderId>,
    /// What a server said, in the words of the protocol.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub verdict: Option<Verdict>,
    /// Who told us.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<Source>,
    /// Why an attempt came to nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trouble: Option<AttemptTrouble>,
    /// Why it was refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rejected: Option<RejectReason>,
    /// Why it waits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub postponed: Option<PostponeReason>,
    /// What was complained about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub complaint: Option<Complaint>,
    /// When it goes on, microseconds since the Unix epoch.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub until: Option<i64>,
    /// The server's words; `None` after erasure.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub diagnostic: Option<String>,
    /// The server; `None` after erasure.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remote_mta: Option<String>,
    /// The provider's id of the mail; `None` after erasure.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub provider_message_id: Option<String>,
}

impl Said {
    /// Returns what an event says.
    pub(super) fn of(event: &Event) -> Self {
        let recipients = |numbers: &[u8]| Self { recipients: numbers.to_vec(), ..Self::default() };
        match event {
            Event::Accepted(_) | Event::Paused(_) | Event::Resumed(_) => Self::default(),
            Event::Rescheduled(e) => Self { until: Some(e.send_at), ..Self::default() },
            Event::Cancelled(e) => recipients(&e.recipients),
            Event::RetryRequested(e) => recipients(&e.recipients),
            Event::Released(e) => recipients(&e.recipients),
            Event::Postponed(e) => Self { postponed: Some(e.reason), until: e.until, ..Self::default() },
            Event::AttemptStarted(e) => {
                let (attempt, account) = (Some(e.attempt), Some(e.account.clone()));
                Self { attempt, account, ..recipients(&e.recipients) }
            }
            Event::AttemptFailed(e) => {
                let (attempt, account) = (Some(e.attempt), Some(e.account.clone()));
                let (trouble, until) = (Some(e.trouble), Some(e.retry_at));
                Self { attempt, account, trouble, until, ..Self::default() }.heard(&e.personal)
            }
            Event::Sent(e) => {
                let (attempt, account) = (Some(e.attempt), Some(e.account.clone()));
                Self { attempt, account, ..recipients(&e.recipients) }.heard(&e.personal)
            }
            Event::Delivered(e) => {
                let (account, source) = (e.account.clone(), Some(e.source));
                Self { account, source, ..recipients(&e.recipients) }.heard(&e.personal)
            }
            Event::Deferred(e) => {
                let (attempt, verdict, until) = (Some(e.attempt), Some(e.verdict), Some(e.retry_at));
                Self { attempt, verdict, until, ..recipients(&e.recipients) }.heard(&e.personal)
            }
            Event::Delayed(e) => {
                let (verdict, source, until) = (Some(e.verdict), Some(e.source), e.expires_at);
                Self { verdict, source, until, ..recipients(&[e.recipient]) }.heard(&e.personal)
            }
            Event::Uncertain(e) => Self { attempt: Some(e.attempt), ..recipients(&e.recipients) }.heard(&e.personal),
            Event::Rejected(e) => {
                let (verdict, rejected) = (e.verdict, Some(e.reason));
                Self { verdict, rejected, ..recipients(&e.recipients) }.heard(&e.personal)
            }
            Event::Bounced(e) => {
                let (verdict, source) = (Some(e.verdict), Some(e.source));
                Self { verdict, source, ..recipients(&[e.recipient]) }.heard(&e.personal)
            }
            Event::Complained(e) => {
                let (complaint, source) = (Some(e.complaint), Some(e.source));
                Self { complaint, source, ..recipients(&[e.recipient]) }.heard(&e.personal)
            }
            Event::NoticePlanned(e) => recipients(&e.numbers()),
            Event::NoticeSettled(_) => Self::default(),
            Event::Opened(e) => recipients(&[e.recipient]),
            Event::Unsubscribed(e) => recipients(&[e.recipient]),
        }
    }

    fn heard(mut self, half: &Personal<Parties>) -> Self {
        if let Some(parties) = half.known() {
            self.diagnostic.clone_from(&parties.diagnostic);
            self.remote_mta.clone_from(&parties.remote_mta);
            self.provider_message_id.clone_from(&parties.provider_message_id);
        }
        self
    }
}
