//! One mailbox through its own key: messages, bodies, attachments, threads, folders, changes.

use axum::body::Body;
use axum::http::Request;
use serde_json::json;

use crate::harness::{Box_, MAIL, REPLY, SECOND, Team, World};

async fn world() -> (World, Team, Box_) {
    let world = World::new().await;
    let team = world.team("a.test").await;
    let mailbox = world.mailbox(&team, "box").await;
    (world, team, mailbox)
}

#[tokio::test]
async fn a_message_is_listed_and_read_with_everything_it_says() {
    let (world, team, mailbox) = world().await;
    let id = world.receive(&team, &mailbox.id, MAIL).await.to_string();
    let listed = world.get("/mailbox/messages").key(&mailbox.key).send().await;
    let summary = &listed.data()[0];
    assert_eq!((&summary["id"], &summary["subject"]), (&json!(id), &json!("Your code")));
    assert_eq!(summary["flags"], json!({"seen": false, "flagged": false, "answered": false, "draft": false}));
    assert_eq!(summary["folder_ids"], json!(["inbox"]));
    assert_eq!(summary["has_attachments"], true);
    assert!(listed.json()["meta"]["sync_state"].is_string());
    let shown = world.get(&format!("/mailbox/messages/{id}")).key(&mailbox.key).send().await;
    let data = shown.data();
    assert!(data["text_body"].as_str().unwrap().contains("123456"));
    assert_eq!(data["html_body"], json!(null));
    assert_eq!(data["message_id"], json!(["one@example.net"]));
    assert_eq!(data["in_reply_to"], json!([]));
    assert_eq!(data["reply_to"], json!([{"email": "office@example.net", "name": null}]));
    assert_eq!(data["sent_at"], "2026-11-21T09:59:00.000Z");
    assert_eq!(data["attachments"][0]["filename"], "bill.pdf");
    assert_eq!(data["attachments"][0]["size_bytes"], 11);
    assert_eq!(shown.header("etag"), "W/\"1\"");
    let me = world.get("/mailbox/me").key(&mailbox.key).send().await.data();
    assert_eq!(me["quota_used_bytes"], data["size_bytes"]);
}

#[tokio::test]
async fn an_unchanged_message_is_not_sent_again_unless_its_urls_expire() {
    let (world, team, mailbox) = world().await;
    let plain = world.receive(&team, &mailbox.id, REPLY).await;
    let with_file = world.receive(&team, &mailbox.id, MAIL).await;
    for (id, status) in [(plain, 304), (with_file, 200)] {
        let path = format!("/mailbox/messages/{id}");
        let tag = world.get(&path).key(&mailbox.key).send().await.header("etag");
        let again = world.get(&path).key(&mailbox.key).header("if-none-match", &tag).send().await;
        assert_eq!(again.status.as_u16(), status);
    }
}

#[tokio::test]
async fn bodies_come_as_sent_or_cleaned() {
    let (world, team, mailbox) = world().await;
    let id = world.receive(&team, &mailbox.id, MAIL).await;
    let body = world.get(&format!("/mailbox/messages/{id}/body")).key(&mailbox.key).send().await.data();
    assert!(body["body"]["text"].as_str().unwrap().contains("-- "));
    assert_eq!((&body["part"], &body["body"]["html"]), (&json!("both"), &json!(null)));
    let cut = format!("/mailbox/messages/{id}/body?part=text&max_body_chars=4");
    let cut = world.get(&cut).key(&mailbox.key).send().await.data();
    assert_eq!(cut["body"], json!({"text": "Your", "html": null, "is_truncated": true, "truncated_at_chars": 4}));
    let path = format!("/mailbox/messages/{id}/content");
    let content = world.get(&path).key(&mailbox.key).send().await.data();
    assert_eq!(content["body"]["text"], "Your verification code is 123456.");
    assert_eq!((&content["body"]["format"], &content["body"]["signature_stripped"]), (&json!("text"), &json!(true)));
    assert_eq!(content["codes"][0]["value"], "123456");
    assert_eq!(content["headers"]["mode"], "selected");
    assert_eq!(content["headers"]["selected"]["message_id"], json!(["one@example.net"]));
    assert_eq!(content["attachments"][0]["id"].as_str().unwrap().get(..4), Some("att_"));
    let bare = format!("{path}?include_headers=full&include_attachments=none&strip_signature=false");
    let bare = world.get(&bare).key(&mailbox.key).send().await;
    assert_eq!(bare.data()["attachments"], json!([]));
    assert!(bare.data()["headers"]["full"].as_array().unwrap().iter().any(|h| h["name"] == "Subject"));
    assert!(bare.data()["body"]["text"].as_str().unwrap().contains("Ann"));
    let again = format!("{path}?include_headers=full&include_attachments=none&strip_signature=false");
    let again = world.get(&again).key(&mailbox.key).header("if-none-match", &bare.header("etag")).send().await;
    assert_eq!(again.status, 304);
    for bad in ["max_body_chars=0", "max_body_chars=1000001", "part=all", "strip_quotes=maybe"] {
        assert_eq!(world.get(&format!("{path}?{bad}")).key(&mailbox.key).send().await.status, 400, "{bad}");
    }
}

#[tokio::test]
async fn an_attachment_is_downloaded_whole_or_in_part() {
    let (world, team, mailbox) = world().await;
    let id = world.receive(&team, &mailbox.id, MAIL).await;
    let message = world.get(&format!("/mailbox/messages/{id}")).key(&mailbox.key).send().await.data();
    let attachment = message["attachments"][0]["id"].as_str().unwrap().to_owned();
    let path = format!("/mailbox/messages/{id}/attachments/{attachment}");
    let whole = world.get(&path).key(&mailbox.key).send().await;
    assert_eq!((whole.status.as_u16(), &whole.body[..]), (200, &b"hello world"[..]));
    assert_eq!(whole.header("content-type"), "application/pdf");
    assert_eq!(whole.header("content-disposition"), "attachment; filename=\"bill.pdf\"; filename*=UTF-8''bill.pdf");
    assert_eq!(whole.header("x-content-type-options"), "nosniff");
    let part = world.get(&path).key(&mailbox.key).header("range", "bytes=6-").send().await;
    assert_eq!((part.status.as_u16(), &part.body[..]), (206, &b"world"[..]));
    assert_eq!(part.header("content-range"), "bytes 6-10/11");
    let bad = world.get(&path).key(&mailbox.key).header("range", "bytes=99-").send().await;
    assert_eq!(bad.refusal(), (400, "invalid_parameter".to_owned()));
    for id in ["att_0", "att_99", "att_01", "nonsense"] {
        let path = path.replace(&attachment, id);
        assert_eq!(world.get(&path).key(&mailbox.key).send().await.refusal(), (404, "not_found".to_owned()), "{id}");
    }
}

#[tokio::test]
async fn a_download_url_works_without_a_key_for_this_attachment_until_it_expires() {
    let (world, team, mailbox) = world().await;
    let id = world.receive(&team, &mailbox.id, MAIL).await;
    let other = world.receive(&team, &mailbox.id, MAIL).await;
    let message = world.get(&format!("/mailbox/messages/{id}")).key(&mailbox.key).send().await.data();
    let url = message["attachments"][0]["download_url"].as_str().unwrap();
    let path = url.strip_prefix("http://127.0.0.1:8080").unwrap().to_owned();
    let fetch = |path: String| world.raw(Request::get(path).body(Body::empty()).unwrap());
    let found = fetch(path.clone()).await;
    assert_eq!((found.status.as_u16(), &found.body[..]), (200, &b"hello world"[..]));
    assert_eq!(fetch(path.replace(id.as_str(), other.as_str())).await.status, 401, "for this message only");
    assert_eq!(fetch(path.replace("/attachments/att_", "/attachments/att_1")).await.status, 401);
    let mut forged = path.clone();
    let last = forged.pop().unwrap();
    forged.push(if last == 'A' { 'B' } else { 'A' });
    assert_eq!(fetch(forged).await.status, 401);
    assert_eq!(fetch(path.split('?').next().unwrap().to_owned()).await.status, 401, "no token, no key");
    world.post(&format!("/mailboxes/{}/suspend", mailbox.id)).key(&team.root).send().await.data();
    assert_eq!(fetch(path.clone()).await.status, 403);
    world.post(&format!("/mailboxes/{}/resume", mailbox.id)).key(&team.root).send().await.data();
    world.advance(15 * 60 * SECOND);
    assert_eq!(fetch(path).await.status, 401);
}

#[tokio::test]
async fn keywords_change_under_the_version_that_was_read() {
    let (world, team, mailbox) = world().await;
    let id = world.receive(&team, &mailbox.id, REPLY).await;
    let path = format!("/mailbox/messages/{id}");
    let patch = |body: serde_json::Value| world.patch(&path).key(&mailbox.key).json(&body);
    let seen = patch(json!({"seen": true, "keywords": {"Todo": true}})).header("if-match", "W/\"1\"").send().await;
    assert_eq!(seen.data()["flags"]["seen"], true);
    assert_eq!(seen.data()["keywords"], json!(["$seen", "todo"]));
    assert_eq!(seen.header("etag"), "W/\"2\"");
    let stale = patch(json!({"seen": false})).header("if-match", "W/\"1\"").send().await;
    assert_eq!((stale.refusal(), stale.header("etag").as_str()), ((409, "conflict".to_owned()), "W/\"2\""));
    let read = world.get(&path).key(&mailbox.key).send().await.data();
    assert_eq!(read["keywords"], json!(["$seen", "todo"]));
    let unread = world.get("/mailbox/messages?is_unread=true").key(&mailbox.key).send().await.data();
    assert_eq!(unread, json!([]));
    assert_eq!(patch(json!({"keywords": {"$draft": true}})).send().await.param(), "keywords.$draft");
    assert_eq!(patch(json!({"folder": "trash"})).send().await.param(), "folder");
}

#[tokio::test]
async fn a_message_is_moved_and_restored_from_the_trash_by_naming_a_folder() {
    let (world, team, mailbox) = world().await;
    let id = world.receive(&team, &mailbox.id, REPLY).await;
    let path = format!("/mailbox/messages/{id}");
    let patch = |body: serde_json::Value| world.patch(&path).key(&mailbox.key).json(&body);
    let moved = patch(json!({"folder_id": "archive", "seen": true})).header("if-match", "W/\"1\"").send().await;
    assert_eq!((&moved.data()["folder_ids"], &moved.data()["flags"]["seen"]), (&json!(["archive"]), &json!(true)));
    assert_eq!(moved.header("etag"), "W/\"3\"");
    assert_eq!(world.delete(&path).key(&mailbox.key).send().await.status, 200);
    assert_eq!(world.get(&path).key(&mailbox.key).send().await.data()["folder_ids"], json!(["trash"]));
    let state = world.get("/mailbox/changes").key(&mailbox.key).send().await.data()["new_state"].clone();
    assert_eq!(patch(json!({"folder_id": "inbox"})).send().await.data()["folder_ids"], json!(["inbox"]));
    let read = world.get(&path).key(&mailbox.key).send().await;
    assert_eq!((&read.data()["folder_ids"], read.header("etag").as_str()), (&json!(["inbox"]), "W/\"5\""));
    let changes = format!("/mailbox/changes?since_state={}", state.as_str().unwrap());
    assert_eq!(world.get(&changes).key(&mailbox.key).send().await.data()["updated"], json!([id.to_string()]));
    let folders = world.get("/mailbox/folders").key(&mailbox.key).send().await.data();
    let counts: Vec<_> = folders.as_array().unwrap().iter().map(|f| f["total_messages"].as_u64().unwrap()).collect();
    assert_eq!(counts, [1, 0, 0, 0, 0, 0]);
    // Where it is already, nothing happens.
    assert_eq!(patch(json!({"folder_id": "inbox"})).send().await.header("etag"), "W/\"5\"");
    let stale = patch(json!({"folder_id": "junk"})).header("if-match", "W/\"1\"").send().await;
    assert_eq!(stale.refusal(), (409, "conflict".to_owned()));
    for bad in [json!("nonsense"), json!(""), json!(null), json!(7)] {
        assert_eq!(patch(json!({"folder_id": bad})).send().await.param(), "folder_id");
    }
    assert_eq!(world.delete(&format!("{path}?permanent=true")).key(&mailbox.key).send().await.status, 200);
    assert_eq!(patch(json!({"folder_id": "inbox"})).send().await.status, 404, "what was destroyed never comes back");
}

#[tokio::test]
async fn a_search_through_the_mails_themselves_goes_page_by_page() {
    let (world, team, mailbox) = world().await;
    let mut expected = vec![];
    for n in 0..30 {
        world.advance(SECOND);
        let mail = REPLY.replace("Never mind.", if n % 3 == 0 { "A needle." } else { "Hay." });
        let id = world.receive(&team, &mailbox.id, &mail.replace("two@", &format!("n{n}@"))).await;
        if n % 3 == 0 {
            expected.push(id.to_string());
        }
    }
    let (mut found, mut cursor) = (vec![], String::new());
    loop {
        let path = format!("/mailbox/messages?body=NEEDLE&sort_direction=asc&limit=4{cursor}");
        let page = world.get(&path).key(&mailbox.key).send().await.json();
        let rows = page["data"].as_array().unwrap();
        assert!(rows.len() <= 4);
        found.extend(rows.iter().map(|row| row["id"].as_str().unwrap().to_owned()));
        if page["pagination"]["has_more"] == false {
            break;
        }
        cursor = format!("&cursor={}", page["pagination"]["next_cursor"].as_str().unwrap());
    }
    assert_eq!(found, expected);
}

#[tokio::test]
async fn a_deleted_message_goes_to_the_trash_and_then_for_good() {
    let (world, team, mailbox) = world().await;
    let id = world.receive(&team, &mailbox.id, REPLY).await;
    let path = format!("/mailbox/messages/{id}");
    assert_eq!(
        world.delete(&path).key(&mailbox.key).send().await.data(),
        json!({"id": id.to_string(), "deleted": true})
    );
    assert_eq!(world.get(&path).key(&mailbox.key).send().await.data()["folder_ids"], json!(["trash"]));
    let folders = world.get("/mailbox/folders").key(&mailbox.key).send().await.data();
    let count =
        |id: &str| folders.as_array().unwrap().iter().find(|f| f["id"] == id).unwrap()["total_messages"].clone();
    assert_eq!((count("inbox"), count("trash")), (json!(0), json!(1)));
    let stale = world.delete(&format!("{path}?permanent=true")).key(&mailbox.key).header("if-match", "W/\"1\"");
    assert_eq!(stale.send().await.status, 409);
    assert_eq!(world.delete(&format!("{path}?permanent=true")).key(&mailbox.key).send().await.status, 200);
    assert_eq!(world.get(&path).key(&mailbox.key).send().await.refusal(), (404, "not_found".to_owned()));
    assert_eq!(world.delete(&path).key(&mailbox.key).send().await.status, 404);
}

#[tokio::test]
async fn messages_are_found_by_what_they_say() {
    let (world, team, mailbox) = world().await;
    world.receive(&team, &mailbox.id, MAIL).await;
    world.advance(SECOND);
    world.receive(&team, &mailbox.id, REPLY).await;
    let thread =
        world.get("/mailbox/threads").key(&mailbox.key).send().await.data()[0]["id"].as_str().unwrap().to_owned();
    let thread = format!("thread_id={thread}");
    for (query, count) in [
        ("", 2),
        ("q=code", 2),
        ("q=verification", 1),
        ("from=ann", 2),
        ("from=bob", 0),
        ("subject=re:", 1),
        ("has_attachment=true", 1),
        ("has_attachment=false", 1),
        ("folder_id=inbox", 2),
        ("folder_id=nonsense", 0),
        ("keyword=$seen", 0),
        ("not_keyword=$seen", 2),
        ("header_name=Message-ID&header_value=%3Ctwo@example.net%3E", 1),
        ("body=never+MIND", 1),
        ("body=123456&from=ann", 1),
        ("body=nothing+of+the+kind", 0),
        ("header_name=Reply-To&header_value=office", 1),
        ("header_name=in-reply-to&header_value=one@", 1),
        ("header_name=In-Reply-To&header_value=one@&body=verification", 0),
        ("header_name=X-Spam&header_value=x", 0),
        ("after=2026-11-21T10:00:01Z", 1),
        ("before=2026-11-21T10:00:01Z", 1),
        ("min_size_bytes=1000000", 0),
        (thread.as_str(), 2),
        ("thread_id=nonsense", 0),
        ("include_attachments=metadata", 2),
    ] {
        let found = world.get(&format!("/mailbox/messages?{query}")).key(&mailbox.key).send().await.data();
        assert_eq!(found.as_array().unwrap().len(), count, "{query}");
    }
    let first = |query: &'static str| {
        let (world, key) = (&world, &mailbox.key);
        async move {
            let found = world.get(&format!("/mailbox/messages?{query}")).key(key).send().await.data();
            found[0]["subject"].as_str().unwrap().to_owned()
        }
    };
    assert_eq!(first("").await, "Re: Your code");
    assert_eq!(first("sort_direction=asc").await, "Your code");
    assert_eq!(first("sort_by=size_bytes").await, "Your code");
    for (query, param) in [
        (format!("{thread}&q=x"), "thread_id"),
        (format!("{thread}&body=x"), "thread_id"),
        ("header_name=X:Spam&header_value=x".to_owned(), "header_name"),
        ("header_name=X-Spam".to_owned(), "header_value"),
        ("header_value=x".to_owned(), "header_name"),
        ("sort_by=mood".to_owned(), "sort_by"),
        ("after=soon".to_owned(), "after"),
        ("min_size_bytes=-1".to_owned(), "min_size_bytes"),
    ] {
        let answer = world.get(&format!("/mailbox/messages?{query}")).key(&mailbox.key).send().await;
        assert_eq!((answer.status.as_u16(), answer.param().as_str()), (400, param), "{query}");
    }
}

#[tokio::test]
async fn a_thread_gathers_its_messages() {
    let (world, team, mailbox) = world().await;
    let one = world.receive(&team, &mailbox.id, MAIL).await.to_string();
    world.advance(SECOND);
    let two = world.receive(&team, &mailbox.id, REPLY).await.to_string();
    let listed = world.get("/mailbox/threads").key(&mailbox.key).send().await;
    let summary = &listed.data()[0];
    assert_eq!((&summary["message_count"], &summary["unread_count"]), (&json!(2), &json!(2)));
    assert_eq!((&summary["subject"], &summary["last_message"]["id"]), (&json!("Your code"), &json!(two)));
    assert!(listed.json()["meta"]["query_state"].is_string());
    let id = summary["id"].as_str().unwrap();
    let path = format!("/mailbox/threads/{id}");
    let thread = world.get(&path).key(&mailbox.key).send().await;
    assert_eq!(thread.data()["message_ids"], json!([one, two]));
    let same = world.get(&path).key(&mailbox.key).header("if-none-match", &thread.header("etag")).send().await;
    assert_eq!(same.status, 304);
    let messages = world.get(&format!("{path}/messages?limit=1")).key(&mailbox.key).send().await.json();
    assert_eq!((&messages["data"][0]["id"], &messages["meta"]["thread_id"]), (&json!(one), &json!(id)));
    assert_eq!(messages["pagination"]["has_more"], true);
    let newest = world.get(&format!("{path}/messages?sort=desc")).key(&mailbox.key).send().await.data();
    assert_eq!(newest[0]["id"], json!(two));
    let unknown = format!("/mailbox/threads/thr_{}", "0".repeat(24));
    assert_eq!(world.get(&unknown).key(&mailbox.key).send().await.status, 404);
    assert_eq!(world.get(&format!("{unknown}/messages")).key(&mailbox.key).send().await.status, 404);
}

#[tokio::test]
async fn every_mailbox_has_the_same_folders() {
    let (world, team, mailbox) = world().await;
    world.receive(&team, &mailbox.id, REPLY).await;
    let folders = world.get("/mailbox/folders").key(&mailbox.key).send().await.data();
    let ids: Vec<_> = folders.as_array().unwrap().iter().map(|f| f["id"].as_str().unwrap()).collect();
    assert_eq!(ids, ["inbox", "drafts", "sent", "junk", "trash", "archive"]);
    assert_eq!((&folders[0]["total_messages"], &folders[0]["unread_messages"]), (&json!(1), &json!(1)));
    let page = world.get("/mailbox/folders?limit=4").key(&mailbox.key).send().await.json();
    assert_eq!(page["pagination"], json!({"has_more": true, "next_cursor": "junk"}));
    let rest = world.get("/mailbox/folders?cursor=junk").key(&mailbox.key).send().await.data();
    assert_eq!(rest.as_array().unwrap().len(), 2);
    let inbox = world.get("/mailbox/folders/inbox").key(&mailbox.key).send().await;
    assert_eq!(inbox.data(), folders[0]);
    assert_eq!(world.get("/mailbox/folders/outbox").key(&mailbox.key).send().await.status, 404);
}

#[tokio::test]
async fn changes_are_told_since_a_state() {
    let (world, team, mailbox) = world().await;
    let get = |path: String| {
        let (world, key) = (&world, &mailbox.key);
        async move { world.get(&path).key(key).send().await }
    };
    let standing = get("/mailbox/changes".to_owned()).await.data();
    assert_eq!((&standing["old_state"], &standing["created"]), (&json!(null), &json!([])));
    let state = standing["new_state"].as_str().unwrap().to_owned();
    let one = world.receive(&team, &mailbox.id, MAIL).await.to_string();
    let two = world.receive(&team, &mailbox.id, REPLY).await.to_string();
    let changes = get(format!("/mailbox/changes?since_state={state}&limit=1")).await.data();
    assert_eq!((&changes["created"], &changes["has_more"]), (&json!([one]), &json!(true)));
    let next = changes["new_state"].as_str().unwrap().to_owned();
    let changes = get(format!("/mailbox/changes?since_state={next}")).await.data();
    assert_eq!((&changes["created"], &changes["has_more"]), (&json!([two]), &json!(false)));
    let next = changes["new_state"].as_str().unwrap().to_owned();
    world.patch(&format!("/mailbox/messages/{one}")).key(&mailbox.key).json(&json!({"seen": true})).send().await.data();
    world.delete(&format!("/mailbox/messages/{two}?permanent=true")).key(&mailbox.key).send().await.data();
    let changes = get(format!("/mailbox/changes?since_state={next}")).await.data();
    assert_eq!((&changes["updated"], &changes["destroyed"]), (&json!([one]), &json!([two])));
    let typed =
        get("/mailbox/changes?types=messages,folders,threads,submissions,identities,quotas".to_owned()).await.data();
    assert_eq!(typed["types"].as_object().unwrap().len(), 6);
    let folders = typed["types"]["folders"]["new_state"].as_str().unwrap();
    let none = get(format!("/mailbox/changes?types=folders&folders_since_state={folders}")).await.data();
    assert_eq!(none["types"]["folders"]["updated"], json!([]));
    let quotas = get(format!("/mailbox/changes?types=quotas&quotas_since_state={next}")).await.data();
    let quotas = &quotas["types"]["quotas"];
    let quota = mailbox.id.as_str().replace("mbx_", "quota_");
    assert_eq!((&quotas["updated"], &quotas["updated_properties"]), (&json!([quota]), &json!(["used"])));
    assert_eq!(quotas["sync_required"], json!(null));
    let at = quotas["new_state"].as_str().unwrap();
    let quotas = get(format!("/mailbox/changes?types=quotas&quotas_since_state={at}")).await.data();
    assert_eq!(
        (&quotas["types"]["quotas"]["updated"], &quotas["types"]["quotas"]["new_state"]),
        (&json!([]), &json!(at))
    );
    // The name and the quota of the mailbox change; the one identity and the one quota say so.
    let identity = mailbox.id.as_str().replace("mbx_", "id_");
    let same = get(format!("/mailbox/changes?types=identities&identities_since_state={at}")).await.data();
    assert_eq!(same["types"]["identities"]["updated"], json!([]));
    let manage = format!("/mailboxes/{}", mailbox.id);
    let change = json!({"display_name": "New name", "quota_bytes": 5_368_709_120_i64});
    assert_eq!(world.patch(&manage).key(&team.root).json(&change).send().await.status, 200);
    let both = format!("/mailbox/changes?types=identities,quotas&identities_since_state={at}&quotas_since_state={at}");
    let both = get(both).await.data();
    assert_eq!(both["types"]["identities"]["updated"], json!([identity]));
    assert_eq!(both["types"]["quotas"]["updated"], json!([quota]));
    assert_eq!(both["types"]["quotas"]["updated_properties"], json!(null), "not only its use");
    let birth = domain::id::EventId::new(&team.id, 1, 1);
    let begun = get(format!("/mailbox/changes?types=identities&identities_since_state={birth}")).await.data();
    assert_eq!(begun["types"]["identities"]["created"], json!([identity]));
    let head = world.app.log.head(&team.id).await.unwrap();
    let ahead = domain::id::EventId::new(&team.id, head.epoch, head.position + 5);
    assert_eq!(get(format!("/mailbox/changes?since_state={ahead}")).await.data()["sync_required"], true);
    let strangers = world.team("b.test").await;
    let foreign = domain::id::EventId::new(&strangers.id, 1, 1).to_string();
    for bad in [foreign.as_str(), "nonsense"] {
        assert_eq!(get(format!("/mailbox/changes?since_state={bad}")).await.param(), "since_state");
    }
    assert_eq!(get("/mailbox/changes?types=moods".to_owned()).await.param(), "types");
}
