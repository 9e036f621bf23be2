//! What arrives, in which order, and how it is written down.

use std::collections::BTreeSet;
use std::sync::Arc;

use dispatcher::webhook::sign::{verify_native, verify_standard};
use domain::Actor;
use domain::published::WebhookEventType;
use domain::webhook_endpoint::{Backlog, ChangeWebhook, DeleteWebhook, RotateSecret};
use eventlog::{SecretText, Submission};
use projections::Page;
use projections::webhook_attempts::{self, AttemptResult, Filter};
use tokio::sync::Notify;

use super::world::{Manner, SECOND, World, places};
use crate::reactor::eventually;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_is_sent_signed_once_and_written_down() {
    let world = World::new().await;
    let receiver = world.receiver(|_| Manner::AnswerWith(200, vec![], "tha\0nks".into())).await;
    let url = format!("http://127.0.0.1:{}/hook", receiver.port);
    let (webhook, secret) = world.webhook_at(&world.team, &url, |_| {}).await;
    let mailbox = world.mailbox().await;
    let position = world.receive(&mailbox).await;
    let running = world.start();
    let seen = receiver.wait(1).await.remove(0);
    assert_eq!((seen.position, seen.attempt, seen.mailbox.as_deref()), (position, 1, Some(mailbox.as_str())));
    assert_eq!(seen.headers["content-type"], "application/json");
    verify_native(&secret, &seen.headers, &seen.body).unwrap();
    verify_standard(&secret, &seen.headers, &seen.body, world.now() / SECOND, 5).unwrap();

    let attempt = world.written(&webhook, 1).await.remove(0);
    assert_eq!((attempt.result, attempt.response_status), (AttemptResult::Success, Some(200)));
    assert_eq!((attempt.event.to_string(), attempt.event_type), (seen.id.clone(), WebhookEventType::Received));
    assert_eq!((attempt.delivery_attempt, attempt.max_attempts, attempt.next_retry_at), (1, 8, None));
    assert_eq!(attempt.response_body.as_deref(), Some("tha\u{fffd}nks"));
    assert_eq!(usize::try_from(attempt.payload_bytes).unwrap(), seen.body.len());
    let payload = webhook_attempts::payload(&world.log, &world.team, &attempt).await.unwrap().unwrap();
    assert_eq!(serde_json::to_vec(&payload).unwrap(), seen.body, "the payload is made from the event again");
    running.stop().await;

    let running = world.start();
    let later = world.receive(&mailbox).await;
    assert_eq!(places(&receiver.wait(2).await), [(position, 1), (later, 1)]);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_before_the_webhook_are_not_sent_unless_asked_for() {
    let world = World::new().await;
    let receiver = world.receiver(|_| Manner::Answer(204)).await;
    let mailbox = world.mailbox().await;
    let first = world.receive(&mailbox).await;
    let second = world.receive(&mailbox).await;
    let url = |path: &str| format!("http://127.0.0.1:{}/{path}", receiver.port);
    world.webhook_at(&world.team, &url("new"), |_| {}).await;
    world.webhook_at(&world.team, &url("past"), |command| command.deliver_after = Some(first)).await;
    let running = world.start();
    let third = world.receive(&mailbox).await;
    let seen = receiver.wait(3).await;
    let of = |path: &str| seen.iter().filter(|s| s.path == path).map(|s| s.position).collect::<Vec<_>>();
    assert_eq!(of("/new"), [third]);
    assert_eq!(of("/past"), [second, third]);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_webhook_is_told_of_its_types_and_mailboxes_and_of_its_own_tests() {
    let world = World::new().await;
    let receiver = world.receiver(|_| Manner::Answer(200)).await;
    let (wanted, other) = (world.mailbox().await, world.mailbox().await);
    let url = |path: &str| format!("http://127.0.0.1:{}/{path}", receiver.port);
    let (filtered, _) = world
        .webhook_at(&world.team, &url("filtered"), |c| c.subscription.mailboxes = BTreeSet::from([wanted.clone()]))
        .await;
    let types = BTreeSet::from([WebhookEventType::ReceivedSpam]);
    world.webhook_at(&world.team, &url("spam"), |c| c.subscription.event_types = types).await;
    let running = world.start();
    world.receive(&other).await;
    let mail = world.receive(&wanted).await;
    let mut spam = world.mail(&other);
    spam.facts.is_spam = true;
    let spam = world.tell(&world.team, spam).await;
    let test = world.test(&filtered).await;
    let seen = receiver.wait(3).await;
    let mut of: Vec<_> = seen.iter().map(|s| (s.path.as_str(), s.position)).collect();
    of.sort_unstable();
    assert_eq!(of, [("/filtered", mail), ("/filtered", test), ("/spam", spam)]);
    running.stop().await;
    assert_eq!(receiver.count(), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_changed_subscription_and_url_count_from_now_on() {
    let world = World::new().await;
    let receiver = world.receiver(|_| Manner::Answer(200)).await;
    let webhook = world.webhook(&receiver).await;
    let (one, two) = (world.mailbox().await, world.mailbox().await);
    let running = world.start();
    world.receive(&one).await;
    receiver.wait(1).await;
    let moved = world.receiver(|_| Manner::Answer(200)).await;
    let change = ChangeWebhook {
        webhook: webhook.clone(),
        url: Some(format!("http://127.0.0.1:{}/moved", moved.port)),
        name: None,
        event_types: None,
        mailboxes: Some(BTreeSet::from([two.clone()])),
        enabled: None,
        backlog: Backlog::Deliver,
        if_version: None,
    };
    world.tell(&world.team, change).await;
    world.receive(&one).await;
    let position = world.receive(&two).await;
    assert_eq!(places(&moved.wait(1).await), [(position, 1)]);
    running.stop().await;
    assert_eq!((receiver.count(), moved.count()), (1, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_one_mailbox_nothing_is_sent_before_the_event_ahead_is_settled() {
    let world = World::new().await;
    let gate = Arc::new(Notify::new());
    let slow = Arc::clone(&gate);
    let (one, two) = (world.mailbox().await, world.mailbox().await);
    let held = one.to_string();
    let receiver = world
        .receiver(move |seen| match seen.mailbox.as_deref() == Some(held.as_str()) {
            true => Manner::Wait(Arc::clone(&slow), 200),
            false => Manner::Answer(200),
        })
        .await;
    let webhook = world.webhook(&receiver).await;
    let running = world.start();
    let mut of_one = vec![];
    let mut of_two = vec![];
    for _ in 0..5 {
        of_one.push(world.receive(&one).await);
        of_two.push(world.receive(&two).await);
    }
    // All of the second mailbox arrive while the first one's head is still waiting for its answer.
    let seen = receiver.wait(6).await;
    let arrived = |of: &str| seen.iter().filter(|s| s.mailbox.as_deref() == Some(of)).map(|s| s.position).collect();
    let (first, second): (Vec<_>, Vec<_>) = (arrived(one.as_str()), arrived(two.as_str()));
    assert_eq!((first, second), (vec![of_one[0]], of_two));
    for n in 7..=10 {
        gate.notify_one();
        receiver.wait(n).await;
    }
    gate.notify_one();
    world.written(&webhook, 10).await;
    let order: Vec<_> = receiver
        .seen()
        .into_iter()
        .filter(|s| s.mailbox.as_deref() == Some(one.as_str()))
        .map(|s| s.position)
        .collect();
    assert_eq!(order, of_one);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rotated_secret_signs_the_next_delivery() {
    let world = World::new().await;
    let receiver = world.receiver(|_| Manner::Answer(200)).await;
    let url = format!("http://127.0.0.1:{}/hook", receiver.port);
    let (webhook, before) = world.webhook_at(&world.team, &url, |_| {}).await;
    let mailbox = world.mailbox().await;
    let running = world.start();
    world.receive(&mailbox).await;
    let seen = receiver.wait(1).await.remove(0);
    verify_native(&before, &seen.headers, &seen.body).unwrap();
    for n in 2..6 {
        let (id, secret) = world.secret();
        let command = RotateSecret { webhook: webhook.clone(), secret: id.clone() };
        let submission = Submission::new(world.team.clone(), world.now(), Actor::Operator, "test", command);
        let sealed = SecretText::new(secret.expose().as_bytes().to_vec());
        world.log.transact(submission.with_secret(id, "webhook", sealed)).await.unwrap();
        // Not a moment in between: the event may already be in the window under the old secret.
        world.receive(&mailbox).await;
        let seen = receiver.wait(n).await.remove(n - 1);
        verify_native(&secret, &seen.headers, &seen.body).unwrap();
        verify_native(&before, &seen.headers, &seen.body).unwrap_err();
    }
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deleted_webhook_gets_nothing_more_and_leaves_no_rows() {
    let world = World::new().await;
    let receiver = world.receiver(|_| Manner::Answer(500)).await;
    let webhook = world.webhook(&receiver).await;
    let mailbox = world.mailbox().await;
    let running = world.start();
    world.receive(&mailbox).await;
    world.receive(&mailbox).await;
    world.written(&webhook, 1).await;
    world.tell(&world.team, DeleteWebhook { webhook: webhook.clone() }).await;
    eventually("its rows are gone", || async { rows(&world).await == (0, 0) }).await;
    world.advance(3_600 * SECOND);
    // Another webhook shows that the reactor has gone on meanwhile.
    let other = world.receiver(|_| Manner::Answer(200)).await;
    world.webhook(&other).await;
    world.receive(&mailbox).await;
    other.wait(1).await;
    running.stop().await;
    assert_eq!(receiver.count(), 1);
}

/// Returns how many cursors and exception rows there are.
async fn rows(world: &World) -> (i64, i64) {
    let mut reader = world.queue.work().read().await.unwrap();
    let cursors = projections::fetch_all!(reader, (i64,), "SELECT COUNT(*) FROM webhook_cursors").unwrap();
    let exceptions = projections::fetch_all!(reader, (i64,), "SELECT COUNT(*) FROM webhook_exceptions").unwrap();
    (cursors[0].0, exceptions[0].0)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn attempts_are_listed_newest_first_by_type_and_result_page_by_page() {
    let world = World::new().await;
    let receiver = world.receiver(|seen| Manner::Answer(if seen.mailbox.is_some() { 200 } else { 500 })).await;
    let webhook = world.webhook(&receiver).await;
    let mailbox = world.mailbox().await;
    let running = world.start();
    for _ in 0..6 {
        world.receive(&mailbox).await;
    }
    world.test(&webhook).await;
    world.written(&webhook, 7).await;
    running.stop().await;
    let (work, team, webhook, now) = (world.queue.work(), &world.team, &webhook, world.now());
    let list = |filter: Filter, page: Page| async move {
        webhook_attempts::list(work, team, webhook, &filter, &page, now).await.unwrap()
    };
    let failed = Filter { result: Some(AttemptResult::Retrying), event_type: None };
    let tests = Filter { event_type: Some(WebhookEventType::Test), result: None };
    let mail = Filter { event_type: Some(WebhookEventType::Received), result: Some(AttemptResult::Success) };
    assert_eq!(list(failed, Page::first(10)).await.rows.len(), 1);
    assert_eq!(list(tests, Page::first(10)).await.rows[0].response_status, Some(500));
    let first = list(mail, Page::first(4)).await;
    let second = list(mail, Page { after: first.next_cursor.clone(), limit: 4 }).await;
    let positions: Vec<_> = first.rows.iter().chain(&second.rows).map(|row| row.event.position).collect();
    assert_eq!(positions.len(), 6);
    assert!(positions.is_sorted_by(|a, b| a > b) && second.next_cursor.is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_successes_take_few_writes() {
    let mut config = super::world::config();
    (config.flush_milliseconds, config.flush_busy_milliseconds) = (100, 5_000);
    let world = World::with(config).await;
    let receiver = world.receiver(|_| Manner::Answer(200)).await;
    let webhook = world.webhook(&receiver).await;
    let mut boxes = vec![];
    for _ in 0..20 {
        boxes.push(world.mailbox().await);
    }
    for n in 0..800 {
        world.receive(&boxes[n % boxes.len()]).await;
    }
    let before = world.queue.writes();
    let running = world.start();
    receiver.wait(800).await;
    world.written(&webhook, 800).await;
    let writes = world.queue.writes() - before;
    assert!(writes * 50 <= 800, "{writes} writes for 800 deliveries");
    running.stop().await;
}
