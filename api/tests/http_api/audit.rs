//! The audit log and its proof.

use eventlog::Signer;
use eventlog::checkpoint::SigningKey;
use serde_json::json;

use crate::harness::World;

#[tokio::test]
async fn who_did_what_is_listed_newest_first() {
    let world = World::new().await;
    let team = world.team("a.test").await;
    let made = world.post("/mailboxes").key(&team.root).json(&json!({"email": "box@a.test"})).send().await;
    let mailbox = made.data()["mailbox"]["id"].as_str().unwrap().to_owned();
    let key = world.get("/me").key(&team.root).send().await.data()["credential"]["id"].as_str().unwrap().to_owned();
    let events = world.get("/audit/events").key(&team.root).send().await.data();
    let names: Vec<_> = events.as_array().unwrap().iter().map(|e| e["type"].as_str().unwrap()).collect();
    assert_eq!(
        names,
        [
            "api_key.created",
            "mailbox.opened",
            "api_key.created",
            "sending_domain.verified",
            "sending_domain.added",
            "team.created"
        ]
    );
    let opened = &events[1];
    assert_eq!((&opened["key_id"], &opened["actor"]), (&json!(key), &json!(format!("key:{key}"))));
    assert_eq!(opened["request_id"], made.header("x-request-id"));
    assert_eq!(opened["entity"], format!("mailbox/{mailbox}"));
    for (query, count) in [
        (format!("actor={key}"), 2),
        ("actor=operator".to_owned(), 4),
        ("type=mailbox.opened".to_owned(), 1),
        (format!("entity={mailbox}"), 1),
        (format!("entity=mailbox/{mailbox}"), 1),
        ("entity=team".to_owned(), 1),
        (format!("entity={}", events[4]["entity"].as_str().unwrap()), 2),
        ("from_date=2026-11-22".to_owned(), 0),
        ("to_date=2026-11-21".to_owned(), 6),
    ] {
        let found = world.get(&format!("/audit/events?{query}")).key(&team.root).send().await.data();
        assert_eq!(found.as_array().unwrap().len(), count, "{query}");
    }
    assert_eq!(world.get("/audit/events?entity=x").key(&team.root).send().await.param(), "entity");
}

#[tokio::test]
async fn the_chain_is_verified_in_bounded_walks() {
    let world = World::with(api::Config { audit_verify_records_max: 3, ..api::Config::default() }).await;
    let team = world.team("a.test").await;
    world.mailbox(&team, "box").await;
    let head = world.app.log.head(&team.id).await.unwrap();
    let (mut query, mut walks) = (String::new(), 0);
    let last = loop {
        let data = world.get(&format!("/audit/verify{query}")).key(&team.root).send().await.data();
        assert_eq!((&data["ok"], &data["first_break"]), (&json!(true), &json!(null)));
        walks += 1;
        match data["next_cursor"].as_str() {
            Some(cursor) => query = format!("?cursor={cursor}"),
            None => break data,
        }
    };
    assert_eq!((walks, &last["complete"]), (2, &json!(true)));
    assert_eq!(last["verified_sequence"], head.position);
    assert_eq!(last["verified_hash"], last["head_hash"]);
    let strangers = world.team("b.test").await;
    assert_eq!(world.get(&format!("/audit/verify{query}")).key(&strangers.root).send().await.param(), "cursor");
    assert_eq!(world.get("/audit/verify?cursor=AAAA").key(&team.root).send().await.param(), "cursor");
}

#[tokio::test]
async fn checkpoints_and_proofs_are_the_teams_own() {
    let world = World::new().await;
    let (team, other) = (world.team("a.test").await, world.team("b.test").await);
    world.mailbox(&team, "box").await;
    let unsigned = world.get("/audit/checkpoint").key(&team.root).send().await;
    assert_eq!(unsigned.refusal(), (404, "not_found".to_owned()));
    let signer = Signer { key: SigningKey::unnamed(&[7; 32]), retired: vec![], every_events: 3, posts: false };
    let growth = world.app.log.sign_growth(&team.id, &signer, 1, true).await.unwrap();
    world.app.log.keep_growth(growth.as_slice()).await.unwrap();
    let latest = world.get("/audit/checkpoint").key(&team.root).send().await.data();
    let size = latest["size"].as_u64().unwrap();
    assert_eq!(signer.key.public().checkpoint(latest["note"].as_str().unwrap()).unwrap().size, size);
    let events = world.get("/audit/events").key(&team.root).send().await.data();
    let id = events.as_array().unwrap().last().unwrap()["id"].as_str().unwrap();
    let paths = [
        "/audit/checkpoint".to_owned(),
        format!("/audit/checkpoints/{size}"),
        "/audit/checkpoints/3".to_owned(),
        format!("/audit/proofs/inclusion?event_id={id}"),
        "/audit/proofs/inclusion?sequence=1&size=3".to_owned(),
        "/audit/proofs/consistency?from=2".to_owned(),
    ];
    for path in paths {
        let own = world.get(&path).key(&team.root).send().await.data();
        assert!(own["note"].is_string() || own["checkpoint"]["note"].is_string(), "{path}: {own}");
        let foreign = world.get(&path).key(&other.root).send().await;
        assert_eq!(foreign.refusal(), (404, "not_found".to_owned()), "{path}");
    }
}
