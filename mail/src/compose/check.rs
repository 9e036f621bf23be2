//! From a draft to a message: every field checked, every fault named.

use super::custom;
use super::{
    AutoSubmitted, Draft, FieldError, Limits, ListUnsubscribe, Message, NamedAddress, Person, Problem, attachment,
};
use crate::address::Address;

/// Faults reported at once; more would only be noise.
const FAULTS_MAX: usize = 20;
/// Longest id in `In-Reply-To` and `References`, in octets.
const REFERENCE_OCTETS_MAX: usize = 900;
const MESSAGE_ID_OCTETS_MAX: usize = 250;
/// References kept when there are too many: the first names the thread, the last ones the conversation.
const REFERENCES_KEPT: usize = 21;
const REFERENCES_MAX: usize = 100;
const REFERENCES_OCTETS_MAX: usize = 8 * 1024;
const URL_OCTETS_MAX: usize = 900;

/// Tells whether a text holds anything that ends a line somewhere or is no text at all.
pub(super) fn has_control(text: &str) -> bool {
    text.chars().any(|c| c.is_control() || matches!(c, '\u{2028}' | '\u{2029}'))
}

/// The faults found so far.
#[derive(Default)]
pub(super) struct Faults(Vec<FieldError>);

impl Faults {
    pub(super) fn add(&mut self, field: impl Into<String>, problem: Problem) {
        self.push(FieldError { field: field.into(), problem });
    }

    pub(super) fn push(&mut self, fault: FieldError) {
        if self.0.len() < FAULTS_MAX {
            self.0.push(fault);
        }
    }

    fn count(&mut self, field: &str, count: usize, most: usize) {
        if count > most {
            self.add(field, Problem::TooMany { most });
        }
    }
}

pub(super) fn check(mut draft: Draft, limits: &Limits) -> Result<Message, Vec<FieldError>> {
    let mut faults = Faults::default();
    let headers = move_structured(&mut draft, limits, &mut faults);
    let mut people = People { limits, faults: &mut faults };
    let from = people.one("from", &draft.from);
    let to = people.list("to", &draft.to, limits.recipients_max);
    let cc = people.list("cc", &draft.cc, limits.recipients_max);
    let bcc = people.list("bcc", &draft.bcc, limits.recipients_max);
    let reply_to = people.list("reply_to", &draft.reply_to, limits.reply_to_max);
    let return_path = draft.return_path.as_deref().and_then(|path| people.address("return_path", path));
    let recipients = draft.to.len() + draft.cc.len() + draft.bcc.len();
    if recipients == 0 {
        faults.add("to", Problem::Required);
    }
    faults.count("recipients", recipients, limits.recipients_max);
    let subject = subject(&draft.subject, limits, &mut faults);
    let text = body("text", draft.text, limits, &mut faults);
    let html = body("html", draft.html, limits, &mut faults);
    if text.is_none() && html.is_none() {
        faults.add("text", Problem::Required);
    }
    faults.count("attachments", draft.attachments.len(), limits.attachments_max);
    let files = draft.attachments.into_iter().take(limits.attachments_max).enumerate();
    let attachments: Vec<_> =
        files.map(|(at, file)| attachment::check(file, &format!("attachments[{at}]"), &mut faults)).collect();
    content_ids(&attachments, &mut faults);
    let in_reply_to = draft.in_reply_to.and_then(|id| reference("in_reply_to", &id, &mut faults));
    let references = references(&draft.references, &mut faults);
    if let Some(unsubscribe) = &draft.unsubscribe {
        check_unsubscribe(unsubscribe, &mut faults);
    }
    match (from, faults.0.is_empty()) {
        (Some(from), true) => Ok(Message {
            from,
            to,
            cc,
            bcc,
            reply_to,
            subject,
            text,
            html,
            attachments,
            headers,
            in_reply_to,
            references,
            return_path,
            unsubscribe: draft.unsubscribe,
            auto_submitted: draft.auto_submitted,
            message_octets_max: limits.message_octets_max,
        }),
        _ => Err(faults.0),
    }
}

/// Checks custom fields. Those that a draft has a typed field for go there, so that each is written once.
fn move_structured(draft: &mut Draft, limits: &Limits, faults: &mut Faults) -> Vec<(String, String)> {
    let octets: usize = draft.headers.iter().map(|(name, value)| name.len() + value.len() + 4).sum();
    faults.count("headers", draft.headers.len(), limits.headers_max);
    if octets > limits.headers_octets_max {
        faults.add("headers", Problem::TooLong { most: limits.headers_octets_max, unit: "octets" });
        return Vec::new();
    }
    let mut kept: Vec<(String, String)> = Vec::new();
    let mut known = std::collections::HashSet::new();
    for (name, value) in std::mem::take(&mut draft.headers).into_iter().take(limits.headers_max) {
        let value = match custom::check(&name, &value) {
            Ok(value) => value,
            Err(fault) => {
                faults.push(fault);
                continue;
            }
        };
        let lower = name.to_ascii_lowercase();
        let taken = match lower.as_str() {
            "in-reply-to" => draft.in_reply_to.is_some(),
            "references" => !draft.references.is_empty(),
            "reply-to" => !draft.reply_to.is_empty(),
            "auto-submitted" => draft.auto_submitted != AutoSubmitted::No,
            "list-unsubscribe" | "list-unsubscribe-post" => draft.unsubscribe.is_some(),
            _ => false,
        };
        if taken || !known.insert(lower.clone()) {
            faults.add(format!("headers.{name}"), Problem::Duplicate);
            continue;
        }
        match lower.as_str() {
            // An answer to several messages names them all as references; one is what it answers.
            "in-reply-to" => draft.in_reply_to = Some(value),
            "references" => draft.references = value.split([' ', '\t']).map(str::to_owned).collect(),
            "reply-to" => draft.reply_to = parse_reply_to(&value),
            _ => kept.push((name, value)),
        }
    }
    draft.references.retain(|id| !id.is_empty());
    kept
}

fn parse_reply_to(value: &str) -> Vec<Person> {
    let (found, _) = crate::header::addresses(value, 100);
    found.into_iter().map(|person| Person { email: person.email, name: person.name }).collect()
}

struct People<'a> {
    limits: &'a Limits,
    faults: &'a mut Faults,
}

impl People<'_> {
    fn list(&mut self, field: &str, people: &[Person], most: usize) -> Vec<NamedAddress> {
        self.faults.count(field, people.len(), most);
        let people = people.iter().take(most).enumerate();
        people.filter_map(|(at, person)| self.one(&format!("{field}[{at}]"), person)).collect()
    }

    fn one(&mut self, field: &str, person: &Person) -> Option<NamedAddress> {
        let address = self.address(&format!("{field}.email"), &person.email);
        let name = person.name.as_deref().map(str::trim).filter(|name| !name.is_empty());
        if let Some(name) = name {
            let field = format!("{field}.name");
            let most = self.limits.name_chars_max;
            if has_control(name) {
                self.faults.add(field, Problem::ControlCharacter);
            } else if name.chars().count() > most {
                self.faults.add(field, Problem::TooLong { most, unit: "characters" });
            }
        }
        Some(NamedAddress { address: address?, name: name.map(str::to_owned) })
    }

    fn address(&mut self, field: &str, text: &str) -> Option<Address> {
        let address = match Address::parse(text) {
            Ok(address) => address,
            Err(crate::address::AddressError::ControlCharacter) => {
                self.faults.add(field, Problem::ControlCharacter);
                return None;
            }
            Err(crate::address::AddressError::Empty) => {
                self.faults.add(field, Problem::Required);
                return None;
            }
            Err(error) => {
                self.faults.add(field, Problem::Address(error));
                return None;
            }
        };
        if address.is_literal() || !address.domain().contains('.') {
            self.faults.add(field, Problem::Domain);
        } else if !address.is_ascii() && !self.limits.smtputf8 {
            self.faults.add(field, Problem::Smtputf8);
        }
        Some(address)
    }
}

fn subject(given: &str, limits: &Limits, faults: &mut Faults) -> String {
    let most = limits.subject_chars_max;
    if given.chars().any(|c| c != '\t' && has_control(c.encode_utf8(&mut [0; 4]))) {
        faults.add("subject", Problem::ControlCharacter);
    } else if given.chars().count() > most {
        faults.add("subject", Problem::TooLong { most, unit: "characters" });
    }
    given.trim().to_owned()
}

fn body(field: &str, given: Option<String>, limits: &Limits, faults: &mut Faults) -> Option<String> {
    let given = given?;
    if given.contains('\0') {
        faults.add(field, Problem::ControlCharacter);
    } else if given.len() > limits.message_octets_max {
        faults.add(field, Problem::TooLong { most: limits.message_octets_max, unit: "octets" });
    }
    Some(given)
}

fn content_ids(files: &[attachment::File], faults: &mut Faults) {
    let mut known = std::collections::HashSet::new();
    for (at, file) in files.iter().enumerate() {
        if file.content_id.as_ref().is_some_and(|id| !known.insert(id)) {
            faults.add(format!("attachments[{at}].content_id"), Problem::Duplicate);
        }
    }
}

/// Checks an id of another message. Ids out there are not all well-formed, so anything without white space, brackets
/// and control characters is one.
fn reference(field: &str, given: &str, faults: &mut Faults) -> Option<String> {
    let id = given.trim_matches([' ', '\t']);
    let id = id.strip_prefix('<').and_then(|rest| rest.strip_suffix('>')).unwrap_or(id);
    if has_control(id) {
        faults.add(field, Problem::ControlCharacter);
        return None;
    }
    if id.is_empty()
        || id.len() > REFERENCE_OCTETS_MAX
        || !id.bytes().all(|b| b.is_ascii_graphic() && !b"<>".contains(&b))
    {
        faults.add(field, Problem::MessageId);
        return None;
    }
    Some(id.to_owned())
}

fn references(given: &[String], faults: &mut Faults) -> Vec<String> {
    let given = given.iter().enumerate();
    let mut ids: Vec<String> =
        given.filter_map(|(at, id)| reference(&format!("references[{at}]"), id, faults)).collect();
    let octets: usize = ids.iter().map(|id| id.len() + 3).sum();
    if (ids.len() > REFERENCES_MAX || octets > REFERENCES_OCTETS_MAX) && ids.len() > REFERENCES_KEPT {
        ids.drain(1..ids.len() + 1 - REFERENCES_KEPT);
    }
    ids
}

/// Checks a `Message-ID` of ours (RFC 5322 §3.6.4, without its obsolete forms).
pub(crate) fn message_id(id: &str) -> Result<(), FieldError> {
    let side = |text: &str| {
        text.split('.').all(|atom| {
            !atom.is_empty() && atom.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-/=?^_`{|}~".contains(&b))
        })
    };
    let fine = id.len() <= MESSAGE_ID_OCTETS_MAX && id.split_once('@').is_some_and(|(l, r)| side(l) && side(r));
    if fine { Ok(()) } else { Err(FieldError { field: "message_id".to_owned(), problem: Problem::MessageId }) }
}

/// Tells whether a URL may stand in `List-Unsubscribe`: `https` (RFC 8058 §3.1), or plain `http` to this machine alone,
/// which is of use only where nothing leaves it.
#[must_use]
pub fn is_link(url: &str) -> bool {
    const THIS_MACHINE: [&str; 3] = ["127.0.0.1", "[::1]", "localhost"];
    let here = |rest: &str| {
        let authority = rest.split('/').next().unwrap_or_default();
        let host =
            authority.rsplit_once(':').filter(|(_, port)| port.parse::<u16>().is_ok()).map_or(authority, |(h, _)| h);
        THIS_MACHINE.contains(&host)
    };
    let rest = match (url.strip_prefix("https://"), url.strip_prefix("http://")) {
        (Some(rest), _) => rest,
        (None, Some(rest)) if here(rest) => rest,
        (None, _) => return false,
    };
    let fine = |b: u8| b.is_ascii_graphic() && !b"<>\"\\^`{|},".contains(&b);
    !rest.is_empty() && rest.bytes().all(fine) && url.len() <= URL_OCTETS_MAX
}

fn check_unsubscribe(given: &ListUnsubscribe, faults: &mut Faults) {
    if !is_link(&given.url) {
        faults.add("unsubscribe.url", Problem::Url("https"));
    }
    if let Some(mailto) = &given.mailto {
        let ascii = Address::parse(mailto).is_ok_and(|address| address.is_ascii() && !address.is_literal());
        // Percent-encoding is for nobody's benefit here: an address that would need it is refused.
        if !ascii || !mailto.bytes().all(|b| b.is_ascii_alphanumeric() || b"@.+-_=~".contains(&b)) {
            faults.add("unsubscribe.mailto", Problem::Url("mailto"));
        }
    }
}
