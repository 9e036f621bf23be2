//! A team adds its own submission server, tests it, sends through it and reads what became of the mail.

use std::sync::Arc;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Mutex;
use tokio::task::JoinSet;

use crate::harness::{Client, Installation, answer};

/// A small submission server without TLS: it wants `ann` and `hunter2`, and knows nobody called `nobody@…`.
struct Receiver {
    port: u16,
    taken: Arc<Mutex<Vec<String>>>,
    _accepting: JoinSet<()>,
}

impl Receiver {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (port, taken) = (listener.local_addr().unwrap().port(), Arc::<Mutex<Vec<String>>>::default());
        let kept = Arc::clone(&taken);
        let mut accepting = JoinSet::new();
        accepting.spawn(async move {
            let mut dialogues = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let kept = Arc::clone(&kept);
                dialogues.spawn(async move {
                    // A client that goes away ends its own dialogue only.
                    let _ = talk(stream, &kept).await;
                });
            }
        });
        Self { port, taken, _accepting: accepting }
    }
}

async fn talk(stream: TcpStream, taken: &Mutex<Vec<String>>) -> std::io::Result<()> {
    let (read, mut write) = stream.into_split();
    let mut lines = BufReader::new(read).lines();
    write.write_all(b"220 receiver.test ESMTP\r\n").await?;
    while let Some(line) = lines.next_line().await? {
        let command = line.to_ascii_uppercase();
        let said: &[u8] = if command.starts_with("EHLO") {
            b"250-receiver.test\r\n250-AUTH PLAIN\r\n250 8BITMIME\r\n"
        } else if command.starts_with("AUTH") {
            // "\0ann\0hunter2"
            if line.ends_with("AGFubgBodW50ZXIy") { b"235 2.7.0 welcome\r\n" } else { b"535 5.7.8 not you\r\n" }
        } else if command.starts_with("RCPT TO:<NOBODY@") {
            b"550 5.1.1 no such user\r\n"
        } else if command.starts_with("DATA") {
            write.write_all(b"354 go on\r\n").await?;
            let mut mail = String::new();
            while let Some(line) = lines.next_line().await?.filter(|line| line != ".") {
                mail.push_str(&line);
                mail.push('\n');
            }
            taken.lock().await.push(mail);
            b"250 2.0.0 queued as 7\r\n"
        } else if command.starts_with("QUIT") {
            write.write_all(b"221 bye\r\n").await?;
            return Ok(());
        } else {
            b"250 2.0.0 ok\r\n"
        };
        write.write_all(said).await?;
    }
    Ok(())
}

async fn post(client: &Client, path: &str, body: Value, status: u16) -> Value {
    let (answered, json) = client.post(path, body).await;
    assert_eq!(answered, status, "{path}: {json}");
    json["data"].clone()
}

#[tokio::test]
async fn a_mail_is_sent_through_an_account_of_the_teams_own_and_explained() {
    let (receiver, installation) = (Receiver::start().await, Installation::new());
    let server = installation.start();
    let root = server.client(&server.keys.clone().unwrap().root);
    let account = json!({
        "name": "Own", "smtp_host": "127.0.0.1", "smtp_port": receiver.port, "smtp_protocol": "none",
        "smtp_username": "ann", "smtp_password": "wrong",
    });
    let made = post(&root, "/providers", account, 201).await;
    let path = format!("/providers/{}", made["id"].as_str().unwrap());
    let refused = post(&root, &format!("{path}/test"), json!({}), 200).await;
    assert_eq!(
        (&refused["success"], refused["message"].as_str().unwrap().contains("535 5.7.8 not you")),
        (&json!(false), true)
    );
    let patch = root.request(reqwest::Method::PATCH, &path).json(&json!({"smtp_password": "hunter2"}));
    assert_eq!(answer(patch).await.0, 200);
    assert_eq!(post(&root, &format!("{path}/test"), json!({}), 200).await["success"], true);
    let group =
        post(&root, "/delivery-groups", json!({"name": "Own", "members": [{"provider_id": made["id"]}]}), 201).await;
    let key = json!({"kind": "sending", "name": "worker", "send_scope": {"type": "group", "group_public_ids": [group["id"]]}});
    let worker = server.client(post(&root, "/keys", key, 201).await["secret"].as_str().unwrap());

    let file =
        worker.request(reqwest::Method::POST, "/emails/attachments?filename=notes.txt").body("remember the milk");
    let (status, file) = answer(file).await;
    assert_eq!(status, 201, "{file}");
    let mail = json!({
        "from": {"email": "agent@postlog.test", "name": "Agent"}, "to": {"email": "bob@example.net"},
        "cc": [{"email": "nobody@example.net"}], "subject": "By our own server", "html_body": "<p>Hi</p>",
        "attachments": [{"attachment_id": file["data"]["attachment_id"]}], "tags": ["story"],
    });
    let sent = post(&worker, "/emails/send", mail, 200).await;
    let mine = format!("/emails/{}", sent["message_id"].as_str().unwrap());
    let settled =
        worker.wait_for(&mine, |b| b["data"]["undo_status"] == "final" && b["data"]["status"] == "sent").await;
    let outcomes: Vec<_> =
        settled["data"]["recipients"].as_array().unwrap().iter().map(|r| r["status"].clone()).collect();
    assert_eq!(outcomes[0], "sent", "{settled}");
    assert!(["bounced", "rejected"].contains(&outcomes[1].as_str().unwrap()), "{settled}");

    let taken = receiver.taken.lock().await.clone();
    assert_eq!(taken.len(), 1, "one mail");
    assert!(
        taken[0].contains("Subject: By our own server") && taken[0].contains("filename=\"notes.txt\""),
        "{}",
        taken[0]
    );

    let log = format!("/emails/logs/{}", settled["data"]["log_id"].as_str().unwrap());
    let (_, detail) = root.get(&log).await;
    assert_eq!(
        (&detail["data"]["provider_name"], &detail["data"]["accepted_recipient_count"]),
        (&json!("Own"), &json!(1))
    );
    assert_eq!(detail["data"]["recipients"][1]["status"], "rejected");
    let said =
        root.wait_for(&format!("{log}/transcripts"), |b| b["data"].as_array().is_some_and(|d| !d.is_empty())).await;
    let transcript = said["data"][0]["transcript"].as_str().unwrap();
    assert!(transcript.contains("550 5.1.1 no such user"), "{transcript}");
    assert!(!transcript.contains("hunter2") && !transcript.contains("AGFubgBodW50ZXIy"), "{transcript}");
    let (_, usage) = root.get("/providers/usage").await;
    let own = usage["data"]["providers"].as_array().unwrap().iter().find(|p| p["provider_id"] == made["id"]).unwrap();
    assert_eq!((&own["sent_today"], &own["total_7d"]), (&json!(1), &json!(1)));
    let (_, balance) = root.get("/billing/balance").await;
    let money = (&balance["data"]["balance_consumed"], &balance["data"]["balance_held"]);
    assert_eq!(money, (&json!("0.000150"), &json!("0.000000")), "one recipient was taken");
    let (_, metrics) = root.get("/emails/metrics").await;
    assert_eq!(metrics["data"]["summary"]["sent"], 1);
}
