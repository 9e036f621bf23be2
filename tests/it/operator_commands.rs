//! What an operator does from the command line, beside the running server and without it.

use crate::harness::Installation;

#[tokio::test]
async fn a_backup_taken_under_way_is_restored_with_everything_acknowledged_before() {
    let installation = Installation::new();
    let server = installation.start();
    let keys = server.keys.clone().unwrap();
    for n in 0..10 {
        server.mail("ann@example.com", "agent@postlog.test", &format!("mail {n}"), &"x".repeat(n * 12_000)).await;
    }
    let copy = installation.data().with_extension("copy");
    installation.run(&["backup", "--out", copy.to_str().unwrap()]);
    server.mail("ann@example.com", "agent@postlog.test", "after the backup", "x").await;
    server.kill();
    std::fs::rename(installation.data(), installation.data().with_extension("lost")).unwrap();
    installation.run(&["restore", "--from", copy.to_str().unwrap()]);
    for secret in ["master.key", "pepper.key", "checkpoint.key", "welcome.shown"] {
        std::fs::copy(installation.data().with_extension("lost").join(secret), installation.data().join(secret))
            .unwrap();
    }
    assert!(installation.run(&["verify"]).contains("the chain holds"));
    let server = installation.start();
    let mailbox = server.client(&keys.mailbox);
    let list = mailbox.wait_for("/mailbox/messages", |b| b["data"].as_array().unwrap().len() == 10).await;
    let large = list["data"].as_array().unwrap().iter().find(|m| m["subject"] == "mail 9").unwrap();
    let (status, body) = mailbox.get(&format!("/mailbox/messages/{}/body", large["id"].as_str().unwrap())).await;
    assert_eq!(status, 200, "{body}");
    assert!(body["data"]["body"]["text"].as_str().unwrap().len() >= 100_000);
    // New events begin a new epoch: their ids never repeat the ids of what was lost.
    server.mail("ann@example.com", "agent@postlog.test", "a new beginning", "x").await;
    let (_, events) = server.client(&keys.root).get("/events?limit=500").await;
    let ids: Vec<_> = events["data"].as_array().unwrap().iter().map(|e| e["id"].as_str().unwrap()).collect();
    assert!(ids.is_sorted());
}

#[tokio::test]
async fn replay_shows_the_read_models_of_a_past_moment() {
    let installation = Installation::new();
    let server = installation.start();
    let keys = server.keys.clone().unwrap();
    let root = server.client(&keys.root);
    server.mail("ann@example.com", "agent@postlog.test", "one", "x").await;
    let events =
        root.wait_for("/events?event_types=message.received", |b| !b["data"].as_array().unwrap().is_empty()).await;
    let position = events["data"][0]["position"].as_u64().unwrap();
    server.mail("ann@example.com", "agent@postlog.test", "two", "x").await;
    let (_, me) = root.get("/me").await;
    let team = me["data"]["team"]["id"].as_str().unwrap().to_owned();
    let out = installation.data().join("past.db");
    let said = installation.run(&[
        "replay",
        "--team",
        &team,
        "--until",
        &position.to_string(),
        "--out",
        out.to_str().unwrap(),
    ]);
    assert!(said.contains(&format!("position {position}")), "{said}");
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(&out).read_only(true);
    let mut past = <sqlx::SqliteConnection as sqlx::Connection>::connect_with(&options).await.unwrap();
    let subjects: Vec<String> = sqlx::query_scalar("SELECT subject FROM messages").fetch_all(&mut past).await.unwrap();
    assert_eq!(subjects, ["one"]);
}

#[tokio::test]
async fn keys_made_and_revoked_beside_the_server_count_at_once() {
    let installation = Installation::new();
    let server = installation.start();
    let keys = server.keys.clone().unwrap();
    let (_, me) = server.client(&keys.root).get("/me").await;
    let team = me["data"]["team"]["id"].as_str().unwrap().to_owned();
    let made = installation.run(&["keys", "create", "--team", &team, "--name", "ci", "--permission", "webhook.read"]);
    let mut words = made.split_whitespace();
    let (id, secret) = (words.next().unwrap(), words.next().unwrap());
    let client = server.client(secret);
    assert_eq!(client.get("/webhooks").await.0, 200);
    assert_eq!(client.get("/mailboxes").await.0, 403);
    assert!(installation.run(&["keys", "list", "--team", &team]).contains(id));
    installation.run(&["keys", "revoke", "--team", &team, id]);
    let refused = async {
        let mut pace = tokio::time::interval(std::time::Duration::from_millis(50));
        while client.get("/webhooks").await.0 != 401 {
            pace.tick().await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(5), refused).await.expect("a revoked key is refused soon");
}

#[test]
fn a_wrong_configuration_is_refused_with_every_problem_at_once() {
    let installation = Installation::new().with("HTTP__BODY_BYTES_MAXX", "1").with("SERVER__GRACE_SECONDS", "0");
    let output = installation.command(&["config", "check"]).output().unwrap();
    assert!(!output.status.success());
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("http.body_bytes_maxx"), "{said}");
    let printed = Installation::new().run(&["config", "default"]);
    assert!(printed.contains("[server]") && printed.contains("sandbox = true"));
}

#[tokio::test]
async fn a_second_server_on_the_same_directory_is_refused() {
    let installation = Installation::new();
    let _server = installation.start();
    let output = installation.command(&["serve"]).output().unwrap();
    assert!(!output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("another postlog serves"));
}

#[test]
fn a_changed_byte_in_the_log_is_found() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let installation = Installation::new();
    let server = installation.start();
    runtime.block_on(server.mail("ann@example.com", "agent@postlog.test", "one", "x"));
    assert!(server.terminate());
    runtime.block_on(async {
        let options = sqlx::sqlite::SqliteConnectOptions::new().filename(installation.data().join("log.db"));
        let mut log = <sqlx::SqliteConnection as sqlx::Connection>::connect_with(&options).await.unwrap();
        sqlx::query("UPDATE events SET facts = replace(facts, '\"size_bytes\":', '\"size_bytes\":1') WHERE name = 'message.received'")
            .execute(&mut log)
            .await
            .unwrap();
    });
    let output = installation.command(&["verify"]).output().unwrap();
    assert!(!output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("was changed"), "{output:?}");
}

#[tokio::test]
async fn accounts_without_a_password_are_added_by_the_operator() {
    let installation = Installation::new();
    let server = installation.start();
    let root = server.client(&server.keys.clone().unwrap().root);
    let (_, me) = root.get("/me").await;
    let team = me["data"]["team"]["id"].as_str().unwrap().to_owned();
    let add = |kind: &str| {
        let arguments = ["accounts", "add", "--team", &team, "--kind", kind, "--name", "Second", "--managed"];
        let output = installation.command(&arguments).output().unwrap();
        (output.status.success(), String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
    };
    let (ok, said) = add("direct");
    assert!(!ok && said.contains("--kind direct") && said.contains("server.sandbox"), "{said}");
    let (ok, said) = add("sandbox");
    assert!(ok, "{said}");
    let list = installation.run(&["accounts", "list", "--team", &team]);
    assert_eq!(list.lines().count(), 2, "{list}");
    assert!(list.contains("sandbox  active  managed"), "{list}");
    let accounts = root.wait_for("/providers", |b| b["data"].as_array().unwrap().len() == 2).await;
    let managed = accounts["data"].as_array().unwrap().iter().find(|a| a["name"] == "Second").unwrap();
    assert_eq!((&managed["is_shared"], &managed["allowed_actions"]["delete"]), (&true.into(), &false.into()));
}
