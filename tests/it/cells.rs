//! One installation on two databases, and a team that moves between them while it is used.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use eventlog::testing::Cluster;
use serde_json::{Value, json};
use sqlx::{Connection as _, PgConnection};

use crate::harness::{Client, Installation, PATIENCE, Server, answer, pause, report};
use crate::stream_client::Stream;
use crate::webhook_sink::Sink;

const OPERATIONS: &str = include_str!("../../docs/operations.md");

/// An installation on two databases.
struct Two {
    installation: Installation,
    home: String,
    away: String,
}

impl Two {
    async fn new() -> Self {
        let cluster = Cluster::shared();
        let (home, away) = (cluster.create_database(None).await, cluster.create_database(None).await);
        let (home, away) = (cluster.url(&home), cluster.url(&away));
        let installation = Installation::new()
            .with("DATABASE__URL", &home)
            .with("DATABASE__CELLS", &format!("[{{name = \"b\", url = \"{away}\"}}]"))
            .with("HTTP__RATE_LIMITS__INFRASTRUCTURE_REQUESTS", "1000000")
            .with("HTTP__RATE_LIMITS__MAILBOX_REQUESTS", "1000000")
            .with("SMTP__RATES__MAILS_PER_MINUTE_PER_MAILBOX_AND_PEER", "0")
            .with("SMTP__RATES__MAILS_PER_MINUTE_PER_MAILBOX", "0");
        Self { installation, home, away }
    }

    /// Counts the events of a team in each database: home, then away.
    async fn events(&self, team: &str) -> (i64, i64) {
        let mut counts = vec![];
        for url in [&self.home, &self.away] {
            let mut connection = PgConnection::connect(url).await.unwrap();
            let count = sqlx::query_scalar("SELECT COUNT(*) FROM log.events WHERE team_id = $1").bind(team);
            counts.push(count.fetch_one(&mut connection).await.unwrap());
            connection.close().await.unwrap();
        }
        (counts[0], counts[1])
    }
}

async fn team_of(root: &Client) -> String {
    let (_, me) = root.get("/me").await;
    me["data"]["team"]["id"].as_str().unwrap().to_owned()
}

/// Mails and sends until told to stop. Who is told to try again does so, with the same mail and the same key.
async fn load(server: &Server, mailbox: &Client, stop: &AtomicBool) -> (usize, BTreeSet<String>, u32) {
    let mut again = 0;
    let mails = async {
        let (mut n, mut again) = (0, 0);
        let mut pace = tokio::time::interval(Duration::from_millis(20));
        while !stop.load(Ordering::SeqCst) {
            pace.tick().await;
            let content = format!(
                "From: <ann@example.com>\r\nTo: <agent@postlog.test>\r\nSubject: mail {n}\r\n\
                 Date: Fri, 20 Nov 2026 12:00:00 +0000\r\nMessage-ID: <{n}@example.com>\r\n\r\n{}\r\n",
                // Some are too large to be stored beside their events.
                if n % 10 == 0 { "large body\r\n".repeat(7_000) } else { "small".to_owned() }
            );
            let to = ["agent@postlog.test"];
            while let Err(said) = crate::smtp_client::send_raw(&server.smtp, "ann@example.com", &to, &content).await {
                assert!(said.starts_with('4'), "{said}");
                again += 1;
                pace.tick().await;
            }
            n += 1;
        }
        (n, again)
    };
    let sends = async {
        let (mut ids, mut again) = (BTreeSet::new(), 0);
        let mut pace = tokio::time::interval(Duration::from_millis(50));
        while !stop.load(Ordering::SeqCst) {
            pace.tick().await;
            let key = format!("send-{}", ids.len());
            let mail = json!({
                "from": {"email": "agent@postlog.test"}, "to": {"email": "delivered@simulator.postlog.test"},
                "subject": key, "text_body": "x",
            });
            loop {
                let request = mailbox.request(reqwest::Method::POST, "/emails/send");
                let (status, body) = answer(request.header("idempotency-key", &key).json(&mail)).await;
                if status == 200 {
                    assert!(ids.insert(body["data"]["message_id"].as_str().unwrap().to_owned()), "{body}");
                    break;
                }
                assert_eq!(status, 503, "{body}");
                again += 1;
                pace.tick().await;
            }
        }
        (ids, again)
    };
    let ((mails, refused), (ids, refused_too)) = tokio::join!(mails, sends);
    again += refused + refused_too;
    (mails, ids, again)
}

/// Runs a command and kills it when it has said something.
fn killed_at(mut command: Command, said: &str) {
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
    if !lines.any(|line| line.contains(said)) {
        let ended = child.wait_with_output().unwrap();
        panic!("it never said {said:?}: {}, {}", ended.status, String::from_utf8_lossy(&ended.stderr));
    }
    child.kill().unwrap();
    child.wait().unwrap();
}

/// Runs a command and kills it some time after it has begun.
fn killed_after(mut command: Command, time: Duration) {
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    pause(time);
    let _ = child.kill();
    child.wait().unwrap();
}

/// Moves the team to and fro, killing the command at each of its steps and at some moments between; each time the same
/// command finishes it.
fn move_about(installation: &Installation, team: &str) {
    let mut to = "b";
    for said in ["copied and verified", "writes wait", " lives in "] {
        killed_at(installation.command(&["teams", "move", team, to]), said);
        installation.run(&["teams", "move", team, to]);
        to = if to == "b" { "home" } else { "b" };
    }
    for milliseconds in [150, 400, 900] {
        killed_after(installation.command(&["teams", "move", team, to]), Duration::from_millis(milliseconds));
        let said = installation.run(&["teams", "move", team, to]);
        assert!(said.contains(&format!("lives in {to}")), "{said}");
        to = if to == "b" { "home" } else { "b" };
    }
    // Six times to and fro: it is at home again.
    let said = installation.run(&["teams", "move", team, "b"]);
    assert!(said.contains("lives in b from position") && said.contains("dropped"), "{said}");
}

/// Reads all that the team's own feed holds: received mails by subject, and mails that are sent.
async fn recount(root: &Client) -> (BTreeMap<String, usize>, usize) {
    let (mut mails, mut queued) = (BTreeMap::new(), 0);
    let mut path = "/events?limit=500".to_owned();
    loop {
        let (status, page) = root.get(&path).await;
        assert_eq!(status, 200, "{page}");
        for event in page["data"].as_array().unwrap() {
            match event["type"].as_str().unwrap() {
                "message.received" => {
                    *mails.entry(event["data"]["subject"].as_str().unwrap().to_owned()).or_default() += 1;
                }
                "message.queued" => queued += 1,
                _ => {}
            }
        }
        if page["pagination"]["has_more"] != true {
            return (mails, queued);
        }
        path = format!("/events?limit=500&cursor={}", page["pagination"]["next_cursor"].as_str().unwrap());
    }
}

fn inbound(usage: &Value) -> i64 {
    let rows = usage["data"]["usage"].as_array().unwrap();
    rows.iter().filter(|row| row["meter"] == "inbound_messages").map(|row| row["units"].as_i64().unwrap()).sum()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_team_that_moves_under_load_loses_nothing_though_every_move_is_killed() {
    let two = Two::new().await;
    let server = two.installation.start();
    let keys = server.keys.clone().unwrap();
    let (root, mailbox) = (server.client(&keys.root), server.client(&keys.mailbox));
    let team = team_of(&root).await;
    let sink = Sink::start().await;
    let hook = json!({"url": sink.url, "event_types": ["message.received"]});
    assert_eq!(root.post("/webhooks", hook).await.0, 201);
    let mut stream = Stream::open(&mailbox, "/mailbox/events", None).await;
    server.mail("ann@example.com", "agent@postlog.test", "before", "x").await;
    let mut seen = vec![stream.next().await.id];

    let stop = AtomicBool::new(false);
    let installation = Arc::new(two.installation);
    let (moved, of) = (Arc::clone(&installation), team.clone());
    let moving = async {
        let moved = tokio::task::spawn_blocking(move || move_about(&moved, &of)).await;
        stop.store(true, Ordering::SeqCst);
        moved.unwrap();
    };
    let (mails, ids, again) = {
        let (loaded, ()) = tokio::join!(load(&server, &mailbox, &stop), moving);
        loaded
    };
    server.mail("ann@example.com", "agent@postlog.test", "after", "x").await;

    // Every mail once: in the log, to the webhook, on the stream, on the bill.
    let mut expected: BTreeMap<String, usize> = (0..mails).map(|n| (format!("mail {n}"), 1)).collect();
    expected.extend([("before".to_owned(), 1), ("after".to_owned(), 1)]);
    assert_eq!(recount(&root).await, (expected.clone(), ids.len()));
    let requests = tokio::time::timeout(PATIENCE * 2, sink.wait_for(expected.len())).await.unwrap();
    let events: BTreeSet<_> = requests.iter().map(|r| r.json()["id"].as_str().unwrap().to_owned()).collect();
    assert_eq!((requests.len(), events.len()), (expected.len(), expected.len()));
    // Nobody read the stream meanwhile: it may have been cut for that, and is resumed as any client would.
    let mut resumes = 0;
    while seen.len() < expected.len() {
        match stream.next_within(PATIENCE).await {
            Some(event) if event.event_type == "message.received" => seen.push(event.id),
            Some(_) => {}
            None => {
                resumes += 1;
                assert!(resumes < 5, "{} of {} mails on the stream", seen.len(), expected.len());
                stream = Stream::open(&mailbox, "/mailbox/events", seen.last().map(String::as_str)).await;
            }
        }
    }
    assert!(seen.is_sorted_by(|a, b| a < b), "ids on the stream grow");
    assert_eq!(seen.iter().cloned().collect::<BTreeSet<_>>(), events);
    let billed = i64::try_from(expected.len()).unwrap();
    let usage = root.wait_for("/billing/usage", |usage| inbound(usage) == billed).await;
    // A stream that was cut off before all this resumes behind what it saw.
    let mut resumed = Stream::open(&mailbox, "/mailbox/events", Some(&seen[0])).await;
    assert_eq!(resumed.next().await.id, seen[1]);
    drop((stream, resumed));

    assert!(installation.run(&["verify"]).contains("the chain holds"));
    let (home, away) = (two.home, two.away);
    let two = Two { installation: Installation::new(), home, away };
    let (left, there) = two.events(&team).await;
    assert!(left == 0 && there > 0, "{left} events at home, {there} away");
    server.kill();
    let server = installation.start();
    let root = server.client(&keys.root);
    assert_eq!(root.get("/billing/usage").await.1["data"]["usage"], usage["data"]["usage"]);
    server.mail("ann@example.com", "agent@postlog.test", "after a restart", "x").await;
    sink.wait_for(expected.len() + 1).await;
    report(format_args!(
        "a team moved 7 times, 6 of them killed: {mails} mails and {} sent, {again} times told to try again: lost 0, \
         doubled 0",
        ids.len()
    ));
}

/// Returns the commands of the document's section that hold a word, each with its arguments.
fn documented(word: &str) -> Vec<Vec<&'static str>> {
    let (_, section) = OPERATIONS.split_once("### Cells: several databases").expect("the section");
    let blocks = section.split("```sh\n").skip(1).map(|rest| rest.split("```").next().unwrap());
    let lines = blocks.flat_map(str::lines).filter(|line| line.contains(word));
    lines.map(|line| line.split_whitespace().collect()).collect()
}

#[tokio::test]
async fn the_commands_of_the_document_move_a_team_and_take_a_move_back() {
    let two = Two::new().await;
    let (_, section) = OPERATIONS.split_once("### Cells: several databases").unwrap();
    let toml = section.split("```toml\n").nth(1).unwrap().split("```").next().unwrap();
    let toml = toml.replace("postgres://postlog@db1/postlog", &two.home);
    let toml = toml.replace("postgres://postlog@db2/postlog", &two.away);
    // As it is written: from the file, not from the environment.
    let installation = Installation::new();
    std::fs::create_dir_all(installation.data()).unwrap();
    let file = installation.data().join("postlog.toml");
    std::fs::write(&file, toml).unwrap();
    let installation = installation.with("CONFIG", file.to_str().unwrap());
    let server = installation.start();
    let keys = server.keys.clone().unwrap();
    let team = team_of(&server.client(&keys.root)).await;
    assert_eq!(two.events(&team).await.0, 0, "new teams are made in b");
    let command = |line: &[&str]| {
        let filled: Vec<_> = line[1..].iter().map(|word| word.replace("team_…", &team)).collect();
        let filled: Vec<_> = filled.iter().map(|word| word.replace("postlog.toml", file.to_str().unwrap())).collect();
        installation.command(&filled.iter().map(String::as_str).collect::<Vec<_>>())
    };
    let run = |line: &[&str]| {
        let output = command(line).output().unwrap();
        assert!(output.status.success(), "{line:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let moves = documented(" teams move ");
    let [to_b, to_home] = &moves[..] else { panic!("two moves: {moves:?}") };
    let stay = documented(" teams stay ").remove(0);
    assert!(run(to_b).contains("lives in b already"));
    killed_at(command(to_home), "copied and verified");
    // It may have come to its end before it was killed; then there is nothing to take back.
    let took_back = command(&stay).output().unwrap().status.success();
    server.mail("ann@example.com", "agent@postlog.test", "taken back", "x").await;
    assert_eq!(run(to_home).contains("lives in home from position"), took_back || two.events(&team).await.0 > 0);
    assert!(two.events(&team).await.0 > 0);
    assert!(run(to_b).contains("lives in b from position"));
    assert_eq!(two.events(&team).await.0, 0);
    server.mail("ann@example.com", "agent@postlog.test", "moved", "x").await;
    let verify = command(&["postlog", "--config", "postlog.toml", "verify"]).output().unwrap();
    assert!(String::from_utf8_lossy(&verify.stdout).contains("the chain holds"));
}
