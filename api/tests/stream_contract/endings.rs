//! How streams end: revocation, suspension, shutdown. And how they begin again where they cannot.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use domain::id::EventId;
use domain::{api_key, mailbox};
use eventlog::sqlite::SqliteBackend;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::harness::{ENGINES, Engine, World, api_over, ask, config, ids, json, open};

#[tokio::test]
async fn a_revoked_key_ends_its_streams_and_no_others() {
    for engine in ENGINES {
        let world = World::on(engine).await;
        let (mut own, mut team) = (world.open("", None).await, world.open_team("", None).await);
        world.receive().await;
        own.take(1).await;
        let key = world.mailbox_key.minted.key.clone();
        world.submit(api_key::RevokeKey { key, mailbox: None }).await;
        assert!(own.rest().await.is_empty());
        assert_eq!(own.parser.comments.last().unwrap(), "goodbye, the key was revoked");
        assert_eq!(team.take(2).await[1].event_type, "api_key.revoked");
        let refused = world.ask(&world.mailbox_key, "/mailbox/events", None).await;
        assert_eq!(refused.status(), 401);
        drop(own);
        assert_eq!(world.streams.open(), 1);
    }
}

#[tokio::test]
async fn a_stream_that_is_behind_ends_at_a_revocation_too() {
    let world = World::on(Engine::Memory).await;
    let before = world.head_id().await.to_string();
    for _ in 0..200 {
        world.receive().await;
    }
    let mut behind = world.open("", Some(&before)).await;
    behind.take(1).await;
    world.submit(api_key::RevokeKey { key: world.mailbox_key.minted.key.clone(), mailbox: None }).await;
    assert!(behind.rest().await.len() < 199, "it does not have to be read to its end");
    assert!(behind.ended);
}

#[tokio::test]
async fn a_suspended_or_closed_mailbox_ends_its_streams() {
    for engine in ENGINES {
        let world = World::on(engine).await;
        let mut reader = world.open("", None).await;
        world.submit(mailbox::SuspendMailbox { mailbox: world.mailboxes[0].clone() }).await;
        assert!(reader.rest().await.is_empty());
        assert_eq!(reader.parser.comments.last().unwrap(), "goodbye, the mailbox is not active");
        assert_eq!(world.ask(&world.mailbox_key, "/mailbox/events", None).await.status(), 403);
        // A suspension that is over is no reason to end when it is replayed.
        let before = EventId::new(&world.team, 1, 1).to_string();
        world.submit(mailbox::ResumeMailbox { mailbox: world.mailboxes[0].clone() }).await;
        let mut reader = world.open("", Some(&before)).await;
        let id = world.receive().await.to_string();
        assert_eq!(ids(&reader.take(1).await), [id]);
        world.submit(mailbox::CloseMailbox { mailbox: world.mailboxes[0].clone() }).await;
        assert!(reader.rest().await.is_empty());
        assert_eq!(world.ask(&world.mailbox_key, "/mailbox/events", None).await.status(), 401);
    }
}

#[tokio::test]
async fn a_server_that_stops_says_goodbye_after_whole_events() {
    for engine in ENGINES {
        let world = World::on(engine).await;
        let stop = CancellationToken::new();
        let running = tokio_util::task::TaskTracker::new();
        running.spawn(world.streams.clone().run(stop.clone()));
        running.close();
        let mut readers = vec![world.open("", None).await, world.open_team("", None).await];
        let id = world.receive().await.to_string();
        for reader in &mut readers {
            assert_eq!(ids(&reader.take(1).await), [id.as_str()]);
        }
        stop.cancel();
        for reader in &mut readers {
            assert!(reader.rest().await.is_empty());
            assert!(reader.parser.comments.last().unwrap().starts_with("goodbye"));
            assert!(reader.raw.ends_with(b"\n"));
        }
        running.wait().await;
        let refused = world.ask(&world.mailbox_key, "/mailbox/events", None).await;
        assert_eq!(refused.status(), 503);
        assert!(refused.headers().contains_key("retry-after"));
    }
}

#[tokio::test]
async fn an_id_that_cannot_be_resumed_from_is_told_and_the_stream_goes_on() {
    for engine in ENGINES {
        let world = World::on(engine).await;
        world.receive().await;
        let head = world.head_id().await;
        let unknown = [
            "nonsense".to_owned(),
            "evt_".to_owned(),
            "x".repeat(100_000),
            EventId::new(&domain::testing::team_id(), 1, 1).to_string(),
            EventId { position: head.position + 1_000_000, ..head }.to_string(),
            EventId { epoch: 2, ..head }.to_string(),
            EventId { epoch: 0, ..head }.to_string(),
            EventId { epoch: 9, position: 0, ..head }.to_string(),
        ];
        for id in unknown {
            for team in [false, true] {
                let mut reader =
                    if team { world.open_team("", Some(&id)).await } else { world.open("", Some(&id)).await };
                let sync = reader.next().await.unwrap();
                assert_eq!(sync.event_type, "sync_required", "{id}");
                let data = sync.json();
                if team {
                    assert_eq!(
                        (&data["type"], &data["id"], &data["data"]),
                        (&json!("sync_required"), &Value::Null, &Value::Null)
                    );
                } else {
                    assert_eq!(data["event_type"], "sync_required");
                    assert_eq!(data["mailbox_id"], json!(world.mailboxes[0]));
                    assert_eq!(data["recipients"], json!([]));
                    assert_eq!(data["message"], Value::Null);
                    assert_eq!(data.as_object().unwrap().len(), 11);
                }
                let next = world.receive().await.to_string();
                assert_eq!(reader.next().await.unwrap().id, next, "it goes on live");
                // Whoever was told resumes from where the telling happened.
                let mut again = world.open_team("", Some(&sync.id)).await;
                assert_eq!(again.next().await.unwrap().id, next);
            }
        }
    }
}

#[tokio::test]
async fn the_id_of_the_last_event_and_of_none_resume_without_a_word() {
    let world = World::on(Engine::Memory).await;
    let head = world.head_id().await.to_string();
    let mut reader = world.open("", Some(&head)).await;
    let id = world.receive().await.to_string();
    assert_eq!(ids(&reader.take(1).await), [id.as_str()]);
    let start = EventId::new(&world.team, 1, 0).to_string();
    assert_eq!(world.open("", Some(&start)).await.next().await.unwrap().id, id);
    let query = format!("?last_event_id={start}");
    assert_eq!(world.open(&query, None).await.next().await.unwrap().id, id);
    assert_eq!(world.open(&query, Some("nonsense")).await.next().await.unwrap().event_type, "sync_required");
}

#[tokio::test]
async fn an_id_older_than_what_is_offered_is_told() {
    let offered = api::stream::Config { replay_seconds_max: 3_600, replay_records_max: 10, ..config() };
    let world = World::with(Engine::Memory, offered).await;
    let old = world.receive().await.to_string();
    let second = world.receive().await.to_string();
    world.ahead.store(3_601 * 1_000_000, Ordering::Relaxed);
    assert_eq!(world.open("", Some(&old)).await.next().await.unwrap().event_type, "sync_required");
    // Nothing is missing after the second, however old it is.
    let mut fresh = world.open("", Some(&second)).await;
    let mut reference = vec![];
    for _ in 0..10 {
        reference.push(world.receive().await.to_string());
    }
    assert_eq!(ids(&fresh.take(10).await), reference);
    assert_eq!(ids(&world.open("", Some(&second)).await.take(10).await), reference);
    world.receive().await;
    assert_eq!(world.open("", Some(&second)).await.next().await.unwrap().event_type, "sync_required", "eleven records");
}

#[tokio::test]
async fn after_a_restore_ids_of_lost_events_are_not_taken_for_new_ones() {
    let world = World::on(Engine::Sqlite).await;
    let kept = world.receive().await.to_string();
    let copy = world.directory().join("copy.db");
    let backend = SqliteBackend::open(&world.directory().join("log.db")).await.unwrap();
    backend.backup(&copy).await.unwrap();
    let lost = world.receive().await.to_string();
    assert_eq!(SqliteBackend::begin_epoch(&copy).await.unwrap(), 2);
    let log = open(Arc::new(SqliteBackend::open(&copy).await.unwrap()), &world.allot).await;
    let (_, router) = api_over(&log, &world.allot, config());
    let restored = |id: String| {
        let (router, key) = (router.clone(), &world.mailbox_key);
        async move { super::harness::Reader::new(ask(&router, key, "/mailbox/events", Some(&id)).await) }
    };
    // Another event takes the place of the lost one.
    let command = mailbox::ChangeMailbox {
        mailbox: world.mailboxes[0].clone(),
        display_name: Some(Some("new".into())),
        quota_bytes: None,
        send_scope: None,
        if_version: None,
    };
    let now = world.allot.now();
    let submission = eventlog::Submission::new(world.team.clone(), now, domain::Actor::Operator, "req_test", command);
    let taken = log.transact(submission).await.unwrap().done().unwrap().records[0].id();
    assert_eq!(taken.position, lost.parse::<EventId>().unwrap().position);
    assert_eq!(restored(lost).await.next().await.unwrap().event_type, "sync_required");
    assert!(restored(kept).await.at_once().await.is_empty());
    let page = format!("/events?after={taken}");
    assert_eq!(json(ask(&router, &world.team_key, &page, None).await).await["ok"], true);
}
