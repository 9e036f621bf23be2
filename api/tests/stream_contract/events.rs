//! What the events say, who is told of them, and the feed in pages.

use bytes::Bytes;
use domain::mailbox::SuspendMailbox;
use serde_json::{Value, json};

use super::harness::{ENGINES, Engine, World, ids, json};

#[tokio::test]
async fn an_event_has_every_key_and_a_piece_of_the_body() {
    for engine in ENGINES {
        let world = World::on(engine).await;
        let mut reader = world.open("", None).await;
        let raw = format!(
            "Subject: x\r\nContent-Type: multipart/alternative; boundary=b\r\n\r\n--b\r\n\r\nshort\r\n--b\r\nContent-Type: text/html\r\n\r\n{}\r\n--b--\r\n",
            "y".repeat(100_000)
        );
        let id = world.receive_raw(0, true, Bytes::from(raw)).await;
        let event = reader.next().await.unwrap();
        assert_eq!((event.event_type.as_str(), event.id.clone()), ("message.received.spam", id.to_string()));
        let data = event.json();
        assert_eq!(data["id"], json!(id));
        assert_eq!(data["event_type"], "message.received.spam");
        assert_eq!(data["is_spam"], true);
        assert_eq!(data["mailbox_id"], json!(world.mailboxes[0]));
        assert_eq!(data["team_public_id"], json!(world.team));
        assert_eq!(data["message_id"], "m1@example.net");
        assert_eq!(data["message_id_kind"], "rfc5322");
        assert_eq!(data["sender"], "ann@example.net");
        assert_eq!(data["recipients"], json!(["box1@example.org"]));
        let message = &data["message"];
        assert_eq!(message["rfc5322_message_id"], "m1@example.net");
        assert_eq!(message["subject"], "Hello 1");
        assert_eq!(message["folder_ids"], json!(["inbox"]));
        assert_eq!(message["flags"], json!({"seen": false, "flagged": false, "draft": false, "answered": false}));
        let body = &message["body"];
        assert_eq!(body["text"].as_str().map(str::trim_end), Some("short"));
        assert_eq!(body["html"].as_str().map(str::len), Some(16_384));
        assert_eq!((&body["is_truncated"], &body["max_bytes"]), (&json!(true), &json!(16_384)));
    }
}

#[tokio::test]
async fn an_erased_message_is_told_of_without_what_it_said() {
    let world = World::on(Engine::Memory).await;
    let before = world.head_id().await.to_string();
    let id = world.receive().await;
    world.log.erase_personal(&world.team, &[id.position]).await.unwrap();
    let event = world.open("", Some(&before)).await.next().await.unwrap();
    assert!(!event.data.contains('@') && !event.data.contains("Hello"), "{}", event.data);
    assert_eq!(event.json()["message"]["body"]["text"], Value::Null);
}

#[tokio::test]
async fn each_mailbox_hears_of_its_own_mail() {
    for engine in ENGINES {
        let world = World::on(engine).await;
        let before = world.head_id().await.to_string();
        let mut live = world.open("", None).await;
        let mut own = vec![];
        for n in 0..30 {
            let id = world.receive_in(n % 2, false).await;
            if n % 2 == 0 {
                own.push(id.to_string());
            }
        }
        assert_eq!(ids(&live.take(15).await), own);
        let mut replayed = world.open("", Some(&before)).await;
        assert_eq!(ids(&replayed.take(15).await), own);
        assert!(live.at_once().await.is_empty() && replayed.at_once().await.is_empty());
    }
}

#[tokio::test]
async fn filters_pass_the_same_events_live_and_replayed() {
    for engine in ENGINES {
        let world = World::on(engine).await;
        let before = world.head_id().await.to_string();
        let mut spam = world.open("?event_types=message.received.spam", None).await;
        let mut ham = world.open("?event_types=message.received", None).await;
        let second = format!("?mailbox_id={}", world.mailboxes[1]);
        let mut team_second = world.open_team(&second, None).await;
        let kinds = "?event_types=mailbox.suspended,message.received.spam";
        let mut team_kinds = world.open_team(kinds, None).await;
        let (mut spam_ids, mut ham_ids, mut second_ids, mut kind_ids) = (vec![], vec![], vec![], vec![]);
        for n in 0..24 {
            let is_spam = n % 3 == 0;
            let mailbox = usize::from(n % 4 == 0);
            let id = world.receive_in(mailbox, is_spam).await.to_string();
            match (mailbox, is_spam) {
                (0, true) => spam_ids.push(id.clone()),
                (0, false) => ham_ids.push(id.clone()),
                _ => second_ids.push(id.clone()),
            }
            if is_spam {
                kind_ids.push(id);
            }
        }
        let suspended = world.submit(SuspendMailbox { mailbox: world.mailboxes[1].clone() }).await.records[0].id();
        second_ids.push(suspended.to_string());
        kind_ids.push(suspended.to_string());
        assert_eq!(ids(&spam.take(spam_ids.len()).await), spam_ids);
        assert_eq!(ids(&ham.take(ham_ids.len()).await), ham_ids);
        assert_eq!(ids(&team_second.take(second_ids.len()).await), second_ids);
        assert_eq!(ids(&team_kinds.take(kind_ids.len()).await), kind_ids);
        let mut again = world.open("?event_types=message.received.spam", Some(&before)).await;
        assert_eq!(ids(&again.take(spam_ids.len()).await), spam_ids);
        let mut again = world.open_team(&second, Some(&before)).await;
        assert_eq!(ids(&again.take(second_ids.len()).await), second_ids);
        let mut again = world.open_team(kinds, Some(&before)).await;
        assert_eq!(ids(&again.take(kind_ids.len()).await), kind_ids);
    }
}

#[tokio::test]
async fn teams_never_hear_of_each_other() {
    let backend = std::sync::Arc::new(eventlog::MemoryBackend::default());
    let one =
        World::over(std::sync::Arc::<eventlog::MemoryBackend>::clone(&backend), super::harness::config(), None).await;
    let mut team_one = one.open_team("", None).await;
    let two = World::over(backend, super::harness::config(), None).await;
    let mut team_two = two.open_team("", None).await;
    let theirs = two.receive().await.to_string();
    let ours = one.receive().await.to_string();
    assert_eq!(team_one.next().await.unwrap().id, ours);
    assert_eq!(team_two.next().await.unwrap().id, theirs);
    assert!(team_one.at_once().await.is_empty() && team_two.at_once().await.is_empty());
    let mut resumed = one.open_team("", Some(&theirs)).await;
    assert_eq!(resumed.next().await.unwrap().event_type, "sync_required");
}

#[tokio::test]
async fn the_feed_lists_what_the_stream_tells() {
    for engine in ENGINES {
        let world = World::on(engine).await;
        let first = domain::id::EventId::new(&world.team, 1, 0).to_string();
        for n in 0..12 {
            world.receive_in(n % 2, n % 3 == 0).await;
        }
        let head = world.log.head(&world.team).await.unwrap().position;
        let all = world.open_team("", Some(&first)).await.take(usize::try_from(head).unwrap()).await;
        let mut listed = vec![];
        let mut cursor = String::new();
        loop {
            let page = json(world.ask(&world.team_key, &format!("/events?limit=5{cursor}"), None).await).await;
            assert_eq!(page["ok"], true);
            assert_eq!(page["meta"]["head_position"], head);
            listed.extend(page["data"].as_array().unwrap().iter().cloned());
            let Some(next) = page["pagination"]["next_cursor"].as_str() else {
                assert_eq!(page["pagination"]["has_more"], false);
                assert_eq!(page["meta"]["resume_after"], json!(all.last().unwrap().id));
                break;
            };
            assert_eq!(page["pagination"]["has_more"], true);
            cursor = format!("&cursor={next}");
        }
        let told: Vec<Value> = all.iter().map(super::parser::Dispatched::json).collect();
        assert_eq!(listed, told);
        for (n, event) in (1u64..).zip(&listed) {
            assert_eq!(event["position"], n);
            let keys: Vec<_> = event.as_object().unwrap().keys().map(String::as_str).collect();
            assert_eq!(keys, ["actor", "data", "id", "mailbox_id", "occurred_at", "position", "type"]);
        }
    }
}

#[tokio::test]
async fn a_page_looks_at_a_bounded_number_of_records() {
    let config = api::stream::Config { scan_records_max: 10, ..super::harness::config() };
    let world = World::with(Engine::Memory, config).await;
    let start = world.head_id().await;
    for _ in 0..35 {
        world.receive().await;
    }
    let spam = world.receive_in(1, true).await.to_string();
    let path = |after: &str| format!("/events?event_types=message.received.spam&after={after}");
    let mut after = start.to_string();
    let mut pages = vec![];
    loop {
        let page = json(world.ask(&world.team_key, &path(&after), None).await).await;
        pages.push(page["data"].as_array().unwrap().len());
        match page["pagination"]["next_cursor"].as_str() {
            Some(next) => after = next.to_owned(),
            None => {
                assert_eq!(page["data"][0]["id"], json!(spam));
                break;
            }
        }
    }
    assert_eq!(pages, [0, 0, 0, 1]);
}

#[tokio::test]
async fn a_place_that_is_not_in_the_log_is_named() {
    let world = World::on(Engine::Memory).await;
    let head = world.head_id().await;
    let foreign = domain::id::EventId::new(&domain::testing::team_id(), 1, 2);
    let other_epoch = domain::id::EventId { epoch: 2, ..head };
    let ahead = domain::id::EventId { position: head.position + 1, ..head };
    let faulty = [
        (format!("after={foreign}"), "after"),
        (format!("cursor={other_epoch}"), "cursor"),
        (format!("since={ahead}"), "since"),
        (format!("after={}", head.position + 1), "after"),
        ("after=nonsense".to_owned(), "after"),
        ("after=1&since=2".to_owned(), "since"),
        ("limit=501".to_owned(), "limit"),
        ("event_types=message.recieved".to_owned(), "event_types"),
        ("mailbox_id=x".to_owned(), "mailbox_id"),
    ];
    for (query, field) in faulty {
        let response = world.ask(&world.team_key, &format!("/events?{query}"), None).await;
        assert_eq!(response.status(), 400, "{query}");
        let body = json(response).await;
        assert_eq!(body["error"]["param"], field, "{query}: {body}");
        assert_eq!(body["error"]["code"], "invalid_parameter");
    }
    let page = json(world.ask(&world.team_key, &format!("/events?since={head}"), None).await).await;
    assert_eq!((&page["data"], &page["meta"]["resume_after"]), (&json!([]), &json!(head)));
}
