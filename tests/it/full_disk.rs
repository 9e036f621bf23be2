//! A disk that is full, and one that fails: what cannot be kept is not taken, what was taken is there, and a failed flush
//! ends the program.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::harness::{Client, Installation, PATIENCE, Server, report};

/// A file system of its own, in memory.
struct SmallDisk {
    place: tempfile::TempDir,
}

impl SmallDisk {
    /// Mounts one of 16 MiB; `None` where that is not allowed.
    fn mount() -> Option<Self> {
        let place = tempfile::tempdir().expect("a temporary directory");
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", "size=16m", "tmpfs"]).arg(place.path());
        let done = mount.stdout(Stdio::null()).stderr(Stdio::null()).status();
        done.is_ok_and(|status| status.success()).then_some(Self { place })
    }

    fn ballast(&self) -> PathBuf {
        self.place.path().join("ballast")
    }

    /// Writes until nothing fits any more, then takes some of it away again.
    fn fill(&self, leave_bytes: u64) {
        use std::io::Write as _;
        let mut file = std::fs::File::create(self.ballast()).expect("a file");
        while file.write_all(&[7; 64 * 1024]).is_ok() {}
        let length = file.metadata().expect("its length").len();
        file.set_len(length.saturating_sub(leave_bytes)).expect("a shorter file");
    }

    fn free(&self) {
        std::fs::remove_file(self.ballast()).expect("the ballast");
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.place.path()).status();
    }
}

async fn receive(server: &Server, n: usize) -> Result<String, String> {
    let body = "a line of the body\r\n".repeat(1_500);
    let content =
        format!("From: <ann@example.com>\r\nSubject: mail {n}\r\nMessage-ID: <{n}@example.com>\r\n\r\n{body}");
    crate::smtp_client::send_raw(&server.smtp, "ann@example.com", &["agent@postlog.test"], &content).await
}

async fn send(client: &Client, key: usize) -> u16 {
    let mail = json!({
        "from": {"email": "agent@postlog.test"}, "to": {"email": "delivered@simulator.postlog.test"},
        "subject": format!("sent {key}"), "text_body": "x".repeat(20_000),
    });
    let request = client.request(reqwest::Method::POST, "/emails/send");
    let request = request.header("idempotency-key", format!("key-{key}")).json(&mail);
    request.send().await.expect("the program answers").status().as_u16()
}

#[tokio::test]
async fn a_full_disk_refuses_what_it_cannot_keep_and_takes_it_when_there_is_room_again() {
    let Some(disk) = SmallDisk::mount() else {
        return report(format_args!("SKIPPED: a full disk needs the right to mount one"));
    };
    let installation = Installation::at(&disk.place.path().join("data"))
        .with("SMTP__RATES__MAILS_PER_MINUTE_PER_MAILBOX_AND_PEER", "0")
        .with("SMTP__RATES__MAILS_PER_MINUTE_PER_MAILBOX", "0");
    let server = installation.start();
    let keys = server.keys.clone().unwrap();
    let client = server.client(&keys.mailbox);
    let (mut received, mut sent, mut refused) = (0, 0, 0);
    for round in 0..3 {
        disk.fill(512 * 1024 * (round + 1));
        let began = Instant::now();
        let answer = loop {
            match receive(&server, received).await {
                Ok(_) => received += 1,
                Err(answer) => break answer,
            }
            assert!(began.elapsed() < PATIENCE, "the disk is never full");
        };
        assert!(answer.starts_with("452"), "round {round}: {answer}");
        loop {
            match send(&client, sent).await {
                200 => sent += 1,
                503 => break,
                status => panic!("round {round}: {status}"),
            }
            assert!(began.elapsed() < PATIENCE, "the disk is never full");
        }
        refused += 1;
        // Reading goes on.
        assert_eq!(client.get("/mailbox/me").await.0, 200);
        disk.free();
        let mut pace = tokio::time::interval(Duration::from_millis(50));
        while receive(&server, received).await.is_err() {
            pace.tick().await;
            assert!(began.elapsed() < PATIENCE * 2, "there is room again and nothing is taken");
        }
        received += 1;
        while send(&client, sent).await != 200 {
            pace.tick().await;
            assert!(began.elapsed() < PATIENCE * 2, "there is room again and nothing is taken");
        }
        sent += 1;
    }
    server.kill();
    let server = installation.start();
    let root = server.client(&keys.root);
    let (mut mails, mut queued) = (0, 0);
    let mut path = "/events?limit=500".to_owned();
    loop {
        let (status, page) = root.get(&path).await;
        assert_eq!(status, 200, "{page}");
        let count = |kind: &str| page["data"].as_array().unwrap().iter().filter(|e| e["type"] == kind).count();
        (mails, queued) = (mails + count("message.received"), queued + count("message.queued"));
        if page["pagination"]["has_more"] != true {
            break;
        }
        path = format!("/events?limit=500&cursor={}", page["pagination"]["next_cursor"].as_str().unwrap());
    }
    assert_eq!((mails, queued), (received, sent), "what was taken is there once, and nothing else");
    assert!(installation.run(&["verify"]).contains("the chain holds"));
    report(format_args!(
        "the disk was full {refused} times: {received} mails received and {sent} sent were acknowledged: lost 0, doubled 0"
    ));
}

/// Starts the program so that no file may grow beyond a size: a write behind it fails as one to a broken disk does.
fn start_limited(installation: &Installation, kibibytes: u64) -> Server {
    // The shell ignores the signal, and so does what it becomes: the write fails instead.
    let limits = format!("trap '' XFSZ; ulimit -f {}; exec \"$0\" \"$@\"", kibibytes * 2);
    installation.start_through(&limits)
}

#[tokio::test]
async fn a_write_that_fails_ends_the_program_and_nothing_acknowledged_is_lost() {
    let installation = Installation::new()
        .with("SMTP__RATES__MAILS_PER_MINUTE_PER_MAILBOX_AND_PEER", "0")
        .with("SMTP__RATES__MAILS_PER_MINUTE_PER_MAILBOX", "0")
        // Nothing is set aside, so that the write-ahead file grows.
        .with("DATABASE__WRITE_AHEAD_RESERVE_MEBIBYTES", "0");
    let server = installation.start();
    let keys = server.keys.clone().unwrap();
    assert!(server.terminate());
    let largest = |directory: &Path| {
        let files = std::fs::read_dir(directory).unwrap().flatten();
        files.map(|file| file.metadata().unwrap().len()).max().unwrap_or(0)
    };
    let limit = largest(&installation.data()) / 1_024 + 256;
    let mut server = start_limited(&installation, limit);
    let began = Instant::now();
    let mut received = 0;
    while receive(&server, received).await.is_ok() {
        received += 1;
        assert!(began.elapsed() < PATIENCE, "no write ever fails");
    }
    let status = server.wait(PATIENCE).expect("the program ends");
    assert!(!status.success(), "and says that it could not go on: {status}");
    let server = installation.start();
    // What was not acknowledged is sent again.
    receive(&server, received).await.unwrap();
    let list = server.client(&keys.root);
    let (status, page) = list.get("/events?limit=500").await;
    assert_eq!(status, 200, "{page}");
    let mails = page["data"].as_array().unwrap().iter().filter(|e| e["type"] == "message.received").count();
    assert_eq!(mails, received + 1);
    assert!(installation.run(&["verify"]).contains("the chain holds"));
    report(format_args!("a write failed after {received} acknowledged mails: the program ended; lost 0, doubled 0"));
}
