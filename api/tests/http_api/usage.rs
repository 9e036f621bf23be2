//! Usage and accepted mail: the same numbers from both sides.

use serde_json::json;

use crate::harness::{MAIL, REPLY, SECOND, World};

#[tokio::test]
async fn usage_adds_up_and_names_the_events_it_counts() {
    let world = World::new().await;
    let team = world.team("a.test").await;
    let (one, two) = (world.mailbox(&team, "one").await, world.mailbox(&team, "two").await);
    world.receive(&team, &one.id, MAIL).await;
    world.receive(&team, &one.id, REPLY).await;
    world.advance(24 * 60 * 60 * SECOND);
    let gone = world.receive(&team, &two.id, REPLY).await;
    world.delete(&format!("/mailbox/messages/{gone}?permanent=true")).key(&two.key).send().await.data();
    let usage = world.get("/billing/usage").key(&team.root).send().await;
    let data = usage.data();
    assert_eq!((&data["from"], &data["to"]), (&json!("2026-11-01T00:00:00.000Z"), &json!("2026-11-23T00:00:00.000Z")));
    let rows = data["usage"].as_array().unwrap();
    let inbound: Vec<_> = rows.iter().filter(|r| r["meter"] == "inbound_messages").collect();
    assert_eq!(inbound.len(), 2);
    assert_eq!((&inbound[0]["units"], &inbound[0]["day"]), (&json!(2), &json!("2026-11-21")));
    assert_eq!((&inbound[0]["unit_price"], &inbound[0]["amount"]), (&json!("0.000150000"), &json!("0.000300000")));
    assert_eq!((&inbound[0]["mailbox_id"], &inbound[0]["actor"]), (&json!(one.id.to_string()), &json!("smtp")));
    let stored: i64 = rows.iter().filter(|r| r["meter"] == "stored_bytes").map(|r| r["units"].as_i64().unwrap()).sum();
    let size = |mail: &str| i64::try_from(mail.replace('\n', "\r\n").len()).unwrap();
    assert_eq!(stored, size(MAIL) + size(REPLY));
    let released = rows.iter().find(|r| r["units"].as_i64().unwrap() < 0).unwrap();
    assert!(released["key_id"].as_str().unwrap().starts_with("smx_"), "attributed to the key that destroyed it");
    let days = data["storage"].as_array().unwrap();
    assert_eq!(days.len(), 22);
    assert_eq!(days[20]["stored_bytes"], json!(stored));
    assert_eq!(days[19]["amount"], "0.000000000");
    for row in inbound {
        let (first, last) = (row["first_sequence"].as_u64().unwrap(), row["last_sequence"].as_u64().unwrap());
        let events = world.app.log.read(&team.id, first - 1, usize::try_from(last - first + 1).unwrap()).await.unwrap();
        let counted = events.iter().filter(|e| e.event.name() == "message.received").count();
        assert_eq!(counted, usize::try_from(row["events"].as_i64().unwrap()).unwrap(), "a recount agrees");
    }
}

#[tokio::test]
async fn usage_is_narrowed_grouped_and_paged() {
    let world = World::new().await;
    let team = world.team("a.test").await;
    let (one, two) = (world.mailbox(&team, "one").await, world.mailbox(&team, "two").await);
    for mailbox in [&one, &one, &two] {
        world.receive(&team, &mailbox.id, REPLY).await;
    }
    let get = |query: String| {
        let (world, key) = (&world, &team.root);
        async move { world.get(&format!("/billing/usage?{query}")).key(key).send().await }
    };
    let grouped = get("group_by=meter".to_owned()).await.data();
    let rows = grouped["usage"].as_array().unwrap();
    assert_eq!(rows.len(), 2);
    assert_eq!((&rows[0]["units"], &rows[0]["day"], &rows[0]["mailbox_id"]), (&json!(3), &json!(null), &json!(null)));
    let boxes = get("group_by=mailbox".to_owned()).await.data();
    assert_eq!(boxes["usage"].as_array().unwrap().len(), 4);
    let narrowed = get(format!("mailbox_id={}", two.id)).await.data();
    assert!(narrowed["usage"].as_array().unwrap().iter().all(|r| r["mailbox_id"] == two.id.to_string()));
    assert_eq!(narrowed["storage"], json!([]));
    let first = get("limit=3".to_owned()).await.json();
    let cursor = first["pagination"]["next_cursor"].as_str().unwrap();
    let rest = get(format!("limit=3&cursor={cursor}")).await.json();
    assert_eq!(first["data"]["usage"].as_array().unwrap().len() + rest["data"]["usage"].as_array().unwrap().len(), 4);
    assert_eq!(get("from=2026-12-01&to=2026-12-05".to_owned()).await.data()["usage"], json!([]));
    for (bad, param) in [
        ("from=x", "from"),
        ("to=x", "to"),
        ("from=2026-11-22&to=2026-11-21", "from"),
        ("from=2020-01-01", "from"),
        ("group_by=mood", "group_by"),
        ("mailbox_id=x", "mailbox_id"),
        ("cursor=x", "cursor"),
    ] {
        let answer = get(bad.to_owned()).await;
        assert_eq!((answer.status.as_u16(), answer.param().as_str()), (400, param), "{bad}");
    }
}

#[tokio::test]
async fn accepted_mail_is_listed_as_it_is_billed() {
    let world = World::new().await;
    let team = world.team("a.test").await;
    let mailbox = world.mailbox(&team, "box").await;
    let message = world.receive(&team, &mailbox.id, MAIL).await;
    world.advance(SECOND);
    world.receive(&team, &mailbox.id, REPLY).await;
    let listed = world.get("/inboxes/logs").key(&team.root).send().await.data();
    assert_eq!(listed.as_array().unwrap().len(), 2);
    let item = &listed[1];
    assert_eq!(
        *item,
        json!({
            "id": item["id"], "mailbox_id": mailbox.id.to_string(), "mailbox_email": "box@a.test",
            "event_type": "message.received", "message_id": "one@example.net", "message_id_kind": "rfc5322",
            "from_email": "ann@example.net", "to_emails": ["box1@example.org"], "subject": "Your code",
            "size_bytes": item["size_bytes"], "received_at": "2026-11-21T10:00:00.000Z", "is_spam": false,
            "billing_bucket_start": "2026-11-21T00:00:00.000Z", "unit_amount": "0.000150", "amount": "0.000150",
        })
    );
    world.delete(&format!("/mailbox/messages/{message}?permanent=true")).key(&mailbox.key).send().await.data();
    let path = format!("/inboxes/logs/{}", item["id"].as_str().unwrap());
    assert_eq!(world.get(&path).key(&team.root).send().await.data(), *item, "kept when the message is gone");
    for (query, count) in [
        (format!("mailbox_id={}", mailbox.id), 2),
        ("mailbox_id=x".to_owned(), 0),
        ("event_type=message.received.spam".to_owned(), 0),
        ("search=re:%20your".to_owned(), 1),
        ("from_date=2026-11-21T10:00:01Z".to_owned(), 1),
        ("to_date=2026-11-20".to_owned(), 0),
        ("to_date=2026-11-21".to_owned(), 2),
    ] {
        let found = world.get(&format!("/inboxes/logs?{query}")).key(&team.root).send().await.data();
        assert_eq!(found.as_array().unwrap().len(), count, "{query}");
    }
}
