//! A server of others as judge: aiosmtpd, Python's.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use dispatcher::outbound::Config;
use dispatcher::smtp::{Mailer, Peer, Protection};
use domain::outbound::Status;
use mail::address::{Address, ReversePath};
use mail::auth::Zone;
use mail::smtp::client::{Login, Mail};
use rustls::RootCertStore;
use serde_json::Value;
use tokio::sync::mpsc;

use crate::reactor::eventually;
use crate::world::World;

/// aiosmtpd on loopback; it tells of each mail in a line of JSON.
struct Judge {
    port: u16,
    said: mpsc::Receiver<String>,
    process: Child,
}

impl Drop for Judge {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Judge {
    async fn start(certificate: Option<(&Path, &Path)>) -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let python = root.join("target/judges/bin/python");
        assert!(python.exists(), "the judges are not installed: run `tests/run` once, it installs them");
        let mut command = Command::new(python);
        command.arg(root.join("tests/judges/smtp_server.py"));
        if let Some((certificate, key)) = certificate {
            command.arg(certificate).arg(key);
        }
        let mut process = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let (tell, said) = mpsc::channel(100);
        std::thread::spawn(move || lines.map_while(Result::ok).try_for_each(|line| tell.blocking_send(line)));
        let mut judge = Self { port: 0, said, process };
        judge.port = judge.line().await.parse().unwrap();
        judge
    }

    async fn line(&mut self) -> String {
        tokio::time::timeout(Duration::from_secs(20), self.said.recv()).await.unwrap().unwrap()
    }

    async fn mail(&mut self) -> Value {
        serde_json::from_str(&self.line().await).unwrap()
    }
}

const BODY: &str = "..\r\n.\r\n.one dot\r\nÄrger\r\n\r\n.";

#[tokio::test]
async fn aiosmtpd_gets_every_octet_with_and_without_dots() {
    let mut world = World::new().await;
    world.body = format!("{BODY}\r\n{}\r\n", "x".repeat(900).as_str()).repeat(50);
    let mut judge = Judge::start(None).await;
    world.account(judge.port).await;
    let reactor = world.start();
    for n in 0..3 {
        let mail = world.accept(&[&format!("bob{n}@example.net"), "eve@example.net"]).await;
        world.until_status(&mail, &[Status::Sent, Status::Sent]).await;
        let taken = judge.mail().await;
        assert_eq!(taken["to"], serde_json::json!([format!("bob{n}@example.net"), "eve@example.net"]));
        assert_eq!(taken["login"], "ann:secret");
        assert!(taken["from"].as_str().unwrap().starts_with("ann@d"));
        let content = taken["content"].as_str().unwrap();
        let (header, body) = content.split_once("\r\n\r\n").unwrap();
        assert!(header.contains(mail.as_str()) && body == world.body, "the body changed on its way");
    }
    eventually("no row is left", || async { world.queue.waiting(&world.team).await.unwrap() == 0 }).await;
    reactor.stop().await;
}

#[tokio::test]
async fn a_password_goes_to_a_server_with_a_valid_certificate_only() {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let files = tempfile::tempdir().unwrap();
    let (certificate, key) = (files.path().join("certificate.pem"), files.path().join("key.pem"));
    std::fs::write(&certificate, made.cert.pem()).unwrap();
    std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    let mut judge = Judge::start(Some((&certificate, &key))).await;
    let config = Config { dangerous_allow_loopback: true, ..Config::default() };
    let mut trusted = RootCertStore::empty();
    trusted.add(made.cert.der().clone()).unwrap();
    for (roots, expected) in [(RootCertStore::empty(), false), (trusted, true)] {
        let mailer = Mailer::with_roots(config.limits(), config.policy(), Arc::new(Zone::new()), roots);
        let peer = Peer {
            key: "judge".into(),
            host: "localhost".into(),
            port: judge.port,
            protection: Protection::Starttls,
            login: Some(Login { username: "ann".into(), password: "secret".into() }),
        };
        let from = ReversePath::parse("<ann@example.org>").unwrap();
        let to = vec![Address::parse("bob@example.net").unwrap()];
        let content: Arc<[u8]> = Arc::from(&b"Subject: x\r\n\r\nover TLS\r\n"[..]);
        let submitted = mailer.submit(&peer, Mail::new(from, to, content)).await.unwrap();
        assert_eq!(submitted.recipients[0].is_accepted(), expected, "{}", submitted.transcript);
        assert_eq!(submitted.transcript.contains("AUTH"), expected, "{}", submitted.transcript);
    }
    let taken = judge.mail().await;
    assert!(taken["content"].as_str().unwrap().contains("over TLS") && taken["login"] == "ann:secret");
}
