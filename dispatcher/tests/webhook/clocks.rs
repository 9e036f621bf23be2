//! The wall clock is set back during each wait, and put right again: no attempt is early, lost or repeated.

use super::world::{Manner, SECOND, World, places};

const HOUR: i64 = 3_600 * SECOND;
const DAY: i64 = 24 * HOUR;
const JUMPS: [i64; 4] = [SECOND, HOUR, DAY, 3_650 * DAY];
/// The schedule, as waits between attempts, in seconds.
const WAITS: [i64; 4] = [30, 90, 480, 3_000];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clock_that_goes_back_during_each_wait_hurries_loses_and_repeats_nothing() {
    for jump in JUMPS {
        let world = World::new().await;
        let failing = world.receiver(|_| Manner::Answer(500)).await;
        let witness = world.receiver(|_| Manner::Answer(200)).await;
        let webhook = world.webhook(&failing).await;
        world.webhook(&witness).await;
        let mailbox = world.mailbox().await;
        let position = world.receive(&mailbox).await;
        let running = world.start();
        world.written(&webhook, 1).await;
        let mut events = 1;
        for (n, wait) in WAITS.into_iter().enumerate() {
            // Mail goes on while the clock is wrong: positions, not times, say what comes next.
            for step in [-jump, jump, wait * SECOND - 1] {
                world.advance(step);
                world.receive(&mailbox).await;
                events += 1;
                witness.wait(events).await;
                assert_eq!(failing.count(), n + 1, "after {step}: early or repeated");
            }
            world.advance(1);
            failing.wait(n + 2).await;
            world.written(&webhook, n + 2).await;
        }
        let attempts: Vec<_> = (1..=5).map(|attempt| (position, attempt)).collect();
        assert_eq!(places(&failing.seen()), attempts, "the first mail holds its mailbox's order");
        failing.behave(|_| Manner::Answer(200));
        world.advance(3 * HOUR);
        let seen = failing.wait(WAITS.len() + 1 + events).await;
        let delivered: Vec<_> = seen[WAITS.len() + 1..].iter().map(|s| s.position).collect();
        assert!(delivered.is_sorted() && delivered[0] == position, "{delivered:?}");
        world.written(&webhook, WAITS.len() + 1 + events).await;
        running.stop().await;
        assert_eq!((failing.count(), witness.count()), (WAITS.len() + 1 + events, events), "back by {jump}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_restarted_while_its_clock_is_back_takes_its_webhooks_up_at_once() {
    for jump in JUMPS {
        let world = World::new().await;
        let receiver = world.receiver(|_| Manner::Answer(200)).await;
        let webhook = world.webhook(&receiver).await;
        let mailbox = world.mailbox().await;
        let running = world.start();
        world.receive(&mailbox).await;
        world.written(&webhook, 1).await;
        running.crash().await;
        world.advance(-jump);
        world.receive(&mailbox).await;
        let running = world.start();
        receiver.wait(2).await;
        world.written(&webhook, 2).await;
        world.advance(jump);
        world.receive(&mailbox).await;
        let seen = receiver.wait(3).await;
        running.stop().await;
        assert!(seen.iter().map(|s| s.position).is_sorted(), "{:?}", places(&seen));
        assert_eq!(receiver.count(), 3);
    }
}
