//! From a submitted transaction to an accepted mail: the pipeline behind SMTP submission (RFC 6409).
//!
//! A client shows a key, the same as over HTTP, with the same permissions and the same rate. What it hands over is
//! checked and mended by [`mail::submission`] and goes through [`Outbox`], so that events, holds and the copy in the mailbox
//! are those of every other mail. It answers only after the mail is durable.
//!
//! It deliberately knows no sockets and no SMTP dialogue, and it never sends a bounce: what cannot be taken is refused
//! while the sender still holds it.
//!
//! Invariants:
//! - The envelope and `Sender` name nobody but the author's domain, the team's verified domains or, with a mailbox's key,
//!   the mailbox.
//! - A message that a client repeats after a lost answer, known by its Message-ID, its bytes and its envelope, is one mail
//!   for 24 hours.

mod refusal;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use domain::api_key::Kind;
use domain::id::{OutboundId, RequestId};
use domain::mailbox::Mailbox;
use domain::message::Person;
use domain::outbound::{Event as OutboundEvent, Labels, Notices, Origin, RECIPIENTS_MAX, RecipientKind};
use domain::suppression::Purpose;
use domain::team::Team;
use domain::{Event, StreamId, Versioned};
use eventlog::{Allot, Answer, Appended, EventLog, Idempotency, Outcome};
use mail::address::{Address, ReversePath};
use mail::compose::NamedAddress;
use mail::smtp::Transaction;
use mail::submission::{Mark, Submitted, submit};
use sha2::{Digest, Sha256};

use crate::auth::{Authenticator, Call, Caller, Refused};
use crate::limit::Limiter;
use crate::send::{Addressee, Composed, Outbox, Terms};

pub use refusal::Refusal;

/// From how many octets on a message is read away from other work.
const INLINE_OCTETS_MAX: usize = 64 * 1024;
/// The permission a key needs, as over HTTP.
const PERMISSION: &str = "email.send";
/// Octets kept of a subject (RFC 5322 §2.1.1) and of a name.
const SUBJECT_OCTETS_MAX: usize = 998;
const NAME_OCTETS_MAX: usize = 320;
/// The status kept with the answer to a mail of which every recipient is on the suppression list.
const SUPPRESSED: u16 = 550;
const ACCEPTED: u16 = 250;

/// A mail that was taken over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Taken {
    /// Its id.
    pub outbound: OutboundId,
    /// Whether it had been taken before.
    pub repeated: bool,
}

/// Takes mail from the team's own users. Cheap to clone.
#[derive(Clone)]
pub struct Submitter {
    log: EventLog,
    allot: Allot,
    auth: Authenticator,
    limiter: Limiter,
    outbox: Outbox,
    hostname: Arc<str>,
}

impl std::fmt::Debug for Submitter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Submitter")
    }
}

impl Submitter {
    /// Returns a pipeline that authenticates, counts and stores as the given API does; `hostname` is our name in trace
    /// fields.
    #[must_use]
    pub fn new(app: &crate::App, hostname: &str) -> Self {
        Self {
            log: app.log.clone(),
            allot: app.allot.clone(),
            auth: app.auth.clone(),
            limiter: app.limiter.clone(),
            outbox: app.outbox.clone(),
            hostname: hostname.into(),
        }
    }

    /// Returns who holds a secret, if it may send.
    ///
    /// # Errors
    /// [`Refusal::Credentials`], [`Refusal::NotForSending`], [`Refusal::MailboxDisabled`], or the log is not available.
    pub async fn authenticate(&self, secret: &str) -> Result<Arc<Caller>, Refusal> {
        let caller = self.auth.authenticate(secret).await?;
        let may_send = matches!(caller.kind, Kind::Sending | Kind::Mailbox) && caller.may(PERMISSION);
        if may_send { Ok(caller) } else { Err(Refusal::NotForSending) }
    }

    /// Lets a caller begin a mail, if its key still works, has not sent too much, and may use the envelope sender.
    ///
    /// # Errors
    /// Why not.
    pub async fn begin(&self, caller: &Caller, sender: &ReversePath) -> Result<(), Refusal> {
        self.auth.recheck(caller).await.map_err(|refused| match refused {
            Refused::Unknown => Refusal::Revoked,
            other => other.into(),
        })?;
        let allowance = self.limiter.take(&caller.key, caller.kind, self.allot.now());
        if !allowance.granted {
            return Err(Refusal::TooFast { seconds: allowance.retry_after_seconds });
        }
        // A report that nobody may answer has no place to go from here.
        let sender = sender.address().ok_or(Refusal::NullSender)?;
        match caller.mailbox {
            Some(_) => self.check_identity(caller, sender, sender).await,
            None => Ok(()),
        }
    }

    /// Makes a mail durable and accepted, then says so.
    ///
    /// # Errors
    /// Why it was not taken.
    pub async fn accept(&self, caller: Arc<Caller>, mut transaction: Transaction) -> Result<Taken, Refusal> {
        if transaction.recipients.len() > RECIPIENTS_MAX {
            return Err(Refusal::TooManyRecipients);
        }
        let at = self.allot.now();
        let request = RequestId::new(at, self.allot.random());
        let outbound = OutboundId::new(at, self.allot.random());
        let client_ip: IpAddr = transaction.peer.address.to_canonical();
        let call = Call { caller, request, client_ip: Some(client_ip), at };
        let data = std::mem::take(&mut transaction.data);
        let (submitted, identity) = self.read(at, &outbound, &transaction, data).await?;
        let envelope = transaction.reverse_path.address().ok_or(Refusal::NullSender)?;
        for named in std::iter::once(envelope).chain(&submitted.sender) {
            self.check_identity(&call.caller, named, &submitted.from.address).await?;
        }
        let idempotency = submitted.identified.then(|| Idempotency {
            scope: format!("submission:{}", call.caller.key),
            key: hex::encode(identity),
            fingerprint: identity,
        });
        let terms = Terms {
            origin: Origin::Smtp,
            key: Some(call.caller.key.clone()),
            mailbox: call.caller.mailbox.clone(),
            groups: vec![],
            labels: Labels::default(),
            purpose: Purpose::Transactional,
            topic: None,
            send_at: None,
        };
        let composed = composed(submitted, &transaction);
        let staged = self.outbox.stage(&call.caller.team, outbound.clone(), composed, terms, at).await?;
        let mut submission = call
            .submission(staged.command)
            .fresh(StreamId::Outbound(outbound.clone()))
            .with_blob(staged.blob, staged.bytes);
        if let Some(idempotency) = idempotency {
            let id = outbound.to_string();
            submission = submission.idempotent(idempotency, move |appended| answer(appended, &id));
        }
        match self.log.transact(submission).await? {
            Outcome::Done(appended) if is_suppressed(&appended) => Err(Refusal::Suppressed),
            Outcome::Done(_) => Ok(Taken { outbound, repeated: false }),
            Outcome::Repeated(answer) if answer.status == SUPPRESSED => Err(Refusal::Suppressed),
            Outcome::Repeated(answer) => {
                let outbound = answer.body.parse().map_err(|_| Refusal::Unavailable)?;
                Ok(Taken { outbound, repeated: true })
            }
        }
    }

    /// Reads and mends a message; returns with it what a repetition has in common with it.
    async fn read(
        &self,
        at_micros: i64,
        outbound: &OutboundId,
        transaction: &Transaction,
        data: Vec<u8>,
    ) -> Result<(Submitted, [u8; 32]), Refusal> {
        let mut identity = Sha256::new().chain_update(b"postlog/submission/1\0");
        let recipients: BTreeSet<&str> = transaction.recipients.iter().map(|to| to.path.as_str()).collect();
        for part in std::iter::once(transaction.reverse_path.as_str()).chain(recipients) {
            identity = identity.chain_update(part).chain_update([0]);
        }
        let trace = transaction.received(&self.hostname, outbound.as_str()).to_string();
        let (id, large) = (outbound.to_string(), data.len() > INLINE_OCTETS_MAX);
        let read = move || {
            let submitted = submit(&data, &Mark { id: &id, trace: &trace, at_micros })?;
            Ok((submitted, identity.chain_update(&data).finalize().into()))
        };
        if !large {
            return read();
        }
        // The only ways to fail are that the program is stopping, or a message that defeats the parser.
        tokio::task::spawn_blocking(read).await.map_err(|error| {
            tracing::error!(error = &error as &dyn std::error::Error, "a submitted message could not be read");
            Refusal::Unavailable
        })?
    }

    /// Checks that a caller may put an address beside an author's: in the envelope, in `Sender`.
    async fn check_identity(&self, caller: &Caller, named: &Address, author: &Address) -> Result<(), Refusal> {
        let team = &caller.team;
        if let Some(mailbox) = &caller.mailbox {
            let state: Versioned<Mailbox> = self.log.state(team, &[StreamId::Mailbox(mailbox.clone())]).await?;
            let own = |address: &Address| state.email.as_deref() == Some(address.canonical().as_str());
            // `box+tag@…` is the mailbox, too.
            let is_own = own(named) || named.without_tag().is_some_and(|base| own(&base));
            return if is_own { Ok(()) } else { Err(Refusal::SenderNotAllowed) };
        }
        if named.domain() == author.domain() {
            return Ok(());
        }
        let team: Versioned<Team> = self.log.state(team, &[StreamId::Team]).await?;
        let verified = team.domains.get(named.domain()).is_some_and(|domain| domain.verified);
        if verified { Ok(()) } else { Err(Refusal::SenderNotAllowed) }
    }
}

/// Returns whether nobody is left to send a mail to.
fn is_suppressed<S>(appended: &Appended<S>) -> bool {
    let (mut recipients, mut refused) = (0, 0);
    for record in &appended.records {
        match &record.event {
            Event::Outbound(OutboundEvent::Accepted(e)) => recipients += e.recipients.len(),
            Event::Outbound(OutboundEvent::Rejected(e)) => refused += e.recipients.len(),
            _ => {}
        }
    }
    recipients > 0 && refused == recipients
}

fn answer<S>(appended: &Appended<S>, id: &str) -> Answer {
    let status = if is_suppressed(appended) { SUPPRESSED } else { ACCEPTED };
    Answer { status, headers: vec![], body: id.to_owned() }
}

/// Returns the mail of a message: its recipients are those of the envelope, each where the header names it.
fn composed(submitted: Submitted, transaction: &Transaction) -> Composed {
    let named = |list: &[mail::header::EmailAddress], address: &Address| {
        let canonical = address.canonical();
        list.iter().find(|of| Address::parse(&of.email).is_ok_and(|a| a.canonical() == canonical)).cloned()
    };
    let recipients = transaction.recipients.iter().filter_map(|to| to.path.address()).map(|address| {
        let (found, kind) = match (named(&submitted.to, address), named(&submitted.cc, address)) {
            (Some(to), _) => (Some(to), RecipientKind::To),
            (None, Some(cc)) => (Some(cc), RecipientKind::Cc),
            (None, None) => (None, RecipientKind::Bcc),
        };
        let name = found.and_then(|of| of.name).map(|name| cut(name, NAME_OCTETS_MAX));
        Addressee { person: NamedAddress { address: address.clone(), name }, kind }
    });
    let recipients = recipients.collect();
    let envelope = transaction.reverse_path.address();
    // Where the envelope names the author, nothing was asked for: returns may go where they are recognised best.
    let author = submitted.from.address.canonical();
    let return_path = envelope.filter(|address| address.canonical() != author).cloned();
    let reply_to = submitted.reply_to.into_iter().take(RECIPIENTS_MAX);
    let named = transaction.recipients.iter().filter(|to| to.path.address().is_some());
    let notices = Notices {
        ret: transaction.parameters.ret,
        envid: transaction.parameters.envid.clone(),
        recipients: named.map(|to| to.parameters.clone()).collect(),
    };
    let name = submitted.from.name.map(|name| cut(name, NAME_OCTETS_MAX));
    Composed {
        bytes: submitted.bytes.into(),
        from: NamedAddress { address: submitted.from.address, name },
        return_path,
        recipients,
        notices: (!notices.is_nothing()).then_some(notices),
        reply_to: reply_to.map(|of| Person { name: of.name, email: of.email }).collect(),
        subject: cut(submitted.subject, SUBJECT_OCTETS_MAX),
        rfc5322_message_id: submitted.message_id,
        references: submitted.references,
    }
}

/// Cuts a text at a character, to at most so many octets.
fn cut(mut text: String, octets_max: usize) -> String {
    text.truncate(text.floor_char_boundary(octets_max));
    text
}
