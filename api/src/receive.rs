//! From an accepted mail transaction to events: the pipeline behind every door through which mail comes in.
//!
//! Per recipient: find the mailbox, ask its rules. Per mail: trace fields on top, origin checks, parsing, a spam
//! verdict. Per mailbox: a thread, a body, one command. It answers only after every copy is durable, and a mail that is
//! handed over again within 24 hours is answered the same way without a second event.
//!
//! It deliberately knows no sockets and no SMTP dialogue, and it never sends a bounce: what cannot be taken is refused
//! while the sender still holds it. Reports about mail that was sent from here are taken in, too ([`Returns`]): they become
//! events of that mail, and are never answered.
//!
//! Invariants:
//! - Nothing that is derived from the log can stop a mail: a projection that is late or out of order costs a
//!   thread's precision or a quota's, never the mail.
//! - A mail that cannot be parsed is stored all the same; its view is merely empty.
//! - No copy names a recipient of another mailbox.

mod bounds;
mod commit;
mod content;
mod derived;
mod greylist;
mod origin;
mod rate;
mod recipient;
mod refusal;
mod report;
mod returned;

use std::num::NonZeroUsize;
use std::sync::Arc;

use domain::id::{MailboxId, RequestId, TeamId};
use eventlog::{Allot, EventLog};
use futures_util::future::join_all;
use mail::address::Address;
use mail::auth::Resolver;
use mail::smtp::Transaction;
use projections::Views;
use tokio::sync::Semaphore;

pub use greylist::Times as GreylistTimes;
pub use recipient::Asked;
pub use refusal::Refusal;
pub(crate) use report::{numbers, verdict_of};
pub use returned::{ReportOn, Returns};

use content::Content;
use greylist::Greylist;
use rate::Rates;
use recipient::{Addresses, Usage};

/// How many large mails wait for DNS at the same time.
const LARGE_MAILS_VERIFIED_AT_ONCE: usize = 16;

/// How mail is taken in.
#[derive(Debug, Clone)]
pub struct Options {
    /// Our name in trace fields, in `Authentication-Results` and in minted Message-IDs.
    pub hostname: String,
    /// The spam score, in tenths of a point, from which mail goes to the junk folder.
    pub spam_threshold_tenths: i32,
    /// The mailbox that gets mail for `postmaster` where nobody else does.
    pub postmaster_mailbox: Option<Address>,
    /// The hosted domains that refuse mail which fails its author's DMARC policy of `reject`; `*` means all of them.
    pub dmarc_reject_domains: Vec<String>,
    /// Puts first-time senders off; `None` puts nobody off.
    pub greylist: Option<GreylistTimes>,
    /// How many large mails are parsed at the same time; 0 means one per processor.
    pub large_mails_parsed_at_once: usize,
    /// Mails from one peer to one mailbox per minute; 0 means any number.
    pub mails_per_minute_per_mailbox_and_peer: u32,
    /// Mails to one mailbox per minute; 0 means any number.
    pub mails_per_minute_per_mailbox: u32,
}

impl Options {
    /// Returns whether mail that fails its author's policy is refused to these recipients. It has one answer for all of
    /// them, so everyone's domain must want it; otherwise it is taken and labelled.
    fn refuse_forged(&self, transaction: &Transaction) -> bool {
        let wants = |domain: &str| self.dmarc_reject_domains.iter().any(|wanted| wanted == "*" || wanted == domain);
        !self.dmarc_reject_domains.is_empty()
            && transaction.recipients.iter().all(|to| to.path.address().is_some_and(|a| wants(a.domain())))
    }
}

/// Where mail for a recipient goes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Destination {
    /// The team that owns the mailbox.
    pub team: TeamId,
    /// The mailbox.
    pub mailbox: MailboxId,
}

/// What becomes of mail for a recipient.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Route {
    /// It goes into a mailbox.
    Mailbox(Destination),
    /// It is a report, and is read.
    Report(ReportOn),
}

/// A whole mail with its envelope, whose recipients are known.
#[derive(Debug)]
pub struct Incoming {
    /// The envelope, the peer and the content.
    pub transaction: Transaction,
    /// What becomes of it for each of the transaction's recipients, in their order.
    pub routes: Vec<Route>,
}

/// A mail that is durable in every mailbox it was for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Accepted {
    /// The id of this request: in the events, in the `Received` field and in the reply.
    pub request: RequestId,
    /// How many mailboxes got it.
    pub copies: usize,
    /// How many of them had it already.
    pub duplicates: usize,
}

struct Inner {
    log: EventLog,
    views: Views,
    allot: Allot,
    options: Options,
    addresses: Addresses,
    usage: Usage,
    rates: Rates,
    greylist: Greylist,
    resolver: Option<Arc<dyn Resolver>>,
    parsers: Arc<Semaphore>,
    verifiers: Arc<Semaphore>,
}

/// Takes mail in. Cheap to clone.
#[derive(Clone)]
pub struct Receiver {
    inner: Arc<Inner>,
    returns: Option<Arc<Returns>>,
    /// Asks DNS where mail comes from.
    verifies: bool,
    /// What comes is a report that Postlog wrote.
    own_reports: bool,
}

impl std::fmt::Debug for Receiver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Receiver").field("options", &self.inner.options).finish_non_exhaustive()
    }
}

impl Receiver {
    /// Returns a pipeline that writes to a log. Without a resolver the origin of mail stays unchecked.
    #[must_use]
    pub fn new(
        log: EventLog,
        views: Views,
        allot: Allot,
        options: Options,
        resolver: Option<Arc<dyn Resolver>>,
    ) -> Self {
        let parsers = match options.large_mails_parsed_at_once {
            0 => std::thread::available_parallelism().map_or(1, NonZeroUsize::get),
            n => n,
        };
        let rates = Rates::new(options.mails_per_minute_per_mailbox_and_peer, options.mails_per_minute_per_mailbox);
        let greylist = Greylist::new(options.greylist);
        let inner = Inner {
            log,
            views,
            allot,
            options,
            addresses: Addresses::default(),
            usage: Usage::default(),
            rates,
            greylist,
            resolver,
            parsers: Arc::new(Semaphore::new(parsers)),
            verifiers: Arc::new(Semaphore::new(LARGE_MAILS_VERIFIED_AT_ONCE)),
        };
        Self { inner: Arc::new(inner), returns: None, verifies: true, own_reports: false }
    }

    /// Returns this pipeline with reports about mail that was sent from here: recognised by their return paths, or by what
    /// they name in a mailbox.
    #[must_use]
    pub fn with_returns(self, returns: Returns) -> Self {
        Self { returns: Some(Arc::new(returns)), ..self }
    }

    /// Returns the same pipeline for mail that never left this installation: nobody is asked where it comes from.
    #[must_use]
    pub fn for_local_mail(&self) -> Self {
        Self { verifies: false, ..self.clone() }
    }

    /// Returns the same pipeline for reports that Postlog writes itself about mail that was sent from here: what they tell is
    /// on record, nobody pays for them, and they are no spam.
    #[must_use]
    pub fn for_own_reports(&self) -> Self {
        Self { own_reports: true, ..self.for_local_mail() }
    }

    /// Makes a mail durable in every mailbox it is for, then says so.
    ///
    /// # Errors
    /// Why it was not taken. Some mailboxes may have it even then: the sender will hand it over again, and those
    /// recognise it.
    pub async fn accept(&self, incoming: Incoming) -> Result<Accepted, Refusal> {
        let Incoming { transaction, routes } = incoming;
        let now = self.inner.allot.now();
        let request = RequestId::new(now, self.inner.allot.random());
        let (mut copies, about) = commit::sorted(&transaction, routes);
        let refuses_forged = self.inner.options.refuse_forged(&transaction);
        let mut content = Content::read(&self.inner, self.verifies, transaction, &request).await?;
        if self.own_reports {
            (content.own_report, content.is_spam, content.may_be_report) = (true, false, false);
        }
        if content.is_forged && refuses_forged {
            return Err(Refusal::Forged);
        }
        let reported = match &self.returns {
            Some(returns) if !about.is_empty() => Some(self.record_returned(returns, &content, &about, &request).await),
            _ => None,
        };
        let boxes: Vec<_> = copies.iter().map(|copy| copy.destination.clone()).collect();
        let results = if copies.len() == 1 {
            let copy = copies.remove(0);
            vec![self.inner.commit(copy, &content, &request, now).await]
        } else {
            join_all(copies.into_iter().map(|copy| self.inner.commit(copy, &content, &request, now))).await
        };
        let copies = results.len();
        let mut duplicates = 0;
        let mut refusals = vec![];
        for result in results {
            match result {
                Ok(commit::Written::New) => {}
                Ok(commit::Written::Known) => duplicates += 1,
                Err(refusal) => refusals.push(refusal),
            }
        }
        match reported {
            // Whether a mail is a report is seen only now: where it is in a mailbox already, its sender has its answer.
            Some(Err(Refusal::NoReport)) if copies > 0 => {}
            Some(Err(refusal)) => refusals.push(refusal),
            Some(Ok(_)) | None => {}
        }
        if let Some(refusal) = Refusal::of_all(&refusals, copies.max(1)) {
            return Err(refusal);
        }
        self.look_for_reports(&content, &boxes, &request).await?;
        Ok(Accepted { request, copies, duplicates })
    }

    /// Records what a mail says of mail that was sent as the mailboxes it came to. Should that not be possible now, the
    /// sender repeats it, and the mailboxes recognise it.
    async fn look_for_reports(
        &self,
        content: &Content,
        boxes: &[Destination],
        request: &RequestId,
    ) -> Result<(), Refusal> {
        let Some(returns) = self.returns.as_ref().filter(|_| content.may_be_report) else { return Ok(()) };
        for destination in boxes {
            self.record_reported(returns, content, destination, request).await?;
        }
        Ok(())
    }
}
