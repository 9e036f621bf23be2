//! One copy of a mail: its thread, its body and its command.

use domain::id::{BlobId, MailboxId, MessageId, RequestId, TeamId};
use domain::message::{
    Correspondence, Folder, ReceiveMessage, ReceiveWithinQuota, Received, RecordDuplicate, Rejected,
};
use domain::{Actor, StreamId};
use eventlog::{Answer, Idempotency, LogError, Outcome, StoreError, Submission, TransactError};
use mail::message::PARSER_VERSION;
use mail::smtp::Transaction;

use super::content::Content;
use super::{Destination, Inner, Refusal, ReportOn, Route};

/// The status kept with the answer to a mail; a repetition is answered the same.
const ACCEPTED: u16 = 250;

/// What one mailbox gets.
pub(super) struct Copy {
    pub(super) destination: Destination,
    rcpt_to: Vec<String>,
}

/// How a copy came to be in its mailbox.
pub(super) enum Written {
    /// It was written now.
    New,
    /// It was there already.
    Known,
}

/// Groups recipients by mailbox: a mailbox named twice gets one copy that lists both. Returns with them what reports are
/// about.
pub(super) fn sorted(transaction: &Transaction, routes: Vec<Route>) -> (Vec<Copy>, Vec<ReportOn>) {
    let mut copies: Vec<Copy> = Vec::with_capacity(routes.len());
    let mut places = std::collections::HashMap::with_capacity(routes.len());
    let mut about = vec![];
    for (recipient, route) in transaction.recipients.iter().zip(routes) {
        let destination = match route {
            Route::Mailbox(destination) => destination,
            Route::Report(on) => {
                about.push(on);
                continue;
            }
        };
        let place = *places.entry(destination.clone()).or_insert(copies.len());
        if place == copies.len() {
            copies.push(Copy { destination, rcpt_to: vec![] });
        }
        copies[place].rcpt_to.push(recipient.path.as_str().to_owned());
    }
    (copies, about)
}

impl Inner {
    /// Writes one copy.
    pub(super) async fn commit(
        &self,
        copy: Copy,
        content: &Content,
        request: &RequestId,
        now: i64,
    ) -> Result<Written, Refusal> {
        let Copy { destination, rcpt_to } = copy;
        let thread = self.thread(&destination, content, now).await;
        let reserved = self.reserve(&destination, i64::try_from(content.raw.len()).unwrap_or(i64::MAX)).await;
        let Destination { team, mailbox } = destination;
        let message = MessageId::new(now, self.allot.random());
        let blob = BlobId::new(now, self.allot.random());
        let staged = self.log.stage_blob(&team, &blob, content.raw.clone()).await.map_err(|error| {
            tracing::warn!(error = %error, "the body of a mail could not be stored");
            match error {
                LogError::Store(StoreError::Full(_)) => Refusal::StoreFull,
                _ => Refusal::Unavailable,
            }
        })?;
        let facts = Received {
            message: message.clone(),
            mailbox: mailbox.clone(),
            thread,
            folder: if content.is_spam { Folder::Junk } else { Folder::Inbox },
            blob: blob.clone(),
            size_bytes: i64::try_from(content.raw.len()).unwrap_or(i64::MAX),
            sha256: content.sha256.clone(),
            is_spam: content.is_spam,
            spam_score: content.spam_score,
            spam_rules: content.spam_rules.clone(),
            attachments: content.attachments,
            authentication: content.authentication.clone(),
            sent_at: content.sent_at,
            parser_version: PARSER_VERSION,
            own_report: content.own_report,
        };
        let personal = Correspondence { rcpt_to, ..content.correspondence.clone() };
        let receive = ReceiveMessage { facts, personal, mail_from: content.mail_from.clone() };
        let command = ReceiveWithinQuota { receive, used_bytes: reserved.used_bytes() };
        let idempotency = Idempotency {
            scope: format!("smtp:{mailbox}"),
            key: hex::encode(content.identity),
            fingerprint: content.identity,
        };
        let body = message.to_string();
        let submission = Submission::new(team.clone(), now, Actor::Smtp, request.as_str(), command)
            .fresh(StreamId::Message(message))
            .with_blob(blob, staged)
            .from_ip(content.correspondence.peer_ip.clone())
            .idempotent(idempotency, move |_| Answer { status: ACCEPTED, headers: vec![], body: body.clone() });
        match self.log.transact(submission).await {
            Ok(Outcome::Done(_)) => {
                reserved.keep();
                Ok(Written::New)
            }
            Ok(Outcome::Repeated(answer)) => {
                self.record_duplicate(team, mailbox, &answer.body, request, now).await;
                Ok(Written::Known)
            }
            Err(error) => Err(refusal(&error)),
        }
    }

    /// Records that a mail came again. The mail itself is durable since it came first, so the client hears `250` even
    /// where this cannot be written.
    async fn record_duplicate(&self, team: TeamId, mailbox: MailboxId, answer: &str, request: &RequestId, now: i64) {
        let Ok(message) = answer.parse::<MessageId>() else { return };
        let command = RecordDuplicate { message, mailbox };
        let submission = Submission::new(team, now, Actor::Smtp, request.as_str(), command);
        if let Err(error) = self.log.transact(submission).await {
            tracing::warn!(error = %error, "a repeated mail could not be recorded");
        }
    }
}

fn refusal(error: &TransactError<Rejected>) -> Refusal {
    match error {
        TransactError::Rejected(Rejected::UnknownMailbox) => Refusal::UnknownMailbox,
        TransactError::Rejected(Rejected::Suspended) => Refusal::Suspended,
        TransactError::Rejected(Rejected::SenderRefused) => Refusal::SenderRefused,
        TransactError::Rejected(Rejected::OverQuota) => Refusal::OverQuota,
        TransactError::Full => Refusal::StoreFull,
        TransactError::Overloaded | TransactError::Unavailable(_) | TransactError::Stopped => {
            tracing::warn!(error = %error, "a mail could not be written");
            Refusal::Unavailable
        }
        // Nothing of this kind is asked for: a fresh message has no version, no keywords and claims no key, and the
        // idempotency key is its own fingerprint.
        TransactError::Rejected(
            Rejected::Unknown | Rejected::TooManyKeywords { .. } | Rejected::VersionMismatch { .. },
        )
        | TransactError::Taken(_)
        | TransactError::IdempotencyMismatch => {
            tracing::error!(error = %error, "a mail was refused for a reason that cannot be");
            Refusal::Unavailable
        }
    }
}
