//! Positions, readers, teams and wake-ups.

use std::collections::BTreeSet;
use std::time::Duration;

use domain::StreamId;
use domain::Versioned;
use domain::mailbox::{Mailbox, ResumeMailbox, SuspendMailbox};
use domain::team::Limits;
use domain::testing::NOW;
use tokio::task::JoinSet;

use super::Store;
use super::support::{Dice, Tenant, assert_whole, open, positions};
use crate::{EventLog, Hint, Recorded, TransactError};

/// Positions are 1, 2, 3 … without holes, and each acknowledged event has its own.
pub async fn positions_are_gapless_under_64_producers_and_rejections(store: &impl Store) {
    const TEAMS: u64 = 12;
    let log = open(store).await;
    let mut tenants = vec![];
    for n in 1..=TEAMS {
        let tenant = Tenant::create(n, &log, Limits { mailboxes: 5, ..Limits::default() }).await;
        log.transact(tenant.submit(tenant.open(1))).await.unwrap();
        tenants.push(tenant);
    }
    let mut producers = JoinSet::new();
    for producer in 0..64u64 {
        let (log, tenants) = (log.clone(), tenants.clone());
        producers.spawn(async move {
            let mut dice = Dice::new(producer + 1);
            let mut acknowledged = vec![];
            for i in 0..16 {
                let tenant = &tenants[usize::try_from(dice.roll(TEAMS)).unwrap()];
                let mailbox = tenant.mailbox(1);
                let done = match dice.roll(5) {
                    0 => log.transact(tenant.submit(SuspendMailbox { mailbox })).await.map(positions).ok(),
                    1 => log.transact(tenant.submit(ResumeMailbox { mailbox })).await.map(positions).ok(),
                    2 => log.transact(tenant.submit(tenant.open(dice.roll(40) + 2))).await.map(positions).ok(),
                    3 => log.transact(tenant.submit(tenant.rename(9, "nobody"))).await.map(positions).ok(),
                    _ => {
                        let rename = tenant.rename(1, &format!("{producer}-{i}"));
                        Some(log.transact(tenant.submit(rename)).await.map(positions).unwrap())
                    }
                };
                acknowledged.extend(done.into_iter().flatten().map(|position| (tenant.n, position)));
            }
            acknowledged
        });
    }
    let mut acknowledged = BTreeSet::new();
    for one in producers.join_all().await.into_iter().flatten() {
        assert!(acknowledged.insert(one), "two events have the position {one:?}");
    }
    for tenant in &tenants {
        let history = tenant.history(&log).await;
        assert!(history.iter().map(|r| r.position).eq(1..=history.len() as u64));
        // Created, domain added, domain verified, mailbox opened: before the producers began.
        let mine: Vec<_> = acknowledged.iter().filter(|(n, _)| *n == tenant.n).map(|(_, p)| *p).collect();
        assert!(mine.iter().copied().eq(5..=history.len() as u64));
        assert_whole(tenant, &log).await;
        let state: Versioned<domain::team::Team> = log.state(&tenant.id, &[StreamId::Team]).await.unwrap();
        assert!(state.mailboxes <= 5);
    }
}

/// A reader who has seen position n can never later see a new event below n: 8 writers on two nodes, readers at the tail.
pub async fn who_has_seen_a_position_never_sees_a_new_event_below_it(store: &impl Store) {
    const EACH: u64 = 25;
    let nodes = [open(store).await, open(store).await];
    let mut tenants = vec![];
    for n in 1..=3 {
        let tenant = Tenant::create(n, &nodes[0], Limits::default()).await;
        nodes[0].transact(tenant.submit(tenant.open(1))).await.unwrap();
        tenants.push(tenant);
    }
    let mut readers = JoinSet::new();
    for (tenant, node) in tenants.iter().flat_map(|tenant| nodes.iter().map(move |node| (tenant.clone(), node.clone())))
    {
        readers.spawn(async move {
            let mut seen: Vec<Recorded> = vec![];
            let until = 4 + 8 * EACH;
            while (seen.len() as u64) < until {
                let after = seen.last().map_or(0, |r| r.position);
                for record in node.read(&tenant.id, after, 7).await.unwrap() {
                    assert_eq!(record.position, seen.len() as u64 + 1);
                    seen.push(record);
                }
                tokio::task::yield_now().await;
            }
            assert_eq!(tenant.history(&node).await, seen);
        });
    }
    let mut writers = JoinSet::new();
    for writer in 0..8u64 {
        let (node, tenants) = (nodes[usize::from(writer % 2 == 0)].clone(), tenants.clone());
        writers.spawn(async move {
            for i in 0..EACH {
                for tenant in &tenants {
                    node.transact(tenant.submit(tenant.rename(1, &format!("{writer}-{i}")))).await.unwrap();
                }
            }
        });
    }
    writers.join_all().await;
    readers.join_all().await;
}

/// Nothing of one team can be read through another, even where every id is the same.
pub async fn teams_never_meet(store: &impl Store) {
    let log = open(store).await;
    let (a, b) = (Tenant::create(1, &log, Limits::default()).await, Tenant::create(2, &log, Limits::default()).await);
    let same = Tenant { id: b.id.clone(), n: 1 };
    let body = log.stage_blob(&a.id, &a.blob(1), "a's body".into()).await.unwrap();
    let secret = crate::SecretText::new(b"a's secret".to_vec());
    let opened = a.submit(a.open(1)).with_blob(a.blob(1), body).with_secret(a.secret(1), "webhook", secret);
    log.transact(opened).await.unwrap();
    // The other team uses the same mailbox id for something else.
    let mut other = b.open(1);
    other.mailbox = a.mailbox(1);
    log.transact(b.submit(other)).await.unwrap();
    log.transact(b.submit(same.rename(1, "b's"))).await.unwrap();

    assert!(a.history(&log).await.iter().all(|r| r.team == a.id));
    assert!(b.history(&log).await.iter().all(|r| r.team == b.id));
    let stream = [StreamId::Mailbox(a.mailbox(1))];
    let of_a: Versioned<Mailbox> = log.state(&a.id, &stream).await.unwrap();
    let of_b: Versioned<Mailbox> = log.state(&b.id, &stream).await.unwrap();
    assert_eq!((of_a.version, of_b.version), (1, 2));
    assert_eq!(of_b.display_name.as_deref(), Some("b's"));
    assert!(log.blob(&a.id, &a.blob(1)).await.unwrap().is_some());
    assert!(log.blob(&b.id, &a.blob(1)).await.unwrap().is_none());
    assert!(log.secret(&a.id, &a.secret(1), "webhook").await.unwrap().is_some());
    assert!(log.secret(&b.id, &a.secret(1), "webhook").await.unwrap().is_none());
    let all = b.history(&log).await.len() as u64;
    assert_eq!(log.erase_personal(&b.id, &(1..=all).collect::<Vec<_>>()).await.unwrap(), 3);
    assert!(a.stored(&log).await.iter().all(|r| r.personal.is_some() == r.personal_digest.is_some()));
}

/// Teams come in the order of their ids, in pages; moved teams oldest first.
pub async fn teams_are_listed_in_order_and_by_their_last_move(store: &impl Store) {
    let log = open(store).await;
    let mut ids = vec![];
    for n in [3, 1, 5, 2, 4] {
        ids.push(Tenant::create(n, &log, Limits::default()).await.id);
    }
    ids.sort();
    let mut listed = log.teams(None, 2).await.unwrap();
    listed.extend(log.teams(listed.last(), 2).await.unwrap());
    listed.extend(log.teams(listed.last(), 2).await.unwrap());
    assert_eq!(listed, ids);
    assert!(log.teams(ids.last(), 2).await.unwrap().is_empty());

    let later = |n: u64, by: i64| {
        let tenant = Tenant::new(n);
        let key = tenant.create_key(1);
        crate::Submission::new(tenant.id, NOW + by, domain::Actor::Operator, "req_later", key)
    };
    log.transact(later(2, 20)).await.unwrap();
    log.transact(later(4, 10)).await.unwrap();
    let moved = log.moved_since(NOW + 1, 10).await.unwrap();
    let expected = [(Tenant::new(4).id, 4, NOW + 10), (Tenant::new(2).id, 4, NOW + 20)];
    assert_eq!(moved, expected);
    // A clock that goes back does not make a team look as if it had not moved.
    log.transact(later(2, 5)).await.err();
    assert_eq!(log.moved_since(NOW + 20, 10).await.unwrap()[0].0, Tenant::new(2).id);
    assert_eq!(log.moved_since(0, 2).await.unwrap().len(), 2);
    assert_eq!(log.last_moved().await.unwrap(), NOW + 20);
    let mut heads: Vec<_> = log.heads_of(&ids).await.unwrap();
    heads.sort_by(|a, b| a.0.cmp(&b.0));
    for ((id, head), wanted) in heads.iter().zip(&ids) {
        assert_eq!((id, *head), (wanted, log.head(wanted).await.unwrap()));
    }
    assert_eq!(heads.len(), ids.len());
}

/// Listeners hear of an append by themselves.
pub async fn a_wake_comes_without_polling(store: &impl Store) {
    let log = open(store).await;
    let tenant = Tenant::new(1);
    let (mut of_team, mut of_all) = (log.wake().team(&tenant.id), log.wake().all());
    let mut of_other = log.wake().team(&Tenant::new(2).id);
    Tenant::create(1, &log, Limits::default()).await;
    let heard = tokio::time::timeout(Duration::from_secs(10), of_team.wait_for(|position| *position >= 3)).await;
    assert_eq!(*heard.unwrap().unwrap(), 3);
    let heard = tokio::time::timeout(Duration::from_secs(10), of_all.next()).await.unwrap();
    assert_eq!(heard, Some(Hint { team: tenant.id.clone(), head: 1, is_own: true }));
    assert!(!of_other.has_changed().unwrap());
    assert_eq!(*of_other.borrow_and_update(), 0);
    // What another node appended is told by whoever noticed it.
    let node: EventLog = open(store).await;
    node.transact(tenant.submit(tenant.open(1))).await.unwrap();
    log.note_moved(&tenant.id, 4);
    of_team.wait_for(|position| *position >= 4).await.unwrap();
    let found = Hint { team: tenant.id.clone(), head: 4, is_own: false };
    while of_all.next().await != Some(found.clone()) {}
    let refused = log.transact(tenant.submit(tenant.open_as(1, 7))).await;
    assert!(matches!(refused, Err(TransactError::Rejected(domain::mailbox::Rejected::Exists))));
}
