//! What no sequence of commands can bring about.
#![expect(clippy::unwrap_used, reason = "tests may fail loudly")]

use domain::api_key::{CreateMailboxKey, CreateTeamKey, Kind, Minted, RevokeKey, RotateKey};
use domain::mailbox::{CloseMailbox, OpenMailbox, ResumeMailbox, SendScope, SuspendMailbox};
use domain::message::{ChangeKeywords, DeleteMessage, Deletion, ReceiveMessage};
use domain::permission::{Permissions, Preset};
use domain::team::{Limits, Team};
use domain::testing::{
    NOW, fold, key_id, mailbox_id, message_id, received_halves, secret_id, team_id, webhook_id, with_limits,
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
}

fn wish() -> impl Strategy<Value = Wish> {
    let n = || 1u8..6;
    prop_oneof![
        n().prop_map(Wish::CreateKey),
        (n(), n()).prop_map(|(a, b)| Wish::CreateMailboxKey(a, b)),
        (n(), n(), any::<bool>()).prop_map(|(a, b, c)| Wish::Rotate(a, b, c)),
        n().prop_map(Wish::RevokeKey),
        n().prop_map(Wish::Open),
        n().prop_map(Wish::Suspend),
        n().prop_map(Wish::Resume),
        n().prop_map(Wish::Close),
        (n(), n()).prop_map(|(a, b)| Wish::Receive(a, b)),
        (n(), n(), any::<bool>()).prop_map(|(a, b, c)| Wish::Keywords(a, b, c)),
        (n(), n(), any::<bool>()).prop_map(|(a, b, c)| Wish::Delete(a, b, c)),
        n().prop_map(Wish::CreateWebhook),
        (n(), any::<bool>()).prop_map(|(a, b)| Wish::EnableWebhook(a, b)),
        n().prop_map(Wish::Exhaust),
        n().prop_map(Wish::DeleteWebhook),
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
    }
}

fn limits() -> impl Strategy<Value = Limits> {
    (0u32..4, 0u32..3, 0u32..3).prop_map(|(active_keys, webhooks, mailboxes)| Limits {
        active_keys,
        webhooks,
        mailboxes,
        ..Limits::default()
    })
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
