//! Older databases are opened and brought up to date; nodes are replaced one after another under load; a newer database is
//! refused, and a node that runs beside a newer one goes on.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use domain::id::TeamId;
use eventlog::postgres::{Config, PostgresBackend};
use eventlog::{Backend as _, Batch, StoredRecord, chain};
use serde_json::{Value, json};
use sqlx::migrate::Migrator;
use sqlx::{AssertSqlSafe, Connection as _, PgConnection, Row as _, SqliteConnection};

use crate::harness::{Client, Installation, Server, report};
use crate::manual::{block, commands};
use crate::stream_client::Stream;

static SQLITE: Migrator = sqlx::migrate!("eventlog/migrations/sqlite");
static POSTGRES: Migrator = sqlx::migrate!("eventlog/migrations/postgres");

/// Returns the first migrations of a list, as an older program knew them.
fn first(all: &Migrator, count: usize) -> Migrator {
    Migrator { migrations: Cow::Owned(all.iter().take(count).cloned().collect()), ..Migrator::DEFAULT }
}

/// A log that was written by the program of version 0.1.0, with its secret files.
fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/0.1.0")
}

const SECRETS: [&str; 5] = ["master.key", "pepper.key", "checkpoint.key", "root.key", "mailbox.key"];

async fn sqlite(path: &Path) -> SqliteConnection {
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(path).create_if_missing(true);
    SqliteConnection::connect_with(&options).await.unwrap()
}

/// Returns SQL for a value as it stands in a statement of one line.
fn in_one_line(column: &str) -> String {
    let coded = format!("'CAST(x''' || hex({column}) || ''' AS TEXT)'");
    format!("CASE WHEN instr({column}, char(10)) > 0 THEN {coded} ELSE quote({column}) END")
}

/// Writes the golden log anew: `POSTLOG_TEST_WRITE_GOLDEN=true`, for the version that is about to be released.
async fn write_golden() {
    let installation = Installation::new();
    let keys = crate::first_minute::walk(&installation).await;
    let server = installation.start();
    let (root, mailbox) = (server.client(&keys.root), server.client(&keys.mailbox));
    let mail = json!({
        "from": {"email": "agent@postlog.test"}, "to": {"email": "bounce.hard@simulator.postlog.test"},
        "subject": "Sent long ago", "text_body": "x",
    });
    assert_eq!(mailbox.post("/emails/send", mail).await.0, 200);
    assert_eq!(root.post("/suppressions", json!({"email": "bob@example.com", "note": "asked"})).await.0, 201);
    root.wait_for("/suppressions", |body| body["data"].as_array().unwrap().len() == 2).await;
    let team = root.get("/me").await.1["data"]["team"]["id"].as_str().unwrap().to_owned();
    installation.run(&["checkpoint", "sign", "--team", &team]);
    assert!(server.terminate());
    std::fs::create_dir_all(golden()).unwrap();
    for file in ["master.key", "pepper.key", "checkpoint.key"] {
        std::fs::copy(installation.data().join(file), golden().join(file)).unwrap();
    }
    std::fs::write(golden().join("root.key"), &keys.root).unwrap();
    std::fs::write(golden().join("mailbox.key"), &keys.mailbox).unwrap();
    let mut log = sqlite(&installation.data().join("log.db")).await;
    let mut lines = String::new();
    let tables: Vec<String> = sqlx::query_scalar(
        "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE '\\_%' ESCAPE '\\' AND name <> 'installation'
         AND name NOT LIKE 'sqlite%' ORDER BY name",
    )
    .fetch_all(&mut log)
    .await
    .unwrap();
    for table in tables {
        let sql = format!("SELECT name FROM pragma_table_info('{table}') ORDER BY cid");
        let columns: Vec<String> = sqlx::query_scalar(AssertSqlSafe(sql)).fetch_all(&mut log).await.unwrap();
        let quoted: Vec<_> = columns.iter().map(|column| in_one_line(column)).collect();
        let sql = format!("SELECT {} FROM {table}", quoted.join(" || ', ' || "));
        for row in sqlx::query(AssertSqlSafe(sql)).fetch_all(&mut log).await.unwrap() {
            let values: String = row.get(0);
            assert!(!values.contains('\n'), "one line each");
            lines.push_str(&format!("INSERT INTO {table} ({}) VALUES ({values});\n", columns.join(", ")));
        }
    }
    std::fs::write(golden().join("log.sql"), lines).unwrap();
}

/// Makes a data directory as a program left it that knew the first migrations only.
async fn old_installation(migrations: usize) -> Installation {
    let installation = Installation::new();
    std::fs::create_dir_all(installation.data()).unwrap();
    for file in &SECRETS[..3] {
        std::fs::copy(golden().join(file), installation.data().join(file)).unwrap();
    }
    std::fs::write(installation.data().join("welcome.shown"), "").unwrap();
    let mut log = sqlite(&installation.data().join("log.db")).await;
    first(&SQLITE, migrations).run_direct(None, &mut log, false).await.unwrap();
    let tables: Vec<String> =
        sqlx::query_scalar("SELECT name FROM sqlite_schema WHERE type = 'table'").fetch_all(&mut log).await.unwrap();
    for line in std::fs::read_to_string(golden().join("log.sql")).unwrap().lines() {
        let table = line.strip_prefix("INSERT INTO ").and_then(|rest| rest.split(' ').next()).unwrap();
        if tables.iter().any(|known| known == table) {
            sqlx::query(AssertSqlSafe(line.to_owned())).execute(&mut log).await.unwrap();
        }
    }
    log.close().await.unwrap();
    installation
}

#[tokio::test]
async fn a_log_of_each_earlier_shape_is_opened_and_goes_on() {
    if std::env::var("POSTLOG_TEST_WRITE_GOLDEN").is_ok() {
        write_golden().await;
    }
    let key = |file: &str| std::fs::read_to_string(golden().join(file)).unwrap();
    for migrations in 1..=SQLITE.iter().count() {
        let installation = old_installation(migrations).await;
        assert!(installation.run(&["verify"]).contains("the chain holds"), "shape {migrations}");
        let server = installation.start();
        let (root, mailbox) = (server.client(&key("root.key")), server.client(&key("mailbox.key")));
        let list =
            mailbox.wait_for("/mailbox/messages?folder_id=inbox", |b| b["data"].as_array().unwrap().len() >= 3).await;
        assert!(list.to_string().contains("Hello"), "{list}");
        let suppressed = root.get("/suppressions").await.1;
        assert!(suppressed.to_string().contains("bob@example.com"), "{suppressed}");
        let (_, sent) = root.get("/emails/logs").await;
        assert!(sent.to_string().contains("Sent long ago"), "{sent}");
        let mut stream = Stream::open(&mailbox, "/mailbox/events", None).await;
        server.mail("ann@example.com", "agent@postlog.test", "after the upgrade", "x").await;
        assert_eq!(stream.next().await.data["message"]["subject"], "after the upgrade");
        assert!(server.terminate());
        assert!(installation.run(&["verify"]).contains("the chain holds"), "shape {migrations}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_newer_database_is_refused_and_named_on_both_stores() {
    let refusal = |installation: &Installation, command: &str| {
        let output = installation.command(&[command]).output().unwrap();
        assert!(!output.status.success());
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let installation = Installation::new();
    assert!(installation.start().terminate());
    let mut log = sqlite(&installation.data().join("log.db")).await;
    let newer = "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time)
                 VALUES (9001, 'of the future', true, x'00', 0)";
    sqlx::query(newer).execute(&mut log).await.unwrap();
    log.close().await.unwrap();
    for command in ["serve", "verify"] {
        let said = refusal(&installation, command);
        assert!(said.contains("was written by a newer postlog") && said.contains("9001"), "{said}");
    }
    // On PostgreSQL a node that runs goes on beside the newer one.
    let installation = Installation::on_postgres().await;
    let server = installation.start();
    beside_a_newer_node(&installation, &server).await;
    for command in ["serve", "verify"] {
        let said = refusal(&installation.another_node(), command);
        assert!(said.contains("was written by a newer postlog") && said.contains("9001"), "{said}");
    }
    assert!(server.terminate());
}

/// What a newer node does: it widens the tables and writes events of a kind that nobody here knows.
async fn beside_a_newer_node(installation: &Installation, server: &Server) {
    let keys = server.keys.clone().unwrap();
    let (root, mailbox) = (server.client(&keys.root), server.client(&keys.mailbox));
    let mut stream = Stream::open(&mailbox, "/mailbox/events", None).await;
    server.mail("ann@example.com", "agent@postlog.test", "before", "x").await;
    assert_eq!(stream.next().await.data["message"]["subject"], "before");
    let team: TeamId = root.get("/me").await.1["data"]["team"]["id"].as_str().unwrap().parse().unwrap();
    let newer = PostgresBackend::open(&Config::new(installation.database())).await.unwrap();
    unknown_event(&newer, &team).await;
    let mut database = PgConnection::connect(installation.database()).await.unwrap();
    for sql in [
        "ALTER TABLE log.events ADD COLUMN region TEXT",
        "ALTER TABLE log.heads ADD COLUMN cell BIGINT NOT NULL DEFAULT 0",
        "CREATE TABLE log.of_the_future (team_id TEXT NOT NULL PRIMARY KEY)",
        "INSERT INTO log.migrations (version, description, success, checksum, execution_time)
         VALUES (9001, 'of the future', true, '\\x00', 0)",
    ] {
        sqlx::query(sql).execute(&mut database).await.unwrap();
    }
    for n in 0..5 {
        server.mail("ann@example.com", "agent@postlog.test", &format!("beside {n}"), "x").await;
        assert_eq!(
            stream.next().await.data["message"]["subject"],
            format!("beside {n}"),
            "the unknown event is passed by"
        );
    }
    mailbox.wait_for("/mailbox/messages", |body| body["data"].as_array().unwrap().len() == 6).await;
    let (_, verified) = root.get("/audit/verify").await;
    assert_eq!(verified["data"]["ok"], true, "{verified}");
    let kept: i64 = sqlx::query_scalar("SELECT COUNT(*) FROM log.events WHERE name = 'mailbox.painted'")
        .fetch_one(&mut database)
        .await
        .unwrap();
    assert_eq!(kept, 1, "it is carried along");
}

async fn unknown_event(backend: &PostgresBackend, team: &TeamId) {
    let (_, mut head) = backend.heads(std::slice::from_ref(team)).await.unwrap()[0];
    let before = head.hash;
    head.position += 1;
    let mut record = StoredRecord {
        team: team.clone(),
        position: head.position,
        epoch: head.epoch,
        stream: "easel/1".into(),
        stream_version: 1,
        name: "mailbox.painted".into(),
        version: 3,
        facts: "{\"colour\":\"blue\"}".into(),
        personal_digest: None,
        personal: None,
        actor: "system".into(),
        causation: None,
        correlation: "req_of_the_future".into(),
        at: 1,
        hash: [0; 32],
    };
    record.hash = chain::hash(&before, &record);
    head.hash = record.hash;
    let batch = Batch { heads: vec![(team.clone(), head)], records: vec![record], at: 1, ..Batch::default() };
    backend.append(&batch).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_that_start_on_older_tables_at_once_bring_them_up_to_date_once() {
    for migrations in 1..POSTGRES.iter().count() {
        let installation = Installation::on_postgres().await;
        let mut database = PgConnection::connect(installation.database()).await.unwrap();
        let mut older = first(&POSTGRES, migrations);
        older.create_schema("log");
        older.dangerous_set_table_name("log.migrations");
        older.run_direct(None, &mut database, false).await.unwrap();
        database.close().await.unwrap();
        // The keys are made by a command that is refused for another reason.
        let _ = installation.command(&["verify", "--team", "nobody"]).output().unwrap();
        assert!(installation.run(&["verify"]).contains("the chain holds"));
        let server = installation.start();
        let other = installation.another_node().start();
        let keys = server.keys.clone().unwrap();
        other.mail("ann@example.com", "agent@postlog.test", "one", "x").await;
        let mailbox = server.client(&keys.mailbox);
        mailbox.wait_for("/mailbox/messages", |body| body["data"].as_array().unwrap().len() == 1).await;
        assert!(server.terminate() && other.terminate());
    }
}

/// What clients heard while nodes were replaced.
#[derive(Default)]
struct Heard {
    /// Idempotency key to the answered id.
    sends: Mutex<BTreeMap<String, String>>,
    /// Requests that met a node which was going or gone.
    elsewhere: AtomicU64,
    stop: AtomicBool,
}

/// Sends mails one after another, each at whichever node answers. Anything but success or a closed door fails the story.
async fn send_on(worker: usize, nodes: Arc<Mutex<Vec<Client>>>, heard: Arc<Heard>) {
    for n in 0.. {
        if heard.stop.load(Ordering::SeqCst) {
            return;
        }
        let key = format!("{worker}-{n}");
        let mail = json!({
            "from": {"email": "agent@postlog.test"}, "to": {"email": "delivered@simulator.postlog.test"},
            "subject": key, "text_body": "x",
        });
        for turn in worker + n.. {
            let node = {
                let nodes = nodes.lock().unwrap();
                nodes[turn % nodes.len()].clone()
            };
            let request =
                node.request(reqwest::Method::POST, "/emails/send").header("idempotency-key", &key).json(&mail);
            let answered = async {
                let response = request.send().await.ok()?;
                let status = response.status().as_u16();
                let body: Value = response.json().await.ok()?;
                assert_eq!(status, 200, "a request that is answered is answered well: {body}");
                Some(body["data"]["message_id"].as_str().unwrap().to_owned())
            };
            if let Some(id) = answered.await {
                heard.sends.lock().unwrap().insert(key, id);
                break;
            }
            heard.elsewhere.fetch_add(1, Ordering::SeqCst);
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    }
}

/// Ends a node by the command of the manual and waits for it.
fn stop(mut server: Server) {
    let script = block("## Rolling an upgrade", 0);
    let status = std::process::Command::new("sh").args(["-ec", script]).env("NODE", server.pid().to_string()).status();
    assert!(status.unwrap().success());
    let ended = server.wait(crate::harness::PATIENCE).expect("it ends in time");
    assert!(ended.success(), "it has finished what it had begun: {ended}");
}

/// Starts a node by the commands of the manual and waits until it is ready.
fn start(installation: &Installation) -> Server {
    let text = block("## Rolling an upgrade", 1);
    assert_eq!(commands(text), [["&"]], "it is started as always");
    let server = installation.start();
    let ready =
        text.lines().find(|line| line.starts_with("curl")).unwrap().replace("http://127.0.0.1:8080", &server.http);
    let status = std::process::Command::new("sh").args(["-ec", &ready]).stdout(std::process::Stdio::null()).status();
    assert!(status.unwrap().success());
    server
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_are_replaced_one_after_another_and_nobody_loses_anything() {
    let installation = Installation::on_postgres().await.with("HTTP__RATE_LIMITS__MAILBOX_REQUESTS", "1000000");
    let server = installation.start();
    let keys = server.keys.clone().unwrap();
    let other = installation.another_node();
    let (mut a, mut b) = (server, other.start());
    let client = |server: &Server| server.client(&keys.mailbox);
    let nodes = Arc::new(Mutex::new(vec![client(&a), client(&b)]));
    let heard = Arc::new(Heard::default());
    let mut work = tokio::task::JoinSet::new();
    for worker in 0..3 {
        work.spawn(send_on(worker, Arc::clone(&nodes), Arc::clone(&heard)));
    }
    let more = async |count: usize| {
        let enough = heard.sends.lock().unwrap().len() + count;
        let mut pace = tokio::time::interval(std::time::Duration::from_millis(5));
        while heard.sends.lock().unwrap().len() < enough {
            pace.tick().await;
        }
    };
    for _ in 0..2 {
        more(20).await;
        a = tokio::task::block_in_place(|| {
            stop(a);
            start(&installation)
        });
        nodes.lock().unwrap()[0] = client(&a);
        more(20).await;
        b = tokio::task::block_in_place(|| {
            stop(b);
            start(&other)
        });
        nodes.lock().unwrap()[1] = client(&b);
    }
    more(20).await;
    heard.stop.store(true, Ordering::SeqCst);
    work.join_all().await;
    let mut database = PgConnection::connect(installation.database()).await.unwrap();
    let mut accepted: Vec<String> =
        sqlx::query_scalar("SELECT stream FROM log.events WHERE name = 'outbound.accepted'")
            .fetch_all(&mut database)
            .await
            .unwrap();
    let mut answered: Vec<String> = heard.sends.lock().unwrap().values().map(|id| format!("outbound/{id}")).collect();
    accepted.sort();
    answered.sort();
    assert_eq!(accepted, answered, "each key has one effect, and nothing else is there");
    assert!(installation.run(&["verify"]).contains("the chain holds"));
    report(format_args!(
        "two nodes replaced twice each under load: {} mails acknowledged, lost 0, doubled 0, no answer but success; {} requests \
         met a node that was going and went to the other",
        answered.len(),
        heard.elsewhere.load(Ordering::SeqCst),
    ));
}
