//! Which events a client wants.

use std::collections::BTreeSet;
use std::sync::{Arc, LazyLock};

use domain::Event;
use domain::id::MailboxId;
use domain::published::WebhookEventType;

/// One kind of stream of a team: clients of the same kind share their frames.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Interest {
    /// What arrives in one mailbox, in the shape of mailbox events.
    Mailbox(MailboxId),
    /// Everything published of the team, in the shape of its event feed.
    Team,
}

impl Interest {
    /// Returns whether an event may be told of at all: quickly, before anything is encoded.
    pub fn concerns(&self, event: &Event) -> bool {
        match self {
            Self::Mailbox(mailbox) => super::realtime::told_as(event, mailbox).is_some(),
            Self::Team => true,
        }
    }
}

/// What passes within an interest. Cheap to clone.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    event_types: Option<Arc<BTreeSet<String>>>,
    mailbox: Option<MailboxId>,
}

impl Filter {
    /// Returns the filter that everything passes.
    #[cfg(test)]
    pub fn all() -> Self {
        Self::default()
    }

    /// Returns the filter that the given published types of every mailbox pass.
    #[cfg(test)]
    pub fn of_types<'a>(types: impl IntoIterator<Item = &'a str>) -> Self {
        Self::new(Some(types.into_iter().map(str::to_owned).collect()), None)
    }

    /// Returns the filter that the given published types pass, of every or of one mailbox; `None` stands for all.
    pub fn new(event_types: Option<BTreeSet<String>>, mailbox: Option<MailboxId>) -> Self {
        Self { event_types: event_types.map(Arc::new), mailbox }
    }

    /// Returns whether everything passes.
    pub fn passes_all(&self) -> bool {
        self.event_types.is_none() && self.mailbox.is_none()
    }

    /// Returns whether an event of this published type about this mailbox passes.
    pub fn passes(&self, event_type: &str, mailbox: Option<&MailboxId>) -> bool {
        self.event_types.as_ref().is_none_or(|types| types.contains(event_type))
            && (self.mailbox.is_none() || self.mailbox.as_ref() == mailbox)
    }
}

/// The types of a mailbox's stream.
pub(super) const MAILBOX_TYPES: [WebhookEventType; 2] = [WebhookEventType::Received, WebhookEventType::ReceivedSpam];

/// Every type a team's feed can contain, now or once the event exists: a misspelt filter is refused instead of matching nothing.
pub(super) static TEAM_TYPES: LazyLock<BTreeSet<&'static str>> = LazyLock::new(|| domain::published::types().collect());

#[cfg(test)]
mod tests {
    use super::*;
    use domain::testing::mailbox_id;

    #[test]
    fn every_published_type_can_be_asked_for() {
        for event in domain::testing::one_of_each() {
            let shown = domain::published::published(&event).unwrap();
            assert!(TEAM_TYPES.contains(shown.event_type.as_str()), "{}", shown.event_type);
        }
    }

    #[test]
    fn a_mailbox_filter_stops_what_is_about_no_mailbox() {
        let filter = Filter::new(None, Some(mailbox_id(1)));
        assert!(filter.passes("x", Some(&mailbox_id(1))));
        assert!(!filter.passes("x", Some(&mailbox_id(2))));
        assert!(!filter.passes("x", None));
        assert!(!filter.passes_all());
    }
}
