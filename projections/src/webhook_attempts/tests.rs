//! Attempts come back as written, for seven days, to their own team: on SQLite and PostgreSQL.

use super::*;
use crate::tests::world::memory_log;
use eventlog::testing::Cluster;

const NOW: i64 = 1_700_000_000_000_000;

async fn works() -> [Work; 2] {
    let cluster = Cluster::shared();
    let database = cluster.create_database(None).await;
    [Work::memory(&[]).await.unwrap(), Work::open_postgres(&cluster.url(&database), &[]).await.unwrap()]
}

fn team(n: u8) -> TeamId {
    TeamId::new(NOW, [n; 9])
}

fn webhook(n: u8) -> WebhookId {
    WebhookId::new(NOW, [n; 9])
}

/// Attempt `n` was made `n` seconds after the first.
fn attempt(n: u8) -> Row {
    let created_at = NOW + i64::from(n) * 1_000_000;
    let failed = n % 2 == 1;
    Row {
        id: AttemptId::new(created_at, [n; 9]),
        webhook: webhook(1),
        created_at,
        event: EventId::new(&team(1), 1, u64::from(n) + 1),
        event_type: if n.is_multiple_of(3) { WebhookEventType::Received } else { WebhookEventType::Test },
        delivery_attempt: u32::from(n) + 1,
        max_attempts: 8,
        result: if failed { AttemptResult::Retrying } else { AttemptResult::Success },
        response_status: (!failed).then_some(204),
        response_ms: 12,
        response_body: (!failed).then(|| "größer \"als\" \\ nötig \u{1F4E6}".to_owned()),
        error_message: failed.then(|| "connection refused".to_owned()),
        next_retry_at: failed.then_some(created_at + 30_000_000),
        payload_bytes: 400,
        payload_sha256: format!("{n:064x}"),
    }
}

async fn write(work: &Work, team: &TeamId, rows: &[Row]) {
    let mut tx = work.begin().await.unwrap();
    let rows: Vec<_> = rows.iter().map(|row| (team.clone(), row.clone())).collect();
    insert(&mut tx, &rows).await.unwrap();
    tx.commit().await.unwrap();
}

async fn listed(work: &Work, filter: Filter, now: i64) -> Vec<Row> {
    list(work, &team(1), &webhook(1), &filter, &Page::first(100), now).await.unwrap().rows
}

#[tokio::test]
async fn attempts_come_back_as_they_were_written_newest_first() {
    for work in works().await {
        let rows: Vec<Row> = (0..10).map(attempt).collect();
        write(&work, &team(1), &rows).await;
        // The same rows again, after a write whose answer was lost.
        write(&work, &team(1), &rows).await;
        let newest: Vec<Row> = rows.iter().rev().cloned().collect();
        assert_eq!(listed(&work, Filter::default(), NOW).await, newest);
        for row in &rows {
            assert_eq!(get(&work, &team(1), &webhook(1), &row.id, NOW).await.unwrap().as_ref(), Some(row));
        }
        work.close().await;
    }
}

#[tokio::test]
async fn pages_and_filters_partition_the_attempts() {
    for work in works().await {
        write(&work, &team(1), &(0..10).map(attempt).collect::<Vec<_>>()).await;
        let (mut found, mut after) = (vec![], None);
        loop {
            let page = Page { after, limit: 3 };
            let part = list(&work, &team(1), &webhook(1), &Filter::default(), &page, NOW).await.unwrap();
            found.extend(part.rows.into_iter().map(|row| row.delivery_attempt));
            after = part.next_cursor;
            if after.is_none() {
                break;
            }
        }
        assert_eq!(found, (1..=10).rev().collect::<Vec<_>>());
        let by_type =
            async |event_type| listed(&work, Filter { event_type: Some(event_type), result: None }, NOW).await.len();
        let by_result =
            async |result| listed(&work, Filter { event_type: None, result: Some(result) }, NOW).await.len();
        assert_eq!((by_type(WebhookEventType::Received).await, by_type(WebhookEventType::Test).await), (4, 6));
        assert_eq!((by_result(AttemptResult::Success).await, by_result(AttemptResult::Retrying).await), (5, 5));
        assert_eq!(by_result(AttemptResult::PermanentFailure).await, 0);
        let foreign = Page { after: Some("bm9uc2Vuc2U".into()), limit: 3 };
        let refused = list(&work, &team(1), &webhook(1), &Filter::default(), &foreign, NOW).await;
        assert!(matches!(refused, Err(Error::BadCursor)));
        work.close().await;
    }
}

#[tokio::test]
async fn neither_another_team_nor_another_webhook_sees_them() {
    for work in works().await {
        write(&work, &team(1), &[attempt(1)]).await;
        let id = attempt(1).id;
        for (team, webhook) in [(team(2), webhook(1)), (team(1), webhook(2))] {
            assert_eq!(get(&work, &team, &webhook, &id, NOW).await.unwrap(), None);
            let rows = list(&work, &team, &webhook, &Filter::default(), &Page::first(10), NOW).await.unwrap().rows;
            assert!(rows.is_empty());
        }
        work.close().await;
    }
}

#[tokio::test]
async fn after_seven_days_they_are_not_shown_and_then_dropped_oldest_first() {
    for work in works().await {
        write(&work, &team(1), &(0..4).map(attempt).collect::<Vec<_>>()).await;
        let at = |n: u8| attempt(n).expires_at();
        assert_eq!(listed(&work, Filter::default(), at(1) - 1).await.len(), 3);
        assert!(get(&work, &team(1), &webhook(1), &attempt(1).id, at(1) - 1).await.unwrap().is_some());
        assert_eq!(get(&work, &team(1), &webhook(1), &attempt(1).id, at(1)).await.unwrap(), None);
        assert_eq!(drop_expired(&work, at(0) - 1, 10).await.unwrap(), 0);
        assert_eq!(drop_expired(&work, at(2), 2).await.unwrap(), 2, "at most as many as asked");
        assert_eq!(listed(&work, Filter::default(), NOW).await, [attempt(3), attempt(2)]);
        assert_eq!(drop_expired(&work, at(2), 2).await.unwrap(), 1);
        assert_eq!(listed(&work, Filter::default(), NOW).await, [attempt(3)]);
        work.close().await;
    }
}

#[tokio::test]
async fn a_payload_is_made_of_its_event_again_and_of_no_other() {
    let log = memory_log().await;
    let ops = [(crate::tests::history::Op::CreateWebhook(0, true), 1), (crate::tests::history::Op::TestWebhook(0), 1)];
    let story = crate::tests::history::told(&log, 1, &ops).await;
    let team = &story.team;
    let head = log.head(team).await.unwrap();
    let of = |event: EventId| Row { event, ..attempt(0) };
    let tested = EventId::new(team, head.epoch, head.position);
    let body = payload(&log, team, &of(tested)).await.unwrap().unwrap();
    assert_eq!((body.id, body.event_type), (tested.to_string(), WebhookEventType::Test));
    let stranger = TeamId::new(NOW, [9; 9]);
    let none = [
        EventId::new(team, head.epoch, head.position + 1),
        EventId::new(team, head.epoch, 0),
        EventId::new(team, head.epoch + 1, head.position),
        EventId::new(&stranger, head.epoch, head.position),
        // An event that webhooks are not told of.
        EventId::new(team, head.epoch, 1),
    ];
    for event in none {
        assert_eq!(payload(&log, team, &of(event)).await.unwrap(), None, "{event}");
    }
}

#[test]
fn every_result_has_a_word_of_its_own() {
    for result in AttemptResult::ALL {
        assert_eq!(AttemptResult::parse(result.as_str()), Some(result));
    }
    assert_eq!(AttemptResult::parse("maybe"), None);
}
