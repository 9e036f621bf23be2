//! Received mail and storage are charged by the day, each day once.
#![expect(clippy::unwrap_used, reason = "tests may fail loudly")]

use std::sync::Arc;

use dispatcher::charges::Charger;
use domain::balance::Balance;
use domain::billing::{Meter, PriceBook};
use domain::id::{BlobId, DomainId, MailboxId, MessageId, TeamId, ThreadId};
use domain::mailbox::{OpenMailbox, SendScope};
use domain::message::{Correspondence, DeleteMessage, Deletion, Folder, ReceiveMessage, Received};
use domain::money::Nanos;
use domain::sending_domain::{AddVerifiedDomain, Mode};
use domain::team::{CreateTeam, Limits};
use domain::{Actor, Command, StreamId, Versioned};
use eventlog::{Allot, BlobStore, EventLog, MasterKey, MemoryBackend, Options, Submission};
use projections::usage::DAY_MICROS;
use projections::{Runner, Views};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// 2024-10-04: a month of 31 days.
const DAY: i64 = 20_000;
const GIGABYTE: i64 = 1_000_000_000;
/// What a gigabyte costs for one day of such a month.
const GIGABYTE_DAY: i64 = 645_161;

struct World {
    log: EventLog,
    views: Views,
    team: TeamId,
    mailbox: MailboxId,
    /// Ends the read models' runner.
    _tasks: JoinSet<()>,
}

impl World {
    async fn new() -> Self {
        let options = Options::new(MasterKey::new(&[7; 32]), BlobStore::memory(), Allot::system().entropy());
        let log = EventLog::open(Arc::new(MemoryBackend::default()), options).await.unwrap();
        let views = Views::memory().await.unwrap();
        let mut tasks = JoinSet::new();
        let runner = Runner::new(log.clone(), views.clone());
        tasks.spawn(async move { runner.run(CancellationToken::new()).await.unwrap() });
        let team = TeamId::new(1, [1; 9]);
        let world = Self { log, views, team, mailbox: MailboxId::new(1, [2; 9]), _tasks: tasks };
        world.tell(DAY, CreateTeam { name: "Acme".into(), limits: Limits::default() }).await;
        let domain = DomainId::new(1, [3; 9]);
        world.tell(DAY, AddVerifiedDomain { domain, name: "example.org".into(), mode: Mode::SendReceive }).await;
        let open = OpenMailbox {
            mailbox: world.mailbox.clone(),
            email: "box@example.org".parse().unwrap(),
            display_name: None,
            quota_bytes: 1 << 50,
            send_scope: SendScope::All,
            credential: None,
        };
        world.tell(DAY, open).await;
        world
    }

    async fn tell<C: Command>(&self, day: i64, command: C) {
        let at = day * DAY_MICROS + DAY_MICROS / 2;
        let submission = Submission::new(self.team.clone(), at, Actor::Operator, "req_1", command);
        self.log.transact(submission).await.unwrap();
    }

    async fn receive(&self, day: i64, n: u8, size_bytes: i64) -> MessageId {
        let (message, id) = (MessageId::new(1, [n; 9]), format!("{n}@example.net"));
        let facts = Received {
            message: message.clone(),
            mailbox: self.mailbox.clone(),
            thread: ThreadId::rooted_at(&self.mailbox, &id),
            folder: Folder::Inbox,
            blob: BlobId::new(1, [n; 9]),
            size_bytes,
            sha256: format!("{n:064x}"),
            is_spam: false,
            spam_score: 0,
            spam_rules: vec![],
            attachments: 0,
            authentication: domain::message::Authentication::default(),
            sent_at: None,
            own_report: false,
            parser_version: 1,
        };
        let personal = Correspondence {
            mail_from: Some("ann@example.net".into()),
            rcpt_to: vec!["box@example.org".into()],
            from: None,
            to: vec![],
            cc: vec![],
            subject: None,
            preview: String::new(),
            rfc5322_message_id: id,
            references: vec![],
            helo: "mx.example.net".into(),
            peer_ip: "192.0.2.1".into(),
            verified_domain: None,
        };
        self.tell(day, ReceiveMessage { facts, personal, mail_from: None }).await;
        message
    }

    fn charger(&self) -> Charger {
        Charger::new(self.log.clone(), self.views.clone(), Allot::system(), PriceBook::default())
    }

    async fn charged(&self) -> (Nanos, Option<i64>, Option<i64>) {
        let balance: Versioned<Balance> = self.log.state(&self.team, &[StreamId::Balance]).await.unwrap();
        let until = |meter| balance.charged_until.get(&meter).copied();
        (balance.consumed, until(Meter::InboundMessages), until(Meter::StoredBytes))
    }
}

#[tokio::test]
async fn each_day_of_mail_and_storage_is_charged_once() {
    let world = World::new().await;
    let first = world.receive(DAY, 1, GIGABYTE).await;
    world.receive(DAY, 2, GIGABYTE).await;
    world.receive(DAY + 2, 3, 0).await;
    let charger = world.charger();
    assert_eq!(charger.charge(&world.team, DAY - 1).await.unwrap(), 0, "nothing was used before");
    assert_eq!(charger.charge(&world.team, DAY).await.unwrap(), 2);
    let mut owed = 2 * 150_000 + 2 * GIGABYTE_DAY + 1;
    assert_eq!(world.charged().await, (Nanos(owed), Some(DAY), Some(DAY)));
    assert_eq!(charger.charge(&world.team, DAY).await.unwrap(), 0, "the day is closed");
    // Two days are made up for; what is destroyed on the last is not kept at its end.
    let destroy =
        DeleteMessage { message: first, mailbox: world.mailbox.clone(), mode: Deletion::Permanent, if_version: None };
    world.tell(DAY + 2, destroy).await;
    assert_eq!(charger.charge(&world.team, DAY + 2).await.unwrap(), 3);
    owed += 150_000 + (2 * GIGABYTE_DAY + 1) + GIGABYTE_DAY;
    assert_eq!(world.charged().await, (Nanos(owed), Some(DAY + 2), Some(DAY + 2)));
}

#[tokio::test]
async fn two_nodes_that_charge_at_once_charge_each_day_once() {
    let world = World::new().await;
    world.receive(DAY, 1, GIGABYTE).await;
    let (one, two, stop) = (world.charger(), world.charger(), CancellationToken::new());
    let (a, b) = tokio::join!(one.charge_all(DAY + 9, || true, &stop), two.charge_all(DAY + 9, || true, &stop));
    assert!(a.unwrap() && b.unwrap());
    assert_eq!(world.charged().await.0, Nanos(150_000 + 10 * GIGABYTE_DAY));
    assert!(!one.charge_all(DAY + 20, || false, &stop).await.unwrap(), "another node's work is left to it");
    assert_eq!(world.charged().await.2, Some(DAY + 9));
}
