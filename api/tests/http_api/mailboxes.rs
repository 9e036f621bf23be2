//! Mailboxes, their credentials and their sender rules.

use domain::team::Limits;
use serde_json::json;

use crate::harness::World;

#[tokio::test]
async fn a_created_mailbox_can_be_read_listed_and_used_at_once() {
    let world = World::new().await;
    let team = world.team("a.test").await;
    let body = json!({"email": "Box@A.test", "display_name": "Box", "quota_bytes": 5_368_709_120_i64});
    let made = world.post("/mailboxes").key(&team.root).json(&body).send().await;
    assert_eq!(made.status, 201);
    let data = made.data();
    let id = data["mailbox"]["id"].as_str().unwrap();
    assert_eq!(made.header("location"), format!("/api/v1/mailboxes/{id}"));
    assert_eq!(data["warning"], json!(null));
    let credential = &data["credential"];
    assert_eq!((&credential["username"], &credential["imap_port"]), (&json!("box@a.test"), &json!(993)));
    let shown = world.get(&format!("/mailboxes/{id}")).key(&team.root).send().await;
    assert_eq!(shown.data(), data["mailbox"]);
    assert_eq!(shown.header("etag"), made.header("etag"));
    assert_eq!(
        shown.data(),
        json!({
            "id": id, "email": "box@a.test", "display_name": "Box", "quota_bytes": 5_368_709_120_i64,
            "send_scope": {"type": "all"}, "status": "active", "created_at": "2026-11-21T10:00:00.000Z",
        })
    );
    let listed = world.get("/mailboxes").key(&team.root).send().await;
    assert_eq!(listed.data(), json!([data["mailbox"]]));
    assert_eq!(listed.json()["pagination"], json!({"has_more": false}));
    let me = world.get("/mailbox/me").key(credential["secret"].as_str().unwrap()).send().await.data();
    assert_eq!((&me["id"], &me["quota_used_bytes"]), (&json!(id), &json!(0)));
}

#[tokio::test]
async fn what_a_mailbox_cannot_be_is_refused() {
    let world = World::new().await;
    let team = world.team("a.test").await;
    world.mailbox(&team, "taken").await;
    let rows = [
        (json!({"email": "taken@a.test"}), 409, "conflict"),
        (json!({"email": "TAKEN@a.test"}), 409, "conflict"),
        (json!({"email": "box@b.test"}), 422, "validation_error"),
        (json!({"email": "box"}), 400, "invalid_parameter"),
        (json!({"email": "a..b@a.test"}), 400, "invalid_parameter"),
        (json!({"email": "\"a b\"@a.test"}), 400, "invalid_parameter"),
        (json!({"email": "box@[192.0.2.1]"}), 400, "invalid_parameter"),
        (json!({"email": "box@a.test", "quota_bytes": 7}), 422, "validation_error"),
        (json!({"email": "box@a.test", "quota_bytes": 0}), 400, "invalid_parameter"),
        (json!({"email": "box@a.test", "send_scope": {"type": "providers"}}), 422, "validation_error"),
    ];
    for (body, status, code) in rows {
        let answer = world.post("/mailboxes").key(&team.root).json(&body).send().await;
        assert_eq!(answer.refusal(), (status, code.to_owned()), "{body}");
    }
    let strangers = world.team("b.test").await;
    let answer = world.post("/mailboxes").key(&strangers.root).json(&json!({"email": "box@a.test"})).send().await;
    assert_eq!(answer.refusal(), (422, "validation_error".to_owned()), "another team's domain");
}

#[tokio::test]
async fn a_mailbox_at_the_key_limit_has_no_credential_but_a_warning() {
    let world = World::new().await;
    let team = world.team_with("a.test", Limits { active_keys: 1, mailboxes: 1, ..Limits::default() }).await;
    let made = world.post("/mailboxes").key(&team.root).json(&json!({"email": "box@a.test"})).send().await;
    assert_eq!((made.status.as_u16(), &made.data()["credential"]), (201, &json!(null)));
    assert!(made.data()["warning"].as_str().unwrap().contains("limit"));
    let id = made.data()["mailbox"]["id"].as_str().unwrap().to_owned();
    let keys = format!("/mailboxes/{id}/keys");
    let key = world.post(&keys).key(&team.root).json(&json!({"app_name": "x"})).send().await;
    assert_eq!(key.refusal(), (409, "limit_exceeded".to_owned()));
    let second = world.post("/mailboxes").key(&team.root).json(&json!({"email": "two@a.test"})).send().await;
    assert_eq!(second.refusal(), (409, "limit_exceeded".to_owned()));
}

#[tokio::test]
async fn availability_says_why() {
    let world = World::new().await;
    let team = world.team("a.test").await;
    world.mailbox(&team, "taken").await;
    for (email, reason) in [
        ("free@a.test", "available"),
        ("Taken@a.test", "taken"),
        ("free@b.test", "domain_not_available"),
        ("nonsense", "invalid_email"),
    ] {
        let path = format!("/mailboxes/availability?email={email}");
        let data = world.get(&path).key(&team.root).send().await.data();
        assert_eq!(data["reason"], reason, "{email}");
        assert_eq!(data["available"], reason == "available");
    }
}

#[tokio::test]
async fn an_update_needs_the_version_it_names() {
    let world = World::new().await;
    let team = world.team("a.test").await;
    let mailbox = world.mailbox(&team, "box").await;
    let path = format!("/mailboxes/{}", mailbox.id);
    let tag = world.get(&path).key(&team.root).send().await.header("etag");
    assert_eq!(tag, "W/\"1\"");
    let update = |tag: &str, name: serde_json::Value| {
        world.patch(&path).key(&team.root).header("if-match", tag).json(&json!({"display_name": name}))
    };
    let changed = update(&tag, json!("New")).send().await;
    assert_eq!((changed.status.as_u16(), changed.header("etag").as_str()), (200, "W/\"2\""));
    assert_eq!(changed.data()["display_name"], "New");
    let stale = update(&tag, json!("Newer")).send().await;
    assert_eq!(stale.refusal(), (409, "conflict".to_owned()));
    assert_eq!(stale.header("etag"), "W/\"2\"", "the current tag is told");
    assert_eq!(update("W/\"other\"", json!("x")).send().await.status, 409);
    assert_eq!(update("*", json!(null)).send().await.data()["display_name"], json!(null));
    assert_eq!(update("nonsense", json!("x")).send().await.status, 400);
    let shown = world.get(&path).key(&team.root).send().await;
    assert_eq!((shown.header("etag").as_str(), &shown.data()["display_name"]), ("W/\"3\"", &json!(null)));
    let same = world.patch(&path).key(&team.root).json(&json!({})).send().await;
    assert_eq!((same.status.as_u16(), same.header("etag").as_str()), (200, "W/\"3\""), "nothing changed");
}

#[tokio::test]
async fn a_quota_never_shrinks_below_what_is_used() {
    let world = World::new().await;
    let team = world.team("a.test").await;
    let mailbox = world.mailbox(&team, "box").await;
    let path = format!("/mailboxes/{}", mailbox.id);
    let tier = |bytes: i64| world.patch(&path).key(&team.root).json(&json!({"quota_bytes": bytes}));
    assert_eq!(tier(5 << 30).send().await.data()["quota_bytes"], 5_368_709_120_i64);
    assert_eq!(tier(1 << 30).send().await.status, 200);
    assert_eq!(tier(2 << 30).send().await.refusal(), (422, "validation_error".to_owned()));
}

#[tokio::test]
async fn a_deleted_mailbox_stays_deleted() {
    let world = World::new().await;
    let team = world.team("a.test").await;
    let mailbox = world.mailbox(&team, "box").await;
    let path = format!("/mailboxes/{}", mailbox.id);
    for _ in 0..2 {
        let gone = world.delete(&path).key(&team.root).send().await;
        assert_eq!(gone.data(), json!({"id": mailbox.id.to_string(), "deleted": true}));
    }
    assert_eq!(world.get(&path).key(&team.root).send().await.data()["status"], "deleted");
    assert_eq!(world.get("/mailboxes").key(&team.root).send().await.data(), json!([]));
    let all = world.get("/mailboxes?include_deleted=true").key(&team.root).send().await.data();
    assert_eq!(all[0]["status"], "deleted");
    for action in ["suspend", "resume"] {
        let answer = world.post(&format!("{path}/{action}")).key(&team.root).send().await;
        assert_eq!(answer.refusal(), (409, "conflict".to_owned()), "{action}");
    }
    assert_eq!(world.patch(&path).key(&team.root).json(&json!({})).send().await.status, 404);
    assert_eq!(world.get(&format!("{path}/filters")).key(&team.root).send().await.status, 404);
    let key = world.post(&format!("{path}/keys")).key(&team.root).json(&json!({"app_name": "x"})).send().await;
    assert_eq!(key.refusal(), (422, "validation_error".to_owned()));
    let again = world.post("/mailboxes").key(&team.root).json(&json!({"email": "box@a.test"})).send().await;
    assert_eq!(again.status, 201, "its address is free again");
}

#[tokio::test]
async fn suspending_and_resuming_are_idempotent() {
    let world = World::new().await;
    let team = world.team("a.test").await;
    let mailbox = world.mailbox(&team, "box").await;
    for (action, status) in
        [("suspend", "suspended"), ("suspend", "suspended"), ("resume", "active"), ("resume", "active")]
    {
        let path = format!("/mailboxes/{}/{action}", mailbox.id);
        assert_eq!(world.post(&path).key(&team.root).send().await.data()["status"], status);
    }
}

#[tokio::test]
async fn pages_partition_the_list() {
    let world = World::new().await;
    let team = world.team("a.test").await;
    let mut made = vec![];
    for n in 0..5 {
        made.push(world.mailbox(&team, &format!("box{n}")).await.id.to_string());
    }
    made.reverse();
    let (mut seen, mut cursor) = (vec![], String::new());
    loop {
        let page = world.get(&format!("/mailboxes?limit=2{cursor}")).key(&team.root).send().await.json();
        seen.extend(page["data"].as_array().unwrap().iter().map(|m| m["id"].as_str().unwrap().to_owned()));
        match page["pagination"]["next_cursor"].as_str() {
            Some(next) => {
                assert_eq!(page["pagination"]["has_more"], true);
                cursor = format!("&cursor={next}");
            }
            None => break,
        }
    }
    assert_eq!(seen, made, "newest first");
}

#[tokio::test]
async fn a_further_credential_works_until_it_is_deleted() {
    let world = World::new().await;
    let team = world.team("a.test").await;
    let (mailbox, other) = (world.mailbox(&team, "box").await, world.mailbox(&team, "other").await);
    let path = format!("/mailboxes/{}/keys", mailbox.id);
    let made = world.post(&path).key(&team.root).json(&json!({"app_name": "phone"})).send().await;
    assert_eq!(made.status, 201);
    let credential = made.data()["credential"].clone();
    let (id, secret) = (credential["public_id"].as_str().unwrap(), credential["secret"].as_str().unwrap());
    assert_eq!(made.header("location"), format!("/api/v1{path}/{id}"));
    assert_eq!(world.get("/mailbox/me").key(secret).send().await.status, 200);
    let wrong = world.delete(&format!("/mailboxes/{}/keys/{id}", other.id)).key(&team.root).send().await;
    assert_eq!(wrong.refusal(), (404, "not_found".to_owned()), "it is another mailbox's");
    for _ in 0..2 {
        let gone = world.delete(&format!("{path}/{id}")).key(&team.root).send().await;
        assert_eq!(gone.data(), json!({"id": id, "deleted": true}));
    }
    assert_eq!(world.get("/mailbox/me").key(secret).send().await.status, 401);
}

#[tokio::test]
async fn sender_rules_are_replaced_as_a_whole() {
    let world = World::new().await;
    let team = world.team("a.test").await;
    let mailbox = world.mailbox(&team, "box").await;
    let path = format!("/mailboxes/{}/filters", mailbox.id);
    let off = world.get(&path).key(&team.root).send().await;
    assert_eq!(off.data(), json!({"mode": "off", "rules": []}));
    let rules = json!({"mode": "allowlist", "rules": [
        {"type": "allow", "pattern": "*@Zeta.example", "note": "all of them"},
        {"type": "allow", "pattern": "Ann@Example.net"},
    ]});
    let set = world.put(&path).key(&team.root).header("if-match", &off.header("etag")).json(&rules).send().await;
    assert_eq!(
        set.data(),
        json!({"mode": "allowlist", "rules": [
            {"type": "allow", "pattern": "ann@example.net", "note": null},
            {"type": "allow", "pattern": "zeta.example", "note": "all of them"},
        ]})
    );
    assert_eq!(world.get(&path).key(&team.root).send().await.data(), set.data());
    let stale = world.put(&path).key(&team.root).header("if-match", &off.header("etag")).json(&rules).send().await;
    assert_eq!(stale.status, 409);
    let rows = [
        (json!({"mode": "allowlist", "rules": [{"type": "deny", "pattern": "x.test"}]}), 422, "rules.0.type"),
        (json!({"mode": "off", "rules": [{"type": "deny", "pattern": "x.test"}]}), 422, "rules.0.type"),
        (json!({"mode": "denylist", "rules": [{"type": "deny", "pattern": "a b"}]}), 422, "rules.0.pattern"),
        (
            json!({"mode": "denylist", "rules": [{"type": "deny", "pattern": "x.test", "note": "x".repeat(256)}]}),
            400,
            "rules.0.note",
        ),
        (json!({"mode": "some", "rules": []}), 400, "mode"),
        (json!({"mode": "off"}), 400, "rules"),
        (json!({"mode": "denylist", "rules": vec![json!({"type": "deny", "pattern": "x.test"}); 1_001]}), 400, "rules"),
    ];
    for (body, status, param) in rows {
        let answer = world.put(&path).key(&team.root).json(&body).send().await;
        assert_eq!((answer.status.as_u16(), answer.param().as_str()), (status, param));
    }
}
