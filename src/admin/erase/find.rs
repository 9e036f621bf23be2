//! Which events of a log are about somebody.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Context as _;
use domain::Event;
use domain::id::{BlobId, MailboxId, MessageId, OutboundId, Position};
use domain::webhook_endpoint as webhook;
use domain::{api_key, delivery_group, mailbox, message, outbound, provider, sending_domain, suppression, team};
use eventlog::{Recorded, StoredRecord};
use mail::address::Address;

use crate::erasures::body;

/// What is erased.
pub(super) enum Subject {
    /// One message, and the mail it is a copy of.
    Message(MessageId),
    /// Whatever names an address.
    Address(String),
    /// A closed mailbox and all that was in it or sent from it.
    Mailbox(MailboxId),
    /// Everything.
    Team,
}

/// An event's place: epoch and position.
type Place = (u16, Position);

/// What was found in the log.
#[derive(Default)]
pub(super) struct Found {
    /// The events that still have a personal half.
    pub(super) events: BTreeSet<Place>,
    /// The bodies they name.
    pub(super) bodies: BTreeSet<BlobId>,
    /// Messages that are erased: whatever happened to them later goes too.
    messages: BTreeSet<MessageId>,
    /// The same for outgoing mails.
    mails: BTreeSet<OutboundId>,
    /// Settings that name the address and are in force, by stream and kind. They decide about mail and are not touched;
    /// once they are replaced or ended, what they were is erased.
    in_force: BTreeMap<(String, &'static str), Place>,
}

impl Found {
    /// Returns the settings in force that name the address: stream and kind.
    pub(super) fn in_use(&self) -> Vec<(&str, &'static str)> {
        self.in_force.keys().map(|(stream, kind)| (stream.as_str(), *kind)).collect()
    }

    /// Looks at the next record of the log.
    pub(super) fn judge(&mut self, subject: &Subject, stored: &StoredRecord) -> anyhow::Result<()> {
        let record = Recorded::decode(stored).with_context(|| format!("position {}", stored.position))?;
        let event = &record.event;
        let is_about = match subject {
            Subject::Team => true,
            Subject::Message(id) => self.is_message(id, event),
            Subject::Mailbox(id) => is_mailbox(id, event),
            Subject::Address(address) => self.is_about(address, stored, event),
        };
        if is_about && stored.personal.is_some() {
            self.events.insert((stored.epoch, stored.position));
            self.bodies.extend(body(event).cloned());
        }
        Ok(())
    }

    fn is_message(&mut self, id: &MessageId, event: &Event) -> bool {
        match event {
            Event::Message(e) => e.message() == id,
            Event::Outbound(outbound::Event::Accepted(e)) if e.copy.as_ref() == Some(id) => {
                self.mails.insert(e.mail.outbound.clone());
                true
            }
            Event::Outbound(e) => self.mails.contains(&e.mail().outbound),
            _ => false,
        }
    }

    fn is_about(&mut self, address: &str, stored: &StoredRecord, event: &Event) -> bool {
        let half = stored.personal.as_ref();
        let named = half.is_some_and(|half| mentions(&half.json, address)) || people(event).any(|of| is(of, address));
        let place = (stored.epoch, stored.position);
        if let Some(kind) = setting(event) {
            let key = (stored.stream.clone(), kind);
            // What it replaces is not in force any more.
            self.events.extend(self.in_force.remove(&key));
            if named {
                self.in_force.insert(key, place);
            }
            return false;
        }
        if ends(event) {
            let ended = self.in_force.extract_if(.., |(stream, _), _| *stream == stored.stream);
            self.events.extend(ended.map(|(_, place)| place).collect::<Vec<_>>());
            return named;
        }
        match event {
            Event::Message(e) if named => {
                self.messages.insert(e.message().clone());
                true
            }
            Event::Message(e) => self.messages.contains(e.message()),
            Event::Outbound(outbound::Event::Accepted(e)) if named => {
                self.mails.insert(e.mail.outbound.clone());
                true
            }
            Event::Outbound(e) => named || self.mails.contains(&e.mail().outbound),
            _ => named,
        }
    }
}

fn is_mailbox(id: &MailboxId, event: &Event) -> bool {
    match event {
        Event::Mailbox(e) => e.mailbox() == id,
        Event::Message(e) => e.mailbox() == id,
        Event::Outbound(e) => e.mail().mailbox.as_ref() == Some(id),
        Event::ApiKey(api_key::Event::Created(e)) => e.mailbox.as_ref() == Some(id),
        Event::ApiKey(api_key::Event::Revoked(e)) => e.mailbox.as_ref() == Some(id),
        _ => false,
    }
}

/// Returns what an event sets that stays in force until it is set anew or its owner ends.
fn setting(event: &Event) -> Option<&'static str> {
    match event {
        Event::Team(team::Event::Created(_)) => Some("name"),
        Event::Mailbox(mailbox::Event::Opened(_)) => Some("first name"),
        Event::Mailbox(mailbox::Event::Renamed(_)) | Event::DeliveryGroup(delivery_group::Event::Renamed(_)) => {
            Some("name")
        }
        Event::DeliveryGroup(delivery_group::Event::Created(_)) => Some("name"),
        Event::Mailbox(mailbox::Event::RulesReplaced(_))
        | Event::SendingDomain(sending_domain::Event::RulesReplaced(_)) => Some("sender rules"),
        Event::Webhook(webhook::Event::Created(_) | webhook::Event::Redirected(_)) => Some("URL"),
        Event::Provider(provider::Event::Created(_) | provider::Event::Reconfigured(_)) => Some("identity"),
        _ => None,
    }
}

/// Returns whether an event ends what its stream is about, with all its settings.
fn ends(event: &Event) -> bool {
    matches!(
        event,
        Event::Mailbox(mailbox::Event::Closed(_))
            | Event::DeliveryGroup(delivery_group::Event::Deleted(_))
            | Event::SendingDomain(sending_domain::Event::Removed(_))
            | Event::Webhook(webhook::Event::Deleted(_))
            | Event::Provider(provider::Event::Deleted(_))
    )
}

/// Returns the addresses that an event names in fields of their own: compared as addresses, however they are written.
fn people(event: &Event) -> Box<dyn Iterator<Item = &str> + '_> {
    let correspondence = match event {
        Event::Message(message::Event::Received(e)) => e.personal.known(),
        Event::Message(message::Event::Filed(e)) => e.personal.known(),
        _ => None,
    };
    if let Some(mail) = correspondence {
        let people = mail.from.iter().chain(&mail.to).chain(&mail.cc).map(|person| person.email.as_str());
        return Box::new(people.chain(mail.mail_from.as_deref()).chain(mail.rcpt_to.iter().map(String::as_str)));
    }
    match event {
        Event::Outbound(outbound::Event::Accepted(e)) => Box::new(e.personal.known().into_iter().flat_map(|letter| {
            let people = std::iter::once(&letter.from).chain(&letter.recipients).chain(&letter.reply_to);
            people.map(|person| person.email.as_str()).chain(letter.return_path.as_deref())
        })),
        Event::Suppression(suppression::Event::Added(e)) => {
            Box::new(e.personal.known().map(|p| p.email.as_str()).into_iter())
        }
        Event::Mailbox(mailbox::Event::Opened(e)) => Box::new(e.personal.known().map(|p| p.email.as_str()).into_iter()),
        Event::Mailbox(mailbox::Event::Closed(e)) => Box::new(e.personal.known().map(|p| p.email.as_str()).into_iter()),
        _ => Box::new(std::iter::empty()),
    }
}

/// Returns whether a text holds an address that is not the middle of a longer one.
fn mentions(text: &str, address: &str) -> bool {
    let text = text.to_lowercase();
    let local = |c: char| c.is_alphanumeric() || matches!(c, '.' | '_' | '-' | '+' | '=');
    text.match_indices(address).any(|(at, _)| {
        let mut behind = text[at + address.len()..].chars();
        let goes_on = match behind.next() {
            Some('.' | '-') => behind.next().is_some_and(char::is_alphanumeric),
            Some(c) => c.is_alphanumeric(),
            None => false,
        };
        !goes_on && !text[..at].ends_with(local)
    })
}

fn is(text: &str, address: &str) -> bool {
    Address::parse(text).map_or_else(|_| text.eq_ignore_ascii_case(address), |of| of.canonical() == address)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_found_in_a_text_and_not_in_a_longer_one() {
        for text in ["ann@example.com", "to <Ann@Example.com>.", "\"ann@example.com\"", "write ann@example.com, please"]
        {
            assert!(mentions(text, "ann@example.com"), "{text}");
        }
        for text in ["joann@example.com", "x.ann@example.com", "ann@example.com.au", "ann@example.community", "ann"] {
            assert!(!mentions(text, "ann@example.com"), "{text}");
        }
    }
}
