//! What is done to keys, webhooks, accounts, domains, addresses and money is an event with who did it.

use axum::http::Method;
use serde_json::{Value, json};

use crate::harness::{Team, World};

/// Does one thing and asserts that these are among the audit log's new entries, all of them by that key, in that request.
async fn done(world: &World, team: &Team, request: (Method, &str, Value), expected: &[&str]) -> Value {
    let me = world.get("/me").key(&team.root).send().await.data()["credential"]["id"].clone();
    let before = world.app.log.head(&team.id).await.unwrap().position;
    let (method, path, body) = request;
    let call = world.call(method.clone(), path).key(&team.root);
    let answer = if method == Method::DELETE { call.send().await } else { call.json(&body).send().await };
    assert!(answer.status.is_success(), "{method} {path}: {}", answer.json());
    let after = world.app.log.head(&team.id).await.unwrap().position;
    let entries = world.get("/audit/events?limit=20").key(&team.root).send().await.data();
    let new: Vec<_> = entries.as_array().unwrap().iter().take(usize::try_from(after - before).unwrap()).collect();
    let types: Vec<_> = new.iter().map(|entry| entry["type"].as_str().unwrap()).collect();
    assert!(!expected.is_empty() && expected.iter().all(|name| types.contains(name)), "{method} {path}: {types:?}");
    for entry in new {
        assert_eq!(entry["key_id"], me, "{method} {path}: {entry}");
        assert_eq!(entry["request_id"], answer.header("x-request-id"), "{method} {path}: {entry}");
        assert!(entry["occurred_at"].is_string(), "{entry}");
    }
    answer.json()["data"].clone()
}

fn id(value: &Value) -> String {
    value["id"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn every_action_on_keys_and_mailboxes_is_in_the_audit_log() {
    let world = World::new().await;
    let team = world.team("a.test").await;
    let (post, patch, put, delete) = (Method::POST, Method::PATCH, Method::PUT, Method::DELETE);
    let key = json!({"name": "x", "kind": "sending", "permissions": ["email.send"]});
    let key = id(&done(&world, &team, (post.clone(), "/keys", key), &["api_key.created"]).await);
    let rotated =
        done(&world, &team, (post.clone(), &format!("/keys/{key}/rotate"), json!({})), &["api_key.created"]).await;
    done(&world, &team, (delete.clone(), &format!("/keys/{key}"), json!({})), &["api_key.revoked"]).await;
    done(&world, &team, (delete.clone(), &format!("/keys/{}", id(&rotated)), json!({})), &["api_key.revoked"]).await;
    let opened = ["mailbox.opened", "api_key.created"];
    let made = done(&world, &team, (post.clone(), "/mailboxes", json!({"email": "box@a.test"})), &opened).await;
    let mailbox = format!("/mailboxes/{}", made["mailbox"]["id"].as_str().unwrap());
    let renamed = json!({"display_name": "Box"});
    done(&world, &team, (patch, &mailbox, renamed), &["mailbox.renamed"]).await;
    let rules = json!({"mode": "allowlist", "rules": [{"type": "allow", "pattern": "x.test"}]});
    done(&world, &team, (put, &format!("{mailbox}/filters"), rules), &["mailbox.sender_rules_replaced"]).await;
    let key = json!({"app_name": "x"});
    done(&world, &team, (post.clone(), &format!("{mailbox}/keys"), key), &["api_key.created"]).await;
    done(&world, &team, (post.clone(), &format!("{mailbox}/suspend"), json!({})), &["mailbox.suspended"]).await;
    done(&world, &team, (post, &format!("{mailbox}/resume"), json!({})), &["mailbox.resumed"]).await;
    let closed = ["mailbox.closed", "api_key.revoked", "api_key.revoked"];
    let before = world.app.log.head(&team.id).await.unwrap().position;
    let answer = world.call(delete, &mailbox).key(&team.root).send().await;
    assert!(answer.status.is_success());
    let entries = world.get("/audit/events?limit=10").key(&team.root).send().await.data();
    let after = world.app.log.head(&team.id).await.unwrap().position;
    let new = usize::try_from(after - before).unwrap();
    let types: Vec<_> = entries.as_array().unwrap()[..new].iter().map(|e| e["type"].as_str().unwrap()).collect();
    assert!(types.iter().all(|kind| closed.contains(kind)) && types.contains(&"mailbox.closed"), "{types:?}");
}

#[tokio::test]
async fn every_action_on_webhooks_accounts_domains_and_suppressions_is_in_the_audit_log() {
    let world = World::new().await;
    let team = world.team("a.test").await;
    let (post, patch, delete) = (Method::POST, Method::PATCH, Method::DELETE);
    let hook = json!({"url": "https://hooks.example.com/in", "event_types": ["sendmux.test"]});
    let hook = id(&done(&world, &team, (post.clone(), "/webhooks", hook), &["webhook.created"]).await);
    let hook = format!("/webhooks/{hook}");
    let moved = json!({"url": "https://hooks.example.com/out"});
    done(&world, &team, (patch.clone(), &hook, moved), &["webhook.redirected"]).await;
    let narrowed = json!({"event_types": ["message.received"]});
    done(&world, &team, (patch.clone(), &hook, narrowed), &["webhook.subscription_changed"]).await;
    done(&world, &team, (patch.clone(), &hook, json!({"enabled": false})), &["webhook.disabled"]).await;
    done(&world, &team, (patch.clone(), &hook, json!({"enabled": true})), &["webhook.enabled"]).await;
    done(&world, &team, (delete.clone(), &hook, json!({})), &["webhook.deleted"]).await;
    let account =
        json!({"name": "Own", "smtp_host": "smtp.example.com", "smtp_port": 587, "smtp_protocol": "starttls"});
    let account = id(&done(&world, &team, (post.clone(), "/providers", account), &["provider.created"]).await);
    let account = format!("/providers/{account}");
    let moved = json!({"smtp_host": "smtp2.example.com"});
    done(&world, &team, (patch.clone(), &account, moved), &["provider.reconfigured"]).await;
    done(&world, &team, (delete.clone(), &account, json!({})), &["provider.deleted"]).await;
    let group =
        id(&done(&world, &team, (post.clone(), "/delivery-groups", json!({"name": "x"})), &["delivery_group.created"])
            .await);
    let group = format!("/delivery-groups/{group}");
    done(&world, &team, (patch.clone(), &group, json!({"name": "y"})), &["delivery_group.renamed"]).await;
    done(&world, &team, (delete.clone(), &group, json!({})), &["delivery_group.deleted"]).await;
    let listed = json!({"email": "never@example.net"});
    let listed = id(&done(&world, &team, (post.clone(), "/suppressions", listed), &["suppression.added"]).await);
    let listed = format!("/suppressions/{listed}");
    done(&world, &team, (delete.clone(), &listed, json!({})), &["suppression.removed"]).await;
    let added = ["sending_domain.added"];
    let domain =
        done(&world, &team, (post.clone(), "/domains", json!({"domain": "mail.a.test", "mode": "send_only"})), &added)
            .await;
    let domain = format!("/domains/{}", id(&domain));
    let mode = json!({"mode": "send_receive"});
    done(&world, &team, (patch, &domain, mode), &["sending_domain.mode_changed"]).await;
    let key = json!({"algorithm": "ed25519"});
    done(&world, &team, (post, &format!("{domain}/signing-keys"), key), &["sending_domain.key_added"]).await;
    done(&world, &team, (delete, &domain, json!({})), &["sending_domain.removed"]).await;
}
