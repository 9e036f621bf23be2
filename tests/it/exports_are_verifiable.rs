//! A log that was exported can be verified anywhere, and a log that was signed cannot be changed unnoticed.

use std::path::Path;
use std::process::{Command, Output};
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::post;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use eventlog::checkpoint::VerifyingKey;
use eventlog::merkle::{self, Hash};
use eventlog::sqlite::SqliteBackend;
use eventlog::{Allot, BlobStore, EventLog, MasterKey, Options, Submission};
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::harness::{Client, Installation, PATIENCE, Server, judges_python};

async fn team_of(root: &Client) -> String {
    root.get("/me").await.1["data"]["team"]["id"].as_str().unwrap().to_owned()
}

/// Appends events, several at the same time.
async fn append(root: &Client, key_tag: &str, events: usize) {
    for part in 0..events.div_ceil(20) {
        let count = (events - part * 20).min(20);
        let made = (0..count).map(|n| {
            let (root, email) = (root.clone(), format!("{key_tag}{part}x{n}@example.com"));
            async move { root.post("/suppressions", json!({"email": email})).await }
        });
        for (status, body) in joined(made).await {
            assert_eq!(status, 201, "{body}");
        }
    }
}

async fn joined<F: Future<Output: Send + 'static> + Send + 'static>(all: impl Iterator<Item = F>) -> Vec<F::Output> {
    let mut set = tokio::task::JoinSet::new();
    all.for_each(|future| drop(set.spawn(future)));
    set.join_all().await
}

fn judge(script: &str, arguments: &[&str], environment: &[(&str, &str)]) -> Output {
    Command::new(judges_python())
        .arg(format!("{}/tests/judges/{script}", env!("CARGO_MANIFEST_DIR")))
        .args(arguments)
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .envs(environment.iter().copied())
        .output()
        .unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&[output.stdout.clone(), output.stderr.clone()].concat()).into_owned()
}

/// Asks the program and the independent verifier; they must agree.
fn both(installation: &Installation, export: &Path, key: &str, kept: &[&Path]) -> (bool, String) {
    let export = export.to_str().unwrap();
    let mut arguments = vec!["verify", "--export", export, "--key", key];
    kept.iter().for_each(|path| arguments.extend(["--checkpoint", path.to_str().unwrap()]));
    let ours = installation.command(&arguments).output().unwrap();
    let arguments: Vec<_> = [export, key].into_iter().chain(kept.iter().map(|path| path.to_str().unwrap())).collect();
    let theirs = judge("verify_export.py", &arguments, &[]);
    let words = format!("ours: {}\ntheirs: {}", said(&ours), said(&theirs));
    assert_eq!(ours.status.success(), theirs.status.success(), "they disagree; {words}");
    (ours.status.success(), words)
}

/// Appends many events at once to an installation that nobody serves.
async fn append_unserved(installation: &Installation, team: &str, mailbox: &str, events: usize) {
    let backend = SqliteBackend::open(&installation.data().join("log.db")).await.unwrap();
    // Nothing is sealed.
    let options = Options::new(MasterKey::new(&[0; 32]), BlobStore::memory(), Allot::system().entropy());
    let log = EventLog::open(Arc::new(backend), options).await.unwrap();
    let team: domain::id::TeamId = team.parse().unwrap();
    let names = (0..events).map(|n| {
        let (log, team, mailbox) = (log.clone(), team.clone(), mailbox.parse().unwrap());
        async move {
            let rename = domain::mailbox::ChangeMailbox {
                mailbox,
                display_name: Some(Some(format!("Ann {n} of {events}"))),
                quota_bytes: None,
                send_scope: None,
                if_version: None,
            };
            let now = Allot::system().now();
            log.transact(Submission::new(team, now, domain::Actor::Operator, "req_1", rename)).await.unwrap();
        }
    });
    joined(names).await;
    log.close().await;
}

#[tokio::test]
async fn an_independent_verifier_agrees_with_ours_about_every_change() {
    let installation = Installation::new();
    let server = installation.start();
    let keys = server.keys.clone().unwrap();
    let root = server.client(&keys.root);
    let team = team_of(&root).await;
    let (_, mailboxes) = root.get("/mailboxes").await;
    let mailbox = mailboxes["data"][0]["id"].as_str().unwrap().to_owned();
    server.mail("ann@example.com", "agent@postlog.test", "one", &"A line of some length.\r\n".repeat(60_000)).await;
    append(&root, "a", 20).await;
    // Beside the running server.
    let key = installation.run(&["checkpoint", "key"]).trim().to_owned();
    let kept = installation.data().join("kept.txt");
    std::fs::write(&kept, installation.run(&["checkpoint", "sign", "--team", &team])).unwrap();
    let early = installation.data().join("early");
    installation.run(&["export", &team, early.to_str().unwrap()]);
    assert!(both(&installation, &early, &key, &[&kept]).0);
    stop(server);

    append_unserved(&installation, &team, &mailbox, 1_000).await;
    let export = installation.data().join("export");
    let said = installation.run(&["export", &team, export.to_str().unwrap(), "--bodies", "--segment-mebibytes", "1"]);
    assert!(said.contains("sealed segment(s)") && said.contains(&key), "{said}");
    let (holds, words) = both(&installation, &export, &key, &[&kept]);
    assert!(holds && words.contains("bodies    1"), "{words}");
    let bare = installation.data().join("bare");
    installation.run(&["export", &team, bare.to_str().unwrap(), "--without-personal"]);
    assert!(both(&installation, &bare, &key, &[&kept]).0);
    let everything: Vec<u8> =
        std::fs::read_dir(&bare).unwrap().flat_map(|file| std::fs::read(file.unwrap().path()).unwrap()).collect();
    assert!(!String::from_utf8_lossy(&everything).contains("example.com"));

    let changes = std::env::var("POSTLOG_TEST_JUDGED_TAMPERS").unwrap_or_else(|_| "200".to_owned());
    let environment =
        [("EXPORT", export.to_str().unwrap()), ("KEY", &key), ("CHANGES", &changes), ("EVENTS_MIN", "1000")];
    let output = judge("tamper.py", &[], &environment);
    assert!(output.status.success() && self::said(&output).contains("all checks passed"), "{}", self::said(&output));

    // A few by both, on disk.
    let segment = export.join("00000001.segment");
    let whole = std::fs::read(&segment).unwrap();
    for at in (0..whole.len()).step_by(whole.len() / 6 + 1) {
        let mut changed = whole.clone();
        changed[at] ^= 1;
        std::fs::write(&segment, changed).unwrap();
        let (holds, words) = both(&installation, &export, &key, &[]);
        assert!(!holds, "octet {at}: {words}");
    }
    std::fs::write(&segment, &whole).unwrap();
    assert!(both(&installation, &export, &key, &[]).0);
    let other = Installation::new().run_after_start(&["checkpoint", "key"]);
    assert!(!both(&installation, &export, other.trim(), &[]).0);
    // A checkpoint of a longer log: what is exported was cut off.
    append_unserved(&installation, &team, &mailbox, 3).await;
    std::fs::write(&kept, installation.run(&["checkpoint", "sign", "--team", &team])).unwrap();
    let (holds, words) = both(&installation, &export, &key, &[&kept]);
    assert!(!holds && words.contains("cut off"), "{words}");
}

fn hash(value: &Value) -> Hash {
    BASE64_STANDARD.decode(value.as_str().unwrap()).unwrap().try_into().unwrap()
}

fn hashes(value: &Value) -> Vec<Hash> {
    value.as_array().unwrap().iter().map(hash).collect()
}

#[tokio::test]
async fn checkpoints_come_by_themselves_and_prove_every_event() {
    let installation = Installation::new()
        .with("CHECKPOINTS__EVERY_SECONDS", "1")
        .with("CHECKPOINTS__POLL_MILLISECONDS", "20")
        .with("CHECKPOINTS__LEASE_SECONDS", "1");
    let server = installation.start();
    let root = server.client(&server.keys.clone().unwrap().root);
    let team = team_of(&root).await;
    append(&root, "a", 5).await;
    let (_, key) = root.get("/audit/checkpoint-key").await;
    let verifier: VerifyingKey = key["data"]["verifier_key"].as_str().unwrap().parse().unwrap();
    assert_eq!(installation.run(&["checkpoint", "key"]).trim(), verifier.to_string());
    let (_, events) = root.get("/audit/events?limit=1").await;
    let (id, sequence) = (&events["data"][0]["id"], events["data"][0]["sequence"].as_u64().unwrap());
    let latest = root.wait_for("/audit/checkpoint", |b| b["data"]["size"].as_u64() >= Some(sequence)).await;
    let size = latest["data"]["size"].as_u64().unwrap();
    let signed = verifier.checkpoint(latest["data"]["note"].as_str().unwrap()).unwrap();
    assert_eq!((signed.size, signed.origin.as_str()), (size, key["data"]["origin"].as_str().unwrap()));
    assert!(signed.origin.ends_with(&team));
    assert_eq!(root.get(&format!("/audit/checkpoints/{size}")).await.1["data"], latest["data"]);

    let (status, proof) = root.get(&format!("/audit/proofs/inclusion?event_id={}", id.as_str().unwrap())).await;
    assert_eq!(status, 200, "{proof}");
    let proof = &proof["data"];
    let (over, leaf) = (proof["size"].as_u64().unwrap(), hash(&proof["leaf_hash"]));
    let root_hash = verifier.checkpoint(proof["checkpoint"]["note"].as_str().unwrap()).unwrap().root;
    assert!(merkle::verify_inclusion(sequence - 1, over, &leaf, &hashes(&proof["proof"]), &root_hash));
    append(&root, "b", 5).await;
    let grown = root.wait_for("/audit/checkpoint", |b| b["data"]["size"].as_u64() > Some(size)).await;
    let grown = verifier.checkpoint(grown["data"]["note"].as_str().unwrap()).unwrap();
    let (_, proof) = root.get(&format!("/audit/proofs/consistency?from={size}&to={}", grown.size)).await;
    let proof = hashes(&proof["data"]["proof"]);
    assert!(merkle::verify_consistency(size, grown.size, &signed.root, &grown.root, &proof));

    for (path, status) in [
        ("/audit/proofs/inclusion", 400),
        ("/audit/proofs/inclusion?sequence=1&event_id=x", 400),
        ("/audit/proofs/inclusion?event_id=evt_000000000000000000000000", 404),
        ("/audit/proofs/inclusion?sequence=4000000000", 404),
        ("/audit/proofs/inclusion?sequence=1&size=4000000000", 404),
        ("/audit/proofs/consistency?from=2&to=1", 400),
        ("/audit/proofs/consistency?from=1&to=4000000000", 404),
        ("/audit/checkpoints/0", 404),
        ("/audit/checkpoints/-1", 404),
        ("/audit/checkpoints/9223372036854775807", 404),
    ] {
        let (found, body) = root.get(path).await;
        assert_eq!(found, status, "{path}: {body}");
    }
    let shown: Value =
        serde_json::from_str(&installation.run(&["prove", "inclusion", "--team", &team, "--position", "3"])).unwrap();
    assert_eq!(shown["position"], 3);
    installation.run(&["prove", "consistency", "--team", &team, "--from", "2"]);
    assert!(installation.run(&["verify"]).contains("checkpoints"));
}

/// What is written down elsewhere binds whoever has the machine.
#[tokio::test]
async fn checkpoints_are_posted_until_they_are_taken() {
    let (notes, mut received) = mpsc::channel::<String>(64);
    let refusals = Arc::new(AtomicUsize::new(2));
    let take = move |State(refusals): State<Arc<AtomicUsize>>, body: String| {
        let notes = notes.clone();
        async move {
            if refusals.fetch_update(SeqCst, SeqCst, |n| n.checked_sub(1)).is_ok() {
                return StatusCode::SERVICE_UNAVAILABLE;
            }
            let _ = notes.send(body).await;
            StatusCode::NO_CONTENT
        }
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/checkpoints", listener.local_addr().unwrap());
    let router = axum::Router::new().route("/checkpoints", post(take)).with_state(refusals);
    let mut place = tokio::task::JoinSet::new();
    place.spawn(async move { axum::serve(listener, router).await.unwrap() });

    let installation = Installation::new();
    let directory = installation.data().with_file_name("kept");
    let installation = installation
        .with("CHECKPOINTS__POST_TO", &url)
        .with("CHECKPOINTS__DIRECTORY", directory.to_str().unwrap())
        .with("CHECKPOINTS__EVERY_SECONDS", "1")
        .with("CHECKPOINTS__POLL_MILLISECONDS", "20")
        .with("CHECKPOINTS__LEASE_SECONDS", "1");
    let server = installation.start();
    let root = server.client(&server.keys.clone().unwrap().root);
    let team = team_of(&root).await;
    let note = tokio::time::timeout(PATIENCE + Duration::from_secs(10), received.recv()).await.unwrap().unwrap();
    let key: VerifyingKey = installation.run(&["checkpoint", "key"]).trim().parse().unwrap();
    let signed = key.checkpoint(&note).unwrap();
    let file = directory.join(&team).join(format!("{:020}.checkpoint", signed.size));
    assert_eq!(std::fs::read_to_string(file).unwrap(), note);
    stop(server);
    // The log is cut off, head and all: the checkpoint that was signed behind it tells.
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(installation.data().join("log.db"));
    let mut log = <sqlx::SqliteConnection as sqlx::Connection>::connect_with(&options).await.unwrap();
    let cut = "DELETE FROM events WHERE position >= (SELECT MAX(size) FROM checkpoints);
               UPDATE heads SET position = (SELECT MAX(position) FROM events),
                                hash = (SELECT hash FROM events ORDER BY position DESC LIMIT 1);";
    sqlx::query(cut).execute(&mut log).await.unwrap();
    sqlx::Connection::close(log).await.unwrap();
    for arguments in [&["verify"][..], &["checkpoint", "sign", "--team", &team], &["export", &team, "/nonexistent"]] {
        let output = installation.command(arguments).output().unwrap();
        assert!(!output.status.success() && said(&output).contains("checkpoint"), "{}", said(&output));
    }
}

fn stop(server: Server) {
    assert!(server.terminate());
}
