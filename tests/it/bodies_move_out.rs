//! Bodies leave the database for the object store, a directory or a bucket, while everyone goes on reading them.

use eventlog::testing::S3;
use sqlx::Connection as _;

use crate::harness::Installation;

/// Returns how many bodies the log of an installation holds inline.
async fn inline(installation: &Installation) -> i64 {
    let options =
        sqlx::sqlite::SqliteConnectOptions::new().filename(installation.data().join("log.db")).read_only(true);
    let mut log = sqlx::SqliteConnection::connect_with(&options).await.unwrap();
    let count = sqlx::query_scalar("SELECT COUNT(*) FROM blobs WHERE bytes IS NOT NULL").fetch_one(&mut log).await;
    log.close().await.unwrap();
    count.unwrap()
}

/// Mails small and large, waits until none of them is inline, and reads them all, also after a kill.
async fn moved_and_read(installation: &Installation) {
    let server = installation.start();
    let keys = server.keys.clone().unwrap();
    let subjects = ["small", "empty", "large"];
    for (subject, size) in subjects.into_iter().zip([500, 0, 100_000]) {
        let body = format!("{}\r\n", "x".repeat(69)).repeat(size / 71);
        server.mail("ann@example.com", "agent@postlog.test", subject, &body).await;
    }
    let mailbox = server.client(&keys.mailbox);
    let list = mailbox.wait_for("/mailbox/messages", |b| b["data"].as_array().unwrap().len() == 3).await;
    let deadline = std::time::Instant::now() + crate::harness::PATIENCE;
    let mut pace = tokio::time::interval(std::time::Duration::from_millis(100));
    while inline(installation).await > 0 {
        pace.tick().await;
        assert!(std::time::Instant::now() < deadline, "{} bodies stay inline", inline(installation).await);
    }
    let read = async |server: &crate::harness::Server| {
        for message in list["data"].as_array().unwrap() {
            let path = format!("/mailbox/messages/{}/body", message["id"].as_str().unwrap());
            let (status, body) = server.client(&keys.mailbox).get(&path).await;
            assert_eq!(status, 200, "{body}");
            let large = message["subject"] == "large";
            assert_eq!(body["data"]["body"]["text"].as_str().is_some_and(|text| text.len() > 90_000), large, "{body}");
        }
    };
    read(&server).await;
    server.kill();
    let server = installation.start();
    read(&server).await;
    assert!(server.terminate());
    assert!(installation.run(&["verify"]).contains("the chain holds"));
}

fn eager(installation: Installation) -> Installation {
    installation.with("BLOBS__MOVE_AFTER_SECONDS", "1").with("BLOBS__MOVE_LOOK_SECONDS", "1")
}

#[tokio::test]
async fn old_bodies_move_into_a_directory() {
    let installation = eager(Installation::new());
    moved_and_read(&installation).await;
}

#[tokio::test]
async fn old_bodies_move_into_a_bucket() {
    let bucket = S3::start(false).await;
    let location = format!("s3://{}/some/prefix", S3::BUCKET);
    let installation = eager(Installation::new()).with("BLOBS__LOCATION", &location).with_variables(bucket.variables());
    moved_and_read(&installation).await;
    assert!(bucket.objects().await >= 3);
    assert!(!installation.data().join("blobs").exists(), "nothing is kept beside the bucket");
}

#[tokio::test]
async fn a_server_whose_bucket_cannot_be_used_does_not_start_and_says_why() {
    let bucket = S3::start(true).await;
    let location = format!("s3://{}/x", S3::BUCKET);
    let installation = Installation::new().with("BLOBS__LOCATION", &location).with_variables(bucket.variables());
    let output = installation.command(&["serve"]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains("blobs.location"), "{said}");
    assert!(said.contains("InvalidAccessKeyId") || said.contains("403"), "{said}");
}
