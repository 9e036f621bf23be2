//! What becomes of outgoing mail: the delivery log, metrics, and later, never, now.

use std::sync::Arc;

use api::carrier::{Carrier, Server, Transcript, Trial};
use domain::api_key::Kind;
use domain::id::{OutboundId, TeamId};
use domain::permission::{Permissions, SENDING_PERMISSIONS};
use domain::provider::Trouble;
use serde_json::{Value, json};

use crate::harness::{SECOND, World};
use crate::sending::{mail, sender, settle};

/// A world outside where `good.example.com` lets everybody in who says `hunter2`.
struct Outside;

#[async_trait::async_trait]
impl Carrier for Outside {
    async fn probe(&self, server: Server) -> Trial {
        if server.host != "good.example.com" {
            return Trial { result: Err(None), message: "no address of the host accepts a connection".to_owned() };
        }
        if server.login.is_some_and(|login| login.password == "hunter2") {
            return Trial { result: Ok(()), message: "The server accepts the login.".to_owned() };
        }
        Trial { result: Err(Some(Trouble::LoginRefused)), message: "535 5.7.8 go away".to_owned() }
    }

    async fn transcripts(&self, _: &TeamId, _: &OutboundId, now: i64) -> Result<Vec<Transcript>, projections::Error> {
        let account = domain::testing::provider_id(1);
        Ok(vec![Transcript { attempt: 1, account, said: "S: 220 hello\nC: EHLO x".to_owned(), at: now }])
    }
}

async fn outside() -> World {
    let mut world = World::new().await;
    world.app = world.app.clone().with_carrier(Arc::new(Outside));
    world.router = api::router(world.app.clone());
    world
}

async fn send(world: &World, key: &str, body: &Value) -> Value {
    let answer = world.post("/emails/send").key(key).json(body).send().await;
    assert_eq!(answer.status, 200, "{:?}", answer.json());
    answer.data()["message_id"].clone()
}

fn path(id: &Value) -> String {
    format!("/emails/{}", id.as_str().unwrap())
}

#[tokio::test]
async fn the_delivery_log_tells_the_outcome_of_each_recipient() {
    let world = outside().await;
    let (team, key) = sender(&world, "a.test").await;
    let mut body = mail();
    body["cc"] = json!([{"email": "carl@example.net"}]);
    body["tags"] = json!(["welcome"]);
    let id = send(&world, &key, &body).await;
    let listed = world.get("/emails/logs").key(&team.root).send().await.data();
    let row = &listed[0];
    assert_eq!((&row["status"], &row["email_id"], &row["attempts"]), (&json!("pending"), &id, &json!(0)));
    assert_eq!((&row["recipient_count"], &row["accepted_recipient_count"]), (&json!(2), &json!(0)));
    let log = format!("/emails/logs/{}", row["id"].as_str().unwrap());
    let detail = world.get(&log).key(&team.root).send().await;
    assert_eq!((&detail.data()["recipients"], &detail.data()["tags"]), (&Value::Null, &json!(["welcome"])));
    world.advance(SECOND);
    settle(&world, &team, &id).await;
    let changed = world.get(&log).key(&team.root).header("if-none-match", &detail.header("etag")).send().await;
    assert_eq!(changed.status, 200);
    let data = changed.data();
    assert_eq!((&data["status"], &data["provider_name"]), (&json!("sent"), &json!("Sandbox")));
    assert_eq!(
        data["recipients"],
        json!([
            {"email": "bob@example.net", "type": "to", "status": "accepted", "reason": "250 ok"},
            {"email": "carl@example.net", "type": "cc", "status": "rejected", "reason": "550 5.1.1 no such user"},
        ])
    );
    assert_eq!(
        (&data["outcomes"][0]["status"], &data["outcomes"][1]["status"]),
        (&json!("delivered"), &json!("bounced"))
    );
    assert_eq!(
        data["outcomes"][1]["said"],
        json!({"category": "user_unknown", "smtp_code": 550, "enhanced_code": "5.1.1"})
    );
    let same = world.get(&log).key(&team.root).header("if-none-match", &changed.header("etag")).send().await;
    assert_eq!(same.status, 304);
    let history = world.get(&format!("{log}/history")).key(&team.root).send().await.data();
    let names: Vec<_> = history.as_array().unwrap().iter().map(|e| e["event"].as_str().unwrap().to_owned()).collect();
    assert_eq!(names, ["outbound.accepted", "outbound.attempt_started", "outbound.delivered", "outbound.bounced"]);
    assert!(history[0]["actor"].as_str().unwrap().starts_with("key:"));
    let first = world.get(&format!("{log}/history?limit=3")).key(&team.root).send().await;
    let next = first.json()["pagination"]["next_cursor"].as_str().unwrap().to_owned();
    let rest = world.get(&format!("{log}/history?limit=3&cursor={next}")).key(&team.root).send().await.data();
    assert_eq!(rest.as_array().unwrap().len(), 1);
    let said = world.get(&format!("{log}/transcripts")).key(&team.root).send().await.data();
    assert_eq!((&said[0]["attempt"], &said[0]["transcript"]), (&json!(1), &json!("S: 220 hello\nC: EHLO x")));
}

#[tokio::test]
async fn the_delivery_log_is_narrowed_and_paged() {
    let world = World::new().await;
    let (team, key) = sender(&world, "a.test").await;
    let first = send(&world, &key, &mail()).await;
    world.advance(3_600 * SECOND);
    let mut other = mail();
    other["subject"] = json!("Your invoice");
    let second = send(&world, &key, &other).await;
    settle(&world, &team, &first).await;
    let list = |query: &str| {
        let call = world.get(&format!("/emails/logs?{query}")).key(&team.root);
        async move { call.send().await }
    };
    let ids = |data: &Value| -> Vec<Value> { data.as_array().unwrap().iter().map(|r| r["email_id"].clone()).collect() };
    for (query, expected) in [
        ("", vec![second.clone(), first.clone()]),
        ("status=sent", vec![first.clone()]),
        ("status=pending", vec![second.clone()]),
        ("search=INVOICE", vec![second.clone()]),
        ("search=bob@example.net", vec![second.clone(), first.clone()]),
        ("from_date=2026-11-21T10:30:00Z", vec![second.clone()]),
        ("to_date=2026-11-21T10:30:00Z", vec![first.clone()]),
        ("to_date=2026-11-21", vec![second.clone(), first.clone()]),
        ("to_date=2026-11-20", vec![]),
        ("provider_id=nonsense", vec![]),
    ] {
        assert_eq!(ids(&list(query).await.data()), expected, "{query}");
    }
    let providers = world.get("/providers").key(&team.root).send().await.data();
    let through = format!("provider_id={}", providers[0]["id"].as_str().unwrap());
    assert_eq!(ids(&list(&through).await.data()), std::slice::from_ref(&first));
    let page = list("limit=1").await.json();
    let next = format!("limit=1&cursor={}", page["pagination"]["next_cursor"].as_str().unwrap());
    assert_eq!(ids(&list(&next).await.data()), [first]);
    assert_eq!(list("status=lost").await.param(), "status");
    assert_eq!(list("from_date=yesterday").await.param(), "from_date");
}

#[tokio::test]
async fn metrics_count_mail_beside_the_period_before() {
    let world = World::new().await;
    let (team, key) = sender(&world, "a.test").await;
    for n in 0..3 {
        let id = send(&world, &key, &mail()).await;
        if n == 0 {
            settle(&world, &team, &id).await;
        }
    }
    world.advance(24 * 3_600 * SECOND);
    for _ in 0..6 {
        send(&world, &key, &mail()).await;
    }
    let get = |query: &str| {
        let call = world.get(&format!("/emails/metrics?{query}")).key(&team.root);
        async move { call.send().await }
    };
    let day = get("").await.data();
    assert_eq!(day["summary"], json!({"total": 6, "sent": 0, "failed": 0, "rejected": 0, "pending": 6}));
    assert_eq!((&day["comparison"]["total"], &day["comparison"]["sent"]), (&json!(3), &json!(1)));
    assert_eq!(day["comparison"]["change_pct"]["total"], json!(100.0));
    assert_eq!(day["comparison"]["change_pct"]["sent"], json!(-100.0));
    let week = get("window=7d").await.data();
    assert_eq!((&week["summary"]["total"], &week["recipients"]["delivered"]), (&json!(9), &json!(1)));
    let totals: Vec<_> = week["timeseries"].as_array().unwrap().iter().map(|s| s["total"].as_i64().unwrap()).collect();
    assert_eq!(totals, [0, 0, 0, 0, 0, 0, 3, 6]);
    assert_eq!(week["timeseries"][7]["timestamp"], "2026-11-22T00:00:00.000Z");
    let hourly = get("from_date=2026-11-21&to_date=2026-11-21&granularity=hourly").await.data();
    assert_eq!((hourly["timeseries"].as_array().unwrap().len(), &hourly["summary"]["total"]), (24, &json!(3)));
    let providers = world.get("/providers").key(&team.root).send().await.data();
    let through = get(&format!("window=7d&provider_id={}", providers[0]["id"].as_str().unwrap())).await.data();
    assert_eq!(through["summary"]["total"], 1, "what was given to the account");
    for (query, field) in [
        ("window=1y", "window"),
        ("granularity=weekly", "granularity"),
        ("provider_id=x", "provider_id"),
        ("from_date=2026-11-22&to_date=2026-11-20", "from_date"),
        ("from_date=1990-01-01&granularity=hourly", "from_date"),
    ] {
        let answer = get(query).await;
        assert_eq!((answer.refusal().0, answer.param().as_str()), (400, field), "{query}");
    }
}

#[tokio::test]
async fn a_scheduled_mail_is_moved_and_cancelled_by_who_sent_it() {
    let world = World::new().await;
    let (team, key) = sender(&world, "a.test").await;
    let colleague = world.team_key(&team.id, Kind::Sending, Permissions::parse(SENDING_PERMISSIONS).unwrap()).await;
    let mut body = mail();
    body["send_at"] = json!("2026-11-22T10:00:00Z");
    let id = send(&world, &key, &body).await;
    let shown = world.get(&path(&id)).key(&key).send().await;
    assert_eq!(
        (&shown.data()["status"], &shown.data()["send_at"]),
        (&json!("pending"), &json!("2026-11-22T10:00:00.000Z"))
    );
    assert_eq!(world.get(&path(&id)).key(&colleague).send().await.refusal().0, 404, "not what this key handed in");
    let later = json!({"send_at": "2026-11-23T10:00:00Z"});
    let moved = world.patch(&path(&id)).key(&key).header("if-match", &shown.header("etag")).json(&later).send().await;
    assert_eq!((moved.status.as_u16(), &moved.data()["next_attempt_at"]), (200, &json!("2026-11-23T10:00:00.000Z")));
    let stale = world.patch(&path(&id)).key(&key).header("if-match", &shown.header("etag")).json(&later).send().await;
    assert_eq!(stale.refusal(), (409, "conflict".to_owned()));
    for (body, field) in
        [(json!({"send_at": "soon"}), "send_at"), (json!({"send_at": "2028-01-01T00:00:00Z"}), "send_at")]
    {
        let answer = world.patch(&path(&id)).key(&key).json(&body).send().await;
        assert_eq!((answer.refusal().0, answer.param().as_str()), (422, field));
    }
    assert_eq!(world.get("/billing/balance").key(&team.root).send().await.data()["balance_held"], "0.000150");
    let cancelled = world.post(&format!("{}/cancel", path(&id))).key(&key).send().await;
    assert_eq!(
        (&cancelled.data()["status"], &cancelled.data()["undo_status"]),
        (&json!("rejected"), &json!("canceled"))
    );
    assert_eq!(world.get("/billing/balance").key(&team.root).send().await.data()["balance_held"], "0.000000");
    let again = world.post(&format!("{}/cancel", path(&id))).key(&key).send().await;
    assert_eq!(again.status, 200, "cancelled already");
    let late = world.patch(&path(&id)).key(&key).json(&later).send().await;
    assert_eq!(late.refusal(), (409, "conflict".to_owned()));
}

#[tokio::test]
async fn managers_hold_resume_and_retry_mail() {
    let world = World::new().await;
    let (team, key) = sender(&world, "a.test").await;
    let id = send(&world, &key, &mail()).await;
    let logs = world.get("/emails/logs").key(&team.root).send().await.data();
    let log = format!("/emails/logs/{}", logs[0]["id"].as_str().unwrap());
    let act = |what: &str| {
        let call = world.post(&format!("{log}/{what}")).key(&team.root);
        let call = if what == "retry" { call.json(&json!({})) } else { call };
        async move { call.send().await }
    };
    let held = act("hold").await.data();
    assert_eq!((&held["is_held"], &held["status_reason"]), (&json!(true), &json!("held")));
    assert_eq!(held["next_attempt_at"], Value::Null);
    assert_eq!(act("hold").await.status, 200, "held already");
    assert_eq!(act("resume").await.data()["is_held"], false);
    let later = json!({"send_at": "2026-11-22T10:00:00Z"});
    let moved = world.post(&format!("{log}/reschedule")).key(&team.root).json(&later).send().await.data();
    assert_eq!(moved["next_attempt_at"], "2026-11-22T10:00:00.000Z");
    assert_eq!(act("retry").await.data()["next_attempt_at"], "2026-11-21T10:00:00.000Z", "due now");
    settle(&world, &team, &id).await;
    for what in ["hold", "cancel", "retry"] {
        assert_eq!(act(what).await.refusal(), (409, "conflict".to_owned()), "{what}");
    }
    let reader = world.team_key(&team.id, Kind::Infrastructure, Permissions::parse(["logs.read"]).unwrap()).await;
    let refused = world.post(&format!("{log}/hold")).key(&reader).send().await;
    assert_eq!(refused.refusal().0, 403);
}

#[tokio::test]
async fn a_test_of_an_account_mends_or_breaks_it() {
    let world = outside().await;
    let team = world.team("a.test").await;
    let account = |host: &str, password: &str| {
        json!({"name": "Own", "smtp_host": host, "smtp_port": 587, "smtp_protocol": "starttls",
               "smtp_username": "ann", "smtp_password": password})
    };
    let made = world.post("/providers").key(&team.root).json(&account("good.example.com", "wrong")).send().await.data();
    let path = format!("/providers/{}", made["id"].as_str().unwrap());
    let test = || world.post(&format!("{path}/test")).key(&team.root).send();
    let failed = test().await;
    assert_eq!((failed.status.as_u16(), &failed.data()["success"]), (200, &json!(false)));
    assert_eq!(failed.data()["message"], "535 5.7.8 go away");
    let broken = world.get(&path).key(&team.root).send().await.data();
    assert_eq!((&broken["status"], broken["last_tested_at"].is_string()), (&json!("error"), true));
    assert_eq!(broken["status_reason"], "the server refused the login: 535 5.7.8 go away");
    let stats = world.get("/providers/stats").key(&team.root).send().await.data();
    assert_eq!((&stats["total"], &stats["error"], &stats["by_type"]["smtp"]), (&json!(1), &json!(1), &json!(1)));
    world.advance(SECOND);
    world.patch(&path).key(&team.root).json(&json!({"smtp_password": "hunter2"})).send().await.data();
    let keyed = || world.post(&format!("{path}/test")).key(&team.root).header("idempotency-key", "t").send();
    let passed = keyed().await;
    assert_eq!(passed.data()["success"], true, "{:?}", passed.json());
    world.advance(SECOND);
    assert_eq!(keyed().await.body, passed.body, "repeated, not tried again");
    assert_eq!(world.get(&path).key(&team.root).send().await.data()["status"], "active");
    let ses = json!({"name": "SES", "type": "amazon_ses", "ses_region": "eu-central-1",
                     "ses_access_key_id": "AKIA", "ses_secret_access_key": "s"});
    let ses = world.post("/providers").key(&team.root).json(&ses).send().await.data();
    let untestable = world.post(&format!("/providers/{}/test", ses["id"].as_str().unwrap())).key(&team.root);
    assert_eq!(untestable.send().await.refusal(), (422, "validation_error".to_owned()));
}
