//! What holds for every request and answer.

use axum::body::Body;
use axum::http::{Method, Request};
use domain::api_key::Kind;
use domain::permission::{Permissions, Preset};
use serde_json::json;

use crate::harness::{SECOND, World};

#[tokio::test]
async fn every_answer_carries_its_request_id_and_is_not_stored() {
    let world = World::new().await;
    let team = world.team("a.test").await;
    for answer in [
        world.get("/me").key(&team.root).send().await,
        world.get("/me").send().await,
        world.get("/nowhere").key(&team.root).send().await,
        world.post("/me").key(&team.root).send().await,
        world.post("/mailboxes").key(&team.root).body("{").send().await,
    ] {
        let id = answer.header("x-request-id");
        assert!(id.starts_with("req_"), "{answer:?}");
        assert_eq!(answer.json()["meta"]["request_id"], id);
        assert_eq!(answer.header("cache-control"), "no-store");
        assert_eq!(answer.header("content-type"), "application/json");
        assert_eq!(answer.header("x-content-type-options"), "nosniff");
    }
}

#[tokio::test]
async fn unknown_paths_and_methods_are_answered_in_the_envelope() {
    let world = World::new().await;
    assert_eq!(world.get("/nowhere").send().await.refusal(), (404, "not_found".to_owned()));
    let answer = world.call(Method::PATCH, "/mailboxes").send().await;
    assert_eq!(answer.refusal(), (405, "method_not_allowed".to_owned()));
    assert_eq!(answer.header("allow"), "GET,HEAD,POST");
    let outside = world.raw(Request::get("/elsewhere").body(Body::empty()).unwrap()).await;
    assert_eq!(outside.refusal(), (404, "not_found".to_owned()));
}

#[tokio::test]
async fn a_request_without_a_working_key_is_challenged() {
    let world = World::new().await;
    let team = world.team("a.test").await;
    let other = if team.root.ends_with('x') { 'y' } else { 'x' };
    let mistyped = format!("{}{other}", &team.root[..team.root.len() - 1]);
    let unknown = "smx_inf_".to_owned() + &"0".repeat(58);
    let headers = [
        None,
        Some("Bearer ".to_owned()),
        Some("Bearer nonsense".to_owned()),
        Some(format!("Basic {}", team.root)),
        Some(format!("Bearer {mistyped}")),
        Some(format!("Bearer {unknown}")),
        Some(format!("Bearer {}", team.root.replace("smx_inf_", "smx_snd_"))),
    ];
    for header in headers {
        let call = world.get("/me");
        let call = match &header {
            Some(value) => call.header("authorization", value),
            None => call,
        };
        let answer = call.send().await;
        assert_eq!(answer.refusal(), (401, "authentication_required".to_owned()), "{header:?}");
        assert_eq!(
            answer.header("www-authenticate"),
            "Bearer resource_metadata=\"http://127.0.0.1:8080/.well-known/oauth-protected-resource/api/v1\""
        );
    }
    let twice = world.get("/me").key(&team.root).key(&team.root).send().await;
    assert_eq!(twice.status, 401, "two credentials are none");
}

#[tokio::test]
async fn a_key_works_under_both_labels_of_its_kind_and_no_other() {
    let world = World::new().await;
    let team = world.team("a.test").await;
    for label in ["smx_inf_", "smx_root_"] {
        let key = team.root.replace("smx_inf_", label);
        assert_eq!(world.get("/me").key(&key).send().await.status, 200, "{label}");
    }
    let sending = world.team_key(&team.id, Kind::Sending, Permissions::parse(["email.send"]).unwrap()).await;
    for label in ["smx_snd_", "smx_mbx_"] {
        let key = sending.replace("smx_snd_", label);
        assert_eq!(world.get("/me").key(&key).send().await.status, 200, "{label}");
    }
    assert_eq!(world.get("/me").key(&sending.replace("smx_snd_", "smx_root_")).send().await.status, 401);
}

#[tokio::test]
async fn each_surface_takes_its_own_class_of_credential() {
    let world = World::new().await;
    let team = world.team("a.test").await;
    let mailbox = world.mailbox(&team, "box").await;
    let sending = world.team_key(&team.id, Kind::Sending, Permissions::parse(["email.send"]).unwrap()).await;
    let forbidden = (403, "insufficient_permissions".to_owned());
    assert_eq!(world.get("/mailbox/me").key(&team.root).send().await.refusal(), forbidden);
    assert_eq!(world.get("/mailbox/me").key(&sending).send().await.refusal(), forbidden);
    assert_eq!(world.get("/mailboxes").key(&mailbox.key).send().await.refusal(), forbidden);
    assert_eq!(world.get("/mailboxes").key(&sending).send().await.refusal(), forbidden);
    assert_eq!(world.get("/mailbox/me").key(&mailbox.key).send().await.status, 200);
    let own = format!("/mailbox/me?mailbox_id={}", mailbox.id);
    assert_eq!(world.get(&own).key(&mailbox.key).send().await.status, 200);
    let other = world.mailbox(&team, "other").await;
    let foreign = format!("/mailbox/me?mailbox_id={}", other.id);
    assert_eq!(world.get(&foreign).key(&mailbox.key).send().await.refusal(), forbidden);
}

#[tokio::test]
async fn a_connection_says_who_the_credential_is() {
    let world = World::new().await;
    let team = world.team("a.test").await;
    let mailbox = world.mailbox(&team, "box").await;
    let answer = world.get("/me").key(&team.root).send().await;
    let data = answer.data();
    assert_eq!(data["team"], json!({"id": team.id.to_string(), "name": "Team a.test"}));
    assert_eq!(data["credential"]["type"], "api_key");
    assert_eq!(data["mailboxes"], json!([]));
    let tag = answer.header("etag");
    let again = world.get("/me").key(&team.root).header("if-none-match", &tag).send().await;
    assert_eq!((again.status.as_u16(), again.body.len()), (304, 0));
    assert_eq!(again.header("etag"), tag);
    assert!(again.header("x-request-id").starts_with("req_"));
    assert_eq!(world.get("/me").header("if-none-match", &tag).send().await.status, 401, "a tag is no key");
    let own = world.get("/mailbox/connection").key(&mailbox.key).send().await.data();
    assert_eq!(own["mailboxes"], json!([{"id": mailbox.id.to_string(), "email": "box@a.test"}]));
    assert_eq!(own["permissions"], json!(["email.receive", "email.send", "mailbox.read", "mailbox.settings.update"]));
}

#[tokio::test]
async fn requests_beyond_the_limit_are_told_when_to_come_back() {
    let limits = api::RateLimits { infrastructure_requests: 3, ..api::RateLimits::default() };
    let world = World::with(api::Config { rate_limits: limits, ..api::Config::default() }).await;
    let team = world.team("a.test").await;
    for left in ["2", "1", "0"] {
        let answer = world.get("/me").key(&team.root).send().await;
        assert_eq!((answer.status.as_u16(), answer.header("x-ratelimit-remaining").as_str()), (200, left));
        assert_eq!(answer.header("x-ratelimit-limit"), "3");
        assert_eq!(answer.header("x-ratelimit-reset"), (world.now() / SECOND + 60).to_string());
    }
    world.advance(20 * SECOND);
    let refused = world.get("/me").key(&team.root).send().await;
    assert_eq!(refused.refusal(), (429, "rate_limit_exceeded".to_owned()));
    assert_eq!(refused.json()["error"]["retryable"], true);
    assert_eq!(refused.header("retry-after"), "40");
    world.advance(40 * SECOND);
    assert_eq!(world.get("/me").key(&team.root).send().await.status, 200);
}

#[tokio::test]
async fn bodies_are_strict_and_bounded() {
    let world = World::with(api::Config { body_bytes_max: 1_000, ..api::Config::default() }).await;
    let team = world.team("a.test").await;
    let rows = [
        (r#"{"email":"a@a.test","x":1}"#, 400, "x"),
        (r#"{"email":"a@a.test","send_scope":{"type":"all","y":1}}"#, 400, "send_scope.y"),
        (r#"{"email":"a@a.test","send_scope":{"type":"some"}}"#, 400, "send_scope.type"),
        (r#"{"email":1}"#, 400, "email"),
        ("{}", 400, "email"),
        ("[]", 400, "body"),
        (r#"{"email":"a@a.test""#, 400, "body"),
        (r#"{"email":"a\u0000@a.test"}"#, 400, "body"),
        (r#"{"email":"a@a.test","display_name":null}"#, 400, "display_name"),
        (r#"{"email":"a@a.test","display_name":""}"#, 400, "display_name"),
    ];
    for (body, status, param) in rows {
        let answer = world.post("/mailboxes").key(&team.root).body(body).send().await;
        assert_eq!((answer.status.as_u16(), answer.param().as_str()), (status, param), "{body}");
        assert_eq!(answer.json()["error"]["code"], "invalid_parameter");
        assert_eq!(answer.json()["error"]["retryable"], false);
    }
    let deep = "[".repeat(100) + &"]".repeat(100);
    assert_eq!(world.post("/mailboxes").key(&team.root).body(deep).send().await.param(), "body");
    let long = format!("{{\"email\":\"{}\"}}", "a".repeat(1_000));
    let answer = world.post("/mailboxes").key(&team.root).body(long.clone()).send().await;
    assert_eq!(answer.refusal(), (413, "payload_too_large".to_owned()));
    let streamed = Request::post("/api/v1/mailboxes")
        .header("authorization", format!("Bearer {}", team.root))
        .body(Body::from_stream(futures_util::stream::iter([Ok::<_, std::io::Error>(long)])))
        .unwrap();
    assert_eq!(world.raw(streamed).await.refusal(), (413, "payload_too_large".to_owned()), "without a length");
    let form = world.post("/mailboxes").key(&team.root).header("content-type", "text/plain").body("{}").send().await;
    assert_eq!((form.status.as_u16(), form.param().as_str()), (400, "Content-Type"));
}

#[tokio::test]
async fn unknown_query_parameters_are_ignored_and_faulty_ones_named() {
    let world = World::new().await;
    let team = world.team("a.test").await;
    assert_eq!(world.get("/mailboxes?nonsense=1").key(&team.root).send().await.status, 200);
    for (query, param) in
        [("limit=0", "limit"), ("limit=101", "limit"), ("cursor=x", "cursor"), ("include_deleted=1", "include_deleted")]
    {
        let answer = world.get(&format!("/mailboxes?{query}")).key(&team.root).send().await;
        assert_eq!(answer.refusal(), (400, "invalid_parameter".to_owned()), "{query}");
        assert_eq!(answer.param(), param);
    }
    let missing = world.get("/mailboxes/availability").key(&team.root).send().await;
    assert_eq!((missing.refusal(), missing.param().as_str()), ((400, "missing_parameter".to_owned()), "email"));
}

#[tokio::test]
async fn a_revoked_key_fails_at_once_and_a_suspended_mailbox_keeps_its_keys_out() {
    let world = World::new().await;
    let team = world.team("a.test").await;
    let second = world.team_key(&team.id, Kind::Infrastructure, Preset::Full.permissions()).await;
    let id = world.get("/me").key(&second).send().await.data()["credential"]["id"].as_str().unwrap().to_owned();
    assert_eq!(world.delete(&format!("/keys/{id}")).key(&team.root).send().await.status, 200);
    assert_eq!(world.get("/me").key(&second).send().await.status, 401, "without waiting");
    let mailbox = world.mailbox(&team, "box").await;
    assert_eq!(world.get("/mailbox/me").key(&mailbox.key).send().await.status, 200);
    world.post(&format!("/mailboxes/{}/suspend", mailbox.id)).key(&team.root).send().await.data();
    let out = world.get("/mailbox/me").key(&mailbox.key).send().await;
    assert_eq!(out.refusal(), (403, "insufficient_permissions".to_owned()));
    world.post(&format!("/mailboxes/{}/resume", mailbox.id)).key(&team.root).send().await.data();
    assert_eq!(world.get("/mailbox/me").key(&mailbox.key).send().await.status, 200);
    world.delete(&format!("/mailboxes/{}", mailbox.id)).key(&team.root).send().await.data();
    assert_eq!(world.get("/mailbox/me").key(&mailbox.key).send().await.status, 401);
}

#[tokio::test]
async fn a_repeated_request_is_answered_once_and_for_all() {
    let world = World::new().await;
    let team = world.team("a.test").await;
    let body = json!({"email": "box@a.test"});
    let create = |key: &str| world.post("/mailboxes").key(&team.root).header("idempotency-key", key).json(&body);
    let first = create("k1").send().await;
    assert_eq!(first.status, 201);
    let again = create("k1").send().await;
    assert_eq!((again.status, &again.body), (first.status, &first.body), "the one-time secret included");
    for header in ["location", "etag", "x-request-id", "content-type"] {
        assert_eq!(again.header(header), first.header(header), "{header}");
    }
    let other = world.post("/mailboxes").key(&team.root).header("idempotency-key", "k1");
    let other = other.json(&json!({"email": "other@a.test"})).send().await;
    assert_eq!(other.refusal(), (409, "idempotency_conflict".to_owned()));
    assert_eq!(create("k2").send().await.refusal(), (409, "conflict".to_owned()), "the address is taken");
    let refused = world.post("/mailboxes").key(&team.root).header("idempotency-key", "k3");
    assert_eq!(refused.json(&json!({"email": "box@elsewhere.test"})).send().await.status, 422);
    let retried = world.post("/mailboxes").key(&team.root).header("idempotency-key", "k3");
    assert_eq!(retried.json(&json!({"email": "third@a.test"})).send().await.status, 201, "a refusal burns no key");
    for bad in ["", "a b", &"x".repeat(256)] {
        assert_eq!(create(bad).send().await.param(), "Idempotency-Key", "{bad:?}");
    }
    world.advance(25 * 60 * 60 * SECOND);
    assert_eq!(create("k1").send().await.status, 409, "a day later the key is new, and the address taken");
}

#[tokio::test]
async fn the_same_key_on_another_target_or_route_is_another_request() {
    let world = World::new().await;
    let team = world.team("a.test").await;
    let (a, b) = (world.mailbox(&team, "one").await, world.mailbox(&team, "two").await);
    let post = |path: String| world.post(&path).key(&team.root).header("idempotency-key", "k").send();
    assert_eq!(post(format!("/mailboxes/{}/suspend", a.id)).await.status, 200);
    assert_eq!(post(format!("/mailboxes/{}/suspend", a.id)).await.status, 200);
    let other = post(format!("/mailboxes/{}/suspend", b.id)).await;
    assert_eq!(other.refusal(), (409, "idempotency_conflict".to_owned()));
    assert_eq!(post(format!("/mailboxes/{}/resume", a.id)).await.status, 200, "another route has its own keys");
}

#[tokio::test]
async fn path_segments_may_be_percent_encoded() {
    let world = World::new().await;
    let team = world.team("a.test").await;
    let mailbox = world.mailbox(&team, "box").await;
    let encoded = mailbox.id.to_string().replace('_', "%5F");
    assert_eq!(world.get(&format!("/mailboxes/{encoded}")).key(&team.root).send().await.status, 200);
    for bad in ["%FF", "mbx_short", "..%2f..", "%00"] {
        let answer = world.get(&format!("/mailboxes/{bad}")).key(&team.root).send().await;
        assert_eq!(answer.refusal(), (404, "not_found".to_owned()), "{bad}");
    }
}

#[tokio::test]
async fn the_document_is_public_and_cacheable() {
    let world = World::new().await;
    let answer = world.get("/openapi.json").send().await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("cache-control"), "public, max-age=3600");
    assert_eq!(answer.json()["openapi"], "3.1.0");
    let again = world.get("/openapi.json").header("if-none-match", &answer.header("etag")).send().await;
    assert_eq!((again.status.as_u16(), again.body.len()), (304, 0));
}
