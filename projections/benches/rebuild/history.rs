//! A mixed history of one team, as large as asked for.

use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Arc;

use domain::id::{BlobId, DomainId, MailboxId, MessageId, TeamId, ThreadId};
use domain::message::{Authentication, Correspondence, Folder, Person, Received};
use domain::{Actor, Command, StreamId, mailbox, message, sending_domain, team};
use eventlog::sqlite::SqliteBackend;
use eventlog::{Allot, BlobStore, EventLog, Failpoints, MasterKey, Options, Submission};
use tokio::task::JoinSet;

const MAILBOXES: usize = 20;
/// How many write at the same time.
pub const PRODUCERS: usize = 256;

/// A team and its mailboxes.
pub struct History {
    log: EventLog,
    allot: Allot,
    /// The team.
    pub team: TeamId,
    /// Where its mails arrive.
    pub mailboxes: Vec<MailboxId>,
}

async fn transact<C: Command>(log: &EventLog, allot: &Allot, team: &TeamId, command: C, fresh: Option<StreamId>) {
    let submission = Submission::new(team.clone(), allot.now(), Actor::Operator, "req_bench", command);
    let submission = fresh.into_iter().fold(submission, Submission::fresh);
    log.transact(submission).await.unwrap();
}

/// Opens a log on SQLite in which all of them can wait at once.
pub async fn open(directory: &Path, allot: &Allot, failpoints: Failpoints) -> EventLog {
    let backend = SqliteBackend::open_reserving(&directory.join("log.db"), 64 << 20).await.unwrap();
    let master_key = MasterKey::new(&[7; 32]);
    let mut options = Options { failpoints, ..Options::new(master_key, BlobStore::memory(), allot.entropy()) };
    options.queue_max = NonZeroUsize::new(PRODUCERS * 2).unwrap();
    EventLog::open(Arc::new(backend), options).await.unwrap()
}

/// Makes a team with its mailboxes.
pub async fn begin(log: &EventLog, allot: &Allot) -> History {
    let team = &TeamId::new(allot.now(), allot.random());
    transact(log, allot, team, team::CreateTeam { name: "Bench".into(), limits: team::Limits::default() }, None).await;
    let domain = sending_domain::AddVerifiedDomain {
        domain: DomainId::new(allot.now(), allot.random()),
        name: "example.org".into(),
        mode: sending_domain::Mode::SendReceive,
    };
    transact(log, allot, team, domain, None).await;
    let mut mailboxes = vec![];
    for n in 0..MAILBOXES {
        let id = MailboxId::new(allot.now(), allot.random());
        let open = mailbox::OpenMailbox {
            mailbox: id.clone(),
            email: mail::address::Address::parse(&format!("box{n}@example.org")).unwrap(),
            display_name: Some(format!("Box {n}")),
            quota_bytes: 1 << 30,
            send_scope: mailbox::SendScope::All,
            credential: None,
        };
        transact(log, allot, team, open, None).await;
        mailboxes.push(id);
    }
    History { log: log.clone(), allot: allot.clone(), team: team.clone(), mailboxes }
}

impl History {
    /// Writes about so many events more.
    pub async fn grow(&self, events: usize) {
        let grown = self.log.head(&self.team).await.unwrap().position;
        let mut producers = JoinSet::new();
        for producer in 0..PRODUCERS {
            let (log, allot, team) = (self.log.clone(), self.allot.clone(), self.team.clone());
            let mailbox = self.mailboxes[producer % MAILBOXES].clone();
            let name = format!("{grown}.{producer}");
            producers.spawn(async move { produce(&log, &allot, &team, &mailbox, &name, events / PRODUCERS).await });
        }
        while let Some(done) = producers.join_next().await {
            done.unwrap();
        }
    }
}

/// Of a hundred events 56 are arrivals, 34 keyword changes, 8 moves and 2 deletions.
async fn produce(log: &EventLog, allot: &Allot, team: &TeamId, mailbox: &MailboxId, producer: &str, events: usize) {
    let mut arrived: Vec<MessageId> = vec![];
    let mut previous: Option<(String, ThreadId)> = None;
    for n in 0..events {
        let pick = |back: usize| arrived.get(arrived.len().saturating_sub(back)).cloned();
        match n % 50 {
            3 | 9 | 15 | 21 => {
                let Some(message) = pick(5) else { continue };
                let delete = message::DeleteMessage {
                    message,
                    mailbox: mailbox.clone(),
                    mode: message::Deletion::ToTrash,
                    if_version: None,
                };
                transact(log, allot, team, delete, None).await;
            }
            33 => {
                let Some(message) = pick(20) else { continue };
                arrived.retain(|id| *id != message);
                let delete = message::DeleteMessage {
                    message,
                    mailbox: mailbox.clone(),
                    mode: message::Deletion::Permanent,
                    if_version: None,
                };
                transact(log, allot, team, delete, None).await;
            }
            k if k % 3 == 1 => {
                let Some(message) = pick(1) else { continue };
                let keyword = if n % 2 == 0 { "$flagged" } else { "$seen" };
                let change = message::ChangeKeywords {
                    message,
                    mailbox: mailbox.clone(),
                    add: [keyword.to_owned()].into(),
                    remove: Default::default(),
                    if_version: None,
                };
                transact(log, allot, team, change, None).await;
            }
            _ => {
                let id = format!("{producer}.{n}@mail.example.net");
                let thread = match &previous {
                    Some((_, thread)) if n % 4 != 0 => thread.clone(),
                    _ => ThreadId::rooted_at(mailbox, &id),
                };
                let references = previous.iter().filter(|_| n % 4 != 0).map(|(id, _)| id.clone()).collect();
                let receive = arrival(allot, mailbox, thread.clone(), id.clone(), references, producer, n);
                let message = receive.facts.message.clone();
                transact(log, allot, team, receive, Some(StreamId::Message(message.clone()))).await;
                arrived.push(message);
                previous = Some((id, thread));
            }
        }
    }
}

fn arrival(
    allot: &Allot,
    mailbox: &MailboxId,
    thread: ThreadId,
    id: String,
    references: Vec<String>,
    producer: &str,
    n: usize,
) -> message::ReceiveMessage {
    let now = allot.now();
    let facts = Received {
        message: MessageId::new(now, allot.random()),
        mailbox: mailbox.clone(),
        thread,
        folder: Folder::Inbox,
        blob: BlobId::new(now, allot.random()),
        size_bytes: 4_096,
        sha256: format!("{n:064x}"),
        is_spam: false,
        spam_score: 3,
        spam_rules: vec!["no_dkim".into()],
        attachments: u32::from(n.is_multiple_of(9)),
        authentication: Authentication {
            spf: "pass".into(),
            dkim: "pass".into(),
            dmarc: "pass".into(),
            arc: "none".into(),
        },
        sent_at: Some(now - 2_000_000),
        parser_version: 1,
        own_report: false,
    };
    let sender = format!("person{}@mail.example.net", n % 40);
    let to = format!("box{}@example.org", n % MAILBOXES);
    let personal = Correspondence {
        mail_from: Some(sender.clone()),
        rcpt_to: vec![to.clone()],
        from: Some(Person { name: Some(format!("Person Number {}", n % 40)), email: sender }),
        to: vec![Person { name: None, email: to }],
        cc: vec![],
        subject: Some(format!("Re: Quarterly figures, part {} of {producer}", n / 4)),
        preview: "Thank you for the figures. I have two questions about the second table: what does the third \
                  column count, and is it before or after refunds? We need it by Thursday."
            .into(),
        rfc5322_message_id: id,
        references,
        helo: "mx.example.net".into(),
        peer_ip: "192.0.2.1".into(),
        verified_domain: Some("example.net".into()),
    };
    message::ReceiveMessage { facts, personal, mail_from: None }
}
