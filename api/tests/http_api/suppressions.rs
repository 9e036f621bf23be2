//! The suppression list: kept by hand and by import, and obeyed.

use serde_json::{Value, json};

use crate::harness::{SECOND, Team, World};
use crate::sending::{mail, sender};
use domain::outbound::{BeginAttempt, Outbound, Status};
use domain::routing::Routing;
use domain::{StreamId, Versioned};

async fn suppress(world: &World, team: &Team, body: Value) -> Value {
    let made = world.post("/suppressions").key(&team.root).json(&body).send().await;
    assert_eq!(made.status, 201, "{:?}", made.json());
    made.data()
}

#[tokio::test]
async fn an_address_is_put_on_the_list_shown_and_taken_off() {
    let world = World::new().await;
    let team = world.team("a.test").await;
    let body = json!({"email": "Bob@Example.NET", "note": "asked by phone"});
    let answer = world.post("/suppressions").key(&team.root).json(&body).send().await;
    let made = answer.data();
    assert_eq!((&made["email"], &made["is_active"]), (&json!("bob@example.net"), &json!(true)));
    assert_eq!(
        (&made["causes"][0]["reason"], &made["causes"][0]["note"]),
        (&json!("manual"), &json!("asked by phone"))
    );
    let path = format!("/suppressions/{}", made["id"].as_str().unwrap());
    assert_eq!(answer.header("location"), format!("/api/v1{path}"));
    let shown = world.get(&path).key(&team.root).send().await;
    assert_eq!(shown.data(), made);
    let same = world.get(&path).key(&team.root).header("if-none-match", &shown.header("etag")).send().await;
    assert_eq!(same.status, 304);
    // The address itself names it as well.
    assert_eq!(world.get("/suppressions/BOB@example.net").key(&team.root).send().await.data(), made);
    let head = world.app.log.head(&team.id).await.unwrap();
    assert_eq!(suppress(&world, &team, body).await, made);
    assert_eq!(world.app.log.head(&team.id).await.unwrap(), head, "the same again changes nothing");
    suppress(&world, &team, json!({"email": "bob@example.net", "reason": "hard_bounce"})).await;
    let listed = world.get("/suppressions?reason=hard_bounce&search=BOB@").key(&team.root).send().await.data();
    assert_eq!(listed[0]["causes"].as_array().unwrap().len(), 2);
    let gone = world.delete("/suppressions/bob%40example.net").key(&team.root).send().await;
    assert_eq!(gone.data(), json!({"id": made["id"], "deleted": true}));
    assert_eq!(world.delete(&path).key(&team.root).send().await.refusal().0, 404);
    assert_eq!(world.get("/suppressions").key(&team.root).send().await.data(), json!([]));
}

#[tokio::test]
async fn the_list_is_paged_and_leaves_out_what_has_ended() {
    let world = World::new().await;
    let team = world.team("a.test").await;
    for n in 0..5 {
        suppress(&world, &team, json!({"email": format!("r{n}@example.net")})).await;
    }
    suppress(&world, &team, json!({"email": "soon@example.net", "expires_at": "2026-11-21T11:00:00Z"})).await;
    let (mut cursor, mut seen) = (String::new(), vec![]);
    loop {
        let page = world.get(&format!("/suppressions?limit=2{cursor}")).key(&team.root).send().await.json();
        seen.extend(page["data"].as_array().unwrap().iter().map(|s| s["email"].as_str().unwrap().to_owned()));
        let Some(next) = page["pagination"]["next_cursor"].as_str() else { break };
        cursor = format!("&cursor={next}");
    }
    assert_eq!(seen[0], "soon@example.net");
    assert_eq!(seen.len(), 6);
    world.advance(3_601 * SECOND);
    let active = world.get("/suppressions?active=true").key(&team.root).send().await.data();
    assert_eq!(active.as_array().unwrap().len(), 5);
    let ended = world.get("/suppressions/soon@example.net").key(&team.root).send().await.data();
    assert_eq!(ended["is_active"], false);
}

#[tokio::test]
async fn an_import_takes_what_it_can_and_names_the_rest() {
    let world = World::new().await;
    let team = world.team("a.test").await;
    suppress(&world, &team, json!({"email": "r1@example.net", "reason": "import"})).await;
    let entries: Vec<_> = (0..200).map(|n| json!({"email": format!("r{n}@example.net")})).collect();
    let mut entries = entries;
    entries.push(json!({"email": "nobody"}));
    entries.push(json!({"mail": "x@example.net"}));
    entries.push(json!({"email": "c@example.net", "reason": "complaint", "topic": "news"}));
    let answer = world.post("/suppressions/import").key(&team.root).json(&json!({"entries": entries})).send().await;
    let result = answer.data();
    assert_eq!(
        (&result["total"], &result["added"], &result["unchanged"], &result["failed"]),
        (&json!(203), &json!(200), &json!(1), &json!(2))
    );
    assert_eq!(
        (&result["failures"][0]["index"], &result["failures"][0]["error"]["param"]),
        (&json!(200), &json!("email"))
    );
    assert_eq!(result["failures"][1]["error"]["param"], "mail");
    let listed = world.get("/suppressions?reason=import&limit=100").key(&team.root).send().await.json();
    assert_eq!(listed["pagination"]["has_more"], true);
    let again = world.post("/suppressions/import").key(&team.root).json(&json!({"entries": entries})).send().await;
    assert_eq!((&again.data()["added"], &again.data()["unchanged"]), (&json!(0), &json!(201)));
    for body in [json!({"entries": []}), json!({"entries": vec![json!({}); 1_001]}), json!({})] {
        let refused = world.post("/suppressions/import").key(&team.root).json(&body).send().await;
        assert_eq!((refused.refusal().0, refused.param()), (400, "entries".to_owned()));
    }
}

#[tokio::test]
async fn every_faulty_field_of_a_suppression_is_named() {
    let world = World::new().await;
    let team = world.team("a.test").await;
    let rows = [
        (json!({}), 400, "email"),
        (json!({"email": "x"}), 400, "email"),
        (json!({"email": "no address"}), 422, "email"),
        (json!({"email": "a@b.test\r\nX: y"}), 400, "email"),
        (json!({"email": "a@b.test", "reason": "because"}), 400, "reason"),
        (json!({"email": "a@b.test", "topic": ""}), 400, "topic"),
        (json!({"email": "a@b.test", "topic": "x".repeat(65)}), 400, "topic"),
        (json!({"email": "a@b.test", "note": "x".repeat(256)}), 400, "note"),
        (json!({"email": "a@b.test", "expires_at": "tomorrow"}), 422, "expires_at"),
        (json!({"email": "a@b.test", "expires_at": "2020-01-01T00:00:00Z"}), 422, "expires_at"),
        (json!({"email": "a@b.test", "extra": 1}), 400, "extra"),
    ];
    for (body, status, field) in rows {
        let answer = world.post("/suppressions").key(&team.root).json(&body).send().await;
        assert_eq!((answer.refusal().0, answer.param()), (status, field.to_owned()), "{body}");
    }
    assert_eq!(world.app.log.head(&team.id).await.unwrap().position, 4, "nothing was written");
}

#[tokio::test]
async fn a_suppressed_address_is_refused_at_acceptance_and_before_each_attempt() {
    let world = World::new().await;
    let (team, key) = sender(&world, "a.test").await;
    let send = async || {
        let mut body = mail();
        body["cc"] = json!([{"email": "carl@example.net"}]);
        let answer = world.post("/emails/send").key(&key).json(&body).send().await;
        assert_eq!(answer.status, 200, "{:?}", answer.json());
        answer.data()["message_id"].as_str().unwrap().parse::<domain::id::OutboundId>().unwrap()
    };
    let state = async |id: &domain::id::OutboundId| {
        let streams = [StreamId::Outbound(id.clone()), StreamId::Routing];
        let both: (Versioned<Outbound>, Versioned<Routing>) = world.app.log.state(&team.id, &streams).await.unwrap();
        both
    };
    let queued = send().await;
    suppress(&world, &team, json!({"email": "bob@example.net"})).await;
    let refused = send().await;
    let statuses = async |id| state(id).await.0.recipients.iter().map(|r| r.status).collect::<Vec<_>>();
    assert_eq!(statuses(&refused).await, [Status::Rejected, Status::Waiting]);

    let (waiting, routing) = state(&queued).await;
    assert_eq!(statuses(&queued).await, [Status::Waiting, Status::Waiting]);
    let account = routing.accounts.keys().next().unwrap().clone();
    world.command(&team.id, BeginAttempt::of(queued.clone(), &waiting, account.clone(), vec![0, 1])).await;
    assert_eq!(statuses(&queued).await, [Status::Rejected, Status::InFlight { attempt: 1 }]);

    // Taken off, it is written to again.
    world.delete("/suppressions/bob@example.net").key(&team.root).send().await.data();
    assert_eq!(statuses(&send().await).await, [Status::Waiting, Status::Waiting]);
}
