//! Leases, fenced writes, due work: the same on SQLite and PostgreSQL.

use domain::id::{AttemptId, EventId, MailboxId, TeamId, WebhookId};
use domain::published::WebhookEventType;
use projections::Page;
use projections::webhook_attempts::{AttemptResult, Filter};

use super::*;

mod rule;

const NOW: i64 = 1_700_000_000_000_000;
const LEASE: i64 = 15_000_000;

/// One queue per engine, empty.
async fn queues() -> [Queue; 2] {
    let cluster = eventlog::testing::Cluster::shared();
    let database = cluster.create_database(None).await;
    let postgres = Work::open_postgres(&cluster.url(&database), &[Queue::TABLES]).await.unwrap();
    [Queue::new(Work::memory(&[Queue::TABLES]).await.unwrap()), Queue::new(postgres)]
}

fn of(n: u8) -> Key {
    Key { team: TeamId::new(NOW, [n; 9]), webhook: WebhookId::new(NOW, [n; 9]) }
}

fn mailbox(n: u8) -> Lane {
    Some(MailboxId::new(NOW, [n; 9]))
}

fn blocked(position: Position, phase: Phase, next_due_at: Option<i64>) -> Row {
    Row { position, phase, attempts: 2, first_due_at: NOW, next_due_at, last_error: "answered 500".into() }
}

fn written(key: &Key, epoch: i64, cursor: Position, rows: Vec<(Lane, Option<Row>)>, hold: Hold) -> Write {
    let snapshot = Snapshot { cursor, horizon: cursor + 5, pending: vec![cursor + 1, cursor + 4], rows };
    Write { key: key.clone(), epoch, snapshot, parked: false, hold, attempts: vec![] }
}

async fn take(queue: &Queue, key: &Key, node: &str, now: i64) -> Option<Leased> {
    let mut taken = queue.acquire(&[(key.clone(), 7)], node, 1, now, now + LEASE).await.unwrap();
    assert!(taken.len() <= 1);
    taken.pop()
}

#[tokio::test]
async fn a_new_webhook_begins_where_it_was_told_and_is_nobody_elses_while_leased() {
    for queue in queues().await {
        let leased = take(&queue, &of(1), "a", NOW).await.unwrap();
        assert_eq!((leased.cursor, leased.horizon, leased.pending.len(), leased.parked), (7, 7, 0, false));
        assert!(take(&queue, &of(1), "b", NOW + LEASE - 1).await.is_none(), "another node's lease holds");
        let again = take(&queue, &of(1), "a", NOW + 1).await.unwrap();
        assert!(again.epoch > leased.epoch, "its own it takes again, for instance after a restart");
        let theirs = take(&queue, &of(1), "b", NOW + 1 + LEASE).await.unwrap();
        assert!(theirs.epoch > again.epoch, "an expired one is anybody's");
        assert!(take(&queue, &of(2), "b", NOW).await.is_some(), "another webhook is another lease");
    }
}

#[tokio::test]
async fn a_write_under_a_lost_lease_changes_nothing() {
    for queue in queues().await {
        let old = take(&queue, &of(1), "a", NOW).await.unwrap();
        let new = take(&queue, &of(1), "b", NOW + LEASE).await.unwrap();
        let rows = || vec![(mailbox(1), Some(blocked(12, Phase::Retrying, Some(NOW))))];
        let late = written(&of(1), old.epoch, 100, rows(), Hold::Keep);
        assert_eq!(queue.write(&[late], "a", 1, NOW + LEASE).await.unwrap(), [of(1)]);
        // Nor does the right epoch under the wrong name.
        let stolen = written(&of(1), new.epoch, 100, rows(), Hold::Keep);
        assert_eq!(queue.write(&[stolen], "a", 1, NOW + LEASE).await.unwrap(), [of(1)]);
        assert_eq!(queue.renew(&[(of(1), old.epoch)], "a", NOW + 9 * LEASE).await.unwrap(), [of(1)]);
        queue.drop_webhooks(&[(of(1), old.epoch)], "a").await.unwrap();
        let kept = take(&queue, &of(1), "b", NOW + LEASE).await.unwrap();
        assert_eq!((kept.cursor, kept.rows.len()), (7, 0));
    }
}

#[tokio::test]
async fn what_was_written_is_read_again_by_the_next_holder() {
    for queue in queues().await {
        let leased = take(&queue, &of(1), "a", NOW).await.unwrap();
        let retry = blocked(12, Phase::Retrying, Some(NOW + 30));
        let over = blocked(15, Phase::Exhausted, None);
        let rows =
            vec![(mailbox(1), Some(retry.clone())), (None, Some(over.clone())), (mailbox(2), Some(over.clone()))];
        let write = written(&of(1), leased.epoch, 20, rows, Hold::Keep);
        assert_eq!(queue.write(&[write], "a", 3, NOW + LEASE).await.unwrap(), []);
        let write = written(&of(1), leased.epoch, 30, vec![(mailbox(2), None)], Hold::HandOver);
        assert_eq!(queue.write(&[write], "a", 3, NOW + LEASE).await.unwrap(), []);
        // Handed over: at once, to anybody.
        let mut next = take(&queue, &of(1), "b", NOW + 1).await.unwrap();
        assert_eq!((next.cursor, next.horizon, next.log_epoch), (30, 35, 3));
        assert_eq!(next.pending, [31, 34]);
        next.rows.sort_by_key(|(lane, _)| lane.clone());
        assert_eq!(next.rows, [(None, over), (mailbox(1), retry)]);
    }
}

#[tokio::test]
async fn due_work_is_what_nobody_does_and_could_be_done_now() {
    for queue in queues().await {
        let wanted = [
            (1, blocked(12, Phase::Retrying, Some(NOW + 10)), Hold::Release, false),
            (2, blocked(12, Phase::Retrying, Some(NOW + 99)), Hold::Release, false),
            (3, blocked(12, Phase::Exhausted, None), Hold::Release, false),
            (4, blocked(12, Phase::Retrying, Some(NOW + 10)), Hold::Keep, false),
            (5, blocked(12, Phase::Retrying, Some(NOW + 10)), Hold::Release, true),
            (6, blocked(12, Phase::Behind, None), Hold::Release, false),
            (7, blocked(12, Phase::Exhausted, None), Hold::HandOver, false),
        ];
        for (n, row, hold, parked) in wanted {
            let leased = take(&queue, &of(n), "a", NOW).await.unwrap();
            let mut write = written(&of(n), leased.epoch, 20, vec![(mailbox(1), Some(row))], hold);
            write.parked = parked;
            queue.write(&[write], "a", 1, NOW + LEASE).await.unwrap();
        }
        let due = async |now: i64| -> std::collections::BTreeSet<Key> {
            queue.due(now, 100).await.unwrap().into_iter().collect()
        };
        assert_eq!(due(NOW).await, [of(6), of(7)].into(), "a mailbox that is behind, and what was handed over");
        assert_eq!(due(NOW + 10).await, [of(1), of(6), of(7)].into());
        assert_eq!(due(NOW + 99).await, [of(1), of(2), of(6), of(7)].into());
        assert_eq!(due(NOW + LEASE).await, [of(1), of(2), of(4), of(6), of(7)].into(), "a lease that ran out");
        assert!(!queue.due(NOW + LEASE, 1).await.unwrap().is_empty());
    }
}

#[tokio::test]
async fn renewed_leases_go_on_and_lost_ones_are_named() {
    for queue in queues().await {
        let mine = take(&queue, &of(1), "a", NOW).await.unwrap();
        let lost = take(&queue, &of(2), "a", NOW).await.unwrap();
        take(&queue, &of(2), "b", NOW + LEASE).await.unwrap();
        let held = [(of(1), mine.epoch), (of(2), lost.epoch), (of(3), 1)];
        let missing = queue.renew(&held, "a", NOW + 3 * LEASE).await.unwrap();
        assert_eq!(missing, [of(2), of(3)]);
        assert!(take(&queue, &of(1), "b", NOW + 2 * LEASE).await.is_none());
    }
}

#[tokio::test]
async fn of_a_webhook_that_is_gone_nothing_is_kept_and_of_others_everything() {
    for queue in queues().await {
        for n in [1, 2] {
            let leased = take(&queue, &of(n), "a", NOW).await.unwrap();
            let rows = vec![(mailbox(1), Some(blocked(12, Phase::Retrying, Some(NOW))))];
            queue.write(&[written(&of(n), leased.epoch, 20, rows, Hold::Keep)], "a", 1, NOW + LEASE).await.unwrap();
        }
        let epoch = take(&queue, &of(1), "a", NOW).await.unwrap().epoch;
        queue.drop_webhooks(&[(of(1), epoch)], "a").await.unwrap();
        let anew = take(&queue, &of(1), "b", NOW).await.unwrap();
        assert_eq!((anew.cursor, anew.rows.len()), (7, 0));
        let other = take(&queue, &of(2), "a", NOW).await.unwrap();
        assert_eq!((other.cursor, other.rows.len()), (20, 1));
    }
}

#[tokio::test]
async fn results_and_cursor_are_written_together_or_not_at_all() {
    for queue in queues().await {
        let leased = take(&queue, &of(1), "a", NOW).await.unwrap();
        let attempt = |n: u8| webhook_attempts::Row {
            id: AttemptId::new(NOW, [n; 9]),
            webhook: of(1).webhook,
            created_at: NOW,
            event: EventId::new(&of(1).team, 1, u64::from(n)),
            event_type: WebhookEventType::Received,
            delivery_attempt: 1,
            max_attempts: 8,
            result: AttemptResult::Success,
            response_status: Some(200),
            response_ms: 3,
            response_body: None,
            error_message: None,
            next_retry_at: None,
            payload_bytes: 2,
            payload_sha256: "00".repeat(32),
        };
        let before = queue.writes();
        let mut good = written(&of(1), leased.epoch, 20, vec![], Hold::Keep);
        good.attempts = vec![attempt(1), attempt(2)];
        queue.write(&[good], "a", 1, NOW + LEASE).await.unwrap();
        assert_eq!(queue.writes(), before + 1, "however much it is, it is one transaction");
        let mut fenced = written(&of(1), leased.epoch - 1, 30, vec![], Hold::Keep);
        fenced.attempts = vec![attempt(3)];
        assert_eq!(queue.write(&[fenced], "a", 1, NOW + LEASE).await.unwrap(), [of(1)]);
        let Key { team, webhook } = of(1);
        let (filter, page) = (Filter::default(), Page::first(10));
        let kept = webhook_attempts::list(queue.work(), &team, &webhook, &filter, &page, NOW).await.unwrap();
        assert_eq!(kept.rows.len(), 2);
        let later = NOW + webhook_attempts::RETENTION_MICROS;
        assert_eq!(queue.drop_expired(later - 1, 10).await.unwrap(), 0);
        assert_eq!(queue.drop_expired(later, 1).await.unwrap(), 1);
        assert_eq!(queue.drop_expired(later, 10).await.unwrap(), 1);
    }
}

#[tokio::test]
async fn a_poisoned_event_is_shown_and_its_release_ends_the_lease() {
    for queue in queues().await {
        for (n, skip) in [(1, false), (2, true)] {
            let leased = take(&queue, &of(n), "a", NOW).await.unwrap();
            let rows = vec![
                (mailbox(1), Some(blocked(12, Phase::Poisoned, None))),
                (None, Some(blocked(3, Phase::Gone, None))),
            ];
            queue.write(&[written(&of(n), leased.epoch, 20, rows, Hold::Keep)], "a", 1, NOW + LEASE).await.unwrap();
            let shown = queue.poisoned(10).await.unwrap();
            let [poisoned] = &shown[..] else { panic!("{shown:?}") };
            assert_eq!((&poisoned.webhook, &poisoned.mailbox, poisoned.position), (&of(n).webhook, &mailbox(1), 12));
            assert_eq!((poisoned.tries, poisoned.error.as_str()), (2, "answered 500"));
            assert!(queue.is_poisoned(poisoned).await.unwrap());
            let elsewhere = Poisoned { position: 13, ..poisoned.clone() };
            assert!(!queue.is_poisoned(&elsewhere).await.unwrap());
            assert!(!queue.release_poisoned(&elsewhere, skip, NOW + 5).await.unwrap());
            assert!(queue.release_poisoned(poisoned, skip, NOW + 5).await.unwrap());
            // The holder's copy of the row is old: its next write finds the lease gone.
            let late = written(&of(n), leased.epoch, 20, vec![], Hold::Keep);
            assert_eq!(queue.write(&[late], "a", 1, NOW + LEASE).await.unwrap(), [of(n)]);
            let next = take(&queue, &of(n), "b", NOW + 5).await.unwrap();
            let row = next.rows.iter().find(|(lane, _)| *lane == mailbox(1)).map(|(_, row)| row.clone()).unwrap();
            let phase = if skip { Phase::Behind } else { Phase::Poisoned };
            assert_eq!((row.phase, row.attempts, row.next_due_at, row.position), (phase, 0, Some(NOW + 5), 12));
            if !skip {
                // Out of the way of the next round.
                queue.drop_webhooks(&[(of(n), next.epoch)], "b").await.unwrap();
            }
        }
    }
}
