//! What a team sets up before it sends: accounts, groups, domains, the suppression list, money.

use domain::balance::{AdjustBalance, AdjustmentKind, ChangeCreditLimit, ChargeUsage, PaymentKind, TopUp};
use domain::billing::Meter;
use domain::id::{DomainId, SecretId};
use domain::mailbox::{FilterMode, SenderRule};
use domain::money::Nanos;
use domain::provider::{self, By, Identity, Quotas, Settings, Transport};
use domain::routing::{Part, SwitchSending};
use domain::suppression::{Cause, Reason, SuppressAddress, UnsuppressAddress};
use domain::testing::{address_id, payment_id};
use domain::{Actor, delivery_group, sending_domain as sd};
use eventlog::EventLog;

use super::super::super::world::wish;
use super::super::{START, Story, key};
use super::{HOUR, Sending, email_of, group, provider};

fn domain(n: u8) -> DomainId {
    DomainId::new(START, [50 + n; 9])
}

fn signing_key(n: u8) -> sd::NewKey {
    sd::NewKey {
        selector: format!("k{n}"),
        algorithm: if n.is_multiple_of(2) { sd::Algorithm::Rsa } else { sd::Algorithm::Ed25519 },
        public_key: format!("cHVibGlj{n}"),
        secret: SecretId::new(START, [100 + n; 9]),
    }
}

impl Story {
    pub(super) async fn tell_of_accounts(&self, log: &EventLog, op: &Sending) {
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

    pub(super) async fn tell_of_groups(&self, log: &EventLog, op: &Sending) {
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

    pub(super) async fn tell_of_domains(&self, log: &EventLog, op: &Sending) {
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

    pub(super) async fn tell_of_the_list(&self, log: &EventLog, op: &Sending) {
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

    pub(super) async fn tell_of_money(&self, log: &EventLog, op: &Sending) {
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
}
