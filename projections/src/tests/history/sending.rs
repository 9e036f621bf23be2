//! Wishes about sending: accounts, groups, domains, the suppression list, money, and mail from acceptance to the last
//! that is heard of it.

use domain::id::{GroupId, ProviderId};
use eventlog::EventLog;
use proptest::prelude::*;

use super::{START, Story};

mod mails;
mod setup;

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
    /// The sender is told by mail, in one way or another.
    Notice(u8, u8),
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
        4 => (mail(), 0..4_u8).prop_map(|(n, what)| S::Notice(n, what)),
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
            S::Begin(..) | S::Results(..) | S::FailAttempt(..) | S::Feedback(..) | S::Notice(..) | S::Release => {
                self.tell_of_a_mail(log, op).await;
            }
        }
    }
}
