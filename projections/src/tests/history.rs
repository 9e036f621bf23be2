//! Histories: random wishes, so that whatever the domain allows comes up.

use domain::id::{BlobId, DomainId, KeyId, MailboxId, MessageId, SecretId, TeamId, ThreadId, WebhookId};
use domain::mailbox::{FilterMode, SendScope, SenderRule};
use domain::message::{Authentication, Correspondence, Folder, Person, Received};
use domain::permission::Preset;
use domain::published::WebhookEventType;
use domain::webhook_endpoint::{Backlog, Subscription};
use domain::{Actor, api_key, mailbox, message, sending_domain, team, webhook_endpoint};
use eventlog::EventLog;
use proptest::prelude::*;

use super::world::wish;

mod sending;

pub use sending::Sending;

/// A time near midnight UTC, microseconds since the Unix epoch.
pub const START: i64 = 1_700_006_400_000_000 - 30_000_000;

/// One wish, by small numbers.
#[derive(Debug, Clone)]
pub enum Op {
    Open(u8),
    Close(u8),
    Suspend(u8),
    Resume(u8),
    Rename(u8, u8),
    Rules(u8, u8),
    CreateKey(u8),
    MailboxKey(u8, u8),
    RotateKey(u8, u8, bool),
    RevokeKey(u8),
    CreateWebhook(u8, bool),
    ChangeWebhook(u8, u8),
    ToggleWebhook(u8, bool, bool),
    RotateSecret(u8, u8),
    TestWebhook(u8),
    Exhaust(u8),
    Gone(u8),
    DeleteWebhook(u8),
    Receive {
        message: u8,
        thread: u8,
        subject: u8,
        refers_to: u8,
        spam: bool,
        attachments: u8,
    },
    Keyword {
        message: u8,
        keyword: u8,
        set: bool,
    },
    Trash(u8),
    Destroy(u8),
    /// Moved to a folder.
    Move(u8, u8),
    /// Handed over once more.
    Again(u8),
    /// About what leaves.
    Send(Sending),
    /// The personal half of some event is erased.
    Erase(u8),
}

/// How many different messages, threads and so on there are.
const MAILBOXES: u8 = 3;
const THREADS: u8 = 4;

pub fn op(erasing: bool) -> impl Strategy<Value = Op> {
    let (mailbox, small) = (0..MAILBOXES, 0..4_u8);
    let receive = (0..40_u8, 0..THREADS, 0..5_u8, 0..40_u8, any::<bool>(), 0..3_u8).prop_map(
        |(message, thread, subject, refers_to, spam, attachments)| Op::Receive {
            message,
            thread,
            subject,
            refers_to,
            spam,
            attachments,
        },
    );
    let rare = prop_oneof![
        mailbox.clone().prop_map(Op::Close),
        mailbox.clone().prop_map(Op::Suspend),
        mailbox.clone().prop_map(Op::Resume),
        (mailbox.clone(), small.clone()).prop_map(|(m, n)| Op::Rename(m, n)),
        (mailbox.clone(), small.clone()).prop_map(|(m, n)| Op::Rules(m, n)),
        small.clone().prop_map(Op::CreateKey),
        (mailbox.clone(), 4..8_u8).prop_map(|(m, k)| Op::MailboxKey(m, k)),
        (0..8_u8, 8..12_u8, any::<bool>()).prop_map(|(a, b, now)| Op::RotateKey(a, b, now)),
        (0..12_u8).prop_map(Op::RevokeKey),
        (small.clone(), any::<bool>()).prop_map(|(w, on)| Op::CreateWebhook(w, on)),
        (small.clone(), small.clone()).prop_map(|(w, n)| Op::ChangeWebhook(w, n)),
        (small.clone(), any::<bool>(), any::<bool>()).prop_map(|(w, on, skip)| Op::ToggleWebhook(w, on, skip)),
        (small.clone(), small.clone()).prop_map(|(w, n)| Op::RotateSecret(w, n)),
        small.clone().prop_map(Op::TestWebhook),
        small.clone().prop_map(Op::Exhaust),
        small.clone().prop_map(Op::Gone),
        small.prop_map(Op::DeleteWebhook),
    ];
    let erase = any::<u8>().prop_map(Op::Erase);
    prop_oneof![
        10 => receive,
        5 => (0..54_u8, 0..3_u8, any::<bool>()).prop_map(|(message, keyword, set)| Op::Keyword { message, keyword, set }),
        3 => (0..54_u8).prop_map(Op::Trash),
        3 => (0..54_u8).prop_map(Op::Destroy),
        3 => (0..54_u8, 0..6_u8).prop_map(|(n, folder)| Op::Move(n, folder)),
        1 => (0..40_u8).prop_map(Op::Again),
        2 => mailbox.prop_map(Op::Open),
        6 => rare,
        30 => sending::sending().prop_map(Op::Send),
        u32::from(erasing) => erase,
    ]
}

/// Returns wishes, each with a step of the clock in seconds: it may go back.
pub fn ops(count: std::ops::Range<usize>, erasing: bool) -> impl Strategy<Value = Vec<(Op, i64)>> {
    let begun = |ops: Vec<_>| sending::prelude().map(|op| (Op::Send(op), 1)).into_iter().chain(ops).collect();
    prop::collection::vec((op(erasing), -3..20_i64), count).prop_map(begun)
}

/// A team and its clock.
#[derive(Debug, Clone)]
pub struct Story {
    pub team: TeamId,
    number: u8,
    now: i64,
}

impl Story {
    /// Begins the story of a team with a domain of its own and one mailbox.
    pub async fn begin(log: &EventLog, number: u8) -> Self {
        let mut story = Self { team: TeamId::new(START, [number; 9]), number, now: START };
        let limits = team::Limits { active_keys: 8, webhooks: 3, ..team::Limits::default() };
        wish(log, &story.team, START, Actor::Operator, team::CreateTeam { name: "Acme".into(), limits }).await;
        let domain = sending_domain::AddVerifiedDomain {
            domain: DomainId::new(START, [number; 9]),
            name: format!("team{number}.example"),
            mode: sending_domain::Mode::SendReceive,
        };
        wish(log, &story.team, START, Actor::Operator, domain).await;
        story.tell(log, &Op::Open(0), 0).await;
        story
    }

    pub fn mailbox(&self, n: u8) -> MailboxId {
        MailboxId::new(START, [n; 9])
    }

    pub fn message(&self, n: u8) -> MessageId {
        MessageId::new(START, [n; 9])
    }

    /// Lets some time pass, then somebody wishes something.
    pub async fn tell(&mut self, log: &EventLog, op: &Op, seconds: i64) {
        self.now += seconds * 1_000_000;
        match op {
            Op::Open(_) | Op::Close(_) | Op::Suspend(_) | Op::Resume(_) | Op::Rename(..) | Op::Rules(..) => {
                self.tell_of_mailboxes(log, op).await
            }
            Op::CreateKey(_) | Op::MailboxKey(..) | Op::RotateKey(..) | Op::RevokeKey(_) => {
                self.tell_of_keys(log, op).await;
            }
            Op::Receive { .. } | Op::Keyword { .. } | Op::Trash(_) | Op::Destroy(_) | Op::Move(..) | Op::Again(_) => {
                self.tell_of_messages(log, op).await;
            }
            Op::Send(op) => self.tell_of_sending(log, op).await,
            Op::Erase(n) => {
                let head = log.head(&self.team).await.unwrap().position;
                log.erase_personal(&self.team, &[u64::from(*n) % (head + 1)]).await.unwrap();
            }
            _ => self.tell_of_webhooks(log, op).await,
        }
    }

    async fn operator<C: domain::Command>(&self, log: &EventLog, command: C) {
        wish(log, &self.team, self.now, Actor::Operator, command).await;
    }

    async fn tell_of_mailboxes(&self, log: &EventLog, op: &Op) {
        match op {
            Op::Open(n) => {
                let minted = minted(self.number, 100 + n);
                let command = mailbox::OpenMailbox {
                    mailbox: self.mailbox(*n),
                    email: mail::address::Address::parse(&format!("box{n}@team{}.example", self.number)).unwrap(),
                    display_name: Some(format!("Box {n}")),
                    quota_bytes: 1 << 30,
                    send_scope: SendScope::All,
                    credential: Some((minted, Preset::ReadOnly.permissions())),
                };
                self.operator(log, command).await;
            }
            Op::Close(n) => self.operator(log, mailbox::CloseMailbox { mailbox: self.mailbox(*n) }).await,
            Op::Suspend(n) => self.operator(log, mailbox::SuspendMailbox { mailbox: self.mailbox(*n) }).await,
            Op::Resume(n) => self.operator(log, mailbox::ResumeMailbox { mailbox: self.mailbox(*n) }).await,
            Op::Rename(n, to) => {
                let command = mailbox::ChangeMailbox {
                    mailbox: self.mailbox(*n),
                    display_name: Some((*to > 0).then(|| format!("Name {to}"))),
                    quota_bytes: Some(i64::from(*to) + 1),
                    send_scope: (*to == 2).then(|| SendScope::Group { group_public_ids: vec!["dgrp_1".into()] }),
                    if_version: None,
                };
                self.operator(log, command).await;
            }
            Op::Rules(n, rule) => {
                let rules = (0..*rule).map(|r| SenderRule { pattern: format!("r{r}.example"), note: None }).collect();
                let command = mailbox::ReplaceSenderRules {
                    mailbox: self.mailbox(*n),
                    mode: FilterMode::Denylist,
                    rules,
                    if_version: None,
                };
                self.operator(log, command).await;
            }
            _ => unreachable!("not about mailboxes"),
        }
    }

    async fn tell_of_keys(&self, log: &EventLog, op: &Op) {
        match op {
            Op::CreateKey(n) => {
                let command = api_key::CreateTeamKey {
                    minted: minted(self.number, *n),
                    kind: api_key::Kind::Infrastructure,
                    name: format!("key {n}"),
                    permissions: Preset::Full.permissions(),
                };
                self.operator(log, command).await;
            }
            Op::MailboxKey(mailbox, n) => {
                let command = api_key::CreateMailboxKey {
                    minted: minted(self.number, *n),
                    mailbox: self.mailbox(*mailbox),
                    name: "app".into(),
                    permissions: Preset::ReadOnly.permissions(),
                };
                self.operator(log, command).await;
            }
            Op::RotateKey(old, new, revoke_old) => {
                let (old, minted) = (key(*old), minted(self.number, *new));
                self.operator(log, api_key::RotateKey { old, minted, revoke_old: *revoke_old }).await;
            }
            Op::RevokeKey(n) => self.operator(log, api_key::RevokeKey { key: key(*n), mailbox: None }).await,
            _ => unreachable!("not about keys"),
        }
    }

    async fn tell_of_webhooks(&self, log: &EventLog, op: &Op) {
        let webhook = |n: &u8| WebhookId::new(START, [*n; 9]);
        let change = |n: &u8| webhook_endpoint::ChangeWebhook {
            webhook: webhook(n),
            url: None,
            name: None,
            event_types: None,
            mailboxes: None,
            enabled: None,
            backlog: Backlog::Deliver,
            if_version: None,
        };
        match op {
            Op::CreateWebhook(n, enabled) => {
                let command = webhook_endpoint::CreateWebhook {
                    webhook: webhook(n),
                    url: format!("https://hooks.example.com/{n}"),
                    name: None,
                    subscription: Subscription {
                        event_types: WebhookEventType::ALL.into(),
                        mailboxes: Default::default(),
                    },
                    enabled: *enabled,
                    secret: SecretId::new(START, [*n; 9]),
                    deliver_after: (*n == 1).then_some(2),
                };
                self.operator(log, command).await;
            }
            Op::ChangeWebhook(n, to) => {
                let command = webhook_endpoint::ChangeWebhook {
                    url: Some(format!("https://hooks.example.com/{n}/{to}")),
                    name: Some((*to > 1).then(|| format!("hook {to}"))),
                    mailboxes: Some((0..*to).map(|m| self.mailbox(m)).collect()),
                    ..change(n)
                };
                self.operator(log, command).await;
            }
            Op::ToggleWebhook(n, on, skip) => {
                let backlog = if *skip { Backlog::Skip } else { Backlog::Deliver };
                let command = webhook_endpoint::ChangeWebhook { enabled: Some(*on), backlog, ..change(n) };
                self.operator(log, command).await;
            }
            Op::RotateSecret(n, to) => {
                let secret = SecretId::new(START, [*to; 9]);
                self.operator(log, webhook_endpoint::RotateSecret { webhook: webhook(n), secret }).await;
            }
            Op::TestWebhook(n) => self.operator(log, webhook_endpoint::TestWebhook { webhook: webhook(n) }).await,
            Op::Exhaust(n) => {
                let command = webhook_endpoint::RecordExhausted { webhook: webhook(n), event_position: 3, attempts: 8 };
                wish(log, &self.team, self.now, Actor::System("webhooks"), command).await;
            }
            Op::Gone(n) => self.operator(log, webhook_endpoint::RecordGone { webhook: webhook(n) }).await,
            Op::DeleteWebhook(n) => self.operator(log, webhook_endpoint::DeleteWebhook { webhook: webhook(n) }).await,
            _ => unreachable!("not about webhooks"),
        }
    }

    async fn tell_of_messages(&self, log: &EventLog, op: &Op) {
        let mailbox = |n: &u8| self.mailbox(n % MAILBOXES);
        match op {
            Op::Receive { message: n, thread, subject, refers_to, spam, attachments } => {
                let mailbox = mailbox(n);
                let facts = Received {
                    message: self.message(*n),
                    mailbox: mailbox.clone(),
                    thread: ThreadId::rooted_at(&mailbox, &format!("t{thread}")),
                    folder: if *spam { Folder::Junk } else { Folder::Inbox },
                    blob: BlobId::new(START, [*n; 9]),
                    size_bytes: 1_000 + i64::from(*n) * 10,
                    sha256: format!("{n:064x}"),
                    is_spam: *spam,
                    spam_score: i64::from(*spam) * 60,
                    spam_rules: vec![],
                    attachments: u32::from(*attachments),
                    authentication: Authentication::default(),
                    sent_at: (!n.is_multiple_of(4)).then(|| START - i64::from(*n) * 1_000_000),
                    parser_version: 1,
                    own_report: false,
                };
                let receive = message::ReceiveMessage {
                    facts,
                    personal: correspondence(*n, *subject, *refers_to),
                    mail_from: None,
                };
                wish(log, &self.team, self.now, Actor::Smtp, receive).await;
            }
            Op::Keyword { message: n, keyword, set } => {
                let keyword = ["$seen", "$flagged", "später"][usize::from(*keyword)].to_owned();
                let (add, remove) = if *set { (Some(keyword), None) } else { (None, Some(keyword)) };
                let command = message::ChangeKeywords {
                    message: self.message(*n),
                    mailbox: mailbox(n),
                    add: add.into_iter().collect(),
                    remove: remove.into_iter().collect(),
                    if_version: None,
                };
                wish(log, &self.team, self.now, Actor::ApiKey(key(0)), command).await;
            }
            Op::Trash(n) | Op::Destroy(n) => {
                let mode =
                    if matches!(op, Op::Trash(_)) { message::Deletion::ToTrash } else { message::Deletion::Permanent };
                let (message, mailbox) = (self.message(*n), mailbox(n));
                let command = message::DeleteMessage { message, mailbox, mode, if_version: None };
                wish(log, &self.team, self.now, Actor::ApiKey(key(0)), command).await;
            }
            Op::Move(n, folder) => {
                let keywords = message::ChangeKeywords {
                    message: self.message(*n),
                    mailbox: mailbox(n),
                    add: [format!("moved{folder}")].into(),
                    remove: Default::default(),
                    if_version: None,
                };
                let folder = Some(Folder::ALL[usize::from(*folder) % Folder::ALL.len()]);
                let command = message::ChangeMessage { keywords, folder };
                wish(log, &self.team, self.now, Actor::ApiKey(key(0)), command).await;
            }
            Op::Again(n) => {
                let command = message::RecordDuplicate { message: self.message(*n), mailbox: mailbox(n) };
                wish(log, &self.team, self.now, Actor::Smtp, command).await;
            }
            _ => unreachable!("not about messages"),
        }
    }
}

fn key(n: u8) -> KeyId {
    KeyId::new(START, [n; 9])
}

/// The public side of a team's secret; digests are unique in the whole installation.
fn minted(team: u8, n: u8) -> api_key::Minted {
    api_key::Minted {
        key: key(n),
        lookup: format!("{team:032x}{n:032x}"),
        prefix: "smx_inf_ab".into(),
        suffix: "wxyz".into(),
    }
}

fn correspondence(n: u8, subject: u8, refers_to: u8) -> Correspondence {
    let subjects = [None, Some("Größe der Kiste"), Some("Re: größe der kiste"), Some("100% _sure_!"), Some("")];
    let sender = format!("Anna{}@Example.NET", n % 5);
    Correspondence {
        mail_from: Some(sender.clone()),
        rcpt_to: vec![format!("box{}@example.org", n % MAILBOXES)],
        from: (!n.is_multiple_of(7))
            .then(|| Person { name: n.is_multiple_of(2).then(|| "Änna".into()), email: sender }),
        to: vec![Person { name: None, email: format!("box{}@example.org", n % MAILBOXES) }],
        cc: (0..n % 3)
            .map(|c| Person { name: Some(format!("Copy {c}")), email: format!("c{c}@example.com") })
            .collect(),
        subject: subjects[usize::from(subject)].map(str::to_owned),
        preview: format!("Hello number {n}, \"quoted\"\\ and\u{1F4E6}"),
        rfc5322_message_id: format!("m{n}@example.net"),
        references: if refers_to < 12 {
            vec![format!("m{refers_to}@example.net"), format!("shared{refers_to}@example.net")]
        } else {
            vec![]
        },
        helo: "mx.example.net".into(),
        peer_ip: "192.0.2.1".into(),
        verified_domain: n.is_multiple_of(2).then(|| "example.net".into()),
    }
}

/// Tells a whole story to a new log.
pub async fn told(log: &EventLog, number: u8, ops: &[(Op, i64)]) -> Story {
    let mut story = Story::begin(log, number).await;
    for (op, seconds) in ops {
        story.tell(log, op, *seconds).await;
    }
    story
}

/// What no wish of these histories leads to is not proven by them.
#[test]
fn histories_hold_every_event_of_sending() {
    use proptest::strategy::ValueTree as _;
    let mut random = proptest::test_runner::TestRunner::deterministic();
    let mut seen = std::collections::BTreeSet::new();
    let wishes = || prop::collection::vec((sending::sending().prop_map(Op::Send), 1..20_i64), 200..300);
    super::properties::block_on(async {
        for _ in 0..60 {
            let begun = sending::prelude().map(|op| (Op::Send(op), 1)).into_iter();
            let ops: Vec<_> = begun.chain(wishes().new_tree(&mut random).unwrap().current()).collect();
            let log = super::world::memory_log().await;
            let team = told(&log, 1, &ops).await.team;
            seen.extend(log.read(&team, 0, 10_000).await.unwrap().iter().map(|record| record.event.name().to_owned()));
        }
    });
    let parts =
        ["provider.", "delivery_group.", "sending_domain.", "suppression.", "balance.", "outbound.", "routing."];
    let all = domain::testing::one_of_each();
    let missing: Vec<_> = all
        .iter()
        .map(domain::Event::name)
        .filter(|name| parts.iter().any(|part| name.starts_with(part)) && !seen.contains(*name))
        .collect();
    assert!(missing.is_empty(), "{missing:?}");
}
