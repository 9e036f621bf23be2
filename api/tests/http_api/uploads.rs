//! Files that are uploaded before the mail they go with.

use axum::http::Method;
use domain::StreamId;
use domain::Versioned;
use domain::outbound::Outbound;
use projections::uploads;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::harness::{Answer, SECOND, Team, World};
use crate::sending::{mail, sender};

const PDF: &[u8] = b"%PDF-1.7 a small bill";

fn small() -> api::Config {
    api::Config { uploads_max: 2, uploads_bytes_max: 1_000, ..api::Config::default() }
}

async fn announce(world: &World, key: &str, body: &Value) -> Answer {
    world.post("/emails/attachment-uploads").key(key).json(body).send().await
}

/// Puts bytes as whoever got the announcement would: with its headers and without a key.
async fn put(world: &World, announced: &Value, bytes: &[u8], changed: &[(&str, &str)]) -> Answer {
    let url = announced["upload_url"].as_str().unwrap();
    let path = url.split_once("/api/v1").unwrap().1;
    let mut call = world.call(Method::PUT, path);
    for (name, value) in announced["headers"].as_object().unwrap() {
        let value = changed.iter().find(|(n, _)| n == name).map_or(value.as_str().unwrap(), |(_, v)| *v);
        if !value.is_empty() {
            call = call.header(name, value);
        }
    }
    call.body(bytes).send().await
}

fn bill() -> Value {
    let sha256 = hex::encode(Sha256::digest(PDF));
    json!({"filename": "bill.pdf", "size_bytes": PDF.len(), "content_type": "application/pdf", "sha256": sha256})
}

async fn attached(world: &World, team: &Team, sent: &Answer) -> Vec<(Option<String>, Vec<u8>)> {
    let id = sent.data()["message_id"].as_str().unwrap().parse().unwrap();
    let mail: Versioned<Outbound> = world.app.log.state(&team.id, &[StreamId::Outbound(id)]).await.unwrap();
    let blob = &mail.accepted.as_ref().unwrap().blob;
    let bytes = world.app.log.blob(&team.id, blob).await.unwrap().unwrap();
    let limits = ::mail::message::ParseLimits::default();
    let parsed = ::mail::message::parse(&bytes, &limits);
    let content = |part| ::mail::message::attachment_bytes(&bytes, part, &limits).unwrap();
    parsed.attachments.iter().map(|a| (a.filename.clone(), content(a.part_id))).collect()
}

#[tokio::test]
async fn an_announced_file_is_put_without_a_key_and_sent_along() {
    let world = World::new().await;
    let (team, key) = sender(&world, "a.test").await;
    let announced = announce(&world, &key, &bill()).await;
    assert_eq!(announced.status, 201);
    let data = announced.data();
    assert_eq!((&data["method"], &data["max_size_bytes"]), (&json!("PUT"), &json!(18 * 1024 * 1024)));
    assert_eq!(
        announced.header("location"),
        format!("/api/v1/emails/attachment-uploads/{}", data["upload_id"].as_str().unwrap())
    );
    let uploaded = put(&world, &data, PDF, &[]).await;
    assert_eq!(uploaded.status, 201, "{:?}", uploaded.json());
    let file = uploaded.data();
    assert_eq!((&file["filename"], &file["content_type"]), (&json!("bill.pdf"), &json!("application/pdf")));
    let id = file["attachment_id"].as_str().unwrap();
    assert_eq!(uploaded.header("location"), format!("/api/v1/emails/attachments/{id}"));
    assert_eq!(world.get(&format!("/emails/attachments/{id}")).key(&key).send().await.data(), file);
    let again = put(&world, &data, PDF, &[]).await;
    assert_eq!((again.status.as_u16(), again.data()), (201, file.clone()), "the same bytes again");
    let mut other = PDF.to_vec();
    other[10] = b'x';
    assert_eq!(put(&world, &data, &other, &[]).await.refusal(), (409, "conflict".to_owned()));
    let mut body = mail();
    body["attachments"] = json!([{"attachment_id": id}]);
    for _ in 0..2 {
        let sent = world.post("/emails/send").key(&key).json(&body).send().await;
        assert_eq!(sent.status, 200, "{:?}", sent.json());
        assert_eq!(attached(&world, &team, &sent).await, [(Some("bill.pdf".to_owned()), PDF.to_vec())]);
    }
}

#[tokio::test]
async fn what_is_put_must_be_what_was_announced() {
    let world = World::new().await;
    let (_, key) = sender(&world, "a.test").await;
    let data = announce(&world, &key, &bill()).await.data();
    let longer = [PDF, b"x"].concat();
    let mut other = PDF.to_vec();
    other[10] = b'x';
    let length = longer.len().to_string();
    type Row<'a> = (&'a [u8], &'a [(&'a str, &'a str)], (u16, &'a str));
    let rows: [Row<'_>; 7] = [
        (PDF, &[("X-Sendmux-Upload-Token", "")], (401, "authentication_required")),
        (PDF, &[("X-Sendmux-Upload-Token", "AAAA")], (401, "authentication_required")),
        (PDF, &[("Content-Length", "")], (400, "missing_parameter")),
        (PDF, &[("Content-Type", "image/png")], (400, "invalid_parameter")),
        (&longer, &[("Content-Length", &length)], (413, "payload_too_large")),
        (&PDF[..5], &[], (413, "payload_too_large")),
        (&other, &[], (422, "validation_error")),
    ];
    for (bytes, changed, refused) in rows {
        let answer = put(&world, &data, bytes, changed).await;
        assert_eq!(answer.refusal(), (refused.0, refused.1.to_owned()), "{changed:?}");
    }
    // A token is for one upload alone.
    let second = announce(&world, &key, &bill()).await.data();
    let mut crossed = second.clone();
    crossed["upload_url"] = data["upload_url"].clone();
    assert_eq!(put(&world, &crossed, PDF, &[]).await.refusal().0, 401);
    let disguised = json!({"filename": "bill.pdf", "size_bytes": 8});
    let disguised = announce(&world, &key, &disguised).await.data();
    assert_eq!(put(&world, &disguised, b"MZ\x90\0\x03\0\0\0", &[]).await.refusal().0, 422);
    world.advance(16 * 60 * SECOND);
    assert_eq!(put(&world, &data, PDF, &[]).await.refusal().0, 401, "the announcement expired");
    assert_eq!(put(&world, &second, PDF, &[]).await.refusal().0, 401);
}

#[tokio::test]
async fn what_cannot_be_sent_along_is_refused_when_it_is_announced() {
    let world = World::new().await;
    let (_, key) = sender(&world, "a.test").await;
    let rows = [
        (json!({"filename": "run.exe", "size_bytes": 1}), 422, "filename"),
        (json!({"filename": "a\r\nb.txt", "size_bytes": 1}), 422, "filename"),
        (json!({"filename": "a.txt", "size_bytes": 0}), 422, "size_bytes"),
        (json!({"filename": "a.txt", "size_bytes": -1}), 422, "size_bytes"),
        (json!({"filename": "a.txt", "size_bytes": 1, "content_type": "text"}), 422, "content_type"),
        (json!({"filename": "a.txt", "size_bytes": 1, "content_type": "text/plain\r\nX: y"}), 422, "content_type"),
        (json!({"filename": "a.txt", "size_bytes": 1, "sha256": "ABC"}), 422, "sha256"),
        (json!({"filename": "a.txt"}), 422, "size_bytes"),
        (json!({"filename": "a.txt", "size_bytes": 1, "color": "red"}), 422, "color"),
    ];
    for (body, status, field) in rows {
        let answer = announce(&world, &key, &body).await;
        assert_eq!((answer.status.as_u16(), answer.param().as_str()), (status, field), "{body}: {:?}", answer.json());
    }
    let large = json!({"filename": "a.txt", "size_bytes": 18 * 1024 * 1024 + 1});
    assert_eq!(announce(&world, &key, &large).await.refusal(), (413, "payload_too_large".to_owned()));
}

#[tokio::test]
async fn a_file_is_uploaded_at_once_and_once_per_key() {
    let world = World::new().await;
    let (team, key) = sender(&world, "a.test").await;
    let one = |bytes: &'static [u8], query: &'static str| {
        let call = world.post(&format!("/emails/attachments?{query}")).key(&key).header("idempotency-key", "u1");
        call.header("content-length", &bytes.len().to_string()).body(bytes).send()
    };
    let first = one(PDF, "filename=bill.pdf").await;
    assert_eq!((first.status.as_u16(), &first.data()["content_type"]), (201, &json!("application/pdf")));
    assert_eq!(one(PDF, "filename=bill.pdf").await.body, first.body);
    assert_eq!(one(PDF, "filename=other.pdf").await.refusal(), (409, "idempotency_conflict".to_owned()));
    assert_eq!(one(b"%PDF-1.7 other", "filename=bill.pdf").await.refusal().0, 409);
    let typed = world.post("/emails/attachments?filename=bill.pdf&content_type=application/x-bill").key(&key);
    let typed = typed.header("content-length", "5").header("content-type", "text/plain").body("%PDF-").send().await;
    assert_eq!(typed.data()["content_type"], "application/x-bill");
    let nameless = world.post("/emails/attachments").key(&key).header("content-length", "1").body("a").send().await;
    assert_eq!(nameless.refusal(), (400, "missing_parameter".to_owned()));
    let mut body = mail();
    body["attachments"] = json!([{"attachment_id": first.data()["attachment_id"]}]);
    let sent = world.post("/emails/send").key(&key).json(&body).send().await;
    assert_eq!(attached(&world, &team, &sent).await.len(), 1);
}

#[tokio::test]
async fn a_file_is_used_only_by_those_who_uploaded_it() {
    let world = World::new().await;
    let (team, key) = sender(&world, "a.test").await;
    let (_, stranger) = sender(&world, "b.test").await;
    let (one, two) = (world.mailbox(&team, "one").await, world.mailbox(&team, "two").await);
    let upload = |key: &str| {
        let call = world.post("/emails/attachments?filename=a.txt").key(key);
        call.header("content-length", "3").body("abc").send()
    };
    let (of_team, of_one) = (upload(&key).await.data(), upload(&one.key).await.data());
    for (file, owner, others) in [(&of_team, &key, [&stranger, &one.key]), (&of_one, &one.key, [&key, &two.key])] {
        let path = format!("/emails/attachments/{}", file["attachment_id"].as_str().unwrap());
        assert_eq!(world.get(&path).key(owner).send().await.status, 200);
        for other in others {
            assert_eq!(world.get(&path).key(other).send().await.refusal().0, 404);
            let mut body = mail();
            body["attachments"] = json!([{"attachment_id": file["attachment_id"]}]);
            let sent = world.post("/emails/send").key(other).json(&body).send().await;
            assert_eq!((sent.refusal().0, sent.param().as_str()), (422, "attachments.0.attachment_id"));
        }
    }
}

#[tokio::test]
async fn a_team_keeps_a_bounded_number_of_files_until_they_expire() {
    let world = World::with(small()).await;
    let (_, key) = sender(&world, "a.test").await;
    let (_, other) = sender(&world, "b.test").await;
    let file = json!({"filename": "a.txt", "size_bytes": 600});
    assert_eq!(announce(&world, &key, &file).await.status, 201);
    assert_eq!(announce(&world, &key, &file).await.refusal(), (409, "limit_exceeded".to_owned()), "too many bytes");
    let tiny = json!({"filename": "a.txt", "size_bytes": 3});
    let second = announce(&world, &key, &tiny).await.data();
    let uploaded = put(&world, &second, b"abc", &[]).await.data();
    assert_eq!(announce(&world, &key, &tiny).await.refusal(), (409, "limit_exceeded".to_owned()), "too many files");
    assert_eq!(announce(&world, &other, &file).await.status, 201, "another team has its own room");
    world.advance(16 * 60 * SECOND);
    assert_eq!(announce(&world, &key, &tiny).await.status, 201, "what was announced and never came is gone");
    let work = world.app.attempts.as_ref().unwrap();
    let drop = |now| uploads::drop_expired(work, &world.app.log, now, 100);
    assert_eq!(drop(world.now()).await.unwrap(), 2, "one of each team");
    let path = format!("/emails/attachments/{}", uploaded["attachment_id"].as_str().unwrap());
    assert_eq!(world.get(&path).key(&key).send().await.status, 200);
    world.advance(25 * 60 * 60 * SECOND);
    assert_eq!(world.get(&path).key(&key).send().await.status, 404);
    assert_eq!(drop(world.now()).await.unwrap(), 2);
    assert_eq!(drop(world.now()).await.unwrap(), 0);
}

#[tokio::test]
async fn a_mailbox_uploads_by_itself_or_by_url_and_sends_the_blob() {
    let world = World::new().await;
    let (team, key) = sender(&world, "a.test").await;
    let (own, other) = (world.mailbox(&team, "box").await, world.mailbox(&team, "other").await);
    let path = "/mailbox/attachments:upload?filename=bill.pdf";
    let direct = world.post(path).key(&own.key).header("content-type", "application/pdf");
    let direct = direct.header("content-length", &PDF.len().to_string()).body(PDF).send().await;
    assert_eq!((direct.status.as_u16(), &direct.data()["size_bytes"]), (200, &json!(PDF.len())));
    let file = json!({"filename": "b.txt", "content_type": "text/plain", "size_bytes": 3});
    let announced = world.post("/mailbox/attachment-uploads").key(&own.key).json(&file).send().await.data();
    assert_eq!(announced["headers"], json!({"Content-Type": "text/plain", "Content-Length": "3"}));
    let by_url = put(&world, &announced, b"abc", &[]).await;
    assert_eq!(by_url.status, 200, "{:?}", by_url.json());
    let blobs = [direct.data()["blob_id"].clone(), by_url.data()["blob_id"].clone()];
    let send = |key: String, blob: Value| {
        let file = json!({"blob_id": blob, "filename": "as.pdf", "content_type": "application/pdf"});
        let to = json!([{"email": "bob@example.net", "name": null}]);
        let body = json!({"to": to, "subject": "Files", "text_body": "Hi", "attachments": [file]});
        let call = world.post("/mailbox/messages/send").key(&key).json(&body);
        async move { call.send().await }
    };
    assert_eq!(send(own.key.clone(), blobs[0].clone()).await.status, 200);
    let disguised = send(own.key.clone(), blobs[1].clone()).await;
    assert_eq!((disguised.refusal().0, disguised.param().as_str()), (422, "attachments.0.filename"), "no PDF");
    let foreign = send(other.key.clone(), blobs[0].clone()).await;
    assert_eq!((foreign.refusal().0, foreign.param().as_str()), (422, "attachments.0.blob_id"));
    assert_eq!(world.post(path).key(&key).header("content-length", "3").body("abc").send().await.refusal().0, 403);
    let huge = world.post(path).key(&own.key).header("content-length", "7500001").body("abc").send().await;
    assert_eq!(huge.refusal().0, 413);
}
