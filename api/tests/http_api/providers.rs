//! Sending accounts, delivery groups and the keys that are confined to them.

use domain::api_key::Kind;
use domain::balance::ChangeCreditLimit;
use domain::id::ProviderId;
use domain::money::Nanos;
use domain::permission::{Permissions, SENDING_PERMISSIONS};
use domain::provider::quota::Range;
use domain::provider::{CreateProvider, Identity, Provider, Quotas, Settings, Transport};
use domain::team::Limits;
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

#[tokio::test]
async fn a_way_to_the_recipients_own_servers_is_made_where_the_operator_allows_it() {
    let direct = json!({"name": "Direct", "type": "direct_mx", "percentage": 30});
    for allow_direct in [false, true] {
        let world = World::with(api::Config { allow_direct, ..api::Config::default() }).await;
        let team = world.team("a.test").await;
        let answer = world.post("/providers").key(&team.root).json(&direct).send().await;
        if !allow_direct {
            assert_eq!((answer.status.as_u16(), answer.json()["error"]["param"].as_str()), (422, Some("type")));
            continue;
        }
        assert_eq!(answer.status, 201);
        let made = answer.data();
        assert_eq!((&made["type"], &made["transport"]), (&json!("smtp"), &json!("direct_mx")), "{made}");
        for (field, value) in [("smtp_host", json!("smtp.example.com")), ("ses_region", json!("eu-west-1"))] {
            let mut body = direct.clone();
            body[field] = value;
            let answer = world.post("/providers").key(&team.root).json(&body).send().await;
            assert_eq!((answer.status.as_u16(), answer.json()["error"]["param"].as_str()), (422, Some(field)));
        }
    }
}

#[tokio::test]
async fn an_account_at_amazon_ses_is_made_and_changed() {
    let world = World::new().await;
    let team = world.team("a.test").await;
    let ses = json!({
        "name": "SES", "type": "amazon_ses", "ses_region": "eu-central-1", "ses_access_key_id": "AKIAX",
        "ses_secret_access_key": "hush", "ses_configuration_set": "events",
    });
    let made = make(&world, &team, &ses).await;
    assert_eq!(
        (&made["type"], &made["transport"], &made["smtp_host"]),
        (&json!("amazon_ses"), &json!("ses"), &Value::Null)
    );
    assert_eq!((&made["ses_region"], &made["ses_access_key_id"]), (&json!("eu-central-1"), &json!("AKIAX")));
    assert!(!made.to_string().contains("hush"));
    let path = format!("/providers/{}", made["id"].as_str().unwrap());
    let change = json!({"ses_region": "us-east-1", "ses_configuration_set": null, "ses_secret_access_key": "hush2"});
    let changed = world.patch(&path).key(&team.root).json(&change).send().await.data();
    assert_eq!((&changed["ses_region"], &changed["ses_configuration_set"]), (&json!("us-east-1"), &Value::Null));
    let id: ProviderId = made["id"].as_str().unwrap().parse().unwrap();
    let fold: Versioned<Provider> = world.app.log.state(&team.id, &[StreamId::Provider(id)]).await.unwrap();
    let sealed = world.app.log.secret(&team.id, fold.secret.as_ref().unwrap(), "provider").await.unwrap().unwrap();
    assert_eq!(sealed.expose_str(), r#"{"username":"AKIAX","password":"hush2"}"#);
    let rows = [
        ("ses_region", json!("eu.evil.example"), 422, "ses_region"),
        ("ses_region", Value::Null, 400, "ses_region"),
        ("ses_configuration_set", json!("a b"), 422, "ses_configuration_set"),
        ("ses_secret_access_key", Value::Null, 400, "ses_secret_access_key"),
        ("smtp_host", json!("smtp.example.com"), 422, "smtp_host"),
        ("type", json!("gmail_api"), 400, "type"),
    ];
    for (field, value, status, named) in rows {
        let mut body = ses.clone();
        match value {
            Value::Null => drop(body.as_object_mut().unwrap().remove(field)),
            value => body[field] = value,
        }
        let answer = world.post("/providers").key(&team.root).json(&body).send().await;
        assert_eq!((answer.refusal().0, answer.param().as_str()), (status, named), "{:?}", answer.json());
    }
    let other = world.patch(&path).key(&team.root).json(&json!({"smtp_host": "smtp.example.com"})).send().await;
    assert_eq!((other.refusal().0, other.param().as_str()), (422, "smtp_host"));
    let turned = world.patch(&path).key(&team.root).json(&json!({"type": "smtp"})).send().await;
    assert_eq!((turned.refusal().0, turned.param().as_str()), (422, "type"));
}

#[tokio::test]
async fn more_accounts_are_asked_for_from_four_fifths_of_the_limit_on() {
    let world = World::new().await;
    let limits = Limits { sending_accounts: 5, ..Limits::default() };
    let team = world.team_with("a.test", limits).await;
    for _ in 0..3 {
        make(&world, &team, &account()).await;
    }
    let get = || world.get("/providers/limits").key(&team.root).send();
    let ask = || world.post("/providers/limits/sending-accounts/request-increase").key(&team.root).send();
    let limit = get().await.data()["sending_accounts"].clone();
    assert_eq!(
        (&limit["usage"], &limit["threshold_usage"], &limit["is_near_limit"]),
        (&json!(3), &json!(4), &json!(false))
    );
    assert_eq!(ask().await.refusal(), (422, "validation_error".to_owned()));
    make(&world, &team, &account()).await;
    let asked = ask().await;
    assert_eq!(asked.status, 200, "{:?}", asked.json());
    assert!(asked.data()["request_id"].as_str().unwrap().starts_with("trir_"));
    let limit = get().await.data()["sending_accounts"].clone();
    assert_eq!(
        (&limit["pending_request_id"], &limit["can_request_increase"]),
        (&asked.data()["request_id"], &json!(false))
    );
    assert_eq!(ask().await.refusal(), (409, "conflict".to_owned()));
    make(&world, &team, &account()).await;
    let over = world.post("/providers").key(&team.root).json(&account()).send().await;
    assert_eq!(over.refusal(), (409, "limit_exceeded".to_owned()));
}

#[tokio::test]
async fn a_higher_daily_limit_of_the_managed_account_is_asked_for_and_the_request_cancelled() {
    let world = World::new().await;
    let team = world.team("a.test").await;
    let path = "/providers/shared-amazon-ses-limit-request";
    let get = || world.get(path).key(&team.root).send();
    let ask = || world.post(path).key(&team.root).send();
    assert_eq!(get().await.data()["limit"]["provider_id"], Value::Null);
    assert_eq!(ask().await.refusal(), (404, "not_found".to_owned()));
    let create = CreateProvider {
        provider: ProviderId::new(world.now(), world.app.allot.random()),
        settings: Settings {
            transport: Transport::Sandbox,
            percentage: None,
            quotas: Quotas { per_day: Some(Range::exactly(1)), ..Quotas::default() },
        },
        identity: Identity { name: "Managed".to_owned(), ..Identity::default() },
        managed: true,
        secret: None,
    };
    world.command(&team.id, create).await;
    assert_eq!(ask().await.refusal(), (422, "validation_error".to_owned()), "nothing was sent today");
    world.command(&team.id, ChangeCreditLimit { credit_limit: Nanos::DOLLAR }).await;
    let key = world.team_key(&team.id, Kind::Sending, Permissions::parse(SENDING_PERMISSIONS).unwrap()).await;
    let sent = world.post("/emails/send").key(&key).json(&sending::mail()).send().await.data();
    sending::settle(&world, &team, &sent["message_id"]).await;
    let asked = ask().await;
    assert_eq!(asked.status, 200, "{:?}", asked.json());
    let request = asked.data()["request"].clone();
    assert_eq!((&request["status"], &request["current_daily_limit"]), (&json!("pending"), &json!(1)));
    let pending = get().await.data();
    assert_eq!((&pending["pending_request"], &pending["limit"]["sent_today"]), (&request, &json!(1)));
    assert_eq!(ask().await.refusal(), (409, "conflict".to_owned()));
    let cancel = || world.delete(&format!("{path}/{}", request["id"].as_str().unwrap())).key(&team.root).send();
    assert_eq!(cancel().await.data()["request"]["status"], "cancelled");
    assert_eq!(cancel().await.refusal(), (409, "conflict".to_owned()));
    assert_eq!(get().await.data()["pending_request"], Value::Null);
    let usage = world.get("/providers/usage").key(&team.root).send().await.data();
    assert_eq!((&usage["window_days"], &usage["providers"][0]["sent_today"]), (&json!(7), &json!(1)));
}
