//! One installation on two databases, and a team that moves while it is used.

use std::collections::BTreeSet;

use eventlog::testing::Cluster;
use sqlx::{Connection as _, PgConnection};

use crate::harness::Installation;
use crate::stream_client::Stream;

#[tokio::test]
async fn a_team_moves_while_mail_comes_in_and_its_stream_goes_on() {
    let cluster = Cluster::shared();
    let (home, away) = (cluster.create_database(None).await, cluster.create_database(None).await);
    let cells = format!("[{{name = \"b\", url = \"{}\"}}]", cluster.url(&away));
    let installation = Installation::new().with("DATABASE__URL", &cluster.url(&home)).with("DATABASE__CELLS", &cells);
    let server = installation.start();
    let keys = server.keys.clone().unwrap();
    let (root, mailbox) = (server.client(&keys.root), server.client(&keys.mailbox));
    let (_, me) = root.get("/me").await;
    let team = me["data"]["team"]["id"].as_str().unwrap().to_owned();
    let mut stream = Stream::open(&mailbox, "/mailbox/events", None).await;
    server.mail("ann@example.com", "agent@postlog.test", "before", "x").await;
    let mut seen = vec![stream.next().await.id];

    let mut moving = installation.command(&["teams", "move", &team, "b"]);
    let moving = tokio::task::spawn_blocking(move || moving.output().unwrap());
    let mut sent = 0;
    while !moving.is_finished() {
        // While the head is frozen a mail is refused for now, as a sender would then try again.
        let subject = format!("mail {sent}");
        let mail = crate::smtp_client::send(&server.smtp, "ann@example.com", &["agent@postlog.test"], &subject, "x");
        sent += usize::from(mail.await.is_ok_and(|answer| answer.starts_with("250")));
    }
    let moved = moving.await.unwrap();
    let said = String::from_utf8_lossy(&moved.stdout).into_owned();
    assert!(moved.status.success() && said.contains("lives in b"), "{said} {}", String::from_utf8_lossy(&moved.stderr));
    server.mail("ann@example.com", "agent@postlog.test", "after", "x").await;
    for _ in 0..sent + 1 {
        seen.push(stream.next().await.id);
    }
    assert_eq!(seen.iter().collect::<BTreeSet<_>>().len(), seen.len(), "nothing comes twice");
    assert!(seen.is_sorted());
    let page = format!("/mailbox/messages?limit={}", (sent + 2).min(100));
    mailbox.wait_for(&page, |list| list["data"].as_array().unwrap().len() == (sent + 2).min(100)).await;
    // A stream that was cut off before resumes behind it.
    let mut resumed = Stream::open(&mailbox, "/mailbox/events", Some(&seen[0])).await;
    assert_eq!(resumed.next().await.id, seen[1]);

    let count = async |database: &str| -> i64 {
        let mut connection = PgConnection::connect(&cluster.url(database)).await.unwrap();
        let count = sqlx::query_scalar("SELECT COUNT(*) FROM log.events WHERE team_id = $1").bind(&team);
        count.fetch_one(&mut connection).await.unwrap()
    };
    assert_eq!(count(&home).await, 0);
    assert!(count(&away).await > 0);
    assert!(installation.run(&["verify"]).contains("the chain holds"));
    server.kill();
    let server = installation.start();
    server.mail("ann@example.com", "agent@postlog.test", "after a restart", "x").await;
}
