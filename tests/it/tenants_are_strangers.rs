//! Nothing of one team can be read, changed or guessed at with the keys of another: its ids answer like unknown ones.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::every_route_is_guarded::{concrete, operations};
use crate::harness::{Client, Installation, answer};

/// The ids of one team's objects, by path parameter.
struct Belongings {
    root: Client,
    mailbox: Client,
    ids: BTreeMap<String, String>,
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("not a text: {value}")).to_owned()
}

async fn belongings(server: &crate::harness::Server, root: Client, mailbox: Client, address: &str) -> Belongings {
    let (_, boxes) = root.get("/mailboxes").await;
    let (status, hook) = root
        .post("/webhooks", json!({"url": "http://127.0.0.1:9/x", "event_types": ["message.received", "sendmux.test"]}))
        .await;
    assert_eq!(status, 201, "{hook}");
    let content = format!(
        "From: <ann@example.com>\r\nTo: <{address}>\r\nSubject: private\r\nMessage-ID: <{address}.1@example.com>\r\n\
         Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\nContent-Type: text/plain\r\n\r\nhi\r\n--b\r\n\
         Content-Type: application/pdf; name=a.pdf\r\nContent-Disposition: attachment; filename=a.pdf\r\n\r\nx\r\n--b--\r\n"
    );
    crate::smtp_client::send_raw(&server.smtp, "ann@example.com", &[address], &content).await.unwrap();
    let list = mailbox.wait_for("/mailbox/messages", |b| b["data"].as_array().is_some_and(|d| !d.is_empty())).await;
    let message = &list["data"][0];
    let (_, detail) = mailbox.get(&format!("/mailbox/messages/{}", text(&message["id"]))).await;
    let (_, logs) = root.get("/inboxes/logs").await;
    let (_, keys) = root.get("/keys").await;
    let (status, group) = root.post("/delivery-groups", json!({"name": "x"})).await;
    assert_eq!(status, 201, "{group}");
    let (status, account) = root
        .post("/providers", json!({"name": "x", "smtp_host": "127.0.0.1", "smtp_port": 2599, "smtp_protocol": "none"}))
        .await;
    assert_eq!(status, 201, "{account}");
    let name = format!("mail.{}", address.split('@').nth(1).unwrap());
    let (status, domain) = root.post("/domains", json!({"domain": name})).await;
    assert_eq!(status, 201, "{domain}");
    let (status, listed) = root.post("/suppressions", json!({"email": "never@example.com"})).await;
    assert_eq!(status, 201, "{listed}");
    let mail = json!({"to": [{"email": "delivered@simulator.postlog.test"}], "subject": "private", "text_body": "x"});
    let (status, sent) = mailbox.post("/mailbox/messages/send", mail).await;
    assert_eq!(status, 200, "{sent}");
    let (_, delivery) = root.get("/emails/logs").await;
    let announced = json!({"filename": "a.txt", "size_bytes": 1});
    let (status, of_sending) = mailbox.post("/emails/attachment-uploads", announced).await;
    assert_eq!(status, 201, "{of_sending}");
    let announced = json!({"filename": "a.txt", "size_bytes": 1, "content_type": "text/plain"});
    let (status, of_mailbox) = mailbox.post("/mailbox/attachment-uploads", announced).await;
    assert_eq!(status, 200, "{of_mailbox}");
    let upload = mailbox.request(reqwest::Method::POST, "/emails/attachments?filename=a.txt").body("x");
    let (status, uploaded) = answer(upload).await;
    assert_eq!(status, 201, "{uploaded}");
    let record = text(&domain["data"]["dns_records"]["dkim"][0]["name"]);
    let hook_id = text(&hook["data"]["id"]);
    let attempts = root
        .wait_for(&format!("/webhooks/{hook_id}/deliveries"), |b| b["data"].as_array().is_some_and(|d| !d.is_empty()))
        .await;
    let ids = BTreeMap::from([
        ("emails".to_owned(), text(&sent["data"]["email_id"])),
        ("emails/logs".to_owned(), text(&delivery["data"][0]["id"])),
        ("emails/attachment-uploads".to_owned(), text(&of_sending["data"]["upload_id"])),
        ("emails/attachments".to_owned(), text(&uploaded["data"]["attachment_id"])),
        ("submissions".to_owned(), text(&sent["data"]["submission_id"])),
        ("attachment-uploads".to_owned(), text(&of_mailbox["data"]["upload_id"])),
        ("shared-amazon-ses-limit-request".to_owned(), "slir_000000000000000000000000".to_owned()),
        ("mailboxes".to_owned(), text(&boxes["data"][0]["id"])),
        ("webhooks".to_owned(), hook_id),
        ("deliveries".to_owned(), text(&attempts["data"][0]["id"])),
        ("messages".to_owned(), text(&message["id"])),
        ("threads".to_owned(), text(&message["thread_id"])),
        ("attachments".to_owned(), text(&detail["data"]["attachments"][0]["id"])),
        ("logs".to_owned(), text(&logs["data"][0]["id"])),
        ("keys".to_owned(), text(&keys["data"][0]["id"])),
        ("delivery-groups".to_owned(), text(&group["data"]["id"])),
        ("providers".to_owned(), text(&account["data"]["id"])),
        ("domains".to_owned(), text(&domain["data"]["id"])),
        ("signing-keys".to_owned(), record.split('.').next().unwrap().to_owned()),
        ("suppressions".to_owned(), text(&listed["data"]["id"])),
        // What was signed is counted, not named: a number of theirs is one of nothing here.
        ("checkpoints".to_owned(), "4000000000".to_owned()),
    ]);
    Belongings { root, mailbox, ids }
}

/// Returns the path with the owner's ids in it, chosen by the segment before each parameter.
fn with_ids(template: &str, ids: &BTreeMap<String, String>) -> Option<String> {
    let mut path = String::new();
    let mut before = "";
    let first = template.split('/').nth(1).unwrap_or_default();
    for segment in template.split('/').skip(1) {
        path.push('/');
        if segment.starts_with('{') {
            path.push_str(ids.get(&format!("{first}/{before}")).or_else(|| ids.get(before))?);
        } else {
            path.push_str(segment);
            before = segment;
        }
    }
    Some(path)
}

#[tokio::test]
async fn ids_of_another_team_answer_like_ids_that_never_were() {
    let installation = Installation::new();
    let server = installation.start();
    let keys = server.keys.clone().unwrap();
    let made = installation.run(&["teams", "create", "--name", "Other", "--domain", "other.test"]);
    let other_root =
        made.lines().find_map(|l| l.strip_prefix("key")).and_then(|l| l.split_whitespace().next()).unwrap();
    let other_root = server.client(other_root);
    let (status, made) = other_root.post("/mailboxes", json!({"email": "box@other.test"})).await;
    assert_eq!(status, 201, "{made}");
    let other_mailbox = server.client(made["data"]["credential"]["secret"].as_str().unwrap());

    let ours = belongings(&server, server.client(&keys.root), server.client(&keys.mailbox), "agent@postlog.test").await;
    let theirs = belongings(&server, other_root, other_mailbox, "box@other.test").await;
    let (_, document) = ours.root.get("/openapi.json").await;
    let mut crossed = 0;
    for (method, template, operation) in operations(&document) {
        let template = template.trim_start_matches("/api/v1").to_owned();
        // Who has the token of a public path has what there is to have.
        if operation["x-postlog-surface"] == "public" {
            continue;
        }
        // System folders are named by their role and are each mailbox's own.
        if !template.contains('{') || template.contains("{folder_id}") {
            continue;
        }
        // The sending API takes a mailbox's key; the delivery log is for management.
        let sends = template.starts_with("/emails/") && !template.starts_with("/emails/logs");
        let client = if sends || template.starts_with("/mailbox/") { &ours.mailbox } else { &ours.root };
        let foreign = with_ids(&template, &theirs.ids).unwrap_or_else(|| panic!("no sample id for {template}"));
        let unknown = concrete(&template, |_| "mbx_zzzzzzzzzzzzzzzzzzzzzzzz".to_owned());
        let body = match (method.as_str(), template.as_str()) {
            ("POST", "/mailboxes/{public_id}/keys") => json!({"app_name": "x"}),
            ("POST", "/domains/{public_id}/signing-keys") => json!({"algorithm": "ed25519"}),
            ("PATCH", "/domains/{public_id}") => json!({"mode": "send_receive"}),
            ("PATCH", "/emails/{message_id}") | ("POST", "/emails/logs/{public_id}/reschedule") => {
                json!({"send_at": "2030-01-01T00:00:00Z"})
            }
            ("PUT", _) => json!({"mode": "off", "rules": []}),
            ("PATCH", t) if t.starts_with("/mailbox/") => json!({"seen": true}),
            _ => json!({}),
        };
        let request = |path: &str| {
            let request = client.request(method.clone(), path);
            if method == "GET" || method == "DELETE" { request } else { request.json(&body) }
        };
        let (status, answered) = answer(request(&foreign)).await;
        assert_eq!(status, 404, "{method} {foreign}: {answered}");
        let (unknown_status, unknown_answer) = answer(request(&unknown)).await;
        assert_eq!((status, &answered["error"]), (unknown_status, &unknown_answer["error"]), "{method} {template}");
        crossed += 1;
    }
    assert!(crossed >= 20, "only {crossed} operations take an id");
    // Nothing of theirs has changed or shows among ours.
    let (_, events) = theirs.root.get("/events?limit=500").await;
    let revealing: Vec<_> = theirs.ids.values().collect();
    assert!(events["data"].as_array().unwrap().iter().all(|e| !e["type"].as_str().unwrap().contains("revoked")));
    let lists = ["/mailboxes", "/webhooks", "/keys", "/inboxes/logs", "/emails/logs", "/providers", "/providers/usage"];
    for path in lists.into_iter().chain(["/events?limit=500", "/audit/events?limit=100"]) {
        let (_, page) = ours.root.get(path).await;
        let page = page.to_string();
        assert!(revealing.iter().all(|id| !page.contains(id.as_str())), "{path} shows another team's object");
    }
}
