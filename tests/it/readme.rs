//! The README's first minute, run as it is written: only addresses, keys and the program's path are filled in.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, Command, Stdio};

use serde_json::Value;

use crate::harness::{Installation, PATIENCE, Server, judges_python};

const README: &str = include_str!("../../README.md");

/// Returns the first block of a language behind a heading or text.
fn block(after: &str, language: &str) -> &'static str {
    let (_, rest) = README.split_once(after).expect("the README has this part");
    let (_, block) = rest.split_once(&format!("```{language}\n")).expect("a block");
    block.split_once("```").expect("its end").0
}

/// Returns the commands behind a heading, each with what belongs to it.
fn commands(heading: &str) -> Vec<&'static str> {
    block(heading, "sh").split("\n\n").map(str::trim).collect()
}

struct Shell<'a> {
    server: &'a Server,
    installation: &'a Installation,
    receiver: String,
}

impl Shell<'_> {
    fn command(&self, text: &str) -> Command {
        let keys = self.server.keys.as_ref().unwrap();
        let data = self.installation.data();
        let program = format!("{} --data-dir {}", env!("CARGO_BIN_EXE_postlog"), data.display());
        let filled = text
            .replace("http://127.0.0.1:8080", &self.server.http)
            .replace("127.0.0.1:2525", &self.server.smtp)
            .replace("127.0.0.1:2587", &self.server.submission)
            .replace("127.0.0.1:9000", &self.receiver)
            .replace("cargo run --release --", &program);
        assert!(!filled.contains("8080") || self.server.http.contains("8080"), "{filled}");
        let mut command = Command::new("sh");
        command.args(["-ec", &filled]).env("ROOT", &keys.root).env("KEY", &keys.mailbox).stdin(Stdio::null());
        command
    }

    fn run(&self, text: &str) -> String {
        let output = self.command(text).stderr(Stdio::piped()).output().unwrap();
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{text}\n{out}\n{err}");
        out.into_owned()
    }

    /// Starts a command that goes on; `exec` makes it the process that is killed in the end.
    fn watch(&self, text: &str) -> Watch {
        let text = text.replace("curl -N", "exec curl -sN --max-time 30");
        let mut child = self.command(&text).stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Watch { child, lines: Box::new(lines.map_while(Result::ok)) }
    }
}

struct Watch {
    child: Child,
    lines: Box<dyn Iterator<Item = String>>,
}

impl Watch {
    /// Waits for the next event's id.
    fn id(&mut self) -> String {
        self.lines.find_map(|line| line.strip_prefix("id: ").map(str::to_owned)).expect("an event with an id")
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The README's verification inside the smallest receiver there is.
fn receiver() -> String {
    format!(
        "import sys, http.server\n{}\n\
         class Receiver(http.server.BaseHTTPRequestHandler):\n\
         \x20   def do_POST(self):\n\
         \x20       body = self.rfile.read(int(self.headers['Content-Length']))\n\
         \x20       self.send_response(200)\n\
         \x20       self.end_headers()\n\
         \x20       print(genuine(secret, body, self.headers), genuine(secret, body + b' ', self.headers), flush=True)\n\
         server = http.server.HTTPServer(('127.0.0.1', 0), Receiver)\n\
         print(server.server_port, flush=True)\n\
         secret = sys.stdin.readline().strip()\n\
         server.handle_request()\n",
        block("A receiver verifies a delivery", "python")
    )
}

#[test]
fn the_first_minute_works_as_it_is_written() {
    let installation = Installation::new();
    let server = installation.start();
    let mut python = Command::new(judges_python());
    let mut python =
        python.args(["-c", &receiver()]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("Python starts");
    let mut said = BufReader::new(python.stdout.take().unwrap()).lines();
    let port = said.next().unwrap().unwrap();
    let shell = Shell { server: &server, installation: &installation, receiver: format!("127.0.0.1:{port}") };
    let steps = commands("## The first minute");
    let [watch, mail, resume, webhook, read, verify] = steps[..] else { panic!("six steps: {steps:#?}") };

    let mut stream = shell.watch(watch);
    // Its first line says that it is open.
    assert!(stream.lines.next().is_some());
    shell.run(mail);
    let first = stream.id();
    drop(stream);
    shell.run(mail);
    shell.run(mail);
    assert!(resume.contains("evt_…"));
    let mut stream = shell.watch(&resume.replace("evt_…", &first));
    let (second, third) = (stream.id(), stream.id());
    assert!(first < second && second < third, "{first} {second} {third}");
    drop(stream);

    let made: Value = serde_json::from_str(&shell.run(webhook)).unwrap();
    let secret = made["data"]["secret"].as_str().unwrap();
    writeln!(python.stdin.take().unwrap(), "{secret}").unwrap();
    shell.run(mail);
    assert_eq!(said.next().unwrap().unwrap(), "True False");
    assert!(python.wait().unwrap().success());

    let shown = shell.run(read);
    assert!(shown.contains("inbound_messages") && shown.contains("webhook.created"), "{shown}");
    assert!(shell.run(verify).contains("the chain holds"));
}

#[test]
fn mail_is_sent_as_it_is_written() {
    let installation = Installation::new();
    let server = installation.start();
    let shell = Shell { server: &server, installation: &installation, receiver: String::new() };
    let steps = commands("## Sending");
    let [send, submit, look, account] = steps[..] else { panic!("four steps: {steps:#?}") };
    let sent: Value = serde_json::from_str(&shell.run(send)).unwrap();
    assert_eq!(sent["data"]["status"], "queued", "{sent}");
    shell.run(submit);
    let deadline = std::time::Instant::now() + PATIENCE;
    loop {
        let shown = shell.run(look);
        let told = ["\"failed\"", "\"sent\"", "hard_bounce", "\"balance_consumed\":\"0.000150\""];
        if told.iter().all(|what| shown.contains(what)) {
            break;
        }
        assert!(std::time::Instant::now() < deadline, "{shown}");
    }
    let made: Value = serde_json::from_str(&shell.run(account)).unwrap();
    assert_eq!(made["data"]["status"], "active", "{made}");
}
