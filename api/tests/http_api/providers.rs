//! Sending accounts, delivery groups and the keys that are confined to them.

use domain::id::ProviderId;
use domain::provider::Provider;
use domain::{StreamId, Versioned};
use serde_json::{Value, json};

use crate::harness::{Team, World};
use crate::sending;

fn account() -> Value {
    json!({
        "name": "Own", "smtp_host": "SMTP.example.com", "smtp_port": 587, "smtp_protocol": "starttls",
        "smtp_username": "ann", "smtp_password": "hunter2", "percentage": 50,
        "quotas": {"per_hour": 100, "per_day": {"min": 500, "max": 700}}, "variables": {"brand_name": "Acme"},
    })
}

async fn make(world: &World, team: &Team, body: &Value) -> Value {
    let made = world.post("/providers").key(&team.root).json(body).send().await;
    assert_eq!(made.status, 201, "{:?}", made.json());
    made.data()
}

#[tokio::test]
async fn an_account_is_created_read_changed_and_deleted() {
    let world = World::new().await;
    let team = world.team("a.test").await;
    let made = make(&world, &team, &account()).await;
    assert!(!made.to_string().contains("hunter2"), "{made}");
    let path = format!("/providers/{}", made["id"].as_str().unwrap());
    let shown = world.get(&path).key(&team.root).send().await;
    assert_eq!(shown.data(), made);
    assert_eq!(
        (&made["status"], &made["smtp_host"], &made["type"]),
        (&json!("active"), &json!("smtp.example.com"), &json!("smtp"))
    );
    assert_eq!(made["quotas"]["per_hour"], json!({"min": 100, "max": 100}));
    let same = world.get(&path).key(&team.root).header("if-none-match", &shown.header("etag")).send().await;
    assert_eq!(same.status, 304);
    let change = json!({"name": "Renamed", "smtp_password": "hunter3", "quotas": {"per_hour": null}, "variables": {}});
    let changed =
        world.patch(&path).key(&team.root).header("if-match", &shown.header("etag")).json(&change).send().await;
    assert_eq!(changed.status, 200, "{:?}", changed.json());
    let data = changed.data();
    assert_eq!(
        (&data["name"], &data["quotas"]["per_hour"], &data["variables"]),
        (&json!("Renamed"), &Value::Null, &json!({}))
    );
    assert_eq!(data["quotas"]["per_day"]["max"], 700);
    let stale = world.patch(&path).key(&team.root).header("if-match", &shown.header("etag")).json(&change).send().await;
    assert_eq!(stale.refusal(), (409, "conflict".to_owned()));
    let id: ProviderId = made["id"].as_str().unwrap().parse().unwrap();
    let fold: Versioned<Provider> = world.app.log.state(&team.id, &[StreamId::Provider(id)]).await.unwrap();
    let sealed = world.app.log.secret(&team.id, fold.secret.as_ref().unwrap(), "provider").await.unwrap().unwrap();
    assert_eq!(sealed.expose_str(), r#"{"username":"ann","password":"hunter3"}"#);
    let off = world.post(&format!("{path}/deactivate")).key(&team.root).send().await.data();
    assert_eq!((&off["status"], &off["is_active"]), (&json!("inactive"), &json!(false)));
    let listed = world.get("/providers?status=inactive&type=smtp").key(&team.root).send().await.data();
    assert_eq!((listed.as_array().unwrap().len(), &listed[0]["variables"]), (1, &Value::Null));
    let on = world.post(&format!("{path}/activate")).key(&team.root).send().await.data();
    assert_eq!(on["status"], "active");
    assert_eq!(world.delete(&path).key(&team.root).send().await.data()["deleted"], true);
    assert_eq!(world.get(&path).key(&team.root).send().await.status, 404);
}

#[tokio::test]
async fn what_an_account_cannot_be_is_refused_and_named() {
    let world = World::new().await;
    let team = world.team("a.test").await;
    for (field, value, status, named) in [
        ("smtp_host", json!("127.0.0.1"), 422, "smtp_host"),
        ("smtp_host", json!("10.0.0.1"), 422, "smtp_host"),
        ("smtp_host", json!("localhost"), 422, "smtp_host"),
        ("smtp_host", json!("a b"), 422, "smtp_host"),
        ("smtp_port", json!(0), 400, "smtp_port"),
        ("smtp_port", json!(70000), 400, "smtp_port"),
        ("smtp_protocol", json!("plain"), 400, "smtp_protocol"),
        ("percentage", json!(101), 400, "percentage"),
        ("from_email", json!("nobody"), 422, "from_email"),
        ("quotas", json!({"per_day": 0}), 422, "quotas.per_day"),
        ("quotas", json!({"per_day": {"min": 2, "max": 1}}), 422, "quotas.per_day"),
        ("variables", json!({"Bad Name": "x"}), 422, "variables"),
        ("surprise", json!(1), 400, "surprise"),
    ] {
        let mut body = account();
        body[field] = value.clone();
        let answer = world.post("/providers").key(&team.root).json(&body).send().await;
        assert_eq!((answer.status.as_u16(), answer.param().as_str()), (status, named), "{value}");
    }
    let mut body = account();
    body.as_object_mut().unwrap().remove("smtp_host");
    let answer = world.post("/providers").key(&team.root).json(&body).send().await;
    assert_eq!((answer.status.as_u16(), answer.param().as_str()), (400, "smtp_host"));
}

#[tokio::test]
async fn a_key_confined_to_a_group_sends_through_it_alone() {
    let world = World::new().await;
    let (team, _) = sending::sender(&world, "a.test").await;
    let account = make(&world, &team, &account()).await;
    let group = json!({"name": "Own only", "members": [{"provider_id": account["id"], "weight": 30}]});
    let group = world.post("/delivery-groups").key(&team.root).json(&group).send().await.data();
    let path = format!("/delivery-groups/{}", group["id"].as_str().unwrap());
    let shown = world.get(&path).key(&team.root).send().await;
    assert_eq!(shown.data(), group);
    assert_eq!(world.get("/delivery-groups").key(&team.root).send().await.data(), json!([group]));
    let scope = json!({"type": "group", "group_public_ids": [group["id"]]});
    let key = json!({"name": "worker", "kind": "sending", "send_scope": scope});
    let key = world.post("/keys").key(&team.root).json(&key).send().await.data();
    let key = key["secret"].as_str().unwrap();
    assert_eq!(world.post("/emails/send").key(key).json(&sending::mail()).send().await.status, 200);
    let off = format!("/providers/{}/deactivate", account["id"].as_str().unwrap());
    assert_eq!(world.post(&off).key(&team.root).send().await.status, 200);
    let answer = world.post("/emails/send").key(key).json(&sending::mail()).send().await;
    assert_eq!(answer.refusal(), (503, "no_active_providers".to_owned()), "the sandbox is not in its group");
    let stranger = json!({"members": [{"provider_id": "dprov_000000000000000000000000"}]});
    let refused = world.patch(&path).key(&team.root).json(&stranger).send().await;
    assert_eq!((refused.refusal().0, refused.param().as_str()), (422, "members"));
    let renamed = world.patch(&path).key(&team.root).json(&json!({"name": "Other", "is_default": true})).send().await;
    assert_eq!((&renamed.data()["name"], &renamed.data()["is_default"]), (&json!("Other"), &json!(true)));
    assert_eq!(world.delete(&path).key(&team.root).send().await.status, 200);
    assert_eq!(world.get(&path).key(&team.root).send().await.status, 404);
}
