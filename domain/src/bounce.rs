//! What a refusal or a bounce means, and what follows from it.
//!
//! A reply code alone says little: only some categories speak of the recipient, and only those suppress an address.

use serde::{Deserialize, Serialize};

/// Whether trying again can help.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Never.
    Hard,
    /// Perhaps later, perhaps another mail.
    Soft,
    /// Nobody knows.
    Undetermined,
}

impl Kind {
    /// Returns the name as stored and shown.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Hard => "hard",
            Self::Soft => "soft",
            Self::Undetermined => "undetermined",
        }
    }

    /// Returns the name in the native webhook contract.
    #[must_use]
    pub fn contract_name(self) -> &'static str {
        match self {
            Self::Hard => "Permanent",
            Self::Soft => "Transient",
            Self::Undetermined => "Undetermined",
        }
    }
}

macro_rules! categories {
    ($($(#[$doc:meta])* $category:ident = $name:literal, $subtype:literal;)+) => {
        /// What a refusal is about (the enhanced codes of RFC 3463 and the texts that come with them).
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub enum Category {
            $($(#[$doc])* #[serde(rename = $name)] $category,)+
        }

        impl Category {
            /// All categories.
            pub const ALL: &'static [Self] = &[$(Self::$category),+];

            /// Returns the name as stored and shown.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$category => $name,)+ }
            }

            /// Returns the bounce subtype in the native webhook contract.
            #[must_use]
            pub fn contract_subtype(self) -> &'static str {
                match self { $(Self::$category => $subtype,)+ }
            }
        }
    };
}

categories! {
    /// There is no such mailbox.
    UserUnknown = "user_unknown", "NoEmail";
    /// There is no such domain, or it takes no mail.
    DomainUnknown = "domain_unknown", "NoEmail";
    /// The mailbox is disabled.
    MailboxInactive = "mailbox_inactive", "General";
    /// The mailbox is over its quota.
    MailboxFull = "mailbox_full", "MailboxFull";
    /// The mail is too large.
    MessageTooLarge = "message_too_large", "MessageTooLarge";
    /// The content was refused.
    ContentRejected = "content_rejected", "ContentRejected";
    /// We are not welcome: reputation, block lists, missing names.
    PolicyBlocked = "policy_blocked", "General";
    /// SPF, DKIM or DMARC failed.
    AuthFailure = "auth_failure", "General";
    /// Too much, too fast.
    RateLimited = "rate_limited", "General";
    /// Strangers are asked to come again.
    Greylisted = "greylisted", "General";
    /// The server does not take mail for this recipient's domain.
    RelayDenied = "relay_denied", "General";
    /// The server could not be reached.
    Network = "network", "General";
    /// The mail went in circles.
    RoutingLoop = "routing_loop", "General";
    /// The conversation broke.
    Protocol = "protocol", "General";
    /// It was tried for as long as it may be.
    Expired = "expired", "CustomTimeoutExceeded";
    /// The envelope sender was refused.
    SenderRejected = "sender_rejected", "General";
    /// None of these.
    Undetermined = "undetermined", "General";
}

impl Category {
    /// Returns the category of that name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|c| c.as_str() == name)
    }

    /// Returns whether a final refusal of this category is hard.
    #[must_use]
    pub fn kind(self) -> Kind {
        match self {
            Self::UserUnknown | Self::DomainUnknown => Kind::Hard,
            Self::Undetermined => Kind::Undetermined,
            _ => Kind::Soft,
        }
    }

    /// Returns what bounces of this category do to the recipient's address.
    #[must_use]
    pub fn consequence(self) -> Consequence {
        const DAY: i64 = 86_400_000_000;
        match self {
            Self::UserUnknown | Self::DomainUnknown => Consequence::Suppress,
            Self::MailboxInactive => Consequence::AfterSome { count: 2, at_least: 0, within: 14 * DAY, lasts: None },
            Self::MailboxFull => {
                Consequence::AfterSome { count: 5, at_least: 7 * DAY, within: 60 * DAY, lasts: Some(30 * DAY) }
            }
            Self::Expired => Consequence::AfterSome { count: 3, at_least: 0, within: 60 * DAY, lasts: None },
            _ => Consequence::None,
        }
    }
}

/// What bounces do to an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Consequence {
    /// Nothing: the recipient is not to blame.
    None,
    /// The address is suppressed at once.
    Suppress,
    /// The address is suppressed after several in a row. Times in microseconds.
    AfterSome {
        /// How many.
        count: u32,
        /// They must be spread over at least so long.
        at_least: i64,
        /// A first one that is older than this does not count any more.
        within: i64,
        /// How long the suppression lasts; `None` for ever.
        lasts: Option<i64>,
    },
}

/// Who told us.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// The recipient's own server, in the SMTP session.
    Smtp,
    /// A delivery status notification (RFC 3464) or another mail that came back.
    Dsn,
    /// The provider's notification.
    Provider,
    /// Postlog itself.
    Postlog,
}

/// A reply in the words of the protocol; free of personal data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// What it is about.
    pub category: Category,
    /// The SMTP reply code (RFC 5321 §4.2).
    pub smtp_code: Option<u16>,
    /// The enhanced status code: class, subject, detail (RFC 3463).
    pub enhanced_code: Option<(u8, u16, u16)>,
}

impl Verdict {
    /// Returns a verdict of which only the category is known.
    #[must_use]
    pub fn of(category: Category) -> Self {
        Self { category, smtp_code: None, enhanced_code: None }
    }

    /// Returns the enhanced status code as text.
    #[must_use]
    pub fn enhanced_text(&self) -> Option<String> {
        self.enhanced_code.map(|(class, subject, detail)| format!("{class}.{subject}.{detail}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_categories_that_speak_of_the_recipient_suppress() {
        let suppress: Vec<_> =
            Category::ALL.iter().filter(|c| c.consequence() != Consequence::None).map(|c| c.as_str()).collect();
        assert_eq!(suppress, ["user_unknown", "domain_unknown", "mailbox_inactive", "mailbox_full", "expired"]);
        assert!(Category::ALL.iter().all(|c| Category::parse(c.as_str()) == Some(*c)));
    }
}
