//! Sending domains: claimed, verified, signed for, given up.

use domain::Versioned;
use domain::id::DomainId;
use domain::sending_domain::{SIGNING_KEY_PURPOSE, SendingDomain};
use domain::team::Limits;
use domain::{StreamId, team};
use mail::auth::{DkimKey, KeyType, Zone};
use serde_json::{Value, json};

use crate::dns::published;
use crate::harness::{SECOND, Team, World};

async fn create(world: &World, team: &Team, body: Value) -> Value {
    let made = world.post("/domains").key(&team.root).json(&body).send().await;
    assert_eq!(made.status, 201, "{:?}", made.json());
    made.data()
}

async fn records(world: &World, team: &Team, path: &str) -> Value {
    world.get(&format!("{path}/records")).key(&team.root).send().await.data()
}

async fn verify(world: &World, team: &Team, path: &str) -> Value {
    world.advance(SECOND);
    let answer = world.post(&format!("{path}/verify")).key(&team.root).send().await;
    assert_eq!(answer.status, 200, "{:?}", answer.json());
    answer.data()
}

fn path_of(domain: &Value) -> String {
    format!("/domains/{}", domain["id"].as_str().unwrap())
}

#[tokio::test]
async fn a_domain_is_created_with_two_sealed_signing_keys() {
    let world = World::new().await;
    let team = world.team("a.test").await;
    let answer = world.post("/domains").key(&team.root).json(&json!({"domain": "Mail.Example.COM"})).send().await;
    assert_eq!(answer.status, 201, "{:?}", answer.json());
    let made = answer.data();
    let path = path_of(&made);
    assert_eq!(answer.header("location"), format!("/api/v1{path}"));
    assert_eq!(
        (&made["domain"], &made["mode"], &made["verification_status"], &made["mailbox_count"]),
        (&json!("mail.example.com"), &json!("send_receive"), &json!("pending"), &json!(0))
    );
    assert_eq!(made["ses_identity_verification_status"], Value::Null);
    let dns = &made["dns_records"];
    assert_eq!(dns["verification"]["name"], "_sendmux.mail.example.com");
    assert_eq!(dns["verification"]["value"], format!("sendmux-verify={}", team.id));
    assert_eq!((dns["dkim"].as_array().unwrap().len(), dns["mx"].as_array().unwrap().len()), (2, 1));
    assert_eq!(dns["mail_from"]["mx"]["name"], "bounce.mail.example.com");
    let shown = world.get(&path).key(&team.root).send().await;
    assert_eq!(shown.data(), made);
    let same = world.get(&path).key(&team.root).header("if-none-match", &shown.header("etag")).send().await;
    assert_eq!(same.status, 304);

    let id: DomainId = made["id"].as_str().unwrap().parse().unwrap();
    let fold: Versioned<SendingDomain> = world.app.log.state(&team.id, &[StreamId::Domain(id)]).await.unwrap();
    for (key, kind) in fold.keys.iter().zip([KeyType::Rsa, KeyType::Ed25519]) {
        let sealed = world.app.log.secret(&team.id, &key.secret, SIGNING_KEY_PURPOSE).await.unwrap().unwrap();
        let private = DkimKey::from_der(kind, sealed.expose()).unwrap();
        assert_eq!(private.public_key(), key.public_key);
        assert!(!made.to_string().contains(&hex::encode(sealed.expose())));
    }
}

#[tokio::test]
async fn a_repeated_creation_answers_the_same_and_makes_one_domain() {
    let world = World::new().await;
    let team = world.team("a.test").await;
    let body = json!({"domain": "mail.example.com", "mode": "send_only"});
    let call = || world.post("/domains").key(&team.root).header("idempotency-key", "k").json(&body).send();
    let (first, again) = (call().await, call().await);
    assert_eq!((first.status, &first.body), (again.status, &again.body));
    let other = json!({"domain": "other.example.com"});
    let conflict = world.post("/domains").key(&team.root).header("idempotency-key", "k").json(&other).send().await;
    assert_eq!(conflict.refusal(), (409, "idempotency_conflict".to_owned()));
    let list = world.get("/domains?search=EXAMPLE").key(&team.root).send().await.data();
    assert_eq!(list.as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn a_domain_is_verified_when_its_records_are_right_and_signs_from_then_on() {
    let world = World::new().await;
    let team = world.team("a.test").await;
    let made = create(&world, &team, json!({"domain": "mail.example.com"})).await;
    let path = path_of(&made);
    let nothing = verify(&world, &team, &path).await;
    assert_eq!((&nothing["status"], &nothing["checks"]["spf"]), (&json!("pending"), &json!(false)));
    let wanted = records(&world, &team, &path).await;
    assert!(wanted["records"].as_array().unwrap().iter().all(|r| r["status"] == "missing"), "{wanted}");

    // Somebody else's SPF record under the name shows as what was found.
    let wrong = published(&wanted, &["spf", "mail_from_spf"]).with_txt("mail.example.com", "v=spf1 -all");
    world.app_dns().serve(wrong);
    let almost = verify(&world, &team, &path).await;
    assert_eq!(
        (&almost["status"], &almost["checks"]["spf"], &almost["checks"]["verification_txt"]),
        (&json!("pending"), &json!(false), &json!(true))
    );
    let found = records(&world, &team, &path).await;
    let spf = found["records"].as_array().unwrap().iter().find(|r| r["purpose"] == "spf").unwrap();
    assert_eq!((&spf["status"], &spf["found"]), (&json!("mismatch"), &json!(["v=spf1 -all"])));

    world.app_dns().serve(published(&wanted, &[]));
    let right = verify(&world, &team, &path).await;
    assert_eq!(
        (&right["status"], &right["ses_dkim_status"], &right["ses_dkim_signing_enabled"]),
        (&json!("verified"), &json!("success"), &json!(true))
    );
    let shown = world.get(&path).key(&team.root).send().await.data();
    assert_eq!((&shown["verification_status"], &shown["ses_verified_for_sending"]), (&json!("verified"), &json!(true)));
    let listed = world.get("/domains?status=verified&search=mail.example").key(&team.root).send().await.data();
    assert_eq!(listed[0], shown);
    let box_ = world.post("/mailboxes").key(&team.root).json(&json!({"email": "box@mail.example.com"})).send().await;
    assert_eq!(box_.status, 201, "{:?}", box_.json());
    let counted = world.get(&path).key(&team.root).send().await;
    assert_eq!(counted.data()["mailbox_count"], 1);
    let in_use = world.delete(&path).key(&team.root).send().await;
    assert_eq!(in_use.refusal(), (409, "conflict".to_owned()));
}

#[tokio::test]
async fn a_verified_domain_fails_at_the_second_bad_look_and_stays_failed_until_all_is_right() {
    let world = World::new().await;
    let team = world.team("a.test").await;
    let made = create(&world, &team, json!({"domain": "mail.example.com", "mode": "send_only"})).await;
    let path = path_of(&made);
    let wanted = records(&world, &team, &path).await;
    world.app_dns().serve(published(&wanted, &[]));
    assert_eq!(verify(&world, &team, &path).await["status"], "verified");
    world.app_dns().serve(published(&wanted, &["dmarc"]));
    assert_eq!(verify(&world, &team, &path).await["status"], "verified");
    // No answer is no answer: it neither helps nor harms.
    world.app_dns().serve(published(&wanted, &[]).with_failure("_dmarc.mail.example.com"));
    let unanswered = world.post(&format!("{path}/verify")).key(&team.root).send().await;
    assert_eq!(unanswered.refusal(), (503, "service_unavailable".to_owned()));
    assert_eq!(unanswered.header("retry-after"), "30");
    world.app_dns().serve(published(&wanted, &["dmarc"]));
    assert_eq!(verify(&world, &team, &path).await["status"], "failed");
    world.app_dns().serve(published(&wanted, &["spf"]));
    assert_eq!(verify(&world, &team, &path).await["status"], "failed");
    world.app_dns().serve(published(&wanted, &[]));
    assert_eq!(verify(&world, &team, &path).await["status"], "verified");
}

#[tokio::test]
async fn a_key_is_rotated_with_both_records_published_meanwhile() {
    let world = World::new().await;
    let team = world.team("a.test").await;
    let made = create(&world, &team, json!({"domain": "mail.example.com", "mode": "send_only"})).await;
    let path = path_of(&made);
    let first = records(&world, &team, &path).await;
    world.app_dns().serve(published(&first, &[]));
    verify(&world, &team, &path).await;
    let keys = format!("{path}/signing-keys");
    let before = world.get(&keys).key(&team.root).send().await.data();
    let old = before.as_array().unwrap().iter().find(|k| k["algorithm"] == "rsa").unwrap()["selector"].clone();
    let rotated = world.post(&keys).key(&team.root).json(&json!({"algorithm": "rsa"})).send().await;
    assert_eq!(rotated.status, 201, "{:?}", rotated.json());
    let new = rotated.data()["selector"].clone();
    let status = async |selector: &Value| {
        let keys = world.get(&keys).key(&team.root).send().await.data();
        let key = keys.as_array().unwrap().iter().find(|k| k["selector"] == *selector).cloned();
        key.map(|key| key["status"].as_str().unwrap().to_owned())
    };
    // Until its record is there, the old one signs on.
    verify(&world, &team, &path).await;
    assert_eq!((status(&old).await.as_deref(), status(&new).await.as_deref()), (Some("active"), Some("pending")));
    let both = records(&world, &team, &path).await;
    assert_eq!(both["records"].as_array().unwrap().iter().filter(|r| r["purpose"] == "dkim").count(), 3);
    world.app_dns().serve(published(&both, &[]));
    assert_eq!(verify(&world, &team, &path).await["status"], "verified");
    assert_eq!((status(&old).await.as_deref(), status(&new).await.as_deref()), (Some("retired"), Some("active")));
    let zone = world.get(&format!("{path}/zone-file")).key(&team.root).send().await;
    let zone = String::from_utf8(zone.body.to_vec()).unwrap();
    assert!([&old, &new].iter().all(|selector| zone.contains(selector.as_str().unwrap())), "{zone}");
    // A week later nothing signed with the old one is under way any more.
    world.advance(8 * 24 * 3_600 * SECOND);
    assert_eq!(status(&old).await, None);
    let zone = world.get(&format!("{path}/zone-file")).key(&team.root).send().await;
    assert!(!String::from_utf8(zone.body.to_vec()).unwrap().contains(old.as_str().unwrap()));
}

#[tokio::test]
async fn the_zone_file_is_plain_text_with_every_record() {
    let world = World::new().await;
    let team = world.team("a.test").await;
    let made = create(&world, &team, json!({"domain": "mail.example.com"})).await;
    let answer = world.get(&format!("{}/zone-file", path_of(&made))).key(&team.root).send().await;
    assert_eq!(answer.status, 200);
    assert!(answer.header("content-type").starts_with("text/plain"));
    assert_eq!(answer.header("content-disposition"), "attachment; filename=\"mail.example.com.zone\"");
    let text = String::from_utf8(answer.body.to_vec()).unwrap();
    assert_eq!(text.lines().count(), 8, "{text}");
    assert!(text.contains("mail.example.com.\t3600\tIN\tMX\t10 localhost."), "{text}");
    assert!(text.lines().all(|line| line.split('"').all(|part| part.len() <= 255)), "{text}");
}

#[tokio::test]
async fn a_domain_belongs_to_one_team_until_it_is_given_up() {
    let world = World::new().await;
    let (ours, theirs) = (world.team("a.test").await, world.team("b.test").await);
    let made = create(&world, &ours, json!({"domain": "mail.example.com"})).await;
    let body = json!({"domain": "MAIL.example.com."});
    for team in [&theirs, &ours] {
        let taken = world.post("/domains").key(&team.root).json(&body).send().await;
        assert_eq!(taken.refusal(), (409, "conflict".to_owned()));
    }
    let path = path_of(&made);
    let gone = world.delete(&path).key(&ours.root).send().await;
    assert_eq!(gone.data(), json!({"id": made["id"], "deleted": true}));
    assert_eq!(world.get(&path).key(&ours.root).send().await.refusal().0, 404);
    assert_eq!(world.delete(&path).key(&ours.root).send().await.refusal().0, 404);
    create(&world, &theirs, body).await;
}

#[tokio::test]
async fn a_sending_domain_may_receive_later_and_then_has_filters() {
    let world = World::new().await;
    let team = world.team("a.test").await;
    let made = create(&world, &team, json!({"domain": "mail.example.com", "mode": "send_only"})).await;
    let path = path_of(&made);
    assert_eq!(made["dns_records"]["mx"], json!([]));
    let filters = format!("{path}/filters");
    assert_eq!(world.get(&filters).key(&team.root).send().await.refusal(), (409, "conflict".to_owned()));
    let down = world.patch(&path).key(&team.root).json(&json!({"mode": "send_only"})).send().await;
    assert_eq!((down.refusal().0, down.param()), (422, "mode".to_owned()));
    let stale = world.patch(&path).key(&team.root).header("if-match", "W/\"1-0\"");
    assert_eq!(stale.json(&json!({"mode": "send_receive"})).send().await.refusal(), (409, "conflict".to_owned()));
    let shown = world.get(&path).key(&team.root).send().await;
    let up = world.patch(&path).key(&team.root).header("if-match", &shown.header("etag"));
    let up = up.json(&json!({"mode": "send_receive"})).send().await;
    assert_eq!((up.status.as_u16(), up.data()["mode"].as_str()), (200, Some("send_receive")));
    let rules = json!({"mode": "denylist", "rules": [{"type": "deny", "pattern": "*@Spam.example", "note": "loud"}]});
    let set = world.put(&filters).key(&team.root).json(&rules).send().await;
    assert_eq!(set.status, 200, "{:?}", set.json());
    assert_eq!(set.data()["rules"][0]["pattern"], "spam.example");
    assert_eq!(world.get(&filters).key(&team.root).send().await.data(), set.data());
    let wrong = json!({"mode": "denylist", "rules": [{"type": "allow", "pattern": "x.example"}]});
    let refused = world.put(&filters).key(&team.root).json(&wrong).send().await;
    assert_eq!((refused.refusal().0, refused.param()), (422, "rules.0.type".to_owned()));
}

#[tokio::test]
async fn every_faulty_field_of_a_domain_is_named() {
    let world = World::new().await;
    let team = world.team_with("a.test", Limits { domains: 2, ..Limits::default() }).await;
    let rows = [
        (json!({}), "domain"),
        (json!({"domain": ""}), "domain"),
        (json!({"domain": "localhost"}), "domain"),
        (json!({"domain": "192.0.2.1"}), "domain"),
        (json!({"domain": "[192.0.2.1]"}), "domain"),
        (json!({"domain": "a b.example"}), "domain"),
        (json!({"domain": "https://example.com"}), "domain"),
        (json!({"domain": format!("{}.example.com", "a.".repeat(110))}), "domain"),
        (json!({"domain": "x.example", "mode": "both"}), "mode"),
        (json!({"domain": "x.example", "mode": null}), "mode"),
        (json!({"domain": "x.example", "extra": 1}), "extra"),
    ];
    for (body, field) in rows {
        let answer = world.post("/domains").key(&team.root).json(&body).send().await;
        assert_eq!((answer.refusal().0, answer.param()), (400, field.to_owned()), "{body}");
    }
    let bad = world.get("/domains?status=gone").key(&team.root).send().await;
    assert_eq!((bad.refusal().0, bad.param()), (400, "status".to_owned()));
    create(&world, &team, json!({"domain": "one.example"})).await;
    let full = world.post("/domains").key(&team.root).json(&json!({"domain": "two.example"})).send().await;
    assert_eq!(full.refusal(), (409, "limit_exceeded".to_owned()));
    let state: Versioned<team::Team> = world.app.log.state(&team.id, &[StreamId::Team]).await.unwrap();
    assert_eq!(state.domains.len(), 2);
}

#[tokio::test]
async fn a_key_of_a_domain_nobody_vouches_for_waits_for_its_record() {
    let world = World::new().await;
    let team = world.team("a.test").await;
    let made = create(&world, &team, json!({"domain": "mail.example.com"})).await;
    let keys = format!("{}/signing-keys", path_of(&made));
    let list = world.get(&keys).key(&team.root).send().await.data();
    let selector = list[0]["selector"].as_str().unwrap();
    let activated = world.post(&format!("{keys}/{selector}/activate")).key(&team.root).send().await;
    assert_eq!(activated.refusal(), (409, "conflict".to_owned()));
    assert_eq!(world.delete(&format!("{keys}/{selector}")).key(&team.root).send().await.status, 200);
    assert_eq!(world.delete(&format!("{keys}/{selector}")).key(&team.root).send().await.refusal().0, 404);
    let bad = world.post(&keys).key(&team.root).json(&json!({"algorithm": "dsa"})).send().await;
    assert_eq!((bad.refusal().0, bad.param()), (400, "algorithm".to_owned()));
    // What the operator vouches for signs at once.
    let owned = world.get("/domains?search=a.test").key(&team.root).send().await.data();
    let keys = format!("{}/signing-keys", path_of(&owned[0]));
    let new = world.post(&keys).key(&team.root).json(&json!({"algorithm": "ed25519"})).send().await.data();
    let path = format!("{keys}/{}/activate", new["selector"].as_str().unwrap());
    assert_eq!(world.post(&path).key(&team.root).send().await.data()["status"], "active");
}

#[tokio::test]
async fn without_a_dns_nothing_is_verified() {
    let world = World::new().await;
    let team = world.team("a.test").await;
    let made = create(&world, &team, json!({"domain": "mail.example.com"})).await;
    world.app_dns().serve(Zone::new().with_failure("_sendmux.mail.example.com"));
    let before = world.app.log.head(&team.id).await.unwrap();
    let answer = world.post(&format!("{}/verify", path_of(&made))).key(&team.root).send().await;
    assert_eq!(answer.refusal().0, 503);
    assert_eq!(world.app.log.head(&team.id).await.unwrap(), before);
}
