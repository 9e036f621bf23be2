//! Random endpoints: whatever they do, each event ends delivered, or exhausted with all its attempts.

use std::collections::BTreeMap;

use domain::id::Position;
use domain::webhook_endpoint::{Backlog, Event as WebhookEvent};
use proptest::prelude::*;
use proptest::test_runner::{Config as Cases, TestRunner};

use super::world::{Manner, SECOND, World};
use crate::reactor::eventually;
use crate::store;

/// What an endpoint does with the nth request for one event.
fn manner(kind: u8, attempt: u32) -> Manner {
    let later = |n: u32| if attempt > n { 200 } else { 500 };
    match kind % 10 {
        0..=3 => Manner::Answer(200),
        4 => Manner::Answer(later(1)),
        5 => Manner::Answer(later(3)),
        6 => Manner::AnswerWith(if attempt > 2 { 200 } else { 429 }, vec![("retry-after", "77".into())], "slow".into()),
        7 => Manner::AnswerWith(if attempt > 2 { 202 } else { 302 }, vec![("location", "/".into())], String::new()),
        8 => Manner::Answer(later(7)),
        // Never: ends exhausted.
        _ => Manner::Answer(503),
    }
}

async fn run(mailboxes: usize, kinds: Vec<(usize, u8)>) {
    let world = World::new().await;
    let receiver = world.receiver(|_| Manner::Answer(200)).await;
    let webhook = world.webhook(&receiver).await;
    let mut boxes = vec![];
    for _ in 0..mailboxes {
        boxes.push(world.mailbox().await);
    }
    let mut of: BTreeMap<Position, u8> = BTreeMap::new();
    let mut order: BTreeMap<String, Vec<Position>> = BTreeMap::new();
    for (n, kind) in kinds {
        let mailbox = &boxes[n % mailboxes];
        let position = world.receive(mailbox).await;
        of.insert(position, kind);
        order.entry(mailbox.to_string()).or_default().push(position);
    }
    let by_position = of.clone();
    receiver.behave(move |seen| manner(by_position[&seen.position], seen.attempt));
    let running = world.start();
    let delivered = || {
        let ok = |s: &&super::world::Seen| matches!(manner(of[&s.position], s.attempt), Manner::Answer(n) | Manner::AnswerWith(n, ..) if n < 300);
        receiver.seen().iter().filter(ok).map(|s| s.position).collect::<std::collections::BTreeSet<_>>()
    };
    let never: Vec<_> = of.iter().filter(|(_, kind)| *kind % 10 == 9).map(|(position, _)| *position).collect();
    eventually("all are delivered, or one is exhausted", || async {
        world.advance(600 * SECOND);
        delivered().len() == of.len() || world.state(&webhook).await.failing
    })
    .await;
    if world.state(&webhook).await.failing {
        let recorded = world.log.read(&world.team, 0, 1_000).await.unwrap();
        for record in recorded {
            if let domain::Event::Webhook(WebhookEvent::DeliveryExhausted(e)) = record.event {
                assert!(never.contains(&e.event_position) && e.attempts == 8);
                let requests = receiver.seen().iter().filter(|s| s.position == e.event_position).count();
                assert_eq!(requests, 8);
            }
        }
        receiver.behave(|_| Manner::Answer(200));
        let before = receiver.count();
        world.switch(&webhook, false, Backlog::Deliver).await;
        world.switch(&webhook, true, Backlog::Deliver).await;
        let rest = of.len() - delivered().len();
        receiver.wait(before + rest).await;
        let again: std::collections::BTreeSet<_> = receiver.seen()[before..].iter().map(|s| s.position).collect();
        assert_eq!(again.len(), rest, "what was left out is delivered, and nothing else");
    } else {
        assert!(never.is_empty());
    }
    running.stop().await;
    let seen = receiver.seen();
    for (mailbox, positions) in &order {
        let mut requests: Vec<_> =
            seen.iter().filter(|s| s.mailbox.as_ref() == Some(mailbox)).map(|s| s.position).collect();
        assert!(requests.is_sorted(), "{mailbox}: {requests:?}");
        requests.dedup();
        assert_eq!(&requests, positions);
    }
}

#[test]
fn each_event_ends_delivered_or_exhausted_and_each_mailbox_in_order() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let mut runner = TestRunner::new(Cases { cases: store::RANDOM_CASES, max_shrink_iters: 20, ..Cases::default() });
    let events = prop::collection::vec((0usize..4, any::<u8>()), 1..24);
    runner
        .run(&(1usize..4, events), |(mailboxes, kinds)| {
            runtime.block_on(run(mailboxes, kinds));
            Ok(())
        })
        .unwrap();
}
