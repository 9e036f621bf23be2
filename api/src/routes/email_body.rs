//! What a mail to send looks like in a request, and how it becomes a draft.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use domain::id::GroupId;
use domain::outbound::Labels;
use domain::suppression::Purpose;
use mail::compose::{Attachment as File, Draft, FieldError as Fault, ListUnsubscribe, Person, Problem as What};
use serde::de::{Deserializer, MapAccess, SeqAccess, Visitor, value::MapAccessDeserializer};
use serde::{Deserialize, de};
use utoipa::ToSchema;

use crate::field::{list, present, text};
use crate::problem::{Code, FieldError, Problem};
use crate::query::instant;
use crate::send::attachment;

/// The most files of one mail.
pub(super) const ATTACHMENTS_MAX: usize = 10;
/// The most bytes of one file.
pub(super) const ATTACHMENT_BYTES_MAX: usize = 18 * 1024 * 1024;
/// The most delivery groups a mail names.
const GROUPS_MAX: usize = 50;
const HEADER_CHARS_MAX: usize = 500;
const METADATA_MAX: usize = 50;
/// The furthest a mail is put off, microseconds.
pub(super) const SCHEDULE_MICROS_MAX: i64 = 30 * 24 * 60 * 60 * 1_000_000;

/// An address with a name.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = EmailAddress)]
pub(super) struct Address {
    #[schema(max_length = 254, format = "email", example = "ann@example.com")]
    pub(super) email: String,
    /// The name shown beside it.
    #[serde(default)]
    #[schema(max_length = 100)]
    pub(super) name: Option<String>,
}

impl From<Address> for Person {
    fn from(address: Address) -> Self {
        Self { email: address.email, name: address.name.filter(|name| !name.is_empty()) }
    }
}

/// One thing, or a list of them.
#[derive(Debug, Clone)]
pub(super) struct OneOrMany<T>(pub(super) Vec<T>);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for OneOrMany<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either<T>(std::marker::PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for Either<T> {
            type Value = Vec<T>;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("one of them or a list")
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Vec<T>, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map)).map(|one| vec![one])
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Vec<T>, E> {
                T::deserialize(de::value::StrDeserializer::new(text)).map(|one| vec![one])
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Vec<T>, A::Error> {
                let mut all = vec![];
                while let Some(one) = seq.next_element()? {
                    if all.len() >= 1_000 {
                        return Err(de::Error::custom("must have at most 1000 items"));
                    }
                    all.push(one);
                }
                Ok(all)
            }
        }
        deserializer.deserialize_any(Either(std::marker::PhantomData)).map(Self)
    }
}

/// A file, in base64, or the id of one that was uploaded before.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = EmailAttachment)]
pub(super) struct Attachment {
    /// The name, with one of the accepted extensions; needed with `content`.
    #[serde(default, deserialize_with = "text::<1, 255, _>")]
    #[schema(nullable = false, min_length = 1, max_length = 255, example = "invoice.pdf")]
    pub(super) filename: Option<String>,
    /// The bytes in base64.
    #[serde(default, deserialize_with = "present")]
    #[schema(nullable = false)]
    pub(super) content: Option<String>,
    /// How `content` is written; always `base64`.
    #[serde(default)]
    encoding: Encoding,
    /// The media type.
    #[serde(default, rename = "type", alias = "content_type", deserialize_with = "present")]
    #[schema(nullable = false, example = "application/pdf")]
    pub(super) media_type: Option<String>,
    /// The name by which HTML shows it (`cid:`); the file is then part of the body.
    #[serde(default, deserialize_with = "present")]
    #[schema(nullable = false)]
    pub(super) content_id: Option<String>,
    /// A file uploaded before, instead of `content`.
    #[serde(default, deserialize_with = "present")]
    #[schema(nullable = false, example = "att_06bqmn3t0d4gq2v8xk1hz7sw")]
    pub(super) attachment_id: Option<String>,
}

/// How a file is written in JSON.
#[derive(Debug, Clone, Copy, Default, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum Encoding {
    #[default]
    Base64,
}

/// What kind of mail it is.
#[derive(Debug, Clone, Copy, Default, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum PurposeName {
    #[default]
    Transactional,
    Bulk,
}

/// How a recipient leaves the list that a mail belongs to.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Unsubscribe {
    /// An `https` URL that unsubscribes by one POST.
    #[schema(format = "uri")]
    url: String,
    /// A `mailto` URL that does the same.
    #[serde(default)]
    mailto: Option<String>,
}

/// A mail to send.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct EmailSendRequest {
    pub(super) from: Address,
    /// One recipient or several.
    #[schema(value_type = Address)]
    to: OneOrMany<Address>,
    #[serde(default, deserialize_with = "list::<_, 0, 49, _>")]
    #[schema(nullable = false, max_items = 49)]
    cc: Option<Vec<Address>>,
    #[serde(default, deserialize_with = "list::<_, 0, 49, _>")]
    #[schema(nullable = false, max_items = 49)]
    bcc: Option<Vec<Address>>,
    #[schema(min_length = 1, max_length = 998)]
    subject: String,
    /// The HTML body; without it a text body is needed.
    #[serde(default, deserialize_with = "present")]
    #[schema(nullable = false)]
    html_body: Option<String>,
    /// The text body; made from the HTML body where absent.
    #[serde(default, deserialize_with = "present")]
    #[schema(nullable = false)]
    text_body: Option<String>,
    /// Where answers go: one address or several.
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<Address>, nullable = false)]
    reply_to: Option<OneOrMany<Address>>,
    /// The envelope sender.
    #[serde(default, deserialize_with = "present")]
    #[schema(nullable = false, format = "email")]
    return_path: Option<String>,
    /// Header fields whose names begin with `X-`.
    #[serde(default, deserialize_with = "present")]
    #[schema(nullable = false)]
    custom_headers: Option<BTreeMap<String, String>>,
    #[serde(default, deserialize_with = "list::<_, 0, 10, _>")]
    #[schema(nullable = false, max_items = 10)]
    attachments: Option<Vec<Attachment>>,
    /// The delivery groups it may leave through: one id or up to 50.
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<Vec<String>>, nullable = false)]
    delivery_group: Option<OneOrMany<String>>,
    /// The Message-ID of the mail this one answers.
    #[serde(default, deserialize_with = "present")]
    #[schema(nullable = false)]
    in_reply_to: Option<String>,
    /// The Message-IDs of the thread, oldest first.
    #[serde(default, deserialize_with = "list::<_, 0, 100, _>")]
    #[schema(nullable = false)]
    references: Option<Vec<String>>,
    /// When to send it, at most 30 days ahead; at once without.
    #[serde(default, deserialize_with = "present")]
    #[schema(nullable = false, format = "date-time")]
    send_at: Option<String>,
    /// Words to find it by; they come with its events.
    #[serde(default, deserialize_with = "list::<_, 0, 10, _>")]
    #[schema(nullable = false, max_items = 10)]
    tags: Option<Vec<String>>,
    /// Names and values that come with its events.
    #[serde(default, deserialize_with = "present")]
    #[schema(nullable = false)]
    metadata: Option<BTreeMap<String, String>>,
    /// `bulk` honours unsubscriptions; `transactional` by default.
    #[serde(default, deserialize_with = "present")]
    #[schema(nullable = false)]
    purpose: Option<PurposeName>,
    /// What it is about, for unsubscriptions.
    #[serde(default, deserialize_with = "text::<1, 64, _>")]
    #[schema(nullable = false)]
    topic: Option<String>,
    #[serde(default, deserialize_with = "present")]
    #[schema(nullable = false)]
    list_unsubscribe: Option<Unsubscribe>,
    /// Whether opening it is noticed, by a picture in the HTML body; for one recipient.
    #[serde(default)]
    track_opens: bool,
}

/// What a request says beside the draft.
pub(super) struct Asked {
    pub(super) draft: Draft,
    pub(super) groups: Vec<GroupId>,
    pub(super) labels: Labels,
    pub(super) purpose: Purpose,
    pub(super) topic: Option<String>,
    pub(super) send_at: Option<i64>,
    pub(super) track_opens: bool,
    /// Files uploaded before, by their place in the list.
    pub(super) uploaded: Vec<(usize, String)>,
}

impl EmailSendRequest {
    /// Reads what the domain and the composer do not check by themselves.
    pub(super) fn read(self, now: i64) -> Result<Asked, Problem> {
        let headers = headers(self.custom_headers.unwrap_or_default())?;
        let (attachments, uploaded) = files(self.attachments.unwrap_or_default())?;
        let labels = labels(self.tags.unwrap_or_default(), self.metadata.unwrap_or_default())?;
        let people = |people: Vec<Address>| people.into_iter().map(Person::from).collect();
        let draft = Draft {
            from: self.from.into(),
            to: people(self.to.0),
            cc: people(self.cc.unwrap_or_default()),
            bcc: people(self.bcc.unwrap_or_default()),
            reply_to: people(self.reply_to.map(|r| r.0).unwrap_or_default()),
            subject: subject(self.subject)?,
            text: self.text_body,
            html: self.html_body,
            attachments,
            headers,
            in_reply_to: self.in_reply_to,
            references: self.references.unwrap_or_default(),
            return_path: self.return_path,
            unsubscribe: self.list_unsubscribe.map(|u| ListUnsubscribe { url: u.url, mailto: u.mailto }),
            ..Draft::default()
        };
        Ok(Asked {
            draft,
            groups: groups(self.delivery_group)?,
            labels,
            purpose: match self.purpose.unwrap_or_default() {
                PurposeName::Transactional => Purpose::Transactional,
                PurposeName::Bulk => Purpose::Bulk,
            },
            topic: self.topic,
            send_at: self.send_at.map(|at| send_at(&at, now)).transpose()?,
            track_opens: self.track_opens,
            uploaded,
        })
    }
}

fn subject(subject: String) -> Result<String, Problem> {
    if subject.is_empty() {
        return Err(Problem::unacceptable("subject", "required", "subject must not be empty"));
    }
    Ok(subject)
}

/// Reads when a mail is to be sent; what is past means now.
pub(super) fn send_at(text: &str, now: i64) -> Result<i64, Problem> {
    let refused = |message: &str| Problem::unacceptable("send_at", "invalid_value", message);
    let at = instant(text).ok_or_else(|| refused("send_at must be an RFC 3339 timestamp"))?;
    if at > now.saturating_add(SCHEDULE_MICROS_MAX) {
        return Err(refused("send_at must be at most 30 days ahead"));
    }
    Ok(at)
}

fn headers(given: BTreeMap<String, String>) -> Result<Vec<(String, String)>, Problem> {
    for (name, value) in &given {
        let shown: String = name.chars().filter(char::is_ascii_graphic).take(76).collect();
        let field = format!("custom_headers.{shown}");
        if !name.get(..2).is_some_and(|begin| begin.eq_ignore_ascii_case("x-")) {
            return Err(Problem::unacceptable(field, "not_allowed", "custom headers begin with X-"));
        }
        if value.chars().count() > HEADER_CHARS_MAX {
            let message = format!("the value must have at most {HEADER_CHARS_MAX} characters");
            return Err(Problem::unacceptable(field, "too_long", message));
        }
    }
    Ok(given.into_iter().collect())
}

fn groups(given: Option<OneOrMany<String>>) -> Result<Vec<GroupId>, Problem> {
    let Some(OneOrMany(ids)) = given else { return Ok(vec![]) };
    if ids.is_empty() || ids.len() > GROUPS_MAX {
        let message = format!("delivery_group must name 1 to {GROUPS_MAX} groups");
        return Err(Problem::unacceptable("delivery_group", "invalid_length", message));
    }
    let unknown = |id: &str| {
        let shown: String = id.chars().filter(char::is_ascii_graphic).take(128).collect();
        Problem::unacceptable("delivery_group", "unknown_group", format!("there is no delivery group {shown}"))
    };
    let mut groups: Vec<GroupId> = vec![];
    for id in ids {
        let group: GroupId = id.parse().map_err(|_| unknown(&id))?;
        if !groups.contains(&group) {
            groups.push(group);
        }
    }
    Ok(groups)
}

fn labels(tags: Vec<String>, metadata: BTreeMap<String, String>) -> Result<Labels, Problem> {
    let bounded =
        |text: &str, max: usize| (1..=max).contains(&text.chars().count()) && !text.contains(char::is_control);
    if let Some(i) = tags.iter().position(|tag| !bounded(tag, 128)) {
        let message = "a tag has 1 to 128 characters and no control characters";
        return Err(Problem::unacceptable(format!("tags.{i}"), "invalid_value", message));
    }
    let sound = |(name, value): (&String, &String)| bounded(name, 64) && value.chars().count() <= 500;
    if metadata.len() > METADATA_MAX || !metadata.iter().all(sound) {
        let message =
            format!("metadata has at most {METADATA_MAX} names of 1 to 64 and values of at most 500 characters");
        return Err(Problem::unacceptable("metadata", "invalid_value", message));
    }
    Ok(Labels { tags, metadata })
}

/// Files, and the places and ids of those uploaded before.
type Files = (Vec<File>, Vec<(usize, String)>);

/// Reads files; those uploaded before are placed in the list and named beside it.
fn files(given: Vec<Attachment>) -> Result<Files, Problem> {
    let (mut files, mut uploaded): Files = (vec![], vec![]);
    for (i, attachment) in given.into_iter().enumerate() {
        let field = |name: &str| format!("attachments.{i}.{name}");
        let required = |name: &str| Problem::unacceptable(field(name), "required", format!("{name} is required"));
        match (attachment.attachment_id, attachment.content) {
            (Some(_), Some(_)) => {
                let message = "give either content or attachment_id";
                return Err(Problem::unacceptable(field("attachment_id"), "ambiguous", message));
            }
            (Some(id), None) => {
                uploaded.push((i, id));
                let inline = attachment.content_id.is_some();
                files.push(File { content_id: attachment.content_id, inline, ..File::default() });
            }
            (None, None) => return Err(required("content")),
            (None, Some(content)) => {
                let Encoding::Base64 = attachment.encoding;
                let filename = attachment.filename.ok_or_else(|| required("filename"))?;
                let content = decoded(&content).ok_or_else(|| {
                    Problem::unacceptable(field("content"), "invalid_base64", "content is not base64")
                })?;
                judged(i, &filename, &content)?;
                files.push(File {
                    filename: Some(filename),
                    content_type: attachment.media_type,
                    content,
                    inline: attachment.content_id.is_some(),
                    content_id: attachment.content_id,
                });
            }
        }
    }
    Ok((files, uploaded))
}

/// Decodes base64 that may be broken into lines.
pub(super) fn decoded(text: &str) -> Option<Vec<u8>> {
    if text.bytes().any(|b| b.is_ascii_whitespace()) {
        let joined: String = text.chars().filter(|c| !c.is_ascii_whitespace()).collect();
        return BASE64_STANDARD.decode(joined).ok().filter(|bytes| !bytes.is_empty());
    }
    BASE64_STANDARD.decode(text).ok().filter(|bytes| !bytes.is_empty())
}

/// Refuses files that are too large or not of an accepted kind.
pub(super) fn judged(i: usize, filename: &str, content: &[u8]) -> Result<(), Problem> {
    if content.len() > ATTACHMENT_BYTES_MAX {
        return Err(Problem::new(Code::PayloadTooLarge, format!("A file has at most {ATTACHMENT_BYTES_MAX} bytes.")));
    }
    attachment::judge(filename, content).map_err(|refused| {
        Problem::unacceptable(format!("attachments.{i}.filename"), "file_not_accepted", refused.to_string())
    })
}

/// Says what is wrong with a draft in the words of the request, where a file's media type is called `media_type`.
pub(super) fn faulty(faults: &[Fault], media_type: &str) -> Problem {
    if faults.iter().any(|f| f.field == "message" && matches!(f.problem, What::TooLong { .. })) {
        return Problem::new(Code::PayloadTooLarge, "The message is larger than 25 MB.");
    }
    let errors: Vec<_> = faults.iter().map(|fault| named(fault, media_type)).collect();
    let first = errors.first().map(|e| format!("{} {}", e.field, e.message)).unwrap_or_default();
    Problem::new(Code::ValidationError, first).with_errors(errors)
}

fn named(fault: &Fault, media_type: &str) -> FieldError {
    let dotted = fault.field.replace('[', ".").replace(']', "");
    let (head, rest) = dotted.split_once('.').map_or((dotted.as_str(), ""), |(head, rest)| (head, rest));
    let head = match head {
        "text" => "text_body",
        "html" => "html_body",
        "headers" => "custom_headers",
        "recipients" => "to",
        "unsubscribe" => "list_unsubscribe",
        other => other,
    };
    let field = if rest.is_empty() { head.to_owned() } else { format!("{head}.{rest}") };
    let field = if head == "attachments" { field.replace("content_type", media_type) } else { field };
    let code = match &fault.problem {
        What::Required => "required",
        What::ControlCharacter => "control_character",
        What::TooLong { .. } => "too_long",
        What::TooMany { .. } => "too_many",
        What::Address(_) | What::Domain | What::Smtputf8 => "invalid_address",
        What::Reserved | What::NotAllowed => "not_allowed",
        What::Duplicate => "duplicate_field",
        _ => "invalid_value",
    };
    FieldError { field, code: code.to_owned(), message: fault.problem.to_string() }
}
