//! Acceptance: everything that can refuse a mail, and the money that is held for it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::event::{Accepted, Event, Rejected as RejectedFacts};
use super::notice::with_notices;
use super::parts::{Letter, Mail, RecipientKind, RejectReason, To, UnitPrices};
use super::{Outbound, RECIPIENTS_MAX, Rejected};
use crate::api_key::ApiKey;
use crate::balance::{Balance, Booking};
use crate::billing::PriceBook;
use crate::entity::{Entity, Fold, State, Versioned};
use crate::id::{AddressId, BlobId, GroupId, KeyId, MailboxId, OutboundId};
use crate::mailbox::{Mailbox, SendScope, Status as MailboxStatus};
use crate::message::{self, Person};
use crate::personal::Halves;
use crate::routing::{Asks, Routing, Sender};
use crate::suppression::{Purpose, Suppression};
use crate::team::Team;
use crate::{Command, Moment, StreamId};

/// Through which door a mail came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// The sending API.
    Http,
    /// SMTP submission (RFC 6409).
    Smtp,
    /// A mailbox's own sending.
    Mailbox,
    /// Postlog itself: a report to the sender of another mail (RFC 3464).
    Report,
}

/// A recipient as the caller names it.
#[derive(Debug, Clone)]
pub struct NewRecipient {
    /// Who, as a keyed digest.
    pub address: AddressId,
    /// Who, with a name where one was given.
    pub person: Person,
    /// Where it stands in the header.
    pub kind: RecipientKind,
}

/// The copy of a mail that its mailbox keeps.
#[derive(Debug, Clone)]
pub struct SentCopy {
    /// What is recorded for ever.
    pub facts: message::Filed,
    /// What identifies people.
    pub personal: message::Correspondence,
}

/// Takes a mail over.
///
/// Everything in it has been validated at the door: addresses, headers, sizes. The final bytes exist and are stored
/// with the event.
#[derive(Debug, Clone)]
pub struct AcceptMail {
    /// The new mail's id.
    pub outbound: OutboundId,
    /// Through which door it came.
    pub origin: Origin,
    /// The key it was handed in with; its scope and its mailbox bind the mail.
    pub key: Option<KeyId>,
    /// The mailbox it is sent as.
    pub mailbox: Option<MailboxId>,
    /// The address in `From`.
    pub from: mail::address::Address,
    /// The name in `From`.
    pub from_name: Option<String>,
    /// The envelope sender the caller asked for.
    pub return_path: Option<mail::address::Address>,
    /// Header `Reply-To`.
    pub reply_to: Vec<Person>,
    /// Header `Subject`, decoded.
    pub subject: Option<String>,
    /// The Message-ID, without angle brackets.
    pub rfc5322_message_id: String,
    /// What the caller wrote on it.
    pub labels: super::Labels,
    /// All recipients, repeats included.
    pub recipients: Vec<NewRecipient>,
    /// What was asked of reports about its delivery.
    pub notices: Option<super::Notices>,
    /// Where its bytes are.
    pub blob: BlobId,
    /// How many bytes.
    pub size_bytes: i64,
    /// Lower-case hex of the SHA-256 of the bytes.
    pub sha256: String,
    /// The delivery groups it asks for.
    pub groups: Vec<GroupId>,
    /// What kind of mail it is.
    pub purpose: Purpose,
    /// What it is about, for unsubscriptions.
    pub topic: Option<String>,
    /// Whether it goes to addresses that bounced or complained.
    pub forced: bool,
    /// Whether opening it is noticed.
    pub track_opens: bool,
    /// When it is to be sent; `None` at once.
    pub send_at: Option<i64>,
    /// How long it is tried after it is due, microseconds.
    pub lifetime_micros: i64,
    /// What things cost now.
    pub prices: PriceBook,
    /// The copy that the mailbox keeps.
    pub copy: Option<SentCopy>,
}

/// What acceptance must know.
#[derive(Debug, Clone, Default)]
pub struct Acceptance {
    /// The mail itself: nothing, unless it was accepted before.
    pub outbound: Versioned<Outbound>,
    /// The team and its domains.
    pub team: Versioned<Team>,
    /// Its money.
    pub balance: Versioned<Balance>,
    /// Its accounts and groups.
    pub routing: Versioned<Routing>,
    /// The mailbox it is sent as.
    pub mailbox: Option<Versioned<Mailbox>>,
    /// The key it was handed in with.
    pub key: Option<Versioned<ApiKey>>,
    /// The recipients, in their order.
    pub suppressions: Vec<Versioned<Suppression>>,
}

impl State for Acceptance {
    fn from_entities(entities: &mut dyn Iterator<Item = Versioned<Entity>>) -> Self {
        fn part<F: Fold>(entity: &Versioned<Entity>) -> Versioned<F> {
            Versioned { version: entity.version, state: F::of(&entity.state) }
        }
        let mut all = Self::default();
        for entity in entities {
            match entity.state.as_ref() {
                Entity::Outbound(_) => all.outbound = part(&entity),
                Entity::Team(_) => all.team = part(&entity),
                Entity::Balance(_) => all.balance = part(&entity),
                Entity::Routing(_) => all.routing = part(&entity),
                Entity::Mailbox(_) => all.mailbox = Some(part(&entity)),
                Entity::ApiKey(_) => all.key = Some(part(&entity)),
                Entity::Suppression(_) => all.suppressions.push(part(&entity)),
                Entity::Webhook(_)
                | Entity::Message(_)
                | Entity::Domain(_)
                | Entity::Provider(_)
                | Entity::Group(_) => {}
            }
        }
        all
    }
}

impl Command for AcceptMail {
    type State = Acceptance;
    type Rejected = Rejected;

    fn streams(&self) -> Vec<StreamId> {
        let singles = [StreamId::Outbound(self.outbound.clone()), StreamId::Team, StreamId::Balance, StreamId::Routing];
        let mailbox = self.mailbox.clone().map(StreamId::Mailbox);
        let key = self.key.clone().map(StreamId::ApiKey);
        let recipients = self.recipients.iter().map(|r| StreamId::Suppression(r.address.clone()));
        singles.into_iter().chain(mailbox).chain(key).chain(recipients).collect()
    }

    fn decide(&self, state: &Self::State, at: &Moment) -> Result<Vec<crate::Event>, Rejected> {
        if state.outbound.accepted.is_some() {
            return Ok(vec![]);
        }
        if state.team.id.is_none() {
            return Err(Rejected::UnknownTeam);
        }
        if self.recipients.is_empty() || self.recipients.len() > RECIPIENTS_MAX {
            return Err(Rejected::Recipients);
        }
        let scopes = self.scopes(state)?;
        let domain = state.team.domains.get(self.from.domain()).filter(|d| d.verified);
        let prices = self.priced(state, &scopes, domain.is_some())?;
        let stopped = self.stopped(state, at.now);
        let booking = self.held(state, prices, stopped.len())?;
        let facts = Accepted {
            mail: self.mail(),
            origin: self.origin,
            recipients: self.recipients.iter().map(|r| To { address: r.address.clone(), kind: r.kind }).collect(),
            blob: self.blob.clone(),
            size_bytes: self.size_bytes,
            sha256: self.sha256.clone(),
            scopes,
            groups: self.groups.clone(),
            domain: domain.map(|d| d.id.clone()),
            purpose: self.purpose,
            topic: self.topic.clone(),
            forced: self.forced,
            track_opens: self.track_opens,
            prices,
            booking,
            accepted_at: at.now,
            send_at: self.send_at.filter(|send_at| *send_at > at.now),
            lifetime_micros: self.lifetime_micros,
            copy: self.copy.as_ref().map(|c| c.facts.message.clone()),
            thread: self.copy.as_ref().map(|c| c.facts.thread.clone()),
        };
        let mut events = vec![crate::Event::Outbound(Event::Accepted(Halves::new(facts, self.letter())))];
        if let Some(copy) = &self.copy {
            let filed = message::Event::Filed(Halves::new(copy.facts.clone(), copy.personal.clone()));
            events.push(crate::Event::Message(filed));
        }
        let mut begun = Outbound::default();
        if self.notices.is_some() && stopped.len() < self.recipients.len() {
            events.iter().for_each(|event| begun.evolve(event));
        }
        events.extend(self.refused(&stopped, at.now));
        // Where nobody is left the client is refused, and told by that.
        Ok(with_notices(&begun, at.now, events))
    }
}

impl AcceptMail {
    fn mail(&self) -> Mail {
        Mail { outbound: self.outbound.clone(), mailbox: self.mailbox.clone(), key: self.key.clone() }
    }

    fn letter(&self) -> Letter {
        Letter {
            from: Person { name: self.from_name.clone(), email: self.from.to_string() },
            return_path: self.return_path.as_ref().map(ToString::to_string),
            recipients: self.recipients.iter().map(|r| r.person.clone()).collect(),
            reply_to: self.reply_to.clone(),
            subject: self.subject.clone(),
            rfc5322_message_id: self.rfc5322_message_id.clone(),
            labels: self.labels.clone(),
            notices: self.notices.clone(),
        }
    }

    /// Checks who sends and returns the scopes that bind the mail.
    fn scopes(&self, state: &Acceptance) -> Result<Vec<SendScope>, Rejected> {
        let mut scopes = vec![];
        if let Some(key) = state.key.as_ref().filter(|_| self.key.is_some()) {
            let created = key.created.as_ref().filter(|_| !key.revoked).ok_or(Rejected::KeyRevoked)?;
            if created.mailbox.is_some() && created.mailbox != self.mailbox {
                return Err(Rejected::SenderNotAllowed);
            }
            scopes.push(key.send_scope.clone());
        }
        if let Some(mailbox) = state.mailbox.as_ref().filter(|_| self.mailbox.is_some()) {
            if mailbox.status != MailboxStatus::Active {
                return Err(Rejected::MailboxNotActive);
            }
            if mailbox.email.as_deref() != Some(self.from.canonical().as_str()) {
                return Err(Rejected::SenderNotAllowed);
            }
            scopes.push(mailbox.send_scope.clone());
        }
        scopes.retain(|scope| *scope != SendScope::All);
        Ok(scopes)
    }

    /// Checks that some account can carry the mail and returns what a recipient costs.
    fn priced(&self, state: &Acceptance, scopes: &[SendScope], verified: bool) -> Result<UnitPrices, Rejected> {
        if let Some(unknown) = self.groups.iter().find(|g| !state.routing.groups.contains_key(g)) {
            return Err(Rejected::UnknownGroup(unknown.clone()));
        }
        let email = self.from.canonical();
        let scopes: Vec<_> = scopes.iter().collect();
        let sender = Sender { email: &email, verified };
        let asks = Asks { scopes: &scopes, groups: &self.groups, sender };
        let eligible = state.routing.eligible(&asks, &Default::default());
        if eligible.is_empty() {
            let anybody = Asks { sender: Sender { email: &email, verified: true }, ..asks };
            let for_others = !verified && !state.routing.in_scope(&anybody).is_empty();
            let own = !state.routing.in_scope(&asks).is_empty();
            return Err(if for_others && !own { Rejected::SenderNotAllowed } else { Rejected::NoActiveProviders });
        }
        let (own_nanos, managed_nanos) = (self.prices.outgoing_recipient_nanos, self.prices.managed_recipient_nanos);
        // Whichever of the accounts takes it in the end: what is held is enough.
        let held_nanos = state
            .routing
            .in_scope(&asks)
            .iter()
            .map(|c| if c.managed { managed_nanos } else { own_nanos })
            .max()
            .unwrap_or(own_nanos);
        Ok(UnitPrices { own_nanos, managed_nanos, held_nanos })
    }

    /// Returns the numbers of the recipients that are on the suppression list.
    fn stopped(&self, state: &Acceptance, now: i64) -> Vec<u8> {
        let by_address: BTreeMap<_, _> = self.recipients.iter().map(|r| &r.address).zip(&state.suppressions).collect();
        let stops = |address: &AddressId| {
            by_address.get(address).is_some_and(|suppression| {
                suppression.stops(self.purpose, self.topic.as_deref(), self.forced, now).is_some()
            })
        };
        let numbered = self.recipients.iter().zip(0u8..);
        numbered.filter(|(r, _)| stops(&r.address)).map(|(_, number)| number).collect()
    }

    /// Checks the money and returns what is held.
    fn held(&self, state: &Acceptance, prices: UnitPrices, stopped: usize) -> Result<Booking, Rejected> {
        let count = i64::try_from(self.recipients.len() - stopped).unwrap_or(i64::MAX);
        let needed = prices.held_nanos.times(count);
        let available = state.balance.available();
        if needed > available && needed.0 > 0 {
            return Err(Rejected::InsufficientCredits { needed, available });
        }
        Ok(Booking { held_nanos: needed, ..Booking::default() })
    }

    /// Returns the event that refuses suppressed recipients; no money was held for them.
    fn refused(&self, stopped: &[u8], now: i64) -> Option<crate::Event> {
        let emails = stopped.iter().filter_map(|n| self.recipients.get(usize::from(*n)));
        let parties = super::Parties {
            sender: self.return_path.as_ref().unwrap_or(&self.from).to_string(),
            recipients: emails.map(|r| r.person.email.clone()).collect(),
            rfc5322_message_id: self.rfc5322_message_id.clone(),
            labels: self.labels.clone(),
            ..super::Parties::default()
        };
        let facts = RejectedFacts {
            mail: self.mail(),
            recipients: stopped.to_vec(),
            reason: RejectReason::Suppressed,
            verdict: None,
            booking: Booking::default(),
            at: now,
        };
        (!stopped.is_empty()).then(|| crate::Event::Outbound(Event::Rejected(Halves::new(facts, parties))))
    }
}
