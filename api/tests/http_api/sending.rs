//! Sending by HTTP.

use domain::api_key::Kind;
use domain::balance::ChangeCreditLimit;
use domain::bounce::{Category, Verdict};
use domain::id::{OutboundId, ProviderId};
use domain::money::Nanos;
use domain::outbound::report::Report;
use domain::outbound::{BeginAttempt, Outbound, Outcome, RecordResults, Results, Status};
use domain::permission::{Permissions, SENDING_PERMISSIONS};
use domain::provider::{CreateProvider, Identity, Quotas, Settings, Transport};
use domain::suppression::{Cause, Reason, SuppressAddress};
use domain::{StreamId, Versioned};
use serde_json::{Value, json};

use crate::harness::{Answer, Team, World};

/// A team that has an account and money, and a sending key of it.
pub async fn sender(world: &World, domain: &str) -> (Team, String) {
    let team = world.team(domain).await;
    equip(world, &team).await;
    let key = world.team_key(&team.id, Kind::Sending, Permissions::parse(SENDING_PERMISSIONS).unwrap()).await;
    (team, key)
}

/// Gives a team an account and money.
pub async fn equip(world: &World, team: &Team) {
    world.command(&team.id, ChangeCreditLimit { credit_limit: Nanos::DOLLAR }).await;
    let create = CreateProvider {
        provider: ProviderId::new(world.now(), world.app.allot.random()),
        settings: Settings { transport: Transport::Sandbox, percentage: None, quotas: Quotas::default() },
        identity: Identity { name: "Sandbox".to_owned(), ..Identity::default() },
        managed: false,
        secret: None,
    };
    world.command(&team.id, create).await;
}

/// Hands a mail over as the reactor would: the first recipient's server takes it, those of the others know nobody.
pub async fn settle(world: &World, team: &Team, id: &Value) {
    let id: OutboundId = id.as_str().unwrap().parse().unwrap();
    let stream = [StreamId::Outbound(id.clone())];
    let state: Versioned<Outbound> = world.app.log.state(&team.id, &stream).await.unwrap();
    let accounts = world.get("/providers").key(&team.root).send().await.data();
    let account: ProviderId = accounts[0]["id"].as_str().unwrap().parse().unwrap();
    let waiting = state.waiting(i64::MAX);
    let others = waiting[1..].to_vec();
    world.command(&team.id, BeginAttempt::of(id.clone(), &state, account, waiting)).await;
    let state: Versioned<Outbound> = world.app.log.state(&team.id, &stream).await.unwrap();
    let verdict = Verdict { category: Category::UserUnknown, smtp_code: Some(550), enhanced_code: Some((5, 1, 1)) };
    let taken = Outcome::Taken { delivered: true };
    let mut results = vec![Results { recipients: vec![0], outcome: taken, report: Report::of("250 ok", None) }];
    if !others.is_empty() {
        let report = Report::of("550 5.1.1 no such user", Some("mx.example.net"));
        results.push(Results { recipients: others, outcome: Outcome::Bounced { verdict }, report });
    }
    world.command(&team.id, RecordResults::of(id, &state, 1, results)).await;
}

pub fn mail() -> Value {
    json!({
        "from": {"email": "Ann@a.test", "name": "Ann"}, "to": {"email": "bob@example.net"}, "subject": "Hello",
        "html_body": "<p>Hi <b>Bob</b></p>",
    })
}

async fn send(world: &World, key: &str, body: &Value) -> Answer {
    world.post("/emails/send").key(key).json(body).send().await
}

async fn outbound(world: &World, team: &Team, id: &Value) -> Versioned<Outbound> {
    let id: OutboundId = id.as_str().unwrap().parse().unwrap();
    world.app.log.state(&team.id, &[StreamId::Outbound(id)]).await.unwrap()
}

#[tokio::test]
async fn a_mail_is_queued_with_the_bytes_that_will_be_sent() {
    let world = World::new().await;
    let (team, key) = sender(&world, "a.test").await;
    let mut body = mail();
    body["cc"] = json!([{"email": "carl@example.net", "name": "Carl"}]);
    body["bcc"] = json!([{"email": "dora@example.net"}]);
    body["custom_headers"] = json!({"X-Tag": "a"});
    body["reply_to"] = json!({"email": "office@a.test"});
    body["in_reply_to"] = json!("<one@example.net>");
    body["attachments"] = json!([{"filename": "a.txt", "content": "aGVsbG8="}]);
    body["tags"] = json!(["welcome"]);
    body["metadata"] = json!({"order": "7"});
    let answer = send(&world, &key, &body).await;
    assert_eq!(
        (answer.status.as_u16(), answer.data()["status"].as_str()),
        (200, Some("queued")),
        "{:?}",
        answer.json()
    );
    let mail = outbound(&world, &team, &answer.data()["message_id"]).await;
    let accepted = mail.accepted.as_ref().unwrap();
    assert_eq!(mail.recipients.len(), 3);
    assert_eq!(mail.letter.as_ref().unwrap().labels.tags, ["welcome"]);
    let bytes = world.app.log.blob(&team.id, &accepted.blob).await.unwrap().unwrap();
    let text = String::from_utf8(bytes.to_vec()).unwrap();
    assert!(text.contains("X-Tag: a\r\n") && text.contains("In-Reply-To: <one@example.net>\r\n"), "{text}");
    assert!(text.contains("carl@example.net") && !text.contains("dora@example.net"), "{text}");
    let parsed = mail::message::parse(&bytes, &mail::message::ParseLimits::default());
    assert_eq!((parsed.attachments.len(), parsed.subject.as_deref()), (1, Some("Hello")));
    assert_eq!(accepted.size_bytes, i64::try_from(bytes.len()).unwrap());
}

#[tokio::test]
async fn a_repeated_request_sends_one_mail() {
    let world = World::new().await;
    let (team, key) = sender(&world, "a.test").await;
    let before = world.app.log.head(&team.id).await.unwrap().position;
    let body = mail();
    let one = || world.post("/emails/send").key(&key).header("idempotency-key", "k1").json(&body).send();
    let (a, b, c) = tokio::join!(one(), one(), one());
    assert_eq!((a.status.as_u16(), &a.body, &a.body), (200, &b.body, &c.body));
    assert_eq!(world.app.log.head(&team.id).await.unwrap().position, before + 1, "one mail, one event");
    let mut other = mail();
    other["subject"] = json!("Other");
    let answer = world.post("/emails/send").key(&key).header("idempotency-key", "k1").json(&other).send().await;
    assert_eq!(answer.refusal(), (409, "idempotency_conflict".to_owned()));
}

#[tokio::test]
async fn of_many_requests_under_one_key_one_is_carried_out() {
    let world = World::new().await;
    let (team, key) = sender(&world, "a.test").await;
    let before = world.app.log.head(&team.id).await.unwrap().position;
    let (mut one, mut two) = (mail(), mail());
    (one["subject"], two["subject"]) = (json!("One"), json!("Two"));
    let race = (0..60).map(|n| {
        let body = if n % 2 == 0 { &one } else { &two };
        world.post("/emails/send").key(&key).header("idempotency-key", "race").json(body).send()
    });
    let answers = futures_util::future::join_all(race).await;
    let (won, lost): (Vec<_>, Vec<_>) = answers.iter().partition(|answer| answer.status == 200);
    assert_eq!((won.len(), lost.len()), (30, 30), "one body wins, the other is another request");
    assert!(won.iter().all(|answer| answer.body == won[0].body));
    assert!(lost.iter().all(|answer| answer.refusal() == (409, "idempotency_conflict".to_owned())));
    assert_eq!(world.app.log.head(&team.id).await.unwrap().position, before + 1, "one mail");
    let batch = json!({"messages": [one, two]});
    let race = (0..20)
        .map(|_| world.post("/emails/send/batch").key(&key).header("idempotency-key", "race").json(&batch).send());
    let answers = futures_util::future::join_all(race).await;
    let data = answers[0].data();
    assert!(answers.iter().all(|answer| answer.data() == data), "the same ids for all");
    assert_eq!(world.app.log.head(&team.id).await.unwrap().position, before + 3, "two more mails");
}

#[tokio::test]
async fn every_faulty_field_is_named() {
    let world = World::new().await;
    let (_, key) = sender(&world, "a.test").await;
    let rows = [
        ("from", json!({"email": "nobody"}), "from.email"),
        ("from", json!({"mail": "x"}), "from.mail"),
        ("to", json!([{"email": "bob@example.net"}, {"email": "b\r\nob@example.net"}]), "to.1.email"),
        ("to", json!([]), "to"),
        ("subject", json!("a\r\nBcc: x@example.net"), "subject"),
        ("subject", json!(""), "subject"),
        ("html_body", json!(7), "html_body"),
        ("custom_headers", json!({"Subject": "x"}), "custom_headers.Subject"),
        ("custom_headers", json!({"X-A": "a\r\nBcc: x@example.net"}), "custom_headers.X-A"),
        ("return_path", json!("x"), "return_path"),
        ("delivery_group", json!("dgrp_none"), "delivery_group"),
        ("delivery_group", json!("dgrp_000000000000000000000000"), "delivery_group"),
        ("attachments", json!([{"filename": "a.exe", "content": "TVqQ"}]), "attachments.0.filename"),
        ("attachments", json!([{"filename": "a.txt", "content": "%"}]), "attachments.0.content"),
        ("attachments", json!([{"attachment_id": "att_000000000000000000000000"}]), "attachments.0.attachment_id"),
        ("send_at", json!("tomorrow"), "send_at"),
        ("tags", json!([""]), "tags.0"),
        ("surprise", json!(1), "surprise"),
    ];
    for (field, value, named) in rows {
        let mut body = mail();
        body[field] = value;
        let answer = send(&world, &key, &body).await;
        assert_eq!((answer.status.as_u16(), answer.param().as_str()), (422, named), "{:?}", answer.json());
    }
    let broken = world.post("/emails/send").key(&key).header("content-type", "application/json").body("{").send().await;
    assert_eq!(broken.refusal(), (400, "invalid_parameter".to_owned()));
}

#[tokio::test]
async fn who_has_no_money_no_account_or_no_domain_is_told_so() {
    let world = World::new().await;
    let (team, key) = sender(&world, "a.test").await;
    let mut foreign = mail();
    foreign["from"] = json!({"email": "ann@elsewhere.test"});
    // A sandbox account carries any sender, a domain of others does not make it an own one.
    assert!(matches!(send(&world, &key, &foreign).await.status.as_u16(), 200 | 403));
    world.command(&team.id, ChangeCreditLimit { credit_limit: Nanos(0) }).await;
    assert_eq!(send(&world, &key, &mail()).await.refusal(), (402, "insufficient_credits".to_owned()));
    let poor = world.team("b.test").await;
    let key = world.team_key(&poor.id, Kind::Sending, Permissions::parse(SENDING_PERMISSIONS).unwrap()).await;
    let answer = send(&world, &key, &mail()).await;
    assert_eq!(answer.refusal(), (503, "no_active_providers".to_owned()));
    assert!(!answer.header("retry-after").is_empty());
}

#[tokio::test]
async fn a_suppressed_recipient_is_refused_and_the_others_are_not() {
    let world = World::new().await;
    let (team, key) = sender(&world, "a.test").await;
    let address = mail::address::Address::parse("bob@example.net").unwrap();
    let suppress = SuppressAddress {
        address: world.app.outbox.address(&team.id, &address),
        email: address.canonical(),
        cause: Cause { reason: Reason::Manual, topic: None },
        expires_at: None,
        note: None,
    };
    world.command(&team.id, suppress).await;
    let mut body = mail();
    body["cc"] = json!([{"email": "carl@example.net"}]);
    let answer = send(&world, &key, &body).await;
    assert_eq!(answer.status, 200, "{:?}", answer.json());
    let mail = outbound(&world, &team, &answer.data()["message_id"]).await;
    assert_eq!(mail.recipients[0].status, Status::Rejected);
    assert_eq!(mail.recipients[1].status, Status::Waiting);
}

#[tokio::test]
async fn a_batch_answers_for_each_mail() {
    let world = World::new().await;
    let (team, key) = sender(&world, "a.test").await;
    let mut faulty = mail();
    faulty["to"] = json!({"email": "nobody"});
    let body = json!({"messages": [mail(), faulty, mail()]});
    let one = || world.post("/emails/send/batch").key(&key).header("idempotency-key", "b1").json(&body).send();
    let answer = one().await;
    let data = answer.data();
    assert_eq!(answer.status, 200);
    assert_eq!(data["summary"], json!({"total": 3, "queued": 2, "failed": 1}));
    assert_eq!(
        (&data["results"][1]["message_id"], &data["results"][1]["error"]["param"]),
        (&Value::Null, &json!("to.0.email"))
    );
    let head = world.app.log.head(&team.id).await.unwrap().position;
    let again = one().await.data();
    assert_eq!(again["results"][0]["message_id"], data["results"][0]["message_id"]);
    assert_eq!(again["results"][2]["message_id"], data["results"][2]["message_id"]);
    assert_eq!(world.app.log.head(&team.id).await.unwrap().position, head, "nothing is sent twice");
    let other = json!({"messages": [mail()]});
    let clash = world.post("/emails/send/batch").key(&key).header("idempotency-key", "b1").json(&other).send().await;
    assert_eq!(clash.refusal(), (409, "idempotency_conflict".to_owned()));
    let none = json!({"messages": [faulty_only()]});
    let refused = world.post("/emails/send/batch").key(&key).json(&none).send().await;
    assert_eq!((refused.refusal().0, refused.param().as_str()), (422, "messages.0.subject"));
    world.command(&team.id, ChangeCreditLimit { credit_limit: Nanos(0) }).await;
    let broke = world.post("/emails/send/batch").key(&key).json(&json!({"messages": [mail()]})).send().await;
    assert_eq!(broke.refusal().0, 402);
}

fn faulty_only() -> Value {
    let mut faulty = mail();
    faulty["subject"] = json!("a\nb");
    faulty
}

#[tokio::test]
async fn a_mailbox_key_sends_as_its_mailbox_and_keeps_a_copy() {
    let world = World::new().await;
    let (team, _) = sender(&world, "a.test").await;
    let mailbox = world.mailbox(&team, "box").await;
    let other = send(&world, &mailbox.key, &mail()).await;
    assert_eq!(other.refusal(), (403, "insufficient_permissions".to_owned()), "not its own address");
    let mut body = mail();
    body["from"] = json!({"email": "box@a.test"});
    let answer = send(&world, &mailbox.key, &body).await;
    assert_eq!(answer.status, 200);
    let sent = outbound(&world, &team, &answer.data()["message_id"]).await;
    let copy = StreamId::Message(sent.accepted.as_ref().unwrap().copy.clone().unwrap());
    let copy: Versioned<domain::message::Message> = world.app.log.state(&team.id, &[copy]).await.unwrap();
    assert_eq!(copy.version, 1, "the copy is filed with the mail");
    assert_eq!(send(&world, &team.root, &mail()).await.refusal().0, 403, "management keys do not send");
}
