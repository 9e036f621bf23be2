//! Canaries: what is secret is in no answer but its first, in no log line, and in no file in clear; and whoever writes into the
//! log does not write its lines.

use std::collections::BTreeMap;
use std::path::Path;

use base64::Engine as _;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::harness::{Client, Installation, Server, answer};

const PASSWORD: &str = "canary-password-7d1f";
const SUBJECT: &str = "canary-subject-52aa";
const BODY: &str = "canary-body-e0c3";
const STRANGER: &str = "canary-stranger-91b7";
/// Begins a line of its own wherever a line can be broken.
const FORGED: &str = "2026-11-21T10:00:00.000000Z ERROR forged-canary";

/// Every secret that was handed out, by what it is.
async fn secrets(server: &Server) -> BTreeMap<&'static str, String> {
    let keys = server.keys.clone().unwrap();
    let root = server.client(&keys.root);
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let sending = json!({"name": "x", "kind": "sending", "permissions": ["email.send"]});
    let (status, sending) = root.post("/keys", sending).await;
    assert_eq!(status, 201, "{sending}");
    let hook = json!({"url": "http://127.0.0.1:9/x", "event_types": ["message.received"]});
    let (status, hook) = root.post("/webhooks", hook).await;
    assert_eq!(status, 201, "{hook}");
    let account = json!({"name": "x", "smtp_host": "127.0.0.1", "smtp_port": 2599, "smtp_protocol": "none",
                         "smtp_username": "ann", "smtp_password": PASSWORD});
    let (status, account) = root.post("/providers", account).await;
    assert_eq!(status, 201, "{account}");
    let (status, made) = root.post("/mailboxes", json!({"email": "second@postlog.test"})).await;
    assert_eq!(status, 201, "{made}");
    BTreeMap::from([
        ("the infrastructure key", keys.root),
        ("the mailbox key", keys.mailbox),
        ("the sending key", text(&sending["data"]["secret"])),
        ("the second mailbox's key", text(&made["data"]["credential"]["secret"])),
        ("the webhook's secret", text(&hook["data"]["secret"])),
        ("the account's password", PASSWORD.to_owned()),
    ])
}

/// Returns the spellings under which a secret could be found: itself, and digests and encodings that need no key to make.
fn spellings(secret: &str) -> Vec<Vec<u8>> {
    let random = secret.rsplit('_').next().unwrap_or(secret);
    let mut found = vec![];
    for text in [secret, random] {
        let digest = Sha256::digest(text.as_bytes());
        let engine = base64::engine::general_purpose::STANDARD;
        found.extend([
            text.as_bytes().to_vec(),
            hex::encode(text).into_bytes(),
            engine.encode(text).into_bytes(),
            digest.to_vec(),
            hex::encode(digest).into_bytes(),
            engine.encode(digest).into_bytes(),
        ]);
    }
    found
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    haystack.windows(needle.len()).any(|window| window == needle)
}

fn files(directory: &Path) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

/// Asks for everything that can be read, and for much that cannot; returns all that was answered.
async fn everything_said(server: &Server, root: &Client, mailbox: &Client) -> Vec<String> {
    let (_, document) = root.get("/openapi.json").await;
    let mut said = vec![];
    for (method, template, operation) in crate::every_route_is_guarded::operations(&document) {
        let template = template.trim_start_matches("/api/v1").to_owned();
        if template.ends_with("/events") && template.starts_with("/mailbox") || template.ends_with("/stream") {
            continue;
        }
        let of_mailbox = matches!(operation["x-postlog-surface"].as_str(), Some("mailbox" | "sending"));
        let client = if of_mailbox { mailbox } else { root };
        let path = crate::every_route_is_guarded::concrete(&template, |_| "mbx_zzzzzzzzzzzzzzzzzzzzzzzz".to_owned());
        // Nothing is taken away, and nothing is made.
        let request = match method.as_str() {
            "GET" => client.request(method, &path),
            _ => client.request(method, &path).json(&json!({"zz": format!("x\n{FORGED}")})),
        };
        let (_, body) = answer(request.header("idempotency-key", "x")).await;
        said.push(body.to_string());
    }
    for header in ["authorization", "last-event-id", "idempotency-key", "if-none-match", "x-forwarded-for"] {
        let request = crate::harness::http_client().get(format!("{}/api/v1/me", server.http));
        let (_, body) = answer(request.header(header, format!("Bearer {STRANGER} {FORGED}"))).await;
        said.push(body.to_string());
    }
    said
}

/// Talks to the SMTP doors in ways that make them say something.
async fn provoke(server: &Server) {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    for door in [&server.smtp, &server.submission] {
        for line in [
            format!(
                "EHLO x\r\nAUTH PLAIN {}\r\n",
                base64::engine::general_purpose::STANDARD.encode(format!("\0a\0{PASSWORD}"))
            ),
            format!("EHLO x\x0b{FORGED}\r\nMAIL FROM:<{STRANGER}@example.net>\r\nRCPT TO:<nobody@postlog.test>\r\n"),
            format!("EHLO x\n{FORGED}\r\nMAIL FROM:<a\n{FORGED}@b>\r\n"),
        ] {
            let mut socket = tokio::net::TcpStream::connect(door).await.unwrap();
            let mut seen = [0; 4096];
            let _ = socket.read(&mut seen).await;
            let _ = socket.write_all(line.as_bytes()).await;
            let _ = socket.write_all(b"QUIT\r\n").await;
            let _ = socket.shutdown().await;
            let mut rest = vec![];
            let _ = tokio::time::timeout(crate::harness::PATIENCE, socket.read_to_end(&mut rest)).await;
        }
    }
}

#[tokio::test]
async fn no_secret_is_in_an_answer_a_log_line_or_a_file() {
    for format in ["text", "json"] {
        let installation = Installation::new().with("LOG__LEVEL", "trace,sqlx=debug").with("LOG__FORMAT", format);
        let log = installation.data().with_extension("log");
        let server = installation.start_logging_to(&log);
        let secrets = secrets(&server).await;
        let (root, mailbox) =
            (server.client(&secrets["the infrastructure key"]), server.client(&secrets["the mailbox key"]));
        server.mail(&format!("{STRANGER}@example.com"), "agent@postlog.test", SUBJECT, BODY).await;
        mailbox.wait_for("/mailbox/messages", |b| b["data"].as_array().is_some_and(|d| !d.is_empty())).await;
        provoke(&server).await;
        let said = everything_said(&server, &root, &mailbox).await;
        for (what, secret) in &secrets {
            for body in &said {
                assert!(!body.contains(secret.as_str()), "{what} is in an answer: {body}");
            }
        }
        for body in &said {
            let inside = ["panicked at", "/src/", ".rs:", "SELECT ", "INSERT INTO", "sqlx", "no such table"];
            assert!(inside.iter().all(|word| !body.contains(word)), "the inside shows: {body}");
        }
        assert!(server.terminate());
        let lines = std::fs::read_to_string(&log).unwrap();
        assert!(lines.lines().count() >= 10, "the log says hardly anything: {lines}");
        for canary in secrets.values().map(String::as_str).chain([PASSWORD, SUBJECT, BODY, STRANGER]) {
            let line = lines.lines().find(|line| line.contains(canary));
            assert_eq!(line, None, "{format}: {canary} is in the log");
        }
        for line in lines.lines() {
            assert!(!line.starts_with(FORGED), "a line was forged: {line}");
            assert!(format == "text" || serde_json::from_str::<Value>(line).is_ok(), "no JSON: {line}");
        }
        in_no_file(&installation, &secrets);
    }
}

/// The keys of the installation lie in its data directory; nothing that they protect does, in any spelling.
fn in_no_file(installation: &Installation, secrets: &BTreeMap<&'static str, String>) {
    for file in files(&installation.data()) {
        let content = std::fs::read(&file).unwrap();
        for (what, secret) in secrets {
            for spelling in spellings(secret) {
                assert!(!contains(&content, &spelling), "{what} is in {}", file.display());
            }
        }
    }
}
