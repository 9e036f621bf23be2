//! From commands to rows: what a reader sees after events were appended.
#![expect(clippy::unwrap_used, reason = "tests may fail loudly")]

use std::sync::Arc;
use std::time::Duration;

use domain::testing::{mailbox_id, message_id};
use domain::{Actor, Command};
use eventlog::{Allot, BlobStore, EventLog, MasterKey, MemoryBackend, Options, Outcome, Submission};
use projections::{Page, Runner, Views, messages};
use tokio_util::sync::CancellationToken;

#[tokio::test]
async fn smoke() {
    let allot = Allot::system();
    let options = Options::new(MasterKey::new(&[7; 32]), BlobStore::memory(), allot.entropy());
    let log = EventLog::open(Arc::new(MemoryBackend::default()), options).await.unwrap();
    let views = Views::memory().await.unwrap();
    let stop = CancellationToken::new();
    let runner = Runner::new(log.clone(), views.clone());
    let mut ready = runner.ready();
    let running = tokio::spawn(runner.run(stop.clone()));
    ready.wait_for(|r| *r).await.unwrap();
    let team = domain::testing::team_id();
    async fn go<C: Command>(log: &EventLog, c: C) -> u64 {
        let s = Submission::new(domain::testing::team_id(), 1_700_000_000_000_000, Actor::Operator, "req_1", c);
        match log.transact(s).await.unwrap() {
            Outcome::Done(a) => a.head.position,
            Outcome::Repeated(_) => 0,
        }
    }
    go(&log, domain::team::CreateTeam { name: "a".into(), limits: Default::default() }).await;
    go(
        &log,
        domain::sending_domain::AddVerifiedDomain {
            domain: domain::testing::domain_id(1),
            name: "example.org".into(),
            mode: domain::sending_domain::Mode::SendReceive,
        },
    )
    .await;
    go(
        &log,
        domain::mailbox::OpenMailbox {
            mailbox: mailbox_id(1),
            email: mail::address::Address::parse("box1@example.org").unwrap(),
            display_name: None,
            quota_bytes: 1 << 30,
            send_scope: Default::default(),
            credential: None,
        },
    )
    .await;
    let domain::Event::Message(domain::message::Event::Received(e)) = domain::testing::received(1) else { panic!() };
    let last = go(
        &log,
        domain::message::ReceiveMessage {
            facts: e.facts.clone(),
            personal: e.personal.known().unwrap().clone(),
            mail_from: None,
        },
    )
    .await;
    assert!(
        views.wait_for(&team, last, Duration::from_secs(5)).await,
        "{:?} {:?}",
        views.parked().await,
        views.position(&team).await
    );
    let page = messages::list(&views, &team, &mailbox_id(1), &Default::default(), Default::default(), &Page::first(10))
        .await
        .unwrap();
    assert_eq!(page.rows[0].id, message_id(1));
    println!("{:?}", page.rows);
    println!("{:?}", projections::folders::list(&views, &team, &mailbox_id(1)).await.unwrap());
    println!(
        "{:?}",
        projections::threads::list(&views, &team, &mailbox_id(1), &Default::default(), false, &Page::first(10))
            .await
            .unwrap()
    );
    println!(
        "{:?}",
        projections::audit::list(&views, &team, &Default::default(), &Page::first(10)).await.unwrap().rows.len()
    );
    println!(
        "{:?}",
        projections::inbox_logs::list(&views, &team, &Default::default(), &Page::first(10)).await.unwrap()
    );
    println!(
        "{:?}",
        projections::usage::by_day(&views, &team, &projections::usage::Filter::days(0, 1_000_000), &Page::first(10))
            .await
            .unwrap()
    );
    println!("{:?}", projections::mailboxes::list(&views, &team, &Default::default(), &Page::first(10)).await.unwrap());
    stop.cancel();
    running.await.unwrap().unwrap();
}
