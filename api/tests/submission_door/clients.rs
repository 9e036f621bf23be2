//! Mail programs that others wrote, with a key as their password.

use std::process::Stdio;

use domain::api_key::Kind;
use lettre::transport::smtp::AsyncSmtpTransport;
use lettre::transport::smtp::authentication::{Credentials, Mechanism};
use lettre::{AsyncTransport, Message, Tokio1Executor};
use tokio::process::Command;

use super::harness::Office;
use crate::harness::{PATIENCE, Store};

#[expect(clippy::print_stderr, reason = "a test that cannot run says so by name")]
async fn run(test: &str, program: &str, arguments: &[&str]) -> Option<bool> {
    let child = Command::new(program).args(arguments).stdout(Stdio::null()).stderr(Stdio::null()).status();
    match tokio::time::timeout(PATIENCE, child).await.expect("the program hangs") {
        Ok(status) => Some(status.success()),
        Err(_) => {
            eprintln!("skipped {test}: {program} is not installed");
            None
        }
    }
}

#[tokio::test]
async fn python_submits_with_starttls_and_sees_refusals() {
    let office = Office::open(Store::Sqlite).await;
    let team = office.team("a.test").await;
    let (_, secret) = office.key(&team, Kind::Sending).await;
    let script = "import smtplib, ssl, sys\n\
        from email.message import EmailMessage\n\
        context = ssl._create_unverified_context()\n\
        s = smtplib.SMTP('127.0.0.1', int(sys.argv[1]))\n\
        s.starttls(context=context)\n\
        s.login('api', sys.argv[2])\n\
        m = EmailMessage()\n\
        m['From'], m['To'], m['Subject'] = 'Jörg <ann@a.test>', 'bob@example.net', 'Grüße'\n\
        m['Bcc'] = 'dora@example.net'\n\
        m.set_content('Hello.\\n.dot\\n')\n\
        assert s.send_message(m) == {}\n\
        m.replace_header('From', 'ann@elsewhere.test')\n\
        try:\n\
        \x20   s.send_message(m, from_addr='ann@a.test')\n\
        \x20   sys.exit(1)\n\
        except smtplib.SMTPDataError as e:\n\
        \x20   assert e.smtp_code == 550, e\n\
        s.quit()\n\
        t = smtplib.SMTP_SSL('127.0.0.1', int(sys.argv[3]), context=context)\n\
        try:\n\
        \x20   t.login('api', 'wrong')\n\
        \x20   sys.exit(1)\n\
        except smtplib.SMTPAuthenticationError as e:\n\
        \x20   assert e.smtp_code == 535, e\n";
    let (port, tls_port) = (office.address.port().to_string(), office.tls_address.port().to_string());
    let name = "python_submits_with_starttls_and_sees_refusals";
    let Some(done) = run(name, "python3", &["-c", script, &port, &secret, &tls_port]).await else { return };
    assert!(done);
    let names = office.names(&team, 0).await;
    assert_eq!(names.iter().filter(|name| *name == "outbound.accepted").count(), 1);
}

#[tokio::test]
async fn swaks_submits_and_pipelines() {
    let office = Office::open(Store::Memory).await;
    let team = office.team("a.test").await;
    let (_, _, secret) = office.mailbox(&team, "box@a.test").await;
    let server = office.address.to_string();
    let arguments = |auth: &'static str, from: &'static str| {
        let fixed = ["--server", &server, "--to", "bob@example.net", "--pipeline", "-tls", "--auth-user", "box@a.test"];
        let all = fixed.into_iter().chain(["--auth-password", &secret, "--auth", auth, "--from", from]);
        all.map(str::to_owned).collect::<Vec<_>>()
    };
    for (auth, from, expected) in
        [("PLAIN", "box@a.test", true), ("LOGIN", "box@a.test", true), ("PLAIN", "other@a.test", false)]
    {
        let arguments = arguments(auth, from);
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let Some(done) = run("swaks_submits_and_pipelines", "swaks", &arguments).await else { return };
        assert_eq!(done, expected, "{auth} {from}");
    }
    let names = office.names(&team, 0).await;
    assert_eq!(names.iter().filter(|name| *name == "message.filed").count(), 2);
}

#[tokio::test]
async fn lettre_submits() {
    let office = Office::open(Store::Memory).await;
    let team = office.team("a.test").await;
    let (_, secret) = office.key(&team, Kind::Sending).await;
    let transport = AsyncSmtpTransport::<Tokio1Executor>::builder_dangerous(office.address.ip().to_string())
        .port(office.address.port())
        .credentials(Credentials::new("api".to_owned(), secret))
        .authentication(vec![Mechanism::Plain])
        .build();
    let message = Message::builder()
        .from("Jörg <jorg@a.test>".parse().unwrap())
        .to("bob@example.net".parse().unwrap())
        .subject("Grüße")
        .body("Hello.\n.\n..dots\n".to_owned())
        .unwrap();
    let response = transport.send(message).await.unwrap();
    let reply: Vec<&str> = response.message().collect();
    let id = super::harness::id_in(&reply.join(" "));
    let text = office.text(&team, &id).await;
    assert!(text.contains("\r\n\r\nHello.\r\n.\r\n..dots\r\n"), "{text}");
    assert_eq!(office.state(&team, &id).await.letter.as_ref().unwrap().subject.as_deref(), Some("Grüße"));
}
