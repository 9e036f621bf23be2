//! What outgoing mail carries for its readers: a link to unsubscribe, and the picture that shows that it was opened.

use axum::http::Method;
use domain::id::OutboundId;
use domain::outbound::{BeginAttempt, Outbound, Outcome, RecordResults, Results, report::Report};
use domain::routing::Routing;
use domain::{Event, StreamId, Versioned};
use serde_json::{Value, json};

use crate::harness::{Answer, Team, World};
use crate::sending::{mail, sender};

const FORM: &str = "application/x-www-form-urlencoded";
const THUNDERBIRD: &str = "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Thunderbird/140.0";

/// A mail that was taken by an account.
struct Sent {
    id: OutboundId,
    raw: String,
}

impl Sent {
    /// Returns a link of the mail, as a path.
    fn link(&self, kind: &str) -> String {
        let unfolded = self.raw.replace("=\r\n", "").replace("\r\n ", " ");
        let from = unfolded.find(&format!("http://127.0.0.1:8080/{kind}/")).unwrap_or_else(|| panic!("{unfolded}"));
        let rest = &unfolded[from + "http://127.0.0.1:8080".len()..];
        rest[..rest.find(['>', '"', ' ']).unwrap()].to_owned()
    }
}

async fn state(world: &World, team: &Team, id: &OutboundId) -> (Versioned<Outbound>, Versioned<Routing>) {
    world.app.log.state(&team.id, &[StreamId::Outbound(id.clone()), StreamId::Routing]).await.unwrap()
}

async fn accept(world: &World, team: &Team, key: &str, extra: Value) -> Sent {
    let mut body = mail();
    for (name, value) in extra.as_object().unwrap() {
        body[name] = value.clone();
    }
    let answer = world.post("/emails/send").key(key).json(&body).send().await;
    assert_eq!(answer.status, 200, "{:?}", answer.json());
    let id: OutboundId = answer.data()["message_id"].as_str().unwrap().parse().unwrap();
    let blob = state(world, team, &id).await.0.accepted.as_ref().unwrap().blob.clone();
    let raw = world.app.log.blob(&team.id, &blob).await.unwrap().unwrap();
    Sent { id, raw: String::from_utf8(raw.to_vec()).unwrap() }
}

async fn deliver(world: &World, team: &Team, sent: &Sent) {
    let (mail, routing) = state(world, team, &sent.id).await;
    let account = routing.accounts.keys().next().unwrap().clone();
    let begun = world.command(&team.id, BeginAttempt::of(sent.id.clone(), &mail, account, vec![0])).await;
    let results =
        Results { recipients: vec![0], outcome: Outcome::Taken { delivered: true }, report: Report::default() };
    world.command(&team.id, RecordResults::of(sent.id.clone(), &begun.state.0, 1, vec![results])).await;
}

async fn names(world: &World, team: &Team) -> Vec<String> {
    let all = world.app.log.read(&team.id, 0, 1_000).await.unwrap();
    all.iter().map(|record| record.event.name().to_owned()).collect()
}

async fn one_click(world: &World, link: &str) -> Answer {
    world.post(link).header("content-type", FORM).body("List-Unsubscribe=One-Click").send().await
}

#[tokio::test]
async fn bulk_mail_unsubscribes_by_one_post_and_by_nothing_else() {
    let world = World::new().await;
    let (team, key) = sender(&world, "a.test").await;
    let sent = accept(&world, &team, &key, json!({"purpose": "bulk", "topic": "news"})).await;
    assert!(sent.raw.contains("List-Unsubscribe-Post: List-Unsubscribe=One-Click\r\n"), "{}", sent.raw);
    deliver(&world, &team, &sent).await;
    let link = sent.link("u");
    assert!(!link.contains("bob"), "{link}");
    let before = world.app.log.head(&team.id).await.unwrap();
    let page = world.get(&link).send().await;
    assert_eq!(page.status, 200);
    assert!(page.header("content-type").starts_with("text/html"));
    assert!(page.header("set-cookie").is_empty());
    assert_eq!(world.call(Method::HEAD, &link).send().await.status, 200);
    for (kind, body) in [(FORM, ""), (FORM, "List-Unsubscribe=Two"), ("application/json", "{}"), (FORM, "a=b")] {
        let answer = world.post(&link).header("content-type", kind).body(body).send().await;
        assert_eq!(answer.status, 400, "{body}");
    }
    let long = format!("{}&List-Unsubscribe=One-Click", "x".repeat(5_000));
    assert_eq!(world.post(&link).header("content-type", FORM).body(long).send().await.status, 400);
    assert_eq!(world.app.log.head(&team.id).await.unwrap(), before, "looking changes nothing");

    for _ in 0..2 {
        assert_eq!(one_click(&world, &link).await.status, 200);
    }
    let names = names(&world, &team).await;
    assert_eq!(names.iter().filter(|name| *name == "outbound.unsubscribed").count(), 1, "{names:?}");
    assert_eq!(names.iter().filter(|name| *name == "suppression.added").count(), 1, "{names:?}");
    let answer = world.get("/suppressions/bob@example.net").key(&team.root).send().await;
    let cause = &answer.data()["causes"][0];
    assert_eq!((&cause["reason"], &cause["topic"]), (&json!("unsubscribe"), &json!("news")));

    // No more news; receipts go on, and so does what is about something else.
    let refused = accept(&world, &team, &key, json!({"purpose": "bulk", "topic": "news"})).await;
    assert!(state(&world, &team, &refused.id).await.0.is_settled());
    for extra in [json!({}), json!({"purpose": "bulk", "topic": "offers"})] {
        let sent = accept(&world, &team, &key, extra).await;
        assert!(!state(&world, &team, &sent.id).await.0.is_settled());
    }

    // Who came back and leaves again with the old mail has left.
    world.delete("/suppressions/bob@example.net").key(&team.root).send().await.data();
    assert_eq!(one_click(&world, &link).await.status, 200);
    assert_eq!(world.get("/suppressions/bob@example.net").key(&team.root).send().await.status, 200);
}

#[tokio::test]
async fn the_button_of_the_page_and_a_multipart_form_unsubscribe_too() {
    let world = World::new().await;
    let (team, key) = sender(&world, "a.test").await;
    let sent = accept(&world, &team, &key, json!({"purpose": "bulk"})).await;
    // The reader may be quicker than the record of the delivery.
    let form = "--b\r\nContent-Disposition: form-data; name=\"List-Unsubscribe\"\r\n\r\nOne-Click\r\n--b--\r\n";
    let answer = world.post(&sent.link("u")).header("content-type", "multipart/form-data; boundary=b").body(form);
    assert_eq!(answer.send().await.status, 200);
    let listed = world.get("/suppressions/bob@example.net").key(&team.root).send().await.data();
    assert_eq!((&listed["causes"][0]["reason"], &listed["causes"][0]["topic"]), (&json!("unsubscribe"), &Value::Null));

    world.delete("/suppressions/bob@example.net").key(&team.root).send().await.data();
    let sent = accept(&world, &team, &key, json!({"purpose": "bulk"})).await;
    deliver(&world, &team, &sent).await;
    let form = "List-Unsubscribe=One-Click&from=page";
    assert_eq!(world.post(&sent.link("u")).header("content-type", FORM).body(form).send().await.status, 200);
    let all = world.app.log.read(&team.id, 0, 1_000).await.unwrap();
    let method = all.iter().find_map(|record| match &record.event {
        Event::Outbound(domain::outbound::Event::Unsubscribed(e)) => Some(e.method),
        _ => None,
    });
    assert_eq!(method, Some(domain::outbound::UnsubscribeMethod::Page));
}

#[tokio::test]
async fn a_link_that_was_not_made_here_does_nothing() {
    let world = World::new().await;
    let (team, key) = sender(&world, "a.test").await;
    let sent = accept(&world, &team, &key, json!({"purpose": "bulk", "track_opens": true})).await;
    deliver(&world, &team, &sent).await;
    let before = world.app.log.head(&team.id).await.unwrap();
    let token = sent.link("u");
    let flipped = format!("{}{}", &token[..token.len() - 1], if token.ends_with('a') { 'b' } else { 'a' });
    let other_use = sent.link("o").replace("/o/", "/u/");
    for link in [flipped, other_use, "/u/x".to_owned(), format!("/u/{}", "a".repeat(2_000))] {
        assert_eq!(world.get(&link).send().await.status, 404, "{link}");
        assert_eq!(one_click(&world, &link).await.status, 404, "{link}");
    }
    let picture = world.get("/o/nonsense").header("user-agent", THUNDERBIRD).send().await;
    assert_eq!((picture.status.as_u16(), picture.header("content-type").as_str()), (200, "image/gif"));
    assert_eq!(world.app.log.head(&team.id).await.unwrap(), before);
}

#[tokio::test]
async fn openings_are_noticed_only_where_that_was_asked_for() {
    let world = World::new().await;
    let (team, key) = sender(&world, "a.test").await;
    let silent = accept(&world, &team, &key, json!({})).await;
    assert!(!silent.raw.contains("/o/"), "off by default");
    assert!(!silent.raw.contains("List-Unsubscribe"), "transactional mail is not unsubscribed from");
    let sent = accept(&world, &team, &key, json!({"track_opens": true})).await;
    deliver(&world, &team, &sent).await;
    let link = sent.link("o");
    let machines = async || {
        let all = world.app.log.read(&team.id, 0, 1_000).await.unwrap();
        let opened = all.into_iter().filter_map(|record| match record.event {
            Event::Outbound(domain::outbound::Event::Opened(e)) => Some(e.machine),
            _ => None,
        });
        opened.collect::<Vec<_>>()
    };
    let fetch = async |method: Method, header: &str, value: &str| {
        let answer = world.call(method, &link).header(header, value).send().await;
        assert_eq!((answer.status.as_u16(), answer.header("content-type").as_str()), (200, "image/gif"));
        assert!(answer.header("cache-control").contains("no-store"));
    };
    fetch(Method::HEAD, "user-agent", THUNDERBIRD).await;
    fetch(Method::GET, "user-agent", "Barracuda Sentinel").await;
    fetch(Method::GET, "dnt", "1").await;
    fetch(Method::GET, "sec-gpc", "1").await;
    assert_eq!(machines().await, []);
    fetch(Method::GET, "user-agent", "Mozilla/5.0").await;
    fetch(Method::GET, "user-agent", THUNDERBIRD).await;
    fetch(Method::GET, "user-agent", THUNDERBIRD).await;
    use domain::outbound::Machine;
    assert_eq!(machines().await, [Machine::Yes, Machine::No]);
    let head = world.app.log.read(&team.id, 0, 1_000).await.unwrap();
    let opened = head.iter().find(|record| record.event.name() == "outbound.opened").unwrap();
    assert_eq!(opened.client_ip, None, "where somebody reads is nobody's business");
}

#[tokio::test]
async fn a_link_is_for_one_recipient() {
    let world = World::new().await;
    let (team, key) = sender(&world, "a.test").await;
    let rows = [
        (json!({"purpose": "bulk"}), "to"),
        (json!({"track_opens": true}), "track_opens"),
        (json!({"track_opens": "yes"}), "track_opens"),
    ];
    for (extra, field) in rows {
        let mut body = mail();
        body["cc"] = json!([{"email": "carl@example.net"}]);
        for (name, value) in extra.as_object().unwrap() {
            body[name] = value.clone();
        }
        let answer = world.post("/emails/send").key(&key).json(&body).send().await;
        assert_eq!((answer.refusal().0, answer.param()), (422, field.to_owned()), "{extra}");
    }
    // A list with an address of its own may write to several.
    let own = json!({"purpose": "bulk", "cc": [{"email": "carl@example.net"}],
                     "list_unsubscribe": {"url": "https://lists.example.com/leave?who=x"}});
    let sent = accept(&world, &team, &key, own).await;
    assert!(sent.raw.contains("https://lists.example.com/leave"));
}

#[tokio::test]
async fn bulk_mail_names_an_address_that_unsubscribes_beside_its_link() {
    let without = World::new().await;
    let (team, key) = sender(&without, "a.test").await;
    let sent = accept(&without, &team, &key, json!({"purpose": "bulk"})).await;
    assert!(!sent.raw.contains("mailto:"), "{}", sent.raw);
    let config = api::Config { bounce_domain: Some("bounce.test".to_owned()), ..api::Config::default() };
    let world = World::with(config).await;
    let (team, key) = sender(&world, "a.test").await;
    let sent = accept(&world, &team, &key, json!({"purpose": "bulk", "topic": "news"})).await;
    let unfolded = sent.raw.replace("\r\n ", " ");
    let field = unfolded.lines().find(|line| line.starts_with("List-Unsubscribe:")).unwrap();
    let address = field.split("<mailto:").nth(1).and_then(|rest| rest.split('?').next()).unwrap();
    let (local, domain) = address.split_once('@').unwrap();
    assert!(local.len() <= 64 && domain == "bounce.test" && !local.contains("bob"), "{field}");
    let verp = ::mail::verp::Verp::parse_unsubscribe(local, &world.app.auth.pepper().return_path_key()).unwrap();
    let named = domain::outbound::ReturnPath::read(&verp).unwrap();
    assert_eq!((named.outbound, named.recipient), (sent.id.clone(), Some(0)));
    assert!(sent.link("u").starts_with("/u/"), "the link is there, too");
    let transactional = accept(&world, &team, &key, json!({})).await;
    assert!(!transactional.raw.contains("List-Unsubscribe"), "{}", transactional.raw);
}
