//! What becomes of mail.

use domain::outbound::{PostponeReason, Status};
use domain::provider::quota::Range;
use domain::provider::{Provider, Quotas, Transport, Trouble};
use domain::{StreamId, Versioned};

use crate::reactor::eventually;
use crate::server::{End, Manner, Server};
use crate::world::{SECOND, World};

#[tokio::test]
async fn a_mail_leaves_through_an_account_with_its_password() {
    let world = World::new().await;
    let server = Server::start(Manner::default()).await;
    let account = world.account(server.port).await;
    let reactor = world.start();
    let mail = world.accept(&["bob@example.net", "eve@example.net"]).await;
    world.until_status(&mail, &[Status::Sent, Status::Sent]).await;
    let taken = server.taken.lock().unwrap().clone();
    assert_eq!(taken.len(), 1);
    assert_eq!(taken[0].recipients, ["bob@example.net", "eve@example.net"]);
    assert!(taken[0].content.contains("Subject: Hello"));
    eventually("the row is gone", || async { world.queue.waiting(&world.team).await.unwrap() == 0 }).await;
    let said = world.queue.transcripts(&world.team, &mail).await.unwrap();
    assert_eq!((said.len(), &said[0].account), (1, &account));
    assert!(said[0].said.contains("EHLO") && !said[0].said.contains("c2VjcmV0"), "{}", said[0].said);
    world.accept(&["bob@example.net"]).await;
    eventually("the second mail came", || async { server.count() == 2 }).await;
    assert_eq!(*server.connections.lock().unwrap(), 1, "the connection is used again");
    reactor.stop().await;
}

#[tokio::test]
async fn each_recipient_has_an_outcome_of_its_own_and_the_deferred_is_tried_again() {
    let world = World::new().await;
    let rcpt = vec![("bad@", "550 5.1.1 no such user"), ("later@", "451 4.7.1 come again")];
    let server = Server::start(Manner { rcpt, ..Manner::default() }).await;
    world.account(server.port).await;
    let reactor = world.start();
    let mail = world.accept(&["good@example.net", "bad@example.net", "later@example.net"]).await;
    let state = world.until_status(&mail, &[Status::Sent, Status::Rejected, Status::Waiting]).await;
    assert_eq!(state.recipients[2].due_at, world.now() + 60 * SECOND);
    server.behave(Manner::default());
    world.advance(61 * SECOND);
    world.until_status(&mail, &[Status::Sent, Status::Rejected, Status::Sent]).await;
    assert_eq!(server.taken.lock().unwrap()[1].recipients, ["later@example.net"]);
    reactor.stop().await;
}

#[tokio::test]
async fn a_refused_login_breaks_the_account_and_the_mail_takes_the_next() {
    let world = World::new().await;
    let closed = Server::start(Manner { auth: "535 5.7.8 wrong password", ..Manner::default() }).await;
    let open = Server::start(Manner::default()).await;
    let bad = world.account(closed.port).await;
    world.account_of(&world.team, open.port, Quotas::default(), 0).await;
    let reactor = world.start();
    let mail = world.accept(&["bob@example.net"]).await;
    let state = world.until_status(&mail, &[Status::Sent]).await;
    assert!(state.left.contains(&bad));
    let provider: Versioned<Provider> = world.log.state(&world.team, &[StreamId::Provider(bad)]).await.unwrap();
    assert_eq!(provider.trouble, Some(Trouble::LoginRefused));
    assert_eq!((closed.count(), open.count()), (0, 1));
    reactor.stop().await;
}

#[tokio::test]
async fn what_is_lost_after_the_final_dot_is_uncertain_and_never_sent_again() {
    let world = World::new().await;
    let server = Server::start(Manner { end: End::Drop, ..Manner::default() }).await;
    world.account(server.port).await;
    let reactor = world.start();
    let mail = world.accept(&["bob@example.net"]).await;
    let uncertain = |s: &domain::outbound::Outbound| matches!(s.recipients[0].status, Status::Uncertain { .. });
    world.until(&mail, "uncertain", uncertain).await;
    server.behave(Manner::default());
    world.advance(23 * 3_600 * SECOND);
    let other = world.accept(&["eve@example.net"]).await;
    world.until_status(&other, &[Status::Sent]).await;
    assert!(uncertain(&*world.state(&mail).await));
    world.advance(3_601 * SECOND);
    world.until_status(&mail, &[Status::Unknown]).await;
    assert_eq!(server.count(), 2, "once each");
    reactor.stop().await;
}

#[tokio::test]
async fn an_attempt_that_a_crash_cut_off_is_uncertain_after_the_restart() {
    let world = World::new().await;
    let server = Server::start(Manner { end: End::Hang, ..Manner::default() }).await;
    world.account(server.port).await;
    let reactor = world.start();
    let mail = world.accept(&["bob@example.net"]).await;
    eventually("the mail is handed over", || async { server.count() == 1 }).await;
    reactor.crash().await;
    server.behave(Manner::default());
    let reactor = world.start();
    let uncertain = |s: &domain::outbound::Outbound| matches!(s.recipients[0].status, Status::Uncertain { .. });
    world.until(&mail, "uncertain", uncertain).await;
    assert_eq!(server.count(), 1);
    reactor.stop().await;
}

#[tokio::test]
async fn a_mail_over_the_quota_waits_with_a_reason_and_goes_when_there_is_room() {
    let world = World::new().await;
    let server = Server::start(Manner::default()).await;
    let quotas = Quotas { per_hour: Some(Range::exactly(1)), ..Quotas::default() };
    world.account_of(&world.team, server.port, quotas, 100).await;
    let reactor = world.start();
    let first = world.accept(&["bob@example.net"]).await;
    world.until_status(&first, &[Status::Sent]).await;
    let second = world.accept(&["eve@example.net"]).await;
    let state = world.until(&second, "postponed", |s| s.postponed.is_some()).await;
    assert_eq!(state.postponed.unwrap().0, PostponeReason::QuotaReached);
    world.advance(3_600 * SECOND);
    world.until_status(&second, &[Status::Sent]).await;
    reactor.stop().await;
}

#[tokio::test]
async fn two_nodes_send_each_mail_once() {
    let world = World::new().await;
    let server = Server::start(Manner::default()).await;
    world.account(server.port).await;
    let (one, two) = (world.start_as("one"), world.start_as("two"));
    let mut mails = vec![];
    for n in 0..30 {
        mails.push(world.accept(&[&format!("r{n}@example.net")]).await);
    }
    for mail in &mails {
        world.until_status(mail, &[Status::Sent]).await;
    }
    assert_eq!(server.count(), 30);
    one.stop().await;
    two.stop().await;
}

#[tokio::test]
async fn a_team_with_a_hanging_server_does_not_hold_up_another() {
    let mut world = World::new().await;
    (world.config.concurrency_per_team_max, world.config.concurrency_max) = (2, 4);
    let dead = Server::start(Manner { end: End::Hang, ..Manner::default() }).await;
    let alive = Server::start(Manner::default()).await;
    world.account(dead.port).await;
    for n in 0..20 {
        world.accept(&[&format!("r{n}@example.net")]).await;
    }
    world.config.drain_seconds = 0;
    let reactor = world.start();
    eventually("the bound is reached", || async { dead.count() == 2 }).await;
    let other = domain::id::TeamId::new(world.now(), [9; 9]);
    world.create_team(&other).await;
    world.account_of(&other, alive.port, Quotas::default(), 100).await;
    let mail = world.accept_of(&other, &["bob@example.net"], None).await;
    eventually("the other team's mail is sent", || async {
        world.state_of(&other, &mail).await.recipients[0].status == Status::Sent
    })
    .await;
    assert_eq!(dead.count(), 2);
    reactor.stop().await;
}

#[tokio::test]
async fn a_mail_waits_for_its_time() {
    let world = World::new().await;
    let server = Server::start(Manner::default()).await;
    world.account(server.port).await;
    let reactor = world.start();
    let later = world.accept_of(&world.team, &["late@example.net"], Some(world.now() + 600 * SECOND)).await;
    let now = world.accept(&["bob@example.net"]).await;
    world.until_status(&now, &[Status::Sent]).await;
    assert_eq!(world.state(&later).await.attempts, 0);
    world.advance(601 * SECOND);
    world.until_status(&later, &[Status::Sent]).await;
    reactor.stop().await;
}

#[tokio::test]
async fn the_simulator_plays_every_outcome() {
    let world = World::new().await;
    world.account_by(&world.team, Transport::Sandbox, Quotas::default(), 100).await;
    let reactor = world.start();
    let to = |name: &str| format!("{name}@simulator.postlog.test");
    let names = ["delivered+x", "bounce.hard", "bounce.soft", "bounce.async", "complaint", "suppressed", "defer"];
    let all: Vec<_> = names.iter().map(|name| to(name)).collect();
    let all: Vec<&str> = all.iter().map(String::as_str).collect();
    let mail = world.accept(&all).await;
    use Status::{Bounced, Delivered, Rejected, Waiting};
    let state = world.until_status(&mail, &[Delivered, Bounced, Bounced, Bounced, Delivered, Rejected, Waiting]).await;
    world.until(&mail, "complained", |s| s.recipients[4].complained).await;
    assert_eq!(state.attempts, 1);
    world.advance(61 * SECOND);
    world.until(&mail, "the deferred is delivered", |s| s.recipients[6].status == Delivered).await;
    reactor.stop().await;
}

#[tokio::test]
async fn mail_goes_straight_to_the_exchanger_of_each_domain() {
    let mut world = World::new().await;
    let server = Server::start(Manner { rcpt: vec![("bad@", "550 5.1.1 no such user")], ..Manner::default() }).await;
    world.config.direct_port = server.port;
    world.zone = mail::auth::Zone::default()
        .with_mx("example.net", 10, "mx.example.net")
        .with_address("mx.example.net", std::net::Ipv4Addr::LOCALHOST.into())
        .with_mx("null.example", 0, "");
    world.account_by(&world.team, Transport::DirectMx, Quotas::default(), 100).await;
    let reactor = world.start();
    let mail = world.accept(&["bob@example.net", "bad@example.net", "x@null.example", "y@nowhere.example"]).await;
    use Status::{Bounced, Delivered};
    world.until_status(&mail, &[Delivered, Bounced, Bounced, Bounced]).await;
    reactor.stop().await;
}
