//! Words are planted in every text that a mail has, received and sent. When the person they are about is erased, none is
//! left: not in an answer, a stream, an export, a file of the databases, nor in a backup that is restored later.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::Bytes;
use axum::extract::State;
use axum::http::StatusCode;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};

use crate::harness::{Client, Installation, PATIENCE, Server, report};
use crate::stream_client::Stream;

/// The person.
const PERSON: &str = "zq.person@example.com";

/// How many words are planted; `POSTLOG_TEST_MARKERS` sets another number.
fn markers() -> usize {
    std::env::var("POSTLOG_TEST_MARKERS").ok().and_then(|n| n.parse().ok()).unwrap_or(50)
}

fn marker(n: usize) -> String {
    format!("zqmark{n:05}end")
}

/// Everything that must not be found: the words, as they are and as they stand in base64 at any offset, and the person.
struct Forbidden(Vec<Vec<u8>>);

impl Forbidden {
    fn of(markers: usize) -> Self {
        let mut words = vec![];
        for word in (0..markers).map(marker).chain([PERSON.to_owned()]) {
            for offset in 0..3 {
                let padded = [vec![b'-'; offset], word.clone().into_bytes()].concat();
                let coded = BASE64_STANDARD.encode(padded);
                // The first and the last letters depend on what stands beside the word.
                let whole = (offset + word.len()) / 3 * 4;
                words.push(coded.as_bytes()[offset.div_ceil(3) * 4..whole].to_vec());
            }
            words.push(word.into_bytes());
        }
        Self(words)
    }

    /// Returns what of it a text holds. Every word begins with one of a few letters, so that most places are passed by.
    fn found_in(&self, text: &[u8]) -> Vec<String> {
        let heads: BTreeSet<&[u8]> = self.0.iter().map(|word| &word[..4]).collect();
        let begins: [bool; 256] = std::array::from_fn(|byte| heads.iter().any(|head| usize::from(head[0]) == byte));
        let mut found = BTreeSet::new();
        for at in 0..text.len().saturating_sub(4) {
            let rest = &text[at..];
            if begins[usize::from(rest[0])] && heads.contains(&rest[..4]) {
                found.extend(self.0.iter().filter(|word| rest.starts_with(word)));
            }
        }
        found.into_iter().map(|word| String::from_utf8_lossy(word).into_owned()).collect()
    }

    fn none_in(&self, what: &str, text: &[u8]) {
        let lower = text.to_ascii_lowercase();
        let found: Vec<_> = [self.found_in(text), self.found_in(&lower)].concat();
        assert!(found.is_empty(), "{what} holds {found:?}");
    }

    fn none_in_files(&self, directory: &Path) -> u64 {
        let mut bytes = 0;
        for file in files(directory) {
            let content = std::fs::read(&file).unwrap();
            self.none_in(&file.display().to_string(), &content);
            bytes += content.len() as u64;
        }
        bytes
    }
}

fn files(directory: &Path) -> Vec<PathBuf> {
    let mut all = vec![];
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() { all.extend(files(&path)) } else { all.push(path) }
    }
    all
}

/// A mail from the person with a word in one of its places.
fn received(n: usize) -> String {
    let word = marker(n);
    let (mut name, mut subject, mut helo_id) = ("Somebody".to_owned(), format!("mail {n}"), format!("{n}"));
    let (mut to_name, mut cc, mut text, mut file, mut content) =
        (String::new(), String::new(), "Hello".to_owned(), "a.txt".to_owned(), "nothing".to_owned());
    let mut html = "<p>Hello</p>".to_owned();
    match n % 10 {
        0 => name.clone_from(&word),
        1 => subject.clone_from(&word),
        2 => helo_id.clone_from(&word),
        3 => to_name.clone_from(&word),
        4 => cc = format!("Cc: <{word}@example.org>\r\n"),
        5 => text.clone_from(&word),
        6 => file = format!("{word}.txt"),
        7 => content.clone_from(&word),
        8 => html = format!("<p title=\"{word}\">Hello</p>"),
        // Too large to be kept beside its event.
        _ => text = format!("{word} {}", "large body ".repeat(8_000)),
    }
    let content = BASE64_STANDARD.encode(content);
    format!(
        "From: \"{name}\" <{PERSON}>\r\nTo: \"{to_name}\" <agent@postlog.test>\r\n{cc}Subject: {subject}\r\n\
         Date: Fri, 20 Nov 2026 12:00:00 +0000\r\nMessage-ID: <{helo_id}@example.com>\r\nMIME-Version: 1.0\r\n\
         Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\nContent-Type: text/plain\r\n\r\n{text}\r\n\
         --b\r\nContent-Type: text/html\r\n\r\n{html}\r\n--b\r\nContent-Type: text/plain\r\n\
         Content-Disposition: attachment; filename=\"{file}\"\r\nContent-Transfer-Encoding: base64\r\n\r\n\
         {content}\r\n--b--\r\n"
    )
}

/// A mail to the person, or about them to the simulator, with a word in one of its places.
fn sent(n: usize) -> Value {
    let word = marker(n);
    let mut mail = json!({
        "from": {"email": "agent@postlog.test"}, "to": {"email": PERSON, "name": "Somebody"},
        "subject": format!("mail {n}"), "text_body": "Hello", "html_body": "<p>Hello</p>",
    });
    match n % 8 {
        0 => mail["to"]["name"] = json!(word),
        1 => mail["subject"] = json!(word),
        2 => mail["text_body"] = json!(word),
        3 => mail["html_body"] = json!(format!("<p>{word}</p>")),
        4 => mail["metadata"] = json!({"about": word}),
        5 => mail["attachments"] = json!([{"filename": "a.txt", "content": BASE64_STANDARD.encode(&word)}]),
        6 => mail["attachments"] = json!([{"filename": format!("{word}.txt"), "content": BASE64_STANDARD.encode("x")}]),
        _ => {
            mail["to"] = json!({"email": "bounce.hard@simulator.postlog.test"});
            mail["cc"] = json!([{"email": PERSON}]);
            mail["tags"] = json!([word]);
        }
    }
    mail
}

/// Refuses every webhook and repeats what it was told.
async fn repeating_receiver() -> String {
    async fn repeat(State(_): State<Arc<()>>, body: Bytes) -> (StatusCode, Bytes) {
        (StatusCode::INTERNAL_SERVER_ERROR, body)
    }
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/hook", listener.local_addr().unwrap());
    let router = axum::Router::new().route("/hook", axum::routing::post(repeat)).with_state(Arc::new(()));
    let server = async move { axum::serve(listener, router).await.unwrap() };
    #[expect(clippy::disallowed_methods, reason = "ends with the runtime of its test")]
    tokio::spawn(server);
    url
}

/// Gets a list page by page and returns its rows; `what` hears every answer.
async fn rows(client: &Client, path: &str, what: &mut impl FnMut(&str, &Value)) -> Vec<Value> {
    let (mut all, mut cursor) = (vec![], String::new());
    loop {
        let mark = if path.contains('?') { '&' } else { '?' };
        let page = if cursor.is_empty() { path.to_owned() } else { format!("{path}{mark}cursor={cursor}") };
        let (status, body) = client.get(&page).await;
        assert_eq!(status, 200, "{page}: {body}");
        what(&page, &body);
        all.extend(body["data"].as_array().cloned().unwrap_or_default());
        match body["pagination"]["next_cursor"].as_str() {
            Some(next) => cursor = next.to_owned(),
            None => return all,
        }
    }
}

/// Asks every question that can be asked; `what` hears every answer. Returns how many there were.
async fn ask_everything(root: &Client, mailbox: &Client, mut what: impl FnMut(&str, &Value)) -> u64 {
    let mut answers = 0;
    let mut what = |path: &str, body: &Value| {
        answers += 1;
        what(path, body);
    };
    for path in [
        "/me",
        "/mailboxes",
        "/inboxes/logs",
        "/events?limit=500",
        "/audit/events",
        "/billing/usage",
        "/billing/transactions",
        "/suppressions",
        "/domains",
        "/providers",
        "/keys",
        "/emails/metrics",
    ] {
        rows(root, path, &mut what).await;
    }
    for hook in rows(root, "/webhooks", &mut what).await {
        let hook = hook["id"].as_str().unwrap().to_owned();
        for attempt in rows(root, &format!("/webhooks/{hook}/deliveries"), &mut what).await {
            let attempt = attempt["id"].as_str().unwrap();
            rows(root, &format!("/webhooks/{hook}/deliveries/{attempt}/payload"), &mut what).await;
        }
    }
    for mail in rows(root, "/emails/logs", &mut what).await {
        let id = mail["id"].as_str().unwrap();
        for view in ["", "/history", "/transcripts"] {
            rows(root, &format!("/emails/logs/{id}{view}"), &mut what).await;
        }
    }
    for message in rows(mailbox, "/mailbox/messages?limit=100", &mut what).await {
        let id = message["id"].as_str().unwrap();
        for view in ["", "/body", "/content"] {
            rows(mailbox, &format!("/mailbox/messages/{id}{view}"), &mut what).await;
        }
    }
    for thread in rows(mailbox, "/mailbox/threads?limit=100", &mut what).await {
        let id = thread["id"].as_str().unwrap();
        rows(mailbox, &format!("/mailbox/threads/{id}/messages"), &mut what).await;
    }
    for query in ["subject=zqmark", "from=zq.person", "body=zqmark"] {
        let found = rows(mailbox, &format!("/mailbox/messages?{query}"), &mut |_, _| {}).await;
        what(query, &json!(found));
    }
    rows(mailbox, "/mailbox/submissions", &mut what).await;
    answers
}

/// A story under way: somebody's mails are there.
struct Planted {
    installation: Installation,
    server: Server,
    root: Client,
    mailbox: Client,
    team: String,
    markers: usize,
}

/// An installation that may be asked for everything it has.
fn unlimited() -> Installation {
    Installation::new()
        .with("HTTP__RATE_LIMITS__MAILBOX_REQUESTS", "1000000")
        .with("HTTP__RATE_LIMITS__INFRASTRUCTURE_REQUESTS", "1000000")
        .with("SMTP__RATES__MAILS_PER_MINUTE_PER_MAILBOX_AND_PEER", "0")
        .with("SMTP__RATES__MAILS_PER_MINUTE_PER_MAILBOX", "0")
}

async fn plant() -> Planted {
    let installation = unlimited();
    let server = installation.start();
    let keys = server.keys.clone().unwrap();
    let (root, mailbox) = (server.client(&keys.root), server.client(&keys.mailbox));
    let team = root.get("/me").await.1["data"]["team"]["id"].as_str().unwrap().to_owned();
    let url = repeating_receiver().await;
    let hook = json!({"url": url, "event_types": ["message.received", "message.bounced", "message.delivered"]});
    let (status, body) = root.post("/webhooks", hook).await;
    assert_eq!(status, 201, "{body}");
    let markers = markers();
    for n in 0..markers {
        if n % 2 == 0 {
            // Both halves of the numbers meet all places.
            let mail = received(n / 2);
            crate::smtp_client::send_raw(&server.smtp, PERSON, &["agent@postlog.test"], &mail).await.unwrap();
        } else {
            let (status, body) = mailbox.post("/emails/send", sent(markers.div_ceil(2) + n / 2)).await;
            assert_eq!(status, 200, "{body}");
        }
    }
    let note = json!({"email": PERSON, "note": marker(0)});
    assert_eq!(root.post("/suppressions", note).await.0, 201);
    server.mail("ann@example.com", "agent@postlog.test", "somebody else", "x").await;
    // Until nothing is on its way any more.
    root.wait_for("/emails/logs?limit=100", |body| {
        let mails = body["data"].as_array().unwrap();
        !mails.is_empty() && !body.to_string().contains("\"queued\"") && !body.to_string().contains("\"sending\"")
    })
    .await;
    mailbox.wait_for("/mailbox/messages?subject=somebody", |body| body["data"].as_array().unwrap().len() == 1).await;
    Planted { installation, server, root, mailbox, team, markers }
}

/// What is counted and paid.
async fn accounts(root: &Client) -> (Value, Value) {
    (root.get("/billing/usage").await.1["data"].clone(), root.get("/billing/balance").await.1["data"].clone())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_of_a_person_is_left_once_they_are_erased() {
    let Planted { installation, server, root, mailbox, team, markers } = plant().await;
    let forbidden = Forbidden::of(markers);
    let mut seen = BTreeSet::new();
    ask_everything(&root, &mailbox, |_, body| seen.extend(forbidden.found_in(body.to_string().as_bytes()))).await;
    assert!(seen.len() > markers / 2, "the words were there to be seen: {seen:?}");
    let old = installation.data().with_extension("backup");
    installation.run(&["backup", "--out", old.to_str().unwrap()]);
    assert!(!forbidden.found_in(&std::fs::read(old.join("log.db")).unwrap()).is_empty());
    let before = accounts(&root).await;

    let said = installation.run(&["erase", "--team", &team, "--yes", "address", PERSON]);
    assert!(said.contains("erased: "), "{said}");
    assert_eq!(accounts(&root).await, before, "what was counted and paid stays so");

    let answers =
        ask_everything(&root, &mailbox, |path, body| forbidden.none_in(path, body.to_string().as_bytes())).await;
    // A stream that begins before all of it.
    let first = root.get("/events?limit=1").await.1["data"][0]["id"].as_str().unwrap().to_owned();
    let mut stream = Stream::open(&mailbox, "/mailbox/events", Some(&first)).await;
    server.mail("ann@example.com", "agent@postlog.test", "the end", "x").await;
    let mut events = 0;
    loop {
        let event = stream.next().await;
        forbidden.none_in("the stream", format!("{}{}", event.id, event.data).as_bytes());
        events += 1;
        if event.data.to_string().contains("the end") {
            break;
        }
    }
    let export = installation.data().with_extension("export");
    installation.run(&["export", &team, export.to_str().unwrap(), "--bodies"]);
    forbidden.none_in_files(&export);
    assert!(installation.run(&["verify"]).contains("the chain holds"));
    // Beside the running server already, and after its end.
    let bytes = forbidden.none_in_files(&installation.data());
    assert!(server.terminate());
    forbidden.none_in_files(&installation.data());

    let restored = restore(&installation, &old);
    assert!(restored.run(&["verify"]).contains("the chain holds"));
    forbidden.none_in_files(&restored.data());
    let server = restored.start();
    let (root, mailbox) = (server.client(root.key()), server.client(mailbox.key()));
    ask_everything(&root, &mailbox, |path, body| forbidden.none_in(path, body.to_string().as_bytes())).await;
    assert_eq!(accounts(&root).await.1, before.1);
    assert!(root.get("/audit/events").await.1.to_string().contains("team.personal_data_erased"));
    report(format_args!(
        "{markers} words planted, a person erased: found 0 times in {answers} answers, {events} events of a stream, an export, \
         {bytes} bytes of files, and a backup from before that was restored"
    ));
}

/// Restores a backup beside the secrets and the record of erasures.
fn restore(from: &Installation, backup: &Path) -> Installation {
    let restored = unlimited();
    std::fs::create_dir_all(restored.data()).unwrap();
    for file in ["master.key", "pepper.key", "checkpoint.key", "erasures.jsonl", "welcome.shown"] {
        std::fs::copy(from.data().join(file), restored.data().join(file)).unwrap();
    }
    restored.run(&["restore", "--from", backup.to_str().unwrap()]);
    restored
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_of_a_team_is_left_once_it_is_erased_and_another_is_untouched() {
    let installation = Installation::new();
    let server = installation.start();
    let keys = server.keys.clone().unwrap();
    let (root, mailbox) = (server.client(&keys.root), server.client(&keys.mailbox));
    server.mail("ann@example.com", "agent@postlog.test", "of the other team", "x").await;
    let made = installation.run(&["teams", "create", "--name", &marker(0), "--domain", "zq.example"]);
    let word = |name: &str| {
        let line = made.lines().find(|line| line.starts_with(name)).unwrap();
        line.split_whitespace().nth(1).unwrap().to_owned()
    };
    let (team, theirs) = (word("team"), server.client(&word("key")));
    let box_of = json!({"email": format!("{}@zq.example", marker(1)), "display_name": marker(2)});
    let (status, body) = theirs.post("/mailboxes", box_of).await;
    assert_eq!(status, 201, "{body}");
    let address = format!("{}@zq.example", marker(1));
    for n in 3..6 {
        server.mail(PERSON, &address, &marker(n), &format!("{} {}", marker(n), "x".repeat(n * 15_000))).await;
    }
    let hook =
        json!({"url": format!("{}?{}", repeating_receiver().await, marker(6)), "event_types": ["message.received"]});
    assert_eq!(theirs.post("/webhooks", hook).await.0, 201);
    let mail =
        json!({"from": {"email": address}, "to": {"email": PERSON}, "subject": marker(7), "text_body": marker(8)});
    let (status, body) = theirs.post("/emails/send", mail).await;
    assert!([200, 202, 403].contains(&status), "{body}");
    theirs.wait_for("/inboxes/logs", |body| body["data"].as_array().unwrap().len() >= 3).await;
    let erase = |more: &[&str]| installation.run(&[&["erase", "--team", &team], more].concat());
    assert!(erase(&["everything"]).contains("would be erased for good"));
    assert_eq!(theirs.get("/mailboxes").await.0, 200, "nothing was done yet");
    assert!(erase(&["--yes", "everything"]).contains("erased: "));
    // The server hears of another process's appends within a second or so.
    let deadline = Instant::now() + PATIENCE;
    let mut pace = tokio::time::interval(Duration::from_millis(100));
    while theirs.get("/mailboxes").await.0 != 401 {
        assert!(Instant::now() < deadline, "its keys open nothing any more");
        pace.tick().await;
    }
    let refused = crate::smtp_client::send(&server.smtp, PERSON, &[&address], "x", "x").await;
    assert!(refused.is_err(), "its mailboxes are gone");
    assert!(installation.run(&["verify"]).contains("the chain holds"));
    let forbidden = Forbidden::of(9);
    let export = installation.data().with_extension("export");
    installation.run(&["export", &team, export.to_str().unwrap(), "--bodies"]);
    forbidden.none_in_files(&export);
    forbidden.none_in_files(&installation.data());
    mailbox.wait_for("/mailbox/messages?subject=other", |body| body["data"].as_array().unwrap().len() == 1).await;
    ask_everything(&root, &mailbox, |path, body| forbidden.none_in(path, body.to_string().as_bytes())).await;
    assert!(server.terminate());
    forbidden.none_in_files(&installation.data());
}
