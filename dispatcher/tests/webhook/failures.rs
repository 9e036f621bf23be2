//! What happens when endpoints do not answer well: schedule, failing, switching on again, blocked mailboxes, poison.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::Bytes;
use dispatcher::webhook::{Resolution, resolve_poisoned};
use domain::Event;
use domain::id::{MailboxId, Position, TeamId};
use domain::webhook_endpoint::{Backlog, DisableReason, Event as WebhookEvent, Status};
use eventlog::testing::InFront;
use eventlog::{Backend, StoreError, StoredRecord};
use projections::webhook_attempts::AttemptResult;

use super::world::{Manner, NOW, SECOND, World, config, places};
use crate::reactor::eventually;
use crate::store::{self, Store};

/// Makes the reactor look around: an event of another mailbox to another webhook has arrived.
async fn fence(world: &World, witness: &super::world::Receiver, mailbox: &MailboxId) {
    let count = witness.count();
    world.receive(mailbox).await;
    witness.wait(count + 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_schedule_is_walked_to_its_end_and_then_the_webhook_fails() {
    let world = World::new().await;
    let receiver = world.receiver(|_| Manner::AnswerWith(503, vec![], "down".into())).await;
    let witness = world.receiver(|_| Manner::Answer(200)).await;
    let (mailbox, other) = (world.mailbox().await, world.mailbox().await);
    let only = BTreeSet::from([mailbox.clone()]);
    let url = format!("http://127.0.0.1:{}/hook", receiver.port);
    let (webhook, _) = world.webhook_at(&world.team, &url, |c| c.subscription.mailboxes = only).await;
    world.webhook(&witness).await;
    let running = world.start();
    let position = world.receive(&mailbox).await;
    let behind = world.receive(&mailbox).await;
    let offsets = [0, 30, 120, 600, 3_600, 14_400, 43_200, 86_400];
    for (n, offset) in offsets.into_iter().enumerate() {
        if n > 0 {
            world.clock.store(NOW + offset * SECOND - 1, Ordering::SeqCst);
            fence(&world, &witness, &other).await;
            assert_eq!(receiver.count(), n, "attempt {} came early", n + 1);
        }
        world.clock.store(NOW + offset * SECOND, Ordering::SeqCst);
        receiver.wait(n + 1).await;
        world.written(&webhook, n + 1).await;
    }
    world.until_failing(&webhook).await;
    let attempts = world.written(&webhook, 8).await;
    let seen = receiver.wait(8).await;
    assert_eq!(places(&seen), (1..=8).map(|n| (position, n)).collect::<Vec<_>>());
    assert!(seen.iter().all(|s| s.id == seen[0].id && s.body == seen[0].body), "attempts differ");
    let results: Vec<_> = attempts.iter().map(|a| a.result).collect();
    assert_eq!(results[..7], [AttemptResult::Retrying; 7]);
    assert_eq!((results[7], attempts[7].next_retry_at), (AttemptResult::PermanentFailure, None));
    assert_eq!(attempts[0].next_retry_at, Some(NOW + 30 * SECOND));
    let recorded = world.log.read(&world.team, 0, 1_000).await.unwrap();
    let exhausted: Vec<_> = recorded
        .iter()
        .filter_map(|r| match &r.event {
            Event::Webhook(WebhookEvent::DeliveryExhausted(e)) => Some((e.event_position, e.attempts)),
            _ => None,
        })
        .collect();
    assert_eq!(exhausted, [(position, 8)]);

    // While it fails nothing is attempted, and nothing is lost.
    let later = world.receive(&mailbox).await;
    world.advance(7_200 * SECOND);
    fence(&world, &witness, &other).await;
    assert_eq!(receiver.count(), 8);
    receiver.behave(|_| Manner::Answer(200));
    world.switch(&webhook, false, Backlog::Deliver).await;
    world.switch(&webhook, true, Backlog::Deliver).await;
    let seen = receiver.wait(11).await;
    assert_eq!(places(&seen[8..]), [(position, 1), (behind, 1), (later, 1)]);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn switched_on_without_its_backlog_a_webhook_goes_on_behind_that_event() {
    for restarted in [false, true] {
        let world = World::new().await;
        let receiver = world.receiver(|_| Manner::Answer(500)).await;
        let webhook = world.webhook(&receiver).await;
        let mailbox = world.mailbox().await;
        let mut running = world.start();
        world.receive(&mailbox).await;
        world.written(&webhook, 1).await;
        world.switch(&webhook, false, Backlog::Deliver).await;
        world.receive(&mailbox).await;
        receiver.behave(|_| Manner::Answer(200));
        if restarted {
            running.stop().await;
            running = world.start();
        }
        world.switch(&webhook, true, Backlog::Skip).await;
        let after = world.receive(&mailbox).await;
        assert_eq!(places(&receiver.wait(2).await)[1..], [(after, 1)]);
        world.written(&webhook, 2).await;
        running.stop().await;
        assert_eq!(receiver.count(), 2);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn switched_off_and_on_retries_are_due_at_once_and_counted_anew() {
    let world = World::new().await;
    let receiver = world.receiver(|_| Manner::Answer(500)).await;
    let webhook = world.webhook(&receiver).await;
    let mailbox = world.mailbox().await;
    let running = world.start();
    let position = world.receive(&mailbox).await;
    world.written(&webhook, 1).await;
    world.advance(30 * SECOND);
    receiver.wait(2).await;
    world.written(&webhook, 2).await;
    world.switch(&webhook, false, Backlog::Deliver).await;
    eventually("it is parked", || async { parked(&world).await == 1 }).await;
    world.advance(3_600 * SECOND);
    world.switch(&webhook, true, Backlog::Deliver).await;
    assert_eq!(places(&receiver.wait(3).await), [(position, 1), (position, 2), (position, 1)]);
    running.stop().await;
}

async fn parked(world: &World) -> i64 {
    let mut reader = world.queue.work().read().await.unwrap();
    let sql = "SELECT COUNT(*) FROM webhook_cursors WHERE parked AND owner = ''";
    projections::fetch_all!(reader, (i64,), sql).unwrap()[0].0
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gone_switches_the_webhook_off() {
    let world = World::new().await;
    let receiver = world.receiver(|_| Manner::Answer(410)).await;
    let webhook = world.webhook(&receiver).await;
    let mailbox = world.mailbox().await;
    let running = world.start();
    let position = world.receive(&mailbox).await;
    eventually("it is off", || async { world.state(&webhook).await.status == Status::Disabled }).await;
    let attempt = world.written(&webhook, 1).await.remove(0);
    assert_eq!((attempt.result, attempt.next_retry_at), (AttemptResult::PermanentFailure, None));
    let recorded = world.log.read(&world.team, 0, 1_000).await.unwrap();
    assert!(recorded.iter().any(|r| matches!(
        &r.event,
        Event::Webhook(WebhookEvent::Disabled(e)) if e.reason == DisableReason::Gone
    )));
    receiver.behave(|_| Manner::Answer(200));
    world.switch(&webhook, true, Backlog::Deliver).await;
    assert_eq!(places(&receiver.wait(2).await), [(position, 1), (position, 1)]);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn retry_after_is_obeyed_and_a_redirect_is_a_failure() {
    let world = World::new().await;
    let elsewhere = world.receiver(|_| Manner::Answer(200)).await;
    let location = format!("http://127.0.0.1:{}/", elsewhere.port);
    let receiver = world
        .receiver(move |seen| match seen.attempt {
            1 => Manner::AnswerWith(429, vec![("retry-after", "100".into())], String::new()),
            2 => Manner::AnswerWith(307, vec![("location", location.clone())], String::new()),
            _ => Manner::Answer(200),
        })
        .await;
    let webhook = world.webhook(&receiver).await;
    let mailbox = world.mailbox().await;
    let running = world.start();
    world.receive(&mailbox).await;
    let first = world.written(&webhook, 1).await.remove(0);
    assert_eq!(first.next_retry_at, Some(NOW + 100 * SECOND));
    world.advance(100 * SECOND);
    let second = world.written(&webhook, 2).await.remove(1);
    assert_eq!((second.response_status, second.result), (Some(307), AttemptResult::Retrying));
    world.advance(20 * SECOND);
    let third = world.written(&webhook, 3).await.remove(2);
    assert_eq!(third.result, AttemptResult::Success);
    running.stop().await;
    assert_eq!(elsewhere.count(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_answer_and_a_forbidden_url_are_failures_with_a_reason() {
    let mut config = config();
    (config.attempt_seconds, config.limits.attempt_seconds) = (1, 1);
    let world = World::with(config).await;
    let receiver = world.receiver(|_| Manner::Hang).await;
    let webhook = world.webhook(&receiver).await;
    let (forbidden, _) = world.webhook_at(&world.team, "https://169.254.169.254/latest", |_| {}).await;
    let (insecure, _) = world.webhook_at(&world.team, "http://example.org/", |_| {}).await;
    let mailbox = world.mailbox().await;
    let running = world.start();
    world.receive(&mailbox).await;
    for (webhook, reason) in [(&webhook, "timeout: "), (&forbidden, "refused: "), (&insecure, "refused: ")] {
        let attempt = world.written(webhook, 1).await.remove(0);
        assert_eq!((attempt.response_status, attempt.result), (None, AttemptResult::Retrying));
        assert!(attempt.error_message.unwrap().starts_with(reason));
    }
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_blocked_mailbox_does_not_hold_up_the_others_and_catches_up_in_order() {
    let mut config = config();
    (config.queue_per_mailbox_max, config.page_events, config.window_events_max) = (3, 4, 8);
    let world = World::with(config).await;
    let (bad, good) = (world.mailbox().await, world.mailbox().await);
    let down = Arc::new(AtomicBool::new(true));
    let (is_down, of) = (Arc::clone(&down), bad.to_string());
    let receiver = world
        .receiver(move |seen| {
            let fails = seen.mailbox.as_deref() == Some(of.as_str()) && is_down.load(Ordering::SeqCst);
            Manner::Answer(if fails { 500 } else { 200 })
        })
        .await;
    let webhook = world.webhook(&receiver).await;
    let running = world.start();
    let (mut of_bad, mut of_good) = (vec![], vec![]);
    for _ in 0..40 {
        of_bad.push(world.receive(&bad).await);
        of_good.push(world.receive(&good).await);
    }
    let seen = receiver.wait(41).await;
    let of = |mailbox: &MailboxId, seen: &[super::world::Seen]| -> Vec<Position> {
        seen.iter().filter(|s| s.mailbox.as_deref() == Some(mailbox.as_str())).map(|s| s.position).collect()
    };
    assert_eq!((of(&bad, &seen), of(&good, &seen)), (vec![of_bad[0]], of_good.clone()));
    world.written(&webhook, 41).await;
    assert_eq!(exceptions(&world).await, 1);
    down.store(false, Ordering::SeqCst);
    world.advance(30 * SECOND);
    let seen = receiver.wait(81).await;
    assert_eq!(of(&bad, &seen)[1..], of_bad);
    eventually("its row is gone", || async { exceptions(&world).await == 0 }).await;
    let more = world.receive(&bad).await;
    assert_eq!(receiver.wait(82).await[81].position, more);
    running.stop().await;
}

async fn exceptions(world: &World) -> i64 {
    let mut reader = world.queue.work().read().await.unwrap();
    projections::fetch_all!(reader, (i64,), "SELECT COUNT(*) FROM webhook_exceptions").unwrap()[0].0
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_endpoints_backlog_is_bounded_in_rows_and_delivered_when_it_is_back() {
    let mut config = config();
    (config.blocked_mailboxes_max, config.window_events_max) = (3, 2);
    let world = World::with(config).await;
    let receiver = world.receiver(|_| Manner::Answer(500)).await;
    let webhook = world.webhook(&receiver).await;
    let mut boxes = vec![];
    for _ in 0..30 {
        boxes.push(world.mailbox().await);
    }
    let running = world.start();
    for _ in 0..3 {
        for mailbox in &boxes {
            world.receive(mailbox).await;
        }
    }
    world.written(&webhook, 3).await;
    world.advance(30 * SECOND);
    world.written(&webhook, 6).await;
    // The bound may be passed by what was in the window, a page at most.
    assert!(exceptions(&world).await <= 3 + 2 + 16);
    receiver.behave(|_| Manner::Answer(200));
    let clock = || async {
        world.advance(30 * SECOND);
        let delivered: BTreeSet<_> = world
            .attempts(&webhook)
            .await
            .into_iter()
            .filter(|a| a.result == AttemptResult::Success)
            .map(|a| a.event.position)
            .collect();
        delivered.len() == 90
    };
    eventually("everything is delivered", clock).await;
    eventually("no rows are left", || async { exceptions(&world).await == 0 }).await;
    running.stop().await;
}

/// A store that returns one record damaged.
struct Damaged {
    inner: Arc<dyn Backend>,
    position: Arc<AtomicU64>,
}

#[async_trait]
impl InFront for Damaged {
    fn behind(&self) -> &dyn Backend {
        &*self.inner
    }

    async fn read(&self, team: &TeamId, after: Position, limit: usize) -> Result<Vec<StoredRecord>, StoreError> {
        let mut page = self.inner.read(team, after, limit).await?;
        for record in page.iter_mut().filter(|r| r.position == self.position.load(Ordering::SeqCst)) {
            record.facts = record.facts.replace("\"thread\"", "\"thraed\"");
        }
        Ok(page)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_that_cannot_be_processed_stops_only_its_mailbox_and_waits_for_the_operator() {
    for skip in [false, true] {
        let damaged = Arc::new(AtomicU64::new(0));
        let store = store::open().await;
        let backend = Arc::new(Damaged { inner: store.backend, position: Arc::clone(&damaged) });
        let mut config = config();
        // Whoever holds the webhook sees the operator's decision when it renews its lease, in real time: a short one.
        (config.attempt_seconds, config.lease_seconds, config.idle_release_seconds) = (1, 11, 11);
        let world = World::over(Store { backend, ..store }, config).await;
        let receiver = world.receiver(|_| Manner::Answer(200)).await;
        let webhook = world.webhook(&receiver).await;
        let (bad, good) = (world.mailbox().await, world.mailbox().await);
        let poison = world.receive(&bad).await;
        let behind = world.receive(&bad).await;
        let fine = world.receive(&good).await;
        assert!(world.views.wait_for(&world.team, fine, crate::reactor::PATIENCE).await);
        damaged.store(poison, Ordering::SeqCst);
        let running = world.start();
        assert_eq!(places(&receiver.wait(1).await), [(fine, 1)]);
        let tried = |n: u32| {
            let world = &world;
            move || async move {
                world.advance(600 * SECOND);
                world.queue.poisoned(10).await.unwrap().first().is_some_and(|p| p.tries == n)
            }
        };
        eventually("it was tried five times", tried(5)).await;
        world.advance(86_400 * SECOND);
        let fine = world.receive(&good).await;
        assert_eq!(places(&receiver.wait(2).await)[1..], [(fine, 1)]);
        world.written(&webhook, 2).await;
        let poisoned = world.queue.poisoned(10).await.unwrap().remove(0);
        assert_eq!((poisoned.position, poisoned.tries, poisoned.mailbox.as_ref()), (poison, 5, Some(&bad)));
        assert!(poisoned.error.contains("thread"), "{}", poisoned.error);

        if !skip {
            damaged.store(0, Ordering::SeqCst);
        }
        let resolution = if skip { Resolution::Skip } else { Resolution::Retry };
        let request = domain::id::RequestId::new(world.now(), [1; 9]);
        let resolve = || resolve_poisoned(&world.queue, &world.log, &poisoned, resolution, &request, world.now());
        assert!(resolve().await.unwrap());
        let expected = if skip { vec![(behind, 1)] } else { vec![(poison, 1), (behind, 1)] };
        let seen = receiver.wait(2 + expected.len()).await;
        assert_eq!(places(&seen[2..]), expected);
        world.written(&webhook, 2 + expected.len()).await;
        running.stop().await;
        assert!(world.queue.poisoned(10).await.unwrap().is_empty());
        // What the endpoint was never told of is on record, once; a second attempt is not.
        assert!(!resolve().await.unwrap());
        damaged.store(0, Ordering::SeqCst);
        let skipped = world.log.read(&world.team, 0, 1_000).await.unwrap().into_iter().filter_map(|r| match r.event {
            Event::Webhook(WebhookEvent::DeliverySkipped(e)) => Some((e.event_position, e.reason.clone(), r.actor)),
            _ => None,
        });
        let expected = skip.then(|| (poison, poisoned.error.clone(), "operator".to_owned()));
        assert_eq!(skipped.collect::<Vec<_>>(), expected.into_iter().collect::<Vec<_>>());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_erased_person_disappears_from_later_attempts_and_payloads() {
    let world = World::new().await;
    let receiver = world.receiver(|seen| Manner::Answer(if seen.attempt == 1 { 500 } else { 200 })).await;
    let webhook = world.webhook(&receiver).await;
    let mailbox = world.mailbox().await;
    let running = world.start();
    let position = world.receive(&mailbox).await;
    world.written(&webhook, 1).await;
    world.log.erase_personal(&world.team, &[position]).await.unwrap();
    world.advance(30 * SECOND);
    let seen = receiver.wait(2).await;
    let text = |n: usize| String::from_utf8(Bytes::clone(&seen[n].body).to_vec()).unwrap();
    assert!(text(0).contains("ann@example.net") && !text(1).contains("ann@example.net"));
    for attempt in world.written(&webhook, 2).await {
        let payload = projections::webhook_attempts::payload(&world.log, &world.team, &attempt).await.unwrap();
        assert_eq!(payload.unwrap().data.sender, None);
    }
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_attempt_that_ends_badly_after_the_switch_off_plans_no_other() {
    let world = World::new().await;
    let gate = Arc::new(tokio::sync::Notify::new());
    let waits = Arc::new(Mutex::new(Some(Arc::clone(&gate))));
    let receiver = world
        .receiver(move |_| match waits.lock().unwrap().take() {
            Some(gate) => Manner::Wait(gate, 500),
            None => Manner::Answer(200),
        })
        .await;
    let webhook = world.webhook(&receiver).await;
    let mailbox = world.mailbox().await;
    let running = world.start();
    let position = world.receive(&mailbox).await;
    receiver.wait(1).await;
    world.switch(&webhook, false, Backlog::Deliver).await;
    gate.notify_one();
    let attempt = world.written(&webhook, 1).await.remove(0);
    assert_eq!((attempt.result, attempt.next_retry_at), (AttemptResult::Failed, None));
    world.switch(&webhook, true, Backlog::Deliver).await;
    assert_eq!(places(&receiver.wait(2).await), [(position, 1), (position, 1)]);
    running.stop().await;
}
