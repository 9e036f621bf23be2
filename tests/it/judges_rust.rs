//! The official Rust crate as a judge, unmodified: management, mailbox, errors and a webhook's signature.

use hmac::{Hmac, KeyInit as _, Mac as _};
use sendmux::{Error, RequestOptions};
use serde_json::json;
use sha2::Sha256;

use crate::harness::{Installation, Keys, PATIENCE, Server};
use crate::webhook_sink::Sink;

struct Judge {
    server: Server,
    keys: Keys,
    root: sendmux::ManagementClient,
    mailbox: sendmux::MailboxClient,
}

fn base(server: &Server) -> String {
    format!("{}/api/v1", server.http)
}

fn judge(installation: &Installation) -> Judge {
    let server = installation.start();
    let keys = server.keys.clone().unwrap();
    // The crate spells infrastructure keys smx_root_; the same secret works under either label.
    let root = sendmux::management(keys.root.replace("smx_inf_", "smx_root_")).unwrap();
    let root = root.with_base_url(base(&server)).unwrap();
    let mailbox = sendmux::mailbox(&keys.mailbox).unwrap().with_base_url(base(&server)).unwrap();
    Judge { server, keys, root, mailbox }
}

#[tokio::test]
async fn management_answers_as_the_crate_expects() {
    let installation = Installation::new();
    let Judge { server, root, .. } = judge(&installation);
    let connection = root.get_connection().await.unwrap();
    assert!(connection.data.team.id.starts_with("team_") && connection.request_id().starts_with("req_"));
    assert_eq!(connection.data.credential.credential_type, sendmux::CredentialType::ApiKey);

    for name in ["judge", "second"] {
        let body = json!({"email": format!("{name}@postlog.test"), "display_name": "Judge"});
        assert_eq!(root.create_mailbox(&body).await.unwrap().status.as_u16(), 201);
    }
    let first = root.raw_get("/mailboxes?limit=1").await.unwrap();
    let page = first.pagination.unwrap();
    assert!(page.has_more && first.data.as_array().unwrap().len() == 1);
    let next = root.list_mailboxes_with_cursor(page.next_cursor.as_deref()).await.unwrap();
    assert_eq!(next.data.as_array().unwrap().len(), 2);
    let all = root.list_mailboxes().await.unwrap();
    let judge = all.data.as_array().unwrap().iter().find(|m| m["email"] == "judge@postlog.test").unwrap().clone();
    let id = judge["id"].as_str().unwrap();
    assert_eq!(root.get_mailbox(id).await.unwrap().data["display_name"], "Judge");

    let body = json!({"app_name": "ci"});
    let key = root.raw_post(&format!("/mailboxes/{id}/keys"), &body, &RequestOptions::new()).await.unwrap();
    let credential = &key.data["credential"];
    let client = sendmux::mailbox(credential["secret"].as_str().unwrap()).unwrap();
    let client = client.with_base_url(base(&server)).unwrap();
    assert_eq!(client.get_me().await.unwrap().data["email"], "judge@postlog.test");
    assert_eq!(client.get_connection().await.unwrap().data.mailboxes[0].id, id);
    let path = format!("/mailboxes/{id}/keys/{}", credential["public_id"].as_str().unwrap());
    root.raw_delete(&path).await.unwrap();
    let Err(Error::Api(refused)) = client.get_me().await else { panic!("a revoked key works") };
    assert_eq!(
        (refused.status.as_u16(), refused.code.as_str(), refused.retryable),
        (401, "authentication_required", false)
    );

    let Err(Error::Api(unknown)) = root.get_mailbox("mbx_000000000000000000000000").await else { panic!("it exists") };
    assert_eq!((unknown.status.as_u16(), unknown.code.as_str()), (404, "not_found"));
    assert!(unknown.request_id.is_some());
    let Err(Error::Api(invalid)) = root.create_mailbox(&json!({"email": "no address"})).await else {
        panic!("created")
    };
    assert_eq!(invalid.detail.unwrap().param.as_deref(), Some("email"));
}

#[tokio::test]
async fn a_webhook_of_the_crate_is_made_once_and_signed() {
    let installation = Installation::new();
    let Judge { root, .. } = &judge(&installation);
    let sink = Sink::start().await;
    let body = json!({"url": sink.url, "event_types": ["message.received", "sendmux.test"]});
    let once = RequestOptions::new().idempotency_key("judge-hook");
    let hook = root.raw_post("/webhooks", &body, &once).await.unwrap();
    assert_eq!(root.raw_post("/webhooks", &body, &once).await.unwrap().data, hook.data);
    assert_eq!(root.list_webhooks().await.unwrap().data.as_array().unwrap().len(), 1);
    let (id, secret) = (hook.data["id"].as_str().unwrap(), hook.data["secret"].as_str().unwrap());
    let test = root.raw_post(&format!("/webhooks/{id}/test"), &json!({}), &RequestOptions::new()).await.unwrap();
    let delivery = sink.wait_for(1).await.remove(0);
    assert_eq!(delivery.json()["id"], test.data["event_id"]);
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).unwrap();
    mac.update(&delivery.body);
    let signature = format!("sha256={}", hex::encode(mac.finalize().into_bytes()));
    assert_eq!(delivery.headers["x-sendmux-signature"], signature.as_str());
    let off =
        root.raw_patch(&format!("/webhooks/{id}"), &json!({"enabled": false}), &RequestOptions::new()).await.unwrap();
    assert_eq!(off.data["enabled"], false);
    assert_eq!(root.raw_delete(&format!("/webhooks/{id}")).await.unwrap().data["deleted"], true);
}

#[tokio::test]
async fn a_mail_is_read_with_the_crate() {
    let installation = Installation::new();
    let Judge { server, keys, mailbox, .. } = judge(&installation);
    server.mail("ann@example.com", "agent@postlog.test", "Hello", "Hello, agent!").await;
    let arrived = server.client(&keys.mailbox);
    arrived.wait_for("/mailbox/messages", |b| b["data"].as_array().unwrap().len() == 1).await;
    let list = mailbox.list_messages().await.unwrap();
    let id = list.data[0]["id"].as_str().unwrap();
    let message = mailbox.get_message(id).await.unwrap();
    assert_eq!((&message.data["subject"], &message.data["flags"]["seen"]), (&json!("Hello"), &json!(false)));
    let seen = json!({"seen": true});
    let path = format!("/mailbox/messages/{id}");
    let read = tokio::time::timeout(PATIENCE, mailbox.raw_patch(&path, &seen, &RequestOptions::new())).await.unwrap();
    assert_eq!(read.unwrap().data["flags"]["seen"], true);
    let folders = mailbox.list_folders().await.unwrap();
    let inbox = folders.data.as_array().unwrap().iter().find(|f| f["id"] == "inbox").unwrap();
    assert_eq!((&inbox["total_messages"], &inbox["unread_messages"]), (&json!(1), &json!(0)));
}

#[tokio::test]
async fn mail_is_sent_with_the_crate_and_each_outcome_is_told() {
    use sendmux::sending::{Address, Attachment, BatchResultStatus, BatchSendRequest, EmailSendRequest};
    let installation = Installation::new();
    let Judge { server, root, .. } = &judge(&installation);
    let body = json!({"kind": "sending", "name": "worker"});
    let key = root.raw_post("/keys", &body, &RequestOptions::new()).await.unwrap();
    // The crate spells sending keys smx_mbx_; the same secret works under either label.
    let worker = sendmux::sending(key.data["secret_alternate"].as_str().unwrap()).unwrap();
    let worker = worker.with_base_url(base(server)).unwrap();
    let mail = |to: &str| {
        let to = Address::new(format!("{to}@simulator.postlog.test"));
        EmailSendRequest::new(Address::new("worker@postlog.test"), to, "Hello", "<p>Hello</p>")
    };

    let mut one = mail("delivered");
    one.attachments.push(Attachment::base64("a.txt", "aGVsbG8="));
    let once = RequestOptions::new().idempotency_key("judge-one");
    let sent = worker.send_email_with_options(&one, &once).await.unwrap();
    assert!(sent.data.message_id.starts_with("eml_"));
    assert_eq!(worker.send_email_with_options(&one, &once).await.unwrap().data, sent.data);
    let mut bad = mail("delivered");
    bad.from = Address::new("worker@not-ours.example");
    let batch = BatchSendRequest::new(vec![mail("bounce.hard"), bad.clone(), mail("complaint")]);
    let batch = worker.send_email_batch(&batch).await.unwrap().data;
    assert_eq!((batch.summary.queued, batch.summary.failed), (2, 1));
    assert_eq!(batch.results[1].status, BatchResultStatus::Failed);
    assert!(batch.results[1].error.is_some() && batch.results[1].message_id.is_none());
    let Err(Error::Api(refused)) = worker.send_email(&bad).await else { panic!("it was taken") };
    assert!(!refused.retryable && refused.request_id.is_some());

    let settled = server.client(&server.keys.clone().unwrap().root);
    let done = |b: &serde_json::Value| {
        let all = b["data"].as_array().unwrap();
        all.len() == 3 && all.iter().all(|mail| mail["status"] != "pending")
    };
    let log = settled.wait_for("/emails/logs", done).await;
    let mut statuses: Vec<_> = log["data"].as_array().unwrap().iter().map(|m| m["status"].as_str().unwrap()).collect();
    statuses.sort_unstable();
    assert_eq!(statuses, ["failed", "sent", "sent"], "{log}");
    assert_eq!(root.list_sending_accounts().await.unwrap().data[0]["name"], "Sandbox");
    let balance = root.billing_balance().await.unwrap();
    assert_eq!(balance.data["balance_consumed"], "0.000300", "two were delivered: {:?}", balance.data);
}
