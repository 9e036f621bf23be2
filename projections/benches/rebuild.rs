//! How fast views are computed: `cargo bench -p projections --bench rebuild [-- <events>]`.
//!
//! Writes a mixed history through the log on SQLite, then measures, on fresh views in a file: the runner catching up, and
//! a rebuild of all projections and of each one beside the live copy. Prints events per second.
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a bench prints and may fail loudly")]

use std::sync::Arc;
use std::time::Instant;

use domain::id::{BlobId, DomainId, MailboxId, MessageId, Position, TeamId, ThreadId};
use domain::message::{Authentication, Correspondence, Folder, Person, Received};
use domain::{Actor, Command, StreamId, mailbox, message, sending_domain, team};
use eventlog::sqlite::SqliteBackend;
use eventlog::{Allot, BlobStore, EventLog, MasterKey, Options, Submission};
use projections::{ALL, Runner, Views, rebuild};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

const MAILBOXES: usize = 20;
const PRODUCERS: usize = 256;

fn main() {
    let events = std::env::args().filter_map(|arg| arg.parse().ok()).next().unwrap_or(100_000);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(run(events));
}

async fn run(events: usize) {
    let directory = tempfile::tempdir().unwrap();
    let backend = SqliteBackend::open(&directory.path().join("log.db")).await.unwrap();
    let allot = Allot::system();
    let mut options = Options::new(MasterKey::new(&[7; 32]), BlobStore::memory(), allot.entropy());
    options.queue_max = std::num::NonZeroUsize::new(PRODUCERS * 2).unwrap();
    let log = EventLog::open(Arc::new(backend), options).await.unwrap();
    let team = TeamId::new(allot.now(), allot.random());
    let began = Instant::now();
    write_history(&log, &allot, &team, events).await;
    let head = log.head(&team).await.unwrap().position;
    println!("history of {head} events written in {:.1} s", began.elapsed().as_secs_f64());

    let began = Instant::now();
    let mut position: Position = 0;
    loop {
        let page = log.read(&team, position, 1_000).await.unwrap();
        let Some(last) = page.last() else { break };
        position = last.position;
    }
    report("reading and decoding alone (ceiling)", head, began);

    let views = Views::open_sqlite(&directory.path().join("views.db")).await.unwrap();
    let stop = CancellationToken::new();
    let began = Instant::now();
    let runner = Runner::new(log.clone(), views.clone());
    let mut ready = runner.ready();
    let mut running = JoinSet::new();
    running.spawn(runner.run(stop.clone()));
    ready.wait_for(|ready| *ready).await.unwrap();
    report("runner catching up, pages of 1,000", head, began);
    stop.cancel();
    running.join_next().await.unwrap().unwrap().unwrap();

    let began = Instant::now();
    rebuild(&views, &log, None, None, |_| {}).await.unwrap();
    report("rebuild of all projections, nothing differs", head, began);
    for projection in ALL {
        let began = Instant::now();
        rebuild(&views, &log, Some(projection.name()), None, |_| {}).await.unwrap();
        report(&format!("rebuild of {}", projection.name()), head, began);
    }
    let empty = Views::open_sqlite(&directory.path().join("empty.db")).await.unwrap();
    let began = Instant::now();
    rebuild(&empty, &log, None, None, |_| {}).await.unwrap();
    report("rebuild of all projections, everything differs", head, began);
    let began = Instant::now();
    projections::replay(&log, &team, head, &directory.path().join("replay.db"), |_| {}).await.unwrap();
    report("replay into a file", head, began);
}

fn report(what: &str, events: u64, began: Instant) {
    let seconds = began.elapsed().as_secs_f64();
    #[expect(clippy::cast_precision_loss, reason = "a rate to be read by people")]
    let rate = events as f64 / seconds;
    println!("{what:<55} {rate:>10.0} events/s  {seconds:>6.2} s");
}

async fn transact<C: Command>(log: &EventLog, allot: &Allot, team: &TeamId, command: C, fresh: Option<StreamId>) {
    let submission = Submission::new(team.clone(), allot.now(), Actor::Operator, "req_bench", command);
    let submission = fresh.into_iter().fold(submission, Submission::fresh);
    log.transact(submission).await.unwrap();
}

async fn write_history(log: &EventLog, allot: &Allot, team: &TeamId, events: usize) {
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
    let mut producers = JoinSet::new();
    for producer in 0..PRODUCERS {
        let (log, allot, team) = (log.clone(), allot.clone(), team.clone());
        let mailbox = mailboxes[producer % MAILBOXES].clone();
        producers.spawn(async move { produce(&log, &allot, &team, &mailbox, producer, events / PRODUCERS).await });
    }
    while let Some(done) = producers.join_next().await {
        done.unwrap();
    }
}

/// Of a hundred events 56 are arrivals, 34 keyword changes, 8 moves and 2 deletions.
async fn produce(log: &EventLog, allot: &Allot, team: &TeamId, mailbox: &MailboxId, producer: usize, events: usize) {
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
    producer: usize,
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
        sha256: format!("{producer:032x}{n:032x}"),
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
    };
    let sender = format!("person{}@mail.example.net", n % 40);
    let to = format!("box{}@example.org", producer % MAILBOXES);
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
