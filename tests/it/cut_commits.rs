//! Connections to the database are cut around commits: whatever became of a request, repeating it with its key has one effect.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use sqlx::{Connection as _, PgConnection};

use crate::harness::{Installation, PATIENCE, report};
use crate::proxy::{Cut, Proxy};

/// How many connections are cut; `POSTLOG_TEST_CUTS` sets another number.
fn cuts() -> usize {
    std::env::var("POSTLOG_TEST_CUTS").ok().and_then(|n| n.parse().ok()).unwrap_or(200)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_whose_commit_was_cut_has_one_effect_when_it_is_repeated() {
    let direct = Installation::on_postgres().await;
    let database = direct.database().to_owned();
    let proxy = Proxy::start(direct.socket()).await;
    let installation = direct
        .with("DATABASE__URL", &proxy.url(database.rsplit('/').next().unwrap()))
        .with("HTTP__RATE_LIMITS__MAILBOX_REQUESTS", "1000000");
    let server = installation.start();
    let client = server.client(&server.keys.clone().unwrap().mailbox);
    let (mut ids, mut unknown) = (BTreeSet::new(), 0);
    let kinds = [Cut::Before, Cut::Within, Cut::Behind, Cut::Answered];
    for n in 0..cuts() {
        let key = format!("key-{n}-end");
        // Event and key come together in the statement of the append alone.
        proxy.cut_once(&["outbound.accepted", &key], kinds[n % kinds.len()]);
        let mail = json!({
            "from": {"email": "agent@postlog.test"}, "to": {"email": "delivered@simulator.postlog.test"},
            "subject": key, "text_body": "x",
        });
        let began = Instant::now();
        let id = loop {
            let request =
                client.request(reqwest::Method::POST, "/emails/send").header("idempotency-key", &key).json(&mail);
            let response = request.send().await.expect("the program answers");
            let status = response.status().as_u16();
            let body: Value = response.json().await.expect("JSON");
            match status {
                200 => break body["data"]["message_id"].as_str().unwrap().to_owned(),
                503 => unknown += 1,
                _ => panic!("{status}: {body}"),
            }
            assert!(began.elapsed() < PATIENCE, "{key} is never answered");
            tokio::time::sleep(Duration::from_millis(5)).await;
        };
        assert!(ids.insert(id), "{key} was answered with the id of another");
    }
    let cut = usize::try_from(proxy.cut_so_far()).unwrap();
    let mut connection = PgConnection::connect(&database).await.unwrap();
    let accepted: i64 = sqlx::query_scalar("SELECT COUNT(*) FROM log.events WHERE name = 'outbound.accepted'")
        .fetch_one(&mut connection)
        .await
        .unwrap();
    connection.close().await.unwrap();
    assert_eq!(usize::try_from(accepted).unwrap(), cuts(), "each key has exactly one effect");
    assert_eq!(cut, cuts(), "every request was cut once");
    assert!(unknown > 0, "somebody noticed");
    assert!(installation.run(&["verify"]).contains("the chain holds"));
    report(format_args!(
        "{cut} connections cut around commits: {unknown} requests were answered 503, {accepted} keys, each with one effect"
    ));
}
