//! Sending as a mailbox, and what is told of it.

use domain::StreamId;
use domain::Versioned;
use domain::outbound::Outbound;
use serde_json::{Value, json};

use crate::harness::{Answer, MAIL, SECOND, World};
use crate::sending::{sender, settle};

fn note() -> Value {
    json!({"to": [{"email": "bob@example.net", "name": "Bob"}], "subject": "Hello", "text_body": "Hi Bob"})
}

async fn send(world: &World, key: &str, body: &Value) -> Answer {
    world.post("/mailbox/messages/send").key(key).json(body).send().await
}

#[tokio::test]
async fn a_sent_message_is_queued_filed_and_threaded() {
    let world = World::new().await;
    let (team, _) = sender(&world, "a.test").await;
    let mailbox = world.mailbox(&team, "box").await;
    let received = world.receive(&team, &mailbox.id, MAIL).await;
    let received = world.get(&format!("/mailbox/messages/{received}")).key(&mailbox.key).send().await.data();
    let mut body = note();
    body["html_body"] = json!("<p>Hi Bob</p>");
    body["cc"] = json!([{"email": "carl@example.net", "name": null}]);
    body["bcc"] = json!([{"email": "dora@example.net"}]);
    body["reply_to"] = json!([{"email": "office@a.test", "name": null}]);
    body["custom_headers"] =
        json!({"In-Reply-To": "<one@example.net>", "References": "<one@example.net>", "X-Tag": "a"});
    let sent = send(&world, &mailbox.key, &body).await;
    assert_eq!((sent.status.as_u16(), &sent.data()["status"]), (200, &json!("queued")), "{:?}", sent.json());
    let path = format!("/mailbox/messages/{}", sent.data()["message_id"].as_str().unwrap());
    let copy = world.get(&path).key(&mailbox.key).send().await.data();
    assert_eq!(copy["folder_ids"], json!(["sent"]));
    assert_eq!((&copy["from"]["email"], &copy["flags"]["seen"]), (&json!("box@a.test"), &json!(true)));
    assert_eq!((&copy["thread_id"], &copy["in_reply_to"]), (&received["thread_id"], &json!(["one@example.net"])));
    assert_eq!(sent.data()["thread_id"], received["thread_id"]);
    let sub = world.get("/mailbox/submissions").key(&mailbox.key).send().await;
    let sub = &sub.data()[0];
    assert_eq!((&sub["id"], &sub["email_id"]), (&sent.data()["submission_id"], &sent.data()["message_id"]));
    let rcpt: Vec<_> = sub["envelope"]["rcpt_to"].as_array().unwrap().iter().map(|r| r["email"].clone()).collect();
    assert_eq!(rcpt, ["bob@example.net", "carl@example.net", "dora@example.net"]);
    assert_eq!(sub["envelope"]["mail_from"]["email"], "box@a.test");
    let id = sent.data()["email_id"].as_str().unwrap().parse().unwrap();
    let mail: Versioned<Outbound> = world.app.log.state(&team.id, &[StreamId::Outbound(id)]).await.unwrap();
    let blob = &mail.accepted.as_ref().unwrap().blob;
    let text = world.app.log.blob(&team.id, blob).await.unwrap().unwrap();
    let text = String::from_utf8(text.to_vec()).unwrap();
    assert!(text.contains("X-Tag: a\r\n") && !text.contains("dora@example.net"), "{text}");
}

#[tokio::test]
async fn a_submission_tells_how_far_it_is() {
    let world = World::new().await;
    let (team, _) = sender(&world, "a.test").await;
    let (mailbox, other) = (world.mailbox(&team, "box").await, world.mailbox(&team, "other").await);
    let state = |key: String| async {
        let key = key;
        world.get("/mailbox/submissions/changes").key(&key).send().await.data()["new_state"].clone()
    };
    let before = state(mailbox.key.clone()).await;
    let mut body = note();
    body["cc"] = json!([{"email": "carl@example.net", "name": null}]);
    let sent = send(&world, &mailbox.key, &body).await.data();
    let (id, path) =
        (sent["submission_id"].clone(), format!("/mailbox/submissions/{}", sent["submission_id"].as_str().unwrap()));
    let shown = world.get(&path).key(&mailbox.key).send().await;
    assert_eq!(shown.data()["undo_status"], "pending");
    assert_eq!(shown.data()["delivery_status"][0]["delivered"], "queued");
    let same = world.get(&path).key(&mailbox.key).header("if-none-match", &shown.header("etag")).send().await;
    assert_eq!(same.status, 304);
    let since = |state: &Value| format!("/mailbox/submissions/changes?since_state={}", state.as_str().unwrap());
    let changes = world.get(&since(&before)).key(&mailbox.key).send().await.data();
    assert_eq!((&changes["created"], &changes["updated"]), (&json!([id]), &json!([])));
    let between = changes["new_state"].clone();
    settle(&world, &team, &sent["email_id"]).await;
    let changes = world.get(&since(&between)).key(&mailbox.key).send().await.data();
    assert_eq!((&changes["created"], &changes["updated"]), (&json!([]), &json!([id])));
    let typed = format!("/mailbox/changes?types=submissions&submissions_since_state={}", between.as_str().unwrap());
    let typed = world.get(&typed).key(&mailbox.key).send().await.data();
    assert_eq!(typed["types"]["submissions"]["updated"], json!([id]));
    let shown = world.get(&path).key(&mailbox.key).send().await.data();
    assert_eq!((&shown["undo_status"], shown["delivery_status"].as_array().unwrap().len()), (&json!("final"), 2));
    let told: Vec<_> = shown["delivery_status"].as_array().unwrap().iter().map(|s| s["delivered"].clone()).collect();
    assert_eq!(told, ["yes", "no"]);
    assert_eq!(shown["delivery_status"][1]["smtp_reply"], "550 5.1.1 no such user");
    assert_eq!(world.get(&path).key(&other.key).send().await.refusal().0, 404, "another mailbox's");
    let listed = world.get("/mailbox/submissions").key(&other.key).send().await.data();
    assert_eq!(listed, json!([]));
}

#[tokio::test]
async fn submissions_are_narrowed_and_sorted() {
    let world = World::new().await;
    let (team, _) = sender(&world, "a.test").await;
    let mailbox = world.mailbox(&team, "box").await;
    let mut sent = vec![];
    for n in 0..3 {
        let mut body = note();
        body["subject"] = json!(format!("Mail {n}"));
        sent.push(send(&world, &mailbox.key, &body).await.data());
        world.advance(60 * SECOND);
    }
    let list = |query: String| {
        let call = world.get(&format!("/mailbox/submissions?{query}")).key(&mailbox.key);
        async move { call.send().await }
    };
    let ids =
        |answer: &Answer| -> Vec<Value> { answer.data().as_array().unwrap().iter().map(|s| s["id"].clone()).collect() };
    let of = |n: usize| sent[n]["submission_id"].clone();
    assert_eq!(ids(&list(String::new()).await), [of(2), of(1), of(0)]);
    assert_eq!(ids(&list("sort_direction=asc".into()).await), [of(0), of(1), of(2)]);
    let email_ids = format!("email_ids={},msg_unknown", sent[1]["message_id"].as_str().unwrap());
    assert_eq!(ids(&list(email_ids).await), [of(1)]);
    assert_eq!(ids(&list("email_ids=msg_unknown".into()).await), Vec::<Value>::new());
    let thread_ids = format!("thread_ids={}", sent[0]["thread_id"].as_str().unwrap());
    assert_eq!(ids(&list(thread_ids).await), [of(0)]);
    assert_eq!(ids(&list("after=2026-11-21T10:02:00Z".into()).await), [of(2)]);
    assert_eq!(ids(&list("before=2026-11-21T10:02:00Z&undo_status=pending".into()).await), [of(1), of(0)]);
    assert_eq!(ids(&list("undo_status=final".into()).await), Vec::<Value>::new());
    let own = format!("id_{}", mailbox.id.as_str().split_once('_').unwrap().1);
    assert_eq!(ids(&list(format!("identity_ids={own}")).await).len(), 3);
    assert_eq!(ids(&list("identity_ids=id_other".into()).await).len(), 0);
    let first = list("limit=2".into()).await;
    let cursor = first.json()["pagination"]["next_cursor"].as_str().unwrap().to_owned();
    assert_eq!(ids(&list(format!("limit=2&cursor={cursor}")).await), [of(0)]);
    assert_eq!(list("undo_status=maybe".into()).await.refusal().0, 400);
    let many = vec!["msg_x"; 101].join(",");
    assert_eq!(list(format!("email_ids={many}")).await.param(), "email_ids");
}

#[tokio::test]
async fn what_a_mailbox_cannot_send_is_refused_and_named() {
    let world = World::new().await;
    let (team, _) = sender(&world, "a.test").await;
    let mailbox = world.mailbox(&team, "box").await;
    let rows = [
        ("to", json!([]), "to"),
        ("to", json!([{"email": "nobody", "name": null}]), "to.0.email"),
        ("cc", json!([{"email": "a@example.net"}, {"email": "b\n@example.net"}]), "cc.1.email"),
        ("reply_to", json!([{"email": "x"}]), "reply_to.0.email"),
        ("subject", json!("a\r\nBcc: x@example.net"), "subject"),
        ("text_body", Value::Null, "text_body"),
        ("custom_headers", json!({"Bcc": "x@example.net"}), "custom_headers.Bcc"),
        ("custom_headers", json!({"In-Reply-To": "<a@b>\r\nX: y"}), "custom_headers.In-Reply-To"),
        (
            "attachments",
            json!([{"filename": "a.exe", "content_type": "a/b", "content": "TVqQ"}]),
            "attachments.0.filename",
        ),
        ("attachments", json!([{"filename": "a.txt", "content_type": "a/b"}]), "attachments.0.content"),
        (
            "attachments",
            json!([{"filename": "a.txt", "content_type": "nonsense", "content": "YQ=="}]),
            "attachments.0.content_type",
        ),
        (
            "attachments",
            json!([{"filename": "a.txt", "content_type": "a/b", "blob_id": "blob_x"}]),
            "attachments.0.blob_id",
        ),
        ("in_reply_to", json!("two words"), "in_reply_to"),
        ("send_at", json!("2027-11-21T10:00:00Z"), "send_at"),
        ("html", json!("x"), "html"),
    ];
    for (field, value, named) in rows {
        let mut body = note();
        body[field] = value.clone();
        let answer = send(&world, &mailbox.key, &body).await;
        assert_eq!(
            (answer.status.as_u16(), answer.param().as_str()),
            (422, named),
            "{field} {value}: {:?}",
            answer.json()
        );
    }
    let mut foreign = note();
    foreign["from"] = json!({"email": "other@a.test", "name": null});
    assert_eq!(send(&world, &mailbox.key, &foreign).await.refusal(), (403, "insufficient_permissions".to_owned()));
    let content = "YWFh".repeat(2_000_000);
    let mut large = note();
    large["attachments"] = json!([{"filename": "a.txt", "content_type": "text/plain", "content": content}]);
    assert_eq!(send(&world, &mailbox.key, &large).await.refusal(), (413, "payload_too_large".to_owned()));
}

#[tokio::test]
async fn an_idempotency_key_belongs_to_the_mailbox() {
    let world = World::new().await;
    let (team, _) = sender(&world, "a.test").await;
    let (one, two) = (world.mailbox(&team, "one").await, world.mailbox(&team, "two").await);
    let body = note();
    let keyed =
        |key: &str| world.post("/mailbox/messages/send").key(key).header("idempotency-key", "k").json(&body).send();
    let all = futures_util::future::join_all((0..20).map(|_| keyed(&one.key))).await;
    assert!(all.iter().all(|answer| answer.status == 200 && answer.body == all[0].body));
    let listed = world.get("/mailbox/submissions").key(&one.key).send().await.data();
    assert_eq!(listed.as_array().unwrap().len(), 1, "twenty requests, one mail");
    let other = keyed(&two.key).await;
    assert_eq!(other.status, 200);
    assert_ne!(other.data()["message_id"], all[0].data()["message_id"]);
    let changed = json!({"to": [{"email": "x@example.net"}], "subject": "Hello", "text_body": "Hi"});
    let clash = world.post("/mailbox/messages/send").key(&one.key).header("idempotency-key", "k").json(&changed);
    assert_eq!(clash.send().await.refusal(), (409, "idempotency_conflict".to_owned()));
}

#[tokio::test]
async fn the_session_tells_what_can_be_done_and_where_things_stand() {
    let world = World::new().await;
    let (team, _) = sender(&world, "a.test").await;
    let mailbox = world.mailbox(&team, "box").await;
    let session = world.get("/mailbox/session").key(&mailbox.key).send().await;
    let data = session.data();
    assert_eq!(
        (&data["mailbox"]["email"], &data["capabilities"]["submissions"]["send"]),
        (&json!("box@a.test"), &json!(true))
    );
    assert_eq!(data["limits"]["attachment_upload_bytes_max"], 7_500_000);
    let same = world.get("/mailbox/session").key(&mailbox.key).header("if-none-match", &session.header("etag"));
    assert_eq!(same.send().await.status, 304);
    // Whatever it names exists.
    let document = serde_json::to_value(api::document()).unwrap();
    for endpoint in data["endpoints"].as_object().unwrap().values().flat_map(|list| list.as_array().unwrap()) {
        let (method, path) = endpoint.as_str().unwrap().split_once(' ').unwrap();
        assert!(document["paths"][path][method.to_lowercase()].is_object(), "{endpoint}");
    }
    send(&world, &mailbox.key, &note()).await.data();
    let later = world.get("/mailbox/session").key(&mailbox.key).send().await.data();
    assert_ne!(later["states"]["submissions"], data["states"]["submissions"]);
    let since = format!("/mailbox/submissions/changes?since_state={}", data["states"]["submissions"].as_str().unwrap());
    assert_eq!(world.get(&since).key(&mailbox.key).send().await.data()["created"].as_array().unwrap().len(), 1);
}
