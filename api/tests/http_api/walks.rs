//! Walks over the API document: whatever route is added, it is guarded and keeps teams apart.

use std::collections::BTreeSet;

use axum::http::Method;
use domain::api_key::Kind;
use domain::permission::{CATALOGUE, Permissions};
use domain::team::Limits;
use serde_json::{Value, json};

use crate::harness::{Box_, MAIL, Team, World};

/// One operation of the document.
pub struct Operation {
    pub method: Method,
    pub path: String,
    pub surface: String,
    permission: Option<String>,
    pub parameters: Vec<String>,
    pub has_body: bool,
}

pub fn operations() -> Vec<Operation> {
    let document = serde_json::to_value(api::document()).unwrap();
    let mut operations = vec![];
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let text =
                |key: &str| operation[key].as_str().unwrap_or_else(|| panic!("{method} {path} lacks {key}")).to_owned();
            let parameters = operation["parameters"].as_array().cloned().unwrap_or_default();
            let in_path =
                parameters.iter().filter(|p| p["in"] == "path").map(|p| p["name"].as_str().unwrap().to_owned());
            operations.push(Operation {
                method: method.to_uppercase().parse().unwrap(),
                path: path.clone(),
                surface: text("x-postlog-surface"),
                permission: Some(text("x-postlog-permission")).filter(|p| p != "none"),
                parameters: in_path.collect(),
                has_body: operation.get("requestBody").is_some(),
            });
        }
    }
    operations
}

/// Ids of things of one team, by the place in the path where they stand.
pub struct Things {
    pub team: Team,
    pub mailbox: Box_,
    webhook: String,
    message: String,
    thread: String,
    log: String,
    key: String,
    provider: String,
    group: String,
    email: String,
    delivery: String,
    upload: String,
    attachment: String,
    domain: String,
    selector: String,
    suppression: String,
}

/// Sends a mail as a mailbox; returns its id and that of its entry in the delivery log.
async fn sent(world: &World, team: &Team, mailbox: &Box_) -> (String, String) {
    crate::sending::equip(world, team).await;
    let mail = json!({"to": [{"email": "bob@example.net", "name": null}], "subject": "Hi", "text_body": "Hi"});
    let answer = world.post("/mailbox/messages/send").key(&mailbox.key).json(&mail).send().await;
    let logs = world.get("/emails/logs").key(&team.root).send().await.data();
    let id = |value: &Value| value.as_str().unwrap().to_owned();
    (id(&answer.data()["email_id"]), id(&logs[0]["id"]))
}

impl Things {
    pub async fn new(world: &World, domain: &str) -> Self {
        // The walk makes a key for each permission that it takes away.
        let team = world.team_with(domain, Limits { active_keys: 1_000, ..Limits::default() }).await;
        let mailbox = world.mailbox(&team, "box").await;
        let message = world.receive(&team, &mailbox.id, MAIL).await.to_string();
        let hook = json!({"url": "https://hooks.example.com/in", "event_types": ["sendmux.test"]});
        let webhook = world.post("/webhooks").key(&team.root).json(&hook).send().await.data();
        let thread = world.get("/mailbox/threads").key(&mailbox.key).send().await.data();
        let log = world.get("/inboxes/logs").key(&team.root).send().await.data();
        let key = world.get("/mailbox/connection").key(&mailbox.key).send().await.data();
        let account =
            json!({"name": "Own", "smtp_host": "smtp.example.com", "smtp_port": 587, "smtp_protocol": "starttls"});
        let provider = world.post("/providers").key(&team.root).json(&account).send().await.data();
        let group = world.post("/delivery-groups").key(&team.root).json(&json!({"name": "x"})).send().await.data();
        let named = json!({"domain": format!("mail.{domain}")});
        let named = world.post("/domains").key(&team.root).json(&named).send().await.data();
        let record = named["dns_records"]["dkim"][0]["name"].as_str().unwrap();
        let listed = json!({"email": "never@example.net"});
        let listed = world.post("/suppressions").key(&team.root).json(&listed).send().await.data();
        let id = |value: &Value| value.as_str().unwrap().to_owned();
        let (email, delivery) = sent(world, &team, &mailbox).await;
        let file = json!({"filename": "a.txt", "size_bytes": 3});
        let upload = world.post("/emails/attachment-uploads").key(&mailbox.key).json(&file).send().await.data();
        let attachment = world.post("/emails/attachments?filename=a.txt").key(&mailbox.key);
        let attachment = attachment.header("content-length", "3").body("abc").send().await.data();
        Self {
            email,
            delivery,
            upload: id(&upload["upload_id"]),
            attachment: id(&attachment["attachment_id"]),
            domain: id(&named["id"]),
            selector: record.split('.').next().unwrap().to_owned(),
            suppression: id(&listed["id"]),
            provider: id(&provider["id"]),
            group: id(&group["id"]),
            webhook: id(&webhook["id"]),
            thread: id(&thread[0]["id"]),
            log: id(&log[0]["id"]),
            key: id(&key["credential"]["id"]),
            message,
            mailbox,
            team,
        }
    }

    pub fn fill(&self, operation: &Operation) -> String {
        let mut path = operation.path.clone();
        for name in &operation.parameters {
            let value = match name.as_str() {
                "public_id" if path.starts_with("/mailboxes") => self.mailbox.id.to_string(),
                "public_id" if path.starts_with("/webhooks") => self.webhook.clone(),
                "public_id" if path.starts_with("/inboxes") => self.log.clone(),
                "public_id" if path.starts_with("/providers") => self.provider.clone(),
                "public_id" if path.starts_with("/delivery-groups") => self.group.clone(),
                "public_id" if path.starts_with("/emails/logs") => self.delivery.clone(),
                "message_id" if path.starts_with("/emails") => self.email.clone(),
                "submission_id" => self.email.replace("eml_", "sub_"),
                "upload_id" => self.upload.clone(),
                "attachment_id" if path.starts_with("/emails") => self.attachment.clone(),
                "request_id" => format!("slir_{}", "0".repeat(24)),
                "public_id" if path.starts_with("/domains") => self.domain.clone(),
                "public_id" if path.starts_with("/suppressions") => self.suppression.clone(),
                "selector" => self.selector.clone(),
                "token" => "nobody".to_owned(),
                "delivery_id" => format!("whda_{}", "0".repeat(24)),
                "key_id" => self.key.clone(),
                "message_id" => self.message.clone(),
                "thread_id" => self.thread.clone(),
                "attachment_id" => "att_2".to_owned(),
                "folder_id" => "inbox".to_owned(),
                // Checkpoints are counted, not named; whose they are is a story of the audit log.
                "size" => "4000000000".to_owned(),
                other => panic!("the walk does not know {other} of {}: teach it", operation.path),
            };
            path = path.replace(&format!("{{{name}}}"), &value);
        }
        path
    }
}

/// Returns the path with ids of the right kinds that nobody has.
pub fn unknown(path: &str) -> String {
    let segment = |segment: &str| match segment.split_once('_') {
        Some((kind, id)) if id.len() == 24 => format!("{kind}_{}", "z".repeat(24)),
        _ => segment.to_owned(),
    };
    path.split('/').map(segment).collect::<Vec<_>>().join("/")
}

/// A body that some operation of the path accepts.
pub fn body(operation: &Operation) -> Value {
    match (operation.method.as_str(), operation.path.as_str()) {
        ("POST", "/mailboxes") => json!({"email": "new@a.test"}),
        ("POST", "/mailboxes/{public_id}/keys") => json!({"app_name": "x"}),
        ("PUT", "/mailboxes/{public_id}/filters" | "/domains/{public_id}/filters") => {
            json!({"mode": "off", "rules": []})
        }
        ("POST", "/webhooks") => json!({"url": "https://hooks.example.com/in", "event_types": ["sendmux.test"]}),
        ("POST", "/emails/logs/{public_id}/reschedule") | ("PATCH", "/emails/{message_id}") => {
            json!({"send_at": "2026-11-22T10:00:00Z"})
        }
        ("POST", "/domains/{public_id}/signing-keys") => json!({"algorithm": "ed25519"}),
        ("PATCH", "/domains/{public_id}") => json!({"mode": "send_receive"}),
        ("POST", "/keys") => json!({"name": "x", "kind": "sending"}),
        _ => json!({}),
    }
}

pub async fn call(world: &World, operation: &Operation, path: &str, key: Option<&str>) -> crate::harness::Answer {
    let call = world.call(operation.method.clone(), path);
    let call = match (operation.has_body, operation.path.contains("attachment-uploads/")) {
        (true, true) => call.header("content-length", "3").body("abc"),
        (true, false) => call.json(&body(operation)),
        (false, _) => call,
    };
    match key {
        Some(key) => call.key(key).send().await,
        None => call.send().await,
    }
}

pub fn is_stream(operation: &Operation) -> bool {
    matches!(operation.path.as_str(), "/mailbox/events" | "/events/stream")
}

#[tokio::test]
async fn every_route_refuses_a_missing_key() {
    let world = World::new().await;
    let things = Things::new(&world, "a.test").await;
    let mut public = vec![];
    for operation in operations() {
        let answer = call(&world, &operation, &things.fill(&operation), None).await;
        if operation.surface == "public" {
            public.push(operation.path);
            continue;
        }
        assert_eq!(
            answer.refusal(),
            (401, "authentication_required".to_owned()),
            "{} {}",
            operation.method,
            operation.path
        );
    }
    assert_eq!(public, ["/openapi.json", "/provider-notifications/{token}"], "nothing else is public");
}

#[tokio::test]
async fn every_route_refuses_a_key_that_lacks_its_permission() {
    let world = World::new().await;
    let things = Things::new(&world, "a.test").await;
    let forbidden = (403, "insufficient_permissions".to_owned());
    for operation in operations().into_iter().filter(|o| o.surface != "public") {
        let path = things.fill(&operation);
        let what = format!("{} {}", operation.method, operation.path);
        let wrong_class = if matches!(operation.surface.as_str(), "mailbox" | "sending") {
            &things.team.root
        } else {
            &things.mailbox.key
        };
        if operation.surface != "any" {
            assert_eq!(call(&world, &operation, &path, Some(wrong_class)).await.refusal(), forbidden, "{what}");
        }
        let Some(wanted) = &operation.permission else { continue };
        assert!(CATALOGUE.contains(&wanted.as_str()), "{what} needs {wanted}, which nobody can hold");
        // Everything but the one permission, and the wildcards that cover it.
        let others = CATALOGUE.iter().filter(|p| !Permissions::parse([**p]).unwrap().allow(wanted)).copied();
        let of_mailbox = matches!(operation.surface.as_str(), "mailbox" | "sending");
        let permissions = Permissions::parse(others.filter(|p| of_mailbox || *p != "email.send")).unwrap();
        let key = if of_mailbox {
            world.mailbox_key(&things.team.id, &things.mailbox.id, permissions).await
        } else {
            world.team_key(&things.team.id, Kind::Infrastructure, permissions).await
        };
        assert_eq!(call(&world, &operation, &path, Some(&key)).await.refusal(), forbidden, "{what}");
    }
}

#[tokio::test]
async fn another_teams_things_are_answered_like_things_that_do_not_exist() {
    let world = World::new().await;
    let (ours, theirs) = (Things::new(&world, "a.test").await, Things::new(&world, "b.test").await);
    let before = world.app.log.head(&theirs.team.id).await.unwrap();
    let mut walked = BTreeSet::new();
    for operation in operations() {
        let foreign = operation.parameters.iter().any(|name| !matches!(name.as_str(), "folder_id"));
        // Who has the token of a public path has what there is to have.
        if !foreign || is_stream(&operation) || operation.surface == "public" {
            continue;
        }
        let of_mailbox = matches!(operation.surface.as_str(), "mailbox" | "sending");
        let key = if of_mailbox { &ours.mailbox.key } else { &ours.team.root };
        let path = theirs.fill(&operation);
        let answer = call(&world, &operation, &path, Some(key)).await;
        let what = format!("{} {}", operation.method, operation.path);
        assert_eq!(answer.refusal(), (404, "not_found".to_owned()), "{what}");
        // An id that nobody has is answered with the same words.
        let nobody = call(&world, &operation, &unknown(&path), Some(key)).await;
        assert_eq!(nobody.json()["error"], answer.json()["error"], "{what}");
        walked.insert(operation.path);
    }
    assert!(walked.len() >= 15, "{walked:?}");
    assert_eq!(world.app.log.head(&theirs.team.id).await.unwrap(), before, "nothing of theirs has moved");
}

#[tokio::test]
async fn every_operation_is_described() {
    let document = serde_json::to_value(api::document()).unwrap();
    let mut ids = BTreeSet::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let what = format!("{method} {path}");
            let id = operation["operationId"].as_str().unwrap_or_else(|| panic!("{what} has no operationId"));
            assert!(ids.insert(id.to_owned()), "{id} twice");
            assert!(!operation["summary"].as_str().unwrap_or_default().is_empty(), "{what} has no summary");
            assert!(operation["tags"].as_array().is_some_and(|t| t.len() == 1), "{what} has no tag");
            let placeholders = path.matches('{').count();
            let parameters = operation["parameters"].as_array().cloned().unwrap_or_default();
            let in_path: Vec<_> = parameters.iter().filter(|p| p["in"] == "path").collect();
            assert_eq!(in_path.len(), placeholders, "{what}");
            assert!(in_path.iter().all(|p| p["example"].is_string()), "{what} has an id without an example");
        }
    }
    // Every reference leads somewhere.
    let text = document.to_string();
    for reference in text.split("\"#/components/schemas/").skip(1).map(|rest| rest.split('"').next().unwrap()) {
        assert!(document["components"]["schemas"].get(reference).is_some(), "{reference} is not described");
    }
}
