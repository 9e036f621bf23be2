//! Why a submission is not taken, and what its client is told.

use domain::outbound::Rejected;
use eventlog::{LogError, StoreError, TransactError};
use mail::smtp::Verdict;
use mail::submission::Fault;

use crate::auth::Refused;

/// Why a client, a sender or a mail is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// No key, or one that was revoked. Nothing more is said.
    #[error("authentication failed")]
    Credentials,
    /// A key that may do other things.
    #[error("this key is not for sending")]
    NotForSending,
    /// The mailbox behind the key is suspended, or closed meanwhile.
    #[error("the mailbox is disabled")]
    MailboxDisabled,
    /// The key was revoked after it was shown.
    #[error("the key does not work any more")]
    Revoked,
    /// Too many mails; so many seconds later there is room.
    #[error("too many mails at once")]
    TooFast {
        /// How long until there is room.
        seconds: u64,
    },
    /// The null sender is for reports, which are not submitted.
    #[error("the envelope needs a sender")]
    NullSender,
    /// The key may not send as the author, the envelope sender or the sender.
    #[error("sender not allowed")]
    SenderNotAllowed,
    /// More recipients than a mail may have.
    #[error("too many recipients")]
    TooManyRecipients,
    /// The message cannot be sent as it is.
    #[error(transparent)]
    Message(#[from] Fault),
    /// Every recipient is on the suppression list. The mail is on record as refused.
    #[error("every recipient is on the suppression list")]
    Suppressed,
    /// The balance is too low.
    #[error("the balance is too low")]
    InsufficientCredits,
    /// No sending account can take the mail at present.
    #[error("no sending account is active")]
    NoActiveProviders,
    /// Too many mails wait to be written.
    #[error("the queue is full")]
    QueueFull,
    /// The log's store is full.
    #[error("the store is full")]
    StoreFull,
    /// The log does not answer.
    #[error("the store is not available")]
    Unavailable,
}

impl Refusal {
    /// Returns what a client is told (RFC 5321 §4.2, RFC 3463, RFC 4954 §6, RFC 7504).
    #[must_use]
    pub fn verdict(self) -> Verdict {
        let text = self.to_string();
        match self {
            Self::Credentials => Verdict::wrong_credentials(),
            Self::NotForSending => Verdict::reject(535, 7, 8, text),
            Self::MailboxDisabled => Verdict::reject(525, 7, 13, text),
            // The connection ends; the next one is told that authentication fails.
            Self::Revoked => Verdict::temp_fail(421, 7, 0, text),
            Self::TooFast { seconds } => Verdict::temp_fail(451, 7, 1, format!("{text}, try again in {seconds} s")),
            Self::NullSender => Verdict::reject(550, 1, 7, text),
            Self::SenderNotAllowed => Verdict::sender_denied(),
            Self::TooManyRecipients => {
                Verdict::temp_fail(452, 5, 3, "too many recipients, send the rest in another transaction")
            }
            Self::Message(Fault::Author | Fault::AuthorAddress(_) | Fault::SenderAddress(_)) => {
                Verdict::reject(550, 6, 0, text)
            }
            Self::Message(Fault::Header | Fault::LongLine | Fault::Nul) => Verdict::reject(554, 6, 0, text),
            Self::Suppressed => Verdict::reject(550, 7, 1, text),
            // A client that queues would repeat it for days; paying comes first.
            Self::InsufficientCredits => Verdict::reject(550, 7, 0, text),
            Self::NoActiveProviders => Verdict::temp_fail(451, 3, 5, text),
            Self::QueueFull => Verdict::temp_fail(452, 3, 1, "the queue is full, try again later"),
            Self::StoreFull => Verdict::storage_full(),
            Self::Unavailable => Verdict::unavailable(),
        }
    }

    /// Returns what a client is told in an AUTH exchange: there a failure of ours has a code of its own.
    #[must_use]
    pub fn auth_verdict(self) -> Verdict {
        match self {
            Self::Unavailable => Verdict::temp_fail(454, 7, 0, "temporary authentication failure"),
            other => other.verdict(),
        }
    }

    /// Returns the metric label of the reason.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Credentials => "credentials",
            Self::NotForSending => "not_for_sending",
            Self::MailboxDisabled => "mailbox_disabled",
            Self::Revoked => "revoked",
            Self::TooFast { .. } => "too_fast",
            Self::NullSender => "null_sender",
            Self::SenderNotAllowed => "sender_not_allowed",
            Self::TooManyRecipients => "too_many_recipients",
            Self::Message(_) => "message",
            Self::Suppressed => "suppressed",
            Self::InsufficientCredits => "insufficient_credits",
            Self::NoActiveProviders => "no_active_providers",
            Self::QueueFull => "queue_full",
            Self::StoreFull => "store_full",
            Self::Unavailable => "unavailable",
        }
    }
}

impl From<Refused> for Refusal {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Unknown => Self::Credentials,
            Refused::Suspended => Self::MailboxDisabled,
            Refused::Log(error) => error.into(),
        }
    }
}

impl From<LogError> for Refusal {
    fn from(error: LogError) -> Self {
        tracing::warn!(error = &error as &dyn std::error::Error, "the log does not answer a submission");
        match error {
            LogError::Store(StoreError::Full(_)) => Self::StoreFull,
            _ => Self::Unavailable,
        }
    }
}

impl From<TransactError<Rejected>> for Refusal {
    fn from(error: TransactError<Rejected>) -> Self {
        use Rejected as R;
        match error {
            TransactError::Rejected(R::Recipients) => Self::TooManyRecipients,
            TransactError::Rejected(R::KeyRevoked) => Self::Revoked,
            TransactError::Rejected(R::MailboxNotActive) => Self::MailboxDisabled,
            TransactError::Rejected(R::SenderNotAllowed) => Self::SenderNotAllowed,
            TransactError::Rejected(R::NoActiveProviders) => Self::NoActiveProviders,
            TransactError::Rejected(R::InsufficientCredits { .. }) => Self::InsufficientCredits,
            TransactError::Overloaded => Self::QueueFull,
            TransactError::Full => Self::StoreFull,
            TransactError::Unavailable(_) | TransactError::Stopped => Self::Unavailable,
            // Nothing of this kind is asked for: the mail is new, names no groups, and its key is its own fingerprint.
            TransactError::Rejected(
                R::UnknownTeam
                | R::Unknown
                | R::UnknownGroup(_)
                | R::Paused
                | R::NotDue
                | R::AccountNotEligible
                | R::WrongAttempt
                | R::AddressNotRead(_)
                | R::TooLate
                | R::NotSent
                | R::VersionMismatch { .. },
            )
            | TransactError::Taken(_)
            | TransactError::IdempotencyMismatch => {
                tracing::error!(error = %error, "a submission was refused for a reason that cannot be");
                Self::Unavailable
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_refusal_has_a_reply_of_its_kind() {
        let rows = [
            (Refusal::Credentials, 535, "5.7.8"),
            (Refusal::MailboxDisabled, 525, "5.7.13"),
            (Refusal::Revoked, 421, "4.7.0"),
            (Refusal::TooFast { seconds: 7 }, 451, "4.7.1"),
            (Refusal::SenderNotAllowed, 550, "5.7.1"),
            (Refusal::TooManyRecipients, 452, "4.5.3"),
            (Refusal::Message(Fault::Author), 550, "5.6.0"),
            (Refusal::Suppressed, 550, "5.7.1"),
            (Refusal::InsufficientCredits, 550, "5.7.0"),
            (Refusal::NoActiveProviders, 451, "4.3.5"),
            (Refusal::QueueFull, 452, "4.3.1"),
            (Refusal::StoreFull, 452, "4.3.1"),
            (Refusal::Unavailable, 451, "4.3.0"),
        ];
        for (refusal, code, enhanced) in rows {
            let Verdict::Refuse(reply) = refusal.verdict() else { panic!("{refusal:?}") };
            assert_eq!((reply.code(), reply.enhanced().as_deref()), (code, Some(enhanced)), "{refusal:?}");
        }
        let Verdict::Refuse(reply) = Refusal::Unavailable.auth_verdict() else { panic!() };
        assert_eq!(reply.code(), 454);
    }
}
