//! What no sequence of commands can bring about.
#![expect(clippy::unwrap_used, reason = "tests may fail loudly")]

use domain::api_key::{CreateMailboxKey, CreateTeamKey, Kind, Minted, RevokeKey, RotateKey};
use domain::balance::{Balance, PaymentKind, TopUp};
use domain::delivery_group::{CreateGroup, DeleteGroup};
use domain::mailbox::{CloseMailbox, OpenMailbox, ResumeMailbox, SendScope, SuspendMailbox};
use domain::message::{ChangeKeywords, DeleteMessage, Deletion, ReceiveMessage};
use domain::money::Nanos;
use domain::outbound::report::Report;
use domain::outbound::{BeginAttempt, CancelMail, Outbound, Outcome, RecordResults, Results};
use domain::permission::{Permissions, Preset};
use domain::provider::{self, BreakProvider, CreateProvider, DeleteProvider, Settings, SwitchProvider, Transport};
use domain::routing::Routing;
use domain::sending_domain::{AddDomain, Checks, Mode, RecordCheck, RemoveDomain};
use domain::suppression::{Cause, Reason, SuppressAddress, UnsuppressAddress};
use domain::team::{Limits, Team};
use domain::testing::{
    NOW, accept, address_id, domain_id, fold, group_id, key_id, mailbox_id, message_id, outbound_id, payment_id,
    provider_id, received_halves, secret_id, team_id, webhook_id, with_limits,
};
use domain::webhook_endpoint::{
    Backlog, ChangeWebhook, CreateWebhook, DeleteWebhook, RecordExhausted, Subscription, WebhookEndpoint,
};
use domain::{Command, Event, Moment, StreamId, Versioned};
use proptest::prelude::*;

/// A wish of any kind about one of a few entities.
#[derive(Debug, Clone)]
enum Wish {
    CreateKey(u8),
    CreateMailboxKey(u8, u8),
    Rotate(u8, u8, bool),
    RevokeKey(u8),
    Open(u8),
    Suspend(u8),
    Resume(u8),
    Close(u8),
    Receive(u8, u8),
    Keywords(u8, u8, bool),
    Delete(u8, u8, bool),
    CreateWebhook(u8),
    EnableWebhook(u8, bool),
    Exhaust(u8),
    DeleteWebhook(u8),
    CreateProvider(u8),
    SwitchProvider(u8, bool),
    BreakProvider(u8),
    DeleteProvider(u8),
    CreateGroup(u8, u8, bool),
    DeleteGroup(u8),
    AddDomain(u8, u8),
    CheckDomain(u8, bool, i64),
    RemoveDomain(u8),
    Suppress(u8, bool),
    Unsuppress(u8),
    TopUp(u8),
    Accept(u8, u8),
    Begin(u8, u8),
    Taken(u8),
    Cancel(u8),
}

fn sending_wish() -> impl Strategy<Value = Wish> {
    let n = || 1u8..6;
    prop_oneof![
        2 => n().prop_map(Wish::CreateProvider),
        1 => (n(), any::<bool>()).prop_map(|(a, b)| Wish::SwitchProvider(a, b)),
        1 => n().prop_map(Wish::BreakProvider),
        1 => n().prop_map(Wish::DeleteProvider),
        1 => (n(), n(), any::<bool>()).prop_map(|(a, b, c)| Wish::CreateGroup(a, b, c)),
        1 => n().prop_map(Wish::DeleteGroup),
        2 => (n(), n()).prop_map(|(a, b)| Wish::AddDomain(a, b)),
        1 => (n(), any::<bool>(), 0i64..9).prop_map(|(a, b, c)| Wish::CheckDomain(a, b, c)),
        1 => n().prop_map(Wish::RemoveDomain),
        1 => (n(), any::<bool>()).prop_map(|(a, b)| Wish::Suppress(a, b)),
        1 => n().prop_map(Wish::Unsuppress),
        1 => n().prop_map(Wish::TopUp),
        3 => (n(), n()).prop_map(|(a, b)| Wish::Accept(a, b)),
        3 => (n(), n()).prop_map(|(a, b)| Wish::Begin(a, b)),
        3 => n().prop_map(Wish::Taken),
        1 => n().prop_map(Wish::Cancel),
    ]
}

fn wish() -> impl Strategy<Value = Wish> {
    let n = || 1u8..6;
    prop_oneof![
        1 => n().prop_map(Wish::CreateKey),
        1 => (n(), n()).prop_map(|(a, b)| Wish::CreateMailboxKey(a, b)),
        1 => (n(), n(), any::<bool>()).prop_map(|(a, b, c)| Wish::Rotate(a, b, c)),
        1 => n().prop_map(Wish::RevokeKey),
        1 => n().prop_map(Wish::Open),
        1 => n().prop_map(Wish::Suspend),
        1 => n().prop_map(Wish::Resume),
        1 => n().prop_map(Wish::Close),
        1 => (n(), n()).prop_map(|(a, b)| Wish::Receive(a, b)),
        1 => (n(), n(), any::<bool>()).prop_map(|(a, b, c)| Wish::Keywords(a, b, c)),
        1 => (n(), n(), any::<bool>()).prop_map(|(a, b, c)| Wish::Delete(a, b, c)),
        1 => n().prop_map(Wish::CreateWebhook),
        1 => (n(), any::<bool>()).prop_map(|(a, b)| Wish::EnableWebhook(a, b)),
        1 => n().prop_map(Wish::Exhaust),
        1 => n().prop_map(Wish::DeleteWebhook),
        16 => sending_wish(),
    ]
}

/// Decides a command on a history; refusals add nothing. Deciding it again must add nothing either.
fn submit<C: Command>(history: &mut Vec<Event>, command: &C) {
    let at = Moment { team: team_id(), now: NOW };
    let decide = |history: &[Event]| {
        let state: C::State = fold(&command.streams(), history);
        command.decide(&state, &at)
    };
    if let Ok(events) = decide(history) {
        history.extend(events);
        if let Ok(again) = decide(history) {
            assert!(again.is_empty(), "the same command again added {again:?}");
        }
    }
}

fn minted(n: u8) -> Minted {
    Minted { key: key_id(n), lookup: format!("{n:064x}"), prefix: "smx_inf_ab".into(), suffix: "wxyz".into() }
}

fn apply(history: &mut Vec<Event>, wish: &Wish) {
    let permissions = || Permissions::parse(["mailbox.read"]).unwrap();
    match *wish {
        Wish::CreateKey(n) => {
            let (name, permissions) = ("k".into(), Preset::Full.permissions());
            submit(history, &CreateTeamKey { minted: minted(n), kind: Kind::Infrastructure, name, permissions });
        }
        Wish::CreateMailboxKey(n, m) => {
            let (minted, mailbox) = (minted(n + 10), mailbox_id(m));
            submit(history, &CreateMailboxKey { minted, mailbox, name: "k".into(), permissions: permissions() });
        }
        Wish::Rotate(old, new, revoke_old) => {
            submit(history, &RotateKey { old: key_id(old), minted: minted(new + 20), revoke_old });
        }
        Wish::RevokeKey(n) => submit(history, &RevokeKey { key: key_id(n), mailbox: None }),
        Wish::Open(n) => submit(
            history,
            &OpenMailbox {
                mailbox: mailbox_id(n),
                email: mail::address::Address::parse(&format!("box{n}@example.org")).unwrap(),
                display_name: None,
                quota_bytes: 1 << 30,
                send_scope: SendScope::All,
                credential: Some((minted(n + 30), permissions())),
            },
        ),
        Wish::Suspend(n) => submit(history, &SuspendMailbox { mailbox: mailbox_id(n) }),
        Wish::Resume(n) => submit(history, &ResumeMailbox { mailbox: mailbox_id(n) }),
        Wish::Close(n) => submit(history, &CloseMailbox { mailbox: mailbox_id(n) }),
        Wish::Receive(n, m) => {
            let (facts, personal) = received_halves(n, &mailbox_id(m));
            submit(history, &ReceiveMessage { facts, personal, mail_from: None });
        }
        Wish::Keywords(n, m, seen) => {
            let word = std::collections::BTreeSet::from(["$seen".to_owned()]);
            let (add, remove) = if seen { (word, Default::default()) } else { (Default::default(), word) };
            let (message, mailbox) = (message_id(n), mailbox_id(m));
            submit(history, &ChangeKeywords { message, mailbox, add, remove, if_version: None });
        }
        Wish::Delete(n, m, permanent) => {
            let mode = if permanent { Deletion::Permanent } else { Deletion::ToTrash };
            let (message, mailbox) = (message_id(n), mailbox_id(m));
            submit(history, &DeleteMessage { message, mailbox, mode, if_version: None });
        }
        Wish::CreateWebhook(n) => submit(
            history,
            &CreateWebhook {
                webhook: webhook_id(n),
                url: "https://hooks.example.com/x".into(),
                name: None,
                subscription: Subscription { event_types: Default::default(), mailboxes: Default::default() },
                enabled: true,
                secret: secret_id(n),
                deliver_after: None,
            },
        ),
        Wish::EnableWebhook(n, enabled) => submit(
            history,
            &ChangeWebhook {
                webhook: webhook_id(n),
                url: None,
                name: None,
                event_types: None,
                mailboxes: None,
                enabled: Some(enabled),
                backlog: Backlog::Deliver,
                if_version: None,
            },
        ),
        Wish::Exhaust(n) => {
            submit(history, &RecordExhausted { webhook: webhook_id(n), event_position: 1, attempts: 8 });
        }
        Wish::DeleteWebhook(n) => submit(history, &DeleteWebhook { webhook: webhook_id(n) }),
        _ => apply_sending(history, wish),
    }
}

fn checks(right: bool) -> Checks {
    Checks {
        verification_txt: right,
        spf: right,
        dmarc: true,
        dkim: true,
        mx: true,
        mail_from_mx: true,
        mail_from_spf: true,
    }
}

fn apply_sending(history: &mut Vec<Event>, wish: &Wish) {
    match *wish {
        Wish::CreateProvider(n) => {
            let settings =
                Settings { transport: Transport::DirectMx, percentage: None, quotas: provider::Quotas::default() };
            let (provider, identity) = (provider_id(n), provider::Identity::default());
            submit(history, &CreateProvider { provider, settings, identity, managed: false, secret: None });
        }
        Wish::SwitchProvider(n, active) => submit(history, &SwitchProvider { provider: provider_id(n), active }),
        Wish::BreakProvider(n) => {
            let (provider, trouble) = (provider_id(n), provider::Trouble::LoginRefused);
            submit(history, &BreakProvider { provider, trouble, message: "535".into() });
        }
        Wish::DeleteProvider(n) => {
            submit(history, &DeleteProvider { provider: provider_id(n), by: provider::By::Team });
        }
        Wish::CreateGroup(n, member, is_default) => {
            let members = [(provider_id(member), 50)].into();
            submit(history, &CreateGroup { group: group_id(n), name: "g".into(), members, is_default });
        }
        Wish::DeleteGroup(n) => submit(history, &DeleteGroup { group: group_id(n) }),
        Wish::AddDomain(n, name) => {
            let (domain, name) = (domain_id(n + 10), format!("d{name}.example"));
            submit(history, &AddDomain { domain, name, mode: Mode::SendReceive, keys: vec![] });
        }
        Wish::CheckDomain(n, right, later) => {
            let (domain, checked_at) = (domain_id(n + 10), NOW + later);
            submit(
                history,
                &RecordCheck {
                    domain,
                    checks: checks(right),
                    found: vec![],
                    published: vec![],
                    checked_at,
                    if_version: None,
                },
            );
        }
        Wish::RemoveDomain(n) => submit(history, &RemoveDomain { domain: domain_id(n + 10) }),
        Wish::Suppress(n, complaint) => {
            let reason = if complaint { Reason::Complaint } else { Reason::Manual };
            let (address, email) = (address_id(n), format!("r{n}@example.net"));
            let cause = Cause { reason, topic: None };
            submit(history, &SuppressAddress { address, email, cause, expires_at: None, note: None });
        }
        Wish::Unsuppress(n) => {
            submit(history, &UnsuppressAddress { address: address_id(n), email: format!("r{n}@example.net") });
        }
        Wish::TopUp(n) => {
            let (payment, kind) = (payment_id(n), PaymentKind::Purchase);
            submit(history, &TopUp { payment, kind, amount: Nanos(400_000), note: None });
        }
        Wish::Accept(n, to) => submit(history, &accept(n, &[to, to % 5 + 1])),
        Wish::Begin(n, account) => {
            let state: Versioned<Outbound> = fold(&[StreamId::Outbound(outbound_id(n))], history);
            let waiting = state.waiting(NOW);
            submit(history, &BeginAttempt::of(outbound_id(n), &state, provider_id(account), waiting));
        }
        Wish::Taken(n) => {
            let state: Versioned<Outbound> = fold(&[StreamId::Outbound(outbound_id(n))], history);
            let outcome = Outcome::Taken { delivered: true };
            let results = vec![Results { recipients: vec![0, 1], outcome, report: Report::default() }];
            submit(history, &RecordResults::of(outbound_id(n), &state, state.attempts, results));
        }
        Wish::Cancel(n) => submit(history, &CancelMail { outbound: outbound_id(n) }),
        _ => unreachable!("the other wishes are applied before"),
    }
}

fn limits() -> impl Strategy<Value = Limits> {
    (0u32..4, 0u32..3, 0u32..3, 1u32..4, 0u32..4).prop_map(
        |(active_keys, webhooks, mailboxes, domains, sending_accounts)| Limits {
            active_keys,
            webhooks,
            mailboxes,
            domains,
            sending_accounts,
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn no_sequence_of_commands_breaks_an_invariant(limits in limits(), wishes in prop::collection::vec(wish(), 1..80)) {
        let mut history = with_limits(limits);
        let mut revoked = std::collections::BTreeSet::new();
        let mut closed = std::collections::BTreeSet::new();
        let mut destroyed = std::collections::BTreeSet::new();
        for wish in &wishes {
            let before = history.len();
            apply(&mut history, wish);
            for event in &history[before..] {
                let stream = event.stream().unwrap();
                match event.name() {
                    "api_key.revoked" => prop_assert!(revoked.insert(stream), "revoked twice"),
                    "api_key.created" => prop_assert!(!revoked.contains(&stream), "a revoked key came back"),
                    "mailbox.closed" => prop_assert!(closed.insert(stream), "closed twice"),
                    "provider.deleted" | "delivery_group.deleted" | "sending_domain.removed" => {
                        prop_assert!(closed.insert(stream), "deleted twice");
                    }
                    "delivery_group.default_cleared" => {}
                    name if ["provider.", "delivery_group.", "sending_domain."].iter().any(|p| name.starts_with(p)) => {
                        prop_assert!(!closed.contains(&stream), "{name} after deletion");
                    }
                    "message.destroyed" => prop_assert!(destroyed.insert(stream), "destroyed twice"),
                    name if name.starts_with("mailbox.") => prop_assert!(!closed.contains(&stream), "a closed mailbox moved"),
                    name if name.starts_with("message.") => prop_assert!(!destroyed.contains(&stream), "a destroyed message moved"),
                    _ => {}
                }
            }
            let team: Versioned<Team> = fold(&[StreamId::Team], &history);
            prop_assert!(team.active_keys <= limits.active_keys);
            prop_assert!(team.webhooks <= limits.webhooks);
            prop_assert!(team.mailboxes <= limits.mailboxes);
            prop_assert!(team.domains.len() <= usize::try_from(limits.domains).unwrap());
            prop_assert!(team.sending_accounts <= limits.sending_accounts);
            let routing: Versioned<Routing> = fold(&[StreamId::Routing], &history);
            prop_assert_eq!(routing.accounts.len(), usize::try_from(team.sending_accounts).unwrap());
            prop_assert!(routing.default_group.as_ref().is_none_or(|g| routing.groups.contains_key(g)));
            let balance: Versioned<Balance> = fold(&[StreamId::Balance], &history);
            prop_assert!(balance.available().0 >= 0 && balance.held.0 >= 0, "spent what was not there");
        }
        for n in 1..6 {
            let webhook: Versioned<WebhookEndpoint> = fold(&[StreamId::Webhook(webhook_id(n))], &history);
            let since_enabled = history.iter().filter(|e| e.stream() == Some(StreamId::Webhook(webhook_id(n))))
                .map(Event::name).rfind(|name| matches!(*name, "webhook.failing" | "webhook.enabled"));
            prop_assert_eq!(webhook.failing, since_enabled == Some("webhook.failing"));
        }
    }

    #[test]
    fn folds_survive_their_snapshots(wishes in prop::collection::vec(wish(), 1..60)) {
        let mut history = with_limits(Limits::default());
        wishes.iter().for_each(|wish| apply(&mut history, wish));
        for event in &history {
            let stream = event.stream().unwrap();
            let mut entity = domain::Entity::of_stream(&stream);
            history.iter().filter(|e| e.stream().as_ref() == Some(&stream) || e.links().contains(&stream)).for_each(|e| entity.evolve(e));
            let back = domain::Entity::from_json(&stream, &entity.to_json().unwrap()).unwrap();
            prop_assert_eq!(back, entity);
        }
    }
}
