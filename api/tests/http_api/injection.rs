//! No field of a request can add a header field or a recipient: Python's parser is the judge.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::process::{Command, Stdio};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use domain::StreamId;
use domain::Versioned;
use domain::balance::ChangeCreditLimit;
use domain::money::Nanos;
use domain::outbound::Outbound;
use serde_json::{Value, json};

use crate::harness::{Answer, Team, World};
use crate::sending::sender;

/// Texts that have ended a line, begun a field or closed a quotation somewhere before.
const NASTY: [&str; 16] = [
    "\r\nX-Evil: 1",
    "\nX-Evil: 1",
    "\rX-Evil: 1",
    "\r\n X-Evil: 1",
    "\r\n\r\nX-Evil: 1",
    "\u{0}X-Evil: 1",
    "\u{85}X-Evil: 1",
    "\u{2028}X-Evil: 1",
    "\u{b}X-Evil: 1",
    "=?utf-8?q?=0D=0AX-Evil:_1?=",
    "\"\r\nX-Evil: 1",
    "\" <evil@example.net>, \"",
    ", evil@example.net",
    "<evil@example.net>",
    "(\r\nX-Evil: 1)",
    "ü\\\"\r\nX-Evil: 1",
];

const JUDGE: &str = r#"
import sys, json, base64, email, email.policy
for line in sys.stdin:
    message = email.message_from_bytes(base64.b64decode(line), policy=email.policy.default)
    people = []
    for name in ("From", "To", "Cc", "Reply-To"):
        for field in message.get_all(name, []):
            people.extend(a.addr_spec for a in field.addresses)
    evil = [p.get_content_type() for p in message.walk() if any(k.lower() == "x-evil" for k in p.keys())]
    print(json.dumps({"names": message.keys(), "people": people, "evil": evil, "defects": [str(d) for d in message.defects]}))
"#;

fn judged(mails: &[Vec<u8>]) -> Vec<Value> {
    let mut python =
        Command::new("python3").args(["-c", JUDGE]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut stdin = python.stdin.take().unwrap();
    let lines: String = mails.iter().map(|mail| BASE64_STANDARD.encode(mail) + "\n").collect();
    let writer = std::thread::spawn(move || stdin.write_all(lines.as_bytes()).unwrap());
    let output = python.wait_with_output().unwrap();
    writer.join().unwrap();
    String::from_utf8(output.stdout).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Puts a text into each field that takes one.
fn poisoned(nasty: &str) -> Vec<(&'static str, Value)> {
    let mail = json!({
        "from": {"email": "ann@a.test", "name": "Ann"}, "to": [{"email": "bob@example.net", "name": "Bob"}],
        "cc": [{"email": "carl@example.net", "name": "Carl"}], "reply_to": [{"email": "office@a.test", "name": "Office"}],
        "subject": "Hello", "html_body": "<p>Hi</p>", "text_body": "Hi", "custom_headers": {"X-Tag": "a"},
        "in_reply_to": "<one@example.net>", "references": ["<one@example.net>"], "return_path": "back@a.test",
        "attachments": [{"filename": "a.txt", "type": "text/plain", "content": "aGk="}],
        "list_unsubscribe": {"url": "https://example.com/u"},
    });
    let places = [
        "/from/email",
        "/from/name",
        "/to/0/email",
        "/to/0/name",
        "/cc/0/email",
        "/cc/0/name",
        "/reply_to/0/email",
        "/reply_to/0/name",
        "/subject",
        "/html_body",
        "/text_body",
        "/custom_headers/X-Tag",
        "/in_reply_to",
        "/references/0",
        "/return_path",
        "/attachments/0/filename",
        "/attachments/0/type",
        "/list_unsubscribe/url",
    ];
    let mut all = vec![];
    for place in places {
        let clean = mail.pointer(place).unwrap().as_str().unwrap();
        let middle = clean.len() / 2;
        for text in [
            format!("{clean}{nasty}"),
            format!("{nasty}{clean}"),
            format!("{}{nasty}{}", &clean[..middle], &clean[middle..]),
        ] {
            let mut body = mail.clone();
            *body.pointer_mut(place).unwrap() = json!(text);
            all.push((place, body));
        }
    }
    let mut named = mail;
    named["custom_headers"] = json!({format!("X-Tag{nasty}"): "a"});
    all.push(("/custom_headers", named));
    all
}

async fn bytes(world: &World, team: &Team, answer: &Answer) -> Vec<u8> {
    let id = answer.data()["message_id"].as_str().unwrap().parse().unwrap();
    let mail: Versioned<Outbound> = world.app.log.state(&team.id, &[StreamId::Outbound(id)]).await.unwrap();
    let blob = &mail.accepted.as_ref().unwrap().blob;
    world.app.log.blob(&team.id, blob).await.unwrap().unwrap().to_vec()
}

#[tokio::test]
async fn no_field_adds_a_header_field_or_a_recipient() {
    let config = api::Config {
        rate_limits: api::RateLimits { mailbox_requests: 1_000_000, ..api::RateLimits::default() },
        ..api::Config::default()
    };
    let world = World::with(config).await;
    let (team, key) = sender(&world, "a.test").await;
    world.command(&team.id, ChangeCreditLimit { credit_limit: Nanos(1_000_000_000_000) }).await;
    let (mut mails, mut refused, mut places) = (vec![], 0, vec![]);
    for nasty in NASTY {
        for (place, body) in poisoned(nasty) {
            let answer = world.post("/emails/send").key(&key).json(&body).send().await;
            match answer.status.as_u16() {
                200 => {
                    mails.push(bytes(&world, &team, &answer).await);
                    places.push((place, nasty));
                }
                400 | 403 | 422 => refused += 1,
                status => panic!("{status} for {nasty:?} in {place}: {:?}", answer.json()),
            }
        }
    }
    assert!(refused > 200 && mails.len() > 100, "{refused} refused, {} taken", mails.len());
    let allowed = BTreeSet::from([
        "From",
        "To",
        "Cc",
        "Reply-To",
        "Subject",
        "Date",
        "Message-ID",
        "In-Reply-To",
        "References",
        "MIME-Version",
        "Content-Type",
        "Content-Transfer-Encoding",
        "X-Tag",
        "List-Unsubscribe",
        "List-Unsubscribe-Post",
    ]);
    let people = BTreeSet::from(["ann@a.test", "bob@example.net", "carl@example.net", "office@a.test"]);
    let verdicts = judged(&mails);
    assert_eq!(verdicts.len(), mails.len());
    for ((verdict, mail), (place, nasty)) in verdicts.iter().zip(&mails).zip(places) {
        let shown = || format!("{place} {nasty:?}: {verdict}\n{}", String::from_utf8_lossy(mail));
        let names: Vec<_> = verdict["names"].as_array().unwrap().iter().map(|n| n.as_str().unwrap()).collect();
        // What the caller called it, as far as a field may be called so.
        let own = |name: &str| place == "/custom_headers" && name.starts_with("X-Tag");
        assert!(names.iter().all(|name| allowed.contains(name) || own(name)), "{}", shown());
        assert_eq!(names.iter().collect::<BTreeSet<_>>().len(), names.len(), "a field twice: {}", shown());
        assert_eq!((&verdict["evil"], &verdict["defects"]), (&json!([]), &json!([])), "{}", shown());
        for person in verdict["people"].as_array().unwrap() {
            assert!(people.contains(person.as_str().unwrap()), "{}", shown());
        }
    }
}
