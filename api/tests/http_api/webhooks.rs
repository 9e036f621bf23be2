//! Webhooks.

use domain::id::{AttemptId, EventId, WebhookId};
use domain::published::WebhookEventType;
use domain::webhook_endpoint::{RecordExhausted, WebhookEndpoint};
use domain::{StreamId, Versioned};
use projections::webhook_attempts::{self, AttemptResult, Row};
use serde_json::{Value, json};

use crate::harness::{Team, World};

async fn make(world: &World, team: &Team, body: &Value) -> Value {
    let made = world.post("/webhooks").key(&team.root).json(body).send().await;
    assert_eq!(made.status, 201, "{:?}", made.json());
    made.data()
}

fn body() -> Value {
    json!({"url": "https://hooks.example.com/in", "event_types": ["message.received", "sendmux.test"]})
}

#[tokio::test]
async fn a_created_webhook_shows_its_secret_once_and_can_be_read() {
    let world = World::new().await;
    let team = world.team("a.test").await;
    let made = make(&world, &team, &body()).await;
    let (id, secret) = (made["id"].as_str().unwrap(), made["secret"].as_str().unwrap());
    assert!(secret.starts_with("whsec_"));
    let shown = world.get(&format!("/webhooks/{id}")).key(&team.root).send().await;
    assert_eq!(
        shown.data(),
        json!({
            "id": id, "name": null, "url": "https://hooks.example.com/in",
            "event_types": ["message.received", "sendmux.test"], "filters": {"mailbox_ids": []}, "enabled": true,
            "failing": false, "created_at": "2026-11-21T10:00:00.000Z", "updated_at": "2026-11-21T10:00:00.000Z",
        })
    );
    let listed = world.get("/webhooks").key(&team.root).send().await;
    assert_eq!(listed.data(), json!([shown.data()]));
    let tag = shown.header("etag");
    let same = world.get(&format!("/webhooks/{id}")).key(&team.root).header("if-none-match", &tag).send().await;
    assert_eq!(same.status, 304);
    let stream = StreamId::Webhook(id.parse::<WebhookId>().unwrap());
    let fold: Versioned<WebhookEndpoint> = world.app.log.state(&team.id, &[stream]).await.unwrap();
    let sealed = world.app.log.secret(&team.id, fold.secret.as_ref().unwrap(), "webhook").await.unwrap().unwrap();
    assert_eq!(sealed.expose_str(), secret, "what signs is what was shown");
}

#[tokio::test]
async fn urls_that_may_not_be_called_are_refused_at_the_door() {
    let world = World::new().await;
    let team = world.team("a.test").await;
    for (url, status) in [
        ("http://hooks.example.com/", 422),
        ("https://127.0.0.1/", 422),
        ("https://[::1]/", 422),
        ("https://localhost/", 422),
        ("https://10.0.0.1/", 422),
        ("https://user:pass@hooks.example.com/", 422),
        ("https://hooks.example.com:22/", 422),
        ("ftp://hooks.example.com/", 422),
        ("nonsense", 400),
        ("https://hooks.example.com/ x", 400),
    ] {
        let body = json!({"url": url, "event_types": ["sendmux.test"]});
        let answer = world.post("/webhooks").key(&team.root).json(&body).send().await;
        assert_eq!((answer.status.as_u16(), answer.param().as_str()), (status, "url"), "{url}");
    }
    let policy = domain::egress::Policy { dangerous_allow_http_loopback: true, ..Default::default() };
    let sandbox = World::with(api::Config { webhook_urls: policy, ..api::Config::default() }).await;
    let team = sandbox.team("a.test").await;
    let body = json!({"url": "http://127.0.0.1:4711/in", "event_types": ["sendmux.test"]});
    assert_eq!(sandbox.post("/webhooks").key(&team.root).json(&body).send().await.status, 201);
}

#[tokio::test]
async fn what_a_webhook_cannot_be_is_refused() {
    let world = World::new().await;
    let team = world.team("a.test").await;
    let strangers = world.team("b.test").await;
    let foreign = world.mailbox(&strangers, "box").await;
    let url = "https://hooks.example.com/in";
    let rows = [
        (json!({"url": url, "event_types": []}), 400, "event_types"),
        (json!({"url": url, "event_types": ["nonsense"]}), 400, "event_types.0"),
        (json!({"url": url}), 400, "event_types"),
        (json!({"event_types": ["sendmux.test"]}), 400, "url"),
        (json!({"url": url, "event_types": ["sendmux.test"], "name": ""}), 400, "name"),
        (json!({"url": url, "event_types": ["sendmux.test"], "filters": {}}), 400, "filters.mailbox_ids"),
        (
            json!({"url": url, "event_types": ["sendmux.test"], "filters": {"mailbox_ids": ["x"]}}),
            422,
            "filters.mailbox_ids.0",
        ),
        (
            json!({"url": url, "event_types": ["sendmux.test"], "filters": {"mailbox_ids": [foreign.id.to_string()]}}),
            422,
            "filters.mailbox_ids.0",
        ),
        (json!({"url": url, "event_types": ["sendmux.test"], "deliver_after": "evt_x"}), 422, "deliver_after"),
    ];
    for (body, status, param) in rows {
        let answer = world.post("/webhooks").key(&team.root).json(&body).send().await;
        assert_eq!((answer.status.as_u16(), answer.param().as_str()), (status, param), "{body}");
    }
    for _ in 0..10 {
        make(&world, &team, &body()).await;
    }
    let eleventh = world.post("/webhooks").key(&team.root).json(&body()).send().await;
    assert_eq!(eleventh.refusal(), (409, "limit_exceeded".to_owned()));
}

#[tokio::test]
async fn an_update_changes_only_what_it_names() {
    let world = World::new().await;
    let team = world.team("a.test").await;
    let mailbox = world.mailbox(&team, "box").await;
    let id = make(&world, &team, &body()).await["id"].as_str().unwrap().to_owned();
    let path = format!("/webhooks/{id}");
    world.advance(1_000_000);
    let changes = json!({"name": "Hooks", "filters": {"mailbox_ids": [mailbox.id.to_string()]}});
    let changed = world.patch(&path).key(&team.root).json(&changes).send().await.data();
    assert_eq!((&changed["name"], &changed["url"]), (&json!("Hooks"), &json!("https://hooks.example.com/in")));
    assert_eq!(changed["updated_at"], "2026-11-21T10:00:01.000Z");
    assert_eq!(changed["created_at"], "2026-11-21T10:00:00.000Z");
    let read = world.get(&path).key(&team.root).send().await;
    assert_eq!(read.data(), changed);
    let cleared = world.patch(&path).key(&team.root).header("if-match", &read.header("etag"));
    let cleared = cleared.json(&json!({"name": null, "event_types": ["message.received"]})).send().await.data();
    assert_eq!((&cleared["name"], &cleared["event_types"]), (&json!(null), &json!(["message.received"])));
    let stale =
        world.patch(&path).key(&team.root).header("if-match", &read.header("etag")).json(&json!({})).send().await;
    assert_eq!(stale.refusal(), (409, "conflict".to_owned()));
    let bad = world.patch(&path).key(&team.root).json(&json!({"url": "http://x.example/"})).send().await;
    assert_eq!(bad.status, 422);
}

#[tokio::test]
async fn failing_ends_only_by_switching_off_and_on() {
    let world = World::new().await;
    let team = world.team("a.test").await;
    let id = make(&world, &team, &body()).await["id"].as_str().unwrap().to_owned();
    let path = format!("/webhooks/{id}");
    let exhausted = RecordExhausted { webhook: id.parse().unwrap(), event_position: 1, attempts: 8 };
    world.command(&team.id, exhausted).await;
    assert_eq!(world.get(&path).key(&team.root).send().await.data()["failing"], true);
    let patch = |query: &str, body: Value| world.patch(&format!("{path}{query}")).key(&team.root).json(&body);
    let same = patch("", json!({"enabled": true, "url": "https://new.example.com/"})).send().await.data();
    assert_eq!(same["failing"], true, "another URL does not clear it");
    assert_eq!(patch("", json!({"enabled": false})).send().await.data()["enabled"], false);
    let on = patch("?skip_backlog=true", json!({"enabled": true})).send().await.data();
    assert_eq!((&on["enabled"], &on["failing"]), (&json!(true), &json!(false)));
    let events = world.get("/audit/events?type=webhook.enabled").key(&team.root).send().await.data();
    assert_eq!(events.as_array().unwrap().len(), 1);
    let record = &world.app.log.read(&team.id, events[0]["sequence"].as_u64().unwrap() - 1, 1).await.unwrap()[0];
    assert!(record.event.encode().facts.contains("\"skip\""));
}

#[tokio::test]
async fn a_test_names_its_event_and_a_repetition_names_the_same() {
    let world = World::new().await;
    let team = world.team("a.test").await;
    let id = make(&world, &team, &body()).await["id"].as_str().unwrap().to_owned();
    let test = |key: &str| world.post(&format!("/webhooks/{id}/test")).key(&team.root).header("idempotency-key", key);
    let first = test("t1").send().await.data()["event_id"].as_str().unwrap().to_owned();
    assert!(first.starts_with("evt_"));
    assert_eq!(test("t1").send().await.data()["event_id"], first.as_str());
    assert_ne!(test("t2").send().await.data()["event_id"], first.as_str());
    let deaf = json!({"url": "https://hooks.example.com/in", "event_types": ["message.received"]});
    let other = make(&world, &team, &deaf).await["id"].as_str().unwrap().to_owned();
    let refused = world.post(&format!("/webhooks/{other}/test")).key(&team.root).send().await;
    assert_eq!(refused.refusal(), (409, "conflict".to_owned()));
}

#[tokio::test]
async fn a_rotated_secret_is_new_and_repeated_under_its_key() {
    let world = World::new().await;
    let team = world.team("a.test").await;
    let made = make(&world, &team, &body()).await;
    let id = made["id"].as_str().unwrap();
    let rotate =
        || world.post(&format!("/webhooks/{id}/rotate-secret")).key(&team.root).header("idempotency-key", "r").send();
    let (first, again) = (rotate().await, rotate().await);
    assert_eq!(first.body, again.body);
    assert_ne!(first.data()["secret"], made["secret"]);
}

#[tokio::test]
async fn a_deleted_webhook_is_gone() {
    let world = World::new().await;
    let team = world.team("a.test").await;
    let id = make(&world, &team, &body()).await["id"].as_str().unwrap().to_owned();
    let path = format!("/webhooks/{id}");
    assert_eq!(world.delete(&path).key(&team.root).send().await.data(), json!({"id": id, "deleted": true}));
    for answer in [
        world.delete(&path).key(&team.root).send().await,
        world.get(&path).key(&team.root).send().await,
        world.patch(&path).key(&team.root).json(&json!({})).send().await,
        world.post(&format!("{path}/test")).key(&team.root).send().await,
        world.post(&format!("{path}/rotate-secret")).key(&team.root).send().await,
    ] {
        assert_eq!(answer.refusal(), (404, "not_found".to_owned()));
    }
}

#[tokio::test]
async fn a_webhook_may_begin_in_the_past() {
    let world = World::new().await;
    let team = world.team("a.test").await;
    let event = world.get("/audit/events").key(&team.root).send().await.data()[0]["id"].as_str().unwrap().to_owned();
    for place in ["beginning", event.as_str()] {
        let mut body = body();
        body["deliver_after"] = json!(place);
        make(&world, &team, &body).await;
    }
}

async fn note(world: &World, team: &Team, webhook: &str, event: &str, result: AttemptResult) -> AttemptId {
    world.advance(1_000_000);
    let row = Row {
        id: AttemptId::new(world.now(), [1; 9]),
        webhook: webhook.parse().unwrap(),
        created_at: world.now(),
        event: event.parse::<EventId>().unwrap(),
        event_type: WebhookEventType::Test,
        delivery_attempt: 1,
        max_attempts: 8,
        result,
        response_status: Some(200),
        response_ms: 12,
        response_body: Some("ok".to_owned()),
        error_message: None,
        next_retry_at: None,
        payload_bytes: 100,
        payload_sha256: "0".repeat(64),
    };
    let id = row.id.clone();
    let mut tx = world.app.attempts.as_ref().unwrap().begin().await.unwrap();
    webhook_attempts::insert(&mut tx, &[(team.id.clone(), row)]).await.unwrap();
    tx.commit().await.unwrap();
    id
}

#[tokio::test]
async fn attempts_are_listed_with_what_they_delivered_until_they_expire() {
    let world = World::new().await;
    let team = world.team("a.test").await;
    let id = make(&world, &team, &body()).await["id"].as_str().unwrap().to_owned();
    let event = world.post(&format!("/webhooks/{id}/test")).key(&team.root).send().await.data();
    let event = event["event_id"].as_str().unwrap();
    note(&world, &team, &id, event, AttemptResult::Retrying).await;
    let last = note(&world, &team, &id, event, AttemptResult::Success).await;
    let path = format!("/webhooks/{id}/deliveries");
    let listed = world.get(&path).key(&team.root).send().await.data();
    assert_eq!(
        listed[0],
        json!({
            "id": last.to_string(), "event_id": event, "event_type": "sendmux.test", "delivery_attempt": 1,
            "max_attempts": 8, "result": "success", "response_status": 200, "response_ms": 12, "response_body": "ok",
            "error_message": null, "next_retry_at": null, "request_payload_bytes": 100,
            "request_payload_sha256": "0".repeat(64), "payload_available": true,
            "payload_expires_at": "2026-11-28T10:00:02.000Z", "created_at": "2026-11-21T10:00:02.000Z",
        })
    );
    for (query, count) in [("result=retrying", 1), ("event_type=message.received", 0), ("limit=1", 1)] {
        let found = world.get(&format!("{path}?{query}")).key(&team.root).send().await.data();
        assert_eq!(found.as_array().unwrap().len(), count, "{query}");
    }
    assert_eq!(world.get(&format!("{path}?result=x")).key(&team.root).send().await.param(), "result");
    let payload = format!("{path}/{last}/payload");
    let shown = world.get(&payload).key(&team.root).send().await.data();
    assert_eq!((&shown["payload"]["id"], &shown["payload"]["type"]), (&json!(event), &json!("sendmux.test")));
    assert_eq!(shown["payload"]["data"]["webhook_id"], json!(id));
    let other = make(&world, &team, &body()).await["id"].as_str().unwrap().to_owned();
    let wrong = world.get(&payload.replace(&id, &other)).key(&team.root).send().await;
    assert_eq!(wrong.refusal(), (404, "not_found".to_owned()), "it is another webhook's");
    world.advance(7 * 24 * 60 * 60 * 1_000_000);
    assert_eq!(world.get(&path).key(&team.root).send().await.data(), json!([]));
    assert_eq!(world.get(&payload).key(&team.root).send().await.status, 404);
}
