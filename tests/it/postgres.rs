//! The same program on PostgreSQL, and a server that it refuses.

use std::time::Duration;

use eventlog::testing::Cluster;

use crate::first_minute;
use crate::harness::Installation;

#[tokio::test]
async fn the_first_minute_goes_as_on_sqlite_and_survives_a_kill() {
    let installation = Installation::on_postgres().await;
    let keys = first_minute::walk(&installation).await;
    let server = installation.start();
    server.mail("ann@example.com", "agent@postlog.test", "acknowledged", "x").await;
    server.kill();
    let server = installation.start();
    let mailbox = server.client(&keys.mailbox);
    let list = mailbox.wait_for("/mailbox/messages", |b| b["data"].as_array().unwrap().len() == 4).await;
    assert_eq!(list["data"][0]["subject"], "acknowledged", "{list}");
    assert!(installation.run(&["verify"]).contains("the chain holds"));
}

/// Starts the program and returns what it said when it gave up.
fn refusal(installation: &Installation) -> String {
    let mut child = installation.command(&["serve"]);
    let output = child.output().expect("the program runs");
    assert!(!output.status.success());
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[tokio::test]
async fn a_server_that_can_lose_acknowledged_events_is_refused_at_the_start() {
    // Settings of a whole server, so one of its own.
    for setting in ["fsync=off", "full_page_writes=off", "synchronous_commit=off"] {
        let name = setting.split('=').next().unwrap();
        let cluster = Cluster::start(&[setting]);
        let database = cluster.create_database(None).await;
        let installation = Installation::new().with("DATABASE__URL", &cluster.url(&database));
        let said = refusal(&installation);
        assert!(said.contains("can lose acknowledged events") && said.contains(name), "{setting}: {said}");
        if name == "synchronous_commit" {
            let allowed = installation.with("DATABASE__DANGEROUS_UNSAFE_POSTGRES", "true");
            assert!(allowed.start().terminate(), "allowed by name, it serves");
        }
    }
}

#[tokio::test]
async fn a_server_that_does_not_answer_is_named_without_its_password() {
    let installation = Installation::new().with("DATABASE__URL", "postgres://postlog:hunter2@127.0.0.1:9/nowhere");
    let started = std::time::Instant::now();
    let said = refusal(&installation);
    assert!(said.contains("PostgreSQL") && !said.contains("hunter2"), "{said}");
    assert!(started.elapsed() < Duration::from_secs(20), "it took {:?}", started.elapsed());
}
