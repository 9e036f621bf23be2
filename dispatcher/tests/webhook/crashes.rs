//! Whatever the moment of a crash, every event arrives, and only what was not written down arrives again.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use projections::webhook_attempts::AttemptResult;

use super::world::{Manner, SECOND, Seen, World, config, places};
use crate::reactor::eventually;
use crate::store;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crash_before_anything_was_sent_loses_nothing() {
    let world = World::new().await;
    let receiver = world.receiver(|_| Manner::Answer(200)).await;
    let webhook = world.webhook(&receiver).await;
    let mailbox = world.mailbox().await;
    let running = world.start();
    let first = world.receive(&mailbox).await;
    world.written(&webhook, 1).await;
    running.crash().await;
    let second = world.receive(&mailbox).await;
    world.start().crash().await;
    let running = world.start();
    assert_eq!(places(&receiver.wait(2).await), [(first, 1), (second, 1)]);
    world.written(&webhook, 2).await;
    running.stop().await;
    assert_eq!(receiver.count(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_on_its_way_at_a_crash_is_sent_again_and_nothing_else() {
    let world = World::new().await;
    let (slow, quick) = (world.mailbox().await, world.mailbox().await);
    let of = slow.to_string();
    let receiver = world
        .receiver(move |seen| match seen.mailbox.as_deref() == Some(of.as_str()) {
            true => Manner::Hang,
            false => Manner::Answer(200),
        })
        .await;
    let webhook = world.webhook(&receiver).await;
    let running = world.start();
    let hanging = world.receive(&slow).await;
    for _ in 0..5 {
        world.receive(&quick).await;
    }
    receiver.wait(6).await;
    world.written(&webhook, 5).await;
    running.crash().await;
    receiver.behave(|_| Manner::Answer(200));
    let running = world.start();
    let seen = receiver.wait(7).await;
    assert_eq!(seen[6].position, hanging);
    let first = seen.iter().find(|s| s.position == hanging).unwrap();
    assert_eq!((&first.id, &first.body, first.attempt), (&seen[6].id, &seen[6].body, seen[6].attempt));
    world.written(&webhook, 6).await;
    running.stop().await;
    assert_eq!(receiver.count(), 7, "{:?}", places(&receiver.seen()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_answered_but_not_written_down_is_sent_again_in_order() {
    let mut config = config();
    (config.flush_milliseconds, config.flush_busy_milliseconds) = (5_000, 5_000);
    let world = World::with(config).await;
    let receiver = world.receiver(|_| Manner::Answer(200)).await;
    let webhook = world.webhook(&receiver).await;
    let mailbox = world.mailbox().await;
    let running = world.start();
    let mut sent = vec![];
    for _ in 0..4 {
        sent.push(world.receive(&mailbox).await);
    }
    receiver.wait(4).await;
    running.crash().await;
    let running = world.start();
    let seen = receiver.wait(8).await;
    assert_eq!(seen.iter().map(|s| s.position).collect::<Vec<_>>(), [sent.clone(), sent].concat());
    running.stop().await;
    assert_eq!(world.attempts(&webhook).await.len(), 4, "stopping writes everything down");
    let running = world.start();
    let more = world.receive(&mailbox).await;
    assert_eq!(receiver.wait(9).await[8].position, more);
    running.stop().await;
    assert_eq!(receiver.count(), 9);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn retries_survive_a_restart_with_their_schedule() {
    let world = World::new().await;
    let receiver = world.receiver(|_| Manner::Answer(500)).await;
    let webhook = world.webhook(&receiver).await;
    let mailbox = world.mailbox().await;
    world.receive(&mailbox).await;
    for (n, wait) in [0, 30, 90, 480].into_iter().enumerate() {
        world.advance(wait * SECOND);
        let running = world.start();
        world.written(&webhook, n + 1).await;
        match n % 2 {
            0 => running.crash().await,
            _ => running.stop().await,
        }
    }
    let running = world.start();
    world.advance(2_999 * SECOND);
    let other = world.receiver(|_| Manner::Answer(200)).await;
    world.webhook(&other).await;
    world.receive(&mailbox).await;
    other.wait(1).await;
    assert_eq!(receiver.count(), 4, "the fifth attempt came early");
    world.advance(SECOND);
    assert_eq!(receiver.wait(5).await[4].attempt, 5);
    running.stop().await;
}

/// Many crashes at random moments with an endpoint that fails now and then, on files or a server as in production.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn through_many_crashes_every_event_arrives_in_order() {
    let directory = tempfile::tempdir().unwrap();
    let world = World::over(store::open_lasting(directory.path()).await, config()).await;
    let requests = Arc::new(AtomicU64::new(0));
    let receiver = world
        .receiver(move |_| {
            let n = requests.fetch_add(1, Ordering::SeqCst);
            Manner::Answer(if n % 7 == 3 { 500 } else { 200 })
        })
        .await;
    let webhook = world.webhook(&receiver).await;
    let mut boxes = vec![];
    for _ in 0..5 {
        boxes.push(world.mailbox().await);
    }
    let mut expected: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    for round in 0..25 {
        let running = world.start();
        for n in 0..8 {
            let mailbox = &boxes[(round + n * n) % 5];
            expected.entry(mailbox.to_string()).or_default().push(world.receive(mailbox).await);
        }
        world.advance(31 * SECOND);
        receiver.wait_a_little(receiver.count() + round % 6).await;
        running.crash().await;
    }
    let running = world.start();
    eventually("every event was answered and written down", || async {
        world.advance(10 * SECOND);
        let attempts = world.attempts(&webhook).await;
        let done: BTreeSet<_> =
            attempts.iter().filter(|a| a.result == AttemptResult::Success).map(|a| a.event.position).collect();
        done.len() == 200
    })
    .await;
    running.stop().await;
    let seen = receiver.seen();
    for (mailbox, positions) in &expected {
        let mut of: Vec<&Seen> = seen.iter().filter(|s| s.mailbox.as_ref() == Some(mailbox)).collect();
        let mut firsts = vec![];
        of.retain(|s| {
            let first = !firsts.contains(&s.position);
            firsts.extend(first.then_some(s.position));
            first
        });
        assert_eq!(&firsts, positions, "first requests are out of order");
    }
    // A success that is written down is never repeated: two successes of one event would be two rows.
    let attempts = world.attempts(&webhook).await;
    let successes = attempts.iter().filter(|a| a.result == AttemptResult::Success).count();
    assert_eq!(successes, 200);
    let mut bodies: BTreeMap<u64, &Seen> = BTreeMap::new();
    for request in &seen {
        let first = bodies.entry(request.position).or_insert(request);
        assert_eq!((&first.id, &first.body), (&request.id, &request.body));
    }
}
