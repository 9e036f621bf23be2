//! What of a mail's header is worth an event: everything in it came from strangers, and the raw mail holds it all.

use domain::message::Person;
use mail::header::EmailAddress;

/// People kept of one field.
const PEOPLE_MAX: usize = 100;
/// Octets kept of a subject: the longest line of RFC 5322 §2.1.1.
const SUBJECT_OCTETS_MAX: usize = 998;
/// Octets kept of a name or an address.
const NAME_OCTETS_MAX: usize = 320;
/// Message-IDs of more octets are no ids.
const ID_OCTETS_MAX: usize = 998;
/// References kept.
const REFERENCES_MAX: usize = 100;

/// Cuts a text at a character, to at most so many octets.
fn cut(text: &str, octets_max: usize) -> String {
    text[..text.floor_char_boundary(octets_max)].to_owned()
}

pub(super) fn subject(subject: &str) -> String {
    cut(subject, SUBJECT_OCTETS_MAX)
}

pub(super) fn person(of: &EmailAddress) -> Person {
    Person { name: of.name.as_deref().map(|name| cut(name, NAME_OCTETS_MAX)), email: cut(&of.email, NAME_OCTETS_MAX) }
}

pub(super) fn people(of: &[EmailAddress]) -> Vec<Person> {
    of.iter().take(PEOPLE_MAX).map(person).collect()
}

pub(super) fn message_id(id: &str) -> Option<&str> {
    Some(id).filter(|id| id.len() <= ID_OCTETS_MAX)
}

pub(super) fn references(ids: Vec<String>) -> Vec<String> {
    ids.into_iter().filter(|id| id.len() <= ID_OCTETS_MAX).take(REFERENCES_MAX).collect()
}
