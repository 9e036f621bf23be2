use super::*;
use crate::provider::quota::Range;
use crate::testing::{NOW, given, group_id, outbound_id, provider_id};
use proptest::prelude::*;

fn account(percentage: u8, quota: Option<u32>) -> Account {
    Account {
        transport: Transport::DirectMx,
        managed: false,
        percentage: Some(percentage),
        quotas: Quotas { per_day: quota.map(Range::exactly), ..Quotas::default() },
        active: true,
        broken: false,
        from_email: None,
    }
}

fn routing(accounts: impl IntoIterator<Item = (u8, Account)>) -> Routing {
    let accounts = accounts.into_iter().map(|(n, a)| (provider_id(n), a)).collect();
    Routing { accounts, ..Routing::default() }
}

const ANN: Sender<'static> = Sender { email: "ann@example.org", verified: true };

fn chosen(routing: &Routing, asks: &Asks<'_>, left: &BTreeSet<ProviderId>, seed: u64) -> Choice {
    let (usage, attempt) = (BTreeMap::new(), Attempted { current: None, left, seed });
    routing.choose(asks, &attempt, &Quota { usage: &usage, now: NOW, recipients: 1 })
}

fn all() -> Asks<'static> {
    Asks { scopes: &[], groups: &[], sender: ANN }
}

#[test]
fn weights_are_honoured_over_many_mails() {
    let routing = routing([(1, account(70, None)), (2, account(30, None)), (3, account(0, None))]);
    let mut counts = BTreeMap::new();
    for n in 0..10_000u64 {
        let Choice::Account(c) = chosen(&routing, &all(), &BTreeSet::new(), n) else {
            panic!("an account is eligible")
        };
        *counts.entry(c.account).or_insert(0) += 1;
    }
    assert!((6_800..=7_200).contains(&counts[&provider_id(1)]), "{counts:?}");
    assert!((2_800..=3_200).contains(&counts[&provider_id(2)]), "{counts:?}");
    assert!(!counts.contains_key(&provider_id(3)), "an account without weight is the last resort");
    let left = [provider_id(1), provider_id(2)].into();
    assert!(matches!(chosen(&routing, &all(), &left, 1), Choice::Account(c) if c.account == provider_id(3)));
}

#[test]
fn a_default_group_is_for_mail_that_names_none() {
    let mut routing = routing([(1, account(50, None)), (2, account(50, None))]);
    routing.groups.insert(group_id(1), [(provider_id(2), 10)].into());
    routing.default_group = Some(group_id(1));
    assert!(matches!(chosen(&routing, &all(), &BTreeSet::new(), 5), Choice::Account(c) if c.account == provider_id(2)));
    let scope = SendScope::Providers { provider_public_ids: vec![provider_id(1).to_string()] };
    let asks = Asks { scopes: &[&scope], ..all() };
    assert!(matches!(chosen(&routing, &asks, &BTreeSet::new(), 5), Choice::Account(c) if c.account == provider_id(1)));
}

#[test]
fn an_unverified_sender_may_use_only_an_account_set_up_for_it() {
    let own = Account {
        transport: Transport::CustomSmtp {
            host: "smtp.example.net".into(),
            port: 587,
            security: provider::Security::Starttls,
        },
        from_email: Some("ann@gmail.example".into()),
        ..account(50, None)
    };
    let routing = routing([(1, account(50, None)), (2, own)]);
    let asks = |email| Asks { sender: Sender { email, verified: false }, ..all() };
    let pick = |email| chosen(&routing, &asks(email), &BTreeSet::new(), 1);
    assert!(matches!(pick("ann@gmail.example"), Choice::Account(c) if c.account == provider_id(2)));
    assert_eq!(pick("eve@gmail.example"), Choice::None);
}

#[test]
fn used_up_quotas_say_when_there_is_room_again() {
    let routing = routing([(1, account(50, Some(1)))]);
    let mut used = Usage::default();
    used.add(NOW, 1);
    let (usage, left) = (BTreeMap::from([(provider_id(1), used)]), BTreeSet::new());
    let attempt = Attempted { current: None, left: &left, seed: 1 };
    let choice = routing.choose(&all(), &attempt, &Quota { usage: &usage, now: NOW, recipients: 1 });
    assert!(matches!(choice, Choice::QuotaReached { until } if until > NOW));
}

#[test]
fn a_mail_keeps_its_account_while_it_is_eligible() {
    let routing = routing([(1, account(1, None)), (2, account(99, None))]);
    let (usage, left, current) = (BTreeMap::new(), BTreeSet::new(), provider_id(1));
    for seed in 0..50 {
        let attempt = Attempted { current: Some(&current), left: &left, seed };
        let choice = routing.choose(&all(), &attempt, &Quota { usage: &usage, now: NOW, recipients: 1 });
        assert!(matches!(choice, Choice::Account(c) if c.account == current));
    }
}

#[test]
fn sending_is_stopped_and_goes_on() {
    let mut log = crate::testing::team_created();
    let pause = SwitchSending { part: Part::Team, paused: true };
    log.extend(given(log.clone()).when(pause.clone()).then_events());
    given(log.clone()).when(pause).then_nothing();
    let events = given(log).when(SwitchSending { part: Part::Team, paused: false }).then_events();
    assert_eq!(events[0].name(), "routing.resumed");
}

fn pool() -> impl Strategy<Value = Routing> {
    let account = (0u8..=100, any::<bool>(), any::<bool>(), prop::option::of(1u32..3))
        .prop_map(|(p, active, broken, quota)| Account { active, broken, ..account(p, quota) });
    let group = prop::collection::btree_map((1u8..8).prop_map(provider_id), 0u8..=100, 0..5);
    let groups = prop::collection::btree_map((1u8..4).prop_map(group_id), group, 0..4);
    (prop::collection::btree_map((1u8..8).prop_map(provider_id), account, 0..7), groups, prop::option::of(1u8..4))
        .prop_map(|(accounts, groups, default)| {
            let default_group = default.map(group_id).filter(|g| groups.contains_key(g));
            Routing { accounts, groups, default_group, paused: BTreeSet::new() }
        })
}

fn scope() -> impl Strategy<Value = SendScope> {
    prop_oneof![
        Just(SendScope::All),
        prop::collection::vec(1u8..8, 0..4).prop_map(|ids| SendScope::Providers {
            provider_public_ids: ids.into_iter().map(|n| provider_id(n).to_string()).collect(),
        }),
        prop::collection::vec(1u8..4, 0..3).prop_map(|ids| SendScope::Group {
            group_public_ids: ids.into_iter().map(|n| group_id(n).to_string()).collect(),
        }),
    ]
}

fn allows(routing: &Routing, scope: &SendScope, account: &ProviderId) -> bool {
    match scope {
        SendScope::All => true,
        SendScope::Providers { provider_public_ids } => provider_public_ids.contains(&account.to_string()),
        SendScope::Group { group_public_ids } => {
            routing.groups.iter().any(|(g, m)| group_public_ids.contains(&g.to_string()) && m.contains_key(account))
        }
    }
}

proptest! {
    #[test]
    fn a_mail_walks_through_each_account_in_scope_at_most_once(
        routing in pool(), key in scope(), mailbox in scope(), named in prop::collection::vec(1u8..4, 0..3), seed in any::<u64>(),
        used in prop::collection::btree_map((1u8..8).prop_map(provider_id), 0u32..4, 0..7),
    ) {
        let groups: Vec<_> = named.into_iter().map(group_id).collect();
        let asks = Asks { scopes: &[&key, &mailbox], groups: &groups, sender: ANN };
        let usage: BTreeMap<_, _> = used.into_iter().map(|(id, n)| {
            let mut usage = Usage::default();
            usage.add(NOW, n);
            (id, usage)
        }).collect();
        let mut left = BTreeSet::new();
        for n in 0..10 {
            let attempt = Attempted { current: None, left: &left, seed: seed ^ n };
            let quota = Quota { usage: &usage, now: NOW, recipients: 1 };
            let choice = routing.choose(&asks, &attempt, &quota);
            prop_assert_eq!(&choice, &routing.choose(&asks, &attempt, &quota), "deterministic");
            let Choice::Account(candidate) = choice else { break };
            let account = &routing.accounts[&candidate.account];
            prop_assert!(account.active && !account.broken);
            prop_assert!(allows(&routing, &key, &candidate.account) && allows(&routing, &mailbox, &candidate.account));
            let in_named = groups.iter().any(|g| routing.groups.get(g).is_some_and(|m| m.contains_key(&candidate.account)));
            prop_assert!(groups.is_empty() || in_named);
            let spent = usage.get(&candidate.account).copied().unwrap_or_default();
            prop_assert!(account.quotas.room(&candidate.account, &spent, NOW, 1).is_ok());
            prop_assert!(left.insert(candidate.account), "chosen twice");
        }
    }

    #[test]
    fn a_seed_is_that_of_its_mail_and_attempt(n in any::<u8>(), attempt in any::<u32>()) {
        prop_assert_eq!(seed(&outbound_id(n), attempt), seed(&outbound_id(n), attempt));
        prop_assert_ne!(seed(&outbound_id(n), attempt), seed(&outbound_id(n), attempt.wrapping_add(1)));
    }
}
