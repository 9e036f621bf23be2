//! Taking over outgoing mail: what every door that sends has in common.
//!
//! A door checks who sends and composes the bytes; [`Outbox::stage`] stores them and makes the command that takes the mail
//! over. From the moment the command is carried out nothing can fail the request any more.

use std::collections::BTreeSet;

use bytes::Bytes;
use domain::billing::PriceBook;
use domain::id::{AddressId, BlobId, GroupId, KeyId, MailboxId, MessageId, OutboundId, TeamId, ThreadId};
use domain::message::{Correspondence, Filed, Folder, Person};
use domain::outbound::{AcceptMail, Labels, NewRecipient, Notices, Origin, RecipientKind, SentCopy};
use domain::suppression::Purpose;
use eventlog::{Allot, EventLog, LogError, StagedBlob};
use mail::address::Address;
use mail::compose::{Draft, FieldError, Limits, NamedAddress, Stamp};
use mail::message::{PARSER_VERSION, ParseLimits};
use projections::{Views, messages};
use sha2::{Digest, Sha256};

use crate::auth::secret::Pepper;

pub mod attachment;

/// A recipient and where it stands in the header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Addressee {
    /// Who.
    pub person: NamedAddress,
    /// Where.
    pub kind: RecipientKind,
}

/// A mail whose bytes exist.
#[derive(Debug, Clone)]
pub struct Composed {
    /// The bytes, not signed yet.
    pub bytes: Bytes,
    /// The author.
    pub from: NamedAddress,
    /// The envelope sender that was asked for.
    pub return_path: Option<Address>,
    /// All recipients, repeats included.
    pub recipients: Vec<Addressee>,
    /// What was asked of reports about its delivery.
    pub notices: Option<Notices>,
    /// Header `Reply-To`.
    pub reply_to: Vec<Person>,
    /// Header `Subject`.
    pub subject: String,
    /// The Message-ID, without angle brackets.
    pub rfc5322_message_id: String,
    /// What it refers to: `In-Reply-To` first, then `References` from last to first.
    pub references: Vec<String>,
}

impl Composed {
    /// Checks and composes a draft.
    ///
    /// # Errors
    /// All faults that were found, each with its field.
    pub fn of(draft: Draft, limits: &Limits, outbound: &OutboundId, at_micros: i64) -> Result<Self, Vec<FieldError>> {
        let has_return_path = draft.return_path.is_some();
        let reply_to = draft.reply_to.iter().map(|p| Person { name: p.name.clone(), email: p.email.clone() }).collect();
        let message = draft.check(limits)?;
        let rfc5322_message_id = mail::compose::message_id(outbound.as_str(), &message.from().address);
        let stamp = Stamp { message_id: &rfc5322_message_id, at_micros };
        let bytes = message.compose(&stamp).map_err(|fault| vec![fault])?;
        let of_kind = |people: &[NamedAddress], kind| {
            people.iter().map(|person| Addressee { person: person.clone(), kind }).collect::<Vec<_>>()
        };
        let mut recipients = of_kind(message.to(), RecipientKind::To);
        recipients.extend(of_kind(message.cc(), RecipientKind::Cc));
        recipients.extend(of_kind(message.bcc(), RecipientKind::Bcc));
        let answered = message.in_reply_to().map(str::to_owned);
        Ok(Self {
            bytes: bytes.into(),
            from: message.from().clone(),
            return_path: has_return_path.then(|| message.return_path().clone()),
            recipients,
            notices: None,
            reply_to,
            subject: message.subject().to_owned(),
            references: answered.into_iter().chain(message.references().iter().rev().cloned()).collect(),
            rfc5322_message_id,
        })
    }
}

/// Who sends a mail, and how.
#[derive(Debug, Clone)]
pub struct Terms {
    /// Through which door it came.
    pub origin: Origin,
    /// The key it was handed in with.
    pub key: Option<KeyId>,
    /// The mailbox it is sent as; it keeps a copy.
    pub mailbox: Option<MailboxId>,
    /// The delivery groups it asks for.
    pub groups: Vec<GroupId>,
    /// What the caller wrote on it.
    pub labels: Labels,
    /// What kind of mail it is.
    pub purpose: Purpose,
    /// What it is about, for unsubscriptions.
    pub topic: Option<String>,
    /// When it is to be sent, microseconds since the Unix epoch; `None` at once.
    pub send_at: Option<i64>,
}

/// A mail that waits for nothing but its command to be carried out.
#[derive(Debug)]
pub struct Staged {
    /// Takes the mail over.
    pub command: AcceptMail,
    /// The id of its bytes.
    pub blob: BlobId,
    /// Its bytes, to be stored with the events.
    pub bytes: StagedBlob,
}

/// Where doors put outgoing mail. Cheap to clone.
#[derive(Clone)]
pub struct Outbox {
    log: EventLog,
    views: Views,
    allot: Allot,
    pepper: Pepper,
    prices: PriceBook,
    lifetime_micros: i64,
}

impl Outbox {
    /// Returns an outbox over a log; mail is tried for `lifetime_micros` after it is due.
    #[must_use]
    pub fn new(
        log: EventLog,
        views: Views,
        allot: Allot,
        pepper: Pepper,
        prices: PriceBook,
        lifetime_micros: i64,
    ) -> Self {
        Self { log, views, allot, pepper, prices, lifetime_micros }
    }

    /// Returns the id of an address within a team.
    #[must_use]
    pub fn address(&self, team: &TeamId, address: &Address) -> AddressId {
        self.pepper.address(team, address)
    }

    /// Stores the bytes of a mail and returns the command that takes it over.
    ///
    /// # Errors
    /// The bytes cannot be stored.
    pub async fn stage(
        &self,
        team: &TeamId,
        outbound: OutboundId,
        mail: Composed,
        terms: Terms,
        now: i64,
    ) -> Result<Staged, LogError> {
        let blob = BlobId::new(now, self.allot.random());
        let bytes = self.log.stage_blob(team, &blob, mail.bytes.clone()).await?;
        let sha256 = hex::encode(Sha256::digest(&mail.bytes));
        let size_bytes = i64::try_from(mail.bytes.len()).unwrap_or(i64::MAX);
        let copy = match &terms.mailbox {
            None => None,
            Some(mailbox) => Some(self.copy(team, mailbox, &outbound, &mail, (&blob, size_bytes, &sha256), now).await),
        };
        let recipients = mail.recipients.into_iter().map(|to| NewRecipient {
            address: self.address(team, &to.person.address),
            person: Person { name: to.person.name, email: to.person.address.to_string() },
            kind: to.kind,
        });
        let command = AcceptMail {
            outbound,
            origin: terms.origin,
            key: terms.key,
            mailbox: terms.mailbox,
            from: mail.from.address,
            from_name: mail.from.name,
            return_path: mail.return_path,
            reply_to: mail.reply_to,
            subject: Some(mail.subject),
            rfc5322_message_id: mail.rfc5322_message_id,
            labels: terms.labels,
            recipients: recipients.collect(),
            notices: mail.notices,
            blob: blob.clone(),
            size_bytes,
            sha256,
            groups: terms.groups,
            purpose: terms.purpose,
            topic: terms.topic,
            forced: false,
            track_opens: false,
            send_at: terms.send_at,
            lifetime_micros: self.lifetime_micros,
            prices: self.prices,
            copy,
        };
        Ok(Staged { command, blob, bytes })
    }

    /// Returns the copy that a mailbox keeps of what it sends.
    async fn copy(
        &self,
        team: &TeamId,
        mailbox: &MailboxId,
        outbound: &OutboundId,
        mail: &Composed,
        (blob, size_bytes, sha256): (&BlobId, i64, &str),
        now: i64,
    ) -> SentCopy {
        let parsed = mail::message::parse(&mail.bytes, &ParseLimits::default());
        let of_kind = |kind| {
            let people = mail.recipients.iter().filter(move |to| to.kind == kind).map(|to| &to.person);
            people.map(|p| Person { name: p.name.clone(), email: p.address.to_string() }).collect::<Vec<_>>()
        };
        let attachments = parsed.attachments.iter().filter(|a| !a.inline).count();
        let facts = Filed {
            message: MessageId::new(now, self.allot.random()),
            mailbox: mailbox.clone(),
            thread: self.thread(team, mailbox, mail).await,
            folder: Folder::Sent,
            blob: blob.clone(),
            size_bytes,
            sha256: sha256.to_owned(),
            attachments: u32::try_from(attachments).unwrap_or(u32::MAX),
            sent_at: Some(now),
            parser_version: PARSER_VERSION,
            keywords: BTreeSet::from(["$seen".to_owned()]),
            outbound: Some(outbound.clone()),
        };
        let sender = mail.return_path.as_ref().unwrap_or(&mail.from.address);
        let personal = Correspondence {
            mail_from: Some(sender.to_string()),
            rcpt_to: mail.recipients.iter().map(|to| to.person.address.to_string()).collect(),
            from: Some(Person { name: mail.from.name.clone(), email: mail.from.address.to_string() }),
            to: of_kind(RecipientKind::To),
            cc: of_kind(RecipientKind::Cc),
            subject: Some(mail.subject.clone()),
            preview: parsed.preview,
            rfc5322_message_id: mail.rfc5322_message_id.clone(),
            references: mail.references.clone(),
            helo: String::new(),
            peer_ip: String::new(),
            verified_domain: None,
        };
        SentCopy { facts, personal }
    }

    /// Returns the thread of a mail in the mailbox that sends it: that of what it answers, or one of its own.
    async fn thread(&self, team: &TeamId, mailbox: &MailboxId, mail: &Composed) -> ThreadId {
        let known = if mail.references.is_empty() {
            Ok(None)
        } else {
            messages::thread_of_references(&self.views, team, mailbox, &mail.references).await
        };
        let known = known.unwrap_or_else(|error| {
            tracing::warn!(error = %error, "a projection does not answer; outgoing mail goes on without it");
            None
        });
        known.unwrap_or_else(|| {
            let root = mail.references.last().unwrap_or(&mail.rfc5322_message_id);
            ThreadId::rooted_at(mailbox, root)
        })
    }
}

impl std::fmt::Debug for Outbox {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Outbox")
    }
}
