//! The suppression list: addresses a team does not write to, each with its reasons.
//!
//! There is one stream per address, named by a keyed digest, so that facts tell nobody who it is and acceptance reads
//! only the streams of a mail's own recipients, however long the list is.
//!
//! Invariants:
//! - An address is suppressed for a cause at most once at a time; removing lifts all causes.
//! - Transactional mail ignores unsubscriptions, never bounces or complaints unless it is forced.
//! - An address has at most [`CAUSES_MAX`] causes.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::bounce::{Category, Consequence};
use crate::entity::{Fold, Versioned, fold_of};
use crate::event::stored_events;
use crate::id::{AddressId, OutboundId};
use crate::personal::{Halves, Personal};
use crate::{Command, Moment, StreamId, outbound};

/// The most causes one address may have: reasons, and topics it unsubscribed from.
pub const CAUSES_MAX: usize = 64;

/// Why an address is not written to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// Mail to it bounced for good.
    HardBounce,
    /// Its owner marked mail as spam.
    Complaint,
    /// Its owner unsubscribed.
    Unsubscribe,
    /// The team says so.
    Manual,
    /// It came with a list.
    Import,
}

impl Reason {
    /// All reasons.
    pub const ALL: [Self; 5] = [Self::HardBounce, Self::Complaint, Self::Unsubscribe, Self::Manual, Self::Import];

    /// Returns the name as stored and shown.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::HardBounce => "hard_bounce",
            Self::Complaint => "complaint",
            Self::Unsubscribe => "unsubscribe",
            Self::Manual => "manual",
            Self::Import => "import",
        }
    }

    /// Returns the reason of that name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|r| r.as_str() == name)
    }
}

/// A reason, and the topic it is confined to.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Cause {
    /// Why.
    pub reason: Reason,
    /// The topic; `None` for all mail.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub topic: Option<String>,
}

/// Facts of `suppression.added`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Added {
    /// The address.
    pub address: AddressId,
    /// Why.
    pub cause: Cause,
    /// When it ends by itself, microseconds since the Unix epoch.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub expires_at: Option<i64>,
    /// The mail that led to it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub outbound: Option<OutboundId>,
}

/// Personal half of events about a suppressed address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Whom {
    /// The address, canonical.
    pub email: String,
    /// What somebody wrote beside it, at most 255 characters.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub note: Option<String>,
}

/// Facts of `suppression.removed`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Removed {
    /// The address.
    pub address: AddressId,
    /// What was lifted.
    pub causes: Vec<Cause>,
}

/// Facts of `suppression.evidence_cleared`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subject {
    /// The address.
    pub address: AddressId,
}

stored_events! {
    /// What can happen to an address on the suppression list.
    enum Event;
    /// It is not written to.
    Added(Added, Whom) = "suppression.added" v 1;
    /// It is written to again.
    Removed(Removed, Whom) = "suppression.removed" v 1;
    /// A mail got through: earlier soft bounces count no more.
    EvidenceCleared(Subject) = "suppression.evidence_cleared" v 1;
}

impl Event {
    /// Returns the address it is about.
    #[must_use]
    pub fn address(&self) -> &AddressId {
        match self {
            Self::Added(e) => &e.address,
            Self::Removed(e) => &e.address,
            Self::EvidenceCleared(e) => &e.address,
        }
    }
}

/// Soft bounces of one category that may yet suppress an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Evidence {
    /// How many there were.
    pub count: u32,
    /// When the first was, microseconds since the Unix epoch.
    pub first_at: i64,
}

/// The fold of an address's stream and of the bounces of mail to it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Suppression {
    /// Why it is not written to, and until when.
    #[serde(with = "as_list")]
    pub causes: BTreeMap<Cause, Option<i64>>,
    /// What may yet suppress it; a handful of categories.
    pub evidence: BTreeMap<Category, Evidence>,
}

/// JSON has no map with structured keys.
mod as_list {
    use super::{BTreeMap, Cause};
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(super) fn serialize<S: Serializer>(map: &BTreeMap<Cause, Option<i64>>, s: S) -> Result<S::Ok, S::Error> {
        map.iter().collect::<Vec<_>>().serialize(s)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<BTreeMap<Cause, Option<i64>>, D::Error> {
        Ok(Vec::<(Cause, Option<i64>)>::deserialize(d)?.into_iter().collect())
    }
}

impl Fold for Suppression {
    fn evolve(&mut self, event: &crate::Event) {
        match event {
            crate::Event::Suppression(Event::Added(e)) => {
                self.causes.insert(e.cause.clone(), e.expires_at);
            }
            crate::Event::Suppression(Event::Removed(_)) => *self = Self::default(),
            crate::Event::Suppression(Event::EvidenceCleared(_)) => self.evidence.clear(),
            crate::Event::Outbound(outbound::Event::Bounced(e)) => self.note(e.verdict.category, e.at),
            _ => {}
        }
    }

    fold_of!(Suppression, Suppression);
}

/// What kind of mail asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Purpose {
    /// An answer to something its recipient did.
    #[default]
    Transactional,
    /// Everything else: carries List-Unsubscribe (RFC 2369, RFC 8058).
    Bulk,
}

impl Suppression {
    fn note(&mut self, category: Category, at: i64) {
        let Consequence::AfterSome { within, .. } = category.consequence() else { return };
        let evidence = self.evidence.entry(category).or_insert(Evidence { count: 0, first_at: at });
        if at - evidence.first_at > within {
            *evidence = Evidence { count: 0, first_at: at };
        }
        evidence.count = evidence.count.saturating_add(1);
    }

    /// Returns why a mail is not sent to this address, if so.
    #[must_use]
    pub fn stops(&self, purpose: Purpose, topic: Option<&str>, forced: bool, now: i64) -> Option<Reason> {
        let lasting = self.causes.iter().filter(|(_, expires)| expires.is_none_or(|at| at > now)).map(|(c, _)| c);
        let about = lasting.filter(|c| c.topic.is_none() || c.topic.as_deref() == topic);
        about.map(|c| c.reason).find(|reason| match reason {
            Reason::Unsubscribe => purpose == Purpose::Bulk,
            Reason::HardBounce | Reason::Complaint => !forced,
            Reason::Manual | Reason::Import => true,
        })
    }

    /// Returns how long one more bounce of this category suppresses the address: `None` not at all, `Some(None)` for ever.
    #[must_use]
    pub fn after_bounce(&self, category: Category, now: i64) -> Option<Option<i64>> {
        match category.consequence() {
            Consequence::None => None,
            Consequence::Suppress => Some(None),
            Consequence::AfterSome { count, at_least, lasts, .. } => {
                let mut with_this = self.clone();
                with_this.note(category, now);
                let evidence = with_this.evidence.get(&category)?;
                let enough = evidence.count >= count && now - evidence.first_at >= at_least;
                enough.then(|| lasts.map(|lasts| now.saturating_add(lasts)))
            }
        }
    }

    /// Returns whether the address is suppressed for this cause now, at least as long.
    fn has(&self, cause: &Cause, expires_at: Option<i64>, now: i64) -> bool {
        self.causes.get(cause).is_some_and(|until| match (until, expires_at) {
            (None, _) => true,
            (Some(until), Some(wanted)) => *until > now && *until >= wanted,
            (Some(_), None) => false,
        })
    }
}

/// Returns the event that suppresses an address, unless it is suppressed so already.
pub(crate) fn added(state: &Suppression, facts: Added, whom: Option<Whom>, now: i64) -> Option<crate::Event> {
    let full = state.causes.len() >= CAUSES_MAX && !state.causes.contains_key(&facts.cause);
    if full || state.has(&facts.cause, facts.expires_at, now) {
        return None;
    }
    let personal = whom.map_or(Personal::Erased, Personal::Known);
    Some(crate::Event::Suppression(Event::Added(Halves { facts, personal })))
}

/// Why a suppression command can be refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Rejected {
    /// There is no such team.
    #[error("no such team")]
    UnknownTeam,
    /// The address is not on the list.
    #[error("the address is not suppressed")]
    Unknown,
    /// The address has as many causes as it may.
    #[error("an address has at most {CAUSES_MAX} suppressions")]
    TooManyCauses,
}

/// Puts an address on the list; imports are many of these.
#[derive(Debug, Clone)]
pub struct SuppressAddress {
    /// The address.
    pub address: AddressId,
    /// The address in clear, canonical.
    pub email: String,
    /// Why.
    pub cause: Cause,
    /// When it ends by itself, microseconds since the Unix epoch.
    pub expires_at: Option<i64>,
    /// What somebody wrote beside it.
    pub note: Option<String>,
}

impl Command for SuppressAddress {
    type State = (Versioned<crate::team::Team>, Versioned<Suppression>);
    type Rejected = Rejected;

    fn streams(&self) -> Vec<StreamId> {
        vec![StreamId::Team, StreamId::Suppression(self.address.clone())]
    }

    fn decide(&self, (team, state): &Self::State, at: &Moment) -> Result<Vec<crate::Event>, Rejected> {
        if team.id.is_none() {
            return Err(Rejected::UnknownTeam);
        }
        if state.causes.len() >= CAUSES_MAX && !state.causes.contains_key(&self.cause) {
            return Err(Rejected::TooManyCauses);
        }
        let facts = Added {
            address: self.address.clone(),
            cause: self.cause.clone(),
            expires_at: self.expires_at,
            outbound: None,
        };
        let whom = Whom { email: self.email.clone(), note: self.note.clone() };
        Ok(added(state, facts, Some(whom), at.now).into_iter().collect())
    }
}

/// Takes an address off the list, whatever the causes, hard bounces included; the log keeps that it happened.
#[derive(Debug, Clone)]
pub struct UnsuppressAddress {
    /// The address.
    pub address: AddressId,
    /// The address in clear, canonical.
    pub email: String,
}

impl Command for UnsuppressAddress {
    type State = Versioned<Suppression>;
    type Rejected = Rejected;

    fn streams(&self) -> Vec<StreamId> {
        vec![StreamId::Suppression(self.address.clone())]
    }

    fn decide(&self, state: &Self::State, _: &Moment) -> Result<Vec<crate::Event>, Rejected> {
        if state.causes.is_empty() {
            return if state.version > 0 { Ok(vec![]) } else { Err(Rejected::Unknown) };
        }
        let facts = Removed { address: self.address.clone(), causes: state.causes.keys().cloned().collect() };
        let whom = Whom { email: self.email.clone(), note: None };
        Ok(vec![crate::Event::Suppression(Event::Removed(Halves::new(facts, whom)))])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{NOW, address_id, fold, given, team_created};

    const DAY: i64 = 86_400_000_000;

    fn suppress(reason: Reason, topic: Option<&str>, expires_at: Option<i64>) -> SuppressAddress {
        SuppressAddress {
            address: address_id(1),
            email: "bob@example.net".into(),
            cause: Cause { reason, topic: topic.map(str::to_owned) },
            expires_at,
            note: None,
        }
    }

    fn state(log: &[crate::Event]) -> Versioned<Suppression> {
        fold(&[StreamId::Suppression(address_id(1))], log)
    }

    #[test]
    fn transactional_mail_ignores_unsubscriptions_and_nothing_else() {
        let mut log = team_created();
        log.extend(given(log.clone()).when(suppress(Reason::Unsubscribe, None, None)).then_events());
        assert_eq!(state(&log).stops(Purpose::Transactional, None, false, NOW), None);
        assert_eq!(state(&log).stops(Purpose::Bulk, Some("news"), false, NOW), Some(Reason::Unsubscribe));
        log.extend(given(log.clone()).when(suppress(Reason::HardBounce, None, None)).then_events());
        assert_eq!(state(&log).stops(Purpose::Transactional, None, false, NOW), Some(Reason::HardBounce));
        assert_eq!(state(&log).stops(Purpose::Transactional, None, true, NOW), None);
    }

    #[test]
    fn a_topic_is_unsubscribed_by_itself_and_an_expired_cause_stops_nothing() {
        let mut log = team_created();
        log.extend(given(log.clone()).when(suppress(Reason::Unsubscribe, Some("news"), None)).then_events());
        log.extend(given(log.clone()).when(suppress(Reason::Manual, None, Some(NOW + DAY))).then_events());
        assert_eq!(state(&log).stops(Purpose::Bulk, Some("offers"), false, NOW + 2 * DAY), None);
        assert_eq!(state(&log).stops(Purpose::Bulk, Some("news"), false, NOW + 2 * DAY), Some(Reason::Unsubscribe));
        assert_eq!(state(&log).stops(Purpose::Bulk, Some("offers"), false, NOW), Some(Reason::Manual));
    }

    #[test]
    fn a_hard_bounce_can_be_removed_and_stays_in_the_log() {
        let mut log = team_created();
        log.extend(given(log.clone()).when(suppress(Reason::HardBounce, None, None)).then_events());
        let remove = UnsuppressAddress { address: address_id(1), email: "bob@example.net".into() };
        log.extend(given(log.clone()).when(remove.clone()).then_events());
        given(log.clone()).when(remove).then_nothing();
        assert!(state(&log).causes.is_empty());
        let never = UnsuppressAddress { address: address_id(2), email: "eve@example.net".into() };
        given(log).when(never).then_rejected(&Rejected::Unknown);
    }

    #[test]
    fn a_full_mailbox_suppresses_after_five_bounces_over_a_week_and_for_a_month() {
        let mut state = Suppression::default();
        for n in 0..4 {
            assert_eq!(state.after_bounce(Category::MailboxFull, NOW + n * DAY), None);
            state.note(Category::MailboxFull, NOW + n * DAY);
        }
        assert_eq!(state.after_bounce(Category::MailboxFull, NOW + 5 * DAY), None, "not yet a week");
        let then = NOW + 7 * DAY;
        assert_eq!(state.after_bounce(Category::MailboxFull, then), Some(Some(then + 30 * DAY)));
        assert_eq!(state.after_bounce(Category::UserUnknown, NOW), Some(None));
        assert_eq!(state.after_bounce(Category::PolicyBlocked, NOW), None);
    }
}
