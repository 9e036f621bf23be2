//! Wishes about sending: accounts, groups, domains, the suppression list, money, and mail from acceptance to the last
//! that is heard of it.

use domain::balance::{AdjustBalance, AdjustmentKind, ChangeCreditLimit, ChargeUsage, PaymentKind, TopUp};
use domain::billing::{Meter, PriceBook};
use domain::bounce::{Category, Source, Verdict};
use domain::id::{BlobId, DomainId, GroupId, OutboundId, ProviderId, SecretId, ThreadId};
use domain::mailbox::{FilterMode, SenderRule};
use domain::message::{Filed, Folder, Person};
use domain::money::Nanos;
use domain::outbound::report::Report;
use domain::outbound::{self as ob, Feedback, Outbound, Outcome, Results, SentCopy, Stage, Status};
use domain::provider::{self, By, Identity, Quotas, Settings, Transport};
use domain::routing::{Part, Routing, SwitchSending};
use domain::suppression::{Cause, Purpose, Reason, SuppressAddress, UnsuppressAddress};
use domain::testing::{address_id, payment_id};
use domain::{Actor, StreamId, Versioned, delivery_group, sending_domain as sd};
use eventlog::EventLog;
use proptest::prelude::*;

use super::super::world::wish;
use super::{MAILBOXES, START, Story, correspondence, key};

const HOUR: i64 = 3_600_000_000;
/// How many different mails, addresses and so on there are.
const MAILS: u8 = 10;
const ADDRESSES: u8 = 4;
/// The number of the first mail's copy; a multiple of the number of mailboxes.
pub const COPIES: u8 = 42;

/// One wish about sending, by small numbers.
#[derive(Debug, Clone)]
pub enum Sending {
    CreateProvider(u8, bool),
    ChangeProvider(u8, u8),
    BindTopic(u8, bool),
    SwitchProvider(u8, bool),
    TestProvider(u8, bool),
    BreakProvider(u8),
    DeleteProvider(u8),
    CreateGroup(u8, bool),
    ChangeGroup(u8, u8),
    DeleteGroup(u8),
    AddDomain(u8, bool),
    /// A look at its records, which are all right or not.
    Check(u8, bool),
    AddSigningKey(u8, u8),
    RetireKey(u8, u8),
    ChangeMode(u8),
    DomainRules(u8, u8),
    RemoveDomain(u8),
    Suppress(u8, u8, bool),
    Unsuppress(u8),
    TopUp(u8),
    Adjust(u8),
    CreditLimit(u8),
    ChargeUsage(u8),
    Pause(u8, bool),
    Accept {
        mail: u8,
        recipients: u8,
        as_mailbox: bool,
        bulk: bool,
        later: bool,
        group: bool,
    },
    Control(u8, u8),
    /// An attempt is begun, after waiting for it.
    Begin(u8, u8),
    /// What comes of the attempt that is under way, recipient by recipient.
    Results(u8, u8),
    FailAttempt(u8, u8),
    Feedback(u8, u8, u8),
    /// A day goes by, and what nobody knows is let go.
    Release,
}

/// Returns a wish about sending.
pub fn sending() -> impl Strategy<Value = Sending> {
    use Sending as S;
    let (few, mail, yes) = (|| 0..3_u8, || 0..MAILS, any::<bool>);
    let accounts = prop_oneof![
        4 => (0..5_u8, yes()).prop_map(|(n, managed)| S::CreateProvider(n, managed)),
        1 => (0..5_u8, 0..6_u8).prop_map(|(n, to)| S::ChangeProvider(n, to)),
        5 => (4..5_u8, yes()).prop_map(|(n, bind)| S::BindTopic(n, bind)),
        6 => (0..5_u8, yes()).prop_map(|(n, on)| S::SwitchProvider(n, on)),
        2 => (0..5_u8, yes()).prop_map(|(n, well)| S::TestProvider(n, well)),
        2 => (0..5_u8).prop_map(S::BreakProvider),
        1 => (0..5_u8).prop_map(S::DeleteProvider),
        3 => (0..2_u8, yes()).prop_map(|(n, default)| S::CreateGroup(n, default)),
        4 => (0..2_u8, 0..8_u8).prop_map(|(n, to)| S::ChangeGroup(n, to)),
        1 => (0..2_u8).prop_map(S::DeleteGroup),
        // Whatever waits goes on sooner or later.
        3 => (0..4_u8, 0..3_u8).prop_map(|(part, paused)| S::Pause(part, paused == 0)),
    ];
    let domains = prop_oneof![
        3 => (0..2_u8, yes()).prop_map(|(n, receives)| S::AddDomain(n, receives)),
        16 => (0..2_u8, yes()).prop_map(|(n, right)| S::Check(n, right)),
        2 => (0..2_u8, 2..5_u8).prop_map(|(n, k)| S::AddSigningKey(n, k)),
        2 => (0..2_u8, 0..5_u8).prop_map(|(n, k)| S::RetireKey(n, k)),
        1 => (0..2_u8).prop_map(S::ChangeMode),
        1 => (0..2_u8, 0..4_u8).prop_map(|(n, k)| S::DomainRules(n, k)),
        1 => (0..2_u8).prop_map(S::RemoveDomain),
    ];
    let list_and_money = prop_oneof![
        2 => (0..ADDRESSES, 0..5_u8, yes()).prop_map(|(a, reason, topic)| S::Suppress(a, reason, topic)),
        3 => (0..ADDRESSES).prop_map(S::Unsuppress),
        2 => (0..6_u8).prop_map(S::TopUp),
        1 => (0..6_u8).prop_map(S::Adjust),
        1 => few().prop_map(S::CreditLimit),
        1 => (0..6_u8).prop_map(S::ChargeUsage),
    ];
    let accept = (mail(), 1..5_u8, yes(), yes(), yes(), 0..4_u8).prop_map(
        |(mail, recipients, as_mailbox, bulk, later, group)| S::Accept {
            mail,
            recipients,
            as_mailbox,
            bulk,
            later,
            group: group == 0,
        },
    );
    prop_oneof![
        5 => accounts,
        7 => domains,
        2 => list_and_money,
        6 => accept,
        4 => (mail(), 0..7_u8).prop_map(|(n, what)| S::Control(n, what)),
        8 => (mail(), few()).prop_map(|(n, account)| S::Begin(n, account)),
        8 => (mail(), any::<u8>()).prop_map(|(n, seed)| S::Results(n, seed)),
        1 => (mail(), 0..4_u8).prop_map(|(n, trouble)| S::FailAttempt(n, trouble)),
        6 => (mail(), 0..5_u8, 0..9_u8).prop_map(|(n, recipient, what)| S::Feedback(n, recipient, what)),
        2 => Just(S::Release),
    ]
}

/// Returns what every history of sending begins with: an account, and enough money for a few mails.
pub fn prelude() -> [Sending; 2] {
    [Sending::CreateProvider(0, false), Sending::TopUp(0)]
}

fn provider(n: u8) -> ProviderId {
    ProviderId::new(START, [n; 9])
}

fn group(n: u8) -> GroupId {
    GroupId::new(START, [n; 9])
}

fn domain(n: u8) -> DomainId {
    DomainId::new(START, [50 + n; 9])
}

fn mail(n: u8) -> OutboundId {
    OutboundId::new(START, [n; 9])
}

fn signing_key(n: u8) -> sd::NewKey {
    sd::NewKey {
        selector: format!("k{n}"),
        algorithm: if n.is_multiple_of(2) { sd::Algorithm::Rsa } else { sd::Algorithm::Ed25519 },
        public_key: format!("cHVibGlj{n}"),
        secret: SecretId::new(START, [100 + n; 9]),
    }
}

fn email_of(address: u8) -> String {
    format!("r{address}@example.net")
}

impl Story {
    pub(super) async fn tell_of_sending(&mut self, log: &EventLog, op: &Sending) {
        use Sending as S;
        match op {
            S::CreateProvider(..)
            | S::ChangeProvider(..)
            | S::BindTopic(..)
            | S::SwitchProvider(..)
            | S::TestProvider(..)
            | S::BreakProvider(_)
            | S::DeleteProvider(_) => self.tell_of_accounts(log, op).await,
            S::CreateGroup(..) | S::ChangeGroup(..) | S::DeleteGroup(_) | S::Pause(..) => {
                self.tell_of_groups(log, op).await;
            }
            S::AddDomain(..)
            | S::Check(..)
            | S::AddSigningKey(..)
            | S::RetireKey(..)
            | S::ChangeMode(_)
            | S::DomainRules(..)
            | S::RemoveDomain(_) => self.tell_of_domains(log, op).await,
            S::Suppress(..) | S::Unsuppress(_) => self.tell_of_the_list(log, op).await,
            S::TopUp(_) | S::Adjust(_) | S::CreditLimit(_) | S::ChargeUsage(_) => self.tell_of_money(log, op).await,
            S::Accept { .. } => self.accept(log, op).await,
            S::Control(n, what) => self.control(log, *n, *what).await,
            S::Begin(..) | S::Results(..) | S::FailAttempt(..) | S::Feedback(..) | S::Release => {
                self.tell_of_a_mail(log, op).await;
            }
        }
    }

    async fn tell_of_accounts(&self, log: &EventLog, op: &Sending) {
        let identity = |n: u8| Identity { name: format!("Account {n}"), ..Identity::default() };
        let settings = |percentage: u8, transport| Settings {
            transport,
            percentage: Some(percentage),
            quotas: Quotas { per_day: Some(provider::quota::Range { min: 5, max: 9 }), ..Quotas::default() },
        };
        match op {
            Sending::CreateProvider(n, managed) => {
                let ses = Transport::Ses { region: "eu-west-1".into(), configuration_set: None };
                let (settings, secret) = match n {
                    4 => (settings(100, ses), Some(SecretId::new(START, [89; 9]))),
                    _ => (settings(100, Transport::DirectMx), None),
                };
                let create = provider::CreateProvider {
                    provider: provider(*n),
                    settings,
                    identity: identity(*n),
                    managed: *managed,
                    secret,
                };
                self.operator(log, create).await;
            }
            Sending::ChangeProvider(n, to) => {
                let security = provider::Security::Starttls;
                let transport = Transport::CustomSmtp { host: "smtp.example.net".into(), port: 587, security };
                let change = provider::ChangeProvider {
                    provider: provider(*n),
                    settings: (*to < 4).then(|| settings(to * 10, transport)),
                    identity: (*to > 2).then(|| identity(10 + to)),
                    secret: (*to == 5).then(|| SecretId::new(START, [90 + to; 9])),
                    topic: None,
                    by: By::Operator,
                    if_version: None,
                };
                self.operator(log, change).await;
            }
            Sending::BindTopic(n, true) => {
                let topic = "arn:aws:sns:eu-west-1:123456789012:mail".into();
                self.operator(log, provider::BindTopic { provider: provider(*n), topic }).await;
            }
            Sending::BindTopic(n, false) => {
                let (provider, topic, by) = (provider(*n), Some(None), By::Operator);
                let (settings, identity, secret) = (None, None, None);
                let change =
                    provider::ChangeProvider { provider, settings, identity, secret, topic, by, if_version: None };
                self.operator(log, change).await;
            }
            Sending::SwitchProvider(n, active) => {
                self.operator(log, provider::SwitchProvider { provider: provider(*n), active: *active }).await;
            }
            Sending::TestProvider(n, well) => {
                let test = provider::RecordProviderTest {
                    provider: provider(*n),
                    tested_at: self.now,
                    latency_milliseconds: 12,
                    message: "said".into(),
                    result: if *well { Ok(()) } else { Err(Some(provider::Trouble::LoginRefused)) },
                };
                self.operator(log, test).await;
            }
            Sending::BreakProvider(n) => {
                let trouble = provider::Trouble::AccountSuspended;
                let command = provider::BreakProvider { provider: provider(*n), trouble, message: "no".into() };
                wish(log, &self.team, self.now, Actor::System("outbound"), command).await;
            }
            Sending::DeleteProvider(n) => {
                self.operator(log, provider::DeleteProvider { provider: provider(*n), by: By::Operator }).await;
            }
            _ => unreachable!("not about accounts"),
        }
    }

    async fn tell_of_groups(&self, log: &EventLog, op: &Sending) {
        let members = |n: u8| (0..n % 4).map(|m| (provider(m), 10 * (m + 1))).collect();
        match op {
            Sending::CreateGroup(n, default) => {
                let command = delivery_group::CreateGroup {
                    group: group(*n),
                    name: format!("Group {n}"),
                    members: members(n + 1),
                    is_default: *default,
                };
                self.operator(log, command).await;
            }
            Sending::ChangeGroup(n, to) => {
                let command = delivery_group::ChangeGroup {
                    group: group(*n),
                    name: (*to > 5).then(|| format!("Renamed {to}")),
                    members: (*to < 6).then(|| members(*to)),
                    is_default: (*to % 3 == 0).then_some(*to > 3),
                    if_version: None,
                };
                self.operator(log, command).await;
            }
            Sending::DeleteGroup(n) => {
                self.operator(log, delivery_group::DeleteGroup { group: group(*n) }).await;
            }
            Sending::Pause(part, paused) => {
                let part = match part {
                    0 => Part::Team,
                    1 => Part::Domain(DomainId::new(START, [self.number; 9])),
                    2 => Part::Key(key(0)),
                    _ => Part::Site("example.net".into()),
                };
                self.operator(log, SwitchSending { part, paused: *paused }).await;
            }
            _ => unreachable!("not about groups"),
        }
    }

    async fn tell_of_domains(&self, log: &EventLog, op: &Sending) {
        match op {
            Sending::AddDomain(n, receives) => {
                let command = sd::AddDomain {
                    domain: domain(*n),
                    name: format!("more{n}.team{}.example", self.number),
                    mode: if *receives { sd::Mode::SendReceive } else { sd::Mode::SendOnly },
                    keys: vec![signing_key(0), signing_key(1)],
                };
                self.operator(log, command).await;
            }
            Sending::Check(n, right) => {
                let checks = sd::Checks {
                    verification_txt: true,
                    spf: true,
                    dmarc: true,
                    dkim: *right,
                    mx: true,
                    mail_from_mx: true,
                    mail_from_spf: true,
                };
                let found = sd::Found {
                    kind: sd::records::RecordKind::Spf,
                    name: "example.org".into(),
                    values: vec![format!("v=spf1 ip4:192.0.2.{n} -all")],
                };
                let published = if *right { (0..5).map(|k| format!("k{k}")).collect() } else { vec![] };
                let command = sd::RecordCheck {
                    domain: domain(*n),
                    checks,
                    found: vec![found],
                    published,
                    checked_at: self.now,
                    if_version: None,
                };
                wish(log, &self.team, self.now, Actor::System("dns"), command).await;
            }
            Sending::AddSigningKey(n, k) => {
                self.operator(log, sd::AddSigningKey { domain: domain(*n), key: signing_key(*k) }).await;
            }
            Sending::RetireKey(n, k) => {
                self.operator(log, sd::RetireKey { domain: domain(*n), selector: format!("k{k}") }).await;
            }
            Sending::ChangeMode(n) => {
                let mode = sd::Mode::SendReceive;
                self.operator(log, sd::ChangeMode { domain: domain(*n), mode, if_version: None }).await;
            }
            Sending::DomainRules(n, count) => {
                let rule = |r| SenderRule { pattern: format!("r{r}.example"), note: Some("why".into()) };
                let command = sd::ReplaceDomainRules {
                    domain: domain(*n),
                    mode: FilterMode::Allowlist,
                    rules: (0..*count).map(rule).collect(),
                    if_version: None,
                };
                self.operator(log, command).await;
            }
            Sending::RemoveDomain(n) => self.operator(log, sd::RemoveDomain { domain: domain(*n) }).await,
            _ => unreachable!("not about domains"),
        }
    }

    async fn tell_of_the_list(&self, log: &EventLog, op: &Sending) {
        match op {
            Sending::Suppress(address, reason, topic) => {
                let command = SuppressAddress {
                    address: address_id(*address),
                    email: email_of(*address),
                    cause: Cause { reason: Reason::ALL[usize::from(*reason)], topic: topic.then(|| "news".into()) },
                    expires_at: (*reason == 3).then_some(self.now + HOUR),
                    note: Some("asked for".into()),
                };
                self.operator(log, command).await;
            }
            Sending::Unsuppress(address) => {
                let command = UnsuppressAddress { address: address_id(*address), email: email_of(*address) };
                self.operator(log, command).await;
            }
            _ => unreachable!("not about the list"),
        }
    }

    async fn tell_of_money(&self, log: &EventLog, op: &Sending) {
        let note = Some("a note".to_owned());
        match op {
            Sending::TopUp(n) => {
                let kinds = [PaymentKind::Purchase, PaymentKind::AutoTopUp, PaymentKind::Credit];
                let kind = kinds[usize::from(n % 3)];
                let amount = Nanos(4_000_001 + i64::from(*n));
                self.operator(log, TopUp { payment: payment_id(*n), kind, amount, note }).await;
            }
            Sending::Adjust(n) => {
                let kind = if *n < 3 { AdjustmentKind::Refund } else { AdjustmentKind::Adjustment };
                let amount = Nanos((i64::from(*n) - 3) * 300_007);
                let command = AdjustBalance { payment: payment_id(20 + n), kind, amount, note };
                self.operator(log, command).await;
            }
            Sending::CreditLimit(n) => {
                self.operator(log, ChangeCreditLimit { credit_limit: Nanos(i64::from(*n) * 1_000_000) }).await;
            }
            Sending::ChargeUsage(n) => {
                let command = ChargeUsage {
                    meter: if *n < 3 { Meter::InboundMessages } else { Meter::StoredBytes },
                    day: 19_000 + i64::from(*n),
                    units: 3,
                    amount: Nanos(1_003),
                };
                wish(log, &self.team, self.now, Actor::System("billing"), command).await;
            }
            _ => unreachable!("not about money"),
        }
    }

    async fn accept(&self, log: &EventLog, op: &Sending) {
        let Sending::Accept { mail: n, recipients, as_mailbox, bulk, later, group: in_group } = op else {
            unreachable!("not about acceptance")
        };
        let mailbox = n % MAILBOXES;
        let local = if *as_mailbox { format!("box{mailbox}") } else { "ann".to_owned() };
        let from = mail::address::Address::parse(&format!("{local}@team{}.example", self.number)).unwrap();
        let kinds = [ob::RecipientKind::To, ob::RecipientKind::Cc, ob::RecipientKind::Bcc];
        let recipient = |r: u8| ob::NewRecipient {
            // Every now and then somebody is named twice.
            address: address_id((n + r % 3) % ADDRESSES),
            person: Person { name: (r == 0).then(|| "Bob".into()), email: email_of((n + r % 3) % ADDRESSES) },
            kind: kinds[usize::from(r % 3)],
        };
        let command = ob::AcceptMail {
            outbound: mail(*n),
            origin: if *as_mailbox { ob::Origin::Mailbox } else { ob::Origin::Http },
            key: (*n % 5 == 4).then(|| key(0)),
            mailbox: as_mailbox.then(|| self.mailbox(mailbox)),
            from,
            from_name: None,
            return_path: None,
            reply_to: vec![],
            subject: Some(format!("Offer {n}")),
            rfc5322_message_id: format!("out{n}@example.org"),
            labels: ob::Labels { tags: vec![format!("tag{}", n % 2)], ..ob::Labels::default() },
            recipients: (0..*recipients).map(recipient).collect(),
            notices: None,
            blob: BlobId::new(START, [100 + n; 9]),
            size_bytes: 2_000 + i64::from(*n),
            sha256: format!("{n:064x}"),
            groups: if *in_group { vec![group(n % 3)] } else { vec![] },
            purpose: if *bulk { Purpose::Bulk } else { Purpose::Transactional },
            topic: bulk.then(|| "news".into()),
            forced: *n == 7,
            track_opens: *bulk,
            send_at: later.then_some(self.now + HOUR),
            lifetime_micros: 72 * HOUR,
            prices: PriceBook::default(),
            copy: as_mailbox.then(|| self.sent_copy(*n)),
        };
        wish(log, &self.team, self.now, Actor::ApiKey(key(0)), command).await;
    }

    fn sent_copy(&self, n: u8) -> SentCopy {
        let mailbox = self.mailbox(n % MAILBOXES);
        // A message belongs to the mailbox of its number modulo their count, and so does a mail.
        let number = COPIES + n;
        let facts = Filed {
            message: self.message(number),
            thread: ThreadId::rooted_at(&mailbox, &format!("sent{}", n % 4)),
            mailbox,
            folder: Folder::Sent,
            blob: BlobId::new(START, [100 + n; 9]),
            size_bytes: 2_000 + i64::from(n),
            sha256: format!("{n:064x}"),
            attachments: u32::from(n % 2),
            sent_at: Some(self.now),
            parser_version: 1,
            keywords: ["$seen".to_owned()].into(),
            outbound: Some(mail(n)),
        };
        SentCopy { facts, personal: correspondence(60 + n, 1, n) }
    }

    async fn mail_state(&self, log: &EventLog, n: u8) -> Versioned<Outbound> {
        log.state(&self.team, &[StreamId::Outbound(mail(n))]).await.unwrap()
    }

    async fn control(&self, log: &EventLog, n: u8, what: u8) {
        let outbound = mail(n);
        match what {
            0 => {
                let send_at = self.now + 2 * HOUR;
                self.operator(log, ob::RescheduleMail { outbound, send_at, if_version: None }).await;
            }
            1 => self.operator(log, ob::SwitchMail { outbound, paused: true }).await,
            2 => self.operator(log, ob::SwitchMail { outbound, paused: false }).await,
            3 => self.operator(log, ob::CancelMail { outbound }).await,
            4 => self.operator(log, ob::RetryMail { outbound, resend_uncertain: n.is_multiple_of(2) }).await,
            5 => {
                let reason = ob::PostponeReason::QuotaReached;
                let command = ob::PostponeMail { outbound, reason, until: Some(self.now + HOUR) };
                wish(log, &self.team, self.now, Actor::System("outbound"), command).await;
            }
            _ => {
                let command = ob::RejectWaiting { outbound, reason: ob::RejectReason::NotSendable };
                wish(log, &self.team, self.now, Actor::System("outbound"), command).await;
            }
        }
    }

    async fn tell_of_a_mail(&mut self, log: &EventLog, op: &Sending) {
        let system = Actor::System("outbound");
        match op {
            Sending::Begin(n, account) => {
                let state = self.mail_state(log, *n).await;
                self.now = self.now.max(state.next_due_at().unwrap_or(self.now));
                let due = state.waiting(self.now);
                let routing: Versioned<Routing> = log.state(&self.team, &[StreamId::Routing]).await.unwrap();
                let eligible = state.asking(|asks| routing.eligible(asks, &state.left));
                let Some(chosen) = eligible.get(usize::from(*account) % eligible.len().max(1)) else { return };
                let command = ob::BeginAttempt::of(mail(*n), &state, chosen.account.clone(), due);
                wish(log, &self.team, self.now, system, command).await;
            }
            Sending::Results(n, seed) => {
                let state = self.mail_state(log, *n).await;
                let results = self.results(&state, *seed);
                let command = ob::RecordResults::of(mail(*n), &state, state.attempts, results);
                wish(log, &self.team, self.now, system, command).await;
            }
            Sending::FailAttempt(n, trouble) => {
                let state = self.mail_state(log, *n).await;
                let Some((attempt, open)) = state.open.last_key_value() else { return };
                let troubles = [
                    ob::AttemptTrouble::LoginRefused,
                    ob::AttemptTrouble::Unreachable,
                    ob::AttemptTrouble::Throttled,
                    ob::AttemptTrouble::Abandoned,
                ];
                let command = ob::FailAttempt {
                    outbound: mail(*n),
                    attempt: *attempt,
                    account: open.account.clone(),
                    trouble: troubles[usize::from(*trouble)],
                    leaves_account: *trouble == 0,
                    retry_at: self.now + 1_000_000,
                    report: Report::of("535 no", None),
                };
                wish(log, &self.team, self.now, system, command).await;
            }
            Sending::Feedback(n, recipient, what) => {
                let state = self.mail_state(log, *n).await;
                let Some(to) = state.recipient(*recipient) else { return };
                let command = ob::RecordFeedback {
                    outbound: mail(*n),
                    recipient: *recipient,
                    address: to.address.clone(),
                    feedback: feedback(*what),
                    source: Source::Dsn,
                    report: Report::of("550 5.1.1 nobody", Some("mx.example.net")),
                };
                wish(log, &self.team, self.now, system, command).await;
            }
            Sending::Release => {
                self.now += 25 * HOUR;
                for n in 0..MAILS {
                    wish(log, &self.team, self.now, system.clone(), ob::ReleaseUncertain { outbound: mail(n) }).await;
                }
            }
            _ => unreachable!("not about a mail"),
        }
    }

    /// Returns an outcome for each recipient of the attempt that is under way.
    fn results(&self, state: &Outbound, seed: u8) -> Vec<Results> {
        let flying = |status| matches!(status, Status::InFlight { attempt } if attempt == state.attempts);
        let numbers = (0..5_u8).filter(|n| state.recipient(*n).is_some_and(|r| flying(r.status)));
        let later = Verdict { category: Category::Greylisted, smtp_code: Some(451), enhanced_code: Some((4, 7, 1)) };
        let nobody = Verdict { category: Category::UserUnknown, smtp_code: Some(550), enhanced_code: Some((5, 1, 1)) };
        let full = Verdict { category: Category::MailboxFull, smtp_code: Some(552), enhanced_code: Some((5, 2, 2)) };
        let outcome = |n: u8| match seed.wrapping_add(n.wrapping_mul(3)) % 11 {
            10 => Outcome::Bounced { verdict: full },
            0 | 1 => Outcome::Taken { delivered: false },
            2..=4 => Outcome::Taken { delivered: true },
            5 => Outcome::Deferred { verdict: later, uncertain: false, retry_at: Some(self.now + 60_000_000) },
            6 => Outcome::Deferred { verdict: later, uncertain: false, retry_at: None },
            7 => Outcome::Bounced { verdict: nobody },
            8 => Outcome::Rejected { reason: ob::RejectReason::Provider, verdict: Some(nobody) },
            _ => Outcome::Uncertain { stage: Stage::NoAnswer },
        };
        let report = Report::of("250 2.0.0 queued as 1", Some("mx.example.net")).with_provider_message_id("0100");
        numbers.map(|n| Results { recipients: vec![n], outcome: outcome(n), report: report.clone() }).collect()
    }
}

fn feedback(what: u8) -> Feedback {
    let verdict = |category| Verdict { category, smtp_code: Some(550), enhanced_code: Some((5, 1, 1)) };
    match what {
        0 | 1 => Feedback::Delivered,
        2 => Feedback::Bounced { verdict: verdict(Category::UserUnknown), kind: None },
        3 => Feedback::Bounced { verdict: verdict(Category::MailboxFull), kind: None },
        4 => Feedback::Delayed { verdict: verdict(Category::Network), expires_at: None },
        5 => Feedback::Rejected { reason: ob::RejectReason::Provider },
        6 => Feedback::Complained { complaint: ob::Complaint::Abuse },
        7 => Feedback::Opened { machine: ob::Machine::Unknown },
        _ => Feedback::Unsubscribed { method: ob::UnsubscribeMethod::OneClick },
    }
}
