//! The team's log in the model: every distinct log is computed once, by the lane's decisions and the store's rule.

use std::collections::HashMap;
use std::hash::{Hash, Hasher};
use std::sync::{Arc, Mutex, PoisonError};

use domain::id::Position;
use domain::message::ReceiveMessage;
use domain::testing::{mailbox_id, opened, received_halves, team_created, team_id, webhook_created, webhook_id};
use domain::webhook_endpoint::{RecordExhausted, Status, WebhookEndpoint};
use domain::{Actor, Command, Event, Moment, StreamId, Versioned};
use eventlog::model::{Decision, Desk, Ledger};
use eventlog::{Answer, AppendError, Idempotency, Outcome, Recorded, Submission};

/// What was appended, in one transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Commit {
    /// A client's request: a mail for one mailbox. Each sending of it brings ids of its own.
    Mail {
        /// The client.
        client: u8,
        /// Which sending of the same request.
        sending: u8,
    },
    /// All attempts at an event failed.
    Exhausted {
        /// The event.
        position: u8,
        /// How many there were.
        attempts: u8,
    },
}

/// What webhooks and streams are told of a position.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Nothing.
    Other,
    /// A mail.
    Mail {
        /// Who asked for it.
        client: u8,
        /// Its mailbox.
        mailbox: u8,
    },
}

/// A log, known by what was appended to it.
#[derive(Debug)]
pub struct Book {
    /// What was appended after the beginning that all logs share.
    pub commits: Vec<Commit>,
    /// What is at each position, from 1.
    pub kinds: Vec<Kind>,
    /// Whether the webhook is on.
    pub is_on: bool,
    /// Whether the positions are 1, 2, 3 … without holes.
    pub is_gapless: bool,
    /// The records, in order.
    pub records: Vec<Recorded>,
    ledger: Ledger,
}

impl Book {
    /// Returns the last position.
    #[must_use]
    pub fn head(&self) -> Position {
        self.kinds.len() as Position
    }

    /// Returns what is at a position.
    #[must_use]
    pub fn kind(&self, position: Position) -> Kind {
        let index = usize::try_from(position).ok().and_then(|position| position.checked_sub(1));
        index.and_then(|index| self.kinds.get(index)).copied().unwrap_or(Kind::Other)
    }
}

/// A shared log; equal to others with the same commits.
#[derive(Debug, Clone)]
pub struct Log(pub Arc<Book>);

impl PartialEq for Log {
    fn eq(&self, other: &Self) -> bool {
        self.0.commits == other.0.commits
    }
}

impl Eq for Log {}

impl Hash for Log {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.commits.hash(state);
    }
}

impl std::ops::Deref for Log {
    type Target = Book;
    fn deref(&self) -> &Book {
        &self.0
    }
}

/// What the caller is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Told {
    /// Its event is at this position.
    At(Position),
    /// Nothing is appended, and that is well.
    Nothing,
    /// It was refused.
    Refused,
}

/// What a submission comes to, decided on what a node knows and written to the log as it is.
#[derive(Debug, Clone)]
pub struct Carried {
    /// What the caller is told, once it is written.
    pub told: Told,
    /// Whether there is anything to write.
    pub appends: bool,
    /// Whether the head must be looked up, since no append would collide.
    pub is_unproven: bool,
    /// The log afterwards; `None` if another writer was first.
    pub next: Option<Log>,
}

/// How many commits of a log a node knew when it decided, and how many when it looked for an earlier answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Knowledge {
    /// Heads and folds are as of so many commits.
    pub folds: u8,
    /// Answers are as of so many commits.
    pub answers: u8,
}

/// Puts an event into a log as it is.
struct Put(Event);

impl Command for Put {
    type State = ();
    type Rejected = std::convert::Infallible;

    fn streams(&self) -> Vec<StreamId> {
        vec![]
    }

    fn decide(&self, (): &(), _: &Moment) -> Result<Vec<Event>, Self::Rejected> {
        Ok(vec![self.0.clone()])
    }
}

type Done = HashMap<(Vec<Commit>, Knowledge, Commit), Arc<Carried>>;

/// All logs that were ever looked at.
pub struct Library {
    desk: Desk,
    /// The mailbox each client writes to.
    mailboxes: Vec<u8>,
    /// A design error: an answer is kept after the append and not in it.
    answers_apart: bool,
    books: Mutex<HashMap<Vec<Commit>, Log>>,
    done: Mutex<Done>,
}

impl std::fmt::Debug for Library {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Library")
    }
}

impl Library {
    /// Returns a library for clients that each write to one mailbox (1 or 2).
    #[must_use]
    pub fn new(mailboxes: Vec<u8>, answers_apart: bool) -> Self {
        Self { desk: Desk::default(), mailboxes, answers_apart, books: Mutex::default(), done: Mutex::default() }
    }

    /// Returns the log that all logs begin with: a team, two mailboxes, a webhook told of everything.
    ///
    /// # Panics
    /// The writer refuses it, which would be a fault of the writer.
    #[must_use]
    pub fn beginning(&self) -> Log {
        if let Some(log) = self.books.lock().unwrap_or_else(PoisonError::into_inner).get(&vec![]) {
            return log.clone();
        }
        let mut ledger = Ledger::default();
        let events = team_created().into_iter().chain([opened(1), opened(2), webhook_created(1)]);
        for event in events {
            let submission = Submission::new(team_id(), 1, Actor::Operator, "model", Put(event));
            let decision = self.desk.decide(submission, &ledger, &ledger);
            ledger.append(&decision.batch).expect("nobody else writes");
        }
        self.keep(vec![], ledger)
    }

    fn keep(&self, commits: Vec<Commit>, ledger: Ledger) -> Log {
        let records = ledger.records(&team_id());
        let kinds = records.iter().map(|record| self.kind(&record.event)).collect();
        let is_gapless = records.iter().map(|record| record.position).eq(1..=ledger.head(&team_id()));
        let webhook: Versioned<WebhookEndpoint> = ledger.state(&team_id(), &[StreamId::Webhook(webhook_id(1))]);
        let is_on = webhook.status == Status::Enabled && !webhook.failing;
        let log = Log(Arc::new(Book { commits: commits.clone(), kinds, is_on, is_gapless, records, ledger }));
        self.books.lock().unwrap_or_else(PoisonError::into_inner).insert(commits, log.clone());
        log
    }

    fn kind(&self, event: &Event) -> Kind {
        let Event::Message(domain::message::Event::Received(e)) = event else { return Kind::Other };
        let number = (0..=u8::MAX).find(|n| domain::testing::message_id(*n) == e.message).unwrap_or(0);
        let client = number / 16;
        Kind::Mail { client, mailbox: self.mailboxes.get(usize::from(client)).copied().unwrap_or(0) }
    }

    fn prefix(&self, log: &Log, commits: u8) -> Log {
        let commits = &log.commits[..usize::from(commits).min(log.commits.len())];
        let found = self.books.lock().unwrap_or_else(PoisonError::into_inner).get(commits).cloned();
        // Every log was a longer one's beginning when it was appended to.
        found.unwrap_or_else(|| self.beginning())
    }

    /// Carries a submission out: decided on what a node knows, written to the log as it is.
    #[must_use]
    pub fn carry_out(&self, log: &Log, knowledge: Knowledge, commit: Commit) -> Arc<Carried> {
        let key = (log.commits.clone(), knowledge, commit);
        if let Some(carried) = self.done.lock().unwrap_or_else(PoisonError::into_inner).get(&key) {
            return Arc::clone(carried);
        }
        let (known, looked_up) = (self.prefix(log, knowledge.folds), self.prefix(log, knowledge.answers));
        let carried = match commit {
            Commit::Mail { client, sending } => {
                let decision = self.desk.decide(self.mail(client, sending), &known.ledger, &looked_up.ledger);
                self.written(log, commit, decision)
            }
            Commit::Exhausted { position, attempts } => {
                let command = RecordExhausted {
                    webhook: webhook_id(1),
                    event_position: position.into(),
                    attempts: attempts.into(),
                };
                let submission = Submission::new(team_id(), 1, Actor::System("webhooks"), "model", command);
                let decision = self.desk.decide(submission, &known.ledger, &looked_up.ledger);
                self.written(log, commit, decision)
            }
        };
        let carried = Arc::new(carried);
        self.done.lock().unwrap_or_else(PoisonError::into_inner).insert(key, Arc::clone(&carried));
        carried
    }

    fn mail(&self, client: u8, sending: u8) -> Submission<ReceiveMessage> {
        let mailbox = self.mailboxes.get(usize::from(client)).copied().unwrap_or(1);
        let (facts, personal) = received_halves(client * 16 + sending, &mailbox_id(mailbox));
        let command = ReceiveMessage { facts, personal, mail_from: None };
        let key = Idempotency { scope: "mail".into(), key: format!("request-{client}"), fingerprint: [client; 32] };
        Submission::new(team_id(), 1, Actor::Smtp, "model", command).idempotent(key, |appended| Answer {
            status: 201,
            headers: vec![],
            body: appended.records.first().map_or(0, |record| record.position).to_string(),
        })
    }

    fn written<C: Command>(&self, log: &Log, commit: Commit, decision: Decision<C>) -> Carried {
        let told = match &decision.outcome {
            Ok(Outcome::Done(appended)) => appended.records.first().map_or(Told::Nothing, |r| Told::At(r.position)),
            Ok(Outcome::Repeated(answer)) => answer.body.parse().map_or(Told::Refused, Told::At),
            Err(_) => Told::Refused,
        };
        let mut ledger = log.ledger.clone();
        let appends = !decision.batch.is_empty();
        let fits = !appends || self.append(&mut ledger, decision.batch).is_ok();
        let next = match (appends, fits) {
            (false, _) => Some(log.clone()),
            (true, false) => None,
            (true, true) => {
                let mut commits = log.commits.clone();
                commits.push(commit);
                Some(self.keep(commits, ledger))
            }
        };
        Carried { told, appends, is_unproven: decision.is_unproven, next }
    }

    fn append(&self, ledger: &mut Ledger, mut batch: eventlog::Batch) -> Result<(), AppendError> {
        if !self.answers_apart {
            return ledger.append(&batch);
        }
        let answers = std::mem::take(&mut batch.answers);
        ledger.append(&batch)?;
        // Whoever came second finds that there is one already, and nothing can be done about it any more.
        drop(ledger.append(&eventlog::Batch { answers, ..eventlog::Batch::default() }));
        Ok(())
    }
}
