//! Mail programs that others wrote.

use std::process::Stdio;

use lettre::transport::smtp::AsyncSmtpTransport;
use lettre::{AsyncTransport, Message, Tokio1Executor};
use tokio::process::Command;

use crate::harness::{Door, PATIENCE, Store};

/// Runs a program against the door; `None` where it is not installed.
async fn run(program: &str, arguments: &[&str]) -> Option<bool> {
    let child = Command::new(program).args(arguments).stdout(Stdio::null()).stderr(Stdio::null()).status();
    match tokio::time::timeout(PATIENCE, child).await.expect("the program hangs") {
        Ok(status) => Some(status.success()),
        Err(_) => None,
    }
}

#[expect(clippy::print_stderr, reason = "a test that cannot run says so by name")]
fn skipped(test: &str, program: &str) {
    eprintln!("skipped {test}: {program} is not installed");
}

#[tokio::test]
async fn lettre_delivers() {
    let door = Door::open(Store::Sqlite).await;
    let team = door.team("team.test").await;
    door.mailbox(&team, "box@team.test").await;
    let transport = AsyncSmtpTransport::<Tokio1Executor>::builder_dangerous(door.address.ip().to_string())
        .port(door.address.port())
        .build();
    let message = Message::builder()
        .from("Jörg <jorg@sender.test>".parse().unwrap())
        .to("box@team.test".parse().unwrap())
        .subject("Grüße")
        .body("Hello.\n.\n..dots\n".to_owned())
        .unwrap();
    transport.send(message).await.unwrap();
    let mails = door.mails(&team).await;
    assert_eq!(mails[0].1.subject.as_deref(), Some("Grüße"));
    let raw = door.raw(&team, &mails[0].0.blob).await;
    let text = String::from_utf8(raw.to_vec()).unwrap();
    assert!(text.contains("\r\n\r\nHello.\r\n.\r\n..dots\r\n"), "{text}");
}

#[tokio::test]
async fn python_delivers() {
    let door = Door::open(Store::Memory).await;
    let team = door.team("team.test").await;
    door.mailbox(&team, "box@team.test").await;
    let script = "import smtplib, sys\n\
        s = smtplib.SMTP('127.0.0.1', int(sys.argv[1]))\n\
        s.sendmail('a@sender.test', ['box@team.test'], b'Subject: from python\\r\\n\\r\\n.dot\\r\\n')\n\
        s.quit()\n";
    let port = door.address.port().to_string();
    let Some(done) = run("python3", &["-c", script, &port]).await else {
        return skipped("python_delivers", "python3");
    };
    assert!(done);
    assert_eq!(door.mails(&team).await[0].1.subject.as_deref(), Some("from python"));
}

#[tokio::test]
async fn swaks_delivers_and_pipelines() {
    let door = Door::open(Store::Memory).await;
    let team = door.team("team.test").await;
    door.mailbox(&team, "box@team.test").await;
    let server = door.address.to_string();
    let arguments =
        ["--server", &server, "--from", "a@sender.test", "--to", "box@team.test", "--pipeline", "--h-Subject", "swaks"];
    let Some(done) = run("swaks", &arguments).await else {
        return skipped("swaks_delivers_and_pipelines", "swaks");
    };
    assert!(done);
    assert_eq!(door.mails(&team).await[0].1.subject.as_deref(), Some("swaks"));
    assert_eq!(run("swaks", &["--server", &server, "--from", "a@b.test", "--to", "x@relay.test"]).await, Some(false));
}
