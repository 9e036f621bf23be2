//! Why mail is not taken.

use mail::smtp::Verdict;

/// Why a recipient or a mail is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Refusal {
    /// The recipient's domain is not hosted here: mail for it would have to be relayed.
    #[error("the domain is not hosted here")]
    NotHosted,
    /// The domain is hosted but not verified, or only used for sending.
    #[error("the domain does not receive mail")]
    NotReceiving,
    /// A hosted domain, but no such mailbox.
    #[error("no such mailbox")]
    UnknownMailbox,
    /// The mailbox is suspended.
    #[error("the mailbox is suspended")]
    Suspended,
    /// The mailbox's sender rules keep this sender out.
    #[error("the sender is not allowed")]
    SenderRefused,
    /// The author's domain asks to refuse mail that does not prove to come from it, and so do the recipients' domains.
    #[error("the mail fails the DMARC policy of its author's domain")]
    Forged,
    /// It came to a return path, and says nothing of what became of a mail.
    #[error("the mail is no report about a mail")]
    NoReport,
    /// The mailbox is full. It may have room later.
    #[error("the mailbox is full")]
    OverQuota,
    /// This sender is new here and is asked to come again in a few minutes.
    #[error("the sender is new here")]
    Greylisted,
    /// More mail than the rates allow. Later it is welcome.
    #[error("too much mail at once")]
    TooFast,
    /// The log's store is full. It may have room later.
    #[error("the store is full")]
    StoreFull,
    /// The log does not answer, is overloaded, or not every copy could be written.
    #[error("the store is not available")]
    Unavailable,
}

impl Refusal {
    /// Tells whether the same mail may be taken later.
    #[must_use]
    pub fn is_temporary(self) -> bool {
        match self {
            Self::OverQuota | Self::Greylisted | Self::TooFast | Self::StoreFull | Self::Unavailable => true,
            Self::NotHosted
            | Self::NotReceiving
            | Self::UnknownMailbox
            | Self::Suspended
            | Self::SenderRefused
            | Self::Forged
            | Self::NoReport => false,
        }
    }

    /// Returns what a client is told.
    #[must_use]
    pub fn verdict(self) -> Verdict {
        match self {
            Self::NotHosted => Verdict::relay_denied(),
            Self::NotReceiving => Verdict::unverified_domain(),
            Self::UnknownMailbox => Verdict::unknown_mailbox(),
            Self::Suspended => Verdict::suspended(),
            Self::SenderRefused => Verdict::sender_denied(),
            Self::Forged => Verdict::dmarc_rejected(),
            Self::NoReport => Verdict::reject(550, 7, 1, "only reports about mail are taken here"),
            Self::OverQuota => Verdict::over_quota(),
            Self::Greylisted | Self::TooFast => Verdict::slow_down(),
            Self::StoreFull => Verdict::storage_full(),
            Self::Unavailable => Verdict::unavailable(),
        }
    }

    /// Returns the metric label of the reason.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NotHosted => "not_hosted",
            Self::NotReceiving => "not_receiving",
            Self::UnknownMailbox => "unknown_mailbox",
            Self::Suspended => "suspended",
            Self::SenderRefused => "sender_refused",
            Self::Forged => "forged",
            Self::NoReport => "no_report",
            Self::OverQuota => "over_quota",
            Self::Greylisted => "greylisted",
            Self::TooFast => "too_fast",
            Self::StoreFull => "store_full",
            Self::Unavailable => "unavailable",
        }
    }

    /// Returns the one answer for all copies of a mail, `copies` of them; `None` if none was refused.
    ///
    /// A mail has one answer, though its copies may fare differently. What is refused for good to every mailbox is
    /// refused for good. Otherwise the sender is asked to try again: the copies that were written are recognised
    /// then, and the others are refused one by one at RCPT.
    pub(super) fn of_all(refusals: &[Self], copies: usize) -> Option<Self> {
        let first = *refusals.first()?;
        if let Some(temporary) = refusals.iter().find(|r| r.is_temporary()) {
            return Some(*temporary);
        }
        Some(if refusals.len() == copies { first } else { Self::Unavailable })
    }
}

#[cfg(test)]
mod tests {
    use super::Refusal::{self, OverQuota, SenderRefused, StoreFull, Suspended, Unavailable};

    #[test]
    fn a_mail_is_refused_for_good_only_if_no_mailbox_has_it_and_none_will() {
        for (refusals, copies, expected) in [
            (vec![], 2, None),
            (vec![Suspended, SenderRefused], 2, Some(Suspended)),
            (vec![Suspended], 2, Some(Unavailable)),
            (vec![Suspended, StoreFull], 2, Some(StoreFull)),
            (vec![OverQuota], 1, Some(OverQuota)),
        ] {
            assert_eq!(Refusal::of_all(&refusals, copies), expected, "{refusals:?} of {copies}");
        }
    }
}
