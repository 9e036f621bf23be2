//! Two nodes over one log and one work database.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::Notify;

use super::world::{Manner, SECOND, World, places};
use crate::reactor::eventually;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_nodes_share_the_webhooks_and_nothing_is_sent_twice() {
    let world = World::new().await;
    let receiver = world.receiver(|_| Manner::Answer(200)).await;
    let mailbox = world.mailbox().await;
    let mut webhooks = vec![];
    for _ in 0..6 {
        webhooks.push(world.webhook(&receiver).await);
    }
    let (a, b) = (world.start_as("a"), world.start_as("b"));
    for _ in 0..20 {
        world.receive(&mailbox).await;
    }
    receiver.wait(120).await;
    for webhook in &webhooks {
        assert_eq!(world.written(webhook, 20).await.len(), 20);
    }
    a.stop().await;
    for _ in 0..5 {
        world.receive(&mailbox).await;
    }
    receiver.wait(150).await;
    b.stop().await;
    assert_eq!(receiver.count(), 150);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_dies_is_followed_when_its_lease_has_ended() {
    let world = World::new().await;
    let receiver = world.receiver(|_| Manner::Answer(200)).await;
    let webhook = world.webhook(&receiver).await;
    let mailbox = world.mailbox().await;
    let a = world.start_as("a");
    let first = world.receive(&mailbox).await;
    world.written(&webhook, 1).await;
    a.crash().await;
    let b = world.start_as("b");
    let second = world.receive(&mailbox).await;
    // Another team's webhook shows that the second node is at work, and it respects the lease.
    let witness = world.receiver(|_| Manner::Answer(200)).await;
    world.webhook(&witness).await;
    world.receive(&mailbox).await;
    witness.wait(1).await;
    assert_eq!(receiver.count(), 1);
    world.advance(i64::try_from(world.config.lease_seconds).unwrap() * SECOND + 1);
    let seen = receiver.wait(3).await;
    assert_eq!(places(&seen)[..2], [(first, 1), (second, 1)]);
    b.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_late_node_did_is_not_written_down_and_at_most_one_request_is_late() {
    let world = World::new().await;
    let (gate, count) = (Arc::new(Notify::new()), Arc::new(AtomicUsize::new(0)));
    let (held, n) = (Arc::clone(&gate), Arc::clone(&count));
    let receiver = world
        .receiver(move |_| match n.fetch_add(1, Ordering::SeqCst) {
            0 => Manner::Wait(Arc::clone(&held), 500),
            _ => Manner::Answer(200),
        })
        .await;
    let webhook = world.webhook(&receiver).await;
    let mailbox = world.mailbox().await;
    let a = world.start_as("a");
    let position = world.receive(&mailbox).await;
    receiver.wait(1).await;
    // The other node's clock says that the lease has ended while the request is still on its way.
    let lease = i64::try_from(world.config.lease_seconds).unwrap() * SECOND + 1;
    world.advance(lease);
    let b = world.start_as("b");
    // What the first node was still writing down when the clock moved has prolonged its lease: then the clock moves again.
    let mut looks = 0_u32;
    let taken_over = || {
        looks += 1;
        if looks.is_multiple_of(250) {
            world.advance(lease);
        }
        async { receiver.count() == 2 }
    };
    eventually("the other node takes over", taken_over).await;
    assert_eq!(places(&receiver.wait(2).await), [(position, 1), (position, 1)]);
    let written = world.written(&webhook, 1).await;
    gate.notify_one();
    let second = world.receive(&mailbox).await;
    assert_eq!(receiver.wait(3).await[2].position, second);
    assert_eq!(world.written(&webhook, 2).await.len(), written.len() + 1);
    a.stop().await;
    b.stop().await;
    let attempts = world.attempts(&webhook).await;
    assert!(attempts.iter().all(|a| a.response_status == Some(200)), "the late answer was written down");
    assert_eq!(receiver.count(), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn work_that_was_handed_over_is_taken_up_without_waiting_for_the_lease() {
    let world = World::new().await;
    let receiver = world.receiver(|_| Manner::Answer(500)).await;
    let webhook = world.webhook(&receiver).await;
    let mailbox = world.mailbox().await;
    let a = world.start_as("a");
    let b = world.start_as("b");
    let position = world.receive(&mailbox).await;
    world.written(&webhook, 1).await;
    a.stop().await;
    world.advance(30 * SECOND);
    assert_eq!(receiver.wait(2).await[1].position, position);
    b.stop().await;
    let c = world.start_as("c");
    world.advance(90 * SECOND);
    assert_eq!(places(&receiver.wait(3).await)[2], (position, 3));
    eventually("it is written", || async { world.attempts(&webhook).await.len() == 3 }).await;
    c.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_stops_while_it_takes_a_lease_gives_it_back() {
    let world = World::new().await;
    let receiver = world.receiver(|_| Manner::Answer(200)).await;
    world.webhook(&receiver).await;
    let mailbox = world.mailbox().await;
    for n in 0..60 {
        let stopping = world.start_as(&format!("stopping {n}"));
        world.receive(&mailbox).await;
        // It is told of the event, and asks for the lease, at any moment around this one.
        tokio::time::sleep(Duration::from_micros(u64::try_from(n).unwrap() * 100)).await;
        stopping.stop().await;
        let next = world.start_as(&format!("next {n}"));
        receiver.wait(n + 1).await;
        next.stop().await;
    }
    assert_eq!(receiver.count(), 60);
}
