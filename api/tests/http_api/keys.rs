//! API keys of the team.

use std::collections::HashSet;

use api::auth::secret::{Pepper, Presented, mint};
use domain::api_key::Kind;
use domain::permission::{Permissions, Preset};
use domain::team::Limits;
use serde_json::json;

use crate::harness::World;

#[tokio::test]
async fn a_created_key_works_in_both_spellings_and_is_listed_without_its_secret() {
    let world = World::new().await;
    let team = world.team("a.test").await;
    let body = json!({"name": "ci", "kind": "infrastructure", "preset": "root:readonly"});
    let made = world.post("/keys").key(&team.root).json(&body).send().await;
    assert_eq!(made.status, 201);
    let data = made.data();
    let (secret, alternate) = (data["secret"].as_str().unwrap(), data["secret_alternate"].as_str().unwrap());
    assert!(secret.starts_with("smx_inf_") && alternate.starts_with("smx_root_"));
    for key in [secret, alternate] {
        assert_eq!(world.get("/mailboxes").key(key).send().await.status, 200);
        let refused = world.post("/mailboxes").key(key).json(&json!({"email": "x@a.test"})).send().await;
        assert_eq!(refused.refusal(), (403, "insufficient_permissions".to_owned()));
    }
    let id = data["id"].as_str().unwrap();
    assert_eq!(made.header("location"), format!("/api/v1/keys/{id}"));
    let shown = world.get(&format!("/keys/{id}")).key(&team.root).send().await;
    assert_eq!(shown.data()["name"], "ci");
    assert_eq!(shown.data()["status"], "active");
    assert_eq!(shown.data()["key_prefix"], data["key_prefix"]);
    assert!(secret.ends_with(data["key_suffix"].as_str().unwrap()));
    let listed = world.get("/keys").key(&team.root).send().await;
    assert_eq!(listed.data().as_array().unwrap().len(), 2);
    assert!(!String::from_utf8_lossy(&listed.body).contains(&secret[8..]));
}

#[tokio::test]
async fn nobody_hands_out_more_than_they_hold() {
    let world = World::new().await;
    let team = world.team("a.test").await;
    let permissions = Permissions::parse(["key.*", "mailbox.admin.read"]).unwrap();
    let small = world.team_key(&team.id, Kind::Infrastructure, permissions).await;
    let create = |permissions: serde_json::Value| {
        let body = json!({"name": "x", "kind": "infrastructure", "permissions": permissions});
        world.post("/keys").key(&small).json(&body)
    };
    assert_eq!(create(json!(["mailbox.admin.read"])).send().await.status, 201);
    let forbidden = (403, "insufficient_permissions".to_owned());
    assert_eq!(create(json!(["mailbox.admin.*"])).send().await.refusal(), forbidden);
    assert_eq!(create(json!(["billing.read"])).send().await.refusal(), forbidden);
    let root = world.get("/me").key(&team.root).send().await.data()["credential"]["id"].as_str().unwrap().to_owned();
    let rotate = world.post(&format!("/keys/{root}/rotate")).key(&small).json(&json!({})).send().await;
    assert_eq!(rotate.refusal(), forbidden, "rotating is handing out");
}

#[tokio::test]
async fn what_does_not_fit_a_kind_is_refused() {
    let world = World::new().await;
    let team = world.team("a.test").await;
    let rows = [
        (json!({"name": "x", "kind": "mailbox"}), 422, "kind"),
        (json!({"name": "x", "kind": "infrastructure"}), 422, "permissions"),
        (json!({"name": "x", "kind": "infrastructure", "permissions": ["email.send"]}), 422, "permissions"),
        (json!({"name": "x", "kind": "infrastructure", "permissions": ["nonsense"]}), 400, "permissions"),
        (json!({"name": "x", "kind": "infrastructure", "preset": "nonsense"}), 400, "preset"),
        (json!({"name": "x", "kind": "sending", "permissions": ["billing.read"]}), 422, "permissions"),
        (json!({"name": "", "kind": "sending"}), 400, "name"),
        (json!({"name": "x", "kind": "sending", "permissions": []}), 400, "permissions"),
    ];
    for (body, status, param) in rows {
        let answer = world.post("/keys").key(&team.root).json(&body).send().await;
        assert_eq!((answer.status.as_u16(), answer.param().as_str()), (status, param), "{body}");
    }
    let sending = world.post("/keys").key(&team.root).json(&json!({"name": "x", "kind": "sending"})).send().await;
    assert_eq!(sending.data()["permissions"], json!(["email.send"]));
}

#[tokio::test]
async fn a_rotated_key_keeps_working_until_it_is_revoked_unless_asked_otherwise() {
    let world = World::new().await;
    let team = world.team("a.test").await;
    let body = json!({"name": "ci", "kind": "infrastructure", "preset": "root:full"});
    let old = world.post("/keys").key(&team.root).json(&body).send().await.data();
    let (old_id, old_secret) = (old["id"].as_str().unwrap(), old["secret"].as_str().unwrap());
    let rotate = world.post(&format!("/keys/{old_id}/rotate")).key(&team.root);
    let new = rotate.header("idempotency-key", "r").json(&json!({})).send().await;
    assert_eq!((new.status.as_u16(), &new.data()["replaces"], &new.data()["name"]), (201, &old["id"], &old["name"]));
    let again = world.post(&format!("/keys/{old_id}/rotate")).key(&team.root);
    let again = again.header("idempotency-key", "r").json(&json!({})).send().await;
    assert_eq!(again.body, new.body, "the same secret again");
    assert_eq!(world.get("/me").key(old_secret).send().await.status, 200);
    let newer =
        world.post(&format!("/keys/{old_id}/rotate")).key(&team.root).json(&json!({"revoke_old": true})).send().await;
    assert_eq!(newer.status, 201);
    assert_eq!(world.get("/me").key(old_secret).send().await.status, 401);
    let dead = world.post(&format!("/keys/{old_id}/rotate")).key(&team.root).json(&json!({})).send().await;
    assert_eq!(dead.refusal(), (409, "conflict".to_owned()));
}

#[tokio::test]
async fn a_key_beyond_the_limit_is_refused() {
    let world = World::new().await;
    let team = world.team_with("a.test", Limits { active_keys: 1, ..Limits::default() }).await;
    let body = json!({"name": "x", "kind": "sending"});
    let answer = world.post("/keys").key(&team.root).json(&body).send().await;
    assert_eq!(answer.refusal(), (409, "limit_exceeded".to_owned()));
}

#[tokio::test]
async fn revoked_keys_are_listed_only_when_asked_for() {
    let world = World::new().await;
    let team = world.team("a.test").await;
    world.team_key(&team.id, Kind::Infrastructure, Preset::ReadOnly.permissions()).await;
    let listed = world.get("/keys").key(&team.root).send().await.data();
    let second = listed[0]["id"].as_str().unwrap();
    for _ in 0..2 {
        let gone = world.delete(&format!("/keys/{second}")).key(&team.root).send().await;
        assert_eq!(gone.data(), json!({"id": second, "deleted": true}));
    }
    let count = async |query: &str| {
        world.get(&format!("/keys{query}")).key(&team.root).send().await.data().as_array().unwrap().len()
    };
    assert_eq!((count("").await, count("?include_revoked=true").await, count("?kind=sending").await), (1, 2, 0));
    let shown = world.get(&format!("/keys/{second}")).key(&team.root).send().await.data();
    assert_eq!(shown["status"], "revoked");
}

#[test]
fn no_two_keys_are_the_same_and_none_is_taken_with_a_typing_error() {
    let count = std::env::var("POSTLOG_TEST_KEYS").ok().and_then(|text| text.parse().ok()).unwrap_or(20_000);
    let (allot, pepper) = (eventlog::Allot::system(), Pepper::new([7; 32]));
    let (mut secrets, mut lookups, mut ids) = (HashSet::new(), HashSet::new(), HashSet::new());
    for n in 0..count {
        let fresh = mint(&allot, &pepper, Kind::Sending);
        let secret = fresh.secret.expose_str().to_owned();
        // Two characters that stand beside each other change places.
        let mut typed = secret.clone().into_bytes();
        let at = 8 + n % 57;
        typed.swap(at, at + 1);
        let typed = String::from_utf8(typed).unwrap();
        assert!(typed == secret || Presented::parse(&typed).is_none(), "{typed} is taken");
        assert!(lookups.insert(fresh.minted.lookup) && ids.insert(fresh.minted.key) && secrets.insert(secret));
    }
    assert_eq!(secrets.len(), count);
}
