//! Official client libraries and well-known mail clients as judges.

use std::os::unix::fs::MetadataExt as _;
use std::process::Command;

use crate::harness::{Installation, judges_node, judges_python};

fn run(script: &str) {
    run_by(Command::new(judges_python()), &Installation::new(), script);
}

fn run_by(mut program: Command, installation: &Installation, script: &str) {
    let server = installation.start();
    let keys = server.keys.clone().unwrap();
    let output = program
        .arg(format!("{}/tests/judges/{script}", env!("CARGO_MANIFEST_DIR")))
        .env("BASE_URL", format!("{}/api/v1", server.http))
        .env("SMTP", &server.smtp)
        .env("SUBMISSION", &server.submission)
        .env("ROOT_KEY", &keys.root)
        .env("MAILBOX_KEY", &keys.mailbox)
        .output()
        .unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && out.contains("all checks passed"), "{script}:\n{out}\n{err}");
}

#[test]
fn the_official_python_sdk_and_standardwebhooks_accept_us() {
    run("sdk.py");
}

#[test]
fn the_official_python_sdk_sends_through_a_server_of_the_teams_own() {
    let installation = Installation::new()
        .with("BOUNCES__DOMAIN", "bounce.postlog.test")
        .with("OUTBOUND__BOUNCE_DOMAIN_THROUGH_ACCOUNTS", "true");
    run_by(Command::new(judges_python()), &installation, "sending.py");
}

#[test]
fn pythons_smtplib_asks_to_be_told_and_its_parser_reads_the_reports() {
    run("dsn.py");
}

#[test]
fn httpx_sse_resumes_without_gap() {
    run("resume.py");
}

#[test]
fn nodes_event_source_resumes_by_itself_without_gap() {
    let mut node = Command::new(judges_node());
    node.args(["--experimental-eventsource", "--no-warnings"]);
    run_by(node, &Installation::new().with("STREAMS__RETRY_MILLISECONDS", "100"), "eventsource.mjs");
}

#[test]
fn schemathesis_finds_no_server_error() {
    run("fuzz.py");
}

#[test]
fn swaks_delivers_with_and_without_tls() {
    let installation = Installation::new();
    let server = installation.start();
    for extra in [vec![], vec!["--tls"]] {
        let output = Command::new("swaks")
            .args(["--server", &server.smtp, "--from", "ann@example.com", "--to", "agent@postlog.test"])
            .args(extra)
            .output()
            .expect("swaks is installed: run `tests/run` once, it installs it");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    }
}

/// Postfix, taken as it is, receives, relays and returns mail; it and our program are the script's own.
#[test]
fn postfix_takes_our_mail_returns_what_it_cannot_deliver_and_loses_nothing_on_its_way_to_us() {
    if std::fs::metadata("/proc/self").is_ok_and(|process| process.uid() != 0) {
        use std::io::Write as _;
        let _ = writeln!(std::io::stderr(), "passed over: Postfix runs as root only");
        return;
    }
    let script = format!("{}/tests/judges/postfix.py", env!("CARGO_MANIFEST_DIR"));
    let mut judge = Command::new(judges_python());
    let output = judge.arg(script).env("POSTLOG", env!("CARGO_BIN_EXE_postlog")).output().unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && out.contains("all checks passed"), "{out}\n{err}");
}
